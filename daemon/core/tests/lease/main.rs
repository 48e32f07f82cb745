//! The lease in simulated histories: views as an adversary likes them, clocks with up to 11 % of drift, and every fault
//! that the design names. The property: at no true instant do two nodes hold one resource.
//!
//! `RINGBEAT_SEEDS=1000000 cargo test --release -p ringbeat-core --test lease` runs more than usual, `RINGBEAT_SEED=7`
//! one, with its trace. Each clause of the rule is left out in turn, and must be missed.

mod node;
#[path = "../sim/splitmix.rs"]
mod splitmix;
mod world;

use std::thread;

use ringbeat_common::lease::{self, Installation, PROMISE_QUARTERS, Rule, Whole};
use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::view::View;

use crate::node::Table;
use crate::world::{Counts, INTERVAL_NS, LEASE_NS, Without, World};

/// Histories of an ordinary run.
const HISTORIES: u64 = 100_000;
/// Histories within which a clause that is left out must be missed.
const PATIENCE: u64 = 200_000;

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "a test's knob; the core itself has none")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn sum(into: &mut Counts, more: &Counts) {
    let Counts {
        histories,
        with_takeover,
        takeovers,
        views,
        lost,
        late,
        replayed,
        cuts,
        pauses,
        freezes,
        kills,
        restarts,
        reboots,
        handovers,
        slews,
        disturbed,
    } = more;
    for (into, more) in [
        (&mut into.histories, histories),
        (&mut into.with_takeover, with_takeover),
        (&mut into.takeovers, takeovers),
        (&mut into.views, views),
        (&mut into.lost, lost),
        (&mut into.late, late),
        (&mut into.replayed, replayed),
        (&mut into.cuts, cuts),
        (&mut into.pauses, pauses),
        (&mut into.freezes, freezes),
        (&mut into.kills, kills),
        (&mut into.restarts, restarts),
        (&mut into.reboots, reboots),
        (&mut into.handovers, handovers),
        (&mut into.slews, slews),
        (&mut into.disturbed, disturbed),
    ] {
        *into += more;
    }
}

/// Runs histories of the whole rule; panics with the trace of the first that fails.
fn run(seeds: std::ops::Range<u64>) -> Counts {
    let mut counts = Counts::default();
    for seed in seeds {
        let world = World::<Whole>::run(seed, Without::Nothing, false);
        if let Some(violation) = &world.violation {
            let traced = World::<Whole>::run(seed, Without::Nothing, true);
            panic!("seed {seed}: {violation}\n{}", traced.trace.unwrap_or_default().join("\n"));
        }
        sum(&mut counts, &world.counts);
    }
    counts
}

#[test]
fn never_two_holders() {
    if let Some(seed) = setting("RINGBEAT_SEED") {
        let world = World::<Whole>::run(seed, Without::Nothing, true);
        println!("{}", world.trace.unwrap_or_default().join("\n"));
        assert_eq!(world.violation, None);
        return;
    }
    let histories = setting("RINGBEAT_SEEDS").unwrap_or(HISTORIES);
    let workers = thread::available_parallelism().map_or(1, usize::from) as u64;
    let share = histories.div_ceil(workers);
    let counts = thread::scope(|scope| {
        let each = |worker: u64| (worker * share).min(histories)..((worker + 1) * share).min(histories);
        let running: Vec<_> = (0..workers).map(|worker| scope.spawn(move || run(each(worker)))).collect();
        let mut counts = Counts::default();
        for worker in running {
            sum(&mut counts, &worker.join().expect("no violation"));
        }
        counts
    });
    println!("{counts:#?}");
    assert_eq!(counts.histories, histories);
    assert!(counts.with_takeover * 2 >= histories, "a takeover in {} of {histories}", counts.with_takeover);
    let met = [
        counts.lost,
        counts.late,
        counts.replayed,
        counts.cuts,
        counts.pauses,
        counts.freezes,
        counts.kills,
        counts.restarts,
        counts.reboots,
        counts.handovers,
        counts.slews,
        counts.disturbed,
    ];
    assert!(met.iter().all(|met| *met > 0), "{counts:?}");
}

/// How many histories it takes until the clause is missed.
fn missed<R: Rule>(without: Without) -> Option<u64> {
    (0..PATIENCE).find(|seed| World::<R>::run(*seed, without, false).violation.is_some())
}

macro_rules! without_clause {
    ($($name:ident: $clause:ident;)*) => {
        $(
            #[test]
            fn $name() {
                struct Broken;
                impl Rule for Broken {
                    const $clause: bool = false;
                }
                let after = missed::<Broken>(Without::Nothing);
                println!("without {}: missed after {after:?} histories", stringify!($clause));
                assert!(after.is_some(), "nobody missed {}", stringify!($clause));
            }
        )*
    };
}

without_clause! {
    granting_on_to_those_outside_is_missed: STOP_OUTSIDE;
    gates_that_stay_open_at_the_announcement_are_missed: CLOSE_AT_ANNOUNCE;
    grants_that_do_not_wait_are_missed: GRANT_WAITS;
    an_own_vote_that_does_not_wait_is_missed: OWN_VOTE_WAITS;
    a_promise_without_its_quarter_is_missed: QUARTER;
    grants_of_another_view_that_count_are_missed: COUNT_VIEW;
    grants_of_before_that_count_are_missed: FORGET;
    a_lease_carried_over_to_what_is_new_is_missed: CARRY_OWNED_ONLY;
    a_promise_from_before_the_receipt_is_missed: PROMISE_FROM_RECEIPT;
}

macro_rules! without {
    ($($name:ident: $what:ident;)*) => {
        $(
            #[test]
            fn $name() {
                let after = missed::<Whole>(Without::$what);
                println!("without {}: missed after {after:?} histories", stringify!($what));
                assert!(after.is_some(), "nobody missed {}", stringify!($what));
            }
        )*
    };
}

without! {
    ids_that_fall_over_a_restart_are_missed: Floor;
    a_view_installed_early_is_missed: AllAnnounced;
    a_gate_without_a_latch_is_missed: Latch;
    gates_left_open_at_a_start_are_missed: ClosedAtStart;
}

/// What a granter knows of its promises when it comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// The pinned table.
    Kept,
    /// Nothing, and it waits.
    Waits,
    /// Nothing, and it does not wait.
    None,
}

/// The one history in which it matters, which chance hardly makes: a holder that lives by one granter's vote, and that
/// granter comes back while the promise runs. Gives whether two nodes hold.
fn granter_comes_back(memory: Memory) -> bool {
    const MS: u64 = INTERVAL_NS;
    let view = |epoch, members| View::new(epoch, 0, members, (LEASE_NS / 1000) as u32, 1);
    let mut votes = [0; NODES_MAX];
    votes[..3].fill(1);
    let install = |table: &Table, own: u8, view: View, owned: u64, now_ns: u64| {
        let not_before_ns = lease::announce::<Whole, _>(table, &view, owned);
        let new = Installation { view, not_before_ns, own, votes: &votes, quorum: 2, owned, now_ns };
        lease::install::<Whole, _>(table, &new);
    };
    let [a, mut b, c] = [(); 3].map(|()| Table::new());
    // 0 holds; 1 hears it, 2 does not.
    install(&a, 0, view(1, 0b111), 1, 0);
    install(&b, 1, view(1, 0b111), 0, 0);
    install(&c, 2, view(1, 0b111), 0, 0);
    let first = lease::serving(&b);
    assert!(lease::grant::<Whole, _>(&b, &first, 0, 100 * MS, 100 * MS));
    lease::count::<Whole, _>(&a, &lease::serving(&a), 1, &first.view, 100 * MS, 100 * MS);
    // 1 comes back at once, and is in the next view with 2, which is to hold.
    let back_ns = 101 * MS;
    let mut waits_until_ns = 0;
    match memory {
        Memory::Kept => lease::adopt_closed(&b),
        Memory::Waits | Memory::None => b = Table::new(),
    }
    if memory == Memory::Waits {
        waits_until_ns = back_ns + LEASE_NS / 4 * PROMISE_QUARTERS;
    }
    install(&b, 1, view(2, 0b110), 0, back_ns);
    install(&c, 2, view(2, 0b110), 1, back_ns);
    let mut both = false;
    for now_ns in (back_ns..115 * MS).step_by(250_000) {
        let serving = lease::serving(&b);
        if now_ns >= waits_until_ns && lease::grant::<Whole, _>(&b, &serving, 2, now_ns, now_ns) {
            lease::count::<Whole, _>(&c, &lease::serving(&c), 1, &serving.view, now_ns, now_ns);
        }
        both |= lease::is_open(&a, 0, now_ns) && lease::is_open(&c, 0, now_ns);
    }
    assert!(lease::is_open(&c, 0, 115 * MS), "the next one takes over in the end");
    both
}

#[test]
fn promises_outlive_the_granters_daemon() {
    assert!(!granter_comes_back(Memory::Kept));
    assert!(!granter_comes_back(Memory::Waits));
    assert!(granter_comes_back(Memory::None), "a granter that forgets gives two holders");
}
