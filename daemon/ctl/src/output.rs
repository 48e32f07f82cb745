//! The only place that prints.

use std::io::{self, IsTerminal, Write};

use miette::{GraphicalReportHandler, GraphicalTheme};
use serde::Serialize;

use crate::arguments::Format;
use crate::failure::Failure;
use crate::table::{Paint, Screen};

/// Columns that a diagnostic is wrapped at.
const DIAGNOSTIC_WIDTH: usize = 110;

/// What is asked for goes to the standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
    screen: Screen,
}

impl Output {
    /// To the standard output, in colour and no wider than it is if that is a terminal.
    pub(crate) fn new(format: Format) -> Self {
        let paint = if wants_colour(&io::stdout()) { Paint::Colour } else { Paint::Plain };
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        // A serial console may say 0: it does not know.
        let columns = size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
        Self { format, screen: Screen { paint, columns } }
    }

    /// Prints one value: a document for machines, the rendered text for people.
    pub(crate) fn value<T: Serialize + ?Sized>(
        self,
        value: &T,
        render: impl FnOnce(&T, Screen) -> String,
    ) -> Result<(), Failure> {
        let document = match self.format {
            Format::Json => serde_json::to_string_pretty(value).map_err(io::Error::from)? + "\n",
            Format::Text => render(value, self.screen),
        };
        self.raw(document.as_bytes())
    }

    /// Prints one value of a stream, on one line.
    pub(crate) fn line<T: Serialize + ?Sized>(
        self,
        value: &T,
        render: impl FnOnce(&T, Screen) -> String,
    ) -> Result<(), Failure> {
        let line = match self.format {
            Format::Json => serde_json::to_string(value).map_err(io::Error::from)? + "\n",
            Format::Text => render(value, self.screen),
        };
        self.raw(line.as_bytes())
    }

    /// Prints bytes that have one form only.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }
}

/// Tells of a failure: in JSON where the answer would have been, else in words on the standard error.
pub(crate) fn report(failure: &Failure, format: Format) {
    if matches!(failure, Failure::ReaderGone) {
        return;
    }
    // There is nobody left to tell that this cannot be written.
    let _ = match format {
        Format::Json => {
            let document = serde_json::json!({ "error": failure.report() });
            writeln!(io::stdout(), "{document}")
        }
        Format::Text => io::stderr().write_all(in_words(failure).as_bytes()),
    };
}

fn in_words(failure: &Failure) -> String {
    if let Failure::Config(error) = failure {
        let colour = wants_colour(&io::stderr());
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(DIAGNOSTIC_WIDTH);
        let mut text = String::new();
        if handler.render_report(&mut text, error.as_ref()).is_ok() {
            return text;
        }
    }
    let mut text = format!("ringbeat: {}\n", failure.message());
    if let Some(help) = failure.help() {
        text.push_str(&format!("  help: {help}\n"));
    }
    text
}

fn wants_colour(stream: &impl IsTerminal) -> bool {
    // https://no-color.org: set and not empty.
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
