//! Chapter 3.1: wills.
//!
//! Spec: MQTT 5, 3.1.2.5 to 3.1.2.7, 3.1.3.2 to 3.1.3.4; MQTT 3.1.1, 3.1.2.5 to 3.1.2.7.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only4, only5};
use crate::connection::Connection;
use crate::packet::{Connect, DISCONNECT, Publish, Will, packet};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    both(
        "will_is_published_when_the_connection_breaks",
        &["3.1.2-7", "3.1.2-8"],
        &["3.1.2-8", "3.1.2-9"],
        will_of_a_broken_connection,
    ),
    both("will_is_published_after_a_protocol_error", &["3.1.2-8"], &["3.1.2-8"], will_after_a_protocol_error),
    both("will_is_published_when_keep_alive_ends", &["3.1.2-8"], &["3.1.2-8"], will_after_silence),
    both("will_is_published_on_takeover", &["3.1.2-8"], &["3.1.2-8"], will_on_takeover),
    both(
        "will_is_discarded_by_disconnect",
        &["3.1.2-8", "3.1.2-10", "3.14.4-3"],
        &["3.1.2-8", "3.1.2-10", "3.14.4-3"],
        will_is_discarded,
    ),
    only5("will_is_published_by_disconnect_with_0x04", &["3.1.2-8"], will_by_disconnect),
    only5("will_is_published_by_disconnect_with_a_failure", &["3.1.2-8"], will_by_failure),
    both("will_is_published_once", &["3.1.2-10"], &["3.1.2-10"], will_is_published_once),
    both(
        "will_of_an_earlier_connection_is_forgotten",
        &["3.1.2-10"],
        &["3.1.2-10", "3.1.2-12"],
        earlier_will_is_forgotten,
    ),
    both("no_will_without_will_flag", &[], &["3.1.2-12"], no_will_without_flag),
    both("will_fields_are_there", &["3.1.2-9"], &["3.1.2-9"], will_fields_are_there),
    both(
        "will_qos_without_will_flag_is_malformed",
        &["3.1.2-11"],
        &["3.1.2-11", "3.1.2-13"],
        will_qos_without_flag,
    ),
    both("will_qos_3_is_malformed", &["3.1.2-12"], &["3.1.2-14"], will_qos_3),
    both("will_with_each_qos", &["3.1.2-12"], &["3.1.2-9"], will_with_each_qos),
    both(
        "will_retain_without_will_flag_is_malformed",
        &["3.1.2-13"],
        &["3.1.2-11", "3.1.2-15"],
        will_retain_without_flag,
    ),
    both("will_without_retain_is_not_retained", &["3.1.2-14"], &["3.1.2-16"], will_without_retain),
    both("will_with_retain_is_retained", &["3.1.2-15"], &["3.1.2-17"], will_with_retain),
    both("will_topic_is_a_topic_name", &["3.1.3-11"], &["3.1.3-10"], will_topic_is_a_topic_name),
    only5("will_waits_for_its_delay", &["3.1.2-8"], will_delay).alone(),
    only5("will_with_delay_is_stopped_by_a_new_connection", &["3.1.3-9"], will_delay_is_stopped),
    only5("will_with_delay_is_stopped_by_a_takeover", &["3.1.3-9"], will_delay_is_stopped_by_takeover),
    only5("will_with_delay_comes_when_the_session_ends", &["3.1.2-8"], will_delay_ends_with_the_session)
        .alone(),
    only5(
        "will_with_delay_comes_when_the_session_is_discarded",
        &["3.1.2-8"],
        will_delay_ends_by_clean_start,
    ),
    only5("will_properties_are_forwarded", &["3.1.3-10"], will_properties),
    only5("will_properties_that_do_not_belong_are_refused", &[], will_properties_that_do_not_belong),
    only4("empty_will_message_is_published", &["3.1.2-8"], empty_will),
];

fn watcher(cx: &Cx) -> Result<Connection> {
    let mut watcher = cx.connect("watcher")?;
    watcher.subscribe(&cx.topic("#"), 1)?;
    Ok(watcher)
}

fn with_will(cx: &Cx, qos: u8) -> Connect {
    cx.hello("client").will(Will::new(&cx.topic("will"), b"gone").qos(qos))
}

/// Nothing is before the marker that is published now.
fn only_the_marker(cx: &Cx, watcher: &mut Connection) -> Result<()> {
    for qos in [0, 1] {
        cx.connect("marker")?.publish_new(&cx.topic("marker"), [qos], qos)?;
        watcher.take_this(&cx.topic("marker"), [qos])?;
    }
    Ok(())
}

fn will_of_a_broken_connection(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    for qos in [0, 1] {
        cx.connect_with(&with_will(cx, qos))?.0.abort()?;
        let will = watcher.take_this(&cx.topic("will"), "gone")?;
        ensure!(will.qos == qos && !will.retain && !will.dup, "{will:?}");
        // Of a session that goes on as well.
        cx.connect_with(&with_will(cx, qos).durable())?.0.abort()?;
        watcher.take_this(&cx.topic("will"), "gone")?;
    }
    Ok(())
}

fn will_after_a_protocol_error(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    // A second CONNECT; a PUBLISH with QoS 3.
    for bad in [cx.hello("client").encode(), Publish::new("t", "x").qos(3, 1).encode(cx.version)] {
        let (mut client, _) = cx.connect_with(&with_will(cx, 1))?;
        client.send(&bad)?;
        client.fails(&[0x81, 0x82])?;
        watcher.take_this(&cx.topic("will"), "gone")?;
    }
    Ok(())
}

fn will_after_silence(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    let (mut client, _) = cx.connect_with(&with_will(cx, 1).keep_alive(1))?;
    client.fails(&[0x8d])?;
    watcher.take_this(&cx.topic("will"), "gone")?;
    Ok(())
}

fn will_on_takeover(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    let (mut older, _) = cx.connect_with(&with_will(cx, 1).durable())?;
    let _newer = cx.connect_with(&cx.hello("client").durable())?;
    older.fails(&[0x8e])?;
    watcher.take_this(&cx.topic("will"), "gone")?;
    Ok(())
}

fn will_is_discarded(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    for connect in [with_will(cx, 1), with_will(cx, 1).durable()] {
        cx.connect_with(&connect)?.0.disconnect()?;
        only_the_marker(cx, &mut watcher)?;
    }
    Ok(())
}

fn will_by_disconnect(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    let (mut client, _) = cx.connect_with(&with_will(cx, 1))?;
    client.send(&packet(DISCONNECT, &[0x04, 0]))?;
    client.closed()?;
    watcher.take_this(&cx.topic("will"), "gone")?;
    Ok(())
}

fn will_by_failure(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    let (mut client, _) = cx.connect_with(&with_will(cx, 1))?;
    client.send(&packet(DISCONNECT, &[0x80]))?;
    client.closed()?;
    watcher.take_this(&cx.topic("will"), "gone")?;
    Ok(())
}

fn will_is_published_once(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    cx.connect_with(&with_will(cx, 1).durable())?.0.abort()?;
    watcher.take_this(&cx.topic("will"), "gone")?;
    // The session is still there; its next connection has no will.
    cx.resume("client")?.abort()?;
    only_the_marker(cx, &mut watcher)
}

fn earlier_will_is_forgotten(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    cx.connect_with(&with_will(cx, 1).durable())?.0.disconnect()?;
    cx.resume("client")?.abort()?;
    only_the_marker(cx, &mut watcher)?;
    let other = cx.hello("client").durable().will(Will::new(&cx.topic("will"), b"second").qos(1));
    cx.connect_with(&other)?.0.abort()?;
    watcher.take_this(&cx.topic("will"), "second")?;
    Ok(())
}

fn no_will_without_flag(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    cx.connect("client")?.abort()?;
    only_the_marker(cx, &mut watcher)
}

fn will_fields_are_there(cx: &Cx) -> Result<()> {
    let bare = cx.hello("client");
    cx.refused(&Connect { flags: Some(0x06), ..bare }, None, &[0x81])?;
    // A topic and no payload.
    let tail = if cx.is_v5() { b"\x00\x00\x01t".to_vec() } else { b"\x00\x01t".to_vec() };
    cx.refused(&Connect { flags: Some(0x06), tail, ..cx.hello("client") }, None, &[0x81])?;
    // The fields without the flag.
    cx.refused(&Connect { flags: Some(0x02), ..with_will(cx, 0) }, None, &[0x81])
}

fn will_qos_without_flag(cx: &Cx) -> Result<()> {
    for flags in [0x0a, 0x12] {
        cx.refused(&Connect { flags: Some(flags), ..cx.hello("client") }, None, &[0x81])?;
    }
    Ok(())
}

fn will_qos_3(cx: &Cx) -> Result<()> {
    cx.refused(&with_will(cx, 3), None, &[0x81])
}

fn will_with_each_qos(cx: &Cx) -> Result<()> {
    let mut watcher = cx.connect("watcher")?;
    watcher.subscribe(&cx.topic("#"), 2)?;
    for qos in 0..3 {
        cx.connect_with(&with_will(cx, qos))?.0.abort()?;
        let will = watcher.take_this(&cx.topic("will"), "gone")?;
        ensure!(will.qos == qos, "{will:?}");
    }
    Ok(())
}

fn will_retain_without_flag(cx: &Cx) -> Result<()> {
    cx.refused(&Connect { flags: Some(0x22), ..cx.hello("client") }, None, &[0x81])
}

fn will_without_retain(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    cx.connect_with(&with_will(cx, 1))?.0.abort()?;
    watcher.take_this(&cx.topic("will"), "gone")?;
    let mut later = cx.connect("later")?;
    later.subscribe(&cx.topic("will"), 1)?;
    cx.connect("pub")?.publish_new(&cx.topic("will"), "marker", 1)?;
    later.take_this(&cx.topic("will"), "marker")?;
    Ok(())
}

fn will_with_retain(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    let will = Will::new(&cx.topic("will"), b"gone").qos(1).retain();
    cx.connect_with(&cx.hello("client").will(will))?.0.abort()?;
    ensure!(!watcher.take_this(&cx.topic("will"), "gone")?.retain, "RETAIN to an established subscription");
    let mut later = cx.connect("later")?;
    later.subscribe(&cx.topic("will"), 1)?;
    ensure!(later.take_this(&cx.topic("will"), "gone")?.retain, "RETAIN to a new subscription");
    Ok(())
}

fn will_topic_is_a_topic_name(cx: &Cx) -> Result<()> {
    for topic in [&b"\xff"[..], b"a\0", b"", b"a/#", b"+/a"] {
        let mut will = Will::new("", b"gone");
        will.topic = topic.into();
        cx.refused(&cx.hello("client").will(will), None, &[0x81, 0x82, 0x90])?;
    }
    Ok(())
}

fn delayed(cx: &Cx, delay_s: u32, expiry_s: u32) -> Connect {
    let will = Will::new(&cx.topic("will"), b"gone").qos(1).property(p::four(p::WILL_DELAY, delay_s));
    cx.hello("client").resume().property(p::session_expiry(expiry_s)).will(will)
}

fn will_delay(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    cx.connect_with(&delayed(cx, 3, 60))?.0.abort()?;
    // Not at once.
    only_the_marker(cx, &mut watcher)?;
    watcher.take_this(&cx.topic("will"), "gone")?;
    Ok(())
}

fn will_delay_is_stopped(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    cx.connect_with(&delayed(cx, 1, 60))?.0.abort()?;
    let client = cx.resume("client")?;
    cx.lapse(Duration::from_millis(2500));
    only_the_marker(cx, &mut watcher)?;
    client.disconnect()
}

fn will_delay_is_stopped_by_takeover(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    let (mut older, _) = cx.connect_with(&delayed(cx, 1, 60))?;
    let client = cx.resume("client")?;
    older.fails(&[0x8e])?;
    cx.lapse(Duration::from_millis(2500));
    only_the_marker(cx, &mut watcher)?;
    client.disconnect()
}

fn will_delay_ends_with_the_session(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    cx.connect_with(&delayed(cx, 3600, 1))?.0.abort()?;
    watcher.take_this(&cx.topic("will"), "gone")?;
    // A session that ends with its connection.
    cx.connect_with(&delayed(cx, 3600, 0))?.0.abort()?;
    watcher.take_this(&cx.topic("will"), "gone")?;
    Ok(())
}

fn will_delay_ends_by_clean_start(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    cx.connect_with(&delayed(cx, 3600, 3600))?.0.abort()?;
    only_the_marker(cx, &mut watcher)?;
    let _client = cx.connect("client")?;
    watcher.take_this(&cx.topic("will"), "gone")?;
    Ok(())
}

fn will_properties(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    let will = Will::new(&cx.topic("will"), b"gone")
        .qos(1)
        .property(p::byte(p::PAYLOAD_FORMAT, 1))
        .property(p::user("b", "1"))
        .property(p::string(p::CONTENT_TYPE, "text/plain"))
        .property(p::user("a", "2"))
        .property(p::string(p::RESPONSE_TOPIC, "answer"))
        .property(p::bytes(p::CORRELATION_DATA, &[0, 255]))
        .property(p::message_expiry(100))
        .property(p::user("b", "3"));
    cx.connect_with(&cx.hello("client").will(will))?.0.abort()?;
    let got = watcher.take_this(&cx.topic("will"), "gone")?.properties;
    ensure!(got.users() == [("b", "1"), ("a", "2"), ("b", "3")], "{got:?}");
    ensure!(got.number(p::PAYLOAD_FORMAT) == Some(1), "{got:?}");
    ensure!(got.text(p::CONTENT_TYPE) == Some("text/plain"), "{got:?}");
    ensure!(got.text(p::RESPONSE_TOPIC) == Some("answer"), "{got:?}");
    ensure!(got.has(p::CORRELATION_DATA), "{got:?}");
    ensure!(got.number(p::MESSAGE_EXPIRY).is_some_and(|seconds| (90..=100).contains(&seconds)), "{got:?}");
    ensure!(!got.has(p::WILL_DELAY), "{got:?}");
    Ok(())
}

fn will_properties_that_do_not_belong(cx: &Cx) -> Result<()> {
    for property in [
        p::session_expiry(1),
        p::alias(1),
        [p::message_expiry(1), p::message_expiry(1)].concat(),
        p::byte(p::PAYLOAD_FORMAT, 2),
        p::string(p::RESPONSE_TOPIC, "a/#"),
    ] {
        let will = Will::new(&cx.topic("will"), b"gone").property(property);
        cx.refused(&cx.hello("client").will(will), None, &[0x81, 0x82, 0x90])?;
    }
    Ok(())
}

fn empty_will(cx: &Cx) -> Result<()> {
    let mut watcher = watcher(cx)?;
    cx.connect_with(&cx.hello("client").will(Will::new(&cx.topic("will"), b"").qos(1)))?.0.abort()?;
    watcher.take_this(&cx.topic("will"), "")?;
    // After DISCONNECT, what a client may send at most is thrown away.
    let (mut client, _) = cx.connect_with(&with_will(cx, 1))?;
    let publish = Publish::new(&cx.topic("late"), "x").qos(1, 1).encode(cx.version);
    client.send(&[vec![0xe0, 0], publish].concat())?;
    client.closed()?;
    only_the_marker(cx, &mut watcher)
}
