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
    /// What somebody should look at, a sentence each.
    pub warnings: Vec<String>,
    /// The folder of the pinned programs and maps; none where nothing is pinned.
    pub pins: Option<String>,
    /// What this daemon took over from the one before, as in "planned restart, incarnation kept".
    pub adopted: Option<String>,
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
