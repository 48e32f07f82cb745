//! How the daemon ends, as a number that a unit file or a script can act on.

/// Exit codes of `ringbeatd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was asked to stop.
    Stopped = 0,
    /// Something failed while running.
    Failed = 1,
    /// The configuration or the key was refused; no interface was touched.
    Configuration = 4,
    /// Another daemon holds the lock.
    Running = 5,
    /// An interface or an address of the configuration is not there.
    Interface = 6,
    /// The state folder is not usable; running without a durable incarnation is not safe.
    State = 7,
    /// Pinned maps of another version, or not ours, stand in the way.
    Pins = 8,
    /// The forced datapath cannot be had.
    Datapath = 9,
    /// Wrong usage, as sysexits(3) has it.
    Usage = 64,
}

/// Why the daemon does not start: the code and what to say.
#[derive(Debug)]
pub struct Refusal {
    /// The code.
    pub exit: Exit,
    /// What, where, and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal with the causes of an error in one line.
    pub fn new(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self { exit, message: crate::plane::load::chain(error) }
    }

    /// A refusal in words.
    pub fn because(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}
