//! Interfaces of the calling thread's network namespace.

use std::{io, net::UdpSocket, os::fd::AsRawFd};

/// The index of each named interface.
pub(crate) fn indexes<'a>(names: impl IntoIterator<Item = &'a str>) -> io::Result<Vec<u32>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    names.into_iter().map(|name| Ok(rustix::net::netdevice::name_to_index(&socket, name)?)).collect()
}

/// Switches generic receive offload on, as `ethtool -K NAME gro on` does. On a veth that starts NAPI, without
/// which frames that XDP sends back from the other end are lost.
pub(crate) fn gro_on<'a>(names: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
    const ETHTOOL_SGRO: u32 = 0x2c;
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }

    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for name in names {
        let mut value = Value { command: ETHTOOL_SGRO, data: 1 };
        // SAFETY: `ifreq` is plain data; all zeroes is an empty name and a null pointer.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("interface name too long: {name}"),
            ));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request holds a name that ends in a zero and a pointer to a value of the command's
        // layout; both outlive the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
