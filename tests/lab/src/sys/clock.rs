//! The clock that all stamps of the lab and of the kernel programs share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the boot-time clock: it runs on through suspend and no namespace of the lab shifts it.
#[must_use]
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // The clock counts from boot, so neither part is negative.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
