//! The ring's dealings with the rest: what it is told of peers and views, and what it says.

use ringbeat_common::limits::NODES_MAX;
use ringbeat_core::detector::PeerState;
use ringbeat_core::membership;
use ringbeat_core::membership::choice::bits;

use super::Runtime;
use crate::ring::Said;
use crate::sys::clock::boot_ns;

impl Runtime {
    /// On which links each peer is heard, if that has changed.
    pub(super) fn feed_edges(&mut self) {
        let mut edges = [0; NODES_MAX];
        for slot in self.peer_slots() {
            edges[usize::from(slot)] = self.detector.links_of(slot);
        }
        self.started.ring.edges(edges);
    }

    /// What the ring has said.
    pub(super) fn take_ring(&mut self, now_ns: u64) {
        while let Some(said) = self.started.ring.next() {
            match said {
                Said::Regular { view, stamp_ns } => self.tell_view("ring_formed", &view, stamp_ns, None),
                Said::Lost { view } => {
                    self.tell_view("ring_lost", &view, boot_ns(), None);
                    self.lost_ring = Some(view);
                }
            }
        }
        self.agree_anew(now_ns);
    }

    /// The members of a view whose ring was lost agree anew, once all of them can: one that stands still or is being replaced
    /// would leave an announcement that nobody can install.
    fn agree_anew(&mut self, now_ns: u64) {
        let Some(view) = self.lost_ring else { return };
        if view != self.views.membership.installed().view {
            self.lost_ring = None;
            return;
        }
        let others = view.members & !(1 << self.started.identity.slot);
        if bits(others).all(|slot| self.detector.peer_state(slot) == PeerState::Up) {
            self.lost_ring = None;
            self.view_input(membership::Input::RingLost { view }, now_ns);
        }
    }

    /// A view that was taken over: its ring was the former daemon's, and the members are to agree anew.
    pub(super) fn abandon_ring(&self) {
        let view = self.views.membership.installed().view;
        if view.is_some() {
            self.started.ring.abandon(view);
        }
    }
}
