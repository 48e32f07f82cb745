//! `ringbeat peers`: a record for each node.

use ringbeat_control::PeerReport;

use crate::table::Column::{Left, Right};
use crate::table::{Cell, Screen, Table};

pub(crate) fn peers(peers: &[PeerReport], screen: Screen) -> String {
    let mut table = Table::new([
        Right("ID"),
        Left("NAME"),
        Left("OWN"),
        Left("STATE"),
        Left("INCARNATION"),
        Right("DAEMON_AGE_MS"),
        Right("CONFIG"),
        Left("LINKS"),
        Left("HEARS"),
        Right("ROW_AGE_MS"),
        Left("VIEW"),
    ])
    .spare(&["ROW_AGE_MS", "CONFIG", "OWN", "DAEMON_AGE_MS", "HEARS"]);
    for peer in peers {
        let links = peer.links.iter().map(|link| format!("{}:{}", link.id, link.state));
        let hears = peer.hears.iter().map(u8::to_string);
        table.push([
            Cell::from(peer.id.to_string()),
            Cell::from(&peer.name),
            Cell::from(if peer.own { "yes" } else { "no" }),
            Cell::state(&peer.state),
            Cell::maybe(peer.incarnation.as_ref()),
            Cell::maybe_decimal(peer.daemon_age_ms, 1),
            Cell::maybe(peer.config_version),
            Cell::from(links.collect::<Vec<_>>().join(",")),
            Cell::from(hears.collect::<Vec<_>>().join(",")),
            Cell::maybe_decimal(peer.row_age_ms, 1),
            Cell::from(&peer.view),
        ]);
    }
    table.render(screen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{assert_golden, samples};

    #[test]
    fn golden() {
        assert_golden("peers.txt", &peers(&samples::peers(), Screen::PIPE));
    }
}
