//! Why a frame was dropped: the error of every check, and the index of its counter.

/// Counters kept for each link.
pub const DROPS_MAX: usize = 16;

/// Reasons, by their counters. Only frames that begin with the magic, on a link's port, get this far; everything else
/// passes untouched and is not counted. The wrong link is seen first, then whether the frame is for this node at all;
/// the rest stands in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Drop {
    /// The least version that understands the frame is above ours.
    Version = 0,
    /// Kind, slot or link is no valid number.
    Malformed = 1,
    /// Of another cluster.
    Foreign = 2,
    /// It names another link than the one that it arrived on.
    WrongLink = 3,
    /// No such key in force.
    UnknownKey = 4,
    /// The tag does not fit.
    Forged = 5,
    /// It bears this node's own slot.
    SelfSent = 6,
    /// This node takes no part: its daemon has not opened the plane.
    Closed = 7,
    /// The sender's incarnation has not been agreed on by a handshake.
    Incarnation = 8,
    /// It speaks to another incarnation of this node.
    TargetIncarnation = 9,
    /// Its sequence number is not above the last one.
    Replayed = 10,
    /// It carries a stamp of ours that lies in our future.
    FutureStamp = 11,
}

impl Drop {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 12] = [
        Self::Version,
        Self::Malformed,
        Self::Foreign,
        Self::WrongLink,
        Self::UnknownKey,
        Self::Forged,
        Self::SelfSent,
        Self::Closed,
        Self::Incarnation,
        Self::TargetIncarnation,
        Self::Replayed,
        Self::FutureStamp,
    ];

    /// The name under which the commands show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Malformed => "malformed",
            Self::Foreign => "foreign",
            Self::WrongLink => "wrong_link",
            Self::UnknownKey => "unknown_key",
            Self::Forged => "forged",
            Self::SelfSent => "self_sent",
            Self::Closed => "closed",
            Self::Incarnation => "incarnation",
            Self::TargetIncarnation => "target_incarnation",
            Self::Replayed => "replayed",
            Self::FutureStamp => "future_stamp",
        }
    }
}

const _: () = assert!(Drop::ALL.len() <= DROPS_MAX);

#[cfg(test)]
mod tests {
    use super::Drop;

    #[test]
    fn counters_stand_in_the_order_of_the_list() {
        for (index, reason) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.name());
        }
    }
}
