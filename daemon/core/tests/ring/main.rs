//! The ordered ring in simulated worlds: loss, repetition, delay, cuts, pauses, crashes and restarts, under views as an
//! adversary likes them. What extended virtual synchrony promises must hold in each.
//!
//! `RINGBEAT_SEED=123 cargo test --release -p ringbeat-core --test ring -- --nocapture` runs one history and prints it;
//! `RINGBEAT_SEEDS=0..100000` runs more than usual. Each clause of the machine, left out, must be missed.

mod judge;
#[path = "../sim/splitmix.rs"]
mod splitmix;
#[path = "../sim/stopwatch.rs"]
mod stopwatch;
mod world;

use ringbeat_core::mutation::Mutation;

use crate::judge::{Met, judge};
use crate::splitmix::SplitMix;
use crate::stopwatch::Stopwatch;
use crate::world::{Plan, World};

/// Histories by default.
const HISTORIES: u64 = 5000;
/// Histories in which a missing clause must show.
const BOUND: u64 = 4000;

/// A knob of the tests.
#[expect(clippy::disallowed_methods, reason = "a test's knob; the core itself has none")]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn setting(name: &str) -> Option<u64> {
    text(name)?.parse().ok()
}

/// `A..B`, or a number of them from 0 on.
fn seeds() -> std::ops::Range<u64> {
    let Some(text) = text("RINGBEAT_SEEDS") else { return 0..HISTORIES };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    from.parse().unwrap_or(0)..to.parse().unwrap_or(HISTORIES)
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
    let violation = world.wrong.take().or_else(|| apart.filter(|_| judged.is_none())).or(judged);
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
    let (most, watch) = (setting("RINGBEAT_MINUTES"), Stopwatch::start());
    for seed in seeds() {
        if watch.is_over(most) {
            break;
        }
        if let Some((violation, _)) = history(seed, Mutation::None, false, &mut tally) {
            panic!("seed {seed}: {violation}");
        }
    }
    println!("{tally:?}, in {:.0} s", watch.passed().as_secs_f64());
    let Met { stays, messages, transitional, safe_transitional, parted, merged } = tally.met;
    let some = seeds().count() < 1000;
    for met in [stays, messages, transitional, safe_transitional, parted, merged, tally.lost, tally.crashes] {
        assert!(some || met > 0, "hardly a history: {tally:?}");
    }
}

macro_rules! missed {
    ($($test:ident: $mutation:ident;)*) => {
        $(
            #[test]
            fn $test() {
                let mut tally = Tally::default();
                let first = (0..BOUND).find_map(|seed| {
                    Some((seed, history(seed, Mutation::$mutation, false, &mut tally)?.0))
                });
                println!("{:?}: {first:?}", Mutation::$mutation);
                assert!(first.is_some(), "nobody missed it in {BOUND} histories");
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
