//! What others on the network say of a service address: ARP for IPv4, neighbour discovery for IPv6.
//!
//! The second is heard through a raw socket with a filter, so the kernel hands over nothing but such messages, and
//! other packets of the interface pay nothing. Deliberately not there: what to make of a claim; `place` knows that.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};

use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::wire::{self, Claim};
use crate::sys::packet::PacketSocket;

/// The longest message of interest; options past it are not looked at.
const MESSAGE_BYTES: usize = 256;
/// What may have come before the filter stood; more than a socket's room holds.
const EARLY_MAX: usize = 4096;
/// The hop limit of what no router has passed on (RFC 4861, section 7.1).
const HOPS: u32 = 255;
/// From here on a filter's offsets count from the IP header (linux/filter.h).
const NETWORK: u32 = 0xfff0_0000;

/// A socket that hears claims on one interface.
#[derive(Debug)]
pub(super) enum Ear {
    /// For an IPv4 address.
    Arp(PacketSocket),
    /// For an IPv6 address.
    Neighbours(Socket),
}

impl Ear {
    /// Opens one for an address of this family.
    ///
    /// # Errors
    /// No such interface, or no CAP_NET_RAW.
    pub(super) fn open(ifindex: u32, address: IpAddr) -> io::Result<Self> {
        if address.is_ipv4() {
            return PacketSocket::open(ifindex, wire::ARP).map(Self::Arp);
        }
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&only_neighbours())?;
        socket.bind_device_by_index_v6(NonZeroU32::new(ifindex))?;
        let ear = Self::Neighbours(socket);
        // Between its birth and the filter the socket took whatever came, from any interface.
        for _ in 0..EARLY_MAX {
            if ear.hear().is_err() {
                break;
            }
        }
        Ok(ear)
    }

    /// The next message, if it claims an address; an error of kind `WouldBlock` if there is none.
    pub(super) fn hear(&self) -> io::Result<Option<Claim>> {
        let mut message = [0; MESSAGE_BYTES];
        match self {
            Self::Arp(socket) => {
                let length = socket.receive(&mut message)?;
                Ok(wire::arp_claim(&message[..length.min(MESSAGE_BYTES)]))
            }
            Self::Neighbours(socket) => {
                let (length, _, from) = recvfrom(socket, &mut message[..], RecvFlags::empty())?;
                let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                let Some(SocketAddr::V6(from)) = from else { return Ok(None) };
                Ok(wire::neighbour_claim(*from.ip(), &message[..length.min(MESSAGE_BYTES)]))
            }
        }
    }
}

impl AsRawFd for Ear {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Arp(socket) => socket.as_raw_fd(),
            Self::Neighbours(socket) => socket.as_raw_fd(),
        }
    }
}

/// A classic filter for a raw socket of ICMPv6: solicitations and advertisements of this very link pass.
fn only_neighbours() -> [SockFilter; 7] {
    let load = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        SockFilter::new(load, 0, 0, NETWORK + 7),
        SockFilter::new(equal, 0, 4, HOPS),
        SockFilter::new(load, 0, 0, 0),
        SockFilter::new(equal, 1, 0, u32::from(wire::SOLICITATION)),
        SockFilter::new(equal, 0, 1, u32::from(wire::ADVERTISEMENT)),
        SockFilter::new(give, 0, 0, u32::MAX),
        SockFilter::new(give, 0, 0, 0),
    ]
}
