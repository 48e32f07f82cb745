//! One conversation with the daemon, without its socket: what is to be written, and what has come of what was read.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{self, Answer, Code, Member, NAME_MAX, PIECE_MAX, Request, VERSION, kind};
use crate::{Error, Event, MESSAGE_MAX};

/// Groups with their members.
pub(crate) type Listing = Vec<(Bytes, Vec<Member>)>;

/// An answer to what waits for one.
#[derive(Debug)]
pub(crate) enum Reply {
    Welcome(Member),
    Done,
    Refused(Code, String),
    Listing(Listing),
}

#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
    pub(crate) events: VecDeque<Event>,
    replies: VecDeque<Reply>,
    /// Messages that are not whole yet; none of one that became too long.
    parts: BTreeMap<(Bytes, Member), Option<BytesMut>>,
    pub(crate) message_max: usize,
    /// What the daemon said last, should it hang up.
    last_words: String,
}

impl Talk {
    pub(crate) fn new() -> Self {
        let mut output = BytesMut::new();
        Request::Hello { version: VERSION }.put(&mut output);
        Self {
            input: BytesMut::new(),
            output,
            events: VecDeque::new(),
            replies: VecDeque::new(),
            parts: BTreeMap::new(),
            message_max: MESSAGE_MAX,
            last_words: String::new(),
        }
    }

    /// A join or a leave.
    pub(crate) fn ask(&mut self, group: &[u8], joins: bool) -> Result<(), Error> {
        let group = Bytes::copy_from_slice(name(group)?);
        let request = if joins { Request::Join { group } } else { Request::Leave { group } };
        request.put(&mut self.output);
        Ok(())
    }

    pub(crate) fn ask_list(&mut self) {
        Request::List.put(&mut self.output);
    }

    /// A message, in as many pieces as it takes.
    pub(crate) fn send(&mut self, group: &[u8], message: &[u8]) -> Result<(), Error> {
        let group = name(group)?;
        let mut pieces = message.chunks(PIECE_MAX).peekable();
        if pieces.peek().is_none() {
            wire::put_send(&mut self.output, group, false, 0);
        }
        while let Some(piece) = pieces.next() {
            wire::put_send(&mut self.output, group, pieces.peek().is_some(), piece.len());
            self.output.put_slice(piece);
        }
        Ok(())
    }

    /// Takes in what has been read.
    pub(crate) fn take(&mut self) -> Result<(), Error> {
        while let Some(frame) = wire::next(&mut self.input).map_err(|_| Error::Protocol)? {
            match Answer::read(frame).ok_or(Error::Protocol)? {
                Answer::Welcome { version: VERSION, own } => self.replies.push_back(Reply::Welcome(own)),
                Answer::Welcome { .. } => return Err(Error::Protocol),
                Answer::Done { .. } => self.replies.push_back(Reply::Done),
                Answer::Refused { of: kind::SEND, code, text } => {
                    self.events.push_back(Event::NotSent { code, text });
                }
                Answer::Refused { code, text, .. } => {
                    self.last_words = format!(": {text}");
                    self.replies.push_back(Reply::Refused(code, text));
                }
                Answer::Listing { groups } => self.replies.push_back(Reply::Listing(groups)),
                Answer::Configuration { group, members, left, joined } => {
                    // What they did not finish nobody will.
                    self.parts.retain(|(of, member), _| *of != group || members.contains(member));
                    self.events.push_back(Event::Configuration { group, members, left, joined });
                }
                Answer::Message { group, from, more, bytes } => self.message(group, from, more, bytes),
            }
        }
        Ok(())
    }

    fn message(&mut self, group: Bytes, from: Member, more: bool, bytes: Bytes) {
        let key = (group, from);
        if !more && !self.parts.contains_key(&key) {
            let (group, from) = key;
            self.events.push_back(Event::Message { group, from, bytes });
            return;
        }
        let max = self.message_max;
        let part = self.parts.entry(key.clone()).or_insert_with(|| Some(BytesMut::new()));
        if part.as_ref().is_some_and(|part| part.len() + bytes.len() > max) {
            *part = None;
        }
        if let Some(part) = part {
            part.put_slice(&bytes);
        }
        if !more && let Some(Some(whole)) = self.parts.remove(&key) {
            let (group, from) = key;
            self.events.push_back(Event::Message { group, from, bytes: whole.freeze() });
        }
    }

    pub(crate) fn reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    pub(crate) fn hung_up(&self) -> Error {
        Error::HungUp(self.last_words.clone())
    }
}

/// What a reply means to who only wants it done.
pub(crate) fn done(reply: Reply) -> Result<(), Error> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Refused(code, text) => Err(Error::Refused { code, text }),
        Reply::Welcome(_) | Reply::Listing(_) => Err(Error::Protocol),
    }
}

/// Who the daemon says that we are.
pub(crate) fn welcomed(reply: Reply) -> Result<Member, Error> {
    match reply {
        Reply::Welcome(own) => Ok(own),
        Reply::Refused(code, text) => Err(Error::Refused { code, text }),
        Reply::Done | Reply::Listing(_) => Err(Error::Protocol),
    }
}

/// What a list gave.
pub(crate) fn listed(reply: Reply) -> Result<Listing, Error> {
    match reply {
        Reply::Listing(groups) => Ok(groups),
        Reply::Refused(code, text) => Err(Error::Refused { code, text }),
        Reply::Done | Reply::Welcome(_) => Err(Error::Protocol),
    }
}

fn name(group: &[u8]) -> Result<&[u8], Error> {
    if (1..=NAME_MAX).contains(&group.len()) { Ok(group) } else { Err(Error::Name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Member = Member { node: 1, pid: 7 };

    fn pieces(talk: &mut Talk, lengths: &[usize]) {
        for (at, length) in lengths.iter().enumerate() {
            let more = at + 1 < lengths.len();
            wire::put_message(&mut talk.input, b"a", FROM, more, *length);
            talk.input.put_bytes(at as u8, *length);
        }
        talk.take().expect("frames");
    }

    #[test]
    fn pieces_are_one_message() {
        let mut talk = Talk::new();
        pieces(&mut talk, &[3, 2]);
        let whole =
            Event::Message { group: "a".into(), from: FROM, bytes: Bytes::from_static(&[0, 0, 0, 1, 1]) };
        assert_eq!(talk.events.pop_front(), Some(whole));
        pieces(&mut talk, &[0]);
        assert!(matches!(talk.events.pop_front(), Some(Event::Message { bytes, .. }) if bytes.is_empty()));
    }

    #[test]
    fn what_is_too_long_is_left_out_whole() {
        let mut talk = Talk::new();
        talk.message_max = 10;
        pieces(&mut talk, &[8, 8, 1]);
        assert_eq!(talk.events.pop_front(), None);
        pieces(&mut talk, &[8]);
        assert!(matches!(talk.events.pop_front(), Some(Event::Message { bytes, .. }) if bytes.len() == 8));
    }

    #[test]
    fn whoever_leaves_takes_the_pieces_along() {
        let mut talk = Talk::new();
        wire::put_message(&mut talk.input, b"a", FROM, true, 1);
        talk.input.put_u8(1);
        let gone = Answer::Configuration {
            group: "a".into(),
            members: Vec::new(),
            left: vec![(FROM, crate::Reason::NodeDown)],
            joined: Vec::new(),
        };
        gone.put(&mut talk.input);
        pieces(&mut talk, &[2]);
        assert_eq!(talk.events.len(), 2);
        assert!(matches!(talk.events.pop_back(), Some(Event::Message { bytes, .. }) if bytes.len() == 2));
    }
}
