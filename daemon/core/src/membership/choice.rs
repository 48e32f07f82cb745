//! The choice: which of the nodes belong together, as a pure function of all rows.
//!
//! A group is a set of nodes that all hear one another, both ways. Of all groups the best comes first: a quorate one,
//! then more votes, more nodes that hold something, more members of the highest quorate view that any row names,
//! lower ids.
//! Those left out choose among themselves. So every node that knows the same rows makes the same choice, whatever the
//! graph, and one-way cuts and partial partitions give one answer.
//!
//! A node more never makes a group worse, so only groups that cannot grow are looked at (Bron and Kerbosch 1973, with
//! a pivot). There can be very many of them: after [`MEMBERSHIP_STEPS`] the best so far is taken, and a greedy one.

use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::view::View;

use super::row::Row;
use crate::limits::MEMBERSHIP_STEPS;

/// What the choice looks at.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The rows, by slot.
    pub rows: &'a [Option<Row>],
    /// Slots whose row is of a life that is known to be over: it hears nobody and holds nothing.
    pub over: u64,
    /// The votes of each slot.
    pub votes: &'a [u8; NODES_MAX],
    /// The votes of a quorum.
    pub quorum: u32,
}

/// The order of groups; a greater one is better.
type Rank = (bool, u32, u32, u32, u64);

impl Known<'_> {
    /// The group of the node in `own`; that node alone if there is no row of it.
    pub fn group_of(&self, own: u8) -> u64 {
        let edges = self.edges();
        let latest = self.latest();
        let holders = self.present().filter(|row| row.holds != 0);
        let holders = holders.fold(0, |set, row| set | 1 << row.slot);
        let mut present = self.rows.iter().flatten().fold(0u64, |set, row| set | 1 << row.slot);
        while present >> own & 1 != 0 {
            let rank = |group: u64| self.rank(group, holders, latest.members);
            let group = best(&edges, present, rank);
            if group >> own & 1 != 0 || group == 0 {
                return group | 1 << own;
            }
            present &= !group;
        }
        1 << own
    }

    /// The view that groups are held against: the highest quorate one that any row names. A node that stands alone has
    /// the highest id of all for it, and must not tip the scales; so where none is quorate, more votes go first.
    fn latest(&self) -> View {
        let views = self.rows.iter().flatten().map(|row| row.installed);
        let latest = views.max_by_key(|view| {
            let votes = self.votes_of(view.members);
            let quorate = votes >= self.quorum;
            (quorate, if quorate { 0 } else { votes }, *view)
        });
        latest.unwrap_or_default()
    }

    fn present(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().flatten().filter(|row| self.over >> row.slot & 1 == 0)
    }

    /// The votes of a set.
    pub fn votes_of(&self, group: u64) -> u32 {
        bits(group).map(|slot| u32::from(self.votes[usize::from(slot)])).sum()
    }

    fn rank(&self, group: u64, holders: u64, latest: u64) -> Rank {
        let votes = self.votes_of(group);
        let kept = (group & holders).count_ones();
        // Slot 0 in the highest bit: of two sets, the one with the lowest slot that differs is greater.
        (votes >= self.quorum, votes, kept, (group & latest).count_ones(), group.reverse_bits())
    }

    /// For each slot those that it hears and that hear it.
    fn edges(&self) -> [u64; NODES_MAX] {
        let mut edges = [0; NODES_MAX];
        for row in self.present() {
            let mutual = bits(row.heard).filter(|other| {
                *other != row.slot
                    && self.over >> other & 1 == 0
                    && self.rows.get(usize::from(*other)).is_some_and(|there| {
                        there.is_some_and(|there| there.hears(row.slot) && there.fits(row))
                    })
            });
            edges[usize::from(row.slot)] = mutual.fold(0, |set, other| set | 1 << other);
        }
        edges
    }
}

/// The slots of a set, the lowest first.
pub fn bits(mut set: u64) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let slot = (set != 0).then(|| set.trailing_zeros() as u8);
        set &= set.wrapping_sub(1);
        slot
    })
}

fn best(edges: &[u64; NODES_MAX], present: u64, rank: impl Fn(u64) -> Rank) -> u64 {
    let mut search = Search { edges, rank, best: None, steps: 0 };
    search.consider(greedy(edges, present));
    search.grow(0, present, 0);
    search.best.map_or(0, |(_, group)| group)
}

/// A group made by always taking the node that most of those left hear.
fn greedy(edges: &[u64; NODES_MAX], present: u64) -> u64 {
    let (mut group, mut left) = (0, present);
    while left != 0 {
        let most = bits(left)
            .max_by_key(|slot| ((edges[usize::from(*slot)] & left).count_ones(), std::cmp::Reverse(*slot)));
        let Some(slot) = most else { break };
        group |= 1 << slot;
        left &= edges[usize::from(slot)];
    }
    group
}

struct Search<'a, F> {
    edges: &'a [u64; NODES_MAX],
    rank: F,
    best: Option<(Rank, u64)>,
    steps: u32,
}

impl<F: Fn(u64) -> Rank> Search<'_, F> {
    fn consider(&mut self, group: u64) {
        let rank = (self.rank)(group);
        if self.best.is_none_or(|(best, _)| rank > best) {
            self.best = Some((rank, group));
        }
    }

    /// All groups of `group`, some of `left`, and none of `done`.
    fn grow(&mut self, group: u64, mut left: u64, mut done: u64) {
        self.steps += 1;
        if left == 0 {
            if done == 0 && group != 0 {
                self.consider(group);
            }
            return;
        }
        let pivot = bits(left | done).max_by_key(|slot| (self.edges[usize::from(*slot)] & left).count_ones());
        let of_pivot = pivot.map_or(0, |slot| self.edges[usize::from(slot)]);
        for slot in bits(left & !of_pivot) {
            if self.steps > MEMBERSHIP_STEPS {
                return;
            }
            let near = self.edges[usize::from(slot)];
            self.grow(group | 1 << slot, left & near, done & near);
            left &= !(1 << slot);
            done |= 1 << slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rows of a graph given by each node's set.
    fn rows(heard: &[u64]) -> Vec<Option<Row>> {
        let row = |(slot, heard): (usize, &u64)| {
            Some(Row {
                slot: slot as u8,
                heard: heard | 1 << slot,
                incarnation: 1,
                number: 1,
                ..Row::default()
            })
        };
        heard.iter().enumerate().map(row).collect()
    }

    fn group(rows: &[Option<Row>], own: u8) -> u64 {
        let mut votes = [0; NODES_MAX];
        votes[..rows.len()].fill(1);
        let quorum = rows.len() as u32 / 2 + 1;
        Known { rows, over: 0, votes: &votes, quorum }.group_of(own)
    }

    #[test]
    fn all_who_hear_one_another_are_together() {
        let rows = rows(&[0b111, 0b111, 0b111]);
        for own in 0..3 {
            assert_eq!(group(&rows, own), 0b111);
        }
    }

    #[test]
    fn a_cut_between_two_leaves_the_lower_pair() {
        // 0 and 2 do not hear one another; 1 hears both.
        let rows = rows(&[0b011, 0b111, 0b110]);
        assert_eq!([0, 1, 2].map(|own| group(&rows, own)), [0b011, 0b011, 0b100]);
    }

    #[test]
    fn a_one_way_cut_counts_as_a_cut() {
        let rows = rows(&[0b111, 0b111, 0b110]);
        assert_eq!([0, 1, 2].map(|own| group(&rows, own)), [0b011, 0b011, 0b100]);
    }

    #[test]
    fn a_holder_and_then_the_last_view_decide_between_equals() {
        let mut rows = rows(&[0b011, 0b111, 0b110]);
        if let Some(row) = &mut rows[0] {
            row.installed = View::new(4, 0, 0b110, 5, 1);
        }
        assert_eq!(group(&rows, 1), 0b110, "the members of the last view stay");
        if let Some(row) = &mut rows[0] {
            row.holds = 1;
        }
        assert_eq!(group(&rows, 1), 0b011, "the holder stays");
    }

    #[test]
    fn another_configuration_is_no_company() {
        let mut rows = rows(&[0b111, 0b111, 0b111]);
        if let Some(row) = &mut rows[1] {
            row.config = 2;
        }
        assert_eq!([0, 1, 2].map(|own| group(&rows, own)), [0b101, 0b010, 0b101]);
    }

    #[test]
    fn the_worst_graph_is_given_up_in_time() {
        // 64 nodes in 21 triples that miss one another: 3^21 groups.
        let heard: Vec<u64> =
            (0..64u32).map(|slot| if slot == 63 { !0 } else { !(0b111 << (slot / 3 * 3)) }).collect();
        let rows = rows(&heard);
        let chosen = group(&rows, 0);
        assert_eq!(chosen, group(&rows, 3), "both the same");
        assert_eq!(chosen.count_ones(), 22);
    }

    proptest! {
        /// Whatever the graph: a group is whole, every node is in exactly one, and all of it agree.
        #[test]
        fn choices_agree(heard in proptest::collection::vec(0u64..256, 1..8)) {
            let count = heard.len();
            let rows = rows(&heard);
            let groups: Vec<u64> = (0..count as u8).map(|own| group(&rows, own)).collect();
            for (own, set) in groups.iter().enumerate() {
                prop_assert!(set >> own & 1 != 0);
                for slot in bits(*set) {
                    prop_assert_eq!(groups[usize::from(slot)], *set, "all of a group agree");
                    for other in bits(*set) {
                        let hears = |a: u8, b: u8| rows[usize::from(a)].is_some_and(|row| row.hears(b));
                        prop_assert!(hears(slot, other) && hears(other, slot));
                    }
                }
            }
        }
    }
}
