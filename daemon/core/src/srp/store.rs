//! The packets of one ring that this node has, by their numbers, with the gaps between them.
//!
//! "Sort queue" in Totem's terms: `my_aru` is [`Store::aru`], up to which nothing is missing. Packets that every member
//! has are released from the low end. The number of places is bounded, so a sender of wild numbers costs no memory.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::limits::RING_STORE_MAX;

/// One packet as it was ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// The slot that originated it.
    pub(super) origin: u8,
    /// Whether it is to be delivered only once every member has it.
    pub(super) safe: bool,
    /// Its chunks, or an old ring's packet in recovery.
    pub(super) recovered: bool,
    /// What it carries.
    pub(super) payload: Bytes,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It was not there.
    New,
    /// It had been there, or had been released already.
    Known,
    /// Its number is beyond all that can have been sent.
    Beyond,
}

/// The packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    /// All up to here were released; the first place is for the number after it.
    released: u64,
    places: VecDeque<Option<Packet>>,
    aru: u64,
    high: u64,
}

impl Store {
    /// All up to this number are there.
    pub(super) const fn aru(&self) -> u64 {
        self.aru
    }

    /// The highest number that is there.
    pub(super) const fn high(&self) -> u64 {
        self.high
    }

    /// All up to this number are gone again.
    pub(super) const fn released(&self) -> u64 {
        self.released
    }

    /// Takes a packet in.
    pub(super) fn insert(&mut self, seq: u64, packet: Packet) -> Inserted {
        let Some(place) = seq.checked_sub(self.released + 1) else { return Inserted::Known };
        if place >= RING_STORE_MAX {
            return Inserted::Beyond;
        }
        let place = place as usize;
        if place >= self.places.len() {
            self.places.resize(place + 1, None);
        }
        if self.places[place].is_some() {
            return Inserted::Known;
        }
        self.places[place] = Some(packet);
        self.high = self.high.max(seq);
        while self.get(self.aru + 1).is_some() {
            self.aru += 1;
        }
        Inserted::New
    }

    /// The packet of that number, if it is there.
    pub(super) fn get(&self, seq: u64) -> Option<&Packet> {
        let place = seq.checked_sub(self.released + 1)?;
        self.places.get(usize::try_from(place).ok()?)?.as_ref()
    }

    /// The numbers up to `end` that are not there, lowest first.
    pub(super) fn missing(&self, end: u64) -> impl Iterator<Item = u64> + '_ {
        (self.aru + 1..=end).filter(|seq| self.get(*seq).is_none())
    }

    /// Every member has all up to this number.
    pub(super) fn release(&mut self, end: u64) {
        while self.released < end.min(self.aru) {
            self.places.pop_front();
            self.released += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(origin: u8) -> Packet {
        Packet { origin, safe: false, recovered: false, payload: Bytes::new() }
    }

    #[test]
    fn gaps_are_seen_and_filled() {
        let mut store = Store::default();
        assert_eq!(store.insert(2, packet(0)), Inserted::New);
        assert_eq!(store.insert(4, packet(0)), Inserted::New);
        assert_eq!((store.aru(), store.high()), (0, 4));
        assert_eq!(store.missing(5).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(store.insert(1, packet(0)), Inserted::New);
        assert_eq!(store.aru(), 2);
        assert_eq!(store.insert(2, packet(1)), Inserted::Known);
        store.release(9);
        assert_eq!((store.released(), store.get(2)), (2, None), "only what is there without a gap");
        assert_eq!(store.insert(2, packet(1)), Inserted::Known, "it was there");
        assert_eq!(store.insert(3, packet(1)), Inserted::New);
        assert_eq!(store.aru(), 4);
    }

    #[test]
    fn wild_numbers_cost_nothing() {
        let mut store = Store::default();
        assert_eq!(store.insert(0, packet(0)), Inserted::Known, "numbers begin with 1");
        assert_eq!(store.insert(u64::MAX, packet(0)), Inserted::Beyond);
        assert_eq!(store.insert(RING_STORE_MAX + 1, packet(0)), Inserted::Beyond);
        assert_eq!(store.insert(RING_STORE_MAX, packet(0)), Inserted::New);
        assert_eq!(store.places.len() as u64, RING_STORE_MAX);
    }
}
