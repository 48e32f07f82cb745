//! Nodes and votes that change by restarts: at no time two electorates with a quorum, and an end that is quorate.

use std::collections::VecDeque;

use super::*;
use crate::limits::CONFIRM_WAIT_NS;
use crate::membership::electorate::{Electorate, Record, Unsafe};

/// A cluster whose nodes have disks, watched by a judge.
#[derive(Clone)]
struct World {
    cluster: Cluster,
    disks: BTreeMap<u8, Record>,
    life: u64,
    /// The digest of each electorate that had a quorum of nodes under one view, and when it had it last.
    quorate: BTreeMap<u64, u64>,
}

fn ones(slots: impl IntoIterator<Item = u8>) -> Electorate {
    Electorate::new(slots.into_iter().map(|slot| (slot, 1)))
}

impl World {
    fn new() -> Self {
        Self { cluster: Cluster::new(0, 1), disks: BTreeMap::new(), life: 0, quorate: BTreeMap::new() }
    }

    /// All of an electorate start, and find one another.
    fn of(electorate: &Electorate) -> Self {
        let mut world = Self::new();
        for (slot, _) in electorate.votes() {
            world.start(*slot, electorate).expect("new");
        }
        world.run(3000);
        assert!(world.is_whole(electorate), "{:?}", world.cluster.views());
        world
    }

    fn stop(&mut self, slot: u8) {
        self.cluster.machines.remove(&slot);
        self.look();
    }

    fn start(&mut self, slot: u8, electorate: &Electorate) -> Result<(), Unsafe> {
        self.stop(slot);
        let disk = self.disks.remove(&slot).unwrap_or_default();
        let started = disk.clone().start(electorate);
        self.disks.insert(slot, started.clone().unwrap_or(disk));
        let standing = started?.standing();
        self.life += 1;
        let nodes = electorate.votes().iter();
        let nodes = nodes.map(|(slot, votes)| NodeConfig { slot: *slot, votes: *votes, witness: false });
        let nodes: Vec<_> = nodes.collect();
        self.cluster.boot(slot, 0, self.life, self.life * 5000, |config| {
            (config.nodes, config.standing) = (nodes.clone(), standing);
            config.resources = vec![ResourceConfig { failback: false }];
        });
        self.cluster.give(slot, Input::Able { resources: 1 });
        self.look();
        Ok(())
    }

    fn look(&mut self) {
        self.cluster.look();
        self.judge();
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.cluster.run(1);
            self.judge();
        }
    }

    /// A view counts while nodes with a quorum have it installed, for they grant under it; no two electorates' views at
    /// once, and none before what may have been granted under another is over.
    fn judge(&mut self) {
        for (slot, _) in self.cluster.confirmed.drain(..) {
            self.disks.entry(slot).or_default().confirm();
        }
        let now_ns = self.cluster.now_ns;
        for machine in self.cluster.machines.values() {
            let view = machine.installed().view;
            let with = self.cluster.machines.iter().filter(|(_, other)| other.installed().view == view);
            let with = with.fold(0, |set, (slot, _)| set | 1 << slot);
            if !view.is_some() || machine.votes_of(view.members & with) < machine.quorum {
                continue;
            }
            let digest = machine.confirmation.digest;
            self.quorate.insert(digest, now_ns);
            for (other, at_ns) in &self.quorate {
                assert!(
                    *other == digest || now_ns - at_ns >= CONFIRM_WAIT_NS,
                    "two quorums within {} ms",
                    (now_ns - at_ns) / MS
                );
            }
        }
    }

    /// Whether all of an electorate are in one view of it.
    fn is_whole(&self, electorate: &Electorate) -> bool {
        let members = electorate.votes().iter().fold(0, |set, (slot, _)| set | 1 << slot);
        electorate.votes().iter().all(|(slot, _)| {
            self.cluster.machines.get(slot).is_some_and(|machine| {
                machine.is_quorate()
                    && machine.installed().view.members == members
                    && machine.confirmation.digest == electorate.digest()
            })
        })
    }
}

#[test]
fn a_new_cluster_has_a_quorum_once_all_have_been_seen() {
    let three = ones(0..3);
    let mut world = World::new();
    world.start(0, &three).expect("new");
    world.start(1, &three).expect("new");
    world.run(5000);
    assert!(world.quorate.is_empty());
    assert_eq!(world.cluster.machines[&0].unmet(), 0b100);
    world.start(2, &three).expect("new");
    world.run(200);
    assert!(world.is_whole(&three), "at once, for nobody has run another");
    world.stop(0);
    world.stop(1);
    world.stop(2);
    world.start(2, &three).expect("again");
    world.start(0, &three).expect("again");
    world.run(300);
    assert!(world.cluster.machines[&0].is_quorate(), "it is known for good");
}

/// All orders in which nodes come to run `next`.
fn orders(world: &World, left: &[u8], next: &Electorate, gap_ms: u64, ends: &mut u32) {
    if left.is_empty() {
        let mut world = world.clone();
        world.run(4000);
        assert!(world.is_whole(next), "{:?}", world.cluster.views());
        *ends += 1;
    }
    for slot in left {
        let mut world = world.clone();
        world.start(*slot, next).expect("a quorum stays");
        world.run(gap_ms);
        let left: Vec<u8> = left.iter().copied().filter(|other| other != slot).collect();
        orders(&world, &left, next, gap_ms, ends);
    }
}

#[test]
fn three_become_five_in_any_order() {
    for gap_ms in [20, 350] {
        let mut ends = 0;
        orders(&World::of(&ones(0..3)), &[0, 1, 2, 3, 4], &ones(0..5), gap_ms, &mut ends);
        assert_eq!(ends, 120);
    }
}

#[test]
fn five_become_three_in_any_order() {
    for gap_ms in [20, 350] {
        let mut ends = 0;
        orders(&World::of(&ones(0..5)), &[0, 1, 2], &ones(0..3), gap_ms, &mut ends);
        assert_eq!(ends, 6);
    }
}

#[test]
fn votes_change_in_any_order() {
    let heavy = Electorate::new([(0, 3), (1, 1), (2, 1)]);
    let mut ends = 0;
    orders(&World::of(&ones(0..3)), &[0, 1, 2], &heavy, 50, &mut ends);
    orders(&World::of(&heavy), &[0, 1, 2], &ones(0..3), 50, &mut ends);
    assert_eq!(ends, 12);
}

#[test]
fn going_back_half_way_is_safe_and_comes_to_an_end() {
    let (three, five) = (ones(0..3), ones(0..5));
    for changed in 1..8u8 {
        let mut world = World::of(&three);
        for slot in (0..3).filter(|slot| changed >> slot & 1 != 0).chain([3, 4]) {
            world.start(slot, &five).expect("a quorum stays");
            world.run(300);
        }
        for slot in (0..3).filter(|slot| changed >> slot & 1 != 0) {
            world.start(slot, &three).expect("all of it are there");
            world.run(300);
        }
        world.stop(3);
        world.stop(4);
        world.run(6000);
        assert!(world.is_whole(&three), "{changed:03b}: {:?}", world.cluster.views());
    }
}

#[test]
fn a_node_that_comes_and_goes_is_no_witness_for_both() {
    // Each of the three visits the five for a moment; they are never there at once.
    let (three, five) = (ones(0..3), ones(0..5));
    let mut world = World::of(&three);
    world.start(3, &five).expect("new");
    world.start(4, &five).expect("new");
    for slot in 0..3 {
        world.start(slot, &five).expect("a quorum stays");
        world.run(300);
        if slot < 2 {
            // The two newcomers do not see that it goes.
            world.cluster.cut = [(slot, 3), (slot, 4), (3, slot), (4, slot)].into();
            world.start(slot, &three).expect("back");
            world.run(3000);
        }
    }
    world.run(5000);
    assert!(!world.cluster.machines[&3].is_confirmed());
    assert!(world.cluster.machines[&0].is_quorate(), "and the three go on");
}

#[test]
fn a_replaced_disk_is_told_by_one_while_another_is_down() {
    let three = ones(0..3);
    let mut world = World::of(&three);
    world.stop(2);
    world.disks.remove(&1);
    world.start(1, &three).expect("as new");
    world.run(500);
    assert_eq!(world.cluster.views(), [0b011; 2]);
    assert!(world.cluster.machines[&0].is_quorate());
    assert!(world.disks[&1].standing().confirmed);
}

#[test]
fn a_hand_over_keeps_the_confirmation() {
    let three = ones(0..3);
    let mut world = World::of(&three);
    let machine = &world.cluster.machines[&1];
    let adopted = Adopted { installed: *machine.installed(), announced: machine.announced(), heard: 0b111 };
    let (life, count) = (machine.config.incarnation >> 32, world.cluster.announced.len());
    world.cluster.boot(1, 3, life, 5000 * life, |config| {
        config.adopted = Some(adopted);
        config.resources = vec![ResourceConfig { failback: false }];
        // The record was not written before the hand-over.
        config.standing = Standing { confirmed: false, again: false, sole: true };
    });
    world.cluster.give(1, Input::Able { resources: 1 });
    world.look();
    world.run(1000);
    assert_eq!(world.cluster.announced.len(), count);
    assert!(world.is_whole(&three));
}

#[test]
fn another_electorate_under_the_same_version_is_no_company() {
    let mut world = World::of(&ones(0..3));
    world.start(2, &Electorate::new([(0, 1), (1, 1), (2, 3)])).expect("two of three stay");
    world.run(3000);
    assert_eq!(
        world.cluster.views(),
        [0b011, 0b011, 0],
        "and no view of its own, though it has a quorum in itself"
    );
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[test]
fn no_two_quorums_whatever_is_started_and_cut() {
    let all = [
        ones(0..3),
        ones(0..5),
        ones(1..4),
        ones(0..4),
        ones([2, 3, 4]),
        Electorate::new([(0, 3), (1, 1), (2, 1), (3, 1)]),
    ];
    let (mut quorate, mut refused, mut ends) = (0, 0, 0);
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let mut world = World::of(&all[0]);
        for _ in 0..14 {
            let slot = dice.below(5) as u8;
            match dice.below(8) {
                0..5 => {
                    let next = &all[dice.below(if seed % 2 == 0 { 2 } else { 6 }) as usize];
                    if next.votes().iter().any(|(there, _)| *there == slot) {
                        refused += u32::from(world.start(slot, next).is_err());
                    }
                }
                5 => {
                    world.cluster.cut_both(slot, dice.below(5) as u8);
                    world.cluster.cut.retain(|(from, to)| from != to);
                }
                6 => world.cluster.cut.clear(),
                _ => world.stop(slot),
            }
            world.look();
            let longest_ms = [5, 200, 3000][dice.below(3) as usize];
            world.run(dice.below(longest_ms));
        }
        world.cluster.cut.clear();
        // In the end all are to run one of them, if their records let them.
        let last = &all[dice.below(2) as usize];
        let started: VecDeque<_> = last.votes().iter().map(|(slot, _)| world.start(*slot, last)).collect();
        for slot in (0..5).filter(|slot| last.votes().iter().all(|(there, _)| there != slot)) {
            world.stop(slot);
        }
        if started.iter().all(Result::is_ok) {
            world.run(6000);
            assert!(world.is_whole(last), "seed {seed}: {:?}", world.cluster.views());
            ends += 1;
        }
        quorate += u32::from(world.quorate.len() > 1);
    }
    assert!(quorate > 20 && refused > 20 && ends > 100, "{quorate} {refused} {ends}");
}
