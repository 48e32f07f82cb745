//! What is said to other nodes, and what is learned from them.
//!
//! Deliberately not here: what follows from it; that is [`super::decide`].

use ringbeat_common::limits::NODES_MAX;

use super::choice::bits;
use super::message::{Message, ROWS_MAX};
use super::row::Row;
use super::{Membership, Output};
use crate::limits::GOSSIP_NS;

impl Membership {
    pub(super) fn message(&mut self, from: u8, incarnation: u64, bytes: &[u8], now_ns: u64) {
        let at = usize::from(from);
        if at >= NODES_MAX || self.lives[at] != incarnation {
            return;
        }
        let Some(message) = Message::from_bytes(bytes) else { return };
        self.fresh |= 1 << from;
        self.said_ns[at] = now_ns;
        let own = self.own_row();
        let said = message.rows.iter().find(|row| row.slot == own.slot);
        let knows_us = said.is_some_and(|row| (row.incarnation, row.number) == (own.incarnation, own.number));
        // Rows go out in parts, and only the first is known by its first row. One that is full may have ours in another
        // part, and of the others nothing follows: an answer to each of them would be answered in turn, for ever.
        let all_said =
            message.rows.first().is_some_and(|row| row.slot == from) && message.rows.len() < ROWS_MAX;
        if !knows_us && (said.is_some() || all_said) {
            self.asked |= 1 << from;
        }
        if let Some(row) =
            message.rows.first().filter(|row| (row.slot, row.incarnation) == (from, incarnation))
        {
            self.meet(row, message.lives, now_ns);
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
        let life = (row.incarnation >> 32) as u32;
        if life > self.latest[at] {
            (self.latest[at], self.choice_is_old) = (life, true);
        }
        let accepted = self.lives[at];
        // A life that is heard is known best here. Of one that is not, others may know the end, and the next one.
        let is_next = self.hears >> row.slot & 1 == 0 && life > (accepted >> 32) as u32;
        if accepted != 0 && row.incarnation != accepted && !is_next {
            return;
        }
        let newer = self.rows[at].is_none_or(|before| {
            (row.incarnation >> 32, row.number) > (before.incarnation >> 32, before.number)
        });
        if newer {
            self.choice_is_old |= self.rows[at].is_none_or(|before| !row.weighs_like(&before));
            self.rows[at] = Some(row);
        }
        let own = self.own_row();
        let differs = !row.fits(&own);
        if differs && accepted != 0 && self.told_differs >> row.slot & 1 == 0 {
            self.told_differs |= 1 << row.slot;
            self.outputs.push_back(Output::Differs {
                slot: row.slot,
                config: row.config,
                lease_us: row.lease_us,
                same_votes: row.electorate() == own.electorate(),
            });
        }
    }

    /// Tells everybody whose life is known: news at once, and then ever less often. Whoever shows that it does not know
    /// this node as it is gets an answer.
    pub(super) fn send(&mut self, now_ns: u64) {
        let asked = std::mem::take(&mut self.asked);
        let mut to = self.everybody & !(1 << self.config.own);
        let mut parts = usize::MAX;
        if self.news {
            (self.news, self.news_ns) = (false, now_ns);
        } else if now_ns < self.send_at_ns {
            // What they do not know is this node, and its own row is in the first part.
            (to, parts) = (to & asked, 1);
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
        for (at, part) in rows.chunks(ROWS_MAX).enumerate().take(parts) {
            let message = Message {
                lives: self.confirmation.own,
                announced: announced.filter(|_| at == 0),
                rows: part.to_vec(),
            };
            let bytes = message.to_bytes(self.config.resources.len());
            self.outputs.push_back(Output::Send { to, bytes });
        }
    }
}
