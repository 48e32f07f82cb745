//! The asking end of the control socket, blocking.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

use crate::{
    ErrorReply, EventRecord, HandoverReport, LinkReport, PeerReport, RESPONSE_BYTES_MAX, Request, Response,
    Stats, Status, code,
};

/// How long a client waits for the daemon to accept, to read, and to answer, each by itself.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects, with [`PATIENCE`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_within(path, PATIENCE)
    }

    /// Connects, waiting for so long at each step from now on.
    pub fn connect_within(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        // A daemon that is stopped accepts nothing once its queue is full; std would wait for it forever. The timeout
        // for sending holds for connecting too, if it is set before.
        let explain = |source| ClientError::of_connect(path, source);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(explain)?;
        socket.set_write_timeout(Some(patience)).map_err(explain)?;
        socket.set_read_timeout(Some(patience)).map_err(explain)?;
        SockAddr::unix(path).and_then(|address| socket.connect(&address)).map_err(explain)?;
        Ok(Self { stream: BufReader::new(socket.into()) })
    }

    /// The daemon on one page.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.ask(Request::Status)
    }

    /// The links.
    pub fn link(&mut self) -> Result<Vec<LinkReport>, ClientError> {
        self.ask(Request::Link)
    }

    /// The nodes.
    pub fn peers(&mut self) -> Result<Vec<PeerReport>, ClientError> {
        self.ask(Request::Peers)
    }

    /// The counters.
    pub fn stats(&mut self) -> Result<Stats, ClientError> {
        self.ask(Request::Stats)
    }

    /// The newest `limit` of the kept events after number `since`, oldest first.
    pub fn events(
        &mut self,
        since: Option<u64>,
        limit: Option<u32>,
    ) -> Result<Vec<EventRecord>, ClientError> {
        self.ask(Request::Events { follow: false, since, limit })
    }

    /// The same, then every event as it is told, until the daemon closes. There is no bound on the wait between two.
    pub fn follow(mut self, since: Option<u64>, limit: Option<u32>) -> Result<Follow, ClientError> {
        self.send(Request::Events { follow: true, since, limit })?;
        self.stream.get_ref().set_read_timeout(None).map_err(ClientError::of_transfer)?;
        Ok(Follow { client: self, over: false })
    }

    /// Announces that the daemon is about to be restarted, and will be away for so long at most.
    pub fn handover(&mut self, ms: u32) -> Result<HandoverReport, ClientError> {
        self.ask(Request::Handover { ms })
    }

    /// Sends any request whose answer is one line. `T` must be what the request is answered by.
    pub fn ask<T: DeserializeOwned>(&mut self, request: Request) -> Result<T, ClientError> {
        // A daemon that turns a client away says why and closes at once: its word may be there though ours was not read.
        let sent = self.send(request);
        match (self.receive(), sent) {
            (Ok(Some(line)), _) => parse_response(&line),
            (_, Err(error)) | (Err(error), Ok(())) => Err(error),
            (Ok(None), Ok(())) => Err(ClientError::Closed),
        }
    }

    fn send(&mut self, request: Request) -> Result<(), ClientError> {
        let mut line =
            serde_json::to_vec(&request).map_err(|source| ClientError::NotUnderstood { source })?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(ClientError::of_transfer)
    }

    /// The next line; none when the daemon has closed between two.
    fn receive(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let mut line = Vec::new();
        let bound = RESPONSE_BYTES_MAX as u64;
        (&mut self.stream).take(bound).read_until(b'\n', &mut line).map_err(ClientError::of_transfer)?;
        match line.last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) if line.len() == RESPONSE_BYTES_MAX => Err(ClientError::TooLong),
            Some(_) => Err(ClientError::Closed),
        }
    }
}

fn parse_response<T: DeserializeOwned>(line: &[u8]) -> Result<T, ClientError> {
    let response: Response<T> =
        serde_json::from_slice(line).map_err(|source| ClientError::NotUnderstood { source })?;
    Result::from(response).map_err(ClientError::Refused)
}

/// Events as they are told, by [`Client::follow`]. It ends with the stream, and after the first error.
#[derive(Debug)]
pub struct Follow {
    client: Client,
    over: bool,
}

impl Iterator for Follow {
    type Item = Result<EventRecord, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let event = self.client.receive().and_then(|line| line.map(|line| parse_response(&line)).transpose());
        self.over = !matches!(event, Ok(Some(_)));
        event.transpose()
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is no socket.
    #[error("the daemon is not running: there is no control socket {}", path.display())]
    NoSocket {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is a socket, and nobody behind it.
    #[error("the daemon is not running: nobody listens at the control socket {}", path.display())]
    NobodyListens {
        /// The socket.
        path: PathBuf,
    },
    /// This user may not.
    #[error("the control socket {} is closed to this user", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon does not accept, or does not answer.
    #[error("the daemon does not answer")]
    Silent,
    /// It cannot be connected to, for a reason that has no name of its own here.
    #[error("cannot connect to the control socket {}", path.display())]
    Unconnected {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the daemon broke")]
    Broken {
        /// How.
        source: io::Error,
    },
    /// The daemon closed before it had answered.
    #[error("the daemon closed the connection before it had answered")]
    Closed,
    /// The answer is over its bound.
    #[error("the daemon's answer is longer than {RESPONSE_BYTES_MAX} bytes")]
    TooLong,
    /// The answer is not what this version expects.
    #[error("the daemon's answer is not understood")]
    NotUnderstood {
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The daemon says no.
    #[error("the daemon refuses: {0}")]
    Refused(ErrorReply),
}

impl ClientError {
    /// Whether no daemon answered. A refusal is an answer, and a socket that is closed to the user is none of a dead
    /// daemon.
    pub const fn is_unreachable(&self) -> bool {
        match self {
            Self::NoSocket { .. } | Self::NobodyListens { .. } | Self::Silent | Self::Unconnected { .. } => {
                true
            }
            Self::Broken { .. } | Self::Closed => true,
            Self::Denied { .. } | Self::TooLong | Self::NotUnderstood { .. } | Self::Refused(_) => false,
        }
    }

    /// A stable word for it: the daemon's own where it refused.
    pub fn code(&self) -> &str {
        match self {
            Self::NoSocket { .. } => "client.no_socket",
            Self::NobodyListens { .. } => "client.nobody_listens",
            Self::Denied { .. } => "client.denied",
            Self::Silent => "client.silent",
            Self::Unconnected { .. } => "client.unconnected",
            Self::Broken { .. } => "client.broken",
            Self::Closed => "client.closed",
            Self::TooLong => "client.too_long",
            Self::NotUnderstood { .. } => "client.not_understood",
            Self::Refused(reply) => &reply.code,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused(reply) if reply.code == code::DENIED => Some("run this as root"),
            Self::NoSocket { .. } => {
                Some("start it with `systemctl start ringbeatd`, or name its socket with --socket")
            }
            Self::NobodyListens { .. } => Some(
                "it has ended without a word: see `systemctl status ringbeatd` and `journalctl -u ringbeatd`",
            ),
            Self::Denied { .. } => Some("run this as root"),
            Self::Silent => Some(
                "it is stopped or starved: see its state in `ps -C ringbeatd -o pid,stat,wchan` and the load",
            ),
            Self::Closed | Self::Broken { .. } => Some("did it end? see `journalctl -u ringbeatd`"),
            Self::TooLong | Self::NotUnderstood { .. } => {
                Some("are the command and the daemon of one version? compare `ringbeat --version`")
            }
            Self::Unconnected { .. } | Self::Refused(_) => None,
        }
    }

    fn of_connect(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NoSocket { path },
            io::ErrorKind::ConnectionRefused => Self::NobodyListens { path },
            io::ErrorKind::PermissionDenied => Self::Denied { path },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent,
            _ => Self::Unconnected { path, source },
        }
    }

    fn of_transfer(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Broken { source },
        }
    }
}
