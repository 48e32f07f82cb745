//! What has happened: a bounded list for those who ask, and the same as it comes for those who follow.

use std::collections::VecDeque;
use std::sync::Arc;

use ringbeat_control::EventRecord;
use tokio::sync::broadcast;

use crate::control::LAG_MAX;
use crate::sys::clock::wall_ns;

/// Events that are kept.
const KEPT_MAX: usize = 10_000;

/// The daemon's events.
pub struct Journal {
    kept: VecDeque<Arc<EventRecord>>,
    news: broadcast::Sender<Arc<EventRecord>>,
    told: u64,
}

impl Default for Journal {
    /// An empty one.
    fn default() -> Self {
        Self { kept: VecDeque::new(), news: broadcast::channel(LAG_MAX).0, told: 0 }
    }
}

impl Journal {
    /// Where followers listen.
    pub fn news(&self) -> broadcast::Sender<Arc<EventRecord>> {
        self.news.clone()
    }

    /// Tells an event: numbers it, keeps it, hands it to those who follow.
    pub fn tell(&mut self, mut event: EventRecord) {
        self.told += 1;
        event.seq = self.told;
        event.wall = rfc3339(wall_ns());
        let event = Arc::new(event);
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::clone(&event));
        // Nobody may be following.
        let _ = self.news.send(event);
    }

    /// Events after `since`, the newest `limit` of them.
    pub fn kept(&self, since: Option<u64>, limit: Option<u32>) -> Vec<EventRecord> {
        let after = self.kept.iter().filter(|event| since.is_none_or(|since| event.seq > since));
        let skip = limit.map_or(0, |limit| after.clone().count().saturating_sub(limit as usize));
        after.skip(skip).map(|event| (**event).clone()).collect()
    }

    /// Events told so far.
    pub const fn told(&self) -> u64 {
        self.told
    }
}

/// A time as RFC 3339 writes it, in UTC, to the millisecond. The days by Hinnant's civil-from-days.
fn rfc3339(wall_ns: u64) -> String {
    let (seconds, ms) = (wall_ns / 1_000_000_000, wall_ns / 1_000_000 % 1000);
    let (days, of_day) = (seconds / 86400, seconds % 86400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbeat_control::Evidence;

    fn event(kind: &str) -> EventRecord {
        EventRecord {
            seq: 0,
            stamp_ns: 0,
            told_ns: 0,
            wall: String::new(),
            kind: kind.to_owned(),
            node: None,
            node_id: None,
            link: None,
            incarnation: None,
            view: None,
            address: None,
            evidence: Evidence::default(),
            text: None,
        }
    }

    #[test]
    fn days_are_right() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_123_000_000), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(1_767_225_599_999_000_000), "2025-12-31T23:59:59.999Z");
    }

    #[test]
    fn keeps_the_newest() {
        let mut journal = Journal::default();
        for _ in 0..KEPT_MAX + 5 {
            journal.tell(event("peer_up"));
        }
        let all = journal.kept(None, None);
        assert_eq!((all.len(), all[0].seq), (KEPT_MAX, 6));
        let last: Vec<u64> = journal.kept(Some(10_000), Some(3)).iter().map(|event| event.seq).collect();
        assert_eq!(last, [10_003, 10_004, 10_005]);
    }
}
