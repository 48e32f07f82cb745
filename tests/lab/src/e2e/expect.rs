//! What nodes must tell, and that they tell nothing else.
//!
//! An [`Ear`] hears every event of its node from a known number on, without a gap. Tests name events as [`name`]
//! writes them, `link_down n2 0`: they wait for those that must come, and then compare all that came. No time decides
//! but two: the patience, which is generous, and a quiet while in which nothing more may be told.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ringbeat_control::{Client, EdgeReport, EdgeState, EventRecord, LinkReport, PeerReport, Status};
use serde_json::json;

use super::Ctx;
use crate::{Lab, LabSpec, Node, control::Line};

/// How long anything that must happen may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// For how long nothing more may be told before the tellings are compared: many deadlines of `fast` and `lan`.
const QUIET: Duration = Duration::from_millis(600);
/// How often a state that must come is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Samples of a counter that a probe on its way makes jump.
const SAMPLES: usize = 20;

/// A lab whose nodes all hear one another on all links.
pub(super) fn cluster(ctx: &Ctx, spec: LabSpec) -> Result<Lab> {
    let lab = ctx.running(spec)?;
    all_up(&lab)?;
    Ok(lab)
}

/// Waits until every node hears every other on every link.
pub(super) fn all_up(lab: &Lab) -> Result<()> {
    let all = lab.nodes().collect::<Vec<_>>();
    wait("all links are up everywhere", || {
        let up = |node: &Node<'_>| {
            Ok(others(node)?
                .iter()
                .all(|peer| peer.state == "up" && peer.links.iter().all(|link| link.state == EdgeState::Up)))
        };
        all.iter().map(up).try_fold(true, |all, one: Result<bool>| Ok(all && one?))
    })
}

/// Waits until it is so; fails after [`PATIENCE`], with the last error if there was one.
pub(super) fn wait(what: &str, is: impl Fn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match is() {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() < end => {}
            Err(_) if Instant::now() < end => {}
            Ok(false) => bail!("not within {PATIENCE:?}: {what}"),
            Err(error) => return Err(error.context(format!("not within {PATIENCE:?}: {what}"))),
        }
        thread::sleep(LOOK);
    }
}

/// A connection to the node's daemon.
pub(super) fn client(node: &Node<'_>) -> Result<Client> {
    Client::connect(&node.socket()?).with_context(|| format!("{} is not to be asked", node.name()))
}

/// What the node says of itself.
pub(super) fn status(node: &Node<'_>) -> Result<Status> {
    Ok(client(node)?.status()?)
}

/// What the node says of one of its links.
pub(super) fn link(node: &Node<'_>, id: u8) -> Result<LinkReport> {
    let links = client(node)?.link()?;
    links.into_iter().find(|link| link.id == id).with_context(|| format!("{} has no link {id}", node.name()))
}

/// What the node says of a peer on one of its links.
pub(super) fn edge(node: &Node<'_>, id: u8, peer: &str) -> Result<EdgeReport> {
    let found = link(node, id)?.peers.into_iter().find(|edge| edge.name == peer);
    found.with_context(|| format!("{} has no peer {peer} on link {id}", node.name()))
}

/// All that `ringbeat peers` prints in the node.
pub(super) fn peers(node: &Node<'_>) -> Result<Vec<PeerReport>> {
    let output = node.output("ringbeat", &["peers", "-o", "json"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "`ringbeat peers` in {}: {said}", node.name());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// One row of `ringbeat peers`.
pub(super) fn peer(node: &Node<'_>, name: &str) -> Result<PeerReport> {
    let found = peers(node)?.into_iter().find(|peer| peer.name == name);
    found.with_context(|| format!("`ringbeat peers` in {} has no {name}", node.name()))
}

/// Waits until `ringbeat peers` has this state for a peer.
pub(super) fn is_called(node: &Node<'_>, name: &str, state: &str) -> Result<()> {
    wait(&format!("{} calls {name} {state}", node.name()), || Ok(peer(node, name)?.state == state))
}

/// Probes to a peer on a link that were lost; the one on its way not counted.
pub(super) fn lost(node: &Node<'_>, id: u8, peer: &str) -> Result<u64> {
    let samples =
        (0..SAMPLES).map(|_| edge(node, id, peer).map(|edge| edge.lost)).collect::<Result<Vec<_>>>()?;
    samples.into_iter().min().context("no samples")
}

/// An event in words: what, of whom, and the link where the event is about one.
pub(super) fn name(event: &EventRecord) -> String {
    let mut name = event.kind.clone();
    if let Some(node) = &event.node {
        name = format!("{name} {node}");
    }
    match event.link {
        Some(link) if event.kind.contains("link") => format!("{name} {link}"),
        _ => name,
    }
}

/// Whether an event of this kind is about views, the lease or an address: those follow from what happens to links and
/// peers, and have tests of their own.
pub(super) fn is_of_views(kind: &str) -> bool {
    let about = ["lease_", "gate_", "address_", "ring_"];
    matches!(kind, "announce" | "install") || about.iter().any(|about| kind.starts_with(about))
}

/// The other nodes, as the node's daemon sees them.
fn others(node: &Node<'_>) -> Result<Vec<PeerReport>> {
    Ok(client(node)?.peers()?.into_iter().filter(|peer| !peer.own).collect())
}

/// The events of one node.
pub(super) struct Ear {
    node: String,
    lines: Receiver<Line>,
    told: Vec<EventRecord>,
}

impl Ear {
    /// Hears what the node tells from now on.
    pub(super) fn on(node: &Node<'_>) -> Result<Self> {
        let since = client(node)?.stats()?.events_told;
        let request = json!({"request": "events", "follow": true, "since": since});
        Ok(Self { node: node.name().to_owned(), lines: node.follow(&request)?, told: Vec::new() })
    }

    /// The first event of this name, waited for if it has not come yet.
    pub(super) fn hears(&mut self, what: &str) -> Result<EventRecord> {
        let end = Instant::now() + PATIENCE;
        let mut seen = 0;
        loop {
            if let Some(event) = self.told[seen..].iter().find(|event| name(event) == what) {
                return Ok(event.clone());
            }
            seen = self.told.len();
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.take(&line)?,
                Err(error) => {
                    let why = match error {
                        RecvTimeoutError::Timeout => format!("not within {PATIENCE:?}"),
                        RecvTimeoutError::Disconnected => "the stream has ended".to_owned(),
                    };
                    bail!("{} does not tell {what:?}, {why}; it told {}", self.node, self.all())
                }
            }
        }
    }

    /// Fails unless all that was told so far is exactly this, in any order, with any number of `allowed` between.
    ///
    /// A link that was late and recovered before a second deadline is no fault: the machine stood still for a moment,
    /// and that was said and taken back.
    pub(super) fn told_only(&mut self, wanted: &[&str], allowed: &[&str]) -> Result<()> {
        self.drain()?;
        let mut left = wanted.to_vec();
        for event in &self.told {
            let name = name(event);
            if let Some(at) = left.iter().position(|wanted| *wanted == name) {
                left.swap_remove(at);
            } else if !self.is_passing(event) && !is_of_views(&event.kind) {
                ensure!(allowed.contains(&name.as_str()), "{} told {name:?}, too: {}", self.node, self.all());
            }
        }
        ensure!(left.is_empty(), "{} did not tell {left:?}: {}", self.node, self.all());
        Ok(())
    }

    /// Whether an event is one half of a late link that recovered.
    fn is_passing(&self, event: &EventRecord) -> bool {
        let recovered = |other: &EventRecord| {
            other.kind == "link_up" && other.text.as_deref() == Some("recovered") && other.seq >= event.seq
        };
        let about =
            |other: &EventRecord| (other.node.clone(), other.link) == (event.node.clone(), event.link);
        matches!(event.kind.as_str(), "link_late" | "link_up")
            && (recovered(event)
                || event.kind == "link_late"
                    && self.told.iter().any(|other| about(other) && recovered(other)))
    }

    /// Everything told so far.
    pub(super) fn told(&mut self) -> Result<&[EventRecord]> {
        self.drain()?;
        Ok(&self.told)
    }

    /// Forgets what was told so far.
    pub(super) fn forget(&mut self) -> Result<()> {
        self.drain()?;
        self.told.clear();
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        while let Ok(line) = self.lines.try_recv() {
            self.take(&line)?;
        }
        Ok(())
    }

    fn take(&mut self, line: &Line) -> Result<()> {
        let event = line.value.get("ok").with_context(|| format!("{} says {}", self.node, line.value))?;
        self.told.push(serde_json::from_value(event.clone())?);
        Ok(())
    }

    /// All tellings on one line, each with its time after the first and what it rests on.
    fn all(&self) -> String {
        let first_ns = self.told.first().map_or(0, |event| event.stamp_ns);
        let ms = |ns: u64| ns as f64 / 1e6;
        let one = |event: &EventRecord| {
            let (evidence, stamp_ns) = (event.evidence, event.stamp_ns);
            let text = event.text.as_deref().unwrap_or("-");
            let (at, silent) = (ms(stamp_ns) - ms(first_ns), ms(stamp_ns.saturating_sub(evidence.heard_ns)));
            let (by_timer, credit) = (evidence.by_timer, ms(evidence.credit_ns));
            format!(
                "{} [{text}] at {at:.1} ms (timer {by_timer}, heard {silent:.1} ms ago, credit {credit:.1})",
                name(event)
            )
        };
        self.told.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}

/// The events of several nodes.
pub(super) struct Ears(Vec<Ear>);

impl Ears {
    /// Hears what these nodes tell from now on.
    pub(super) fn on(lab: &Lab, names: &[&str]) -> Result<Self> {
        names.iter().map(|name| Ear::on(&lab.node(name)?)).collect::<Result<_>>().map(Self)
    }

    /// One of them.
    pub(super) fn of(&mut self, node: &str) -> Result<&mut Ear> {
        self.0.iter_mut().find(|ear| ear.node == node).with_context(|| format!("nobody listens to {node}"))
    }

    /// Waits until all of them tell all of this; gives the events, node by node.
    pub(super) fn hear(&mut self, all: &[&str]) -> Result<Vec<EventRecord>> {
        let mut heard = Vec::new();
        for ear in &mut self.0 {
            for what in all {
                heard.push(ear.hears(what)?);
            }
        }
        Ok(heard)
    }

    /// The same, of these nodes only.
    pub(super) fn hear_from(&mut self, nodes: &[&str], all: &[&str]) -> Result<Vec<EventRecord>> {
        let mut heard = Vec::new();
        for node in nodes {
            for what in all {
                heard.push(self.of(node)?.hears(what)?);
            }
        }
        Ok(heard)
    }

    /// After a quiet while, each of them must have told exactly this; see [`Ear::told_only`].
    pub(super) fn told_only(&mut self, wanted: &[&str], allowed: &[&str]) -> Result<()> {
        quiet();
        self.0.iter_mut().try_for_each(|ear| ear.told_only(wanted, allowed))
    }

    /// Forgets what they told so far.
    pub(super) fn forget(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(Ear::forget)
    }
}

/// A while in which whatever is on its way is told.
pub(super) fn quiet() {
    thread::sleep(QUIET);
}
