//! The heartbeat plane behind one face: the kernel's programs, or plain sockets where there can be none.
//!
//! Both give the same events, cells and counts; what differs is who runs the rules of `ringbeat-common`. Above this
//! line nobody asks which one it is, but for the commands that show it. Deliberately not there: any decision about
//! a peer.

pub mod kernel;
pub mod lease;
pub mod load;
pub mod others;
pub mod pins;
pub mod reading;
pub mod socket;
pub mod table;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use ringbeat_common::drops::DROPS_MAX;
use ringbeat_common::event::Event;
use ringbeat_common::frame::Frame;
use ringbeat_common::maps::{GateLog, Tick};
use ringbeat_common::slot::Slot;

pub use kernel::KernelPlane;
pub use lease::LeaseCells;
pub use load::Tried;
pub use others::Others;
pub use reading::CellReading;
pub use socket::SocketPlane;

/// How frames of a link reach the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// XDP in the driver.
    Native,
    /// XDP in the stack: any driver, after the packet has become a socket buffer.
    Generic,
    /// A UDP socket and a thread.
    Socket,
}

impl Mode {
    /// As the commands show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Socket => "socket",
        }
    }
}

/// A link as the plane needs it.
#[derive(Clone, Debug)]
pub struct PlaneLink {
    /// Its number.
    pub id: u8,
    /// Its interface.
    pub interface: String,
    /// The interface's index.
    pub ifindex: u32,
    /// Its port.
    pub port: u16,
    /// The probe interval, in ns.
    pub interval_ns: u64,
    /// Silence that is late, in ns.
    pub deadline_ns: u64,
}

/// A leased address as the plane needs it; its gate is its place in the list.
#[derive(Clone, Debug)]
pub struct Gated {
    /// The address.
    pub address: IpAddr,
    /// The interface that the gate stands on.
    pub interface: String,
}

/// What every frame of this node carries.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Our slot.
    pub slot: u8,
    /// The cluster.
    pub cluster_id: u64,
    /// The configuration.
    pub config_version: u64,
    /// The key that seals, and that is in force.
    pub key: [u64; 2],
}

/// The plane in use.
pub enum Plane {
    /// The kernel's programs.
    Kernel(Box<KernelPlane>),
    /// Plain sockets.
    Socket(SocketPlane),
}

/// Calls the same method on whichever plane it is.
macro_rules! either {
    ($self:ident, $plane:ident => $call:expr) => {
        match $self {
            Self::Kernel($plane) => $call,
            Self::Socket($plane) => $call,
        }
    };
}

impl Plane {
    /// Opens the plane: from now on probes leave and are answered, as this incarnation.
    pub fn open(&mut self, incarnation: u64) -> Result<(), load::LoadError> {
        either!(self, plane => plane.open(incarnation))
    }

    /// Closes it: nothing leaves, nothing is answered.
    pub fn close(&mut self) {
        either!(self, plane => plane.close())
    }

    /// Accepts a peer's incarnation: its cells on all links start anew, watched and not heard yet.
    pub fn accept(&mut self, slot: u8, incarnation: u64) -> Result<(), aya::maps::MapError> {
        either!(self, plane => plane.accept(slot, incarnation))
    }

    /// The next event, if there is one.
    pub fn next_event(&mut self) -> Option<Event> {
        either!(self, plane => plane.next_event())
    }

    /// Readable when there are events.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        either!(self, plane => plane.events_fd())
    }

    /// The row and the flags that frames carry from now on.
    pub fn say(&self, heard: u64, flags: u8) {
        either!(self, plane => plane.say(heard, flags))
    }

    /// The main loop has run.
    pub fn beat(&self, now_ns: u64) {
        either!(self, plane => plane.beat(now_ns))
    }

    /// From now until then the going of this daemon is planned.
    pub fn hand_over(&self, until_ns: u64) {
        either!(self, plane => plane.hand_over(until_ns))
    }

    /// The cell of a peer on a link, as the commands show it.
    pub fn cell(&self, link: u8, slot: u8) -> CellReading {
        either!(self, plane => plane.cell(link, slot))
    }

    /// Probes that left to a peer on a link; without the histograms that [`Self::cell`] sums up.
    pub fn probes_sent(&self, link: u8, slot: u8) -> u64 {
        either!(self, plane => plane.probes_sent(link, slot))
    }

    /// When a peer last proved its life on a link; 0 for never. Without the histograms, too.
    pub fn heard_ns(&self, link: u8, slot: u8) -> u64 {
        either!(self, plane => plane.heard_ns(link, slot))
    }

    /// What is known of a peer on a link.
    pub fn slot(&self, link: u8, slot: u8) -> Slot {
        either!(self, plane => plane.slot(link, slot))
    }

    /// The state word of a cell.
    pub fn state(&self, link: u8, slot: u8) -> u64 {
        either!(self, plane => plane.state(link, slot))
    }

    /// Frames dropped on a link.
    pub fn drops(&self, link: u8) -> [u64; DROPS_MAX] {
        either!(self, plane => plane.drops(link))
    }

    /// The book of the timer.
    pub fn tick(&self) -> Tick {
        either!(self, plane => plane.tick())
    }

    /// How a link is served, and why not better.
    pub fn mode(&self, link: u8) -> (Mode, Option<String>) {
        either!(self, plane => plane.mode(link))
    }

    /// The lease.
    pub fn lease(&self) -> LeaseCells<'_> {
        either!(self, plane => plane.lease())
    }

    /// Puts the gate on an interface, or finds it there; an error says why nothing leased can be held on it.
    pub fn gate(&mut self, interface: &str) -> Result<(), String> {
        match self {
            Self::Kernel(plane) => plane.gate(interface).map_err(|error| load::chain(&error)),
            Self::Socket(_) => Err("plain sockets have no gate".to_owned()),
        }
    }

    /// What has passed a gate since it was opened.
    pub fn gate_log(&self, gate: usize) -> GateLog {
        match self {
            Self::Kernel(plane) => plane.gate_log(gate),
            Self::Socket(_) => GateLog::default(),
        }
    }

    /// Begins a new log of first and last pass; the counts go on.
    pub fn open_gate_log(&self, gate: usize) {
        if let Self::Kernel(plane) = self {
            plane.open_gate_log(gate);
        }
    }

    /// A frame of the handshake that the plane's own thread took from a socket. The kernel plane leaves those to the
    /// link's sockets.
    pub fn next_handshake(&mut self) -> Option<(u8, Frame)> {
        match self {
            Self::Kernel(_) => None,
            Self::Socket(plane) => plane.next_handshake(),
        }
    }

    /// A datagram that is no frame, which the plane's own thread took from a socket.
    pub fn next_message(&mut self) -> Option<(u8, Vec<u8>)> {
        match self {
            Self::Kernel(_) => None,
            Self::Socket(plane) => plane.next_message(),
        }
    }

    /// Whether this is the kernel's.
    pub const fn is_kernel(&self) -> bool {
        matches!(self, Self::Kernel(_))
    }
}
