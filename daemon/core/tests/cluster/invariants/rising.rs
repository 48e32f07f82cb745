//! Ring sequence numbers only rise, over restarts too, and one of them has one set of members for everybody.

use std::collections::BTreeMap;

use crate::log::Told;
use crate::world::World;

pub(crate) fn broken(world: &World) -> Option<String> {
    let (mut members, mut last) = (BTreeMap::new(), BTreeMap::new());
    for log in &world.logs {
        for told in &log.told {
            let Told::Regular(view) = told else { continue };
            let id = (view.epoch, view.proposer());
            if *members.entry(id).or_insert(view.members) != view.members {
                return Some(format!("{} is in {id:?} with others than somebody else", log.slot));
            }
            if last.insert(log.slot, id).is_some_and(|before| before >= id) {
                return Some(format!("{} is in {id:?} after a later one", log.slot));
            }
        }
    }
    None
}
