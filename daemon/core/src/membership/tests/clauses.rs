//! Single clauses left out of the machine: what holds with them does not hold without.

use super::*;
use crate::membership::message::Message;

/// Three nodes in one view, each without that clause.
fn three(mutation: Mutation) -> Cluster {
    let mut cluster = Cluster::new(0, 1);
    cluster.mutation = mutation;
    for own in 0..3 {
        cluster.boot(own, 3, 1, 0, |config| config.resources = vec![ResourceConfig { failback: false }]);
    }
    cluster.up();
    cluster
}

/// Whether a view was installed anywhere before all of its members had announced it.
fn installs_early(mutation: Mutation) -> bool {
    let mut cluster = three(mutation);
    cluster.machines.remove(&0);
    cluster.look();
    cluster.run(50);
    assert!(cluster.installed.len() >= 2);
    cluster.early
}

#[test]
fn a_view_is_installed_once_all_of_its_members_have_announced_it() {
    assert!(!installs_early(Mutation::None));
    assert!(installs_early(Mutation::InstallEarly));
}

/// Whether a node whose choice is another one announces what somebody else has.
fn follows_anything(mutation: Mutation) -> bool {
    let mut cluster = three(mutation);
    assert_eq!(cluster.views(), [0b111; 3]);
    // It hears 2 no more, and that 0 still proposes all three is news of before.
    let installed = *cluster.machines[&1].installed();
    cluster.give(1, Input::Row { heard: 0b011 });
    let view = View { epoch: installed.view.epoch + 1, ..installed.view };
    let late = Message { lives: 0, announced: Some(Announcement { view, ..installed }), rows: Vec::new() };
    let incarnation = cluster.machines[&0].config.incarnation;
    cluster.give(1, Input::Message { from: 0, incarnation, bytes: late.to_bytes(1) });
    cluster.machines[&1].announced() == view
}

#[test]
fn a_view_is_announced_by_those_who_choose_it() {
    assert!(!follows_anything(Mutation::None));
    assert!(follows_anything(Mutation::FollowAnything));
}

/// A witness has a vote and serves nothing, whatever it says that it could.
#[test]
fn a_witness_owns_nothing() {
    let mut cluster = Cluster::with(3, |config| {
        config.resources = vec![ResourceConfig { failback: false }];
        config.nodes[0].witness = true;
    });
    cluster.up();
    assert_eq!(cluster.views(), [0b111; 3]);
    assert_eq!([0, 1, 2].map(|slot| cluster.owner(slot)), [1; 3], "the lowest that is none");
    cluster.machines.remove(&1);
    cluster.look();
    assert_eq!([0, 2].map(|slot| cluster.owner(slot)), [2; 2]);
    assert!(cluster.machines[&2].is_quorate(), "by the witness's vote");
    cluster.give(2, Input::Able { resources: 0 });
    cluster.deliver();
    cluster.run(10);
    assert_eq!([0, 2].map(|slot| cluster.owner(slot)), [NOBODY; 2]);
}
