//! The kernel's programs as the heartbeat plane: maps as memory, the ring buffer, pins.
//!
//! Closing comes before adopting: a daemon that finds the pins of a dead one closes the plane, clears the cells, and
//! opens as a new incarnation. Only a planned hand-over, inside its time, goes on as it was.

use std::mem::offset_of;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use ringbeat_common::drops::DROPS_MAX;
use ringbeat_common::event::Event;
use ringbeat_common::frame::flags;
use ringbeat_common::lease;
use ringbeat_common::limits::{GATES_MAX, KEYS_MAX, LINKS_MAX, NODES_MAX, SLOTS_MAX, cell};
use ringbeat_common::maps::{
    ABI, ABI_OLDEST, AddressKey, Counters, Drops, GateLog, Latch, LeaseTable, Link, Node, Tick, Trips,
    Watches, ipv4_key, latch,
};
use ringbeat_common::slot::Slot;
use ringbeat_common::watch::{Watch, state};
use ringbeat_config::Datapath;

use super::lease::LeaseCells;
use super::load::{LoadError, Loaded, Tried, chain};
use super::pins::Pins;
use super::{CellReading, Gated, Identity, Mode, PlaneLink};
use crate::sys::clock::boot_ns;
use crate::sys::mapped::Mapped;
use crate::sys::pod::Value;
use crate::sys::socket::{interface_index, is_interface};

/// BPF_F_LOCK: the whole value changes under its lock.
const UNDER_LOCK: u64 = 4;

/// The kernel's programs, loaded and attached.
pub struct KernelPlane {
    node: Mapped<Node>,
    latch: Arc<Mapped<Latch>>,
    watches: Mapped<Watches>,
    tick: Mapped<Tick>,
    counters: Mapped<Counters>,
    trips: Mapped<Trips>,
    drops: Mapped<Drops>,
    lease: Mapped<LeaseTable>,
    gate_logs: Mapped<GateLog>,
    addresses: HashMap<MapData, AddressKey, u64>,
    /// The interfaces that the gate stands on, with their indexes.
    gated: Vec<(String, u32)>,
    pins: Option<Pins>,
    slots: Array<MapData, Value<Slot>>,
    keys: Array<MapData, [u64; 2]>,
    link_table: Mapped<Link>,
    events: RingBuf<MapData>,
    identity: Identity,
    links: Vec<PlaneLink>,
    modes: Vec<(u8, Mode, Option<String>)>,
    /// The incarnation of a former daemon whose hand-over was taken up, and the end of it.
    adopted: Option<(u64, u64)>,
    found_pins: bool,
    /// Whether the maps hold this daemon's state, and no longer a former one's.
    is_ours: bool,
    /// Keeps programs and links in place.
    loaded: Loaded,
}

/// Maps the values of an array map.
fn mapped<T: Copy>(loaded: &mut Loaded, name: &'static str, values: usize) -> Result<Mapped<T>, LoadError> {
    let Map::Array(map) = loaded.take(name)? else { return Err(LoadError::NoMap(name)) };
    Mapped::new(map.fd().as_fd(), values).map_err(|error| LoadError::Map { name, why: error.to_string() })
}

/// An array map for system calls.
fn array<V: aya::Pod>(loaded: &mut Loaded, name: &'static str) -> Result<Array<MapData, V>, LoadError> {
    Array::try_from(loaded.take(name)?).map_err(|error| LoadError::Map { name, why: chain(&error) })
}

impl KernelPlane {
    /// Loads and attaches. What a former daemon left goes on as it is until [`Self::open`].
    pub fn start(
        object: &[u8],
        identity: Identity,
        links: &[PlaneLink],
        datapath: Datapath,
        pins: Option<&Pins>,
    ) -> Result<Self, LoadError> {
        let found_pins = pins.is_some_and(Pins::are_there);
        let mut loaded = Loaded::new(object, pins)?;
        let events = RingBuf::try_from(loaded.take("EVENTS")?)
            .map_err(|error| LoadError::Map { name: "EVENTS", why: chain(&error) })?;
        let mut plane = Self {
            node: mapped(&mut loaded, "NODE", 1)?,
            latch: Arc::new(mapped(&mut loaded, "LATCH", 1)?),
            watches: mapped(&mut loaded, "WATCHES", 1)?,
            tick: mapped(&mut loaded, "TICK", 1)?,
            counters: mapped(&mut loaded, "COUNTERS", SLOTS_MAX)?,
            trips: mapped(&mut loaded, "TRIPS", SLOTS_MAX)?,
            drops: mapped(&mut loaded, "DROPS", LINKS_MAX)?,
            lease: mapped(&mut loaded, "LEASE", 1)?,
            gate_logs: mapped(&mut loaded, "GATE_LOGS", GATES_MAX)?,
            addresses: HashMap::try_from(loaded.take("ADDRESSES")?)
                .map_err(|error| LoadError::Map { name: "ADDRESSES", why: chain(&error) })?,
            gated: Vec::new(),
            pins: pins.cloned(),
            slots: array(&mut loaded, "SLOTS")?,
            keys: array(&mut loaded, "KEYS")?,
            link_table: mapped(&mut loaded, "LINKS", LINKS_MAX)?,
            events,
            identity,
            links: links.to_vec(),
            modes: Vec::new(),
            adopted: None,
            found_pins,
            is_ours: false,
            loaded,
        };
        plane.adopted = plane.adoptable();
        if let Some(pins) = pins {
            let (own, known) = (links.to_vec(), ["obituary", "obituary_exec"]);
            pins.remove_links(|name| {
                let mut parts = name.split('-').skip(1).map(str::parse::<u32>);
                let (id, ifindex) = (parts.next(), parts.next());
                known.contains(&name)
                    // The gates of a dead daemon stand until this one's do.
                    || name.starts_with("gate_") && id.clone().and_then(Result::ok).is_none_or(is_interface)
                    || own
                        .iter()
                        .any(|link| id == Some(Ok(u32::from(link.id))) && ifindex == Some(Ok(link.ifindex)))
            });
        }
        plane.loaded.attach_obituaries(pins)?;
        plane.loaded.arm()?;
        for link in links {
            let (mode, why) = plane.loaded.attach(link, datapath, pins)?;
            plane.modes.push((link.id, mode, why));
        }
        Ok(plane)
    }

    /// The incarnation to go on as, if a planned hand-over is waiting for exactly this node on exactly these links.
    fn adoptable(&self) -> Option<(u64, u64)> {
        let identity = self.identity;
        let (node, latch) = (self.node.copy(0), self.latch.copy(0));
        let same_links = (0..LINKS_MAX).all(|index| {
            let there = self.link_table.copy(index);
            self.links.iter().find(|link| usize::from(link.id) == index).map_or(there.ifindex == 0, |link| {
                there.ifindex == link.ifindex
                    && there.port == u32::from(link.port)
                    && there.deadline_ns == link.deadline_ns
            })
        });
        let fits = self.found_pins
            && same_links
            && latch.state == latch::HANDED_OVER
            && boot_ns() + latch::ADOPT_LEAST_NS < latch.handover_until_ns
            && self.lease().can_go_on()
            // What was released is released for that life.
            && node.flags & u64::from(flags::RELEASED) == 0
            && (u64::from(ABI_OLDEST)..=u64::from(ABI)).contains(&node.abi)
            && node.incarnation != 0
            && node.slot == u64::from(identity.slot)
            && node.cluster_id == identity.cluster_id
            && node.config_version == identity.config_version;
        fits.then_some((node.incarnation, latch.handover_until_ns))
    }

    /// Closes the plane and forgets every peer.
    fn clear(&mut self) -> Result<(), MapError> {
        self.close();
        self.lease().adopt_closed();
        self.node.fill(0, &Node { slot: NODES_MAX as u64, ..Node::default() });
        for index in 0..SLOTS_MAX {
            self.watch_word(index, offset_of!(Watch, state)).store(0, Ordering::SeqCst);
            self.slots.set(index as u32, Value(Slot::default()), UNDER_LOCK)?;
            self.counters.fill(index, &Counters::default());
            self.trips.fill(index, &empty_trips());
        }
        for link in 0..LINKS_MAX {
            self.drops.fill(link, &Drops::default());
        }
        while self.next_event().is_some() {}
        Ok(())
    }

    /// Writes what this node is, into the closed plane.
    fn configure(&mut self) -> Result<(), MapError> {
        for id in 0..KEYS_MAX as u32 {
            self.keys.set(id, if id == 0 { self.identity.key } else { [0; 2] }, 0)?;
        }
        for id in 0..LINKS_MAX {
            let link = self.links.iter().find(|link| usize::from(link.id) == id);
            let entry = link.map_or(Link::default(), |link| Link {
                ifindex: link.ifindex,
                port: u32::from(link.port),
                deadline_ns: link.deadline_ns,
            });
            self.link_table.fill(id, &entry);
        }
        let node = Node {
            slot: u64::from(self.identity.slot),
            cluster_id: self.identity.cluster_id,
            config_version: self.identity.config_version,
            deadline_max_ns: self.links.iter().map(|link| link.deadline_ns).max().unwrap_or(0),
            interval_min_ns: self.links.iter().map(|link| link.interval_ns).min().unwrap_or(0),
            abi: u64::from(ABI),
            ..Node::default()
        };
        self.node.fill(0, &node);
        Ok(())
    }

    /// The incarnation that goes on, if a planned hand-over was taken up.
    pub fn adopted(&self) -> Option<u64> {
        self.adopted.map(|(incarnation, _)| incarnation)
    }

    /// Whether a former daemon's pins were found.
    pub const fn found_pins(&self) -> bool {
        self.found_pins
    }

    /// The latch, for the thread that beats.
    pub fn latch(&self) -> Latch {
        self.latch.copy(0)
    }

    /// Makes a cell look as if its peer had been heard then and not answered since, and had the longest deadline for that: for
    /// the bench of the scan.
    #[doc(hidden)]
    pub fn pretend(&self, link: u8, slot: u8, heard_ns: u64) {
        let index = cell(link, slot);
        self.watch_word(index, offset_of!(Watch, deadline_ns))
            .store(1_000_000 << 32 | u64::from(u32::MAX), Ordering::SeqCst);
        self.watch_word(index, offset_of!(Watch, heard_ns)).store(heard_ns, Ordering::SeqCst);
        self.watch_word(index, offset_of!(Watch, unanswered_ns)).store(heard_ns, Ordering::SeqCst);
        self.watch_word(index, offset_of!(Watch, state))
            .store(state::WATCHED | state::HEARD, Ordering::SeqCst);
    }

    /// See [`Loaded::try_out`].
    pub fn try_out(&mut self, packet: &[u8], repeat: u32) -> Result<Tried, LoadError> {
        self.loaded.try_out(packet, repeat)
    }

    /// See [`Loaded::try_classifier`].
    pub fn try_classifier(
        &mut self,
        name: &'static str,
        packet: &[u8],
        repeat: u32,
    ) -> Result<Tried, LoadError> {
        self.loaded.try_classifier(name, packet, repeat)
    }

    /// Registers this process and opens. Until now the kernel has gone on for the former daemon, and said that it is
    /// gone; what was its own is closed and cleared in this one step, shorter than any deadline. Opening again keeps the peers.
    pub fn open(&mut self, incarnation: u64) -> Result<(), LoadError> {
        let adopted = self.adopted.filter(|(life, _)| *life == incarnation && !self.is_ours);
        if !self.is_ours && adopted.is_none() {
            let prepared = self.clear().and_then(|()| self.configure());
            prepared.map_err(|error| LoadError::Map { name: "SLOTS", why: chain(&error) })?;
        }
        self.is_ours = true;
        self.node.word(0, offset_of!(Node, abi)).store(u64::from(ABI), Ordering::SeqCst);
        // What lies between the decision to take over and this may have taken its time. Registration opens the latch, so it
        // looks itself, and refuses where the end is near or over.
        self.loaded.register()?;
        if self.latch().state != latch::ALIVE {
            return Err(self.too_late());
        }
        // Should a whole machine have stood still inside of that.
        if adopted.is_some_and(|(_, until_ns)| boot_ns() >= until_ns) {
            return Err(self.too_late());
        }
        self.node.word(0, offset_of!(Node, flags)).store(0, Ordering::SeqCst);
        self.node.word(0, offset_of!(Node, incarnation)).store(incarnation, Ordering::SeqCst);
        Ok(())
    }

    /// Closes what was to be taken over.
    fn too_late(&mut self) -> LoadError {
        self.lease().adopt_closed();
        self.close();
        LoadError::TooLate
    }

    /// See [`super::Plane::close`].
    pub fn close(&mut self) {
        self.lease().release();
        self.node.word(0, offset_of!(Node, incarnation)).store(0, Ordering::SeqCst);
    }

    /// See [`super::Plane::accept`]. The order: the cell is not watched, then the slot is replaced under its lock,
    /// then the cell is watched; an old frame in between finds either the old slot or a closed door.
    pub fn accept(&mut self, slot: u8, incarnation: u64) -> Result<(), MapError> {
        for link in &self.links {
            let index = cell(link.id, slot);
            let set = |offset, value| {
                watch_word(&self.watches, index, offset).store(value, Ordering::SeqCst);
            };
            set(offset_of!(Watch, state), 0);
            self.slots.set(index as u32, Value(Slot::accepting(incarnation)), UNDER_LOCK)?;
            set(offset_of!(Watch, heard_ns), 0);
            set(offset_of!(Watch, unanswered_ns), 0);
            // Two halves of one word, low one first.
            let half = |ns: u64| ns.min(u64::from(u32::MAX));
            set(offset_of!(Watch, deadline_ns), half(link.interval_ns) << 32 | half(link.deadline_ns));
            set(offset_of!(Watch, state), state::watched(incarnation));
        }
        Ok(())
    }

    /// See [`super::Plane::next_event`].
    pub fn next_event(&mut self) -> Option<Event> {
        let item = self.events.next()?;
        event_of(&item)
    }

    /// See [`Loaded::listen`].
    pub fn listen(&mut self) {
        self.loaded.listen();
    }

    /// See [`super::Plane::events_fd`].
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// See [`super::Plane::say`].
    pub fn say(&self, heard: u64, flags: u8) {
        self.node.word(0, offset_of!(Node, heard)).store(heard, Ordering::SeqCst);
        self.node.word(0, offset_of!(Node, flags)).store(u64::from(flags), Ordering::SeqCst);
    }

    /// See [`super::Plane::beat`].
    pub fn beat(&self, now_ns: u64) {
        self.latch.word(0, offset_of!(Latch, beat_ns)).store(now_ns, Ordering::Relaxed);
    }

    /// See [`super::Plane::hand_over`].
    pub fn hand_over(&self, until_ns: u64) {
        self.latch.word(0, offset_of!(Latch, handover_until_ns)).store(until_ns, Ordering::SeqCst);
    }

    /// Goes now, inside the hand-over that was announced: the last thing that a daemon does.
    pub fn go(&self) {
        let state = self.latch.word(0, offset_of!(Latch, state));
        // Whatever else it says stays said.
        let _ = state.compare_exchange(latch::ALIVE, latch::GOING, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// See [`super::Plane::cell`].
    pub fn cell(&self, link: u8, slot: u8) -> CellReading {
        let index = cell(link, slot);
        let word = |offset| self.watch_word(index, offset).load(Ordering::Relaxed);
        let times = word(offset_of!(Watch, deadline_ns));
        let watch = Watch {
            heard_ns: word(offset_of!(Watch, heard_ns)),
            unanswered_ns: word(offset_of!(Watch, unanswered_ns)),
            deadline_ns: times as u32,
            interval_ns: (times >> 32) as u32,
            state: word(offset_of!(Watch, state)) & state::BITS,
        };
        CellReading::new(watch, self.counters.copy(index), &self.trips.copy(index))
    }

    /// See [`super::Plane::probes_sent`].
    pub fn probes_sent(&self, link: u8, slot: u8) -> u64 {
        self.counters.word(cell(link, slot), offset_of!(Counters, probes_sent)).load(Ordering::Relaxed)
    }

    /// See [`super::Plane::heard_ns`].
    pub fn heard_ns(&self, link: u8, slot: u8) -> u64 {
        self.watch_word(cell(link, slot), offset_of!(Watch, heard_ns)).load(Ordering::SeqCst)
    }

    /// See [`super::Plane::slot`].
    pub fn slot(&self, link: u8, slot: u8) -> Slot {
        self.slots.get(&(cell(link, slot) as u32), UNDER_LOCK).map_or(Slot::default(), |value| value.0)
    }

    /// See [`super::Plane::state`].
    pub fn state(&self, link: u8, slot: u8) -> u64 {
        self.watch_word(cell(link, slot), offset_of!(Watch, state)).load(Ordering::Acquire) & state::BITS
    }

    /// See [`super::Plane::drops`].
    pub fn drops(&self, link: u8) -> [u64; DROPS_MAX] {
        self.drops.copy(usize::from(link)).counts
    }

    /// See [`super::Plane::tick`].
    pub fn tick(&self) -> Tick {
        self.tick.copy(0)
    }

    /// See [`super::Plane::mode`].
    pub fn mode(&self, link: u8) -> (Mode, Option<String>) {
        let found = self.modes.iter().find(|(id, _, _)| *id == link);
        found.map_or((Mode::Native, None), |(_, mode, why)| (*mode, why.clone()))
    }

    /// See [`super::Plane::lease`].
    pub fn lease(&self) -> LeaseCells<'_> {
        LeaseCells(self.lease.words())
    }

    /// Names the leased addresses; to be done while all gates are closed, unless each address keeps its own. An address that no
    /// longer is one goes.
    pub fn lease_addresses(&mut self, gates: &[Gated]) -> Result<(), LoadError> {
        let fail = |error: MapError| LoadError::Map { name: "ADDRESSES", why: chain(&error) };
        let wanted: Vec<AddressKey> = gates.iter().map(|gate| key_of(gate.address)).collect();
        let there: Vec<AddressKey> = self.addresses.keys().filter_map(Result::ok).collect();
        // Those of before and those to come, so that no leased packet slips by while the table changes.
        lease::name_octets(&self.lease(), there.iter().chain(&wanted).map(last_octet));
        for old in there.iter().filter(|old| !wanted.contains(old)) {
            self.addresses.remove(old).map_err(fail)?;
        }
        for (gate, key) in (0u64..).zip(&wanted) {
            // What is written anew takes another place in the table, and a program may just be reading the place that is
            // given away with it: gates that go on must keep theirs.
            if self.addresses.get(key, 0).is_ok_and(|there| there == gate) {
                continue;
            }
            self.addresses.insert(key, gate, 0).map_err(fail)?;
        }
        lease::name_octets(&self.lease(), wanted.iter().map(last_octet));
        Ok(())
    }

    /// See [`super::Plane::gate`].
    pub fn gate(&mut self, interface: &str) -> Result<(), LoadError> {
        let ifindex = match interface_index(interface) {
            Ok(ifindex) => ifindex,
            Err(error) => {
                // What comes back under the name is another one, also if it has the number.
                self.gated.retain(|(name, _)| name != interface);
                return Err(LoadError::Attach {
                    name: "gate_out",
                    interface: interface.to_owned(),
                    why: error.to_string(),
                });
            }
        };
        if self.gated.iter().any(|(name, index)| name == interface && *index == ifindex) {
            return Ok(());
        }
        self.loaded.attach_gate(interface, ifindex, self.pins.as_ref())?;
        self.gated.retain(|(name, _)| name != interface);
        self.gated.push((interface.to_owned(), ifindex));
        Ok(())
    }

    /// Leaves the gate of other interfaces as a pin, for [`super::Others`].
    pub fn pin_gate_local(&mut self) -> Result<(), LoadError> {
        match &self.pins {
            Some(pins) => self.loaded.pin_gate_local(pins),
            None => Ok(()),
        }
    }

    /// See [`super::Plane::gate_log`].
    pub fn gate_log(&self, gate: usize) -> GateLog {
        self.gate_logs.copy(gate % GATES_MAX)
    }

    /// See [`super::Plane::open_gate_log`].
    pub fn open_gate_log(&self, gate: usize) {
        self.gate_logs.word(gate % GATES_MAX, offset_of!(GateLog, first_pass_ns)).store(0, Ordering::SeqCst);
    }

    fn watch_word(&self, index: usize, offset: usize) -> &AtomicU64 {
        watch_word(&self.watches, index, offset)
    }
}

/// A word of a cell of the watches.
fn watch_word(watches: &Mapped<Watches>, index: usize, offset: usize) -> &AtomicU64 {
    watches.word(0, index * size_of::<Watch>() + offset)
}

/// The key of an address in `ADDRESSES`.
fn key_of(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(address) => ipv4_key(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => {
            let mut key = [0; 4];
            for (word, bytes) in key.iter_mut().zip(address.octets().as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            key
        }
    }
}

/// The last octet of an address.
fn last_octet(key: &AddressKey) -> u8 {
    key[3].to_ne_bytes()[3]
}

fn empty_trips() -> Trips {
    use ringbeat_common::histogram::Histogram;
    Trips { round_trip: Histogram::EMPTY, jitter: Histogram::EMPTY, silence: Histogram::EMPTY }
}

/// The event in a record of the ring; whose life its words are about is the kernel's own business.
fn event_of(bytes: &[u8]) -> Option<Event> {
    let (words, _) = bytes.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let [stamp_ns, cell, from, to, heard_ns, unanswered_ns, credit_ns, incarnation, last] = words[..] else {
        return None;
    };
    Some(Event {
        stamp_ns,
        cell: cell as u32,
        by_timer: (cell >> 32) as u32,
        from: from & state::BITS,
        to: to & state::BITS,
        heard_ns,
        unanswered_ns,
        credit_ns,
        incarnation,
        daemon_age_us: last as u32,
        flags: (last >> 32) as u32,
    })
}
