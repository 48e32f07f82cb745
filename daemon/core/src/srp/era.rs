//! One ring: its members, the packets ordered in it, and what this node knows of its token.
//!
//! A visit of the token, in the order of Totem (1995), section 4.1: repeat what others miss, send what waits, as far as
//! flow control lets, lower or raise the aru, ask for what is missing here, and see what all have.

use std::collections::BTreeMap;

use bytes::Bytes;
use ringbeat_common::view::View;

use super::params::Params;
use super::store::{Inserted, Packet, Store};
use super::wire::{Message, NOBODY, RingId, Token, packet_bytes};
use crate::limits::{RING_QUEUE_MAX, RING_REQUESTS_MAX, RING_STORE_MAX};
use crate::membership::choice::bits;
use crate::mutation::Mutation;

/// Where packets of a visit come from.
pub(super) trait Source {
    /// The next payload of at most `room` bytes, and whether it is to be safe.
    fn next(&mut self, room: usize) -> Option<Packet>;
    /// Packets that wait, about.
    fn backlog(&self) -> u32;
}

/// The ring.
#[derive(Clone, Debug)]
pub(super) struct Era {
    mutation: Mutation,
    pub(super) view: View,
    pub(super) id: RingId,
    own: u8,
    pub(super) store: Store,
    /// All up to here are delivered.
    pub(super) delivered: u64,
    /// All members have all up to here.
    pub(super) safe: u64,
    /// The number of the last token.
    number: u64,
    /// Of the token as it left here last.
    last_aru: u64,
    last_seq: u64,
    last_sent: u32,
    last_backlog: u32,
    /// Visits in a row in which nothing was new.
    pub(super) unchanged: u32,
    /// Visits in a row in which somebody else's aru did not rise.
    pub(super) stuck: u32,
    /// Numbers that are missing, and for how many visits.
    missed: BTreeMap<u64, u32>,
}

/// The member before this one in a ring of these.
pub(super) const fn before(own: u8, members: u64) -> u8 {
    let below = members & ((1 << own) - 1);
    63 - (if below == 0 { members } else { below }).leading_zeros() as u8
}

impl Era {
    pub(super) fn new(view: View, own: u8, mutation: Mutation) -> Self {
        Self {
            mutation,
            view,
            id: RingId::of(&view),
            own,
            store: Store::default(),
            delivered: 0,
            safe: 0,
            number: 0,
            last_aru: 0,
            last_seq: 0,
            last_sent: 0,
            last_backlog: 0,
            unchanged: 0,
            stuck: 0,
            missed: BTreeMap::new(),
        }
    }

    /// The other members.
    pub(super) const fn others(&self) -> u64 {
        self.view.members & !(1 << self.own)
    }

    /// The lowest member; it starts the token, and holds it.
    pub(super) const fn representative(&self) -> u8 {
        self.view.members.trailing_zeros() as u8
    }

    /// Who has the token after this node.
    pub(super) fn successor(&self) -> u8 {
        let above = self.view.members >> self.own >> 1;
        if above == 0 { self.representative() } else { self.own + 1 + above.trailing_zeros() as u8 }
    }

    /// Who has the token before this node.
    pub(super) const fn predecessor(&self) -> u8 {
        before(self.own, self.view.members)
    }

    /// The highest number that the token had when it left here last.
    pub(super) const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Whether the token is one that was not here before; it counts as here then.
    pub(super) const fn is_news(&mut self, number: u64) -> bool {
        let is_news = number > self.number || matches!(self.mutation, Mutation::TokenTwice);
        if is_news {
            self.number = number;
        }
        is_news
    }

    /// Whether a token's numbers can be: whoever sends has let go of no more than all have, and so keeps within so much of
    /// what this node has; and no ring turns for ever.
    pub(super) const fn may_be(&self, token: &Token) -> bool {
        token.seq <= self.store.aru().saturating_add(RING_STORE_MAX)
            && token.seq >= self.store.released()
            && token.number < u64::MAX / 2
    }

    /// A packet that has arrived.
    pub(super) fn take(&mut self, seq: u64, packet: Packet) -> Inserted {
        self.missed.remove(&seq);
        self.store.insert(seq, packet)
    }

    /// The token is here. Gives it as it goes on; what leaves before it goes to `send`, to all others.
    pub(super) fn visit(
        &mut self,
        mut token: Token,
        params: &Params,
        source: &mut impl Source,
        mut send: impl FnMut(u64, Bytes),
    ) -> Token {
        let (others, before_seq) = (self.others(), token.seq);
        let mut sent = 0;
        token.requests.retain(|seq| {
            let Some(packet) = self.store.get(*seq).filter(|_| sent < params.max_messages) else {
                // What was released here nobody misses, and what has not been sent nobody can.
                return *seq > self.store.released() && *seq <= before_seq;
            };
            send(others, packet_bytes(self.own, self.id, *seq, packet));
            sent += 1;
            false
        });
        // However wrong it is: more than all can have put in is not believed.
        let members = self.view.members.count_ones();
        token.fcc = token.fcc.min(members * params.max_messages);
        token.backlog = token.backlog.min(members * RING_QUEUE_MAX as u32);
        // What this node had put in a rotation ago is out again.
        token.fcc = token.fcc.saturating_sub(self.last_sent);
        token.backlog = token.backlog.saturating_sub(self.last_backlog);
        let allowed = self.allowed(&token, params, source.backlog());
        while sent < allowed && token.seq - self.store.released() < RING_STORE_MAX / 2 {
            let Some(packet) = source.next(params.payload) else { break };
            token.seq += 1;
            send(others, packet_bytes(self.own, self.id, token.seq, &packet));
            self.store.insert(token.seq, packet);
            sent += 1;
        }
        (self.last_sent, self.last_backlog) = (sent, source.backlog());
        token.fcc = token.fcc.saturating_add(sent);
        token.backlog = token.backlog.saturating_add(self.last_backlog);
        self.lower_or_raise(&mut token);
        self.ask(&mut token, params);
        // Twice in a row: the first time says that whoever lacked something would lower it on the way round.
        let before = if self.mutation == Mutation::SafeOnce { token.aru } else { self.last_aru };
        self.safe = self.safe.max(token.aru.min(before));
        let quiet = token.seq == self.last_seq && before_seq == token.seq && token.aru == token.seq;
        // Whoever had something would have sent one at the least.
        let idle = quiet && token.requests.is_empty() && !token.recovers;
        self.unchanged = if idle { self.unchanged.saturating_add(1) } else { 0 };
        let stuck = token.aru == self.last_aru && token.aru < token.seq && token.aru_by != self.own;
        self.stuck = if stuck { self.stuck.saturating_add(1) } else { 0 };
        (self.last_aru, self.last_seq) = (token.aru, token.seq);
        token.number += 1;
        self.number = token.number;
        token
    }

    /// How many packets may leave in this visit (section 4.1, flow control): so many in a rotation, of them a share by what
    /// waits here and elsewhere.
    fn allowed(&self, token: &Token, params: &Params, backlog: u32) -> u32 {
        let free = params.window_size.saturating_sub(token.fcc);
        let all = u64::from(token.backlog) + u64::from(backlog);
        let share = match all {
            0 => params.window_size,
            _ => (u64::from(params.window_size) * u64::from(backlog)).div_ceil(all) as u32,
        };
        // One in each visit, also where others fill the window: it may be what they wait for.
        params.max_messages.min(free.max(1)).min(share.max(1))
    }

    fn lower_or_raise(&self, token: &mut Token) {
        let aru = self.store.aru();
        if aru < token.aru || token.aru_by == self.own || token.aru_by == NOBODY {
            token.aru = aru;
            token.aru_by = if aru == token.seq { NOBODY } else { self.own };
        }
    }

    fn ask(&mut self, token: &mut Token, params: &Params) {
        let end = token.seq.min(self.last_seq);
        for seq in self.store.missing(end).take(RING_REQUESTS_MAX) {
            let misses = self.missed.entry(seq).or_insert(0);
            *misses += 1;
            let asks = *misses >= params.miss_count_const && !token.requests.contains(&seq);
            if asks && token.requests.len() < RING_REQUESTS_MAX {
                token.requests.push(seq);
            }
        }
        let aru = self.store.aru();
        self.missed.retain(|seq, _| *seq > aru);
    }

    /// Lets go of packets that all have and that are delivered here.
    pub(super) fn release(&mut self) {
        self.store.release(self.safe.min(self.delivered));
    }

    /// The message that hands the token on.
    pub(super) fn message(&self, token: &Token) -> Bytes {
        Message::Token { ring: self.id, token: token.clone() }.to_bytes(self.own)
    }

    /// The place of a slot among the members.
    pub(super) fn place_of(&self, slot: u8) -> Option<usize> {
        bits(self.view.members).position(|member| member == slot)
    }
}
