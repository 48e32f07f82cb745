//! One history: nodes with their views, rings and groups, programs that talk, a network, and faults that heal.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use bytes::{BufMut, Bytes, BytesMut};
use ringbeat_common::view::View;
use ringbeat_core::cpg::{self, Groups, Name};
use ringbeat_core::membership::choice::bits;
use ringbeat_core::membership::electorate::Standing;
use ringbeat_core::membership::{self, Adopted, Config, Membership, NodeConfig};
use ringbeat_core::mutation::Mutation;
use ringbeat_core::srp::{self, Params, Ring};

use crate::log::{Log, Told};
use crate::plan::{Fault, MS, Plan, US};
use crate::splitmix::SplitMix;

/// The profile `fast`.
const INTERVAL_NS: u64 = MS;
const DEADLINE_NS: u64 = 5 * MS;
/// Bytes of a packet's payload.
const PAYLOAD: usize = 1380;
/// A token is lost after so long here, so that histories are short.
const TOKEN_NS: u64 = 60 * MS;
const GROUPS: [&str; 2] = ["a", "b"];

/// A program in a group.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) sent: u32,
    pub(crate) back: u32,
}

pub(crate) struct Node {
    pub(crate) life: u32,
    pub(crate) membership: Membership,
    pub(crate) ring: Ring,
    pub(crate) groups: Groups,
    pub(crate) programs: BTreeMap<(usize, u32), Program>,
    pub(crate) log: usize,
    pub(crate) is_alive: bool,
    session: u32,
    waiting: Vec<Bytes>,
    /// The next number of each program, over its times in the group.
    next: BTreeMap<(usize, u32), u32>,
    /// Who is in each group, as it was told last.
    among: [u64; 2],
    lost: Option<View>,
    row: u64,
    ceiling: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Views { from: u8, life: u32, to: u8, bytes: Vec<u8> },
    Ring { from: u8, session: u32, to: u8, bytes: Vec<u8> },
    Row { slot: u8 },
    Reserved { slot: u8, life: u32, ceiling: u64 },
    Begin { fault: usize },
    End { fault: usize },
    Talk,
}

/// The history.
pub(crate) struct World {
    pub(crate) plan: Plan,
    mutation: Mutation,
    dice: SplitMix,
    pub(crate) now_ns: u64,
    number: u64,
    sessions: u32,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    pub(crate) nodes: Vec<Node>,
    /// Faults in force.
    in_force: Vec<usize>,
    is_calm: bool,
    together_ns: Option<u64>,
    pub(crate) logs: Vec<Log>,
    pub(crate) views: u64,
    pub(crate) lost: u64,
    pub(crate) view_messages: u64,
    pub(crate) ring_frames: u64,
    pub(crate) met: [u64; Fault::KINDS],
    pub(crate) wrong: Option<String>,
    pub(crate) trace: Vec<String>,
    /// Programs talk.
    pub(crate) talks: bool,
}

impl World {
    pub(crate) fn new(plan: Plan, mutation: Mutation, dice: SplitMix) -> Self {
        let mut world = Self {
            mutation,
            dice,
            now_ns: 1000 * MS,
            number: 0,
            sessions: 0,
            events: BinaryHeap::new(),
            nodes: Vec::new(),
            in_force: Vec::new(),
            is_calm: false,
            together_ns: None,
            logs: Vec::new(),
            views: 0,
            lost: 0,
            view_messages: 0,
            ring_frames: 0,
            met: [0; Fault::KINDS],
            wrong: None,
            trace: Vec::new(),
            talks: true,
            plan,
        };
        for slot in 0..world.plan.nodes {
            let node = world.born(slot, 1, 0, None);
            world.nodes.push(node);
        }
        for slot in 0..world.plan.nodes {
            world.look_soon(slot, 2 * MS);
        }
        for (fault, (at_ns, _, _)) in world.plan.faults.clone().into_iter().enumerate() {
            world.plan_event(at_ns, Event::Begin { fault });
        }
        world.plan_event(MS, Event::Talk);
        world
    }

    fn born(&mut self, slot: u8, life: u32, ceiling: u64, adopted: Option<Adopted>) -> Node {
        self.sessions += 1;
        self.logs.push(Log { slot, told: Vec::new(), has_died: false });
        let nodes = (0..self.plan.nodes).map(|slot| NodeConfig { slot, votes: 1, witness: false });
        let config = Config {
            own: slot,
            incarnation: u64::from(life) << 32 | u64::from(slot),
            config_version: 1,
            lease_us: 5000,
            nodes: nodes.collect(),
            resources: Vec::new(),
            interval_ns: INTERVAL_NS,
            ceiling,
            announced_floor: 0,
            mute_ns: 2000 * MS,
            quiet_until_ns: 0,
            started_ns: self.now_ns,
            standing: Standing { confirmed: true, again: false, sole: true },
            adopted,
        };
        Node {
            life,
            membership: Membership::mutated(config, self.mutation),
            ring: Ring::mutated(slot, Params::with_token(DEADLINE_NS, TOKEN_NS, PAYLOAD), self.mutation),
            groups: Groups::mutated(slot, self.mutation),
            programs: BTreeMap::new(),
            log: self.logs.len() - 1,
            is_alive: true,
            session: self.sessions,
            waiting: Vec::new(),
            next: BTreeMap::new(),
            among: [0; 2],
            lost: None,
            row: 0,
            ceiling,
        }
    }

    /// Runs it; what is wrong at its end, if the nodes do not come together.
    pub(crate) fn run(&mut self) -> Option<String> {
        let calm_ns = self.now_ns + self.plan.trouble_ns;
        self.run_until(calm_ns);
        self.calm_down();
        let end_ns = self.now_ns + self.plan.calm_ns;
        while self.now_ns < end_ns && self.wrong.is_none() {
            self.run_until(self.now_ns + 5 * MS);
            if self.apart().is_some() {
                self.together_ns = None;
                continue;
            }
            // What is safe may still wait for a token that is on its way anew.
            let since_ns = *self.together_ns.get_or_insert(self.now_ns);
            if self.now_ns >= since_ns + 30 * MS {
                return None;
            }
        }
        self.apart().map(|apart| format!("{apart}, {} ms after the last fault", self.plan.calm_ns / MS))
    }

    pub(crate) fn run_until(&mut self, end_ns: u64) {
        while self.wrong.is_none() {
            let event_ns = self.events.peek().map_or(u64::MAX, |event| event.0.0);
            let timer = self.next_timer();
            let next_ns = timer.map_or(event_ns, |(at, _)| at.min(event_ns)).max(self.now_ns);
            if next_ns >= end_ns {
                break;
            }
            self.now_ns = next_ns;
            match timer {
                Some((at, slot)) if at <= event_ns => self.timeout(slot),
                _ => {
                    let Some(Reverse((_, _, event))) = self.events.pop() else { break };
                    self.happen(event);
                }
            }
        }
        self.now_ns = self.now_ns.max(end_ns);
    }

    fn next_timer(&self) -> Option<(u64, u8)> {
        let timers = self.nodes.iter().enumerate().filter(|(_, node)| node.is_alive);
        let next = timers.filter_map(|(slot, node)| {
            let at =
                [node.membership.next_timeout(), node.ring.next_timeout()].into_iter().flatten().min()?;
            Some((at, slot as u8))
        });
        next.filter(|(_, slot)| !self.stands_still(*slot)).min()
    }

    fn stands_still(&self, slot: u8) -> bool {
        self.in_force.iter().any(|fault| self.plan.faults[*fault].2 == Fault::Pause(slot))
    }

    fn timeout(&mut self, slot: u8) {
        let now_ns = self.now_ns;
        let node = &mut self.nodes[usize::from(slot)];
        if node.membership.next_timeout().is_some_and(|at| at <= now_ns) {
            node.membership.handle(membership::Input::Timeout, now_ns);
        }
        self.drain_views(slot);
        let node = &mut self.nodes[usize::from(slot)];
        if node.ring.next_timeout().is_some_and(|at| at <= now_ns) {
            node.ring.handle(srp::Input::Timeout, now_ns);
        }
        self.drain(slot);
        self.agree_anew(slot);
    }

    fn happen(&mut self, event: Event) {
        let now_ns = self.now_ns;
        match event {
            Event::Views { from, life, to, bytes } if self.hears(from, life, to) => {
                if self.stands_still(to) {
                    self.plan_event(MS, Event::Views { from, life, to, bytes });
                    return;
                }
                let incarnation = u64::from(life) << 32 | u64::from(from);
                let input = membership::Input::Message { from, incarnation, bytes };
                self.nodes[usize::from(to)].membership.handle(input, now_ns);
                self.drain_views(to);
            }
            Event::Ring { from, session, to, bytes } if self.opens(from, session, to) => {
                if self.stands_still(to) {
                    self.plan_event(MS, Event::Ring { from, session, to, bytes });
                    return;
                }
                self.nodes[usize::from(to)]
                    .ring
                    .handle(srp::Input::Frame { from, bytes: bytes.into() }, now_ns);
                self.drain(to);
            }
            Event::Views { .. } | Event::Ring { .. } => {}
            Event::Row { slot } => self.row(slot),
            Event::Reserved { slot, life, ceiling } => self.reserved(slot, life, ceiling),
            Event::Begin { fault } => self.begin(fault),
            Event::End { fault } => self.end(fault),
            Event::Talk => self.talk(),
        }
    }

    /// Whether what the life of one sent is for a node that lives: its handshake has accepted that life and no other.
    fn hears(&self, from: u8, life: u32, to: u8) -> bool {
        self.nodes[usize::from(to)].is_alive && self.nodes[usize::from(from)].life == life
    }

    /// The same for the ring: a session of its own each time that a daemon starts.
    fn opens(&self, from: u8, session: u32, to: u8) -> bool {
        self.nodes[usize::from(to)].is_alive && self.nodes[usize::from(from)].session == session
    }

    /// Whether a packet gets from one to another.
    fn reaches(&self, from: u8, to: u8) -> bool {
        self.in_force.iter().all(|fault| match self.plan.faults[*fault].2 {
            Fault::Oneway(one, other) => (one, other) != (from, to),
            Fault::Parted(side) => side >> from & 1 == side >> to & 1,
            _ => true,
        })
    }

    /// What the detector says of a node's peers, some time after something has changed.
    fn look_soon(&mut self, slot: u8, wait_ns: u64) {
        let wait_ns = wait_ns + self.dice.within(0, INTERVAL_NS);
        self.plan_event(wait_ns, Event::Row { slot });
    }

    fn all_look(&mut self, wait_ns: u64) {
        for slot in 0..self.plan.nodes {
            self.look_soon(slot, wait_ns);
        }
    }

    fn row(&mut self, slot: u8) {
        if !self.nodes[usize::from(slot)].is_alive {
            return;
        }
        if self.stands_still(slot) {
            self.plan_event(MS, Event::Row { slot });
            return;
        }
        let (now_ns, mut row) = (self.now_ns, 1 << slot);
        for peer in (0..self.plan.nodes).filter(|peer| *peer != slot) {
            let other = &self.nodes[usize::from(peer)];
            // Proof of life is an answer: both ways are needed.
            if other.is_alive && self.reaches(peer, slot) && self.reaches(slot, peer) {
                row |= 1 << peer;
                let incarnation = u64::from(other.life) << 32 | u64::from(peer);
                let input = membership::Input::Accepted { slot: peer, incarnation };
                self.nodes[usize::from(slot)].membership.handle(input, now_ns);
            }
        }
        self.drain_views(slot);
        if std::mem::replace(&mut self.nodes[usize::from(slot)].row, row) != row {
            self.note(|| format!("{slot} hears {row:b}"));
            let input = membership::Input::Row { heard: row };
            self.nodes[usize::from(slot)].membership.handle(input, now_ns);
            self.drain_views(slot);
        }
    }

    fn reserved(&mut self, slot: u8, life: u32, ceiling: u64) {
        let hangs = self.in_force.iter().any(|fault| self.plan.faults[*fault].2 == Fault::Disk(slot));
        let node = &self.nodes[usize::from(slot)];
        if !node.is_alive || node.life != life {
            return;
        }
        if hangs || self.stands_still(slot) {
            self.plan_event(MS, Event::Reserved { slot, life, ceiling });
            return;
        }
        let now_ns = self.now_ns;
        let node = &mut self.nodes[usize::from(slot)];
        node.ceiling = node.ceiling.max(ceiling);
        node.membership.handle(membership::Input::Reserved { ceiling }, now_ns);
        self.drain_views(slot);
    }

    fn begin(&mut self, fault: usize) {
        if self.is_calm {
            return;
        }
        let (_, lasts_ns, what) = self.plan.faults[fault];
        let is_again = match what {
            Fault::Kill(slot) | Fault::Crash(slot) | Fault::Replace(slot) => {
                !self.nodes[usize::from(slot)].is_alive || self.stands_still(slot)
            }
            _ => false,
        };
        if is_again {
            return;
        }
        self.met[what.kind()] += 1;
        self.note(|| format!("{what:?}"));
        self.in_force.push(fault);
        self.plan_event(lasts_ns, Event::End { fault });
        match what {
            Fault::Kill(slot) | Fault::Crash(slot) => {
                let node = &mut self.nodes[usize::from(slot)];
                node.is_alive = false;
                self.logs[node.log].has_died = true;
                self.all_look(if matches!(what, Fault::Kill(_)) { MS / 2 } else { DEADLINE_NS });
            }
            Fault::Oneway(..) | Fault::Parted(_) => self.all_look(DEADLINE_NS),
            Fault::Replace(slot) => self.replace(slot),
            Fault::Pause(_) | Fault::RingOnly(..) | Fault::Disk(_) => {}
        }
    }

    /// Another daemon goes on for one: it knows the views, and nothing of the ring.
    fn replace(&mut self, slot: u8) {
        let node = &self.nodes[usize::from(slot)];
        let view = node.membership.installed().view;
        let (life, ceiling, row) = (node.life, node.ceiling, node.row);
        if !view.is_some() {
            return;
        }
        self.logs[node.log].has_died = true;
        let installed = *node.membership.installed();
        let adopted = Adopted { installed, announced: node.membership.announced(), heard: row };
        self.nodes[usize::from(slot)] = self.born(slot, life, ceiling, Some(adopted));
        self.nodes[usize::from(slot)].row = row;
        let now_ns = self.now_ns;
        for peer in bits(row & !(1 << slot)) {
            let incarnation = u64::from(self.nodes[usize::from(peer)].life) << 32 | u64::from(peer);
            let input = membership::Input::Accepted { slot: peer, incarnation };
            self.nodes[usize::from(slot)].membership.handle(input, now_ns);
        }
        self.nodes[usize::from(slot)].membership.handle(membership::Input::Row { heard: row }, now_ns);
        self.drain_views(slot);
        self.nodes[usize::from(slot)].ring.handle(srp::Input::Abandon { view }, now_ns);
        self.drain(slot);
    }

    fn end(&mut self, fault: usize) {
        let Some(place) = self.in_force.iter().position(|of| *of == fault) else { return };
        self.in_force.remove(place);
        let what = self.plan.faults[fault].2;
        self.note(|| format!("{what:?} is over"));
        match what {
            Fault::Kill(slot) | Fault::Crash(slot) => {
                let node = &self.nodes[usize::from(slot)];
                let (life, ceiling) = (node.life + 1, node.ceiling);
                self.nodes[usize::from(slot)] = self.born(slot, life, ceiling, None);
                self.all_look(3 * MS);
            }
            Fault::Oneway(..) | Fault::Parted(_) => self.all_look(10 * MS),
            Fault::Pause(_) | Fault::RingOnly(..) | Fault::Disk(_) | Fault::Replace(_) => {}
        }
    }

    /// Nothing goes wrong from here on, and everybody is there.
    pub(crate) fn calm_down(&mut self) {
        for fault in self.in_force.clone() {
            self.end(fault);
        }
        self.is_calm = true;
        (self.plan.loss_permille, self.plan.late_permille) = (0, 0);
        self.note(|| "calm".to_owned());
    }

    /// A program does something.
    fn talk(&mut self) {
        if self.is_calm || !self.talks {
            return;
        }
        self.plan_event(self.plan.talk_ns, Event::Talk);
        let slot = self.dice.index(self.nodes.len()) as u8;
        if !self.nodes[usize::from(slot)].is_alive || self.stands_still(slot) {
            return;
        }
        let (group, pid) = (self.dice.index(GROUPS.len()), self.dice.within(1, 4) as u32);
        let deed = self.dice.within(0, 20);
        let size = if deed == 19 { self.dice.within(0, 5000) } else { self.dice.within(0, 200) };
        let key = (group, pid);
        let node = &mut self.nodes[usize::from(slot)];
        let bytes = match deed {
            0 | 1 => node.groups.join(&name(group), pid).inspect(|_| {
                node.groups.asked_in(name(group), pid);
                node.programs.insert(key, Program { sent: 0, back: 0 });
            }),
            2 => {
                node.programs.remove(&key);
                node.groups.leave(&name(group), pid, pid == 2)
            }
            _ => {
                let counter = node.next.get(&key).copied().unwrap_or(0);
                let mut body = BytesMut::new();
                body.put_u32_le(node.life);
                body.put_u32_le(counter);
                body.put_bytes(counter as u8, size as usize);
                node.groups.send(&name(group), pid, cpg::Piece::default(), &body).inspect(|_| {
                    if let Some(program) = node.programs.get_mut(&key) {
                        program.sent += 1;
                    }
                    node.next.insert(key, counter + 1);
                })
            }
        };
        if let Ok(bytes) = bytes {
            node.waiting.push(bytes);
            self.send_waiting(slot);
        }
    }

    fn send_waiting(&mut self, slot: u8) {
        let now_ns = self.now_ns;
        while !self.nodes[usize::from(slot)].waiting.is_empty() {
            let node = &mut self.nodes[usize::from(slot)];
            let bytes = node.waiting.remove(0);
            if let Err(bytes) = node.ring.submit(bytes, false, now_ns) {
                node.waiting.insert(0, bytes);
                return;
            }
            self.drain(slot);
        }
    }

    fn drain_views(&mut self, slot: u8) {
        let now_ns = self.now_ns;
        while let Some(output) = self.nodes[usize::from(slot)].membership.poll_output() {
            match output {
                membership::Output::Announce { view, .. } => {
                    self.note(|| {
                        format!("{slot} announces {}.{} {:b}", view.epoch, view.proposer(), view.members)
                    });
                    self.nodes[usize::from(slot)].ring.handle(srp::Input::Freeze, now_ns);
                    self.drain(slot);
                }
                membership::Output::Install { installed, .. } => {
                    let view = installed.view;
                    self.views += 1;
                    self.note(|| {
                        format!("{slot} installs {}.{} {:b}", view.epoch, view.proposer(), view.members)
                    });
                    self.nodes[usize::from(slot)].ring.handle(srp::Input::Form { view }, now_ns);
                    self.drain(slot);
                }
                membership::Output::Send { to, bytes } => {
                    let life = self.nodes[usize::from(slot)].life;
                    for to in bits(to) {
                        self.view_messages += 1;
                        // On each of two links.
                        if let Some(wait_ns) =
                            self.travels(slot, to, true).or_else(|| self.travels(slot, to, true))
                        {
                            let bytes = bytes.clone();
                            self.plan_event(wait_ns, Event::Views { from: slot, life, to, bytes });
                        }
                    }
                }
                membership::Output::Reserve { ceiling } => {
                    let (life, wait_ns) = (self.nodes[usize::from(slot)].life, self.dice.within(MS, 10 * MS));
                    self.plan_event(wait_ns, Event::Reserved { slot, life, ceiling });
                }
                membership::Output::Confirmed | membership::Output::Differs { .. } => {}
            }
        }
    }

    fn drain(&mut self, slot: u8) {
        while let Some(output) = self.nodes[usize::from(slot)].ring.poll_output() {
            let node = &mut self.nodes[usize::from(slot)];
            match output {
                srp::Output::Send { to, bytes } => self.send(slot, to, &bytes),
                srp::Output::Deliver { from, bytes } => node.groups.delivered(from, bytes),
                srp::Output::Transitional { members } => {
                    self.tell(slot, Told::Transitional(members));
                    self.nodes[usize::from(slot)].groups.transitional(members);
                }
                srp::Output::Regular { view } => {
                    self.note(|| {
                        format!("{slot} is in {}.{} {:b}", view.epoch, view.proposer(), view.members)
                    });
                    self.tell(slot, Told::Regular(view));
                    self.nodes[usize::from(slot)].groups.regular(view.members);
                }
                srp::Output::Lost { view } => {
                    self.lost += 1;
                    self.note(|| format!("{slot} has lost {}.{}", view.epoch, view.proposer()));
                    self.nodes[usize::from(slot)].lost = Some(view);
                    self.agree_anew(slot);
                }
            }
            while let Some(output) = self.nodes[usize::from(slot)].groups.poll_output() {
                self.of_groups(slot, output);
            }
        }
        if !self.nodes[usize::from(slot)].waiting.is_empty() && self.nodes[usize::from(slot)].ring.has_room()
        {
            self.send_waiting(slot);
        }
    }

    /// As the daemon does: once all members can.
    fn agree_anew(&mut self, slot: u8) {
        let node = &self.nodes[usize::from(slot)];
        let Some(view) = node.lost else { return };
        let able = bits(view.members).all(|member| node.row >> member & 1 == 1 && !self.stands_still(member));
        if view != node.membership.installed().view {
            self.nodes[usize::from(slot)].lost = None;
        } else if able && self.mutation != Mutation::RingKeptWhenLost {
            let now_ns = self.now_ns;
            let node = &mut self.nodes[usize::from(slot)];
            node.lost = None;
            node.membership.handle(membership::Input::RingLost { view }, now_ns);
            self.drain_views(slot);
        }
    }

    fn of_groups(&mut self, slot: u8, output: cpg::Output) {
        match output {
            cpg::Output::First { bytes } => {
                self.nodes[usize::from(slot)].ring.submit_first(bytes);
            }
            cpg::Output::Configuration { group, members, .. } => {
                let group = place(&group);
                self.note(|| format!("{slot}: {} has {members:?}", GROUPS[group]));
                let sum = members.iter().fold(0u64, |sum, one| {
                    (sum ^ u64::from(one.slot) << 32 ^ u64::from(one.pid)).wrapping_mul(0x0100_0000_01b3)
                });
                self.nodes[usize::from(slot)].among[group] = sum;
                self.tell(slot, Told::Members { group, members });
            }
            cpg::Output::Message { group, from, bytes, .. } => {
                let group = place(&group);
                let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
                let (life, counter) = (word(0), word(4));
                if !bytes[8..].iter().all(|byte| *byte == counter as u8) {
                    self.wrong = Some(format!("{slot} was told damage by {from:?}"));
                }
                if from.slot == slot
                    && let Some(program) = self.nodes[usize::from(slot)].programs.get_mut(&(group, from.pid))
                {
                    program.back += 1;
                }
                let node = &self.nodes[usize::from(slot)];
                let among = if node.groups.knows_all() { node.among[group] } else { 0 };
                self.tell(slot, Told::Message { group, from, life, counter, among });
            }
        }
    }

    fn tell(&mut self, slot: u8, told: Told) {
        let log = self.nodes[usize::from(slot)].log;
        self.logs[log].told.push(told);
    }

    fn send(&mut self, from: u8, to: u64, bytes: &Bytes) {
        if bytes.len() > PAYLOAD + 48 {
            self.wrong = Some(format!("{} bytes do not fit a frame", bytes.len()));
        }
        let session = self.nodes[usize::from(from)].session;
        for to in bits(to) {
            self.ring_frames += 1;
            if let Some(wait_ns) = self.travels(from, to, false) {
                self.plan_event(wait_ns, Event::Ring { from, session, to, bytes: bytes.to_vec() });
            }
        }
    }

    /// How long a packet takes; none if it is lost.
    fn travels(&mut self, from: u8, to: u8, of_views: bool) -> Option<u64> {
        let is_blocked = !of_views
            && self.in_force.iter().any(|fault| self.plan.faults[*fault].2 == Fault::RingOnly(from, to));
        if is_blocked || !self.reaches(from, to) || self.dice.permille(self.plan.loss_permille) {
            return None;
        }
        let late = self.dice.permille(self.plan.late_permille);
        Some(if late { self.dice.within(0, 4 * MS) } else { self.dice.within(20 * US, 60 * US) })
    }

    /// Why the nodes are not together.
    pub(crate) fn apart(&self) -> Option<String> {
        let all = (1u128 << self.plan.nodes) as u64;
        let all = all.wrapping_sub(1);
        let view = self.nodes[0].ring.view();
        for (slot, node) in self.nodes.iter().enumerate() {
            let installed = node.membership.installed().view;
            let turns = node.ring.is_operational() && node.ring.view() == view && view == installed;
            if view.members != all || !turns {
                let (state, epoch) = (node.ring.state(), node.ring.view().epoch);
                return Some(format!("{slot} is {state} in {epoch}, has installed {installed:?}"));
            }
            let waits =
                node.ring.backlog() > 0 || node.programs.values().any(|program| program.back < program.sent);
            if waits {
                return Some(format!("messages of {slot} have not come back"));
            }
        }
        None
    }

    fn plan_event(&mut self, wait_ns: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now_ns + wait_ns, self.number, event)));
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        const TRACE_MAX: usize = 5000;
        if self.trace.len() < TRACE_MAX {
            let line = format!("{:>10.3} ms  {}", (self.now_ns - 1000 * MS) as f64 / 1e6, text());
            self.trace.push(line);
        }
    }
}

fn name(group: usize) -> Name {
    let name = Name::new(Bytes::from_static(GROUPS[group].as_bytes()));
    name.unwrap_or_else(|| unreachable!("a short name"))
}

fn place(group: &Name) -> usize {
    GROUPS.iter().position(|name| name.as_bytes() == group.as_bytes()).unwrap_or(0)
}
