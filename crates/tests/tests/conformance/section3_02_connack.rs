//! Chapter 3.2: CONNACK.
//!
//! Spec: MQTT 5, 3.2; MQTT 3.1.1, 3.2.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only5};
use crate::decode::Packet;
use crate::packet::{Connect, Publish};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    both("connack_is_the_first_packet", &["3.2.0-1", "3.1.4-5"], &["3.2.0-1", "3.1.4-4"], connack_is_first),
    both("connack_comes_once", &["3.2.0-2"], &[], connack_comes_once),
    both("connack_of_success_in_bytes", &["3.2.2-1", "3.1.4-5"], &["3.1.4-4", "3.2.2-1"], connack_in_bytes),
    both(
        "session_present_tells_the_truth",
        &["3.2.2-2", "3.2.2-3"],
        &["3.2.2-1", "3.2.2-2", "3.2.2-3"],
        session_present,
    ),
    both("refused_connect_has_session_present_0", &["3.2.2-6", "3.2.2-7", "3.2.2-8"], &[], refused_connect),
    only5("announced_properties_hold", &[], announced_properties),
    only5("all_qos_are_announced_by_no_maximum", &[], no_maximum_qos),
    both("every_requested_qos_is_accepted", &["3.2.2-10"], &[], every_requested_qos),
    only5("packet_above_the_servers_maximum_closes", &["3.2.2-15"], packet_too_large),
    only5("receive_maximum_is_announced", &[], receive_maximum_is_announced),
    only5("alias_above_the_servers_maximum_closes", &["3.2.2-17", "3.3.2-9"], alias_above_maximum),
    only5("explanations_do_not_make_connack_too_large", &["3.2.2-19", "3.2.2-20"], connack_is_small_enough),
    only5("connack_above_the_clients_maximum_is_not_sent", &["3.1.2-24"], connack_above_maximum),
    only5("session_expiry_is_announced_when_changed_only", &[], session_expiry_is_announced),
];

fn connack_is_first(cx: &Cx) -> Result<()> {
    let topic = cx.topic("t");
    let mut client = cx.durable("client")?;
    client.subscribe(&topic, 1)?;
    client.abort()?;
    let mut publisher = cx.connect("pub")?;
    for n in 0..20_u8 {
        publisher.publish_new(&topic, [n], 1)?;
    }
    // Queued messages come behind it.
    let mut client = cx.resume("client")?;
    (0..20_u8).try_for_each(|n| client.take_this(&topic, [n]).map(drop))
}

fn connack_comes_once(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.ping()?;
    client.subscribe(&cx.topic("t"), 1)?;
    client.publish_new(&cx.topic("t"), "x", 1).ok();
    client.disconnect().ok();
    // A second CONNECT is answered by no CONNACK.
    cx.fails(&cx.hello("bad").encode(), &[0x82])
}

fn connack_in_bytes(cx: &Cx) -> Result<()> {
    let mut client = cx.open("client")?;
    client.send(&[cx.hello("client").encode(), vec![0xe0, 0]].concat())?;
    let mut bytes = Vec::new();
    client.raw_until_closed(&mut bytes)?;
    let right = if cx.is_v5() {
        // Flags 0, code 0, and properties that fill the rest exactly.
        let length = usize::from(bytes[1]);
        bytes.len() == 2 + length
            && bytes[..4] == [0x20, bytes[1], 0, 0]
            && usize::from(bytes[4]) == length - 3
    } else {
        bytes == [0x20, 2, 0, 0]
    };
    ensure!(right, "{bytes:02x?}");
    Ok(())
}

fn session_present(cx: &Cx) -> Result<()> {
    let durable = cx.hello("client").durable();
    for (connect, expected) in [
        (&durable, false),
        (&durable, true),
        (&cx.hello("client"), false),
        (&durable, false),
        (&durable, true),
    ] {
        let (client, connack) = cx.connect_with(connect)?;
        ensure!(connack.present == expected, "Session Present is {}, expected {expected}", connack.present);
        client.disconnect()?;
    }
    Ok(())
}

fn refused_connect(cx: &Cx) -> Result<()> {
    // There is a session; the CONNECT that is refused says nothing of it. `decode` checks Session Present and code.
    cx.durable("client")?.disconnect()?;
    let bad = cx.hello("client").durable().property(p::two(p::RECEIVE_MAX, 0));
    if cx.is_v5() {
        cx.refused(&bad, None, &[0x82])?;
        cx.refused(
            &cx.hello("client").durable().property(p::string(p::AUTH_METHOD, "none")),
            None,
            &[0x8c, 0x87],
        )
    } else {
        cx.refused(&Connect { level: 3, ..cx.hello("client").durable() }, Some(1), &[])
    }
}

fn announced_properties(cx: &Cx) -> Result<()> {
    let (_, connack) = cx.connect_with(&cx.hello("client"))?;
    let number = |id| connack.properties.number(id);
    for (id, name) in [
        (p::RETAIN_AVAILABLE, "retained messages"),
        (p::WILDCARD_AVAILABLE, "wildcards"),
        (p::SUBSCRIPTION_ID_AVAILABLE, "subscription identifiers"),
        (p::SHARED_AVAILABLE, "shared subscriptions"),
    ] {
        ensure!(number(id) != Some(0), "{name} are announced as not available");
    }
    ensure!(!connack.properties.has(p::ASSIGNED_CLIENT_ID), "{connack:?}");
    ensure!(!connack.properties.has(p::AUTH_METHOD), "{connack:?}");
    Ok(())
}

fn no_maximum_qos(cx: &Cx) -> Result<()> {
    let (_, connack) = cx.connect_with(&cx.hello("client"))?;
    ensure!(!connack.properties.has(p::MAX_QOS), "{connack:?}");
    Ok(())
}

fn every_requested_qos(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    for qos in 0..3 {
        let codes = client.subscribe_all(&[(&cx.topic("t"), qos)])?;
        ensure!(codes[0] <= qos, "QoS {qos}: {codes:02x?}");
    }
    Ok(())
}

fn packet_too_large(cx: &Cx) -> Result<()> {
    let (mut client, connack) = cx.connect_with(&cx.hello("client"))?;
    let Some(max) = connack.properties.number(p::MAX_PACKET_SIZE) else { return Ok(()) };
    ensure!(max < 16 * 1024 * 1024, "more than this case sends");
    // As large as allowed: header 5, topic and its length, an empty length of the properties.
    let topic = cx.topic("t");
    let mut publish = Publish::new(&topic, "");
    let around = publish.encode(cx.version).len() - 2 + 4;
    publish.payload = vec![7; max as usize - around];
    ensure!(publish.encode(cx.version).len() == max as usize, "{}", publish.encode(cx.version).len());
    client.send_publish(&publish.clone().qos(0, 0))?;
    client.ping()?;
    publish.payload.push(7);
    client.send_publish(&publish)?;
    client.fails(&[0x95])
}

fn receive_maximum_is_announced(cx: &Cx) -> Result<()> {
    let (_, connack) = cx.connect_with(&cx.hello("client"))?;
    // Absent means 65,535; 0 is not possible, see `decode`.
    ensure!(connack.properties.number(p::RECEIVE_MAX).is_none_or(|max| max > 0), "{connack:?}");
    Ok(())
}

fn alias_above_maximum(cx: &Cx) -> Result<()> {
    let (mut client, connack) = cx.connect_with(&cx.hello("client"))?;
    let max = connack.properties.number(p::TOPIC_ALIAS_MAX).unwrap_or(0);
    ensure!(max < 65_535, "any alias is allowed");
    client.send_publish(&Publish::new(&cx.topic("t"), "x").property(p::alias(max as u16 + 1)))?;
    client.fails(&[0x94])
}

fn connack_is_small_enough(cx: &Cx) -> Result<()> {
    // Room for the shortest refusal: header 2, flags, code, no properties.
    let size = |max: u32| p::four(p::MAX_PACKET_SIZE, max);
    let refused = cx.hello("client").property(p::string(p::AUTH_METHOD, "none")).property(size(5));
    let mut client = cx.open("client")?;
    client.packet_max = 5;
    client.send(&refused.encode())?;
    while let Some(packet) = client.read()? {
        ensure!(matches!(&packet, Packet::Connack(connack) if connack.code >= 0x80), "{packet:?}");
    }
    // One that is accepted, with the same check.
    let (_, connack) = cx.connect_with(&cx.hello("client").property(size(100)))?;
    ensure!(connack.code == 0, "{connack:?}");
    Ok(())
}

fn connack_above_maximum(cx: &Cx) -> Result<()> {
    // What a client must know of the broker may not fit; then there is no connection. `Connection` checks the size.
    for max in [1, 4, 8, 12, 16] {
        let mut client = cx.open("client")?;
        client.packet_max = max as usize;
        client.send(&cx.hello("client").property(p::four(p::MAX_PACKET_SIZE, max)).encode())?;
        if let Some(packet) = client.read()? {
            ensure!(matches!(packet, Packet::Connack(_)), "{packet:?}");
        }
    }
    Ok(())
}

fn session_expiry_is_announced(cx: &Cx) -> Result<()> {
    for seconds in [0, 1, 3600] {
        let (client, connack) = cx.connect_with(&cx.hello("client").property(p::session_expiry(seconds)))?;
        let told = connack.properties.number(p::SESSION_EXPIRY);
        ensure!(told.is_none_or(|told| told != seconds), "{seconds} s were told again");
        ensure!(told.is_none(), "{seconds} s were changed to {told:?}");
        client.disconnect()?;
    }
    Ok(())
}
