//! Somebody on the network who says that a service address is his: the holder tells it, and does not fight.

use std::{
    net::Ipv6Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    ALL, Ctx, Test,
    address::{LONG, holder, runs, whole},
    expect::{Ear, all_up, status, wait},
};
use crate::{Lab, LabSpec, Node, PacketSocket, bench::prober::checksum, lab::SERVICE};

pub(super) const TESTS: &[Test] = &[
    Test { name: "address/stranger", needs: ALL, timeout: LONG, run: stranger },
    Test { name: "address/stranger_ipv6", needs: ALL, timeout: LONG, run: stranger_ipv6 },
];

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 0x100);
/// For how long the holder is watched: it does not answer back.
const WATCH: Duration = Duration::from_millis(300);
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// A lab whose holder has said all that a new holder says: what it says from here on is an answer to the stranger.
struct Scene {
    lab: Lab,
    held: String,
}

impl Scene {
    fn set(ctx: &Ctx, address: &str) -> Result<Self> {
        let lab = ctx.running(LabSpec { addresses: vec![address.to_owned()], ..ctx.spec() })?;
        all_up(&lab)?;
        whole(&lab)?;
        let held = holder(&lab)?;
        thread::sleep(Duration::from_millis(3200));
        Ok(Self { lab, held })
    }

    fn holder(&self) -> Result<Node<'_>> {
        self.lab.node(&self.held)
    }

    fn wire(&self) -> Result<PacketSocket> {
        let wire = self.lab.node("client")?.packets("svc0")?;
        wire.set_patience(Duration::from_millis(50))?;
        Ok(wire)
    }

    /// The stranger whom the holder tells of.
    fn conflict(&self) -> Result<Option<String>> {
        let status = status(&self.holder()?)?;
        Ok(status.addresses.first().context("an address")?.conflict.clone())
    }

    /// The holder tells of this stranger, stays, and says nothing that looks like this.
    fn is_told(
        &self,
        ear: &mut Ear,
        (frame, mac): (&[u8], [u8; 6]),
        is_fight: impl Fn(&[u8]) -> bool,
    ) -> Result<()> {
        // It hears no answers to what was asked before.
        let wire = self.wire()?;
        let told = text(mac);
        wait("the stranger is told", || {
            wire.send(frame)?;
            Ok(self.conflict()?.as_ref() == Some(&told))
        })?;
        ensure!(holder(&self.lab)? == self.held, "the holder gave way to a stranger");
        let event = ear.hears(&format!("address_conflict {}", self.held))?;
        ensure!(event.text.as_ref().is_some_and(|text| text.contains(&told)), "told as {event:?}");
        ear.forget()?;
        let end = Instant::now() + WATCH;
        while Instant::now() < end {
            let mut buffer = [0; 256];
            let Ok(heard) = wire.recv(&mut buffer) else { continue };
            ensure!(!is_fight(heard), "the holder fights over the address: {heard:02x?}");
        }
        Ok(())
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Another one in each round.
fn mac(round: usize) -> Result<[u8; 6]> {
    Ok([2, 0, 0, 0, 1, u8::try_from(round % 256)?])
}

fn stranger(ctx: &mut Ctx) -> Result<()> {
    let scene = Scene::set(ctx, "10.78.0.100/24")?;
    let mut ear = Ear::on(&scene.holder()?)?;
    for round in 0..runs() {
        let mac = mac(round)?;
        let mut frame = vec![0xff; 6];
        frame.extend(mac);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend(mac);
        frame.extend([10, 78, 0, 100]);
        frame.extend([0xff; 6]);
        frame.extend([10, 78, 0, 100]);
        scene.is_told(&mut ear, (&frame, mac), |heard| {
            let is_of_it = heard.len() >= 42 && heard[12..14] == [8, 6] && heard[28..32] == [10, 78, 0, 100];
            is_of_it && heard[22..28] != mac
        })?;
    }
    scene.lab.down()
}

/// Both who advertises it and who asks others in its name is told; who only tries whether it is free is not, and neither is
/// what a router let through.
fn stranger_ipv6(ctx: &mut Ctx) -> Result<()> {
    let scene = Scene::set(ctx, &format!("{ADDRESS}/64"))?;
    let (wire, mut ear) = (scene.wire()?, Ear::on(&scene.holder()?)?);
    let mine = scene.holder()?.mac(SERVICE)?;
    let other: Ipv6Addr = "fd78::7".parse()?;
    for round in 0..runs() {
        let mac = mac(round)?;
        let advertises = Neighbour { kind: ADVERTISEMENT, from: ADDRESS, about: ADDRESS, hops: 255, mac };
        let asks = Neighbour { kind: SOLICITATION, about: other, ..advertises };
        let harmless = [
            Neighbour { hops: 254, ..advertises },
            Neighbour { about: other, from: other, ..advertises },
            Neighbour { kind: SOLICITATION, from: Ipv6Addr::UNSPECIFIED, ..advertises },
            Neighbour { kind: SOLICITATION, from: other, ..advertises },
        ];
        let before = scene.conflict()?;
        for neighbour in &harmless {
            // More than it takes to be believed.
            for _ in 0..8 {
                wire.send(&neighbour.frame()?)?;
            }
        }
        thread::sleep(WATCH);
        ensure!(scene.conflict()? == before, "the harmless are told");
        let frame = if round % 2 == 0 { advertises } else { asks }.frame()?;
        scene.is_told(&mut ear, (&frame, mac), |heard| {
            let is_advertised = heard.len() >= 78 && heard[12..14] == [0x86, 0xdd] && heard[20] == 58;
            is_advertised
                && heard[54] == ADVERTISEMENT
                && heard[62..78] == ADDRESS.octets()
                && heard[6..12] == mine
        })?;
    }
    scene.lab.down()
}

/// A message of neighbour discovery to all nodes of the link (RFC 4861, sections 4.3 and 4.4).
#[derive(Clone, Copy)]
struct Neighbour {
    kind: u8,
    from: Ipv6Addr,
    about: Ipv6Addr,
    hops: u8,
    mac: [u8; 6],
}

impl Neighbour {
    fn frame(&self) -> Result<Vec<u8>> {
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let mut message = vec![self.kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(self.about.octets());
        message.extend([if self.kind == ADVERTISEMENT { 2 } else { 1 }, 1]);
        message.extend(self.mac);
        let length = u8::try_from(message.len())?;
        let pseudo: Vec<u8> =
            [&self.from.octets()[..], &to.octets(), &[0, 0, 0, length, 0, 0, 0, 58], &message].concat();
        message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
        frame.extend(self.mac);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, length, 58, self.hops]);
        frame.extend(self.from.octets());
        frame.extend(to.octets());
        frame.extend(message);
        Ok(frame)
    }
}
