//! `ringbeatd`: see [`ringbeatd::command`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ringbeatd::command::run()
}
