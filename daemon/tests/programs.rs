//! The receiving program in the real kernel, packet by packet: verdict, answer, and the counter of the reason.
//!
//! Needs root and a kernel with BPF. Without them it says so, and fails where CI demands the run.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ringbeat_common::drops::Drop;
use ringbeat_common::frame::{FRAME_BYTES, Frame, Kind, VERSION, flags};
use ringbeat_common::watch::state;
use ringbeat_config::Datapath;
use ringbeatd::plane::load::chain;
use ringbeatd::plane::{Identity, KernelPlane, PlaneLink};
use ringbeatd::sys::clock::boot_ns;

const KEY: [u64; 2] = [0x1122, 0x3344];
const OWN: u64 = 5 << 32 | 1;
const PEER: u64 = 9 << 32 | 2;
const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

/// One plane at a time: they all attach to the loopback interface.
static ONE: Mutex<()> = Mutex::new(());

/// A plane, and the right to be the only one; the plane goes first.
fn plane() -> Option<(MutexGuard<'static, ()>, KernelPlane)> {
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let identity = Identity { slot: 0, cluster_id: 77, config_version: 1, key: KEY };
    let link = PlaneLink {
        id: 0,
        interface: "lo".to_owned(),
        ifindex: 1,
        port: 5405,
        interval_ns: 1_000_000_000,
        deadline_ns: 4_000_000_000,
    };
    let made = ringbeat_ebpf_object::KERNEL
        .ok_or_else(|| "no kernel programs in this build".to_owned())
        .and_then(|object| {
            KernelPlane::start(object, identity, &[link], Datapath::Generic, None)
                .map_err(|error| chain(&error))
        });
    match made {
        Ok(mut plane) => {
            plane.open(OWN).expect("opened");
            plane.accept(1, PEER).expect("accepted");
            Some((one, plane))
        }
        Err(why) => {
            common::skipped(why);
            None
        }
    }
}

fn probe(sequence: u64) -> Frame {
    let mut frame = Frame::new(Kind::Probe);
    frame.set_cluster_id(77);
    frame.set_sender(1);
    frame.set_incarnation(PEER);
    frame.set_target_incarnation(OWN);
    frame.set_sequence(sequence);
    frame.set_stamp(1000 + sequence);
    frame.set_returned(boot_ns());
    frame.seal(KEY);
    frame
}

#[derive(Clone, Copy)]
struct Wrap {
    vlan: bool,
    ipv6: bool,
}

const PLAIN: Wrap = Wrap { vlan: false, ipv6: false };

/// The frame in its headers, with a right checksum over IPv6.
fn packet(frame: &Frame, wrap: Wrap) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if wrap.vlan {
        bytes.extend([0x81, 0x00, 0x00, 0x07]);
    }
    let udp = (8 + FRAME_BYTES) as u16;
    if wrap.ipv6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(udp.to_be_bytes());
        bytes.extend([17, 64]);
        bytes.extend([0xfd; 15]);
        bytes.push(2);
        bytes.extend([0xfd; 15]);
        bytes.push(1);
    } else {
        bytes.extend([0x08, 0x00, 0x45, 0]);
        bytes.extend((20 + udp).to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
    }
    let at = bytes.len();
    bytes.extend(5405u16.to_be_bytes());
    bytes.extend(5405u16.to_be_bytes());
    bytes.extend(udp.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(frame.to_bytes());
    if wrap.ipv6 {
        let checksum = !sum(&bytes[at - 32..]).wrapping_add(0);
        let pseudo = fold(u32::from(!checksum) + u32::from(udp) + 17);
        bytes[at + 6..at + 8].copy_from_slice(&(!pseudo).to_be_bytes());
    }
    bytes
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn sum(bytes: &[u8]) -> u16 {
    fold(bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum())
}

fn frame_of(bytes: &[u8]) -> Frame {
    Frame::from_bytes(&bytes[bytes.len() - FRAME_BYTES..]).expect("a frame at the end")
}

#[test]
fn a_probe_is_answered_in_place() {
    let Some((_one, mut plane)) = plane() else { return };
    plane.say(0b11, flags::HANDOVER);
    plane.hand_over(boot_ns() + 60_000_000_000);
    let wraps = [(false, false), (true, false), (false, true), (true, true)];
    for (sequence, (vlan, ipv6)) in (1..).zip(wraps) {
        let wrap = Wrap { vlan, ipv6 };
        let asked = probe(sequence);
        let before = packet(&asked, wrap);
        let tried = plane.try_out(&before, 1).expect("run");
        assert_eq!(tried.verdict, TX, "vlan {vlan} ipv6 {ipv6}");
        let answer = frame_of(&tried.after);
        assert_eq!(answer.kind(), Kind::Answer as u8);
        assert_eq!(answer.computed_tag(KEY), answer.tag());
        assert_eq!((answer.sender(), answer.target(), answer.sequence()), (0, 1, sequence));
        assert_eq!((answer.incarnation(), answer.target_incarnation()), (OWN, PEER));
        assert_eq!((answer.returned(), answer.heard()), (asked.stamp(), 0b11));
        assert_eq!(answer.flags(), flags::HANDOVER);
        assert!(answer.stamp() <= boot_ns() && answer.stamp() >= asked.returned());
        assert!(answer.daemon_age_us() < 1_000_000, "the beat of registration");
        assert_eq!((&tried.after[..6], &tried.after[6..12]), (&before[6..12], &before[..6]));
        let ip = if vlan { 18 } else { 14 };
        if ipv6 {
            assert_eq!(tried.after[ip + 8..ip + 24], before[ip + 24..ip + 40]);
            let udp = u32::from(sum(&tried.after[ip + 8..])) + (8 + FRAME_BYTES as u32) + 17;
            assert_eq!(fold(udp), 0xffff, "the checksum of the answer");
        } else {
            assert_eq!(tried.after[ip + 12..ip + 16], [10, 77, 0, 1]);
            assert_eq!(tried.after[ip + 16..ip + 20], [10, 77, 0, 2]);
        }
    }
    assert_eq!(plane.state(0, 1), state::WATCHED | state::HEARD);
    let told = plane.next_event().expect("heard is told");
    assert_eq!((told.to, told.incarnation), (state::WATCHED | state::HEARD, PEER));
    assert_eq!(plane.next_event(), None, "once");
}

#[test]
fn bad_frames_are_dropped_and_counted_by_reason() {
    let Some((_one, mut plane)) = plane() else { return };
    assert_eq!(plane.try_out(&packet(&probe(10), PLAIN), 1).expect("run").verdict, TX);
    let slot = plane.slot(0, 1);
    let mut bad = |change: &dyn Fn(&mut Frame), reason: Drop| {
        let mut frame = probe(11);
        change(&mut frame);
        if reason != Drop::Forged {
            frame.seal(KEY);
        }
        let before = plane.drops(0)[reason as usize];
        let tried = plane.try_out(&packet(&frame, PLAIN), 1).expect("run");
        assert_eq!(tried.verdict, DROP, "{}", reason.name());
        assert_eq!(plane.drops(0)[reason as usize], before + 1, "{}", reason.name());
        assert_eq!(plane.slot(0, 1), slot, "{}: the cell is as it was", reason.name());
    };
    bad(&|f| f.set_min_version(VERSION + 1), Drop::Version);
    bad(&|f| f.set_kind(77), Drop::Malformed);
    bad(&|f| f.set_sender(64), Drop::Malformed);
    bad(&|f| f.set_cluster_id(1), Drop::Foreign);
    bad(&|f| f.set_link(1), Drop::WrongLink);
    bad(&|f| f.set_key_id(1), Drop::UnknownKey);
    bad(&|f| f.set_key_id(200), Drop::UnknownKey);
    bad(&|f| f.set_heard(7), Drop::Forged);
    bad(&|f| f.set_sender(0), Drop::SelfSent);
    bad(&|f| f.set_sender(2), Drop::Incarnation);
    bad(&|f| f.set_incarnation(7), Drop::Incarnation);
    bad(&|f| f.set_target_incarnation(7), Drop::TargetIncarnation);
    bad(&|f| f.set_sequence(10), Drop::Replayed);
    bad(&|f| f.set_returned(boot_ns() + 1_000_000_000), Drop::FutureStamp);
    plane.close();
    let tried = plane.try_out(&packet(&probe(12), PLAIN), 1).expect("run");
    assert_eq!((tried.verdict, plane.drops(0)[Drop::Closed as usize]), (DROP, 1));
}

/// Packets that are none of ours for one reason each.
fn odd(wrap: Wrap) -> Vec<(&'static str, Vec<u8>)> {
    let whole = packet(&probe(1), wrap);
    let ip = if wrap.vlan { 18 } else { 14 };
    let udp = ip + if wrap.ipv6 { 40 } else { 20 };
    let mut odd: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut change = |name, at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        odd.push((name, bytes));
    };
    change("another ethertype", ip - 2, 0x99);
    if wrap.ipv6 {
        change("another IP version", ip, 0x45);
        change("another length in the IP header", ip + 5, 129);
        change("hop-by-hop options", ip + 6, 0);
        change("a fragment", ip + 6, 44);
        change("another protocol", ip + 6, 6);
    } else {
        change("options in the IP header", ip, 0x46);
        change("another IP version", ip, 0x65);
        change("another length in the IP header", ip + 3, 149);
        change("more fragments", ip + 6, 0x20);
        change("a fragment's offset", ip + 7, 0x01);
        change("another protocol", ip + 9, 6);
    }
    change("another port", udp + 3, 0x1e);
    change("another length in the UDP header", udp + 5, 129);
    change("another magic", udp + 8, b'X');
    for length in (14..whole.len()).step_by(7) {
        odd.push(("truncated", whole[..length].to_vec()));
    }
    let tag: &[u8] = &[0x81, 0, 0, 1];
    let tags = if wrap.vlan { tag.to_vec() } else { [tag, tag].concat() };
    odd.push(("two VLAN tags", [&whole[..12], &tags, &whole[12..]].concat()));
    for (name, of) in
        [("for another node", (Some(3), None)), ("the handshake", (None, Some(Kind::Hello as u8)))]
    {
        let mut frame = probe(1);
        of.0.into_iter().for_each(|target| frame.set_target(target));
        of.1.into_iter().for_each(|kind| frame.set_kind(kind));
        frame.seal(KEY);
        odd.push((name, packet(&frame, wrap)));
    }
    odd
}

#[test]
fn everything_else_passes_untouched() {
    let Some((_one, mut plane)) = plane() else { return };
    let wraps = [(false, false), (true, false), (false, true), (true, true)];
    for (vlan, ipv6) in wraps {
        for (name, bytes) in odd(Wrap { vlan, ipv6 }) {
            let tried = plane.try_out(&bytes, 1).expect("run");
            assert_eq!((tried.verdict, &tried.after), (PASS, &bytes), "{name}, vlan {vlan} ipv6 {ipv6}");
        }
    }
    assert_eq!(plane.drops(0), [0; 16]);
    assert_eq!(plane.state(0, 1), state::WATCHED);
    for (sequence, (vlan, ipv6)) in (1..).zip(wraps) {
        // A longer Ethernet frame than the IP packet in it is padding, and padding is fine.
        let padded = [packet(&probe(sequence), Wrap { vlan, ipv6 }).as_slice(), &[0; 8]].concat();
        assert_eq!(plane.try_out(&padded, 1).expect("run").verdict, TX, "vlan {vlan} ipv6 {ipv6}");
    }
}

#[test]
fn gone_stays_gone_and_is_told() {
    let Some((_one, mut plane)) = plane() else { return };
    let mut frame = probe(1);
    frame.set_flags(flags::GONE);
    frame.seal(KEY);
    plane.try_out(&packet(&frame, PLAIN), 1).expect("run");
    plane.try_out(&packet(&probe(2), PLAIN), 1).expect("run");
    let told = plane.next_event().expect("told");
    assert_eq!(told.to & state::GONE, state::GONE);
    assert_eq!(plane.state(0, 1) & state::GONE, state::GONE);
    plane.accept(1, PEER + 1).expect("a new life");
    assert_eq!(plane.state(0, 1), state::WATCHED);
}
