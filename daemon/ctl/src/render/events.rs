//! `ringbeat events`: a line for each, the same fields in the same order, the free text last.
//!
//! The time by the wall clock, the kernel's stamp in ms since boot, what, of whom; then `key=value`. There is no header
//! and no alignment, as a line that is followed knows nothing of those to come.

use ringbeat_control::EventRecord;

use crate::table::{Paint, Tone, one_line};

pub(crate) fn events(records: &[EventRecord], paint: Paint) -> String {
    records.iter().map(|record| event(record, paint)).collect()
}

pub(crate) fn event(record: &EventRecord, paint: Paint) -> String {
    let evidence = &record.evidence;
    let before = |then_ns: u64| match then_ns {
        0 => "-".to_owned(),
        _ => ms(record.stamp_ns.saturating_sub(then_ns)),
    };
    let link = record.link.map_or_else(|| "-".to_owned(), |link| link.to_string());
    format!(
        "{wall} {stamp} {kind} {node} link={link} seq={seq} verdict_to_told_us={told} heard_ms={heard} \
         unanswered_ms={unanswered} credit_ms={credit} daemon_age_us={age} by={by} incarnation={incarnation} \
         view={view} address={address} text={text}\n",
        wall = one_line(&record.wall),
        stamp = ms(record.stamp_ns),
        kind = paint.apply(tone(&record.kind), &one_line(&record.kind)),
        node = one_line(record.node.as_deref().unwrap_or_default()),
        seq = record.seq,
        told = record.told_ns.saturating_sub(record.stamp_ns) / 1000,
        heard = before(evidence.heard_ns),
        unanswered = before(evidence.unanswered_ns),
        credit = ms(evidence.credit_ns),
        age = evidence.daemon_age_us,
        by = if evidence.by_timer { "timer" } else { "frame" },
        incarnation = one_line(record.incarnation.as_deref().unwrap_or_default()),
        view = one_line(record.view.as_deref().unwrap_or_default()),
        address = one_line(record.address.as_deref().unwrap_or_default()),
        text = one_line(record.text.as_deref().unwrap_or_default()),
    )
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

    #[test]
    fn golden() {
        assert_golden("events.txt", &events(&samples::events(), Paint::Plain));
    }

    #[test]
    fn a_hostile_text_stays_on_its_line() {
        let mut record = samples::events().remove(0);
        record.text = Some("a\nb\x1b[2J".to_owned());
        let line = event(&record, Paint::Plain);
        assert!(line.ends_with(" text=a b [2J\n"), "{line:?}");
        assert!(event(&record, Paint::Colour).contains(" \x1b[31mpeer_down\x1b[0m n3 "));
    }
}
