//! The heartbeat frame: fifteen little-endian words, the last one the tag over the others.
//!
//! It is kept as words and read by shifts, so the kernel program loads it once to its stack, user space and kernel run
//! the same code, and no length or alignment can go wrong behind the one check of the size. `docs/protocol.md` has
//! the picture. Deliberately not there: options, variable parts, compression. A frame that needs more is a message
//! of user space.

use crate::siphash::siphash24;

/// Words of a frame, the tag included.
pub const FRAME_WORDS: usize = 15;
/// Bytes of a frame, as a UDP payload.
pub const FRAME_BYTES: usize = FRAME_WORDS * 8;
/// "RBT1", as the first four bytes.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RBT1");
/// The version of frames that this build writes and understands.
pub const VERSION: u8 = 1;

const TAG: usize = FRAME_WORDS - 1;

/// What a frame is for. Other numbers are dropped as malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Asks for an answer; sent by the daemon's probe thread, completed by the egress program.
    Probe = 1,
    /// Answers a probe, carrying the probe's sequence number; sent by the kernel.
    Answer = 2,
    /// First message of the handshake: `stamp` is the sender's nonce. User space's.
    Hello = 3,
    /// Second: echoes that nonce in `returned`, brings the answerer's own nonce in `stamp`. User space's.
    Welcome = 4,
    /// Third: echoes the answerer's nonce. User space's.
    Confirm = 5,
}

impl Kind {
    /// The kind of a frame's number.
    #[inline(always)]
    pub const fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Probe),
            2 => Some(Self::Answer),
            3 => Some(Self::Hello),
            4 => Some(Self::Welcome),
            5 => Some(Self::Confirm),
            _ => None,
        }
    }
}

/// Flags of a frame, one bit each.
pub mod flags {
    /// The sender grants its vote for the lease under the view that the frame names.
    pub const GRANT: u8 = 1;
    /// The sender's daemon is gone: its obituary latch is set.
    pub const GONE: u8 = 1 << 1;
    /// The sender has let go of all that it held.
    pub const RELEASED: u8 = 1 << 2;
    /// The sender is leaving on purpose.
    pub const LEAVING: u8 = 1 << 3;
    /// The sender's daemon is being replaced, as planned; its silence means nothing until the hand-over's end.
    pub const HANDOVER: u8 = 1 << 4;
}

/// One frame. All numbers are little-endian on the wire; [`Frame::from_bytes`] and [`Frame::to_bytes`] convert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Frame(pub [u64; FRAME_WORDS]);

/// Reads (and writes, by its second name) a field of `$bits` bits at `$shift` of word `$word`.
macro_rules! field {
    ($(#[$doc:meta])* $get:ident, $set:ident: $ty:ty, $word:expr, $shift:expr) => {
        $(#[$doc])*
        #[inline(always)]
        pub const fn $get(&self) -> $ty {
            (self.0[$word] >> $shift) as $ty
        }

        #[doc = concat!("Sets [`Self::", stringify!($get), "`].")]
        #[inline(always)]
        pub const fn $set(&mut self, value: $ty) {
            self.0[$word] = (self.0[$word] & !((<$ty>::MAX as u64) << $shift)) | ((value as u64) << $shift);
        }
    };
}

impl Frame {
    /// An empty frame of this build's version.
    #[inline(always)]
    pub const fn new(kind: Kind) -> Self {
        let mut frame = Self([0; FRAME_WORDS]);
        frame.set_magic(MAGIC);
        frame.set_version(VERSION);
        frame.set_min_version(VERSION);
        frame.set_kind(kind as u8);
        frame
    }

    field!(/// [`MAGIC`].
        magic, set_magic: u32, 0, 0);
    field!(/// The version that the frame is written in.
        version, set_version: u8, 0, 32);
    field!(/// The least version whose readers understand the frame.
        min_version, set_min_version: u8, 0, 40);
    field!(/// See [`Kind`].
        kind, set_kind: u8, 0, 48);
    field!(/// Which of the keys in force made the tag.
        key_id, set_key_id: u8, 0, 56);
    field!(/// Identifies the cluster; derived from its name and key.
        cluster_id, set_cluster_id: u64, 1, 0);
    field!(/// The version of the configuration that the sender runs.
        config_version, set_config_version: u64, 2, 0);
    field!(/// The sender's slot.
        sender, set_sender: u8, 3, 0);
    field!(/// The target's slot.
        target, set_target: u8, 3, 8);
    field!(/// The link that the frame must arrive on.
        link, set_link: u8, 3, 16);
    field!(/// See [`flags`].
        flags, set_flags: u8, 3, 24);
    field!(/// How long since the main loop of the sender's daemon last ran, in µs, saturating.
        daemon_age_us, set_daemon_age_us: u32, 3, 32);
    field!(/// The sender's incarnation: durable counter in the upper half, random salt in the lower.
        incarnation, set_incarnation: u64, 4, 0);
    field!(/// The incarnation of the target that the sender knows.
        target_incarnation, set_target_incarnation: u64, 5, 0);
    field!(/// Rises with each probe inside an incarnation, on each link and to each peer by itself; an answer carries the
        /// number of the probe that it answers.
        sequence, set_sequence: u64, 6, 0);
    field!(/// The epoch of the sender's view.
        view_epoch, set_view_epoch: u64, 7, 0);
    field!(/// The members of the sender's view, a bit for each slot.
        view_members, set_view_members: u64, 8, 0);
    field!(/// The slot that proposed the view.
        view_proposer, set_view_proposer: u8, 9, 0);
    field!(/// The config version of the view, its lower 32 bits.
        view_config, set_view_config: u32, 9, 32);
    field!(/// When the frame left, by the sender's boot-time clock, in ns. In a handshake: the sender's nonce.
        stamp, set_stamp: u64, 10, 0);
    field!(/// The newest stamp that the sender has from the target. In a handshake: the target's nonce.
        returned, set_returned: u64, 11, 0);
    field!(/// When that stamp was received, by the sender's boot-time clock, in ns.
        received, set_received: u64, 12, 0);
    field!(/// The slots that the sender hears.
        heard, set_heard: u64, 13, 0);
    field!(/// SipHash-2-4 over all the words before it.
        tag, set_tag: u64, 14, 0);

    /// The tag that the frame should have under `key`.
    #[inline(always)]
    pub fn computed_tag(&self, key: [u64; 2]) -> u64 {
        match self.0.first_chunk::<TAG>() {
            Some(words) => siphash24(key, words),
            None => 0,
        }
    }

    /// Writes the tag, as the last step of building a frame.
    #[inline(always)]
    pub fn seal(&mut self, key: [u64; 2]) {
        let tag = self.computed_tag(key);
        self.set_tag(tag);
    }

    /// The frame in these bytes, if they have its length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, []) = bytes.as_chunks::<8>() else { return None };
        let words: &[[u8; 8]; FRAME_WORDS] = words.try_into().ok()?;
        Some(Self(words.map(u64::from_le_bytes)))
    }

    /// The bytes of the frame, as on the wire.
    pub fn to_bytes(&self) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *to = word.to_le_bytes();
        }
        bytes
    }
}

/// `daemon_age_us` from two readings of the boot-time clock, saturating; a beat from the future is none at all.
#[inline(always)]
pub const fn age_us(now_ns: u64, beat_ns: u64) -> u32 {
    let age = now_ns.saturating_sub(beat_ns) / 1000;
    if age > u32::MAX as u64 { u32::MAX } else { age as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_round_trip(words in proptest::array::uniform15(any::<u64>())) {
            let frame = Frame(words);
            prop_assert_eq!(Frame::from_bytes(&frame.to_bytes()), Some(frame));
        }

        #[test]
        fn any_other_length_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Frame::from_bytes(&bytes).is_some(), bytes.len() == FRAME_BYTES);
        }

        /// Whatever single bit is flipped, the tag no longer fits: no field is outside of it.
        #[test]
        fn every_bit_is_under_the_tag(words in proptest::array::uniform15(any::<u64>()), bit in 0..FRAME_WORDS * 64) {
            let key = [1, 2];
            let mut frame = Frame(words);
            frame.seal(key);
            frame.0[bit / 64] ^= 1 << (bit % 64);
            prop_assert_ne!(frame.computed_tag(key), frame.tag());
        }
    }

    #[test]
    fn fields_do_not_overlap() {
        let mut frame = Frame::new(Kind::Probe);
        let setters: [fn(&mut Frame); 9] = [
            |f| f.set_key_id(0xff),
            |f| f.set_sender(0xff),
            |f| f.set_target(0xff),
            |f| f.set_link(0xff),
            |f| f.set_flags(0xff),
            |f| f.set_daemon_age_us(u32::MAX),
            |f| f.set_view_proposer(0xff),
            |f| f.set_view_config(u32::MAX),
            |f| f.set_heard(u64::MAX),
        ];
        let mut bits = frame.0.iter().map(|w| w.count_ones()).sum::<u32>();
        for (set, width) in setters.into_iter().zip([8, 8, 8, 8, 8, 32, 8, 32, 64]) {
            set(&mut frame);
            bits += width;
            assert_eq!(frame.0.iter().map(|w| w.count_ones()).sum::<u32>(), bits);
        }
        assert_eq!(&frame.to_bytes()[..4], b"RBT1");
        assert_eq!(frame.kind(), Kind::Probe as u8);
    }

    #[test]
    fn ages_saturate() {
        assert_eq!(age_us(5_000_000, 2_000_000), 3000);
        assert_eq!(age_us(1, 2), 0);
        assert_eq!(age_us(u64::MAX, 0), u32::MAX);
    }
}
