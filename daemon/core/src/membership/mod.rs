//! Views: who is in, agreed on by all who are in, and who owns what under that.
//!
//! The idea in a minute. Every node tells all others its row: whom it hears, what it has installed, what it holds. From
//! the rows each makes the same [`choice`]. The lowest id of the chosen group proposes a view: a fresh id, the members,
//! the owner of each resource. It *announces* it, which means: stops granting to everybody outside, closes the gates of
//! what the view gives to others, and only then says so. Every member whose own choice is the same announces it too.
//! Whoever has the announcements of all members *installs*.
//!
//! * A view's id is never used again, and a node announces only rising ones, over restarts too: epochs are used up to
//!   a ceiling that is on disk ahead of need.
//! * A choice that is not agreed on in [`YIELD_INTERVALS`] yields to the highest announced view that names this node. A
//!   node that all others leave out stands alone.
//! * Nothing waits for a timer when all goes well: a death needs one message in each direction.
//!
//! DEVIATION from the first design, which let any node without agreement stand alone after three intervals: one that
//! still has company keeps its installed view. It costs nothing while its grants last, and leaving it would drop the
//! lease of a holder for a hiccup of somebody's main loop.
//!
//! Deliberately not here: the lease itself (`ringbeat_common::lease`), deadlines and damping (the kernel's and the
//! detector's, which this machine knows as its own row only), and an order of messages: that is Totem's, which will
//! agree on views in the place of the exchange here, with the same choice and the same announce and install.

pub mod choice;
mod config;
pub mod envelope;
pub mod message;
pub mod row;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use ringbeat_common::limits::{GATES_MAX, NODES_MAX};
use ringbeat_common::view::View;

use self::choice::{Known, bits};
pub use self::config::{Adopted, Config, NodeConfig, ResourceConfig};
pub use self::message::{Announcement, NOBODY, Owners};
use self::message::{Message, ROWS_MAX};
use self::row::Row;
use crate::limits::{
    AGREE_AGAIN_NS, CEILING_AHEAD, GOSSIP_NS, SETTLE_INTERVALS, START_WAIT_INTERVALS, START_WAIT_MAX_NS,
    START_WAIT_MIN_NS, YIELD_INTERVALS,
};
use crate::mutation::Mutation;

/// What goes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The own row, as the detector has it.
    Row {
        /// Whom this node hears, itself included.
        heard: u64,
    },
    /// The handshake has accepted an incarnation.
    Accepted {
        /// Whose.
        slot: u8,
        /// Which.
        incarnation: u64,
    },
    /// An authentic, fresh message of the accepted incarnation of a node.
    Message {
        /// Whose.
        from: u8,
        /// Which life.
        incarnation: u64,
        /// As it came.
        bytes: Vec<u8>,
    },
    /// Epochs up to here are on disk now.
    Reserved {
        /// The ceiling.
        ceiling: u64,
    },
    /// What this node could serve now.
    Able {
        /// A bit for each resource.
        resources: u64,
    },
    /// This node leaves.
    Leaving,
    /// `next_timeout()` has come.
    Timeout,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To be done at once, before any later output: stop granting to nodes outside of the view, and close the gates of
    /// everything but `owned`.
    Announce {
        /// The view.
        view: View,
        /// The resources that it gives to this node.
        owned: u64,
    },
    /// Every member has announced the view that this node has announced last.
    Install {
        /// The view and its owners.
        installed: Announcement,
        /// The resources that it gives to this node.
        owned: u64,
    },
    /// To be sent on every link to each of these slots.
    Send {
        /// A bit for each slot.
        to: u64,
        /// The message.
        bytes: Vec<u8>,
    },
    /// A wish for a ceiling on disk; `Reserved` comes when it is there.
    Reserve {
        /// The ceiling.
        ceiling: u64,
    },
    /// A node runs another configuration and takes no part in views with this one.
    Differs {
        /// Which.
        slot: u8,
        /// Its config version, the lower half.
        config: u32,
        /// Its lease, in µs.
        lease_us: u32,
    },
}

/// The state machine. See the module, and the crate for the driver's contract.
#[derive(Clone, Debug)]
pub struct Membership {
    config: Config,
    votes: [u8; NODES_MAX],
    quorum: u32,
    witnesses: u64,
    everybody: u64,
    rows: Vec<Option<Row>>,
    /// The accepted lives.
    lives: [u64; NODES_MAX],
    /// What each peer has announced last, in the life that is accepted now.
    heard_of: Vec<Option<Announcement>>,
    announced: Announcement,
    installed: Announcement,
    /// The lives of the members that the announced view is of; 0 for one that is not known yet.
    announced_lives: [u64; NODES_MAX],
    ceiling: u64,
    wished: u64,
    choice: u64,
    choice_since_ns: u64,
    /// A hand-over brings the own share of the owners only; the members know the rest, and nobody is told this part.
    owners_partial: bool,
    /// Whether the announced view was not the choice, but yielded to.
    yielded: bool,
    leaving: bool,
    news_ns: u64,
    send_at_ns: u64,
    looked_ns: u64,
    /// A change that has not been sent yet.
    news: bool,
    /// Slots that have spoken since this node hears them.
    fresh: u64,
    /// Slots that do not know the newest row of this node.
    asked: u64,
    told_differs: u64,
    mutation: Mutation,
    outputs: VecDeque<Output>,
}

impl Membership {
    /// A machine that knows nobody yet, or goes on where another stopped.
    pub fn new(config: Config) -> Self {
        Self::mutated(config, Mutation::None)
    }

    /// A machine without one of its clauses, for the tests of the tests.
    #[doc(hidden)]
    pub fn mutated(config: Config, mutation: Mutation) -> Self {
        let mut votes = [0; NODES_MAX];
        let (mut witnesses, mut everybody) = (0, 0);
        for node in &config.nodes {
            let at = usize::from(node.slot) % NODES_MAX;
            votes[at] = node.votes;
            everybody |= 1 << at;
            witnesses |= u64::from(node.witness) << at;
        }
        let all: u32 = votes.iter().map(|votes| u32::from(*votes)).sum();
        let own = Row {
            slot: config.own,
            incarnation: config.incarnation,
            number: 1,
            heard: 1 << config.own,
            config: config.config_version as u32,
            lease_us: config.lease_us,
            floor: if config.ceiling == 0 { 1 } else { config.ceiling + 1 },
            ..Row::default()
        };
        let mut rows = vec![None; NODES_MAX];
        rows[usize::from(config.own)] = Some(own);
        let mut lives = [0; NODES_MAX];
        lives[usize::from(config.own)] = config.incarnation;
        let mut machine = Self {
            votes,
            quorum: all / 2 + 1,
            witnesses,
            everybody,
            rows,
            lives,
            heard_of: vec![None; NODES_MAX],
            announced: Announcement::NONE,
            installed: Announcement::NONE,
            announced_lives: [0; NODES_MAX],
            ceiling: config.ceiling,
            wished: config.ceiling,
            choice: 0,
            choice_since_ns: config.started_ns,
            owners_partial: false,
            yielded: false,
            leaving: false,
            news_ns: config.started_ns,
            send_at_ns: config.started_ns,
            looked_ns: config.started_ns,
            news: true,
            fresh: 0,
            asked: 0,
            told_differs: 0,
            mutation,
            outputs: VecDeque::new(),
            config,
        };
        machine.take_over();
        machine.reserve();
        machine
    }

    fn take_over(&mut self) {
        let Some(adopted) = self.config.adopted else { return };
        self.installed = adopted.installed;
        self.owners_partial = true;
        self.announced_lives[usize::from(self.config.own)] = self.config.incarnation;
        self.announced = Announcement { view: adopted.announced, ..Announcement::NONE };
        if adopted.announced == adopted.installed.view {
            self.announced = adopted.installed;
        }
        let owned = adopted.installed.owned_by(self.config.own);
        let number = self.config.started_ns;
        self.change(|row| {
            // Numbers of the daemon before are not known; its clock is.
            row.number = number;
            row.heard |= adopted.heard;
            row.floor = adopted.announced.epoch + 1;
            row.installed = adopted.installed.view;
            row.holds = owned;
            // What it serves it can serve, until the shell has looked.
            row.able = owned;
        });
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now_ns: u64) {
        match input {
            Input::Row { heard } => {
                let heard = if self.leaving { 0 } else { heard } | 1 << self.config.own;
                self.hears(heard);
            }
            Input::Able { resources } => {
                let witness = self.witnesses >> self.config.own & 1 != 0;
                self.change(|row| row.able = if witness { 0 } else { resources });
            }
            Input::Leaving => {
                self.leaving = true;
                let own = 1 << self.config.own;
                self.change(|row| row.heard = own);
            }
            Input::Accepted { slot, incarnation } => self.accepted(slot, incarnation),
            Input::Message { from, incarnation, bytes } => self.message(from, incarnation, &bytes),
            Input::Reserved { ceiling } => self.ceiling = self.ceiling.max(ceiling),
            Input::Timeout => {}
        }
        self.decide(now_ns);
        self.send(now_ns);
    }

    /// The next output, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `Input::Timeout` is wanted.
    pub fn next_timeout(&self) -> Option<u64> {
        let mut next = self.send_at_ns;
        for at in [
            self.config.quiet_until_ns,
            self.may_propose_ns(),
            self.settle_ns(),
            self.yield_ns(),
            self.again_ns(),
        ] {
            if at > self.looked_ns {
                next = next.min(at);
            }
        }
        Some(next)
    }

    /// The installed view and its owners.
    pub const fn installed(&self) -> &Announcement {
        &self.installed
    }

    /// The view announced last.
    pub const fn announced(&self) -> View {
        self.announced.view
    }

    /// The members that this node would choose now.
    pub const fn choice(&self) -> u64 {
        self.choice
    }

    /// Whether the installed view has a quorum of votes.
    pub fn is_quorate(&self) -> bool {
        self.installed.view.is_some() && self.votes_of(self.installed.view.members) >= self.quorum
    }

    /// The votes of a set of slots.
    pub fn votes_of(&self, slots: u64) -> u32 {
        bits(slots).map(|slot| u32::from(self.votes[usize::from(slot)])).sum()
    }

    /// The votes of a quorum, and of everybody.
    pub fn quorum(&self) -> (u32, u32) {
        (self.quorum, self.votes_of(self.everybody))
    }

    /// The newest row of a node.
    pub fn row(&self, slot: u8) -> Option<&Row> {
        self.rows.get(usize::from(slot))?.as_ref()
    }

    fn own_row(&self) -> Row {
        self.rows[usize::from(self.config.own)].unwrap_or_default()
    }

    fn change(&mut self, change: impl FnOnce(&mut Row)) {
        let before = self.own_row();
        let mut row = before;
        change(&mut row);
        if row != before {
            row.number = row.number.max(before.number) + 1;
            self.rows[usize::from(self.config.own)] = Some(row);
            self.news = true;
        }
    }

    /// A node that is heard again may have lived through much: what is known of it counts only if it has said so since.
    fn hears(&mut self, heard: u64) {
        let before = self.own_row().heard;
        self.fresh &= !(before & !heard);
        for slot in bits(heard & !before & !self.fresh & !(1 << self.config.own)) {
            self.rows[usize::from(slot)] = None;
        }
        self.change(|row| row.heard = heard);
    }

    fn accepted(&mut self, slot: u8, incarnation: u64) {
        let at = usize::from(slot);
        if at >= NODES_MAX || slot == self.config.own || self.lives[at] == incarnation {
            return;
        }
        self.lives[at] = incarnation;
        self.heard_of[at] = None;
        if self.announced_lives[at] == 0 {
            self.announced_lives[at] = incarnation;
        }
        self.told_differs &= !(1 << slot);
        if self.rows[at].is_some_and(|row| row.incarnation != incarnation) {
            self.rows[at] = None;
        }
        self.news = true;
    }

    fn message(&mut self, from: u8, incarnation: u64, bytes: &[u8]) {
        let at = usize::from(from);
        if at >= NODES_MAX || self.lives[at] != incarnation {
            return;
        }
        let Some(message) = Message::from_bytes(bytes) else { return };
        self.fresh |= 1 << from;
        let own = self.own_row();
        let said = message.rows.iter().find(|row| row.slot == own.slot);
        let knows_us = said.is_some_and(|row| (row.incarnation, row.number) == (own.incarnation, own.number));
        // It may be new here; a message of many rows has ours in another part.
        if !knows_us && (said.is_some() || message.rows.len() < ROWS_MAX) {
            self.asked |= 1 << from;
        }
        for row in message.rows {
            self.learn(row);
        }
        if let Some(announced) = message.announced
            && self.heard_of[at].is_none_or(|before| before.view <= announced.view)
        {
            self.heard_of[at] = Some(announced);
            if self.owners_partial && announced.view == self.announced.view {
                self.owners_partial = false;
                self.announced.owners = announced.owners;
                if self.installed.view == announced.view {
                    self.installed.owners = announced.owners;
                }
            }
        }
    }

    fn learn(&mut self, row: Row) {
        let at = usize::from(row.slot);
        if row.slot == self.config.own || self.everybody >> row.slot & 1 == 0 {
            return;
        }
        let accepted = self.lives[at];
        if accepted != 0 && row.incarnation != accepted {
            return;
        }
        let newer = self.rows[at].is_none_or(|before| {
            (row.incarnation >> 32, row.number) > (before.incarnation >> 32, before.number)
        });
        if newer {
            self.rows[at] = Some(row);
        }
        let own = self.own_row();
        let differs = (row.config, row.lease_us) != (own.config, own.lease_us);
        if differs && accepted != 0 && self.told_differs >> row.slot & 1 == 0 {
            self.told_differs |= 1 << row.slot;
            self.outputs.push_back(Output::Differs {
                slot: row.slot,
                config: row.config,
                lease_us: row.lease_us,
            });
        }
    }

    /// Everything that follows from what is known now.
    fn decide(&mut self, now_ns: u64) {
        let known = Known { rows: &self.rows, votes: &self.votes, quorum: self.quorum };
        let choice = known.group_of(self.config.own);
        let is_stuck =
            self.yielded && now_ns >= self.again_ns() && self.installed.view != self.announced.view;
        if choice != self.choice || is_stuck {
            (self.choice, self.choice_since_ns, self.yielded) = (choice, now_ns, false);
        }
        if now_ns >= self.config.quiet_until_ns {
            self.propose(now_ns);
            self.follow(now_ns);
        }
        self.install();
        self.looked_ns = now_ns;
    }

    /// Whether what this node has announced is what it chooses, for the lives that are there now.
    fn stands(&self) -> bool {
        let view = self.announced.view;
        view.is_some()
            && view.members == self.choice
            && bits(view.members).all(|slot| {
                let at = usize::from(slot);
                self.announced_lives[at] == self.lives[at]
            })
    }

    /// The least epoch that every member of the choice may announce.
    fn free_epoch(&self) -> u64 {
        let rows = self.rows.iter().flatten();
        let rows = rows.map(|row| row.floor.max(row.installed.epoch.saturating_add(1)));
        let announced =
            self.heard_of.iter().flatten().map(|announced| announced.view.epoch.saturating_add(1));
        rows.chain(announced).max().unwrap_or(1)
    }

    fn propose(&mut self, now_ns: u64) {
        let is_lowest = self.choice.trailing_zeros() == u32::from(self.config.own);
        if !is_lowest || self.leaving || self.yielded {
            return;
        }
        if now_ns < self.may_propose_ns() && self.choice != self.everybody && self.is_waiting() {
            return;
        }
        // Left out by nodes that are heard: that may be news on their way.
        let lonely = self.choice == 1 << self.config.own;
        if lonely && self.own_row().heard != self.choice && now_ns < self.yield_ns() {
            return;
        }
        // Others do not hear a node that this one hears: a death is seen by one after the other, and in a moment all agree.
        let doubtful = self.own_row().heard & !self.choice;
        let doubtful =
            bits(doubtful).any(|slot| self.row(slot).is_some_and(|row| row.hears(self.config.own)));
        if doubtful && now_ns < self.settle_ns() {
            return;
        }
        let mine = self.announced.view;
        let others = bits(self.choice).filter_map(|slot| self.heard_of[usize::from(slot)]);
        let overtaken =
            others.filter(|other| other.view.epoch >= mine.epoch && other.view != mine).count() > 0;
        if self.stands() && !overtaken && !self.owners_change() {
            return;
        }
        let epoch = self.free_epoch();
        if epoch > self.ceiling {
            self.wish(epoch);
            return;
        }
        let row = self.own_row();
        let view = View::new(epoch, self.config.own, self.choice, row.lease_us, self.config.config_version);
        let owners = self.assign(self.choice);
        self.announce(Announcement { view, owners });
    }

    /// Whether a daemon that has just started may still hear of nodes that it should not leave out.
    fn is_waiting(&self) -> bool {
        let view = self.installed.view;
        !view.is_some() || bits(view.members).any(|slot| self.row(slot).is_none())
    }

    /// Whether a view that all members have installed leaves something to be done about its owners.
    fn owners_change(&self) -> bool {
        let view = self.installed.view;
        let settled = view == self.announced.view
            && bits(view.members).all(|slot| self.row(slot).is_some_and(|row| row.installed == view));
        settled && self.assign(view.members) != self.installed.owners
    }

    /// Who owns what among these: the holder stays; else the lowest id that is able.
    fn assign(&self, members: u64) -> Owners {
        let mut owners = [NOBODY; GATES_MAX];
        if self.votes_of(members) < self.quorum {
            return owners;
        }
        for (resource, config) in self.config.resources.iter().enumerate().take(GATES_MAX) {
            let rows = || bits(members).filter_map(|slot| self.row(slot));
            let able = |row: &&Row| row.able >> resource & 1 != 0 && self.witnesses >> row.slot & 1 == 0;
            let lowest = rows().find(able);
            let holders = rows().filter(able).filter(|row| row.holds >> resource & 1 != 0);
            let holder = holders.max_by_key(|row| row.installed);
            let owner = if config.failback { lowest } else { holder.or(lowest) };
            owners[resource] = owner.map_or(NOBODY, |row| row.slot);
        }
        owners
    }

    /// Announces what others have announced, if it is what this node chooses; after a while, if it only names it.
    fn follow(&mut self, now_ns: u64) {
        if self.leaving {
            return;
        }
        let yields = now_ns >= self.yield_ns() && !self.is_settled();
        let own = self.own_row();
        let heard = bits(own.heard & !(1 << self.config.own));
        let fits = |announced: &Announcement| {
            let view = &announced.view;
            view.has(self.config.own)
                && *view > self.announced.view
                && view.epoch >= own.floor
                && (view.lease_us(), view.config()) == (own.lease_us, own.config)
                && (view.members == self.choice || yields || self.mutation == Mutation::FollowAnything)
        };
        let best = heard.filter_map(|slot| self.heard_of[usize::from(slot)]).filter(fits);
        let Some(best) = best.max_by_key(|announced| announced.view) else { return };
        if best.view.epoch > self.ceiling {
            self.wish(best.view.epoch);
            return;
        }
        self.announce(best);
        self.yielded = best.view.members != self.choice;
    }

    fn announce(&mut self, announcement: Announcement) {
        self.announced = announcement;
        self.owners_partial = false;
        self.announced_lives = [0; NODES_MAX];
        for slot in bits(announcement.view.members) {
            self.announced_lives[usize::from(slot)] = self.lives[usize::from(slot)];
        }
        let owned = announcement.owned_by(self.config.own);
        self.outputs.push_back(Output::Announce { view: announcement.view, owned });
        let floor = announcement.view.epoch.saturating_add(1);
        self.change(|row| row.floor = floor);
        self.news = true;
        self.reserve();
    }

    /// Installs what is announced, once every member has, in the life that is accepted now.
    fn install(&mut self) {
        let view = self.announced.view;
        // What was released is released for this life.
        if self.leaving || !view.is_some() || view <= self.installed.view {
            return;
        }
        let all = bits(view.members & !(1 << self.config.own)).all(|slot| {
            let at = usize::from(slot);
            self.heard_of[at].is_some_and(|announced| announced.view == view)
        });
        if !all && self.mutation != Mutation::InstallEarly {
            return;
        }
        self.installed = self.announced;
        let owned = self.installed.owned_by(self.config.own);
        self.change(|row| {
            row.installed = view;
            row.holds = owned;
        });
        self.news = true;
        self.outputs.push_back(Output::Install { installed: self.installed, owned });
    }

    /// Whether the choice is installed.
    fn is_settled(&self) -> bool {
        self.stands() && self.installed.view == self.announced.view
    }

    /// Asks for epochs well ahead of need.
    fn reserve(&mut self) {
        let least = self.own_row().floor;
        if self.ceiling < least + CEILING_AHEAD / 2 {
            self.wish(least);
        }
    }

    fn wish(&mut self, epoch: u64) {
        if self.wished < epoch + CEILING_AHEAD / 2 {
            self.wished = epoch + CEILING_AHEAD;
            self.outputs.push_back(Output::Reserve { ceiling: self.wished });
        }
    }

    /// Tells everybody whose life is known: news at once, and then ever less often. Whoever shows that it does not know
    /// this node as it is gets an answer.
    fn send(&mut self, now_ns: u64) {
        let asked = std::mem::take(&mut self.asked);
        let mut to = self.everybody & !(1 << self.config.own);
        if self.news {
            (self.news, self.news_ns) = (false, now_ns);
        } else if now_ns < self.send_at_ns {
            to &= asked;
        }
        if self.news_ns == now_ns || now_ns >= self.send_at_ns {
            let interval_ns = self.config.interval_ns.min(GOSSIP_NS);
            self.send_at_ns = now_ns + ((now_ns - self.news_ns) / 4).clamp(interval_ns, GOSSIP_NS);
        }
        for slot in bits(to) {
            if self.lives[usize::from(slot)] == 0 {
                to &= !(1 << slot);
            }
        }
        if to == 0 {
            return;
        }
        let announced =
            Some(self.announced).filter(|announced| announced.view.is_some() && !self.owners_partial);
        let others = self.rows.iter().flatten().filter(|row| row.slot != self.config.own);
        let rows: Vec<Row> = std::iter::once(self.own_row()).chain(others.copied()).collect();
        for (at, part) in rows.chunks(ROWS_MAX).enumerate() {
            let message = Message { announced: announced.filter(|_| at == 0), rows: part.to_vec() };
            let bytes = message.to_bytes(self.config.resources.len());
            self.outputs.push_back(Output::Send { to, bytes });
        }
    }

    fn may_propose_ns(&self) -> u64 {
        let wait_ns = START_WAIT_INTERVALS * self.config.interval_ns;
        self.config.started_ns + wait_ns.clamp(START_WAIT_MIN_NS, START_WAIT_MAX_NS)
    }

    fn settle_ns(&self) -> u64 {
        self.choice_since_ns + SETTLE_INTERVALS * self.config.interval_ns
    }

    fn yield_ns(&self) -> u64 {
        self.choice_since_ns + YIELD_INTERVALS * self.config.interval_ns
    }

    fn again_ns(&self) -> u64 {
        self.choice_since_ns + AGREE_AGAIN_NS
    }
}
