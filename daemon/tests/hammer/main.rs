//! Kernel and daemon at the same words at the same time: what `docs/atomicity.md` claims, hammered from two sides.
//!
//! One thread runs packets through the real programs, as fast as it goes. Another accepts, closes, opens, revokes and
//! kills under it. Both use planes of their own over the same pinned maps, in a network and mount namespace of the
//! test's. Whatever was done before a packet's run began must be seen by that run, and whatever is read must be whole.
//!
//! Each property has a mutation that breaks it; the test of the mutation fails if the hammer is too soft to notice.
//!
//! Needs root, `unshare` and `mount`. Without them it says so, and fails where CI demands the run.

#[path = "../common/mod.rs"]
mod common;
mod door;
mod frames;
mod grants;
mod latch;
mod lives;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use ringbeat_config::Datapath;
use ringbeatd::plane::load::chain;
use ringbeatd::plane::pins::Pins;
use ringbeatd::plane::{Identity, KernelPlane, PlaneLink};

const KEY: [u64; 2] = [0x1122, 0x3344];
const BPFFS: &str = "/sys/fs/bpf";
/// Says that a process is the one in the namespaces.
const INSIDE: &str = "RINGBEAT_HAMMER_INSIDE";
/// Packets of one test, at the least.
const ROUNDS: u64 = 200_000;
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
    if ringbeat_ebpf_object::KERNEL.is_none() {
        common::skipped("no kernel programs in this build");
        return false;
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
        common::skipped(said);
    } else {
        assert!(ran.status.success(), "{test}, in its namespaces: {said}");
        // A name that fits no test runs none, and that is a success too.
        assert!(said.contains("1 passed"), "{test} is no test: {said}");
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
    /// Frames with a grant, of those that left.
    grants: u64,
    /// Grants that were held against the announcement after them.
    covered: u64,
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
        self.grants += other.grants;
        self.covered += other.covered;
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
