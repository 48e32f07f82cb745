//! Closed process groups over the ordered ring, as a pure machine: who is in which group, in one order for all.
//!
//! The idea in a minute. Joins, leaves and messages of a group are messages of the ring, so all nodes of a view see them
//! in one order, and each finds the same members at the same place. Whose nodes a view has lost leave when the ring says
//! with whom this node goes on; whom a view brings is told by each node in the first message that it sends in it, its
//! *roll*. What comes before the rolls of all is held back, so all members of a view know the same members from its first
//! message on.
//!
//! Source: cpg_overview(3), cpg_join(3) and cpg_mcast_joined(3) of Corosync, whose terms and reasons these are.
//!
//! DEVIATION: all nodes of a view keep each group, not only those with members of it, so that a join costs one message.
//!
//! Deliberately not there: clients, their sockets and their queues, and the pieces of messages longer than one of the ring:
//! the clients' library cuts them and puts them together.

#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use thiserror::Error;

pub use self::wire::Name;
use self::wire::{Message, Roll};
use crate::limits::{GROUP_HELD_COUNT_MAX, GROUP_HELD_MAX, GROUP_MEMBERS_MAX, GROUP_PLACES_MAX};
use crate::mutation::Mutation;

/// A process in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The slot of its node.
    pub slot: u8,
    /// Its process number there.
    pub pid: u32,
}

/// Which part of a message a piece is; neither is a whole one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// It goes on with the one before of the same member.
    pub goes_on: bool,
    /// The next one of the same member goes on with it.
    pub more: bool,
}

/// Why somebody comes or goes (cpg_initialize(3), `cpg_reason_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It asked to join.
    Join,
    /// It asked to leave.
    Leave,
    /// Its node is not in the view any more.
    NodeDown,
    /// Its node has come into the view.
    NodeUp,
    /// It has ended without leaving.
    ProcessDown,
}

impl Reason {
    /// As texts have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::NodeDown => "node_down",
            Self::NodeUp => "node_up",
            Self::ProcessDown => "process_down",
        }
    }
}

/// Why a process cannot do what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Two of one process would be one member.
    #[error("this process is in the group already")]
    Exists,
    /// A closed group takes messages of members only.
    #[error("this process is not in the group")]
    NotMember,
    /// The group has as many members as it may.
    #[error("the group is full ({GROUP_MEMBERS_MAX} members)")]
    Full,
    /// The processes of this node are in as many groups as they may.
    #[error("the processes of this node have {GROUP_PLACES_MAX} places in groups, the most there can be")]
    TooMany,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To be the next message of the ring, before all that wait. It must not be refused.
    First {
        /// The message.
        bytes: Bytes,
    },
    /// To be told to the members here: who is in from here on.
    Configuration {
        /// The group.
        group: Name,
        /// All of them.
        members: Vec<Member>,
        /// Who went, and why. One that is told of its own leave is not among the members.
        left: Vec<(Member, Reason)>,
        /// Who came, and why.
        joined: Vec<(Member, Reason)>,
    },
    /// To be given to the members here.
    Message {
        /// The group.
        group: Name,
        /// Who sent it.
        from: Member,
        /// Whether it is all of a message.
        piece: Piece,
        /// What.
        bytes: Bytes,
    },
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Groups {
    own: u8,
    groups: BTreeMap<Name, BTreeSet<Member>>,
    /// What the processes of this node have asked for: a place from the join that left until the leave that left.
    places: BTreeSet<(Name, u32)>,
    /// The roll that has not come back yet.
    roll_is_out: bool,
    /// Whose rolls have not come in this view, a bit for each.
    expected: u64,
    /// The view went before all of them had come.
    is_partial: bool,
    /// Those that have.
    rolls: Vec<(u8, Roll)>,
    /// What came meanwhile, and how many bytes that is.
    held: Vec<(u8, Bytes)>,
    held_bytes: usize,
    mutation: Mutation,
    outputs: VecDeque<Output>,
}

impl Groups {
    /// A machine that knows no group.
    pub const fn new(own: u8) -> Self {
        Self::mutated(own, Mutation::None)
    }

    /// For the simulation: with a clause left out.
    #[doc(hidden)]
    pub const fn mutated(own: u8, mutation: Mutation) -> Self {
        Self {
            own,
            mutation,
            groups: BTreeMap::new(),
            places: BTreeSet::new(),
            roll_is_out: false,
            expected: 0,
            is_partial: false,
            rolls: Vec::new(),
            held: Vec::new(),
            held_bytes: 0,
            outputs: VecDeque::new(),
        }
    }

    /// A process of this node wants into a group: the message for the ring. Once the ring has taken it, say so by
    /// [`Groups::asked_in`].
    ///
    /// # Errors
    /// It is in, or there is no room.
    pub fn join(&self, group: &Name, pid: u32) -> Result<Bytes, Refused> {
        if self.places.contains(&(group.clone(), pid)) {
            return Err(Refused::Exists);
        }
        if self.places.len() >= GROUP_PLACES_MAX {
            return Err(Refused::TooMany);
        }
        let coming = self.places.iter().filter(|(of, _)| of == group).count();
        let there = self
            .groups
            .get(group)
            .map_or(0, |members| members.iter().filter(|one| one.slot != self.own).count());
        if coming + there >= GROUP_MEMBERS_MAX {
            return Err(Refused::Full);
        }
        Ok(Message::Join { group: group.clone(), pid }.to_bytes())
    }

    /// The ring has taken the message of a join.
    pub fn asked_in(&mut self, group: Name, pid: u32) {
        self.places.insert((group, pid));
    }

    /// A process of this node leaves a group, or has ended: the message for the ring, which must take it before any later
    /// one of this process; the place is free from here on.
    ///
    /// # Errors
    /// It is not in.
    pub fn leave(&mut self, group: &Name, pid: u32, has_ended: bool) -> Result<Bytes, Refused> {
        if !self.places.remove(&(group.clone(), pid)) {
            return Err(Refused::NotMember);
        }
        Ok(Message::Leave { group: group.clone(), pid, has_ended }.to_bytes())
    }

    /// A message of a process of this node, or a piece of one that the next one goes on with: the message for the ring.
    ///
    /// # Errors
    /// It is not in the group.
    pub fn send(&self, group: &Name, pid: u32, piece: Piece, bytes: &[u8]) -> Result<Bytes, Refused> {
        if !self.places.contains(&(group.clone(), pid)) {
            return Err(Refused::NotMember);
        }
        Ok(wire::mcast(group, pid, piece, bytes))
    }

    /// The groups that a process of this node is in, or on its way into.
    pub fn places_of(&self, pid: u32) -> impl Iterator<Item = &Name> {
        self.places.iter().filter(move |(_, of)| *of == pid).map(|(group, _)| group)
    }

    /// Whether a process is in a group, or was a moment ago.
    pub fn has_member(&self, slot: u8, pid: u32) -> bool {
        let is_placed = slot == self.own && self.places_of(pid).next().is_some();
        is_placed || self.groups.values().any(|members| members.contains(&Member { slot, pid }))
    }

    /// The members of a group.
    pub fn members(&self, group: &Name) -> impl Iterator<Item = Member> {
        self.groups.get(group).into_iter().flatten().copied()
    }

    /// All groups with their members.
    pub fn all(&self) -> impl Iterator<Item = (&Name, &BTreeSet<Member>)> {
        self.groups.iter()
    }

    /// The ring has delivered a message of a node.
    pub fn delivered(&mut self, slot: u8, bytes: Bytes) {
        if self.expected == 0 {
            self.take(slot, bytes);
            return;
        }
        let is_due = 1u64.checked_shl(u32::from(slot)).is_some_and(|bit| self.expected & bit != 0);
        match Message::from_bytes(bytes.clone()) {
            Some(Message::Roll(roll)) if is_due => {
                self.expected &= !(1 << slot);
                self.rolls.push((slot, roll));
                if self.expected == 0 {
                    self.begin();
                }
            }
            _ => {
                self.held_bytes += bytes.len();
                self.held.push((slot, bytes));
                // Somebody does not tell: all who are here find so at the same message.
                if self.held_bytes > GROUP_HELD_MAX || self.held.len() > GROUP_HELD_COUNT_MAX {
                    self.is_partial = true;
                    self.begin();
                }
            }
        }
    }

    /// The ring goes on with these nodes only, until it tells of its next view.
    pub fn transitional(&mut self, slots: u64) {
        // Whose rolls have not come by now has said nothing else, either.
        self.is_partial = self.expected != 0;
        self.begin();
        if self.mutation != Mutation::GhostsKept {
            self.retire(|member| slots >> member.slot & 1 == 0, Reason::NodeDown);
        }
    }

    /// The ring has a view of these nodes: this one tells the others who of its processes is where, before anything else.
    pub fn regular(&mut self, slots: u64) {
        if self.mutation != Mutation::RollIgnored {
            self.expected = slots;
        }
        self.is_partial = false;
        // One that has not come back is the next message still, and nothing of this node can have come before it.
        if std::mem::replace(&mut self.roll_is_out, true) {
            return;
        }
        let own = self.groups.iter().flat_map(|(group, members)| {
            members.iter().filter(|member| member.slot == self.own).map(|member| (group.clone(), member.pid))
        });
        let bytes = Message::Roll(own.collect()).to_bytes();
        self.outputs.push_back(Output::First { bytes });
    }

    /// Whether all nodes of the view have told of their processes. If it went before that, its nodes may know different members
    /// of those that have not, and have said nothing in it.
    pub const fn knows_all(&self) -> bool {
        self.expected == 0 && !self.is_partial
    }

    /// The next output, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn take(&mut self, slot: u8, bytes: Bytes) {
        match Message::from_bytes(bytes) {
            Some(Message::Mcast { group, pid, piece, bytes }) => {
                self.message(group, Member { slot, pid }, piece, bytes);
            }
            Some(Message::Join { group, pid }) => {
                let member = Member { slot, pid };
                let members = self.groups.entry(group.clone()).or_default();
                if members.insert(member) {
                    self.tell(group, Vec::new(), vec![(member, Reason::Join)]);
                }
            }
            Some(Message::Leave { group, pid, has_ended }) => {
                let member = Member { slot, pid };
                let reason = if has_ended { Reason::ProcessDown } else { Reason::Leave };
                if self.groups.get_mut(&group).is_some_and(|members| members.remove(&member)) {
                    self.tell(group, vec![(member, reason)], Vec::new());
                }
            }
            Some(Message::Roll(roll)) => {
                self.rolls.push((slot, roll));
                self.call();
            }
            // Of a newer version: nothing that this one could do.
            None => {}
        }
    }

    fn message(&mut self, group: Name, from: Member, piece: Piece, bytes: Bytes) {
        let members = self.groups.get(&group);
        let is_of_use = members.is_some_and(|members| {
            members.contains(&from) && members.iter().any(|member| member.slot == self.own)
        });
        if is_of_use {
            self.outputs.push_back(Output::Message { group, from, piece, bytes });
        }
    }

    /// The rolls have come, or no more of them will: who is in, and then what was held back.
    fn begin(&mut self) {
        (self.expected, self.held_bytes) = (0, 0);
        self.call();
        for (slot, bytes) in std::mem::take(&mut self.held) {
            self.take(slot, bytes);
        }
    }

    /// What nodes say of their processes: who is new, came with its node, and who is not there any more, has ended. One change
    /// for each group.
    fn call(&mut self) {
        let mut left: BTreeMap<Name, Vec<(Member, Reason)>> = BTreeMap::new();
        let mut joined: BTreeMap<Name, Vec<(Member, Reason)>> = BTreeMap::new();
        for (slot, roll) in std::mem::take(&mut self.rolls) {
            if slot == self.own {
                self.roll_is_out = false;
            }
            if self.mutation == Mutation::RollIgnored {
                continue;
            }
            let called: BTreeSet<(Name, u32)> = roll.into_iter().collect();
            for (group, members) in &mut self.groups {
                members.retain(|member| {
                    let stays = member.slot != slot || called.contains(&(group.clone(), member.pid));
                    if !stays {
                        left.entry(group.clone()).or_default().push((*member, Reason::ProcessDown));
                    }
                    stays
                });
            }
            for (group, pid) in called {
                let member = Member { slot, pid };
                if self.groups.entry(group.clone()).or_default().insert(member) {
                    joined.entry(group).or_default().push((member, Reason::NodeUp));
                }
            }
        }
        let changed: BTreeSet<Name> = left.keys().chain(joined.keys()).cloned().collect();
        for group in changed {
            let (left, joined) = (left.remove(&group), joined.remove(&group));
            self.tell(group, left.unwrap_or_default(), joined.unwrap_or_default());
        }
    }

    fn retire(&mut self, goes: impl Fn(&Member) -> bool, reason: Reason) {
        let mut gone: BTreeMap<Name, Vec<(Member, Reason)>> = BTreeMap::new();
        for (group, members) in &mut self.groups {
            let left: Vec<Member> = members.iter().filter(|member| goes(member)).copied().collect();
            if !left.is_empty() {
                left.iter().for_each(|member| {
                    members.remove(member);
                });
                gone.insert(group.clone(), left.into_iter().map(|member| (member, reason)).collect());
            }
        }
        self.tell_gone(gone);
    }

    fn tell_gone(&mut self, gone: BTreeMap<Name, Vec<(Member, Reason)>>) {
        for (group, left) in gone {
            self.tell(group, left, Vec::new());
        }
    }

    /// Tells of a change whoever is there, or was until now; an empty group is no more.
    fn tell(&mut self, group: Name, left: Vec<(Member, Reason)>, joined: Vec<(Member, Reason)>) {
        let Some(members) = self.groups.get(&group) else { return };
        let mine = |member: &Member| member.slot == self.own;
        let concerns = members.iter().any(mine) || left.iter().any(|(member, _)| mine(member));
        let members: Vec<Member> = members.iter().copied().collect();
        if members.is_empty() {
            self.groups.remove(&group);
        }
        if concerns {
            self.outputs.push_back(Output::Configuration { group, members, left, joined });
        }
    }
}
