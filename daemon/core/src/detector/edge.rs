//! A peer on a link: the kernel's state word as it was last told, what it counts as, and its flaps.

use ringbeat_common::event::Event;
use ringbeat_common::watch::state;

use super::Damping;
use crate::limits::FLAPS_KEPT;
use crate::told::Evidence;

/// What a peer on a link counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EdgeState {
    /// Not heard in this life of the peer, or not since the own link came back.
    #[default]
    Unknown,
    /// Heard.
    Up,
    /// Silent for a deadline, while another link is heard.
    Late,
    /// Silent.
    Down,
    /// Heard again, not yet for long enough to count.
    Damped,
    /// The own link is down: nothing can be said.
    OwnDown,
}

impl EdgeState {
    /// The name under which the commands show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Late => "late",
            Self::Down => "down",
            Self::Damped => "damped",
            Self::OwnDown => "own_down",
        }
    }

    /// Whether the kernel hears the peer here, as far as that can be said.
    pub(super) const fn is_heard(self) -> bool {
        matches!(self, Self::Up | Self::Damped)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Edge {
    pub(super) state: EdgeState,
    /// The kernel's state word.
    pub(super) word: u64,
    /// The stamp of the newest frame that changed it.
    pub(super) frame_ns: u64,
    /// Something was lost on it in this life: it comes back by damping only.
    pub(super) is_tried: bool,
    /// `link_up` was told, and nothing against it since.
    pub(super) is_told_up: bool,
    pub(super) evidence: Evidence,
    pub(super) flaps: Flaps,
    gap: Option<Gap>,
}

/// An event came that does not continue from the last: another one is missing in between.
///
/// Program and timer change the word on two processors, each by compare-and-swap, and write their events after that:
/// the later change may come first. The one that is still missing then fits exactly between the two.
#[derive(Clone, Copy, Debug)]
struct Gap {
    from: u64,
    to: u64,
    /// What is stamped after this is news, and no missing piece.
    until_ns: u64,
}

impl Edge {
    /// The edge at the beginning of a peer's life; its flaps are not forgotten.
    pub(super) fn begin_life(&mut self, is_own_down: bool) {
        let state = if is_own_down { EdgeState::OwnDown } else { EdgeState::Unknown };
        *self = Self { state, word: state::WATCHED, flaps: self.flaps, ..Self::default() };
    }

    /// Takes the event's state word; false if a later one is known already.
    pub(super) fn take(&mut self, event: &Event, deadline_ns: u64) -> bool {
        if let Some(gap) = self.gap.take()
            && (event.from, event.to) == (gap.from, gap.to)
            && event.stamp_ns <= gap.until_ns
        {
            return false;
        }
        if event.from != self.word {
            // A timer's stamp is from the scan's beginning, and may lie behind the frame that came after it; a cell that
            // was heard cannot be late anew before a deadline has passed.
            let slack_ns = if event.to & state::HEARD != 0 { deadline_ns / 2 } else { 0 };
            let until_ns = event.stamp_ns + slack_ns;
            self.gap = Some(Gap { from: self.word, to: event.from, until_ns });
        }
        self.word = event.to;
        self.evidence = Evidence::from(event);
        if event.by_timer == 0 {
            self.frame_ns = event.stamp_ns;
        }
        true
    }

    pub(super) const fn word_is_heard(&self) -> bool {
        self.word & state::HEARD != 0
    }
}

/// The latest flaps of an edge, in a ring.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flaps {
    stamps_ns: [Option<u64>; FLAPS_KEPT],
    count: u64,
}

impl Flaps {
    pub(super) fn record(&mut self, stamp_ns: u64) {
        let kept = self.stamps_ns.len() as u64;
        self.stamps_ns[(self.count % kept) as usize] = Some(stamp_ns);
        self.count += 1;
    }

    /// All flaps since the start.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// How long the edge must be heard now: the base after one flap, twice as long for each further one in memory.
    pub(super) fn damping_ns(&self, base_ns: u64, damping: &Damping, now_ns: u64) -> u64 {
        let is_fresh = |stamp_ns: &&u64| now_ns.saturating_sub(**stamp_ns) <= damping.memory_ns;
        let recent = self.stamps_ns.iter().flatten().filter(is_fresh).count() as u32;
        let doubled = base_ns.saturating_mul(1 << recent.saturating_sub(1));
        doubled.min(damping.max_ns.max(base_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SILENT: u64 = state::WATCHED;
    const HEARD: u64 = state::WATCHED | state::HEARD;

    fn event(from: u64, to: u64, stamp_ns: u64) -> Event {
        let by_timer = u32::from(to & state::HEARD == 0);
        Event { from, to, stamp_ns, by_timer, ..Event::default() }
    }

    #[test]
    fn damping_doubles_in_its_memory_up_to_its_longest() {
        let damping = Damping { min_ns: MS, max_ns: 100 * MS, memory_ns: 1000 * MS };
        let mut flaps = Flaps::default();
        assert_eq!(flaps.damping_ns(10 * MS, &damping, 0), 10 * MS);
        for (at, expected) in [(1, 10), (2, 20), (3, 40), (4, 80), (5, 100), (6, 100)] {
            flaps.record(at * MS);
            assert_eq!(flaps.damping_ns(10 * MS, &damping, at * MS), expected * MS);
        }
        assert_eq!(flaps.damping_ns(10 * MS, &damping, 1005 * MS), 20 * MS, "two are in memory");
        assert_eq!(flaps.damping_ns(10 * MS, &damping, 9000 * MS), 10 * MS);
        assert_eq!(flaps.damping_ns(200 * MS, &damping, 6 * MS), 200 * MS, "never below the base");
        for at in 0..100 {
            flaps.record(at * MS);
        }
        assert_eq!(flaps.count(), 106);
        assert_eq!(Flaps::default().damping_ns(u64::MAX, &damping, 0), u64::MAX);
    }

    #[test]
    fn an_overtaken_event_does_not_undo_the_later_one() {
        let mut edge = Edge { word: HEARD, ..Edge::default() };
        // The timer said late, a frame came right behind it; their events changed places on the way.
        assert!(edge.take(&event(SILENT, HEARD, 100), 20 * MS));
        assert!(!edge.take(&event(HEARD, SILENT, 101), 20 * MS));
        assert_eq!(edge.word, HEARD);
        assert!(edge.take(&event(HEARD, SILENT, 30 * MS), 20 * MS), "the next one is news");
    }

    #[test]
    fn a_lost_event_does_not_hide_the_next() {
        let mut edge = Edge { word: HEARD, ..Edge::default() };
        assert!(edge.take(&event(SILENT, HEARD, 100), 20 * MS), "its forerunner was lost");
        assert!(edge.take(&event(HEARD, SILENT, 20 * MS + 100), 20 * MS));
        assert_eq!(edge.word, SILENT);
    }
}
