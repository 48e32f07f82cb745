//! What may be asked.

use serde::{Deserialize, Serialize};

/// One request: a JSON object whose `request` is the name in `snake_case`, with the fields beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", from = "Wire")]
pub enum Request {
    /// Answered by a [`Status`](crate::Status).
    Status,
    /// Answered by a list of [`LinkReport`](crate::LinkReport), in the order of their ids.
    Link,
    /// Answered by a list of [`PeerReport`](crate::PeerReport), in the order of their ids, this node among them.
    Peers,
    /// Answered by a [`Stats`](crate::Stats).
    Stats,
    /// Answered by a list of [`EventRecord`](crate::EventRecord), oldest first; with `follow` by one line for each.
    Events {
        /// Keep telling, one line an event, until the connection is closed.
        follow: bool,
        /// Only events after this sequence number.
        since: Option<u64>,
        /// Only the newest so many of those that are kept; with `follow` this bounds what comes first.
        limit: Option<u32>,
    },
    /// Announces a planned restart of the daemon; answered by a [`HandoverReport`](crate::HandoverReport).
    Handover {
        /// For how long the daemon will be away at most. More than the daemon's `daemon_stall_ms` is refused.
        ms: u32,
    },
}

/// What is read. Only variants with braces refuse unknown fields.
#[derive(Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
enum Wire {
    Status {},
    Link {},
    Peers {},
    Stats {},
    Events {
        #[serde(default)]
        follow: bool,
        #[serde(default)]
        since: Option<u64>,
        #[serde(default)]
        limit: Option<u32>,
    },
    Handover {
        ms: u32,
    },
}

impl From<Wire> for Request {
    fn from(wire: Wire) -> Self {
        match wire {
            Wire::Status {} => Self::Status,
            Wire::Link {} => Self::Link,
            Wire::Peers {} => Self::Peers,
            Wire::Stats {} => Self::Stats,
            Wire::Events { follow, since, limit } => Self::Events { follow, since, limit },
            Wire::Handover { ms } => Self::Handover { ms },
        }
    }
}
