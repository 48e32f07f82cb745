//! Short histories of two or three handshakes, their frames carried by hand.

use ringbeat_common::frame::VERSION;

use super::*;
use crate::limits::{NONCE_AGE_MAX_NS, WELCOMES_MAX};

const MS: u64 = 1_000_000;

fn config(own: u8, incarnation: u64) -> Config {
    Config {
        own,
        incarnation,
        cluster_id: 9,
        config_version: 1,
        peers: vec![0, 1, 2],
        links: vec![1, 0, 1, 9],
    }
}

/// A machine that has its nonces; its first Hellos are thrown away.
fn machine(own: u8, incarnation: u64) -> Handshake {
    let mut machine = Handshake::new(&config(own, incarnation));
    let seed = incarnation.wrapping_mul(1000);
    let nonces = (1..=machine.nonces_wanted() as u64).map(|nonce| seed + nonce);
    machine.handle(Input::Nonces(nonces.collect()), 0);
    assert_eq!(machine.nonces_wanted(), 3);
    outputs(&mut machine);
    machine
}

fn outputs(machine: &mut Handshake) -> Vec<Output> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

/// The frames among the outputs, of a kind, to a slot.
fn frames(outputs: &[Output], kind: Kind, to: u8) -> Vec<Frame> {
    let of_kind = |frame: &Frame| frame.kind() == kind as u8;
    let sent = outputs.iter().filter_map(|output| match output {
        Output::Transmit { frame, target, .. } if *target == to && of_kind(frame) => Some(*frame),
        _ => None,
    });
    sent.collect()
}

fn give(machine: &mut Handshake, frame: Frame, now_ns: u64) -> Vec<Output> {
    machine.handle(Input::Frame { link: frame.link(), frame }, now_ns);
    outputs(machine)
}

fn timeout(machine: &mut Handshake, now_ns: u64) -> Vec<Output> {
    machine.handle(Input::Timeout, now_ns);
    outputs(machine)
}

fn accepts(outputs: &[Output]) -> Vec<(u8, u64, Option<u64>)> {
    let accepts = outputs.iter().filter_map(|output| match output {
        Output::Accept { slot, incarnation, previous } => Some((*slot, *incarnation, *previous)),
        _ => None,
    });
    accepts.collect()
}

fn told(outputs: &[Output]) -> Vec<ToldKind> {
    let told = outputs.iter().filter_map(|output| match output {
        Output::Told(told) => Some(told.kind),
        _ => None,
    });
    told.collect()
}

/// The three messages, begun by `one`; gives all three.
fn agree(one: &mut Handshake, other: &mut Handshake, now_ns: u64) -> (Vec<Frame>, Vec<Output>, Vec<Output>) {
    let (slot, peer) = (one.config.own, other.config.own);
    one.handle(Input::Heard { slot: peer }, now_ns);
    one.handle(Input::Silent { slot: peer }, now_ns);
    let hello = frames(&outputs(one), Kind::Hello, peer)[0];
    let welcome = frames(&give(other, hello, now_ns), Kind::Welcome, slot)[0];
    let at_one = give(one, welcome, now_ns);
    let confirm = frames(&at_one, Kind::Confirm, peer).first().copied();
    let at_other = confirm.map(|confirm| give(other, confirm, now_ns)).unwrap_or_default();
    ([hello, welcome].into_iter().chain(confirm).collect(), at_one, at_other)
}

#[test]
fn three_messages_agree_on_both_incarnations() {
    let (mut one, mut other) = (machine(0, 7 << 32), machine(1, 3 << 32));
    let (said, at_one, at_other) = agree(&mut one, &mut other, MS);
    assert_eq!(accepts(&at_one), [(1, 3 << 32, None)]);
    assert_eq!(frames(&at_one, Kind::Confirm, 1).len(), 2, "on every link");
    assert_eq!(accepts(&at_other), [(0, 7 << 32, None)]);
    assert!(
        said.iter().all(|frame| frame.cluster_id() == 9 && frame.version() == VERSION && frame.tag() == 0)
    );
    let view = PeerView { incarnation: Some(3 << 32), version: VERSION, config_version: Some(1) };
    assert_eq!(one.peer_view(1), view);
    assert_eq!(one.peer_view(77), PeerView::default());
    assert_eq!(one.nonces_wanted(), 3, "used up, and only taken again for the next Hello");
}

#[test]
fn hellos_come_fast_at_first_and_end_with_the_peers_life() {
    let mut one = machine(0, 1 << 32);
    let mut times = Vec::new();
    while let Some(due_ns) = one.next_timeout().filter(|due_ns| *due_ns < 1000 * MS) {
        let sent = timeout(&mut one, due_ns);
        assert_eq!(frames(&sent, Kind::Hello, 1).len() % 2, 0, "on each link");
        if !frames(&sent, Kind::Hello, 1).is_empty() {
            times.push(due_ns / MS);
        }
    }
    assert_eq!(times, [20, 60, 260, 460, 660, 860]);
    one.handle(Input::Heard { slot: 1 }, 1000 * MS);
    assert_eq!(frames(&timeout(&mut one, 1200 * MS), Kind::Hello, 1), []);
    one.handle(Input::Silent { slot: 1 }, 1300 * MS);
    assert_eq!(frames(&outputs(&mut one), Kind::Hello, 1).len(), 2);
}

#[test]
fn a_lost_confirm_heals() {
    let (mut one, mut other) = (machine(0, 7 << 32), machine(1, 3 << 32));
    let hello = frames(&timeout(&mut one, 20 * MS), Kind::Hello, 1)[0];
    let welcome = frames(&give(&mut other, hello, 20 * MS), Kind::Welcome, 0)[0];
    assert_eq!(accepts(&give(&mut one, welcome, 20 * MS)).len(), 1, "its Confirm is lost");
    let (_, at_one, at_other) = agree(&mut one, &mut other, 60 * MS);
    assert_eq!(accepts(&at_one), [], "accepted already");
    assert_eq!(accepts(&at_other).len(), 1);
}

#[test]
fn a_replay_proves_nothing() {
    let (mut one, mut other) = (machine(0, 7 << 32), machine(1, 3 << 32));
    let (said, ..) = agree(&mut one, &mut other, MS);
    for now_ns in [2 * MS, 3 * MS] {
        for frame in &said {
            for machine in [&mut one, &mut other] {
                let out = give(machine, *frame, now_ns);
                assert_eq!((accepts(&out), told(&out)), (vec![], vec![]));
            }
        }
    }
    // The next life of each hears the old messages, too.
    let (mut one, mut other) = (machine(0, 8 << 32), machine(1, 4 << 32));
    for frame in &said {
        assert_eq!(accepts(&give(&mut one, *frame, 4 * MS)), []);
        assert_eq!(accepts(&give(&mut other, *frame, 4 * MS)), []);
    }
    assert!(one.counters().unproven > 0 && other.counters().unproven > 0);
}

#[test]
fn an_echo_that_was_held_back_for_long_proves_nothing() {
    let (mut one, mut other) = (machine(0, 7 << 32), machine(1, 3 << 32));
    let hello = frames(&timeout(&mut one, 20 * MS), Kind::Hello, 1)[0];
    let welcome = frames(&give(&mut other, hello, 20 * MS), Kind::Welcome, 0)[0];
    assert_eq!(accepts(&give(&mut one.clone(), welcome, NONCE_AGE_MAX_NS - 1)).len(), 1);
    assert_eq!(accepts(&give(&mut one, welcome, 20 * MS + NONCE_AGE_MAX_NS)), []);
}

#[test]
fn a_restart_is_accepted_and_a_counter_that_went_back_is_told() {
    let mut one = machine(0, 7 << 32);
    for (incarnation, previous, rolled_back) in [
        (3 << 32 | 5, None, false),
        (4 << 32 | 6, Some(3 << 32 | 5), false),
        (4 << 32 | 1, Some(4 << 32 | 6), true),
    ] {
        let (_, out, _) = agree(&mut one, &mut machine(1, incarnation), MS);
        assert_eq!(accepts(&out), [(1, incarnation, previous)]);
        let expected = previous.filter(|_| rolled_back);
        let expected = expected.map(|previous| ToldKind::IncarnationRolledBack { previous });
        assert_eq!(told(&out), expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn two_machines_that_take_turns_are_told_and_the_newer_one_stays() {
    let (mut one, mut older, mut newer) = (machine(0, 7 << 32), machine(1, 3 << 32), machine(1, 4 << 32));
    agree(&mut one, &mut older, MS);
    agree(&mut one, &mut newer, 2 * MS);
    let (_, out, at_older) = agree(&mut one, &mut older, 3 * MS);
    assert_eq!(told(&out), [ToldKind::DuplicatePeer { superseded: 3 << 32 }]);
    assert_eq!((accepts(&out), at_older), (vec![], vec![]), "and it gets no Confirm");
    assert_eq!(told(&agree(&mut one, &mut older, 4 * MS).1), [], "told once");
    assert_eq!(one.peer_view(1).incarnation, Some(4 << 32));
}

#[test]
fn another_configuration_is_told_once_for_each_value() {
    let (mut one, mut other) = (machine(0, 7 << 32), machine(1, 3 << 32));
    for (version, is_told) in [(2, true), (2, false), (1, false), (3, true), (2, true)] {
        other.handle(Input::ConfigVersion(version), MS);
        let (_, out, _) = agree(&mut one, &mut other, MS);
        assert_eq!(told(&out).contains(&ToldKind::ConfigDiffers { theirs: version }), is_told, "{version}");
    }
}

#[test]
fn a_flood_of_hellos_gets_so_many_welcomes_and_no_more() {
    let mut one = machine(0, 7 << 32);
    let hello = frames(&timeout(&mut machine(1, 3 << 32), 20 * MS), Kind::Hello, 0)[0];
    let count = |machine: &mut Handshake, now_ns: u64| -> usize {
        (0..10_000).map(|_| frames(&give(machine, hello, now_ns), Kind::Welcome, 1).len()).sum()
    };
    assert_eq!(count(&mut one, 30 * MS), WELCOMES_MAX as usize);
    assert_eq!(count(&mut one, 999 * MS), 0);
    assert_eq!(count(&mut one, 2000 * MS), WELCOMES_MAX as usize);
    assert_eq!(one.nonces_wanted(), 3, "a flood uses up no nonce");
}

#[test]
fn two_machines_with_one_slot_both_learn_of_it() {
    let (mut one, mut other) = (machine(1, 3 << 32), machine(1, 4 << 32));
    let announced = frames(&timeout(&mut one, 50 * MS), Kind::Hello, 1);
    assert_eq!(announced.len(), 2);
    assert_eq!(give(&mut one, announced[0], 50 * MS), [], "the own echo");
    let answered = give(&mut other, announced[0], 50 * MS);
    assert!(answered.iter().all(|output| matches!(output, Output::Transmit { broadcast: true, .. })));
    let welcome = frames(&answered, Kind::Welcome, 1)[0];
    let out = give(&mut one, welcome, 51 * MS);
    assert_eq!(out, [Output::DuplicateSelf { incarnation: 4 << 32 }]);
    assert_eq!(give(&mut one, welcome, 51 * MS), [], "told once");
    assert_eq!((one.duplicate(), one.next_timeout()), (Some(4 << 32), None));
    // It takes no part any more, but answers the other.
    let hello = frames(&answered, Kind::Hello, 1)[0];
    let welcome = frames(&give(&mut one, hello, 51 * MS), Kind::Welcome, 1)[0];
    assert_eq!(give(&mut other, welcome, 52 * MS), [Output::DuplicateSelf { incarnation: 3 << 32 }]);
    let stranger = frames(&timeout(&mut machine(0, 9 << 32), 20 * MS), Kind::Hello, 1)[0];
    assert_eq!(give(&mut one, stranger, 60 * MS), []);
    one.handle(Input::Heard { slot: 0 }, 61 * MS);
    one.handle(Input::Silent { slot: 0 }, 62 * MS);
    assert_eq!(outputs(&mut one), []);
}

#[test]
fn an_earlier_life_of_the_own_slot_is_no_duplicate() {
    let mut before = machine(1, 3 << 32);
    let said: Vec<Frame> = frames(&timeout(&mut before, 50 * MS), Kind::Hello, 1);
    let mut now = machine(1, 4 << 32);
    let out = give(&mut now, said[0], 60 * MS);
    assert_eq!(frames(&out, Kind::Welcome, 1).len(), 1, "who knows; it is asked");
    assert_eq!(now.duplicate(), None);
}

#[test]
fn strays_change_nothing() {
    let mut one = machine(0, 7 << 32);
    let hello = frames(&timeout(&mut machine(1, 3 << 32), 20 * MS), Kind::Hello, 0)[0];
    let strays: [fn(&mut Frame); 6] = [
        |frame| frame.set_kind(Kind::Probe as u8),
        |frame| frame.set_kind(77),
        |frame| frame.set_sender(63),
        |frame| frame.set_sender(200),
        |frame| frame.set_target(2),
        |frame| frame.set_incarnation(0),
    ];
    for change in strays {
        let mut frame = hello;
        change(&mut frame);
        assert_eq!(give(&mut one, frame, 30 * MS), []);
    }
    one.handle(Input::Frame { link: 5, frame: hello }, 30 * MS);
    assert_eq!(outputs(&mut one), []);
    assert_eq!(one.counters().stray, 7);
    // Without nonces nothing can be asked, and nothing is answered.
    let mut poor = Handshake::new(&config(0, 7 << 32));
    assert_eq!(give(&mut poor, hello, MS), []);
    poor.handle(Input::Nonces(vec![0, 0]), MS);
    assert_eq!(outputs(&mut poor), []);
}
