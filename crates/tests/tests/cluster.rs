//! Three real nodes, real clients, real kill -9.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_api::ClusterState;
use quorate_tests::client::Client;
use quorate_tests::load::{Load, Shape};
use quorate_tests::{Cluster, wait_at_most, wait_for};

/// Sequence numbers of a publisher among what arrived.
fn sequences(messages: &[(String, Vec<u8>, bool)]) -> BTreeSet<u64> {
    messages.iter().filter_map(|(_, payload, _)| std::str::from_utf8(payload).ok()?.parse().ok()).collect()
}

/// The first arrivals are in publish order.
fn in_order(messages: &[(String, Vec<u8>, bool)]) -> bool {
    let mut highest = 0;
    messages.iter().filter_map(|(_, payload, _)| std::str::from_utf8(payload).ok()?.parse::<u64>().ok()).all(
        |sequence| {
            let ok = sequence <= highest + 1;
            highest = highest.max(sequence);
            ok
        },
    )
}

#[test]
fn publish_after_suback_arrives_from_every_node() {
    let cluster = Cluster::start("suback", 3).unwrap();
    for subscriber_node in 0..3 {
        let subscriber = Client::connect(
            &format!("sub-{subscriber_node}"),
            cluster.node(subscriber_node).mqtt_port,
            false,
        );
        for publisher_node in 0..3 {
            let publisher = Client::connect(
                &format!("pub-{publisher_node}"),
                cluster.node(publisher_node).mqtt_port,
                true,
            );
            let topic = format!("t/{subscriber_node}/{publisher_node}");
            subscriber.subscribe(&topic).unwrap();
            publisher.publish(&topic, b"1", false).unwrap();
            subscriber
                .wait_messages(&topic, |messages| messages.iter().any(|(name, ..)| *name == topic))
                .unwrap();
        }
    }
}

#[test]
fn kill_of_each_node_in_turn_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start("kill", 3).unwrap();
    let subscriber = Client::connect("kill-sub", cluster.node(0).mqtt_port, false);
    subscriber.subscribe("kill/#").unwrap();
    let mut total = 0;
    for victim in [1, 2] {
        let publisher_node = 3 - victim;
        let publisher =
            Client::connect(&format!("kill-pub-{victim}"), cluster.node(publisher_node).mqtt_port, false);
        publisher.wait_connected().unwrap();
        for n in 1..=500_u64 {
            publisher.publish(&format!("kill/{victim}"), (total + n).to_string().as_bytes(), false).unwrap();
            if n == 200 {
                cluster.kill(victim).unwrap();
            }
        }
        publisher.wait_acked(500).unwrap();
        total += 500;
        cluster.restart(victim).unwrap();
        cluster.wait_ready(victim).unwrap();
    }
    subscriber
        .wait_messages("all acknowledged", |messages| sequences(messages).len() as u64 == total)
        .unwrap();
    assert!(in_order(&subscriber.messages()));
}

#[test]
fn kill_of_all_nodes_keeps_every_acknowledged_message() {
    let mut cluster = Cluster::start("kill-all", 3).unwrap();
    {
        let subscriber = Client::connect("all-sub", cluster.node(2).mqtt_port, false);
        subscriber.subscribe("all/#").unwrap();
    }
    let publisher = Client::connect("all-pub", cluster.node(0).mqtt_port, false);
    for n in 1..=300_u64 {
        publisher.publish("all/x", n.to_string().as_bytes(), false).unwrap();
    }
    publisher.wait_acked(300).unwrap();
    cluster.kill_all().unwrap();
    for node in 0..3 {
        cluster.restart(node).unwrap();
    }
    for node in 0..3 {
        cluster.wait_ready(node).unwrap();
    }
    publisher.publish("all/x", b"301", false).unwrap();
    publisher.wait_acked(301).unwrap();
    let subscriber = Client::connect("all-sub", cluster.node(1).mqtt_port, false);
    assert!(subscriber.wait_connected().unwrap(), "Session Present");
    subscriber.wait_messages("all acknowledged", |messages| sequences(messages).len() == 301).unwrap();
    assert!(in_order(&subscriber.messages()));
}

/// A byte of a payload in the middle of what the node has written, behind which much more was synced; and what would tell which
/// record that was.
fn flip_in_the_middle_of_the_log(cluster: &Cluster, place: usize) {
    let data = cluster.folder().join(&cluster.node(place).name).join("data");
    let file = data.join("log/segment-0000000001");
    let mut content = std::fs::read(&file).unwrap();
    let written = content.iter().rposition(|byte| *byte != 0).unwrap();
    // What is zero may be padding between records, which says nothing.
    let at = (written / 2..written).find(|at| content[*at] != 0).unwrap();
    content[at] ^= 0x20;
    std::fs::write(file, content).unwrap();
    std::fs::remove_dir_all(data.join("copies")).unwrap();
}

#[test]
fn damaged_log_is_refetched_under_load() {
    let mut cluster = Cluster::start("damaged", 3).unwrap();
    let shape = Shape { publishers: 2, subscribers: 2, by_hand: 0, rate: 200, payload_bytes: 64 };
    let mut load = Load::start(&cluster, "damaged", shape).unwrap();
    load.wait_progress(500).unwrap();
    let id_before = cluster.state(1, false).unwrap().node_id;
    cluster.kill(1).unwrap();
    flip_in_the_middle_of_the_log(&cluster, 1);
    cluster.restart(1).unwrap();
    wait_at_most(Duration::from_secs(60), "the damaged node to be ready", || {
        cluster.get(1, "/readyz").ok().filter(|(status, _)| *status == 200)
    })
    .unwrap();
    let id = cluster.state(1, false).unwrap().node_id;
    assert_ne!(id, id_before, "it may have forgotten votes: it must not come back as who it was");
    wait_at_most(Duration::from_secs(60), "it votes in every group", || {
        let state = cluster.state(0, false).ok()?;
        let votes = |voters: &[u64]| voters.contains(&id) && !voters.contains(&id_before);
        state.groups.iter().all(|group| votes(&group.voters)).then_some(())
    })
    .unwrap();
    assert_eq!(cluster.metric(1, "quorate_damaged_folders").unwrap()[""], 1.0);
    // What it has fetched counts: with one of the others it is a majority.
    load.wait_progress(100).unwrap();
    cluster.kill(0).unwrap();
    load.wait_progress(100).unwrap();
    cluster.restart(0).unwrap();
    cluster.wait_ready(0).unwrap();
    load.end().unwrap();
    load.drain().unwrap();
    let verdict = load.audit().verdict();
    assert!(verdict.is_empty(), "{verdict:#?}");
    wait_equal_states(&cluster);
    assert!(!cluster.log().unwrap().contains("panicked at"));
}

/// Waits until all nodes have shown the same hash of each group at the same index.
fn wait_equal_states(cluster: &Cluster) {
    wait_for("equal states on all nodes", || {
        let states: Vec<_> = (0..3).map_while(|node| cluster.state(node, true).ok()).collect();
        let shown = |state: &ClusterState| -> Vec<_> {
            let groups = state.groups.iter().map(|group| (group.id, group.applied, group.state_hash.clone()));
            groups.collect()
        };
        let [first, others @ ..] = states.as_slice() else { return None };
        (states.len() == 3 && others.iter().all(|state| shown(state) == shown(first))).then_some(())
    })
    .unwrap();
}

#[test]
fn retained_messages_reach_wildcards_on_every_node() {
    let cluster = Cluster::start("retained", 3).unwrap();
    let publisher = Client::connect("ret-pub", cluster.node(0).mqtt_port, true);
    for n in 0..200 {
        publisher.publish(&format!("ret/{n}"), n.to_string().as_bytes(), true).unwrap();
    }
    publisher.wait_acked(200).unwrap();
    for node in 0..3 {
        for clean in [true, false] {
            let subscriber =
                Client::connect(&format!("ret-sub-{node}-{clean}"), cluster.node(node).mqtt_port, clean);
            subscriber.subscribe("ret/+").unwrap();
            subscriber
                .wait_messages("200 retained", |messages| {
                    messages.iter().filter(|(_, _, retain)| *retain).count() == 200
                })
                .unwrap();
        }
    }
}

#[test]
fn minority_acknowledges_nothing_and_recovers_unaided() {
    let cluster = Cluster::start("minority", 3).unwrap();
    let subscriber = Client::connect("min-sub", cluster.node(0).mqtt_port, false);
    subscriber.subscribe("min/#").unwrap();
    let publisher = Client::connect("min-pub", cluster.node(0).mqtt_port, false);
    publisher.publish("min/x", b"1", false).unwrap();
    publisher.wait_acked(1).unwrap();
    cluster.signal(1, "STOP").unwrap();
    cluster.signal(2, "STOP").unwrap();
    wait_for("n1 to say that it is not ready", || {
        cluster.get(0, "/readyz").ok().filter(|(status, body)| *status == 503 && body.contains("lease"))
    })
    .unwrap();
    let acked = publisher.acked();
    publisher.publish("min/x", b"2", false).unwrap();
    publisher.publish("min/unmatched", b"3", false).unwrap();
    let (status, body) = cluster.get(0, "/readyz").unwrap();
    assert_eq!(status, 503, "{body}");
    assert_eq!(publisher.acked(), acked, "a minority acknowledged");
    cluster.signal(1, "CONT").unwrap();
    cluster.signal(2, "CONT").unwrap();
    for node in 0..3 {
        cluster.wait_ready(node).unwrap();
    }
    publisher.wait_acked(3).unwrap();
    subscriber.wait_messages("both", |messages| sequences(messages).len() == 3).unwrap();
}

#[test]
fn takeover_on_another_node_leaves_one_owner() {
    let cluster = Cluster::start("takeover", 3).unwrap();
    let first = Client::connect("taken", cluster.node(0).mqtt_port, false);
    first.subscribe("taken/#").unwrap();
    {
        let publisher = Client::connect("taken-pub", cluster.node(1).mqtt_port, true);
        publisher.publish("taken/x", b"1", false).unwrap();
        publisher.wait_acked(1).unwrap();
    }
    first.wait_messages("first message", |messages| messages.len() == 1).unwrap();
    let second = Client::connect("taken", cluster.node(2).mqtt_port, false);
    assert!(second.wait_connected().unwrap(), "Session Present");
    wait_for("the first connection to be closed", || (!first.errors().is_empty()).then_some(())).unwrap();
}

#[test]
fn share_group_members_on_all_nodes_consume_each_message_once() {
    let cluster = Cluster::start("share", 3).unwrap();
    let member = |node: usize, durable: bool| {
        let member = Client::connect(&format!("share-{node}"), cluster.node(node).mqtt_port, !durable);
        member.subscribe("$share/group/share/#").unwrap();
        member
    };
    let members = [member(0, true), member(1, false), member(2, true)];
    for node in 0..3 {
        let publisher = Client::connect(&format!("share-pub-{node}"), cluster.node(node).mqtt_port, true);
        for n in 1..=100_usize {
            let payload = (node * 100 + n).to_string();
            publisher.publish(&format!("share/{node}"), payload.as_bytes(), false).unwrap();
        }
        publisher.wait_acked(100).unwrap();
    }
    let all = || members.iter().map(Client::messages).collect::<Vec<_>>();
    wait_for("all consumed", || (all().iter().map(Vec::len).sum::<usize>() >= 300).then_some(())).unwrap();
    let all = all();
    assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 300, "a message went to two members");
    assert_eq!(sequences(&all.concat()).len(), 300);
    assert!(all.iter().all(|messages| messages.len() > 50), "{:?}", all.iter().map(Vec::len));
}
