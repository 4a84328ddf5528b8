//! Chapter 4.13 of 5.0, 4.8 of 3.1.1: errors and what they do not touch.
//!
//! Spec: MQTT 5, 4.13; MQTT 3.1.1, 4.8.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only5};
use crate::decode::Packet;
use crate::packet::{PUBACK, Publish, packet};

/// The cases.
pub const CASES: &[Case] = &[
    both("malformed_packet_closes", &["4.13.1-1"], &["4.8.0-1"], malformed_packet),
    both("error_of_one_client_does_not_touch_others", &["4.13.1-1"], &[], others_are_not_touched),
    both("what_came_before_the_error_counts", &[], &[], what_came_before),
    both("session_survives_an_error_of_its_connection", &[], &[], session_survives),
    both("every_cut_packet_is_malformed_or_waited_for", &["4.13.1-1"], &["4.8.0-1"], cut_packets),
    only5("refusal_of_connect_closes", &["4.13.2-1", "3.2.2-7"], refusal_closes),
];

fn malformed_packet(cx: &Cx) -> Result<()> {
    for bytes in [
        packet(0x30, &[0xff]),
        packet(0x32, b"\x00\x01t\x00"),
        packet(0x82, &[0]),
        packet(0xa2, &[0]),
        packet(0x40, &[0]),
        vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01],
    ] {
        cx.fails(&bytes, &[0x81, 0x82, 0x95])?;
    }
    Ok(())
}

fn others_are_not_touched(cx: &Cx) -> Result<()> {
    let mut other = cx.connect("other")?;
    other.subscribe(&cx.topic("t"), 1)?;
    cx.fails(&packet(0x30, &[0xff]), &[0x81])?;
    cx.fails(&cx.hello("bad").encode(), &[0x82])?;
    other.publish_new(&cx.topic("else"), "x", 1)?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 1)?;
    other.take_this(&cx.topic("t"), "x")?;
    Ok(())
}

fn what_came_before(cx: &Cx) -> Result<()> {
    let mut watcher = cx.connect("watcher")?;
    watcher.subscribe(&cx.topic("t"), 1)?;
    let mut client = cx.connect("client")?;
    let before = Publish::new(&cx.topic("t"), "before").encode(cx.version);
    let after = Publish::new(&cx.topic("t"), "after").encode(cx.version);
    client.send(&[before, packet(0x30, &[0xff]), after].concat())?;
    client.fails(&[0x81])?;
    watcher.take_this(&cx.topic("t"), "before")?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "marker", 0)?;
    watcher.take_this(&cx.topic("t"), "marker")?;
    Ok(())
}

fn session_survives(cx: &Cx) -> Result<()> {
    let mut client = cx.durable("client")?;
    client.subscribe(&cx.topic("t"), 1)?;
    client.send(&packet(0x30, &[0xff]))?;
    client.fails(&[0x81])?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 1)?;
    cx.resume("client")?.take_this(&cx.topic("t"), "x")?;
    Ok(())
}

fn cut_packets(cx: &Cx) -> Result<()> {
    // Each prefix of a body, with its own right length: no reading beyond the end, no crash, no hanging.
    let packets = [
        crate::packet::subscribe(cx.version, 1, &[], &[("a/b", 0)]),
        crate::packet::unsubscribe(cx.version, 1, &["a/b"]),
        Publish::new("a/b", "").qos(1, 1).encode(cx.version),
    ];
    for whole in packets {
        for end in 2..whole.len() {
            let mut client = cx.connect("client")?;
            client.send(&packet(whole[0], &whole[2..end]))?;
            client.send(&[0xc0, 0])?;
            match client.read()? {
                None | Some(Packet::Disconnect(0x81 | 0x82 | 0x90 | 0x8f, _)) => {}
                // In 3.1.1 a PUBLISH may end with its identifier.
                Some(Packet::Ack(PUBACK, 1, ..)) if whole[0] == 0x32 => {}
                other => anyhow::bail!("{end} bytes of {whole:02x?}: {other:?}"),
            }
        }
    }
    Ok(())
}

fn refusal_closes(cx: &Cx) -> Result<()> {
    let mut client = cx.open("client")?;
    let bad = cx.hello("client").property(crate::property::two(crate::property::RECEIVE_MAX, 0));
    client.send(&[bad.encode(), vec![0xc0, 0]].concat())?;
    let connack = client.connack()?;
    ensure!(connack.code >= 0x80, "{connack:?}");
    client.closed()
}
