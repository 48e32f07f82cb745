//! The `ringbeat` command: asks the daemon, checks the configuration, makes keys.
//!
//! The daemon hands out values, here they become text; `-o json` prints them as they come. The way through:
//! `arguments` (what is wanted) → `verbs` (ask for it) → `render` (one module for each answer, pure) → `output`. What
//! goes wrong is a `failure`, and each failure has one `exit` code.
//!
//! Deliberately not here: any decision, any access to kernel or network, and any state.

#![forbid(unsafe_code)]

mod arguments;
mod cpg;
mod exit;
mod failure;
mod output;
mod render;
mod table;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;
use crate::exit::Exit;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody left to read it is no reason for another code.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Fine }.into();
        }
    };
    match verbs::run(&arguments) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::report(&failure, arguments.output);
            failure.exit().into()
        }
    }
}
