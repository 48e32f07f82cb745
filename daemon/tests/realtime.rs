//! A real-time thread that runs away loses its priority before it takes the core for long.
//!
//! Alone in its file: the budget is the process's.

mod common;

use std::time::{Duration, Instant};

use ringbeatd::sys::realtime::{enter, is_over_budget, set_budget};

#[test]
fn over_budget_is_back_to_normal() {
    set_budget().expect("a budget");
    let ran_away = std::thread::spawn(|| {
        if let Err(error) = enter(1) {
            return common::skipped(error);
        }
        assert!(!is_over_budget());
        let end = Instant::now() + Duration::from_secs(4);
        while !is_over_budget() && Instant::now() < end {
            std::hint::spin_loop();
        }
        assert!(is_over_budget(), "four seconds without a pause were not noticed");
        let status = std::fs::read_to_string("/proc/thread-self/sched").unwrap_or_default();
        let policy = status.lines().find(|line| line.starts_with("policy")).map(str::to_owned);
        assert!(policy.is_none_or(|line| line.ends_with(" 0")), "the policy is SCHED_OTHER again");
    });
    ran_away.join().expect("no assertion failed");
}
