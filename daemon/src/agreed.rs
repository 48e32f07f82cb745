//! What all nodes must have the same in their configurations before they may serve one view, as one number.
//!
//! A view names resources by their place in the list, and counts the votes of its own list of nodes. Two nodes whose lists
//! differ under one version number would each be right by their own and hold the same address twice. So a view's id
//! carries a digest of all that its meaning rests on, and not just the number that somebody forgot to raise.

use ringbeat_config::Config;
use sha2::{Digest as _, Sha256};

/// The digest in the upper half, the configuration's version in the lower.
pub fn config_id(config: &Config) -> u64 {
    u64::from(digest(config)) << 32 | config.cluster().version() & u64::from(u32::MAX)
}

/// The digest's half.
pub const fn digest_of(id: u64) -> u32 {
    (id >> 32) as u32
}

/// The version's half.
pub const fn version_of(id: u64) -> u64 {
    id & u32::MAX as u64
}

/// Nodes with their votes, the length of the lease, and the addresses in their order. Each part says its length or has a
/// fixed one, so that no two configurations read the same.
fn digest(config: &Config) -> u32 {
    let mut hash = Sha256::new();
    hash.update(config.cluster().version().to_le_bytes());
    hash.update(config.lease_us().to_le_bytes());
    let mut nodes: Vec<_> = config.nodes().iter().collect();
    nodes.sort_by_key(|node| node.slot());
    hash.update((nodes.len() as u64).to_le_bytes());
    for node in nodes {
        hash.update([node.slot(), node.votes(), u8::from(node.witness())]);
    }
    for service in config.services() {
        let text = service.to_string();
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let bytes = hash.finalize();
    let first = bytes.first_chunk::<4>().copied().unwrap_or_default();
    // 0 would look like a configuration without one.
    u32::from_le_bytes(first).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(version: u64, votes: u8, addresses: &[&str]) -> u64 {
        let mut text = format!(
            "[cluster]\nname = \"lab\"\nversion = {version}\nnode = \"n1\"\n\
             [[link]]\nid = 0\ninterface = \"hb0\"\nnetwork = \"10.77.0.0/24\"\n"
        );
        for (id, votes) in [(1, votes), (2, 1)] {
            text.push_str(&format!(
                "[[node]]\nid = {id}\nname = \"n{id}\"\naddresses = [\"10.77.0.{id}\"]\nvotes = {votes}\n"
            ));
        }
        for address in addresses {
            text.push_str(&format!("[[address]]\naddress = \"{address}\"\ninterface = \"svc0\"\n"));
        }
        config_id(&Config::parse(&text, "ringbeat.toml", None).expect("a configuration"))
    }

    #[test]
    fn whatever_a_view_rests_on_changes_the_number() {
        let one = id(7, 1, &["10.78.0.100/24", "10.78.0.101/24"]);
        assert_eq!(one, id(7, 1, &["10.78.0.100/24", "10.78.0.101/24"]));
        assert_eq!(version_of(one), 7);
        let others = [
            id(8, 1, &["10.78.0.100/24", "10.78.0.101/24"]),
            id(7, 2, &["10.78.0.100/24", "10.78.0.101/24"]),
            id(7, 1, &["10.78.0.101/24", "10.78.0.100/24"]),
            id(7, 1, &["10.78.0.100/24"]),
            id(7, 1, &["10.78.0.100/24", "10.78.0.101/25"]),
        ];
        for other in others {
            assert_ne!(digest_of(one), digest_of(other));
        }
    }
}
