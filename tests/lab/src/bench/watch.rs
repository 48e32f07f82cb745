//! What the survivors tell, as it comes.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use ringbeat_control::{Client, EventRecord, PeerReport};
use serde_json::json;

use crate::{Node, control::Line};

/// The events of one node, from now on.
pub(crate) struct Watch {
    node: String,
    lines: Receiver<Line>,
}

impl Watch {
    /// Follows a node, from its newest events on.
    pub(crate) fn on(node: &Node<'_>) -> Result<Self> {
        // The daemon may take the request after the fault: the newest events come along, told apart by their stamps.
        let request = json!({"request": "events", "follow": true, "limit": 64});
        Ok(Self { node: node.name().to_owned(), lines: node.follow(&request)? })
    }

    /// The next event that fits, within the time; none if it does not come.
    pub(crate) fn next(
        &self,
        patience: Duration,
        fits: impl Fn(&EventRecord) -> bool,
    ) -> Result<Option<EventRecord>> {
        let end = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => bail!("{} tells nothing any more", self.node),
                Ok(line) => {
                    let event = self.event(&line)?;
                    if fits(&event) {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// All that is waiting.
    pub(crate) fn drain(&self) -> Result<Vec<EventRecord>> {
        self.lines.try_iter().map(|line| self.event(&line)).collect()
    }

    fn event(&self, line: &Line) -> Result<EventRecord> {
        let ok = line.value.get("ok").with_context(|| format!("{} says {}", self.node, line.value))?;
        Ok(serde_json::from_value(ok.clone())?)
    }
}

/// Waits until the node's peers are all in this state, by its own word.
pub(crate) fn wait_for_peers(node: &Node<'_>, wanted: &str, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    loop {
        let peers = peers(node);
        let others = |peers: &[PeerReport]| {
            peers
                .iter()
                .filter(|peer| !peer.own)
                .all(|peer| peer.state == wanted && peer.links.iter().all(|link| link.state.name() == wanted))
        };
        match peers {
            Ok(peers) if others(&peers) => return Ok(()),
            found if Instant::now() >= end => {
                bail!("the peers of {} are not all {wanted} after {patience:?}: {found:?}", node.name())
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn peers(node: &Node<'_>) -> Result<Vec<PeerReport>> {
    Ok(Client::connect(&node.socket()?)?.peers()?)
}
