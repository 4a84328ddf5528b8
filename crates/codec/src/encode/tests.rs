//! Packets written as the bytes of the specification and read from them, in each version, and what cannot be written.

use std::num::NonZeroU16;

use bytes::Bytes;

use super::*;
use crate::decode::decode;
use crate::limits::Limits;
use crate::packet::*;
use crate::testing::*;

/// The packet is written as these bytes and read from them, whole only, and nothing behind them is touched.
#[track_caller]
fn same(version: ProtocolVersion, sender: Role, packet: &Packet, digits: &str) {
    let bytes = hex(digits);
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    assert_eq!(out, bytes, "{packet:?} written as {out:02x?}");
    assert_eq!(encoded_len(packet, version), Ok(bytes.len()));
    let limits = Limits::default();
    let mut input = buffer(&[&bytes[..], &[0xc0]].concat());
    assert_eq!(decode(&mut input, version, sender, &limits), Ok(Some(packet.clone())), "{digits}");
    assert_eq!(input, &[0xc0][..]);
    for end in 0..bytes.len() {
        let mut prefix = buffer(&bytes[..end]);
        assert_eq!(decode(&mut prefix, version, sender, &limits), Ok(None), "{end} bytes of {digits}");
        assert_eq!(prefix.len(), end);
    }
}

fn connect(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        client_id: text("c"),
        will: None,
        username: None,
        password: None,
        session_expiry_s: None,
        receive_max: None,
        packet_bytes_max: None,
        topic_alias_max: None,
        request_response_information: None,
        request_problem_information: None,
        authentication_method: None,
        authentication_data: None,
        user_properties: Vec::new(),
    }
}

fn will() -> Will {
    Will {
        topic: name("w"),
        payload: Bytes::from_static(b"x"),
        qos: QoS::ExactlyOnce,
        retain: true,
        delay_s: None,
        properties: PublishProperties::default(),
    }
}

fn publish(qos: PublishQoS) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(name("a/b")),
        properties: None,
        payload: Bytes::from_static(b"hi"),
    }
}

fn ack(reason: ReasonCode) -> Ack {
    Ack { packet_id: id(0x1234), reason, reason_string: None, user_properties: Vec::new() }
}

#[test]
fn connect_is_written_and_read() {
    let same = |connect: Connect, digits| {
        let version = connect.version;
        same(version, Role::Client, &Packet::Connect(Box::new(connect)), digits);
    };
    same(connect(V31), "10 0f 0006 4d5149736470 03 02 003c 0001 63");
    same(connect(V311), "10 0d 0004 4d515454 04 02 003c 0001 63");
    same(connect(V5), "10 0e 0004 4d515454 05 02 003c 00 0001 63");
    let full = Connect {
        clean_start: false,
        will: Some(will()),
        username: Some(text("u")),
        password: Some(Bytes::from_static(b"p")),
        ..connect(V311)
    };
    same(full.clone(), "10 19 0004 4d515454 04 f4 003c 0001 63 0001 77 0001 78 0001 75 0001 70");
    let properties = PublishProperties {
        payload_is_utf8: Some(true),
        message_expiry_s: Some(2),
        response_topic: Some(name("r")),
        correlation_data: Some(Bytes::from_static(b"d")),
        user_properties: vec![(text("n"), text("v"))],
        content_type: Some(text("t")),
        ..PublishProperties::default()
    };
    let five = Connect {
        version: V5,
        will: Some(Will { delay_s: Some(1), properties, ..will() }),
        session_expiry_s: Some(u32::MAX),
        receive_max: NonZeroU16::new(1),
        packet_bytes_max: Some(60),
        topic_alias_max: Some(0),
        request_response_information: Some(false),
        request_problem_information: Some(true),
        authentication_method: Some(text("m")),
        authentication_data: Some(Bytes::from_static(b"d")),
        user_properties: vec![(text("a"), text("b")), (text("a"), text("b"))],
        ..full
    };
    same(
        five,
        "10 64 0004 4d515454 05 f4 003c \
         2a 11ffffffff 210001 270000003c 220000 1900 1701 1500016d 16000164 26000161000162 26000161000162 \
         0001 63 1f 1800000001 0200000002 0101 03000174 08000172 09000164 2600016e000176 \
         0001 77 0001 78 0001 75 0001 70",
    );
}

#[test]
fn connack_is_written_and_read() {
    let connack = |session_present, reason, properties| {
        Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties }))
    };
    let none = ConnAckProperties::default;
    let server = Role::Server;
    same(V31, server, &connack(false, ReasonCode::SUCCESS, none()), "20 02 00 00");
    same(V311, server, &connack(true, ReasonCode::SUCCESS, none()), "20 02 01 00");
    same(V311, server, &connack(false, ReasonCode::NOT_AUTHORIZED, none()), "20 02 00 05");
    same(V5, server, &connack(true, ReasonCode::SUCCESS, none()), "20 03 01 00 00");
    let properties = ConnAckProperties {
        session_expiry_s: Some(1),
        receive_max: NonZeroU16::new(2),
        qos_max: Some(QoS::AtLeastOnce),
        retain_available: Some(true),
        packet_bytes_max: Some(3),
        assigned_client_id: Some(text("i")),
        topic_alias_max: Some(4),
        reason_string: Some(text("s")),
        wildcard_subscription_available: Some(true),
        subscription_identifiers_available: Some(true),
        shared_subscription_available: Some(false),
        server_keep_alive_s: Some(5),
        response_information: Some(text("r")),
        server_reference: Some(text("x")),
        authentication_method: Some(text("m")),
        authentication_data: Some(Bytes::from_static(b"d")),
        user_properties: vec![(text("n"), text("v"))],
    };
    let digits = "20 3f 00 9c 3c 1100000001 210002 2401 2501 2700000003 12000169 220004 1f000173 2801 2901 2a00 \
                  130005 1a000172 1c000178 1500016d 16000164 2600016e000176";
    same(V5, server, &connack(false, ReasonCode::USE_ANOTHER_SERVER, properties), digits);
    // Session Present is not written with a failure [MQTT-3.2.2-6], nor in version 3.1.
    let mut out = BytesMut::new();
    encode(&connack(true, ReasonCode::NOT_AUTHORIZED, none()), V5, &mut out).unwrap();
    encode(&connack(true, ReasonCode::SUCCESS, none()), V31, &mut out).unwrap();
    assert_eq!(out, hex("20 03 00 87 00 20 02 00 00"));
}

#[test]
fn publish_is_written_and_read() {
    let both = |version, publish: Publish, digits| {
        same(version, Role::Server, &Packet::Publish(publish), digits);
    };
    let one = PublishQoS::AtLeastOnce(id(10));
    both(V311, publish(PublishQoS::AtMostOnce), "30 07 0003 612f62 6869");
    both(V31, publish(one), "32 09 0003 612f62 000a 6869");
    both(V5, publish(one), "32 0a 0003 612f62 000a 00 6869");
    let two = Publish { dup: true, retain: true, ..publish(PublishQoS::ExactlyOnce(id(0xffff))) };
    both(V311, two, "3d 09 0003 612f62 ffff 6869");
    both(V311, Publish { payload: Bytes::new(), ..publish(one) }, "32 07 0003 612f62 000a");
    let properties = PublishProperties {
        payload_is_utf8: Some(false),
        message_expiry_s: Some(9),
        topic_alias: NonZeroU16::new(3),
        response_topic: Some(name("r")),
        correlation_data: Some(Bytes::new()),
        user_properties: vec![(text("n"), text("v"))],
        subscription_identifiers: vec![1, 268_435_455],
        content_type: Some(text("t")),
    };
    let all = Publish { topic: None, properties: Some(Box::new(properties)), ..publish(one) };
    let digits = "32 2a 0000 000a 23 230003 0200000009 0b01 0bffffff7f 0100 03000174 08000172 090000 \
                  2600016e000176 6869";
    both(V5, all, digits);
}

#[test]
fn publish_parts_are_written_like_the_packet() {
    let properties = PublishProperties {
        payload_is_utf8: Some(true),
        message_expiry_s: Some(9),
        topic_alias: NonZeroU16::new(3),
        correlation_data: Some(Bytes::from_static(b"d")),
        user_properties: vec![(text("n"), text("v"))],
        subscription_identifiers: vec![128],
        ..PublishProperties::default()
    };
    let mut forwarded = BytesMut::new();
    properties.encode_forwarded(&mut forwarded).unwrap();
    let packet = publish(PublishQoS::AtLeastOnce(id(1)));
    let parts = PublishParts {
        topic_alias: properties.topic_alias,
        message_expiry_s: properties.message_expiry_s,
        subscription_identifiers: &properties.subscription_identifiers,
        forwarded: &forwarded,
        ..packet.parts()
    };
    let whole = Packet::Publish(Publish { properties: Some(Box::new(properties.clone())), ..packet.clone() });
    for version in [V31, V311, V5] {
        let (mut from_parts, mut from_packet) = (BytesMut::new(), BytesMut::new());
        encode_publish(&parts, version, &mut from_parts).unwrap();
        encode(&whole, version, &mut from_packet).unwrap();
        assert_eq!(from_parts, from_packet);
        assert_eq!(parts.encoded_len(version), Ok(from_parts.len()));
    }
    // Only what is valid beyond the connection is kept.
    let kept = PublishProperties::decode_forwarded(&forwarded.freeze()).unwrap();
    let expected = PublishProperties {
        message_expiry_s: None,
        topic_alias: None,
        subscription_identifiers: Vec::new(),
        ..properties
    };
    assert_eq!(kept, expected);
    assert!(PublishProperties::decode_forwarded(&Bytes::from_static(&[0x23, 0, 1])).is_err());
    assert_eq!(PublishProperties::decode_forwarded(&Bytes::new()), Ok(PublishProperties::default()));
}

#[test]
fn acknowledgement_is_written_in_its_shortest_form() {
    let client = Role::Client;
    for version in [V31, V311, V5] {
        same(version, client, &Packet::PubAck(ack(ReasonCode::SUCCESS)), "40 02 1234");
        same(version, client, &Packet::PubRec(ack(ReasonCode::SUCCESS)), "50 02 1234");
        same(version, client, &Packet::PubRel(ack(ReasonCode::SUCCESS)), "62 02 1234");
        same(version, client, &Packet::PubComp(ack(ReasonCode::SUCCESS)), "70 02 1234");
    }
    same(V5, client, &Packet::PubAck(ack(ReasonCode::NO_MATCHING_SUBSCRIBERS)), "40 03 1234 10");
    same(V5, client, &Packet::PubRel(ack(ReasonCode::PACKET_IDENTIFIER_NOT_FOUND)), "62 03 1234 92");
    let said = Ack {
        reason_string: Some(text("s")),
        user_properties: vec![(text("n"), text("v"))],
        ..ack(ReasonCode::SUCCESS)
    };
    same(V5, client, &Packet::PubRec(said), "50 0f 1234 00 0b 1f000173 2600016e000176");
    // The long form without properties is read too (MQTT 5, 3.4.2.2.1).
    let limits = Limits::default();
    let long = decode(&mut buffer(&hex("40 04 1234 00 00")), V5, client, &limits);
    assert_eq!(long, Ok(Some(Packet::PubAck(ack(ReasonCode::SUCCESS)))));
}

#[test]
fn subscribe_and_its_answer_are_written_and_read() {
    let options = |qos, no_local, retain_as_published, retain_handling| SubscriptionOptions {
        qos,
        no_local,
        retain_as_published,
        retain_handling,
    };
    let plain = options(QoS::AtLeastOnce, false, false, RetainHandling::Always);
    let subscribe = |identifier, filters| {
        Packet::Subscribe(Subscribe { packet_id: id(1), identifier, user_properties: Vec::new(), filters })
    };
    for version in [V31, V311] {
        same(version, Role::Client, &subscribe(None, vec![(filter("a"), plain)]), "82 06 0001 0001 61 01");
    }
    let all = options(QoS::ExactlyOnce, true, true, RetainHandling::Never);
    let two = vec![(filter("$share/g/#"), plain), (filter("+"), all)];
    let digits = "82 16 0001 02 0b05 000a 2473686172652f672f23 01 0001 2b 2e";
    same(V5, Role::Client, &subscribe(Some(5), two), digits);
    let suback = |reasons: &[ReasonCode]| {
        let reasons = reasons.to_vec();
        Packet::SubAck(SubAck { packet_id: id(1), reasons, reason_string: None, user_properties: Vec::new() })
    };
    let (granted, failed) = (ReasonCode::GRANTED_QOS_2, ReasonCode::UNSPECIFIED_ERROR);
    same(V311, Role::Server, &suback(&[granted, failed]), "90 04 0001 02 80");
    same(V5, Role::Server, &suback(&[granted, ReasonCode::NOT_AUTHORIZED]), "90 05 0001 00 02 87");
    // Before 5.0 there is one failure [MQTT-3.9.3-2 of 3.1.1].
    let mut out = BytesMut::new();
    encode(&suback(&[ReasonCode::QUOTA_EXCEEDED]), V311, &mut out).unwrap();
    assert_eq!(out, hex("90 03 0001 80"));
    let unsubscribe = Packet::Unsubscribe(Unsubscribe {
        packet_id: id(1),
        user_properties: Vec::new(),
        filters: vec![filter("a")],
    });
    same(V311, Role::Client, &unsubscribe, "a2 05 0001 0001 61");
    same(V5, Role::Client, &unsubscribe, "a2 06 0001 00 0001 61");
    let unsuback = |reasons| {
        Packet::UnsubAck(UnsubAck {
            packet_id: id(1),
            reasons,
            reason_string: None,
            user_properties: Vec::new(),
        })
    };
    same(V311, Role::Server, &unsuback(Vec::new()), "b0 02 0001");
    same(V5, Role::Server, &unsuback(vec![ReasonCode::NO_SUBSCRIPTION_EXISTED]), "b0 04 0001 00 11");
}

#[test]
fn packet_without_content_is_written_and_read() {
    for version in [V31, V311, V5] {
        same(version, Role::Client, &Packet::PingReq, "c0 00");
        same(version, Role::Server, &Packet::PingResp, "d0 00");
        same(version, Role::Client, &Packet::Disconnect(disconnect(ReasonCode::SUCCESS)), "e0 00");
    }
}

fn disconnect(reason: ReasonCode) -> Disconnect {
    Disconnect {
        reason,
        session_expiry_s: None,
        reason_string: None,
        server_reference: None,
        user_properties: Vec::new(),
    }
}

#[test]
fn disconnect_and_auth_are_written_and_read() {
    let (client, server) = (Role::Client, Role::Server);
    same(V5, client, &Packet::Disconnect(disconnect(ReasonCode::DISCONNECT_WITH_WILL_MESSAGE)), "e0 01 04");
    let expiry = Disconnect { session_expiry_s: Some(7), ..disconnect(ReasonCode::SUCCESS) };
    same(V5, client, &Packet::Disconnect(expiry), "e0 07 00 05 1100000007");
    let moved = Disconnect { server_reference: Some(text("x")), ..disconnect(ReasonCode::SERVER_MOVED) };
    same(V5, server, &Packet::Disconnect(moved), "e0 06 9d 04 1c000178");
    let auth = Auth {
        reason: ReasonCode::CONTINUE_AUTHENTICATION,
        method: Some(text("m")),
        data: Some(Bytes::from_static(b"d")),
        reason_string: None,
        user_properties: Vec::new(),
    };
    same(V5, client, &Packet::Auth(auth.clone()), "f0 0a 18 08 1500016d 16000164");
    let done = Auth { reason: ReasonCode::SUCCESS, method: None, data: None, ..auth };
    same(V5, server, &Packet::Auth(done), "f0 00");
}

#[test]
fn failure_that_the_packet_has_no_code_for_is_written_as_unspecified() {
    let mut out = BytesMut::new();
    encode(&Packet::PubAck(ack(ReasonCode::SERVER_UNAVAILABLE)), V5, &mut out).unwrap();
    encode(&Packet::Disconnect(disconnect(ReasonCode::BANNED)), V5, &mut out).unwrap();
    assert_eq!(out, hex("40 03 1234 80 e0 01 80"));
}

#[test]
fn packet_that_cannot_be_written_leaves_nothing_behind() {
    let check = |packet: Packet, version, error| {
        let mut out = BytesMut::new();
        assert_eq!(encode(&packet, version, &mut out), Err(error));
        assert!(out.is_empty());
        assert_eq!(encoded_len(&packet, version), Err(error));
    };
    let dup = Publish { dup: true, ..publish(PublishQoS::AtMostOnce) };
    check(Packet::Publish(dup), V311, EncodeError::Value { what: "DUP" }); // [MQTT-3.3.1-2]
    let missing = |packet, what| EncodeError::Missing { packet, what };
    let nameless = Publish { topic: None, ..publish(PublishQoS::AtMostOnce) };
    check(Packet::Publish(nameless), V5, missing(PacketType::Publish, "topic name"));
    let password = Connect { password: Some(Bytes::new()), ..connect(V311) };
    check(Packet::Connect(Box::new(password)), V311, missing(PacketType::Connect, "User Name"));
    let long = Connect { password: Some(Bytes::from(vec![0; 65_536])), ..connect(V5) };
    check(Packet::Connect(Box::new(long)), V5, EncodeError::TooLong { what: "Password", bytes: 65_536 });
    let wrong = ack(ReasonCode::GRANTED_QOS_1);
    let reason = wrong.reason;
    check(Packet::PubAck(wrong), V5, EncodeError::Reason { packet: PacketType::PubAck, reason });
    let taken_over = Packet::Disconnect(disconnect(ReasonCode::SESSION_TAKEN_OVER));
    check(taken_over, V311, EncodeError::NotInVersion { packet: PacketType::Disconnect, version: V311 });
    let none =
        Subscribe { packet_id: id(1), identifier: None, user_properties: Vec::new(), filters: Vec::new() };
    check(Packet::Subscribe(none), V5, missing(PacketType::Subscribe, "topic filter")); // [MQTT-3.8.3-2]
    let huge = PublishProperties { subscription_identifiers: vec![1, 0], ..PublishProperties::default() };
    let huge = Publish { properties: Some(Box::new(huge)), ..publish(PublishQoS::AtMostOnce) };
    check(Packet::Publish(huge), V5, EncodeError::Value { what: "Subscription Identifier" });
}

#[test]
fn packet_is_made_to_fit_by_dropping_reason_string_then_user_properties() {
    let full = Packet::PubAck(Ack {
        reason_string: Some(text("reason")),
        user_properties: vec![(text("n"), text("v"))],
        ..ack(ReasonCode::NOT_AUTHORIZED)
    });
    let fitted = |max| {
        let mut packet = full.clone();
        let fits = fit(&mut packet, V5, max).unwrap();
        let Packet::PubAck(ack) = packet else { panic!("another packet") };
        (fits, ack.reason_string.is_some(), ack.user_properties.len())
    };
    // [MQTT-3.4.2-2], [MQTT-3.4.2-3]
    assert_eq!(fitted(22), (true, true, 1));
    assert_eq!(fitted(21), (true, false, 1));
    assert_eq!(fitted(13), (true, false, 1));
    assert_eq!(fitted(12), (true, false, 0));
    assert_eq!(fitted(4), (false, false, 0));
    // [MQTT-3.1.2-25]
    let mut large = Packet::Publish(publish(PublishQoS::AtMostOnce));
    assert_eq!(fit(&mut large, V5, 9), Ok(false));
    assert_eq!(fit(&mut large, V5, 10), Ok(true));
}
