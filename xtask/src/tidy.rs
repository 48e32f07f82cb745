//! `cargo xtask tidy`: the code checks the code, so that nobody has to argue about it.
//!
//! The rules stand in [`rules`], each a small function with its reason. They see a file as [`lexer`] splits
//! it: what is code and what is comment, so that a word in a string offends nobody.
//!
//! Deliberately not here: what rustfmt and clippy already check.

mod lexer;
mod rules;

use anyhow::Result;

use crate::process::Workspace;
use crate::sources::{self, Finding, Source};

/// Checks every file of the project; false if something must change.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let files = sources::list(workspace)?;
    let findings: Vec<Finding> = files.iter().flat_map(check).collect();
    Ok(sources::report("tidy", files.len(), &findings))
}

/// All findings about one file, in the order of its lines.
fn check(source: &Source) -> Vec<Finding> {
    let mut findings = rules::on_text(source);
    if source.path.ends_with(".rs") {
        findings.extend(rules::on_rust(source, &lexer::split(&source.text)));
    }
    findings.sort_by_key(|finding| finding.line);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_file_has_no_findings_and_a_dirty_one_has_them_in_order() {
        let path = "daemon/src/loop.rs".to_string();
        let clean = Source { path: path.clone(), text: "//! Clean.\n\nfn main() {}\n".into() };
        assert_eq!(check(&clean), []);
        let dirty = Source { path, text: "fn main() {\n    unsafe {} \n}".into() };
        let lines: Vec<usize> = check(&dirty).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [1, 2, 2, 3]);
    }
}
