//! What the kernel programs and user space must agree on, by construction: both compile this crate.
//!
//! The rules of the heartbeat plane are here as plain functions over plain values (is this frame fresh, is this peer
//! late, what does an answer carry); the kernel program runs them under its locks, the plain-socket path runs them in
//! user space, tests and the simulator run them with no kernel at all. Deliberately not there: I/O, clocks, pointers,
//! allocation.
#![no_std]
#![forbid(unsafe_code)]

pub mod clock;
pub mod compose;
pub mod drops;
pub mod event;
pub mod frame;
pub mod histogram;
pub mod lease;
pub mod limits;
pub mod maps;
pub mod siphash;
pub mod slot;
pub mod view;
pub mod watch;
