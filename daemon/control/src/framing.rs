//! Lines and their bounds, without any I/O: the same for a daemon with an async runtime and for a test with a thread.
//!
//! The daemon's loop: read a chunk, [`push`](RequestLines::push) it, then take lines with
//! [`next_line`](RequestLines::next_line) until there is none, answering each by [`encode`]. Nothing that a client
//! sends makes any of this panic, nor hold more than [`REQUEST_BYTES_MAX`] and one chunk.

use serde::Serialize;

use crate::{ErrorReply, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Request, Response, code};

/// What a client has sent, cut into lines.
#[derive(Debug, Default)]
pub struct RequestLines {
    buffer: Vec<u8>,
    /// Bytes of the buffer that were handed out as lines.
    taken: usize,
    /// Bytes behind `taken` that are known to have no end of line.
    searched: usize,
}

impl RequestLines {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), taken: 0, searched: 0 }
    }

    /// Takes what was read. Take all lines out before the next chunk goes in.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole line without its end, or an error when it is longer than [`REQUEST_BYTES_MAX`]: answer with that
    /// and close the connection, for where the next request would begin cannot be told.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, ErrorReply> {
        let rest = &self.buffer[self.taken..];
        let end = rest[self.searched..].iter().position(|byte| *byte == b'\n').map(|at| self.searched + at);
        let length = end.unwrap_or(rest.len());
        if length > REQUEST_BYTES_MAX {
            return Err(too_long());
        }
        if end.is_none() {
            self.searched = length;
            return Ok(None);
        }
        let start = self.taken;
        self.taken += length + 1;
        self.searched = 0;
        Ok(Some(&self.buffer[start..start + length]))
    }

    /// Whether a line has begun that has not ended.
    pub fn is_midway(&self) -> bool {
        self.taken < self.buffer.len()
    }
}

/// The request on a line, with or without its end.
pub fn parse_request(line: &[u8]) -> Result<Request, ErrorReply> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.len() > REQUEST_BYTES_MAX {
        return Err(too_long());
    }
    if line.trim_ascii().is_empty() {
        return Err(ErrorReply::new(code::BAD_REQUEST, "an empty line is no request"));
    }
    serde_json::from_slice(line).map_err(|error| ErrorReply::new(code::BAD_REQUEST, error.to_string()))
}

/// The line of an answer, its end included, never longer than [`RESPONSE_BYTES_MAX`]: what does not fit, or has no
/// JSON, is told as an error instead.
pub fn encode<T: Serialize>(response: &Response<T>) -> Vec<u8> {
    let line = match serde_json::to_vec(response) {
        Ok(line) if line.len() < RESPONSE_BYTES_MAX => Ok(line),
        Ok(line) => Err(ErrorReply::new(
            code::TOO_LARGE,
            format!("the answer has {} bytes, {RESPONSE_BYTES_MAX} is the most: ask for less", line.len()),
        )),
        Err(error) => Err(ErrorReply::new(code::INTERNAL, error.to_string())),
    };
    let mut line = line.unwrap_or_else(|error| {
        serde_json::to_vec(&Response::<()>::Error(error)).expect("two short strings always have their JSON")
    });
    line.push(b'\n');
    line
}

fn too_long() -> ErrorReply {
    ErrorReply::new(code::TOO_LARGE, format!("a request has {REQUEST_BYTES_MAX} bytes at most"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code_of(line: &[u8]) -> String {
        parse_request(line).expect_err("refused").code
    }

    #[test]
    fn requests_are_read_as_written() {
        for (line, request) in [
            (r#"{"request":"status"}"#, Request::Status),
            (r#"{"request":"link"}"#, Request::Link),
            (r#"{"request":"peers"}"#, Request::Peers),
            (r#"{"request":"stats"}"#, Request::Stats),
            (r#"{"request":"events"}"#, Request::Events { follow: false, since: None, limit: None }),
            (
                r#"{"request":"events","follow":true,"since":18446744073709551615,"limit":3}"#,
                Request::Events { follow: true, since: Some(u64::MAX), limit: Some(3) },
            ),
            (r#"{"request":"handover","ms":900}"#, Request::Handover { ms: 900 }),
        ] {
            assert_eq!(parse_request(line.as_bytes()), Ok(request), "{line}");
            assert_eq!(parse_request(format!("{line}\r\n").as_bytes()), Ok(request), "{line}");
            let written = serde_json::to_vec(&request).expect("JSON");
            assert_eq!(parse_request(&written), Ok(request), "{line}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_whole() {
        for line in [
            "",
            "  ",
            "status",
            "{}",
            "[]",
            r#"{"request":"statu"}"#,
            r#"{"request":"status","now":true}"#,
            r#"{"request":"status"} {"request":"status"}"#,
            r#"{"request":"status","request":"link"}"#,
            r#"{"request":"events","follow":1}"#,
            r#"{"request":"events","limit":-1}"#,
            r#"{"request":"events","limit":4294967296}"#,
            r#"{"request":"events","until":4}"#,
            r#"{"request":"handover"}"#,
            "\u{0}",
        ] {
            assert_eq!(code_of(line.as_bytes()), code::BAD_REQUEST, "{line}");
        }
        assert_eq!(code_of(b"{\"request\":\"\xff\"}"), code::BAD_REQUEST);
        assert_eq!(
            code_of(&[b'['].repeat(REQUEST_BYTES_MAX)),
            code::BAD_REQUEST,
            "no depth of nesting overflows"
        );
        assert_eq!(code_of(&[b' '].repeat(REQUEST_BYTES_MAX + 1)), code::TOO_LARGE);
    }

    #[test]
    fn an_error_quotes_only_so_much() {
        let line = format!(r#"{{"request":"{}"}}"#, "ß".repeat(30_000));
        let error = parse_request(line.as_bytes()).expect_err("no such request");
        assert!(error.message.len() <= crate::MESSAGE_BYTES_MAX, "{}", error.message.len());
        assert!(error.message.ends_with('…'));
    }

    #[test]
    fn answers_are_one_line_and_bounded() {
        let line = encode(&Response::Ok("a\nb".to_owned()));
        assert_eq!(line, b"{\"ok\":\"a\\nb\"}\n");
        let error = Response::<()>::Error(ErrorReply::new(code::BUSY, "later"));
        assert_eq!(encode(&error), b"{\"error\":{\"code\":\"busy\",\"message\":\"later\"}}\n");
        let frame = r#"{"ok":""}"#.len() + 1;
        let fits = encode(&Response::Ok("x".repeat(RESPONSE_BYTES_MAX - frame)));
        assert_eq!(fits.len(), RESPONSE_BYTES_MAX);
        let over = encode(&Response::Ok("x".repeat(RESPONSE_BYTES_MAX - frame + 1)));
        let over: Response<String> = serde_json::from_slice(&over).expect("JSON");
        assert!(matches!(over, Response::Error(error) if error.code == code::TOO_LARGE));
        let mute = encode(&Response::Ok(std::collections::BTreeMap::from([((1, 2), 3)])));
        let mute: Response<String> = serde_json::from_slice(&mute).expect("JSON");
        assert!(matches!(mute, Response::Error(error) if error.code == code::INTERNAL));
    }

    #[test]
    fn a_line_without_end_is_refused_in_time() {
        let mut lines = RequestLines::new();
        let chunk = [b'x'; 4096];
        for _ in 0..REQUEST_BYTES_MAX / chunk.len() {
            lines.push(&chunk);
            assert_eq!(lines.next_line(), Ok(None));
        }
        assert!(lines.is_midway());
        lines.push(b"x");
        assert_eq!(lines.next_line().expect_err("too long").code, code::TOO_LARGE);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_request(&bytes);
        }

        /// What looks like a request gets further in than noise does.
        #[test]
        fn no_object_makes_it_panic(
            name in "(status|events|handover|[a-z]{0,6})",
            key in "(follow|since|limit|ms|[a-z]{0,6})",
            value in "(true|null|-?[0-9]{1,25}|\\[\\[\\]\\]|\"[^\"]{0,9}\"|1e999)",
        ) {
            let line = format!("{{\"request\":\"{name}\",\"{key}\":{value}}}");
            if let Ok(request) = parse_request(line.as_bytes()) {
                let written = serde_json::to_vec(&request).expect("JSON");
                prop_assert_eq!(parse_request(&written), Ok(request));
            }
        }

        /// However the stream is cut into chunks, the lines come out as they were sent.
        #[test]
        fn chunks_do_not_matter(
            sent in proptest::collection::vec("[a-z]{0,40}", 0..20),
            cuts in proptest::collection::vec(1usize..50, 1..40),
        ) {
            let stream = sent.iter().flat_map(|line| line.bytes().chain([b'\n'])).collect::<Vec<_>>();
            let mut lines = RequestLines::new();
            let mut received = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                lines.push(chunk);
                while let Some(line) = lines.next_line().expect("short lines") {
                    received.push(String::from_utf8(line.to_vec()).expect("letters"));
                }
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(!lines.is_midway());
        }
    }
}
