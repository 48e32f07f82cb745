//! Nodes whose heartbeats come, and who cannot take part in a view: nobody waits for them for long.

use super::*;

/// Two seconds, and some: what a mute node can hold up.
const MUTE_MS: u64 = 2300;

fn config(config: &mut Config) {
    config.resources = vec![ResourceConfig { failback: false }];
}

fn mute(cluster: &mut Cluster, slot: u8, ways: [bool; 2]) {
    for other in cluster.machines.keys().copied().filter(|other| *other != slot) {
        cluster.mute.extend(
            [(slot, other), (other, slot)].iter().zip(ways).filter(|(_, is)| *is).map(|(way, _)| *way),
        );
    }
}

#[test]
fn the_others_take_over_without_a_mute_one() {
    for ways in [[true, true], [true, false], [false, true]] {
        let mut cluster = Cluster::with(5, config);
        cluster.up();
        cluster.run(3000);
        mute(&mut cluster, 3, ways);
        cluster.machines.remove(&0);
        cluster.look();
        cluster.run(MUTE_MS);
        assert_eq!(cluster.views(), [0b10110, 0b10110, 0b01000, 0b10110], "{ways:?}");
        assert_eq!([1, 2, 4].map(|slot| cluster.owner(slot)), [1; 3]);
        assert!(cluster.machines[&1].is_quorate());
        let before = cluster.announced.len();
        cluster.run(5000);
        assert_eq!(cluster.announced.len(), before, "and then there is peace");
        cluster.mute.clear();
        cluster.run(300);
        assert_eq!(cluster.views(), [0b11110; 4], "and it comes back when it can speak");
    }
}

#[test]
fn a_mute_joiner_is_waited_for_once() {
    let mut cluster = Cluster::with(3, config);
    cluster.machines.remove(&2);
    cluster.up();
    cluster.run(300);
    assert_eq!(cluster.views(), [0b011; 2]);
    cluster.boot(2, 3, 1, 0, config);
    mute(&mut cluster, 2, [true, true]);
    cluster.look();
    let before = cluster.announced.len();
    cluster.run(MUTE_MS);
    assert_eq!(cluster.views(), [0b011, 0b011, 0b100]);
    assert!(cluster.announced.len() - before <= 1, "the view of the two stands");
}

#[test]
fn a_paused_daemon_keeps_its_view() {
    for pause_ms in [300, 700, 10_000] {
        let mut cluster = Cluster::with(3, config);
        cluster.up();
        cluster.run(3000);
        let before = cluster.announced.len();
        // The loops of two stand still at once; the first one to go on has not heard of the other since.
        for slot in [0, 1] {
            let machine = cluster.machines.remove(&slot).expect("there");
            cluster.waiting.retain(|(from, to, _)| *from != slot && *to != slot);
            cluster.now_ns += pause_ms * MS;
            cluster.machines.insert(slot, machine);
            cluster.give(slot, Input::Timeout);
            assert_eq!(cluster.machines[&slot].row(slot).expect("its own").heard, 0b111, "{pause_ms} ms");
        }
        // The third has not been woken, and goes on as late as they.
        cluster.deliver();
        cluster.run(1000);
        assert_eq!(cluster.announced.len(), before, "no new view after {pause_ms} ms");
    }
}

#[test]
fn the_others_of_a_paused_daemon_keep_theirs() {
    let mut cluster = Cluster::with(3, config);
    cluster.up();
    cluster.run(3000);
    let before = cluster.announced.len();
    let paused = cluster.machines.remove(&1).expect("there");
    cluster.run(1000);
    cluster.machines.insert(1, paused);
    cluster.run(1000);
    assert_eq!(cluster.announced.len(), before);
}

#[test]
fn a_joiner_that_cannot_reserve_disturbs_nobody() {
    for ceiling in [0, 4097, 100_000] {
        let mut cluster = Cluster::with(3, config);
        cluster.machines.remove(&2);
        cluster.up();
        cluster.run(3000);
        let before = cluster.announced.len();
        cluster.hung = 0b100;
        cluster.boot(2, 3, 2, ceiling, config);
        cluster.up();
        cluster.run(1000);
        assert_eq!(cluster.views()[..2], [0b011; 2]);
        assert_eq!(cluster.announced.len(), before, "nobody has waited for it");
        cluster.give(0, Input::Able { resources: 0 });
        cluster.deliver();
        cluster.run(10);
        assert_eq!([0, 1].map(|slot| cluster.owner(slot)), [1; 2], "and views change beside it");
        cluster.hung = 0;
        let ceiling = ceiling + 10_000;
        cluster.give(2, Input::Reserved { ceiling });
        cluster.deliver();
        cluster.run(300);
        assert_eq!(cluster.views(), [0b111; 3]);
    }
}

#[test]
fn a_joiner_in_its_quiet_time_disturbs_nobody() {
    let mut cluster = Cluster::with(3, config);
    cluster.machines.remove(&2);
    cluster.up();
    cluster.run(3000);
    let before = cluster.announced.len();
    let quiet_until_ns = cluster.now_ns + 2500 * MS;
    cluster.boot(2, 3, 2, 4097, |it| {
        config(it);
        it.quiet_until_ns = quiet_until_ns;
    });
    cluster.up();
    cluster.run(2400);
    assert_eq!(cluster.announced.len(), before);
    cluster.give(0, Input::Able { resources: 0 });
    cluster.deliver();
    cluster.run(10);
    assert_eq!([0, 1].map(|slot| cluster.owner(slot)), [1; 2]);
    cluster.run(300);
    assert_eq!(cluster.views(), [0b111; 3], "and then it is in");
}

#[test]
fn a_member_whose_disk_hangs_is_left_out_in_the_end() {
    let mut cluster = Cluster::with(4, config);
    cluster.machines.remove(&3);
    cluster.up();
    cluster.run(3000);
    cluster.hung = 0b100;
    // What the newcomer may have announced lies above all that the member has on disk.
    cluster.boot(3, 4, 2, 50_000, config);
    cluster.up();
    cluster.run(500);
    assert_eq!(cluster.machines[&2].row(2).expect("its own").heard, 0b1111, "a hiccup");
    cluster.run(MUTE_MS);
    assert_eq!(cluster.views(), [0b1011, 0b1011, 0b0111, 0b1011]);
    assert_eq!([0, 1, 3].map(|slot| cluster.owner(slot)), [0; 3]);
}
