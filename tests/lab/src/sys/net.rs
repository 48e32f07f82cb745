//! Interfaces of the calling thread's network namespace.

use std::{io, net::UdpSocket};

/// The index of each named interface.
pub(crate) fn indexes<'a>(names: impl IntoIterator<Item = &'a str>) -> io::Result<Vec<u32>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    names.into_iter().map(|name| Ok(rustix::net::netdevice::name_to_index(&socket, name)?)).collect()
}
