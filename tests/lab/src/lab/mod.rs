//! A lab as a whole: built, found again, shown and ended.

mod config;
mod faults;
mod init;
mod launch;
mod node;
mod pins;
mod state;
pub(crate) mod switch;
mod topology;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

pub(crate) use self::state::{program, root};
pub(crate) use self::topology::{CLIENT_SLOT, SERVICE, mac};
pub use self::{
    faults::{Cut, CutInForce, Direction, Links},
    init::init_main,
    launch::start_main,
    node::{Node, SkewedClock, StartOptions},
    state::labs,
};
use self::{
    state::LabState,
    topology::{CLIENT, LINKS_MAX, NODES_MAX, SWITCH, node_name},
};
use crate::sys::{
    memory::SharedWords,
    process::{ProcessId, ProcessState},
    spaces::{self, NETWORK},
};

/// How long the kernel may take to end a node.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);
/// How long the kernel may take to see that a link is up.
const CARRIER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a daemon may take to answer after its start.
const READY_PATIENCE: Duration = Duration::from_secs(10);

/// The service address of a lab that names none.
pub(crate) const ADDRESS: &str = "10.78.0.100/24";

/// What a lab shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabSpec {
    /// Labs with different names stand side by side.
    pub name: String,
    /// How many nodes: n1, n2, ...
    pub nodes: u8,
    /// How many heartbeat links.
    pub links: u8,
    /// The profile of all links.
    pub profile: String,
    /// The configuration names the nodes' IPv6 addresses in place of IPv4. The interfaces always have both.
    pub ipv6: bool,
    /// The `datapath` of the configuration.
    pub datapath: Option<String>,
    /// More keys of the `[cluster]` table: the values are TOML, so a string has its quotes.
    pub cluster_extra: BTreeMap<String, String>,
    /// More keys of every `[[link]]` table.
    pub link_extra: BTreeMap<String, String>,
    /// Keys of the `[ring]` table.
    #[serde(default)]
    pub ring: BTreeMap<String, String>,
    /// Service addresses with their prefixes, on the nodes' `svc0`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// They go back to the lowest node.
    #[serde(default)]
    pub failback: bool,
    /// The text of the whole configuration, in place of the one that is made from all the above.
    pub config: Option<String>,
}

impl Default for LabSpec {
    fn default() -> Self {
        Self {
            name: "lab".to_owned(),
            nodes: 3,
            links: 2,
            profile: "fast".to_owned(),
            ipv6: false,
            datapath: None,
            cluster_extra: BTreeMap::new(),
            link_extra: BTreeMap::new(),
            ring: BTreeMap::new(),
            addresses: vec![ADDRESS.to_owned()],
            failback: false,
            config: None,
        }
    }
}

/// A lab that stands. Dropping it leaves the lab as it is; [`Lab::down`] ends it.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    spec: LabSpec,
    cutter: Option<SharedWords>,
}

/// What `lab status` tells.
#[derive(Debug, Clone, Serialize)]
pub struct LabStatus {
    /// The lab's name.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// The profile that it was built with.
    pub profile: String,
    /// The number of heartbeat links.
    pub links: u8,
    /// Whether frames can be cut: false in a build without kernel programs.
    pub can_cut: bool,
    /// All nodes and the client.
    pub nodes: Vec<NodeStatus>,
    /// The cuts in force.
    pub cuts: Vec<CutInForce>,
}

/// One node in [`LabStatus`].
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// The pid of its process 1, which stands for its namespaces.
    pub init_pid: u32,
    /// False if process 1 is dead, and all of the node with it.
    pub alive: bool,
    /// Crashed, and not started since.
    pub crashed: bool,
    /// The pid of its daemon; absent if none was started.
    pub daemon_pid: Option<u32>,
    /// What the daemon does; absent if none was started.
    pub daemon: Option<ProcessState>,
    /// Its addresses, the service network's last.
    pub addresses: Vec<String>,
}

impl Lab {
    /// Builds a lab; no daemon is started yet, so its files may still be changed.
    pub fn up(spec: LabSpec) -> Result<Self> {
        ensure!(crate::sys::process::is_root(), "a lab needs root: it makes network namespaces");
        ensure!((1..=NODES_MAX).contains(&spec.nodes), "a lab has 1 to {NODES_MAX} nodes");
        ensure!((1..=LINKS_MAX).contains(&spec.links), "a lab has 1 to {LINKS_MAX} links");
        let dir = state::dir(&spec.name)?;
        state::sweep_drafts()?;
        clear_remains(&spec.name, &dir)?;
        let mut state = LabState { spec, builder: Some(ProcessId::own()?) };
        state::create(&dir, &state)?;
        let built = build(&dir, &state.spec).and_then(|()| {
            state.builder = None;
            state.save(&dir)
        });
        if let Err(error) = built {
            // The first error is the one to tell.
            let _ = end(&dir);
            return Err(error.context(format!("cannot build lab {:?}", state.spec.name)));
        }
        Self::attach(dir, state.spec)
    }

    /// Finds a lab that stands.
    pub fn open(name: &str) -> Result<Self> {
        let dir = state::dir(name)?;
        if !dir.exists() {
            let others = labs()?;
            bail!(
                "there is no lab {name:?}; there are: {}",
                if others.is_empty() { "none".into() } else { others.join(" ") }
            );
        }
        let state = LabState::load(&dir)?;
        ensure!(
            state.builder.is_none(),
            "lab {name:?} is not built to its end; end it with `lab down --name {name}`"
        );
        Self::attach(dir, state.spec)
    }

    /// Ends the lab: all its processes, namespaces and files.
    pub fn down(self) -> Result<()> {
        end(&self.dir)
    }

    /// What it was built from.
    #[must_use]
    pub fn spec(&self) -> &LabSpec {
        &self.spec
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A node by name; `client` and `switch` too.
    pub fn node(&self, name: &str) -> Result<Node<'_>> {
        if name != SWITCH {
            topology::slot(&self.spec, name)?;
        }
        Ok(Node { lab: self, name: name.to_owned() })
    }

    /// All nodes, in order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        (1..=self.spec.nodes).map(|id| Node { lab: self, name: node_name(id) })
    }

    /// The one on the service network that is no node.
    #[must_use]
    pub fn client(&self) -> Node<'_> {
        Node { lab: self, name: CLIENT.to_owned() }
    }

    /// Starts every node's daemon and waits until all answer.
    pub fn start_all(&self) -> Result<()> {
        for node in self.nodes() {
            node.start(&StartOptions::default())?;
        }
        self.nodes().try_for_each(|node| node.wait_ready(READY_PATIENCE))
    }

    /// What is where, and how it does.
    pub fn status(&self) -> Result<LabStatus> {
        let nodes = self.nodes().chain([self.client()]).map(|node| {
            let (init, daemon) = (node.init()?, node.daemon()?);
            let slot = node.slot()?;
            let on = topology::links_of(&self.spec, slot).into_iter();
            Ok(NodeStatus {
                name: node.name().to_owned(),
                init_pid: init.pid,
                alive: init.is_alive(),
                crashed: node.is_crashed(),
                daemon_pid: daemon.map(|daemon| daemon.pid),
                daemon: daemon.map(ProcessId::state),
                addresses: on.map(|link| topology::addresses(link, slot).0).collect(),
            })
        });
        Ok(LabStatus {
            name: self.spec.name.clone(),
            dir: self.dir.clone(),
            profile: self.spec.profile.clone(),
            links: self.spec.links,
            can_cut: self.cutter.is_some(),
            nodes: nodes.collect::<Result<_>>()?,
            cuts: self.cuts_in_force()?,
        })
    }

    /// Ends all that a node was, and boots it anew, without starting its daemon: namespaces, pins and `/run`
    /// are fresh and its cuts are lifted; `etc` and `var` stay. [`Node::start`] does it by itself after a
    /// crash.
    pub fn boot(&self, node: &str) -> Result<()> {
        let node = self.node(node)?;
        node.id()?;
        end_init(&node.name, node.init()?)?;
        let waiting = init::spawn(&self.dir, &node.name)?;
        let id = waiting.id;
        init::release(vec![waiting])?;
        let switch = self.node(SWITCH)?.init()?;
        // The kernel takes its time over the old interfaces, and the ports have the same names again.
        let unplug = topology::unplug(&self.spec, node.slot()?);
        spaces::within(switch, NETWORK, || topology::ip_batch_as_far_as_possible(&unplug))??;
        wire(&self.spec, switch, &[(node.slot()?, id)])?;
        if self.cutter.is_some() {
            self.heal(Some(&node.name))?;
        }
        node.clear_crash()
    }

    fn attach(dir: PathBuf, spec: LabSpec) -> Result<Self> {
        let mut lab = Self { dir, spec, cutter: None };
        let switch = lab.node(SWITCH)?.init()?;
        if !switch.is_alive() {
            let name = &lab.spec.name;
            bail!("lab {name:?} is dead (did the machine restart?): clean up with `lab down --name {name}`");
        }
        lab.cutter = switch::cuts(switch)?;
        Ok(lab)
    }
}

/// Ends a lab in whatever state it is, also one that was left half-built. False if there is none.
pub fn remove(name: &str) -> Result<bool> {
    let dir = state::dir(name)?;
    state::sweep_drafts()?;
    if !dir.exists() {
        return Ok(false);
    }
    if let Ok(LabState { builder: Some(builder), .. }) = LabState::load(&dir)
        && builder != ProcessId::own()?
        && builder.is_alive()
    {
        bail!("lab {name:?} is being built by pid {}", builder.pid);
    }
    end(&dir)?;
    Ok(true)
}

fn build(dir: &Path, spec: &LabSpec) -> Result<()> {
    let mut waiting = vec![init::spawn(dir, SWITCH)?];
    for slot in topology::slots(spec) {
        waiting.push(init::spawn(dir, &topology::slot_name(slot))?);
    }
    let switch = waiting[0].id;
    let inits: Vec<(u8, ProcessId)> =
        topology::slots(spec).zip(waiting[1..].iter().map(|init| init.id)).collect();
    config::write(dir, spec)?;
    init::release(waiting)?;
    spaces::within(switch, NETWORK, || topology::ip_batch(&topology::bridges(spec)))??;
    wire(spec, switch, &inits)
}

fn wire(spec: &LabSpec, switch: ProcessId, inits: &[(u8, ProcessId)]) -> Result<()> {
    let wires: String = inits.iter().map(|(slot, init)| topology::wires(spec, *slot, init.pid)).collect();
    spaces::within(switch, NETWORK, || topology::ip_batch(&wires))??;
    let slots: Vec<u8> = inits.iter().map(|(slot, _)| *slot).collect();
    switch::attach(spec, switch, &slots)?;
    for (slot, init) in inits {
        let batch = topology::interfaces(spec, *slot);
        spaces::within(*init, NETWORK, || topology::ip_batch(&batch))??;
    }
    // The kernel tells the interfaces and the bridges of their carriers a little later, and until then frames
    // are lost.
    for (slot, init) in inits {
        for link in topology::links_of(spec, *slot) {
            let bridged = format!("{}/brport/state", topology::port(link, *slot));
            wait_until(switch, &bridged, topology::FORWARDING)?;
            wait_until(*init, &format!("{}/operstate", topology::interface(link)), "up")?;
        }
    }
    Ok(())
}

/// Waits until a file of an interface says so, in the namespace of this process 1.
fn wait_until(init: ProcessId, file: &str, want: &str) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{}/root/sys/class/net/{file}", init.pid));
    let end = Instant::now() + CARRIER_PATIENCE;
    loop {
        let is = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if is.trim() == want {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{file} is {:?}, not {want:?}, after {CARRIER_PATIENCE:?}", is.trim());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Makes place for a lab of this name, unless one lives.
fn clear_remains(name: &str, dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    if let Some((node, init)) = inits(dir)?.into_iter().find(|(_, init)| init.is_alive()) {
        bail!("lab {name:?} stands ({node} is pid {}): end it first with `lab down --name {name}`", init.pid);
    }
    remove(name).map(drop)
}

fn end(dir: &Path) -> Result<()> {
    let inits = inits(dir)?;
    for (_, init) in &inits {
        // Dead already is as good; all else shows below.
        let _ = init.signal(Signal::KILL);
    }
    for (node, init) in inits {
        end_init(&node, init)?;
    }
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

fn end_init(node: &str, init: ProcessId) -> Result<()> {
    // Dead already is as good.
    let _ = init.signal(Signal::KILL);
    ensure!(init.wait_left(DEATH_PATIENCE), "process 1 of {node}, pid {}, does not die", init.pid);
    Ok(())
}

/// All processes 1 on record, by node.
fn inits(dir: &Path) -> Result<Vec<(String, ProcessId)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        if let Some(init) = state::load_if_there(&entry.path().join("init.json"))? {
            found.push((entry.file_name().to_string_lossy().into_owned(), init));
        }
    }
    Ok(found)
}

const _: () = assert!(CLIENT_SLOT > NODES_MAX);
