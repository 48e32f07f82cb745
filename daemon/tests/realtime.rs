//! A real-time thread that runs away loses its priority before it takes the core for long.
//!
//! Alone in its file: the budget is the process's.

mod common;
#[path = "common/policy.rs"]
mod policy;

use std::time::{Duration, Instant};

use ringbeatd::sys::realtime::{enter, is_over_budget, set_budget};

#[test]
fn over_budget_is_back_to_normal() {
    set_budget().expect("a budget");
    let ran_away = std::thread::spawn(|| {
        if let Err(error) = enter(1) {
            return common::skipped(error);
        }
        assert_eq!((is_over_budget(), policy::policy().as_str()), (false, "1"), "SCHED_FIFO");
        let end = Instant::now() + Duration::from_secs(4);
        while !is_over_budget() && Instant::now() < end {
            std::hint::spin_loop();
        }
        assert!(is_over_budget(), "four seconds without a pause were not noticed");
        assert_eq!(policy::policy(), "0", "SCHED_OTHER again");
    });
    ran_away.join().expect("no assertion failed");
}
