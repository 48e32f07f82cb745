//! Messages of a member come once, in its order and without holes, for as long as it is a member; all of its own come back.

use std::collections::BTreeMap;

use crate::log::Told;
use crate::world::World;

pub(crate) fn broken(world: &World) -> Option<String> {
    for log in &world.logs {
        // Of each member of each group: its life, and the next number.
        let mut next: BTreeMap<(usize, u8, u32), (u32, u32)> = BTreeMap::new();
        for told in &log.told {
            match told {
                Told::Members { group, members } => {
                    // A node without a program in the group is told nothing of it.
                    let is_here = members.iter().any(|one| one.slot == log.slot);
                    next.retain(|(of, slot, pid), _| {
                        let is_in = || members.iter().any(|one| (one.slot, one.pid) == (*slot, *pid));
                        of != group || (is_here && is_in())
                    });
                }
                Told::Message { group, from, life, counter, .. } => {
                    let key = (*group, from.slot, from.pid);
                    let (of, wanted) = next.get(&key).copied().unwrap_or((*life, *counter));
                    if of == *life && wanted != *counter {
                        return Some(format!(
                            "{} was told number {counter} of {from:?}, not {wanted}",
                            log.slot
                        ));
                    }
                    next.insert(key, (*life, counter + 1));
                }
                Told::Regular(_) | Told::Transitional(_) => {}
            }
        }
    }
    None
}
