//! The connectivity graph: every node's row of it, as it is known here.

use serde::{Deserialize, Serialize};

use crate::EdgeState;

/// One node. [`Request::Peers`](crate::Request::Peers) is answered by a list of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The node's id in the configuration, from 1 on; its slot is one less.
    pub id: u8,
    /// The node's name.
    pub name: String,
    /// The detector's word for it: "up", "down", "gone", "stalled", "leaving", "unknown", or what a later one says.
    pub state: String,
    /// Its incarnation, as [`incarnation_text`](crate::incarnation_text) writes it; none before the handshake.
    pub incarnation: Option<String>,
    /// How long since its daemon's main loop last ran, by its own word.
    pub daemon_age_ms: Option<f64>,
    /// The version of the configuration that it runs.
    pub config_version: Option<u64>,
    /// The view that it names, or "none".
    pub view: String,
    /// Whether it is heard, on each link.
    pub links: Vec<PeerLink>,
    /// The ids of the nodes that it says it hears.
    pub hears: Vec<u8>,
    /// How old that row is here; none for a node that has not told its row.
    pub row_age_ms: Option<f64>,
    /// Whether it is this node.
    pub own: bool,
}

/// A peer's state on one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLink {
    /// The link's number.
    pub id: u8,
    /// Whether the peer is heard there.
    pub state: EdgeState,
}
