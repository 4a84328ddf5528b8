//! Chapter 2: fixed header, packet identifiers, property lengths.
//!
//! Spec: MQTT 5, 2.1 and 2.2; MQTT 3.1.1, 2.2 and 2.3.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only5};
use crate::decode::Packet;
use crate::packet::{
    CONNACK, CONNECT, DISCONNECT, PINGREQ, PINGRESP, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, SUBACK,
    SUBSCRIBE, UNSUBACK, UNSUBSCRIBE, ack, packet, subscribe, text, unsubscribe,
};

/// The cases.
pub const CASES: &[Case] = &[
    both("reserved_flags_are_malformed", &["2.1.3-1"], &["2.2.2-1", "2.2.2-2"], reserved_flags_are_malformed),
    both("packet_types_of_a_server_are_refused", &[], &[], packet_types_of_a_server_are_refused),
    both("packet_type_0_is_refused", &[], &[], packet_type_0_is_refused),
    both("qos_0_has_no_packet_identifier", &["2.2.1-2"], &["2.3.1-5"], qos_0_has_no_packet_identifier),
    both("packet_identifier_0_is_refused", &["2.2.1-3"], &["2.3.1-1"], packet_identifier_0_is_refused),
    both(
        "server_identifiers_are_unused_ones",
        &["2.2.1-4"],
        &["2.3.1-1", "2.3.1-4"],
        server_identifiers_are_unused,
    ),
    both(
        "acknowledgements_repeat_the_identifier",
        &["2.2.1-5", "2.2.1-6"],
        &["2.3.1-6", "2.3.1-7"],
        acknowledgements_repeat_the_identifier,
    ),
    both(
        "qos_2_acknowledgements_repeat_the_identifier",
        &["2.2.1-5"],
        &["2.3.1-6"],
        qos_2_repeats_the_identifier,
    ),
    both("identifiers_of_both_sides_are_independent", &[], &[], identifiers_of_both_sides_are_independent),
    only5("no_properties_have_length_0", &["2.2.2-1"], no_properties_have_length_0),
    only5("properties_that_do_not_belong_are_refused", &[], properties_that_do_not_belong),
    only5("properties_that_are_there_twice_are_refused", &[], properties_that_are_there_twice),
    only5("properties_beyond_the_packet_are_malformed", &[], properties_beyond_the_packet),
];

fn reserved_flags_are_malformed(cx: &Cx) -> Result<()> {
    for (right, body) in [
        (PUBACK, vec![0, 1]),
        (PUBREC, vec![0, 1]),
        (PUBREL, vec![0, 1]),
        (PUBCOMP, vec![0, 1]),
        (SUBSCRIBE, subscribe(cx.version, 1, &[], &[("a", 0)])[2..].to_vec()),
        (UNSUBSCRIBE, unsubscribe(cx.version, 1, &["a"])[2..].to_vec()),
        (PINGREQ, vec![]),
        (DISCONNECT, vec![]),
    ] {
        for flip in [1, 2, 4, 8] {
            cx.fails(&packet(right ^ flip, &body), &[0x81])?;
        }
    }
    for flip in [1, 2, 4, 8] {
        let mut connect = cx.hello("flags").encode();
        connect[0] = CONNECT ^ flip;
        let mut connection = cx.open("first")?;
        connection.send(&connect)?;
        // 5.0 may answer; the version is not known before the flags are.
        while connection.read()?.is_some() {}
    }
    Ok(())
}

fn packet_types_of_a_server_are_refused(cx: &Cx) -> Result<()> {
    for (first, body) in [
        (CONNACK, vec![0, 0, 0]),
        (SUBACK, vec![0, 1, 0, 0]),
        (UNSUBACK, vec![0, 1, 0, 0]),
        (PINGRESP, vec![]),
    ] {
        cx.fails(&packet(first, &body), &[0x81, 0x82])?;
    }
    Ok(())
}

fn packet_type_0_is_refused(cx: &Cx) -> Result<()> {
    cx.fails(&[0x00, 0x00], &[0x81, 0x82])?;
    // Type 15 is AUTH in 5.0, reserved before.
    if cx.is_v5() { Ok(()) } else { cx.fails(&[0xf0, 0x00], &[]) }
}

fn qos_0_has_no_packet_identifier(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = (cx.connect("sub")?, cx.connect("pub")?);
    let topic = cx.topic("t");
    subscriber.subscribe(&topic, 0)?;
    // What would be a packet identifier is payload, on both ways.
    publisher.publish_new(&topic, b"\x00\x07x", 0)?;
    subscriber.take_this(&topic, b"\x00\x07x")?;
    publisher.publish_new(&topic, b"\x00\x07y", 1)?;
    subscriber.take_this(&topic, b"\x00\x07y")?;
    Ok(())
}

fn packet_identifier_0_is_refused(cx: &Cx) -> Result<()> {
    for qos in [1, 2] {
        cx.fails(&Publish::new("t", "x").qos(qos, 0).encode(cx.version), &[0x81, 0x82])?;
    }
    cx.fails(&subscribe(cx.version, 0, &[], &[("a", 0)]), &[0x81, 0x82])?;
    cx.fails(&unsubscribe(cx.version, 0, &["a"]), &[0x81, 0x82])?;
    [PUBACK, PUBREC, PUBREL, PUBCOMP].iter().try_for_each(|first| cx.fails(&ack(*first, 0), &[0x81, 0x82]))
}

fn server_identifiers_are_unused(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = (cx.connect("sub")?, cx.connect("pub")?);
    let topic = cx.topic("t");
    subscriber.subscribe(&topic, 1)?;
    let mut open = Vec::new();
    let mut used = BTreeSet::new();
    for round in 0..20_u8 {
        publisher.publish_new(&topic, [round], 1)?;
        let message = subscriber.message()?;
        ensure!(used.insert(message.id), "{} is in use", message.id);
        open.push(message);
        // Every third one is acknowledged, the youngest first: its identifier is free again.
        if round % 3 == 2 {
            let message = open.pop().unwrap();
            subscriber.acknowledge(&message)?;
            used.remove(&message.id);
        }
    }
    open.iter().try_for_each(|message| subscriber.acknowledge(message))?;
    subscriber.ping()
}

fn acknowledgements_repeat_the_identifier(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    for id in [1, 255, 256, 0x1234, 65_535] {
        client.publish(&Publish::new(&cx.topic("t"), "x").qos(1, id))?;
        client.send(&subscribe(cx.version, id, &[], &[(&cx.topic("a"), 0)]))?;
        let suback = client.packet()?;
        ensure!(matches!(&suback, Packet::Suback(of, codes, _) if *of == id && codes == &[0]), "{suback:?}");
        client.send(&unsubscribe(cx.version, id, &[&cx.topic("a")]))?;
        let unsuback = client.packet()?;
        ensure!(matches!(&unsuback, Packet::Unsuback(of, ..) if *of == id), "{unsuback:?}");
    }
    Ok(())
}

fn qos_2_repeats_the_identifier(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    [1, 255, 256, 0x1234, 65_535]
        .iter()
        .try_for_each(|id| client.publish(&Publish::new(&cx.topic("t"), "x").qos(2, *id)))
}

fn identifiers_of_both_sides_are_independent(cx: &Cx) -> Result<()> {
    let (mut client, mut other) = (cx.connect("client")?, cx.connect("other")?);
    let topic = cx.topic("t");
    client.subscribe(&topic, 1)?;
    other.publish_new(&topic, "x", 1)?;
    let message = client.message()?;
    // The client uses the identifier that the broker uses towards it.
    client.publish(&Publish::new(&cx.topic("other"), "y").qos(1, message.id))?;
    client.acknowledge(&message)?;
    client.ping()
}

fn no_properties_have_length_0(cx: &Cx) -> Result<()> {
    // Every packet of the broker is read that way, see `decode`. A client's without the length is malformed:
    // PUBLISH with nothing behind the topic, SUBSCRIBE and UNSUBSCRIBE with nothing behind the identifier.
    cx.fails(&packet(0x30, &text("t")), &[0x81])?;
    cx.fails(&packet(SUBSCRIBE, &[0, 1]), &[0x81, 0x82])?;
    cx.fails(&packet(UNSUBSCRIBE, &[0, 1]), &[0x81, 0x82])?;
    let mut client = cx.connect("client")?;
    client.subscribe(&cx.topic("t"), 1)?;
    client.publish_new(&cx.topic("t"), "", 0)?;
    let message = client.take()?;
    ensure!(message.payload.is_empty() && message.properties.0.is_empty(), "{message:?}");
    Ok(())
}

fn properties_that_do_not_belong(cx: &Cx) -> Result<()> {
    use crate::property as p;
    let expiry = p::session_expiry(1);
    cx.fails(&Publish::new("t", "x").property(expiry.clone()).encode(cx.version), &[0x81, 0x82])?;
    cx.fails(&subscribe(cx.version, 1, &expiry, &[("a", 0)]), &[0x81, 0x82])?;
    // 0x7f is none at all.
    cx.fails(&Publish::new("t", "x").property(p::byte(0x7f, 0)).encode(cx.version), &[0x81, 0x82])?;
    cx.refused(&cx.hello("a").property(p::message_expiry(1)), None, &[0x81, 0x82])?;
    cx.refused(&cx.hello("a").property(p::byte(0x7f, 0)), None, &[0x81, 0x82])
}

fn properties_that_are_there_twice(cx: &Cx) -> Result<()> {
    use crate::property as p;
    for property in [
        p::session_expiry(1),
        p::two(p::RECEIVE_MAX, 1),
        p::four(p::MAX_PACKET_SIZE, 100),
        p::two(p::TOPIC_ALIAS_MAX, 1),
        p::byte(p::REQUEST_RESPONSE, 0),
        p::byte(p::REQUEST_PROBLEM, 0),
        p::string(p::AUTH_METHOD, "m"),
    ] {
        cx.refused(&cx.hello("a").property(property.clone()).property(property), None, &[0x82])?;
    }
    for property in [
        p::byte(p::PAYLOAD_FORMAT, 0),
        p::message_expiry(1),
        p::alias(1),
        p::string(p::RESPONSE_TOPIC, "r"),
        p::bytes(p::CORRELATION_DATA, b"c"),
        p::string(p::CONTENT_TYPE, "c"),
    ] {
        let publish = Publish::new("t", "x").property(property.clone()).property(property);
        cx.fails(&publish.encode(cx.version), &[0x82])?;
    }
    let twice = [p::subscription_id(1), p::subscription_id(2)].concat();
    cx.fails(&subscribe(cx.version, 1, &twice, &[("a", 0)]), &[0x82])
}

fn properties_beyond_the_packet(cx: &Cx) -> Result<()> {
    // Ten bytes of properties are announced, three come.
    cx.fails(&packet(0x30, b"\x00\x01t\x0a\x01\x01x"), &[0x81])?;
    // A property that ends behind the properties.
    cx.fails(&packet(0x30, b"\x00\x01t\x02\x02\x00xxxx"), &[0x81])
}
