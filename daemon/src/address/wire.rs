//! The frames by which neighbours learn who has an address now, and what theirs say.
//!
//! IPv4: ARP (RFC 826), both as a question and as an answer about oneself (RFC 5227, section 3), as some stacks take
//! only the one. IPv6: an unsolicited neighbour advertisement with the override flag (RFC 4861, section 7.2.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The ethertype of ARP.
pub const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const EVERYBODY: [u8; 6] = [0xff; 6];
/// All nodes of a link (RFC 4291, section 2.7.1), and its address in Ethernet (RFC 2464, section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ICMPV6: u8 = 58;
/// Type of a neighbour solicitation (RFC 4861, section 4.3).
pub const SOLICITATION: u8 = 135;
/// Type of a neighbour advertisement (RFC 4861, section 4.4).
pub const ADVERTISEMENT: u8 = 136;
const OVERRIDE: u32 = 1 << 29;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Where the options of both start.
const OPTIONS: usize = 24;

/// Somebody says that this address is at this MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Who says so.
    pub mac: [u8; 6],
}

/// The frames that say "this address is at this MAC address now".
pub fn announcements(address: IpAddr, mac: [u8; 6]) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            [REQUEST, REPLY].into_iter().map(|operation| arp(operation, address, mac)).collect()
        }
        IpAddr::V6(address) => vec![advertisement(address, mac)],
    }
}

fn arp(operation: u16, address: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = ethernet(EVERYBODY, mac, ARP);
    // Ethernet, IPv4, and the lengths of their addresses.
    frame.extend([0, 1, 0x08, 0x00, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(if operation == REPLY { EVERYBODY } else { [0; 6] });
    frame.extend(address.octets());
    frame
}

fn advertisement(address: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut icmp = vec![ADVERTISEMENT, 0, 0, 0];
    icmp.extend(OVERRIDE.to_be_bytes());
    icmp.extend(address.octets());
    icmp.extend([TARGET_LINK_LAYER, 1]);
    icmp.extend(mac);
    let sum = checksum(address, ALL_NODES, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(ALL_NODES_MAC, mac, IPV6);
    frame.extend([0x60, 0, 0, 0, 0, icmp.len() as u8, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(icmp);
    frame
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame
}

/// Over the message and the pseudo-header (RFC 4443, section 2.3).
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo = [0, 0, 0, message.len() as u8, 0, 0, 0, ICMPV6];
    let octets = from.octets().into_iter().chain(to.octets()).chain(pseudo).chain(message.iter().copied());
    let octets: Vec<u8> = octets.collect();
    let mut sum: u32 =
        octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Who says in an ARP frame that an address is his; none if it says nothing of the kind.
pub fn arp_claim(frame: &[u8]) -> Option<Claim> {
    let fixed: &[u8; 42] = frame.first_chunk()?;
    if fixed[12..14] != ARP.to_be_bytes() || fixed[14..20] != [0, 1, 0x08, 0x00, 6, 4] {
        return None;
    }
    let mac: [u8; 6] = fixed[22..28].try_into().ok()?;
    let address = Ipv4Addr::new(fixed[28], fixed[29], fixed[30], fixed[31]);
    // A probe (RFC 5227, section 2.1.1) asks, and claims nothing.
    (!address.is_unspecified()).then_some(Claim { address: IpAddr::V4(address), mac })
}

/// Who says in a message of neighbour discovery, which came from there, that an address is his: in an advertisement, or
/// by asking in its name. None if it says nothing of the kind, or not at which MAC address.
pub fn neighbour_claim(from: Ipv6Addr, message: &[u8]) -> Option<Claim> {
    let (fixed, options) = message.split_first_chunk::<OPTIONS>()?;
    let target: [u8; 16] = fixed[8..].try_into().ok()?;
    let (address, option) = match fixed[..2] {
        [ADVERTISEMENT, 0] => (Ipv6Addr::from(target), TARGET_LINK_LAYER),
        // One from nowhere tries whether the address is free (RFC 4862, section 5.4.2), and claims nothing.
        [SOLICITATION, 0] if !from.is_unspecified() => (from, SOURCE_LINK_LAYER),
        _ => return None,
    };
    let mac = link_layer(options, option)?;
    Some(Claim { address: IpAddr::V6(address), mac })
}

/// The Ethernet address of such an option (RFC 4861, section 4.6.1).
fn link_layer(mut options: &[u8], wanted: u8) -> Option<[u8; 6]> {
    while let [kind, words, ..] = *options {
        // A length of zero makes the message void.
        let bytes = usize::from(words).checked_mul(8).filter(|bytes| *bytes != 0)?;
        let (option, rest) = options.split_at_checked(bytes)?;
        if kind == wanted {
            return option.get(2..)?.first_chunk().copied();
        }
        options = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0x72, 0x62, 0x80, 0, 1];

    #[test]
    fn arp_is_byte_for_byte() {
        let frames = announcements("10.78.0.100".parse().expect("an address"), MAC);
        let request = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0x72, 0x62, 0x80, 0, 1, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, // request
            2, 0x72, 0x62, 0x80, 0, 1, 10, 78, 0, 100, // sender
            0, 0, 0, 0, 0, 0, 10, 78, 0, 100, // target
        ];
        assert_eq!(frames[0], request);
        assert_eq!((frames[1][21], &frames[1][32..38]), (2, &[0xff; 6][..]));
        let address = "10.78.0.100".parse().expect("an address");
        assert_eq!(arp_claim(&frames[0]), Some(Claim { address, mac: MAC }));
        assert_eq!(arp_claim(&frames[0][..41]), None);
        let mut probe = frames[0].clone();
        probe[28..32].fill(0);
        assert_eq!(arp_claim(&probe), None);
    }

    #[test]
    fn an_advertisement_sums_up() {
        let frames = announcements("fd78::100".parse().expect("an address"), MAC);
        let frame = &frames[0];
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[..6], ALL_NODES_MAC);
        let (from, to) = (Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 0x100), ALL_NODES);
        // Over a message with its right checksum the sum is zero.
        assert_eq!(checksum(from, to, &frame[54..]), 0);
        assert_eq!(frame[54..62], [136, 0, frame[56], frame[57], 0x20, 0, 0, 0]);
        assert_eq!(frame[78..], [2, 1, 2, 0x72, 0x62, 0x80, 0, 1]);
    }
    #[test]
    fn neighbours_claim_what_they_advertise_or_ask_in_the_name_of() {
        let address: IpAddr = "fd78::100".parse().expect("an address");
        let [asker, nobody]: [Ipv6Addr; 2] = ["fd78::7", "::"].map(|text| text.parse().expect("an address"));
        let said = announcements(address, MAC).remove(0).split_off(54);
        assert_eq!(neighbour_claim(asker, &said), Some(Claim { address, mac: MAC }));
        assert_eq!(neighbour_claim(asker, &said[..OPTIONS]), None, "nobody knows where");
        let mut asks = said.clone();
        (asks[0], asks[OPTIONS]) = (SOLICITATION, SOURCE_LINK_LAYER);
        assert_eq!(neighbour_claim(asker, &asks), Some(Claim { address: IpAddr::V6(asker), mac: MAC }));
        assert_eq!(neighbour_claim(nobody, &asks), None, "it is only tried");
        let mut second = said[..OPTIONS].to_vec();
        second.extend([14, 1, 0, 0, 0, 0, 0, 0]);
        second.extend(&said[OPTIONS..]);
        assert_eq!(
            neighbour_claim(asker, &second),
            Some(Claim { address, mac: MAC }),
            "after another option"
        );
        second[OPTIONS + 1] = 0;
        assert_eq!(neighbour_claim(asker, &second), None, "an option of no length");
        second[OPTIONS + 1] = 200;
        assert_eq!(neighbour_claim(asker, &second), None, "an option past the end");
    }
}
