//! The daemon on one page.

use serde::{Deserialize, Serialize};

/// The answer to [`Request::Status`](crate::Request::Status).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// This node's id in the configuration, from 1 on; its slot is one less.
    pub node_id: u8,
    /// This node's name.
    pub node_name: String,
    /// The daemon's version.
    pub version: String,
    /// Whether this node takes part.
    pub state: DaemonState,
    /// How long the daemon has been running.
    pub uptime_ms: u64,
    /// This node's incarnation, as [`incarnation_text`](crate::incarnation_text) writes it.
    pub incarnation: String,
    /// The version of the configuration that runs.
    pub config_version: u64,
    /// Where that configuration was read.
    pub config_path: String,
    /// Whether the kernel programs were built in.
    pub bpf: Bpf,
    /// Whether the probe thread has what it asked the kernel for.
    pub realtime: Realtime,
    /// Links that can send.
    pub links_up: u32,
    /// Links of the configuration.
    pub links_total: u32,
    /// Peers that are heard on a link at least.
    pub peers_up: u32,
    /// Peers of the configuration, this node not counted.
    pub peers_total: u32,
    /// The installed view; none before the first.
    #[serde(default)]
    pub view: Option<ViewReport>,
    /// The view announced last, if it is not installed.
    #[serde(default)]
    pub announced: Option<ViewReport>,
    /// Whether the installed view has a quorum of votes.
    #[serde(default)]
    pub quorate: bool,
    /// The votes behind that.
    #[serde(default)]
    pub votes: Votes,
    /// This node's lease.
    #[serde(default)]
    pub lease: LeaseReport,
    /// The service addresses, in the configuration's order.
    #[serde(default)]
    pub addresses: Vec<AddressReport>,
    /// The ordered ring.
    #[serde(default)]
    pub ring: RingReport,
    /// What somebody should look at, a sentence each.
    pub warnings: Vec<String>,
    /// The folder of the pinned programs and maps; none where nothing is pinned.
    pub pins: Option<String>,
    /// What this daemon took over from the one before, as in "planned restart, incarnation kept".
    pub adopted: Option<String>,
}

/// The ordered ring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingReport {
    /// `operational`: it turns; `recovery`: the view's ring forms; `gather`: there is no view for it.
    pub state: String,
    /// The epoch of the view whose messages are delivered; 0 before the first.
    pub epoch: u64,
    /// How frames are sealed.
    pub cipher: String,
    /// Which links frames take.
    pub link_mode: String,
    /// Bytes of messages in one frame, at the most.
    pub payload: u64,
    /// Messages of this node that wait for the token.
    pub backlog: u64,
    /// Messages delivered since the daemon started.
    pub delivered: u64,
    /// Bytes of them.
    pub delivered_bytes: u64,
    /// Times that the token was lost.
    pub lost: u64,
    /// Frames that left, one for each node that they went to.
    pub frames_sent: u64,
    /// Frames that came.
    pub frames_received: u64,
    /// Frames that the kernel did not take.
    pub frames_unsent: u64,
    /// Frames that did not open: of another key, cipher, cluster or life.
    pub frames_refused: u64,
    /// Frames that had come before.
    pub frames_replayed: u64,
    /// Process groups.
    pub groups: u64,
    /// Programs of this node that are connected.
    pub programs: u64,
    /// Programs that have gone, or did not read and were let go.
    pub programs_let_go: u64,
}

/// A view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewReport {
    /// Rises with every view.
    pub epoch: u64,
    /// The name of the node that proposed it.
    pub proposer: String,
    /// The names of its members.
    pub members: Vec<String>,
    /// The config version that it is for.
    pub config: u32,
}

impl std::fmt::Display for ViewReport {
    /// As in `7.n1{n1,n3}`: epoch, proposer, members.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}{{{}}}", self.epoch, self.proposer, self.members.join(","))
    }
}

/// Votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Votes {
    /// Of the installed view's members.
    pub present: u32,
    /// That make a quorum.
    pub quorum: u32,
    /// Of all nodes.
    pub total: u32,
}

/// A node's lease: for so long it may serve what is its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReport {
    /// Whether it is valid now.
    pub valid: bool,
    /// Its length, from a stamp to its end.
    pub length_us: u32,
    /// How long it would last without another grant; negative since it has run out, none before the first grant, and
    /// where the own votes are a quorum.
    pub margin_us: Option<i64>,
    /// How often it has run out and come back, inside one view.
    pub lapses: u64,
    /// For how long at the most.
    pub lapse_max_us: u64,
    /// How long ago it came back the last time.
    #[serde(default)]
    pub lapse_age_us: Option<u64>,
    /// The same by the node's boot-time clock, as the stamps of events are, to the microsecond.
    #[serde(default)]
    pub lapse_ended_ns: Option<u64>,
}

/// A service address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressReport {
    /// The number of its gate.
    pub index: u8,
    /// The address with its prefix.
    pub address: String,
    /// The interface.
    pub interface: String,
    /// The name of the node whose own it is under the installed view.
    pub holder: Option<String>,
    /// This node's gate for it: "open"; "waiting" for the lease; "closed".
    pub here: String,
    /// The MAC address of a stranger who uses it.
    pub conflict: Option<String>,
    /// Why this node cannot serve it.
    pub error: Option<String>,
}

/// Whether a node takes part in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DaemonState {
    /// It probes and answers.
    Running,
    /// It neither probes nor answers yet, or no longer.
    Closed,
    /// Another node bears its id; it takes no part.
    Duplicate,
    /// None of its own links can send.
    Alone,
    /// It is going on purpose.
    Leaving,
}

super::named!(DaemonState {
    Running = "running",
    Closed = "closed",
    Duplicate = "duplicate",
    Alone = "alone",
    Leaving = "leaving",
});

/// The kernel programs, as far as the build goes; what a link uses is in its [`Mode`](crate::Mode).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bpf {
    /// Whether this daemon brings them.
    pub compiled: bool,
    /// Why they are not there, or cannot be used at all.
    pub reason: Option<String>,
}

/// What the kernel granted to the probe thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Realtime {
    /// Its scheduling, as in "fifo 50" or "normal: not permitted (CAP_SYS_NICE)".
    pub probe: String,
    /// The daemon's memory, as in "locked 12 MiB" or "not locked: over budget".
    pub memory: String,
    /// Whether both are as they should be.
    pub granted: bool,
}
