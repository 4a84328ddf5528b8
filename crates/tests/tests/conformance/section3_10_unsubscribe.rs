//! Chapters 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.
//!
//! Spec: MQTT 5, 3.10 and 3.11; MQTT 3.1.1, 3.10 and 3.11.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only5};
use crate::decode::Packet;
use crate::packet::{UNSUBSCRIBE, packet, properties, unsubscribe};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    both("unsubscribe_with_other_reserved_bits_is_malformed", &["3.10.1-1"], &["3.10.1-1"], reserved_bits),
    both("filters_of_unsubscribe_are_strings", &["3.10.3-1"], &["3.10.3-1"], filters_are_strings),
    both("unsubscribe_without_filter_is_a_protocol_error", &["3.10.3-2"], &["3.10.3-2"], no_filter),
    both("unsubscribe_compares_by_character", &["3.10.4-1"], &["3.10.4-1"], compares_by_character),
    both("unsubscribed_client_gets_nothing_new", &["3.10.4-2"], &["3.10.4-2"], nothing_new),
    both("delivery_that_was_begun_is_completed", &["3.10.4-3"], &["3.10.4-3"], begun_is_completed),
    both(
        "qos_2_delivery_that_was_begun_is_completed",
        &["3.10.4-3"],
        &["3.10.4-3"],
        begun_qos_2_is_completed,
    ),
    both("unsuback_answers_with_its_identifier", &["3.10.4-4"], &["3.10.4-4"], unsuback_answers),
    both("unsuback_comes_where_nothing_was_deleted", &["3.10.4-5"], &["3.10.4-5"], nothing_deleted),
    both("several_filters_are_unsubscribed", &["3.10.4-6"], &["3.10.4-6"], several_filters),
    only5("explanations_do_not_make_unsuback_too_large", &["3.11.2-1", "3.11.2-2"], unsuback_is_small_enough),
    only5("unsuback_has_a_code_for_each_filter_in_order", &["3.11.3-1", "3.11.3-2"], code_for_each_filter),
];

fn reserved_bits(cx: &Cx) -> Result<()> {
    let body = unsubscribe(cx.version, 1, &["a"])[2..].to_vec();
    (0..16).filter(|bits| *bits != 2).try_for_each(|bits| cx.fails(&packet(0xa0 | bits, &body), &[0x81]))
}

fn with_payload(cx: &Cx, payload: &[u8]) -> Vec<u8> {
    packet(UNSUBSCRIBE, &[&[0, 1][..], &properties(cx.version, &[]), payload].concat())
}

fn filters_are_strings(cx: &Cx) -> Result<()> {
    for filter in [&b"\x00\x01\xff"[..], b"\x00\x03a\0b", b"\x00\x03\xed\xa0\x80", b"\x00\x09a"] {
        cx.fails(&with_payload(cx, filter), &[0x81, 0x8f])?;
    }
    Ok(())
}

fn no_filter(cx: &Cx) -> Result<()> {
    cx.fails(&with_payload(cx, &[]), &[0x82, 0x81])
}

fn compares_by_character(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    let mut publisher = cx.connect("pub")?;
    let filters = ["a/+", "a/#", "a/b"].map(|filter| cx.topic(filter));
    for filter in &filters {
        client.subscribe(filter, 1)?;
    }
    // Filters that match, or look alike, are others.
    client.unsubscribe(&[
        &cx.topic("a/c"),
        &cx.topic("A/b"),
        &cx.topic("a/b/"),
        &cx.topic("+/b"),
        &cx.topic("#"),
    ])?;
    publisher.publish_new(&cx.topic("a/b"), "1", 1)?;
    client.take_this(&cx.topic("a/b"), "1")?;
    for (left, filter) in filters.iter().enumerate().map(|(n, filter)| (2 - n, filter)) {
        client.unsubscribe(&[filter])?;
        publisher.publish_new(&cx.topic("a/b"), "2", 1)?;
        if left > 0 {
            client.take_this(&cx.topic("a/b"), "2")?;
        }
    }
    client.subscribe(&cx.topic("marker"), 1)?;
    publisher.publish_new(&cx.topic("marker"), "", 1)?;
    client.take_this(&cx.topic("marker"), "")?;
    Ok(())
}

fn nothing_new(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for mut client in [cx.connect("transient")?, cx.durable("durable")?] {
        client.subscribe_all(&[(&cx.topic("t"), 1), (&cx.topic("marker"), 1)])?;
        client.unsubscribe(&[&cx.topic("t")])?;
        for qos in [0, 1] {
            publisher.publish_new(&cx.topic("t"), "x", qos)?;
            publisher.publish_new(&cx.topic("marker"), "", qos)?;
            client.take_this(&cx.topic("marker"), "")?;
        }
    }
    Ok(())
}

fn begun_is_completed(cx: &Cx) -> Result<()> {
    let mut client = cx.durable("client")?;
    client.subscribe(&cx.topic("t"), 1)?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 1)?;
    let first = client.message()?;
    client.unsubscribe(&[&cx.topic("t")])?;
    client.abort()?;
    // It was not acknowledged: it comes again though the subscription is gone.
    let mut client = cx.resume("client")?;
    let again = client.take_this(&cx.topic("t"), "x")?;
    ensure!(again.dup && again.id == first.id, "{again:?}");
    Ok(())
}

fn begun_qos_2_is_completed(cx: &Cx) -> Result<()> {
    let mut client = cx.durable("client")?;
    client.subscribe(&cx.topic("t"), 2)?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 2)?;
    let message = client.message()?;
    client.unsubscribe(&[&cx.topic("t")])?;
    client.acknowledge(&message)?;
    client.ping()
}

fn unsuback_answers(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    for id in [1, 300, 65_535] {
        client.subscribe(&cx.topic("t"), 0)?;
        client.send(&unsubscribe(cx.version, id, &[&cx.topic("t")]))?;
        let unsuback = client.packet()?;
        ensure!(matches!(&unsuback, Packet::Unsuback(of, ..) if *of == id), "{unsuback:?}");
    }
    Ok(())
}

fn nothing_deleted(cx: &Cx) -> Result<()> {
    let codes = cx.connect("client")?.unsubscribe(&[&cx.topic("none")])?;
    let wanted: &[u8] = if cx.is_v5() { &[0x11] } else { &[] };
    ensure!(codes == wanted, "{codes:02x?}");
    Ok(())
}

fn several_filters(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.subscribe_all(&[(&cx.topic("a"), 1), (&cx.topic("b"), 1), (&cx.topic("c"), 1)])?;
    client.unsubscribe(&[&cx.topic("a"), &cx.topic("none"), &cx.topic("c")])?;
    let mut publisher = cx.connect("pub")?;
    ["a", "c", "b"].iter().try_for_each(|topic| publisher.publish_new(&cx.topic(topic), "x", 1))?;
    client.take_this(&cx.topic("b"), "x")?;
    Ok(())
}

fn unsuback_is_small_enough(cx: &Cx) -> Result<()> {
    let connect = cx.hello("client").property(p::four(p::MAX_PACKET_SIZE, 60));
    let (mut client, _) = cx.connect_with(&connect)?;
    // Header 2, identifier 2, no properties, two codes.
    client.packet_max = 7;
    client.unsubscribe(&[&cx.topic("a"), &cx.topic("b")])?;
    Ok(())
}

fn code_for_each_filter(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.subscribe_all(&[(&cx.topic("a"), 1), (&cx.topic("c"), 1)])?;
    let codes = client.unsubscribe(&[&cx.topic("a"), &cx.topic("b"), &cx.topic("c"), &cx.topic("a")])?;
    ensure!(codes == [0, 0x11, 0, 0x11], "{codes:02x?}");
    Ok(())
}
