//! Frames of the ring, sealed and opened: AES-256-GCM or ChaCha20-Poly1305 (RFC 5116), keys by HKDF (RFC 5869).
//!
//! ```text
//! bytes 0..4 "RBR1"   4 version, 1   5 link   6 sender's slot   7 cipher: 0 none, 1 AES-256-GCM, 2 ChaCha20-Poly1305
//! 8..16 cluster id   16..24 session   24..32 number   then the ring's message, sealed; last the tag, 16 bytes
//! ```
//! Little-endian. The first 32 bytes are authenticated with the rest, and the number is the nonce. A key serves one
//! sender's life (its incarnation), one *session* of it (when its ring's thread started: a daemon that goes on for another
//! one keeps the life, and knows no number), and one link, so no number is ever used twice with a key. Who receives derives the
//! key of the life that the handshake accepted and of no other. A session gives way to a later one of the same life, and a
//! number is taken once, if it is not [`WINDOW`] behind the highest.
//!
//! Deliberately not here: which life is accepted (the handshake's), and what is inside (`ringbeat_core::srp`).

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use bytes::{Buf, Bytes, BytesMut};
use hkdf::Hkdf;
use ringbeat_common::limits::{LINKS_MAX, NODES_MAX};
use ringbeat_config::Cipher;
use sha2::Sha256;

const MAGIC: [u8; 4] = *b"RBR1";
const VERSION: u8 = 1;
/// Bytes before what is sealed.
pub(super) const HEAD: usize = 32;
/// Bytes after it.
const TAG: usize = 16;
/// What a frame is longer than its message by.
pub(super) const OVERHEAD: usize = HEAD + TAG;
/// Numbers that may overtake one another.
const WINDOW: u64 = 1024;
const WORDS: usize = WINDOW as usize / 64;

/// What all frames of a cluster have in common.
#[derive(Clone)]
pub(super) struct Secret {
    /// The cluster.
    pub(super) cluster_id: u64,
    /// What keys are derived from.
    pub(super) key: [u8; 32],
    /// How frames are sealed.
    pub(super) cipher: Cipher,
}

/// Why a frame was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not one of ours at all, or for another link.
    Foreign,
    /// Of nobody whose life is accepted.
    Unknown,
    /// Sealed in another way than is configured here.
    Cipher,
    /// It does not open.
    Forged,
    /// Seen before, or too old to know.
    Replayed,
}

/// A key for one direction of one link.
struct LinkKey(Option<LessSafeKey>);

impl Secret {
    fn link_key(&self, slot: u8, incarnation: u64, session: u64, link: u8) -> LinkKey {
        let algorithm = match self.cipher {
            Cipher::None => return LinkKey(None),
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::Chacha20Poly1305 => &CHACHA20_POLY1305,
        };
        let mut info = b"ringbeat 1 ring frames".to_vec();
        info.extend([slot, link, number_of(self.cipher)]);
        info.extend(incarnation.to_le_bytes());
        info.extend(session.to_le_bytes());
        let mut key = [0; 32];
        let made = Hkdf::<Sha256>::new(None, &self.key).expand(&info, &mut key);
        // Both have keys of 32 bytes, and HKDF refuses only outputs above 255 blocks.
        let key = made.ok().and_then(|()| UnboundKey::new(algorithm, &key).ok());
        let Some(key) = key else { unreachable!("a key of 32 bytes") };
        LinkKey(Some(LessSafeKey::new(key)))
    }
}

const fn number_of(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::None => 0,
        Cipher::Aes256Gcm => 1,
        Cipher::Chacha20Poly1305 => 2,
    }
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Seals what this node sends.
pub(super) struct Sealer {
    secret: Secret,
    own: u8,
    session: u64,
    links: Vec<(LinkKey, u64)>,
}

impl Sealer {
    /// For this life and session; a link's place in what follows is its id.
    pub(super) fn new(secret: Secret, own: u8, incarnation: u64, session: u64) -> Self {
        let links = (0..LINKS_MAX as u8).map(|link| (secret.link_key(own, incarnation, session, link), 0));
        Self { links: links.collect(), secret, own, session }
    }

    /// Writes the frame of a message for a link.
    pub(super) fn seal(&mut self, link: u8, message: &[u8], frame: &mut Vec<u8>) {
        let (key, number) = &mut self.links[usize::from(link) % LINKS_MAX];
        *number += 1;
        frame.clear();
        frame.extend(MAGIC);
        frame.extend([VERSION, link, self.own, number_of(self.secret.cipher)]);
        frame.extend(self.secret.cluster_id.to_le_bytes());
        frame.extend(self.session.to_le_bytes());
        frame.extend(number.to_le_bytes());
        frame.extend(message);
        let (head, body) = frame.split_at_mut(HEAD);
        let tag =
            key.0.as_ref().map(|key| key.seal_in_place_separate_tag(nonce(*number), Aad::from(head), body));
        match tag {
            Some(Ok(tag)) => frame.extend(tag.as_ref()),
            // Only a message of 64 GiB would be refused.
            Some(Err(_)) => frame.clear(),
            None => frame.extend([0; TAG]),
        }
    }
}

/// Which numbers have come.
#[derive(Clone, Debug, Default)]
struct Window {
    highest: u64,
    /// A bit for each of the last numbers, at its place modulo [`WINDOW`].
    seen: [u64; WORDS],
}

impl Window {
    fn bit(number: u64) -> (usize, u64) {
        let at = number % WINDOW;
        ((at / 64) as usize, 1 << (at % 64))
    }

    fn is_new(&self, number: u64) -> bool {
        let (word, bit) = Self::bit(number);
        number > self.highest || (self.highest - number < WINDOW && number != 0 && self.seen[word] & bit == 0)
    }

    fn take(&mut self, number: u64) {
        if number > self.highest {
            let first = self.highest + 1;
            if number - self.highest >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                for passed in first..=number {
                    let (word, bit) = Self::bit(passed);
                    self.seen[word] &= !bit;
                }
            }
            self.highest = number;
        }
        let (word, bit) = Self::bit(number);
        self.seen[word] |= bit;
    }
}

/// A peer's session.
struct Session {
    session: u64,
    links: Vec<Option<(LinkKey, Window)>>,
}

/// Opens what others send.
pub(super) struct Opener {
    secret: Secret,
    lives: [u64; NODES_MAX],
    sessions: Vec<Option<Session>>,
}

impl Opener {
    /// One that knows nobody.
    pub(super) fn new(secret: Secret) -> Self {
        Self { secret, lives: [0; NODES_MAX], sessions: (0..NODES_MAX).map(|_| None).collect() }
    }

    /// The handshake has accepted a life.
    pub(super) fn accept(&mut self, slot: u8, incarnation: u64) {
        let at = usize::from(slot) % NODES_MAX;
        if self.lives[at] != incarnation {
            self.lives[at] = incarnation;
            self.sessions[at] = None;
        }
    }

    /// Opens a frame that came on a link: who sent it, and the message.
    pub(super) fn open(&mut self, link: u8, mut frame: BytesMut) -> Result<(u8, Bytes), Refused> {
        let head: [u8; HEAD] = *frame.first_chunk().ok_or(Refused::Foreign)?;
        let [_, _, _, _, version, of, slot, cipher, ..] = head;
        let word = |at: usize| head[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        let is_ours =
            head[..4] == MAGIC && version == VERSION && word(8) == self.secret.cluster_id && of == link;
        if !is_ours || usize::from(slot) >= NODES_MAX || frame.len() < OVERHEAD {
            return Err(Refused::Foreign);
        }
        if cipher != number_of(self.secret.cipher) {
            return Err(Refused::Cipher);
        }
        let (at, session, number) = (usize::from(slot), word(16), word(24));
        let life = self.lives[at];
        if life == 0 {
            return Err(Refused::Unknown);
        }
        let body = &mut frame[HEAD..];
        match &mut self.sessions[at] {
            Some(known) if known.session == session => {
                let link_of = known.links[usize::from(link) % LINKS_MAX].get_or_insert_with(|| {
                    (self.secret.link_key(slot, life, session, link), Window::default())
                });
                if !link_of.1.is_new(number) {
                    return Err(Refused::Replayed);
                }
                link_of.0.open(number, &head, body)?;
                link_of.1.take(number);
            }
            Some(known) if known.session > session => return Err(Refused::Replayed),
            known => {
                // Nothing is believed of a session, nor forgotten of the one before, until it has opened a frame.
                let key = self.secret.link_key(slot, life, session, link);
                key.open(number, &head, body)?;
                let mut window = Window::default();
                window.take(number);
                let mut links: Vec<_> = (0..LINKS_MAX).map(|_| None).collect();
                links[usize::from(link) % LINKS_MAX] = Some((key, window));
                *known = Some(Session { session, links });
            }
        }
        frame.truncate(frame.len() - TAG);
        frame.advance(HEAD);
        Ok((slot, frame.freeze()))
    }
}

impl LinkKey {
    fn open(&self, number: u64, head: &[u8], body: &mut [u8]) -> Result<(), Refused> {
        let Some(key) = &self.0 else { return Ok(()) };
        key.open_in_place(nonce(number), Aad::from(head), body).map(|_| ()).map_err(|_| Refused::Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(cipher: Cipher) -> Secret {
        Secret { cluster_id: 7, key: [3; 32], cipher }
    }

    fn sealed(sealer: &mut Sealer, link: u8, message: &[u8]) -> BytesMut {
        let mut frame = Vec::new();
        sealer.seal(link, message, &mut frame);
        BytesMut::from(&frame[..])
    }

    #[test]
    fn what_is_sealed_opens_once_and_only_where_it_belongs() {
        for cipher in [Cipher::Aes256Gcm, Cipher::Chacha20Poly1305, Cipher::None] {
            let mut sealer = Sealer::new(secret(cipher), 4, 11, 100);
            let mut opener = Opener::new(secret(cipher));
            let frame = sealed(&mut sealer, 1, b"a message");
            assert_eq!(frame.len(), 9 + OVERHEAD);
            assert_eq!(opener.open(1, frame.clone()), Err(Refused::Unknown));
            opener.accept(4, 11);
            assert_eq!(opener.open(0, frame.clone()), Err(Refused::Foreign), "another link");
            assert_eq!(opener.open(1, frame.clone()), Ok((4, Bytes::from_static(b"a message"))));
            assert_eq!(opener.open(1, frame.clone()), Err(Refused::Replayed));
            assert_eq!(opener.open(1, frame[..40].into()), Err(Refused::Foreign));
        }
    }

    #[test]
    fn every_bit_counts() {
        for cipher in [Cipher::Aes256Gcm, Cipher::Chacha20Poly1305] {
            let mut sealer = Sealer::new(secret(cipher), 4, 11, 100);
            let mut opener = Opener::new(secret(cipher));
            opener.accept(4, 11);
            let frame = sealed(&mut sealer, 1, b"a message");
            for bit in 0..frame.len() * 8 {
                let mut bent = frame.clone();
                bent[bit / 8] ^= 1 << (bit % 8);
                assert!(opener.open(1, bent).is_err(), "bit {bit}");
            }
            let ours = secret(cipher);
            for other in [Secret { key: [4; 32], ..ours.clone() }, Secret { cluster_id: 8, ..ours }] {
                let mut sealer = Sealer::new(other, 4, 11, 100);
                assert!(opener.open(1, sealed(&mut sealer, 1, b"x")).is_err());
            }
            assert!(opener.open(1, frame).is_ok());
        }
    }

    #[test]
    fn neither_another_life_nor_an_older_session_is_heard() {
        let cipher = Cipher::Aes256Gcm;
        let mut opener = Opener::new(secret(cipher));
        opener.accept(4, 11);
        let mut old = Sealer::new(secret(cipher), 4, 11, 100);
        let mut new = Sealer::new(secret(cipher), 4, 11, 200);
        let (first, second) = (sealed(&mut old, 0, b"1"), sealed(&mut old, 0, b"2"));
        assert!(opener.open(0, first).is_ok());
        assert!(opener.open(0, sealed(&mut new, 0, b"3")).is_ok());
        assert_eq!(opener.open(0, second), Err(Refused::Replayed));
        let mut bent = sealed(&mut Sealer::new(secret(cipher), 4, 11, 300), 0, b"4");
        bent[HEAD] ^= 1;
        assert_eq!(opener.open(0, bent), Err(Refused::Forged));
        assert!(opener.open(0, sealed(&mut new, 0, b"5")).is_ok(), "a forged session changes nothing");
        opener.accept(4, 12);
        assert_eq!(opener.open(0, sealed(&mut new, 0, b"6")), Err(Refused::Forged), "a life that is over");
        assert!(opener.open(0, sealed(&mut Sealer::new(secret(cipher), 4, 12, 50), 0, b"7")).is_ok());
    }

    #[test]
    fn numbers_may_overtake_one_another_a_little() {
        let mut window = Window::default();
        let mut take = |number| {
            let is_new = window.is_new(number);
            if is_new {
                window.take(number);
            }
            is_new
        };
        assert!(!take(0) && take(1) && !take(1) && take(5) && take(3) && !take(3) && !take(5));
        assert!(take(5 + WINDOW - 1) && take(6) && !take(5), "at the edge");
        assert!(
            take(10 * WINDOW)
                && !take(6)
                && take(10 * WINDOW - 1)
                && take(9 * WINDOW + 1)
                && !take(9 * WINDOW)
        );
        assert!(take(u64::MAX) && !take(u64::MAX) && take(u64::MAX - 1));
    }
}
