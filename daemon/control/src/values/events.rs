//! What has happened, with its evidence.

use serde::{Deserialize, Serialize};

/// One event. All `_ns` times without another word are of this node's boot-time clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Rises by one with each event of this daemon, from 1 on; a gap is a loss.
    pub seq: u64,
    /// When the kernel saw it; what rests on the daemon's own timers and messages, when that was (docs/operations.md).
    pub stamp_ns: u64,
    /// When the daemon told it.
    pub told_ns: u64,
    /// When that was by the wall clock, in the words of RFC 3339.
    pub wall: String,
    /// What has happened, in `snake_case`, as in "peer_down".
    pub kind: String,
    /// The name of the node that it is about.
    pub node: Option<String>,
    /// The id of that node.
    pub node_id: Option<u8>,
    /// The link that it is about.
    pub link: Option<u8>,
    /// The incarnation that it is about, as [`incarnation_text`](crate::incarnation_text) writes it.
    pub incarnation: Option<String>,
    /// The view that it is about, as in `7.n1{n1,n3}`.
    #[serde(default)]
    pub view: Option<String>,
    /// The service address that it is about.
    #[serde(default)]
    pub address: Option<String>,
    /// What speaks for it.
    pub evidence: Evidence,
    /// More words, on one line.
    pub text: Option<String>,
}

/// What speaks for an event. What does not apply is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// When the peer last proved that it lives, before this.
    pub heard_ns: u64,
    /// When the first probe left that has not been answered since.
    pub unanswered_ns: u64,
    /// By how much this node's deadlines were widened for its own stalls.
    pub credit_ns: u64,
    /// How long the main loop of the peer's daemon had not run, by the peer's own word.
    pub daemon_age_us: u32,
    /// Whether the kernel's timer saw it, and not a frame.
    pub by_timer: bool,
}

/// The answer to [`Request::Handover`](crate::Request::Handover).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverReport {
    /// For how long the daemon may be away.
    pub ms: u32,
    /// Until when, by the boot-time clock.
    pub until_ns: u64,
}
