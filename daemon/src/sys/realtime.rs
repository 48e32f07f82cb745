//! Real-time scheduling and locked memory, where the machine allows them, and the way back when they cost too much.
//!
//! A thread that runs away in SCHED_FIFO can take a whole core: RLIMIT_RTTIME sends SIGXCPU after a bounded time
//! without a pause, and the handler puts our threads back to normal scheduling. Status then says so.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The probe thread's priority: above the main loop, below the kernel's own threads that matter.
pub const PROBE_PRIORITY: i32 = 80;
/// The main loop's.
pub const LOOP_PRIORITY: i32 = 70;
/// CPU time without a pause after which real-time scheduling is given up, in µs.
const BUDGET_US: u64 = 200_000;
/// CPU time after which the kernel ends the process, in µs: the last line, should the handler not run.
const BUDGET_HARD_US: u64 = 5_000_000;
/// The most memory that is locked, in bytes.
const LOCKED_MAX: u64 = 64 << 20;
const THREADS_MAX: usize = 4;

static THREADS: [AtomicI32; THREADS_MAX] = [const { AtomicI32::new(0) }; THREADS_MAX];
static OVER_BUDGET: AtomicBool = AtomicBool::new(false);

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

/// Locks what the process uses now and will use, page by page as it is touched; gives the bound in bytes.
///
/// The bound is RLIMIT_MEMLOCK, raised to [`LOCKED_MAX`] where we may; with the right to lock without bound the
/// process's own size is the bound.
pub fn lock_memory() -> io::Result<u64> {
    let before = getrlimit(Resource::Memlock);
    let enough = before.current.is_none_or(|bytes| bytes >= LOCKED_MAX);
    if !enough {
        let maximum = before.maximum.map_or(Some(LOCKED_MAX), |bytes| Some(bytes.max(LOCKED_MAX)));
        // Refused without CAP_SYS_RESOURCE; what may be locked all the same shows below.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: Some(LOCKED_MAX), maximum });
    }
    // SAFETY: a plain system call.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } == 0 {
        Ok(LOCKED_MAX)
    } else {
        Err(io::Error::last_os_error())
    }
}
