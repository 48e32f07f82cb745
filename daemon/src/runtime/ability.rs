//! What this node can serve: looked at whenever a link changes, and once a second.
//!
//! An address that is this node's own is put on its interface from here when that comes, or comes back; and it goes to
//! others when it cannot be put there.

use ringbeat_core::membership::{self, choice::bits};

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
/// For how long a node that could not put an address on its interface leaves it to others; twice as long each time that
/// follows, so that with failback an address does not move to and fro all day.
const BAR_NS: u64 = 10_000_000_000;
/// The longest.
const BAR_MAX_NS: u64 = 8 * BAR_NS;

/// Until when an address is left to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bar {
    until_ns: u64,
    length_ns: u64,
    why: String,
}

impl Bar {
    /// Once more. One that is in force stays as it is; one that is over for as long as it was is forgotten.
    fn set(&mut self, why: String, now_ns: u64) {
        if now_ns >= self.until_ns {
            let again = now_ns < self.until_ns + self.length_ns;
            self.length_ns = if again { (2 * self.length_ns).min(BAR_MAX_NS) } else { BAR_NS };
            self.until_ns = now_ns + self.length_ns;
        }
        self.why = why;
    }

    const fn holds(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns
    }

    /// It could be put there after all.
    pub(super) fn end(&mut self, now_ns: u64) {
        if !self.holds(now_ns) {
            self.why.clear();
        }
    }

    pub(super) fn why(&self) -> &str {
        &self.why
    }
}

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
            state.bar = Bar::default();
        }
        self.started.plane.gate(interface)?;
        if index()? != ifindex {
            return Err("it has been replaced by another one".to_owned());
        }
        if self.started.actions.as_ref().is_some_and(Actions::is_over) {
            return Err(OVER.to_owned());
        }
        // Who is the only one to be able goes on trying.
        let bar = &self.views.gates[gate].bar;
        if bar.holds(now_ns) && self.others_are_able(gate) { Err(bar.why.clone()) } else { Ok(ifindex) }
    }

    /// Whether another member of the view says that it could serve the address.
    fn others_are_able(&self, gate: usize) -> bool {
        let (membership, own) = (&self.views.membership, self.started.identity.slot);
        let others = membership.installed().view.members & !(1 << own);
        bits(others).any(|slot| membership.row(slot).is_some_and(|row| row.able >> gate & 1 != 0))
    }

    /// The address could not be put on its interface: others are to serve it for a while, if there are any.
    pub(super) fn bar(&mut self, gate: usize, why: String) {
        let now_ns = boot_ns();
        let others = self.others_are_able(gate);
        let Some(state) = self.views.gates.get_mut(gate) else { return };
        let is_new = state.bar.why != why || (others && !state.bar.holds(now_ns));
        if others {
            state.bar.set(why.clone(), now_ns);
        } else {
            state.bar.why.clone_from(&why);
        }
        if is_new {
            let then =
                if others { "others are to serve it" } else { "nobody else could serve it: it is tried on" };
            tracing::warn!(why, "an address cannot be put on its interface; {then}");
            self.tell_gate("address_failed", gate, now_ns, Some(why));
        }
        self.look_at_services(now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn who_fails_again_is_barred_for_longer() {
        let mut bar = Bar::default();
        let mut length = |now_s: u64| {
            bar.set("why".to_owned(), now_s * SECOND);
            bar.length_ns
        };
        assert_eq!(length(100), BAR_NS);
        assert_eq!([101, 109].map(&mut length), [BAR_NS; 2], "that is still the same");
        assert_eq!(length(111), 2 * BAR_NS);
        assert_eq!(length(200), BAR_NS, "it had been well for a while");
        assert_eq!([211, 232, 273, 354].map(&mut length), [2, 4, 8, 8].map(|times| times * BAR_NS));
        assert!(bar.holds(433 * SECOND) && !bar.holds(434 * SECOND));
    }
}
