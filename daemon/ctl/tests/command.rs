//! The built command as a script sees it: exit codes, and what stands on which output.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use ringbeat_control::{
    ErrorReply, EventRecord, Evidence, PeerReport, Request, Response, Stats, code, encode, parse_request,
};
use tempfile::TempDir;

/// The command, with nothing of this machine's own configuration.
fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringbeat"));
    command.arg("--config").arg(folder.join("none.toml")).env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

/// Answers one connection by `serve`, which gets the request.
fn daemon(socket: &Path, serve: impl FnOnce(Request, UnixStream) + Send + 'static) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("a socket");
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut line = Vec::new();
        BufReader::new(&stream).read_until(b'\n', &mut line).expect("a request");
        serve(parse_request(&line).expect("a good request"), stream);
    })
}

fn event(seq: u64) -> EventRecord {
    EventRecord {
        seq,
        stamp_ns: 5_000_000,
        told_ns: 5_312_000,
        wall: "2026-07-14T09:26:53.589793Z".to_owned(),
        kind: "peer_up".to_owned(),
        node: Some("n2".to_owned()),
        node_id: Some(2),
        link: Some(1),
        incarnation: None,
        view: None,
        address: None,
        evidence: Evidence::default(),
        text: None,
    }
}

/// A configuration for a node of any host, with a good key beside it.
fn configuration(folder: &Path) -> PathBuf {
    let key = folder.join("authkey");
    let mut file =
        fs::File::options().write(true).create_new(true).mode(0o400).open(&key).expect("a key file");
    file.write_all(&[7; 64]).expect("written");
    let text = format!(
        r#"[cluster]
name = "test"
node = "n1"
authkey = {key:?}
control = {control:?}

[[link]]
id = 0
interface = "hb0"
network = "10.77.0.0/24"

[[node]]
id = 1
name = "n1"
addresses = ["10.77.0.1"]

[[node]]
id = 2
name = "n2"
addresses = ["10.77.0.2"]
"#,
        control = folder.join("own.sock")
    );
    let path = folder.join("ringbeat.toml");
    fs::write(&path, text).expect("written");
    path
}

#[test]
fn no_daemon_is_3_for_every_question() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("none.sock");
    for verb in
        [&["status"][..], &["link"], &["link", "0"], &["peers"], &["events", "-f"], &["events"], &["stats"]]
    {
        let (status, out, err) = run(command(folder.path()).arg("--socket").arg(&socket).args(verb));
        assert_eq!((status, out.as_str()), (3, ""), "{verb:?}");
        assert!(
            err.starts_with("ringbeat: the daemon is not running: there is no control socket /"),
            "{err}"
        );
        assert!(err.contains("\n  help: start it with `systemctl start ringbeatd`"), "{err}");
    }
    let (status, out, err) =
        run(command(folder.path()).args(["-o", "json", "status", "--socket"]).arg(&socket));
    assert_eq!((status, err.as_str()), (3, ""));
    let document: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(document["error"]["code"], "client.no_socket");
}

#[test]
fn a_command_line_that_is_not_understood_is_64() {
    let folder = TempDir::new().expect("a folder");
    for line in [&["statu"][..], &["link", "256"], &["-o", "xml", "status"], &["events", "-n", "-1"], &[]] {
        let (status, out, err) = run(command(folder.path()).args(line));
        assert_eq!((status, out.as_str()), (64, ""), "{line:?}");
        assert!(err.contains("--help"), "{err}");
    }
    let (status, out, err) = run(&mut Command::new(env!("CARGO_BIN_EXE_ringbeat")));
    assert_eq!((status, out.as_str()), (64, ""));
    assert!(err.contains("Usage: ringbeat") && err.contains("Exit codes:"), "{err}");
    for asked in ["--help", "--version"] {
        let (status, out, _) = run(command(folder.path()).arg(asked));
        assert_eq!(status, 0);
        assert!(out.contains("ringbeat"), "{out}");
    }
}

#[test]
fn a_good_configuration_is_told_and_printed() {
    let folder = TempDir::new().expect("a folder");
    let path = configuration(folder.path());
    let (status, out, err) = run(command(folder.path()).args(["config", "check"]).arg(&path));
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(
        out.ends_with("ok: cluster test, version 1, nodes 2, links 1, this is node n1 (id 1)\n"),
        "{out}"
    );
    let (status, out, _) = run(command(folder.path()).args(["config", "check", "-o", "json"]).arg(&path));
    assert_eq!(status, 0);
    let document: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(document["cluster"]["name"], "test");
}

#[test]
fn a_bad_configuration_is_4_with_its_place() {
    let folder = TempDir::new().expect("a folder");
    let path = configuration(folder.path());
    let text = fs::read_to_string(&path).expect("read").replace("interface =", "interfaze =");
    fs::write(&path, text).expect("written");
    let (status, out, err) = run(command(folder.path()).args(["config", "check"]).arg(&path));
    assert_eq!((status, out.as_str()), (4, ""));
    for word in ["config.unknown_key", "ringbeat.toml:9:1", "interfaze", "did you mean `interface`"] {
        assert!(err.contains(word), "{word}: {err}");
    }
    assert!(!err.contains('\x1b'), "no colour into a pipe: {err:?}");

    let (status, out, err) = run(command(folder.path()).args(["-o", "json", "config", "check"]).arg(&path));
    assert_eq!((status, err.as_str()), (4, ""));
    let error = &serde_json::from_str::<serde_json::Value>(&out).expect("JSON")["error"];
    assert_eq!(error["code"], "config.unknown_key");
    assert_eq!((error["line"].as_u64(), error["column"].as_u64()), (Some(9), Some(1)));
    assert!(error["message"].is_string() && error["help"].is_string(), "{error}");

    let (status, _, err) = run(command(folder.path()).args(["config", "check"]));
    assert_eq!(status, 4);
    assert!(err.contains("none.toml"), "--config is checked where no file is named: {err}");
}

#[test]
fn a_key_that_others_can_read_is_4() {
    let folder = TempDir::new().expect("a folder");
    let path = configuration(folder.path());
    let key = folder.path().join("authkey");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o444)).expect("opened");
    let (status, out, _) = run(command(folder.path()).args(["-o", "json", "config", "check"]).arg(&path));
    let error = &serde_json::from_str::<serde_json::Value>(&out).expect("JSON")["error"];
    assert_eq!((status, error["code"].as_str()), (4, Some("key.exposed")));
    let message = error["message"].as_str().expect("words");
    assert!(message.contains("refused: the key file") && message.contains("0444"), "{message}");
}

#[test]
fn a_key_is_made_once() {
    let folder = TempDir::new().expect("a folder");
    let key = folder.path().join("key");
    let keygen = || run(command(folder.path()).args(["keygen", "--path"]).arg(&key));
    let (status, out, err) = keygen();
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(out.contains("256 bytes, mode 0400"), "{out}");
    let made = fs::read(&key).expect("a key");
    assert_eq!(fs::metadata(&key).expect("a key").permissions().mode() & 0o7777, 0o400);
    let (status, out, err) = keygen();
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(err.contains("exists already"), "{err}");
    assert_eq!(fs::read(&key).expect("a key"), made);
    let (status, out, _) = run(command(folder.path()).args(["-o", "json", "keygen", "--path"]).arg(&key));
    let document: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((status, document["error"]["code"].as_str()), (1, Some("key.exists")));
}

#[test]
fn every_shell_gets_its_completions() {
    let folder = TempDir::new().expect("a folder");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (status, out, err) = run(command(folder.path()).args(["completions", shell]));
        assert_eq!((status, err.as_str()), (0, ""), "{shell}");
        assert!(out.contains("keygen") && out.contains("follow"), "{shell}");
    }
}

#[test]
fn the_example_is_printed_as_it_is() {
    let folder = TempDir::new().expect("a folder");
    let (status, out, _) = run(command(folder.path()).args(["config", "example"]));
    assert_eq!((status, out.as_str()), (0, ringbeat_config::Config::example()));
}

#[test]
fn answers_become_text_and_json() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("control.sock");
    for (format, told) in [("text", "NAME"), ("json", "{\n")] {
        let server = daemon(&socket, |request, mut stream| {
            assert_eq!(request, Request::Stats);
            let stats = Stats { ticks: 77, ..Stats::default() };
            stream.write_all(&encode(&Response::Ok(stats))).expect("written");
        });
        let (status, out, err) =
            run(command(folder.path()).args(["-o", format, "stats", "--socket"]).arg(&socket));
        assert_eq!((status, err.as_str()), (0, ""));
        assert!(out.starts_with(told) && out.contains("77"), "{out}");
        server.join().expect("served");
        fs::remove_file(&socket).expect("removed");
    }
}

#[test]
fn a_status_ends_with_0_where_there_is_a_quorum_and_with_2_where_there_is_none() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("control.sock");
    for (quorate, code) in [(true, 0), (false, 2)] {
        let status = serde_json::json!({
            "cluster": "test", "node_id": 1, "node_name": "n1", "version": "0", "state": "running", "uptime_ms": 5,
            "incarnation": "1-0", "config_version": 1, "config_path": "/", "quorate": quorate,
            "bpf": { "compiled": true, "reason": null },
            "realtime": { "probe": "", "memory": "", "granted": true },
            "links_up": 1, "links_total": 1, "peers_up": 1, "peers_total": 1, "warnings": [], "pins": null,
            "adopted": null,
        });
        let server = daemon(&socket, move |request, mut stream| {
            assert_eq!(request, Request::Status);
            stream.write_all(&encode(&Response::Ok(status))).expect("written");
        });
        let (ended, out, err) = run(command(folder.path()).args(["status", "--socket"]).arg(&socket));
        assert_eq!((ended, err.as_str()), (code, ""));
        assert!(out.contains(if quorate { "quorate: yes" } else { "quorate: no" }), "{out}");
        server.join().expect("served");
        fs::remove_file(&socket).expect("removed");
    }
}

#[test]
fn the_socket_is_the_one_that_the_configuration_names() {
    let folder = TempDir::new().expect("a folder");
    let path = configuration(folder.path());
    let server = daemon(&folder.path().join("own.sock"), |request, mut stream| {
        assert_eq!(request, Request::Peers);
        stream.write_all(&encode(&Response::Ok(Vec::<PeerReport>::new()))).expect("written");
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringbeat"));
    let (status, out, err) = run(command.arg("peers").arg("--config").arg(path));
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(out.starts_with("ID  NAME"), "{out}");
    server.join().expect("served");
}

#[test]
fn a_refusal_is_1_and_a_link_that_is_not_there_too() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("control.sock");
    let server = daemon(&socket, |_, mut stream| {
        let denied = ErrorReply::new(code::DENIED, "only root may ask");
        stream.write_all(&encode(&Response::<()>::Error(denied))).expect("written");
    });
    let (status, _, err) = run(command(folder.path()).arg("status").arg("--socket").arg(&socket));
    assert_eq!(status, 1);
    assert!(err.contains("only root may ask (denied)\n  help: run this as root"), "{err}");
    server.join().expect("served");
    fs::remove_file(&socket).expect("removed");

    let server = daemon(&socket, |_, mut stream| {
        stream.write_all(b"{\"ok\":[]}\n").expect("written");
    });
    let (status, _, err) = run(command(folder.path()).args(["link", "5", "--socket"]).arg(&socket));
    assert_eq!(status, 1);
    assert!(err.contains("there is no link 5"), "{err}");
    server.join().expect("served");
}

#[test]
fn followed_events_come_one_by_one_and_the_end_is_3() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("control.sock");
    let server = daemon(&socket, |request, mut stream| {
        assert_eq!(request, Request::Events { follow: true, since: None, limit: Some(10) });
        for seq in 1..=2 {
            stream.write_all(&encode(&Response::Ok(event(seq)))).expect("written");
        }
    });
    let (status, out, err) =
        run(command(folder.path()).args(["events", "-f", "-o", "json", "--socket"]).arg(&socket));
    server.join().expect("served");
    assert_eq!((status, err.as_str()), (3, ""));
    let lines =
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<serde_json::Value>>();
    assert_eq!(lines.len(), 3, "{out}");
    assert_eq!((&lines[1]["seq"], &lines[2]["error"]["code"]), (&2.into(), &"client.stream_ended".into()));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("control.sock");
    let server = daemon(&socket, |_, mut stream| {
        for seq in 1.. {
            if stream.write_all(&encode(&Response::Ok(event(seq)))).is_err() {
                return;
            }
        }
    });
    let mut child = command(folder.path())
        .args(["events", "--follow", "--socket"])
        .arg(&socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut first = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    out.read_line(&mut first).expect("a line");
    assert_eq!(
        first,
        "2026-07-14T09:26:53.589793Z 5.000 peer_up n2 link=1 seq=1 verdict_to_told_us=312 heard_ms=- \
         unanswered_ms=- credit_ms=0.000 daemon_age_us=0 by=- incarnation=- view=- address=- text=-\n"
    );
    drop(out);
    let mut err = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut err).expect("read");
    assert_eq!((child.wait().expect("ended").code(), err.as_str()), (Some(0), ""));
    server.join().expect("served");
}

#[test]
fn an_output_that_is_full_is_1() {
    let folder = TempDir::new().expect("a folder");
    let full = fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = command(folder.path()).args(["config", "example"]).stdout(full).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(err.starts_with("ringbeat: cannot write to the standard output: No space left"), "{err}");
}
