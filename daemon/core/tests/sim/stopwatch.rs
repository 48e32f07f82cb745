//! How long a series has been running, for whoever waits; no history depends on it.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the tests' own clock, not a machine's"
)]

use std::time::{Duration, Instant};

/// Begins when it is made.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn passed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Whether so many minutes are over, if it is about minutes.
    pub(crate) fn is_over(&self, minutes: Option<u64>) -> bool {
        minutes.is_some_and(|minutes| self.passed() > Duration::from_secs(60 * minutes))
    }
}
