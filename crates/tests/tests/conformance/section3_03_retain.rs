//! Chapter 3.3: retained messages.
//!
//! Spec: MQTT 5, 3.3.1.3 and 3.8.3.1; MQTT 3.1.1, 3.3.1.3.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only4, only5};
use crate::connection::Connection;
use crate::decode::Packet;
use crate::packet::{AS_PUBLISHED, RETAINED_IF_NEW, RETAINED_NEVER, subscribe};

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
    both("message_retained_after_suback_comes_once", &["3.3.1-12"], &["3.3.1-9"], retained_after_suback),
    only5("retain_as_published", &["3.3.1-13"], retain_as_published),
    only5("retained_message_has_retain_1_whatever_as_published_says", &[], retained_has_retain_1),
    both("resumed_session_gets_no_retained_messages", &[], &[], resumed_session),
];

/// Topic, payload and QoS of a message.
type Found = (String, Vec<u8>, u8);

/// A new subscription gets these retained messages, and no others.
fn gets(cx: &Cx, filter: &str, options: u8, wanted: &[Found]) -> Result<()> {
    gets_to(cx, &mut cx.connect("later")?, filter, options, wanted)
}

/// As [`gets`], of a client that is there. That no other comes is shown by the retained message of a further
/// subscription. RETAIN is 1, whatever the options say.
fn gets_to(cx: &Cx, subscriber: &mut Connection, filter: &str, options: u8, wanted: &[Found]) -> Result<()> {
    let ids = [subscriber.fresh_id(), subscriber.fresh_id()];
    let marker = cx.topic(&format!("the/retained/marker/{}", ids[1]));
    cx.connect("marker")?.retain(&marker, "marker", 1)?;
    let first = subscribe(cx.version, ids[0], &[], &[(&cx.topic(filter), options)]);
    let second = subscribe(cx.version, ids[1], &[], &[(&marker, 1)]);
    subscriber.send(&[first, second].concat())?;
    let (mut found, mut acked, mut marked) = (Vec::new(), 0, false);
    // They may come before SUBACK [3.8.4].
    while acked < 2 || !marked || found.len() < wanted.len() {
        match subscriber.packet()? {
            Packet::Suback(id, codes, _) if ids.contains(&id) && codes.len() == 1 && codes[0] < 3 => {
                acked += 1
            }
            Packet::Publish(message) => {
                subscriber.acknowledge(&message)?;
                ensure!(message.retain, "RETAIN of {message:?}");
                if message.topic == marker {
                    marked = true
                } else {
                    found.push((message.topic, message.payload, message.qos))
                }
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
    subscriber.unsubscribe(&[&marker])?;
    found.sort();
    ensure!(found == wanted, "retained messages for {filter}: {found:?}, not {wanted:?}");
    Ok(())
}

fn one(cx: &Cx, topic: &str, payload: &str, qos: u8) -> [Found; 1] {
    [(cx.topic(topic), payload.into(), qos)]
}

fn stored_and_replaced(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for payload in ["first", "second", "third"] {
        publisher.retain(&cx.topic("t"), payload, 1)?;
        gets(cx, "t", 1, &one(cx, "t", payload, 1))?;
    }
    Ok(())
}

fn keeps_its_qos(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.retain(&cx.topic("t"), "x", 1)?;
    for qos in [0, 1] {
        gets(cx, "t", qos, &one(cx, "t", "x", qos))?;
    }
    publisher.retain(&cx.topic("t"), "y", 0)?;
    // QoS 0 has no answer; the publisher's next one is behind it.
    publisher.retain(&cx.topic("other"), "z", 1)?;
    quorate_tests::wait_for("QoS 0 to be retained", || gets(cx, "t", 1, &one(cx, "t", "y", 0)).ok())?;
    Ok(())
}

fn empty_removes(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    let mut established = cx.connect("sub")?;
    gets_to(cx, &mut established, "t", 1, &[])?;
    publisher.retain(&cx.topic("t"), "x", 1)?;
    established.take_this(&cx.topic("t"), "x")?;
    publisher.retain(&cx.topic("t"), "", 1)?;
    // Forwarded as any other message.
    ensure!(!established.take_this(&cx.topic("t"), "")?.retain, "RETAIN");
    gets(cx, "t", 1, &[])?;
    // Where nothing was.
    publisher.retain(&cx.topic("nothing"), "", 1)?;
    gets(cx, "nothing", 1, &[])?;
    Ok(())
}

fn without_retain(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "not retained", 1)?;
    gets(cx, "t", 1, &[])?;
    publisher.retain(&cx.topic("t"), "kept", 1)?;
    publisher.publish_new(&cx.topic("t"), "not retained", 1)?;
    publisher.publish_new(&cx.topic("t"), "", 1)?;
    gets(cx, "t", 1, &one(cx, "t", "kept", 1))?;
    Ok(())
}

fn qos_0_discards(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.retain(&cx.topic("t"), "old", 1)?;
    publisher.retain(&cx.topic("t"), "new", 0)?;
    // The new one might be discarded at any time; here it is kept.
    quorate_tests::wait_for("the older message to be discarded", || {
        gets(cx, "t", 1, &one(cx, "t", "new", 0)).ok()
    })?;
    Ok(())
}

fn new_subscription(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.retain(&cx.topic("t"), "x", 1)?;
    gets(cx, "t", 1, &one(cx, "t", "x", 1))?;
    // To a session that lasts, too.
    let mut durable = cx.durable("durable")?;
    gets_to(cx, &mut durable, "t", 1, &one(cx, "t", "x", 1))?;
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
        let wanted: Vec<_> = topics.iter().map(|topic| (cx.topic(topic), (*topic).into(), 1)).collect();
        gets(cx, filter, 1, &wanted)?;
    }
    Ok(())
}

fn repeated_subscription(cx: &Cx) -> Result<()> {
    cx.connect("pub")?.retain(&cx.topic("t"), "x", 1)?;
    let mut subscriber = cx.durable("sub")?;
    for _ in 0..2 {
        gets_to(cx, &mut subscriber, "t", 1, &one(cx, "t", "x", 1))?;
    }
    Ok(())
}

fn retain_handling_1(cx: &Cx) -> Result<()> {
    cx.connect("pub")?.retain(&cx.topic("t"), "x", 1)?;
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        gets_to(cx, &mut subscriber, "t", 1 | RETAINED_IF_NEW, &one(cx, "t", "x", 1))?;
        gets_to(cx, &mut subscriber, "t", 1 | RETAINED_IF_NEW, &[])?;
        // Unsubscribed, it is new again.
        subscriber.unsubscribe(&[&cx.topic("t")])?;
        gets_to(cx, &mut subscriber, "t", 1 | RETAINED_IF_NEW, &one(cx, "t", "x", 1))?;
    }
    Ok(())
}

fn retain_handling_2(cx: &Cx) -> Result<()> {
    cx.connect("pub")?.retain(&cx.topic("t"), "x", 1)?;
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        for _ in 0..2 {
            gets_to(cx, &mut subscriber, "t", 1 | RETAINED_NEVER, &[])?;
        }
    }
    Ok(())
}

fn retain_handling_3(cx: &Cx) -> Result<()> {
    cx.fails(&subscribe(cx.version, 1, &[], &[("a", RETAINED_IF_NEW | RETAINED_NEVER)]), &[0x81, 0x82])
}

fn established_subscription(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        gets_to(cx, &mut subscriber, "t", 1, &[])?;
        for qos in [0, 1] {
            publisher.retain(&cx.topic("t"), [qos], qos)?;
            let message = subscriber.take_this(&cx.topic("t"), [qos])?;
            ensure!(!message.retain, "{message:?}");
        }
        publisher.retain(&cx.topic("t"), "", 1)?;
    }
    Ok(())
}

fn retained_after_suback(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        for n in 0..5 {
            let topic = cx.topic(&n.to_string());
            subscriber.subscribe(&topic, 1)?;
            // The subscription is established: it is an ordinary message to it, and no retained one.
            publisher.retain(&topic, "x", 1)?;
            publisher.publish_new(&topic, "marker", 1)?;
            ensure!(!subscriber.take_this(&topic, "x")?.retain, "RETAIN to an established subscription");
            subscriber.take_this(&topic, "marker")?;
            publisher.retain(&topic, "", 1)?;
            subscriber.take_this(&topic, "")?;
            subscriber.unsubscribe(&[&topic])?;
        }
    }
    Ok(())
}

fn retain_as_published(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        gets_to(cx, &mut subscriber, "t", 1 | AS_PUBLISHED, &[])?;
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
        gets(cx, "t", options, &one(cx, "t", "x", 1))?;
    }
    Ok(())
}

fn resumed_session(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    gets_to(cx, &mut subscriber, "+", 1, &[])?;
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
