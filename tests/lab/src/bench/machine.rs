//! The machine under the bench: kept warm, loaded on purpose, and watched, so that its own stalls are told from ours.

use std::{
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use ringbeatd::sys::realtime::{Share, enter_deadline};
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::{Timespec, clock_gettime};
use serde::Serialize;

use super::softirqs::Softirqs;
use crate::sys::{
    clock::boottime_ns,
    sched::{Policy, cores, pin_to, set_policy},
};

/// A core that stands still for so long has stalled.
const STALL_NS: u64 = 2_000_000;
/// How often the monitor looks.
const LOOK_NS: u64 = 500_000;
/// The monitor's share where it has no core of its own: the shortest period, so that it comes first.
const MONITOR_SHARE: Share = Share { runtime_ns: 20_000, period_ns: 200_000 };
/// The monitor's priority: above all that it watches.
const MONITOR_PRIORITY: i32 = 98;
const HOG_PRIORITY: i32 = 50;
/// Of the fields of /proc/stat (USER_HZ).
const TICKS_PER_S: f64 = 100.0;
/// Stalls that are told one by one.
const STALLS_SHOWN: usize = 20;

/// What stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    /// A core, or all of them: not even the highest priority ran.
    Core,
    /// Frames or timers that were due, put off by the kernel.
    Softirqs,
}

/// A while in which the machine did not do what was due.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Stall {
    /// When it ended, by the boot-time clock.
    pub(super) until_ns: u64,
    /// How long it was.
    pub(super) ms: f64,
    /// What stood still.
    pub(super) of: What,
    /// Where; none if it was all of them.
    pub(super) core: Option<usize>,
}

impl Stall {
    /// When it began.
    pub(super) const fn since_ns(&self) -> u64 {
        self.until_ns.saturating_sub((self.ms * 1e6) as u64)
    }
}

/// What is told of the machine beside each result.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MachineReport {
    cores: usize,
    warm: bool,
    busy_loops: usize,
    fifo_hogs: usize,
    loadavg: f64,
    steal_pct: f64,
    stalls: usize,
    stall_max_ms: f64,
    /// Softirqs that were put off for so long, where that is watched.
    softirq_stalls: Option<usize>,
    softirq_stall_max_ms: Option<f64>,
    /// The longest ones of both.
    longest: Vec<Stall>,
}

impl MachineReport {
    /// Over the last minute, at the end.
    pub(super) const fn load(&self) -> f64 {
        self.loadavg
    }

    /// Time that the host kept to itself.
    pub(super) const fn steal(&self) -> f64 {
        self.steal_pct
    }
}

/// Threads that work or watch until this is dropped.
pub(super) struct Machine {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    stalls: Arc<Mutex<Vec<Stall>>>,
    softirqs: Option<Softirqs>,
    before: Ticks,
    warm: bool,
    busy_loops: usize,
    fifo_hogs: usize,
}

impl Machine {
    /// Warms, loads and watches: `load` busy loops a core, `hogs` real-time ones.
    pub(super) fn start(warm: bool, load: usize, hogs: usize) -> Result<Self> {
        let mut machine = Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
            stalls: Arc::default(),
            softirqs: None,
            before: Ticks::read()?,
            warm,
            busy_loops: load * cores(),
            fifo_hogs: hogs,
        };
        for core in 0..cores() {
            if hogs == 0 {
                let stalls = Arc::clone(&machine.stalls);
                machine.spawn(move |stop| watch(Some(core), &stalls, stop));
            }
            if warm {
                machine.spawn(move |stop| spin(Some(core), Some(Policy::Idle), stop));
            }
        }
        if hogs > 0 {
            // Each core's own would stand still with the hogs, for 50 ms of each second, by the kernel's rule.
            let stalls = Arc::clone(&machine.stalls);
            machine.spawn(move |stop| watch(None, &stalls, stop));
        }
        for _ in 0..machine.busy_loops {
            machine.spawn(|stop| spin(None, None, stop));
        }
        for hog in 0..hogs {
            machine.spawn(move |stop| spin(Some(hog % cores()), Some(Policy::Fifo(HOG_PRIORITY)), stop));
        }
        Ok(machine)
    }

    fn spawn(&mut self, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || work(&stop)));
    }

    /// Watches softirqs, too. It costs a little of each.
    pub(super) fn watch_softirqs(&mut self) -> Result<()> {
        self.softirqs = Softirqs::start()?;
        Ok(())
    }

    /// Takes up what the watch over softirqs has seen; to be called now and then.
    pub(super) fn look(&self) {
        let seen = self.softirqs.as_ref().map(Softirqs::drain).unwrap_or_default();
        self.stalls.lock().unwrap_or_else(PoisonError::into_inner).extend(seen);
    }

    /// The stalls so far.
    pub(super) fn stalls(&self) -> Vec<Stall> {
        self.look();
        self.stalls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is told of the machine.
    pub(super) fn report(&self) -> Result<MachineReport> {
        let mut longest = self.stalls();
        longest.sort_by(|one, other| other.ms.total_cmp(&one.ms));
        let count = |what: What| {
            let mut of = longest.iter().filter(|stall| stall.of == what);
            let first = of.next();
            (first.map_or(0, |_| 1 + of.count()), first.map_or(0.0, |stall| stall.ms))
        };
        let (stalls, stall_max_ms) = count(What::Core);
        let softirqs = self.softirqs.as_ref().map(|_| count(What::Softirqs));
        longest.truncate(STALLS_SHOWN);
        Ok(MachineReport {
            cores: cores(),
            warm: self.warm,
            busy_loops: self.busy_loops,
            fifo_hogs: self.fifo_hogs,
            loadavg: loadavg()?,
            steal_pct: Ticks::read()?.since(self.before).steal_pct(),
            stalls,
            stall_max_ms,
            softirq_stalls: softirqs.map(|(stalls, _)| stalls),
            softirq_stall_max_ms: softirqs.map(|(_, longest)| longest),
            longest,
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A busy loop.
fn spin(core: Option<usize>, policy: Option<Policy>, stop: &AtomicBool) {
    if core.is_some_and(|core| pin_to(core).is_err())
        || policy.is_some_and(|policy| set_policy(policy).is_err())
    {
        eprintln!("a bench thread could not be scheduled as asked: {policy:?}");
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// Sleeps in short steps at the highest priority; waking late means that the core stood still, or, without one, that no
/// core ran it, though it is before all others (SCHED_DEADLINE).
fn watch(core: Option<usize>, stalls: &Mutex<Vec<Stall>>, stop: &AtomicBool) {
    let is_first = match core {
        Some(core) => pin_to(core).is_ok() && set_policy(Policy::Fifo(MONITOR_PRIORITY)).is_ok(),
        None => enter_deadline([MONITOR_SHARE].into_iter()).is_ok(),
    };
    if !is_first {
        eprintln!("the stall monitor has no real-time priority: its stalls are not the machine's alone");
    }
    let mut planned = monotonic_ns();
    while !stop.load(Ordering::Relaxed) {
        planned += LOOK_NS;
        let at = Timespec {
            tv_sec: (planned / 1_000_000_000).cast_signed(),
            tv_nsec: (planned % 1_000_000_000).cast_signed(),
        };
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &at);
        let late = monotonic_ns().saturating_sub(planned);
        if late > STALL_NS {
            let stall = Stall { until_ns: boottime_ns(), ms: late as f64 / 1e6, of: What::Core, core };
            stalls.lock().unwrap_or_else(PoisonError::into_inner).push(stall);
            planned += late;
        }
    }
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The load of the last minute.
pub(super) fn loadavg() -> Result<f64> {
    let loads = fs::read_to_string("/proc/loadavg")?;
    Ok(loads.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default())
}

/// The machine's CPU time. What a core did while it was not idle is sampled by its tick, and short work that keeps step with
/// that is seen always or never; since when it was idle the kernel measures (`get_cpu_idle_time_us`), where it stops the tick
/// of idle cores. So busy is all that was not idle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    /// By the clock, of all cores, in hundredths of a second.
    all: f64,
    idle: u64,
    steal: u64,
}

impl Ticks {
    /// Now.
    pub(super) fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or_default();
        let all = monotonic_ns() as f64 / 1e9 * TICKS_PER_S * cores() as f64;
        Ok(Self { all, idle: at(3) + at(4), steal: at(7) })
    }

    /// From then to this.
    pub(super) fn since(self, then: Self) -> Self {
        Self { all: self.all - then.all, idle: self.idle - then.idle, steal: self.steal - then.steal }
    }

    /// Of all, in percent.
    pub(super) fn steal_pct(self) -> f64 {
        if self.all > 0.0 { self.steal as f64 * 100.0 / self.all } else { 0.0 }
    }

    /// Busy time, in hundredths of one core; what was stolen is nobody's here.
    pub(super) fn busy_pct_of_core(self) -> f64 {
        if self.all <= 0.0 {
            return 0.0;
        }
        let busy = self.all - (self.idle + self.steal) as f64;
        busy.max(0.0) * 100.0 * cores() as f64 / self.all
    }
}

/// Sleeps a little, by a length that a counter varies, so that faults do not keep step with the beat.
pub(super) fn drift(run: usize) {
    // Steps of 137 µs over 4 ms: no multiple of any profile's interval.
    thread::sleep(Duration::from_micros(20_000 + (run as u64 * 137) % 4000));
}
