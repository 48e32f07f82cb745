//! Detector and handshake in simulated worlds: thousands of small clusters, each from one seed, with the kernel's own
//! rules under them and everything going wrong that can.
//!
//! `RINGBEAT_SEED=123 cargo test -p ringbeat-core --test sim -- --nocapture` runs one world; `RINGBEAT_SEEDS=20000`
//! runs more than usual. A failure names its seed. Each invariant is shown to notice: with one clause taken out of the
//! machines, or out of the kernel's rules, some world must object.

mod faults;
mod invariants;
mod kernel;
mod machine;
mod splitmix;
mod world;

use std::collections::BTreeMap;

use ringbeat_core::mutation::Mutation;
use ringbeat_core::record::{HEADER, Record, Replay};

use crate::faults::Scenario;
use crate::kernel::Broken;
use crate::world::World;

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "a test's knob; the core itself has none")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds() -> std::ops::Range<u64> {
    match setting("RINGBEAT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("RINGBEAT_SEEDS").unwrap_or(2000),
    }
}

/// Runs worlds as they should be; gives what was told in them.
fn run(seeds: impl Iterator<Item = u64>) -> BTreeMap<&'static str, u64> {
    let mut tellings = BTreeMap::new();
    for seed in seeds {
        let mut scenario = Scenario::new(seed, Mutation::None, Broken::Nothing);
        scenario.is_loud = setting("RINGBEAT_SEED").is_some();
        let world = World::run(&scenario);
        if scenario.is_loud {
            println!("{:?} loss {}", scenario.plan.links, scenario.loss_permille);
            for machine in &world.machines {
                let Some(d) = &machine.daemon else { continue };
                println!(
                    "{} {:?} {:?} wake {:?} next {:?}",
                    machine.slot,
                    d.handshake.counters(),
                    d.detector.counters(),
                    machine.wake_at,
                    d.handshake.next_timeout().map(|t| machine.truth(t))
                );
            }
        }
        if let Some(objection) = &world.judge.objection {
            let faults = scenario.faults.iter().map(|(at, fault)| format!("  {at:>12} {fault:?}\n"));
            panic!("seed {seed}: {objection}\n{}", faults.collect::<String>());
        }
        for (name, count) in &world.judge.tellings {
            *tellings.entry(*name).or_default() += count;
        }
        replay(&world, seed);
    }
    tellings
}

/// What the daemons took in, written down and read again, gives what they gave.
fn replay(world: &World, seed: u64) {
    for daemon in world.machines.iter().filter_map(|machine| machine.daemon.as_ref()) {
        let lines = daemon.records.iter().map(|record| format!("{record}\n"));
        let text = format!("{HEADER}\n{}", lines.collect::<String>());
        let mut replay = Replay::default();
        let mut outputs = Vec::new();
        for line in text.lines().skip(1) {
            let record: Record = line.parse().expect("a line of ours");
            outputs.extend(replay.apply(&record).expect("built before"));
        }
        assert!(outputs == daemon.outputs, "seed {seed}: a replay differs");
    }
}

#[test]
fn even_seeds_hold() {
    let tellings = run(seeds().filter(|seed| seed % 2 == 0));
    println!("{tellings:?}");
    if setting("RINGBEAT_SEED").is_none() {
        // A world in which something never happens shows nothing about it.
        for name in [
            "link_late",
            "link_down",
            "link_up",
            "peer_up",
            "peer_down",
            "peer_gone",
            "peer_stalled",
            "peer_failed",
            "peer_running",
            "peer_leaving",
            "peer_left",
            "peer_restarted",
            "own_link_down",
            "own_link_up",
            "alone",
            "not_alone",
            "incarnation_rolled_back",
            "duplicate_peer",
            "duplicate_self",
        ] {
            assert!(tellings.contains_key(name), "{name} was never told");
        }
    }
}

#[test]
fn odd_seeds_hold() {
    run(seeds().filter(|seed| seed % 2 == 1));
}

/// The first objection in some worlds with a clause missing.
fn noticed(mutation: Mutation, broken: Broken) -> Option<(u64, String)> {
    (0..400).find_map(|seed| {
        let world = World::run(&Scenario::new(seed, mutation, broken));
        Some((seed, world.judge.objection?))
    })
}

#[test]
fn a_missing_clause_of_the_machines_is_noticed() {
    for mutation in [
        Mutation::OneLateIsDown,
        Mutation::OwnLinkIgnored,
        Mutation::DownAgain,
        Mutation::GoneIgnored,
        Mutation::DampingSkipped,
        Mutation::DampingForever,
        Mutation::StallForever,
        Mutation::HelloBelieved,
        Mutation::NonceKept,
        Mutation::AcceptRepeated,
        Mutation::HelloOnce,
        Mutation::OwnSlotIgnored,
        Mutation::DuplicateMute,
        Mutation::SupersededBelieved,
    ] {
        let noticed = noticed(mutation, Broken::Nothing);
        println!("{mutation:?}: {noticed:?}");
        assert!(noticed.is_some(), "without its clause, {mutation:?}, every world was content");
    }
}

#[test]
fn a_missing_clause_of_the_kernel_is_noticed() {
    for broken in [Broken::Credit, Broken::Freshness, Broken::Sequence] {
        let noticed = noticed(Mutation::None, broken);
        println!("{broken:?}: {noticed:?}");
        assert!(noticed.is_some(), "without {broken:?}, every world was content");
    }
}
