//! The lease in one thread: each function for itself.

use core::cell::Cell;

use super::*;

const MS: u64 = 1_000_000;

struct Table([Cell<u64>; LEASE_WORDS]);

impl Table {
    fn new() -> Self {
        let table = Self([const { Cell::new(0) }; LEASE_WORDS]);
        adopt_closed(&table);
        table
    }
}

impl Words for Table {
    fn load(&self, at: usize) -> u64 {
        self.0[at].get()
    }

    fn store(&self, at: usize, value: u64) {
        self.0[at].set(value);
    }

    fn swap_if(&self, at: usize, old: u64, new: u64) -> bool {
        let is = self.0[at].get() == old;
        if is {
            self.0[at].set(new);
        }
        is
    }
}

fn view(epoch: u64, members: u64) -> View {
    View::new(epoch, 0, members, 5000, 1)
}

fn votes() -> [u8; NODES_MAX] {
    let mut votes = [0; NODES_MAX];
    votes[..3].fill(1);
    votes
}

fn set(table: &Table, view: View, owned: u64, now_ns: u64) -> u64 {
    let not_before_ns = announce::<Whole, _>(table, &view, owned);
    let votes = votes();
    let new = Installation { view, not_before_ns, own: 0, votes: &votes, quorum: 2, owned, now_ns };
    install::<Whole, _>(table, &new);
    not_before_ns
}

fn counted(table: &Table, slot: u8, stamp_ns: u64, now_ns: u64) -> Counted {
    let serving = serving(table);
    count::<Whole, _>(table, &serving, slot, &serving.view.clone(), stamp_ns, now_ns)
}

fn granted(table: &Table, slot: u8, received_ns: u64, now_ns: u64) -> bool {
    grant::<Whole, _>(table, &serving(table), slot, received_ns, now_ns)
}

#[test]
fn a_quorum_of_grants_opens_the_gate_for_the_length_of_the_lease() {
    let table = Table::new();
    set(&table, view(1, 0b111), 1, 0);
    assert!(!is_open(&table, 0, 100 * MS));
    assert_eq!(counted(&table, 1, 100 * MS, 101 * MS), Counted::Gained);
    assert!(is_open(&table, 0, 105 * MS - 1));
    assert!(!is_open(&table, 0, 105 * MS));
    assert!(!is_open(&table, 1, 101 * MS), "not ours");
    assert_eq!(counted(&table, 2, 103 * MS, 104 * MS), Counted::Longer);
    assert!(is_open(&table, 0, 107 * MS));
    assert_eq!(lapsed(&table, 107 * MS), None);
    assert_eq!(lapsed(&table, 108 * MS), Some(108_000));
    assert_eq!(lapsed(&table, 109 * MS), None, "once");
    assert_eq!(counted(&table, 2, 109 * MS, 110 * MS), Counted::Gained);
    let said = [LAPSES, LAPSE_MAX_US, LAPSE_ENDED_US].map(|at| table.load(at));
    assert_eq!(said, [1, 2000, 110_000]);
}

#[test]
fn a_quorum_is_as_new_as_its_oldest_vote() {
    let table = Table::new();
    let mut five = [0; NODES_MAX];
    five[..5].fill(1);
    let new = Installation {
        view: view(1, 0b11111),
        not_before_ns: 0,
        own: 0,
        votes: &five,
        quorum: 3,
        owned: 1,
        now_ns: 0,
    };
    install::<Whole, _>(&table, &new);
    assert_eq!(counted(&table, 1, 10 * MS, 20 * MS), Counted::Same);
    assert_eq!(counted(&table, 2, 12 * MS, 13 * MS), Counted::Gained);
    assert_eq!(until_us(&table), 15_000);
    assert_eq!(counted(&table, 3, 14 * MS, 14 * MS), Counted::Longer);
    assert_eq!(until_us(&table), 17_000);
    assert_eq!(counted(&table, 4, 13 * MS, 14 * MS), Counted::Longer);
    assert_eq!(until_us(&table), 18_000);
}

#[test]
fn announcing_stops_grants_and_waits_for_promises() {
    let table = Table::new();
    set(&table, view(1, 0b111), 1, 0);
    assert!(granted(&table, 2, 100 * MS, 100 * MS));
    let next = view(2, 0b011);
    let not_before_ns = announce::<Whole, _>(&table, &next, 1);
    assert_eq!(not_before_ns, 106_251_000);
    assert!(!granted(&table, 2, 101 * MS, 101 * MS), "outside");
    assert!(granted(&table, 1, 101 * MS, 101 * MS), "in both");
    let votes = votes();
    let new =
        Installation { view: next, not_before_ns, own: 0, votes: &votes, quorum: 2, owned: 1, now_ns: 0 };
    install::<Whole, _>(&table, &new);
    assert!(!granted(&table, 1, 102 * MS, 102 * MS), "not before the promise is over");
    assert!(granted(&table, 1, 102 * MS, not_before_ns));
    // The own vote waits as well.
    assert_eq!(counted(&table, 1, 104 * MS, 105 * MS), Counted::Same);
    assert_eq!(counted(&table, 1, 106 * MS, not_before_ns), Counted::Gained);
}

#[test]
fn gone_ends_a_promise() {
    let table = Table::new();
    set(&table, view(1, 0b111), 1, 0);
    assert!(granted(&table, 2, 100 * MS, 100 * MS));
    ended::<Whole, _>(&table, &serving(&table), 2, 101 * MS);
    assert!(!granted(&table, 2, 102 * MS, 102 * MS));
    assert_eq!(announce::<Whole, _>(&table, &view(2, 0b011), 1), 101_001_000);
}

#[test]
fn gone_of_a_run_from_before_the_view_ends_nothing() {
    let table = Table::new();
    set(&table, view(1, 0b111), 1, 0);
    let held_up = serving(&table);
    set(&table, view(2, 0b111), 1, 0);
    assert!(granted(&table, 2, 100 * MS, 100 * MS));
    ended::<Whole, _>(&table, &held_up, 2, 90 * MS);
    assert!(granted(&table, 2, 101 * MS, 101 * MS));
    assert_eq!(announce::<Whole, _>(&table, &view(3, 0b011), 1), 107_251_000);
}

#[test]
fn a_lease_is_carried_over_by_its_owner_only() {
    let table = Table::new();
    set(&table, view(1, 0b111), 0b01, 0);
    counted(&table, 1, 100 * MS, 100 * MS);
    set(&table, view(2, 0b011), 0b11, 101 * MS);
    assert!(is_open(&table, 0, 102 * MS), "carried");
    assert!(!is_open(&table, 1, 102 * MS), "new");
    assert!(!is_open(&table, 0, 105 * MS));
    set(&table, view(3, 0b011), 0b10, 103 * MS);
    assert!(!is_open(&table, 0, 104 * MS), "given away");
}

#[test]
fn what_is_told_follows_the_lease() {
    let table = Table::new();
    set(&table, view(1, 0b111), 0, 0);
    assert_eq!(counted(&table, 1, 100 * MS, 100 * MS), Counted::Gained);
    set(&table, view(2, 0b111), 0, 101 * MS);
    assert_eq!(lapsed(&table, 102 * MS), None, "nothing was carried over, so nothing runs out");
    assert_eq!(counted(&table, 1, 103 * MS, 103 * MS), Counted::Gained, "each view tells anew");
    set(&table, view(3, 0b111), 1, 104 * MS);
    assert_eq!(counted(&table, 1, 104 * MS, 104 * MS), Counted::Gained);
    set(&table, view(4, 0b111), 1, 105 * MS);
    assert_eq!(lapsed(&table, 108 * MS), None);
    assert_eq!(lapsed(&table, 109 * MS), Some(109_000), "what was carried over has run out");
}

#[test]
fn a_run_that_began_before_a_view_neither_grants_nor_counts() {
    let table = Table::new();
    set(&table, view(1, 0b111), 1, 0);
    let held_up = serving(&table);
    set(&table, view(2, 0b111), 1, 0);
    assert!(!grant::<Whole, _>(&table, &held_up, 1, 100 * MS, 100 * MS));
    assert_eq!(count::<Whole, _>(&table, &held_up, 1, &view(1, 0b111), 100 * MS, 100 * MS), Counted::Same);
    assert_eq!(until_us(&table), 0);
}

#[test]
fn a_node_that_is_a_quorum_alone_needs_no_grant() {
    let table = Table::new();
    let mut heavy = votes();
    heavy[0] = 3;
    let new = Installation {
        view: view(1, 1),
        not_before_ns: 50,
        own: 0,
        votes: &heavy,
        quorum: 3,
        owned: 1,
        now_ns: 0,
    };
    install::<Whole, _>(&table, &new);
    assert!(!is_open(&table, 0, 49));
    assert!(is_open(&table, 0, 50) && is_open(&table, 0, u64::MAX));
}

#[test]
fn a_new_daemon_finds_the_gates_closed_and_the_promises_kept() {
    let table = Table::new();
    set(&table, view(1, 0b111), 1, 0);
    counted(&table, 1, 100 * MS, 100 * MS);
    assert!(granted(&table, 2, 100 * MS, 100 * MS));
    adopt_closed(&table);
    assert!(!is_open(&table, 0, 100 * MS));
    assert!(!granted(&table, 2, 101 * MS, 101 * MS));
    assert_eq!(announce::<Whole, _>(&table, &view(5, 0b011), 1), 106_251_000);
    assert_eq!(installed(&table), View::NONE);
}

#[test]
fn what_is_not_known_is_waited_for_by_the_next_daemon_too() {
    let table = Table::new();
    adopt_unknown(&table, 7 * MS);
    adopt_closed(&table);
    assert_eq!(announce::<Whole, _>(&table, &view(5, 0b111), 1), 7 * MS);
}

/// Two machines may have one id: the one that is accepted now is not the one that was granted before.
#[test]
fn a_replaced_life_is_waited_for_by_views_with_its_node() {
    let table = Table::new();
    set(&table, view(1, 0b111), 0, 0);
    assert!(granted(&table, 2, 100 * MS, 100 * MS));
    replace::<Whole, _>(&table, 2);
    assert!(!granted(&table, 2, 101 * MS, 101 * MS), "nothing more under this view");
    assert_eq!(announce::<Whole, _>(&table, &view(2, 0b111), 0), 106_251_000, "though slot 2 is in it");
    // Replaced between announcement and installation.
    let table = Table::new();
    set(&table, view(1, 0b111), 0, 0);
    assert!(granted(&table, 2, 100 * MS, 100 * MS));
    let not_before_ns = announce::<Whole, _>(&table, &view(2, 0b111), 0);
    assert_eq!(not_before_ns, 0);
    replace::<Whole, _>(&table, 2);
    let votes = votes();
    let new = Installation {
        view: view(2, 0b111),
        not_before_ns,
        own: 0,
        votes: &votes,
        quorum: 1,
        owned: 1,
        now_ns: 101 * MS,
    };
    install::<Whole, _>(&table, &new);
    assert!(!granted(&table, 2, 106 * MS, 106 * MS) && !is_open(&table, 0, 106 * MS));
    assert!(granted(&table, 2, 107 * MS, 107 * MS) && is_open(&table, 0, 107 * MS));
    // A life that was heard to end is waited for no longer than that.
    let table = Table::new();
    set(&table, view(1, 0b111), 0, 0);
    assert!(granted(&table, 2, 100 * MS, 100 * MS));
    ended::<Whole, _>(&table, &serving(&table), 2, 101 * MS);
    replace::<Whole, _>(&table, 2);
    assert_eq!(announce::<Whole, _>(&table, &view(2, 0b111), 0), 101_001_000);
}

#[test]
fn an_octet_tells_what_is_not_leased() {
    let table = Table::new();
    assert!(!may_be_leased(&table, 100));
    name_octets(&table, [100, 7, 228].into_iter());
    assert!(may_be_leased(&table, 100) && may_be_leased(&table, 7));
    // The eighth bit is not looked at.
    assert!(may_be_leased(&table, 228) && may_be_leased(&table, 135) && !may_be_leased(&table, 101));
    name_octets(&table, [1].into_iter());
    assert!(!may_be_leased(&table, 100) && may_be_leased(&table, 1));
}
