//! The main loop: one thread that waits, feeds the machines, and carries out what they say.
//!
//! It follows the core's contract to the letter: everything that is waiting goes in first, then the timers. It never
//! blocks on a disk, a client or a peer. Its beat, which every frame carries to the peers, is the first thing of each
//! round, so a loop that hangs anywhere is told by the kernel as stalled.

mod ability;
mod handshakes;
mod looks;
mod ring;
mod views;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use ringbeat_common::event::LEASE_CELL;
use ringbeat_common::frame::flags;
use ringbeat_common::lease::PROMISE_QUARTERS;
use ringbeat_common::limits::SLOTS_MAX;
use ringbeat_common::view::View;
use ringbeat_control::{DaemonState, EventRecord, Evidence, incarnation_text};
use ringbeat_core::detector::{self, Detector, LinkTimes};
use ringbeat_core::handshake::{self, Handshake};
use ringbeat_core::membership;
use ringbeat_core::told::{Told, ToldKind};
use rustix::event::{PollFd, PollFlags, poll};

use crate::agreed::{digest_of, version_of};
use crate::carrier::Carrier;
use crate::control::Ask;
use crate::exit::{Exit, Refusal};
use crate::plane::Plane;
use crate::report;
use crate::reserve;
use crate::start::Started;
use crate::sys::clock::{boot_ns, timespec};
use crate::sys::realtime;

pub use self::views::{GateState, Views};

/// The longest sleep: the beat must be younger than what peers call stalled, by far.
const BEAT_NS: u64 = 20_000_000;
/// Between two looks over all cells for events that a full ring has lost.
const LOOK_NS: u64 = 100_000_000;
/// Between two looks at the carriers, should netlink have lost a note.
const CARRIER_NS: u64 = 1_000_000_000;
/// How long "leaving" is said before silence, at the least.
const LEAVE_MIN_NS: u64 = 50_000_000;
/// Intervals for which it is said.
const LEAVE_INTERVALS: u64 = 3;

/// The daemon's state around the machines.
pub struct Runtime {
    /// What it was started with.
    pub started: Started,
    /// Links and peers.
    pub detector: Detector,
    /// Incarnations.
    pub handshake: Handshake,
    /// Views, the lease, the addresses.
    pub views: Views,
    /// When this daemon started.
    pub since_ns: u64,
    /// The longest round so far.
    pub round_max_ns: u64,
    /// Events found by the look over the cells.
    pub events_lost: u64,
    carrier: Option<Carrier>,
    /// Whether each link's probes are refused by the kernel, all of them.
    refused: Vec<bool>,
    /// Refusals and probes that left, of each link, at the last look.
    flow: Vec<(u64, u64)>,
    /// Why each link cannot send, in the configuration's order.
    pub faults: Vec<Option<&'static str>>,
    /// The state words as the detector knows them.
    known: Vec<u64>,
    /// Whether another machine bears our slot.
    pub duplicate: Option<u64>,
    /// A view whose ring does not turn, and whose members have not agreed anew yet.
    lost_ring: Option<View>,
    leave_at_ns: Option<u64>,
    handover_until_ns: u64,
    look_ns: u64,
    carrier_ns: u64,
}

/// Runs until a signal ends it.
pub fn run(started: Started) -> Result<(), Refusal> {
    let wake = Arc::clone(&started.wake);
    let mut runtime = Runtime::new(started);
    runtime.open()?;
    loop {
        runtime.wait(&wake);
        let now_ns = boot_ns();
        runtime.started.plane.beat(now_ns);
        runtime.take_all(now_ns);
        runtime.take_timeouts(now_ns);
        runtime.end_handover(now_ns);
        runtime.answer_all();
        if runtime.started.stop.take() {
            runtime.leave(now_ns);
        }
        runtime.round_max_ns = runtime.round_max_ns.max(boot_ns() - now_ns);
        if runtime.leave_at_ns.is_some_and(|at| boot_ns() >= at) {
            return runtime.end();
        }
    }
}

impl Runtime {
    fn new(started: Started) -> Self {
        let own = started.identity.slot;
        let peers: Vec<u8> = started.config.nodes().iter().map(|node| node.slot()).collect();
        let times = started.links.iter().map(|link| LinkTimes {
            link: link.id,
            interval_ns: link.interval_ns,
            deadline_ns: link.deadline_ns,
        });
        let detector = Detector::new(&detector::Config {
            own,
            peers: peers.clone(),
            links: times.collect(),
            daemon_stall_ns: u64::from(started.config.cluster().daemon_stall_ms()) * 1_000_000,
            damping: detector::Damping::default(),
        });
        let handshake = Handshake::new(&handshake::Config {
            own,
            incarnation: started.incarnation,
            cluster_id: started.identity.cluster_id,
            config_version: started.identity.config_version,
            peers,
            links: started.links.iter().map(|link| link.id).collect(),
        });
        let carrier = Carrier::listen()
            .inspect_err(|error| tracing::warn!(%error, "carriers are looked at once a second only"))
            .ok();
        let links = started.links.len();
        let now_ns = boot_ns();
        let views = Views::new(&started, 1 << own, now_ns);
        let (faults, refused, flow) = (vec![None; links], vec![false; links], vec![(0, 0); links]);
        Self {
            started,
            detector,
            handshake,
            views,
            since_ns: now_ns,
            round_max_ns: 0,
            events_lost: 0,
            carrier,
            refused,
            flow,
            faults,
            known: vec![0; SLOTS_MAX],
            duplicate: None,
            lost_ring: None,
            leave_at_ns: None,
            handover_until_ns: 0,
            look_ns: 0,
            carrier_ns: 0,
        }
    }

    /// Takes over the peers of a daemon that handed over, then opens.
    fn open(&mut self) -> Result<(), Refusal> {
        let incarnation = self.started.incarnation;
        self.started.plane.open(incarnation).map_err(|error| Refusal::new(Exit::Failed, &error))?;
        let now_ns = boot_ns();
        self.started.plane.beat(now_ns);
        if self.started.adopted {
            self.adopt(now_ns);
        }
        self.look_at_carriers(now_ns);
        self.views = Views::new(&self.started, self.detector.heard(), now_ns);
        self.begin_views(now_ns);
        self.give_nonces(now_ns);
        self.carry_out(now_ns);
        let said = incarnation_text(incarnation).unwrap_or_default();
        let node = self.started.config.own().name();
        let adopted = self.started.adopted;
        tracing::info!(node, incarnation = %said, adopted, "open");
        Ok(())
    }

    /// The peers whose incarnations the pinned slots hold, in the state that their cells are in.
    fn adopt(&mut self, now_ns: u64) {
        for slot in self.peer_slots() {
            let first = self.started.links.first().map_or(0, |link| link.id);
            let incarnation = self.started.plane.slot(first, slot).incarnation;
            if incarnation == 0 {
                continue;
            }
            self.handshake.handle(handshake::Input::Adopted { slot, incarnation }, now_ns);
            let accepted = detector::Input::Accepted { slot, incarnation, previous: None, stamp_ns: now_ns };
            self.detector.handle(accepted, now_ns);
        }
        self.look_over_cells(now_ns, false);
        self.aim();
    }

    /// The slots of the other nodes.
    pub fn peer_slots(&self) -> Vec<u8> {
        let own = self.started.identity.slot;
        self.started.config.nodes().iter().map(|node| node.slot()).filter(|slot| *slot != own).collect()
    }

    fn wait(&self, wake: &OwnedFd) {
        let now_ns = boot_ns();
        let mut until_ns = now_ns + BEAT_NS;
        let timeouts = [
            self.detector.next_timeout(),
            self.handshake.next_timeout(),
            self.views.membership.next_timeout(),
            self.views.alone_at_ns,
            self.leave_at_ns,
        ];
        for at in timeouts.into_iter().flatten() {
            until_ns = until_ns.min(at);
        }
        let timeout = timespec(until_ns.saturating_sub(now_ns));
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.started.plane.events_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.started.asks.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN),
        ];
        if let Some(actions) = &self.started.actions {
            fds.push(PollFd::from_borrowed_fd(actions.fd(), PollFlags::IN));
        }
        if let Some(carrier) = &self.carrier {
            fds.push(PollFd::from_borrowed_fd(carrier.fd(), PollFlags::IN));
        }
        if self.started.plane.is_kernel() {
            for sockets in &self.started.sockets {
                fds.push(PollFd::from_borrowed_fd(sockets.own(), PollFlags::IN));
                fds.push(PollFd::from_borrowed_fd(sockets.everyone(), PollFlags::IN));
            }
        }
        let _ = poll(&mut fds, Some(&timeout));
        let _ = rustix::io::read(wake, &mut [0; 8]);
    }

    /// Everything that is waiting: events first, then frames, then what the looks find.
    fn take_all(&mut self, now_ns: u64) {
        self.take_events(now_ns);
        self.take_handshakes(now_ns);
        self.take_done();
        self.take_ring(now_ns);
        let changed = self.carrier.as_ref().is_some_and(|carrier| carrier.drain());
        if changed || now_ns >= self.carrier_ns {
            self.look_at_carriers(now_ns);
            self.look_at_services(now_ns);
            self.carrier_ns = now_ns + CARRIER_NS;
            if realtime::unlock_if_over() {
                let mut said = self.started.realtime.lock().unwrap_or_else(PoisonError::into_inner);
                said.memory = format!("not locked: over {} MiB", realtime::LOCKED_MAX >> 20);
                said.granted = false;
            }
        }
        if now_ns >= self.look_ns {
            self.look_ns = now_ns + LOOK_NS;
            self.take_events(now_ns);
            self.look_over_cells(now_ns, true);
            self.look_over_lease(now_ns);
            self.look_at_flow(now_ns);
            if let Plane::Kernel(plane) = &mut self.started.plane {
                plane.listen();
            }
        }
        self.carry_out(now_ns);
    }

    fn take_events(&mut self, now_ns: u64) {
        while let Some(event) = self.started.plane.next_event() {
            if event.cell == LEASE_CELL {
                self.lease_event(&event);
                continue;
            }
            if let Some(known) = self.known.get_mut(event.cell as usize) {
                *known = event.to;
            }
            tracing::trace!(?event, "cell");
            self.detector.handle(detector::Input::Cell(event), now_ns);
            self.carry_out(now_ns);
        }
    }

    fn take_timeouts(&mut self, now_ns: u64) {
        if self.detector.next_timeout().is_some_and(|at| at <= now_ns) {
            self.detector.handle(detector::Input::Timeout, now_ns);
            self.carry_out(now_ns);
        }
        if self.handshake.next_timeout().is_some_and(|at| at <= now_ns) {
            self.handshake.handle(handshake::Input::Timeout, now_ns);
            self.carry_out(now_ns);
        }
        self.take_view_timeouts(now_ns);
    }

    /// Carries out all that the machines have said.
    fn carry_out(&mut self, now_ns: u64) {
        let mut changed = false;
        loop {
            if let Some(output) = self.detector.poll_output() {
                changed = true;
                match output {
                    detector::Output::Told(told) => self.tell(&told),
                    detector::Output::Heard { slot } => {
                        self.handshake.handle(handshake::Input::Heard { slot }, now_ns);
                    }
                    detector::Output::Silent { slot } => {
                        self.handshake.handle(handshake::Input::Silent { slot }, now_ns);
                    }
                }
            } else if let Some(output) = self.handshake.poll_output() {
                match output {
                    handshake::Output::Transmit { link, target, broadcast, frame } => {
                        self.transmit(link, target, broadcast, frame);
                    }
                    handshake::Output::Accept { slot, incarnation, previous } => {
                        self.accept(slot, incarnation, previous);
                    }
                    handshake::Output::Told(told) => self.tell(&told),
                    handshake::Output::DuplicateSelf { incarnation } => self.stand_aside(incarnation),
                }
            } else if self.handshake.nonces_wanted() > 0 && self.give_nonces(now_ns) {
                // They may have been what it waited for.
            } else {
                break;
            }
        }
        if changed {
            self.say();
            self.feed_edges();
            self.feed_row(now_ns);
            self.wait_no_longer(now_ns);
        }
    }

    /// Row and flags, as every frame carries them.
    fn say(&self) {
        let mut said = 0;
        if self.leave_at_ns.is_some() {
            // The gates are closed by now.
            said |= flags::LEAVING | flags::RELEASED;
        }
        if self.handover_until_ns > boot_ns() {
            said |= flags::HANDOVER;
        }
        self.started.plane.say(self.detector.heard(), said);
    }

    fn tell(&mut self, told: &Told) {
        let mut event = self.record(told.kind.name(), told.stamp_ns);
        if let Some(slot) = told.slot {
            let node = self.started.config.nodes().iter().find(|node| node.slot() == slot);
            event.node = node.map(|node| node.name().to_owned());
            event.node_id = Some(slot + 1);
        }
        event.link = told.link;
        event.incarnation = incarnation_text(told.incarnation);
        event.evidence = Evidence {
            heard_ns: told.evidence.heard_ns,
            unanswered_ns: told.evidence.unanswered_ns,
            credit_ns: told.evidence.credit_ns,
            daemon_age_us: told.evidence.daemon_age_us,
            by_timer: told.evidence.by_timer,
        };
        event.text = text_of(told.kind);
        let (node, link) = (event.node.clone().unwrap_or_default(), told.link);
        match told.kind {
            ToldKind::PeerDown | ToldKind::PeerGone | ToldKind::PeerFailed | ToldKind::Alone => {
                tracing::warn!(node, ?link, "{}", told.kind.name());
            }
            ToldKind::DuplicatePeer { .. } | ToldKind::IncarnationRolledBack { .. } => {
                tracing::warn!(node, "{}: {}", told.kind.name(), event.text.clone().unwrap_or_default());
            }
            _ => tracing::info!(node, ?link, "{}", told.kind.name()),
        }
        self.started.journal.tell(event);
    }

    fn record(&self, kind: &str, stamp_ns: u64) -> EventRecord {
        EventRecord {
            seq: 0,
            stamp_ns,
            told_ns: boot_ns(),
            wall: String::new(),
            kind: kind.to_owned(),
            node: None,
            node_id: None,
            link: None,
            incarnation: None,
            view: None,
            address: None,
            evidence: Evidence::default(),
            text: None,
        }
    }

    fn answer_all(&mut self) {
        self.started.asks.acknowledge();
        while let Some(Ask { request, reply }) = self.started.asks.next() {
            // Whoever asked may be gone.
            let _ = reply.send(report::answer(self, request));
        }
    }

    /// Announces a planned restart of this daemon; gives its end.
    pub fn hand_over(&mut self, ms: u32) -> u64 {
        let until_ns = boot_ns() + u64::from(ms) * 1_000_000;
        self.handover_until_ns = until_ns;
        self.started.plane.hand_over(until_ns);
        self.say();
        let mut event = self.record("handover", boot_ns());
        event.text = Some(format!("this daemon may be away for {ms} ms"));
        self.started.journal.tell(event);
        until_ns
    }

    /// A hand-over that was announced and did not come is over.
    fn end_handover(&mut self, now_ns: u64) {
        if self.handover_until_ns != 0 && now_ns >= self.handover_until_ns && self.leave_at_ns.is_none() {
            self.handover_until_ns = 0;
            self.say();
        }
    }

    /// Whether this node takes part.
    pub fn state(&self) -> DaemonState {
        if self.duplicate.is_some() {
            DaemonState::Duplicate
        } else if self.leave_at_ns.is_some() {
            DaemonState::Leaving
        } else if self.detector.is_alone() {
            DaemonState::Alone
        } else {
            DaemonState::Running
        }
    }

    /// A signal: inside an announced hand-over the successor takes over what is there, else the peers are told.
    fn leave(&mut self, now_ns: u64) {
        if self.handover_until_ns > now_ns && matches!(self.started.plane, Plane::Kernel(_)) {
            self.leave_at_ns = Some(now_ns);
            return;
        }
        let slowest = self.started.links.iter().map(|link| link.interval_ns).max().unwrap_or(0);
        self.give_up_all();
        let said_ns = now_ns + LEAVE_MIN_NS.max(LEAVE_INTERVALS * slowest);
        // The last grant may leave in this moment.
        let promised_ns = boot_ns() + u64::from(self.started.config.lease_us()) * 1000 / 4 * PROMISE_QUARTERS;
        self.leave_at_ns = Some(said_ns.max(promised_ns + LEAVE_MIN_NS));
        tracing::info!("leaving");
        self.say();
        self.view_input(membership::Input::Leaving, now_ns);
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let socket = self.started.config.cluster().control();
        let _ = std::fs::remove_file(socket);
        if let Plane::Kernel(plane) = &self.started.plane
            && self.handover_until_ns > boot_ns()
        {
            tracing::info!("handed over");
            plane.go();
            return Ok(());
        }
        self.started.plane.close();
        if let Some(actions) = &self.started.actions {
            // With the pins the gates would go.
            actions.clear(&[]).map_err(|error| {
                Refusal::because(Exit::Failed, format!("stopped, but addresses cannot be taken off: {error}"))
            })?;
        }
        if let Some(pins) = &self.started.pins {
            pins.remove_all();
        }
        if boot_ns() > self.started.plane.lease().promised_ns()
            && let Err(error) = reserve::note_clean(&self.started.clean_note)
        {
            tracing::warn!(%error, "the next start will wait for promises that are over");
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// The figures of a kind, in words.
fn text_of(kind: ToldKind) -> Option<String> {
    let incarnation = |incarnation| incarnation_text(incarnation).unwrap_or_else(|| "none".to_owned());
    match kind {
        ToldKind::LinkUp { cause } => Some(cause.name().to_owned()),
        ToldKind::PeerRunning { was_failed: true } => Some("it had counted as failed".to_owned()),
        ToldKind::PeerRestarted { previous } | ToldKind::IncarnationRolledBack { previous } => {
            Some(format!("after {}", incarnation(previous)))
        }
        ToldKind::DuplicatePeer { superseded } => {
            Some(format!("two machines have this id; {} came back", incarnation(superseded)))
        }
        ToldKind::ConfigDiffers { theirs } if digest_of(theirs) == 0 => {
            Some(format!("it runs config version {theirs} in an older build, with which no view is shared"))
        }
        ToldKind::ConfigDiffers { theirs } => Some(format!(
            "it runs config version {}, content {:08x}: nodes, votes, lease or addresses differ",
            version_of(theirs),
            digest_of(theirs)
        )),
        _ => None,
    }
}
