//! What has happened, counted: a fault that never comes shows nothing.

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    Lost,
    CutFrame,
    Late,
    Duplicate,
    Replay,
    OneWayCut,
    NodeCut,
    Paused,
    Frozen,
    Suspended,
    Killed,
    KilledMidway,
    RestartedPinned,
    TableLost,
    Rebooted,
    Replaced,
    ReplacedHolder,
    HandedOver,
    HandedOverLate,
    Released,
    Slewed,
    RunHeldUp,
    RunOutlivedView,
    DaemonHeldUp,
    OldLife,
    Stale,
    Ended,
    Granted,
    Counted,
    Proposed,
    OfferedAgain,
    Announced,
    Installed,
    Carried,
    Alone,
    WaitShortened,
    Opened,
    TakenOver,
    TakenFromFrozen,
    TakenFromSuspended,
    TakenFromCut,
    TakenFromKilled,
    Minority,
    NineNodes,
    ThreeLinks,
}

/// All of them, in the order of the table.
pub(crate) const ALL: [Met; 45] = [
    Met::Lost,
    Met::CutFrame,
    Met::Late,
    Met::Duplicate,
    Met::Replay,
    Met::OneWayCut,
    Met::NodeCut,
    Met::Paused,
    Met::Frozen,
    Met::Suspended,
    Met::Killed,
    Met::KilledMidway,
    Met::RestartedPinned,
    Met::TableLost,
    Met::Rebooted,
    Met::Replaced,
    Met::ReplacedHolder,
    Met::HandedOver,
    Met::HandedOverLate,
    Met::Released,
    Met::Slewed,
    Met::RunHeldUp,
    Met::RunOutlivedView,
    Met::DaemonHeldUp,
    Met::OldLife,
    Met::Stale,
    Met::Ended,
    Met::Granted,
    Met::Counted,
    Met::Proposed,
    Met::OfferedAgain,
    Met::Announced,
    Met::Installed,
    Met::Carried,
    Met::Alone,
    Met::WaitShortened,
    Met::Opened,
    Met::TakenOver,
    Met::TakenFromFrozen,
    Met::TakenFromSuspended,
    Met::TakenFromCut,
    Met::TakenFromKilled,
    Met::Minority,
    Met::NineNodes,
    Met::ThreeLinks,
];

/// None is left out, and each stands at its own place.
const _: () = {
    let mut at = 0;
    while at < ALL.len() {
        assert!(ALL[at] as usize == at);
        at += 1;
    }
    assert!(Met::ThreeLinks as usize + 1 == ALL.len());
};

/// The counts.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    counts: [u64; ALL.len()],
    /// Histories run.
    pub(crate) histories: u64,
    /// Those with a takeover.
    pub(crate) with_takeover: u64,
    /// Those that interleave word by word.
    pub(crate) interleaved: u64,
}

impl Tally {
    pub(crate) const fn new() -> Self {
        Self { counts: [0; ALL.len()], histories: 0, with_takeover: 0, interleaved: 0 }
    }

    pub(crate) fn met(&mut self, met: Met) {
        self.counts[met as usize] += 1;
    }

    pub(crate) fn of(&self, met: Met) -> u64 {
        self.counts[met as usize]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.histories += other.histories;
        self.with_takeover += other.with_takeover;
        self.interleaved += other.interleaved;
    }
}
