//! The gate of a cgroup, attached for real: a child process in it sends and receives over loopback.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use aya::maps::{HashMap, MapData};
use ringbeat_common::maps::latch;
use ringbeatd::plane::load::chain;
use ringbeatd::sys::clock::boot_ns;

use crate::{Gates, LONG_US};

/// The gate of the cgroup.
const GATE: usize = 5;
/// Tells a process that it is the child, and where its parent listens.
const PARENT: &str = "RINGBEAT_GATES_PARENT";
/// What comes over loopback is there at once.
const PATIENCE: Duration = Duration::from_millis(100);

/// A cgroup of the test's own.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = mounts.find(|mount| mount.get(2) == Some(&"cgroup2"))?;
        let path = Path::new(root[1]).join(format!("ringbeat-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A process in a cgroup, with a socket that was made there.
struct Inside {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    own: UdpSocket,
    port: u16,
}

impl Inside {
    fn new(cgroup: &Cgroup) -> Self {
        let own = UdpSocket::bind("127.0.0.1:0").expect("bound");
        own.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut child = Command::new(std::env::current_exe().expect("a program"))
            .args(["--exact", "cgroup::the_process_in_the_cgroup", "--nocapture"])
            .env(PARENT, own.local_addr().expect("an address").to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        fs::write(cgroup.0.join("cgroup.procs"), child.id().to_string()).expect("moved");
        let said = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut inside = Self { child, said, own, port: 0 };
        inside.port = inside.ask("bind").parse().expect("a port");
        inside
    }

    /// Has the child do something; gives what it says of it.
    fn ask(&mut self, what: &str) -> String {
        writeln!(self.child.stdin.as_mut().expect("piped"), "{what}").expect("asked");
        let lines = self.said.by_ref().map(|line| line.expect("a line"));
        let mut answers =
            lines.filter_map(|line| line.split_once("child: ").map(|(_, said)| said.to_owned()));
        answers.next().expect("an answer")
    }

    /// Whether a packet leaves, and whether one comes in.
    fn passes(&mut self) -> (bool, bool) {
        let sent = self.ask("send") == "sent";
        let left = self.own.recv(&mut [0; 8]).is_ok();
        assert_eq!(sent, left, "what is dropped is refused to the sender");
        self.own.send_to(b"in", ("127.0.0.1", self.port)).expect("sent");
        (left, self.ask("receive") == "received")
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_leased_service_passes_while_its_lease_lasts() {
    let Some(mut gates) = Gates::new() else { return };
    let (Some(leased), Some(other)) = (Cgroup::new("leased"), Cgroup::new("other")) else {
        return crate::common::skipped("no cgroup v2");
    };
    let mut cgroups: HashMap<MapData, u64, u64> =
        HashMap::try_from(gates.loaded.take("CGROUPS").expect("a map")).expect("a hash map");
    for cgroup in [&leased, &other] {
        let folder = File::open(&cgroup.0).expect("a cgroup");
        gates.loaded.attach_cgroup_gate(&folder).unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
    let (mut inside, mut beside) = (Inside::new(&leased), Inside::new(&other));
    let (open, closed) = ((true, true), (false, false));
    assert_eq!(inside.passes(), open, "not leased yet");
    // Its id is the number of its folder.
    let id = fs::metadata(&leased.0).expect("a cgroup").ino();
    cgroups.insert(id, GATE as u64, 0).expect("inserted");
    let mut expect = |passes: (bool, bool), when: &str| {
        assert_eq!(inside.passes(), passes, "{when}");
        assert_eq!(beside.passes(), open, "{when}: what is not leased passes");
    };
    expect(closed, "no view");
    gates.hold(0, LONG_US);
    expect(closed, "granted, and not owned");
    gates.hold(1 << GATE, LONG_US);
    expect(open, "held");
    gates.set_latch(latch::GONE, 0);
    expect(closed, "the daemon is gone");
    gates.set_latch(latch::ALIVE, 0);
    // Else the longer lease would be carried over.
    gates.cells().release();
    let until_ns = gates.hold(1 << GATE, 2_000_000);
    expect(open, "held for a time");
    while boot_ns() < until_ns {
        std::thread::sleep(Duration::from_millis(10));
    }
    expect(closed, "run out");
    let log = gates.logs.copy(GATE);
    assert_eq!(log.dropped, 8, "out and in, four times: {log:?}");
    assert!(log.passed >= 4, "{log:?}");
}

/// The process that the test above puts into a cgroup; by itself it has nothing to do.
#[test]
fn the_process_in_the_cgroup() {
    let Ok(parent) = std::env::var(PARENT) else { return };
    let mut socket = None;
    for line in std::io::stdin().lines() {
        let asked = line.expect("a line");
        // After it was moved: a socket is of the cgroup in which it was made.
        let socket = socket.get_or_insert_with(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
            socket.set_read_timeout(Some(PATIENCE)).expect("set");
            socket
        });
        let said = match asked.as_str() {
            "bind" => socket.local_addr().expect("an address").port().to_string(),
            "send" => match socket.send_to(b"out", &parent) {
                Ok(_) => "sent".to_owned(),
                Err(error) => format!("refused: {error}"),
            },
            _ => if socket.recv(&mut [0; 8]).is_ok() { "received" } else { "nothing" }.to_owned(),
        };
        println!("child: {said}");
        std::io::stdout().flush().expect("said");
    }
}
