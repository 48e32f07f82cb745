//! What can go wrong, and which exit code it has.

use std::error::Error;
use std::io;
use std::time::Duration;

use ringbeat_client::Error as Cpg;
use ringbeat_config::{ConfigError, KeyError};
use ringbeat_control::ClientError;
use serde::Serialize;
use thiserror::Error;

use crate::exit::Exit;

/// Why the command did not do what was asked for.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The daemon did not answer, or said no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The daemon went away while its events were followed.
    #[error("the daemon closed the stream of events")]
    StreamEnded,
    /// The daemon's process groups.
    #[error(transparent)]
    Cpg(#[from] ringbeat_client::Error),
    /// A message that was sent to a group.
    #[error("nothing came back within {} s", .0.as_secs())]
    NotBack(Duration),
    /// The configuration is refused.
    #[error(transparent)]
    Config(Box<ConfigError>),
    /// No key was made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A link that is not in the daemon's configuration.
    #[error("there is no link {id}")]
    NoSuchLink {
        /// The one that was asked for.
        id: u8,
        /// Those that there are.
        known: Vec<u8>,
    },
    /// Whoever read what is printed has gone, and that is their right.
    #[error("nobody reads on")]
    ReaderGone,
    /// It cannot be printed.
    #[error("cannot write to the standard output")]
    Output(#[source] io::Error),
}

/// A failure as `-o json` prints it, under `error`. What is not known is null.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FailureReport {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<usize>,
    pub(crate) column: Option<usize>,
    pub(crate) help: Option<String>,
}

impl Failure {
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Client(error) if error.is_unreachable() => Exit::Unreachable,
            Self::StreamEnded | Self::Cpg(Cpg::Connect { .. } | Cpg::HungUp(_)) => Exit::Unreachable,
            Self::Cpg(_) | Self::NotBack(_) => Exit::Error,
            Self::Config(_) => Exit::BadConfig,
            Self::ReaderGone => Exit::Fine,
            Self::Client(_) | Self::Key(_) | Self::NoSuchLink { .. } | Self::Output(_) => Exit::Error,
        }
    }

    pub(crate) fn report(&self) -> FailureReport {
        let place = match self {
            Self::Config(error) => error.place(),
            _ => None,
        };
        let (line, column) = place.map(|place| place.line_and_column()).unzip();
        FailureReport {
            code: self.code().to_owned(),
            message: self.message(),
            file: place.map(|place| place.file().to_owned()),
            line,
            column,
            help: self.help(),
        }
    }

    /// The error and its causes, in one sentence.
    pub(crate) fn message(&self) -> String {
        let mut message = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        message
    }

    /// What to do about it.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            Self::Client(error) => error.hint().map(str::to_owned),
            Self::StreamEnded => Some("did it end? see `journalctl -u ringbeatd`".to_owned()),
            Self::Cpg(Cpg::Connect { .. }) => {
                Some("is ringbeatd running? see `systemctl status ringbeatd`".to_owned())
            }
            Self::NotBack(_) => Some("does the ring turn? see `ringbeat status`".to_owned()),
            Self::Cpg(_) => None,
            Self::Config(error) => Some(error.help()),
            Self::Key(error) => Some(error.help()),
            Self::NoSuchLink { known, .. } => {
                let known = known.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
                Some(format!("the links are: {known}"))
            }
            Self::ReaderGone | Self::Output(_) => None,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Client(error) => error.code(),
            Self::StreamEnded => "client.stream_ended",
            Self::Cpg(Cpg::Connect { .. }) => "cpg.unreachable",
            Self::Cpg(Cpg::HungUp(_)) => "cpg.hung_up",
            Self::Cpg(_) => "cpg.failed",
            Self::NotBack(_) => "cpg.not_back",
            Self::Config(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::NoSuchLink { .. } => "link.unknown",
            Self::ReaderGone => "output.reader_gone",
            Self::Output(_) => "output.failed",
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Output(error),
        }
    }
}
