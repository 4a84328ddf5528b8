//! Every packet that can be written is read back as it was, in every version, and no prefix of it is a packet.
//!
//! Invariants: decode(encode(packet)) = packet without what the version does not have [MQTT-2.1.3-1 to MQTT-3.15.2-1].
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use quorate_codec::{
    Ack, Auth, ConnAck, ConnAckProperties, Connect, Disconnect, Limits, Packet, PacketId, PacketType,
    ProtocolVersion, Publish, PublishProperties, PublishQoS, QoS, ReasonCode, RetainHandling, Role, SubAck,
    Subscribe, SubscriptionOptions, Text, TopicFilter, TopicName, UnsubAck, Unsubscribe, UserProperties,
    Will, decode, decode_first, encode, encoded_len, fit,
};

const VERSIONS: [ProtocolVersion; 3] = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];

fn text() -> impl Strategy<Value = Text> {
    "[a-c\u{e9}\u{feff}\u{1f980}\u{7f} ]{0,8}".prop_map(|text| Text::parse(&text).unwrap())
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..12).prop_map(Bytes::from)
}

fn topic() -> impl Strategy<Value = TopicName> {
    "[a-c/\\$\u{e9}]{1,12}".prop_map(|topic| TopicName::new(Text::parse(&topic).unwrap()).unwrap())
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    "(\\$share/[a-c]{1,3}/)?(([a-c]{0,3}|\\+)/){0,4}([a-c]{1,3}|\\+|#)"
        .prop_map(|filter| TopicFilter::new(Text::parse(&filter).unwrap()).unwrap())
}

fn users() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..4)
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<PacketId>()
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn reason(packet: PacketType, sender: Role) -> impl Strategy<Value = ReasonCode> {
    let codes: Vec<ReasonCode> =
        ReasonCode::ALL.into_iter().filter(|code| code.may_come_from(sender, packet)).collect();
    proptest::sample::select(codes)
}

fn message_properties() -> impl Strategy<Value = PublishProperties> {
    let fields = (
        option::of(any::<bool>()),
        option::of(any::<u32>()),
        option::of(topic()),
        option::of(bytes()),
        users(),
        option::of(text()),
    );
    fields.prop_map(
        |(payload_is_utf8, message_expiry_s, response_topic, correlation_data, users, content_type)| {
            PublishProperties {
                payload_is_utf8,
                message_expiry_s,
                topic_alias: None,
                response_topic,
                correlation_data,
                user_properties: users,
                subscription_identifiers: Vec::new(),
                content_type,
            }
        },
    )
}

fn will() -> impl Strategy<Value = Will> {
    (topic(), bytes(), qos(), any::<bool>(), option::of(any::<u32>()), message_properties()).prop_map(
        |(topic, payload, qos, retain, delay_s, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_s,
            properties,
        },
    )
}

prop_compose! {
    fn connect()(
        version in proptest::sample::select(&VERSIONS[..]),
        (clean_start, keep_alive_s, client_id) in (any::<bool>(), any::<u16>(), text()),
        will in option::of(will()),
        (username, password) in (option::of(text()), option::of(bytes())),
        session_expiry_s in option::of(any::<u32>()),
        receive_max in option::of(any::<NonZeroU16>()),
        packet_bytes_max in option::of(1..=u32::MAX),
        topic_alias_max in option::of(any::<u16>()),
        (request_response_information, request_problem_information) in any::<(Option<bool>, Option<bool>)>(),
        authentication in option::of((text(), option::of(bytes()))),
        user_properties in users(),
    ) -> Connect {
        let password = if version == ProtocolVersion::V5 || username.is_some() { password } else { None };
        let (method, data) = authentication.map_or((None, None), |(method, data)| (Some(method), data));
        Connect {
            version, clean_start, keep_alive_s, client_id, will, username, password, session_expiry_s, receive_max,
            packet_bytes_max, topic_alias_max, request_response_information, request_problem_information,
            authentication_method: method, authentication_data: data, user_properties,
        }
    }
}

prop_compose! {
    fn connack()(
        (session_present, reason) in (any::<bool>(), reason(PacketType::ConnAck, Role::Server)),
        (session_expiry_s, receive_max) in any::<(Option<u32>, Option<NonZeroU16>)>(),
        qos_max in option::of(prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)]),
        retain_available in any::<Option<bool>>(),
        packet_bytes_max in option::of(1..=u32::MAX),
        (assigned_client_id, reason_string, response_information, server_reference, authentication_method) in
            (option::of(text()), option::of(text()), option::of(text()), option::of(text()), option::of(text())),
        (topic_alias_max, server_keep_alive_s) in any::<(Option<u16>, Option<u16>)>(),
        (wildcard_subscription_available, subscription_identifiers_available, shared_subscription_available) in
            any::<(Option<bool>, Option<bool>, Option<bool>)>(),
        authentication_data in option::of(bytes()),
        user_properties in users(),
    ) -> ConnAck {
        ConnAck {
            session_present: session_present && reason == ReasonCode::SUCCESS,
            reason,
            properties: ConnAckProperties {
                session_expiry_s, receive_max, qos_max, retain_available, packet_bytes_max, assigned_client_id,
                topic_alias_max, reason_string, wildcard_subscription_available, subscription_identifiers_available,
                shared_subscription_available, server_keep_alive_s, response_information, server_reference,
                authentication_method, authentication_data, user_properties,
            },
        }
    }
}

fn publish_qos() -> impl Strategy<Value = PublishQoS> {
    prop_oneof![
        Just(PublishQoS::AtMostOnce),
        packet_id().prop_map(PublishQoS::AtLeastOnce),
        packet_id().prop_map(PublishQoS::ExactlyOnce),
    ]
}

prop_compose! {
    fn publish(sender: Role)(
        (dup, retain, qos) in (any::<bool>(), any::<bool>(), publish_qos()),
        (topic, topic_alias) in (topic(), option::of((any::<NonZeroU16>(), any::<bool>()))),
        properties in message_properties(),
        identifiers in vec(1..=268_435_455_u32, 0..4),
        payload in bytes(),
    ) -> Publish {
        let subscription_identifiers = if sender == Role::Server { identifiers } else { Vec::new() };
        let alias = topic_alias.map(|(alias, _)| alias);
        let properties = PublishProperties { topic_alias: alias, subscription_identifiers, ..properties };
        let topic = if topic_alias.is_some_and(|(_, nameless)| nameless) { None } else { Some(topic) };
        let properties = (properties != PublishProperties::default()).then(|| Box::new(properties));
        Publish { dup: dup && qos != PublishQoS::AtMostOnce, qos, retain, topic, properties, payload }
    }
}

fn ack(packet: PacketType) -> impl Strategy<Value = Ack> {
    (packet_id(), reason(packet, Role::Client), option::of(text()), users()).prop_map(
        |(packet_id, reason, reason_string, user_properties)| Ack {
            packet_id,
            reason,
            reason_string,
            user_properties,
        },
    )
}

fn options() -> impl Strategy<Value = SubscriptionOptions> {
    let handling =
        prop_oneof![Just(RetainHandling::Always), Just(RetainHandling::IfNew), Just(RetainHandling::Never)];
    (qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        |(qos, no_local, retain_as_published, retain_handling)| SubscriptionOptions {
            qos,
            no_local,
            retain_as_published,
            retain_handling,
        },
    )
}

prop_compose! {
    fn subscribe()(
        packet_id in packet_id(),
        identifier in option::of(1..=268_435_455_u32),
        user_properties in users(),
        filters in vec((filter(), options()), 1..5),
    ) -> Subscribe {
        let filters = filters
            .into_iter()
            .map(|(filter, options)| {
                let no_local = options.no_local && !filter.is_shared();
                (filter, SubscriptionOptions { no_local, ..options })
            })
            .collect();
        Subscribe { packet_id, identifier, user_properties, filters }
    }
}

prop_compose! {
    fn answers(packet: PacketType)(
        packet_id in packet_id(),
        reasons in vec(reason(packet, Role::Server), 1..5),
        reason_string in option::of(text()),
        user_properties in users(),
    ) -> (PacketId, Vec<ReasonCode>, Option<Text>, UserProperties) {
        (packet_id, reasons, reason_string, user_properties)
    }
}

prop_compose! {
    fn disconnect(sender: Role)(
        reason in reason(PacketType::Disconnect, sender),
        expiry in option::of(any::<u32>()),
        (reason_string, reference) in (option::of(text()), option::of(text())),
        user_properties in users(),
    ) -> Disconnect {
        let (session_expiry_s, server_reference) = match sender {
            Role::Client => (expiry, None),
            Role::Server => (None, reference),
        };
        Disconnect { reason, session_expiry_s, reason_string, server_reference, user_properties }
    }
}

prop_compose! {
    fn auth(sender: Role)(
        reason in reason(PacketType::Auth, sender),
        method in text(),
        data in option::of(bytes()),
        reason_string in option::of(text()),
        user_properties in users(),
    ) -> Auth {
        Auth { reason, method: Some(method), data, reason_string, user_properties }
    }
}

/// Any packet that this side may send in 5.0.
fn packet(sender: Role) -> BoxedStrategy<Packet> {
    let both = prop_oneof![
        publish(sender).prop_map(Packet::Publish),
        ack(PacketType::PubAck).prop_map(Packet::PubAck),
        ack(PacketType::PubRec).prop_map(Packet::PubRec),
        ack(PacketType::PubRel).prop_map(Packet::PubRel),
        ack(PacketType::PubComp).prop_map(Packet::PubComp),
        disconnect(sender).prop_map(Packet::Disconnect),
        auth(sender).prop_map(Packet::Auth),
    ];
    match sender {
        Role::Client => prop_oneof![
            both,
            connect().prop_map(|connect| Packet::Connect(Box::new(connect))),
            subscribe().prop_map(Packet::Subscribe),
            (packet_id(), users(), vec(filter(), 1..5)).prop_map(|(packet_id, user_properties, filters)| {
                Packet::Unsubscribe(Unsubscribe { packet_id, user_properties, filters })
            }),
            Just(Packet::PingReq),
        ]
        .boxed(),
        Role::Server => prop_oneof![
            both,
            connack().prop_map(|connack| Packet::ConnAck(Box::new(connack))),
            answers(PacketType::SubAck).prop_map(|(packet_id, reasons, reason_string, user_properties)| {
                Packet::SubAck(SubAck { packet_id, reasons, reason_string, user_properties })
            }),
            answers(PacketType::UnsubAck).prop_map(|(packet_id, reasons, reason_string, user_properties)| {
                Packet::UnsubAck(UnsubAck { packet_id, reasons, reason_string, user_properties })
            }),
            Just(Packet::PingResp),
        ]
        .boxed(),
    }
}

/// The packet without what an older version does not have; `None` if that has no such packet.
fn without_what_is_new(packet: Packet, sender: Role, version: ProtocolVersion) -> Option<Packet> {
    let plain = |ack: Ack| Ack {
        reason: ReasonCode::SUCCESS,
        reason_string: None,
        user_properties: Vec::new(),
        ..ack
    };
    Some(match packet {
        Packet::Connect(connect) => Packet::Connect(connect),
        Packet::ConnAck(connack) => Packet::ConnAck(Box::new(ConnAck {
            session_present: connack.session_present && version == ProtocolVersion::V311,
            reason: ReasonCode::from_connack_return_code_v3(connack.reason.connack_return_code_v3())?,
            properties: ConnAckProperties::default(),
        })),
        Packet::Publish(publish) => {
            publish.topic.as_ref()?;
            Packet::Publish(Publish { properties: None, ..publish })
        }
        Packet::PubAck(ack) => Packet::PubAck(plain(ack)),
        Packet::PubRec(ack) => Packet::PubRec(plain(ack)),
        Packet::PubRel(ack) => Packet::PubRel(plain(ack)),
        Packet::PubComp(ack) => Packet::PubComp(plain(ack)),
        Packet::Subscribe(subscribe) => {
            let plain = |qos| SubscriptionOptions {
                qos,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Always,
            };
            let filters =
                subscribe.filters.into_iter().map(|(filter, options)| (filter, plain(options.qos))).collect();
            Packet::Subscribe(Subscribe {
                identifier: None,
                user_properties: Vec::new(),
                filters,
                packet_id: subscribe.packet_id,
            })
        }
        Packet::SubAck(suback) => Packet::SubAck(SubAck {
            reasons: suback
                .reasons
                .into_iter()
                .map(|code| if code.is_failure() { ReasonCode::UNSPECIFIED_ERROR } else { code })
                .collect(),
            packet_id: suback.packet_id,
            reason_string: None,
            user_properties: Vec::new(),
        }),
        Packet::Unsubscribe(unsubscribe) => {
            Packet::Unsubscribe(Unsubscribe { user_properties: Vec::new(), ..unsubscribe })
        }
        Packet::UnsubAck(unsuback) => Packet::UnsubAck(UnsubAck {
            packet_id: unsuback.packet_id,
            reasons: Vec::new(),
            reason_string: None,
            user_properties: Vec::new(),
        }),
        Packet::PingReq => Packet::PingReq,
        Packet::PingResp => Packet::PingResp,
        Packet::Disconnect(disconnect) => {
            let known = sender == Role::Client && disconnect.reason == ReasonCode::NORMAL_DISCONNECTION;
            known.then_some(())?;
            Packet::Disconnect(Disconnect {
                reason: disconnect.reason,
                session_expiry_s: None,
                reason_string: None,
                server_reference: None,
                user_properties: Vec::new(),
            })
        }
        Packet::Auth(_) => return None,
    })
}

/// A CONNECT of an older version without the properties.
fn connect_of_its_version(connect: Connect) -> Connect {
    if connect.version == ProtocolVersion::V5 {
        return connect;
    }
    let will =
        connect.will.map(|will| Will { delay_s: None, properties: PublishProperties::default(), ..will });
    Connect {
        will,
        session_expiry_s: None,
        receive_max: None,
        packet_bytes_max: None,
        topic_alias_max: None,
        request_response_information: None,
        request_problem_information: None,
        authentication_method: None,
        authentication_data: None,
        user_properties: Vec::new(),
        ..connect
    }
}

fn check(
    packet: &Packet,
    expected: &Packet,
    sender: Role,
    version: ProtocolVersion,
) -> Result<(), TestCaseError> {
    let limits = Limits::default();
    let mut bytes = BytesMut::from(&b"before"[..]);
    encode(packet, version, &mut bytes)
        .map_err(|error| TestCaseError::fail(format!("{error}: {packet:?}")))?;
    let bytes = bytes.split_off(b"before".len());
    prop_assert_eq!(encoded_len(packet, version), Ok(bytes.len()));
    for end in 0..bytes.len() {
        let mut prefix = BytesMut::from(&bytes[..end]);
        prop_assert_eq!(decode(&mut prefix, version, sender, &limits), Ok(None));
        prop_assert_eq!(prefix.len(), end);
    }
    let mut twice = BytesMut::from(&[&bytes[..], &bytes[..]].concat()[..]);
    for _ in 0..2 {
        prop_assert_eq!(decode(&mut twice, version, sender, &limits), Ok(Some(expected.clone())));
    }
    prop_assert!(twice.is_empty());
    if let Packet::Connect(connect) = expected {
        let mut first = bytes.clone();
        prop_assert_eq!(decode_first(&mut first, &limits), Ok(Some(connect.clone())));
    }
    Ok(())
}

fn check_all(packet: Packet, sender: Role) -> Result<(), TestCaseError> {
    let packet = match packet {
        Packet::Connect(connect) => Packet::Connect(Box::new(connect_of_its_version(*connect))),
        other => other,
    };
    check(&packet, &packet, sender, ProtocolVersion::V5)?;
    for version in [ProtocolVersion::V31, ProtocolVersion::V311] {
        match without_what_is_new(packet.clone(), sender, version) {
            Some(expected) => check(&packet, &expected, sender, version)?,
            None => prop_assert!(
                sender == Role::Server && matches!(packet, Packet::Disconnect(_))
                    || encode(&packet, version, &mut BytesMut::new()).is_err()
            ),
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn packet_of_a_client_survives_the_wire(packet in packet(Role::Client)) {
        check_all(packet, Role::Client)?;
    }

    #[test]
    fn packet_of_a_server_survives_the_wire(packet in packet(Role::Server)) {
        check_all(packet, Role::Server)?;
    }

    #[test]
    fn forwarded_properties_survive(properties in message_properties()) {
        let mut bytes = BytesMut::new();
        properties.encode_forwarded(&mut bytes).unwrap();
        let expected = PublishProperties { message_expiry_s: None, ..properties };
        prop_assert_eq!(PublishProperties::decode_forwarded(&bytes.freeze()), Ok(expected));
    }

    #[test]
    fn packet_that_was_fitted_is_within_the_limit(packet in packet(Role::Server), max in 2_u32..80) {
        let mut fitted = packet.clone();
        let fits = fit(&mut fitted, ProtocolVersion::V5, max).unwrap();
        let len = encoded_len(&fitted, ProtocolVersion::V5).unwrap();
        prop_assert_eq!(fits, len <= max as usize);
        let whole = encoded_len(&packet, ProtocolVersion::V5).unwrap();
        prop_assert!(fitted == packet || whole > max as usize, "nothing is dropped without need");
    }

    #[test]
    fn damaged_packet_never_panics_and_what_is_read_can_be_written(
        packet in packet(Role::Client),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        version in proptest::sample::select(&VERSIONS[..]),
    ) {
        let mut bytes = BytesMut::new();
        prop_assume!(encode(&packet, version, &mut bytes).is_ok());
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Some(read)) = decode(&mut bytes, version, Role::Client, &Limits::default()) {
            let mut again = BytesMut::new();
            prop_assert_eq!(encode(&read, version, &mut again), Ok(()));
            prop_assert_eq!(decode(&mut again, version, Role::Client, &Limits::default()), Ok(Some(read)));
        }
    }
}
