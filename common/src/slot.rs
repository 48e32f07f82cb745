//! What this node knows of one peer on one link, and the checks that a frame must pass to change it.
//!
//! In the kernel a slot stands under its spin lock: check and change are one step, and the daemon replaces a slot
//! whole (BPF_F_LOCK) when it accepts an incarnation, so a frame of the old life either came before or finds the new
//! one. `docs/atomicity.md` has the argument.

use crate::drops::Drop;
use crate::frame::{Frame, Kind, flags};

/// The kernel's spin lock, known to the verifier by its name; user space neither reads nor writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct bpf_spin_lock {
    /// The kernel's own.
    pub val: u32,
}

/// A peer on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Slot {
    /// Guards everything below.
    pub lock: bpf_spin_lock,
    /// What the newest frame said of its sender's daemon, in µs.
    pub daemon_age_us: u32,
    /// The accepted incarnation; 0 accepts nothing.
    pub incarnation: u64,
    /// The newest probe's sequence number.
    pub probe_sequence: u64,
    /// The newest answer's, in the count of our own probes.
    pub answer_sequence: u64,
    /// The newest stamp of the peer.
    pub peer_stamp: u64,
    /// When we had it, by our clock.
    pub peer_stamp_received: u64,
    /// The newest stamp of ours that it returned.
    pub proof: u64,
    /// The newest stamp of ours that came back with a grant under our installed view, on this link; for people to read.
    pub granted: u64,
    /// Promises are in the lease's table, one for all links of a peer; 0.
    pub promised: u64,
    /// The slots that the peer hears.
    pub heard: u64,
    /// The peer's view: epoch.
    pub view_epoch: u64,
    /// The peer's view: members.
    pub view_members: u64,
    /// The peer's view: proposer and config version, as word 9 of the frame.
    pub view_rest: u64,
    /// The peer's config version.
    pub config_version: u64,
    /// The newest frame's flags.
    pub flags: u64,
}

/// What a frame is held against: this node as it is when the frame arrives.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    /// Our incarnation.
    pub incarnation: u64,
    /// Our installed view: epoch, members, rest.
    pub view: [u64; 3],
    /// A returned stamp older than this proves nothing.
    pub freshness_ns: u64,
    /// The time of receipt.
    pub now_ns: u64,
}

/// What a slot has for the next frame to its peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The accepted incarnation.
    pub incarnation: u64,
    /// The newest stamp of the peer.
    pub stamp: u64,
    /// When we had it.
    pub received: u64,
}

impl Slot {
    /// A slot that accepts the incarnation and knows nothing yet.
    pub const fn accepting(incarnation: u64) -> Self {
        Self {
            lock: bpf_spin_lock { val: 0 },
            daemon_age_us: 0,
            incarnation,
            probe_sequence: 0,
            answer_sequence: 0,
            peer_stamp: 0,
            peer_stamp_received: 0,
            proof: 0,
            granted: 0,
            promised: 0,
            heard: 0,
            view_epoch: 0,
            view_members: 0,
            view_rest: 0,
            config_version: 0,
            flags: 0,
        }
    }

    /// Takes an authentic probe or answer; says whether it proves that its sender lives.
    ///
    /// A frame that was sealed to another incarnation of us, or by another incarnation of the sender, or that does
    /// not rise, changes nothing.
    #[inline(always)]
    pub fn accept(&mut self, frame: &Frame, local: &Local) -> Result<bool, Drop> {
        if self.incarnation == 0 || frame.incarnation() != self.incarnation {
            return Err(Drop::Incarnation);
        }
        if frame.target_incarnation() != local.incarnation {
            return Err(Drop::TargetIncarnation);
        }
        if frame.returned() > local.now_ns {
            return Err(Drop::FutureStamp);
        }
        let answer = frame.kind() == Kind::Answer as u8;
        let newest = if answer { self.answer_sequence } else { self.probe_sequence };
        if frame.sequence() <= newest {
            return Err(Drop::Replayed);
        }
        if answer {
            self.answer_sequence = frame.sequence();
        } else {
            self.probe_sequence = frame.sequence();
        }
        if frame.stamp() > self.peer_stamp {
            self.peer_stamp = frame.stamp();
            self.peer_stamp_received = local.now_ns;
        }
        if frame.returned() == 0 || local.now_ns - frame.returned() > local.freshness_ns {
            return Ok(false);
        }
        if frame.returned() > self.proof {
            self.proof = frame.returned();
        }
        self.heard = frame.heard();
        self.view_epoch = frame.view_epoch();
        self.view_members = frame.view_members();
        self.view_rest = frame.0[9];
        self.config_version = frame.config_version();
        self.daemon_age_us = frame.daemon_age_us();
        self.flags = frame.flags() as u64;
        let same_view = self.view_epoch != 0
            && self.view_epoch == local.view[0]
            && self.view_members == local.view[1]
            && self.view_rest == local.view[2];
        if frame.flags() & flags::GRANT != 0 && same_view && frame.returned() > self.granted {
            self.granted = frame.returned();
        }
        Ok(true)
    }

    /// What the next probe to this peer carries.
    #[inline(always)]
    pub const fn snapshot(&self) -> Snapshot {
        Snapshot { incarnation: self.incarnation, stamp: self.peer_stamp, received: self.peer_stamp_received }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: u64 = 7 << 32 | 5;
    const OWN: u64 = 3 << 32 | 9;
    const VIEW: [u64; 3] = [4, 0b111, 1 << 32];

    fn local(now_ns: u64) -> Local {
        Local { incarnation: OWN, view: VIEW, freshness_ns: 100, now_ns }
    }

    fn probe(sequence: u64, stamp: u64, returned: u64) -> Frame {
        let mut frame = Frame::new(Kind::Probe);
        frame.set_incarnation(PEER);
        frame.set_target_incarnation(OWN);
        frame.set_sequence(sequence);
        frame.set_stamp(stamp);
        frame.set_returned(returned);
        frame
    }

    fn answer(sequence: u64, stamp: u64, returned: u64) -> Frame {
        let mut frame = probe(sequence, stamp, returned);
        frame.set_kind(Kind::Answer as u8);
        frame
    }

    #[test]
    fn life_is_proven_by_a_fresh_stamp_of_ours() {
        let mut slot = Slot::accepting(PEER);
        assert_eq!(slot.accept(&probe(1, 50, 0), &local(1000)), Ok(false));
        assert_eq!(slot.snapshot(), Snapshot { incarnation: PEER, stamp: 50, received: 1000 });
        assert_eq!(slot.accept(&probe(2, 60, 899), &local(1000)), Ok(false), "older than the freshness");
        assert_eq!(slot.accept(&probe(3, 70, 900), &local(1000)), Ok(true));
        assert_eq!(slot.proof, 900);
    }

    #[test]
    fn a_replayed_frame_changes_nothing() {
        let mut slot = Slot::accepting(PEER);
        slot.accept(&probe(5, 50, 990), &local(1000)).expect("fresh");
        let before = slot;
        assert_eq!(slot.accept(&probe(5, 60, 999), &local(1001)), Err(Drop::Replayed));
        assert_eq!(slot.accept(&probe(4, 60, 999), &local(1001)), Err(Drop::Replayed));
        assert_eq!(slot, before);
        // Probes and answers count by themselves: they overtake one another between two processors.
        assert_eq!(slot.accept(&answer(1, 60, 999), &local(1001)), Ok(true));
        assert_eq!(slot.accept(&answer(1, 60, 999), &local(1001)), Err(Drop::Replayed));
    }

    #[test]
    fn other_lives_are_refused() {
        let mut slot = Slot::accepting(PEER);
        let mut frame = probe(1, 50, 990);
        frame.set_incarnation(PEER - 1);
        assert_eq!(slot.accept(&frame, &local(1000)), Err(Drop::Incarnation));
        frame.set_incarnation(PEER);
        frame.set_target_incarnation(OWN - 1);
        assert_eq!(slot.accept(&frame, &local(1000)), Err(Drop::TargetIncarnation));
        assert_eq!(slot.accept(&probe(1, 50, 1001), &local(1000)), Err(Drop::FutureStamp));
        assert_eq!(slot, Slot::accepting(PEER));
        let mut closed = Slot::default();
        assert_eq!(closed.accept(&Frame::new(Kind::Probe), &local(1)), Err(Drop::Incarnation));
    }

    #[test]
    fn a_grant_counts_only_for_the_installed_view_and_a_fresh_stamp() {
        let mut slot = Slot::accepting(PEER);
        let mut frame = probe(1, 50, 990);
        frame.set_flags(flags::GRANT);
        slot.accept(&frame, &local(1000)).expect("fresh");
        assert_eq!(slot.granted, 0, "no view");
        frame.set_view_epoch(VIEW[0]);
        frame.set_view_members(VIEW[1]);
        frame.set_view_config(1);
        frame.set_sequence(2);
        frame.set_returned(800);
        assert_eq!(slot.accept(&frame, &local(1000)), Ok(false));
        assert_eq!(slot.granted, 0, "old stamp");
        frame.set_sequence(3);
        frame.set_returned(995);
        slot.accept(&frame, &local(1000)).expect("fresh");
        assert_eq!(slot.granted, 995);
        frame.set_view_members(0b11);
        frame.set_sequence(4);
        frame.set_returned(999);
        slot.accept(&frame, &local(1000)).expect("fresh");
        assert_eq!(slot.granted, 995, "another view");
    }

    #[test]
    fn the_newest_stamp_is_kept() {
        let mut slot = Slot::accepting(PEER);
        slot.accept(&probe(1, 50, 990), &local(1000)).expect("fresh");
        slot.accept(&answer(1, 40, 995), &local(1005)).expect("fresh");
        assert_eq!(slot.snapshot().stamp, 50);
        assert_eq!(slot.proof, 995);
        slot.accept(&probe(2, 60, 991), &local(1006)).expect("fresh");
        assert_eq!(slot.proof, 995);
    }
}
