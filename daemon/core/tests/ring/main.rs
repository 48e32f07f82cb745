//! The ordered ring in simulated worlds: loss, repetition, delay, cuts, pauses, crashes and restarts, under views as an
//! adversary likes them. What extended virtual synchrony promises must hold in each.
//!
//! `RINGBEAT_SEED=123 cargo test --release -p ringbeat-core --test ring -- --nocapture` runs one history and prints it;
//! `RINGBEAT_SEEDS=100000` runs more than usual. Each clause of the machine, left out, must be missed.

mod judge;
#[path = "../sim/splitmix.rs"]
mod splitmix;
mod world;

use ringbeat_core::mutation::Mutation;

use crate::judge::{Met, judge};
use crate::splitmix::SplitMix;
use crate::world::{Plan, World};

/// Histories by default.
const HISTORIES: u64 = 1000;
/// Histories in which a missing clause must show.
const BOUND: u64 = 4000;

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "a test's knob; the core itself has none")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a series has met.
#[derive(Debug, Default)]
struct Tally {
    met: Met,
    lost: u64,
    crashes: u64,
    frames: u64,
}

/// One history: what is wrong with it, and its trace if that is wanted.
fn history(seed: u64, mutation: Mutation, is_loud: bool, tally: &mut Tally) -> Option<(String, Vec<String>)> {
    let mut dice = SplitMix::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x7269_6e67);
    let plan = Plan::new(&mut dice);
    let text = format!("{plan:?}");
    let mut world = World::new(plan, mutation, dice);
    if is_loud {
        world.trace = Some(vec![text]);
    }
    let apart = world.run();
    tally.lost += world.lost;
    tally.frames += world.frames;
    tally.crashes += world.logs.iter().filter(|log| log.has_crashed).count() as u64;
    let judged = judge(&world.logs, &mut tally.met).err();
    let violation = apart.filter(|_| judged.is_none()).or(judged);
    violation.map(|violation| (violation, world.trace.take().unwrap_or_default()))
}

#[test]
fn the_promises_are_kept() {
    if let Some(seed) = setting("RINGBEAT_SEED") {
        if let Some((violation, trace)) = history(seed, Mutation::None, true, &mut Tally::default()) {
            panic!("seed {seed}: {violation}\n{}\nseed {seed}: {violation}", trace.join("\n"));
        }
        return;
    }
    let mut tally = Tally::default();
    for seed in 0..setting("RINGBEAT_SEEDS").unwrap_or(HISTORIES) {
        if let Some((violation, _)) = history(seed, Mutation::None, false, &mut tally) {
            panic!("seed {seed}: {violation}");
        }
    }
    println!("{tally:?}");
    let Met { stays, messages, transitional, safe_transitional, parted, merged } = tally.met;
    for met in [stays, messages, transitional, safe_transitional, parted, merged, tally.lost, tally.crashes] {
        assert!(met > 0, "hardly a history: {tally:?}");
    }
}

macro_rules! missed {
    ($($test:ident: $mutation:ident;)*) => {
        $(
            #[test]
            fn $test() {
                let histories = setting("RINGBEAT_SEEDS").unwrap_or(BOUND);
                let mut tally = Tally::default();
                let first = (0..histories).find_map(|seed| {
                    Some((seed, history(seed, Mutation::$mutation, false, &mut tally)?.0))
                });
                println!("{:?}: {first:?}", Mutation::$mutation);
                assert!(first.is_some(), "nobody missed it in {histories} histories");
            }
        )*
    };
}

missed! {
    safe_at_once: SafeAtOnce;
    safe_once: SafeOnce;
    obligation_forgotten: ObligationForgotten;
    gap_ignored: GapIgnored;
    cut_kept: CutKept;
    token_twice: TokenTwice;
    ring_early: RingEarly;
    nothing_given: NothingGiven;
    any_ring: AnyRing;
    flag_late: FlagLate;
}
