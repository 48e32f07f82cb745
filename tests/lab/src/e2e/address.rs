//! The service address: it moves, it stays, and never two nodes serve it.
//!
//! Each fault is made some times over in one lab, `RINGBEAT_RUNS` times if that is set. Whether two nodes ever served
//! the address is judged from the fault until all is mended, by a client that asks every node thousands of times a second
//! and by the gates' own logs.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ringbeat_control::{Status, ViewReport};

use super::{
    ALL, ALONE, Ctx, Test,
    expect::{Ear, all_up, status, wait},
};
use crate::{
    Cut, Lab, LabSpec, Node, ProcessState, StartOptions,
    bench::{
        failover::{Scenario, run_in},
        prober::echo,
    },
    boottime_ns,
    lab::SERVICE,
};

/// A fault that is made again and again, on a machine as it is or on nodes whose clocks run wrong.
macro_rules! fault {
    ($name:literal, $scenario:expr) => {
        Test { name: $name, needs: ALL, timeout: LONG, run: |ctx| survives(ctx, $scenario, false) }
    };
    ($name:literal, $scenario:expr, skewed) => {
        Test { name: $name, needs: ALL, timeout: LONG, run: |ctx| survives(ctx, $scenario, true) }
    };
}

pub(super) const TESTS: &[Test] = &[
    fault!("address/holder_killed", Scenario::Kill),
    fault!("address/holder_crashed", Scenario::Crash),
    fault!("address/holder_cut", Scenario::Cut),
    fault!("address/holder_mute", Scenario::Oneway),
    fault!("address/holder_deaf", Scenario::Deaf),
    fault!("address/holder_frozen", Scenario::Freeze),
    fault!("address/holder_frozen_whole", Scenario::FreezeAll),
    fault!("address/holder_paused_long", Scenario::Stall),
    fault!("address/holder_paused_briefly", Scenario::Pause),
    fault!("address/holder_restarted_at_once", Scenario::Restart),
    fault!("address/holder_rebooted_at_once", Scenario::Reboot),
    fault!("address/holder_cut_from_one", Scenario::Peer),
    fault!("address/each_alone", Scenario::Alone),
    fault!("address/planned_restart", Scenario::Handover),
    fault!("address/service_nic_lost", Scenario::Nic),
    fault!("address/granter_rebooted", Scenario::Other),
    fault!("address/granter_on_older_pins", Scenario::OlderPins),
    fault!("address/holder_on_foreign_pins", Scenario::ForeignPins),
    Test {
        name: "address/wall_clock_step",
        needs: ALONE,
        timeout: LONG,
        run: |ctx| survives(ctx, Scenario::WallClock, false),
    },
    fault!("address/killed_with_wrong_clocks", Scenario::Kill, skewed),
    fault!("address/crashed_with_wrong_clocks", Scenario::Crash, skewed),
    fault!("address/cut_with_wrong_clocks", Scenario::Cut, skewed),
    Test { name: "address/planned_restart_adopts", needs: ALL, timeout: LONG, run: planned_restart },
    Test { name: "address/minority_holds_nothing", needs: ALL, timeout: LONG, run: minority_holds_nothing },
    Test { name: "address/all_alone_hold_nothing", needs: ALL, timeout: LONG, run: all_alone_hold_nothing },
    Test { name: "address/failback", needs: ALL, timeout: LONG, run: failback },
    Test { name: "address/neighbours_follow", needs: ALL, timeout: LONG, run: neighbours_follow },
    Test { name: "address/other_interfaces", needs: ALL, timeout: LONG, run: other_interfaces },
    Test { name: "address/failed_start", needs: ALL, timeout: LONG, run: failed_start },
    Test { name: "address/stopped_gives_up", needs: ALL, timeout: LONG, run: stopped_gives_up },
];

/// Many runs take their time.
pub(super) const LONG: Duration = Duration::from_secs(1800);
pub(super) const ADDRESS: &str = "10.78.0.100";

/// How often a fault is made.
pub(super) fn runs() -> usize {
    std::env::var("RINGBEAT_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3)
}

/// The address moves or stays as the fault asks for, and is never on two nodes.
fn survives(ctx: &mut Ctx, scenario: Scenario, skewed: bool) -> Result<()> {
    let mut spec = ctx.spec();
    if scenario == Scenario::Handover {
        patient(&mut spec);
    }
    let seen = run_in(spec, scenario, runs(), skewed)?;
    ctx.step(&serde_json::to_string(&seen)?);
    ensure!(seen.double_answers == 0, "two nodes served the address: {:?}", seen.wrong);
    ensure!(seen.missed == 0, "nobody took over in {} runs", seen.missed);
    ensure!(seen.moved == 0, "the address moved in {} runs, without need", seen.moved);
    // A machine that stands still in a run proves nothing by it.
    let most_ms = longest_ms(scenario);
    let half_ms = seen.longest_unanswered_ms.p50;
    ensure!(
        half_ms <= most_ms,
        "nobody answered for {half_ms} ms in half of the runs, {most_ms} at the most"
    );
    let silent = seen.unexcused_above(most_ms);
    ensure!(
        silent.is_empty(),
        "nobody answered for longer than {most_ms} ms, and the machine ran: {silent:?}"
    );
    Ok(())
}

/// For how long nobody may answer, at `lan`: not as long as a lease where the address stays, else as long as a move takes, its
/// fault being there for 300 ms at the least.
const fn longest_ms(scenario: Scenario) -> f64 {
    match scenario {
        Scenario::Handover => 3.0,
        Scenario::Pause | Scenario::WallClock | Scenario::Other => 10.0,
        Scenario::Peer => 150.0,
        _ => f64::INFINITY,
    }
}

/// How long a daemon may be away in a planned restart: a loaded machine takes its time over the programs.
const AWAY_MS: u32 = 10_000;

fn patient(spec: &mut LabSpec) {
    spec.cluster_extra.insert("daemon_stall_ms".to_owned(), AWAY_MS.to_string());
}

/// The node that holds the address, by its own word.
pub(super) fn holder(lab: &Lab) -> Result<String> {
    let holders = || -> Vec<String> {
        let all = lab.nodes().filter_map(|node| status(&node).ok());
        let here = |status: &Status| status.addresses.iter().any(|address| address.here == "open");
        all.filter(here).map(|status| status.node_name).collect()
    };
    wait("one node holds the address", || Ok(holders().len() == 1))?;
    holders().into_iter().next().context("no holder")
}

pub(super) fn lab(ctx: &Ctx) -> Result<Lab> {
    let lab = ctx.running(ctx.spec())?;
    all_up(&lab)?;
    whole(&lab)?;
    Ok(lab)
}

/// All nodes are in one view.
pub(super) fn whole(lab: &Lab) -> Result<()> {
    wait("one view of all", || {
        let all = lab.nodes().map(|node| status(&node)).collect::<Result<Vec<Status>>>()?;
        let members = |status: &Status| status.view.as_ref().map_or(0, |view| view.members.len());
        Ok(all.iter().all(|status| status.view == all[0].view && members(status) == all.len()))
    })
}

fn planned_restart(ctx: &mut Ctx) -> Result<()> {
    let mut spec = ctx.spec();
    patient(&mut spec);
    let lab = ctx.running(spec)?;
    all_up(&lab)?;
    whole(&lab)?;
    let held = holder(&lab)?;
    let node = lab.node(&held)?;
    for round in 0..runs() {
        let view = status(&node)?.view;
        ringbeat_control::Client::connect(&node.socket()?)?.handover(AWAY_MS)?;
        node.stop(Duration::from_secs(5))?;
        node.start(&StartOptions::default())?;
        node.wait_ready(Duration::from_secs(10))?;
        let after = status(&node)?;
        ensure!(after.adopted.is_some(), "round {round}: nothing was taken over");
        let members = |view: &Option<ViewReport>| view.as_ref().map(|view| view.members.clone());
        ensure!(members(&after.view) == members(&view), "round {round}: {:?} after {view:?}", after.view);
        ensure!(holder(&lab)? == held, "round {round}: the address has moved");
        ensure!(after.addresses[0].here == "open", "round {round}: {:?}", after.addresses);
    }
    lab.down()
}

/// Whether the address is on the node's interface.
fn is_there(node: &Node<'_>) -> Result<bool> {
    let output = node.output("ip", &["-o", "addr", "show", "svc0"])?;
    Ok(String::from_utf8_lossy(&output.stdout).contains(ADDRESS))
}

fn minority_holds_nothing(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    for _ in 0..runs() {
        let held = holder(&lab)?;
        let node = lab.node(&held)?;
        let mut ear = Ear::on(&node)?;
        let cut_ns = boottime_ns();
        lab.cut(&Cut::node(&held))?;
        wait("the majority serves the address", || {
            Ok(lab.nodes().any(|node| {
                status(&node).is_ok_and(|status| {
                    status.node_name != held && status.quorate && status.addresses[0].here == "open"
                })
            }))
        })?;
        let alone = status(&node)?;
        ensure!(alone.addresses[0].here != "open" && !alone.lease.valid, "{alone:?}");
        for kind in ["lease_lost", "gate_closed", "install"] {
            let event = ear.hears(&format!("{kind} {held}"))?;
            let times = [cut_ns, event.stamp_ns, event.told_ns, boottime_ns()];
            ensure!(times.is_sorted(), "{kind} at {times:?}: {event:?}");
        }
        wait("the address is off the minority's interface", || Ok(!is_there(&node)?))?;
        lab.heal(None)?;
        whole(&lab)?;
        ensure!(holder(&lab)? != held, "the address went back without need");
        // A new life is not damped.
        node.kill()?;
        node.start(&StartOptions::default())?;
        node.wait_ready(Duration::from_secs(10))?;
        whole(&lab)?;
    }
    lab.down()
}

fn all_alone_hold_nothing(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    for _ in 0..runs() {
        lab.partition(&[&["n1"], &["n2"], &["n3"]])?;
        wait("nobody is quorate, and the address is on no interface", || {
            for node in lab.nodes() {
                let status = status(&node)?;
                if status.quorate || status.addresses[0].here != "closed" || is_there(&node)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        lab.heal(None)?;
        // New lives are not damped.
        for node in lab.nodes() {
            node.kill()?;
            node.start(&StartOptions::default())?;
            node.wait_ready(Duration::from_secs(10))?;
        }
        whole(&lab)?;
        holder(&lab)?;
    }
    lab.down()
}

/// With `failback` the address goes back to the lowest node that can serve it, once that is there again.
fn failback(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(LabSpec { failback: true, ..ctx.spec() })?;
    all_up(&lab)?;
    whole(&lab)?;
    wait("the lowest holds the address", || Ok(holder(&lab)? == "n1"))?;
    for _ in 0..runs() {
        let n1 = lab.node("n1")?;
        n1.kill()?;
        wait("another one holds it", || Ok(holder(&lab)? == "n2"))?;
        n1.start(&StartOptions::default())?;
        n1.wait_ready(Duration::from_secs(10))?;
        wait("it is back where it was", || Ok(holder(&lab)? == "n1"))?;
        whole(&lab)?;
    }
    lab.down()
}

/// An ordinary client, with a table of neighbours that believes what it is told, follows both kinds of address.
fn neighbours_follow(ctx: &mut Ctx) -> Result<()> {
    let addresses = ["10.78.0.100/24", "fd78::100/64"].map(str::to_owned).to_vec();
    let lab = ctx.running(LabSpec { addresses, ..ctx.spec() })?;
    all_up(&lab)?;
    whole(&lab)?;
    let client = lab.node("client")?;
    let own = client.output("ip", &["-6", "addr", "replace", "fd78::fa/64", "dev", "svc0", "nodad"])?;
    ensure!(own.status.success(), "{own:?}");
    for _ in 0..runs() {
        let held = holder(&lab)?;
        for address in ["10.78.0.100", "fd78::100"] {
            wait(&format!("{address} answers the client"), || answers(&client, address))?;
        }
        let node = lab.node(&held)?;
        node.kill()?;
        // Until then it may answer once more.
        wait("the daemon is dead", || Ok(node.daemon_state()? == ProcessState::Dead))?;
        for address in ["10.78.0.100", "fd78::100"] {
            wait(&format!("{address} answers elsewhere"), || answers(&client, address))?;
            let output = client.output("ip", &["neigh", "show", address])?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let old = node.mac(SERVICE)?.map(|byte| format!("{byte:02x}")).join(":");
            ensure!(text.contains("lladdr") && !text.contains(&old), "{address} is still at {held}: {text}");
        }
        node.start(&StartOptions::default())?;
        node.wait_ready(Duration::from_secs(10))?;
        whole(&lab)?;
    }
    lab.down()
}

/// Whether the address answers a datagram to a port of nobody's: with "unreachable" (RFC 1122, 3.2.2.1).
pub(super) fn answers(client: &Node<'_>, address: &str) -> Result<bool> {
    let address: IpAddr = address.parse()?;
    let asked = client.in_network(|| -> std::io::Result<bool> {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        socket.connect((address, 9))?;
        socket.send(b"?")?;
        match socket.recv(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::HostUnreachable) => {
                Ok(false)
            }
            other => other.map(|_| false),
        }
    })?;
    Ok(asked.unwrap_or(false))
}

/// The kernel answers for an address on every interface of its node: on those of the heartbeat, too, only while the gate
/// is open.
fn other_interfaces(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    for _ in 0..runs() {
        let held = lab.node(&holder(&lab)?)?;
        let other = lab.nodes().find(|node| node.name() != held.name()).context("another node")?;
        let wire = other.packets("hb0")?;
        wire.set_patience(Duration::from_millis(20))?;
        let answers = || -> Result<bool> {
            let macs = (other.mac(0)?, held.mac(0)?);
            let addresses = (other.address(0)?.parse()?, ADDRESS.parse::<Ipv4Addr>()?);
            wire.send(&echo(macs, addresses, (7, 7), 0))?;
            let end = Instant::now() + Duration::from_millis(100);
            let mut buffer = [0; 256];
            while Instant::now() < end {
                let Ok(frame) = wire.recv(&mut buffer) else { continue };
                let from_it = frame.len() > 34
                    && frame[12..14] == [8, 0]
                    && frame[26..30] == ADDRESS.parse::<Ipv4Addr>()?.octets();
                if from_it {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        wait("the holder answers on the heartbeat's interface, too", answers)?;
        held.kill()?;
        wait("the daemon is dead", || Ok(held.daemon_state()? == ProcessState::Dead))?;
        for _ in 0..3 {
            ensure!(!answers()?, "{} answers for the address on its heartbeat interface", held.name());
        }
        held.start(&StartOptions::default())?;
        held.wait_ready(Duration::from_secs(10))?;
        whole(&lab)?;
    }
    lab.down()
}

/// A daemon that cannot start after a kill must not take the gate away from an address that is still there.
fn failed_start(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    for round in 0..runs() {
        let held = holder(&lab)?;
        let node = lab.node(&held)?;
        node.kill()?;
        wait("the daemon is dead", || Ok(node.daemon_state()? == ProcessState::Dead))?;
        ensure!(is_there(&node)?, "round {round}: a dead daemon took its address off");
        // Without the rights to load programs, and with a datapath that needs them.
        let without = "--bounding-set=-bpf,-perfmon,-sys_admin";
        let config = node.etc().join("ringbeat.toml");
        let text = fs::read_to_string(&config)?;
        fs::write(&config, text.replacen("[cluster]\n", "[cluster]\ndatapath = \"native\"\n", 1))?;
        let prefix = vec!["setpriv".to_owned(), without.to_owned()];
        node.start(&StartOptions { prefix, ..StartOptions::default() })?;
        wait("the start is refused", || Ok(node.daemon_state()? == ProcessState::Dead))?;
        let is_gated = !pinned_gates(&node)?.is_empty();
        ensure!(is_gated || !is_there(&node)?, "round {round}: the address is left without a gate");
        fs::write(&config, text)?;
        node.start(&StartOptions::default())?;
        node.wait_ready(Duration::from_secs(10))?;
        whole(&lab)?;
    }
    lab.down()
}

/// The names of the gates that are pinned in the node.
pub(super) fn pinned_gates(node: &Node<'_>) -> Result<Vec<String>> {
    let Ok(folder) = fs::read_dir(node.pins()?) else { return Ok(Vec::new()) };
    let names = folder.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<_>>>()?;
    Ok(names.into_iter().filter(|name| name.starts_with("gate_")).collect())
}

fn stopped_gives_up(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    for _ in 0..runs() {
        let held = holder(&lab)?;
        let node = lab.node(&held)?;
        node.stop(Duration::from_secs(5))?;
        ensure!(!is_there(&node)?, "the address is left behind");
        wait("another node serves the address", || {
            Ok(lab.nodes().any(|node| {
                status(&node)
                    .is_ok_and(|status| status.node_name != held && status.addresses[0].here == "open")
            }))
        })?;
        node.start(&StartOptions::default())?;
        node.wait_ready(Duration::from_secs(10))?;
        whole(&lab)?;
    }
    lab.down()
}
