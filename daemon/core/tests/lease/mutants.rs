//! Each clause left out: either some history objects, or the clause is redundant, and `docs/lease.md` says why.

use ringbeat_common::lease::Rule;
use ringbeat_common::limits::NODES_MAX;

use crate::plan::{Fault, INTERVAL_NS, Mutation, Plan};
use crate::table::{Counting, Functions, Votes};
use crate::tally::Tally;
use crate::{Series, setting, whole};

/// Histories in which a missing clause must show.
const BOUND: u64 = 20_000;
/// Histories in which nothing may show.
const CALM: u64 = 5_000;

macro_rules! without {
    ($($name:ident $clause:ident;)*) => {
        $(
            #[derive(Clone, Copy, Debug)]
            struct $name;

            impl Rule for $name {
                const $clause: bool = false;
            }
        )*
    };
}

without! {
    StopOutside STOP_OUTSIDE;
    CloseAtAnnounce CLOSE_AT_ANNOUNCE;
    GrantWaits GRANT_WAITS;
    OwnVoteWaits OWN_VOTE_WAITS;
    GrantToMembers GRANT_TO_MEMBERS;
    Forget FORGET;
    CarryOwnedOnly CARRY_OWNED_ONLY;
    Quarter QUARTER;
    StampNotLater STAMP_NOT_LATER;
    CountView COUNT_VIEW;
    PromiseFromReceipt PROMISE_FROM_RECEIPT;
    EndInGeneration END_IN_GENERATION;
    WaitForReplaced WAIT_FOR_REPLACED;
    RevokeReplaced REVOKE_REPLACED;
    AloneWaits ALONE_WAITS;
}

/// Every history word by word, with many hold-ups.
fn held(plan: &mut Plan) {
    plan.held_permille = plan.held_permille.max(60);
    plan.propose_every_ns = INTERVAL_NS;
}

/// Daemons die and are back at once, among many views.
fn killed(plan: &mut Plan) {
    plan.quick = true;
    plan.fault_every_ns = INTERVAL_NS * 3;
    plan.propose_every_ns = INTERVAL_NS;
    plan.favour(&[Fault::Kill]);
}

/// The same, and no machine is ever replaced.
fn killed_in_place(plan: &mut Plan) {
    killed(plan);
    plan.never(Fault::Replaced);
}

/// The same with frames that come late, and twice.
fn killed_late(plan: &mut Plan) {
    killed(plan);
    (plan.late_permille, plan.twice_permille) = (200, 100);
}

fn killed_held(plan: &mut Plan) {
    killed(plan);
    plan.propose_every_ns = INTERVAL_NS * 2;
    (plan.held_permille, plan.held_ended_permille) = (10, 700);
}

fn rebooted(plan: &mut Plan) {
    plan.quick = true;
    plan.favour(&[Fault::Reboot, Fault::TableLost]);
}

fn rebooted_killed(plan: &mut Plan) {
    killed(plan);
    plan.favour(&[Fault::TableLost]);
}

/// Machines are replaced, and their next ones are back at once.
fn replaced(plan: &mut Plan) {
    plan.quick = true;
    plan.propose_every_ns = INTERVAL_NS;
    plan.favour(&[Fault::Replaced]);
}

/// The same, with programs and daemons held up anywhere.
fn replaced_held(plan: &mut Plan) {
    replaced(plan);
    held(plan);
}

fn handed_over(plan: &mut Plan) {
    plan.held_permille = 100;
    plan.fault_every_ns = INTERVAL_NS * 3;
    plan.favour(&[Fault::HandOver]);
}

fn handed_over_late(plan: &mut Plan) {
    plan.favour(&[Fault::HandOverLate]);
}

fn released(plan: &mut Plan) {
    held(plan);
    plan.slow_release = true;
    (plan.loss_permille, plan.late_permille) = (10, 10);
    plan.fault_every_ns = INTERVAL_NS * 3;
    plan.favour(&[Fault::Release, Fault::HandOver]);
}

/// Five votes, whose grants come back at times that lie far apart, and clocks at their limits.
fn lossy(plan: &mut Plan) {
    (plan.nodes, plan.links) = (5, 1);
    plan.votes = Votes { of: [0; NODES_MAX], quorum: 3 };
    plan.votes.of[..5].fill(1);
    (plan.loss_permille, plan.late_permille) = (300, 200);
    plan.extremes = true;
    plan.fault_every_ns = INTERVAL_NS * 3;
    plan.favour(&[Fault::OneWayCut]);
}

fn suspended(plan: &mut Plan) {
    plan.fault_every_ns = INTERVAL_NS * 5;
    plan.favour(&[Fault::Suspend]);
}

/// Frames come late, twice, and once more when nobody expects them.
fn stale(plan: &mut Plan) {
    (plan.late_permille, plan.twice_permille) = (300, 300);
    plan.propose_every_ns = INTERVAL_NS * 2;
}

/// The same among many that die.
fn stale_killed(plan: &mut Plan) {
    killed(plan);
    stale(plan);
    plan.favour(&[Fault::Release]);
}

fn extreme(plan: &mut Plan) {
    plan.extremes = true;
}

fn clause<R: Rule>(tune: fn(&mut Plan)) -> Series {
    Series { functions: Functions::of::<R>(), mutation: Mutation::None, tune }
}

fn counts(counting: Counting, tune: fn(&mut Plan)) -> Series {
    Series { functions: Functions::counting(counting), tune, ..whole() }
}

fn world(mutation: Mutation, tune: fn(&mut Plan)) -> Series {
    Series { mutation, tune, ..whole() }
}

/// The first of the histories that object. `RINGBEAT_SEEDS` runs so many, and counts.
fn objects(name: &str, series: &Series, histories: u64) -> Option<u64> {
    let seeds = setting("RINGBEAT_SEEDS");
    let histories = seeds.unwrap_or(histories);
    let (first, count) = series.violations(histories, seeds.is_some());
    println!("without {name}: {count} of {histories} histories, first {first:?}");
    first
}

fn missed(name: &str, series: &Series) {
    assert!(objects(name, series, BOUND).is_some(), "nobody missed {name}");
}

fn redundant(name: &str, series: &Series) {
    if let Some(seed) = objects(name, series, CALM)
        && let Some((violation, trace)) = series.history(seed, true, &mut Tally::new())
    {
        panic!("{name}, seed {seed}: {violation}\n{}", trace.join("\n"));
    }
}

macro_rules! missed {
    ($($test:ident: $name:literal, $series:expr;)*) => {
        $(
            #[test]
            fn $test() {
                missed($name, &$series);
            }
        )*
    };
}

missed! {
    stop_outside: "STOP_OUTSIDE", clause::<StopOutside>(|_| {});
    close_at_announce: "CLOSE_AT_ANNOUNCE", clause::<CloseAtAnnounce>(|_| {});
    grant_waits: "GRANT_WAITS", clause::<GrantWaits>(|_| {});
    own_vote_waits: "OWN_VOTE_WAITS", clause::<OwnVoteWaits>(|_| {});
    forget: "FORGET", clause::<Forget>(|_| {});
    carry_owned_only: "CARRY_OWNED_ONLY", clause::<CarryOwnedOnly>(|_| {});
    quarter: "QUARTER", clause::<Quarter>(extreme);
    count_view: "COUNT_VIEW", clause::<CountView>(|_| {});
    promise_from_receipt: "PROMISE_FROM_RECEIPT", clause::<PromiseFromReceipt>(|_| {});
    end_in_generation: "END_IN_GENERATION", clause::<EndInGeneration>(killed_held);
    wait_for_replaced: "WAIT_FOR_REPLACED", clause::<WaitForReplaced>(replaced);
    fewer_votes: "a quorum of votes", counts(Counting::FewerVotes, |_| {});
    newest_stamp: "the oldest stamp of the quorum", counts(Counting::NewestStamp, lossy);
    end_ignored: "the end of the lease at the gate", world(Mutation::EndIgnored, |_| {});
    clock_stops: "a clock that runs on while suspended", world(Mutation::ClockStops, suspended);
    alone_waits: "ALONE_WAITS", clause::<AloneWaits>(|_| {});
    epochs_repeat: "rising epochs over restarts", world(Mutation::EpochsRepeat, killed);
    install_early: "waiting for every member", world(Mutation::InstallEarly, |_| {});
    quiet_skipped: "the quiet time", world(Mutation::QuietSkipped, rebooted);
    quiet_forgotten: "a wait that outlives the daemon", world(Mutation::QuietForgotten, rebooted_killed);
    latch_ignored: "the latch at the gate", world(Mutation::LatchIgnored, |_| {});
    promises_forgotten: "promises over a restart", world(Mutation::PromisesForgotten, killed);
    old_lives: "incarnations", world(Mutation::OldLives, killed_late);
    generation_last: "the generation first", world(Mutation::GenerationLast, held);
    latch_first: "the clock before the latch", world(Mutation::LatchFirst, handed_over);
    late_adopted: "the hand-over's end", world(Mutation::LateAdopted, handed_over_late);
    released_adopted: "a release for life", world(Mutation::ReleasedAdopted, released);
    adopted_open: "closing what is adopted", world(Mutation::AdoptedOpen, killed);
    ids_fall: "rising ids", world(Mutation::IdsFall, |_| {});
    install_older: "that the view announced last is installed", world(Mutation::InstallOlder, |_| {});
    announce_said_first: "announcing before saying so", world(Mutation::AnnounceSaidFirst, held);
    gate_of_anybody: "the owner at the gate", world(Mutation::GateOfAnybody, |_| {});
    release_said_first: "letting go before saying so", world(Mutation::ReleaseSaidFirst, released);
}

/// In the worlds in which a clause was found missing, nothing happens while it is there.
#[test]
fn with_all_clauses_the_same_worlds_hold() {
    for (name, tune) in [
        ("extreme", extreme as fn(&mut Plan)),
        ("held", held),
        ("killed", killed),
        ("killed_late", killed_late),
        ("killed_held", killed_held),
        ("rebooted", rebooted),
        ("rebooted_killed", rebooted_killed),
        ("replaced", replaced),
        ("replaced_held", replaced_held),
        ("handed_over", handed_over),
        ("handed_over_late", handed_over_late),
        ("released", released),
        ("lossy", lossy),
        ("suspended", suspended),
        ("stale", stale),
        ("stale_killed", stale_killed),
    ] {
        redundant(name, &world(Mutation::None, tune));
    }
}

/// Where no machine is replaced there is no life before that could still serve.
#[test]
fn waiting_for_replaced_lives_is_redundant_in_place() {
    redundant("WAIT_FOR_REPLACED, in place", &clause::<WaitForReplaced>(killed_in_place));
}

/// The life before is not heard any more, and the next one does not have the view.
#[test]
fn revoking_replaced_lives_is_redundant() {
    redundant("REVOKE_REPLACED", &clause::<RevokeReplaced>(replaced));
    redundant("REVOKE_REPLACED, held up", &clause::<RevokeReplaced>(replaced_held));
}

#[test]
fn grant_to_members_is_redundant() {
    redundant("GRANT_TO_MEMBERS", &clause::<GrantToMembers>(|_| {}));
}

#[test]
fn what_former_lives_announced_is_redundant() {
    redundant("that present lives have announced", &world(Mutation::OldAcks, replaced));
    redundant("that present lives have announced, many killed", &world(Mutation::OldAcks, killed_late));
}

#[test]
fn the_granters_latch_is_redundant() {
    redundant("the latch at the granter", &world(Mutation::GranterIgnoresLatch, killed));
    redundant("the latch at the granter, handed over", &world(Mutation::GranterIgnoresLatch, handed_over));
}

#[test]
fn announcing_anew_in_a_hand_over_is_redundant() {
    redundant("announcing anew in a hand-over", &world(Mutation::TakenOverSilently, handed_over));
}

#[test]
fn stamp_not_later_is_redundant() {
    redundant("STAMP_NOT_LATER", &clause::<StampNotLater>(|_| {}));
}

#[test]
fn freshness_is_redundant() {
    redundant("freshness of frames", &world(Mutation::StaleTaken, stale));
    redundant("freshness of frames, many killed", &world(Mutation::StaleTaken, stale_killed));
}

#[test]
fn rising_numbers_are_redundant() {
    redundant("rising numbers of frames", &world(Mutation::ReplaysTaken, stale));
    redundant("rising numbers of frames, many killed", &world(Mutation::ReplaysTaken, stale_killed));
}
