//! What goes wrong, and who proposes what: the choice of views is arbitrary, and only the ids must be new.

use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::maps::{Latch, latch};
use ringbeat_common::view::View;

use crate::plan::{FAULTS, Fault, INTERVAL_NS, Mutation, RESOURCES_MAX};
use crate::table::Table;
use crate::tally::Met;
use crate::world::{Ghost, Happening, NOBODY, Proposal, World, trace};

impl World<'_> {
    /// The next fault, and the one after it.
    pub(crate) fn start_fault(&mut self) {
        let wait_ns = self.dice.within(INTERVAL_NS / 2, self.plan.fault_every_ns * 2);
        self.after(wait_ns, Happening::Fault);
        let total: u64 = self.plan.weights.iter().sum();
        let mut at = self.dice.within(0, total);
        let mut fault = Fault::NodeCut;
        for (weight, kind) in self.plan.weights.iter().zip(FAULTS) {
            if at < *weight {
                fault = kind;
                break;
            }
            at -= weight;
        }
        // Whoever holds something is hit most often.
        let held: Vec<u8> = self.last_holder.iter().copied().filter(|holder| *holder != NOBODY).collect();
        let node = if !held.is_empty() && self.dice.permille(600) {
            usize::from(held[self.dice.index(held.len())])
        } else {
            self.dice.index(self.plan.nodes)
        };
        trace!(self, "{fault:?} at {node}");
        self.fault(fault, node);
        self.look(node);
        if self.dice.permille(600) {
            let wait_ns = self.dice.within(0, INTERVAL_NS * 2);
            self.after(wait_ns, Happening::Propose { again: false });
        }
    }

    fn fault(&mut self, fault: Fault, node: usize) {
        let for_ns = self.dice.within(INTERVAL_NS, INTERVAL_NS * 20);
        match fault {
            Fault::OneWayCut | Fault::NodeCut => self.cut_off(fault, node, for_ns),
            Fault::Pause => {
                if let Some(daemon) = &mut self.nodes[node].daemon {
                    daemon.paused_until_ns = self.now_ns + for_ns;
                    self.tally.met(Met::Paused);
                }
            }
            Fault::Freeze | Fault::Suspend => self.stand_still(node, fault == Fault::Suspend, for_ns),
            Fault::Kill | Fault::TableLost => {
                if self.kill(node, latch::GONE) {
                    if fault == Fault::TableLost {
                        self.nodes[node].has_pins = false;
                        self.nodes[node].boot += 1;
                        self.tally.met(Met::TableLost);
                    }
                    let boot = self.nodes[node].boot;
                    self.start_soon(node, boot, 10);
                }
            }
            Fault::Reboot => self.reboot(node),
            Fault::Replaced => self.replace(node),
            Fault::HandOver | Fault::HandOverLate => {
                if self.kill(node, latch::HANDED_OVER) {
                    let boot = self.nodes[node].boot;
                    let until_ns = self.dice.within(INTERVAL_NS, INTERVAL_NS * 8);
                    self.nodes[node].latch.handover_until_ns = self.local_ns(node) + until_ns;
                    let more = if fault == Fault::HandOver { 0 } else { until_ns * 6 / 5 };
                    let wait_ns = more + self.dice.within(0, until_ns);
                    self.after(wait_ns, Happening::Start { node, boot });
                }
            }
            Fault::Release => {
                self.tally.met(Met::Released);
                self.release(node);
            }
            Fault::Slew => {
                let (rate, now_ns) = (self.rate(), self.now_ns);
                self.nodes[node].clock.slew(now_ns, rate);
                self.tally.met(Met::Slewed);
                self.look_when_alone(node);
            }
        }
    }

    /// Nothing executes on the node; what arrives waits, or is lost if it is suspended.
    fn stand_still(&mut self, node: usize, suspended: bool, for_ns: u64) {
        let stops = self.mutation == Mutation::ClockStops;
        if stops && self.nodes[node].is_still(self.now_ns) {
            // A clock that stands runs again exactly when its node does.
            return;
        }
        self.nodes[node].still_until_ns = self.now_ns + for_ns;
        self.nodes[node].deaf = suspended;
        self.tally.met(if suspended { Met::Suspended } else { Met::Frozen });
        if stops && suspended {
            self.nodes[node].clock.stand(self.now_ns, for_ns);
        }
        // What it does first when it is back is to let packets pass.
        self.after(for_ns, Happening::Look { node });
    }

    fn cut_off(&mut self, fault: Fault, node: usize, for_ns: u64) {
        let one_way = fault == Fault::OneWayCut;
        self.tally.met(if one_way { Met::OneWayCut } else { Met::NodeCut });
        let (outwards, only) = (self.dice.permille(500), self.dice.index(self.plan.nodes));
        let single = self.dice.permille(300);
        for link in 0..self.plan.links {
            for peer in (0..self.plan.nodes).filter(|peer| *peer != node && (!single || *peer == only)) {
                if !one_way || outwards {
                    self.cut(link, node, peer, for_ns);
                }
                if !one_way || !outwards {
                    self.cut(link, peer, node, for_ns);
                }
            }
        }
    }

    /// The daemon dies, its call wherever it was.
    fn kill(&mut self, node: usize, state: u64) -> bool {
        let Some(daemon) = self.nodes[node].daemon.take() else { return false };
        if daemon.is_busy() {
            self.tally.met(Met::KilledMidway);
        }
        if self.nodes[node].latch.state == latch::ALIVE {
            self.nodes[node].latch = Latch { state, ..Latch::default() };
        }
        self.tally.met(Met::Killed);
        true
    }

    fn start_soon(&mut self, node: usize, boot: u32, intervals: u64) {
        let longest = if self.plan.quick { 1 } else { [1, intervals][self.dice.index(2)] };
        let wait_ns = self.dice.within(0, INTERVAL_NS * longest);
        self.after(wait_ns, Happening::Start { node, boot });
    }

    /// Another machine with the node's disk boots in its place. The old one is cut off from all, and goes on.
    fn replace(&mut self, node: usize) {
        // A quorum by itself asks nobody, and no rule can tell two of it apart.
        if u32::from(self.plan.votes.of[node]) >= self.plan.votes.quorum {
            return;
        }
        let state = &mut self.nodes[node];
        let table = std::mem::replace(&mut state.table, Box::new(Table::new()));
        let (latch, clock) = (state.latch, state.clock.clone());
        if (0..RESOURCES_MAX).any(|resource| usize::from(self.last_holder[resource]) == node) {
            self.tally.met(Met::ReplacedHolder);
        }
        self.ghosts.push(Ghost { slot: node, table, latch, clock });
        self.tally.met(Met::Replaced);
        self.reboot(node);
    }

    fn reboot(&mut self, node: usize) {
        self.kill(node, latch::GONE);
        let rate = self.rate();
        let state = &mut self.nodes[node];
        state.boot += 1;
        state.has_pins = false;
        // The old kernel is gone with everything that it had.
        *state.table = crate::table::Table::new();
        state.door.incarnation = 0;
        state.latch = Latch { state: latch::OPEN, ..Latch::default() };
        state.clock = crate::clock::Skewed::new(self.now_ns, 1_000_000, rate);
        state.still_until_ns = self.now_ns;
        let boot = state.boot;
        self.tally.met(Met::Rebooted);
        self.start_soon(node, boot, 10);
    }

    /// A view is proposed, or an old one offered once more.
    pub(crate) fn propose(&mut self, again: bool) {
        if again {
            let wait_ns = self.dice.within(INTERVAL_NS / 2, self.plan.propose_every_ns * 2);
            self.after(wait_ns, Happening::Propose { again });
        }
        let node = self.dice.index(self.plan.nodes);
        if !self.proposals.is_empty() && self.dice.permille(250) {
            let newest = self.proposals.len();
            let proposal = newest - 1 - self.dice.index(newest.min(6));
            if self.announce(node, proposal) {
                self.tally.met(Met::OfferedAgain);
            }
            return;
        }
        let Some(daemon) = self.acting(node) else { return };
        let announced = daemon.announced;
        let own_epoch = announced.epoch.max(daemon.floor);
        let known = self.proposals.iter().map(|proposal| proposal.view.epoch).max().unwrap_or(0);
        let past = if self.dice.permille(600) { own_epoch.max(known) } else { own_epoch };
        let epoch = past + 1 + self.dice.within(0, 2);
        let Some((members, mut quorate)) = self.members(node) else { return };
        let lease_us = if self.dice.permille(850) { self.plan.lease_us } else { self.plan.lease_long_us };
        let mut view = View::new(epoch, node as u8, members, lease_us, 1);
        // A daemon whose floor is gone comes to the number that it had before.
        let own = |of: &&Proposal| of.view.proposer() == node as u8 && of.view > announced;
        if self.mutation == Mutation::EpochsRepeat
            && let Some(before) = self.proposals.iter().rev().find(own)
        {
            view = before.view;
            quorate = self.votes_of(view.members) >= self.plan.votes.quorum;
        }
        let (epoch, members) = (view.epoch, view.members);
        let is_used = |of: &Proposal| of.view.epoch == epoch && of.view.proposer() == node as u8;
        // Nobody has two views of one id in mind who keeps his epochs.
        if self.mutation != Mutation::EpochsRepeat && self.proposals.iter().any(is_used) {
            return;
        }
        // Who is no quorum owns nothing: the choice of owners sees to that.
        let owners = if quorate { self.owners(members) } else { [NOBODY; RESOURCES_MAX] };
        if !quorate {
            self.tally.met(Met::Minority);
        }
        self.proposals.push(Proposal { view, owners });
        self.tally.met(Met::Proposed);
        let proposal = self.proposals.len() - 1;
        self.announce(node, proposal);
        self.look(node);
    }

    /// Members, this node among them, and whether they have a majority; mostly they have.
    fn members(&mut self, node: usize) -> Option<(u64, bool)> {
        let minority = self.dice.permille(60);
        for _ in 0..8 {
            let mut members = 1_u64 << node;
            let way = self.dice.index(3);
            for slot in 0..self.plan.nodes {
                let state = &self.nodes[slot];
                let well = state.daemon.is_some() && self.now_ns >= state.still_until_ns;
                let holds = self.last_holder.contains(&(slot as u8));
                let joins = match way {
                    0 => self.dice.permille(600),
                    1 => well && !(holds && self.dice.permille(700)),
                    _ => well || self.dice.permille(100),
                };
                members |= u64::from(joins) << slot;
            }
            let quorate = self.votes_of(members) >= self.plan.votes.quorum;
            if quorate != minority {
                return Some((members, quorate));
            }
        }
        None
    }

    fn votes_of(&self, members: u64) -> u32 {
        let slots = (0..NODES_MAX).filter(|slot| members >> slot & 1 != 0);
        slots.map(|slot| u32::from(self.plan.votes.of[slot])).sum()
    }

    fn owners(&mut self, members: u64) -> [u8; RESOURCES_MAX] {
        let slots: Vec<u8> = (0..self.plan.nodes as u8).filter(|slot| members >> slot & 1 != 0).collect();
        let mut owners = [NOBODY; RESOURCES_MAX];
        for (resource, owner) in owners.iter_mut().enumerate().take(self.plan.resources) {
            let last = self.last_holder[resource];
            let keeps = last != NOBODY && members >> last & 1 != 0;
            if keeps && self.dice.permille(550) {
                *owner = last;
            } else if !self.dice.permille(50) {
                *owner = slots[self.dice.index(slots.len())];
            }
        }
        owners
    }
}
