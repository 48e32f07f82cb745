//! Which incarnation of a peer is believed, and whether another machine bears the own slot.
//!
//! A frame under the cluster's key proves that *some* life of its sender made it, at *some* time. Only the echo of a fresh
//! number proves that the life is there now:
//!
//! ```text
//! A                                        B
//! Hello    stamp nA              ------>
//!                                <------   Welcome  stamp nB, returned nA
//! accepts B
//! Confirm  returned nB           ------>
//!                                          accepts A
//! ```
//!
//! Each node has one nonce outstanding for each peer, in Hello and Welcome alike; a success uses it up, and after
//! [`NONCE_AGE_MAX_NS`](crate::limits::NONCE_AGE_MAX_NS) it is replaced. Hellos repeat until the kernel *hears* the peer, which takes both acceptances: a
//! lost Confirm heals by the next Hello. Accepting what is accepted already changes nothing.
//!
//! The own slot is asked for in the same way, by broadcast: whoever answers with the echo of the own nonce and another
//! incarnation is a second machine with this slot, and both stop taking part.
//!
//! A peer's durable counter may go back (a disk was restored): the new life proved itself, so it is accepted, and
//! told. What is not accepted is an incarnation that was superseded: two machines take turns, and the newer one stays.
//!
//! Deliberately not here: sealing and the check of tags (the shell's), and any retry but the Hello's.

mod peer;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use ringbeat_common::frame::{Frame, Kind};
use ringbeat_common::limits::{LINKS_MAX, NODES_MAX};

pub use self::peer::PeerView;
use self::peer::{Nonce, Peer};
use crate::limits::{
    ANNOUNCE_BURST_NS, ANNOUNCE_INTERVAL_NS, HELLO_BURST_NS, HELLO_INTERVAL_NS, NONCES_POOLED,
};
use crate::mutation::Mutation;
use crate::timers::Timers;
use crate::told::{Evidence, Told, ToldKind};

/// What goes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A Hello, Welcome or Confirm for this slot, its tag, cluster and version checked, and the link that it came on.
    Frame {
        /// The link that it came on.
        link: u8,
        /// The frame.
        frame: Frame,
    },
    /// Random numbers, as many as `nonces_wanted()`.
    Nonces(Vec<u64>),
    /// The kernel hears the peer: the detector's output.
    Heard {
        /// The peer.
        slot: u8,
    },
    /// The kernel hears the peer no more: the detector's output.
    Silent {
        /// The peer.
        slot: u8,
    },
    /// The peer's incarnation is accepted already, as the pinned maps of a daemon before this one say.
    Adopted {
        /// The peer.
        slot: u8,
        /// Its incarnation.
        incarnation: u64,
    },
    /// The own configuration has a new version.
    ConfigVersion(u64),
    /// `next_timeout()` has come, and nothing else is waiting.
    Timeout,
}

/// What comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Seal the frame (key id and tag are not in it yet) and send it.
    Transmit {
        /// On this link.
        link: u8,
        /// To this slot.
        target: u8,
        /// To everybody on the link: the target is the own slot, and its address is this machine.
        broadcast: bool,
        /// The frame.
        frame: Frame,
    },
    /// The peer's incarnation is agreed on: reset its cells to it, then tell the detector.
    Accept {
        /// The peer.
        slot: u8,
        /// Its incarnation.
        incarnation: u64,
        /// The one accepted before.
        previous: Option<u64>,
    },
    /// Something to tell.
    Told(Told),
    /// Another machine bears this node's slot: take no part any more. Given once.
    DuplicateSelf {
        /// The other's incarnation.
        incarnation: u64,
    },
}

/// What a handshake is built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The own slot.
    pub own: u8,
    /// The own incarnation, not 0.
    pub incarnation: u64,
    /// The cluster.
    pub cluster_id: u64,
    /// The version of the own configuration.
    pub config_version: u64,
    /// The peers' slots; the own one and invalid ones are left out.
    pub peers: Vec<u8>,
    /// The links in use.
    pub links: Vec<u8>,
}

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Hellos, Welcomes and Confirms sent.
    pub sent: u64,
    /// Echoes that were not of the outstanding nonce: replays, and the later ones of several answers.
    pub unproven: u64,
    /// Hellos left unanswered because their sender had had its share.
    pub over_bound: u64,
    /// Frames of no peer, of no link in use, or of a kind that has no place here.
    pub stray: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Announce,
    Hello(u8),
}

/// The state machine. See the module, and the crate for the driver's contract.
#[derive(Clone, Debug)]
pub struct Handshake {
    config: Config,
    /// By slot; the own slot has one too, for its nonce and its bound.
    peers: Vec<Option<Peer>>,
    announced: usize,
    duplicate: Option<u64>,
    pool: VecDeque<u64>,
    is_started: bool,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    counters: Counters,
    mutation: Mutation,
    seq: u64,
}

impl Handshake {
    /// A handshake with nobody yet. It wants nonces first; with them it begins to send.
    pub fn new(config: &Config) -> Self {
        Self::mutated(config, Mutation::None)
    }

    /// A handshake without one of its clauses, for the tests of the tests.
    #[doc(hidden)]
    pub fn mutated(config: &Config, mutation: Mutation) -> Self {
        let mut config = config.clone();
        config.links.retain(|link| usize::from(*link) < LINKS_MAX);
        config.links.sort_unstable();
        config.links.dedup();
        let mut peers = vec![None; NODES_MAX];
        for slot in config.peers.iter().chain([&config.own]) {
            if let Some(peer) = peers.get_mut(usize::from(*slot)) {
                *peer = Some(Peer::default());
            }
        }
        Self {
            config,
            peers,
            announced: 0,
            duplicate: None,
            pool: VecDeque::new(),
            is_started: false,
            timers: Timers::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
            mutation,
            seq: 0,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now_ns: u64) {
        let own = self.config.own;
        match input {
            Input::Frame { link, frame } => self.frame(link, &frame, now_ns),
            Input::Nonces(nonces) => self.nonces(&nonces, now_ns),
            Input::Heard { slot } => self.heard(slot, true, now_ns),
            Input::Silent { slot } => self.heard(slot, false, now_ns),
            Input::Adopted { slot, incarnation } => {
                if let Some(peer) = self.peer(slot).filter(|_| slot != own) {
                    peer.incarnation = (incarnation != 0).then_some(incarnation);
                }
            }
            Input::ConfigVersion(version) => self.config.config_version = version,
            Input::Timeout => self.timeout(now_ns),
        }
    }

    /// The next output, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `Input::Timeout` is wanted.
    pub fn next_timeout(&self) -> Option<u64> {
        self.timers.next()
    }

    /// How many random numbers the pool has room for; to be asked after each `handle`.
    pub fn nonces_wanted(&self) -> usize {
        NONCES_POOLED - self.pool.len()
    }

    /// What is known of a peer.
    pub fn peer_view(&self, slot: u8) -> PeerView {
        let peer = self.peers.get(usize::from(slot)).and_then(Option::as_ref);
        peer.map(Peer::view).unwrap_or_default()
    }

    /// The incarnation of the other machine with the own slot, once it has proved itself.
    pub fn duplicate(&self) -> Option<u64> {
        self.duplicate
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn peer(&mut self, slot: u8) -> Option<&mut Peer> {
        self.peers.get_mut(usize::from(slot))?.as_mut()
    }

    fn nonces(&mut self, nonces: &[u64], now_ns: u64) {
        // 0 stands for "none" in a frame.
        let room = self.nonces_wanted();
        self.pool.extend(nonces.iter().copied().filter(|nonce| *nonce != 0).take(room));
        if !self.is_started {
            self.is_started = true;
            self.timers.set(Timer::Announce, now_ns);
            for slot in self.slots() {
                // Unless the detector has spoken already.
                if self.peer(slot).is_some_and(|peer| !peer.is_heard) {
                    self.timers.set(Timer::Hello(slot), now_ns);
                }
            }
            self.timeout(now_ns);
        }
    }

    /// The peers' slots.
    fn slots(&self) -> Vec<u8> {
        let own = self.config.own;
        let slots = (0..).zip(&self.peers).filter(|(slot, peer)| peer.is_some() && *slot != own);
        slots.map(|(slot, _)| slot).collect()
    }

    fn heard(&mut self, slot: u8, is_heard: bool, now_ns: u64) {
        if slot == self.config.own {
            return;
        }
        let Some(peer) = self.peer(slot) else { return };
        if peer.is_heard == is_heard {
            return;
        }
        peer.is_heard = is_heard;
        peer.hellos = 0;
        if is_heard {
            self.timers.cancel(Timer::Hello(slot));
        } else if self.is_started && self.duplicate.is_none() {
            self.hello(slot, now_ns);
        }
    }

    fn timeout(&mut self, now_ns: u64) {
        while let Some(timer) = self.timers.pop(now_ns) {
            match timer {
                Timer::Announce => self.announce(now_ns),
                Timer::Hello(slot) => self.hello(slot, now_ns),
            }
        }
    }

    /// A Hello to a peer on every link, and the time of the next.
    fn hello(&mut self, slot: u8, now_ns: u64) {
        let Some(peer) = self.peer(slot) else { return };
        let wait_ns = HELLO_BURST_NS.get(peer.hellos).copied().unwrap_or(HELLO_INTERVAL_NS);
        peer.hellos += 1;
        if self.mutation != Mutation::HelloOnce {
            self.timers.set(Timer::Hello(slot), now_ns + wait_ns);
        }
        self.hellos(slot, now_ns);
    }

    /// A Hello to the own slot on every link, and the time of the next.
    fn announce(&mut self, now_ns: u64) {
        if self.mutation == Mutation::OwnSlotIgnored {
            return;
        }
        let wait_ns = ANNOUNCE_BURST_NS.get(self.announced).copied().unwrap_or(ANNOUNCE_INTERVAL_NS);
        self.announced += 1;
        self.timers.set(Timer::Announce, now_ns + wait_ns);
        self.hellos(self.config.own, now_ns);
    }

    fn hellos(&mut self, slot: u8, now_ns: u64) {
        let Some(nonce) = self.nonce(slot, now_ns) else { return };
        let target = self.peer(slot).and_then(|peer| peer.incarnation).unwrap_or(0);
        for link in self.config.links.clone() {
            self.send(Kind::Hello, link, slot, [nonce, 0], target);
        }
    }

    fn frame(&mut self, link: u8, frame: &Frame, now_ns: u64) {
        let own = self.config.own;
        let is_ours = frame.target() == own && frame.link() == link && self.config.links.contains(&link);
        let Some(kind) = Kind::from_u8(frame.kind()).filter(|_| is_ours && frame.incarnation() != 0) else {
            self.counters.stray += 1;
            return;
        };
        if frame.sender() == own {
            // An echo of this very life, or another machine, or an earlier life of this one.
            if frame.incarnation() != self.config.incarnation && self.mutation != Mutation::OwnSlotIgnored {
                self.own_slot(kind, frame, now_ns);
            }
            return;
        }
        if self.duplicate.is_some() || self.peer(frame.sender()).is_none() {
            self.counters.stray += 1;
            return;
        }
        match kind {
            Kind::Hello => {
                if self.mutation == Mutation::HelloBelieved {
                    self.accept(frame, now_ns);
                }
                self.welcome(frame, now_ns);
            }
            Kind::Welcome => {
                if self.proves(frame, now_ns) && self.accept(frame, now_ns) {
                    // On every link: the peer accepts with the first that arrives.
                    for link in self.config.links.clone() {
                        self.send(
                            Kind::Confirm,
                            link,
                            frame.sender(),
                            [0, frame.stamp()],
                            frame.incarnation(),
                        );
                    }
                }
            }
            Kind::Confirm => {
                if self.proves(frame, now_ns) {
                    self.accept(frame, now_ns);
                }
            }
            Kind::Probe | Kind::Answer => self.counters.stray += 1,
        }
    }

    /// A frame of another incarnation with the own slot.
    fn own_slot(&mut self, kind: Kind, frame: &Frame, now_ns: u64) {
        match kind {
            Kind::Hello => {
                let is_mute = self.mutation == Mutation::DuplicateMute && self.duplicate.is_some();
                if !is_mute && self.welcome(frame, now_ns) && self.duplicate.is_none() {
                    // Not to wait for the next announcement: the other one answers this.
                    self.hellos(self.config.own, now_ns);
                }
            }
            Kind::Welcome => {
                if self.duplicate.is_none() && self.proves(frame, now_ns) {
                    self.duplicate = Some(frame.incarnation());
                    self.timers = Timers::new();
                    self.outputs.push_back(Output::DuplicateSelf { incarnation: frame.incarnation() });
                }
            }
            Kind::Confirm | Kind::Probe | Kind::Answer => self.counters.stray += 1,
        }
    }

    /// Answers a Hello on its link, inside the bound; true if it did.
    fn welcome(&mut self, frame: &Frame, now_ns: u64) -> bool {
        let slot = frame.sender();
        if !self.peer(slot).is_some_and(|peer| peer.welcomes.take(now_ns)) {
            self.counters.over_bound += 1;
            return false;
        }
        let Some(nonce) = self.nonce(slot, now_ns) else { return false };
        self.send(Kind::Welcome, frame.link(), slot, [nonce, frame.stamp()], frame.incarnation());
        true
    }

    /// Whether the frame echoes the outstanding nonce, in this life, and in time; the nonce is used up then.
    fn proves(&mut self, frame: &Frame, now_ns: u64) -> bool {
        let own = self.config.incarnation;
        let keeps = self.mutation == Mutation::NonceKept;
        let Some(peer) = self.peer(frame.sender()) else { return false };
        let outstanding = peer.nonce.filter(|nonce| nonce.is_fresh(now_ns));
        let echoes = outstanding.is_some_and(|nonce| nonce.value == frame.returned());
        if !echoes || frame.target_incarnation() != own {
            self.counters.unproven += 1;
            return false;
        }
        if !keeps {
            peer.nonce = None;
        }
        true
    }

    /// The sender of the frame has proved itself; true if it is accepted, now or already.
    fn accept(&mut self, frame: &Frame, now_ns: u64) -> bool {
        let slot = frame.sender();
        let incarnation = frame.incarnation();
        let ours = self.config.config_version;
        let mutation = self.mutation;
        let Some(peer) = self.peer(slot) else { return false };
        if peer.is_superseded(incarnation) && mutation != Mutation::SupersededBelieved {
            if peer.told_duplicate != Some(incarnation) {
                peer.told_duplicate = Some(incarnation);
                self.tell(ToldKind::DuplicatePeer { superseded: incarnation }, slot, now_ns);
            }
            return false;
        }
        let is_new = peer.incarnation != Some(incarnation) || mutation == Mutation::AcceptRepeated;
        let previous = peer.incarnation;
        let differs = peer.prove(frame, ours);
        if is_new {
            self.outputs.push_back(Output::Accept { slot, incarnation, previous });
            if let Some(previous) = previous.filter(|previous| incarnation >> 32 <= previous >> 32) {
                self.tell(ToldKind::IncarnationRolledBack { previous }, slot, now_ns);
            }
        }
        if differs {
            self.tell(ToldKind::ConfigDiffers { theirs: frame.config_version() }, slot, now_ns);
        }
        true
    }

    /// The outstanding nonce for a slot: a new one if there is none, or if it has grown old.
    fn nonce(&mut self, slot: u8, now_ns: u64) -> Option<u64> {
        if let Some(nonce) = self.peer(slot)?.nonce.filter(|nonce| nonce.is_fresh(now_ns)) {
            return Some(nonce.value);
        }
        let nonce = self.pool.pop_front().map(|value| Nonce { value, since_ns: now_ns });
        self.peer(slot)?.nonce = nonce;
        nonce.map(|nonce| nonce.value)
    }

    /// `nonces` are the own one and the echoed one.
    fn send(&mut self, kind: Kind, link: u8, target: u8, nonces: [u64; 2], target_incarnation: u64) {
        let (config, mut frame) = (&self.config, Frame::new(kind));
        frame.set_cluster_id(config.cluster_id);
        frame.set_config_version(config.config_version);
        frame.set_sender(config.own);
        frame.set_target(target);
        frame.set_link(link);
        frame.set_incarnation(config.incarnation);
        frame.set_target_incarnation(target_incarnation);
        frame.set_stamp(nonces[0]);
        frame.set_returned(nonces[1]);
        let broadcast = target == config.own;
        self.counters.sent += 1;
        self.outputs.push_back(Output::Transmit { link, target, broadcast, frame });
    }

    fn tell(&mut self, kind: ToldKind, slot: u8, now_ns: u64) {
        self.seq += 1;
        let incarnation = self.peer(slot).and_then(|peer| peer.incarnation).unwrap_or(0);
        let told = Told {
            seq: self.seq,
            kind,
            slot: Some(slot),
            link: None,
            stamp_ns: now_ns,
            incarnation,
            evidence: Evidence::default(),
        };
        self.outputs.push_back(Output::Told(told));
    }
}
