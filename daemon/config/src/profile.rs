//! Heartbeat profiles and datapaths: the words that the file may use, and what they mean.
//!
//! Each word list stands once, in `ALL`; parsing, error messages and output are made from it. Deliberately not here:
//! overrides (a [`Link`](crate::Link) has the resolved figures) and the choice of a datapath where the file says
//! `auto` (the daemon tries and tells).

use serde::{Serialize, Serializer};

/// How often a link is probed, and how many missed beats make a peer late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// 250 µs × 4: idle cores, a cable or one switch.
    Metal,
    /// 1 ms × 5: one quiet network.
    Fast,
    /// 5 ms × 4: an ordinary local network.
    #[default]
    Lan,
    /// 100 ms × 5: between sites.
    Wan,
}

impl Profile {
    /// All profiles, the quickest first.
    pub const ALL: [Self; 4] = [Self::Metal, Self::Fast, Self::Lan, Self::Wan];

    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metal => "metal",
            Self::Fast => "fast",
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }

    /// Time from one probe to the next, in µs.
    pub const fn interval_us(self) -> u32 {
        match self {
            Self::Metal => 250,
            Self::Fast => 1_000,
            Self::Lan => 5_000,
            Self::Wan => 100_000,
        }
    }

    /// Intervals without a sign of life after which a peer is late.
    pub const fn count(self) -> u32 {
        match self {
            Self::Metal | Self::Lan => 4,
            Self::Fast | Self::Wan => 5,
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }
}

impl Serialize for Profile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How heartbeats get to and from the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Datapath {
    /// The best that this machine has: native, else generic, else socket.
    #[default]
    Auto,
    /// XDP in the driver, or not at all.
    Native,
    /// XDP in the kernel's stack, or not at all.
    Generic,
    /// Plain UDP sockets.
    Socket,
}

impl Datapath {
    /// All datapaths, as the file may name them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Native, Self::Generic, Self::Socket];

    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Socket => "socket",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|datapath| datapath.name() == name)
    }
}

impl Serialize for Datapath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
