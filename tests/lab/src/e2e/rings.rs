//! The ordered ring and its process groups, end to end: what programs on the nodes are told.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use ringbeat_client::{Client, Code, Error, Event, Member, Reason};

use super::{
    ALL, Ctx, Test,
    address::LONG,
    expect::{Ear, all_up, status, wait},
};
use crate::{Cut, Direction, Lab, LabSpec, Node, StartOptions};

pub(super) const TESTS: &[Test] = &[
    Test { name: "ring/messages_to_all", needs: ALL, timeout: LONG, run: messages_to_all },
    Test { name: "ring/a_program_that_dies", needs: ALL, timeout: LONG, run: dies },
    Test { name: "ring/last_words_of_a_program", needs: ALL, timeout: LONG, run: last_words },
    Test { name: "ring/a_program_that_does_not_read", needs: ALL, timeout: LONG, run: does_not_read },
    Test { name: "ring/a_program_that_talks_nonsense", needs: ALL, timeout: LONG, run: nonsense },
    Test { name: "ring/a_node_that_dies_and_returns", needs: ALL, timeout: LONG, run: node_dies },
    Test { name: "ring/planned_restart", needs: ALL, timeout: LONG, run: planned_restart },
    Test { name: "ring/partition_and_merge", needs: ALL, timeout: LONG, run: partition },
    Test { name: "ring/link_cut", needs: ALL, timeout: LONG, run: link_cut },
    Test { name: "ring/sealed", needs: ALL, timeout: LONG, run: sealed },
    Test { name: "ring/another_cipher", needs: ALL, timeout: LONG, run: another_cipher },
    Test { name: "ring/ipv6_and_active", needs: ALL, timeout: LONG, run: ipv6_and_active },
    Test { name: "ring/verify_under_faults", needs: ALL, timeout: LONG, run: verify_under_faults },
];

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const GROUP: &[u8] = b"test";
const PATIENCE: Duration = Duration::from_secs(20);

fn lab(ctx: &Ctx) -> Result<Lab> {
    of(ctx, LabSpec { ..ctx.spec() })
}

fn of(ctx: &Ctx, spec: LabSpec) -> Result<Lab> {
    let lab = ctx.running(spec)?;
    all_up(&lab)?;
    turns(&lab, &NODES)?;
    Ok(lab)
}

/// Waits until the ring of just these turns.
fn turns(lab: &Lab, names: &[&str]) -> Result<()> {
    for name in names {
        wait(&format!("the ring of {name} turns with {names:?}"), || {
            let status = status(&lab.node(name)?)?;
            let view = status.view.map(|view| (view.epoch, view.members)).unwrap_or_default();
            Ok(status.ring.state == "operational" && view.0 == status.ring.epoch && view.1 == names)
        })?;
    }
    Ok(())
}

fn joined(node: &Node<'_>) -> Result<Client> {
    let mut client = Client::connect(&node.groups()?)?;
    client.join(GROUP)?;
    Ok(client)
}

/// The next event that fits; what comes before it is passed over.
fn next<T>(client: &mut Client, what: &str, fits: impl Fn(&Event) -> Option<T>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        let event = client.next(Some(end.saturating_duration_since(Instant::now())))?;
        let event = event.with_context(|| format!("{what} does not come"))?;
        if let Some(fitting) = fits(&event) {
            return Ok(fitting);
        }
    }
}

/// Waits until the group has so many members.
fn members(client: &mut Client, count: usize) -> Result<Vec<Member>> {
    next(client, &format!("a group of {count}"), |event| match event {
        Event::Configuration { members, .. } if members.len() == count => Some(members.clone()),
        _ => None,
    })
}

fn message(client: &mut Client) -> Result<(Member, Vec<u8>)> {
    next(client, "a message", |event| match event {
        Event::Message { from, bytes, .. } => Some((*from, bytes.to_vec())),
        _ => None,
    })
}

/// Why a member went.
fn left(client: &mut Client, member: Member) -> Result<Reason> {
    next(client, &format!("the leave of {member}"), |event| match event {
        Event::Configuration { left, .. } => {
            left.iter().find(|(gone, _)| *gone == member).map(|(_, reason)| *reason)
        }
        _ => None,
    })
}

fn messages_to_all(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let nodes = NODES.map(|name| lab.node(name));
    let mut clients = nodes.iter().flatten().map(joined).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        members(client, 3)?;
    }
    // Small, empty, cut in many packets, and in pieces of its own.
    let sizes = [3, 0, 5000, 1 << 20, 3_500_000];
    for (round, size) in sizes.iter().enumerate() {
        for client in &mut clients {
            let own = client.own();
            client.send(GROUP, &vec![own.node ^ round as u8; *size])?;
            client.flush()?;
        }
    }
    let mut told = Vec::new();
    for client in &mut clients {
        let all = (0..3 * sizes.len()).map(|_| message(client)).collect::<Result<Vec<_>>>()?;
        for member in all.iter().map(|(from, _)| *from).collect::<std::collections::BTreeSet<_>>() {
            let own: Vec<_> = all.iter().filter(|(from, _)| *from == member).collect();
            for (round, (_, bytes)) in own.iter().enumerate() {
                let is_whole = bytes.len() == sizes[round]
                    && bytes.iter().all(|byte| *byte == member.node ^ round as u8);
                ensure!(is_whole, "message {round} of {member} has {} bytes", bytes.len());
            }
        }
        told.push(all);
    }
    ensure!(told[0] == told[1] && told[1] == told[2], "the members were told in different orders");
    let refused = clients[0].send(b"another", b"x").and_then(|()| clients[0].flush());
    refused?;
    let why = next(&mut clients[0], "a refusal", |event| match event {
        Event::NotSent { code, .. } => Some(*code),
        _ => None,
    })?;
    ensure!(why == Code::NotMember, "refused as {why:?}");
    let twice = clients[0].join(GROUP);
    ensure!(matches!(twice, Err(Error::Refused { code: Code::Exists, .. })), "{twice:?}");
    let own = clients[0].own();
    clients[0].leave(GROUP)?;
    ensure!(left(&mut clients[1], own)? == Reason::Leave);
    ensure!(clients[1].list()?.len() == 1);
    lab.down()
}

fn dies(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let mut watcher = joined(&lab.node("n1")?)?;
    for _ in 0..20 {
        let dying = joined(&lab.node("n2")?)?;
        members(&mut watcher, 2)?;
        let (member, gone) = (dying.own(), Instant::now());
        drop(dying);
        ensure!(left(&mut watcher, member)? == Reason::ProcessDown);
        ctx.step(&format!("its leave was told after {:.2} ms", gone.elapsed().as_secs_f64() * 1e3));
    }
    lab.down()
}

/// What a program has said before it goes is told, all of it, and then that it has gone.
fn last_words(ctx: &mut Ctx) -> Result<()> {
    const COUNT: u32 = 3000;
    let lab = lab(ctx)?;
    let mut watcher = joined(&lab.node("n1")?)?;
    for name in ["n1", "n2"] {
        let mut dying = joined(&lab.node(name)?)?;
        members(&mut watcher, 2)?;
        let member = dying.own();
        for number in 0..COUNT {
            dying.send(GROUP, &number.to_le_bytes())?;
        }
        dying.flush()?;
        drop(dying);
        for number in 0..COUNT {
            let (from, bytes) = message(&mut watcher)?;
            ensure!(
                from == member && bytes == number.to_le_bytes(),
                "message {number} of {name} is not the next"
            );
        }
        ensure!(left(&mut watcher, member)? == Reason::ProcessDown);
    }
    lab.down()
}

/// It is let go, and everybody else goes on meanwhile.
fn does_not_read(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let (mut sender, sleeper) = (joined(&lab.node("n1")?)?, joined(&lab.node("n2")?)?);
    let mut other = joined(&lab.node("n3")?)?;
    members(&mut other, 3)?;
    let body = vec![7; 100_000];
    let mut sent = 0;
    let reason = loop {
        sender.send(GROUP, &body)?;
        sent += 1;
        let event = next(&mut other, "anything", |event| Some(event.clone()))?;
        if let Event::Configuration { left, .. } = event {
            break left.first().context("somebody left")?.1;
        }
        ensure!(sent < 5000, "it is never let go");
        while sender.next(Some(Duration::ZERO))?.is_some() {}
    };
    ensure!(reason == Reason::ProcessDown, "gone for {reason:?}");
    ensure!(sent > 100, "let go after {sent} messages");
    drop(sleeper);
    sender.send(GROUP, b"on")?;
    next(&mut other, "the next message", |event| match event {
        Event::Message { bytes, .. } if bytes == "on" => Some(()),
        _ => None,
    })?;
    ensure!(status(&lab.node("n2")?)?.ring.programs_let_go == 1);
    lab.down()
}

fn nonsense(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let node = lab.node("n1")?;
    let mut watcher = joined(&node)?;
    let hello = [2, 0, 0, 0, 1, 1];
    let cases: [&[u8]; 7] = [
        b"GET / HTTP/1.0\r\n\r\n",
        &[0, 0, 0, 0],
        &[255, 255, 255, 255, 1],
        // Another version, a join before hello, a kind that nobody knows, an empty name.
        &[2, 0, 0, 0, 1, 9],
        &[3, 0, 0, 0, 2, 1, b'x'],
        &[2, 0, 0, 0, 1, 1, 1, 0, 0, 0, 77],
        &[2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 2, 0],
    ];
    for case in cases {
        let mut stream = UnixStream::connect(node.groups()?)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(case)?;
        let mut answer = Vec::new();
        // It hangs up, with a reason; a reset is as good.
        let _ = stream.read_to_end(&mut answer);
        ensure!(!answer.is_empty(), "no word to {case:?}");
    }
    // Half a frame, and nothing more: it costs a connection, and ends with it.
    let mut halves = Vec::new();
    for _ in 0..200 {
        let Ok(mut stream) = UnixStream::connect(node.groups()?) else { continue };
        let _ = stream.write_all(&hello[..5]);
        halves.push(stream);
    }
    wait("no more than may be are let in", || Ok(status(&node)?.ring.programs == 128))?;
    drop(halves);
    wait("all of them are let go", || Ok(status(&node)?.ring.programs == 1))?;
    watcher.send(GROUP, b"still here")?;
    ensure!(message(&mut watcher)?.1 == b"still here");
    lab.down()
}

fn node_dies(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let mut one = joined(&lab.node("n1")?)?;
    let mut three = joined(&lab.node("n3")?)?;
    for round in 0..5u8 {
        let victim = lab.node("n2")?;
        let two = joined(&victim)?;
        let member = two.own();
        members(&mut one, 3)?;
        members(&mut three, 3)?;
        victim.kill()?;
        ensure!(left(&mut one, member)? == Reason::NodeDown && left(&mut three, member)? == Reason::NodeDown);
        one.send(GROUP, &[round])?;
        ensure!(message(&mut three)?.1 == [round] && message(&mut one)?.1 == [round]);
        wait("the daemon is dead", || Ok(victim.daemon_state()? == crate::ProcessState::Dead))?;
        victim.start(&StartOptions::default())?;
        victim.wait_ready(PATIENCE)?;
        turns(&lab, &NODES)?;
    }
    lab.down()
}

/// The life goes on, and its ring does not: its programs are gone, the others' stay, and all agree anew.
fn planned_restart(ctx: &mut Ctx) -> Result<()> {
    let mut spec = ctx.spec();
    spec.cluster_extra.insert("daemon_stall_ms".to_owned(), "10000".to_owned());
    let lab = of(ctx, spec)?;
    for name in ["n2", "n1"] {
        let node = lab.node(name)?;
        let mut watcher = joined(&lab.node("n3")?)?;
        let gone = joined(&node)?;
        members(&mut watcher, 2)?;
        ringbeat_control::Client::connect(&node.socket()?)?.handover(10_000)?;
        node.stop(PATIENCE)?;
        node.start(&StartOptions::default())?;
        node.wait_ready(PATIENCE)?;
        ensure!(status(&node)?.adopted.is_some(), "{name} was not adopted");
        ensure!(left(&mut watcher, gone.own())? == Reason::NodeDown);
        turns(&lab, &NODES)?;
        let mut back = joined(&node)?;
        members(&mut watcher, 2)?;
        back.send(GROUP, b"back")?;
        ensure!(message(&mut watcher)?.1 == b"back");
        drop((watcher, back));
    }
    lab.down()
}

fn partition(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let nodes = NODES.map(|name| lab.node(name));
    let mut clients = nodes.iter().flatten().map(joined).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        members(client, 3)?;
    }
    for round in 0..3u8 {
        lab.partition(&[&["n1", "n2"], &["n3"]])?;
        members(&mut clients[0], 2)?;
        members(&mut clients[1], 2)?;
        members(&mut clients[2], 1)?;
        clients[2].send(GROUP, &[round, 3])?;
        clients[0].send(GROUP, &[round, 1])?;
        ensure!(message(&mut clients[2])?.1 == [round, 3]);
        ensure!(message(&mut clients[1])?.1 == [round, 1] && message(&mut clients[0])?.1 == [round, 1]);
        lab.heal(None)?;
        for client in &mut clients {
            members(client, 3)?;
        }
        clients[2].send(GROUP, &[round, 0])?;
        for client in &mut clients {
            ensure!(message(client)?.1 == [round, 0], "a message of the partition came late");
        }
    }
    lab.down()
}

/// With another link left no view changes, and nothing is lost.
fn link_cut(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let mut ear = Ear::on(&lab.node("n1")?)?;
    let (mut one, mut two) = (joined(&lab.node("n1")?)?, joined(&lab.node("n2")?)?);
    members(&mut two, 2)?;
    let mut number = 0u32;
    for link in [0, 1] {
        lab.cut(&Cut::node("n1").link(link).direction(Direction::Out))?;
        for _ in 0..100 {
            one.send(GROUP, &number.to_le_bytes())?;
            ensure!(message(&mut two)?.1 == number.to_le_bytes(), "message {number} is not the next");
            number += 1;
            thread::sleep(Duration::from_millis(2));
        }
        lab.heal(None)?;
        wait("the link is up again", || {
            let peers = ringbeat_control::Client::connect(&lab.node("n2")?.socket()?)?.peers()?;
            Ok(peers.iter().all(|peer| peer.own || peer.links.iter().all(|link| link.state.name() == "up")))
        })?;
    }
    let views = ear.told()?.iter().filter(|event| event.kind == "install").count();
    ensure!(views == 0, "{views} views were installed");
    lab.down()
}

/// Nothing of a message can be read on the wire, and nothing that is changed is taken.
fn sealed(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let (mut one, mut two) = (joined(&lab.node("n1")?)?, joined(&lab.node("n2")?)?);
    members(&mut two, 2)?;
    let wire = lab.node("switch")?.packets("n2l0")?;
    let secret = b"attack at dawn, attack at dawn, attack at dawn";
    wire.set_patience(Duration::from_millis(300))?;
    for _ in 0..20 {
        one.send(GROUP, secret)?;
        message(&mut two)?;
    }
    let (mut ring, mut buffer) = (Vec::new(), [0; 2048]);
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end
        && let Ok(packet) = wire.recv(&mut buffer)
    {
        ring.extend((packet.get(42..46) == Some(b"RBR1")).then(|| packet.to_vec()));
    }
    ensure!(ring.len() >= 20, "{} frames of the ring were seen", ring.len());
    let is_open = |bytes: &[u8]| bytes.windows(14).any(|window| window == &secret[..14]);
    ensure!(!ring.iter().any(|packet| is_open(packet)), "a message can be read on the wire");
    for packet in ring.iter().rev().take(50) {
        wire.send(packet)?;
        let mut bent = packet.clone();
        let last = bent.len() - 1;
        bent[last] ^= 1;
        // Without a UDP checksum it gets as far as the daemon.
        bent[40..42].fill(0);
        wire.send(&bent)?;
    }
    one.send(GROUP, b"and on")?;
    ensure!(message(&mut two)?.1 == b"and on");
    lab.down()
}

/// Its ring forms with nobody, as if a firewall let heartbeats pass and the ring not: views come less and less often, the
/// lease goes on, and what does not open is counted.
fn another_cipher(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let node = lab.node("n3")?;
    let mut ear = Ear::on(&lab.node("n1")?)?;
    node.stop(PATIENCE)?;
    let path = node.etc().join("ringbeat.toml");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("{text}\n[ring]\ncipher = \"none\"\n"))?;
    node.start(&StartOptions::default())?;
    node.wait_ready(PATIENCE)?;
    let warned = status(&node)?.warnings;
    ensure!(warned.iter().any(|warning| warning.contains("neither sealed nor authenticated")), "{warned:?}");
    wait("frames do not open", || Ok(status(&node)?.ring.frames_refused > 0))?;
    thread::sleep(Duration::from_secs(5));
    let told = ear.told()?;
    let count = |kind: &str| told.iter().filter(|event| event.kind == kind).count();
    let (lost, installs, lapses) = (count("ring_lost"), count("install"), count("lease_lost"));
    ensure!(lost > 0 && (2..12).contains(&installs), "{installs} views, {lost} rings lost");
    ensure!(count("peer_down") == 0 && lapses == 0, "{lapses} lapses of the lease");
    std::fs::write(&path, text)?;
    node.stop(PATIENCE)?;
    node.start(&StartOptions::default())?;
    node.wait_ready(PATIENCE)?;
    turns(&lab, &NODES)?;
    lab.down()
}

fn ipv6_and_active(ctx: &mut Ctx) -> Result<()> {
    let mut spec = LabSpec { ipv6: true, ..ctx.spec() };
    spec.ring.insert("link_mode".to_owned(), "\"active\"".to_owned());
    spec.ring.insert("cipher".to_owned(), "\"chacha20poly1305\"".to_owned());
    let lab = of(ctx, spec)?;
    let (mut one, mut two) = (joined(&lab.node("n1")?)?, joined(&lab.node("n2")?)?);
    members(&mut two, 2)?;
    for number in 0..300u32 {
        if number == 100 {
            lab.cut(&Cut::node("n2").link(1))?;
        }
        one.send(GROUP, &number.to_le_bytes())?;
        ensure!(message(&mut two)?.1 == number.to_le_bytes(), "message {number} is not the next");
    }
    lab.down()
}

/// The command's own check, while nodes are cut, parted and paused.
fn verify_under_faults(ctx: &mut Ctx) -> Result<()> {
    let lab = lab(ctx)?;
    let seconds =
        std::env::var("RINGBEAT_VERIFY_S").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(20);
    let running = NODES
        .iter()
        .map(|name| {
            let node = lab.node(name)?;
            let mut command = node.command("ringbeat")?;
            command.args(["-o", "json", "cpg", "verify", "--rate=500", &format!("--seconds={seconds}")]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            node.spawn(&mut command)
        })
        .collect::<Result<Vec<Child>>>()?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut dice = 7u64;
    while Instant::now() < end {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let victim = NODES[(dice >> 33) as usize % NODES.len()];
        let link = (dice >> 40) as u8 % 2;
        match (dice >> 50) % 5 {
            0 => drop(lab.cut(&Cut::node(victim).link(link))?),
            1 => drop(lab.cut(&Cut::node(victim))?),
            2 => drop(lab.cut(&Cut::node(victim).direction(Direction::In))?),
            3 => {
                lab.node(victim)?.pause()?;
                thread::sleep(Duration::from_millis(dice >> 60 << 6));
                lab.node(victim)?.resume()?;
            }
            _ => drop(lab.cut(&Cut::node(victim).peer("n1"))?),
        }
        thread::sleep(Duration::from_millis(200 + (dice >> 20) % 600));
        lab.heal(None)?;
        thread::sleep(Duration::from_millis(100 + (dice >> 10) % 900));
    }
    for (name, child) in NODES.iter().zip(running) {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ctx.step(&format!("{name}: {}", text.split_whitespace().collect::<String>()));
        if !output.status.success() {
            bail!("{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    lab.down()
}
