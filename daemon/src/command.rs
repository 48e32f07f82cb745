//! The daemon's command line: reads the configuration, starts, runs until it is told to stop.
//!
//! It stays in the foreground and logs to standard error, for systemd to keep.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::exit::Exit;
use crate::sys::realtime;
use crate::{runtime, start};

/// The Ringbeat daemon.
///
/// Exit codes:
///   0  stopped
///   1  failed while running
///   4  configuration refused
///   5  already running
///   6  no such interface or address
///   7  state folder not usable
///   8  pins of another version in the way
///   9  forced datapath not to be had
///  64  usage
#[derive(Parser)]
#[command(name = "ringbeatd", version, verbatim_doc_comment)]
struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = ringbeat_config::CONFIG_PATH)]
    config: PathBuf,
    /// Remove the pins of this cluster and go: the node falls silent.
    #[arg(long)]
    clear_pins: bool,
}

/// Reads the arguments, starts, runs until told to stop.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { 0 });
        }
    };
    realtime::prepare_heaps();
    let (log, _flushed_at_the_end) = tracing_appender::non_blocking(std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("RINGBEAT_LOG").unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(log)
        .with_ansi(false)
        .init();
    let ended = if arguments.clear_pins {
        start::clear_pins(&arguments.config)
    } else {
        start::start(&arguments.config).and_then(runtime::run)
    };
    match ended {
        Ok(()) => ExitCode::from(Exit::Stopped as u8),
        Err(refusal) => {
            tracing::error!("{}", refusal.message);
            ExitCode::from(refusal.exit as u8)
        }
    }
}
