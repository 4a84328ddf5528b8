//! Chapter 3.3: PUBLISH, without retained messages, which are in `section3_03_retain`.
//!
//! Spec: MQTT 5, 3.3; MQTT 3.1.1, 3.3.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, Cx, both, only4, only5};
use crate::connection::Connection;
use crate::decode::{Packet, Value};
use crate::packet::{PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, ack, ack_with, binary, packet};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    both("redelivery_has_dup", &["3.3.1-1", "4.3.2-3"], &["3.3.1-1"], redelivery_has_dup),
    both("qos_0_has_no_dup", &["3.3.1-2"], &["3.3.1-2"], qos_0_has_no_dup),
    both("dup_with_qos_0_is_malformed", &["3.3.1-2"], &["3.3.1-2"], dup_with_qos_0),
    both("dup_is_not_propagated", &["3.3.1-3"], &["3.3.1-3"], dup_is_not_propagated),
    both("qos_3_is_malformed", &["3.3.1-4"], &["3.3.1-4"], qos_3_is_malformed),
    both("topic_name_is_there", &["3.3.2-1"], &["3.3.2-1"], topic_name_is_there),
    both(
        "topic_name_with_wildcards_closes",
        &["3.3.2-2", "4.7.0-1"],
        &["3.3.2-2", "4.7.1-1"],
        wildcards_in_topic_names,
    ),
    both("what_arrives_matches_a_subscription", &["3.3.2-3"], &["3.3.2-3"], what_arrives_matches),
    only5("payload_format_is_forwarded", &["3.3.2-4"], payload_format),
    only5("payload_format_is_0_or_1", &[], payload_format_is_a_flag),
    only5("expired_message_is_deleted", &["3.3.2-5"], expired_message_is_deleted),
    only5("expired_retained_message_is_deleted", &["3.3.2-5"], expired_retained_message_is_deleted).alone(),
    only5("rest_of_the_expiry_is_sent", &["3.3.2-6"], rest_of_the_expiry).alone(),
    only5("expiry_of_a_message_sent_at_once_is_unchanged", &["3.3.2-6"], expiry_at_once),
    only5("alias_stands_for_its_topic", &["3.3.2-12"], alias_stands_for_its_topic),
    only5("alias_ends_with_the_connection", &["3.3.2-7"], alias_ends_with_the_connection),
    only5("alias_0_closes", &["3.3.2-8"], alias_0),
    only5("alias_that_was_not_set_closes", &[], alias_that_was_not_set),
    only5("every_alias_up_to_the_maximum_is_accepted", &["3.3.2-12"], every_alias),
    only5("alias_may_be_set_again", &[], alias_may_be_set_again),
    only5("aliases_of_both_sides_are_independent", &["3.3.2-7"], aliases_are_independent),
    only5("response_topic_is_a_topic_name", &["3.3.2-13", "3.3.2-14"], response_topic_is_a_topic_name),
    only5("request_properties_are_forwarded", &["3.3.2-15", "3.3.2-16", "3.3.2-20"], request_properties),
    only5("user_properties_keep_their_order", &["3.3.2-17", "3.3.2-18"], user_properties),
    only5(
        "properties_survive_the_queue",
        &["3.3.2-4", "3.3.2-15", "3.3.2-16", "3.3.2-17", "3.3.2-18", "3.3.2-20"],
        properties_survive_the_queue,
    ),
    only5("content_type_is_a_string", &["3.3.2-19"], content_type_is_a_string),
    both(
        "publish_is_answered_by_its_qos",
        &["3.3.4-1", "4.3.2-4"],
        &["3.3.4-1", "4.3.2-2"],
        publish_is_answered,
    ),
    both(
        "publish_with_qos_2_is_answered_by_pubrec",
        &["3.3.4-1", "4.3.3-8"],
        &["3.3.4-1"],
        qos_2_is_answered,
    ),
    both(
        "overlapping_subscriptions_give_the_highest_qos",
        &["3.3.4-2"],
        &["3.3.5-1"],
        overlapping_subscriptions,
    ),
    both("overlapping_subscriptions_give_one_copy", &[], &[], overlapping_subscriptions_give_one_copy),
    only5("identifiers_of_all_matching_subscriptions", &["3.3.4-3", "3.3.4-4"], subscription_identifiers),
    only5("identifiers_survive_the_queue", &["3.3.4-3", "3.3.4-4"], identifiers_survive_the_queue),
    only5("identifiers_of_qos_0_messages", &["3.3.4-3", "3.3.4-4"], identifiers_of_qos_0),
    only5("subscription_identifier_of_a_client_closes", &["3.3.4-6"], subscription_identifier_of_a_client),
    only5("receive_maximum_of_the_client_holds", &["3.3.4-9", "4.9.0-1", "4.9.0-2"], receive_maximum_holds),
    only5("qos_2_is_in_the_window_until_pubcomp", &["3.3.4-9", "4.9.0-2"], window_of_qos_2),
    only5("more_than_the_servers_receive_maximum_closes", &["3.3.4-7"], more_than_receive_maximum),
    only5("other_packets_do_not_wait_for_the_window", &["3.3.4-10", "4.9.0-3"], other_packets_do_not_wait),
    both("empty_payload_is_forwarded", &[], &[], empty_payload),
    only4("publish_of_3_1_1_reaches_5_0_and_back", &[], versions_meet),
    both("payload_of_any_bytes_is_forwarded", &[], &[], payload_of_any_bytes),
];

fn pair(cx: &Cx, qos: u8) -> Result<(Connection, Connection)> {
    let (mut subscriber, publisher) = (cx.connect("sub")?, cx.connect("pub")?);
    subscriber.subscribe(&cx.topic("#"), qos)?;
    Ok((subscriber, publisher))
}

fn redelivery_has_dup(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "x", 1)?;
    let first = subscriber.message()?;
    ensure!(!first.dup, "{first:?}");
    for _ in 0..2 {
        subscriber.abort()?;
        subscriber = cx.resume("sub")?;
        let again = subscriber.message()?;
        ensure!(again.dup && again.id == first.id && again.payload == first.payload, "{again:?}");
    }
    subscriber.send(&ack(PUBACK, first.id))?;
    subscriber.settle()?;
    subscriber.abort()?;
    // Acknowledged, it does not come again. DUP of the next one may say that it might have been sent before.
    publisher.publish_new(&cx.topic("t"), "y", 1)?;
    cx.resume("sub")?.take_this(&cx.topic("t"), "y")?;
    Ok(())
}

fn qos_0_has_no_dup(cx: &Cx) -> Result<()> {
    // `decode` refuses DUP with QoS 0; the QoS of a subscription lowers that of a message sent twice.
    let (mut subscriber, mut publisher) = pair(cx, 0)?;
    publisher.publish(&Publish::new(&cx.topic("t"), "x").qos(1, 1).dup())?;
    let message = subscriber.take_this(&cx.topic("t"), "x")?;
    ensure!(message.qos == 0 && !message.dup, "{message:?}");
    Ok(())
}

fn dup_with_qos_0(cx: &Cx) -> Result<()> {
    cx.fails(&Publish::new("t", "x").dup().encode(cx.version), &[0x81, 0x82])
}

fn dup_is_not_propagated(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = pair(cx, 1)?;
    publisher.publish(&Publish::new(&cx.topic("t"), "x").qos(1, 1).dup())?;
    ensure!(!subscriber.take_this(&cx.topic("t"), "x")?.dup, "DUP of the publisher");
    let mut durable = cx.durable("durable")?;
    durable.subscribe(&cx.topic("t"), 1)?;
    publisher.publish(&Publish::new(&cx.topic("t"), "y").qos(1, 2).dup())?;
    ensure!(!durable.take_this(&cx.topic("t"), "y")?.dup, "DUP of the publisher");
    Ok(())
}

fn qos_3_is_malformed(cx: &Cx) -> Result<()> {
    cx.fails(&Publish::new("t", "x").qos(3, 1).encode(cx.version), &[0x81])
}

fn topic_name_is_there(cx: &Cx) -> Result<()> {
    cx.fails(&packet(0x30, &[]), &[0x81, 0x82])?;
    cx.fails(&packet(0x30, &[0]), &[0x81])?;
    // Longer than the packet.
    cx.fails(&packet(0x30, b"\x00\x05ab"), &[0x81])?;
    cx.fails(&packet(0x30, &[&binary(b"\xc3\x28")[..], &[0]].concat()), &[0x81, 0x90])?;
    // No name, and in 5.0 no alias either [MQTT-4.7.3-1].
    cx.fails(&Publish::new("", "x").encode(cx.version), &[0x81, 0x82, 0x90])
}

fn wildcards_in_topic_names(cx: &Cx) -> Result<()> {
    for topic in ["#", "+", "a/#", "a/+/b", "a#", "+a"] {
        cx.fails(&Publish::new(topic, "x").encode(cx.version), &[0x81, 0x82, 0x90])?;
        cx.fails(&Publish::new(topic, "x").qos(1, 1).encode(cx.version), &[0x81, 0x82, 0x90])?;
    }
    Ok(())
}

fn what_arrives_matches(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.connect("sub")?;
    subscriber.subscribe(&cx.topic("a/+"), 1)?;
    subscriber.subscribe(&cx.topic("b"), 1)?;
    let mut publisher = cx.connect("pub")?;
    for qos in [0, 1] {
        for topic in ["a", "a/x/y", "b/x", "c", "a/x", "b"] {
            publisher.publish_new(&cx.topic(topic), topic, qos)?;
        }
        subscriber.take_this(&cx.topic("a/x"), "a/x")?;
        subscriber.take_this(&cx.topic("b"), "b")?;
    }
    Ok(())
}

fn payload_format(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = pair(cx, 1)?;
    for (format, qos) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let publish =
            Publish::new(&cx.topic("t"), "x").qos(qos, 1).property(p::byte(p::PAYLOAD_FORMAT, format));
        publisher.publish(&publish)?;
        let got = subscriber.take()?.properties;
        ensure!(got.number(p::PAYLOAD_FORMAT) == Some(u32::from(format)), "{format}: {got:?}");
    }
    publisher.publish_new(&cx.topic("t"), "x", 1)?;
    ensure!(subscriber.take()?.properties.0.is_empty(), "a property that nobody sent");
    Ok(())
}

fn payload_format_is_a_flag(cx: &Cx) -> Result<()> {
    let publish = Publish::new("t", "x").property(p::byte(p::PAYLOAD_FORMAT, 2));
    cx.fails(&publish.encode(cx.version), &[0x81, 0x82, 0x99])
}

fn expired_message_is_deleted(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    subscriber.disconnect()?;
    let mut publisher = cx.connect("pub")?;
    let short = Publish::new(&cx.topic("t"), "short").property(p::message_expiry(1));
    let long = Publish::new(&cx.topic("t"), "long").property(p::message_expiry(100));
    publisher.publish(&short.qos(1, 1))?;
    publisher.publish(&long.qos(1, 2))?;
    cx.lapse(Duration::from_millis(2200));
    cx.resume("sub")?.take_this(&cx.topic("t"), "long")?;
    Ok(())
}

fn expired_retained_message_is_deleted(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    let short = Publish::new(&cx.topic("short"), "short").property(p::message_expiry(1)).retain();
    let long = Publish::new(&cx.topic("long"), "long").property(p::message_expiry(100)).retain();
    publisher.publish(&short.qos(1, 1))?;
    publisher.publish(&long.qos(1, 2))?;
    cx.lapse(Duration::from_millis(2200));
    let mut subscriber = cx.connect("sub")?;
    subscriber.subscribe(&cx.topic("#"), 1)?;
    let message = subscriber.take_this(&cx.topic("long"), "long")?;
    let rest = message.properties.number(p::MESSAGE_EXPIRY).context("Message Expiry Interval")?;
    ensure!((80..=98).contains(&rest), "{rest} s are left of 100");
    // The other one may not come behind it either.
    publisher.publish_new(&cx.topic("marker"), "", 1)?;
    subscriber.take_this(&cx.topic("marker"), "")?;
    Ok(())
}

fn rest_of_the_expiry(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    subscriber.disconnect()?;
    let publish = Publish::new(&cx.topic("t"), "x").qos(1, 1).property(p::message_expiry(100));
    cx.connect("pub")?.publish(&publish)?;
    cx.lapse(Duration::from_millis(2200));
    let message = cx.resume("sub")?.take_this(&cx.topic("t"), "x")?;
    let rest = message.properties.number(p::MESSAGE_EXPIRY).context("Message Expiry Interval")?;
    ensure!((80..=98).contains(&rest), "{rest} s are left of 100");
    Ok(())
}

fn expiry_at_once(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = pair(cx, 1)?;
    for qos in [0, 1] {
        let publish = Publish::new(&cx.topic("t"), "x").qos(qos, 1).property(p::message_expiry(100));
        publisher.publish(&publish)?;
        let message = subscriber.take_this(&cx.topic("t"), "x")?;
        let rest = message.properties.number(p::MESSAGE_EXPIRY).context("Message Expiry Interval")?;
        ensure!((95..=100).contains(&rest), "{rest} s are left of 100");
    }
    Ok(())
}

fn alias_stands_for_its_topic(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = pair(cx, 1)?;
    publisher.publish(&Publish::new(&cx.topic("a"), "0").property(p::alias(1)))?;
    publisher.publish(&Publish::new(&cx.topic("b"), "1").qos(1, 1).property(p::alias(2)))?;
    publisher.publish(&Publish::new("", "2").qos(1, 2).property(p::alias(1)))?;
    publisher.publish(&Publish::new("", "3").property(p::alias(2)))?;
    let mut got = Vec::new();
    for _ in 0..4 {
        let message = subscriber.take()?;
        // The publisher's alias means nothing here.
        ensure!(!message.properties.has(p::TOPIC_ALIAS), "{message:?}");
        got.push((message.payload, message.topic));
    }
    got.sort();
    let wanted = [("0", "a"), ("1", "b"), ("2", "a"), ("3", "b")].map(|(n, t)| (n.into(), cx.topic(t)));
    ensure!(got == wanted, "{got:?}");
    Ok(())
}

fn alias_ends_with_the_connection(cx: &Cx) -> Result<()> {
    let mut publisher = cx.durable("pub")?;
    publisher.publish(&Publish::new(&cx.topic("t"), "x").property(p::alias(1)))?;
    publisher.disconnect()?;
    let mut publisher = cx.resume("pub")?;
    publisher.send_publish(&Publish::new("", "x").property(p::alias(1)))?;
    publisher.fails(&[0x82, 0x94])
}

fn alias_0(cx: &Cx) -> Result<()> {
    cx.fails(&Publish::new("t", "x").property(p::alias(0)).encode(cx.version), &[0x94])
}

fn alias_that_was_not_set(cx: &Cx) -> Result<()> {
    cx.fails(&Publish::new("", "x").property(p::alias(1)).encode(cx.version), &[0x82, 0x94])
}

fn every_alias(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.connect("sub")?;
    subscriber.subscribe(&cx.topic("#"), 1)?;
    let (mut publisher, connack) = cx.connect_with(&cx.hello("pub"))?;
    let max = connack.properties.number(p::TOPIC_ALIAS_MAX).unwrap_or(0) as u16;
    for round in 0..2 {
        for alias in 1..=max {
            let topic = cx.topic(&alias.to_string());
            let name = if round == 0 { topic.as_str() } else { "" };
            publisher.publish(&Publish::new(name, "x").qos(1, alias).property(p::alias(alias)))?;
            subscriber.take_this(&topic, "x")?;
        }
    }
    Ok(())
}

fn alias_may_be_set_again(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = pair(cx, 1)?;
    for name in ["a", "b"] {
        publisher.publish(&Publish::new(&cx.topic(name), "set").qos(1, 1).property(p::alias(1)))?;
        subscriber.take_this(&cx.topic(name), "set")?;
        publisher.publish(&Publish::new("", "used").qos(1, 1).property(p::alias(1)))?;
        subscriber.take_this(&cx.topic(name), "used")?;
    }
    Ok(())
}

fn aliases_are_independent(cx: &Cx) -> Result<()> {
    let connect = cx.hello("client").property(p::two(p::TOPIC_ALIAS_MAX, 5));
    let (mut client, _) = cx.connect_with(&connect)?;
    client.subscribe(&cx.topic("in/#"), 1)?;
    let mut other = cx.connect("other")?;
    // The broker may set alias 1 for a name; the client sets its own alias 1 for another.
    for round in 0..3_u8 {
        other.publish_new(&cx.topic("in/a/longer/name"), [round], 1)?;
        client.take_this(&cx.topic("in/a/longer/name"), [round])?;
        let name = if round == 0 { cx.topic("in/own") } else { String::new() };
        let id = client.fresh_id();
        client.send_publish(&Publish::new(&name, [round]).qos(1, id).property(p::alias(1)))?;
        let (mut acked, mut arrived) = (false, false);
        while !(acked && arrived) {
            match client.packet()? {
                Packet::Ack(PUBACK, of, ..) if of == id => acked = true,
                Packet::Publish(message) => {
                    ensure!(message.topic == cx.topic("in/own") && message.payload == [round], "{message:?}");
                    client.acknowledge(&message)?;
                    arrived = true;
                }
                other => anyhow::bail!("{other:?}"),
            }
        }
    }
    Ok(())
}

fn response_topic_is_a_topic_name(cx: &Cx) -> Result<()> {
    for topic in [&b"\xff"[..], b"a\0", b"a/#", b"+/a"] {
        let publish = Publish::new("t", "x").property(p::bytes(p::RESPONSE_TOPIC, topic));
        cx.fails(&publish.encode(cx.version), &[0x81, 0x82, 0x90])?;
    }
    Ok(())
}

fn rich(topic: &str, qos: u8, id: u16) -> Publish {
    Publish::new(topic, "x")
        .qos(qos, id)
        .property(p::user("b", "1"))
        .property(p::string(p::RESPONSE_TOPIC, "answer/to/me"))
        .property(p::bytes(p::CORRELATION_DATA, &[0, 0xff, 0xc0]))
        .property(p::string(p::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .property(p::user("a", ""))
        .property(p::byte(p::PAYLOAD_FORMAT, 1))
        .property(p::user("b", "1"))
}

fn check_rich(message: &crate::decode::Message) -> Result<()> {
    let got = &message.properties;
    ensure!(got.users() == [("b", "1"), ("a", ""), ("b", "1")], "{got:?}");
    ensure!(got.text(p::RESPONSE_TOPIC) == Some("answer/to/me"), "{got:?}");
    ensure!(got.all(p::CORRELATION_DATA).eq([&Value::Bytes(vec![0, 0xff, 0xc0])]), "{got:?}");
    ensure!(got.text(p::CONTENT_TYPE) == Some("text/plain; charset=utf-8"), "{got:?}");
    ensure!(got.number(p::PAYLOAD_FORMAT) == Some(1), "{got:?}");
    ensure!(got.0.len() == 7, "{got:?}");
    Ok(())
}

fn request_properties(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = pair(cx, 1)?;
    for qos in [0, 1] {
        publisher.publish(&rich(&cx.topic("t"), qos, 1))?;
        check_rich(&subscriber.take()?)?;
    }
    Ok(())
}

fn user_properties(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = pair(cx, 1)?;
    for qos in [0, 1] {
        let mut publish = Publish::new(&cx.topic("t"), "x").qos(qos, 1);
        let names: Vec<String> = (0..20).map(|n| format!("n{}", 97 * n % 20 / 2)).collect();
        for (n, name) in names.iter().enumerate() {
            publish = publish.property(p::user(name, &n.to_string()));
        }
        publisher.publish(&publish)?;
        let message = subscriber.take()?;
        let values: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let wanted: Vec<(&str, &str)> =
            names.iter().map(String::as_str).zip(values.iter().map(String::as_str)).collect();
        ensure!(message.properties.users() == wanted, "{message:?}");
    }
    Ok(())
}

fn properties_survive_the_queue(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    subscriber.disconnect()?;
    cx.connect("pub")?.publish(&rich(&cx.topic("t"), 1, 1))?;
    check_rich(&cx.resume("sub")?.take()?)?;
    // And in a retained message.
    cx.connect("pub")?.publish(&rich(&cx.topic("retained"), 1, 1).retain())?;
    let mut later = cx.connect("later")?;
    later.subscribe(&cx.topic("retained"), 1)?;
    check_rich(&later.take()?)
}

fn content_type_is_a_string(cx: &Cx) -> Result<()> {
    for text in [&b"\xff"[..], b"a\0"] {
        let publish = Publish::new("t", "x").property(p::bytes(p::CONTENT_TYPE, text));
        cx.fails(&publish.encode(cx.version), &[0x81])?;
    }
    Ok(())
}

fn publish_is_answered(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.publish_new(&cx.topic("t"), "x", 0)?;
    client.ping()?;
    client.publish_new(&cx.topic("t"), "x", 1)?;
    client.ping()
}

fn qos_2_is_answered(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.publish_new(&cx.topic("t"), "x", 2)?;
    client.ping()
}

fn overlapping_subscriptions(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.connect("sub")?;
    let mut publisher = cx.connect("pub")?;
    subscriber.subscribe_all(&[(&cx.topic("a/b"), 0), (&cx.topic("a/+"), 1), (&cx.topic("a/#"), 0)])?;
    publisher.publish_new(&cx.topic("a/b"), "x", 1)?;
    let message = subscriber.take_this(&cx.topic("a/b"), "x")?;
    ensure!(message.qos == 1, "{message:?}");
    // The same in a durable session, queued.
    let mut durable = cx.durable("durable")?;
    durable.subscribe_all(&[(&cx.topic("a/#"), 1), (&cx.topic("a/b"), 0)])?;
    durable.disconnect()?;
    publisher.publish_new(&cx.topic("a/b"), "y", 1)?;
    ensure!(cx.resume("durable")?.take_this(&cx.topic("a/b"), "y")?.qos == 1, "QoS");
    Ok(())
}

fn overlapping_subscriptions_give_one_copy(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.connect("sub")?;
    subscriber.subscribe_all(&[(&cx.topic("a/b"), 0), (&cx.topic("a/+"), 1), (&cx.topic("a/#"), 1)])?;
    let mut publisher = cx.connect("pub")?;
    for qos in [0, 1] {
        publisher.publish_new(&cx.topic("a/b"), "x", qos)?;
        publisher.publish_new(&cx.topic("a/marker"), "y", qos)?;
        subscriber.take_this(&cx.topic("a/b"), "x")?;
        subscriber.take_this(&cx.topic("a/marker"), "y")?;
    }
    Ok(())
}

fn subscribe_three(cx: &Cx, subscriber: &mut Connection) -> Result<()> {
    subscriber.subscribe_with(&p::subscription_id(1), &[(&cx.topic("a/b"), 1)])?;
    subscriber
        .subscribe_with(&p::subscription_id(268_435_455), &[(&cx.topic("a/+"), 1), (&cx.topic("c"), 1)])?;
    // One without.
    subscriber.subscribe(&cx.topic("a/#"), 1)?;
    Ok(())
}

fn check_three(cx: &Cx, subscriber: &mut Connection) -> Result<()> {
    for (topic, ids) in
        [("a/b", &[1, 268_435_455][..]), ("a/x", &[268_435_455]), ("a/x/y", &[]), ("c", &[268_435_455])]
    {
        let message = subscriber.take_this(&cx.topic(topic), topic)?;
        let got = message.properties.numbers(p::SUBSCRIPTION_ID);
        ensure!(got == ids, "{topic}: identifiers {got:?}, not {ids:?}");
    }
    Ok(())
}

fn subscription_identifiers(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.connect("sub")?;
    subscribe_three(cx, &mut subscriber)?;
    let mut publisher = cx.connect("pub")?;
    ["a/b", "a/x", "a/x/y", "c"]
        .iter()
        .try_for_each(|topic| publisher.publish_new(&cx.topic(topic), topic, 1))?;
    check_three(cx, &mut subscriber)
}

fn identifiers_survive_the_queue(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscribe_three(cx, &mut subscriber)?;
    subscriber.disconnect()?;
    let mut publisher = cx.connect("pub")?;
    ["a/b", "a/x", "a/x/y", "c"]
        .iter()
        .try_for_each(|topic| publisher.publish_new(&cx.topic(topic), topic, 1))?;
    check_three(cx, &mut cx.resume("sub")?)
}

fn identifiers_of_qos_0(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscribe_three(cx, &mut subscriber)?;
    let mut publisher = cx.connect("pub")?;
    ["a/b", "a/x", "a/x/y", "c"]
        .iter()
        .try_for_each(|topic| publisher.publish_new(&cx.topic(topic), topic, 0))?;
    check_three(cx, &mut subscriber)
}

fn subscription_identifier_of_a_client(cx: &Cx) -> Result<()> {
    cx.fails(&Publish::new("t", "x").property(p::subscription_id(1)).encode(cx.version), &[0x82])
}

fn receive_maximum_holds(cx: &Cx) -> Result<()> {
    for connect in [cx.hello("sub"), cx.hello("sub").durable()] {
        let (mut subscriber, _) = cx.connect_with(&connect.property(p::two(p::RECEIVE_MAX, 2)))?;
        subscriber.subscribe(&cx.topic("t"), 1)?;
        let mut publisher = cx.connect("pub")?;
        for n in 0..6_u8 {
            publisher.publish_new(&cx.topic("t"), [n], 1)?;
        }
        let first = subscriber.message()?;
        let mut open = vec![first, subscriber.message()?];
        for n in 2..6_u8 {
            // Two are open, so nothing comes before the answer.
            subscriber.ping()?;
            let oldest = open.remove(0);
            subscriber.acknowledge(&oldest)?;
            let next = subscriber.message()?;
            ensure!(next.payload == [n], "{next:?}");
            open.push(next);
        }
        open.iter().try_for_each(|message| subscriber.acknowledge(message))?;
        subscriber.settle()?;
        subscriber.disconnect()?;
    }
    Ok(())
}

fn window_of_qos_2(cx: &Cx) -> Result<()> {
    let connect = cx.hello("sub").durable().property(p::two(p::RECEIVE_MAX, 1));
    let (mut subscriber, _) = cx.connect_with(&connect)?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "1", 2)?;
    publisher.publish_new(&cx.topic("t"), "2", 1)?;
    let first = subscriber.message()?;
    subscriber.ping()?;
    subscriber.send(&ack(PUBREC, first.id))?;
    subscriber.expect_ack(PUBREL, first.id)?;
    // PUBREC has not made room.
    subscriber.ping()?;
    subscriber.send(&ack(PUBCOMP, first.id))?;
    subscriber.take_this(&cx.topic("t"), "2")?;
    // A failure in PUBREC does.
    publisher.publish_new(&cx.topic("t"), "3", 2)?;
    publisher.publish_new(&cx.topic("t"), "4", 1)?;
    let third = subscriber.message()?;
    subscriber.send(&ack_with(PUBREC, third.id, 0x80))?;
    subscriber.take_this(&cx.topic("t"), "4")?;
    Ok(())
}

fn more_than_receive_maximum(cx: &Cx) -> Result<()> {
    let (mut client, connack) = cx.connect_with(&cx.hello("client"))?;
    let max = connack.properties.number(p::RECEIVE_MAX).unwrap_or(65_535) as u16;
    ensure!(max < 5000, "more than this case sends");
    // Each waits for its PUBREL.
    let publish = |id| Publish::new(&cx.topic("t"), "").qos(2, id).encode(cx.version);
    client.send(&(1..=max).flat_map(publish).collect::<Vec<u8>>())?;
    (1..=max).try_for_each(|id| client.expect_ack(PUBREC, id).map(drop))?;
    client.ping()?;
    client.send_publish(&Publish::new(&cx.topic("t"), "").qos(2, max + 1))?;
    client.fails(&[0x93])
}

fn other_packets_do_not_wait(cx: &Cx) -> Result<()> {
    let connect = cx.hello("sub").property(p::two(p::RECEIVE_MAX, 1));
    let (mut subscriber, _) = cx.connect_with(&connect)?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "1", 1)?;
    publisher.publish_new(&cx.topic("t"), "2", 1)?;
    let first = subscriber.message()?;
    // The window is full.
    subscriber.ping()?;
    subscriber.subscribe(&cx.topic("other"), 0)?;
    subscriber.publish_new(&cx.topic("nobody"), "x", 1)?;
    subscriber.unsubscribe(&[&cx.topic("other")])?;
    subscriber.acknowledge(&first)?;
    subscriber.take_this(&cx.topic("t"), "2")?;
    Ok(())
}

fn empty_payload(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = pair(cx, 1)?;
    for qos in [0, 1] {
        publisher.publish_new(&cx.topic("t"), "", qos)?;
        subscriber.take_this(&cx.topic("t"), "")?;
    }
    Ok(())
}

fn versions_meet(cx: &Cx) -> Result<()> {
    use crate::packet::{Connect, Version};
    let mut old = cx.connect("old")?;
    old.subscribe(&cx.topic("#"), 1)?;
    let mut new = Connection::open(cx.ports[0], "new", Version::V5, cx.deadline, cx.trace.clone())?;
    new.send(&Connect::new(Version::V5, &cx.id("new")).encode())?;
    new.connack()?;
    // A message with properties to one that has none, and the other way round.
    new.publish(&rich(&cx.topic("a"), 1, 1))?;
    old.take_this(&cx.topic("a"), "x")?;
    old.unsubscribe(&[&cx.topic("#")])?;
    new.subscribe(&cx.topic("#"), 1)?;
    old.publish_new(&cx.topic("b"), "y", 1)?;
    let message = new.take_this(&cx.topic("b"), "y")?;
    ensure!(message.properties.0.is_empty(), "{message:?}");
    Ok(())
}

fn payload_of_any_bytes(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = pair(cx, 1)?;
    for bytes in [1, 120, 127, 128, 1000, 16_383, 16_384, 100_000] {
        let payload: Vec<u8> = (0..bytes).map(|n: u32| (n * 7) as u8).collect();
        for qos in [0, 1] {
            publisher.publish_new(&cx.topic("t"), &payload, qos)?;
            ensure!(subscriber.take()?.payload == payload, "{bytes} bytes");
        }
    }
    Ok(())
}
