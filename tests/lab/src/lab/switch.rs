//! The switch's kernel program and its pins: it drops what the faults cut.
//!
//! Program, maps and links are pinned in a bpffs of the switch's own, so they outlive each call of the tool
//! and end with the switch. Other calls reach them through `/proc/PID/root` of the switch's process 1.

use std::{fs, os::fd::AsFd as _, path::PathBuf};

use anyhow::{Context, Result};
use aya::{
    EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::{LinkOrder, SchedClassifier, TcAttachType, links::FdLink, tc::TcAttachOptions},
};

use super::{
    LabSpec,
    topology::{LINKS_MAX, links_of, port},
};
use crate::sys::{
    memory::SharedWords,
    net,
    process::ProcessId,
    spaces::{self, NETWORK},
};

/// The name of the program in its object.
const PROGRAM: &str = "cut";
/// Receivers for each link in the map of cuts.
pub(super) const RECEIVERS: usize = 64;
/// The words that the lab uses of the map of cuts: the links and the service network.
pub(super) const WORDS: usize = (LINKS_MAX as usize + 1) * RECEIVERS;

/// Where one receiver's mask lies in the map of cuts.
pub(super) fn index(link: u8, slot: u8) -> usize {
    usize::from(link) * RECEIVERS + usize::from(slot) - 1
}

/// Whether this build has the switch's program.
pub(crate) fn is_built() -> bool {
    ringbeat_ebpf_object::LAB_SWITCH.is_some()
}

/// Loads and pins the program; false if this build has none.
pub(super) fn load(switch: ProcessId) -> Result<bool> {
    let Some(object) = ringbeat_ebpf_object::LAB_SWITCH else { return Ok(false) };
    let pins = pins(switch);
    fs::create_dir_all(pins.join("links")).with_context(|| format!("cannot create {}", pins.display()))?;
    let mut ebpf = EbpfLoader::new().load(object).context("cannot load the switch program")?;
    for (name, file) in [("CUTS", "cuts"), ("PORTS", "ports")] {
        let map = ebpf.map_mut(name).with_context(|| format!("the switch program has no map {name}"))?;
        map.pin(pins.join(file)).with_context(|| format!("cannot pin map {name}"))?;
    }
    let program = ebpf.program_mut(PROGRAM).context("the switch program's object is another one")?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load().context("the kernel refuses the switch program")?;
    program.pin(pins.join(PROGRAM)).context("cannot pin the switch program")?;
    Ok(true)
}

/// Makes fresh wires ready: NAPI on all of them, and the program too, if it is there.
pub(super) fn attach(spec: &LabSpec, switch: ProcessId, slots: &[u8], with_program: bool) -> Result<()> {
    let wires: Vec<(u8, u8, String)> = slots
        .iter()
        .flat_map(|&slot| links_of(spec, slot).into_iter().map(move |link| (link, slot, port(link, slot))))
        .collect();
    let names = || wires.iter().map(|(_, _, name)| name.as_str());
    spaces::within(switch, NETWORK, || -> Result<()> {
        net::gro_on(names()).context("cannot switch GRO on")?;
        if !with_program {
            return Ok(());
        }
        let pins = pins(switch);
        let mut program =
            SchedClassifier::from_pin(pins.join(PROGRAM)).context("no switch program is pinned")?;
        let ports = Map::HashMap(MapData::from_pin(pins.join("ports"))?);
        let mut ports: HashMap<_, u32, u32> = HashMap::try_from(ports)?;
        let indexes = net::indexes(names()).context("a port of the switch is missing")?;
        // Ports that a booted node had before are gone, and their numbers do not come again.
        let places: Vec<usize> = wires.iter().map(|(link, slot, _)| index(*link, *slot)).collect();
        let stale: Vec<u32> = ports
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, place)| places.contains(&(*place as usize)))
            .map(|(ifindex, _)| ifindex)
            .collect();
        stale.iter().try_for_each(|ifindex| ports.remove(ifindex))?;
        for ((name, ifindex), place) in names().zip(indexes).zip(places) {
            ports.insert(ifindex, u32::try_from(place)?, 0)?;
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            let id = program
                .attach_with_options(name, TcAttachType::Egress, order)
                .with_context(|| format!("cannot attach the switch program to {name}"))?;
            let pin = pins.join("links").join(name);
            // There after a reboot of the node: it holds on to a port that is gone.
            if pin.exists() {
                fs::remove_file(&pin)?;
            }
            FdLink::try_from(program.take_link(id)?)?.pin(&pin)?;
        }
        Ok(())
    })?
}

/// The map of cuts in our memory; `None` if the switch has no program.
pub(super) fn cuts(switch: ProcessId) -> Result<Option<SharedWords>> {
    let pin = pins(switch).join("cuts");
    if !pin.exists() {
        return Ok(None);
    }
    let map = MapData::from_pin(&pin).context("cannot open the map of cuts")?;
    let words = SharedWords::map(map.fd().as_fd(), WORDS).context("cannot map the cuts into memory")?;
    Ok(Some(words))
}

fn pins(switch: ProcessId) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root/sys/fs/bpf/lab", switch.pid))
}
