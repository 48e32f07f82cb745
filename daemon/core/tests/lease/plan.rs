//! What a history is made of: the cluster, and how often what goes wrong. All of it comes from the seed.

use ringbeat_common::limits::NODES_MAX;

use crate::splitmix::SplitMix;
use crate::table::Votes;

/// One probe interval, in true ns.
pub(crate) const INTERVAL_NS: u64 = 1_000_000;
/// Resources of a history at most.
pub(crate) const RESOURCES_MAX: usize = 3;

/// A fault that the adversary starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    OneWayCut,
    NodeCut,
    Pause,
    Freeze,
    Suspend,
    Kill,
    Reboot,
    TableLost,
    HandOver,
    HandOverLate,
    Release,
    Slew,
    /// Another machine takes the node's place, with its disk, and the old one runs on behind a cut.
    Replaced,
}

/// All of them.
pub(crate) const FAULTS: [Fault; 13] = [
    Fault::OneWayCut,
    Fault::NodeCut,
    Fault::Pause,
    Fault::Freeze,
    Fault::Suspend,
    Fault::Kill,
    Fault::Reboot,
    Fault::TableLost,
    Fault::HandOver,
    Fault::HandOverLate,
    Fault::Release,
    Fault::Slew,
    Fault::Replaced,
];

/// What is taken out of the world around the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    None,
    /// A started daemon forgets which epochs were announced.
    EpochsRepeat,
    /// A view is installed as soon as it is announced here.
    InstallEarly,
    /// A start without pins does not wait.
    QuietSkipped,
    /// A daemon that dies while it waits leaves nothing of the wait.
    QuietForgotten,
    /// The gate does not look at the latch.
    LatchIgnored,
    /// A daemon that finds pins clears the promises.
    PromisesForgotten,
    /// Frames of and to any life are taken.
    OldLives,
    /// A program reads the generation after the view.
    GenerationLast,
    /// A program that completes a probe reads the latch before the clock.
    LatchFirst,
    /// A hand-over is adopted after its time.
    LateAdopted,
    /// A hand-over goes on with what was let go of.
    ReleasedAdopted,
    /// A daemon that finds pins leaves the gates as they are.
    AdoptedOpen,
    /// A release lets go of the gates after it was said.
    ReleaseSaidFirst,
    /// The gate does not look at the end of the lease.
    EndIgnored,
    /// A node's clock stands while it is suspended.
    ClockStops,
    /// Frames that return an old stamp are taken for fresh.
    StaleTaken,
    /// Frames whose number does not rise are taken.
    ReplaysTaken,
    /// A node announces lower ids, too.
    IdsFall,
    /// A node installs any view that it has announced, not only the last one.
    InstallOlder,
    /// What another life of a member has announced counts.
    OldAcks,
    /// A view is said to be announced before it is.
    AnnounceSaidFirst,
    /// The granter does not look at its latch.
    GranterIgnoresLatch,
    /// A daemon that takes over does not announce anew.
    TakenOverSilently,
    /// The gate lets pass whoever has a lease, owner or not.
    GateOfAnybody,
}

/// How a history goes.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) links: usize,
    pub(crate) resources: usize,
    pub(crate) votes: Votes,
    pub(crate) lease_us: u32,
    pub(crate) lease_long_us: u32,
    pub(crate) end_ns: u64,
    pub(crate) loss_permille: u64,
    pub(crate) late_permille: u64,
    pub(crate) twice_permille: u64,
    pub(crate) fault_every_ns: u64,
    pub(crate) propose_every_ns: u64,
    /// How often a run or the daemon is held up, per point where it can be.
    pub(crate) held_permille: u64,
    /// The same for a run that has heard that a peer is gone.
    pub(crate) held_ended_permille: u64,
    /// A daemon that lets go is held up in it.
    pub(crate) slow_release: bool,
    /// Daemons come back, and handshakes are done, within an interval.
    pub(crate) quick: bool,
    /// Clocks at their limits only.
    pub(crate) extremes: bool,
    /// Weights of [`FAULTS`].
    pub(crate) weights: [u64; FAULTS.len()],
}

impl Plan {
    pub(crate) fn new(dice: &mut SplitMix) -> Self {
        let nodes = match dice.within(0, 100) {
            0..15 => 2,
            15..60 => 3,
            60..80 => 4,
            80..93 => 5,
            _ => 6 + dice.index(4),
        };
        let mut votes = Votes { of: [0; NODES_MAX], quorum: 0 };
        let odd = dice.permille(250);
        for slot in 0..nodes {
            votes.of[slot] = if odd { dice.within(0, 4) as u8 } else { 1 };
        }
        if votes.of.iter().all(|votes| *votes == 0) {
            votes.of[0] = 1;
        }
        votes.quorum = votes.of.iter().map(|votes| u32::from(*votes)).sum::<u32>() / 2 + 1;
        let lease_us = 1000 * dice.within(3, 6) as u32;
        let mut weights = [4, 6, 4, 5, 3, 6, 2, 2, 2, 1, 2, 3, 1];
        for weight in &mut weights {
            // Each history has its own mixture, and some have none of a kind.
            *weight *= dice.within(0, 4);
        }
        weights[1] += 1;
        let calm = dice.permille(500);
        let held_permille = if dice.permille(300) { dice.within(5, 100) } else { 0 };
        Self {
            nodes,
            links: if nodes > 5 { 1 } else { [1, 1, 2, 2, 3][dice.index(5)] },
            resources: 1 + dice.index(RESOURCES_MAX),
            votes,
            lease_us,
            lease_long_us: lease_us * 3 / 2,
            end_ns: INTERVAL_NS * dice.within(30, 61),
            loss_permille: if calm { 10 } else { dice.within(0, 300) },
            late_permille: if calm { 10 } else { dice.within(0, 200) },
            twice_permille: dice.within(0, 60),
            fault_every_ns: INTERVAL_NS * dice.within(3, 12),
            propose_every_ns: INTERVAL_NS * dice.within(1, 6),
            held_permille,
            held_ended_permille: held_permille * dice.within(1, 6),
            slow_release: false,
            quick: dice.permille(300),
            extremes: dice.permille(300),
            weights,
        }
    }

    /// No fault of this kind.
    pub(crate) fn never(&mut self, fault: Fault) {
        for (weight, kind) in self.weights.iter_mut().zip(FAULTS) {
            if kind == fault {
                *weight = 0;
            }
        }
    }

    /// More of these faults than of all others.
    pub(crate) fn favour(&mut self, faults: &[Fault]) {
        for (weight, fault) in self.weights.iter_mut().zip(FAULTS) {
            if faults.contains(&fault) {
                *weight = 40;
            }
        }
    }
}
