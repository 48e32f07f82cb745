//! tcx egress, the sending end of a link: completes the daemon's probes on their way out.
//!
//! The daemon's thread gives the beat, the kernel the content: sequence number, stamp, what came back, flags and tag
//! are of the moment of leaving, under the same rule as an answer's. XDP has no egress side, hence this program.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::helpers::generated::{
    bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_spin_lock, bpf_spin_unlock,
};
use aya_ebpf::programs::TcContext;
use ringbeat_common::compose::{Address, Granting, compose, may_grant};
use ringbeat_common::drops::Drop;
use ringbeat_common::frame::{FRAME_BYTES, FRAME_WORDS, Frame, Kind};
use ringbeat_common::lease::{self, Whole};
use ringbeat_common::limits::cell;

use crate::heartbeat::sum;
use crate::packet::locate;
use crate::{Outcome, atomic, clock, maps};

/// Completes a probe; everything else passes untouched.
#[inline(always)]
pub(crate) fn send(ctx: &TcContext) -> Outcome {
    let Some(place) = locate(ctx.data(), ctx.data_end()) else { return Outcome::Pass };
    let Some(link) = maps::LINKS.get(u32::from(place.link)) else { return Outcome::Pass };
    // SAFETY: the kernel keeps the context for the program's run.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    if link.ifindex != ifindex || link.port != u32::from(place.port) {
        return Outcome::Pass;
    }
    let mut frame = Frame([0; FRAME_WORDS]);
    let offset = (place.udp + 8) as u32;
    let size = FRAME_BYTES as u32;
    // SAFETY: the helper fills exactly the frame.
    if unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, addr_of_mut!(frame).cast(), size) } != 0
        || frame.kind() != Kind::Probe as u8
    {
        return Outcome::Pass;
    }
    let on_link = u32::from(place.link);
    let before = if place.ipv6 { sum(&mut frame) } else { 0 };
    if complete(&mut frame).is_none() {
        return Outcome::Dropped(Drop::Closed, on_link);
    }
    // SAFETY: the helpers read exactly the frame.
    let stored = unsafe {
        if place.ipv6 {
            let difference = u64::from(!before) + u64::from(sum(&mut frame));
            let difference = (difference & 0xffff_ffff) + (difference >> 32);
            bpf_l4_csum_replace(ctx.skb.skb, (place.udp + 6) as u32, 0, difference, 0);
        }
        bpf_skb_store_bytes(ctx.skb.skb, offset, addr_of_mut!(frame).cast(), size, 0)
    };
    if stored != 0 { Outcome::Dropped(Drop::Malformed, on_link) } else { Outcome::Pass }
}

/// Makes the probe what it is as it leaves, and raises its cell's count; none while the plane is closed, or to a peer without an accepted
/// incarnation.
#[inline(always)]
fn complete(frame: &mut Frame) -> Option<()> {
    // The generation before everything that it guards.
    let lease = maps::lease()?;
    let serving = lease::serving(&lease);
    let node = maps::node()?;
    let key = maps::key(node.key_id as u8)?;
    let index = cell(frame.link(), frame.target());
    let slot = maps::SLOTS.get_ptr_mut(index as u32)?;
    let counters = maps::COUNTERS.get_ptr_mut(index as u32)?;
    let watches = maps::WATCHES.get_ptr_mut(0)?;
    // SAFETY: a valid map value, read under its lock.
    let peer = unsafe {
        bpf_spin_lock(addr_of_mut!((*slot).lock).cast());
        let peer = (*slot).snapshot();
        bpf_spin_unlock(addr_of_mut!((*slot).lock).cast());
        peer
    };
    if node.incarnation == 0 || peer.incarnation == 0 {
        return None;
    }
    // After all that the stamp speaks of; and before the latch, see `docs/lease.md`.
    let now_ns = clock::now_ns();
    let latch = maps::latch()?;
    // SAFETY: valid map values; `cell` keeps the index inside the array.
    let sequence = unsafe {
        let watch = addr_of_mut!((*watches).cells).cast::<ringbeat_common::watch::Watch>().add(index & 511);
        if atomic::load(addr_of!((*watch).unanswered_ns)) == 0 {
            atomic::store(addr_of_mut!((*watch).unanswered_ns), now_ns);
        }
        atomic::add(addr_of_mut!((*counters).probes_sent), 1)
    };
    let to = Address { target: frame.target(), link: frame.link(), sequence };
    let grant = may_grant(&node, &latch, now_ns)
        && lease::grant::<Whole, _>(&lease, &serving, frame.target(), peer.received, now_ns);
    let granting = Granting { view: serving.view, grant };
    compose(frame, Kind::Probe, &node, &latch, to, peer, granting, now_ns);
    frame.seal(key);
    Some(())
}
