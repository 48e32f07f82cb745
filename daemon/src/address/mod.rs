//! Service addresses on interfaces: taken, announced, given up. A thread of its own, so the main loop waits for nothing.
//!
//! It does what it is told and says what came of it; that an address is on an interface opens no gate. An address goes
//! only onto the interface, by its number, on which its gate stands. That it is off is said when no interface has it.
//! Deliberately not there: any decision, and a fight over an address that a stranger uses: that is told, and no more.

mod ear;
pub mod netlink;
mod place;
mod sweep;
pub mod wire;
mod worker;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ringbeat_config::Service;
use rustix::event::{EventfdFlags, eventfd};
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use self::place::Place;
use self::worker::{Teller, Worker};

/// How long somebody waits for addresses to go.
const CLEAR_PATIENCE: Duration = Duration::from_secs(5);

/// What to do.
#[derive(Clone, Debug)]
enum Order {
    Hold { index: usize, ifindex: u32 },
    Announce(usize),
    Release(usize),
    Clear(Vec<IpAddr>),
    ClearStrays(Vec<IpAddr>),
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
        /// Whether it had been held before, and somebody had taken it off.
        was_taken_away: bool,
    },
    /// It is on no interface any more.
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
    /// It could not be taken off; it is tried on.
    Stuck {
        /// Which.
        index: usize,
        /// Where it is, and why.
        why: String,
    },
    /// A stranger says that it is his.
    Conflict {
        /// Which.
        index: usize,
        /// Who.
        mac: [u8; 6],
    },
    /// Whether no address of the cluster is on an interface of this node; else where which is, and why.
    Cleared(Result<(), String>),
    /// Nothing will be done any more.
    Over,
}

/// Why addresses are not known to be off all interfaces. Their gates must stay.
#[derive(Debug, Error)]
pub enum ClearError {
    /// Some are there.
    #[error(
        "{0}. Until it is off its gate stays, closed: `ip address del ADDRESS dev INTERFACE` takes it off, then start \
         this daemon again"
    )]
    Left(String),
    /// Nobody answers.
    #[error("the thread of addresses did not answer within {CLEAR_PATIENCE:?}; the gates stay, closed")]
    Late,
    /// Nobody will.
    #[error("the thread of addresses has ended for want of netlink; the gates stay, closed")]
    Over,
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
            if let Err(error) = runtime.block_on(Worker { places, teller: &teller, blind: 0 }.run(theirs)) {
                tracing::error!(%error, "addresses cannot be held any more: restart this daemon");
                teller.tell(Done::Over);
            }
        })?;
        Ok(Self { orders, done, wake })
    }

    /// Takes the address onto this interface, on which its gate stands. It is not announced yet.
    pub fn hold(&self, index: usize, ifindex: u32) {
        self.order(Order::Hold { index, ifindex });
    }

    /// Tells the neighbours, now and some times more.
    pub fn announce(&self, index: usize) {
        self.order(Order::Announce(index));
    }

    /// Takes the address off.
    pub fn release(&self, index: usize) {
        self.order(Order::Release(index));
    }

    /// Takes the addresses off, and with them those of `extra`, from whatever interface they are on, and waits until they
    /// are known to be off. As long as they are not, no gate may go.
    pub fn clear(&self, extra: &[IpAddr]) -> Result<(), ClearError> {
        self.clear_by(Order::Clear(extra.to_vec()))
    }

    /// The same, but for those addresses that are on their interfaces: they were taken over, and are held.
    pub fn clear_strays(&self, extra: &[IpAddr]) -> Result<(), ClearError> {
        self.clear_by(Order::ClearStrays(extra.to_vec()))
    }

    fn clear_by(&self, order: Order) -> Result<(), ClearError> {
        self.order(order);
        let end = Instant::now() + CLEAR_PATIENCE;
        loop {
            match self.done.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Done::Cleared(cleared)) => return cleared.map_err(ClearError::Left),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(ClearError::Late),
                Err(RecvTimeoutError::Disconnected) => return Err(ClearError::Over),
            }
        }
    }

    /// Whether the thread has ended: it can hold nothing then, and take nothing off.
    pub fn is_over(&self) -> bool {
        self.orders.is_closed()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_there_of_what_was_never_put_there() {
        let actions = Actions::start(&[], || {}).expect("a thread");
        actions.clear(&["192.0.2.77".parse().expect("an address")]).expect("nothing to take off");
        assert!(!actions.is_over());
    }

    #[test]
    fn a_thread_that_has_ended_has_taken_nothing_off() {
        let (orders, theirs) = unbounded_channel();
        let (say, done) = channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"));
        let actions = Actions { orders, done, wake };
        drop((theirs, say));
        assert!(actions.is_over());
        assert!(matches!(actions.clear(&[]), Err(ClearError::Over)));
    }
}
