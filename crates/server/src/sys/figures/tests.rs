//! Figures without a cluster.

use std::collections::BTreeMap;

use quorate_state::command::NodeRecord;
use quorate_state::{GroupId, Incarnation, LogIndex};

use super::*;
use crate::founding::text;
use quorate_node::node::GroupStatus;

const SECOND: Duration = Duration::from_secs(1);

fn record(id: u64, name: &str, version: &str) -> NodeRecord {
    NodeRecord {
        id: NodeId(id),
        name: text(name),
        disk: [0; 16],
        incarnation: Incarnation(1),
        peer: text(""),
        mqtt: text(""),
        admin: text(""),
        zone: text(""),
        version: text(version),
        level: 1,
    }
}

fn group(id: u32, leader: u64, sessions: u64, online: u64) -> GroupStatus {
    let counts = Counts {
        sessions,
        online,
        subscriptions: 3,
        retained: 5,
        queued_messages: 7,
        queued_bytes: 11,
        inflight: 13,
    };
    GroupStatus {
        group: GroupId(id),
        heir: None,
        leader: Some(NodeId(leader)),
        term: 1,
        voters: vec![],
        learners: vec![],
        committed: LogIndex(1),
        applied: LogIndex(1),
        checkpoint: LogIndex(1),
        progress: vec![],
        sent_snapshots: vec![],
        hash: None,
        counts: Some(counts),
    }
}

/// Node 1 of two, which leads the first of two partitions.
fn status() -> NodeStatus {
    NodeStatus {
        id: NodeId(1),
        incarnation: Incarnation(4),
        lease_left: None,
        ready: true,
        nodes: vec![
            (record(1, "n1", "0.10.0"), Membership::Live),
            (record(2, "n2", "0.9.1"), Membership::Live),
        ],
        groups: vec![group(1, 1, 10, 8), group(2, 2, 20, 20)],
        peers_up: vec![],
        connections: 0,
        stream_bytes: 0,
        barrier: LogIndex(0),
        duties: Vec::new(),
        time: quorate_state::Timestamp(0),
        level: 1,
        violations: Vec::new(),
        membership: Default::default(),
    }
}

/// Figures of node 1 with these connections, after so long.
fn read(own: &mut OwnFigures, connections: u64, heard: &Heard, now: Duration) -> Figures {
    let metrics = Metrics::default();
    metrics.connections_accepted.add(connections);
    own.read(&metrics, &status(), 2, heard, now)
}

fn told(pairs: &[(&str, u64)]) -> Figures {
    Figures::of_peer(pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
}

fn tree(own: &Figures, heard: &Heard) -> BTreeMap<String, String> {
    let all = topics((NodeId(1), own), heard, &members(&status()));
    let count = all.len();
    let tree: BTreeMap<String, String> = all.into_iter().collect();
    assert_eq!(tree.len(), count, "every topic once");
    tree
}

#[test]
fn node_counts_the_partitions_that_it_leads() {
    let figures = read(&mut OwnFigures::default(), 6, &Heard::default(), SECOND);
    let tree = tree(&figures, &Heard::default());
    for root in ["$SYS/broker", "$SYS/nodes/n1"] {
        for (name, payload) in [
            ("clients/connected", "6"),
            ("clients/active", "6"),
            ("clients/disconnected", "2"),
            ("clients/inactive", "2"),
            ("clients/total", "8"),
            ("clients/maximum", "6"),
            ("subscriptions/count", "5"),
            ("retained messages/count", "5"),
            ("store/messages/count", "25"),
            ("messages/stored", "25"),
            ("store/messages/bytes", "11"),
            ("messages/inflight", "13"),
            ("uptime", "1 seconds"),
            ("load/publish/dropped/15min", "0.00"),
        ] {
            assert_eq!(
                tree.get(&format!("{root}/{name}")).map(String::as_str),
                Some(payload),
                "{root}/{name}"
            );
        }
    }
    assert_eq!(tree["$SYS/nodes/n1/leads"], "1");
    assert_eq!(tree["$SYS/nodes/n1/ready"], "1");
    assert_eq!(tree["$SYS/nodes/n1/incarnation"], "4");
    assert!(!tree.contains_key("$SYS/broker/ready"));
    assert!(tree.values().all(|payload| !payload.is_empty()));
}

#[test]
fn cluster_sums_its_nodes_and_every_node_shows_each() {
    let mut heard = Heard::default();
    let other = told(&[
        ("clients/connected", 3),
        ("uptime", 900),
        ("load/messages/sent/1min", 250),
        ("leads", 9),
        ("ready", 1),
    ]);
    heard.note(NodeId(2), other, SECOND);
    let figures = read(&mut OwnFigures::default(), 6, &heard, SECOND);
    let tree = tree(&figures, &heard);
    for (topic, payload) in [
        ("$SYS/broker/clients/connected", "9"),
        ("$SYS/broker/clients/maximum", "9"),
        ("$SYS/nodes/n1/clients/maximum", "6"),
        ("$SYS/broker/uptime", "900 seconds"),
        ("$SYS/broker/load/messages/sent/1min", "2.50"),
        ("$SYS/broker/version", "quorate version 0.9.1"),
        ("$SYS/nodes/n1/clients/connected", "6"),
        ("$SYS/nodes/n2/clients/connected", "3"),
        ("$SYS/nodes/n2/leads", "9"),
        ("$SYS/nodes/n1/version", "quorate version 0.10.0"),
    ] {
        assert_eq!(tree.get(topic).map(String::as_str), Some(payload), "{topic}");
    }
}

#[test]
fn two_nodes_show_the_same_of_the_cluster() {
    let first = told(&[("clients/connected", 6), (CLUSTER_MAXIMUM, 40), ("publish/bytes/sent", 1)]);
    let second = told(&[("clients/connected", 3), (CLUSTER_MAXIMUM, 50), ("publish/bytes/sent", 2)]);
    let of_cluster = |own: &Figures, id, other: &Figures, other_id| {
        let mut heard = Heard::default();
        heard.note(NodeId(other_id), other.clone(), SECOND);
        let mut all = topics((NodeId(id), own), &heard, &members(&status()));
        all.retain(|(topic, _)| topic.starts_with("$SYS/broker/"));
        all
    };
    let seen = of_cluster(&first, 1, &second, 2);
    assert_eq!(seen, of_cluster(&second, 2, &first, 1));
    assert!(seen.contains(&("$SYS/broker/clients/maximum".to_owned(), "50".to_owned())));
}

#[test]
fn silent_node_counts_no_more_and_is_not_ready() {
    let mut heard = Heard::default();
    heard.note(NodeId(2), told(&[("clients/connected", 3), ("ready", 1)]), SECOND);
    let mut own = OwnFigures::default();
    let figures = read(&mut own, 6, &heard, SECOND);
    assert_eq!(tree(&figures, &heard)["$SYS/nodes/n2/ready"], "1");
    heard.forget(3 * SECOND, 3 * SECOND);
    assert_eq!(tree(&figures, &heard)["$SYS/broker/clients/connected"], "9");
    heard.forget(3 * SECOND, 4 * SECOND);
    let figures = read(&mut own, 5, &heard, 4 * SECOND);
    let tree = tree(&figures, &heard);
    assert_eq!(tree["$SYS/broker/clients/connected"], "5");
    assert_eq!(tree["$SYS/broker/clients/maximum"], "9", "the most that there were");
    assert_eq!(tree["$SYS/nodes/n2/ready"], "0");
    assert!(!tree.contains_key("$SYS/nodes/n2/clients/connected"));
    assert_eq!(tree["$SYS/nodes/n2/version"], "quorate version 0.9.1");
}

#[test]
fn names_that_nobody_knows_are_ignored_and_ours_are_known() {
    let odd = told(&[("a/b", 1), ("load/x/1min", 1), ("load/bytes/sent/2min", 1), ("../x", 1), ("", 1)]);
    assert_eq!(odd, Figures::default());
    let mut own = read(&mut OwnFigures::default(), 1, &Heard::default(), SECOND);
    own.set_latency(Some(1), Some(2));
    assert_eq!(Figures::of_peer(own.to_peer()), own);
    assert_eq!(own.0.len(), FIGURES.len() + LOADS.len() * SPANS.len());
    assert!(own.0.len() <= quorate_node::limits::COUNTERS_MAX);
}

#[test]
fn peers_beyond_the_limit_are_not_kept() {
    let mut heard = Heard::default();
    for id in 0..300 {
        heard.note(NodeId(id), Figures::default(), SECOND);
    }
    assert_eq!(heard.figures().count(), HEARD_NODES_MAX);
    heard.note(NodeId(0), told(&[("uptime", 8)]), SECOND);
    assert_eq!(heard.figures().map(|peer| peer.value("uptime")).max(), Some(8));
}

#[test]
fn of_two_members_with_one_name_the_later_is_shown() {
    let mut status = status();
    status.nodes.push((record(5, "n2", "0.9.2"), Membership::Joining));
    status.nodes.push((record(6, "n6", "0.9.2"), Membership::Removed));
    let shown: Vec<(u64, String)> =
        members(&status).into_iter().map(|member| (member.id.0, member.name)).collect();
    assert_eq!(shown, [(1, "n1".to_owned()), (5, "n2".to_owned())]);
}

#[test]
fn versions_are_ordered_by_number() {
    let mut versions = ["1.10.0", "1.9.9", "0.1.0-rc.1", "1.9.10"];
    versions.sort_by_key(|version| order(version));
    assert_eq!(versions, ["0.1.0-rc.1", "1.9.9", "1.9.10", "1.10.0"]);
}

#[test]
fn rates_are_between_the_last_two_times_that_a_peer_told() {
    let mut heard = Heard::default();
    let figures = |received: u64, dropped: u64| {
        let mut figures = told(&[
            ("publish/messages/received", received),
            ("publish/messages/dropped", dropped),
            ("clients/connected", 3),
            ("clients/disconnected", 4),
            ("store/messages/count", 10),
            ("messages/inflight", 1),
            ("retained messages/count", 2),
        ]);
        figures.set_latency(Some(500), None);
        Figures::of_peer(figures.to_peer())
    };
    heard.note(NodeId(2), figures(100, 0), SECOND);
    assert_eq!(heard.shown()[0].2.messages_in_per_s, 0.0);
    heard.note(NodeId(2), figures(150, 5), SECOND * 11);
    let (peer, at, shown) = heard.shown()[0];
    assert_eq!((peer, at), (NodeId(2), SECOND * 11));
    assert_eq!((shown.messages_in_per_s, shown.dropped_per_s, shown.messages_out_per_s), (5.0, 0.5, 0.0));
    assert_eq!((shown.connections, shown.sessions, shown.queued_messages, shown.retained), (3, 7, 7, 2));
    assert_eq!((shown.publish_latency_p50_us, shown.publish_latency_p99_us), (Some(500), None));
    heard.note(NodeId(2), figures(7, 0), SECOND * 12);
    assert_eq!(heard.shown()[0].2.messages_in_per_s, 0.0, "it has started again");
    let mut topics = Vec::new();
    figures(1, 1).topics("$SYS", &mut topics);
    assert!(topics.iter().all(|(topic, _)| !topic.contains("latency")), "{topics:?}");
}
