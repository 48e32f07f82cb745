//! Inputs as lines of text, and back: what a daemon took in can be run again at the desk.
//!
//! A record is [`HEADER`], then a line for each construction and each input, in the order in which they happened, with
//! the time that came with it. Replayed, the machines give the same outputs, since they have nothing else to go by.
//! Deliberately not there: outputs (they follow), keys and tags (frames are taken in after their check), compression.

use std::fmt;
use std::str::FromStr;

use ringbeat_common::event::Event;
use ringbeat_common::frame::{FRAME_WORDS, Frame};

use crate::detector::{self, Damping, Detector, LinkTimes};
use crate::handshake::{self, Handshake};

/// The first line of a record; its number rises with any change of the lines.
pub const HEADER: &str = "ringbeat-record 1";

/// One line of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The time that came with the input.
    pub now_ns: u64,
    /// What happened.
    pub entry: Entry,
}

/// What can happen to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A detector was built.
    DetectorBuilt(detector::Config),
    /// It took an input.
    Detector(detector::Input),
    /// A handshake was built.
    HandshakeBuilt(handshake::Config),
    /// It took an input.
    Handshake(handshake::Input),
}

/// Why a line is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The line ends too early.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A word is not what stands there in a record.
    #[error("`{found}` is no `{expected}`")]
    Unexpected {
        /// The word.
        found: String,
        /// What should be there.
        expected: &'static str,
    },
    /// The line goes on after its end.
    #[error("`{0}` is too much")]
    TooMuch(String),
    /// An input came before its machine was built.
    #[error("an input for a machine that was not built")]
    NotBuilt,
}

/// An output of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// Of the detector.
    Detector(detector::Output),
    /// Of the handshake.
    Handshake(handshake::Output),
}

/// Runs records again.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// As it is after the records so far.
    pub detector: Option<Detector>,
    /// As it is after the records so far.
    pub handshake: Option<Handshake>,
}

impl Replay {
    /// Runs one record; gives the outputs that followed it.
    pub fn apply(&mut self, record: &Record) -> Result<Vec<Replayed>, RecordError> {
        let mut outputs = Vec::new();
        match &record.entry {
            Entry::DetectorBuilt(config) => self.detector = Some(Detector::new(config)),
            Entry::HandshakeBuilt(config) => self.handshake = Some(Handshake::new(config)),
            Entry::Detector(input) => {
                let detector = self.detector.as_mut().ok_or(RecordError::NotBuilt)?;
                detector.handle(*input, record.now_ns);
                outputs.extend(std::iter::from_fn(|| detector.poll_output()).map(Replayed::Detector));
            }
            Entry::Handshake(input) => {
                let handshake = self.handshake.as_mut().ok_or(RecordError::NotBuilt)?;
                handshake.handle(input.clone(), record.now_ns);
                outputs.extend(std::iter::from_fn(|| handshake.poll_output()).map(Replayed::Handshake));
            }
        }
        Ok(outputs)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.now_ns)?;
        match &self.entry {
            Entry::DetectorBuilt(config) => {
                let links = config.links.iter();
                let links =
                    links.map(|link| format!("{}:{}:{}", link.link, link.interval_ns, link.deadline_ns));
                let Damping { min_ns, max_ns, memory_ns } = config.damping;
                write!(f, "detector built own={} peers={}", config.own, list(&config.peers))?;
                write!(f, " links={} stall={}", list(links), config.daemon_stall_ns)?;
                write!(f, " damping={min_ns}:{max_ns}:{memory_ns}")
            }
            Entry::Detector(input) => detector_input(f, input),
            Entry::HandshakeBuilt(config) => {
                let handshake::Config { own, incarnation, cluster_id, config_version, peers, links } = config;
                write!(f, "handshake built own={own} incarnation={incarnation} cluster={cluster_id}")?;
                write!(f, " config={config_version} peers={} links={}", list(peers), list(links))
            }
            Entry::Handshake(input) => handshake_input(f, input),
        }
    }
}

fn detector_input(f: &mut fmt::Formatter<'_>, input: &detector::Input) -> fmt::Result {
    use detector::Input;
    match input {
        Input::Cell(event) => {
            let Event { stamp_ns, cell, by_timer, from, to, heard_ns, unanswered_ns, .. } = event;
            write!(f, "detector cell stamp={stamp_ns} cell={cell} by_timer={by_timer} from={from} to={to}")?;
            write!(f, " heard={heard_ns} unanswered={unanswered_ns} credit={}", event.credit_ns)?;
            write!(f, " incarnation={} age={} flags={}", event.incarnation, event.daemon_age_us, event.flags)
        }
        Input::OwnLink { link, up, stamp_ns } => {
            write!(f, "detector own_link link={link} up={} stamp={stamp_ns}", u8::from(*up))
        }
        Input::Accepted { slot, incarnation, previous, stamp_ns } => {
            let previous = list(previous);
            write!(f, "detector accepted slot={slot} incarnation={incarnation} previous={previous}")?;
            write!(f, " stamp={stamp_ns}")
        }
        Input::Timeout => write!(f, "detector timeout"),
    }
}

fn handshake_input(f: &mut fmt::Formatter<'_>, input: &handshake::Input) -> fmt::Result {
    use handshake::Input;
    match input {
        Input::Frame { link, frame } => {
            write!(f, "handshake frame link={link} words={}", list(frame.0))
        }
        Input::Nonces(nonces) => write!(f, "handshake nonces values={}", list(nonces)),
        Input::Heard { slot } => write!(f, "handshake heard slot={slot}"),
        Input::Silent { slot } => write!(f, "handshake silent slot={slot}"),
        Input::Adopted { slot, incarnation } => {
            write!(f, "handshake adopted slot={slot} incarnation={incarnation}")
        }
        Input::ConfigVersion(version) => write!(f, "handshake config version={version}"),
        Input::Timeout => write!(f, "handshake timeout"),
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

impl FromStr for Record {
    type Err = RecordError;

    fn from_str(line: &str) -> Result<Self, RecordError> {
        let mut words = Words(line.split(' '));
        let now_ns = parsed(words.word("time")?, "time")?;
        let entry = match (words.word("machine")?, words.word("input")?) {
            ("detector", "built") => Entry::DetectorBuilt(words.detector_config()?),
            ("detector", input) => Entry::Detector(words.detector_input(input)?),
            ("handshake", "built") => Entry::HandshakeBuilt(words.handshake_config()?),
            ("handshake", input) => Entry::Handshake(words.handshake_input(input)?),
            (found, _) => return Err(unexpected(found, "machine")),
        };
        match words.0.next() {
            Some(more) => Err(RecordError::TooMuch(more.to_string())),
            None => Ok(Self { now_ns, entry }),
        }
    }
}

/// The words of a line that are still to be read.
struct Words<'a>(std::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn word(&mut self, name: &'static str) -> Result<&'a str, RecordError> {
        self.0.next().ok_or(RecordError::Missing(name))
    }

    /// The text of `name=text`.
    fn text(&mut self, name: &'static str) -> Result<&'a str, RecordError> {
        let word = self.word(name)?;
        let text = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
        text.ok_or_else(|| unexpected(word, name))
    }

    fn number<T: FromStr>(&mut self, name: &'static str) -> Result<T, RecordError> {
        parsed(self.text(name)?, name)
    }

    fn numbers<T: FromStr>(&mut self, name: &'static str) -> Result<Vec<T>, RecordError> {
        split(self.text(name)?, ',').map(|item| parsed(item, name)).collect()
    }

    fn detector_config(&mut self) -> Result<detector::Config, RecordError> {
        let (own, peers) = (self.number("own")?, self.numbers("peers")?);
        let links = split(self.text("links")?, ',').map(|link| {
            let [index, interval_ns, deadline_ns] = triple(link, "links")?;
            let link = u8::try_from(index).map_err(|_| unexpected(link, "links"))?;
            Ok(LinkTimes { link, interval_ns, deadline_ns })
        });
        let links = links.collect::<Result<_, RecordError>>()?;
        let daemon_stall_ns = self.number("stall")?;
        let [min_ns, max_ns, memory_ns] = triple(self.text("damping")?, "damping")?;
        let damping = Damping { min_ns, max_ns, memory_ns };
        Ok(detector::Config { own, peers, links, daemon_stall_ns, damping })
    }

    fn detector_input(&mut self, input: &str) -> Result<detector::Input, RecordError> {
        use detector::Input;
        Ok(match input {
            "cell" => Input::Cell(Event {
                stamp_ns: self.number("stamp")?,
                cell: self.number("cell")?,
                by_timer: self.number("by_timer")?,
                from: self.number("from")?,
                to: self.number("to")?,
                heard_ns: self.number("heard")?,
                unanswered_ns: self.number("unanswered")?,
                credit_ns: self.number("credit")?,
                incarnation: self.number("incarnation")?,
                daemon_age_us: self.number("age")?,
                flags: self.number("flags")?,
            }),
            "own_link" => Input::OwnLink {
                link: self.number("link")?,
                up: self.number::<u8>("up")? != 0,
                stamp_ns: self.number("stamp")?,
            },
            "accepted" => Input::Accepted {
                slot: self.number("slot")?,
                incarnation: self.number("incarnation")?,
                previous: self.numbers("previous")?.first().copied(),
                stamp_ns: self.number("stamp")?,
            },
            "timeout" => Input::Timeout,
            other => return Err(unexpected(other, "input")),
        })
    }

    fn handshake_config(&mut self) -> Result<handshake::Config, RecordError> {
        Ok(handshake::Config {
            own: self.number("own")?,
            incarnation: self.number("incarnation")?,
            cluster_id: self.number("cluster")?,
            config_version: self.number("config")?,
            peers: self.numbers("peers")?,
            links: self.numbers("links")?,
        })
    }

    fn handshake_input(&mut self, input: &str) -> Result<handshake::Input, RecordError> {
        use handshake::Input;
        Ok(match input {
            "frame" => {
                let link = self.number("link")?;
                let text = self.text("words")?;
                let words: Result<Vec<u64>, _> = split(text, ',').map(|word| parsed(word, "words")).collect();
                let words: [u64; FRAME_WORDS] = words?.try_into().map_err(|_| unexpected(text, "words"))?;
                Input::Frame { link, frame: Frame(words) }
            }
            "nonces" => Input::Nonces(self.numbers("values")?),
            "heard" => Input::Heard { slot: self.number("slot")? },
            "silent" => Input::Silent { slot: self.number("slot")? },
            "adopted" => {
                Input::Adopted { slot: self.number("slot")?, incarnation: self.number("incarnation")? }
            }
            "config" => Input::ConfigVersion(self.number("version")?),
            "timeout" => Input::Timeout,
            other => return Err(unexpected(other, "input")),
        })
    }
}

fn unexpected(found: &str, expected: &'static str) -> RecordError {
    RecordError::Unexpected { found: found.to_string(), expected }
}

fn parsed<T: FromStr>(text: &str, name: &'static str) -> Result<T, RecordError> {
    text.parse().map_err(|_| unexpected(text, name))
}

/// The items of a list; an empty text has none.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    text.split(at).filter(|item| !item.is_empty())
}

fn triple(text: &str, name: &'static str) -> Result<[u64; 3], RecordError> {
    let numbers: Result<Vec<u64>, _> = text.split(':').map(|number| parsed(number, name)).collect();
    numbers?.try_into().map_err(|_| unexpected(text, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbeat_common::frame::Kind;

    fn lines() -> Vec<Record> {
        use detector::Input as Seen;
        use handshake::Input as Said;
        let link = |link| LinkTimes { link, interval_ns: 5, deadline_ns: 20 };
        let frame = Frame::new(Kind::Hello);
        let event =
            Event { stamp_ns: 9, cell: 65, to: 3, incarnation: u64::MAX, flags: 2, ..Event::default() };
        let entries = [
            Entry::DetectorBuilt(detector::Config {
                own: 3,
                peers: vec![1, 2],
                links: vec![link(0), link(1)],
                daemon_stall_ns: 7,
                damping: Damping::default(),
            }),
            Entry::Detector(Seen::Cell(event)),
            Entry::Detector(Seen::OwnLink { link: 1, up: true, stamp_ns: 3 }),
            Entry::Detector(Seen::Accepted { slot: 1, incarnation: 2, previous: None, stamp_ns: 3 }),
            Entry::Detector(Seen::Accepted { slot: 1, incarnation: 2, previous: Some(1), stamp_ns: 3 }),
            Entry::Detector(Seen::Timeout),
            Entry::HandshakeBuilt(handshake::Config {
                own: 3,
                incarnation: 1,
                cluster_id: 2,
                config_version: 3,
                peers: vec![],
                links: vec![0, 7],
            }),
            Entry::Handshake(Said::Frame { link: 7, frame }),
            Entry::Handshake(Said::Nonces(vec![1, u64::MAX])),
            Entry::Handshake(Said::Nonces(vec![])),
            Entry::Handshake(Said::Heard { slot: 63 }),
            Entry::Handshake(Said::Silent { slot: 0 }),
            Entry::Handshake(Said::Adopted { slot: 1, incarnation: 4 }),
            Entry::Handshake(Said::ConfigVersion(5)),
            Entry::Handshake(Said::Timeout),
        ];
        (1..).zip(entries).map(|(now_ns, entry)| Record { now_ns, entry }).collect()
    }

    #[test]
    fn every_entry_reads_back() {
        for record in lines() {
            let line = record.to_string();
            assert!(!line.contains('\n'));
            assert_eq!(line.parse(), Ok(record), "{line}");
        }
    }

    #[test]
    fn a_line_cut_short_or_with_more_is_refused() {
        for record in lines() {
            let line = record.to_string();
            let words: Vec<&str> = line.split(' ').collect();
            for count in 0..words.len() {
                assert!(words[..count].join(" ").parse::<Record>().is_err(), "{count} words of {line}");
            }
            let more = format!("{line} more").parse::<Record>();
            assert_eq!(more, Err(RecordError::TooMuch("more".into())));
        }
        let wrong = "1 detector own_link up=1 link=2 stamp=3".parse::<Record>();
        assert_eq!(wrong, Err(RecordError::Unexpected { found: "up=1".into(), expected: "link" }));
    }

    #[test]
    fn an_input_needs_its_machine() {
        let mut replay = Replay::default();
        for record in lines() {
            let is_built = matches!(record.entry, Entry::DetectorBuilt(_) | Entry::HandshakeBuilt(_));
            assert_eq!(replay.clone().apply(&record).is_ok(), is_built || replay.detector.is_some());
            // The handshake is built later than the detector and before its own inputs.
            replay.apply(&record).expect("in order");
        }
        assert!(replay.handshake.is_some());
    }
}
