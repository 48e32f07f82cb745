//! Counters, since the daemon or the pinned state began.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answer to [`Request::Stats`](crate::Request::Stats).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Runs of the kernel's expiry timer.
    pub ticks: u64,
    /// Runs that came so late that this node's own CPU must have stood still.
    pub tick_stalls: u64,
    /// The latest that a run ever was.
    pub tick_late_max_us: f64,
    /// All those stalls together.
    pub stalled_ms: f64,
    /// By how much deadlines are wider now.
    pub credit_ms: f64,
    /// What the last scan over all cells cost.
    pub scan_us: f64,
    /// Events of the kernel that did not reach the daemon.
    pub events_lost: u64,
    /// Events told so far.
    pub events_told: u64,
    /// The daemon's resident memory.
    pub rss_kib: u64,
    /// The longest that the daemon's main loop ever stood still.
    pub loop_age_max_ms: f64,
    /// Probes that left, on all links.
    pub probes_sent: u64,
    /// Answers accepted, on all links.
    pub answers: u64,
    /// Probes of peers that were answered, on all links.
    pub probes_answered: u64,
    /// Accepted frames that proved nothing, on all links.
    pub unproven: u64,
    /// Frames dropped, on all links.
    pub dropped: u64,
    /// The same for each link, in the order of their ids.
    pub links: Vec<LinkStats>,
    /// The gates of the service addresses, in the configuration's order.
    pub gates: Vec<GateStats>,
    /// Whatever else the daemon counts, by name.
    pub extra: BTreeMap<String, u64>,
}

/// What has passed a gate of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GateStats {
    /// The number of the gate.
    pub index: u8,
    /// Packets that passed.
    pub passed: u64,
    /// Packets that did not.
    pub dropped: u64,
    /// When the first one passed since this node came to own the address; 0 for none.
    pub first_pass_ns: u64,
    /// When the last one passed, ever.
    pub last_pass_ns: u64,
    /// When it opened last; 0 for never.
    pub opened_ns: u64,
    /// When it closed last; 0 for never.
    pub closed_ns: u64,
}

/// Counters of one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkStats {
    /// The link's number.
    pub id: u8,
    /// Probes that left.
    pub probes_sent: u64,
    /// Answers accepted.
    pub answers: u64,
    /// Probes of peers that were answered.
    pub probes_answered: u64,
    /// Accepted frames that proved nothing.
    pub unproven: u64,
    /// Frames dropped, for whatever reason.
    pub dropped: u64,
    /// Probes that the kernel refused to send.
    pub send_errors: u64,
    /// Beats that were left out because their time had passed.
    pub beats_skipped: u64,
}
