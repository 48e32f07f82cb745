//! The plane is closed and opened: a closed one answers nothing, and an open one only to its own life.

use std::mem::offset_of;

use ringbeat_common::maps::Node;
use ringbeatd::sys::mapped::Mapped;

use crate::frames::{own, peer, probe, run};
use crate::{SEQ, Steps, Tally, WHOLE, dawdle, hammer, inside, mount, pinned, plane};

/// One side sends frames to the own life; the other closes and opens. `early` tells the closing before it is done.
fn open_and_close(early: bool) -> Tally {
    mount();
    let mut sender = plane();
    let mut daemon = plane();
    daemon.open(own(1)).expect("opened");
    daemon.close();
    daemon.open(own(1)).expect("opened");
    daemon.accept(1, peer(2)).expect("accepted");
    daemon.close();
    let words: Mapped<Node> = Mapped::new(pinned("NODE").fd(), 1).expect("mapped");
    let steps = Steps::new(early);
    // Odd steps open life (step + 1) / 2, even ones close it.
    hammer(
        &steps,
        |round, tally| {
            let done = steps.done.load(SEQ);
            let target = done.div_ceil(2).max(1) - u64::from(round % 16 == 0 && done > 2);
            if run(&mut sender, &probe(2, own(target), round)).is_some() {
                tally.answers += 1;
                if done > 0 && target * 2 <= done {
                    tally.fail("a closed plane answered", || format!("life {target}, step {done} was done"));
                }
                if target * 2 - 1 > steps.begun.load(SEQ) {
                    tally.fail("a plane answered before it was open", || format!("life {target}"));
                }
            }
        },
        |step, _| {
            steps.begun.store(step, SEQ);
            if early {
                steps.done.store(step, SEQ);
                dawdle();
            }
            let life = own(step.div_ceil(2));
            if step % 2 == 0 {
                daemon.close();
            } else if step % WHOLE == 1 {
                daemon.open(life).expect("opened");
                daemon.accept(1, peer(2)).expect("accepted");
            } else {
                // The last step of opening by itself: the others take a thousand times as long.
                words.word(0, offset_of!(Node, incarnation)).store(life, SEQ);
            }
            steps.done.store(step, SEQ);
            // Long enough for a packet or two, and of a length that differs.
            for _ in 0..step % 512 {
                std::hint::spin_loop();
            }
        },
    )
}

#[test]
fn a_closed_plane_answers_nothing() {
    if inside("door::a_closed_plane_answers_nothing") {
        open_and_close(false).assert_sound();
    }
}

#[test]
fn mutation_a_plane_that_closes_late_is_noticed() {
    if inside("door::mutation_a_plane_that_closes_late_is_noticed") {
        let tally = open_and_close(true);
        println!("{tally:?}");
        assert!(tally.count("a closed plane answered") > 0, "{tally:?}");
    }
}
