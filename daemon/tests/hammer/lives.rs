//! One life of a peer is accepted after another: what is read is of the accepted one, and whole.

use aya::maps::{Array, Map, MapData};
use ringbeat_common::frame::flags;
use ringbeat_common::limits::cell;
use ringbeat_common::slot::Slot;
use ringbeat_common::watch::state;
use ringbeatd::sys::pod::Value;

use crate::frames::{mixed, own, peer, probe, run, stamp};
use crate::{SEQ, Steps, Tally, hammer, inside, mount, pinned, plane};

/// What is wrong with the slot while life `k` is accepted.
fn wrong(slot: &Slot, k: u64) -> Option<String> {
    let sequence = slot.probe_sequence;
    let whole = if sequence == 0 {
        *slot == Slot { lock: slot.lock, ..Slot::accepting(peer(k)) }
    } else {
        slot.incarnation == peer(k)
            && slot.peer_stamp == stamp(sequence, k)
            && slot.heard == mixed(sequence, k, 1)
            && slot.view_epoch == mixed(sequence, k, 2)
            && slot.view_members == mixed(sequence, k, 3)
            && slot.config_version == mixed(sequence, k, 4)
            && slot.flags == u64::from(flags::GONE) * (k % 2)
            && slot.proof != 0
            && slot.proof <= slot.peer_stamp_received
    };
    (!whole).then(|| format!("life {k} has {slot:x?}"))
}

/// How a life is switched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Switch {
    /// As the daemon does it.
    Accept,
    /// Without BPF_F_LOCK.
    Unlocked,
    /// The state first, the slot after it.
    StateFirst,
}

/// One side sends frames of lives before, at and after the accepted one; the other accepts one life after another.
fn switch_lives(how: Switch) -> Tally {
    mount();
    let mut sender = plane();
    let mut daemon = plane();
    daemon.open(own(1)).expect("opened");
    let mut slots: Array<MapData, Value<Slot>> =
        Array::try_from(Map::Array(pinned("SLOTS"))).expect("an array");
    let steps = Steps::new(how != Switch::Accept);
    let index = cell(0, 1) as u32;
    hammer(
        &steps,
        |round, tally| {
            let done = steps.done.load(SEQ);
            // Mostly the life of now, whose last frames are on their way when the next one is accepted.
            let k = (done + u64::from(round % 8 == 0)).saturating_sub(u64::from(round % 5 == 0)).max(1);
            if run(&mut sender, &probe(k, own(1), round)).is_some() {
                tally.answers += 1;
                if k < done {
                    tally.fail("an old life was answered", || format!("life {k}, {done} was accepted"));
                }
                if k > steps.begun.load(SEQ) {
                    tally.fail("a life was answered before its time", || format!("life {k}"));
                }
            }
        },
        |k, tally| {
            steps.begun.store(k, SEQ);
            match how {
                Switch::Accept => daemon.accept(1, peer(k)).expect("accepted"),
                Switch::Unlocked => {
                    slots.set(index, Value(Slot::accepting(peer(k))), 0).expect("set");
                }
                Switch::StateFirst => {
                    let life = daemon.slot(0, 1).incarnation;
                    daemon.accept(1, life).expect("accepted");
                    for _ in 0..20 {
                        std::hint::spin_loop();
                    }
                    slots.set(index, Value(Slot::accepting(peer(k))), 4).expect("set");
                }
            }
            steps.done.store(k, SEQ);
            for _ in 0..2 {
                let seen = daemon.state(0, 1);
                if k % 2 == 0 && seen & state::GONE != 0 {
                    tally.fail("a life that is not gone is", || format!("life {k}: {seen:#x}"));
                }
                if let Some(words) = wrong(&daemon.slot(0, 1), k) {
                    tally.fail("a slot is torn, or of another life", || words);
                }
            }
            while daemon.next_event().is_some() {}
        },
    )
}

#[test]
fn an_accepted_life_is_the_only_one() {
    if inside("lives::an_accepted_life_is_the_only_one") {
        switch_lives(Switch::Accept).assert_sound();
    }
}

#[test]
fn mutation_a_slot_written_without_its_lock_is_noticed() {
    if inside("lives::mutation_a_slot_written_without_its_lock_is_noticed") {
        let tally = switch_lives(Switch::Unlocked);
        println!("{tally:?}");
        assert!(tally.count("a slot is torn, or of another life") > 0, "{tally:?}");
    }
}

#[test]
fn mutation_a_state_written_before_the_slot_is_noticed() {
    if inside("lives::mutation_a_state_written_before_the_slot_is_noticed") {
        let tally = switch_lives(Switch::StateFirst);
        println!("{tally:?}");
        assert!(tally.count("a life that is not gone is") > 0, "{tally:?}");
    }
}
