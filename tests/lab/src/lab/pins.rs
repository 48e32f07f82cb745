//! The pins of a node's daemon, made what a daemon may find: those of a version back, those of a stranger.

use std::{fs, os::fd::AsFd as _, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::{
    EbpfLoader,
    maps::{Map, MapData},
};
use ringbeat_common::maps::{ABI, ABI_OLDEST};
use ringbeatd::sys::mapped::Mapped;

use super::Node;

/// Where the pins of the lab's cluster are, inside the node.
const PINS: &str = "sys/fs/bpf/ringbeat-lab";
/// What the newest version added.
const ADDED: [&str; 4] = ["LEASE", "GATE_LOGS", "ADDRESSES", "CGROUPS"];

impl Node<'_> {
    /// The pins of this build's daemon, as seen from outside.
    pub(crate) fn pins(&self) -> Result<PathBuf> {
        Ok(self.root()?.join(format!("{PINS}/abi{ABI}")))
    }

    /// A pinned map of one value. It stands in the kernel, also when its programs have no daemon.
    pub(crate) fn pinned<T: Copy>(&self, name: &str) -> Result<Mapped<T>> {
        let pin = MapData::from_pin(self.pins()?.join(name))
            .with_context(|| format!("{} has pinned no {name}", self.name()))?;
        let Map::Array(map) = Map::from_map_data(pin)? else {
            bail!("{name} of {} is no array", self.name())
        };
        Ok(Mapped::new(map.fd().as_fd(), 1)?)
    }

    /// Makes them those of the version before: without what came with this one, in a folder of that name. Gives the folder.
    pub(crate) fn age_pins(&self) -> Result<PathBuf> {
        let folder = self.pins()?;
        let older = folder.with_file_name(format!("abi{ABI_OLDEST}"));
        fs::rename(&folder, &older).context("no pins to age")?;
        for entry in fs::read_dir(&older)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if ADDED.contains(&name.as_str()) || name.starts_with("gate_") {
                fs::remove_file(&path)?;
            }
        }
        Ok(older)
    }

    /// Pins a map that is not the daemon's at this path of the cluster's folder. Gives the whole path.
    pub(crate) fn pin_stranger(&self, at: &str) -> Result<PathBuf> {
        let object = ringbeat_ebpf_object::LAB_SWITCH.context("no kernel programs in this build")?;
        let path = self.root()?.join(PINS).join(at);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        EbpfLoader::new().map_pin_path("CUTS", &path).load(object)?;
        anyhow::ensure!(path.exists(), "nothing was pinned at {}", path.display());
        Ok(path)
    }
}
