//! The gate on interfaces that are not a service address's own, for what this node itself sends by them.
//!
//! A thread of its own, with normal scheduling, keeps it there: the kernel attaches under the lock of all its network
//! configuration and waits for every processor, which is nothing for the main loop. The first pass is made by whoever starts
//! it, before anything can be held. Links are held by their pins alone, so an interface that comes and goes costs nothing.
//!
//! Deliberately not there: any decision. A gate that cannot be put somewhere is told; who holds something keeps it.

use std::collections::BTreeSet;
use std::fs;
use std::sync::mpsc::{Receiver, Sender, channel};

use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use rustix::event::{PollFd, PollFlags, poll};

use super::load::{GATE_LOCAL, chain};
use super::pins::Pins;
use crate::carrier::Carrier;
use crate::sys::clock::timespec;
use crate::sys::socket::{ethernet_interfaces, interface_index};

/// Between two looks for interfaces, should netlink have lost a note.
const LOOK_NS: u64 = 1_000_000_000;

/// The face of the thread.
pub struct Others {
    news: Receiver<Option<String>>,
    fault: Option<String>,
}

impl Others {
    /// Puts the gate on all interfaces but `own`, and keeps doing so. The program has been pinned.
    pub fn start(pins: &Pins, own: Vec<String>) -> std::io::Result<Self> {
        let program = SchedClassifier::from_pin(pins.path(GATE_LOCAL)).map_err(std::io::Error::other)?;
        let mut keeper = Keeper { program, pins: pins.clone(), own, gated: BTreeSet::new() };
        // Before the first pass, so that nothing which comes after it is missed.
        let notes = Carrier::listen().ok();
        let fault = keeper.pass().err();
        let (say, news) = channel();
        let said = fault.clone();
        let thread = std::thread::Builder::new().name("ringbeat-gates".to_owned());
        thread.spawn(move || keeper.run(notes.as_ref(), said, &say))?;
        Ok(Self { news, fault })
    }

    /// Why a gate is missing somewhere.
    pub fn fault(&mut self) -> Option<&str> {
        while let Ok(fault) = self.news.try_recv() {
            self.fault = fault;
        }
        self.fault.as_deref()
    }

    /// The same, as it was last looked at.
    pub fn last_fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

struct Keeper {
    program: SchedClassifier,
    pins: Pins,
    own: Vec<String>,
    /// The interfaces, by number, that have the gate.
    gated: BTreeSet<u32>,
}

impl Keeper {
    fn run(mut self, notes: Option<&Carrier>, mut said: Option<String>, say: &Sender<Option<String>>) {
        loop {
            match notes {
                Some(notes) => {
                    let mut fds = [PollFd::from_borrowed_fd(notes.fd(), PollFlags::IN)];
                    let _ = poll(&mut fds, Some(&timespec(LOOK_NS)));
                    notes.drain();
                }
                None => std::thread::sleep(std::time::Duration::from_nanos(LOOK_NS)),
            }
            let fault = self.pass().err();
            if fault != said {
                if let Some(why) = &fault {
                    tracing::warn!(why, "a gate is missing: nothing more is taken up here until it stands");
                }
                said.clone_from(&fault);
                if say.send(fault).is_err() {
                    return;
                }
            }
        }
    }

    /// Every interface that is there now; the last error, if one of them stays without.
    fn pass(&mut self) -> Result<(), String> {
        let mut there =
            ethernet_interfaces().map_err(|error| format!("interfaces cannot be listed: {error}"))?;
        there.retain(|(name, _)| !self.own.contains(name));
        let present: BTreeSet<u32> = there.iter().map(|(_, ifindex)| *ifindex).collect();
        self.gated.retain(|ifindex| present.contains(ifindex));
        let prefix = format!("{GATE_LOCAL}-");
        self.pins.remove_links(|name| {
            let number = name.strip_prefix(&prefix).and_then(|number| number.parse().ok());
            number.is_none_or(|ifindex| present.contains(&ifindex))
        });
        let mut result = Ok(());
        for (name, ifindex) in there {
            if self.gated.contains(&ifindex) {
                continue;
            }
            let gated = self.gate(&name, ifindex);
            // One that is gone, or goes by another name by now, is for the next look.
            if !interface_index(&name).is_ok_and(|index| index == ifindex) {
                continue;
            }
            match gated {
                Ok(()) => drop(self.gated.insert(ifindex)),
                Err(why) => result = Err(format!("no gate on {name}: {why}")),
            }
        }
        result
    }

    fn gate(&mut self, interface: &str, ifindex: u32) -> Result<(), String> {
        let path = self.pins.path(&format!("{GATE_LOCAL}-{ifindex}"));
        if let Ok(there) = PinnedLink::from_pin(&path)
            && let Ok(there) = SchedClassifierLink::try_from(FdLink::from(there))
            && let Ok(id) = self.program.attach_to_link(there)
        {
            // Its pin goes on holding it.
            return self.program.take_link(id).map(drop).map_err(|error| chain(&error));
        }
        let _ = fs::remove_file(&path);
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = self
            .program
            .attach_with_options(interface, TcAttachType::Egress, options)
            .map_err(|error| chain(&error))?;
        let link = self.program.take_link(id).map_err(|error| chain(&error))?;
        let link = FdLink::try_from(link).map_err(|_| "not a tcx link".to_owned())?;
        link.pin(&path).map(drop).map_err(|error| chain(&error))
    }
}
