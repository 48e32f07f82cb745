//! What the daemon pays for an event of the kernel, alone and in a cluster of full size, and for a handshake.

#![expect(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ringbeat_common::event::Event;
use ringbeat_common::frame::{Frame, Kind};
use ringbeat_common::limits::{LINKS_MAX, NODES_MAX, cell};
use ringbeat_common::watch::state::{HEARD, WATCHED};
use ringbeat_core::detector::{Config, Damping, Detector, Input, LinkTimes};
use ringbeat_core::handshake::{self, Handshake};

const LIFE: u64 = 1 << 32;
const MS: u64 = 1_000_000;

fn drain(detector: &mut Detector) -> usize {
    std::iter::from_fn(|| detector.poll_output()).count()
}

fn heard(link: u8, slot: u8, now_ns: u64) -> Input {
    let cell = cell(link, slot) as u32;
    let (from, to) = (WATCHED, WATCHED | HEARD);
    Input::Cell(Event { stamp_ns: now_ns, cell, from, to, incarnation: LIFE, ..Event::default() })
}

fn late(link: u8, slot: u8, now_ns: u64) -> Input {
    let cell = cell(link, slot) as u32;
    let (from, to) = (WATCHED | HEARD, WATCHED);
    Input::Cell(Event { stamp_ns: now_ns, cell, from, to, by_timer: 1, ..Event::default() })
}

/// A detector with all of its peers up on all of its links.
fn detector(peers: u8, links: u8) -> Detector {
    let times = |link| LinkTimes { link, interval_ns: 5 * MS, deadline_ns: 20 * MS };
    let config = Config {
        own: 0,
        peers: (1..=peers).collect(),
        links: (0..links).map(times).collect(),
        daemon_stall_ns: 1000 * MS,
        damping: Damping::default(),
    };
    let mut detector = Detector::new(&config);
    for slot in 1..=peers {
        let accepted = Input::Accepted { slot, incarnation: LIFE, previous: None, stamp_ns: 0 };
        detector.handle(accepted, 0);
        (0..links).for_each(|link| detector.handle(heard(link, slot, 1), 1));
    }
    drain(&mut detector);
    detector
}

fn steps(bench: &mut Criterion) {
    for (peers, links) in [(2, 2), (NODES_MAX as u8 - 1, LINKS_MAX as u8)] {
        let size = format!("{}x{links}", peers + 1);
        bench.bench_function(&format!("detector/late_and_back/{size}"), |run| {
            let mut detector = detector(peers, links);
            let mut now_ns = MS;
            run.iter(|| {
                now_ns += 10 * MS;
                detector.handle(black_box(late(0, 1, now_ns)), now_ns);
                detector.handle(black_box(heard(0, 1, now_ns + MS)), now_ns + MS);
                drain(&mut detector)
            });
        });
        bench.bench_function(&format!("detector/peer_down/{size}"), |run| {
            run.iter_batched_ref(
                || detector(peers, links),
                |detector| {
                    (0..links).for_each(|link| detector.handle(black_box(late(link, 1, 5 * MS)), 5 * MS));
                    drain(detector)
                },
                BatchSize::SmallInput,
            );
        });
    }
}

fn handshakes(bench: &mut Criterion) {
    let config = |own, incarnation| handshake::Config {
        own,
        incarnation,
        cluster_id: 1,
        config_version: 1,
        peers: vec![0, 1],
        links: vec![0, 1],
    };
    let mut hello = Frame::new(Kind::Hello);
    hello.set_sender(1);
    hello.set_incarnation(LIFE);
    hello.set_stamp(5);
    bench.bench_function("handshake/hello_over_bound", |run| {
        let mut machine = Handshake::new(&config(0, LIFE));
        machine.handle(handshake::Input::Nonces((1..100).collect()), 0);
        run.iter(|| {
            machine.handle(handshake::Input::Frame { link: 0, frame: black_box(hello) }, MS);
            std::iter::from_fn(|| machine.poll_output()).count()
        });
    });
}

criterion_group!(benches, steps, handshakes);
criterion_main!(benches);
