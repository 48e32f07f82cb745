//! The maps and the programs once more, in user space: the same rules of `ringbeat-common` over a table in memory.
//!
//! Pure: frames and times in, frames and events out. The socket plane drives it; tests hold it against the kernel's
//! programs. What it cannot give is an obituary: when the process dies, so does the table.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ringbeat_common::compose::{Address, Granting, compose, may_grant};
use ringbeat_common::drops::{DROPS_MAX, Drop};
use ringbeat_common::event::{Event, LEASE_CELL};
use ringbeat_common::frame::{Frame, Kind, VERSION, flags};
use ringbeat_common::histogram::Histogram;
use ringbeat_common::lease::{self, Counted, Serving, Whole};
use ringbeat_common::limits::{
    LINKS_MAX, NODES_MAX, SLOTS_MAX, TICK_LATE_NS, TICK_MAX_NS, TICK_MIN_NS, cell,
};
use ringbeat_common::maps::{Counters, Latch, Node, Tick, Trips, latch};
use ringbeat_common::slot::{Local, Slot, Snapshot};
use ringbeat_common::view::View;
use ringbeat_common::watch::{Watch, after_proof, state};

use super::lease::LeaseCells;
use super::{Identity, PlaneLink};

/// Events kept for the main loop; more are dropped and found again by its look over the cells.
pub const EVENTS_MAX: usize = 2048;

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send this back.
    Answer(Frame),
    /// Taken in.
    Taken,
    /// For the handshake.
    Handshake,
    /// Not for this node, or not good.
    Dropped,
}

/// All that the maps hold.
pub struct Table {
    /// This node.
    pub node: Node,
    /// The daemon's life.
    pub latch: Latch,
    /// The timer's book.
    pub tick: Tick,
    /// Changes of cells.
    pub events: VecDeque<Event>,
    /// The lease: this node grants, though without a gate of the kernel it holds nothing.
    pub lease: Arc<[AtomicU64]>,
    key: [u64; 2],
    links: Vec<PlaneLink>,
    slots: Vec<Slot>,
    watches: Vec<Watch>,
    counters: Vec<Counters>,
    trips: Vec<Trips>,
    drops: [[u64; DROPS_MAX]; LINKS_MAX],
}

impl Table {
    /// A closed table.
    pub fn new(identity: Identity, links: &[PlaneLink]) -> Self {
        let empty =
            Trips { round_trip: Histogram::EMPTY, jitter: Histogram::EMPTY, silence: Histogram::EMPTY };
        let node = Node {
            slot: u64::from(identity.slot),
            cluster_id: identity.cluster_id,
            config_version: identity.config_version,
            deadline_max_ns: links.iter().map(|link| link.deadline_ns).max().unwrap_or(0),
            interval_min_ns: links.iter().map(|link| link.interval_ns).min().unwrap_or(0),
            ..Node::default()
        };
        Self {
            node,
            latch: Latch { state: latch::ALIVE, ..Latch::default() },
            tick: Tick::default(),
            events: VecDeque::new(),
            lease: super::lease::empty().into(),
            key: identity.key,
            links: links.to_vec(),
            slots: vec![Slot::default(); SLOTS_MAX],
            watches: vec![Watch::default(); SLOTS_MAX],
            counters: vec![Counters::default(); SLOTS_MAX],
            trips: vec![empty; SLOTS_MAX],
            drops: [[0; DROPS_MAX]; LINKS_MAX],
        }
    }

    /// Takes a frame that came on `link`.
    pub fn receive(&mut self, link: u8, frame: &mut Frame, now_ns: u64) -> Outcome {
        if u64::from(frame.target()) != self.node.slot || frame.magic() != ringbeat_common::frame::MAGIC {
            return Outcome::Dropped;
        }
        match self.check(link, frame, now_ns) {
            Ok(outcome) => outcome,
            Err(reason) => {
                self.drops[usize::from(link) % LINKS_MAX][reason as usize] += 1;
                Outcome::Dropped
            }
        }
    }

    fn check(&mut self, link: u8, frame: &mut Frame, now_ns: u64) -> Result<Outcome, Drop> {
        if frame.link() != link {
            return Err(Drop::WrongLink);
        }
        if frame.min_version() > VERSION {
            return Err(Drop::Version);
        }
        let kind = Kind::from_u8(frame.kind()).ok_or(Drop::Malformed)?;
        if usize::from(frame.sender()) >= NODES_MAX {
            return Err(Drop::Malformed);
        }
        if frame.cluster_id() != self.node.cluster_id {
            return Err(Drop::Foreign);
        }
        if frame.key_id() != 0 {
            return Err(Drop::UnknownKey);
        }
        if frame.computed_tag(self.key) != frame.tag() {
            return Err(Drop::Forged);
        }
        if kind != Kind::Probe && kind != Kind::Answer {
            return Ok(Outcome::Handshake);
        }
        if u64::from(frame.sender()) == self.node.slot {
            return Err(Drop::SelfSent);
        }
        if self.node.incarnation == 0 {
            return Err(Drop::Closed);
        }
        let index = cell(link, frame.sender());
        let freshness_ns = self.links.iter().find(|l| l.id == link).map_or(0, |l| l.deadline_ns);
        let serving = lease::serving(&LeaseCells(&self.lease));
        let local = Local {
            incarnation: self.node.incarnation,
            view: [serving.view.epoch, serving.view.members, serving.view.rest],
            freshness_ns,
            now_ns,
        };
        if self.slots[index].accept(frame, &local)? {
            self.of_lease(frame, &serving, now_ns);
            self.seen(frame, index, now_ns);
        } else {
            self.counters[index].unproven += 1;
        }
        if kind == Kind::Answer {
            self.counters[index].answers += 1;
            self.measure(frame, index, now_ns);
            return Ok(Outcome::Taken);
        }
        self.counters[index].probes_answered += 1;
        let to = Address { target: frame.sender(), link, sequence: frame.sequence() };
        let peer = Snapshot { incarnation: frame.incarnation(), stamp: frame.stamp(), received: now_ns };
        let granting = self.granting(&serving, to.target, now_ns, now_ns);
        compose(frame, Kind::Answer, &self.node, &self.latch, to, peer, granting, now_ns);
        frame.seal(self.key);
        Ok(Outcome::Answer(*frame))
    }

    fn granting(&self, serving: &Serving, target: u8, received_ns: u64, now_ns: u64) -> Granting {
        let grant = may_grant(&self.node, &self.latch, now_ns)
            && lease::grant::<Whole, _>(&LeaseCells(&self.lease), serving, target, received_ns, now_ns);
        Granting { view: serving.view, grant }
    }

    fn of_lease(&mut self, frame: &Frame, serving: &Serving, now_ns: u64) {
        let words = LeaseCells(&self.lease);
        if frame.flags() & (flags::GONE | flags::RELEASED) != 0 {
            lease::ended::<Whole, _>(&words, serving, frame.sender(), now_ns);
        } else if frame.flags() & flags::GRANT != 0 {
            let view = View { epoch: frame.view_epoch(), members: frame.view_members(), rest: frame.0[9] };
            let (slot, stamp_ns) = (frame.sender(), frame.returned());
            if lease::count::<Whole, _>(&words, serving, slot, &view, stamp_ns, now_ns) == Counted::Gained {
                let until_ns = words.until_ns();
                self.tell_lease(1, now_ns, until_ns, serving.generation);
            }
        }
    }

    fn tell_lease(&mut self, to: u64, now_ns: u64, until_ns: u64, generation: u64) {
        self.tell(Event {
            stamp_ns: now_ns,
            cell: LEASE_CELL,
            by_timer: u32::from(to == 0),
            from: to ^ 1,
            to,
            heard_ns: until_ns,
            incarnation: generation,
            ..Event::default()
        });
    }

    fn seen(&mut self, frame: &Frame, index: usize, now_ns: u64) {
        let watch = &mut self.watches[index];
        let before = *watch;
        watch.heard_ns = now_ns;
        watch.unanswered_ns = 0;
        if before.heard_ns != 0 {
            self.trips[index].silence.record(now_ns.saturating_sub(before.heard_ns));
        }
        watch.state = after_proof(before.state, frame.flags(), frame.daemon_age_us());
        if watch.state != before.state {
            let event = Event {
                stamp_ns: now_ns,
                cell: index as u32,
                by_timer: 0,
                from: before.state,
                to: watch.state,
                heard_ns: before.heard_ns,
                unanswered_ns: before.unanswered_ns,
                credit_ns: 0,
                incarnation: frame.incarnation(),
                daemon_age_us: frame.daemon_age_us(),
                flags: u32::from(frame.flags()),
            };
            self.tell(event);
        }
    }

    fn measure(&mut self, frame: &Frame, index: usize, now_ns: u64) {
        let there = frame.stamp().wrapping_sub(frame.received());
        let transit = now_ns.wrapping_sub(frame.stamp());
        let before = std::mem::replace(&mut self.counters[index].transit_ns, transit);
        let trips = &mut self.trips[index];
        trips.round_trip.record(now_ns.wrapping_sub(frame.returned()).wrapping_sub(there));
        if before != 0 {
            trips.jitter.record(transit.cast_signed().wrapping_sub(before.cast_signed()).unsigned_abs());
        }
    }

    /// The probe to a peer, as it leaves now.
    pub fn probe(&mut self, link: u8, target: u8, now_ns: u64) -> Option<Frame> {
        let index = cell(link, target);
        let peer = self.slots[index].snapshot();
        if self.node.incarnation == 0 || peer.incarnation == 0 {
            return None;
        }
        if self.watches[index].unanswered_ns == 0 {
            self.watches[index].unanswered_ns = now_ns;
        }
        self.counters[index].probes_sent += 1;
        let to = Address { target, link, sequence: self.counters[index].probes_sent };
        let mut frame = Frame::default();
        let serving = lease::serving(&LeaseCells(&self.lease));
        let granting = self.granting(&serving, target, peer.received, now_ns);
        compose(&mut frame, Kind::Probe, &self.node, &self.latch, to, peer, granting, now_ns);
        frame.seal(self.key);
        Some(frame)
    }

    /// A probe that could not leave accuses nobody.
    pub fn unsent(&mut self, link: u8, target: u8, stamp_ns: u64) {
        let watch = &mut self.watches[cell(link, target)];
        if watch.unanswered_ns == stamp_ns {
            watch.unanswered_ns = 0;
        }
    }

    /// The timer, planned for `planned_ns`; gives the time of its next run.
    pub fn expire(&mut self, planned_ns: u64, now_ns: u64) -> u64 {
        let tick = &mut self.tick;
        tick.credit = tick.credit.after_tick(planned_ns, now_ns, TICK_LATE_NS, self.node.deadline_max_ns);
        let late_ns = now_ns.saturating_sub(planned_ns);
        tick.runs += 1;
        tick.late_max_ns = tick.late_max_ns.max(late_ns);
        if late_ns > TICK_LATE_NS {
            tick.stalls += 1;
            tick.stalled_ns += late_ns;
        }
        let credit_ns = tick.credit.ns;
        let words = LeaseCells(&self.lease);
        if let Some(until_us) = lease::lapsed(&words, now_ns) {
            let generation = lease::serving(&words).generation;
            self.tell_lease(0, now_ns, until_us * 1000, generation);
        }
        let mut next_ns = now_ns + self.node.interval_min_ns.clamp(TICK_MIN_NS, TICK_MAX_NS);
        for index in 0..SLOTS_MAX {
            let watch = self.watches[index];
            if watch.state & state::HEARD == 0 || watch.unanswered_ns == 0 {
                continue;
            }
            if !watch.is_late(now_ns, credit_ns) {
                next_ns = next_ns.min(watch.expires_ns(credit_ns));
                continue;
            }
            self.watches[index].state &= !state::HEARD;
            self.tell(Event {
                stamp_ns: now_ns,
                cell: index as u32,
                by_timer: 1,
                from: watch.state,
                to: watch.state & !state::HEARD,
                heard_ns: watch.heard_ns,
                unanswered_ns: watch.unanswered_ns,
                credit_ns,
                ..Event::default()
            });
        }
        next_ns.max(now_ns + TICK_MIN_NS)
    }

    /// Accepts a peer's incarnation on all links.
    pub fn accept(&mut self, slot: u8, incarnation: u64) {
        for link in &self.links {
            let index = cell(link.id, slot);
            self.slots[index] = Slot::accepting(incarnation);
            self.watches[index] = Watch {
                deadline_ns: u32::try_from(link.deadline_ns).unwrap_or(u32::MAX),
                interval_ns: u32::try_from(link.interval_ns).unwrap_or(u32::MAX),
                state: state::WATCHED,
                ..Watch::default()
            };
        }
    }

    /// The slots with an accepted incarnation.
    pub fn accepted(&self, link: u8) -> impl Iterator<Item = u8> + use<'_> {
        (0..NODES_MAX as u8).filter(move |slot| self.slots[cell(link, *slot)].incarnation != 0)
    }

    /// What is known of a peer.
    pub fn slot(&self, link: u8, slot: u8) -> Slot {
        self.slots[cell(link, slot)]
    }

    /// A cell.
    pub fn cell(&self, link: u8, slot: u8) -> (Watch, Counters, Trips) {
        let index = cell(link, slot);
        (self.watches[index], self.counters[index], self.trips[index])
    }

    /// Frames dropped on a link.
    pub const fn drops(&self, link: u8) -> [u64; DROPS_MAX] {
        self.drops[link as usize % LINKS_MAX]
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u64; 2] = [3, 4];
    const MS: u64 = 1_000_000;

    fn table(slot: u8) -> Table {
        let link = PlaneLink {
            id: 0,
            interface: "hb0".into(),
            ifindex: 1,
            port: 5405,
            interval_ns: MS,
            deadline_ns: 5 * MS,
        };
        let mut table = Table::new(Identity { slot, cluster_id: 9, config_version: 1, key: KEY }, &[link]);
        table.node.incarnation = u64::from(slot) + 100;
        table
    }

    fn pair() -> (Table, Table) {
        let (mut a, mut b) = (table(0), table(1));
        a.accept(1, 101);
        b.accept(0, 100);
        (a, b)
    }

    fn exchange(a: &mut Table, b: &mut Table, now_ns: u64) {
        let mut probe = a.probe(0, 1, now_ns).expect("open");
        let Outcome::Answer(mut answer) = b.receive(0, &mut probe, now_ns + 10) else { panic!("answered") };
        assert_eq!(a.receive(0, &mut answer, now_ns + 20), Outcome::Taken);
    }

    #[test]
    fn two_tables_hear_one_another() {
        let (mut a, mut b) = pair();
        (a.latch.beat_ns, b.latch.beat_ns) = (100 * MS, 100 * MS);
        exchange(&mut a, &mut b, 100 * MS);
        exchange(&mut a, &mut b, 101 * MS);
        assert_eq!(a.events.len(), 1, "up is told once");
        assert_eq!(b.events.pop_front().map(|event| event.to), Some(state::WATCHED | state::HEARD));
        assert_eq!(a.cell(0, 1).2.round_trip.total(), 2);
        assert_eq!(a.cell(0, 1).2.round_trip.max_ns, 20);
    }

    #[test]
    fn silence_is_told_at_the_deadline_and_once() {
        let (mut a, mut b) = pair();
        exchange(&mut a, &mut b, 100 * MS);
        a.events.clear();
        let _lost = a.probe(0, 1, 101 * MS);
        a.expire(104 * MS, 104 * MS);
        assert!(a.events.is_empty());
        a.expire(105 * MS + 20, 105 * MS + 20);
        a.expire(106 * MS, 106 * MS);
        let told: Vec<_> = a.events.iter().map(|event| (event.stamp_ns, event.by_timer, event.to)).collect();
        assert_eq!(told, [(105 * MS + 20, 1, state::WATCHED)]);
    }

    #[test]
    fn an_unsent_probe_accuses_nobody() {
        let (mut a, mut b) = pair();
        exchange(&mut a, &mut b, 100 * MS);
        a.events.clear();
        let _ = a.probe(0, 1, 101 * MS);
        a.unsent(0, 1, 101 * MS);
        a.expire(200 * MS, 200 * MS);
        assert!(a.events.is_empty());
    }

    #[test]
    fn every_reason_is_counted() {
        let (mut a, mut b) = pair();
        let probe = b.probe(0, 0, 100 * MS).expect("open");
        let mut bad = |change: &dyn Fn(&mut Frame), reason: Drop| {
            let mut frame = probe;
            change(&mut frame);
            if reason != Drop::Forged {
                frame.seal(KEY);
            }
            let before = a.drops(0)[reason as usize];
            assert_eq!(a.receive(0, &mut frame, 101 * MS), Outcome::Dropped, "{}", reason.name());
            assert_eq!(a.drops(0)[reason as usize], before + 1, "{}", reason.name());
        };
        bad(&|f| f.set_min_version(VERSION + 1), Drop::Version);
        bad(&|f| f.set_kind(77), Drop::Malformed);
        bad(&|f| f.set_sender(64), Drop::Malformed);
        bad(&|f| f.set_cluster_id(1), Drop::Foreign);
        bad(&|f| f.set_link(1), Drop::WrongLink);
        bad(&|f| f.set_key_id(1), Drop::UnknownKey);
        bad(&|f| f.set_heard(7), Drop::Forged);
        bad(&|f| f.set_sender(0), Drop::SelfSent);
        bad(&|f| f.set_incarnation(7), Drop::Incarnation);
        bad(&|f| f.set_target_incarnation(7), Drop::TargetIncarnation);
        bad(&|f| f.set_sequence(0), Drop::Replayed);
        bad(&|f| f.set_returned(102 * MS), Drop::FutureStamp);
        a.node.incarnation = 0;
        let mut frame = probe;
        assert_eq!(a.receive(0, &mut frame, 101 * MS), Outcome::Dropped);
        assert_eq!(a.drops(0)[Drop::Closed as usize], 1);
    }
}
