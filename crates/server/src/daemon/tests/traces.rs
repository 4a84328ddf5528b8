//! One sampled message can be followed from its publisher to its subscribers, over three nodes.

use opentelemetry_proto::tonic::trace::v1::Span;
use quorate_codec::{Packet, PacketId, Publish, PublishProperties, PublishQoS, Text, TopicName};

use super::*;
use crate::config::Endpoint;
use crate::telemetry::tests::{Collector, attribute};

fn traced(mut configs: Vec<Config>, collector: &Collector) -> Vec<Config> {
    for config in &mut configs {
        config.telemetry.otlp_endpoint = Some(collector.endpoint.clone());
        config.telemetry.sample_ratio = 1.0;
    }
    configs
}

type Spans = [(String, Span)];

/// The span of this name of this client, about this topic if it has one.
fn find<'a>(spans: &'a Spans, name: &str, client: &str, topic: Option<&str>) -> Option<&'a (String, Span)> {
    let of = |span: &Span, key: &str| {
        let pair = span.attributes.iter().find(|pair| pair.key == key)?;
        Some(attribute(std::slice::from_ref(pair), key))
    };
    spans.iter().find(|(_, span)| {
        span.name == name
            && of(span, "messaging.client.id").as_deref() == Some(client)
            && (topic.is_none() || of(span, "messaging.destination.name").as_deref() == topic)
    })
}

/// Publishes with QoS 1 and a trace of the publisher's own.
fn publish_in_trace(publisher: &mut TestClient, topic: &str, traceparent: &str) {
    let text = |text: &str| Text::parse(text).unwrap();
    let mut properties = PublishProperties::default();
    properties.user_properties.push((text("traceparent"), text(traceparent)));
    publisher.send(&Packet::Publish(Publish {
        dup: false,
        qos: PublishQoS::AtLeastOnce(PacketId::new(9).unwrap()),
        retain: false,
        topic: Some(TopicName::new(text(topic)).unwrap()),
        properties: Some(Box::new(properties)),
        payload: b"x".to_vec().into(),
    }));
    assert!(matches!(publisher.receive(), Packet::PubAck(_)));
}

#[test]
fn sampled_message_is_followed_from_publisher_to_subscribers_on_other_nodes() {
    let folder = TestFolder::new();
    let collector = Collector::start("200 OK");
    let nodes = start_all(&traced(three(&folder), &collector));
    let mut durable = TestClient::connect(nodes[0].mqtt(), "durable", Some(3600));
    durable.subscribe("a/#");
    let mut transient = TestClient::connect(nodes[1].mqtt(), "transient", None);
    transient.subscribe("a/#");
    let mut publisher = TestClient::connect(nodes[2].mqtt(), "publisher", None);
    publisher.publish("a/1", "one", false);
    assert_eq!((durable.message().as_str(), transient.message().as_str()), ("one", "one"));
    let wanted = [
        ("connect", "publisher", None),
        ("connect", "durable", None),
        ("publish", "publisher", Some("a/1")),
        ("commit", "publisher", None),
        ("deliver", "durable", Some("a/1")),
        ("deliver", "transient", Some("a/1")),
    ];
    let spans = collector.wait("six spans", |spans| {
        wanted.iter().all(|(name, client, topic)| {
            // A commit has the attributes that it needs: it is found by its publish.
            *name == "commit" || find(spans, name, client, *topic).is_some()
        }) && spans.iter().any(|(_, span)| span.name == "commit")
    });
    let of = |name: &str, client: &str, topic| find(&spans, name, client, topic).unwrap();
    let (node, publish) = of("publish", "publisher", Some("a/1"));
    assert_eq!((node.as_str(), publish.parent_span_id.len()), ("n3", 0));
    assert_eq!(attribute(&publish.attributes, "messaging.message.body.size"), "3");
    assert_eq!(attribute(&publish.attributes, "mqtt.qos"), "1");
    let linked = |span: &Span, client: &str| {
        let (_, connect) = of("connect", client, None);
        let to = (&connect.trace_id, &connect.span_id);
        assert!(span.links.iter().any(|link| (&link.trace_id, &link.span_id) == to), "{client}: {span:?}");
    };
    linked(publish, "publisher");
    let (node, commit) = spans.iter().find(|(_, span)| span.name == "commit").unwrap();
    assert_eq!(node, "n3");
    assert_eq!((&commit.trace_id, &commit.parent_span_id), (&publish.trace_id, &publish.span_id));
    assert!(["1", "2"].contains(&attribute(&commit.attributes, "quorate.groups").as_str()));
    assert!(publish.start_time_unix_nano <= commit.start_time_unix_nano);
    assert!(commit.end_time_unix_nano <= publish.end_time_unix_nano);
    for (client, expected_node, path) in [("durable", "n1", "session"), ("transient", "n2", "direct")] {
        let (node, deliver) = of("deliver", client, Some("a/1"));
        assert_eq!(node, expected_node);
        assert_eq!((&deliver.trace_id, &deliver.parent_span_id), (&publish.trace_id, &publish.span_id));
        assert_eq!(attribute(&deliver.attributes, "quorate.path"), path);
        linked(deliver, client);
    }
    let publishes = spans.iter().filter(|(_, span)| span.name == "publish").count();
    assert_eq!(publishes, 1, "one publish is one span, on whatever ways its message goes");
    publish_in_trace(&mut publisher, "a/2", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let spans = collector.wait("a delivery in the publisher's trace", |spans| {
        find(spans, "deliver", "transient", Some("a/2")).is_some()
            && find(spans, "publish", "publisher", Some("a/2")).is_some()
    });
    let (_, publish) = find(&spans, "publish", "publisher", Some("a/2")).unwrap();
    let (_, deliver) = find(&spans, "deliver", "transient", Some("a/2")).unwrap();
    assert_eq!(publish.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(publish.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!((&deliver.trace_id, &deliver.parent_span_id), (&publish.trace_id, &publish.span_id));
    for node in nodes {
        let edge = node.daemon.as_ref().unwrap().edge().clone();
        assert_eq!(edge.metrics.spans_unqueued.value() + edge.metrics.spans_not_exported.value(), 0);
        assert!(edge.metrics.spans_exported.value() > 0);
        node.stop();
    }
}

#[test]
fn collector_that_does_not_answer_holds_up_nobody() {
    let folder = TestFolder::new();
    // Connections to it come about, and nobody ever reads from them.
    let hangs = StdListener::bind(loopback(0)).unwrap();
    let port = hangs.local_addr().unwrap().port();
    let mut config = config(&folder, "n1");
    let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port, path: "/v1/traces".to_owned() };
    config.telemetry.otlp_endpoint = Some(endpoint);
    config.telemetry.sample_ratio = 1.0;
    let node = Running::start(&config);
    node.wait_until_ready();
    let mut subscriber = TestClient::connect(node.mqtt(), "sub", Some(3600));
    subscriber.subscribe("a/#");
    let mut publisher = TestClient::connect(node.mqtt(), "pub", None);
    for number in 0..200 {
        publisher.publish("a/1", &number.to_string(), false);
        assert_eq!(subscriber.message(), number.to_string());
    }
    let metrics = node.daemon.as_ref().unwrap().edge().metrics.clone();
    node.stop();
    assert_eq!(metrics.spans_exported.value(), 0);
}
