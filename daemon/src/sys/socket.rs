//! Socket options that no crate names, and batches of datagrams.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::SockAddr;

/// SO_NO_CHECK: UDP over IPv4 without a checksum (RFC 768: zero means none).
pub fn no_checksum(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: a valid descriptor and an int of the size that is said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Datagrams that leave together. It keeps its room, so that a real-time thread asks no heap for any.
pub struct Batch<const N: usize> {
    to: Vec<SockAddr>,
    bytes: Vec<[u8; N]>,
    pieces: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

impl<const N: usize> Batch<N> {
    /// Room for so many; more make more room.
    pub fn new(count: usize) -> Self {
        Self {
            to: Vec::with_capacity(count),
            bytes: Vec::with_capacity(count),
            pieces: Vec::with_capacity(count),
            messages: Vec::with_capacity(count),
        }
    }

    /// One more.
    pub fn push(&mut self, to: SocketAddr, bytes: [u8; N]) {
        self.to.push(SockAddr::from(to));
        self.bytes.push(bytes);
    }

    /// Sends all in as few system calls as may be, and forgets them; each one that the kernel refuses is told and passed
    /// over.
    pub fn send(&mut self, socket: BorrowedFd<'_>, refused: impl FnMut(io::Error)) {
        let piece = |bytes: &[u8; N]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: N };
        self.pieces.extend(self.bytes.iter().map(piece));
        let message = |(to, piece): (&SockAddr, &mut libc::iovec)| {
            // SAFETY: all zeros is a valid header: no name, no pieces, no control.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = to.as_ptr().cast_mut().cast();
            message.msg_hdr.msg_namelen = to.len();
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
            message
        };
        self.messages.extend(self.to.iter().zip(&mut self.pieces).map(message));
        send_all(socket, &mut self.messages, refused);
        self.messages.clear();
        self.pieces.clear();
        self.to.clear();
        self.bytes.clear();
    }
}

/// The headers' pointers must be good.
fn send_all(socket: BorrowedFd<'_>, messages: &mut [libc::mmsghdr], mut refused: impl FnMut(io::Error)) {
    let mut sent = 0;
    while sent < messages.len() {
        let left = &mut messages[sent..];
        // SAFETY: `left` and all that it points to, which `Batch::send` holds, live until the call is over; the kernel
        // reads them.
        let done = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                left.as_mut_ptr(),
                left.len() as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        match usize::try_from(done) {
            Ok(0) => return,
            Ok(done) => sent += done,
            Err(_) => {
                // The first of those left was refused.
                refused(io::Error::last_os_error());
                sent += 1;
            }
        }
    }
}

/// The flags of an interface (netdevice(7)), in the network namespace that we are in; /sys may show another one.
pub fn interface_flags(interface: &str) -> io::Result<i32> {
    let request = ask_interface(interface, libc::SIOCGIFFLAGS)?;
    // SAFETY: the call has just written this member.
    Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }))
}

/// The longest packet that an interface carries, in bytes, its Ethernet header not counted.
pub fn interface_mtu(interface: &str) -> io::Result<usize> {
    let request = ask_interface(interface, libc::SIOCGIFMTU)?;
    // SAFETY: the call has just written this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    usize::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// SO_RCVBUFFORCE and SO_SNDBUFFORCE: more than an ordinary process may have (socket(7)).
pub fn force_buffers(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        // SAFETY: a valid descriptor and an int of the size that is said.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const bytes).cast(),
                size_of_val(&bytes) as libc::socklen_t,
            )
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether an interface carries Ethernet frames, and is not the loopback.
pub fn is_ethernet(interface: &str) -> io::Result<bool> {
    let request = ask_interface(interface, libc::SIOCGIFHWADDR)?;
    // SAFETY: the call has just written this member.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr }.sa_family == libc::ARPHRD_ETHER)
}

/// Names and indices of all interfaces that carry Ethernet frames.
pub fn ethernet_interfaces() -> io::Result<Vec<(String, u32)>> {
    // SAFETY: no arguments; the list is freed below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut all = Vec::new();
    let mut at = list;
    // SAFETY: the list ends with an index of 0 (if_nameindex(3)), and its names with a zero.
    unsafe {
        while (*at).if_index != 0 {
            let name = std::ffi::CStr::from_ptr((*at).if_name).to_string_lossy().into_owned();
            all.push((name, (*at).if_index));
            at = at.add(1);
        }
        libc::if_freenameindex(list);
    }
    let mut ethernet = Vec::new();
    for (name, ifindex) in all {
        match is_ethernet(&name) {
            Ok(true) => ethernet.push((name, ifindex)),
            Ok(false) => {}
            // One that goes meanwhile carries nothing.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ethernet)
}

/// Whether an interface has this number now.
pub fn is_interface(ifindex: u32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: room for the longest name.
    !unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) }.is_null()
}

/// One of the requests of netdevice(7) that fill in a value.
fn ask_interface(interface: &str, what: libc::c_ulong) -> io::Result<libc::ifreq> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeros is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = byte.cast_signed();
    }
    // SAFETY: a valid descriptor and a request with a terminated name.
    if unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request)
}

/// The index of an interface.
pub fn interface_index(interface: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: a terminated string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}
