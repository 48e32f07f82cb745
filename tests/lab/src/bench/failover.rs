//! The address moves: from the fault to the first answer of another node, and whether two ever answered.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Map, MapData};
use ringbeat_common::maps::GateLog;
use ringbeat_control::{Client, Stats, Status};
use ringbeatd::sys::mapped::Mapped;
use serde::Serialize;

use super::{
    BenchArgs, Quantiles,
    machine::{Machine, MachineReport, drift},
    prober::{Prober, probed},
    watch::wait_for_peers,
};
use crate::{Cut, Direction, Lab, LabSpec, Node, SkewedClock, StartOptions, boottime_ns};

/// An address that nobody answers for so long is missed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long all may take to stand as before.
const HEALING: Duration = Duration::from_secs(20);
/// For so long is looked on after the first answer, for a second one.
const LOOK_ON: Duration = Duration::from_millis(40);
/// The offsets of skewed clocks, in ns: an hour.
const OFFSET_NS: i64 = 3_600_000_000_000;
/// Their rates, in parts in a million.
const RATES_PPM: [i32; 3] = [-100_000, 0, 100_000];

/// What happens to the holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scenario {
    /// Its daemon is killed
    Kill,
    /// It vanishes, the whole host
    Crash,
    /// All its heartbeat links are cut
    Cut,
    /// What it sends is lost; it still receives
    Oneway,
    /// What is sent to it is lost; it still sends
    Deaf,
    /// Its daemon is stopped for good, and goes on after the address has moved
    Freeze,
    /// Its service interface goes down
    Nic,
    /// A node that holds nothing crashes and comes back: only the silence counts
    Other,
}

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Failover {
    scenario: Scenario,
    profile: String,
    load: usize,
    runs: usize,
    skewed: bool,
    /// Runs in which nobody else answered.
    pub(crate) missed: usize,
    /// From the fault to the first answer of another node.
    answered_ms: Quantiles,
    /// Answers of a former holder to requests that were sent when another node had answered, and tenures of gates that
    /// overlap by their own logs.
    pub(crate) double_answers: usize,
    /// The longest time without any answer, around each fault.
    longest_silence_ms: Quantiles,
    /// From the last packet that passed the former holder's gate to the first that passed the next one's.
    gate_gap_ms: Quantiles,
    gate_dropped: u64,
    lease_lapses: u64,
    answers: usize,
    machine: MachineReport,
    /// Runs that took more than twice the median, with the machine's stall at that time, if there was one.
    outliers: Vec<Outlier>,
}

#[derive(Debug, Serialize)]
struct Outlier {
    run: usize,
    answered_ms: f64,
    stall_ms: Option<f64>,
}

/// Runs the scenario so often.
pub(super) fn run(args: &BenchArgs, scenario: Scenario, runs: usize, skewed: bool) -> Result<Failover> {
    let spec = LabSpec { name: args.name.clone(), profile: args.profile.clone(), ..LabSpec::default() };
    let lab = Lab::up(spec)?;
    let machine = Machine::start(!args.cold, args.load, args.hogs)?;
    let result =
        Bench { lab: &lab, scenario, skewed, address: probed(&lab)? }.measure(&machine, args.load, runs);
    lab.down()?;
    result
}

/// The same in a lab of the caller's, on a machine as it is.
pub(crate) fn run_in(spec: LabSpec, scenario: Scenario, runs: usize, skewed: bool) -> Result<Failover> {
    let lab = Lab::up(spec)?;
    let machine = Machine::start(false, 0, 0)?;
    let result = Bench { lab: &lab, scenario, skewed, address: probed(&lab)? }.measure(&machine, 0, runs);
    lab.down()?;
    result
}

struct Bench<'a> {
    lab: &'a Lab,
    scenario: Scenario,
    skewed: bool,
    address: Ipv4Addr,
}

/// What one run gave.
struct Seen {
    answered_ms: Option<f64>,
    silence_ms: f64,
    gap_ms: Option<f64>,
    double: usize,
    dropped: u64,
}

impl Bench<'_> {
    fn measure(&self, machine: &Machine, load: usize, runs: usize) -> Result<Failover> {
        for node in self.lab.nodes() {
            self.start(&node)?;
        }
        let prober = Prober::start(self.lab, self.address)?;
        let (mut answered, mut silences, mut gaps, mut times) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut missed, mut double_answers, mut gate_dropped, mut lease_lapses, mut answers) =
            (0, 0, 0, 0, 0);
        for run in 0..runs {
            let holder = self.settle()?;
            drift(run);
            prober.forget();
            thread::sleep(LOOK_ON);
            let before = self.lapses();
            let fault_ns = boottime_ns();
            let seen = self.one(&prober, &holder)?;
            lease_lapses += self.lapsed_since(&before);
            match seen.answered_ms {
                Some(ms) => {
                    answered.push(ms);
                    times.push((run, fault_ns, ms));
                }
                None if self.scenario == Scenario::Other => {}
                None => missed += 1,
            }
            silences.push(seen.silence_ms);
            gaps.extend(seen.gap_ms);
            double_answers += seen.double;
            gate_dropped += seen.dropped;
            answers += prober.answers().len();
        }
        let answered_ms = Quantiles::of(answered);
        let stalls = machine.stalls();
        let outliers =
            times.iter().filter(|(_, _, ms)| *ms > 2.0 * answered_ms.p50).map(|&(run, fault_ns, ms)| {
                let end_ns = fault_ns + (ms * 1e6) as u64;
                let overlaps = stalls.iter().filter(|stall| {
                    stall.until_ns > fault_ns && stall.until_ns - (stall.ms * 1e6) as u64 <= end_ns
                });
                Outlier {
                    run,
                    answered_ms: ms,
                    stall_ms: overlaps.map(|stall| stall.ms).max_by(f64::total_cmp),
                }
            });
        Ok(Failover {
            scenario: self.scenario,
            profile: self.lab.spec().profile.clone(),
            load,
            runs,
            skewed: self.skewed,
            missed,
            answered_ms,
            double_answers,
            longest_silence_ms: Quantiles::of(silences),
            gate_gap_ms: Quantiles::of(gaps),
            gate_dropped,
            lease_lapses,
            answers,
            machine: machine.report()?,
            outliers: outliers.collect(),
        })
    }

    /// One fault, looked at from the client and by the gates' own logs, and mended.
    fn one(&self, prober: &Prober, holder: &str) -> Result<Seen> {
        let victim = match self.scenario {
            Scenario::Other => {
                self.lab.nodes().map(|node| node.name().to_owned()).filter(|name| name != holder).last()
            }
            _ => Some(holder.to_owned()),
        };
        let victim = victim.context("no node to strike")?;
        let node = self.lab.node(&victim)?;
        let before = self.dropped_but(&victim)?;
        // Taken while the node lives: the log stands in the kernel, also when its programs have no daemon.
        let log = gate_log(&node)?;
        let dropped_there = log.copy(0).dropped;
        let fault_ns = match self.scenario {
            Scenario::Kill => node.kill()?,
            Scenario::Crash | Scenario::Other => self.lab.crash(&victim)?,
            Scenario::Cut => self.lab.cut(&Cut::node(&victim))?,
            Scenario::Oneway => self.lab.cut(&Cut::node(&victim).direction(Direction::Out))?,
            Scenario::Deaf => self.lab.cut(&Cut::node(&victim).direction(Direction::In))?,
            Scenario::Freeze => node.pause()?,
            Scenario::Nic => {
                let now_ns = boottime_ns();
                service_interface(&node, "down")?;
                now_ns
            }
        };
        let id = node.id()?;
        let first = if self.scenario == Scenario::Other {
            self.mend(&node)?;
            self.settle()?;
            None
        } else {
            let end = Instant::now() + PATIENCE;
            loop {
                if let Some(answer) = prober.first_of_others(id, fault_ns) {
                    break Some(answer);
                }
                if Instant::now() > end {
                    break None;
                }
                thread::sleep(Duration::from_millis(1));
            }
        };
        thread::sleep(LOOK_ON);
        let answers = prober.answers();
        let around = answers.iter().map(|answer| answer.received_ns);
        let silence_ns = around.clone().zip(around.skip(1)).map(|(one, next)| next - one).max().unwrap_or(0);
        let double = first.map_or(0, |first| {
            answers
                .iter()
                .filter(|answer| answer.node != first.node && answer.sent_ns > first.received_ns)
                .count()
        });
        let (mut gap_ms, mut overlaps) = (None, 0);
        if let Some(first) = first {
            let next = gate_log(&self.lab.node(&format!("n{}", first.node))?)?.copy(0);
            let opened_ns = self.true_ns(first.node, next.first_pass_ns);
            let closed_ns = self.true_ns(id, log.copy(0).last_pass_ns);
            gap_ms = Some((opened_ns as f64 - closed_ns as f64) / 1e6);
            overlaps = usize::from(closed_ns >= opened_ns);
        }
        let seen = Seen {
            answered_ms: first.map(|first| (first.received_ns - fault_ns) as f64 / 1e6),
            silence_ms: silence_ns as f64 / 1e6,
            gap_ms,
            double: double + overlaps,
            dropped: self.dropped_but(&victim)?.saturating_sub(before) + log.copy(0).dropped - dropped_there,
        };
        if self.scenario != Scenario::Other {
            self.mend(&node)?;
        }
        Ok(seen)
    }

    fn mend(&self, node: &Node<'_>) -> Result<()> {
        match self.scenario {
            Scenario::Kill => {}
            Scenario::Crash | Scenario::Other => {
                self.lab.boot(node.name()).context("cannot boot the crashed node")?;
                self.lab.heal(Some(node.name()))?;
            }
            Scenario::Freeze => return node.resume().map(drop),
            Scenario::Nic => return service_interface(node, "up"),
            Scenario::Cut | Scenario::Oneway | Scenario::Deaf => {
                // A new life of the victim is not damped; the old one's flaps would be, longer each time.
                self.lab.heal(None)?;
                node.kill()?;
            }
        }
        let dead = node.daemon()?.is_none_or(|daemon| daemon.wait_dead(PATIENCE));
        ensure!(dead, "the daemon of {} still lives", node.name());
        self.start(node)
    }

    fn start(&self, node: &Node<'_>) -> Result<()> {
        let clock = if self.skewed { Some(clock_of(node.id()?)) } else { None };
        node.start(&StartOptions { clock, ..StartOptions::default() })?;
        node.wait_ready(HEALING)
    }

    /// Waits until all are in one view, and one holds the address with an open gate; gives its name.
    fn settle(&self) -> Result<String> {
        let end = Instant::now() + HEALING;
        for node in self.lab.nodes() {
            wait_for_peers(&node, "up", HEALING)?;
        }
        loop {
            if self.scenario == Scenario::Nic {
                // The address of the node's own went with the interface; the service address came to another.
                thread::sleep(LOOK_ON);
            }
            let all: Vec<Status> = self.lab.nodes().map(|node| status(&node)).collect::<Result<_>>()?;
            let first = all.first().and_then(|status| status.view.clone());
            let whole = all.iter().all(|status| {
                let members = status.view.as_ref().map_or(0, |view| view.members.len());
                status.view == first
                    && members == all.len()
                    && status.lease.valid
                    && status.announced.is_none()
            });
            let open =
                all.iter().find(|status| status.addresses.iter().any(|address| address.here == "open"));
            match open {
                Some(holder) if whole => return Ok(holder.node_name.clone()),
                _ if Instant::now() > end => bail!("no whole view with a holder after {HEALING:?}: {all:?}"),
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Lapses of each node that answers, in the life that it has.
    fn lapses(&self) -> BTreeMap<(String, String), u64> {
        let each = self.lab.nodes().filter_map(|node| {
            let status = status(&node).ok()?;
            Some(((status.node_name, status.incarnation), status.lease.lapses))
        });
        each.collect()
    }

    /// Lapses since then, of those that live on.
    fn lapsed_since(&self, before: &BTreeMap<(String, String), u64>) -> u64 {
        let now = self.lapses();
        now.iter().filter_map(|(life, count)| Some(count.saturating_sub(*before.get(life)?))).sum()
    }

    /// Packets that gates have dropped, on all nodes but this one.
    fn dropped_but(&self, victim: &str) -> Result<u64> {
        let mut sum = 0;
        for node in self.lab.nodes().filter(|node| node.name() != victim) {
            sum += stats(&node)?.gates.iter().map(|gate| gate.dropped).sum::<u64>();
        }
        Ok(sum)
    }

    fn true_ns(&self, node: u8, ns: u64) -> u64 {
        if self.skewed { clock_of(node).true_ns(ns) } else { ns }
    }
}

/// Sets the node's service interface up or down.
fn service_interface(node: &Node<'_>, state: &str) -> Result<()> {
    let output = node.output("ip", &["link", "set", "svc0", state])?;
    ensure!(output.status.success(), "svc0 of {}: {output:?}", node.name());
    Ok(())
}

/// The clock of a node in a skewed lab.
fn clock_of(node: u8) -> SkewedClock {
    let at = usize::from(node - 1) % RATES_PPM.len();
    SkewedClock { offset_ns: OFFSET_NS * i64::from(node), rate_ppm: RATES_PPM[at] }
}

/// The log of the node's first gate, as it stands in the kernel.
fn gate_log(node: &Node<'_>) -> Result<Mapped<GateLog>> {
    let path =
        node.root()?.join(format!("sys/fs/bpf/ringbeat-lab/abi{}/GATE_LOGS", ringbeat_common::maps::ABI));
    let pinned = MapData::from_pin(&path).with_context(|| format!("no log of {}", node.name()))?;
    let Map::Array(map) = Map::from_map_data(pinned)? else {
        bail!("the log of {} is no array", node.name())
    };
    Ok(Mapped::new(std::os::fd::AsFd::as_fd(map.fd()), 1)?)
}

fn status(node: &Node<'_>) -> Result<Status> {
    Ok(Client::connect(&node.socket()?)?.status()?)
}

fn stats(node: &Node<'_>) -> Result<Stats> {
    Ok(Client::connect(&node.socket()?)?.stats()?)
}
