//! What an outgoing frame carries: the one place where answers and probes are filled in.

use crate::frame::{Frame, Kind, age_us, flags};
use crate::maps::{Latch, Node};
use crate::slot::Snapshot;
use crate::view::View;

/// A frame's place: from whom the node is known, to whom, where, and with which number.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// The target's slot.
    pub target: u8,
    /// The link.
    pub link: u8,
    /// The sequence number.
    pub sequence: u64,
}

/// What a frame says of the lease.
#[derive(Clone, Copy, Debug, Default)]
pub struct Granting {
    /// The installed view.
    pub view: View,
    /// Whether the own vote was promised to the target, for the stamp that the frame returns.
    pub grant: bool,
}

/// Whether this node may promise its vote at all now: its daemon lives, and stays.
#[inline(always)]
pub fn may_grant(node: &Node, latch: &Latch, now_ns: u64) -> bool {
    let leaving = node.flags as u8 & (flags::LEAVING | flags::RELEASED) != 0;
    node.incarnation != 0 && !leaving && !Latch::is_gone(latch.state, latch.handover_until_ns, now_ns)
}

/// Fills in a frame that leaves at `now_ns`, over whatever stood there; the tag is still to come.
///
/// `RELEASED` goes with `GONE` nowhere by itself: a dead daemon's promise ends by either.
#[inline(always)]
pub fn compose(
    frame: &mut Frame,
    kind: Kind,
    node: &Node,
    latch: &Latch,
    to: Address,
    peer: Snapshot,
    granting: Granting,
    now_ns: u64,
) {
    // In place: the kernel's stack has room for one frame.
    frame.0[0] = Frame::new(kind).0[0];
    frame.0[3] = 0;
    let gone = Latch::is_gone(latch.state, latch.handover_until_ns, now_ns);
    frame.set_key_id(node.key_id as u8);
    frame.set_cluster_id(node.cluster_id);
    frame.set_config_version(node.config_version);
    frame.set_sender(node.slot as u8);
    frame.set_target(to.target);
    frame.set_link(to.link);
    let mut said = node.flags as u8 & !(flags::GONE | flags::GRANT);
    if granting.grant {
        said |= flags::GRANT;
    }
    if now_ns > latch.handover_until_ns {
        // A daemon that hangs after its announcement must not hide behind it.
        said &= !flags::HANDOVER;
    }
    frame.set_flags(if gone { flags::GONE } else { said });
    frame.set_daemon_age_us(age_us(now_ns, latch.beat_ns));
    frame.set_incarnation(node.incarnation);
    frame.set_target_incarnation(peer.incarnation);
    frame.set_sequence(to.sequence);
    frame.set_view_epoch(granting.view.epoch);
    frame.set_view_members(granting.view.members);
    frame.0[9] = granting.view.rest;
    frame.set_stamp(now_ns);
    frame.set_returned(peer.stamp);
    frame.set_received(peer.received);
    frame.set_heard(node.heard);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::latch;

    #[test]
    fn a_gone_daemon_says_nothing_but_that() {
        let node = Node { flags: u64::from(flags::GRANT | flags::LEAVING), ..Node::default() };
        let to = Address { target: 1, link: 0, sequence: 1 };
        let granting = Granting { grant: true, ..Granting::default() };
        let said = |state, now| {
            let latch = Latch { state, handover_until_ns: 50, ..Latch::default() };
            let mut frame = Frame([u64::MAX; 15]);
            compose(&mut frame, Kind::Answer, &node, &latch, to, Snapshot::default(), granting, now);
            assert_eq!(frame.0[3] >> 32, now / 1000, "nothing of the old content stays");
            frame.flags()
        };
        assert_eq!(said(latch::ALIVE, 10), flags::GRANT | flags::LEAVING);
        assert_eq!(said(latch::GONE, 10), flags::GONE);
        assert_eq!(said(latch::HANDED_OVER, 50), flags::GRANT | flags::LEAVING);
        assert_eq!(said(latch::HANDED_OVER, 51), flags::GONE);
    }

    #[test]
    fn only_a_daemon_that_lives_and_stays_may_grant() {
        let node = |incarnation, flags: u8| Node { incarnation, flags: flags.into(), ..Node::default() };
        let may = |node, state, now| {
            let latch = Latch { state, handover_until_ns: 50, ..Latch::default() };
            may_grant(&node, &latch, now)
        };
        assert!(may(node(1, 0), latch::ALIVE, 60));
        assert!(may(node(1, 0), latch::HANDED_OVER, 50));
        assert!(!may(node(1, 0), latch::HANDED_OVER, 51));
        assert!(!may(node(1, 0), latch::GONE, 10));
        assert!(!may(node(0, 0), latch::ALIVE, 10));
        assert!(!may(node(1, flags::LEAVING), latch::ALIVE, 10));
    }

    #[test]
    fn a_hand_over_is_said_until_its_end() {
        let node = Node { flags: u64::from(flags::HANDOVER), ..Node::default() };
        let latch = Latch { state: latch::ALIVE, handover_until_ns: 50, ..Latch::default() };
        let to = Address { target: 1, link: 0, sequence: 1 };
        let said = |now| {
            let mut frame = Frame::default();
            compose(
                &mut frame,
                Kind::Probe,
                &node,
                &latch,
                to,
                Snapshot::default(),
                Granting::default(),
                now,
            );
            frame.flags()
        };
        assert_eq!((said(50), said(51)), (flags::HANDOVER, 0));
    }
}
