//! The meaning of the file: from shapes with places to the types that cannot be wrong.
//!
//! The first fault in the order cluster, links, nodes, own node is told; one fault often begets others, so a list
//! would mislead. Each rule stands once, here. Deliberately not here: anything that needs this machine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use ipnet::IpNet;
use ringbeat_common::limits::{LINKS_MAX, NODES_MAX};
use toml::Spanned;

use crate::error::{ConfigError, Place, Source};
use crate::profile::{Datapath, Profile};
use crate::raw::{RawCluster, RawConfig, RawLink, RawNode, RawRing};
use crate::ring::{Cipher, LinkMode, PORT_MAX, RING_PORT_BASE, RingConfig};
use crate::service;
use crate::{Cluster, Config, Link, NODES_LEAST, Node, PORT_BASE};

type Span = Range<usize>;

const CLUSTER_NAME_MAX: usize = 63;
const NODE_NAME_MAX: usize = 63;
/// IFNAMSIZ less the closing zero.
const INTERFACE_NAME_MAX: usize = 15;
/// PATH_MAX less the closing zero.
const PATH_BYTES_MAX: usize = 4095;
/// The longest deadline of a link: the kernel has 32 bits for it, in ns.
const DEADLINE_MAX_US: u64 = 4_000_000;
/// `sun_path` less the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub(crate) fn config(raw: RawConfig, source: &Source, hostname: Option<&str>) -> Result<Config, ConfigError> {
    let check = Check { source };
    let cluster_span = raw.cluster.span();
    let raw_cluster = raw.cluster.into_inner();
    let cluster = check.cluster(&raw_cluster)?;
    let ring = check.ring(raw.ring.as_ref())?;
    let links = check.links(&raw.link, &cluster_span)?;
    if let Some((link, _)) = links.iter().find(|(link, _)| link.port == ring.port_on(link.id)) {
        let given = raw.link.iter().find(|raw| *raw.id.get_ref() == i128::from(link.id));
        let span = given.and_then(|raw| raw.port.as_ref()).map_or(cluster_span, Spanned::span);
        let at = check.place(span, "taken twice");
        return Err(ConfigError::PortTaken { link: link.id, port: link.port, at });
    }
    let nodes = check.nodes(&raw.node, &links, &cluster_span)?;
    let me = check.own(raw_cluster.node.as_ref(), &nodes, hostname, &cluster_span)?;
    let links: Vec<Link> = links.into_iter().map(|(link, _)| link).collect();
    let services = service::services(source, &raw.address, &links, &nodes)?;
    let lease_us = links.iter().map(Link::deadline_ns).max().unwrap_or(0) / 1000;
    if !services.is_empty() && u64::from(cluster.gate_slack_us) * 2 > lease_us {
        let slack = raw_cluster.gate_slack_us.as_ref();
        return Err(ConfigError::OutOfRange {
            key: "cluster.gate_slack_us",
            value: i128::from(cluster.gate_slack_us),
            least: 0,
            most: lease_us / 2,
            at: check.place(slack.map_or(cluster_span, Spanned::span), "more than half of the lease"),
        });
    }
    Ok(Config { cluster, ring, links, nodes, services, me })
}

struct Check<'a> {
    source: &'a Source,
}

impl Check<'_> {
    fn place(&self, span: Span, label: impl Into<String>) -> Place {
        Place::new(self.source, span, label)
    }

    fn cluster(&self, raw: &RawCluster) -> Result<Cluster, ConfigError> {
        if !is_cluster_name(raw.name.get_ref()) {
            return Err(ConfigError::BadName {
                key: "cluster.name",
                value: raw.name.get_ref().clone(),
                rule: "use 1 to 63 of the characters a-z, 0-9, '-', '_' and '.'",
                at: self.place(raw.name.span(), "not a cluster name"),
            });
        }
        let path = |key, value: Option<&Spanned<String>>, most, default: &str| match value {
            None => Ok(PathBuf::from(default)),
            Some(value) => self.path(key, value, most),
        };
        Ok(Cluster {
            name: raw.name.get_ref().clone(),
            version: self.number("cluster.version", raw.version.as_ref(), 1, u64::from(u32::MAX), 1)?,
            authkey: path("cluster.authkey", raw.authkey.as_ref(), PATH_BYTES_MAX, "/etc/ringbeat/authkey")?,
            state: path("cluster.state", raw.state.as_ref(), PATH_BYTES_MAX, "/var/lib/ringbeat")?,
            control: path(
                "cluster.control",
                raw.control.as_ref(),
                SOCKET_PATH_BYTES_MAX,
                "/run/ringbeat/control.sock",
            )?,
            datapath: match &raw.datapath {
                None => Datapath::default(),
                Some(value) => Datapath::named(value.get_ref()).ok_or_else(|| ConfigError::BadDatapath {
                    value: value.get_ref().clone(),
                    at: self.place(value.span(), "not a datapath"),
                })?,
            },
            daemon_stall_ms: self.number(
                "cluster.daemon_stall_ms",
                raw.daemon_stall_ms.as_ref(),
                100,
                60_000,
                1_000,
            )?,
            gate_slack_us: self.number("cluster.gate_slack_us", raw.gate_slack_us.as_ref(), 0, 10_000, 50)?,
            realtime: raw.realtime.unwrap_or(true),
        })
    }

    fn ring(&self, raw: Option<&RawRing>) -> Result<RingConfig, ConfigError> {
        let bad = |key, value: &Spanned<String>, known: Vec<&'static str>| ConfigError::BadWord {
            key,
            value: value.get_ref().clone(),
            known,
            at: self.place(value.span(), "not one of the words"),
        };
        let cipher = match raw.and_then(|raw| raw.cipher.as_ref()) {
            None => Cipher::default(),
            Some(value) => Cipher::named(value.get_ref())
                .ok_or_else(|| bad("ring.cipher", value, Cipher::ALL.map(Cipher::name).to_vec()))?,
        };
        let link_mode = match raw.and_then(|raw| raw.link_mode.as_ref()) {
            None => LinkMode::default(),
            Some(value) => LinkMode::named(value.get_ref())
                .ok_or_else(|| bad("ring.link_mode", value, LinkMode::ALL.map(LinkMode::name).to_vec()))?,
        };
        let port = raw.and_then(|raw| raw.port.as_ref());
        let port = self.number("ring.port", port, 1, PORT_MAX, u64::from(RING_PORT_BASE))?;
        Ok(RingConfig { cipher, link_mode, port })
    }

    /// The links in ascending order of ids, each with the place of its network.
    fn links(&self, raw: &[RawLink], cluster: &Span) -> Result<Vec<(Link, Span)>, ConfigError> {
        if raw.is_empty() {
            return Err(ConfigError::NoLink {
                at: self.place(cluster.clone(), "this cluster needs a [[link]]"),
            });
        }
        let mut ids = BTreeMap::new();
        let mut interfaces = BTreeMap::new();
        let mut links: Vec<(Link, Span)> = Vec::new();
        for raw in raw {
            let link = self.link(raw)?;
            if let Some(first) = ids.insert(link.id, raw.id.span()) {
                return Err(ConfigError::DuplicateLinkId {
                    id: link.id,
                    at: self.again(raw.id.span(), first),
                });
            }
            if let Some(first) = interfaces.insert(link.interface.clone(), raw.interface.span()) {
                let at = self.again(raw.interface.span(), first);
                return Err(ConfigError::DuplicateInterface { interface: link.interface, at });
            }
            if let Some((other, span)) = links.iter().find(|(other, _)| overlap(other.network, link.network))
            {
                let at = self
                    .place(raw.network.span(), format!("the network of link {}", link.id))
                    .and(span.clone(), format!("the network of link {}", other.id));
                return Err(ConfigError::NetworkOverlap { first: other.id, second: link.id, at });
            }
            links.push((link, raw.network.span()));
        }
        links.sort_by_key(|(link, _)| link.id);
        Ok(links)
    }

    fn link(&self, raw: &RawLink) -> Result<Link, ConfigError> {
        let id: u8 = self.number_given("link.id", &raw.id, 0, LINKS_MAX as u64 - 1)?;
        if !is_interface_name(raw.interface.get_ref()) {
            return Err(ConfigError::BadName {
                key: "link.interface",
                value: raw.interface.get_ref().clone(),
                rule: "use an interface's name as in `ip link`: 1 to 15 bytes, no space, '/', ':' or '%'",
                at: self.place(raw.interface.span(), "not an interface name"),
            });
        }
        let network = network(raw.network.get_ref()).map_err(|reason| ConfigError::BadNetwork {
            value: raw.network.get_ref().clone(),
            reason,
            at: self.place(raw.network.span(), "not a usable network"),
        })?;
        let profile = match &raw.profile {
            None => Profile::default(),
            Some(value) => Profile::named(value.get_ref()).ok_or_else(|| ConfigError::BadProfile {
                value: value.get_ref().clone(),
                at: self.place(value.span(), "not a profile"),
            })?,
        };
        let port = u64::from(PORT_BASE) + u64::from(id);
        let interval_us = self.number(
            "link.interval_us",
            raw.interval_us.as_ref(),
            100,
            DEADLINE_MAX_US / 2,
            u64::from(profile.interval_us()),
        )?;
        let count_max = (DEADLINE_MAX_US / u64::from(interval_us)).min(100);
        Ok(Link {
            id,
            interface: raw.interface.get_ref().clone(),
            network,
            port: self.number("link.port", raw.port.as_ref(), 1, u64::from(u16::MAX), port)?,
            profile,
            interval_us,
            count: self.number("link.count", raw.count.as_ref(), 2, count_max, u64::from(profile.count()))?,
        })
    }

    /// The nodes in ascending order of ids.
    fn nodes(
        &self,
        raw: &[RawNode],
        links: &[(Link, Span)],
        cluster: &Span,
    ) -> Result<Vec<Node>, ConfigError> {
        if raw.len() < NODES_LEAST {
            let at = self.place(cluster.clone(), "this cluster needs more [[node]]");
            return Err(ConfigError::TooFewNodes { given: raw.len(), at });
        }
        let mut ids = BTreeMap::new();
        let mut names = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        let mut nodes = Vec::new();
        for raw in raw {
            let node = self.node(raw, links)?;
            if let Some(first) = ids.insert(node.id, raw.id.span()) {
                return Err(ConfigError::DuplicateNodeId {
                    id: node.id,
                    at: self.again(raw.id.span(), first),
                });
            }
            if let Some(first) = names.insert(node.name.to_ascii_lowercase(), raw.name.span()) {
                let at = self.again(raw.name.span(), first);
                return Err(ConfigError::DuplicateNodeName { name: node.name, at });
            }
            for (index, (address, value)) in node.addresses.iter().zip(raw.addresses.get_ref()).enumerate() {
                if let Some(first) = addresses.insert((index, *address), value.span()) {
                    let at = self.again(value.span(), first);
                    return Err(ConfigError::DuplicateAddress { address: *address, at });
                }
            }
            nodes.push(node);
        }
        if nodes.iter().all(|node| node.votes == 0) {
            let votes = raw.iter().filter_map(|raw| raw.votes.as_ref()).map(Spanned::span).next();
            let at = self.place(votes.unwrap_or_else(|| cluster.clone()), "0 here and for all other nodes");
            return Err(ConfigError::NoVotes { at });
        }
        nodes.sort_by_key(|node| node.id);
        Ok(nodes)
    }

    fn node(&self, raw: &RawNode, links: &[(Link, Span)]) -> Result<Node, ConfigError> {
        let id = self.number_given("node.id", &raw.id, 1, NODES_MAX as u64)?;
        let name = raw.name.get_ref();
        if !is_node_name(name) {
            return Err(ConfigError::BadName {
                key: "node.name",
                value: name.clone(),
                rule: "use a host's name: 1 to 63 letters, digits, '-' and '.', with a letter or digit at both ends",
                at: self.place(raw.name.span(), "not a host's name"),
            });
        }
        let given = raw.addresses.get_ref();
        if given.len() != links.len() {
            let at = self.place(raw.addresses.span(), format!("{} here", given.len()));
            let (given, links) = (given.len(), links.len());
            return Err(ConfigError::AddressCount { node: name.clone(), given, links, at });
        }
        let addresses = given.iter().zip(links).map(|(value, link)| self.address(value, link, links));
        Ok(Node {
            id,
            name: name.clone(),
            addresses: addresses.collect::<Result<_, _>>()?,
            votes: self.number("node.votes", raw.votes.as_ref(), 0, u64::from(u8::MAX), 1)?,
            witness: raw.witness.unwrap_or(false),
        })
    }

    fn address(
        &self,
        value: &Spanned<String>,
        (link, network_span): &(Link, Span),
        links: &[(Link, Span)],
    ) -> Result<IpAddr, ConfigError> {
        let network = link.network;
        let address: IpAddr = value.get_ref().parse().map_err(|_| ConfigError::BadAddress {
            value: value.get_ref().clone(),
            at: self.place(value.span(), "not an address"),
        })?;
        let at = |label: &str| {
            self.place(value.span(), label)
                .and(network_span.clone(), format!("the network of link {}", link.id))
        };
        let belongs =
            links.iter().find(|(other, _)| other.network.contains(&address)).map(|(other, _)| other.id);
        if !network.contains(&address) {
            // A family of another link is an order mixed up; of no link, it is the wrong family.
            if belongs.is_none() && address.is_ipv4() != network.addr().is_ipv4() {
                let at = at(if address.is_ipv4() { "an IPv4 address" } else { "an IPv6 address" });
                return Err(ConfigError::FamilyMismatch { address, link: link.id, network, at });
            }
            let at = at("outside its link's network");
            return Err(ConfigError::AddressOutside { address, link: link.id, network, belongs, at });
        }
        match reserved(address, network) {
            Some(what) => {
                Err(ConfigError::AddressReserved { address, network, what, at: at("no host's address") })
            }
            None => Ok(address),
        }
    }

    /// The index of this node: the one that the file names, else the one that has this host's name.
    fn own(
        &self,
        given: Option<&Spanned<String>>,
        nodes: &[Node],
        hostname: Option<&str>,
        cluster: &Span,
    ) -> Result<usize, ConfigError> {
        let index = |name: &str| nodes.iter().position(|node| node.name.eq_ignore_ascii_case(name));
        let names = || nodes.iter().map(|node| node.name.clone()).collect();
        match given {
            Some(name) => index(name.get_ref()).ok_or_else(|| ConfigError::UnknownNode {
                name: name.get_ref().clone(),
                names: names(),
                at: self.place(name.span(), "no node has this name"),
            }),
            None => hostname.and_then(index).ok_or_else(|| ConfigError::OwnNodeNotFound {
                hostname: hostname.map(str::to_owned),
                names: names(),
                at: self.place(cluster.clone(), "no node = \"…\" in this table"),
            }),
        }
    }

    fn again(&self, second: Span, first: Span) -> Place {
        self.place(second, "given again here").and(first, "first given here")
    }

    fn path(&self, key: &'static str, value: &Spanned<String>, most: usize) -> Result<PathBuf, ConfigError> {
        let path = value.get_ref();
        let rule = if !path.starts_with('/') {
            "write the whole path from / on: a daemon has no folder of its own to start from"
        } else if path.contains('\0') {
            "a path has no zero bytes"
        } else if path.len() > most && most == SOCKET_PATH_BYTES_MAX {
            "the path of a socket has at most 107 bytes: choose a shorter one, as in /run"
        } else if path.len() > most {
            "a path has at most 4095 bytes: choose a shorter one"
        } else {
            return Ok(PathBuf::from(path));
        };
        let at = self.place(value.span(), "not a usable path");
        Err(ConfigError::BadPath { key, value: path.clone(), rule, at })
    }

    fn number<T: TryFrom<u64>>(
        &self,
        key: &'static str,
        value: Option<&Spanned<i128>>,
        least: u64,
        most: u64,
        default: u64,
    ) -> Result<T, ConfigError> {
        let default = Spanned::new(0..0, i128::from(default));
        self.number_given(key, value.unwrap_or(&default), least, most)
    }

    fn number_given<T: TryFrom<u64>>(
        &self,
        key: &'static str,
        value: &Spanned<i128>,
        least: u64,
        most: u64,
    ) -> Result<T, ConfigError> {
        let number = u64::try_from(*value.get_ref()).ok().filter(|number| (least..=most).contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| ConfigError::OutOfRange {
            key,
            value: *value.get_ref(),
            least,
            most,
            at: self.place(value.span(), "out of range"),
        })
    }
}

fn is_cluster_name(name: &str) -> bool {
    (1..=CLUSTER_NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
}

fn is_node_name(name: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= NODE_NAME_MAX
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

/// The kernel's own rule (`dev_valid_name`), and no '%', which it would take for a pattern.
pub(crate) fn is_interface_name(name: &str) -> bool {
    (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name
            .chars()
            .any(|char| char.is_whitespace() || char.is_control() || matches!(char, '/' | ':' | '%'))
}

fn network(text: &str) -> Result<IpNet, String> {
    let network: IpNet = text.parse().map_err(|_| "it is not address/prefix".to_owned())?;
    let address = network.addr();
    if network.trunc() != network {
        return Err(format!("host bits are set, the network is {}", network.trunc()));
    }
    if network.prefix_len() == network.max_prefix_len() {
        return Err("it has room for one address only".to_owned());
    }
    if address.is_multicast() {
        return Err("it is multicast".to_owned());
    }
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err("write IPv4 as IPv4".to_owned()),
        _ => Ok(network),
    }
}

/// Whether two links would share a way. Every IPv6 link has fe80::/10 as its own: the interface tells them apart.
fn overlap(one: IpNet, other: IpNet) -> bool {
    let link_local = |network: IpNet| matches!(network.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
    (one.contains(&other) || other.contains(&one)) && !(link_local(one) && link_local(other))
}

/// What kind of address no host can have this is. The two of a /31 (RFC 3021) and of a /127 (RFC 6164) are both good.
fn reserved(address: IpAddr, network: IpNet) -> Option<&'static str> {
    if network.max_prefix_len() - network.prefix_len() < 2 {
        return None;
    }
    if address == network.network() {
        return Some(if address.is_ipv4() { "network" } else { "subnet-router anycast" });
    }
    (address.is_ipv4() && address == network.broadcast()).then_some("broadcast")
}
