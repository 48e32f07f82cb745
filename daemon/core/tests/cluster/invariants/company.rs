//! Two nodes that go from one view to the next together were told the same messages in it, in the same order, and agree on
//! with whom they go, and on who was in a group at each message.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::Told;
use crate::world::World;

/// A message: its group, its sender and the life of that, its number; and who was in the group then.
type Key = (usize, u8, u32, u32, u32, u64);

/// A node's time in a view.
struct Stay {
    slot: u8,
    messages: Vec<Key>,
    together: Option<u64>,
    next: Option<(u64, u8)>,
}

pub(crate) fn broken(world: &World) -> Option<String> {
    let mut by_view: BTreeMap<(u64, u8), Vec<Stay>> = BTreeMap::new();
    for log in &world.logs {
        let mut stay: Option<((u64, u8), Stay)> = None;
        for told in &log.told {
            match told {
                Told::Regular(view) => {
                    let id = (view.epoch, view.proposer());
                    let new = Stay { slot: log.slot, messages: Vec::new(), together: None, next: None };
                    if let Some((before, mut of)) = stay.replace((id, new)) {
                        of.next = Some(id);
                        by_view.entry(before).or_default().push(of);
                    }
                }
                Told::Transitional(members) => {
                    if let Some((_, stay)) = &mut stay {
                        stay.together = Some(*members);
                    }
                }
                Told::Message { group, from, life, counter, among } => {
                    if let Some((_, stay)) = &mut stay {
                        stay.messages.push((*group, from.slot, from.pid, *life, *counter, *among));
                    }
                }
                Told::Members { .. } => {}
            }
        }
    }
    for (view, stays) in &by_view {
        for (place, one) in stays.iter().enumerate() {
            for other in &stays[place + 1..] {
                if one.next != other.next {
                    continue;
                }
                if one.together != other.together {
                    return Some(format!("{} and {} leave {view:?} with others", one.slot, other.slot));
                }
                // A program is told of its groups only, and not every node has one in each.
                let both = |one: &Stay, other: &Stay| -> Vec<Key> {
                    let id = |key: &Key| (key.0, key.1, key.2, key.3, key.4);
                    let known: BTreeSet<_> = other.messages.iter().map(id).collect();
                    one.messages.iter().filter(|key| known.contains(&id(key))).copied().collect()
                };
                let (here, there) = (both(one, other), both(other, one));
                if let Some(at) = (0..here.len()).find(|at| here.get(*at) != there.get(*at)) {
                    let (slots, odd) = ((one.slot, other.slot), (here[at], there.get(at)));
                    return Some(format!("{slots:?} were told otherwise in {view:?}, at {at}: {odd:?}"));
                }
            }
        }
    }
    None
}
