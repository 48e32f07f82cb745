//! From the kernel's events to what is told: which link is late, which peer is down, gone, stalled, back.
//!
//! The idea in a minute. The kernel watches cells, one for each peer on each link, and says "heard" or "late"; it decides
//! nothing. Here the cells of a peer come together:
//!
//! * One link late while another is heard is `link_late`; still late after a second deadline, `link_down`.
//! * Late on all links is `peer_down`, at once.
//! * "Gone" is the word of the peer's own kernel on its daemon, and counts at once, from whatever link.
//! * "Stalled", "leaving" and "hand-over" are the word of the newest frame, on whatever link.
//! * A link that came back counts after damping; one never lost in this life of the peer counts at once.
//! * An own link that is down accuses nobody; with all of them down a node is alone and accuses nobody at all. A peer
//!   that was heard through the lost link only gets a deadline on the others: it may be this node that is going dark,
//!   link by link.
//!
//! A race that stays: a cable pulled here silences all peers of the link, and the kernel's timer may say "late" before
//! netlink says "no carrier". With one link only that is a `peer_down` told in good faith, and `alone` right behind it.
//!
//! Deliberately not here: deadlines (the kernel's), views (membership's), and any doubt about the kernel's word.

mod book;
mod edge;
mod peer;
#[cfg(test)]
mod tests;

use ringbeat_common::event::Event;
use ringbeat_common::limits::{LINKS_MAX, NODES_MAX};

use self::book::{Book, Timer};
use self::peer::Peer;
use crate::limits::{DAMPING_DEADLINES, DAMPING_INTERVALS, DAMPING_MAX_NS, DAMPING_MIN_NS, FLAP_MEMORY_NS};
use crate::mutation::Mutation;
use crate::told::{Evidence, Told, ToldKind};

/// What goes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A change of a cell, from the kernel's ring, in the ring's order.
    ///
    /// To heal a lost event (a full ring), or to adopt cells of a daemon before this one, the shell may make one up from
    /// the cell and its slot: `by_timer` 0, `to` the state word, the slot's accepted incarnation and daemon age, the
    /// present time as stamp. Only after the ring has been drained.
    Cell(Event),
    /// An own link has lost its carrier or cannot send, or is back. All links count as up at first. If events of the ring
    /// are waiting too, this goes first: then less is laid at the peers' door.
    OwnLink {
        /// The link.
        link: u8,
        /// Whether it can send.
        up: bool,
        /// When that was seen. A silence that began before an own link was back accuses nobody.
        stamp_ns: u64,
    },
    /// The handshake has accepted an incarnation and the shell has reset the peer's cells to `WATCHED`. To be handed over
    /// before any later event of the ring.
    Accepted {
        /// The peer.
        slot: u8,
        /// Its incarnation.
        incarnation: u64,
        /// The one before it, if there was one.
        previous: Option<u64>,
        /// A reading of the clock after the reset: the timer's events before it are of the old life.
        stamp_ns: u64,
    },
    /// `next_timeout()` has come, and nothing else is waiting.
    Timeout,
}

/// What comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Something to tell.
    Told(Told),
    /// The kernel hears the peer again, on some link: both have accepted each other. For the handshake.
    Heard {
        /// The peer.
        slot: u8,
    },
    /// The kernel hears the peer on no link. For the handshake.
    Silent {
        /// The peer.
        slot: u8,
    },
}

/// A link's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTimes {
    /// The link.
    pub link: u8,
    /// Between two probes.
    pub interval_ns: u64,
    /// Silence for this long is late.
    pub deadline_ns: u64,
}

/// How flaps are damped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// The shortest damping.
    pub min_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// For how long a flap doubles it.
    pub memory_ns: u64,
}

impl Default for Damping {
    fn default() -> Self {
        Self { min_ns: DAMPING_MIN_NS, max_ns: DAMPING_MAX_NS, memory_ns: FLAP_MEMORY_NS }
    }
}

impl Damping {
    /// The damping of an edge after one flap: some intervals and some deadlines, and not less than the shortest.
    pub const fn base_ns(&self, link: &LinkTimes) -> u64 {
        let intervals = DAMPING_INTERVALS * link.interval_ns;
        let deadlines = DAMPING_DEADLINES * link.deadline_ns;
        let longer = if intervals > deadlines { intervals } else { deadlines };
        if longer > self.min_ns { longer } else { self.min_ns }
    }
}

/// What a detector is built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The own slot.
    pub own: u8,
    /// The peers' slots; the own one and invalid ones are left out.
    pub peers: Vec<u8>,
    /// The links in use.
    pub links: Vec<LinkTimes>,
    /// A daemon that has not run for this long has failed.
    pub daemon_stall_ns: u64,
    /// How flaps are damped.
    pub damping: Damping,
}

/// What is known of a peer, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Never heard in this life, or this node is alone.
    Unknown,
    /// Heard.
    Up,
    /// Heard on no link any more.
    Down,
    /// Its daemon is gone, its kernel is heard.
    Gone,
    /// Its kernel is heard, the main loop of its daemon does not run.
    Stalled,
    /// As before, for so long that it counts as failed.
    Failed,
    /// Heard, and leaving.
    Leaving,
    /// Silent, as announced.
    Left,
    /// Heard, its daemon being replaced.
    Handover,
}

impl PeerState {
    /// The name under which the commands show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
            Self::Gone => "gone",
            Self::Stalled => "stalled",
            Self::Failed => "failed",
            Self::Leaving => "leaving",
            Self::Left => "left",
            Self::Handover => "handover",
        }
    }
}

pub use self::edge::EdgeState;

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Links that counted as down after they had counted as up.
    pub flaps: u64,
    /// Links that were late and recovered before a second deadline.
    pub recovered: u64,
    /// Events of an earlier life, of no peer, or of no link in use.
    pub stale_events: u64,
    /// Events that the ring brought behind a later one.
    pub overtaken_events: u64,
}

/// The state machine. See the module, and the crate for the driver's contract.
#[derive(Clone, Debug)]
pub struct Detector {
    own: u8,
    links: Vec<OwnLink>,
    peers: Vec<Option<Peer>>,
    book: Book,
}

/// An own link.
#[derive(Clone, Copy, Debug)]
struct OwnLink {
    times: LinkTimes,
    damping_ns: u64,
    up: bool,
    /// When it was seen to be so.
    since_ns: u64,
}

impl Detector {
    /// A detector that has heard of nobody yet.
    pub fn new(config: &Config) -> Self {
        Self::mutated(config, Mutation::None)
    }

    /// A detector without one of its clauses, for the tests of the tests.
    #[doc(hidden)]
    pub fn mutated(config: &Config, mutation: Mutation) -> Self {
        let mut links: Vec<OwnLink> = Vec::new();
        for times in &config.links {
            let known = links.iter().any(|link| link.times.link == times.link);
            if usize::from(times.link) < LINKS_MAX && !known {
                let damping_ns = config.damping.base_ns(times);
                links.push(OwnLink { times: *times, damping_ns, up: true, since_ns: 0 });
            }
        }
        let mut peers = vec![None; NODES_MAX];
        for slot in config.peers.iter().filter(|slot| **slot != config.own) {
            if let Some(peer) = peers.get_mut(usize::from(*slot)) {
                *peer = Some(Peer::new(*slot, links.len()));
            }
        }
        let book = Book::new(config.daemon_stall_ns, config.damping, mutation);
        Self { own: config.own, links, peers, book }
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now_ns: u64) {
        match input {
            Input::Cell(event) => self.cell(&event),
            Input::OwnLink { link, up, stamp_ns } => self.own_link(link, up, stamp_ns, now_ns),
            Input::Accepted { slot, incarnation, previous, stamp_ns } => {
                if let Some(peer) = self.peers.get_mut(usize::from(slot)).and_then(Option::as_mut) {
                    peer.accepted(incarnation, previous, stamp_ns, &self.links, &mut self.book);
                }
            }
            Input::Timeout => self.timeout(now_ns),
        }
    }

    /// The next output, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.book.outputs.pop_front()
    }

    /// When `Input::Timeout` is wanted.
    pub fn next_timeout(&self) -> Option<u64> {
        self.book.timers.next()
    }

    /// What is known of a peer; `Unknown` for a slot that is none.
    pub fn peer_state(&self, slot: u8) -> PeerState {
        let peer = self.peers.get(usize::from(slot)).and_then(Option::as_ref);
        peer.map_or(PeerState::Unknown, |peer| peer.state(self.is_alone()))
    }

    /// The peer's accepted incarnation, as it was handed over; none before.
    pub fn incarnation(&self, slot: u8) -> Option<u64> {
        let peer = self.peers.get(usize::from(slot))?.as_ref()?;
        (peer.incarnation != 0).then_some(peer.incarnation)
    }

    /// What is known of a peer on a link; `Unknown` where there is no such thing.
    pub fn edge_state(&self, link: u8, slot: u8) -> EdgeState {
        self.edge(link, slot).map_or(EdgeState::Unknown, |edge| edge.state)
    }

    /// How often a peer on a link has flapped since the start.
    pub fn edge_flaps(&self, link: u8, slot: u8) -> u64 {
        self.edge(link, slot).map_or(0, |edge| edge.flaps.count())
    }

    /// The own row of the graph: the peers that are up, heard and not gone, and this node. Alone, only this node.
    pub fn heard(&self) -> u64 {
        let bit = |slot: u8| 1u64.checked_shl(u32::from(slot)).unwrap_or(0);
        let hearing = self.peers.iter().flatten().filter(|peer| peer.is_in_row());
        hearing.fold(bit(self.own), |row, peer| row | bit(peer.slot))
    }

    /// The links on which a peer is heard, a bit for each link's id.
    pub fn links_of(&self, slot: u8) -> u8 {
        let heard = self
            .links
            .iter()
            .filter(|link| link.up && self.edge_state(link.times.link, slot) == EdgeState::Up);
        heard.fold(0, |set, link| set | 1u8.checked_shl(u32::from(link.times.link)).unwrap_or(0))
    }

    /// Whether all own links are down.
    pub fn is_alone(&self) -> bool {
        self.links.iter().all(|link| !link.up)
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        self.book.counters
    }

    fn edge(&self, link: u8, slot: u8) -> Option<&edge::Edge> {
        let at = self.link_at(link)?;
        self.peers.get(usize::from(slot))?.as_ref()?.edges.get(at)
    }

    fn link_at(&self, link: u8) -> Option<usize> {
        self.links.iter().position(|own| own.times.link == link)
    }

    fn cell(&mut self, event: &Event) {
        let cell = event.cell as usize;
        let (link, slot) = (cell / NODES_MAX, cell % NODES_MAX);
        let at = u8::try_from(link).ok().and_then(|link| self.link_at(link));
        let (Some(at), Some(Some(peer))) = (at, self.peers.get_mut(slot)) else {
            self.book.counters.stale_events += 1;
            return;
        };
        peer.cell(at, event, &self.links, &mut self.book);
    }

    fn own_link(&mut self, link: u8, up: bool, stamp_ns: u64, now_ns: u64) {
        let Some(at) = self.link_at(link) else { return };
        if self.links[at].up == up || self.book.mutation == Mutation::OwnLinkIgnored {
            return;
        }
        let was_alone = self.is_alone();
        (self.links[at].up, self.links[at].since_ns) = (up, stamp_ns);
        let kind = if up { ToldKind::OwnLinkUp } else { ToldKind::OwnLinkDown };
        self.book.tell(kind, None, Some(link), stamp_ns, 0, Evidence::default());
        if self.is_alone() != was_alone {
            let kind = if was_alone { ToldKind::NotAlone } else { ToldKind::Alone };
            self.book.tell(kind, None, None, stamp_ns, 0, Evidence::default());
        }
        for peer in self.peers.iter_mut().flatten() {
            peer.own_link(at, stamp_ns, now_ns, &self.links, &mut self.book);
        }
    }

    fn timeout(&mut self, now_ns: u64) {
        while let Some(timer) = self.book.timers.pop(now_ns) {
            let (Timer::Edge { slot, .. } | Timer::Stall { slot } | Timer::Silence { slot }) = timer;
            let Some(Some(peer)) = self.peers.get_mut(usize::from(slot)) else { continue };
            match timer {
                Timer::Edge { at, .. } => peer.edge_due(at, now_ns, &self.links, &mut self.book),
                Timer::Stall { .. } => peer.stall_due(now_ns, &mut self.book),
                Timer::Silence { .. } => peer.silence_due(now_ns, &self.links, &mut self.book),
            }
        }
    }
}
