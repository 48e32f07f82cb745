//! What a lab leaves on disk: enough for a later call of the tool to find it, and to end it.
//!
//! ```text
//! <target>/ringbeat-lab/<name>/state.json       what was asked for, and who is building it
//!                              n1/init.json     process 1 of the node (also switch/, client/)
//!                              n1/daemon.json   the node's daemon, as it was last started
//!                              n1/crashed       there between a crash and the next start
//!                              n1/etc, n1/var   /etc/ringbeat and /var/lib/ringbeat of the node
//!                              log/n1.log       what its daemons wrote
//! ```
//!
//! Every file is replaced as a whole, and each has one writer at a time, so two calls never undo each other.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::LabSpec;
use crate::sys::process::ProcessId;

/// The longest name of a lab.
const NAME_MAX: usize = 60;

/// `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LabState {
    pub(crate) spec: LabSpec,
    /// The process that is building the lab; absent once it stands.
    pub(crate) builder: Option<ProcessId>,
}

impl LabState {
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        load(&dir.join("state.json"))
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        save(&dir.join("state.json"), self)
    }
}

/// Makes the lab's folder with its first state in it, in one step: of two callers, one fails.
pub(crate) fn create(dir: &Path, state: &LabState) -> Result<()> {
    let draft = dir.with_file_name(format!(".{}.{}", state.spec.name, process::id()));
    fs::create_dir_all(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
    state.save(&draft)?;
    // Renaming onto a folder that is not empty fails.
    fs::rename(&draft, dir)
        .inspect_err(|_| drop(fs::remove_dir_all(&draft)))
        .with_context(|| format!("cannot create {}: is another call building the same lab?", dir.display()))
}

/// Removes drafts of calls that were killed: hidden entries that end in the pid of a process that is gone.
pub(crate) fn sweep_drafts() -> Result<()> {
    let entries = match fs::read_dir(root()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.context("cannot list the labs")?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let pid = name.rsplit('.').next().and_then(|pid| pid.parse::<u32>().ok());
        if name.starts_with('.') && pid.is_some_and(|pid| ProcessId::of(pid).is_err()) {
            // Another call may sweep at the same time.
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
    Ok(())
}

/// The folder of all labs: in the target folder that this program was built in, else in `/tmp`.
pub(crate) fn root() -> PathBuf {
    let target = bin_dir().ok().and_then(|bin| bin.parent().map(Path::to_path_buf));
    match target {
        Some(target) if target.join("CACHEDIR.TAG").exists() => target.join("ringbeat-lab"),
        _ => PathBuf::from("/tmp/ringbeat-lab"),
    }
}

/// The folder of one lab.
pub(crate) fn dir(name: &str) -> Result<PathBuf> {
    let fine = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if !fine || name.is_empty() || name.len() > NAME_MAX || name.starts_with(['.', '-']) {
        bail!("a lab's name has 1 to {NAME_MAX} of a-z A-Z 0-9 . _ - and starts with none of . -: {name:?}");
    }
    Ok(root().join(name))
}

/// The names of all labs whose folder exists.
pub fn labs() -> Result<Vec<String>> {
    let entries = match fs::read_dir(root()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("cannot list the labs")?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if dir(&name).is_ok_and(|dir| dir.join("state.json").exists()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The folder of the workspace's programs: where this one lies, or its parent for a test in `deps`.
pub(crate) fn bin_dir() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find the own program")?;
    let dir = own.parent().context("the own program lies in no folder")?;
    let nested = dir.ends_with("deps") || dir.ends_with("examples");
    Ok(if nested { dir.parent().unwrap_or(dir) } else { dir }.to_path_buf())
}

/// A program of the workspace, by name.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = bin_dir()?.join(name);
    if !path.exists() {
        bail!("{} is not built: `cargo build --release` first", path.display());
    }
    Ok(path)
}

/// Reads a file of the lab; absent is an error of its own kind.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}

/// Reads a file of the lab that may be absent.
pub(crate) fn load_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if path.exists() { load(path).map(Some) } else { Ok(None) }
}

/// Replaces a file of the lab as a whole.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let draft = path.with_extension(format!("draft-{}", process::id()));
    fs::write(&draft, serde_json::to_vec_pretty(value)?)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
