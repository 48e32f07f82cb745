//! How long it takes to come together, and how many messages, as clusters grow. The figures stand in docs/scale.md.

use ringbeat_core::mutation::Mutation;

use crate::plan::{Fault, MS, Plan};
use crate::splitmix::SplitMix;
use crate::world::World;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    Crash,
    ColdStart,
    Partition,
    Merge,
}

impl Scene {
    const ALL: [Self; 4] = [Self::Crash, Self::ColdStart, Self::Partition, Self::Merge];

    const fn name(self) -> &'static str {
        match self {
            Self::Crash => "one crashes",
            Self::ColdStart => "all start",
            Self::Partition => "parted in halves",
            Self::Merge => "halves meet",
        }
    }
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
    let picture = crate::setting("RINGBEAT_SCALE");
    let sizes: &[u8] = if picture.is_some() { &[3, 8, 16, 32, 64] } else { &[3, 8, 16] };
    let mut all = Vec::new();
    println!("| nodes | scene | ms | messages of views | frames of the ring |");
    println!("|---|---|---|---|---|");
    for nodes in sizes {
        for scene in Scene::ALL {
            let Figures { ms, view_messages, ring_frames } = measure(*nodes, scene);
            println!("| {nodes} | {} | {ms:.1} | {view_messages} | {ring_frames} |", scene.name());
            all.push((*nodes, scene, ms));
            // Each row that changes makes news of all nodes to all others; see the page.
            let cube = u64::from(*nodes).pow(3);
            assert!(view_messages <= 3 * cube + 200, "{view_messages} messages of {nodes} nodes, {scene:?}");
            assert!(ms < 1500.0, "{ms} ms, {nodes} nodes, {scene:?}");
        }
    }
    if let Some(path) = picture {
        save(&path, &plot(&all));
    }
}

#[expect(clippy::disallowed_methods, reason = "a picture for a page, where one is asked for")]
fn save(path: &str, picture: &str) {
    std::fs::write(path, picture).expect("the picture can be written");
}

/// The times as a picture (SVG): nodes to the right, on a scale of powers of two, ms upwards.
fn plot(all: &[(u8, Scene, f64)]) -> String {
    const COLOURS: [&str; 4] = ["#b3261e", "#1f6feb", "#7a5af8", "#2e7d32"];
    let x = |nodes: u8| 60.0 + (f64::from(nodes).log2() - 1.5) * 110.0;
    let y = |ms: f64| 280.0 - ms * 9.0;
    let mut svg =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 330\" font-family=\"sans-serif\" \
                   font-size=\"12\">\n<rect width=\"720\" height=\"330\" fill=\"white\"/>\n"
            .to_owned();
    for ms in [0.0, 5.0, 10.0, 15.0, 20.0, 25.0] {
        let at = y(ms);
        svg += &format!("<line x1=\"60\" x2=\"570\" y1=\"{at}\" y2=\"{at}\" stroke=\"#ddd\"/>\n");
        svg += &format!("<text x=\"52\" y=\"{}\" text-anchor=\"end\">{ms} ms</text>\n", at + 4.0);
    }
    let mut sizes: Vec<u8> = all.iter().map(|(nodes, ..)| *nodes).collect();
    sizes.dedup();
    for nodes in sizes {
        svg +=
            &format!("<text x=\"{:.0}\" y=\"300\" text-anchor=\"middle\">{nodes} nodes</text>\n", x(nodes));
    }
    for (scene, colour) in Scene::ALL.into_iter().zip(COLOURS) {
        let points: Vec<(f64, f64)> =
            all.iter().filter(|(_, of, _)| *of == scene).map(|(nodes, _, ms)| (x(*nodes), y(*ms))).collect();
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        svg += &format!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>\n", line.join(" "));
        for (x, y) in &points {
            svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\n");
        }
        if let Some((x, y)) = points.last() {
            let (x, y, name) = (x + 8.0, y + 4.0, scene.name());
            svg += &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{name}</text>\n");
        }
    }
    svg + "</svg>\n"
}
