//! What the nodes of a ring tell one another of process groups, each one message of the ring.
//!
//! ```text
//! byte 0   kind: 1 roll, 2 join, 3 leave, 4 mcast        byte 1   version, 1
//! byte 2   of leave: 1 if the process has ended; of mcast: 1 if the next one goes on with it, 2 if it goes on with
//!          the one before; else 0
//! byte 3   bytes of the group's name; of a roll 0
//! join, leave, mcast   bytes 4..8 process number, then the name, then the message
//! roll                 bytes 4..8 places, then each: process number (4), bytes of the name (1), the name
//! ```
//! Little-endian. The sender's slot is the ring's to tell.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Piece;
use crate::limits::{GROUP_NAME_MAX, GROUP_PLACES_MAX};

const VERSION: u8 = 1;
const ROLL: u8 = 1;
const JOIN: u8 = 2;
const LEAVE: u8 = 3;
const MCAST: u8 = 4;
const MORE: u8 = 1;
const GOES_ON: u8 = 2;
const HEAD: usize = 8;

/// A group's name: 1 to [`GROUP_NAME_MAX`] bytes, whatever they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Bytes);

impl Name {
    /// None if it is empty or too long.
    pub fn new(bytes: Bytes) -> Option<Self> {
        (1..=GROUP_NAME_MAX).contains(&bytes.len()).then_some(Self(bytes))
    }

    /// As it came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The processes of a node, by their groups.
pub(super) type Roll = Vec<(Name, u32)>;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Who of a node's processes is where.
    Roll(Roll),
    /// A process comes.
    Join { group: Name, pid: u32 },
    /// A process goes.
    Leave { group: Name, pid: u32, has_ended: bool },
    /// A message to a group.
    Mcast { group: Name, pid: u32, piece: Piece, bytes: Bytes },
}

fn head(kind: u8, flags: u8, group: &Name, pid: u32, room: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(HEAD + group.0.len() + room);
    bytes.put_slice(&[kind, VERSION, flags, group.0.len() as u8]);
    bytes.put_u32_le(pid);
    bytes.put_slice(&group.0);
    bytes
}

/// A message to a group, as bytes.
pub(super) fn mcast(group: &Name, pid: u32, piece: Piece, message: &[u8]) -> Bytes {
    let flags = if piece.more { MORE } else { 0 } | if piece.goes_on { GOES_ON } else { 0 };
    let mut bytes = head(MCAST, flags, group, pid, message.len());
    bytes.put_slice(message);
    bytes.freeze()
}

impl Message {
    /// As bytes.
    pub(super) fn to_bytes(&self) -> Bytes {
        match self {
            Self::Roll(roll) => {
                let room = roll.iter().map(|(group, _)| 5 + group.0.len()).sum::<usize>();
                let mut bytes = BytesMut::with_capacity(HEAD + room);
                bytes.put_slice(&[ROLL, VERSION, 0, 0]);
                bytes.put_u32_le(roll.len() as u32);
                for (group, pid) in roll {
                    bytes.put_u32_le(*pid);
                    bytes.put_u8(group.0.len() as u8);
                    bytes.put_slice(&group.0);
                }
                bytes.freeze()
            }
            Self::Join { group, pid } => head(JOIN, 0, group, *pid, 0).freeze(),
            Self::Leave { group, pid, has_ended } => {
                head(LEAVE, u8::from(*has_ended), group, *pid, 0).freeze()
            }
            Self::Mcast { group, pid, piece, bytes } => mcast(group, *pid, *piece, bytes),
        }
    }

    /// From bytes; none if they are not exactly a message of this version.
    pub(super) fn from_bytes(mut bytes: Bytes) -> Option<Self> {
        let [kind, VERSION, flag, length, ..] = *bytes.first_chunk::<HEAD>()? else { return None };
        bytes.advance(4);
        let number = bytes.get_u32_le();
        if kind == ROLL {
            return (flag == 0 && length == 0).then(|| roll(number, bytes)).flatten().map(Self::Roll);
        }
        let group = name(length, &mut bytes)?;
        match (kind, flag) {
            (JOIN, 0) if bytes.is_empty() => Some(Self::Join { group, pid: number }),
            (LEAVE, 0 | 1) if bytes.is_empty() => {
                Some(Self::Leave { group, pid: number, has_ended: flag == 1 })
            }
            (MCAST, 0..=3) => {
                let piece = Piece { goes_on: flag & GOES_ON != 0, more: flag & MORE != 0 };
                Some(Self::Mcast { group, pid: number, piece, bytes })
            }
            _ => None,
        }
    }
}

fn name(length: u8, bytes: &mut Bytes) -> Option<Name> {
    let length = usize::from(length);
    if length > bytes.len() { None } else { Name::new(bytes.split_to(length)) }
}

fn roll(places: u32, mut bytes: Bytes) -> Option<Roll> {
    let places = usize::try_from(places).ok().filter(|places| *places <= GROUP_PLACES_MAX)?;
    let mut roll = Vec::with_capacity(places);
    for _ in 0..places {
        if bytes.len() < 5 {
            return None;
        }
        let pid = bytes.get_u32_le();
        let length = bytes.get_u8();
        roll.push((name(length, &mut bytes)?, pid));
    }
    bytes.is_empty().then_some(roll)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group() -> impl Strategy<Value = Name> {
        proptest::collection::vec(any::<u8>(), 1..=GROUP_NAME_MAX)
            .prop_filter_map("a name", |bytes| Name::new(bytes.into()))
    }

    fn message() -> impl Strategy<Value = Message> {
        let roll = proptest::collection::vec((group(), any::<u32>()), 0..9).prop_map(Message::Roll);
        let join = (group(), any::<u32>()).prop_map(|(group, pid)| Message::Join { group, pid });
        let leave = (group(), any::<u32>(), any::<bool>())
            .prop_map(|(group, pid, has_ended)| Message::Leave { group, pid, has_ended });
        let bytes = proptest::collection::vec(any::<u8>(), 0..300);
        let mcast = (group(), any::<u32>(), any::<[bool; 2]>(), bytes).prop_map(
            |(group, pid, [goes_on, more], bytes)| {
                let piece = Piece { goes_on, more };
                Message::Mcast { group, pid, piece, bytes: bytes.into() }
            },
        );
        prop_oneof![roll, join, leave, mcast]
    }

    proptest! {
        #[test]
        fn what_is_said_is_read(message in message()) {
            prop_assert_eq!(Message::from_bytes(message.to_bytes()), Some(message));
        }

        #[test]
        fn nothing_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), kind in 0u8..6) {
            let _ = Message::from_bytes(bytes.clone().into());
            if let [first, second, ..] = &mut bytes[..] {
                (*first, *second) = (kind, VERSION);
            }
            let _ = Message::from_bytes(bytes.into());
        }
    }
}
