//! The Ringbeat daemon: the shell around the pure core.
//!
//! The way through: the plane (kernel or sockets) gives events, `runtime` feeds them to the machines of
//! `ringbeat-core` and carries out what they say, `journal` tells it, `control` answers who asks. Everything that can
//! fail in a new place is tried in `start`, before the plane opens. Deliberately not there: any rule of the protocol.
#![deny(unsafe_code)]

pub mod address;
pub mod agreed;
pub mod carrier;
pub mod command;
pub mod control;
pub mod electorate;
pub mod exit;
pub mod incarnation;
pub mod journal;
pub mod keys;
pub mod plane;
pub mod probe;
pub mod report;
pub mod reserve;
pub mod ring;
pub mod runtime;
pub mod sockets;
pub mod start;
pub mod stop;
pub mod sys;
