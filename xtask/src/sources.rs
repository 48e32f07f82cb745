//! The project's files as git sees them, and findings about them.
//!
//! Deliberately not here: files that git ignores, and what makes a finding.

use std::fmt;
use std::fs;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::process::Workspace;

/// A text file of the project.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the top of the tree, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// The file's name without its folders.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// Something about a line of a file that somebody should look at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// From 1, as editors count.
    pub(crate) line: usize,
    pub(crate) text: String,
    /// To be looked at, but no reason to refuse.
    pub(crate) is_warning: bool,
}

impl Finding {
    pub(crate) fn new(source: &Source, line: usize, text: impl Into<String>) -> Self {
        Self { path: source.path.clone(), line, text: text.into(), is_warning: false }
    }

    pub(crate) fn warning(source: &Source, line: usize, text: impl Into<String>) -> Self {
        Self { is_warning: true, ..Self::new(source, line, text) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_warning { "warning: " } else { "" };
        write!(f, "{}:{}: {kind}{}", self.path, self.line, self.text)
    }
}

/// Every text file that is tracked, or would be if somebody added it now.
pub(crate) fn list(workspace: &Workspace) -> Result<Vec<Source>> {
    let output = workspace
        .program("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start git, which knows the project's files: install git")?;
    if !output.status.success() {
        bail!("git ls-files failed: tidy and links work in a git checkout only");
    }
    let names = String::from_utf8(output.stdout).context("a file name is not UTF-8: rename it")?;
    let mut sources = Vec::new();
    for path in names.split('\0').filter(|path| !path.is_empty()) {
        let file = workspace.root().join(path);
        // Deleted but not yet committed, a link, or a submodule: no text of ours.
        if !fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_file()) {
            continue;
        }
        let bytes = fs::read(&file).with_context(|| format!("cannot read {path}"))?;
        // What is not UTF-8 is not text.
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source { path: path.to_string(), text });
        }
    }
    // An unmerged path is listed once for each side.
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources.dedup_by(|a, b| a.path == b.path);
    Ok(sources)
}

/// Prints what was found, and one line that counts; false if something must change.
pub(crate) fn report(what: &str, file_count: usize, findings: &[Finding]) -> bool {
    findings.iter().for_each(|finding| println!("{finding}"));
    let warnings = findings.iter().filter(|finding| finding.is_warning).count();
    let errors = findings.len() - warnings;
    println!("{what}: {file_count} files, {errors} to change, {warnings} to look at");
    errors == 0
}
