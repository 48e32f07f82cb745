//! What others can do to a cluster on the wire: strangers, forgers, repeaters, a flood, a twin.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ringbeat_common::frame::{FRAME_BYTES, Frame, Kind};
use serde_json::{Value, json};

use super::{
    ALL, ALONE, Ctx, TIMEOUT, Test,
    forge::{
        Forger, PATIENCE, all_hear, ask, drops, grown, hears, incarnation, is_calm, packet, record, told,
        until,
    },
};
use crate::{Lab, LabSpec, Node, PacketSocket, StartOptions, bench::prober::checksum};

pub(super) const TESTS: &[Test] = &[
    Test { name: "hostile/another_key", needs: ALL, timeout: TIMEOUT, run: another_key },
    Test { name: "hostile/forged_tag", needs: ALL, timeout: TIMEOUT, run: forged_tag },
    Test { name: "hostile/each_reason", needs: ALL, timeout: TIMEOUT, run: each_reason },
    Test { name: "hostile/newer_version", needs: ALL, timeout: TIMEOUT, run: newer_version },
    Test { name: "hostile/odd_lengths", needs: ALL, timeout: TIMEOUT, run: odd_lengths },
    Test { name: "hostile/replayed_capture", needs: ALL, timeout: TIMEOUT, run: replayed_capture },
    Test { name: "hostile/flood", needs: ALONE, timeout: TIMEOUT, run: flood },
    Test { name: "hostile/twin_elsewhere", needs: ALL, timeout: TIMEOUT, run: twin_elsewhere },
    Test {
        name: "hostile/twin_with_the_addresses",
        needs: ALL,
        timeout: TIMEOUT,
        run: twin_with_the_addresses,
    },
    Test { name: "hostile/restored_disk", needs: ALL, timeout: TIMEOUT, run: restored_disk },
];

/// Frames of each kind of a series.
const SERIES: u64 = 100;

/// A lab of calm links, all nodes up.
fn calm_lab(ctx: &Ctx) -> Result<Lab> {
    let lab = ctx.running(LabSpec { profile: "lan".to_owned(), ..ctx.spec() })?;
    all_hear(&lab)?;
    Ok(lab)
}

fn another_key(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(LabSpec { profile: "lan".to_owned(), ..ctx.spec() })?;
    let (n1, n2, n3) = (lab.node("n1")?, lab.node("n2")?, lab.node("n3")?);
    let key = n3.etc().join("authkey");
    let mut bytes = fs::read(&key)?;
    bytes[0] ^= 1;
    fs::remove_file(&key)?;
    fs::write(&key, bytes)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400))?;
    lab.start_all()?;
    hears(&n1, 1)?;
    hears(&n2, 1)?;
    let before = [drops(&n1, 0)?, drops(&n3, 0)?];
    thread::sleep(Duration::from_millis(700));
    for (node, before) in [&n1, &n3].into_iter().zip(&before) {
        let grown = grown(before, &drops(node, 0)?);
        ensure!(grown.get("foreign").is_some_and(|count| *count > 2), "{}: {grown:?}", node.name());
        ensure!(grown.len() == 1, "{}: {grown:?}", node.name());
    }
    ensure!(ask(&n3, "status")?["peers_up"] == 0, "n3 hears somebody with another key");
    for node in [&n1, &n2] {
        let of_n3 = told(node, &[])?.into_iter().filter(|event| event["node"] == "n3").count();
        ensure!(of_n3 == 0, "{} tells of n3", node.name());
    }
    lab.down()
}

fn forged_tag(ctx: &mut Ctx) -> Result<()> {
    let lab = calm_lab(ctx)?;
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    let forger = Forger::new(&n1)?;
    let wire = n2.packets("hb0")?;
    let before = drops(&n1, 0)?;
    for kind in [Kind::Probe, Kind::Answer, Kind::Hello, Kind::Welcome, Kind::Confirm] {
        let mut frame = forger.frame(kind, &n2, &n1, 0)?;
        for sequence in 1..=SERIES {
            // Far above all real ones: a frame that got in would shut out what follows.
            frame.set_sequence(1 << 40 | sequence);
            frame.set_tag(sequence);
            wire.send(&packet(&n2, &n1, 0, &frame.to_bytes())?)?;
            // One bit of a frame that was sealed.
            let mut bent = forger.sealed(frame);
            bent.set_heard(bent.heard() ^ 1 << (sequence % 64));
            wire.send(&packet(&n2, &n1, 0, &bent.to_bytes())?)?;
        }
    }
    until("all forged frames are counted", || {
        Ok(grown(&before, &drops(&n1, 0)?).get("forged") == Some(&(SERIES * 2 * 5)))
    })?;
    thread::sleep(Duration::from_millis(100));
    let grown = grown(&before, &drops(&n1, 0)?);
    ensure!(grown.len() == 1, "{grown:?}");
    is_calm(&lab)?;
    lab.down()
}

/// One frame for each reason, all with a tag that fits.
fn each_reason(ctx: &mut Ctx) -> Result<()> {
    type Change = fn(&mut Frame);
    let cases: [(&str, Change); 11] = [
        ("version", |frame| frame.set_min_version(2)),
        ("malformed", |frame| frame.set_kind(77)),
        ("malformed", |frame| frame.set_sender(64)),
        ("foreign", |frame| frame.set_cluster_id(1)),
        ("wrong_link", |frame| frame.set_link(1)),
        ("wrong_link", |frame| frame.set_link(7)),
        ("unknown_key", |frame| frame.set_key_id(1)),
        ("self_sent", |frame| frame.set_sender(frame.target())),
        ("incarnation", |frame| frame.set_incarnation(frame.incarnation() + 1)),
        ("target_incarnation", |frame| frame.set_target_incarnation(1)),
        ("future_stamp", |frame| {
            frame.set_sequence(1 << 40);
            frame.set_returned(u64::MAX / 2);
        }),
    ];
    let lab = calm_lab(ctx)?;
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    let (forger, wire) = (Forger::new(&n1)?, n2.packets("hb0")?);
    let answers = lab.node("switch")?.packets("n1l0")?;
    let cases = cases.into_iter().chain([("replayed", (|_| {}) as Change)]);
    let good = forger.frame(Kind::Probe, &n2, &n1, 0)?;
    for (reason, change) in cases {
        let mut frame = good;
        change(&mut frame);
        let frame = forger.sealed(frame);
        let before = drops(&n1, 0)?;
        let ((), seen) = record(&answers, || {
            wire.send(&packet(&n2, &n1, 0, &frame.to_bytes())?)?;
            until(reason, || Ok(grown(&before, &drops(&n1, 0)?).get(reason) == Some(&1)))
        })?;
        let answered = seen.iter().filter(|(seen, _)| seen.returned() == good.stamp()).count();
        ensure!(answered == 0, "{reason}: answered");
        let grown = grown(&before, &drops(&n1, 0)?);
        ensure!(grown.len() == 1, "{reason}: {grown:?}");
    }
    is_calm(&lab)?;
    lab.down()
}

/// A later version that we can read is read, one that we cannot is not.
fn newer_version(ctx: &mut Ctx) -> Result<()> {
    const TRIES: usize = 50;
    let lab = calm_lab(ctx)?;
    let (n1, n2, switch) = (lab.node("n1")?, lab.node("n2")?, lab.node("switch")?);
    let (forger, wire) = (Forger::new(&n1)?, n2.packets("hb0")?);
    let port = switch.packets("n2l0")?;
    let taken = |least: u8| -> Result<bool> {
        for _ in 0..TRIES {
            // The next number after the newest real probe's: it may come too late, hence the tries.
            let ((), seen) = record(&port, || {
                thread::sleep(Duration::from_millis(8));
                Ok(())
            })?;
            let probe = |frame: &&Frame| {
                frame.kind() == Kind::Probe as u8 && (frame.sender(), frame.target()) == (1, 0)
            };
            let Some(newest) = seen.iter().map(|(frame, _)| frame).rfind(probe) else { continue };
            let mut frame = *newest;
            frame.set_version(2);
            frame.set_min_version(least);
            frame.set_sequence(newest.sequence() + 1);
            frame.set_stamp(newest.stamp() + 1);
            let bytes = packet(&n2, &n1, 0, &forger.sealed(frame).to_bytes())?;
            let ((), seen) = record(&port, || {
                wire.send(&bytes)?;
                thread::sleep(Duration::from_millis(8));
                Ok(())
            })?;
            if seen
                .iter()
                .any(|(answer, _)| (answer.kind(), answer.returned()) == (Kind::Answer as u8, frame.stamp()))
            {
                return Ok(true);
            }
        }
        Ok(false)
    };
    ensure!(taken(1)?, "a frame of version 2 that version 1 can read is not answered");
    let before = drops(&n1, 0)?;
    ensure!(!taken(2)?, "a frame that wants version 2 is answered");
    let count = grown(&before, &drops(&n1, 0)?).get("version").copied().unwrap_or(0);
    ensure!(count > 0 && count <= TRIES as u64, "{count} of {TRIES} dropped for their version");
    is_calm(&lab)?;
    lab.down()
}

fn odd_lengths(ctx: &mut Ctx) -> Result<()> {
    let lab = calm_lab(ctx)?;
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    let (forger, wire) = (Forger::new(&n1)?, n2.packets("hb0")?);
    let mut frame = forger.frame(Kind::Probe, &n2, &n1, 0)?;
    frame.set_sequence(1 << 40);
    let long = [forger.sealed(frame).to_bytes().as_slice(), &[0xa5; 1400]].concat();
    let before = drops(&n1, 0)?;
    let mut sent = 0;
    let mut send = |bytes: &[u8]| -> Result<()> {
        sent += 1;
        Ok(wire.send(bytes)?)
    };
    ctx.step("datagrams of all lengths but the right one");
    for length in (0..=long.len().min(1472)).filter(|length| *length != FRAME_BYTES) {
        send(&packet(&n2, &n1, 0, &long[..length])?)?;
    }
    let whole = packet(&n2, &n1, 0, &long[..FRAME_BYTES])?;
    ctx.step("packets that end too early");
    for length in 14..whole.len() {
        send(&whole[..length])?;
    }
    ctx.step("headers that lie");
    for (at, byte) in [(14, 0x46), (14, 0x65), (17, 1), (20, 0x20), (21, 1), (23, 6), (38, 1), (39, 1)] {
        let mut bent = whole.clone();
        bent[at] = byte;
        bent[24..26].fill(0);
        let sum = checksum(&bent[14..34]);
        bent[24..26].copy_from_slice(&sum.to_be_bytes());
        send(&bent)?;
    }
    ctx.step("noise on the port");
    let mut noise = [0; 1400];
    for length in 0..SERIES {
        getrandom::fill(&mut noise)?;
        send(&packet(&n2, &n1, 0, &noise[..usize::try_from(length * 14)?])?)?;
    }
    thread::sleep(Duration::from_millis(200));
    ctx.step(&format!("{sent} packets"));
    let grown = grown(&before, &drops(&n1, 0)?);
    ensure!(grown.is_empty(), "counted as frames: {grown:?}");
    is_calm(&lab)?;
    all_hear(&lab)?;
    lab.down()
}

/// All that n2 ever sent to n1, handshakes too, is sent again: at once, to another life of n1, for another
/// life of n2, and to an n1 that hears nobody.
fn replayed_capture(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(LabSpec { profile: "lan".to_owned(), ..ctx.spec() })?;
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    let port = lab.node("switch")?.packets("n1l0")?;
    let ((), seen) = record(&port, || {
        lab.start_all()?;
        all_hear(&lab)?;
        thread::sleep(Duration::from_millis(300));
        Ok(())
    })?;
    let capture: Vec<_> =
        seen.into_iter().filter(|(frame, _)| (frame.sender(), frame.target()) == (1, 0)).collect();
    let count = |kinds: &[Kind]| {
        let of = |frame: &Frame| kinds.iter().any(|kind| frame.kind() == *kind as u8);
        capture.iter().filter(|(frame, _)| of(frame)).count() as u64
    };
    let beats = count(&[Kind::Probe, Kind::Answer]);
    let (hellos, proofs) = (count(&[Kind::Hello]), count(&[Kind::Welcome, Kind::Confirm]));
    ctx.step(&format!(
        "captured {beats} probes and answers, {hellos} Hellos, {proofs} Welcomes and Confirms"
    ));
    ensure!(beats > 50 && hellos > 0 && proofs > 0, "not enough captured");
    let replay = |reason: &str| -> Result<()> {
        let before = drops(&n1, 0)?;
        capture.iter().try_for_each(|(_, bytes)| port.send(bytes))?;
        until(&format!("{beats} dropped as {reason}"), || {
            Ok(grown(&before, &drops(&n1, 0)?).get(reason) == Some(&beats))
        })
    };
    let same = |peer: &str, want: u64| -> Result<()> {
        let peers = ask(&n1, "peers")?;
        let found = peers.as_array().and_then(|peers| peers.iter().find(|one| one["name"] == peer));
        let shown = found.context("no such peer")?["incarnation"].as_str().unwrap_or_default().to_owned();
        let want = ringbeat_control::incarnation_text(want).unwrap_or_default();
        ensure!(shown == want, "{peer} is {shown}, not {want}");
        Ok(())
    };
    ctx.step("at once");
    replay("replayed")?;
    same("n2", incarnation(&n2)?)?;
    is_calm(&lab)?;

    ctx.step("to another life of n1");
    n1.kill()?;
    until("n1 is dead", || Ok(n1.daemon_state()? == crate::ProcessState::Dead))?;
    n1.start(&StartOptions::default())?;
    n1.wait_ready(PATIENCE)?;
    all_hear(&lab)?;
    let events = told(&n1, &[])?.len();
    replay("target_incarnation")?;
    same("n2", incarnation(&n2)?)?;
    ensure!(told(&n1, &[])?.len() == events, "told: {}", json!(told(&n1, &[])?));

    ctx.step("of a former life of n2");
    n2.stop(PATIENCE)?;
    n2.start(&StartOptions::default())?;
    n2.wait_ready(PATIENCE)?;
    all_hear(&lab)?;
    let events = told(&n1, &[])?.len();
    replay("incarnation")?;
    same("n2", incarnation(&n2)?)?;
    ensure!(told(&n1, &[])?.len() == events, "told: {}", json!(told(&n1, &[])?));

    ctx.step("to an n1 that hears nobody");
    for node in lab.nodes() {
        node.stop(PATIENCE)?;
    }
    n1.start(&StartOptions::default())?;
    n1.wait_ready(PATIENCE)?;
    for _ in 0..5 {
        replay("incarnation")?;
        thread::sleep(Duration::from_millis(100));
    }
    same("n2", 0)?;
    ensure!(ask(&n1, "status")?["peers_up"] == 0, "n1 hears the dead");
    let unproven = ask(&n1, "stats")?["extra"]["handshake_unproven"].as_u64();
    ensure!(unproven >= Some(proofs), "{unproven:?} unproven, {proofs} Welcomes and Confirms");
    is_calm_on(&n1)?;
    lab.down()
}

fn is_calm_on(node: &Node<'_>) -> Result<()> {
    let events = told(node, &[])?;
    ensure!(events.is_empty(), "{} told: {}", node.name(), json!(events));
    Ok(())
}

/// Well-formed frames with a bad tag, as fast as this machine can make them.
fn flood(ctx: &mut Ctx) -> Result<()> {
    const SECONDS: u64 = 3;
    const RATE: u64 = 500_000;
    let lab = calm_lab(ctx)?;
    let (n1, n3) = (lab.node("n1")?, lab.node("n3")?);
    let mut frame = Forger::new(&n1)?.frame(Kind::Probe, &n3, &n1, 0)?;
    frame.set_sequence(1 << 40);
    frame.set_tag(7);
    let bytes = packet(&n3, &n1, 0, &frame.to_bytes())?;
    let port = lab.node("switch")?;
    let sockets = [port.packets("n1l0")?, port.packets("n1l0")?];
    let before = drops(&n1, 0)?.get("forged").copied().unwrap_or(0);
    let sent = AtomicU64::new(0);
    let begin = Instant::now();
    thread::scope(|scope| {
        let senders: Vec<_> = sockets
            .iter()
            .map(|socket| scope.spawn(|| pour(socket, &bytes, begin, SECONDS, &sent)))
            .collect();
        senders
            .into_iter()
            .try_for_each(|sender| sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))?)
    })?;
    let took = begin.elapsed().as_secs_f64();
    thread::sleep(Duration::from_millis(200));
    let dropped = drops(&n1, 0)?.get("forged").copied().unwrap_or(0) - before;
    let rate = |count: u64| (count as f64 / took) as u64;
    let (sent, checked) = (rate(sent.load(Ordering::Relaxed)), rate(dropped));
    ctx.step(&format!("{sent} frames a second sent, {checked} a second checked and dropped"));
    is_calm(&lab)?;
    all_hear(&lab)?;
    ensure!(checked >= RATE, "only {checked} frames a second arrived of {sent} sent: too slow a machine?");
    lab.down()
}

/// Sends one packet over and over until the time is up.
fn pour(socket: &PacketSocket, bytes: &[u8], begin: Instant, seconds: u64, sent: &AtomicU64) -> Result<()> {
    let batch = [bytes; 64];
    while begin.elapsed() < Duration::from_secs(seconds) {
        match socket.send_many(&batch) {
            Ok(count) => sent.fetch_add(count as u64, Ordering::Relaxed),
            // The ring of the wire is full.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(())
}

/// n3 runs as n2 at addresses of its own: somebody mistook an id.
fn twin_elsewhere(ctx: &mut Ctx) -> Result<()> {
    twins(ctx, |lab, n2, n3, text| {
        let mut text = text;
        for link in 0..lab.spec().links {
            text = text.replace(&format!("\"{}\"", n2.address(link)?), "\"here\"");
            text = text.replace(&format!("\"{}\"", n3.address(link)?), &format!("\"{}\"", n2.address(link)?));
            text = text.replace("\"here\"", &format!("\"{}\"", n3.address(link)?));
        }
        Ok(text)
    })
}

/// n3 is a copy of n2 but for its MAC addresses: a cloned machine.
fn twin_with_the_addresses(ctx: &mut Ctx) -> Result<()> {
    twins(ctx, |lab, n2, n3, text| {
        for link in 0..lab.spec().links {
            let (address, interface) = (n2.address(link)?, format!("hb{link}"));
            let address = format!("{address}/24");
            let added = n3.output("ip", &["addr", "add", &address, "brd", "+", "dev", &interface])?;
            ensure!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        }
        Ok(text)
    })
}

/// n3 starts as n2, in a configuration that `settle` makes of the cluster's: both say so and take no part.
fn twins(ctx: &Ctx, settle: impl FnOnce(&Lab, &Node<'_>, &Node<'_>, String) -> Result<String>) -> Result<()> {
    let lab = Lab::up(LabSpec { profile: "lan".to_owned(), ..ctx.spec() })?;
    let (n1, n2, n3) = (lab.node("n1")?, lab.node("n2")?, lab.node("n3")?);
    for node in [&n1, &n2] {
        node.start(&StartOptions::default())?;
        node.wait_ready(PATIENCE)?;
    }
    hears(&n1, 1)?;
    hears(&n2, 1)?;
    let config = n3.etc().join("ringbeat.toml");
    let text = fs::read_to_string(&config)?.replace("[cluster]\n", "[cluster]\nnode = \"n2\"\n");
    fs::write(&config, settle(&lab, &n2, &n3, text)?)?;
    let begin = Instant::now();
    n3.start(&StartOptions::default())?;
    n3.wait_ready(PATIENCE)?;
    for node in [&n2, &n3] {
        until(&format!("{} knows its twin", node.name()), || {
            Ok(ask(node, "status")?["state"] == "duplicate")
        })?;
        let said = told(node, &["duplicate_self"])?;
        ensure!(said.len() == 1, "{}: {}", node.name(), json!(said));
        let warned = ask(node, "status")?["warnings"].to_string();
        ensure!(warned.contains("another machine runs with this node's id"), "{}: {warned}", node.name());
    }
    ctx.step(&format!("both knew after {:?}", begin.elapsed()));
    ctx.step("they take no part");
    until("n1 hears neither", || Ok(ask(&n1, "status")?["peers_up"] == 0))?;
    let sent = |node: &Node<'_>| -> Result<(Value, Value)> {
        let stats = ask(node, "stats")?;
        Ok((stats["probes_sent"].clone(), stats["probes_answered"].clone()))
    };
    let before = [sent(&n2)?, sent(&n3)?];
    thread::sleep(Duration::from_millis(1500));
    ensure!(before == [sent(&n2)?, sent(&n3)?], "one that stands aside still probes or answers");
    for node in [&n2, &n3] {
        ensure!(ask(node, "status")?["state"] == "duplicate", "{} is back", node.name());
    }
    ensure!(ask(&n1, "status")?["state"] == "running", "n1 was drawn into it");
    let of_n2: Vec<Value> = told(&n1, &[])?;
    ctx.step(&format!("n1 told: {}", json!(of_n2.iter().map(|event| &event["kind"]).collect::<Vec<_>>())));
    lab.down()
}

/// The disk of n2 is set back to an earlier day.
fn restored_disk(ctx: &mut Ctx) -> Result<()> {
    let lab = calm_lab(ctx)?;
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    let disk = n2.var().join("incarnation");
    let backup = fs::read_to_string(&disk)?;
    let restart = || -> Result<u64> {
        n2.stop(PATIENCE)?;
        n2.start(&StartOptions::default())?;
        n2.wait_ready(PATIENCE)?;
        all_hear(&lab)?;
        incarnation(&n2)
    };
    let second = restart()?;
    let third = restart()?;
    ensure!(third >> 32 == (second >> 32) + 1, "{second:x} {third:x}");
    ensure!(told(&n1, &["incarnation_rolled_back"])?.is_empty(), "told without a reason");
    fs::write(&disk, &backup)?;
    let again = restart()?;
    ensure!(again >> 32 == second >> 32 && again != second, "{second:x} {again:x}");
    for name in ["n1", "n3"] {
        let said = told(&lab.node(name)?, &["incarnation_rolled_back"])?;
        ensure!(said.len() == 1 && said[0]["node"] == "n2", "{name}: {}", json!(said));
    }
    ensure!(Path::new(&disk).exists(), "the counter is gone");
    lab.down()
}
