//! How long it takes to come together, and how many messages, as clusters grow. The figures stand in docs/scale.md.

use ringbeat_core::mutation::Mutation;

use crate::splitmix::SplitMix;
use crate::world::{Fault, MS, Plan, World};

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    Crash,
    ColdStart,
    Partition,
    Merge,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
struct Figures {
    ms: f64,
    view_messages: u64,
    ring_frames: u64,
}

fn quiet(nodes: u8, faults: Vec<(u64, u64, Fault)>) -> Plan {
    Plan {
        nodes,
        loss_permille: 0,
        late_permille: 0,
        talk_ns: MS,
        faults,
        trouble_ns: 60_000 * MS,
        calm_ns: 30_000 * MS,
    }
}

/// Whether the rings of these sets turn.
fn turn(world: &World, sets: &[u64]) -> bool {
    sets.iter().all(|set| {
        (0..world.plan.nodes).filter(|slot| set >> slot & 1 == 1).all(|slot| {
            let node = &world.nodes[usize::from(slot)];
            node.ring.is_operational()
                && node.ring.view().members == *set
                && node.membership.installed().view == node.ring.view()
        })
    })
}

/// Runs until they do; what it took.
fn until(world: &mut World, sets: &[u64]) -> Figures {
    let (begin_ns, views, frames) = (world.now_ns, world.view_messages, world.ring_frames);
    while !turn(world, sets) {
        assert!(world.now_ns < begin_ns + 20_000 * MS, "never: {:?}", world.apart());
        world.run_until(world.now_ns + MS / 10);
    }
    Figures {
        ms: (world.now_ns - begin_ns) as f64 / 1e6,
        view_messages: world.view_messages - views,
        ring_frames: world.ring_frames - frames,
    }
}

fn measure(nodes: u8, scene: Scene) -> Figures {
    let all = (1u128 << nodes) as u64;
    let all = all.wrapping_sub(1);
    let half = (1u64 << (nodes / 2)) - 1;
    let fault = match scene {
        Scene::Crash => vec![(2000 * MS, 60_000 * MS, Fault::Crash(nodes / 2))],
        Scene::ColdStart => Vec::new(),
        Scene::Partition => vec![(2000 * MS, 60_000 * MS, Fault::Parted(half))],
        Scene::Merge => vec![(2000 * MS, 1000 * MS, Fault::Parted(half))],
    };
    let mut world = World::new(quiet(nodes, fault), Mutation::None, SplitMix::new(u64::from(nodes)));
    world.talks = false;
    let begin_ns = world.now_ns;
    let cold = until(&mut world, &[all]);
    match scene {
        Scene::ColdStart => cold,
        Scene::Crash => {
            world.run_until(begin_ns + 2000 * MS);
            until(&mut world, &[all & !(1 << (nodes / 2))])
        }
        Scene::Partition => {
            world.run_until(begin_ns + 2000 * MS);
            until(&mut world, &[half, all & !half])
        }
        Scene::Merge => {
            world.run_until(begin_ns + 3000 * MS);
            until(&mut world, &[all])
        }
    }
}

/// Many nodes come together as three do.
#[test]
fn clusters_of_all_sizes_come_together() {
    let sizes: &[u8] =
        if crate::setting("RINGBEAT_SCALE").is_some() { &[3, 8, 16, 32, 64] } else { &[3, 8, 16] };
    println!("| nodes | scene | ms | messages of views | frames of the ring |");
    println!("|---|---|---|---|---|");
    for nodes in sizes {
        for scene in [Scene::Crash, Scene::ColdStart, Scene::Partition, Scene::Merge] {
            let Figures { ms, view_messages, ring_frames } = measure(*nodes, scene);
            println!("| {nodes} | {scene:?} | {ms:.1} | {view_messages} | {ring_frames} |");
            // Each row that changes makes news of all nodes to all others; see the page.
            let cube = u64::from(*nodes).pow(3);
            assert!(view_messages <= 3 * cube + 200, "{view_messages} messages of {nodes} nodes, {scene:?}");
            assert!(ms < 1500.0, "{ms} ms, {nodes} nodes, {scene:?}");
        }
    }
}
