//! XDP, the receiving end of a link: filter, authenticate, take in, answer.
//!
//! Cheap checks come first; no map but the drop counters changes before the tag has been checked.

use core::mem;
use core::ptr;
use core::ptr::addr_of;
use core::ptr::addr_of_mut;

use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_spin_lock, bpf_spin_unlock, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use aya_ebpf::programs::XdpContext;
use ringbeat_common::compose::{Address, Granting, compose, may_grant};
use ringbeat_common::drops::Drop;
use ringbeat_common::event::Event;
use ringbeat_common::frame::{FRAME_BYTES, FRAME_WORDS, Frame, Kind, VERSION, flags};
use ringbeat_common::histogram::{self, BUCKETS, Histogram};
use ringbeat_common::lease::{self, Counted, Serving, Whole};
use ringbeat_common::limits::{LINKS_MAX, NODES_MAX, cell};
use ringbeat_common::maps::{Link, Node};
use ringbeat_common::slot::{Local, Snapshot};
use ringbeat_common::view::View;
use ringbeat_common::watch::{after_proof, state};

use crate::packet::{Place, locate};
use crate::{Outcome, atomic, clock, maps};

const ETHERNET_ADDRESS: usize = 6;

/// Takes a packet from the wire.
#[inline(always)]
pub(crate) fn receive(ctx: &XdpContext) -> Outcome {
    let Some(place) = locate(ctx.data(), ctx.data_end()) else { return Outcome::Pass };
    let (Some(node), ifindex) = (maps::node(), ctx.ingress_ifindex() as u32) else { return Outcome::Pass };
    let link = match link_of(place, ifindex) {
        Ok(Some(link)) => link,
        Ok(None) => return Outcome::Pass,
        Err(arrived_on) => return Outcome::Dropped(Drop::WrongLink, arrived_on),
    };
    let mut frame = Frame([0; FRAME_WORDS]);
    // SAFETY: the helper fills exactly the frame.
    let loaded = unsafe {
        bpf_xdp_load_bytes(ctx.ctx, (place.udp + 8) as u32, addr_of_mut!(frame).cast(), FRAME_BYTES as u32)
    };
    if loaded != 0 || u64::from(frame.target()) != node.slot {
        return Outcome::Pass;
    }
    let on_link = u32::from(place.link);
    match authentic(&frame, &node) {
        Err(reason) => return Outcome::Dropped(reason, on_link),
        // The handshake is user space's.
        Ok(kind) if kind != Kind::Probe && kind != Kind::Answer => return Outcome::Pass,
        Ok(_) => {}
    }
    let Some(lease) = maps::lease() else { return Outcome::Pass };
    // The generation before everything that it guards.
    let serving = lease::serving(&lease);
    match take_in(&frame, &node, &link, &lease, &serving) {
        Err(reason) => Outcome::Dropped(reason, on_link),
        Ok(now_ns) if frame.kind() == Kind::Probe as u8 => {
            answer(ctx, place, &mut frame, &node, &lease, &serving, now_ns)
        }
        Ok(_) => Outcome::Taken,
    }
}

/// The link that the frame names, if it arrived there; none if the packet is not on a port of ours; the link that it
/// did arrive on if that is another one.
#[inline(always)]
fn link_of(place: Place, ifindex: u32) -> Result<Option<Link>, u32> {
    if let Some(link) = maps::LINKS.get(u32::from(place.link))
        && link.ifindex == ifindex
        && link.port == u32::from(place.port)
    {
        return Ok(Some(*link));
    }
    let mut at = 0;
    while at < LINKS_MAX as u32 {
        if let Some(link) = maps::LINKS.get(at)
            && link.ifindex == ifindex
            && link.port == u32::from(place.port)
        {
            return Err(at);
        }
        at += 1;
    }
    Ok(None)
}

/// Whether the frame is of this cluster, in a version that we read, and sealed with a key in force.
#[inline(always)]
fn authentic(frame: &Frame, node: &Node) -> Result<Kind, Drop> {
    if frame.min_version() > VERSION {
        return Err(Drop::Version);
    }
    let Some(kind) = Kind::from_u8(frame.kind()) else { return Err(Drop::Malformed) };
    if frame.sender() as usize >= NODES_MAX {
        return Err(Drop::Malformed);
    }
    if frame.cluster_id() != node.cluster_id {
        return Err(Drop::Foreign);
    }
    let Some(key) = maps::key(frame.key_id()) else { return Err(Drop::UnknownKey) };
    if frame.computed_tag(key) != frame.tag() {
        return Err(Drop::Forged);
    }
    if u64::from(frame.sender()) == node.slot && (kind == Kind::Probe || kind == Kind::Answer) {
        return Err(Drop::SelfSent);
    }
    Ok(kind)
}

/// Takes an authentic frame into its cell; gives the time of receipt.
#[inline(always)]
fn take_in(
    frame: &Frame,
    node: &Node,
    link: &Link,
    lease: &maps::LeaseWords,
    serving: &Serving,
) -> Result<u64, Drop> {
    if node.incarnation == 0 {
        return Err(Drop::Closed);
    }
    let index = cell(frame.link(), frame.sender());
    let Some(slot) = maps::SLOTS.get_ptr_mut(index as u32) else { return Err(Drop::Malformed) };
    let Some(counters) = maps::COUNTERS.get_ptr_mut(index as u32) else { return Err(Drop::Malformed) };
    let now_ns = clock::now_ns();
    let local = Local {
        incarnation: node.incarnation,
        view: [serving.view.epoch, serving.view.members, serving.view.rest],
        freshness_ns: link.deadline_ns,
        now_ns,
    };
    // SAFETY: a valid map value, changed under its lock only.
    let proves = unsafe {
        bpf_spin_lock(addr_of_mut!((*slot).lock).cast());
        let accepted = (*slot).accept(frame, &local);
        bpf_spin_unlock(addr_of_mut!((*slot).lock).cast());
        accepted?
    };
    let answer = frame.kind() == Kind::Answer as u8;
    // SAFETY: a valid map value; the adds are atomic.
    unsafe {
        if answer {
            atomic::add(addr_of_mut!((*counters).answers), 1);
        } else {
            atomic::add(addr_of_mut!((*counters).probes_answered), 1);
        }
    }
    if proves {
        of_lease(frame, lease, serving, now_ns);
        seen(frame, index, now_ns);
    } else {
        // SAFETY: as above.
        unsafe { atomic::add(addr_of_mut!((*counters).unproven), 1) };
    }
    if answer {
        measure(frame, index, now_ns);
    }
    Ok(now_ns)
}

/// What a frame that proves life says of the lease: its sender has none any more, or grants to this node.
#[inline(always)]
fn of_lease(frame: &Frame, lease: &maps::LeaseWords, serving: &Serving, now_ns: u64) {
    if frame.flags() & (flags::GONE | flags::RELEASED) != 0 {
        lease::ended::<Whole, _>(lease, serving, frame.sender(), now_ns);
    } else if frame.flags() & flags::GRANT != 0 {
        let view = View { epoch: frame.view_epoch(), members: frame.view_members(), rest: frame.0[9] };
        let counted =
            lease::count::<Whole, _>(lease, serving, frame.sender(), &view, frame.returned(), now_ns);
        if counted == Counted::Gained {
            maps::tell_lease(1, now_ns, lease::until_us(lease) * 1000, serving.generation);
        }
    }
}

/// The peer has proven life: the timer's cell starts anew, and a change of state is told.
#[inline(always)]
fn seen(frame: &Frame, index: usize, now_ns: u64) {
    let Some(watches) = maps::WATCHES.get_ptr_mut(0) else { return };
    // SAFETY: a valid map value; `cell` keeps the index inside the array.
    unsafe {
        let watch = addr_of_mut!((*watches).cells).cast::<ringbeat_common::watch::Watch>().add(index & 511);
        // Read before anything is written: a cell of another life is not ours to touch, and should the life change
        // from here on, the swap below fails.
        let from = atomic::load(addr_of!((*watch).state));
        if !state::is_of(from, frame.incarnation()) {
            return;
        }
        let heard_ns = atomic::load(addr_of!((*watch).heard_ns));
        let unanswered_ns = atomic::load(addr_of!((*watch).unanswered_ns));
        atomic::store(addr_of_mut!((*watch).heard_ns), now_ns);
        atomic::store(addr_of_mut!((*watch).unanswered_ns), 0);
        if heard_ns != 0
            && let Some(trips) = maps::TRIPS.get_ptr_mut(index as u32)
        {
            record(addr_of_mut!((*trips).silence), now_ns.wrapping_sub(heard_ns));
        }
        let to = after_proof(from, frame.flags(), frame.daemon_age_us());
        if to != from && atomic::swap(addr_of_mut!((*watch).state), from, to) {
            let event = Event {
                stamp_ns: now_ns,
                cell: index as u32,
                by_timer: 0,
                from,
                to,
                heard_ns,
                unanswered_ns,
                credit_ns: 0,
                incarnation: frame.incarnation(),
                daemon_age_us: frame.daemon_age_us(),
                flags: u32::from(frame.flags()),
            };
            let _ = maps::EVENTS.output(event, 0);
        }
    }
}

/// t1 our stamp that came back, t2 its receipt there, t3 the answer's stamp, t4 now: round trip and jitter.
#[inline(always)]
fn measure(frame: &Frame, index: usize, now_ns: u64) {
    let (Some(trips), Some(counters)) =
        (maps::TRIPS.get_ptr_mut(index as u32), maps::COUNTERS.get_ptr_mut(index as u32))
    else {
        return;
    };
    let there = frame.stamp().wrapping_sub(frame.received());
    let round_trip = now_ns.wrapping_sub(frame.returned()).wrapping_sub(there);
    let transit = now_ns.wrapping_sub(frame.stamp());
    // SAFETY: valid map values; `record` keeps its index inside the array.
    unsafe {
        let before = atomic::load(addr_of!((*counters).transit_ns));
        atomic::store(addr_of_mut!((*counters).transit_ns), transit);
        record(addr_of_mut!((*trips).round_trip), round_trip);
        if before != 0 {
            let difference = transit.cast_signed().wrapping_sub(before.cast_signed());
            record(addr_of_mut!((*trips).jitter), difference.unsigned_abs());
        }
    }
}

/// Counts a sample.
///
/// # Safety
/// `histogram` lies in a valid map value.
#[inline(always)]
unsafe fn record(histogram: *mut Histogram, ns: u64) {
    let bucket = histogram::bucket(ns);
    // SAFETY: the caller's; the index is bounded by `bucket`, and once more for the verifier.
    unsafe {
        if bucket < BUCKETS {
            atomic::add(addr_of_mut!((*histogram).counts).cast::<u64>().add(bucket), 1);
        }
        if ns > atomic::load(addr_of!((*histogram).max_ns)) {
            atomic::store(addr_of_mut!((*histogram).max_ns), ns);
        }
    }
}

/// Turns the probe into its answer, in place. Receipt and answer share one reading of the clock: they lie 0.3 µs
/// apart, and a stamp that is too early only makes a lease shorter.
#[inline(always)]
fn answer(
    ctx: &XdpContext,
    place: Place,
    frame: &mut Frame,
    node: &Node,
    lease: &maps::LeaseWords,
    serving: &Serving,
    now_ns: u64,
) -> Outcome {
    let on_link = u32::from(place.link);
    let Some(latch) = maps::latch() else { return Outcome::Pass };
    let Some(key) = maps::key(node.key_id as u8) else { return Outcome::Dropped(Drop::UnknownKey, on_link) };
    let before = if place.ipv6 { sum(frame) } else { 0 };
    let to = Address { target: frame.sender(), link: frame.link(), sequence: frame.sequence() };
    let peer = Snapshot { incarnation: frame.incarnation(), stamp: frame.stamp(), received: now_ns };
    let grant = may_grant(node, &latch, now_ns)
        && lease::grant::<Whole, _>(lease, serving, to.target, now_ns, now_ns);
    let granting = Granting { view: serving.view, grant };
    compose(frame, Kind::Answer, node, &latch, to, peer, granting, now_ns);
    frame.seal(key);
    let after = if place.ipv6 { sum(frame) } else { 0 };
    // SAFETY: the helper reads exactly the frame.
    let stored = unsafe {
        bpf_xdp_store_bytes(ctx.ctx, (place.udp + 8) as u32, addr_of_mut!(*frame).cast(), FRAME_BYTES as u32)
    };
    if stored != 0 || turn_round(ctx, place, before, after).is_none() {
        return Outcome::Dropped(Drop::Malformed, on_link);
    }
    Outcome::Answered
}

/// The ones-complement sum of a frame.
#[inline(always)]
pub(crate) fn sum(frame: &mut Frame) -> u32 {
    // SAFETY: the helper reads exactly the frame.
    unsafe { bpf_csum_diff(ptr::null_mut(), 0, addr_of_mut!(*frame).cast(), FRAME_BYTES as u32, 0) as u32 }
}

/// Swaps both ends in every header, and mends the UDP checksum: none over IPv4, where the tag is the better one, and
/// the difference of the two frames' sums over IPv6, where it must be there.
#[inline(always)]
fn turn_round(ctx: &XdpContext, place: Place, before: u32, after: u32) -> Option<()> {
    swap::<ETHERNET_ADDRESS>(ctx, 0, ETHERNET_ADDRESS)?;
    if place.ipv6 {
        swap::<16>(ctx, place.ip + 8, place.ip + 24)?;
    } else {
        swap::<4>(ctx, place.ip + 12, place.ip + 16)?;
    }
    swap::<2>(ctx, place.udp, place.udp + 2)?;
    let checksum = at::<u16>(ctx, place.udp + 6)?;
    // SAFETY: inside the packet.
    unsafe {
        if !place.ipv6 {
            checksum.write_unaligned(0);
            return Some(());
        }
        let old = u64::from(!checksum.read_unaligned());
        checksum.write_unaligned(folded(old + u64::from(!before) + u64::from(after)));
    }
    Some(())
}

/// A sum as a checksum of 16 bits; 0 stands for "none" in UDP, so its other form is sent.
#[inline(always)]
fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + ((sum >> 32) & 0xffff);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !(sum as u16);
    if checksum == 0 { 0xffff } else { checksum }
}

/// Swaps two fields of the packet.
#[inline(always)]
fn swap<const N: usize>(ctx: &XdpContext, a: usize, b: usize) -> Option<()> {
    let a = at::<[u8; N]>(ctx, a)?;
    let b = at::<[u8; N]>(ctx, b)?;
    // SAFETY: both inside the packet.
    unsafe {
        let old = a.read_unaligned();
        a.write_unaligned(b.read_unaligned());
        b.write_unaligned(old);
    }
    Some(())
}

/// A place of the packet, if the packet reaches so far.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    if start + mem::size_of::<T>() > ctx.data_end() { None } else { Some(start as *mut T) }
}
