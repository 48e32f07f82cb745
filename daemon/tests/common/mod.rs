//! What the tests that need root or a kernel have in common.

use std::fmt::Display;
use std::io::Write as _;

/// A test that this machine cannot run: skipped at a desk, a failure where `CI` is set.
///
/// The line goes past the test harness, which shows nothing of a test that passes; `cargo xtask test` counts it.
pub(crate) fn skipped(why: impl Display) {
    assert!(std::env::var_os("CI").is_none(), "CI must run this: {why}");
    let why = why.to_string().replace('\n', "; ");
    // Nobody listens: the test is skipped all the same.
    let _ = writeln!(std::io::stdout(), "\nskipped: {why}");
}
