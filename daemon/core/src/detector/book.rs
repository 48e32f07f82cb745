//! What all peers of a detector write to: outputs, timers, counters.

use std::collections::VecDeque;

use super::{Counters, Damping, Output};
use crate::mutation::Mutation;
use crate::timers::Timers;
use crate::told::{Evidence, Told, ToldKind};

/// The timers of a detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Late: until it counts as down. Damped: until it counts as up. Unknown: until it should have been heard.
    Edge { slot: u8, at: usize },
    /// Stalled, until it counts as failed.
    Stall { slot: u8 },
    /// Heard nowhere since an own link was lost, until it counts as down.
    Silence { slot: u8 },
}

#[derive(Clone, Debug)]
pub(super) struct Book {
    pub(super) outputs: VecDeque<Output>,
    pub(super) timers: Timers<Timer>,
    pub(super) counters: Counters,
    pub(super) daemon_stall_ns: u64,
    pub(super) damping: Damping,
    pub(super) mutation: Mutation,
    seq: u64,
}

impl Book {
    pub(super) fn new(daemon_stall_ns: u64, damping: Damping, mutation: Mutation) -> Self {
        Self {
            outputs: VecDeque::new(),
            timers: Timers::new(),
            counters: Counters::default(),
            daemon_stall_ns,
            damping,
            mutation,
            seq: 0,
        }
    }

    pub(super) fn tell(
        &mut self,
        kind: ToldKind,
        slot: Option<u8>,
        link: Option<u8>,
        stamp_ns: u64,
        incarnation: u64,
        evidence: Evidence,
    ) {
        self.seq += 1;
        let told = Told { seq: self.seq, kind, slot, link, stamp_ns, incarnation, evidence };
        self.outputs.push_back(Output::Told(told));
    }
}
