//! What happens to a node of the lab, and how it is mended.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ringbeat_common::lease::{self, Words as _};
use ringbeat_common::maps::LeaseTable;
use ringbeat_control::Client;
use ringbeatd::plane::lease::LeaseCells;
use serde::Serialize;

use super::{HEALING, PATIENCE};
use crate::{Cut, Direction, Lab, Node, StartOptions, boottime_ns, sys::clock::WallClock};

/// How long the pauses are.
const BRIEF: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(3);
/// For how long a cut that may or may not move the address lasts.
const CUT: Duration = Duration::from_millis(300);
/// How long a planned restart may take, in ms, where the lab's configuration does not say when a daemon is stalled.
const HANDOVER_MS: u32 = 900;
/// Where pins of an ABI of nobody's are.
const STRANGER: &str = "abi99/NODE";
const HOUR_NS: i128 = 3_600_000_000_000;

/// What happens to the holder, where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scenario {
    /// Its daemon is killed
    Kill,
    /// It vanishes, the whole host
    Crash,
    /// All its heartbeat links are cut: it is alone, the others are the majority
    Cut,
    /// What it sends is lost; it still receives
    Oneway,
    /// What is sent to it is lost; it still sends
    Deaf,
    /// Its daemon is stopped for good, and goes on after the address has moved
    Freeze,
    /// All its processes are stopped, and go on after the address has moved
    FreezeAll,
    /// Its daemon is stopped for 3 s
    Stall,
    /// Its daemon is stopped for 300 ms
    Pause,
    /// Its service interface goes down
    Nic,
    /// Its links to one of the others are cut
    Peer,
    /// All nodes are cut off from one another
    Alone,
    /// Its daemon is restarted as planned
    Handover,
    /// Its daemon is killed and started again at once
    Restart,
    /// It vanishes and boots again at once
    Reboot,
    /// The daemon of a node that holds nothing is killed; the next one finds pins of one version back
    OlderPins,
    /// Its daemon is killed; the next one finds pins that are not ours, and does not start
    ForeignPins,
    /// The machine's wall clock is set an hour ahead, an hour back, and right again
    WallClock,
    /// A node that holds nothing crashes and comes back: a granter is missing for a while
    Other,
}

/// What becomes of the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Another node answers.
    Moves,
    /// No other node ever answers.
    Stays,
    /// Either.
    Any,
}

impl Scenario {
    /// What is to be expected of a cluster that works.
    pub(crate) const fn expected(self) -> Expected {
        match self {
            Self::Kill
            | Self::Crash
            | Self::Cut
            | Self::Oneway
            | Self::Deaf
            | Self::Freeze
            | Self::FreezeAll
            | Self::Stall
            | Self::Nic
            | Self::ForeignPins => Expected::Moves,
            Self::Pause | Self::Handover | Self::WallClock | Self::OlderPins | Self::Other => Expected::Stays,
            Self::Peer | Self::Alone | Self::Restart | Self::Reboot => Expected::Any,
        }
    }

    /// The node that is struck while `holder` holds the address.
    pub(super) fn victim(self, lab: &Lab, holder: &str) -> Result<String> {
        if !matches!(self, Self::Other | Self::OlderPins) {
            return Ok(holder.to_owned());
        }
        let others = lab.nodes().map(|node| node.name().to_owned()).filter(|name| name != holder);
        others.last().context("no other node")
    }
}

/// A node to be struck, and how daemons are started here.
pub(super) struct Strike<'a> {
    pub(super) lab: &'a Lab,
    pub(super) node: &'a Node<'a>,
    pub(super) options: StartOptions,
}

impl Strike<'_> {
    /// Makes the fault; gives its stamp. Faults that pass by themselves are over when it returns.
    pub(super) fn strike(&self, scenario: Scenario) -> Result<u64> {
        let (lab, node) = (self.lab, self.node);
        let name = node.name();
        Ok(match scenario {
            Scenario::Kill => node.kill()?,
            Scenario::Crash => lab.crash(name)?,
            Scenario::Cut => lab.cut(&Cut::node(name))?,
            Scenario::Oneway => lab.cut(&Cut::node(name).direction(Direction::Out))?,
            Scenario::Deaf => lab.cut(&Cut::node(name).direction(Direction::In))?,
            Scenario::Freeze | Scenario::Stall => node.pause()?,
            Scenario::FreezeAll => node.freeze()?,
            Scenario::Pause => {
                let fault_ns = node.pause()?;
                thread::sleep(BRIEF);
                node.resume()?;
                fault_ns
            }
            Scenario::Nic => {
                let now_ns = boottime_ns();
                service_interface(node, "down")?;
                now_ns
            }
            Scenario::Peer => {
                let peer = lab.nodes().find(|other| other.name() != name).context("no other node")?;
                let fault_ns = lab.cut(&Cut::node(name).peer(peer.name()))?;
                thread::sleep(CUT);
                lab.heal(None)?;
                fault_ns
            }
            Scenario::Alone => {
                let names: Vec<String> = lab.nodes().map(|node| node.name().to_owned()).collect();
                let groups: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
                let groups: Vec<&[&str]> = groups.iter().map(|group| &group[..]).collect();
                let fault_ns = lab.partition(&groups)?;
                thread::sleep(CUT);
                lab.heal(None)?;
                fault_ns
            }
            Scenario::Handover => {
                let stall = lab.spec().cluster_extra.get("daemon_stall_ms");
                let ms = stall.and_then(|ms| ms.parse().ok()).unwrap_or(HANDOVER_MS);
                Client::connect(&node.socket()?)?.handover(ms)?;
                let fault_ns = node.stop(PATIENCE)?;
                self.start()?;
                fault_ns
            }
            Scenario::Restart => {
                let fault_ns = node.kill()?;
                self.buried()?;
                self.start()?;
                fault_ns
            }
            Scenario::Reboot => {
                let fault_ns = lab.crash(name)?;
                self.boot()?;
                fault_ns
            }
            Scenario::OlderPins => {
                let fault_ns = node.kill()?;
                self.buried()?;
                node.age_pins()?;
                self.start()?;
                fault_ns
            }
            Scenario::ForeignPins => {
                let fault_ns = node.kill()?;
                self.buried()?;
                node.pin_stranger(STRANGER)?;
                node.start(&self.options)?;
                let refused = node.daemon()?.is_none_or(|daemon| daemon.wait_dead(PATIENCE));
                ensure!(refused, "{name} runs on pins that are not its own");
                fault_ns
            }
            Scenario::WallClock => {
                let (fault_ns, clock) = (boottime_ns(), WallClock::new());
                for more_ns in [HOUR_NS, -HOUR_NS] {
                    clock.set(more_ns).context("the wall clock cannot be set here")?;
                    thread::sleep(BRIEF / 3);
                }
                fault_ns
            }
            Scenario::Other => {
                let fault_ns = lab.crash(name)?;
                self.boot()?;
                fault_ns
            }
        })
    }

    /// By the table that the gate itself looks at, whatever the daemon does: no lease of the node lasts.
    fn gate_is_closed(&self) -> Result<()> {
        let table = self.node.pinned::<LeaseTable>("LEASE")?;
        let cells = LeaseCells(table.words());
        let (gate, carried_us) = (cells.load(lease::GATES), cells.load(lease::GATES + 1));
        let until_ns = cells.until_ns().max(carried_us * 1000);
        let until_ns = self.options.clock.map_or(until_ns, |clock| clock.true_ns(until_ns));
        let now_ns = boottime_ns();
        ensure!(
            gate == 0 || until_ns < now_ns,
            "the gate of a holder that stands still is open for {} ms more",
            until_ns.saturating_sub(now_ns) / 1_000_000
        );
        Ok(())
    }

    /// Makes all as it was before.
    pub(super) fn mend(&self, scenario: Scenario, fault_ns: u64) -> Result<()> {
        match scenario {
            Scenario::Kill => {
                self.buried()?;
                self.start()
            }
            Scenario::Crash => self.boot(),
            Scenario::Freeze => self.node.resume().map(drop),
            Scenario::FreezeAll => self.node.thaw(),
            Scenario::Stall => {
                let since = Duration::from_nanos(boottime_ns() - fault_ns);
                thread::sleep(LONG.saturating_sub(since));
                self.gate_is_closed()?;
                self.node.resume()?;
                let said = Client::connect(&self.node.socket()?)?.status()?;
                let is_open = said.addresses.iter().any(|address| address.here == "open");
                ensure!(!is_open, "a resumed holder finds its gate open: {:?}", said.addresses);
                Ok(())
            }
            Scenario::Nic => service_interface(self.node, "up"),
            Scenario::Cut | Scenario::Oneway | Scenario::Deaf | Scenario::Peer | Scenario::Alone => {
                self.lab.heal(None)?;
                // Whoever is heard again too early would answer now.
                thread::sleep(BRIEF);
                // A new life of the victim is not damped; the old one's flaps would be, longer each time.
                self.node.kill()?;
                self.buried()?;
                self.start()
            }
            Scenario::ForeignPins => {
                fs::remove_file(self.node.pin_stranger(STRANGER)?).context("the stranger's pin")?;
                self.start()
            }
            Scenario::Pause
            | Scenario::Handover
            | Scenario::Restart
            | Scenario::Reboot
            | Scenario::OlderPins
            | Scenario::WallClock
            | Scenario::Other => Ok(()),
        }
    }

    /// Starts the daemon, and waits until it answers.
    pub(super) fn start(&self) -> Result<()> {
        self.node.start(&self.options)?;
        self.node.wait_ready(HEALING)
    }

    fn boot(&self) -> Result<()> {
        self.lab.boot(self.node.name()).context("cannot boot the crashed node")?;
        self.lab.heal(Some(self.node.name()))?;
        self.start()
    }

    fn buried(&self) -> Result<()> {
        let dead = self.node.daemon()?.is_none_or(|daemon| daemon.wait_dead(PATIENCE));
        ensure!(dead, "the daemon of {} still lives", self.node.name());
        Ok(())
    }
}

/// Sets the node's service interface up or down.
fn service_interface(node: &Node<'_>, state: &str) -> Result<()> {
    let output = node.output("ip", &["link", "set", "svc0", state])?;
    ensure!(output.status.success(), "svc0 of {}: {output:?}", node.name());
    Ok(())
}
