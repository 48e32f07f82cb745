//! The thread's own loop: orders, what is due, and what the kernel and the neighbours say of the addresses.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedReceiver;

use super::ear::Ear;
use super::netlink::{Netlink, NetlinkError, Notes};
use super::place::{Place, Wish};
use super::sweep::Sweep;
use super::wire::Claim;
use super::{Done, Order};
use crate::sys::clock::boot_ns;
use crate::sys::socket::interface_index;

/// What has failed is tried again so often, as long as nobody calls it off.
const AGAIN: Duration = Duration::from_millis(100);
/// What is still so is told again: in the meantime somebody else may have become able.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// So many looks in a row that show nothing are no accident.
const BLIND_MAX: u32 = 5;
/// Between two looks at what is on the interfaces, should the kernel have said nothing.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at the least, however much it says.
const LOOK_LEAST: Duration = Duration::from_millis(10);

/// The way back to the main loop.
pub(super) struct Teller {
    pub(super) say: Sender<Done>,
    pub(super) wake: Arc<OwnedFd>,
}

impl Teller {
    pub(super) fn tell(&self, done: Done) {
        let _ = self.say.send(done);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

/// What the thread works on.
pub(super) struct Worker<'teller> {
    pub(super) places: Vec<Place>,
    pub(super) teller: &'teller Teller,
    /// Looks in a row that have shown nothing.
    pub(super) blind: u32,
}

impl Worker<'_> {
    /// Runs until nobody orders any more. An error is that there is no netlink to begin with.
    pub(super) async fn run(mut self, mut orders: UnboundedReceiver<Order>) -> Result<(), NetlinkError> {
        let mut netlink = Netlink::open()?;
        let notes = Notes::listen()
            .inspect_err(|error| tracing::warn!(%error, "addresses are looked at once a second only"))
            .ok();
        let mut looked = Instant::now();
        let mut look_at = looked + LOOK;
        loop {
            let holds = self.places.iter().any(|place| place.held_since.is_some());
            let due = self.places.iter().filter_map(Place::due);
            let due = due.chain(holds.then_some(look_at)).min();
            let ears: Vec<_> = self.places.iter().filter_map(Place::ear).collect();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(order, &mut netlink),
                    None => return Ok(()),
                },
                () = until(due) => {}
                () = some(notes.as_ref()) => look_at = look_at.min(looked + LOOK_LEAST),
                claim = hear(&ears) => self.take(claim),
            }
            let now = Instant::now();
            if look_at <= now {
                (looked, look_at) = (now, now + LOOK);
                self.look(&mut netlink, now);
            }
            self.work(&mut netlink);
        }
    }

    fn carry_out(&mut self, order: Order, netlink: &mut Netlink) {
        match order {
            Order::Hold { index, ifindex } => self.wish(index, Wish::Held(ifindex)),
            Order::Release(index) => self.wish(index, Wish::Gone),
            Order::Announce(index) => {
                if let Some(place) = self.places.get_mut(index) {
                    place.announce_from(Instant::now());
                }
            }
            Order::Clear(extra) => {
                self.places.iter_mut().for_each(|place| place.wish(Wish::Nothing));
                let own = self.places.iter().map(|place| place.service.address());
                let sweep = Sweep { gone: own.chain(extra).collect(), kept: Vec::new() };
                self.teller.tell(Done::Cleared(sweep.run(netlink)));
            }
            Order::ClearStrays(extra) => {
                let own = self.places.iter().map(|place| place.service.address());
                let here = self.places.iter().filter_map(|place| {
                    Some((place.service.address(), interface_index(place.service.interface()).ok()?))
                });
                let sweep = Sweep { gone: own.chain(extra).collect(), kept: here.collect() };
                self.teller.tell(Done::Cleared(sweep.run(netlink)));
            }
        }
    }

    fn wish(&mut self, index: usize, wish: Wish) {
        if let Some(place) = self.places.get_mut(index) {
            place.wish(wish);
        }
    }

    /// Wishes and announcements that are due.
    fn work(&mut self, netlink: &mut Netlink) {
        for index in 0..self.places.len() {
            let place = &mut self.places[index];
            if place.try_at.is_some_and(|at| at <= Instant::now()) {
                place.try_at = None;
                let done = match place.wish {
                    Wish::Nothing => continue,
                    Wish::Held(ifindex) => hold(place, index, ifindex, netlink),
                    Wish::Gone => release(place, index, netlink),
                };
                let place = &mut self.places[index];
                match done {
                    Ok(done) => {
                        place.why.clear();
                        self.teller.tell(done);
                    }
                    Err(failed) => {
                        place.try_at = Some(Instant::now() + AGAIN);
                        let (Done::Failed { why, .. } | Done::Stuck { why, .. }) = &failed else { continue };
                        let now = Instant::now();
                        let again = matches!(failed, Done::Failed { .. })
                            && place.told_at.is_none_or(|at| now >= at + TELL_AGAIN);
                        if place.why != *why || again {
                            place.why.clone_from(why);
                            place.told_at = Some(now);
                            self.teller.tell(failed);
                        }
                    }
                }
            }
            self.places[index].announce_if_due(Instant::now());
        }
    }

    /// Whether what is held is still there; what is not, is to be put back at once, unless it is taken off again and again.
    fn look(&mut self, netlink: &mut Netlink, now: Instant) {
        if self.places.iter().all(|place| place.held_since.is_none()) {
            return;
        }
        let there = match netlink.addresses() {
            Ok(there) => there,
            Err(error) => {
                tracing::debug!(%error, "the interfaces' addresses cannot be told");
                self.blind += 1;
                if self.blind >= BLIND_MAX {
                    let held = self.places.iter().enumerate().filter(|(_, place)| place.held_since.is_some());
                    for (index, place) in held {
                        let why =
                            format!("nobody can tell whether {} is still there: {error}", place.service);
                        self.teller.tell(Done::Failed { index, why });
                    }
                }
                return;
            }
        };
        self.blind = 0;
        for (index, place) in self.places.iter_mut().enumerate() {
            if place.is_missing(&there)
                && let Some(why) = place.taken_away(now)
            {
                self.teller.tell(Done::Failed { index, why });
            }
        }
    }

    fn take(&mut self, claim: Claim) {
        let now = Instant::now();
        for (index, place) in self.places.iter_mut().enumerate() {
            if place.strange(claim, now) {
                self.teller.tell(Done::Conflict { index, mac: claim.mac });
            }
        }
    }
}

/// Puts the address on its interface; tells that, or why not.
fn hold(place: &mut Place, index: usize, ifindex: u32, netlink: &mut Netlink) -> Result<Done, Done> {
    netlink.add(place.service.address(), place.service.prefix_len(), ifindex).map_err(|error| {
        let why = format!("{} on {}: {error}", place.service, place.service.interface());
        Done::Failed { index, why }
    })?;
    place.held_since = Some(Instant::now());
    if let Err(error) = place.listen() {
        tracing::warn!(address = %place.service, %error, "strangers are not heard");
    }
    let was_taken_away = std::mem::take(&mut place.is_taken_away);
    Ok(Done::Held { index, stamp_ns: boot_ns(), was_taken_away })
}

/// Takes the address off, wherever it is; tells that it is nowhere, or what is left.
fn release(place: &mut Place, index: usize, netlink: &mut Netlink) -> Result<Done, Done> {
    let sweep = Sweep { gone: vec![place.service.address()], kept: Vec::new() };
    sweep.run(netlink).map_err(|why| Done::Stuck { index, why })?;
    place.wish(Wish::Nothing);
    Ok(Done::Released { index, stamp_ns: boot_ns() })
}

/// Sleeps until then; for ever if there is nothing to do.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits for notes, if they are heard at all.
async fn some(notes: Option<&Notes>) {
    match notes {
        Some(notes) => notes.some().await,
        None => std::future::pending().await,
    }
}

/// The next claim that any of these hears.
async fn hear(ears: &[Arc<AsyncFd<Ear>>]) -> Claim {
    let mut waiting = tokio::task::JoinSet::new();
    for ear in ears {
        let ear = Arc::clone(ear);
        waiting.spawn(async move {
            loop {
                let Ok(mut ready) = ear.readable().await else { std::future::pending().await };
                if let Ok(Ok(Some(claim))) = ready.try_io(|ear| ear.get_ref().hear()) {
                    return claim;
                }
            }
        });
    }
    match waiting.join_next().await {
        Some(Ok(claim)) => claim,
        _ => std::future::pending().await,
    }
}
