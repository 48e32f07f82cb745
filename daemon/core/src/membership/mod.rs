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
//! detector's, which this machine knows as its own row only), and an order of messages: that is the [ring's](crate::srp),
//! which forms in the views that are installed here, and tells when it does not turn.

pub mod choice;
mod company;
mod config;
mod decide;
pub mod electorate;
pub mod envelope;
mod exchange;
mod lost;
pub mod message;
pub mod row;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::view::View;

use self::choice::bits;
pub use self::config::{Adopted, Config, NodeConfig, ResourceConfig};
use self::electorate::{Confirmation, Electorate};
use self::lost::LostRing;
pub use self::message::{Announcement, NOBODY, Owners};
use self::row::Row;
use crate::limits::{
    AGREE_AGAIN_NS, SETTLE_INTERVALS, START_WAIT_INTERVALS, START_WAIT_MAX_NS, START_WAIT_MIN_NS,
    YIELD_INTERVALS,
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
    /// The ring of a view does not turn, though all members are heard.
    RingLost {
        /// The view.
        view: View,
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
    /// The electorate is confirmed, and the record should say so.
    Confirmed,
    /// A node runs another configuration and takes no part in views with this one.
    Differs {
        /// Which.
        slot: u8,
        /// Its config version, the lower half.
        config: u32,
        /// Its lease, in µs.
        lease_us: u32,
        /// Whether it has the same nodes and votes.
        same_votes: bool,
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
    /// The counter of the latest life that any row is of.
    latest: [u32; NODES_MAX],
    /// What each peer has announced last, in the life that is accepted now.
    heard_of: Vec<Option<Announcement>>,
    announced: Announcement,
    installed: Announcement,
    /// The lives of the members that the announced view is of; 0 for one that is not known yet.
    announced_lives: [u64; NODES_MAX],
    ceiling: u64,
    wished: u64,
    choice: u64,
    /// Whether something has changed that the choice depends on.
    choice_is_old: bool,
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
    /// Whom the detector hears, this node included.
    hears: u64,
    /// Those of them whose messages come, too.
    company: u64,
    /// Slots that have spoken since they are company.
    fresh: u64,
    /// When each peer said something last, or was heard or accepted anew.
    said_ns: [u64; NODES_MAX],
    /// Since when the next view would have an epoch that is not on disk.
    starved_since_ns: Option<u64>,
    /// Slots that do not know the newest row of this node.
    asked: u64,
    told_differs: u64,
    lost: LostRing,
    confirmation: Confirmation,
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
        let electorate = Electorate::new(config.nodes.iter().map(|node| (node.slot, node.votes)));
        let confirmation = Confirmation::new(&electorate, config.standing);
        let own = Row {
            electorate: confirmation.word(),
            slot: config.own,
            incarnation: config.incarnation,
            // A daemon that goes on in the same life does not know the numbers of the one before; its clock is later.
            number: config.started_ns.max(1),
            heard: 1 << config.own,
            config: config.config_version as u32,
            lease_us: config.lease_us,
            floor: config.ceiling.max(config.announced_floor).saturating_add(1),
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
            latest: [0; NODES_MAX],
            heard_of: vec![None; NODES_MAX],
            announced: Announcement::NONE,
            installed: Announcement::NONE,
            announced_lives: [0; NODES_MAX],
            ceiling: config.ceiling,
            wished: config.ceiling,
            choice: 0,
            choice_is_old: true,
            choice_since_ns: config.started_ns,
            owners_partial: false,
            yielded: false,
            leaving: false,
            news_ns: config.started_ns,
            send_at_ns: config.started_ns,
            looked_ns: config.started_ns,
            news: true,
            hears: 1 << config.own,
            company: 1 << config.own,
            fresh: 0,
            said_ns: [config.started_ns; NODES_MAX],
            starved_since_ns: None,
            asked: 0,
            told_differs: 0,
            lost: LostRing::default(),
            confirmation,
            mutation,
            outputs: VecDeque::new(),
            config,
        };
        machine.take_over();
        machine.look_around(machine.config.started_ns);
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
        // An installed view was one of a confirmed electorate, and the life runs one only.
        self.confirm(self.config.started_ns);
        // Nobody has spoken yet, and nobody has to: all of them know this life.
        self.hears |= adopted.heard;
        self.company = self.hears;
        let owned = adopted.installed.owned_by(self.config.own);
        let number = self.config.started_ns;
        self.change(|row| {
            // Numbers of the daemon before are not known; its clock is.
            row.number = number;
            row.floor = adopted.announced.epoch + 1;
            row.installed = adopted.installed.view;
            row.holds = owned;
            // What it serves it can serve, until the shell has looked.
            row.able = owned;
        });
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now_ns: u64) {
        self.after_pause(now_ns);
        match input {
            Input::Row { heard } => self.hears(heard, now_ns),
            Input::Able { resources } => {
                let witness = self.witnesses >> self.config.own & 1 != 0;
                self.change(|row| row.able = if witness { 0 } else { resources });
            }
            Input::RingLost { view } => self.lost.lost(view, now_ns),
            Input::Leaving => self.leaving = true,
            Input::Accepted { slot, incarnation } => self.accepted(slot, incarnation, now_ns),
            Input::Message { from, incarnation, bytes } => self.message(from, incarnation, &bytes, now_ns),
            Input::Reserved { ceiling } => self.ceiling = self.ceiling.max(ceiling),
            Input::Timeout => {}
        }
        self.look_at_electorate(now_ns);
        self.look_around(now_ns);
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
        let times = [
            self.config.quiet_until_ns,
            self.may_propose_ns(),
            self.settle_ns(),
            self.yield_ns(),
            self.again_ns(),
            self.lost.again_ns(),
        ];
        for at in times.into_iter().chain(self.company_timeouts()).chain(self.confirmation.timeout()) {
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
            self.choice_is_old |= !row.weighs_like(&before);
            self.news = true;
        }
    }

    fn accepted(&mut self, slot: u8, incarnation: u64, now_ns: u64) {
        let at = usize::from(slot);
        if at >= NODES_MAX || slot == self.config.own || self.lives[at] == incarnation {
            return;
        }
        self.lives[at] = incarnation;
        self.latest[at] = (incarnation >> 32) as u32;
        self.choice_is_old = true;
        self.said_ns[at] = now_ns;
        self.heard_of[at] = None;
        self.confirmation.forget(slot);
        if self.announced_lives[at] == 0 {
            self.announced_lives[at] = incarnation;
        }
        self.told_differs &= !(1 << slot);
        if self.rows[at].is_some_and(|row| row.incarnation != incarnation) {
            self.rows[at] = None;
        }
        self.news = true;
    }

    fn may_propose_ns(&self) -> u64 {
        let wait_ns = START_WAIT_INTERVALS * self.config.interval_ns;
        let from_ns = self.confirmation.since_ns.unwrap_or(self.config.started_ns);
        from_ns + wait_ns.clamp(START_WAIT_MIN_NS, START_WAIT_MAX_NS)
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
