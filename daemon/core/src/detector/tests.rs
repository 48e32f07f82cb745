//! Short histories of one detector: own slot 0, peers 1 and 2, two links at 5 ms × 4.

use ringbeat_common::event::Event;
use ringbeat_common::limits::cell;
use ringbeat_common::watch::state::{GONE, HANDOVER, HEARD, LEAVING, STALLED, WATCHED};

use super::*;
use crate::told::UpCause;

const MS: u64 = 1_000_000;
const LIFE: u64 = 7 << 32;

/// A detector and the state words of its kernel.
struct Bench {
    detector: Detector,
    words: [[u64; 3]; 2],
    lives: [u64; 3],
}

impl Bench {
    fn new() -> Self {
        let link = |link| LinkTimes { link, interval_ns: 5 * MS, deadline_ns: 20 * MS };
        let config = Config {
            own: 0,
            peers: vec![0, 1, 2, 200],
            links: vec![link(0), link(1), link(1), link(8)],
            daemon_stall_ns: 1000 * MS,
            damping: Damping::default(),
        };
        let mut bench = Self { detector: Detector::new(&config), words: [[WATCHED; 3]; 2], lives: [0; 3] };
        bench.accept(1, LIFE, None, 0);
        bench.accept(2, LIFE, None, 0);
        bench
    }

    /// Both peers heard on both links.
    fn up() -> Self {
        let mut bench = Self::new();
        for (link, slot) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
            bench.frame(link, slot, HEARD, 100 * MS);
        }
        assert_eq!(bench.states(), [PeerState::Up; 2]);
        assert_eq!(bench.detector.heard(), 0b111);
        bench
    }

    fn input(&mut self, input: Input, now_ns: u64) -> Vec<String> {
        self.detector.handle(input, now_ns);
        let mut told = Vec::new();
        while let Some(output) = self.detector.poll_output() {
            told.push(match output {
                Output::Told(told) => {
                    let of = |number: Option<u8>| number.map_or("-".into(), |number| number.to_string());
                    format!("{} {} {}", told.kind.name(), of(told.slot), of(told.link))
                }
                Output::Heard { slot } => format!("+{slot}"),
                Output::Silent { slot } => format!("-{slot}"),
            });
        }
        told
    }

    fn accept(&mut self, slot: u8, incarnation: u64, previous: Option<u64>, now_ns: u64) -> Vec<String> {
        self.lives[usize::from(slot)] = incarnation;
        self.words.iter_mut().for_each(|words| words[usize::from(slot)] = WATCHED);
        self.input(Input::Accepted { slot, incarnation, previous, stamp_ns: now_ns }, now_ns)
    }

    /// A frame that proves life and says `bits`.
    fn frame(&mut self, link: u8, slot: u8, bits: u64, now_ns: u64) -> Vec<String> {
        let aged = if bits & STALLED != 0 { 150_000 } else { 1000 };
        let to = WATCHED | HEARD | bits;
        self.change(link, slot, to, now_ns, 0, aged)
    }

    /// The timer finds the cell late.
    fn late(&mut self, link: u8, slot: u8, now_ns: u64) -> Vec<String> {
        let to = self.words[usize::from(link)][usize::from(slot)] & !HEARD;
        self.change(link, slot, to, now_ns, 1, 0)
    }

    fn change(&mut self, link: u8, slot: u8, to: u64, now_ns: u64, by_timer: u32, aged: u32) -> Vec<String> {
        let word = &mut self.words[usize::from(link)][usize::from(slot)];
        let incarnation = if by_timer == 0 { self.lives[usize::from(slot)] } else { 0 };
        let event = Event {
            stamp_ns: now_ns,
            cell: cell(link, slot) as u32,
            by_timer,
            from: *word,
            to,
            incarnation,
            daemon_age_us: aged,
            unanswered_ns: if by_timer == 1 { now_ns - 15 * MS } else { 0 },
            ..Event::default()
        };
        *word = to;
        self.input(Input::Cell(event), now_ns)
    }

    fn own(&mut self, link: u8, up: bool, now_ns: u64) -> Vec<String> {
        self.input(Input::OwnLink { link, up, stamp_ns: now_ns }, now_ns)
    }

    /// Lets the next timer run out, at its time.
    fn due(&mut self) -> (u64, Vec<String>) {
        let due_ns = self.detector.next_timeout().expect("a timer");
        (due_ns, self.input(Input::Timeout, due_ns))
    }

    fn states(&self) -> [PeerState; 2] {
        [self.detector.peer_state(1), self.detector.peer_state(2)]
    }
}

#[test]
fn the_first_frame_is_up_and_the_second_link_adds_to_it() {
    let mut bench = Bench::new();
    assert_eq!(bench.states(), [PeerState::Unknown; 2]);
    assert_eq!(bench.detector.heard(), 0b1);
    assert_eq!(bench.frame(0, 1, 0, MS), ["link_up 1 0", "peer_up 1 -", "+1"]);
    assert_eq!(bench.frame(1, 1, 0, MS), ["link_up 1 1"]);
    assert_eq!(bench.detector.heard(), 0b11);
    assert_eq!(bench.detector.next_timeout(), None);
}

#[test]
fn a_late_link_recovers_or_is_down_after_a_second_deadline() {
    let mut bench = Bench::up();
    assert_eq!(bench.late(0, 1, 200 * MS), ["link_late 1 0"]);
    assert_eq!(bench.frame(0, 1, 0, 210 * MS), ["link_up 1 0"]);
    assert_eq!(bench.detector.counters().recovered, 1);
    assert_eq!(bench.late(0, 1, 300 * MS), ["link_late 1 0"]);
    assert_eq!(bench.due(), (320 * MS, vec!["link_down 1 0".into()]));
    assert_eq!(bench.detector.edge_state(0, 1), EdgeState::Down);
    assert_eq!(bench.states(), [PeerState::Up; 2]);
    assert_eq!(bench.detector.heard(), 0b111);
}

#[test]
fn a_peer_silent_on_all_links_is_down_at_once_and_comes_back_after_damping() {
    let mut bench = Bench::up();
    bench.late(0, 1, 200 * MS);
    let told = bench.late(1, 1, 201 * MS);
    assert_eq!(told, ["peer_down 1 1", "link_down 1 0", "link_down 1 1", "-1"]);
    assert_eq!(bench.detector.heard(), 0b101);
    assert_eq!(bench.detector.next_timeout(), None);
    assert_eq!(bench.frame(0, 1, 0, 300 * MS), ["+1"]);
    assert_eq!(bench.detector.edge_state(0, 1), EdgeState::Damped);
    assert_eq!(bench.states()[0], PeerState::Down);
    assert_eq!(bench.late(0, 1, 320 * MS), ["-1"], "silent inside the damping: it begins anew");
    assert_eq!(bench.frame(0, 1, 0, 400 * MS), ["+1"]);
    assert_eq!(bench.due(), (450 * MS, vec!["link_up 1 0".into(), "peer_up 1 -".into()]));
    // A second flap in a minute doubles the damping.
    bench.late(0, 1, 500 * MS);
    bench.frame(0, 1, 0, 600 * MS);
    assert_eq!(bench.due().0, 700 * MS);
    assert_eq!(bench.detector.edge_flaps(0, 1), 2);
}

#[test]
fn a_damped_link_keeps_a_peer_that_is_up() {
    let mut bench = Bench::up();
    bench.late(0, 1, 200 * MS);
    bench.due();
    bench.frame(0, 1, 0, 300 * MS);
    assert_eq!(bench.late(1, 1, 310 * MS), ["link_late 1 1"]);
    assert_eq!(bench.detector.heard(), 0b111);
    assert_eq!(bench.late(0, 1, 320 * MS), ["peer_down 1 0", "link_down 1 1", "-1"]);
}

#[test]
fn gone_counts_at_once_and_a_vanished_host_is_told_once_more() {
    let mut bench = Bench::up();
    assert_eq!(bench.frame(1, 2, GONE, 200 * MS), ["peer_gone 2 1"]);
    assert_eq!(bench.frame(0, 2, GONE, 200 * MS), [""; 0]);
    assert_eq!(bench.states()[1], PeerState::Gone);
    assert_eq!(bench.detector.heard(), 0b11);
    assert_eq!(bench.frame(0, 2, GONE | STALLED, 300 * MS), [""; 0], "a dead daemon ages, and nobody cares");
    bench.late(0, 2, 400 * MS);
    assert_eq!(bench.late(1, 2, 400 * MS)[0], "peer_down 2 1");
    assert_eq!(bench.states()[1], PeerState::Down);
    // The kernel answers again: no daemon, no peer_up, and no second peer_down.
    bench.frame(0, 2, GONE, 500 * MS);
    assert_eq!(bench.states()[1], PeerState::Gone);
    assert_eq!(bench.due().1, ["link_up 2 0"]);
    assert_eq!(bench.late(0, 2, 600 * MS), ["link_down 2 0", "-2"]);
    // A new life begins with nothing of this.
    assert_eq!(bench.accept(2, LIFE + (1 << 32), Some(LIFE), 700 * MS), ["peer_restarted 2 -"]);
    assert_eq!(bench.frame(0, 2, 0, 701 * MS), ["link_up 2 0", "peer_up 2 -", "+2"]);
}

#[test]
fn a_stalled_daemon_fails_by_its_last_run_and_may_run_again() {
    let mut bench = Bench::up();
    assert_eq!(bench.frame(0, 1, STALLED, 250 * MS), ["peer_stalled 1 0"]);
    assert_eq!(bench.states()[0], PeerState::Stalled);
    bench.frame(1, 1, STALLED, 251 * MS);
    assert_eq!(bench.due(), (1100 * MS, vec!["peer_failed 1 -".into()]), "1000 ms after 250 - 150");
    assert_eq!(bench.states()[0], PeerState::Failed);
    assert_eq!(bench.detector.heard(), 0b101, "its kernel is heard, and that is no company");
    assert_eq!(bench.frame(1, 1, 0, 1200 * MS), ["peer_running 1 1"]);
    assert_eq!(bench.detector.heard(), 0b111);
    assert_eq!(bench.frame(0, 1, 0, 1201 * MS), [""; 0]);
    assert_eq!(bench.states()[0], PeerState::Up);
    // Stalled on a link that falls silent: the word of the other one counts.
    bench.frame(0, 1, STALLED, 2000 * MS);
    assert_eq!(bench.late(0, 1, 2050 * MS), ["link_late 1 0", "peer_running 1 1"]);
}

#[test]
fn leaving_is_no_death_even_if_one_link_missed_the_announcement() {
    let mut bench = Bench::up();
    assert_eq!(bench.frame(0, 1, LEAVING, 200 * MS), ["peer_leaving 1 0"]);
    assert_eq!(bench.states()[0], PeerState::Leaving);
    assert_eq!(bench.late(0, 1, 300 * MS), ["link_late 1 0"]);
    assert_eq!(bench.late(1, 1, 301 * MS)[0], "peer_left 1 1");
    assert_eq!(bench.states()[0], PeerState::Left);
}

#[test]
fn a_handover_is_told_and_a_new_life_ends_it() {
    let mut bench = Bench::up();
    assert_eq!(bench.frame(0, 1, HANDOVER, 200 * MS), ["peer_handover 1 0"]);
    assert_eq!(bench.states()[0], PeerState::Handover);
    assert_eq!(bench.frame(0, 1, 0, 300 * MS), ["peer_handover_done 1 0"]);
    bench.frame(0, 1, HANDOVER, 400 * MS);
    assert_eq!(bench.accept(1, LIFE + 5, Some(LIFE), 500 * MS), ["peer_restarted 1 -", "-1"]);
    assert_eq!(bench.states()[0], PeerState::Unknown);
    assert_eq!(bench.accept(1, LIFE + 5, Some(LIFE), 501 * MS), [""; 0]);
}

#[test]
fn events_of_an_old_life_are_counted_and_nothing_else() {
    let mut bench = Bench::up();
    let mut event = Event { cell: cell(0, 1) as u32, to: WATCHED | HEARD | GONE, ..Event::default() };
    event.incarnation = LIFE - 1;
    bench.accept(2, LIFE + 1, Some(LIFE), 300 * MS);
    assert_eq!(bench.input(Input::Cell(event), 301 * MS), [""; 0]);
    let by_timer = Event { stamp_ns: 299 * MS, by_timer: 1, cell: cell(1, 2) as u32, to: GONE, ..event };
    assert_eq!(bench.input(Input::Cell(by_timer), 301 * MS), [""; 0]);
    for cell in [cell(0, 9), cell(5, 1), cell(0, 0), 5000] {
        assert_eq!(bench.input(Input::Cell(Event { cell: cell as u32, ..event }), 301 * MS), [""; 0]);
    }
    assert_eq!(bench.detector.counters().stale_events, 6);
}

#[test]
fn an_own_link_that_is_down_accuses_nobody() {
    let mut bench = Bench::up();
    assert_eq!(bench.own(0, false, 200 * MS), ["own_link_down - 0"]);
    assert_eq!(bench.detector.edge_state(0, 1), EdgeState::OwnDown);
    assert_eq!(bench.late(0, 1, 210 * MS), [""; 0]);
    assert_eq!(bench.states(), [PeerState::Up; 2]);
    // The only link that can still say something says it.
    assert_eq!(bench.late(1, 1, 220 * MS), ["peer_down 1 1", "link_down 1 1", "-1"]);
    assert_eq!(bench.own(1, false, 230 * MS), ["own_link_down - 1", "alone - -", "-2"]);
    assert_eq!(bench.late(1, 2, 240 * MS), [""; 0]);
    assert_eq!(bench.states(), [PeerState::Down, PeerState::Unknown]);
    assert_eq!(bench.detector.heard(), 0b1);
    assert_eq!(bench.detector.next_timeout(), None);
    assert_eq!(bench.own(1, false, 250 * MS), [""; 0]);
    // Back, but nobody is heard: those that were up before get a deadline.
    assert_eq!(bench.own(1, true, 300 * MS), ["own_link_up - 1", "not_alone - -"]);
    assert_eq!(bench.due(), (320 * MS, vec!["link_down 2 1".into(), "peer_down 2 1".into()]));
}

#[test]
fn an_own_link_that_comes_back_is_damped() {
    let mut bench = Bench::up();
    bench.own(0, false, 200 * MS);
    bench.own(1, false, 200 * MS);
    // The cells of link 0 went late meanwhile, those of link 1 did not: their word may be old news.
    bench.late(0, 1, 205 * MS);
    bench.late(0, 2, 205 * MS);
    assert_eq!(bench.own(1, true, 210 * MS), ["own_link_up - 1", "not_alone - -", "+1", "+2"]);
    assert_eq!(bench.detector.edge_state(1, 1), EdgeState::Damped);
    assert_eq!(bench.late(1, 1, 230 * MS), ["peer_down 1 1", "link_down 1 1", "-1"], "it was");
    assert_eq!(bench.due(), (260 * MS, vec!["link_up 2 1".into()]));
    assert_eq!(bench.states(), [PeerState::Down, PeerState::Up]);
}

#[test]
fn a_link_never_heard_gets_a_deadline_when_the_only_other_one_is_lost_here() {
    let mut bench = Bench::new();
    bench.frame(0, 1, 0, 100 * MS);
    assert_eq!(bench.own(0, false, 101 * MS), ["own_link_down - 0", "-1"]);
    assert_eq!(bench.states()[0], PeerState::Up);
    assert_eq!(bench.due(), (121 * MS, vec!["peer_down 1 1".into()]));
}

#[test]
fn a_node_that_goes_dark_link_by_link_accuses_nobody() {
    let mut bench = Bench::up();
    bench.late(0, 1, 200 * MS);
    bench.due();
    assert_eq!(bench.own(1, false, 300 * MS), ["own_link_down - 1", "-1"]);
    assert_eq!(bench.states()[0], PeerState::Up, "link 0 has been down for long; nothing is new");
    assert_eq!(bench.own(0, false, 301 * MS), ["own_link_down - 0", "alone - -", "-2"]);
    assert_eq!(bench.detector.next_timeout(), None);
    // The same, and link 0 stays: then the peer is down, a deadline later.
    let mut bench = Bench::up();
    bench.late(0, 1, 200 * MS);
    bench.due();
    bench.own(1, false, 300 * MS);
    assert_eq!(bench.due(), (320 * MS, vec!["peer_down 1 0".into()]));
}

#[test]
fn a_silence_that_began_before_an_own_link_was_back_accuses_nobody() {
    let mut bench = Bench::up();
    bench.own(0, false, 200 * MS);
    bench.own(1, false, 200 * MS);
    // The daemon stood still, and finds it all at once: the link is back, and the ring is full of old news.
    bench.own(0, true, 900 * MS);
    assert_eq!(bench.late(0, 1, 220 * MS), ["-1"]);
    assert_eq!(bench.detector.edge_state(0, 1), EdgeState::Unknown);
    assert_eq!(bench.late(0, 2, 910 * MS), ["-2"], "unanswered since 895 ms");
    assert_eq!(bench.frame(0, 1, 0, 800 * MS), ["+1"]);
    assert_eq!(bench.due(), (920 * MS, vec!["link_down 2 0".into(), "peer_down 2 0".into()]), "still silent");
    assert_eq!(bench.due(), (950 * MS, vec!["link_up 1 0".into()]));
    assert_eq!(bench.states(), [PeerState::Up, PeerState::Down]);
}

#[test]
fn causes_names_and_sequence_numbers() {
    let mut bench = Bench::new();
    bench.detector.handle(
        Input::Cell(Event {
            cell: cell(1, 2) as u32,
            from: WATCHED,
            to: WATCHED | HEARD | STALLED,
            stamp_ns: 500 * MS,
            heard_ns: 4,
            daemon_age_us: 120_000,
            incarnation: LIFE,
            ..Event::default()
        }),
        500 * MS,
    );
    let told: Vec<Told> = std::iter::from_fn(|| bench.detector.poll_output())
        .filter_map(|output| if let Output::Told(told) = output { Some(told) } else { None })
        .collect();
    assert_eq!(told.iter().map(|told| told.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(told[0].kind, ToldKind::LinkUp { cause: UpCause::First });
    assert_eq!(told[1].kind.name(), "peer_up");
    assert_eq!((told[2].kind.name(), told[2].incarnation), ("peer_stalled", LIFE));
    assert_eq!(told[2].evidence.daemon_age_us, 120_000);
    assert_eq!(told[0].evidence.heard_ns, 4);
    assert_eq!(bench.states()[1].name(), "stalled");
}
