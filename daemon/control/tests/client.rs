//! The client against a small server that behaves well, badly, and not at all.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringbeat_control::{
    Client, ClientError, ErrorReply, EventRecord, Evidence, RESPONSE_BYTES_MAX, Request, RequestLines,
    Response, Stats, code, encode, parse_request,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_millis(300);

/// A folder with a socket in it, and a thread that serves one connection by `serve`.
struct Server {
    folder: TempDir,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(serve: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        let folder = TempDir::new().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("control.sock")).expect("a socket");
        let thread = thread::spawn(move || serve(listener.accept().expect("a client").0));
        Self { folder, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn client(&self) -> Client {
        Client::connect_within(&self.path(), PATIENCE).expect("connected")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let result = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            result.expect("joined once").expect("the server did not panic");
        }
    }
}

/// What the daemon does, without a runtime: chunks in, lines out.
fn serve_framed(mut stream: UnixStream, answer: impl Fn(Request) -> Response<Stats>) {
    let mut lines = RequestLines::new();
    let mut chunk = [0; 4096];
    loop {
        loop {
            match lines.next_line() {
                Ok(Some(line)) => {
                    let response = parse_request(line).map_or_else(Response::Error, &answer);
                    stream.write_all(&encode(&response)).expect("written");
                }
                Ok(None) => break,
                Err(error) => {
                    let _ = stream.write_all(&encode(&Response::<()>::Error(error)));
                    return;
                }
            }
        }
        match stream.read(&mut chunk).expect("read") {
            0 => return,
            read => lines.push(&chunk[..read]),
        }
    }
}

fn event(seq: u64) -> EventRecord {
    EventRecord {
        seq,
        stamp_ns: 10 * seq,
        told_ns: 10 * seq + 1,
        wall: "2026-07-14T09:26:53.589793Z".to_owned(),
        kind: "peer_down".to_owned(),
        node: None,
        node_id: None,
        link: None,
        incarnation: None,
        view: None,
        address: None,
        evidence: Evidence::default(),
        text: None,
    }
}

fn line_of(stream: &UnixStream) -> Vec<u8> {
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line).expect("a request");
    line
}

#[test]
fn many_requests_on_one_connection() {
    let server = Server::new(|stream| {
        serve_framed(stream, |request| match request {
            Request::Stats => Response::Ok(Stats { ticks: 7, ..Stats::default() }),
            _ => Response::Error(ErrorReply::new(code::WRONG_STATE, "not now")),
        });
    });
    let mut client = server.client();
    for _ in 0..3 {
        assert_eq!(client.stats().expect("stats").ticks, 7);
        let error = client.handover(5).expect_err("refused");
        assert_eq!((error.code(), error.is_unreachable()), (code::WRONG_STATE, false));
        assert_eq!(error.to_string(), "the daemon refuses: not now (wrong_state)");
    }
}

#[test]
fn a_bad_request_harms_nothing() {
    let server = Server::new(|stream| serve_framed(stream, |_| Response::Ok(Stats::default())));
    let mut raw = UnixStream::connect(server.path()).expect("connected");
    raw.write_all(b"{\"request\":\"format_disk\"}\n{\"request\":\"stats\"}\n").expect("written");
    let mut answers = BufReader::new(raw.try_clone().expect("a second handle")).lines();
    let refused = answers.next().expect("a line").expect("read");
    assert!(
        refused.starts_with("{\"error\":{\"code\":\"bad_request\",\"message\":\"unknown variant"),
        "{refused}"
    );
    let fine = answers.next().expect("a line").expect("read");
    assert!(fine.starts_with("{\"ok\":{\"ticks\":0"), "{fine}");
    raw.shutdown(std::net::Shutdown::Write).expect("shut");
}

#[test]
fn an_oversized_request_is_told_so_and_the_connection_closed() {
    let server = Server::new(|stream| serve_framed(stream, |_| Response::Ok(Stats::default())));
    let mut raw = UnixStream::connect(server.path()).expect("connected");
    // The server may close before all of it is written.
    let _ = raw.write_all(&[b'x'; 200_000]);
    let mut answer = String::new();
    // What it did not read makes the end a reset; the answer stands before that.
    let _ = raw.read_to_string(&mut answer);
    assert_eq!(
        answer,
        "{\"error\":{\"code\":\"too_large\",\"message\":\"a request has 65536 bytes at most\"}}\n"
    );
}

#[test]
fn a_client_that_is_turned_away_hears_why() {
    let server = Server::new(|mut stream| {
        let denied = ErrorReply::new(code::DENIED, "only root may ask");
        stream.write_all(&encode(&Response::<()>::Error(denied))).expect("written");
    });
    let mut client = server.client();
    thread::sleep(Duration::from_millis(50));
    let error = client.status().expect_err("denied");
    assert_eq!((error.code(), error.hint()), (code::DENIED, Some("run this as root")));
}

#[test]
fn a_connection_that_ends_midway_is_no_answer() {
    for said in [&b""[..], b"{\"ok\":{\"ticks\":", b"{\"ok\":{}}"] {
        let server = Server::new(move |mut stream| {
            line_of(&stream);
            stream.write_all(said).expect("written");
        });
        let error = server.client().stats().expect_err("no answer");
        assert!(matches!(error, ClientError::Closed), "{error:?}");
        assert!(error.is_unreachable());
    }
}

#[test]
fn nonsense_is_told_apart_from_silence() {
    let server = Server::new(|mut stream| {
        line_of(&stream);
        stream.write_all(b"{\"maybe\":1}\n").expect("written");
    });
    let error = server.client().stats().expect_err("nonsense");
    assert_eq!((error.code(), error.is_unreachable()), ("client.not_understood", false));

    let server = Server::new(|stream| {
        line_of(&stream);
        thread::sleep(2 * PATIENCE);
    });
    let asked = Instant::now();
    let error = server.client().stats().expect_err("silence");
    assert!(matches!(error, ClientError::Silent), "{error:?}");
    assert!(asked.elapsed() >= PATIENCE);
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let server = Server::new(|mut stream| {
        line_of(&stream);
        let chunk = [b' '; 65536];
        for _ in 0..RESPONSE_BYTES_MAX / chunk.len() + 10 {
            if stream.write_all(&chunk).is_err() {
                return;
            }
        }
    });
    let mut client = server.client();
    let error = client.stats().expect_err("too long");
    assert!(matches!(error, ClientError::TooLong), "{error:?}");
    drop(client);
}

#[test]
fn a_queue_that_is_full_is_silence_and_not_a_hang() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("control.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&socket2::SockAddr::unix(&path).expect("an address")).expect("bound");
    socket.listen(0).expect("listening");
    let mut waiting = Vec::new();
    let error = loop {
        match Client::connect_within(&path, PATIENCE) {
            Ok(client) => waiting.push(client),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Silent), "{error:?}");
    assert!(waiting.len() < 4);
}

#[test]
fn following_goes_on_past_the_patience_until_the_daemon_closes() {
    let server = Server::new(|mut stream| {
        let asked = parse_request(&line_of(&stream));
        assert_eq!(asked, Ok(Request::Events { follow: true, since: Some(3), limit: Some(9) }));
        stream.write_all(&encode(&Response::Ok(event(4)))).expect("written");
        thread::sleep(2 * PATIENCE);
        stream.write_all(&encode(&Response::Ok(event(5)))).expect("written");
    });
    let told = server.client().follow(Some(3), Some(9)).expect("following");
    let told = told.map(|event| event.expect("an event")).collect::<Vec<_>>();
    assert_eq!(told, [event(4), event(5)]);
}

#[test]
fn a_stream_ends_with_its_first_error() {
    let server = Server::new(|mut stream| {
        line_of(&stream);
        let lagged = Response::<EventRecord>::Error(ErrorReply::new(code::LAGGED, "12 events lost"));
        // In one write: the client closes at the error, and a write after that would break the pipe.
        let told = [Response::Ok(event(1)), lagged, Response::Ok(event(14))];
        stream.write_all(&told.iter().flat_map(encode).collect::<Vec<_>>()).expect("written");
    });
    let told = server.client().follow(None, None).expect("following").collect::<Vec<_>>();
    assert_eq!(told.len(), 2);
    assert!(matches!(&told[1], Err(error) if error.code() == code::LAGGED));
}

#[test]
fn the_reasons_for_no_connection_have_names_and_hints() {
    let folder = TempDir::new().expect("a folder");
    let code_of = |path: &Path| {
        let error = Client::connect(path).expect_err("no daemon");
        assert!(error.is_unreachable(), "{error:?}");
        error.code().to_owned()
    };
    assert_eq!(code_of(&folder.path().join("none.sock")), "client.no_socket");
    let left = folder.path().join("left.sock");
    drop(UnixListener::bind(&left).expect("a socket"));
    assert_eq!(code_of(&left), "client.nobody_listens");
    assert_eq!(code_of(&folder.path().join("x".repeat(200))), "client.unconnected");

    // Root is let in everywhere, so this can be seen by other users alone.
    let closed = folder.path().join("closed.sock");
    let _listener = UnixListener::bind(&closed).expect("a socket");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).expect("closed");
    if let Err(error) = Client::connect(&closed) {
        assert_eq!((error.code(), error.hint()), ("client.denied", Some("run this as root")));
    }
}
