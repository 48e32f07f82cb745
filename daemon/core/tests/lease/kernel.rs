//! The programs of a node: a run receives a frame and answers it, or completes a probe; it can be held up between any
//! two of its steps, and inside of the lease's functions before any access. `ebpf/src/heartbeat.rs` and `egress.rs`
//! have the same order.

use ringbeat_common::compose::{Address, Granting, compose, may_grant};
use ringbeat_common::frame::{Frame, Kind, flags};
use ringbeat_common::lease::Serving;
use ringbeat_common::maps::{Latch, Node as Door, latch};
use ringbeat_common::slot::{Local, Snapshot};
use ringbeat_common::view::View;

use crate::plan::{INTERVAL_NS, Mutation};
use crate::table::{ALL, Call, Gave, Progress};
use crate::tally::Met;
use crate::world::{Happening, World, trace};

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    Take,
    Lease,
    Prepare,
    Grant,
    Leave,
}

/// One run of a program.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) node: usize,
    boot: u32,
    peer: usize,
    link: usize,
    /// What was received; none for a probe.
    received: Option<Frame>,
    stage: Stage,
    call: Progress,
    door: Door,
    latch: Latch,
    serving: Serving,
    snapshot: Snapshot,
    sequence: u64,
    now_ns: u64,
    /// When the daemon's death was looked at.
    gone_ns: u64,
    grant: bool,
}

impl World<'_> {
    fn new_run(&self, node: usize, peer: usize, link: usize, received: Option<Frame>) -> Box<Run> {
        let state = &self.nodes[node];
        Box::new(Run {
            node,
            boot: state.boot,
            peer,
            link,
            received,
            stage: Stage::Serving,
            call: Progress::new(Call::Serving),
            door: state.door,
            latch: state.latch,
            serving: Serving { generation: 0, view: View::NONE },
            snapshot: Snapshot::default(),
            sequence: 0,
            now_ns: 0,
            gone_ns: 0,
            grant: false,
        })
    }

    pub(crate) fn cell(&self, link: usize, peer: usize) -> usize {
        link * self.plan.nodes + peer
    }

    /// The probes of one link.
    pub(crate) fn beat(&mut self, node: usize, link: usize) {
        for peer in (0..self.plan.nodes).filter(|peer| *peer != node) {
            let run = self.new_run(node, peer, link, None);
            self.go_on(run);
        }
        let wait_ns = self.dice.within(INTERVAL_NS * 9 / 10, INTERVAL_NS * 11 / 10);
        self.after(wait_ns, Happening::Beat { node, link });
        if link == 0 {
            self.daemon_beats(node);
        }
    }

    /// A frame arrives.
    pub(crate) fn receive(&mut self, node: usize, link: usize, mut frame: Frame) {
        let peer = usize::from(frame.sender());
        let accepted = self.nodes[node].slots[self.cell(link, peer)].incarnation;
        let own = self.nodes[node].door.incarnation;
        if frame.incarnation() != accepted || frame.target_incarnation() != own {
            self.tally.met(Met::OldLife);
            if self.mutation == Mutation::OldLives && accepted != 0 && own != 0 {
                frame.set_incarnation(accepted);
                frame.set_target_incarnation(own);
            }
        }
        let run = self.new_run(node, peer, link, Some(frame));
        self.go_on(run);
    }

    /// A run goes on, until it is done or held up.
    pub(crate) fn go_on(&mut self, mut run: Box<Run>) {
        if run.boot != self.nodes[run.node].boot {
            return;
        }
        loop {
            let ends = matches!(run.call.call, Call::Ended { .. }) && run.stage == Stage::Lease;
            let held_permille = if ends { self.plan.held_ended_permille } else { self.plan.held_permille };
            if self.dice.permille(held_permille) {
                return self.hold_up(run);
            }
            let next = match run.stage {
                Stage::Serving => match self.step(&mut run) {
                    None => return self.hold_up(run),
                    Some(Gave::Serving(serving)) => {
                        run.serving = serving;
                        Some(Stage::Take)
                    }
                    Some(_) => None,
                },
                Stage::Take => self.take(&mut run),
                Stage::Lease => match self.step(&mut run) {
                    None => return self.hold_up(run),
                    Some(_) => self.answers(&run),
                },
                Stage::Prepare => self.prepare(&mut run),
                Stage::Grant => match self.step(&mut run) {
                    None => return self.hold_up(run),
                    Some(gave) => {
                        run.grant = matches!(gave, Gave::Granted(true));
                        Some(Stage::Leave)
                    }
                },
                Stage::Leave => {
                    self.leave(&run);
                    None
                }
            };
            match next {
                None => return,
                Some(stage) => run.stage = stage,
            }
        }
    }

    /// The run's call, or as many of its accesses as it may make now.
    fn step(&mut self, run: &mut Run) -> Option<Gave> {
        let held = self.plan.held_permille != 0;
        let accesses = match held && (run.call.has_begun() || self.dice.permille(150)) {
            true if self.dice.permille(600) => self.dice.within(0, 12) as usize,
            _ => ALL,
        };
        let state = &self.nodes[run.node];
        let generation = ringbeat_common::lease::serving(&*state.table).generation;
        if run.stage != Stage::Serving && run.serving.generation != generation {
            self.tally.met(Met::RunOutlivedView);
        }
        let state = &self.nodes[run.node];
        run.call.advance(&state.table, &self.functions, &self.plan.votes, accesses)
    }

    fn hold_up(&mut self, run: Box<Run>) {
        self.tally.met(Met::RunHeldUp);
        let longest_ns = [1_000, 100_000, INTERVAL_NS, INTERVAL_NS * 6][self.dice.index(4)];
        let wait_ns = self.dice.within(0, longest_ns);
        self.after(wait_ns, Happening::Run(run));
    }

    /// The frame is held against the slot; for a probe, what it will return is read.
    fn take(&mut self, run: &mut Run) -> Option<Stage> {
        run.now_ns = self.local_ns(run.node);
        // Before the latch: whoever registers in time is then never taken for gone.
        run.gone_ns = run.now_ns;
        run.latch = self.nodes[run.node].latch;
        let cell = self.cell(run.link, run.peer);
        let Some(frame) = run.received else { return Some(Stage::Prepare) };
        if run.door.incarnation == 0 {
            return None;
        }
        let freshness_ns = match self.mutation {
            Mutation::StaleTaken => u64::MAX,
            _ => u64::from(self.plan.lease_us) * 1000,
        };
        let slot = &mut self.nodes[run.node].slots[cell];
        if self.mutation == Mutation::ReplaysTaken {
            (slot.probe_sequence, slot.answer_sequence) = (0, 0);
        }
        let local = Local {
            incarnation: run.door.incarnation,
            view: [run.serving.view.epoch, run.serving.view.members, run.serving.view.rest],
            freshness_ns,
            now_ns: run.now_ns,
        };
        let proves = match slot.accept(&frame, &local) {
            Err(_) => return None,
            Ok(proves) => proves,
        };
        if !proves {
            self.tally.met(Met::Stale);
            return self.answers(run);
        }
        let slot = run.peer as u8;
        if frame.flags() & (flags::GONE | flags::RELEASED) != 0 {
            self.tally.met(Met::Ended);
            trace!(self, "{} hears that {} is gone", run.node, run.peer);
            let serving = self.seen_last(run);
            run.call = Progress::new(Call::Ended { serving, slot, now_ns: run.now_ns });
        } else if frame.flags() & flags::GRANT != 0 {
            self.tally.met(Met::Counted);
            let view = View { epoch: frame.view_epoch(), members: frame.view_members(), rest: frame.0[9] };
            let serving = self.seen_last(run);
            let (stamp_ns, now_ns) = (frame.returned(), run.now_ns);
            run.call = Progress::new(Call::Count { serving, slot, view, stamp_ns, now_ns });
        } else {
            return self.answers(run);
        }
        Some(Stage::Lease)
    }

    /// What a program takes for served; a broken one reads the generation only now.
    fn seen_last(&self, run: &Run) -> Serving {
        if self.mutation != Mutation::GenerationLast {
            return run.serving;
        }
        let generation = ringbeat_common::lease::serving(&*self.nodes[run.node].table).generation;
        Serving { generation, ..run.serving }
    }

    fn answers(&self, run: &Run) -> Option<Stage> {
        let is_probe = run.received.is_some_and(|frame| frame.kind() == Kind::Probe as u8);
        is_probe.then_some(Stage::Prepare)
    }

    fn prepare(&mut self, run: &mut Run) -> Option<Stage> {
        let cell = self.cell(run.link, run.peer);
        let state = &mut self.nodes[run.node];
        if self.mutation == Mutation::LatchFirst && run.received.is_none() {
            run.gone_ns = state.clock.at(self.now_ns);
        } else {
            run.latch = state.latch;
        }
        // What is gone is said by this, whenever the frame leaves.
        let gone = Latch::is_gone(run.latch.state, run.latch.handover_until_ns, run.gone_ns);
        run.latch.state = if gone { latch::GONE } else { latch::ALIVE };
        match run.received {
            // An answer's reading of the clock is that of the receipt.
            Some(frame) => {
                run.sequence = frame.sequence();
                run.snapshot =
                    Snapshot { incarnation: frame.incarnation(), stamp: frame.stamp(), received: run.now_ns };
            }
            None => {
                run.door = state.door;
                run.snapshot = state.slots[cell].snapshot();
                if run.door.incarnation == 0 || run.snapshot.incarnation == 0 {
                    return None;
                }
                run.now_ns = state.clock.at(self.now_ns);
                state.sent[cell] += 1;
                run.sequence = state.sent[cell];
            }
        }
        let mut latch = run.latch;
        if self.mutation == Mutation::GranterIgnoresLatch {
            latch.state = latch::ALIVE;
        }
        if !may_grant(&run.door, &latch, run.now_ns) {
            return Some(Stage::Leave);
        }
        run.call = Progress::new(Call::Grant {
            serving: self.seen_last(run),
            slot: run.peer as u8,
            received_ns: run.snapshot.received,
            now_ns: run.now_ns,
        });
        Some(Stage::Grant)
    }

    fn leave(&mut self, run: &Run) {
        let kind = if run.received.is_some() { Kind::Answer } else { Kind::Probe };
        let to = Address { target: run.peer as u8, link: run.link as u8, sequence: run.sequence };
        let granting = Granting { view: run.serving.view, grant: run.grant };
        if run.grant {
            self.tally.met(Met::Granted);
        }
        let mut frame = Frame::default();
        compose(&mut frame, kind, &run.door, &run.latch, to, run.snapshot, granting, run.now_ns);
        self.send(run.node, run.peer, run.link, frame);
    }
}
