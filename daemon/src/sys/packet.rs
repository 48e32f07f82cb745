//! Packet sockets (packet(7)): frames of the announcer out, ARP in.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A packet socket bound to one interface and one protocol.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    mac: [u8; 6],
}

impl PacketSocket {
    /// Opens one; `protocol` is an ethertype, 0 for a socket that hears nothing.
    pub fn open(ifindex: u32, protocol: u16) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no memory is passed; a good result is a descriptor that nobody else owns.
        let socket = unsafe {
            let made = libc::socket(libc::AF_PACKET, kind, 0);
            if made < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(made)
        };
        // SAFETY: all zeros is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address and its length; the second call writes no more than that.
        unsafe {
            if libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) != 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let [a, b, c, d, e, f, ..] = address.sll_addr;
        Ok(Self { socket, mac: [a, b, c, d, e, f] })
    }

    /// The interface's own address.
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends a frame, Ethernet header and all.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.socket, frame)?;
        Ok(())
    }

    /// Takes a frame; as much of it as there is room for.
    pub fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.socket, frame)?)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}
