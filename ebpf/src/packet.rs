//! Where a frame lies in a packet: the one bounds-checked accessor, and the walk over the headers.

use core::mem;

use ringbeat_common::frame::{FRAME_BYTES, MAGIC};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const PROTOCOL_UDP: u8 = 17;
const UDP_BYTES: usize = 8;
const ETHERNET_BYTES: usize = 14;
const VLAN_BYTES: usize = 4;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
/// Fragment offset and "more fragments" of an IPv4 header.
const IPV4_FRAGMENT: u16 = 0x3fff;

/// A packet that has a frame's size, magic and headers.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Offset of the IP header.
    pub ip: usize,
    /// Offset of the UDP header.
    pub udp: usize,
    /// Whether the IP header is one of version 6.
    pub ipv6: bool,
    /// The UDP port that it is sent to.
    pub port: u16,
    /// The link that the frame names.
    pub link: u8,
}

/// A value of the packet, unaligned, if the packet reaches so far.
#[inline(always)]
fn read<T: Copy>(data: usize, end: usize, offset: usize) -> Option<T> {
    if data + offset + mem::size_of::<T>() > end {
        return None;
    }
    // SAFETY: inside the packet, as just checked; the verifier checks it again.
    Some(unsafe { ((data + offset) as *const T).read_unaligned() })
}

/// A big-endian number of two bytes.
#[inline(always)]
fn be16(data: usize, end: usize, offset: usize) -> Option<u16> {
    read::<u16>(data, end, offset).map(u16::from_be)
}

/// Finds the frame; `None` for every other packet, whatever is odd about it.
#[inline(always)]
pub(crate) fn locate(data: usize, end: usize) -> Option<Place> {
    let ethertype = be16(data, end, 12)?;
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(data, end, ETHERNET_BYTES),
        ETHERTYPE_IPV6 => ipv6(data, end, ETHERNET_BYTES),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => match be16(data, end, ETHERNET_BYTES + 2)? {
            ETHERTYPE_IPV4 => ipv4(data, end, ETHERNET_BYTES + VLAN_BYTES),
            ETHERTYPE_IPV6 => ipv6(data, end, ETHERNET_BYTES + VLAN_BYTES),
            _ => None,
        },
        _ => None,
    }
}

#[inline(always)]
fn ipv4(data: usize, end: usize, ip: usize) -> Option<Place> {
    // One check for all that is read below.
    if data + ip + IPV4_BYTES + UDP_BYTES + FRAME_BYTES > end {
        return None;
    }
    let plain = read::<u8>(data, end, ip)? == 0x45
        && read::<u8>(data, end, ip + 9)? == PROTOCOL_UDP
        && be16(data, end, ip + 2)? as usize == IPV4_BYTES + UDP_BYTES + FRAME_BYTES
        && be16(data, end, ip + 6)? & IPV4_FRAGMENT == 0;
    if plain { udp(data, end, ip, ip + IPV4_BYTES, false) } else { None }
}

#[inline(always)]
fn ipv6(data: usize, end: usize, ip: usize) -> Option<Place> {
    if data + ip + IPV6_BYTES + UDP_BYTES + FRAME_BYTES > end {
        return None;
    }
    let plain = read::<u8>(data, end, ip)? >> 4 == 6
        && read::<u8>(data, end, ip + 6)? == PROTOCOL_UDP
        && be16(data, end, ip + 4)? as usize == UDP_BYTES + FRAME_BYTES;
    if plain { udp(data, end, ip, ip + IPV6_BYTES, true) } else { None }
}

#[inline(always)]
fn udp(data: usize, end: usize, ip: usize, udp: usize, ipv6: bool) -> Option<Place> {
    let port = be16(data, end, udp + 2)?;
    if be16(data, end, udp + 4)? as usize != UDP_BYTES + FRAME_BYTES {
        return None;
    }
    if u32::from_le(read::<u32>(data, end, udp + UDP_BYTES)?) != MAGIC {
        return None;
    }
    // Byte 2 of word 3.
    let link = read::<u8>(data, end, udp + UDP_BYTES + 26)?;
    Some(Place { ip, udp, ipv6, port, link })
}
