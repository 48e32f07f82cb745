//! Whole Ethernet frames: to record what is on a wire, and to put onto it what no honest node would.

use std::{
    io::{self, IoSlice},
    mem::size_of_val,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, recv, send,
    socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// A packet socket on one interface.
///
/// What it sends goes straight to the driver, past the programs on the interface's egress; what it receives
/// is everything that passes the interface, also what the interface sends. Frames that XDP takes are not seen
/// by a socket on the same interface, but by one on the switch's port.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// Opens it in the calling thread's network namespace.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let index = super::net::indexes([interface])?[0];
        let flags = SocketFlags::CLOEXEC;
        // Without a protocol nothing is received before it is bound to its interface.
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        // SAFETY: plain data, all zeroes is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: the address is of the family's type and of the length given, and outlives the call.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
        let (level, option) = (libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS);
        // SAFETY: the option takes an int, which outlives the call.
        check(unsafe {
            libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length)
        })?;
        Ok(Self { socket })
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(&self.socket, frame, SendFlags::empty())?;
        Ok(())
    }

    /// Sends many frames with one system call; returns how many were sent.
    pub fn send_many(&self, frames: &[&[u8]]) -> io::Result<usize> {
        let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            frames.iter().map(|_| Default::default()).collect();
        let mut messages: Vec<_> = slices
            .iter()
            .zip(&mut controls)
            .map(|(slice, control)| rustix::net::MMsgHdr::new(slice, control))
            .collect();
        Ok(rustix::net::sendmmsg(&self.socket, &mut messages, SendFlags::empty())?)
    }

    /// Receives one frame; an error of kind `WouldBlock` once the patience is over.
    pub fn recv<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let (length, _) = recv(&self.socket, &mut *buffer, RecvFlags::empty())?;
        Ok(&buffer[..length])
    }

    /// How long [`PacketSocket::recv`] waits; at first, forever.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(self.socket.as_fd(), Timeout::Recv, Some(patience))?)
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
