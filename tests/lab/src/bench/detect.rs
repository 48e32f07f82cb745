//! From a fault to the verdict in the kernel and to the event in the daemon, on the slowest survivor.

use std::time::Duration;

use anyhow::{Context, Result};
use ringbeat_control::EventRecord;
use serde::Serialize;

use super::{
    BenchArgs, Quantiles,
    machine::{Machine, MachineReport, drift},
    watch::{Watch, wait_for_peers},
};
use crate::{Cut, Direction, Lab, LabSpec, StartOptions};

/// A fault that is not told for so long is missed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long all may take to hear one another again.
const HEALING: Duration = Duration::from_secs(20);
const VICTIM: &str = "n2";
const SURVIVORS: [&str; 2] = ["n1", "n3"];

/// What happens to n2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scenario {
    /// Its daemon is killed
    Kill,
    /// It vanishes, the whole host
    Crash,
    /// All its heartbeat links are cut
    Cut,
    /// What it sends is lost; it still receives
    Oneway,
    /// Its daemon is stopped, and goes on after the telling
    Pause,
}

impl Scenario {
    /// The telling that counts.
    const fn told(self) -> &'static str {
        match self {
            Self::Kill => "peer_gone",
            Self::Crash | Self::Cut | Self::Oneway => "peer_down",
            Self::Pause => "peer_stalled",
        }
    }
}

/// The result.
#[derive(Debug, Serialize)]
pub(super) struct Detected {
    scenario: Scenario,
    profile: String,
    load: usize,
    runs: usize,
    missed: usize,
    /// From the fault to the kernel's stamp.
    verdict_ms: Quantiles,
    /// From the fault to the daemon's event.
    told_ms: Quantiles,
    machine: MachineReport,
    /// Runs that took more than twice the median, with the machine's stall at that time, if there was one.
    outliers: Vec<Outlier>,
}

#[derive(Debug, Serialize)]
struct Outlier {
    run: usize,
    told_ms: f64,
    /// By how much the deadline was wider, for a stall that the node's own timer saw.
    credit_ms: f64,
    stall_ms: Option<f64>,
}

/// A stall that ended so short before the fault may still widen deadlines.
const CREDIT_NS: u64 = 20_000_000;

/// Runs the scenario so often.
pub(super) fn run(args: &BenchArgs, scenario: Scenario, runs: usize) -> Result<Detected> {
    let spec = LabSpec { name: args.name.clone(), profile: args.profile.clone(), ..LabSpec::default() };
    let lab = Lab::up(spec)?;
    let result = measure(args, &lab, scenario, runs);
    lab.down()?;
    result
}

fn measure(args: &BenchArgs, lab: &Lab, scenario: Scenario, runs: usize) -> Result<Detected> {
    lab.start_all()?;
    let machine = Machine::start(!args.cold, args.load, args.hogs)?;
    let (mut verdicts, mut tellings, mut missed) = (Vec::new(), Vec::new(), 0);
    let mut times = Vec::new();
    for run in 0..runs {
        for survivor in SURVIVORS {
            wait_for_peers(&lab.node(survivor)?, "up", HEALING)?;
        }
        drift(run);
        let watches = SURVIVORS.map(|name| lab.node(name).and_then(|node| Watch::on(&node)));
        let watches = watches.into_iter().collect::<Result<Vec<_>>>()?;
        let fault_ns = strike(lab, scenario)?;
        let mut slowest: Option<(f64, f64)> = Some((0.0, 0.0));
        let mut credit_ms = 0.0_f64;
        for watch in &watches {
            let is_it = |event: &EventRecord| {
                event.kind == scenario.told()
                    && event.node.as_deref() == Some(VICTIM)
                    && event.stamp_ns >= fault_ns
            };
            let told = watch.next(PATIENCE, is_it)?;
            slowest = slowest.zip(told).map(|((verdict, telling), event)| {
                let ms = |at_ns: u64| (at_ns - fault_ns) as f64 / 1e6;
                credit_ms = credit_ms.max(event.evidence.credit_ns as f64 / 1e6);
                (verdict.max(ms(event.stamp_ns)), telling.max(ms(event.told_ns)))
            });
        }
        match slowest {
            None => missed += 1,
            Some((verdict, telling)) => {
                verdicts.push(verdict);
                tellings.push(telling);
                times.push((run, fault_ns, telling, credit_ms));
            }
        }
        mend(lab, scenario)?;
    }
    let told_ms = Quantiles::of(tellings);
    let stalls = machine.stalls();
    let outliers = times.iter().filter(|(_, _, telling, _)| *telling > 2.0 * told_ms.p50).map(
        |&(run, fault_ns, telling, credit_ms)| {
            // A stall that ended after the fault, or shortly before, and began before the telling.
            let end_ns = fault_ns + (telling * 1e6) as u64;
            let overlaps = stalls.iter().filter(|stall| {
                stall.until_ns + CREDIT_NS > fault_ns && stall.until_ns - (stall.ms * 1e6) as u64 <= end_ns
            });
            let stall_ms = overlaps.map(|stall| stall.ms).max_by(f64::total_cmp);
            Outlier { run, told_ms: telling, credit_ms, stall_ms }
        },
    );
    Ok(Detected {
        scenario,
        profile: args.profile.clone(),
        load: args.load,
        runs,
        missed,
        verdict_ms: Quantiles::of(verdicts),
        told_ms,
        machine: machine.report()?,
        outliers: outliers.collect(),
    })
}

fn strike(lab: &Lab, scenario: Scenario) -> Result<u64> {
    let victim = lab.node(VICTIM)?;
    match scenario {
        Scenario::Kill => victim.kill(),
        Scenario::Crash => lab.crash(VICTIM),
        Scenario::Cut => lab.cut(&Cut::node(VICTIM)),
        Scenario::Oneway => lab.cut(&Cut::node(VICTIM).direction(Direction::Out)),
        Scenario::Pause => victim.pause(),
    }
}

fn mend(lab: &Lab, scenario: Scenario) -> Result<()> {
    let victim = lab.node(VICTIM)?;
    match scenario {
        Scenario::Kill => {
            let dead = victim.daemon()?.is_none_or(|daemon| daemon.wait_dead(PATIENCE));
            anyhow::ensure!(dead, "the killed daemon still lives");
            victim.start(&StartOptions::default()).map(drop)
        }
        Scenario::Crash => {
            lab.boot(VICTIM).context("cannot boot the crashed node")?;
            lab.heal(Some(VICTIM))?;
            victim.start(&StartOptions::default()).map(drop)
        }
        Scenario::Cut | Scenario::Oneway => {
            // A new life of the victim is not damped; the old one's flaps would be, longer each time.
            lab.heal(None)?;
            victim.kill()?;
            mend(lab, Scenario::Kill)
        }
        Scenario::Pause => victim.resume().map(drop),
    }
}
