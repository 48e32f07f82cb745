//! One conversation with the daemon, without its socket: what is to be written, and what has come of what was read.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{self, Answer, Code, Member, NAME_MAX, PIECE_MAX, Piece, Request, VERSION, kind};
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
    /// What has been asked, and what answered, of what is.
    asked: u64,
    answered: u64,
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
            // The hello.
            asked: 1,
            answered: 0,
            parts: BTreeMap::new(),
            message_max: MESSAGE_MAX,
            last_words: String::new(),
        }
    }

    /// A join or a leave; gives its number.
    pub(crate) fn ask(&mut self, group: &[u8], joins: bool) -> Result<u64, Error> {
        let group = Bytes::copy_from_slice(name(group)?);
        let request = if joins { Request::Join { group } } else { Request::Leave { group } };
        request.put(&mut self.output);
        self.asked += 1;
        Ok(self.asked)
    }

    pub(crate) fn ask_list(&mut self) -> u64 {
        Request::List.put(&mut self.output);
        self.asked += 1;
        self.asked
    }

    /// A message, in as many pieces as it takes.
    pub(crate) fn send(&mut self, group: &[u8], message: &[u8]) -> Result<(), Error> {
        let group = name(group)?;
        let mut pieces = message.chunks(PIECE_MAX).peekable();
        if pieces.peek().is_none() {
            wire::put_send(&mut self.output, group, Piece::default(), 0);
        }
        let mut goes_on = false;
        while let Some(bytes) = pieces.next() {
            let piece = Piece { goes_on, more: pieces.peek().is_some() };
            wire::put_send(&mut self.output, group, piece, bytes.len());
            self.output.put_slice(bytes);
            goes_on = true;
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
                Answer::Message { group, from, piece, bytes } => self.message(group, from, piece, bytes),
            }
        }
        Ok(())
    }

    fn message(&mut self, group: Bytes, from: Member, piece: Piece, bytes: Bytes) {
        if piece == Piece::default() {
            self.events.push_back(Event::Message { group, from, bytes });
            return;
        }
        let key = (group, from);
        if piece.goes_on {
            // Of a message whose beginning was before this program's time.
            let Some(part) = self.parts.get_mut(&key) else { return };
            if part.as_ref().is_some_and(|part| part.len() + bytes.len() > self.message_max) {
                *part = None;
            }
            if let Some(part) = part {
                part.put_slice(&bytes);
            }
        } else {
            let fits = bytes.len() <= self.message_max;
            self.parts.insert(key.clone(), fits.then(|| BytesMut::from(&bytes[..])));
        }
        if !piece.more
            && let Some(Some(whole)) = self.parts.remove(&key)
        {
            let (group, from) = key;
            self.events.push_back(Event::Message { group, from, bytes: whole.freeze() });
        }
    }

    /// The reply to what was asked as this number; those to what nobody waits for any more are passed over.
    pub(crate) fn reply(&mut self, asked: u64) -> Option<Reply> {
        while let Some(reply) = self.replies.pop_front() {
            self.answered += 1;
            if self.answered == asked {
                return Some(reply);
            }
        }
        None
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
            let piece = Piece { goes_on: at > 0, more: at + 1 < lengths.len() };
            wire::put_message(&mut talk.input, b"a", FROM, piece, *length);
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
        wire::put_message(&mut talk.input, b"a", FROM, Piece { goes_on: false, more: true }, 1);
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

    #[test]
    fn the_end_of_what_was_begun_before_is_no_message() {
        let mut talk = Talk::new();
        for more in [true, false] {
            wire::put_message(&mut talk.input, b"a", FROM, Piece { goes_on: true, more }, 1);
            talk.input.put_u8(1);
        }
        pieces(&mut talk, &[2]);
        assert!(matches!(talk.events.pop_front(), Some(Event::Message { bytes, .. }) if bytes.len() == 2));
        assert!(talk.events.is_empty());
    }

    #[test]
    fn a_reply_to_a_call_that_was_dropped_is_nobodys() {
        let mut talk = Talk::new();
        let dropped = talk.ask(b"a", true).expect("a name");
        let waited = talk.ask_list();
        for answer in [Answer::Done { of: 0 }, Answer::Done { of: 2 }, Answer::Listing { groups: Vec::new() }]
        {
            answer.put(&mut talk.input);
        }
        talk.take().expect("answers");
        assert!(matches!(talk.reply(waited), Some(Reply::Listing(_))));
        assert!(talk.reply(dropped).is_none());
    }
}
