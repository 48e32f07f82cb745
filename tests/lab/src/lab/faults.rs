//! Faults of the network and of whole nodes. Each returns the boot-time stamp taken right before it was done.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde::Serialize;

use super::{
    Lab, LabSpec,
    switch::{RECEIVERS, index},
    topology::{self, CLIENT_SLOT, LINKS_MAX, SERVICE, links_of, slot_name, slots},
};
use crate::sys::{
    clock::boottime_ns,
    spaces::{self, NETWORK},
};

/// A cut between one node and others, to be made by [`Lab::cut`].
///
/// As [`Cut::node`] makes it, it covers all heartbeat links, both directions and all peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    node: String,
    links: Links,
    direction: Direction,
    peer: Option<String>,
}

/// The links that a cut covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// All heartbeat links, not the service network.
    Heartbeat,
    /// One heartbeat link.
    One(u8),
    /// The service network.
    Service,
    /// All of them.
    All,
}

/// Which frames a cut drops, as seen from its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those that others send to it.
    In,
    /// Those that it sends.
    Out,
    /// All of them.
    Both,
}

/// A cut in force, from one sender to one receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CutInForce {
    /// The heartbeat link's number, or `service`.
    pub link: String,
    /// Whose frames are dropped.
    pub from: String,
    /// On their way to whom.
    pub to: String,
}

impl Cut {
    /// Cuts this node (or `client`) off on all heartbeat links, in both directions.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self { node: name.to_owned(), links: Links::Heartbeat, direction: Direction::Both, peer: None }
    }

    /// Only on this heartbeat link.
    #[must_use]
    pub fn link(self, link: u8) -> Self {
        self.links(Links::One(link))
    }

    /// Only on these links.
    #[must_use]
    pub fn links(self, links: Links) -> Self {
        Self { links, ..self }
    }

    /// Only in this direction.
    #[must_use]
    pub fn direction(self, direction: Direction) -> Self {
        Self { direction, ..self }
    }

    /// Only between the node and this peer.
    #[must_use]
    pub fn peer(self, name: &str) -> Self {
        Self { peer: Some(name.to_owned()), ..self }
    }
}

/// Masks to be added, each with its place in the map.
type Plan = Vec<(usize, u64)>;

impl Lab {
    /// Drops frames from the next one on, until healed. Cuts add up.
    pub fn cut(&self, cut: &Cut) -> Result<u64> {
        let plan = plan(self.spec(), cut)?;
        Ok(strike(self.cuts()?, &plan))
    }

    /// Cuts the heartbeat links between groups of nodes; nodes that are in no group stay connected to all.
    pub fn partition(&self, groups: &[&[&str]]) -> Result<u64> {
        let mut all = Plan::new();
        for (place, group) in groups.iter().enumerate() {
            for (one, other) in group.iter().flat_map(|one| {
                groups[place + 1..]
                    .iter()
                    .flat_map(move |others| others.iter().map(move |other| (*one, *other)))
            }) {
                all.extend(plan(self.spec(), &Cut::node(one).peer(other))?);
            }
        }
        Ok(strike(self.cuts()?, &all))
    }

    /// Lifts the cuts of one node, or all of them. A crashed node stays down: starting it boots it anew.
    pub fn heal(&self, node: Option<&str>) -> Result<u64> {
        let slot = node.map(|name| topology::slot(self.spec(), name)).transpose()?;
        let words = self.cuts()?;
        let stamp_ns = boottime_ns();
        for (place, word) in words.iter().enumerate() {
            match slot {
                Some(slot) if place % RECEIVERS + 1 != usize::from(slot) => {
                    word.fetch_and(!bit(slot), Ordering::SeqCst);
                }
                _ => word.store(0, Ordering::SeqCst),
            }
        }
        Ok(stamp_ns)
    }

    /// Makes a node vanish: nothing leaves it or reaches it any more, its interfaces go down, its daemon is
    /// killed.
    ///
    /// The frames stop first, at the stamp, so that neither its kernel nor its dying daemon says a last word.
    pub fn crash(&self, node: &str) -> Result<u64> {
        let node = self.node(node)?;
        let slot = node.slot()?;
        let daemon = node.daemon()?.and_then(|daemon| daemon.open().ok());
        node.mark_crashed()?;
        let plan = plan(self.spec(), &Cut::node(node.name()).links(Links::All))?;
        let stamp_ns = match self.cuts() {
            Ok(words) => strike(words, &plan),
            // A build without kernel programs: the interfaces below are the best that there is.
            Err(_) => boottime_ns(),
        };
        if let Some(daemon) = daemon {
            // Dead already is as good.
            let _ = rustix::process::pidfd_send_signal(&daemon, Signal::KILL);
        }
        let down = topology::power(self.spec(), slot, false);
        spaces::within(node.init()?, NETWORK, || topology::ip_batch(&down))??;
        Ok(stamp_ns)
    }

    /// The cuts in force, by link, sender and receiver.
    pub fn cuts_in_force(&self) -> Result<Vec<CutInForce>> {
        let Ok(words) = self.cuts() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for link in (0..self.spec().links).chain([SERVICE]) {
            for to in slots(self.spec()) {
                let mask = words[index(link, to)].load(Ordering::SeqCst);
                for from in slots(self.spec()).filter(|&from| mask & bit(from) != 0) {
                    let link = if link == SERVICE { "service".to_owned() } else { link.to_string() };
                    found.push(CutInForce { link, from: slot_name(from), to: slot_name(to) });
                }
            }
        }
        Ok(found)
    }

    fn cuts(&self) -> Result<&[AtomicU64]> {
        let words = self.cutter.as_ref().context(
            "this lab cannot cut: the lab was built without its kernel program (see `cargo xtask setup`)",
        )?;
        Ok(words.words())
    }
}

/// The fault itself: some stores.
fn strike(words: &[AtomicU64], plan: &[(usize, u64)]) -> u64 {
    let stamp_ns = boottime_ns();
    for &(place, mask) in plan {
        words[place].fetch_or(mask, Ordering::SeqCst);
    }
    stamp_ns
}

fn plan(spec: &LabSpec, cut: &Cut) -> Result<Plan> {
    let node = topology::slot(spec, &cut.node)?;
    let peers: Vec<u8> = match &cut.peer {
        Some(peer) => vec![topology::slot(spec, peer)?],
        None => slots(spec).filter(|&peer| peer != node).collect(),
    };
    anyhow::ensure!(!peers.contains(&node), "{} is its own peer", cut.node);
    let mut plan = Plan::new();
    for link in links(spec, cut.links)? {
        let on_link = |slot: u8| links_of(spec, slot).contains(&link);
        for &peer in peers.iter().filter(|&&peer| on_link(peer) && on_link(node)) {
            if cut.direction != Direction::Out {
                plan.push((index(link, node), bit(peer)));
            }
            if cut.direction != Direction::In {
                plan.push((index(link, peer), bit(node)));
            }
        }
    }
    anyhow::ensure!(!plan.is_empty(), "this cut would drop nothing: {cut:?}");
    Ok(plan)
}

fn links(spec: &LabSpec, links: Links) -> Result<Vec<u8>> {
    Ok(match links {
        Links::Heartbeat => (0..spec.links).collect(),
        Links::One(link) => {
            anyhow::ensure!(link < spec.links, "no link {link} in this lab: 0 to {}", spec.links - 1);
            vec![link]
        }
        Links::Service => vec![SERVICE],
        Links::All => (0..spec.links).chain([SERVICE]).collect(),
    })
}

fn bit(slot: u8) -> u64 {
    1 << (slot - 1)
}

const _: () = assert!(LINKS_MAX == SERVICE && CLIENT_SLOT as usize == RECEIVERS);

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(cut: Cut) -> Plan {
        plan(&LabSpec { nodes: 3, links: 2, ..LabSpec::default() }, &cut).expect("a plan")
    }

    #[test]
    fn directions_are_seen_from_the_node() {
        let inward = Cut::node("n2").link(1).direction(Direction::In);
        assert_eq!(planned(inward.clone().peer("n3")), [(index(1, 2), 0b100)]);
        assert_eq!(planned(inward), [(index(1, 2), 0b001), (index(1, 2), 0b100)]);
        let outward = Cut::node("n2").link(1).direction(Direction::Out);
        assert_eq!(planned(outward), [(index(1, 1), 0b010), (index(1, 3), 0b010)]);
    }

    #[test]
    fn a_whole_cut_covers_links_but_not_the_service_network() {
        assert_eq!(planned(Cut::node("n1")).len(), 2 * 2 * 2);
        assert_eq!(planned(Cut::node("n1").links(Links::All)).len(), 2 * 2 * 2 + 3 * 2);
        assert_eq!(planned(Cut::node("client").links(Links::Service)).len(), 3 * 2);
    }

    #[test]
    fn nonsense_is_refused() {
        let spec = LabSpec { nodes: 3, links: 2, ..LabSpec::default() };
        let bad = [
            Cut::node("n4"),
            Cut::node("n1").link(2),
            Cut::node("n1").peer("n1"),
            Cut::node("client"),
            Cut::node("n1").peer("client"),
        ];
        for cut in bad {
            assert!(plan(&spec, &cut).is_err(), "{cut:?}");
        }
    }
}
