//! Requests to the kernel's routing socket (rtnetlink(7)), one at a time, each with its answer; and notes of changes.
//!
//! The kernel answers within the call that asks, so nothing is waited for. An answer that does not come, or comes cut
//! short, is an error and never an empty answer: what is not known to be gone counts as there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NLMSG_NOOP, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};
use thiserror::Error;
use tokio::io::unix::AsyncFd;

/// The groups of linux/rtnetlink.h that tell of addresses: RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
const GROUPS_ADDRESS: u32 = 0x10 | 0x100;
/// The largest datagram that the kernel makes of a dump.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// A dump that a change has interrupted is made anew, so often.
const DUMPS_MAX: usize = 8;
/// Where the type of an interface stands in its message: in `ifi_type` of `struct ifinfomsg`.
const TYPE_AT: std::ops::Range<usize> = 18..20;

/// Why a request was not carried out.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The kernel says no.
    #[error("{0}")]
    Refused(io::Error),
    /// There was no answer, or none that can be read.
    #[error("no answer by netlink: {0}")]
    Unanswered(String),
    /// There is no netlink.
    #[error("no netlink: {0}")]
    Gone(io::Error),
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix there, whatever the configuration says.
    pub prefix_len: u8,
    /// The interface.
    pub ifindex: u32,
    /// What the kernel knows it by.
    names: Vec<AddressAttribute>,
}

impl Found {
    /// The own address of a message: the local one, where that has a peer besides.
    pub fn of(message: &AddressMessage) -> Option<Self> {
        let names = message.attributes.iter().filter(|attribute| {
            matches!(attribute, AddressAttribute::Local(_) | AddressAttribute::Address(_))
        });
        let names: Vec<_> = names.cloned().collect();
        let local = names.iter().find_map(|name| match name {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let address = local.or_else(|| {
            names.iter().find_map(|name| match name {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        })?;
        let (prefix_len, ifindex) = (message.header.prefix_len, message.header.index);
        Some(Self { address, prefix_len, ifindex, names })
    }
}

/// A socket for requests.
pub struct Netlink {
    socket: Option<OwnedFd>,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Some(requests().map_err(NetlinkError::Gone)?);
        Ok(Self { socket, sequence: 0, buffer: vec![0; DATAGRAM_BYTES] })
    }

    /// All addresses of all interfaces.
    pub fn addresses(&mut self) -> Result<Vec<Found>, NetlinkError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            found.extend(self.addresses_of(family)?);
        }
        Ok(found)
    }

    fn addresses_of(&mut self, family: AddressFamily) -> Result<Vec<Found>, NetlinkError> {
        for _ in 0..DUMPS_MAX {
            let mut message = AddressMessage::default();
            message.header.family = family;
            let mut found = Vec::new();
            let whole = self.exchange(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP, |bytes| {
                // Without a module of its own a family is answered with all others.
                if let RouteNetlinkMessage::NewAddress(message) = read(bytes)?
                    && message.header.family == family
                {
                    found.extend(Found::of(&message));
                }
                Ok(())
            })?;
            if whole {
                return Ok(found);
            }
        }
        Err(NetlinkError::Unanswered(format!("addresses changed under {DUMPS_MAX} looks")))
    }

    /// Puts an address on an interface; one that is there already is good.
    pub fn add(&mut self, address: IpAddr, prefix_len: u8, ifindex: u32) -> Result<(), NetlinkError> {
        let message = match address {
            IpAddr::V4(address) => {
                AddressMessageBuilder::<Ipv4Addr>::new().index(ifindex).address(address, prefix_len).build()
            }
            IpAddr::V6(address) => {
                let mut message = AddressMessageBuilder::<Ipv6Addr>::new()
                    .index(ifindex)
                    .address(address, prefix_len)
                    .build();
                // Detection of duplicates takes a second, in which the address does not answer.
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
                message
            }
        };
        let flags = NLM_F_ACK | NLM_F_REPLACE | NLM_F_CREATE;
        self.exchange(RouteNetlinkMessage::NewAddress(message), flags, |_| Ok(())).map(drop)
    }

    /// Takes an address off, exactly as it was found.
    pub fn remove(&mut self, found: &Found) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family =
            if found.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        (message.header.prefix_len, message.header.index) = (found.prefix_len, found.ifindex);
        message.attributes.clone_from(&found.names);
        self.exchange(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK, |_| Ok(())).map(drop)
    }

    /// The type of an interface (ARPHRD of linux/if_arp.h), and whether it is a dummy.
    pub fn kind(&mut self, ifindex: u32) -> Result<(u16, bool), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let mut kind = None;
        self.exchange(RouteNetlinkMessage::GetLink(message), NLM_F_ACK, |bytes| {
            let Some(&[low, high]) = bytes.get(TYPE_AT) else { return Ok(()) };
            // Of the many attributes only one is of interest; those that cannot be read name no dummy.
            let is_dummy = matches!(read(bytes), Ok(RouteNetlinkMessage::NewLink(link)) if is_dummy(&link));
            kind = Some((u16::from_ne_bytes([low, high]), is_dummy));
            Ok(())
        })?;
        kind.ok_or_else(|| NetlinkError::Unanswered(format!("nothing about interface {ifindex}")))
    }

    /// Asks, and hands every message of the answer to `take`. False if a change has interrupted the dump.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        take: impl FnMut(&[u8]) -> Result<(), NetlinkError>,
    ) -> Result<bool, NetlinkError> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            // The last one was left in the middle of an answer.
            None => requests().map_err(NetlinkError::Gone)?,
        };
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        (request.header.flags, request.header.sequence_number) = (NLM_F_REQUEST | flags, self.sequence);
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let unanswered = |error: Errno| NetlinkError::Unanswered(io::Error::from(error).to_string());
        send(&socket, &bytes, SendFlags::empty()).map_err(unanswered)?;
        let answered = answer(&socket, self.sequence, &mut self.buffer, take);
        if !matches!(answered, Err(NetlinkError::Unanswered(_))) {
            self.socket = Some(socket);
        }
        answered
    }
}

/// Reads datagrams until the answer is whole.
fn answer(
    socket: &OwnedFd,
    sequence: u32,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<(), NetlinkError>,
) -> Result<bool, NetlinkError> {
    let cut_short = || NetlinkError::Unanswered("cut short".to_owned());
    let mut whole = true;
    loop {
        let (length, sent) = match recv(socket, &mut *buffer, RecvFlags::TRUNC) {
            Ok(taken) => taken,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(NetlinkError::Unanswered(io::Error::from(error).to_string())),
        };
        if length == 0 || sent > length {
            return Err(cut_short());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(|_| cut_short())?;
            let (length, flags, payload) = (message.length() as usize, message.flags(), message.payload());
            let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
            if message.sequence_number() == sequence {
                whole &= flags & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_ERROR | NLMSG_DONE if code < 0 => {
                        return Err(NetlinkError::Refused(io::Error::from_raw_os_error(-code)));
                    }
                    NLMSG_ERROR | NLMSG_DONE => return Ok(whole),
                    NLMSG_NOOP => {}
                    _ => take(&rest[..length])?,
                }
            }
            // Each begins at a multiple of four.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn read(bytes: &[u8]) -> Result<RouteNetlinkMessage, NetlinkError> {
    match NetlinkMessage::deserialize(bytes).map(|message| message.payload) {
        Ok(NetlinkPayload::InnerMessage(message)) => Ok(message),
        Ok(_) => Err(NetlinkError::Unanswered("a message of another kind".to_owned())),
        Err(error) => Err(NetlinkError::Unanswered(error.to_string())),
    }
}

fn is_dummy(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Dummy)),
        _ => false,
    })
}

fn requests() -> io::Result<OwnedFd> {
    let socket = route_socket(SocketFlags::CLOEXEC)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

fn route_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    // NETLINK_ROUTE is protocol 0.
    Ok(socket_with(rustix::net::AddressFamily::NETLINK, SocketType::RAW, flags, None)?)
}

/// Notes of the kernel that addresses have changed. What has changed is asked of the interfaces themselves.
pub struct Notes(AsyncFd<OwnedFd>);

impl Notes {
    /// Listens.
    pub fn listen() -> io::Result<Self> {
        let socket = route_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS_ADDRESS))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; our socket owns one descriptor for its whole life"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self(socket))
    }

    /// Waits for some, and takes all that are there.
    pub async fn some(&self) {
        let Ok(mut ready) = self.0.readable().await else { std::future::pending().await };
        let mut buffer = [0; 8192];
        // Notes that were lost (ENOBUFS) are notes, too.
        while let Ok(_) | Err(Errno::NOBUFS | Errno::INTR) =
            recv(self.0.get_ref(), &mut buffer, RecvFlags::DONTWAIT)
        {}
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Netlink {
        /// One whose next request is not answered.
        pub(crate) fn deaf() -> Self {
            Self { socket: Some(wire().0), ..Self::open().expect("netlink") }
        }
    }

    #[test]
    fn the_loopback_interface_is_known() {
        let mut netlink = Netlink::open().expect("netlink");
        let found = netlink.addresses().expect("a dump");
        let lo = found.iter().find(|found| found.address.is_loopback()).expect("an address of lo");
        assert_eq!((lo.address, lo.prefix_len), (IpAddr::V4(Ipv4Addr::LOCALHOST), 8));
        // ARPHRD_LOOPBACK.
        assert_eq!(netlink.kind(lo.ifindex).expect("lo"), (772, false));
    }

    #[test]
    fn what_the_kernel_refuses_is_no_silence() {
        let mut netlink = Netlink::open().expect("netlink");
        let refused = netlink.kind(i32::MAX as u32).expect_err("there is no such interface");
        let NetlinkError::Refused(error) = refused else { panic!("{refused}") };
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert!(!netlink.addresses().expect("the next request").is_empty());
    }

    /// Two ends of a wire, instead of the kernel's.
    fn wire() -> (OwnedFd, OwnedFd) {
        let family = rustix::net::AddressFamily::UNIX;
        rustix::net::socketpair(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).expect("two sockets")
    }

    #[test]
    fn silence_is_an_error() {
        let mut netlink = Netlink::deaf();
        assert!(matches!(netlink.addresses(), Err(NetlinkError::Unanswered(_))));
        assert!(!netlink.addresses().expect("by a new socket").is_empty());
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        let (ours, theirs) = wire();
        let mut buffer = [0; 32];
        for datagram in [&[0; 64][..], &[40, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], &[0; 3]] {
            send(&theirs, datagram, SendFlags::empty()).expect("a datagram");
            let answered = answer(&ours, 1, &mut buffer, |_| Ok(()));
            assert!(matches!(answered, Err(NetlinkError::Unanswered(_))), "{answered:?}");
        }
    }

    #[test]
    fn a_dummy_is_told_by_its_kind() {
        let with = |kind| {
            let mut link = LinkMessage::default();
            link.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
            is_dummy(&link)
        };
        assert!(with(InfoKind::Dummy) && !with(InfoKind::Veth) && !is_dummy(&LinkMessage::default()));
    }
}
