//! The latch: set in the very exit of the registered daemon, before any later frame is sealed.
//!
//! The daemon is registered by a test run of `register` in its own context, so its number in the initial namespace is
//! known without asking anybody. A number that is used again does no harm: the latch closed when its first owner went,
//! and only a registration opens it.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use ringbeat_common::maps::latch;

use crate::{atomic, clock, maps};

/// Makes the calling process the daemon, alive from now on. Only a daemon that has closed the plane, or that takes
/// over a planned hand-over, calls this.
///
/// A plane that is open is taken over: what it says and lets pass would go on although the hand-over is over, and was called
/// gone. Test runs have preemption switched off (`bpf_prog_test_run_raw_tp`), so a process that stands still between a look at
/// the clock and the registration cannot do harm, as it could in the daemon. That finds the latch as it was where it has been
/// refused: no return value reaches it.
#[inline(always)]
pub(crate) fn register() -> i32 {
    let (Some(at), Some(node)) = (maps::LATCH.get_ptr_mut(0), maps::node()) else { return 1 };
    // SAFETY: a valid map value; the state is written last.
    unsafe {
        let now_ns = clock::now_ns();
        if node.incarnation != 0
            && atomic::load(addr_of!((*at).state)) == latch::HANDED_OVER
            && now_ns + latch::ADOPT_LEAST_NS >= atomic::load(addr_of!((*at).handover_until_ns))
        {
            return 1;
        }
        atomic::store(addr_of_mut!((*at).tgid), bpf_get_current_pid_tgid() >> 32);
        atomic::store(addr_of_mut!((*at).registered_ns), now_ns);
        atomic::store(addr_of_mut!((*at).gone_ns), 0);
        atomic::store(addr_of_mut!((*at).handover_until_ns), 0);
        atomic::store(addr_of_mut!((*at).beat_ns), now_ns);
        atomic::store(addr_of_mut!((*at).state), latch::ALIVE);
    }
    0
}

/// A thread goes; `last` when its whole process goes with it.
#[inline(always)]
pub(crate) fn exited(last: bool) -> i32 {
    if !last {
        return 0;
    }
    let Some(at) = maps::LATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: a valid map value.
    unsafe {
        let state = atomic::load(addr_of!((*at).state));
        if (state != latch::ALIVE && state != latch::GOING)
            || atomic::load(addr_of!((*at).tgid)) != bpf_get_current_pid_tgid() >> 32
        {
            return 0;
        }
        let now_ns = clock::now_ns();
        let planned = state == latch::GOING && atomic::load(addr_of!((*at).handover_until_ns)) > now_ns;
        let to = if planned { latch::HANDED_OVER } else { latch::GONE };
        atomic::store(addr_of_mut!((*at).gone_ns), now_ns);
        atomic::swap(addr_of_mut!((*at).state), state, to);
    }
    0
}
