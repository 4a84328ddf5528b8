//! Chapters 4.3 and 4.4: quality of service 0 and 1, and what is sent again.
//!
//! Spec: MQTT 5, 4.3.1, 4.3.2, 4.4; MQTT 3.1.1, 4.3.1, 4.3.2, 4.4.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only5};
use crate::packet::{PUBACK, Publish, ack, ack_with};

/// The cases.
pub const CASES: &[Case] = &[
    both("qos_0_is_sent_once", &["4.3.1-1"], &["4.3.1-1"], qos_0),
    both("qos_1_has_an_unused_identifier", &["4.3.2-1", "4.3.2-2"], &["4.3.2-1"], qos_1_sender),
    both(
        "qos_1_is_unacknowledged_until_puback",
        &["4.3.2-3", "4.4.0-1"],
        &["4.3.2-1", "4.4.0-1"],
        until_puback,
    ),
    both("qos_1_is_not_sent_again_while_connected", &["4.4.0-1"], &[], not_again_while_connected),
    both("puback_takes_ownership", &["4.3.2-4"], &["4.3.2-2"], puback_takes_ownership),
    both("identifier_after_puback_is_a_new_message", &["4.3.2-5"], &["4.3.2-2"], identifier_after_puback),
    only5("puback_with_a_failure_is_an_acknowledgement", &["4.4.0-2"], puback_with_a_failure),
    both("acknowledged_message_does_not_come_again", &["4.4.0-1"], &["4.4.0-1"], not_again_after_puback),
];

fn qos_0(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "x", 0)?;
    let message = subscriber.take_this(&cx.topic("t"), "x")?;
    ensure!(message.qos == 0 && !message.dup, "{message:?}");
    subscriber.abort()?;
    let mut subscriber = cx.resume("sub")?;
    publisher.publish_new(&cx.topic("t"), "marker", 1)?;
    subscriber.take_this(&cx.topic("t"), "marker")?;
    Ok(())
}

fn qos_1_sender(cx: &Cx) -> Result<()> {
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        subscriber.subscribe(&cx.topic("t"), 1)?;
        let mut publisher = cx.connect("pub")?;
        let mut ids = Vec::new();
        for n in 0..5_u8 {
            publisher.publish_new(&cx.topic("t"), [n], 1)?;
            let message = subscriber.message()?;
            ensure!(message.qos == 1 && !message.dup && !ids.contains(&message.id), "{message:?}");
            ids.push(message.id);
        }
        ids.iter().try_for_each(|id| subscriber.send(&ack(PUBACK, *id)))?;
        subscriber.unsubscribe(&[&cx.topic("t")])?;
    }
    Ok(())
}

fn until_puback(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "x", 1)?;
    let first = subscriber.message()?;
    for _ in 0..3 {
        drop(subscriber);
        subscriber = cx.resume("sub")?;
        let again = subscriber.message()?;
        ensure!(again.id == first.id && again.dup && again.payload == b"x", "{again:?}");
    }
    subscriber.send(&ack(PUBACK, first.id))?;
    subscriber.settle()?;
    drop(subscriber);
    let mut subscriber = cx.resume("sub")?;
    publisher.publish_new(&cx.topic("t"), "marker", 1)?;
    subscriber.take_this(&cx.topic("t"), "marker")?;
    Ok(())
}

fn not_again_while_connected(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "x", 1)?;
    let message = subscriber.message()?;
    cx.lapse(std::time::Duration::from_millis(1500));
    subscriber.ping()?;
    subscriber.acknowledge(&message)?;
    subscriber.ping()
}

fn puback_takes_ownership(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    subscriber.disconnect()?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "x", 1)?;
    // The publisher is gone without a word; the message is the broker's.
    drop(publisher);
    cx.resume("sub")?.take_this(&cx.topic("t"), "x")?;
    Ok(())
}

fn identifier_after_puback(cx: &Cx) -> Result<()> {
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        subscriber.subscribe(&cx.topic("t"), 1)?;
        let mut publisher = cx.connect("pub")?;
        for (payload, dup) in [("1", false), ("2", false), ("3", true), ("4", true)] {
            let publish = Publish { dup, ..Publish::new(&cx.topic("t"), payload).qos(1, 7) };
            publisher.publish(&publish)?;
            subscriber.take_this(&cx.topic("t"), payload)?;
        }
        subscriber.unsubscribe(&[&cx.topic("t")])?;
    }
    Ok(())
}

fn puback_with_a_failure(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    for code in [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] {
        publisher.publish_new(&cx.topic("t"), "x", 1)?;
        let message = subscriber.message()?;
        subscriber.send(&ack_with(PUBACK, message.id, code))?;
    }
    subscriber.settle()?;
    subscriber.abort()?;
    let mut subscriber = cx.resume("sub")?;
    publisher.publish_new(&cx.topic("t"), "marker", 1)?;
    subscriber.take_this(&cx.topic("t"), "marker")?;
    Ok(())
}

fn not_again_after_puback(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    for n in 0..10_u8 {
        publisher.publish_new(&cx.topic("t"), [n], 1)?;
        subscriber.take_this(&cx.topic("t"), [n])?;
        // The broker has read PUBACK and DISCONNECT when it closes.
        subscriber.disconnect()?;
        subscriber = cx.resume("sub")?;
    }
    Ok(())
}
