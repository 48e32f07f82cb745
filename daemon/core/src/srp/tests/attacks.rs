//! Schedules and frames that somebody thought of to break a ring.

use super::super::wire::Entry;
use super::*;

/// A step of the world that a test looks between.
const STEP_NS: u64 = 5_000;

impl World {
    fn step(&mut self) {
        self.run_until(self.now_ns + STEP_NS);
    }

    /// Packets of one are lost on their way to these; tokens are not.
    fn lose_packets(&mut self, from: u8, to: u64) {
        let frames = std::mem::take(&mut self.wire).into_vec();
        let is_lost = |frame: &OnItsWay| frame.2 == from && to >> frame.3 & 1 == 1 && frame.4[0] == 1;
        self.wire = frames.into_iter().filter(|frame| !is_lost(&frame.0)).collect();
    }

    /// Whether all rings turn within so many ms.
    fn turns_within(&mut self, ms: u64) -> bool {
        let end_ns = self.now_ns + ms * MS;
        while self.now_ns < end_ns && !self.rings.values().all(Ring::is_operational) {
            self.run(1);
        }
        self.rings.values().all(Ring::is_operational)
    }

    /// Four of which one has sent what nobody got, another one what comes behind it, and the first is gone.
    fn with_a_gap(message: &[u8]) -> Self {
        let mut world = Self::new(4, 5, 0);
        world.form(0b1111);
        world.run(400);
        let is_long = message.len() > 1000;
        if is_long {
            world.submit(0, message, true);
        }
        world.submit(3, b"lost to all", false);
        while world.rings[&3].backlog() > 0 {
            world.step();
            world.lose_packets(3, u64::MAX);
        }
        if !is_long {
            world.submit(0, message, false);
        }
        while world.rings[&0].backlog() > 0 {
            world.step();
            world.lose_packets(3, u64::MAX);
        }
        world.rings.remove(&3);
        world.run_until(world.now_ns + 300_000);
        world
    }
}

/// One that has said that it will deliver, and one that has not, go on together: both deliver, or neither.
#[test]
fn what_one_is_bound_to_all_are_who_go_on_with_it() {
    let mut world = World::with_a_gap(b"behind the gap");
    world.form(0b111);
    while world.rings[&1].obligation == 0 {
        world.step();
    }
    assert!(world.rings.values().any(|ring| ring.obligation == 0), "one of them is not bound yet");
    world.rings.remove(&0);
    world.form(0b110);
    world.run(1000);
    assert_eq!(world.told[&1], world.told[&2]);
}

/// A message whose parts lie on both sides of a gap is delivered by who goes on alone, too, if it has said so.
#[test]
fn a_gap_between_the_parts_of_a_message_takes_none_from_who_is_bound() {
    let mut world = World::with_a_gap(&[9; 100_000]);
    world.form(0b111);
    while world.rings.values().all(|ring| ring.view().epoch < 2) {
        world.step();
    }
    let is_done = |ring: &Ring| ring.view().epoch == 2;
    let (done, _) = world.rings.iter().find(|(_, ring)| is_done(ring)).expect("one is");
    let (late, _) =
        world.rings.iter().find(|(slot, ring)| **slot != 0 && !is_done(ring)).expect("and one is not");
    let (done, late) = (*done, *late);
    world.form(1 << late);
    world.run(100);
    assert_eq!(world.messages(done), world.messages(late));
}

/// More packets to be given in recovery than a ring keeps.
#[test]
fn a_full_recovery_comes_to_its_end() {
    let mut world = World::new(9, 5, 0);
    world.form(0x1ff);
    world.run(400);
    world.submit(8, b"lost to all", false);
    while world.rings[&8].backlog() > 0 {
        world.step();
        world.lose_packets(8, u64::MAX);
    }
    for slot in (0..100).flat_map(|_| 0..8) {
        world.submit(slot, &[slot; 1200], false);
    }
    for _ in 0..600 {
        world.step();
        world.lose_packets(8, u64::MAX);
    }
    world.rings.remove(&8);
    world.run_until(world.now_ns + 300_000);
    world.form(0xff);
    assert!(world.turns_within(2000), "{} lost", world.lost);
}

/// What is given again in recovery fits the frames of the links, too.
#[test]
fn no_frame_is_longer_than_a_link_takes() {
    const MESSAGE_MAX: usize = 1348;
    let mut world = World::new(3, 5, 0);
    let params = Params::with_token(5 * MS, 100 * MS, Params::payload_in(MESSAGE_MAX));
    for (slot, ring) in &mut world.rings {
        *ring = Ring::new(*slot, params);
    }
    world.form(0b111);
    world.run(400);
    world.submit(0, &[1; 5000], false);
    for _ in 0..40 {
        world.step();
        world.lose_packets(0, 0b100);
    }
    world.form(0b111);
    for _ in 0..20_000 {
        world.step();
        let longest = world.wire.iter().map(|frame| frame.0.4.len()).max().unwrap_or(0);
        assert!(longest <= MESSAGE_MAX, "{longest} bytes");
    }
    assert_eq!(world.messages(2).len(), 1);
}

/// Others who have messages without end leave room for one.
#[test]
fn nobody_waits_for_ever() {
    let mut world = World::new(5, 5, 0);
    world.form(0b11111);
    world.run(400);
    for ms in 0..100 {
        for slot in 0..4 {
            while world.submit(slot, &[slot; 1290], false) {}
        }
        if ms == 50 {
            world.submit(4, b"me too", false);
        }
        world.run(1);
    }
    assert!(world.messages(0).iter().any(|(from, _)| *from == 4));
}

#[test]
fn a_commit_token_of_wild_numbers_is_none() {
    let view = View::new(9, 0, 0b11, 5000, 1);
    for high in [RING_STORE_MAX + 1, 1 << 30, u64::MAX] {
        let entry = Entry { filled: true, high, ..Entry::default() };
        let bytes = Message::Commit(Commit { number: 2, view, entries: vec![entry, entry] }).to_bytes(0);
        assert_eq!(Message::from_bytes(bytes), None, "{high}");
    }
}

/// Whatever a member writes into the token, messages are delivered on, or the ring is told to be lost, and then it rests.
#[test]
fn a_token_of_wild_numbers_neither_stops_a_ring_nor_keeps_it_awake() {
    type Change = fn(&mut Token);
    let wild: [(&str, Change); 7] = [
        ("fcc", |token| token.fcc = u32::MAX),
        ("backlog", |token| token.backlog = u32::MAX),
        ("a request", |token| token.requests = vec![u64::MAX]),
        ("requests", |token| token.requests = vec![u64::MAX; RING_REQUESTS_MAX]),
        ("recovers", |token| token.recovers = true),
        ("seq", |token| (token.seq, token.aru) = (1 << 60, 1 << 60)),
        ("number", |token| token.number = u64::MAX - 3),
    ];
    for (what, change) in wild {
        let mut world = World::new(3, 5, 0);
        world.form(0b111);
        world.run(400);
        let mut token = world.rings[&0].held.clone().expect("it rests");
        token.number += 100;
        change(&mut token);
        let ring = world.rings[&1].era.id;
        world.give(1, Input::Frame { from: 0, bytes: Message::Token { ring, token }.to_bytes(0) });
        world.submit(2, b"hello", false);
        world.run(1000);
        let before = world.number;
        world.run(1000);
        let frames = world.number - before;
        assert!(world.lost > 0 || world.messages(0) == [(2, Bytes::from_static(b"hello"))], "{what}");
        assert!(frames < 1000, "{what}: {frames} frames in a second of silence");
    }
}

/// Somebody on the wire brings a token to one that it was not meant for.
#[test]
fn a_token_counts_only_from_whom_it_comes() {
    let mut world = World::new(3, 5, 0);
    world.form(0b111);
    world.run(400);
    let mut token = world.rings[&0].held.clone().expect("it rests");
    token.number += 1;
    let ring = world.rings[&1].era.id;
    let bytes = Message::Token { ring, token }.to_bytes(0);
    world.give(2, Input::Frame { from: 0, bytes: bytes.clone() });
    assert!(world.wire.is_empty(), "it went on");
    world.give(1, Input::Frame { from: 0, bytes });
    assert!(!world.wire.is_empty());
}

/// A call that overtakes the token keeps it from resting.
#[test]
fn a_wake_is_not_lost_where_the_token_is_not_there_yet() {
    let mut world = World::new(3, 5, 0);
    world.form(0b111);
    world.run(400);
    // It goes on its way after its rest, and comes back to one that is about to hold it.
    while world.rings[&0].held.is_some() {
        world.step();
    }
    let ring = world.rings[&0].era.id;
    world.give(0, Input::Frame { from: 2, bytes: Message::Wake { ring }.to_bytes(2) });
    assert_eq!(world.rings[&0].era.unchanged, 0);
}
