//! Chapters 4.1, 4.2, 4.5 and 4.6: session state, transport, delivery and order.
//!
//! Spec: MQTT 5, 4.1, 4.2, 4.5, 4.6; MQTT 3.1.1, 4.1, 4.2, 4.5, 4.6 and chapter 7.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only5};
use crate::connection::Connection;
use crate::decode::Packet;
use crate::packet::{PUBACK, PUBREC, PUBREL, Publish, ack};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    both("session_lasts_while_connected", &["4.1.0-1"], &["4.1.0-1", "4.1.0-2"], session_lasts),
    both(
        "bytes_arrive_whole_and_in_order",
        &["4.2-1", "4.2.0-1"],
        &["7.1.1-1", "7.0.0-2"],
        bytes_in_any_pieces,
    ),
    both("message_is_added_to_every_matching_session", &["4.5.0-1"], &["4.5.0-1"], every_matching_session),
    both("order_of_qos_0", &["4.6.0-5", "4.6.0-6"], &["4.6.0-5", "4.6.0-6"], order_of_qos_0),
    both("order_of_qos_1", &["4.6.0-5", "4.6.0-6"], &["4.6.0-5", "4.6.0-6"], order_of_qos_1),
    both("order_of_qos_2", &["4.6.0-5", "4.6.0-6"], &["4.6.0-5", "4.6.0-6"], order_of_qos_2),
    both("order_of_redelivery", &["4.6.0-5", "4.4.0-1"], &["4.6.0-1"], order_of_redelivery),
    both("order_of_pubacks", &[], &["4.6.0-2"], order_of_pubacks),
    both("order_of_pubrecs_and_pubcomps", &[], &["4.6.0-3"], order_of_pubrecs),
    both("order_of_pubrels", &[], &["4.6.0-4"], order_of_pubrels),
    only5("subscription_identifiers_are_session_state", &["4.1.0-1"], identifiers_are_state),
];

fn session_lasts(cx: &Cx) -> Result<()> {
    // A session without expiry is there for as long as its connection.
    let mut client = cx.connect("client")?;
    client.subscribe(&cx.topic("t"), 1)?;
    cx.lapse(Duration::from_millis(1500));
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 1)?;
    client.take_this(&cx.topic("t"), "x")?;
    Ok(())
}

fn bytes_in_any_pieces(cx: &Cx) -> Result<()> {
    let mut watcher = cx.connect("watcher")?;
    watcher.subscribe(&cx.topic("t"), 1)?;
    let mut client = cx.open("client")?;
    let publish = |n: u8| Publish::new(&cx.topic("t"), [n; 3]).qos(1, 1 + u16::from(n)).encode(cx.version);
    // One byte at a time, then several packets at once.
    for byte in [cx.hello("client").encode(), publish(0)].concat() {
        client.send(&[byte])?;
    }
    client.connack()?;
    client.expect_ack(PUBACK, 1)?;
    client.send(&(1..10).flat_map(publish).collect::<Vec<u8>>())?;
    (2..11).try_for_each(|id| client.expect_ack(PUBACK, id).map(drop))?;
    (0..10).try_for_each(|n| watcher.take_this(&cx.topic("t"), [n; 3]).map(drop))
}

fn every_matching_session(cx: &Cx) -> Result<()> {
    let mut here = [cx.connect("a")?, cx.durable("b")?, cx.connect("c")?, cx.durable("d")?];
    for (n, client) in here.iter_mut().enumerate() {
        client.subscribe(&cx.topic(["t/x", "t/+", "t/#", "+/x"][n]), 1)?;
    }
    for name in ["e", "f", "g"] {
        let mut client = cx.durable(name)?;
        client.subscribe(&cx.topic("t/x"), 1)?;
        client.disconnect()?;
    }
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&cx.topic("t/x"), "to all", 1)?;
    here.iter_mut().try_for_each(|client| client.take_this(&cx.topic("t/x"), "to all").map(drop))?;
    ["e", "f", "g"]
        .iter()
        .try_for_each(|name| cx.resume(name)?.take_this(&cx.topic("t/x"), "to all").map(drop))
}

fn order_of(cx: &Cx, mut subscriber: Connection, qos: u8) -> Result<()> {
    subscriber.subscribe(&cx.topic("t/+"), qos)?;
    let mut publisher = cx.connect("pub")?;
    // Within the Receive Maximum that any broker may be expected to have.
    let count: u16 = if qos == 2 { 16 } else { 100 };
    let bytes: Vec<u8> = (0..count)
        .flat_map(|n| {
            Publish::new(&cx.topic(&format!("t/{}", n % 2)), n.to_string()).qos(qos, n + 1).encode(cx.version)
        })
        .collect();
    publisher.send(&bytes)?;
    if qos == 2 {
        for id in 1..=count {
            publisher.expect_ack(PUBREC, id)?;
        }
        for id in 1..=count {
            publisher.send(&ack(PUBREL, id))?;
        }
    }
    let mut next = [0, 1];
    for _ in 0..count {
        let message = subscriber.take()?;
        let n: usize = String::from_utf8(message.payload)?.parse()?;
        ensure!(next[n % 2] == n, "{n} came when {} was due", next[n % 2]);
        next[n % 2] += 2;
    }
    Ok(())
}

fn order_of_qos_0(cx: &Cx) -> Result<()> {
    order_of(cx, cx.connect("a")?, 0)?;
    order_of(cx, cx.durable("b")?, 0)
}

fn order_of_qos_1(cx: &Cx) -> Result<()> {
    order_of(cx, cx.connect("a")?, 1)?;
    order_of(cx, cx.durable("b")?, 1)
}

fn order_of_qos_2(cx: &Cx) -> Result<()> {
    order_of(cx, cx.durable("b")?, 2)
}

fn order_of_redelivery(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    for n in 0..10_u8 {
        publisher.publish_new(&cx.topic("t"), [n], 1)?;
    }
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(subscriber.message()?.id);
    }
    // One in the middle is acknowledged.
    subscriber.send(&ack(PUBACK, ids[4]))?;
    subscriber.settle()?;
    subscriber.abort()?;
    let mut subscriber = cx.resume("sub")?;
    for n in (0..10_u8).filter(|n| *n != 4) {
        let again = subscriber.message()?;
        ensure!(again.payload == [n] && again.dup && again.id == ids[usize::from(n)], "{n}: {again:?}");
    }
    Ok(())
}

fn order_of_pubacks(cx: &Cx) -> Result<()> {
    let mut watcher = cx.durable("watcher")?;
    watcher.subscribe(&cx.topic("b"), 1)?;
    let mut publisher = cx.connect("pub")?;
    // Topics with and without a durable subscriber take different ways.
    let bytes: Vec<u8> = (1..=60_u16)
        .flat_map(|id| {
            Publish::new(&cx.topic(["a", "b", "c"][usize::from(id % 3)]), "x").qos(1, id).encode(cx.version)
        })
        .collect();
    publisher.send(&bytes)?;
    (1..=60).try_for_each(|id| publisher.expect_ack(PUBACK, id).map(drop))
}

fn order_of_pubrecs(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    let bytes: Vec<u8> = (1..=20_u16)
        .flat_map(|id| {
            Publish::new(&cx.topic(["a", "b"][usize::from(id % 2)]), "x").qos(2, id).encode(cx.version)
        })
        .collect();
    publisher.send(&bytes)?;
    (1..=20).try_for_each(|id| publisher.expect_ack(PUBREC, id).map(drop))?;
    publisher.send(&(1..=20).flat_map(|id| ack(PUBREL, id)).collect::<Vec<u8>>())?;
    (1..=20).try_for_each(|id| publisher.expect_ack(crate::packet::PUBCOMP, id).map(drop))
}

fn order_of_pubrels(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.connect("sub")?;
    subscriber.subscribe(&cx.topic("t"), 2)?;
    let mut publisher = cx.connect("pub")?;
    (0..5_u8).try_for_each(|n| publisher.publish_new(&cx.topic("t"), [n], 2))?;
    let mut ids = Vec::new();
    while ids.len() < 5 {
        ids.push(subscriber.message()?.id);
    }
    subscriber.send(&ids.iter().flat_map(|id| ack(PUBREC, *id)).collect::<Vec<u8>>())?;
    for id in ids {
        let packet = subscriber.packet()?;
        ensure!(matches!(packet, Packet::Ack(PUBREL, of, ..) if of == id), "PUBREL for {id}: {packet:?}");
    }
    Ok(())
}

fn identifiers_are_state(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.durable("sub")?;
    subscriber.subscribe_with(&p::subscription_id(42), &[(&cx.topic("t"), 1)])?;
    subscriber.disconnect()?;
    let mut subscriber = cx.resume("sub")?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 1)?;
    let ids = subscriber.take_this(&cx.topic("t"), "x")?.properties.numbers(p::SUBSCRIPTION_ID);
    ensure!(ids == [42], "{ids:?}");
    Ok(())
}
