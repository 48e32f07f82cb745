//! What follows from what is known: the choice, the proposal, the announcement, the installation.
//!
//! Deliberately not here: how it becomes known; that is [`super::exchange`].

use ringbeat_common::limits::{GATES_MAX, NODES_MAX};
use ringbeat_common::view::View;

use super::choice::{Known, bits};
use super::row::Row;
use super::{Announcement, Membership, NOBODY, Output, Owners};
use crate::limits::CEILING_AHEAD;
use crate::mutation::Mutation;

impl Membership {
    /// Everything that follows from what is known now.
    pub(super) fn decide(&mut self, now_ns: u64) {
        // Most messages bring nothing new, and the search is the dearest thing that this machine does.
        let choice = if std::mem::take(&mut self.choice_is_old) { self.best_group() } else { self.choice };
        let is_stuck =
            self.yielded && now_ns >= self.again_ns() && self.installed.view != self.announced.view;
        if choice != self.choice || is_stuck {
            (self.choice, self.choice_since_ns, self.yielded) = (choice, now_ns, false);
        }
        if now_ns >= self.config.quiet_until_ns && self.is_confirmed() {
            self.propose(now_ns);
            self.follow(now_ns);
        }
        self.install();
        self.looked_ns = now_ns;
    }

    fn best_group(&self) -> u64 {
        let known = Known { rows: &self.rows, over: self.over(), votes: &self.votes, quorum: self.quorum };
        known.group_of(self.config.own)
    }

    /// Slots of which only the row of a life is known that is over.
    fn over(&self) -> u64 {
        let over = self.rows.iter().flatten().filter(|row| {
            (row.incarnation >> 32) < u64::from(self.latest[usize::from(row.slot)])
                && self.hears >> row.slot & 1 == 0
        });
        over.fold(0, |set, row| set | 1 << row.slot)
    }

    /// Whether what this node has announced is what it chooses, for the lives that are there now.
    fn stands(&self) -> bool {
        let view = self.announced.view;
        // What a daemon before this one announced, and nobody has told the owners of, cannot be said, so not installed.
        let is_lost = self.owners_partial && self.installed.view != view;
        view.is_some()
            && !is_lost
            && view.members == self.choice
            && bits(view.members).all(|slot| {
                let at = usize::from(slot);
                self.announced_lives[at] == self.lives[at]
            })
    }

    /// The least epoch that every member of the choice may announce.
    pub(super) fn free_epoch(&self) -> u64 {
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
        let installed = self.installed.view;
        let is_lost = installed == mine && self.lost.is_due(installed, now_ns);
        if self.stands() && !overtaken && !self.owners_change() && !is_lost {
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
        if is_lost {
            self.lost.agreed_anew(now_ns);
        }
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
            // Two proposals of one id can be only where a disk was rolled back or copied; then not even the owners agree.
            self.heard_of[at].is_some_and(|announced| {
                announced.view == view && (self.owners_partial || announced.owners == self.announced.owners)
            })
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
    pub(super) fn reserve(&mut self) {
        let least = self.free_epoch();
        if self.ceiling < least.saturating_add(CEILING_AHEAD / 2) {
            self.wish(least);
        }
    }

    fn wish(&mut self, epoch: u64) {
        if self.wished < epoch.saturating_add(CEILING_AHEAD / 2) {
            self.wished = epoch.saturating_add(CEILING_AHEAD);
            self.outputs.push_back(Output::Reserve { ceiling: self.wished });
        }
    }
}
