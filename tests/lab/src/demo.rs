//! The demo: three nodes, live links, faults and their timelines.

use anyhow::{Result, bail};

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {}

/// Shows the whole story once.
pub fn run(_args: &DemoArgs) -> Result<()> {
    bail!("the demo is not built yet")
}
