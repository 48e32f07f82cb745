//! The cluster's key file: read with suspicion, made by the kernel's randomness, gone from memory when dropped.
//!
//! Whoever reads the key can forge every frame of the cluster, so a file that others may touch is refused and not just
//! complained about. All checks are made on the opened file, not on the path, so nothing can be swapped in between.
//! Deliberately not here: key derivation (the daemon's), rolling to a next key, and the rights of the folders above.

use std::fmt::{self, Debug, Display};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use zeroize::Zeroizing;

/// The shortest key that is accepted, in bytes: the strength of the SHA-256 that it goes into.
pub const KEY_BYTES_LEAST: usize = 32;
/// The longest key file that is read, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// The length of the keys that [`AuthKey::generate`] makes, in bytes.
pub const KEY_BYTES_MADE: usize = 256;

/// The secret that all nodes of a cluster share. It is never printed, and wiped when dropped.
pub struct AuthKey(Zeroizing<Vec<u8>>);

impl AuthKey {
    /// Reads a key file that is a regular file of the right size, owned by root or by this process's user, and closed
    /// to all others.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        // Without NONBLOCK a fifo put in the file's place would hold the start up forever.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut file = rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(|errno| {
            let source = io::Error::from(errno);
            match source.kind() {
                io::ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
                _ => KeyError::Unreadable { path: path.to_owned(), source },
            }
        })?;
        let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(KeyError::NotAFile { path: path.to_owned() });
        }
        check_rights(path, meta.mode(), meta.uid(), rustix::process::geteuid().as_raw())?;
        // One buffer of the full size from the start: growing would leave copies of the key behind.
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES_MAX + 1]);
        let mut length = 0;
        while length < bytes.len() {
            match file.read(&mut bytes[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        if !(KEY_BYTES_LEAST..=KEY_BYTES_MAX).contains(&length) {
            return Err(KeyError::BadSize { path: path.to_owned(), bytes: meta.size() });
        }
        bytes.truncate(length);
        Ok(Self(bytes))
    }

    /// Makes a new key of [`KEY_BYTES_MADE`] bytes from the kernel's randomness and writes it, mode 0400, to a file
    /// that must not exist yet. When this returns, the file is on disk.
    pub fn generate(path: &Path) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES_MADE]);
        getrandom::fill(&mut bytes)
            .map_err(|error| KeyError::NoRandomness { source: io::Error::other(error.to_string()) })?;
        let unwritable = |source| KeyError::Unwritable { path: path.to_owned(), source };
        let file = File::options().write(true).create_new(true).mode(0o400).open(path);
        let file = file.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
            io::ErrorKind::NotFound => KeyError::NoFolder { path: path.to_owned() },
            _ => unwritable(source),
        })?;
        if let Err(source) = write_durably(file, &bytes, path) {
            // Ours, made above with O_EXCL; a half key must not be found by the next start. The cause outranks this.
            let _ = std::fs::remove_file(path);
            return Err(unwritable(source));
        }
        Ok(Self(bytes))
    }

    /// The secret itself, for key derivation.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Debug for AuthKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("AuthKey(secret)")
    }
}

fn write_durably(mut file: File, bytes: &[u8], path: &Path) -> io::Result<()> {
    // The umask may have taken the owner's right to read.
    file.set_permissions(std::fs::Permissions::from_mode(0o400))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn check_rights(path: &Path, mode: u32, owner: u32, euid: u32) -> Result<(), KeyError> {
    if owner != 0 && owner != euid {
        return Err(KeyError::ForeignOwner { path: path.to_owned(), owner, euid });
    }
    match mode & 0o7777 {
        mode if mode & 0o077 != 0 => Err(KeyError::Exposed { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

/// Why a key file was refused, or not made.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are the words of the message above them")]
pub enum KeyError {
    /// No such file.
    #[error("there is no key file {}", path.display())]
    Missing { path: PathBuf },
    /// It cannot be opened or read.
    #[error("the key file {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// A folder, a fifo, a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    /// Somebody besides its owner may read or write it.
    #[error("the key file {} has mode {mode:04o}: others than its owner can get at it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    /// It belongs to another user.
    #[error("the key file {} belongs to user {owner}, not to root nor to user {euid}", path.display())]
    ForeignOwner { path: PathBuf, owner: u32, euid: u32 },
    /// Too short to be a secret, or too long to be a key.
    #[error(
        "the key file {} has {bytes} bytes, allowed is {KEY_BYTES_LEAST} to {KEY_BYTES_MAX}", path.display()
    )]
    BadSize { path: PathBuf, bytes: u64 },
    /// A key is never overwritten.
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    /// The folder for the new key is not there.
    #[error("the folder of {} does not exist", path.display())]
    NoFolder { path: PathBuf },
    /// The new key cannot be written.
    #[error("the key file {} cannot be written", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    /// The kernel gave no randomness.
    #[error("the kernel gives no randomness")]
    NoRandomness { source: io::Error },
}

impl KeyError {
    /// The stable name of the cause.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "key.missing",
            Self::Unreadable { .. } => "key.unreadable",
            Self::NotAFile { .. } => "key.not_a_file",
            Self::Exposed { .. } => "key.exposed",
            Self::ForeignOwner { .. } => "key.foreign_owner",
            Self::BadSize { .. } => "key.bad_size",
            Self::Exists { .. } => "key.exists",
            Self::NoFolder { .. } => "key.no_folder",
            Self::Unwritable { .. } => "key.unwritable",
            Self::NoRandomness { .. } => "key.no_randomness",
        }
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::Missing { .. } => {
                "`ringbeat keygen` makes one; then copy it to every node of the cluster, mode 0400".into()
            }
            Self::Unreadable { .. } => "run as root, and see that the path is a readable file".into(),
            Self::NotAFile { .. } => "name the file that `ringbeat keygen` made".into(),
            Self::Exposed { path, .. } => {
                format!(
                    "chmod 0400 {}; if others have had access, make a new key with `ringbeat keygen`",
                    path.display()
                )
            }
            Self::ForeignOwner { path, .. } => format!("chown root: {}", path.display()),
            Self::BadSize { .. } => {
                "`ringbeat keygen` makes a good one; it must be the same on every node".into()
            }
            Self::Exists { path } => format!(
                "a key that is in use is not overwritten; if no node needs it any more: rm {}",
                path.display()
            ),
            Self::NoFolder { path } => {
                let folder = path.parent().unwrap_or(path);
                format!("mkdir -p -m 0755 {}", folder.display())
            }
            Self::Unwritable { .. } => {
                "run as root, and see that the file system is writable and not full".into()
            }
            Self::NoRandomness { .. } => {
                "getrandom(2) must be allowed: look at the sandbox's seccomp rules".into()
            }
        }
    }
}

impl Diagnostic for KeyError {
    fn code<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        Some(Box::new(Self::code(self)))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        Some(Box::new(Self::help(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_may_have_rights_and_must_be_root_or_us() {
        let code = |mode, owner, euid| {
            check_rights(Path::new("k"), mode, owner, euid).err().map(|error| error.code())
        };
        for mode in [0o100400, 0o100600, 0o100700] {
            assert_eq!(code(mode, 0, 0), None);
            assert_eq!(code(mode, 0, 1000), None);
            assert_eq!(code(mode, 1000, 1000), None);
            assert_eq!(code(mode, 1000, 0), Some("key.foreign_owner"));
            assert_eq!(code(mode, 1000, 1001), Some("key.foreign_owner"));
        }
        for bit in [0o001, 0o002, 0o004, 0o010, 0o020, 0o040] {
            assert_eq!(code(0o100400 | bit, 0, 0), Some("key.exposed"), "{bit:o}");
        }
    }
}
