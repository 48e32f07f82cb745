//! The frames of both ends, each of whose words tells which frame it is from, and the programs that they go through.

use ringbeat_common::frame::{FRAME_BYTES, Frame, Kind, flags};
use ringbeatd::plane::KernelPlane;
use ringbeatd::plane::load::{Loaded, chain};
use ringbeatd::sys::clock::boot_ns;

use crate::{KEY, pins, plane};

/// Verdicts of the receiving program.
const DROP: u32 = 1;
const TX: u32 = 3;
/// The sending program's: on to the next one.
const NEXT: u32 = u32::MAX;

/// The peer's life number `k`, from 1 on; odd ones are gone and say so.
pub(crate) const fn peer(k: u64) -> u64 {
    k << 32 | k & 0xffff_ffff
}

/// Our own life number `k`.
pub(crate) const fn own(k: u64) -> u64 {
    k << 32 | 0xface
}

/// A word that only this field of this frame has.
pub(crate) const fn mixed(sequence: u64, k: u64, field: u64) -> u64 {
    (sequence ^ k.rotate_left(40) ^ field << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Rises with the sequence number, and names the life.
pub(crate) const fn stamp(sequence: u64, k: u64) -> u64 {
    sequence << 24 | (k & 0xff_ffff)
}

/// A probe of the peer's life `k` to our life `target`, each of whose words tells which frame it is from.
pub(crate) fn probe(k: u64, target: u64, sequence: u64) -> Frame {
    frame(Kind::Probe, k, target, sequence)
}

fn frame(kind: Kind, k: u64, target: u64, sequence: u64) -> Frame {
    let mut frame = Frame::new(kind);
    frame.set_cluster_id(77);
    frame.set_sender(1);
    frame.set_incarnation(peer(k));
    frame.set_target_incarnation(target);
    frame.set_sequence(sequence);
    frame.set_stamp(stamp(sequence, k));
    frame.set_heard(mixed(sequence, k, 1));
    frame.set_view_epoch(mixed(sequence, k, 2));
    frame.set_view_members(mixed(sequence, k, 3));
    frame.set_config_version(mixed(sequence, k, 4));
    frame.set_daemon_age_us(0);
    if k % 2 == 1 {
        frame.set_flags(flags::GONE);
    }
    frame.set_returned(boot_ns());
    frame.seal(KEY);
    frame
}

fn packet(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0];
    let udp = (8 + FRAME_BYTES) as u16;
    bytes.extend((20 + udp).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
    for field in [5405, 5405, udp, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(frame.to_bytes());
    bytes
}

/// The answer that the program makes of a probe, if it makes one; it must be sound and for just this probe.
pub(crate) fn run(plane: &mut KernelPlane, frame: &Frame) -> Option<Frame> {
    let tried = plane.try_out(&packet(frame), 1).unwrap_or_else(|error| panic!("{}", chain(&error)));
    if tried.verdict != TX {
        return None;
    }
    let answer = Frame::from_bytes(&tried.after[tried.after.len() - FRAME_BYTES..]).expect("a frame");
    assert_eq!(answer.computed_tag(KEY), answer.tag());
    assert_eq!(
        (
            answer.kind(),
            answer.sequence(),
            answer.returned(),
            answer.target_incarnation(),
            answer.incarnation()
        ),
        (
            Kind::Answer as u8,
            frame.sequence(),
            frame.stamp(),
            frame.incarnation(),
            frame.target_incarnation()
        )
    );
    Some(answer)
}

/// The program that a frame leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The receiving program makes an answer of a probe.
    Answer,
    /// The sending program completes a probe.
    Probe,
}

/// Both programs, to the peer's life 2 and from our life 1.
pub(crate) struct Sender {
    receiving: KernelPlane,
    sending: Loaded,
}

impl Sender {
    pub(crate) fn new() -> Self {
        let receiving = plane();
        let object = ringbeat_ebpf_object::KERNEL.expect("kernel programs in this build");
        let sending = Loaded::new(object, Some(&pins())).unwrap_or_else(|error| panic!("{}", chain(&error)));
        Self { receiving, sending }
    }

    /// Lets come in what the next frame promises for: the promise of a probe is from the receipt of the newest stamp on.
    /// The answer that brings it is granted nothing by itself.
    pub(crate) fn prepare(&mut self, way: Way, sequence: u64) {
        if way == Way::Probe {
            let bytes = packet(&frame(Kind::Answer, 2, own(1), sequence));
            let tried = self.receiving.try_out(&bytes, 1).unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert_eq!(tried.verdict, DROP, "an answer is taken in, or refused while the plane is closed");
        }
    }

    /// The frame that leaves, if one does.
    pub(crate) fn leave(&mut self, way: Way, sequence: u64) -> Option<Frame> {
        match way {
            Way::Answer => run(&mut self.receiving, &probe(2, own(1), sequence)),
            Way::Probe => self.complete(),
        }
    }

    fn complete(&mut self) -> Option<Frame> {
        let mut frame = Frame::new(Kind::Probe);
        frame.set_target(1);
        let tried = self.sending.try_classifier("egress", &packet(&frame), 1);
        let tried = tried.unwrap_or_else(|error| panic!("{}", chain(&error)));
        if tried.verdict != NEXT {
            return None;
        }
        let probe = Frame::from_bytes(&tried.after[tried.after.len() - FRAME_BYTES..]).expect("a frame");
        assert_eq!(probe.computed_tag(KEY), probe.tag());
        assert_eq!((probe.kind(), probe.incarnation(), probe.target()), (Kind::Probe as u8, own(1), 1));
        Some(probe)
    }
}
