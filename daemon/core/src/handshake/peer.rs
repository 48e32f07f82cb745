//! What the handshake keeps of a peer: the outstanding nonce, what was accepted, what was superseded, and a bound.

use ringbeat_common::frame::Frame;

use crate::limits::{NONCE_AGE_MAX_NS, SUPERSEDED_KEPT, WELCOME_WINDOW_NS, WELCOMES_MAX};

/// What the handshake knows of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerView {
    /// The accepted incarnation.
    pub incarnation: Option<u64>,
    /// The version of frames that it writes, as it said when it proved itself; 0 before.
    pub version: u8,
    /// The version of its configuration, as it said when it proved itself.
    pub config_version: Option<u64>,
}

/// A number that the peer has to echo.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nonce {
    pub(super) value: u64,
    pub(super) since_ns: u64,
}

impl Nonce {
    pub(super) const fn is_fresh(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.since_ns) < NONCE_AGE_MAX_NS
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub(super) nonce: Option<Nonce>,
    pub(super) incarnation: Option<u64>,
    /// Hellos since the peer was last heard.
    pub(super) hellos: usize,
    pub(super) is_heard: bool,
    pub(super) welcomes: Bound,
    pub(super) told_duplicate: Option<u64>,
    superseded: [u64; SUPERSEDED_KEPT],
    told_config: Option<u64>,
    config_version: Option<u64>,
    version: u8,
}

impl Peer {
    pub(super) fn view(&self) -> PeerView {
        PeerView { incarnation: self.incarnation, version: self.version, config_version: self.config_version }
    }

    /// Whether the incarnation was accepted once, and then another one.
    pub(super) fn is_superseded(&self, incarnation: u64) -> bool {
        self.superseded.contains(&incarnation)
    }

    /// Takes what a proven frame says; true if its config version differs from ours and that is news.
    pub(super) fn prove(&mut self, frame: &Frame, ours: u64) -> bool {
        if let Some(before) = self.incarnation.filter(|before| *before != frame.incarnation()) {
            self.superseded.rotate_right(1);
            self.superseded[0] = before;
        }
        self.incarnation = Some(frame.incarnation());
        self.version = frame.version();
        let theirs = frame.config_version();
        self.config_version = Some(theirs);
        let differing = (theirs != ours).then_some(theirs);
        let is_news = differing.is_some() && differing != self.told_config;
        self.told_config = differing;
        is_news
    }
}

/// So many in a window, and no more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bound {
    since_ns: u64,
    taken: u32,
}

impl Bound {
    /// Takes one if there is one left.
    pub(super) fn take(&mut self, now_ns: u64) -> bool {
        if now_ns.saturating_sub(self.since_ns) >= WELCOME_WINDOW_NS {
            *self = Self { since_ns: now_ns, taken: 0 };
        }
        let is_left = self.taken < WELCOMES_MAX;
        self.taken += u32::from(is_left);
        is_left
    }
}
