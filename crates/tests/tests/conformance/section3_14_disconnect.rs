//! Chapter 3.14: DISCONNECT.
//!
//! Spec: MQTT 5, 3.14; MQTT 3.1.1, 3.14.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only5};
use crate::packet::{Connect, DISCONNECT, Publish, packet, subscribe, varint};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    only5("no_disconnect_before_connack", &["3.14.0-1"], no_disconnect_before_connack),
    both("disconnect_with_other_reserved_bits_is_malformed", &["3.14.1-1"], &["3.14.1-1"], reserved_bits),
    both("disconnect_closes", &["3.14.4-2"], &["3.14.4-1"], disconnect_closes),
    both("nothing_behind_disconnect_is_processed", &["3.14.4-1"], &["3.14.4-2"], nothing_behind_disconnect),
    only5(
        "nothing_is_sent_behind_the_servers_disconnect",
        &["3.14.4-1", "3.14.4-2", "4.13.2-1"],
        nothing_behind_the_servers,
    ),
    only5("disconnect_of_the_server_has_a_code_of_the_table", &["3.14.2-1", "3.14.2-2"], codes_of_the_server),
    only5("codes_that_a_client_may_not_send", &["3.14.2-1"], codes_of_the_client),
    only5("every_code_of_a_client_closes", &["3.14.2-1"], every_code_of_a_client),
    only5(
        "explanations_do_not_make_disconnect_too_large",
        &["3.14.2-3", "3.14.2-4"],
        disconnect_is_small_enough,
    ),
    only5("session_expiry_is_changed_by_disconnect", &[], session_expiry_is_changed),
    only5("session_is_ended_by_disconnect", &[], session_is_ended),
    only5("session_expiry_from_0_is_a_protocol_error", &[], session_expiry_from_0),
];

fn no_disconnect_before_connack(cx: &Cx) -> Result<()> {
    // Whatever is wrong before CONNACK, DISCONNECT is not the answer; nor after a CONNACK that refuses.
    for bytes in [
        Publish::new("t", "x").encode(cx.version),
        vec![0x10, 0xff, 0xff, 0xff, 0xff, 0x01],
        cx.hello("a").property(p::two(p::RECEIVE_MAX, 0)).encode(),
        Connect { client_id: vec![b'x'; 2000], ..cx.hello("a") }.encode(),
        Connect { flags: Some(3), ..cx.hello("a") }.encode(),
    ] {
        let mut client = cx.open("client")?;
        client.send(&bytes)?;
        let mut answer = Vec::new();
        client.raw_until_closed(&mut answer)?;
        ensure!(answer.first().is_none_or(|first| *first == 0x20), "{answer:02x?}");
        let whole = answer.is_empty() || answer.len() == 2 + usize::from(answer[1]);
        ensure!(whole, "something behind CONNACK: {answer:02x?}");
    }
    Ok(())
}

fn reserved_bits(cx: &Cx) -> Result<()> {
    (1..16).try_for_each(|bits| cx.fails(&[0xe0 | bits, 0], &[0x81]))
}

fn disconnect_closes(cx: &Cx) -> Result<()> {
    cx.connect("client")?.disconnect()?;
    if !cx.is_v5() {
        return cx.fails(&[0xe0, 1, 0], &[]);
    }
    for body in [vec![], vec![0], vec![0, 0]] {
        let mut client = cx.connect("client")?;
        client.send(&packet(DISCONNECT, &body))?;
        client.closed()?;
    }
    Ok(())
}

fn nothing_behind_disconnect(cx: &Cx) -> Result<()> {
    let mut watcher = cx.connect("watcher")?;
    watcher.subscribe(&cx.topic("#"), 1)?;
    let mut client = cx.connect("client")?;
    let publish = Publish::new(&cx.topic("t"), "behind").encode(cx.version);
    client.send(&[vec![0xe0, 0], publish.clone(), vec![0xc0, 0]].concat())?;
    client.closed()?;
    let mut other = cx.connect("other")?;
    for qos in [0, 1] {
        other.publish_new(&cx.topic("marker"), "", qos)?;
        watcher.take_this(&cx.topic("marker"), "")?;
    }
    Ok(())
}

fn nothing_behind_the_servers(cx: &Cx) -> Result<()> {
    // What is behind the malformed packet is not answered; `fails` wants the end right behind DISCONNECT.
    let bad = Publish::new("#", "x").encode(cx.version);
    cx.fails(&[bad, vec![0xc0, 0], subscribe(cx.version, 1, &[], &[("a", 0)])].concat(), &[0x81, 0x90])?;
    // A taken over connection gets nothing more, though messages wait for it.
    let mut older = cx.durable("client")?;
    older.subscribe(&cx.topic("t"), 1)?;
    let _newer = cx.resume("client")?;
    older.fails(&[0x8e])
}

fn codes_of_the_server(cx: &Cx) -> Result<()> {
    // `decode` checks code and properties of each.
    cx.fails(&[0xc0, 1, 0], &[0x81])?;
    cx.fails(&cx.hello("bad").encode(), &[0x82])?;
    cx.fails(&Publish::new("t", "x").property(p::alias(0)).encode(cx.version), &[0x94])?;
    cx.fails(&Publish::new("t", "x").property(p::alias(65_535)).encode(cx.version), &[0x94])?;
    let too_large = [&[0x30][..], &varint(268_435_455)].concat();
    cx.fails(&too_large, &[0x95])?;
    let mut older = cx.connect("client")?;
    let _newer = cx.connect("client")?;
    older.fails(&[0x8e])
}

fn codes_of_the_client(cx: &Cx) -> Result<()> {
    // A server's codes, and numbers that are none.
    for code in [0x01, 0x03, 0x10, 0x84, 0x87, 0x8b, 0x8d, 0x8e, 0x9c, 0xa3, 0xff] {
        cx.fails(&packet(DISCONNECT, &[code]), &[0x81, 0x82])?;
    }
    Ok(())
}

fn every_code_of_a_client(cx: &Cx) -> Result<()> {
    let reason = [p::string(p::REASON_STRING, "why"), p::user("a", "b")].concat();
    for code in [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99] {
        let mut client = cx.connect("client")?;
        client.send(&packet(DISCONNECT, &[&[code, reason.len() as u8][..], &reason].concat()))?;
        client.closed()?;
    }
    Ok(())
}

fn disconnect_is_small_enough(cx: &Cx) -> Result<()> {
    let connect = cx.hello("client").property(p::four(p::MAX_PACKET_SIZE, 32));
    for bad in [Publish::new("#", "x").encode(cx.version), cx.hello("client").encode(), vec![0xc0, 1, 0]] {
        let (mut client, _) = cx.connect_with(&connect)?;
        // Not much smaller, as CONNACK has to fit too; `Connection` checks the size.
        client.send(&bad)?;
        client.fails(&[0x81, 0x82, 0x90])?;
    }
    Ok(())
}

fn leave(cx: &Cx, connect: &Connect, seconds: u32) -> Result<()> {
    let (mut client, _) = cx.connect_with(connect)?;
    client.send(&packet(DISCONNECT, &[&[0, 5][..], &p::session_expiry(seconds)].concat()))?;
    client.closed()
}

fn session_expiry_is_changed(cx: &Cx) -> Result<()> {
    // Longer: the session is there after what was agreed first.
    leave(cx, &cx.hello("long").resume().property(p::session_expiry(1)), 3600)?;
    // Shorter: it is gone.
    leave(cx, &cx.hello("short").durable(), 1)?;
    cx.lapse(Duration::from_millis(2500));
    cx.resume("long")?;
    let (_, connack) = cx.connect_with(&cx.hello("short").durable())?;
    ensure!(!connack.present, "the session is there after its new expiry");
    Ok(())
}

fn session_is_ended(cx: &Cx) -> Result<()> {
    leave(cx, &cx.hello("client").durable(), 0)?;
    let (_, connack) = cx.connect_with(&cx.hello("client").durable())?;
    ensure!(!connack.present, "the session is there after it was ended");
    Ok(())
}

fn session_expiry_from_0(cx: &Cx) -> Result<()> {
    for connect in [cx.hello("client"), cx.hello("client").property(p::session_expiry(0))] {
        let (mut client, _) = cx.connect_with(&connect)?;
        client.send(&packet(DISCONNECT, &[&[0, 5][..], &p::session_expiry(10)].concat()))?;
        client.fails(&[0x82])?;
    }
    Ok(())
}
