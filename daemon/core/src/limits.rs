//! Every bound and every time of the core has its name here. What the kernel shares is in `ringbeat_common::limits`.

/// Intervals for which a link that came back must be heard without a gap before it counts.
pub const DAMPING_INTERVALS: u64 = 10;
/// Deadlines for which it must be heard at the least: a state word that is old news runs out in one.
pub const DAMPING_DEADLINES: u64 = 2;
/// The shortest damping, in ns.
pub const DAMPING_MIN_NS: u64 = 10_000_000;
/// The longest damping, in ns, however often the link flaps.
pub const DAMPING_MAX_NS: u64 = 5_000_000_000;
/// A flap doubles the damping for this long, in ns.
pub const FLAP_MEMORY_NS: u64 = 60_000_000_000;
/// Flaps remembered for each edge: enough to double the shortest damping to the longest.
pub const FLAPS_KEPT: usize = 10;

/// Between two Hellos to a peer that is not heard, in ns.
pub const HELLO_INTERVAL_NS: u64 = 200_000_000;
/// Before the second and the third Hello, in ns: at 0, 20 and 60 ms.
pub const HELLO_BURST_NS: [u64; 2] = [20_000_000, 40_000_000];
/// Between two Hellos to the own slot, in ns.
pub const ANNOUNCE_INTERVAL_NS: u64 = 1_000_000_000;
/// Before the second and the third Hello to the own slot, in ns: at 0, 50 and 150 ms.
pub const ANNOUNCE_BURST_NS: [u64; 2] = [50_000_000, 100_000_000];
/// Welcomes to one slot in a window: eight links at the Hellos' fastest pace, and some.
pub const WELCOMES_MAX: u32 = 64;
/// The window of [`WELCOMES_MAX`], in ns.
pub const WELCOME_WINDOW_NS: u64 = 1_000_000_000;
/// An echo of a nonce older than this proves nothing any more, in ns: a bound on how long a frame can be held back.
pub const NONCE_AGE_MAX_NS: u64 = 10_000_000_000;
/// Nonces that the pool holds when it is full: one for each slot, and one more.
pub const NONCES_POOLED: usize = 128;
/// Superseded incarnations remembered for each peer.
pub const SUPERSEDED_KEPT: usize = 4;
