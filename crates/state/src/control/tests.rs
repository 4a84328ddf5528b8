//! Control: membership, placement and routes, command by command.

use super::*;
use crate::command::{LeaderCommand, Removal};
use crate::ids::StreamSeq;
use crate::machine::Machine;
use crate::record::RestoreError;
use crate::testing::{
    Driven, Random, STREAM, Store, filter, node_record, posted, read_records, replies, text, write_changes,
};

fn cluster(nodes: u64, partitions: u32) -> Driven<Control> {
    let config = ClusterConfig { cluster_id: [7; 16], name: text("lab"), partitions, replication: 3 };
    let records: Vec<NodeRecord> =
        (1..=nodes).map(|id| node_record(id, &format!("n{id}"), id as u8, 1)).collect();
    Driven::new(Control::bootstrap(config, &records))
}

fn live(nodes: u64) -> Driven<Control> {
    let mut group = cluster(nodes, 4);
    for id in 1..=nodes {
        group.one(up(id, 1));
    }
    group
}

fn up(id: u64, incarnation: u64) -> Command {
    Command::NodeUp { node: node_record(id, &format!("n{id}"), id as u8, incarnation) }
}

fn status(group: &Driven<Control>, id: u64) -> NodeStatus {
    group.machine.node(NodeId(id)).unwrap().1
}

fn is_refused(effects: &[Effect]) -> bool {
    matches!(replies(effects)[..], [Reply::Refused(_)])
}

#[test]
fn bootstrap_places_control_on_all_and_partitions_in_rotation() {
    let group = cluster(5, 5);
    let ids =
        |group_id| group.machine.placement(GroupId(group_id)).iter().map(|node| node.0).collect::<Vec<_>>();
    assert_eq!(ids(0), [1, 2, 3, 4, 5]);
    assert_eq!(ids(1), [1, 2, 3]);
    assert_eq!(ids(4), [4, 5, 1]);
    assert_eq!(ids(6), [0; 0]);
    assert_eq!(cluster(2, 1).machine.placement(GroupId(1)).len(), 2);
    assert_eq!(group.machine.next_node_id(), NodeId(6));
    assert_eq!(status(&group, 1), NodeStatus::Joining);
    group.machine.check();
}

#[test]
fn routes_are_a_set() {
    let mut group = live(3);
    let add = Command::RouteAdd { filter: filter("t/#"), target: RouteTarget::Partition(GroupId(2)) };
    let remove = Command::RouteRemove { filter: filter("t/#"), target: RouteTarget::Partition(GroupId(2)) };
    let target = RouteTarget::Partition(GroupId(2));
    let added = Effect::RouteChanged { filter: filter("t/#"), target, added: true };
    let removed = Effect::RouteChanged { filter: filter("t/#"), target, added: false };
    assert_eq!(group.run(&[add.clone(), add.clone()]), [added]);
    assert_eq!(group.machine.routes().count(), 1);
    assert_eq!(group.run(&[remove.clone(), remove, add]).first(), Some(&removed));
}

#[test]
fn node_lost_takes_its_routes_and_tells_every_partition() {
    let mut group = live(3);
    let target = RouteTarget::Node(NodeId(2));
    let low = RouteTarget::NodeQos0(NodeId(2));
    group.run(&[
        Command::RouteAdd { filter: filter("a"), target },
        Command::RouteAdd { filter: filter("a"), target: low },
        Command::RouteAdd { filter: filter("a"), target: RouteTarget::Node(NodeId(3)) },
    ]);
    let lost = Command::NodeLost { node: NodeId(2), incarnation: Incarnation(1) };
    let effects = group.one(lost.clone());
    for target in [target, low] {
        assert!(effects.contains(&Effect::RouteChanged { filter: filter("a"), target, added: false }));
    }
    assert!(effects.contains(&Effect::NodeDown { node: NodeId(2), incarnation: Incarnation(1) }));
    assert!(effects.contains(&Effect::Outbox { to: GroupId(4) }));
    assert_eq!(status(&group, 2), NodeStatus::Down);
    let down = Command::NodeDown { node: NodeId(2), incarnation: Incarnation(1) };
    for partition in 1..=4 {
        assert_eq!(posted(&group.machine, GroupId(partition)), std::slice::from_ref(&down));
    }
    assert_eq!(group.machine.routes().count(), 1);
    assert_eq!(group.one(lost), []);
    group.machine.check();
}

#[test]
fn leader_declares_an_incarnation_lost() {
    let mut group = live(3);
    let lost = LeaderCommand::NodeLost { node: NodeId(2), incarnation: Incarnation(1) };
    let effects = group.leader(lost.clone());
    assert!(effects.contains(&Effect::NodeDown { node: NodeId(2), incarnation: Incarnation(1) }));
    assert_eq!(status(&group, 2), NodeStatus::Down);
    assert_eq!(group.one(up(2, 2)), [Effect::MembershipChanged]);
    assert_eq!(group.leader(lost), [], "the lost incarnation is not the present one");
    assert_eq!(status(&group, 2), NodeStatus::Live);
    group.machine.check();
}

#[test]
fn dead_incarnation_stays_dead_and_a_higher_one_comes_back() {
    let mut group = live(3);
    group.one(Command::NodeLost { node: NodeId(2), incarnation: Incarnation(1) });
    assert!(is_refused(&group.one(up(2, 1))));
    assert_eq!(status(&group, 2), NodeStatus::Down);
    assert_eq!(group.one(up(2, 2)), [Effect::MembershipChanged]);
    assert_eq!(status(&group, 2), NodeStatus::Live);
    let late = Command::NodeLost { node: NodeId(2), incarnation: Incarnation(1) };
    assert_eq!(group.one(late), [], "the lost incarnation is not the present one");
}

#[test]
fn node_up_while_the_older_incarnation_is_live_ends_that_one() {
    let mut group = live(3);
    let effects = group.one(up(2, 5));
    assert!(effects.contains(&Effect::NodeDown { node: NodeId(2), incarnation: Incarnation(1) }));
    assert_eq!(status(&group, 2), NodeStatus::Live);
    assert!(is_refused(&group.one(up(2, 4))));
    assert!(is_refused(&group.one(Command::NodeUp { node: node_record(2, "n2", 99, 6) })), "another disk");
    assert!(is_refused(&group.one(up(9, 1))), "unknown");
}

#[test]
fn stream_of_a_node_declared_dead_is_ignored() {
    let mut group = live(3);
    let stream = crate::ids::StreamId::Node(NodeId(2), Incarnation(1));
    let add = |name| Command::RouteAdd { filter: filter(name), target: RouteTarget::Node(NodeId(2)) };
    assert_eq!(group.run_from(stream, &[add("a")]).len(), 1);
    group.one(Command::NodeLost { node: NodeId(2), incarnation: Incarnation(1) });
    assert_eq!(group.run_from(stream, &[add("b")]), []);
    assert_eq!(group.machine.stream_applied(stream), StreamSeq(0));
}

#[test]
fn node_join_gives_each_disk_one_identity_for_ever() {
    let mut group = live(3);
    let join = |name: &str, disk| Command::NodeJoin { node: node_record(0, name, disk, 1) };
    let joined = |effects: &[Effect]| match replies(effects)[..] {
        [Reply::Joined { node }] => Some(node.0),
        _ => None,
    };
    assert_eq!(joined(&group.one(join("n4", 40))), Some(4));
    assert_eq!(joined(&group.one(join("n4", 40))), Some(4), "asked again");
    assert!(is_refused(&group.one(join("n2", 20))), "its name lives");
    group.one(Command::NodeLost { node: NodeId(2), incarnation: Incarnation(1) });
    assert_eq!(joined(&group.one(join("n2", 20))), Some(5));
    assert_eq!(group.machine.replaces(NodeId(5)), Some(NodeId(2)));
    assert_eq!(group.machine.replaces(NodeId(4)), None);
    group.one(Command::NodeForget { node: NodeId(4) });
    assert_eq!(joined(&group.one(join("n4", 40))), Some(6), "a removed identity does not come back");
    group.machine.check();
}

#[test]
fn place_and_forget_keep_placement_on_nodes_of_the_cluster() {
    let mut group = live(4);
    let place = |voters: &[u64]| Command::Place {
        group: GroupId(1),
        voters: voters.iter().map(|id| NodeId(*id)).collect(),
    };
    for voters in [&[][..], &[1, 1], &[1, 77]] {
        assert!(is_refused(&group.one(place(voters))), "{voters:?}");
    }
    assert_eq!(group.one(place(&[2, 3, 4])), [Effect::MembershipChanged]);
    assert_eq!(group.one(place(&[2, 3, 4])), []);
    assert!(is_refused(&group.one(Command::NodeForget { node: NodeId(4) })), "control is on it");
    for id in 0..=4 {
        let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
        group.one(Command::Place { group: GroupId(id), voters });
    }
    let effects = group.one(Command::NodeForget { node: NodeId(4) });
    assert!(effects.contains(&Effect::NodeDown { node: NodeId(4), incarnation: Incarnation(1) }));
    assert_eq!(status(&group, 4), NodeStatus::Removed);
    assert!(is_refused(&group.one(place(&[2, 3, 4]))));
    assert!(is_refused(&group.one(up(4, 9))));
    group.machine.check();
}

#[test]
fn partition_commands_are_refused_by_control() {
    let mut group = live(1);
    assert!(is_refused(&group.one(crate::testing::publish("t", "x"))));
}

#[test]
fn control_with_random_commands_restores_equal() {
    for seed in 0..8 {
        let mut random = Random(seed);
        let mut group = cluster(3, 3);
        let mut replica = group.machine.clone();
        let mut store = Store::new();
        for _ in 0..300 {
            let node = NodeId(1 + random.below(6));
            let incarnation = 1 + random.below(5);
            let name = ["a", "a/+", "b/#", "c"][random.below(4) as usize];
            let target = match random.below(3) {
                0 => RouteTarget::Node(node),
                1 => RouteTarget::NodeQos0(node),
                _ => RouteTarget::Partition(GroupId(1 + random.below(3) as u32)),
            };
            let group_id = GroupId(random.below(4) as u32);
            let command = match random.below(15) {
                0..3 => Command::RouteAdd { filter: filter(name), target },
                3 => Command::RouteRemove { filter: filter(name), target },
                4 => up(node.0, incarnation),
                5 => Command::NodeLost { node, incarnation: Incarnation(incarnation) },
                6 => Command::NodeJoin { node: node_record(0, "n9", random.below(9) as u8, 1) },
                8 => duty(node.0, [Duty::Full, Duty::Follow, DRAIN][random.below(3) as usize]),
                10 => listeners(node.0, &["a:1", "b:2"][..random.below(3) as usize]),
                9 => Command::Finalize { level: 1 + random.below(2) as u32 },
                7 => Command::Place { group: group_id, voters: vec![node] },
                12 => Command::NodeRemove { node, removal: Removal::Remove },
                13 => match random.below(3) {
                    1 => Command::NodeRemove { node, removal: Removal::Quiet },
                    0 => Command::NodeRemove { node, removal: Removal::Keep },
                    _ => Command::NodeRemove { node, removal: Removal::Replace { successor: text("n9") } },
                },
                14 => Command::Members {
                    group: group_id,
                    index: LogIndex(random.below(9)),
                    voters: vec![node],
                    learners: vec![NodeId(1)],
                },
                _ => Command::NodeForget { node },
            };
            let data = group.batch(STREAM, &[command]);
            let effects = group.entry(data.clone());
            let mut same = Vec::new();
            replica.apply(group.machine.applied(), &data, &mut same);
            assert_eq!(effects, same);
            group.machine.check();
            if random.chance(20) {
                write_changes(&mut store, replica.changes());
                assert_eq!(store, group.machine.records().collect::<Store>());
                replica = Control::restore(group.machine.applied(), read_records(&store)).unwrap();
                assert_eq!(replica.hash(), group.machine.hash());
            }
        }
        assert_eq!(Machine::hash(&replica), Machine::hash(&group.machine));
    }
}

fn duty(id: u64, duty: Duty) -> Command {
    Command::NodeDuty { node: NodeId(id), duty }
}

const DRAIN: Duty = Duty::Drain { grace_s: 30 };

#[test]
fn duty_holds_over_restarts_and_goes_on_to_the_node_that_replaces() {
    let mut group = live(3);
    group.one(duty(2, DRAIN));
    let (known, since) = group.machine.duty(NodeId(2));
    assert_eq!((known, since), (DRAIN, group.machine.state.now));
    group.one(Command::NodeLost { node: NodeId(2), incarnation: Incarnation(1) });
    group.one(up(2, 2));
    assert_eq!(group.machine.duty(NodeId(2)), (DRAIN, since));
    group.one(Command::NodeLost { node: NodeId(2), incarnation: Incarnation(2) });
    group.one(Command::NodeJoin { node: node_record(0, "n2", 77, 1) });
    assert_eq!(group.machine.duty(NodeId(4)).0, DRAIN);
    group.one(duty(4, Duty::Full));
    assert_eq!(group.machine.duty(NodeId(4)).0, Duty::Full);
    assert!(is_refused(&group.one(duty(9, Duty::Follow))), "unknown");
}

#[test]
fn drain_that_leaves_a_group_no_majority_in_service_is_refused() {
    let mut group = live(3);
    group.one(duty(1, DRAIN));
    assert!(is_refused(&group.one(duty(2, DRAIN))), "one of three would serve");
    assert_eq!(
        group.one(duty(1, Duty::Drain { grace_s: 5 })),
        [Effect::MembershipChanged],
        "already drained"
    );
    group.one(duty(1, Duty::Full));
    assert_eq!(group.machine.drain_refusal(NodeId(2)), None);
    group.one(Command::NodeLost { node: NodeId(3), incarnation: Incarnation(1) });
    assert!(is_refused(&group.one(duty(2, DRAIN))), "a node is down");
    assert!(is_refused(&live(1).one(duty(1, DRAIN))), "there is no other node");
    let mut five = live(5);
    five.one(duty(1, DRAIN));
    assert!(is_refused(&five.one(duty(2, DRAIN))), "groups with both");
    group.one(up(3, 2));
    group.one(duty(2, Duty::Follow));
    assert_eq!(group.one(duty(1, DRAIN)), [Effect::MembershipChanged], "a follower votes");
}

#[test]
fn new_cluster_uses_the_level_that_all_its_first_nodes_speak() {
    let config = ClusterConfig { cluster_id: [7; 16], name: text("lab"), partitions: 1, replication: 3 };
    let record = |id: u64, level| NodeRecord { level, ..node_record(id, &format!("n{id}"), id as u8, 1) };
    let silent: Vec<NodeRecord> = (1..=3).map(|id| record(id, 0)).collect();
    let mut group = Driven::new(Control::bootstrap(config, &silent));
    for id in 1..=2 {
        group.one(Command::NodeUp { node: record(id, 9) });
        assert_eq!(group.machine.level(), 1);
    }
    group.one(Command::NodeUp { node: record(3, 8) });
    assert_eq!(group.machine.level(), 8);
}

#[test]
fn level_changes_when_all_nodes_speak_it_and_then_keeps_older_programs_out() {
    let mut group = live(3);
    let newer = |id: u64, incarnation, level| {
        let record = node_record(id, &format!("n{id}"), id as u8, incarnation);
        Command::NodeUp { node: NodeRecord { level, ..record } }
    };
    for id in 1..=2 {
        group.one(newer(id, 1, 2));
        assert!(is_refused(&group.one(Command::Finalize { level: 2 })), "not all speak it");
    }
    group.one(newer(3, 2, 2));
    group.one(newer(3, 3, 1));
    assert!(is_refused(&group.one(Command::Finalize { level: 2 })), "one went back");
    group.one(newer(3, 4, 2));
    assert_eq!(group.one(Command::Finalize { level: 2 }), [Effect::MembershipChanged]);
    assert_eq!(group.machine.level(), 2);
    assert!(is_refused(&group.one(Command::Finalize { level: 2 })), "already");
    assert!(is_refused(&group.one(newer(3, 5, 1))), "an older program");
    let join = Command::NodeJoin { node: NodeRecord { level: 1, ..node_record(0, "n9", 9, 1) } };
    assert!(is_refused(&group.one(join)));
    assert_eq!(group.machine.level(), 2);
}

#[test]
fn level_of_a_newer_program_is_not_restored() {
    let mut group = live(3);
    let top = LEVEL + 1;
    for id in 1..=3 {
        let record = node_record(id, &format!("n{id}"), id as u8, 1);
        group.one(Command::NodeUp { node: NodeRecord { level: top, ..record } });
    }
    group.one(Command::Finalize { level: top });
    let records = group.machine.records().map(|(key, content)| (key.into(), content.into()));
    let restored = Control::restore(LogIndex(9), records.collect::<Vec<_>>());
    assert!(matches!(restored, Err(RestoreError::Level { found, .. }) if found == top), "{restored:?}");
}

#[test]
fn placement_violations_name_the_group_and_what_would_mend_it() {
    let zoned = |zones: &[&str], partitions| {
        let config = ClusterConfig { cluster_id: [7; 16], name: text("lab"), partitions, replication: 3 };
        let record = |(at, zone): (usize, &&str)| {
            let id = at as u64 + 1;
            NodeRecord { zone: text(zone), ..node_record(id, &format!("n{id}"), id as u8, 1) }
        };
        let records: Vec<NodeRecord> = zones.iter().enumerate().map(record).collect();
        let control = Control::bootstrap(config, &records);
        control.placement_violations().into_iter().map(|one| (one.group.0, one.text)).collect::<Vec<_>>()
    };
    assert_eq!(zoned(&["a", "b", "c"], 4), []);
    assert_eq!(zoned(&["", "", ""], 4), [], "no labels, no rule");
    assert_eq!(zoned(&["a"], 4), [], "a single node is wanted");
    let crowded = "several replicas are in zone a: the nodes are in 2 zones, and 3 are needed";
    assert_eq!(zoned(&["a", "b", "a"], 1), [(1, crowded.to_owned())]);
    let movable = "several replicas are in zone a: nodes of other zones could take them";
    assert_eq!(zoned(&["a", "b", "a", "c"], 1), [(1, movable.to_owned())]);
    let few = "2 replicas of 3: the cluster has too few nodes";
    assert_eq!(zoned(&["a", "b"], 1), [(1, few.to_owned())]);
    let mut group = live(3);
    let down = |group: &Driven<Control>| {
        let all = group.machine.placement_violations().into_iter();
        all.filter(|one| one.text == "its replica on n2 is down").map(|one| one.group.0).collect::<Vec<_>>()
    };
    assert_eq!(down(&group), [0; 0]);
    group.one(Command::NodeLost { node: NodeId(2), incarnation: Incarnation(1) });
    assert_eq!(down(&group), [1, 2, 3, 4]);
}

fn listeners(id: u64, addresses: &[&str]) -> Command {
    let listener = |address: &&str| AdvertisedListener { name: text("tcp"), address: text(address) };
    Command::NodeListeners { node: NodeId(id), listeners: addresses.iter().map(listener).collect() }
}

#[test]
fn listeners_are_known_from_their_level_on_until_the_node_is_gone() {
    let mut group = live(4);
    assert!(is_refused(&group.one(listeners(2, &["a:1"]))), "level 1");
    for id in 1..=4 {
        let record = node_record(id, &format!("n{id}"), id as u8, 1);
        group.one(Command::NodeUp { node: NodeRecord { level: LISTENERS_LEVEL, ..record } });
    }
    group.one(Command::Finalize { level: LISTENERS_LEVEL });
    assert_eq!(group.one(listeners(2, &["a:1", "b:2"])), [Effect::MembershipChanged]);
    assert_eq!(group.one(listeners(2, &["a:1", "b:2"])), [], "nothing new");
    assert_eq!(group.machine.listeners(NodeId(2)).len(), 2);
    assert_eq!(group.machine.listeners(NodeId(3)), []);
    assert!(is_refused(&group.one(listeners(9, &["a:1"]))), "unknown");
    let many = vec!["a:1"; LISTENERS_PER_NODE_MAX + 1];
    assert!(is_refused(&group.one(listeners(2, &many))));
    group.one(Command::NodeLost { node: NodeId(2), incarnation: Incarnation(1) });
    assert_eq!(group.machine.listeners(NodeId(2)).len(), 2, "it may come back");
    for number in 0..=4 {
        group.one(Command::Place { group: GroupId(number), voters: [1, 3, 4].map(NodeId).to_vec() });
    }
    group.one(Command::NodeForget { node: NodeId(2) });
    assert_eq!(group.machine.listeners(NodeId(2)), []);
}
