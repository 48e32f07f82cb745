//! The lab's switch: `cut` drops frames between chosen nodes on its ports, `pass` makes the ports fit for XDP.
//!
//! `cut` runs as a tcx egress program on the switch side of every node's link. A fault of the lab is then one
//! store into `CUTS`, in force for the very next frame, in one direction at will.

#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{
        tcx_action_base::{TCX_DROP, TCX_NEXT},
        xdp_action::XDP_PASS,
    },
    macros::{classifier, map, xdp},
    maps::{Array, HashMap},
    programs::{TcContext, XdpContext},
};

/// Lets the lab map the cuts into its memory: a fault is a store, not a system call.
const MMAPABLE: u32 = 1 << 10;
/// The source address in an Ethernet header.
const SOURCE: usize = 6;
/// The lab's own MAC addresses are `PREFIX:link:00:node`.
const PREFIX: [u8; 3] = [0x02, 0x72, 0x62];
/// The last MAC byte of the client, which stands as node 64 in the masks.
const CLIENT: u8 = 250;
const CLIENT_BIT: u8 = 63;

/// One mask for each receiver on each link, at `link * 64 + receiver - 1`: bit `sender - 1` drops what that sender
/// sends to that receiver.
#[map]
static CUTS: Array<u64> = Array::with_max_entries(1024, MMAPABLE);

/// The index into `CUTS` of each port of the switch, by its interface index.
#[map]
static PORTS: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// Drops a frame whose sender is cut from the receiver behind this port; all else goes on.
#[classifier]
pub(crate) fn cut(ctx: TcContext) -> i32 {
    if is_cut(&ctx) { TCX_DROP } else { TCX_NEXT }
}

/// Lets every frame pass. It has to be there: a veth hands on what the XDP program at its other end sends back
/// only if it has an XDP program itself. Generic receive offload starts NAPI too, but then the frames stay in the
/// ring, for nobody wakes it (seen on 6.18: counted as sent, never received).
#[xdp]
pub(crate) fn pass(_: XdpContext) -> u32 {
    XDP_PASS
}

#[inline(always)]
fn is_cut(ctx: &TcContext) -> bool {
    // SAFETY: the context is the kernel's own and lives as long as the program runs.
    let port = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: the lab writes an entry before it attaches the port, and leaves it alone from then on.
    let Some(index) = (unsafe { PORTS.get(port) }) else { return false };
    let Some(mask) = CUTS.get_ptr(*index) else { return false };
    // SAFETY: the pointer comes from the map; the lab's stores are aligned and of 64 bits.
    let mask = unsafe { core::ptr::read_volatile(mask) };
    if mask == 0 {
        return false;
    }
    let Ok(source) = ctx.load::<[u8; 6]>(SOURCE) else { return false };
    if source[0] != PREFIX[0] || source[1] != PREFIX[1] || source[2] != PREFIX[2] {
        return false;
    }
    let bit = if source[5] == CLIENT { CLIENT_BIT } else { source[5].wrapping_sub(1) };
    bit < 64 && mask >> bit & 1 == 1
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
