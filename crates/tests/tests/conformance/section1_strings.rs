//! Chapter 1: how strings, numbers and pairs are written.
//!
//! Spec: MQTT 5, 1.5; MQTT 3.1.1, 1.5.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only5};
use crate::decode::Value;
use crate::packet::{Connect, Publish, UNSUBSCRIBE, binary, packet, properties, subscribe};
use crate::property::{self as p, bytes, user};

/// The cases.
pub const CASES: &[Case] = &[
    both("ill_formed_utf8_is_malformed", &["1.5.4-1"], &["1.5.3-1"], ill_formed_utf8_is_malformed),
    both("null_character_is_malformed", &["1.5.4-2"], &["1.5.3-2"], null_character_is_malformed),
    both("zero_width_no_break_space_is_kept", &["1.5.4-3"], &["1.5.3-3"], zero_width_no_break_space_is_kept),
    both("overlong_remaining_length_is_malformed", &["1.5.5-1"], &[], overlong_remaining_length_is_malformed),
    only5("overlong_property_length_is_malformed", &["1.5.5-1"], overlong_property_length_is_malformed),
    only5("string_pair_of_ill_formed_utf8_is_malformed", &["1.5.7-1"], string_pair_is_checked),
    only5("string_pair_is_forwarded_as_it_is", &["1.5.7-1"], string_pair_is_forwarded),
];

/// Not UTF-8: a lone continuation byte, an overlong slash, a surrogate, a code point above U+10FFFF, a cut sequence.
const ILL_FORMED: [&[u8]; 5] =
    [b"a\x80b", b"a\xc0\xafb", b"a\xed\xa0\x80b", b"a\xf4\x90\x80\x80b", b"a\xe2\x82"];

fn check_strings(cx: &Cx, bad: &[&[u8]]) -> Result<()> {
    for text in bad {
        // [MQTT-3.3.2-1], and the same of filters, client identifiers, user names and wills.
        cx.fails(
            &Publish { topic: text.to_vec(), ..Publish::new("", "x") }.encode(cx.version),
            &[0x81, 0x90],
        )?;
        let filter = [&[0, 1][..], &properties(cx.version, &[]), &binary(text)].concat();
        cx.fails(&packet(UNSUBSCRIBE, &filter), &[0x81, 0x8f])?;
        cx.fails(&packet(0x82, &[&filter[..], &[0]].concat()), &[0x81, 0x8f])?;
        cx.refused(&Connect { client_id: text.to_vec(), ..cx.hello("a") }, None, &[0x81, 0x85])?;
        cx.refused(&Connect { user: Some(text.to_vec()), ..cx.hello("b") }, None, &[0x81])?;
        let mut will = crate::packet::Will::new("", b"x");
        will.topic = text.to_vec();
        cx.refused(&cx.hello("c").will(will), None, &[0x81, 0x90])?;
    }
    Ok(())
}

fn ill_formed_utf8_is_malformed(cx: &Cx) -> Result<()> {
    check_strings(cx, &ILL_FORMED)
}

fn null_character_is_malformed(cx: &Cx) -> Result<()> {
    check_strings(cx, &[b"a\0b"])
}

fn zero_width_no_break_space_is_kept(cx: &Cx) -> Result<()> {
    let topic = format!("\u{feff}{}\u{feff}", cx.topic("t"));
    let (mut subscriber, mut publisher) = (cx.connect("sub")?, cx.connect("pub")?);
    // The filter without it is another one.
    subscriber.subscribe(&cx.topic("t"), 1)?;
    subscriber.subscribe(&topic, 1)?;
    publisher.publish_new(&topic, "with", 1)?;
    subscriber.take_this(&topic, "with")?;
    publisher.publish_new(&cx.topic("t"), "without", 1)?;
    subscriber.take_this(&cx.topic("t"), "without")?;
    Ok(())
}

fn overlong_remaining_length_is_malformed(cx: &Cx) -> Result<()> {
    // Five bytes of length are none in either version.
    cx.fails(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x01], &[0x81, 0x95])?;
    // PINGREQ, length 0 in two bytes: 5.0 demands the fewest.
    if cx.is_v5() { cx.fails(&[0xc0, 0x80, 0x00], &[0x81]) } else { Ok(()) }
}

fn overlong_property_length_is_malformed(cx: &Cx) -> Result<()> {
    // Length of the properties 0, in two bytes.
    cx.fails(&packet(0x30, b"\x00\x01t\x80\x00x"), &[0x81])?;
    // Subscription Identifier 1 in two bytes.
    let subscribe = subscribe(cx.version, 1, &[p::SUBSCRIPTION_ID, 0x81, 0x00], &[("a", 0)]);
    cx.fails(&subscribe, &[0x81])
}

fn string_pair_is_checked(cx: &Cx) -> Result<()> {
    for text in ILL_FORMED.iter().chain([&&b"a\0b"[..]]) {
        let (good, bad) = (binary(b"ok"), binary(text));
        for pair in [[&good[..], &bad].concat(), [&bad[..], &good].concat()] {
            let property = [&[p::USER_PROPERTY][..], &pair].concat();
            cx.fails(&Publish::new("t", "x").property(property.clone()).encode(cx.version), &[0x81])?;
            cx.refused(&cx.hello("a").property(property), None, &[0x81])?;
        }
    }
    Ok(())
}

fn string_pair_is_forwarded(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = (cx.connect("sub")?, cx.connect("pub")?);
    subscriber.subscribe(&cx.topic("t"), 1)?;
    let publish = Publish::new(&cx.topic("t"), "x").qos(1, 1);
    publisher.publish(
        &publish
            .property(user("", ""))
            .property(user("ключ", "\u{feff}"))
            .property(bytes(p::CORRELATION_DATA, b"")),
    )?;
    let message = subscriber.take()?;
    ensure!(message.properties.users() == [("", ""), ("ключ", "\u{feff}")], "{:?}", message.properties);
    ensure!(message.properties.all(p::CORRELATION_DATA).eq([&Value::Bytes(Vec::new())]), "Correlation Data");
    Ok(())
}
