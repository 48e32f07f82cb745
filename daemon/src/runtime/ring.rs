//! The ring's dealings with the rest: what it is told of peers and views, and what it says.

use ringbeat_common::limits::NODES_MAX;
use ringbeat_core::membership;

use super::Runtime;
use crate::ring::Said;

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
                Said::Regular { view, stamp_ns } => {
                    let view = self.view_report(&view).to_string();
                    tracing::info!(view, stamp_ns, "the ring turns");
                }
                Said::Lost { view } => {
                    let text = self.view_report(&view).to_string();
                    tracing::info!(view = text, "the ring does not turn");
                    self.view_input(membership::Input::RingLost { view }, now_ns);
                }
            }
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
