//! Loads the programs, with the maps that a former daemon pinned, and attaches them: native, then generic.
//!
//! A link that is pinned gets the new program in one atomic replacement; nothing is detached in between.

use std::fs;
use std::os::fd::AsFd;

use aya::maps::Map;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, ProgramError, RawTracePoint, RawTracePointRunOptions,
    SchedClassifier, TcAttachType, TestRun, TestRunOptions, TestRunResult, Xdp,
};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_log::EbpfLogger;
use ringbeat_config::Datapath;
use thiserror::Error;

use super::pins::Pins;
use super::{Mode, PlaneLink};
use crate::sys::clock::skewed_by;

/// The gate that stands where no service address is meant to be.
pub const GATE_LOCAL: &str = "gate_local";

/// Why there is no kernel plane.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Not in this build.
    #[error("this build has no kernel programs: {0}")]
    NotBuilt(&'static str),
    /// The kernel did not take the object.
    #[error("the kernel refused the programs: {0}")]
    Refused(#[from] EbpfError),
    /// The kernel did not take a program.
    #[error("program {name}: {}", chain(source))]
    Program {
        /// Which.
        name: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// A link is attached in a way that cannot be pinned or replaced.
    #[error("program {name} on {interface}: {why}")]
    Attach {
        /// Which.
        name: &'static str,
        /// Where.
        interface: String,
        /// Why.
        why: String,
    },
    /// A map of the object is not there.
    #[error("map {0} is missing from the object")]
    NoMap(&'static str),
    /// The timer did not start.
    #[error("the kernel has no timer for us (verdict {0})")]
    NoTimer(u32),
    /// A planned hand-over has ended before this daemon was registered.
    #[error("the announced hand-over has ended before this daemon was ready; start it again")]
    TooLate,
    /// A map could not be mapped or pinned.
    #[error("map {name}: {why}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        why: String,
    },
}

/// The verifier's log begins with this; it is for the log at debug level, not for a sentence.
const VERIFIER_LOG: &str = "Verifier output";

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let text = whole_chain(error);
    let Some((reason, log)) = text.split_once(VERIFIER_LOG) else { return text };
    tracing::debug!("{VERIFIER_LOG}{log}");
    reason.trim_end_matches(['.', ' ', ':']).to_owned()
}

fn whole_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// A packet's way through the receiving program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The verdict: of XDP 1 drop, 2 pass, 3 transmit; of a classifier 2 drop, -1 on to the next.
    pub verdict: u32,
    /// What a run took, on average.
    pub took_ns: u64,
    /// The packet afterwards.
    pub after: Vec<u8>,
}

/// The loaded object and the links that keep it in place.
pub struct Loaded {
    ebpf: Ebpf,
    /// Links that are not pinned live as long as this.
    held: Vec<FdLink>,
    /// What the programs of a debug build say; those of a release build say nothing.
    said: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Loaded {
    /// Loads all programs; maps that are pinned are taken over.
    pub fn new(object: &[u8], pins: Option<&Pins>) -> Result<Self, LoadError> {
        let mut loader = EbpfLoader::new();
        if let Some(pins) = pins {
            for name in Pins::maps() {
                loader.map_pin_path(name, pins.path(name));
            }
        }
        let (rate, offset) = skewed_by();
        if (rate, offset) != (0, 0) {
            loader.override_global("CLOCK_RATE", &rate, true);
            loader.override_global("CLOCK_OFFSET", &offset, true);
        }
        let mut ebpf = loader.load(object)?;
        let said = EbpfLogger::init(&mut ebpf).ok();
        let mut loaded = Self { ebpf, held: Vec::new(), said };
        for name in ["heartbeat", "arm"] {
            loaded.xdp(name)?.load().map_err(|source| LoadError::Program { name, source })?;
        }
        for name in ["egress", "gate_out", "gate_in", GATE_LOCAL] {
            loaded.classifier(name)?.load().map_err(|source| LoadError::Program { name, source })?;
        }
        for name in ["register", "obituary", "obituary_exec"] {
            loaded.tracepoint(name)?.load().map_err(|source| LoadError::Program { name, source })?;
        }
        Ok(loaded)
    }

    /// Hands what the programs have said to the log.
    pub fn listen(&mut self) {
        if let Some(said) = &mut self.said {
            said.flush();
        }
    }

    /// Takes a map out of the object.
    pub fn take(&mut self, name: &'static str) -> Result<Map, LoadError> {
        self.ebpf.take_map(name).ok_or(LoadError::NoMap(name))
    }

    /// Starts the timer, or moves it to the program that is loaded now.
    pub fn arm(&mut self) -> Result<(), LoadError> {
        // A packet of the least size that a test run takes.
        let packet = [0; 64];
        let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() };
        let ran = self
            .xdp("arm")?
            .test_run(options)
            .map_err(|source| LoadError::Program { name: "arm", source })?;
        if ran.return_value == 2 { Ok(()) } else { Err(LoadError::NoTimer(ran.return_value)) }
    }

    /// Runs the receiving program over a packet that seems to come in on the loopback interface, for tests and
    /// benches.
    pub fn try_out(&mut self, packet: &[u8], repeat: u32) -> Result<Tried, LoadError> {
        let name = "heartbeat";
        try_program(self.xdp(name)?, packet, repeat).map_err(|source| LoadError::Program { name, source })
    }

    /// The same with `egress` or one of the gates, over a packet on the loopback interface.
    pub fn try_classifier(
        &mut self,
        name: &'static str,
        packet: &[u8],
        repeat: u32,
    ) -> Result<Tried, LoadError> {
        try_program(self.classifier(name)?, packet, repeat)
            .map_err(|source| LoadError::Program { name, source })
    }

    /// Makes the calling process the one whose end sets the latch. Whether it has is told by that: `ALIVE`.
    pub fn register(&mut self) -> Result<(), LoadError> {
        self.tracepoint("register")?
            .test_run(RawTracePointRunOptions::default())
            .map(|_| ())
            .map_err(|source| LoadError::Program { name: "register", source })
    }

    /// Attaches both obituaries.
    pub fn attach_obituaries(&mut self, pins: Option<&Pins>) -> Result<(), LoadError> {
        for (name, point) in [("obituary", "sched_process_exit"), ("obituary_exec", "sched_process_exec")] {
            let error = |source| LoadError::Program { name, source };
            let program = self.tracepoint(name)?;
            let id = program.attach(point).map_err(error)?;
            let link: FdLink = program.take_link(id).map_err(error)?.into();
            // There is no replacement in place for tracepoints: the new one is there before the old one goes.
            if let Some(pins) = pins {
                let _ = fs::remove_file(pins.path(name));
            }
            self.keep(link, pins, name, name)?;
        }
        Ok(())
    }

    /// Attaches both ends of a link; gives the mode and why it is not a better one.
    pub fn attach(
        &mut self,
        link: &PlaneLink,
        wanted: Datapath,
        pins: Option<&Pins>,
    ) -> Result<(Mode, Option<String>), LoadError> {
        self.attach_egress(link, pins)?;
        let modes: &[(Mode, XdpMode)] = match wanted {
            Datapath::Native => &[(Mode::Native, XdpMode::Driver)],
            Datapath::Generic => &[(Mode::Generic, XdpMode::Skb)],
            Datapath::Auto | Datapath::Socket => {
                &[(Mode::Native, XdpMode::Driver), (Mode::Generic, XdpMode::Skb)]
            }
        };
        let mut refused = Vec::new();
        for (mode, xdp_mode) in modes {
            match self.attach_xdp(link, *mode, *xdp_mode, pins) {
                Ok(()) => return Ok((*mode, refused.pop())),
                Err(error) => refused.push(format!("{}: {error}", mode.name())),
            }
        }
        Err(LoadError::Attach {
            name: "heartbeat",
            interface: link.interface.clone(),
            why: refused.join("; "),
        })
    }

    fn attach_xdp(
        &mut self,
        link: &PlaneLink,
        mode: Mode,
        xdp_mode: XdpMode,
        pins: Option<&Pins>,
    ) -> Result<(), LoadError> {
        let name = "heartbeat";
        let pin = format!("xdp-{}-{}-{}", link.id, link.ifindex, mode.name());
        let error = |source| LoadError::Program { name, source };
        if let Some(old) = pinned(pins, &pin)
            && let Ok(old) = XdpLink::try_from(old)
        {
            // The pin goes on holding the link; our own handle may close.
            if self.xdp(name)?.attach_to_link(old).is_ok() {
                return Ok(());
            }
        }
        if let Some(pins) = pins {
            pins.remove_links(|there| !there.starts_with(&format!("xdp-{}-", link.id)));
        }
        let program = self.xdp(name)?;
        let id = program.attach_to_if_index(link.ifindex, xdp_mode).map_err(error)?;
        let attached = program.take_link(id).map_err(error)?;
        let attached = FdLink::try_from(attached).map_err(|_| LoadError::Attach {
            name,
            interface: link.interface.clone(),
            why: "the kernel has no BPF links for XDP (5.9 on)".to_owned(),
        })?;
        self.keep(attached, pins, &pin, name)
    }

    fn attach_egress(&mut self, link: &PlaneLink, pins: Option<&Pins>) -> Result<(), LoadError> {
        let pin = format!("tcx-{}-{}", link.id, link.ifindex);
        let place = (link.interface.as_str(), TcAttachType::Egress);
        self.attach_tcx("egress", place, pins, &pin, |there| !there.starts_with(&format!("tcx-{}-", link.id)))
    }

    /// Attaches the gate to both directions of an interface.
    pub fn attach_gate(
        &mut self,
        interface: &str,
        ifindex: u32,
        pins: Option<&Pins>,
    ) -> Result<(), LoadError> {
        for (name, direction) in [("gate_out", TcAttachType::Egress), ("gate_in", TcAttachType::Ingress)] {
            let pin = format!("{name}-{ifindex}");
            self.attach_tcx(name, (interface, direction), pins, &pin, |there| there != pin)?;
        }
        Ok(())
    }

    /// Pins the gate for what this node itself sends by other interfaces, so that a thread can attach it.
    pub fn pin_gate_local(&mut self, pins: &Pins) -> Result<(), LoadError> {
        let path = pins.path(GATE_LOCAL);
        // That of the daemon before.
        let _ = fs::remove_file(&path);
        self.classifier(GATE_LOCAL)?.pin(&path).map_err(|error| LoadError::Attach {
            name: GATE_LOCAL,
            interface: path.display().to_string(),
            why: chain(&error),
        })
    }

    /// Loads the gate of cgroups. Not with the others, for not every kernel has what it needs; and before any map is
    /// taken, for a program is loaded with its maps.
    pub fn load_cgroup_gate(&mut self) -> Result<(), LoadError> {
        let name = "gate_cgroup";
        self.cgroup_gate()?.load().map_err(|source| LoadError::Program { name, source })
    }

    /// Attaches it to both directions of a cgroup, beside whatever is there, for as long as this stands.
    pub fn attach_cgroup_gate(&mut self, cgroup: impl AsFd) -> Result<(), LoadError> {
        let name = "gate_cgroup";
        for direction in [CgroupSkbAttachType::Egress, CgroupSkbAttachType::Ingress] {
            self.cgroup_gate()?
                .attach(cgroup.as_fd(), direction, CgroupAttachMode::Single)
                .map_err(|source| LoadError::Program { name, source })?;
        }
        Ok(())
    }

    /// Attaches a classifier, in the place of the pinned one if there is one that still stands; else every pin that is
    /// not to be kept goes first.
    fn attach_tcx(
        &mut self,
        name: &'static str,
        (interface, direction): (&str, TcAttachType),
        pins: Option<&Pins>,
        pin: &str,
        keep: impl Fn(&str) -> bool,
    ) -> Result<(), LoadError> {
        if let Some(old) = pinned(pins, pin)
            && let Ok(old) = SchedClassifierLink::try_from(old)
            && self.classifier(name)?.attach_to_link(old).is_ok()
        {
            return Ok(());
        }
        if let Some(pins) = pins {
            pins.remove_links(keep);
        }
        let fail = |why: String| LoadError::Attach { name, interface: interface.to_owned(), why };
        let program = self.classifier(name)?;
        // Before all others: one that passes a packet on by itself must not pass it by the gate.
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options(interface, direction, options)
            .map_err(|error| fail(format!("{} (tcx needs kernel 6.6)", chain(&error))))?;
        let attached = program.take_link(id).map_err(|error| fail(chain(&error)))?;
        let attached = FdLink::try_from(attached).map_err(|_| fail("not a tcx link".to_owned()))?;
        self.keep(attached, pins, pin, name)
    }

    /// Pins a link, or holds it where there are no pins.
    fn keep(
        &mut self,
        link: FdLink,
        pins: Option<&Pins>,
        pin: &str,
        name: &'static str,
    ) -> Result<(), LoadError> {
        match pins {
            None => self.held.push(link),
            Some(pins) => {
                let path = pins.path(pin);
                let kept = link.pin(&path).map_err(|error| LoadError::Attach {
                    name,
                    interface: path.display().to_string(),
                    why: chain(&error),
                })?;
                self.held.push(FdLink::from(kept));
            }
        }
        Ok(())
    }

    fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoMap(name))?;
        program.try_into().map_err(|source| LoadError::Program { name, source })
    }

    fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoMap(name))?;
        program.try_into().map_err(|source| LoadError::Program { name, source })
    }

    fn cgroup_gate(&mut self) -> Result<&mut CgroupSkb, LoadError> {
        let name = "gate_cgroup";
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoMap(name))?;
        program.try_into().map_err(|source| LoadError::Program { name, source })
    }

    fn tracepoint(&mut self, name: &'static str) -> Result<&mut RawTracePoint, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoMap(name))?;
        program.try_into().map_err(|source| LoadError::Program { name, source })
    }
}

/// Runs a program over a packet.
fn try_program<P>(program: &P, packet: &[u8], repeat: u32) -> Result<Tried, ProgramError>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut after = vec![0; packet.len() + 64];
    let options =
        TestRunOptions { data_in: Some(packet), data_out: Some(&mut after), repeat, ..TestRunOptions::new() };
    let ran = program.test_run(options)?;
    after.truncate(ran.data_size_out as usize);
    Ok(Tried { verdict: ran.return_value, took_ns: ran.duration.as_nanos() as u64, after })
}

fn pinned(pins: Option<&Pins>, name: &str) -> Option<FdLink> {
    let path = pins?.path(name);
    if path.exists() { PinnedLink::from_pin(path).ok().map(FdLink::from) } else { None }
}
