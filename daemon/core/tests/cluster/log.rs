//! What nodes are told, as the invariants look at it.

use ringbeat_common::view::View;
use ringbeat_core::cpg::Member;

/// What a node's programs were told, and what they said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The ring has a view.
    Regular(View),
    /// It goes on with these.
    Transitional(u64),
    /// Members of a group.
    Members { group: usize, members: Vec<Member> },
    /// A message: whose, in which life, which; and who is in the group then, as a sum.
    Message { group: usize, from: Member, life: u32, counter: u32, among: u64 },
}

/// All that one life of a node was told.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) slot: u8,
    pub(crate) told: Vec<Told>,
    pub(crate) has_died: bool,
}

impl Log {
    pub(crate) fn messages(&self) -> u64 {
        self.told.iter().filter(|told| matches!(told, Told::Message { .. })).count() as u64
    }

    pub(crate) fn changes(&self) -> u64 {
        self.told.iter().filter(|told| matches!(told, Told::Members { .. })).count() as u64
    }
}
