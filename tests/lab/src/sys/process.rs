//! Processes by pid and start time, so that a pid that was given out again is never mistaken for ours.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use serde::{Deserialize, Serialize};

/// A process of the machine: its pid outside of all namespaces, and its start time in clock ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid, as the machine sees it.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`.
    pub started: u64,
}

/// What a process does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// Alive: running, or asleep until something happens.
    Running,
    /// Stopped by a signal.
    Stopped,
    /// Gone, or not yet buried by its parent.
    Dead,
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, started: stat(pid)?.1 })
    }

    /// All processes of the PID namespace that this one is in, itself included.
    pub(crate) fn of_its_namespace(self) -> io::Result<Vec<Self>> {
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid"));
        let own = namespace(self.pid)?;
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // Whoever ends in between is in no namespace any more.
            if namespace(pid).is_ok_and(|its| its == own) {
                all.extend(Self::of(pid));
            }
        }
        Ok(all)
    }

    /// The calling process.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether it runs, is stopped, or is dead.
    #[must_use]
    pub fn state(self) -> ProcessState {
        if let Ok(pid) = self.raw() {
            // If it is a dead child of ours, this buries it; if it is somebody else's, the call does nothing.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        match stat(self.pid) {
            Ok((state, started)) if started == self.started => match state {
                b'T' => ProcessState::Stopped,
                // Its first thread is through, the others still hold its files and locks.
                b'Z' if self.has_threads() => ProcessState::Running,
                b'Z' | b'X' => ProcessState::Dead,
                _ => ProcessState::Running,
            },
            _ => ProcessState::Dead,
        }
    }

    /// Whether it is there at all.
    #[must_use]
    pub fn is_alive(self) -> bool {
        self.state() != ProcessState::Dead
    }

    /// A handle on this very process; an error if it is gone.
    pub fn open(self) -> io::Result<OwnedFd> {
        let process = pidfd_open(self.raw()?, PidfdFlags::empty())?;
        // The handle holds whoever has the pid now: only then can the start time be compared without a race.
        if stat(self.pid)?.1 != self.started {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(process)
    }

    /// Sends a signal to this very process.
    pub fn signal(self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(self.open()?.as_fd(), signal)?)
    }

    /// Waits until it is dead; false if it still lives after `patience`.
    #[must_use]
    pub fn wait_dead(self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Waits until it is dead, or has let go of its namespaces on its way out; false if not within
    /// `patience`.
    ///
    /// A process 1 stays on that way until all others of its PID namespace are buried. Those that were
    /// started from outside are buried outside, perhaps by a process that takes its time; nothing of ours
    /// needs to wait for it.
    #[must_use]
    pub(crate) fn wait_left(self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let network = format!("/proc/{}/ns/net", self.pid);
        while self.is_alive() && fs::read_link(&network).is_ok() {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// The process that has this pid inside the PID namespace of the process `within`.
    pub(crate) fn inside(within: Self, pid: u32) -> io::Result<Self> {
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", within.pid))?;
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(outside) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // Others come and go while we look.
            let Ok(status) = fs::read_to_string(format!("/proc/{outside}/status")) else { continue };
            let inner =
                status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_ascii_whitespace().last());
            if inner.and_then(|inner| inner.parse().ok()) == Some(pid)
                && fs::read_link(format!("/proc/{outside}/ns/pid")).is_ok_and(|link| link == namespace)
            {
                return Self::of(outside);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("no process {pid} in that namespace")))
    }

    /// Whether any thread but the first is left.
    fn has_threads(self) -> bool {
        fs::read_dir(format!("/proc/{}/task", self.pid)).is_ok_and(|threads| threads.count() > 1)
    }

    fn raw(self) -> io::Result<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// State letter and start time from `/proc/PID/stat`.
fn stat(pid: u32) -> io::Result<(u8, u64)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in the second field may hold anything, parentheses and spaces too; after its last `)` come
    // fields 3 on.
    let parsed = line.rfind(')').and_then(|end| {
        let mut fields = line[end + 1..].split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        Some((state, fields.nth(18)?.parse().ok()?))
    });
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {line}")))
}

/// Gives the command a session of its own: signals of the caller's terminal do not reach it.
pub(crate) fn in_own_session(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only the system call setsid is made, which is safe there.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from)) }
}

/// The life of process 1 in a namespace: every orphan's death is taken note of, nothing else is done,
/// forever.
pub(crate) fn reap_forever() -> ! {
    // SAFETY: SIG_IGN is a valid disposition; it makes the kernel bury children without leaving a zombie.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    loop {
        // SAFETY: takes nothing and only sleeps.
        unsafe { libc::pause() };
    }
}

/// Whether the caller is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
