//! Kernel and daemon at the same words at the same time: what `docs/atomicity.md` claims, hammered from two sides.
//!
//! One thread runs packets through the real receiving program, as fast as it goes. Another accepts, closes, opens and
//! kills under it. Both use planes of their own over the same pinned maps, in a network and mount namespace of the
//! test's. Whatever was done before a packet's run began must be seen by that run, and whatever is read must be whole.
//!
//! Each property has a mutation that breaks it; the test of the mutation fails if the hammer is too soft to notice.
//!
//! Needs root, `unshare` and `mount`. Without them it says so, and fails where CI demands the run.

use std::io::{BufRead, BufReader, Write};
use std::mem::offset_of;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use ringbeat_common::frame::{FRAME_BYTES, Frame, Kind, flags};
use ringbeat_common::lease::{Whole, promise_us};
use ringbeat_common::limits::{NODES_MAX, cell};
use ringbeat_common::maps::{Latch, LeaseTable, Node, latch};
use ringbeat_common::slot::Slot;
use ringbeat_common::view::View;
use ringbeat_common::watch::state;
use ringbeat_config::Datapath;
use ringbeatd::plane::lease::{LeaseCells, Votes};
use ringbeatd::plane::load::chain;
use ringbeatd::plane::pins::Pins;
use ringbeatd::plane::{Identity, KernelPlane, PlaneLink};
use ringbeatd::sys::clock::boot_ns;
use ringbeatd::sys::mapped::Mapped;
use ringbeatd::sys::pod::Value;

const KEY: [u64; 2] = [0x1122, 0x3344];
const BPFFS: &str = "/sys/fs/bpf";
/// Says that a process is the one in the namespaces.
const INSIDE: &str = "RINGBEAT_HAMMER_INSIDE";
/// Which life the process to be killed is.
const LIFE: &str = "RINGBEAT_HAMMER_LIFE";
const TX: u32 = 3;
/// Packets of one test, at the least.
const ROUNDS: u64 = 200_000;
/// Kills of one test.
const KILLS: u64 = 10;
/// One opening in so many steps is done whole, by the daemon's own code.
const WHOLE: u64 = 256;
/// The most time for either.
const PATIENCE: Duration = Duration::from_secs(60);
const SEQ: Ordering = Ordering::SeqCst;

/// Runs the test of this name in namespaces of its own; true in there.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let program = std::env::current_exe().expect("a test is a program");
    let ran = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare runs (Debian: apt-get install util-linux)");
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    print!("{said}");
    if said.contains("Operation not permitted") && !ran.status.success() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this: {said}");
        eprintln!("skipped: {said}");
    } else {
        assert!(ran.status.success(), "{test}, in its namespaces: {said}");
    }
    false
}

/// A bpffs of the test's own.
fn mount() {
    let mounted = Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]).status().expect("mount runs");
    assert!(mounted.success(), "cannot mount a bpffs");
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs").success());
}

fn pins() -> Pins {
    Pins::open(Path::new(BPFFS), "hammer").expect("pins")
}

/// A plane over the pinned maps; it closes what it finds there.
fn plane() -> KernelPlane {
    let identity = Identity { slot: 0, cluster_id: 77, config_version: 1, key: KEY };
    let link = PlaneLink {
        id: 0,
        interface: "lo".to_owned(),
        ifindex: 1,
        port: 5405,
        interval_ns: 1_000_000_000,
        deadline_ns: 4_000_000_000,
    };
    let object = ringbeat_ebpf_object::KERNEL.expect("kernel programs in this build");
    KernelPlane::start(object, identity, &[link], Datapath::Generic, Some(&pins()))
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn pinned(name: &str) -> MapData {
    MapData::from_pin(pins().path(name)).expect("a pinned map")
}

/// The peer's life number `k`, from 1 on; odd ones are gone and say so.
const fn peer(k: u64) -> u64 {
    k << 32 | k & 0xffff_ffff
}

/// Our own life number `k`.
const fn own(k: u64) -> u64 {
    k << 32 | 0xface
}

/// A word that only this field of this frame has.
const fn mixed(sequence: u64, k: u64, field: u64) -> u64 {
    (sequence ^ k.rotate_left(40) ^ field << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Rises with the sequence number, and names the life.
const fn stamp(sequence: u64, k: u64) -> u64 {
    sequence << 24 | (k & 0xff_ffff)
}

/// A probe of the peer's life `k` to our life `target`, each of whose words tells which frame it is from.
fn probe(k: u64, target: u64, sequence: u64) -> Frame {
    let mut frame = Frame::new(Kind::Probe);
    frame.set_cluster_id(77);
    frame.set_sender(1);
    frame.set_incarnation(peer(k));
    frame.set_target_incarnation(target);
    frame.set_sequence(sequence);
    frame.set_stamp(stamp(sequence, k));
    frame.set_heard(mixed(sequence, k, 1));
    frame.set_view_epoch(mixed(sequence, k, 2));
    frame.set_view_members(mixed(sequence, k, 3));
    frame.set_config_version(mixed(sequence, k, 4));
    frame.set_daemon_age_us(0);
    if k % 2 == 1 {
        frame.set_flags(flags::GONE);
    }
    frame.set_returned(boot_ns());
    frame.seal(KEY);
    frame
}

/// What is wrong with the slot while life `k` is accepted.
fn wrong(slot: &Slot, k: u64) -> Option<String> {
    let sequence = slot.probe_sequence;
    let whole = if sequence == 0 {
        *slot == Slot { lock: slot.lock, ..Slot::accepting(peer(k)) }
    } else {
        slot.incarnation == peer(k)
            && slot.peer_stamp == stamp(sequence, k)
            && slot.heard == mixed(sequence, k, 1)
            && slot.view_epoch == mixed(sequence, k, 2)
            && slot.view_members == mixed(sequence, k, 3)
            && slot.config_version == mixed(sequence, k, 4)
            && slot.flags == u64::from(flags::GONE) * (k % 2)
            && slot.proof != 0
            && slot.proof <= slot.peer_stamp_received
    };
    (!whole).then(|| format!("life {k} has {slot:x?}"))
}

fn packet(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0];
    let udp = (8 + FRAME_BYTES) as u16;
    bytes.extend((20 + udp).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
    for field in [5405, 5405, udp, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(frame.to_bytes());
    bytes
}

/// The answer that the program makes of a probe, if it makes one; it must be sound and for just this probe.
fn run(plane: &mut KernelPlane, frame: &Frame) -> Option<Frame> {
    let tried = plane.try_out(&packet(frame), 1).unwrap_or_else(|error| panic!("{}", chain(&error)));
    if tried.verdict != TX {
        return None;
    }
    let answer = Frame::from_bytes(&tried.after[tried.after.len() - FRAME_BYTES..]).expect("a frame");
    assert_eq!(answer.computed_tag(KEY), answer.tag());
    assert_eq!(
        (
            answer.kind(),
            answer.sequence(),
            answer.returned(),
            answer.target_incarnation(),
            answer.incarnation()
        ),
        (
            Kind::Answer as u8,
            frame.sequence(),
            frame.stamp(),
            frame.incarnation(),
            frame.target_incarnation()
        )
    );
    Some(answer)
}

/// What both sides know of one another: the last step that one has begun, and the last that is done.
#[derive(Default)]
struct Steps {
    begun: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
    /// A mutation is at work: go on until it is noticed.
    mutated: bool,
}

impl Steps {
    fn new(mutated: bool) -> Self {
        Self { mutated, ..Self::default() }
    }
}

/// What a hammering came to.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    answers: u64,
    steps: u64,
    /// What must never be, the first of each kind with its words.
    failures: Vec<(&'static str, u64, String)>,
}

impl Tally {
    fn fail(&mut self, kind: &'static str, words: impl FnOnce() -> String) {
        match self.failures.iter_mut().find(|(known, ..)| *known == kind) {
            Some((_, count, _)) => *count += 1,
            None => self.failures.push((kind, 1, words())),
        }
    }

    fn count(&self, kind: &str) -> u64 {
        self.failures.iter().find(|(known, ..)| *known == kind).map_or(0, |(_, count, _)| *count)
    }

    fn and(mut self, other: Self) -> Self {
        self.runs += other.runs;
        self.answers += other.answers;
        self.steps += other.steps;
        self.failures.extend(other.failures);
        self
    }

    fn assert_sound(&self) {
        println!("{self:?}");
        assert!(self.failures.is_empty(), "{self:#?}");
        assert!(self.runs >= ROUNDS && self.answers > 1000 && self.steps > 1000, "hardly hammered: {self:?}");
    }
}

/// Runs `one` with the numbers 1, 2, ... until enough packets were run, while `other` steps.
fn hammer(
    steps: &Steps,
    mut one: impl FnMut(u64, &mut Tally),
    mut other: impl FnMut(u64, &mut Tally) + Send,
) -> Tally {
    let end = Instant::now() + PATIENCE;
    let enough =
        |tally: &Tally| if steps.mutated { !tally.failures.is_empty() } else { tally.runs >= ROUNDS };
    thread::scope(|scope| {
        let stepping = scope.spawn(move || {
            let mut tally = Tally::default();
            while !(steps.stop.load(SEQ) || steps.mutated && enough(&tally)) {
                tally.steps += 1;
                other(tally.steps, &mut tally);
            }
            tally
        });
        let mut tally = Tally::default();
        while !enough(&tally) && Instant::now() < end && !stepping.is_finished() {
            tally.runs += 1;
            one(tally.runs, &mut tally);
        }
        steps.stop.store(true, SEQ);
        tally.and(stepping.join().expect("the stepping side"))
    })
}

/// Passes a time that lasts longer than a packet's run.
fn dawdle() {
    for _ in 0..20_000 {
        std::hint::spin_loop();
    }
}

/// Revocations of one test.
const REVOCATIONS: u64 = 1_000_000;
/// The table's word that says which phase is on: granting on odd numbers, revoked on even ones.
struct Phase {
    number: AtomicU64,
    /// What the last announcement said is to be waited for.
    not_before_ns: AtomicU64,
}

/// One side asks for grants; the other announces views without the asker and installs views with it, a million times.
/// Every grant that leaves is covered by the announcement after it, and none leaves between that and the next view.
fn revoke_grants(slipping: bool) -> Tally {
    mount();
    let mut plane = plane();
    plane.open(own(1)).expect("opened");
    plane.accept(1, peer(2)).expect("accepted");
    let table: Mapped<LeaseTable> = Mapped::new(pinned("LEASE").fd(), 1).expect("a mapped table");
    let mut votes = [0; NODES_MAX];
    votes[..2].fill(1);
    let votes = Votes { own: 0, of: votes, quorum: 2 };
    let phase = Phase { number: AtomicU64::new(0), not_before_ns: AtomicU64::new(0) };
    let (stop, mut tally) = (AtomicBool::new(false), Tally::default());
    let view = |epoch, members| View::new(epoch, 0, members, 5000, 1);
    thread::scope(|scope| {
        let revoking = scope.spawn(|| {
            let cells = LeaseCells(table.words());
            for step in 1..=REVOCATIONS {
                // The asker may be granted to from here on; nothing is waited for.
                phase.number.store(2 * step - 1, SEQ);
                cells.install(view(2 * step, 0b11), 0, 0, &votes);
                // Long enough for some to be granted, and for the revocation to fall anywhere into a run.
                for _ in 0..step % 512 {
                    std::hint::spin_loop();
                }
                let not_before_ns =
                    if slipping { boot_ns() } else { cells.announce(&view(2 * step + 1, 0b01), 0) };
                phase.not_before_ns.store(not_before_ns, SEQ);
                phase.number.store(2 * step, SEQ);
                if step % 64 == 0 {
                    // A run that began before ends in here.
                    dawdle();
                }
            }
            stop.store(true, SEQ);
        });
        let mut sequence = 0;
        while !stop.load(SEQ) && (!slipping || tally.failures.is_empty()) {
            sequence += 1;
            let before = phase.number.load(SEQ);
            let answer = run(&mut plane, &probe(2, own(1), sequence));
            let not_before_ns = phase.not_before_ns.load(SEQ);
            let after = phase.number.load(SEQ);
            tally.runs += 1;
            let Some(answer) = answer.filter(|answer| answer.flags() & flags::GRANT != 0) else { continue };
            tally.answers += 1;
            let until_ns = promise_us::<Whole>(answer.stamp(), 5000) * 1000;
            if before == after && before != 0 && before.is_multiple_of(2) {
                tally.fail("granted after it was revoked", || format!("phase {before}"));
            }
            if after == before + 1 && after.is_multiple_of(2) && until_ns > not_before_ns {
                tally.fail("a grant outlasts the wait", || format!("{until_ns} > {not_before_ns}"));
            }
        }
        stop.store(true, SEQ);
        revoking.join().expect("the revoking side");
    });
    tally.steps = REVOCATIONS;
    tally
}

#[test]
fn no_grant_slips_past_a_revocation() {
    if inside("no_grant_slips_past_a_revocation") {
        let tally = revoke_grants(false);
        println!("{tally:?}");
        assert!(tally.failures.is_empty(), "{tally:#?}");
        assert!(tally.runs > 10_000 && tally.answers > 1000, "hardly hammered: {tally:?}");
    }
}

#[test]
fn a_revocation_that_is_none_is_noticed() {
    if inside("a_revocation_that_is_none_is_noticed") {
        let tally = revoke_grants(true);
        assert!(!tally.failures.is_empty(), "hardly hammered: {tally:?}");
    }
}

/// How a life is switched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Switch {
    /// As the daemon does it.
    Accept,
    /// Without BPF_F_LOCK.
    Unlocked,
    /// The state first, the slot after it.
    StateFirst,
}

/// One side sends frames of lives before, at and after the accepted one; the other accepts one life after another.
fn switch_lives(how: Switch) -> Tally {
    mount();
    let mut sender = plane();
    let mut daemon = plane();
    daemon.open(own(1)).expect("opened");
    let mut slots: Array<MapData, Value<Slot>> =
        Array::try_from(Map::Array(pinned("SLOTS"))).expect("an array");
    let steps = Steps::new(how != Switch::Accept);
    let index = cell(0, 1) as u32;
    hammer(
        &steps,
        |round, tally| {
            let done = steps.done.load(SEQ);
            // Mostly the life of now, whose last frames are on their way when the next one is accepted.
            let k = (done + u64::from(round % 8 == 0)).saturating_sub(u64::from(round % 5 == 0)).max(1);
            if run(&mut sender, &probe(k, own(1), round)).is_some() {
                tally.answers += 1;
                if k < done {
                    tally.fail("an old life was answered", || format!("life {k}, {done} was accepted"));
                }
                if k > steps.begun.load(SEQ) {
                    tally.fail("a life was answered before its time", || format!("life {k}"));
                }
            }
        },
        |k, tally| {
            steps.begun.store(k, SEQ);
            match how {
                Switch::Accept => daemon.accept(1, peer(k)).expect("accepted"),
                Switch::Unlocked => {
                    slots.set(index, Value(Slot::accepting(peer(k))), 0).expect("set");
                }
                Switch::StateFirst => {
                    let life = daemon.slot(0, 1).incarnation;
                    daemon.accept(1, life).expect("accepted");
                    for _ in 0..20 {
                        std::hint::spin_loop();
                    }
                    slots.set(index, Value(Slot::accepting(peer(k))), 4).expect("set");
                }
            }
            steps.done.store(k, SEQ);
            for _ in 0..2 {
                let seen = daemon.state(0, 1);
                if k % 2 == 0 && seen & state::GONE != 0 {
                    tally.fail("a life that is not gone is", || format!("life {k}: {seen:#x}"));
                }
                if let Some(words) = wrong(&daemon.slot(0, 1), k) {
                    tally.fail("a slot is torn, or of another life", || words);
                }
            }
            while daemon.next_event().is_some() {}
        },
    )
}

#[test]
fn an_accepted_life_is_the_only_one() {
    if inside("an_accepted_life_is_the_only_one") {
        switch_lives(Switch::Accept).assert_sound();
    }
}

#[test]
fn mutation_a_slot_written_without_its_lock_is_noticed() {
    if inside("mutation_a_slot_written_without_its_lock_is_noticed") {
        let tally = switch_lives(Switch::Unlocked);
        println!("{tally:?}");
        assert!(tally.count("a slot is torn, or of another life") > 0, "{tally:?}");
    }
}

#[test]
fn mutation_a_state_written_before_the_slot_is_noticed() {
    if inside("mutation_a_state_written_before_the_slot_is_noticed") {
        let tally = switch_lives(Switch::StateFirst);
        println!("{tally:?}");
        assert!(tally.count("a life that is not gone is") > 0, "{tally:?}");
    }
}

/// One side sends frames to the own life; the other closes and opens. `early` tells the closing before it is done.
fn open_and_close(early: bool) -> Tally {
    mount();
    let mut sender = plane();
    let mut daemon = plane();
    daemon.open(own(1)).expect("opened");
    daemon.close();
    daemon.open(own(1)).expect("opened");
    daemon.accept(1, peer(2)).expect("accepted");
    daemon.close();
    let words: Mapped<Node> = Mapped::new(pinned("NODE").fd(), 1).expect("mapped");
    let steps = Steps::new(early);
    // Odd steps open life (step + 1) / 2, even ones close it.
    hammer(
        &steps,
        |round, tally| {
            let done = steps.done.load(SEQ);
            let target = done.div_ceil(2).max(1) - u64::from(round % 16 == 0 && done > 2);
            if run(&mut sender, &probe(2, own(target), round)).is_some() {
                tally.answers += 1;
                if done > 0 && target * 2 <= done {
                    tally.fail("a closed plane answered", || format!("life {target}, step {done} was done"));
                }
                if target * 2 - 1 > steps.begun.load(SEQ) {
                    tally.fail("a plane answered before it was open", || format!("life {target}"));
                }
            }
        },
        |step, _| {
            steps.begun.store(step, SEQ);
            if early {
                steps.done.store(step, SEQ);
                dawdle();
            }
            let life = own(step.div_ceil(2));
            if step % 2 == 0 {
                daemon.close();
            } else if step % WHOLE == 1 {
                daemon.open(life).expect("opened");
                daemon.accept(1, peer(2)).expect("accepted");
            } else {
                // The last step of opening by itself: the others take a thousand times as long.
                words.word(0, offset_of!(Node, incarnation)).store(life, SEQ);
            }
            steps.done.store(step, SEQ);
            // Long enough for a packet or two, and of a length that differs.
            for _ in 0..step % 512 {
                std::hint::spin_loop();
            }
        },
    )
}

#[test]
fn a_closed_plane_answers_nothing() {
    if inside("a_closed_plane_answers_nothing") {
        open_and_close(false).assert_sound();
    }
}

#[test]
fn mutation_a_plane_that_closes_late_is_noticed() {
    if inside("mutation_a_plane_that_closes_late_is_noticed") {
        let tally = open_and_close(true);
        println!("{tally:?}");
        assert!(tally.count("a closed plane answered") > 0, "{tally:?}");
    }
}

/// One side sends; the other sets the latch as the obituary does, by a compare-and-swap, and registers anew.
/// `early` tells the death before the latch is set.
fn die_and_register(early: bool) -> Tally {
    mount();
    let mut sender = plane();
    let mut daemon = plane();
    daemon.open(own(1)).expect("opened");
    daemon.accept(1, peer(2)).expect("accepted");
    let words: Mapped<Latch> = Mapped::new(pinned("LATCH").fd(), 1).expect("mapped");
    let at = offset_of!(Latch, state);
    let steps = Steps::new(early);
    // Odd steps die, even ones register.
    hammer(
        &steps,
        |round, tally| {
            let done = steps.done.load(SEQ);
            // Closed only while a daemon opens it anew.
            let Some(answer) = run(&mut sender, &probe(2, own(1), round)) else { return };
            tally.answers += 1;
            let said = answer.flags() & flags::GONE != 0;
            // One step alone tells what a run saw; with more in between either may be right.
            let same = steps.begun.load(SEQ) == done;
            if done % 2 == 1 && same && !said {
                tally.fail("a dead daemon was alive", || format!("step {done}"));
            }
            if done.is_multiple_of(2) && same && said {
                tally.fail("a living daemon was dead", || format!("step {done}"));
            }
        },
        |step, tally| {
            steps.begun.store(step, SEQ);
            if early {
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
fn after_the_latch_every_answer_says_gone() {
    if inside("after_the_latch_every_answer_says_gone") {
        die_and_register(false).assert_sound();
    }
}

#[test]
fn mutation_a_latch_that_is_set_late_is_noticed() {
    if inside("mutation_a_latch_that_is_set_late_is_noticed") {
        let tally = die_and_register(true);
        println!("{tally:?}");
        assert!(!tally.failures.is_empty(), "{tally:?}");
    }
}

/// Daemons of flesh and blood: a process opens the plane and is killed while packets run.
#[test]
fn after_a_kill_every_answer_says_gone() {
    if !inside("after_a_kill_every_answer_says_gone") {
        return;
    }
    mount();
    let mut sender = plane();
    let mut daemon = plane();
    let mut sequence = 0;
    for life in 1..=KILLS {
        let mut child = Command::new(std::env::current_exe().expect("a program"))
            .args(["--exact", "a_daemon_to_be_killed", "--nocapture"])
            .env(LIFE, life.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert!(lines.any(|line| line.expect("a line").contains("open")), "the daemon is open");
        daemon.accept(1, peer(2)).expect("accepted");
        let (gone, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let (before, after) = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let (mut before, mut after) = (0, 0);
                let mut known = false;
                while !known || after < 2000 {
                    sequence += 1;
                    known = gone.load(SEQ);
                    let answer = run(&mut sender, &probe(2, own(life), sequence)).expect("still answered");
                    let said = answer.flags() & flags::GONE != 0;
                    answered.fetch_add(1, SEQ);
                    assert!(said || !known, "kill {life}: an answer without the flag after {after} with it");
                    assert!(said || after == 0, "kill {life}: alive again");
                    if said { after += 1 } else { before += 1 }
                }
                (before, after)
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
        println!("kill {life}: {before} answers before, {after} after");
        assert!(before >= 100, "the daemon was dead before it was killed");
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
