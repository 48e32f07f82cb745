//! From one ring to the next: the commit token, and what those who come from the same ring give one another.
//!
//! Totem (1995), sections 4.2.2 (commit), 5.2 (recovery) and 5.3 (what is delivered): the commit token goes round twice. In
//! the first rotation each member tells of its old ring, in the second each reads what all have told. Then the new
//! ring's token goes round, and carries packets of the old rings as packets of the new one, until each of two visits in a
//! row finds that nobody has more and that all have all.

use bytes::Bytes;
use ringbeat_common::view::View;

use super::era::{Era, Source};
use super::store::Packet;
use super::wire::{Commit, Entry, Message, RingId, Token, packet_bytes};
use super::{Output, Phase, Ring};
use crate::membership::choice::bits;
use crate::mutation::Mutation;

/// A ring that forms.
#[derive(Clone, Debug)]
pub(super) struct Forming {
    pub(super) era: Era,
    /// The number of the last commit token.
    number: u64,
    plan: Option<Plan>,
    /// Whether the token has this node's word that it has more.
    has_said: bool,
    /// Visits in a row in which nobody had more.
    finished: u32,
    /// What all must have before this node goes on.
    install_seq: u64,
}

/// What the commit token has told of the old ring.
#[derive(Clone, Debug)]
struct Plan {
    old: RingId,
    /// Those who come from there.
    together: u64,
    /// The highest number that any of them has.
    high: u64,
    /// The highest up to which one of them knows that all of the old ring have all.
    safe: u64,
    /// Whose messages one of them has said that it will deliver: then all of them do.
    obligation: u64,
    /// Numbers that this node gives the others, highest first.
    todo: Vec<u64>,
}

/// Packets of the old ring, as packets of the new one.
struct Again<'a> {
    own: u8,
    era: &'a Era,
    todo: &'a mut Vec<u64>,
}

impl Source for Again<'_> {
    fn next(&mut self, _room: usize) -> Option<Packet> {
        let seq = self.todo.pop()?;
        let packet = self.era.store.get(seq)?;
        let payload = packet_bytes(self.own, self.era.id, seq, packet);
        Some(Packet { origin: self.own, safe: false, recovered: true, payload })
    }

    fn backlog(&self) -> u32 {
        self.todo.len() as u32
    }
}

impl Ring {
    pub(super) fn form(&mut self, view: View, now_ns: u64) {
        if view <= self.era.view || !view.has(self.own) {
            return;
        }
        self.stop();
        let forming = Forming {
            era: Era::new(view, self.own, self.mutation),
            number: 0,
            plan: None,
            has_said: false,
            finished: 0,
            install_seq: 0,
        };
        self.phase = Phase::Forming(Box::new(forming));
        if view.members == 1 << self.own {
            let entry = self.entry();
            self.make_plan(&[entry]);
            self.install(now_ns);
            return;
        }
        self.timers.set(super::Timer::Loss, now_ns + self.params.token_ns);
        if view.members.trailing_zeros() == u32::from(self.own) {
            let entries = vec![Entry::default(); view.members.count_ones() as usize];
            self.commit_goes_on(Commit { number: 1, view, entries }, now_ns);
        } else if let Some(early) = self.early.take().filter(|early| early.view == view) {
            self.commit_goes_on(early, now_ns);
        }
    }

    /// What this node tells of the ring that it comes from.
    fn entry(&self) -> Entry {
        let (era, store) = (&self.era, &self.era.store);
        if !era.view.is_some() {
            return Entry { filled: true, ..Entry::default() };
        }
        Entry {
            filled: true,
            old: era.id,
            aru: store.aru(),
            high: store.high().max(store.aru()),
            safe: era.safe.min(store.aru()),
            obligation: self.obligation,
        }
    }

    /// The commit token of the ring that forms is here.
    pub(super) fn commit_goes_on(&mut self, mut commit: Commit, now_ns: u64) {
        let own = self.entry();
        let Phase::Forming(forming) = &mut self.phase else { return };
        let Some(place) = forming.era.place_of(self.own) else { return };
        // None goes round for ever.
        let is_wild = commit.number >= u64::MAX / 2;
        if is_wild || commit.number <= forming.number || commit.entries.len() <= place {
            return;
        }
        commit.number += 1;
        forming.number = commit.number;
        if !commit.entries[place].filled {
            commit.entries[place] = own;
        } else if !commit.entries.iter().all(|entry| entry.filled) {
            return;
        } else if forming.plan.is_none() {
            self.make_plan(&commit.entries);
        } else {
            // Back at the representative for the second time: all know all.
            let token = Self::first_token();
            self.recover(token, now_ns);
            return;
        }
        let bytes = Message::Commit(commit).to_bytes(self.own);
        self.hand_on(bytes, now_ns);
    }

    fn make_plan(&mut self, entries: &[Entry]) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        let members: Vec<u8> = bits(forming.era.view.members).collect();
        let old = self.era.id;
        let mut plan =
            Plan { old, together: 1 << self.own, high: 0, safe: 0, obligation: 0, todo: Vec::new() };
        if self.era.view.is_some() {
            let together = || members.iter().zip(entries).filter(|(_, entry)| entry.old == old);
            plan.together = together().fold(0, |set, (slot, _)| set | 1 << slot);
            plan.high = together().map(|(_, entry)| entry.high).max().unwrap_or(0);
            plan.obligation = together().fold(0, |set, (_, entry)| set | entry.obligation);
            plan.safe = together().map(|(_, entry)| entry.safe).max().unwrap_or(0);
            let low = together().map(|(_, entry)| entry.aru).min().unwrap_or(0);
            let is_mine = |seq: &u64| {
                // Of those who surely have it, one is enough.
                let first = together().find(|(_, entry)| entry.aru >= *seq);
                self.era.store.get(*seq).is_some() && first.is_none_or(|(slot, _)| *slot == self.own)
            };
            plan.todo = (low + 1..=plan.high).rev().filter(is_mine).collect();
            if self.mutation == Mutation::NothingGiven {
                plan.todo.clear();
            }
        }
        forming.plan = Some(plan);
    }

    /// A packet of the ring that forms.
    pub(super) fn take_forming(&mut self, seq: u64, packet: Packet) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        let Some(plan) = &mut forming.plan else { return };
        // A message of the new ring leaves after all members have installed it, this one as well: between the visit in
        // which its sender did so and the next one the token has been everywhere, and has found the same there.
        if !packet.recovered {
            return;
        }
        if let Some((_, Message::Packet { ring, seq, packet })) = Message::from_bytes(packet.payload.clone())
            && ring == plan.old
            && seq <= plan.high
            && self.era.view.has(packet.origin)
        {
            // Whoever else was about to give it need not.
            if let Ok(at) = plan.todo.binary_search_by(|todo| seq.cmp(todo)) {
                plan.todo.remove(at);
            }
            self.era.take(seq, packet);
        }
        forming.era.take(seq, packet);
        self.shows_a_trace(seq);
    }

    /// The token visits a ring that forms.
    pub(super) fn recover(&mut self, mut token: Token, now_ns: u64) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        let Some(plan) = &mut forming.plan else { return };
        let nobody_had = !token.recovers;
        let had = !plan.todo.is_empty();
        let outputs = &mut self.outputs;
        let send = |to, bytes| outputs.push_back(Output::Send { to, bytes });
        let mut again = Again { own: self.own, era: &self.era, todo: &mut plan.todo };
        token = forming.era.visit(token, &self.params, &mut again, send);
        // They are delivered nowhere, and taken by now: there may be more of them than a ring keeps.
        forming.era.delivered = forming.era.store.aru();
        forming.era.release();
        // Said before the last of it leaves, and taken back by the same node. Whoever else has more says it within a rotation.
        let has_more = if self.mutation == Mutation::FlagLate { !plan.todo.is_empty() } else { had };
        if has_more && !token.recovers {
            (token.recovers, forming.has_said) = (true, true);
        } else if !has_more && forming.has_said {
            (token.recovers, forming.has_said) = (false, false);
        }
        if nobody_had && !token.recovers {
            forming.finished += 1;
            if forming.finished == 1 {
                forming.install_seq = token.seq;
            }
        } else {
            forming.finished = 0;
        }
        if forming.finished >= 2 && forming.era.store.aru() >= token.seq {
            // A whole rotation in which nobody had more: nothing is missing here. The others rely on it one rotation later.
            self.obligation |= plan.together;
        }
        let is_done = match self.mutation {
            Mutation::RingEarly => forming.finished >= 1,
            _ => forming.finished >= 3 && forming.era.safe >= forming.install_seq,
        };
        let is_stuck = forming.era.stuck >= self.params.fail_recv_const;
        let bytes = forming.era.message(&token);
        self.hand_on(bytes, now_ns);
        if is_done {
            self.install(now_ns);
        } else if is_stuck {
            self.lose();
        }
    }

    /// Everybody has everything: the old ring's last messages, and then the new configuration.
    fn install(&mut self, now_ns: u64) {
        let Phase::Forming(forming) = std::mem::replace(&mut self.phase, Phase::Operational) else { return };
        let Forming { era, plan, .. } = *forming;
        let Some(plan) = plan else { return };
        if self.era.view.is_some() {
            self.era.safe = self.era.safe.max(plan.safe);
            self.deliver();
            self.outputs.push_back(Output::Transitional { members: plan.together });
            self.deliver_rest(&plan);
        }
        // What is not whole by now never will be: its sender begins it anew. A first part would end it as well, and it would
        // take its room until then.
        self.assemblies.iter_mut().for_each(super::Assembly::forget);
        if self.mutation != Mutation::CutKept {
            self.outbox.begin_anew();
        }
        self.era = era;
        self.obligation = 0;
        self.early = None;
        self.outputs.push_back(Output::Regular { view: self.era.view });
        if self.era.others() == 0 {
            // Not before whoever is told of the view has had the first word in it.
            self.timers.set(super::Timer::Hold, now_ns);
        } else {
            self.deliver();
        }
    }

    /// What is left of the old ring, in the transitional configuration. Behind a gap that nobody could fill only messages of
    /// those whom this node is bound to: whatever the others sent there may rest on what is missing.
    fn deliver_rest(&mut self, plan: &Plan) {
        let kept = if self.mutation == Mutation::ObligationForgotten { 0 } else { plan.obligation };
        let bound = if self.mutation == Mutation::GapIgnored { u64::MAX } else { plan.together | kept };
        let mut whole = Vec::new();
        let mut is_gap = false;
        for seq in self.era.delivered + 1..=plan.high {
            let Some(packet) = self.era.store.get(seq) else {
                is_gap = true;
                // Whose packet is missing nobody knows; of those who came together none is.
                for (slot, assembly) in self.assemblies.iter_mut().enumerate() {
                    if bound >> slot & 1 == 0 {
                        assembly.forget();
                    }
                }
                continue;
            };
            let from = packet.origin;
            if packet.recovered || (is_gap && bound >> from & 1 == 0) {
                continue;
            }
            self.assemblies[usize::from(from) % super::NODES_MAX].take(packet.payload.clone(), &mut whole);
            let whole = whole.drain(..);
            self.outputs.extend(whole.map(|bytes: Bytes| Output::Deliver { from, bytes }));
        }
        self.era.delivered = self.era.delivered.max(plan.high);
    }
}
