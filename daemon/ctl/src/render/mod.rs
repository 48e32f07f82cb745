//! Values into text, purely: one module for each answer, checked against `tests/golden`.

mod config;
mod events;
mod handover;
mod links;
mod peers;
#[cfg(test)]
mod samples;
mod stats;
mod status;

pub(crate) use config::config;
pub(crate) use events::{event, events};
pub(crate) use handover::handover;
pub(crate) use links::links;
pub(crate) use peers::peers;
pub(crate) use stats::stats;
pub(crate) use status::status;

/// Compares with a file of `tests/golden`; with `BLESS` set, writes it instead.
#[cfg(test)]
fn assert_golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).expect("a golden file is written");
    }
    let golden = std::fs::read_to_string(&path).expect("a golden file");
    assert!(text == golden, "{name} differs; it should be\n{golden}\nand is\n{text}");
}
