//! The lease: who may let packets of a resource pass, and until when.
//!
//! One table of words holds a node's whole lease: what it has promised as a granter, what it was granted, its view, its
//! gates. The kernel's programs and the daemon run the functions of this file over it at the same time, without a
//! lock; each word changes whole, and the order of the changes is the argument. `docs/lease.md` has the rule and
//! the proof, `docs/atomicity.md` the order. The simulation runs the same functions, word by word.
//!
//! What makes it hold without a lock: promises and counts carry the *generation* of the view that they are for. The
//! daemon revokes before it changes the view, and a program that was held up since before that finds its
//! compare-and-swap fail.
//!
//! Deliberately not here: which view, who owns what (membership's), and the clock.

pub use self::words::*;
use crate::limits::{GATES_MAX, NODES_MAX};
use crate::view::View;

mod words;

/// The clauses of the rule, each a constant that is true in [`Whole`], the only rule that ships. A simulation leaves
/// them out one by one.
pub trait Rule {
    /// Announce: stop granting to nodes outside.
    const STOP_OUTSIDE: bool = true;
    /// Announce: close the gates of what the view gives to others.
    const CLOSE_AT_ANNOUNCE: bool = true;
    /// Grant: only from `not_before` on.
    const GRANT_WAITS: bool = true;
    /// Count: the own vote only from `not_before` on.
    const OWN_VOTE_WAITS: bool = true;
    /// Grant: only to members.
    const GRANT_TO_MEMBERS: bool = true;
    /// Install: forget grants of before.
    const FORGET: bool = true;
    /// Install: carry a lease over only for what was owned before.
    const CARRY_OWNED_ONLY: bool = true;
    /// Promise a quarter more than the lease.
    const QUARTER: bool = true;
    /// Count: a stamp not later than now.
    const STAMP_NOT_LATER: bool = true;
    /// Count: only grants that name the installed view.
    const COUNT_VIEW: bool = true;
    /// Promise from the receipt of the stamp that the grant returns, not from an earlier time.
    const PROMISE_FROM_RECEIPT: bool = true;
    /// End: only a promise of the generation in which the frame came.
    const END_IN_GENERATION: bool = true;
    /// Accept: what was promised to the life before is waited for.
    const WAIT_FOR_REPLACED: bool = true;
    /// Accept: nothing more is promised under this view.
    const REVOKE_REPLACED: bool = true;
    /// Gate: own votes that are a quorum count once all promises to others have run out.
    const ALONE_WAITS: bool = true;
}

/// The whole rule.
#[derive(Clone, Copy, Debug)]
pub struct Whole;

impl Rule for Whole {}

/// The view that a program serves for one run: the generation is read first, and no word that it guards changes after
/// it without a swap of that program failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// 0 for none.
    pub generation: u64,
    /// As every frame names it.
    pub view: View,
}

/// What a counted grant has done to the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Nothing new.
    Same,
    /// It lasts longer.
    Longer,
    /// It is valid, for the first time in this generation or after it had run out.
    Gained,
}

/// Reads what is served now.
#[inline(always)]
pub fn serving<W: Words>(words: &W) -> Serving {
    let generation = words.load(GENERATION);
    Serving { generation, view: view_at(words, VIEW) }
}

#[inline(always)]
fn view_at<W: Words>(words: &W, at: usize) -> View {
    View { epoch: words.load(at), members: words.load(at + 1), rest: words.load(at + 2) }
}

/// The installed view; none while nothing is served.
pub fn installed<W: Words>(words: &W) -> View {
    let serving = serving(words);
    if serving.generation == 0 { View::NONE } else { serving.view }
}

/// The view announced last.
pub fn announced<W: Words>(words: &W) -> View {
    view_at(words, ANNOUNCED)
}

/// Until when a grant that returns a stamp received then is promised, in µs, rounded up.
#[inline(always)]
pub const fn promise_us<R: Rule>(received_ns: u64, lease_us: u32) -> u64 {
    let quarters = if R::QUARTER { PROMISE_QUARTERS } else { 4 };
    received_ns / 1000 + 1 + (lease_us as u64 * quarters).div_ceil(4)
}

/// Promises the own vote to the node in `slot`, whose newest stamp was received at `received_ns`; true if the frame
/// that is being made may grant. The latch has been looked at before.
#[inline(always)]
pub fn grant<R: Rule, W: Words>(
    words: &W,
    serving: &Serving,
    slot: u8,
    received_ns: u64,
    now_ns: u64,
) -> bool {
    if serving.generation == 0 || received_ns == 0 || (R::GRANT_TO_MEMBERS && !serving.view.has(slot)) {
        return false;
    }
    if R::GRANT_WAITS && now_ns < words.load(NOT_BEFORE_NS) {
        return false;
    }
    let from_ns = if R::PROMISE_FROM_RECEIPT { received_ns } else { 0 };
    let until_us = promise_us::<R>(from_ns, serving.view.lease_us());
    if until_us > US {
        // A clock of more than eight years: no word has room for it.
        return false;
    }
    let at = PROMISES + (slot as usize & (NODES_MAX - 1));
    let mut tries = 0;
    while tries < TRIES {
        let old = Promise(words.load(at));
        if (R::STOP_OUTSIDE && old.is_revoked()) || old.generation() != serving.generation {
            return false;
        }
        if old.until_us() >= until_us {
            // Whoever revokes from here on reads a time that covers this grant.
            return true;
        }
        if words.swap_if(at, old.0, Promise::new(serving.generation, until_us, old.is_revoked()).0) {
            return true;
        }
        tries += 1;
    }
    false
}

/// A frame of the node in `slot`, of its present incarnation and fresh, says that it is gone or has released: what was
/// promised to it ends, and is not renewed in this view.
///
/// A run that was held up until another view is installed ends nothing: by then the promise may be to the peer's next
/// life, which has let go of nothing. Inside one generation it cannot be, for no life that comes after the view's
/// installation takes part in it. So nothing ends either while nobody is served; that is only waited for longer.
#[inline(always)]
pub fn ended<R: Rule, W: Words>(words: &W, serving: &Serving, slot: u8, now_ns: u64) {
    let at = PROMISES + (slot as usize & (NODES_MAX - 1));
    let mut tries = 0;
    while tries < TRIES {
        let old = Promise(words.load(at));
        if R::END_IN_GENERATION && (serving.generation == 0 || old.generation() != serving.generation) {
            return;
        }
        let now_us = now_ns / 1000 + 1;
        let until_us = if old.until_us() < now_us { old.until_us() } else { now_us };
        let new = Promise::new(old.generation(), until_us, true);
        if old == new || words.swap_if(at, old.0, new.0) {
            return;
        }
        tries += 1;
    }
}

/// Takes a grant of the node in `slot`, in a fresh frame to our present incarnation that returns our `stamp_ns` and
/// names `view`.
#[inline(always)]
pub fn count<R: Rule, W: Words>(
    words: &W,
    serving: &Serving,
    slot: u8,
    view: &View,
    stamp_ns: u64,
    now_ns: u64,
) -> Counted {
    let is_ours = view.epoch == serving.view.epoch
        && view.members == serving.view.members
        && view.rest == serving.view.rest;
    if serving.generation == 0 || (R::COUNT_VIEW && !is_ours) || (R::STAMP_NOT_LATER && stamp_ns > now_ns) {
        return Counted::Same;
    }
    let (stamp_us, generation) = (stamp_ns / 1000, serving.generation);
    let at = COUNTS + (slot as usize & (NODES_MAX - 1));
    let mut tries = 0;
    loop {
        let old = Stamped(words.load(at));
        if old.generation() != generation || stamp_us <= old.us() {
            return Counted::Same;
        }
        if words.swap_if(at, old.0, Stamped::new(generation, stamp_us).0) {
            break;
        }
        tries += 1;
        if tries == TRIES {
            return Counted::Same;
        }
    }
    let lease_us = serving.view.lease_us() as u64;
    let until = Stamped(words.load(UNTIL));
    // The stamp that a quorum reaches now; only a later one can lengthen the lease.
    let base_us = until.us().saturating_sub(lease_us);
    if until.generation() != generation || stamp_us <= base_us {
        return Counted::Same;
    }
    match quorum_stamp_us::<R, W>(words, generation, base_us, now_ns) {
        None => Counted::Same,
        Some(reached_us) => lengthen(words, generation, reached_us + lease_us, now_ns / 1000),
    }
}

/// The oldest of the stamps after `base_us`, if those who returned them have a quorum of votes with this node.
#[inline(always)]
fn quorum_stamp_us<R: Rule, W: Words>(words: &W, generation: u64, base_us: u64, now_ns: u64) -> Option<u64> {
    let own_counts = !R::OWN_VOTE_WAITS || now_ns >= words.load(NOT_BEFORE_NS);
    let mut votes = if own_counts { words.load(OWN_VOTES) } else { 0 };
    let mut oldest_us = u64::MAX;
    let end = words.load(SLOTS_END);
    let mut slot = 0;
    while slot < NODES_MAX {
        if slot as u64 >= end {
            break;
        }
        let count = Stamped(words.load(COUNTS + slot));
        if count.generation() == generation && count.us() > base_us {
            let more = words.load(VOTES + slot);
            votes += more;
            if more != 0 && count.us() < oldest_us {
                oldest_us = count.us();
            }
        }
        slot += 1;
    }
    if votes >= words.load(QUORUM) && oldest_us != u64::MAX { Some(oldest_us) } else { None }
}

/// Raises E, and tells whether the lease has become valid by it.
#[inline(always)]
fn lengthen<W: Words>(words: &W, generation: u64, until_us: u64, now_us: u64) -> Counted {
    let mut tries = 0;
    while tries < TRIES {
        let old = Stamped(words.load(UNTIL));
        if old.generation() != generation || until_us <= old.us() {
            return Counted::Same;
        }
        if words.swap_if(UNTIL, old.0, Stamped::new(generation, until_us).0) {
            return tell(words, generation, old.us(), until_us, now_us);
        }
        tries += 1;
    }
    Counted::Same
}

#[inline(always)]
fn tell<W: Words>(words: &W, generation: u64, before_us: u64, until_us: u64, now_us: u64) -> Counted {
    let carried_us = words.load(CARRIED_MAX_US);
    let last_us = if before_us > carried_us { before_us } else { carried_us };
    if last_us != 0 && last_us < now_us && now_us < until_us {
        // Nobody else counts this one: the swap of E was ours.
        // The time first: who sees the count sees the time.
        words.store(LAPSE_ENDED_US, now_us);
        words.store(LAPSES, words.load(LAPSES) + 1);
        if now_us - last_us > words.load(LAPSE_MAX_US) {
            words.store(LAPSE_MAX_US, now_us - last_us);
        }
    }
    let valid = generation << 2 | TOLD_VALID;
    let told = words.load(TOLD);
    if now_us < until_us && told != valid && words.swap_if(TOLD, told, valid) {
        Counted::Gained
    } else {
        Counted::Longer
    }
}

/// When the lease ends, in µs, as the gates that opened in this generation see it.
#[inline(always)]
pub fn until_us<W: Words>(words: &W) -> u64 {
    Stamped(words.load(UNTIL)).us()
}

/// For the timer: whether a lease that was told as valid has run out, all that was carried over with it. Gives its end,
/// in µs, once.
#[inline(always)]
pub fn lapsed<W: Words>(words: &W, now_ns: u64) -> Option<u64> {
    let told = words.load(TOLD);
    if told & (TOLD_VALID | TOLD_CARRIED) == 0 || now_ns >= words.load(ALONE_FROM_NS) {
        return None;
    }
    let (until_us, carried_us) = (until_us(words), words.load(CARRIED_MAX_US));
    let last_us = if until_us > carried_us { until_us } else { carried_us };
    if now_ns / 1000 < last_us || !words.swap_if(TOLD, told, told & !(TOLD_VALID | TOLD_CARRIED)) {
        None
    } else {
        Some(last_us)
    }
}

/// Whether a packet of this gate's resource may pass now. The latch has been looked at before.
#[inline(always)]
pub fn is_open<W: Words>(words: &W, gate: usize, now_ns: u64) -> bool {
    let at = GATES + 2 * (gate & (GATES_MAX - 1));
    if words.load(at) == 0 {
        return false;
    }
    let (until_us, carried_us) = (until_us(words), words.load(at + 1));
    let last_us = if until_us > carried_us { until_us } else { carried_us };
    now_ns / 1000 + words.load(SLACK_US) < last_us || now_ns >= words.load(ALONE_FROM_NS)
}

/// What a daemon installs.
#[derive(Clone, Copy, Debug)]
pub struct Installation<'a> {
    /// The view.
    pub view: View,
    /// As [`announce`] gave it.
    pub not_before_ns: u64,
    /// This node.
    pub own: u8,
    /// The votes of every configured slot.
    pub votes: &'a [u8; NODES_MAX],
    /// The votes of a quorum.
    pub quorum: u32,
    /// The gates of what the view gives to this node.
    pub owned: u64,
    /// The time: a node whose own votes were a quorum carries over a lease from now.
    pub now_ns: u64,
}

/// The announcement of a view, to be complete before any frame or message says so: stops granting to nodes outside, and
/// closes the gates of what it gives to others. Gives `not_before`, in ns: the latest promise to any node outside, or to a
/// life that has been replaced.
pub fn announce<R: Rule, W: Words>(words: &W, view: &View, owned: u64) -> u64 {
    let mut latest_us = if R::WAIT_FOR_REPLACED { words.load(REPLACED_UNTIL_US) } else { 0 };
    for slot in 0..NODES_MAX {
        if !view.has(slot as u8) {
            let promise = revoke(words, slot);
            latest_us = latest_us.max(promise.until_us());
        }
    }
    for gate in 0..GATES_MAX {
        if R::CLOSE_AT_ANNOUNCE && owned >> gate & 1 == 0 {
            close(words, gate);
        }
    }
    for (at, word) in [view.epoch, view.members, view.rest].into_iter().enumerate() {
        words.store(ANNOUNCED + at, word);
    }
    latest_us * 1000
}

/// Another life of the node in `slot` is accepted, to be done before any of its frames is: nothing more is promised to the
/// life before, and what was is waited for by every later view, members or not. It has ended already if that life was
/// heard to say "gone"; if it was not, the new one may be another machine with the same id, and the old one still serve.
pub fn replace<R: Rule, W: Words>(words: &W, slot: u8) {
    let slot = slot as usize & (NODES_MAX - 1);
    let promise = if R::REVOKE_REPLACED { revoke(words, slot) } else { Promise(words.load(PROMISES + slot)) };
    if promise.until_us() > words.load(REPLACED_UNTIL_US) {
        words.store(REPLACED_UNTIL_US, promise.until_us());
    }
}

/// No promise to this slot is renewed from here on; gives the one that stands.
fn revoke<W: Words>(words: &W, slot: usize) -> Promise {
    loop {
        let old = Promise(words.load(PROMISES + slot));
        if old.is_revoked() || words.swap_if(PROMISES + slot, old.0, old.0 | REVOKED) {
            return old;
        }
    }
}

fn close<W: Words>(words: &W, gate: usize) {
    words.store(GATES + 2 * gate, 0);
    words.store(GATES + 2 * gate + 1, 0);
}

/// Installs a view that every member has announced: grants carry it from now on, and what was granted before is
/// forgotten, but for gates that stay with this node.
///
/// In this order: nothing is granted and nothing counted any more under the old generation; what is carried over is
/// read; the view changes; promises may be renewed under the new generation; gates open; the generation is said.
pub fn install<R: Rule, W: Words>(words: &W, new: &Installation<'_>) {
    let last = words.load(GENERATION_LAST);
    let generation = if last >= GENERATION_MAX { 1 } else { last + 1 };
    words.store(GENERATION_LAST, generation);
    for slot in 0..NODES_MAX {
        revoke(words, slot);
    }
    if R::FORGET {
        for slot in 0..NODES_MAX {
            words.store(COUNTS + slot, Stamped::new(generation, 0).0);
        }
    } else {
        for slot in 0..NODES_MAX {
            let kept = Stamped(words.load(COUNTS + slot));
            words.store(COUNTS + slot, Stamped::new(generation, kept.us()).0);
        }
    }
    let carried_us = carry::<R, W>(words, generation, new);
    words.store(CARRIED_MAX_US, carried_us);
    words.store(TOLD, generation << 2 | if carried_us > new.now_ns / 1000 { TOLD_CARRIED } else { 0 });
    for (at, word) in [new.view.epoch, new.view.members, new.view.rest].into_iter().enumerate() {
        words.store(VIEW + at, word);
    }
    // A life that was replaced since the announcement is waited for, too.
    let replaced_ns = if R::WAIT_FOR_REPLACED { words.load(REPLACED_UNTIL_US) * 1000 } else { 0 };
    let not_before_ns = if replaced_ns > new.not_before_ns { replaced_ns } else { new.not_before_ns };
    words.store(NOT_BEFORE_NS, not_before_ns);
    let own_votes = u64::from(new.votes[usize::from(new.own) % NODES_MAX]);
    words.store(OWN_VOTES, own_votes);
    words.store(QUORUM, u64::from(new.quorum));
    let alone = own_votes >= u64::from(new.quorum);
    let alone_from_ns = if R::ALONE_WAITS { not_before_ns } else { 0 };
    words.store(ALONE_FROM_NS, if alone { alone_from_ns } else { u64::MAX });
    let mut end = 0;
    for slot in 0..NODES_MAX {
        let votes = new.votes[slot];
        let counts = new.view.has(slot as u8) && slot != usize::from(new.own);
        words.store(VOTES + slot, if counts { u64::from(votes) } else { 0 });
        if votes != 0 {
            end = slot as u64 + 1;
        }
    }
    words.store(SLOTS_END, end);
    for slot in 0..NODES_MAX {
        let until_us = Promise(words.load(PROMISES + slot)).until_us();
        let outside = !new.view.has(slot as u8) || slot == usize::from(new.own);
        words.store(PROMISES + slot, Promise::new(generation, until_us, outside && R::STOP_OUTSIDE).0);
    }
    for gate in 0..GATES_MAX {
        if new.owned >> gate & 1 == 0 {
            close(words, gate);
        } else {
            words.store(GATES + 2 * gate, 1);
        }
    }
    words.store(GENERATION, generation);
}

/// Keeps the lease of the gates that were open and stay, and starts E anew; gives the latest time kept, in µs.
fn carry<R: Rule, W: Words>(words: &W, generation: u64, new: &Installation<'_>) -> u64 {
    let alone = new.now_ns >= words.load(ALONE_FROM_NS);
    let alone_us = if alone { new.now_ns / 1000 + u64::from(view_at(words, VIEW).lease_us()) } else { 0 };
    let keep = |until_us: u64| {
        let mut latest_us = 0;
        for gate in 0..GATES_MAX {
            let at = GATES + 2 * gate;
            if new.owned >> gate & 1 == 0 || (R::CARRY_OWNED_ONLY && words.load(at) == 0) {
                continue;
            }
            let kept_us = words.load(at + 1).max(until_us).max(alone_us);
            words.store(at + 1, kept_us);
            latest_us = latest_us.max(kept_us);
        }
        latest_us
    };
    // Before E starts anew, so that a packet in between finds the one or the other; and with what came until then.
    keep(until_us(words));
    loop {
        let old = Stamped(words.load(UNTIL));
        if words.swap_if(UNTIL, old.0, Stamped::new(generation, 0).0) {
            return keep(old.us());
        }
    }
}

/// What a new daemon does with the table of a dead one, before its first frame: closes every gate and serves nobody.
/// Promises stay, and so does the view announced last.
pub fn adopt_closed<W: Words>(words: &W) {
    words.store(GENERATION, 0);
    for gate in 0..GATES_MAX {
        close(words, gate);
    }
    for slot in 0..NODES_MAX {
        revoke(words, slot);
        words.store(COUNTS + slot, 0);
    }
    words.store(UNTIL, 0);
    words.store(TOLD, 0);
    words.store(CARRIED_MAX_US, 0);
    words.store(ALONE_FROM_NS, u64::MAX);
}

/// What a daemon does with a table that does not know what was promised before it, and to whom: it may last until
/// `until_ns`. That stands in the table, so a daemon that dies while it waits leaves the wait to the next.
pub fn adopt_unknown<W: Words>(words: &W, until_ns: u64) {
    adopt_closed(words);
    let until_us = until_ns.div_ceil(1000);
    for slot in 0..NODES_MAX {
        let stands_us = Promise(words.load(PROMISES + slot)).until_us();
        words.store(PROMISES + slot, Promise::new(0, stands_us.max(until_us), true).0);
    }
}

/// Whether an address with this last octet may be a leased one.
#[inline(always)]
pub fn may_be_leased<W: Words>(words: &W, octet: u8) -> bool {
    words.load(OCTETS + (octet >> 6 & 1) as usize) >> (octet & 63) & 1 != 0
}

/// Names the last octets of all leased addresses.
pub fn name_octets<W: Words>(words: &W, octets: impl Iterator<Item = u8>) {
    let mut set = [0u64; 2];
    for octet in octets {
        set[usize::from(octet >> 6 & 1)] |= 1 << (octet & 63);
    }
    for (at, word) in set.into_iter().enumerate() {
        words.store(OCTETS + at, word);
    }
}

/// Closes all gates: this node lets go of what it holds. To be done before any frame says "released".
pub fn release<W: Words>(words: &W) {
    for gate in 0..GATES_MAX {
        close(words, gate);
    }
}

#[cfg(test)]
mod tests;
