//! Runs the table: one process for each test, a verdict for each, one closing line.

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Ctx, Need, Skip, Test, groups};
use crate::{
    lab::{labs, program, remove, root, switch},
    sys::process::is_root,
};

/// Exit code of a test that was skipped.
const SKIPPED: u8 = 77;
/// What labs of tests are called: the prefix, the runner's pid, the test's place in the table.
const PREFIX: &str = "e2e";
/// Lines of each node's log that are shown for a failed test.
const LOG_LINES: usize = 30;

/// Arguments of `e2e`.
#[derive(Debug, clap::Args)]
pub struct E2eArgs {
    /// Only tests whose name contains one of these
    filter: Vec<String>,
    /// Only list the tests
    #[arg(long)]
    list: bool,
    /// Run every test this often
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Leave the labs of failed tests standing
    #[arg(long)]
    keep: bool,
}

enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Runs the tests that the arguments choose.
pub fn run(args: &E2eArgs) -> Result<ExitCode> {
    let chosen: Vec<(usize, &Test)> = groups().enumerate().filter(|(_, test)| matches(args, test)).collect();
    if args.list {
        chosen.iter().for_each(|(_, test)| println!("{}", test.name));
        return Ok(ExitCode::SUCCESS);
    }
    let ci = env::var("CI").is_ok_and(|value| value == "true");
    sweep()?;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for _ in 0..args.repeat {
        for (place, test) in &chosen {
            let begin = Instant::now();
            let verdict = match missing(test.needs) {
                Some(reason) => Verdict::Skipped(reason),
                None => isolated(test, &format!("{PREFIX}.{}.{place}", std::process::id()), args.keep)?,
            };
            let verdict = match verdict {
                Verdict::Skipped(reason) if ci => {
                    Verdict::Failed(format!("must not be skipped under CI: {reason}"))
                }
                verdict => verdict,
            };
            match verdict {
                Verdict::Passed => {
                    passed += 1;
                    println!("ok {} ({:.1} s)", test.name, begin.elapsed().as_secs_f64());
                }
                Verdict::Skipped(reason) => {
                    skipped += 1;
                    println!("skipped {}: {reason}", test.name);
                }
                Verdict::Failed(reason) => {
                    failed += 1;
                    println!("FAILED {}: {reason}", test.name);
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The body of the hidden subcommand `e2e-run`: one test, its verdict as exit code and last line.
pub fn run_one(name: &str, lab: &str) -> ExitCode {
    let Some(test) = groups().find(|test| test.name == name) else {
        println!("there is no test {name}");
        return ExitCode::FAILURE;
    };
    match (test.run)(&mut Ctx { name: lab.to_owned() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", one_line(&format!("{error:#}")));
            if error.is::<Skip>() { ExitCode::from(SKIPPED) } else { ExitCode::FAILURE }
        }
    }
}

fn matches(args: &E2eArgs, test: &Test) -> bool {
    args.filter.is_empty() || args.filter.iter().any(|part| test.name.contains(part.as_str()))
}

/// Runs one test in a process of its own, and ends its labs.
fn isolated(test: &Test, lab: &str, keep: bool) -> Result<Verdict> {
    fs::create_dir_all(root())?;
    let said_path = root().join(format!(".{lab}.out.{}", std::process::id()));
    let said = File::create(&said_path).with_context(|| format!("cannot write {}", said_path.display()))?;
    let mut child = Command::new(program("ringbeat-lab")?)
        .args(["e2e-run", test.name, lab])
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .spawn()
        .context("cannot start a test")?;
    let status = wait(&mut child, test.timeout)?;
    let said = fs::read_to_string(&said_path).unwrap_or_default();
    fs::remove_file(&said_path)?;
    let last = said.lines().last().unwrap_or("it said nothing").to_owned();
    let verdict = match status {
        None => Verdict::Failed(format!("still running after {:?}", test.timeout)),
        Some(status) if status.success() => Verdict::Passed,
        Some(status) if status.code() == Some(i32::from(SKIPPED)) => Verdict::Skipped(last),
        Some(status) if status.code().is_some() => Verdict::Failed(last),
        Some(status) => Verdict::Failed(format!("it died: {status}")),
    };
    let failed = matches!(verdict, Verdict::Failed(_));
    if failed {
        said.lines().for_each(|line| println!("  {line}"));
    }
    for name in labs()?.into_iter().filter(|name| belongs(name, lab)) {
        if failed {
            show_logs(&root().join(&name).join("log"))?;
        }
        if !(failed && keep) {
            remove(&name)?;
        }
    }
    Ok(verdict)
}

/// The child's status, or nothing if it had to be killed.
fn wait(child: &mut Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Ends labs of runners that are gone.
fn sweep() -> Result<()> {
    for name in labs()? {
        let mut parts = name.split('.');
        if parts.next() != Some(PREFIX) {
            continue;
        }
        let runner = parts.next().unwrap_or_default();
        if !Path::new("/proc").join(runner).exists() {
            println!("ending lab {name}, which another run has left");
            remove(&name)?;
        }
    }
    Ok(())
}

fn belongs(name: &str, lab: &str) -> bool {
    name.strip_prefix(lab).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn show_logs(dir: &Path) -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        let text = fs::read(&path)?;
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        if !lines.is_empty() {
            println!("  {}:", path.display());
            lines[lines.len().saturating_sub(LOG_LINES)..].iter().for_each(|line| println!("    {line}"));
        }
    }
    Ok(())
}

/// The first thing that is missing, in words.
fn missing(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| match need {
        Need::Root if !is_root() => Some("needs root".to_owned()),
        Need::Bpf if !switch::is_built() => Some("this build has no kernel programs".to_owned()),
        Need::Bpf if !Path::new("/sys/kernel/btf/vmlinux").exists() => {
            Some("the kernel has no BTF".to_owned())
        }
        Need::Daemon => program("ringbeatd").err().map(|error| error.to_string()),
        Need::Root | Need::Bpf => None,
    })
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', " | ")
}
