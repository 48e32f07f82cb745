//! The one room of the daemon with `unsafe` in it: mapped maps, scheduling, the clock.
//!
//! Each thing here has a safe face; the rest of the daemon forbids `unsafe`.
#![allow(unsafe_code, reason = "this is the room for it")]

pub mod clock;
pub mod mapped;
pub mod packet;
pub mod pod;
pub mod realtime;
pub mod resident;
pub mod socket;
