//! What extended virtual synchrony promises, looked for in what the nodes were told.
//!
//! Numbers are those of the specifications in Moser, Amir, Melliar-Smith, Agarwal, "Extended Virtual Synchrony" (1994),
//! section 3. A node that has crashed is bound to nothing afterwards.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use ringbeat_common::view::View;

/// What is in a message: which one it is, and filler that shows damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Body {
    pub(crate) slot: u8,
    pub(crate) life: u32,
    pub(crate) counter: u32,
    pub(crate) safe: bool,
}

const HEAD: usize = 10;

impl Body {
    /// With so many bytes of filler.
    pub(crate) fn to_bytes(self, filler: usize) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEAD + filler);
        bytes.put_slice(&[self.slot, u8::from(self.safe)]);
        bytes.put_u32_le(self.life);
        bytes.put_u32_le(self.counter);
        bytes.extend((0..filler).map(|at| self.filler(at)));
        bytes.freeze()
    }

    /// None if it is damaged.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let ([slot, safe, life @ .., _, _, _, _], rest) = bytes.split_first_chunk::<HEAD>()?;
        let counter = u32::from_le_bytes(*bytes[6..].first_chunk()?);
        let body = Self { slot: *slot, life: u32::from_le_bytes(*life), counter, safe: *safe == 1 };
        rest.iter().enumerate().all(|(at, byte)| *byte == body.filler(at)).then_some(body)
    }

    const fn filler(self, at: usize) -> u8 {
        (self.counter as usize * 31 + self.slot as usize * 7 + at) as u8
    }
}

/// What a node was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Message { from: u8, body: Option<Body> },
    Transitional(u64),
    Regular(View),
}

/// All that one life of a node was told.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) slot: u8,
    pub(crate) life: u32,
    pub(crate) told: Vec<Told>,
    /// How much had been told when each of its messages was taken.
    pub(crate) submits: Vec<usize>,
    pub(crate) has_crashed: bool,
}

impl Log {
    /// How many of its own messages it has delivered.
    pub(crate) fn own(&self) -> u32 {
        let own = |told: &&Told| matches!(told, Told::Message { from, .. } if *from == self.slot);
        self.told.iter().filter(own).count() as u32
    }
}

/// A configuration as one node lived it.
#[derive(Clone, Debug)]
struct Stay {
    log: usize,
    view: View,
    /// The place of its first entry in the log.
    begin: usize,
    messages: Vec<Body>,
    /// Of those, so many before the transitional configuration.
    regular: usize,
    /// Who went on together, once that is told.
    together: Option<u64>,
    next: Option<View>,
}

/// What of all that was met in a history.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Met {
    pub(crate) stays: u64,
    pub(crate) messages: u64,
    pub(crate) transitional: u64,
    pub(crate) safe_transitional: u64,
    pub(crate) parted: u64,
    pub(crate) merged: u64,
}

/// The first promise that is broken.
pub(crate) fn judge(logs: &[Log], met: &mut Met) -> Result<(), String> {
    let mut stays = Vec::new();
    for (index, log) in logs.iter().enumerate() {
        stays.extend(stays_of(index, log)?);
    }
    for log in logs {
        is_once_and_in_order(log, logs)?;
        is_self_delivered(log)?;
    }
    let mut by_view: BTreeMap<(u64, u8), Vec<&Stay>> = BTreeMap::new();
    for stay in &stays {
        by_view.entry((stay.view.epoch, stay.view.proposer())).or_default().push(stay);
    }
    for together in by_view.values() {
        one_order(together)?;
        agreed(together)?;
        safe(together, logs)?;
        causal(together, logs)?;
    }
    for stay in &stays {
        met.stays += 1;
        met.messages += stay.messages.len() as u64;
        met.transitional += (stay.messages.len() - stay.regular) as u64;
        met.safe_transitional += stay.messages[stay.regular..].iter().filter(|body| body.safe).count() as u64;
        met.parted += u64::from(stay.together.is_some_and(|together| together != stay.view.members));
        met.merged +=
            u64::from(stay.next.zip(stay.together).is_some_and(|(next, set)| next.members & !set != 0));
    }
    Ok(())
}

/// Configurations come in their order, and every message lies in one of which its sender is a member (1.2, 1.3, 2).
fn stays_of(index: usize, log: &Log) -> Result<Vec<Stay>, String> {
    let who = || format!("{} in life {}", log.slot, log.life);
    let mut stays: Vec<Stay> = Vec::new();
    for (place, told) in log.told.iter().enumerate() {
        match told {
            Told::Regular(view) => {
                if let Some(last) = stays.last_mut() {
                    if last.view >= *view {
                        return Err(format!("views fall: {} is told {view:?} after {:?}", who(), last.view));
                    }
                    if last.together.is_none() {
                        return Err(format!("{} is told {view:?} without who came with it", who()));
                    }
                    last.next = Some(*view);
                }
                if !view.has(log.slot) {
                    return Err(format!("{} is told {view:?}, and is no member", who()));
                }
                let begin = place + 1;
                let fresh = Stay {
                    log: index,
                    view: *view,
                    begin,
                    messages: Vec::new(),
                    regular: 0,
                    together: None,
                    next: None,
                };
                stays.push(fresh);
            }
            Told::Transitional(members) => {
                let last = stays.last_mut().filter(|last| last.together.is_none());
                let last = last.ok_or_else(|| format!("{} is transitional from nowhere", who()))?;
                if members & !last.view.members != 0 || members >> log.slot & 1 == 0 {
                    return Err(format!("{} goes on with {members:b} from {:?}", who(), last.view));
                }
                last.together = Some(*members);
                last.regular = last.messages.len();
            }
            Told::Message { from, body } => {
                let last = stays.last_mut().ok_or_else(|| format!("{} delivers before any view", who()))?;
                let body = body.filter(|body| body.slot == *from);
                let body = body.ok_or_else(|| format!("{} delivers damage from {from}", who()))?;
                if !last.view.has(*from) {
                    return Err(format!("{} delivers {body:?} of no member of {:?}", who(), last.view));
                }
                last.messages.push(body);
            }
        }
    }
    for stay in &mut stays {
        if stay.together.is_none() {
            stay.regular = stay.messages.len();
        }
    }
    Ok(stays)
}

/// No message that nobody sent, none twice, those of one sender in their order (1.1, 1.4), without holes while the
/// configuration is regular.
fn is_once_and_in_order(log: &Log, logs: &[Log]) -> Result<(), String> {
    let mut last: BTreeMap<(u8, u32), (u32, usize)> = BTreeMap::new();
    let (mut stay, mut is_regular) = (0, true);
    for told in &log.told {
        match told {
            Told::Regular(_) => (stay, is_regular) = (stay + 1, true),
            Told::Transitional(_) => is_regular = false,
            Told::Message { body: Some(body), .. } => {
                let sent = logs.iter().find(|log| (log.slot, log.life) == (body.slot, body.life));
                if sent.is_none_or(|sent| body.counter as usize >= sent.submits.len()) {
                    return Err(format!("{} delivers {body:?}, which nobody sent", log.slot));
                }
                if let Some((before, then)) = last.insert((body.slot, body.life), (body.counter, stay)) {
                    if before >= body.counter {
                        return Err(format!("{} delivers {body:?} after number {before}", log.slot));
                    }
                    if is_regular && then == stay && before + 1 != body.counter {
                        return Err(format!("{} delivers {body:?} right after number {before}", log.slot));
                    }
                }
            }
            Told::Message { .. } => {}
        }
    }
    Ok(())
}

/// Whoever has not crashed has delivered all its own messages (3), once all is calm.
fn is_self_delivered(log: &Log) -> Result<(), String> {
    if !log.has_crashed && log.own() as usize != log.submits.len() {
        return Err(format!("{} has delivered {} of its own {}", log.slot, log.own(), log.submits.len()));
    }
    Ok(())
}

/// Any two nodes deliver what both deliver in the same order (6).
fn one_order(stays: &[&Stay]) -> Result<(), String> {
    for (index, one) in stays.iter().enumerate() {
        let places: BTreeMap<Body, usize> =
            one.messages.iter().enumerate().map(|(at, body)| (*body, at)).collect();
        for other in &stays[index + 1..] {
            let mut last = None;
            for body in &other.messages {
                let place = places.get(body).copied();
                if place.is_some() && place < last {
                    return Err(format!("logs {} and {} have {body:?} in another order", one.log, other.log));
                }
                last = place.or(last);
            }
        }
    }
    Ok(())
}

/// Who goes from one configuration to the next together has delivered the same, and knows who it was with (4).
fn agreed(stays: &[&Stay]) -> Result<(), String> {
    for (index, one) in stays.iter().enumerate() {
        for other in &stays[index + 1..] {
            if one.next.is_none() || one.next != other.next {
                continue;
            }
            if one.together != other.together {
                return Err(format!(
                    "logs {} and {} go on together, and do not agree with whom",
                    one.log, other.log
                ));
            }
            if one.messages != other.messages || one.regular != other.regular {
                let at =
                    one.messages.iter().zip(&other.messages).take_while(|(one, other)| one == other).count();
                return Err(format!(
                    "logs {} and {} go on together from {:?} and differ at {at}: {:?} of {} ({} regular) and {:?} of {} ({} regular)",
                    one.log,
                    other.log,
                    one.view,
                    one.messages.get(at),
                    one.messages.len(),
                    one.regular,
                    other.messages.get(at),
                    other.messages.len(),
                    other.regular
                ));
            }
        }
    }
    Ok(())
}

/// A safe message that one delivers in a configuration every member of it delivers, unless it crashes (7).
fn safe(stays: &[&Stay], logs: &[Log]) -> Result<(), String> {
    for one in stays {
        for (place, body) in one.messages.iter().enumerate().filter(|(_, body)| body.safe) {
            let members = if place < one.regular { one.view.members } else { one.together.unwrap_or(0) };
            for slot in (0..64u8).filter(|slot| members >> slot & 1 == 1) {
                let stay = stays.iter().find(|stay| logs[stay.log].slot == slot);
                let has = stay.is_some_and(|stay| logs[stay.log].has_crashed || stay.messages.contains(body));
                // Whoever never got into the configuration may have crashed before; then its slot has another life.
                let gone = stay.is_none() && logs.iter().any(|log| log.slot == slot && log.has_crashed);
                if !has && !gone {
                    return Err(format!(
                        "log {} delivers {body:?} as safe in {:?} ({} of {}, {} regular), and {slot} does not",
                        one.log,
                        one.view,
                        place,
                        one.messages.len(),
                        one.regular
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Whatever its sender had delivered before, in the same configuration, comes before it (5).
fn causal(stays: &[&Stay], logs: &[Log]) -> Result<(), String> {
    for one in stays {
        let places: BTreeMap<Body, usize> =
            one.messages.iter().enumerate().map(|(at, body)| (*body, at)).collect();
        let senders: BTreeSet<(u8, u32)> = one.messages.iter().map(|body| (body.slot, body.life)).collect();
        for (slot, life) in senders {
            let sender = stays.iter().find(|stay| (logs[stay.log].slot, logs[stay.log].life) == (slot, life));
            // A message is sent in the configuration in which it is delivered (1.3).
            let Some(sender) = sender else {
                return Err(format!(
                    "log {} delivers messages of {slot} in {:?}, where it was not",
                    one.log, one.view
                ));
            };
            let mut checked = 0;
            for (place, body) in one.messages.iter().enumerate() {
                if (body.slot, body.life) != (slot, life) {
                    continue;
                }
                let told = logs[sender.log].submits[body.counter as usize];
                let entries = logs[sender.log].told[sender.begin.min(told)..told].iter();
                let known = entries.filter(|told| matches!(told, Told::Message { .. })).count();
                for before in &sender.messages[checked.min(known)..known] {
                    if places.get(before).is_none_or(|at| *at >= place) {
                        return Err(format!(
                            "log {} delivers {body:?} without {before:?}, which its sender knew",
                            one.log
                        ));
                    }
                }
                checked = checked.max(known);
            }
        }
    }
    Ok(())
}
