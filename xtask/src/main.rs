//! The project's own commands: `cargo xtask setup`, `build`, `test`, `sim`, `demo`, `lab`, `bench`, `verify`, `fix`, `tidy`.
//!
//! This crate is the first thing that compiles on a fresh machine, so it depends on nothing but argument
//! parsing, errors and JSON. It only starts other programs and reads what they say: what a lab, a demo or a
//! measurement *is* stands in `tests/lab`.
//!
//! Deliberately not here: anything that opens a socket, a namespace or a kernel program.

mod links;
mod process;
mod setup;
mod sim;
mod sources;
mod suite;
mod tidy;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::process::Workspace;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring this machine to where everything builds and runs; changes nothing where all is there
    Setup {
        /// How to print the result
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Build the daemon, the command and the lab
    Build {
        /// Accepted for habit's sake: the build is always a release build
        #[arg(long)]
        release: bool,
    },
    /// Real nodes on this machine: `lab up`, `lab kill n2`, `lab down`, … (arguments go to the lab)
    #[command(disable_help_flag = true)]
    Lab(Passed),
    /// Three nodes, some faults, and how fast each was told (arguments go to the lab)
    #[command(disable_help_flag = true)]
    Demo(Passed),
    /// Measure: `bench detect`, `failover`, `ring`, `calm` or `datapath` (arguments go to the lab)
    #[command(disable_help_flag = true)]
    Bench(Passed),
    /// Run every test and print one closing line that counts
    Test {
        /// Run one suite only
        #[arg(long, value_enum)]
        only: Option<suite::Suite>,
        /// Run only the tests whose name contains this
        filter: Option<String>,
    },
    /// Simulate clusters and rings, a history for each seed, until one goes wrong
    Sim(sim::SimArgs),
    /// The gate: format, lints, tidy, links, docs, licences; changes no file
    Verify,
    /// Repair what can be repaired: lints, then format
    Fix,
    /// The project's own rules over its own files
    Tidy,
}

/// Arguments for another program, passed on as they are, `--help` and `-o json` included.
#[derive(Debug, clap::Args)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Lines for people and for grep
    #[default]
    Text,
    /// One JSON value
    Json,
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does one command. `Ok(false)` means that it ran to its end and already said what is wrong.
fn run(verb: Verb) -> Result<bool> {
    let workspace = Workspace::find()?;
    match verb {
        Verb::Setup { output } => setup::run(&workspace, output == Output::Json),
        Verb::Build { release: _ } => {
            setup::ensure(&workspace)?;
            process::build(&workspace).map(|()| true)
        }
        Verb::Lab(passed) => lab(&workspace, "lab", &passed.args),
        Verb::Demo(passed) => lab(&workspace, "demo", &passed.args),
        Verb::Bench(passed) => lab(&workspace, "bench", &passed.args),
        Verb::Test { only, filter } => {
            setup::ensure(&workspace)?;
            suite::run(&workspace, only, filter.as_deref())
        }
        Verb::Sim(args) => {
            setup::ensure(&workspace)?;
            sim::run(&workspace, &args)
        }
        Verb::Verify => {
            setup::ensure(&workspace)?;
            verify::run(&workspace)
        }
        Verb::Fix => {
            setup::ensure(&workspace)?;
            verify::fix(&workspace)
        }
        Verb::Tidy => tidy::run(&workspace),
    }
}

/// Hands over to the lab's binary; returns only if that cannot be started.
fn lab(workspace: &Workspace, verb: &str, args: &[OsString]) -> Result<bool> {
    setup::ensure(workspace)?;
    process::build(workspace)?;
    Err(process::hand_over(workspace.lab().arg(verb).args(args)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(line: &[&str]) -> Vec<OsString> {
        match Arguments::try_parse_from(line).expect("parses").verb {
            Verb::Lab(passed) | Verb::Demo(passed) | Verb::Bench(passed) => passed.args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lab_arguments_pass_through_untouched() {
        assert_eq!(passed(&["xtask", "lab", "--help"]), ["--help"]);
        assert_eq!(passed(&["xtask", "demo", "-o", "json"]), ["-o", "json"]);
        assert_eq!(passed(&["xtask", "demo"]), [""; 0]);
        assert_eq!(
            passed(&["xtask", "lab", "exec", "n1", "--", "ip", "-o", "addr"]),
            ["exec", "n1", "--", "ip", "-o", "addr"]
        );
        assert_eq!(
            passed(&["xtask", "bench", "detect", "--scenario", "kill", "-h"]),
            ["detect", "--scenario", "kill", "-h"]
        );
    }

    /// The `cargo xtask` commands of a page: after a backtick, or where a line begins.
    fn shown(text: &str) -> Vec<Vec<&str>> {
        let pieces = text.lines().flat_map(|line| line.split('`')).map(str::trim);
        let commands = pieces.filter(|piece| piece.starts_with("cargo xtask "));
        commands
            .map(|line| line.split(" #").next().unwrap_or(line).split_whitespace().skip(1).collect())
            .collect()
    }

    fn is_understood(words: &[&str]) -> bool {
        Arguments::try_parse_from(words).is_ok()
    }

    #[test]
    fn the_pages_show_commands_that_exist() {
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let docs =
            std::fs::read_dir(top.join("docs")).expect("a folder").map(|page| page.expect("a page").path());
        let pages = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "packaging/README.md"];
        let mut count = 0;
        for page in pages.map(|page| top.join(page)).into_iter().chain(docs) {
            let text = std::fs::read_to_string(&page).expect("a page");
            for words in shown(&text) {
                assert!(is_understood(&words), "{}: cargo {}", page.display(), words.join(" "));
                count += 1;
            }
        }
        assert!(count > 20, "only {count} commands");
    }

    #[test]
    fn a_slip_in_a_page_is_noticed() {
        let page = "Run `cargo xtask verify`:\n\n    cargo xtask test --only e2e   # a comment\n";
        assert_eq!(shown(page), [vec!["xtask", "verify"], vec!["xtask", "test", "--only", "e2e"]]);
        assert!(shown(page).iter().all(|words| is_understood(words)));
        for (right, wrong) in [("verify", "verfiy"), ("--only", "--olny"), ("e2e", "e2")] {
            let page = page.replace(right, wrong);
            assert_eq!(shown(&page).iter().filter(|words| !is_understood(words)).count(), 1, "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
