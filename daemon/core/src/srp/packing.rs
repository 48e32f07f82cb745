//! Messages into packets and back: many small ones share one, a large one is cut.
//!
//! ```text
//! a packet's payload: chunks, each    bytes (24 bits), 1 first (bit 24), 1 last (bit 25), 0; little-endian, then the bytes
//! ```
//! A message that a view change interrupts is sent again from its beginning in the next ring, and what had come of it is
//! forgotten at the change: who joins has to have it whole, too.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::{RING_MESSAGE_MAX, RING_QUEUE_BYTES_MAX, RING_QUEUE_MAX};

/// Before each chunk.
pub(super) const CHUNK_HEAD: usize = 4;
const FIRST: u32 = 1 << 24;
const LAST: u32 = 1 << 25;
const BYTES: u32 = FIRST - 1;

/// A message that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiting {
    safe: bool,
    bytes: Bytes,
}

/// Messages to be sent, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Of the first one, so many bytes are in packets of this ring.
    cut: usize,
}

impl Outbox {
    /// Takes a message to be sent; gives it back where there is no room for it.
    pub(super) fn push(&mut self, safe: bool, bytes: Bytes) -> Result<(), Bytes> {
        let is_full = self.waiting.len() >= RING_QUEUE_MAX
            || (self.bytes + bytes.len() > RING_QUEUE_BYTES_MAX && !self.waiting.is_empty());
        if is_full || bytes.len() > RING_MESSAGE_MAX {
            return Err(bytes);
        }
        self.bytes += bytes.len();
        self.waiting.push_back(Waiting { safe, bytes });
        Ok(())
    }

    /// Takes a message to be the next one; nothing may have been cut.
    pub(super) fn push_first(&mut self, bytes: Bytes) {
        debug_assert_eq!(self.cut, 0);
        self.bytes += bytes.len();
        self.waiting.push_front(Waiting { safe: false, bytes });
    }

    /// Whether another one would be taken, of whatever length.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < RING_QUEUE_MAX
            && (self.waiting.is_empty() || self.bytes + RING_MESSAGE_MAX <= RING_QUEUE_BYTES_MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Messages that wait, the one that is being cut included.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The next packet's payload, of at most `room` bytes, and whether it is to be safe; none if nothing waits.
    pub(super) fn pack(&mut self, room: usize) -> Option<(Bytes, bool)> {
        let safe = self.waiting.front()?.safe;
        let mut payload = BytesMut::with_capacity(room);
        while let Some(message) = self.waiting.front().filter(|message| message.safe == safe) {
            let rest = message.bytes.len() - self.cut;
            let left = room.saturating_sub(payload.len() + CHUNK_HEAD);
            let takes = rest.min(left);
            // Filled to the last byte: packets of one length leave by one system call.
            if payload.len() + CHUNK_HEAD > room || (takes == 0 && rest > 0) {
                break;
            }
            let first = if self.cut == 0 { FIRST } else { 0 };
            let last = if takes == rest { LAST } else { 0 };
            payload.put_u32_le(takes as u32 | first | last);
            payload.put_slice(&message.bytes[self.cut..self.cut + takes]);
            if takes == rest {
                self.bytes -= message.bytes.len();
                self.cut = 0;
                self.waiting.pop_front();
            } else {
                self.cut += takes;
                break;
            }
        }
        (!payload.is_empty()).then(|| (payload.freeze(), safe))
    }

    /// The ring has gone: what was cut begins anew in the next one.
    pub(super) const fn begin_anew(&mut self) {
        self.cut = 0;
    }
}

/// One origin's message that is not whole yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Assembly {
    parts: BytesMut,
    is_open: bool,
}

impl Assembly {
    /// Takes the packets of an origin in their order and gives the messages that end in it. What cannot be is left out: a
    /// part without its beginning, or longer than a message may be.
    pub(super) fn take(&mut self, mut payload: Bytes, whole: &mut Vec<Bytes>) {
        while payload.len() >= CHUNK_HEAD {
            let head = payload.get_u32_le();
            let bytes = (head & BYTES) as usize;
            if bytes > payload.len() {
                self.forget();
                return;
            }
            let chunk = payload.split_to(bytes);
            match (head & FIRST != 0, head & LAST != 0) {
                (true, true) => {
                    self.forget();
                    whole.push(chunk);
                    continue;
                }
                (true, false) => {
                    self.forget();
                    self.is_open = true;
                }
                (false, _) if !self.is_open => continue,
                (false, _) => {}
            }
            if self.parts.len() + bytes > RING_MESSAGE_MAX {
                self.forget();
                continue;
            }
            self.parts.put_slice(&chunk);
            if head & LAST != 0 {
                whole.push(std::mem::take(&mut self.parts).freeze());
                self.is_open = false;
            }
        }
    }

    /// What had come of a message is forgotten.
    pub(super) fn forget(&mut self) {
        self.parts.clear();
        self.is_open = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(messages: &[(bool, Vec<u8>)], room: usize) -> Vec<Bytes> {
        let (mut outbox, mut assembly, mut whole) = (Outbox::default(), Assembly::default(), Vec::new());
        for (safe, bytes) in messages {
            outbox.push(*safe, Bytes::from(bytes.clone())).expect("room");
        }
        while let Some((payload, _)) = outbox.pack(room) {
            assert!(payload.len() <= room, "{} bytes in {room}", payload.len());
            assembly.take(payload, &mut whole);
        }
        assert!(outbox.is_empty() && outbox.bytes == 0);
        whole
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            messages in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..4000)), 0..20),
            room in 100usize..3000,
        ) {
            let whole = all(&messages, room);
            prop_assert_eq!(whole, messages.into_iter().map(|(_, bytes)| Bytes::from(bytes)).collect::<Vec<_>>());
        }

        #[test]
        fn whatever_comes_is_bounded(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..50)) {
            let (mut assembly, mut whole) = (Assembly::default(), Vec::new());
            let bytes: usize = payloads.iter().map(Vec::len).sum();
            for payload in payloads {
                assembly.take(Bytes::from(payload), &mut whole);
            }
            prop_assert!(whole.iter().map(Bytes::len).sum::<usize>() <= bytes);
        }
    }

    #[test]
    fn small_ones_share_a_packet() {
        let mut outbox = Outbox::default();
        for _ in 0..10 {
            outbox.push(false, Bytes::from_static(&[7; 64])).expect("room");
        }
        outbox.push(true, Bytes::from_static(b"safe")).expect("room");
        let (payload, safe) = outbox.pack(1400).expect("a packet");
        assert_eq!((payload.len(), safe), (10 * 68, false), "another service is another packet");
        assert!(outbox.pack(1400).expect("a packet").1);
        assert_eq!(outbox.pack(1400), None);
    }

    #[test]
    fn a_full_outbox_gives_the_message_back() {
        let mut outbox = Outbox::default();
        let large = Bytes::from(vec![0; RING_MESSAGE_MAX]);
        let mut taken = 0;
        while outbox.push(false, large.clone()).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, RING_QUEUE_BYTES_MAX / RING_MESSAGE_MAX);
        assert!(Outbox::default().push(false, Bytes::from(vec![0; RING_MESSAGE_MAX + 1])).is_err());
    }

    #[test]
    fn an_interrupted_message_begins_anew() {
        let (mut outbox, mut assembly, mut whole) = (Outbox::default(), Assembly::default(), Vec::new());
        outbox.push(false, Bytes::from(vec![1; 1000])).expect("room");
        assembly.take(outbox.pack(500).expect("a part").0, &mut whole);
        outbox.begin_anew();
        assembly.forget();
        while let Some((payload, _)) = outbox.pack(500) {
            assembly.take(payload, &mut whole);
        }
        assert_eq!(whole, [Bytes::from(vec![1; 1000])]);
    }
}
