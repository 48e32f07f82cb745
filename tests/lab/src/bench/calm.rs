//! No fault: what is told all the same, the worst round trip, and what shorter deadlines would have told.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use ringbeat_control::{Client, EventRecord};
use serde::Serialize;

use super::{
    Bench, BenchArgs, Format,
    machine::{Machine, MachineReport, Stall, What},
    watch::{Watch, wait_for_peers},
};
use crate::{Lab, LabSpec, boottime_ns, sys::sched::cores};

const PATIENCE: Duration = Duration::from_secs(20);
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(30);

/// The result.
#[derive(Debug, Serialize)]
pub(super) struct Calm {
    profile: String,
    load: usize,
    hogs: usize,
    seconds: u64,
    nodes: usize,
    links: usize,
    /// Peers told as down.
    peers_down: usize,
    /// Links told as down.
    links_down: usize,
    /// Links told as late that were heard again before they were down.
    links_late: usize,
    /// How often a node's lease has run out and come back.
    lease_lapses: u64,
    /// For how long at the most.
    lease_lapse_max_ms: f64,
    /// Of those, all in whose time the monitor names no stall of half a lease at least.
    lapses_unnamed: u64,
    /// Each of them.
    lapses: Vec<Lapse>,
    /// All that was told, by kind.
    told: BTreeMap<String, usize>,
    /// Each peer and link that was told as down, and each lease that was told as lost, with the machine's stall at that
    /// time, if there was one.
    alarms: Vec<Alarm>,
    /// Round trips of all peers on all links, since the daemons' start.
    rtt_us: Trips,
    /// Silences longer than this many ms, of all cells of all nodes: false alarms of such a deadline.
    silences_over_ms: BTreeMap<u64, u64>,
    /// Stalls that the nodes' own ticks showed.
    tick_stalls: u64,
    machine: MachineReport,
}

#[derive(Debug, Default, Serialize)]
struct Trips {
    /// The largest of the medians.
    p50: f64,
    /// The largest of the 99th percentiles.
    p99: f64,
    /// The worst.
    max: f64,
}

#[derive(Debug, Serialize)]
struct Alarm {
    by: String,
    kind: String,
    about: Option<String>,
    silence_ms: f64,
    stall_ms: Option<f64>,
    stall_of: Option<What>,
}

/// Leases of one node that ran out and came back between two looks at its counter.
#[derive(Debug, Serialize)]
struct Lapse {
    node: String,
    /// How many; seldom more than one.
    count: u64,
    /// When the last was over, by the boot-time clock.
    ended_ns: u64,
    /// The longest stall of the machine that can have to do with it.
    stall_ms: Option<f64>,
    /// What stood still then.
    stall_of: Option<What>,
}

/// The longest of the stalls that overlap this time.
fn longest_in(stalls: &[Stall], since_ns: u64, until_ns: u64) -> Option<&Stall> {
    let overlapping =
        stalls.iter().filter(|stall| stall.until_ns >= since_ns && stall.since_ns() <= until_ns);
    overlapping.max_by(|one, other| one.ms.total_cmp(&other.ms))
}

/// Watches for so long.
pub(super) fn run(args: &BenchArgs, seconds: u64) -> Result<Calm> {
    let spec = LabSpec { name: args.name.clone(), profile: args.profile.clone(), ..LabSpec::default() };
    let lab = Lab::up(spec)?;
    let result = lab.start_all().and_then(|()| measure(args, &lab, seconds));
    lab.down()?;
    result
}

/// The lapses of a lab that runs, in so many seconds with a SCHED_FIFO loop on each core; and those of them without a
/// named stall of the machine.
pub(crate) fn lapses_beside_hogs(lab: &Lab, seconds: u64) -> Result<(u64, u64)> {
    let LabSpec { profile, name, .. } = lab.spec().clone();
    let bench = Bench::Calm { seconds };
    let args = BenchArgs { bench, output: Format::Json, cold: true, load: 0, hogs: cores(), profile, name };
    measure(&args, lab, seconds).map(|calm| (calm.lease_lapses, calm.lapses_unnamed))
}

/// What the counters of all nodes stand at.
#[derive(Debug, Default, Clone)]
struct Counts {
    /// Each node's lapses, and the longest in µs.
    lapses: BTreeMap<String, (u64, u64)>,
    silences_over_ms: BTreeMap<u64, u64>,
    tick_stalls: u64,
}

impl Counts {
    fn read(lab: &Lab) -> Result<Self> {
        let mut counts = Self::default();
        for node in lab.nodes() {
            let mut client = Client::connect(&node.socket()?)?;
            let lease = client.status()?.lease;
            counts.lapses.insert(node.name().to_owned(), (lease.lapses, lease.lapse_max_us));
            let stats = client.stats()?;
            counts.tick_stalls += stats.tick_stalls;
            for (name, count) in &stats.extra {
                let ms = name.strip_prefix("silences_over_").and_then(|rest| rest.strip_suffix("_ms"));
                if let Some(ms) = ms.and_then(|ms| ms.parse().ok()) {
                    *counts.silences_over_ms.entry(ms).or_insert(0) += count;
                }
            }
        }
        Ok(counts)
    }

    /// What has been counted since then; of the longest lapse, those that were longer than any before.
    fn since(&self, before: &Self) -> Self {
        let lapses = self.lapses.iter().map(|(node, (count, longest_us))| {
            let (old, old_us) = before.lapses.get(node).copied().unwrap_or_default();
            let longest_us = if *count > old && *longest_us > old_us { *longest_us } else { 0 };
            (node.clone(), (count - old, longest_us))
        });
        let silences = self.silences_over_ms.iter();
        let silences = silences
            .map(|(ms, count)| (*ms, count - before.silences_over_ms.get(ms).copied().unwrap_or_default()));
        Self {
            lapses: lapses.collect(),
            silences_over_ms: silences.collect(),
            tick_stalls: self.tick_stalls - before.tick_stalls,
        }
    }
}

/// The lapses of all nodes, found by looking at their counters now and then.
struct Lapses {
    /// Each node's counter and the length of its lease, in ns.
    counters: BTreeMap<String, (u64, u64)>,
    looked_ns: u64,
    /// Each with the time from which on stalls can have to do with it.
    found: Vec<(u64, Lapse)>,
}

impl Lapses {
    fn of(lab: &Lab) -> Result<Self> {
        let mut lapses = Self { counters: BTreeMap::new(), looked_ns: 0, found: Vec::new() };
        lapses.look(lab)?;
        lapses.found.clear();
        Ok(lapses)
    }

    fn look(&mut self, lab: &Lab) -> Result<()> {
        let began_ns = boottime_ns();
        for node in lab.nodes() {
            let lease = Client::connect(&node.socket()?)?.status()?.lease;
            // Not by its age: beside hogs the answer can wait here for most of a second.
            let ended_ns = lease.lapse_ended_ns.unwrap_or_default();
            let length_ns = u64::from(lease.length_us) * 1000;
            let before = self.counters.insert(node.name().to_owned(), (lease.lapses, length_ns));
            let count = lease.lapses - before.map_or(0, |(count, _)| count);
            if count > 0 {
                // Of several only the last one's time is known: the first can have been right after the look before.
                let first_ns = if count == 1 { ended_ns } else { self.looked_ns.min(ended_ns) };
                let lapse =
                    Lapse { node: node.name().to_owned(), count, ended_ns, stall_ms: None, stall_of: None };
                self.found.push((first_ns.saturating_sub(2 * length_ns), lapse));
            }
        }
        self.looked_ns = began_ns;
        Ok(())
    }

    fn blamed(self, stalls: &[Stall]) -> Vec<Lapse> {
        let length_ns = |node: &str| self.counters.get(node).map_or(0, |(_, length_ns)| *length_ns);
        let found = self.found.into_iter();
        found
            .map(|(since_ns, mut lapse)| {
                // A shorter one is no reason for it.
                let length_ms = length_ns(&lapse.node) as f64 / 1e6;
                let stall =
                    longest_in(stalls, since_ns, lapse.ended_ns).filter(|stall| stall.ms >= length_ms / 2.0);
                (lapse.stall_ms, lapse.stall_of) = (stall.map(|stall| stall.ms), stall.map(|stall| stall.of));
                lapse
            })
            .collect()
    }
}

fn measure(args: &BenchArgs, lab: &Lab, seconds: u64) -> Result<Calm> {
    for node in lab.nodes() {
        wait_for_peers(&node, "up", PATIENCE)?;
    }
    let watches = lab.nodes().map(|node| Ok((node.name().to_owned(), Watch::on(&node)?)));
    let watches = watches.collect::<Result<Vec<_>>>()?;
    let mut machine = Machine::start(!args.cold, args.load, args.hogs)?;
    machine.watch_softirqs()?;
    let mut lapses = Lapses::of(lab)?;
    let before = Counts::read(lab)?;
    let since_ns = boottime_ns();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut heard: Vec<(String, EventRecord)> = Vec::new();
    let mut shown = Instant::now();
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(200));
        lapses.look(lab)?;
        machine.look();
        for (name, watch) in &watches {
            let fresh = watch.drain()?.into_iter().filter(|event| event.told_ns >= since_ns);
            heard.extend(fresh.map(|event| (name.clone(), event)));
        }
        if shown.elapsed() > PROGRESS {
            shown = Instant::now();
            eprintln!("{} s to go, {} told", end.saturating_duration_since(shown).as_secs(), heard.len());
        }
    }
    lapses.look(lab)?;
    let counts = Counts::read(lab)?.since(&before);
    let machine_report = machine.report()?;
    let stalls = machine.stalls();
    drop(machine);
    let mut told = BTreeMap::new();
    for (_, event) in &heard {
        *told.entry(event.kind.clone()).or_insert(0) += 1;
    }
    let count = |kind: &str| told.get(kind).copied().unwrap_or(0);
    let length_ns = lapses.counters.values().map(|(_, length_ns)| *length_ns).max().unwrap_or(0);
    let lapses = lapses.blamed(&stalls);
    // Of several between two looks one stall is the reason for one.
    let named = lapses.iter().filter(|lapse| lapse.stall_ms.is_some()).count() as u64;
    let lapsed = counts.lapses.values().map(|(count, _)| count).sum();
    let alarms = heard
        .iter()
        .filter(|(_, event)| matches!(event.kind.as_str(), "peer_down" | "link_down" | "lease_lost"));
    let alarms = alarms.map(|(by, event)| {
        // A lease has no evidence but its end: its last grants were asked for within its length before that.
        let since_ns = match event.kind.as_str() {
            "lease_lost" => event.stamp_ns.saturating_sub(2 * length_ns),
            _ => event.evidence.heard_ns,
        };
        let stall = longest_in(&stalls, since_ns, event.stamp_ns);
        Alarm {
            by: by.clone(),
            kind: event.kind.clone(),
            about: event.node.clone(),
            silence_ms: event.stamp_ns.saturating_sub(since_ns) as f64 / 1e6,
            stall_ms: stall.map(|stall| stall.ms),
            stall_of: stall.map(|stall| stall.of),
        }
    });
    let alarms = alarms.collect();
    let mut result = Calm {
        profile: args.profile.clone(),
        load: args.load,
        hogs: args.hogs,
        seconds,
        nodes: lab.spec().nodes.into(),
        links: lab.spec().links.into(),
        peers_down: count("peer_down"),
        links_down: count("link_down"),
        links_late: count("link_late"),
        lease_lapses: lapsed,
        lease_lapse_max_ms: counts.lapses.values().map(|(_, us)| *us).max().unwrap_or(0) as f64 / 1000.0,
        lapses_unnamed: lapsed - named.min(lapsed),
        lapses,
        told: told.clone(),
        alarms,
        rtt_us: Trips::default(),
        silences_over_ms: counts.silences_over_ms,
        tick_stalls: counts.tick_stalls,
        machine: machine_report,
    };
    for node in lab.nodes() {
        let mut client = Client::connect(&node.socket()?)?;
        for edge in client.link()?.into_iter().flat_map(|link| link.peers) {
            let trips = edge.round_trip_us;
            result.rtt_us.p50 = result.rtt_us.p50.max(trips.p50);
            result.rtt_us.p99 = result.rtt_us.p99.max(trips.p99);
            result.rtt_us.max = result.rtt_us.max.max(trips.max);
        }
    }
    Ok(result)
}
