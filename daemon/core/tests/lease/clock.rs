//! A node's boot-time clock: it starts anywhere, and the kernel may slew it by 11 % either way.

/// The fastest and the slowest rate, in millionths of true time.
pub(crate) const RATES: (u64, u64) = (890_000, 1_110_000);

/// A clock that runs at one rate until it is slewed anew.
#[derive(Clone, Debug)]
pub(crate) struct Skewed {
    from_true_ns: u64,
    from_ns: u64,
    rate: u64,
}

impl Skewed {
    /// Reads `ns` at `true_ns`.
    pub(crate) fn new(true_ns: u64, ns: u64, rate: u64) -> Self {
        Self { from_true_ns: true_ns, from_ns: ns, rate }
    }

    /// What it reads.
    pub(crate) fn at(&self, true_ns: u64) -> u64 {
        self.from_ns + true_ns.saturating_sub(self.from_true_ns) * self.rate / 1_000_000
    }

    /// The first true time at which it reads `ns` or more.
    pub(crate) fn true_at(&self, ns: u64) -> u64 {
        self.from_true_ns + (ns.saturating_sub(self.from_ns) * 1_000_000).div_ceil(self.rate)
    }

    /// Another rate from now on.
    pub(crate) fn slew(&mut self, true_ns: u64, rate: u64) {
        *self = Self::new(true_ns, self.at(true_ns), rate);
    }

    /// Stands for so long, which no clock does that a lease may be read from.
    pub(crate) fn stand(&mut self, true_ns: u64, for_ns: u64) {
        *self = Self::new(true_ns + for_ns, self.at(true_ns), self.rate);
    }
}
