//! A ring that does not turn while all are heard: the same members agree anew, and nothing else changes.

use super::*;

fn lose(cluster: &mut Cluster) {
    for slot in cluster.machines.keys().copied().collect::<Vec<_>>() {
        let view = cluster.machines[&slot].installed().view;
        cluster.give(slot, Input::RingLost { view });
    }
    cluster.deliver();
}

#[test]
fn the_same_members_agree_anew_and_the_holder_stays() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    cluster.run(3000);
    let before = *cluster.machines[&0].installed();
    lose(&mut cluster);
    for machine in cluster.machines.values() {
        let after = machine.installed();
        assert_eq!((after.view.members, after.owners), (before.view.members, before.owners));
        assert!(after.view > before.view, "another ring has another id");
    }
    let announced = cluster.announced.len();
    cluster.run(5000);
    assert_eq!(cluster.announced.len(), announced, "and then there is peace");
}

#[test]
fn what_was_lost_before_is_no_news() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    let old = cluster.machines[&0].installed().view;
    cluster.run(100);
    lose(&mut cluster);
    let announced = cluster.announced.len();
    cluster.give(0, Input::RingLost { view: old });
    cluster.give(0, Input::RingLost { view: View::NONE });
    cluster.run(20_000);
    assert_eq!(cluster.announced.len(), announced);
}

#[test]
fn a_ring_that_never_turns_disturbs_less_and_less() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    for _ in 0..600 {
        lose(&mut cluster);
        cluster.run(100);
    }
    let views = cluster.installed.iter().filter(|(slot, _)| *slot == 0).count();
    assert!((8..16).contains(&views), "{views} views in a minute");
    assert_eq!(cluster.views(), [0b111; 3]);
}
