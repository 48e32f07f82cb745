//! How much is said in clusters whose rows do not fit into one message.

use super::*;
use crate::limits::GOSSIP_NS;
use crate::membership::message::ROWS_MAX;

/// Peace costs no more than the gossip: each node to each other, its rows in parts.
fn peace(count: u8) {
    let mut cluster = Cluster::new(count, 1);
    cluster.up();
    cluster.run(3000);
    let everybody = !0 >> (64 - count);
    assert_eq!(cluster.views(), vec![everybody; usize::from(count)]);
    let before = cluster.sent;
    cluster.run(1000);
    let parts = usize::from(count).div_ceil(ROWS_MAX) as u64;
    let pairs = u64::from(count) * u64::from(count - 1);
    let most = 1000 * MS / GOSSIP_NS * pairs * parts;
    let sent = cluster.sent - before;
    assert!(
        (most / 2..=most).contains(&sent),
        "{count} nodes: {sent} messages in a second, {most} are the gossip"
    );
}

#[test]
fn rows_in_parts_are_not_answered_for_ever() {
    for count in [3, 14, 15, 28, 29, 64] {
        peace(count);
    }
}
