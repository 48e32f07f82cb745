//! `ringbeat cpg`: process groups from the command line: who is where, send, watch, measure, check.

mod bench;
mod verify;

use std::io::{BufRead, BufReader, IsTerminal, stdin};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Subcommand, ValueEnum};
use ringbeat_client::{Client, Event, Member, Reason};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;
use crate::table::Column::{Left, Right};
use crate::table::{Cell, Table};

/// How long a message that was sent may take to come back.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks for something to do.
const LOOK: Duration = Duration::from_millis(100);

/// What to do with process groups.
#[derive(Debug, Subcommand)]
pub(crate) enum CpgVerb {
    /// All groups and their members, as this node sees them.
    List,
    /// Joins a group, sends the lines of the standard input, prints what comes.
    Join {
        /// Its name, 1 to 128 bytes.
        group: String,
    },
    /// Joins a group and prints what comes, line by line.
    Watch {
        /// Its name.
        group: String,
        /// End after so many messages.
        #[arg(short = 'n', long = "lines", value_name = "N")]
        limit: Option<u64>,
    },
    /// Joins a group, sends one message, and waits until it has come back.
    Send {
        /// Its name.
        group: String,
        /// The message.
        message: String,
    },
    /// Measures what the ring does, with the same on other nodes.
    Bench {
        /// What this one does.
        #[arg(value_enum)]
        role: Role,
        /// The group.
        #[arg(long, default_value = "ringbeat-bench")]
        group: String,
        /// Bytes of a message.
        #[arg(long, default_value_t = 1024)]
        size: usize,
        /// For how long.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Round trips of `ping` and `own` [default: as many as there is time for].
        #[arg(short = 'n', long = "runs", value_name = "N")]
        runs: Option<u64>,
        /// Between two of them, in ms.
        #[arg(long, default_value_t = 0.0)]
        pause_ms: f64,
        /// Begin once the group has so many members.
        #[arg(long, default_value_t = 1)]
        members: usize,
    },
    /// Sends numbered messages and checks all that come.
    ///
    /// None may be lost, or come twice, out of order or damaged. To be run on several nodes at once; it ends with 1 if something was wrong.
    Verify {
        /// The group.
        #[arg(long, default_value = "ringbeat-verify")]
        group: String,
        /// For how long.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// Messages a second.
        #[arg(long, default_value_t = 200.0)]
        rate: f64,
        /// The longest message, in bytes.
        #[arg(long, default_value_t = 100_000)]
        size: usize,
    },
}

/// What a process of a measurement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Sends as much as the ring takes, and counts what comes.
    Flood,
    /// Counts what comes.
    Sink,
    /// Sends back what `ping` sends.
    Echo,
    /// Sends, and waits for the answer of an `echo`.
    Ping,
    /// Sends, and waits until the message comes back to itself.
    Own,
}

/// Does it. Whether all was well.
pub(crate) fn run(socket: &Path, output: Output, verb: &CpgVerb) -> Result<bool, Failure> {
    let mut client = Client::connect(socket)?;
    match verb {
        CpgVerb::List => list(&mut client, output)?,
        CpgVerb::Join { group } => join(&mut client, output, group)?,
        CpgVerb::Watch { group, limit } => watch(&mut client, output, group, *limit)?,
        CpgVerb::Send { group, message } => send(&mut client, output, group, message)?,
        CpgVerb::Bench { role, group, size, seconds, runs, pause_ms, members } => {
            let plan = bench::Plan {
                group: group.as_bytes(),
                size: *size,
                time: seconds_of(*seconds),
                runs: *runs,
                pause: seconds_of(*pause_ms / 1000.0),
                members: *members,
            };
            bench::run(&mut client, output, *role, &plan)?;
        }
        CpgVerb::Verify { group, seconds, rate, size } => {
            let plan = verify::Plan {
                group: group.as_bytes(),
                time: seconds_of(*seconds),
                pause: seconds_of(1.0 / rate.max(0.001)),
                size: *size,
            };
            return verify::run(&mut client, output, &plan);
        }
    }
    Ok(true)
}

fn seconds_of(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[derive(Serialize)]
struct GroupReport {
    group: String,
    members: Vec<MemberReport>,
}

#[derive(Serialize)]
struct MemberReport {
    node: u8,
    pid: u32,
}

impl From<Member> for MemberReport {
    fn from(member: Member) -> Self {
        Self { node: member.node, pid: member.pid }
    }
}

fn list(client: &mut Client, output: Output) -> Result<(), Failure> {
    let groups: Vec<GroupReport> = client
        .list()?
        .into_iter()
        .map(|(group, members)| GroupReport {
            group: text(&group),
            members: members.into_iter().map(MemberReport::from).collect(),
        })
        .collect();
    output.value(groups.as_slice(), |groups, screen| {
        let mut table = Table::new([Left("GROUP"), Right("NODE"), Right("PID")]);
        for group in groups {
            for member in &group.members {
                table.push([
                    Cell::from(&group.group),
                    Cell::from(member.node.to_string()),
                    Cell::from(member.pid.to_string()),
                ]);
            }
        }
        table.render(screen)
    })
}

/// What is printed of an event.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum EventReport {
    Configuration {
        group: String,
        members: Vec<MemberReport>,
        left: Vec<ChangeReport>,
        joined: Vec<ChangeReport>,
    },
    Message {
        group: String,
        node: u8,
        pid: u32,
        bytes: usize,
        text: String,
    },
    NotSent {
        text: String,
    },
}

#[derive(Serialize)]
struct ChangeReport {
    node: u8,
    pid: u32,
    reason: &'static str,
}

impl From<(Member, Reason)> for ChangeReport {
    fn from((member, reason): (Member, Reason)) -> Self {
        Self { node: member.node, pid: member.pid, reason: reason.name() }
    }
}

fn report_of(event: Event) -> EventReport {
    match event {
        Event::Configuration { group, members, left, joined } => EventReport::Configuration {
            group: text(&group),
            members: members.into_iter().map(MemberReport::from).collect(),
            left: left.into_iter().map(ChangeReport::from).collect(),
            joined: joined.into_iter().map(ChangeReport::from).collect(),
        },
        Event::Message { group, from, bytes } => EventReport::Message {
            group: text(&group),
            node: from.node,
            pid: from.pid,
            bytes: bytes.len(),
            text: text(&bytes),
        },
        Event::NotSent { text, .. } => EventReport::NotSent { text },
    }
}

fn in_words(event: &EventReport) -> String {
    let many = |members: &[MemberReport]| {
        let members = members.iter().map(|member| format!("{}.{}", member.node, member.pid));
        members.collect::<Vec<_>>().join(",")
    };
    let changes = |sign: char, changes: &[ChangeReport]| {
        let changes = changes.iter().map(|one| format!(" {sign}{}.{}({})", one.node, one.pid, one.reason));
        changes.collect::<String>()
    };
    match event {
        EventReport::Configuration { group, members, left, joined } => {
            format!("{group} members {}{}{}\n", many(members), changes('-', left), changes('+', joined))
        }
        EventReport::Message { group, node, pid, text, .. } => format!("{group} {node}.{pid} {text}\n"),
        EventReport::NotSent { text } => format!("not sent: {text}\n"),
    }
}

fn print(output: Output, event: Event) -> Result<(), Failure> {
    output.line(&report_of(event), |event, _| in_words(event))
}

fn join(client: &mut Client, output: Output, group: &str) -> Result<(), Failure> {
    client.join(group.as_bytes())?;
    if stdin().is_terminal() {
        eprintln!("ringbeat: each line is sent to {group}; Ctrl-D ends");
    }
    let (lines, heard) = std::sync::mpsc::channel();
    // It ends with the input, or with this process.
    std::thread::spawn(move || {
        let mut input = BufReader::new(stdin());
        let mut line = Vec::new();
        while input.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let message = line.strip_suffix(b"\n").unwrap_or(&line).to_vec();
            if lines.send(message).is_err() {
                break;
            }
            line.clear();
        }
    });
    let (mut sent, mut back, mut is_over) = (0u64, 0u64, false);
    let mut last = Instant::now();
    while !is_over || back < sent {
        if is_over && last.elapsed() > PATIENCE {
            return Err(Failure::NotBack(PATIENCE));
        }
        loop {
            match heard.try_recv() {
                Ok(line) => {
                    client.send(group.as_bytes(), &line)?;
                    sent += 1;
                }
                Err(error) => {
                    is_over = error == std::sync::mpsc::TryRecvError::Disconnected;
                    break;
                }
            }
        }
        if let Some(event) = client.next(Some(LOOK))? {
            last = Instant::now();
            let is_own = match &event {
                Event::Message { from, .. } => *from == client.own(),
                Event::NotSent { .. } => true,
                Event::Configuration { .. } => false,
            };
            back += u64::from(is_own);
            print(output, event)?;
        }
    }
    Ok(())
}

fn watch(client: &mut Client, output: Output, group: &str, limit: Option<u64>) -> Result<(), Failure> {
    client.join(group.as_bytes())?;
    let mut messages = 0;
    while limit.is_none_or(|limit| messages < limit) {
        if let Some(event) = client.next(None)? {
            messages += u64::from(matches!(event, Event::Message { .. }));
            print(output, event)?;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct SendReport {
    group: String,
    bytes: usize,
    members: Vec<MemberReport>,
}

fn send(client: &mut Client, output: Output, group: &str, message: &str) -> Result<(), Failure> {
    client.join(group.as_bytes())?;
    client.send(group.as_bytes(), message.as_bytes())?;
    let mut members = Vec::new();
    loop {
        match client.next(Some(PATIENCE))? {
            Some(Event::Configuration { members: now, .. }) => members = now,
            Some(Event::Message { from, .. }) if from == client.own() => break,
            Some(Event::NotSent { code, text }) => {
                return Err(ringbeat_client::Error::Refused { code, text }.into());
            }
            Some(Event::Message { .. }) => {}
            None => return Err(Failure::NotBack(PATIENCE)),
        }
    }
    client.leave(group.as_bytes())?;
    let others = members.into_iter().filter(|member| *member != client.own());
    let report = SendReport {
        group: group.to_owned(),
        bytes: message.len(),
        members: others.map(MemberReport::from).collect(),
    };
    output.value(&report, |report, _| {
        format!("{}: {} bytes, told to {} other members\n", report.group, report.bytes, report.members.len())
    })
}

/// Bytes as a line may show them.
fn text(bytes: &Bytes) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}
