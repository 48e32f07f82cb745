//! The demo: three nodes, live links, faults and their timelines, in half a minute.
//!
//! Everything that is shown is read from the running daemons; the times are differences of stamps of one clock, since
//! all nodes of a lab share the machine's. A moment that must be there and is not makes it fail. Deliberately not here: a
//! fault that is only told.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ringbeat_common::{
    lease::{GATES, Stamped, UNTIL},
    maps::{Latch, LeaseTable},
};
use ringbeat_control::{Client, EventRecord};

use crate::{
    Cut, Lab, LabSpec, Node, StartOptions,
    bench::{
        prober::{Answer, Prober, probed},
        watch::{Watch, wait_for_peers},
    },
    boottime_ns, remove,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long a fault may take to be told.
const TELLING: Duration = Duration::from_secs(3);

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// The links' profile
    #[arg(long, default_value = "fast")]
    profile: String,
    /// The lab's name
    #[arg(long, default_value = "demo")]
    name: String,
    /// Leave the lab standing, for `lab exec` and the like
    #[arg(long)]
    keep: bool,
}

/// Shows the whole story once.
pub fn run(args: &DemoArgs) -> Result<()> {
    if remove(&args.name)? {
        println!("(a lab named {} was there; it is down now)", args.name);
    }
    let lab =
        Lab::up(LabSpec { name: args.name.clone(), profile: args.profile.clone(), ..LabSpec::default() })?;
    let shown = show(&lab);
    if args.keep {
        println!("\nthe lab stands: cargo xtask lab --name {} exec n1 -- ringbeat status", args.name);
    } else {
        lab.down()?;
        println!("\nthe lab is down, nothing is left of it");
    }
    shown
}

fn show(lab: &Lab) -> Result<()> {
    let mut story = Vec::new();
    println!("Three nodes, two heartbeat links each, profile {}.\n", lab.spec().profile);
    lab.start_all()?;
    all_up(lab)?;
    println!("All hear one another. A second of beats:\n");
    thread::sleep(Duration::from_secs(1));
    links(lab)?;

    let fault =
        Fault { title: "n2's daemon is killed (SIGKILL)", kind: "peer_gone", about: "n2", by: &["n1", "n3"] };
    fault.happens(lab, &mut story, || lab.node("n2")?.kill())?;
    println!("  Its kernel goes on answering, and says so: evidence, not a timeout.");
    let dead = lab.node("n2")?.daemon()?.is_none_or(|daemon| daemon.wait_dead(PATIENCE));
    ensure!(dead, "the killed daemon still lives");
    lab.node("n2")?.start(&StartOptions::default())?;
    all_up(lab)?;
    println!("  Started again, as a new incarnation; all hear one another.");

    let fault =
        Fault { title: "n3 vanishes, the whole host", kind: "peer_down", about: "n3", by: &["n1", "n2"] };
    fault.happens(lab, &mut story, || lab.crash("n3"))?;
    lab.boot("n3")?;
    lab.node("n3")?.start(&StartOptions::default())?;
    all_up(lab)?;
    println!("  Booted again; all hear one another.");

    let sent = lost(lab, "n1", 1, "n2")?;
    let fault = Fault { title: "link 0 of n2 is cut", kind: "link_late", about: "n2", by: &["n1", "n3"] };
    fault.happens(lab, &mut story, || lab.cut(&Cut::node("n2").link(0)))?;
    thread::sleep(Duration::from_millis(200));
    let lost = lost(lab, "n1", 1, "n2")? - sent;
    println!("  n2 stays up through link 1, where {lost} beats were lost. Nobody is told as down.");
    let fault =
        Fault { title: "link 1 of n2 is cut, too", kind: "peer_down", about: "n2", by: &["n1", "n3"] };
    fault.happens(lab, &mut story, || lab.cut(&Cut::node("n2").link(1)))?;
    lab.heal(None)?;
    all_up(lab)?;
    println!("  Healed; all hear one another, after the damping of a link that has flapped.");

    let fault = Fault {
        title: "n1's daemon is stopped (SIGSTOP)",
        kind: "peer_stalled",
        about: "n1",
        by: &["n2", "n3"],
    };
    fault.happens(lab, &mut story, || lab.node("n1")?.pause())?;
    lab.node("n1")?.resume()?;
    println!("  Its kernel answers all the while: stalled, and neither down nor gone.");
    all_up(lab)?;

    println!("\nThe service address {}, asked 5,000 times a second at each node:", probed(lab)?);
    let killed =
        Move { title: "its holder's daemon is killed", fault: "SIGKILL to the daemon", ends: End::Latch };
    let held = killed.happens(lab, &mut story, |lab, holder| lab.node(holder)?.kill())?;
    let dead = lab.node(&held)?.daemon()?.is_none_or(|daemon| daemon.wait_dead(PATIENCE));
    ensure!(dead, "the killed daemon still lives");
    lab.node(&held)?.start(&StartOptions::default())?;
    all_up(lab)?;
    println!("  Started again; the address stays where it is.");
    let vanished = Move {
        title: "its holder vanishes, the whole host",
        fault: "all its links are dead",
        ends: End::Grants,
    };
    let held = vanished.happens(lab, &mut story, |lab, holder| lab.crash(holder))?;
    lab.boot(&held)?;
    lab.node(&held)?.start(&StartOptions::default())?;
    all_up(lab)?;
    println!("  Booted again; the address stays where it is.");

    println!("\nIn short, from the fault on:");
    story.iter().for_each(|line| println!("  {line}"));
    Ok(())
}

/// The name of the node that serves the address now.
fn holder(lab: &Lab) -> Result<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        for node in lab.nodes() {
            let status = client(&node)?.status()?;
            if status.addresses.iter().any(|address| address.here == "open") {
                return Ok(status.node_name);
            }
        }
        ensure!(Instant::now() < end, "nobody serves the address");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What every move of the address has. Where a daemon is killed, its lease is out before anybody else knows.
pub(crate) const MOMENTS: [&str; 7] =
    ["fault", "verdict", "told", "announced", "lease out", "gate opened", "first answer"];

/// The address moves because something happens to its holder.
struct Move {
    title: &'static str,
    fault: &'static str,
    ends: End,
}

/// What ends the lease of a holder.
#[derive(Clone, Copy)]
enum End {
    /// Its kernel sees its daemon go.
    Latch,
    /// Nobody grants it any more.
    Grants,
}

/// When something of a move was, what, and in whose words.
type Moment = (u64, &'static str, String);

impl Move {
    /// Strikes the holder and prints how the address moves; gives who held it before. Fails if a moment is missing.
    fn happens(
        &self,
        lab: &Lab,
        story: &mut Vec<String>,
        strike: impl FnOnce(&Lab, &str) -> Result<u64>,
    ) -> Result<String> {
        let held = holder(lab)?;
        println!("\n== {} ({held})", self.title);
        let node = lab.node(&held)?;
        let id = node.id()?;
        // Taken while the node lives: the maps stand in the kernel, also when their programs have no daemon.
        let (lease, latch) = (node.pinned::<LeaseTable>("LEASE")?, node.pinned::<Latch>("LATCH")?);
        let prober = Prober::start(lab, probed(lab)?)?;
        thread::sleep(Duration::from_millis(200));
        let fault_ns = strike(lab, &held)?;
        let end = Instant::now() + TELLING;
        let first = loop {
            if let Some(first) = prober.first_of_others(id, fault_ns) {
                break first;
            }
            ensure!(Instant::now() < end, "nobody else answers within {TELLING:?}");
            thread::sleep(Duration::from_millis(2));
        };
        thread::sleep(Duration::from_millis(50));
        let answers = prober.answers();
        drop(prober);
        let next = format!("n{}", first.node);
        let mut moments =
            told_of(&client(&lab.node(&next)?)?.events(None, None)?, &held, &next, fault_ns, first);
        moments.push((fault_ns, "fault", format!("{held}: {}", self.fault)));
        moments.push((first.received_ns, "first answer", format!("{next} answers the client")));
        let last = answers.iter().filter(|answer| answer.node == id).map(|answer| answer.received_ns).max();
        moments.extend(last.map(|last_ns| (last_ns, "", format!("{held}: the last answer"))));
        moments.extend(self.lease_out(&held, &lease.copy(0), &latch.copy(0)));
        moments.sort_by_key(|(at_ns, ..)| *at_ns);
        for (at_ns, name, text) in &moments {
            println!("  {:>9.3} ms  {name:<12}  {text}", (*at_ns as f64 - fault_ns as f64) / 1e6);
        }
        let late =
            answers.iter().filter(|answer| answer.node != first.node && answer.sent_ns > first.received_ns);
        println!("  {} answers of anybody else after that.", late.count());
        check(&moments)?;
        let ms = (first.received_ns - fault_ns) as f64 / 1e6;
        story.push(format!("{ms:>7.1} ms  {} ({held}): answered by {next}", self.title));
        Ok(held)
    }

    /// When the holder's lease was over, by its own kernel's word. While its daemon lives that is when the grants of its
    /// view, and what was carried over from the view before, have run out.
    fn lease_out(&self, held: &str, lease: &LeaseTable, latch: &Latch) -> Option<Moment> {
        let (at_ns, text) = match self.ends {
            End::Latch => (latch.gone_ns, "the kernel sees the daemon go, and shuts the gate"),
            End::Grants => {
                let granted_us = Stamped(lease.words[UNTIL]).us();
                (granted_us.max(lease.words[GATES + 1]) * 1000, "what was granted has run out")
            }
        };
        (at_ns != 0).then(|| (at_ns, "lease out", format!("{held}: {text}")))
    }
}

/// What the next holder told of a move.
fn told_of(events: &[EventRecord], held: &str, next: &str, fault_ns: u64, first: Answer) -> Vec<Moment> {
    let mut moments = Vec::new();
    for event in events.iter().filter(|event| (fault_ns..=first.received_ns).contains(&event.stamp_ns)) {
        let view = event.view.as_deref().unwrap_or_default();
        let (name, text) = match event.kind.as_str() {
            "peer_gone" | "peer_down" if event.node.as_deref() == Some(held) => {
                let evidence =
                    if event.evidence.by_timer { "silent for too long" } else { "a frame says gone" };
                moments.push((event.told_ns, "told", format!("{next}: {} {held}", event.kind)));
                ("verdict", format!("{next}: the kernel: {evidence}"))
            }
            "announce" => {
                if let Some(wait_ns) = waited_ns(event).filter(|wait_ns| *wait_ns > 0) {
                    let over_ns = event.stamp_ns + wait_ns;
                    moments.push((over_ns, "", format!("{next}: what it had promised to {held} is over")));
                }
                ("announced", format!("{next}: view {view}: nothing more is granted to those outside"))
            }
            "install" => ("", format!("{next}: view installed, all its members stand by it")),
            "address_added" => ("", format!("{next}: address on its interface, behind the closed gate")),
            "lease_gained" => ("", format!("{next}: a quorum grants it the lease")),
            "gate_opened" => ("gate opened", format!("{next}: packets pass")),
            _ => continue,
        };
        moments.push((event.stamp_ns, name, text));
    }
    moments
}

/// Holds a move to its moments: none is missing, and the next gate opens only when the old lease is out.
fn check(moments: &[Moment]) -> Result<()> {
    let at = |wanted: &str| moments.iter().find(|(_, name, _)| *name == wanted).map(|(at_ns, ..)| *at_ns);
    let missing: Vec<&str> = MOMENTS.into_iter().filter(|name| at(name).is_none()).collect();
    ensure!(missing.is_empty(), "not seen: {}", missing.join(", "));
    ensure!(at("lease out") <= at("gate opened"), "the next gate opened before the old lease was out");
    // Where a daemon is killed its lease is out before anybody else knows.
    for [earlier, later] in [
        ["fault", "verdict"],
        ["verdict", "told"],
        ["verdict", "announced"],
        ["announced", "gate opened"],
        ["gate opened", "first answer"],
    ] {
        ensure!(at(earlier) <= at(later), "{later} came before {earlier}");
    }
    Ok(())
}

/// How long grants had to wait, as an announcement tells it.
fn waited_ns(event: &EventRecord) -> Option<u64> {
    let ms: f64 = event.text.as_ref()?.strip_prefix("grants wait ")?.strip_suffix(" ms")?.parse().ok()?;
    Some((ms * 1e6) as u64)
}

/// A fault, and who must tell it how.
struct Fault<'a> {
    title: &'a str,
    kind: &'a str,
    about: &'a str,
    by: &'a [&'a str],
}

impl Fault<'_> {
    /// Lets it happen and prints its timeline.
    fn happens(
        &self,
        lab: &Lab,
        story: &mut Vec<String>,
        strike: impl FnOnce() -> Result<u64>,
    ) -> Result<()> {
        println!("\n== {}", self.title);
        let watches = self.by.iter().map(|name| Ok((*name, Watch::on(&lab.node(name)?)?)));
        let watches = watches.collect::<Result<Vec<_>>>()?;
        thread::sleep(Duration::from_millis(30));
        let fault_ns = strike()?;
        let mut lines = vec![(fault_ns, "fault".to_owned())];
        let mut slowest_ns = fault_ns;
        for (by, watch) in watches {
            let is_it = |event: &EventRecord| {
                event.kind == self.kind
                    && event.node.as_deref() == Some(self.about)
                    && event.stamp_ns >= fault_ns
            };
            let Some(event) = watch.next(TELLING, is_it)? else {
                bail!("{by} did not tell {} of {} within {TELLING:?}", self.kind, self.about);
            };
            let evidence = if event.evidence.by_timer { "silence" } else { "a frame" };
            lines.push((event.stamp_ns, format!("{by}: the kernel's verdict, by {evidence}")));
            lines.push((event.told_ns, format!("{by}: told {} {}", self.kind, self.about)));
            slowest_ns = slowest_ns.max(event.told_ns);
        }
        let ms = |at_ns: u64| (at_ns - fault_ns) as f64 / 1e6;
        lines.sort_by_key(|(at_ns, _)| *at_ns);
        lines.iter().for_each(|(at_ns, text)| println!("  {:>9.3} ms  {text}", ms(*at_ns)));
        let both = self.by.join(" and ");
        story.push(format!("{:>7.1} ms  {}: told by {both}, {}", ms(slowest_ns), self.title, self.kind));
        Ok(())
    }
}

fn all_up(lab: &Lab) -> Result<()> {
    lab.nodes().try_for_each(|node| wait_for_peers(&node, "up", PATIENCE))
}

fn client(node: &Node<'_>) -> Result<Client> {
    Ok(Client::connect(&node.socket()?)?)
}

fn links(lab: &Lab) -> Result<()> {
    println!("  from  link  to    mode     round trip p50 / p99 / max us   jitter p50 us   beats   lost");
    for node in lab.nodes() {
        for link in client(&node)?.link()? {
            for edge in &link.peers {
                let (trip, jitter) = (edge.round_trip_us, edge.jitter_us.p50);
                println!(
                    "  {:<5} {:<5} {:<5} {:<8} {:>10.1} /{:>6.1} /{:>7.1} {jitter:>16.1} {:>9} {:>6}",
                    node.name(),
                    link.id,
                    edge.name,
                    link.mode,
                    trip.p50,
                    trip.p99,
                    trip.max,
                    edge.sent,
                    edge.lost
                );
            }
        }
    }
    let started = boottime_ns();
    let ages: BTreeMap<String, u64> = lab
        .nodes()
        .map(|node| Ok((node.name().to_owned(), client(&node)?.stats()?.rss_kib)))
        .collect::<Result<_>>()?;
    let asked_ms = (boottime_ns() - started) as f64 / 1e6;
    let rss: Vec<String> =
        ages.iter().map(|(name, kib)| format!("{name} {:.1} MiB", *kib as f64 / 1024.0)).collect();
    println!("\n  daemons: {} (asked all three in {asked_ms:.1} ms)", rss.join(", "));
    Ok(())
}

/// Probes lost from a node to a peer on a link.
fn lost(lab: &Lab, from: &str, link: u8, to: &str) -> Result<u64> {
    let links = client(&lab.node(from)?)?.link()?;
    let link = links.into_iter().find(|one| one.id == link).context("no such link")?;
    Ok(link.peers.into_iter().find(|edge| edge.name == to).context("no such peer")?.lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_without_one_of_its_moments_is_none() {
        let whole: Vec<Moment> =
            MOMENTS.iter().zip(1..).map(|(name, at_ns)| (at_ns, *name, String::new())).collect();
        check(&whole).expect("whole");
        for name in MOMENTS {
            let rest: Vec<Moment> = whole.iter().filter(|moment| moment.1 != name).cloned().collect();
            assert_eq!(check(&rest).expect_err(name).to_string(), format!("not seen: {name}"));
        }
        let mut early = whole;
        early[4].0 = 9;
        assert!(check(&early).expect_err("two leases").to_string().contains("before the old lease"));
    }

    #[test]
    fn the_lease_is_out_when_the_last_of_it_is() {
        let killed = Move { title: "", fault: "", ends: End::Latch };
        let vanished = Move { title: "", fault: "", ends: End::Grants };
        let mut lease = LeaseTable { words: [0; ringbeat_common::lease::LEASE_WORDS] };
        let latch = Latch { gone_ns: 7, ..Latch::default() };
        assert!(vanished.lease_out("n1", &lease, &latch).is_none(), "never granted");
        assert!(killed.lease_out("n1", &lease, &Latch::default()).is_none(), "it lives");
        lease.words[UNTIL] = Stamped::new(3, 20).0;
        lease.words[GATES + 1] = 30;
        assert_eq!(vanished.lease_out("n1", &lease, &latch).map(|(at_ns, ..)| at_ns), Some(30_000));
        assert_eq!(killed.lease_out("n1", &lease, &latch).map(|(at_ns, ..)| at_ns), Some(7));
    }
}
