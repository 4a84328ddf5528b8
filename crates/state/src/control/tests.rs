//! Control: membership, placement and routes, command by command.

use super::*;
use crate::ids::StreamSeq;
use crate::machine::Machine;
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
            let command = match random.below(9) {
                0..3 => Command::RouteAdd { filter: filter(name), target },
                3 => Command::RouteRemove { filter: filter(name), target },
                4 => up(node.0, incarnation),
                5 => Command::NodeLost { node, incarnation: Incarnation(incarnation) },
                6 => Command::NodeJoin { node: node_record(0, "n9", random.below(9) as u8, 1) },
                7 => Command::Place { group: GroupId(random.below(4) as u32), voters: vec![node] },
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
