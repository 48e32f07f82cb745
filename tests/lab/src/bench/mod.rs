//! Benches in the lab: detection, calm, datapath.

use anyhow::{Result, bail};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {}

/// Runs one bench.
pub fn run(_args: &BenchArgs) -> Result<()> {
    bail!("the benches are not built yet")
}
