//! The lease's table as memory, in whichever plane it is, and the steps that the daemon takes on it.
//!
//! The rule itself is `ringbeat_common::lease`; here it gets its words, and status its figures.

use std::sync::atomic::{AtomicU64, Ordering};

use ringbeat_common::lease::{self, Installation, LEASE_WORDS, Whole, Words};
use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::view::View;

use crate::sys::clock::boot_ns;

/// The words, shared with the programs or with the plane's thread.
#[derive(Clone, Copy)]
pub struct LeaseCells<'a>(pub &'a [AtomicU64]);

impl Words for LeaseCells<'_> {
    fn load(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::SeqCst)
    }

    fn store(&self, at: usize, value: u64) {
        self.0[at].store(value, Ordering::SeqCst);
    }

    fn swap_if(&self, at: usize, old: u64, new: u64) -> bool {
        self.0[at].compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Votes {
    /// This node.
    pub own: u8,
    /// Of every configured slot.
    pub of: [u8; NODES_MAX],
    /// Of a quorum.
    pub quorum: u32,
}

impl LeaseCells<'_> {
    /// See [`lease::announce`].
    pub fn announce(&self, view: &View, owned: u64) -> u64 {
        lease::announce::<Whole, _>(self, view, owned)
    }

    /// See [`lease::install`].
    pub fn install(&self, view: View, not_before_ns: u64, owned: u64, votes: &Votes) {
        let new = Installation {
            view,
            not_before_ns,
            own: votes.own,
            votes: &votes.of,
            quorum: votes.quorum,
            owned,
            now_ns: boot_ns(),
        };
        lease::install::<Whole, _>(self, &new);
    }

    /// Promises to nodes outside of the installed view may have ended since it was announced: they are gone, or have
    /// released. What has to be waited for is then less. Gives the new `not_before`, in ns.
    pub fn shorten_wait(&self) -> u64 {
        let (view, before_ns) = (self.installed(), self.load(lease::NOT_BEFORE_NS));
        let outside = (0..NODES_MAX).filter(|slot| !view.has(*slot as u8));
        let latest = outside.map(|slot| lease::Promise(self.load(lease::PROMISES + slot)).until_us()).max();
        let latest_ns = latest.unwrap_or(0).max(self.load(lease::REPLACED_UNTIL_US)) * 1000;
        if !view.is_some() || latest_ns >= before_ns {
            return before_ns;
        }
        self.store(lease::NOT_BEFORE_NS, latest_ns);
        if self.alone_from_ns().is_some() {
            self.store(lease::ALONE_FROM_NS, latest_ns);
        }
        latest_ns
    }

    /// Closes all gates and serves nobody; promises stay.
    pub fn adopt_closed(&self) {
        lease::adopt_closed(self);
    }

    /// What was promised is not known, and may last until then: for this daemon and, should it die, for the next.
    pub fn adopt_unknown(&self, until_ns: u64) {
        lease::adopt_unknown(self, until_ns);
    }

    /// See [`lease::replace`].
    pub fn replace(&self, slot: u8) {
        lease::replace::<Whole, _>(self, slot);
    }

    /// Whether the table that was found tells all that may have been promised before.
    pub fn knows(&self) -> bool {
        self.load(lease::KNOWS) == 1
    }

    /// From here on it does.
    pub fn set_knows(&self) {
        self.store(lease::KNOWS, 1);
    }

    /// Whether another daemon can go on with the table in the same life. Not if one died while it installed a view, for the
    /// generation is written last; nor if a view was announced and none is installed, for the others count on this life to
    /// install it, and the next daemon announces later ones only.
    pub fn can_go_on(&self) -> bool {
        let generation = self.load(lease::GENERATION);
        generation == self.load(lease::GENERATION_LAST) && (generation != 0 || !self.announced().is_some())
    }

    /// Closes all gates.
    pub fn release(&self) {
        lease::release(self);
    }

    /// Sets by how much gates close before the lease ends, in µs.
    pub fn set_slack(&self, us: u32) {
        self.store(lease::SLACK_US, u64::from(us));
    }

    /// Until when the latest promise of this node runs, in ns.
    pub fn promised_ns(&self) -> u64 {
        let until = (0..NODES_MAX).map(|slot| lease::Promise(self.load(lease::PROMISES + slot)).until_us());
        until.max().unwrap_or(0).max(self.load(lease::REPLACED_UNTIL_US)) * 1000
    }

    /// From when on the own votes alone are a quorum, in ns; none if they never are.
    pub fn alone_from_ns(&self) -> Option<u64> {
        Some(self.load(lease::ALONE_FROM_NS)).filter(|from| *from != u64::MAX)
    }

    /// The end of the lease, in ns: that of the installed view's grants, or of what was carried over.
    pub fn until_ns(&self) -> u64 {
        lease::until_us(self).max(self.load(lease::CARRIED_MAX_US)) * 1000
    }

    /// The gates that may open under the installed view.
    pub fn owned(&self) -> u64 {
        (0..64).filter(|gate| self.load(lease::GATES + 2 * gate) != 0).fold(0, |set, gate| set | 1 << gate)
    }

    /// The installed view.
    pub fn installed(&self) -> View {
        lease::installed(self)
    }

    /// The view announced last.
    pub fn announced(&self) -> View {
        lease::announced(self)
    }

    /// How often the lease has run out and come back, for how long at the most, and when the last time was over, both
    /// in µs.
    pub fn lapses(&self) -> (u64, u64, u64) {
        (self.load(lease::LAPSES), self.load(lease::LAPSE_MAX_US), self.load(lease::LAPSE_ENDED_US))
    }
}

/// A table of zeros whose gates are closed, for a plane without a kernel.
pub fn empty() -> Box<[AtomicU64]> {
    let words: Box<[AtomicU64]> = (0..LEASE_WORDS).map(|_| AtomicU64::new(0)).collect();
    LeaseCells(&words).adopt_closed();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_table_is_gone_on_with() {
        let words = empty();
        let cells = LeaseCells(&words);
        let votes = Votes { own: 0, of: [1; NODES_MAX], quorum: 33 };
        let view = View::new(1, 0, 0b11, 5000, 1);
        assert!(cells.can_go_on(), "nothing was said yet");
        cells.announce(&view, 0);
        assert!(!cells.can_go_on(), "announced, and the next daemon could not install it");
        cells.install(view, 0, 0, &votes);
        assert!(cells.can_go_on());
        cells.announce(&View::new(2, 0, 0b11, 5000, 1), 0);
        assert!(cells.can_go_on(), "the installed view goes on");
        // A daemon that died in the middle: all is written but the generation.
        cells.store(lease::GENERATION_LAST, cells.load(lease::GENERATION_LAST) + 1);
        assert!(!cells.can_go_on());
    }
}
