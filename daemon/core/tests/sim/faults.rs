//! What goes wrong, and when: a scenario is drawn from a seed, and everything in it heals before its end.

use ringbeat_core::detector::LinkTimes;
use ringbeat_core::mutation::Mutation;

use crate::invariants::Promise;
use crate::kernel::Broken;
use crate::machine::{DAMPING, MS, Plan};
use crate::splitmix::SplitMix;
use crate::world::World;

/// One thing that goes wrong, or is mended.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The machine boots, or a daemon is started on it.
    Start { machine: usize },
    /// The host vanishes.
    Crash { machine: usize },
    /// Its disk is that of some lives ago.
    RollBack { machine: usize },
    /// The daemon is killed; its kernel lives on.
    Kill { machine: usize },
    /// The daemon is stopped.
    Pause { machine: usize },
    /// It goes on.
    Resume { machine: usize },
    /// The whole machine stands still.
    Freeze { machine: usize, for_ns: u64 },
    /// Frames no longer get through.
    Cut { from: usize, to: usize, links: Vec<usize> },
    /// They do again.
    Mend { from: usize, to: usize, links: Vec<usize> },
    /// An own link loses its carrier, or has it again.
    OwnLink { machine: usize, link: usize, up: bool },
    /// The machine announces that it leaves, and is then silent.
    Leave { machine: usize },
    /// All is mended, nothing is lost any more.
    Heal,
}

/// A world's plan.
#[derive(Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    pub(crate) loss_permille: u64,
    pub(crate) delay: (u64, u64),
    pub(crate) faults: Vec<(u64, Fault)>,
    pub(crate) has_adversary: bool,
    /// A second machine with this slot.
    pub(crate) duplicate_of: Option<u8>,
    pub(crate) end: u64,
    /// Prints what is told.
    pub(crate) is_loud: bool,
}

impl Scenario {
    /// The scenario of a seed.
    pub(crate) fn new(seed: u64, mutation: Mutation, broken: Broken) -> Self {
        let mut random = SplitMix::new(seed);
        let nodes = [2, 2, 3, 3, 3, 3, 3, 4, 5, 6][random.index(10)];
        let links = 1 + random.index(if nodes > 3 { 2 } else { 3 });
        let interval_ns = [5, 10, 10, 20][random.index(4)] * MS;
        let times = |link| LinkTimes { link, interval_ns, deadline_ns: 4 * interval_ns };
        let is_intact = mutation == Mutation::None && broken == Broken::Nothing;
        let plan = Plan {
            nodes,
            links: (0..links as u8).map(times).collect(),
            mutation,
            broken,
            is_recorded: is_intact && seed.is_multiple_of(16),
        };
        let least = random.within(20_000, MS);
        let mut scenario = Self {
            seed,
            plan,
            loss_permille: [0, 0, 0, 1, 10, 50, 200][random.index(7)],
            delay: (least, least + random.within(1000, 3 * MS)),
            faults: Vec::new(),
            has_adversary: random.permille(500),
            duplicate_of: random.permille(60).then(|| random.index(nodes) as u8),
            end: 0,
            is_loud: false,
        };
        let machines = nodes + usize::from(scenario.duplicate_of.is_some());
        for machine in 0..machines {
            scenario.faults.push((random.within(1, 200 * MS), Fault::Start { machine }));
        }
        if let Some(slot) = scenario.duplicate_of.filter(|_| random.permille(500)) {
            // The two do not hear one another at first, and take turns with the others.
            let links: Vec<usize> = (0..links).collect();
            scenario.cut(0, usize::from(slot), nodes, &links, true);
        }
        let mut heal = 600 * MS;
        for _ in 0..random.within(0, 6) {
            let from = random.within(600 * MS, 1800 * MS);
            heal = heal.max(scenario.add(from, &mut random));
        }
        scenario.faults.push((heal, Fault::Heal));
        // Three Hellos, the longest damping, two deadlines of it broken off, and some.
        scenario.end = heal + 700 * MS + DAMPING.max_ns + 12 * interval_ns;
        if scenario.duplicate_of.is_some() {
            scenario.end = scenario.end.max(heal + 2500 * MS);
        }
        scenario
    }

    /// Adds something that goes wrong at `from`; gives the time at which it is over.
    fn add(&mut self, from: u64, random: &mut SplitMix) -> u64 {
        let nodes = self.plan.nodes;
        let machine = random.index(nodes);
        let to = from + random.within(20 * MS, 900 * MS);
        let some_links = |random: &mut SplitMix, count: usize| {
            let mut links: Vec<usize> = (0..count).collect();
            if random.permille(500) {
                links = vec![random.index(count)];
            }
            links
        };
        let links = some_links(random, self.plan.links.len());
        let other = (machine + 1 + random.index(nodes - 1)) % nodes;
        let long = from + random.within(300 * MS, 900 * MS);
        match random.index(10) {
            0 | 1 => {
                self.faults.push((from, Fault::Crash { machine }));
                if random.permille(300) {
                    self.faults.push((long - 1, Fault::RollBack { machine }));
                }
                self.faults.push((long, Fault::Start { machine }));
                return long;
            }
            2 => {
                self.faults.push((from, Fault::Kill { machine }));
                self.faults.push((to, Fault::Start { machine }));
            }
            3 => {
                self.faults.push((from, Fault::Pause { machine }));
                self.faults.push((long, Fault::Resume { machine }));
                return long;
            }
            4 => {
                let for_ns = random.within(2 * MS, 300 * MS);
                self.faults.push((from, Fault::Freeze { machine, for_ns }));
                return from + for_ns;
            }
            5 => {
                for link in links {
                    self.faults.push((from, Fault::OwnLink { machine, link, up: false }));
                    self.faults.push((to, Fault::OwnLink { machine, link, up: true }));
                }
            }
            6 => {
                self.faults.push((from, Fault::Leave { machine }));
                self.faults.push((long, Fault::Start { machine }));
                return long;
            }
            7 => {
                // A link that flaps.
                let mut at = from;
                while at < to {
                    self.cut(at, machine, other, &links, true);
                    at += random.within(30 * MS, 200 * MS);
                    self.mend(at, machine, other, &links);
                    at += random.within(30 * MS, 300 * MS);
                }
                return at;
            }
            _ => {
                self.cut(from, machine, other, &links, random.permille(500));
                self.mend(to, machine, other, &links);
            }
        }
        to
    }

    fn cut(&mut self, at: u64, one: usize, other: usize, links: &[usize], both_ways: bool) {
        self.faults.push((at, Fault::Cut { from: one, to: other, links: links.to_vec() }));
        if both_ways {
            self.faults.push((at, Fault::Cut { from: other, to: one, links: links.to_vec() }));
        }
    }

    fn mend(&mut self, at: u64, one: usize, other: usize, links: &[usize]) {
        for (from, to) in [(one, other), (other, one)] {
            self.faults.push((at, Fault::Mend { from, to, links: links.to_vec() }));
        }
    }
}

impl World {
    /// Something goes wrong, or is mended; what must follow is promised.
    pub(crate) fn fault(&mut self, fault: &Fault) {
        match *fault {
            Fault::Start { machine } => self.start_anew(machine),
            Fault::Crash { machine } => {
                self.promise_silence(machine);
                self.touch(machine);
                self.kill(machine);
                self.machines[machine].kernel = None;
            }
            Fault::RollBack { machine } => {
                let subject = &mut self.machines[machine];
                subject.disk = subject.disk.saturating_sub(1 + subject.lives % 3);
            }
            Fault::Kill { machine } | Fault::Pause { machine } if self.machines[machine].daemon.is_none() => {
            }
            Fault::Kill { machine } => {
                self.promise_gone(machine);
                self.touch(machine);
                self.machines[machine].paused = false;
                self.kill(machine);
            }
            Fault::Pause { machine } => {
                self.promise_stalled(machine);
                self.touch(machine);
                self.machines[machine].paused = true;
            }
            Fault::Resume { machine } => self.resume(machine),
            Fault::Freeze { machine, for_ns } => {
                self.touch(machine);
                let subject = &mut self.machines[machine];
                subject.frozen_until = subject.frozen_until.max(self.now + for_ns);
                subject.halted = Some(subject.frozen_until);
            }
            Fault::Cut { from, to, ref links } => {
                for link in links {
                    self.set_path(from, to, *link, true);
                }
                self.promise_isolated(from, to);
            }
            Fault::Mend { from, to, ref links } => {
                links.iter().for_each(|link| self.set_path(from, to, *link, false));
            }
            Fault::OwnLink { machine, link, up } => self.set_own_link(machine, link, up),
            Fault::Leave { machine } => {
                // Both are one step here: the last frames that say so may be lost, or the machine be down before.
                self.touch(machine);
                self.machines[machine].leave();
                let at = self.now + 150 * MS;
                let incarnation = self.machines[machine].incarnation();
                self.judge.leaving.insert(incarnation);
                self.promise(at, Promise::Close { machine, incarnation });
            }
            Fault::Heal => self.heal(),
        }
    }

    fn touch(&mut self, machine: usize) {
        let subject = &mut self.machines[machine];
        subject.touched = self.now;
        subject.halted = Some(self.now);
    }

    fn start_anew(&mut self, machine: usize) {
        if self.machines[machine].daemon.is_none() {
            self.touch(machine);
            self.start(machine);
        }
    }

    fn resume(&mut self, machine: usize) {
        if self.machines[machine].paused {
            self.touch(machine);
            self.machines[machine].paused = false;
            self.wake_now(machine);
        }
    }

    fn heal(&mut self) {
        self.scenario.loss_permille = 0;
        let cut: Vec<_> = self.paths.keys().copied().collect();
        for (from, to, link) in cut {
            self.set_path(from, to, link, false);
        }
        for machine in 0..self.machines.len() {
            for link in 0..self.scenario.plan.links.len() {
                self.set_own_link(machine, link, true);
            }
            self.resume(machine);
            self.start_anew(machine);
        }
    }
}
