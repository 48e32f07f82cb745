//! The control socket: what may be asked, what is told, and how it is framed.
//!
//! A Unix stream socket carries JSON lines. A [`Request`] is one line; its answer is one line, a [`Response`]: `{"ok":
//! …}` or `{"error": {"code", "message"}}`. Only [`Request::Events`] with `follow` is answered by many lines, one
//! `{"ok": event}` each, until either end closes. A connection may ask again and again, one after the other.
//!
//! The daemon hands out values and the command formats them: nothing here is meant for eyes. Readers of answers pass
//! over fields that they do not know, so a daemon may be newer than the command; a request with an unknown field is
//! refused, because a wish that is not understood must not be half granted.
//!
//! | part | what |
//! |---|---|
//! | [`Request`] | what may be asked |
//! | [`Response`], [`ErrorReply`] | how it is answered |
//! | [`values`] | what is told, one module for each request |
//! | [`framing`] | lines and bounds, without any I/O: the daemon's side |
//! | [`Client`] | the blocking other end: the command's side |
//!
//! Deliberately not here: who may ask. The daemon sees to that by the socket's mode and the peer's credentials.

#![forbid(unsafe_code)]

mod client;
pub mod framing;
mod request;
mod response;
pub mod values;

pub use client::{Client, ClientError, Follow, PATIENCE};
pub use framing::{RequestLines, encode, parse_request};
pub use request::Request;
pub use response::{ErrorReply, Response, code};
pub use values::*;

/// The longest request, in bytes, its end of line not counted.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// The longest answer, or line of a stream of events, in bytes, its end of line counted.
pub const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest message of an error, in bytes: it may quote what was asked, and that came from outside.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// Where the daemon listens.
pub const SOCKET_PATH: &str = "/run/ringbeat/control.sock";
