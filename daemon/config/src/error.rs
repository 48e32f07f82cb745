//! What can be wrong with the file, one variant for each cause: the facts, the place, and what to do about it.
//!
//! A message says what is wrong, a label says it at the place, the help says what to do. Codes are stable names for
//! grep, logs and `-o json`. Deliberately not here: exit codes (the daemon's and the command's own), and rendering
//! (they hand the error to miette or take its parts).

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode, SourceSpan};
use thiserror::Error;

use crate::key::KeyError;
use crate::profile::{Datapath, Profile};
use crate::{CONFIG_BYTES_MAX, NODES_LEAST};

/// The text of a file under its name, shared by all places in it.
pub(crate) type Source = Arc<NamedSource<String>>;

/// A place in the file: the text, and the spans that an error is about. The first is the offending value.
#[derive(Debug, Clone)]
pub struct Place {
    source: Source,
    labels: Vec<LabeledSpan>,
}

impl Place {
    pub(crate) fn new(source: &Source, span: Range<usize>, label: impl Into<String>) -> Self {
        let label = LabeledSpan::new_primary_with_span(Some(label.into()), span);
        Self { source: Arc::clone(source), labels: vec![label] }
    }

    /// A second place that explains the first.
    pub(crate) fn and(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.labels.push(LabeledSpan::new_with_span(Some(label.into()), span));
        self
    }

    /// The file's name as it was given.
    pub fn file(&self) -> &str {
        self.source.name()
    }

    /// The offending value, in bytes from the start of the file.
    pub fn span(&self) -> SourceSpan {
        self.labels.first().map_or_else(|| (0, 0).into(), |label| *label.inner())
    }

    /// Line and column of the offending value, both from 1, the column in characters.
    pub fn line_and_column(&self) -> (usize, usize) {
        let before = self.source.inner().get(..self.span().offset()).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    }
}

/// Why a configuration was refused.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are the words of the message above them")]
pub enum ConfigError {
    /// No such file.
    #[error("there is no configuration file {}", path.display())]
    FileMissing { path: PathBuf },
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read", path.display())]
    FileUnreadable { path: PathBuf, source: std::io::Error },
    /// The file is longer than [`CONFIG_BYTES_MAX`].
    #[error("{file} is larger than {CONFIG_BYTES_MAX} bytes")]
    FileTooLarge { file: String },
    /// The file is not UTF-8.
    #[error("the file is not UTF-8 text")]
    NotUtf8 { at: Place },
    /// Not TOML.
    #[error("syntax error: {message}")]
    Syntax { message: String, at: Place },
    /// A key that this table does not have.
    #[error("unknown key `{key}`")]
    UnknownKey { key: String, known: Vec<String>, at: Place },
    /// A key that must be there.
    #[error("the key `{key}` is missing")]
    MissingKey { key: String, at: Place },
    /// A string where a number belongs, and the like.
    #[error("`{key}` must be {expected}, not {found}")]
    WrongType { key: String, found: String, expected: String, at: Place },
    /// A number that is too small or too large.
    #[error("`{key}` is {value}, allowed is {least} to {most}")]
    OutOfRange { key: &'static str, value: i128, least: u64, most: u64, at: Place },
    /// A name with characters or a length that it may not have.
    #[error("{value:?} is not a valid `{key}`")]
    BadName { key: &'static str, value: String, rule: &'static str, at: Place },
    /// A path that is not absolute, or too long for what it names.
    #[error("{value:?} is not a valid path for `{key}`")]
    BadPath { key: &'static str, value: String, rule: &'static str, at: Place },
    /// No such profile.
    #[error("there is no profile {value:?}")]
    BadProfile { value: String, at: Place },
    /// No such datapath.
    #[error("there is no datapath {value:?}")]
    BadDatapath { value: String, at: Place },
    /// Heartbeats and ring on one port.
    #[error("heartbeats and ring would both have port {port} on link {link}")]
    PortTaken { link: u8, port: u16, at: Place },
    /// Not one of a few words.
    #[error("{key} cannot be {value:?}")]
    BadWord { key: &'static str, value: String, known: Vec<&'static str>, at: Place },
    /// Not a network, or not one that a link can use.
    #[error("{value:?} is not a network for a link: {reason}")]
    BadNetwork { value: String, reason: String, at: Place },
    /// Two links in one network.
    #[error("the networks of links {first} and {second} overlap")]
    NetworkOverlap { first: u8, second: u8, at: Place },
    /// Two links with one id.
    #[error("link id {id} is given twice")]
    DuplicateLinkId { id: u8, at: Place },
    /// Two links on one interface.
    #[error("interface {interface:?} is used by two links")]
    DuplicateInterface { interface: String, at: Place },
    /// No link at all.
    #[error("the file has no [[link]]")]
    NoLink { at: Place },
    /// A cluster of one, or none.
    #[error("the file has {given} [[node]], a cluster has at least {NODES_LEAST}")]
    TooFewNodes { given: usize, at: Place },
    /// Two nodes with one id.
    #[error("node id {id} is given twice")]
    DuplicateNodeId { id: u8, at: Place },
    /// Two nodes with one name.
    #[error("node name {name:?} is given twice")]
    DuplicateNodeName { name: String, at: Place },
    /// Not an IP address.
    #[error("{value:?} is not an IP address")]
    BadAddress { value: String, at: Place },
    /// More or fewer addresses than links.
    #[error("node {node:?} needs one address for each link, {links} in all, and has {given}")]
    AddressCount { node: String, given: usize, links: usize, at: Place },
    /// An IPv6 address on an IPv4 link, or the other way round.
    #[error("address {address} is not of the family of link {link}, whose network is {network}")]
    FamilyMismatch { address: IpAddr, link: u8, network: IpNet, at: Place },
    /// An address that the link's network does not have.
    #[error("address {address} is outside the network {network} of link {link}")]
    AddressOutside { address: IpAddr, link: u8, network: IpNet, belongs: Option<u8>, at: Place },
    /// The network's own or its broadcast address.
    #[error("address {address} is the {what} address of {network}, no host can have it")]
    AddressReserved { address: IpAddr, network: IpNet, what: &'static str, at: Place },
    /// An address that no client could be served on, or a lease that it could not have.
    #[error("{value:?} cannot be a service address: {reason}")]
    BadService { value: String, reason: String, help: &'static str, at: Place },
    /// Two nodes with one address.
    #[error("address {address} is given twice")]
    DuplicateAddress { address: IpAddr, at: Place },
    /// Nobody has a vote.
    #[error("no node has a vote")]
    NoVotes { at: Place },
    /// `cluster.node` names no node.
    #[error("this node is said to be {name:?}, which is not a node of the cluster")]
    UnknownNode { name: String, names: Vec<String>, at: Place },
    /// No node has this host's name.
    #[error("which node this is cannot be told: {}", host_named(hostname.as_deref()))]
    OwnNodeNotFound { hostname: Option<String>, names: Vec<String>, at: Place },
    /// The key file is refused.
    #[error("the key file of the cluster is refused")]
    Key { source: KeyError, at: Option<Place> },
}

fn host_named(hostname: Option<&str>) -> String {
    hostname.map_or_else(
        || "the name of this host is not known".to_owned(),
        |name| format!("no node has this host's name, {name:?}"),
    )
}

impl ConfigError {
    /// The stable name of the cause.
    pub fn code(&self) -> &'static str {
        match self {
            Self::FileMissing { .. } => "config.file_missing",
            Self::FileUnreadable { .. } => "config.file_unreadable",
            Self::FileTooLarge { .. } => "config.file_too_large",
            Self::NotUtf8 { .. } => "config.not_utf8",
            Self::Syntax { .. } => "config.syntax",
            Self::UnknownKey { .. } => "config.unknown_key",
            Self::MissingKey { .. } => "config.missing_key",
            Self::WrongType { .. } => "config.wrong_type",
            Self::OutOfRange { .. } => "config.out_of_range",
            Self::BadName { .. } => "config.bad_name",
            Self::BadPath { .. } => "config.bad_path",
            Self::BadProfile { .. } => "config.bad_profile",
            Self::BadDatapath { .. } => "config.bad_datapath",
            Self::BadWord { .. } => "config.bad_word",
            Self::PortTaken { .. } => "config.port_taken",
            Self::BadNetwork { .. } => "config.bad_network",
            Self::NetworkOverlap { .. } => "config.network_overlap",
            Self::DuplicateLinkId { .. } => "config.duplicate_link_id",
            Self::DuplicateInterface { .. } => "config.duplicate_interface",
            Self::NoLink { .. } => "config.no_link",
            Self::TooFewNodes { .. } => "config.too_few_nodes",
            Self::DuplicateNodeId { .. } => "config.duplicate_node_id",
            Self::DuplicateNodeName { .. } => "config.duplicate_node_name",
            Self::BadAddress { .. } => "config.bad_address",
            Self::AddressCount { .. } => "config.address_count",
            Self::FamilyMismatch { .. } => "config.family_mismatch",
            Self::AddressOutside { .. } => "config.address_outside",
            Self::AddressReserved { .. } => "config.address_reserved",
            Self::DuplicateAddress { .. } => "config.duplicate_address",
            Self::BadService { .. } => "config.bad_service",
            Self::NoVotes { .. } => "config.no_votes",
            Self::UnknownNode { .. } => "config.unknown_node",
            Self::OwnNodeNotFound { .. } => "config.own_node_not_found",
            Self::Key { source, .. } => source.code(),
        }
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::FileMissing { .. } => {
                "write it, the same on every node; the documentation has a commented example to start from"
                    .into()
            }
            Self::FileUnreadable { .. } => "run as root, and see that the path is a readable file".into(),
            Self::FileTooLarge { .. } => {
                "is this the right file? a configuration has a few thousand bytes".into()
            }
            Self::NotUtf8 { .. } => "save the file as UTF-8, or write the marked character anew".into(),
            Self::Syntax { .. } => {
                "the file is TOML 1.0: [tables], key = value, strings in \"quotes\"".into()
            }
            Self::UnknownKey { key, known, .. } => nearest(key, known).map_or_else(
                || format!("remove it; the keys of this table are: {}", known.join(", ")),
                |near| format!("did you mean `{near}`? the keys of this table are: {}", known.join(", ")),
            ),
            Self::MissingKey { key, .. } if key == "cluster" => {
                "start the file with [cluster] and its name".into()
            }
            Self::MissingKey { key, .. } => format!("add a line `{key} = …` to this table"),
            Self::WrongType { expected, .. } => format!("write {expected} here"),
            Self::OutOfRange { least, most, .. } => format!("choose a value from {least} to {most}"),
            Self::BadName { rule, .. } | Self::BadPath { rule, .. } => (*rule).into(),
            Self::BadProfile { .. } => {
                let known = Profile::ALL.map(|profile| {
                    format!("{} ({} us x {})", profile.name(), profile.interval_us(), profile.count())
                });
                format!("the profiles are: {}", known.join(", "))
            }
            Self::BadService { help, .. } => (*help).into(),
            Self::BadDatapath { .. } => {
                format!("the datapaths are: {}", Datapath::ALL.map(Datapath::name).join(", "))
            }
            Self::PortTaken { .. } => {
                "give link.port or ring.port another value; link `id` has ring.port plus `id`".into()
            }
            Self::BadWord { known, .. } => format!("it is one of: {}", known.join(", ")),
            Self::BadNetwork { .. } => {
                "write address/prefix with the host bits zero, as in \"10.77.0.0/24\" or \"fd77:0:0:1::/64\""
                    .into()
            }
            Self::NetworkOverlap { .. } => {
                "give each link a network of its own: two links in one network fail together".into()
            }
            Self::DuplicateLinkId { .. } => "give each link an id of its own, from 0 on".into(),
            Self::DuplicateInterface { .. } => {
                "a second link on one interface is no second way: remove one".into()
            }
            Self::NoLink { .. } => "add a [[link]] with id, interface and network".into(),
            Self::TooFewNodes { .. } => "add a [[node]] with id, name and addresses for each member".into(),
            Self::DuplicateNodeId { .. } => {
                "ids are never shared nor given anew: choose an unused one".into()
            }
            Self::DuplicateNodeName { .. } => {
                "names tell nodes apart, in any case of letters: change one".into()
            }
            Self::BadAddress { value, .. } => value.split_once('/').map_or_else(
                || {
                    "write an address, as in \"10.77.0.1\" or \"fd77:0:0:1::1\"; names are not looked up"
                        .into()
                },
                |(address, _)| format!("write it without the prefix: {address:?}; the link has the network"),
            ),
            Self::AddressCount { .. } => {
                "give one address for each link, in ascending order of link ids".into()
            }
            Self::FamilyMismatch { network, .. } | Self::AddressOutside { network, belongs: None, .. } => {
                format!("choose an address inside {network}, or correct the link's network")
            }
            Self::AddressOutside { belongs: Some(link), .. } => {
                format!(
                    "it is inside the network of link {link}: addresses stand in ascending order of link ids"
                )
            }
            Self::AddressReserved { network, .. } => format!("choose another address inside {network}"),
            Self::DuplicateAddress { .. } => "give each node an address of its own on each link".into(),
            Self::NoVotes { .. } => "give votes = 1 to the nodes that make the quorum".into(),
            Self::UnknownNode { name, names, .. } => nearest(name, names).map_or_else(
                || format!("the nodes are: {}", names.join(", ")),
                |near| format!("did you mean {near:?}? the nodes are: {}", names.join(", ")),
            ),
            Self::OwnNodeNotFound { names, .. } => {
                format!(
                    "set node = \"…\" in [cluster] to one of: {}; or rename the host or the node",
                    names.join(", ")
                )
            }
            Self::Key { source, .. } => source.help(),
        }
    }

    /// Where in the file, if it is about a place in the file.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::FileMissing { .. } | Self::FileUnreadable { .. } | Self::FileTooLarge { .. } => None,
            Self::Key { at, .. } => at.as_ref(),
            Self::NotUtf8 { at }
            | Self::Syntax { at, .. }
            | Self::UnknownKey { at, .. }
            | Self::MissingKey { at, .. }
            | Self::WrongType { at, .. }
            | Self::OutOfRange { at, .. }
            | Self::BadName { at, .. }
            | Self::BadPath { at, .. }
            | Self::BadProfile { at, .. }
            | Self::BadDatapath { at, .. }
            | Self::BadWord { at, .. }
            | Self::PortTaken { at, .. }
            | Self::BadService { at, .. }
            | Self::BadNetwork { at, .. }
            | Self::NetworkOverlap { at, .. }
            | Self::DuplicateLinkId { at, .. }
            | Self::DuplicateInterface { at, .. }
            | Self::NoLink { at }
            | Self::TooFewNodes { at, .. }
            | Self::DuplicateNodeId { at, .. }
            | Self::DuplicateNodeName { at, .. }
            | Self::BadAddress { at, .. }
            | Self::AddressCount { at, .. }
            | Self::FamilyMismatch { at, .. }
            | Self::AddressOutside { at, .. }
            | Self::AddressReserved { at, .. }
            | Self::DuplicateAddress { at, .. }
            | Self::NoVotes { at }
            | Self::UnknownNode { at, .. }
            | Self::OwnNodeNotFound { at, .. } => Some(at),
        }
    }
}

impl Diagnostic for ConfigError {
    fn code<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        Some(Box::new(Self::code(self)))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        Some(Box::new(Self::help(self)))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place().map(|place| &place.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.place().map(|place| Box::new(place.labels.iter().cloned()) as Box<_>)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_and_column();
        write!(out, "{}:{line}:{column}", self.file())
    }
}

/// The known word that a slip of the finger would make of this one.
fn nearest<'a>(word: &str, known: &'a [String]) -> Option<&'a str> {
    let slips_allowed = word.chars().count() / 3 + 1;
    known
        .iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate.as_str()))
        .filter(|(slips, candidate)| *slips <= slips_allowed && *slips * 2 < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}
