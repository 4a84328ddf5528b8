//! Chapter 4.3.3: quality of service 2, with every point at which a connection can break.
//!
//! Spec: MQTT 5, 4.3.3, 4.4; MQTT 3.1.1, 4.3.3, 4.4.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only5};
use crate::connection::Connection;
use crate::decode::Packet;
use crate::packet::{PUBCOMP, PUBREC, PUBREL, Publish, ack, ack_with};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    both(
        "qos_2_goes_through",
        &["4.3.3-1", "4.3.3-2", "4.3.3-4", "4.3.3-8", "4.3.3-11"],
        &["4.3.3-1", "4.3.3-2"],
        goes_through,
    ),
    both(
        "qos_2_identifiers_are_unused_until_pubcomp",
        &["4.3.3-1", "2.2.1-4"],
        &["4.3.3-1", "2.3.1-4"],
        identifiers_are_unused,
    ),
    both(
        "qos_2_receiver_resumes_before_pubrec",
        &["4.3.3-3", "4.4.0-1"],
        &["4.3.3-1", "4.4.0-1"],
        receiver_before_pubrec,
    ),
    both(
        "qos_2_receiver_resumes_after_pubrec",
        &["4.3.3-5", "4.3.3-6", "4.4.0-1"],
        &["4.3.3-1", "4.4.0-1"],
        receiver_after_pubrec,
    ),
    both("qos_2_publisher_resumes_before_pubrec", &["4.3.3-10"], &["4.3.3-2"], publisher_before_pubrec),
    both("qos_2_publisher_resumes_after_pubrec", &["4.3.3-11"], &["4.3.3-2"], publisher_after_pubrec),
    both("qos_2_repeated_publish_is_no_new_message", &["4.3.3-10"], &["4.3.3-2"], repeated_publish),
    both(
        "qos_2_identifier_after_pubcomp_is_a_new_message",
        &["4.3.3-12"],
        &["4.3.3-2"],
        identifier_after_pubcomp,
    ),
    both("qos_2_identifier_is_not_confused_with_qos_1", &[], &[], identifier_of_another_exchange),
    both("qos_2_repeated_pubrel_gets_pubcomp", &["4.3.3-11"], &["4.3.3-2"], repeated_pubrel),
    both("qos_2_exchange_ends_with_a_clean_session", &["3.1.2-4"], &["3.1.2-6"], ends_with_a_clean_session),
    only5("qos_2_pubrec_with_a_failure_ends_the_exchange", &["4.4.0-2"], pubrec_with_a_failure),
    only5("qos_2_message_that_was_sent_does_not_expire", &["4.3.3-7"], sent_does_not_expire),
    only5("qos_2_exchange_goes_on_after_expiry", &["4.3.3-13"], goes_on_after_expiry),
    both("qos_2_of_a_publisher_with_a_queue", &["4.3.3-8"], &["4.3.3-2"], queued),
];

/// A durable subscriber with QoS 2 and one message that was published.
fn receiver(cx: &Cx) -> Result<Connection> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 2)?;
    Ok(subscriber)
}

/// Nothing comes before the marker, which is published with the QoS and in the way of the others.
fn only_the_marker(cx: &Cx, subscriber: &mut Connection) -> Result<()> {
    cx.connect("marker")?.publish_new(&cx.topic("t"), "marker", 2)?;
    subscriber.take_this(&cx.topic("t"), "marker")?;
    Ok(())
}

fn goes_through(cx: &Cx) -> Result<()> {
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        subscriber.subscribe(&cx.topic("t"), 2)?;
        let mut publisher = cx.connect("pub")?;
        for payload in ["1", "2", "3"] {
            publisher.publish_new(&cx.topic("t"), payload, 2)?;
            let message = subscriber.take_this(&cx.topic("t"), payload)?;
            ensure!(message.qos == 2 && !message.dup, "{message:?}");
        }
        subscriber.settle()?;
        subscriber.unsubscribe(&[&cx.topic("t")])?;
    }
    Ok(())
}

fn identifiers_are_unused(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t"), "1", 2)?;
    let first = subscriber.message()?;
    subscriber.send(&ack(PUBREC, first.id))?;
    subscriber.expect_ack(PUBREL, first.id)?;
    // Between PUBREL and PUBCOMP the identifier is in use.
    for payload in ["2", "3"] {
        publisher.publish_new(&cx.topic("t"), payload, 2)?;
        let message = subscriber.take_this(&cx.topic("t"), payload)?;
        ensure!(message.id != first.id, "{message:?}");
    }
    subscriber.send(&ack(PUBCOMP, first.id))?;
    subscriber.ping()
}

fn receiver_before_pubrec(cx: &Cx) -> Result<()> {
    let mut subscriber = receiver(cx)?;
    let first = subscriber.message()?;
    for _ in 0..2 {
        drop(subscriber);
        subscriber = cx.resume("sub")?;
        let again = subscriber.message()?;
        ensure!(again.dup && again.qos == 2 && again.id == first.id && again.payload == b"x", "{again:?}");
    }
    subscriber.acknowledge(&first)?;
    only_the_marker(cx, &mut subscriber)
}

fn receiver_after_pubrec(cx: &Cx) -> Result<()> {
    let mut subscriber = receiver(cx)?;
    let message = subscriber.message()?;
    subscriber.send(&ack(PUBREC, message.id))?;
    subscriber.expect_ack(PUBREL, message.id)?;
    for _ in 0..2 {
        drop(subscriber);
        subscriber = cx.resume("sub")?;
        // PUBREL again, and not PUBLISH.
        subscriber.expect_ack(PUBREL, message.id)?;
    }
    subscriber.send(&ack(PUBCOMP, message.id))?;
    subscriber.settle()?;
    drop(subscriber);
    only_the_marker(cx, &mut cx.resume("sub")?)
}

fn publisher_before_pubrec(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    let mut publisher = cx.durable("pub")?;
    let publish = Publish::new(&cx.topic("t"), "x").qos(2, 9);
    publisher.send_publish(&publish)?;
    publisher.expect_ack(PUBREC, 9)?;
    // As if PUBREC had been lost: from another node the same PUBLISH again.
    for _ in 0..2 {
        drop(publisher);
        publisher = cx.resume("pub")?;
        publisher.send_publish(&publish.clone().dup())?;
        publisher.expect_ack(PUBREC, 9)?;
    }
    publisher.send(&ack(PUBREL, 9))?;
    publisher.expect_ack(PUBCOMP, 9)?;
    subscriber.take_this(&cx.topic("t"), "x")?;
    only_the_marker(cx, &mut subscriber)
}

fn publisher_after_pubrec(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    let mut publisher = cx.durable("pub")?;
    publisher.send_publish(&Publish::new(&cx.topic("t"), "x").qos(2, 9))?;
    publisher.expect_ack(PUBREC, 9)?;
    // PUBREL on another node, and once more as if PUBCOMP had been lost.
    for _ in 0..2 {
        drop(publisher);
        publisher = cx.resume("pub")?;
        publisher.send(&ack(PUBREL, 9))?;
        let code = publisher.expect_ack(PUBCOMP, 9)?;
        ensure!([0, 0x92].contains(&code), "0x{code:02x}");
    }
    subscriber.take_this(&cx.topic("t"), "x")?;
    only_the_marker(cx, &mut subscriber)
}

fn repeated_publish(cx: &Cx) -> Result<()> {
    for mut subscriber in [cx.connect("transient")?, cx.durable("durable")?] {
        subscriber.subscribe(&cx.topic("t"), 2)?;
        let mut publisher = cx.connect("pub")?;
        let publish = Publish::new(&cx.topic("t"), "x").qos(2, 9);
        // On the same connection.
        for publish in [publish.clone(), publish.clone().dup(), publish.dup()] {
            publisher.send_publish(&publish)?;
            publisher.expect_ack(PUBREC, 9)?;
        }
        publisher.send(&ack(PUBREL, 9))?;
        publisher.expect_ack(PUBCOMP, 9)?;
        subscriber.take_this(&cx.topic("t"), "x")?;
        only_the_marker(cx, &mut subscriber)?;
        subscriber.settle()?;
        subscriber.unsubscribe(&[&cx.topic("t")])?;
    }
    Ok(())
}

fn identifier_after_pubcomp(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    let mut publisher = cx.connect("pub")?;
    for (payload, dup) in [("1", false), ("2", false), ("3", true)] {
        publisher.publish(&Publish { dup, ..Publish::new(&cx.topic("t"), payload).qos(2, 9) })?;
        subscriber.take_this(&cx.topic("t"), payload)?;
    }
    Ok(())
}

fn identifier_of_another_exchange(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.connect("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish(&Publish::new(&cx.topic("t"), "1").qos(1, 9))?;
    publisher.publish(&Publish::new(&cx.topic("t"), "2").qos(2, 9))?;
    publisher.publish(&Publish::new(&cx.topic("t"), "3").qos(1, 9))?;
    ["1", "2", "3"].iter().try_for_each(|payload| subscriber.take_this(&cx.topic("t"), payload).map(drop))
}

fn repeated_pubrel(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.publish(&Publish::new(&cx.topic("t"), "x").qos(2, 9))?;
    publisher.send(&ack(PUBREL, 9))?;
    let code = publisher.expect_ack(PUBCOMP, 9)?;
    ensure!([0, 0x92].contains(&code), "0x{code:02x}");
    publisher.ping()
}

fn ends_with_a_clean_session(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    let mut publisher = cx.durable("pub")?;
    publisher.send_publish(&Publish::new(&cx.topic("t"), "old").qos(2, 9))?;
    publisher.expect_ack(PUBREC, 9)?;
    // A new session knows nothing of the identifier: with it comes a new message.
    drop(publisher);
    cx.connect("pub")?.publish(&Publish::new(&cx.topic("t"), "new").qos(2, 9))?;
    // The old one may have been delivered at PUBREC; where PUBREL is waited for, it is gone.
    let mut message = subscriber.take()?;
    if message.payload == b"old" {
        message = subscriber.take()?;
    }
    ensure!(message.payload == b"new", "{message:?}");
    Ok(())
}

fn pubrec_with_a_failure(cx: &Cx) -> Result<()> {
    let mut subscriber = receiver(cx)?;
    let message = subscriber.message()?;
    subscriber.send(&ack_with(PUBREC, message.id, 0x80))?;
    // No PUBREL, and not again.
    subscriber.ping()?;
    subscriber.settle()?;
    drop(subscriber);
    only_the_marker(cx, &mut cx.resume("sub")?)
}

fn sent_does_not_expire(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    let publish = Publish::new(&cx.topic("t"), "x").qos(2, 1).property(p::message_expiry(1));
    cx.connect("pub")?.publish(&publish)?;
    let message = subscriber.message()?;
    subscriber.abort()?;
    cx.lapse(Duration::from_millis(2200));
    let mut subscriber = cx.resume("sub")?;
    let again = subscriber.message()?;
    ensure!(again.dup && again.id == message.id, "{again:?}");
    subscriber.acknowledge(&again)
}

fn goes_on_after_expiry(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    subscriber.disconnect()?;
    let mut publisher = cx.connect("pub")?;
    let publish = Publish::new(&cx.topic("t"), "x").qos(2, 1).property(p::message_expiry(1));
    publisher.send_publish(&publish)?;
    publisher.expect_ack(PUBREC, 1)?;
    cx.lapse(Duration::from_millis(2200));
    publisher.send(&ack(PUBREL, 1))?;
    publisher.expect_ack(PUBCOMP, 1)?;
    // And towards a receiver: the exchange that was begun.
    let mut subscriber = cx.resume("sub")?;
    publisher.publish(&publish)?;
    let message = subscriber.message()?;
    subscriber.send(&ack(PUBREC, message.id))?;
    subscriber.expect_ack(PUBREL, message.id)?;
    cx.lapse(Duration::from_millis(2200));
    subscriber.abort()?;
    let mut subscriber = cx.resume("sub")?;
    subscriber.expect_ack(PUBREL, message.id)?;
    subscriber.send(&ack(PUBCOMP, message.id))?;
    subscriber.ping()
}

fn queued(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    subscriber.disconnect()?;
    let mut publisher = cx.connect("pub")?;
    (0..10_u8).try_for_each(|n| publisher.publish_new(&cx.topic("t"), [n], 2))?;
    let mut subscriber = cx.resume("sub")?;
    // Messages and PUBRELs may mix.
    let (mut next, mut released) = (0_u8, 0);
    while released < 10 {
        match subscriber.packet()? {
            Packet::Publish(message) => {
                ensure!(message.payload == [next] && message.qos == 2, "{message:?}");
                next += 1;
                subscriber.send(&ack(PUBREC, message.id))?;
            }
            Packet::Ack(PUBREL, id, 0, _) => {
                released += 1;
                subscriber.send(&ack(PUBCOMP, id))?;
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(next == 10, "{next} messages");
    Ok(())
}
