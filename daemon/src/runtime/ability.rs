//! What this node can serve: looked at whenever a link changes, and once a second.
//!
//! An address that is this node's own is put on its interface from here when that comes, or comes back; and it goes to
//! others when it cannot be put there.

use ringbeat_core::membership;

use super::Runtime;
use crate::address::Actions;
use crate::carrier;
use crate::sys::clock::boot_ns;
use crate::sys::socket::interface_index;

/// Why a node without bpffs holds no address.
const UNPINNED: &str = "nothing is pinned, so the gate would go with the daemon";
/// Why a node without the thread of gates holds no address.
const UNGATED: &str = "the gates of other interfaces cannot be kept";
/// Why a node without the thread of addresses holds none.
const OVER: &str = "the thread of addresses has ended for want of netlink: restart this daemon";
/// For how long a node that could not put an address on its interface leaves it to others.
const BAR_NS: u64 = 10_000_000_000;

impl Runtime {
    /// What this node could serve: the interface is there, sends and is of the right kind, the gate stands on it, and the
    /// address can be put there.
    pub(super) fn look_at_services(&mut self, now_ns: u64) {
        let mut able = 0;
        for gate in 0..self.views.gates.len() {
            let Some(service) = self.started.config.services().get(gate) else { continue };
            let interface = service.interface().to_owned();
            let found = self.look_at_service(gate, &interface, now_ns);
            able |= u64::from(found.is_ok()) << gate;
            let state = &mut self.views.gates[gate];
            let had = (state.ifindex, state.error.is_none());
            match found {
                Ok(ifindex) => (state.ifindex, state.error) = (ifindex, None),
                Err(fault) => state.error = Some(format!("{interface}: {fault}")),
            }
            if state.owned && state.error.is_none() && had != (state.ifindex, true) {
                self.hold(gate);
            }
        }
        if able != self.views.able {
            self.views.able = able;
            self.view_input(membership::Input::Able { resources: able }, now_ns);
        }
    }

    /// The interface by its number, with the gate on it; or why the address cannot be served on it.
    fn look_at_service(&mut self, gate: usize, interface: &str, now_ns: u64) -> Result<u32, String> {
        if let Some(fault) = carrier::fault(interface) {
            // One that is down may come up while nobody looks.
            let _ = self.started.plane.gate(interface);
            return Err(fault.to_owned());
        }
        // A gate that goes with its daemon would leave the address open behind it.
        if self.started.pins.is_none() && self.started.plane.is_kernel() {
            return Err(UNPINNED.to_owned());
        }
        // Whoever holds the address keeps it: a foreign interface that comes without a gate is no reason to move it.
        if self.started.plane.is_kernel() && !self.views.gates[gate].owned {
            let others = self.started.others.as_mut().ok_or(UNGATED)?;
            if let Some(why) = others.fault() {
                return Err(why.to_owned());
            }
        }
        let index = || interface_index(interface).map_err(|error| error.to_string());
        let ifindex = index()?;
        let state = &mut self.views.gates[gate];
        let suited = state.suited.take().filter(|(of, _)| *of == ifindex);
        let (_, unsuited) =
            state.suited.insert(suited.unwrap_or_else(|| (ifindex, carrier::unsuited(ifindex))));
        if let Some(why) = unsuited {
            return Err(why.clone());
        }
        if ifindex != state.ifindex {
            // Another interface is another chance.
            state.barred = None;
        }
        self.started.plane.gate(interface)?;
        if index()? != ifindex {
            return Err("it has been replaced by another one".to_owned());
        }
        if self.started.actions.as_ref().is_some_and(Actions::is_over) {
            return Err(OVER.to_owned());
        }
        match &self.views.gates[gate].barred {
            Some((until_ns, why)) if now_ns < *until_ns => Err(why.clone()),
            _ => Ok(ifindex),
        }
    }

    /// The address could not be put on its interface: others are to serve it, for a while.
    pub(super) fn bar(&mut self, gate: usize, why: String) {
        let now_ns = boot_ns();
        tracing::warn!(why, "an address cannot be put on its interface; others are to serve it");
        if let Some(state) = self.views.gates.get_mut(gate) {
            state.barred = Some((now_ns + BAR_NS, why.clone()));
        }
        self.tell_gate("address_failed", gate, now_ns, Some(why));
        self.look_at_services(now_ns);
    }
}
