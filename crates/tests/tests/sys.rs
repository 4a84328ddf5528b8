//! Topics below `$SYS` on three real nodes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use quorate_tests::Cluster;
use quorate_tests::client::Client;

/// Connections that each node has of this test besides the subscriber.
const EXTRA: [usize; 3] = [1, 2, 3];

/// The last value of a topic that arrived, as a number.
fn last(messages: &[(String, Vec<u8>, bool)], topic: &str) -> Option<usize> {
    let (_, payload, _) = messages.iter().rfind(|(name, ..)| name == topic)?;
    String::from_utf8(payload.clone()).unwrap().split(' ').next()?.parse().ok()
}

#[test]
fn every_node_tells_of_itself_and_of_the_whole_cluster() {
    let cluster = Cluster::start("sys", 3).unwrap();
    let port = |node: usize| cluster.node(node).mqtt_port;
    let subscribers: Vec<Client> = (0..3)
        .map(|node| {
            // One durable session and two that end with their connection.
            let subscriber = Client::connect(&format!("sys-sub-{node}"), port(node), node != 0);
            subscriber.subscribe("$SYS/#").unwrap();
            subscriber
        })
        .collect();
    for subscriber in &subscribers {
        subscriber
            .wait_messages("current values at once, with RETAIN", |messages| {
                messages.iter().any(|(topic, _, retain)| topic == "$SYS/broker/uptime" && *retain)
            })
            .unwrap();
    }
    let mut extra = Vec::new();
    for (node, count) in EXTRA.into_iter().enumerate() {
        for number in 0..count {
            let client = Client::connect(&format!("sys-{node}-{number}"), port(node), number == 0);
            client.wait_connected().unwrap();
            extra.push(client);
        }
    }
    let total = EXTRA.iter().sum::<usize>() + subscribers.len();
    for subscriber in &subscribers {
        subscriber
            .wait_messages("what each node has, and their sum", |messages| {
                let of_node = |node: usize| {
                    let name = &cluster.node(node).name;
                    last(messages, &format!("$SYS/nodes/{name}/clients/connected"))
                };
                let ready =
                    |node: usize| last(messages, &format!("$SYS/nodes/{}/ready", cluster.node(node).name));
                (0..3).all(|node| of_node(node) == Some(EXTRA[node] + 1) && ready(node) == Some(1))
                    && last(messages, "$SYS/broker/clients/connected") == Some(total)
                    && last(messages, "$SYS/broker/clients/maximum") == Some(total)
                    && last(messages, "$SYS/broker/clients/total") == Some(total)
                    && last(messages, "$SYS/broker/subscriptions/count") == Some(3)
            })
            .unwrap();
        let messages = subscriber.messages();
        assert!(messages.iter().any(|(_, _, retain)| !retain), "later changes come without RETAIN");
        assert!(last(&messages, "$SYS/broker/publish/messages/sent").is_some_and(|sent| sent > 0));
        let leads = |node: usize| last(&messages, &format!("$SYS/nodes/{}/leads", cluster.node(node).name));
        assert!((0..3).all(|node| leads(node).is_some()));
    }
    // [MQTT-4.7.2-1]
    let all = Client::connect("sys-all", port(0), true);
    all.subscribe("#").unwrap();
    all.subscribe("+/broker/uptime").unwrap();
    let publisher = Client::connect("sys-pub", port(1), true);
    publisher.publish("sys/done", b"1", false).unwrap();
    all.wait_messages("a message of a client", |messages| !messages.is_empty()).unwrap();
    assert!(all.messages().iter().all(|(topic, ..)| topic == "sys/done"), "{:?}", all.messages());
    cluster.check_log().unwrap();
}

#[test]
fn publish_below_sys_ends_the_connection_and_reaches_nobody() {
    let cluster = Cluster::start("sys-publish", 3).unwrap();
    let subscriber = Client::connect("sys-sub", cluster.node(0).mqtt_port, true);
    subscriber.subscribe("$SYS/#").unwrap();
    let publisher = Client::connect("sys-pub", cluster.node(1).mqtt_port, true);
    publisher.wait_connected().unwrap();
    publisher.publish("$SYS/broker/forged", b"forged", true).unwrap();
    // MQTT 3 has no word for a refusal.
    quorate_tests::wait_for("the connection to end", || (!publisher.errors().is_empty()).then_some(()))
        .unwrap();
    assert_eq!(publisher.acked(), 0);
    let later = Client::connect("sys-later", cluster.node(2).mqtt_port, true);
    later.subscribe("$SYS/broker/forged").unwrap();
    later.subscribe("$SYS/broker/version").unwrap();
    later.wait_messages("the version", |messages| !messages.is_empty()).unwrap();
    let forged = |client: &Client| client.messages().iter().any(|(topic, ..)| topic.ends_with("forged"));
    assert!(!forged(&subscriber) && !forged(&later));
}
