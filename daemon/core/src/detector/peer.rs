//! A peer: its edges and its daemon, and when what is told of it.
//!
//! Between two inputs these hold: a peer with an edge that counts as up is up itself (or told gone); a peer that is up has
//! an edge that is heard, or a deadline for its silence, or this node is alone.

use ringbeat_common::event::Event;
use ringbeat_common::watch::state;

use super::book::{Book, Timer};
use super::edge::{Edge, EdgeState};
use super::{Output, OwnLink, PeerState};
use crate::mutation::Mutation;
use crate::told::{Evidence, ToldKind, UpCause};

/// Where a peer's life stands, by its edges alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    #[default]
    Unknown,
    Up,
    Down,
    Left,
}

/// What the frames say of the peer's daemon, as far as it has been told.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    gone: bool,
    stalled: bool,
    failed: bool,
    leaving: bool,
    handover: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) slot: u8,
    pub(super) incarnation: u64,
    pub(super) edges: Vec<Edge>,
    accepted_ns: u64,
    life: Life,
    word: Word,
    /// `peer_down` was told, and no `peer_up` since.
    is_told_down: bool,
    /// `Output::Heard` was given, and no `Silent` since.
    is_given_heard: bool,
}

impl Peer {
    pub(super) fn new(slot: u8, links: usize) -> Self {
        Self {
            slot,
            incarnation: 0,
            edges: vec![Edge::default(); links],
            accepted_ns: 0,
            life: Life::default(),
            word: Word::default(),
            is_told_down: false,
            is_given_heard: false,
        }
    }

    pub(super) fn state(&self, is_alone: bool) -> PeerState {
        let word = self.word;
        match self.life {
            _ if word.gone && (self.life != Life::Down || self.is_heard()) => PeerState::Gone,
            Life::Unknown => PeerState::Unknown,
            Life::Down => PeerState::Down,
            Life::Left => PeerState::Left,
            Life::Up if is_alone => PeerState::Unknown,
            Life::Up if word.failed => PeerState::Failed,
            Life::Up if word.handover => PeerState::Handover,
            Life::Up if word.leaving => PeerState::Leaving,
            Life::Up if word.stalled => PeerState::Stalled,
            Life::Up => PeerState::Up,
        }
    }

    /// Whether the peer stands in the own row. A damped edge keeps a peer that is up there: it proves life. One whose
    /// daemon has failed proves only that its kernel lives, and is no company.
    pub(super) fn is_in_row(&self) -> bool {
        self.life == Life::Up && !self.word.gone && !self.word.failed && self.is_heard()
    }

    /// A new life.
    pub(super) fn accepted(
        &mut self,
        incarnation: u64,
        previous: Option<u64>,
        stamp_ns: u64,
        links: &[OwnLink],
        book: &mut Book,
    ) {
        if incarnation == self.incarnation {
            return;
        }
        let known = (self.incarnation != 0).then_some(self.incarnation);
        *self = Self {
            incarnation,
            accepted_ns: stamp_ns,
            edges: std::mem::take(&mut self.edges),
            is_given_heard: self.is_given_heard,
            ..Self::new(self.slot, 0)
        };
        for (at, (edge, link)) in self.edges.iter_mut().zip(links).enumerate() {
            book.timers.cancel(Timer::Edge { slot: self.slot, at });
            edge.begin_life(!link.up);
        }
        book.timers.cancel(Timer::Stall { slot: self.slot });
        book.timers.cancel(Timer::Silence { slot: self.slot });
        if let Some(previous) = previous.or(known).filter(|previous| *previous != incarnation) {
            self.tell(ToldKind::PeerRestarted { previous }, None, stamp_ns, Evidence::default(), book);
        }
        self.give_heard(book);
    }

    /// An event of the kernel about the edge `at`.
    pub(super) fn cell(&mut self, at: usize, event: &Event, links: &[OwnLink], book: &mut Book) {
        let is_of_this_life = if event.by_timer == 0 {
            event.incarnation == self.incarnation && self.incarnation != 0
        } else {
            event.stamp_ns >= self.accepted_ns
        };
        if !is_of_this_life {
            book.counters.stale_events += 1;
            return;
        }
        if !self.edges[at].take(event, links[at].times.deadline_ns) {
            book.counters.overtaken_events += 1;
            return;
        }
        if event.to & state::GONE != 0 && !self.word.gone && book.mutation != Mutation::GoneIgnored {
            self.word = Word { gone: true, ..Word::default() };
            book.timers.cancel(Timer::Stall { slot: self.slot });
            let link = Some(links[at].times.link);
            self.tell(ToldKind::PeerGone, link, event.stamp_ns, Evidence::from(event), book);
        }
        if links[at].up {
            if self.edges[at].word_is_heard() {
                self.heard(at, event.stamp_ns, links, book);
            } else {
                self.late(at, event.stamp_ns, links, book);
            }
        }
        self.listen(event.by_timer == 0, event.stamp_ns, links, book);
        self.give_heard(book);
    }

    /// The own link of the edge `at` went down or came back.
    pub(super) fn own_link(
        &mut self,
        at: usize,
        stamp_ns: u64,
        now_ns: u64,
        links: &[OwnLink],
        book: &mut Book,
    ) {
        let timer = Timer::Edge { slot: self.slot, at };
        let edge = &mut self.edges[at];
        book.timers.cancel(timer);
        if !links[at].up {
            if matches!(edge.state, EdgeState::Up | EdgeState::Late) {
                edge.flaps.record(stamp_ns);
                book.counters.flaps += 1;
            }
            edge.is_tried |= edge.state != EdgeState::Unknown;
            edge.state = EdgeState::OwnDown;
        } else if edge.word_is_heard() {
            // It may be old news: then the kernel says "late" within the damping.
            self.damp(at, now_ns, links, book);
        } else {
            edge.state = EdgeState::Unknown;
            if edge.is_tried {
                book.timers.set(timer, now_ns + links[at].times.deadline_ns);
            }
        }
        self.watch_silence(now_ns, links, book);
        self.listen(false, stamp_ns, links, book);
        self.give_heard(book);
    }

    /// The timer of the edge `at` has run out.
    pub(super) fn edge_due(&mut self, at: usize, now_ns: u64, links: &[OwnLink], book: &mut Book) {
        match self.edges[at].state {
            EdgeState::Damped => self.rise(at, UpCause::Damped, now_ns, links, book),
            EdgeState::Late | EdgeState::Unknown => {
                self.lose(at, now_ns, links, book);
                self.watch_silence(now_ns, links, book);
            }
            EdgeState::Up | EdgeState::Down | EdgeState::OwnDown => {}
        }
        self.listen(false, now_ns, links, book);
    }

    /// The peer was heard nowhere for a deadline after an own link was lost.
    pub(super) fn silence_due(&mut self, now_ns: u64, links: &[OwnLink], book: &mut Book) {
        if self.life == Life::Up
            && !self.is_heard()
            && let Some(at) = links.iter().position(|link| link.up)
        {
            self.fall(at, now_ns, links, book);
        }
    }

    /// The daemon has been stalled for too long.
    pub(super) fn stall_due(&mut self, now_ns: u64, book: &mut Book) {
        if self.word.stalled && book.mutation != Mutation::StallForever {
            self.word.failed = true;
            let evidence = self.newest().map(|(_, edge)| edge.evidence).unwrap_or_default();
            self.tell(ToldKind::PeerFailed, None, now_ns, evidence, book);
        }
    }

    /// The kernel hears the peer on the edge.
    fn heard(&mut self, at: usize, stamp_ns: u64, links: &[OwnLink], book: &mut Book) {
        match self.edges[at].state {
            EdgeState::Late => {
                book.counters.recovered += 1;
                self.rise(at, UpCause::Recovered, stamp_ns, links, book);
            }
            EdgeState::Unknown | EdgeState::Down => {
                if !self.edges[at].is_tried {
                    self.rise(at, UpCause::First, stamp_ns, links, book);
                } else if book.mutation == Mutation::DampingSkipped {
                    self.rise(at, UpCause::Damped, stamp_ns, links, book);
                } else {
                    self.damp(at, stamp_ns.max(links[at].since_ns), links, book);
                }
            }
            EdgeState::Up | EdgeState::Damped | EdgeState::OwnDown => {}
        }
    }

    /// The kernel no longer hears the peer on the edge.
    fn late(&mut self, at: usize, stamp_ns: u64, links: &[OwnLink], book: &mut Book) {
        let others = self.edges.iter().enumerate().any(|(other, edge)| other != at && edge.state.is_heard());
        let timer = Timer::Edge { slot: self.slot, at };
        match self.edges[at].state {
            EdgeState::Up if others && book.mutation != Mutation::OneLateIsDown => {
                self.edges[at].state = EdgeState::Late;
                book.timers.set(timer, stamp_ns + links[at].times.deadline_ns);
                let evidence = self.edges[at].evidence;
                self.tell(ToldKind::LinkLate, Some(links[at].times.link), stamp_ns, evidence, book);
            }
            EdgeState::Up if self.life == Life::Up => self.fall(at, stamp_ns, links, book),
            // Its silence began when the own link was down: that is no evidence, and no life either.
            EdgeState::Damped if self.edges[at].evidence.unanswered_ns < links[at].since_ns => {
                self.edges[at].state = EdgeState::Unknown;
                book.timers.set(timer, links[at].since_ns + links[at].times.deadline_ns);
                self.watch_silence(links[at].since_ns, links, book);
            }
            EdgeState::Damped
                if !others && (self.life == Life::Up || book.mutation == Mutation::DownAgain) =>
            {
                self.fall(at, stamp_ns, links, book);
            }
            EdgeState::Damped => self.lose(at, stamp_ns, links, book),
            EdgeState::Up | EdgeState::Unknown | EdgeState::Late | EdgeState::Down | EdgeState::OwnDown => {}
        }
    }

    /// Starts the damping of an edge.
    fn damp(&mut self, at: usize, stamp_ns: u64, links: &[OwnLink], book: &mut Book) {
        book.timers.cancel(Timer::Silence { slot: self.slot });
        let edge = &mut self.edges[at];
        edge.state = EdgeState::Damped;
        let damping_ns = edge.flaps.damping_ns(links[at].damping_ns, &book.damping, stamp_ns);
        if book.mutation != Mutation::DampingForever {
            book.timers.set(Timer::Edge { slot: self.slot, at }, stamp_ns + damping_ns);
        }
    }

    /// An edge counts as up, and with the first one the peer does.
    fn rise(&mut self, at: usize, cause: UpCause, stamp_ns: u64, links: &[OwnLink], book: &mut Book) {
        book.timers.cancel(Timer::Edge { slot: self.slot, at });
        book.timers.cancel(Timer::Silence { slot: self.slot });
        let edge = &mut self.edges[at];
        edge.state = EdgeState::Up;
        edge.is_tried = true;
        edge.is_told_up = true;
        let (evidence, link) = (edge.evidence, Some(links[at].times.link));
        self.tell(ToldKind::LinkUp { cause }, link, stamp_ns, evidence, book);
        if self.life != Life::Up {
            self.life = Life::Up;
            // A peer whose daemon is gone is none that is up, however well its kernel answers.
            if !self.word.gone {
                self.is_told_down = false;
                self.tell(ToldKind::PeerUp, None, stamp_ns, evidence, book);
            }
        }
    }

    /// An edge counts as down.
    fn lose(&mut self, at: usize, stamp_ns: u64, links: &[OwnLink], book: &mut Book) {
        book.timers.cancel(Timer::Edge { slot: self.slot, at });
        let edge = &mut self.edges[at];
        if matches!(edge.state, EdgeState::Up | EdgeState::Late) {
            edge.flaps.record(stamp_ns);
            book.counters.flaps += 1;
        }
        edge.state = EdgeState::Down;
        if edge.is_told_up {
            edge.is_told_up = false;
            let evidence = edge.evidence;
            self.tell(ToldKind::LinkDown, Some(links[at].times.link), stamp_ns, evidence, book);
        }
    }

    /// The peer is heard nowhere any more, the edge `at` being the last to say so.
    fn fall(&mut self, at: usize, stamp_ns: u64, links: &[OwnLink], book: &mut Book) {
        let has_left = self.word.leaving && !self.word.gone;
        self.life = if has_left { Life::Left } else { Life::Down };
        if !self.is_told_down || book.mutation == Mutation::DownAgain {
            self.is_told_down = true;
            let kind = if has_left { ToldKind::PeerLeft } else { ToldKind::PeerDown };
            self.tell(kind, Some(links[at].times.link), stamp_ns, self.edges[at].evidence, book);
        }
        // What its frames said is void with its life; that its daemon is gone stays true.
        self.word = Word { gone: self.word.gone, ..Word::default() };
        book.timers.cancel(Timer::Stall { slot: self.slot });
        book.timers.cancel(Timer::Silence { slot: self.slot });
        for at in 0..self.edges.len() {
            if matches!(self.edges[at].state, EdgeState::Up | EdgeState::Late | EdgeState::Damped) {
                self.lose(at, stamp_ns, links, book);
            }
        }
    }

    /// An own link was lost, or is back: a peer that is heard nowhere now has a deadline to be heard somewhere.
    ///
    /// Nothing new is known of the peer. The kernel never says "late" of a cell that it has not heard, and what it said of
    /// the others it said before; and the next own link to be lost may be the last one.
    fn watch_silence(&mut self, now_ns: u64, links: &[OwnLink], book: &mut Book) {
        let timer = Timer::Silence { slot: self.slot };
        let left = links.iter().filter(|link| link.up).map(|link| link.times.deadline_ns).max();
        match left {
            Some(deadline_ns) if self.life == Life::Up && !self.is_heard() => {
                if !book.timers.is_set(timer) {
                    book.timers.set(timer, now_ns + deadline_ns);
                }
            }
            _ => book.timers.cancel(timer),
        }
    }

    /// Tells what the newest frame says of the peer's daemon, as far as that is news.
    fn listen(&mut self, is_frame: bool, stamp_ns: u64, links: &[OwnLink], book: &mut Book) {
        if self.life != Life::Up || self.word.gone {
            return;
        }
        let Some((at, edge)) = self.newest() else { return };
        let (word, evidence, link) = (edge.word, edge.evidence, Some(links[at].times.link));
        let ran_ns = edge.frame_ns.saturating_sub(u64::from(evidence.daemon_age_us) * 1000);
        let stall = Timer::Stall { slot: self.slot };
        let before = self.word;
        self.word.stalled = word & state::STALLED != 0;
        self.word.handover = word & state::HANDOVER != 0;
        if is_frame {
            // A link that falls silent early must not take the announcement back.
            self.word.leaving = word & state::LEAVING != 0;
        }
        if before.stalled && !self.word.stalled {
            self.word.failed = false;
            book.timers.cancel(stall);
            let kind = ToldKind::PeerRunning { was_failed: before.failed };
            self.tell(kind, link, stamp_ns, evidence, book);
        }
        if before.handover && !self.word.handover {
            self.tell(ToldKind::PeerHandoverDone, link, stamp_ns, evidence, book);
        }
        if !before.handover && self.word.handover {
            self.tell(ToldKind::PeerHandover, link, stamp_ns, evidence, book);
        }
        if !before.leaving && self.word.leaving {
            self.tell(ToldKind::PeerLeaving, link, stamp_ns, evidence, book);
        }
        if !before.stalled && self.word.stalled {
            book.timers.set(stall, ran_ns + book.daemon_stall_ns);
            self.tell(ToldKind::PeerStalled, link, stamp_ns, evidence, book);
        }
    }

    fn is_heard(&self) -> bool {
        self.edges.iter().any(|edge| edge.state.is_heard())
    }

    /// The edge with the newest word of those that are heard.
    fn newest(&self) -> Option<(usize, &Edge)> {
        let heard = self.edges.iter().enumerate().filter(|(_, edge)| edge.state.is_heard());
        heard.max_by_key(|(_, edge)| edge.frame_ns)
    }

    fn give_heard(&mut self, book: &mut Book) {
        let is_heard = self.is_heard();
        if is_heard != self.is_given_heard {
            self.is_given_heard = is_heard;
            let slot = self.slot;
            book.outputs.push_back(if is_heard { Output::Heard { slot } } else { Output::Silent { slot } });
        }
    }

    fn tell(&self, kind: ToldKind, link: Option<u8>, stamp_ns: u64, evidence: Evidence, book: &mut Book) {
        book.tell(kind, Some(self.slot), link, stamp_ns, self.incarnation, evidence);
    }
}
