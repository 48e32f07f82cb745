//! Runs the table: one process for each test, a few beside one another, a verdict for each, one closing line.

use std::{
    collections::VecDeque,
    env,
    fmt::Write as _,
    fs::{self, File},
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use super::{Ctx, Need, Skip, Test, groups};
use crate::{
    lab::{labs, program, remove, root, switch},
    sys::process::is_root,
};

/// Exit code of a test that was skipped.
const SKIPPED: u8 = 77;
/// What labs of tests are called: the prefix, the runner's pid, the number of the run: no two of one name at a time.
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
    /// So many tests beside one another; those that need the whole machine come last, one by one
    #[arg(long, default_value_t = 2)]
    jobs: usize,
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
    let chosen: Vec<&Test> = groups().filter(|test| matches(args, test)).collect();
    if args.list {
        chosen.iter().for_each(|test| println!("{}", test.name));
        return Ok(ExitCode::SUCCESS);
    }
    sweep()?;
    let runs = || (0..args.repeat).flat_map(|_| chosen.iter().copied()).enumerate();
    let alone = |test: &Test| test.needs.contains(&Need::Machine);
    let tally = Mutex::new(Tally::default());
    let beside: Mutex<VecDeque<(usize, &Test)>> =
        Mutex::new(runs().filter(|(_, test)| !alone(test)).collect());
    let next = || beside.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        let jobs = (0..args.jobs.max(1)).map(|_| {
            scope.spawn(|| -> Result<()> {
                while let Some((number, test)) = next() {
                    one(args, number, test, &tally)?;
                }
                Ok(())
            })
        });
        let jobs: Vec<_> = jobs.collect();
        jobs.into_iter().try_for_each(|job| job.join().map_err(|_| anyhow!("a job panicked"))?)
    })?;
    for (number, test) in runs().filter(|(_, test)| alone(test)) {
        one(args, number, test, &tally)?;
    }
    let Tally { passed, failed, skipped } = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

/// Runs one test, tells how it went, and counts it.
fn one(args: &E2eArgs, number: usize, test: &Test, tally: &Mutex<Tally>) -> Result<()> {
    let begin = Instant::now();
    let mut shown = String::new();
    let lab = format!("{PREFIX}.{}.{number}", std::process::id());
    let verdict = match missing(test.needs) {
        Some(reason) => Verdict::Skipped(reason),
        None => isolated(test, &lab, args.keep, &mut shown)?,
    };
    let verdict = match verdict {
        Verdict::Skipped(reason) if env::var("CI").is_ok_and(|value| value == "true") => {
            Verdict::Failed(format!("must not be skipped under CI: {reason}"))
        }
        verdict => verdict,
    };
    // The lock keeps what is told of one test together.
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    print!("{shown}");
    match verdict {
        Verdict::Passed => {
            tally.passed += 1;
            println!("ok {} ({:.1} s)", test.name, begin.elapsed().as_secs_f64());
        }
        Verdict::Skipped(reason) => {
            tally.skipped += 1;
            println!("skipped {}: {reason}", test.name);
        }
        Verdict::Failed(reason) => {
            tally.failed += 1;
            println!("FAILED {}: {reason}", test.name);
        }
    }
    Ok(())
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

/// Runs one test in a process of its own, and ends its labs; what is worth showing goes to `shown`.
fn isolated(test: &Test, lab: &str, keep: bool, shown: &mut String) -> Result<Verdict> {
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
        said.lines().for_each(|line| _ = writeln!(shown, "  {line}"));
    }
    for name in labs()?.into_iter().filter(|name| belongs(name, lab)) {
        if failed {
            show_logs(&root().join(&name).join("log"), shown)?;
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

fn show_logs(dir: &Path, shown: &mut String) -> Result<()> {
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
            _ = writeln!(shown, "  {}:", path.display());
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            last.iter().for_each(|line| _ = writeln!(shown, "    {line}"));
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
        Need::Root | Need::Bpf | Need::Machine => None,
    })
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', " | ")
}
