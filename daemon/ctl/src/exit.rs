//! The exit codes, in one place; the help is made of this.

use std::fmt::Write;
use std::process::ExitCode;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Fine = 0,
    /// It is not, and the message says why.
    Error = 1,
    /// `status` was asked, and the installed view has no quorum.
    NotQuorate = 2,
    /// No daemon answered.
    Unreachable = 3,
    /// The configuration is refused.
    BadConfig = 4,
    /// The command line is not understood (EX_USAGE of sysexits.h).
    Usage = 64,
}

impl Exit {
    const ALL: [Self; 6] =
        [Self::Fine, Self::Error, Self::NotQuorate, Self::Unreachable, Self::BadConfig, Self::Usage];

    const fn meaning(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Error => "an error; the message says which",
            Self::NotQuorate => "status only: not quorate",
            Self::Unreachable => "no daemon answered",
            Self::BadConfig => "the configuration is refused",
            Self::Usage => "the command line is not understood",
        }
    }

    /// The chapter of the help.
    pub(crate) fn chapter() -> String {
        let mut chapter = "Exit codes:".to_owned();
        for exit in Self::ALL {
            // Writing to a string does not fail.
            let _ = write!(chapter, "\n  {:>2}  {}", exit as u8, exit.meaning());
        }
        chapter
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
