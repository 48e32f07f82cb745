//! One history: nodes with wrong clocks, frames that are lost and late, daemons that die, and views that an adversary
//! chooses as it likes. The rule is the shipped one, of `ringbeat_common::lease`, or it with a clause left out.
//!
//! Two gates can come to be open at once only when one of them opens, and gates open at events alone, or at the time from
//! which the own votes suffice, which is made an event. So a look after every event sees every overlap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::marker::PhantomData;

use ringbeat_common::compose::{Address, Granting, compose};
use ringbeat_common::frame::{Frame, Kind, flags};
use ringbeat_common::lease::{self, Installation, PROMISE_QUARTERS, Rule, Serving, Words};
use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::maps::{Latch, Node as Self_, latch};
use ringbeat_common::slot::{Local, Snapshot};
use ringbeat_common::view::View;

use crate::node::{Clock, Disturbed, Node, Proposal, Taken};
use crate::splitmix::SplitMix;

/// The probe interval and the length of the lease, in ns.
pub(crate) const INTERVAL_NS: u64 = 1_000_000;
pub(crate) const LEASE_NS: u64 = 5 * INTERVAL_NS;
/// The end of a history.
const END_NS: u64 = 60 * INTERVAL_NS;
/// The most drift of a clock, either way, in parts in a million.
const DRIFT_PPM: u64 = 110_000;
/// Epochs are reserved for so many ahead.
const AHEAD: u64 = 50;

/// What else is left out, above the clauses of the rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Without {
    /// Nothing.
    #[default]
    Nothing,
    /// Announced ids need not rise over restarts.
    Floor,
    /// A view is installed before all have announced it.
    AllAnnounced,
    /// The gate does not look at the latch.
    Latch,
    /// A restarted daemon leaves the gates as they were.
    ClosedAtStart,
}

/// What happened how often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) histories: u64,
    pub(crate) with_takeover: u64,
    pub(crate) takeovers: u64,
    pub(crate) views: u64,
    pub(crate) lost: u64,
    pub(crate) late: u64,
    pub(crate) replayed: u64,
    pub(crate) cuts: u64,
    pub(crate) pauses: u64,
    pub(crate) freezes: u64,
    pub(crate) kills: u64,
    pub(crate) restarts: u64,
    pub(crate) reboots: u64,
    pub(crate) handovers: u64,
    pub(crate) slews: u64,
    pub(crate) disturbed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Probe { node: u8 },
    Frame { to: u8, link: u8, frame: usize },
    Propose,
    Offer { to: u8, proposal: usize },
    Announced { from: u8, life: u64, to: u8, proposal: usize },
    Accept { at: u8, slot: u8, life: u64 },
    Fault,
    Restart { node: u8, keeps_table: bool },
    Look { node: u8 },
}

/// A history being made.
pub(crate) struct World<R> {
    rng: SplitMix,
    without: Without,
    pub(crate) nodes: Vec<Node>,
    links: usize,
    votes: [u8; NODES_MAX],
    quorum: u32,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    order: u64,
    frames: Vec<Frame>,
    proposals: Vec<Proposal>,
    epoch: u64,
    loss: u64,
    late: u64,
    faults: u64,
    /// Everything of user space happens within a fraction of a lease: restarts, new lives, views.
    hurried: bool,
    /// From, to, link.
    cut: Vec<(u8, u8, u8)>,
    last_holder: [Option<u8>; 3],
    pub(crate) counts: Counts,
    pub(crate) violation: Option<String>,
    pub(crate) trace: Option<Vec<String>>,
    rule: PhantomData<R>,
}

impl<R: Rule> World<R> {
    pub(crate) fn run(seed: u64, without: Without, traced: bool) -> Self {
        let mut rng = SplitMix::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x1ea5e);
        let count = [2, 3, 3, 3, 4, 5, 5, 7, 9][rng.index(9)].min(if rng.permille(900) { 5 } else { 9 });
        let links = if rng.permille(800) { 1 } else { 1 + rng.index(3) };
        let mut votes = [0u8; NODES_MAX];
        for votes in votes.iter_mut().take(count) {
            *votes = if rng.permille(850) { 1 } else { rng.within(0, 4) as u8 };
        }
        votes[0] = votes[0].max(1);
        let quorum = votes.iter().map(|votes| u32::from(*votes)).sum::<u32>() / 2 + 1;
        let nodes = (0..count).map(|_| {
            let rate_ppm = rng.within(0, 2 * DRIFT_PPM + 1) as i64 - DRIFT_PPM as i64;
            // The worst cases are at the ends.
            let rate_ppm = if rng.permille(400) { DRIFT_PPM as i64 * rate_ppm.signum() } else { rate_ppm };
            let clock = Clock { since_ns: 0, shown_ns: rng.within(1, 1 << 40) * 1000, rate_ppm };
            Node::new(clock, 1 << 32, links)
        });
        let mut world = Self {
            nodes: nodes.collect(),
            without,
            links,
            votes,
            quorum,
            queue: BinaryHeap::new(),
            order: 0,
            frames: Vec::new(),
            proposals: Vec::new(),
            epoch: 0,
            loss: [0, 20, 100, 300][rng.index(4)],
            late: [0, 20, 100][rng.index(3)],
            faults: [2, 4, 8, 16][rng.index(4)],
            hurried: rng.permille(350),
            cut: Vec::new(),
            last_holder: [None; 3],
            counts: Counts { histories: 1, ..Counts::default() },
            violation: None,
            trace: traced.then(Vec::new),
            rule: PhantomData,
            rng,
        };
        world.begin();
        while let Some(Reverse((now_ns, _, what))) = world.queue.pop() {
            if now_ns > END_NS || world.violation.is_some() {
                break;
            }
            world.step(now_ns, what);
        }
        world.counts.with_takeover = u64::from(world.counts.takeovers > 0);
        world
    }

    fn begin(&mut self) {
        let count = self.nodes.len() as u8;
        for node in 0..count {
            let life = (1 << 32) | u64::from(node);
            self.nodes[usize::from(node)].incarnation = life;
            for peer in (0..count).filter(|peer| *peer != node) {
                self.nodes[usize::from(peer)].accept(node, life);
            }
            let at = self.rng.within(0, INTERVAL_NS);
            self.at(at, What::Probe { node });
        }
        let mut at = 0;
        while at < END_NS {
            self.at(at, What::Propose);
            let most = if self.hurried { 4 } else { 14 };
            at += self.rng.within(INTERVAL_NS / 2, most * INTERVAL_NS);
        }
        for _ in 0..self.faults {
            let at = self.rng.within(4 * INTERVAL_NS, END_NS);
            self.at(at, What::Fault);
        }
    }

    fn at(&mut self, at_ns: u64, what: What) {
        self.order += 1;
        self.queue.push(Reverse((at_ns, self.order, what)));
    }

    fn say(&mut self, now_ns: u64, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now_ns:>9} {}", text()));
        }
    }

    fn step(&mut self, now_ns: u64, what: What) {
        let node = match what {
            What::Probe { node } | What::Restart { node, .. } | What::Look { node } => Some(node),
            What::Frame { to, .. } | What::Offer { to, .. } | What::Announced { to, .. } => Some(to),
            What::Accept { at, .. } => Some(at),
            What::Propose | What::Fault => None,
        };
        // A frozen machine finds everything in its queues when it thaws.
        if let Some(node) = node {
            let until_ns = self.nodes[usize::from(node)].frozen_until_ns;
            if until_ns > now_ns {
                self.at(until_ns, what);
                return;
            }
        }
        match what {
            What::Probe { node } => self.probe(node, now_ns),
            What::Frame { to, link, frame } => self.receive(to, link, frame, now_ns),
            What::Propose => self.propose(now_ns),
            What::Offer { to, proposal } => self.offered(to, proposal, now_ns),
            What::Announced { from, life, to, proposal } => self.announced(from, life, to, proposal, now_ns),
            What::Accept { at, slot, life } => {
                if self.nodes[usize::from(slot)].incarnation == life {
                    self.nodes[usize::from(at)].accept(slot, life);
                }
            }
            What::Fault => self.fault(now_ns),
            What::Restart { node, keeps_table } => self.restart(node, keeps_table, now_ns),
            What::Look { .. } => {}
        }
        if let Some(node) = node {
            self.look(node, now_ns);
        }
    }

    fn is_open(&self, node: u8, resource: usize, now_ns: u64) -> bool {
        let node = &self.nodes[usize::from(node)];
        let latched = node.gone && self.without != Without::Latch;
        !latched && lease::is_open(&node.table, resource, node.clock.at(now_ns))
    }

    /// Nobody else may pass while this node does.
    fn look(&mut self, node: u8, now_ns: u64) {
        for resource in 0..3 {
            if !self.is_open(node, resource, now_ns) {
                continue;
            }
            for other in (0..self.nodes.len() as u8).filter(|other| *other != node) {
                if self.is_open(other, resource, now_ns) && self.violation.is_none() {
                    self.violation = Some(format!("at {now_ns} both {node} and {other} hold {resource}"));
                }
            }
            if self.last_holder[resource].is_some_and(|last| last != node) {
                self.counts.takeovers += 1;
            }
            self.last_holder[resource] = Some(node);
        }
    }

    fn sends(&mut self, from: u8, to: u8, link: u8, now_ns: u64) -> Option<u64> {
        if self.cut.contains(&(from, to, link)) || self.rng.permille(self.loss) {
            self.counts.lost += 1;
            return None;
        }
        if self.rng.permille(self.late) {
            self.counts.late += 1;
            return Some(now_ns + self.rng.within(INTERVAL_NS, 12 * INTERVAL_NS));
        }
        Some(now_ns + self.rng.within(10_000, 200_000))
    }

    fn frame(
        &self,
        from: u8,
        kind: Kind,
        to: Address,
        peer: Snapshot,
        serving: &Serving,
        now_ns: u64,
    ) -> Frame {
        let node = &self.nodes[usize::from(from)];
        let this = Self_ { incarnation: node.incarnation, slot: u64::from(from), ..Self_::default() };
        let gone = node.gone;
        let latch = Latch { state: if gone { latch::GONE } else { latch::ALIVE }, ..Latch::default() };
        let local_ns = node.clock.at(now_ns);
        let quiet = local_ns < node.quiet_until_ns;
        let grant =
            !gone && !quiet && lease::grant::<R, _>(&node.table, serving, to.target, peer.received, local_ns);
        let mut frame = Frame::default();
        let granting = Granting { view: serving.view, grant };
        compose(&mut frame, kind, &this, &latch, to, peer, granting, local_ns);
        frame
    }

    fn transmit(&mut self, from: u8, to: u8, link: u8, frame: Frame, now_ns: u64) {
        self.frames.push(frame);
        let at = self.frames.len() - 1;
        if let Some(arrives_ns) = self.sends(from, to, link, now_ns) {
            self.at(arrives_ns, What::Frame { to, link, frame: at });
        }
        if self.rng.permille(self.late / 4) {
            // Somebody kept it, and plays it again.
            self.counts.replayed += 1;
            let again_ns = now_ns + self.rng.within(INTERVAL_NS, 30 * INTERVAL_NS);
            self.at(again_ns, What::Frame { to, link, frame: at });
        }
    }

    fn probe(&mut self, node: u8, now_ns: u64) {
        let own = usize::from(node);
        for link in 0..self.links as u8 {
            for target in (0..self.nodes.len() as u8).filter(|target| *target != node) {
                let peer = self.nodes[own].slots[usize::from(link)][usize::from(target)].snapshot();
                if peer.incarnation == 0 {
                    continue;
                }
                self.nodes[own].sequences += 1;
                let to = Address { target, link, sequence: self.nodes[own].sequences };
                let serving = lease::serving(&self.nodes[own].table);
                let frame = self.frame(node, Kind::Probe, to, peer, &serving, now_ns);
                self.transmit(node, target, link, frame, now_ns);
            }
        }
        // A dead daemon sends no probes; its kernel answers on.
        let next_ns = now_ns + INTERVAL_NS + self.rng.within(0, 50_000);
        self.at(next_ns, What::Probe { node });
    }

    fn receive(&mut self, to: u8, link: u8, frame: usize, now_ns: u64) {
        let frame = self.frames[frame];
        let node = &mut self.nodes[usize::from(to)];
        let local_ns = node.clock.at(now_ns);
        let serving = lease::serving(&node.table);
        let local = Local {
            incarnation: node.incarnation,
            view: [serving.view.epoch, serving.view.members, serving.view.rest],
            freshness_ns: LEASE_NS,
            now_ns: local_ns,
        };
        let sender = frame.sender();
        let Ok(fresh) = node.slots[usize::from(link)][usize::from(sender)].accept(&frame, &local) else {
            return;
        };
        let says_gone = frame.flags() & flags::GONE != 0;
        if says_gone && fresh {
            lease::ended::<R, _>(&node.table, &serving, sender, local_ns);
        }
        let quiet = local_ns < node.quiet_until_ns;
        if fresh && !says_gone && frame.flags() & flags::GRANT != 0 && !quiet {
            let view = View { epoch: frame.view_epoch(), members: frame.view_members(), rest: frame.0[9] };
            lease::count::<R, _>(&node.table, &serving, sender, &view, frame.returned(), local_ns);
            node.taken.push(Taken { slot: sender, view, stamp_ns: frame.returned() });
        }
        if frame.kind() == Kind::Probe as u8 {
            let address = Address { target: sender, link, sequence: frame.sequence() };
            let peer =
                Snapshot { incarnation: frame.incarnation(), stamp: frame.stamp(), received: local_ns };
            let answer = self.frame(to, Kind::Answer, address, peer, &serving, now_ns);
            self.transmit(to, sender, link, answer, now_ns);
        }
    }

    /// The adversary: any members, any owners, at any time; only the id is new.
    fn propose(&mut self, now_ns: u64) {
        let count = self.nodes.len() as u64;
        self.epoch += self.rng.within(1, 4);
        let members = if self.rng.permille(300) { (1 << count) - 1 } else { self.rng.within(1, 1 << count) };
        let votes: u32 = (0..count)
            .filter(|slot| members >> slot & 1 != 0)
            .map(|slot| u32::from(self.votes[slot as usize]))
            .sum();
        let mut owners = [0xff; 3];
        if votes >= self.quorum {
            for owner in &mut owners {
                let slot = self.rng.index(count as usize);
                *owner = if members >> slot & 1 != 0 { slot as u8 } else { members.trailing_zeros() as u8 };
            }
        }
        let proposer = self.rng.index(count as usize) as u8;
        let view = View::new(self.epoch, proposer, members, (LEASE_NS / 1000) as u32, 1);
        self.counts.views += 1;
        self.say(now_ns, || format!("propose {} {members:b} {owners:?}", view.epoch));
        self.proposals.push(Proposal { view, owners });
        let proposal = self.proposals.len() - 1;
        for to in (0..count as u8).filter(|slot| view.has(*slot)) {
            for _ in 0..2 {
                let most_ns = if self.hurried { INTERVAL_NS / 2 } else { 2 * INTERVAL_NS };
                let at = now_ns + self.rng.within(10_000, most_ns);
                self.at(at, What::Offer { to, proposal });
            }
        }
        // An old one comes up again.
        if self.rng.permille(200) {
            let proposal = self.rng.index(self.proposals.len());
            let to = self.rng.index(count as usize) as u8;
            if self.proposals[proposal].view.has(to) {
                let at = now_ns + self.rng.within(0, 20 * INTERVAL_NS);
                self.at(at, What::Offer { to, proposal });
            }
        }
    }

    fn daemon_runs(&self, node: u8, now_ns: u64) -> bool {
        let node = &self.nodes[usize::from(node)];
        !node.gone && node.paused_until_ns <= now_ns
    }

    fn offered(&mut self, to: u8, proposal: usize, now_ns: u64) {
        let offer = self.proposals[proposal];
        let node = &self.nodes[usize::from(to)];
        if node.paused_until_ns > now_ns && !node.gone {
            self.at(node.paused_until_ns, What::Offer { to, proposal });
            return;
        }
        let quiet = node.clock.at(now_ns) < node.quiet_until_ns;
        let floor = if self.without == Without::Floor { 0 } else { node.floor };
        let rises = node.announced.is_none_or(|before| offer.view > before.view) && offer.view.epoch > floor;
        if !self.daemon_runs(to, now_ns) || quiet || !rises {
            return;
        }
        let ceiling = node.ceiling.max(offer.view.epoch + AHEAD);
        let not_before_ns = self.disturbed(to, now_ns, |words, this| {
            this.not_before_ns = lease::announce::<R, _>(&words, &offer.view, offer.owned_by(to));
            this.not_before_ns
        });
        let node = &mut self.nodes[usize::from(to)];
        (node.announced, node.ceiling) = (Some(offer), ceiling);
        let life = node.incarnation;
        self.say(now_ns, || format!("{to} announces {} waits till {not_before_ns}", offer.view.epoch));
        for peer in (0..self.nodes.len() as u8).filter(|peer| offer.view.has(*peer) && *peer != to) {
            for again in 0..3 {
                if let Some(mut at) = self.sends(to, peer, 0, now_ns + again * INTERVAL_NS) {
                    if self.rng.permille(100) {
                        at += self.rng.within(0, 25 * INTERVAL_NS);
                    }
                    self.at(at, What::Announced { from: to, life, to: peer, proposal });
                }
            }
        }
        self.try_install(to, now_ns);
    }

    fn announced(&mut self, from: u8, life: u64, to: u8, proposal: usize, now_ns: u64) {
        let paused_ns = self.nodes[usize::from(to)].paused_until_ns;
        if paused_ns > now_ns {
            self.at(paused_ns, What::Announced { from, life, to, proposal });
            return;
        }
        let view = self.proposals[proposal].view;
        let node = &mut self.nodes[usize::from(to)];
        if node.lives[usize::from(from)] != life {
            return;
        }
        let heard = &mut node.heard_of[usize::from(from)];
        if heard.is_none_or(|(_, before)| view > before) {
            *heard = Some((life, view));
        }
        self.try_install(to, now_ns);
        // Whoever hears of it may be told by that.
        self.at(now_ns + 1000, What::Offer { to, proposal });
    }

    fn try_install(&mut self, slot: u8, now_ns: u64) {
        let node = &self.nodes[usize::from(slot)];
        let Some(announced) = node.announced else { return };
        if node.installed.is_some_and(|installed| installed.view >= announced.view)
            || !self.daemon_runs(slot, now_ns)
        {
            return;
        }
        let all = (0..self.nodes.len() as u8).filter(|peer| announced.view.has(*peer) && *peer != slot).all(
            |peer| {
                let heard = node.heard_of[usize::from(peer)];
                heard.is_some_and(|(life, view)| {
                    view == announced.view && life == node.lives[usize::from(peer)]
                })
            },
        );
        if !all && self.without != Without::AllAnnounced {
            return;
        }
        let (votes, quorum) = (self.votes, self.quorum);
        self.disturbed(slot, now_ns, |words, this| {
            let new = Installation {
                view: announced.view,
                not_before_ns: this.not_before_ns,
                own: slot,
                votes: &votes,
                quorum,
                owned: announced.owned_by(slot),
                now_ns: this.local_ns,
            };
            lease::install::<R, _>(&words, &new);
            0
        });
        let node = &mut self.nodes[usize::from(slot)];
        node.installed = Some(announced);
        node.taken.clear();
        let alone_ns = node.table.load(lease::ALONE_FROM_NS);
        if alone_ns != u64::MAX {
            let at = node.clock.when(alone_ns, now_ns);
            self.at(at, What::Look { node: slot });
        }
        self.say(now_ns, || format!("{slot} installs {}", announced.view.epoch));
    }

    /// A step of the daemon on its table, in a part of the cases with another processor between any two of its accesses.
    fn disturbed(
        &mut self,
        slot: u8,
        now_ns: u64,
        step: impl FnOnce(&dyn DynWords, &mut Daemon) -> u64,
    ) -> u64 {
        let local_ns = self.nodes[usize::from(slot)].clock.at(now_ns);
        let not_before_ns = self.nodes[usize::from(slot)].not_before_ns;
        let mut daemon = Daemon { local_ns, not_before_ns };
        if !self.rng.permille(250) {
            let gave = step(&Plain(&self.nodes[usize::from(slot)].table), &mut daemon);
            self.nodes[usize::from(slot)].not_before_ns = daemon.not_before_ns;
            return gave;
        }
        self.counts.disturbed += 1;
        let mut rng = SplitMix::new(self.rng.next());
        // Frames that the other processor sends in between: to whom, and under what it was serving.
        let mut sent: Vec<(u8, Serving)> = Vec::new();
        let gave = {
            let node = &self.nodes[usize::from(slot)];
            let held_up = lease::serving(&node.table);
            let quiet = local_ns < node.quiet_until_ns;
            let mut between = || {
                if !rng.permille(60) || quiet || node.gone {
                    return;
                }
                let serving = if rng.permille(600) { held_up } else { lease::serving(&node.table) };
                if rng.permille(500) {
                    let target = rng.index(self.nodes.len()) as u8;
                    let received = node.slots[0][usize::from(target)].peer_stamp_received;
                    if target != slot
                        && lease::grant::<R, _>(&node.table, &serving, target, received, local_ns)
                    {
                        sent.push((target, serving));
                    }
                } else if let Some(taken) = node.taken.last() {
                    lease::count::<R, _>(
                        &node.table,
                        &serving,
                        taken.slot,
                        &taken.view,
                        taken.stamp_ns,
                        local_ns,
                    );
                }
            };
            let words = Disturbed { table: &node.table, between: std::cell::RefCell::new(&mut between) };
            step(&Plain(&words), &mut daemon)
        };
        self.nodes[usize::from(slot)].not_before_ns = daemon.not_before_ns;
        for (target, serving) in sent {
            let own = usize::from(slot);
            let peer = self.nodes[own].slots[0][usize::from(target)].snapshot();
            self.nodes[own].sequences += 1;
            let to = Address { target, link: 0, sequence: self.nodes[own].sequences };
            let mut frame =
                self.frame(slot, Kind::Probe, to, peer, &Serving { generation: 0, ..serving }, now_ns);
            // The promise was made in between; the frame only carries it.
            frame.set_flags(frame.flags() | flags::GRANT);
            self.transmit(slot, target, 0, frame, now_ns);
        }
        gave
    }

    fn fault(&mut self, now_ns: u64) {
        let count = self.nodes.len();
        let slot = self.rng.index(count) as u8;
        let kind = self.rng.index(9);
        self.say(now_ns, || format!("fault {kind} at {slot}"));
        let long = self.rng.within(INTERVAL_NS, 25 * INTERVAL_NS);
        match kind {
            0 | 1 => {
                self.counts.cuts += 1;
                let to = self.rng.index(count) as u8;
                let both = self.rng.permille(500);
                for link in 0..self.links as u8 {
                    self.cut.push((slot, to, link));
                    if both {
                        self.cut.push((to, slot, link));
                    }
                }
            }
            2 => self.cut.clear(),
            3 => {
                self.counts.pauses += 1;
                self.nodes[usize::from(slot)].paused_until_ns = now_ns + long;
            }
            4 => {
                self.counts.freezes += 1;
                self.nodes[usize::from(slot)].frozen_until_ns = now_ns + long;
            }
            5 | 6 => {
                self.counts.kills += 1;
                self.nodes[usize::from(slot)].gone = true;
                let keeps_table = self.rng.permille(600);
                let most_ns = if self.hurried { INTERVAL_NS / 4 } else { 10 * INTERVAL_NS };
                let at = now_ns + self.rng.within(1000, most_ns);
                self.at(at, What::Restart { node: slot, keeps_table });
            }
            7 => {
                self.counts.slews += 1;
                let rate = self.rng.within(0, 2 * DRIFT_PPM + 1) as i64 - DRIFT_PPM as i64;
                self.nodes[usize::from(slot)].clock.slew(now_ns, rate);
            }
            _ => self.hand_over(slot, now_ns),
        }
    }

    /// A daemon is replaced as planned: the table goes on, what was announced is announced once more.
    fn hand_over(&mut self, slot: u8, now_ns: u64) {
        if !self.daemon_runs(slot, now_ns) {
            return;
        }
        self.counts.handovers += 1;
        let node = &mut self.nodes[usize::from(slot)];
        let view = node.announced.map_or(View::NONE, |announced| announced.view);
        if view.is_some() {
            let owned = (0..3)
                .filter(|gate| node.table.load(lease::GATES + 2 * gate) != 0)
                .fold(0, |set, gate| set | 1 << gate);
            node.not_before_ns = lease::announce::<R, _>(&node.table, &view, owned);
        }
    }

    /// A new life: over the table of the dead one, or over a new one after a reboot.
    fn restart(&mut self, slot: u8, keeps_table: bool, now_ns: u64) {
        let without = self.without;
        let own = usize::from(slot);
        if !self.nodes[own].gone {
            return;
        }
        let old = &mut self.nodes[own];
        let mut clock = old.clock;
        if !keeps_table {
            // A reboot, and a clock that begins anew.
            clock = Clock { since_ns: now_ns, shown_ns: 1_000_000_000, rate_ppm: clock.rate_ppm };
        }
        let life = old.incarnation + (1 << 32);
        let mut new = Node::new(clock, life, self.links);
        (new.floor, new.ceiling, new.lives) = (old.ceiling, old.ceiling, [0; NODES_MAX]);
        if keeps_table {
            self.counts.restarts += 1;
            new.table = std::mem::replace(&mut old.table, crate::node::Table::new());
            if without != Without::ClosedAtStart {
                lease::adopt_closed(&new.table);
            }
        } else {
            self.counts.reboots += 1;
            new.quiet_until_ns = clock.at(now_ns) + LEASE_NS / 4 * PROMISE_QUARTERS;
        }
        let lives: Vec<u64> = self.nodes.iter().map(|node| node.incarnation).collect();
        for (peer, life) in lives.iter().enumerate().filter(|(peer, _)| *peer != own) {
            new.accept(peer as u8, *life);
        }
        self.nodes[own] = new;
        self.say(now_ns, || format!("{slot} starts anew, table kept: {keeps_table}"));
        for peer in (0..self.nodes.len() as u8).filter(|peer| *peer != slot) {
            let most_ns = if self.hurried { INTERVAL_NS / 4 } else { 3 * INTERVAL_NS };
            let at = now_ns + self.rng.within(10_000, most_ns);
            self.at(at, What::Accept { at: peer, slot, life });
        }
    }
}

/// What a step of the daemon knows.
pub(crate) struct Daemon {
    local_ns: u64,
    not_before_ns: u64,
}

/// Words behind a pointer, so that one step serves both kinds of table.
pub(crate) trait DynWords {
    fn load_at(&self, at: usize) -> u64;
    fn store_at(&self, at: usize, value: u64);
    fn swap_at(&self, at: usize, old: u64, new: u64) -> bool;
}

struct Plain<'a, W>(&'a W);

impl<W: Words> DynWords for Plain<'_, W> {
    fn load_at(&self, at: usize) -> u64 {
        self.0.load(at)
    }

    fn store_at(&self, at: usize, value: u64) {
        self.0.store(at, value);
    }

    fn swap_at(&self, at: usize, old: u64, new: u64) -> bool {
        self.0.swap_if(at, old, new)
    }
}

impl Words for &dyn DynWords {
    fn load(&self, at: usize) -> u64 {
        self.load_at(at)
    }

    fn store(&self, at: usize, value: u64) {
        self.store_at(at, value);
    }

    fn swap_if(&self, at: usize, old: u64, new: u64) -> bool {
        self.swap_at(at, old, new)
    }
}
