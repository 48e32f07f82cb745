//! Frames as an enemy of the cluster makes them, what daemons say, and waiting for it.
//!
//! The lab's key is known, so tags can be made that fit: what is refused then is refused for its own reason.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ringbeat_common::frame::{FRAME_BYTES, Frame, Kind, MAGIC};
use ringbeatd::keys::{Derived, derive};
use serde_json::{Value, json};

use super::expect::is_of_views;
use crate::{Lab, Node, PacketSocket, bench::prober::checksum, boottime_ns};

/// A frame that was seen, and the packet around it.
pub(super) type Captured = (Frame, Vec<u8>);

/// Long for a state of a daemon to come about, at load too.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Where the frame begins in a packet without VLAN tag over IPv4.
const FRAME_AT: usize = 14 + 20 + 8;
/// The port of link 0; the others follow.
const PORT: u16 = 5405;
/// How long a recorder waits for one packet before it looks whether it shall stop.
const LOOK: Duration = Duration::from_millis(20);

/// One who knows the cluster's key.
pub(super) struct Forger {
    derived: Derived,
}

impl Forger {
    /// Reads the key of a node.
    pub(super) fn new(node: &Node<'_>) -> Result<Self> {
        let key = fs::read(node.etc().join("authkey")).context("the lab's key")?;
        Ok(Self { derived: derive(&key, "lab") })
    }

    /// A frame that is right in all but its sequence number, which is 0, and not sealed yet.
    pub(super) fn frame(&self, kind: Kind, from: &Node<'_>, to: &Node<'_>, link: u8) -> Result<Frame> {
        let mut frame = Frame::new(kind);
        frame.set_cluster_id(self.derived.cluster_id);
        frame.set_config_version(1);
        frame.set_sender(from.id()? - 1);
        frame.set_target(to.id()? - 1);
        frame.set_link(link);
        frame.set_incarnation(incarnation(from)?);
        frame.set_target_incarnation(incarnation(to)?);
        frame.set_stamp(boottime_ns());
        Ok(frame)
    }

    /// Puts the right tag on it.
    pub(super) fn sealed(&self, mut frame: Frame) -> Frame {
        frame.seal(self.derived.frame_key);
        frame
    }
}

/// A UDP packet between two nodes on a link, with right headers around any payload.
pub(super) fn packet(from: &Node<'_>, to: &Node<'_>, link: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let udp = u16::try_from(8 + payload.len())?;
    let mut bytes = [to.mac(link)?, from.mac(link)?].concat();
    bytes.extend([0x08, 0x00, 0x45, 0]);
    bytes.extend((20 + udp).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    for node in [from, to] {
        let address: std::net::Ipv4Addr = node.address(link)?.parse()?;
        bytes.extend(address.octets());
    }
    let checksum = checksum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    for field in [PORT + u16::from(link), PORT + u16::from(link), udp, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(payload);
    Ok(bytes)
}

/// The heartbeat frame in a packet, if there is one.
pub(super) fn frame_in(packet: &[u8]) -> Option<Frame> {
    let frame = Frame::from_bytes(packet.get(FRAME_AT..FRAME_AT + FRAME_BYTES)?)?;
    (packet[12..14] == [0x08, 0x00] && frame.magic() == MAGIC).then_some(frame)
}

/// Records the frames that pass a socket while `work` is done.
pub(super) fn record<T>(
    socket: &PacketSocket,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Captured>)> {
    socket.set_patience(LOOK)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let recorder = scope.spawn(|| -> Result<_> {
            let (mut all, mut buffer) = (Vec::new(), [0; 2048]);
            while !stop.load(Ordering::Acquire) {
                match socket.recv(&mut buffer) {
                    Ok(packet) => all.extend(frame_in(packet).map(|frame| (frame, packet.to_vec()))),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(all)
        });
        let done = work();
        stop.store(true, Ordering::Release);
        let recorded = recorder.join().map_err(|_| anyhow::anyhow!("the recorder panicked"))??;
        Ok((done?, recorded))
    })
}

/// What the daemon answers to a request without fields.
pub(super) fn ask(node: &Node<'_>, request: &str) -> Result<Value> {
    let mut answer = node.request(&json!({ "request": request }))?;
    match answer.get_mut("ok") {
        Some(value) => Ok(value.take()),
        None => bail!("{}: {request}: {answer}", node.name()),
    }
}

/// The daemon's incarnation, as frames carry it.
pub(super) fn incarnation(node: &Node<'_>) -> Result<u64> {
    let status = ask(node, "status")?;
    let text = status["incarnation"].as_str().unwrap_or_default();
    let (counter, salt) = text.split_once('-').with_context(|| format!("incarnation {text:?}"))?;
    Ok(counter.parse::<u64>()? << 32 | u64::from_str_radix(salt, 16)?)
}

/// Frames dropped on a link, by reason.
pub(super) fn drops(node: &Node<'_>, link: u8) -> Result<BTreeMap<String, u64>> {
    let links = ask(node, "link")?;
    Ok(serde_json::from_value(links[usize::from(link)]["drops"].clone())?)
}

/// The reasons whose counts have grown, and by how much.
pub(super) fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let grown = after.iter().map(|(reason, count)| {
        (reason.clone(), count.saturating_sub(before.get(reason).copied().unwrap_or(0)))
    });
    grown.filter(|(_, count)| *count > 0).collect()
}

/// What a node has told of these kinds; of none, all about links and peers.
pub(super) fn told(node: &Node<'_>, kinds: &[&str]) -> Result<Vec<Value>> {
    let events = ask(node, "events")?;
    let events = events.as_array().cloned().unwrap_or_default();
    let of = |event: &Value| match event["kind"].as_str().unwrap_or_default() {
        kind if kinds.is_empty() => !is_of_views(kind),
        kind => kinds.contains(&kind),
    };
    Ok(events.into_iter().filter(of).collect())
}

/// Waits until it is so.
pub(super) fn until(what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !check()? {
        ensure!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Waits until a node hears so many peers, each on all links.
pub(super) fn hears(node: &Node<'_>, peers: u64) -> Result<()> {
    until(&format!("{} hears {peers} peers on all links", node.name()), || {
        let links = ask(node, "link")?;
        let on_all = links.as_array().is_some_and(|links| {
            links.iter().all(|link| {
                let up = link["peers"]
                    .as_array()
                    .map_or(0, |peers| peers.iter().filter(|peer| peer["state"] == "up").count());
                up as u64 == peers
            })
        });
        Ok(on_all && ask(node, "status")?["peers_up"] == peers)
    })
}

/// A lab whose nodes all hear one another.
pub(super) fn all_hear(lab: &Lab) -> Result<()> {
    lab.nodes().try_for_each(|node| hears(&node, u64::from(lab.spec().nodes) - 1))
}

/// Nobody was told as anything but up.
pub(super) fn is_calm(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        let bad: Vec<Value> = told(&node, &[])?
            .into_iter()
            .filter(|event| !["peer_up", "link_up"].contains(&event["kind"].as_str().unwrap_or_default()))
            .collect();
        ensure!(bad.is_empty(), "{} told: {}", node.name(), json!(bad));
    }
    Ok(())
}
