//! A ring that does not turn although all its members are heard: the same members agree anew, under another id.
//!
//! It may be that nothing helps, where the ring's port is blocked: so it is tried less and less often, and a view's lease,
//! which does not need the ring, is not disturbed more than that.

use ringbeat_common::view::View;

use crate::limits::{RING_AGAIN_MAX_NS, RING_AGAIN_MIN_NS};

/// What is known of rings that were lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LostRing {
    view: View,
    wait_ns: u64,
    again_ns: u64,
}

impl LostRing {
    /// The ring of this view does not turn.
    pub(super) fn lost(&mut self, view: View, now_ns: u64) {
        self.view = view;
        // One that has turned for long since the last time is not the same trouble.
        if now_ns > self.again_ns.saturating_add(RING_AGAIN_MAX_NS) {
            self.wait_ns = 0;
        }
    }

    /// Whether the members of this view should agree anew.
    pub(super) fn is_due(&self, installed: View, now_ns: u64) -> bool {
        installed.is_some() && self.view == installed && now_ns >= self.again_ns
    }

    /// They do.
    pub(super) fn agreed_anew(&mut self, now_ns: u64) {
        self.view = View::NONE;
        self.wait_ns = (self.wait_ns * 2).clamp(RING_AGAIN_MIN_NS, RING_AGAIN_MAX_NS);
        self.again_ns = now_ns.saturating_add(self.wait_ns);
    }

    /// When they may, if they should.
    pub(super) const fn again_ns(&self) -> u64 {
        self.again_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_less_and_less_often() {
        let view = View::new(7, 0, 0b111, 5000, 1);
        let (mut lost, mut now_ns) = (LostRing::default(), 1_000_000_000);
        assert!(!lost.is_due(view, now_ns));
        let mut waits = Vec::new();
        for _ in 0..8 {
            lost.lost(view, now_ns);
            let begin_ns = now_ns;
            while !lost.is_due(view, now_ns) {
                now_ns += 50_000_000;
            }
            waits.push((now_ns - begin_ns) / 50_000_000 * 50);
            lost.agreed_anew(now_ns);
        }
        assert_eq!(waits, [0, 200, 400, 800, 1600, 3200, 6400, 10_000]);
        now_ns += 100 * RING_AGAIN_MAX_NS;
        lost.lost(view, now_ns);
        assert!(lost.is_due(view, now_ns) && !lost.is_due(View::NONE, now_ns));
        lost.agreed_anew(now_ns);
        assert_eq!(lost.again_ns(), now_ns + RING_AGAIN_MIN_NS);
    }
}
