//! Service addresses on interfaces: taken off wherever they are, put back where somebody took them away, and given to
//! another node where they cannot be put.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ringbeat_control::Status;

use super::{
    ALL, Ctx, Test,
    address::{ADDRESS, LONG, answers, holder, lab, pinned_gates, runs, whole},
    expect::{Ear, all_up, quiet, status, wait},
};
use crate::{Lab, LabSpec, Node, ProcessState, StartOptions};

pub(super) const TESTS: &[Test] = &[
    Test { name: "interface/renamed_under_the_address", needs: ALL, timeout: LONG, run: renamed },
    Test { name: "interface/prefix_changed_after_a_kill", needs: ALL, timeout: LONG, run: prefix_changed },
    Test { name: "interface/moved_after_a_kill", needs: ALL, timeout: LONG, run: interface_changed },
    Test { name: "interface/dropped_after_a_kill", needs: ALL, timeout: LONG, run: dropped },
    Test { name: "interface/replaced_after_a_kill", needs: ALL, timeout: LONG, run: replaced },
    Test { name: "interface/pins_cleared_without_it", needs: ALL, timeout: LONG, run: pins_cleared },
    Test { name: "interface/start_that_cannot_take_it_off", needs: ALL, timeout: LONG, run: cannot_take_off },
    Test { name: "interface/planned_restart", needs: ALL, timeout: LONG, run: planned_restart },
    Test { name: "interface/cannot_have_it", needs: ALL, timeout: LONG, run: cannot_have_it },
    Test { name: "interface/taken_away", needs: ALL, timeout: LONG, run: taken_away },
    Test { name: "interface/taken_away_on_and_on", needs: ALL, timeout: LONG, run: taken_away_on_and_on },
    Test {
        name: "interface/nobody_else_can_have_it",
        needs: ALL,
        timeout: LONG,
        run: nobody_else_can_have_it,
    },
    Test { name: "interface/others_come_and_go", needs: ALL, timeout: LONG, run: others_come_and_go },
    Test { name: "interface/no_ethernet", needs: ALL, timeout: LONG, run: no_ethernet },
];

/// The addresses of all interfaces, as `ip` prints them.
fn all_addresses(node: &Node<'_>) -> Result<String> {
    let output = node.output("ip", &["-o", "addr", "show"])?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the service address is on any interface of the node, with any prefix.
fn is_anywhere(node: &Node<'_>) -> Result<bool> {
    Ok(all_addresses(node)?.contains(&format!("{ADDRESS}/")))
}

/// A command inside that must succeed.
fn shell(node: &Node<'_>, script: &str) -> Result<()> {
    let output = node.output("sh", &["-c", script])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {script}: {said}", node.name());
    Ok(())
}

/// Writes the node's configuration anew.
fn configure(node: &Node<'_>, change: impl Fn(&str) -> String) -> Result<()> {
    let path = node.etc().join("ringbeat.toml");
    let (old, new) = (fs::read_to_string(&path)?, change(&fs::read_to_string(&path)?));
    ensure!(old != new, "the configuration is as it was");
    Ok(fs::write(&path, new)?)
}

/// The node that holds the address is killed, and the address is still on its interface.
fn killed_holder(lab: &Lab) -> Result<Node<'_>> {
    let node = lab.node(&holder(lab)?)?;
    node.kill()?;
    wait("the daemon is dead", || Ok(node.daemon_state()? == ProcessState::Dead))?;
    ensure!(is_anywhere(&node)?, "a dead daemon took its address off");
    Ok(node)
}

/// A daemon that starts after a kill, with another configuration, takes the address off.
fn starts_clean(ctx: &Ctx, change: impl Fn(&str) -> String) -> Result<()> {
    let lab = lab(ctx)?;
    let node = killed_holder(&lab)?;
    configure(&node, change)?;
    node.start(&StartOptions::default())?;
    node.wait_ready(Duration::from_secs(10))?;
    ensure!(!is_anywhere(&node)?, "left behind:\n{}", all_addresses(&node)?);
    lab.down()
}

fn prefix_changed(ctx: &mut Ctx) -> Result<()> {
    starts_clean(ctx, |text| text.replace("10.78.0.100/24", "10.78.0.100/25"))
}

fn interface_changed(ctx: &mut Ctx) -> Result<()> {
    starts_clean(ctx, |text| text.replace("interface = \"svc0\"", "interface = \"svc1\""))
}

fn dropped(ctx: &mut Ctx) -> Result<()> {
    starts_clean(ctx, without_addresses)
}

fn replaced(ctx: &mut Ctx) -> Result<()> {
    starts_clean(ctx, |text| {
        text.replace("10.78.0.100/24", "10.78.0.101/24").replace("version = 1", "version = 2")
    })
}

/// Of another version, as it shall be with every change.
fn without_addresses(text: &str) -> String {
    let end = text.find("[[address]]").unwrap_or(text.len());
    text[..end].replace("version = 1", "version = 2")
}

/// What was in force when the pins were made counts, not what the configuration says by now.
fn pins_cleared(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let node = killed_holder(&lab)?;
    configure(&node, without_addresses)?;
    let args = vec!["--clear-pins".to_owned()];
    node.start(&StartOptions { args, ..StartOptions::default() })?;
    wait("the pins are cleared", || Ok(node.daemon_state()? == ProcessState::Dead))?;
    ensure!(!node.pins()?.exists(), "pins are left: {}", node.log_tail(3)?);
    ensure!(!is_anywhere(&node)?, "left behind, without a gate:\n{}", all_addresses(&node)?);
    lab.down()
}

/// Without the right to take it off nothing starts, and the gate stays.
fn cannot_take_off(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let node = killed_holder(&lab)?;
    let prefix = vec!["setpriv".to_owned(), "--bounding-set=-net_admin,-sys_admin".to_owned()];
    for args in [Vec::new(), vec!["--clear-pins".to_owned()]] {
        let what = format!("started with {args:?}");
        node.start(&StartOptions { prefix: prefix.clone(), args, ..StartOptions::default() })?;
        wait(&format!("{what}: refused"), || Ok(node.daemon_state()? == ProcessState::Dead))?;
        let said = node.log_tail(1)?;
        ensure!(is_anywhere(&node)?, "{what}: who took it off?");
        ensure!(!pinned_gates(&node)?.is_empty(), "{what}: the address has lost its gate: {said}");
        ensure!(said.contains("10.78.0.100/24 on svc0"), "{what}: it says nothing of the address: {said}");
    }
    node.start(&StartOptions::default())?;
    node.wait_ready(Duration::from_secs(10))?;
    ensure!(!is_anywhere(&node)?, "left behind:\n{}", all_addresses(&node)?);
    whole(&lab)?;
    lab.down()
}

/// What is taken over stays where it is held, and nowhere else; an address that is none any more goes.
fn planned_restart(ctx: &mut Ctx) -> Result<()> {
    let addresses = ["10.78.0.100/24", "10.78.0.101/24"].map(str::to_owned).to_vec();
    let cluster_extra = [("daemon_stall_ms".to_owned(), "10000".to_owned())].into();
    let lab = ctx.running(LabSpec { addresses, cluster_extra, ..ctx.spec() })?;
    all_up(&lab)?;
    whole(&lab)?;
    let node = lab.node(&holder(&lab)?)?;
    wait("both addresses are there", || Ok(all_addresses(&node)?.contains("10.78.0.101/")))?;
    ringbeat_control::Client::connect(&node.socket()?)?.handover(9000)?;
    node.stop(Duration::from_secs(5))?;
    shell(&node, "ip addr add 10.78.0.100/32 dev lo")?;
    node.start(&StartOptions::default())?;
    node.wait_ready(Duration::from_secs(10))?;
    let after = status(&node)?;
    ensure!(after.adopted.is_some() && is_open(&after), "{after:?}");
    let there = all_addresses(&node)?;
    let held = there.lines().filter(|line| line.contains("10.78.0.100/")).collect::<Vec<_>>();
    ensure!(held.len() == 1 && held[0].contains("svc0"), "{there}");
    ctx.step(
        "a list of other addresses is another configuration, though the version is the same: nothing goes on",
    );
    ringbeat_control::Client::connect(&node.socket()?)?.handover(9000)?;
    node.stop(Duration::from_secs(5))?;
    configure(&node, |text| text[..text.rfind("[[address]]").unwrap_or(text.len())].to_owned())?;
    node.start(&StartOptions::default())?;
    node.wait_ready(Duration::from_secs(10))?;
    ensure!(status(&node)?.adopted.is_none(), "gates of other addresses were taken over");
    let there = all_addresses(&node)?;
    ensure!(!there.contains("10.78.0.101/"), "left behind, without a gate:\n{there}");
    lab.down()
}

/// Containers come and go on the holder: it keeps the address, each of their interfaces gets a gate, and nothing of those that
/// are gone stays behind, neither a pin nor a descriptor.
fn others_come_and_go(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let held = holder(&lab)?;
    let node = lab.node(&held)?;
    let view = status(&node)?.view;
    let gates = || -> Result<usize> {
        let names = pinned_gates(&node)?;
        Ok(names.iter().filter(|name| name.starts_with("gate_local-")).count())
    };
    let descriptors = || -> Result<usize> {
        let daemon = node.daemon()?.context("no daemon")?;
        Ok(fs::read_dir(format!("/proc/{}/fd", daemon.pid))?.count())
    };
    let (gates_before, descriptors_before) = (gates()?, descriptors()?);
    ensure!(gates_before == usize::from(lab.spec().links), "{:?}", pinned_gates(&node)?);
    shell(
        &node,
        "ip link add more0 type veth peer name more1 && ip link set more0 up && ip link set more1 up",
    )?;
    wait("the new interfaces have gates", || Ok(gates()? == gates_before + 2))?;
    shell(&node, "ip link del more0")?;
    for _ in 0..10 * runs() {
        // Renamed at once, and gone at once, as they are by those who make them.
        shell(
            &node,
            "ip link add a0 type veth peer name a1 && ip link set a0 name b0 && ip link set a1 name b1 && ip link del b0",
        )?;
    }
    wait("the gates of those that are gone are gone", || Ok(gates()? == gates_before))?;
    let after = descriptors()?;
    ensure!(after <= descriptors_before + 8, "{after} descriptors, {descriptors_before} before");
    let said = status(&node)?;
    ensure!(is_open(&said) && said.addresses[0].error.is_none(), "{said:?}");
    ensure!(said.view == view, "a view for interfaces of others: {:?} after {view:?}", said.view);
    lab.down()
}

/// An interface that is renamed takes the address along. The node gives it up, under the new name too.
fn renamed(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    for round in 0..runs() {
        let held = holder(&lab)?;
        let node = lab.node(&held)?;
        shell(&node, "ip link set svc0 name old0")?;
        wait("another node serves the address", || {
            Ok(lab
                .nodes()
                .any(|node| status(&node).is_ok_and(|status| status.node_name != held && is_open(&status))))
        })?;
        let is_off = || Ok(!is_anywhere(&node)?);
        wait(&format!("round {round}: the address is off the renamed interface"), is_off)?;
        shell(&node, "ip link set old0 name svc0")?;
        wait("the node is able again", || Ok(status(&node)?.addresses[0].error.is_none()))?;
    }
    lab.down()
}

fn is_open(status: &Status) -> bool {
    status.addresses.iter().all(|address| address.here == "open")
}

/// A node that cannot put the address on its interface does not keep it from those who can.
fn cannot_have_it(ctx: &mut Ctx) -> Result<()> {
    let addresses = vec!["fd78::100/64".to_owned()];
    let lab = Lab::up(LabSpec { addresses, ..ctx.spec() })?;
    let n1 = lab.node("n1")?;
    shell(&n1, "echo 1 >/proc/sys/net/ipv6/conf/svc0/disable_ipv6")?;
    lab.start_all()?;
    all_up(&lab)?;
    let client = lab.node("client")?;
    shell(&client, "ip -6 addr replace fd78::fa/64 dev svc0 nodad")?;
    let by_others = || Ok(holder(&lab)? != "n1" && answers(&client, "fd78::100")?);
    wait("another node serves the address", by_others)?;
    ctx.step("the first of all to serve it has failed, and says so");
    let told = status(&n1)?.addresses[0].error.clone();
    let events = ringbeat_control::Client::connect(&n1.socket()?)?.events(None, None)?;
    ensure!(
        events.iter().any(|event| event.kind == "address_failed"),
        "n1 never tried, or did not tell: {told:?}"
    );
    ctx.step("mended, it can serve again");
    shell(&n1, "echo 0 >/proc/sys/net/ipv6/conf/svc0/disable_ipv6")?;
    wait("n1 is able again", || Ok(status(&n1)?.addresses[0].error.is_none()))?;
    whole(&lab)?;
    lab.node(&holder(&lab)?)?.kill()?;
    wait("n1 serves the address", || Ok(holder(&lab)? == "n1" && answers(&client, "fd78::100")?))?;
    lab.down()
}

/// Takes the address off as often as it is put back, for three seconds.
const TAKES_OFF: &str = "end=$(($(date +%s) + 3)); \
     while [ $(date +%s) -lt $end ]; do ip addr del 10.78.0.100/24 dev svc0; done 2>&-; true";

/// The only node that could serve the address goes on trying, however often it is taken off, and leaves it to nobody.
fn nobody_else_can_have_it(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let held = holder(&lab)?;
    let node = lab.node(&held)?;
    for other in lab.nodes().filter(|node| node.name() != held) {
        shell(&other, "ip link set svc0 down")?;
        wait("the others are not able", || Ok(status(&other)?.addresses[0].error.is_some()))?;
    }
    let mut ear = Ear::on(&node)?;
    let view = status(&node)?.view;
    shell(&node, TAKES_OFF)?;
    ear.hears(&format!("address_failed {held}"))?;
    let begin = Instant::now();
    let client = lab.node("client")?;
    wait("it serves the address again", || Ok(is_anywhere(&node)? && answers(&client, ADDRESS)?))?;
    // A bar would have lasted for ten.
    ensure!(begin.elapsed() < Duration::from_secs(5), "only after {:?}", begin.elapsed());
    let said = status(&node)?;
    ensure!(said.view == view && is_open(&said), "it gave way to nobody: {said:?}");
    lab.down()
}

/// Where something takes the address off as often as it is put back, another node serves it.
fn taken_away_on_and_on(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let held = holder(&lab)?;
    let node = lab.node(&held)?;
    shell(&node, TAKES_OFF)?;
    let client = lab.node("client")?;
    wait("another node serves the address", || Ok(holder(&lab)? != held && answers(&client, ADDRESS)?))?;
    let why = status(&node)?.addresses[0].error.clone().unwrap_or_default();
    ensure!(why.contains("again and again"), "{held} says {why:?}");
    wait(&format!("{held} is able again"), || Ok(status(&node)?.addresses[0].error.is_none()))?;
    lab.down()
}

/// An address that somebody takes off its interface is put back, and the view stands.
fn taken_away(ctx: &mut Ctx) -> Result<()> {
    let addresses = ["10.78.0.100/24", "fd78::100/64"].map(str::to_owned).to_vec();
    let lab = ctx.running(LabSpec { addresses, ..ctx.spec() })?;
    all_up(&lab)?;
    whole(&lab)?;
    let client = lab.node("client")?;
    shell(&client, "ip -6 addr replace fd78::fa/64 dev svc0 nodad")?;
    let node = lab.node(&holder(&lab)?)?;
    let own = node.service_address()?;
    let (v4, v6) = (ADDRESS, "fd78::100");
    let ways = [
        ("one address", "ip addr del 10.78.0.100/24 dev svc0".to_owned(), vec![v4]),
        ("the other", "ip addr del fd78::100/64 dev svc0".to_owned(), vec![v6]),
        ("the primary, and its secondaries with it", format!("ip addr del {own}/24 dev svc0"), vec![v4]),
        ("all", "ip addr flush dev svc0".to_owned(), vec![v4, v6]),
    ];
    let are_there = |node: &Node<'_>, wanted: &[&str]| -> Result<bool> {
        let there = all_addresses(node)?;
        Ok(wanted.iter().all(|address| there.contains(&format!("{address}/"))))
    };
    for round in 0..runs() {
        for (what, script, gone) in &ways {
            ctx.step(&format!("round {round}: {what}"));
            make_primary(&node, &own)?;
            wait("both addresses are there", || are_there(&node, &[v4, v6]))?;
            // What was done for that is told by then.
            quiet();
            for address in [v4, v6] {
                wait(&format!("{address} answers"), || answers(&client, address))?;
            }
            let before = status(&node)?;
            let mut ear = Ear::on(&node)?;
            shell(&node, script)?;
            let event = ear.hears(&format!("address_added {}", node.name()))?;
            let text = event.text.clone().unwrap_or_default();
            ensure!(text.contains("taken away"), "{what}: told as {event:?}");
            wait(&format!("{gone:?} are back"), || are_there(&node, gone))?;
            for address in gone {
                wait(&format!("{address} answers again"), || answers(&client, address))?;
            }
            let after = status(&node)?;
            ensure!(after.view == before.view && is_open(&after), "{what}: {after:?}");
        }
    }
    lab.down()
}

/// Makes the node's own address the primary one of its subnet, and the service address a secondary, which goes with it.
fn make_primary(node: &Node<'_>, own: &str) -> Result<()> {
    let id = node.id()?;
    shell(node, &format!("ip addr replace fd78::{id}/64 dev svc0 nodad"))?;
    wait("the own address is the primary one", || {
        let output = node.output("ip", &["-o", "addr", "show", "dev", "svc0", "primary"])?;
        if String::from_utf8_lossy(&output.stdout).contains(&format!("{own}/24")) {
            return Ok(true);
        }
        // The daemon puts its own back in no time: as often as it takes.
        let steps =
            [format!("addr del {own}/24"), format!("addr del {ADDRESS}/24"), format!("addr add {own}/24")];
        let batch = steps.map(|step| format!("{step} dev svc0\\n")).concat();
        shell(node, &format!("printf '{batch}' | ip -force -batch - 2>/dev/null || :"))?;
        Ok(false)
    })
}

/// The gates read Ethernet headers: an interface without them is none for a service address.
fn no_ethernet(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    for node in lab.nodes() {
        configure(&node, |text| text.replace("interface = \"svc0\"", "interface = \"lo\""))?;
    }
    lab.start_all()?;
    all_up(&lab)?;
    whole(&lab)?;
    for node in lab.nodes() {
        let address = status(&node)?.addresses[0].clone();
        let error = address.error.clone().with_context(|| format!("{address:?}"))?;
        ensure!(error.contains("no Ethernet") && address.holder.is_none(), "{address:?}");
        ensure!(!is_anywhere(&node)?, "{}", all_addresses(&node)?);
    }
    lab.down()
}
