//! CONNECT to close.

use super::*;

/// What the CONNECT asks its node for, or the reason of the CONNACK that refuses it.
fn check_connect(config: ClientConfig, connect: Connect) -> Result<ClientRequest, ReasonCode> {
    ask(Harness::with(connect.version, config), connect)
}

fn ask(mut harness: Harness, connect: Connect) -> Result<ClientRequest, ReasonCode> {
    harness.send(Packet::Connect(Box::new(connect)));
    let mut requests = harness.requests();
    match harness.received().pop() {
        Some(Packet::ConnAck(connack)) => {
            assert!(requests.is_empty());
            assert!(harness.client.is_closed());
            Err(connack.reason)
        }
        None => Ok(requests.pop().unwrap()),
        Some(other) => panic!("{other:?}"),
    }
}

fn expiry_asked(connect: Connect) -> SessionExpiry {
    match check_connect(config(), connect) {
        Ok(ClientRequest::Connect(request)) => request.expiry,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connect_against_policy_is_refused() {
    use ProtocolVersion::{V5, V311};
    let invalid = ReasonCode::CLIENT_IDENTIFIER_NOT_VALID;
    let refusal = |config: ClientConfig, connect| check_connect(config, connect).unwrap_err();
    assert_eq!(refusal(config(), connect(V5, "a\u{1}b")), invalid);
    assert_eq!(refusal(config(), connect(V5, "a\u{85}b")), invalid);
    assert_eq!(refusal(config(), connect(V5, &"x".repeat(CLIENT_ID_BYTES_MAX + 1))), invalid);
    // [MQTT-3.1.3-8]
    let resume = Connect { clean_start: false, ..connect(V311, "") };
    assert_eq!(refusal(config(), resume), invalid);
    let closed = ClientConfig { anonymous_allowed: false, ..config() };
    assert_eq!(refusal(closed.clone(), connect(V5, "me")), ReasonCode::NOT_AUTHORIZED);
    let named = Connect { username: Some(Text::from_static("ann")), ..connect(V5, "me") };
    let Ok(ClientRequest::Connect(request)) = check_connect(closed, named) else { panic!() };
    assert_eq!(request.principal.as_str(), "ann");
}

#[test]
fn certificate_is_the_principal_whatever_user_name_comes() {
    let asked = |name: Option<&'static str>| {
        let mut harness =
            Harness::with(ProtocolVersion::V5, ClientConfig { anonymous_allowed: false, ..config() });
        harness.client = harness.client.acting_for(Principal::Certificate(name.map(Text::from_static)));
        let named =
            Connect { username: Some(Text::from_static("ann")), ..connect(ProtocolVersion::V5, "me") };
        ask(harness, named)
    };
    let Ok(ClientRequest::Connect(request)) = asked(Some("pump-7")) else { panic!() };
    assert_eq!(request.principal.as_str(), "pump-7");
    assert_eq!(asked(None).unwrap_err(), ReasonCode::NOT_AUTHORIZED, "no name: not the user name either");
}

#[test]
fn will_is_a_message_of_its_client() {
    let properties = PublishProperties { message_expiry_s: Some(9), ..PublishProperties::default() };
    let will = quorate_codec::Will {
        topic: topic("w"),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::ExactlyOnce,
        retain: true,
        delay_s: Some(4),
        properties,
    };
    let asked = Connect { will: Some(will), ..connect(ProtocolVersion::V5, "me") };
    let Ok(ClientRequest::Connect(request)) = check_connect(config(), asked) else { panic!() };
    let Will { delay_s, message } = request.will.unwrap();
    assert_eq!((delay_s, message.topic.as_str(), &message.payload[..]), (4, "w", &b"gone"[..]));
    assert_eq!((message.qos, message.retain, message.expiry_s), (QoS::ExactlyOnce, true, Some(9)));
    assert_eq!(message.publisher, client_hash("me"));
}

#[test]
fn closed_is_normal_only_after_disconnect_with_reason_0() {
    let closed = |packet: Option<Packet>| {
        let mut harness = Harness::transient();
        match packet {
            Some(packet) => harness.send(packet),
            None => harness.eof(),
        }
        match harness.requests().pop() {
            Some(ClientRequest::Closed { normal, .. }) => normal,
            other => panic!("{other:?}"),
        }
    };
    let disconnect = |reason| {
        Packet::Disconnect(quorate_codec::Disconnect {
            reason,
            session_expiry_s: None,
            reason_string: None,
            server_reference: None,
            user_properties: vec![],
        })
    };
    assert!(closed(Some(disconnect(ReasonCode::NORMAL_DISCONNECTION))));
    assert!(!closed(Some(disconnect(ReasonCode::DISCONNECT_WITH_WILL_MESSAGE))));
    assert!(!closed(Some(Packet::PingResp)), "a violation");
    assert!(!closed(None));
}

#[test]
fn connect_without_client_id_is_given_one() {
    // [MQTT-3.1.3-6]
    for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        let Ok(ClientRequest::Connect(request)) = check_connect(config(), connect(version, "")) else {
            panic!()
        };
        assert_eq!(request.client_id.as_str(), "auto-1-7-9");
    }
    // [MQTT-3.1.3-7] CONNACK tells which.
    let mut harness = Harness::new(ProtocolVersion::V5);
    harness.send(Packet::Connect(Box::new(connect(ProtocolVersion::V5, ""))));
    harness.event(connected(false, SessionExpiry::AtClose, vec![]));
    let packets = harness.received();
    let [Packet::ConnAck(connack)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(connack.properties.assigned_client_id, Some(Text::from_static("auto-1-7-9")));
}

#[test]
fn session_expiry_follows_version_and_cap() {
    use ProtocolVersion::{V5, V311};
    use SessionExpiry::{After, AtClose};
    let five = |session_expiry_s| Connect { session_expiry_s, ..connect(V5, "me") };
    assert_eq!(expiry_asked(five(None)), AtClose);
    assert_eq!(expiry_asked(five(Some(0))), AtClose);
    assert_eq!(expiry_asked(five(Some(60))), After(60));
    assert_eq!(expiry_asked(five(Some(4000))), After(3600));
    assert_eq!(expiry_asked(five(Some(u32::MAX))), After(3600));
    assert_eq!(expiry_asked(connect(V311, "me")), AtClose);
    assert_eq!(expiry_asked(Connect { clean_start: false, ..connect(V311, "me") }), After(3600));
    let uncapped = ClientConfig { session_expiry_max_s: u32::MAX, ..config() };
    let Ok(ClientRequest::Connect(request)) = check_connect(uncapped, five(Some(u32::MAX))) else { panic!() };
    assert_eq!(request.expiry, SessionExpiry::Never);
}

#[test]
fn receive_maximum_is_capped() {
    let asked = |receive_max: Option<u16>| {
        let receive_max = receive_max.and_then(PacketId::new);
        match check_connect(config(), Connect { receive_max, ..connect(ProtocolVersion::V5, "me") }) {
            Ok(ClientRequest::Connect(request)) => request.receive_max,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((asked(None), asked(Some(2)), asked(Some(100))), (3, 2, 3));
}

#[test]
fn connect_while_fenced_is_refused_at_once() {
    let mut harness = Harness::new(ProtocolVersion::V5);
    harness.lose_lease();
    harness.send(Packet::Connect(Box::new(connect(ProtocolVersion::V5, "me"))));
    let packets = harness.received();
    let [Packet::ConnAck(connack)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(connack.reason, ReasonCode::SERVER_UNAVAILABLE);
    assert!(harness.client.is_closed());
    assert!(harness.requests().is_empty());
}

#[test]
fn connect_to_a_node_that_is_taken_out_of_service_is_refused() {
    for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        let mut harness = Harness::new(version);
        harness.draining = true;
        harness.send(Packet::Connect(Box::new(connect(version, "me"))));
        assert!(harness.requests().is_empty());
        let packets = harness.received();
        let [Packet::ConnAck(refused)] = &packets[..] else { panic!("{packets:?}") };
        assert_eq!(refused.reason, ReasonCode::SERVER_UNAVAILABLE);
        assert!(harness.client.is_closed());
    }
}

#[test]
fn client_that_has_to_go_is_told_where_to() {
    let reference = Text::from_static("n1:1883 n3:1883");
    let mut harness = Harness::new(ProtocolVersion::V5);
    harness.draining = true;
    harness.client.refer_to(Some(reference.clone()));
    harness.send(Packet::Connect(Box::new(connect(ProtocolVersion::V5, "me"))));
    let packets = harness.received();
    let [Packet::ConnAck(refused)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(refused.reason, ReasonCode::USE_ANOTHER_SERVER);
    assert_eq!(refused.properties.server_reference.as_ref(), Some(&reference));
    assert!(harness.client.is_closed());

    let mut harness = Harness::new(ProtocolVersion::V5);
    harness.open(connect(ProtocolVersion::V5, "me"), false, SessionExpiry::AtClose, Vec::new());
    harness.client.refer_to(Some(reference.clone()));
    harness.event(ClientEvent::Close(ReasonCode::USE_ANOTHER_SERVER));
    let packets = harness.received();
    let [Packet::Disconnect(told)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(
        (told.reason, told.server_reference.as_ref()),
        (ReasonCode::USE_ANOTHER_SERVER, Some(&reference))
    );

    let mut harness = Harness::new(ProtocolVersion::V311);
    harness.draining = true;
    harness.client.refer_to(Some(reference));
    harness.send(Packet::Connect(Box::new(connect(ProtocolVersion::V311, "me"))));
    let packets = harness.received();
    let [Packet::ConnAck(refused)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(refused.reason, ReasonCode::SERVER_UNAVAILABLE);
}

#[test]
fn connack_is_withheld_until_the_lease_is_back() {
    let mut harness = Harness::new(ProtocolVersion::V5);
    let asked = Connect { session_expiry_s: Some(60), ..connect(ProtocolVersion::V5, "me") };
    harness.send(Packet::Connect(Box::new(asked)));
    harness.lose_lease();
    harness.event(connected(true, SessionExpiry::After(60), vec![]));
    harness.event(ClientEvent::Deliver(session_delivery(1, "first")));
    assert_eq!(harness.received(), []);
    assert!(harness.client.poll_timeout().is_some_and(|time| time <= harness.now + RETRY_AFTER));
    harness.regain_lease();
    harness.timeout();
    let packets = harness.received();
    let [Packet::ConnAck(connack), Packet::Publish(publish)] = &packets[..] else { panic!("{packets:?}") };
    assert!(connack.session_present);
    assert_eq!(&publish.payload[..], b"first");
}

#[test]
fn incarnation_that_was_declared_dead_never_acknowledges_again() {
    let mut harness = Harness::transient();
    harness.send(publish_1("a", 1));
    assert_eq!(harness.pubacks().len(), 1);
    harness.incarnation = Incarnation(8);
    harness.send(publish_1("a", 2));
    harness.send(subscribe(3, &[("a", ONE)]));
    harness.event(ClientEvent::Subscribed {
        packet_id: Durable::committed(id(3)),
        reasons: vec![ReasonCode::GRANTED_QOS_1],
    });
    harness.timeout();
    assert_eq!(harness.received(), []);
}

#[test]
fn resumed_session_brings_its_subscriptions_back() {
    let subscription = SubscribeFilter { filter: filter("a/+"), options: options(ZERO), identifier: Some(4) };
    let mut harness = Harness::new(ProtocolVersion::V5);
    let asked =
        Connect { session_expiry_s: Some(60), clean_start: false, ..connect(ProtocolVersion::V5, "me") };
    harness.open(asked, true, SessionExpiry::After(60), vec![subscription]);
    let mut deliveries = Vec::new();
    let message = Arc::new(DirectMessage { message: message("a/b", ONE, "x") });
    harness.routing.forwarded_deliveries(NodeId(9), &message, &mut deliveries);
    let [(conn, delivery)] = &deliveries[..] else { panic!("{deliveries:?}") };
    assert_eq!((*conn, delivery.qos, &delivery.identifiers[..]), (OWNER.conn, ZERO, &[4][..]));
}

#[test]
fn resumed_session_that_now_ends_at_close_stays_with_its_partition() {
    let mut harness = Harness::new(ProtocolVersion::V5);
    let subscription = SubscribeFilter { filter: filter("a"), options: options(ONE), identifier: None };
    let asked = Connect { clean_start: false, ..connect(ProtocolVersion::V5, "me") };
    harness.open(asked, true, SessionExpiry::AtClose, vec![subscription]);
    let mut deliveries = Vec::new();
    let message = Arc::new(DirectMessage { message: message("a", ONE, "x") });
    harness.routing.forwarded_deliveries(NodeId(9), &message, &mut deliveries);
    assert!(deliveries.is_empty());
}

#[test]
fn refused_connect_gets_the_reason_and_one_closed() {
    let mut harness = Harness::new(ProtocolVersion::V5);
    harness.send(Packet::Connect(Box::new(connect(ProtocolVersion::V5, "me"))));
    harness.requests();
    harness.event(ClientEvent::Refused(ReasonCode::QUOTA_EXCEEDED));
    let packets = harness.received();
    let [Packet::ConnAck(connack)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(connack.reason, ReasonCode::QUOTA_EXCEEDED);
    assert!(matches!(harness.requests()[..], [ClientRequest::Closed { expiry: None, .. }]));
    harness.eof();
    assert!(harness.requests().is_empty());
}

#[test]
fn close_ends_everything_once_and_nothing_is_acknowledged_after_it() {
    let mut harness = Harness::durable();
    harness.routing.route_changed(&filter("a"), RouteTarget::Partition(GroupId(2)), true);
    harness.send(subscribe(1, &[("b", ONE)]));
    harness.send(publish_1("a", 2));
    harness.requests();
    harness.event(ClientEvent::Close(ReasonCode::SESSION_TAKEN_OVER));
    assert!(matches!(harness.requests()[..], [ClientRequest::Closed { expiry: None, .. }]));
    assert_eq!(harness.routing.local_subscriptions(), 0);
    let packets = harness.received();
    let [Packet::Disconnect(disconnect)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(disconnect.reason, ReasonCode::SESSION_TAKEN_OVER);
    assert!(harness.client.is_closed());

    harness.applied(1);
    let packet_id = Durable::committed(id(1));
    harness.event(ClientEvent::Subscribed { packet_id, reasons: vec![ReasonCode::GRANTED_QOS_1] });
    harness.event(ClientEvent::Deliver(session_delivery(1, "x")));
    harness.event(ClientEvent::Close(ReasonCode::SESSION_TAKEN_OVER));
    harness.send(publish_1("a", 3));
    harness.timeout();
    harness.eof();
    assert!(harness.requests().is_empty());
    assert_eq!(harness.received(), []);
}

#[test]
fn every_way_to_end_asks_closed_once() {
    let disconnect = |session_expiry_s| {
        let reason = ReasonCode::NORMAL_DISCONNECTION;
        let [reason_string, server_reference] = [None, None];
        let user_properties = vec![];
        Packet::Disconnect(quorate_codec::Disconnect {
            reason,
            session_expiry_s,
            reason_string,
            server_reference,
            user_properties,
        })
    };
    type End = Box<dyn Fn(&mut Harness)>;
    let ends: [(End, Option<SessionExpiry>); 5] = [
        (Box::new(Harness::eof), None),
        (Box::new(move |harness| harness.send(disconnect(None))), None),
        (Box::new(move |harness| harness.send(disconnect(Some(5)))), Some(SessionExpiry::After(5))),
        (Box::new(move |harness| harness.send(disconnect(Some(9999)))), Some(SessionExpiry::After(3600))),
        // [MQTT-3.1.0-2] a second CONNECT is a protocol error.
        (
            Box::new(|harness| harness.send(Packet::Connect(Box::new(connect(ProtocolVersion::V5, "me"))))),
            None,
        ),
    ];
    for (number, (end, expected)) in ends.into_iter().enumerate() {
        let mut harness = Harness::durable();
        harness.send(subscribe(1, &[("b", ONE)]));
        harness.requests();
        end(&mut harness);
        harness.eof();
        let requests = harness.requests();
        let [ClientRequest::Closed { expiry, .. }] = &requests[..] else { panic!("{number}: {requests:?}") };
        assert_eq!(*expiry, expected, "{number}");
        assert_eq!(harness.routing.local_subscriptions(), 0, "{number}");
        assert!(harness.client.is_closed(), "{number}");
    }
}

/// Packets, events of the node, and a lease that comes and goes, in any order: `Closed` is asked exactly once and last,
/// nothing that promises something is sent while fenced, nothing at all after the end, and no subscription stays behind.
#[test]
fn random_lives_of_a_connection_end_once_and_promise_nothing_while_fenced() {
    for seed in 0..200 {
        let mut below = random(seed);
        let mut harness = if below(2) == 0 { Harness::transient() } else { Harness::durable() };
        harness.routing.route_changed(&filter("a"), RouteTarget::Partition(GroupId(2)), true);
        let (mut closed, mut sent) = (0, 0_u16);
        let mut owed: Vec<ClientEvent> = Vec::new();
        for step in 0..60 {
            let fenced = harness.now >= harness.lease_until;
            let over = harness.client.is_closed();
            sent += 1;
            match below(16) {
                0..2 => harness.send(publish_1("a", sent)),
                2 => harness.send(publish_1("b", sent)),
                3..5 => harness.send(subscribe(sent, &[("a", ONE), ("c/+", ZERO), ("$share/g/x", ONE)])),
                5 => {
                    let filters = vec![filter("a")];
                    let packet_id = id(sent);
                    harness.send(Packet::Unsubscribe(Unsubscribe {
                        packet_id,
                        user_properties: vec![],
                        filters,
                    }));
                }
                6 => harness.lose_lease(),
                7 => harness.regain_lease(),
                8 => harness.timeout(),
                9 => harness.direct(delivery(ZERO, "0")),
                10 if below(8) == 0 => harness.event(ClientEvent::Close(ReasonCode::SESSION_TAKEN_OVER)),
                10 if below(8) == 0 => harness.eof(),
                _ if !owed.is_empty() => {
                    let event = owed.remove(0);
                    harness.event(event);
                }
                _ => {}
            }
            for request in harness.requests() {
                assert_eq!(closed, 0, "seed {seed} step {step}: {request:?} after Closed");
                match request {
                    ClientRequest::Publish { number, .. } => {
                        let number = Durable::committed(number);
                        owed.push(ClientEvent::PublishApplied { number, outcome: PublishOutcome::Applied });
                    }
                    ClientRequest::Subscribe { packet_id, filters } => {
                        let reasons = vec![ReasonCode::GRANTED_QOS_1; filters.len()];
                        owed.push(ClientEvent::Subscribed {
                            packet_id: Durable::committed(packet_id),
                            reasons,
                        });
                    }
                    ClientRequest::Unsubscribe { packet_id, .. } => {
                        let packet_id = Durable::committed(packet_id);
                        owed.push(ClientEvent::Unsubscribed { packet_id, existed: vec![true] });
                    }
                    ClientRequest::Closed { .. } => closed += 1,
                    other => panic!("{other:?}"),
                }
            }
            let received = harness.received();
            assert!(!over || received.is_empty(), "seed {seed} step {step}: {received:?}");
            let promises = |packet: &Packet| {
                matches!(
                    packet,
                    Packet::PubAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::ConnAck(_)
                )
            };
            let still_fenced = fenced && harness.now >= harness.lease_until;
            assert!(!still_fenced || !received.iter().any(promises), "seed {seed} step {step}: {received:?}");
        }
        harness.eof();
        // Publishes that were held may go out before the end, if the lease is back.
        let last = harness.requests();
        let ends = |request: &ClientRequest| matches!(request, ClientRequest::Closed { .. });
        assert!(last.last().is_none_or(ends), "seed {seed}: {last:?}");
        closed += last.iter().filter(|request| ends(request)).count();
        assert_eq!(closed, 1, "seed {seed}");
        assert_eq!(harness.routing.local_subscriptions(), 0, "seed {seed}");
    }
}
