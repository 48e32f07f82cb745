//! Plain frames between nodes: who reaches whom on which link.

use std::{net::UdpSocket, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{Lab, Node, boottime_ns};

/// Long for one frame on one machine, at load too.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// A short while for frames that shall not come.
const GRACE: Duration = Duration::from_millis(10);
const PORT: u16 = 7077;

/// A UDP socket inside a node.
pub(super) struct Socket {
    pub(super) socket: UdpSocket,
    pub(super) address: (String, u16),
}

impl Socket {
    pub(super) fn new(node: &Node<'_>, address: &str) -> Result<Self> {
        let address = (address.to_owned(), PORT);
        let socket = node.in_network(|| UdpSocket::bind(&address))?;
        let socket = socket.with_context(|| format!("{} cannot bind {address:?}", node.name()))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, address })
    }

    /// Whether a frame from here arrives there. Address resolution needs both directions, so it must be done
    /// before a one-way cut is looked at.
    pub(super) fn reaches(&self, other: &Self) -> Result<bool> {
        let token = boottime_ns().to_ne_bytes();
        self.socket.send_to(&token, &other.address)?;
        let mut bytes = [0; 8];
        while other.socket.recv_from(&mut bytes).is_ok() {
            if bytes == token {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A socket on each heartbeat link of each node.
pub(super) struct Mesh {
    sockets: Vec<(u8, u8, Socket)>,
}

impl Mesh {
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let mut sockets = Vec::new();
        for node in lab.nodes() {
            for link in 0..lab.spec().links {
                sockets.push((link, node.id()?, Socket::new(&node, &node.address(link)?)?));
            }
        }
        Ok(Self { sockets })
    }

    /// Sends on every link from every node to every other: what arrives must be just what `open(link, from,
    /// to)` says.
    pub(super) fn expect(&self, open: impl Fn(u8, u8, u8) -> bool) -> Result<()> {
        let token = boottime_ns();
        let mut sent = Vec::new();
        for (link, from, socket) in &self.sockets {
            for (other, to, peer) in &self.sockets {
                if link == other && from != to {
                    let text = format!("{token} {link} {from} {to}");
                    // A neighbour that was given up on is reported as an error on the next send: that is a
                    // loss, too.
                    let _ = socket.socket.send_to(text.as_bytes(), &peer.address);
                    sent.push((*link, *from, *to, text));
                }
            }
        }
        let mut got = Vec::new();
        for (link, to, socket) in &self.sockets {
            let mut wanted = sent
                .iter()
                .filter(|(on, from, at, _)| on == link && at == to && open(*on, *from, *at))
                .count();
            // With all there that shall come, a little time is left for what shall not.
            let mut bytes = [0; 64];
            socket.socket.set_read_timeout(Some(if wanted == 0 { GRACE } else { PATIENCE }))?;
            while let Ok((length, _)) = socket.socket.recv_from(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                if text.starts_with(&token.to_string()) {
                    got.push(text);
                    wanted = wanted.saturating_sub(1);
                }
                if wanted == 0 {
                    socket.socket.set_read_timeout(Some(GRACE))?;
                }
            }
        }
        for (link, from, to, text) in sent {
            match (open(link, from, to), got.contains(&text)) {
                (true, false) => bail!("link {link}: nothing comes from n{from} to n{to}"),
                (false, true) => bail!("link {link}: n{from} reaches n{to} through a cut"),
                _ => {}
            }
        }
        Ok(())
    }
}
