//! The timer that finds the late ones: one scan over all cells, at each point of a grid and at the earliest deadline.
//!
//! The grid notices stalls of this node's own CPU; the extra run at the very deadline makes the verdict exact to the
//! timer's own lateness. Re-arming is to absolute times: a relative one drifts by 4 %.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::{bpf_timer_init, bpf_timer_set_callback, bpf_timer_start};
use aya_ebpf::macros::btf_map;
use ringbeat_common::event::Event;
use ringbeat_common::lease;
use ringbeat_common::limits::{SLOTS_MAX, TICK_LATE_NS, TICK_MAX_NS, TICK_MIN_NS};
use ringbeat_common::watch::{Credit, Watch, state};

use crate::{atomic, clock, maps};

const CLOCK_BOOTTIME: u64 = 7;
const TIMER_ABSOLUTE: u64 = 1;
/// A timer that is there already: the program before this one made it.
const EBUSY: i64 = -16;

/// The kernel's timer, known to the verifier by its name.
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(non_camel_case_types, reason = "the verifier looks for the C name")]
pub(crate) struct bpf_timer {
    opaque: [u64; 2],
}

/// A value of its own: a write from user space would kill the timer.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Alarm {
    timer: bpf_timer,
}

#[btf_map]
static ALARM: Array<Alarm, 1, 0> = Array::new();

/// Starts the timer. Gives XDP_PASS, or XDP_ABORTED when the kernel has no timer for us.
#[inline(always)]
pub(crate) fn arm() -> u32 {
    let (Some(alarm), Some(tick)) = (ALARM.get_ptr_mut(0), maps::TICK.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: valid map values; the timer lies where the verifier knows it to be.
    unsafe {
        let timer = addr_of_mut!((*alarm).timer).cast();
        let made = bpf_timer_init(timer, addr_of!(ALARM).cast_mut().cast(), CLOCK_BOOTTIME);
        if made != 0 && made as i64 != EBUSY {
            return xdp_action::XDP_ABORTED;
        }
        if bpf_timer_set_callback(timer, expire as *mut c_void) != 0 {
            return xdp_action::XDP_ABORTED;
        }
        let now_ns = clock::now_ns();
        let next_ns = now_ns + TICK_MIN_NS;
        atomic::store(addr_of_mut!((*tick).next_ns), next_ns);
        atomic::store(addr_of_mut!((*tick).grid_ns), next_ns);
        if bpf_timer_start(timer, clock::true_point(next_ns, now_ns), TIMER_ABSOLUTE) != 0 {
            return xdp_action::XDP_ABORTED;
        }
    }
    xdp_action::XDP_PASS
}

/// One run of the timer.
extern "C" fn expire(_map: *mut c_void, _key: *mut u32, alarm: *mut Alarm) -> i32 {
    let (Some(tick), Some(watches), Some(node)) =
        (maps::TICK.get_ptr_mut(0), maps::WATCHES.get_ptr_mut(0), maps::NODE.get_ptr(0))
    else {
        return 0;
    };
    // SAFETY: valid map values; `tick` has no other writer while the timer runs.
    unsafe {
        let now_ns = clock::now_ns();
        let planned_ns = atomic::load(addr_of!((*tick).next_ns));
        let deadline_max_ns = atomic::load(addr_of!((*node).deadline_max_ns));
        let late_ns = now_ns.saturating_sub(planned_ns);
        let credit = Credit {
            ns: atomic::load(addr_of!((*tick).credit.ns)),
            since_ns: atomic::load(addr_of!((*tick).credit.since_ns)),
        }
        .after_tick(planned_ns, now_ns, TICK_LATE_NS, deadline_max_ns);
        atomic::store(addr_of_mut!((*tick).credit.ns), credit.ns);
        atomic::store(addr_of_mut!((*tick).credit.since_ns), credit.since_ns);
        (*tick).runs += 1;
        if late_ns > TICK_LATE_NS {
            (*tick).stalls += 1;
            (*tick).stalled_ns += late_ns;
        }
        if late_ns > (*tick).late_max_ns {
            (*tick).late_max_ns = late_ns;
        }
        if let Some(lease) = maps::lease()
            && let Some(until_us) = lease::lapsed(&lease, now_ns)
        {
            maps::tell_lease(0, now_ns, until_us * 1000, lease::serving(&lease).generation);
        }
        let earliest_ns = scan(addr_of_mut!((*watches).cells).cast(), now_ns, credit.ns);
        let interval_ns = atomic::load(addr_of!((*node).interval_min_ns)).clamp(TICK_MIN_NS, TICK_MAX_NS);
        let mut grid_ns = atomic::load(addr_of!((*tick).grid_ns));
        if grid_ns <= now_ns {
            // Missed points are skipped, not caught up.
            // A division that could panic would be no program for the verifier.
            let missed = (now_ns - grid_ns).checked_div(interval_ns).unwrap_or(0);
            grid_ns += (missed + 1) * interval_ns;
        }
        let mut next_ns = if earliest_ns < grid_ns { earliest_ns } else { grid_ns };
        if next_ns < now_ns + TICK_MIN_NS {
            next_ns = now_ns + TICK_MIN_NS;
        }
        atomic::store(addr_of_mut!((*tick).grid_ns), grid_ns);
        atomic::store(addr_of_mut!((*tick).next_ns), next_ns);
        atomic::store(addr_of_mut!((*tick).scan_ns), clock::now_ns() - now_ns);
        let next_ns = clock::true_point(next_ns, now_ns);
        bpf_timer_start(addr_of_mut!((*alarm).timer).cast(), next_ns, TIMER_ABSOLUTE);
    }
    0
}

/// Tells the cells that are late; gives the earliest deadline of the others.
///
/// # Safety
/// `cells` points to all the cells.
#[inline(always)]
unsafe fn scan(cells: *mut Watch, now_ns: u64, credit_ns: u64) -> u64 {
    let mut earliest_ns = now_ns + TICK_MAX_NS;
    for index in 0..SLOTS_MAX {
        // SAFETY: inside the array.
        unsafe {
            let at = cells.add(index);
            let from = atomic::load(addr_of!((*at).state));
            if from & state::HEARD == 0 {
                continue;
            }
            let watch = Watch {
                heard_ns: atomic::load(addr_of!((*at).heard_ns)),
                unanswered_ns: atomic::load(addr_of!((*at).unanswered_ns)),
                deadline_ns: (*at).deadline_ns,
                interval_ns: (*at).interval_ns,
                state: from,
            };
            if watch.unanswered_ns == 0 {
                continue;
            }
            let expires_ns = watch.expires_ns(credit_ns);
            if expires_ns > now_ns {
                if expires_ns < earliest_ns {
                    earliest_ns = expires_ns;
                }
            } else {
                tell(at, index, &watch, now_ns, credit_ns);
            }
        }
    }
    earliest_ns
}

/// Tells one late cell, unless a frame came in this very moment.
///
/// # Safety
/// `at` points to the cell.
#[inline(always)]
unsafe fn tell(at: *mut Watch, index: usize, watch: &Watch, now_ns: u64, credit_ns: u64) {
    let to = watch.state & !state::HEARD;
    // SAFETY: the caller's.
    let told = unsafe {
        atomic::load(addr_of!((*at).heard_ns)) == watch.heard_ns
            && atomic::swap(addr_of_mut!((*at).state), watch.state, to)
    };
    if told {
        let event = Event {
            stamp_ns: now_ns,
            cell: index as u32,
            by_timer: 1,
            from: watch.state,
            to,
            heard_ns: watch.heard_ns,
            unanswered_ns: watch.unanswered_ns,
            credit_ns,
            incarnation: 0,
            daemon_age_us: 0,
            flags: 0,
        };
        let _ = maps::EVENTS.output(event, 0);
    }
}
