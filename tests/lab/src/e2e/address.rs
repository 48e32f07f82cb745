//! The service address: it moves, it stays, and never two nodes serve it.
//!
//! Each fault of the holder is made some times over in one lab, `RINGBEAT_RUNS` times if that is set. Whether two nodes
//! ever answered is judged twice: by a client that asks every node thousands of times a second, and by the gates' own logs.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ringbeat_control::Status;

use super::{
    ALL, Ctx, Test,
    expect::{all_up, status, wait},
};
use crate::{
    Cut, Lab, StartOptions,
    bench::failover::{Scenario, run_in},
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "address/holder_killed",
        needs: ALL,
        timeout: LONG,
        run: |ctx| moves(ctx, Scenario::Kill, false),
    },
    Test {
        name: "address/holder_crashed",
        needs: ALL,
        timeout: LONG,
        run: |ctx| moves(ctx, Scenario::Crash, false),
    },
    Test {
        name: "address/holder_cut",
        needs: ALL,
        timeout: LONG,
        run: |ctx| moves(ctx, Scenario::Cut, false),
    },
    Test {
        name: "address/holder_mute",
        needs: ALL,
        timeout: LONG,
        run: |ctx| moves(ctx, Scenario::Oneway, false),
    },
    Test {
        name: "address/holder_deaf",
        needs: ALL,
        timeout: LONG,
        run: |ctx| moves(ctx, Scenario::Deaf, false),
    },
    Test {
        name: "address/holder_frozen",
        needs: ALL,
        timeout: LONG,
        run: |ctx| moves(ctx, Scenario::Freeze, false),
    },
    Test {
        name: "address/service_nic_lost",
        needs: ALL,
        timeout: LONG,
        run: |ctx| moves(ctx, Scenario::Nic, false),
    },
    Test {
        name: "address/killed_with_wrong_clocks",
        needs: ALL,
        timeout: LONG,
        run: |ctx| moves(ctx, Scenario::Kill, true),
    },
    Test {
        name: "address/crashed_with_wrong_clocks",
        needs: ALL,
        timeout: LONG,
        run: |ctx| moves(ctx, Scenario::Crash, true),
    },
    Test {
        name: "address/cut_with_wrong_clocks",
        needs: ALL,
        timeout: LONG,
        run: |ctx| moves(ctx, Scenario::Cut, true),
    },
    Test { name: "address/paused_briefly", needs: ALL, timeout: LONG, run: paused_briefly },
    Test { name: "address/planned_restart", needs: ALL, timeout: LONG, run: planned_restart },
    Test { name: "address/minority_holds_nothing", needs: ALL, timeout: LONG, run: minority_holds_nothing },
    Test { name: "address/each_alone", needs: ALL, timeout: LONG, run: each_alone },
    Test { name: "address/stranger", needs: ALL, timeout: LONG, run: stranger },
    Test { name: "address/stopped_gives_up", needs: ALL, timeout: LONG, run: stopped_gives_up },
];

/// Many runs take their time.
const LONG: Duration = Duration::from_secs(900);
const ADDRESS: &str = "10.78.0.100";

/// How often a fault is made.
fn runs() -> usize {
    std::env::var("RINGBEAT_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3)
}

/// The address moves to another node each time, and is never on two.
fn moves(ctx: &mut Ctx, scenario: Scenario, skewed: bool) -> Result<()> {
    let seen = run_in(ctx.spec(), scenario, runs(), skewed)?;
    ctx.step(&serde_json::to_string(&seen)?);
    ensure!(seen.double_answers == 0, "two nodes served the address: {seen:?}");
    ensure!(seen.missed == 0, "nobody took over: {seen:?}");
    Ok(())
}

/// The node that holds the address, by its own word.
fn holder(lab: &Lab) -> Result<String> {
    let holders = || -> Vec<String> {
        let all = lab.nodes().filter_map(|node| status(&node).ok());
        let here = |status: &Status| status.addresses.iter().any(|address| address.here == "open");
        all.filter(here).map(|status| status.node_name).collect()
    };
    wait("one node holds the address", || Ok(holders().len() == 1))?;
    holders().into_iter().next().context("no holder")
}

fn lab(ctx: &Ctx) -> Result<Lab> {
    let lab = ctx.running(ctx.spec())?;
    all_up(&lab)?;
    whole(&lab)?;
    Ok(lab)
}

/// All nodes are in one view.
fn whole(lab: &Lab) -> Result<()> {
    wait("one view of all", || {
        let all = lab.nodes().map(|node| status(&node)).collect::<Result<Vec<Status>>>()?;
        let members = |status: &Status| status.view.as_ref().map_or(0, |view| view.members.len());
        Ok(all.iter().all(|status| status.view == all[0].view && members(status) == all.len()))
    })
}

/// How often the holder's gate was opened so far, by its events.
fn tenures(lab: &Lab) -> Result<usize> {
    let mut opened = 0;
    for node in lab.nodes() {
        let mut client = ringbeat_control::Client::connect(&node.socket()?)?;
        opened += client.events(None, None)?.iter().filter(|event| event.kind == "gate_opened").count();
    }
    Ok(opened)
}

fn paused_briefly(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let held = holder(&lab)?;
    let before = tenures(&lab)?;
    for _ in 0..runs() {
        let node = lab.node(&held)?;
        node.pause()?;
        thread::sleep(Duration::from_millis(300));
        node.resume()?;
        thread::sleep(Duration::from_millis(200));
        ensure!(holder(&lab)? == held, "the address has moved");
    }
    ensure!(tenures(&lab)? == before, "a gate was closed in between");
    lab.down()
}

fn planned_restart(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let held = holder(&lab)?;
    let node = lab.node(&held)?;
    for round in 0..runs().min(10) {
        let view = status(&node)?.view;
        ringbeat_control::Client::connect(&node.socket()?)?.handover(900)?;
        node.stop(Duration::from_secs(5))?;
        node.start(&StartOptions::default())?;
        node.wait_ready(Duration::from_secs(10))?;
        let after = status(&node)?;
        ensure!(after.adopted.is_some(), "round {round}: nothing was taken over");
        ensure!(after.view == view, "round {round}: another view, {:?} after {view:?}", after.view);
        ensure!(holder(&lab)? == held, "round {round}: the address has moved");
        ensure!(after.addresses[0].here == "open", "round {round}: {:?}", after.addresses);
    }
    lab.down()
}

fn minority_holds_nothing(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let held = holder(&lab)?;
    lab.cut(&Cut::node(&held))?;
    wait("the majority serves the address", || {
        Ok(lab.nodes().any(|node| {
            status(&node).is_ok_and(|status| {
                status.node_name != held && status.quorate && status.addresses[0].here == "open"
            })
        }))
    })?;
    let alone = status(&lab.node(&held)?)?;
    ensure!(alone.addresses[0].here != "open" && !alone.lease.valid, "{alone:?}");
    lab.heal(None)?;
    whole(&lab)?;
    ensure!(holder(&lab)? != held, "the address went back without need");
    lab.down()
}

fn each_alone(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    lab.partition(&[&["n1"], &["n2"], &["n3"]])?;
    wait("nobody is quorate", || {
        let all = lab.nodes().map(|node| status(&node)).collect::<Result<Vec<Status>>>()?;
        Ok(all.iter().all(|status| !status.quorate && status.addresses[0].here == "closed"))
    })?;
    lab.heal(None)?;
    whole(&lab)?;
    holder(&lab)?;
    lab.down()
}

fn stranger(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let held = holder(&lab)?;
    // Those first frames of a new holder that may still be under way are over by then.
    thread::sleep(Duration::from_millis(1200));
    let client = lab.node("client")?;
    let wire = client.packets("svc0")?;
    let mac = [2, 0, 0, 0, 0, 7];
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(mac);
    frame.extend([10, 78, 0, 100]);
    frame.extend([0xff; 6]);
    frame.extend([10, 78, 0, 100]);
    wait("the stranger is told", || {
        wire.send(&frame)?;
        let status = status(&lab.node(&held)?)?;
        Ok(status.addresses[0].conflict.as_deref() == Some("02:00:00:00:00:07"))
    })?;
    ensure!(holder(&lab)? == held, "the holder gave way to a stranger");
    lab.down()
}

fn stopped_gives_up(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let held = holder(&lab)?;
    let node = lab.node(&held)?;
    node.stop(Duration::from_secs(5))?;
    let output = node.output("ip", &["-o", "addr", "show", "svc0"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!text.contains(ADDRESS), "the address is left behind: {text}");
    wait("another node serves the address", || {
        Ok(lab.nodes().any(|node| {
            status(&node).is_ok_and(|status| status.node_name != held && status.addresses[0].here == "open")
        }))
    })?;
    lab.down()
}
