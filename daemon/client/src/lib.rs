//! Process groups of a Ringbeat cluster, for programs: join a group, send to all its members in one order, hear who comes
//! and goes.
//!
//! [`Client`] blocks, [`AsyncClient`] is for tokio; both say and hear the same. All members of a group, on all nodes that
//! are in one view, are told the same messages and the same changes in the same order; a message that its own sender is
//! told is told to all of them that stay. The terms are those of cpg_overview(3).
//!
//! ```no_run
//! use ringbeat_client::{Client, Event, SOCKET_PATH};
//!
//! let mut client = Client::connect(SOCKET_PATH.as_ref())?;
//! client.join(b"greeters")?;
//! client.send(b"greeters", b"hello")?;
//! while let Some(event) = client.next(None)? {
//!     if let Event::Message { from, bytes, .. } = event {
//!         println!("{from}: {}", bytes.escape_ascii());
//!     }
//! }
//! # Ok::<(), ringbeat_client::Error>(())
//! ```
//!
//! Deliberately not here: reconnecting. Who has lost its daemon has missed messages, and must decide what that means.
#![forbid(unsafe_code)]

mod blocking;
mod nonblocking;
mod talk;
pub mod wire;

use std::io;

use bytes::Bytes;
use thiserror::Error;

pub use self::blocking::Client;
pub use self::nonblocking::AsyncClient;
pub use self::wire::{Code, Member, Reason};

/// Where the daemon listens, unless its configuration has another control socket: this one is beside it.
pub const SOCKET_PATH: &str = "/run/ringbeat/cpg.sock";
/// Where a daemon listens whose control socket is this one: `cpg.sock` beside it, or `NAME-cpg.sock` for one of another name.
pub fn socket_beside(control: &std::path::Path) -> std::path::PathBuf {
    let stem = control.file_stem().unwrap_or_default();
    if stem == "control" {
        return control.with_file_name("cpg.sock");
    }
    let mut name = stem.to_owned();
    name.push("-cpg.sock");
    control.with_file_name(name)
}

/// The longest message that is put together, unless [`Client::set_message_max`] says another, in bytes.
pub const MESSAGE_MAX: usize = 64 << 20;

/// What a program is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Who is in a group from here on.
    Configuration {
        /// Which.
        group: Bytes,
        /// All of them.
        members: Vec<Member>,
        /// Who went, and why.
        left: Vec<(Member, Reason)>,
        /// Who came, and why.
        joined: Vec<(Member, Reason)>,
    },
    /// A message.
    Message {
        /// To which group.
        group: Bytes,
        /// Whose.
        from: Member,
        /// What.
        bytes: Bytes,
    },
    /// A message that was sent has been refused.
    NotSent {
        /// Why.
        code: Code,
        /// The same in words.
        text: String,
    },
}

/// Why it does not go on.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no daemon, or no right to speak to it.
    #[error("{path}: {source}")]
    Connect {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The daemon has hung up: it has stopped, or this program did not read.
    #[error("the daemon has hung up{0}")]
    HungUp(String),
    /// The connection failed.
    #[error("the connection to the daemon: {0}")]
    Io(#[from] io::Error),
    /// The daemon says what this library does not understand.
    #[error("the daemon does not speak version {} of this protocol", wire::VERSION)]
    Protocol,
    /// The daemon does not do what it was asked for.
    #[error("{text}")]
    Refused {
        /// Why.
        code: Code,
        /// The same in words.
        text: String,
    },
    /// A group's name.
    #[error("a group's name has 1 to {} bytes", wire::NAME_MAX)]
    Name,
}
