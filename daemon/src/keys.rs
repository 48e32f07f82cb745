//! What is derived from the authkey: the key of the tags and the cluster's id, by HKDF-SHA256 (RFC 5869).
//!
//! The cluster's name is the salt: two clusters with one key file still do not read one another's frames.

use hkdf::Hkdf;
use sha2::Sha256;

/// The cluster's id on the wire, and the key that seals frames.
#[derive(Clone, Copy)]
pub struct Derived {
    /// See `Frame::cluster_id`.
    pub cluster_id: u64,
    /// SipHash-2-4's.
    pub frame_key: [u64; 2],
    /// The same for messages of user space.
    pub message_key: [u64; 2],
    /// What the keys of the ring's frames are derived from.
    pub ring_key: [u8; 32],
}

/// Derives both.
pub fn derive(authkey: &[u8], cluster: &str) -> Derived {
    let hkdf = Hkdf::<Sha256>::new(Some(cluster.as_bytes()), authkey);
    let [cluster_id] = expand::<1>(&hkdf, b"ringbeat 1 cluster id");
    let frame_key = expand::<2>(&hkdf, b"ringbeat 1 frame tag");
    let message_key = expand::<2>(&hkdf, b"ringbeat 1 message tag");
    let mut ring_key = [0; 32];
    fill(&hkdf, b"ringbeat 1 ring", &mut ring_key);
    Derived { cluster_id, frame_key, message_key, ring_key }
}

fn expand<const N: usize>(hkdf: &Hkdf<Sha256>, purpose: &[u8]) -> [u64; N] {
    let mut bytes = vec![0; N * 8];
    fill(hkdf, purpose, &mut bytes);
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        // A key of zeros means "none" in the kernel's table.
        *word = u64::from_le_bytes(*bytes).max(1);
    }
    words
}

fn fill(hkdf: &Hkdf<Sha256>, purpose: &[u8], bytes: &mut [u8]) {
    // HKDF refuses only outputs above 255 blocks.
    if hkdf.expand(purpose, bytes).is_err() {
        unreachable!("{} bytes are less than 255 blocks", bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::derive;

    #[test]
    fn names_and_keys_tell_clusters_apart() {
        let a = derive(b"0123456789abcdef0123456789abcdef", "a");
        let b = derive(b"0123456789abcdef0123456789abcdef", "b");
        let c = derive(b"0123456789abcdef0123456789abcdeg", "a");
        assert!(a.cluster_id != b.cluster_id && a.cluster_id != c.cluster_id);
        assert!(a.frame_key != b.frame_key && a.frame_key != c.frame_key);
        assert_ne!(a.frame_key[0], a.frame_key[1]);
        assert_ne!(a.frame_key, a.message_key);
        assert!(a.ring_key != b.ring_key && a.ring_key != c.ring_key);
    }

    /// The wire format: a change here parts the new version from the old.
    #[test]
    fn what_is_derived_stays_the_same() {
        let a = derive(&[7; 32], "lab");
        assert_eq!(
            (a.cluster_id, a.frame_key),
            (CLUSTER_ID, FRAME_KEY),
            "{:#x} {:#x?}",
            a.cluster_id,
            a.frame_key
        );
    }

    // Made by another implementation of HKDF.
    const CLUSTER_ID: u64 = 0xddbd_6569_0d62_a1d4;
    const FRAME_KEY: [u64; 2] = [0x2b11_9037_f998_cde0, 0x44bb_90f7_4cc6_fd79];
}
