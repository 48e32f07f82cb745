//! The ordered ring, measured by programs of process groups on its nodes.
//!
//! Throughput is what the slowest member is told. Round trips are a program's: socket, daemon, ring, daemon, socket, and the
//! same back. A gap is the longest time without a message at a receiver while one leaves each millisecond.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ringbeat_client::{Client, Event};
use ringbeat_control::EventRecord;
use serde::{Deserialize, Serialize};

use super::{
    BenchArgs, Quantiles,
    machine::{Machine, MachineReport, drift},
    watch::{Watch, wait_for_peers},
};
use crate::{Cut, Lab, LabSpec, StartOptions};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const VICTIM: &str = "n2";
const SIZES: [usize; 5] = [64, 1024, 4096, 16_384, 65_536];
/// Sizes that three send.
const MANY_SIZES: [usize; 2] = [1024, 16_384];
/// Of a message whose round trips are measured.
const ROUND_BYTES: usize = 1024;
/// What does not come for so long does not come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long all may take to hear one another again.
const HEALING: Duration = Duration::from_secs(20);
/// Between two messages of the stream that a cut interrupts.
const STREAM: Duration = Duration::from_millis(1);

/// The result.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    profile: String,
    cipher: &'static str,
    one_sender: BTreeMap<usize, Rate>,
    three_senders: BTreeMap<usize, Rate>,
    echo_rtt_us: Rounds,
    echo_rtt_after_idle_us: Rounds,
    own_delivery_us: Rounds,
    /// By how much the same is faster without a cipher, the mean of one sender's sizes.
    encryption_cost_pct: f64,
    without_cipher: BTreeMap<usize, Rate>,
    link_cut_gap_ms: Quantiles,
    view_after_kill_ms: Quantiles,
    rejoin_ms: Quantiles,
    runs: usize,
    cuts: usize,
    load: f64,
    steal_pct: f64,
    machine: MachineReport,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Rate {
    msgs_per_s: f64,
    mb_per_s: f64,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
struct Rounds {
    p50: f64,
    p99: Option<f64>,
    max: f64,
}

/// What `ringbeat cpg bench` tells.
#[derive(Debug, Deserialize)]
struct Told {
    msgs_per_s: f64,
    mb_per_s: f64,
    round_us: Option<Rounds>,
}

/// Measures all of it.
pub(super) fn run(args: &BenchArgs, seconds: f64, runs: usize, cuts: usize) -> Result<Measured> {
    let spec = LabSpec { name: args.name.clone(), profile: args.profile.clone(), ..LabSpec::default() };
    let open =
        LabSpec { ring: BTreeMap::from([("cipher".to_owned(), "\"none\"".to_owned())]), ..spec.clone() };
    let machine = Machine::start(!args.cold, args.load, args.hogs)?;
    let sealed = in_lab(spec, |lab| {
        let one_sender = one_sender(lab, seconds)?;
        let three_senders = MANY_SIZES
            .iter()
            .map(|size| Ok((*size, flood(lab, &NODES, *size, seconds)?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        let rounds = [
            round_trips(lab, "ping", seconds, 0)?,
            round_trips(lab, "ping", seconds * 2.0, 20)?,
            round_trips(lab, "own", seconds, 0)?,
        ];
        let gaps = (0..cuts).map(|run| cut(lab, run)).collect::<Result<Vec<_>>>()?;
        let (views, rejoins) = kills(lab, runs)?;
        Ok((one_sender, three_senders, rounds, gaps, views, rejoins))
    });
    let (one_sender, three_senders, rounds, gaps, views, rejoins) = sealed?;
    let without = in_lab(open, |lab| self::one_sender(lab, seconds))?;
    let costs = SIZES.iter().filter_map(|size| {
        Some((1.0 - one_sender.get(size)?.msgs_per_s / without.get(size)?.msgs_per_s) * 100.0)
    });
    let costs: Vec<f64> = costs.collect();
    let report = machine.report()?;
    Ok(Measured {
        profile: args.profile.clone(),
        cipher: "aes256gcm",
        encryption_cost_pct: costs.iter().sum::<f64>() / costs.len() as f64,
        one_sender,
        three_senders,
        echo_rtt_us: rounds[0],
        echo_rtt_after_idle_us: rounds[1],
        own_delivery_us: rounds[2],
        without_cipher: without,
        link_cut_gap_ms: Quantiles::of(gaps),
        view_after_kill_ms: Quantiles::of(views),
        rejoin_ms: Quantiles::of(rejoins),
        runs,
        cuts,
        load: report.load(),
        steal_pct: report.steal(),
        machine: report,
    })
}

fn in_lab<T>(spec: LabSpec, work: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
    let lab = Lab::up(spec)?;
    let done = lab.start_all().and_then(|()| all_turn(&lab)).and_then(|()| work(&lab));
    lab.down()?;
    done
}

/// Waits until the ring of all turns.
fn all_turn(lab: &Lab) -> Result<()> {
    let end = Instant::now() + HEALING;
    for name in NODES {
        let node = lab.node(name)?;
        loop {
            let status = ringbeat_control::Client::connect(&node.socket()?)?.status()?;
            let members = status.view.as_ref().map_or(0, |view| view.members.len());
            if status.ring.state == "operational" && members == NODES.len() {
                break;
            }
            ensure!(Instant::now() < end, "the ring of {name} does not turn: {:?}", status.ring);
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

fn one_sender(lab: &Lab, seconds: f64) -> Result<BTreeMap<usize, Rate>> {
    SIZES.iter().map(|size| Ok((*size, flood(lab, &NODES[..1], *size, seconds)?))).collect()
}

/// Some flood, the others count: what the slowest is told.
fn flood(lab: &Lab, senders: &[&str], size: usize, seconds: f64) -> Result<Rate> {
    let told = together(lab, |name| {
        let role = if senders.contains(&name) { "flood" } else { "sink" };
        Some(vec![
            role.to_owned(),
            format!("--size={size}"),
            format!("--seconds={seconds}"),
            "--members=3".to_owned(),
        ])
    })?;
    let slowest = told.iter().min_by(|one, other| one.msgs_per_s.total_cmp(&other.msgs_per_s));
    let slowest = slowest.context("nobody told anything")?;
    Ok(Rate { msgs_per_s: slowest.msgs_per_s, mb_per_s: slowest.mb_per_s })
}

fn round_trips(lab: &Lab, role: &str, seconds: f64, pause_ms: u32) -> Result<Rounds> {
    let by_echo = role == "ping";
    let told = together(lab, |name| {
        let members = if by_echo { 2 } else { 1 };
        let of = |role: &str, seconds: f64| {
            let size = format!("--size={ROUND_BYTES}");
            vec![role.to_owned(), size, format!("--seconds={seconds}"), format!("--members={members}")]
        };
        match name {
            "n1" => Some([of(role, seconds), vec![format!("--pause-ms={pause_ms}")]].concat()),
            "n2" if by_echo => Some(of("echo", seconds + 1.0)),
            _ => None,
        }
    })?;
    told.iter().find_map(|told| told.round_us).context("no round trip was told")
}

/// Runs `ringbeat cpg bench` on several nodes at once.
fn together(lab: &Lab, args: impl Fn(&str) -> Option<Vec<String>>) -> Result<Vec<Told>> {
    let mut running = Vec::new();
    for name in NODES {
        let Some(args) = args(name) else { continue };
        let node = lab.node(name)?;
        let mut command = node.command("ringbeat")?;
        command.args(["-o", "json", "cpg", "bench"]).args(&args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        running.push((name, node.spawn(&mut command)?));
    }
    let mut told = Vec::new();
    for (name, child) in running {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
        told.push(serde_json::from_str(&text).with_context(|| format!("{name} says {text}"))?);
    }
    Ok(told)
}

/// The longest gap at n2 in a stream of n1 while the link that it takes is cut, in ms.
fn cut(lab: &Lab, run: usize) -> Result<f64> {
    wait_for_peers(&lab.node("n1")?, "up", HEALING)?;
    drift(run);
    let (sender, receiver) = (lab.node("n1")?.groups()?, lab.node("n2")?.groups()?);
    let stop = AtomicBool::new(false);
    let streams = thread::scope(|scope| -> Result<f64> {
        let stream = scope.spawn(|| -> Result<()> {
            let mut client = Client::connect(&sender)?;
            client.join(b"stream")?;
            while !stop.load(Ordering::Relaxed) {
                client.send(b"stream", &[7; ROUND_BYTES])?;
                while client.next(Some(Duration::ZERO))?.is_some() {}
                thread::sleep(STREAM);
            }
            Ok(())
        });
        let mut client = Client::connect(&receiver)?;
        client.join(b"stream")?;
        let mut gap = || -> Result<f64> {
            let (mut last, mut longest, mut struck) = (None::<Instant>, 0.0_f64, None);
            let begin = Instant::now();
            while struck.is_none_or(|at: Instant| at.elapsed() < Duration::from_millis(300)) {
                match client.next(Some(PATIENCE))? {
                    Some(Event::Message { .. }) => {}
                    Some(_) => continue,
                    None => bail!("the stream has ended"),
                }
                let now = Instant::now();
                if let Some(last) = last.replace(now).filter(|_| struck.is_some()) {
                    longest = longest.max((now - last).as_secs_f64() * 1e3);
                }
                if struck.is_none() && begin.elapsed() > Duration::from_millis(200) {
                    lab.cut(&Cut::node("n1").link(0))?;
                    struck = Some(Instant::now());
                }
            }
            Ok(longest)
        };
        let longest = gap();
        stop.store(true, Ordering::Relaxed);
        stream.join().map_err(|_| anyhow::anyhow!("the stream's thread has panicked"))??;
        longest
    });
    lab.heal(None)?;
    streams
}

/// From the kill of n2 until the ring of those who are left turns on the slower of them, and from its start until the ring of
/// all does on the slowest, in ms.
fn kills(lab: &Lab, runs: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut views, mut rejoins) = (Vec::new(), Vec::new());
    for run in 0..runs {
        for survivor in NODES.iter().filter(|name| **name != VICTIM) {
            wait_for_peers(&lab.node(survivor)?, "up", HEALING)?;
        }
        all_turn(lab)?;
        drift(run);
        let watches: Vec<Watch> = NODES
            .iter()
            .filter(|name| **name != VICTIM)
            .map(|name| lab.node(name).and_then(|node| Watch::on(&node)))
            .collect::<Result<_>>()?;
        let victim = lab.node(VICTIM)?;
        let killed_ns = victim.kill()?;
        views.push(slowest(&watches, killed_ns, NODES.len() - 1)?);
        ensure!(
            victim.daemon()?.is_none_or(|daemon| daemon.wait_dead(PATIENCE)),
            "the killed daemon still lives"
        );
        let started_ns = victim.start(&StartOptions::default())?;
        rejoins.push(slowest(&watches, started_ns, NODES.len())?);
        victim.wait_ready(PATIENCE)?;
    }
    Ok((views, rejoins))
}

/// When the last of them told that the ring of so many turns, in ms after this.
fn slowest(watches: &[Watch], since_ns: u64, members: usize) -> Result<f64> {
    let mut slowest = 0.0_f64;
    for watch in watches {
        let is_it = |event: &EventRecord| {
            let count = event.view.as_ref().map_or(0, |view| view.matches(',').count() + 1);
            event.kind == "ring_formed" && event.stamp_ns >= since_ns && count == members
        };
        let event = watch.next(PATIENCE, is_it)?.context("no ring was told")?;
        slowest = slowest.max((event.stamp_ns - since_ns) as f64 / 1e6);
    }
    Ok(slowest)
}
