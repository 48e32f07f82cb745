//! What the command does, a function for each verb.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use ringbeat_config::{AuthKey, CONFIG_BYTES_MAX, Config, KEY_BYTES_MADE};
use ringbeat_control::{Client, SOCKET_PATH};
use serde_json::json;

use crate::arguments::{Arguments, ConfigVerb, FOLLOW_FIRST, Verb};
use crate::cpg;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::render;

/// Does what is asked for.
pub(crate) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let output = Output::new(arguments.output);
    if let Verb::Status = &arguments.verb {
        return status(arguments, output);
    }
    if let Verb::Cpg { verb } = &arguments.verb {
        let socket = ringbeat_client::socket_beside(&control_socket(arguments));
        return Ok(if cpg::run(&socket, output, verb)? { Exit::Fine } else { Exit::Error });
    }
    carry_out(arguments, output).map(|()| Exit::Fine)
}

/// The daemon on one page; whether the cluster is quorate is the exit code.
fn status(arguments: &Arguments, output: Output) -> Result<Exit, Failure> {
    let status = connect(arguments)?.status()?;
    output.value(&status, render::status)?;
    Ok(if status.quorate { Exit::Fine } else { Exit::NotQuorate })
}

fn carry_out(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    match &arguments.verb {
        // They have exit codes of their own.
        Verb::Status | Verb::Cpg { .. } => Ok(()),
        Verb::Link { id } => links(arguments, output, *id),
        Verb::Peers => output.value(connect(arguments)?.peers()?.as_slice(), render::peers),
        Verb::Events { follow: false, since, limit } => {
            output.value(connect(arguments)?.events(*since, *limit)?.as_slice(), render::events)
        }
        Verb::Events { follow: true, since, limit } => follow(arguments, output, *since, *limit),
        Verb::Stats => output.value(&connect(arguments)?.stats()?, render::stats),
        Verb::Handover { ms } => output.value(&connect(arguments)?.handover(*ms)?, render::handover),
        Verb::Config { verb: ConfigVerb::Check { file } } => {
            check(output, file.as_deref().unwrap_or(&arguments.config))
        }
        Verb::Config { verb: ConfigVerb::Example } => output.raw(Config::example().as_bytes()),
        Verb::Keygen { path } => keygen(output, path),
        Verb::Completions { shell } => completions(output, *shell),
    }
}

fn connect(arguments: &Arguments) -> Result<Client, Failure> {
    Ok(Client::connect(&control_socket(arguments))?)
}

fn control_socket(arguments: &Arguments) -> PathBuf {
    let path = arguments.socket.clone().or_else(|| configured_socket(&arguments.config));
    path.unwrap_or_else(|| PathBuf::from(SOCKET_PATH))
}

/// The socket that the configuration names. A configuration that cannot be read or is refused says nothing: the daemon
/// may run on an older one, and is asked where it usually is.
fn configured_socket(path: &Path) -> Option<PathBuf> {
    let mut text = String::new();
    File::open(path).ok()?.take(CONFIG_BYTES_MAX as u64 + 1).read_to_string(&mut text).ok()?;
    let config = Config::parse(&text, &path.to_string_lossy(), hostname().as_deref()).ok()?;
    Some(config.cluster().control().to_owned())
}

fn hostname() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().map(str::to_owned)
}

fn links(arguments: &Arguments, output: Output, id: Option<u8>) -> Result<(), Failure> {
    let mut links = connect(arguments)?.link()?;
    if let Some(id) = id {
        let known = links.iter().map(|link| link.id).collect::<Vec<_>>();
        links.retain(|link| link.id == id);
        if links.is_empty() {
            return Err(Failure::NoSuchLink { id, known });
        }
    }
    output.value(links.as_slice(), render::links)
}

fn follow(
    arguments: &Arguments,
    output: Output,
    since: Option<u64>,
    limit: Option<u32>,
) -> Result<(), Failure> {
    let limit = limit.or_else(|| since.is_none().then_some(FOLLOW_FIRST));
    for event in connect(arguments)?.follow(since, limit)? {
        output.line(&event?, render::event)?;
    }
    Err(Failure::StreamEnded)
}

fn check(output: Output, path: &Path) -> Result<(), Failure> {
    let config = Config::load(path, hostname().as_deref())?;
    output.value(&config, |config, _| render::config(config, path))
}

fn keygen(output: Output, path: &Path) -> Result<(), Failure> {
    AuthKey::generate(path)?;
    output.value(&json!({ "path": path, "bytes": KEY_BYTES_MADE, "mode": "0400" }), |_, _| {
        format!("{}: made, {KEY_BYTES_MADE} bytes, mode 0400; copy it to every node\n", path.display())
    })
}

fn completions(output: Output, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ringbeat", &mut script);
    output.raw(&script)
}
