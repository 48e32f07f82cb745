//! `ringbeat status`: lines of `key: value`.

use ringbeat_control::{LeaseReport, RingReport, Status};

use crate::table::{Paint, Screen, Tone, one_line};

pub(crate) fn status(status: &Status, screen: Screen) -> String {
    let mut page = Page { text: String::new(), paint: screen.paint };
    page.plain("cluster", &status.cluster);
    page.plain("node", &status.node_name);
    page.plain("node_id", &status.node_id.to_string());
    let state = status.state.name();
    page.line("state", Tone::of_state(state), state);
    page.plain("version", &status.version);
    page.plain("uptime", &uptime(status.uptime_ms));
    page.plain("incarnation", &status.incarnation);
    page.plain("config_version", &status.config_version.to_string());
    page.plain("config_path", &status.config_path);
    page.share("links_up", status.links_up, status.links_total);
    page.share("peers_up", status.peers_up, status.peers_total);
    let (tone, quorate) = if status.quorate { (Tone::Good, "yes") } else { (Tone::Bad, "no") };
    page.line("quorate", tone, quorate);
    let votes = &status.votes;
    page.plain(
        "votes",
        &format!("{} present, {} for a quorum, {} in all", votes.present, votes.quorum, votes.total),
    );
    page.plain("view", &status.view.as_ref().map(ToString::to_string).unwrap_or_default());
    if let Some(announced) = &status.announced {
        page.line("announced", Tone::Warning, &announced.to_string());
    }
    let (tone, lease) = lease(&status.lease);
    page.line("lease", tone, &lease);
    let (tone, ring) = ring(&status.ring);
    page.line("ring", tone, &ring);
    for address in &status.addresses {
        let holder = address.holder.as_deref().unwrap_or("nobody");
        let mut text = format!(
            "{} on {}, held by {holder}, gate here {}",
            address.address, address.interface, address.here
        );
        let mut tone = if address.holder.is_some() { Tone::Good } else { Tone::Bad };
        if let Some(mac) = &address.conflict {
            (text, tone) = (format!("{text}, used by a stranger at {mac}"), Tone::Bad);
        }
        if let Some(error) = &address.error {
            text = format!("{text}, not to be served here: {error}");
            tone = if tone == Tone::Good { Tone::Warning } else { tone };
        }
        page.line("address", tone, &text);
    }
    let (tone, bpf) = match (status.bpf.compiled, &status.bpf.reason) {
        (true, None) => (Tone::Good, "compiled in".to_owned()),
        (true, Some(reason)) => (Tone::Warning, format!("compiled in, not used: {reason}")),
        (false, None) => (Tone::Warning, "not compiled in".to_owned()),
        (false, Some(reason)) => (Tone::Warning, format!("not compiled in: {reason}")),
    };
    page.line("bpf", tone, &bpf);
    let (tone, granted) =
        if status.realtime.granted { (Tone::Good, "granted") } else { (Tone::Warning, "not granted") };
    page.line("realtime", tone, granted);
    page.plain("probe_thread", &status.realtime.probe);
    page.plain("memory", &status.realtime.memory);
    page.plain("pins", status.pins.as_deref().unwrap_or_default());
    page.plain("adopted", status.adopted.as_deref().unwrap_or_default());
    for warning in &status.warnings {
        page.line("warning", Tone::Warning, warning);
    }
    page.text
}

/// How long the lease would last.
fn lease(lease: &LeaseReport) -> (Tone, String) {
    let ms =
        |us: i64| format!("{}{}.{:03} ms", if us < 0 { "-" } else { "" }, us.abs() / 1000, us.abs() % 1000);
    let (tone, mut text) = match (lease.valid, lease.margin_us) {
        (true, Some(margin)) => (Tone::Good, format!("valid for {}", ms(margin))),
        (true, None) => (Tone::Good, "valid by the own votes".to_owned()),
        (false, Some(margin)) => (Tone::Bad, format!("out since {}", ms(margin.saturating_neg()))),
        (false, None) => (Tone::Warning, "none".to_owned()),
    };
    if lease.lapses > 0 {
        let longest = ms(i64::try_from(lease.lapse_max_us).unwrap_or(i64::MAX));
        let times = if lease.lapses == 1 { "once".to_owned() } else { format!("{} times", lease.lapses) };
        text = format!("{text}, lapsed {times}, {longest} at the longest");
        if let Some(age_us) = lease.lapse_age_us {
            text = format!("{text}, the last {} ago", uptime(age_us / 1000));
        }
    }
    (tone, text)
}

/// Whether messages flow.
fn ring(ring: &RingReport) -> (Tone, String) {
    let tone = if ring.state == "operational" { Tone::Good } else { Tone::Warning };
    let (epoch, cipher, waiting) = (ring.epoch, &ring.cipher, ring.backlog);
    let mut text = format!("{}, view {epoch}, {cipher}, {waiting} messages wait", ring.state);
    if ring.lost > 0 {
        text = format!("{text}, token lost {} times", ring.lost);
    }
    (tone, text)
}

struct Page {
    text: String,
    paint: Paint,
}

impl Page {
    fn line(&mut self, key: &str, tone: Tone, value: &str) {
        let value = self.paint.apply(tone, &one_line(value));
        self.text.extend([key, ": ", &value, "\n"]);
    }

    fn plain(&mut self, key: &str, value: &str) {
        self.line(key, Tone::Plain, value);
    }

    fn share(&mut self, key: &str, part: u32, whole: u32) {
        let tone = match part {
            _ if part == whole => Tone::Good,
            0 => Tone::Bad,
            _ => Tone::Warning,
        };
        self.line(key, tone, &format!("{part} of {whole}"));
    }
}

/// The two largest units that are not 0 say enough; below a minute, tenths do.
fn uptime(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{}.{}s", seconds, ms / 100 % 10),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{assert_golden, samples};

    #[test]
    fn golden() {
        assert_golden("status.txt", &status(&samples::status(), Screen::PIPE));
        assert_golden("status_degraded.txt", &status(&samples::status_degraded(), Screen::PIPE));
    }

    #[test]
    fn colour_marks_what_is_wrong_and_nothing_else_changes() {
        let coloured = status(&samples::status_degraded(), Screen { paint: Paint::Colour, columns: None });
        assert!(coloured.contains("peers_up: \x1b[31m0 of 2\x1b[0m\n"), "{coloured:?}");
        let mut plain = coloured;
        for colour in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"] {
            plain = plain.replace(colour, "");
        }
        assert_eq!(plain, status(&samples::status_degraded(), Screen::PIPE));
    }

    #[test]
    fn uptimes() {
        for (ms, text) in [
            (0, "0.0s"),
            (59_999, "59.9s"),
            (60_000, "1m 0s"),
            (7_384_000, "2h 3m"),
            (90_000_000, "1d 1h"),
            (u64::MAX, "213503982334d 14h"),
        ] {
            assert_eq!(uptime(ms), text);
        }
    }
}
