//! The beat: one real-time thread that sends a probe to every accepted peer on every link, on an absolute schedule.
//!
//! A beat that is missed is skipped, never caught up: a burst after a stall would only crowd out what matters. What a
//! probe says is filled in by the egress program at the moment of leaving; here are only its addresses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use ringbeat_common::frame::{FRAME_BYTES, Frame, Kind};
use ringbeat_common::histogram::Histogram;
use ringbeat_common::limits::{LINKS_MAX, NODES_MAX};

use crate::plane::PlaneLink;
use crate::sockets::LinkSockets;
use crate::sys::clock::{boot_ns, sleep_until};
use crate::sys::realtime::Breath;
use crate::sys::socket::Batch;

/// The points of time of one link's beats.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    next_ns: u64,
    interval_ns: u64,
    skipped: u64,
}

impl Pace {
    /// Beats from now on.
    pub const fn new(interval_ns: u64, now_ns: u64) -> Self {
        Self { next_ns: now_ns + interval_ns, interval_ns, skipped: 0 }
    }

    /// How late the beat is that is due, if one is; the ones after it that are past, too, are left out.
    pub const fn due(&mut self, now_ns: u64) -> Option<u64> {
        if now_ns < self.next_ns {
            return None;
        }
        let late_ns = now_ns - self.next_ns;
        self.skipped = late_ns / self.interval_ns;
        self.next_ns += (self.skipped + 1) * self.interval_ns;
        Some(late_ns)
    }

    /// How many beats the last [`Pace::due`] left out.
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// When the next beat is due.
    pub const fn next_ns(&self) -> u64 {
        self.next_ns
    }
}

/// What the beating thread and the main loop share.
pub struct Book {
    /// The slots to probe, for each link.
    targets: [AtomicU64; LINKS_MAX],
    send_errors: [AtomicU64; LINKS_MAX],
    last_error: [AtomicI32; LINKS_MAX],
    skipped: [AtomicU64; LINKS_MAX],
    lateness: [Mutex<Histogram>; LINKS_MAX],
}

impl Default for Book {
    fn default() -> Self {
        Self {
            targets: [const { AtomicU64::new(0) }; LINKS_MAX],
            send_errors: [const { AtomicU64::new(0) }; LINKS_MAX],
            last_error: [const { AtomicI32::new(0) }; LINKS_MAX],
            skipped: [const { AtomicU64::new(0) }; LINKS_MAX],
            lateness: [const { Mutex::new(Histogram::EMPTY) }; LINKS_MAX],
        }
    }
}

impl Book {
    /// Probes these slots on the link from now on.
    pub fn aim(&self, link: u8, slots: u64) {
        self.targets[usize::from(link) % LINKS_MAX].store(slots, Ordering::Release);
    }

    /// A beat of the link that was late by so much, after so many that were left out.
    pub fn beat(&self, link: u8, late_ns: u64, skipped: u64) {
        let link = usize::from(link) % LINKS_MAX;
        self.skipped[link].fetch_add(skipped, Ordering::Relaxed);
        // Held for the length of a copy by whoever shows it, and longer where that thread stands still: a beat waits for
        // nobody, and goes unrecorded.
        match self.lateness[link].try_lock() {
            Ok(mut lateness) => lateness.record(late_ns),
            Err(TryLockError::Poisoned(lateness)) => lateness.into_inner().record(late_ns),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// A probe that could not leave.
    pub fn send_error(&self, link: u8, error: &io::Error) {
        let link = usize::from(link) % LINKS_MAX;
        self.send_errors[link].fetch_add(1, Ordering::Relaxed);
        self.last_error[link].store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
    }

    /// Probes that could not leave, and why the last one could not.
    pub fn send_errors(&self, link: u8) -> (u64, Option<io::Error>) {
        let link = usize::from(link) % LINKS_MAX;
        let last = self.last_error[link].load(Ordering::Relaxed);
        let errors = self.send_errors[link].load(Ordering::Relaxed);
        (errors, (last != 0).then(|| io::Error::from_raw_os_error(last)))
    }

    /// Beats of the link that were left out.
    pub fn skipped(&self, link: u8) -> u64 {
        self.skipped[usize::from(link) % LINKS_MAX].load(Ordering::Relaxed)
    }

    /// How late the link's beats were.
    pub fn lateness(&self, link: u8) -> Histogram {
        *self.lateness[usize::from(link) % LINKS_MAX].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that beats for the kernel plane; `enter` runs first in it (scheduling).
pub fn start(
    links: Vec<(PlaneLink, Arc<LinkSockets>)>,
    book: Arc<Book>,
    enter: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    std::thread::Builder::new().name("ringbeat-probe".to_owned()).stack_size(256 << 10).spawn(move || {
        enter();
        run(&links, &book);
    })?;
    Ok(())
}

fn run(links: &[(PlaneLink, Arc<LinkSockets>)], book: &Book) {
    let start_ns = boot_ns();
    let mut pace: Vec<Pace> = links.iter().map(|(link, _)| Pace::new(link.interval_ns, start_ns)).collect();
    let (mut batch, mut breath) = (Batch::new(NODES_MAX), Breath::default());
    loop {
        let next_ns = pace.iter().map(Pace::next_ns).min().unwrap_or(u64::MAX);
        let has_slept = next_ns > boot_ns();
        if has_slept {
            sleep_until(next_ns);
        }
        breath.taken(has_slept);
        for ((link, sockets), pace) in links.iter().zip(&mut pace) {
            if let Some(late_ns) = pace.due(boot_ns()) {
                book.beat(link.id, late_ns, pace.skipped());
                beat(link.id, sockets, book, &mut batch);
            }
        }
    }
}

/// One probe to each target; what could not leave is counted, and the others still leave.
fn beat(link: u8, sockets: &LinkSockets, book: &Book, batch: &mut Batch<FRAME_BYTES>) {
    let targets = book.targets[usize::from(link) % LINKS_MAX].load(Ordering::Acquire);
    if targets == 0 {
        return;
    }
    for slot in 0..NODES_MAX as u8 {
        if targets & (1 << slot) != 0
            && let Some(address) = sockets.address_of(slot)
        {
            batch.push(address, template(link, slot));
        }
    }
    batch.send(sockets.own(), |error| book.send_error(link, &error));
}

/// A probe but for what the egress program fills in.
fn template(link: u8, target: u8) -> [u8; FRAME_BYTES] {
    let mut frame = Frame::new(Kind::Probe);
    frame.set_link(link);
    frame.set_target(target);
    frame.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::Pace;

    #[test]
    fn missed_beats_are_skipped_and_the_grid_is_kept() {
        let mut pace = Pace::new(10, 100);
        assert_eq!(pace.due(109), None);
        assert_eq!((pace.due(110), pace.next_ns()), (Some(0), 120));
        assert_eq!((pace.due(155), pace.skipped(), pace.next_ns()), (Some(35), 3, 160));
        assert_eq!((pace.due(159), pace.due(160)), (None, Some(0)));
    }
}
