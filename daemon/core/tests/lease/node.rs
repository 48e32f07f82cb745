//! A node of the lease's world: its clock, its table, its slots, its daemon.

use std::cell::{Cell, RefCell};

use ringbeat_common::lease::{self, LEASE_WORDS, Words};
use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::slot::Slot;
use ringbeat_common::view::View;

/// A clock that runs wrong: a rate in parts in a million, from a point of true time on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) since_ns: u64,
    pub(crate) shown_ns: u64,
    pub(crate) rate_ppm: i64,
}

impl Clock {
    /// What it shows at a true time.
    pub(crate) fn at(&self, true_ns: u64) -> u64 {
        let since = i128::from(true_ns - self.since_ns);
        let shown = since * i128::from(1_000_000 + self.rate_ppm) / 1_000_000;
        self.shown_ns + u64::try_from(shown).expect("clocks go forward")
    }

    /// Another rate from now on.
    pub(crate) fn slew(&mut self, true_ns: u64, rate_ppm: i64) {
        *self = Self { since_ns: true_ns, shown_ns: self.at(true_ns), rate_ppm };
    }

    /// The true time at which it shows this, or now.
    pub(crate) fn when(&self, shown_ns: u64, now_ns: u64) -> u64 {
        let left = i128::from(shown_ns) - i128::from(self.shown_ns);
        let since = left * 1_000_000 / i128::from(1_000_000 + self.rate_ppm);
        let at = i128::from(self.since_ns) + since;
        u64::try_from(at).unwrap_or(0).max(now_ns) + 1
    }
}

/// The words of a lease in one thread.
#[derive(Debug)]
pub(crate) struct Table(pub(crate) Vec<Cell<u64>>);

impl Table {
    pub(crate) fn new() -> Self {
        let table = Self((0..LEASE_WORDS).map(|_| Cell::new(0)).collect());
        lease::adopt_closed(&table);
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
        let same = self.0[at].get() == old;
        if same {
            self.0[at].set(new);
        }
        same
    }
}

/// The table as the daemon uses it while another processor runs: before each access, something else may happen.
pub(crate) struct Disturbed<'a> {
    pub(crate) table: &'a Table,
    pub(crate) between: RefCell<&'a mut dyn FnMut()>,
}

impl Words for Disturbed<'_> {
    fn load(&self, at: usize) -> u64 {
        (self.between.borrow_mut())();
        self.table.load(at)
    }

    fn store(&self, at: usize, value: u64) {
        (self.between.borrow_mut())();
        self.table.store(at, value);
    }

    fn swap_if(&self, at: usize, old: u64, new: u64) -> bool {
        (self.between.borrow_mut())();
        self.table.swap_if(at, old, new)
    }
}

/// A view with its owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) view: View,
    /// A slot for each resource; 0xff for nobody.
    pub(crate) owners: [u8; 3],
}

impl Proposal {
    pub(crate) fn owned_by(&self, slot: u8) -> u64 {
        self.owners
            .iter()
            .enumerate()
            .filter(|(_, owner)| **owner == slot)
            .fold(0, |set, (at, _)| set | 1 << at)
    }
}

/// A grant that was taken in, kept for a processor that is held up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) slot: u8,
    pub(crate) view: View,
    pub(crate) stamp_ns: u64,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) clock: Clock,
    pub(crate) table: Table,
    pub(crate) incarnation: u64,
    /// By link, then slot.
    pub(crate) slots: Vec<Vec<Slot>>,
    pub(crate) lives: [u64; NODES_MAX],
    /// The daemon is dead, and its latch says so.
    pub(crate) gone: bool,
    /// The daemon does nothing until then; the kernel goes on.
    pub(crate) paused_until_ns: u64,
    /// Nothing happens at all until then.
    pub(crate) frozen_until_ns: u64,
    /// By the own clock.
    pub(crate) quiet_until_ns: u64,
    /// Epochs up to here may have been announced by a life before.
    pub(crate) floor: u64,
    /// On disk.
    pub(crate) ceiling: u64,
    pub(crate) announced: Option<Proposal>,
    pub(crate) installed: Option<Proposal>,
    pub(crate) not_before_ns: u64,
    pub(crate) heard_of: Vec<Option<(u64, View)>>,
    pub(crate) sequences: u64,
    pub(crate) taken: Vec<Taken>,
}

impl Node {
    pub(crate) fn new(clock: Clock, incarnation: u64, links: usize) -> Self {
        Self {
            clock,
            table: Table::new(),
            incarnation,
            slots: vec![vec![Slot::default(); NODES_MAX]; links],
            lives: [0; NODES_MAX],
            gone: false,
            paused_until_ns: 0,
            frozen_until_ns: 0,
            quiet_until_ns: 0,
            floor: 0,
            ceiling: 0,
            announced: None,
            installed: None,
            not_before_ns: 0,
            heard_of: vec![None; NODES_MAX],
            sequences: 0,
            taken: Vec::new(),
        }
    }

    pub(crate) fn accept(&mut self, slot: u8, incarnation: u64) {
        let at = usize::from(slot);
        self.lives[at] = incarnation;
        self.heard_of[at] = None;
        for link in &mut self.slots {
            link[at] = Slot::accepting(incarnation);
        }
    }
}
