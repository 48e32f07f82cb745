//! What nodes tell one another of views: the announcement that the sender stands by, and rows.
//!
//! ```text
//! word 0        rows (8 bits), owners (8 bits), 1 if there is an announcement (8 bits)
//! word 1        a digest of the lives that the sender has met, 0 if it has not met all
//! words 2..5    the view announced last, if there is one
//! then          its owners, a byte for each resource, filled up to whole words
//! then          rows, eleven words each, the sender's own first
//! ```
//! Words are little-endian. Every message stands for itself: what is lost is said again, what comes twice changes
//! nothing. Deliberately not there: acknowledgements, and anything that a row does not show.

use ringbeat_common::limits::{GATES_MAX, NODES_MAX};
use ringbeat_common::view::View;

use super::row::{ROW_WORDS, Row};

/// For each resource the slot that owns it; [`NOBODY`] for none.
pub type Owners = [u8; GATES_MAX];
/// Owns nothing.
pub const NOBODY: u8 = 0xff;
/// Rows of one message: it fits an Ethernet frame with its envelope.
pub const ROWS_MAX: usize = 14;

/// A view with its owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The view.
    pub view: View,
    /// Who owns what under it.
    pub owners: Owners,
}

impl Announcement {
    /// Nothing announced.
    pub const NONE: Self = Self { view: View::NONE, owners: [NOBODY; GATES_MAX] };

    /// The resources of a slot.
    pub fn owned_by(&self, slot: u8) -> u64 {
        let owned = self.owners.iter().enumerate().filter(|(_, owner)| **owner == slot);
        owned.fold(0, |set, (resource, _)| set | 1 << resource)
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// A digest of the lives of all nodes, met under the sender's electorate; 0 if it has not met all.
    pub lives: u64,
    /// What the sender has announced last.
    pub announced: Option<Announcement>,
    /// Rows that it knows.
    pub rows: Vec<Row>,
}

impl Message {
    /// As bytes; of the owners those of the first `resources`.
    pub fn to_bytes(&self, resources: usize) -> Vec<u8> {
        let resources = resources.min(GATES_MAX);
        let rows = self.rows.len().min(ROWS_MAX);
        let said = u64::from(self.announced.is_some());
        let mut words = vec![rows as u64 | (resources as u64) << 8 | said << 16, self.lives];
        if let Some(announced) = &self.announced {
            words.extend([announced.view.epoch, announced.view.members, announced.view.rest]);
            for owners in announced.owners[..resources].chunks(8) {
                let word = owners
                    .iter()
                    .enumerate()
                    .fold(0, |word, (at, owner)| word | u64::from(*owner) << (8 * at));
                words.push(word);
            }
        }
        for row in &self.rows[..rows] {
            words.extend(row.to_words());
        }
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// From bytes; none if they are not exactly a message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, []) = bytes.as_chunks::<8>() else { return None };
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let head = words.next()?;
        let (count, resources, said) = (head as u8, (head >> 8) as u8, head >> 16);
        let lives = words.next()?;
        let (count, resources) = (usize::from(count), usize::from(resources));
        if count > ROWS_MAX || resources > GATES_MAX || said > 1 {
            return None;
        }
        let announced = if said == 1 {
            let view = View { epoch: words.next()?, members: words.next()?, rest: words.next()? };
            let mut owners = [NOBODY; GATES_MAX];
            for part in owners[..resources].chunks_mut(8) {
                let word = words.next()?;
                part.iter_mut().enumerate().for_each(|(at, owner)| *owner = (word >> (8 * at)) as u8);
            }
            let in_view =
                |owner: &u8| *owner == NOBODY || (usize::from(*owner) < NODES_MAX && view.has(*owner));
            if !view.is_some() || !owners.iter().all(in_view) {
                return None;
            }
            Some(Announcement { view, owners })
        } else {
            None
        };
        let mut rows = Vec::with_capacity(count);
        for _ in 0..count {
            let mut row = [0; ROW_WORDS];
            for word in &mut row {
                *word = words.next()?;
            }
            rows.push(Row::from_words(&row)?);
        }
        words.next().is_none().then_some(Self { lives, announced, rows })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(slot: u8, seed: u64) -> Row {
        Row {
            slot,
            incarnation: seed,
            number: seed ^ 1,
            heard: seed ^ 2,
            config: seed as u32,
            lease_us: seed as u32 & 0xff_ffff,
            floor: seed ^ 3,
            installed: View { epoch: seed ^ 4, members: seed ^ 5, rest: seed ^ 6 },
            holds: seed ^ 7,
            able: seed ^ 8,
            electorate: seed ^ 9,
        }
    }

    proptest! {
        #[test]
        fn what_is_said_is_read(
            rows in proptest::collection::vec((0u8..64, any::<u64>()), 0..ROWS_MAX),
            said in any::<bool>(),
            resources in 0usize..=GATES_MAX,
            members in any::<u64>(),
        ) {
            let mut owners = [NOBODY; GATES_MAX];
            for (owner, slot) in owners[..resources].iter_mut().zip(0..64).filter(|(_, slot)| members >> slot & 1 != 0) {
                *owner = slot;
            }
            let view = View::new(7, 1, members, 5, 1);
            let rows = rows.into_iter().map(|(slot, seed)| row(slot, seed)).collect();
            let message = Message { lives: members ^ 7, announced: said.then_some(Announcement { view, owners }), rows };
            let bytes = message.to_bytes(resources);
            prop_assert_eq!(Message::from_bytes(&bytes), Some(message));
            for length in 0..bytes.len() {
                prop_assert_eq!(Message::from_bytes(&bytes[..length]), None);
            }
        }

        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let _ = Message::from_bytes(&bytes);
        }
    }

    #[test]
    fn an_owner_outside_of_its_view_is_refused() {
        let mut owners = [NOBODY; GATES_MAX];
        owners[0] = 3;
        let view = View::new(7, 0, 0b0111, 5, 1);
        let message = Message { lives: 0, announced: Some(Announcement { view, owners }), rows: Vec::new() };
        assert_eq!(Message::from_bytes(&message.to_bytes(1)), None);
    }
}
