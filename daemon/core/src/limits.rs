//! Every bound and every time of the core has its name here. What the kernel shares is in `ringbeat_common::limits`.

use ringbeat_common::lease::PROMISE_QUARTERS;
use ringbeat_common::limits::LEASE_MAX_NS;

/// Intervals for which a link that came back must be heard without a gap before it counts.
pub const DAMPING_INTERVALS: u64 = 10;
/// Deadlines for which it must be heard at the least: a state word that is old news runs out in one.
pub const DAMPING_DEADLINES: u64 = 2;
/// The shortest damping, in ns.
pub const DAMPING_MIN_NS: u64 = 10_000_000;
/// The longest damping, in ns, however often the link flaps.
pub const DAMPING_MAX_NS: u64 = 5_000_000_000;
/// A flap doubles the damping for this long, in ns.
pub const FLAP_MEMORY_NS: u64 = 60_000_000_000;
/// Flaps remembered for each edge: enough to double the shortest damping to the longest.
pub const FLAPS_KEPT: usize = 10;

/// Between two Hellos to a peer that is not heard, in ns.
pub const HELLO_INTERVAL_NS: u64 = 200_000_000;
/// Before the second and the third Hello, in ns: at 0, 20 and 60 ms.
pub const HELLO_BURST_NS: [u64; 2] = [20_000_000, 40_000_000];
/// Between two Hellos to the own slot, in ns.
pub const ANNOUNCE_INTERVAL_NS: u64 = 1_000_000_000;
/// Before the second and the third Hello to the own slot, in ns: at 0, 50 and 150 ms.
pub const ANNOUNCE_BURST_NS: [u64; 2] = [50_000_000, 100_000_000];
/// Welcomes to one slot in a window: eight links at the Hellos' fastest pace, and some.
pub const WELCOMES_MAX: u32 = 64;
/// The window of [`WELCOMES_MAX`], in ns.
pub const WELCOME_WINDOW_NS: u64 = 1_000_000_000;
/// An echo of a nonce older than this proves nothing any more, in ns: a bound on how long a frame can be held back.
pub const NONCE_AGE_MAX_NS: u64 = 10_000_000_000;
/// Nonces that the pool holds when it is full: one for each slot, and one more.
pub const NONCES_POOLED: usize = 128;
/// Superseded incarnations remembered for each peer.
pub const SUPERSEDED_KEPT: usize = 4;

/// Steps of the search for the best group of nodes, before it is given up for the best so far.
pub const MEMBERSHIP_STEPS: u32 = 4_000;
/// Intervals for which a choice that leaves out a node which this one hears waits for the news behind it.
pub const SETTLE_INTERVALS: u64 = 2;
/// Intervals for which a choice waits for agreement, before it yields to what others have announced.
pub const YIELD_INTERVALS: u64 = 3;
/// After this long a view that was yielded to, and came to nothing, is given up, in ns.
pub const AGREE_AGAIN_NS: u64 = 1_000_000_000;
/// Epochs are on disk for so many views ahead; asked for anew when half of them are used.
pub const CEILING_AHEAD: u64 = 4_096;
/// Electorates that a node remembers.
pub const ELECTORATES_KEPT: usize = 8;
/// A confirmation counts so long after all nodes have run an electorate at an instant, if any of them has run another, in
/// ns: until then something may be promised under that one. 1.25 of the longest lease.
pub const CONFIRM_WAIT_NS: u64 = LEASE_MAX_NS / 4 * PROMISE_QUARTERS;
/// Between two messages when there is nothing new, in ns.
pub const GOSSIP_NS: u64 = 200_000_000;
/// The main loop has stood still if it took in nothing for so long, in ns: some times of the gossip.
pub const PAUSE_NS: u64 = 3 * GOSSIP_NS;
/// Intervals for which a node that starts waits for all others before it proposes a view without some of them.
pub const START_WAIT_INTERVALS: u64 = 20;
/// The shortest such wait, in ns.
pub const START_WAIT_MIN_NS: u64 = 100_000_000;
/// The longest, in ns.
pub const START_WAIT_MAX_NS: u64 = 1_000_000_000;

/// Packets of a ring that a node keeps, from the lowest that not all have.
pub const RING_STORE_MAX: u64 = 4_096;
/// The most bytes of a packet's payload: what UDP over IPv4 carries, without all headers.
pub const RING_PAYLOAD_MAX: usize = 65_400;
/// Requests for missing packets that a token carries.
pub const RING_REQUESTS_MAX: usize = 128;
/// The longest message, in bytes; longer ones are cut by those who send them.
pub const RING_MESSAGE_MAX: usize = 1 << 20;
/// Messages that wait to be sent.
pub const RING_QUEUE_MAX: usize = 4_096;
/// Bytes of them.
pub const RING_QUEUE_BYTES_MAX: usize = 4 << 20;

/// Pieces of a commit token.
pub const RING_PIECES_MAX: usize = 16;
/// Members whose ring was lost agree anew after so long, in ns, and after twice as long each time that follows.
pub const RING_AGAIN_MIN_NS: u64 = 200_000_000;
/// But not after longer than this.
pub const RING_AGAIN_MAX_NS: u64 = 10_000_000_000;

/// Bytes of a process group's name.
pub const GROUP_NAME_MAX: usize = 128;
/// Processes in a group.
pub const GROUP_MEMBERS_MAX: usize = 128;
/// Places that the processes of one node have in groups: so many fit one message of the ring, their names as long as can be.
pub const GROUP_PLACES_MAX: usize = 4_096;
/// Bytes of messages that wait until all nodes of a view have told of their processes.
pub const GROUP_HELD_MAX: usize = 16 << 20;
/// So many such messages.
pub const GROUP_HELD_COUNT_MAX: usize = 65_536;
