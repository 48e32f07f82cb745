//! `ringbeatd-lab`: the daemon with a clock that a lab has set wrong, and never to be installed.
//!
//! `RINGBEAT_LAB_CLOCK=OFFSET_NS:RATE_PPM` makes its clock, and that of its kernel programs, the boot-time clock plus so
//! many parts in a million of it plus the offset. The lease's proof allows for 11 % of drift; here it is tried.

use std::process::ExitCode;

use ringbeat_common::clock::rate_of_ppm;
use ringbeatd::sys::clock::skew;

fn main() -> ExitCode {
    if let Ok(text) = std::env::var("RINGBEAT_LAB_CLOCK") {
        let parts = text
            .split_once(':')
            .and_then(|(offset, rate)| Some((offset.parse::<i64>().ok()?, rate.parse::<i32>().ok()?)));
        let Some((offset_ns, rate_ppm)) = parts else {
            eprintln!("RINGBEAT_LAB_CLOCK={text:?} is not OFFSET_NS:RATE_PPM");
            return ExitCode::FAILURE;
        };
        skew(rate_of_ppm(rate_ppm), offset_ns.cast_unsigned());
    }
    ringbeatd::command::run()
}
