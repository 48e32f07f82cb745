//! A node's row: what it says of itself to everybody, and how old that is.

use ringbeat_common::view::View;

/// Words of a row on the wire.
pub const ROW_WORDS: usize = 11;

/// What one life of a node says of itself. The highest number counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Who.
    pub slot: u8,
    /// Which life of it.
    pub incarnation: u64,
    /// Rises with every change.
    pub number: u64,
    /// Whom it hears, itself included.
    pub heard: u64,
    /// The lower half of its config version.
    pub config: u32,
    /// The length of the lease that it counts on, in µs.
    pub lease_us: u32,
    /// It announces no view with an epoch below this.
    pub floor: u64,
    /// The view that it has installed.
    pub installed: View,
    /// The resources that are its own under that view.
    pub holds: u64,
    /// The resources that it could serve now.
    pub able: u64,
    /// The digest of its electorate, whether it has never run another, and whether it is confirmed.
    pub electorate: u64,
}

impl Row {
    /// Whether it hears a slot.
    pub const fn hears(&self, slot: u8) -> bool {
        self.heard >> (slot & 63) & 1 != 0
    }

    /// The digest of its electorate.
    pub const fn electorate(&self) -> u64 {
        self.electorate & !0b11
    }

    /// Whether it says that its electorate is confirmed.
    pub const fn is_confirmed(&self) -> bool {
        self.electorate & 1 != 0
    }

    /// Whether it has never run another.
    pub const fn is_sole(&self) -> bool {
        self.electorate & 2 != 0
    }

    /// Whether it could be in one view with another.
    pub const fn fits(&self, other: &Self) -> bool {
        self.config == other.config
            && self.lease_us == other.lease_us
            && self.electorate() == other.electorate()
    }

    /// Whether the choice is the same with it as with another of its slot.
    pub fn weighs_like(&self, other: &Self) -> bool {
        self.fits(other)
            && (self.incarnation, self.heard, self.installed, self.holds)
                == (other.incarnation, other.heard, other.installed, other.holds)
    }

    /// As words.
    pub const fn to_words(&self) -> [u64; ROW_WORDS] {
        [
            self.slot as u64 | (self.lease_us as u64 & 0xff_ffff) << 8 | (self.config as u64) << 32,
            self.incarnation,
            self.number,
            self.heard,
            self.floor,
            self.installed.epoch,
            self.installed.members,
            self.installed.rest,
            self.holds,
            self.able,
            self.electorate,
        ]
    }

    /// From words; none of a slot that cannot be.
    pub const fn from_words(words: &[u64; ROW_WORDS]) -> Option<Self> {
        let slot = words[0] as u8;
        if slot >= 64 {
            return None;
        }
        Some(Self {
            slot,
            lease_us: (words[0] >> 8) as u32 & 0xff_ffff,
            config: (words[0] >> 32) as u32,
            incarnation: words[1],
            number: words[2],
            heard: words[3],
            floor: words[4],
            installed: View { epoch: words[5], members: words[6], rest: words[7] },
            holds: words[8],
            able: words[9],
            electorate: words[10],
        })
    }
}
