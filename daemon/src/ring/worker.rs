//! The thread's own loop: orders of the main loop, frames of the links, requests of programs, and what comes of all that.
//!
//! Each input's outputs are carried out before the next input, as the core's contract asks. What leaves, leaves at the end of
//! each round: frames first, programs then.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ringbeat_client::wire::{self, Answer, Code, Request, kind};
use ringbeat_control::RingReport;
use ringbeat_core::cpg::{self, Groups, Member, Name};
use ringbeat_core::srp::{self, Ring};
use rustix::event::{PollFd, PollFlags, poll};

use super::clients::{Client, Clients, Next, welcome};
use super::links::Links;
use super::seal::{Opener, Refused, Sealer};
use super::{Order, Said};
use crate::sys::clock::{boot_ns, timespec};
use crate::sys::realtime::Courtesy;

/// Datagrams of one link in one round.
const BURST_MAX: usize = 512;
/// Requests of one program in one round.
const REQUESTS_MAX: usize = 256;
/// The report is as old as this at the most while there is work, in ns.
const REPORT_NS: u64 = 100_000_000;
/// The longest sleep while nobody can be let in.
const SHUT_LOOK_NS: u64 = 20_000_000;
/// The longest sleep.
const SLEEP_NS: u64 = 1_000_000_000;
/// CPU time without a sleep after which the thread makes a pause of its own, in ns: a real-time thread that takes none loses its
/// priority, and all threads of the daemon theirs with it.
const BREATH_NS: u64 = 50_000_000;
/// That pause.
const PAUSE: Duration = Duration::from_micros(50);

/// What the thread works on.
pub(super) struct Worker {
    pub(super) node: u8,
    pub(super) ring: Ring,
    pub(super) groups: Groups,
    pub(super) links: Links,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) clients: Clients,
    pub(super) orders: Receiver<Order>,
    pub(super) wake: Arc<OwnedFd>,
    pub(super) said: Sender<Said>,
    pub(super) main: Arc<OwnedFd>,
    pub(super) report: Arc<Mutex<RingReport>>,
    /// Messages of this daemon that the ring had no room for: they go before those of programs.
    pub(super) waiting: VecDeque<Bytes>,
    /// With which program a round begins.
    pub(super) turn: usize,
    /// Whether the main loop has ordered something, and somebody knocks, as the last sleep has found.
    pub(super) has_orders: bool,
    pub(super) has_knocks: bool,
    pub(super) counts: Counts,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    pub(super) refused: u64,
    pub(super) replayed: u64,
    pub(super) let_go: u64,
}

impl Worker {
    /// Runs until the main loop has gone.
    pub(super) fn run(mut self, mut courtesy: Courtesy) {
        let mut reported_ns = 0;
        let mut awake_since_ns = boot_ns();
        loop {
            let has_slept = self.wait();
            let now_ns = boot_ns();
            if has_slept {
                awake_since_ns = now_ns;
            } else if now_ns > awake_since_ns + BREATH_NS {
                std::thread::sleep(PAUSE);
                awake_since_ns = boot_ns();
            }
            courtesy.look(now_ns);
            if !self.take_orders(now_ns) {
                return;
            }
            self.take_frames(now_ns);
            if self.ring.next_timeout().is_some_and(|at| at <= now_ns) {
                self.give(srp::Input::Timeout, now_ns);
            }
            self.take_requests(now_ns);
            self.links.flush();
            self.clients.iter_mut().for_each(Client::write);
            self.clients.bound();
            self.let_go(now_ns);
            self.links.flush();
            if now_ns >= reported_ns + REPORT_NS || has_slept {
                reported_ns = now_ns;
                self.tell_report();
            }
        }
    }

    /// Sleeps until there is something to do, and notes where. Whether it has slept at all.
    fn wait(&mut self) -> bool {
        let now_ns = boot_ns();
        let mut until_ns = self.ring.next_timeout().unwrap_or(u64::MAX).min(now_ns + SLEEP_NS);
        let (has_room, is_open) = (self.has_room(), self.clients.is_open(now_ns));
        let mut fds = vec![PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        let door = if is_open { PollFlags::IN } else { PollFlags::empty() };
        fds.push(PollFd::from_borrowed_fd(self.clients.fd(), door));
        if !is_open {
            until_ns = until_ns.min(now_ns + SHUT_LOOK_NS);
        }
        fds.extend(self.links.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let first_client = fds.len();
        let mut places = Vec::with_capacity(self.clients.len());
        for (place, client) in self.clients.iter().enumerate() {
            if client.has_work(has_room) {
                until_ns = now_ns;
            }
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, client.reads());
            flags.set(PollFlags::OUT, client.writes());
            // One that nothing is wanted of would wake the thread without end if it has gone.
            if !flags.is_empty() {
                places.push(place);
                fds.push(PollFd::from_borrowed_fd(client.fd(), flags));
            }
        }
        let timeout = timespec(until_ns.saturating_sub(now_ns));
        let before_ns = boot_ns();
        let is_told = poll(&mut fds, Some(&timeout)).is_ok();
        // A call that comes back at once has not slept.
        let has_slept = boot_ns() > before_ns + 5_000;
        let ready: Vec<bool> = fds.iter().map(|fd| is_told && !fd.revents().is_empty()).collect();
        let (shared, clients) = ready.split_at(first_client);
        (self.has_orders, self.has_knocks) = (shared[0], shared[1]);
        self.links.note_ready(&shared[2..]);
        for (place, ready) in places.into_iter().zip(clients) {
            if let Some((client, _)) = self.clients.at(place) {
                client.is_ready = *ready;
            }
        }
        has_slept
    }

    fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.ring.has_room()
    }

    /// False once the main loop has gone.
    fn take_orders(&mut self, now_ns: u64) -> bool {
        if !self.has_orders {
            return true;
        }
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        loop {
            match self.orders.try_recv() {
                Ok(Order::Accepted { slot, incarnation }) => self.opener.accept(slot, incarnation),
                Ok(Order::Edges(edges)) => self.links.set_edges(*edges),
                Ok(Order::Freeze) => self.give(srp::Input::Freeze, now_ns),
                Ok(Order::Form(view)) => self.give(srp::Input::Form { view }, now_ns),
                Ok(Order::Apart) => {
                    self.give(srp::Input::Freeze, now_ns);
                    self.clients.stand_apart();
                }
                Ok(Order::Abandon(view)) => self.give(srp::Input::Abandon { view }, now_ns),
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn take_frames(&mut self, now_ns: u64) {
        let mut frames: Vec<(u8, BytesMut)> = Vec::new();
        self.links.receive(BURST_MAX, |link, frame| frames.push((link, frame)));
        for (link, frame) in frames {
            match self.opener.open(link, frame) {
                Ok((from, bytes)) => self.give(srp::Input::Frame { from, bytes }, now_ns),
                Err(Refused::Replayed) => self.counts.replayed += 1,
                Err(why) => {
                    self.counts.refused += 1;
                    tracing::trace!(link, ?why, "a frame of the ring was not opened");
                }
            }
        }
    }

    /// Hands the ring an input, and carries out what it says.
    fn give(&mut self, input: srp::Input, now_ns: u64) {
        self.ring.handle(input, now_ns);
        self.carry_out();
        self.send_waiting(now_ns);
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.ring.poll_output() {
            match output {
                srp::Output::Send { to, bytes } => self.links.send(to, &bytes, &mut self.sealer),
                srp::Output::Deliver { from, bytes } => {
                    self.counts.delivered += 1;
                    self.counts.bytes += bytes.len() as u64;
                    self.groups.delivered(from, bytes);
                }
                srp::Output::Transitional { members } => self.groups.transitional(members),
                srp::Output::Regular { view } => {
                    self.tell_main(Said::Regular { view, stamp_ns: boot_ns() });
                    self.groups.regular(view.members);
                }
                srp::Output::Lost { view } => {
                    self.counts.lost += 1;
                    self.tell_main(Said::Lost { view });
                }
            }
            self.carry_out_groups();
        }
    }

    fn carry_out_groups(&mut self) {
        while let Some(output) = self.groups.poll_output() {
            match output {
                cpg::Output::First { bytes } => self.ring.submit_first(bytes),
                cpg::Output::Configuration { group, members, left, joined } => {
                    self.configuration(&group, &members, &left, &joined);
                }
                cpg::Output::Message { group, from, piece, bytes } => {
                    self.message(&group, from, piece, &bytes)
                }
            }
        }
    }

    fn message(&mut self, group: &Name, from: Member, piece: cpg::Piece, bytes: &Bytes) {
        let mut head = BytesMut::new();
        let piece = wire::Piece { goes_on: piece.goes_on, more: piece.more };
        wire::put_message(&mut head, group.as_bytes(), outside(from), piece, bytes.len());
        let own = self.node - 1;
        for member in self.groups.members(group).filter(|member| member.slot == own) {
            if let Some(client) = self.clients.of(member.pid) {
                client.give(&head, bytes);
            }
        }
    }

    fn configuration(
        &mut self,
        group: &Name,
        members: &[Member],
        left: &[(Member, cpg::Reason)],
        joined: &[(Member, cpg::Reason)],
    ) {
        let change = |change: &(Member, cpg::Reason)| (outside(change.0), reason(change.1));
        let answer = Answer::Configuration {
            group: Bytes::copy_from_slice(group.as_bytes()),
            members: members.iter().copied().map(outside).collect(),
            left: left.iter().map(change).collect(),
            joined: joined.iter().map(change).collect(),
        };
        let own = self.node - 1;
        let concerned = members.iter().chain(left.iter().map(|(member, _)| member));
        for member in concerned.filter(|member| member.slot == own) {
            if let Some(client) = self.clients.of(member.pid) {
                client.tell(&answer);
            }
        }
    }

    fn tell_main(&self, said: Said) {
        let _ = self.said.send(said);
        let _ = rustix::io::write(&*self.main, &1u64.to_ne_bytes());
    }

    /// Messages of this daemon that had to wait.
    fn send_waiting(&mut self, now_ns: u64) {
        while let Some(bytes) = self.waiting.pop_front() {
            if let Err(bytes) = self.ring.submit(bytes, false, now_ns) {
                self.waiting.push_front(bytes);
                return;
            }
            self.carry_out();
        }
    }

    /// Lets in who knocks, and hears what programs ask. Those who send wait while the ring has no room; each round begins with
    /// another one.
    fn take_requests(&mut self, now_ns: u64) {
        let own = self.node - 1;
        let groups = &self.groups;
        if self.has_knocks {
            self.clients.accept(now_ns, |pid| groups.has_member(own, pid));
        }
        let count = self.clients.len();
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn;
        for place in (0..count).map(|place| place.wrapping_add(turn) % count) {
            if let Some((client, buffer)) = self.clients.at(place)
                && std::mem::take(&mut client.is_ready)
                && client.reads()
            {
                client.read(buffer);
            }
            for _ in 0..REQUESTS_MAX {
                let has_room = self.has_room();
                let Some((client, _)) = self.clients.at(place) else { break };
                if client.ends.is_some() || client.is_pushed_back() {
                    break;
                }
                match client.next() {
                    Next::Request(request) if !has_room && is_message(&request) => {
                        client.held = Some(request);
                        break;
                    }
                    Next::Request(request) => self.request(place, request, now_ns),
                    Next::Broken => {
                        refuse(
                            client,
                            0,
                            Code::Protocol,
                            "this is not a request of this protocol".to_owned(),
                        );
                        client.ends = Some("it does not speak this protocol");
                        break;
                    }
                    Next::Nothing => break,
                }
            }
            if let Some((client, _)) = self.clients.at(place)
                && client.is_done()
            {
                client.ends = client.ends.or(Some("it has gone"));
            }
        }
    }

    fn request(&mut self, place: usize, request: Request, now_ns: u64) {
        let node = self.node;
        let Some((client, _)) = self.clients.at(place) else { return };
        let pid = client.pid;
        if let Request::Hello { version } = request {
            if version != wire::VERSION || client.is_known {
                refuse(
                    client,
                    kind::HELLO,
                    Code::Protocol,
                    format!("this daemon speaks version {}", wire::VERSION),
                );
                client.ends = Some("it speaks another version");
                return;
            }
            client.is_known = true;
            client.tell(&welcome(node, pid));
            return;
        }
        if !client.is_known {
            refuse(client, 0, Code::Protocol, "say hello first".to_owned());
            client.ends = Some("it did not say hello");
            return;
        }
        match request {
            Request::Hello { .. } => {}
            Request::Join { group } => {
                let Some(group) = Name::new(group) else { return };
                match self.groups.join(&group, pid) {
                    Ok(bytes) => {
                        self.groups.asked_in(group, pid);
                        self.done(place, kind::JOIN);
                        self.submit(bytes, now_ns);
                    }
                    Err(why) => self.refused(place, kind::JOIN, why),
                }
            }
            Request::Leave { group } => {
                let Some(group) = Name::new(group) else { return };
                match self.groups.leave(&group, pid, false) {
                    Ok(bytes) => {
                        self.done(place, kind::LEAVE);
                        self.submit(bytes, now_ns);
                    }
                    Err(why) => self.refused(place, kind::LEAVE, why),
                }
            }
            Request::Send { group, piece, bytes } => {
                let length = bytes.len();
                if length > wire::PIECE_MAX {
                    let text = format!("{length} bytes in one piece, {} at the most", wire::PIECE_MAX);
                    if let Some((client, _)) = self.clients.at(place) {
                        refuse(client, kind::SEND, Code::TooLong, text);
                    }
                    return;
                }
                let Some(group) = Name::new(group) else { return };
                match self.groups.send(
                    &group,
                    pid,
                    cpg::Piece { goes_on: piece.goes_on, more: piece.more },
                    &bytes,
                ) {
                    Ok(bytes) => self.submit(bytes, now_ns),
                    Err(why) => self.refused(place, kind::SEND, why),
                }
            }
            Request::List => {
                let groups = self.groups.all().map(|(group, members)| {
                    let members = members.iter().copied().map(outside).collect();
                    (Bytes::copy_from_slice(group.as_bytes()), members)
                });
                let answer = Answer::Listing { groups: groups.take(usize::from(u16::MAX)).collect() };
                if let Some((client, _)) = self.clients.at(place) {
                    client.tell(&answer);
                }
            }
        }
    }

    fn submit(&mut self, bytes: Bytes, now_ns: u64) {
        self.waiting.push_back(bytes);
        self.send_waiting(now_ns);
    }

    fn done(&mut self, place: usize, of: u8) {
        if let Some((client, _)) = self.clients.at(place) {
            client.tell(&Answer::Done { of });
        }
    }

    fn refused(&mut self, place: usize, of: u8, why: cpg::Refused) {
        let code = match why {
            cpg::Refused::Exists => Code::Exists,
            cpg::Refused::NotMember => Code::NotMember,
            cpg::Refused::Full | cpg::Refused::TooMany => Code::Full,
        };
        if let Some((client, _)) = self.clients.at(place) {
            refuse(client, of, code, why.to_string());
        }
    }

    /// Whoever has gone leaves its groups.
    fn let_go(&mut self, now_ns: u64) {
        while let Some(mut client) = self.clients.take_ended() {
            let pid = client.pid;
            let why = client.ends.unwrap_or_default();
            tracing::debug!(pid, why, "a program of process groups is let go");
            self.counts.let_go += 1;
            client.write();
            drop(client);
            let groups: Vec<Name> = self.groups.places_of(pid).cloned().collect();
            for group in groups {
                if let Ok(bytes) = self.groups.leave(&group, pid, true) {
                    self.submit(bytes, now_ns);
                }
            }
        }
    }

    fn tell_report(&self) {
        let (links, groups) = (self.links.counts(), self.groups.all().count() as u64);
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.state = self.ring.state().to_owned();
        report.epoch = self.ring.view().epoch;
        report.backlog = self.ring.backlog() as u64;
        report.delivered = self.counts.delivered;
        report.delivered_bytes = self.counts.bytes;
        report.lost = self.counts.lost;
        report.frames_sent = links.sent;
        report.frames_received = links.received;
        report.frames_unsent = links.refused;
        report.frames_refused = self.counts.refused;
        report.frames_replayed = self.counts.replayed;
        report.programs = self.clients.len() as u64;
        report.programs_let_go = self.counts.let_go;
        report.groups = groups;
    }
}

/// Whether it is a message for the ring.
const fn is_message(request: &Request) -> bool {
    matches!(request, Request::Join { .. } | Request::Leave { .. } | Request::Send { .. })
}

fn refuse(client: &mut Client, of: u8, code: Code, text: String) {
    client.tell(&Answer::Refused { of, code, text });
}

/// A member as programs know it.
const fn outside(member: Member) -> wire::Member {
    wire::Member { node: member.slot + 1, pid: member.pid }
}

const fn reason(reason: cpg::Reason) -> wire::Reason {
    match reason {
        cpg::Reason::Join => wire::Reason::Join,
        cpg::Reason::Leave => wire::Reason::Leave,
        cpg::Reason::NodeDown => wire::Reason::NodeDown,
        cpg::Reason::NodeUp => wire::Reason::NodeUp,
        cpg::Reason::ProcessDown => wire::Reason::ProcessDown,
    }
}
