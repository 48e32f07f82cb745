//! Everything that can refuse to be, in the order in which it costs the cluster least: signals, configuration, lock,
//! interfaces, sockets, pins, programs, disk. The plane is still closed at the end of it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ringbeat_common::lease::PROMISE_QUARTERS;
use ringbeat_common::limits::LEASE_MAX_NS;
use ringbeat_config::{Config, ConfigError, Datapath, Link};
use ringbeat_control::Realtime;
use ringbeat_core::membership::electorate::Electorate;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FlockOperation, flock};

use crate::address::Actions;
use crate::agreed;
use crate::control::{self, Asks};
use crate::electorate::{ElectorateError, Kept};
use crate::exit::{Exit, Refusal};
use crate::journal::Journal;
use crate::plane::load::chain;
use crate::plane::pins::{BPFFS, PinError, Pins};
use crate::plane::{Gated, Identity, KernelPlane, Others, Plane, PlaneLink, SocketPlane};
use crate::probe::{self, Book};
use crate::reserve::{self, Reserve, Reserved};
use crate::ring::{self, RingPlane};
use crate::sockets::LinkSockets;
use crate::stop::Stop;
use crate::sys::clock::boot_ns;
use crate::sys::realtime::{self, LOOP_PRIORITY, PROBE_PRIORITY, RING_PRIORITY, Share};
use crate::sys::socket::interface_index;
use crate::{incarnation, keys};

/// What status says of a probe thread that has not asked yet.
pub const STARTING: &str = "starting";

/// All that the main loop runs on.
pub struct Started {
    /// The configuration.
    pub config: Config,
    /// Where it was read.
    pub config_path: PathBuf,
    /// The closed plane.
    pub plane: Plane,
    /// What every frame carries.
    pub identity: Identity,
    /// The links, in the configuration's order.
    pub links: Vec<PlaneLink>,
    /// Their sockets.
    pub sockets: Vec<Arc<LinkSockets>>,
    /// What the beating thread shares.
    pub book: Arc<Book>,
    /// The incarnation to open as.
    pub incarnation: u64,
    /// Whether it is that of a daemon that handed over.
    pub adopted: bool,
    /// Where the pins are.
    pub pins: Option<Pins>,
    /// The key of messages.
    pub message_key: [u64; 2],
    /// What is reserved on disk.
    pub reserve: Reserve,
    /// The nodes and votes that this node has run with.
    pub electorate: Kept,
    /// Nothing is announced before: a daemon before this one may have promised until then.
    pub quiet_until_ns: u64,
    /// Where a clean stop is noted.
    pub clean_note: PathBuf,
    /// The addresses; none where none is configured.
    pub actions: Option<Actions>,
    /// The gates of other interfaces; none where nothing can be held.
    pub others: Option<Others>,
    /// The ordered ring.
    pub ring: RingPlane,
    /// Wakes the main loop.
    pub wake: Arc<OwnedFd>,
    /// Whether this daemon was asked to stop.
    pub stop: Stop,
    /// What is not as it should be.
    pub warnings: Vec<String>,
    /// The main loop was refused what it asked for.
    pub loop_is_normal: bool,
    /// What real-time scheduling was granted to the thread of the probes.
    pub realtime: Arc<Mutex<Realtime>>,
    /// Who asks.
    pub asks: Asks,
    /// What is told.
    pub journal: Journal,
    /// Held as long as the daemon runs.
    pub locks: [File; 2],
}

/// Starts everything, up to the closed plane.
pub fn start(path: &Path) -> Result<Started, Refusal> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let wake =
        Arc::new(wake.map_err(|error| Refusal::because(Exit::Failed, format!("no eventfd: {error}")))?);
    let stop = Stop::listen(Arc::clone(&wake))
        .map_err(|error| Refusal::because(Exit::Failed, format!("no signals: {error}")))?;
    let (config, key) = load(path)?;
    let locks = lock(&config)?;
    let links = interfaces(&config)?;
    let own = config.own().slot();
    let derived = keys::derive(key.as_bytes(), config.cluster().name());
    drop(key);
    let identity = Identity {
        slot: own,
        cluster_id: derived.cluster_id,
        config_version: agreed::config_id(&config),
        key: derived.frame_key,
    };
    let sockets = sockets(&config, &links)?;
    let book = Arc::new(Book::default());
    let mut warnings = Vec::new();
    let granted = Arc::new(Mutex::new(prepare_realtime(&config)));
    let lease_ns = u64::from(config.lease_us()) * 1000;
    let reserve = Reserve::open(config.cluster().state(), lease_ns, Arc::clone(&wake))
        .map_err(|error| Refusal::new(Exit::State, &error))?;
    let electorate = electorate(&config)?;
    let actions = actions(&config)?;
    let (mut plane, pins, kept) =
        plane(&config, identity, &links, &sockets, &book, &granted, actions.as_ref(), &mut warnings)?;
    let adopted = if let Plane::Kernel(kernel) = &plane { kernel.adopted() } else { None };
    if adopted.is_some() && electorate.is_change() {
        // The view that would go on may be one of other nodes or votes.
        let text = "the daemon before this one is not known to have run with these nodes and votes, so this one cannot \
                    go on for it; start it again when the announced hand-over is over, and raise cluster.version with \
                    every change";
        return Err(Refusal::because(Exit::Failed, text));
    }
    electorate.write().map_err(|error| Refusal::new(Exit::State, &error))?;
    let others = others(&config, &mut plane, pins.as_ref(), &mut warnings);
    plane.lease().set_slack(config.cluster().gate_slack_us());
    let clean_note = config.cluster().control().with_extension("clean");
    let clean = reserve::take_clean(&clean_note);
    // A table that a daemon made and did not come to fill tells nothing.
    let knows = kept && plane.lease().knows();
    let quiet_until_ns = if knows || clean { 0 } else { quiet_until_ns(reserve.found(), boot_ns()) };
    if quiet_until_ns != 0 {
        plane.lease().adopt_unknown(quiet_until_ns);
    }
    plane.lease().set_knows();
    let incarnation = match adopted {
        Some(incarnation) => incarnation,
        None => {
            incarnation::next(config.cluster().state()).map_err(|error| Refusal::new(Exit::State, &error))?
        }
    };
    let ring = start_ring(&config, &links, &derived, incarnation, &wake)?;
    warnings.extend(ring::warning(&config));
    let journal = Journal::default();
    let socket = config.cluster().control();
    let asks = control::start(socket, journal.news()).map_err(|error| {
        Refusal::because(Exit::Failed, format!("the control socket {}: {error}", socket.display()))
    })?;
    if plane.is_kernel() {
        let beating = links.iter().cloned().zip(sockets.iter().cloned()).collect();
        let enter = enter_realtime(&config, &granted, true);
        probe::start(beating, Arc::clone(&book), enter)
            .map_err(|error| Refusal::because(Exit::Failed, format!("no thread for the probes: {error}")))?;
    }
    let mut loop_is_normal = false;
    // Last, so that no thread started above inherits it.
    if config.cluster().realtime()
        && let Err(error) = realtime::enter(LOOP_PRIORITY)
    {
        tracing::info!(%error, "the main loop runs with normal scheduling");
        warnings.push(format!("the main loop runs with normal scheduling: {error}"));
        loop_is_normal = true;
    }
    Ok(Started {
        config,
        config_path: path.to_owned(),
        plane,
        identity,
        links,
        sockets,
        book,
        incarnation,
        adopted: adopted.is_some(),
        pins,
        message_key: derived.message_key,
        reserve,
        electorate,
        quiet_until_ns,
        clean_note,
        actions,
        others,
        ring,
        wake,
        stop,
        warnings,
        loop_is_normal,
        realtime: granted,
        asks,
        journal,
        locks,
    })
}

/// What this node has run with before, if it may run with what is configured now.
fn electorate(config: &Config) -> Result<Kept, Refusal> {
    let configured = Electorate::new(config.nodes().iter().map(|node| (node.slot(), node.votes())));
    Kept::open(config.cluster().state(), &configured).map_err(|error| {
        let is_unsafe = matches!(error, ElectorateError::Stranded { .. } | ElectorateError::TooMany { .. });
        Refusal::new(if is_unsafe { Exit::Configuration } else { Exit::State }, &error)
    })
}

/// The gates of other interfaces, where addresses can be held at all.
fn others(
    config: &Config,
    plane: &mut Plane,
    pins: Option<&Pins>,
    warnings: &mut Vec<String>,
) -> Option<Others> {
    let (Plane::Kernel(kernel), Some(pins)) = (plane, pins) else { return None };
    if config.services().is_empty() {
        return None;
    }
    let own = config.services().iter().map(|service| service.interface().to_owned()).collect();
    let started = kernel
        .pin_gate_local()
        .map_err(|error| chain(&error))
        .and_then(|()| Others::start(pins, own).map_err(|error| chain(&error)));
    match started {
        Ok(others) => Some(others),
        Err(why) => {
            tracing::warn!(why, "the gates of other interfaces cannot be kept");
            warnings.push(format!("no address is held here, for other interfaces have no gate: {why}"));
            None
        }
    }
}

/// Until when a daemon before this one may have promised, when nothing pinned says so: 1.25 of the longest lease that
/// was ever counted on, from now. If nothing on disk says which: of the longest that there can be. That a machine has just
/// booted is no reason to wait for less: a container may be new where its machine's clock is old, and the other way round.
fn quiet_until_ns(found: Reserved, now_ns: u64) -> u64 {
    let quarters = |ns: u64| ns / 4 * PROMISE_QUARTERS;
    now_ns + quarters(if found.lease_ns == 0 { LEASE_MAX_NS } else { found.lease_ns })
}

/// The thread that holds addresses, if there are any.
fn actions(config: &Config) -> Result<Option<Actions>, Refusal> {
    if config.services().is_empty() {
        return Ok(None);
    }
    let wanted = config.cluster().realtime();
    let enter = move || {
        if wanted && let Err(error) = realtime::enter(LOOP_PRIORITY) {
            tracing::info!(%error, "addresses are held with normal scheduling");
        }
    };
    let started = Actions::start(config.services(), enter);
    started
        .map(Some)
        .map_err(|error| Refusal::because(Exit::Failed, format!("no thread for addresses: {error}")))
}

/// The addresses that a former daemon had gates for.
fn leased(config: &Config) -> Result<Vec<IpAddr>, Refusal> {
    Pins::leased(Path::new(BPFFS), config.cluster().name())
        .map_err(|error| Refusal::because(Exit::Pins, chain(&error)))
}

/// Takes off what a former daemon left on the interfaces, its own addresses `former` too. Until that is done, no gate may
/// go. What was taken over stays where it is held.
fn clear_addresses(actions: Option<&Actions>, former: &[IpAddr], is_adopted: bool) -> Result<(), Refusal> {
    let failed = |error: &dyn std::fmt::Display| {
        Refusal::because(Exit::Failed, format!("addresses of a former daemon cannot be taken off: {error}"))
    };
    let clear = |actions: &Actions| {
        let cleared = if is_adopted { actions.clear_strays(former) } else { actions.clear(former) };
        cleared.map_err(|error| failed(&error))
    };
    match actions {
        Some(actions) => clear(actions),
        None if former.is_empty() => Ok(()),
        // This daemon has none of its own.
        None => clear(&Actions::start(&[], || {}).map_err(|error| failed(&error))?),
    }
}

/// Removes the pins of the configured cluster, unless a daemon is running on them.
pub fn clear_pins(path: &Path) -> Result<(), Refusal> {
    let (config, _key) = load(path)?;
    let _locks = lock(&config)?;
    // The gates go with the pins: no address may outlive them.
    clear_addresses(actions(&config)?.as_ref(), &leased(&config)?, false)?;
    Pins::remove_home(Path::new(BPFFS), config.cluster().name())
        .map_err(|error| Refusal::because(Exit::Pins, format!("the pins in {BPFFS}: {error}")))
}

fn load(path: &Path) -> Result<(Config, ringbeat_config::AuthKey), Refusal> {
    let host = rustix::system::uname();
    let host = host.nodename().to_str().ok();
    Config::load_with_key(path, host).map_err(|error| refuse(&error))
}

/// The error with its place and hint, as `ringbeat config check` shows it.
fn refuse(error: &ConfigError) -> Refusal {
    let place = error.place().map_or(String::new(), |place| format!("{place}: "));
    Refusal::because(
        Exit::Configuration,
        format!("{place}{} [{}]. {}", chain(error), error.code(), error.help()),
    )
}

/// Holds the cluster's control path and its state folder for this daemon alone: either by itself would let two daemons
/// write one lease.
fn lock(config: &Config) -> Result<[File; 2], Refusal> {
    let control = config.cluster().control().with_extension("lock");
    let state = config.cluster().state().join("lock");
    Ok([lock_file(&control)?, lock_file(&state)?])
}

fn lock_file(path: &Path) -> Result<File, Refusal> {
    let failed = |error: &io::Error| Refusal::because(Exit::State, format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|error| failed(&error))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Refusal::because(Exit::Running, format!("another daemon holds {}", path.display())))?;
    Ok(file)
}

fn interfaces(config: &Config) -> Result<Vec<PlaneLink>, Refusal> {
    config
        .links()
        .iter()
        .map(|link| {
            let ifindex = interface_index(link.interface()).map_err(|error| {
                let text = format!("link {}: interface {}: {error}", link.id(), link.interface());
                Refusal::because(Exit::Interface, text)
            })?;
            Ok(plane_link(link, ifindex))
        })
        .collect()
}

fn plane_link(link: &Link, ifindex: u32) -> PlaneLink {
    PlaneLink {
        id: link.id(),
        interface: link.interface().to_owned(),
        ifindex,
        port: link.port(),
        interval_ns: link.interval_ns(),
        deadline_ns: link.deadline_ns(),
    }
}

fn sockets(config: &Config, links: &[PlaneLink]) -> Result<Vec<Arc<LinkSockets>>, Refusal> {
    let own = config.own();
    let open = |(index, (link, plane)): (usize, (&Link, &PlaneLink))| {
        let address = SocketAddr::new(own.address_on(index), link.port());
        let others = config.nodes().iter().filter(|node| node.id() != own.id());
        let peers = others.map(|node| (node.slot(), node.address_on(index)));
        LinkSockets::open(link.id(), link.interface(), plane.ifindex, link.network(), address, peers)
            .map(Arc::new)
            .map_err(|error| Refusal::new(Exit::Interface, &error))
    };
    config.links().iter().zip(links).enumerate().map(open).collect()
}

/// The kernel plane if it can be had, else sockets; a forced mode or none.
fn plane(
    config: &Config,
    identity: Identity,
    links: &[PlaneLink],
    sockets: &[Arc<LinkSockets>],
    book: &Arc<Book>,
    granted: &Arc<Mutex<Realtime>>,
    actions: Option<&Actions>,
    warnings: &mut Vec<String>,
) -> Result<(Plane, Option<Pins>, bool), Refusal> {
    let wanted = config.cluster().datapath();
    let why = if wanted == Datapath::Socket {
        "the configuration says so".to_owned()
    } else {
        match kernel_plane(config, identity, links, wanted, actions, warnings) {
            Ok((plane, pins, kept)) => return Ok((Plane::Kernel(Box::new(plane)), pins, kept)),
            // Only what keeps the programs from being had leaves the place to sockets.
            Err(refusal) if refusal.exit != Exit::Datapath || wanted != Datapath::Auto => {
                return Err(refusal);
            }
            Err(refusal) => refusal.message,
        }
    };
    // What a former daemon left in the kernel must not answer beside us; its gates go last.
    clear_addresses(actions, &leased(config)?, false)?;
    let _ = Pins::remove_home(Path::new(BPFFS), config.cluster().name());
    tracing::warn!(%why, "no kernel plane: plain sockets serve all links");
    if wanted != Datapath::Socket {
        warnings.push(format!("plain sockets instead of the kernel plane: {why}"));
    }
    warnings.push("with plain sockets a killed daemon is seen as silence, not at once".to_owned());
    // It shares a lock with the main loop, and its work is what peers send: no share would be right.
    let enter = enter_realtime(config, granted, false);
    let plane = SocketPlane::start(identity, sockets.to_vec(), links, Arc::clone(book), why, enter)
        .map_err(|error| Refusal::because(Exit::Failed, format!("no socket plane: {error}")))?;
    if actions.is_some() {
        warnings
            .push("with plain sockets there is no gate: this node grants, and holds no address".to_owned());
    }
    Ok((Plane::Socket(plane), None, false))
}

fn kernel_plane(
    config: &Config,
    identity: Identity,
    links: &[PlaneLink],
    wanted: Datapath,
    actions: Option<&Actions>,
    warnings: &mut Vec<String>,
) -> Result<(KernelPlane, Option<Pins>, bool), Refusal> {
    let forced = |message: String| Refusal::because(Exit::Datapath, message);
    let missing = ringbeat_ebpf_object::MISSING.unwrap_or("no reason recorded");
    let object = ringbeat_ebpf_object::KERNEL
        .ok_or_else(|| forced(format!("this build has no kernel programs: {missing}")))?;
    let pins = match Pins::open(Path::new(BPFFS), config.cluster().name()) {
        Ok(pins) => Some(pins),
        Err(error @ (PinError::Abi { .. } | PinError::Layout { .. })) => {
            return Err(Refusal::new(Exit::Pins, &error));
        }
        Err(error) => {
            warnings
                .push(format!("nothing is pinned, so a killed daemon is seen as silence: {}", chain(&error)));
            tracing::warn!(error = chain(&error), "nothing is pinned");
            None
        }
    };
    let kept = pins.as_ref().is_some_and(Pins::have_promises);
    let gates = config
        .services()
        .iter()
        .map(|service| Gated { address: service.address(), interface: service.interface().to_owned() });
    let gates: Vec<_> = gates.collect();
    // Before the names of the gates change: an address that is on an interface must not lose its own.
    let former = leased(config)?;
    let started = KernelPlane::start(object, identity, links, wanted, pins.as_ref());
    let is_adopted = started.as_ref().is_ok_and(|plane| plane.adopted().is_some());
    clear_addresses(actions, &former, is_adopted).inspect_err(|_| {
        // The pins of a former daemon stay, and its gates with them, closed. Those that were just made go: they say that
        // nothing was promised, which nobody knows.
        if let Some(pins) = pins.as_ref().filter(|_| !kept && former.is_empty()) {
            pins.remove_all();
        }
    })?;
    let named = started.and_then(|mut plane| {
        if !is_adopted {
            // A hand-over that is not taken up, and not over, has its gates open: none may stand for another address.
            plane.lease().release();
        }
        plane.lease_addresses(&gates)?;
        Ok(plane)
    });
    let plane = match named {
        Ok(plane) => plane,
        Err(error) => {
            // Nothing of a former daemon may answer beside sockets. Its gates go with its pins, so its addresses go before
            // them, those that were taken over, too.
            clear_addresses(actions, &former, false)?;
            if let Some(pins) = &pins {
                pins.remove_all();
            }
            return Err(forced(chain(&error)));
        }
    };
    for link in links {
        let (mode, why) = plane.mode(link.id);
        if let Some(why) = why {
            tracing::warn!(link = link.id, mode = mode.name(), %why, "not the mode that was tried first");
        }
    }
    Ok((plane, pins, kept))
}

fn start_ring(
    config: &Config,
    links: &[PlaneLink],
    derived: &keys::Derived,
    incarnation: u64,
    wake: &Arc<OwnedFd>,
) -> Result<RingPlane, Refusal> {
    let spec = ring::Spec {
        config,
        links,
        cluster_id: derived.cluster_id,
        key: derived.ring_key,
        incarnation,
        wake: Arc::clone(wake),
    };
    let wanted = config.cluster().realtime();
    let enter = move || {
        if !wanted {
            return None;
        }
        let entered = realtime::enter(RING_PRIORITY);
        if let Err(error) = &entered {
            tracing::info!(%error, "the ring's thread runs with normal scheduling");
        }
        entered.ok().map(|()| RING_PRIORITY)
    };
    RingPlane::start(&spec, enter).map_err(|error| Refusal::because(Exit::Interface, chain(&error)))
}

fn prepare_realtime(config: &Config) -> Realtime {
    if !config.cluster().realtime() {
        let off = "normal: the configuration says so".to_owned();
        return Realtime { probe: off.clone(), memory: off, granted: false };
    }
    let memory = match realtime::lock_memory() {
        Ok(()) => format!("locked, {} MiB at most", realtime::LOCKED_MAX >> 20),
        Err(error) => format!("not locked: {error}"),
    };
    if let Err(error) = realtime::set_budget() {
        tracing::warn!(%error, "real-time threads run without a budget");
    }
    Realtime { probe: STARTING.to_owned(), memory, granted: false }
}

/// What the beating thread does first.
fn enter_realtime(
    config: &Config,
    granted: &Arc<Mutex<Realtime>>,
    by_deadline: bool,
) -> impl FnOnce() + Send + 'static {
    let wanted = config.cluster().realtime();
    let granted = Arc::clone(granted);
    let interval_ns = config.links().iter().map(Link::interval_ns).min().unwrap_or_default();
    let probes = config.links().len() * config.nodes().len().saturating_sub(1);
    move || {
        if !wanted {
            return;
        }
        let by_deadline = if by_deadline {
            realtime::enter_deadline(Share::of_beats(interval_ns, probes))
        } else {
            Err(std::io::Error::other("plain sockets"))
        };
        let by_priority = by_deadline.as_ref().is_err().then(|| realtime::enter(PROBE_PRIORITY));
        let mut said = granted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        said.probe = match (&by_deadline, &by_priority) {
            (Ok(share), _) => {
                format!("deadline, {} of {} us", share.runtime_ns / 1000, share.period_ns / 1000)
            }
            (Err(error), None | Some(Ok(()))) => format!("fifo {PROBE_PRIORITY}, no deadline: {error}"),
            (Err(_), Some(Err(error))) => {
                format!("normal: {error} (CAP_SYS_NICE, or RLIMIT_RTPRIO of {PROBE_PRIORITY})")
            }
        };
        said.granted = !said.probe.starts_with("normal") && said.memory.starts_with("locked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_nothing_waits_for_the_longest_lease_that_there_can_be() {
        let quiet = |lease_ns, now_ns| quiet_until_ns(Reserved { ceiling: 0, lease_ns }, now_ns);
        // However long the machine has been up.
        assert_eq!(quiet(0, 0), 2_500_000_000);
        assert_eq!(quiet(0, 90_000_000_000), 92_500_000_000);
        assert_eq!(quiet(20_000_000, 90_000_000_000), 90_025_000_000);
    }
}
