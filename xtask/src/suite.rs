//! `cargo xtask test`: every suite in order, shown while it runs, and one closing line that counts.
//!
//! The closing line is the last line on the standard output: `N passed, N failed, N skipped`. A suite that
//! crashed, was never counted, or counted nothing at all is a failure too: silence is not success.
//!
//! Deliberately not here: the tests. Unit tests lie in their crates, the end-to-end ones in `tests/lab`.

use std::env;
use std::process::ExitStatus;
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;

use crate::process::{self, Workspace};

/// Optimised, so that simulations are quick, but overflow and broken assertions still panic. It costs no
/// second build: with `panic = "abort"` cargo compiles for tests apart anyhow. Build scripts and macros stay as
/// they are, and so stay shared with the release build. Not by the environment, because the kernel programs'
/// own build would inherit that.
const CHECKED: [&str; 4] = [
    "profile.release.debug-assertions=true",
    "profile.release.overflow-checks=true",
    "profile.release.build-override.debug-assertions=false",
    "profile.release.build-override.overflow-checks=false",
];

/// How a unit test says that this machine cannot run it: see daemon/tests/common.
const SKIPPED: &str = "skipped: ";

/// A group of tests that is run by one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Unit, simulation and documentation tests of every crate
    Unit,
    /// Real daemons in network namespaces
    E2e,
}

/// What a suite, or all of them, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Runs the suites; false if anything at all went wrong, which was then said.
pub(crate) fn run(workspace: &Workspace, only: Option<Suite>, filter: Option<&str>) -> Result<bool> {
    let started = Instant::now();
    let mut total = Tally::default();
    let mut complaints = Vec::new();
    for suite in [Suite::Unit, Suite::E2e] {
        if only.is_some_and(|only| only != suite) {
            continue;
        }
        let suite_started = Instant::now();
        let (name, outcome) = match suite {
            Suite::Unit => ("unit", unit(workspace, filter)),
            Suite::E2e => ("e2e", end_to_end(workspace, filter)),
        };
        let tally = match outcome {
            Ok(tally) => tally,
            Err(error) => {
                complaints.push(format!("{name}: {error:#}"));
                // A suite that fell over is at least one failure, also in the count.
                Tally { failed: 1, ..Tally::default() }
            }
        };
        println!("== {name}: {tally}, in {} s", suite_started.elapsed().as_secs());
        total.add(tally);
    }
    let in_ci = env::var("CI").is_ok_and(|ci| ci == "true");
    complaints.extend(objections(total, in_ci));
    println!("== all suites took {} s", started.elapsed().as_secs());
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    println!("{total}");
    Ok(complaints.is_empty())
}

/// Why a count as a whole is not a success.
fn objections(total: Tally, in_ci: bool) -> Vec<String> {
    let mut objections = Vec::new();
    if total.failed > 0 {
        objections.push(format!("{} failed: see above", total.failed));
    }
    if total == Tally::default() {
        objections.push("no test ran: the filter matches none, or the suites are empty".to_string());
    }
    if in_ci && total.skipped > 0 {
        objections.push(format!("{} skipped, and CI=true allows none", total.skipped));
    }
    objections
}

/// The tests of all crates but the kernel programs (another target) and the benches (not tests).
fn unit(workspace: &Workspace, filter: Option<&str>) -> Result<Tally> {
    println!("== unit: cargo test");
    let mut command = workspace.cargo();
    command.args(["test", "--locked", "--release", "--no-fail-fast", "--workspace"]);
    command.args(["--exclude", "ringbeat-ebpf", "--exclude", "ringbeat-benches"]);
    for setting in CHECKED {
        command.args(["--config", setting]);
    }
    command.args(filter);
    let (mut tally, mut skips) = (Tally::default(), 0);
    let status = process::streamed(&mut command, |line| {
        tally.add(cargo_count(line).unwrap_or_default());
        skips += u64::from(line.starts_with(SKIPPED));
        true
    })?;
    // To cargo a test that gave up has passed.
    let skips = skips.min(tally.passed);
    tally.passed -= skips;
    tally.skipped += skips;
    Ok(settle(tally, true, status, "cargo test"))
}

/// The lab's tests, with the programs as they are released.
fn end_to_end(workspace: &Workspace, filter: Option<&str>) -> Result<Tally> {
    println!("== e2e: real daemons in namespaces");
    process::build(workspace)?;
    let mut counted = None;
    let status = process::streamed(workspace.lab().arg("e2e").args(filter), |line| {
        let count = lab_count(line);
        counted = count.or(counted);
        // Its closing line comes back in ours.
        count.is_none()
    })?;
    Ok(settle(counted.unwrap_or_default(), counted.is_some(), status, "the lab"))
}

/// A program that ended badly without counting a failure, or without counting, crashed: that counts as one.
fn settle(mut tally: Tally, counted: bool, status: ExitStatus, who: &str) -> Tally {
    if !counted || (!status.success() && tally.failed == 0) {
        eprintln!("{who} ended with {status} and did not say why in its count");
        tally.failed += 1;
    }
    tally
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn cargo_count(line: &str) -> Option<Tally> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut tally = Tally::default();
    for part in counts.split(';') {
        let Some((count, word)) = part.trim().split_once(' ') else { continue };
        match word {
            "passed" => tally.passed = count.parse().ok()?,
            "failed" => tally.failed = count.parse().ok()?,
            "ignored" => tally.skipped = count.parse().ok()?,
            _ => {}
        }
    }
    Some(tally)
}

/// `3 passed, 0 failed, 1 skipped`, alone on its line; the last part may be absent.
fn lab_count(line: &str) -> Option<Tally> {
    let mut parts = line.trim().split(", ");
    let mut next = |word: &str| -> Option<u64> { parts.next()?.strip_suffix(word)?.trim_end().parse().ok() };
    let passed = next(" passed")?;
    let failed = next(" failed")?;
    let skipped = if line.contains(" skipped") { next(" skipped")? } else { 0 };
    parts.next().is_none().then_some(Tally { passed, failed, skipped })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn cargo_counts_are_read() {
        let line =
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s";
        assert_eq!(cargo_count(line), Some(Tally { passed: 3, failed: 0, skipped: 1 }));
        let line = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(cargo_count(line), Some(Tally { passed: 3, failed: 2, skipped: 0 }));
        assert_eq!(cargo_count("test a::b ... ok"), None);
    }

    #[test]
    fn the_labs_closing_line_is_read_only_when_alone() {
        assert_eq!(
            lab_count("3 passed, 1 failed, 2 skipped"),
            Some(Tally { passed: 3, failed: 1, skipped: 2 })
        );
        assert_eq!(lab_count("3 passed, 0 failed"), Some(Tally { passed: 3, failed: 0, skipped: 0 }));
        assert_eq!(lab_count("n1: 3 passed, 0 failed, 0 skipped"), None);
        assert_eq!(lab_count("3 passed, 0 failed, 0 skipped, 1 lost"), None);
        assert_eq!(lab_count("3 passed"), None);
    }

    #[test]
    fn a_crash_counts_as_a_failure() {
        let (fine, killed) = (ExitStatus::from_raw(0), ExitStatus::from_raw(9));
        let tally = Tally { passed: 5, ..Tally::default() };
        assert_eq!(settle(tally, true, fine, "x"), tally);
        assert_eq!(settle(tally, true, killed, "x").failed, 1);
        assert_eq!(settle(Tally::default(), false, fine, "x").failed, 1);
        // Failures that were counted are not counted again.
        let failing = Tally { failed: 2, ..tally };
        assert_eq!(settle(failing, true, killed, "x"), failing);
    }

    #[test]
    fn silence_and_skipping_in_ci_are_no_success() {
        let passed = Tally { passed: 5, ..Tally::default() };
        let skipped = Tally { skipped: 1, ..passed };
        assert!(objections(passed, true).is_empty());
        assert!(objections(skipped, false).is_empty());
        assert_eq!(objections(skipped, true).len(), 1);
        assert_eq!(objections(Tally::default(), false).len(), 1);
        assert_eq!(objections(Tally { failed: 1, ..passed }, false).len(), 1);
    }
}
