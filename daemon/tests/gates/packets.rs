//! Packets as they stand on the wire, of addresses that are leased and of others.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const LEASED4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
pub(crate) const OTHER4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const THIRD4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const NOBODY4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
pub(crate) const LEASED6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x77, 9);
pub(crate) const OTHER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x77, 1);
pub(crate) const THIRD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x77, 2);
pub(crate) const NOBODY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The group at which [`LEASED6`] is asked for (RFC 4291, section 2.7.1).
pub(crate) const ASKED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff77, 9);

pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const ARP_REQUEST: u8 = 1;
pub(crate) const ARP_REPLY: u8 = 2;
/// Types of ICMPv6 (RFC 4861, section 4).
pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;

pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &ethertype.to_be_bytes()[..], payload].concat()
}

/// The same packet with a tag in it.
pub(crate) fn tagged(packet: &[u8]) -> Vec<u8> {
    [&packet[..12], &[0x81, 0, 0, 7], &packet[12..]].concat()
}

/// An IPv4 packet with four words of options or none, the so manyth fragment of 8 bytes.
pub(crate) fn ipv4(source: Ipv4Addr, target: Ipv4Addr, options: bool, fragment: u8) -> Vec<u8> {
    let words = if options { 9 } else { 5 };
    let payload = [0; 16];
    let length = words * 4 + payload.len() as u8;
    let mut bytes = vec![0x40 | words, 0, 0, length, 0, 1, 0, fragment, 64, UDP, 0, 0];
    bytes.extend(source.octets());
    bytes.extend(target.octets());
    bytes.resize(usize::from(words) * 4, 1);
    bytes.extend(payload);
    ethernet(0x0800, &bytes)
}

pub(crate) fn plain4(source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    ipv4(source, target, false, 0)
}

/// An ARP packet (RFC 826).
pub(crate) fn arp(operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
    bytes.extend([2, 0, 0, 0, 0, 2]);
    bytes.extend(sender.octets());
    bytes.extend([0; 6]);
    bytes.extend(target.octets());
    ethernet(0x0806, &bytes)
}

pub(crate) fn ipv6(source: Ipv6Addr, target: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 255];
    bytes.extend(source.octets());
    bytes.extend(target.octets());
    bytes.extend(payload);
    ethernet(0x86dd, &bytes)
}

pub(crate) fn plain6(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    ipv6(source, target, UDP, &[0; 16])
}

/// A solicitation or an advertisement of `about`.
pub(crate) fn neighbour(kind: u8, source: Ipv6Addr, target: Ipv6Addr, about: Ipv6Addr) -> Vec<u8> {
    let mut payload = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
    payload.extend(about.octets());
    payload.extend([2, 1, 2, 0, 0, 0, 0, 2]);
    ipv6(source, target, ICMPV6, &payload)
}
