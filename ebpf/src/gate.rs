//! The gate: packets of a leased address or service pass while this node's lease lasts, and not a moment longer.
//!
//! The clock is compared for every packet, so the gate holds when every process of the node is frozen, and the latch is
//! looked at first, so it closes with the death of the daemon. Answers to ARP and neighbour solicitation count as
//! packets of the address that they speak for. What is not leased pays for one look into a table.
//!
//! A neighbour solicitation to the group of the address comes in all the same: the group is that of every address with
//! the same end, the packet tells of its sender alone (RFC 4861, section 7.2.3), and its answer does not leave. One that
//! is sent to the address itself is a packet for it.
//!
//! Deliberately not there: VLAN tags inside the packet (the gate stands on the interface that has the address), and the
//! escapes that `docs/lease.md` names.

use core::mem;
use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::helpers::generated::{bpf_skb_cgroup_id, bpf_skb_load_bytes};
use aya_ebpf::programs::{SkBuffContext, TcContext};
use ringbeat_common::lease;
use ringbeat_common::limits::GATES_MAX;
use ringbeat_common::maps::{AddressKey, Latch, ipv4_key};

use crate::{atomic, clock, maps};

const ETHERNET_BYTES: u32 = 14;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Offset of an IPv4 header's two addresses.
const IPV4_ADDRESSES: u32 = ETHERNET_BYTES + 12;
/// Offset of an IPv6 header's two addresses.
const IPV6_ADDRESSES: u32 = ETHERNET_BYTES + 8;
const IPV6_NEXT_HEADER: u32 = ETHERNET_BYTES + 6;
const IPV6_BYTES: u32 = 40;
const ICMPV6: u8 = 58;
/// Type of a neighbour advertisement (RFC 4861, section 4.4).
const ADVERTISEMENT: u8 = 136;
/// Where it names the address that it speaks for.
const ADVERTISED: u32 = ETHERNET_BYTES + IPV6_BYTES + 8;
/// Offset of an ARP packet's operation (RFC 826), of IPv4 over Ethernet.
const ARP_OPERATION: u32 = ETHERNET_BYTES + 6;
const ARP_REQUEST: u16 = 1;

/// An ARP packet from its operation on.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Arp {
    operation: u16,
    sender_hardware: [u8; 6],
    sender: u32,
    target_hardware: [u8; 6],
    target: u32,
}

/// Whether a packet may leave.
#[inline(always)]
pub(crate) fn passes_out(ctx: &TcContext) -> bool {
    if is_foreign(ctx, IPV4_ADDRESSES + 3, IPV6_ADDRESSES + 15) {
        return true;
    }
    let Some(source) = comes_from(ctx) else { return true };
    if !passes(&source) {
        return false;
    }
    match advertises(ctx) {
        // Mostly it speaks for its own source, and is counted once.
        Some(address) if address != source => passes(&address),
        _ => true,
    }
}

/// Whether a packet may leave by an interface that is not the address's own. The kernel answers for an address on every
/// interface (the weak host model, RFC 1122, section 3.3.4.2), and such answers are this node's; what it forwards for
/// others, the address's present holder among them, is not.
#[inline(always)]
pub(crate) fn passes_local(ctx: &TcContext) -> bool {
    // SAFETY: the kernel keeps the context for the program's run.
    let forwarded = unsafe { (*ctx.skb.skb).ingress_ifindex } != 0;
    forwarded || passes_out(ctx)
}

/// Whether a packet may come in.
#[inline(always)]
pub(crate) fn passes_in(ctx: &TcContext) -> bool {
    if is_foreign(ctx, IPV4_ADDRESSES + 7, IPV6_ADDRESSES + 31) {
        return true;
    }
    match spoken_to(ctx) {
        None => true,
        Some(address) => passes(&address),
    }
}

/// Whether the last octet of a packet's address, at these offsets, tells that it is not leased. Most packets are done with
/// that. Of ARP and ICMPv6, which may speak for another address, and of what cannot be read in place, nothing is told.
#[inline(always)]
fn is_foreign(ctx: &TcContext, ipv4: u32, ipv6: u32) -> bool {
    let start = ctx.data();
    let octet = match ethertype(ctx) {
        IPV4 => start + ipv4 as usize,
        IPV6 => {
            let kind = start + IPV6_NEXT_HEADER as usize;
            // SAFETY: inside the packet.
            if kind + 1 > ctx.data_end() || unsafe { *(kind as *const u8) } == ICMPV6 {
                return false;
            }
            start + ipv6 as usize
        }
        _ => return false,
    };
    if octet + 1 > ctx.data_end() {
        return false;
    }
    let Some(words) = maps::lease() else { return false };
    // SAFETY: inside the packet.
    !lease::may_be_leased(&words, unsafe { *(octet as *const u8) })
}

/// Whether a packet of a cgroup may pass. A cgroup without an entry is not leased.
#[inline(always)]
pub(crate) fn passes_cgroup(ctx: &SkBuffContext) -> bool {
    // SAFETY: the context's own packet.
    let id = unsafe { bpf_skb_cgroup_id(ctx.skb.skb) };
    // SAFETY: a copy of one word; entries are written while the daemon closes the gate.
    match unsafe { maps::CGROUPS.get(id) } {
        None => true,
        Some(gate) => passes_gate(*gate as usize),
    }
}

/// The address that a leaving packet is from; of ARP, the one that it speaks for.
#[inline(always)]
fn comes_from(ctx: &TcContext) -> Option<AddressKey> {
    match ethertype(ctx) {
        IPV4 => read::<u32>(ctx, IPV4_ADDRESSES).map(ipv4_key),
        ARP => read::<Arp>(ctx, ARP_OPERATION).map(|arp| ipv4_key(arp.sender)),
        IPV6 => read::<AddressKey>(ctx, IPV6_ADDRESSES),
        _ => None,
    }
}

/// The address that a leaving neighbour advertisement speaks for, beside the one that it is from.
#[inline(always)]
fn advertises(ctx: &TcContext) -> Option<AddressKey> {
    let is_advertisement = ethertype(ctx) == IPV6
        && read::<u8>(ctx, IPV6_NEXT_HEADER)? == ICMPV6
        && read::<u8>(ctx, ETHERNET_BYTES + IPV6_BYTES)? == ADVERTISEMENT;
    if is_advertisement { read::<AddressKey>(ctx, ADVERTISED) } else { None }
}

/// The address that a packet is for. Of ARP only questions: the news of others, who has it now, must come in.
#[inline(always)]
fn spoken_to(ctx: &TcContext) -> Option<AddressKey> {
    match ethertype(ctx) {
        IPV4 => read::<u32>(ctx, IPV4_ADDRESSES + 4).map(ipv4_key),
        ARP => {
            let arp = read::<Arp>(ctx, ARP_OPERATION)?;
            let asks = u16::from_be(arp.operation) == ARP_REQUEST && arp.sender != arp.target;
            if asks { Some(ipv4_key(arp.target)) } else { None }
        }
        IPV6 => read::<AddressKey>(ctx, IPV6_ADDRESSES + 16),
        _ => None,
    }
}

#[inline(always)]
fn ethertype(ctx: &TcContext) -> u16 {
    // SAFETY: the kernel keeps the context for the program's run.
    u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16)
}

/// A value of the packet; none if it ends before.
#[inline(always)]
fn read<T: Copy>(ctx: &TcContext, offset: u32) -> Option<T> {
    let mut value = mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the helper fills the value whole, or nothing of it.
    unsafe {
        let size = mem::size_of::<T>() as u32;
        if bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, value.as_mut_ptr().cast(), size) != 0 {
            return None;
        }
        Some(value.assume_init())
    }
}

/// Whether a packet of this address may pass.
#[inline(always)]
fn passes(address: &AddressKey) -> bool {
    // SAFETY: a copy of one word. Entries are written while all gates are closed; in a hand-over none that stays is.
    match unsafe { maps::ADDRESSES.get(address) } {
        None => true,
        Some(gate) => passes_gate(*gate as usize),
    }
}

/// Whether the gate is open now; and its log. Without table or latch it is closed.
#[inline(always)]
fn passes_gate(gate: usize) -> bool {
    // The clock before the latch: a run held up between the two would else take a daemon that registered in time for one
    // that did not come.
    let now_ns = clock::now_ns();
    let (Some(words), Some(latch)) = (maps::lease(), maps::latch()) else { return false };
    let open =
        !Latch::is_gone(latch.state, latch.handover_until_ns, now_ns) && lease::is_open(&words, gate, now_ns);
    if let Some(log) = maps::GATE_LOGS.get_ptr_mut((gate & (GATES_MAX - 1)) as u32) {
        // SAFETY: a valid map value; the adds are atomic, of two stores at once either is right.
        unsafe {
            if !open {
                atomic::add(addr_of_mut!((*log).dropped), 1);
                return false;
            }
            atomic::add(addr_of_mut!((*log).passed), 1);
            if atomic::load(addr_of!((*log).first_pass_ns)) == 0 {
                atomic::store(addr_of_mut!((*log).first_pass_ns), now_ns);
            }
            atomic::store(addr_of_mut!((*log).last_pass_ns), now_ns);
        }
    }
    open
}
