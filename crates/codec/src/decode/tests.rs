//! Packets that must be refused, byte by byte, each with its reason code and the statement that it breaks.

use super::*;
use crate::testing::*;

/// The packet is refused with this reason code, however much is said about it before.
#[track_caller]
fn refused_from(sender: Role, version: ProtocolVersion, bytes: &[u8], reason: u8, rule: &str) {
    let error = match decode(&mut buffer(bytes), version, sender, &Limits::default()) {
        Err(error) => error,
        Ok(packet) => panic!("{rule}: {version:?} {bytes:02x?} gave {packet:?}"),
    };
    assert_eq!(error.reason().value(), reason, "{rule}: {version:?} {bytes:02x?} gave {error}");
    // A prefix of it is refused too or waits for more, but never becomes a packet.
    for end in 0..bytes.len() {
        let prefix = decode(&mut buffer(&bytes[..end]), version, sender, &Limits::default());
        assert!(!matches!(prefix, Ok(Some(_))), "{rule}: {prefix:?}");
    }
}

#[track_caller]
fn refused(version: ProtocolVersion, bytes: &[u8], reason: u8, rule: &str) {
    refused_from(Role::Client, version, bytes, reason, rule);
}

/// The packet is refused in all three versions.
#[track_caller]
fn refused_always(bytes: &[u8], reason: u8, rule: &str) {
    for version in [V31, V311, V5] {
        refused(version, bytes, reason, rule);
    }
}

/// An empty list of properties where the version has one.
fn none(version: ProtocolVersion) -> &'static [u8] {
    if version == V5 { &[0] } else { &[] }
}

fn publish(version: ProtocolVersion, first: u8, topic: impl AsRef<[u8]>, packet_id: &[u8]) -> Vec<u8> {
    packet(first, &[&string(topic), packet_id, none(version), b"x"])
}

fn publish_with(properties: &[u8]) -> Vec<u8> {
    packet(0x30, &[&string("a"), &list(properties), b"x"])
}

fn subscribe(version: ProtocolVersion, topic: impl AsRef<[u8]>, options: u8) -> Vec<u8> {
    packet(0x82, &[&[0, 1], none(version), &string(topic), &[options]])
}

struct ConnectBytes {
    first: u8,
    name: &'static str,
    level: u8,
    flags: u8,
    properties: Vec<u8>,
    payload: Vec<u8>,
}

fn connect(version: ProtocolVersion) -> ConnectBytes {
    let properties = if version == V5 { vec![0] } else { Vec::new() };
    let name = if version == V31 { "MQIsdp" } else { "MQTT" };
    ConnectBytes { first: 0x10, name, level: version as u8, flags: 0x02, properties, payload: string("c") }
}

impl ConnectBytes {
    fn bytes(&self) -> Vec<u8> {
        let level = [self.level, self.flags, 0, 60];
        packet(self.first, &[&string(self.name), &level, &self.properties, &self.payload])
    }

    #[track_caller]
    fn refused(&self, version: ProtocolVersion, reason: u8, rule: &str) {
        let bytes = self.bytes();
        let error = match decode_first(&mut buffer(&bytes), &Limits::default()) {
            Err(error) => error,
            Ok(packet) => panic!("{rule}: {bytes:02x?} gave {packet:?}"),
        };
        assert_eq!(error.error.reason().value(), reason, "{rule}: {}", error.error);
        let answer = reason == 0x84 || (version == V5 && self.first == 0x10);
        assert_eq!(error.answer_in.is_some(), answer, "{rule}");
        refused(version, &bytes, reason, rule);
    }
}

#[test]
fn first_packet_other_than_connect_is_refused_by_its_first_byte() {
    for first in [0x00, 0x20, 0x30, 0x3d, 0x40, 0x62, 0x82, 0xc0, 0xe0, 0xf0, b'G'] {
        let error = decode_first(&mut buffer(&[first]), &Limits::default()).unwrap_err();
        assert_eq!(error.answer_in, None);
        assert_eq!(error.error.reason(), ReasonCode::PROTOCOL_ERROR, "[MQTT-3.1.0-1]");
    }
    let error = decode_first(&mut buffer(&[0x11]), &Limits::default()).unwrap_err();
    assert_eq!(error.error.reason(), ReasonCode::MALFORMED_PACKET, "[MQTT-2.1.3-1]");
}

#[test]
fn first_packet_too_long_is_refused_by_its_fifth_byte() {
    let first = |digits| decode_first(&mut buffer(&hex(digits)), &Limits::default());
    assert_eq!(first("10 ff ff ff"), Ok(None));
    assert_eq!(first("10 ff ff ff 7f").unwrap_err().error.reason(), ReasonCode::PACKET_TOO_LARGE);
    assert_eq!(first("10 ff ff ff ff").unwrap_err().error.reason(), ReasonCode::MALFORMED_PACKET);
    // 16,384 bytes with the fixed header, and one more.
    assert_eq!(first("10 fd 7f"), Ok(None));
    assert_eq!(first("10 fe 7f").unwrap_err().error, DecodeError::TooLarge { bytes: 16_385, max: 16_384 });
}

#[test]
fn connect_of_another_protocol_is_answered_in_a_version_that_the_client_may_know() {
    for (name, level, answer) in [
        ("MQTX", 4, V311),
        ("mqtt", 5, V5),
        ("MQTT", 6, V5),
        ("MQTT", 0, V311),
        ("MQTT", 3, V311),
        ("MQIsdp", 4, V311),
        ("", 4, V311),
    ] {
        let bytes = ConnectBytes { name, level, ..connect(V311) }.bytes();
        let error = decode_first(&mut buffer(&bytes), &Limits::default()).unwrap_err();
        assert_eq!(error.answer_in, Some(answer), "{name} {level}");
        assert_eq!(error.error, DecodeError::ProtocolVersion { level }, "[MQTT-3.1.2-1], [MQTT-3.1.2-2]");
        assert_eq!(error.error.reason().value(), 0x84);
    }
}

#[test]
fn connect_with_wrong_flags_is_malformed() {
    for version in [V311, V5] {
        let check = |flags, rule| ConnectBytes { flags, ..connect(version) }.refused(version, 0x81, rule);
        check(0x03, "reserved flag [MQTT-3.1.2-3]");
        check(0x0a, "Will QoS without a will [MQTT-3.1.2-11]");
        check(0x22, "Will Retain without a will [MQTT-3.1.2-13]");
        check(0x06, "will missing [MQTT-3.1.2-9]");
        check(0x82, "user name missing [MQTT-3.1.2-17]");
        check(0xc2, "user name and password missing [MQTT-3.1.2-19]");
        ConnectBytes { first: 0x11, ..connect(version) }.refused(
            version,
            0x81,
            "fixed header [MQTT-2.1.3-1]",
        );
        let with_user = [string("c"), string("u")].concat();
        let cut = ConnectBytes { flags: 0xc2, payload: with_user, ..connect(version) };
        cut.refused(version, 0x81, "password missing [MQTT-3.1.2-19]");
    }
    let password_only = [string("c"), string("p")].concat();
    for version in [V31, V311] {
        let connect = ConnectBytes { flags: 0x42, payload: password_only.clone(), ..connect(version) };
        connect.refused(version, 0x81, "password without a user name [MQTT-3.1.2-22 of 3.1.1]");
    }
    let allowed = ConnectBytes { flags: 0x42, payload: password_only, ..connect(V5) }.bytes();
    let accepted = decode_first(&mut buffer(&allowed), &Limits::default()).unwrap().unwrap();
    assert_eq!((accepted.username, accepted.password.as_deref()), (None, Some(&b"p"[..])));
}

#[test]
fn connect_with_wrong_payload_is_refused() {
    for version in [V31, V311, V5] {
        let client = |client: &[u8], reason, rule| {
            ConnectBytes { payload: string(client), ..connect(version) }.refused(version, reason, rule);
        };
        client(b"a\xc3\x28", 0x81, "UTF-8 [MQTT-1.5.4-1]");
        client(b"a\xed\xa0\x80", 0x81, "surrogate [MQTT-1.5.4-1]");
        client(b"a\xc0\x80", 0x81, "overlong UTF-8");
        client(b"a\0b", 0x81, "null character [MQTT-1.5.4-2]");
        let payload = |flags, payload: &[&[u8]], reason, rule| {
            ConnectBytes { flags, payload: payload.concat(), ..connect(version) }
                .refused(version, reason, rule);
        };
        let (c, none) = (string("c"), none(version));
        payload(0x02, &[&[0x01, 0xf4], b"abc"], 0x81, "client identifier longer than the packet");
        payload(0x02, &[&c, &[0, 1, b'x']], 0x81, "bytes after the last field");
        payload(0x02, &[], 0x81, "no client identifier [MQTT-3.1.3-1]");
        payload(0x1e, &[&c, none, &string("w"), &string("x")], 0x81, "Will QoS 3 [MQTT-3.1.2-12]");
        payload(0x06, &[&c, none, &string("w/t")], 0x81, "will payload missing");
        payload(0x06, &[&c, none, &string("w/#"), &string("x")], 0x90, "wildcard in the will topic");
        payload(0x06, &[&c, none, &string(""), &string("x")], 0x90, "will topic empty [MQTT-4.7.3-1]");
        payload(0x06, &[&c, none, &string("w\0t"), &string("x")], 0x81, "will topic [MQTT-3.1.3-11]");
        payload(0x82, &[&c, &string(b"\xff\xfe")], 0x81, "user name UTF-8 [MQTT-3.1.3-12]");
    }
    for body in ["10 00", "10 02 00 04", "10 06 00 04 4d 51 54 54"] {
        let error = decode_first(&mut buffer(&hex(body)), &Limits::default()).unwrap_err();
        assert_eq!((error.error.reason().value(), error.answer_in), (0x81, None));
    }
}

#[test]
fn connect_with_wrong_properties_is_refused() {
    let check = |properties: &str, reason, rule| {
        ConnectBytes { properties: list(hex(properties)), ..connect(V5) }.refused(V5, reason, rule);
    };
    check("11 00000005 11 00000005", 0x82, "Session Expiry Interval twice (3.1.2.11.2)");
    check("23 0001", 0x81, "property of PUBLISH (2.2.2.2)");
    check("7f 00", 0x81, "property unknown (2.2.2.2)");
    check("91 00", 0x81, "identifier of two bytes");
    check("11 0000", 0x81, "property cut short");
    check("21 0000", 0x82, "Receive Maximum 0 (3.1.2.11.3)");
    check("27 00000000", 0x82, "Maximum Packet Size 0 (3.1.2.11.4)");
    check("17 02", 0x82, "Request Problem Information 2 (3.1.2.11.7)");
    check("19 02", 0x82, "Request Response Information 2 (3.1.2.11.6)");
    check("16 0001 64", 0x82, "Authentication Data without a method (3.1.2.11.10)");
    check("26 0001 ff 0001 76", 0x81, "user property [MQTT-1.5.4-1]");
    check("15 0001 6d 15 0001 6d", 0x82, "Authentication Method twice (3.1.2.11.9)");
    let too_long = ConnectBytes { properties: hex("c8 01"), ..connect(V5) };
    too_long.refused(V5, 0x81, "properties longer than the packet");
    let overlong = ConnectBytes { properties: hex("80 00"), ..connect(V5) };
    overlong.refused(V5, 0x81, "[MQTT-1.5.5-1]");
    let will = |properties: &str, reason, rule| {
        let payload = [string("c"), list(hex(properties)), string("w"), string("x")].concat();
        ConnectBytes { flags: 0x06, payload, ..connect(V5) }.refused(V5, reason, rule);
    };
    will("18 00000001 18 00000001", 0x82, "Will Delay Interval twice (3.1.3.2.2)");
    will("23 0001", 0x81, "topic alias of a will");
    will("0b 01", 0x81, "subscription identifier of a will");
    will("01 02", 0x82, "Payload Format Indicator 2 (3.1.3.2.3)");
    will("08 0001 23", 0x82, "response topic with a wildcard (3.1.3.2.6)");
}

#[test]
fn connect_of_version_3_1_may_lack_what_its_flags_announce() {
    for (flags, payload) in [(0xc2, string("c")), (0xc2, [string("c"), string("u")].concat())] {
        let bytes = ConnectBytes { flags, payload, ..connect(V31) }.bytes();
        let accepted = decode_first(&mut buffer(&bytes), &Limits::default()).unwrap().unwrap();
        assert_eq!(accepted.password, None, "MQTT 3.1, 3.1, user name and password");
    }
    let long = ConnectBytes { payload: string("c".repeat(40)), ..connect(V31) }.bytes();
    assert!(decode_first(&mut buffer(&long), &Limits::default()).unwrap().is_some());
    let empty = ConnectBytes { flags: 0, payload: string(""), ..connect(V311) }.bytes();
    let accepted = decode_first(&mut buffer(&empty), &Limits::default()).unwrap().unwrap();
    assert!(accepted.client_id.is_empty(), "[MQTT-3.1.3-8 of 3.1.1] is the connection's");
}

#[test]
fn packet_with_wrong_first_byte_is_refused_at_once() {
    refused_always(&hex("36"), 0x81, "QoS 3 [MQTT-3.3.1-4]");
    refused_always(&hex("38"), 0x81, "DUP with QoS 0 [MQTT-3.3.1-2]");
    refused_always(&hex("00"), 0x82, "type 0 (2.1.2)");
    for first in ["11", "42", "51", "61", "60", "80", "83", "a0", "a3", "c1", "e1", "e8"] {
        refused_always(&hex(first), 0x81, "flags [MQTT-2.1.3-1]");
    }
    refused(V5, &hex("f1"), 0x81, "flags [MQTT-2.1.3-1]");
    for first in ["8a", "aa", "6a"] {
        refused(V311, &hex(first), 0x81, "DUP [MQTT-2.2.2-1 of 3.1.1]");
        assert_eq!(decode(&mut buffer(&hex(first)), V31, Role::Client, &Limits::default()), Ok(None));
    }
    for first in ["20", "90", "b0", "d0"] {
        refused_always(&hex(first), 0x82, "packet of a server");
    }
    for first in ["10", "82", "a2", "c0"] {
        refused_from(Role::Server, V5, &hex(first), 0x82, "packet of a client");
        refused_from(Role::Server, V311, &hex(first), 0x82, "packet of a client");
    }
    refused_from(Role::Server, V311, &hex("e0"), 0x82, "3.1.1 has no DISCONNECT of a server");
    refused(V31, &hex("f0"), 0x82, "AUTH before 5.0");
    refused(V311, &hex("f0"), 0x82, "AUTH before 5.0");
}

#[test]
fn packet_with_wrong_length_is_refused() {
    refused_always(&hex("30 80 80 80 80 01"), 0x81, "five bytes of length (2.1.4)");
    refused_always(&hex("30 80 80 80 00"), 0x81, "[MQTT-1.5.5-1]");
    refused_always(&hex("c0 80 00"), 0x81, "[MQTT-1.5.5-1]");
    refused_always(&hex("c0 01 00"), 0x81, "PINGREQ with a body (3.12)");
    refused_always(&hex("30 00"), 0x81, "PUBLISH without a body");
    refused_always(&hex("40 00"), 0x81, "PUBACK without a body");
    refused_always(&hex("62 01 00"), 0x81, "PUBREL cut short");
    refused_always(&packet(0x30, &[&[0x03, 0x84], b"abc"]), 0x81, "topic longer than the packet");
    refused_always(&hex("30 ff ff ff 7f"), 0x95, "larger than the limit [MQTT-3.1.2-24]");
    refused(V311, &hex("40 03 00 01 00"), 0x81, "bytes after the packet identifier");
    refused(V311, &hex("e0 01 00"), 0x81, "DISCONNECT with a body");
}

#[test]
fn packet_identifier_0_is_malformed() {
    for version in [V31, V311, V5] {
        let check = |bytes: &[u8]| refused(version, bytes, 0x81, "[MQTT-2.2.1-3]");
        check(&publish(version, 0x32, "a", &[0, 0]));
        check(&publish(version, 0x34, "a", &[0, 0]));
        check(&packet(0x82, &[&[0, 0], none(version), &string("a"), &[0]]));
        check(&packet(0xa2, &[&[0, 0], none(version), &string("a")]));
        check(&hex("40 02 0000"));
        check(&hex("50 02 0000"));
        check(&hex("62 02 0000"));
        check(&hex("70 02 0000"));
    }
    refused_always(&packet(0x32, &[&string("a")]), 0x81, "QoS 1 without an identifier [MQTT-2.2.1-3]");
}

#[test]
fn publish_with_wrong_topic_is_refused() {
    for version in [V31, V311, V5] {
        let check =
            |topic: &[u8], reason, rule| refused(version, &publish(version, 0x30, topic, &[]), reason, rule);
        check(b"a/#", 0x90, "[MQTT-3.3.2-2]");
        check(b"a/+/b", 0x90, "[MQTT-3.3.2-2]");
        check(b"a\0b", 0x81, "[MQTT-1.5.4-2]");
        check(b"a\xff\xfe", 0x81, "[MQTT-3.3.2-1]");
        check(b"a\xed\xb0\x80", 0x81, "[MQTT-1.5.4-1]");
        check("/".repeat(32).as_bytes(), 0x90, "33 levels");
        check("/".repeat(65_000).as_bytes(), 0x90, "65,001 levels");
        check(b"", if version == V5 { 0x82 } else { 0x90 }, "[MQTT-4.7.3-1]");
    }
    refused(
        V5,
        &packet(0x30, &[&string(""), &list(hex("02 00000001"))]),
        0x82,
        "neither topic nor alias (3.3.2.1)",
    );
}

#[test]
fn publish_with_wrong_properties_is_refused() {
    let check = |properties: &str, reason, rule| refused(V5, &publish_with(&hex(properties)), reason, rule);
    check("23 0000", 0x94, "topic alias 0 [MQTT-3.3.2-8]");
    check("23 0001 23 0001", 0x82, "topic alias twice (3.3.2.3.4)");
    check("0b 01", 0x82, "subscription identifier from a client [MQTT-3.3.4-6]");
    check("03 0001 78 03 0001 79", 0x82, "content type twice (3.3.2.3.9)");
    check("11 00000001", 0x81, "property of CONNECT (2.2.2.2)");
    check("60 01", 0x81, "unknown property (2.2.2.2)");
    check("08 0003 722f23", 0x82, "response topic with a wildcard [MQTT-3.3.2-14]");
    check("08 0000", 0x82, "response topic empty");
    check("01 02", 0x82, "Payload Format Indicator 2 (3.3.2.3.2)");
    refused(V5, &packet(0x30, &[&string("a"), &hex("02 02 00")]), 0x81, "property cut short");
    refused(V5, &packet(0x30, &[&string("a"), &hex("64 01")]), 0x81, "properties longer than the packet");
    refused(V5, &packet(0x30, &[&string("a"), &hex("80 00")]), 0x81, "[MQTT-1.5.5-1]");
    refused_from(
        Role::Server,
        V5,
        &publish_with(&hex("0b 00")),
        0x82,
        "Subscription Identifier 0 (3.3.2.3.8)",
    );
    refused_from(Role::Server, V5, &publish_with(&hex("0b ff ff ff ff 01")), 0x81, "[MQTT-1.5.5-1]");
    let from_server =
        decode(&mut buffer(&publish_with(&hex("0b 01 0b 8001"))), V5, Role::Server, &Limits::default());
    match from_server {
        Ok(Some(Packet::Publish(publish))) => {
            assert_eq!(publish.properties.unwrap().subscription_identifiers, [1, 128]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn subscribe_outside_the_rules_is_refused() {
    for version in [V31, V311, V5] {
        let five = version == V5;
        refused(version, &packet(0x82, &[&[0, 1], none(version)]), 0x82, "[MQTT-3.8.3-2]");
        refused(version, &packet(0xa2, &[&[0, 1], none(version)]), 0x82, "[MQTT-3.10.3-2]");
        let options =
            |options, reason, rule| refused(version, &subscribe(version, "a", options), reason, rule);
        options(3, 0x82, "QoS 3");
        options(0xc0, 0x81, "reserved bits [MQTT-3.8.3-5]");
        options(0x30, if five { 0x82 } else { 0x81 }, "Retain Handling 3");
        let cut = packet(0x82, &[&[0, 1], none(version), &string("a")]);
        refused(version, &cut, 0x81, "options missing");
        for bad in ["a/#/b", "a/b#", "a/b+/c", "+a", "", "$share//x", "$share/g", "$share/g/", "$share/g+/x"]
        {
            refused(version, &subscribe(version, bad, 0), 0x8f, "[MQTT-4.7.1-1], [MQTT-4.8.2-1]");
            let unsubscribe = packet(0xa2, &[&[0, 1], none(version), &string(bad)]);
            refused(version, &unsubscribe, 0x8f, "[MQTT-4.7.1-1], [MQTT-4.8.2-1]");
        }
        refused(version, &subscribe(version, "a\0b", 0), 0x81, "[MQTT-1.5.4-2]");
        refused(version, &subscribe(version, b"a\xc3\x28", 0), 0x81, "[MQTT-3.8.3-1]");
        refused(version, &subscribe(version, "+/".repeat(32), 0), 0x8f, "33 levels");
    }
    refused(V311, &subscribe(V311, "a", 4), 0x81, "[MQTT-3.8.3-4 of 3.1.1]");
    refused(V5, &subscribe(V5, "$share/g/a", 4), 0x82, "No Local on a shared subscription [MQTT-3.8.3-4]");
    let with =
        |first, properties: &str| packet(first, &[&[0, 1], &list(hex(properties)), &string("a"), &[0]]);
    refused(V5, &with(0x82, "0b 00"), 0x82, "Subscription Identifier 0 (3.8.2.1.2)");
    refused(V5, &with(0x82, "0b 01 0b 02"), 0x82, "Subscription Identifier twice (3.8.2.1.2)");
    refused(V5, &with(0x82, "21 0001"), 0x81, "property of CONNECT (2.2.2.2)");
    refused(V5, &with(0xa2, "0b 01"), 0x81, "property of SUBSCRIBE (2.2.2.2)");
}

#[test]
fn acknowledgement_outside_the_rules_is_refused() {
    let check = |digits, reason, rule| refused(V5, &hex(digits), reason, rule);
    check("40 08 0001 00 04 03 0001 78", 0x81, "property of PUBLISH (2.2.2.2)");
    check("40 03 0001 92", 0x82, "[MQTT-3.4.2-1]");
    check("50 03 0001 01", 0x82, "[MQTT-3.5.2-1]");
    check("62 03 0001 10", 0x82, "[MQTT-3.6.2-1]");
    check("70 03 0001 80", 0x82, "[MQTT-3.7.2-1]");
    check("40 05 0001 00 00 00", 0x81, "bytes after the properties");
    check("40 0c 0001 00 08 1f 0001 61 1f 0001 62", 0x82, "Reason String twice (3.4.2.2.2)");
    check("40 05 0001 00 05 1f", 0x81, "properties longer than the packet");
}

#[test]
fn disconnect_and_auth_outside_the_rules_are_refused() {
    let check = |digits, reason, rule| refused(V5, &hex(digits), reason, rule);
    check("e0 05 00 03 21 0001", 0x81, "property of CONNECT (2.2.2.2)");
    check("e0 06 00 04 1c 0001 78", 0x81, "Server Reference from a client (3.14.2.2.5)");
    check("e0 01 8d", 0x82, "code of a server [MQTT-3.14.2-1]");
    check("e0 01 05", 0x82, "unknown code [MQTT-3.14.2-1]");
    check("e0 03 00 00 00", 0x81, "bytes after the properties");
    refused_from(Role::Server, V5, &hex("e0 07 00 05 11 00000001"), 0x81, "[MQTT-3.14.2-2]");
    refused_from(Role::Server, V5, &hex("e0 01 04"), 0x82, "code of a client [MQTT-3.14.2-1]");
    check("f0 00", 0x82, "success from a client [MQTT-3.15.2-1]");
    check("f0 01 18", 0x82, "no Authentication Method (3.15.2.2.2)");
    check("f0 05 18 03 16 0000", 0x82, "no Authentication Method (3.15.2.2.2)");
    check("f0 06 05 04 15 0001 6d", 0x82, "unknown code [MQTT-3.15.2-1]");
}

#[test]
fn packet_of_a_server_outside_the_rules_is_refused() {
    let check =
        |version, digits, reason, rule| refused_from(Role::Server, version, &hex(digits), reason, rule);
    check(V311, "20 02 02 00", 0x81, "[MQTT-3.2.2-1]");
    check(V311, "20 02 01 02", 0x82, "[MQTT-3.2.2-4 of 3.1.1]");
    check(V311, "20 02 00 06", 0x81, "reserved return code");
    check(V5, "20 03 01 87 00", 0x82, "[MQTT-3.2.2-6]");
    check(V5, "20 03 00 8e 00", 0x81, "[MQTT-3.2.2-8]");
    check(V5, "20 05 00 00 02 24 02", 0x82, "Maximum QoS 2 (3.2.2.3.4)");
    check(V5, "20 06 00 00 03 21 0000", 0x82, "Receive Maximum 0 (3.2.2.3.3)");
    check(V5, "20 05 00 00 02 17 01", 0x81, "property of CONNECT (2.2.2.2)");
    check(V311, "90 02 0001", 0x82, "[MQTT-3.8.4-5 of 3.1.1]");
    check(V311, "90 03 0001 03", 0x82, "[MQTT-3.9.3-2 of 3.1.1]");
    check(V311, "90 03 0001 87", 0x81, "[MQTT-3.9.3-2 of 3.1.1]");
    check(V5, "90 04 0001 00 11", 0x82, "[MQTT-3.9.3-2]");
    check(V5, "b0 03 0001 00", 0x82, "[MQTT-3.11.3-1]");
    check(V5, "b0 04 0001 00 01", 0x82, "[MQTT-3.11.3-2]");
    check(V311, "b0 03 0001 00", 0x81, "bytes after the packet identifier");
}

#[test]
fn limit_is_kept_and_what_is_within_it_accepted() {
    let limits = Limits {
        packet_bytes_max: 40,
        user_properties_max: 2,
        user_property_bytes_max: 8,
        topic_levels_max: 2,
        filters_per_packet_max: 2,
        ..Limits::default()
    };
    let reason = |bytes: &[u8]| match decode(&mut buffer(bytes), V5, Role::Client, &limits) {
        Ok(packet) => {
            assert!(packet.is_some());
            0
        }
        Err(error) => error.reason().value(),
    };
    let user = |name: &str, value: &str| [vec![0x26], string(name), string(value)].concat();
    assert_eq!(reason(&publish_with(&[user("a", "b"), user("a", "b")].concat())), 0);
    assert_eq!(reason(&publish_with(&[user("a", "b"), user("a", "b"), user("a", "b")].concat())), 0x97);
    assert_eq!(reason(&publish_with(&user("aaaa", "bbbb"))), 0);
    assert_eq!(reason(&publish_with(&user("aaaaa", "bbbb"))), 0x97);
    assert_eq!(reason(&packet(0x30, &[&string("a"), &[0], &[b'x'; 34]])), 0);
    assert_eq!(reason(&packet(0x30, &[&string("a"), &[0], &[b'x'; 35]])), 0x95);
    let filters = |count| packet(0x82, &[&[0, 1, 0], &[string("a/b"), vec![0]].concat().repeat(count)]);
    assert_eq!(reason(&filters(2)), 0);
    assert_eq!(reason(&filters(3)), 0x97);
    assert_eq!(reason(&publish(V5, 0x30, "a/b", &[])), 0);
    assert_eq!(reason(&publish(V5, 0x30, "a/b/c", &[])), 0x90);
    assert_eq!(reason(&subscribe(V5, "a/b/c", 0)), 0x8f);
}

#[test]
fn every_byte_string_of_three_bytes_is_decoded_without_a_panic() {
    let limits = Limits::default();
    for first in 0..=255 {
        for second in 0..=255 {
            for third in [0, 1, 2, 5, 0x26, 0x7f, 0x80, 0xff] {
                for version in [V31, V311, V5] {
                    for sender in [Role::Client, Role::Server] {
                        let mut buffer = buffer(&[first, second, third]);
                        let left = buffer.len();
                        if let Ok(None) = decode(&mut buffer, version, sender, &limits) {
                            assert_eq!(buffer.len(), left, "nothing is taken before the packet is whole");
                        }
                    }
                }
            }
        }
    }
}
