//! One service address: what is wanted of it, what has become of it, and what is to be done next.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringbeat_config::Service;
use tokio::io::unix::AsyncFd;

use super::ear::Ear;
use super::netlink::Found;
use super::wire::{self, Claim};
use crate::sys::packet::PacketSocket;

/// When an address that was taken is announced, after the order to: at once, for those who lost that one, and for those who
/// were away.
const ANNOUNCE_MS: [u64; 7] = [0, 2, 10, 50, 200, 1000, 3000];
/// A stranger is told of so often at the most; another one after [`CONFLICT_GRACE`].
const CONFLICT_EVERY: Duration = Duration::from_secs(60);
/// Whoever takes the address off so often within [`FIGHT`] may have it off, if others can serve it.
const FIGHTS_MAX: u32 = 20;
/// See [`FIGHTS_MAX`].
const FIGHT: Duration = Duration::from_secs(10);
/// Between two tries from then on.
const FIGHT_PAUSE: Duration = Duration::from_millis(500);
/// The former holder's last words may still be on their way for so long.
const CONFLICT_GRACE: Duration = Duration::from_secs(1);

/// What the daemon wants of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing: it is not here, as far as is known.
    Nothing,
    /// That it is on this interface, and on no other: this is where its gate stands.
    Held(u32),
    /// That it is on none.
    Gone,
}

/// An address and what is done with it.
pub(super) struct Place {
    pub(super) service: Service,
    pub(super) wish: Wish,
    pub(super) held_since: Option<Instant>,
    /// Whether somebody took it off, and it is not back yet.
    pub(super) is_taken_away: bool,
    fight: Fight,
    /// When the wish is to be tried next.
    pub(super) try_at: Option<Instant>,
    /// Why it was not fulfilled when it was tried last, and when that was told.
    pub(super) why: String,
    pub(super) told_at: Option<Instant>,
    announced_from: Option<Instant>,
    /// Announcements that are out.
    said: usize,
    /// The socket of announcements, and the interface that it is on.
    voice: Option<(u32, PacketSocket)>,
    /// The socket by which strangers are heard, and the interface that it is on.
    ear: Option<(u32, Arc<AsyncFd<Ear>>)>,
    strangers: u32,
    told_conflict: Option<(Instant, [u8; 6])>,
}

impl Place {
    pub(super) const fn new(service: Service) -> Self {
        Self {
            service,
            wish: Wish::Nothing,
            held_since: None,
            is_taken_away: false,
            fight: Fight { since: None, times: 0 },
            try_at: None,
            why: String::new(),
            told_at: None,
            announced_from: None,
            said: 0,
            voice: None,
            ear: None,
            strangers: 0,
            told_conflict: None,
        }
    }

    /// Another wish; what was done for the last one is forgotten.
    pub(super) fn wish(&mut self, wish: Wish) {
        self.wish = wish;
        (self.held_since, self.is_taken_away, self.strangers) = (None, false, 0);
        self.try_at = (wish != Wish::Nothing).then(Instant::now);
        self.why.clear();
        if !matches!(wish, Wish::Held(_)) {
            self.announced_from = None;
        }
    }

    /// It is to be announced from now on, as long as it is wanted.
    pub(super) fn announce_from(&mut self, now: Instant) {
        if matches!(self.wish, Wish::Held(_)) {
            (self.announced_from, self.said) = (Some(now), 0);
        }
    }

    /// When something is to be done for it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.announcement_due().into_iter().chain(self.try_at).min()
    }

    /// When the next announcement leaves.
    fn announcement_due(&self) -> Option<Instant> {
        let ms = ANNOUNCE_MS.get(self.said)?;
        Some(self.announced_from.filter(|_| self.held_since.is_some())? + Duration::from_millis(*ms))
    }

    /// The announcement that is due, if one is.
    pub(super) fn announce_if_due(&mut self, now: Instant) {
        if self.takes_announcement(now) {
            self.announce();
        }
    }

    /// Whether one is due; it counts as made then.
    fn takes_announcement(&mut self, now: Instant) -> bool {
        let is_due = self.announcement_due().is_some_and(|at| at <= now);
        self.said += usize::from(is_due);
        is_due
    }

    fn announce(&mut self) {
        let address = self.service.address();
        let said = self.voice().and_then(|voice| {
            wire::announcements(address, voice.mac()).iter().try_for_each(|frame| voice.send(frame))
        });
        if let Err(error) = said {
            tracing::debug!(address = %self.service, %error, "an announcement could not leave");
        }
    }

    /// The socket of announcements, on its interface.
    fn voice(&mut self) -> io::Result<&PacketSocket> {
        let Wish::Held(ifindex) = self.wish else { return Err(io::ErrorKind::NotFound.into()) };
        let there = self.voice.take().filter(|(of, _)| *of == ifindex);
        let voice = there.map_or_else(|| PacketSocket::open(ifindex, 0).map(|new| (ifindex, new)), Ok)?;
        Ok(&self.voice.insert(voice).1)
    }

    /// Opens voice and ear on its interface, if they are not there yet.
    pub(super) fn listen(&mut self) -> io::Result<()> {
        let Wish::Held(ifindex) = self.wish else { return Err(io::ErrorKind::NotFound.into()) };
        self.voice()?;
        if self.ear.as_ref().is_some_and(|(of, _)| *of == ifindex) {
            return Ok(());
        }
        self.ear = None;
        let ear = Ear::open(ifindex, self.service.address())?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; our socket owns one descriptor for its whole life"
        )]
        let ear = AsyncFd::new(ear)?;
        self.ear = Some((ifindex, Arc::new(ear)));
        Ok(())
    }

    /// The socket by which strangers are heard, while it is held.
    pub(super) fn ear(&self) -> Option<Arc<AsyncFd<Ear>>> {
        self.held_since?;
        Some(Arc::clone(&self.ear.as_ref()?.1))
    }

    /// Whether it was held, and is not among these any more.
    pub(super) fn is_missing(&self, there: &[Found]) -> bool {
        let Wish::Held(ifindex) = self.wish else { return false };
        let is_it = |found: &Found| found.address == self.service.address() && found.ifindex == ifindex;
        self.held_since.is_some() && !there.iter().any(is_it)
    }

    /// Somebody took it off: it is to be put back at once. Or, once there is no end to it, why it is not.
    pub(super) fn taken_away(&mut self, now: Instant) -> Option<String> {
        (self.held_since, self.is_taken_away) = (None, true);
        if !self.fight.is_endless(now) {
            self.try_at = Some(now);
            return None;
        }
        // Should nobody else be able to, it is tried on.
        self.try_at = Some(now + FIGHT_PAUSE);
        let interface = self.service.interface();
        Some(format!("{} on {interface}: something else takes it off again and again", self.service))
    }

    /// A stranger who says so twice, or once when nobody else can be meant.
    pub(super) fn strange(&mut self, Claim { address, mac }: Claim, now: Instant) -> bool {
        let own = self.voice.as_ref().map(|(_, voice)| voice.mac());
        let Some(since) = self.held_since else { return false };
        if address != self.service.address() || own == Some(mac) {
            return false;
        }
        self.strangers += 1;
        let sure = now > since + CONFLICT_GRACE || self.strangers > 4;
        let told = self
            .told_conflict
            .is_some_and(|(at, who)| now < at + if who == mac { CONFLICT_EVERY } else { CONFLICT_GRACE });
        if !sure || told {
            return false;
        }
        self.told_conflict = Some((now, mac));
        true
    }
}

/// How often the address is taken off.
#[derive(Debug, Default)]
struct Fight {
    since: Option<Instant>,
    times: u32,
}

impl Fight {
    /// Once more. Whether that is too often.
    fn is_endless(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + FIGHT) {
            (self.since, self.times) = (Some(now), 0);
        }
        self.times += 1;
        self.times > FIGHTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_several_and_spaced() {
        let example = include_str!("../../config/example.toml");
        let config =
            ringbeat_config::Config::parse(example, "example.toml", Some("n1")).expect("the example");
        let mut place = Place::new(config.services()[0].clone());
        let start = Instant::now();
        place.wish(Wish::Held(1));
        place.announce_from(start);
        assert!(!place.takes_announcement(start), "it is not on its interface yet");
        place.held_since = Some(start);
        let ms = |ms: &u64| place.takes_announcement(start + Duration::from_millis(*ms));
        let made: Vec<u64> = (0..6000).filter(ms).collect();
        assert_eq!(made, [0, 2, 10, 50, 200, 1000, 3000]);
    }

    #[test]
    fn what_is_taken_off_is_put_back_but_not_for_ever() {
        let (mut fight, start) = (Fight::default(), Instant::now());
        assert!((0..FIGHTS_MAX).all(|_| !fight.is_endless(start)));
        assert!(fight.is_endless(start));
        assert!(!fight.is_endless(start + FIGHT), "that is another one");
    }
}
