//! The configuration file of Ringbeat: `/etc/ringbeat/ringbeat.toml` parsed, validated and explained.
//!
//! [`Config::parse`] turns text into a [`Config`], or into a [`ConfigError`] that shows the place and says what to do;
//! [`Config::load`] does so for a file and checks the key file too. A `Config` in hand is valid: its fields are
//! private, and there is no other way to make one. So the daemon checks nothing twice and knows before it touches an
//! interface that the file is good.
//!
//! The way through: `raw` (the form, with the place of each value) → `validate` (the meaning) → the types here.
//!
//! Deliberately not here: whether interfaces and addresses exist on this machine (the daemon sees them come and go),
//! looking up the host's name (the caller passes it in), key derivation, exit codes, and rendering of errors.
#![forbid(unsafe_code)]

mod error;
mod key;
mod profile;
mod raw;
mod ring;
mod service;
mod validate;

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use miette::NamedSource;
use serde::ser::{Serialize, SerializeStruct, Serializer};

pub use crate::error::{ConfigError, Place};
pub use crate::key::{AuthKey, KEY_BYTES_LEAST, KEY_BYTES_MADE, KEY_BYTES_MAX, KeyError};
pub use crate::profile::{Datapath, Profile};
pub use crate::ring::{Cipher, LinkMode, RING_PORT_BASE, RingConfig};
pub use crate::service::Service;

/// The largest configuration file that is read, in bytes.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;
/// The fewest nodes that make a cluster.
pub const NODES_LEAST: usize = 2;
/// The UDP port of link 0; link `id` has this plus `id`, unless the file says another.
pub const PORT_BASE: u16 = 5405;
/// Where the configuration file is, unless the caller is told otherwise.
pub const CONFIG_PATH: &str = "/etc/ringbeat/ringbeat.toml";

/// A valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    cluster: Cluster,
    ring: RingConfig,
    links: Vec<Link>,
    nodes: Vec<Node>,
    services: Vec<Service>,
    me: usize,
}

/// What holds for the whole cluster, or for this node's daemon.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Cluster {
    name: String,
    version: u64,
    authkey: PathBuf,
    state: PathBuf,
    control: PathBuf,
    datapath: Datapath,
    daemon_stall_ms: u32,
    gate_slack_us: u32,
    realtime: bool,
}

/// A heartbeat network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    id: u8,
    interface: String,
    network: IpNet,
    port: u16,
    profile: Profile,
    interval_us: u32,
    count: u32,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Node {
    id: u8,
    name: String,
    addresses: Vec<IpAddr>,
    votes: u8,
    witness: bool,
}

impl Config {
    /// Makes a configuration of a file's text. Pure: nothing but the arguments is looked at.
    ///
    /// `file_name` is shown in errors. `hostname` says which node this is where `cluster.node` does not.
    pub fn parse(text: &str, file_name: &str, hostname: Option<&str>) -> Result<Self, ConfigError> {
        Self::parse_keeping_source(text.to_owned(), file_name, hostname).map(|parsed| parsed.config)
    }

    /// Reads the file, makes a configuration of it, and checks that the key file may be used.
    pub fn load(path: &Path, hostname: Option<&str>) -> Result<Self, ConfigError> {
        Self::load_with_key(path, hostname).map(|(config, _key)| config)
    }

    /// As [`Config::load`], and hands out the key that was checked.
    pub fn load_with_key(path: &Path, hostname: Option<&str>) -> Result<(Self, AuthKey), ConfigError> {
        let file_name = path.display().to_string();
        let text = read_text(path, &file_name)?;
        let parsed = Self::parse_keeping_source(text, &file_name, hostname)?;
        match AuthKey::load(parsed.config.cluster.authkey()) {
            Ok(key) => Ok((parsed.config, key)),
            Err(source) => {
                let (span, label) = match parsed.authkey {
                    Some(span) => (span, "named here"),
                    None => (parsed.cluster, "nothing here names another"),
                };
                Err(ConfigError::Key { source, at: Some(Place::new(&parsed.source, span, label)) })
            }
        }
    }

    /// A commented file with every key: it parses on a host named `n1`, `n2` or `n3`.
    pub const fn example() -> &'static str {
        include_str!("../example.toml")
    }

    /// What holds for the whole cluster.
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// How the ordered ring goes over the links.
    pub const fn ring(&self) -> &RingConfig {
        &self.ring
    }

    /// The links, in ascending order of ids: 1 to `LINKS_MAX`.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The nodes, in ascending order of ids: [`NODES_LEAST`] to `NODES_MAX`.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The service addresses, in the file's order: the place of each is the number of its gate.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The length of the lease, the slowest link's deadline, in µs; `LEASE_MAX_NS` where links are slower than that.
    pub fn lease_us(&self) -> u32 {
        let longest_ns = self.links.iter().map(Link::deadline_ns).max().unwrap_or(0);
        u32::try_from(longest_ns.min(ringbeat_common::limits::LEASE_MAX_NS) / 1000).unwrap_or(u32::MAX)
    }

    /// The index of this node in [`Config::nodes`].
    pub const fn me(&self) -> usize {
        self.me
    }

    /// This node.
    pub fn own(&self) -> &Node {
        &self.nodes[self.me]
    }

    fn parse_keeping_source(
        text: String,
        file_name: &str,
        hostname: Option<&str>,
    ) -> Result<Parsed, ConfigError> {
        if text.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::FileTooLarge { file: file_name.to_owned() });
        }
        let source = Arc::new(NamedSource::new(file_name, text));
        let raw = raw::RawConfig::read(&source)?;
        let authkey = raw.cluster.get_ref().authkey.as_ref().map(toml::Spanned::span);
        let cluster = raw.cluster.span();
        let config = validate::config(raw, &source, hostname)?;
        Ok(Parsed { config, source, authkey, cluster })
    }
}

struct Parsed {
    config: Config,
    source: error::Source,
    authkey: Option<std::ops::Range<usize>>,
    cluster: std::ops::Range<usize>,
}

fn read_text(path: &Path, file_name: &str) -> Result<String, ConfigError> {
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => ConfigError::FileMissing { path: path.to_owned() },
        _ => ConfigError::FileUnreadable { path: path.to_owned(), source },
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    // One more than allowed, so that too large is seen; what is behind is never read.
    file.take(CONFIG_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(ConfigError::FileTooLarge { file: file_name.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let start = error.utf8_error().valid_up_to();
        // Up to `start` the lossy text is the file's; there stands the mark of replacement.
        let lossy = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let span = start..start + char::REPLACEMENT_CHARACTER.len_utf8();
        let source = Arc::new(NamedSource::new(file_name, lossy));
        ConfigError::NotUtf8 { at: Place::new(&source, span, "not a character") }
    })
}

impl Cluster {
    /// What tells this cluster from others.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of the configuration, from 1 on.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Where the key file is, absolute.
    pub fn authkey(&self) -> &Path {
        &self.authkey
    }

    /// The folder of durable state, absolute.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The control socket, absolute, and short enough for a socket's name.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// How heartbeats get to and from the wire.
    pub const fn datapath(&self) -> Datapath {
        self.datapath
    }

    /// For how long a daemon may be stalled until it counts as failed.
    pub const fn daemon_stall_ms(&self) -> u32 {
        self.daemon_stall_ms
    }

    /// By how much gates close before the lease ends, for packets that have passed them already, in µs.
    pub const fn gate_slack_us(&self) -> u32 {
        self.gate_slack_us
    }

    /// Whether the probe thread asks for real-time scheduling.
    pub const fn realtime(&self) -> bool {
        self.realtime
    }
}

impl Link {
    /// The id, below `LINKS_MAX`; not the index in [`Config::links`], as ids may have gaps.
    pub const fn id(&self) -> u8 {
        self.id
    }

    /// The name of the interface, the same on every node.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The network that all nodes have an address in.
    pub const fn network(&self) -> IpNet {
        self.network
    }

    /// The UDP port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The profile that was chosen; [`Link::interval_us`] and [`Link::count`] tell what came of it.
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// Time from one probe to the next, in µs.
    pub const fn interval_us(&self) -> u32 {
        self.interval_us
    }

    /// Intervals without a sign of life after which a peer is late.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Time from one probe to the next, in ns.
    pub const fn interval_ns(&self) -> u64 {
        self.interval_us as u64 * 1_000
    }

    /// Time without a sign of life after which a peer is late, in ns.
    pub const fn deadline_ns(&self) -> u64 {
        self.interval_ns() * self.count as u64
    }
}

impl Node {
    /// The id, from 1 to `NODES_MAX`.
    pub const fn id(&self) -> u8 {
        self.id
    }

    /// The place in sets and tables: the id less one.
    pub const fn slot(&self) -> u8 {
        self.id - 1
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The addresses, one for each of [`Config::links`], in the same order.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The address on the link with this index in [`Config::links`].
    ///
    /// # Panics
    /// If there is no such link.
    pub fn address_on(&self, link_index: usize) -> IpAddr {
        self.addresses[link_index]
    }

    /// Its votes in the quorum.
    pub const fn votes(&self) -> u8 {
        self.votes
    }

    /// Whether it votes and holds no resource.
    pub const fn witness(&self) -> bool {
        self.witness
    }
}

/// The resolved view: every default filled in, and which node this is.
impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_struct("Config", 6)?;
        view.serialize_field("cluster", &self.cluster)?;
        view.serialize_field("ring", &self.ring)?;
        view.serialize_field("own", self.own().name())?;
        view.serialize_field("links", &self.links)?;
        view.serialize_field("nodes", &self.nodes)?;
        view.serialize_field("addresses", &self.services)?;
        view.end()
    }
}

impl Serialize for Link {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_struct("Link", 8)?;
        view.serialize_field("id", &self.id)?;
        view.serialize_field("interface", &self.interface)?;
        view.serialize_field("network", &self.network.to_string())?;
        view.serialize_field("port", &self.port)?;
        view.serialize_field("profile", &self.profile)?;
        view.serialize_field("interval_us", &self.interval_us)?;
        view.serialize_field("count", &self.count)?;
        view.serialize_field("deadline_us", &(self.deadline_ns() / 1_000))?;
        view.end()
    }
}
