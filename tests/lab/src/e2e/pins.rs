//! How a daemon starts where something is missing or in its way, and what it leaves behind.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ringbeat_common::maps::ABI;
use serde_json::{Value, json};

use super::{
    ALL, Ctx, TIMEOUT, Test,
    forge::{PATIENCE, all_hear, ask, hears, incarnation, is_calm, told, until},
};
use crate::{Lab, LabSpec, Node, ProcessState, StartOptions};

pub(super) const TESTS: &[Test] = &[
    Test { name: "pins/one_version_back", needs: ALL, timeout: TIMEOUT, run: one_version_back },
    Test { name: "pins/no_bpffs", needs: ALL, timeout: TIMEOUT, run: no_bpffs },
    Test { name: "pins/no_capabilities", needs: ALL, timeout: TIMEOUT, run: no_capabilities },
    Test { name: "pins/forced_without_capabilities", needs: ALL, timeout: TIMEOUT, run: forced_without },
    Test { name: "pins/foreign_map", needs: ALL, timeout: TIMEOUT, run: foreign_map },
    Test { name: "pins/foreign_abi", needs: ALL, timeout: TIMEOUT, run: foreign_abi },
    Test { name: "pins/second_daemon", needs: ALL, timeout: TIMEOUT, run: second_daemon },
    Test { name: "pins/bad_start", needs: ALL, timeout: TIMEOUT, run: bad_start },
    Test { name: "pins/after_a_kill", needs: ALL, timeout: TIMEOUT, run: after_a_kill },
    Test { name: "pins/clear_pins", needs: ALL, timeout: TIMEOUT, run: clear_pins },
    Test { name: "control/bad_requests", needs: ALL, timeout: TIMEOUT, run: bad_requests },
    Test { name: "control/many_clients", needs: ALL, timeout: TIMEOUT, run: many_clients },
    Test { name: "control/others_than_root", needs: ALL, timeout: TIMEOUT, run: others_than_root },
];

fn lan(ctx: &Ctx) -> LabSpec {
    LabSpec { profile: "lan".to_owned(), ..ctx.spec() }
}

/// Without the rights that kernel programs and their maps need.
fn without_bpf() -> StartOptions {
    let without = "--bounding-set=-bpf,-perfmon,-sys_admin,-net_admin";
    StartOptions { prefix: vec!["setpriv".to_owned(), without.to_owned()], ..StartOptions::default() }
}

fn start(node: &Node<'_>, options: &StartOptions) -> Result<()> {
    node.start(options)?;
    node.wait_ready(PATIENCE)
}

/// Runs the daemon to its end; its exit code and what it said.
fn refused(node: &Node<'_>, before: &[&str], args: &[&str]) -> Result<(Option<i32>, String)> {
    let line = [&["10"], before, &["ringbeatd"], args].concat();
    let output = node.output("timeout", &line)?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Whether a program of ours is on the node's first link, in either direction.
fn is_attached(node: &Node<'_>) -> Result<bool> {
    let shown = node.output("ip", &["-d", "link", "show", "hb0"])?;
    Ok(String::from_utf8_lossy(&shown.stdout).contains("xdp"))
}

/// The names of the pins, sorted.
fn pins(node: &Node<'_>) -> Result<Vec<String>> {
    let folder = node.pins()?;
    let mut names = Vec::new();
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn warnings(node: &Node<'_>) -> Result<String> {
    Ok(ask(node, "status")?["warnings"].to_string())
}

fn no_bpffs(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(lan(ctx))?;
    let n1 = lab.node("n1")?;
    let gone = n1.output("umount", &["/sys/fs/bpf"])?;
    ensure!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
    lab.start_all()?;
    all_hear(&lab)?;
    let status = ask(&n1, "status")?;
    ensure!(status["pins"].is_null(), "pinned where there is no bpffs: {}", status["pins"]);
    ensure!(warnings(&n1)?.contains("nothing is pinned"), "not warned: {}", warnings(&n1)?);
    let links = ask(&n1, "link")?;
    ensure!(links[0]["mode"] == "native" && links[1]["mode"] == "native", "{links}");
    let refused = n1.request(&json!({"request": "handover", "ms": 100}))?;
    ensure!(refused["error"]["code"] == "wrong_state", "{refused}");
    ctx.step("its gate would go with it, so it holds no address, though its id is the lowest");
    // Which of the two depends on who was in the first quorate view.
    until("n2 or n3 holds the address", || {
        let opens = |name: &str| -> Result<bool> {
            Ok(ask(&lab.node(name)?, "status")?["addresses"][0]["here"] == "open")
        };
        Ok(opens("n2")? || opens("n3")?)
    })?;
    let own = ask(&n1, "status")?["addresses"][0].clone();
    ensure!(own["error"].as_str().is_some_and(|error| error.contains("nothing is pinned")), "{own}");
    ctx.step("killed, it is seen as silence; its successor is heard");
    n1.kill()?;
    let n2 = lab.node("n2")?;
    until("n2 misses n1", || Ok(!told(&n2, &["peer_down"])?.is_empty()))?;
    start(&n1, &StartOptions::default())?;
    all_hear(&lab)?;
    lab.down()
}

fn no_capabilities(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(lan(ctx))?;
    let (n1, n2, n3) = (lab.node("n1")?, lab.node("n2")?, lab.node("n3")?);
    n1.start(&without_bpf())?;
    for node in [&n2, &n3] {
        node.start(&StartOptions::default())?;
    }
    for node in lab.nodes() {
        node.wait_ready(PATIENCE)?;
    }
    all_hear(&lab)?;
    for link in ask(&n1, "link")?.as_array().context("a list")? {
        ensure!(link["mode"] == "socket" && link["forced"] == false, "{link}");
        let why = link["fallback"].as_str().unwrap_or_default();
        ensure!(why.to_lowercase().contains("permi"), "the reason is not told: {why:?}");
    }
    let warned = warnings(&n1)?;
    ensure!(warned.contains("plain sockets instead of the kernel plane"), "{warned}");
    ensure!(!is_attached(&n1)?, "a program without the right to load one");
    let logged = n1.log_tail(1000)?;
    let times = logged.matches("no kernel plane").count();
    ensure!(times == 1, "the fallback is logged {times} times");
    lab.down()
}

fn forced_without(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(LabSpec { datapath: Some("native".to_owned()), ..lan(ctx) })?;
    let n1 = lab.node("n1")?;
    let options = without_bpf().prefix;
    let prefix: Vec<&str> = options.iter().map(String::as_str).collect();
    let (code, said) = refused(&n1, &prefix, &[])?;
    ensure!(code == Some(9), "exit code {code:?}: {said}");
    ensure!(said.to_lowercase().contains("permi"), "the reason is not told: {said}");
    ensure!(!is_attached(&n1)?, "a program is left");
    ctx.step("with the rights it runs");
    lab.start_all()?;
    all_hear(&lab)?;
    ensure!(ask(&n1, "link")?[0]["forced"] == true, "not shown as forced");
    lab.down()
}

fn foreign_map(ctx: &mut Ctx) -> Result<()> {
    stranger(ctx, &format!("abi{ABI}/NODE"), "is not of map ABI 2")
}

fn foreign_abi(ctx: &mut Ctx) -> Result<()> {
    stranger(ctx, "abi99/NODE", "holds pins of map ABI 99")
}

/// A pin that is not ours is refused, told and left alone; without it the daemon starts.
fn stranger(ctx: &Ctx, at: &str, reason: &str) -> Result<()> {
    let lab = Lab::up(lan(ctx))?;
    let n1 = lab.node("n1")?;
    let path = n1.pin_stranger(at)?;
    let before = pins(&n1)?;
    let (code, said) = refused(&n1, &[], &[])?;
    ensure!(code == Some(8), "exit code {code:?}: {said}");
    ensure!(said.contains(reason), "the reason is not told: {said}");
    ensure!(path.exists() && pins(&n1)? == before, "the pins are {:?}, not {before:?}", pins(&n1)?);
    ensure!(!is_attached(&n1)?, "a program is left");
    ensure!(!n1.var().join("incarnation").exists(), "an incarnation was used up");
    fs::remove_file(&path)?;
    lab.start_all()?;
    all_hear(&lab)?;
    lab.down()
}

fn second_daemon(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(lan(ctx))?;
    all_hear(&lab)?;
    let n1 = lab.node("n1")?;
    let (before, there) = (incarnation(&n1)?, pins(&n1)?);
    for args in [&[][..], &["--clear-pins"]] {
        let (code, said) = refused(&n1, &[], args)?;
        ensure!(code == Some(5), "{args:?}: exit code {code:?}: {said}");
    }
    ensure!(incarnation(&n1)? == before && pins(&n1)? == there, "the first one was touched");
    is_calm(&lab)?;
    all_hear(&lab)?;
    lab.down()
}

/// Refused before an interface is touched, each with its own code.
fn bad_start(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(lan(ctx))?;
    let n1 = lab.node("n1")?;
    let (config, key) = (n1.etc().join("ringbeat.toml"), n1.etc().join("authkey"));
    let good = fs::read_to_string(&config)?;
    let state = n1.var().join("incarnation");
    let expect = |want: i32, words: &str| -> Result<()> {
        let (code, said) = refused(&n1, &[], &[])?;
        ensure!(code == Some(want), "exit code {code:?}, not {want}: {said}");
        ensure!(said.contains(words), "{words:?} is not told: {said}");
        ensure!(!is_attached(&n1)? && pins(&n1)?.is_empty(), "the kernel was touched");
        Ok(())
    };
    let bad = [
        ("version = 1\n", "version = 1\nversoin = 2\n", "versoin"),
        ("id = 2\n", "id = 1\n", "id"),
        ("\"10.77.0.1\"", "\"10.99.0.1\"", "10.99.0.1"),
        ("profile = \"lan\"", "profile = \"wlan\"", "wlan"),
        ("[cluster]", "[cluster", "ringbeat.toml"),
    ];
    for (from, to, words) in bad {
        ensure!(good.contains(from), "the lab's configuration has no {from:?}");
        fs::write(&config, good.replacen(from, to, 1))?;
        expect(4, words)?;
    }
    fs::write(&config, good.replace("\"hb1\"", "\"hb9\""))?;
    expect(6, "hb9")?;
    fs::write(&config, &good)?;
    ctx.step("the key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o404))?;
    expect(4, "key.exposed")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400))?;
    let bytes = fs::read(&key)?;
    fs::remove_file(&key)?;
    expect(4, "key.missing")?;
    ensure!(!state.exists(), "an incarnation was used up");
    fs::write(&key, bytes)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400))?;
    ctx.step("the state");
    fs::write(&state, "seven\n")?;
    let (code, said) = refused(&n1, &[], &[])?;
    ensure!(code == Some(7) && said.contains("seven"), "exit code {code:?}: {said}");
    ensure!(fs::read_to_string(&state)? == "seven\n", "a spoiled counter was written over");
    fs::remove_file(&state)?;
    lab.start_all()?;
    all_hear(&lab)?;
    lab.down()
}

/// Pins outlive a killed daemon, and its successor goes on with them as another incarnation.
fn after_a_kill(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(lan(ctx))?;
    all_hear(&lab)?;
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    let (first, there) = (incarnation(&n1)?, pins(&n1)?);
    ensure!(["LATCH", "NODE", "SLOTS"].iter().all(|name| there.iter().any(|pin| pin == name)), "{there:?}");
    for round in 0..3 {
        let before = incarnation(&n1)?;
        n1.kill()?;
        until("n1 is dead", || Ok(n1.daemon_state()? == ProcessState::Dead))?;
        ensure!(pins(&n1)? == there, "round {round}: the pins are {:?}", pins(&n1)?);
        ensure!(is_attached(&n1)?, "round {round}: the program went with its daemon");
        until("n2 is told", || Ok(told(&n2, &["peer_gone"])?.len() == round + 1))?;
        start(&n1, &StartOptions::default())?;
        all_hear(&lab)?;
        let (after, status) = (incarnation(&n1)?, ask(&n1, "status")?);
        ensure!(after >> 32 == (before >> 32) + 1 && status["adopted"].is_null(), "{status}");
        ensure!(pins(&n1)? == there, "round {round}: the pins are {:?}", pins(&n1)?);
        let seen = told(&n2, &["peer_restarted"])?;
        ensure!(seen.len() == round + 1, "round {round}: {}", json!(seen));
    }
    ensure!(incarnation(&n1)? != first, "the incarnation is the same");
    ctx.step("a planned end leaves none");
    n1.stop(PATIENCE)?;
    ensure!(pins(&n1)?.is_empty() && !is_attached(&n1)?, "left: {:?}", pins(&n1)?);
    lab.down()
}

/// Pins as a daemon of ABI 1 left them: all maps but those that 2 added, in a folder of that name.
fn one_version_back(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(lan(ctx))?;
    all_hear(&lab)?;
    let n1 = lab.node("n1")?;
    let folder = n1.pins()?;
    for planned in [false, true] {
        ctx.step(if planned { "after a planned end" } else { "after a kill" });
        let life = incarnation(&n1)?;
        if planned {
            let asked = n1.request(&json!({"request": "handover", "ms": 1000}))?;
            ensure!(asked["error"].is_null(), "{asked}");
            n1.stop(PATIENCE)?;
        } else {
            n1.kill()?;
            until("n1 is dead", || Ok(n1.daemon_state()? == ProcessState::Dead))?;
        }
        let older = n1.age_pins()?;
        ensure!(is_attached(&n1)?, "the programs of before went with their names");
        start(&n1, &StartOptions::default())?;
        all_hear(&lab)?;
        ensure!(!older.exists() && folder.join("LEASE").exists(), "{:?}", pins(&n1)?);
        let went_on = incarnation(&n1)? == life;
        ensure!(went_on == planned, "planned {planned}, and the incarnation went on: {went_on}");
        until("n1 is in a view again", || Ok(ask(&n1, "status")?["quorate"] == true))?;
    }
    lab.down()
}

fn clear_pins(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(lan(ctx))?;
    all_hear(&lab)?;
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    n1.kill()?;
    until("n1 is dead", || Ok(n1.daemon_state()? == ProcessState::Dead))?;
    ensure!(is_attached(&n1)?, "the program went with its daemon");
    let (code, said) = refused(&n1, &[], &["--clear-pins"])?;
    ensure!(code == Some(0), "exit code {code:?}: {said}");
    ensure!(pins(&n1)?.is_empty(), "left: {:?}", pins(&n1)?);
    // The kernel lets go of a link a moment after its last name is gone.
    until("no program is left", || Ok(!is_attached(&n1)?))?;
    until("n1 is silent", || {
        Ok(ask(&n2, "link")?[0]["peers"][0]["state"] == "down" && ask(&n2, "status")?["peers_up"] == 1)
    })?;
    start(&n1, &StartOptions::default())?;
    all_hear(&lab)?;
    lab.down()
}

/// Sends bytes and reads what comes back until the daemon closes, or until a line has come.
fn say(node: &Node<'_>, bytes: &[u8]) -> Result<Value> {
    let mut stream = UnixStream::connect(node.socket()?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // A daemon that has heard enough closes.
    let _ = stream.write_all(bytes);
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn bad_requests(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(lan(ctx))?;
    all_hear(&lab)?;
    let n1 = lab.node("n1")?;
    let mut noise = vec![0; 4096];
    getrandom::fill(&mut noise)?;
    noise.push(b'\n');
    let cases: [(&str, Vec<u8>); 9] = [
        ("bad_request", b"\n".to_vec()),
        ("bad_request", b"status\n".to_vec()),
        ("bad_request", b"{\"request\":\"reboot\"}\n".to_vec()),
        ("bad_request", b"{\"request\":\"status\",\"please\":1}\n".to_vec()),
        ("bad_request", b"{\"request\":\"handover\",\"ms\":-1}\n".to_vec()),
        ("out_of_range", b"{\"request\":\"handover\",\"ms\":4000000000}\n".to_vec()),
        ("bad_request", [b"[".repeat(1000), b"\n".to_vec()].concat()),
        ("bad_request", noise),
        ("too_large", vec![b'x'; 1 << 20]),
    ];
    for (code, bytes) in &cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        // Noise may hold an end of line, and be too long, too.
        let answer = say(&n1, bytes).with_context(|| shown.clone())?;
        ensure!(answer["error"]["code"] == *code, "{shown:?}: {answer}");
        ensure!(ask(&n1, "status")?["state"] == "running", "after {shown:?}");
    }
    ctx.step("a good request after a bad one, on one connection");
    let mut stream = UnixStream::connect(n1.socket()?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"nonsense\n{\"request\":\"status\"}\n{\"request\":\"sta")?;
    let mut lines = BufReader::new(&stream).lines();
    let mut next = || -> Result<Value> { Ok(serde_json::from_str(&lines.next().context("closed")??)?) };
    ensure!(next()?["error"]["code"] == "bad_request", "not refused");
    ensure!(next()?["ok"]["node_name"] == "n1", "not answered");
    drop(stream);
    is_calm(&lab)?;
    lab.down()
}

fn many_clients(ctx: &mut Ctx) -> Result<()> {
    const CLIENTS: usize = 100;
    let lab = ctx.running(lan(ctx))?;
    all_hear(&lab)?;
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    ctx.step("a follower that never reads, while much happens");
    let mut lazy = UnixStream::connect(n1.socket()?)?;
    lazy.write_all(b"{\"request\":\"events\",\"follow\":true}\n")?;
    for _ in 0..3 {
        n2.stop(PATIENCE)?;
        start(&n2, &StartOptions::default())?;
        all_hear(&lab)?;
    }
    ctx.step("many at once");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(UnixStream::connect(n1.socket()?)?);
    }
    let (mut served, mut busy) = (0, 0);
    for client in &mut clients {
        client.set_read_timeout(Some(PATIENCE))?;
        // One that was told to come again is closed.
        let _ = client.write_all(b"{\"request\":\"status\"}\n");
        let mut line = String::new();
        let _ = BufReader::new(&*client).read_line(&mut line);
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("{line:?}"))?;
        served += usize::from(answer["ok"]["node_name"] == "n1");
        busy += usize::from(answer["error"]["code"] == "busy");
    }
    ctx.step(&format!("{served} served, {busy} told to come again"));
    ensure!(served + busy == CLIENTS && served >= 60 && busy > 0, "{served} served, {busy} busy");
    drop(clients);
    until("a good request is answered", || Ok(ask(&n1, "status").is_ok()))?;
    let mut first = [0; 1];
    lazy.set_read_timeout(Some(PATIENCE))?;
    ensure!(lazy.read(&mut first)? == 1, "the follower was dropped");
    hears(&n1, 2)?;
    lab.down()
}

fn others_than_root(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(lan(ctx))?;
    all_hear(&lab)?;
    let n1 = lab.node("n1")?;
    // The workspace may be closed to others.
    let copied = n1.output("sh", &["-c", "cp \"$(command -v ringbeat)\" /run/ringbeat-copy"])?;
    ensure!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let as_nobody = || -> Result<(Option<i32>, String)> {
        let line = ["--reuid=65534", "--regid=65534", "--clear-groups", "/run/ringbeat-copy"];
        let socket = ["--socket", "/run/ringbeat/control.sock", "status"];
        let output = n1.output("setpriv", &[&line[..], &socket].concat())?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    ctx.step("by mode");
    let mode = fs::metadata(n1.socket()?)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "mode {mode:o}");
    let (code, said) = as_nobody()?;
    ensure!(code == Some(1) && said.contains("closed to this user"), "{code:?}: {said}");
    ctx.step("by credentials, where the mode was opened");
    fs::set_permissions(n1.socket()?, fs::Permissions::from_mode(0o666))?;
    let (code, said) = as_nobody()?;
    ensure!(code == Some(1) && said.contains("only root may ask"), "{code:?}: {said}");
    ensure!(ask(&n1, "status")?["state"] == "running", "root is not answered");
    std::thread::sleep(Duration::from_millis(100));
    is_calm(&lab)?;
    lab.down()
}
