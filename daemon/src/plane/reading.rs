//! A cell as the commands show it.

use ringbeat_common::histogram::{self, Histogram};
use ringbeat_common::maps::{Counters, Trips};
use ringbeat_common::watch::Watch;
use ringbeat_control::Quantiles;

/// One peer on one link: what the timer sees, what was counted, how long it took.
#[derive(Clone, Copy, Debug)]
pub struct CellReading {
    /// What the timer sees.
    pub watch: Watch,
    /// What was counted.
    pub counters: Counters,
    /// Round trips, in µs.
    pub round_trip: Quantiles,
    /// Jitter, in µs.
    pub jitter: Quantiles,
    /// Silences that were longer than this many ms, for each of [`SILENCES_MS`].
    pub silences: [u64; SILENCES_MS.len()],
}

/// The lengths of silence that are counted for the commands; counted from the histogram's bucket on
/// that holds each, which begins up to 16 % below: never too few.
pub const SILENCES_MS: [u64; 5] = [3, 5, 10, 15, 20];

impl CellReading {
    /// Sums the histograms up.
    pub fn new(watch: Watch, counters: Counters, trips: &Trips) -> Self {
        Self {
            watch,
            counters,
            round_trip: quantiles(&trips.round_trip),
            jitter: quantiles(&trips.jitter),
            silences: SILENCES_MS.map(|ms| longer(&trips.silence, ms * 1_000_000)),
        }
    }
}

/// The three quantiles that people ask for, in µs.
pub fn quantiles(histogram: &Histogram) -> Quantiles {
    let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
    Quantiles {
        p50: us(histogram.quantile_ns(500)),
        p99: us(histogram.quantile_ns(990)),
        max: us(histogram.max_ns),
        count: histogram.total(),
    }
}

/// Samples in buckets that begin at this length, or at most one bucket's width below it.
fn longer(histogram: &Histogram, ns: u64) -> u64 {
    histogram.counts[histogram::bucket(ns)..].iter().sum()
}
