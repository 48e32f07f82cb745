//! `ringbeat stats`: a name and a number on each line, those of a link under `link.ID`.

use ringbeat_control::Stats;

use crate::table::Column::{Left, Right};
use crate::table::{Cell, Screen, Table};

pub(crate) fn stats(stats: &Stats, screen: Screen) -> String {
    let mut table = Table::new([Left("NAME"), Right("VALUE")]);
    let mut push = |name: String, value: Cell| table.push([Cell::from(name), value]);
    let count = |value: u64| Cell::from(value.to_string());
    for (name, value) in [
        ("ticks", count(stats.ticks)),
        ("tick_stalls", count(stats.tick_stalls)),
        ("tick_late_max_us", Cell::decimal(stats.tick_late_max_us, 1)),
        ("stalled_ms", Cell::decimal(stats.stalled_ms, 3)),
        ("credit_ms", Cell::decimal(stats.credit_ms, 3)),
        ("scan_us", Cell::decimal(stats.scan_us, 1)),
        ("events_lost", count(stats.events_lost)),
        ("events_told", count(stats.events_told)),
        ("rss_kib", count(stats.rss_kib)),
        ("loop_age_max_ms", Cell::decimal(stats.loop_age_max_ms, 3)),
        ("probes_sent", count(stats.probes_sent)),
        ("answers", count(stats.answers)),
        ("probes_answered", count(stats.probes_answered)),
        ("unproven", count(stats.unproven)),
        ("dropped", count(stats.dropped)),
    ] {
        push(name.to_owned(), value);
    }
    let mut extra = stats.extra.iter().collect::<Vec<_>>();
    extra.sort_by_cached_key(|(name, _)| by_number(name));
    for (name, value) in extra {
        push(name.clone(), count(*value));
    }
    for link in &stats.links {
        for (name, value) in [
            ("probes_sent", link.probes_sent),
            ("answers", link.answers),
            ("probes_answered", link.probes_answered),
            ("unproven", link.unproven),
            ("dropped", link.dropped),
            ("send_errors", link.send_errors),
            ("beats_skipped", link.beats_skipped),
        ] {
            push(format!("link.{}.{name}", link.id), count(value));
        }
    }
    for gate in &stats.gates {
        for (name, value) in [
            ("passed", gate.passed),
            ("dropped", gate.dropped),
            ("first_pass_ns", gate.first_pass_ns),
            ("last_pass_ns", gate.last_pass_ns),
            ("opened_ns", gate.opened_ns),
            ("closed_ns", gate.closed_ns),
        ] {
            push(format!("gate.{}.{name}", gate.index), count(value));
        }
    }
    table.render(screen)
}

/// A key that sorts `over_5_ms` before `over_10_ms`.
fn by_number(name: &str) -> Vec<(u64, String)> {
    name.split('_').map(|word| (word.parse().unwrap_or(0), word.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{assert_golden, samples};

    #[test]
    fn golden() {
        assert_golden("stats.txt", &stats(&samples::stats(), Screen::PIPE));
    }
    #[test]
    fn numbers_in_names_are_sorted_as_numbers() {
        let mut stats = samples::stats();
        let names = ["silences_over_10_ms", "silences_over_5_ms", "messages_refused"];
        stats.extra = names.map(|name| (name.to_owned(), 0)).into();
        let text = super::stats(&stats, Screen::PIPE);
        let at = |name: &str| text.find(name).expect("a line of it");
        assert!(at(names[2]) < at(names[1]) && at(names[1]) < at(names[0]), "{text}");
    }
}
