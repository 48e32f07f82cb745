//! Real-time scheduling and locked memory, where the machine allows them, and the way back when they cost too much.
//!
//! The probe thread is in SCHED_DEADLINE where it may: the kernel gives it its share of each period before all others
//! (sched(7)). In SCHED_FIFO it would stand still for 50 ms of each second beside other real-time threads that take a
//! whole core, because the kernel then takes the core from all of them for the sake of normal threads, and a lease of
//! 20 ms does not outlast that.
//!
//! A thread that runs away in SCHED_FIFO can take a whole core: RLIMIT_RTTIME sends SIGXCPU after a bounded time
//! without a pause, and the handler puts our threads back to normal scheduling. Status then says so. SCHED_DEADLINE knows
//! no such limit, and a share that nobody else wants may be exceeded (SCHED_FLAG_RECLAIM): the probe thread looks for itself
//! whether it still finds time to sleep ([`Breath`]).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use rustix::time::{ClockId, clock_gettime};

/// The probe thread's priority: above the main loop, below the kernel's own threads that matter.
pub const PROBE_PRIORITY: i32 = 80;
/// CPU time that a probe takes its sender, in ns: as measured over veth, where the sending thread runs the other end's
/// programs, too.
const PROBE_NS: u64 = 17_000;
/// The shortest period that the kernel takes by default (kernel.sched_deadline_period_min_us), in ns.
const SHARE_PERIOD_MIN_NS: u64 = 100_000;
/// Longer ones would only come later where others have shares, too, in ns.
const SHARE_PERIOD_MAX_NS: u64 = 2_500_000;
/// The main loop's.
pub const LOOP_PRIORITY: i32 = 70;
/// The ring's thread: below the main loop, which it has to obey.
pub const RING_PRIORITY: i32 = 60;
/// CPU time without a pause after which real-time scheduling is given up, in µs.
const BUDGET_US: u64 = 200_000;
/// CPU time after which the kernel ends the process, in µs: the last line, should the handler not run.
const BUDGET_HARD_US: u64 = 5_000_000;
/// The most memory that is locked, in bytes.
pub const LOCKED_MAX: u64 = 64 << 20;
const THREADS_MAX: usize = 4;

static THREADS: [AtomicI32; THREADS_MAX] = [const { AtomicI32::new(0) }; THREADS_MAX];
static OVER_BUDGET: AtomicBool = AtomicBool::new(false);
static BREATHLESS: AtomicBool = AtomicBool::new(false);
static LOCKED: AtomicBool = AtomicBool::new(false);

/// What SCHED_DEADLINE gives a thread: so much CPU time, before others, in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// CPU time, in ns.
    pub runtime_ns: u64,
    /// Of so many ns.
    pub period_ns: u64,
}

impl Share {
    /// The shares that would do for a thread that wakes up each `interval_ns` and then sends so many probes, the one that
    /// leaves room first; none where half a core is not enough for it.
    ///
    /// The period is half the interval, so it is over at the next waking, which starts with the whole share then, unless
    /// this one was late by more than that.
    pub fn of_beats(interval_ns: u64, probes: usize) -> impl Iterator<Item = Self> {
        let period_ns = (interval_ns / 2).clamp(SHARE_PERIOD_MIN_NS, SHARE_PERIOD_MAX_NS);
        let need_ns = PROBE_NS.saturating_mul(probes as u64 + 1);
        let runtime_ns = (need_ns / 2 * 3).clamp(period_ns / 8, period_ns / 2);
        let shares = [runtime_ns, runtime_ns / 2].map(|runtime_ns| Self { runtime_ns, period_ns });
        // Less than what it needs would throttle it in each beat, where SCHED_FIFO would not.
        shares.into_iter().filter(move |share| interval_ns / share.period_ns * share.runtime_ns >= need_ns)
    }
}

/// Puts the calling thread into SCHED_DEADLINE, with the first of these shares that the cores have not promised to others.
/// Gives that.
pub fn enter_deadline(shares: impl Iterator<Item = Share>) -> io::Result<Share> {
    let mut refused = io::Error::other("half a core would not be enough for so many probes");
    for share in shares {
        match schedule_deadline(share) {
            Ok(()) => return Ok(share),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn schedule_deadline(share: Share) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_DEADLINE as u32,
        // What others have left of their shares is lent.
        sched_flags: (libc::SCHED_FLAG_RESET_ON_FORK | libc::SCHED_FLAG_RECLAIM) as u64,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: share.runtime_ns,
        sched_deadline: share.period_ns,
        sched_period: share.period_ns,
    };
    // SAFETY: a plain system call on a valid struct that tells its own size; 0 is the calling thread.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts the calling thread into SCHED_FIFO.
pub fn enter(priority: i32) -> io::Result<()> {
    schedule(0, libc::SCHED_FIFO, priority)?;
    let tid = rustix::thread::gettid().as_raw_nonzero().get();
    for place in &THREADS {
        if place.compare_exchange(0, tid, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            break;
        }
    }
    Ok(())
}

/// Bounds what real-time threads may use, and prepares the way back.
pub fn set_budget() -> io::Result<()> {
    setrlimit(Resource::Rttime, Rlimit { current: Some(BUDGET_US), maximum: Some(BUDGET_HARD_US) })?;
    // SAFETY: the handler calls nothing but system calls and atomics, which are async-signal-safe.
    let before = unsafe { libc::signal(libc::SIGXCPU, give_up as *const () as libc::sighandler_t) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether real-time scheduling was given up.
pub fn is_over_budget() -> bool {
    OVER_BUDGET.load(Ordering::Acquire)
}

/// Whether a thread still sleeps now and then.
#[derive(Debug, Default)]
pub struct Breath {
    /// The thread's CPU time when it first found no time to sleep, in ns.
    held_since_ns: Option<u64>,
}

impl Breath {
    /// To be called in each round. A thread that has not slept for the time of the budget is put back to normal scheduling,
    /// whatever has become of the others.
    pub fn taken(&mut self, has_slept: bool) {
        if has_slept {
            self.held_since_ns = None;
            return;
        }
        let used_ns = thread_cpu_ns();
        if used_ns > *self.held_since_ns.get_or_insert(used_ns) + BUDGET_US * 1000 {
            self.held_since_ns = None;
            BREATHLESS.store(true, Ordering::Release);
            OVER_BUDGET.store(true, Ordering::Release);
            let _ = schedule(0, libc::SCHED_OTHER, 0);
        }
    }
}

/// A real-time thread that is one only while it is light: what is urgent is short, and who carries bulk leaves the cores to
/// those for whom it is.
#[derive(Debug)]
pub struct Courtesy {
    /// None where real-time scheduling is not wanted, or not to be had.
    priority: Option<i32>,
    is_real: bool,
    since_ns: u64,
    used_ns: u64,
}

/// Between two looks, in ns.
const COURTESY_NS: u64 = 10_000_000;

impl Courtesy {
    /// For a thread that starts in real-time scheduling of this priority.
    pub const fn new(priority: Option<i32>) -> Self {
        Self { priority, is_real: priority.is_some(), since_ns: 0, used_ns: 0 }
    }

    /// To be called in each round. Above half of a core it goes to normal scheduling, below a quarter it comes back.
    pub fn look(&mut self, now_ns: u64) {
        let Some(priority) = self.priority else { return };
        let passed_ns = now_ns.saturating_sub(self.since_ns);
        if passed_ns < COURTESY_NS {
            return;
        }
        let used_ns = thread_cpu_ns();
        let share_pct = (used_ns - self.used_ns) * 100 / passed_ns;
        (self.since_ns, self.used_ns) = (now_ns, used_ns);
        if is_over_budget() {
            // Whoever found that may have put back itself alone.
            let _ = schedule(0, libc::SCHED_OTHER, 0);
            self.priority = None;
        } else if self.is_real && share_pct > 50 {
            self.is_real = schedule(0, libc::SCHED_OTHER, 0).is_err();
        } else if !self.is_real && share_pct < 25 {
            self.is_real = schedule(0, libc::SCHED_FIFO, priority).is_ok();
        }
    }
}

/// Whether a [`Breath`] has ended real-time scheduling: that of the thread of the probes.
pub fn is_breathless() -> bool {
    BREATHLESS.load(Ordering::Acquire)
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

extern "C" fn give_up(_signal: i32) {
    OVER_BUDGET.store(true, Ordering::Release);
    for place in &THREADS {
        let tid = place.load(Ordering::Acquire);
        if tid != 0 {
            let _ = schedule(tid, libc::SCHED_OTHER, 0);
        }
    }
}

fn schedule(tid: i32, policy: i32, priority: i32) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: a plain system call on a valid struct.
    if unsafe { libc::sched_setscheduler(tid, policy | libc::SCHED_RESET_ON_FORK, &param) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets all threads allocate from one heap where RLIMIT_MEMLOCK counts, to be called before there is a second thread: each
/// would else reserve 64 MiB of its own, and what is reserved is counted, touched or not.
///
/// With the right to lock without bound each keeps its own: a real-time thread must not wait for the lock of a heap that a
/// starved one holds.
pub fn prepare_heaps() {
    if !may_lock_all() {
        // SAFETY: no memory is passed.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

fn may_lock_all() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

/// Locks what the process uses now and will use, page by page as it is touched.
///
/// Bounded by [`LOCKED_MAX`]: through RLIMIT_MEMLOCK, or, with the right to lock without bound, through
/// [`unlock_if_over`]. With a lower limit nothing is locked at all: a later thread could not get its stack.
pub fn lock_memory() -> io::Result<()> {
    let before = getrlimit(Resource::Memlock);
    if before.current.is_some_and(|bytes| bytes < LOCKED_MAX) {
        let maximum = before.maximum.map_or(Some(LOCKED_MAX), |bytes| Some(bytes.max(LOCKED_MAX)));
        // Refused without CAP_SYS_RESOURCE; the right to lock without bound does as well.
        let raised = setrlimit(Resource::Memlock, Rlimit { current: Some(LOCKED_MAX), maximum });
        if raised.is_err() && !may_lock_all() {
            let have = before.current.unwrap_or_default() >> 10;
            let need = LOCKED_MAX >> 10;
            return Err(io::Error::other(format!(
                "RLIMIT_MEMLOCK is {have} KiB; {need} KiB or CAP_IPC_LOCK are needed"
            )));
        }
    }
    // SAFETY: a plain system call.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } == 0 {
        LOCKED.store(true, Ordering::Release);
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Unlocks all again if more than the bound is locked, that is, resident: what is only reserved costs nobody anything.
/// True when it did. To be called now and then.
pub fn unlock_if_over() -> bool {
    if !LOCKED.load(Ordering::Acquire) || super::resident::resident_kib() << 10 <= LOCKED_MAX {
        return false;
    }
    // SAFETY: a plain system call.
    unsafe { libc::munlockall() };
    LOCKED.store(false, Ordering::Release);
    true
}

#[cfg(test)]
mod tests {
    use super::Share;

    /// The shares in µs, for an interval in µs.
    fn shares(interval_us: u64, probes: usize) -> Vec<(u64, u64)> {
        let us = |share: Share| (share.runtime_ns / 1000, share.period_ns / 1000);
        Share::of_beats(interval_us * 1000, probes).map(us).collect()
    }

    #[test]
    fn a_share_is_enough_for_its_probes_or_there_is_none() {
        assert_eq!(shares(1000, 4), [(127, 500), (63, 500)], "three nodes, two links: 85 of 1000 are needed");
        assert_eq!(shares(5000, 4), [(312, 2500), (156, 2500)]);
        assert_eq!(shares(100_000, 4), [(312, 2500), (156, 2500)], "the period is bounded");
        assert_eq!(shares(250, 4), [(62, 125)], "half of it would be too little");
        assert_eq!(shares(1000, 40), [], "and so would half a core");
        assert_eq!(shares(5000, 63), [(1250, 2500), (625, 2500)]);
        assert_eq!(shares(10, 0), [], "no period is shorter than the kernel takes");
    }

    #[test]
    fn who_never_sleeps_gives_up_real_time() {
        let mut breath = super::Breath::default();
        let start_ns = super::thread_cpu_ns();
        breath.taken(true);
        breath.taken(false);
        assert!(!super::is_breathless());
        // That others have given up is no reason to go on.
        super::OVER_BUDGET.store(true, super::Ordering::Release);
        while super::thread_cpu_ns() < start_ns + super::BUDGET_US * 1000 + 1_000_000 {
            std::hint::spin_loop();
        }
        breath.taken(false);
        assert!(super::is_breathless() && super::is_over_budget());
    }
}
