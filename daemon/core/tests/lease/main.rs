//! The lease in simulated worlds: the functions of `ringbeat_common::lease` under skewed clocks, loss, delay, replays,
//! cuts, pauses, kills and reboots, with arbitrary views. No two nodes may ever pass the gate of one resource.
//!
//! `RINGBEAT_SEED=123 cargo test --release -p ringbeat-core --test lease -- --nocapture` runs one history and prints
//! it; `RINGBEAT_SEEDS=1000000` runs more than usual. Each clause of the rule, left out, must be missed.

mod adversary;
mod clock;
mod daemon;
mod kernel;
mod mutants;
mod plan;
#[path = "../sim/splitmix.rs"]
mod splitmix;
mod table;
mod tally;
mod world;

use crate::plan::{Mutation, Plan};
use crate::splitmix::SplitMix;
use crate::table::Functions;
use crate::tally::{ALL, Met, Tally};
use crate::world::World;

/// Histories by default.
const HISTORIES: u64 = 120_000;

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "a test's knob; the core itself has none")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a series of histories has in common.
#[derive(Clone, Copy)]
struct Series {
    functions: Functions,
    mutation: Mutation,
    tune: fn(&mut Plan),
}

impl Series {
    /// One history; the violation, with its trace if that is wanted.
    fn history(&self, seed: u64, is_loud: bool, tally: &mut Tally) -> Option<(String, Vec<String>)> {
        let mut dice = SplitMix::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x006c_6561_7365);
        let mut plan = Plan::new(&mut dice);
        (self.tune)(&mut plan);
        let held = plan.held_permille != 0;
        for (met, is_met) in [(Met::NineNodes, plan.nodes == 9), (Met::ThreeLinks, plan.links == 3)] {
            if is_met {
                tally.met(met);
            }
        }
        let text = format!("{plan:?}");
        let mut world = World::new(plan, self.mutation, self.functions, dice, tally);
        if is_loud {
            world.trace = Some(vec![text]);
        }
        let took_over = world.run();
        let violation = world.violation.take();
        let trace = world.trace.take().unwrap_or_default();
        tally.histories += 1;
        tally.with_takeover += u64::from(took_over);
        tally.interleaved += u64::from(held);
        if is_loud && violation.is_none() {
            println!("{}", trace.join("\n"));
        }
        violation.map(|violation| (violation, trace))
    }

    /// The first violation among so many histories, and how many there are; only the first if no number is wanted.
    fn violations(&self, histories: u64, all: bool) -> (Option<u64>, u64) {
        let mut tally = Tally::new();
        let (mut first, mut count) = (None, 0);
        for seed in 0..histories {
            if self.history(seed, false, &mut tally).is_some() {
                first = first.or(Some(seed));
                count += 1;
                if !all {
                    break;
                }
            }
        }
        (first, count)
    }
}

fn whole() -> Series {
    Series { functions: Functions::whole(), mutation: Mutation::None, tune: |_| {} }
}

#[expect(clippy::disallowed_methods, reason = "the histories are apart; the core has no threads")]
fn run_all(seeds: std::ops::Range<u64>) -> (Tally, Option<u64>) {
    let half = |part: u64| {
        let seeds = seeds.clone();
        move || {
            let (mut tally, series) = (Tally::new(), whole());
            let failed = seeds
                .filter(|seed| seed % 2 == part)
                .find(|seed| series.history(*seed, false, &mut tally).is_some());
            (tally, failed)
        }
    };
    let (one, two) = (std::thread::spawn(half(0)), std::thread::spawn(half(1)));
    let ((mut tally, one), (other, two)) = (one.join().expect("no panic"), two.join().expect("no panic"));
    tally.add(&other);
    (tally, one.or(two))
}

#[test]
fn no_two_nodes_ever_pass_for_one_resource() {
    if let Some(seed) = setting("RINGBEAT_SEED") {
        if let Some((violation, trace)) = whole().history(seed, true, &mut Tally::new()) {
            panic!("seed {seed}: {violation}\n{}", trace.join("\n"));
        }
        return;
    }
    let (tally, failed) = run_all(0..setting("RINGBEAT_SEEDS").unwrap_or(HISTORIES));
    println!(
        "{} histories, {} with a takeover, {} word by word",
        tally.histories, tally.with_takeover, tally.interleaved
    );
    for met in ALL {
        println!("{:>20} {:>10}", format!("{met:?}"), tally.of(met));
    }
    if let Some(seed) = failed {
        let again = whole().history(seed, true, &mut Tally::new());
        let (violation, trace) = again.expect("a seed gives the same history twice");
        panic!("seed {seed}: {violation}\n{}", trace.join("\n"));
    }
    for met in ALL {
        assert!(tally.of(met) > 0, "{met:?} never came");
    }
    assert!(tally.with_takeover * 2 >= tally.histories, "too few takeovers");
    assert!(tally.interleaved * 10 >= tally.histories, "too few interleaved");
}
