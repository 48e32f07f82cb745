//! One machine: its clock, its disk, its kernel plane, and the daemon's shell around the two state machines.

use std::collections::VecDeque;

use ringbeat_common::frame::{Frame, flags};
use ringbeat_common::maps::latch;
use ringbeat_core::detector::{self, Damping, Detector, LinkTimes};
use ringbeat_core::handshake::{self, Handshake};
use ringbeat_core::mutation::Mutation;
use ringbeat_core::record::{Entry, Record, Replayed};
use ringbeat_core::told::Told;

use crate::kernel::{Broken, Kernel};
use crate::splitmix::SplitMix;

pub(crate) const MS: u64 = 1_000_000;
/// The main loop of a daemon runs at least this often.
pub(crate) const LOOP_NS: u64 = 10 * MS;
/// A daemon that has not run for this long has failed, in these worlds.
pub(crate) const STALL_NS: u64 = 400 * MS;
/// The damping of these worlds: short, so that they are.
pub(crate) const DAMPING: Damping = Damping { min_ns: 10 * MS, max_ns: 600 * MS, memory_ns: 60_000 * MS };

/// What is the same for all machines of a world.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) links: Vec<LinkTimes>,
    pub(crate) mutation: Mutation,
    pub(crate) broken: Broken,
    pub(crate) is_recorded: bool,
}

/// What a shell does outside: the world carries it out, and judges it.
pub(crate) enum Effect {
    Send { link: usize, broadcast: bool, target: u8, frame: Frame },
    Accepted { slot: u8, incarnation: u64, by_replay: bool },
    Told { told: Told, by_replay: bool },
    DuplicateSelf { by_replay: bool },
}

/// A daemon's life, and what of it is needed to run it again.
pub(crate) struct Daemon {
    pub(crate) detector: Detector,
    pub(crate) handshake: Handshake,
    pub(crate) inbox: VecDeque<(Frame, bool)>,
    pub(crate) notices: VecDeque<(u8, bool)>,
    pub(crate) records: Vec<Record>,
    pub(crate) outputs: Vec<Replayed>,
}

pub(crate) struct Machine {
    pub(crate) slot: u8,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) daemon: Option<Daemon>,
    /// Lives of the daemon so far, killed ones included.
    pub(crate) lives: u64,
    /// The durable counter.
    pub(crate) disk: u64,
    pub(crate) paused: bool,
    pub(crate) frozen_until: u64,
    pub(crate) own_links: Vec<bool>,
    /// The same, as far as the daemon was told.
    pub(crate) noticed: Vec<bool>,
    /// The last time at which anything was done to the machine.
    pub(crate) touched: u64,
    /// The last time at which its main loop was held up.
    pub(crate) halted: Option<u64>,
    pub(crate) wake_at: Option<u64>,
    offset_ns: u64,
    drift_ppm: i64,
    random: SplitMix,
}

impl Machine {
    pub(crate) fn new(slot: u8, links: usize, random: &mut SplitMix) -> Self {
        Self {
            slot,
            kernel: None,
            daemon: None,
            lives: 0,
            disk: random.within(1, 1000),
            paused: false,
            frozen_until: 0,
            own_links: vec![true; links],
            noticed: vec![true; links],
            touched: 0,
            halted: None,
            wake_at: None,
            offset_ns: random.within(1_000 * MS, 1_000_000_000 * MS),
            drift_ppm: random.within(0, 201).cast_signed() - 100,
            random: SplitMix::new(random.next()),
        }
    }

    /// This machine's clock at a true time.
    pub(crate) fn local(&self, true_ns: u64) -> u64 {
        let drift = i128::from(true_ns) * i128::from(self.drift_ppm) / 1_000_000;
        (i128::from(self.offset_ns) + i128::from(true_ns) + drift) as u64
    }

    /// The true time at which this machine's clock shows `local_ns`, or shortly after.
    pub(crate) fn truth(&self, local_ns: u64) -> u64 {
        let since = i128::from(local_ns.saturating_sub(self.offset_ns));
        (since * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm))) as u64 + 1
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.kernel.as_ref().map_or(0, |kernel| kernel.node.incarnation)
    }

    /// Whether its daemon is there and not held up.
    pub(crate) fn runs(&self, true_ns: u64) -> bool {
        self.daemon.is_some() && !self.paused && self.frozen_until <= true_ns
    }

    /// A daemon's start, with a plane of its own; whatever ran before is void.
    pub(crate) fn start(&mut self, plan: &Plan, true_ns: u64) -> Vec<Effect> {
        let now_ns = self.local(true_ns);
        self.disk += 1;
        self.lives += 1;
        self.paused = false;
        self.noticed.fill(true);
        let incarnation = self.disk << 32 | self.random.within(1, 1 << 32);
        self.kernel = Some(Kernel::new(self.slot, incarnation, plan.nodes, &plan.links, now_ns, plan.broken));
        let peers: Vec<u8> = (0..plan.nodes as u8).filter(|peer| *peer != self.slot).collect();
        let detecting = detector::Config {
            own: self.slot,
            peers: peers.clone(),
            links: plan.links.clone(),
            daemon_stall_ns: STALL_NS,
            damping: DAMPING,
        };
        let shaking = handshake::Config {
            own: self.slot,
            incarnation,
            cluster_id: 1,
            config_version: 1,
            peers,
            links: plan.links.iter().map(|link| link.link).collect(),
        };
        let mut daemon = Daemon {
            detector: Detector::mutated(&detecting, plan.mutation),
            handshake: Handshake::mutated(&shaking, plan.mutation),
            inbox: VecDeque::new(),
            notices: VecDeque::new(),
            records: Vec::new(),
            outputs: Vec::new(),
        };
        if plan.is_recorded {
            daemon.records.push(Record { now_ns, entry: Entry::DetectorBuilt(detecting) });
            daemon.records.push(Record { now_ns, entry: Entry::HandshakeBuilt(shaking) });
        }
        for (link, up) in (0..).zip(&self.own_links) {
            if !up {
                daemon.notices.push_back((link, false));
            }
        }
        self.daemon = Some(daemon);
        self.wake(plan, true_ns)
    }

    /// The obituary latch: the kernel's side of a daemon's death.
    pub(crate) fn obituary(&mut self, true_ns: u64) {
        let now_ns = self.local(true_ns);
        if let Some(kernel) = &mut self.kernel {
            kernel.latch.state = latch::GONE;
            kernel.latch.gone_ns = now_ns;
        }
    }

    /// From now on every frame says so.
    pub(crate) fn leave(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            kernel.node.flags |= u64::from(flags::LEAVING);
        }
    }

    /// One run of the main loop: first all that is waiting, then the timers, then the beat.
    pub(crate) fn wake(&mut self, plan: &Plan, true_ns: u64) -> Vec<Effect> {
        let now_ns = self.local(true_ns);
        let (Some(mut daemon), Some(mut kernel)) = (self.daemon.take(), self.kernel.take()) else {
            return Vec::new();
        };
        let mut shell = Shell {
            daemon: &mut daemon,
            kernel: &mut kernel,
            is_recorded: plan.is_recorded,
            by_replay: false,
            now_ns,
            effects: Vec::new(),
        };
        shell.refill(&mut self.random);
        while let Some((link, up)) = shell.daemon.notices.pop_front() {
            self.noticed[usize::from(link)] = up;
            shell.detector(detector::Input::OwnLink { link, up, stamp_ns: now_ns });
        }
        // The ring and the socket are ready in whatever order.
        let is_ring_first = self.random.permille(500);
        if is_ring_first {
            shell.drain_ring();
        }
        while let Some((frame, by_replay)) = shell.daemon.inbox.pop_front() {
            shell.by_replay = by_replay;
            shell.handshake(handshake::Input::Frame { link: frame.link(), frame });
            shell.by_replay = false;
            shell.refill(&mut self.random);
        }
        shell.drain_ring();
        if shell.daemon.detector.next_timeout().is_some_and(|due_ns| due_ns <= now_ns) {
            shell.detector(detector::Input::Timeout);
        }
        if shell.daemon.handshake.next_timeout().is_some_and(|due_ns| due_ns <= now_ns) {
            shell.handshake(handshake::Input::Timeout);
        }
        shell.refill(&mut self.random);
        let effects = shell.effects;
        kernel.latch.beat_ns = now_ns;
        kernel.node.heard = daemon.detector.heard();
        if daemon.handshake.duplicate().is_some() {
            // It takes no part any more.
            kernel.node.incarnation = 0;
        }
        let due_ns = [daemon.detector.next_timeout(), daemon.handshake.next_timeout()];
        let due = due_ns.into_iter().flatten().map(|due_ns| self.truth(due_ns)).min();
        self.wake_at = Some(due.unwrap_or(u64::MAX).clamp(true_ns + 1, true_ns + LOOP_NS));
        (self.daemon, self.kernel) = (Some(daemon), Some(kernel));
        effects
    }
}

/// The driver of the two machines, as the daemon's real shell has to be.
struct Shell<'a> {
    daemon: &'a mut Daemon,
    kernel: &'a mut Kernel,
    is_recorded: bool,
    by_replay: bool,
    now_ns: u64,
    effects: Vec<Effect>,
}

impl Shell<'_> {
    fn refill(&mut self, random: &mut SplitMix) {
        let wanted = self.daemon.handshake.nonces_wanted();
        if wanted > 0 {
            self.handshake(handshake::Input::Nonces((0..wanted).map(|_| random.next()).collect()));
        }
    }

    fn drain_ring(&mut self) {
        for event in std::mem::take(&mut self.kernel.events) {
            self.detector(detector::Input::Cell(event));
        }
    }

    fn detector(&mut self, input: detector::Input) {
        let now_ns = self.now_ns;
        if self.is_recorded {
            self.daemon.records.push(Record { now_ns, entry: Entry::Detector(input) });
        }
        self.daemon.detector.handle(input, now_ns);
        let mut further = Vec::new();
        while let Some(output) = self.daemon.detector.poll_output() {
            if self.is_recorded {
                self.daemon.outputs.push(Replayed::Detector(output));
            }
            match output {
                detector::Output::Told(told) => {
                    self.effects.push(Effect::Told { told, by_replay: self.by_replay });
                }
                detector::Output::Heard { slot } => further.push(handshake::Input::Heard { slot }),
                detector::Output::Silent { slot } => further.push(handshake::Input::Silent { slot }),
            }
        }
        further.into_iter().for_each(|input| self.handshake(input));
    }

    fn handshake(&mut self, input: handshake::Input) {
        let now_ns = self.now_ns;
        if self.is_recorded {
            self.daemon.records.push(Record { now_ns, entry: Entry::Handshake(input.clone()) });
        }
        self.daemon.handshake.handle(input, now_ns);
        let by_replay = self.by_replay;
        let mut further = Vec::new();
        while let Some(output) = self.daemon.handshake.poll_output() {
            if self.is_recorded {
                self.daemon.outputs.push(Replayed::Handshake(output));
            }
            match output {
                handshake::Output::Transmit { link, target, broadcast, frame } => {
                    self.effects.push(Effect::Send { link: usize::from(link), broadcast, target, frame });
                }
                handshake::Output::Accept { slot, incarnation, previous } => {
                    self.kernel.accept(slot, incarnation);
                    self.effects.push(Effect::Accepted { slot, incarnation, by_replay });
                    let stamp_ns = now_ns;
                    further.push(detector::Input::Accepted { slot, incarnation, previous, stamp_ns });
                }
                handshake::Output::Told(told) => self.effects.push(Effect::Told { told, by_replay }),
                handshake::Output::DuplicateSelf { .. } => {
                    self.effects.push(Effect::DuplicateSelf { by_replay });
                }
            }
        }
        further.into_iter().for_each(|input| self.detector(input));
    }
}
