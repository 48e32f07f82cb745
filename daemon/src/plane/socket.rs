//! The plain-socket plane: one thread that receives, answers, probes and watches, where there can be no XDP.
//!
//! It gives the same events. It is as prompt as its thread is scheduled, and it dies with its process, so peers see
//! a killed daemon as silence; `ringbeat status` says so.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringbeat_common::drops::DROPS_MAX;
use ringbeat_common::event::Event;
use ringbeat_common::frame::{Frame, MAGIC};
use ringbeat_common::maps::Tick;
use ringbeat_common::slot::Slot;
use ringbeat_core::membership::envelope::ENVELOPE_BYTES_MAX;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::lease::LeaseCells;
use super::table::{EVENTS_MAX, Outcome, Table};
use super::{CellReading, Identity, Mode, PlaneLink};
use crate::probe::{Book, Pace};
use crate::sockets::LinkSockets;
use crate::sys::clock::{boot_ns, timespec};

/// Frames taken from one socket before the others have their turn.
const BURST_MAX: usize = 64;

/// The face of the thread.
pub struct SocketPlane {
    shared: Arc<Shared>,
    lease: Arc<[AtomicU64]>,
    why: String,
}

struct Shared {
    table: Mutex<Table>,
    handshakes: Mutex<VecDeque<(u8, Frame)>>,
    messages: Mutex<VecDeque<(u8, Vec<u8>)>>,
    wake: OwnedFd,
    fresh_ns: Vec<PlaneLink>,
}

impl Shared {
    /// A panic aborts the process, so a poisoned lock is never seen.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handshakes(&self) -> MutexGuard<'_, VecDeque<(u8, Frame)>> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn messages(&self) -> MutexGuard<'_, VecDeque<(u8, Vec<u8>)>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SocketPlane {
    /// Starts the thread. `why` says why there is no XDP; `enter` runs first in the thread (scheduling).
    pub fn start(
        identity: Identity,
        sockets: Vec<Arc<LinkSockets>>,
        links: &[PlaneLink],
        book: Arc<Book>,
        why: String,
        enter: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            table: Mutex::new(Table::new(identity, links)),
            handshakes: Mutex::new(VecDeque::new()),
            messages: Mutex::new(VecDeque::new()),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            fresh_ns: links.to_vec(),
        });
        let lease = Arc::clone(&shared.table().lease);
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("ringbeat-plane".to_owned()).spawn(move || {
            enter();
            run(&theirs, &sockets, &book);
        })?;
        Ok(Self { shared, lease, why })
    }

    /// See [`super::Plane::open`].
    pub fn open(&self, incarnation: u64) -> Result<(), super::load::LoadError> {
        self.shared.table().node.incarnation = incarnation;
        Ok(())
    }

    /// See [`super::Plane::close`].
    pub fn close(&self) {
        self.shared.table().node.incarnation = 0;
    }

    /// See [`super::Plane::accept`].
    pub fn accept(&self, slot: u8, incarnation: u64) -> Result<(), aya::maps::MapError> {
        self.shared.table().accept(slot, incarnation);
        Ok(())
    }

    /// See [`super::Plane::next_event`].
    pub fn next_event(&self) -> Option<Event> {
        let event = self.shared.table().events.pop_front();
        if event.is_none() {
            let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
            return self.shared.table().events.pop_front();
        }
        event
    }

    /// See [`super::Plane::events_fd`].
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    /// See [`super::Plane::say`].
    pub fn say(&self, heard: u64, flags: u8) {
        let mut table = self.shared.table();
        table.node.heard = heard;
        table.node.flags = u64::from(flags);
    }

    /// See [`super::Plane::beat`].
    pub fn beat(&self, now_ns: u64) {
        self.shared.table().latch.beat_ns = now_ns;
    }

    /// See [`super::Plane::hand_over`].
    pub fn hand_over(&self, until_ns: u64) {
        self.shared.table().latch.handover_until_ns = until_ns;
    }

    /// See [`super::Plane::cell`].
    pub fn cell(&self, link: u8, slot: u8) -> CellReading {
        let (watch, counters, trips) = self.shared.table().cell(link, slot);
        CellReading::new(watch, counters, &trips)
    }

    /// See [`super::Plane::probes_sent`].
    pub fn probes_sent(&self, link: u8, slot: u8) -> u64 {
        self.shared.table().cell(link, slot).1.probes_sent
    }

    /// See [`super::Plane::heard_ns`].
    pub fn heard_ns(&self, link: u8, slot: u8) -> u64 {
        self.shared.table().cell(link, slot).0.heard_ns
    }

    /// See [`super::Plane::slot`].
    pub fn slot(&self, link: u8, slot: u8) -> Slot {
        self.shared.table().slot(link, slot)
    }

    /// See [`super::Plane::state`].
    pub fn state(&self, link: u8, slot: u8) -> u64 {
        self.shared.table().cell(link, slot).0.state
    }

    /// See [`super::Plane::drops`].
    pub fn drops(&self, link: u8) -> [u64; DROPS_MAX] {
        self.shared.table().drops(link)
    }

    /// See [`super::Plane::tick`].
    pub fn tick(&self) -> Tick {
        self.shared.table().tick
    }

    /// See [`super::Plane::mode`].
    pub fn mode(&self, _link: u8) -> (Mode, Option<String>) {
        (Mode::Socket, Some(self.why.clone()))
    }

    /// See [`super::Plane::lease`].
    pub fn lease(&self) -> LeaseCells<'_> {
        LeaseCells(&self.lease)
    }

    /// See [`super::Plane::next_handshake`].
    pub fn next_handshake(&self) -> Option<(u8, Frame)> {
        self.shared.handshakes().pop_front()
    }

    /// See [`super::Plane::next_message`].
    pub fn next_message(&self) -> Option<(u8, Vec<u8>)> {
        self.shared.messages().pop_front()
    }
}

/// The thread: sleeps until a frame, a beat or a deadline.
fn run(shared: &Shared, sockets: &[Arc<LinkSockets>], book: &Book) {
    let mut pace: Vec<Pace> =
        shared.fresh_ns.iter().map(|link| Pace::new(link.interval_ns, boot_ns())).collect();
    let mut tick_ns = boot_ns();
    loop {
        let mut now_ns = boot_ns();
        if now_ns >= tick_ns {
            tick_ns = shared.table().expire(tick_ns, now_ns);
        }
        for (link, (pace, sockets)) in shared.fresh_ns.iter().zip(pace.iter_mut().zip(sockets)) {
            if let Some(late_ns) = pace.due(now_ns) {
                book.beat(link.id, late_ns, pace.skipped());
                beat(shared, link.id, sockets, book);
            }
        }
        wake_if_any(shared);
        now_ns = boot_ns();
        let next_ns = pace.iter().map(Pace::next_ns).min().unwrap_or(u64::MAX).min(tick_ns);
        let timeout = timespec(next_ns.saturating_sub(now_ns));
        let mut polled: Vec<PollFd<'_>> = sockets
            .iter()
            .flat_map(|link| [link.own(), link.everyone()])
            .map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN))
            .collect();
        let _ = poll(&mut polled, Some(&timeout));
        for (link, sockets) in shared.fresh_ns.iter().zip(sockets) {
            take(shared, link.id, sockets);
        }
        wake_if_any(shared);
    }
}

fn beat(shared: &Shared, link: u8, sockets: &LinkSockets, book: &Book) {
    let targets: Vec<u8> = shared.table().accepted(link).collect();
    for target in targets {
        let now_ns = boot_ns();
        let Some(frame) = shared.table().probe(link, target, now_ns) else { continue };
        if let Err(error) = sockets.send(target, &frame.to_bytes()) {
            shared.table().unsent(link, target, now_ns);
            book.send_error(link, &error);
        }
    }
}

fn take(shared: &Shared, link: u8, sockets: &LinkSockets) {
    // One byte more than a message: a longer one is seen to be longer.
    let mut buffer = [0; ENVELOPE_BYTES_MAX + 1];
    for socket in [sockets.own(), sockets.everyone()] {
        for _ in 0..BURST_MAX {
            let Ok((length, from)) = LinkSockets::receive(socket, &mut buffer) else { break };
            let now_ns = boot_ns();
            let frame = Frame::from_bytes(&buffer[..length]).filter(|frame| frame.magic() == MAGIC);
            let Some(mut frame) = frame else {
                let mut messages = shared.messages();
                if messages.len() < EVENTS_MAX {
                    messages.push_back((link, buffer[..length].to_vec()));
                }
                continue;
            };
            let outcome = shared.table().receive(link, &mut frame, now_ns);
            match outcome {
                Outcome::Answer(answer) => answer_to(sockets, from, &answer),
                Outcome::Handshake => {
                    let mut handshakes = shared.handshakes();
                    if handshakes.len() < EVENTS_MAX {
                        handshakes.push_back((link, frame));
                    }
                }
                Outcome::Taken | Outcome::Dropped => {}
            }
        }
    }
}

fn answer_to(sockets: &LinkSockets, to: SocketAddr, answer: &Frame) {
    if let Err(error) = sockets.send_to(to, &answer.to_bytes()) {
        tracing::trace!(%to, %error, "an answer could not leave");
    }
}

fn wake_if_any(shared: &Shared) {
    let waits =
        !shared.table().events.is_empty() || !shared.handshakes().is_empty() || !shared.messages().is_empty();
    if waits {
        let _ = rustix::io::write(&shared.wake, &1u64.to_ne_bytes());
    }
}
