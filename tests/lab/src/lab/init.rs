//! Process 1 of a node: it makes the namespaces a home, says so, and then only buries the dead.
//!
//! The tool starts it in fresh namespaces and holds its standard input: it waits there until its pid is on
//! record, so a tool that is killed too early leaves nothing behind. Its death ends all that runs in the
//! node.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_move,
};

use super::{state, topology};
use crate::sys::{
    process::{ProcessId, in_own_session, reap_forever},
    spaces,
};

const GO: &str = "go";
const READY: &str = "ready";

/// A process 1 that has been started, and does not live on before its `go`.
pub(super) struct Waiting {
    name: String,
    pub(super) id: ProcessId,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// Starts process 1 of `name` in fresh namespaces and puts it on record.
pub(super) fn spawn(dir: &Path, name: &str) -> Result<Waiting> {
    let home = dir.join(name);
    for folder in [home.join("etc"), home.join("var"), dir.join("log")] {
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(dir.join(format!("log/{name}.init.log")))?;
    let mut command = Command::new(state::program("ringbeat-lab")?);
    command.arg("node-init").arg(name).arg(&home);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = spaces::fresh(|| in_own_session(&mut command).spawn())
        .with_context(|| format!("cannot make namespaces for {name}: are you root?"))?
        .with_context(|| format!("cannot start process 1 of {name}"))?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("process 1 of {name} has no pipes");
    };
    let id = ProcessId::of(child.id())?;
    state::save(&home.join("init.json"), &id)?;
    Ok(Waiting { name: name.to_owned(), id, stdin, stdout: BufReader::new(stdout) })
}

/// Lets all of them go on, and waits until each has made its home.
pub(super) fn release(mut waiting: Vec<Waiting>) -> Result<()> {
    for init in &mut waiting {
        writeln!(init.stdin, "{GO}").with_context(|| format!("process 1 of {} is gone", init.name))?;
    }
    for init in &mut waiting {
        let mut answer = String::new();
        init.stdout.read_line(&mut answer)?;
        if answer.trim() != READY {
            bail!("process 1 of {}: {}", init.name, answer.trim());
        }
    }
    Ok(())
}

/// The body of the hidden subcommand `node-init`. Returns only if it fails, or if nobody says go.
pub fn init_main(name: &str, home: &Path) -> Result<()> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.trim() != GO {
        return Ok(());
    }
    if let Err(error) = settle(name, home) {
        println!("{error:#}");
        return Err(error);
    }
    println!("{READY}");
    // The tool may be gone already, and its terminal soon.
    let null: OwnedFd = OpenOptions::new().read(true).write(true).open("/dev/null")?.into();
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    reap_forever()
}

fn settle(name: &str, home: &Path) -> Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot make the mounts private")?;
    rustix::system::sethostname(name.as_bytes()).context("cannot set the hostname")?;

    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", quiet, None).context("cannot mount /proc")?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755")
        .context("cannot mount /run")?;

    // A fresh /sys shows the interfaces of this namespace. The control groups move over from the old one.
    let groups = Path::new("/run/cgroup");
    fs::create_dir(groups)?;
    mount_bind_recursive("/sys/fs/cgroup", groups).context("cannot keep the control groups")?;
    mount("sysfs", "/sys", "sysfs", quiet, None).context("cannot mount /sys")?;
    mount_move(groups, "/sys/fs/cgroup").context("cannot move the control groups")?;
    fs::remove_dir(groups)?;
    mount("bpf", "/sys/fs/bpf", "bpf", quiet, c"mode=700").context("cannot mount /sys/fs/bpf")?;

    for (folder, place) in [("etc", "/etc/ringbeat"), ("var", "/var/lib/ringbeat")] {
        // The empty folder is made on the machine itself, where it is missing: a bind needs a place.
        fs::create_dir_all(place).with_context(|| format!("cannot create {place}"))?;
        mount_bind(home.join(folder), place).with_context(|| format!("cannot bind {place}"))?;
    }
    sysctls(name)
}

/// Set before there are interfaces, so that each of them inherits it.
fn sysctls(name: &str) -> Result<()> {
    let ipv6: &[_] = if name == topology::SWITCH {
        &[("disable_ipv6", "1")]
    } else {
        // Addresses are there at once, stay when an interface goes down, and come from nowhere else.
        &[("accept_dad", "0"), ("keep_addr_on_down", "1"), ("accept_ra", "0"), ("router_solicitations", "0")]
    };
    let base = PathBuf::from("/proc/sys/net/ipv6/conf");
    if !base.exists() {
        return Ok(());
    }
    for scope in ["all", "default"] {
        for (key, value) in ipv6 {
            let path = base.join(scope).join(key);
            File::options()
                .write(true)
                .open(&path)
                .and_then(|mut file| file.write_all(value.as_bytes()))
                .with_context(|| format!("cannot set {}", path.display()))?;
        }
    }
    Ok(())
}
