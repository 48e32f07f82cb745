//! What the machines tell: the values behind `ringbeat events`, the logs and, later, membership.
//!
//! A telling carries the stamp of what it rests on and the evidence for it, so that nobody has to ask afterwards why.
//! Deliberately not there: text. The command formats.

use ringbeat_common::event::Event;

/// One thing told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Counts the tellings of one machine, from 1, without a gap.
    pub seq: u64,
    /// What is told.
    pub kind: ToldKind,
    /// The peer that it is about.
    pub slot: Option<u8>,
    /// The link that it is about, or that the evidence came through.
    pub link: Option<u8>,
    /// When it was seen, by the kernel's stamp; when it was found, for what a timer of the core finds.
    pub stamp_ns: u64,
    /// The peer's accepted incarnation, 0 for none.
    pub incarnation: u64,
    /// What it rests on.
    pub evidence: Evidence,
}

/// What a telling rests on: the figures of the kernel's last event about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// When the peer last proved life on the link, before this.
    pub heard_ns: u64,
    /// When the first unanswered probe left; 0 for none.
    pub unanswered_ns: u64,
    /// By how much the deadline was widened.
    pub credit_ns: u64,
    /// The age of the peer's daemon as its frame said.
    pub daemon_age_us: u32,
    /// Whether the kernel's timer, and not a frame, brought it.
    pub by_timer: bool,
}

impl From<&Event> for Evidence {
    fn from(event: &Event) -> Self {
        Self {
            heard_ns: event.heard_ns,
            unanswered_ns: event.unanswered_ns,
            credit_ns: event.credit_ns,
            daemon_age_us: event.daemon_age_us,
            by_timer: event.by_timer != 0,
        }
    }
}

/// Why a link counts as up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpCause {
    /// Heard for the first time in this life of the peer.
    First,
    /// It was late, and is heard again before it counted as down.
    Recovered,
    /// It was down, and has been heard for the whole damping.
    Damped,
}

/// The kinds of tellings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldKind {
    /// A link to the peer is silent; another one is heard.
    LinkLate,
    /// A link to the peer is down.
    LinkDown,
    /// A link to the peer is up.
    LinkUp {
        /// Why it counts.
        cause: UpCause,
    },
    /// The first link to the peer is up.
    PeerUp,
    /// The peer is heard on no link any more.
    PeerDown,
    /// The peer's daemon is gone: its kernel says so.
    PeerGone,
    /// The peer's kernel lives, the main loop of its daemon does not run.
    PeerStalled,
    /// It has not run for so long that the peer counts as failed.
    PeerFailed,
    /// It runs again.
    PeerRunning {
        /// Whether the peer had counted as failed.
        was_failed: bool,
    },
    /// The peer says that it is leaving.
    PeerLeaving,
    /// The peer has left: it is silent, as announced.
    PeerLeft,
    /// The peer's daemon is being replaced, as planned.
    PeerHandover,
    /// The replacement is over.
    PeerHandoverDone,
    /// The peer lives a new life; whatever was known of the old one is void.
    PeerRestarted {
        /// The incarnation before.
        previous: u64,
    },
    /// An own link cannot send or has no carrier; nobody is accused through it.
    OwnLinkDown,
    /// The own link is back.
    OwnLinkUp,
    /// All own links are down: this node can say nothing about anybody.
    Alone,
    /// An own link is back after all were down.
    NotAlone,
    /// The peer's durable counter went back, or stood still: a disk was restored. Accepted, as it proved itself.
    IncarnationRolledBack {
        /// The incarnation before.
        previous: u64,
    },
    /// Two machines bear the peer's slot: an incarnation that had been superseded proved itself again.
    DuplicatePeer {
        /// The older one of the two, not accepted again.
        superseded: u64,
    },
    /// The peer runs another configuration.
    ConfigDiffers {
        /// Its version.
        theirs: u64,
    },
}

impl ToldKind {
    /// The name under which commands and logs show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinkLate => "link_late",
            Self::LinkDown => "link_down",
            Self::LinkUp { .. } => "link_up",
            Self::PeerUp => "peer_up",
            Self::PeerDown => "peer_down",
            Self::PeerGone => "peer_gone",
            Self::PeerStalled => "peer_stalled",
            Self::PeerFailed => "peer_failed",
            Self::PeerRunning { .. } => "peer_running",
            Self::PeerLeaving => "peer_leaving",
            Self::PeerLeft => "peer_left",
            Self::PeerHandover => "peer_handover",
            Self::PeerHandoverDone => "peer_handover_done",
            Self::PeerRestarted { .. } => "peer_restarted",
            Self::OwnLinkDown => "own_link_down",
            Self::OwnLinkUp => "own_link_up",
            Self::Alone => "alone",
            Self::NotAlone => "not_alone",
            Self::IncarnationRolledBack { .. } => "incarnation_rolled_back",
            Self::DuplicatePeer { .. } => "duplicate_peer",
            Self::ConfigDiffers { .. } => "config_differs",
        }
    }
}

impl UpCause {
    /// The name under which commands and logs show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Recovered => "recovered",
            Self::Damped => "damped",
        }
    }
}
