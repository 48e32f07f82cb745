//! The protocol of Ringbeat as pure state machines: inputs and the time go in, outputs come out.
//!
//! **The contract of the driver, for every machine in this crate:** hand over one input with `handle(input, now_ns)`,
//! then take `poll_output()` until it gives `None`; hand over everything that is waiting, and then, if
//! `next_timeout()` is not after `now_ns`, `Input::Timeout`; then sleep until something comes or until
//! `next_timeout()`. Nothing else is asked, and no other order is needed.
//!
//! * Times are ns of `CLOCK_BOOTTIME`, the clock of the kernel's stamps. `now_ns` never goes back.
//! * A timer fires on `Input::Timeout` only. A driver that woke up late finds older news in its queues, and the news
//!   come first: what has recovered in the meantime is not told as lost.
//! * The same inputs at the same times give the same outputs, on any machine: [`record`] writes them down as text and
//!   [`record::Replay`] runs them again.
//!
//! | machine | in | out |
//! |---|---|---|
//! | [`detector::Detector`] | the kernel's cell events, own carrier, accepted incarnations | what is told of peers and links |
//! | [`handshake::Handshake`] | frames of user space, nonces | frames, accepted incarnations, duplicates |
//! | [`membership::Membership`] | the own row, messages, epochs on disk | views to announce and install, messages |
//!
//! Deliberately not here: clocks, randomness, sockets, files, threads, logging, tables without order. This crate's
//! clippy.toml forbids them. No resources either: these machines say what was seen and who is in; the next ones decide what runs where.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod cpg;
pub mod detector;
pub mod handshake;
pub mod limits;
pub mod membership;
#[doc(hidden)]
pub mod mutation;
pub mod record;
pub mod srp;
mod timers;
pub mod told;
