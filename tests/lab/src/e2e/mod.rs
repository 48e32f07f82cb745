//! The end-to-end tests: a table of them, and the frame that runs it.
//!
//! Each test runs in a process of its own with labs of its own, so that one that hangs, aborts or forgets to
//! clean up harms no other. To add tests, write a module with a `TESTS` table and name it in `groups`.

mod address;
mod daemons;
mod docs;
mod expect;
mod forge;
mod frame;
mod hostile;
mod interface;
mod lab;
mod links;
mod pins;
mod rings;
mod strangers;
mod views;
mod wire;

use std::time::Duration;

use anyhow::Result;

pub use frame::{E2eArgs, run, run_one};

use crate::{Lab, LabSpec};

/// How long a test may take unless it says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// One test.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Its name: the group's, a slash, and what it shows.
    pub name: &'static str,
    /// What must be there.
    pub needs: &'static [Need],
    /// It has failed when it takes longer.
    pub timeout: Duration,
    /// What it does.
    pub run: fn(&mut Ctx) -> Result<()>,
}

/// What a test needs; where it is missing, the test fails under `CI=true` and is skipped elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Root, and a kernel that lets it make namespaces.
    Root,
    /// Kernel programs in this build, and a kernel with BTF that they can be loaded into.
    Bpf,
    /// The daemon's program, built next to this one.
    Daemon,
    /// The whole machine: it takes all cores, or sets the clock. No other test runs beside it.
    Machine,
}

/// All that a test of the daemons on XDP needs.
pub const ALL: &[Need] = &[Need::Root, Need::Bpf, Need::Daemon];

/// The same, and nothing beside it.
pub const ALONE: &[Need] = &[Need::Root, Need::Bpf, Need::Daemon, Need::Machine];

/// What a test is given.
#[derive(Debug)]
pub struct Ctx {
    name: String,
}

/// The error of a test that finds that it cannot run here. It counts as skipped; under `CI=true`, as failed.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

impl Ctx {
    /// The usual lab of three nodes and two links, under the test's name.
    #[must_use]
    pub fn spec(&self) -> LabSpec {
        // `lan`: what a test claims must not hang on a stall of the machine; the benches are about `fast`.
        LabSpec { name: self.name.clone(), profile: "lan".to_owned(), ..LabSpec::default() }
    }

    /// The name of another lab of the same test.
    #[must_use]
    pub fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.name)
    }

    /// A lab of this kind with all daemons running.
    pub fn running(&self, spec: LabSpec) -> Result<Lab> {
        let lab = Lab::up(spec)?;
        lab.start_all()?;
        Ok(lab)
    }

    /// Notes how far the test has come; shown if it fails.
    pub fn step(&self, text: &str) {
        println!("- {text}");
    }
}

/// All groups of tests.
fn groups() -> impl Iterator<Item = &'static Test> {
    [
        lab::TESTS,
        daemons::TESTS,
        links::TESTS,
        hostile::TESTS,
        pins::TESTS,
        address::TESTS,
        strangers::TESTS,
        rings::TESTS,
        views::TESTS,
        interface::TESTS,
        docs::TESTS,
    ]
    .into_iter()
    .flatten()
}
