//! The client for tokio.

use std::path::Path;

use bytes::Buf;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::talk::{Listing, Reply, Talk, done, listed, welcomed};
use crate::{Error, Event, Member};

/// Room for what one read takes.
const READ_BYTES: usize = 256 << 10;
/// More than this is not kept to be written: whoever sends waits for the daemon.
const WRITE_BYTES: usize = 4 << 20;

/// A connection to the daemon of this node. A call that is dropped before its end loses nothing but its own answer.
#[derive(Debug)]
pub struct AsyncClient {
    stream: UnixStream,
    talk: Talk,
    own: Member,
}

impl AsyncClient {
    /// As [`Client::connect`](crate::Client::connect).
    ///
    /// # Errors
    /// The same.
    pub async fn connect(path: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| Error::Connect { path: path.display().to_string(), source })?;
        let mut client = Self { stream, talk: Talk::new(), own: Member { node: 0, pid: 0 } };
        client.own = welcomed(client.reply(1).await?)?;
        Ok(client)
    }

    /// Who this program is, in groups.
    pub const fn own(&self) -> Member {
        self.own
    }

    /// As [`Client::join`](crate::Client::join).
    ///
    /// # Errors
    /// The same.
    pub async fn join(&mut self, group: &[u8]) -> Result<(), Error> {
        let asked = self.talk.ask(group, true)?;
        done(self.reply(asked).await?)
    }

    /// As [`Client::leave`](crate::Client::leave).
    ///
    /// # Errors
    /// The same.
    pub async fn leave(&mut self, group: &[u8]) -> Result<(), Error> {
        let asked = self.talk.ask(group, false)?;
        done(self.reply(asked).await?)
    }

    /// As [`Client::send`](crate::Client::send).
    ///
    /// # Errors
    /// The same.
    pub async fn send(&mut self, group: &[u8], message: &[u8]) -> Result<(), Error> {
        self.talk.send(group, message)?;
        while self.talk.output.len() > WRITE_BYTES {
            self.turn().await?;
        }
        self.flush().await
    }

    /// Waits until the daemon has all that was sent.
    ///
    /// # Errors
    /// The daemon has gone.
    pub async fn flush(&mut self) -> Result<(), Error> {
        while !self.talk.output.is_empty() {
            self.turn().await?;
        }
        Ok(())
    }

    /// As [`Client::list`](crate::Client::list).
    ///
    /// # Errors
    /// The same.
    pub async fn list(&mut self) -> Result<Listing, Error> {
        let asked = self.talk.ask_list();
        listed(self.reply(asked).await?)
    }

    /// The next thing that this program is told.
    ///
    /// # Errors
    /// The daemon has gone.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.talk.events.pop_front() {
                return Ok(event);
            }
            self.turn().await?;
        }
    }

    async fn reply(&mut self, asked: u64) -> Result<Reply, Error> {
        loop {
            if let Some(reply) = self.talk.reply(asked) {
                return Ok(reply);
            }
            self.turn().await?;
        }
    }

    /// Writes or reads, whichever can be done first.
    async fn turn(&mut self) -> Result<(), Error> {
        let writes = !self.talk.output.is_empty();
        let interest = if writes { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = self.stream.ready(interest).await?;
        if ready.is_readable() {
            // What is ready is there, or was taken for ready: neither waits.
            self.talk.input.reserve(READ_BYTES);
            match self.stream.try_read_buf(&mut self.talk.input) {
                Ok(0) => return Err(self.talk.hung_up()),
                Ok(_) => self.talk.take()?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        if writes && ready.is_writable() {
            match self.stream.try_write(&self.talk.output) {
                Ok(written) => self.talk.output.advance(written),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                    // It may have said why.
                    while self.stream.try_read_buf(&mut self.talk.input).is_ok_and(|length| length > 0) {}
                    self.talk.take()?;
                    return Err(self.talk.hung_up());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
