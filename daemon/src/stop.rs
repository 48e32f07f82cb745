//! The request to stop: SIGTERM and SIGINT, as something that the main loop asks for.
//!
//! Listening is the first thing of a start. A signal that comes before the main loop runs is kept for it: what the start
//! had opened is closed in order, and nothing is left over that would look like a daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// Whether this daemon was asked to stop.
pub struct Stop {
    asked: Arc<AtomicBool>,
}

impl Stop {
    /// From the return on neither signal ends the process by itself; each writes `wake`.
    pub fn listen(wake: Arc<OwnedFd>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut term, mut int) = {
            let _inside = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let asked = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&asked);
        std::thread::Builder::new().name("ringbeat-signal".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                    told.store(true, Ordering::Release);
                    let _ = rustix::io::write(&*wake, &1u64.to_ne_bytes());
                }
            });
        })?;
        Ok(Self { asked })
    }

    /// Whether it was asked since the last call.
    pub fn take(&self) -> bool {
        self.asked.swap(false, Ordering::AcqRel)
    }
}
