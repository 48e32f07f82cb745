//! Who let packets of the address pass, and when: the gates' own logs of a whole lab, and the judgement over them.
//!
//! Each gate notes the first and the last packet that has passed since it was opened. A thread reads those logs all the
//! time and keeps every such *tenure*, of gates whose daemon is dead too, for a pinned map outlives it. Tenures of
//! two nodes that overlap are two holders; an answer outside of all tenures of its node came round the gate.

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData};
use ringbeat_common::maps::{ABI, GateLog};
use ringbeatd::sys::mapped::Mapped;

use super::clock_of;
use crate::{
    Lab, Node,
    bench::prober::Answer,
    sys::sched::{Policy, set_policy},
};

/// How often the logs are read: a gate that was closed opens again no sooner.
const LOOK: Duration = Duration::from_micros(500);
/// Beside the prober's threads.
const PRIORITY: i32 = 20;
/// What a skewed clock is converted back to true time with.
const ROUNDING_NS: u64 = 2_000;

/// A time in which a gate let packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenure {
    node: u8,
    first_ns: u64,
    last_ns: u64,
}

/// What is wrong with a set of answers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Pairs of tenures of two nodes that overlap.
    pub(crate) overlaps: Vec<(Tenure, Tenure)>,
    /// Answers that no tenure of their node covers.
    pub(crate) outside: Vec<Answer>,
}

impl Verdict {
    /// The number of moments at which two nodes answered, or one past its gate.
    pub(crate) const fn double(&self) -> usize {
        self.overlaps.len() + self.outside.len()
    }
}

/// Watches the gates of a lab until it is dropped.
pub(crate) struct Tenures {
    skewed: bool,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    book: Arc<Mutex<Book>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Book {
    logs: Vec<Log>,
    over: Vec<Tenure>,
}

/// A gate's log: of one node, in one of its pinned maps.
struct Log {
    node: u8,
    map: u32,
    words: Mapped<GateLog>,
    /// First and last pass, as last seen.
    seen: (u64, u64),
}

impl Tenures {
    /// Watches from now on.
    pub(crate) fn watch(skewed: bool) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let book = Arc::<Mutex<Book>>::default();
        let (until, count, shared) = (Arc::clone(&stop), Arc::clone(&rounds), Arc::clone(&book));
        let thread = thread::spawn(move || {
            let _ = set_policy(Policy::Fifo(PRIORITY));
            while !until.load(Ordering::Relaxed) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).read();
                count.fetch_add(1, Ordering::SeqCst);
                thread::sleep(LOOK);
            }
        });
        Self { skewed, stop, rounds, book, thread: Some(thread) }
    }

    /// Takes up the logs that are pinned now, beside those that are known.
    pub(crate) fn refresh(&self, lab: &Lab) -> Result<()> {
        for node in lab.nodes() {
            let Ok((map, words)) = gate_log(&node) else { continue };
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            if !book.logs.iter().any(|log| log.map == map) {
                book.logs.push(Log { node: node.id()?, map, words, seen: (0, 0) });
            }
        }
        Ok(())
    }

    /// Forgets tenures that are over.
    pub(crate) fn forget(&self) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).over.clear();
    }

    /// The last packet that has passed on this node.
    pub(crate) fn last_pass_ns(&self, node: u8) -> Option<u64> {
        let all = self.all();
        all.iter().filter(|tenure| tenure.node == node).map(|tenure| tenure.last_ns).max()
    }

    /// The first packet that has passed on this node in its last tenure.
    pub(crate) fn first_pass_ns(&self, node: u8) -> Option<u64> {
        let all = self.all();
        all.iter().filter(|tenure| tenure.node == node).map(|tenure| tenure.first_ns).max()
    }

    /// Judges all that has happened since the last `forget`.
    pub(crate) fn judge(&self, answers: &[Answer]) -> Verdict {
        judge(&self.all(), answers, if self.skewed { ROUNDING_NS } else { 0 })
    }

    /// All tenures, as they are after a whole round of reading from now on; in true time.
    fn all(&self) -> Vec<Tenure> {
        let after = self.rounds.load(Ordering::SeqCst) + 2;
        while self.rounds.load(Ordering::SeqCst) < after {
            thread::sleep(LOOK);
        }
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = book.logs.iter().filter(|log| log.seen.0 != 0).map(Log::tenure);
        let true_ns = |node, ns| if self.skewed { clock_of(node).true_ns(ns) } else { ns };
        let in_true_time = |tenure: Tenure| Tenure {
            first_ns: true_ns(tenure.node, tenure.first_ns),
            last_ns: true_ns(tenure.node, tenure.last_ns),
            ..tenure
        };
        book.over.iter().copied().chain(standing).map(in_true_time).collect()
    }
}

impl Drop for Tenures {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Book {
    fn read(&mut self) {
        for log in &mut self.logs {
            let now = log.words.copy(0);
            if now.first_pass_ns != log.seen.0 && log.seen.0 != 0 {
                self.over.push(log.tenure());
                log.seen = (0, 0);
            }
            // A last pass before the first one is of the tenure before, not cleared yet.
            if now.first_pass_ns != 0 && now.last_pass_ns >= now.first_pass_ns {
                log.seen = (now.first_pass_ns, now.last_pass_ns);
            }
        }
    }
}

impl Log {
    const fn tenure(&self) -> Tenure {
        Tenure { node: self.node, first_ns: self.seen.0, last_ns: self.seen.1 }
    }
}

fn judge(tenures: &[Tenure], answers: &[Answer], rounding_ns: u64) -> Verdict {
    let mut verdict = Verdict::default();
    for (at, one) in tenures.iter().enumerate() {
        for other in &tenures[at + 1..] {
            let overlap = one.first_ns <= other.last_ns && other.first_ns <= one.last_ns;
            if one.node != other.node && overlap {
                verdict.overlaps.push((*one, *other));
            }
        }
    }
    let covers = |tenure: &Tenure, answer: &Answer| {
        tenure.node == answer.node
            && tenure.first_ns <= answer.received_ns + rounding_ns
            && tenure.last_ns + rounding_ns >= answer.sent_ns
    };
    let outside = answers.iter().filter(|answer| !tenures.iter().any(|tenure| covers(tenure, answer)));
    verdict.outside = outside.copied().collect();
    verdict
}

/// The log of the node's first gate, as it is pinned, with the number of its map.
fn gate_log(node: &Node<'_>) -> Result<(u32, Mapped<GateLog>)> {
    let path = node.root()?.join(format!("sys/fs/bpf/ringbeat-lab/abi{ABI}/GATE_LOGS"));
    let pinned = MapData::from_pin(&path).with_context(|| format!("no log of {}", node.name()))?;
    let id = pinned.info()?.id();
    let Map::Array(map) = Map::from_map_data(pinned)? else {
        bail!("the log of {} is no array", node.name())
    };
    Ok((id, Mapped::new(map.fd().as_fd(), 1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn tenure(node: u8, first_ns: u64, last_ns: u64) -> Tenure {
        Tenure { node, first_ns, last_ns }
    }

    const fn answer(node: u8, sent_ns: u64, received_ns: u64) -> Answer {
        Answer { node, sent_ns, received_ns }
    }

    #[test]
    fn two_holders_are_seen() {
        let calm = [tenure(1, 10, 20), tenure(2, 21, 40), tenure(1, 41, 60), tenure(1, 30, 35)];
        assert_eq!(judge(&calm[..3], &[], 0), Verdict::default());
        assert_eq!(judge(&calm, &[], 0).overlaps, [(calm[1], calm[3])]);
        assert_eq!(judge(&[tenure(1, 10, 20), tenure(2, 20, 30)], &[], 0).double(), 1, "the same instant");
        assert_eq!(judge(&[tenure(1, 10, 20), tenure(1, 15, 30)], &[], 0).double(), 0, "one node");
    }

    #[test]
    fn an_answer_round_the_gate_is_seen() {
        let tenures = [tenure(1, 10, 20), tenure(2, 30, 40)];
        assert_eq!(judge(&tenures, &[answer(1, 8, 11), answer(2, 39, 45)], 0).double(), 0);
        let late = answer(1, 21, 22);
        assert_eq!(judge(&tenures, &[late], 0).outside, [late]);
        assert_eq!(judge(&tenures, &[late], 1).double(), 0, "a clock that is rounded");
        assert_eq!(judge(&tenures, &[answer(3, 12, 13)], 0).double(), 1, "of a node without a tenure");
    }
}
