//! Nobody is told a message of somebody who is not a member for him; and in the end all know the same members, which are
//! just the programs that there are.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::Told;
use crate::world::World;

pub(crate) fn broken(world: &World) -> Option<String> {
    for log in &world.logs {
        let mut members: BTreeMap<usize, BTreeSet<(u8, u32)>> = BTreeMap::new();
        for told in &log.told {
            match told {
                Told::Members { group, members: now } => {
                    members.insert(*group, now.iter().map(|one| (one.slot, one.pid)).collect());
                }
                Told::Message { group, from, .. } => {
                    if !members.get(group).is_some_and(|members| members.contains(&(from.slot, from.pid))) {
                        return Some(format!(
                            "{} was told a message of {from:?}, who is no member",
                            log.slot
                        ));
                    }
                }
                Told::Regular(_) | Told::Transitional(_) => {}
            }
        }
    }
    if world.apart().is_some() {
        return None;
    }
    let there: BTreeSet<(String, u8, u32)> = world
        .nodes
        .iter()
        .enumerate()
        .flat_map(|(slot, node)| {
            node.programs.keys().map(move |(group, pid)| (["a", "b"][*group].to_owned(), slot as u8, *pid))
        })
        .collect();
    for (slot, node) in world.nodes.iter().enumerate() {
        let known = node.groups.all().flat_map(|(group, members)| {
            members.iter().map(move |member| (group.to_string(), member.slot, member.pid))
        });
        let known: BTreeSet<(String, u8, u32)> = known.collect();
        if known != there {
            let odd: Vec<_> = known.symmetric_difference(&there).take(3).collect();
            return Some(format!("{slot} is wrong about {odd:?}"));
        }
    }
    None
}
