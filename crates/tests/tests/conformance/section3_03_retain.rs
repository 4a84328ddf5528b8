//! Chapter 3.3: retained messages.
//!
//! Spec: MQTT 5, 3.3.1.3 and 3.8.3.1; MQTT 3.1.1, 3.3.1.3.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only4, only5};
use crate::connection::Connection;
use crate::decode::Packet;
use crate::packet::{AS_PUBLISHED, RETAINED_IF_NEW, RETAINED_NEVER};

/// The cases.
pub const CASES: &[Case] = &[
    both(
        "retained_message_is_stored_and_replaced",
        &["3.3.1-5"],
        &["3.3.1-5", "3.3.1-6"],
        stored_and_replaced,
    ),
    both("retained_message_keeps_its_qos", &["3.8.4-8"], &["3.3.1-5", "3.8.4-6"], keeps_its_qos),
    both("empty_retained_message_removes", &["3.3.1-6", "3.3.1-7"], &["3.3.1-10", "3.3.1-11"], empty_removes),
    both("message_without_retain_stores_and_removes_nothing", &["3.3.1-8"], &["3.3.1-12"], without_retain),
    only4("qos_0_discards_what_was_retained", &["3.3.1-7"], qos_0_discards),
    both("new_subscription_gets_retained_messages", &["3.3.1-9"], &["3.3.1-6", "3.3.1-8"], new_subscription),
    both("wildcard_subscription_gets_retained_messages", &["3.3.1-9"], &["3.3.1-6"], wildcard_subscription),
    both(
        "repeated_subscription_gets_them_again",
        &["3.3.1-9", "3.8.4-4"],
        &["3.8.4-3"],
        repeated_subscription,
    ),
    only5("retain_handling_1", &["3.3.1-10"], retain_handling_1),
    only5("retain_handling_2", &["3.3.1-11"], retain_handling_2),
    only5("retain_handling_3_is_a_protocol_error", &[], retain_handling_3),
    both("established_subscription_gets_retain_0", &["3.3.1-12"], &["3.3.1-9"], established_subscription),
    only5("retain_as_published", &["3.3.1-13"], retain_as_published),
    only5("retained_message_has_retain_1_whatever_as_published_says", &[], retained_has_retain_1),
    both("resumed_session_gets_no_retained_messages", &[], &[], resumed_session),
];

/// Retained messages that a new subscription gets: those before the marker, which is not retained.
fn retained(cx: &Cx, filter: &str, options: u8) -> Result<Vec<(String, Vec<u8>, u8)>> {
    let mut subscriber = cx.connect("later")?;
    retained_of(cx, &mut subscriber, filter, options)
}

fn retained_of(
    cx: &Cx,
    subscriber: &mut Connection,
    filter: &str,
    options: u8,
) -> Result<Vec<(String, Vec<u8>, u8)>> {
    subscriber.subscribe(&cx.topic("marker"), 1)?;
    let id = subscriber.fresh_id();
    subscriber.send(&crate::packet::subscribe(cx.version, id, &[], &[(&cx.topic(filter), options)]))?;
    let mut found = Vec::new();
    let mut done = false;
    loop {
        match subscriber.packet()? {
            // They may come before SUBACK [3.8.4].
            Packet::Suback(of, codes, _) if of == id && codes == [options & 3] => {
                done = true;
                cx.connect("marker")?.publish_new(&cx.topic("marker"), "", 1)?;
            }
            Packet::Publish(message) => {
                subscriber.acknowledge(&message)?;
                if done && message.topic == cx.topic("marker") {
                    found.sort();
                    return Ok(found);
                }
                ensure!(message.retain, "RETAIN of {message:?}");
                found.push((message.topic, message.payload, message.qos));
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
}

fn one(cx: &Cx, topic: &str, payload: &str, qos: u8) -> Vec<(String, Vec<u8>, u8)> {
    vec![(cx.topic(topic), payload.into(), qos)]
}

fn stored_and_replaced(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for payload in ["first", "second", "third"] {
        publisher.retain(&cx.topic("t"), payload, 1)?;
        let found = retained(cx, "t", 1)?;
        ensure!(found == one(cx, "t", payload, 1), "{found:?}");
    }
    Ok(())
}

fn keeps_its_qos(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.retain(&cx.topic("t"), "x", 1)?;
    for qos in [0, 1] {
        let found = retained(cx, "t", qos)?;
        ensure!(found == one(cx, "t", "x", qos), "{found:?}");
    }
    publisher.retain(&cx.topic("t"), "y", 0)?;
    // QoS 0 has no answer; the publisher's next one is behind it.
    publisher.retain(&cx.topic("other"), "z", 1)?;
    quorate_tests::wait_for("QoS 0 to be retained", || {
        retained(cx, "t", 1).ok().filter(|found| *found == one(cx, "t", "y", 0))
    })?;
    Ok(())
}

fn empty_removes(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    let mut established = cx.connect("sub")?;
    established.subscribe(&cx.topic("t"), 1)?;
    publisher.retain(&cx.topic("t"), "x", 1)?;
    established.take_this(&cx.topic("t"), "x")?;
    publisher.retain(&cx.topic("t"), "", 1)?;
    // Forwarded as any other message.
    ensure!(!established.take_this(&cx.topic("t"), "")?.retain, "RETAIN");
    ensure!(retained(cx, "t", 1)?.is_empty(), "it is still there");
    // Where nothing was.
    publisher.retain(&cx.topic("nothing"), "", 1)?;
    ensure!(retained(cx, "nothing", 1)?.is_empty(), "an empty message was retained");
    Ok(())
}

fn without_retain(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "not retained", 1)?;
    ensure!(retained(cx, "t", 1)?.is_empty(), "a message without RETAIN was stored");
    publisher.retain(&cx.topic("t"), "kept", 1)?;
    publisher.publish_new(&cx.topic("t"), "not retained", 1)?;
    publisher.publish_new(&cx.topic("t"), "", 1)?;
    let found = retained(cx, "t", 1)?;
    ensure!(found == one(cx, "t", "kept", 1), "{found:?}");
    Ok(())
}

fn qos_0_discards(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.retain(&cx.topic("t"), "old", 1)?;
    publisher.retain(&cx.topic("t"), "new", 0)?;
    // The new one may be kept or not; the old one is gone as soon as it is processed.
    quorate_tests::wait_for("the older message to be discarded", || {
        retained(cx, "t", 1).ok().filter(|found| found.is_empty() || *found == one(cx, "t", "new", 0))
    })?;
    Ok(())
}

fn new_subscription(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.retain(&cx.topic("t"), "x", 1)?;
    let found = retained(cx, "t", 1)?;
    ensure!(found == one(cx, "t", "x", 1), "{found:?}");
    // To a session that lasts, too.
    let mut durable = cx.durable("durable")?;
    let found = retained_of(cx, &mut durable, "t", 1)?;
    ensure!(found == one(cx, "t", "x", 1), "{found:?}");
    Ok(())
}

fn wildcard_subscription(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for topic in ["w", "w/a", "w/b", "w/a/b", "v/a"] {
        publisher.retain(&cx.topic(topic), topic, 1)?;
    }
    for (filter, topics) in [
        ("w/+", &["w/a", "w/b"][..]),
        ("w/#", &["w", "w/a", "w/a/b", "w/b"]),
        ("+/a", &["v/a", "w/a"]),
        ("+/+/b", &["w/a/b"]),
    ] {
        let found = retained(cx, filter, 1)?;
        let wanted: Vec<_> = topics.iter().map(|topic| (cx.topic(topic), (*topic).into(), 1)).collect();
        ensure!(found == wanted, "{filter}: {found:?}");
    }
    Ok(())
}

fn repeated_subscription(cx: &Cx) -> Result<()> {
    cx.connect("pub")?.retain(&cx.topic("t"), "x", 1)?;
    let mut subscriber = cx.durable("sub")?;
    for _ in 0..2 {
        let found = retained_of(cx, &mut subscriber, "t", 1)?;
        ensure!(found == one(cx, "t", "x", 1), "{found:?}");
    }
    Ok(())
}

fn retain_handling_1(cx: &Cx) -> Result<()> {
    cx.connect("pub")?.retain(&cx.topic("t"), "x", 1)?;
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        let found = retained_of(cx, &mut subscriber, "t", 1 | RETAINED_IF_NEW)?;
        ensure!(found == one(cx, "t", "x", 1), "to a new subscription: {found:?}");
        let found = retained_of(cx, &mut subscriber, "t", 1 | RETAINED_IF_NEW)?;
        ensure!(found.is_empty(), "to one that existed: {found:?}");
        // Unsubscribed, it is new again.
        subscriber.unsubscribe(&[&cx.topic("t")])?;
        let found = retained_of(cx, &mut subscriber, "t", 1 | RETAINED_IF_NEW)?;
        ensure!(found == one(cx, "t", "x", 1), "to a new subscription: {found:?}");
    }
    Ok(())
}

fn retain_handling_2(cx: &Cx) -> Result<()> {
    cx.connect("pub")?.retain(&cx.topic("t"), "x", 1)?;
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        for _ in 0..2 {
            let found = retained_of(cx, &mut subscriber, "t", 1 | RETAINED_NEVER)?;
            ensure!(found.is_empty(), "{found:?}");
        }
    }
    Ok(())
}

fn retain_handling_3(cx: &Cx) -> Result<()> {
    cx.fails(
        &crate::packet::subscribe(cx.version, 1, &[], &[("a", RETAINED_IF_NEW | RETAINED_NEVER)]),
        &[0x81, 0x82],
    )
}

fn established_subscription(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        subscriber.subscribe(&cx.topic("t"), 1)?;
        for qos in [0, 1] {
            publisher.retain(&cx.topic("t"), [qos], qos)?;
            let message = subscriber.take_this(&cx.topic("t"), [qos])?;
            ensure!(!message.retain, "{message:?}");
        }
        publisher.retain(&cx.topic("t"), "", 1)?;
    }
    Ok(())
}

fn retain_as_published(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        subscriber.subscribe(&cx.topic("t"), 1 | AS_PUBLISHED)?;
        for qos in [0, 1] {
            publisher.retain(&cx.topic("t"), [qos], qos)?;
            ensure!(subscriber.take_this(&cx.topic("t"), [qos])?.retain, "RETAIN 1 was published");
            publisher.publish_new(&cx.topic("t"), [qos], qos)?;
            ensure!(!subscriber.take_this(&cx.topic("t"), [qos])?.retain, "RETAIN 0 was published");
        }
        publisher.retain(&cx.topic("t"), "", 1)?;
    }
    Ok(())
}

fn retained_has_retain_1(cx: &Cx) -> Result<()> {
    cx.connect("pub")?.retain(&cx.topic("t"), "x", 1)?;
    for options in [1, 1 | AS_PUBLISHED] {
        // `retained` checks RETAIN.
        let found = retained(cx, "t", options)?;
        ensure!(found == one(cx, "t", "x", 1), "{found:?}");
    }
    Ok(())
}

fn resumed_session(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("+"), 1)?;
    let mut publisher = cx.connect("pub")?;
    publisher.retain(&cx.topic("t"), "x", 1)?;
    subscriber.take_this(&cx.topic("t"), "x")?;
    subscriber.settle()?;
    subscriber.disconnect()?;
    let mut subscriber = cx.resume("sub")?;
    publisher.publish_new(&cx.topic("marker"), "", 1)?;
    subscriber.take_this(&cx.topic("marker"), "")?;
    Ok(())
}
