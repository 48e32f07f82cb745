//! How a request is answered.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::MESSAGE_BYTES_MAX;

/// `{"ok": value}` or `{"error": {"code", "message"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response<T> {
    /// What was asked for.
    Ok(T),
    /// Why it is not told.
    Error(ErrorReply),
}

impl<T> From<Result<T, ErrorReply>> for Response<T> {
    fn from(result: Result<T, ErrorReply>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(error) => Self::Error(error),
        }
    }
}

impl<T> From<Response<T>> for Result<T, ErrorReply> {
    fn from(response: Response<T>) -> Self {
        match response {
            Response::Ok(value) => Ok(value),
            Response::Error(error) => Err(error),
        }
    }
}

/// Why a request was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// A stable word to compare with; see [`code`].
    pub code: String,
    /// A sentence to read, [`MESSAGE_BYTES_MAX`] at most.
    pub message: String,
}

/// The codes of [`ErrorReply`]. A later daemon may know more.
pub mod code {
    /// No JSON, no such request, an unknown field, a field of the wrong type.
    pub const BAD_REQUEST: &str = "bad_request";
    /// The request, or what it asks for, is over its bound.
    pub const TOO_LARGE: &str = "too_large";
    /// A number is out of the range that the daemon allows.
    pub const OUT_OF_RANGE: &str = "out_of_range";
    /// The asking process may not.
    pub const DENIED: &str = "denied";
    /// The daemon has more connections than it serves.
    pub const BUSY: &str = "busy";
    /// A follower of events was too slow: some are lost to it, and the stream ends.
    pub const LAGGED: &str = "lagged";
    /// It makes no sense in the daemon's present state.
    pub const WRONG_STATE: &str = "wrong_state";
    /// The daemon's fault.
    pub const INTERNAL: &str = "internal";
}

impl ErrorReply {
    /// An error with one of the codes of [`code`]; a message that is too long is cut.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            const MARK: &str = "…";
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX - MARK.len()));
            message.push_str(MARK);
        }
        Self { code: code.to_owned(), message }
    }
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for ErrorReply {}
