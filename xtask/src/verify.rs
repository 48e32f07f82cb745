//! `cargo xtask verify`, the gate that only reads, and `cargo xtask fix`, the command that repairs.
//!
//! Every gate runs, also after one has failed, and each ends in one line: a reviewer sees all at once.
//!
//! Deliberately not here: tests (`cargo xtask test`), and anything that writes to the source tree, but for
//! `fix`.

use std::process::Command;

use anyhow::Result;

use crate::process::{self, Workspace};
use crate::{links, tidy};

/// The kernel programs build for another target, by the build script of `ebpf/object`.
const CRATES: [&str; 3] = ["--workspace", "--exclude", "ringbeat-ebpf"];

/// How a gate was passed.
enum Passage {
    Ok,
    Failed,
    /// The gate's program is not installed: how to get it.
    Absent(&'static str),
}

/// A gate by its name.
type Gate = (&'static str, fn(&Workspace) -> Result<Passage>);

const GATES: [Gate; 8] = [
    ("fmt", fmt),
    ("clippy", clippy),
    ("kernel", kernel),
    ("no-bpf", no_bpf),
    ("tidy", tidy),
    ("links", links),
    ("doc", doc),
    ("deny", deny),
];

/// Runs every gate; false if one failed.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let mut lines = Vec::new();
    let mut all_ok = true;
    for (name, gate) in GATES {
        println!("== {name}");
        let line = match gate(workspace) {
            Ok(Passage::Ok) => format!("{name:<8} ok"),
            Ok(Passage::Absent(hint)) => format!("{name:<8} not installed: {hint}"),
            Ok(Passage::Failed) => {
                all_ok = false;
                format!("{name:<8} FAILED")
            }
            Err(error) => {
                all_ok = false;
                format!("{name:<8} FAILED: {error:#}")
            }
        };
        lines.push(line);
    }
    println!();
    lines.iter().for_each(|line| println!("{line}"));
    Ok(all_ok)
}

/// Repairs lints, then the format, which the repaired lints may have disturbed.
pub(crate) fn fix(workspace: &Workspace) -> Result<bool> {
    let clippy = process::shown(
        workspace
            .cargo()
            .args(["clippy", "--fix", "--allow-dirty", "--allow-staged", "--all-targets"])
            .args(CRATES),
    )?;
    let fmt = process::shown(workspace.cargo().args(["fmt", "--all"]))?;
    Ok(clippy && fmt)
}

fn fmt(workspace: &Workspace) -> Result<Passage> {
    process::shown(workspace.cargo().args(["fmt", "--all", "--check"])).map(passage)
}

fn clippy(workspace: &Workspace) -> Result<Passage> {
    process::shown(lints(workspace).args(["--", "-D", "warnings"])).map(passage)
}

fn lints(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo();
    command.arg("clippy").args(CRATES).args(["--locked", "--all-targets"]);
    command
}

/// Clippy over the kernel programs, for their own target and in a folder of their own.
fn kernel(workspace: &Workspace) -> Result<Passage> {
    let mut command = workspace.cargo();
    command
        .args(["clippy", "--locked", "--release", "--package", "ringbeat-ebpf", "--bins"])
        .args(["-Zbuild-std=core", "--target", "bpfel-unknown-none", "--target-dir"])
        .arg(workspace.target().join("kernel-lints"))
        .args(["--", "-D", "warnings"])
        // As in ebpf/object/build.rs; the fields of registers do not matter to a lint, so one machine is as good as another.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Ctarget-cpu=v3 --cfg=bpf_target_arch=\"x86_64\"");
    process::shown(&mut command).map(passage)
}

/// The workspace as it is where the tools for kernel programs are missing.
fn no_bpf(workspace: &Workspace) -> Result<Passage> {
    let mut command = lints(workspace);
    command.arg("--target-dir").arg(workspace.target().join("no-bpf")).args(["--", "-D", "warnings"]);
    process::shown(command.env("RINGBEAT_NO_BPF", "1")).map(passage)
}

fn tidy(workspace: &Workspace) -> Result<Passage> {
    tidy::run(workspace).map(passage)
}

fn links(workspace: &Workspace) -> Result<Passage> {
    links::run(workspace).map(passage)
}

/// Links inside the documentation comments.
fn doc(workspace: &Workspace) -> Result<Passage> {
    let mut command = workspace.cargo();
    command.args(["doc", "--locked", "--no-deps"]).args(CRATES).env("RUSTDOCFLAGS", "-D warnings");
    process::shown(&mut command).map(passage)
}

/// Licences, banned crates, and where crates come from.
fn deny(workspace: &Workspace) -> Result<Passage> {
    if process::find_program("cargo-deny").is_none() {
        return Ok(Passage::Absent("cargo install cargo-deny --locked"));
    }
    let mut command = workspace.cargo();
    command.args(["deny", "check", "licenses", "bans", "sources"]);
    process::shown(&mut command).map(passage)
}

fn passage(ok: bool) -> Passage {
    if ok { Passage::Ok } else { Passage::Failed }
}
