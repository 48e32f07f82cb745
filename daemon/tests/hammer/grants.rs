//! Grants against the daemon's revocation, by answers and by probes: what was granted is covered by the announcement
//! after it, and nothing is granted behind it.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use ringbeat_common::frame::flags;
use ringbeat_common::lease::{PROMISES, Whole, Words, promise_us};
use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::maps::LeaseTable;
use ringbeat_common::view::View;
use ringbeatd::plane::lease::{LeaseCells, Votes};
use ringbeatd::sys::clock::boot_ns;
use ringbeatd::sys::mapped::Mapped;

use crate::frames::{Sender, Way, own, peer};
use crate::{SEQ, Tally, dawdle, inside, mount, pinned, plane};

/// Revocations of one test; there is one for each way.
const REVOCATIONS: u64 = 500_000;
/// Grants that an announcement has to be held against, at the least; it is 330,000 and 790,000 on two cores.
const MET: u64 = 50_000;
const LEASE_US: u32 = 5000;

/// The lease of this node, with one vote of its own and one of the peer's.
pub(crate) struct Lease {
    table: Mapped<LeaseTable>,
    votes: Votes,
}

impl Lease {
    pub(crate) fn new() -> Self {
        let table = Mapped::new(pinned("LEASE").fd(), 1).expect("a mapped table");
        let mut votes = Votes { own: 0, of: [0; NODES_MAX], quorum: 2 };
        votes.of[..2].fill(1);
        Self { table, votes }
    }

    fn cells(&self) -> LeaseCells<'_> {
        LeaseCells(self.table.words())
    }

    /// Installs a view with the peer, who may be granted to from here on; nothing is waited for.
    pub(crate) fn install(&self, epoch: u64) {
        self.cells().install(View::new(epoch, 0, 0b11, LEASE_US, 1), 0, 0, &self.votes);
    }

    /// Announces a view without the peer; gives what is to be waited for.
    fn revoke(&self, epoch: u64) -> u64 {
        self.cells().announce(&View::new(epoch, 0, 0b01, LEASE_US, 1), 0)
    }

    /// The words of all promises.
    pub(crate) fn promises(&self) -> [u64; NODES_MAX] {
        let cells = self.cells();
        std::array::from_fn(|slot| cells.load(PROMISES + slot))
    }
}

fn spin(times: u64) {
    for _ in 0..times {
        std::hint::spin_loop();
    }
}

/// One side has frames leave that may grant; the other announces views without their target and installs views with
/// it. Every grant that leaves is covered by the announcement after it, and none leaves between that and the next view.
fn revoke_grants(way: Way, slipping: bool) -> Tally {
    mount();
    let mut sender = Sender::new();
    let mut daemon = plane();
    daemon.open(own(1)).expect("opened");
    daemon.accept(1, peer(2)).expect("accepted");
    let lease = Lease::new();
    // Granting on odd numbers, revoked on even ones; and what each announcement said is to be waited for.
    let phase = AtomicU64::new(0);
    let waits: Vec<AtomicU64> = (0..=REVOCATIONS).map(|_| AtomicU64::new(0)).collect();
    let (stop, mut tally, mut granted) = (AtomicBool::new(false), Tally::default(), Vec::new());
    thread::scope(|scope| {
        let revoking = scope.spawn(|| {
            let mut steps = 0;
            while steps < REVOCATIONS && !stop.load(SEQ) {
                steps += 1;
                phase.store(2 * steps - 1, SEQ);
                lease.install(2 * steps);
                // Long enough for some to be granted, and for the revocation to fall anywhere into a run.
                spin(steps % 256);
                let wait_ns = if slipping { boot_ns() } else { lease.revoke(2 * steps + 1) };
                waits[steps as usize].store(wait_ns, SEQ);
                phase.store(2 * steps, SEQ);
                // Now and then so long that runs begin and end in here.
                match steps % 64 {
                    0 => dawdle(),
                    of if of % 4 == 0 => spin(200),
                    _ => {}
                }
            }
            stop.store(true, SEQ);
            steps
        });
        while !(stop.load(SEQ) || slipping && !tally.failures.is_empty()) {
            tally.runs += 1;
            sender.prepare(way, tally.runs);
            let before = phase.load(SEQ);
            let frame = sender.leave(way, tally.runs);
            let after = phase.load(SEQ);
            let Some(frame) = frame else { continue };
            tally.answers += 1;
            if frame.flags() & flags::GRANT == 0 {
                continue;
            }
            tally.grants += 1;
            if before.is_multiple_of(2) && before == after && before != 0 {
                tally.fail("granted after it was revoked", || format!("phase {before}"));
            }
            if !before.is_multiple_of(2) && after <= before + 1 {
                granted.push((before.div_ceil(2), promise_us::<Whole>(frame.received(), LEASE_US) * 1000));
            }
        }
        stop.store(true, SEQ);
        tally.steps = revoking.join().expect("the revoking side");
    });
    // A grant of one phase alone is covered by the very announcement that ends it.
    for (step, until_ns) in granted {
        tally.covered += 1;
        let wait_ns = waits[step as usize].load(SEQ);
        if until_ns > wait_ns {
            tally.fail("a grant outlasts the wait", || format!("{until_ns} > {wait_ns}, step {step}"));
        }
    }
    println!("{way:?}: {tally:?}");
    tally
}

fn assert_none_slips(way: Way) {
    let tally = revoke_grants(way, false);
    assert!(tally.failures.is_empty(), "{tally:#?}");
    assert_eq!(tally.steps, REVOCATIONS);
    let met = tally.runs > 100_000 && tally.covered > MET;
    assert!(met, "hardly hammered: {tally:?}");
}

#[test]
fn no_grant_of_an_answer_slips_past_a_revocation() {
    if inside("grants::no_grant_of_an_answer_slips_past_a_revocation") {
        assert_none_slips(Way::Answer);
    }
}

#[test]
fn no_grant_of_a_probe_slips_past_a_revocation() {
    if inside("grants::no_grant_of_a_probe_slips_past_a_revocation") {
        assert_none_slips(Way::Probe);
    }
}

#[test]
fn mutation_a_revocation_that_is_none_is_noticed() {
    if inside("grants::mutation_a_revocation_that_is_none_is_noticed") {
        let tally = revoke_grants(Way::Answer, true);
        assert!(!tally.failures.is_empty(), "hardly hammered: {tally:?}");
    }
}

#[test]
fn mutation_a_revocation_that_is_none_is_noticed_by_probes() {
    if inside("grants::mutation_a_revocation_that_is_none_is_noticed_by_probes") {
        let tally = revoke_grants(Way::Probe, true);
        assert!(!tally.failures.is_empty(), "hardly hammered: {tally:?}");
    }
}
