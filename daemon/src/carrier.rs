//! Whether the own links can send: carrier and administrative state, as the kernel tells them by netlink.
//!
//! Asked again whenever the kernel says that something changed, and once a second should it not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::address::netlink::{Netlink, NetlinkError};
use crate::sys::socket::interface_flags;

/// RTMGRP_LINK of linux/rtnetlink.h.
const GROUP_LINK: u32 = 1;
/// ARPHRD_ETHER of linux/if_arp.h.
const TYPE_ETHER: u16 = 1;

/// Tells when some link has changed.
pub struct Carrier {
    socket: OwnedFd,
}

impl Carrier {
    /// Listens.
    pub fn listen() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            // NETLINK_ROUTE is protocol 0.
            None,
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUP_LINK))?;
        Ok(Self { socket })
    }

    /// Readable when something changed.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes all notes; what they say is asked of the interface itself. True if there were any.
    pub fn drain(&self) -> bool {
        let mut buffer = [0; 8192];
        let mut any = false;
        loop {
            match recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok(_) => any = true,
                // Notes were lost: something did change.
                Err(rustix::io::Errno::NOBUFS) => return true,
                Err(_) => return any,
            }
        }
    }
}

/// Why the interface cannot send, if it cannot.
pub fn fault(interface: &str) -> Option<&'static str> {
    match interface_flags(interface) {
        Ok(flags) if flags & libc::IFF_UP == 0 => Some("administratively down"),
        Ok(flags) if flags & libc::IFF_RUNNING == 0 => Some("no carrier"),
        Ok(_) => None,
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Some("no such interface"),
        // What cannot be told is not held against the link.
        Err(_) => None,
    }
}

/// Why no service address can be on the interface, whatever its state: its gate reads Ethernet headers, and clients are to
/// reach it. An interface keeps what it is for as long as it has its number.
pub fn unsuited(ifindex: u32) -> Option<String> {
    match Netlink::open().and_then(|mut netlink| netlink.kind(ifindex)) {
        Ok((TYPE_ETHER, false)) => None,
        Ok((TYPE_ETHER, true)) => Some("it is a dummy, which no packet leaves".to_owned()),
        Ok((kind, _)) => {
            Some(format!("it is no Ethernet (type {kind}), and the gate reads Ethernet headers"))
        }
        Err(NetlinkError::Refused(error)) if error.raw_os_error() == Some(libc::ENODEV) => {
            Some("no such interface".to_owned())
        }
        Err(error) => Some(format!("what it is cannot be told: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::interface_index;

    #[test]
    fn the_loopback_interface_is_no_place_for_an_address() {
        let lo = interface_index("lo").expect("lo");
        let why = unsuited(lo).expect("a reason");
        assert_eq!(why, "it is no Ethernet (type 772), and the gate reads Ethernet headers");
        assert_eq!(unsuited(i32::MAX as u32).as_deref(), Some("no such interface"));
    }
}
