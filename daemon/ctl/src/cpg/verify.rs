//! `ringbeat cpg verify`: messages that can be checked, and the checking of them.
//!
//! Each message says whose it is, which one, and is filled with what follows from that: damage, loss, repetition and another
//! order of one sender's show at once. That the order is the same everywhere shows by a *chain*: after each change of
//! members the lowest one sends a mark; from the mark on every member adds up what comes; and each message brings its
//! sender's sum, with the place where it was taken. Whoever has another sum at that place has had another order.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use ringbeat_client::{Client, Event, Member};
use serde::Serialize;

use super::PATIENCE;
use crate::failure::Failure;
use crate::output::Output;

const MAGIC: [u8; 4] = *b"RBV1";
/// Magic, kind, run, counter, mark's node, process and counter, place and sum of the chain.
const HEAD: usize = 4 + 1 + 8 + 8 + 1 + 4 + 8 + 8 + 8;
const DATA: u8 = 1;
const MARK: u8 = 2;
/// So many sums are kept to be compared.
const SUMS_MAX: usize = 100_000;
/// Violations that are told in words.
const TOLD_MAX: usize = 20;

/// What to do.
pub(super) struct Plan<'a> {
    pub(super) group: &'a [u8],
    pub(super) time: Duration,
    pub(super) pause: Duration,
    pub(super) size: usize,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    sent: u64,
    delivered: u64,
    bytes: u64,
    /// Changes of members.
    configurations: u64,
    /// Sums of others that were compared.
    compared: u64,
    violations: u64,
    /// The first of them, in words.
    what: Vec<String>,
}

/// Whose mark, and which.
type MarkId = (Member, u64);

/// What this member has added up since a mark.
#[derive(Debug)]
struct Chain {
    mark: MarkId,
    first: u64,
    sums: std::collections::VecDeque<u64>,
    sum: u64,
    place: u64,
}

#[derive(Debug, Default)]
struct Checker {
    report: Report,
    /// The run of each member, and its next counter.
    next: BTreeMap<Member, (u64, u64)>,
    members: Vec<Member>,
    chain: Option<Chain>,
}

/// A message, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checked {
    kind: u8,
    run: u64,
    counter: u64,
    mark: MarkId,
    place: u64,
    sum: u64,
}

/// Sends and checks. True if nothing was wrong.
pub(super) fn run(client: &mut Client, output: Output, plan: &Plan<'_>) -> Result<bool, Failure> {
    client.join(plan.group)?;
    let run = u64::from(std::process::id()) << 32 | u64::from(client.own().pid);
    let (mut checker, mut dice) = (Checker::default(), Dice(run));
    let (begin, mut next) = (Instant::now(), Instant::now());
    let (mut counter, mut back) = (0u64, 0u64);
    let mut last = Instant::now();
    loop {
        let now = Instant::now();
        let sends = now < begin + plan.time;
        if !sends && (back == counter || now > last + PATIENCE) {
            break;
        }
        if sends && now >= next {
            next = (next + plan.pause).max(now.checked_sub(plan.pause).unwrap_or(now));
            let size = if dice.below(10) == 0 { dice.below(plan.size as u64 + 1) } else { dice.below(1000) };
            let bytes = checker.message(DATA, run, counter, size as usize);
            client.send(plan.group, &bytes)?;
            counter += 1;
        }
        let patience = next.saturating_duration_since(Instant::now());
        let Some(event) = client.next(Some(if sends { patience } else { PATIENCE }))? else { continue };
        last = Instant::now();
        match event {
            Event::Configuration { members, .. } => {
                checker.changed(members);
                if checker.members.first() == Some(&client.own()) {
                    let bytes = checker.message(MARK, run, counter, 0);
                    client.send(plan.group, &bytes)?;
                    counter += 1;
                }
            }
            Event::Message { from, bytes, .. } => {
                back += u64::from(from == client.own());
                checker.take(from, &bytes);
            }
            Event::NotSent { text, .. } => checker.wrong(format!("a message was not sent: {text}")),
        }
    }
    if back != counter {
        checker.wrong(format!("{} of the own {counter} messages never came back", counter - back));
    }
    checker.report.sent = counter;
    let report = checker.report;
    output.value(&report, |report, _| {
        let mut text = format!(
            "sent {}, delivered {} ({:.1} MB), {} changes of members, {} sums compared, {} violations\n",
            report.sent,
            report.delivered,
            report.bytes as f64 / 1e6,
            report.configurations,
            report.compared,
            report.violations
        );
        report.what.iter().for_each(|what| text.push_str(&format!("{what}\n")));
        text
    })?;
    Ok(report.violations == 0)
}

impl Checker {
    fn wrong(&mut self, what: String) {
        self.report.violations += 1;
        if self.report.what.len() < TOLD_MAX {
            self.report.what.push(what);
        }
    }

    fn changed(&mut self, members: Vec<Member>) {
        self.report.configurations += 1;
        // Whoever comes back may have said something meanwhile.
        self.next.retain(|member, _| members.contains(member));
        self.members = members;
        self.chain = None;
    }

    /// The bytes of a message of this process.
    fn message(&self, kind: u8, run: u64, counter: u64, filler: usize) -> Vec<u8> {
        let nobody = (Member { node: 0, pid: 0 }, 0);
        let (mark, place, sum) =
            self.chain.as_ref().map_or((nobody, 0, 0), |chain| (chain.mark, chain.place, chain.sum));
        let mut bytes = Vec::with_capacity(HEAD + filler);
        bytes.extend(MAGIC);
        bytes.push(kind);
        bytes.extend(run.to_le_bytes());
        bytes.extend(counter.to_le_bytes());
        bytes.push(mark.0.node);
        bytes.extend(mark.0.pid.to_le_bytes());
        for word in [mark.1, place, sum] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend((0..filler).map(|at| filler_of(run, counter, at)));
        bytes
    }

    fn take(&mut self, from: Member, bytes: &[u8]) {
        self.report.delivered += 1;
        self.report.bytes += bytes.len() as u64;
        let Some(checked) = Checked::of(bytes) else {
            self.wrong(format!("a message of {from} of {} bytes is damaged", bytes.len()));
            return;
        };
        if !self.members.contains(&from) {
            self.wrong(format!("a message of {from}, who is not among the members"));
        }
        let (run, next) = *self.next.entry(from).or_insert((checked.run, checked.counter));
        if run == checked.run && next != checked.counter {
            self.wrong(format!("message {} of {from}, where {next} was to come", checked.counter));
        }
        self.next.insert(from, (checked.run, checked.counter + 1));
        self.compare(from, &checked);
        self.add(from, &checked);
    }

    fn compare(&mut self, from: Member, checked: &Checked) {
        let Some(chain) = self.chain.as_ref().filter(|chain| chain.mark == checked.mark) else { return };
        let Some(at) = checked.place.checked_sub(chain.first) else { return };
        let Some(sum) = usize::try_from(at).ok().and_then(|at| chain.sums.get(at)) else {
            if checked.place > chain.place {
                self.wrong(format!(
                    "{from} is {} messages ahead of what it has sent",
                    checked.place - chain.place
                ));
            }
            return;
        };
        let is_the_same = *sum == checked.sum;
        self.report.compared += 1;
        if !is_the_same {
            self.wrong(format!("{from} has had another order, {} messages after a mark", checked.place));
        }
    }

    fn add(&mut self, from: Member, checked: &Checked) {
        if checked.kind == MARK {
            let mark = (from, checked.counter);
            self.chain = Some(Chain { mark, first: 0, sums: [0].into(), sum: 0, place: 0 });
            return;
        }
        let Some(chain) = &mut self.chain else { return };
        let mut hasher = DefaultHasher::new();
        for word in [chain.sum, u64::from(from.node), u64::from(from.pid), checked.run, checked.counter] {
            hasher.write_u64(word);
        }
        chain.sum = hasher.finish();
        chain.place += 1;
        chain.sums.push_back(chain.sum);
        if chain.sums.len() > SUMS_MAX {
            chain.sums.pop_front();
            chain.first += 1;
        }
    }
}

impl Checked {
    /// None if it is damaged.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (head, filler) = bytes.split_first_chunk::<HEAD>()?;
        let word = |at: usize| head[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        let pid = head[22..].first_chunk().map_or(0, |pid| u32::from_le_bytes(*pid));
        let (run, counter) = (word(5), word(13));
        let is_whole = filler.iter().enumerate().all(|(at, byte)| *byte == filler_of(run, counter, at));
        (head[..4] == MAGIC && is_whole).then_some(Self {
            kind: head[4],
            run,
            counter,
            mark: (Member { node: head[21], pid }, word(26)),
            place: word(34),
            sum: word(42),
        })
    }
}

const fn filler_of(run: u64, counter: u64, at: usize) -> u8 {
    let mixed = (run ^ counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(at as u64 * 31);
    (mixed ^ mixed >> 29 ^ mixed >> 13) as u8
}

/// Numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Member = Member { node: 1, pid: 10 };
    const B: Member = Member { node: 2, pid: 20 };

    /// Two members with a mark behind them.
    fn pair() -> [Checker; 2] {
        let mut both = [Checker::default(), Checker::default()];
        let mark = both[0].message(MARK, 1, 0, 0);
        for checker in &mut both {
            checker.changed(vec![A, B]);
            checker.take(A, &mark);
        }
        both
    }

    #[test]
    fn what_is_well_is_well() {
        let mut both = pair();
        for counter in 0..50 {
            let (one, other) =
                (both[0].message(DATA, 1, counter + 1, 100), both[1].message(DATA, 2, counter, 7));
            for checker in &mut both {
                checker.take(A, &one);
                checker.take(B, &other);
            }
        }
        for checker in &both {
            assert_eq!(
                (checker.report.violations, checker.report.compared),
                (0, 100),
                "{:?}",
                checker.report.what
            );
        }
    }

    #[test]
    fn loss_repetition_and_damage_show() {
        let [mut checker, _] = pair();
        let messages: Vec<Vec<u8>> = (1..5).map(|counter| checker.message(DATA, 1, counter, 50)).collect();
        checker.take(A, &messages[0]);
        assert_eq!(checker.report.violations, 0);
        checker.take(A, &messages[0]);
        assert_eq!(checker.report.violations, 1, "twice");
        checker.take(A, &messages[2]);
        assert_eq!(checker.report.violations, 2, "one is missing");
        for at in [0, 60, 90] {
            let mut bent = messages[3].clone();
            bent[at] ^= 1;
            checker.take(A, &bent);
        }
        assert_eq!(checker.report.violations, 5, "{:?}", checker.report.what);
        checker.take(Member { node: 3, pid: 1 }, &messages[3]);
        assert_eq!(checker.report.violations, 6, "nobody knows it");
    }

    #[test]
    fn another_order_shows() {
        let mut both = pair();
        let (one, other) = (both[0].message(DATA, 1, 1, 9), both[1].message(DATA, 2, 0, 9));
        both[0].take(A, &one);
        both[0].take(B, &other);
        both[1].take(B, &other);
        both[1].take(A, &one);
        let later = both[1].message(DATA, 2, 1, 0);
        both[0].take(B, &later);
        assert_eq!(both[0].report.violations, 1, "{:?}", both[0].report.what);
    }

    #[test]
    fn changes_begin_anew() {
        let mut both = pair();
        both[0].changed(vec![A]);
        both[0].changed(vec![A, B]);
        let late = both[1].message(DATA, 2, 77, 0);
        both[0].take(B, &late);
        assert_eq!(both[0].report.violations, 0);
    }
}
