//! Machines that talk to one another at once, or not at all.

mod clauses;
mod electorates;
mod lives;
mod mute;
mod rings;
mod storm;

use std::collections::{BTreeMap, VecDeque};

use super::electorate::Standing;
use super::*;

const MS: u64 = 1_000_000;

/// Some machines, and what they have done.
#[derive(Clone)]
struct Cluster {
    machines: BTreeMap<u8, Membership>,
    /// Pairs that do not reach one another, one way.
    cut: Vec<(u8, u8)>,
    waiting: VecDeque<(u8, u8, Vec<u8>)>,
    now_ns: u64,
    announced: Vec<(u8, View)>,
    installed: Vec<(u8, Announcement)>,
    /// Who has said so, and when.
    confirmed: Vec<(u8, u64)>,
    /// Messages so far.
    sent: u64,
    /// Nodes whose disks hang.
    hung: u64,
    /// Pairs that hear one another's heartbeats, and no messages; one way.
    mute: Vec<(u8, u8)>,
    mutation: Mutation,
    /// Whether a view was installed somewhere before each of its members had announced it.
    early: bool,
}

impl Cluster {
    fn new(count: u8, resources: usize) -> Self {
        Self::with(count, |config| config.resources = vec![ResourceConfig { failback: false }; resources])
    }

    fn with(count: u8, change: impl Fn(&mut Config)) -> Self {
        let mut cluster = Self {
            machines: BTreeMap::new(),
            cut: Vec::new(),
            waiting: VecDeque::new(),
            now_ns: 1000 * MS,
            announced: Vec::new(),
            installed: Vec::new(),
            confirmed: Vec::new(),
            sent: 0,
            hung: 0,
            mute: Vec::new(),
            mutation: Mutation::None,
            early: false,
        };
        for own in 0..count {
            cluster.boot(own, count, 1, 0, &change);
        }
        cluster
    }

    fn boot(&mut self, own: u8, count: u8, life: u64, ceiling: u64, change: impl Fn(&mut Config)) {
        let nodes = (0..count).map(|slot| NodeConfig { slot, votes: 1, witness: false }).collect();
        let mut config = Config {
            own,
            incarnation: life << 32 | u64::from(own),
            config_version: 1,
            lease_us: 5000,
            nodes,
            resources: Vec::new(),
            interval_ns: MS,
            ceiling,
            announced_floor: 0,
            mute_ns: 2000 * MS,
            quiet_until_ns: 0,
            started_ns: self.now_ns,
            standing: Standing { confirmed: true, again: false, sole: true },
            adopted: None,
        };
        change(&mut config);
        let incarnation = config.incarnation;
        self.waiting.retain(|(from, to, _)| *from != own && *to != own);
        let mut machine = Membership::mutated(config, self.mutation);
        for (slot, peer) in &mut self.machines {
            let both = peer.everybody >> own & machine.everybody >> *slot & 1 != 0;
            if both && *slot != own && !self.cut.contains(&(*slot, own)) && !self.cut.contains(&(own, *slot))
            {
                peer.handle(Input::Accepted { slot: own, incarnation }, self.now_ns);
                machine.handle(
                    Input::Accepted { slot: *slot, incarnation: peer.config.incarnation },
                    self.now_ns,
                );
            }
        }
        self.machines.insert(own, machine);
    }

    fn give(&mut self, slot: u8, input: Input) {
        let Some(machine) = self.machines.get_mut(&slot) else { return };
        machine.handle(input, self.now_ns);
        self.drain(slot);
    }

    fn drain(&mut self, slot: u8) {
        while let Some(output) = self.machines.get_mut(&slot).and_then(Membership::poll_output) {
            match output {
                Output::Announce { view, .. } => self.announced.push((slot, view)),
                Output::Install { installed, .. } => {
                    let view = installed.view;
                    self.early |= bits(view.members).any(|member| !self.announced.contains(&(member, view)));
                    self.installed.push((slot, installed));
                }
                Output::Reserve { .. } if self.hung >> slot & 1 != 0 => {}
                Output::Reserve { ceiling } => {
                    let machine = self.machines.get_mut(&slot).expect("there");
                    machine.handle(Input::Reserved { ceiling }, self.now_ns);
                }
                Output::Send { to, bytes } => {
                    self.sent += u64::from(to.count_ones());
                    self.waiting.extend(bits(to).map(|to| (slot, to, bytes.clone())));
                }
                Output::Confirmed => self.confirmed.push((slot, self.now_ns)),
                Output::Differs { .. } => {}
            }
        }
    }

    fn deliver(&mut self) {
        let before = self.sent;
        while let Some((from, to, bytes)) = self.waiting.pop_front() {
            let Some(incarnation) = self.machines.get(&from).map(|machine| machine.config.incarnation) else {
                continue;
            };
            assert!(self.sent - before < 1_000_000, "messages without end");
            let life = self.machines.get(&from).map(|machine| machine.lives[usize::from(to)]);
            if life != self.machines.get(&to).map(|machine| machine.config.incarnation) {
                // To a life that is over, or to one that is not known yet.
                continue;
            }
            if !self.cut.contains(&(from, to)) && !self.mute.contains(&(from, to)) {
                self.give(to, Input::Message { from, incarnation, bytes });
            }
        }
    }

    /// Whom each hears, as the cuts have it.
    fn look(&mut self) {
        let slots: Vec<u8> = self.machines.keys().copied().collect();
        for (own, slot) in slots.iter().flat_map(|own| slots.iter().map(move |slot| (*own, *slot))) {
            let (here, there) = (&self.machines[&own], &self.machines[&slot]);
            let both = here.everybody >> slot & there.everybody >> own & 1 != 0;
            let is_cut = self.cut.contains(&(own, slot)) || self.cut.contains(&(slot, own));
            if own != slot && both && !is_cut {
                let incarnation = there.config.incarnation;
                self.give(own, Input::Accepted { slot, incarnation });
            }
        }
        for own in &slots {
            let heard = slots.iter().filter(|slot| !self.cut.contains(&(**slot, *own)));
            let heard = heard.fold(0, |set, slot| set | 1 << slot) & self.machines[own].everybody;
            self.give(*own, Input::Row { heard });
        }
        self.deliver();
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ns += MS;
            for slot in self.machines.keys().copied().collect::<Vec<_>>() {
                if self.machines[&slot].next_timeout().is_some_and(|at| at <= self.now_ns) {
                    self.give(slot, Input::Timeout);
                }
            }
            self.deliver();
        }
    }

    fn views(&self) -> Vec<u64> {
        self.machines.values().map(|machine| machine.installed().view.members).collect()
    }

    fn owner(&self, by: u8) -> u8 {
        self.machines[&by].installed().owners[0]
    }

    fn up(&mut self) {
        for slot in self.machines.keys().copied().collect::<Vec<_>>() {
            self.give(slot, Input::Able { resources: 1 });
        }
        self.look();
    }

    fn cut_both(&mut self, a: u8, b: u8) {
        self.cut.extend([(a, b), (b, a)]);
    }
}

#[test]
fn all_agree_at_once_when_all_are_there() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    assert_eq!(cluster.views(), [0b111; 3], "without any timer");
    assert_eq!([0, 1, 2].map(|slot| cluster.owner(slot)), [0; 3]);
    let before = cluster.announced.len();
    cluster.run(3000);
    assert_eq!(cluster.announced.len(), before, "and then there is peace");
}

#[test]
fn a_death_needs_no_timer() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    cluster.machines.remove(&0);
    cluster.look();
    assert_eq!(cluster.views(), [0b110; 2]);
    assert_eq!(cluster.owner(1), 1, "the lowest that is left");
    assert!(cluster.machines[&1].is_quorate());
}

#[test]
fn the_holder_stays_when_the_lower_one_comes_back() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    let ceiling = cluster.machines[&0].ceiling;
    cluster.machines.remove(&0);
    cluster.look();
    cluster.run(100);
    cluster.boot(0, 3, 2, ceiling, |config| config.resources = vec![ResourceConfig { failback: false }]);
    cluster.up();
    cluster.run(50);
    assert_eq!(cluster.views(), [0b111; 3]);
    assert_eq!([0, 1, 2].map(|slot| cluster.owner(slot)), [1; 3]);
    let epoch = cluster.machines[&0].installed().view.epoch;
    assert!(epoch > ceiling, "nothing that the life before may have announced");
}

#[test]
fn failback_goes_to_the_lowest() {
    let failback = |config: &mut Config| config.resources = vec![ResourceConfig { failback: true }];
    let mut cluster = Cluster::with(3, failback);
    cluster.up();
    cluster.machines.remove(&0);
    cluster.look();
    assert_eq!(cluster.owner(1), 1);
    cluster.boot(0, 3, 2, 9000, failback);
    cluster.up();
    cluster.run(50);
    assert_eq!([0, 1, 2].map(|slot| cluster.owner(slot)), [0; 3]);
}

#[test]
fn the_minority_owns_nothing() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    cluster.cut_both(0, 1);
    cluster.cut_both(0, 2);
    cluster.look();
    cluster.run(20);
    assert_eq!(cluster.views(), [0b001, 0b110, 0b110]);
    assert_eq!([0, 1, 2].map(|slot| cluster.owner(slot)), [NOBODY, 1, 1]);
    assert!(!cluster.machines[&0].is_quorate());
    cluster.cut.clear();
    cluster.look();
    cluster.run(20);
    assert_eq!(cluster.views(), [0b111; 3]);
    assert_eq!([0, 1, 2].map(|slot| cluster.owner(slot)), [1; 3]);
}

#[test]
fn a_cut_between_two_settles() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    cluster.cut_both(0, 2);
    cluster.look();
    cluster.run(100);
    assert_eq!(cluster.views(), [0b011, 0b011, 0b100]);
    let before = cluster.announced.len();
    cluster.run(5000);
    assert_eq!(cluster.announced.len(), before, "no endless re-forming");
}

#[test]
fn a_one_way_cut_settles() {
    let mut cluster = Cluster::new(4, 1);
    cluster.up();
    cluster.cut.push((1, 3));
    cluster.look();
    cluster.run(100);
    assert_eq!(cluster.views()[0].count_ones(), 3);
    let before = cluster.announced.len();
    cluster.run(5000);
    assert_eq!(cluster.announced.len(), before, "{:?}", &cluster.announced[before..before + 8]);
}

#[test]
fn an_owner_that_cannot_serve_gives_way() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    cluster.run(10);
    cluster.give(0, Input::Able { resources: 0 });
    cluster.deliver();
    cluster.run(10);
    assert_eq!([0, 1, 2].map(|slot| cluster.owner(slot)), [1; 3]);
    assert_eq!(cluster.views(), [0b111; 3]);
}

#[test]
fn another_configuration_is_told_and_left_out() {
    let mut cluster = Cluster::with(3, |config| config.lease_us = if config.own == 2 { 6000 } else { 5000 });
    cluster.look();
    cluster.run(300);
    assert_eq!(cluster.views(), [0b011, 0b011, 0b100]);
}

#[test]
fn a_restart_that_nobody_noticed_makes_a_new_view() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    let before = cluster.machines[&1].installed().view;
    cluster.boot(2, 3, 2, 5000, |config| config.resources = vec![ResourceConfig { failback: false }]);
    cluster.up();
    cluster.run(50);
    assert_eq!(cluster.views(), [0b111; 3]);
    assert!(cluster.machines[&1].installed().view > before);
}

#[test]
fn ids_rise_at_every_node() {
    let mut cluster = Cluster::new(5, 1);
    cluster.up();
    for round in 0..40u8 {
        cluster.cut_both(round % 5, (round / 2 + 1) % 5);
        cluster.look();
        cluster.run(7);
        if round % 3 == 0 {
            cluster.cut.clear();
            cluster.look();
            cluster.run(9);
        }
    }
    for slot in 0..5 {
        let own: Vec<View> =
            cluster.announced.iter().filter(|(by, _)| *by == slot).map(|(_, view)| *view).collect();
        assert!(own.is_sorted_by(|a, b| a < b), "{own:?}");
        assert!(own.len() > 3);
    }
}

#[test]
fn what_is_pinned_as_announced_counts_where_the_state_folder_is_lost() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    let announced = cluster.machines[&0].announced();
    assert!(announced.is_some());
    // Alone in its new life, the others are gone as well: nothing but the pins says what was announced.
    cluster.machines.clear();
    cluster.boot(0, 3, 2, 0, |config| config.announced_floor = announced.epoch);
    let before = cluster.announced.len();
    cluster.look();
    cluster.run(2000);
    assert!(cluster.announced.len() > before);
    assert!(cluster.announced[before..].iter().all(|(_, view)| *view > announced));
}

#[test]
fn a_node_that_leaves_is_left_out_at_once() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    cluster.give(0, Input::Leaving);
    cluster.deliver();
    cluster.run(2);
    assert_eq!(cluster.views()[1..], [0b110; 2]);
    assert_eq!(cluster.owner(1), 1);
}

#[test]
fn what_is_released_is_not_taken_up_again() {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    cluster.cut_both(0, 2);
    cluster.look();
    cluster.run(100);
    cluster.cut.clear();
    // A view that this node announces, and leaves before the others have.
    cluster.cut = (1..3).map(|from| (from, 0)).collect();
    let before = cluster.installed.iter().filter(|(by, _)| *by == 0).count();
    cluster.give(0, Input::Row { heard: 0b111 });
    cluster.give(0, Input::Leaving);
    cluster.cut.clear();
    cluster.look();
    cluster.run(100);
    assert_eq!(cluster.installed.iter().filter(|(by, _)| *by == 0).count(), before);
}

#[test]
fn a_hand_over_goes_on_in_the_same_view() {
    (0..3).for_each(hands_over);
}

#[test]
fn a_hand_over_in_an_announcement_that_nobody_heard_comes_to_an_end() {
    for own in 0..3 {
        let mut cluster = Cluster::new(3, 1);
        cluster.up();
        cluster.run(3000);
        let installed = *cluster.machines[&own].installed();
        // The daemon before has announced a view, and each of its messages was lost.
        let view = View::new(installed.view.epoch + 1, own, 0b111, 5000, 1);
        let mut own_part = installed;
        own_part.owners.iter_mut().filter(|owner| **owner != own).for_each(|owner| *owner = NOBODY);
        cluster.boot(own, 3, 1, 4096, |config| {
            config.resources = vec![ResourceConfig { failback: false }];
            config.adopted = Some(Adopted { installed: own_part, announced: view, heard: 0b111 });
        });
        cluster.up();
        cluster.run(2000);
        if own == 0 {
            assert!(cluster.machines[&0].installed().view > view, "the lowest proposes anew");
        }
        // Others can still leave, and be left.
        cluster.machines.remove(&((own + 1) % 3));
        cluster.look();
        cluster.run(2000);
        let views = cluster.views();
        assert_eq!(views[0].count_ones(), 2, "{own}: {views:?}");
        assert_eq!(views[0], views[1]);
        assert!(cluster.machines[&own].installed().view > view);
    }
}

/// The daemon of one node is replaced; the holder is the first.
fn hands_over(own: u8) {
    let mut cluster = Cluster::new(3, 1);
    cluster.up();
    cluster.run(300);
    let (installed, announced) = (*cluster.machines[&own].installed(), cluster.machines[&own].announced());
    let before = cluster.announced.len();
    let mut own_part = installed;
    for owner in own_part.owners.iter_mut().filter(|owner| **owner != own) {
        *owner = NOBODY;
    }
    cluster.boot(own, 3, 1, 4096, |config| {
        config.resources = vec![ResourceConfig { failback: false }];
        config.adopted = Some(Adopted { installed: own_part, announced, heard: 0b111 });
    });
    cluster.look();
    cluster.up();
    cluster.run(1000);
    assert_eq!(cluster.announced.len(), before, "no new view: {:?}", &cluster.announced[before - 1..]);
    assert_eq!(cluster.machines[&own].installed(), &installed);
}
