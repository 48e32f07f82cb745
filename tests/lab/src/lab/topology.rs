//! Names, addresses and wires: what connects to what, as text for `ip -batch`.
//!
//! ```text
//!   n1: hb0 10.77.0.1  hb1 10.77.1.1  svc0 10.78.0.1         client: svc0 10.78.0.250
//!        |              |              |                              |
//!      n1l0           n1l1           n1s                           clients
//!   -- br0 ----------- br1 ---------- brs ----------------------------+--   (all in the switch)
//! ```

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::LabSpec;

/// The most nodes of a lab; the 64th place in the cut masks is the client's.
pub(crate) const NODES_MAX: u8 = 63;
/// The most heartbeat links.
pub(crate) const LINKS_MAX: u8 = 8;
/// The service network's place after the links.
pub(crate) const SERVICE: u8 = LINKS_MAX;
/// The name of the namespace that holds the bridges.
pub(crate) const SWITCH: &str = "switch";
/// The name of the one outside of the cluster, on the service network.
pub(crate) const CLIENT: &str = "client";
/// The client's place in the cut masks.
pub(crate) const CLIENT_SLOT: u8 = 64;
/// What a bridge says of a port that frames pass.
pub(crate) const FORWARDING: &str = "3";
/// The client's number in addresses.
const CLIENT_HOST: u8 = 250;

/// The name of a node.
pub(crate) fn node_name(id: u8) -> String {
    format!("n{id}")
}

/// A node's place in the cut masks, by name: its id, or the client's.
pub(crate) fn slot(spec: &LabSpec, name: &str) -> Result<u8> {
    if name == CLIENT {
        return Ok(CLIENT_SLOT);
    }
    match name.strip_prefix('n').map(str::parse) {
        Some(Ok(id)) if (1..=spec.nodes).contains(&id) => Ok(id),
        _ => bail!("no node {name:?} in this lab: n1 to n{}, or {CLIENT}", spec.nodes),
    }
}

/// The name that has this place in the cut masks.
pub(crate) fn slot_name(slot: u8) -> String {
    if slot == CLIENT_SLOT { CLIENT.to_owned() } else { node_name(slot) }
}

/// The addresses of a node on a link, IPv4 and IPv6, without prefix length.
pub(crate) fn addresses(link: u8, slot: u8) -> (String, String) {
    let host = host(slot);
    if link == SERVICE {
        (format!("10.78.0.{host}"), format!("fd78::{host}"))
    } else {
        (format!("10.77.{link}.{host}"), format!("fd77:0:0:{link}::{host}"))
    }
}

/// The networks of a link, IPv4 and IPv6.
pub(crate) fn networks(link: u8) -> (String, String) {
    if link == SERVICE {
        ("10.78.0.0/24".to_owned(), "fd78::/64".to_owned())
    } else {
        (format!("10.77.{link}.0/24"), format!("fd77:0:0:{link}::/64"))
    }
}

/// The MAC address of a node on a link.
pub(crate) fn mac(link: u8, slot: u8) -> [u8; 6] {
    [0x02, 0x72, 0x62, if link == SERVICE { 0x80 } else { link }, 0, host(slot)]
}

/// The interface inside the node.
pub(crate) fn interface(link: u8) -> String {
    if link == SERVICE { "svc0".to_owned() } else { format!("hb{link}") }
}

/// The port on the switch that leads to a node.
pub(crate) fn port(link: u8, slot: u8) -> String {
    let name = slot_name(slot);
    if link == SERVICE { format!("{name}s") } else { format!("{name}l{link}") }
}

/// The links that a node or the client is on.
pub(crate) fn links_of(spec: &LabSpec, slot: u8) -> Vec<u8> {
    let heartbeat = if slot == CLIENT_SLOT { 0 } else { spec.links };
    (0..heartbeat).chain([SERVICE]).collect()
}

/// All places that are taken: the nodes and the client.
pub(crate) fn slots(spec: &LabSpec) -> impl Iterator<Item = u8> {
    (1..=spec.nodes).chain([CLIENT_SLOT])
}

/// Makes the bridges; to be run in the switch.
pub(crate) fn bridges(spec: &LabSpec) -> String {
    let mut batch = String::from("link set lo up\n");
    for link in (0..spec.links).chain([SERVICE]) {
        let bridge = bridge(link);
        let options = "stp_state 0 forward_delay 0 mcast_snooping 0";
        _ = writeln!(batch, "link add {bridge} type bridge {options}\nlink set {bridge} up");
    }
    batch
}

/// Wires a node, whose process 1 is `init`, to the switch; to be run in the switch.
pub(crate) fn wires(spec: &LabSpec, slot: u8, init: u32) -> String {
    let mut batch = String::new();
    for link in links_of(spec, slot) {
        let (port, inside, mac) = (port(link, slot), interface(link), colons(mac(link, slot)));
        _ = writeln!(batch, "link add {port} type veth peer name {inside} address {mac} netns {init}");
        _ = writeln!(batch, "link set {port} master {} up", bridge(link));
    }
    batch
}

/// Takes a node's ports away, and with them its interfaces; to be run in the switch.
pub(crate) fn unplug(spec: &LabSpec, slot: u8) -> String {
    links_of(spec, slot).into_iter().map(|link| format!("link del {}\n", port(link, slot))).collect()
}

/// Gives a node its addresses; to be run in the node.
pub(crate) fn interfaces(spec: &LabSpec, slot: u8) -> String {
    let mut batch = String::from("link set lo up\n");
    for link in links_of(spec, slot) {
        let inside = interface(link);
        let (v4, v6) = addresses(link, slot);
        _ = writeln!(batch, "addr add {v4}/24 brd + dev {inside}\naddr add {v6}/64 dev {inside} nodad");
        _ = writeln!(batch, "link set {inside} up");
    }
    batch
}

/// Sets all interfaces of a node up or down; to be run in the node.
pub(crate) fn power(spec: &LabSpec, slot: u8, up: bool) -> String {
    let state = if up { "up" } else { "down" };
    links_of(spec, slot).into_iter().map(|link| format!("link set {} {state}\n", interface(link))).collect()
}

/// Feeds lines to one `ip -batch` in the calling thread's network namespace.
pub(crate) fn ip_batch(lines: &str) -> Result<()> {
    ip(&["-batch", "-"], lines)
}

/// The same, but a line that fails does not keep the others from being done, and is no error.
pub(crate) fn ip_batch_as_far_as_possible(lines: &str) -> Result<()> {
    // With -force `ip` still ends with an error, so its end says nothing.
    ip(&["-force", "-batch", "-"], lines).or(Ok(()))
}

fn ip(args: &[&str], lines: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip` (Debian: apt-get install iproute2)")?;
    let fed = child
        .stdin
        .take()
        .map_or(Err(io::ErrorKind::BrokenPipe.into()), |mut stdin| stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip -batch failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    fed.context("cannot feed `ip -batch`")
}

fn bridge(link: u8) -> String {
    if link == SERVICE { "brs".to_owned() } else { format!("br{link}") }
}

fn host(slot: u8) -> u8 {
    if slot == CLIENT_SLOT { CLIENT_HOST } else { slot }
}

fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_wired_on_each_link_and_the_service_network() {
        let spec = LabSpec { nodes: 3, links: 2, ..LabSpec::default() };
        let wires = wires(&spec, 2, 4711);
        assert!(wires.contains("link add n2l1 type veth peer name hb1 address 02:72:62:01:00:02 netns 4711"));
        assert!(wires.contains("link set n2s master brs up"));
        assert_eq!(
            interfaces(&spec, CLIENT_SLOT).lines().nth(1),
            Some("addr add 10.78.0.250/24 brd + dev svc0")
        );
    }

    #[test]
    fn places_and_names_agree() {
        let spec = LabSpec { nodes: 3, ..LabSpec::default() };
        for place in slots(&spec) {
            assert_eq!(slot(&spec, &slot_name(place)).ok(), Some(place));
        }
        assert!(slot(&spec, "n4").is_err());
        assert!(slot(&spec, "n0").is_err());
        assert!(slot(&spec, SWITCH).is_err());
    }
}
