//! The daemon dies: from then on every frame says so, none grants, and no promise is made or lengthened.

use std::io::{BufRead, BufReader, Write};
use std::mem::offset_of;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Instant;

use ringbeat_common::frame::flags;
use ringbeat_common::maps::{Latch, latch};
use ringbeatd::plane::load::LoadError;
use ringbeatd::sys::clock::boot_ns;
use ringbeatd::sys::mapped::Mapped;

use crate::frames::{Sender, Way, own, peer, probe, run};
use crate::grants::Lease;
use crate::{PATIENCE, SEQ, Steps, Tally, WHOLE, dawdle, hammer, inside, mount, pinned, plane};

/// Which life the process to be killed is.
const LIFE: &str = "RINGBEAT_HAMMER_LIFE";
/// A hand-over whose end does not come.
const LONG_NS: u64 = 60_000_000_000;
/// Kills of one test.
const KILLS: u64 = 10;

/// One side has answers and probes leave under an installed view; the other sets the latch as the obituary does, by a
/// compare-and-swap, and registers anew. `early` tells the death before the latch is set.
fn die_and_register(early: bool) -> Tally {
    mount();
    let mut sender = Sender::new();
    let mut daemon = plane();
    daemon.open(own(1)).expect("opened");
    daemon.accept(1, peer(2)).expect("accepted");
    let lease = Lease::new();
    lease.install(1);
    let words: Mapped<Latch> = Mapped::new(pinned("LATCH").fd(), 1).expect("mapped");
    let at = offset_of!(Latch, state);
    let steps = Steps::new(early);
    // Odd steps die, even ones register.
    hammer(
        &steps,
        |round, tally| {
            let way = if round % 2 == 0 { Way::Answer } else { Way::Probe };
            sender.prepare(way, round);
            let done = steps.done.load(SEQ);
            let before = lease.promises();
            // Closed only while a daemon opens it anew.
            let Some(frame) = sender.leave(way, round) else { return };
            let after = lease.promises();
            tally.answers += 1;
            let said = frame.flags() & flags::GONE != 0;
            let granted = frame.flags() & flags::GRANT != 0;
            tally.grants += u64::from(granted);
            // One step alone tells what a run saw; with more in between either may be right.
            if steps.begun.load(SEQ) != done {
                return;
            }
            let dead = done % 2 == 1;
            if dead && !said {
                tally.fail("a dead daemon was alive", || format!("step {done}, {way:?}"));
            }
            if !dead && said {
                tally.fail("a living daemon was dead", || format!("step {done}, {way:?}"));
            }
            if dead && granted {
                tally.fail("a dead daemon granted", || format!("step {done}, {way:?}"));
            }
            if dead && before != after {
                tally.fail("a dead daemon promised", || format!("step {done}, {way:?}"));
            }
        },
        |step, tally| {
            steps.begun.store(step, SEQ);
            if early && step % 2 == 1 {
                steps.done.store(step, SEQ);
                dawdle();
            }
            if step % 2 == 1 {
                let set = words.word(0, at).compare_exchange(latch::ALIVE, latch::GONE, SEQ, SEQ);
                if set.is_err() {
                    tally.fail("the latch was not alive", || format!("{set:?}"));
                }
            } else if step % WHOLE == 0 {
                daemon.open(own(1)).expect("opened");
                daemon.accept(1, peer(2)).expect("accepted");
            } else {
                // The last step of registration by itself.
                words.word(0, at).store(latch::ALIVE, SEQ);
            }
            steps.done.store(step, SEQ);
            for _ in 0..step % 4096 {
                std::hint::spin_loop();
            }
        },
    )
}

#[test]
fn after_the_latch_every_frame_says_gone_and_none_grants() {
    if inside("latch::after_the_latch_every_frame_says_gone_and_none_grants") {
        let tally = die_and_register(false);
        tally.assert_sound();
        assert!(tally.grants > 1000, "hardly granted: {tally:?}");
    }
}

#[test]
fn mutation_a_latch_that_is_set_late_is_noticed() {
    if inside("latch::mutation_a_latch_that_is_set_late_is_noticed") {
        let tally = die_and_register(true);
        println!("{tally:?}");
        for kind in ["a dead daemon was alive", "a dead daemon granted", "a dead daemon promised"] {
            assert!(tally.count(kind) > 0, "{kind}: {tally:?}");
        }
    }
}

/// What was sent before a kill was known and after it.
#[derive(Debug, Default)]
struct Sent {
    before: u64,
    granted: u64,
    after: u64,
}

/// Daemons of flesh and blood: a process opens the plane and is killed while packets run.
#[test]
fn after_a_kill_every_answer_says_gone_and_none_grants() {
    if !inside("latch::after_a_kill_every_answer_says_gone_and_none_grants") {
        return;
    }
    mount();
    let mut sender = plane();
    let mut daemon = plane();
    let lease = Lease::new();
    let mut sequence = 0;
    for life in 1..=KILLS {
        let mut child = Command::new(std::env::current_exe().expect("a program"))
            .args(["--exact", "latch::a_daemon_to_be_killed", "--nocapture"])
            .env(LIFE, life.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert!(lines.any(|line| line.expect("a line").contains("open")), "the daemon is open");
        daemon.accept(1, peer(2)).expect("accepted");
        lease.install(life);
        let (gone, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let sent = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let (mut sent, mut known) = (Sent::default(), false);
                while !known || sent.after < 2000 {
                    sequence += 1;
                    known = gone.load(SEQ);
                    let promises = lease.promises();
                    let answer = run(&mut sender, &probe(2, own(life), sequence)).expect("still answered");
                    let said = answer.flags() & flags::GONE != 0;
                    let granted = answer.flags() & flags::GRANT != 0;
                    answered.fetch_add(1, SEQ);
                    assert!(said || !known, "kill {life}: an answer without the flag: {sent:?}");
                    assert!(said || sent.after == 0, "kill {life}: alive again: {sent:?}");
                    assert!(!(said && granted), "kill {life}: gone, and granting: {sent:?}");
                    assert!(!known || promises == lease.promises(), "kill {life}: promised: {sent:?}");
                    sent.granted += u64::from(granted);
                    if said { sent.after += 1 } else { sent.before += 1 }
                }
                sent
            });
            let end = Instant::now() + PATIENCE;
            while answered.load(SEQ) < 100 * life {
                assert!(Instant::now() < end && !sending.is_finished(), "hardly an answer");
            }
            child.kill().expect("killed");
            while daemon.latch().state != latch::GONE {
                assert!(Instant::now() < end, "the obituary: {:?}", daemon.latch());
                std::hint::spin_loop();
            }
            gone.store(true, SEQ);
            sending.join().expect("the sender")
        });
        child.wait().expect("buried");
        println!("kill {life}: {sent:?}");
        assert!(sent.before >= 100, "the daemon was dead before it was killed: {sent:?}");
        assert!(sent.granted > 0, "nothing was granted before: {sent:?}");
    }
}

/// The process that the test above starts and kills; by itself it has nothing to do.
#[test]
fn a_daemon_to_be_killed() {
    let Some(life) = std::env::var(LIFE).ok().and_then(|life| life.parse().ok()) else { return };
    let mut plane = plane();
    plane.open(own(life)).expect("opened");
    println!("open");
    std::io::stdout().flush().expect("said");
    // Until it is killed, or its test is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// A successor that decided in time and comes too late: the kernel does not register it, so at no instant does what it took
/// over go on as if its daemon lived.
#[test]
fn a_late_successor_is_not_registered() {
    if !inside("latch::a_late_successor_is_not_registered") {
        return;
    }
    mount();
    let mut before = plane();
    before.open(own(1)).expect("opened");
    let words: Mapped<Latch> = Mapped::new(pinned("LATCH").fd(), 1).expect("mapped");
    let set = |at, value| words.word(0, at).store(value, SEQ);
    for late in [true, false] {
        set(offset_of!(Latch, handover_until_ns), boot_ns() + LONG_NS);
        set(offset_of!(Latch, state), latch::HANDED_OVER);
        let mut next = plane();
        assert_eq!(next.adopted(), Some(own(1)), "in time to decide");
        if late {
            // Not over yet, and nearer than what may lie between a look at the clock and the registration.
            set(offset_of!(Latch, handover_until_ns), boot_ns() + latch::ADOPT_LEAST_NS - 1_000_000);
            let refused = next.open(own(1)).expect_err("the hand-over is over");
            assert!(matches!(refused, LoadError::TooLate), "{refused}");
            assert_eq!(words.copy(0).state, latch::HANDED_OVER, "registered all the same");
        } else {
            next.open(own(1)).expect("taken over");
            assert_eq!(words.copy(0).state, latch::ALIVE);
        }
        // What a refused one has closed the next one finds closed; the first one's door is opened again for it.
        before.open(own(1)).expect("opened again");
    }
}
