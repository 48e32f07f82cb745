//! The connectivity graph as this node knows it: for every node the row of those that it hears.
//!
//! A row is 64 bits, a bit for each slot. The newest stamp wins, on whatever link it came; a row is never merged with
//! an older one. Deliberately not there: what follows from the rows, which is membership's, and any forgetting: an old
//! row shows its age, and whoever reads it judges.

use ringbeat_common::limits::NODES_MAX;

/// A node's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The slots that the node hears, its own included.
    pub bits: u64,
    /// When it said so, by this node's clock.
    pub stamp_ns: u64,
    /// The link that it came on; none for the own row.
    pub link: Option<u8>,
}

impl Row {
    /// Whether the node hears `slot`.
    pub const fn hears(&self, slot: u8) -> bool {
        (slot as usize) < NODES_MAX && self.bits >> slot & 1 != 0
    }
}

/// All rows, by slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    rows: [Option<Row>; NODES_MAX],
}

impl Default for Graph {
    fn default() -> Self {
        Self::new()
    }
}

impl Graph {
    /// Nothing known.
    pub const fn new() -> Self {
        Self { rows: [None; NODES_MAX] }
    }

    /// What is known of a node's row.
    pub fn row(&self, slot: u8) -> Option<Row> {
        *self.rows.get(usize::from(slot))?
    }

    /// How old it is.
    pub fn age_ns(&self, slot: u8, now_ns: u64) -> Option<u64> {
        Some(now_ns.saturating_sub(self.row(slot)?.stamp_ns))
    }

    /// Takes a row, unless a newer one is there; true if `bits` changed.
    pub fn set(&mut self, slot: u8, bits: u64, stamp_ns: u64, link: Option<u8>) -> bool {
        let Some(row) = self.rows.get_mut(usize::from(slot)) else { return false };
        let before = *row;
        if before.is_some_and(|before| before.stamp_ns > stamp_ns) {
            return false;
        }
        *row = Some(Row { bits, stamp_ns, link });
        before.is_none_or(|before| before.bits != bits)
    }

    /// Forgets a node's row: a new life of it hears nobody yet.
    pub fn forget(&mut self, slot: u8) {
        if let Some(row) = self.rows.get_mut(usize::from(slot)) {
            *row = None;
        }
    }

    /// All rows that are known, by slot.
    pub fn rows(&self) -> impl Iterator<Item = (u8, Row)> {
        (0..).zip(self.rows).filter_map(|(slot, row)| Some((slot, row?)))
    }

    /// Whether each of the two hears the other, as far as is known.
    pub fn mutual(&self, one: u8, other: u8) -> bool {
        self.row(one).is_some_and(|row| row.hears(other)) && self.row(other).is_some_and(|row| row.hears(one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_row_wins() {
        let mut graph = Graph::new();
        assert_eq!(graph.row(3), None);
        assert!(graph.set(3, 0b1001, 100, Some(0)));
        assert!(!graph.set(3, 0b1111, 99, Some(1)), "older");
        assert!(!graph.set(3, 0b1001, 110, Some(1)), "the same bits");
        assert_eq!(graph.row(3), Some(Row { bits: 0b1001, stamp_ns: 110, link: Some(1) }));
        assert_eq!(graph.age_ns(3, 150), Some(40));
        assert_eq!(graph.age_ns(4, 150), None);
        graph.forget(3);
        assert_eq!(graph.rows().count(), 0);
    }

    #[test]
    fn one_way_is_not_mutual_and_no_slot_is_out_of_bounds() {
        let mut graph = Graph::new();
        graph.set(0, 0b11, 1, None);
        graph.set(1, 0b10, 1, Some(0));
        assert!(!graph.mutual(0, 1));
        graph.set(1, 0b11, 2, Some(0));
        assert!(graph.mutual(0, 1));
        assert!(!graph.set(64, 1, 1, None));
        assert!(graph.row(255).is_none() && !graph.mutual(255, 0));
        assert!(!Row { bits: u64::MAX, ..Row::default() }.hears(64));
        graph.forget(200);
    }
}
