//! `ringbeat cpg bench`: throughput and round trips, as a program of a group has them.

use std::time::{Duration, Instant};

use ringbeat_client::{Client, Event};
use serde::Serialize;

use super::{PATIENCE, Role};
use crate::failure::Failure;
use crate::output::Output;

/// Between two looks whether it is time to end.
const LOOK: Duration = Duration::from_millis(50);
/// Whoever counts waits for so long for the first message, and ends after so long without one.
const QUIET: Duration = Duration::from_millis(500);
const PING: u8 = 1;
const ECHO: u8 = 2;
const DATA: u8 = 3;

/// What is to be measured.
pub(super) struct Plan<'a> {
    pub(super) group: &'a [u8],
    pub(super) size: usize,
    pub(super) time: Duration,
    pub(super) runs: Option<u64>,
    pub(super) pause: Duration,
    pub(super) members: usize,
}

/// Quantiles, in µs.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Quantiles {
    p50: f64,
    p99: Option<f64>,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    role: &'static str,
    size: usize,
    seconds: f64,
    /// Messages that came, and those of this process that did.
    messages: u64,
    msgs_per_s: f64,
    mb_per_s: f64,
    runs: u64,
    round_us: Option<Quantiles>,
}

/// Measures.
pub(super) fn run(client: &mut Client, output: Output, role: Role, plan: &Plan<'_>) -> Result<(), Failure> {
    client.join(plan.group)?;
    let mut members = 0;
    while members < plan.members {
        match client.next(Some(PATIENCE))? {
            Some(Event::Configuration { members: now, .. }) => members = now.len(),
            Some(_) => {}
            None => return Err(Failure::NotBack(PATIENCE)),
        }
    }
    let report = match role {
        Role::Flood => flood(client, plan)?,
        Role::Sink => count(client, plan)?,
        Role::Echo => echo(client, plan)?,
        Role::Ping => rounds(client, plan, true)?,
        Role::Own => rounds(client, plan, false)?,
    };
    output.value(&report, |report, _| in_words(report))
}

fn message(kind: u8, size: usize) -> Vec<u8> {
    let mut message = vec![0x5a; size.max(9)];
    message[0] = kind;
    message
}

/// Sends for the whole time, and counts until its last message has come.
fn flood(client: &mut Client, plan: &Plan<'_>) -> Result<Report, Failure> {
    let message = message(DATA, plan.size);
    let begin = Instant::now();
    let (mut sent, mut own, mut counter) = (0u64, 0u64, Counter::new(plan));
    while begin.elapsed() < plan.time {
        for _ in 0..16 {
            client.send(plan.group, &message)?;
            sent += 1;
        }
        while let Some(event) = client.next(Some(Duration::ZERO))? {
            own += counter.take(&event, Some(client));
        }
    }
    while own < sent {
        let Some(event) = client.next(Some(PATIENCE))? else { return Err(Failure::NotBack(PATIENCE)) };
        own += counter.take(&event, Some(client));
    }
    Ok(counter.report("flood"))
}

/// Counts what comes, from the first message until nothing comes any more.
fn count(client: &mut Client, plan: &Plan<'_>) -> Result<Report, Failure> {
    let end = Instant::now() + plan.time + PATIENCE;
    let mut counter = Counter::new(plan);
    while Instant::now() < end {
        match client.next(Some(QUIET))? {
            Some(event) => {
                counter.take(&event, None);
            }
            None if counter.messages > 0 => break,
            None => {}
        }
    }
    Ok(counter.report("sink"))
}

struct Counter {
    size: usize,
    messages: u64,
    bytes: u64,
    first: Instant,
    last: Instant,
}

impl Counter {
    fn new(plan: &Plan<'_>) -> Self {
        let now = Instant::now();
        Self { size: plan.size, messages: 0, bytes: 0, first: now, last: now }
    }

    /// 1 if it is a message of this process.
    fn take(&mut self, event: &Event, own: Option<&Client>) -> u64 {
        let Event::Message { from, bytes, .. } = event else { return 0 };
        let now = Instant::now();
        if self.messages == 0 {
            self.first = now;
        }
        self.last = now;
        self.messages += 1;
        self.bytes += bytes.len() as u64;
        u64::from(own.is_some_and(|own| own.own() == *from))
    }

    fn report(&self, role: &'static str) -> Report {
        let seconds = (self.last - self.first).as_secs_f64().max(1e-9);
        Report {
            role,
            size: self.size,
            seconds,
            messages: self.messages,
            msgs_per_s: self.messages.saturating_sub(1) as f64 / seconds,
            mb_per_s: self.bytes as f64 / 1e6 / seconds,
            runs: 0,
            round_us: None,
        }
    }
}

/// Sends back what is asked, for the whole time.
fn echo(client: &mut Client, plan: &Plan<'_>) -> Result<Report, Failure> {
    let end = Instant::now() + plan.time;
    let mut counter = Counter::new(plan);
    while Instant::now() < end {
        let Some(event) = client.next(Some(LOOK))? else { continue };
        counter.take(&event, None);
        if let Event::Message { bytes, .. } = &event
            && bytes.first() == Some(&PING)
        {
            let mut answer = bytes.to_vec();
            answer[0] = ECHO;
            client.send(plan.group, &answer)?;
        }
    }
    Ok(counter.report("echo"))
}

/// Round trips one after the other: to an echo, or to this process itself.
fn rounds(client: &mut Client, plan: &Plan<'_>, by_echo: bool) -> Result<Report, Failure> {
    let begin = Instant::now();
    let (mut rounds, mut number) = (Vec::new(), 0u64);
    while begin.elapsed() < plan.time && plan.runs.is_none_or(|runs| number < runs) {
        number += 1;
        let mut message = message(if by_echo { PING } else { DATA }, plan.size);
        message[1..9].copy_from_slice(&number.to_le_bytes());
        let sent = Instant::now();
        client.send(plan.group, &message)?;
        loop {
            let Some(event) = client.next(Some(PATIENCE))? else { return Err(Failure::NotBack(PATIENCE)) };
            let Event::Message { from, bytes, .. } = event else { continue };
            let is_it = if by_echo { bytes.first() == Some(&ECHO) } else { from == client.own() };
            if is_it && bytes.get(1..9) == Some(&number.to_le_bytes()) {
                break;
            }
        }
        rounds.push(sent.elapsed().as_secs_f64() * 1e6);
        if !plan.pause.is_zero() {
            std::thread::sleep(plan.pause);
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Report {
        role: if by_echo { "ping" } else { "own" },
        size: plan.size,
        seconds,
        messages: number,
        msgs_per_s: number as f64 / seconds,
        mb_per_s: number as f64 * plan.size as f64 / 1e6 / seconds,
        runs: number,
        round_us: quantiles(rounds),
    })
}

/// A p99 of fewer than 300 would be a maximum by another name.
const P99_LEAST: usize = 300;

fn quantiles(mut values: Vec<f64>) -> Option<Quantiles> {
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        values.get((values.len() * percent / 100).min(values.len().saturating_sub(1))).copied()
    };
    let p99 = if values.len() >= P99_LEAST { at(99) } else { None };
    Some(Quantiles { p50: at(50)?, p99, max: values.last().copied()? })
}

fn in_words(report: &Report) -> String {
    let Report { role, size, seconds, messages, msgs_per_s, mb_per_s, runs, round_us } = report;
    match round_us {
        Some(Quantiles { p50, p99, max }) => {
            let p99 = p99.map_or_else(|| "-".to_owned(), |p99| format!("{p99:.0}"));
            format!(
                "{role} {size} bytes: {runs} round trips, p50 {p50:.0} us, p99 {p99} us, max {max:.0} us\n"
            )
        }
        None => format!(
            "{role} {size} bytes: {messages} messages in {seconds:.2} s, {msgs_per_s:.0} a second, {mb_per_s:.1} MB/s\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_have_no_p99() {
        let some = quantiles((1..=300).map(f64::from).collect()).expect("values");
        assert_eq!(some, Quantiles { p50: 151.0, p99: Some(298.0), max: 300.0 });
        let few = quantiles(vec![3.0, 1.0, 2.0]).expect("values");
        assert_eq!(few, Quantiles { p50: 2.0, p99: None, max: 3.0 });
        assert_eq!(quantiles(Vec::new()), None);
    }
}
