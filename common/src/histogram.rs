//! Round trips and jitter, counted in the kernel in four buckets an octave: a quantile is its bucket's upper edge, and so at
//! most 25 % too high.

/// Buckets: from 256 ns to 8.6 s, four an octave.
pub const BUCKETS: usize = 100;
const LOWEST_SHIFT: u32 = 8;

/// Counts of one peer on one link. Adds are atomic; `max_ns` is a plain maximum that a race may miss by one sample.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Histogram {
    /// Samples in each bucket.
    pub counts: [u64; BUCKETS],
    /// The largest sample, in ns.
    pub max_ns: u64,
}

impl Histogram {
    /// No samples.
    pub const EMPTY: Self = Self { counts: [0; BUCKETS], max_ns: 0 };

    /// All samples.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The upper edge, in ns, of the bucket that holds the `permille` quantile; 0 without samples.
    pub fn quantile_ns(&self, permille: u64) -> u64 {
        let total = self.total();
        let mut left = (total * permille).div_ceil(1000).max(1);
        for (bucket, count) in self.counts.iter().enumerate() {
            if *count >= left {
                return upper_ns(bucket).min(self.max_ns.max(1));
            }
            left -= count;
        }
        0
    }

    /// Counts one sample.
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.max_ns = self.max_ns.max(ns);
    }
}

/// The bucket of a sample.
#[inline(always)]
pub const fn bucket(ns: u64) -> usize {
    if ns < 1 << LOWEST_SHIFT {
        return 0;
    }
    // No count of leading zeros in this instruction set: a search in six steps, the same at both ends.
    let mut octave = 0;
    let mut rest = ns;
    if rest >> 32 != 0 {
        rest >>= 32;
        octave += 32;
    }
    if rest >> 16 != 0 {
        rest >>= 16;
        octave += 16;
    }
    if rest >> 8 != 0 {
        rest >>= 8;
        octave += 8;
    }
    if rest >> 4 != 0 {
        rest >>= 4;
        octave += 4;
    }
    if rest >> 2 != 0 {
        rest >>= 2;
        octave += 2;
    }
    if rest >> 1 != 0 {
        octave += 1;
    }
    let quarter = (ns >> (octave - 2)) & 3;
    let bucket = ((octave - LOWEST_SHIFT) as usize) * 4 + quarter as usize;
    if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
}

/// The first sample, in ns, that lies above the bucket.
pub const fn upper_ns(bucket: usize) -> u64 {
    let next = bucket as u64 + 1;
    ((4 + next % 4) << (next / 4)) << (LOWEST_SHIFT - 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sample_lies_in_its_bucket(ns in 256u64..8_000_000_000) {
            let bucket = bucket(ns);
            prop_assert!(ns < upper_ns(bucket), "{ns} {bucket} {}", upper_ns(bucket));
            prop_assert!(bucket == 0 || ns >= upper_ns(bucket - 1));
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::EMPTY;
        assert_eq!(histogram.quantile_ns(500), 0);
        for us in 1..=1000 {
            histogram.record(us * 1000);
        }
        let p50 = histogram.quantile_ns(500);
        assert!((500_000..=600_000).contains(&p50), "{p50}");
        assert_eq!(histogram.quantile_ns(1000), 1_000_000);
        histogram.record(u64::MAX);
        assert_eq!(histogram.counts[BUCKETS - 1], 1);
    }
}
