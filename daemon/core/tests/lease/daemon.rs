//! The daemon of a node, as far as the lease goes: it announces only rising ids, installs what every member's present
//! life has announced, and makes each of its calls word by word if the history says so.

use ringbeat_common::lease::{self, Promise, Words as _};
use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::maps::{Latch, Node as Door, latch};
use ringbeat_common::slot::Slot;
use ringbeat_common::view::View;

use crate::plan::{INTERVAL_NS, Mutation};
use crate::table::{ALL, Call, Gave, Progress, Table};
use crate::tally::Met;
use crate::world::{Happening, World, trace};

/// What a daemon is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Adopt,
    Announce {
        proposal: usize,
    },
    /// The announcement made once more, right before the view is installed.
    Again {
        proposal: usize,
    },
    Install {
        proposal: usize,
    },
    Release,
}

/// A daemon.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    /// Which daemon it is; a planned hand-over keeps the incarnation, not this.
    pub(crate) life: u64,
    incarnation: u64,
    /// Does nothing before this true time.
    pub(crate) paused_until_ns: u64,
    /// Only epochs above this.
    pub(crate) floor: u64,
    pub(crate) announced: View,
    /// The announced one, if it may be installed.
    pub(crate) current: Option<usize>,
    pub(crate) installed: Option<usize>,
    not_before_ns: u64,
    /// Who is known to have announced each proposal.
    acks: Vec<u64>,
    /// All that it has announced, for a daemon that installs any of them.
    ever: Vec<usize>,
    /// It has announced a lower id once.
    has_fallen: bool,
    /// Announces nothing before this, by its own clock.
    quiet_until_ns: u64,
    has_left: bool,
    doing: Option<(Doing, Progress)>,
}

impl Daemon {
    /// Whether a call is on its way.
    pub(crate) const fn is_busy(&self) -> bool {
        self.doing.is_some()
    }
}

impl World<'_> {
    /// The daemon of a node, if it can act now.
    pub(crate) fn acting(&self, node: usize) -> Option<&Daemon> {
        let state = &self.nodes[node];
        let daemon = state.daemon.as_ref()?;
        let waits = self.now_ns < daemon.paused_until_ns || self.now_ns < state.still_until_ns;
        let quiet = state.clock.at(self.now_ns) < daemon.quiet_until_ns;
        (!waits && !quiet && !daemon.has_left && daemon.doing.is_none()).then_some(daemon)
    }

    /// A daemon starts, after a boot, over pins, or in time for a hand-over.
    pub(crate) fn start(&mut self, node: usize, boot: u32) {
        let now_ns = self.local_ns(node);
        let lease_long_us = self.plan.lease_long_us;
        let (mutation, first) = (self.mutation, self.now_ns == 0);
        let state = &mut self.nodes[node];
        if state.boot != boot || state.daemon.is_some() {
            return;
        }
        state.lives += 1;
        let floor = if mutation == Mutation::EpochsRepeat { 0 } else { state.ceiling };
        let mut daemon = Daemon {
            life: state.lives,
            incarnation: state.door.incarnation,
            paused_until_ns: 0,
            floor,
            announced: View::NONE,
            current: None,
            installed: None,
            not_before_ns: 0,
            acks: Vec::new(),
            ever: Vec::new(),
            has_fallen: false,
            quiet_until_ns: 0,
            has_left: false,
            doing: None,
        };
        let handed_over = state.latch.state == latch::HANDED_OVER;
        let late = handed_over && now_ns >= state.latch.handover_until_ns;
        // What was let go of stays so in this life.
        let released = state.door.flags != 0 && mutation != Mutation::ReleasedAdopted;
        if handed_over && !released && (!late || mutation == Mutation::LateAdopted) {
            // The table goes on, in the same life.
            daemon.announced = lease::announced(&*state.table).max(lease::installed(&*state.table));
            state.latch = Latch { state: latch::ALIVE, ..Latch::default() };
            state.daemon = Some(daemon);
            self.tally.met(Met::HandedOver);
            trace!(self, "{node} is taken over by its next daemon");
            self.begin(node, Doing::Adopt);
            return;
        }
        if late {
            self.tally.met(Met::HandedOverLate);
        }
        state.door.incarnation = 0;
        daemon.incarnation = (state.lives << 32) | 7;
        if !state.has_pins {
            *state.table = Table::new();
            state.has_pins = true;
            if mutation != Mutation::QuietSkipped && !first {
                daemon.quiet_until_ns =
                    now_ns + u64::from(lease_long_us) * 1000 * lease::PROMISE_QUARTERS / 4;
                if mutation != Mutation::QuietForgotten {
                    lease::adopt_unknown(&*state.table, daemon.quiet_until_ns);
                }
            }
        } else if !first {
            self.tally.met(Met::RestartedPinned);
        }
        state.daemon = Some(daemon);
        trace!(self, "{node} has a new daemon");
        self.begin(node, Doing::Adopt);
    }

    fn adopted(&mut self, node: usize) {
        let mutation = self.mutation;
        let own = node;
        let state = &mut self.nodes[node];
        let Some(daemon) = &mut state.daemon else { return };
        let incarnation = daemon.incarnation;
        if mutation == Mutation::PromisesForgotten {
            for slot in 0..NODES_MAX {
                state.table.store(lease::PROMISES + slot, Promise::new(0, 0, true).0);
            }
        }
        state.slots.fill(Slot::default());
        state.sent.fill(0);
        state.latch = Latch { state: latch::ALIVE, ..Latch::default() };
        state.door = Door { incarnation, slot: own as u64, ..Door::default() };
        for peer in (0..self.plan.nodes).filter(|peer| *peer != node) {
            let wait_ns = self.handshake_ns();
            self.after(wait_ns, Happening::Accept { node, peer });
            let wait_ns = self.handshake_ns();
            self.after(wait_ns, Happening::Accept { node: peer, peer: node });
        }
    }

    fn handshake_ns(&mut self) -> u64 {
        let choices = if self.plan.quick { 1 } else { 3 };
        let longest_ns = [INTERVAL_NS / 3, INTERVAL_NS, INTERVAL_NS * 4][self.dice.index(choices)];
        self.dice.within(100_000, longest_ns)
    }

    /// A handshake has shown which life a peer has now.
    pub(crate) fn accept(&mut self, node: usize, peer: usize) {
        let incarnation = self.nodes[peer].door.incarnation;
        let (links, nodes) = (self.plan.links, self.plan.nodes);
        let state = &mut self.nodes[node];
        let Some(daemon) = &mut state.daemon else {
            return;
        };
        if incarnation == 0 || state.door.incarnation == 0 {
            let wait_ns = self.handshake_ns();
            return self.after(wait_ns, Happening::Accept { node, peer });
        }
        if state.slots[peer].incarnation == incarnation {
            return;
        }
        (self.functions.replace)(&state.table, peer as u8);
        if self.mutation != Mutation::OldAcks {
            for ack in &mut daemon.acks {
                *ack &= !(1 << peer);
            }
        }
        for link in 0..links {
            state.slots[link * nodes + peer] = Slot::accepting(incarnation);
        }
    }

    /// With each beat the daemon tells what it has announced, and looks whether it can install.
    pub(crate) fn daemon_beats(&mut self, node: usize) {
        if let Some(daemon) = self.acting(node)
            && let Some(proposal) = daemon.current
        {
            self.tell_all(node, proposal);
            self.install_if_ready(node);
        }
        if self.dice.permille(100) {
            self.shorten_wait(node);
        }
    }

    fn tell_all(&mut self, node: usize, proposal: usize) {
        let Some(daemon) = &self.nodes[node].daemon else { return };
        let life = daemon.incarnation;
        for peer in (0..self.plan.nodes).filter(|peer| *peer != node) {
            self.tell(node, peer, life, proposal);
        }
    }

    /// Announces a proposal, if the rule of rising ids allows it.
    pub(crate) fn announce(&mut self, node: usize, proposal: usize) -> bool {
        let view = self.proposals[proposal].view;
        let Some(daemon) = self.acting(node) else { return false };
        let falls = view < daemon.announced;
        // Once in a life: it would else follow the others to and fro for ever.
        let may_fall = self.mutation == Mutation::IdsFall && !daemon.has_fallen;
        let may = view > daemon.announced || (falls && may_fall);
        if !may || view.epoch <= daemon.floor || !view.has(node as u8) {
            return false;
        }
        if let Some(daemon) = &mut self.nodes[node].daemon {
            daemon.has_fallen |= falls;
        }
        if self.mutation == Mutation::AnnounceSaidFirst {
            self.tell_all(node, proposal);
        }
        let state = &mut self.nodes[node];
        // Reserved on disk ahead of need.
        if view.epoch > state.ceiling {
            state.ceiling = view.epoch + self.dice.within(0, 4);
        }
        self.begin(node, Doing::Announce { proposal });
        true
    }

    /// A message: a life of a node has announced a proposal.
    pub(crate) fn told(&mut self, node: usize, from: usize, life: u64, proposal: usize) {
        let accepted = self.nodes[node].slots[from].incarnation;
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        if accepted != life && self.mutation != Mutation::OldAcks {
            return;
        }
        // Who announces says which view; what it owns nobody compares.
        let view = self.proposals[proposal].view;
        for (same, _) in self.proposals.iter().enumerate().filter(|(_, of)| of.view == view) {
            if daemon.acks.len() <= same {
                daemon.acks.resize(same + 1, 0);
            }
            daemon.acks[same] |= 1 << from;
        }
        if self.dice.permille(700) {
            self.announce(node, proposal);
        }
        self.install_if_ready(node);
    }

    fn install_if_ready(&mut self, node: usize) {
        let Some(daemon) = self.acting(node) else { return };
        let mut proposal = daemon.current;
        if self.mutation == Mutation::InstallOlder {
            let acked = |proposal: &usize| {
                let acks = daemon.acks.get(*proposal).copied().unwrap_or(0) | 1 << node;
                let members = self.proposals[*proposal].view.members;
                acks & members == members && daemon.installed != Some(*proposal)
            };
            proposal = daemon.ever.iter().copied().find(acked);
        }
        let Some(proposal) = proposal.filter(|proposal| daemon.installed != Some(*proposal)) else {
            return;
        };
        let acks = daemon.acks.get(proposal).copied().unwrap_or(0) | 1 << node;
        let members = self.proposals[proposal].view.members;
        if acks & members == members || self.mutation == Mutation::InstallEarly {
            let doing =
                if self.dice.permille(500) { Doing::Again { proposal } } else { Doing::Install { proposal } };
            self.begin(node, doing);
        }
    }

    /// Lets go of everything, and says so.
    pub(crate) fn release(&mut self, node: usize) {
        if self.acting(node).is_some() {
            if self.mutation == Mutation::ReleaseSaidFirst {
                self.say_released(node);
            }
            self.begin(node, Doing::Release);
        }
    }

    fn say_released(&mut self, node: usize) {
        use ringbeat_common::frame::flags;
        self.nodes[node].door.flags = u64::from(flags::RELEASED | flags::LEAVING);
        if let Some(daemon) = &mut self.nodes[node].daemon {
            daemon.has_left = true;
        }
    }

    fn begin(&mut self, node: usize, doing: Doing) {
        let now_ns = self.local_ns(node);
        let Some(daemon) = &self.nodes[node].daemon else { return };
        let life = daemon.life;
        let call = match doing {
            Doing::Adopt if daemon.announced.is_some() => {
                // A hand-over: what was announced has to be waited for, as its promises say.
                let owned = (0..64).filter(|gate| self.nodes[node].table.load(lease::GATES + 2 * gate) != 0);
                let owned = owned.fold(0, |set, gate| set | 1 << gate);
                Call::Announce { view: daemon.announced, owned }
            }
            Doing::Adopt => Call::Adopt,
            Doing::Announce { proposal } | Doing::Again { proposal } => {
                let Some(of) = self.proposals.get(proposal) else { return };
                Call::Announce { view: of.view, owned: of.owned(node) }
            }
            Doing::Install { proposal } => {
                let of = &self.proposals[proposal];
                Call::Install {
                    view: of.view,
                    not_before_ns: daemon.not_before_ns,
                    own: node as u8,
                    owned: of.owned(node),
                    now_ns,
                }
            }
            Doing::Release => Call::Release,
        };
        if let Some(daemon) = &mut self.nodes[node].daemon {
            daemon.doing = Some((doing, Progress::new(call)));
        }
        self.call_goes_on(node, life);
    }

    /// The daemon's call, or as many accesses as it may make before it is held up.
    pub(crate) fn call_goes_on(&mut self, node: usize, life: u64) {
        let held = self.plan.held_permille != 0 && self.dice.permille(400);
        let mut accesses = if held { self.dice.within(0, 500) as usize } else { ALL };
        if self.plan.slow_release && self.dice.permille(800) {
            let doing = self.nodes[node].daemon.as_ref().and_then(|daemon| daemon.doing.as_ref());
            if doing.is_some_and(|(doing, _)| *doing == Doing::Release) {
                accesses = 0;
            }
        }
        let now_ns = self.now_ns;
        let state = &mut self.nodes[node];
        let Some(daemon) = state.daemon.as_mut().filter(|daemon| daemon.life == life) else { return };
        if now_ns < daemon.paused_until_ns {
            let wait_ns = daemon.paused_until_ns - now_ns;
            return self.after(wait_ns, Happening::Call { node, life });
        }
        let Some((doing, mut progress)) = daemon.doing.take() else { return };
        let skips = doing == Doing::Adopt
            && match self.mutation {
                Mutation::AdoptedOpen => true,
                Mutation::TakenOverSilently => daemon.announced.is_some(),
                _ => false,
            };
        let gave = if skips {
            Some(Gave::Nothing)
        } else {
            progress.advance(&state.table, &self.functions, &self.plan.votes, accesses)
        };
        let Some(gave) = gave else {
            daemon.doing = Some((doing, progress));
            self.tally.met(Met::DaemonHeldUp);
            let longest_ns = [1_000, 200_000, INTERVAL_NS * 6][self.dice.index(3)];
            let wait_ns = self.dice.within(0, longest_ns);
            return self.after(wait_ns, Happening::Call { node, life });
        };
        self.look(node);
        self.done(node, doing, gave);
    }

    fn done(&mut self, node: usize, doing: Doing, gave: Gave) {
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        if let Gave::NotBefore(not_before_ns) = gave {
            daemon.not_before_ns = not_before_ns;
        }
        match doing {
            Doing::Adopt if daemon.announced.is_some() => {}
            Doing::Adopt => self.adopted(node),
            Doing::Announce { proposal } => {
                daemon.announced = self.proposals[proposal].view;
                daemon.current = Some(proposal);
                daemon.ever.push(proposal);
                self.tally.met(Met::Announced);
                trace!(self, "{node} announces {:?}", self.proposals[proposal]);
                self.tell_all(node, proposal);
                self.install_if_ready(node);
            }
            Doing::Again { proposal } => self.begin(node, Doing::Install { proposal }),
            Doing::Install { proposal } => {
                daemon.installed = Some(proposal);
                self.tally.met(Met::Installed);
                let state = &self.nodes[node];
                let epoch = self.proposals[proposal].view.epoch;
                let waits_ns = state.table.load(lease::NOT_BEFORE_NS).saturating_sub(self.local_ns(node));
                trace!(self, "{node} installs epoch {epoch}, waits {waits_ns} ns");
                let state = &self.nodes[node];
                if state.table.load(lease::CARRIED_MAX_US) * 1000 > self.local_ns(node) {
                    self.tally.met(Met::Carried);
                }
                self.look_when_alone(node);
            }
            Doing::Release => {
                trace!(self, "{node} has let go");
                self.say_released(node);
            }
        }
    }

    /// A look at the time from which the own votes are enough.
    pub(crate) fn look_when_alone(&mut self, node: usize) {
        let state = &self.nodes[node];
        let from_ns = state.table.load(lease::ALONE_FROM_NS);
        if from_ns != u64::MAX {
            let wait_ns = state.clock.true_at(from_ns).saturating_sub(self.now_ns);
            self.tally.met(Met::Alone);
            self.after(wait_ns, Happening::Look { node });
        }
    }

    /// As `daemon/src/plane/lease.rs` does: promises to nodes outside that have ended are waited for no longer.
    fn shorten_wait(&mut self, node: usize) {
        if self.acting(node).is_none() {
            return;
        }
        let table = &self.nodes[node].table;
        let (view, before_ns) = (lease::installed(&**table), table.load(lease::NOT_BEFORE_NS));
        let outside = (0..NODES_MAX).filter(|slot| !view.has(*slot as u8));
        let latest = outside.map(|slot| Promise(table.load(lease::PROMISES + slot)).until_us()).max();
        let latest_us = latest.unwrap_or(0).max(table.load(lease::REPLACED_UNTIL_US));
        let latest_ns = latest_us * 1000;
        if !view.is_some() || latest_ns >= before_ns {
            return;
        }
        table.store(lease::NOT_BEFORE_NS, latest_ns);
        if table.load(lease::ALONE_FROM_NS) != u64::MAX {
            table.store(lease::ALONE_FROM_NS, latest_ns);
        }
        self.tally.met(Met::WaitShortened);
        self.look_when_alone(node);
    }
}
