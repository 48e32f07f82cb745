//! The ordered ring: Totem single-ring ordering with extended virtual synchrony, as a pure machine.
//!
//! The idea in a minute. The members of a view pass a token round. Who has it sends, numbering on from where the token
//! stands; so there is one order of all packets. The token also carries up to where all members have everything, what is
//! missing, and how much may be sent. When the view changes the ring stops, the members of the next one tell in a
//! commit token where they come from, those who come from the same ring give one another what they lack of it, and then
//! all deliver the same: what they can in the old configuration, the rest in a transitional one of those who came
//! together, then the new configuration.
//!
//! Sources: "The Totem Single-Ring Ordering and Membership Protocol" (Amir, Moser, Melliar-Smith, Agarwal, Ciarfella,
//! 1995), "Extended Virtual Synchrony" (Moser, Amir, Melliar-Smith, Agarwal, 1994).
//!
//! DEVIATION: gather is not here. [`membership`](crate::membership) chooses from all rows, announces, and installs once
//! all members have announced: `Freeze` and `Form` tell this machine of both. What Totem's join, consensus and merge
//! timers do is done there, with the kernel's events in front of them; a token that is lost although all are heard is told
//! as [`Output::Lost`], and membership agrees on the same members anew, under another id.
//!
//! Deliberately not here: links, encryption, lives of nodes (a frame of another life is not opened), process groups.

mod era;
mod packing;
mod params;
mod pieces;
mod recovery;
mod store;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;

use bytes::Bytes;
use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::view::View;

use self::era::{Era, Source};
use self::packing::{Assembly, Outbox};
pub use self::params::Params;
use self::pieces::Pieces;
use self::recovery::Forming;
use self::store::Packet;
use self::wire::{Commit, Message, NOBODY, RingId, Token};
use crate::mutation::Mutation;
use crate::timers::Timers;

/// What goes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Another view has been announced here: the ring stops.
    Freeze,
    /// A view has been installed here: its members form a ring.
    Form {
        /// The view.
        view: View,
    },
    /// This node is in a view that is installed, and knows nothing of its ring: it has gone on for another daemon.
    Abandon {
        /// The view.
        view: View,
    },
    /// An authentic, fresh frame of the accepted life of a member.
    Frame {
        /// Whose.
        from: u8,
        /// As it came.
        bytes: Bytes,
    },
    /// `next_timeout()` has come.
    Timeout,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To be sent to each of these slots.
    Send {
        /// A bit for each.
        to: u64,
        /// The frame.
        bytes: Bytes,
    },
    /// A message, in the order of the configuration told last.
    Deliver {
        /// Who sent it.
        from: u8,
        /// The message.
        bytes: Bytes,
    },
    /// From here on, until the next regular configuration, only these members are known to deliver the same.
    Transitional {
        /// A bit for each slot.
        members: u64,
    },
    /// The view's members deliver the same from here on.
    Regular {
        /// The view.
        view: View,
    },
    /// The ring does not turn: the same members should agree anew.
    Lost {
        /// Of this view.
        view: View,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// No token has come.
    Loss,
    /// The one that was sent shows no trace.
    Retransmit,
    /// An idle one has been held for long enough; or the only member may begin.
    Hold,
}

/// Where the machine stands.
#[derive(Clone, Debug)]
enum Phase {
    /// The ring of the regular configuration turns.
    Operational,
    /// It has stopped, and there is no next one yet.
    Gather,
    /// The next one forms: the commit token goes round, and then what was missed.
    Forming(Box<Forming>),
}

/// The state machine. See the module, and the crate for the driver's contract.
#[derive(Clone, Debug)]
pub struct Ring {
    own: u8,
    params: Params,
    mutation: Mutation,
    phase: Phase,
    /// The ring of the regular configuration that was told last.
    era: Era,
    /// Whose messages of that ring this node has said that it will deliver, whatever comes (section 5.3).
    obligation: u64,
    outbox: Outbox,
    assemblies: Vec<Assembly>,
    /// The token that is held here.
    held: Option<Token>,
    /// The token, or the commit token, that was sent last, and to whom.
    sent: Option<(u8, Bytes)>,
    /// A commit token that came before this node had its view.
    early: Option<Commit>,
    pieces: Pieces,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
}

/// Messages of this node, as packets.
struct Fresh<'a> {
    own: u8,
    outbox: &'a mut Outbox,
}

impl Source for Fresh<'_> {
    fn next(&mut self, room: usize) -> Option<Packet> {
        let (payload, safe) = self.outbox.pack(room)?;
        Some(Packet { origin: self.own, safe, recovered: false, payload })
    }

    fn backlog(&self) -> u32 {
        self.outbox.len() as u32
    }
}

impl Ring {
    /// A machine that is in no ring.
    pub fn new(own: u8, params: Params) -> Self {
        Self::mutated(own, params, Mutation::None)
    }

    /// For the simulation: with a clause left out.
    #[doc(hidden)]
    pub fn mutated(own: u8, params: Params, mutation: Mutation) -> Self {
        Self {
            own,
            params,
            mutation,
            phase: Phase::Gather,
            era: Era::new(View::NONE, own, mutation),
            obligation: 0,
            outbox: Outbox::default(),
            assemblies: vec![Assembly::default(); NODES_MAX],
            held: None,
            sent: None,
            early: None,
            pieces: Pieces::new(),
            timers: Timers::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now_ns: u64) {
        match input {
            Input::Freeze => self.freeze(),
            Input::Form { view } => self.form(view, now_ns),
            Input::Abandon { view } => self.abandon(&view),
            Input::Frame { from, bytes } => self.frame(from, bytes, now_ns),
            Input::Timeout => self.timeout(now_ns),
        }
    }

    /// Takes a message to be sent to all, itself included; `safe` is delivered only once all members have it. Gives the
    /// message back where there is no room for it: then try again once something has been delivered.
    pub fn submit(&mut self, bytes: Bytes, safe: bool, now_ns: u64) -> Result<(), Bytes> {
        let was_empty = self.outbox.is_empty();
        self.outbox.push(safe, bytes)?;
        if !matches!(self.phase, Phase::Operational) {
            return Ok(());
        }
        if self.era.others() == 0 {
            self.turn_alone();
        } else if let Some(token) = self.held.take() {
            self.operate(token, now_ns);
        } else if was_empty && self.era.unchanged > 0 {
            // The representative may hold the token.
            let to = 1 << self.era.representative();
            let bytes = Message::Wake { ring: self.era.id }.to_bytes(self.own);
            self.outputs.push_back(Output::Send { to, bytes });
        }
        Ok(())
    }

    /// Takes a message to be the next one of this node, before all that wait. To be called on [`Output::Regular`] only, before
    /// any other input: then nothing of what waits has been cut yet.
    pub fn submit_first(&mut self, bytes: Bytes) {
        self.outbox.push_first(bytes);
    }

    /// Whether a message would be taken, unless it is a very long one.
    pub fn has_room(&self) -> bool {
        self.outbox.has_room()
    }

    /// Where it stands, in Totem's words.
    pub const fn state(&self) -> &'static str {
        match self.phase {
            Phase::Operational => "operational",
            Phase::Gather => "gather",
            Phase::Forming(_) => "recovery",
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

    /// The view of the regular configuration told last.
    pub const fn view(&self) -> View {
        self.era.view
    }

    /// Whether its ring turns.
    pub const fn is_operational(&self) -> bool {
        matches!(self.phase, Phase::Operational)
    }

    /// Messages that wait to be sent.
    pub fn backlog(&self) -> usize {
        self.outbox.len()
    }

    fn freeze(&mut self) {
        self.phase = Phase::Gather;
        self.stop();
    }

    /// The ring that turns, or that forms; that of the last configuration where there is neither.
    fn current(&self) -> &Era {
        match &self.phase {
            Phase::Forming(forming) => &forming.era,
            Phase::Operational | Phase::Gather => &self.era,
        }
    }

    /// Nothing of a ring that has stopped is on its way any more.
    fn stop(&mut self) {
        (self.held, self.sent) = (None, None);
        for timer in [Timer::Loss, Timer::Retransmit, Timer::Hold] {
            self.timers.cancel(timer);
        }
    }

    fn frame(&mut self, sender: u8, bytes: Bytes, now_ns: u64) {
        let Some((from, message)) = Message::from_bytes(bytes) else { return };
        if from != sender {
            return;
        }
        match message {
            Message::Packet { ring, seq, packet } => self.packet(ring, seq, packet),
            Message::Token { ring, token } => self.token(from, ring, token, now_ns),
            Message::Commit(commit) => self.commit(from, commit, now_ns),
            Message::Wake { ring } => self.wake(ring, now_ns),
            Message::Lost { ring } => self.lost(from, ring),
            Message::Piece { ring: _, id, index, count, bytes } => {
                let whole = self.pieces.take(from, id, index, count, bytes);
                // Nothing else is ever that long.
                if let Some((of, Message::Commit(commit))) = whole.and_then(Message::from_bytes)
                    && of == from
                {
                    self.commit(from, commit, now_ns);
                }
            }
        }
    }

    /// Nobody has to wait for the token to find that it is lost.
    fn abandon(&mut self, view: &View) {
        let to = view.members & !(1 << self.own);
        let bytes = Message::Lost { ring: RingId::of(view) }.to_bytes(self.own);
        self.outputs.push_back(Output::Send { to, bytes });
        self.outputs.push_back(Output::Lost { view: *view });
    }

    /// A member knows nothing of this ring any more.
    fn lost(&mut self, from: u8, ring: RingId) {
        let (era, turns) = (self.current(), !matches!(self.phase, Phase::Gather));
        if turns && era.id == ring && era.view.has(from) {
            self.lose();
        }
    }

    fn packet(&mut self, ring: RingId, seq: u64, packet: Packet) {
        if !self.current().view.has(packet.origin) && self.mutation != Mutation::AnyRing {
            return;
        }
        match &mut self.phase {
            Phase::Operational if ring == self.era.id || self.mutation == Mutation::AnyRing => {
                self.era.take(seq, packet);
                // Whoever sends has had the token after this node.
                self.shows_a_trace(seq);
                self.deliver();
            }
            // What comes late of the old ring is of use until this node has told what it has.
            Phase::Gather if ring == self.era.id => {
                self.era.take(seq, packet);
            }
            Phase::Forming(forming) if ring == forming.era.id => self.take_forming(seq, packet),
            _ => {}
        }
    }

    /// A packet of a number that the token did not have when it left here: it has arrived.
    fn shows_a_trace(&mut self, seq: u64) {
        if seq > self.current().last_seq() {
            self.sent = None;
            self.timers.cancel(Timer::Retransmit);
        }
    }

    fn token(&mut self, from: u8, ring: RingId, mut token: Token, now_ns: u64) {
        let (era, forms) = match &mut self.phase {
            Phase::Operational => (&mut self.era, false),
            Phase::Forming(forming) => (&mut forming.era, true),
            Phase::Gather => return,
        };
        // One that was meant for another, and was brought here by somebody on the wire, would be a second one.
        if ring != era.id || from != era.predecessor() || !era.may_be(&token) || !era.is_news(token.number) {
            return;
        }
        if forms {
            self.recover(token, now_ns);
        } else {
            token.recovers = false;
            self.operate(token, now_ns);
        }
    }

    /// A visit of the token.
    fn operate(&mut self, token: Token, now_ns: u64) {
        self.timers.cancel(Timer::Hold);
        let outputs = &mut self.outputs;
        let mut fresh = Fresh { own: self.own, outbox: &mut self.outbox };
        let send = |to, bytes| outputs.push_back(Output::Send { to, bytes });
        let mut token = self.era.visit(token, &self.params, &mut fresh, send);
        let idle = self.era.unchanged >= self.params.seqno_unchanged_const;
        if idle && self.era.representative() == self.own {
            self.timers.cancel(Timer::Retransmit);
            self.timers.set(Timer::Hold, now_ns + self.params.hold_ns);
            self.timers.set(Timer::Loss, now_ns + self.params.token_ns);
            // Nothing is on its way and nothing waits, whatever somebody has put in.
            (token.fcc, token.backlog) = (0, 0);
            (self.sent, self.held) = (None, Some(token));
        } else {
            let bytes = self.era.message(&token);
            self.hand_on(bytes, now_ns);
        }
        self.deliver();
        if self.era.stuck >= self.params.fail_recv_const {
            self.lose();
        }
    }

    /// Sends a token, or a commit token, to the successor, and watches over it.
    fn hand_on(&mut self, bytes: Bytes, now_ns: u64) {
        let era = self.current();
        let to = era.successor();
        // An idle token may be held on its way, and nobody else shows a trace of it.
        let is_idle = era.unchanged + 1 >= self.params.seqno_unchanged_const;
        self.send(to, &bytes);
        self.sent = Some((to, bytes));
        let wait_ns = if is_idle { self.params.hold_ns } else { 0 } + self.params.token_retransmit_ns();
        self.timers.set(Timer::Retransmit, now_ns + wait_ns);
        self.timers.set(Timer::Loss, now_ns + self.params.token_ns);
    }

    /// Sends a token or a commit token, which may be longer than a frame.
    fn send(&mut self, to: u8, bytes: &Bytes) {
        let (to, ring) = (1 << to, self.current().id);
        let most = self.params.payload + 2 * wire::PACKET_HEAD;
        if bytes.len() <= most {
            self.outputs.push_back(Output::Send { to, bytes: bytes.clone() });
            return;
        }
        let each = most - wire::HEAD;
        let (id, count) = (self.pieces.next_id, bytes.len().div_ceil(each) as u8);
        self.pieces.next_id = id.wrapping_add(1);
        for (index, begin) in (0..bytes.len()).step_by(each).enumerate() {
            let piece = bytes.slice(begin..bytes.len().min(begin + each));
            let piece = Message::Piece { ring, id, index: index as u8, count, bytes: piece };
            self.outputs.push_back(Output::Send { to, bytes: piece.to_bytes(self.own) });
        }
    }

    fn wake(&mut self, ring: RingId, now_ns: u64) {
        if !matches!(self.phase, Phase::Operational) || ring != self.era.id {
            return;
        }
        // One that is on its way here is not to rest, either.
        self.era.unchanged = 0;
        if let Some(token) = self.held.take() {
            self.operate(token, now_ns);
        }
    }

    fn timeout(&mut self, now_ns: u64) {
        while let Some(timer) = self.timers.pop(now_ns) {
            match timer {
                Timer::Loss => self.lose(),
                Timer::Hold if self.is_operational() && self.era.others() == 0 => self.turn_alone(),
                Timer::Hold => {
                    if let Some(token) = self.held.take() {
                        // One rotation: then it is held again.
                        self.era.unchanged = self.params.seqno_unchanged_const.saturating_sub(1);
                        let bytes = self.era.message(&token);
                        self.hand_on(bytes, now_ns);
                    }
                }
                Timer::Retransmit => {
                    if let Some((to, bytes)) = self.sent.clone() {
                        self.send(to, &bytes);
                        self.timers.set(Timer::Retransmit, now_ns + self.params.token_retransmit_ns());
                    }
                }
            }
        }
    }

    /// The ring does not turn any more.
    fn lose(&mut self) {
        let view = self.current().view;
        self.freeze();
        self.outputs.push_back(Output::Lost { view });
    }

    /// Delivers what is next in the order, as far as it is there and may be.
    fn deliver(&mut self) {
        let mut whole = Vec::new();
        while let Some(packet) = self.era.store.get(self.era.delivered + 1) {
            let waits = packet.safe && self.era.delivered + 1 > self.era.safe;
            if waits && self.mutation != Mutation::SafeAtOnce {
                break;
            }
            self.era.delivered += 1;
            if packet.recovered {
                continue;
            }
            let from = packet.origin;
            self.assemblies[usize::from(from) % NODES_MAX].take(packet.payload.clone(), &mut whole);
            self.outputs.extend(whole.drain(..).map(|bytes| Output::Deliver { from, bytes }));
        }
        self.era.release();
    }

    /// The only member has no token to wait for.
    fn turn_alone(&mut self) {
        while let Some((payload, safe)) = self.outbox.pack(self.params.payload) {
            let seq = self.era.store.high() + 1;
            self.era.take(seq, Packet { origin: self.own, safe, recovered: false, payload });
            self.era.safe = seq;
            self.deliver();
        }
    }

    fn commit(&mut self, from: u8, commit: Commit, now_ns: u64) {
        match &self.phase {
            Phase::Forming(forming)
                if forming.era.view == commit.view && from == forming.era.predecessor() =>
            {
                self.commit_goes_on(commit, now_ns);
            }
            _ if commit.view > self.era.view
                && commit.view.has(self.own)
                && from == era::before(self.own, commit.view.members) =>
            {
                // Membership has not installed it yet.
                let newer = self
                    .early
                    .as_ref()
                    .is_none_or(|early| (commit.view, commit.number) > (early.view, early.number));
                if newer {
                    self.early = Some(commit);
                }
            }
            _ => {}
        }
    }

    /// The token of a new ring, before its first visit.
    const fn first_token() -> Token {
        Token {
            number: 1,
            seq: 0,
            aru: 0,
            aru_by: NOBODY,
            fcc: 0,
            backlog: 0,
            recovers: false,
            requests: Vec::new(),
        }
    }
}
