//! What the process holds in memory.

use std::fs;

/// The resident set, in KiB; 0 where /proc is not there.
pub fn resident_kib() -> u64 {
    field("VmRSS:")
}

fn field(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
