//! One history: rings, a network that does what networks do, and an adversary who picks views.
//!
//! The adversary keeps to the rule of views and to nothing else: a node announces rising views only, and installs the one
//! that it announced last, once all its members have announced it. Who is in a view need not make sense.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use ringbeat_common::view::View;
use ringbeat_core::mutation::Mutation;
use ringbeat_core::srp::{Input, Output, Params, Ring};

use crate::judge::{Body, Log, Told};
use crate::splitmix::SplitMix;

pub(crate) const US: u64 = 1000;
pub(crate) const MS: u64 = 1_000_000;
/// Bytes of a packet's payload.
const PAYLOAD: usize = 1300;
/// A node that does not know a view cannot miss it for longer, once the network is calm.
const AGAIN_NS: u64 = 60 * MS;
/// The last rotations of the token take no longer in the calm, one that is sent anew among them.
const SETTLED_NS: u64 = 60 * MS;
/// A message of a test, at the most.
const BODY_MAX: u64 = 6000;

/// What a history is like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: u8,
    /// For how long there is trouble.
    pub(crate) trouble_ns: u64,
    /// For how long there is none, afterwards.
    pub(crate) calm_ns: u64,
    pub(crate) loss_permille: u64,
    pub(crate) twice_permille: u64,
    pub(crate) late_permille: u64,
    /// Between two deeds of the adversary, about.
    pub(crate) deed_ns: u64,
    /// The longest between two steps of a view.
    pub(crate) step_ns: u64,
    pub(crate) safe_permille: u64,
    /// Of a thousand deeds: views, crashes, pauses, cuts; the others are messages.
    pub(crate) views: u64,
    pub(crate) crashes: u64,
    pub(crate) pauses: u64,
    pub(crate) cuts: u64,
    /// Of a thousand times that a node has installed a view, those in which the others never come to it.
    pub(crate) snatches: u64,
}

impl Plan {
    pub(crate) fn new(dice: &mut SplitMix) -> Self {
        let often =
            |dice: &mut SplitMix, most: u64| if dice.permille(400) { 0 } else { dice.within(0, most) };
        Self {
            nodes: if dice.permille(50) { 9 } else { dice.within(2, 6) as u8 },
            trouble_ns: dice.within(20, 120) * MS,
            calm_ns: 4000 * MS,
            loss_permille: often(dice, 120),
            twice_permille: often(dice, 60),
            late_permille: often(dice, 60),
            deed_ns: dice.within(20, 400) * US,
            step_ns: dice.within(50, 4000) * US,
            safe_permille: dice.within(0, 600),
            views: dice.within(4, 40),
            crashes: often(dice, 4),
            pauses: often(dice, 8),
            cuts: often(dice, 12),
            snatches: often(dice, 200),
        }
    }
}

/// A view that somebody has thought of.
struct Proposal {
    view: View,
    /// Who has announced it, and in which life.
    announced: Vec<Option<u32>>,
    all: bool,
}

struct Node {
    life: u32,
    ring: Ring,
    announced: View,
    installed: View,
    paused_until: u64,
    submitted: u32,
    log: usize,
    is_alive: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Frame { from: u8, life: u32, to: u8, bytes: Vec<u8> },
    Deed,
    Announce { proposal: usize, slot: u8 },
    Install { proposal: usize, slot: u8 },
    Restart { slot: u8 },
    Look,
}

/// The history.
pub(crate) struct World {
    plan: Plan,
    mutation: Mutation,
    dice: SplitMix,
    now_ns: u64,
    number: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    nodes: Vec<Node>,
    proposals: Vec<Proposal>,
    /// For each sender, who does not hear it.
    deaf: Vec<u64>,
    epoch: u64,
    is_calm: bool,
    /// When the last view of all was proposed in the calm.
    asked_ns: u64,
    /// Since when nobody has had to wait for anything.
    together_ns: Option<u64>,
    pub(crate) logs: Vec<Log>,
    pub(crate) lost: u64,
    pub(crate) frames: u64,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) wrong: Option<String>,
}

impl World {
    pub(crate) fn new(plan: Plan, mutation: Mutation, dice: SplitMix) -> Self {
        let mut world = Self {
            mutation,
            dice,
            now_ns: MS,
            number: 0,
            events: BinaryHeap::new(),
            nodes: Vec::new(),
            proposals: Vec::new(),
            deaf: vec![0; usize::from(plan.nodes)],
            epoch: 0,
            is_calm: false,
            asked_ns: 0,
            together_ns: None,
            logs: Vec::new(),
            lost: 0,
            frames: 0,
            trace: None,
            wrong: None,
            plan,
        };
        for slot in 0..world.plan.nodes {
            let node = world.born(slot, 1);
            world.nodes.push(node);
        }
        world
    }

    fn born(&mut self, slot: u8, life: u32) -> Node {
        self.logs.push(Log { slot, life, told: Vec::new(), submits: Vec::new(), has_crashed: false });
        Node {
            life,
            ring: Ring::mutated(slot, Params::with_token(5 * MS, 100 * MS, PAYLOAD), self.mutation),
            announced: View::NONE,
            installed: View::NONE,
            paused_until: 0,
            submitted: 0,
            log: self.logs.len() - 1,
            is_alive: true,
        }
    }

    /// Runs it; what is wrong at its end, if the nodes do not come together.
    pub(crate) fn run(&mut self) -> Option<String> {
        let (trouble_ns, end_ns) =
            (self.now_ns + self.plan.trouble_ns, self.now_ns + self.plan.trouble_ns + self.plan.calm_ns);
        self.propose(self.everyone());
        self.plan_event(self.plan.deed_ns, Event::Deed);
        loop {
            let event_ns = self.events.peek().map_or(u64::MAX, |event| event.0.0);
            let timer = self.next_timer();
            let next_ns = timer.map_or(event_ns, |(at, _)| at.min(event_ns)).max(self.now_ns);
            if !self.is_calm && next_ns >= trouble_ns {
                self.now_ns = trouble_ns;
                self.calm_down();
                continue;
            }
            if next_ns >= end_ns {
                return self.apart();
            }
            self.now_ns = next_ns;
            if self.is_calm && self.events.len() <= 1 && self.apart().is_none() {
                // All have their own messages; what is safe somebody may still wait for, if a token is on its way anew.
                let since_ns = *self.together_ns.get_or_insert(self.now_ns);
                if self.now_ns >= since_ns + SETTLED_NS {
                    return None;
                }
            }
            match timer {
                Some((at, slot)) if at <= event_ns => self.give(slot, Input::Timeout),
                _ => {
                    let Some(Reverse((_, _, event))) = self.events.pop() else { return self.apart() };
                    self.happen(event);
                }
            }
        }
    }

    /// The first timer of a node that runs.
    fn next_timer(&self) -> Option<(u64, u8)> {
        let timers = self.nodes.iter().enumerate().filter(|(_, node)| node.is_alive);
        timers
            .filter_map(|(slot, node)| Some((node.ring.next_timeout()?.max(node.paused_until), slot as u8)))
            .min()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Frame { from, life, to, bytes } => self.arrive(from, life, to, bytes),
            Event::Deed => self.deed(),
            Event::Announce { proposal, slot } => self.announce(proposal, slot),
            Event::Install { proposal, slot } => self.install(proposal, slot),
            Event::Restart { slot } => self.restart(slot),
            Event::Look => self.look(),
        }
    }

    fn arrive(&mut self, from: u8, life: u32, to: u8, bytes: Vec<u8>) {
        let node = &self.nodes[usize::from(to)];
        if !node.is_alive {
            return;
        }
        if node.paused_until > self.now_ns {
            let wait_ns = node.paused_until - self.now_ns;
            self.plan_event(wait_ns, Event::Frame { from, life, to, bytes });
            return;
        }
        // A frame of a life that is over is not opened once the next one is there.
        if self.nodes[usize::from(from)].life == life {
            self.give(to, Input::Frame { from, bytes: bytes.into() });
        }
    }

    fn deed(&mut self) {
        if self.is_calm {
            return;
        }
        let slot = self.dice.index(self.nodes.len()) as u8;
        let Plan { views, crashes, pauses, cuts, .. } = self.plan;
        let deed = self.dice.within(0, 1000);
        if deed < views {
            let members = self.some();
            self.propose(members);
        } else if deed < views + crashes {
            self.crash(slot);
        } else if deed < views + crashes + pauses {
            self.nodes[usize::from(slot)].paused_until = self.now_ns + self.dice.within(1, 150) * MS;
            self.note(|| format!("{slot} stands still"));
        } else if deed < views + crashes + pauses + cuts {
            self.cut(slot);
        } else {
            self.submit(slot);
        }
        let wait_ns = self.dice.within(1, 2 * self.plan.deed_ns);
        self.plan_event(wait_ns, Event::Deed);
    }

    fn crash(&mut self, slot: u8) {
        let node = &mut self.nodes[usize::from(slot)];
        if !node.is_alive {
            return;
        }
        node.is_alive = false;
        self.logs[node.log].has_crashed = true;
        self.note(|| format!("{slot} crashes"));
        let wait_ns = self.dice.within(1, 40 * MS);
        self.plan_event(wait_ns, Event::Restart { slot });
    }

    fn restart(&mut self, slot: u8) {
        let life = self.nodes[usize::from(slot)].life + 1;
        self.nodes[usize::from(slot)] = self.born(slot, life);
        self.note(|| format!("{slot} is back, life {life}"));
    }

    fn cut(&mut self, slot: u8) {
        match self.dice.within(0, 4) {
            0 => self.deaf.fill(0),
            1 => self.deaf[usize::from(slot)] = self.dice.next(),
            2 => self.deaf[usize::from(slot)] |= 1 << self.dice.index(self.nodes.len()),
            _ => {
                let side = self.dice.next();
                for (slot, deaf) in self.deaf.iter_mut().enumerate() {
                    *deaf = if side >> slot & 1 == 0 { side } else { !side };
                }
            }
        }
        let deaf = self.deaf.clone();
        self.note(|| format!("unheard: {deaf:x?}"));
    }

    fn submit(&mut self, slot: u8) {
        let length =
            if self.dice.permille(800) { self.dice.within(0, 300) } else { self.dice.within(0, BODY_MAX) };
        let safe = self.dice.permille(self.plan.safe_permille);
        let now_ns = self.now_ns;
        let node = &mut self.nodes[usize::from(slot)];
        if !node.is_alive || node.paused_until > now_ns {
            return;
        }
        let body = Body { slot, life: node.life, counter: node.submitted, safe };
        if node.ring.submit(body.to_bytes(length as usize), safe, now_ns).is_ok() {
            node.submitted += 1;
            let log = &mut self.logs[node.log];
            log.submits.push(log.told.len());
        }
        self.drain(slot);
    }

    fn everyone(&self) -> u64 {
        self.nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.is_alive)
            .fold(0, |set, (slot, _)| set | 1 << slot)
    }

    /// All, those who hear one of them, or any.
    fn some(&mut self) -> u64 {
        let everyone = self.everyone();
        let one = self.dice.index(self.nodes.len());
        match self.dice.within(0, 3) {
            0 => everyone,
            1 => everyone & !self.deaf[one] | 1 << one,
            _ => self.dice.next() & everyone,
        }
    }

    /// Members hear of a view, sooner or later, most of them.
    fn propose(&mut self, members: u64) {
        if members == 0 {
            return;
        }
        // Now and then two nodes have the same number in mind.
        if self.dice.permille(900) || self.epoch == 0 {
            self.epoch += 1;
        }
        let candidates: Vec<u8> = (0..64).filter(|slot| members >> slot & 1 == 1).collect();
        let proposer = candidates[self.dice.index(candidates.len())];
        let view = View::new(self.epoch, proposer, members, 5000, 1);
        if self
            .proposals
            .iter()
            .any(|proposal| proposal.view.epoch == view.epoch && proposal.view.proposer() == proposer)
        {
            return;
        }
        self.note(|| format!("proposed: {view:?}"));
        self.proposals.push(Proposal { view, announced: vec![None; self.nodes.len()], all: false });
        let proposal = self.proposals.len() - 1;
        for slot in candidates {
            if self.is_calm || self.dice.permille(970) {
                let wait_ns = self.dice.within(1, self.plan.step_ns);
                self.plan_event(wait_ns, Event::Announce { proposal, slot });
            }
        }
    }

    fn announce(&mut self, proposal: usize, slot: u8) {
        let view = self.proposals[proposal].view;
        let node = &mut self.nodes[usize::from(slot)];
        if !node.is_alive || node.announced >= view {
            return;
        }
        node.announced = view;
        self.proposals[proposal].announced[usize::from(slot)] = Some(node.life);
        self.give(slot, Input::Freeze);
        let lives = |slot: usize| Some(self.nodes[slot].life);
        let of = &self.proposals[proposal];
        let all =
            (0..self.nodes.len()).all(|slot| !view.has(slot as u8) || of.announced[slot] == lives(slot));
        if all && !of.all {
            self.proposals[proposal].all = true;
            for slot in (0..self.plan.nodes).filter(|slot| view.has(*slot)) {
                if self.is_calm || self.dice.permille(970) {
                    let wait_ns = self.dice.within(1, self.plan.step_ns);
                    self.plan_event(wait_ns, Event::Install { proposal, slot });
                }
            }
        }
    }

    fn install(&mut self, proposal: usize, slot: u8) {
        let of = &self.proposals[proposal];
        let node = &mut self.nodes[usize::from(slot)];
        let is_the_same = of.announced[usize::from(slot)] == Some(node.life);
        if node.is_alive && is_the_same && node.announced == of.view && node.installed < of.view {
            let view = of.view;
            node.installed = view;
            self.note(|| format!("{slot} installs {}.{}", view.epoch, view.proposer()));
            self.give(slot, Input::Form { view });
        }
    }

    /// Nothing goes wrong from here on, and everybody is there.
    fn calm_down(&mut self) {
        self.is_calm = true;
        self.deaf.fill(0);
        (self.plan.loss_permille, self.plan.late_permille, self.plan.twice_permille) = (0, 0, 0);
        for slot in 0..self.plan.nodes {
            let node = &mut self.nodes[usize::from(slot)];
            node.paused_until = 0;
            if !node.is_alive {
                self.restart(slot);
            }
        }
        self.events.retain(|event| !matches!(event.0.2, Event::Restart { .. }));
        self.note(|| "calm".to_owned());
        self.look();
    }

    /// Somebody looks whether all are together, and proposes it if not.
    fn look(&mut self) {
        if self.apart().is_some() && self.now_ns >= self.asked_ns + AGAIN_NS && self.is_turning().is_none() {
            self.asked_ns = self.now_ns;
            self.epoch += 1;
            self.propose(self.everyone());
        }
        self.plan_event(10 * MS, Event::Look);
    }

    /// The ring of all that is there and only has to finish.
    fn is_turning(&self) -> Option<View> {
        let view = self.nodes[0].ring.view();
        let all = |node: &Node| node.ring.is_operational() && node.ring.view() == view;
        (view.members == self.everyone() && self.nodes.iter().all(all)).then_some(view)
    }

    /// Why the nodes are not together.
    fn apart(&self) -> Option<String> {
        if self.is_turning().is_none() {
            let views = self.nodes.iter().map(|node| (node.ring.is_operational(), node.ring.view().epoch));
            return Some(format!("the nodes do not come together: {:?}", views.collect::<Vec<_>>()));
        }
        let waits = self.nodes.iter().any(|node| {
            let log = &self.logs[node.log];
            node.ring.backlog() > 0 || log.own() < node.submitted
        });
        waits.then(|| "messages are not delivered".to_owned())
    }

    fn give(&mut self, slot: u8, input: Input) {
        let now_ns = self.now_ns;
        self.nodes[usize::from(slot)].ring.handle(input, now_ns);
        self.drain(slot);
    }

    fn drain(&mut self, slot: u8) {
        while let Some(output) = self.nodes[usize::from(slot)].ring.poll_output() {
            let log = self.nodes[usize::from(slot)].log;
            match output {
                Output::Send { to, bytes } => self.send(slot, to, &bytes),
                Output::Deliver { from, bytes } => {
                    let body = Body::from_bytes(&bytes);
                    self.note(|| format!("{slot} delivers {body:?} of {from}"));
                    self.logs[log].told.push(Told::Message { from, body });
                }
                Output::Transitional { members } => {
                    self.note(|| format!("{slot} is transitional with {members:b}"));
                    self.logs[log].told.push(Told::Transitional(members));
                }
                Output::Regular { view } => {
                    self.note(|| {
                        format!("{slot} is in {}.{} {:b}", view.epoch, view.proposer(), view.members)
                    });
                    self.logs[log].told.push(Told::Regular(view));
                    self.snatch(slot, view);
                }
                Output::Lost { view } => {
                    self.lost += 1;
                    self.note(|| format!("{slot} has lost {}.{}", view.epoch, view.proposer()));
                    if !self.is_calm {
                        self.propose(view.members & self.everyone());
                    }
                }
            }
        }
    }

    /// The first one has just come into a view: another one, which is about to, finds itself alone.
    fn snatch(&mut self, first: u8, view: View) {
        if self.is_calm || !self.dice.permille(self.plan.snatches) {
            return;
        }
        let late = |slot: &u8| {
            let node = &self.nodes[usize::from(*slot)];
            view.has(*slot) && *slot != first && node.is_alive && node.ring.view() < view
        };
        let Some(slot) = (0..self.plan.nodes).find(late) else { return };
        self.epoch += 1;
        let alone = View::new(self.epoch, slot, 1 << slot, 5000, 1);
        self.note(|| format!("{slot} is snatched away"));
        self.proposals.push(Proposal { view: alone, announced: vec![None; self.nodes.len()], all: false });
        let node = &mut self.nodes[usize::from(slot)];
        (node.announced, node.installed) = (alone, alone);
        self.give(slot, Input::Freeze);
        self.give(slot, Input::Form { view: alone });
    }

    fn send(&mut self, from: u8, to: u64, bytes: &Bytes) {
        if bytes.len() > PAYLOAD + 48 {
            self.wrong = Some(format!("{} bytes do not fit a frame", bytes.len()));
        }
        let life = self.nodes[usize::from(from)].life;
        for to in (0..self.plan.nodes).filter(|slot| to >> slot & 1 == 1) {
            self.frames += 1;
            if self.deaf[usize::from(from)] >> to & 1 == 1 || self.dice.permille(self.plan.loss_permille) {
                continue;
            }
            let times = 1 + u64::from(self.dice.permille(self.plan.twice_permille));
            for _ in 0..times {
                let late = self.dice.permille(self.plan.late_permille);
                let wait_ns =
                    if late { self.dice.within(0, 8 * MS) } else { self.dice.within(20 * US, 60 * US) };
                self.plan_event(wait_ns, Event::Frame { from, life, to, bytes: bytes.to_vec() });
            }
        }
    }

    fn plan_event(&mut self, wait_ns: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now_ns + wait_ns, self.number, event)));
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let now_ns = self.now_ns;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} ms  {}", now_ns as f64 / 1e6, text()));
        }
    }
}
