//! The heartbeat networks, and each peer on each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One link, as this node sees it. [`Request::Link`](crate::Request::Link) is answered by a list of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The link's number in the configuration.
    pub id: u8,
    /// The name of the network interface.
    pub interface: String,
    /// The kernel's number of that interface; 0 while there is none.
    pub ifindex: u32,
    /// The UDP port.
    pub port: u16,
    /// The name of the profile, or "custom".
    pub profile: String,
    /// A probe leaves every so often, to each peer.
    pub interval_us: u64,
    /// So many intervals of silence are too many.
    pub count: u32,
    /// Interval × count.
    pub deadline_us: u64,
    /// This node's address on the link.
    pub address: String,
    /// How frames are received and answered.
    pub mode: Mode,
    /// Whether the configuration demands that mode.
    pub forced: bool,
    /// Why a better mode could not be had, in the driver's words.
    pub fallback: Option<String>,
    /// Whether this node can send on it.
    pub state: LinkState,
    /// Why it is down.
    pub reason: Option<String>,
    /// Probes that the kernel refused to send.
    pub send_errors: u64,
    /// Frames dropped, by the reason's name. Reasons without a drop may be left out.
    pub drops: BTreeMap<String, u64>,
    /// How late the probe thread was at its beats.
    pub probe_lateness_us: Quantiles,
    /// Beats that were left out because their time had passed.
    pub beats_skipped: u64,
    /// The peers on this link, in the order of their ids.
    pub peers: Vec<EdgeReport>,
}

/// How a link's frames are received and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By XDP, in the driver.
    Native,
    /// By XDP, behind the driver.
    Generic,
    /// By the daemon, through a UDP socket.
    Socket,
}

super::named!(Mode { Native = "native", Generic = "generic", Socket = "socket" });

/// Whether this node can send on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// It can.
    Up,
    /// It cannot.
    Down,
}

super::named!(LinkState { Up = "up", Down = "down" });

/// One peer on one link, as this node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EdgeReport {
    /// The peer's id.
    pub id: u8,
    /// The peer's name.
    pub name: String,
    /// Whether it is heard here.
    pub state: EdgeState,
    /// Probe to answer, less the time in the peer.
    pub round_trip_us: Quantiles,
    /// Differences of successive one-way times.
    pub jitter_us: Quantiles,
    /// Probes that left.
    pub sent: u64,
    /// Probes that were answered.
    pub answered: u64,
    /// Probes that were not, those still on their way not counted.
    pub lost: u64,
    /// Lost of sent, in thousandths.
    pub loss_permille: f64,
    /// How long ago the peer last proved here that it lives; none if it never did.
    pub heard_ms: Option<f64>,
}

/// Whether a peer is heard on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeState {
    /// Inside the deadline.
    Up,
    /// Past the deadline, and not yet told as down.
    Late,
    /// Not heard.
    Down,
    /// Never heard since this daemon started.
    Unknown,
    /// Nothing can be said: this node cannot send on the link.
    OwnDown,
}

super::named!(EdgeState { Up = "up", Late = "late", Down = "down", Unknown = "unknown", OwnDown = "own_down" });

/// A distribution in short. Finite numbers only; all 0 while `count` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// 99 of 100 are not above it.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// Samples.
    pub count: u64,
}
