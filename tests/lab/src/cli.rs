//! `ringbeat-lab lab`: the lab by hand.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitCode, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use ringbeat_lab::{Cut, Direction, Lab, LabSpec, LabStatus, Links, ProcessState, StartOptions, remove};
use serde_json::{Value, json};

use crate::Output;

/// How long daemons may take to start and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often `logs --follow` looks.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// The lab's name; labs with different names stand side by side
    #[arg(long, global = true, default_value = "lab")]
    name: String,
    /// How the result is written
    #[arg(short, long, global = true, value_enum, default_value = "text")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a lab and start its daemons
    Up {
        /// Nodes, named n1, n2, ...
        #[arg(long, default_value_t = 3)]
        nodes: u8,
        /// Heartbeat links of each node
        #[arg(long, default_value_t = 2)]
        links: u8,
        /// The links' profile: metal, fast, lan or wan
        #[arg(long, default_value = "fast")]
        profile: String,
        /// The nodes' ringbeat.toml, in place of the one made from the flags
        #[arg(long)]
        config: Option<PathBuf>,
        /// Write IPv6 addresses into the configuration
        #[arg(long)]
        ipv6: bool,
        /// The datapath to force: native, generic or socket
        #[arg(long)]
        datapath: Option<String>,
        /// A service address with its prefix, once for each; the first is in place of 10.78.0.100/24
        #[arg(long = "address")]
        addresses: Vec<String>,
        /// Leave the daemons to `lab start`
        #[arg(long)]
        no_start: bool,
    },
    /// Show nodes, daemons and cuts
    Status,
    /// Run a command in a node, in `client` or in `switch`, and return its exit code
    Exec {
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// SIGKILL to the daemon
    Kill { node: String },
    /// SIGSTOP to the daemon
    Pause { node: String },
    /// SIGCONT to the daemon
    Resume { node: String },
    /// Make a node vanish: all its links dead at once, its daemon killed; `start` boots it anew
    Crash { node: String },
    /// Drop frames of a node until it is healed
    Cut {
        node: String,
        /// A link's number, `service`, or `all`; without it all heartbeat links
        #[arg(long, value_parser = links)]
        link: Option<Links>,
        /// Frames to the node, from it, or both
        #[arg(long, value_enum, default_value = "both")]
        direction: Way,
        /// Only between the node and this one
        #[arg(long)]
        peer: Option<String>,
    },
    /// Lift the cuts of a node, or all
    Heal { node: Option<String> },
    /// Start the daemon; a crashed node is booted first
    Start { node: String },
    /// SIGTERM to the daemon, and wait for its end
    Stop { node: String },
    /// Show what the daemon wrote
    Logs {
        node: String,
        /// Go on until interrupted
        #[arg(short, long)]
        follow: bool,
    },
    /// End the lab, in whatever state it is
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    In,
    Out,
    Both,
}

pub(crate) fn run(args: LabArgs) -> Result<ExitCode> {
    let LabArgs { name, output, command } = args;
    let open = || Lab::open(&name);
    let fault = |fault: &str, node: &str, at_ns: u64| {
        say(
            output,
            &format!("{fault} {node} at {at_ns}"),
            json!({"fault": fault, "node": node, "at_ns": at_ns}),
        )
    };
    match command {
        Command::Up { nodes, links, profile, config, ipv6, datapath, addresses, no_start } => {
            let begin = Instant::now();
            let config = config.map(|path| {
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
            });
            let extra = BTreeMap::new;
            let (cluster_extra, link_extra, config) = (extra(), extra(), config.transpose()?);
            let addresses = if addresses.is_empty() { LabSpec::default().addresses } else { addresses };
            let spec = LabSpec {
                name,
                nodes,
                links,
                profile,
                ipv6,
                datapath,
                cluster_extra,
                link_extra,
                ring: BTreeMap::new(),
                addresses,
                failback: false,
                config,
            };
            let lab = Lab::up(spec)?;
            if !no_start {
                lab.start_all().with_context(|| {
                    let name = &lab.spec().name;
                    format!("the lab stands, but not all daemons run (`lab logs`, `lab down --name {name}`)")
                })?;
            }
            let status = lab.status()?;
            let up_ms = u64::try_from(begin.elapsed().as_millis())?;
            let text = format!("{}up in {up_ms} ms", table(&status));
            say(output, &text, json!({"up_ms": up_ms, "lab": status}))
        }
        Command::Status => {
            let status = open()?.status()?;
            say(output, table(&status).trim_end(), serde_json::to_value(&status)?)
        }
        Command::Exec { node, command } => exec(&open()?, &node, &command, output),
        Command::Kill { node } => fault("kill", &node, open()?.node(&node)?.kill()?),
        Command::Pause { node } => fault("pause", &node, open()?.node(&node)?.pause()?),
        Command::Resume { node } => fault("resume", &node, open()?.node(&node)?.resume()?),
        Command::Crash { node } => fault("crash", &node, open()?.crash(&node)?),
        Command::Cut { node, link, direction, peer } => {
            let mut cut =
                Cut::node(&node).links(link.unwrap_or(Links::Heartbeat)).direction(match direction {
                    Way::In => Direction::In,
                    Way::Out => Direction::Out,
                    Way::Both => Direction::Both,
                });
            if let Some(peer) = peer {
                cut = cut.peer(&peer);
            }
            fault("cut", &node, open()?.cut(&cut)?)
        }
        Command::Heal { node } => {
            let at_ns = open()?.heal(node.as_deref())?;
            fault("heal", node.as_deref().unwrap_or("all"), at_ns)
        }
        Command::Start { node } => {
            let lab = open()?;
            let at_ns = lab.node(&node)?.start(&StartOptions::default())?;
            lab.node(&node)?.wait_ready(PATIENCE)?;
            fault("start", &node, at_ns)
        }
        Command::Stop { node } => fault("stop", &node, open()?.node(&node)?.stop(PATIENCE)?),
        Command::Logs { node, follow } => logs(&open()?, &node, follow, output),
        Command::Down => {
            let was = remove(&name)?;
            let text = if was { format!("lab {name} is down") } else { format!("there is no lab {name}") };
            say(output, &text, json!({"name": name, "removed": was}))
        }
    }
}

/// Runs the command to its end. In JSON what it says is held back until then, and comes as one object.
fn exec(lab: &Lab, node: &str, line: &[String], output: Output) -> Result<ExitCode> {
    let node = lab.node(node)?;
    let mut command = node.command(&line[0])?;
    command.args(&line[1..]).current_dir(std::env::current_dir()?);
    if output == Output::Text {
        return Ok(ExitCode::from(code_of(node.spawn(&mut command)?.wait()?)));
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let said = node.spawn(&mut command)?.wait_with_output()?;
    let code = code_of(said.status);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&said.stdout), text(&said.stderr));
    say(output, "", json!({"node": node.name(), "code": code, "stdout": stdout, "stderr": stderr}))?;
    Ok(ExitCode::from(code))
}

/// An exit code as a shell has it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn logs(lab: &Lab, node: &str, follow: bool, output: Output) -> Result<ExitCode> {
    let path = lab.node(node)?.log_path();
    let mut file = File::open(&path).with_context(|| format!("{node} has written nothing yet"))?;
    if output == Output::Json && !follow {
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let lines: Vec<&str> = text.lines().collect();
        return say(output, "", json!({"node": node, "path": path, "lines": lines}));
    }
    let (mut stdout, mut unsaid) = (io::stdout(), Vec::new());
    loop {
        // The lab may have ended, and its files with it: what it wrote before that is still shown.
        let more = follow && path.exists();
        file.read_to_end(&mut unsaid)?;
        match output {
            Output::Text => stdout.write_all(&std::mem::take(&mut unsaid))?,
            Output::Json => {
                for line in whole_lines(&mut unsaid) {
                    writeln!(stdout, "{}", json!({"node": node, "line": line}))?;
                }
            }
        }
        stdout.flush()?;
        if !more {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(FOLLOW_EVERY);
    }
}

/// Takes the lines out that have their end; the beginning of the next one stays.
fn whole_lines(bytes: &mut Vec<u8>) -> Vec<String> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let whole: Vec<u8> = bytes.drain(..end).collect();
    String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
}

fn table(status: &LabStatus) -> String {
    let can = if status.can_cut { "" } else { ", without cuts (no kernel program in this build)" };
    let mut text = format!("lab {} ({} links, profile {}{can})\n", status.name, status.links, status.profile);
    text += &format!("{:<8} {:>8} {:>8} {:<8} {}\n", "NODE", "INIT", "DAEMON", "STATE", "ADDRESSES");
    for node in &status.nodes {
        let daemon = node.daemon_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let state = match (node.alive, node.crashed, node.daemon) {
            (false, ..) => "gone",
            (_, true, _) => "crashed",
            (.., None) => "-",
            (.., Some(ProcessState::Running)) => "running",
            (.., Some(ProcessState::Stopped)) => "stopped",
            (.., Some(ProcessState::Dead)) => "dead",
        };
        let addresses = node.addresses.join(" ");
        text += &format!("{:<8} {:>8} {daemon:>8} {state:<8} {addresses}\n", node.name, node.init_pid);
    }
    let mut cuts: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for cut in &status.cuts {
        cuts.entry((&cut.link, &cut.to)).or_default().push(&cut.from);
    }
    for ((link, to), from) in cuts {
        text += &format!("cut      link {link}: {} -> {to}\n", from.join(","));
    }
    text
}

fn links(text: &str) -> Result<Links, String> {
    match text {
        "service" => Ok(Links::Service),
        "all" => Ok(Links::All),
        number => {
            number.parse().map(Links::One).map_err(|_| "a link's number, `service` or `all`".to_owned())
        }
    }
}

fn say(output: Output, text: &str, value: Value) -> Result<ExitCode> {
    match output {
        Output::Text => println!("{text}"),
        Output::Json => println!("{value}"),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_said() {
        let mut bytes = b"one\ntw".to_vec();
        assert_eq!(whole_lines(&mut bytes), ["one"]);
        assert_eq!(whole_lines(&mut bytes), [""; 0]);
        bytes.extend(b"o\n\nthree\n");
        assert_eq!(whole_lines(&mut bytes), ["two", "", "three"]);
        assert!(bytes.is_empty());
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(code_of(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code_of(ExitStatus::from_raw(9)), 137);
    }
}
