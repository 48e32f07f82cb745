//! What is told. All times are in the unit that their names end with; numbers that are not known are absent, not 0.

mod events;
mod link;
mod peers;
mod stats;
mod status;

pub use events::{EventRecord, Evidence, HandoverReport};
pub use link::{EdgeReport, EdgeState, LinkReport, LinkState, Mode, Quantiles};
pub use peers::{PeerLink, PeerReport};
pub use stats::{GateStats, LinkStats, Stats};
pub use status::{
    AddressReport, Bpf, DaemonState, LeaseReport, Realtime, RingReport, Status, ViewReport, Votes,
};

/// Names the variants of an enum as serde does in `snake_case`, for text.
macro_rules! named {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            /// The word for it, in JSON and in text.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.pad(self.name())
            }
        }

        #[cfg(test)]
        impl $type {
            /// All of them, for the test that JSON and text agree.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),+];
        }
    };
}
pub(crate) use named;

/// An incarnation as it is shown: the durable counter, then the salt in hexadecimal digits; `None` for no incarnation.
pub fn incarnation_text(incarnation: u64) -> Option<String> {
    (incarnation != 0).then(|| format!("{}-{:08x}", incarnation >> 32, incarnation & 0xffff_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_use_the_same_words() {
        fn check<T: Copy + serde::Serialize + std::fmt::Display>(all: &[T]) {
            for word in all {
                assert_eq!(serde_json::to_value(word).expect("JSON"), word.to_string());
            }
        }
        check(DaemonState::ALL);
        check(Mode::ALL);
        check(LinkState::ALL);
        check(EdgeState::ALL);
        assert_eq!(format!("{:>5}|", LinkState::Up), "   up|");
    }

    #[test]
    fn incarnations_are_shown_with_their_salt() {
        assert_eq!(incarnation_text(0), None);
        assert_eq!(incarnation_text(7 << 32 | 0xab), Some("7-000000ab".to_owned()));
    }

    #[test]
    fn fields_of_a_newer_daemon_are_passed_over() {
        let stats: Stats = serde_json::from_str(r#"{"ticks":4,"of_tomorrow":[1]}"#).expect("understood");
        assert_eq!(stats, Stats { ticks: 4, ..Stats::default() });
    }
}
