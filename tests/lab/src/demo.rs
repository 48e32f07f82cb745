//! The demo: three nodes, live links, faults and their timelines, in half a minute.
//!
//! Everything that is shown is read from the running daemons; the times are differences of stamps of one clock, since
//! all nodes of a lab share the machine's. Deliberately not here: a fault that is only told.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, bail};
use ringbeat_control::{Client, EventRecord};

use crate::{
    Cut, Lab, LabSpec, Node, StartOptions,
    bench::{
        prober::{Prober, probed},
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
    println!("Three nodes, two heartbeat links each, profile {}.\n", lab.spec().profile);
    lab.start_all()?;
    all_up(lab)?;
    println!("All hear one another. A second of beats:\n");
    thread::sleep(Duration::from_secs(1));
    links(lab)?;

    let fault =
        Fault { title: "n2's daemon is killed (SIGKILL)", kind: "peer_gone", about: "n2", by: &["n1", "n3"] };
    fault.happens(lab, || lab.node("n2")?.kill())?;
    println!("  Its kernel goes on answering, and says so: evidence, not a timeout.");
    let dead = lab.node("n2")?.daemon()?.is_none_or(|daemon| daemon.wait_dead(PATIENCE));
    anyhow::ensure!(dead, "the killed daemon still lives");
    lab.node("n2")?.start(&StartOptions::default())?;
    all_up(lab)?;
    println!("  Started again, as a new incarnation; all hear one another.");

    let fault =
        Fault { title: "n3 vanishes, the whole host", kind: "peer_down", about: "n3", by: &["n1", "n2"] };
    fault.happens(lab, || lab.crash("n3"))?;
    lab.boot("n3")?;
    lab.node("n3")?.start(&StartOptions::default())?;
    all_up(lab)?;
    println!("  Booted again; all hear one another.");

    let sent = lost(lab, "n1", 1, "n2")?;
    let fault = Fault { title: "link 0 of n2 is cut", kind: "link_late", about: "n2", by: &["n1", "n3"] };
    fault.happens(lab, || lab.cut(&Cut::node("n2").link(0)))?;
    thread::sleep(Duration::from_millis(200));
    let lost = lost(lab, "n1", 1, "n2")? - sent;
    println!("  n2 stays up through link 1, where {lost} beats were lost. Nobody is told as down.");
    let fault =
        Fault { title: "link 1 of n2 is cut, too", kind: "peer_down", about: "n2", by: &["n1", "n3"] };
    fault.happens(lab, || lab.cut(&Cut::node("n2").link(1)))?;
    lab.heal(None)?;
    all_up(lab)?;
    println!("  Healed; all hear one another, after the damping of a link that has flapped.");

    let fault = Fault {
        title: "n1's daemon is stopped (SIGSTOP)",
        kind: "peer_stalled",
        about: "n1",
        by: &["n2", "n3"],
    };
    fault.happens(lab, || lab.node("n1")?.pause())?;
    lab.node("n1")?.resume()?;
    println!("  Its kernel answers all the while: stalled, and neither down nor gone.");
    all_up(lab)?;

    println!("\nThe service address {}, asked 5,000 times a second at each node:", probed(lab)?);
    let held = moves(lab, "the daemon of its holder is killed", |lab, holder| lab.node(holder)?.kill())?;
    let dead = lab.node(&held)?.daemon()?.is_none_or(|daemon| daemon.wait_dead(PATIENCE));
    anyhow::ensure!(dead, "the killed daemon still lives");
    lab.node(&held)?.start(&StartOptions::default())?;
    all_up(lab)?;
    let held = moves(lab, "its holder vanishes, the whole host", |lab, holder| lab.crash(holder))?;
    lab.boot(&held)?;
    lab.node(&held)?.start(&StartOptions::default())?;
    all_up(lab)?;
    println!("  Back again; the address stays where it is.");
    Ok(())
}

/// The name of the node that serves the address now.
fn holder(lab: &Lab) -> Result<String> {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        for node in lab.nodes() {
            let status = client(&node)?.status()?;
            if status.addresses.iter().any(|address| address.here == "open") {
                return Ok(status.node_name);
            }
        }
        anyhow::ensure!(std::time::Instant::now() < end, "nobody serves the address");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Strikes the holder and prints how the address moves; gives who held it before.
fn moves(lab: &Lab, title: &str, strike: impl FnOnce(&Lab, &str) -> Result<u64>) -> Result<String> {
    let held = holder(lab)?;
    println!("\n== {title} ({held})");
    let prober = Prober::start(lab, probed(lab)?)?;
    thread::sleep(Duration::from_millis(200));
    let id = lab.node(&held)?.id()?;
    let fault_ns = strike(lab, &held)?;
    let end = std::time::Instant::now() + TELLING;
    let first = loop {
        if let Some(first) = prober.first_of_others(id, fault_ns) {
            break first;
        }
        anyhow::ensure!(std::time::Instant::now() < end, "nobody else answers within {TELLING:?}");
        thread::sleep(Duration::from_millis(2));
    };
    thread::sleep(Duration::from_millis(50));
    let answers = prober.answers();
    drop(prober);
    let next = format!("n{}", first.node);
    let mut lines = vec![(fault_ns, "fault".to_owned())];
    if let Some(last) =
        answers.iter().filter(|answer| answer.node == id).map(|answer| answer.received_ns).max()
    {
        lines.push((last, format!("{held}: last answer")));
    }
    lines.push((first.received_ns, format!("{next}: first answer")));
    for event in client(&lab.node(&next)?)?.events(None, None)? {
        let told = event.stamp_ns >= fault_ns && event.stamp_ns <= first.received_ns;
        let text = match event.kind.as_str() {
            "peer_gone" | "peer_down" if told => {
                lines.push((event.told_ns, format!("{next}: told {} {held}", event.kind)));
                "the kernel's verdict"
            }
            "announce" if told => {
                if let Some(wait_ns) = waited_ns(&event) {
                    lines.push((
                        event.stamp_ns + wait_ns,
                        format!("{next}: what was promised to {held} is over"),
                    ));
                }
                "view announced: nothing more is granted to those outside"
            }
            "install" if told => "view installed",
            "address_added" if told => "address on its interface, behind the closed gate",
            "gate_opened" if told => "lease gained, gate open",
            _ => continue,
        };
        lines.push((event.stamp_ns, format!("{next}: {text}")));
    }
    lines.sort_by_key(|(at_ns, _)| *at_ns);
    for (at_ns, text) in lines {
        println!("  {:>9.3} ms  {text}", (at_ns as f64 - fault_ns as f64) / 1e6);
    }
    let late =
        answers.iter().filter(|answer| answer.node != first.node && answer.sent_ns > first.received_ns);
    println!("  {} answers of anybody else after that.", late.count());
    Ok(held)
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
    fn happens(&self, lab: &Lab, strike: impl FnOnce() -> Result<u64>) -> Result<()> {
        println!("\n== {}", self.title);
        let watches = self.by.iter().map(|name| Ok((*name, Watch::on(&lab.node(name)?)?)));
        let watches = watches.collect::<Result<Vec<_>>>()?;
        thread::sleep(Duration::from_millis(30));
        let fault_ns = strike()?;
        println!("  {:>9.3} ms  fault", 0.0);
        for (by, watch) in watches {
            let is_it = |event: &EventRecord| {
                event.kind == self.kind
                    && event.node.as_deref() == Some(self.about)
                    && event.stamp_ns >= fault_ns
            };
            let Some(event) = watch.next(TELLING, is_it)? else {
                bail!("{by} did not tell {} of {} within {TELLING:?}", self.kind, self.about);
            };
            let ms = |at_ns: u64| (at_ns - fault_ns) as f64 / 1e6;
            let evidence = if event.evidence.by_timer { "silence" } else { "a frame" };
            println!("  {:>9.3} ms  {by}: the kernel's verdict, by {evidence}", ms(event.stamp_ns));
            println!("  {:>9.3} ms  {by}: told {} {}", ms(event.told_ns), self.kind, self.about);
        }
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
