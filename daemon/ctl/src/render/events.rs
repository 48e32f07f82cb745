//! `ringbeat events`: a line for each, the same fields in the same order, the free text last.
//!
//! The time by the wall clock, the kernel's stamp in ms since boot, what, of whom; then `key=value`. There is no header
//! and no alignment, as a line that is followed knows nothing of those to come. On a terminal, fields that say nothing are
//! left out, and what is too long is folded.

use ringbeat_control::{EventRecord, Evidence};

use crate::table::{Screen, Tone, fold, one_line};

pub(crate) fn events(records: &[EventRecord], screen: Screen) -> String {
    records.iter().map(|record| event(record, screen)).collect()
}

pub(crate) fn event(record: &EventRecord, screen: Screen) -> String {
    let kind = one_line(&record.kind);
    let painted = screen.paint.apply(tone(&record.kind), &kind);
    let plain = |word: String| (word.clone(), word);
    let node = one_line(record.node.as_deref().unwrap_or_default());
    let mut words =
        vec![plain(one_line(&record.wall)), plain(ms(record.stamp_ns)), (kind, painted), plain(node)];
    let fields = fields(record).into_iter().map(|(key, value)| format!("{key}={}", one_line(&value)));
    let Some(columns) = screen.columns else {
        words.extend(fields.map(plain));
        return fold(&words, usize::MAX);
    };
    let silent =
        |field: &str| field.ends_with("=-") || ["credit_ms=0.000", "daemon_age_us=0"].contains(&field);
    let telling = fields.filter(|field| !silent(field));
    words
        .extend(telling.flat_map(|field| field.split(' ').map(str::to_owned).collect::<Vec<_>>()).map(plain));
    fold(&words, columns)
}

fn fields(record: &EventRecord) -> [(&'static str, String); 12] {
    let evidence = &record.evidence;
    let before = |then_ns: u64| match then_ns {
        0 => "-".to_owned(),
        _ => ms(record.stamp_ns.saturating_sub(then_ns)),
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    [
        ("link", record.link.map_or_else(String::new, |link| link.to_string())),
        ("seq", record.seq.to_string()),
        ("verdict_to_told_us", (record.told_ns.saturating_sub(record.stamp_ns) / 1000).to_string()),
        ("heard_ms", before(evidence.heard_ns)),
        ("unanswered_ms", before(evidence.unanswered_ns)),
        ("credit_ms", ms(evidence.credit_ns)),
        ("daemon_age_us", evidence.daemon_age_us.to_string()),
        ("by", by(evidence).to_owned()),
        ("incarnation", text(&record.incarnation)),
        ("view", text(&record.view)),
        ("address", text(&record.address)),
        ("text", text(&record.text)),
    ]
}

/// What brought it; what the daemon tells of itself was brought by neither.
const fn by(evidence: &Evidence) -> &'static str {
    match evidence {
        Evidence { by_timer: true, .. } => "timer",
        Evidence { heard_ns: 0, unanswered_ns: 0, daemon_age_us: 0, .. } => "-",
        _ => "frame",
    }
}

/// The last word of a kind is the state that it leads to.
fn tone(kind: &str) -> Tone {
    Tone::of_state(kind.rsplit('_').next().unwrap_or(kind))
}

fn ms(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000, ns / 1000 % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{assert_golden, samples};
    use crate::table::Paint;

    #[test]
    fn golden() {
        assert_golden("events.txt", &events(&samples::events(), Screen::PIPE));
        let narrow = Screen { columns: Some(80), ..Screen::PIPE };
        assert_golden("events_80.txt", &events(&samples::events(), narrow));
    }

    #[test]
    fn a_hostile_text_stays_on_its_line() {
        let mut record = samples::events().remove(0);
        record.text = Some("a\nb\x1b[2J".to_owned());
        let line = event(&record, Screen::PIPE);
        assert!(line.ends_with(" text=a b [2J\n"), "{line:?}");
        let coloured = event(&record, Screen { paint: Paint::Colour, columns: None });
        assert!(coloured.contains(" \x1b[31mpeer_down\x1b[0m n3 "), "{coloured:?}");
    }
}
