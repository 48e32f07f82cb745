//! What the daemon pays for a message in the worst cluster that there is: one whose row changes the choice, and one that
//! brings nothing new.

#![expect(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringbeat_common::limits::NODES_MAX;
use ringbeat_core::membership::electorate::{Electorate, Standing};
use ringbeat_core::membership::message::Message;
use ringbeat_core::membership::row::Row;
use ringbeat_core::membership::{Config, Input, Membership, NodeConfig, ResourceConfig};

const LIFE: u64 = 1 << 32;
const MS: u64 = 1_000_000;

/// 21 triples whose nodes miss one another, and one who hears all: 3^21 groups.
fn heard(slot: u8) -> u64 {
    let missed = if slot == 63 { 0 } else { 0b111 << (slot / 3 * 3) };
    !missed | 1 << slot
}

fn row(slot: u8, number: u64, electorate: u64) -> Row {
    // What it holds changes with the number, and with that the choice.
    let holds = number & 1;
    Row {
        slot,
        incarnation: LIFE,
        number,
        heard: heard(slot),
        config: 1,
        lease_us: 5000,
        floor: 1,
        holds,
        electorate,
        ..Row::default()
    }
}

fn said(rows: Vec<Row>) -> Input {
    let message = Message { lives: 0, announced: None, rows };
    let from = message.rows.first().map_or(0, |row| row.slot);
    Input::Message { from, incarnation: LIFE, bytes: message.to_bytes(1) }
}

/// The machine of node 1 that knows all others.
fn machine(nodes: &[NodeConfig], electorate: u64) -> Membership {
    let mut machine = Membership::new(Config {
        own: 0,
        incarnation: LIFE,
        config_version: 1,
        lease_us: 5000,
        nodes: nodes.to_vec(),
        resources: vec![ResourceConfig { failback: false }],
        interval_ns: MS,
        ceiling: 0,
        announced_floor: 0,
        mute_ns: u64::MAX,
        quiet_until_ns: 0,
        started_ns: 0,
        standing: Standing { confirmed: true, again: false, sole: true },
        adopted: None,
    });
    machine.handle(Input::Reserved { ceiling: 1 << 40 }, 1);
    for slot in 1..NODES_MAX as u8 {
        machine.handle(Input::Accepted { slot, incarnation: LIFE }, 1);
    }
    machine.handle(Input::Row { heard: heard(0) }, 1);
    for slot in 1..NODES_MAX as u8 {
        machine.handle(said(vec![row(slot, 2, electorate)]), 1);
    }
    machine
}

fn messages(bench: &mut Criterion) {
    let nodes = (0..NODES_MAX as u8).map(|slot| NodeConfig { slot, votes: 1, witness: false });
    let nodes: Vec<_> = nodes.collect();
    let electorate = Electorate::new(nodes.iter().map(|node| (node.slot, node.votes))).digest();
    for (name, step) in [("changed_row", 1), ("unchanged_row", 0)] {
        bench.bench_function(&format!("membership/{name}/21x3"), |run| {
            let mut machine = machine(&nodes, electorate);
            let mut number = 2;
            run.iter(|| {
                number += step;
                // It knows us, so it is not answered.
                let own = machine.row(0).copied().unwrap_or_default();
                machine.handle(black_box(said(vec![row(3, number, electorate), own])), 2);
                std::iter::from_fn(|| machine.poll_output()).count()
            });
        });
    }
}

criterion_group!(benches, messages);
criterion_main!(benches);
