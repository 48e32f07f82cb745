//! The table of the lease: where each word stands, how it is reached, and the words that hold two things at once.

use crate::limits::{GATES_MAX, NODES_MAX};

/// Words of the table.
pub const LEASE_WORDS: usize = GATES + 2 * GATES_MAX;

/// The generation of the installed view; 0 serves nobody.
pub const GENERATION: usize = 0;
/// The installed view, three words.
pub const VIEW: usize = 1;
/// The view announced last, three words.
pub const ANNOUNCED: usize = 4;
/// Nothing is granted, and the own vote does not count, before this, in ns.
pub const NOT_BEFORE_NS: usize = 7;
/// From when on the own votes alone are a quorum, in ns; `u64::MAX` for never.
pub const ALONE_FROM_NS: usize = 8;
/// The own votes.
pub const OWN_VOTES: usize = 9;
/// The votes that a quorum has.
pub const QUORUM: usize = 10;
/// Slots from here on are not configured.
pub const SLOTS_END: usize = 11;
/// E: a [`Stamped`], until when the installed view's grants last.
pub const UNTIL: usize = 12;
/// What has been told: the generation from bit 2 on, and one of [`TOLD_VALID`] and [`TOLD_CARRIED`], or none.
pub const TOLD: usize = 13;
/// The generation's own grants were told as a valid lease.
pub const TOLD_VALID: u64 = 1;
/// What was carried over stands for it so far.
pub const TOLD_CARRIED: u64 = 2;
/// By how much gates close before the lease ends, in µs.
pub const SLACK_US: usize = 14;
/// How often the lease has run out and come back inside a generation.
pub const LAPSES: usize = 15;
/// The longest of them, in µs.
pub const LAPSE_MAX_US: usize = 16;
/// The latest time that any gate has carried over, in µs.
pub const CARRIED_MAX_US: usize = 17;
/// The last generation that was, which no later one repeats.
pub const GENERATION_LAST: usize = 18;
/// The latest promise to a life of some node that another life of it has replaced, in µs: two machines may have one id.
pub const REPLACED_UNTIL_US: usize = 19;
/// 1 once the table tells all that may have been promised: until then a daemon that finds it has to wait.
pub const KNOWS: usize = 20;
/// Which last octets leased addresses have: two words, a bit for each value of the lower seven bits. An address whose bit
/// is not set is not leased, so most packets need no look into the table of addresses.
pub const OCTETS: usize = 21;
/// When the last of the lapses ended, in µs.
pub const LAPSE_ENDED_US: usize = 23;
/// Promises, a [`Promise`] for each slot.
pub const PROMISES: usize = 24;
/// Grants counted, a [`Stamped`] for each slot.
pub const COUNTS: usize = PROMISES + NODES_MAX;
/// Votes of the installed view's other members; 0 for everybody else.
pub const VOTES: usize = COUNTS + NODES_MAX;
/// For each gate two words: whether it may open, and until when a lease that was carried over lasts, in µs.
pub const GATES: usize = VOTES + NODES_MAX;

/// The promise outlasts the lease by a quarter: the kernel's clocks are slewed by up to 11 % at both ends, and
/// 1.25 / 1.11 > 1.11.
pub const PROMISE_QUARTERS: u64 = 5;
/// Tries of a compare-and-swap in a program; only other processors of this node compete.
pub(super) const TRIES: usize = 4;
const US_BITS: u32 = 48;
pub(super) const US: u64 = (1 << US_BITS) - 1;
pub(super) const REVOKED: u64 = 1 << US_BITS;
const GENERATION_SHIFT: u32 = US_BITS + 1;
/// The greatest generation; the next one is 1 again.
pub const GENERATION_MAX: u64 = (1 << (64 - GENERATION_SHIFT)) - 1;

/// The table, by whoever can reach it: mapped memory, a map value inside a program, plain cells in a simulation.
///
/// Every method is one whole access. `swap_if` orders all accesses around it.
pub trait Words {
    /// Reads a word.
    fn load(&self, at: usize) -> u64;
    /// Writes a word.
    fn store(&self, at: usize, value: u64);
    /// Writes `new` if the word is `old`; true if it was.
    fn swap_if(&self, at: usize, old: u64, new: u64) -> bool;
}

/// A granter's promise to one node: until when (µs, rounded up), under which generation, and whether it may be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise(pub u64);

impl Promise {
    /// Of these parts.
    #[inline(always)]
    pub const fn new(generation: u64, until_us: u64, revoked: bool) -> Self {
        let flag = if revoked { REVOKED } else { 0 };
        Self(generation << GENERATION_SHIFT | flag | until_us & US)
    }

    /// Until when, in µs.
    #[inline(always)]
    pub const fn until_us(self) -> u64 {
        self.0 & US
    }

    /// Whether it may not be renewed.
    #[inline(always)]
    pub const fn is_revoked(self) -> bool {
        self.0 & REVOKED != 0
    }

    /// The generation in which it may be renewed.
    #[inline(always)]
    pub const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }
}

/// A time with the generation that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped(pub u64);

impl Stamped {
    /// Of these parts.
    #[inline(always)]
    pub const fn new(generation: u64, us: u64) -> Self {
        Self(generation << GENERATION_SHIFT | us & US)
    }

    /// The time, in µs.
    #[inline(always)]
    pub const fn us(self) -> u64 {
        self.0 & US
    }

    /// The generation.
    #[inline(always)]
    pub const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }
}
