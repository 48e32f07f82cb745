//! The parameters of the ring, by the names that corosync.conf(5) gives them, and how they follow from one another.
//!
//! What Totem's own timers are for is done by the kernel's heartbeats first; these are the second line, for a ring that
//! does not turn though all members are heard. So they are scaled to the links' profile and far longer than its deadline.

use super::wire::PACKET_HEAD;
use crate::limits::RING_PAYLOAD_MAX;

/// How the ring turns. Times are in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// `token`: a token that has not come for so long is lost.
    pub token_ns: u64,
    /// `token_retransmits_before_loss_const`: repetitions of a token before that.
    pub token_retransmits_before_loss_const: u64,
    /// `hold`: for so long an idle token stands still.
    pub hold_ns: u64,
    /// `fail_recv_const`: rotations in which somebody's aru does not rise while others' packets are there.
    pub fail_recv_const: u32,
    /// `seqno_unchanged_const`: rotations without a packet before the token is held.
    pub seqno_unchanged_const: u32,
    /// `window_size`: packets in one rotation.
    pub window_size: u32,
    /// `max_messages`: packets of one node in one visit of the token.
    pub max_messages: u32,
    /// `miss_count_const`: visits of the token for which a packet is missing before it is asked for.
    pub miss_count_const: u32,
    /// Bytes of a packet's payload: `netmtu` without all headers.
    pub payload: usize,
}

/// A token is lost after so many deadlines of the slowest link.
const TOKEN_DEADLINES: u64 = 10;
/// And not before this, in ns.
const TOKEN_MIN_NS: u64 = 500_000_000;
/// It is repeated so often within a deadline.
const REPEATED: u64 = 2;
/// An idle token moves so often within the time in which it would be lost.
const HELD: u64 = 5;

impl Params {
    /// The defaults for links of this deadline, in ns, and packets of so many bytes.
    ///
    /// DEVIATION from corosync.conf(5), whose defaults are for messages without a kernel that watches: `token` there is
    /// 3 s and more with each node, `token_retransmits_before_loss_const` 4, `window_size` 50, `max_messages` 17 and
    /// `miss_count_const` 5. `hold` follows there from the time of a repetition; here a lost token is repeated far sooner, and
    /// who has handed on an idle one waits with that for as long as it may be held.
    pub const fn of(deadline_ns: u64, payload: usize) -> Self {
        let token_ns = TOKEN_DEADLINES * deadline_ns;
        Self::with_token(deadline_ns, if token_ns < TOKEN_MIN_NS { TOKEN_MIN_NS } else { token_ns }, payload)
    }

    /// The same for another `token`, in ns.
    pub const fn with_token(deadline_ns: u64, token_ns: u64, payload: usize) -> Self {
        Self {
            token_ns,
            token_retransmits_before_loss_const: token_ns * REPEATED / deadline_ns,
            hold_ns: token_ns / HELD,
            fail_recv_const: 2500,
            seqno_unchanged_const: 8,
            window_size: 256,
            max_messages: 64,
            miss_count_const: 2,
            payload,
        }
    }

    /// The payload of a packet that fits a message of so many bytes; in recovery it is a packet inside of another.
    pub fn payload_in(message: usize) -> usize {
        message.saturating_sub(2 * PACKET_HEAD).min(RING_PAYLOAD_MAX)
    }

    /// `token_retransmit`: a token that shows no trace is sent again after so long, in ns. `token` / (repetitions + 0.2).
    pub const fn token_retransmit_ns(&self) -> u64 {
        self.token_ns * 10 / (10 * self.token_retransmits_before_loss_const + 2)
    }
}
