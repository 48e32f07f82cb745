//! `[[address]]`: the service addresses that the cluster keeps on one node at a time.
//!
//! Deliberately not here: whether the interface is there. The daemon sees it come and go, and holds nothing while it
//! is away.

use std::net::IpAddr;

use ipnet::IpNet;
use ringbeat_common::limits::{GATES_MAX, LEASE_MAX_NS};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::error::{ConfigError, Place, Source};
use crate::raw::RawService;
use crate::validate::is_interface_name;
use crate::{Link, Node};

/// A service address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    address: IpNet,
    interface: String,
    failback: bool,
}

impl Service {
    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address.addr()
    }

    /// The length of its network's prefix.
    pub fn prefix_len(&self) -> u8 {
        self.address.prefix_len()
    }

    /// The interface that holds it, the same on every node.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Whether it goes back to the node with the lowest id.
    pub const fn failback(&self) -> bool {
        self.failback
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.address)
    }
}

impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_struct("Service", 3)?;
        view.serialize_field("address", &self.address.to_string())?;
        view.serialize_field("interface", &self.interface)?;
        view.serialize_field("failback", &self.failback)?;
        view.end()
    }
}

/// Checks all of them against one another, the links and the nodes.
pub(crate) fn services(
    source: &Source,
    raw: &[RawService],
    links: &[Link],
    nodes: &[Node],
) -> Result<Vec<Service>, ConfigError> {
    let mut services: Vec<Service> = Vec::new();
    for raw in raw {
        let refuse = |reason: &str, help: &'static str| {
            let value = raw.address.get_ref().clone();
            let at = Place::new(source, raw.address.span(), "not usable as a service address");
            Err(ConfigError::BadService { value, reason: reason.to_owned(), help, at })
        };
        let Ok(address) = raw.address.get_ref().parse::<IpNet>() else {
            return refuse(
                "it is not address/prefix",
                "write it as in \"10.78.0.100/24\" or \"fd78::100/64\"",
            );
        };
        if let Some(what) = unusable(address) {
            return refuse(&format!("it is {what}"), "choose an address that a client can reach");
        }
        let ip = address.addr();
        if services.iter().any(|service| service.address() == ip) {
            return refuse("it is given twice", "one address is held by one node: remove one of the two");
        }
        if nodes.iter().any(|node| node.addresses().contains(&ip)) {
            return refuse("it is a node's heartbeat address", "choose one that belongs to no node");
        }
        if services.len() == GATES_MAX {
            return refuse("there are 64 before it", "64 addresses are the most that a cluster holds");
        }
        let interface = raw.interface.get_ref();
        let of_interface = |rule| ConfigError::BadName {
            key: "address.interface",
            value: interface.clone(),
            rule,
            at: Place::new(source, raw.interface.span(), "not an interface for a service address"),
        };
        if !is_interface_name(interface) {
            let rule = "use an interface's name as in `ip link`: 1 to 15 bytes, no space, '/', ':' or '%'";
            return Err(of_interface(rule));
        }
        if links.iter().any(|link| link.interface() == interface) {
            return Err(of_interface("heartbeats have this interface for themselves: use another"));
        }
        if nodes.iter().all(Node::witness) {
            return refuse(
                "every node is a witness",
                "a node without witness = true must be there to hold it",
            );
        }
        let failback = raw.failback.unwrap_or(false);
        services.push(Service { address, interface: interface.clone(), failback });
    }
    lease_fits(source, raw, links)?;
    Ok(services)
}

/// A lease is as long as the slowest link's deadline, and no longer than its bound.
fn lease_fits(source: &Source, raw: &[RawService], links: &[Link]) -> Result<(), ConfigError> {
    let longest_ns = links.iter().map(Link::deadline_ns).max().unwrap_or(0);
    match raw.first() {
        Some(first) if longest_ns > LEASE_MAX_NS => Err(ConfigError::BadService {
            value: first.address.get_ref().clone(),
            reason: format!(
                "the slowest link's deadline, {} ms, is too long for a lease",
                longest_ns / 1_000_000
            ),
            help: "with a service address no link's interval x count is above 2000 ms",
            at: Place::new(source, first.address.span(), "needs a lease"),
        }),
        _ => Ok(()),
    }
}

/// What is wrong with an address that no client can reach.
fn unusable(address: IpNet) -> Option<&'static str> {
    let ip = address.addr();
    if ip.is_multicast() {
        return Some("multicast");
    }
    if ip.is_unspecified() {
        return Some("no address at all");
    }
    if ip.is_loopback() {
        return Some("the loopback address");
    }
    if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Some("IPv4 written as IPv6");
    }
    if address.max_prefix_len() - address.prefix_len() >= 2 {
        if ip == address.network() {
            return Some("its network's own address");
        }
        if ip.is_ipv4() && ip == address.broadcast() {
            return Some("its network's broadcast address");
        }
    }
    None
}
