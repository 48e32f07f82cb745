//! The command line; the help and the completions are made of this.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::cpg::CpgVerb;
use crate::exit::Exit;

/// Where the cluster's key is, unless told otherwise.
pub(crate) const KEY_PATH: &str = "/etc/ringbeat/authkey";
/// How many events a follower sees first, unless told otherwise.
pub(crate) const FOLLOW_FIRST: u32 = 10;

/// Asks the cluster's daemon on this node, checks the configuration, makes keys.
#[derive(Debug, Parser)]
#[command(name = "ringbeat", version, after_help = Exit::chapter(), arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// text, or json: the values as the daemon has them.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    pub(crate) output: Format,

    /// The daemon's control socket [default: that of the configuration].
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// The configuration file.
    #[arg(long, global = true, value_name = "PATH", default_value = ringbeat_config::CONFIG_PATH)]
    pub(crate) config: PathBuf,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// The daemon on one page: state, quorum, view, lease, addresses, rights.
    Status,
    /// The links, and each peer on each: round trips, losses, drops.
    Link {
        /// This link only.
        id: Option<u8>,
    },
    /// Every node as it is known here: its state, whom it hears, its view.
    Peers,
    /// What has happened, oldest first, with stamps and evidence.
    Events {
        /// Go on, line by line, as it happens.
        #[arg(short, long)]
        follow: bool,
        /// Only events after this sequence number.
        #[arg(short, long, value_name = "SEQ")]
        since: Option<u64>,
        /// Only the newest N; with -f those to begin with [default: all, or 10].
        #[arg(short = 'n', long = "lines", value_name = "N")]
        limit: Option<u32>,
    },
    /// Counters of the daemon and of the kernel's programs.
    Stats,
    /// Announces a planned restart of this node's daemon.
    ///
    /// The daemon may be away for so long, and its successor goes on as it was; to be restarted right after this.
    Handover {
        /// For how many ms, daemon_stall_ms at most.
        #[arg(long, default_value_t = 1000)]
        ms: u32,
    },
    /// Process groups: who is where, send, watch, measure, check.
    Cpg {
        #[command(subcommand)]
        verb: CpgVerb,
    },
    /// Checks the configuration file, or prints one to start from.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Makes the cluster's key; never overwrites one.
    ///
    /// 256 bytes of the kernel's randomness, mode 0400; to be copied to every node.
    Keygen {
        /// Where to.
        #[arg(long, default_value = KEY_PATH)]
        path: PathBuf,
    },
    /// Prints the completions for a shell.
    ///
    /// As in: ringbeat completions bash > /etc/bash_completion.d/ringbeat
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Reads the configuration as the daemon would, and explains what is wrong.
    Check {
        /// This file, and not that of --config.
        file: Option<PathBuf>,
    },
    /// Prints a commented configuration to start from.
    Example,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_agree_with_each_other() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_fits_a_terminal() {
        let mut command = Arguments::command();
        command.build();
        for verb in std::iter::once(&mut command.clone()).chain(command.get_subcommands_mut()) {
            let help = verb.render_help().to_string();
            let wide = help.lines().find(|line| line.chars().count() > 94);
            assert!(wide.is_none() && help.lines().count() < 40, "{help}");
        }
    }

    #[test]
    fn the_help_has_every_exit_code() {
        let help = Arguments::command().render_long_help().to_string();
        for line in ["   0  fine", "   3  no daemon answered", "  64  the command line"] {
            assert!(help.contains(line), "{help}");
        }
    }
}
