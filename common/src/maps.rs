//! The values of the shared maps, their layout asserted, and the ABI version that guards it.
//!
//! Who writes what is said at each; how it stays whole is in `docs/atomicity.md`.

use crate::drops::DROPS_MAX;
use crate::histogram::Histogram;
use crate::lease::LEASE_WORDS;
use crate::limits::SLOTS_MAX;
use crate::slot::Slot;
use crate::watch::{Credit, Watch};

/// The version of everything in this file, part of the pins' path. A change of any layout or meaning raises it.
///
/// 2 added `LEASE`, `GATE_LOGS`, `ADDRESSES` and `CGROUPS`; the view moved from `NODE` to `LEASE`. All else is as in 1,
/// so its maps serve as they are.
pub const ABI: u32 = 2;
/// The oldest version whose pins a daemon of this build adopts: one back.
pub const ABI_OLDEST: u32 = ABI - 1;

/// `NODE`: this node, as every frame needs it. Mapped by the daemon; `incarnation` is written last to open and first to
/// close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Node {
    /// Our incarnation; 0 closes the plane: nothing is answered, nothing leaves.
    pub incarnation: u64,
    /// Our slot.
    pub slot: u64,
    /// The cluster.
    pub cluster_id: u64,
    /// The config version that the daemon runs.
    pub config_version: u64,
    /// Where ABI 1 had the view; 0.
    pub unused: [u64; 3],
    /// The slots that this node hears.
    pub heard: u64,
    /// Flags that the daemon sets on every frame (leaving, hand-over).
    pub flags: u64,
    /// The key that seals outgoing frames.
    pub key_id: u64,
    /// The longest deadline of any link: how long a credit is kept.
    pub deadline_max_ns: u64,
    /// The shortest probe interval of any link: the grid of the timer.
    pub interval_min_ns: u64,
    /// The ABI that wrote this.
    pub abi: u64,
}

/// States of the obituary latch.
pub mod latch {
    /// Nobody is registered.
    pub const OPEN: u64 = 0;
    /// The registered process lives.
    pub const ALIVE: u64 = 1;
    /// It is gone. Only the registration of a new process, with a new incarnation, leaves this state.
    pub const GONE: u64 = 2;
    /// It went inside an announced hand-over, as it had said; gone once that has run out.
    pub const HANDED_OVER: u64 = 3;
    /// It lives, has done all that it had to do before a hand-over, and goes now. Whoever dies before this is gone, announced
    /// hand-over or not.
    pub const GOING: u64 = 4;
    /// A hand-over goes on only with so much of it left at the registration: what may lie between the look at the clock and
    /// the state, an interrupt or two, is shorter by far.
    pub const ADOPT_LEAST_NS: u64 = 5_000_000;
}

/// `LATCH`: the registered daemon. Set by the tracepoints, looked at before any frame is sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Latch {
    /// See [`latch`]; the tracepoints, and the daemon's last act, change it by compare-and-swap.
    pub state: u64,
    /// The registered thread group, in the numbering of the initial namespace.
    pub tgid: u64,
    /// When it was registered.
    pub registered_ns: u64,
    /// When it was seen to go.
    pub gone_ns: u64,
    /// Until when the going of the daemon is planned; 0 for never.
    pub handover_until_ns: u64,
    /// When the main loop last ran. The daemon writes it, the kernel sends its age.
    pub beat_ns: u64,
}

impl Latch {
    /// Whether frames must say "gone" now. The state has been read before the end.
    ///
    /// Registration clears the end and then writes the state: an end of 0 beside a hand-over is a registration under way,
    /// of a daemon that lives.
    #[inline(always)]
    pub const fn is_gone(state: u64, handover_until_ns: u64, now_ns: u64) -> bool {
        state == latch::GONE
            || (state == latch::HANDED_OVER && handover_until_ns != 0 && now_ns > handover_until_ns)
    }
}

/// `LEASE`: the table of [`crate::lease`]. Written by the daemon and by the programs at once; `docs/atomicity.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LeaseTable {
    /// By the constants of [`crate::lease`].
    pub words: [u64; LEASE_WORDS],
}

/// `GATE_LOGS`: what has passed a gate, and what has not. Added to by the gate; cleared by the daemon when it opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GateLog {
    /// Packets that passed.
    pub passed: u64,
    /// Packets that were dropped.
    pub dropped: u64,
    /// When the first one passed since the daemon opened it; 0 for none.
    pub first_pass_ns: u64,
    /// When the last one did.
    pub last_pass_ns: u64,
}

/// The key of `ADDRESSES`: an IPv6 address, or an IPv4 one in its mapped form (RFC 4291, section 2.5.5.2), as four words
/// in network order.
pub type AddressKey = [u32; 4];

/// The key of an IPv4 address, given as it stands in a packet.
#[inline(always)]
pub const fn ipv4_key(network_order: u32) -> AddressKey {
    [0, 0, 0xffff_u32.to_be(), network_order]
}

/// `LINKS`: one for each link. Written by the daemon while the plane is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Link {
    /// The interface; 0 for no such link.
    pub ifindex: u32,
    /// The UDP port, in host order.
    pub port: u32,
    /// Interval × count: how old a returned stamp may be.
    pub deadline_ns: u64,
}

/// `TICK`: the timer's own book. Written by the timer alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tick {
    /// When the next run is due; 0 when the timer is not armed.
    pub next_ns: u64,
    /// The point of the grid that the next run after this belongs to.
    pub grid_ns: u64,
    /// Runs so far.
    pub runs: u64,
    /// Runs that came later than a stall.
    pub stalls: u64,
    /// The latest that a run ever was.
    pub late_max_ns: u64,
    /// All stalls together.
    pub stalled_ns: u64,
    /// By how much deadlines are wider now.
    pub credit: Credit,
    /// What the last scan cost.
    pub scan_ns: u64,
}

/// `COUNTERS`: of one cell. Each is added to atomically.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Our probes that left; their sequence number.
    pub probes_sent: u64,
    /// Answers accepted.
    pub answers: u64,
    /// The peer's probes accepted and answered.
    pub probes_answered: u64,
    /// Accepted frames that proved nothing.
    pub unproven: u64,
    /// The last one-way difference, for the jitter.
    pub transit_ns: u64,
}

/// `TRIPS`: of one cell.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Trips {
    /// Round trips, less the time in the peer.
    pub round_trip: Histogram,
    /// Differences of successive one-way times (RFC 3550, section 6.4.1).
    pub jitter: Histogram,
    /// Times between two successive proofs of life: what a shorter deadline would have called late.
    pub silence: Histogram,
}

/// `WATCHES`: all cells, in one value.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Watches {
    /// By `limits::cell`.
    pub cells: [Watch; SLOTS_MAX],
}

/// `DROPS`: of one link, by [`Drop`](crate::drops::Drop).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Drops {
    /// Frames dropped.
    pub counts: [u64; DROPS_MAX],
}

const _: () = assert!(size_of::<Node>() == 104);
const _: () = assert!(size_of::<Latch>() == 48);
const _: () = assert!(size_of::<LeaseTable>() == LEASE_WORDS * 8);
const _: () = assert!(size_of::<GateLog>() == 32);
const _: () = assert!(size_of::<Link>() == 16);
const _: () = assert!(size_of::<Tick>() == 72);
const _: () = assert!(size_of::<Counters>() == 40);
const _: () = assert!(size_of::<Trips>() == 3 * 808);
const _: () = assert!(size_of::<Watch>() == 32);
const _: () = assert!(size_of::<Watches>() == SLOTS_MAX * 32);
const _: () = assert!(size_of::<Slot>() == 120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_under_way_is_not_gone() {
        let gone = |state, until_ns| Latch::is_gone(state, until_ns, 60);
        assert!(gone(latch::GONE, 0) && gone(latch::GONE, 70));
        assert!(gone(latch::HANDED_OVER, 59) && !gone(latch::HANDED_OVER, 60));
        // What a program sees that runs between the two stores of `register`.
        assert!(!gone(latch::HANDED_OVER, 0));
        assert!(!gone(latch::ALIVE, 0) && !gone(latch::GOING, 0) && !gone(latch::OPEN, 0));
    }
}
