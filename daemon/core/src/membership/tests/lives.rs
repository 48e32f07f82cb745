//! Lives that are over, and what is still said of them.

use super::*;

fn config(config: &mut Config) {
    config.resources = vec![ResourceConfig { failback: false }];
}

/// Nodes 0 to 3 with the address on the last, which 0 does not hear.
fn held_by_the_last() -> Cluster {
    let mut cluster = Cluster::with(4, config);
    cluster.give(3, Input::Able { resources: 1 });
    cluster.look();
    cluster.run(300);
    assert_eq!(cluster.owner(3), 3);
    cluster.up();
    cluster.cut_both(0, 3);
    cluster.look();
    cluster.run(3000);
    assert_eq!(cluster.views(), [0b0001, 0b1110, 0b1110, 0b1110], "the holder stays");
    cluster
}

#[test]
fn a_later_life_that_others_hear_is_learned_from_them() {
    let mut cluster = held_by_the_last();
    cluster.machines.remove(&3);
    cluster.boot(3, 4, 2, 5000, config);
    cluster.up();
    cluster.run(300);
    let choices = cluster.machines.values().map(Membership::choice).collect::<Vec<_>>();
    assert_eq!(choices, cluster.views(), "all have what they choose: {:?}", cluster.machines[&0].row(3));
    let whole = cluster.views().iter().filter(|members| members.count_ones() == 3).count();
    assert_eq!(whole, 3);
    let owner = [1, 2].map(|slot| cluster.owner(slot));
    assert_ne!(owner, [NOBODY; 2]);
    assert_eq!(owner[0], owner[1]);
}

#[test]
fn what_a_life_before_held_is_forgotten_where_the_next_one_is_not_heard() {
    let mut cluster = held_by_the_last();
    cluster.give(0, Input::Able { resources: 0 });
    cluster.machines.remove(&3);
    cluster.look();
    cluster.run(1000);
    assert_eq!(cluster.views(), [0b0111; 3]);
    assert_eq!(cluster.owner(0), 1);
    cluster.boot(3, 4, 2, 5000, config);
    for slot in 1..4 {
        cluster.give(slot, Input::Able { resources: 1 });
    }
    cluster.look();
    cluster.run(1000);
    assert_eq!(cluster.views(), [0b0111, 0b0111, 0b0111, 0b1000]);
    let choices = cluster.machines.values().map(Membership::choice).collect::<Vec<_>>();
    assert_eq!(choices, cluster.views(), "node 0 knows {:?}", cluster.machines[&0].row(3));
    // Whom the lowest does not choose, nothing can be given to.
    cluster.give(1, Input::Able { resources: 0 });
    cluster.deliver();
    cluster.run(50);
    assert_eq!([0, 1, 2].map(|slot| cluster.owner(slot)), [2; 3]);
}

#[test]
fn a_life_that_is_still_heard_is_over_once_it_is_not() {
    // Node 0 hears the old life's last frames after it was told of the next one.
    let mut cluster = held_by_the_last();
    cluster.cut.clear();
    cluster.look();
    cluster.run(300);
    assert_eq!(cluster.views(), [0b1111; 4]);
    cluster.machines.remove(&3);
    cluster.cut_both(0, 3);
    cluster.boot(3, 4, 2, 5000, config);
    for (slot, heard) in [(1, 0b1111), (2, 0b1111), (3, 0b1110)] {
        cluster.give(slot, Input::Able { resources: 1 });
        cluster.give(slot, Input::Row { heard });
    }
    cluster.deliver();
    cluster.run(300);
    let old = cluster.machines[&0].row(3).expect("the old one");
    assert_eq!((old.incarnation >> 32, old.holds), (1, 1), "it is heard, so it is not given up");
    cluster.mute = (1..3).map(|from| (from, 0)).collect();
    cluster.give(0, Input::Row { heard: 0b0111 });
    cluster.deliver();
    assert_eq!(cluster.machines[&0].choice(), 0b0111, "by what it knows already");
}

/// A planned restart before there was a view: the same life, and rows that count on from nothing. They must be believed.
#[test]
fn a_successor_without_a_view_is_believed() {
    let mut before = Cluster::new(2, 1);
    for _ in 0..5 {
        before.give(1, Input::Able { resources: 1 });
        before.give(1, Input::Able { resources: 0 });
    }
    let reached = before.machines[&1].own_row().number;
    before.now_ns += 10 * MS;
    before.boot(1, 2, 1, 0, |_| {});
    let row = before.machines[&1].own_row();
    assert_eq!(row.incarnation, before.machines[&1].config.incarnation, "the same life");
    assert!(row.number > reached, "{} after {reached}", row.number);
}
