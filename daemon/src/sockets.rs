//! The UDP sockets of a link.
//!
//! `own` is bound to the node's address: probes, answers and the handshake go out and come in here. `everyone` is bound
//! to no address: it hears what is sent to all nodes of the link, by which two machines with one id find one another.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;
use ringbeat_common::limits::NODES_MAX;
use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use thiserror::Error;

/// Bytes that a socket keeps for a loop that is late.
const RECEIVE_BYTES: usize = 1 << 20;
/// SO_PRIORITY of frames: above bulk traffic where the queue looks at it.
const PRIORITY: u32 = 6;
/// Class selector 6, network control (RFC 4594).
const TOS: u32 = 0xc0;

/// Why a link has no sockets.
#[derive(Debug, Error)]
#[error("link {link}, {interface}, {address}: {what}: {source}{hint}")]
pub struct SocketError {
    link: u8,
    interface: String,
    address: SocketAddr,
    what: &'static str,
    source: io::Error,
    hint: &'static str,
}

/// Both sockets of a link, and where its peers are.
#[derive(Debug)]
pub struct LinkSockets {
    own: Socket,
    everyone: Socket,
    peers: Vec<Option<SocketAddr>>,
    broadcast: SocketAddr,
}

impl LinkSockets {
    /// Opens both. `peers` are the other nodes' slots and addresses.
    pub fn open(
        link: u8,
        interface: &str,
        ifindex: u32,
        network: IpNet,
        own: SocketAddr,
        peers: impl Iterator<Item = (u8, IpAddr)>,
    ) -> Result<Self, SocketError> {
        let port = own.port();
        let mut table = vec![None; NODES_MAX];
        for (slot, address) in peers {
            table[usize::from(slot) % NODES_MAX] = Some(scoped(address, port, ifindex));
        }
        let own = scoped(own.ip(), port, ifindex);
        let fail = |what, hint| {
            let interface = interface.to_owned();
            move |source| SocketError { link, interface, address: own, what, source, hint }
        };
        let make = |bound: SocketAddr| -> io::Result<Socket> {
            let socket = Socket::new(Domain::for_address(bound), Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_nonblocking(true)?;
            socket.set_reuse_address(true)?;
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.set_recv_buffer_size(RECEIVE_BYTES)?;
            let _ = socket.set_priority(PRIORITY);
            if bound.is_ipv4() {
                let _ = socket.set_tos_v4(TOS);
                socket.set_broadcast(true)?;
            } else {
                socket.set_only_v6(true)?;
                let _ = socket.set_tclass_v6(TOS);
                socket.set_multicast_if_v6(ifindex)?;
                socket.set_multicast_loop_v6(false)?;
            }
            Ok(socket)
        };
        let bind = |bound: SocketAddr| -> Result<Socket, SocketError> {
            let socket = make(bound).map_err(fail("no socket", ""))?;
            socket.bind(&SockAddr::from(bound)).map_err(fail(
                "cannot bind",
                ". Is the address on the interface, and no other program on the port?",
            ))?;
            Ok(socket)
        };
        if own.is_ipv4() {
            accept_own_address(interface);
        }
        let sockets = Self {
            own: bind(own)?,
            everyone: bind(scoped(unspecified(own.ip()), port, 0))?,
            peers: table,
            broadcast: scoped(broadcast(network), port, ifindex),
        };
        without_checksum(&sockets.own, own).map_err(fail("cannot do without a UDP checksum", ""))?;
        Ok(sockets)
    }

    /// The socket of the own address.
    pub fn own(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    /// The socket of everyone's address.
    pub fn everyone(&self) -> BorrowedFd<'_> {
        self.everyone.as_fd()
    }

    /// Where a peer is.
    pub fn address_of(&self, slot: u8) -> Option<SocketAddr> {
        self.peers.get(usize::from(slot)).copied().flatten()
    }

    /// Sends to a peer.
    pub fn send(&self, slot: u8, bytes: &[u8]) -> io::Result<()> {
        let to = self.address_of(slot).ok_or(io::ErrorKind::NotFound)?;
        self.send_to(to, bytes)
    }

    /// Sends to an address.
    pub fn send_to(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        sendto(&self.own, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &to)?;
        Ok(())
    }

    /// Sends to every node of the link.
    pub fn send_to_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_to(self.broadcast, bytes)
    }

    /// Takes one datagram; its length is that of the buffer at most.
    pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (length, _, from) = recvfrom(socket, buffer, RecvFlags::DONTWAIT)?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        from.map(|from| (length, from)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// A machine that was cloned has our address, too, and the kernel drops what seems to come from ourselves before any
/// socket hears it. On a heartbeat link that is just what must be heard: the handshake tells the two apart.
fn accept_own_address(interface: &str) {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/accept_local");
    if let Err(error) = std::fs::write(&path, "1") {
        tracing::warn!(%path, %error, "a second machine with this node's id and address would not be noticed");
    }
}

/// IPv4 frames go without: the tag covers more, and the kernel program rewrites the payload after the checksum's time.
fn without_checksum(socket: &Socket, own: SocketAddr) -> io::Result<()> {
    if own.is_ipv4() { crate::sys::socket::no_checksum(socket.as_fd()) } else { Ok(()) }
}

fn scoped(ip: IpAddr, port: u16, ifindex: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast() => {
            std::net::SocketAddrV6::new(ip, port, 0, ifindex).into()
        }
        ip => SocketAddr::new(ip, port),
    }
}

const fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Everyone's address: the network's broadcast address, or all nodes of the link (RFC 4291, section 2.7.1).
fn broadcast(network: IpNet) -> IpAddr {
    match network {
        IpNet::V4(network) => IpAddr::V4(network.broadcast()),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
    }
}
