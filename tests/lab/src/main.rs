//! `ringbeat-lab`: the lab, and what is done with it: demo, bench and the end-to-end tests.

mod cli;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum, error::ErrorKind};

/// Real nodes on one machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build nodes, do things to them, end them
    Lab(cli::LabArgs),
    /// Show three nodes that watch each other, and faults that are found
    Demo(ringbeat_lab::demo::DemoArgs),
    /// Measure
    Bench(ringbeat_lab::bench::BenchArgs),
    /// Run the end-to-end tests
    E2e(ringbeat_lab::e2e::E2eArgs),
    /// Process 1 of a node
    #[command(hide = true)]
    NodeInit { name: String, home: PathBuf },
    /// Starts a daemon inside a node
    #[command(hide = true)]
    NodeStart {
        #[arg(last = true)]
        line: Vec<String>,
    },
    /// Says whether a line after this would be understood, and does nothing else
    #[command(hide = true)]
    Parse {
        #[arg(last = true)]
        line: Vec<String>,
    },
    /// One end-to-end test in a process of its own
    #[command(hide = true)]
    E2eRun { test: String, lab: String },
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people, and for grep
    Text,
    /// One JSON value
    Json,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Lab(args) => cli::run(args),
        Command::Demo(args) => ringbeat_lab::demo::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => ringbeat_lab::bench::run(&args).map(|()| ExitCode::SUCCESS),
        Command::E2e(args) => ringbeat_lab::e2e::run(&args),
        Command::NodeInit { name, home } => ringbeat_lab::init_main(&name, &home).map(|()| ExitCode::FAILURE),
        Command::NodeStart { line } => ringbeat_lab::start_main(&line).map(|()| ExitCode::SUCCESS),
        Command::Parse { line } => Ok(parse(&line)),
        Command::E2eRun { test, lab } => Ok(ringbeat_lab::e2e::run_one(&test, &lab)),
    }
}

/// For the test of the documents: a line is good if it is understood, or asks for the help, or names a verb whose help
/// is all that comes of it.
fn parse(line: &[String]) -> ExitCode {
    let program = "ringbeat-lab".to_owned();
    match Cli::try_parse_from(std::iter::once(&program).chain(line)) {
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ExitCode::SUCCESS
        }
        Err(error) if error.use_stderr() => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_line_with_a_slip_is_not_understood() {
        let good = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            parse(&words) == ExitCode::SUCCESS
        };
        assert!(good("lab exec n1 -- ringbeat status") && good("bench calm --seconds 600 --load 2 -o json"));
        assert!(
            good("bench")
                && good("lab --help")
                && good("lab -o json exec n1 -- true")
                && good("lab exec n1 -o json -- ip -o addr")
                && good("e2e --repeat 20 killed")
        );
        assert!(!good("lab exec n1 true") && !good("lab exec n1 -o json"));
        assert!(!good("lab exce n1 -- ringbeat status") && !good("bench calm --second 600"));
        assert!(!good("bench detect --scenario kil") && !good("bench detect") && !good("bnech calm"));
    }
}
