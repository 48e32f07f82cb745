//! The clock that all stamps of the lab and of the kernel programs share, and the one that none of them may need.

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// Nanoseconds of the boot-time clock: it runs on through suspend and no namespace of the lab shifts it.
#[must_use]
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // The clock counts from boot, so neither part is negative.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// The machine's wall clock, put back when this is dropped.
pub(crate) struct WallClock {
    /// What it is ahead of the boot-time clock when it is right.
    ahead_ns: i128,
}

impl WallClock {
    /// As it is now, which is taken for right.
    pub(crate) fn new() -> Self {
        Self { ahead_ns: ns(clock_gettime(ClockId::Realtime)) - ns(clock_gettime(ClockId::Boottime)) }
    }

    /// Sets it to so much more than what is right.
    pub(crate) fn set(&self, more_ns: i128) -> rustix::io::Result<()> {
        let now_ns = ns(clock_gettime(ClockId::Boottime)) + self.ahead_ns + more_ns;
        let (seconds, rest) = (now_ns.div_euclid(1_000_000_000), now_ns.rem_euclid(1_000_000_000));
        let (Ok(tv_sec), Ok(tv_nsec)) = (seconds.try_into(), rest.try_into()) else {
            return Err(rustix::io::Errno::INVAL);
        };
        clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec })
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        if let Err(error) = self.set(0) {
            println!("the wall clock could not be put back: {error}");
        }
    }
}

fn ns(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}
