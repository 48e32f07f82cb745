//! One table of timers for a machine: what is due, in the order in which it is due, and one next deadline.

use std::collections::{BTreeMap, BTreeSet};

/// The timers that run, by their keys.
#[derive(Clone, Debug)]
pub(crate) struct Timers<K> {
    due: BTreeMap<K, u64>,
    order: BTreeSet<(u64, K)>,
}

impl<K: Ord + Copy> Timers<K> {
    pub(crate) const fn new() -> Self {
        Self { due: BTreeMap::new(), order: BTreeSet::new() }
    }

    /// Starts a timer, or moves it.
    pub(crate) fn set(&mut self, key: K, due_ns: u64) {
        self.cancel(key);
        self.due.insert(key, due_ns);
        self.order.insert((due_ns, key));
    }

    pub(crate) fn cancel(&mut self, key: K) {
        if let Some(due_ns) = self.due.remove(&key) {
            self.order.remove(&(due_ns, key));
        }
    }

    pub(crate) fn is_set(&self, key: K) -> bool {
        self.due.contains_key(&key)
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<u64> {
        self.order.first().map(|(due_ns, _)| *due_ns)
    }

    /// Takes the first of those that are due.
    pub(crate) fn pop(&mut self, now_ns: u64) -> Option<K> {
        let (due_ns, key) = *self.order.first()?;
        if due_ns > now_ns {
            return None;
        }
        self.cancel(key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_the_order_of_their_times() {
        let mut timers = Timers::new();
        timers.set('a', 30);
        timers.set('b', 20);
        timers.set('c', 20);
        timers.set('a', 10);
        timers.cancel('c');
        assert!(timers.is_set('a') && !timers.is_set('c'));
        assert_eq!(timers.next(), Some(10));
        assert_eq!(timers.pop(9), None);
        assert_eq!(timers.pop(25), Some('a'));
        assert_eq!(timers.pop(25), Some('b'));
        assert_eq!(timers.pop(25), None);
        assert_eq!(timers.next(), None);
    }
}
