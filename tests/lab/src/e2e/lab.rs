//! The lab itself: its cuts cut, its labs stand side by side, and its end is clean.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    Ctx, Need, TIMEOUT, Test,
    wire::{Mesh, PATIENCE, Socket},
};
use crate::{
    Cut, Direction, Lab, LabSpec, Links, PacketSocket, ProcessState, StartOptions, boottime_ns,
    lab::{labs, program, remove},
};

const LAB: &[Need] = &[Need::Root, Need::Bpf];

pub(super) const TESTS: &[Test] = &[
    Test { name: "lab/nodes_reach_each_other", needs: LAB, timeout: TIMEOUT, run: nodes_reach_each_other },
    Test { name: "lab/nodes_have_a_home", needs: LAB, timeout: TIMEOUT, run: nodes_have_a_home },
    Test { name: "lab/cut_is_one_way", needs: LAB, timeout: TIMEOUT, run: cut_is_one_way },
    Test { name: "lab/cut_of_a_pair", needs: LAB, timeout: TIMEOUT, run: cut_of_a_pair },
    Test { name: "lab/cut_of_links", needs: LAB, timeout: TIMEOUT, run: cut_of_links },
    Test { name: "lab/partition_and_heal", needs: LAB, timeout: TIMEOUT, run: partition_and_heal },
    Test { name: "lab/cut_is_instantaneous", needs: LAB, timeout: TIMEOUT, run: cut_is_instantaneous },
    Test { name: "lab/crash_and_boot", needs: LAB, timeout: TIMEOUT, run: crash_and_boot },
    Test { name: "lab/frames_as_they_are", needs: LAB, timeout: TIMEOUT, run: frames_as_they_are },
    Test { name: "lab/daemon_by_hand", needs: super::ALL, timeout: TIMEOUT, run: daemon_by_hand },
    Test { name: "lab/two_side_by_side", needs: LAB, timeout: TIMEOUT, run: two_side_by_side },
    Test {
        name: "lab/down_after_a_killed_tool",
        needs: LAB,
        timeout: TIMEOUT,
        run: down_after_a_killed_tool,
    },
    Test { name: "lab/sixteen_nodes", needs: LAB, timeout: TIMEOUT, run: sixteen_nodes },
];

fn nodes_reach_each_other(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    let mesh = Mesh::new(&lab)?;
    mesh.expect(|_, _, _| true)?;
    let client = Socket::new(&lab.client(), &lab.client().service_address()?)?;
    for node in lab.nodes() {
        let service = Socket::new(&node, &node.service_address()?)?;
        ensure!(service.reaches(&client)? && client.reaches(&service)?, "{} and the client", node.name());
    }
    for link in 0..2 {
        let (one, other) = (format!("fd77:0:0:{link}::1"), format!("fd77:0:0:{link}::3"));
        let (one, other) = (Socket::new(&lab.node("n1")?, &one)?, Socket::new(&lab.node("n3")?, &other)?);
        ensure!(one.reaches(&other)?, "IPv6 on link {link}");
    }
    lab.down()
}

fn nodes_have_a_home(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    let n2 = lab.node("n2")?;
    let shell = |text: &str| -> Result<String> {
        let output = n2.output("sh", &["-c", text])?;
        let errors = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(output.status.success(), "{text}: {} {errors}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let same = |what: &str, is: String, want: &str| {
        ensure!(is == want, "{what}: {is:?}, not {want:?}");
        Ok(())
    };
    same("hostname", shell("cat /proc/sys/kernel/hostname")?, "n2")?;
    same("interfaces", shell("cd /sys/class/net; echo *")?, "hb0 hb1 lo svc0")?;
    same("process 1", shell("tr '\\0' ' ' </proc/1/cmdline | grep -c node-init")?, "1")?;
    same("bpffs", shell("stat -f -c %T /sys/fs/bpf; ls /sys/fs/bpf | grep -v debug || :")?, "bpf_fs")?;
    same("key", shell("stat -c '%a %s' /etc/ringbeat/authkey")?, "400 256")?;
    same("MAC", shell("cat /sys/class/net/hb1/address")?, "02:72:62:01:00:02")?;
    shell("echo kept >/var/lib/ringbeat/note; mkdir /run/ringbeat; echo private >/run/ringbeat/note")?;
    ensure!(n2.root()?.join("run/ringbeat/note").exists(), "/run of the node is not seen from outside");
    ensure!(fs::read_to_string(n2.var().join("note"))?.trim() == "kept", "/var/lib/ringbeat is not kept");
    let n1 = lab.node("n1")?;
    ensure!(!n1.root()?.join("run/ringbeat/note").exists(), "n1 sees /run of n2");
    ensure!(n1.output("sh", &["-c", "exit 42"])?.status.code() == Some(42), "the exit code is lost");
    lab.down()
}

fn cut_is_one_way(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    let mesh = Mesh::new(&lab)?;
    mesh.expect(|_, _, _| true)?;
    ctx.step("in");
    lab.cut(&Cut::node("n2").direction(Direction::In))?;
    mesh.expect(|_, _, to| to != 2)?;
    lab.heal(Some("n2"))?;
    mesh.expect(|_, _, _| true)?;
    ctx.step("out");
    lab.cut(&Cut::node("n2").direction(Direction::Out))?;
    mesh.expect(|_, from, _| from != 2)?;
    ctx.step("healing another node changes nothing but its own part");
    lab.heal(Some("n3"))?;
    mesh.expect(|_, from, to| from != 2 || to == 3)?;
    lab.heal(None)?;
    mesh.expect(|_, _, _| true)?;
    ctx.step("both");
    lab.cut(&Cut::node("n2"))?;
    mesh.expect(|_, from, to| from != 2 && to != 2)?;
    lab.down()
}

fn cut_of_a_pair(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    let mesh = Mesh::new(&lab)?;
    mesh.expect(|_, _, _| true)?;
    lab.cut(&Cut::node("n2").peer("n3"))?;
    mesh.expect(|_, from, to| from + to != 5)?;
    lab.heal(Some("n3"))?;
    lab.cut(&Cut::node("n2").peer("n3").direction(Direction::In).link(1))?;
    mesh.expect(|link, from, to| (link, from, to) != (1, 3, 2))?;
    ensure!(lab.cuts_in_force()?.len() == 1, "{:?}", lab.cuts_in_force()?);
    lab.down()
}

fn cut_of_links(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    let mesh = Mesh::new(&lab)?;
    let n1 = lab.node("n1")?;
    let (client, service) = (
        Socket::new(&lab.client(), &lab.client().service_address()?)?,
        Socket::new(&n1, &n1.service_address()?)?,
    );
    mesh.expect(|_, _, _| true)?;
    ensure!(client.reaches(&service)? && service.reaches(&client)?, "the service network");
    lab.cut(&Cut::node("n1").link(0))?;
    mesh.expect(|link, from, to| link == 1 || (from != 1 && to != 1))?;
    lab.heal(None)?;
    ctx.step("service");
    lab.cut(&Cut::node("client").links(Links::Service).direction(Direction::Out))?;
    ensure!(!client.reaches(&service)? && service.reaches(&client)?, "the client sends through its cut");
    mesh.expect(|_, _, _| true)?;
    ctx.step("all");
    lab.cut(&Cut::node("n1").links(Links::All))?;
    ensure!(!service.reaches(&client)?, "n1 sends through its cut");
    mesh.expect(|_, from, to| from != 1 && to != 1)?;
    lab.down()
}

fn partition_and_heal(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    let mesh = Mesh::new(&lab)?;
    mesh.expect(|_, _, _| true)?;
    lab.partition(&[&["n1", "n2"], &["n3"]])?;
    mesh.expect(|_, from, to| from != 3 && to != 3)?;
    lab.partition(&[&["n1"], &["n2"], &["n3"]])?;
    mesh.expect(|_, _, _| false)?;
    lab.heal(None)?;
    mesh.expect(|_, _, _| true)?;
    lab.down()
}

/// Frames are sent as fast as they go while the cut is made: none that left after it arrives.
fn cut_is_instantaneous(ctx: &mut Ctx) -> Result<()> {
    const ROUNDS: usize = 50;
    let lab = Lab::up(ctx.spec())?;
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    let (from, to) = (Socket::new(&n1, &n1.address(0)?)?, Socket::new(&n2, &n2.address(0)?)?);
    ensure!(from.reaches(&to)?, "no way from n1 to n2");
    let (mut worst_ns, mut stamps) = (0, Vec::new());
    for _ in 0..ROUNDS {
        let (stamp_ns, after_ns) = thread::scope(|scope| -> Result<(u64, u64)> {
            let sender = scope.spawn(|| -> Result<()> {
                let end = Instant::now() + Duration::from_millis(10);
                while Instant::now() < end {
                    from.socket.send_to(&boottime_ns().to_ne_bytes(), &to.address)?;
                }
                Ok(())
            });
            // Under load the sender may be slow to begin.
            to.socket.set_read_timeout(Some(PATIENCE))?;
            to.socket.recv_from(&mut [0; 8]).context("nothing came before the cut")?;
            to.socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            thread::sleep(Duration::from_millis(2));
            let stamp_ns = lab.cut(&Cut::node("n2").link(0).direction(Direction::In))?;
            let after_ns = boottime_ns();
            sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
            Ok((stamp_ns, after_ns))
        })?;
        let mut last_ns = 0;
        let mut bytes = [0; 8];
        while to.socket.recv_from(&mut bytes).is_ok() {
            last_ns = last_ns.max(u64::from_ne_bytes(bytes));
        }
        lab.heal(None)?;
        ensure!(last_ns <= after_ns, "a frame came {} us after the cut", (last_ns - after_ns) / 1000);
        worst_ns = worst_ns.max(last_ns.saturating_sub(stamp_ns));
        stamps.push(after_ns - stamp_ns);
    }
    stamps.sort_unstable();
    ctx.step(&format!("cut takes {} ns; last frame {worst_ns} ns after the stamp", stamps[ROUNDS / 2]));
    lab.down()
}

fn crash_and_boot(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    let mesh = Mesh::new(&lab)?;
    mesh.expect(|_, _, _| true)?;
    let n2 = lab.node("n2")?;
    let old = n2.init()?;
    n2.output("sh", &["-c", "touch /run/old /sys/fs/bpf/.. /var/lib/ringbeat/kept"])?;
    lab.crash("n2")?;
    mesh.expect(|_, from, to| from != 2 && to != 2)?;
    ensure!(n2.is_crashed() && lab.status()?.nodes[1].crashed, "the crash is not told");
    let links = n2.output("ip", &["-o", "link", "show", "up"])?;
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    ensure!(links.lines().count() == 1, "links of a crashed node are up: {links}");
    drop(mesh);

    ctx.step("boot");
    lab.boot("n2")?;
    let new = n2.init()?;
    ensure!(new != old && !old.is_alive() && !n2.is_crashed(), "the node was not booted anew");
    ensure!(!n2.root()?.join("run/old").exists(), "/run outlived the crash");
    ensure!(n2.var().join("kept").exists(), "/var/lib/ringbeat did not outlive the crash");
    let mesh = Mesh::new(&lab)?;
    mesh.expect(|_, _, _| true)?;
    ctx.step("the new links can be cut too");
    lab.cut(&Cut::node("n2").direction(Direction::In))?;
    mesh.expect(|_, _, to| to != 2)?;
    lab.down()
}

/// Frames are recorded on the switch, and sent by a node and by the switch.
fn frames_as_they_are(ctx: &mut Ctx) -> Result<()> {
    const KIND: [u8; 2] = [0x88, 0xb5];
    let lab = Lab::up(ctx.spec())?;
    let (n1, n2, switch) = (lab.node("n1")?, lab.node("n2")?, lab.node("switch")?);
    let to_n2 = |text: &[u8]| -> Result<Vec<u8>> {
        Ok([n2.mac(0)?.as_slice(), &n1.mac(0)?, &KIND, text, &[0; 46]].concat())
    };
    let (one, two, port) = (n1.packets("hb0")?, n2.packets("hb0")?, switch.packets("n2l0")?);
    let arrives = |socket: &PacketSocket, frame: &[u8]| -> Result<bool> {
        socket.set_patience(PATIENCE)?;
        let mut buffer = [0; 2048];
        loop {
            match socket.recv(&mut buffer) {
                Ok(got) if got == frame => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    };
    let frame = to_n2(b"from n1")?;
    one.send(&frame)?;
    ensure!(
        arrives(&two, &frame)? && arrives(&port, &frame)?,
        "a frame of n1 is not seen by n2 and the switch"
    );
    let frame = to_n2(b"from the switch")?;
    port.send(&frame)?;
    ensure!(arrives(&two, &frame)?, "a frame of the switch does not reach n2");
    let many = [to_n2(b"first")?, to_n2(b"second")?, to_n2(b"third")?];
    let sent = one.send_many(&many.each_ref().map(Vec::as_slice))?;
    ensure!(sent == 3 && arrives(&two, &many[2])?, "{sent} of 3 frames sent at once");
    lab.cut(&Cut::node("n2").direction(Direction::In))?;
    one.send(&frame)?;
    ensure!(!arrives(&two, &frame)?, "a frame of n1 passes the cut");
    lab.down()
}

/// A program that stands in for the daemon is started, signalled and found dead as the daemon would be.
fn daemon_by_hand(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    let n1 = lab.node("n1")?;
    let stand_in = |script: &str| StartOptions {
        prefix: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("GREETING".to_owned(), "hello".to_owned())],
        ..StartOptions::default()
    };
    let state = |want: ProcessState| -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while n1.daemon_state()? != want {
            ensure!(Instant::now() < end, "the daemon is {:?}, not {want:?}", n1.daemon_state()?);
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    state(ProcessState::Dead)?;
    ensure!(n1.kill().is_err(), "a daemon that never was is killed");
    n1.start(&stand_in("echo $GREETING from $(hostname); exec sleep 1000"))?;
    state(ProcessState::Running)?;
    let end = Instant::now() + PATIENCE;
    while n1.log_tail(1)? != "hello from n1" {
        ensure!(Instant::now() < end, "log: {:?}", n1.log_tail(1)?);
        thread::sleep(Duration::from_millis(1));
    }
    ensure!(n1.start(&stand_in("true")).is_err(), "a second daemon is started");
    n1.pause()?;
    state(ProcessState::Stopped)?;
    n1.resume()?;
    state(ProcessState::Running)?;
    n1.kill()?;
    state(ProcessState::Dead)?;
    ctx.step("one that dies at once");
    n1.start(&stand_in("echo no wish to live; exit 3"))?;
    let error = n1.wait_ready(Duration::from_secs(5)).err().context("a dead daemon is ready")?.to_string();
    ensure!(error.contains("no wish to live"), "{error}");
    ctx.step("one that cannot start");
    let nothing = StartOptions { prefix: vec!["/nonexistent".to_owned()], ..StartOptions::default() };
    let error = format!("{:#}", n1.start(&nothing).err().context("nothing was started")?);
    ensure!(error.contains("No such file"), "{error}");
    ctx.step("stop, and a crash that takes the daemon along");
    n1.start(&stand_in("exec sleep 1000"))?;
    n1.stop(Duration::from_secs(5))?;
    n1.start(&stand_in("exec sleep 1000"))?;
    lab.crash("n1")?;
    state(ProcessState::Dead)?;
    n1.start(&stand_in("exec sleep 1000"))?;
    state(ProcessState::Running)?;
    ensure!(!n1.is_crashed(), "the start did not boot the node");
    lab.down()
}

fn two_side_by_side(ctx: &mut Ctx) -> Result<()> {
    let one = Lab::up(ctx.spec())?;
    let other = Lab::up(LabSpec { name: ctx.name("other"), nodes: 2, links: 1, ..ctx.spec() })?;
    let again = Lab::up(ctx.spec());
    ensure!(
        again.is_err_and(|error| error.to_string().contains("lab down")),
        "a second lab of the same name"
    );
    let (mesh, others) = (Mesh::new(&one)?, Mesh::new(&other)?);
    one.cut(&Cut::node("n1"))?;
    mesh.expect(|_, from, to| from != 1 && to != 1)?;
    others.expect(|_, _, _| true)?;
    one.down()?;
    others.expect(|_, _, _| true)?;
    let init = other.node("n1")?.init()?;
    other.down()?;
    ensure!(!init.is_alive(), "a node outlived its lab");
    Ok(())
}

/// The tool is killed at many moments of its building; what is left is always ended by `down`.
fn down_after_a_killed_tool(ctx: &mut Ctx) -> Result<()> {
    let name = ctx.name("killed");
    let (mut half, mut begin_ms) = (0, 0);
    while begin_ms <= 400 {
        let mut tool = Command::new(program("ringbeat-lab")?)
            .args(["lab", "--name", &name, "up", "--no-start"])
            .stdout(Stdio::null())
            .spawn()?;
        thread::sleep(Duration::from_millis(begin_ms));
        tool.kill()?;
        tool.wait()?;
        half += usize::from(Lab::open(&name).is_err() && labs()?.contains(&name));
        remove(&name)?;
        // A process 1 that is not on record yet sees the tool's end by itself.
        let end = Instant::now() + Duration::from_secs(2);
        while !survivors(&name)?.is_empty() {
            ensure!(Instant::now() < end, "after {begin_ms} ms: {:?}", survivors(&name)?);
            thread::sleep(Duration::from_millis(5));
        }
        begin_ms += if begin_ms < 100 { 4 } else { 20 };
    }
    ctx.step(&format!("{half} times half-built"));
    ensure!(half > 3, "the kills came at the wrong times: only {half} labs were half-built");
    Ok(())
}

fn sixteen_nodes(ctx: &mut Ctx) -> Result<()> {
    let begin = Instant::now();
    let lab = Lab::up(LabSpec { nodes: 16, links: 2, ..ctx.spec() })?;
    ctx.step(&format!("up in {:?}", begin.elapsed()));
    let mesh = Mesh::new(&lab)?;
    lab.cut(&Cut::node("n16"))?;
    mesh.expect(|_, from, to| from != 16 && to != 16)?;
    lab.down()
}

/// Pids of the lab's programs, by their command lines.
fn survivors(name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("node-init") && line.contains(&format!("/{name}/")) {
            found.push(path);
        }
    }
    Ok(found)
}
