//! The client's view of a service address: who answers, when, thousands of times a second.
//!
//! Requests (ICMP echo, RFC 792) go straight to each node's MAC address, so every node that would answer does, whatever
//! the neighbours believe. Each carries its node and a number; the time of its sending is remembered here.

use std::{
    collections::HashSet,
    io::ErrorKind,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::{Timespec, clock_gettime};

use crate::{
    Lab, PacketSocket,
    lab::{SERVICE, mac},
    sys::{
        clock::boottime_ns,
        sched::{Policy, set_policy},
    },
};

/// Between two requests to one node.
const EVERY_NS: u64 = 190_000;
/// Above the load, below the daemons.
const PRIORITY: i32 = 20;
/// How long the receiver waits before it looks whether it shall end.
const PATIENCE: Duration = Duration::from_millis(50);
/// Marks our requests.
const IDENTIFIER: u16 = 0x5242;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 250);
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// Ethernet and IPv4 headers.
const HEADERS: usize = 14 + 20;
/// With the stamp of sending.
pub(crate) const REQUEST_BYTES: usize = HEADERS + 8 + 8;

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The node's id.
    pub(crate) node: u8,
    /// When the request was sent.
    pub(crate) sent_ns: u64,
    /// When the answer was here.
    pub(crate) received_ns: u64,
}

/// Asks until it is dropped.
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<u64>>>,
    answers: Arc<Mutex<Vec<Answer>>>,
    rounds: Arc<AtomicU64>,
    since: Instant,
    threads: Vec<JoinHandle<()>>,
}

impl Prober {
    /// Asks all nodes of the lab for this address.
    pub(crate) fn start(lab: &Lab, address: Ipv4Addr) -> Result<Self> {
        let client = lab.node("client")?;
        let (out, into) = (client.packets("svc0")?, client.packets("svc0")?);
        into.set_patience(PATIENCE)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, answers) = (Arc::<Mutex<Vec<u64>>>::default(), Arc::<Mutex<Vec<Answer>>>::default());
        let nodes = (1..=lab.spec().nodes).collect::<Vec<_>>();
        let (asking, hearing) = (Arc::clone(&stop), Arc::clone(&stop));
        let (sent, heard) = (Arc::clone(&asked), Arc::clone(&answers));
        let rounds = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&rounds);
        let threads = vec![
            thread::spawn(move || {
                let _ = set_policy(Policy::Fifo(PRIORITY));
                ask(&out, address, &nodes, &sent, &counted, &asking);
            }),
            thread::spawn(move || {
                let _ = set_policy(Policy::Fifo(PRIORITY));
                hear(&into, address, &heard, &hearing);
            }),
        ];
        Ok(Self { stop, asked, answers, rounds, since: Instant::now(), threads })
    }

    /// How often each node was asked in a second, from the start on.
    pub(crate) fn asked_per_s(&self) -> f64 {
        self.rounds.load(Ordering::Relaxed) as f64 / self.since.elapsed().as_secs_f64()
    }

    /// The answers so far, in the order in which they came.
    pub(crate) fn answers(&self) -> Vec<Answer> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The longest time in which no request was answered by anybody, from the first of them to the first that was again.
    ///
    /// While the machine stands still nothing is asked, and what is answered late is answered: so this is the address's
    /// own silence. The newest requests, whose answers may be on their way, do not count.
    pub(crate) fn longest_unanswered_ns(&self) -> u64 {
        let answers = self.answers();
        let Some(newest_ns) = answers.iter().map(|answer| answer.sent_ns).max() else { return u64::MAX };
        let answered: HashSet<u64> = answers.iter().map(|answer| answer.sent_ns).collect();
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        longest_unanswered_ns(asked.into_iter().filter(|sent_ns| *sent_ns <= newest_ns), &answered)
    }

    /// Forgets the requests and answers so far.
    pub(crate) fn forget(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The first answer of another node than this to come after `since_ns`.
    pub(crate) fn first_of_others(&self, than: u8, since_ns: u64) -> Option<Answer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().find(|answer| answer.node != than && answer.received_ns > since_ns).copied()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn longest_unanswered_ns(asked: impl Iterator<Item = u64>, answered: &HashSet<u64>) -> u64 {
    let (mut longest_ns, mut since_ns) = (0, None);
    for sent_ns in asked {
        if answered.contains(&sent_ns) {
            longest_ns = longest_ns.max(since_ns.take().map_or(0, |since_ns| sent_ns - since_ns));
        } else {
            since_ns.get_or_insert(sent_ns);
        }
    }
    longest_ns
}

fn ask(
    socket: &PacketSocket,
    address: Ipv4Addr,
    nodes: &[u8],
    asked: &Mutex<Vec<u64>>,
    rounds: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut number = 0u16;
    let mut at = clock_gettime(ClockId::Monotonic);
    while !stop.load(Ordering::Relaxed) {
        number = number.wrapping_add(1);
        rounds.fetch_add(1, Ordering::Relaxed);
        // One stamp for all: it is what tells the requests of one round.
        let sent_ns = boottime_ns();
        asked.lock().unwrap_or_else(PoisonError::into_inner).push(sent_ns);
        for node in nodes {
            let _ = socket.send(&request(address, *node, number, sent_ns));
        }
        at = after(at, EVERY_NS);
        let now = clock_gettime(ClockId::Monotonic);
        if (now.tv_sec, now.tv_nsec) > (at.tv_sec, at.tv_nsec) {
            // What was missed is missed.
            at = now;
        }
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &at);
    }
}

fn hear(socket: &PacketSocket, address: Ipv4Addr, answers: &Mutex<Vec<Answer>>, stop: &AtomicBool) {
    let mut buffer = [0; 256];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(frame) => {
                let received_ns = boottime_ns();
                if let Some((node, sent_ns)) = answer(frame, address) {
                    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                    answers.push(Answer { node, sent_ns, received_ns });
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}

fn request(address: Ipv4Addr, node: u8, number: u16, now_ns: u64) -> [u8; REQUEST_BYTES] {
    let macs = (mac(SERVICE, crate::lab::CLIENT_SLOT), mac(SERVICE, node));
    echo(macs, (CLIENT, address), (IDENTIFIER + u16::from(node), number), now_ns)
}

/// An echo request, from and to these, with this identifier and number.
pub(crate) fn echo(
    (from_mac, to_mac): ([u8; 6], [u8; 6]),
    (from, to): (Ipv4Addr, Ipv4Addr),
    (identifier, number): (u16, u16),
    now_ns: u64,
) -> [u8; REQUEST_BYTES] {
    let mut frame = [0; REQUEST_BYTES];
    frame[..6].copy_from_slice(&to_mac);
    frame[6..12].copy_from_slice(&from_mac);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip = &mut frame[14..HEADERS];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((REQUEST_BYTES - 14) as u16).to_be_bytes());
    (ip[8], ip[9]) = (64, 1);
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let icmp = &mut frame[HEADERS..];
    icmp[0] = ECHO_REQUEST;
    icmp[4..6].copy_from_slice(&identifier.to_be_bytes());
    icmp[6..8].copy_from_slice(&number.to_be_bytes());
    icmp[8..16].copy_from_slice(&now_ns.to_be_bytes());
    let sum = checksum(icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The node that answers, and when it was asked.
fn answer(frame: &[u8], address: Ipv4Addr) -> Option<(u8, u64)> {
    let fixed: &[u8; REQUEST_BYTES] = frame.first_chunk()?;
    let is_reply = fixed[12..14] == [0x08, 0x00]
        && fixed[14] == 0x45
        && fixed[23] == 1
        && fixed[26..30] == address.octets()
        && fixed[HEADERS] == ECHO_REPLY;
    let identifier = u16::from_be_bytes([fixed[HEADERS + 4], fixed[HEADERS + 5]]);
    let node = u8::try_from(identifier.checked_sub(IDENTIFIER)?).ok()?;
    let sent = fixed[HEADERS + 8..].first_chunk::<8>()?;
    (is_reply && fixed[6..12] == mac(SERVICE, node)).then_some((node, u64::from_be_bytes(*sent)))
}

/// The internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn after(at: Timespec, ns: u64) -> Timespec {
    let total = at.tv_nsec.unsigned_abs() + ns;
    Timespec {
        tv_sec: at.tv_sec + (total / 1_000_000_000).cast_signed(),
        tv_nsec: (total % 1_000_000_000).cast_signed(),
    }
}

/// The address of a lab's first service address, IPv4.
pub(crate) fn probed(lab: &Lab) -> Result<Ipv4Addr> {
    let first = lab.spec().addresses.iter().find_map(|address| address.split('/').next()?.parse().ok());
    first.context("the lab has no IPv4 service address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_what_was_asked_and_not_answered() {
        let longest = |asked: &[u64], answered: &[u64]| {
            longest_unanswered_ns(asked.iter().copied(), &answered.iter().copied().collect())
        };
        assert_eq!(longest(&[1, 2, 3, 900, 901], &[1, 2, 3, 900, 901]), 0, "nothing was asked in between");
        assert_eq!(longest(&[1, 2, 3, 4, 5, 6], &[1, 4, 6]), 2);
        assert_eq!(longest(&[1, 2, 3], &[1]), 0, "not over yet");
    }

    #[test]
    fn an_answer_tells_its_node_and_the_time_of_the_request() {
        let address = Ipv4Addr::new(10, 78, 0, 100);
        let mut frame = request(address, 3, 7, 123_456);
        assert_eq!(answer(&frame, address), None, "a request");
        assert_eq!(checksum(&frame[14..HEADERS]), 0);
        assert_eq!(checksum(&frame[HEADERS..]), 0);
        frame[26..30].copy_from_slice(&address.octets());
        frame[30..34].copy_from_slice(&CLIENT.octets());
        frame[6..12].copy_from_slice(&mac(SERVICE, 3));
        frame[HEADERS] = ECHO_REPLY;
        assert_eq!(answer(&frame, address), Some((3, 123_456)));
        frame[11] = 4;
        assert_eq!(answer(&frame, address), None, "from another machine");
    }
}
