//! The boot-time clock, the one that stamps, deadlines and leases are in: it runs on through suspend, and nobody can
//! step it. A lab may give it another rate and another zero, once, before anything has read it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringbeat_common::clock;

use rustix::thread::{ClockId as SleepClock, clock_nanosleep_absolute};
use rustix::time::{ClockId, Timespec, clock_gettime};

static RATE: AtomicU64 = AtomicU64::new(0);
static OFFSET: AtomicU64 = AtomicU64::new(0);

/// Gives this process, and the programs that it loads from now on, a clock of their own: see
/// [`ringbeat_common::clock`]. For the lab's daemon, which calls it before everything else.
pub fn skew(rate: u64, offset_ns: u64) {
    RATE.store(rate, Ordering::Relaxed);
    OFFSET.store(offset_ns, Ordering::Relaxed);
}

/// Rate and offset; both 0 in what ships.
pub fn skewed_by() -> (u64, u64) {
    (RATE.load(Ordering::Relaxed), OFFSET.load(Ordering::Relaxed))
}

/// Now, in ns since boot.
pub fn boot_ns() -> u64 {
    let (rate, offset_ns) = skewed_by();
    clock::skewed(ns(clock_gettime(ClockId::Boottime)), rate, offset_ns)
}

/// Now by the wall clock, in ns since 1970; for people to read, never to decide by.
pub fn wall_ns() -> u64 {
    ns(clock_gettime(ClockId::Realtime))
}

/// Sleeps until a point of the boot-time clock; a signal ends it early.
pub fn sleep_until(at_ns: u64) {
    // Boot time and monotonic time run alike but for suspend, and only the latter is a clock to sleep by everywhere.
    let monotonic = ns(clock_gettime(ClockId::Monotonic));
    let at = monotonic + at_ns.saturating_sub(boot_ns());
    let _ = clock_nanosleep_absolute(SleepClock::Monotonic, &timespec(at));
}

/// The duration until a point of the boot-time clock.
pub fn until(at_ns: u64) -> Duration {
    Duration::from_nanos(at_ns.saturating_sub(boot_ns()))
}

fn ns(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A length of time as system calls take it.
pub fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / 1_000_000_000).cast_signed(), tv_nsec: (ns % 1_000_000_000).cast_signed() }
}
