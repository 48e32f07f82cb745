//! What this node can serve: looked at whenever a link changes, and once a second.
//!
//! An address that is this node's own is put on its interface from here when that comes, or comes back.

use ringbeat_core::membership;

use super::Runtime;
use crate::carrier;
use crate::sys::socket::interface_index;

/// Why a node without bpffs holds no address.
const UNPINNED: &str = "nothing is pinned, so the gate would go with the daemon";
impl Runtime {
    /// What this node could serve: the interface is there, sends, the gate stands on it, and the
    /// address can be put there.
    pub(super) fn look_at_services(&mut self, now_ns: u64) {
        let mut able = 0;
        for gate in 0..self.views.gates.len() {
            let Some(service) = self.started.config.services().get(gate) else { continue };
            let interface = service.interface().to_owned();
            let found = self.look_at_service(&interface);
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
    fn look_at_service(&mut self, interface: &str) -> Result<u32, String> {
        if let Some(fault) = carrier::fault(interface) {
            return Err(fault.to_owned());
        }
        // A gate that goes with its daemon would leave the address open behind it.
        if self.started.pins.is_none() && self.started.plane.is_kernel() {
            return Err(UNPINNED.to_owned());
        }
        let index = || interface_index(interface).map_err(|error| error.to_string());
        let ifindex = index()?;
        self.started.plane.gate(interface)?;
        if index()? != ifindex {
            return Err("it has been replaced by another one".to_owned());
        }
        Ok(ifindex)
    }
}
