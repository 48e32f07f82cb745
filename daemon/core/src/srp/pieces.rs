//! A commit token that is longer than a frame, in pieces: one of 64 members has 3 kB.
//!
//! A piece that is lost loses the whole, and that is sent again as any commit token is.

use bytes::{Bytes, BytesMut};
use ringbeat_common::limits::NODES_MAX;

use crate::limits::RING_PIECES_MAX;

/// What one sender's last long message still lacks.
#[derive(Clone, Debug, Default)]
struct Open {
    id: u16,
    pieces: Vec<Option<Bytes>>,
}

/// Long messages that are not whole yet, one of each sender at the most.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    of: Vec<Open>,
    /// What the next one of this node is called.
    pub(super) next_id: u16,
}

impl Pieces {
    pub(super) fn new() -> Self {
        Self { of: vec![Open::default(); NODES_MAX], next_id: 0 }
    }

    /// Takes a piece; gives the message that it makes whole.
    pub(super) fn take(&mut self, from: u8, id: u16, index: u8, count: u8, bytes: Bytes) -> Option<Bytes> {
        let (index, count) = (usize::from(index), usize::from(count));
        if index >= count || count > RING_PIECES_MAX {
            return None;
        }
        let open = &mut self.of[usize::from(from) % NODES_MAX];
        if open.id != id || open.pieces.len() != count {
            *open = Open { id, pieces: vec![None; count] };
        }
        open.pieces[index] = Some(bytes);
        if open.pieces.iter().any(Option::is_none) {
            return None;
        }
        let mut whole = BytesMut::new();
        open.pieces.iter().flatten().for_each(|piece| whole.extend_from_slice(piece));
        open.pieces.clear();
        Some(whole.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_one_message_in_whatever_order() {
        let mut pieces = Pieces::new();
        let piece = |byte| Bytes::from(vec![byte; 2]);
        assert_eq!(pieces.take(3, 1, 1, 2, piece(2)), None);
        assert_eq!(pieces.take(4, 1, 0, 2, piece(9)), None, "of another one");
        assert_eq!(pieces.take(3, 1, 0, 2, piece(1)), Some(Bytes::from_static(&[1, 1, 2, 2])));
        assert_eq!(pieces.take(3, 2, 0, 2, piece(1)), None);
        assert_eq!(pieces.take(3, 3, 1, 2, piece(2)), None, "of the next message");
        for (index, count) in [(2, 2), (0, 0), (0, 200)] {
            assert_eq!(pieces.take(3, 4, index, count, piece(1)), None);
        }
    }
}
