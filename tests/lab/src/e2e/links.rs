//! Links and whole nodes that fail: who tells what of whom, and who keeps still.
//!
//! A peer that falls silent on both links at once may be told `link_late` first: the kernel's timer looks at one cell
//! after the other.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use ringbeat_control::{DaemonState, EdgeState, EventRecord, Mode};

use super::{
    ALL, ALONE, Ctx, Skip, TIMEOUT, Test,
    expect::{
        Ears, all_up, cluster, edge, is_called, is_of_views, link, lost, name, peer, quiet, status, wait,
    },
};
use crate::{Cut, Direction, Lab, LabSpec, Node, StartOptions, boottime_ns, sys::clock::WallClock};

pub(super) const TESTS: &[Test] = &[
    Test { name: "links/crashed_node_is_down", needs: ALL, timeout: TIMEOUT, run: crashed_node_is_down },
    Test { name: "links/one_of_two_cut", needs: ALL, timeout: TIMEOUT, run: one_of_two_cut },
    Test { name: "links/all_cut_and_healed", needs: ALL, timeout: TIMEOUT, run: all_cut_and_healed },
    Test { name: "links/cut_towards_a_node", needs: ALL, timeout: TIMEOUT, run: cut_towards_a_node },
    Test { name: "links/cut_away_from_a_node", needs: ALL, timeout: TIMEOUT, run: cut_away_from_a_node },
    Test {
        name: "links/cut_one_way_on_one_link",
        needs: ALL,
        timeout: TIMEOUT,
        run: cut_one_way_on_one_link,
    },
    Test {
        name: "links/cut_between_two_of_three",
        needs: ALL,
        timeout: TIMEOUT,
        run: cut_between_two_of_three,
    },
    Test { name: "links/partition_two_and_one", needs: ALL, timeout: TIMEOUT, run: partition_two_and_one },
    Test { name: "links/partition_each_alone", needs: ALL, timeout: TIMEOUT, run: partition_each_alone },
    Test { name: "links/wall_clock_step", needs: ALONE, timeout: TIMEOUT, run: wall_clock_step },
    Test { name: "links/own_link_down", needs: ALL, timeout: TIMEOUT, run: own_link_down },
    Test {
        name: "links/own_link_down_behind_a_cut",
        needs: ALL,
        timeout: TIMEOUT,
        run: own_link_down_behind_a_cut,
    },
    Test { name: "links/own_links_all_down", needs: ALL, timeout: TIMEOUT, run: own_links_all_down },
    Test { name: "links/ipv6", needs: ALL, timeout: TIMEOUT, run: ipv6 },
    Test { name: "links/driver_without_xdp", needs: ALL, timeout: TIMEOUT, run: driver_without_xdp },
    Test { name: "links/generic_datapath", needs: ALL, timeout: TIMEOUT, run: generic_datapath },
    Test { name: "links/socket_datapath", needs: ALONE, timeout: TIMEOUT, run: socket_datapath },
    Test { name: "links/metal_profile", needs: ALONE, timeout: TIMEOUT, run: metal_profile },
];

const EVERYONE: [&str; 3] = ["n1", "n2", "n3"];
const SURVIVORS: [&str; 2] = ["n1", "n3"];
/// By then all that was sent has arrived or is lost, and what came back proves nothing any more.
const ARRIVED: Duration = Duration::from_millis(150);

/// What a node tells of a peer that falls silent on both links; a late link may come first.
fn down(peer: &str) -> ([String; 3], [String; 2]) {
    let told = [format!("peer_down {peer}"), format!("link_down {peer} 0"), format!("link_down {peer} 1")];
    (told, late(peer))
}

/// What may come before it.
fn late(peer: &str) -> [String; 2] {
    [format!("link_late {peer} 0"), format!("link_late {peer} 1")]
}

/// What a node tells of a peer that it hears again on both links.
fn up(peer: &str) -> [String; 3] {
    [format!("peer_up {peer}"), format!("link_up {peer} 0"), format!("link_up {peer} 1")]
}

fn strs(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

/// Each of `ears` loses these peers, tells so once, and nothing else.
fn all_lose(ears: &mut Ears, names: &[&str], losses: impl Fn(&str) -> Vec<&'static str>) -> Result<()> {
    for node in names {
        for peer in losses(node) {
            let event = ears.of(node)?.hears(&format!("peer_down {peer}"))?;
            ensure!(event.evidence.by_timer, "{node}: peer_down {peer} is the timer's to find: {event:?}");
        }
    }
    quiet();
    for node in names {
        let (mut wanted, mut allowed) = (Vec::new(), Vec::new());
        for peer in losses(node) {
            let (told, before) = down(peer);
            wanted.extend(told);
            allowed.extend(before);
        }
        ears.of(node)?.told_only(&strs(&wanted), &strs(&allowed))?;
    }
    Ok(())
}

/// Each of `ears` finds these peers again, by damping, and tells nothing else.
fn all_find(ears: &mut Ears, names: &[&str], found: impl Fn(&str) -> Vec<&'static str>) -> Result<()> {
    for node in names {
        for event in found(node).iter().flat_map(|peer| up(peer)) {
            ears.of(node)?.hears(&event)?;
        }
    }
    quiet();
    for node in names {
        let wanted: Vec<String> = found(node).iter().flat_map(|peer| up(peer)).collect();
        let ear = ears.of(node)?;
        ear.told_only(&strs(&wanted), &[])?;
        let hasty = |event: &&EventRecord| event.kind == "link_up" && event.text.as_deref() != Some("damped");
        let hasty = ear.told()?.iter().find(hasty).cloned();
        ensure!(hasty.is_none(), "{node} told a link up without damping: {hasty:?}");
    }
    Ok(())
}

/// A fault that the nodes see as losses of peers, and its end.
fn lost_and_found(
    ctx: &Ctx,
    strike: impl Fn(&Lab) -> Result<u64>,
    losses: impl Fn(&str) -> Vec<&'static str>,
) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let mut ears = Ears::on(&lab, &EVERYONE)?;
    strike(&lab)?;
    all_lose(&mut ears, &EVERYONE, &losses)?;
    for node in EVERYONE {
        for peer in losses(node) {
            is_called(&lab.node(node)?, peer, "down")?;
        }
    }
    ctx.step("heal");
    ears.forget()?;
    lab.heal(None)?;
    all_find(&mut ears, &EVERYONE, &losses)?;
    lab.down()
}

fn crashed_node_is_down(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let mut ears = Ears::on(&lab, &SURVIVORS)?;
    lab.crash("n2")?;
    all_lose(&mut ears, &SURVIVORS, |_| vec!["n2"])?;
    for node in SURVIVORS {
        is_called(&lab.node(node)?, "n2", "down")?;
    }
    ctx.step("boot");
    ears.forget()?;
    let n2 = lab.node("n2")?;
    n2.start(&StartOptions::default())?;
    all_up(&lab)?;
    let again = [&["peer_restarted n2".to_owned()], up("n2").as_slice()].concat();
    ears.hear(&strs(&again))?;
    ears.told_only(&strs(&again), &[])?;
    lab.down()
}

fn one_of_two_cut(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let mut ears = Ears::on(&lab, &EVERYONE)?;
    let pairs = || EVERYONE.iter().flat_map(|one| EVERYONE.iter().map(move |other| (*one, *other)));
    let count = || -> Result<Vec<u64>> {
        pairs()
            .filter(|(one, other)| one != other)
            .map(|(one, other)| lost(&lab.node(one)?, 1, other))
            .collect()
    };
    let before = count()?;
    lab.cut(&Cut::node("n2").link(0))?;
    for (node, peers) in [("n1", ["n2"].as_slice()), ("n3", &["n2"]), ("n2", &["n1", "n3"])] {
        for peer in peers {
            ears.of(node)?.hears(&format!("link_down {peer} 0"))?;
        }
    }
    quiet();
    let told = |ears: &mut Ears, kinds: &[&str]| -> Result<()> {
        let of = |peers: &[&str]| -> Vec<String> {
            peers.iter().flat_map(|peer| kinds.iter().map(move |kind| format!("{kind} {peer} 0"))).collect()
        };
        for (node, peers) in [("n1", ["n2"].as_slice()), ("n3", &["n2"]), ("n2", &["n1", "n3"])] {
            ears.of(node)?.told_only(&strs(&of(peers)), &[])?;
        }
        Ok(())
    };
    told(&mut ears, &["link_late", "link_down"])?;
    is_called(&lab.node("n1")?, "n2", "up")?;
    ctx.step("heal");
    ears.forget()?;
    lab.heal(None)?;
    all_up(&lab)?;
    quiet();
    told(&mut ears, &["link_up"])?;
    let after = count()?;
    let is_lost = after.iter().zip(&before).any(|(after, before)| after > before);
    ensure!(!is_lost, "beats were lost on the other link: {before:?}, then {after:?}");
    lab.down()
}

fn all_cut_and_healed(ctx: &mut Ctx) -> Result<()> {
    lost_and_found(ctx, |lab| lab.cut(&Cut::node("n2")), n2_apart)
}

/// n2 hears nobody, and so returns no stamp: to the others it proves nothing any more.
fn cut_towards_a_node(ctx: &mut Ctx) -> Result<()> {
    lost_and_found(ctx, |lab| lab.cut(&Cut::node("n2").direction(Direction::In)), n2_apart)
}

/// Nobody hears n2, and so its stamps come back from nobody.
fn cut_away_from_a_node(ctx: &mut Ctx) -> Result<()> {
    let strike = |lab: &Lab| {
        let struck_ns = lab.cut(&Cut::node("n2").direction(Direction::Out))?;
        rows_grow_old(lab, struck_ns)?;
        Ok(struck_ns)
    };
    lost_and_found(ctx, strike, n2_apart)
}

/// Frames go on coming to n2, and prove nothing: the rows that it shows stay those of the last proof.
fn rows_grow_old(lab: &Lab, struck_ns: u64) -> Result<()> {
    let n2 = lab.node("n2")?;
    // What was on its way arrives by then.
    thread::sleep(2 * ARRIVED);
    for name in ["n1", "n3"] {
        let since = Duration::from_nanos(boottime_ns() - struck_ns);
        let age = peer(&n2, name)?.row_age_ms.context("no row")?;
        let least = (since - ARRIVED).as_secs_f64() * 1e3;
        ensure!(age >= least, "n2 shows a row of {name} as {age} ms old, {since:?} after the last proof");
    }
    Ok(())
}

fn n2_apart(node: &str) -> Vec<&'static str> {
    if node == "n2" { vec!["n1", "n3"] } else { vec!["n2"] }
}

fn cut_one_way_on_one_link(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    for direction in [Direction::In, Direction::Out] {
        let mut ears = Ears::on(&lab, &EVERYONE)?;
        lab.cut(&Cut::node("n2").link(1).direction(direction).peer("n3"))?;
        for (node, peer) in [("n2", "n3"), ("n3", "n2")] {
            let (late, down) = (format!("link_late {peer} 1"), format!("link_down {peer} 1"));
            ears.of(node)?.hears(&down)?;
            quiet();
            ears.of(node)?.told_only(&[&late, &down], &[])?;
        }
        ears.of("n1")?.told_only(&[], &[])?;
        ears.forget()?;
        lab.heal(None)?;
        all_up(&lab)?;
        quiet();
        ears.of("n2")?.told_only(&["link_up n3 1"], &[])?;
        ears.of("n3")?.told_only(&["link_up n2 1"], &[])?;
        ears.of("n1")?.told_only(&[], &[])?;
    }
    lab.down()
}

fn cut_between_two_of_three(ctx: &mut Ctx) -> Result<()> {
    let losses = |node: &str| match node {
        "n1" => vec!["n3"],
        "n3" => vec!["n1"],
        _ => Vec::new(),
    };
    let lab = cluster(ctx, ctx.spec())?;
    let mut ears = Ears::on(&lab, &EVERYONE)?;
    lab.cut(&Cut::node("n1").peer("n3"))?;
    all_lose(&mut ears, &EVERYONE, losses)?;
    ctx.step("the graph as n2 has it");
    let n2 = lab.node("n2")?;
    let hears = |name: &str, ids: &[u8]| {
        wait(&format!("n2 has it that {name} hears {ids:?}"), || Ok(peer(&n2, name)?.hears == ids))
    };
    hears("n1", &[1, 2])?;
    hears("n3", &[2, 3])?;
    hears("n2", &[1, 2, 3])?;
    ctx.step("heal");
    ears.forget()?;
    lab.heal(None)?;
    all_find(&mut ears, &EVERYONE, losses)?;
    hears("n1", &[1, 2, 3])?;
    hears("n3", &[1, 2, 3])?;
    lab.down()
}

fn partition_two_and_one(ctx: &mut Ctx) -> Result<()> {
    let losses = |node: &str| if node == "n3" { vec!["n1", "n2"] } else { vec!["n3"] };
    lost_and_found(ctx, |lab| lab.partition(&[&["n1", "n2"], &["n3"]]), losses)
}

fn partition_each_alone(ctx: &mut Ctx) -> Result<()> {
    let losses = |node: &str| match node {
        "n1" => vec!["n2", "n3"],
        "n2" => vec!["n1", "n3"],
        _ => vec!["n1", "n2"],
    };
    lost_and_found(ctx, |lab| lab.partition(&[&["n1"], &["n2"], &["n3"]]), losses)
}

fn wall_clock_step(ctx: &mut Ctx) -> Result<()> {
    const HOUR_NS: i128 = 3_600_000_000_000;
    let lab = cluster(ctx, ctx.spec())?;
    let mut ears = Ears::on(&lab, &EVERYONE)?;
    let clock = WallClock::new();
    for more_ns in [HOUR_NS, -HOUR_NS] {
        if let Err(error) = clock.set(more_ns) {
            return Err(Skip(format!("the wall clock cannot be set here: {error}")).into());
        }
        quiet();
    }
    drop(clock);
    ears.told_only(&[], &[])?;
    lab.down()
}

/// Sets interfaces of a node up or down, all in one go.
fn set_links(node: &Node<'_>, links: &[u8], state: &str) -> Result<()> {
    let script: Vec<String> = links.iter().map(|link| format!("ip link set hb{link} {state}")).collect();
    let output = node.output("sh", &["-ec", &script.join("\n")])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn own_link_down(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let n2 = lab.node("n2")?;
    let mut ears = Ears::on(&lab, &EVERYONE)?;
    set_links(&n2, &[0], "down")?;
    ears.of("n2")?.hears("own_link_down 0")?;
    for node in SURVIVORS {
        ears.of(node)?.hears("link_down n2 0")?;
    }
    quiet();
    // Setting a link down may take longer than a deadline, and what is sent meanwhile is lost: then the kernel's timer
    // speaks before netlink does.
    ears.of("n2")?.told_only(&["own_link_down 0"], &["link_late n1 0", "link_late n3 0"])?;
    for node in SURVIVORS {
        ears.of(node)?.told_only(&["link_late n2 0", "link_down n2 0"], &[])?;
    }
    let report = link(&n2, 0)?;
    ensure!(
        report.state.name() == "down" && report.reason.as_deref() == Some("administratively down"),
        "n2 says of its link: {:?}, {:?}",
        report.state,
        report.reason
    );
    ctx.step("up again");
    ears.forget()?;
    set_links(&n2, &[0], "up")?;
    all_up(&lab)?;
    quiet();
    ears.of("n2")?.told_only(&["own_link_up 0", "link_up n1 0", "link_up n3 0"], &[])?;
    for node in SURVIVORS {
        ears.of(node)?.told_only(&["link_up n2 0"], &[])?;
    }
    lab.down()
}

/// The other link is up but hears nobody: then the peers are down, for both sides, and this node is not alone.
fn own_link_down_behind_a_cut(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let n2 = lab.node("n2")?;
    lab.cut(&Cut::node("n2").link(1))?;
    let mut ears = Ears::on(&lab, &EVERYONE)?;
    for (node, peer) in [("n1", "n2"), ("n3", "n2"), ("n2", "n1"), ("n2", "n3")] {
        wait(&format!("{node} has lost {peer} on link 1"), || {
            Ok(edge(&lab.node(node)?, 1, peer)?.state == EdgeState::Down)
        })?;
    }
    ears.forget()?;
    set_links(&n2, &[0], "down")?;
    for node in SURVIVORS {
        ears.of(node)?.hears("peer_down n2")?;
    }
    ears.of("n2")?.hears("peer_down n1")?;
    ears.of("n2")?.hears("peer_down n3")?;
    quiet();
    for node in SURVIVORS {
        ears.of(node)?.told_only(&["peer_down n2", "link_down n2 0"], &[])?;
    }
    // See `own_link_down`; with no other link that is no longer late, but down.
    let race = ["link_down n1 0", "link_down n3 0"];
    ears.of("n2")?.told_only(&["own_link_down 0", "peer_down n1", "peer_down n3"], &race)?;
    lab.down()
}

fn own_links_all_down(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let n2 = lab.node("n2")?;
    let mut ears = Ears::on(&lab, &EVERYONE)?;
    set_links(&n2, &[0, 1], "down")?;
    ears.of("n2")?.hears("alone")?;
    all_lose(&mut ears, &SURVIVORS, |_| vec!["n2"])?;
    let told = ears.of("n2")?.told()?.iter().filter(|event| !is_of_views(&event.kind));
    let told: Vec<String> = told.map(name).collect();
    let own = ["own_link_down 0", "own_link_down 1", "alone"];
    ensure!(
        own.iter().all(|own| told.iter().filter(|told| told == own).count() == 1)
            && told.last().is_some_and(|last| last == "alone"),
        "nothing is to be said of anybody after `alone`: {told:?}"
    );
    // What the timer said in good faith while the links went down; see `own_link_down`.
    let accused = |peer: &&str| told.contains(&format!("peer_down {peer}"));
    let accused: Vec<String> =
        ["n1", "n3"].into_iter().filter(accused).map(|peer| format!("peer_up {peer}")).collect();
    ensure!(status(&n2)?.state == DaemonState::Alone, "n2 says that it is {}", status(&n2)?.state);
    ctx.step("up again");
    ears.forget()?;
    set_links(&n2, &[0, 1], "up")?;
    all_up(&lab)?;
    all_find(&mut ears, &SURVIVORS, |_| vec!["n2"])?;
    let links = ["n1", "n3"].map(|peer| [0, 1].map(|link| format!("link_up {peer} {link}")));
    let mut wanted = vec!["own_link_up 0", "own_link_up 1", "not_alone"];
    wanted.extend(links.iter().flatten().chain(&accused).map(String::as_str));
    ears.of("n2")?.told_only(&wanted, &[])?;
    lab.down()
}

fn ipv6(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, LabSpec { ipv6: true, ..ctx.spec() })?;
    has_mode(&lab, Mode::Native, false)?;
    let mut ears = Ears::on(&lab, &SURVIVORS)?;
    lab.node("n2")?.kill()?;
    for event in ears.hear(&["peer_gone n2"])? {
        ensure!(!event.evidence.by_timer, "gone is a frame's word: {event:?}");
    }
    ears.told_only(&["peer_gone n2"], &[])?;
    lab.down()
}

/// Every link of every node has this mode and gets answers.
fn has_mode(lab: &Lab, mode: Mode, is_forced: bool) -> Result<()> {
    for node in lab.nodes() {
        for id in 0..lab.spec().links {
            let report = link(&node, id)?;
            ensure!(
                report.mode == mode && report.forced == is_forced,
                "{} has link {id} in mode {}, forced {}: {:?}",
                node.name(),
                report.mode,
                report.forced,
                report.fallback
            );
            for other in report.peers {
                wait(&format!("{} gets answers of {} on link {id}", node.name(), other.name), || {
                    Ok(edge(&node, id, &other.name)?.answered > other.answered)
                })?;
            }
        }
    }
    Ok(())
}

fn generic_datapath(ctx: &mut Ctx) -> Result<()> {
    forced(ctx, Mode::Generic, "fast")
}

/// Where the driver has no XDP the stack's serves that link, and the driver's reason is told, once.
fn driver_without_xdp(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    let n1 = lab.node("n1")?;
    // A bridge has none.
    let script = "set -e; mac=$(cat /sys/class/net/hb0/address); ip link set hb0 down; ip addr flush dev hb0; \
                  ip link set hb0 name wire0; ip link add hb0 address $mac type bridge; ip link set wire0 master hb0; \
                  ip link set wire0 up; ip link set hb0 up; ip addr add 10.77.0.1/24 dev hb0";
    let made = n1.output("sh", &["-c", script])?;
    ensure!(made.status.success(), "{made:?}");
    lab.start_all()?;
    all_up(&lab)?;
    let (bridged, other) = (link(&n1, 0)?, link(&n1, 1)?);
    ensure!((bridged.mode, other.mode) == (Mode::Generic, Mode::Native), "{bridged:?}");
    let why = bridged.fallback.clone().unwrap_or_default();
    ensure!(!why.is_empty() && other.fallback.is_none(), "{bridged:?}");
    let log = n1.log_tail(1000)?;
    let told = log.lines().filter(|line| line.contains("WARN") && line.contains("not the mode")).count();
    ensure!(told == 1, "told {told} times:\n{log}");
    let shown = n1.output("ringbeat", &["link", "0"])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(
        shown.contains("generic") && shown.contains(&why),
        "`ringbeat link` keeps the reason back: {shown}"
    );
    lab.down()
}

fn socket_datapath(ctx: &mut Ctx) -> Result<()> {
    // It answers from user space: there a deadline of 5 ms is the scheduler's to keep.
    forced(ctx, Mode::Socket, "lan")
}

/// The datapath as forced serves all links, and a cut is told.
fn forced(ctx: &Ctx, mode: Mode, profile: &str) -> Result<()> {
    let datapath = mode.name();
    let spec = LabSpec { datapath: Some(datapath.to_owned()), profile: profile.to_owned(), ..ctx.spec() };
    let lab = cluster(ctx, spec)?;
    has_mode(&lab, mode, true)?;
    let output = lab.node("n1")?.output("ringbeat", &["link"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains(datapath), "`ringbeat link` does not show the mode: {text}");
    let mut ears = Ears::on(&lab, &EVERYONE)?;
    lab.cut(&Cut::node("n2"))?;
    all_lose(&mut ears, &EVERYONE, n2_apart)?;
    ears.forget()?;
    lab.heal(None)?;
    all_find(&mut ears, &EVERYONE, n2_apart)?;
    lab.down()
}

/// 1 ms is less than what a shared machine keeps: only that it comes up, and what it says.
fn metal_profile(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, LabSpec { profile: "metal".to_owned(), ..ctx.spec() })?;
    let report = link(&lab.node("n1")?, 0)?;
    ensure!(
        (report.profile.as_str(), report.interval_us, report.count, report.deadline_us)
            == ("metal", 250, 4, 1000),
        "{} {} {} {}",
        report.profile,
        report.interval_us,
        report.count,
        report.deadline_us
    );
    has_mode(&lab, Mode::Native, false)?;
    let mut ears = Ears::on(&lab, &SURVIVORS)?;
    lab.node("n2")?.kill()?;
    ears.hear(&["peer_gone n2"])?;
    for node in SURVIVORS {
        let told = ears.of(node)?.told()?;
        let only_noise = |event: &EventRecord| {
            event.kind.starts_with("link_") || is_of_views(&event.kind) || name(event) == "peer_gone n2"
        };
        ensure!(told.iter().all(only_noise), "{node} told {:?}", told.iter().map(name).collect::<Vec<_>>());
    }
    lab.down()
}
