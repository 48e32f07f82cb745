//! Every bound of the kernel plane has its name here.
//!
//! A bound that two parts share and that changes must change in one place; tables in the kernel are sized by these
//! at compile time, so a larger value needs a new [`ABI`](crate::maps::ABI).

/// Configured node slots; the hearing sets are 64-bit words.
pub const NODES_MAX: usize = 64;
/// Heartbeat networks of one cluster.
pub const LINKS_MAX: usize = 8;
/// Peer state cells: one for each peer on each link, `link * NODES_MAX + slot`.
pub const SLOTS_MAX: usize = NODES_MAX * LINKS_MAX;
/// Keys that may be in force at once, while one is rolled to the next.
pub const KEYS_MAX: usize = 4;
/// Gates of leased resources: the sets of what a node owns are 64-bit words.
pub const GATES_MAX: usize = 64;
/// The longest lease, interval × count of the slowest link, in ns. A node that does not know what it promised before
/// it started waits 1.25 of it.
pub const LEASE_MAX_NS: u64 = 2_000_000_000;
/// Bytes of the ring buffer from kernel to daemon: 2,048 events of 128 bytes with their headers.
pub const EVENT_RING_BYTES: usize = 1 << 18;
/// The shortest time between two runs of the expiry timer, in ns: what a scan may cost stays bounded.
pub const TICK_MIN_NS: u64 = 100_000;
/// The longest time between two runs of the expiry timer, in ns: a stall must be noticed.
pub const TICK_MAX_NS: u64 = 10_000_000;
/// A tick later than this counts as a stall of this node's own CPU, in ns.
pub const TICK_LATE_NS: u64 = 500_000;
/// The most that a node's own stalls widen its deadlines, in ns: a bound on how long a death can hide behind them.
pub const CREDIT_MAX_NS: u64 = 2_000_000_000;
/// A daemon whose main loop has not run for this long is told as stalled, in µs.
pub const STALL_TOLD_US: u32 = 100_000;

/// The cell of a peer on a link.
#[inline(always)]
pub const fn cell(link: u8, slot: u8) -> usize {
    ((link as usize) & (LINKS_MAX - 1)) * NODES_MAX + ((slot as usize) & (NODES_MAX - 1))
}
