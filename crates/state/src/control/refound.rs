//! A new cluster that goes on with the state of another one, from a backup.
//!
//! Owns: what of control's state belongs to the old cluster's nodes and goes, and what stays.
//! Does not: read backups, start nodes.
//! Invariants: both steps depend on their arguments only, so that all first nodes come to the same state; the second may be
//! repeated; nothing that an old node has sent can be taken for a new node's.
//! See: docs/decisions/0033-restore.md.

use std::collections::BTreeSet;

use crate::command::{NodeRecord, RouteTarget};
use crate::control::{ClusterConfig, Control};
use crate::ids::{Incarnation, NodeId};

impl Control {
    /// The identity that was given last.
    #[must_use]
    pub fn last_node_id(&self) -> NodeId {
        self.last_node
    }

    /// The highest incarnation of any node that this state names; 0 when it names none.
    #[must_use]
    pub fn incarnation_max(&self) -> Incarnation {
        let nodes = self.nodes.values().map(|node| node.record.incarnation).max();
        nodes.max(self.state.streams.incarnation_max()).unwrap_or_default()
    }

    /// Takes leave of all nodes: `incarnation`, which is not below any that they had, is declared dead for each. The partitions are
    /// told through the outbox, so they hear of it in order, like of any lost node, once the new cluster runs. Routes to nodes,
    /// the nodes, their listeners and the placement are gone; routes to partitions stay.
    pub fn take_leave(&mut self, incarnation: Incarnation) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            // Nobody listens to effects: no node runs.
            self.declare_dead(node, incarnation, &mut Vec::new());
        }
        self.routes.retain(|_, targets| {
            targets.retain(|target| matches!(target, RouteTarget::Partition(_)));
            !targets.is_empty()
        });
        self.nodes = Default::default();
        self.listeners = Default::default();
        self.placement = Default::default();
        self.wishes = Default::default();
        self.members = Default::default();
        self.forget_marks();
    }

    /// Gives a state without nodes, or with those of an earlier attempt, the identity and the first nodes of a new cluster. The
    /// nodes are joining, and groups are placed, as in [`Control::bootstrap`]. `last_node` is the identity that the old cluster
    /// gave last: none of them is given again but those of the first nodes, whose incarnations here are to be above the old
    /// ones and below those that they will have.
    #[must_use]
    pub fn refounded(mut self, config: ClusterConfig, nodes: &[NodeRecord], last_node: NodeId) -> Self {
        let first = Self::bootstrap(config, nodes);
        self.config = first.config;
        self.nodes = first.nodes;
        self.placement = first.placement;
        self.last_node = first.last_node.max(last_node);
        self.listeners = Default::default();
        self.wishes = Default::default();
        self.members = Default::default();
        self.forget_marks();
        self
    }

    /// What differs from a checkpoint does not matter: the state is stored whole.
    fn forget_marks(&mut self) {
        self.dirty_nodes = BTreeSet::new();
        self.dirty_placement = BTreeSet::new();
        self.dirty_routes = BTreeSet::new();
        self.dirty_listeners = BTreeSet::new();
        self.dirty_wishes = BTreeSet::new();
        self.dirty_members = BTreeSet::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::ids::{GroupId, StreamId, StreamSeq};
    use crate::testing::{Driven, filter, node_record, posted, text};

    /// Partitions announce routes.
    const ROUTES: StreamId = StreamId::Group(GroupId(2));

    fn config(id: u8) -> ClusterConfig {
        ClusterConfig { cluster_id: [id; 16], name: text("lab"), partitions: 2, replication: 3 }
    }

    fn nodes(count: u64, disk: u8) -> Vec<NodeRecord> {
        (1..=count).map(|id| node_record(id, &format!("n{id}"), disk + id as u8, 0)).collect()
    }

    /// Four nodes that ran, with routes to them and to a partition.
    fn old() -> Control {
        let mut group = Driven::new(Control::bootstrap(config(1), &nodes(4, 0)));
        for id in 1..=4 {
            let record = node_record(id, &format!("n{id}"), id as u8, id + 5);
            group.run_from(
                StreamId::Node(NodeId(id), Incarnation(id + 5)),
                &[Command::NodeUp { node: record }],
            );
        }
        for target in [
            RouteTarget::Partition(GroupId(2)),
            RouteTarget::Node(NodeId(2)),
            RouteTarget::NodeQos0(NodeId(4)),
        ] {
            group.run_from(ROUTES, &[Command::RouteAdd { filter: filter("a/#"), target }]);
        }
        group.run_from(
            ROUTES,
            &[Command::RouteAdd { filter: filter("b"), target: RouteTarget::Node(NodeId(3)) }],
        );
        group.machine
    }

    #[test]
    fn leave_is_taken_from_every_node_and_partitions_are_told() {
        let mut control = old();
        assert_eq!((control.incarnation_max(), control.last_node_id()), (Incarnation(9), NodeId(4)));
        let positions = control.outbox_positions(GroupId(1));
        control.take_leave(Incarnation(9));
        control.check();
        assert_eq!(control.nodes().count(), 0);
        assert_eq!(
            control.routes().map(|(filter, target)| (filter.as_str(), target)).collect::<Vec<_>>(),
            [("a/#", RouteTarget::Partition(GroupId(2)))]
        );
        let told: Vec<Command> =
            (1..=4).map(|id| Command::NodeDown { node: NodeId(id), incarnation: Incarnation(9) }).collect();
        for partition in [GroupId(1), GroupId(2)] {
            assert!(posted(&control, partition).ends_with(&told), "numbered after what was there");
        }
        assert_eq!(control.outbox_positions(GroupId(1)), (positions.0, StreamSeq(positions.1.0 + 4)));
        assert_eq!(
            control.stream_applied(StreamId::Node(NodeId(1), Incarnation(6))),
            StreamSeq(0),
            "its stream is over"
        );
        assert_eq!(control.stream_applied(StreamId::Node(NodeId(1), Incarnation(9))), StreamSeq(0));
    }

    #[test]
    fn refounding_gives_the_first_nodes_their_places_and_may_be_repeated() {
        let mut control = old();
        control.take_leave(Incarnation(9));
        let first = nodes(3, 40);
        let once = control.clone().refounded(config(2), &first, NodeId(4));
        once.check();
        assert_eq!(once.config(), &config(2));
        assert_eq!(once.placement(GroupId(2)), [NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(once.next_node_id(), NodeId(5), "an identity is not given again");
        assert_eq!(once.level(), 1);
        let other = control.refounded(config(3), &nodes(7, 60), NodeId(4));
        assert_eq!(other.next_node_id(), NodeId(8));
        let again = other.refounded(config(2), &first, NodeId(4));
        assert_eq!(again.hash(), once.hash(), "whatever an earlier attempt came to");
    }

    #[test]
    fn restored_records_give_the_same_state() {
        let mut control = old();
        control.take_leave(Incarnation(9));
        let records = control.records().map(|(key, value)| (key.into(), value.into()));
        let restored = Control::restore(control.applied(), records).unwrap();
        assert_eq!(restored.hash(), control.hash());
    }

    #[test]
    fn first_nodes_come_up_above_what_the_old_ones_had() {
        let mut control = old();
        control.take_leave(Incarnation(9));
        let mut group = Driven::new(control.refounded(config(2), &nodes(3, 40), NodeId(4)));
        let up = |incarnation| Command::NodeUp { node: node_record(1, "n1", 41, incarnation) };
        group.run_from(StreamId::Node(NodeId(1), Incarnation(9)), &[up(9)]);
        assert_ne!(
            group.machine.node(NodeId(1)).unwrap().1,
            crate::NodeStatus::Live,
            "an old stream is not heard"
        );
        group.run_from(StreamId::Node(NodeId(1), Incarnation(10)), &[up(10)]);
        assert_eq!(group.machine.node(NodeId(1)).unwrap().1, crate::NodeStatus::Live);
    }
}
