//! Share groups over a whole cluster: members on different nodes, and what becomes of their messages when they leave.

use quorate_state::command::RouteTarget;
use quorate_state::hash::partition_of_share;

use super::*;

const TEXT: &str = "$share/g/a/#";
const TRANSIENT: SessionExpiry = SessionExpiry::AtClose;

fn share_home() -> GroupId {
    partition_of_share(&TopicFilter::new(text(TEXT)).unwrap(), cluster_config().partitions)
}

impl World {
    /// A publisher on node 3 and members on the nodes named.
    fn with_members(members: &[(u64, u64, SessionExpiry)]) -> World {
        let mut world = World::new(3);
        world.until("ready", World::ready);
        for (node, conn, expiry) in members {
            world.connect(*node, *conn, &format!("member-{conn}"), *expiry);
            world.subscribe(*node, *conn, TEXT);
        }
        world.connect(3, 99, "publisher", TRANSIENT);
        world
    }

    fn publish_all(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        let last = *numbers.end();
        for number in numbers {
            self.publish(3, 99, number, "a/b", share_home(), false);
        }
        self.until("all applied", |world| world.applied(3, 99).contains(&last));
    }

    /// Packet identifiers of everything delivered so far, in order.
    fn delivered_ids(&self, node: u64, conn: u64) -> Vec<PacketId> {
        let events = self.events(node, conn).iter();
        let ids = events.filter_map(|event| match event {
            ClientEvent::Deliver(delivery) => Some(delivery.packet_id),
            _ => None,
        });
        ids.collect()
    }

    /// Acknowledges as deliveries come, until all members together have this many.
    fn consume(&mut self, members: &[(u64, u64)], total: usize) {
        let mut acknowledged: BTreeMap<u64, usize> = BTreeMap::new();
        loop {
            let mut count = 0;
            for (node, conn) in members {
                let ids = self.delivered_ids(*node, *conn);
                count += ids.len();
                let done = acknowledged.insert(*conn, ids.len()).unwrap_or(0);
                let packet_ids = ids[done..].to_vec();
                if !packet_ids.is_empty() {
                    self.request(*node, *conn, ClientRequest::Acknowledged { packet_ids });
                }
            }
            if count >= total {
                return;
            }
            self.until("more delivered", |world| {
                let now: usize = members.iter().map(|(node, conn)| world.delivered(*node, *conn).len()).sum();
                now > count
            });
        }
    }

    fn received(&self, members: &[(u64, u64)]) -> Vec<u64> {
        let all = members.iter().flat_map(|(node, conn)| self.delivered(*node, *conn));
        let mut all: Vec<u64> = all.map(|payload| payload.parse().unwrap()).collect();
        all.sort_unstable();
        all
    }
}

#[test]
fn members_on_all_nodes_consume_each_message_once_between_them() {
    let mut world = World::with_members(&[(1, 1, DURABLE), (2, 2, TRANSIENT), (3, 3, TRANSIENT)]);
    let members = [(1, 1), (2, 2), (3, 3)];
    world.publish_all(1..=60);
    world.consume(&members, 60);
    assert_eq!(world.received(&members), (1..=60).collect::<Vec<_>>());
    for (node, conn) in members {
        let count = world.delivered(node, conn).len();
        assert!(count >= 10, "the member on node {node} got {count} of 60");
    }
}

#[test]
fn messages_in_flight_to_a_member_whose_node_dies_go_to_another() {
    for lost in [DURABLE, TRANSIENT] {
        let mut world = World::with_members(&[(1, 1, TRANSIENT), (2, 2, lost)]);
        world.publish_all(1..=8);
        world.until("all in flight", |world| world.received(&[(1, 1), (2, 2)]).len() == 8);
        let in_flight = world.delivered(2, 2).len();
        assert!(in_flight > 0);
        world.kill(2);
        world.consume(&[(1, 1)], 8);
        assert_eq!(world.received(&[(1, 1)]), (1..=8).collect::<Vec<_>>());
    }
}

#[test]
fn durable_member_that_resumes_elsewhere_takes_part_again() {
    let mut world = World::with_members(&[(1, 1, DURABLE)]);
    world.request(1, 1, ClientRequest::Closed { expiry: None, normal: true });
    world.publish_all(1..=5);
    assert!(world.connect(2, 2, "member-1", DURABLE), "the session is there");
    world.consume(&[(2, 2)], 5);
    world.publish_all(6..=7);
    world.consume(&[(2, 2)], 7);
    assert_eq!(world.received(&[(2, 2)]), (1..=7).collect::<Vec<_>>());
}

#[test]
fn takeover_of_a_member_hands_its_messages_on() {
    let mut world = World::with_members(&[(1, 1, DURABLE)]);
    world.publish_all(1..=3);
    world.until("in flight", |world| world.delivered(1, 1).len() == 3);
    world.begin_connect(2, 2, "member-1", DURABLE);
    world.until("old one told", |world| {
        matches!(world.events(1, 1).last(), Some(ClientEvent::Close(ReasonCode::SESSION_TAKEN_OVER)))
    });
    world.request(1, 1, ClientRequest::Closed { expiry: None, normal: true });
    world.until("in flight again", |world| world.delivered(2, 2).len() == 3);
    world.publish_all(4..=5);
    world.consume(&[(2, 2)], 5);
    assert_eq!(world.received(&[(2, 2)]), [1, 2, 3, 4, 5]);
}

#[test]
fn member_that_unsubscribes_gets_nothing_more() {
    let mut world = World::with_members(&[(1, 1, TRANSIENT), (2, 2, TRANSIENT)]);
    let filters = vec![TopicFilter::new(text(TEXT)).unwrap(), TopicFilter::new(text("x")).unwrap()];
    let packet_id = PacketId::new(5).unwrap();
    world.request(2, 2, ClientRequest::Unsubscribe { packet_id, filters });
    world.until("UNSUBSCRIBE answered", |world| {
        world.events(2, 2).iter().any(|event| match event {
            ClientEvent::Unsubscribed { existed, .. } => existed == &[true, false],
            _ => false,
        })
    });
    world.publish_all(1..=20);
    world.consume(&[(1, 1)], 20);
    assert!(world.delivered(2, 2).is_empty());
}

#[test]
fn suback_of_a_member_waits_until_every_node_knows_the_way_to_its_group() {
    for expiry in [DURABLE, TRANSIENT] {
        let mut world = World::new(3);
        world.until("ready", World::ready);
        let leader_of = |world: &World, group| world.members[&NodeId(1)].node.leader_of(group).unwrap();
        let here = leader_of(&world, CONTROL).0;
        let deaf = here % 3 + 1;
        // Neither the session nor the group is to be led by the node that hears nothing for a while.
        let led_elsewhere = |group| leader_of(&world, group) != NodeId(deaf);
        let client_id = (0..).map(|n| format!("member-{n}")).find(|id| led_elsewhere(home(id))).unwrap();
        let filter = (0..)
            .map(|n| TopicFilter::new(text(&format!("$share/g{n}/a/#"))).unwrap())
            .find(|filter| led_elsewhere(partition_of_share(filter, cluster_config().partitions)))
            .unwrap();
        // The node's own route is known before: what is new is the way to the group.
        world.connect(here, 1, "qos-0", TRANSIENT);
        let mut lowest = subscription(filter.as_str());
        lowest.options.qos = QoS::AtMostOnce;
        let packet_id = PacketId::new(1).unwrap();
        world.request(here, 1, ClientRequest::Subscribe { packet_id, filters: vec![lowest] });
        world.until("SUBACK of QoS 0", |world| world.events(here, 1).len() == 2);
        world.connect(here, 2, &client_id, expiry);
        let others: Vec<u64> = (1..=3).filter(|id| *id != deaf).collect();
        world.cut.extend(others.iter().map(|id| (NodeId(*id), NodeId(deaf))));
        let filters = vec![subscription(filter.as_str())];
        world.request(here, 2, ClientRequest::Subscribe { packet_id, filters });
        let start = world.now;
        world.until("time passed", |world| world.now > start + limits::LEASE / 2);
        assert_eq!(world.events(here, 2).len(), 1, "SUBACK while node {deaf} does not know the way");
        world.cut.clear();
        world.until("SUBACK of QoS 1", |world| world.events(here, 2).len() == 2);
        let target = RouteTarget::Partition(partition_of_share(&filter, cluster_config().partitions));
        for (id, member) in &world.members {
            let known = member.node.control().unwrap().routes().any(|route| route == (&filter, target));
            assert!(known, "node {id} does not know {target:?}");
        }
    }
}
