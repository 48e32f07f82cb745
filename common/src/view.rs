//! A view: who is in, and the id that is never used twice.
//!
//! The id is the whole value: epoch, proposer, members, lease and config version. Whoever names a view names its length
//! of the lease too, so two nodes that count on another length can never serve one another.

use crate::limits::NODES_MAX;

/// A view's id, as words 7 to 9 of the frame carry it. Epoch 0 is no view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct View {
    /// Rises with every view that a node announces.
    pub epoch: u64,
    /// The members, a bit for each slot.
    pub members: u64,
    /// Proposer (8 bits), length of the lease in µs (24 bits), config version (32 bits), from the lowest bit on.
    pub rest: u64,
}

/// Bits of the length of a lease in a view's id, in µs.
const LEASE_MASK: u64 = 0xff_ffff;

impl View {
    /// No view.
    pub const NONE: Self = Self { epoch: 0, members: 0, rest: 0 };

    /// A view of these; the lease in µs is cut to its 24 bits, as the configuration's bound guarantees.
    #[inline(always)]
    pub const fn new(epoch: u64, proposer: u8, members: u64, lease_us: u32, config_version: u64) -> Self {
        let rest = proposer as u64 | (lease_us as u64 & LEASE_MASK) << 8 | config_version << 32;
        Self { epoch, members, rest }
    }

    /// The slot that proposed it.
    #[inline(always)]
    pub const fn proposer(&self) -> u8 {
        self.rest as u8
    }

    /// The length L of the lease, in µs.
    #[inline(always)]
    pub const fn lease_us(&self) -> u32 {
        (self.rest >> 8 & LEASE_MASK) as u32
    }

    /// The lower half of the config version.
    #[inline(always)]
    pub const fn config(&self) -> u32 {
        (self.rest >> 32) as u32
    }

    /// Whether it is a view at all.
    #[inline(always)]
    pub const fn is_some(&self) -> bool {
        self.epoch != 0
    }

    /// Whether a slot is in.
    #[inline(always)]
    pub const fn has(&self, slot: u8) -> bool {
        (slot as usize) < NODES_MAX && self.members >> slot & 1 != 0
    }

    /// The order of ids: epoch, proposer, then all that remains. Two views that differ are never equal in it.
    #[inline(always)]
    pub const fn order(&self) -> (u64, u8, u64, u64) {
        (self.epoch, self.proposer(), self.members, self.rest)
    }
}

impl PartialOrd for View {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for View {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap() {
        let view = View::new(9, 0xff, u64::MAX, 0xff_ffff, u64::MAX);
        assert_eq!((view.proposer(), view.lease_us(), view.config()), (0xff, 0xff_ffff, u32::MAX));
        let view = View::new(9, 3, 0b101, 6_000, 7);
        assert_eq!((view.proposer(), view.lease_us(), view.config()), (3, 6_000, 7));
        assert!(view.has(2) && !view.has(1) && !view.has(64));
    }

    #[test]
    fn the_epoch_orders_first() {
        let view = |epoch, proposer, members| View::new(epoch, proposer, members, 5, 1);
        assert!(view(2, 0, 1) > view(1, 9, 7));
        assert!(view(2, 1, 1) > view(2, 0, 7));
        assert!(view(2, 1, 3) > view(2, 1, 1));
        assert!(View::NONE < view(1, 0, 0));
    }
}
