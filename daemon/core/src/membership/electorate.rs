//! Who votes, and how that changes without two quorums at once.
//!
//! An *electorate* is all nodes with their votes. A change of it comes by restarts, node by node, so for a while some
//! nodes count by the old one and some by the new, and a quorum of each may have no node in common. So nodes of two
//! electorates are never in one view, and a node takes part in views only once its electorate is *confirmed*:
//!
//! * All of its nodes have run it at one instant. Every node tells a digest of the lives of all nodes of its electorate
//!   from which it has had a message under it; if all tell the same, each two of these lives were there together,
//!   and intervals of which each two meet have an instant in common (Helly). A life runs one electorate.
//! * Or another node of it says that it is confirmed, and this one has not run it before, left it, and come back.
//!
//! Claim: if the nodes of one electorate that are not in the next are no quorum of the old one, which each node checks
//! against its record when it starts, then no two electorates have quorums of confirmed nodes at once. Take for each of
//! the two the last instant at which all of its nodes ran it, and E the one whose instant is earlier. A quorum of E has
//! a node of the other one, Z. Z ran E then, the other one later, and E again now; so it has come back, and can only
//! have it confirmed by an instant that is later still. But E's was the last.
//!
//! What was promised under the old electorate may last longer than the last restart takes. So unless no node of it has
//! ever run another one, [`CONFIRM_WAIT_NS`] pass before the confirmation counts.
//!
//! Deliberately not here: the file that keeps the [`Record`].

use ringbeat_common::siphash::siphash24;

use super::choice::bits;
use super::{Membership, Output, Row};
use crate::limits::{CONFIRM_WAIT_NS, ELECTORATES_KEPT};

/// The key of digests: none, for they keep nothing secret.
const KEY: [u64; 2] = [0; 2];
/// Bits of a row's electorate that say something else.
const FLAGS: u64 = 0b11;

/// All nodes with their votes, in the order of slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Electorate(Vec<(u8, u8)>);

impl Electorate {
    /// Of slots and their votes, in any order.
    pub fn new(votes: impl IntoIterator<Item = (u8, u8)>) -> Self {
        let mut votes: Vec<_> = votes.into_iter().collect();
        votes.sort_unstable();
        votes.dedup_by_key(|(slot, _)| *slot);
        Self(votes)
    }

    /// Slots and votes.
    pub fn votes(&self) -> &[(u8, u8)] {
        &self.0
    }

    /// A number for it, the two lowest bits clear.
    pub fn digest(&self) -> u64 {
        let words: Vec<u64> =
            self.0.iter().map(|(slot, votes)| u64::from(*slot) | u64::from(*votes) << 8).collect();
        siphash24(KEY, &words) & !FLAGS
    }

    /// Its nodes that are not in another, if they have a quorum of it by themselves.
    pub fn stranded(&self, next: &Self) -> Option<Vec<u8>> {
        let sum = |votes: &[(u8, u8)]| votes.iter().map(|(_, votes)| u32::from(*votes)).sum::<u32>();
        let gone = |(slot, _): &(u8, u8)| next.0.iter().all(|(there, _)| there != slot);
        let gone: Vec<_> = self.0.iter().copied().filter(gone).collect();
        (sum(&gone) > sum(&self.0) / 2).then(|| gone.into_iter().map(|(slot, _)| slot).collect())
    }
}

/// What this node's record says of the electorate that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It is confirmed.
    pub confirmed: bool,
    /// This node has run it before, and left it for another.
    pub again: bool,
    /// This node has never run another.
    pub sole: bool,
}

/// What one node knows of an electorate that it has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// Not confirmed yet.
    New,
    /// Not confirmed yet, and it had been run before.
    Again,
    /// Confirmed.
    Confirmed,
    /// Left before a later one was confirmed: it has no quorum any more.
    Left,
}

/// Why a node must not start with an electorate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsafe {
    /// These nodes are not in it, and may be a quorum without the others: one that this node ran before.
    Stranded(Vec<u8>),
    /// Too many have been tried, and none was confirmed.
    TooMany,
}

/// The electorates that this node has run, the present one last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(pub Vec<(Tenure, Electorate)>);

impl Record {
    /// Whether a start with this one changes the record.
    pub fn is_change(&self, next: &Electorate) -> bool {
        self.0.last().is_none_or(|(_, last)| last != next)
    }

    /// The record of a node that starts with this one. It has to be durable before anything is said.
    pub fn start(mut self, next: &Electorate) -> Result<Self, Unsafe> {
        if !self.is_change(next) {
            return Ok(self);
        }
        for (_, before) in self.0.iter().filter(|(tenure, _)| *tenure != Tenure::Left) {
            if let Some(nodes) = before.stranded(next) {
                return Err(Unsafe::Stranded(nodes));
            }
        }
        let known = self.0.len();
        self.0.retain(|(_, before)| before != next);
        let tenure = if self.0.len() < known { Tenure::Again } else { Tenure::New };
        if self.0.len() >= ELECTORATES_KEPT {
            let oldest = self.0.iter().position(|(tenure, _)| *tenure == Tenure::Left);
            self.0.remove(oldest.ok_or(Unsafe::TooMany)?);
        }
        self.0.push((tenure, next.clone()));
        Ok(self)
    }

    /// The present one is confirmed.
    pub fn confirm(&mut self) {
        if let Some(((tenure, _), before)) = self.0.split_last_mut() {
            *tenure = Tenure::Confirmed;
            before.iter_mut().for_each(|(tenure, _)| *tenure = Tenure::Left);
        }
    }

    /// What it says of the present one.
    pub fn standing(&self) -> Standing {
        let tenure = self.0.last().map_or(Tenure::New, |(tenure, _)| *tenure);
        Standing {
            confirmed: tenure == Tenure::Confirmed,
            again: tenure == Tenure::Again,
            sole: self.0.len() <= 1 && tenure != Tenure::Again,
        }
    }
}

/// What is known of the electorate's confirmation.
#[derive(Clone, Debug)]
pub(super) struct Confirmation {
    /// The digest.
    pub(super) digest: u64,
    /// Whether it is confirmed.
    pub(super) confirmed: bool,
    /// Since when, if that was in this life.
    pub(super) since_ns: Option<u64>,
    standing: Standing,
    /// From when on it counts, once all nodes have run it at an instant.
    at_ns: Option<u64>,
    /// Slots from whose present lives messages have come under it.
    met: u64,
    /// Those that have never run another.
    sole: u64,
    /// What each of them says of the lives that it has met.
    said: Vec<u64>,
    /// What this node says of them: 0 until all are met.
    pub(super) own: u64,
    /// Whether it has met another life since it said so.
    is_old: bool,
}

impl Confirmation {
    pub(super) fn new(electorate: &Electorate, standing: Standing) -> Self {
        Self {
            digest: electorate.digest(),
            confirmed: standing.confirmed,
            since_ns: None,
            standing,
            at_ns: None,
            met: 0,
            sole: 0,
            said: vec![0; 64],
            own: 0,
            is_old: true,
        }
    }

    /// A row's word.
    pub(super) fn word(&self) -> u64 {
        self.digest | u64::from(self.standing.sole) << 1 | u64::from(self.confirmed)
    }

    /// Another life of a node has met nobody yet.
    pub(super) fn forget(&mut self, slot: u8) {
        self.met &= !(1 << slot);
        self.is_old = true;
        self.said[usize::from(slot)] = 0;
    }

    pub(super) const fn timeout(&self) -> Option<u64> {
        if self.confirmed { None } else { self.at_ns }
    }
}

impl Membership {
    /// Whether this node's electorate is confirmed; no view has a quorum before.
    pub const fn is_confirmed(&self) -> bool {
        self.confirmation.confirmed
    }

    /// The nodes that have to be seen under the own electorate still, before it is confirmed.
    pub fn unmet(&self) -> u64 {
        self.everybody & !self.confirmation.met & !(1 << self.config.own)
    }

    /// A peer has said, of itself, which electorate it runs, and a digest of the lives that it has met.
    pub(super) fn meet(&mut self, row: &Row, lives: u64, now_ns: u64) {
        let state = &mut self.confirmation;
        if row.electorate() != state.digest || self.everybody >> row.slot & 1 == 0 {
            return;
        }
        state.is_old |= state.met >> row.slot & 1 == 0;
        state.met |= 1 << row.slot;
        state.sole = state.sole & !(1 << row.slot) | u64::from(row.is_sole()) << row.slot;
        state.said[usize::from(row.slot)] = lives;
        if row.is_confirmed() && !state.standing.again {
            self.confirm(now_ns);
        }
    }

    /// Whether all nodes have run this electorate at an instant.
    pub(super) fn look_at_electorate(&mut self, now_ns: u64) {
        let own = 1 << self.config.own;
        if std::mem::take(&mut self.confirmation.is_old) {
            let lives = self.digest_of_lives();
            self.news |= lives != self.confirmation.own;
            self.confirmation.own = lives;
        }
        let others = self.everybody & !own;
        let state = &mut self.confirmation;
        let lives = state.own;
        if state.confirmed {
            return;
        }
        if state.at_ns.is_none()
            && lives != 0
            && bits(others).all(|slot| state.said[usize::from(slot)] == lives)
        {
            let sole = state.standing.sole && others & !state.sole == 0;
            state.at_ns = Some(if sole { now_ns } else { now_ns.saturating_add(CONFIRM_WAIT_NS) });
        }
        if state.at_ns.is_some_and(|at_ns| now_ns >= at_ns) {
            self.confirm(now_ns);
        }
    }

    /// A digest of the lives that have been met; 0 until that is one of each node.
    fn digest_of_lives(&self) -> u64 {
        if self.unmet() != 0 {
            return 0;
        }
        let lives: Vec<u64> = bits(self.everybody).map(|slot| self.lives[usize::from(slot)]).collect();
        siphash24([self.confirmation.digest, 1], &lives).max(1)
    }

    pub(super) fn confirm(&mut self, now_ns: u64) {
        if !self.confirmation.confirmed {
            (self.confirmation.confirmed, self.confirmation.since_ns) = (true, Some(now_ns));
            self.outputs.push_back(Output::Confirmed);
            let word = self.confirmation.word();
            self.change(|row| row.electorate = word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(votes: &[(u8, u8)]) -> Electorate {
        Electorate::new(votes.iter().copied())
    }

    #[test]
    fn the_digest_is_of_slots_and_votes_and_nothing_else() {
        let three = of(&[(0, 1), (1, 1), (2, 1)]);
        assert_eq!(three.digest(), of(&[(2, 1), (0, 1), (1, 1)]).digest());
        // It is compared between versions of the program.
        assert_eq!(three.digest(), 9_821_596_080_117_982_396);
        for other in [of(&[(0, 1), (1, 1)]), of(&[(0, 1), (1, 1), (2, 2)]), of(&[(0, 1), (1, 1), (3, 1)])] {
            assert_ne!(three.digest(), other.digest());
        }
        assert_eq!(three.digest() & FLAGS, 0);
    }

    #[test]
    fn a_quorum_must_not_be_left_behind() {
        let three = of(&[(0, 1), (1, 1), (2, 1)]);
        assert_eq!(three.stranded(&of(&[(2, 1), (3, 1), (4, 1)])), Some(vec![0, 1]));
        assert_eq!(three.stranded(&of(&[(1, 1), (2, 1)])), None);
        assert_eq!(of(&[(0, 3), (1, 1), (2, 1)]).stranded(&of(&[(1, 1), (2, 1)])), Some(vec![0]));
        let four = of(&[(0, 1), (1, 1), (2, 1), (3, 1)]);
        assert_eq!(four.stranded(&of(&[(2, 1), (3, 1)])), None, "half is no quorum");
    }

    #[test]
    fn the_record_knows_what_was_left() {
        let one = |slots: std::ops::Range<u8>| Electorate::new(slots.map(|slot| (slot, 1)));
        let record = Record::default().start(&one(0..3)).expect("the first");
        assert_eq!(record.standing(), Standing { confirmed: false, again: false, sole: true });
        let mut record = record.start(&one(0..3)).expect("the same");
        record.confirm();
        assert_eq!(record.standing(), Standing { confirmed: true, again: false, sole: true });
        let record = record.start(&one(0..5)).expect("two more");
        assert_eq!(record.standing(), Standing { confirmed: false, again: false, sole: false });
        assert_eq!(record.clone().start(&one(2..5)), Err(Unsafe::Stranded(vec![0, 1])));
        let mut record = record.start(&one(0..3)).expect("back");
        assert_eq!(record.standing(), Standing { confirmed: false, again: true, sole: false });
        assert_eq!(record.0.len(), 2);
        record.confirm();
        assert_eq!(record.0[0].0, Tenure::Left);
        let record = record.start(&one(1..4)).expect("one for another");
        assert!(record.clone().start(&one(2..5)).is_err(), "of the first, the one that counts, two are gone");
        let mut record = record;
        record.confirm();
        let record = record.start(&one(2..5)).expect("one for another, once more");
        assert!(record.start(&one(3..6)).is_err());
    }

    #[test]
    fn the_record_has_a_bound() {
        let one = |last: u8| of(&[(0, 5), (1, 1), (last, 1)]);
        let mut record = Record::default();
        for last in 2..2 + ELECTORATES_KEPT as u8 {
            record = record.start(&one(last)).expect("in bounds");
        }
        assert_eq!(record.clone().start(&one(60)), Err(Unsafe::TooMany));
        record.confirm();
        let record = record.start(&one(60)).expect("the oldest is forgotten");
        assert_eq!(record.0.len(), ELECTORATES_KEPT);
    }
}
