//! Chapter 3.1: CONNECT, without wills, which are in `section3_01_will`.
//!
//! Spec: MQTT 5, 3.1; MQTT 3.1.1, 3.1.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only4, only5, only31};
use crate::decode::Packet;
use crate::packet::{Connect, Publish, packet, subscribe};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    both(
        "first_packet_other_than_connect_closes",
        &["3.1.0-1", "3.14.0-1"],
        &["3.1.0-1", "3.2.0-1"],
        first_packet,
    ),
    both("second_connect_closes", &["3.1.0-2"], &["3.1.0-2", "4.8.0-1"], second_connect),
    both("unknown_protocol_name_closes", &["3.1.2-1"], &["3.1.2-1"], unknown_protocol_name),
    both("unknown_protocol_level_is_refused", &["3.1.2-2"], &["3.1.2-2"], unknown_protocol_level),
    both("reserved_connect_flag_is_malformed", &["3.1.2-3"], &["3.1.2-3"], reserved_connect_flag),
    both(
        "clean_start_discards_the_session",
        &["3.1.2-4", "3.1.4-4", "3.2.2-2"],
        &["3.1.2-6", "3.1.4-3", "3.2.2-1"],
        clean_start_discards,
    ),
    both(
        "session_is_resumed",
        &["3.1.2-5", "3.1.2-23", "3.2.2-3", "4.1.0-1"],
        &["3.1.2-4", "3.1.2-5", "3.2.2-2", "4.1.0-1"],
        session_is_resumed,
    ),
    both(
        "session_is_made_when_there_is_none",
        &["3.1.2-6", "3.2.2-3"],
        &["3.1.2-4", "3.2.2-3"],
        session_is_made,
    ),
    only4("clean_session_ends_with_its_connection", &["3.1.2-6"], clean_session_ends),
    only5("session_without_expiry_ends_with_its_connection", &["4.1.0-2"], session_without_expiry_ends),
    only5("session_ends_when_its_expiry_has_passed", &["4.1.0-2"], session_expires).alone(),
    only5("expiry_of_the_last_connect_counts", &["4.1.0-2"], expiry_of_the_last_connect),
    only5("session_without_end_is_kept_or_bounded_openly", &[], session_without_end),
    both("retained_message_outlives_its_session", &[], &["3.1.2.7"], retained_outlives),
    both(
        "user_name_flag_and_field_agree",
        &["3.1.2-16", "3.1.2-17", "3.1.4-1"],
        &["3.1.2-18", "3.1.2-19", "3.1.4-1"],
        user_name_flag,
    ),
    both(
        "password_flag_and_field_agree",
        &["3.1.2-18", "3.1.2-19", "3.1.4-1"],
        &["3.1.2-20", "3.1.2-21", "3.1.4-1"],
        password_flag,
    ),
    only4(
        "password_without_user_name_is_malformed",
        &["3.1.2-22", "3.1.4-1"],
        password_without_user_name_closes,
    ),
    only5("password_without_user_name_is_accepted", &[], password_without_user_name_is_accepted),
    both("credentials_are_accepted_without_authentication", &[], &[], credentials_are_accepted),
    both(
        "silence_of_one_and_a_half_keep_alive_closes",
        &["3.1.2-22", "3.2.2-22"],
        &["3.1.2-24"],
        silence_closes,
    ),
    both("any_packet_keeps_alive", &[], &[], any_packet_keeps_alive),
    both("keep_alive_0_never_closes", &[], &[], keep_alive_0),
    only5("server_keep_alive_is_told_when_it_is_another", &[], server_keep_alive),
    only5("packets_above_the_clients_maximum_are_not_sent", &["3.1.2-24", "3.1.2-25"], maximum_packet_size),
    only5("maximum_packet_size_0_is_a_protocol_error", &[], maximum_packet_size_0),
    only5("receive_maximum_0_is_a_protocol_error", &[], receive_maximum_0),
    only5("no_alias_above_the_clients_maximum", &["3.1.2-26", "3.3.2-11"], outbound_aliases),
    only5("no_alias_without_a_maximum", &["3.1.2-27"], no_outbound_alias),
    only5("no_response_information_unless_asked_for", &["3.1.2-28"], no_response_information),
    only5("request_information_is_0_or_1", &[], request_information_is_a_flag),
    only5("no_explanations_without_problem_information", &["3.1.2-29"], no_explanations),
    both("payload_fields_have_their_order", &["3.1.3-1", "3.1.4-1"], &["3.1.3-1", "3.1.2-9"], payload_order),
    both(
        "client_identifier_names_the_session",
        &["3.1.3-2"],
        &["3.1.3-2"],
        client_identifier_names_the_session,
    ),
    both("client_identifier_is_there", &["3.1.3-3"], &["3.1.3-3"], client_identifier_is_there),
    both("client_identifier_is_a_string", &["3.1.3-4"], &["3.1.3-4"], client_identifier_is_a_string),
    both(
        "client_identifiers_of_letters_and_digits",
        &["3.1.3-5"],
        &["3.1.3-5"],
        client_identifier_characters,
    ),
    both("client_identifiers_of_other_characters", &[], &[], client_identifier_other_characters),
    both(
        "empty_client_identifier_gets_a_unique_one",
        &["3.1.3-6", "3.1.3-7", "3.2.2-16"],
        &["3.1.3-6"],
        empty_client_identifier,
    ),
    only5("assigned_identifier_names_the_session", &["3.1.3-7", "3.2.2-16"], assigned_identifier),
    only4(
        "empty_client_identifier_without_clean_session",
        &["3.1.3-7", "3.1.3-8", "3.1.3-9", "3.2.2-4", "3.2.2-5"],
        empty_without_clean,
    ),
    both(
        "refused_client_identifier_closes",
        &["3.1.3-8", "3.1.4-2", "3.2.2-6", "3.2.2-7", "4.13.2-1"],
        &["3.1.3-9", "3.2.2-4", "3.2.2-5"],
        refused_client_identifier,
    ),
    only5("connection_without_connect_is_closed", &[], without_connect),
    both("user_name_is_a_string", &["3.1.3-12"], &["3.1.3-11"], user_name_is_a_string),
    both(
        "connect_of_another_format_closes",
        &["3.1.4-1", "4.13.1-1"],
        &["3.1.4-1", "3.2.2-6"],
        another_format,
    ),
    both("takeover_closes_the_older_connection", &["3.1.4-3"], &["3.1.4-2"], takeover),
    both(
        "takeover_keeps_the_session",
        &["3.1.4-3", "3.1.4-4"],
        &["3.1.4-2", "3.1.4-3"],
        takeover_keeps_the_session,
    ),
    both(
        "nothing_behind_a_refused_connect_is_processed",
        &["3.1.4-6"],
        &["3.1.4-5"],
        nothing_behind_a_refused_connect,
    ),
    both("packets_behind_connect_need_not_wait", &["3.1.4-5"], &["3.1.4-4"], packets_need_not_wait),
    only31("mqtt_3_1_client_publishes_and_subscribes", mqtt_3_1),
    only31("mqtt_3_1_client_resumes", mqtt_3_1_resumes),
    only31("mqtt_3_1_needs_a_client_identifier", mqtt_3_1_identifier),
    only31("mqtt_3_1_other_level_is_refused", mqtt_3_1_level),
];

fn first_packet(cx: &Cx) -> Result<()> {
    for bytes in [
        Publish::new("t", "x").encode(cx.version),
        subscribe(cx.version, 1, &[], &[("a", 0)]),
        vec![0xc0, 0],
        vec![0xe0, 0],
        vec![0xf0, 0],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut connection = cx.open("first")?;
        connection.send(&bytes)?;
        connection.closed()?;
    }
    Ok(())
}

fn second_connect(cx: &Cx) -> Result<()> {
    cx.fails(&cx.hello("bad").encode(), &[0x82])
}

fn unknown_protocol_name(cx: &Cx) -> Result<()> {
    for name in ["mqtt", "MQTT2", "MQT", "", "MQIsdP"] {
        let mut connection = cx.open("client")?;
        connection.send(&Connect { name: name.into(), ..cx.hello("a") }.encode())?;
        // It may be told that this is MQTT; whatever it is told, it is closed and was not accepted.
        match connection.read()? {
            None => {}
            Some(Packet::Connack(connack)) if connack.code == if cx.is_v5() { 0x84 } else { 1 } => {
                connection.closed()?;
            }
            other => anyhow::bail!("{name}: {other:?}"),
        }
    }
    Ok(())
}

fn unknown_protocol_level(cx: &Cx) -> Result<()> {
    for level in [0, 1, 2, 3, 6, 127, 255] {
        let mut connection = cx.open("client")?;
        connection.send(&Connect { level, ..cx.hello("a") }.encode())?;
        // Levels before 3.1.1 get its return code; for a later one the newest answer may be meant.
        let mut bytes = Vec::new();
        connection.raw_until_closed(&mut bytes)?;
        let as_v4 = bytes == [0x20, 2, 0, 1];
        let as_v5 = bytes.first() == Some(&0x20) && bytes.get(2..4) == Some(&[0, 0x84]);
        let right = as_v4 || (level > 5 && as_v5) || (cx.is_v5() && bytes.is_empty());
        ensure!(right, "level {level}: {bytes:02x?}");
    }
    Ok(())
}

fn reserved_connect_flag(cx: &Cx) -> Result<()> {
    let connect = cx.hello("a");
    cx.refused(&Connect { flags: Some(connect.natural_flags() | 1), ..connect }, None, &[0x81])
}

fn clean_start_discards(cx: &Cx) -> Result<()> {
    let mut client = cx.durable("client")?;
    client.subscribe(&cx.topic("t"), 1)?;
    client.disconnect()?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "old", 1)?;
    let (mut client, connack) = cx.connect_with(&cx.hello("client"))?;
    ensure!(!connack.present, "Session Present after Clean Start");
    // Neither the queued message nor the subscription is left: the marker comes alone.
    publisher.publish_new(&cx.topic("t"), "new", 1)?;
    client.subscribe(&cx.topic("marker"), 1)?;
    publisher.publish_new(&cx.topic("marker"), "", 1)?;
    client.take_this(&cx.topic("marker"), "")?;
    Ok(())
}

fn session_is_resumed(cx: &Cx) -> Result<()> {
    let mut client = cx.durable("client")?;
    client.subscribe_all(&[(&cx.topic("a"), 1), (&cx.topic("b/+"), 1)])?;
    client.abort()?;
    let mut publisher = cx.connect("pub")?;
    for n in 0..5_u8 {
        publisher.publish_new(&cx.topic(if n % 2 == 0 { "a" } else { "b/x" }), [n], 1)?;
    }
    let mut client = cx.resume("client")?;
    for n in 0..5_u8 {
        client.take_this(&cx.topic(if n % 2 == 0 { "a" } else { "b/x" }), [n])?;
    }
    publisher.publish_new(&cx.topic("b/y"), "live", 1)?;
    client.take_this(&cx.topic("b/y"), "live")?;
    client.settle()?;
    client.disconnect()?;
    // Once more: what was acknowledged does not come again.
    let mut client = cx.resume("client")?;
    publisher.publish_new(&cx.topic("a"), "last", 1)?;
    client.take_this(&cx.topic("a"), "last")?;
    Ok(())
}

fn session_is_made(cx: &Cx) -> Result<()> {
    let (_, connack) = cx.connect_with(&cx.hello("client").durable())?;
    ensure!(!connack.present, "Session Present of a new session");
    Ok(())
}

fn clean_session_ends(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.subscribe(&cx.topic("t"), 1)?;
    client.disconnect()?;
    let (_, connack) = cx.connect_with(&cx.hello("client").resume())?;
    ensure!(!connack.present, "a clean session was used again");
    Ok(())
}

fn session_without_expiry_ends(cx: &Cx) -> Result<()> {
    // No Session Expiry Interval is 0 [3.1.2.11.2].
    for connect in [cx.hello("client").resume(), cx.hello("client").resume().property(p::session_expiry(0))] {
        let (mut client, connack) = cx.connect_with(&connect)?;
        ensure!(!connack.present, "a session without expiry was kept");
        client.subscribe(&cx.topic("t"), 1)?;
        client.disconnect()?;
        let (client, connack) = cx.connect_with(&connect)?;
        ensure!(!connack.present, "a session without expiry was kept");
        client.abort()?;
    }
    Ok(())
}

fn session_expires(cx: &Cx) -> Result<()> {
    let connect = cx.hello("client").resume().property(p::session_expiry(1));
    let (mut client, _) = cx.connect_with(&connect)?;
    client.subscribe(&cx.topic("t"), 1)?;
    // It does not run while the connection is there.
    cx.lapse(Duration::from_millis(1500));
    client.ping()?;
    client.disconnect()?;
    let (client, connack) = cx.connect_with(&connect)?;
    ensure!(connack.present, "the session is gone before its expiry");
    client.disconnect()?;
    cx.lapse(Duration::from_millis(2500));
    let (_, connack) = cx.connect_with(&connect)?;
    ensure!(!connack.present, "the session is there after its expiry");
    Ok(())
}

fn expiry_of_the_last_connect(cx: &Cx) -> Result<()> {
    cx.durable("client")?.disconnect()?;
    let (client, connack) = cx.connect_with(&cx.hello("client").resume())?;
    ensure!(connack.present, "Session Present");
    // This one asked for 0.
    client.disconnect()?;
    let (_, connack) = cx.connect_with(&cx.hello("client").durable())?;
    ensure!(!connack.present, "the expiry of the first connection was used");
    Ok(())
}

fn session_without_end(cx: &Cx) -> Result<()> {
    let (_, connack) = cx.connect_with(&cx.hello("client").resume().property(p::session_expiry(u32::MAX)))?;
    // A server that keeps it for less says so [3.2.2.3.2].
    let granted = connack.properties.number(p::SESSION_EXPIRY);
    ensure!(granted.is_none_or(|seconds| seconds >= 3600), "{granted:?}");
    Ok(())
}

fn retained_outlives(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.retain(&cx.topic("t"), "kept", 1)?;
    publisher.disconnect()?;
    cx.connect("pub")?.abort()?;
    let mut subscriber = cx.connect("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    ensure!(subscriber.take_this(&cx.topic("t"), "kept")?.retain, "RETAIN");
    Ok(())
}

fn with_flags(connect: Connect, set: u8, clear: u8) -> Connect {
    Connect { flags: Some((connect.natural_flags() | set) & !clear), ..connect }
}

fn user_name_flag(cx: &Cx) -> Result<()> {
    let named = Connect { user: Some(b"user".to_vec()), ..cx.hello("a") };
    cx.refused(&with_flags(named, 0, 0x80), None, &[0x81])?;
    cx.refused(&with_flags(cx.hello("a"), 0x80, 0), None, &[0x81])
}

fn password_flag(cx: &Cx) -> Result<()> {
    let named = Connect { user: Some(b"user".to_vec()), ..cx.hello("a") };
    let both = Connect { password: Some(b"secret".to_vec()), ..named.clone() };
    cx.refused(&with_flags(both, 0, 0x40), None, &[0x81])?;
    cx.refused(&with_flags(named, 0x40, 0), None, &[0x81])
}

fn password_without_user_name_closes(cx: &Cx) -> Result<()> {
    cx.refused(&Connect { password: Some(b"secret".to_vec()), ..cx.hello("a") }, None, &[])
}

fn password_without_user_name_is_accepted(cx: &Cx) -> Result<()> {
    cx.connect_with(&Connect { password: Some(b"secret".to_vec()), ..cx.hello("a") })?;
    Ok(())
}

fn credentials_are_accepted(cx: &Cx) -> Result<()> {
    let user = Some(b"user".to_vec());
    cx.connect_with(&Connect { user: user.clone(), ..cx.hello("a") })?;
    cx.connect_with(&Connect { user, password: Some(vec![0, 0xff, 0x80]), ..cx.hello("b") })?;
    cx.connect_with(&Connect { user: Some(Vec::new()), password: Some(Vec::new()), ..cx.hello("c") })?;
    Ok(())
}

fn silence_closes(cx: &Cx) -> Result<()> {
    let (mut client, connack) = cx.connect_with(&cx.hello("client").keep_alive(1))?;
    ensure!(!connack.properties.has(p::SERVER_KEEP_ALIVE), "another Keep Alive was told");
    let start = Instant::now();
    client.fails(&[0x8d])?;
    let silence = start.elapsed();
    // Not before the client's own second is over; that it ends at all is the deadline of the case.
    ensure!(silence > Duration::from_secs(1), "closed after {silence:?}");
    Ok(())
}

fn any_packet_keeps_alive(cx: &Cx) -> Result<()> {
    let (mut client, _) = cx.connect_with(&cx.hello("client").keep_alive(1))?;
    for round in 0..4 {
        cx.lapse(Duration::from_millis(700));
        if round % 2 == 0 { client.publish_new(&cx.topic("t"), "", 0)? } else { client.ping()? }
    }
    client.ping()
}

fn keep_alive_0(cx: &Cx) -> Result<()> {
    let (mut client, _) = cx.connect_with(&cx.hello("client").keep_alive(0))?;
    cx.lapse(Duration::from_millis(2000));
    client.ping()
}

fn server_keep_alive(cx: &Cx) -> Result<()> {
    let (_, connack) = cx.connect_with(&cx.hello("client").keep_alive(65_535))?;
    let told = connack.properties.number(p::SERVER_KEEP_ALIVE);
    ensure!(told.is_none_or(|seconds| seconds < 65_535), "{told:?}");
    let (_, connack) = cx.connect_with(&cx.hello("client").keep_alive(10))?;
    ensure!(connack.properties.number(p::SERVER_KEEP_ALIVE).is_none(), "10 s were changed");
    Ok(())
}

fn maximum_packet_size(cx: &Cx) -> Result<()> {
    // The connection itself checks that nothing larger comes.
    let topic = cx.topic("t");
    let connect = cx.hello("sub").durable().property(p::four(p::MAX_PACKET_SIZE, 100));
    let (mut subscriber, _) = cx.connect_with(&connect)?;
    let mut publisher = cx.connect("pub")?;
    subscriber.subscribe(&topic, 1)?;
    for qos in [0, 1] {
        publisher.publish_new(&topic, [7; 200], qos)?;
        publisher.publish_new(&topic, "small", qos)?;
        subscriber.take_this(&topic, "small")?;
    }
    // Counted as sent: it does not come on a later connection that would take it.
    subscriber.settle()?;
    subscriber.disconnect()?;
    let mut subscriber = cx.resume("sub")?;
    publisher.publish_new(&topic, "last", 1)?;
    subscriber.take_this(&topic, "last")?;
    subscriber.settle()?;
    // One that fits exactly: header 2, topic 2 and its bytes, identifier 2, properties 1.
    let (mut subscriber, _) = cx.connect_with(&connect)?;
    let fits = vec![7; 100 - 2 - 2 - topic.len() - 2 - 1];
    publisher.publish_new(&topic, &fits, 1)?;
    subscriber.take_this(&topic, &fits)?;
    publisher.publish_new(&topic, [&fits[..], &[7]].concat(), 1)?;
    publisher.publish_new(&topic, "last", 1)?;
    subscriber.take_this(&topic, "last")?;
    Ok(())
}

fn maximum_packet_size_0(cx: &Cx) -> Result<()> {
    cx.refused(&cx.hello("a").property(p::four(p::MAX_PACKET_SIZE, 0)), None, &[0x82])
}

fn receive_maximum_0(cx: &Cx) -> Result<()> {
    cx.refused(&cx.hello("a").property(p::two(p::RECEIVE_MAX, 0)), None, &[0x82])
}

fn outbound_aliases(cx: &Cx) -> Result<()> {
    // The connection checks each alias, and resolves it.
    let (mut subscriber, _) = cx.connect_with(&cx.hello("sub").property(p::two(p::TOPIC_ALIAS_MAX, 2)))?;
    let mut publisher = cx.connect("pub")?;
    subscriber.subscribe(&cx.topic("#"), 1)?;
    for round in 0..3_u8 {
        for topic in ["one", "two", "three", "four"] {
            publisher.publish_new(&cx.topic(topic), [round], 1)?;
            subscriber.take_this(&cx.topic(topic), [round])?;
        }
    }
    Ok(())
}

fn no_outbound_alias(cx: &Cx) -> Result<()> {
    for connect in [cx.hello("sub"), cx.hello("sub").property(p::two(p::TOPIC_ALIAS_MAX, 0))] {
        let (mut subscriber, _) = cx.connect_with(&connect)?;
        let mut publisher = cx.connect("pub")?;
        subscriber.subscribe(&cx.topic("#"), 1)?;
        for round in 0..3_u8 {
            publisher.publish_new(&cx.topic("a/long/name/that/an/alias/would/shorten"), [round], 1)?;
            let message = subscriber.take()?;
            ensure!(!message.properties.has(p::TOPIC_ALIAS), "{message:?}");
        }
    }
    Ok(())
}

fn no_response_information(cx: &Cx) -> Result<()> {
    for connect in [cx.hello("a"), cx.hello("a").property(p::byte(p::REQUEST_RESPONSE, 0))] {
        let (_, connack) = cx.connect_with(&connect)?;
        ensure!(!connack.properties.has(p::RESPONSE_INFORMATION), "{connack:?}");
    }
    // Asked for, it may come or not.
    cx.connect_with(&cx.hello("a").property(p::byte(p::REQUEST_RESPONSE, 1)))?;
    Ok(())
}

fn request_information_is_a_flag(cx: &Cx) -> Result<()> {
    cx.refused(&cx.hello("a").property(p::byte(p::REQUEST_RESPONSE, 2)), None, &[0x82])?;
    cx.refused(&cx.hello("a").property(p::byte(p::REQUEST_PROBLEM, 2)), None, &[0x82])
}

fn no_explanations(cx: &Cx) -> Result<()> {
    let (mut client, _) = cx.connect_with(&cx.hello("a").property(p::byte(p::REQUEST_PROBLEM, 0)))?;
    let bare = |packet: Packet| -> Result<()> {
        let (Packet::Ack(.., properties) | Packet::Suback(.., properties) | Packet::Unsuback(.., properties)) =
            &packet
        else {
            anyhow::bail!("{packet:?}")
        };
        ensure!(properties.0.is_empty(), "explained without being asked: {packet:?}");
        Ok(())
    };
    // Each of them with something to explain: nobody subscribes, a filter that may not be, none to unsubscribe.
    client.send_publish(&Publish::new(&cx.topic("nobody"), "x").qos(1, 1))?;
    bare(client.packet()?)?;
    client.send(&subscribe(cx.version, 2, &[], &[("$share/name/filter", 1), (&cx.topic("t"), 2)]))?;
    bare(client.packet()?)?;
    client.send(&crate::packet::unsubscribe(cx.version, 3, &[&cx.topic("none")]))?;
    bare(client.packet()?)?;
    client.send_publish(&Publish::new(&cx.topic("t"), "x").retain().qos(1, 4))?;
    while !matches!(client.packet()?, Packet::Ack(_, 4, ..)) {}
    Ok(())
}

fn payload_order(cx: &Cx) -> Result<()> {
    let will = crate::packet::Will::new(&cx.topic("will"), b"gone").qos(1);
    let full = Connect {
        user: Some(b"user".to_vec()),
        password: Some(b"secret".to_vec()),
        ..cx.hello("a").will(will)
    };
    cx.connect_with(&full)?;
    // The will behind the user name: what is taken for it is no topic name.
    let mut body = full.encode()[2..].to_vec();
    body.truncate(body.len() - 2 - 6);
    cx.refused(&Connect { tail: vec![0xff], ..full }, None, &[0x81])?;
    let mut connection = cx.open("cut")?;
    connection.send(&packet(0x10, &body))?;
    connection.refused(None, &[0x81])
}

fn client_identifier_names_the_session(cx: &Cx) -> Result<()> {
    for name in ["a", "b"] {
        let mut client = cx.durable(name)?;
        client.subscribe(&cx.topic(name), 1)?;
        client.disconnect()?;
    }
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("a"), "for a", 1)?;
    publisher.publish_new(&cx.topic("b"), "for b", 1)?;
    cx.resume("b")?.take_this(&cx.topic("b"), "for b")?;
    cx.resume("a")?.take_this(&cx.topic("a"), "for a")?;
    // Case counts.
    let (_, connack) = cx.connect_with(&cx.hello("A").durable())?;
    ensure!(!connack.present, "identifiers of another case are the same");
    Ok(())
}

fn client_identifier_is_there(cx: &Cx) -> Result<()> {
    let head = cx.hello("a").encode();
    // Name 6, level 1, flags 1, Keep Alive 2, in 5.0 a length of 0; nothing behind.
    let end = 2 + 10 + usize::from(cx.is_v5());
    let mut connection = cx.open("none")?;
    connection.send(&packet(0x10, &head[2..end]))?;
    connection.refused(None, &[0x81])
}

fn client_identifier_is_a_string(cx: &Cx) -> Result<()> {
    for id in [&b"\xff"[..], b"\xc0\x80", b"a\0", b"\xed\xbf\xbf"] {
        cx.refused(&Connect { client_id: id.into(), ..cx.hello("a") }, None, &[0x81, 0x85])?;
    }
    Ok(())
}

fn client_identifier_characters(cx: &Cx) -> Result<()> {
    let characters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for start in (0..characters.len()).step_by(20) {
        let end = characters.len().min(start + 20);
        let client_id = format!("{}v{}", &characters[start..end], cx.version as u8);
        cx.connect_with(&Connect { client_id: client_id.into(), ..cx.hello("") })?;
    }
    // One character, and all of 23.
    cx.connect_with(&Connect { client_id: vec![b'0' + cx.version as u8], ..cx.hello("") })?;
    cx.connect_with(&Connect { client_id: format!("{:z<23}", cx.id("")).into(), ..cx.hello("") })?;
    Ok(())
}

fn client_identifier_other_characters(cx: &Cx) -> Result<()> {
    // Both may be allowed; here they are.
    for name in ["/+#$ ", "ключ", &"long".repeat(60)] {
        cx.connect(name)?;
    }
    Ok(())
}

fn empty_client_identifier(cx: &Cx) -> Result<()> {
    let connect = Connect { client_id: Vec::new(), ..cx.hello("") };
    let (mut a, first) = cx.connect_with(&connect)?;
    let (mut b, second) = cx.connect_with(&connect)?;
    let assigned =
        |connack: &crate::decode::Connack| connack.properties.text(p::ASSIGNED_CLIENT_ID).map(str::to_owned);
    if cx.is_v5() {
        let (first, second) = (assigned(&first), assigned(&second));
        ensure!(first.is_some() && second.is_some() && first != second, "{first:?}, {second:?}");
    }
    // Two clients: neither took over the other, each has its own subscriptions.
    a.subscribe(&cx.topic("a"), 1)?;
    b.subscribe(&cx.topic("b"), 1)?;
    a.publish_new(&cx.topic("b"), "to b", 1)?;
    b.take_this(&cx.topic("b"), "to b")?;
    b.publish_new(&cx.topic("a"), "to a", 1)?;
    a.take_this(&cx.topic("a"), "to a")?;
    Ok(())
}

fn assigned_identifier(cx: &Cx) -> Result<()> {
    let (mut client, connack) =
        cx.connect_with(&Connect { client_id: Vec::new(), ..cx.hello("").durable() })?;
    ensure!(!connack.present, "Session Present");
    let assigned = connack.properties.text(p::ASSIGNED_CLIENT_ID).unwrap_or_default().to_owned();
    ensure!(!assigned.is_empty(), "no identifier was assigned");
    client.subscribe(&cx.topic("t"), 1)?;
    client.disconnect()?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "x", 1)?;
    let again = Connect { client_id: assigned.into(), ..cx.hello("").durable() };
    let (mut client, connack) = cx.connect_with(&again)?;
    ensure!(connack.present, "the assigned identifier names no session");
    ensure!(!connack.properties.has(p::ASSIGNED_CLIENT_ID), "an identifier was assigned to one that has one");
    client.take_this(&cx.topic("t"), "x")?;
    Ok(())
}

fn empty_without_clean(cx: &Cx) -> Result<()> {
    cx.refused(&Connect { client_id: Vec::new(), ..cx.hello("").resume() }, Some(2), &[])
}

fn refused_client_identifier(cx: &Cx) -> Result<()> {
    // Above the broker's own bound. Session Present 0 is checked by `decode`.
    cx.refused(&Connect { client_id: vec![b'x'; 2000], ..cx.hello("") }, Some(2), &[0x85])
}

fn without_connect(cx: &Cx) -> Result<()> {
    // Nothing, and a CONNECT that never ends.
    let mut silent = cx.open("silent")?;
    let mut slow = cx.open("slow")?;
    slow.send(&cx.hello("slow").encode()[..10])?;
    silent.closed()?;
    slow.closed()
}

fn user_name_is_a_string(cx: &Cx) -> Result<()> {
    for user in [&b"\xff"[..], b"a\0"] {
        cx.refused(&Connect { user: Some(user.into()), ..cx.hello("a") }, None, &[0x81])?;
    }
    Ok(())
}

fn another_format(cx: &Cx) -> Result<()> {
    // A byte behind the last field.
    cx.refused(&Connect { tail: vec![0], ..cx.hello("a") }, None, &[0x81])?;
    // Cut within the flags.
    let mut connection = cx.open("cut")?;
    connection.send(&packet(0x10, b"\x00\x04MQTT"))?;
    connection.closed()
}

fn takeover(cx: &Cx) -> Result<()> {
    for connect in [cx.hello("client"), cx.hello("client").durable()] {
        let (mut older, _) = cx.connect_with(&connect)?;
        let (mut newer, _) = cx.connect_with(&connect)?;
        older.fails(&[0x8e])?;
        newer.ping()?;
        // On the same node too.
        let place = cx.next_place();
        let (mut older, _) = cx.connect_at(place, &connect)?;
        newer.fails(&[0x8e])?;
        let (mut newer, _) = cx.connect_at(place, &connect)?;
        older.fails(&[0x8e])?;
        newer.ping()?;
    }
    Ok(())
}

fn takeover_keeps_the_session(cx: &Cx) -> Result<()> {
    let mut older = cx.durable("client")?;
    older.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "first", 1)?;
    let first = older.message()?;
    let mut newer = cx.resume("client")?;
    older.fails(&[0x8e])?;
    let again = newer.take_this(&cx.topic("t"), "first")?;
    ensure!(again.dup && again.id == first.id, "{first:?}, then {again:?}");
    publisher.publish_new(&cx.topic("t"), "second", 1)?;
    newer.take_this(&cx.topic("t"), "second")?;
    Ok(())
}

fn nothing_behind_a_refused_connect(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.connect("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    let refused = if cx.is_v5() {
        Connect { client_id: vec![b'x'; 2000], ..cx.hello("") }
    } else {
        Connect { client_id: Vec::new(), ..cx.hello("").resume() }
    };
    let mut connection = cx.open("refused")?;
    let publish = Publish::new(&cx.topic("t"), "behind").qos(1, 1).encode(cx.version);
    connection.send(&[refused.encode(), publish].concat())?;
    connection.refused(Some(2), &[0x85])?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "marker", 1)?;
    subscriber.take_this(&cx.topic("t"), "marker")?;
    Ok(())
}

fn packets_need_not_wait(cx: &Cx) -> Result<()> {
    let mut client = cx.open("client")?;
    let topic = cx.topic("t");
    let subscribe = subscribe(cx.version, 1, &[], &[(&topic, 1)]);
    let publish = Publish::new(&topic, "x").qos(1, 2).encode(cx.version);
    client.send(&[cx.hello("client").encode(), subscribe, publish, vec![0xc0, 0]].concat())?;
    // CONNACK is first; what follows may come in any order [3.8.4].
    ensure!(client.connack()?.code == 0, "refused");
    let (mut suback, mut puback, mut message, mut pong) = (0, 0, 0, 0);
    while (suback, puback, message, pong) != (1, 1, 1, 1) {
        match client.packet()? {
            Packet::Suback(1, codes, _) if codes == [1] => suback += 1,
            Packet::Ack(crate::packet::PUBACK, 2, code, _) if code < 0x80 => puback += 1,
            Packet::Publish(got) if got.topic == topic && got.payload == b"x" => message += 1,
            Packet::Pingresp => pong += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    Ok(())
}

fn mqtt_3_1(cx: &Cx) -> Result<()> {
    let (mut client, mut other) = (cx.connect("client")?, cx.connect("other")?);
    client.subscribe(&cx.topic("t/+"), 1)?;
    for qos in [0, 1] {
        other.publish_new(&cx.topic("t/a"), [qos], qos)?;
        ensure!(client.take_this(&cx.topic("t/a"), [qos])?.qos == qos, "QoS");
    }
    client.unsubscribe(&[&cx.topic("t/+")])?;
    client.ping()?;
    client.disconnect()
}

fn mqtt_3_1_resumes(cx: &Cx) -> Result<()> {
    let mut client = cx.durable("client")?;
    client.subscribe(&cx.topic("t"), 1)?;
    client.disconnect()?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 1)?;
    // 3.1 has no Session Present, `decode` checks that.
    cx.durable("client")?.take_this(&cx.topic("t"), "x")?;
    Ok(())
}

fn mqtt_3_1_identifier(cx: &Cx) -> Result<()> {
    cx.refused(&Connect { client_id: Vec::new(), ..cx.hello("") }, Some(2), &[])
}

fn mqtt_3_1_level(cx: &Cx) -> Result<()> {
    // A level that only a later version can have may be answered in the newest one.
    for level in [0, 2, 9] {
        let mut connection = cx.open("client")?;
        connection.send(&Connect { level, ..cx.hello("a") }.encode())?;
        let mut bytes = Vec::new();
        connection.raw_until_closed(&mut bytes)?;
        let as_v5 = level > 5 && bytes.first() == Some(&0x20) && bytes.get(2..4) == Some(&[0, 0x84]);
        ensure!(bytes == [0x20, 2, 0, 1] || as_v5, "level {level}: {bytes:02x?}");
    }
    Ok(())
}
