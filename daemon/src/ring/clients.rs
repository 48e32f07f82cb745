//! Programs in process groups: their connections, what they ask, and what waits for them.
//!
//! All of it is done by the ring's own thread, so a message takes no detour; a client costs it nothing but a copy. One that
//! does not read has its messages kept up to [`WAITING_MAX`] and is let go then. One that sends more than the ring takes is not
//! read from until it does.
//!
//! Deliberately not here: what groups are (`ringbeat_core::cpg`).

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use ringbeat_client::wire::{self, Answer, Code, Request, VERSION};
use rustix::net::sockopt::socket_peercred;

/// Connections at a time.
pub(super) const CLIENTS_MAX: usize = 128;
/// A client for which so many bytes wait is not read from until it has read.
const PUSHED_BACK: usize = 1 << 20;
/// Bytes that wait for a client that does not read.
pub(super) const WAITING_MAX: usize = 32 << 20;
/// Bytes that one read takes.
const READ_BYTES: usize = 256 << 10;
/// Bytes that a client's messages lie in one piece up to: a longer message is a piece of its own.
const JOINED_MAX: usize = 2048;
/// Pieces that one write takes.
const PIECES_MAX: usize = 256;
/// Process numbers of the kernel are below this: those from here on are given to second connections.
const SECOND_PID: u32 = 1 << 31;

/// One program.
pub(super) struct Client {
    stream: UnixStream,
    /// Its number in groups.
    pub(super) pid: u32,
    /// Whether it has said hello.
    pub(super) is_known: bool,
    input: BytesMut,
    /// A request that the ring had no room for.
    pub(super) held: Option<Request>,
    output: VecDeque<Bytes>,
    tail: BytesMut,
    waiting: usize,
    /// Of the first piece of output, so much has been written.
    written: usize,
    /// Why it is to go.
    pub(super) ends: Option<&'static str>,
}

/// What a client's next frame is.
pub(super) enum Next {
    /// A request.
    Request(Request),
    /// Nothing that can be read.
    Broken,
    /// Not whole yet.
    Nothing,
}

impl Client {
    /// Where it can be waited for.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether something waits to be written.
    pub(super) fn writes(&self) -> bool {
        self.waiting > 0
    }

    /// Whether it is to read before it may ask for more.
    pub(super) fn is_pushed_back(&self) -> bool {
        self.waiting >= PUSHED_BACK
    }

    /// Whether it may be read from.
    pub(super) fn reads(&self) -> bool {
        self.held.is_none() && self.ends.is_none() && !self.is_pushed_back()
    }

    /// Reads what has come; its end is noted.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read(&mut buffer[..READ_BYTES]) {
            Ok(0) => self.ends = Some("it has gone"),
            Ok(length) => {
                self.input.extend_from_slice(&buffer[..length]);
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.ends = Some("it has gone"),
        }
        false
    }

    /// The next request of it.
    pub(super) fn next(&mut self) -> Next {
        if let Some(held) = self.held.take() {
            return Next::Request(held);
        }
        match wire::next(&mut self.input) {
            Ok(Some(frame)) => Request::read(frame).map_or(Next::Broken, Next::Request),
            Ok(None) => Next::Nothing,
            Err(_) => Next::Broken,
        }
    }

    /// Tells it something.
    pub(super) fn tell(&mut self, answer: &Answer) {
        let before = self.tail.len();
        answer.put(&mut self.tail);
        self.waits_for(self.tail.len() - before);
    }

    /// Gives it a message: its head, and its bytes.
    pub(super) fn give(&mut self, head: &[u8], bytes: &Bytes) {
        self.tail.extend_from_slice(head);
        if bytes.len() <= JOINED_MAX {
            self.tail.extend_from_slice(bytes);
        } else {
            self.output.push_back(self.tail.split().freeze());
            self.output.push_back(bytes.clone());
        }
        self.waits_for(head.len() + bytes.len());
    }

    fn waits_for(&mut self, bytes: usize) {
        self.waiting += bytes;
        if self.waiting > WAITING_MAX {
            self.ends = Some("it did not read what it was told");
        }
    }

    /// Writes what waits, as far as it is taken.
    pub(super) fn write(&mut self) {
        if !self.tail.is_empty() {
            self.output.push_back(self.tail.split().freeze());
        }
        while self.waiting > 0 {
            let pieces = self.output.iter().take(PIECES_MAX).enumerate();
            let pieces: Vec<IoSlice<'_>> = pieces
                .map(|(at, piece)| IoSlice::new(if at == 0 { &piece[self.written..] } else { piece }))
                .collect();
            match self.stream.write_vectored(&pieces) {
                Ok(0) => break,
                Ok(length) => self.wrote(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.ends = Some("it has gone");
                    break;
                }
            }
        }
    }

    fn wrote(&mut self, length: usize) {
        self.waiting -= length;
        self.written += length;
        while let Some(first) = self.output.front()
            && first.len() <= self.written
        {
            self.written -= first.len();
            self.output.pop_front();
        }
    }
}

/// All programs, and where the next one knocks.
pub(super) struct Clients {
    listener: UnixListener,
    clients: Vec<Client>,
    second: u32,
    buffer: Vec<u8>,
}

impl Clients {
    /// Listens, for root alone.
    ///
    /// # Errors
    /// The path cannot be had.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // The lock beside the control socket is held: a socket that is there is nobody's.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: Vec::new(), second: SECOND_PID, buffer: vec![0; READ_BYTES] })
    }

    /// Where the next one knocks.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter()
    }

    /// All of them, to be written to.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.clients.iter_mut()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// One of them, with a buffer to read into.
    pub(super) fn at(&mut self, place: usize) -> Option<(&mut Client, &mut [u8])> {
        Some((self.clients.get_mut(place)?, &mut self.buffer))
    }

    /// The one of this number.
    pub(super) fn of(&mut self, pid: u32) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.pid == pid)
    }

    /// Lets in who knocks.
    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Err(error) = stream.set_nonblocking(true) {
                tracing::debug!(%error, "a program was not let in");
                continue;
            }
            let pid =
                socket_peercred(&stream).map_or(0, |cred| cred.pid.as_raw_nonzero().get().cast_unsigned());
            let mut client = Client {
                stream,
                pid: self.number(pid),
                is_known: false,
                input: BytesMut::new(),
                held: None,
                output: VecDeque::new(),
                tail: BytesMut::new(),
                waiting: 0,
                written: 0,
                ends: None,
            };
            if self.clients.len() >= CLIENTS_MAX {
                let text = format!("{CLIENTS_MAX} programs are connected, the most there can be");
                client.tell(&Answer::Refused { of: wire::kind::HELLO, code: Code::Full, text });
                client.write();
                continue;
            }
            self.clients.push(client);
        }
    }

    /// Its process number, or one of its own if another connection has that.
    fn number(&mut self, pid: u32) -> u32 {
        if pid != 0 && self.of(pid).is_none() {
            return pid;
        }
        loop {
            let second = self.second;
            self.second = second.wrapping_add(1).max(SECOND_PID);
            if self.of(second).is_none() {
                return second;
            }
        }
    }

    /// Takes out one that is to go.
    pub(super) fn take_ended(&mut self) -> Option<Client> {
        let place = self.clients.iter().position(|client| client.ends.is_some())?;
        Some(self.clients.swap_remove(place))
    }
}

/// The welcome of a client.
pub(super) const fn welcome(node: u8, pid: u32) -> Answer {
    Answer::Welcome { version: VERSION, own: wire::Member { node, pid } }
}
