//! Scheduling of the calling thread: which core, and how it stands beside others.

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

/// How a thread stands beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Only when nobody else wants the core.
    Idle,
    /// Above all normal threads, with this priority.
    Fifo(i32),
}

/// Keeps the calling thread on one core.
pub(crate) fn pin_to(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Sets the calling thread's policy.
pub(crate) fn set_policy(policy: Policy) -> io::Result<()> {
    let (number, priority) = match policy {
        Policy::Idle => (libc::SCHED_IDLE, 0),
        Policy::Fifo(priority) => (libc::SCHED_FIFO, priority),
    };
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: a plain system call on a valid struct; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, number, &param) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The cores of this machine.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
