//! With whom this node could be in a view, as its row says it.
//!
//! Heartbeats prove that a node is alive; a view needs more of it. It has to hear what is said and to say something, and
//! it has to be able to announce. A node that a rule of a firewall, a disk or its quiet time keeps from that would hold
//! up every change of view for all who count on it. So a peer whose messages have not come for `mute_ns` is no company,
//! and a node that cannot announce, or must not yet (see [`super::electorate`]), says that it hears itself only.
//!
//! A pause of the own loop is nobody's silence: the times of the peers are moved by it.
//!
//! Deliberately not here: heartbeats, deadlines and damping; they are the detector's.

use super::Membership;
use super::choice::bits;
use crate::limits::PAUSE_NS;

impl Membership {
    /// Times go on from where a pause of this loop has stopped them.
    pub(super) fn after_pause(&mut self, now_ns: u64) {
        let pause_ns = now_ns.saturating_sub(self.looked_ns);
        if pause_ns > PAUSE_NS {
            for said_ns in &mut self.said_ns {
                *said_ns = said_ns.saturating_add(pause_ns).min(now_ns);
            }
        }
    }

    /// Whom the detector hears.
    pub(super) fn hears(&mut self, heard: u64, now_ns: u64) {
        for slot in bits(heard & !self.hears) {
            self.said_ns[usize::from(slot)] = now_ns;
        }
        self.choice_is_old |= heard | 1 << self.config.own != self.hears;
        self.hears = heard | 1 << self.config.own;
    }

    /// Who is company now, and whether this node is any.
    pub(super) fn look_around(&mut self, now_ns: u64) {
        let own = 1 << self.config.own;
        let mute = bits(self.hears & !own).filter(|slot| now_ns >= self.mute_at_ns(*slot));
        let company = self.hears & !mute.fold(0u64, |set, slot| set | 1 << slot);
        // A node that is heard again may have lived through much: what is known of it counts only if it has said so since.
        self.fresh &= !(self.company & !company);
        for slot in bits(company & !self.company & !self.fresh & !own) {
            self.choice_is_old |= self.rows[usize::from(slot)].take().is_some();
        }
        self.company = company;
        self.reserve();
        let is_starved = self.free_epoch() > self.ceiling;
        self.starved_since_ns = is_starved.then(|| self.starved_since_ns.unwrap_or(now_ns));
        let heard = if self.is_silent(now_ns) { own } else { company };
        self.change(|row| row.heard = heard);
    }

    /// Whether no view should have to wait for this node. One that is in a view keeps it for a hiccup of its disk.
    fn is_silent(&self, now_ns: u64) -> bool {
        self.leaving
            || !self.is_confirmed()
            || now_ns < self.config.quiet_until_ns
            || self.starved_at_ns().is_some_and(|at_ns| now_ns >= at_ns)
    }

    /// When this node gives up to wait for epochs on disk.
    fn starved_at_ns(&self) -> Option<u64> {
        let patience_ns = if self.installed.view.is_some() { self.config.mute_ns } else { 0 };
        self.starved_since_ns.map(|since_ns| since_ns.saturating_add(patience_ns))
    }

    /// When a peer that says nothing is company no longer.
    fn mute_at_ns(&self, slot: u8) -> u64 {
        self.said_ns[usize::from(slot)].saturating_add(self.config.mute_ns)
    }

    /// The times at which that may change.
    pub(super) fn company_timeouts(&self) -> impl Iterator<Item = u64> {
        let mute = bits(self.hears & !(1 << self.config.own)).map(|slot| self.mute_at_ns(slot));
        mute.chain(self.starved_at_ns())
    }
}
