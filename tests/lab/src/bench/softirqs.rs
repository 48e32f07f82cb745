//! The watch over softirqs: what the kernel put off, and for how long.
//!
//! Deliberately not here: why it was put off. On a machine with real-time threads it is mostly they who keep
//! `ksoftirqd` from its core.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
    programs::RawTracePoint,
};

use super::machine::{Stall, What};

/// The programs and the tracepoints they stand at.
const PROGRAMS: [(&str, &str); 2] = [("due", "softirq_raise"), ("begins", "softirq_entry")];
/// The map of stalls.
const STALLS: &str = "STALLS";
/// Words of a record: since when, until when, on which core, which softirq.
const WORDS: usize = 4;

/// Watches until it is dropped.
pub(super) struct Softirqs {
    ring: Mutex<RingBuf<MapData>>,
    /// Keeps the programs in place.
    _loaded: Ebpf,
}

impl Softirqs {
    /// Starts; none in a build without kernel programs.
    pub(super) fn start() -> Result<Option<Self>> {
        let Some(object) = ringbeat_ebpf_object::LAB_SOFTIRQS else { return Ok(None) };
        let mut loaded = Ebpf::load(object).context("cannot load the watch over softirqs")?;
        for (name, tracepoint) in PROGRAMS {
            let program = loaded.program_mut(name).with_context(|| format!("no program `{name}`"))?;
            let program: &mut RawTracePoint = program.try_into()?;
            program.load().with_context(|| format!("the kernel refuses `{name}`"))?;
            program.attach(tracepoint).with_context(|| format!("cannot attach to {tracepoint}"))?;
        }
        let ring = loaded.take_map(STALLS).context("no map of stalls")?;
        Ok(Some(Self { ring: Mutex::new(RingBuf::try_from(ring)?), _loaded: loaded }))
    }

    /// What has been put off since the last call.
    pub(super) fn drain(&self) -> Vec<Stall> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stalls = Vec::new();
        while let Some(record) = ring.next() {
            stalls.extend(stall(&record));
        }
        stalls
    }
}

fn stall(record: &[u8]) -> Option<Stall> {
    let (words, _) = record.as_chunks::<8>();
    let words: [u64; WORDS] =
        words.iter().map(|word| u64::from_ne_bytes(*word)).collect::<Vec<_>>().try_into().ok()?;
    let [since_ns, until_ns, core, _which] = words;
    let ms = until_ns.saturating_sub(since_ns) as f64 / 1e6;
    Some(Stall { until_ns, ms, of: What::Softirqs, core: usize::try_from(core).ok() })
}
