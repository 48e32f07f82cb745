//! The kernel plane of one machine, made of the very functions that the kernel programs run.

use ringbeat_common::compose::{Address, Granting, compose};
use ringbeat_common::drops::Drop;
use ringbeat_common::event::Event;
use ringbeat_common::frame::{Frame, Kind};
use ringbeat_common::limits::{TICK_LATE_NS, TICK_MAX_NS, TICK_MIN_NS, cell};
use ringbeat_common::maps::{Latch, Node, latch};
use ringbeat_common::slot::{Local, Slot};
use ringbeat_common::watch::{Credit, Watch, after_proof, state};
use ringbeat_core::detector::LinkTimes;

/// A clause of the kernel's rules that the world leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// Own stalls widen no deadline.
    Credit,
    /// However old a returned stamp is, it proves life.
    Freshness,
    /// Any sequence number will do.
    Sequence,
}

/// A peer on a link.
#[derive(Clone, Copy, Default)]
struct Cell {
    slot: Slot,
    watch: Watch,
    probes_sent: u64,
}

pub(crate) struct Kernel {
    pub(crate) node: Node,
    pub(crate) latch: Latch,
    pub(crate) credit: Credit,
    pub(crate) next_ns: u64,
    pub(crate) events: Vec<Event>,
    links: Vec<LinkTimes>,
    cells: Vec<Vec<Cell>>,
    grid_ns: u64,
    broken: Broken,
}

impl Kernel {
    /// A plane opened for a new daemon.
    pub(crate) fn new(
        slot: u8,
        incarnation: u64,
        slots: usize,
        links: &[LinkTimes],
        now_ns: u64,
        broken: Broken,
    ) -> Self {
        let node = Node {
            incarnation,
            slot: u64::from(slot),
            deadline_max_ns: links.iter().map(|link| link.deadline_ns).max().unwrap_or(0),
            interval_min_ns: links.iter().map(|link| link.interval_ns).min().unwrap_or(0),
            ..Node::default()
        };
        let cells = links.iter().map(|link| {
            let watch = Watch {
                deadline_ns: link.deadline_ns as u32,
                interval_ns: link.interval_ns as u32,
                ..Watch::default()
            };
            vec![Cell { watch, ..Cell::default() }; slots]
        });
        Self {
            node,
            latch: Latch { state: latch::ALIVE, registered_ns: now_ns, beat_ns: now_ns, ..Latch::default() },
            credit: Credit::default(),
            next_ns: now_ns + TICK_MIN_NS,
            events: Vec::new(),
            links: links.to_vec(),
            cells: cells.collect(),
            grid_ns: now_ns + TICK_MIN_NS,
            broken,
        }
    }

    /// What the daemon does when an incarnation is accepted.
    pub(crate) fn accept(&mut self, slot: u8, incarnation: u64) {
        for cells in &mut self.cells {
            let cell = &mut cells[usize::from(slot)];
            cell.slot = Slot::accepting(incarnation);
            cell.watch.heard_ns = 0;
            cell.watch.unanswered_ns = 0;
            cell.watch.state = state::WATCHED;
        }
    }

    pub(crate) fn accepted(&self, slot: u8) -> u64 {
        self.cells[0][usize::from(slot)].slot.incarnation
    }

    /// The egress program.
    pub(crate) fn probe(&mut self, link: usize, target: u8, now_ns: u64) -> Option<Frame> {
        let cell = &mut self.cells[link][usize::from(target)];
        let peer = cell.slot.snapshot();
        if self.node.incarnation == 0 || peer.incarnation == 0 {
            return None;
        }
        if cell.watch.unanswered_ns == 0 {
            cell.watch.unanswered_ns = now_ns;
        }
        cell.probes_sent += 1;
        let to = Address { target, link: link as u8, sequence: cell.probes_sent };
        let mut frame = Frame::new(Kind::Probe);
        compose(&mut frame, Kind::Probe, &self.node, &self.latch, to, peer, Granting::default(), now_ns);
        Some(frame)
    }

    /// The receiving program: whether the frame proved life, and the answer to a probe.
    pub(crate) fn receive(&mut self, frame: &Frame, now_ns: u64) -> Result<(bool, Option<Frame>), Drop> {
        let link = usize::from(frame.link());
        if frame.sender() == self.node.slot as u8 {
            return Err(Drop::SelfSent);
        }
        if self.node.incarnation == 0 {
            return Err(Drop::Closed);
        }
        let freshness_ns =
            if self.broken == Broken::Freshness { u64::MAX } else { self.links[link].deadline_ns };
        let local = Local { incarnation: self.node.incarnation, view: [0; 3], freshness_ns, now_ns };
        let slot = &mut self.cells[link][usize::from(frame.sender())].slot;
        if self.broken == Broken::Sequence {
            (slot.probe_sequence, slot.answer_sequence) = (0, 0);
        }
        let proves = slot.accept(frame, &local)?;
        if proves {
            self.seen(frame, now_ns);
        }
        let is_probe = frame.kind() == Kind::Probe as u8;
        let answer = is_probe.then(|| {
            let to = Address { target: frame.sender(), link: frame.link(), sequence: frame.sequence() };
            let peer = ringbeat_common::slot::Snapshot {
                incarnation: frame.incarnation(),
                stamp: frame.stamp(),
                received: now_ns,
            };
            let mut answer = *frame;
            compose(
                &mut answer,
                Kind::Answer,
                &self.node,
                &self.latch,
                to,
                peer,
                Granting::default(),
                now_ns,
            );
            answer
        });
        Ok((proves, answer))
    }

    fn seen(&mut self, frame: &Frame, now_ns: u64) {
        let (link, slot) = (frame.link(), frame.sender());
        let watch = &mut self.cells[usize::from(link)][usize::from(slot)].watch;
        let before = *watch;
        watch.heard_ns = now_ns;
        watch.unanswered_ns = 0;
        watch.state = after_proof(before.state, frame.flags(), frame.daemon_age_us());
        if watch.state != before.state {
            self.events.push(Event {
                stamp_ns: now_ns,
                cell: cell(link, slot) as u32,
                by_timer: 0,
                from: before.state,
                to: watch.state,
                heard_ns: before.heard_ns,
                unanswered_ns: before.unanswered_ns,
                credit_ns: 0,
                incarnation: frame.incarnation(),
                daemon_age_us: frame.daemon_age_us(),
                flags: u32::from(frame.flags()),
            });
        }
    }

    /// The timer; leaves the time of its next run in `next_ns`.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        if self.broken != Broken::Credit {
            let deadline_max_ns = self.node.deadline_max_ns;
            self.credit = self.credit.after_tick(self.next_ns, now_ns, TICK_LATE_NS, deadline_max_ns);
        }
        let credit_ns = self.credit.ns;
        let mut earliest_ns = now_ns + TICK_MAX_NS;
        for (link, cells) in self.cells.iter_mut().enumerate() {
            for (slot, Cell { watch, .. }) in cells.iter_mut().enumerate() {
                if watch.state & state::HEARD == 0 || watch.unanswered_ns == 0 {
                    continue;
                }
                if !watch.is_late(now_ns, credit_ns) {
                    earliest_ns = earliest_ns.min(watch.expires_ns(credit_ns));
                    continue;
                }
                let to = watch.state & !state::HEARD;
                self.events.push(Event {
                    stamp_ns: now_ns,
                    cell: cell(link as u8, slot as u8) as u32,
                    by_timer: 1,
                    from: watch.state,
                    to,
                    heard_ns: watch.heard_ns,
                    unanswered_ns: watch.unanswered_ns,
                    credit_ns,
                    ..Event::default()
                });
                watch.state = to;
            }
        }
        let interval_ns = self.node.interval_min_ns.clamp(TICK_MIN_NS, TICK_MAX_NS);
        if self.grid_ns <= now_ns {
            self.grid_ns += ((now_ns - self.grid_ns) / interval_ns + 1) * interval_ns;
        }
        self.next_ns = earliest_ns.min(self.grid_ns).max(now_ns + TICK_MIN_NS);
    }
}
