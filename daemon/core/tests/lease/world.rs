//! One history: nodes, wires and the true time; and the property, looked at after everything that happens.
//!
//! A gate opens only by something that happens on its node: a change of its table, or a time from which the own votes
//! are enough, which is made to happen. So two gates that are ever open together are open together right after an
//! event, and an end that equals a beginning is no overlap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ringbeat_common::frame::Frame;
use ringbeat_common::lease;
use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::maps::{Latch, Node as Door, latch};
use ringbeat_common::slot::Slot;
use ringbeat_common::view::View;

use crate::clock::Skewed;
use crate::daemon::Daemon;
use crate::kernel::Run;
use crate::plan::{INTERVAL_NS, Mutation, Plan, RESOURCES_MAX};
use crate::splitmix::SplitMix;
use crate::table::{Functions, Table};
use crate::tally::{Met, Tally};

/// No node.
pub(crate) const NOBODY: u8 = u8::MAX;

/// A view with its owners, as somebody proposed it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposal {
    pub(crate) view: View,
    pub(crate) owners: [u8; RESOURCES_MAX],
}

impl Proposal {
    /// The gates of what it gives to `node`.
    pub(crate) fn owned(&self, node: usize) -> u64 {
        (0..RESOURCES_MAX).filter(|at| usize::from(self.owners[*at]) == node).fold(0, |set, at| set | 1 << at)
    }
}

/// What happens at a time.
pub(crate) enum Happening {
    /// The beat of a node's probes on a link.
    Beat {
        node: usize,
        link: usize,
    },
    Frame {
        to: usize,
        link: usize,
        frame: Frame,
    },
    /// A program's run goes on.
    Run(Box<Run>),
    /// A daemon's call goes on.
    Call {
        node: usize,
        life: u64,
    },
    /// A daemon of this life has announced a proposal.
    Told {
        to: usize,
        from: usize,
        life: u64,
        proposal: usize,
    },
    /// The handshake of two nodes is done: `node` accepts the present life of `peer`.
    Accept {
        node: usize,
        peer: usize,
    },
    /// A daemon starts.
    Start {
        node: usize,
        boot: u32,
    },
    /// Nothing but a look.
    Look {
        node: usize,
    },
    Fault,
    Propose {
        again: bool,
    },
}

/// A node: what survives a daemon, and the daemon.
pub(crate) struct Node {
    pub(crate) table: Box<Table>,
    pub(crate) latch: Latch,
    pub(crate) door: Door,
    pub(crate) slots: Vec<Slot>,
    pub(crate) sent: Vec<u64>,
    pub(crate) clock: Skewed,
    /// Nothing executes before this true time.
    pub(crate) still_until_ns: u64,
    /// What arrives until then is lost.
    pub(crate) deaf: bool,
    pub(crate) boot: u32,
    pub(crate) has_pins: bool,
    /// On disk: epochs up to this may have been announced.
    pub(crate) ceiling: u64,
    pub(crate) lives: u64,
    pub(crate) daemon: Option<Daemon>,
}

impl Node {
    /// Whether nothing executes on it.
    pub(crate) const fn is_still(&self, true_ns: u64) -> bool {
        true_ns < self.still_until_ns
    }

    /// Whether it is suspended.
    pub(crate) const fn is_suspended(&self, true_ns: u64) -> bool {
        self.deaf && self.is_still(true_ns)
    }
}

/// A machine that another one has taken the place of: nobody hears it, and its gates last as long as they do.
pub(crate) struct Ghost {
    pub(crate) slot: usize,
    pub(crate) table: Box<Table>,
    pub(crate) latch: Latch,
    pub(crate) clock: Skewed,
}

/// The world.
pub(crate) struct World<'a> {
    pub(crate) plan: Plan,
    pub(crate) mutation: Mutation,
    pub(crate) functions: Functions,
    pub(crate) dice: SplitMix,
    pub(crate) now_ns: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) ghosts: Vec<Ghost>,
    pub(crate) proposals: Vec<Proposal>,
    /// Until when each direction of each link is cut.
    pub(crate) cut_until_ns: Vec<u64>,
    pub(crate) old_frames: Vec<(usize, usize, Frame)>,
    pub(crate) tally: &'a mut Tally,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) violation: Option<String>,
    pub(crate) last_holder: [u8; RESOURCES_MAX],
    took_over: bool,
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    happenings: Vec<Option<Happening>>,
}

macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.trace.is_some() {
            let line = format!("{:>9.3} {}", $world.now_ns as f64 / 1e6, format_args!($($text)*));
            if let Some(trace) = &mut $world.trace {
                trace.push(line);
            }
        }
    };
}
pub(crate) use trace;

impl<'a> World<'a> {
    pub(crate) fn new(
        plan: Plan,
        mutation: Mutation,
        functions: Functions,
        dice: SplitMix,
        tally: &'a mut Tally,
    ) -> Self {
        let cells = plan.nodes * plan.links;
        let mut world = Self {
            mutation,
            functions,
            dice,
            now_ns: 0,
            nodes: Vec::new(),
            ghosts: Vec::new(),
            proposals: Vec::new(),
            cut_until_ns: vec![0; plan.links * plan.nodes * plan.nodes],
            old_frames: Vec::new(),
            tally,
            trace: None,
            violation: None,
            last_holder: [NOBODY; RESOURCES_MAX],
            took_over: false,
            heap: BinaryHeap::new(),
            happenings: Vec::new(),
            plan,
        };
        for own in 0..world.plan.nodes {
            let rate = world.rate();
            let node = Node {
                table: Box::new(Table::new()),
                latch: Latch { state: latch::OPEN, ..Latch::default() },
                door: Door { slot: own as u64, ..Door::default() },
                slots: vec![Slot::default(); cells],
                sent: vec![0; cells],
                clock: Skewed::new(0, 1_000_000 + world.dice.within(0, 1 << 40), rate),
                still_until_ns: 0,
                deaf: false,
                boot: 0,
                has_pins: true,
                ceiling: 0,
                lives: 0,
                daemon: None,
            };
            world.nodes.push(node);
            world.after(0, Happening::Start { node: own, boot: 0 });
            for link in 0..world.plan.links {
                let phase = world.dice.within(0, INTERVAL_NS);
                world.after(phase, Happening::Beat { node: own, link });
            }
        }
        world.after(INTERVAL_NS, Happening::Propose { again: true });
        let first = world.dice.within(INTERVAL_NS, world.plan.fault_every_ns * 2);
        world.after(first, Happening::Fault);
        world
    }

    /// A rate within what the kernel allows.
    pub(crate) fn rate(&mut self) -> u64 {
        let (slowest, fastest) = crate::clock::RATES;
        if self.plan.extremes {
            [slowest, fastest][self.dice.index(2)]
        } else {
            self.dice.within(slowest, fastest + 1)
        }
    }

    pub(crate) fn after(&mut self, wait_ns: u64, happening: Happening) {
        self.heap.push(Reverse((self.now_ns + wait_ns, self.happenings.len() as u32)));
        self.happenings.push(Some(happening));
    }

    /// What a node's clock reads now.
    pub(crate) fn local_ns(&self, node: usize) -> u64 {
        self.nodes[node].clock.at(self.now_ns)
    }

    /// Runs it to its end, or to the first violation; true if somebody took over.
    pub(crate) fn run(&mut self) -> bool {
        while let Some(Reverse((at_ns, index))) = self.heap.pop() {
            if at_ns > self.plan.end_ns || self.violation.is_some() {
                break;
            }
            self.now_ns = at_ns;
            if let Some(happening) = self.happenings[index as usize].take() {
                self.happen(happening);
            }
        }
        self.took_over
    }

    fn happen(&mut self, happening: Happening) {
        let node = match &happening {
            Happening::Beat { node, .. }
            | Happening::Call { node, .. }
            | Happening::Accept { node, .. }
            | Happening::Start { node, .. }
            | Happening::Look { node } => Some(*node),
            Happening::Frame { to, .. } | Happening::Told { to, .. } => Some(*to),
            Happening::Run(run) => Some(run.node),
            Happening::Fault | Happening::Propose { .. } => None,
        };
        let Some(node) = node else {
            return match happening {
                Happening::Fault => self.start_fault(),
                Happening::Propose { again } => self.propose(again),
                _ => {}
            };
        };
        if self.now_ns < self.nodes[node].still_until_ns && !matches!(happening, Happening::Look { .. }) {
            let arrives = matches!(happening, Happening::Frame { .. } | Happening::Told { .. });
            if !(arrives && self.nodes[node].deaf) {
                let wait_ns = self.nodes[node].still_until_ns - self.now_ns + self.dice.within(0, 50_000);
                self.after(wait_ns, happening);
            }
            return;
        }
        match happening {
            Happening::Beat { node, link } => self.beat(node, link),
            Happening::Frame { to, link, frame } => self.receive(to, link, frame),
            Happening::Run(run) => self.go_on(run),
            Happening::Call { node, life } => self.call_goes_on(node, life),
            Happening::Told { to, from, life, proposal } => self.told(to, from, life, proposal),
            Happening::Accept { node, peer } => self.accept(node, peer),
            Happening::Start { node, boot } => self.start(node, boot),
            Happening::Look { .. } | Happening::Fault | Happening::Propose { .. } => {}
        }
        self.look(node);
    }

    /// Whether a node's packets of a resource pass now.
    pub(crate) fn is_open(&self, node: usize, resource: usize) -> bool {
        let (state, now_ns) = (&self.nodes[node], self.local_ns(node));
        let gone = Latch::is_gone(state.latch.state, state.latch.handover_until_ns, now_ns);
        let is_open = |now_ns| lease::is_open(&*state.table, resource, now_ns);
        let open = match self.mutation {
            Mutation::GateOfAnybody => now_ns / 1000 < lease::until_us(&*state.table) || is_open(now_ns),
            // At the beginning of time no lease has ended.
            Mutation::EndIgnored => is_open(now_ns) || is_open(0),
            // What a suspended machine would let pass counts from its return on, when its clock is wrong.
            Mutation::ClockStops => is_open(now_ns) && !state.is_suspended(self.now_ns),
            _ => is_open(now_ns),
        };
        (!gone || self.mutation == Mutation::LatchIgnored) && open
    }

    /// Whether a machine that was replaced lets packets of a resource pass now.
    fn is_haunted(&self, ghost: &Ghost, resource: usize) -> bool {
        let now_ns = ghost.clock.at(self.now_ns);
        !Latch::is_gone(ghost.latch.state, ghost.latch.handover_until_ns, now_ns)
            && lease::is_open(&*ghost.table, resource, now_ns)
    }

    /// The property, as far as this node can have changed it.
    pub(crate) fn look(&mut self, node: usize) {
        for resource in 0..self.plan.resources {
            if !self.is_open(node, resource) {
                continue;
            }
            for other in 0..self.plan.nodes {
                if other != node && self.is_open(other, resource) && self.violation.is_none() {
                    trace!(self, "VIOLATION: {node} and {other} pass for resource {resource}");
                    self.violation = Some(format!(
                        "at {} ns nodes {node} and {other} both pass the gate of resource {resource}",
                        self.now_ns
                    ));
                }
            }
            if let Some(ghost) = self.ghosts.iter().find(|ghost| self.is_haunted(ghost, resource)) {
                let slot = ghost.slot;
                trace!(
                    self,
                    "VIOLATION: {node} and the machine that {slot} was pass for resource {resource}"
                );
                self.violation = Some(format!(
                    "at {} ns node {node} and the former machine of {slot} both pass the gate of resource {resource}",
                    self.now_ns
                ));
            }
            let last = self.last_holder[resource];
            if usize::from(last) != node {
                self.last_holder[resource] = node as u8;
                self.tally.met(Met::Opened);
                trace!(self, "{node} passes for resource {resource}, before it {last}");
                if last != NOBODY {
                    self.took_over = true;
                    self.tally.met(Met::TakenOver);
                    self.taken_from(usize::from(last));
                }
            }
        }
    }

    fn taken_from(&mut self, last: usize) {
        let state = &self.nodes[last];
        let cut =
            (0..self.plan.nodes).any(|peer| (0..self.plan.links).any(|link| self.is_cut(link, last, peer)));
        if state.is_suspended(self.now_ns) {
            self.tally.met(Met::TakenFromSuspended);
        } else if state.is_still(self.now_ns) {
            self.tally.met(Met::TakenFromFrozen);
        }
        if state.daemon.is_none() {
            self.tally.met(Met::TakenFromKilled);
        }
        if cut {
            self.tally.met(Met::TakenFromCut);
        }
    }

    fn wire(&self, link: usize, from: usize, to: usize) -> usize {
        (link * self.plan.nodes + from) * self.plan.nodes + to
    }

    fn is_cut(&self, link: usize, from: usize, to: usize) -> bool {
        self.now_ns < self.cut_until_ns[self.wire(link, from, to)]
    }

    pub(crate) fn cut(&mut self, link: usize, from: usize, to: usize, for_ns: u64) {
        let wire = self.wire(link, from, to);
        self.cut_until_ns[wire] = self.now_ns + for_ns;
    }

    /// When what leaves now on a wire arrives, if it does.
    fn transit(&mut self, link: usize, from: usize, to: usize) -> Option<u64> {
        if self.is_cut(link, from, to) {
            self.tally.met(Met::CutFrame);
            return None;
        }
        if self.dice.permille(self.plan.loss_permille) {
            self.tally.met(Met::Lost);
            return None;
        }
        if self.dice.permille(self.plan.late_permille) {
            self.tally.met(Met::Late);
            return Some(self.dice.within(INTERVAL_NS / 4, INTERVAL_NS * 8));
        }
        Some(self.dice.within(20_000, 250_000))
    }

    /// A frame leaves.
    pub(crate) fn send(&mut self, from: usize, to: usize, link: usize, frame: Frame) {
        if let Some(wait_ns) = self.transit(link, from, to) {
            self.after(wait_ns, Happening::Frame { to, link, frame });
        }
        if self.dice.permille(self.plan.twice_permille) {
            self.tally.met(Met::Duplicate);
            let wait_ns = self.dice.within(20_000, INTERVAL_NS * 3);
            self.after(wait_ns, Happening::Frame { to, link, frame });
        }
        if self.old_frames.len() < 64 {
            self.old_frames.push((to, link, frame));
        } else {
            let at = self.dice.index(64);
            self.old_frames[at] = (to, link, frame);
            if self.dice.permille(self.plan.twice_permille / 2) {
                self.tally.met(Met::Replay);
                let at = self.dice.index(64);
                let (to, link, frame) = self.old_frames[at];
                let wait_ns = self.dice.within(0, INTERVAL_NS * 2);
                self.after(wait_ns, Happening::Frame { to, link, frame });
            }
        }
    }

    /// A message leaves on every link.
    pub(crate) fn tell(&mut self, from: usize, to: usize, life: u64, proposal: usize) {
        for link in 0..self.plan.links {
            if let Some(wait_ns) = self.transit(link, from, to) {
                self.after(wait_ns, Happening::Told { to, from, life, proposal });
            }
        }
    }
}

const _: () = assert!(NODES_MAX >= 9);
