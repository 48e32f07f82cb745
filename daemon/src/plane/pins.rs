//! Pins: what outlives the daemon, so that its death is told and its successor takes over without a gap.
//!
//! The folder names the cluster and the map ABI. A pin of another layout crashes whoever reads it, so sizes are compared
//! before anything is opened; an ABI that this build does not know is refused, never guessed at.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapError, MapInfo};
use ringbeat_common::limits::{EVENT_RING_BYTES, GATES_MAX, KEYS_MAX, LINKS_MAX, SLOTS_MAX};
use ringbeat_common::maps::{
    ABI, ABI_OLDEST, AddressKey, Counters, Drops, GateLog, Latch, LeaseTable, Link, Node, Tick, Trips,
    Watches,
};
use ringbeat_common::slot::Slot;
use rustix::fs::statfs;
use thiserror::Error;

/// Where bpffs is by custom.
pub const BPFFS: &str = "/sys/fs/bpf";
const BPFFS_MAGIC: i64 = 0xcafe_4a11;

/// Name, value size and number of values of every pinned map, as this build has them.
const LAYOUT: [(&str, usize, usize); 16] = [
    ("NODE", size_of::<Node>(), 1),
    ("LATCH", size_of::<Latch>(), 1),
    ("LINKS", size_of::<Link>(), LINKS_MAX),
    ("KEYS", 16, KEYS_MAX),
    ("SLOTS", size_of::<Slot>(), SLOTS_MAX),
    ("WATCHES", size_of::<Watches>(), 1),
    ("TICK", size_of::<Tick>(), 1),
    ("COUNTERS", size_of::<Counters>(), SLOTS_MAX),
    ("TRIPS", size_of::<Trips>(), SLOTS_MAX),
    ("DROPS", size_of::<Drops>(), LINKS_MAX),
    ("LEASE", size_of::<LeaseTable>(), 1),
    ("GATE_LOGS", size_of::<GateLog>(), GATES_MAX),
    ("ADDRESSES", 8, GATES_MAX),
    ("CGROUPS", 8, GATES_MAX),
    ("EVENTS", 0, EVENT_RING_BYTES),
    ("ALARM", 16, 1),
];

/// Why pins cannot be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// No bpffs there.
    #[error("{0} is not a BPF file system; mount one with `mount -t bpf bpf {0}`")]
    NoBpffs(String),
    /// The folder is not usable.
    #[error("{path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Pins of an ABI that this build does not adopt.
    #[error(
        "{path} holds pins of map ABI {found}; this daemon adopts {ABI_OLDEST} to {ABI}. Stop the daemon that owns \
         them, then remove that folder"
    )]
    Abi {
        /// Where.
        path: PathBuf,
        /// Which.
        found: String,
    },
    /// A pinned map is not what its name says.
    #[error(
        "{path} is not of map ABI {ABI}: {found}, expected {expected}. It is not ours; remove it to go on"
    )]
    Layout {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
    /// A pinned map cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
}

/// The pins of one cluster's node.
#[derive(Clone, Debug)]
pub struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// The folder for a cluster, made if it is not there; refuses what it cannot take over.
    pub fn open(bpffs: &Path, cluster: &str) -> Result<Self, PinError> {
        let is_bpffs = statfs(bpffs).is_ok_and(|fs| fs.f_type == BPFFS_MAGIC);
        if !is_bpffs {
            return Err(PinError::NoBpffs(bpffs.display().to_string()));
        }
        let home = home(bpffs, cluster);
        let folder = home.join(format!("abi{ABI}"));
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| PinError::Folder { path, source }
        };
        fs::create_dir_all(&home).map_err(error(&home))?;
        take_over_older(&home, &folder)?;
        fs::create_dir_all(&folder).map_err(error(&folder))?;
        for entry in fs::read_dir(&home).map_err(error(&home))? {
            let path = entry.map_err(error(&home))?.path();
            refuse_other_abi(&path, &folder)?;
        }
        let pins = Self { folder };
        pins.check_layout()?;
        Ok(pins)
    }

    /// The path of a pin.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The names of the maps to pin.
    pub fn maps() -> impl Iterator<Item = &'static str> {
        LAYOUT.iter().map(|(name, _, _)| *name)
    }

    /// Whether a former daemon left its maps here.
    pub fn are_there(&self) -> bool {
        self.path("LATCH").exists()
    }

    /// Whether the promises of a former daemon are here: without them nobody knows what this node has promised.
    pub fn have_promises(&self) -> bool {
        self.path("LEASE").exists()
    }

    /// Removes every link's pin that `keep` does not want: an interface that is no longer a link's.
    pub fn remove_links(&self, keep: impl Fn(&str) -> bool) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_map = LAYOUT.iter().any(|(map, _, _)| *map == name);
            if !is_map && !keep(&name) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The addresses that a former daemon of a cluster had gates for, whatever the configuration says by now. A map that
    /// is not ours is no gate's.
    pub fn leased(bpffs: &Path, cluster: &str) -> Result<Vec<IpAddr>, PinError> {
        let Ok(folders) = fs::read_dir(home(bpffs, cluster)) else { return Ok(Vec::new()) };
        let mut leased = Vec::new();
        for folder in folders.flatten() {
            let path = folder.path().join("ADDRESSES");
            if !path.exists() {
                continue;
            }
            let map = MapData::from_pin(&path).and_then(Map::from_map_data);
            let map = map.map_err(|source| PinError::Unreadable { path: path.clone(), source })?;
            let Ok(map) = HashMap::<_, AddressKey, u64>::try_from(map) else { continue };
            for key in map.keys() {
                let key = key.map_err(|source| PinError::Unreadable { path: path.clone(), source })?;
                leased.push(address_of(key));
            }
        }
        Ok(leased)
    }

    /// Removes whatever is pinned for a cluster, of any ABI, and whoever made it.
    pub fn remove_home(bpffs: &Path, cluster: &str) -> io::Result<()> {
        match fs::remove_dir_all(home(bpffs, cluster)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes everything: the plane is gone with the last descriptor.
    pub fn remove_all(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let _ = fs::remove_dir(&self.folder);
        if let Some(home) = self.folder.parent() {
            let _ = fs::remove_dir(home);
        }
    }

    /// Where the pins are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn check_layout(&self) -> Result<(), PinError> {
        check_layout(&self.folder)
    }
}

/// Adopts the pins of the version before this one. Its maps are all maps of this version, in the same layout; what this
/// version adds is made new, and a folder in bpffs is renamed in one step. Whatever runs goes on, as it is held by its
/// links.
fn take_over_older(home: &Path, folder: &Path) -> Result<(), PinError> {
    let older = home.join(format!("abi{ABI_OLDEST}"));
    let has_pins = |folder: &Path| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if !has_pins(&older) || has_pins(folder) {
        return Ok(());
    }
    check_layout(&older)?;
    let _ = fs::remove_dir(folder);
    fs::rename(&older, folder).map_err(|source| PinError::Folder { path: older.clone(), source })?;
    tracing::info!(from = ABI_OLDEST, to = ABI, "pins of the version before this one adopted");
    Ok(())
}

/// Refuses a folder with a map that is not what its name says.
fn check_layout(folder: &Path) -> Result<(), PinError> {
    for (name, size, values) in LAYOUT {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let expected = format!("{values} values of {size} bytes");
        let found = match MapInfo::from_pin(&path) {
            Err(error) => format!("no map ({error})"),
            Ok(info) => format!("{} values of {} bytes", info.max_entries(), info.value_size()),
        };
        if found != expected {
            return Err(PinError::Layout { path, found, expected });
        }
    }
    Ok(())
}

/// The address of a key in `ADDRESSES`; an IPv4 one stands there as mapped into IPv6.
fn address_of(key: AddressKey) -> IpAddr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(key) {
        *bytes = word.to_ne_bytes();
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// The folder of a cluster. bpffs refuses dots in names.
fn home(bpffs: &Path, cluster: &str) -> PathBuf {
    bpffs.join(format!("ringbeat-{}", cluster.replace('.', "_")))
}

/// Refuses pins of an ABI outside of what this build adopts; removes the empty folder of another.
fn refuse_other_abi(path: &Path, own: &Path) -> Result<(), PinError> {
    if path == own || fs::remove_dir(path).is_ok() {
        return Ok(());
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Err(PinError::Abi { path: path.to_owned(), found: name.trim_start_matches("abi").to_owned() })
}

#[cfg(test)]
mod tests {
    use ringbeat_common::maps::ipv4_key;

    use super::*;

    #[test]
    fn keys_are_the_addresses_that_they_were_made_of() {
        let v4 = ipv4_key(u32::from_ne_bytes([10, 78, 0, 100]));
        assert_eq!(address_of(v4), IpAddr::from([10, 78, 0, 100]));
        let v6 = [0xfd78_0000_u32.to_be(), 0, 0, 0x100_u32.to_be()];
        assert_eq!(address_of(v6).to_string(), "fd78::100");
    }
}
