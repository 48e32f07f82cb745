//! Groups on rings that are thought of: each component of nodes has one order of messages, and components part and meet.

use proptest::prelude::*;

use super::*;
use crate::limits::GROUP_HELD_MAX;

fn name(text: &str) -> Name {
    Name::new(Bytes::copy_from_slice(text.as_bytes())).expect("a name")
}

/// A node: its groups, the ring's messages of it that wait, and what it was told.
struct Node {
    groups: Groups,
    waiting: VecDeque<Bytes>,
    told: Vec<Output>,
    /// What each of its groups looks like by what it was told.
    seen: BTreeMap<Name, BTreeSet<Member>>,
}

impl Node {
    fn drain(&mut self) {
        while let Some(output) = self.groups.poll_output() {
            match &output {
                Output::First { bytes } => self.waiting.push_front(bytes.clone()),
                Output::Configuration { group, members, left, joined } => {
                    let seen = self.seen.entry(group.clone()).or_default();
                    for (member, _) in left {
                        assert!(
                            seen.remove(member) || joined.is_empty(),
                            "{member:?} goes and was not there"
                        );
                    }
                    seen.extend(members);
                    assert_eq!(seen.iter().copied().collect::<Vec<_>>(), *members, "changes add up");
                    let own = self.groups.own;
                    if !members.iter().any(|member| member.slot == own) {
                        self.seen.remove(group);
                    }
                    self.told.push(output);
                }
                Output::Message { group, from, .. } => {
                    assert!(self.seen[group].contains(from), "a message of {from:?}, who is not known");
                    self.told.push(output);
                }
            }
        }
    }
}

struct Rings {
    nodes: Vec<Node>,
    /// The component of each node.
    component: Vec<u8>,
}

impl Rings {
    fn new(count: u8) -> Self {
        let node = |own| Node {
            groups: Groups::new(own),
            waiting: VecDeque::new(),
            told: Vec::new(),
            seen: BTreeMap::new(),
        };
        let mut rings =
            Self { nodes: (0..count).map(node).collect(), component: vec![0; usize::from(count)] };
        rings.nodes.iter_mut().for_each(|node| {
            node.groups.regular((1 << count) - 1);
            node.drain();
        });
        rings
    }

    /// The ring lets a node send one message.
    fn turn(&mut self, slot: u8) {
        let Some(bytes) = self.nodes[usize::from(slot)].waiting.pop_front() else { return };
        let component = self.component[usize::from(slot)];
        for (node, of) in self.nodes.iter_mut().zip(&self.component) {
            if *of == component {
                node.groups.delivered(slot, bytes.clone());
                node.drain();
            }
        }
    }

    fn settle(&mut self) {
        while let Some(slot) = self.nodes.iter().position(|node| !node.waiting.is_empty()) {
            self.turn(slot as u8);
        }
    }

    /// Every node is in the component that it is given.
    fn part(&mut self, components: &[u8]) {
        let before = self.component.clone();
        for slot in 0..self.nodes.len() {
            self.component[slot] = components[slot % components.len()];
        }
        for (slot, node) in self.nodes.iter_mut().enumerate() {
            let with = (0..before.len())
                .filter(|other| {
                    before[*other] == before[slot] && self.component[*other] == self.component[slot]
                })
                .fold(0, |set, other| set | 1 << other);
            node.groups.transitional(with);
            node.drain();
            let members = (0..before.len())
                .filter(|other| self.component[*other] == self.component[slot])
                .fold(0, |set, other| set | 1 << other);
            node.groups.regular(members);
            node.drain();
        }
    }

    fn ask(&mut self, slot: u8, deed: &Deed) {
        let node = &mut self.nodes[usize::from(slot)];
        match deed {
            Deed::Join(group, pid) => {
                if let Ok(bytes) = node.groups.join(&name(group), *pid) {
                    node.groups.asked_in(name(group), *pid);
                    node.waiting.push_back(bytes);
                }
            }
            Deed::Leave(group, pid, has_ended) => {
                node.waiting.extend(node.groups.leave(&name(group), *pid, *has_ended));
            }
            Deed::Send(group, pid, text) => {
                node.waiting.extend(node.groups.send(&name(group), *pid, Piece::default(), text));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Deed {
    Join(&'static str, u32),
    Leave(&'static str, u32, bool),
    Send(&'static str, u32, Vec<u8>),
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u8, Deed),
    Turn(u8),
    Part(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let of = prop_oneof![Just("a"), Just("b")];
    let deed = (of, 1u32..4, 0u8..8, any::<Vec<u8>>()).prop_map(|(group, pid, kind, text)| match kind {
        0..2 => Deed::Join(group, pid),
        2 => Deed::Leave(group, pid, pid == 2),
        _ => Deed::Send(group, pid, text),
    });
    prop_oneof![
        6 => (0u8..4, deed).prop_map(|(slot, deed)| Step::Ask(slot, deed)),
        8 => (0u8..4).prop_map(Step::Turn),
        1 => proptest::collection::vec(0u8..3, 4).prop_map(Step::Part),
    ]
}

proptest! {
    /// Nobody is told what does not add up ([`Node::drain`]), and those who are together know the same members.
    #[test]
    fn those_who_are_together_see_the_same(steps in proptest::collection::vec(step(), 0..200)) {
        let mut rings = Rings::new(4);
        rings.settle();
        for step in &steps {
            match step {
                Step::Ask(slot, deed) => rings.ask(*slot, deed),
                Step::Turn(slot) => rings.turn(*slot),
                Step::Part(components) => rings.part(components),
            }
        }
        rings.settle();
        for (node, component) in rings.nodes.iter().zip(&rings.component) {
            let first = rings.component.iter().position(|of| of == component).expect("itself");
            prop_assert_eq!(&node.groups.groups, &rings.nodes[first].groups.groups);
            let mine: BTreeSet<(Name, u32)> = node.groups.all().flat_map(|(group, members)| {
                let own = members.iter().filter(|member| member.slot == node.groups.own);
                own.map(|member| (group.clone(), member.pid))
            }).collect();
            prop_assert_eq!(&mine, &node.groups.places);
        }
        // All in one again, and all know all.
        rings.part(&[0]);
        rings.settle();
        let marks: Vec<usize> = rings.nodes.iter().map(|node| node.told.len()).collect();
        for slot in 0..4 {
            rings.ask(slot, &Deed::Join("a", 9));
            rings.ask(slot, &Deed::Send("a", 9, vec![slot]));
        }
        rings.settle();
        let last = |slot: usize| {
            let messages = rings.nodes[slot].told[marks[slot]..].iter();
            messages.filter(|told| matches!(told, Output::Message { .. })).cloned().collect::<Vec<_>>()
        };
        let (one, other) = (last(3), last(0));
        prop_assert_eq!(one.last(), other.last());
        prop_assert_eq!(&rings.nodes[0].groups.groups, &rings.nodes[3].groups.groups);
    }
}

/// In words: who comes, who goes, and why.
fn changes(node: &Node) -> Vec<String> {
    let told = node.told.iter().filter_map(|told| match told {
        Output::Configuration { group, members, left, joined } => {
            let who = |(member, reason): &(Member, Reason)| {
                format!("{}.{} {}", member.slot, member.pid, reason.name())
            };
            let left: Vec<String> = left.iter().map(who).collect();
            let joined: Vec<String> = joined.iter().map(who).collect();
            Some(format!("{group} {} -[{}] +[{}]", members.len(), left.join(", "), joined.join(", ")))
        }
        Output::Message { from, bytes, .. } => {
            Some(format!("{}.{}: {}", from.slot, from.pid, bytes.escape_ascii()))
        }
        Output::First { .. } => None,
    });
    told.collect()
}

#[test]
fn a_partition_and_its_end_have_their_reasons() {
    let mut rings = Rings::new(3);
    rings.settle();
    for slot in 0..3 {
        rings.ask(slot, &Deed::Join("a", 1));
    }
    rings.settle();
    rings.part(&[0, 0, 1]);
    rings.settle();
    rings.ask(2, &Deed::Send("a", 1, b"alone".to_vec()));
    rings.settle();
    rings.ask(2, &Deed::Send("a", 1, b"to all".to_vec()));
    rings.part(&[0]);
    rings.settle();
    rings.ask(1, &Deed::Leave("a", 1, true));
    rings.ask(0, &Deed::Leave("a", 1, false));
    rings.settle();
    let first = [
        "a 1 -[] +[0.1 join]",
        "a 2 -[] +[1.1 join]",
        "a 3 -[] +[2.1 join]",
        "a 2 -[2.1 node_down] +[]",
        "a 3 -[] +[2.1 node_up]",
        "2.1: to all",
        "a 2 -[0.1 leave] +[]",
    ];
    assert_eq!(changes(&rings.nodes[0]), first);
    let last = [
        "a 3 -[] +[2.1 join]",
        "a 1 -[0.1 node_down, 1.1 node_down] +[]",
        "2.1: alone",
        "a 3 -[] +[0.1 node_up, 1.1 node_up]",
        "2.1: to all",
        "a 2 -[0.1 leave] +[]",
        "a 1 -[1.1 process_down] +[]",
    ];
    assert_eq!(changes(&rings.nodes[2]), last);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut groups = Groups::new(0);
    let group = name("a");
    assert_eq!(groups.send(&group, 1, Piece::default(), b"x"), Err(Refused::NotMember));
    assert_eq!(groups.leave(&group, 1, false), Err(Refused::NotMember));
    groups.join(&group, 1).expect("room");
    groups.asked_in(group.clone(), 1);
    assert_eq!(groups.join(&group, 1), Err(Refused::Exists));
    for pid in 2..=GROUP_MEMBERS_MAX as u32 {
        groups.join(&group, pid).expect("room");
        groups.asked_in(group.clone(), pid);
    }
    assert_eq!(groups.join(&group, 1000), Err(Refused::Full));
    assert!(Name::new(Bytes::new()).is_none() && Name::new(vec![b'n'; 129].into()).is_none());
}

/// A node that never tells of its processes does not hold up the others without end, nor all their memory.
#[test]
fn what_is_held_back_is_bounded() {
    let mut groups = Groups::new(0);
    let group = name("a");
    groups.regular(0b11);
    groups.delivered(0, Message::Roll(Vec::new()).to_bytes());
    let join = groups.join(&group, 1).expect("room");
    groups.asked_in(group.clone(), 1);
    groups.delivered(0, join);
    let message = groups.send(&group, 1, Piece::default(), &[7; 1 << 20]).expect("a member");
    let mut sent = 0;
    while !groups.outputs.iter().any(|output| matches!(output, Output::Message { .. })) {
        assert!(sent <= GROUP_HELD_MAX >> 20, "held without end");
        groups.delivered(0, message.clone());
        sent += 1;
    }
    assert!(groups.held.is_empty() && !groups.knows_all());
    let told = groups.outputs.iter().filter(|output| matches!(output, Output::Message { .. })).count();
    assert_eq!(told, sent, "and nothing is lost");
}
