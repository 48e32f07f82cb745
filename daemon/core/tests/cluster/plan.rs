//! What a history is like: how many nodes, how bad the network, and what goes wrong when.

use crate::splitmix::SplitMix;

pub(crate) const US: u64 = 1000;
pub(crate) const MS: u64 = 1_000_000;

/// Something that goes wrong, and is mended after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The daemon dies; its kernel says so.
    Kill(u8),
    /// The machine vanishes.
    Crash(u8),
    /// The daemon stands still.
    Pause(u8),
    /// One does not reach another.
    Oneway(u8, u8),
    /// Those of the set and the others do not reach one another.
    Parted(u64),
    /// The ring's frames between two of them are lost, and heartbeats pass.
    RingOnly(u8, u8),
    /// The disk of one hangs.
    Disk(u8),
    /// The daemon is replaced as planned: its life goes on, its ring and its programs do not.
    Replace(u8),
}

impl Fault {
    pub(crate) const KINDS: usize = 8;

    pub(crate) const fn kind(self) -> usize {
        match self {
            Self::Kill(_) => 0,
            Self::Crash(_) => 1,
            Self::Pause(_) => 2,
            Self::Oneway(..) => 3,
            Self::Parted(_) => 4,
            Self::RingOnly(..) => 5,
            Self::Disk(_) => 6,
            Self::Replace(_) => 7,
        }
    }
}

/// What a history is like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: u8,
    pub(crate) loss_permille: u64,
    pub(crate) late_permille: u64,
    /// Between two requests of programs.
    pub(crate) talk_ns: u64,
    /// When each begins, and how long it lasts.
    pub(crate) faults: Vec<(u64, u64, Fault)>,
    /// For how long there is trouble, and for how long none at the most.
    pub(crate) trouble_ns: u64,
    pub(crate) calm_ns: u64,
}

impl Plan {
    pub(crate) fn new(dice: &mut SplitMix, nodes: Option<u8>) -> Self {
        let some = if dice.permille(20) { dice.within(10, 17) } else { dice.within(2, 10) };
        let nodes = nodes.unwrap_or(some as u8).clamp(2, 64);
        let trouble_ns = dice.within(100, 600) * MS;
        let faults = (0..dice.within(1, 8)).map(|_| {
            let (one, other) = (dice.index(usize::from(nodes)) as u8, dice.index(usize::from(nodes)) as u8);
            let fault = match dice.within(0, 8) {
                0 => Fault::Kill(one),
                1 => Fault::Crash(one),
                2 => Fault::Pause(one),
                3 => Fault::Oneway(one, other),
                4 => Fault::Parted(dice.next()),
                5 => Fault::RingOnly(one, other),
                6 => Fault::Disk(one),
                _ => Fault::Replace(one),
            };
            (dice.within(0, trouble_ns), dice.within(1, 200) * MS, fault)
        });
        Self {
            faults: faults.collect(),
            nodes,
            loss_permille: if dice.permille(500) { 0 } else { dice.within(1, 50) },
            late_permille: if dice.permille(500) { 0 } else { dice.within(1, 30) },
            talk_ns: dice.within(50, 2000) * US,
            trouble_ns,
            calm_ns: 30_000 * MS,
        }
    }
}
