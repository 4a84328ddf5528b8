//! Retained messages through wildcards, from every node (D9).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_tests::Cluster;
use quorate_tests::raw::{Connect, Packet, Raw};

use crate::Choice;

/// Topics `ret/A/B`.
const FIRST_LEVELS: usize = 20;

/// Topics below each first level.
const SECOND_LEVELS: usize = 50;

/// Rounds of changes, each followed by a read from every node.
const ROUNDS: usize = 5;

/// Nothing more is expected: so long is waited for something wrong to come.
const QUIET: Duration = Duration::from_millis(300);

/// What the retained store must hold.
type Model = BTreeMap<String, Vec<u8>>;

/// Reads what a filter gives to a new subscription on a node, and compares it with the model at once after SUBACK.
fn check(
    port: u16,
    client_id: &str,
    durable: bool,
    filter: &str,
    model: &Model,
    matches: impl Fn(&str) -> bool,
) {
    let connect = if durable { Connect::durable(client_id) } else { Connect::transient(client_id) };
    let (mut raw, _) = Raw::connect(port, &connect).unwrap();
    raw.subscribe(filter).unwrap();
    let expected: Model = model
        .iter()
        .filter(|(topic, _)| matches(topic))
        .map(|(topic, value)| (topic.clone(), value.clone()))
        .collect();
    let mut got = Model::new();
    while got.len() < expected.len() {
        let publish = raw
            .receive()
            .unwrap_or_else(|error| panic!("{filter}: {} of {}: {error:#}", got.len(), expected.len()));
        assert!(publish.retain, "{filter}: RETAIN of {}", publish.topic);
        assert!(got.insert(publish.topic.clone(), publish.payload).is_none(), "{} came twice", publish.topic);
    }
    assert!(got == expected, "{filter} on {port}: {:?}", difference(&got, &expected));
    if let Some(Some(Packet::Publish(publish))) = raw.read_within(QUIET).unwrap() {
        panic!("{filter} on {port}: {} came too", publish.topic);
    }
}

fn difference<'a>(got: &'a Model, expected: &'a Model) -> Vec<&'a String> {
    let wrong = got.iter().filter(|(topic, value)| expected.get(*topic) != Some(*value));
    wrong
        .map(|(topic, _)| topic)
        .chain(expected.keys().filter(|topic| !got.contains_key(*topic)))
        .take(10)
        .collect()
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn retained_with_wildcards_from_any_node() {
    let cluster = Cluster::start("retained-wild", 3).unwrap();
    let start = Instant::now();
    let mut choice = Choice(9);
    let mut model = Model::new();
    let (mut writes, mut reads) = (0, 0);
    for round in 0..ROUNDS {
        let mut publishers: Vec<Raw> = (0..3)
            .map(|node| {
                let client_id = format!("ret-pub-{round}-{node}");
                Raw::connect(cluster.node(node).mqtt_port, &Connect::transient(&client_id)).unwrap().0
            })
            .collect();
        for first in 0..FIRST_LEVELS {
            for second in 0..SECOND_LEVELS {
                // Set all, then overwrite a third, delete a third and leave a third.
                let change = if round == 0 { 0 } else { choice.below(3) };
                let topic = format!("ret/{first}/{second}");
                let payload = match change {
                    0 => format!("{topic} of round {round}").into_bytes(),
                    1 => Vec::new(),
                    _ => continue,
                };
                publishers[choice.below(3)].publish_acked(&topic, &payload, true).unwrap();
                writes += 1;
                if payload.is_empty() {
                    model.remove(&topic);
                } else {
                    model.insert(topic, payload);
                }
            }
        }
        // Each subscription begins after the last PUBACK: it gets exactly this state.
        for node in 0..3 {
            let port = cluster.node(node).mqtt_port;
            for durable in [true, false] {
                let client_id = |filter: &str| format!("ret-{round}-{node}-{durable}-{filter}");
                check(port, &client_id("all"), durable, "ret/#", &model, |_| true);
                check(port, &client_id("plus"), durable, "ret/+/+", &model, |_| true);
                check(port, &client_id("two"), durable, "+/+/7", &model, |topic| topic.ends_with("/7"));
                check(port, &client_id("one"), durable, "ret/3/+", &model, |topic| {
                    topic.starts_with("ret/3/")
                });
                check(port, &client_id("below"), durable, "ret/11/#", &model, |topic| {
                    topic.starts_with("ret/11/")
                });
                check(port, &client_id("exact"), durable, "ret/5/5", &model, |topic| topic == "ret/5/5");
                check(port, &client_id("none"), durable, "ret/+", &model, |_| false);
                reads += 7;
            }
        }
    }
    cluster.check_log().unwrap();
    println!(
        "retained_with_wildcards_from_any_node: {writes} writes, {reads} reads equal to the model, {} left, {} s",
        model.len(),
        start.elapsed().as_secs()
    );
}
