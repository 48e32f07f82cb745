//! The client that blocks.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Buf;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::talk::{Listing, Reply, Talk, done, listed, welcomed};
use crate::{Error, Event, Member};

/// Bytes that one read takes at the most.
const READ_BYTES: usize = 256 << 10;
/// More than this is not kept to be written: whoever sends waits for the daemon.
const WRITE_BYTES: usize = 4 << 20;

/// A connection to the daemon of this node.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    talk: Talk,
    own: Member,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects, and learns who it is.
    ///
    /// # Errors
    /// Nobody listens there, or another version.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(path)
            .and_then(|stream| stream.set_nonblocking(true).map(|()| stream))
            .map_err(|source| Error::Connect { path: path.display().to_string(), source })?;
        let own = Member { node: 0, pid: 0 };
        let mut client = Self { stream, talk: Talk::new(), own, buffer: vec![0; READ_BYTES] };
        client.own = welcomed(client.reply(1)?)?;
        Ok(client)
    }

    /// Who this program is, in groups.
    pub const fn own(&self) -> Member {
        self.own
    }

    /// Longer messages are left out.
    pub const fn set_message_max(&mut self, bytes: usize) {
        self.talk.message_max = bytes;
    }

    /// Joins a group. That it is in is told by the [`Event::Configuration`] that has it among the members.
    ///
    /// # Errors
    /// It is in, the group is full, or the daemon takes no part.
    pub fn join(&mut self, group: &[u8]) -> Result<(), Error> {
        let asked = self.talk.ask(group, true)?;
        done(self.reply(asked)?)
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// It is not in.
    pub fn leave(&mut self, group: &[u8]) -> Result<(), Error> {
        let asked = self.talk.ask(group, false)?;
        done(self.reply(asked)?)
    }

    /// Sends to all members of a group, itself among them. It comes back when the daemon has it, or is about to; while the
    /// ring is full it waits, and takes in what comes.
    ///
    /// # Errors
    /// The daemon has gone. That it refuses the message is told as [`Event::NotSent`].
    pub fn send(&mut self, group: &[u8], message: &[u8]) -> Result<(), Error> {
        self.talk.send(group, message)?;
        self.write()?;
        while self.talk.output.len() > WRITE_BYTES {
            self.wait(None)?;
        }
        Ok(())
    }

    /// Waits until the daemon has all that was sent.
    ///
    /// # Errors
    /// The daemon has gone.
    pub fn flush(&mut self) -> Result<(), Error> {
        while !self.talk.output.is_empty() {
            self.wait(None)?;
        }
        Ok(())
    }

    /// All groups that there are.
    ///
    /// # Errors
    /// The daemon has gone.
    pub fn list(&mut self) -> Result<Listing, Error> {
        let asked = self.talk.ask_list();
        listed(self.reply(asked)?)
    }

    /// The next thing that this program is told; none if there is none in time. It waits for ever without a time.
    ///
    /// # Errors
    /// The daemon has gone.
    pub fn next(&mut self, patience: Option<Duration>) -> Result<Option<Event>, Error> {
        let end = patience.and_then(|patience| Instant::now().checked_add(patience));
        loop {
            if let Some(event) = self.talk.events.pop_front() {
                return Ok(Some(event));
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if !self.wait(left)? && left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
        }
    }

    fn reply(&mut self, asked: u64) -> Result<Reply, Error> {
        loop {
            if let Some(reply) = self.talk.reply(asked) {
                return Ok(reply);
            }
            self.wait(None)?;
        }
    }

    /// Writes what is to be written, and takes in what comes, once something can be done. False if nothing could in time.
    fn wait(&mut self, patience: Option<Duration>) -> Result<bool, Error> {
        self.write()?;
        if self.read()? {
            return Ok(true);
        }
        let writes = !self.talk.output.is_empty();
        let flags = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match poll(&mut [PollFd::new(&self.stream, flags)], timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        self.write()?;
        self.read()
    }

    fn write(&mut self) -> Result<(), Error> {
        while !self.talk.output.is_empty() {
            match self.stream.write(&self.talk.output) {
                Ok(written) => self.talk.output.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    // It may have said why.
                    while self.read()? {}
                    return Err(self.talk.hung_up());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether something came.
    fn read(&mut self) -> Result<bool, Error> {
        match self.stream.read(&mut self.buffer) {
            Ok(0) => Err(self.talk.hung_up()),
            Ok(length) => {
                self.talk.input.extend_from_slice(&self.buffer[..length]);
                self.talk.take()?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(self.talk.hung_up()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Client {
    /// Readable when [`Client::next`] may have something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
