//! The clock of all stamps, deadlines and leases.
//!
//! Both numbers are constants of the loaded object: the verifier sees the zeros of what ships, and nothing of the
//! correction is left in the program. Only the lab's daemon loads it with others.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use ringbeat_common::clock;

/// The rate of a lab's clock; 0 in what ships.
#[unsafe(no_mangle)]
static CLOCK_RATE: u64 = 0;
/// Its offset; 0 in what ships.
#[unsafe(no_mangle)]
static CLOCK_OFFSET: u64 = 0;

/// Now.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: statics of this object; the helper reads the clock.
    unsafe { clock::skewed(bpf_ktime_get_boot_ns(), rate(), read_volatile(&raw const CLOCK_OFFSET)) }
}

/// A point of this node's clock that is still to come, as the kernel's timers take it.
#[inline(always)]
pub(crate) fn true_point(at_ns: u64, now_ns: u64) -> u64 {
    // SAFETY: reads the clock.
    unsafe { bpf_ktime_get_boot_ns() + clock::true_length(at_ns.saturating_sub(now_ns), rate()) }
}

#[inline(always)]
fn rate() -> u64 {
    // SAFETY: a static of this object; volatile, as the loader may have changed it.
    unsafe { read_volatile(&raw const CLOCK_RATE) }
}
