//! The control socket: root's only, one line a request, every answer from a copy that the main loop hands out.
//!
//! It has a thread of its own with normal scheduling. The main loop is asked through a bounded queue and answers with
//! values; encoding, slow readers and broken ones are this thread's business and cost the loop nothing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use ringbeat_control::{
    ErrorReply, EventRecord, HandoverReport, LinkReport, PeerReport, Request, RequestLines, Response, Stats,
    Status, code, encode, parse_request,
};
use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, oneshot};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// Requests that wait for the main loop.
const QUEUE_MAX: usize = 64;
/// Events that a follower may lag behind before it is told so and let go.
pub const LAG_MAX: usize = 4096;
/// A client that takes no byte for so long is let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the main loop answers.
#[derive(Debug)]
pub enum Reply {
    /// To `status`.
    Status(Box<Status>),
    /// To `link`.
    Links(Vec<LinkReport>),
    /// To `peers`.
    Peers(Vec<PeerReport>),
    /// To `stats`.
    Stats(Box<Stats>),
    /// To `events`; what comes after these arrives by the broadcast.
    Events(Vec<EventRecord>),
    /// To `handover`.
    Handover(HandoverReport),
    /// To what cannot be done.
    Error(ErrorReply),
}

/// A request on its way to the main loop.
pub struct Ask {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// The main loop's end of the queue.
pub struct Asks {
    queue: Receiver<Ask>,
    wake: Arc<OwnedFd>,
}

impl Asks {
    /// Readable when somebody asks.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The next request, if there is one.
    pub fn next(&self) -> Option<Ask> {
        self.queue.try_recv().ok()
    }

    /// Makes the descriptor quiet; what was asked before is still in the queue.
    pub fn acknowledge(&self) {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
    }
}

#[derive(Clone)]
struct Door {
    queue: SyncSender<Ask>,
    wake: Arc<OwnedFd>,
    news: broadcast::Sender<Arc<EventRecord>>,
}

/// Opens the socket and starts the thread.
pub fn start(path: &Path, news: broadcast::Sender<Arc<EventRecord>>) -> io::Result<Asks> {
    let (queue, asked) = sync_channel(QUEUE_MAX);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let listener = listen(path)?;
    let door = Door { queue, wake: Arc::clone(&wake), news };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("ringbeat-ctl".to_owned())
        .spawn(move || runtime.block_on(serve(listener, door)))?;
    Ok(Asks { queue: asked, wake })
}

/// A socket for root alone, at a path whose lock this daemon holds.
pub fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // The daemon's lock is ours, so whatever is there is left over.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made under another name and moved: nobody connects before the mode is set.
    let fresh: PathBuf = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(listener: std::os::unix::net::UnixListener, door: Door) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the control socket is not served");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of descriptors: let some go first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let door = door.clone();
        let place = Arc::clone(&places).try_acquire_owned();
        tokio::spawn(async move {
            let refusal = match place {
                Err(_) => ErrorReply::new(code::BUSY, format!("{CONNECTIONS_MAX} clients are being served")),
                Ok(_place) if is_root(&stream) => {
                    if let Err(error) = converse(&mut stream, &door).await {
                        tracing::debug!(%error, "a control client went away");
                    }
                    return;
                }
                Ok(_place) => ErrorReply::new(code::DENIED, "only root may ask"),
            };
            let _ = write(&mut stream, &Response::<()>::Error(refusal)).await;
        });
    }
}

/// Root, or whoever the daemon runs as.
fn is_root(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

async fn converse(stream: &mut UnixStream, door: &Door) -> io::Result<()> {
    let mut lines = RequestLines::new();
    let mut chunk = vec![0; 8192];
    loop {
        loop {
            let request = match lines.next_line() {
                Ok(None) => break,
                Ok(Some(line)) => parse_request(line),
                // The rest of an oversized line cannot be told from a request.
                Err(error) => return write(stream, &Response::<()>::Error(error)).await,
            };
            match request {
                Err(error) => write(stream, &Response::<()>::Error(error)).await?,
                Ok(request @ Request::Events { follow: true, .. }) => {
                    return follow(stream, door, request).await;
                }
                Ok(request) => answer(stream, ask(door, request).await).await?,
            }
        }
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        lines.push(&chunk[..length]);
    }
}

async fn ask(door: &Door, request: Request) -> Reply {
    let (reply, answered) = oneshot::channel();
    match door.queue.try_send(Ask { request, reply }) {
        Err(TrySendError::Full(_)) => {
            return Reply::Error(ErrorReply::new(
                code::BUSY,
                "the daemon is behind with its answers; ask again",
            ));
        }
        Err(TrySendError::Disconnected(_)) => {
            return Reply::Error(ErrorReply::new(code::INTERNAL, "the daemon is stopping"));
        }
        Ok(()) => {}
    }
    let _ = rustix::io::write(&*door.wake, &1u64.to_ne_bytes());
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(reply)) => reply,
        _ => Reply::Error(ErrorReply::new(code::INTERNAL, "the daemon's main loop does not answer")),
    }
}

async fn answer(stream: &mut UnixStream, reply: Reply) -> io::Result<()> {
    match reply {
        Reply::Status(value) => write(stream, &Response::Ok(value)).await,
        Reply::Links(value) => write(stream, &Response::Ok(value)).await,
        Reply::Peers(value) => write(stream, &Response::Ok(value)).await,
        Reply::Stats(value) => write(stream, &Response::Ok(value)).await,
        Reply::Events(value) => write(stream, &Response::Ok(value)).await,
        Reply::Handover(value) => write(stream, &Response::Ok(value)).await,
        Reply::Error(error) => write(stream, &Response::<()>::Error(error)).await,
    }
}

/// First what is kept, then what comes: subscribed before asking, so nothing falls in between.
async fn follow(stream: &mut UnixStream, door: &Door, request: Request) -> io::Result<()> {
    let mut news = door.news.subscribe();
    let kept = match ask(door, request).await {
        Reply::Events(kept) => kept,
        other => return answer(stream, other).await,
    };
    let mut last = 0;
    for event in kept {
        last = event.seq;
        write(stream, &Response::Ok(event)).await?;
    }
    let mut nothing = [0; 64];
    loop {
        tokio::select! {
            event = news.recv() => match event {
                Ok(event) if event.seq > last => write(stream, &Response::Ok(&*event)).await?,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let error = ErrorReply::new(code::LAGGED, format!("{missed} events were not read in time"));
                    return write(stream, &Response::<()>::Error(error)).await;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            // A follower says nothing more; its end of file is its farewell.
            length = stream.read(&mut nothing) => if length? == 0 { return Ok(()) },
        }
    }
}

async fn write<T: Serialize>(stream: &mut UnixStream, response: &Response<T>) -> io::Result<()> {
    match tokio::time::timeout(PATIENCE, stream.write_all(&encode(response))).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
