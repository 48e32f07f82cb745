//! One node: what runs in it, and what is done to its daemon.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::Receiver,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use ringbeat_common::clock::{RATE_SHIFT, rate_of_ppm};

use super::{Lab, launch::launch, state, topology};
use crate::{
    control::{self, Line},
    sys::{
        clock::boottime_ns,
        packet::PacketSocket,
        process::{ProcessId, ProcessState},
        spaces::{self, ALL, NETWORK},
    },
};

/// The daemon's program.
const DAEMON: &str = "ringbeatd";
/// How long a killed daemon may take to let go of its programs and its lock.
const DYING: Duration = Duration::from_secs(1);
/// The same with a clock of its own.
const SKEWED_DAEMON: &str = "ringbeatd-lab";
/// The daemon's control socket, inside the node.
const SOCKET: &str = "run/ringbeat/control.sock";
/// The socket of process groups, inside the node.
const GROUPS: &str = "run/ringbeat/cpg.sock";

/// A node of a lab; the client and the switch have one too, without a daemon.
#[derive(Debug, Clone)]
pub struct Node<'lab> {
    pub(super) lab: &'lab Lab,
    pub(super) name: String,
}

/// How a daemon is started.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// A program with arguments that takes the daemon's as its own and becomes it, such as `setpriv` or
    /// `chrt`.
    pub prefix: Vec<String>,
    /// More arguments of the daemon.
    pub args: Vec<String>,
    /// More environment of the daemon.
    pub env: Vec<(String, String)>,
    /// Its clock, if it is not the machine's.
    pub clock: Option<SkewedClock>,
}

/// A clock that runs wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkewedClock {
    /// What it is ahead by at boot, in ns.
    pub offset_ns: i64,
    /// What it gains, in parts in a million.
    pub rate_ppm: i32,
}

impl SkewedClock {
    /// The machine's time when this clock shows `ns`; within a µs or so.
    #[must_use]
    pub fn true_ns(self, ns: u64) -> u64 {
        let rate = i128::from(rate_of_ppm(self.rate_ppm).cast_signed());
        let parts = 1i128 << RATE_SHIFT;
        let since = i128::from(ns) - i128::from(self.offset_ns);
        u64::try_from(since * parts / (parts + rate)).unwrap_or(0)
    }
}

impl Node<'_> {
    /// Its name, which is its hostname too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id in the cluster.
    pub fn id(&self) -> Result<u8> {
        let slot = self.slot()?;
        ensure!(slot != topology::CLIENT_SLOT, "the client is no node of the cluster");
        Ok(slot)
    }

    /// Its address on a heartbeat link, IPv4.
    pub fn address(&self, link: u8) -> Result<String> {
        Ok(topology::addresses(link, self.slot()?).0)
    }

    /// Its address on the service network, IPv4.
    pub fn service_address(&self) -> Result<String> {
        self.address(topology::SERVICE)
    }

    /// Its MAC address on a heartbeat link.
    pub fn mac(&self, link: u8) -> Result<[u8; 6]> {
        Ok(topology::mac(link, self.slot()?))
    }

    /// Its `/etc/ringbeat`, as seen from outside. It outlives daemon and crash.
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.home().join("etc")
    }

    /// Its `/var/lib/ringbeat`, as seen from outside. It outlives daemon and crash.
    #[must_use]
    pub fn var(&self) -> PathBuf {
        self.home().join("var")
    }

    /// Its whole file tree, as seen from outside: `root()?.join("run/ringbeat")`.
    pub fn root(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root", self.init()?.pid)))
    }

    /// Process 1 of the node.
    pub fn init(&self) -> Result<ProcessId> {
        state::load(&self.home().join("init.json"))
    }

    /// Runs a command inside. Whatever is still running there at `lab down` or at a reboot is killed.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let child = spaces::within(self.init()?, ALL, || command.spawn());
        let child = child.with_context(|| format!("cannot enter {}", self.name))?;
        child.with_context(|| format!("{}: cannot run {:?}", self.name, command.get_program()))
    }

    /// Runs a command inside to its end and collects what it says.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<Output> {
        let mut command = self.command(program)?;
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(self.spawn(&mut command)?.wait_with_output()?)
    }

    /// A command that finds the workspace's programs first; to be given to [`Node::spawn`].
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(program);
        let others = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        command.env("PATH", format!("{}:{others}", state::bin_dir()?.display()));
        Ok(command)
    }

    /// Does something in the node's network namespace, on a thread of its own: a socket made there stays
    /// there.
    ///
    /// ```no_run
    /// # fn f(node: ringbeat_lab::Node<'_>) -> anyhow::Result<()> {
    /// let socket = node.in_network(|| std::net::UdpSocket::bind("10.77.0.1:9"))??;
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        spaces::within(self.init()?, NETWORK, work).with_context(|| format!("cannot enter {}", self.name))
    }

    /// A socket for whole frames on an interface of the node, or on a port of the switch (`n1l0`: link 0 of
    /// n1).
    pub fn packets(&self, interface: &str) -> Result<PacketSocket> {
        let socket = self.in_network(|| PacketSocket::open(interface))?;
        socket.with_context(|| format!("{}: cannot open a packet socket on {interface}", self.name))
    }

    /// Starts the daemon, as asked for in the lab's folder; a crashed node is booted anew first.
    ///
    /// Returns the stamp of the start. [`Node::wait_ready`] waits until it answers.
    pub fn start(&self, options: &StartOptions) -> Result<u64> {
        self.id()?;
        if self.is_crashed() {
            self.lab.boot(&self.name)?;
        }
        if let Some(daemon) = self.daemon()? {
            ensure!(
                daemon.wait_dead(DYING),
                "the daemon of {} runs already, as pid {}",
                self.name,
                daemon.pid
            );
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let name = if options.clock.is_some() { SKEWED_DAEMON } else { DAEMON };
        let daemon = state::program(name)?.to_string_lossy().into_owned();
        let config = ["--config", "/etc/ringbeat/ringbeat.toml"].map(str::to_owned);
        let line = [options.prefix.as_slice(), &[daemon], &config, &options.args].concat();
        let clock = options.clock.map(|clock| format!("{}:{}", clock.offset_ns, clock.rate_ppm));
        let clock = clock.map(|clock| ("RINGBEAT_LAB_CLOCK".to_owned(), clock));
        let env: Vec<_> = options.env.iter().cloned().chain(clock).collect();
        let stamp_ns = boottime_ns();
        launch(self, &line, &env, log, |daemon| state::save(&self.home().join("daemon.json"), &daemon))?;
        Ok(stamp_ns)
    }

    /// Waits until the daemon answers on its control socket; fails at once if it dies.
    pub fn wait_ready(&self, patience: Duration) -> Result<()> {
        let socket = self.socket()?;
        let end = Instant::now() + patience;
        while UnixStream::connect(&socket).is_err() {
            if self.daemon_state()? == ProcessState::Dead {
                bail!("the daemon of {} is dead; it said:\n{}", self.name, self.log_tail(10)?);
            }
            if Instant::now() >= end {
                bail!("the daemon of {} does not answer within {patience:?}", self.name);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The daemon as it was last started, dead or alive.
    pub fn daemon(&self) -> Result<Option<ProcessId>> {
        state::load_if_there(&self.home().join("daemon.json"))
    }

    /// What the daemon does; one that was never started counts as dead.
    pub fn daemon_state(&self) -> Result<ProcessState> {
        Ok(self.daemon()?.map_or(ProcessState::Dead, ProcessId::state))
    }

    /// SIGKILL to the daemon. Returns the stamp.
    pub fn kill(&self) -> Result<u64> {
        self.signal(Signal::KILL)
    }

    /// SIGSTOP to the daemon. Returns the stamp.
    pub fn pause(&self) -> Result<u64> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT to the daemon. Returns the stamp.
    pub fn resume(&self) -> Result<u64> {
        self.signal(Signal::CONT)
    }

    /// SIGSTOP to every process of the node, the daemon first. Returns the stamp.
    pub fn freeze(&self) -> Result<u64> {
        let stamp_ns = self.pause()?;
        self.signal_all(Signal::STOP)?;
        Ok(stamp_ns)
    }

    /// SIGCONT to every process of the node.
    pub fn thaw(&self) -> Result<()> {
        self.signal_all(Signal::CONT)
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        for process in self.init()?.of_its_namespace()? {
            match process.signal(signal) {
                // It has ended since.
                Err(error) if !process.is_alive() => drop(error),
                sent => sent.with_context(|| format!("pid {} of {}", process.pid, self.name))?,
            }
        }
        Ok(())
    }

    /// SIGTERM to the daemon, and waits for its end. Returns the stamp of the signal.
    pub fn stop(&self, patience: Duration) -> Result<u64> {
        let stamp_ns = self.signal(Signal::TERM)?;
        let gone = self.daemon()?.is_none_or(|daemon| daemon.wait_dead(patience));
        ensure!(gone, "the daemon of {} still runs {patience:?} after SIGTERM", self.name);
        Ok(stamp_ns)
    }

    /// Any signal to the daemon. Returns the stamp taken right before it.
    pub fn signal(&self, signal: Signal) -> Result<u64> {
        let daemon = self.daemon()?.with_context(|| format!("{} has no daemon", self.name))?;
        let process = match daemon.open() {
            Ok(process) if daemon.is_alive() => process,
            _ => bail!("the daemon of {} is dead", self.name),
        };
        let stamp_ns = boottime_ns();
        rustix::process::pidfd_send_signal(&process, signal)?;
        Ok(stamp_ns)
    }

    /// One request to the daemon and its answer.
    pub fn request(&self, request: &Value) -> Result<Value> {
        control::request(&self.socket()?, request).with_context(|| format!("{} does not answer", self.name))
    }

    /// Sends a request that is answered by a stream of lines, such as the events; they come over the channel
    /// until the daemon dies or the receiver is dropped.
    pub fn follow(&self, request: &Value) -> Result<Receiver<Line>> {
        control::follow(&self.socket()?, request).with_context(|| format!("{} does not answer", self.name))
    }

    /// The control socket, as seen from outside.
    pub fn socket(&self) -> Result<PathBuf> {
        Ok(self.root()?.join(SOCKET))
    }

    /// The socket of process groups, as seen from outside.
    pub fn groups(&self) -> Result<PathBuf> {
        Ok(self.root()?.join(GROUPS))
    }

    /// What the node's daemons wrote.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.lab.dir().join(format!("log/{}.log", self.name))
    }

    /// The last lines of the log; empty if there is none.
    pub fn log_tail(&self, lines: usize) -> Result<String> {
        let text = match fs::read(self.log_path()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        Ok(all[all.len().saturating_sub(lines)..].join("\n"))
    }

    /// Whether it was crashed and not started since.
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.home().join("crashed").exists()
    }

    pub(super) fn mark_crashed(&self) -> Result<()> {
        self.id()?;
        fs::write(self.home().join("crashed"), "").context("cannot mark the node as crashed")
    }

    pub(super) fn clear_crash(&self) -> Result<()> {
        match fs::remove_file(self.home().join("crashed")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("cannot clear the crash")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn slot(&self) -> Result<u8> {
        topology::slot(self.lab.spec(), &self.name)
    }

    pub(super) fn home(&self) -> PathBuf {
        self.lab.dir().join(&self.name)
    }
}
