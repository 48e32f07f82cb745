//! Benches in the lab: how fast faults are told, how calm the cluster is without any, what the datapath costs.
//!
//! Each prints its result once, with the machine's load, stolen time and stalls beside it: an outlier has a name.
//! Deliberately not here: any judgement. The figures to reach stand in docs/benchmarks.md.

pub(crate) mod calm;
mod datapath;
mod detect;
pub(crate) mod failover;
mod machine;
pub(crate) mod prober;
mod ring;
mod softirqs;
pub(crate) mod watch;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
    /// How the result is written
    #[arg(short, long, global = true, value_enum, default_value = "text")]
    output: Format,
    /// Let idle cores sleep: without this, one SCHED_IDLE spinner a core keeps them awake
    #[arg(long, global = true)]
    cold: bool,
    /// Busy loops for each core
    #[arg(long, global = true, default_value_t = 0)]
    load: usize,
    /// SCHED_FIFO busy loops at priority 50
    #[arg(long, global = true, default_value_t = 0)]
    hogs: usize,
    /// The links' profile
    #[arg(long, global = true, default_value = "fast")]
    profile: String,
    /// The lab's name
    #[arg(long, global = true, default_value = "bench")]
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON value
    Json,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// From a fault to the kernel's verdict and to the daemon's event, on the slowest survivor
    Detect {
        /// What happens to n2
        #[arg(long, value_enum)]
        scenario: detect::Scenario,
        /// How often
        #[arg(long, default_value_t = 300)]
        runs: usize,
    },
    /// From a fault of the holder of an address to the first answer of another node, and whether two ever answered
    Failover {
        /// What happens to the holder
        #[arg(long, value_enum)]
        scenario: failover::Scenario,
        /// How often
        #[arg(long, default_value_t = 300)]
        runs: usize,
        /// Give the nodes clocks that run 10 % slow and 10 % fast
        #[arg(long)]
        skew: bool,
    },
    /// No fault at all: what is told all the same
    Calm {
        /// For how long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// The ordered ring: throughput, round trips, what encryption costs, and its changes
    Ring {
        /// How long each throughput is measured, and a third of it each round trip
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Kills and returns
        #[arg(long, default_value_t = 300)]
        runs: usize,
        /// Cuts of one link of two
        #[arg(long, default_value_t = 50)]
        cuts: usize,
    },
    /// Nanoseconds for each packet, CPU and memory at rest
    Datapath {
        /// For how long the machine is watched at rest, for each profile
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
}

/// Runs one bench.
pub fn run(args: &BenchArgs) -> Result<()> {
    match &args.bench {
        Bench::Detect { scenario, runs } => print(args, &detect::run(args, *scenario, *runs)?),
        Bench::Failover { scenario, runs, skew } => {
            print(args, &failover::run(args, *scenario, *runs, *skew)?)
        }
        Bench::Calm { seconds } => print(args, &calm::run(args, *seconds)?),
        Bench::Ring { seconds, runs, cuts } => print(args, &ring::run(args, *seconds, *runs, *cuts)?),
        Bench::Datapath { seconds } => print(args, &datapath::run(args, *seconds)?),
    }
}

fn print<T: Serialize>(args: &BenchArgs, result: &T) -> Result<()> {
    let text = match args.output {
        Format::Json => serde_json::to_string(result)?,
        Format::Text => serde_json::to_string_pretty(result)?,
    };
    println!("{text}");
    Ok(())
}

/// Three quantiles of a set of samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    p99: f64,
    max: f64,
}

impl Quantiles {
    /// Exact ones, by nearest rank; zeros of no samples.
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let rank = |permille: usize| {
            let at = (samples.len() * permille).div_ceil(1000).max(1) - 1;
            samples.get(at).copied().unwrap_or_default()
        };
        Self { p50: rank(500), p99: rank(990), max: rank(1000) }
    }
}

#[cfg(test)]
mod tests {
    use super::Quantiles;

    #[test]
    fn quantiles_are_ranks() {
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
        let samples = (1..=300).rev().map(f64::from).collect();
        assert_eq!(Quantiles::of(samples), Quantiles { p50: 150.0, p99: 297.0, max: 300.0 });
    }
}
