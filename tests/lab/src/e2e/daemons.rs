//! Daemons that die, hang, starve, leave and are replaced, on nodes whose kernels live on.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ringbeat_control::{DaemonState, EventRecord};
use rustix::process::Signal;

use super::{
    ALL, ALONE, Ctx, TIMEOUT, Test,
    expect::{
        Ears, PATIENCE, all_up, client, cluster, edge, is_called, is_of_views, lost, name, quiet, status,
        wait,
    },
};
use crate::{Lab, LabSpec, Node, ProcessState, StartOptions, bench::calm::lapses_beside_hogs, boottime_ns};

pub(super) const TESTS: &[Test] = &[
    Test { name: "daemons/killed_is_gone", needs: ALL, timeout: TIMEOUT, run: killed_is_gone },
    Test { name: "daemons/killed_and_started", needs: ALL, timeout: TIMEOUT, run: killed_and_started },
    Test { name: "daemons/exec_is_gone", needs: ALL, timeout: TIMEOUT, run: exec_is_gone },
    Test { name: "daemons/paused_briefly", needs: ALL, timeout: TIMEOUT, run: paused_briefly },
    Test { name: "daemons/paused_for_long", needs: ALL, timeout: TIMEOUT, run: paused_for_long },
    Test { name: "daemons/planned_restart", needs: ALL, timeout: TIMEOUT, run: planned_restart },
    Test { name: "daemons/handover_not_taken_up", needs: ALL, timeout: TIMEOUT, run: handover_not_taken_up },
    Test { name: "daemons/killed_in_a_handover", needs: ALL, timeout: TIMEOUT, run: killed_in_a_handover },
    Test { name: "daemons/handover_called_off", needs: ALL, timeout: TIMEOUT, run: handover_called_off },
    Test { name: "daemons/stopped_has_left", needs: ALL, timeout: TIMEOUT, run: stopped_has_left },
    Test { name: "daemons/one_starved", needs: ALONE, timeout: TIMEOUT, run: one_starved },
    Test { name: "daemons/stopped_at_once", needs: ALL, timeout: TIMEOUT, run: stopped_at_once },
    Test { name: "daemons/memory_stays_locked", needs: ALL, timeout: TIMEOUT, run: memory_stays_locked },
    Test { name: "daemons/hogs_take_no_lease", needs: ALONE, timeout: TIMEOUT, run: hogs_take_no_lease },
    Test { name: "daemons/all_starved", needs: ALONE, timeout: TIMEOUT, run: all_starved },
];

const EVERYONE: [&str; 3] = ["n1", "n2", "n3"];
const SURVIVORS: [&str; 2] = ["n1", "n3"];
/// How long a daemon may be away in a planned restart: a loaded machine takes its time over the programs.
const AWAY_MS: u32 = 10_000;
/// How often a daemon is stopped in its start.
const STOPS: u32 = 6;
/// For how long hogs fill the cores, in seconds.
const HOGS_S: u64 = 4;

/// Gone by the word of a frame, after the fault.
fn is_evidence(event: &EventRecord, fault_ns: u64) -> Result<()> {
    ensure!(!event.evidence.by_timer && event.stamp_ns >= fault_ns, "{} rests on {event:?}", name(event));
    Ok(())
}

/// The kernel of n2 goes on answering, and its daemon is called gone.
fn answers_as_gone(lab: &Lab) -> Result<()> {
    for node in SURVIVORS {
        let node = lab.node(node)?;
        is_called(&node, "n2", "gone")?;
        for id in 0..lab.spec().links {
            let before = edge(&node, id, "n2")?.answered;
            wait(&format!("the dead daemon's kernel answers {} on link {id}", node.name()), || {
                Ok(edge(&node, id, "n2")?.answered > before + 10)
            })?;
        }
    }
    Ok(())
}

fn killed_is_gone(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let mut ears = Ears::on(&lab, &SURVIVORS)?;
    let fault_ns = lab.node("n2")?.kill()?;
    for event in ears.hear(&["peer_gone n2"])? {
        is_evidence(&event, fault_ns)?;
    }
    answers_as_gone(&lab)?;
    ears.told_only(&["peer_gone n2"], &[])?;
    lab.down()
}

/// The counter of an incarnation, as it is written.
fn counter(incarnation: Option<&str>) -> Result<u32> {
    let counter =
        incarnation.and_then(|text| text.split('-').next()).and_then(|counter| counter.parse().ok());
    counter.with_context(|| format!("no incarnation: {incarnation:?}"))
}

fn killed_and_started(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let n2 = lab.node("n2")?;
    for _ in 0..2 {
        let mut ears = Ears::on(&lab, &SURVIVORS)?;
        let before = status(&n2)?;
        let fault_ns = n2.kill()?;
        for event in ears.hear(&["peer_gone n2"])? {
            is_evidence(&event, fault_ns)?;
        }
        ears.told_only(&["peer_gone n2"], &[])?;
        ctx.step("start");
        ears.forget()?;
        n2.start(&StartOptions::default())?;
        let again = ["peer_restarted n2", "peer_up n2", "link_up n2 0", "link_up n2 1"];
        for event in ears.hear(&again)? {
            let risen = counter(event.incarnation.as_deref())? > counter(Some(&before.incarnation))?;
            ensure!(risen, "{} is not of a new life: {event:?} after {}", name(&event), before.incarnation);
        }
        all_up(&lab)?;
        // The new daemon closes what it finds before it opens anew: the node of a dead daemon falls silent then.
        let silence =
            ["link_late n2 0", "link_late n2 1", "link_down n2 0", "link_down n2 1", "peer_down n2"];
        ears.told_only(&again, &silence)?;
        let after = status(&n2)?;
        ensure!(after.state == DaemonState::Running && after.adopted.is_none(), "n2 says {after:?}");
        let pins = n2.output("ls", &[after.pins.as_deref().context("nothing is pinned")?])?;
        let pins = String::from_utf8_lossy(&pins.stdout).into_owned();
        ensure!(pins.lines().any(|pin| pin == "LATCH"), "pinned is: {pins}");
    }
    lab.down()
}

/// Loaded into the daemon, this makes it another program on SIGUSR2.
const CHANGELING: &str = r#"
#include <signal.h>
#include <unistd.h>
static void become(int signal) { execl("/bin/sleep", "sleep", "1000", (char *)0); }
__attribute__((constructor)) static void prepare(void) { signal(SIGUSR2, become); }
"#;

/// The process stays, its image is another: the daemon is no more.
fn exec_is_gone(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(ctx.spec())?;
    let n2 = lab.node("n2")?;
    let (source, library) = (n2.var().join("changeling.c"), n2.var().join("changeling.so"));
    fs::write(&source, CHANGELING)?;
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status()?;
    ensure!(built.success(), "cc, which links Rust programs too: {built}");
    let inside = "/var/lib/ringbeat/changeling.so".to_owned();
    n2.start(&StartOptions { env: vec![("LD_PRELOAD".to_owned(), inside)], ..StartOptions::default() })?;
    for node in SURVIVORS {
        lab.node(node)?.start(&StartOptions::default())?;
    }
    all_up(&lab)?;
    let mut ears = Ears::on(&lab, &SURVIVORS)?;
    let fault_ns = n2.signal(Signal::USR2)?;
    for event in ears.hear(&["peer_gone n2"])? {
        is_evidence(&event, fault_ns)?;
    }
    ensure!(n2.daemon_state()? == ProcessState::Running, "the process did not live on");
    answers_as_gone(&lab)?;
    ears.told_only(&["peer_gone n2"], &[])?;
    lab.down()
}

fn paused_briefly(ctx: &mut Ctx) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(300);
    /// The tester may be held up as well: a pause that came near `daemon_stall_ms` shows nothing.
    const TOO_LONG_NS: u64 = 900_000_000;
    let lab = cluster(ctx, ctx.spec())?;
    let n2 = lab.node("n2")?;
    loop {
        let mut ears = Ears::on(&lab, &EVERYONE)?;
        let begin_ns = n2.pause()?;
        thread::sleep(PAUSE);
        n2.resume()?;
        let took_ns = boottime_ns() - begin_ns;
        if took_ns > TOO_LONG_NS {
            ctx.step(&format!("once more: this pause took {} ms", took_ns / 1_000_000));
            all_up(&lab)?;
            quiet();
            continue;
        }
        for node in SURVIVORS {
            let stalled = ears.of(node)?.hears("peer_stalled n2")?;
            is_evidence(&stalled, begin_ns)?;
            ensure!(stalled.evidence.daemon_age_us >= 100_000, "stalled by {stalled:?}");
            let running = ears.of(node)?.hears("peer_running n2")?;
            ensure!(running.text.is_none(), "{node} says of the daemon that runs again: {:?}", running.text);
        }
        quiet();
        for node in SURVIVORS {
            ears.of(node)?.told_only(&["peer_stalled n2", "peer_running n2"], &[])?;
        }
        ears.of("n2")?.told_only(&[], &[])?;
        return lab.down();
    }
}

fn paused_for_long(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let n2 = lab.node("n2")?;
    let mut ears = Ears::on(&lab, &EVERYONE)?;
    let begin_ns = n2.pause()?;
    for node in SURVIVORS {
        let stalled = ears.of(node)?.hears("peer_stalled n2")?;
        is_evidence(&stalled, begin_ns)?;
        let failed = ears.of(node)?.hears("peer_failed n2")?;
        let after_ms = (failed.stamp_ns - begin_ns) / 1_000_000;
        // The daemon ran last a little before the pause.
        ensure!(after_ms >= 950, "{node} gave n2 up after {after_ms} ms");
        is_called(&lab.node(node)?, "n2", "failed")?;
    }
    thread::sleep(Duration::from_secs(3).saturating_sub(Duration::from_nanos(boottime_ns() - begin_ns)));
    n2.resume()?;
    for event in ears.hear_from(&SURVIVORS, &["peer_running n2"])? {
        let text = event.text.as_deref().unwrap_or_default();
        ensure!(text.contains("failed"), "running again is told as {text:?}");
    }
    quiet();
    for node in SURVIVORS {
        ears.of(node)?.told_only(&["peer_stalled n2", "peer_failed n2", "peer_running n2"], &[])?;
        is_called(&lab.node(node)?, "n2", "up")?;
    }
    ears.of("n2")?.told_only(&[], &[])?;
    lab.down()
}

/// A cluster in which a planned restart may take as long as the machine needs.
fn patient(ctx: &Ctx) -> LabSpec {
    let mut spec = ctx.spec();
    spec.cluster_extra.insert("daemon_stall_ms".to_owned(), AWAY_MS.to_string());
    spec
}

fn planned_restart(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, patient(ctx))?;
    let n2 = lab.node("n2")?;
    for round in 1..=2 {
        ctx.step(&format!("restart {round}"));
        let mut ears = Ears::on(&lab, &SURVIVORS)?;
        let (before, old) = (status(&n2)?, n2.daemon()?);
        let losses = || -> Result<Vec<u64>> {
            let cells = SURVIVORS.iter().flat_map(|node| [0, 1].map(|id| (*node, id)));
            cells.map(|(node, id)| lost(&lab.node(node)?, id, "n2")).collect()
        };
        let lost_before = losses()?;
        client(&n2)?.handover(AWAY_MS)?;
        ears.hear(&["peer_handover n2"])?;
        is_called(&lab.node("n1")?, "n2", "handover")?;
        n2.stop(PATIENCE)?;
        n2.start(&StartOptions::default())?;
        n2.wait_ready(PATIENCE)?;
        ears.hear(&["peer_handover_done n2"])?;
        all_up(&lab)?;
        ears.told_only(&["peer_handover n2", "peer_handover_done n2"], &[])?;
        let after = status(&n2)?;
        ensure!(after.adopted.is_some(), "n2 took nothing over: {after:?}");
        ensure!(
            after.incarnation == before.incarnation,
            "{} became {}",
            before.incarnation,
            after.incarnation
        );
        ensure!(n2.daemon()? != old, "the daemon is the old one");
        let lost_after = losses()?;
        let is_lost = lost_after.iter().zip(&lost_before).any(|(after, before)| after > before);
        ensure!(!is_lost, "beats were lost: {lost_before:?}, then {lost_after:?}");
        let told = client(&n2)?.events(None, None)?;
        let accuses = |event: &&EventRecord| {
            !["peer_up", "link_up"].contains(&event.kind.as_str()) && !is_of_views(&event.kind)
        };
        ensure!(!told.iter().any(|event| accuses(&event)), "the successor tells {told:?}");
    }
    ctx.step("an unplanned death of the successor");
    let mut ears = Ears::on(&lab, &SURVIVORS)?;
    let fault_ns = n2.kill()?;
    for event in ears.hear(&["peer_gone n2"])? {
        is_evidence(&event, fault_ns)?;
    }
    ears.told_only(&["peer_gone n2"], &[])?;
    lab.down()
}

fn handover_not_taken_up(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let n2 = lab.node("n2")?;
    let mut ears = Ears::on(&lab, &SURVIVORS)?;
    let until_ns = client(&n2)?.handover(1000)?.until_ns;
    n2.stop(PATIENCE)?;
    for event in ears.hear(&["peer_handover n2", "peer_gone n2"])? {
        ensure!(event.kind != "peer_gone" || event.stamp_ns >= until_ns, "gone before its time: {event:?}");
        ensure!(!event.evidence.by_timer, "{} is a frame's word: {event:?}", name(&event));
    }
    answers_as_gone(&lab)?;
    ears.told_only(&["peer_handover n2", "peer_gone n2"], &["peer_handover_done n2"])?;
    ctx.step("a successor that comes too late is a new life");
    n2.start(&StartOptions::default())?;
    ears.hear(&["peer_restarted n2", "peer_up n2"])?;
    all_up(&lab)?;
    ensure!(status(&n2)?.adopted.is_none(), "an overdue hand-over was taken up");
    lab.down()
}

/// A death is never a hand-over, announced or not: it is told at once, and the next daemon is a new life.
fn killed_in_a_handover(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, patient(ctx))?;
    let n2 = lab.node("n2")?;
    let mut ears = Ears::on(&lab, &SURVIVORS)?;
    let until_ns = client(&n2)?.handover(AWAY_MS)?.until_ns;
    ears.hear(&["peer_handover n2"])?;
    let fault_ns = n2.kill()?;
    for event in ears.hear(&["peer_gone n2"])? {
        is_evidence(&event, fault_ns)?;
        ensure!(event.stamp_ns < until_ns, "gone only when the time was over: {event:?}");
    }
    n2.start(&StartOptions::default())?;
    ears.hear(&["peer_restarted n2", "peer_up n2"])?;
    all_up(&lab)?;
    ensure!(status(&n2)?.adopted.is_none(), "what a dead daemon left was taken over");
    lab.down()
}

/// Announced, and then nobody stops the daemon: after its time it is as any other again.
fn handover_called_off(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let n2 = lab.node("n2")?;
    let mut ears = Ears::on(&lab, &SURVIVORS)?;
    client(&n2)?.handover(300)?;
    ears.hear(&["peer_handover n2", "peer_handover_done n2"])?;
    ears.told_only(&["peer_handover n2", "peer_handover_done n2"], &[])?;
    ears.forget()?;
    ctx.step("a stall is told as one");
    n2.pause()?;
    ears.hear(&["peer_stalled n2"])?;
    n2.resume()?;
    ears.hear(&["peer_running n2"])?;
    ctx.step("and a death as one");
    ears.forget()?;
    n2.kill()?;
    ears.hear(&["peer_gone n2"])?;
    ears.told_only(&["peer_gone n2"], &[])?;
    lab.down()
}

fn stopped_has_left(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let n2 = lab.node("n2")?;
    let mut ears = Ears::on(&lab, &SURVIVORS)?;
    n2.stop(PATIENCE)?;
    let told = ["peer_leaving n2", "peer_left n2", "link_down n2 0", "link_down n2 1"];
    ears.hear(&told)?;
    ears.told_only(&told, &["link_late n2 0", "link_late n2 1"])?;
    for node in SURVIVORS {
        is_called(&lab.node(node)?, "n2", "left")?;
    }
    let pins = n2.output("find", &["/sys/fs/bpf", "-name", "*ringbeat*"])?;
    let pins = String::from_utf8_lossy(&pins.stdout).into_owned();
    ensure!(pins.trim().is_empty(), "pins outlive a daemon that left: {pins}");
    ensure!(!n2.socket()?.exists(), "the control socket outlives its daemon");
    ctx.step("and back");
    ears.forget()?;
    n2.start(&StartOptions::default())?;
    let told = ["peer_restarted n2", "peer_up n2", "link_up n2 0", "link_up n2 1"];
    ears.hear(&told)?;
    ears.told_only(&told, &[])?;
    lab.down()
}

/// Busy loops above everything but the daemons that may be real-time, one a core.
///
/// They end by themselves at their CPU limit, which needs nobody to be scheduled.
struct Hogs(Vec<Child>);

impl Hogs {
    /// How long they run: CPU seconds, of which each core has one a second less the kernel's reserve.
    const SECONDS: u64 = 4;

    fn start() -> Result<Self> {
        let mut hogs = Self(Vec::new());
        let script = format!("ulimit -t {}; while :; do :; done", Self::SECONDS);
        for _ in 0..thread::available_parallelism()?.get() {
            let hog =
                Command::new("chrt").args(["-f", "50", "sh", "-c", &script]).stdin(Stdio::null()).spawn();
            hogs.0.push(hog.context("cannot start a hog (Debian: apt-get install util-linux)")?);
        }
        Ok(hogs)
    }

    /// Waits until they have had their time.
    fn end(mut self) -> Result<()> {
        for hog in &mut self.0 {
            let status = hog.wait()?;
            ensure!(status.signal().is_some(), "a hog was no hog: {status}");
        }
        Ok(())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            // Ended already is as good.
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

/// A start without the right to real-time scheduling and to locked memory.
fn unprivileged() -> StartOptions {
    let without = "-sys_nice,-ipc_lock,-sys_resource";
    let prefix = ["prlimit", "--rtprio=0", "--memlock=65536", "setpriv", "--bounding-set", without];
    StartOptions { prefix: prefix.map(str::to_owned).to_vec(), ..StartOptions::default() }
}

/// A daemon that is stopped the moment its socket is there, or anywhere in its start, ends in order, however young it is.
fn stopped_at_once(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    let n2 = lab.node("n2")?;
    let (socket, pins) = (n2.socket()?, n2.pins()?);
    n2.stop(PATIENCE)?;
    for round in 1..=STOPS {
        n2.start(&StartOptions::default())?;
        let end = Instant::now() + PATIENCE;
        // Every second one meets the start itself, ever later.
        let blind = Instant::now() + Duration::from_millis(u64::from(4 * round));
        while !socket.exists() && (round % 2 == 0 || Instant::now() < blind) {
            ensure!(Instant::now() < end, "round {round}: no socket within {PATIENCE:?}");
            std::hint::spin_loop();
        }
        n2.stop(PATIENCE)?;
        let left = [&socket, &pins].into_iter().find(|path| path.exists());
        ensure!(left.is_none(), "round {round}: {left:?} outlives a daemon that was asked to stop");
    }
    lab.down()
}

/// The look at what is locked comes once a second, and finds it within its bound.
fn memory_stays_locked(ctx: &mut Ctx) -> Result<()> {
    let lab = cluster(ctx, ctx.spec())?;
    thread::sleep(Duration::from_millis(2500));
    for node in lab.nodes() {
        let said = status(&node)?.realtime;
        ensure!(said.memory.starts_with("locked") && said.granted, "{} says {said:?}", node.name());
    }
    lab.down()
}

/// The status says whether real-time scheduling was granted.
fn says_whether_granted(node: &Node<'_>, is_granted: bool) -> Result<()> {
    let status = status(node)?;
    let (probe, warnings) = (&status.realtime.probe, &status.warnings);
    let warned = warnings.iter().any(|text| text.contains("CAP_SYS_NICE"));
    let said =
        (probe.starts_with("fifo") || probe.starts_with("deadline"), probe.starts_with("normal"), warned);
    ensure!(
        said == (is_granted, !is_granted, !is_granted) && (is_granted || !status.realtime.granted),
        "{} says {:?} and {warnings:?}",
        node.name(),
        status.realtime
    );
    Ok(())
}

/// Hogs over a cluster at `lan` of which these nodes may not be real-time. Nobody is told down, and in the end all is
/// as it was.
fn starved(ctx: &Ctx, starving: &[&str]) -> Result<()> {
    let lab = Lab::up(LabSpec { profile: "lan".to_owned(), ..ctx.spec() })?;
    let is_starving = |node: &str| starving.contains(&node);
    for node in lab.nodes() {
        node.start(&if is_starving(node.name()) { unprivileged() } else { StartOptions::default() })?;
    }
    all_up(&lab)?;
    for node in lab.nodes() {
        says_whether_granted(&node, !is_starving(node.name()))?;
    }
    let mut ears = Ears::on(&lab, &EVERYONE)?;
    let begin = Instant::now();
    Hogs::start()?.end()?;
    ctx.step(&format!("hogs for {:?}", begin.elapsed()));
    all_up(&lab)?;
    quiet();
    for node in EVERYONE {
        // What is said of a starved daemon is true: its kernel lives, its main loop does not run.
        let mut allowed = Vec::new();
        for peer in starving.iter().filter(|peer| **peer != node) {
            allowed
                .extend(["peer_stalled", "peer_failed", "peer_running"].map(|kind| format!("{kind} {peer}")));
        }
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        ears.of(node)?.told_only(&[], &allowed)?;
        if !is_starving(node) {
            // Else the hogs were none, and the calm shows nothing.
            let told = ears.of(node)?.told()?;
            ensure!(
                told.iter().any(|event| event.kind == "peer_stalled"),
                "{node} saw nobody starve: {told:?}"
            );
        }
    }
    lab.down()
}

/// The kernel takes the cores from all SCHED_FIFO threads for 50 ms of each second that hogs fill: no lease of 20 ms
/// outlasts that, but for SCHED_DEADLINE. So it is a lapse a second on each node, or none but in the machine's own stalls.
fn hogs_take_no_lease(ctx: &mut Ctx) -> Result<()> {
    let lab = Lab::up(LabSpec { profile: "lan".to_owned(), ..ctx.spec() })?;
    lab.start_all()?;
    all_up(&lab)?;
    wait("all have a lease", || {
        let mut all = lab.nodes().map(|node| status(&node));
        all.try_fold(true, |valid, status| Ok(valid && status?.lease.valid))
    })?;
    for node in lab.nodes() {
        let probe = status(&node)?.realtime.probe;
        ensure!(probe.starts_with("deadline"), "{} probes by {probe}", node.name());
    }
    let (lapsed, unnamed) = lapses_beside_hogs(&lab, HOGS_S)?;
    ctx.step(&format!("{lapsed} lapses"));
    ensure!(unnamed == 0, "{unnamed} of {lapsed} leases lapsed, and the machine did not stand still");
    lab.down()
}

fn one_starved(ctx: &mut Ctx) -> Result<()> {
    starved(ctx, &["n2"])
}

fn all_starved(ctx: &mut Ctx) -> Result<()> {
    starved(ctx, &EVERYONE)
}
