//! The envelope of a message: from whom, to whom, of which lives, and a tag over all of it.
//!
//! ```text
//! word 0  "RBM1" (32 bits), version (8), link (8), key id (8), 0 (8)
//! word 1  cluster id
//! word 2  sender's slot (8), target's slot (8), bytes of the message (16)
//! word 3  the sender's incarnation          word 4  the target's
//! word 5  sequence number: rises with every message of the sender's life, the same on every link
//! then    the message, in whole words       last    SipHash-2-4 over all words before it
//! ```
//! A message goes out on every link; the first to arrive counts, the others are known by their number. One that was
//! sealed to another life of the target, or by another of the sender, is nobody's.

use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::siphash::siphash24;

/// "RBM1", as the first four bytes.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RBM1");
/// The version that is written and read.
pub const VERSION: u8 = 2;
/// Words before the message.
const HEAD: usize = 6;
/// The most bytes of a message: with headers it fits an Ethernet frame over IPv6.
pub const MESSAGE_BYTES_MAX: usize = 1376;
/// The most bytes of an envelope.
pub const ENVELOPE_BYTES_MAX: usize = (HEAD + 1) * 8 + MESSAGE_BYTES_MAX;

/// This node as envelopes need it.
#[derive(Clone, Copy, Debug)]
pub struct Post {
    /// Our slot.
    pub own: u8,
    /// Our incarnation.
    pub incarnation: u64,
    /// The cluster.
    pub cluster_id: u64,
    /// The key of the tags; not that of frames.
    pub key: [u64; 2],
}

/// Why an envelope was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not one of ours at all.
    Foreign,
    /// Written in another version.
    Version,
    /// Lengths or slots that cannot be.
    Malformed,
    /// A wrong tag.
    Forged,
    /// Of another life of the sender, or to another of ours.
    Life,
    /// Seen before, or too old to know.
    Replayed,
}

/// What was inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The sender's slot.
    pub from: u8,
    /// The sender's life.
    pub incarnation: u64,
    /// The message.
    pub message: Vec<u8>,
}

/// Which numbers of a sender's life have come: the highest, and the 64 before it.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    incarnation: u64,
    highest: u64,
    seen: u64,
}

impl Window {
    /// Whether the number is new; it is not any more afterwards.
    fn take(&mut self, incarnation: u64, number: u64) -> bool {
        if self.incarnation != incarnation {
            *self = Self { incarnation, highest: 0, seen: 0 };
        }
        if number == 0 {
            return false;
        }
        if number > self.highest {
            let shift = number - self.highest;
            self.seen = if shift >= 64 { 0 } else { self.seen << shift };
            (self.highest, self.seen) = (number, self.seen | 1);
            return true;
        }
        let back = self.highest - number;
        if back >= 64 || self.seen >> back & 1 != 0 {
            return false;
        }
        self.seen |= 1 << back;
        true
    }
}

/// Seals and opens.
#[derive(Clone, Debug)]
pub struct PostOffice {
    post: Post,
    windows: [Window; NODES_MAX],
    sent: u64,
}

impl PostOffice {
    /// For one life of this node.
    pub const fn new(post: Post) -> Self {
        Self { post, windows: [Window { incarnation: 0, highest: 0, seen: 0 }; NODES_MAX], sent: 0 }
    }

    /// Goes on in a life that another daemon began, whose last number is not known but surely lower than this.
    pub const fn go_on_after(&mut self, sent: u64) {
        self.sent = sent;
    }

    /// A new number, for one message to any number of targets on any number of links.
    pub const fn number(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// A sealed message; the message is cut at [`MESSAGE_BYTES_MAX`] and filled up to whole words.
    pub fn seal(&self, number: u64, target: u8, life: u64, link: u8, message: &[u8]) -> Vec<u8> {
        let message = &message[..message.len().min(MESSAGE_BYTES_MAX)];
        let post = &self.post;
        let mut words = vec![
            u64::from(MAGIC) | u64::from(VERSION) << 32 | u64::from(link) << 40,
            post.cluster_id,
            u64::from(post.own) | u64::from(target) << 8 | (message.len() as u64) << 16,
            post.incarnation,
            life,
            number,
        ];
        for part in message.chunks(8) {
            words.push(
                part.iter().enumerate().fold(0, |word, (at, byte)| word | u64::from(*byte) << (8 * at)),
            );
        }
        words.push(siphash24(post.key, &words));
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// Opens what came on `link`. `life` gives the accepted incarnation of a slot.
    pub fn open(
        &mut self,
        link: u8,
        bytes: &[u8],
        life: impl Fn(u8) -> Option<u64>,
    ) -> Result<Opened, Refused> {
        let (words, []) = bytes.as_chunks::<8>() else { return Err(Refused::Foreign) };
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let [head, cluster_id, ends, incarnation, target_life, number, ..] = words[..] else {
            return Err(Refused::Foreign);
        };
        let Some((tag, sealed)) = words.split_last() else { return Err(Refused::Foreign) };
        if head as u32 != MAGIC || cluster_id != self.post.cluster_id || bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(Refused::Foreign);
        }
        if (head >> 32) as u8 != VERSION {
            return Err(Refused::Version);
        }
        let (from, target, length) = (ends as u8, (ends >> 8) as u8, usize::from((ends >> 16) as u16));
        let whole = sealed.get(HEAD..).is_some_and(|words| words.len() == length.div_ceil(8));
        if !whole || usize::from(from) >= NODES_MAX || (head >> 40) as u8 != link {
            return Err(Refused::Malformed);
        }
        if siphash24(self.post.key, sealed) != *tag {
            return Err(Refused::Forged);
        }
        let is_ours =
            target == self.post.own && target_life == self.post.incarnation && from != self.post.own;
        if !is_ours || life(from) != Some(incarnation) {
            return Err(Refused::Life);
        }
        if !self.windows[usize::from(from)].take(incarnation, number) {
            return Err(Refused::Replayed);
        }
        let message = bytes.get(HEAD * 8..HEAD * 8 + length).unwrap_or_default().to_vec();
        Ok(Opened { from, incarnation, message })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn office(own: u8, incarnation: u64) -> PostOffice {
        PostOffice::new(Post { own, incarnation, cluster_id: 9, key: [1, 2] })
    }

    #[test]
    fn the_first_of_two_links_counts() {
        let (mut a, mut b) = (office(0, 10), office(1, 11));
        let number = a.number();
        let [first, second] = [0, 1].map(|link| a.seal(number, 1, 11, link, b"hello"));
        let life = |slot| (slot == 0).then_some(10);
        let opened = Opened { from: 0, incarnation: 10, message: b"hello".to_vec() };
        assert_eq!(b.open(0, &first, life), Ok(opened));
        assert_eq!(b.open(1, &second, life), Err(Refused::Replayed));
        assert_eq!(b.open(0, &second, life), Err(Refused::Malformed), "on another link than it names");
    }

    #[test]
    fn other_lives_are_nobodys() {
        let (mut a, mut b) = (office(0, 10), office(1, 11));
        let number = a.number();
        let life = |slot| (slot == 0).then_some(10);
        assert_eq!(b.open(0, &a.seal(number, 1, 12, 0, b""), life), Err(Refused::Life));
        assert_eq!(b.open(0, &a.seal(number, 2, 11, 0, b""), life), Err(Refused::Life));
        assert_eq!(b.open(0, &a.seal(number, 1, 11, 0, b""), |_| Some(9)), Err(Refused::Life));
        assert!(b.open(0, &a.seal(number, 1, 11, 0, b""), life).is_ok());
    }

    #[test]
    fn numbers_may_overtake_one_another_and_come_once() {
        let mut window = Window::default();
        let taken = [5, 3, 5, 3, 4, 70, 6, 7, 69].map(|number| window.take(1, number));
        assert_eq!(taken, [true, true, false, false, true, true, false, true, true]);
        assert!(window.take(2, 1), "a new life counts anew");
        assert!(!window.take(2, 0));
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened(message in proptest::collection::vec(any::<u8>(), 0..MESSAGE_BYTES_MAX), bit in any::<usize>()) {
            let (mut a, mut b) = (office(0, 10), office(1, 11));
            let number = a.number();
            let sealed = a.seal(number, 1, 11, 3, &message);
            let mut spoiled = sealed.clone();
            let at = bit % (spoiled.len() * 8);
            spoiled[at / 8] ^= 1 << (at % 8);
            prop_assert!(b.open(3, &spoiled, |_| Some(10)).is_err());
            let opened = b.open(3, &sealed, |_| Some(10));
            prop_assert_eq!(opened.map(|opened| opened.message), Ok(message));
        }

        #[test]
        fn anything_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            prop_assert!(office(1, 11).open(0, &bytes, |_| Some(10)).is_err());
        }
    }
}
