//! `ringbeat link`: three tables, and the first word of a record says which it is of.

use ringbeat_control::{LinkReport, Quantiles};

use crate::table::Column::{Left, Right};
use crate::table::{Cell, Screen, Table};

pub(crate) fn links(links: &[LinkReport], screen: Screen) -> String {
    let tables = [link_table(links), edge_table(links), drop_table(links)];
    let tables = tables.iter().enumerate().filter(|(at, table)| *at == 0 || !table.is_empty());
    tables.map(|(_, table)| table.render(screen)).collect::<Vec<_>>().join("\n")
}

fn link_table(links: &[LinkReport]) -> Table {
    let mut table = Table::new([
        Left("RECORD"),
        Right("LINK"),
        Left("INTERFACE"),
        Right("IFINDEX"),
        Left("STATE"),
        Left("MODE"),
        Left("FORCED"),
        Left("ADDRESS"),
        Right("PORT"),
        Left("PROFILE"),
        Right("INTERVAL_US"),
        Right("COUNT"),
        Right("DEADLINE_US"),
        Right("LATE_P50_US"),
        Right("LATE_P99_US"),
        Right("LATE_MAX_US"),
        Right("SKIPPED"),
        Right("SEND_ERRORS"),
        Right("DROPS"),
        Left("NOTE"),
    ])
    .spare(&[
        "IFINDEX",
        "FORCED",
        "PORT",
        "COUNT",
        "INTERVAL_US",
        "LATE_P50_US",
        "SKIPPED",
        "LATE_MAX_US",
        "PROFILE",
        "ADDRESS",
        "LATE_P99_US",
        "DEADLINE_US",
    ]);
    for link in links {
        let [late_p50, late_p99, late_max] = cells(&link.probe_lateness_us);
        table.push([
            Cell::from("link"),
            Cell::from(link.id.to_string()),
            Cell::from(&link.interface),
            Cell::maybe((link.ifindex != 0).then_some(link.ifindex)),
            Cell::state(link.state.name()),
            Cell::from(link.mode.name()),
            Cell::from(if link.forced { "yes" } else { "no" }),
            Cell::from(&link.address),
            Cell::from(link.port.to_string()),
            Cell::from(&link.profile),
            Cell::from(link.interval_us.to_string()),
            Cell::from(link.count.to_string()),
            Cell::from(link.deadline_us.to_string()),
            late_p50,
            late_p99,
            late_max,
            Cell::from(link.beats_skipped.to_string()),
            Cell::from(link.send_errors.to_string()),
            Cell::from(link.drops.values().fold(0, |sum: u64, drops| sum.saturating_add(*drops)).to_string()),
            Cell::from(note(link)),
        ]);
    }
    table
}

/// What else is to be said of a link, in words.
fn note(link: &LinkReport) -> String {
    let reason = link.reason.as_ref().map(|reason| format!("{}: {reason}", link.state));
    let fallback = link.fallback.as_ref().map(|fallback| format!("fell back to {}: {fallback}", link.mode));
    reason.into_iter().chain(fallback).collect::<Vec<_>>().join("; ")
}

fn edge_table(links: &[LinkReport]) -> Table {
    let mut table = Table::new([
        Left("RECORD"),
        Right("LINK"),
        Right("PEER"),
        Left("NAME"),
        Left("STATE"),
        Right("RTT_P50_US"),
        Right("RTT_P99_US"),
        Right("RTT_MAX_US"),
        Right("JITTER_P50_US"),
        Right("JITTER_P99_US"),
        Right("JITTER_MAX_US"),
        Right("SENT"),
        Right("ANSWERED"),
        Right("LOST"),
        Right("LOSS_PERMILLE"),
        Right("HEARD_MS"),
    ])
    .spare(&[
        "JITTER_P50_US",
        "JITTER_MAX_US",
        "LOSS_PERMILLE",
        "ANSWERED",
        "JITTER_P99_US",
        "SENT",
        "PEER",
        "RTT_P50_US",
        "RTT_P99_US",
    ]);
    for (link, edge) in links.iter().flat_map(|link| link.peers.iter().map(move |edge| (link, edge))) {
        let [rtt_p50, rtt_p99, rtt_max] = cells(&edge.round_trip_us);
        let [jitter_p50, jitter_p99, jitter_max] = cells(&edge.jitter_us);
        table.push([
            Cell::from("edge"),
            Cell::from(link.id.to_string()),
            Cell::from(edge.id.to_string()),
            Cell::from(&edge.name),
            Cell::state(edge.state.name()),
            rtt_p50,
            rtt_p99,
            rtt_max,
            jitter_p50,
            jitter_p99,
            jitter_max,
            Cell::from(edge.sent.to_string()),
            Cell::from(edge.answered.to_string()),
            Cell::from(edge.lost.to_string()),
            Cell::maybe_decimal((edge.sent != 0).then_some(edge.loss_permille), 3),
            Cell::maybe_decimal(edge.heard_ms, 3),
        ]);
    }
    table
}

fn drop_table(links: &[LinkReport]) -> Table {
    let mut table = Table::new([Left("RECORD"), Right("LINK"), Left("REASON"), Right("FRAMES")]);
    for link in links {
        for (reason, frames) in link.drops.iter().filter(|(_, frames)| **frames != 0) {
            table.push([
                Cell::from("drop"),
                Cell::from(link.id.to_string()),
                Cell::from(reason),
                Cell::from(frames.to_string()),
            ]);
        }
    }
    table
}

fn cells(quantiles: &Quantiles) -> [Cell; 3] {
    let known = quantiles.count != 0;
    [quantiles.p50, quantiles.p99, quantiles.max].map(|us| Cell::maybe_decimal(known.then_some(us), 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{assert_golden, samples};

    #[test]
    fn golden() {
        assert_golden("link.txt", &links(&samples::links(), Screen::PIPE));
        let narrow = Screen { columns: Some(80), ..Screen::PIPE };
        assert_golden("link_80.txt", &links(&samples::links(), narrow));
    }

    #[test]
    fn without_peers_and_drops_there_are_no_tables_for_them() {
        let text = links(&[], Screen::PIPE);
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with("RECORD  LINK"), "{text}");
    }
}
