//! `cargo xtask sim`: histories of whole clusters and of rings, one for each seed, until one goes wrong.
//!
//! Deliberately not here: the simulators. They are tests of `ringbeat-core`, and read what is wanted from the environment.

use anyhow::{Result, ensure};

use crate::process::{self, Workspace};

/// Arguments of `sim`.
#[derive(Debug, clap::Args)]
pub(crate) struct SimArgs {
    /// Which seeds, as in 0..3000
    #[arg(long, default_value = "0..3000", value_parser = range)]
    seeds: String,
    /// End after so many minutes for each simulator, whatever seeds are left
    #[arg(long)]
    minutes: Option<u64>,
    /// So many nodes in each cluster, 2 to 64, instead of what the seed says
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=64))]
    nodes: Option<u64>,
    /// This seed alone, with its trace
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// Measure how clusters come together as they grow, and draw docs/scale.svg
    #[arg(long, conflicts_with_all = ["seed", "seeds", "minutes", "nodes", "only"])]
    scale: bool,
    /// Only this simulator
    #[arg(long, value_enum)]
    only: Option<Simulator>,
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Simulator {
    /// Views, ring and process groups as they stand on one another
    Cluster,
    /// The ring in views as an adversary likes them
    Ring,
}

impl Simulator {
    const fn test(self) -> [&'static str; 2] {
        match self {
            Self::Cluster => ["cluster", "clusters_keep_their_promises"],
            Self::Ring => ["ring", "the_promises_are_kept"],
        }
    }
}

fn range(text: &str) -> Result<String> {
    let numbers: Option<Vec<u64>> = text
        .split_once("..")
        .map(|(from, to)| [from, to].map(str::parse))
        .and_then(|both| both.into_iter().collect::<Result<_, _>>().ok());
    ensure!(numbers.is_some_and(|both| both[0] < both[1]), "two numbers, as in 0..3000, the lower one first");
    Ok(text.to_owned())
}

/// Runs them; false if one found something.
pub(crate) fn run(workspace: &Workspace, args: &SimArgs) -> Result<bool> {
    if args.scale {
        let mut command = workspace.cargo();
        command.args([
            "test",
            "--locked",
            "--release",
            "-p",
            "ringbeat-core",
            "--test",
            "cluster",
            "--",
            "scale",
            "--nocapture",
        ]);
        return process::shown(command.env("RINGBEAT_SCALE", workspace.root().join("docs/scale.svg")));
    }
    let mut all_well = true;
    for simulator in [Simulator::Cluster, Simulator::Ring] {
        if args.only.is_some_and(|only| only != simulator) {
            continue;
        }
        let [target, test] = simulator.test();
        let mut command = workspace.cargo();
        command.args(["test", "--locked", "--release", "-p", "ringbeat-core", "--test", target, "--"]);
        command.args([test, "--exact", "--nocapture"]).env("RINGBEAT_SEEDS", &args.seeds);
        let knobs = [
            ("RINGBEAT_MINUTES", args.minutes),
            ("RINGBEAT_NODES", args.nodes),
            ("RINGBEAT_SEED", args.seed),
        ];
        for (name, value) in knobs {
            if let Some(value) = value {
                command.env(name, value.to_string());
            }
        }
        all_well &= process::shown(&mut command)?;
    }
    Ok(all_well)
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn seeds_are_a_range() {
        assert!(range("0..3000").is_ok() && range("7..8").is_ok());
        for wrong in ["7", "8..7", "7..7", "a..b", "..", "0..-1"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
