//! What must hold in every history, a file for each.

mod company;
mod members;
mod once_in_order;
mod rising;

use crate::world::World;

/// The first that is broken.
pub(crate) fn broken(world: &World) -> Option<String> {
    rising::broken(world)
        .or_else(|| once_in_order::broken(world))
        .or_else(|| members::broken(world))
        .or_else(|| company::broken(world))
}
