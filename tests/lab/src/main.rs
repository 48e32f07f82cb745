//! `ringbeat-lab`: the lab, and what is done with it: demo, bench and the end-to-end tests.

mod cli;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

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
        Command::E2eRun { test, lab } => Ok(ringbeat_lab::e2e::run_one(&test, &lab)),
    }
}
