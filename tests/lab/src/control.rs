//! The daemon's control socket from outside of its node: lines of JSON, taken as they come.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::sys::clock::boottime_ns;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One line of a stream, with the boot-time stamp of its arrival here.
#[derive(Debug, Clone)]
pub struct Line {
    /// When this process had read it.
    pub seen_ns: u64,
    /// What it says.
    pub value: Value,
}

/// Sends one request and reads one answer.
pub fn request(socket: &Path, request: &Value) -> Result<Value> {
    let stream = send(socket, request)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).context("no answer")? == 0 {
        bail!("closed without an answer");
    }
    serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
}

/// Sends one request and reads answers, on a thread of their own, until the stream or the receiver ends.
///
/// The request is on its way when this returns; the first line says when it is in force.
pub fn follow(socket: &Path, request: &Value) -> Result<Receiver<Line>> {
    let stream = send(socket, request)?;
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().name("lab-follow".to_owned()).spawn(move || {
        for line in BufReader::new(stream).lines() {
            let seen_ns = boottime_ns();
            let Ok(line) = line else { return };
            // A last line that a killed daemon cut short is no answer.
            let Ok(value) = serde_json::from_str(&line) else { return };
            if sender.send(Line { seen_ns, value }).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn send(socket: &Path, request: &Value) -> Result<UnixStream> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(stream)
}
