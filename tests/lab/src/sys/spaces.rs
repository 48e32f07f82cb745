//! Entering and leaving namespaces, always in a thread of its own: what it has entered ends with it.

use std::{io, thread};

use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe};

use super::process::ProcessId;

/// The network namespace alone: for sockets and for `ip`, which then still sees the machine's files and pids.
pub(crate) const NETWORK: ThreadNameSpaceType = ThreadNameSpaceType::NETWORK;

/// All that makes a node; a process spawned from there lives inside it.
pub(crate) const ALL: ThreadNameSpaceType = ThreadNameSpaceType::NETWORK
    .union(ThreadNameSpaceType::MOUNT)
    .union(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME)
    .union(ThreadNameSpaceType::PROCESS_ID);

/// Runs `work` in namespaces of the process `of`.
pub(crate) fn within<T: Send>(
    of: ProcessId,
    spaces: ThreadNameSpaceType,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let process = of.open()?;
    apart(move || {
        move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&process), spaces)?;
        Ok(work())
    })
}

/// Runs `work` in fresh network, mount and UTS namespaces; its next child is process 1 of a fresh PID
/// namespace.
pub(crate) fn fresh<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let spaces = UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWPID;
    apart(move || {
        // SAFETY: only CLONE_FILES makes this call unsafe.
        unsafe { unshare_unsafe(spaces) }?;
        Ok(work())
    })
}

fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // A mount namespace can only be entered by a thread that shares its root and directory with no
            // other. SAFETY: only CLONE_FILES makes this call unsafe.
            unsafe { unshare_unsafe(UnshareFlags::FS) }?;
            work()
        });
        worker.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the lab panicked")))
    })
}
