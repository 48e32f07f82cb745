//! Whole clusters without a kernel: views, the ring and process groups as they stand on one another, in simulated worlds.
//!
//! What the detector would say is computed from who lives and who reaches whom; views are membership's own, so there is no
//! adversary of views here ([`ring`](../ring/main.rs) has one). `cargo xtask sim` runs this with many seeds; by itself:
//! `RINGBEAT_SEED=123 cargo test --release -p ringbeat-core --test cluster -- --nocapture` runs one history and prints it,
//! `RINGBEAT_SEEDS=1000..2000` runs those, `RINGBEAT_NODES=64` makes clusters of so many nodes.

mod invariants;
mod log;
mod plan;
mod scale;
#[path = "../sim/splitmix.rs"]
mod splitmix;
#[path = "../sim/stopwatch.rs"]
mod stopwatch;
mod world;

use std::time::Duration;

use ringbeat_core::mutation::Mutation;

use crate::plan::{Fault, Plan};
use crate::splitmix::SplitMix;
use crate::stopwatch::Stopwatch;
use crate::world::World;

/// Histories by default.
const HISTORIES: u64 = 3000;
/// Histories in which a missing clause must show.
const BOUND: u64 = 3000;

/// A knob of the tests.
#[expect(clippy::disallowed_methods, reason = "a test's knob; the core itself has none")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    setting(name)?.parse().ok()
}

/// `A..B`, or a number of them from 0 on.
fn seeds() -> std::ops::Range<u64> {
    let Some(text) = setting("RINGBEAT_SEEDS") else { return 0..HISTORIES };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    from.parse().unwrap_or(0)..to.parse().unwrap_or(HISTORIES)
}

/// What a series has met.
#[derive(Debug, Default)]
struct Tally {
    histories: u64,
    views: u64,
    messages: u64,
    changes: u64,
    lost: u64,
    faults: [u64; Fault::KINDS],
}

/// One history: what is wrong with it, and its trace.
fn history(
    plan: Plan,
    dice: SplitMix,
    mutation: Mutation,
    tally: &mut Tally,
) -> Option<(String, Vec<String>)> {
    let mut world = World::new(plan, mutation, dice);
    let apart = world.run();
    tally.histories += 1;
    tally.views += world.views;
    tally.lost += world.lost;
    tally.messages += world.logs.iter().map(|log| log.messages()).sum::<u64>();
    tally.changes += world.logs.iter().map(|log| log.changes()).sum::<u64>();
    for (sum, met) in tally.faults.iter_mut().zip(world.met) {
        *sum += met;
    }
    let wrong = world.wrong.take().or_else(|| invariants::broken(&world)).or(apart);
    wrong.map(|wrong| (wrong, world.trace))
}

fn plan_of(seed: u64) -> (Plan, SplitMix) {
    let mut dice = SplitMix::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x636c_7573);
    (Plan::new(&mut dice, number("RINGBEAT_NODES").map(|nodes| nodes as u8)), dice)
}

/// The same history with as few faults as it takes to go wrong.
fn shrink(seed: u64, mutation: Mutation) -> (Plan, String, Vec<String>) {
    let (mut plan, dice) = plan_of(seed);
    let run = |plan: &Plan| history(plan.clone(), dice.clone(), mutation, &mut Tally::default());
    let (mut wrong, mut trace) = run(&plan).unwrap_or_default();
    let mut at = 0;
    while at < plan.faults.len() {
        let mut less = plan.clone();
        less.faults.remove(at);
        match run(&less) {
            Some((still, its)) => (plan, wrong, trace) = (less, still, its),
            None => at += 1,
        }
    }
    for loss in [0, 10] {
        let less = Plan { loss_permille: loss, ..plan.clone() };
        if loss < plan.loss_permille
            && let Some((still, its)) = run(&less)
        {
            (plan, wrong, trace) = (less, still, its);
            break;
        }
    }
    (plan, wrong, trace)
}

#[test]
fn clusters_keep_their_promises() {
    if let Some(seed) = number("RINGBEAT_SEED") {
        let (plan, dice) = plan_of(seed);
        let found = history(plan.clone(), dice, Mutation::None, &mut Tally::default());
        let Some((wrong, trace)) = found else { return println!("seed {seed}: {plan:?}: nothing is wrong") };
        panic!("seed {seed}: {plan:?}\n{}\nseed {seed}: {wrong}", trace.join("\n"));
    }
    let (mut tally, watch, most) = (Tally::default(), Stopwatch::start(), number("RINGBEAT_MINUTES"));
    let mut told = Duration::ZERO;
    for seed in seeds() {
        if watch.is_over(most) {
            break;
        }
        let (plan, dice) = plan_of(seed);
        if history(plan, dice, Mutation::None, &mut tally).is_some() {
            let (plan, wrong, trace) = shrink(seed, Mutation::None);
            panic!("seed {seed}, shrunk: {plan:?}\n{}\nseed {seed}: {wrong}", trace.join("\n"));
        }
        if watch.passed() > told + Duration::from_secs(10) {
            told = watch.passed();
            eprintln!("{} histories in {:.0} s", tally.histories, told.as_secs_f64());
        }
    }
    let rate = tally.histories as f64 * 60.0 / watch.passed().as_secs_f64();
    println!("{tally:?}; {rate:.0} a minute");
    assert!(tally.views > 0 && tally.messages > 0 && tally.changes > 0, "hardly a cluster: {tally:?}");
    if tally.histories >= 1000 && number("RINGBEAT_NODES").is_none() {
        assert!(tally.faults.iter().all(|met| *met > 0) && tally.lost > 0, "not all was met: {tally:?}");
    }
}

macro_rules! missed {
    ($($test:ident: $mutation:ident;)*) => {
        $(
            #[test]
            fn $test() {
                let first = (0..BOUND).find_map(|seed| {
                    let (plan, dice) = plan_of(seed);
                    Some((seed, history(plan, dice, Mutation::$mutation, &mut Tally::default())?.0))
                });
                println!("{:?}: {first:?}", Mutation::$mutation);
                assert!(first.is_some(), "nobody missed it in {BOUND} histories");
            }
        )*
    };
}

missed! {
    roll_ignored: RollIgnored;
    ghosts_kept: GhostsKept;
    ring_kept_when_lost: RingKeptWhenLost;
    nothing_given: NothingGiven;
}
