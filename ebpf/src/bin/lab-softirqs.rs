//! The lab's watch over softirqs: for how long the kernel puts off frames and timers that are due.
//!
//! Softirqs that are not done at once wait for `ksoftirqd`, a thread of normal priority, or for the next interrupt on the
//! same core. Beside real-time threads that can take milliseconds, in which a core looks alive to a thread of its own.

#![no_std]
#![no_main]

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, generated::bpf_ktime_get_boot_ns},
    macros::{map, raw_tracepoint},
    maps::{PerCpuArray, RingBuf},
    programs::RawTracePointContext,
};

/// Softirqs of Linux (`include/linux/interrupt.h`), by number.
const VECTORS: u32 = 10;
/// Frames that leave, frames that come, timers: what a heartbeat waits for.
const WATCHED: [u64; 3] = [2, 3, 8];
/// From here on it is told.
const STALL_NS: u64 = 2_000_000;
/// Whoever reads looks now and then.
const NO_WAKEUP: u64 = 1;

/// When each softirq of this core became due; 0 when it is not.
#[map]
static DUE: PerCpuArray<u64> = PerCpuArray::with_max_entries(VECTORS, 0);

/// Since when, until when, on which core, which one.
#[map]
static STALLS: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

/// A softirq becomes due.
#[raw_tracepoint(tracepoint = "softirq_raise")]
pub(crate) fn due(ctx: RawTracePointContext) -> i32 {
    let Some(since) = watched(&ctx) else { return 0 };
    // SAFETY: a value of this core's own; interrupts are off here.
    unsafe {
        if *since == 0 {
            *since = bpf_ktime_get_boot_ns();
        }
    }
    0
}

/// It begins.
#[raw_tracepoint(tracepoint = "softirq_entry")]
pub(crate) fn begins(ctx: RawTracePointContext) -> i32 {
    let Some(at) = watched(&ctx) else { return 0 };
    // SAFETY: a value of this core's own. An interrupt that makes it due once more comes before or after, and is a
    // few instructions off at the most.
    let (since, now) = unsafe { (core::ptr::replace(at, 0), bpf_ktime_get_boot_ns()) };
    if since != 0 && now.saturating_sub(since) >= STALL_NS {
        // SAFETY: the helper reads the number of this core.
        let core = u64::from(unsafe { bpf_get_smp_processor_id() });
        // A full ring: thousands wait there to be told.
        let _ = STALLS.output::<[u64; 4]>([since, now, core, ctx.arg::<u64>(0)], NO_WAKEUP);
    }
    0
}

#[inline(always)]
fn watched(ctx: &RawTracePointContext) -> Option<*mut u64> {
    let vector = ctx.arg::<u64>(0) & 0xffff_ffff;
    if !WATCHED.contains(&vector) {
        return None;
    }
    DUE.get_ptr_mut(vector as u32)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
