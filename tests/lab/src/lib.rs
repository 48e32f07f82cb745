//! Real nodes on one machine: namespaces, links and faults, for tests, benches and the demo.
//!
//! A lab is a set of processes that each hold a network, mount, UTS and PID namespace of their own: one for
//! each node, one for the switch that joins them, and one for a client of the service network. [`Lab::up`]
//! builds it, a [`Node`] runs daemons and commands inside, and [`Lab::cut`] and its like are the faults, each
//! stamped with the boot-time clock right before it is done.
//!
//! ```no_run
//! use ringbeat_lab::{Cut, Lab, LabSpec};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::up(LabSpec { name: "mine".into(), ..LabSpec::default() })?;
//! lab.start_all()?;
//! let stamp_ns = lab.cut(&Cut::node("n2").link(0))?;
//! println!("cut at {stamp_ns}");
//! lab.heal(None)?;
//! lab.down()?;
//! # Ok(())
//! # }
//! ```
//!
//! Unsafe code lives in `sys` alone.

#![deny(unsafe_code)]

pub mod bench;
pub mod control;
pub mod demo;
pub mod e2e;
mod lab;
#[expect(
    unsafe_code,
    reason = "system calls that rustix has no safe form of; each block says why it is sound"
)]
mod sys;

pub use lab::{
    Cut, CutInForce, Direction, Lab, LabSpec, LabStatus, Links, Node, NodeStatus, SkewedClock, StartOptions,
    init_main, labs, remove, start_main,
};
pub use sys::{
    clock::boottime_ns,
    packet::PacketSocket,
    process::{ProcessId, ProcessState},
};
