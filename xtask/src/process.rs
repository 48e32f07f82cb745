//! Children: where the workspace is, how its programs are started, and how their output is shown.
//!
//! Four ways to run one: shown as it is ([`shown`]), with a line of progress ([`with_progress`]), streamed
//! line by line past a reader ([`streamed`]), and silent unless there is something to say ([`build`]).
//!
//! Deliberately not here: what the children mean, and any way to end one that we did not start.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// What `build` compiles: all that a lab starts.
const BUILT: [&str; 3] = ["ringbeatd", "ringbeat", "ringbeat-lab"];
/// How many of a child's last lines are kept, to show them if it fails.
const TAIL_LINES_MAX: usize = 40;
/// How long one line of progress may get on a terminal.
const PROGRESS_CHARS_MAX: usize = 100;
/// How often progress is told where lines cannot be rewritten.
const PROGRESS_PERIOD: Duration = Duration::from_secs(10);

/// Where the project and its build output lie.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the workspace from cargo's environment, else from where this program was compiled.
    pub(crate) fn find() -> Result<Self> {
        let compiled_in = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let root = env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .into_iter()
            .chain([compiled_in])
            .filter_map(|manifest| manifest.parent().map(Path::to_path_buf))
            .find(|root| root.join("xtask/Cargo.toml").is_file())
            .context("cannot find the workspace: run this as `cargo xtask` inside the source tree")?;
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
            // Relative to where the user stands, as the outer cargo took it.
            Some(dir) => std::path::absolute(dir).context("cannot resolve CARGO_TARGET_DIR")?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Where build output goes.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The top of the source tree.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A cargo that works on this workspace, and writes where the outer cargo writes.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).env("PATH", search_path());
        if env::var_os("CARGO_TARGET_DIR").is_some_and(|dir| !dir.is_empty()) {
            command.env("CARGO_TARGET_DIR", &self.target);
        }
        command
    }

    /// Any other program, started at the top of the tree.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.current_dir(&self.root).env("PATH", search_path());
        command
    }

    /// The lab's binary, as [`build`] leaves it. It runs where the user stands: its arguments may be paths.
    pub(crate) fn lab(&self) -> Command {
        let mut command = Command::new(self.target.join("release/ringbeat-lab"));
        command.env("PATH", search_path());
        command
    }
}

/// The user's PATH, then the places where setup's programs end up even if that PATH lacks them.
fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    let cargo_home =
        env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    for dir in cargo_home.map(|home| home.join("bin")).into_iter().chain(["/usr/sbin".into(), "/sbin".into()])
    {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    // A folder with a colon in its name cannot be joined: then the user's own PATH must do.
    env::join_paths(dirs).unwrap_or(path)
}

/// Where a program of this name lies, if it is anywhere.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// What a child prints on its standard output, if it succeeds.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a child with our own input and output; tells whether it succeeded.
pub(crate) fn shown(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| cannot_start(command))?;
    Ok(status.success())
}

/// Becomes another program. Returns only the reason why that did not work.
pub(crate) fn hand_over(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow::Error::new(error).context(cannot_start(command))
}

/// Builds the daemon, the command and the lab. Cargo is heard only when it compiles, waits or fails.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["build", "--locked", "--release"]);
    for package in BUILT {
        command.args(["-p", package]);
    }
    if io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none() {
        command.args(["--color", "always"]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(&command))?;
    let mut held = Vec::new();
    let mut speaking = false;
    if let Some(stderr) = child.stderr.take() {
        each_line(stderr, |line| {
            speaking |= is_work(&line);
            held.push(line);
            if speaking {
                held.drain(..).for_each(|line| eprintln!("{line}"));
            }
        });
    }
    let status = child.wait().context("cannot wait for cargo build")?;
    for line in held.iter().filter(|line| !status.success() || is_lasting_warning(line)) {
        eprintln!("{line}");
    }
    if !status.success() {
        bail!("cargo build failed ({status}); what it said stands above");
    }
    Ok(())
}

/// Cargo does, or waits for, something that takes time.
fn is_work(line: &str) -> bool {
    let line = without_colour(line);
    let line = line.trim_start();
    ["Compiling", "Downloading", "Updating", "Blocking"].iter().any(|word| line.starts_with(word))
}

/// The kernel programs' build script says that they are missing: never swallowed, however old the build is.
fn is_lasting_warning(line: &str) -> bool {
    without_colour(line).starts_with("warning: ringbeat-ebpf-object@")
}

/// Runs a child, and shows its standard output line by line, each after `reader` had a look at it; a line
/// for which it returns false is not shown.
pub(crate) fn streamed(command: &mut Command, mut reader: impl FnMut(&str) -> bool) -> Result<ExitStatus> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| cannot_start(command))?;
    if let Some(stdout) = child.stdout.take() {
        each_line(stdout, |line| {
            if reader(&without_colour(&line)) {
                // Nobody listens any more: the suite still runs to its end, and is counted.
                let _ = writeln!(io::stdout(), "{line}");
            }
        });
    }
    child.wait().context("cannot wait for a child")
}

/// Runs a child whose words matter only if it fails: meanwhile one line tells the seconds and its last words.
/// The error holds the end of what it said.
pub(crate) fn with_progress(label: &str, command: &mut Command) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(command))?;
    let (sender, lines) = mpsc::channel();
    let readers = [
        child.stdout.take().map(|stdout| forward(stdout, sender.clone())),
        child.stderr.take().map(|stderr| forward(stderr, sender)),
    ];
    let mut progress = Progress::new(label);
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => progress.heard(line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.show();
    }
    readers.into_iter().flatten().for_each(|reader| drop(reader.join()));
    let status = child.wait().with_context(|| format!("cannot wait for {label}"))?;
    progress.clear();
    if !status.success() {
        bail!("{status}\n{}", progress.tail());
    }
    Ok(())
}

fn forward(from: impl Read + Send + 'static, to: Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        each_line(from, |line| {
            // The receiver outlives its senders.
            let _ = to.send(line);
        });
    })
}

/// One line that says how long something has taken, and what it said last.
struct Progress<'a> {
    label: &'a str,
    started: Instant,
    shown: Instant,
    rewrites: bool,
    tail: VecDeque<String>,
}

impl<'a> Progress<'a> {
    fn new(label: &'a str) -> Self {
        let now = Instant::now();
        let rewrites = io::stderr().is_terminal();
        Self { label, started: now, shown: now, rewrites, tail: VecDeque::new() }
    }

    fn heard(&mut self, line: String) {
        if line.trim().is_empty() {
            return;
        }
        if self.tail.len() == TAIL_LINES_MAX {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    fn show(&mut self) {
        let period = if self.rewrites { Duration::from_millis(200) } else { PROGRESS_PERIOD };
        if self.shown.elapsed() < period {
            return;
        }
        self.shown = Instant::now();
        let last = self.tail.back().map_or("", |line| line.trim());
        let line = format!("  {}  {} s  {last}", self.label, self.started.elapsed().as_secs());
        let line: String = line.chars().take(PROGRESS_CHARS_MAX).collect();
        if self.rewrites {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }

    fn clear(&self) {
        if self.rewrites {
            eprint!("\r\x1b[K");
        }
    }

    fn tail(&self) -> String {
        self.tail.iter().map(|line| format!("    {line}\n")).collect()
    }
}

/// Reads to the end, line by line; bytes that are not UTF-8 are replaced, never fatal.
fn each_line(from: impl Read, mut each: impl FnMut(String)) {
    let mut from = BufReader::new(from);
    let mut bytes = Vec::new();
    // A pipe whose other end is gone reads as its end.
    while from.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        each(String::from_utf8_lossy(line).into_owned());
        bytes.clear();
    }
}

/// A line without its escape sequences for colour.
fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        if char == '\x1b' {
            // `ESC [ … m`: a letter ends it.
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(char);
        }
    }
    plain
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start {}", command.get_program().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_taken_off() {
        assert_eq!(without_colour("\x1b[1m\x1b[92m   Compiling\x1b[0m a v1"), "   Compiling a v1");
        assert_eq!(without_colour("plain"), "plain");
    }

    #[test]
    fn cargo_is_heard_when_it_works_and_when_kernel_programs_are_missing() {
        assert!(is_work("\x1b[1m\x1b[92m   Compiling\x1b[0m a v1"));
        assert!(is_work("    Blocking waiting for file lock on build directory"));
        assert!(!is_work("    Finished `release` profile"));
        assert!(is_lasting_warning("warning: ringbeat-ebpf-object@0.1.0: no bpf-linker"));
        assert!(!is_lasting_warning("warning: unused variable"));
    }

    #[test]
    fn a_failing_child_leaves_its_last_words() {
        let error = with_progress("sh", Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]))
            .expect_err("exit 3 is a failure");
        let text = format!("{error:#}");
        assert!(text.contains("one") && text.contains("two"), "{text}");
    }

    #[test]
    fn lines_reach_the_reader_and_the_status_comes_back() {
        let mut seen = Vec::new();
        let status = streamed(Command::new("sh").args(["-c", "printf 'a\\nb\\377'; exit 4"]), |line| {
            seen.push(line.to_string());
            false
        })
        .expect("sh runs");
        assert_eq!(status.code(), Some(4));
        assert_eq!(seen, ["a", "b\u{fffd}"]);
    }
}
