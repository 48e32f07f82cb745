//! What must hold in every world, each clause a few lines: the claims of the detector and the handshake, as a list.
//!
//! The judge goes by what the world did, not by what the machines say: which frames arrived, and of which frames they
//! were the echo; who was cut, killed, paused, frozen.

use std::collections::{BTreeMap, BTreeSet};

use ringbeat_core::detector::{EdgeState, PeerState};
use ringbeat_core::told::{Told, ToldKind, UpCause};

use crate::machine::{Effect, LOOP_NS, MS, STALL_NS};
use crate::world::{LATCH_MAX_NS, Packet, World};

/// Something that must be true at a later time.
#[derive(Clone, Debug)]
pub(crate) enum Promise {
    /// `by` has told `of` down, which has been silent since.
    Silent { by: usize, of: usize, since: u64 },
    /// `by` knows that the daemon of `of` is gone.
    Gone { by: usize, of: usize, since: u64 },
    /// `by` has told `of` stalled, or failed.
    Stalled { by: usize, of: usize, since: u64, is_failed: bool },
    /// Neither hears the other.
    Isolated { one: usize, other: usize, since: u64 },
    /// Not a promise: the plane of a machine that leaves is closed.
    Close { machine: usize, incarnation: u64 },
}

/// What the judge knows, and what it objects to first.
#[derive(Default)]
pub(crate) struct Judge {
    /// Incarnations whose daemon was killed.
    pub(crate) killed: BTreeSet<u64>,
    /// Incarnations that announced that they leave.
    pub(crate) leaving: BTreeSet<u64>,
    /// How often each kind was told, to see that the worlds have it all.
    pub(crate) tellings: BTreeMap<&'static str, u64>,
    pub(crate) objection: Option<String>,
    /// When a machine was last proven, on a link, that a slot lives; by the world's own account.
    proven: BTreeMap<(usize, usize, u8), u64>,
    /// What a machine has told of a slot.
    known: BTreeMap<(usize, u8), Known>,
    lost: BTreeMap<(usize, u8, u8), u64>,
    /// All incarnations that a machine has accepted of a slot.
    accepted: BTreeMap<(usize, u8), Vec<u64>>,
    own_links: BTreeMap<(usize, Option<u8>), bool>,
    seqs: BTreeMap<(usize, bool), u64>,
}

/// What was told of a peer in its present life.
#[derive(Clone, Copy, Default)]
struct Known {
    is_up: bool,
    is_down: bool,
    is_gone: bool,
    is_stalled: bool,
    is_failed: bool,
}

impl Judge {
    pub(crate) fn has_objection(&self) -> bool {
        self.objection.is_some()
    }

    pub(crate) fn begin_life(&mut self, machine: usize) {
        self.proven.retain(|key, _| key.0 != machine);
        self.known.retain(|key, _| key.0 != machine);
        self.lost.retain(|key, _| key.0 != machine);
        self.accepted.retain(|key, _| key.0 != machine);
        self.own_links.retain(|key, _| key.0 != machine);
        self.seqs.retain(|key, _| key.0 != machine);
    }
}

impl World {
    fn object(&mut self, machine: usize, clause: &str) {
        let at = self.now as f64 / MS as f64;
        let text = || format!("at {at:.3} ms, machine {machine}: {clause}");
        self.judge.objection.get_or_insert_with(text);
    }

    /// The deadline of the links; all have the same here.
    fn deadline(&self) -> u64 {
        self.scenario.plan.links[0].deadline_ns
    }

    /// A frame was taken in, or not; the world sees for itself whether it proves life.
    pub(crate) fn judge_frame(&mut self, machine: usize, packet: &Packet, taken: Option<bool>) {
        let proves = taken == Some(true);
        if packet.replay_to.is_some() && proves {
            self.object(machine, "a replayed frame proved life");
        }
        // What came before its sender was accepted was not taken in then, and may be now.
        if packet.replay_to.is_some() && taken.is_none() {
            return;
        }
        let frame = &packet.frame;
        let Some(kernel) = &self.machines[machine].kernel else { return };
        let (own, accepted) = (kernel.node.incarnation, kernel.accepted(frame.sender()));
        if own == 0 || frame.target_incarnation() != own || frame.incarnation() != accepted {
            return;
        }
        let key = (machine, usize::from(frame.link()), frame.sender());
        let had = self.had.entry(key).or_insert((packet.sent, accepted));
        *had = (*had).max((packet.sent, accepted));
        let is_fresh =
            |(left, life): (u64, u64)| life == own && self.now - left <= self.deadline() - MS / 100;
        if packet.echo.is_some_and(is_fresh) {
            self.judge.proven.insert(key, self.now);
        } else if proves && packet.echo.is_none_or(|(_, life)| life != own) {
            self.object(machine, "a frame proved life that echoes nothing of this life");
        } else if proves && packet.echo.is_some_and(|(left, _)| self.now - left > self.deadline() + MS / 10) {
            self.object(machine, "a frame proved life that echoes nothing fresh");
        }
    }

    /// A shell did something.
    pub(crate) fn judge_effect(&mut self, machine: usize, effect: &Effect) {
        match effect {
            Effect::Send { .. } => {}
            Effect::Accepted { slot, incarnation, by_replay } => {
                if *by_replay {
                    self.object(machine, "a replayed message was believed");
                }
                let key = (machine, *slot);
                self.judge.proven.retain(|proven, _| (proven.0, proven.2) != key);
                self.had.retain(|had, _| (had.0, had.2) != key);
                self.judge.lost.retain(|lost, _| (lost.0, lost.1) != key);
                let accepted = self.judge.accepted.entry(key).or_default();
                let is_known = accepted.contains(incarnation);
                accepted.push(*incarnation);
                if is_known {
                    self.object(machine, "an incarnation was accepted twice");
                }
            }
            Effect::Told { told, by_replay } => {
                *self.judge.tellings.entry(told.kind.name()).or_default() += 1;
                if *by_replay {
                    self.object(machine, "a replayed message made something told");
                }
                self.judge_told(machine, told);
            }
            Effect::DuplicateSelf { by_replay } => {
                *self.judge.tellings.entry("duplicate_self").or_default() += 1;
                let slot = self.machines[machine].slot;
                if *by_replay || self.scenario.duplicate_of != Some(slot) {
                    self.object(machine, "no duplicate is there");
                }
            }
        }
    }

    fn judge_told(&mut self, machine: usize, told: &Told) {
        if self.scenario.is_loud {
            let at = self.now as f64 / MS as f64;
            println!("{at:>10.3} machine {machine} {} {:?} {:?}", told.kind.name(), told.slot, told.link);
        }
        let by_handshake = matches!(
            told.kind,
            ToldKind::IncarnationRolledBack { .. }
                | ToldKind::DuplicatePeer { .. }
                | ToldKind::ConfigDiffers { .. }
        );
        let seq = self.judge.seqs.entry((machine, by_handshake)).or_default();
        *seq += 1;
        if *seq != told.seq {
            self.object(machine, "a sequence number is missing");
        }
        match told.kind {
            ToldKind::OwnLinkDown | ToldKind::OwnLinkUp | ToldKind::Alone | ToldKind::NotAlone => {
                let up = matches!(told.kind, ToldKind::OwnLinkUp | ToldKind::NotAlone);
                if self.judge.own_links.insert((machine, told.link), up).unwrap_or(true) == up {
                    self.object(machine, "the same was told twice of the own links");
                }
            }
            ToldKind::IncarnationRolledBack { .. } => {}
            ToldKind::DuplicatePeer { .. } => {
                if self.scenario.duplicate_of != told.slot {
                    self.object(machine, "a peer without a duplicate was told to have one");
                }
            }
            _ => {
                let slot = told.slot.unwrap_or(u8::MAX);
                self.judge_peer(machine, slot, told);
            }
        }
    }

    fn judge_peer(&mut self, machine: usize, slot: u8, told: &Told) {
        let known = self.judge.known.get(&(machine, slot)).copied().unwrap_or_default();
        let mut next = known;
        let stamp = self.machines[machine].truth(told.stamp_ns);
        let life = told.incarnation;
        match told.kind {
            ToldKind::PeerDown | ToldKind::PeerLeft => {
                if known.is_down || !(known.is_up || known.is_gone) {
                    self.object(machine, "a peer was told down that was not up");
                }
                next = Known { is_down: true, is_gone: known.is_gone, ..Known::default() };
                if told.kind == ToldKind::PeerLeft && !self.judge.leaving.contains(&life) {
                    self.object(machine, "a peer left that had not announced it");
                }
                self.judge_down(machine, slot, stamp);
            }
            ToldKind::PeerUp => {
                if known.is_up || known.is_gone {
                    self.object(machine, "a peer was told up that was up, or gone");
                }
                next = Known { is_up: true, ..Known::default() };
            }
            ToldKind::PeerRestarted { .. } => next = Known::default(),
            ToldKind::PeerGone => {
                if known.is_gone || !self.judge.killed.contains(&life) {
                    self.object(machine, "a peer was told gone whose daemon is there");
                }
                next.is_gone = true;
            }
            ToldKind::PeerStalled => {
                if !known.is_up || known.is_gone || known.is_stalled || !self.was_halted(slot, 1000 * MS) {
                    self.object(machine, "a daemon was told stalled that runs");
                }
                next.is_stalled = true;
            }
            ToldKind::PeerFailed => {
                if !known.is_stalled || known.is_failed {
                    self.object(machine, "a daemon failed that was not stalled");
                }
                next.is_failed = true;
            }
            ToldKind::PeerRunning { was_failed } => {
                if !known.is_stalled || known.is_failed != was_failed {
                    self.object(machine, "a daemon runs again that had not stopped");
                }
                (next.is_stalled, next.is_failed) = (false, false);
            }
            ToldKind::LinkDown => {
                self.judge.lost.insert((machine, slot, told.link.unwrap_or(0)), stamp);
            }
            ToldKind::LinkUp { cause } => {
                let key = (machine, slot, told.link.unwrap_or(0));
                let lost = self.judge.lost.remove(&key);
                let least = 10 * self.scenario.plan.links[0].interval_ns - MS / 10;
                if cause == UpCause::Damped && lost.is_some_and(|lost| stamp - lost < least) {
                    self.object(machine, "a link came back without damping");
                }
                if cause == UpCause::First && lost.is_some() {
                    self.object(machine, "a link came back as if for the first time");
                }
            }
            _ => {}
        }
        self.judge.known.insert((machine, slot), next);
    }

    /// No peer is told down of which, by the world's account, life was proven in the last deadline, or of which there is
    /// no way to know.
    fn judge_down(&mut self, machine: usize, slot: u8, stamp: u64) {
        let noticed = &self.machines[machine].noticed;
        let links: Vec<usize> = (0..noticed.len()).filter(|link| noticed[*link]).collect();
        if links.is_empty() {
            self.object(machine, "a peer was accused with all own links down");
        }
        // Frames may overtake one another, and the kernel takes those in order only.
        let slack = self.scenario.delay.1 + MS / 2;
        let reaches = stamp.saturating_sub(self.deadline()) + slack;
        for link in links {
            let proven = self.judge.proven.get(&(machine, link, slot)).copied();
            if proven.is_some_and(|proven| proven > reaches && proven < stamp) {
                self.object(machine, "a peer was told down that had just proven its life");
            }
            let peer = self.machines.iter().position(|other| other.slot == slot).unwrap_or(0);
            let since = self.now.saturating_sub(1000 * MS);
            if self.scenario.loss_permille == 0
                && self.scenario.duplicate_of.is_none()
                && self.machines[peer].touched < since
                && self.machines[peer].frozen_until < since
                && self.now > 600 * MS
                && self.is_untouched(machine, peer, link, since)
                && self.machines[machine].own_links[link]
            {
                self.object(machine, "a peer was told down to which nothing has happened");
            }
        }
    }

    /// Whether nothing has happened to the link between the two, own carriers included.
    fn is_untouched(&self, one: usize, other: usize, link: usize, since: u64) -> bool {
        let is_well = |from, to| {
            let path = self.paths.get(&(from, to, link)).copied().unwrap_or_default();
            !path.is_cut && path.touched < since
        };
        let has_carrier = |machine: usize| self.machines[machine].own_links[link];
        is_well(one, other) && is_well(other, one) && has_carrier(one) && has_carrier(other)
    }

    fn was_halted(&self, slot: u8, for_ns: u64) -> bool {
        let of_slot = self.machines.iter().filter(|machine| machine.slot == slot);
        let is_recent = |halted: u64| halted + for_ns > self.now;
        of_slot.into_iter().any(|machine| machine.paused || machine.halted.is_some_and(is_recent))
    }

    fn state(&self, by: usize, of: usize) -> Option<PeerState> {
        let daemon = self.machines[by].daemon.as_ref()?;
        Some(daemon.detector.peer_state(self.machines[of].slot))
    }

    /// The others that know `of` to be up now, and can be held to something.
    fn survivors(&self, of: usize) -> Vec<usize> {
        let is_up = |by: &usize| {
            *by != of
                && self.machines[*by].runs(self.now)
                && matches!(self.state(*by, of), Some(PeerState::Up | PeerState::Stalled | PeerState::Failed))
        };
        if self.scenario.duplicate_of.is_some() {
            return Vec::new();
        }
        (0..self.machines.len()).filter(is_up).collect()
    }

    /// Whether nothing has happened to the machine since, and it was at work all the time.
    fn is_steady(&self, by: usize, since: u64) -> bool {
        self.machines[by].touched < since
            && self.machines[by].frozen_until < since
            && self.machines[by].own_links.iter().all(|up| *up)
            && self.machines[by].runs(self.now)
    }

    /// A silence is told within the deadline, an interval, a tick, and the way to the daemon.
    fn silence_bound(&self, by: usize) -> u64 {
        let interval_ns = self.scenario.plan.links[0].interval_ns;
        let credit_ns = self.machines[by].kernel.as_ref().map_or(0, |kernel| kernel.credit.ns);
        self.deadline() + interval_ns + 10 * MS + credit_ns + self.scenario.delay.1 + self.slack()
    }

    pub(crate) fn promise_silence(&mut self, of: usize) {
        for by in self.survivors(of) {
            let promise = Promise::Silent { by, of, since: self.now };
            self.promise(self.now + self.silence_bound(by), promise);
        }
    }

    pub(crate) fn promise_gone(&mut self, of: usize) {
        let interval_ns = self.scenario.plan.links[0].interval_ns;
        let bound = LATCH_MAX_NS + interval_ns + 2 * self.scenario.delay.1 + self.slack();
        for by in self.survivors(of) {
            self.promise(self.now + bound, Promise::Gone { by, of, since: self.now });
        }
    }

    pub(crate) fn promise_stalled(&mut self, of: usize) {
        let interval_ns = self.scenario.plan.links[0].interval_ns;
        let bound = interval_ns + 2 * self.scenario.delay.1 + self.slack();
        for by in self.survivors(of) {
            for (after, is_failed) in [(100 * MS, false), (STALL_NS + LOOP_NS, true)] {
                let promise = Promise::Stalled { by, of, since: self.now, is_failed };
                self.promise(self.now + after + bound, promise);
            }
        }
    }

    pub(crate) fn promise_isolated(&mut self, one: usize, other: usize) {
        let is_cut = |link| {
            [(one, other, link), (other, one, link)]
                .iter()
                .any(|key| self.paths.get(key).is_some_and(|path| path.is_cut))
        };
        if self.scenario.duplicate_of.is_none() && (0..self.scenario.plan.links.len()).all(is_cut) {
            // The echo that is still under way is as old as a deadline at most.
            let bound = self.silence_bound(one).max(self.silence_bound(other)) + self.deadline();
            self.promise(self.now + bound, Promise::Isolated { one, other, since: self.now });
        }
    }

    /// The time of a promise has come.
    pub(crate) fn keep(&mut self, promise: &Promise) {
        match *promise {
            Promise::Silent { by, of, since } => {
                let state = self.state(by, of);
                let is_told = matches!(state, Some(PeerState::Down | PeerState::Left));
                if self.machines[of].kernel.is_none() && self.is_steady(by, since) && !is_told {
                    self.object(by, &format!("a host has vanished, and is {state:?}"));
                }
            }
            Promise::Gone { by, of, since } => {
                let is_dead = self.machines[of].daemon.is_none() && self.machines[of].touched <= since;
                if is_dead && self.can_tell(by, of, since) && self.state(by, of) != Some(PeerState::Gone) {
                    let state = self.state(by, of);
                    self.object(by, &format!("a daemon is gone, and its peer is {state:?}"));
                }
            }
            Promise::Stalled { by, of, since, is_failed } => {
                let is_halted = self.machines[of].paused
                    && self.machines[of].daemon.is_some()
                    && self.machines[of].touched <= since
                    && !self.judge.leaving.contains(&self.machines[of].incarnation());
                let state = self.state(by, of);
                let is_told =
                    state == Some(PeerState::Failed) || (!is_failed && state == Some(PeerState::Stalled));
                if is_halted && self.can_tell(by, of, since) && !is_told {
                    self.object(by, &format!("a daemon stands still, and its peer is {state:?}"));
                }
            }
            Promise::Isolated { one, other, since } => self.keep_apart(one, other, since),
            Promise::Close { machine, incarnation } => {
                let subject = &mut self.machines[machine];
                if subject.incarnation() == incarnation && subject.daemon.is_some() {
                    subject.daemon = None;
                    subject.kernel = None;
                    subject.wake_at = None;
                }
            }
        }
    }

    fn keep_apart(&mut self, one: usize, other: usize, since: u64) {
        let is_cut = |world: &Self, link| {
            [(one, other, link), (other, one, link)]
                .iter()
                .any(|key| world.paths.get(key).is_some_and(|path| path.is_cut && path.touched <= since))
        };
        if !(0..self.scenario.plan.links.len()).all(|link| is_cut(self, link)) {
            return;
        }
        for (by, of) in [(one, other), (other, one)] {
            let state = self.state(by, of);
            if self.is_steady(by, since) && matches!(state, Some(PeerState::Up)) {
                self.object(by, "a peer is up on links that are all cut");
            }
        }
    }

    /// Whether nothing is lost, and a link between the two has been well from before `since`.
    fn can_tell(&self, by: usize, of: usize, since: u64) -> bool {
        let links = 0..self.scenario.plan.links.len();
        let slot = self.machines[of].slot;
        let is_up = |link: usize| {
            let detector = self.machines[by].daemon.as_ref().map(|daemon| &daemon.detector);
            detector.is_some_and(|detector| detector.edge_state(link as u8, slot) == EdgeState::Up)
                && self.is_untouched(by, of, link, since)
        };
        self.scenario.loss_permille == 0
            && self.is_steady(by, since)
            && self.machines[of].frozen_until < since
            && links.into_iter().any(is_up)
    }

    /// All has healed, for long enough.
    pub(crate) fn judge_end(&mut self) {
        if self.judge.has_objection() {
            return;
        }
        if let Some(slot) = self.scenario.duplicate_of {
            for machine in 0..self.machines.len() {
                let daemon = self.machines[machine].daemon.as_ref();
                let knows = daemon.is_some_and(|daemon| daemon.handshake.duplicate().is_some());
                if self.machines[machine].slot == slot && !knows {
                    self.object(machine, "it is one of two with its slot, and does not know");
                }
            }
            return;
        }
        let all = (1 << self.scenario.plan.nodes) - 1;
        for by in 0..self.machines.len() {
            for of in (0..self.machines.len()).filter(|of| *of != by) {
                let state = self.state(by, of);
                let slot = self.machines[of].slot;
                let Some(daemon) = &self.machines[by].daemon else { continue };
                let edge = |link| daemon.detector.edge_state(link, slot);
                let edges = (0..self.scenario.plan.links.len() as u8).map(edge);
                let is_well = state == Some(PeerState::Up) && edges.clone().all(|edge| edge == EdgeState::Up);
                if !is_well {
                    let edges: Vec<EdgeState> = edges.collect();
                    let clause = format!("all has healed, and machine {of} is {state:?} by {edges:?}");
                    self.object(by, &clause);
                } else if daemon.detector.incarnation(slot) != Some(self.machines[of].incarnation()) {
                    self.object(by, "all has healed, and an old incarnation is believed");
                } else if daemon.detector.heard() != all {
                    self.object(by, "all has healed, and somebody is not in the row");
                }
            }
        }
    }
}
