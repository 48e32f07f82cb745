//! What a machine of views is built for.

use ringbeat_common::view::View;

use super::electorate::Standing;
use super::message::Announcement;

/// A node as membership needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its slot.
    pub slot: u8,
    /// Its votes.
    pub votes: u8,
    /// Whether it votes and holds nothing.
    pub witness: bool,
}

/// A resource; its number is its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceConfig {
    /// Whether it goes back to the lowest id that is able to serve it.
    pub failback: bool,
}

/// What a daemon before this one left, in a planned hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The installed view, and of its owners what is known: this node's own.
    pub installed: Announcement,
    /// The view announced last.
    pub announced: View,
    /// Whom this node hears, as the detector has it: nobody must think for a moment that it hears nobody.
    pub heard: u64,
}

/// What a machine is built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The own slot.
    pub own: u8,
    /// The own incarnation.
    pub incarnation: u64,
    /// The own config version.
    pub config_version: u64,
    /// The length of the lease, in µs.
    pub lease_us: u32,
    /// All nodes.
    pub nodes: Vec<NodeConfig>,
    /// All resources.
    pub resources: Vec<ResourceConfig>,
    /// The probe interval of the slowest link, in ns.
    pub interval_ns: u64,
    /// Epochs up to here are reserved on disk. One that a daemon before this one reserved may have been announced, so
    /// what is announced lies above it; unless `adopted` says what was.
    pub ceiling: u64,
    /// The epoch that the kernel's table says was announced last: it is above the ceiling if the state folder was lost.
    pub announced_floor: u64,
    /// A peer that is heard, and has said nothing for so long, is no company, in ns: longer than a daemon may stand still.
    pub mute_ns: u64,
    /// Nothing is announced before, in ns.
    pub quiet_until_ns: u64,
    /// When this daemon started, in ns.
    pub started_ns: u64,
    /// What the record says of the electorate that `nodes` are.
    pub standing: Standing,
    /// What is taken over.
    pub adopted: Option<Adopted>,
}
