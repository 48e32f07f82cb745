//! Rings that turn in a room without a network, or with a bad one.

mod attacks;

use std::collections::{BTreeMap, BinaryHeap};

use super::*;
use crate::limits::{RING_REQUESTS_MAX, RING_STORE_MAX};

const MS: u64 = 1_000_000;
const PARAMS: Params = Params::with_token(5 * MS, 100 * MS, 1300);

/// What a member has been told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Message(u8, Bytes),
    Transitional(u64),
    Regular(View),
}

/// Numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn permille(&mut self, permille: u64) -> bool {
        self.next() % 1000 < permille
    }
}

/// When, a number, from, to, what.
type OnItsWay = (u64, u64, u8, u8, Vec<u8>);

struct World {
    rings: BTreeMap<u8, Ring>,
    told: BTreeMap<u8, Vec<Told>>,
    /// Frames on their way.
    wire: BinaryHeap<std::cmp::Reverse<OnItsWay>>,
    number: u64,
    now_ns: u64,
    dice: Dice,
    loss_permille: u64,
    epoch: u64,
    lost: u64,
}

impl World {
    fn new(count: u8, seed: u64, loss_permille: u64) -> Self {
        Self {
            rings: (0..count).map(|slot| (slot, Ring::new(slot, PARAMS))).collect(),
            told: (0..count).map(|slot| (slot, Vec::new())).collect(),
            wire: BinaryHeap::new(),
            number: 0,
            now_ns: MS,
            dice: Dice(seed),
            loss_permille,
            epoch: 0,
            lost: 0,
        }
    }

    fn give(&mut self, slot: u8, input: Input) {
        let now_ns = self.now_ns;
        if let Some(ring) = self.rings.get_mut(&slot) {
            ring.handle(input, now_ns);
        }
        self.drain(slot);
    }

    fn submit(&mut self, slot: u8, bytes: &[u8], safe: bool) -> bool {
        let now_ns = self.now_ns;
        let Some(ring) = self.rings.get_mut(&slot) else { return false };
        let taken = ring.submit(Bytes::copy_from_slice(bytes), safe, now_ns).is_ok();
        self.drain(slot);
        taken
    }

    fn drain(&mut self, slot: u8) {
        while let Some(output) = self.rings.get_mut(&slot).and_then(Ring::poll_output) {
            let told = self.told.get_mut(&slot).expect("a member");
            match output {
                Output::Send { to, bytes } => {
                    for to in crate::membership::choice::bits(to) {
                        if self.dice.permille(self.loss_permille) {
                            continue;
                        }
                        self.number += 1;
                        let late_ns = 20_000 + self.dice.next() % 40_000;
                        let frame = (self.now_ns + late_ns, self.number, slot, to, bytes.to_vec());
                        self.wire.push(std::cmp::Reverse(frame));
                    }
                }
                Output::Deliver { from, bytes } => told.push(Told::Message(from, bytes)),
                Output::Transitional { members } => told.push(Told::Transitional(members)),
                Output::Regular { view } => told.push(Told::Regular(view)),
                Output::Lost { .. } => self.lost += 1,
            }
        }
    }

    /// A view of these is announced, and then installed, everywhere.
    fn form(&mut self, members: u64) {
        self.epoch += 1;
        let view = View::new(self.epoch, members.trailing_zeros() as u8, members, 5000, 1);
        let slots: Vec<u8> = crate::membership::choice::bits(members).collect();
        for slot in &slots {
            self.give(*slot, Input::Freeze);
        }
        for slot in &slots {
            self.give(*slot, Input::Form { view });
        }
    }

    fn run(&mut self, ms: u64) {
        self.run_until(self.now_ns + ms * MS);
    }

    fn run_until(&mut self, end_ns: u64) {
        loop {
            let frame_ns = self.wire.peek().map(|frame| frame.0.0);
            let timer =
                self.rings.iter().filter_map(|(slot, ring)| Some((ring.next_timeout()?, *slot))).min();
            let next_ns = frame_ns.into_iter().chain(timer.map(|timer| timer.0)).min().unwrap_or(u64::MAX);
            if next_ns > end_ns {
                self.now_ns = end_ns;
                return;
            }
            self.now_ns = self.now_ns.max(next_ns);
            if frame_ns == Some(next_ns) {
                let Some(std::cmp::Reverse((_, _, from, to, bytes))) = self.wire.pop() else { return };
                self.give(to, Input::Frame { from, bytes: bytes.into() });
            } else if let Some((_, slot)) = timer {
                self.give(slot, Input::Timeout);
            }
        }
    }

    fn messages(&self, slot: u8) -> Vec<(u8, Bytes)> {
        let messages = self.told[&slot].iter().filter_map(|told| match told {
            Told::Message(from, bytes) => Some((*from, bytes.clone())),
            _ => None,
        });
        messages.collect()
    }
}

#[test]
fn one_alone_hears_itself_at_once() {
    let mut world = World::new(1, 1, 0);
    world.form(0b1);
    assert!(world.submit(0, b"hello", true));
    assert_eq!(world.messages(0), [(0, Bytes::from_static(b"hello"))]);
}

#[test]
fn all_hear_the_same_in_the_same_order() {
    for (count, loss) in [(2, 0), (3, 0), (3, 50), (5, 20), (8, 10)] {
        let mut world = World::new(count, u64::from(count) * 1000 + loss, loss);
        world.form((1 << count) - 1);
        let mut sent = 0u32;
        for round in 0..200u32 {
            for slot in 0..count {
                let bytes = vec![slot; 1 + (round as usize * 37 + usize::from(slot) * 911) % 5000];
                sent += u32::from(world.submit(slot, &bytes, round % 7 == 0));
            }
            world.run(2);
        }
        world.run(3000);
        assert_eq!(world.lost, 0, "{count} nodes, {loss} lost of 1000");
        let first = world.messages(0);
        assert_eq!(first.len() as u32, sent, "{count} nodes, {loss} lost of 1000");
        for slot in 1..count {
            assert!(world.messages(slot) == first, "{slot} of {count} heard another order");
        }
    }
}

#[test]
fn a_quiet_ring_rests_and_wakes_at_once() {
    let mut world = World::new(3, 7, 0);
    world.form(0b111);
    world.run(500);
    let before = world.number;
    world.run(1000);
    let frames = world.number - before;
    assert!(frames < 250, "{frames} frames in a second of silence");
    for slot in [2, 0, 1] {
        assert!(world.submit(slot, &[slot; 10], false));
        world.run(1);
        assert_eq!(world.messages(0).last().map(|message| message.0), Some(slot), "within a millisecond");
        world.run(500);
    }
}

/// Those who go on together deliver the same, whatever a crash leaves half sent.
#[test]
fn a_crash_leaves_the_others_with_the_same() {
    for seed in 0..300 {
        let mut world = World::new(4, seed, 30);
        world.form(0b1111);
        world.run(400);
        assert!(world.rings.values().all(Ring::is_operational), "seed {seed}");
        for round in 0..40u8 {
            for slot in 0..4 {
                world.submit(slot, &[slot, round, 7, 7, 7], round % 3 == 0);
            }
            if round % 5 == 0 {
                world.run(1);
            }
        }
        let gone = (seed % 4) as u8;
        world.rings.remove(&gone);
        world.form(0b1111 & !(1 << gone));
        world.run(2000);
        let left: Vec<u8> = (0..4).filter(|slot| *slot != gone).collect();
        let first = world.told[&left[0]].clone();
        for slot in &left {
            assert!(world.told[slot] == first, "seed {seed}: {slot} was told otherwise");
            let own: Vec<(u8, Bytes)> =
                world.messages(*slot).into_iter().filter(|message| message.0 == *slot).collect();
            assert_eq!(own.len(), 40, "seed {seed}: {slot} has not heard all of its own");
        }
        assert_eq!(world.lost, 0, "seed {seed}");
    }
}
