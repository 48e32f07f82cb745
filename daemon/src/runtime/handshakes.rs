//! The handshake's dealings with the world: frames in and out, randomness, and what an accepted life changes here.

use ringbeat_common::frame::{Frame, Kind, MAGIC, VERSION};
use ringbeat_common::limits::cell;
use ringbeat_common::watch::state;
use ringbeat_control::incarnation_text;
use ringbeat_core::membership::envelope::ENVELOPE_BYTES_MAX;
use ringbeat_core::{detector, handshake, membership};

use super::Runtime;
use crate::sockets::LinkSockets;
use crate::sys::clock::boot_ns;

/// Frames of the handshake that one round takes from one socket.
const BURST_MAX: usize = 64;

impl Runtime {
    /// Frames for the handshake, from the sockets or from the plane's thread.
    pub(super) fn take_handshakes(&mut self, now_ns: u64) {
        let mut taken = Vec::new();
        let mut messages = Vec::new();
        if self.started.plane.is_kernel() {
            // One byte more than a message: a longer one is seen to be longer.
            let mut buffer = [0; ENVELOPE_BYTES_MAX + 1];
            for (link, sockets) in self.started.links.iter().zip(&self.started.sockets) {
                for socket in [sockets.own(), sockets.everyone()] {
                    for _ in 0..BURST_MAX {
                        let Ok((length, _)) = LinkSockets::receive(socket, &mut buffer) else { break };
                        match Frame::from_bytes(&buffer[..length]).filter(|frame| frame.magic() == MAGIC) {
                            Some(frame) => taken.push((link.id, frame)),
                            None => messages.push((link.id, buffer[..length].to_vec())),
                        }
                    }
                }
            }
        }
        while let Some(frame) = self.started.plane.next_handshake() {
            taken.push(frame);
        }
        while let Some(message) = self.started.plane.next_message() {
            messages.push(message);
        }
        for (link, frame) in taken {
            if self.is_for_handshake(link, &frame) {
                self.handshake.handle(handshake::Input::Frame { link, frame }, now_ns);
                self.carry_out(now_ns);
            }
        }
        for (link, bytes) in messages {
            self.take_message(link, &bytes, now_ns);
        }
    }

    /// The kernel has checked all this; where it could not (no program on the interface yet), it is checked here.
    fn is_for_handshake(&self, link: u8, frame: &Frame) -> bool {
        let identity = self.started.identity;
        let kind = Kind::from_u8(frame.kind());
        frame.magic() == MAGIC
            && frame.min_version() <= VERSION
            && matches!(kind, Some(Kind::Hello | Kind::Welcome | Kind::Confirm))
            && frame.cluster_id() == identity.cluster_id
            && frame.target() == identity.slot
            && frame.link() == link
            && frame.key_id() == 0
            && frame.computed_tag(identity.key) == frame.tag()
    }

    /// Fresh random numbers; false when the kernel has none.
    pub(super) fn give_nonces(&mut self, now_ns: u64) -> bool {
        let mut bytes = vec![0; self.handshake.nonces_wanted() * 8];
        if let Err(error) = getrandom::fill(&mut bytes) {
            tracing::error!(%error, "no randomness: no new peer can be accepted");
            return false;
        }
        let nonces = bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        self.handshake.handle(handshake::Input::Nonces(nonces), now_ns);
        true
    }

    pub(super) fn transmit(&self, link: u8, target: u8, broadcast: bool, mut frame: Frame) {
        let Some(index) = self.started.links.iter().position(|own| own.id == link) else { return };
        let sockets = &self.started.sockets[index];
        frame.set_key_id(0);
        frame.seal(self.started.identity.key);
        let bytes = frame.to_bytes();
        let sent = if broadcast { sockets.send_to_all(&bytes) } else { sockets.send(target, &bytes) };
        if let Err(error) = sent {
            tracing::debug!(link, target, %error, "a frame of the handshake could not leave");
        }
    }

    pub(super) fn accept(&mut self, slot: u8, incarnation: u64, previous: Option<u64>) {
        self.started.plane.lease().replace(slot);
        if let Err(error) = self.started.plane.accept(slot, incarnation) {
            tracing::error!(slot, %error, "the kernel did not take an accepted incarnation");
            return;
        }
        // What the ring still holds is of the old life; the detector is told by the stamp.
        let stamp_ns = boot_ns();
        for link in &self.started.links {
            self.known[cell(link.id, slot)] = state::WATCHED;
        }
        let accepted = detector::Input::Accepted { slot, incarnation, previous, stamp_ns };
        self.detector.handle(accepted, stamp_ns);
        self.aim();
        self.started.ring.accepted(slot, incarnation);
        self.view_input(membership::Input::Accepted { slot, incarnation }, stamp_ns);
    }

    /// Probes go to every peer with an accepted incarnation.
    pub(super) fn aim(&self) {
        let mut slots = 0;
        if self.duplicate.is_none() {
            for slot in self.peer_slots() {
                slots |= u64::from(self.detector.incarnation(slot).is_some()) << slot;
            }
        }
        for link in &self.started.links {
            self.started.book.aim(link.id, slots);
        }
    }

    /// Another machine bears our slot: say so, and take no part.
    pub(super) fn stand_aside(&mut self, other: u64) {
        self.duplicate = Some(other);
        self.give_up_all();
        self.started.plane.close();
        self.started.ring.stand_apart();
        self.view_input(membership::Input::Leaving, boot_ns());
        self.aim();
        let text = "another machine runs with this node's id; this one takes no part until it is restarted";
        tracing::warn!(other = %incarnation_text(other).unwrap_or_default(), "{text}");
        let mut event = self.record("duplicate_self", boot_ns());
        event.incarnation = incarnation_text(other);
        event.text = Some(text.to_owned());
        self.started.journal.tell(event);
    }
}
