//! Addresses taken off wherever they are: on any interface, under any name, with any prefix.
//!
//! What a removal has achieved is not believed but looked at: it is done when a dump of all addresses has none of them.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use super::netlink::{Found, Netlink, NetlinkError};

/// So often what is still there is taken off.
const ROUNDS: usize = 3;

/// What is to go.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// These, wherever they are,
    pub(super) gone: Vec<IpAddr>,
    /// but for these on these interfaces.
    pub(super) kept: Vec<(IpAddr, u32)>,
}

impl Sweep {
    /// Whether it is to go.
    fn takes(&self, found: &Found) -> bool {
        self.gone.contains(&found.address) && !self.kept.contains(&(found.address, found.ifindex))
    }

    /// Takes off what is to go; an error says what is left, where and why.
    pub(super) fn run(&self, netlink: &mut Netlink) -> Result<(), String> {
        let unknown = |error: NetlinkError| format!("what is on the interfaces cannot be told ({error})");
        let mut whys: Vec<(Found, NetlinkError)> = Vec::new();
        for _ in 0..ROUNDS {
            let there = netlink.addresses().map_err(unknown)?;
            let mut left = there.into_iter().filter(|found| self.takes(found)).peekable();
            if left.peek().is_none() {
                return Ok(());
            }
            // A secondary address may go with its primary, so that it is not there is no error.
            whys = left.filter_map(|found| Some((found.clone(), netlink.remove(&found).err()?))).collect();
        }
        let there = netlink.addresses().map_err(unknown)?;
        let left = there.iter().filter(|found| self.takes(found));
        let left: Vec<String> = left
            .map(|found| {
                let why = whys.iter().find(|(other, _)| other == found);
                let why = why.map_or_else(|| "it came back".to_owned(), |(_, why)| why.to_string());
                format!("{}/{} on {}: {why}", found.address, found.prefix_len, name_of(found.ifindex))
            })
            .collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    }
}

/// The name of an interface, or its number where it has gone.
fn name_of(ifindex: u32) -> String {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let name = socket.and_then(|socket: OwnedFd| netdevice::index_to_name(socket, ifindex));
    name.unwrap_or_else(|_| format!("interface {ifindex}"))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn found(attributes: Vec<AddressAttribute>, prefix_len: u8, ifindex: u32) -> Option<Found> {
        let mut message = AddressMessage::default();
        (message.header.prefix_len, message.header.index) = (prefix_len, ifindex);
        message.attributes = attributes;
        Found::of(&message)
    }

    #[test]
    fn the_own_address_counts_and_not_the_peer_s() {
        let (own, peer) = (ip("10.78.0.100"), ip("10.78.0.7"));
        let both = vec![AddressAttribute::Address(peer), AddressAttribute::Local(own)];
        assert_eq!(found(both, 32, 3).expect("an address").address, own);
        // IPv6 names the local one only where there is a peer.
        let one = vec![AddressAttribute::Address(ip("fd78::100"))];
        assert_eq!(found(one, 64, 3).expect("an address").address, ip("fd78::100"));
        let others = vec![AddressAttribute::Label("svc0".to_owned())];
        assert_eq!(found(others, 24, 3), None);
    }

    #[test]
    fn it_goes_from_every_interface_with_any_prefix() {
        let sweep = Sweep { gone: vec![ip("10.78.0.100"), ip("fd78::100")], kept: Vec::new() };
        let on = |text: &str, prefix_len, ifindex| {
            found(vec![AddressAttribute::Local(ip(text))], prefix_len, ifindex).expect("an address")
        };
        assert!(sweep.takes(&on("10.78.0.100", 24, 3)));
        assert!(sweep.takes(&on("10.78.0.100", 25, 7)));
        assert!(sweep.takes(&on("fd78::100", 128, 3)));
        for other in ["10.78.0.10", "10.78.0.1", "fd78::1", "::ffff:10.78.0.100", "127.0.0.1"] {
            assert!(!sweep.takes(&on(other, 24, 3)), "{other}");
        }
        assert!(!Sweep::default().takes(&on("10.78.0.100", 24, 3)));
    }

    #[test]
    fn what_is_held_stays_on_its_interface_only() {
        let held = ip("10.78.0.100");
        let sweep = Sweep { gone: vec![held, ip("10.78.0.101")], kept: vec![(held, 3)] };
        let on = |address, ifindex| {
            found(vec![AddressAttribute::Local(address)], 24, ifindex).expect("an address")
        };
        assert!(!sweep.takes(&on(held, 3)));
        assert!(sweep.takes(&on(held, 4)));
        assert!(sweep.takes(&on(ip("10.78.0.101"), 3)));
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_off() {
        let sweep = Sweep { gone: vec![ip("192.0.2.77")], kept: Vec::new() };
        let mut netlink = Netlink::deaf();
        let why = sweep.run(&mut netlink).expect_err("nobody has answered");
        assert!(why.contains("cannot be told"), "{why}");
        sweep.run(&mut netlink).expect("it was never there");
    }
}
