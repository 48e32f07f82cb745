//! The switch's kernel programs and their pins: `cut` drops what the faults cut, `pass` is there for NAPI.
//!
//! Maps and links are pinned in a bpffs of the switch's own, so they outlive each call of the tool and end
//! with the switch. Other calls reach them through `/proc/PID/root` of the switch's process 1.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aya::{
    EbpfLoader,
    maps::{HashMap, MapData},
    programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, links::FdLink, tc::TcAttachOptions},
};

use super::{
    LabSpec,
    topology::{LINKS_MAX, SERVICE, links_of, port},
};
use crate::sys::{
    memory::SharedWords,
    net,
    process::ProcessId,
    spaces::{self, NETWORK},
};

/// The program that drops, on the way out of every port.
const CUT: &str = "cut";
/// The program on the way into every heartbeat port. A veth hands on what the XDP program at its other end
/// sends back only if it has an XDP program itself; generic receive offload alone leaves such frames in the
/// ring.
const PASS: &str = "pass";
/// The map of cuts, and its pin.
const CUTS: &str = "CUTS";
/// The map of ports, and its pin.
const PORTS: &str = "PORTS";
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

/// Puts the programs onto the ports of fresh wires; nothing in a build that has none.
pub(super) fn attach(spec: &LabSpec, switch: ProcessId, slots: &[u8]) -> Result<()> {
    let Some(object) = ringbeat_ebpf_object::LAB_SWITCH else { return Ok(()) };
    let wires: Vec<(u8, u8, String)> = slots
        .iter()
        .flat_map(|&slot| links_of(spec, slot).into_iter().map(move |link| (link, slot, port(link, slot))))
        .collect();
    let pins = pins(switch);
    let links = pins.join("links");
    fs::create_dir_all(&links).with_context(|| format!("cannot create {}", links.display()))?;
    spaces::within(switch, NETWORK, || -> Result<()> {
        // The first call makes the maps, a later one for a node that was booted finds them by their pins.
        let mut ebpf = EbpfLoader::new()
            .map_pin_path(CUTS, pins.join(CUTS))
            .map_pin_path(PORTS, pins.join(PORTS))
            .load(object)
            .context("cannot load the switch's object")?;
        let ports = ebpf.map_mut(PORTS).context("the switch's object has no map of ports")?;
        number(HashMap::try_from(ports)?, &wires)?;

        let absent = |name| format!("the switch's object has no program `{name}`: it is an older one");
        let cut: &mut SchedClassifier = ebpf.program_mut(CUT).with_context(|| absent(CUT))?.try_into()?;
        cut.load().context("the kernel refuses the switch's program `cut`")?;
        for (_, _, name) in &wires {
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            let attached = cut.attach_with_options(name, TcAttachType::Egress, order);
            let id = attached.with_context(|| format!("cannot attach `cut` to {name}"))?;
            pin(FdLink::try_from(cut.take_link(id)?)?, &links.join(name))?;
        }
        let pass: &mut Xdp = ebpf.program_mut(PASS).with_context(|| absent(PASS))?.try_into()?;
        pass.load().context("the kernel refuses the switch's program `pass`")?;
        for (_, _, name) in wires.iter().filter(|(link, ..)| *link != SERVICE) {
            let attached = pass.attach(name, XdpMode::Driver);
            let id = attached.with_context(|| format!("cannot attach `pass` to {name}"))?;
            pin(FdLink::try_from(pass.take_link(id)?)?, &links.join(format!("{name}-xdp")))?;
        }
        Ok(())
    })?
}

/// Tells the program which receiver each port leads to; to be run in the switch.
fn number(mut ports: HashMap<&mut MapData, u32, u32>, wires: &[(u8, u8, String)]) -> Result<()> {
    let places: Vec<u32> =
        wires.iter().map(|(link, slot, _)| u32::try_from(index(*link, *slot))).collect::<Result<_, _>>()?;
    // Ports that a booted node had before are gone, and their numbers do not come again.
    let entries: Vec<(u32, u32)> = ports.iter().collect::<Result<_, _>>()?;
    for (ifindex, _) in entries.iter().filter(|(_, place)| places.contains(place)) {
        ports.remove(ifindex)?;
    }
    let names = wires.iter().map(|(_, _, name)| name.as_str());
    let indexes = net::indexes(names).context("a port of the switch is missing")?;
    for (ifindex, place) in indexes.into_iter().zip(places) {
        ports.insert(ifindex, place, 0)?;
    }
    Ok(())
}

/// Pins a link over the one that the same port had before its node was booted.
fn pin(link: FdLink, path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    link.pin(path).with_context(|| format!("cannot pin {}", path.display()))?;
    Ok(())
}

/// The map of cuts in our memory; `None` if the switch has no program.
pub(super) fn cuts(switch: ProcessId) -> Result<Option<SharedWords>> {
    let pin = pins(switch).join(CUTS);
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
