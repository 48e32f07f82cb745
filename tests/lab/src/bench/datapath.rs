//! What the datapath costs: nanoseconds for each kind of packet by test runs of the very program, the scan, and the CPU
//! and memory of a cluster at rest.

use std::{cell::Cell, collections::BTreeMap, fs, net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use ringbeat_common::frame::{FRAME_BYTES, Frame, Kind, flags};
use ringbeat_common::limits::{LINKS_MAX, NODES_MAX};
use ringbeat_common::view::View;
use ringbeat_common::watch::state;
use ringbeat_config::Datapath;
use ringbeat_control::Client;
use ringbeatd::plane::{Gated as LeasedAddress, Identity, KernelPlane, PlaneLink, Tried, lease::Votes};
use serde::Serialize;

use super::{
    BenchArgs, Quantiles,
    machine::{Machine, MachineReport, Ticks, loadavg},
    watch::wait_for_peers,
};
use crate::{Lab, LabSpec, Node, sys::clock::boottime_ns};

const KEY: [u64; 2] = [0x1122, 0x3344];
const OWN: u64 = 5 << 32 | 1;
const PEER: u64 = 9 << 32 | 2;
const PORT: u16 = 5405;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const TCX_NEXT: u32 = u32::MAX;
/// The longest lease that a view can name: the gate is open while the bench runs.
const LEASE_US: u32 = 0xff_ffff;
const LEASED: [u8; 4] = [10, 78, 0, 100];
const UNLEASED: [u8; 4] = [10, 78, 0, 1];
const CLIENT: [u8; 4] = [10, 78, 0, 250];
/// Single runs, each with its own sequence number.
const PROBES: u64 = 20_000;
/// Runs of one packet in one call.
const REPEAT: u32 = 100_000;
/// Calls of that kind.
const CALLS: usize = 21;
const SCANS: usize = 400;

/// The result.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    #[serde(flatten)]
    packets: Packets,
    /// At rest, three nodes with two links: per profile.
    at_rest: BTreeMap<String, AtRest>,
    machine: MachineReport,
}

/// What the programs cost.
#[derive(Debug, Serialize)]
struct Packets {
    /// A probe received, checked, answered and sealed again, its grant counted and one granted; each run alone, clock
    /// readings of the test run included.
    answered_ns: Quantiles,
    /// The same less what an empty test run takes.
    answered_net_ns: f64,
    /// The same while no view is installed: without the lease.
    answered_without_view_ns: Quantiles,
    /// The same in a view of 64 nodes, from 63 peers in turn, each with one vote.
    answered_of_64_ns: Quantiles,
    /// An answer taken in, its grant counted.
    taken_ns: Quantiles,
    /// The same in a view of 64 nodes, from 63 peers in turn.
    taken_of_64_ns: Quantiles,
    /// A forged frame dropped, on average over many runs in a row.
    forged_ns: Quantiles,
    /// A packet of somebody else passed.
    foreign_ns: Quantiles,
    /// A scan over 64 peers on 8 links, all heard and unanswered.
    scan_ns: Quantiles,
    /// What the gate costs a packet that is not leased, on average over many in a row.
    gate_unleased_ns: Gated,
    /// The same of a packet of a leased address whose gate is open.
    gate_leased_ns: Gated,
    /// One core's worth.
    probes_per_s_per_core: f64,
}

/// Of each of the gate's programs.
#[derive(Debug, Serialize)]
struct Gated {
    out: Quantiles,
    into: Quantiles,
    local: Quantiles,
}

/// A cluster at rest.
#[derive(Debug, Serialize)]
struct AtRest {
    /// The machine's busy time less its baseline, for each node, in percent of one core.
    cpu_pct_per_node: f64,
    baseline_pct: f64,
    /// What the threads of a daemon ran meanwhile, in percent of one core, by the scheduler's account; the largest one's. What
    /// the kernel does in interrupts is not in it.
    threads_pct: f64,
    /// Of the machine's time, while that was measured.
    steal_pct: f64,
    loadavg: f64,
    /// Resident memory of the largest daemon.
    rss_mib: f64,
}

/// Measures all.
pub(super) fn run(args: &BenchArgs, seconds: u64) -> Result<Cost> {
    // Spinners would be counted as busy, so the cluster at rest comes first and without.
    let mut at_rest = BTreeMap::new();
    for profile in ["fast", "lan"] {
        at_rest.insert(profile.to_owned(), rest(args, profile, seconds)?);
    }
    let machine = Machine::start(!args.cold, args.load, args.hogs)?;
    // Attached to the loopback interface of a namespace of its own, where nothing else is.
    let packets = crate::sys::spaces::fresh(packets).context("cannot make a network namespace")??;
    Ok(Cost { packets, at_rest, machine: machine.report()? })
}

/// The programs' costs.
fn packets() -> Result<Packets> {
    let mut plane = plane()?;
    plane.open(OWN)?;
    for peer in 1..NODES_MAX as u8 {
        plane.accept(peer, PEER)?;
    }
    let sequence = Cell::new(0);
    // Of the view's other members in turn; without a view, of the first.
    let lone = |plane: &mut KernelPlane, kind: Kind, view: View, wanted: u32| -> Result<Quantiles> {
        let mut samples = Vec::new();
        let others = if view.is_some() { u64::from(view.members.count_ones()) - 1 } else { 1 };
        for _ in 0..PROBES {
            let number = sequence.get() + 1;
            sequence.set(number);
            let sender = 1 + (number % others) as u8;
            let tried = plane.try_out(&packet(&frame(kind, sender, number, view)), 1)?;
            ensure!(tried.verdict == wanted, "verdict {} in place of {wanted}", tried.verdict);
            samples.push(tried.took_ns as f64);
        }
        Ok(Quantiles::of(samples))
    };
    let answered_without_view_ns = lone(&mut plane, Kind::Probe, View::NONE, XDP_TX)?;
    let view = View::new(1, 0, 0b11, LEASE_US, 1);
    serve(&mut plane, view)?;
    let answered_ns = lone(&mut plane, Kind::Probe, view, XDP_TX)?;
    let taken_ns = lone(&mut plane, Kind::Answer, view, XDP_DROP)?;
    ensure!(plane.lease().promised_ns() > boottime_ns(), "nothing was granted");
    ensure!(plane.lease().until_ns() > boottime_ns(), "no grant was counted");
    let mut empty = Vec::new();
    for _ in 0..PROBES {
        empty.push(plane.try_out(&foreign(), 1)?.took_ns as f64);
    }
    let mut many = |bytes: &[u8], wanted: u32| averages(wanted, || Ok(plane.try_out(bytes, REPEAT)?));
    let mut forged = frame(Kind::Probe, 1, sequence.get() + 1, view);
    forged.set_heard(7);
    let (forged_ns, foreign_ns) = (many(&packet(&forged), XDP_DROP)?, many(&foreign(), XDP_PASS)?);
    let answered_net_ns = answered_ns.p50 - (Quantiles::of(empty).p50 - foreign_ns.p50);
    let mut gated = |leased: bool| -> Result<Gated> {
        let mut one =
            |name, bytes: Vec<u8>| averages(TCX_NEXT, || Ok(plane.try_classifier(name, &bytes, REPEAT)?));
        let other = if leased { LEASED } else { UNLEASED };
        Ok(Gated {
            out: one("gate_out", between(other, CLIENT))?,
            into: one("gate_in", between(CLIENT, other))?,
            local: one("gate_local", between(other, CLIENT))?,
        })
    };
    let (gate_unleased_ns, gate_leased_ns) = (gated(false)?, gated(true)?);
    let scan_ns = scans(&plane)?;
    let whole = View::new(2, 0, u64::MAX, LEASE_US, 1);
    serve(&mut plane, whole)?;
    let answered_of_64_ns = lone(&mut plane, Kind::Probe, whole, XDP_TX)?;
    let taken_of_64_ns = lone(&mut plane, Kind::Answer, whole, XDP_DROP)?;
    Ok(Packets {
        answered_net_ns,
        probes_per_s_per_core: 1e9 / answered_net_ns,
        answered_ns,
        answered_without_view_ns,
        answered_of_64_ns,
        taken_ns,
        taken_of_64_ns,
        forged_ns,
        foreign_ns,
        scan_ns,
        gate_unleased_ns,
        gate_leased_ns,
    })
}

/// Averages over many runs in a row, the same verdict each time.
fn averages(wanted: u32, mut run: impl FnMut() -> Result<Tried>) -> Result<Quantiles> {
    let mut samples = Vec::new();
    for _ in 0..CALLS {
        let tried = run()?;
        ensure!(tried.verdict == wanted, "verdict {} in place of {wanted}", tried.verdict);
        samples.push(tried.took_ns as f64);
    }
    Ok(Quantiles::of(samples))
}

/// Installs a view whose members have one vote each and need more than half of them, and opens the gate for as long as
/// the bench may take.
fn serve(plane: &mut KernelPlane, view: View) -> Result<()> {
    plane.lease_addresses(&[LeasedAddress {
        address: IpAddr::V4(LEASED.into()),
        interface: "lo".to_owned(),
    }])?;
    let members = view.members.count_ones();
    let mut votes = Votes { own: 0, of: [0; NODES_MAX], quorum: members / 2 + 1 };
    votes.of[..members as usize].fill(1);
    let not_before_ns = plane.lease().announce(&view, 1);
    plane.lease().install(view, not_before_ns, 1, &votes);
    Ok(())
}

/// All cells as the scan likes them least: heard, unanswered, and none of them late.
fn scans(plane: &KernelPlane) -> Result<Quantiles> {
    let mut samples = Vec::new();
    for _ in 0..SCANS {
        for link in 0..LINKS_MAX as u8 {
            for slot in 0..NODES_MAX as u8 {
                plane.pretend(link, slot, boottime_ns());
            }
        }
        thread::sleep(Duration::from_millis(3));
        samples.push(plane.tick().scan_ns as f64);
        let all = (0..LINKS_MAX as u8).flat_map(|link| (0..NODES_MAX as u8).map(move |slot| (link, slot)));
        let late = all.filter(|(link, slot)| plane.state(*link, *slot) & state::HEARD == 0).count();
        ensure!(late == 0, "{late} cells were late: the scan had less to do");
    }
    Ok(Quantiles::of(samples))
}

fn plane() -> Result<KernelPlane> {
    let object = ringbeat_ebpf_object::KERNEL.context("this build has no kernel programs")?;
    let identity = Identity { slot: 0, cluster_id: 77, config_version: 1, key: KEY };
    let links: Vec<PlaneLink> = (0..LINKS_MAX as u8)
        .map(|id| PlaneLink {
            id,
            interface: "lo".to_owned(),
            ifindex: 1,
            port: PORT + u16::from(id),
            interval_ns: 1_000_000,
            deadline_ns: 4_000_000_000,
        })
        .collect();
    Ok(KernelPlane::start(object, identity, &links[..1], Datapath::Generic, None)?)
}

fn frame(kind: Kind, sender: u8, sequence: u64, view: View) -> Frame {
    let mut frame = Frame::new(kind);
    frame.set_cluster_id(77);
    frame.set_sender(sender);
    frame.set_incarnation(PEER);
    frame.set_target_incarnation(OWN);
    frame.set_sequence(sequence);
    frame.set_stamp(1000 + sequence);
    frame.set_view_epoch(view.epoch);
    frame.set_view_members(view.members);
    frame.0[9] = view.rest;
    frame.set_flags(if view.is_some() { flags::GRANT } else { 0 });
    frame.set_returned(boottime_ns());
    frame.seal(KEY);
    frame
}

fn packet(frame: &Frame) -> Vec<u8> {
    let udp = (8 + FRAME_BYTES) as u16;
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0];
    bytes.extend((20 + udp).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
    bytes.extend(PORT.to_be_bytes());
    bytes.extend(PORT.to_be_bytes());
    bytes.extend(udp.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(frame.to_bytes());
    bytes
}

/// A datagram between two addresses that no link has.
fn between(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut bytes = packet(&Frame::default());
    bytes[26..30].copy_from_slice(&from);
    bytes[30..34].copy_from_slice(&to);
    bytes
}

/// A TCP segment's beginnings.
fn foreign() -> Vec<u8> {
    let mut bytes = packet(&Frame::default());
    bytes[23] = 6;
    bytes
}

/// Busy time with and without a quiet cluster.
fn rest(args: &BenchArgs, profile: &str, seconds: u64) -> Result<AtRest> {
    let wait = Duration::from_secs(seconds);
    let ticks = || -> Result<Ticks> {
        let before = Ticks::read()?;
        thread::sleep(wait);
        Ok(Ticks::read()?.since(before))
    };
    let baseline_pct = ticks()?.busy_pct_of_core();
    let spec = LabSpec { name: args.name.clone(), profile: profile.to_owned(), ..LabSpec::default() };
    let lab = Lab::up(spec)?;
    let measured = (|| -> Result<AtRest> {
        lab.start_all()?;
        let (mut rss_kib, mut nodes) = (0, 0);
        for node in lab.nodes() {
            wait_for_peers(&node, "up", Duration::from_secs(20))?;
            nodes += 1;
        }
        thread::sleep(Duration::from_secs(2));
        let ran_ns = || lab.nodes().map(|node| ran_ns(&node)).collect::<Result<Vec<u64>>>();
        let before = ran_ns()?;
        let ticks = ticks()?;
        let ran = ran_ns()?.into_iter().zip(before).map(|(now, then)| now.saturating_sub(then)).max();
        for node in lab.nodes() {
            rss_kib = rss_kib.max(Client::connect(&node.socket()?)?.stats()?.rss_kib);
        }
        Ok(AtRest {
            cpu_pct_per_node: (ticks.busy_pct_of_core() - baseline_pct) / f64::from(nodes),
            baseline_pct,
            threads_pct: ran.unwrap_or(0) as f64 * 100.0 / wait.as_nanos() as f64,
            steal_pct: ticks.steal_pct(),
            loadavg: loadavg()?,
            rss_mib: rss_kib as f64 / 1024.0,
        })
    })();
    lab.down()?;
    measured
}

/// For how long the threads of a node's daemon have run, in ns (proc_pid_schedstat: the first field of each).
fn ran_ns(node: &Node<'_>) -> Result<u64> {
    let daemon = node.daemon()?.context("no daemon")?;
    let mut all_ns = 0;
    for task in fs::read_dir(format!("/proc/{}/task", daemon.pid))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        all_ns += first.context("a schedstat without numbers")?;
    }
    Ok(all_ns)
}
