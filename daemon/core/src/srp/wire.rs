//! What nodes of a ring send one another: packets, the token, the commit token, and a call to wake up.
//!
//! ```text
//! byte 0    kind: 1 packet, 2 token, 3 commit token, 4 wake, 5 lost, 6 piece      byte 1    version, 1
//! byte 2    sender's slot                                         byte 3    proposer of the ring's view
//! bytes 4..8   by kind                                            bytes 8..16  epoch of the ring's view
//! packet    byte 4 flags (1 safe, 2 recovered), byte 5 origin; bytes 16..24 number; then the payload
//! token     byte 4 flags (1 recovery goes on), byte 5 whose aru, bytes 6..8 requests;
//!           bytes 16..24 the token's own number, 24..32 seq, 32..40 aru, 40..44 packets of the last rotation (fcc),
//!           44..48 backlog; then the requested numbers, eight bytes each
//! commit    byte 4 entries; bytes 16..24 the token's own number, 24..32 members, 32..40 the rest of the view's id;
//!           then the entries, in the order of the ring, 48 bytes each: epoch and proposer of the old ring (8 + 1),
//!           filled (1), 0 (6), aru (8), high (8), safe (8), obligation (8)
//! piece     byte 4 its place, byte 5 pieces, bytes 6..8 number of the message; then its bytes
//! ```
//! Little-endian. All of it is sealed by the links' layer, which also knows which life the sender is of. Totem
//! (1995), section 4.1 (token), 4.2.2 (commit token).
//!
//! DEVIATION: no join message. Whom gather aims at, and that all of them agree, is membership's: its announcement is the
//! join message, and "announced by all" the consensus.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::view::View;

use super::store::Packet;
use crate::limits::{RING_PAYLOAD_MAX, RING_REQUESTS_MAX, RING_STORE_MAX};

/// Bytes before a packet's payload.
pub(super) const PACKET_HEAD: usize = 24;
/// Bytes before anything but a packet's.
pub(super) const HEAD: usize = 16;
const TOKEN_HEAD: usize = 48;
const COMMIT_HEAD: usize = 40;
const ENTRY: usize = 48;
const VERSION: u8 = 1;
const SAFE: u8 = 1;
const RECOVERED: u8 = 2;
/// No slot.
pub(super) const NOBODY: u8 = 0xff;

/// Which ring: the epoch and the proposer of its view name it, for no two views have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RingId {
    pub(super) epoch: u64,
    pub(super) proposer: u8,
}

impl RingId {
    pub(super) const fn of(view: &View) -> Self {
        Self { epoch: view.epoch, proposer: view.proposer() }
    }
}

/// The token (section 4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Token {
    /// Rises with each hop: an older one is a repetition.
    pub(super) number: u64,
    /// The highest number of a packet.
    pub(super) seq: u64,
    /// All members have all up to here.
    pub(super) aru: u64,
    /// Who has lowered it; [`NOBODY`] if it is `seq`.
    pub(super) aru_by: u8,
    /// Packets of the last rotation.
    pub(super) fcc: u32,
    /// Packets that wait at all members.
    pub(super) backlog: u32,
    /// Somebody has packets of an old ring yet to be sent.
    pub(super) recovers: bool,
    /// Numbers of packets that somebody misses.
    pub(super) requests: Vec<u64>,
}

/// What a member tells of the ring that it comes from (section 4.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Whether the member has told it.
    pub(super) filled: bool,
    /// The ring; epoch 0 for none.
    pub(super) old: RingId,
    /// It has all up to here.
    pub(super) aru: u64,
    /// The highest that it has.
    pub(super) high: u64,
    /// It knows that all members of that ring have all up to here.
    pub(super) safe: u64,
    /// Whose messages of that ring it has said that it will deliver, a bit for each.
    pub(super) obligation: u64,
}

/// The commit token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) number: u64,
    pub(super) view: View,
    /// One for each member, in the order of their slots.
    pub(super) entries: Vec<Entry>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Packet { ring: RingId, seq: u64, packet: Packet },
    Token { ring: RingId, token: Token },
    Commit(Commit),
    Wake { ring: RingId },
    Lost { ring: RingId },
    Piece { ring: RingId, id: u16, index: u8, count: u8, bytes: Bytes },
}

fn head(kind: u8, from: u8, ring: RingId, own: [u8; 4], room: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(room);
    bytes.put_slice(&[kind, VERSION, from, ring.proposer]);
    bytes.put_slice(&own);
    bytes.put_u64_le(ring.epoch);
    bytes
}

impl Message {
    /// As bytes.
    pub(super) fn to_bytes(&self, from: u8) -> Bytes {
        match self {
            Self::Packet { ring, seq, packet } => packet_bytes(from, *ring, *seq, packet),
            Self::Token { ring, token } => {
                let requests = &token.requests[..token.requests.len().min(RING_REQUESTS_MAX)];
                let [low, high] = (requests.len() as u16).to_le_bytes();
                let own = [u8::from(token.recovers), token.aru_by, low, high];
                let mut bytes = head(2, from, *ring, own, TOKEN_HEAD + 8 * requests.len());
                for word in [token.number, token.seq, token.aru] {
                    bytes.put_u64_le(word);
                }
                bytes.put_u32_le(token.fcc);
                bytes.put_u32_le(token.backlog);
                requests.iter().for_each(|seq| bytes.put_u64_le(*seq));
                bytes.freeze()
            }
            Self::Commit(commit) => {
                let own = [commit.entries.len() as u8, 0, 0, 0];
                let room = COMMIT_HEAD + ENTRY * commit.entries.len();
                let mut bytes = head(3, from, RingId::of(&commit.view), own, room);
                for word in [commit.number, commit.view.members, commit.view.rest] {
                    bytes.put_u64_le(word);
                }
                for entry in &commit.entries {
                    bytes.put_u64_le(entry.old.epoch);
                    bytes.put_slice(&[entry.old.proposer, u8::from(entry.filled), 0, 0, 0, 0, 0, 0]);
                    for word in [entry.aru, entry.high, entry.safe, entry.obligation] {
                        bytes.put_u64_le(word);
                    }
                }
                bytes.freeze()
            }
            Self::Wake { ring } => head(4, from, *ring, [0; 4], HEAD).freeze(),
            Self::Lost { ring } => head(5, from, *ring, [0; 4], HEAD).freeze(),
            Self::Piece { ring, id, index, count, bytes: piece } => {
                let [low, high] = id.to_le_bytes();
                let mut bytes = head(6, from, *ring, [*index, *count, low, high], HEAD + piece.len());
                bytes.put_slice(piece);
                bytes.freeze()
            }
        }
    }

    /// From bytes, with the slot of whoever sent them; none if they are not exactly a message.
    pub(super) fn from_bytes(mut bytes: Bytes) -> Option<(u8, Self)> {
        let [kind, VERSION, from, proposer, a, b, c, d] = *bytes.first_chunk::<8>()? else { return None };
        if usize::from(from) >= NODES_MAX || bytes.len() < HEAD {
            return None;
        }
        bytes.advance(8);
        let ring = RingId { epoch: bytes.get_u64_le(), proposer };
        let message = match kind {
            1 => packet(ring, a, b, bytes)?,
            2 => token(ring, a, b, u16::from_le_bytes([c, d]), bytes)?,
            3 => commit(ring, a, bytes)?,
            4 if bytes.is_empty() => Self::Wake { ring },
            5 if bytes.is_empty() => Self::Lost { ring },
            6 => Self::Piece { ring, id: u16::from_le_bytes([c, d]), index: a, count: b, bytes },
            _ => return None,
        };
        Some((from, message))
    }
}

/// A packet as bytes; `from` sends it, who may be another than its origin.
pub(super) fn packet_bytes(from: u8, ring: RingId, seq: u64, packet: &Packet) -> Bytes {
    let flags = if packet.safe { SAFE } else { 0 } | if packet.recovered { RECOVERED } else { 0 };
    let mut bytes = head(1, from, ring, [flags, packet.origin, 0, 0], PACKET_HEAD + packet.payload.len());
    bytes.put_u64_le(seq);
    bytes.put_slice(&packet.payload);
    bytes.freeze()
}

fn packet(ring: RingId, flags: u8, origin: u8, mut bytes: Bytes) -> Option<Message> {
    let is_good = flags & !(SAFE | RECOVERED) == 0 && usize::from(origin) < NODES_MAX;
    if !is_good || bytes.len() < 8 || bytes.len() - 8 > RING_PAYLOAD_MAX {
        return None;
    }
    let seq = bytes.get_u64_le();
    let (safe, recovered) = (flags & SAFE != 0, flags & RECOVERED != 0);
    Some(Message::Packet { ring, seq, packet: Packet { origin, safe, recovered, payload: bytes } })
}

fn token(ring: RingId, flags: u8, aru_by: u8, requests: u16, mut bytes: Bytes) -> Option<Message> {
    let requests = usize::from(requests);
    if flags > 1 || requests > RING_REQUESTS_MAX || bytes.len() != TOKEN_HEAD - HEAD + 8 * requests {
        return None;
    }
    let (number, seq, aru) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
    let (fcc, backlog) = (bytes.get_u32_le(), bytes.get_u32_le());
    let requests = (0..requests).map(|_| bytes.get_u64_le()).collect();
    (aru <= seq).then_some(Message::Token {
        ring,
        token: Token { number, seq, aru, aru_by, fcc, backlog, recovers: flags == 1, requests },
    })
}

fn commit(ring: RingId, entries: u8, mut bytes: Bytes) -> Option<Message> {
    if bytes.len() != COMMIT_HEAD - HEAD + ENTRY * usize::from(entries) {
        return None;
    }
    let (number, members, rest) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
    let view = View { epoch: ring.epoch, members, rest };
    if view.proposer() != ring.proposer || members.count_ones() != u32::from(entries) || entries == 0 {
        return None;
    }
    let mut all = Vec::with_capacity(usize::from(entries));
    for _ in 0..entries {
        let epoch = bytes.get_u64_le();
        let [proposer, filled, 0, 0, 0, 0, 0, 0] = bytes.split_to(8)[..] else { return None };
        let (aru, high, safe) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
        let obligation = bytes.get_u64_le();
        // Nobody keeps more than so many packets above what all have.
        if filled > 1 || aru > high || safe > aru || high - safe > RING_STORE_MAX {
            return None;
        }
        all.push(Entry { filled: filled == 1, old: RingId { epoch, proposer }, aru, high, safe, obligation });
    }
    Some(Message::Commit(Commit { number, view, entries: all }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring() -> impl Strategy<Value = RingId> {
        (any::<u64>(), any::<u8>()).prop_map(|(epoch, proposer)| RingId { epoch, proposer })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let above = 0..=RING_STORE_MAX / 2;
        (any::<bool>(), ring(), 0..u64::MAX / 2, above.clone(), above, any::<u64>()).prop_map(
            |(filled, old, safe, more, most, obligation)| Entry {
                filled,
                old,
                safe,
                aru: safe + more,
                high: safe + more + most,
                obligation,
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        let packet = (
            ring(),
            any::<u64>(),
            0u8..64,
            any::<[bool; 2]>(),
            proptest::collection::vec(any::<u8>(), 0..2000),
        )
            .prop_map(|(ring, seq, origin, [safe, recovered], payload)| Message::Packet {
                ring,
                seq,
                packet: Packet { origin, safe, recovered, payload: payload.into() },
            });
        let token = (
            ring(),
            any::<[u64; 3]>(),
            any::<(u8, u32, u32, bool)>(),
            proptest::collection::vec(any::<u64>(), 0..RING_REQUESTS_MAX),
        )
            .prop_map(|(ring, mut of, (aru_by, fcc, backlog, recovers), requests)| {
                of[1..].sort_unstable();
                let [number, aru, seq] = of;
                Message::Token {
                    ring,
                    token: Token { number, seq, aru, aru_by, fcc, backlog, recovers, requests },
                }
            });
        let commit = (1u64.., 0u8..64, 1u64.., proptest::collection::vec(entry(), 64), any::<u64>())
            .prop_map(|(epoch, proposer, members, mut entries, number)| {
                entries.truncate(members.count_ones() as usize);
                Message::Commit(Commit { number, view: View::new(epoch, proposer, members, 5, 1), entries })
            });
        let wake = ring().prop_map(|ring| Message::Wake { ring });
        let lost = ring().prop_map(|ring| Message::Lost { ring });
        let piece = (ring(), any::<(u16, u8, u8)>(), proptest::collection::vec(any::<u8>(), 0..50)).prop_map(
            |(ring, (id, index, count), bytes)| Message::Piece {
                ring,
                id,
                index,
                count,
                bytes: bytes.into(),
            },
        );
        prop_oneof![packet, token, commit, wake, lost, piece]
    }

    proptest! {
        #[test]
        fn what_is_said_is_read(message in message(), from in 0u8..64) {
            prop_assert_eq!(Message::from_bytes(message.to_bytes(from)), Some((from, message)));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::from_bytes(bytes.into());
        }

        #[test]
        fn what_is_cut_short_is_no_message(message in message(), cut in 1usize..40) {
            let bytes = message.to_bytes(1);
            let end = bytes.len().saturating_sub(cut);
            let read = Message::from_bytes(bytes.slice(..end));
            // A packet's payload has no length of its own: the links' layer has sealed the whole.
            let is_packet = matches!(message, Message::Packet { .. } | Message::Piece { .. });
            prop_assert!(read.is_none() || is_packet, "{:?}", read);
        }
    }
}
