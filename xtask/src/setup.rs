//! `cargo xtask setup`: what this project needs of a machine, as one table, and how each thing gets there.
//!
//! Every thing is looked for first; only what is missing is installed, and the last words are one line for
//! each. Where all is there it costs a few milliseconds, so every other command runs it first by itself.
//!
//! Deliberately not here: a Rust toolchain and a C linker (without them this program would not exist),
//! cargo-deny (`verify` says how to get it), and anything that changes the machine's configuration.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::process::{self, Workspace};

/// The linker's version is pinned: 0.10.4 uses the LLVM 22 that the pinned rustc carries, 0.11 wants LLVM 23.
const BPF_LINKER_VERSION: &str = "0.10.4";

/// One thing that a machine needs.
struct Thing {
    name: &'static str,
    /// What it is for, in words for whoever wonders why it is being installed.
    why: &'static str,
    /// Without it nothing works. Else the project builds and runs, and says what it does without.
    required: bool,
    /// What there is not until then, if it is not required.
    without: &'static str,
    source: Source,
}

/// Where a thing comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A component of the pinned toolchain; this file of it, below the toolchain's folder, shows that it is there.
    Rustup { file: &'static str },
    /// The linker for kernel programs, compiled from the crate registry.
    BpfLinker,
    /// A Debian package; the program shows that it is there where there is no dpkg to ask.
    Debian { program: &'static str },
}

const THINGS: [Thing; 7] = [
    Thing {
        name: "rust-src",
        why: "the kernel programs compile Rust's `core` for the BPF target",
        required: false,
        without: "there are no kernel programs",
        source: Source::Rustup { file: "lib/rustlib/src/rust/library/core/Cargo.toml" },
    },
    Thing {
        name: "rustfmt",
        why: "`verify` checks the format, `fix` repairs it",
        required: false,
        without: "`verify` and `fix` fail",
        source: Source::Rustup { file: "bin/rustfmt" },
    },
    Thing {
        name: "clippy",
        why: "`verify` checks the lints, `fix` repairs what it can",
        required: false,
        without: "`verify` and `fix` fail",
        source: Source::Rustup { file: "bin/cargo-clippy" },
    },
    Thing {
        name: "bpf-linker",
        why: "links the kernel programs (compiles for 3 to 6 minutes on two cores)",
        required: false,
        without: "there are no kernel programs",
        source: Source::BpfLinker,
    },
    Thing {
        name: "iproute2",
        why: "tests and bench change interfaces and addresses of the lab's nodes with `ip`",
        required: true,
        without: "",
        source: Source::Debian { program: "ip" },
    },
    Thing {
        name: "mount",
        why: "tests mount a BPF file system of their own",
        required: true,
        without: "",
        source: Source::Debian { program: "mount" },
    },
    Thing {
        name: "util-linux",
        why: "tests take rights away with `setpriv` and `prlimit`, and make hogs with `chrt`",
        required: true,
        without: "",
        source: Source::Debian { program: "setpriv" },
    },
];

/// How things stand with one thing, at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum State {
    There,
    Installed,
    ToDo { command: String, reason: String },
}

/// A line of the result.
#[derive(Serialize)]
struct Outcome {
    name: &'static str,
    why: &'static str,
    required: bool,
    #[serde(skip)]
    without: &'static str,
    #[serde(flatten)]
    state: State,
}

impl Outcome {
    fn is_missing(&self) -> bool {
        matches!(self.state, State::ToDo { .. })
    }

    fn line(&self) -> String {
        match &self.state {
            State::There => format!("{:<12} there", self.name),
            State::Installed => format!("{:<12} installed", self.name),
            State::ToDo { command, reason } => {
                let without =
                    if self.required { String::new() } else { format!("; until then {}", self.without) };
                format!("{:<12} to do: {command}  ({reason}{without})", self.name)
            }
        }
    }
}

/// The command itself: tells about everything. False if something that is required is missing.
pub(crate) fn run(workspace: &Workspace, as_json: bool) -> Result<bool> {
    let outcomes = bring(workspace)?;
    let complete = !outcomes.iter().any(|outcome| outcome.required && outcome.is_missing());
    if as_json {
        let value = serde_json::json!({ "complete": complete, "things": outcomes });
        println!("{value:#}");
    } else {
        outcomes.iter().for_each(|outcome| println!("{}", outcome.line()));
    }
    Ok(complete)
}

/// The same before another command: silent where all is there, and an error where it cannot go on. Says all
/// on the standard error, because the standard output belongs to that command.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    let outcomes = bring(workspace)?;
    for outcome in outcomes.iter().filter(|outcome| outcome.state != State::There) {
        eprintln!("{}", outcome.line());
    }
    if outcomes.iter().any(|outcome| outcome.required && outcome.is_missing()) {
        bail!("something that is required is missing: do what the lines above say, then run this again");
    }
    Ok(())
}

/// Looks for everything, installs what is missing, and tells how each thing stands.
fn bring(workspace: &Workspace) -> Result<Vec<Outcome>> {
    let channel = pinned_channel(workspace)?;
    let packages = Packages::ask(workspace);
    let toolchain = toolchain(workspace);
    let is_there = |thing: &Thing| match thing.source {
        Source::Rustup { file } => has_file(toolchain.as_deref(), file),
        Source::BpfLinker => has_bpf_linker(workspace),
        Source::Debian { program } => packages.has(thing.name, program),
    };
    let (there, missing): (Vec<&Thing>, Vec<&Thing>) = THINGS.iter().partition(|thing| is_there(thing));
    let mut states: Vec<(&Thing, State)> = there.into_iter().map(|thing| (thing, State::There)).collect();

    let (debian, rust): (Vec<&Thing>, Vec<&Thing>) =
        missing.into_iter().partition(|thing| matches!(thing.source, Source::Debian { .. }));
    states.extend(install_packages(workspace, &debian));
    for thing in rust {
        let state = match thing.source {
            Source::Rustup { file } => {
                let command = rustup_add(workspace, &channel, thing.name);
                install(thing, command, || has_file(toolchain.as_deref(), file))
            }
            _ => install(thing, cargo_install(workspace), || has_bpf_linker(workspace)),
        };
        states.push((thing, state));
    }
    // In the order of the table, however the work was grouped.
    Ok(THINGS
        .iter()
        .filter_map(|thing| {
            let (_, state) = states.iter().find(|(other, _)| other.name == thing.name)?;
            Some(Outcome {
                name: thing.name,
                why: thing.why,
                required: thing.required,
                without: thing.without,
                state: state.clone(),
            })
        })
        .collect())
}

/// Runs one installer, then believes only another look.
fn install(thing: &Thing, mut installer: Command, is_there: impl FnOnce() -> bool) -> State {
    eprintln!("installing {}: {}", thing.name, thing.why);
    let result = process::with_progress(thing.name, &mut installer);
    if is_there() {
        return State::Installed;
    }
    State::ToDo { command: words(&installer), reason: reason(result) }
}

/// Installs all missing Debian packages at once.
fn install_packages<'a>(workspace: &Workspace, missing: &[&'a Thing]) -> Vec<(&'a Thing, State)> {
    if missing.is_empty() {
        return Vec::new();
    }
    let result = apt_get(workspace, missing);
    let packages = Packages::ask(workspace);
    let reason = reason(result);
    let state_of = |thing: &Thing| {
        let Source::Debian { program } = thing.source else { return State::There };
        if packages.has(thing.name, program) {
            return State::Installed;
        }
        let command = format!("apt-get update && apt-get install -y --no-install-recommends {}", thing.name);
        State::ToDo { command, reason: reason.clone() }
    };
    missing.iter().map(|thing| (*thing, state_of(thing))).collect()
}

fn apt_get(workspace: &Workspace, missing: &[&Thing]) -> Result<()> {
    if process::find_program("apt-get").is_none() {
        bail!("no apt-get here: install what gives you these programs");
    }
    if !is_root() {
        bail!("not root");
    }
    for thing in missing {
        eprintln!("installing {}: {}", thing.name, thing.why);
    }
    let command = || {
        let mut command = workspace.program("apt-get");
        // Somebody else may be installing: wait for the lock, but not for ever.
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=120"]);
        command
    };
    process::with_progress("apt-get update", command().arg("update"))
        .context("apt-get update failed (is the package registry reachable?)")?;
    let names = missing.iter().map(|thing| thing.name);
    process::with_progress(
        "apt-get install",
        command().args(["install", "-y", "--no-install-recommends"]).args(names),
    )
    .context("apt-get install failed")
}

/// The pinned toolchain's name, from the file that pins it.
fn pinned_channel(workspace: &Workspace) -> Result<String> {
    let path = workspace.root().join("rust-toolchain.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    channel_of(&text).with_context(|| format!("{} names no channel", path.display()))
}

/// One key of one small file of our own: not worth a TOML parser in the crate that must compile first.
fn channel_of(toml: &str) -> Option<String> {
    let value =
        toml.lines().find_map(|line| line.trim().strip_prefix("channel")?.trim().strip_prefix('='))?;
    value.split('"').nth(1).map(str::to_string)
}

/// The folder of the toolchain that compiles this.
fn toolchain(workspace: &Workspace) -> Option<PathBuf> {
    let sysroot = process::output_of(workspace.program("rustc").args(["--print", "sysroot"]))?;
    Some(PathBuf::from(sysroot.trim()))
}

fn has_file(toolchain: Option<&Path>, file: &str) -> bool {
    toolchain.is_some_and(|toolchain| toolchain.join(file).is_file())
}

fn rustup_add(workspace: &Workspace, channel: &str, component: &str) -> Command {
    let mut command = workspace.program("rustup");
    command.args(["component", "add", component, "--toolchain", channel]);
    command
}

fn has_bpf_linker(workspace: &Workspace) -> bool {
    let said = process::output_of(workspace.program("bpf-linker").arg("--version"));
    said.is_some_and(|said| said.split_whitespace().nth(1) == Some(BPF_LINKER_VERSION))
}

fn cargo_install(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo();
    // `--force`: cargo's books may say that it is there when the program itself does not run.
    command.args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force"]);
    command
}

/// Which Debian packages are installed; without dpkg, which programs can be found.
enum Packages {
    Dpkg(BTreeSet<String>),
    NoDpkg,
}

impl Packages {
    fn ask(workspace: &Workspace) -> Self {
        if process::find_program("dpkg-query").is_none() {
            return Self::NoDpkg;
        }
        // Its exit status says only that some are unknown, which is just what we want to learn.
        let names = THINGS.iter().filter(|thing| matches!(thing.source, Source::Debian { .. }));
        let output = workspace
            .program("dpkg-query")
            .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
            .args(names.map(|thing| thing.name))
            .output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        Self::Dpkg(installed_of(&text.unwrap_or_default()))
    }

    fn has(&self, package: &str, program: &str) -> bool {
        match self {
            Self::Dpkg(installed) => installed.contains(package),
            Self::NoDpkg => process::find_program(program).is_some(),
        }
    }
}

/// Removed packages whose configuration is left behind are known to dpkg too: only `installed` counts.
fn installed_of(listing: &str) -> BTreeSet<String> {
    listing.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_string).collect()
}

/// The effective user, as the kernel tells it.
fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
    })
}

/// Why an installation did not help: its own last words, on one line.
fn reason(result: Result<()>) -> String {
    match result {
        Ok(()) => "the installer ran, and it is still not there".to_string(),
        Err(error) => {
            let text = format!("{error:#}");
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let first = lines.next().unwrap_or_default().to_string();
            match lines.next_back() {
                Some(last) => format!("{first}: {last}"),
                None => first,
            }
        }
    }
}

/// A command as one would type it.
fn words(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_is_read_from_the_pin() {
        let toml = "[toolchain]\nchannel = \"1.95.0\"\ncomponents = [\"rustfmt\"]\n";
        assert_eq!(channel_of(toml).as_deref(), Some("1.95.0"));
        assert_eq!(channel_of("[toolchain]\n"), None);
    }

    #[test]
    fn only_whole_packages_count_as_installed() {
        let listing = "ethtool config-files\niproute2 installed\nprocps not-installed\n";
        assert_eq!(installed_of(listing).into_iter().collect::<Vec<_>>(), ["iproute2"]);
    }

    #[test]
    fn each_thing_gets_one_line() {
        let state = State::ToDo { command: "rustup component add rust-src".into(), reason: "offline".into() };
        let without = "there are no kernel programs";
        let outcome = Outcome { name: "rust-src", why: "", required: false, without, state };
        assert_eq!(
            outcome.line(),
            "rust-src     to do: rustup component add rust-src  \
             (offline; until then there are no kernel programs)"
        );
        let outcome = Outcome { name: "ethtool", why: "", required: true, without: "", state: State::There };
        assert_eq!(outcome.line(), "ethtool      there");
    }

    #[test]
    fn a_reason_is_one_line() {
        let error = anyhow::anyhow!("exit status: 100\n    Reading\n    E: Unable to locate package\n");
        assert_eq!(reason(Err(error)), "exit status: 100: E: Unable to locate package");
    }

    #[test]
    fn the_json_names_the_state() {
        let outcome =
            Outcome { name: "ethtool", why: "links", required: true, without: "", state: State::Installed };
        let value = serde_json::to_value(outcome).expect("plain values");
        assert_eq!(value["state"], "installed");
        assert_eq!(value["name"], "ethtool");
    }

    #[test]
    fn what_is_not_required_says_what_there_is_without_it() {
        for thing in THINGS {
            assert_eq!(thing.required, thing.without.is_empty(), "{}", thing.name);
        }
    }
}
