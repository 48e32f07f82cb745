//! `[ring]`: how the ordered ring goes over the links. All of it has defaults; the table may be missing.
//!
//! Deliberately not here: the ring's timers and windows, which follow from the links' deadlines.

use ringbeat_common::limits::LINKS_MAX;
use serde::{Serialize, Serializer};

/// The UDP port of the ring on link 0; link `id` has this plus `id`, unless the file says another.
pub const RING_PORT_BASE: u16 = 5421;
/// The highest, so that every link has one.
pub(crate) const PORT_MAX: u64 = u16::MAX as u64 - LINKS_MAX as u64 + 1;

/// How frames are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Cipher {
    /// AES-256-GCM: fast where the processor has instructions for it.
    #[default]
    Aes256Gcm,
    /// ChaCha20-Poly1305: fast everywhere.
    Chacha20Poly1305,
    /// Not at all: whoever is on the wire can read and forge.
    None,
}

impl Cipher {
    /// All ciphers, as the file may name them.
    pub const ALL: [Self; 3] = [Self::Aes256Gcm, Self::Chacha20Poly1305, Self::None];

    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes256gcm",
            Self::Chacha20Poly1305 => "chacha20poly1305",
            Self::None => "none",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.name() == name)
    }
}

impl Serialize for Cipher {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Which links a frame takes, of those on which its target is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LinkMode {
    /// The one with the lowest id.
    #[default]
    Passive,
    /// All of them.
    Active,
    /// One after the other.
    RoundRobin,
}

impl LinkMode {
    /// All modes, as the file may name them.
    pub const ALL: [Self; 3] = [Self::Passive, Self::Active, Self::RoundRobin];

    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passive => "passive",
            Self::Active => "active",
            Self::RoundRobin => "rr",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl Serialize for LinkMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RingConfig {
    pub(crate) cipher: Cipher,
    pub(crate) link_mode: LinkMode,
    pub(crate) port: u16,
}

impl RingConfig {
    /// How frames are sealed; the same on every node.
    pub const fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Which links frames take.
    pub const fn link_mode(&self) -> LinkMode {
        self.link_mode
    }

    /// The UDP port on a link.
    pub const fn port_on(&self, link: u8) -> u16 {
        self.port + link as u16
    }
}
