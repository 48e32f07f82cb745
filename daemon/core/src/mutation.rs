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
    /// A safe message is delivered as soon as it is there.
    SafeAtOnce,
    /// What the token says once counts as what all have.
    SafeOnce,
    /// What a node has said that it will deliver it forgets at the next change.
    ObligationForgotten,
    /// Behind what is missing everything is delivered.
    GapIgnored,
    /// A message that a change has interrupted goes on where it was.
    CutKept,
    /// A token that has been here is taken again.
    TokenTwice,
    /// A ring is installed as soon as nobody seems to have more.
    RingEarly,
    /// Nobody gives the others what they lack.
    NothingGiven,
    /// A packet of any ring is taken for one of this.
    AnyRing,
    /// Whether there is more to give is said only after giving.
    FlagLate,
    /// What another node tells of its processes is passed over.
    RollIgnored,
    /// Processes of nodes that are gone stay in their groups.
    GhostsKept,
    /// A ring that does not turn is left at that.
    RingKeptWhenLost,
}
