//! The thread of the probes, which is in SCHED_DEADLINE and so not under RLIMIT_RTTIME, gives that up by itself.
//!
//! Alone in its file: what it leaves behind is the process's.

mod common;
#[path = "common/policy.rs"]
mod policy;

use std::time::{Duration, Instant};

use ringbeatd::sys::realtime::{Breath, Share, enter_deadline, is_breathless, is_over_budget};

#[test]
fn who_never_sleeps_is_back_to_normal() {
    let ran_away = std::thread::spawn(|| {
        if let Err(error) = enter_deadline(Share::of_beats(1_000_000, 4)) {
            return common::skipped(error);
        }
        assert_eq!((is_breathless(), policy::policy().as_str()), (false, "6"), "SCHED_DEADLINE");
        let (mut breath, end) = (Breath::default(), Instant::now() + Duration::from_secs(20));
        while !is_breathless() && Instant::now() < end {
            breath.taken(false);
        }
        assert!(is_breathless() && is_over_budget(), "20 seconds without a pause were not noticed");
        assert_eq!(policy::policy(), "0", "SCHED_OTHER");
    });
    ran_away.join().expect("no assertion failed");
}
