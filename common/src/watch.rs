//! Is a peer late? The rule that the kernel timer runs over all cells, and the state word of a cell.
//!
//! A cell is late when nothing that proves life has come for the deadline, *and* a probe that really left has gone
//! unanswered for most of it: a node that could not send accuses nobody. Both times are widened by the stalls that
//! this node's own ticks have shown.

use crate::limits::CREDIT_MAX_NS;

/// What the timer looks at, 32 bytes a cell, all cells in one map value so that one look-up serves the whole scan.
///
/// Writers: `heard_ns` and the clearing of `unanswered_ns` the XDP program; its setting the egress program;
/// `deadline_ns` the daemon; `state` whoever wins the compare-and-swap. Each word is written whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Watch {
    /// When a frame of the peer last proved life on this link.
    pub heard_ns: u64,
    /// When the first probe left that has seen no proof of life since; 0 when there is none.
    pub unanswered_ns: u64,
    /// Silence for this long is late: interval × count.
    pub deadline_ns: u32,
    /// The probe interval of the link.
    pub interval_ns: u32,
    /// See [`state`].
    pub state: u64,
}

/// Bits of a cell's state word. Every change is one compare-and-swap and one event.
///
/// In the kernel's cells the upper half is the salt of the incarnation that the cell is about: a program that was held
/// up since before the daemon accepted another life finds another word, and its swap fails.
pub mod state {
    /// The half of the word with the bits below.
    pub const BITS: u64 = 0xffff_ffff;

    /// A cell that is watched for this life, and not heard yet.
    #[inline(always)]
    pub const fn watched(incarnation: u64) -> u64 {
        WATCHED | incarnation << 32
    }

    /// Whether a word of a cell is about this life.
    #[inline(always)]
    pub const fn is_of(word: u64, incarnation: u64) -> bool {
        word >> 32 == incarnation & BITS
    }

    /// The peer's incarnation is accepted; the cell is watched.
    pub const WATCHED: u64 = 1;
    /// Life was proven inside the deadline.
    pub const HEARD: u64 = 1 << 1;
    /// The peer's daemon is gone.
    pub const GONE: u64 = 1 << 2;
    /// The main loop of the peer's daemon does not run.
    pub const STALLED: u64 = 1 << 3;
    /// The peer is leaving on purpose.
    pub const LEAVING: u64 = 1 << 4;
    /// The peer's daemon is being replaced, as planned.
    pub const HANDOVER: u64 = 1 << 5;
}

/// The state word after a frame that proved life.
#[inline(always)]
pub const fn after_proof(old: u64, frame_flags: u8, daemon_age_us: u32) -> u64 {
    use crate::frame::flags;
    use crate::limits::STALL_TOLD_US;
    if old & state::WATCHED == 0 {
        return old;
    }
    let mut new = (old & !state::BITS) | state::WATCHED | state::HEARD | (old & state::GONE);
    if frame_flags & flags::GONE != 0 {
        new |= state::GONE;
    }
    if daemon_age_us > STALL_TOLD_US && frame_flags & flags::HANDOVER == 0 {
        new |= state::STALLED;
    }
    if frame_flags & flags::LEAVING != 0 {
        new |= state::LEAVING;
    }
    if frame_flags & flags::HANDOVER != 0 {
        new |= state::HANDOVER;
    }
    new
}

impl Watch {
    /// Whether the cell is heard no longer, at `now_ns`, with the deadlines widened by `credit_ns`.
    #[inline(always)]
    pub const fn is_late(&self, now_ns: u64, credit_ns: u64) -> bool {
        if self.state & state::HEARD == 0 || self.unanswered_ns == 0 {
            return false;
        }
        now_ns >= self.expires_ns(credit_ns)
    }

    /// When the cell becomes late if nothing more comes: the deadline after the last proof, and after the first
    /// unanswered probe the deadline less one interval and a half, whichever is later.
    #[inline(always)]
    pub const fn expires_ns(&self, credit_ns: u64) -> u64 {
        let deadline = self.deadline_ns as u64 + credit_ns;
        let silence = self.heard_ns + deadline;
        let interval = self.interval_ns as u64;
        let lead = interval + interval / 2;
        let unanswered = self.unanswered_ns + deadline.saturating_sub(lead);
        if silence > unanswered { silence } else { unanswered }
    }
}

/// The node's own stalls, as its late ticks show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Credit {
    /// By how much deadlines are wider now.
    pub ns: u64,
    /// When the last stall ended.
    pub since_ns: u64,
}

impl Credit {
    /// The credit after a tick that was planned for `planned_ns` and ran at `now_ns`, `late_ns` being what counts
    /// as a stall. The credit is kept while a deadline that was running in the stall can still be running.
    #[inline(always)]
    pub const fn after_tick(self, planned_ns: u64, now_ns: u64, late_ns: u64, deadline_max_ns: u64) -> Self {
        let mut next = self;
        if now_ns > self.since_ns + self.ns + deadline_max_ns {
            next.ns = 0;
        }
        if now_ns > planned_ns + late_ns {
            let ns = next.ns + (now_ns - planned_ns);
            next.ns = if ns > CREDIT_MAX_NS { CREDIT_MAX_NS } else { ns };
            next.since_ns = now_ns;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::flags;

    const MS: u64 = 1_000_000;

    fn cell(heard_ms: u64, unanswered_ms: u64) -> Watch {
        Watch {
            heard_ns: heard_ms * MS,
            unanswered_ns: unanswered_ms * MS,
            deadline_ns: 5_000_000,
            interval_ns: 1_000_000,
            state: state::WATCHED | state::HEARD,
        }
    }

    #[test]
    fn silence_past_the_deadline_is_late() {
        let cell = cell(100, 101);
        assert!(!cell.is_late(105 * MS - 1, 0));
        assert!(cell.is_late(105 * MS, 0));
    }

    #[test]
    fn a_node_that_sent_nothing_accuses_nobody() {
        assert!(!cell(100, 0).is_late(1000 * MS, 0));
        // The probe left late: the peer has the rest of a deadline to answer it.
        assert!(!cell(100, 104).is_late(107 * MS, 0));
        assert!(cell(100, 104).is_late(108 * MS, 0));
    }

    #[test]
    fn an_own_stall_widens_the_deadline() {
        let credit = Credit::default().after_tick(101 * MS, 104 * MS, MS / 2, 5 * MS);
        assert_eq!(credit.ns, 3 * MS);
        assert!(!cell(100, 101).is_late(107 * MS, credit.ns));
        assert!(cell(100, 101).is_late(108 * MS, credit.ns));
    }

    #[test]
    fn credit_runs_out_and_is_bounded() {
        let stalled = Credit::default().after_tick(100 * MS, 110 * MS, MS, 5 * MS);
        assert_eq!(stalled.after_tick(111 * MS, 111 * MS, MS, 5 * MS), stalled);
        assert_eq!(stalled.after_tick(126 * MS, 126 * MS, MS, 5 * MS).ns, 0);
        let long = stalled.after_tick(111 * MS, 100_000 * MS, MS, 5 * MS);
        assert_eq!(long.ns, CREDIT_MAX_NS);
    }

    #[test]
    fn a_late_cell_is_told_once_and_an_unwatched_one_never() {
        let mut silent = cell(100, 101);
        silent.state = state::WATCHED;
        assert!(!silent.is_late(1000 * MS, 0));
        assert_eq!(after_proof(0, 0, 0), 0);
    }

    #[test]
    fn proofs_set_what_they_say_and_gone_stays() {
        let watched = state::WATCHED;
        assert_eq!(after_proof(watched, 0, 0), watched | state::HEARD);
        let gone = after_proof(watched, flags::GONE, 0);
        assert_eq!(gone, watched | state::HEARD | state::GONE);
        assert_eq!(after_proof(gone, 0, 0), gone);
        let stalled = after_proof(watched, 0, 200_000);
        assert_eq!(stalled, watched | state::HEARD | state::STALLED);
        assert_eq!(after_proof(stalled, 0, 0), watched | state::HEARD);
        // Whose life it is stays with the word.
        let life = 7 << 32 | 0xabcd;
        let word = after_proof(state::watched(life), flags::LEAVING, 0);
        assert!(state::is_of(word, life) && !state::is_of(word, life + 1) && !state::is_of(0, life));
        assert_eq!(word & state::BITS, watched | state::HEARD | state::LEAVING);
        // While a daemon is being replaced its main loop is expected to stand still.
        assert_eq!(after_proof(watched, flags::HANDOVER, 200_000), watched | state::HEARD | state::HANDOVER);
    }
}
