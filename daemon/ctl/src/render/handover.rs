//! An announced restart, as text.

use ringbeat_control::HandoverReport;

use crate::table::Screen;

/// One line.
pub(crate) fn handover(report: &HandoverReport, _screen: Screen) -> String {
    format!("handover: restart within {} ms; until_ns: {}\n", report.ms, report.until_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_line() {
        let text = handover(&HandoverReport { ms: 900, until_ns: 5 }, Screen::PIPE);
        assert_eq!(text, "handover: restart within 900 ms; until_ns: 5\n");
    }
}
