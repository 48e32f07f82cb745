//! The maps, each with its writers, and the reads that programs share.
//!
//! Flag 1024 is BPF_F_MMAPABLE: the daemon reads and writes these as memory. Maps that hold a lock or a timer cannot
//! be mapped; `docs/atomicity.md` says what keeps each of them whole.

use core::ptr::addr_of;

use aya_ebpf::btf_maps::{Array, HashMap, RingBuf};
use aya_ebpf::macros::btf_map;
use ringbeat_common::drops::{DROPS_MAX, Drop};
use ringbeat_common::event::{Event, LEASE_CELL};
use ringbeat_common::lease::Words;
use ringbeat_common::limits::{EVENT_RING_BYTES, GATES_MAX, KEYS_MAX, LINKS_MAX, SLOTS_MAX};
use ringbeat_common::maps::{
    AddressKey, Counters, Drops, GateLog, Latch, LeaseTable, Link, Node, Tick, Trips, Watches,
};
use ringbeat_common::slot::Slot;

use crate::atomic;

const MAPPED: usize = 1024;

/// This node. Written by the daemon.
#[btf_map]
pub(crate) static NODE: Array<Node, 1, MAPPED> = Array::new();
/// The daemon's life. Written by the obituaries, by registration, and its beat by the daemon.
#[btf_map]
pub(crate) static LATCH: Array<Latch, 1, MAPPED> = Array::new();
/// The links. Written by the daemon while the plane is closed.
#[btf_map]
pub(crate) static LINKS: Array<Link, LINKS_MAX, MAPPED> = Array::new();
/// The keys in force; a key of zeros is none. Written by the daemon.
#[btf_map]
pub(crate) static KEYS: Array<[u64; 2], KEYS_MAX, 0> = Array::new();
/// What is known of each peer on each link, under its lock.
#[btf_map]
pub(crate) static SLOTS: Array<Slot, SLOTS_MAX, 0> = Array::new();
/// What the timer scans.
#[btf_map]
pub(crate) static WATCHES: Array<Watches, 1, MAPPED> = Array::new();
/// The timer's book. Written by the timer.
#[btf_map]
pub(crate) static TICK: Array<Tick, 1, MAPPED> = Array::new();
/// Counts of each cell; added to by both ends of the link.
#[btf_map]
pub(crate) static COUNTERS: Array<Counters, SLOTS_MAX, MAPPED> = Array::new();
/// Round trips and jitter of each cell. Written by the XDP program.
#[btf_map]
pub(crate) static TRIPS: Array<Trips, SLOTS_MAX, MAPPED> = Array::new();
/// Dropped frames of each link.
#[btf_map]
pub(crate) static DROPS: Array<Drops, LINKS_MAX, MAPPED> = Array::new();
/// The lease. Written by the daemon and by both ends of the links, word by word.
#[btf_map]
pub(crate) static LEASE: Array<LeaseTable, 1, MAPPED> = Array::new();
/// What has passed the gates. Added to by them.
#[btf_map]
pub(crate) static GATE_LOGS: Array<GateLog, GATES_MAX, MAPPED> = Array::new();
/// The gate of each leased address. Written by the daemon.
#[btf_map]
pub(crate) static ADDRESSES: HashMap<AddressKey, u64, GATES_MAX> = HashMap::new();
/// The gate of each leased service, by its cgroup's id. Written by the daemon.
#[btf_map]
pub(crate) static CGROUPS: HashMap<u64, u64, GATES_MAX> = HashMap::new();
/// To the daemon.
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, EVENT_RING_BYTES> = RingBuf::new();

const _: () = assert!(DROPS_MAX.is_power_of_two());

/// Counts a dropped frame.
#[inline(always)]
pub(crate) fn count_drop(link: u32, reason: Drop) {
    if let Some(drops) = DROPS.get_ptr_mut(link) {
        // SAFETY: a valid map value; the index is masked to its length.
        unsafe {
            let counts = (&raw mut (*drops).counts).cast::<u64>();
            atomic::add(counts.add(reason as usize & (DROPS_MAX - 1)), 1);
        }
    }
}

/// This node as it stands; each word whole. The daemon changes what belongs together only while the plane is closed.
#[inline(always)]
pub(crate) fn node() -> Option<Node> {
    let node = NODE.get_ptr(0)?;
    // SAFETY: a valid map value.
    unsafe {
        Some(Node {
            incarnation: atomic::load(addr_of!((*node).incarnation)),
            slot: atomic::load(addr_of!((*node).slot)),
            cluster_id: atomic::load(addr_of!((*node).cluster_id)),
            config_version: atomic::load(addr_of!((*node).config_version)),
            unused: [0; 3],
            heard: atomic::load(addr_of!((*node).heard)),
            flags: atomic::load(addr_of!((*node).flags)),
            key_id: atomic::load(addr_of!((*node).key_id)),
            deadline_max_ns: 0,
            interval_min_ns: 0,
            abi: 0,
        })
    }
}

/// The latch as it stands. The state is read first: what is set before it is seen with it.
#[inline(always)]
pub(crate) fn latch() -> Option<Latch> {
    let latch = LATCH.get_ptr(0)?;
    // SAFETY: a valid map value.
    unsafe {
        Some(Latch {
            state: atomic::load(addr_of!((*latch).state)),
            tgid: 0,
            registered_ns: 0,
            gone_ns: 0,
            handover_until_ns: atomic::load(addr_of!((*latch).handover_until_ns)),
            beat_ns: atomic::load(addr_of!((*latch).beat_ns)),
        })
    }
}

/// The lease's table, as its functions want it.
pub(crate) struct LeaseWords(*mut u64);

impl Words for LeaseWords {
    #[inline(always)]
    fn load(&self, at: usize) -> u64 {
        // SAFETY: a valid map value; its functions keep `at` inside, and the verifier checks it.
        unsafe { atomic::load(self.0.add(at)) }
    }

    #[inline(always)]
    fn store(&self, at: usize, value: u64) {
        // SAFETY: as above.
        unsafe { atomic::store(self.0.add(at), value) }
    }

    #[inline(always)]
    fn swap_if(&self, at: usize, old: u64, new: u64) -> bool {
        // SAFETY: as above.
        unsafe { atomic::swap(self.0.add(at), old, new) }
    }
}

/// The lease.
#[inline(always)]
pub(crate) fn lease() -> Option<LeaseWords> {
    LEASE.get_ptr_mut(0).map(|table| LeaseWords(table.cast()))
}

/// Tells that the lease is valid now (1) or has run out (0).
#[inline(always)]
pub(crate) fn tell_lease(to: u64, now_ns: u64, until_ns: u64, generation: u64) {
    let event = Event {
        stamp_ns: now_ns,
        cell: LEASE_CELL,
        by_timer: (to == 0) as u32,
        from: to ^ 1,
        to,
        heard_ns: until_ns,
        unanswered_ns: 0,
        credit_ns: 0,
        incarnation: generation,
        daemon_age_us: 0,
        flags: 0,
    };
    let _ = EVENTS.output(event, 0);
}

/// The key of an id, if it is in force.
#[inline(always)]
pub(crate) fn key(id: u8) -> Option<[u64; 2]> {
    let key = *KEYS.get(u32::from(id))?;
    if key[0] | key[1] == 0 { None } else { Some(key) }
}
