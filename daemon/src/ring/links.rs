//! The ring's way over the links: which link a frame takes, its sockets, batches of it.
//!
//! One UDP socket for each link, beside those of the heartbeats. A message is sealed once for each link that it takes and
//! lies once in that link's buffer, whoever is to have it. `quinn-udp` hands runs of frames of one length to the kernel in one
//! system call (UDP_SEGMENT), takes many in one, and forbids fragments.
//!
//! Deliberately not here: whether a link is up. The detector says so, for each peer and link.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use bytes::BytesMut;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use ringbeat_common::limits::{LINKS_MAX, NODES_MAX};
use ringbeat_config::LinkMode;
use ringbeat_core::membership::choice::bits;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::seal::{OVERHEAD, Sealer};
use crate::sys::socket::{force_buffers, interface_mtu};

/// Bytes that a socket keeps for a thread that is late, and before they leave.
const SOCKET_BYTES: usize = 4 << 20;
/// UDP over IPv6, whose headers are the longer ones.
const HEADERS: usize = 40 + 8;
/// The kernel joins datagrams up to this size.
const RECEIVE_BYTES: usize = 65_535;
/// Bytes that the kernel takes in one call, with all headers.
const RUN_BYTES: usize = 60_000;
/// New room is made in pieces of this size, which share their allocation.
const SLAB_BYTES: usize = 128 << 10;
/// SO_PRIORITY: as the heartbeats.
const PRIORITY: u32 = 6;

/// A link, as it is opened.
pub(super) struct LinkSpec {
    /// Its id.
    pub(super) id: u8,
    /// Its interface.
    pub(super) interface: String,
    /// That one's number.
    pub(super) ifindex: u32,
    /// This node's address and port.
    pub(super) own: SocketAddr,
    /// The others' slots and addresses.
    pub(super) peers: Vec<(u8, IpAddr)>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Frames that left, one for each that they went to.
    pub(super) sent: u64,
    /// Frames that came.
    pub(super) received: u64,
    /// Frames that the kernel did not take.
    pub(super) refused: u64,
}

struct Link {
    id: u8,
    socket: Socket,
    state: UdpSocketState,
    peers: Vec<Option<SocketAddr>>,
    /// Frames one after the other, and where each peer's are.
    buffer: Vec<u8>,
    ends: Vec<usize>,
    queues: Vec<Vec<u32>>,
    waiting: u64,
    /// Something has come.
    is_ready: bool,
    counts: Counts,
}

/// All links.
pub(super) struct Links {
    links: Vec<Link>,
    mode: LinkMode,
    /// For each slot, a bit for each link id on which it is heard.
    edges: [u8; NODES_MAX],
    turn: usize,
    scratch: Vec<u8>,
    receive: Vec<u8>,
    slab: BytesMut,
}

impl Links {
    /// Opens the sockets.
    ///
    /// # Errors
    /// The link whose socket could not be had, and why.
    pub(super) fn open(specs: &[LinkSpec], mode: LinkMode) -> Result<Self, (u8, io::Error)> {
        let open = |spec| Link::open(spec).map_err(|error| (spec.id, error));
        let links = specs.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self {
            links,
            mode,
            edges: [0; NODES_MAX],
            turn: 0,
            scratch: Vec::new(),
            receive: vec![0; RECEIVE_BYTES * BATCH_SIZE],
            slab: BytesMut::new(),
        })
    }

    /// The most bytes of a message that a frame of every link has room for.
    ///
    /// # Errors
    /// An interface that is not there.
    pub(super) fn message_max(specs: &[LinkSpec]) -> io::Result<usize> {
        let mut least = RUN_BYTES;
        for spec in specs {
            least = least.min(interface_mtu(&spec.interface)?);
        }
        Ok(least.saturating_sub(HEADERS + OVERHEAD))
    }

    /// The sockets.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().map(|link| link.socket.as_fd())
    }

    /// What was counted on all links.
    pub(super) fn counts(&self) -> Counts {
        self.links.iter().fold(Counts::default(), |sum, link| Counts {
            sent: sum.sent + link.counts.sent,
            received: sum.received + link.counts.received,
            refused: sum.refused + link.counts.refused,
        })
    }

    /// On which links each peer is heard now.
    pub(super) const fn set_edges(&mut self, edges: [u8; NODES_MAX]) {
        self.edges = edges;
    }

    /// Puts a message on its way to these slots; it leaves by [`Links::flush`].
    pub(super) fn send(&mut self, to: u64, message: &[u8], sealer: &mut Sealer) {
        let mut targets = [0u64; LINKS_MAX];
        for slot in bits(to) {
            let ways = self.ways(slot);
            for (place, targets) in targets.iter_mut().enumerate().take(self.links.len()) {
                *targets |= u64::from(ways >> place & 1) << slot;
            }
        }
        self.turn = self.turn.wrapping_add(1);
        for (link, targets) in self.links.iter_mut().zip(targets) {
            if targets != 0 {
                sealer.seal(link.id, message, &mut self.scratch);
                link.queue(targets, &self.scratch);
            }
        }
    }

    /// The places of the links that a frame to this slot takes. With none up, all of them: the detector may be late.
    fn ways(&self, slot: u8) -> u8 {
        let up = self.edges[usize::from(slot) % NODES_MAX];
        let count = self.links.len();
        let is_up = |place: &usize| up >> self.links[*place].id & 1 == 1;
        let all = (1u16 << count) as u8;
        let ways = (0..count).filter(is_up).fold(0u8, |set, place| set | 1 << place);
        if ways == 0 {
            return all.wrapping_sub(1);
        }
        match self.mode {
            LinkMode::Active => ways,
            LinkMode::Passive => ways & ways.wrapping_neg(),
            LinkMode::RoundRobin => {
                let nth = self.turn % ways.count_ones() as usize;
                (0..count).filter(|place| ways >> place & 1 == 1).nth(nth).map_or(ways, |place| 1 << place)
            }
        }
    }

    /// Lets go of all that was put on its way.
    pub(super) fn flush(&mut self) {
        self.links.iter_mut().for_each(Link::flush);
    }

    /// Where something has come, in the order of [`Links::fds`].
    pub(super) fn note_ready(&mut self, ready: &[bool]) {
        self.links.iter_mut().zip(ready).for_each(|(link, ready)| link.is_ready = *ready);
    }

    /// Takes what has come on each link that is ready, so many datagrams of one or a few more.
    pub(super) fn receive(&mut self, most: usize, mut take: impl FnMut(u8, BytesMut)) {
        for link in self.links.iter_mut().filter(|link| link.is_ready) {
            let mut taken = 0;
            loop {
                let mut pieces: Vec<IoSliceMut<'_>> =
                    self.receive.chunks_mut(RECEIVE_BYTES).map(IoSliceMut::new).collect();
                let mut metas = [RecvMeta::default(); BATCH_SIZE];
                let Ok(count) = link.state.recv(UdpSockRef::from(&link.socket), &mut pieces, &mut metas)
                else {
                    break;
                };
                for (meta, piece) in metas.iter().zip(&pieces).take(count) {
                    // An empty one has no pieces, and is one all the same.
                    taken += usize::from(meta.len == 0);
                    for datagram in piece[..meta.len.min(piece.len())].chunks(meta.stride.max(1)) {
                        taken += 1;
                        if self.slab.capacity() < datagram.len() {
                            self.slab = BytesMut::with_capacity(SLAB_BYTES.max(datagram.len()));
                        }
                        let rest = self.slab.split_off(datagram.len());
                        let mut frame = std::mem::replace(&mut self.slab, rest);
                        frame.extend_from_slice(datagram);
                        take(link.id, frame);
                    }
                }
                if taken >= most || count < BATCH_SIZE {
                    break;
                }
            }
            link.counts.received += taken as u64;
        }
    }
}

impl Link {
    fn open(spec: &LinkSpec) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(spec.own), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(spec.interface.as_bytes()))?;
        // More than an ordinary process may have, where this one may.
        if force_buffers(socket.as_fd(), SOCKET_BYTES).is_err() {
            let _ = socket.set_recv_buffer_size(SOCKET_BYTES);
            let _ = socket.set_send_buffer_size(SOCKET_BYTES);
        }
        let _ = socket.set_priority(PRIORITY);
        if spec.own.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&SockAddr::from(scoped(spec.own.ip(), spec.own.port(), spec.ifindex)))?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let mut peers = vec![None; NODES_MAX];
        for (slot, ip) in &spec.peers {
            peers[usize::from(*slot) % NODES_MAX] = Some(scoped(*ip, spec.own.port(), spec.ifindex));
        }
        Ok(Self {
            id: spec.id,
            socket,
            state,
            peers,
            buffer: Vec::new(),
            ends: vec![0],
            queues: vec![Vec::new(); NODES_MAX],
            waiting: 0,
            is_ready: false,
            counts: Counts::default(),
        })
    }

    fn queue(&mut self, targets: u64, frame: &[u8]) {
        if self.buffer.len() + frame.len() > SOCKET_BYTES {
            self.flush();
        }
        let number = (self.ends.len() - 1) as u32;
        self.buffer.extend_from_slice(frame);
        self.ends.push(self.buffer.len());
        for slot in bits(targets) {
            self.queues[usize::from(slot)].push(number);
        }
        self.waiting |= targets;
    }

    fn flush(&mut self) {
        for slot in bits(std::mem::take(&mut self.waiting)) {
            let mut queue = std::mem::take(&mut self.queues[usize::from(slot)]);
            if let Some(to) = self.peers[usize::from(slot)] {
                let mut rest = &queue[..];
                while let [first, ..] = *rest {
                    let run = self.run(rest);
                    self.transmit(to, first, run);
                    rest = &rest[run..];
                }
            }
            queue.clear();
            self.queues[usize::from(slot)] = queue;
        }
        self.buffer.clear();
        self.ends.truncate(1);
    }

    fn span(&self, number: u32) -> (usize, usize) {
        let at = number as usize;
        (self.ends[at], self.ends[at + 1])
    }

    /// How many of these lie side by side, all of one length but the last, which may be shorter.
    fn run(&self, queue: &[u32]) -> usize {
        let (begin, end) = self.span(queue[0]);
        let length = end - begin;
        let most = self.state.max_gso_segments().min(RUN_BYTES / length.max(1)).max(1);
        let mut run = 1;
        while run < most.min(queue.len()) && queue[run] == queue[run - 1] + 1 {
            let (begin, end) = self.span(queue[run]);
            if end - begin > length {
                break;
            }
            run += 1;
            if end - begin < length {
                break;
            }
        }
        run
    }

    fn transmit(&mut self, destination: SocketAddr, first: u32, run: usize) {
        let (begin, end) = self.span(first);
        let (_, last) = self.span(first + run as u32 - 1);
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: &self.buffer[begin..last],
            segment_size: (run > 1).then_some(end - begin),
            src_ip: None,
        };
        match self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
            Ok(()) => self.counts.sent += run as u64,
            Err(error) => {
                // The ring asks for what is missing.
                self.counts.refused += run as u64;
                tracing::trace!(link = self.id, %error, "frames of the ring could not leave");
            }
        }
    }
}

fn scoped(ip: IpAddr, port: u16, ifindex: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            std::net::SocketAddrV6::new(ip, port, 0, ifindex).into()
        }
        ip => SocketAddr::new(ip, port),
    }
}
