//! A world of machines and wires: one queue of what happens when, and chance from one seed.
//!
//! Deliberately not there: bytes, keys and addresses. A frame arrives whole or not at all; that forged ones are dropped is
//! the kernel's business, and tested there. The adversary has what it has seen delivered, and sends it again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use ringbeat_common::frame::{Frame, Kind};

use crate::faults::{Fault, Scenario};
use crate::invariants::{Judge, Promise};
use crate::machine::{Effect, LOOP_NS, MS, Machine};
use crate::splitmix::SplitMix;

/// The kernel's event or a frame wakes the main loop after at most this.
pub(crate) const WAKE_MAX_NS: u64 = 2 * MS;
/// A daemon's death is in the latch after at most this.
pub(crate) const LATCH_MAX_NS: u64 = MS / 2;
const KEPT_BY_ADVERSARY: usize = 200;

/// A frame on a wire, and what the world knows of it beyond its words.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) frame: Frame,
    pub(crate) sent: u64,
    /// When the frame left the target that this one is an echo of, and in which life of it.
    pub(crate) echo: Option<(u64, u64)>,
    /// The machine whose delivery the adversary saw.
    pub(crate) replay_to: Option<usize>,
}

#[derive(Debug)]
enum What {
    Beat { machine: usize, life: u64 },
    Tick { machine: usize, incarnation: u64 },
    Wake { machine: usize },
    Deliver { machine: usize, packet: Box<Packet> },
    Latch { machine: usize, life: u64 },
    Notice { machine: usize, life: u64, link: usize },
    Adversary,
    Fault(Fault),
    Promise(Promise),
}

/// The two directions between two machines on a link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Path {
    pub(crate) is_cut: bool,
    /// The last time at which it was cut or mended.
    pub(crate) touched: u64,
}

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) machines: Vec<Machine>,
    pub(crate) paths: BTreeMap<(usize, usize, usize), Path>,
    pub(crate) now: u64,
    pub(crate) judge: Judge,
    /// When a machine last had, from a slot on a link, a frame; and in which life of the sender it had left.
    pub(crate) had: BTreeMap<(usize, usize, u8), (u64, u64)>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: BTreeMap<u64, What>,
    count: u64,
    random: SplitMix,
    heap_of_adversary: Vec<Packet>,
}

impl World {
    /// The world of a scenario, from its beginning to its end; what was found wrong is in its judge.
    pub(crate) fn run(scenario: &Scenario) -> Self {
        let mut random = SplitMix::new(scenario.seed ^ 0x5eed);
        let mut machines: Vec<Machine> = Vec::new();
        for slot in 0..scenario.plan.nodes as u8 {
            machines.push(Machine::new(slot, scenario.plan.links.len(), &mut random));
        }
        if let Some(slot) = scenario.duplicate_of {
            machines.push(Machine::new(slot, scenario.plan.links.len(), &mut random));
        }
        let mut world = Self {
            scenario: scenario.clone(),
            machines,
            paths: BTreeMap::new(),
            now: 0,
            judge: Judge::default(),
            had: BTreeMap::new(),
            queue: BinaryHeap::new(),
            waiting: BTreeMap::new(),
            count: 0,
            random,
            heap_of_adversary: Vec::new(),
        };
        for (at, fault) in scenario.faults.clone() {
            world.at(at, What::Fault(fault));
        }
        if scenario.has_adversary {
            world.at(MS, What::Adversary);
        }
        world.live();
        world.judge_end();
        world
    }

    fn live(&mut self) {
        while let Some(Reverse((at, count))) = self.queue.pop() {
            let Some(what) = self.waiting.remove(&count) else { continue };
            if at > self.scenario.end || self.judge.has_objection() {
                break;
            }
            self.now = at;
            self.happen(what);
        }
        self.now = self.scenario.end;
    }

    fn at(&mut self, at: u64, what: What) {
        self.count += 1;
        self.queue.push(Reverse((at, self.count)));
        self.waiting.insert(self.count, what);
    }

    pub(crate) fn promise(&mut self, at: u64, promise: Promise) {
        self.at(at, What::Promise(promise));
    }

    fn happen(&mut self, what: What) {
        let subject = match &what {
            What::Beat { machine, .. }
            | What::Tick { machine, .. }
            | What::Wake { machine }
            | What::Deliver { machine, .. }
            | What::Notice { machine, .. } => Some(*machine),
            What::Latch { .. } | What::Adversary | What::Fault(_) | What::Promise(_) => None,
        };
        if let Some(frozen_until) = subject.map(|machine| self.machines[machine].frozen_until)
            && frozen_until > self.now
        {
            // A processor that stands still does it all afterwards, in whatever order.
            let after = frozen_until + self.random.within(1, 200_000);
            if let What::Wake { machine } = what {
                if self.machines[machine].wake_at != Some(self.now) {
                    return;
                }
                self.machines[machine].wake_at = Some(after);
            }
            self.at(after, what);
            return;
        }
        match what {
            What::Beat { machine, life } => self.beat(machine, life),
            What::Tick { machine, incarnation } => self.tick(machine, incarnation),
            What::Wake { machine } => {
                let subject = &self.machines[machine];
                if subject.wake_at == Some(self.now) && subject.daemon.is_some() && !subject.paused {
                    let effects = self.machines[machine].wake(&self.scenario.plan, self.now);
                    self.carry_out(machine, effects);
                }
            }
            What::Deliver { machine, packet } => self.deliver(machine, *packet),
            What::Latch { machine, life } => {
                if self.machines[machine].lives == life {
                    self.machines[machine].obituary(self.now);
                }
            }
            What::Notice { machine, life, link } => {
                // As it is by now: notices do not overtake one another.
                let subject = &mut self.machines[machine];
                let up = subject.own_links[link];
                if let Some(daemon) = subject.daemon.as_mut().filter(|_| subject.lives == life) {
                    daemon.notices.push_back((link as u8, up));
                    self.wake_soon(machine);
                }
            }
            What::Adversary => self.adversary(),
            What::Fault(fault) => self.fault(&fault),
            What::Promise(promise) => self.keep(&promise),
        }
    }

    /// A daemon's probe thread: a probe to every peer on every link.
    fn beat(&mut self, machine: usize, life: u64) {
        let subject = &mut self.machines[machine];
        if subject.lives != life || subject.daemon.is_none() {
            return;
        }
        let interval_ns = self.scenario.plan.links[0].interval_ns;
        self.at(self.now + interval_ns, What::Beat { machine, life });
        if self.machines[machine].paused {
            return;
        }
        let local_ns = self.machines[machine].local(self.now);
        let own = self.machines[machine].slot;
        for link in 0..self.scenario.plan.links.len() {
            for target in (0..self.scenario.plan.nodes as u8).filter(|target| *target != own) {
                let Some(kernel) = &mut self.machines[machine].kernel else { continue };
                if let Some(frame) = kernel.probe(link, target, local_ns) {
                    let echo = self.had.get(&(machine, link, target)).copied();
                    self.send(machine, link, false, target, frame, echo);
                }
            }
        }
    }

    fn tick(&mut self, machine: usize, incarnation: u64) {
        let local_ns = self.machines[machine].local(self.now);
        let subject = &mut self.machines[machine];
        let Some(kernel) = subject.kernel.as_mut().filter(|kernel| kernel.node.incarnation == incarnation)
        else {
            return;
        };
        kernel.tick(local_ns);
        let (next_ns, has_events) = (kernel.next_ns, !kernel.events.is_empty());
        let next = subject.truth(next_ns).max(self.now + 1);
        self.at(next, What::Tick { machine, incarnation });
        if has_events {
            self.wake_soon(machine);
        }
    }

    fn wake_soon(&mut self, machine: usize) {
        let at = self.now + self.random.within(20_000, WAKE_MAX_NS);
        let subject = &mut self.machines[machine];
        if subject.daemon.is_some() && subject.wake_at.is_none_or(|wake_at| wake_at > at) {
            subject.wake_at = Some(at);
            self.at(at, What::Wake { machine });
        }
    }

    fn send(
        &mut self,
        from: usize,
        link: usize,
        broadcast: bool,
        target: u8,
        frame: Frame,
        echo: Option<(u64, u64)>,
    ) {
        let packet = Packet { frame, sent: self.now, echo, replay_to: None };
        let mut targets: Vec<usize> = (0..self.machines.len()).filter(|to| *to != from).collect();
        if !broadcast {
            // Two machines with one address: the switch has learnt the one or the other.
            targets.retain(|to| self.machines[*to].slot == target);
            while targets.len() > 1 {
                let lost = self.random.index(targets.len());
                targets.swap_remove(lost);
            }
        }
        for to in targets {
            let is_lost = self.random.permille(self.scenario.loss_permille);
            let is_cut = self.paths.get(&(from, to, link)).is_some_and(|path| path.is_cut);
            if is_lost || is_cut || !self.machines[from].own_links[link] {
                continue;
            }
            let (least, most) = self.scenario.delay;
            let at = self.now + self.random.within(least, most);
            self.at(at, What::Deliver { machine: to, packet: Box::new(packet.clone()) });
        }
    }

    fn deliver(&mut self, machine: usize, packet: Packet) {
        let frame = packet.frame;
        let link = usize::from(frame.link());
        let local_ns = self.machines[machine].local(self.now);
        if !self.machines[machine].own_links[link] && packet.replay_to.is_none() {
            return;
        }
        let subject = &mut self.machines[machine];
        let Some(kernel) = subject.kernel.as_mut() else { return };
        if u64::from(frame.target()) != kernel.node.slot {
            return;
        }
        let is_heartbeat = frame.kind() == Kind::Probe as u8 || frame.kind() == Kind::Answer as u8;
        if !is_heartbeat {
            if let Some(daemon) = &mut subject.daemon {
                daemon.inbox.push_back((frame, packet.replay_to.is_some()));
                self.wake_soon(machine);
            }
            self.overhear(machine, packet);
            return;
        }
        let taken = kernel.receive(&frame, local_ns);
        let has_events = !kernel.events.is_empty();
        let proves = taken.as_ref().ok().map(|(proves, _)| *proves);
        self.judge_frame(machine, &packet, proves);
        if has_events {
            self.wake_soon(machine);
        }
        if let Ok((_, Some(answer))) = taken {
            let echo = Some((packet.sent, frame.incarnation()));
            self.send(machine, link, false, frame.sender(), answer, echo);
        }
        self.overhear(machine, packet);
    }

    /// The adversary keeps what it has seen arrive.
    fn overhear(&mut self, machine: usize, packet: Packet) {
        if !self.scenario.has_adversary || packet.replay_to.is_some() || !self.random.permille(50) {
            return;
        }
        let packet = Packet { replay_to: Some(machine), ..packet };
        if self.heap_of_adversary.len() < KEPT_BY_ADVERSARY {
            self.heap_of_adversary.push(packet);
        } else {
            let at = self.random.index(KEPT_BY_ADVERSARY);
            self.heap_of_adversary[at] = packet;
        }
    }

    /// Sends something again, to the machine that had it, whatever is cut.
    fn adversary(&mut self) {
        let next = self.now + self.random.within(MS, 10 * MS);
        self.at(next, What::Adversary);
        if self.heap_of_adversary.is_empty() {
            return;
        }
        let packet = self.heap_of_adversary[self.random.index(self.heap_of_adversary.len())].clone();
        if let Some(machine) = packet.replay_to {
            self.at(self.now + 1, What::Deliver { machine, packet: Box::new(packet) });
        }
    }

    fn carry_out(&mut self, machine: usize, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Send { link, broadcast, target, frame } = effect {
                self.send(machine, link, broadcast, target, frame, None);
            } else {
                self.judge_effect(machine, &effect);
            }
        }
        if let Some(at) = self.machines[machine].wake_at {
            self.at(at, What::Wake { machine });
        }
    }

    pub(crate) fn start(&mut self, machine: usize) {
        if self.machines[machine].daemon.is_some() {
            return;
        }
        self.judge.begin_life(machine);
        let effects = self.machines[machine].start(&self.scenario.plan, self.now);
        let (life, incarnation) = (self.machines[machine].lives, self.machines[machine].incarnation());
        self.carry_out(machine, effects);
        let interval_ns = self.scenario.plan.links[0].interval_ns;
        let beat = self.now + self.random.within(1, interval_ns);
        self.at(beat, What::Beat { machine, life });
        self.at(self.now + MS, What::Tick { machine, incarnation });
    }

    /// The daemon is no more; its kernel notices.
    pub(crate) fn kill(&mut self, machine: usize) {
        if self.machines[machine].daemon.take().is_some() {
            let life = self.machines[machine].lives;
            self.machines[machine].wake_at = None;
            self.judge.killed.insert(self.machines[machine].incarnation());
            let at = self.now + self.random.within(1, LATCH_MAX_NS);
            self.at(at, What::Latch { machine, life });
        }
    }

    /// A paused or frozen daemon goes on.
    pub(crate) fn wake_now(&mut self, machine: usize) {
        self.machines[machine].wake_at = Some(self.now + 1);
        self.at(self.now + 1, What::Wake { machine });
    }

    /// An own link changes; the daemon hears of it a little later.
    pub(crate) fn set_own_link(&mut self, machine: usize, link: usize, up: bool) {
        let subject = &mut self.machines[machine];
        if subject.own_links[link] == up {
            return;
        }
        subject.own_links[link] = up;
        subject.touched = self.now;
        let life = subject.lives;
        let at = self.now + self.random.within(1, 3 * MS);
        self.at(at, What::Notice { machine, life, link });
    }

    pub(crate) fn set_path(&mut self, from: usize, to: usize, link: usize, is_cut: bool) {
        let path = self.paths.entry((from, to, link)).or_default();
        if path.is_cut != is_cut {
            *path = Path { is_cut, touched: self.now };
        }
    }

    /// How late after an event of the kernel its machine has told it, at most.
    pub(crate) fn slack(&self) -> u64 {
        WAKE_MAX_NS + LOOP_NS + MS
    }
}
