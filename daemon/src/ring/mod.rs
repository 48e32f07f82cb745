//! The ordered ring's plane: a thread that carries the ring's frames over the links, and process groups over that.
//!
//! The main loop tells it what membership says (`Freeze`, `Form`) and on which links peers are heard; it tells the main loop
//! that a ring does not turn. It has a thread of its own, so heartbeats, views and the lease wait neither for a message nor
//! for a program, however many there are.
//!
//! Deliberately not here: the protocol (`ringbeat_core::srp`) and the groups (`ringbeat_core::cpg`).

mod clients;
mod links;
mod seal;
mod worker;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use ringbeat_common::limits::NODES_MAX;
use ringbeat_common::view::View;
use ringbeat_config::{Cipher, Config};
use ringbeat_control::RingReport;
use ringbeat_core::cpg::Groups;
use ringbeat_core::srp::{Params, Ring};
use rustix::event::{EventfdFlags, eventfd};
use thiserror::Error;

use self::clients::Clients;
use self::links::{LinkSpec, Links};
use self::seal::{Opener, Sealer, Secret};
use self::worker::{Counts, Worker};
use crate::plane::PlaneLink;
use crate::sys::clock::boot_ns;
use crate::sys::realtime::Courtesy;

/// A frame has room for so many bytes of a message at the least, or the link's interface is not fit for it.
const PAYLOAD_MIN: usize = 400;

/// What the main loop orders.
#[derive(Debug)]
enum Order {
    Accepted { slot: u8, incarnation: u64 },
    Edges(Box<[u8; NODES_MAX]>),
    Freeze,
    Apart,
    Form(View),
    Abandon(View),
}

/// What the ring tells the main loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It turns: messages are of this view from here on.
    Regular {
        /// The view.
        view: View,
        /// Since when.
        stamp_ns: u64,
    },
    /// It does not turn.
    Lost {
        /// The view whose ring it is.
        view: View,
    },
}

/// Why there is no ring.
#[derive(Debug, Error)]
pub enum RingError {
    /// A link without a socket.
    #[error("the ring on link {link}: {source}. Is another program on the port ([ring] port)?")]
    Link {
        /// Which.
        link: u8,
        /// Why.
        source: io::Error,
    },
    /// An interface that carries next to nothing.
    #[error("the ring needs {PAYLOAD_MIN} bytes in a frame, and an interface of the links has room for {0}")]
    Narrow(usize),
    /// The socket of process groups.
    #[error("the socket of process groups, {}: {source}", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread.
    #[error("no thread for the ring: {0}")]
    Thread(#[source] io::Error),
}

/// What the ring's thread needs before it can start.
pub struct Spec<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The links, in its order.
    pub links: &'a [PlaneLink],
    /// The cluster.
    pub cluster_id: u64,
    /// What the frames' keys are derived from.
    pub key: [u8; 32],
    /// This node's life.
    pub incarnation: u64,
    /// Wakes the main loop.
    pub wake: Arc<OwnedFd>,
}

/// The main loop's end of it. The thread ends with it.
pub struct RingPlane {
    orders: Sender<Order>,
    said: Receiver<Said>,
    wake: Arc<OwnedFd>,
    report: Arc<Mutex<RingReport>>,
    /// As it was seen last.
    last: RefCell<RingReport>,
    edges: [u8; NODES_MAX],
    path: PathBuf,
}

impl RingPlane {
    /// Starts it; `enter` is the first thing that the thread does, and gives the priority that it was granted.
    ///
    /// # Errors
    /// What cannot be had.
    pub fn start(
        spec: &Spec<'_>,
        enter: impl FnOnce() -> Option<i32> + Send + 'static,
    ) -> Result<Self, RingError> {
        let config = spec.config;
        let own = config.own().slot();
        let specs: Vec<LinkSpec> = link_specs(spec);
        let room =
            Links::message_max(&specs).map_err(|source| RingError::Link { link: specs[0].id, source })?;
        let payload = Params::payload_in(room);
        if payload < PAYLOAD_MIN {
            return Err(RingError::Narrow(payload));
        }
        let links = Links::open(&specs, config.ring().link_mode())
            .map_err(|(link, source)| RingError::Link { link, source })?;
        let path = ringbeat_client::socket_beside(config.cluster().control());
        let clients =
            Clients::listen(&path).map_err(|source| RingError::Socket { path: path.clone(), source })?;
        let cipher = config.ring().cipher();
        let secret = Secret { cluster_id: spec.cluster_id, key: spec.key, cipher };
        let deadline_ns = spec.links.iter().map(|link| link.deadline_ns).max().unwrap_or(0);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = Arc::new(wake.map_err(|error| RingError::Thread(error.into()))?);
        let (orders, taken) = channel();
        let (say, said) = channel();
        let report = Arc::new(Mutex::new(RingReport {
            state: "gather".to_owned(),
            cipher: cipher.name().to_owned(),
            link_mode: config.ring().link_mode().name().to_owned(),
            payload: payload as u64,
            ..RingReport::default()
        }));
        let worker = Worker {
            node: config.own().id(),
            ring: Ring::new(own, Params::of(deadline_ns, payload)),
            groups: Groups::new(own),
            links,
            // A daemon that goes on for another one has its life, and its own start.
            sealer: Sealer::new(secret.clone(), own, spec.incarnation, boot_ns()),
            opener: Opener::new(secret),
            clients,
            orders: taken,
            wake: Arc::clone(&wake),
            said: say,
            main: Arc::clone(&spec.wake),
            report: Arc::clone(&report),
            waiting: VecDeque::new(),
            turn: 0,
            has_orders: false,
            has_knocks: false,
            counts: Counts::default(),
        };
        let run = move || worker.run(Courtesy::new(enter()));
        thread::Builder::new().name("ringbeat-ring".to_owned()).spawn(run).map_err(RingError::Thread)?;
        let last = RefCell::new(RingReport::default());
        Ok(Self { orders, said, wake, report, last, edges: [0; NODES_MAX], path })
    }

    /// The handshake has accepted a life.
    pub fn accepted(&self, slot: u8, incarnation: u64) {
        self.order(Order::Accepted { slot, incarnation });
    }

    /// On which links each peer is heard, a bit for each link's id.
    pub fn edges(&mut self, edges: [u8; NODES_MAX]) {
        if self.edges != edges {
            self.edges = edges;
            self.order(Order::Edges(Box::new(edges)));
        }
    }

    /// Another view has been announced.
    pub fn freeze(&self) {
        self.order(Order::Freeze);
    }

    /// This daemon takes no part any more.
    pub fn stand_apart(&self) {
        self.order(Order::Apart);
    }

    /// A view has been installed.
    pub fn form(&self, view: View) {
        self.order(Order::Form(view));
    }

    /// A view is installed whose ring another daemon knew.
    pub fn abandon(&self, view: View) {
        self.order(Order::Abandon(view));
    }

    /// The next thing that it has told.
    pub fn next(&self) -> Option<Said> {
        self.said.try_recv().ok()
    }

    /// How it is.
    pub fn report(&self) -> RingReport {
        // The main loop waits for nobody: the last one will do.
        if let Ok(report) = self.report.try_lock() {
            self.last.replace(report.clone());
        }
        self.last.borrow().clone()
    }

    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for RingPlane {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What somebody should know of the configuration.
pub fn warning(config: &Config) -> Option<String> {
    let open = config.ring().cipher() == Cipher::None;
    open.then(|| {
        "the ring's frames are neither sealed nor authenticated ([ring] cipher = \"none\")".to_owned()
    })
}

fn link_specs(spec: &Spec<'_>) -> Vec<LinkSpec> {
    let (config, own) = (spec.config, spec.config.own());
    let specs = config.links().iter().zip(spec.links).enumerate().map(|(index, (link, plane))| {
        let others = config.nodes().iter().filter(|node| node.id() != own.id());
        LinkSpec {
            id: link.id(),
            interface: link.interface().to_owned(),
            ifindex: plane.ifindex,
            own: SocketAddr::new(own.address_on(index), config.ring().port_on(link.id())),
            peers: others.map(|node| (node.slot(), node.address_on(index))).collect(),
        }
    });
    specs.collect()
}
