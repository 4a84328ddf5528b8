//! Placement followed over time: every plan is carried out, as the leaders of the groups would.

use super::*;
use crate::command::{NodeRecord, Removal};
use crate::control::{ClusterConfig, LEVEL, MEMBERSHIP_LEVEL};
use crate::effect::{Effect, Reply};
use crate::ids::{Incarnation, LogIndex, StreamId};
use crate::testing::{Driven, Random, node_record, replies, text};

/// Never lost.
const OPERATOR: StreamId = StreamId::Node(NodeId(1000), Incarnation(1));

/// A cluster whose groups follow their placement when they are told to.
struct World {
    group: Driven<Control>,
    index: u64,
    /// Members of each group as its leader sees them.
    members: BTreeMap<GroupId, Vec<NodeId>>,
}

fn record(id: u64, zone: &str) -> NodeRecord {
    let record = node_record(id, &format!("n{id}"), id as u8, 1);
    NodeRecord { zone: text(zone), level: LEVEL, ..record }
}

impl World {
    fn new(zones: &[&str], partitions: u32) -> World {
        let config = ClusterConfig { cluster_id: [7; 16], name: text("lab"), partitions, replication: 3 };
        let records: Vec<NodeRecord> = (1..).zip(zones).map(|(id, zone)| record(id, zone)).collect();
        let control = Control::bootstrap(config, &records);
        let members = control.placement.clone();
        let mut world = World { group: Driven::new(control), index: 10, members };
        for record in records {
            world.command(Command::NodeUp { node: record });
        }
        world
    }

    fn command(&mut self, command: Command) -> Vec<Effect> {
        let effects = self.group.run_from(OPERATOR, &[command]);
        self.group.machine.check();
        effects
    }

    fn refused(&mut self, command: Command) -> Option<String> {
        match &replies(&self.command(command))[..] {
            [Reply::Refused(why)] => Some(why.as_str().to_owned()),
            _ => None,
        }
    }

    fn join(&mut self, name: u64, zone: &str) -> u64 {
        let id = self.group.machine.next_node_id().0;
        let own = NodeRecord { name: text(&format!("n{name}")), disk: [id as u8; 16], ..record(id, zone) };
        let joins = NodeRecord { id: NodeId(0), incarnation: Incarnation(0), ..own.clone() };
        self.command(Command::NodeJoin { node: joins });
        self.command(Command::NodeUp { node: own });
        id
    }

    fn lose(&mut self, id: u64) {
        let incarnation = self.group.machine.node(NodeId(id)).unwrap().0.incarnation;
        self.command(Command::NodeLost { node: NodeId(id), incarnation });
    }

    fn remove(&mut self, id: u64) -> Option<String> {
        self.refused(Command::NodeRemove { node: NodeId(id), removal: Removal::Remove })
    }

    /// The leader of a group has done what its placement wants, and tells so.
    fn follow(&mut self, group: GroupId) {
        let on = self.group.machine.placement(group).to_vec();
        self.members.insert(group, on);
        self.tell(group);
    }

    fn tell(&mut self, group: GroupId) {
        self.index += 1;
        let voters = self.members.get(&group).cloned().unwrap();
        let index = LogIndex(self.index);
        self.command(Command::Members { group, index, voters, learners: Vec::new() });
    }

    /// Carries the present plan out. Whether there was one.
    fn step(&mut self) -> bool {
        let steps = self.group.machine.plan(self.group.machine.state.now);
        for step in &steps {
            assert_eq!(self.refused(step.clone()), None, "{step:?} of {steps:?}");
        }
        !steps.is_empty()
    }

    /// Until nothing is left to be done; gives how many partitions were placed anew.
    fn settle(&mut self) -> usize {
        let (mut moves, mut idle) = (0, 0);
        for _ in 0..500 {
            let before = self.group.machine.placement.clone();
            let any = self.step();
            let control = &self.group.machine;
            let underway: Vec<GroupId> = control.moves().iter().map(|one| one.group).collect();
            let partitions = underway.iter().filter(|group| **group != CONTROL);
            assert!(partitions.count() <= MOVES_MAX, "{underway:?}");
            moves += control
                .placement
                .iter()
                .filter(|(id, on)| **id != CONTROL && before.get(id) != Some(on))
                .count();
            idle = if any || !underway.is_empty() { 0 } else { idle + 1 };
            if idle > 8 {
                return moves;
            }
            // Time passes in which clients go.
            self.group.machine.state.now.0 += 9_000;
            underway.into_iter().for_each(|group| self.follow(group));
        }
        panic!("it does not come to an end: {:?}", self.group.machine.plan(self.group.machine.state.now));
    }

    fn loads(&self) -> BTreeMap<u64, usize> {
        let states = self.group.machine.member_states();
        states.iter().map(|state| (state.node.0, state.placed as usize)).collect()
    }

    fn is_even(&self) -> bool {
        let loads = self.loads();
        loads.values().max().unwrap() - loads.values().min().unwrap() <= 1
    }
}

#[test]
fn three_nodes_become_five_and_three_again_with_replicas_spread_evenly() {
    let mut world = World::new(&[""; 3], 16);
    assert_eq!(world.settle(), 0, "all is well at the beginning");
    let (fourth, fifth) = (world.join(4, ""), world.join(5, ""));
    // 48 replicas: 18 or 19 of them are on the new nodes.
    assert!((18..=19).contains(&world.settle()), "nothing moves twice");
    assert!(world.is_even(), "{:?}", world.loads());
    assert_eq!(world.group.machine.placement(CONTROL).len(), 5);
    assert_eq!(world.remove(fourth), None);
    assert_eq!(world.remove(fifth), None);
    assert_eq!(world.remove(fifth), None, "asked again");
    assert!(world.remove(1).unwrap().contains("fewer nodes"), "three are needed");
    world.settle();
    assert_eq!(world.loads(), BTreeMap::from([(1, 16), (2, 16), (3, 16)]));
    for node in [fourth, fifth].map(NodeId) {
        assert_eq!(world.group.machine.node(node).unwrap().1, NodeStatus::Removed);
        assert!(world.group.machine.has_left(node));
    }
    assert_eq!(world.group.machine.placement(CONTROL), [1, 2, 3].map(NodeId));
    assert_eq!(world.remove(fourth), Some("there is no such node".to_owned()));
}

#[test]
fn node_is_not_forgotten_before_every_group_has_told_that_it_is_rid_of_it() {
    let mut world = World::new(&[""; 4], 8);
    world.settle();
    world.remove(4);
    let mut seen = false;
    for _ in 0..40 {
        world.step();
        world.group.machine.state.now.0 += 3_000;
        // The leader of group 2 tells nothing new: its members are what they were.
        for group in world.group.machine.moves() {
            if group.group != GroupId(2) {
                world.follow(group.group);
            }
        }
        seen |= world.group.machine.moves().iter().any(|one| one.group == GroupId(2));
    }
    assert!(seen, "a replica of group 2 was on the node");
    assert!(world.group.machine.placement(CONTROL).contains(&NodeId(4)));
    assert!(!world.group.machine.is_rid_of(GroupId(2), NodeId(4)));
    world.settle();
    assert_eq!(world.group.machine.node(NodeId(4)).unwrap().1, NodeStatus::Removed);
}

#[test]
fn clients_have_their_time_before_a_live_node_leaves_control_and_a_removal_can_be_called_off_until_then() {
    let mut world = World::new(&[""; 4], 4);
    world.settle();
    world.remove(4);
    for _ in 0..20 {
        world.step();
        world.group.machine.moves().into_iter().for_each(|one| world.follow(one.group));
    }
    let control = &world.group.machine;
    assert_eq!(control.duty(NodeId(4)).0, Duty::Drain { grace_s: REMOVAL_GRACE_S });
    assert!(control.placement(CONTROL).contains(&NodeId(4)), "no time has passed");
    let quiet = |id| Command::NodeRemove { node: NodeId(id), removal: Removal::Quiet };
    assert!(world.refused(quiet(3)).is_some(), "it is to stay");
    let keep = Command::NodeRemove { node: NodeId(4), removal: Removal::Keep };
    assert_eq!(world.refused(keep.clone()), None);
    assert_eq!(world.group.machine.duty(NodeId(4)).0, Duty::Full);
    world.settle();
    assert!(world.is_even(), "it is a node like the others again");
    world.remove(4);
    for _ in 0..20 {
        world.step();
        world.group.machine.moves().into_iter().for_each(|one| world.follow(one.group));
    }
    assert!(world.group.machine.placement(CONTROL).contains(&NodeId(4)));
    assert_eq!(world.refused(quiet(4)), None);
    world.step();
    assert!(!world.group.machine.placement(CONTROL).contains(&NodeId(4)), "its clients are gone");
    world.settle();
    assert!(world.refused(keep).is_some(), "it has left");
}

#[test]
fn successor_is_awaited_and_takes_the_place() {
    let mut world = World::new(&[""; 3], 16);
    world.settle();
    let replace = |successor: &str| Command::NodeRemove {
        node: NodeId(2),
        removal: Removal::Replace { successor: text(successor) },
    };
    assert!(world.refused(replace("n2")).is_some(), "its own name");
    assert_eq!(world.refused(replace("n9")), None, "it needs not be there yet");
    assert_eq!(world.settle(), 0);
    assert!(!world.group.machine.is_leaving(NodeId(2)));
    let id = world.join(9, "");
    assert_eq!(world.settle(), 16, "each partition moves once");
    assert_eq!(world.loads(), BTreeMap::from([(1, 16), (3, 16), (id, 16)]));
}

#[test]
fn lost_node_is_replaced_by_the_one_of_its_name_also_when_that_is_lost_too() {
    let mut world = World::new(&[""; 4], 16);
    world.settle();
    world.lose(2);
    world.join(2, "");
    world.step();
    world.lose(5);
    let last = world.join(2, "");
    world.settle();
    assert!(world.is_even(), "{:?}", world.loads());
    let states: Vec<u64> = world.group.machine.member_states().iter().map(|state| state.node.0).collect();
    assert_eq!(states, [1, 3, 4, last], "the lost ones are forgotten");
}

#[test]
fn who_joins_besides_waits_until_the_successor_of_a_lost_node_is_there() {
    let mut world = World::new(&[""; 3], 4);
    world.settle();
    world.lose(3);
    let joining = |name: u64, disk: u8| NodeRecord {
        id: NodeId(0),
        name: text(&format!("n{name}")),
        disk: [disk; 16],
        incarnation: Incarnation(0),
        ..record(9, "")
    };
    for (name, disk) in [(3, 4), (9, 5)] {
        world.command(Command::NodeJoin { node: joining(name, disk) });
    }
    // A node is up when control has told it who it is: nobody comes up that is no member of it.
    let wanted =
        |world: &World| world.group.machine.placement(CONTROL).iter().map(|n| n.0).collect::<Vec<_>>();
    world.step();
    assert_eq!(wanted(&world), [1, 2, 4], "two of three are up, and two of four were no majority");
    let up = |id: u64, name: u64| NodeRecord {
        id: NodeId(id),
        incarnation: Incarnation(1),
        ..joining(name, u8::try_from(id).unwrap())
    };
    world.follow(CONTROL);
    world.command(Command::NodeUp { node: up(4, 3) });
    world.step();
    assert_eq!(wanted(&world), [1, 2, 4, 5]);
    world.follow(CONTROL);
    world.command(Command::NodeUp { node: up(5, 9) });
    world.settle();
    assert!(world.is_even(), "{:?}", world.loads());
}

#[test]
fn removal_that_leaves_too_few_is_refused_with_its_reason() {
    let mut world = World::new(&[""; 4], 4);
    world.settle();
    world.lose(1);
    assert!(world.remove(2).unwrap().contains("too few"), "one of the three that would stay is down");
    assert_eq!(world.remove(1), None, "the one that is down may go");
    world.settle();
    assert_eq!(world.group.machine.node(NodeId(1)).unwrap().1, NodeStatus::Removed);
    assert!(world.remove(2).unwrap().contains("fewer nodes"));
    let mut seven = World::new(&[""; 7], 1);
    seven.settle();
    (1..=3).for_each(|id| seven.lose(id));
    assert!(seven.remove(4).unwrap().contains("majority"), "three of six would be up");
    let mut old = World::new(&[""; 4], 1);
    old.group.machine.level = MEMBERSHIP_LEVEL - 1;
    assert!(old.remove(4).unwrap().contains("level"));
}

#[test]
fn replicas_of_a_node_that_is_only_down_stay_where_they_are() {
    let mut world = World::new(&[""; 5], 16);
    world.settle();
    world.lose(2);
    assert_eq!(world.settle(), 0);
}

#[test]
fn zones_are_kept_apart_as_soon_as_there_are_enough_of_them() {
    let mut world = World::new(&["a", "a", "b"], 8);
    assert_eq!(world.settle(), 0, "no other way");
    assert_eq!(world.group.machine.placement_violations().len(), 8);
    world.join(4, "c");
    world.settle();
    assert_eq!(world.group.machine.placement_violations(), []);
    let loads = world.loads();
    assert_eq!((loads[&3], loads[&4]), (8, 8), "each partition is in every zone");
    assert!(loads[&1].abs_diff(loads[&2]) <= 1, "{loads:?}");
    world.join(5, "c");
    world.settle();
    assert_eq!(world.group.machine.placement_violations(), []);
    let loads = world.loads();
    assert!(loads[&4].abs_diff(loads[&5]) <= 1, "{loads:?}");
}

#[test]
fn single_node_grows_only_when_all_replicas_have_a_place() {
    let mut world = World::new(&[""], 2);
    world.join(2, "");
    assert_eq!(world.settle(), 0, "two are not better than one");
    world.join(3, "");
    assert_eq!(world.settle(), 2);
    assert_eq!(world.loads(), BTreeMap::from([(1, 2), (2, 2), (3, 2)]));
}

#[test]
fn any_history_comes_to_rest_with_every_replica_on_a_node_of_its_own() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let zones = [[""; 5], ["a", "b", "c", "a", "b"]][random.below(2) as usize];
        let mut world = World::new(&zones[..3 + random.below(3) as usize], 7);
        let mut name = 10;
        for _ in 0..60 {
            let nodes: Vec<u64> = world.group.machine.member_states().iter().map(|one| one.node.0).collect();
            let id = nodes[random.below(nodes.len() as u64) as usize];
            match random.below(12) {
                0 if nodes.len() < 7 => {
                    name += 1;
                    world.join(name, zones[random.below(5) as usize]);
                }
                1 => drop(world.remove(id)),
                2 => world.lose(id),
                3 => {
                    let record = world.group.machine.node(NodeId(id)).unwrap().0.clone();
                    let incarnation = Incarnation(record.incarnation.0 + 1);
                    world.command(Command::NodeUp { node: NodeRecord { incarnation, ..record } });
                }
                4 => drop(world.refused(Command::NodeRemove { node: NodeId(id), removal: Removal::Keep })),
                5 => {
                    let removal = Removal::Replace { successor: text(&format!("n{}", name + 1)) };
                    drop(world.refused(Command::NodeRemove { node: NodeId(id), removal }));
                }
                6..9 => drop(world.step()),
                _ => {
                    let moves = world.group.machine.moves();
                    if !moves.is_empty() {
                        let one = moves[random.below(moves.len() as u64) as usize].group;
                        world.follow(one);
                    }
                    world.group.machine.state.now.0 += 5_000;
                }
            }
        }
        // Everybody comes back that no other node has come for.
        let control = &world.group.machine;
        let down = control.nodes().filter(|(record, status)| {
            !matches!(status, NodeStatus::Live | NodeStatus::Removed) && control.heir(record.id).is_none()
        });
        let down: Vec<NodeRecord> = down.map(|(record, _)| record.clone()).collect();
        for record in down {
            let incarnation = Incarnation(record.incarnation.0 + 1);
            world.command(Command::NodeUp { node: NodeRecord { incarnation, ..record } });
        }
        let wishes = world.group.machine.member_states().into_iter().filter_map(|one| one.removal?.successor);
        for name in wishes.collect::<Vec<_>>() {
            world.join(name.as_str()[1..].parse().unwrap(), "");
        }
        world.settle();
        let control = &world.group.machine;
        for (group, on) in &control.placement {
            assert!(on.len() >= 3, "seed {seed}: group {group} on {on:?}");
            assert!(on.iter().all(|node| control.is_live(*node)), "seed {seed}");
            assert!(*group == CONTROL || on.len() == 3, "seed {seed}: {on:?}");
        }
        assert!(zones[0] == "a" || world.is_even(), "seed {seed}: {:?}", control.member_states());
    }
}
