//! Single clauses that the simulation takes out of the machines, to see that its invariants notice.
//!
//! Deliberately not a cargo feature: the machines under test are then the very code that ships. Nobody else builds
//! one with anything but [`Mutation::None`].

/// The clause that is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutation {
    /// None: as it ships.
    #[default]
    None,
    /// One late link is a peer down, whatever the other links hear.
    OneLateIsDown,
    /// Own links never count as down.
    OwnLinkIgnored,
    /// A peer that is down is told down again.
    DownAgain,
    /// "Gone" is not heard.
    GoneIgnored,
    /// A link that comes back counts at once.
    DampingSkipped,
    /// A damped link never counts again.
    DampingForever,
    /// A stalled daemon never fails.
    StallForever,
    /// A Hello alone is believed.
    HelloBelieved,
    /// A nonce is used again after a success.
    NonceKept,
    /// An incarnation is accepted over and over.
    AcceptRepeated,
    /// A Hello is not repeated.
    HelloOnce,
    /// Nobody looks for a second machine with the own slot.
    OwnSlotIgnored,
    /// A machine that knows itself to be a duplicate no longer answers the other.
    DuplicateMute,
    /// A view is installed before all members have announced it.
    InstallEarly,
    /// Any announced view is announced, whatever the own choice is.
    FollowAnything,
    /// A superseded incarnation is accepted again.
    SupersededBelieved,
}
