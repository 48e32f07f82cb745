//! The incarnation of this daemon: a counter that survives everything but a restored disk, and a random salt for that.
//!
//! The new counter is on disk before anything is sent under it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why there is no incarnation to run as.
#[derive(Debug, Error)]
pub enum IncarnationError {
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
        "{path} does not hold a counter but {found:?}; peers know what it was (`ringbeat peers`): write a higher \
         number there, or remove the file if this node is new"
    )]
    Spoiled {
        /// Which.
        path: PathBuf,
        /// What it holds, its beginning.
        found: String,
    },
    /// Every number has been used.
    #[error("{path} has reached its end; give the node a new id")]
    Exhausted {
        /// Which.
        path: PathBuf,
    },
    /// The kernel gave no randomness.
    #[error("no randomness for the salt: {0}")]
    Salt(getrandom::Error),
}

/// The next incarnation: the counter after the one in the state folder in the upper half, a fresh salt in the lower.
pub fn next(state: &Path) -> Result<u64, IncarnationError> {
    let path = state.join("incarnation");
    let disk = |source| IncarnationError::Disk { path: path.clone(), source };
    fs::create_dir_all(state).map_err(disk)?;
    let before = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<u32>().map_err(|_| IncarnationError::Spoiled {
            path: path.clone(),
            found: text.chars().take(40).collect(),
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(disk(error)),
    };
    let counter = before.checked_add(1).ok_or_else(|| IncarnationError::Exhausted { path: path.clone() })?;
    write_durably(&path, &format!("{counter}\n")).map_err(disk)?;
    let salt = getrandom::u32().map_err(IncarnationError::Salt)?;
    Ok(u64::from(counter) << 32 | u64::from(salt))
}

/// Writes a file whole or not at all, and has it on disk when it returns.
pub(crate) fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_with_every_start_and_never_repeats() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let first = next(&state).expect("new");
        let second = next(&state).expect("again");
        assert_eq!((first >> 32, second >> 32), (1, 2));
        fs::write(state.join("incarnation"), "1\n").expect("a restored disk");
        let third = next(&state).expect("again");
        assert_eq!(third >> 32, 2);
        assert_ne!(third, second, "the salt tells them apart");
    }

    #[test]
    fn a_spoiled_file_is_refused_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("incarnation");
        fs::write(&path, "seven").expect("written");
        let error = next(folder.path()).expect_err("spoiled");
        assert!(error.to_string().contains("seven"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("kept"), "seven");
        fs::write(&path, u32::MAX.to_string()).expect("written");
        assert!(matches!(next(folder.path()), Err(IncarnationError::Exhausted { .. })));
    }
}
