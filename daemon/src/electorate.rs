//! The electorates that this node has run, in the state folder: nodes with their votes, and whether each was confirmed.
//!
//! What it is for stands in `ringbeat_core::membership::electorate`: with it a change of nodes or votes never makes two
//! quorums. One line for each, the present one last; node ids, as the configuration has them:
//!
//! ```text
//! confirmed 1:1 2:1 3:1
//! new 1:1 2:1 3:1 4:1 5:1
//! ```
//! A change is on disk before this node says anything under it. That it is confirmed may be on disk later: until then it
//! is found out anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ringbeat_common::limits::NODES_MAX;
use ringbeat_core::limits::ELECTORATES_KEPT;
use ringbeat_core::membership::electorate::{Electorate, Record, Standing, Tenure, Unsafe};
use thiserror::Error;

use crate::incarnation::write_durably;
use crate::reserve::Reserve;

const HEAD: &str = "# The nodes and votes (id:votes) that this node has run with, the present ones last.\n";
const WORDS: [(&str, Tenure); 4] = [
    ("new", Tenure::New),
    ("again", Tenure::Again),
    ("confirmed", Tenure::Confirmed),
    ("left", Tenure::Left),
];

/// Why this node must not run with the configured nodes and votes.
#[derive(Debug, Error)]
pub enum ElectorateError {
    /// The file is not usable.
    #[error("{path}: {source}")]
    Disk {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{path} does not hold nodes and votes, one set a line, but {found:?}; stop the daemons on all nodes and remove \
         the file on every node, or restore it"
    )]
    Spoiled {
        /// Which.
        path: PathBuf,
        /// What it holds, its beginning.
        found: String,
    },
    /// Nodes that are not configured any more may have a quorum without the others.
    #[error(
        "nodes and votes have changed too much: {nodes} alone had a quorum of those that this node ran with before, and \
         the configuration has none of them any more, so they could go on beside this one; change fewer nodes at a time, \
         or stop the daemons on all nodes, old ones too, and remove {path} on every node"
    )]
    Stranded {
        /// Their ids, in words.
        nodes: String,
        /// The file.
        path: PathBuf,
    },
    /// Too many changes that were not completed.
    #[error(
        "nodes and votes have been changed {ELECTORATES_KEPT} times, and never were all nodes seen under a change; go \
         back to one that {path} names until `ringbeat status` says quorate, or stop the daemons on all nodes and remove \
         the file on every node"
    )]
    TooMany {
        /// The file.
        path: PathBuf,
    },
}

/// The record and its file.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    record: Record,
    is_change: bool,
}

impl Kept {
    /// Reads what former daemons ran with, and adds what this one is to. Nothing is written yet.
    pub fn open(state: &Path, next: &Electorate) -> Result<Self, ElectorateError> {
        let path = state.join("electorate");
        let found = read(&path)?;
        let is_change = found.is_change(next);
        let record = found.start(next).map_err(|error| match error {
            Unsafe::Stranded(slots) => {
                let ids: Vec<_> = slots.iter().map(|slot| (u32::from(*slot) + 1).to_string()).collect();
                let word = if ids.len() == 1 { "node" } else { "nodes" };
                ElectorateError::Stranded { nodes: format!("{word} {}", ids.join(", ")), path: path.clone() }
            }
            Unsafe::TooMany => ElectorateError::TooMany { path: path.clone() },
        })?;
        Ok(Self { path, record, is_change })
    }

    /// Whether a daemon before this one ran with other nodes or votes, or none is known to have run.
    pub const fn is_change(&self) -> bool {
        self.is_change
    }

    /// Has a change on disk.
    pub fn write(&self) -> Result<(), ElectorateError> {
        if !self.is_change {
            return Ok(());
        }
        write_durably(&self.path, &text(&self.record))
            .map_err(|source| ElectorateError::Disk { path: self.path.clone(), source })
    }

    /// The present one is confirmed; the thread that writes has it on disk soon.
    pub fn confirm(&mut self, reserve: &Reserve) {
        self.record.confirm();
        reserve.write(self.path.clone(), text(&self.record));
    }

    /// What the record says of the present one.
    pub fn standing(&self) -> Standing {
        self.record.standing()
    }
}

fn text(record: &Record) -> String {
    let mut text = HEAD.to_owned();
    for (tenure, electorate) in &record.0 {
        let word = WORDS.iter().find(|(_, there)| there == tenure).map_or("new", |(word, _)| word);
        text.push_str(word);
        for (slot, votes) in electorate.votes() {
            text.push_str(&format!(" {}:{votes}", u32::from(*slot) + 1));
        }
        text.push('\n');
    }
    text
}

fn read(path: &Path) -> Result<Record, ElectorateError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
        Err(source) => return Err(ElectorateError::Disk { path: path.to_owned(), source }),
    };
    parse(&text).ok_or_else(|| {
        let found = text.chars().take(40).collect();
        ElectorateError::Spoiled { path: path.to_owned(), found }
    })
}

fn parse(text: &str) -> Option<Record> {
    let mut entries = Vec::new();
    for line in text.strip_suffix('\n')?.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let word = words.next()?;
        let (_, tenure) = WORDS.iter().find(|(known, _)| *known == word)?;
        let mut votes = Vec::new();
        for pair in words {
            let (id, count) = pair.split_once(':')?;
            let slot = id.parse::<u8>().ok()?.checked_sub(1).filter(|slot| usize::from(*slot) < NODES_MAX)?;
            // In the order of slots, each once: else it is not what was written.
            if votes.last().is_some_and(|(before, _)| *before >= slot) {
                return None;
            }
            votes.push((slot, count.parse::<u8>().ok()?));
        }
        entries.push((*tenure, Electorate::new(votes)));
    }
    let is_whole = (1..=ELECTORATES_KEPT).contains(&entries.len())
        && entries.iter().all(|(_, electorate)| !electorate.votes().is_empty());
    is_whole.then_some(Record(entries))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn ones(slots: std::ops::Range<u8>) -> Electorate {
        Electorate::new(slots.map(|slot| (slot, 1)))
    }

    #[test]
    fn what_was_run_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut kept = Kept::open(folder.path(), &ones(0..3)).expect("new");
        assert!(kept.is_change() && kept.standing().sole);
        kept.write().expect("written");
        let path = folder.path().join("electorate");
        let lines = |path: &Path| {
            fs::read_to_string(path).expect("there").lines().skip(1).collect::<Vec<_>>().join("|")
        };
        assert_eq!(lines(&path), "new 1:1 2:1 3:1");
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"));
        let reserve = Reserve::open(folder.path(), 5, Arc::clone(&wake)).expect("new");
        kept.confirm(&reserve);
        rustix::io::read(&*wake, &mut [0; 8]).expect("woken");
        assert_eq!(lines(&path), "confirmed 1:1 2:1 3:1");
        let again = Kept::open(folder.path(), &ones(0..3)).expect("again");
        assert!(!again.is_change() && again.standing().confirmed);
        let more = Kept::open(folder.path(), &ones(0..5)).expect("two more");
        more.write().expect("written");
        assert_eq!(lines(&path), "confirmed 1:1 2:1 3:1|new 1:1 2:1 3:1 4:1 5:1");
        let error = Kept::open(folder.path(), &ones(2..5)).expect_err("two of three are gone");
        assert!(error.to_string().contains("nodes 1, 2 alone had a quorum"), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }

    #[test]
    fn a_spoiled_file_is_refused_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let nine = "left 1:1\n".repeat(9);
        for spoiled in [
            "",
            "\n",
            "new\n",
            "new 1:1",
            "old 1:1\n",
            "new 0:1\n",
            "new 65:1\n",
            "new 2:1 1:1\n",
            "new 1:256\n",
            &nine,
        ] {
            fs::write(folder.path().join("electorate"), spoiled).expect("written");
            let opened = Kept::open(folder.path(), &ones(0..3));
            assert!(matches!(opened, Err(ElectorateError::Spoiled { .. })), "{spoiled:?}");
            assert_eq!(fs::read_to_string(folder.path().join("electorate")).expect("kept"), spoiled);
        }
    }
}
