//! The gates in the real kernel, packet by packet: what is leased passes while the lease lasts, all else always.
//!
//! Needs root and a kernel with BPF. Without them it says so, and fails where CI demands the run.

mod cgroup;
#[path = "../common/mod.rs"]
mod common;
mod packets;

use std::mem::offset_of;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use ringbeat_common::lease::{self, Counted, Whole};
use ringbeat_common::limits::{GATES_MAX, NODES_MAX};
use ringbeat_common::maps::{AddressKey, GateLog, Latch, LeaseTable, ipv4_key, latch};
use ringbeat_common::view::View;
use ringbeatd::plane::lease::{LeaseCells, Votes};
use ringbeatd::plane::load::{Loaded, chain};
use ringbeatd::sys::clock::boot_ns;
use ringbeatd::sys::mapped::Mapped;

use crate::packets::*;

const DROP: u32 = 2;
/// On to the next program.
const NEXT: u32 = u32::MAX;
const OUT: &str = "gate_out";
const IN: &str = "gate_in";
/// The gate of the leased IPv4 address, and of the IPv6 one.
const GATE4: usize = 0;
const GATE6: usize = 1;
/// A lease that does not run out before a test is done.
const LONG_US: u32 = 16_000_000;
const SEQ: Ordering = Ordering::SeqCst;

/// The programs, and the words that they look at.
struct Gates {
    loaded: Loaded,
    table: Mapped<LeaseTable>,
    latch: Mapped<Latch>,
    logs: Mapped<GateLog>,
    epoch: u64,
}

impl Gates {
    /// With both addresses leased, and a daemon that lives; none if this machine cannot.
    fn new() -> Option<Self> {
        let loaded = ringbeat_ebpf_object::KERNEL
            .ok_or_else(|| "no kernel programs in this build".to_owned())
            .and_then(|object| Loaded::new(object, None).map_err(|error| chain(&error)));
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(why) => {
                common::skipped(why);
                return None;
            }
        };
        loaded.load_cgroup_gate().unwrap_or_else(|error| panic!("{}", chain(&error)));
        let mut addresses: HashMap<MapData, AddressKey, u64> =
            HashMap::try_from(loaded.take("ADDRESSES").expect("a map")).expect("a hash map");
        for (address, gate) in [(IpAddr::V4(LEASED4), GATE4), (IpAddr::V6(LEASED6), GATE6)] {
            addresses.insert(key(address), gate as u64, 0).expect("inserted");
        }
        let gates = Self {
            table: mapped(&mut loaded, "LEASE", 1),
            latch: mapped(&mut loaded, "LATCH", 1),
            logs: mapped(&mut loaded, "GATE_LOGS", GATES_MAX),
            loaded,
            epoch: 0,
        };
        gates.cells().adopt_closed();
        let octets = [LEASED4.octets()[3], LEASED6.octets()[15]];
        lease::name_octets(&gates.cells(), octets.into_iter());
        gates.set_latch(latch::ALIVE, 0);
        Some(gates)
    }

    fn cells(&self) -> LeaseCells<'_> {
        LeaseCells(self.table.words())
    }

    fn set_latch(&self, state: u64, handover_until_ns: u64) {
        self.latch.word(0, offset_of!(Latch, handover_until_ns)).store(handover_until_ns, SEQ);
        self.latch.word(0, offset_of!(Latch, state)).store(state, SEQ);
    }

    /// Installs a view that gives these gates to this node, and no lease yet.
    fn install(&mut self, owned: u64, lease_us: u32) -> View {
        let mut votes = Votes { own: 0, of: [0; NODES_MAX], quorum: 2 };
        votes.of[..2].fill(1);
        self.epoch += 1;
        let view = View::new(self.epoch, 0, 0b11, lease_us, 1);
        self.cells().install(view, 0, owned, &votes);
        view
    }

    /// The same, and the other node has granted just now; gives the end of the lease, in ns.
    fn hold(&mut self, owned: u64, lease_us: u32) -> u64 {
        let view = self.install(owned, lease_us);
        let cells = self.cells();
        let (serving, now_ns) = (lease::serving(&cells), boot_ns());
        let counted = lease::count::<Whole, _>(&cells, &serving, 1, &view, now_ns, now_ns);
        assert_eq!(counted, Counted::Gained);
        lease::until_us(&cells) * 1000
    }

    /// The verdict; whatever it is, the packet is as it was.
    fn verdict(&mut self, gate: &'static str, packet: &[u8]) -> u32 {
        let tried = self.loaded.try_classifier(gate, packet, 1);
        let tried = tried.unwrap_or_else(|error| panic!("{} ({} bytes)", chain(&error), packet.len()));
        assert_eq!(tried.after, packet, "{gate} changed the packet");
        tried.verdict
    }

    /// Packets counted by each gate: passed and dropped.
    fn counts(&self) -> [(u64, u64); 2] {
        [GATE4, GATE6].map(|gate| {
            let log = self.logs.copy(gate);
            (log.passed, log.dropped)
        })
    }

    /// Every packet does as it should, and is counted once if it is of a leased address.
    fn assert_all(&mut self, open: bool, when: &str) {
        for (name, gate, packet, leased) in samples() {
            let before = self.counts();
            let verdict = self.verdict(gate, &packet);
            let wanted = if leased.is_none() || open { NEXT } else { DROP };
            assert_eq!(verdict, wanted, "{when}, {gate}: {name}");
            let mut counts = before;
            if let Some(at) = leased {
                let (passed, dropped) = counts[at];
                counts[at] = if open { (passed + 1, dropped) } else { (passed, dropped + 1) };
            }
            assert_eq!(self.counts(), counts, "{when}, {gate}: {name}");
        }
    }
}

fn mapped<T: Copy>(loaded: &mut Loaded, name: &'static str, values: usize) -> Mapped<T> {
    let Map::Array(map) = loaded.take(name).expect("a map") else { panic!("{name} is no array") };
    Mapped::new(map.fd().as_fd(), values).expect("mapped")
}

fn key(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(address) => ipv4_key(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => {
            let octets = address.octets();
            std::array::from_fn(|at| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| octets[at * 4 + byte])))
        }
    }
}

type Sample = (&'static str, &'static str, Vec<u8>, Option<usize>);

/// Packets by name: which gate they meet, and whose they are.
fn samples() -> Vec<Sample> {
    let short = |packet: Vec<u8>, length: usize| packet[..length].to_vec();
    vec![
        // What is from the address, or speaks for it, does not leave.
        ("IPv4", OUT, plain4(LEASED4, OTHER4), Some(GATE4)),
        ("IPv4 with options", OUT, ipv4(LEASED4, OTHER4, true, 0), Some(GATE4)),
        ("a later fragment", OUT, ipv4(LEASED4, OTHER4, false, 2), Some(GATE4)),
        ("IPv4, the header alone", OUT, short(plain4(LEASED4, OTHER4), 34), Some(GATE4)),
        ("a reply", OUT, arp(ARP_REPLY, LEASED4, OTHER4), Some(GATE4)),
        ("a question in its name", OUT, arp(ARP_REQUEST, LEASED4, OTHER4), Some(GATE4)),
        ("own gratuitous ARP", OUT, arp(ARP_REQUEST, LEASED4, LEASED4), Some(GATE4)),
        ("own gratuitous ARP, a reply", OUT, arp(ARP_REPLY, LEASED4, LEASED4), Some(GATE4)),
        ("IPv6", OUT, plain6(LEASED6, OTHER6), Some(GATE6)),
        ("IPv6, the header alone", OUT, ipv6(LEASED6, OTHER6, UDP, &[]), Some(GATE6)),
        ("ICMPv6, the header alone", OUT, ipv6(LEASED6, OTHER6, ICMPV6, &[]), Some(GATE6)),
        ("an echo", OUT, ipv6(LEASED6, OTHER6, ICMPV6, &[129, 0, 0, 0, 0, 0, 0, 1]), Some(GATE6)),
        ("an answer to who asks", OUT, neighbour(ADVERTISEMENT, LEASED6, OTHER6, LEASED6), Some(GATE6)),
        ("an answer by another", OUT, neighbour(ADVERTISEMENT, OTHER6, THIRD6, LEASED6), Some(GATE6)),
        ("told to all", OUT, neighbour(ADVERTISEMENT, LEASED6, ALL_NODES, LEASED6), Some(GATE6)),
        ("in its name of another", OUT, neighbour(ADVERTISEMENT, LEASED6, OTHER6, OTHER6), Some(GATE6)),
        (
            "an answer that is cut",
            OUT,
            short(neighbour(ADVERTISEMENT, LEASED6, OTHER6, LEASED6), 70),
            Some(GATE6),
        ),
        ("a question in its name", OUT, neighbour(SOLICITATION, LEASED6, ASKED, OTHER6), Some(GATE6)),
        // What only asks for the address, or is for it, does.
        ("IPv4 to it", OUT, plain4(OTHER4, LEASED4), None),
        ("who has it?", OUT, arp(ARP_REQUEST, OTHER4, LEASED4), None),
        ("has nobody it?", OUT, arp(ARP_REQUEST, NOBODY4, LEASED4), None),
        ("IPv6 to it", OUT, plain6(OTHER6, LEASED6), None),
        ("who has it?", OUT, neighbour(SOLICITATION, OTHER6, ASKED, LEASED6), None),
        ("has nobody it?", OUT, neighbour(SOLICITATION, NOBODY6, ASKED, LEASED6), None),
        // What is for the address, or asks this node for it, does not come in.
        ("IPv4", IN, plain4(OTHER4, LEASED4), Some(GATE4)),
        ("IPv4 with options", IN, ipv4(OTHER4, LEASED4, true, 0), Some(GATE4)),
        ("a later fragment", IN, ipv4(OTHER4, LEASED4, false, 2), Some(GATE4)),
        ("who has it?", IN, arp(ARP_REQUEST, OTHER4, LEASED4), Some(GATE4)),
        ("has nobody it?", IN, arp(ARP_REQUEST, NOBODY4, LEASED4), Some(GATE4)),
        ("IPv6", IN, plain6(OTHER6, LEASED6), Some(GATE6)),
        ("ICMPv6, the header alone", IN, ipv6(OTHER6, LEASED6, ICMPV6, &[]), Some(GATE6)),
        ("do you still have it?", IN, neighbour(SOLICITATION, OTHER6, LEASED6, LEASED6), Some(GATE6)),
        // A question to the group is for every address with this end; it is the answer that must not leave.
        ("who has it?", IN, neighbour(SOLICITATION, OTHER6, ASKED, LEASED6), None),
        ("has nobody it?", IN, neighbour(SOLICITATION, NOBODY6, ASKED, LEASED6), None),
        // The news who has it now comes in, and so does the one who has it.
        ("IPv4 from it", IN, plain4(LEASED4, OTHER4), None),
        ("a stranger's reply", IN, arp(ARP_REPLY, LEASED4, OTHER4), None),
        ("a stranger's gratuitous ARP", IN, arp(ARP_REQUEST, LEASED4, LEASED4), None),
        ("a stranger's gratuitous ARP, a reply", IN, arp(ARP_REPLY, LEASED4, LEASED4), None),
        ("a stranger's question in its name", IN, arp(ARP_REQUEST, LEASED4, OTHER4), None),
        ("IPv6 from it", IN, plain6(LEASED6, OTHER6), None),
        ("told to all", IN, neighbour(ADVERTISEMENT, LEASED6, ALL_NODES, LEASED6), None),
        ("an answer", IN, neighbour(ADVERTISEMENT, LEASED6, OTHER6, LEASED6), None),
    ]
    .into_iter()
    .chain([OUT, IN].into_iter().flat_map(unleased))
    .collect()
}

/// What is not leased, or outside of what the gate looks at; either way.
fn unleased(gate: &'static str) -> Vec<Sample> {
    vec![
        ("IPv4", gate, plain4(OTHER4, THIRD4), None),
        ("a question", gate, arp(ARP_REQUEST, OTHER4, THIRD4), None),
        ("a reply", gate, arp(ARP_REPLY, OTHER4, THIRD4), None),
        ("IPv6", gate, plain6(OTHER6, THIRD6), None),
        ("a solicitation", gate, neighbour(SOLICITATION, OTHER6, THIRD6, THIRD6), None),
        ("an advertisement", gate, neighbour(ADVERTISEMENT, OTHER6, THIRD6, OTHER6), None),
        ("another ethertype", gate, ethernet(0x88cc, &[0; 40]), None),
        ("a length", gate, ethernet(40, &[0; 40]), None),
        ("IPv4 in a tag", gate, tagged(&plain4(LEASED4, LEASED4)), None),
        ("ARP in a tag", gate, tagged(&arp(ARP_REQUEST, LEASED4, LEASED4)), None),
        ("IPv6 in a tag", gate, tagged(&plain6(LEASED6, LEASED6)), None),
    ]
}

#[test]
fn a_leased_address_passes_while_its_lease_lasts() {
    let Some(mut gates) = Gates::new() else { return };
    gates.assert_all(false, "no view");
    gates.install(0b11, LONG_US);
    gates.assert_all(false, "owned, and nothing granted");
    gates.hold(0, LONG_US);
    gates.assert_all(false, "granted, and not owned");
    gates.hold(0b11, LONG_US);
    gates.assert_all(true, "held");
    gates.cells().set_slack(LONG_US);
    gates.assert_all(false, "held, and no longer than the slack");
    gates.cells().set_slack(0);
    gates.cells().release();
    gates.assert_all(false, "released");
    gates.hold(0b11, LONG_US);
    gates.cells().announce(&View::new(99, 0, 0b11, LONG_US, 1), 0);
    gates.assert_all(false, "announced to go");
}

#[test]
fn each_address_has_its_own_gate() {
    let Some(mut gates) = Gates::new() else { return };
    gates.hold(1 << GATE4, LONG_US);
    assert_eq!(gates.verdict(OUT, &plain4(LEASED4, OTHER4)), NEXT);
    assert_eq!(gates.verdict(OUT, &plain6(LEASED6, OTHER6)), DROP);
    // An advertisement speaks for two addresses, and both have to be held.
    assert_eq!(gates.verdict(OUT, &neighbour(ADVERTISEMENT, LEASED6, OTHER6, OTHER6)), DROP);
    gates.hold(1 << GATE6, LONG_US);
    assert_eq!(gates.verdict(IN, &plain4(OTHER4, LEASED4)), DROP);
    assert_eq!(gates.verdict(IN, &plain6(OTHER6, LEASED6)), NEXT);
}

#[test]
fn the_gate_closes_at_the_very_end() {
    let Some(mut gates) = Gates::new() else { return };
    closes_at_the_end(&mut gates, 0);
    closes_at_the_end(&mut gates, 100_000);
}

/// The gate of a lease of 0.3 s closes so many µs before its end, and not before that.
fn closes_at_the_end(gates: &mut Gates, slack_us: u32) {
    gates.cells().set_slack(slack_us);
    let (packet, mut passed, mut dropped) = (plain4(LEASED4, OTHER4), 0, 0);
    let until_ns = gates.hold(0b11, 300_000) - u64::from(slack_us) * 1000;
    while dropped < 1000 {
        let before_ns = boot_ns();
        let verdict = gates.verdict(OUT, &packet);
        let after_ns = boot_ns();
        if verdict == NEXT {
            assert!(before_ns < until_ns, "passed {} ns after the end", before_ns - until_ns);
            passed += 1;
        } else {
            assert!(after_ns / 1000 * 1000 >= until_ns, "dropped {} ns before it", until_ns - after_ns);
            dropped += 1;
        }
    }
    assert!(passed > 100, "hardly tried: {passed} passed");
    gates.assert_all(false, "run out");
}

#[test]
fn the_latch_closes_the_gate() {
    let Some(mut gates) = Gates::new() else { return };
    gates.hold(0b11, LONG_US);
    gates.assert_all(true, "the daemon lives");
    gates.set_latch(latch::GONE, 0);
    gates.assert_all(false, "the daemon is gone");
    gates.set_latch(latch::HANDED_OVER, boot_ns() + 60_000_000_000);
    gates.assert_all(true, "the daemon hands over");
    gates.set_latch(latch::HANDED_OVER, boot_ns());
    gates.assert_all(false, "and its successor did not come");
}

#[test]
fn a_node_whose_own_votes_are_enough_waits_first() {
    let Some(mut gates) = Gates::new() else { return };
    let votes = Votes { own: 0, of: [1; NODES_MAX], quorum: 1 };
    let from_ns = boot_ns() + 1_000_000_000;
    gates.cells().install(View::new(1, 0, 0b1, LONG_US, 1), from_ns, 0b11, &votes);
    gates.assert_all(false, "before");
    assert!(boot_ns() < from_ns, "too slow a machine to say");
    std::thread::sleep(Duration::from_nanos(from_ns.saturating_sub(boot_ns())));
    assert!(boot_ns() >= from_ns);
    gates.assert_all(true, "after");
}

/// A packet that ends before its address names none, and no stack takes it; with the address it is judged.
#[test]
fn short_packets_are_judged_by_what_they_have() {
    let Some(mut gates) = Gates::new() else { return };
    let whole = [
        (OUT, plain4(LEASED4, OTHER4), 34),
        (IN, plain4(OTHER4, LEASED4), 34),
        (OUT, arp(ARP_REPLY, LEASED4, OTHER4), 42),
        (IN, arp(ARP_REQUEST, OTHER4, LEASED4), 42),
        (OUT, plain6(LEASED6, OTHER6), 54),
        (IN, plain6(OTHER6, LEASED6), 54),
        (OUT, neighbour(ADVERTISEMENT, LEASED6, OTHER6, LEASED6), 54),
    ];
    for (gate, packet, enough) in whole {
        for length in 14..=packet.len() {
            let Ok(tried) = gates.loaded.try_classifier(gate, &packet[..length], 1) else {
                // The kernel itself makes no test run of an IP packet without its header.
                assert!(length < enough, "{gate}, {length} bytes");
                continue;
            };
            let wanted = if length < enough { NEXT } else { DROP };
            assert_eq!(tried.verdict, wanted, "{gate}, {length} bytes of {packet:x?}");
            assert_eq!(tried.after, packet[..length]);
        }
    }
}
