//! Service addresses on interfaces: taken, announced, given up. A thread of its own, so the main loop waits for nothing.
//!
//! It does what it is told and says what came of it; that an address is on an interface opens no gate. Deliberately not
//! there: any decision, and a fight over an address that a stranger uses: that is told, and no more.

pub mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use ringbeat_config::Service;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::{AddressMessageBuilder, Handle};
use rustix::event::{EventfdFlags, eventfd};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::sys::clock::boot_ns;
use crate::sys::packet::PacketSocket;
use crate::sys::socket::interface_index;

/// When an address that was taken is announced, after the order to: at once, for those who lost that one, and for those who
/// were away.
const ANNOUNCE_MS: [u64; 7] = [0, 2, 10, 50, 200, 1000, 3000];
/// A failed addition is tried again so often, as long as nobody calls it off.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the start waits for addresses of a former daemon to go.
const CLEAR_PATIENCE: Duration = Duration::from_secs(5);
/// A stranger is told of so often at the most; another one after [`CONFLICT_GRACE`].
const CONFLICT_EVERY: Duration = Duration::from_secs(60);
/// The former holder's last words may still be on their way for so long.
const CONFLICT_GRACE: Duration = Duration::from_secs(1);
/// The largest ARP frame of interest.
const FRAME_BYTES: usize = 64;

/// What to do.
#[derive(Clone, Copy, Debug)]
enum Order {
    Hold(usize),
    Announce(usize),
    Release(usize),
    Clear,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The address is on its interface.
    Held {
        /// Which.
        index: usize,
        /// Since when.
        stamp_ns: u64,
    },
    /// It is not any more.
    Released {
        /// Which.
        index: usize,
        /// Since when.
        stamp_ns: u64,
    },
    /// It could not be put there; it is tried on.
    Failed {
        /// Which.
        index: usize,
        /// Why.
        why: String,
    },
    /// A stranger says that it is his.
    Conflict {
        /// Which.
        index: usize,
        /// Who.
        mac: [u8; 6],
    },
    /// No address of the cluster is on an interface of this node.
    Cleared,
}

/// The face of the thread.
pub struct Actions {
    orders: UnboundedSender<Order>,
    done: Receiver<Done>,
    wake: Arc<OwnedFd>,
}

impl Actions {
    /// Starts the thread; `enter` runs first in it (scheduling).
    pub fn start(services: &[Service], enter: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (orders, theirs) = unbounded_channel();
        let (say, done) = channel();
        let teller = Teller { say, wake: Arc::clone(&wake) };
        let places = services.iter().cloned().map(Place::new).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("ringbeat-address".to_owned()).spawn(move || {
            enter();
            if let Err(error) = runtime.block_on(Worker { places, teller }.run(theirs)) {
                tracing::error!(%error, "no netlink: addresses cannot be held");
            }
        })?;
        Ok(Self { orders, done, wake })
    }

    /// Takes the address onto its interface. It is not announced yet.
    pub fn hold(&self, index: usize) {
        self.order(Order::Hold(index));
    }

    /// Tells the neighbours, now and some times more.
    pub fn announce(&self, index: usize) {
        self.order(Order::Announce(index));
    }

    /// Takes the address off.
    pub fn release(&self, index: usize) {
        self.order(Order::Release(index));
    }

    /// Takes off what a former daemon left, and waits until that is done.
    pub fn clear(&self) -> io::Result<()> {
        self.order(Order::Clear);
        let end = Instant::now() + CLEAR_PATIENCE;
        loop {
            match self.done.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Done::Cleared) => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// The next news, if there is any.
    pub fn next(&self) -> Option<Done> {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        self.done.try_recv().ok()
    }

    /// Readable when there is news.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn order(&self, order: Order) {
        // The thread is gone only if netlink is, and it has said so.
        let _ = self.orders.send(order);
    }
}

struct Teller {
    say: Sender<Done>,
    wake: Arc<OwnedFd>,
}

impl Teller {
    fn tell(&self, done: Done) {
        let _ = self.say.send(done);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

/// An address and what is done with it.
struct Place {
    service: Service,
    wanted: bool,
    held_since: Option<Instant>,
    announced_from: Option<Instant>,
    /// Announcements that are out.
    said: usize,
    retry_at: Option<Instant>,
    why: String,
    socket: Option<(u32, Arc<AsyncFd<PacketSocket>>)>,
    strangers: u32,
    told_conflict: Option<(Instant, [u8; 6])>,
}

impl Place {
    const fn new(service: Service) -> Self {
        Self {
            service,
            wanted: false,
            held_since: None,
            announced_from: None,
            said: 0,
            retry_at: None,
            why: String::new(),
            socket: None,
            strangers: 0,
            told_conflict: None,
        }
    }

    /// When something is to be done for it.
    fn due(&self) -> Option<Instant> {
        let next = self.announced_from.and_then(|from| {
            let ms = ANNOUNCE_MS.get(self.said)?;
            Some(from + Duration::from_millis(*ms))
        });
        next.into_iter().chain(self.retry_at).min()
    }

    fn index(&self) -> io::Result<u32> {
        interface_index(self.service.interface())
    }

    /// The socket on the interface as it is now.
    fn socket(&mut self) -> io::Result<Arc<AsyncFd<PacketSocket>>> {
        let ifindex = self.index()?;
        if let Some((of, socket)) = &self.socket
            && *of == ifindex
        {
            return Ok(Arc::clone(socket));
        }
        let hears = if self.service.address().is_ipv4() { wire::ARP } else { 0 };
        #[expect(
            deprecated,
            reason = "its successor is unsafe; our socket owns one descriptor for its whole life"
        )]
        let socket = AsyncFd::new(PacketSocket::open(ifindex, hears)?)?;
        let socket = Arc::new(socket);
        self.socket = Some((ifindex, Arc::clone(&socket)));
        Ok(socket)
    }

    fn announce(&mut self) {
        let said = self.socket().and_then(|socket| {
            let frames = wire::announcements(self.service.address(), socket.get_ref().mac());
            frames.iter().try_for_each(|frame| socket.get_ref().send(frame))
        });
        if let Err(error) = said {
            tracing::debug!(address = %self.service, %error, "an announcement could not leave");
        }
    }

    /// A stranger who says so twice, or once when nobody else can be meant.
    fn strange(&mut self, address: Ipv4Addr, mac: [u8; 6], now: Instant) -> bool {
        let own = self.socket.as_ref().map(|(_, socket)| socket.get_ref().mac());
        let Some(since) = self.held_since else { return false };
        if IpAddr::V4(address) != self.service.address() || own == Some(mac) {
            return false;
        }
        self.strangers += 1;
        let sure = now > since + CONFLICT_GRACE || self.strangers > 4;
        let told = self.told_conflict.is_some_and(|(at, who)| {
            now < at + if who == mac { CONFLICT_EVERY } else { CONFLICT_GRACE }
        });
        if !sure || told {
            return false;
        }
        self.told_conflict = Some((now, mac));
        true
    }
}

struct Worker {
    places: Vec<Place>,
    teller: Teller,
}

impl Worker {
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) -> io::Result<()> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        loop {
            let due = self.places.iter().filter_map(Place::due).min();
            let listening: Vec<_> = self.places.iter().filter(|place| place.held_since.is_some()).collect();
            let listening =
                listening.into_iter().filter_map(|place| Some(Arc::clone(&place.socket.as_ref()?.1)));
            let listening: Vec<_> = listening.collect();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(order, &handle).await,
                    None => return Ok(()),
                },
                () = until(due) => {}
                heard = hear(&listening) => self.take(&heard),
            }
            self.work(&handle).await;
        }
    }

    async fn carry_out(&mut self, order: Order, handle: &Handle) {
        match order {
            Order::Hold(index) => {
                if let Some(place) = self.places.get_mut(index) {
                    (place.wanted, place.strangers) = (true, 0);
                    place.retry_at = Some(Instant::now());
                }
            }
            Order::Announce(index) => {
                if let Some(place) = self.places.get_mut(index).filter(|place| place.wanted) {
                    (place.announced_from, place.said) = (Some(Instant::now()), 0);
                }
            }
            Order::Release(index) => {
                if let Some(place) = self.places.get_mut(index) {
                    (place.wanted, place.held_since, place.announced_from, place.retry_at) =
                        (false, None, None, None);
                    remove(place, handle).await;
                    self.teller.tell(Done::Released { index, stamp_ns: boot_ns() });
                }
            }
            Order::Clear => {
                for place in &self.places {
                    remove(place, handle).await;
                }
                self.teller.tell(Done::Cleared);
            }
        }
    }

    /// Additions and announcements that are due.
    async fn work(&mut self, handle: &Handle) {
        for index in 0..self.places.len() {
            let place = &mut self.places[index];
            if place.retry_at.is_some_and(|at| at <= Instant::now()) {
                place.retry_at = None;
                match add(place, handle).await {
                    Ok(()) => {
                        place.held_since = Some(Instant::now());
                        place.why.clear();
                        if let Err(error) = place.socket() {
                            tracing::warn!(address = %place.service, %error, "strangers are not heard");
                        }
                        self.teller.tell(Done::Held { index, stamp_ns: boot_ns() });
                    }
                    Err(why) => {
                        place.retry_at = Some(Instant::now() + AGAIN);
                        if place.why != why {
                            place.why.clone_from(&why);
                            self.teller.tell(Done::Failed { index, why });
                        }
                    }
                }
            }
            let place = &mut self.places[index];
            if let (Some(from), Some(ms)) = (place.announced_from, ANNOUNCE_MS.get(place.said))
                && place.held_since.is_some()
                && from + Duration::from_millis(*ms) <= Instant::now()
            {
                place.said += 1;
                place.announce();
            }
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let Some((address, mac)) = wire::claim(frame) else { return };
        let now = Instant::now();
        for (index, place) in self.places.iter_mut().enumerate() {
            if place.strange(address, mac, now) {
                self.teller.tell(Done::Conflict { index, mac });
            }
        }
    }
}

/// Sleeps until then; for ever if there is nothing to do.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The next ARP frame of any of these sockets.
async fn hear(sockets: &[Arc<AsyncFd<PacketSocket>>]) -> Vec<u8> {
    let mut waiting = tokio::task::JoinSet::new();
    for socket in sockets {
        let socket = Arc::clone(socket);
        waiting.spawn(async move {
            loop {
                let Ok(mut ready) = socket.readable().await else { std::future::pending().await };
                let mut frame = [0; FRAME_BYTES];
                let taken = ready.try_io(|socket| socket.get_ref().receive(&mut frame));
                if let Ok(Ok(length)) = taken {
                    return frame[..length.min(FRAME_BYTES)].to_vec();
                }
            }
        });
    }
    match waiting.join_next().await {
        Some(Ok(frame)) => frame,
        _ => std::future::pending().await,
    }
}

fn message(place: &Place) -> Result<AddressMessage, String> {
    let index = place.index().map_err(|error| format!("{}: {error}", place.service.interface()))?;
    let prefix = place.service.prefix_len();
    Ok(match place.service.address() {
        IpAddr::V4(address) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, prefix).build()
        }
        IpAddr::V6(address) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(index)
                .address(address, prefix)
                .build();
            // Detection of duplicates takes a second, in which the address does not answer.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    })
}

/// Puts the address on its interface; one that is there already is good.
async fn add(place: &Place, handle: &Handle) -> Result<(), String> {
    let message = message(place)?;
    let mut request =
        handle.address().add(message.header.index, place.service.address(), place.service.prefix_len());
    *request.message_mut() = message;
    match request.replace().execute().await {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("{} on {}: {error}", place.service, place.service.interface())),
    }
}

/// Takes it off. That it was not there, or has no interface, is all the same.
async fn remove(place: &Place, handle: &Handle) {
    let Ok(message) = message(place) else { return };
    if let Err(error) = handle.address().del(message).execute().await {
        tracing::debug!(address = %place.service, %error, "not taken off");
    }
}
