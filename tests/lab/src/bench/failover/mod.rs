//! The address under faults: from the fault to the first answer of another node, how long it was silent, and whether
//! two nodes ever answered.
//!
//! Each run is one fault and its mending, and what is judged is the whole of it: a node that comes back too early
//! would answer then.

mod scenario;
mod tenures;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use ringbeat_control::{Client, Stats, Status};
use serde::Serialize;

pub(crate) use self::scenario::{Expected, Scenario};
use self::{
    scenario::Strike,
    tenures::{Tenures, Verdict},
};
use super::{
    BenchArgs, Quantiles,
    machine::{Machine, MachineReport, drift},
    prober::{Prober, probed},
    watch::wait_for_peers,
};
use crate::{Lab, LabSpec, Node, SkewedClock, StartOptions, boottime_ns};

/// An address that nobody answers for so long is missed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long all may take to stand as before.
const HEALING: Duration = Duration::from_secs(20);
/// For so long is looked on after the address has moved, and after all is mended.
const LOOK_ON: Duration = Duration::from_millis(40);
/// A silence that is longer is told with its run.
const SILENCE_TOLD_MS: f64 = 3.0;
/// The offsets of skewed clocks, in ns: an hour.
const OFFSET_NS: i64 = 3_600_000_000_000;
/// Their rates, in parts in a million.
const RATES_PPM: [i32; 3] = [-100_000, 0, 100_000];

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Failover {
    scenario: Scenario,
    profile: String,
    load: usize,
    runs: usize,
    skewed: bool,
    /// Runs in which nobody else answered, where somebody had to.
    pub(crate) missed: usize,
    /// Runs in which another node answered, where none had to.
    pub(crate) moved: usize,
    /// From the fault to the first answer of another node.
    answered_ms: Quantiles,
    /// Tenures of gates of two nodes that overlap, by their own logs, and answers that no tenure of their node covers.
    pub(crate) double_answers: usize,
    /// The longest time between two answers in a run; where the address moves, until the fault is mended.
    longest_silence_ms: Quantiles,
    /// The longest time in a run in which no request was answered: the same without what the machine stood still.
    pub(crate) longest_unanswered_ms: Quantiles,
    /// From the last packet that passed the former holder's gate to the first that passed the next one's.
    gate_gap_ms: Quantiles,
    gate_dropped: u64,
    lease_lapses: u64,
    answers: usize,
    /// Requests to each node, in a second.
    asked_per_s: f64,
    machine: MachineReport,
    /// Runs that took more than twice the median, and silences above 3 ms of an address that stays; with the machine's
    /// stall at that time, if there was one.
    outliers: Vec<Outlier>,
    /// What was wrong, in words; empty if all is well.
    pub(crate) wrong: Vec<String>,
}

impl Failover {
    /// In ms, for how long nobody answered in each run in which that was longer, and the monitor names no stall.
    pub(crate) fn unexcused_above(&self, most_ms: f64) -> Vec<f64> {
        let unexcused = self.outliers.iter().filter(|outlier| outlier.stall_ms.is_none());
        unexcused.map(|outlier| outlier.unanswered_ms).filter(|ms| *ms > most_ms).collect()
    }
}

#[derive(Debug, Serialize)]
struct Outlier {
    run: usize,
    answered_ms: Option<f64>,
    silence_ms: f64,
    unanswered_ms: f64,
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
    fault_ns: u64,
    end_ns: u64,
    answered_ms: Option<f64>,
    silence_ms: f64,
    unanswered_ms: f64,
    gap_ms: Option<f64>,
    dropped: u64,
    lapses: u64,
    answers: usize,
    verdict: Verdict,
}

impl Bench<'_> {
    fn measure(&self, machine: &Machine, load: usize, runs: usize) -> Result<Failover> {
        for node in self.lab.nodes() {
            self.strike(&node)?.start()?;
        }
        let prober = Prober::start(self.lab, self.address)?;
        let tenures = Tenures::watch(self.skewed);
        let mut all = Vec::new();
        for run in 0..runs {
            let holder = self.settle()?;
            tenures.refresh(self.lab)?;
            drift(run);
            prober.forget();
            tenures.forget();
            thread::sleep(LOOK_ON);
            all.push(self.one(&prober, &tenures, &holder)?);
        }
        Ok(Failover { asked_per_s: prober.asked_per_s(), ..self.result(&all, machine, load)? })
    }

    /// One fault, looked at from the client and by the gates' own logs, and mended.
    fn one(&self, prober: &Prober, tenures: &Tenures, holder: &str) -> Result<Seen> {
        let victim = self.scenario.victim(self.lab, holder)?;
        let (node, held_by) = (self.lab.node(&victim)?, self.lab.node(holder)?.id()?);
        let (dropped, lapses) = (self.dropped()?, self.lapses());
        let strike = self.strike(&node)?;
        let fault_ns = strike.strike(self.scenario)?;
        // A node that is back already has a log of its own.
        tenures.refresh(self.lab)?;
        let expected = self.scenario.expected();
        let end = Instant::now() + PATIENCE;
        let mut first = prober.first_of_others(held_by, fault_ns);
        while first.is_none() && expected == Expected::Moves && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
            first = prober.first_of_others(held_by, fault_ns);
        }
        thread::sleep(LOOK_ON);
        let silence = || (silence_ms(prober), prober.longest_unanswered_ns() as f64 / 1e6);
        let moved = (silence(), tenures.last_pass_ns(held_by));
        let next_ns = first.and_then(|first| tenures.first_pass_ns(first.node));
        strike.mend(self.scenario, fault_ns)?;
        self.settle()?;
        tenures.refresh(self.lab)?;
        thread::sleep(LOOK_ON);
        let ((silence_ms, unanswered_ms), last_ns) =
            if expected == Expected::Stays { (silence(), None) } else { moved };
        let gap_ns = next_ns.zip(last_ns).map(|(next, last)| next as f64 - last as f64);
        let first = first.or_else(|| prober.first_of_others(held_by, fault_ns));
        let answers = prober.answers();
        Ok(Seen {
            fault_ns,
            end_ns: boottime_ns(),
            answered_ms: first.map(|first| (first.received_ns - fault_ns) as f64 / 1e6),
            silence_ms,
            unanswered_ms,
            gap_ms: gap_ns.map(|ns| ns / 1e6),
            dropped: grown(&dropped, &self.dropped()?),
            lapses: grown(&lapses, &self.lapses()),
            answers: answers.len(),
            verdict: tenures.judge(&answers),
        })
    }

    fn result(&self, all: &[Seen], machine: &Machine, load: usize) -> Result<Failover> {
        let expected = self.scenario.expected();
        let of = |value: fn(&Seen) -> Option<f64>| Quantiles::of(all.iter().filter_map(value).collect());
        let answered_ms = of(|seen| seen.answered_ms);
        let stalls = machine.stalls();
        let odd = |seen: &&(usize, &Seen)| match expected {
            Expected::Stays => seen.1.silence_ms > SILENCE_TOLD_MS,
            _ => seen.1.answered_ms.is_some_and(|ms| ms > 2.0 * answered_ms.p50),
        };
        let numbered: Vec<(usize, &Seen)> = all.iter().enumerate().collect();
        let outliers = numbered.iter().filter(odd).map(|&(run, seen)| {
            let until_ns = seen.answered_ms.map_or(seen.end_ns, |ms| seen.fault_ns + (ms * 1e6) as u64);
            let overlaps = stalls.iter().filter(|stall| {
                stall.until_ns > seen.fault_ns && stall.until_ns - (stall.ms * 1e6) as u64 <= until_ns
            });
            Outlier {
                run,
                answered_ms: seen.answered_ms,
                silence_ms: seen.silence_ms,
                unanswered_ms: seen.unanswered_ms,
                stall_ms: overlaps.map(|stall| stall.ms).max_by(f64::total_cmp),
            }
        });
        let wrong = numbered.iter().filter(|(_, seen)| seen.verdict != Verdict::default());
        let moved = all.iter().filter(|seen| seen.answered_ms.is_some()).count();
        Ok(Failover {
            scenario: self.scenario,
            profile: self.lab.spec().profile.clone(),
            load,
            runs: all.len(),
            skewed: self.skewed,
            missed: if expected == Expected::Moves { all.len() - moved } else { 0 },
            moved: if expected == Expected::Stays { moved } else { 0 },
            answered_ms,
            double_answers: all.iter().map(|seen| seen.verdict.double()).sum(),
            longest_silence_ms: of(|seen| Some(seen.silence_ms)),
            longest_unanswered_ms: of(|seen| Some(seen.unanswered_ms)),
            gate_gap_ms: of(|seen| seen.gap_ms),
            gate_dropped: all.iter().map(|seen| seen.dropped).sum(),
            lease_lapses: all.iter().map(|seen| seen.lapses).sum(),
            answers: all.iter().map(|seen| seen.answers).sum(),
            asked_per_s: 0.0,
            machine: machine.report()?,
            outliers: outliers.collect(),
            wrong: wrong.map(|(run, seen)| format!("run {run}: {:?}", seen.verdict)).collect(),
        })
    }

    fn strike<'a>(&'a self, node: &'a Node<'a>) -> Result<Strike<'a>> {
        let clock = if self.skewed { Some(clock_of(node.id()?)) } else { None };
        let options = StartOptions { clock, ..StartOptions::default() };
        Ok(Strike { lab: self.lab, node, options })
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
    fn lapses(&self) -> BTreeMap<String, u64> {
        let each = self.lab.nodes().filter_map(|node| {
            let status = status(&node).ok()?;
            Some((status.incarnation, status.lease.lapses))
        });
        each.collect()
    }

    /// Packets that its gates have dropped, of each node that answers.
    fn dropped(&self) -> Result<BTreeMap<String, u64>> {
        let each = self.lab.nodes().filter_map(|node| {
            let dropped = stats(&node).ok()?.gates.iter().map(|gate| gate.dropped).sum::<u64>();
            Some((node.name().to_owned(), dropped))
        });
        Ok(each.collect())
    }
}

/// By how much the counts of those that are in both have grown.
fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> u64 {
    after.iter().filter_map(|(name, count)| Some(count.saturating_sub(*before.get(name)?))).sum()
}

/// The longest time between two answers.
fn silence_ms(prober: &Prober) -> f64 {
    let answers = prober.answers();
    let received = answers.iter().map(|answer| answer.received_ns);
    let longest_ns = received.clone().zip(received.skip(1)).map(|(one, next)| next - one).max();
    longest_ns.unwrap_or(0) as f64 / 1e6
}

/// The clock of a node in a skewed lab.
fn clock_of(node: u8) -> SkewedClock {
    let at = usize::from(node - 1) % RATES_PPM.len();
    SkewedClock { offset_ns: OFFSET_NS * i64::from(node), rate_ppm: RATES_PPM[at] }
}

fn status(node: &Node<'_>) -> Result<Status> {
    Ok(Client::connect(&node.socket()?)?.status()?)
}

fn stats(node: &Node<'_>) -> Result<Stats> {
    Ok(Client::connect(&node.socket()?)?.stats()?)
}
