//! The table of words, and calls into the rule that can be stopped before any of their accesses.
//!
//! A call is made again from its start whenever it goes on; what it has read so far is read from its own log, so it
//! takes the same way, and its next accesses are made for real. So a program and the daemon interleave word by word,
//! as two processors do, and both run the very functions that ship.

use std::cell::{Cell, RefCell};

use ringbeat_common::lease::{
    self, Counted, Installation, LEASE_WORDS, Rule, Serving, Stamped, Whole, Words, adopt_closed,
};
use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::view::View;

/// Accesses of a call that nobody stops.
pub(crate) const ALL: usize = usize::MAX;

/// A node's words.
pub(crate) struct Table([Cell<u64>; LEASE_WORDS]);

impl Table {
    /// As after boot.
    pub(crate) fn new() -> Self {
        let table = Self([const { Cell::new(0) }; LEASE_WORDS]);
        adopt_closed(&table);
        table
    }
}

impl Words for Table {
    fn load(&self, at: usize) -> u64 {
        self.0[at].get()
    }

    fn store(&self, at: usize, value: u64) {
        self.0[at].set(value);
    }

    fn swap_if(&self, at: usize, old: u64, new: u64) -> bool {
        let is = self.0[at].get() == old;
        if is {
            self.0[at].set(new);
        }
        is
    }
}

/// How a program counts what it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// As it ships.
    Whole,
    /// One vote less than a quorum is enough.
    FewerVotes,
    /// E is made of the newest stamp that was counted.
    NewestStamp,
}

/// The table as a call sees it that may be stopped.
pub(crate) struct Stepped<'a> {
    table: &'a Table,
    log: RefCell<&'a mut Vec<u64>>,
    replayed: Cell<usize>,
    left: Cell<usize>,
    stopped: Cell<bool>,
    logs: bool,
    counting: Counting,
}

impl Stepped<'_> {
    /// One access: out of the log, or made, or `after` once the call is stopped. What `after` leads to is thrown away.
    fn access(&self, after: u64, make: impl FnOnce(&Table) -> u64) -> u64 {
        if !self.logs {
            return make(self.table);
        }
        let mut log = self.log.borrow_mut();
        let at = self.replayed.get();
        if at < log.len() {
            self.replayed.set(at + 1);
            return log[at];
        }
        if self.left.get() == 0 {
            self.stopped.set(true);
            return after;
        }
        self.left.set(self.left.get() - 1);
        let value = make(self.table);
        log.push(value);
        self.replayed.set(at + 1);
        value
    }
}

impl Words for Stepped<'_> {
    fn load(&self, at: usize) -> u64 {
        // 0 of a stopped call would let `quorum_stamp_us` end at once, and so it may.
        let value = self.access(0, |table| table.load(at));
        let fewer = self.counting == Counting::FewerVotes && at == lease::QUORUM;
        value.saturating_sub(u64::from(fewer))
    }

    fn store(&self, at: usize, value: u64) {
        self.access(0, |table| {
            table.store(at, value);
            0
        });
    }

    fn swap_if(&self, at: usize, old: u64, new: u64) -> bool {
        // True, for the daemon's loops go on until their swap succeeds.
        let newest = self.counting == Counting::NewestStamp && at == lease::UNTIL;
        let make = |table: &Table| {
            let new = if newest { until_of_newest(table, Stamped(new).generation()) } else { new };
            u64::from(table.swap_if(at, old, new))
        };
        self.access(1, make) != 0
    }
}

/// E, made of the newest stamp.
fn until_of_newest(table: &Table, generation: u64) -> u64 {
    let counted = (0..NODES_MAX).filter(|slot| table.load(lease::VOTES + slot) != 0);
    let stamps = counted.map(|slot| Stamped(table.load(lease::COUNTS + slot)));
    let newest_us = stamps.filter(|stamp| stamp.generation() == generation).map(Stamped::us).max();
    let lease_us = u64::from(lease::installed(table).lease_us());
    Stamped::new(generation, newest_us.unwrap_or(0) + lease_us).0
}

/// The rule's functions under one [`Rule`].
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    counting: Counting,
    grant: fn(&Stepped<'_>, &Serving, u8, u64, u64) -> bool,
    count: fn(&Stepped<'_>, &Serving, u8, &View, u64, u64) -> Counted,
    ended: fn(&Stepped<'_>, &Serving, u8, u64),
    announce: fn(&Stepped<'_>, &View, u64) -> u64,
    install: fn(&Stepped<'_>, &Installation<'_>),
    pub(crate) replace: fn(&Table, u8),
}

impl Functions {
    pub(crate) fn of<R: Rule>() -> Self {
        Self {
            counting: Counting::Whole,
            grant: |words, serving, slot, received_ns, now_ns| {
                lease::grant::<R, _>(words, serving, slot, received_ns, now_ns)
            },
            count: |words, serving, slot, view, stamp_ns, now_ns| {
                lease::count::<R, _>(words, serving, slot, view, stamp_ns, now_ns)
            },
            ended: |words, serving, slot, now_ns| lease::ended::<R, _>(words, serving, slot, now_ns),
            announce: |words, view, owned| lease::announce::<R, _>(words, view, owned),
            install: |words, new| lease::install::<R, _>(words, new),
            replace: |table, slot| lease::replace::<R, _>(table, slot),
        }
    }

    pub(crate) fn whole() -> Self {
        Self::of::<Whole>()
    }

    /// The whole rule, counted otherwise.
    pub(crate) fn counting(counting: Counting) -> Self {
        Self { counting, ..Self::whole() }
    }
}

/// Votes of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Votes {
    pub(crate) of: [u8; NODES_MAX],
    pub(crate) quorum: u32,
}

/// A call into the rule.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Serving,
    Grant { serving: Serving, slot: u8, received_ns: u64, now_ns: u64 },
    Count { serving: Serving, slot: u8, view: View, stamp_ns: u64, now_ns: u64 },
    Ended { serving: Serving, slot: u8, now_ns: u64 },
    Announce { view: View, owned: u64 },
    Install { view: View, not_before_ns: u64, own: u8, owned: u64, now_ns: u64 },
    Adopt,
    Release,
}

/// What a call gave.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gave {
    Serving(Serving),
    Granted(bool),
    NotBefore(u64),
    Nothing,
}

/// A call on its way.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) call: Call,
    log: Vec<u64>,
}

impl Progress {
    pub(crate) fn new(call: Call) -> Self {
        Self { call, log: Vec::new() }
    }

    /// Whether it has made any access.
    pub(crate) fn has_begun(&self) -> bool {
        !self.log.is_empty()
    }

    /// Makes up to `accesses` more; what the call gave once it is done.
    pub(crate) fn advance(
        &mut self,
        table: &Table,
        functions: &Functions,
        votes: &Votes,
        accesses: usize,
    ) -> Option<Gave> {
        let logs = accesses != ALL || !self.log.is_empty();
        let words = Stepped {
            table,
            log: RefCell::new(&mut self.log),
            replayed: Cell::new(0),
            left: Cell::new(accesses),
            stopped: Cell::new(false),
            logs,
            counting: functions.counting,
        };
        let gave = match &self.call {
            Call::Serving => Gave::Serving(lease::serving(&words)),
            Call::Grant { serving, slot, received_ns, now_ns } => {
                Gave::Granted((functions.grant)(&words, serving, *slot, *received_ns, *now_ns))
            }
            Call::Count { serving, slot, view, stamp_ns, now_ns } => {
                (functions.count)(&words, serving, *slot, view, *stamp_ns, *now_ns);
                Gave::Nothing
            }
            Call::Ended { serving, slot, now_ns } => {
                (functions.ended)(&words, serving, *slot, *now_ns);
                Gave::Nothing
            }
            Call::Announce { view, owned } => Gave::NotBefore((functions.announce)(&words, view, *owned)),
            Call::Install { view, not_before_ns, own, owned, now_ns } => {
                let new = Installation {
                    view: *view,
                    not_before_ns: *not_before_ns,
                    own: *own,
                    votes: &votes.of,
                    quorum: votes.quorum,
                    owned: *owned,
                    now_ns: *now_ns,
                };
                (functions.install)(&words, &new);
                Gave::Nothing
            }
            Call::Adopt => {
                lease::adopt_closed(&words);
                Gave::Nothing
            }
            Call::Release => {
                lease::release(&words);
                Gave::Nothing
            }
        };
        (!words.stopped.get()).then_some(gave)
    }
}
