//! What this node may have said of views and promised of leases, on disk ahead of need.
//!
//! Two numbers: a ceiling of view epochs, below which any may have been announced, and the longest lease that was ever
//! promised for. A daemon that starts announces only epochs above the ceiling that it finds, and one that finds no
//! pinned promises waits until the longest of them has run out. A thread of its own writes, so no disk stands in the
//! way of a failover.
//!
//! A clean stop waits its promises out and leaves a note that names the boot: the next start need not wait.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use ringbeat_common::limits::LEASE_MAX_NS;
use thiserror::Error;

use crate::incarnation::write_durably;

/// Between two tries of a disk that refuses.
const AGAIN: Duration = Duration::from_millis(500);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why what was reserved cannot be known.
#[derive(Debug, Error)]
pub enum ReserveError {
    /// The state folder or file is not usable.
    #[error("{path}: {source}")]
    Disk {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{path} does not hold a ceiling of epochs and a lease but {found:?}; look at the epoch in `ringbeat status` on \
         another node, write a greater one and {LEASE_MAX_NS} there, or remove the file if this node is new"
    )]
    Spoiled {
        /// Which.
        path: PathBuf,
        /// What it holds, its beginning.
        found: String,
    },
}

/// What is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Any epoch up to this may have been announced.
    pub ceiling: u64,
    /// The longest lease that was promised for, in ns.
    pub lease_ns: u64,
}

/// What the thread is to write.
enum Wish {
    Ceiling(u64),
    File { path: PathBuf, text: String },
}

/// The file, and the thread that writes it.
pub struct Reserve {
    wanted: Sender<Wish>,
    durable: Arc<AtomicU64>,
    found: Reserved,
}

impl Reserve {
    /// Reads what former daemons reserved, and makes `lease_ns` durable before anything is promised for it. `wake` is
    /// written when a wish has come true.
    pub fn open(state: &Path, lease_ns: u64, wake: Arc<OwnedFd>) -> Result<Self, ReserveError> {
        let path = state.join("views");
        let disk = |source| ReserveError::Disk { path: path.clone(), source };
        let found = read(&path)?.unwrap_or(Reserved { ceiling: 0, lease_ns: 0 });
        let lease_ns = found.lease_ns.max(lease_ns);
        if found.lease_ns != lease_ns {
            write_durably(&path, &text(Reserved { lease_ns, ..found })).map_err(disk)?;
        }
        let (wanted, wishes) = channel::<Wish>();
        let durable = Arc::new(AtomicU64::new(found.ceiling));
        let told = Arc::clone(&durable);
        let failed = path.clone();
        let run = move || {
            while let Ok(first) = wishes.recv() {
                let (mut ceiling, mut files) = (0, Vec::new());
                for wish in std::iter::once(first).chain(wishes.try_iter()) {
                    match wish {
                        Wish::Ceiling(wish) => ceiling = wish.max(ceiling),
                        Wish::File { path, text } => files.push((path, text)),
                    }
                }
                // Epochs first: a view may wait for them.
                if ceiling != 0 {
                    persist(&path, &text(Reserved { ceiling, lease_ns }));
                    told.store(ceiling, Ordering::Release);
                }
                for (path, text) in files {
                    persist(&path, &text);
                }
                let _ = rustix::io::write(&*wake, &1u64.to_ne_bytes());
            }
        };
        let named = std::thread::Builder::new().name("ringbeat-disk".to_owned());
        named.spawn(run).map_err(|source| ReserveError::Disk { path: failed, source })?;
        Ok(Self { wanted, durable, found })
    }

    /// What former daemons left.
    pub const fn found(&self) -> Reserved {
        self.found
    }

    /// Wants this ceiling.
    pub fn want(&self, ceiling: u64) {
        // The thread lives as long as the process.
        let _ = self.wanted.send(Wish::Ceiling(ceiling));
    }

    /// Has another file of the state folder written, whole, in a while.
    pub fn write(&self, path: PathBuf, text: String) {
        let _ = self.wanted.send(Wish::File { path, text });
    }

    /// The ceiling that is durable now.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }
}

/// Writes until it is written.
fn persist(path: &Path, text: &str) {
    while let Err(error) = write_durably(path, text) {
        tracing::error!(path = %path.display(), %error, "what has to be durable cannot be written");
        std::thread::sleep(AGAIN);
    }
}

fn text(reserved: Reserved) -> String {
    format!("{} {}\n", reserved.ceiling, reserved.lease_ns)
}

fn read(path: &Path) -> Result<Option<Reserved>, ReserveError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ReserveError::Disk { path: path.to_owned(), source }),
    };
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(ceiling)), Some(Ok(lease_ns)), None) if lease_ns <= LEASE_MAX_NS => {
            Ok(Some(Reserved { ceiling, lease_ns }))
        }
        _ => {
            let found = text.chars().take(40).collect();
            Err(ReserveError::Spoiled { path: path.to_owned(), found })
        }
    }
}

/// Notes that every promise of this node has run out, until the next boot.
pub fn note_clean(note: &Path) -> io::Result<()> {
    fs::write(note, fs::read_to_string(BOOT_ID)?)
}

/// Whether the last daemon noted so since this machine booted; the note is gone afterwards, before anything is promised.
pub fn take_clean(note: &Path) -> bool {
    let Ok(noted) = fs::read_to_string(note) else { return false };
    let removed = fs::remove_file(note).is_ok();
    removed && fs::read_to_string(BOOT_ID).is_ok_and(|boot| boot == noted)
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn open(state: &Path, lease_ns: u64) -> Result<(Reserve, Arc<OwnedFd>), ReserveError> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"));
        Reserve::open(state, lease_ns, Arc::clone(&wake)).map(|reserve| (reserve, wake))
    }

    #[test]
    fn what_was_reserved_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (reserve, wake) = open(folder.path(), 5_000_000).expect("new");
        assert_eq!(reserve.found(), Reserved { ceiling: 0, lease_ns: 0 });
        reserve.want(4096);
        rustix::io::read(&*wake, &mut [0; 8]).expect("woken");
        assert_eq!(reserve.durable(), 4096);
        let (again, _) = open(folder.path(), 1_000_000).expect("again");
        assert_eq!(again.found(), Reserved { ceiling: 4096, lease_ns: 5_000_000 }, "the longest lease stays");
    }

    #[test]
    fn a_spoiled_file_is_refused_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        for spoiled in ["", "7", "7 x", "7 8 9", "7 99999999999999"] {
            fs::write(folder.path().join("views"), spoiled).expect("written");
            assert!(matches!(open(folder.path(), 5), Err(ReserveError::Spoiled { .. })), "{spoiled}");
        }
    }

    #[test]
    fn a_note_counts_once_and_for_this_boot_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let note = folder.path().join("clean");
        assert!(!take_clean(&note));
        note_clean(&note).expect("noted");
        assert!(take_clean(&note));
        assert!(!take_clean(&note));
        fs::write(&note, "another boot\n").expect("written");
        assert!(!take_clean(&note));
    }
}
