//! What no event tells: the looks over cells, rows, carriers and the flow of probes.

use ringbeat_common::event::Event;
use ringbeat_common::limits::cell;
use ringbeat_common::watch::state;
use ringbeat_core::detector;

use super::Runtime;
use crate::carrier;

/// Why a link with a carrier cannot send.
const REFUSED: &str = "the kernel refuses its probes";

impl Runtime {
    /// Compares the cells with what the detector knows: a full ring loses events, never states.
    pub(super) fn look_over_cells(&mut self, now_ns: u64, lost: bool) {
        for slot in self.peer_slots() {
            for link in self.started.links.iter().map(|link| link.id).collect::<Vec<_>>() {
                let index = cell(link, slot);
                let (from, to) = (self.known[index], self.started.plane.state(link, slot));
                if from == to || to & state::WATCHED == 0 {
                    continue;
                }
                let there = self.started.plane.slot(link, slot);
                let watch = self.started.plane.cell(link, slot).watch;
                let event = Event {
                    stamp_ns: now_ns,
                    cell: index as u32,
                    by_timer: 0,
                    from,
                    to,
                    heard_ns: watch.heard_ns,
                    unanswered_ns: watch.unanswered_ns,
                    credit_ns: 0,
                    incarnation: there.incarnation,
                    daemon_age_us: there.daemon_age_us,
                    flags: there.flags as u32,
                };
                self.events_lost += u64::from(lost);
                self.known[index] = to;
                self.detector.handle(detector::Input::Cell(event), now_ns);
            }
        }
    }

    /// A link on which probes are refused and none leaves cannot send, whatever its carrier says.
    pub(super) fn look_at_flow(&mut self, now_ns: u64) {
        let mut changed = false;
        for index in 0..self.flow.len() {
            let link = self.started.links[index].id;
            let errors = self.started.book.send_errors(link).0;
            let sent = self.peer_slots().into_iter();
            let sent = sent.map(|slot| self.started.plane.probes_sent(link, slot)).sum();
            let before = std::mem::replace(&mut self.flow[index], (errors, sent));
            let refused = match (errors > before.0, sent > before.1) {
                (true, false) => true,
                (_, true) => false,
                (false, false) => self.refused[index],
            };
            changed |= refused != self.refused[index];
            self.refused[index] = refused;
        }
        if changed {
            self.look_at_carriers(now_ns);
        }
    }

    /// Asks every own link whether it can send; what has changed goes to the detector.
    pub(super) fn look_at_carriers(&mut self, now_ns: u64) {
        for index in 0..self.faults.len() {
            let link = &self.started.links[index];
            let fault = carrier::fault(&link.interface).or_else(|| self.refused[index].then_some(REFUSED));
            if fault.is_some() != self.faults[index].is_some() {
                let input = detector::Input::OwnLink { link: link.id, up: fault.is_none(), stamp_ns: now_ns };
                self.detector.handle(input, now_ns);
            }
            self.faults[index] = fault;
        }
    }
}
