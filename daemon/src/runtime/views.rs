//! Views, the lease and the service addresses: membership's words carried out, in the order in which they come.
//!
//! An announcement changes the lease's table before any message says so; a view is installed there before it is told;
//! an address is put on its interface behind a closed gate, and told to the neighbours once the gate has opened.

use ringbeat_common::event::Event;
use ringbeat_common::lease::{GENERATION, SLACK_US, Words};
use ringbeat_common::limits::{GATES_MAX, NODES_MAX};
use ringbeat_common::view::View;
use ringbeat_control::ViewReport;
use ringbeat_core::membership::choice::bits;
use ringbeat_core::membership::envelope::{Post, PostOffice, Refused};
use ringbeat_core::membership::{self, Adopted, Announcement, Membership, NOBODY, Output};

use super::Runtime;
use super::ability::Bar;
use crate::address::Done;
use crate::agreed;
use crate::plane::lease::Votes;
use crate::start::Started;
use crate::sys::clock::boot_ns;

/// A peer that is heard, and says nothing, is no company so long after its daemon would have failed, in ns.
const MUTE_BEYOND_STALL_NS: u64 = 1_000_000_000;

/// What this node knows of one of its gates.
#[derive(Clone, Debug, Default)]
pub struct GateState {
    /// Whether the address is this node's own, under the installed view.
    pub owned: bool,
    /// Whether it is on its interface.
    pub held: bool,
    /// Whether the gate was told as open.
    pub open: bool,
    /// When it opened last.
    pub opened_ns: u64,
    /// When it closed last.
    pub closed_ns: u64,
    /// A stranger who uses the address.
    pub conflict: Option<String>,
    /// Why it cannot be served here.
    pub error: Option<String>,
    /// The interface that its gate stands on, as of the last look; 0 for none.
    pub(super) ifindex: u32,
    /// That interface, and why no address can be on it.
    pub(super) suited: Option<(u32, Option<String>)>,
    /// Until when it is left to others, since it could not be put there.
    pub(super) bar: Bar,
}

/// The machine of views, and what its outputs have led to.
pub struct Views {
    /// The machine.
    pub membership: Membership,
    /// The gates, in the configuration's order.
    pub gates: Vec<GateState>,
    office: PostOffice,
    votes: Votes,
    not_before_ns: u64,
    /// When a lease by the own votes alone begins.
    pub(super) alone_at_ns: Option<u64>,
    row: u64,
    pub(super) able: u64,
    ceiling: u64,
    /// Whether the last look found the lease other than it was told.
    lease_differs: bool,
    /// Messages that were not taken, whatever the reason.
    pub refused: u64,
}

impl GateState {
    /// Why the address is not on its interface, though it is this node's own.
    pub(crate) fn failing(&self) -> Option<&str> {
        Some(self.bar.why()).filter(|why| self.owned && !self.held && !why.is_empty())
    }
}

impl Views {
    /// For a started daemon that hears `heard`; what a planned hand-over left goes on.
    pub fn new(started: &Started, heard: u64, now_ns: u64) -> Self {
        let config = &started.config;
        let (own, services) = (started.identity.slot, config.services());
        let lease = started.plane.lease();
        let owned = if started.adopted { lease.owned() } else { 0 };
        let adopted = started.adopted.then(|| {
            let mut owners = [NOBODY; GATES_MAX];
            for gate in bits(owned) {
                owners[usize::from(gate)] = own;
            }
            Adopted {
                installed: Announcement { view: lease.installed(), owners },
                announced: lease.announced(),
                heard,
            }
        });
        // Announced, and not installed before the hand-over: what it has to wait for stands in the promises.
        let not_before_ns =
            adopted.map_or(0, |adopted| lease.announce(&adopted.announced.max(lease.installed()), owned));
        let mut votes = Votes { own, of: [0; NODES_MAX], quorum: 0 };
        for node in config.nodes() {
            votes.of[usize::from(node.slot())] = node.votes();
        }
        votes.quorum = votes.of.iter().map(|votes| u32::from(*votes)).sum::<u32>() / 2 + 1;
        let nodes = config.nodes().iter().map(|node| membership::NodeConfig {
            slot: node.slot(),
            votes: node.votes(),
            witness: node.witness(),
        });
        let resources =
            services.iter().map(|service| membership::ResourceConfig { failback: service.failback() });
        let machine = Membership::new(membership::Config {
            own,
            incarnation: started.incarnation,
            config_version: agreed::digest_of(started.identity.config_version).into(),
            lease_us: config.lease_us(),
            nodes: nodes.collect(),
            resources: resources.collect(),
            interval_ns: started.links.iter().map(|link| link.interval_ns).max().unwrap_or(0),
            ceiling: started.reserve.found().ceiling,
            announced_floor: lease.announced().epoch,
            mute_ns: u64::from(config.cluster().daemon_stall_ms()) * 1_000_000 + MUTE_BEYOND_STALL_NS,
            quiet_until_ns: started.quiet_until_ns,
            started_ns: now_ns,
            standing: started.electorate.standing(),
            adopted: adopted.filter(|adopted| adopted.installed.view.is_some()),
        });
        let mut office = PostOffice::new(Post {
            own,
            incarnation: started.incarnation,
            cluster_id: started.identity.cluster_id,
            key: started.message_key,
        });
        // Above what a daemon before this one has used in the same life: it sent less than one a microsecond.
        office.go_on_after(now_ns / 1000);
        let gate = |at: usize| {
            let owned = owned >> at & 1 != 0;
            GateState { owned, open: owned && now_ns < lease.until_ns(), ..GateState::default() }
        };
        Self {
            membership: machine,
            gates: (0..services.len()).map(gate).collect(),
            office,
            votes,
            not_before_ns,
            alone_at_ns: None,
            row: 0,
            able: 0,
            ceiling: started.reserve.found().ceiling,
            lease_differs: false,
            refused: 0,
        }
    }
}

impl Runtime {
    /// Begins: what this node can serve, the gates of what was taken over with it, and the row.
    pub(super) fn begin_views(&mut self, now_ns: u64) {
        for slot in self.peer_slots() {
            if let Some(incarnation) = self.detector.incarnation(slot) {
                self.started.ring.accepted(slot, incarnation);
                self.view_input(membership::Input::Accepted { slot, incarnation }, now_ns);
            }
        }
        self.feed_edges();
        self.abandon_ring();
        self.look_at_services(now_ns);
        self.feed_row(now_ns);
        if !self.views.membership.is_confirmed() {
            tracing::info!("no quorum until every node has been seen once with these nodes and votes");
        }
    }

    /// Hands an input to membership, and carries out what it says.
    pub(super) fn view_input(&mut self, input: membership::Input, now_ns: u64) {
        self.views.membership.handle(input, now_ns);
        while let Some(output) = self.views.membership.poll_output() {
            match output {
                Output::Announce { view, owned } => self.announce(view, owned),
                Output::Install { installed, owned } => self.install(&installed, owned),
                Output::Send { to, bytes } => self.send_message(to, &bytes),
                Output::Reserve { ceiling } => self.started.reserve.want(ceiling),
                Output::Confirmed => {
                    tracing::info!(
                        "all nodes have been seen with these nodes and votes: views may have a quorum"
                    );
                    self.started.electorate.confirm(&self.started.reserve);
                }
                Output::Differs { slot, config, lease_us, same_votes } => {
                    let node = self.name_of(slot);
                    let text = "no view with a node of another configuration";
                    tracing::warn!(node, config, lease_us, same_votes, "{text}");
                }
            }
        }
    }

    /// The own row, if it has changed.
    pub(super) fn feed_row(&mut self, now_ns: u64) {
        let heard = if self.duplicate.is_some() { 0 } else { self.detector.heard() };
        if heard != self.views.row {
            self.views.row = heard;
            self.view_input(membership::Input::Row { heard }, now_ns);
        }
    }

    /// What is left to wait for before this node grants, now that something has been told.
    pub(super) fn wait_no_longer(&mut self, now_ns: u64) {
        if now_ns < self.views.not_before_ns {
            let lease = self.started.plane.lease();
            self.views.not_before_ns = self.views.not_before_ns.min(lease.shorten_wait());
            self.views.alone_at_ns = self.views.alone_at_ns.and_then(|_| lease.alone_from_ns());
        }
    }

    /// A ceiling of epochs that has become durable, a lease of the own votes that begins, and membership's timer.
    pub(super) fn take_view_timeouts(&mut self, now_ns: u64) {
        let ceiling = self.started.reserve.durable();
        if ceiling > self.views.ceiling {
            self.views.ceiling = ceiling;
            self.view_input(membership::Input::Reserved { ceiling }, now_ns);
        }
        if self.views.alone_at_ns.is_some_and(|at| at <= now_ns) {
            self.views.alone_at_ns = None;
            self.open_gates(now_ns);
        }
        if self.views.membership.next_timeout().is_some_and(|at| at <= now_ns) {
            self.view_input(membership::Input::Timeout, now_ns);
        }
    }

    /// A datagram that is no frame.
    pub(super) fn take_message(&mut self, link: u8, bytes: &[u8], now_ns: u64) {
        if self.duplicate.is_some() {
            return;
        }
        let detector = &self.detector;
        match self.views.office.open(link, bytes, |slot| detector.incarnation(slot)) {
            Ok(opened) => {
                let (from, incarnation) = (opened.from, opened.incarnation);
                let input = membership::Input::Message { from, incarnation, bytes: opened.message };
                self.view_input(input, now_ns);
            }
            // The same message on another link.
            Err(Refused::Replayed) => {}
            Err(why) => {
                self.views.refused += 1;
                tracing::trace!(link, ?why, "a message was not taken");
            }
        }
    }

    fn send_message(&mut self, to: u64, bytes: &[u8]) {
        let number = self.views.office.number();
        for slot in bits(to) {
            let Some(life) = self.detector.incarnation(slot) else { continue };
            for (link, sockets) in self.started.links.iter().zip(&self.started.sockets) {
                let sealed = self.views.office.seal(number, slot, life, link.id, bytes);
                if let Err(error) = sockets.send(slot, &sealed) {
                    tracing::trace!(link = link.id, slot, %error, "a message could not leave");
                }
            }
        }
    }

    fn announce(&mut self, view: View, owned: u64) {
        self.started.ring.freeze();
        self.views.not_before_ns = self.started.plane.lease().announce(&view, owned);
        let now_ns = boot_ns();
        for gate in 0..self.views.gates.len() {
            if owned >> gate & 1 == 0 {
                self.give_up(gate, now_ns);
            }
        }
        let wait_ns = self.views.not_before_ns.saturating_sub(now_ns);
        let text = format!("grants wait {}.{:03} ms", wait_ns / 1_000_000, wait_ns / 1000 % 1000);
        self.tell_view("announce", &view, now_ns, Some(text));
    }

    fn install(&mut self, installed: &Announcement, owned: u64) {
        let view = installed.view;
        // Once more: a promise may have ended since the announcement, and none has grown.
        self.views.not_before_ns = self.started.plane.lease().announce(&view, owned);
        let not_before_ns = self.views.not_before_ns;
        for (gate, state) in self.views.gates.iter().enumerate() {
            // Those that this view will open are closed by now: what is logged from here on is the new tenure.
            if owned >> gate & 1 != 0 && !state.owned {
                self.started.plane.open_gate_log(gate);
            }
        }
        self.started.plane.lease().install(view, not_before_ns, owned, &self.views.votes);
        let now_ns = boot_ns();
        self.views.alone_at_ns = self.started.plane.lease().alone_from_ns();
        self.tell_view("install", &view, now_ns, None);
        for gate in 0..self.views.gates.len() {
            if owned >> gate & 1 != 0 && !self.views.gates[gate].owned {
                self.views.gates[gate].owned = true;
                self.hold(gate);
            }
        }
        // The addresses first: they are what somebody waits for.
        self.started.ring.form(view);
    }

    /// The lease has become valid, or has run out.
    pub(super) fn lease_event(&mut self, event: &Event) {
        let lease = self.started.plane.lease();
        if event.incarnation != lease.load(GENERATION) {
            // Of a view before this one.
            return;
        }
        if event.to == 1 {
            let view = lease.installed();
            self.tell_view("lease_gained", &view, event.stamp_ns, None);
            self.open_gates(event.stamp_ns);
            return;
        }
        self.tell_lost(event.stamp_ns, event.heard_ns);
    }

    /// Compares the lease with what was told of it: a full ring loses events, never states. What two looks in a row find
    /// is no event on its way.
    pub(super) fn look_over_lease(&mut self, now_ns: u64) {
        let lease = self.started.plane.lease();
        let until_ns = lease.until_ns();
        let valid = now_ns < until_ns || lease.alone_from_ns().is_some_and(|from_ns| from_ns <= now_ns);
        let differs = self.views.gates.iter().any(|gate| gate.owned && gate.open != valid);
        if !(std::mem::replace(&mut self.views.lease_differs, differs) && differs) {
            return;
        }
        self.views.lease_differs = false;
        self.events_lost += 1;
        if valid {
            let view = lease.installed();
            self.tell_view("lease_gained", &view, now_ns, None);
            self.open_gates(now_ns);
        } else {
            self.tell_lost(now_ns, until_ns);
        }
    }

    fn tell_lost(&mut self, stamp_ns: u64, until_ns: u64) {
        let view = self.started.plane.lease().installed();
        self.tell_view("lease_lost", &view, stamp_ns, Some("no quorum grants it".to_owned()));
        // Gates close a little before the lease ends.
        let slack_ns = self.started.plane.lease().load(SLACK_US) * 1000;
        for gate in 0..self.views.gates.len() {
            self.tell_closed(gate, until_ns.saturating_sub(slack_ns));
        }
    }

    fn open_gates(&mut self, stamp_ns: u64) {
        for gate in 0..self.views.gates.len() {
            let state = &mut self.views.gates[gate];
            if !state.owned || state.open {
                continue;
            }
            (state.open, state.opened_ns) = (true, stamp_ns);
            if state.held {
                self.announce_address(gate);
            }
            self.tell_gate("gate_opened", gate, stamp_ns, None);
        }
    }

    /// Closes a gate for good: the address goes to somebody else.
    fn give_up(&mut self, gate: usize, now_ns: u64) {
        self.tell_closed(gate, now_ns);
        let state = &mut self.views.gates[gate];
        if std::mem::take(&mut state.owned) {
            (state.held, state.conflict) = (false, None);
            if let Some(actions) = &self.started.actions {
                actions.release(gate);
            }
        }
    }

    fn tell_closed(&mut self, gate: usize, stamp_ns: u64) {
        if std::mem::take(&mut self.views.gates[gate].open) {
            self.views.gates[gate].closed_ns = stamp_ns;
            let log = self.started.plane.gate_log(gate);
            let text = format!("first pass {}, last pass {}", log.first_pass_ns, log.last_pass_ns);
            self.tell_gate("gate_closed", gate, stamp_ns, Some(text));
        }
    }

    /// Lets go of everything: this node leaves, or takes no part.
    pub(super) fn give_up_all(&mut self) {
        self.started.plane.lease().release();
        let now_ns = boot_ns();
        for gate in 0..self.views.gates.len() {
            self.give_up(gate, now_ns);
        }
    }

    /// Puts the address onto the interface that its gate stands on; without one that is left to the next look.
    pub(super) fn hold(&mut self, gate: usize) {
        let state = &mut self.views.gates[gate];
        state.held = false;
        if let Some(actions) = self.started.actions.as_ref().filter(|_| state.ifindex != 0) {
            actions.hold(gate, state.ifindex);
        }
    }

    fn announce_address(&self, gate: usize) {
        if let Some(actions) = &self.started.actions {
            actions.announce(gate);
        }
    }

    /// What has become of the addresses.
    pub(super) fn take_done(&mut self) {
        while let Some(done) = self.started.actions.as_ref().and_then(|actions| actions.next()) {
            match done {
                Done::Held { index, stamp_ns, was_taken_away } => {
                    let Some(state) = self.views.gates.get_mut(index).filter(|state| state.owned) else {
                        continue;
                    };
                    state.bar.end(boot_ns());
                    let again = std::mem::replace(&mut state.held, true) && !was_taken_away;
                    let is_adopted = self.started.adopted && state.opened_ns == 0 && !was_taken_away;
                    if state.open && !(again || is_adopted) {
                        self.announce_address(index);
                    }
                    let text = was_taken_away.then(|| "it had been taken away".to_owned());
                    self.tell_gate("address_added", index, stamp_ns, text);
                }
                Done::Released { index, stamp_ns } => {
                    self.tell_gate("address_removed", index, stamp_ns, None);
                }
                Done::Failed { index, why } => self.bar(index, why),
                Done::Stuck { index, why } => {
                    tracing::warn!(why, "an address cannot be taken off; its gate stays, closed");
                    self.tell_gate("address_stuck", index, boot_ns(), Some(why));
                }
                Done::Conflict { index, mac } => {
                    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                    tracing::warn!(index, mac, "a stranger uses a service address");
                    let text = format!("{mac} says that it has this address; it is not fought over");
                    if let Some(state) = self.views.gates.get_mut(index) {
                        state.conflict = Some(mac);
                    }
                    self.tell_gate("address_conflict", index, boot_ns(), Some(text));
                }
                Done::Cleared(_) => {}
                Done::Over => self.look_at_services(boot_ns()),
            }
        }
    }

    pub(super) fn tell_view(&mut self, kind: &str, view: &View, stamp_ns: u64, text: Option<String>) {
        let view = self.view_report(view).to_string();
        tracing::info!(view, "{kind}");
        let mut event = self.record(kind, stamp_ns);
        event.node = Some(self.started.config.own().name().to_owned());
        event.node_id = Some(self.started.config.own().id());
        (event.view, event.text) = (Some(view), text);
        self.started.journal.tell(event);
    }

    pub(super) fn tell_gate(&mut self, kind: &str, gate: usize, stamp_ns: u64, text: Option<String>) {
        let address = self.started.config.services().get(gate).map(ToString::to_string);
        tracing::info!(address, "{kind}");
        let mut event = self.record(kind, stamp_ns);
        event.node = Some(self.started.config.own().name().to_owned());
        event.node_id = Some(self.started.config.own().id());
        event.view = Some(self.view_report(&self.views.membership.installed().view).to_string());
        (event.address, event.text) = (address, text);
        self.started.journal.tell(event);
    }

    /// A view with its nodes' names.
    pub fn view_report(&self, view: &View) -> ViewReport {
        ViewReport {
            epoch: view.epoch,
            proposer: self.name_of(view.proposer()),
            members: bits(view.members).map(|slot| self.name_of(slot)).collect(),
            config: view.config(),
        }
    }

    /// The name of a slot.
    pub fn name_of(&self, slot: u8) -> String {
        let node = self.started.config.nodes().iter().find(|node| node.slot() == slot);
        node.map_or_else(|| format!("#{}", u32::from(slot) + 1), |node| node.name().to_owned())
    }
}
