//! What the kernel tells the daemon: one record for each change of a cell's state word, through the ring buffer.

/// In the place of a cell: the lease became valid (`to` 1) or ran out (`to` 0). `incarnation` is the generation of the
/// view, `heard_ns` the end of the lease.
pub const LEASE_CELL: u32 = 0x1_0000;

/// A change of a cell, with its evidence. All times by the boot-time clock, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// When the kernel saw it.
    pub stamp_ns: u64,
    /// The cell: `link * NODES_MAX + slot`.
    pub cell: u32,
    /// Whether the timer (1) or a frame (0) brought it.
    pub by_timer: u32,
    /// The state word before.
    pub from: u64,
    /// The state word after.
    pub to: u64,
    /// When the peer last proved life on the link, before this.
    pub heard_ns: u64,
    /// When the first unanswered probe left; 0 for none.
    pub unanswered_ns: u64,
    /// By how much deadlines were widened.
    pub credit_ns: u64,
    /// The incarnation that the cell is about; 0 from the timer, which may not take the slot's lock.
    pub incarnation: u64,
    /// The frame's word on its sender's daemon, in µs.
    pub daemon_age_us: u32,
    /// The frame's flags.
    pub flags: u32,
}

const _: () = assert!(size_of::<Event>() == 72);
