//! What user space pays for a frame: bytes to words and back, the tag, the rules of the receiving slot.

#![expect(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringbeat_common::frame::{Frame, Kind};
use ringbeat_common::slot::{Local, Slot};

const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
const PEER: u64 = 7 << 32 | 5;
const OWN: u64 = 3 << 32 | 9;

fn probe(sequence: u64) -> Frame {
    let mut frame = Frame::new(Kind::Probe);
    frame.set_incarnation(PEER);
    frame.set_target_incarnation(OWN);
    frame.set_sequence(sequence);
    frame.set_stamp(1_000_000 + sequence);
    frame.set_returned(2_000_000);
    frame.seal(KEY);
    frame
}

fn frames(bench: &mut Criterion) {
    let frame = probe(1);
    let bytes = frame.to_bytes();
    bench.bench_function("frame/parse", |run| run.iter(|| Frame::from_bytes(black_box(&bytes))));
    bench.bench_function("frame/emit", |run| run.iter(|| black_box(&frame).to_bytes()));
    bench.bench_function("frame/tag", |run| run.iter(|| black_box(&frame).computed_tag(black_box(KEY))));
    bench.bench_function("frame/parse_and_check_tag", |run| {
        run.iter(|| {
            let frame = Frame::from_bytes(black_box(&bytes));
            frame.is_some_and(|frame| frame.computed_tag(KEY) == frame.tag())
        });
    });
}

fn slots(bench: &mut Criterion) {
    let local = Local { incarnation: OWN, view: [0; 3], freshness_ns: 5_000_000, now_ns: 3_000_000 };
    bench.bench_function("slot/accept", |run| {
        let mut slot = Slot::accepting(PEER);
        let mut frame = probe(1);
        let mut sequence = 0;
        run.iter(|| {
            sequence += 1;
            frame.set_sequence(sequence);
            slot.accept(black_box(&frame), &local)
        });
    });
    bench.bench_function("slot/refuse_replay", |run| {
        let mut slot = Slot::accepting(PEER);
        let frame = probe(1);
        let _ = slot.accept(&frame, &local);
        run.iter(|| slot.accept(black_box(&frame), &local));
    });
}

criterion_group!(benches, frames, slots);
criterion_main!(benches);
