//! Programs in process groups: their connections, what they ask, and what waits for them.
//!
//! All of it is done by the ring's own thread, so a message takes no detour; a client costs it nothing but a copy. One that
//! does not read has its messages kept up to [`WAITING_MAX`] and is let go then. One that sends more than the ring takes is not
//! read from until it does.
//!
//! Deliberately not here: what groups are (`ringbeat_core::cpg`).

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use ringbeat_client::wire::{self, Answer, Code, Request, VERSION};
use rustix::net::sockopt::socket_peercred;

use crate::control::listen;

/// Connections at a time.
const CLIENTS_MAX: usize = 128;
/// A client for which so many bytes wait is not read from until it has read.
const PUSHED_BACK: usize = 1 << 20;
/// Bytes that wait for a client that does not read.
const WAITING_MAX: usize = 16 << 20;
/// Bytes that wait for all of them: the daemon's memory is locked, and bounded.
const ALL_WAITING_MAX: usize = 24 << 20;
/// The first request is no longer.
const HELLO_MAX: usize = 64;
/// Nobody is let in for so long when there are no descriptors left.
const SHUT_NS: u64 = 100_000_000;
const APART: &str = "this daemon takes no part in the cluster";
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
    /// It has said all that it will.
    is_over: bool,
    /// It takes nothing any more.
    is_deaf: bool,
    /// Something has come from it.
    pub(super) is_ready: bool,
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
    fn new(stream: UnixStream, pid: u32) -> Self {
        Self {
            stream,
            pid,
            is_known: false,
            input: BytesMut::new(),
            held: None,
            output: VecDeque::new(),
            tail: BytesMut::new(),
            waiting: 0,
            written: 0,
            is_over: false,
            is_deaf: false,
            is_ready: true,
            ends: None,
        }
    }

    /// Whether it has gone, and all that it had said is done.
    pub(super) fn is_done(&self) -> bool {
        self.is_over && self.held.is_none() && !self.is_whole()
    }

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
        self.held.is_none() && self.ends.is_none() && !self.is_over && !self.is_pushed_back()
    }

    /// Whether something that it has said can be done now, if there is room for messages.
    pub(super) fn has_work(&self, has_room: bool) -> bool {
        let asks = match &self.held {
            Some(_) => has_room,
            None => self.is_over || self.is_whole(),
        };
        asks && self.ends.is_none() && !self.is_pushed_back()
    }

    /// The length of its next request, if so much is there.
    fn input_length(&self) -> Result<Option<usize>, usize> {
        let most = if self.is_known { wire::REQUEST_MAX } else { HELLO_MAX };
        match wire::length(&self.input)? {
            Some(length) if length > most => Err(length),
            length => Ok(length),
        }
    }

    fn is_whole(&self) -> bool {
        match self.input_length() {
            Ok(Some(length)) => self.input.len() >= wire::LENGTH + length,
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// Reads what has come. What it has sent before it went is still heard.
    pub(super) fn read(&mut self, buffer: &mut [u8]) {
        match self.stream.read(&mut buffer[..READ_BYTES]) {
            Ok(0) => self.is_over = true,
            Ok(length) => self.input.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.is_over = true,
        }
    }

    /// The next request of it.
    pub(super) fn next(&mut self) -> Next {
        if let Some(held) = self.held.take() {
            return Next::Request(held);
        }
        if self.input_length().is_err() {
            return Next::Broken;
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
        if self.is_deaf {
            self.forget();
        }
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
                    // It hears nothing any more, and may still have said something.
                    self.is_deaf = true;
                    self.forget();
                }
            }
        }
    }

    fn forget(&mut self) {
        self.output.clear();
        self.tail.clear();
        (self.waiting, self.written) = (0, 0);
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
    is_apart: bool,
    shut_until_ns: u64,
}

impl Clients {
    /// Listens, for root alone.
    ///
    /// # Errors
    /// The path cannot be had.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        let listener = listen(path)?;
        Ok(Self {
            listener,
            clients: Vec::new(),
            second: SECOND_PID,
            buffer: vec![0; READ_BYTES],
            is_apart: false,
            shut_until_ns: 0,
        })
    }

    /// Whether somebody who knocks is let in now. Without descriptors nobody is, for a moment.
    pub(super) const fn is_open(&self, now_ns: u64) -> bool {
        now_ns >= self.shut_until_ns
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

    /// Lets in who knocks. A process number is not given again while a member of that number is there.
    pub(super) fn accept(&mut self, now_ns: u64, is_member: impl Fn(u32) -> bool) {
        while self.is_open(now_ns) {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(%error, "no program is let in for a moment");
                    self.shut_until_ns = now_ns + SHUT_NS;
                    return;
                }
            };
            if let Err(error) = stream.set_nonblocking(true) {
                tracing::debug!(%error, "a program was not let in");
                continue;
            }
            let pid =
                socket_peercred(&stream).map_or(0, |cred| cred.pid.as_raw_nonzero().get().cast_unsigned());
            let mut client = Client::new(stream, self.number(pid, &is_member));
            let refusal = if self.is_apart {
                Some((Code::Apart, APART.to_owned()))
            } else if self.clients.len() >= CLIENTS_MAX {
                Some((Code::Full, format!("{CLIENTS_MAX} programs are connected, the most there can be")))
            } else {
                None
            };
            if let Some((code, text)) = refusal {
                client.tell(&Answer::Refused { of: wire::kind::HELLO, code, text });
                client.write();
                continue;
            }
            self.clients.push(client);
        }
    }

    /// This daemon takes no part any more: whoever is there is told, and goes.
    pub(super) fn stand_apart(&mut self) {
        self.is_apart = true;
        for client in &mut self.clients {
            client.tell(&Answer::Refused { of: 0, code: Code::Apart, text: APART.to_owned() });
            client.ends = Some("this daemon takes no part");
        }
    }

    /// Its process number, or one of its own if another connection has that, or had it a moment ago.
    fn number(&mut self, pid: u32, is_member: &impl Fn(u32) -> bool) -> u32 {
        if pid != 0 && self.of(pid).is_none() && !is_member(pid) {
            return pid;
        }
        loop {
            let second = self.second;
            self.second = second.wrapping_add(1).max(SECOND_PID);
            if self.of(second).is_none() && !is_member(second) {
                return second;
            }
        }
    }

    /// Lets those go for whom most waits, until what waits for all of them is no more than may be.
    pub(super) fn bound(&mut self) {
        let mut all: usize = self.clients.iter().map(|client| client.waiting).sum();
        while all > ALL_WAITING_MAX {
            let most = self.clients.iter_mut().filter(|client| client.ends.is_none());
            let Some(most) = most.max_by_key(|client| client.waiting) else { return };
            most.ends = Some("it did not read what it was told");
            all -= most.waiting;
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
