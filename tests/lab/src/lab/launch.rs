//! Starting a daemon so that it belongs to its node, not to us.
//!
//! A child that we put into a PID namespace stays a child of the outside, and its death waits there for
//! somebody to take note. So a short-lived starter goes in first, starts the daemon and leaves it to the
//! node's process 1. The starter knows the daemon's pid inside only, and stays until the pid outside is on
//! record.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    os::fd::AsFd as _,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{Node, state};
use crate::sys::process::{ProcessId, in_own_session};

/// What the starter says before the pid.
const STARTED: &str = "started ";

/// Starts `line` in the node as a child of its process 1, with its output in `log`, and hands its id to
/// `record`.
pub(super) fn launch(
    node: &Node<'_>,
    line: &[String],
    env: &[(String, String)],
    log: File,
    record: impl FnOnce(ProcessId) -> Result<()>,
) -> Result<()> {
    let mut command = node.command(&state::program("ringbeat-lab")?.to_string_lossy())?;
    command.arg("node-start").arg("--").args(line).envs(env.iter().map(|(key, value)| (key, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut starter = node.spawn(&mut command)?;
    let mut answer = String::new();
    if let Some(stdout) = starter.stdout.take() {
        BufReader::new(stdout).read_line(&mut answer)?;
    }
    let recorded = match answer.strip_prefix(STARTED).map(|pid| pid.trim().parse()) {
        Some(Ok(pid)) => {
            ProcessId::inside(node.init()?, pid).context("it is nowhere to be found").and_then(record)
        }
        _ => Err(anyhow::anyhow!("{}", answer.trim())),
    };
    drop(starter.stdin.take());
    starter.wait()?;
    recorded.with_context(|| format!("cannot start {:?} in {}", line.first(), node.name()))
}

/// The body of the hidden subcommand `node-start`: the starter.
pub fn start_main(line: &[String]) -> Result<()> {
    let [program, args @ ..] = line else { bail!("nothing to start") };
    let log = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    match in_own_session(&mut command).spawn() {
        Ok(child) => println!("{STARTED}{}", child.id()),
        Err(error) => println!("{program}: {error}"),
    }
    // Until the end of it: then the daemon is on record, or nobody is there to record it.
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}
