//! Ringbeat's kernel programs, and the only place that turns an outcome into a verdict.
//!
//! `heartbeat` (XDP) and `egress` (tcx) are the two ends of a link; `arm` starts the timer of `expiry`; `register` and
//! the two obituaries hold the latch; the gates stand on service interfaces and cgroups. The rules themselves are in `ringbeat-common`, shared with user space.
//! Deliberately not there: membership. The kernel says "seen", "late", "gone"; it decides nothing.
#![no_std]
#![no_main]
#![allow(internal_features, reason = "read-modify-write atomics have no other door on this target")]
#![feature(core_intrinsics)]

mod atomic;
mod clock;
mod egress;
mod expiry;
mod gate;
mod heartbeat;
mod maps;
mod obituary;
mod packet;

use aya_ebpf::bindings::{TC_ACT_SHOT, xdp_action};
use aya_ebpf::macros::{cgroup_skb, classifier, raw_tracepoint, xdp};
use aya_ebpf::programs::{RawTracePointContext, SkBuffContext, TcContext, XdpContext};
use ringbeat_common::drops::Drop;

/// Passes a packet on to the next tcx program, or to the wire.
const TCX_NEXT: i32 = -1;

/// What became of a packet.
pub enum Outcome {
    /// Not ours, or for user space: untouched.
    Pass,
    /// A probe, turned into its answer in place.
    Answered,
    /// An answer, taken in.
    Taken,
    /// Ours, and not good: the reason and the link on which to count it.
    Dropped(Drop, u32),
}

/// The receiving end of a link.
#[xdp]
pub(crate) fn heartbeat(ctx: XdpContext) -> u32 {
    match heartbeat::receive(&ctx) {
        Outcome::Pass => xdp_action::XDP_PASS,
        Outcome::Answered => xdp_action::XDP_TX,
        Outcome::Taken => xdp_action::XDP_DROP,
        Outcome::Dropped(reason, link) => {
            maps::count_drop(link, reason);
            #[cfg(feature = "log")]
            aya_log_ebpf::debug!(&ctx, "link {}: a frame dropped, reason {}", link, reason as u32);
            xdp_action::XDP_DROP
        }
    }
}

/// The sending end of a link: completes probes.
#[classifier]
pub(crate) fn egress(ctx: TcContext) -> i32 {
    match egress::send(&ctx) {
        Outcome::Pass | Outcome::Answered => TCX_NEXT,
        Outcome::Taken => TC_ACT_SHOT,
        Outcome::Dropped(reason, link) => {
            maps::count_drop(link, reason);
            TC_ACT_SHOT
        }
    }
}

/// The gate of leased addresses, towards the wire.
#[classifier]
pub(crate) fn gate_out(ctx: TcContext) -> i32 {
    if gate::passes_out(&ctx) { TCX_NEXT } else { TC_ACT_SHOT }
}

/// The same gate, from the wire.
#[classifier]
pub(crate) fn gate_in(ctx: TcContext) -> i32 {
    if gate::passes_in(&ctx) { TCX_NEXT } else { TC_ACT_SHOT }
}

/// The gate on interfaces that are not the address's own, for what this node itself sends.
#[classifier]
pub(crate) fn gate_local(ctx: TcContext) -> i32 {
    if gate::passes_local(&ctx) { TCX_NEXT } else { TC_ACT_SHOT }
}

/// The gate of a leased service: all packets of its cgroup, in and out.
#[cgroup_skb]
pub(crate) fn gate_cgroup(ctx: SkBuffContext) -> i32 {
    gate::passes_cgroup(&ctx) as i32
}

/// Starts the expiry timer, or hands it to this program after a replacement; run by the daemon, never attached.
#[xdp]
pub(crate) fn arm(_ctx: XdpContext) -> u32 {
    expiry::arm()
}

/// Registers the calling process as the daemon; run by the daemon, never attached.
#[raw_tracepoint]
pub(crate) fn register(_ctx: RawTracePointContext) -> i32 {
    obituary::register()
}

/// A thread exits.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub(crate) fn obituary(ctx: RawTracePointContext) -> i32 {
    obituary::exited(ctx.arg::<u64>(1) & 1 != 0)
}

/// A process replaces its image: the daemon is no more.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub(crate) fn obituary_exec(_ctx: RawTracePointContext) -> i32 {
    obituary::exited(true)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Lets the kernel lend the helpers that it keeps for free software.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
