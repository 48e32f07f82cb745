//! What a program and the daemon say to one another over the socket of process groups: a stream of frames both ways.
//!
//! ```text
//! each frame       bytes of what follows (4), then kind (1), then by kind; little-endian; a name is its length (1) and bytes
//! program says     1 hello: version (1)             2 join: name           3 leave: name
//!                  4 send: flags (1; 1 more follows, 2 it goes on), name, message        5 list
//! daemon says      1 welcome: version (1), node (1), process (4)
//!                  2 done: kind of what was asked (1)
//!                  3 refused: kind (1), code (1), text
//!                  4 configuration: name, members (2), left (2), joined (2), then each member: node (1), process (4),
//!                    and each that left or joined: node (1), process (4), reason (1)
//!                  5 message: flags (1), node (1), process (4), name, message
//!                  6 listing: groups (2), then each: name, members (2), then each: node (1), process (4)
//! ```
//! Hello comes first, and nothing before its welcome. Join, leave and list are answered by done or refused, in their order; a
//! send is answered only if it is refused. Nodes have their ids, from 1 on. A program that sends faster than the ring carries
//! finds its socket full. One that does not read is let go once so much waits for it that the daemon may not keep more.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The version that is spoken.
pub const VERSION: u8 = 1;
/// Bytes of a group's name.
pub const NAME_MAX: usize = 128;
/// Bytes of one piece of a message; a longer message is sent in pieces.
pub const PIECE_MAX: usize = (1 << 20) - 256;
/// The longest frame that either side sends: a listing of all groups may be longer than any message.
pub const FRAME_MAX: usize = 16 << 20;
/// The longest frame of a program.
pub const REQUEST_MAX: usize = PIECE_MAX + 256;
/// Bytes before each frame.
pub const LENGTH: usize = 4;
const MORE: u8 = 1;
const GOES_ON: u8 = 2;

/// Which part of a message a piece is; neither is a whole one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// It goes on with the one before of the same member: who did not get that cannot use it.
    pub goes_on: bool,
    /// The next one of the same member goes on with it.
    pub more: bool,
}

impl Piece {
    const fn flags(self) -> u8 {
        (if self.more { MORE } else { 0 }) | (if self.goes_on { GOES_ON } else { 0 })
    }

    fn take(bytes: &mut Bytes) -> Option<Self> {
        let flags = bytes.try_get_u8().ok().filter(|flags| *flags & !(MORE | GOES_ON) == 0)?;
        Some(Self { goes_on: flags & GOES_ON != 0, more: flags & MORE != 0 })
    }
}

/// A process in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its node's id in the configuration, from 1 on.
    pub node: u8,
    /// Its process number there, or a number of its own where one process is connected more than once.
    pub pid: u32,
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.node, self.pid)
    }
}

/// Why somebody comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It asked to join.
    Join,
    /// It asked to leave.
    Leave,
    /// Its node has gone.
    NodeDown,
    /// Its node has come.
    NodeUp,
    /// It has ended.
    ProcessDown,
}

impl Reason {
    const ALL: [Self; 5] = [Self::Join, Self::Leave, Self::NodeDown, Self::NodeUp, Self::ProcessDown];

    /// As texts have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::NodeDown => "node_down",
            Self::NodeUp => "node_up",
            Self::ProcessDown => "process_down",
        }
    }
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Not a frame of this protocol, or not of this version: the daemon hangs up.
    Protocol,
    /// The process is in the group already.
    Exists,
    /// The process is not in the group.
    NotMember,
    /// There is no room in the group, or on this node.
    Full,
    /// Longer than may be.
    TooLong,
    /// The daemon does not take part in the cluster.
    Apart,
}

impl Code {
    const ALL: [Self; 6] =
        [Self::Protocol, Self::Exists, Self::NotMember, Self::Full, Self::TooLong, Self::Apart];
}

/// What a program says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The first thing.
    Hello {
        /// What it speaks.
        version: u8,
    },
    /// It wants into a group.
    Join {
        /// Which.
        group: Bytes,
    },
    /// It wants out.
    Leave {
        /// Of which.
        group: Bytes,
    },
    /// A message to a group that it is in.
    Send {
        /// Which.
        group: Bytes,
        /// Whether it is all of a message.
        piece: Piece,
        /// The piece.
        bytes: Bytes,
    },
    /// Which groups there are.
    List,
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a hello.
    Welcome {
        /// What it speaks.
        version: u8,
        /// Who the program is, in groups.
        own: Member,
    },
    /// What was asked is on its way.
    Done {
        /// The kind of what was asked.
        of: u8,
    },
    /// It is not.
    Refused {
        /// The kind of what was asked.
        of: u8,
        /// Why.
        code: Code,
        /// The same in words.
        text: String,
    },
    /// Who is in a group from here on.
    Configuration {
        /// Which.
        group: Bytes,
        /// All.
        members: Vec<Member>,
        /// Who went.
        left: Vec<(Member, Reason)>,
        /// Who came.
        joined: Vec<(Member, Reason)>,
    },
    /// A message.
    Message {
        /// To which group.
        group: Bytes,
        /// Whose.
        from: Member,
        /// Whether it is all of a message.
        piece: Piece,
        /// The piece.
        bytes: Bytes,
    },
    /// To a list.
    Listing {
        /// Groups and their members.
        groups: Vec<(Bytes, Vec<Member>)>,
    },
}

/// Kinds of requests, by their numbers.
pub mod kind {
    /// Hello.
    pub const HELLO: u8 = 1;
    /// Join.
    pub const JOIN: u8 = 2;
    /// Leave.
    pub const LEAVE: u8 = 3;
    /// Send.
    pub const SEND: u8 = 4;
    /// List.
    pub const LIST: u8 = 5;
}

/// The length that the next frame has, if so much is there; an error is one that no frame has.
///
/// # Errors
/// It is 0 or above [`FRAME_MAX`].
pub fn length(bytes: &[u8]) -> Result<Option<usize>, usize> {
    let Some(length) = bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize) else {
        return Ok(None);
    };
    if length == 0 || length > FRAME_MAX { Err(length) } else { Ok(Some(length)) }
}

/// Takes the next whole frame out of what has come, without its length.
///
/// # Errors
/// As [`length`].
pub fn next(bytes: &mut BytesMut) -> Result<Option<Bytes>, usize> {
    match length(bytes)? {
        Some(length) if bytes.len() >= LENGTH + length => {
            bytes.advance(LENGTH);
            Ok(Some(bytes.split_to(length).freeze()))
        }
        _ => Ok(None),
    }
}

/// Begins a frame; its length is written by [`end`].
fn begin(bytes: &mut BytesMut, kind: u8) -> usize {
    let at = bytes.len();
    bytes.put_u32_le(0);
    bytes.put_u8(kind);
    at
}

fn end(bytes: &mut BytesMut, at: usize, follows: usize) {
    let length = (bytes.len() - at - LENGTH + follows) as u32;
    bytes[at..at + LENGTH].copy_from_slice(&length.to_le_bytes());
}

fn put_name(bytes: &mut BytesMut, name: &[u8]) {
    let name = &name[..name.len().min(NAME_MAX)];
    bytes.put_u8(name.len() as u8);
    bytes.put_slice(name);
}

fn take_name(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(bytes.try_get_u8().ok()?);
    ((1..=NAME_MAX).contains(&length) && length <= bytes.len()).then(|| bytes.split_to(length))
}

fn put_member(bytes: &mut BytesMut, member: Member) {
    bytes.put_u8(member.node);
    bytes.put_u32_le(member.pid);
}

fn take_member(bytes: &mut Bytes) -> Option<Member> {
    Some(Member { node: bytes.try_get_u8().ok()?, pid: bytes.try_get_u32_le().ok()? })
}

fn take_many<T>(count: u16, bytes: &mut Bytes, take: impl Fn(&mut Bytes) -> Option<T>) -> Option<Vec<T>> {
    (0..count).map(|_| take(bytes)).collect()
}

fn put_change(bytes: &mut BytesMut, (member, reason): (Member, Reason)) {
    put_member(bytes, member);
    bytes.put_u8(reason as u8 + 1);
}

fn take_change(bytes: &mut Bytes) -> Option<(Member, Reason)> {
    let member = take_member(bytes)?;
    let reason = usize::from(bytes.try_get_u8().ok()?).checked_sub(1)?;
    Some((member, *Reason::ALL.get(reason)?))
}

/// The frame of a send up to its message, which follows.
pub fn put_send(bytes: &mut BytesMut, group: &[u8], piece: Piece, message: usize) {
    let at = begin(bytes, kind::SEND);
    bytes.put_u8(piece.flags());
    put_name(bytes, group);
    end(bytes, at, message);
}

/// The frame of a message up to its bytes, which follow.
pub fn put_message(bytes: &mut BytesMut, group: &[u8], from: Member, piece: Piece, message: usize) {
    let at = begin(bytes, 5);
    bytes.put_u8(piece.flags());
    put_member(bytes, from);
    put_name(bytes, group);
    end(bytes, at, message);
}

impl Request {
    /// Writes the frame.
    pub fn put(&self, bytes: &mut BytesMut) {
        let kind = match self {
            Self::Hello { .. } => kind::HELLO,
            Self::Join { .. } => kind::JOIN,
            Self::Leave { .. } => kind::LEAVE,
            Self::List => kind::LIST,
            Self::Send { group, piece, bytes: message } => {
                put_send(bytes, group, *piece, message.len());
                bytes.put_slice(message);
                return;
            }
        };
        let at = begin(bytes, kind);
        match self {
            Self::Hello { version } => bytes.put_u8(*version),
            Self::Join { group } | Self::Leave { group } => put_name(bytes, group),
            Self::Send { .. } | Self::List => {}
        }
        end(bytes, at, 0);
    }

    /// Reads a frame; none if it is not exactly one.
    pub fn read(mut bytes: Bytes) -> Option<Self> {
        let request = match bytes.try_get_u8().ok()? {
            kind::HELLO => Self::Hello { version: bytes.try_get_u8().ok()? },
            kind::JOIN => Self::Join { group: take_name(&mut bytes)? },
            kind::LEAVE => Self::Leave { group: take_name(&mut bytes)? },
            kind::SEND => {
                let piece = Piece::take(&mut bytes)?;
                let group = take_name(&mut bytes)?;
                return Some(Self::Send { group, piece, bytes });
            }
            kind::LIST => Self::List,
            _ => return None,
        };
        bytes.is_empty().then_some(request)
    }
}

impl Answer {
    /// Writes the frame.
    pub fn put(&self, bytes: &mut BytesMut) {
        let at = bytes.len();
        match self {
            Self::Welcome { version, own } => {
                begin(bytes, 1);
                bytes.put_u8(*version);
                put_member(bytes, *own);
            }
            Self::Done { of } => {
                begin(bytes, 2);
                bytes.put_u8(*of);
            }
            Self::Refused { of, code, text } => {
                begin(bytes, 3);
                bytes.put_slice(&[*of, *code as u8 + 1]);
                bytes.put_slice(text.as_bytes());
            }
            Self::Configuration { group, members, left, joined } => {
                begin(bytes, 4);
                put_name(bytes, group);
                for length in [members.len(), left.len(), joined.len()] {
                    bytes.put_u16_le(length as u16);
                }
                members.iter().for_each(|member| put_member(bytes, *member));
                left.iter().chain(joined).for_each(|change| put_change(bytes, *change));
            }
            Self::Message { group, from, piece, bytes: message } => {
                put_message(bytes, group, *from, *piece, message.len());
                bytes.put_slice(message);
                return;
            }
            Self::Listing { groups } => {
                begin(bytes, 6);
                bytes.put_u16_le(groups.len() as u16);
                for (group, members) in groups {
                    put_name(bytes, group);
                    bytes.put_u16_le(members.len() as u16);
                    members.iter().for_each(|member| put_member(bytes, *member));
                }
            }
        }
        end(bytes, at, 0);
    }

    /// Reads a frame; none if it is not exactly one.
    pub fn read(mut bytes: Bytes) -> Option<Self> {
        let answer = match bytes.try_get_u8().ok()? {
            1 => Self::Welcome { version: bytes.try_get_u8().ok()?, own: take_member(&mut bytes)? },
            2 => Self::Done { of: bytes.try_get_u8().ok()? },
            3 => {
                let of = bytes.try_get_u8().ok()?;
                let code = usize::from(bytes.try_get_u8().ok()?).checked_sub(1)?;
                let text = String::from_utf8(bytes.to_vec()).ok()?;
                return Some(Self::Refused { of, code: *Code::ALL.get(code)?, text });
            }
            4 => {
                let group = take_name(&mut bytes)?;
                let mut length = || bytes.try_get_u16_le().ok();
                let (members, left, joined) = (length()?, length()?, length()?);
                Self::Configuration {
                    group,
                    members: take_many(members, &mut bytes, take_member)?,
                    left: take_many(left, &mut bytes, take_change)?,
                    joined: take_many(joined, &mut bytes, take_change)?,
                }
            }
            5 => {
                let piece = Piece::take(&mut bytes)?;
                let from = take_member(&mut bytes)?;
                let group = take_name(&mut bytes)?;
                return Some(Self::Message { group, from, piece, bytes });
            }
            6 => {
                let groups = bytes.try_get_u16_le().ok()?;
                let groups = take_many(groups, &mut bytes, |bytes| {
                    let group = take_name(bytes)?;
                    let members = bytes.try_get_u16_le().ok()?;
                    Some((group, take_many(members, bytes, take_member)?))
                })?;
                Self::Listing { groups }
            }
            _ => return None,
        };
        bytes.is_empty().then_some(answer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 1..=NAME_MAX).prop_map(Bytes::from)
    }

    fn text() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
    }

    fn piece() -> impl Strategy<Value = Piece> {
        any::<[bool; 2]>().prop_map(|[goes_on, more]| Piece { goes_on, more })
    }

    fn member() -> impl Strategy<Value = Member> {
        (any::<u8>(), any::<u32>()).prop_map(|(node, pid)| Member { node, pid })
    }

    fn change() -> impl Strategy<Value = (Member, Reason)> {
        (member(), 0usize..5).prop_map(|(member, reason)| (member, Reason::ALL[reason]))
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            any::<u8>().prop_map(|version| Request::Hello { version }),
            name().prop_map(|group| Request::Join { group }),
            name().prop_map(|group| Request::Leave { group }),
            (name(), piece(), text()).prop_map(|(group, piece, bytes)| Request::Send { group, piece, bytes }),
            Just(Request::List),
        ]
    }

    fn answer() -> impl Strategy<Value = Answer> {
        let many = || proptest::collection::vec(member(), 0..9);
        let changes = || proptest::collection::vec(change(), 0..9);
        prop_oneof![
            (any::<u8>(), member()).prop_map(|(version, own)| Answer::Welcome { version, own }),
            any::<u8>().prop_map(|of| Answer::Done { of }),
            (any::<u8>(), 0usize..6, "[a-z ]{0,40}").prop_map(|(of, code, text)| Answer::Refused {
                of,
                code: Code::ALL[code],
                text
            }),
            (name(), many(), changes(), changes()).prop_map(|(group, members, left, joined)| {
                Answer::Configuration { group, members, left, joined }
            }),
            (name(), member(), piece(), text()).prop_map(|(group, from, piece, bytes)| Answer::Message {
                group,
                from,
                piece,
                bytes
            }),
            proptest::collection::vec((name(), many()), 0..5).prop_map(|groups| Answer::Listing { groups }),
        ]
    }

    proptest! {
        #[test]
        fn requests_are_read_as_they_were_said(requests in proptest::collection::vec(request(), 0..5)) {
            let mut bytes = BytesMut::new();
            requests.iter().for_each(|request| request.put(&mut bytes));
            for request in requests {
                let frame = next(&mut bytes).expect("a length").expect("a frame");
                prop_assert_eq!(Request::read(frame), Some(request));
            }
            prop_assert_eq!(next(&mut bytes), Ok(None));
        }

        #[test]
        fn answers_are_read_as_they_were_said(answers in proptest::collection::vec(answer(), 0..5)) {
            let mut bytes = BytesMut::new();
            answers.iter().for_each(|answer| answer.put(&mut bytes));
            for answer in answers {
                let frame = next(&mut bytes).expect("a length").expect("a frame");
                prop_assert_eq!(Answer::read(frame), Some(answer));
            }
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stream = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = next(&mut stream) {
                let _ = (Request::read(frame.clone()), Answer::read(frame));
            }
            let _ = (Request::read(bytes.clone().into()), Answer::read(bytes.into()));
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_told() {
        assert_eq!(length(&[0, 0, 0, 0]), Err(0));
        assert_eq!(length(&u32::MAX.to_le_bytes()), Err(u32::MAX as usize));
        assert_eq!(length(&[1, 0, 0]), Ok(None));
    }
}
