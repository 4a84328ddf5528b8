//! Chapters 3.4 to 3.7: PUBACK, PUBREC, PUBREL, PUBCOMP.
//!
//! Spec: MQTT 5, 3.4 to 3.7; MQTT 3.1.1, 3.4 to 3.7.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only5};
use crate::decode::Packet;
use crate::packet::{PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, ack, ack_with, packet};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    both("puback_in_bytes", &["3.4.2-1"], &[], puback_in_bytes),
    only5("puback_without_subscribers_has_a_code_of_the_table", &["3.4.2-1"], puback_without_subscribers),
    only5("pubrec_has_a_code_of_the_table", &["3.5.2-1"], pubrec_codes),
    only5("pubcomp_of_an_unknown_identifier", &["3.7.2-1"], pubcomp_of_an_unknown_identifier),
    only5("pubrel_has_a_code_of_the_table", &["3.6.2-1"], pubrel_codes),
    only5("pubrel_answers_an_unknown_pubrec", &["3.6.2-1"], pubrel_answers_an_unknown_pubrec),
    only5("explanations_do_not_make_puback_too_large", &["3.4.2-2", "3.4.2-3"], puback_is_small_enough),
    only5(
        "explanations_do_not_make_qos_2_answers_too_large",
        &["3.5.2-2", "3.5.2-3", "3.7.2-2", "3.7.2-3"],
        qos_2_is_small_enough,
    ),
    only5("explanations_do_not_make_pubrel_too_large", &["3.6.2-2", "3.6.2-3"], pubrel_is_small_enough),
    both("pubrel_with_other_reserved_bits_is_malformed", &["3.6.1-1"], &["3.6.1-1"], pubrel_bits),
    only5("every_form_of_puback_is_understood", &["3.4.2-1"], every_form_of_puback),
    only5(
        "codes_that_do_not_belong_into_acknowledgements",
        &["3.4.2-1", "3.5.2-1", "3.6.2-1", "3.7.2-1"],
        codes_that_do_not_belong,
    ),
    both("acknowledgement_of_nothing_is_no_error", &[], &[], acknowledgement_of_nothing),
    both("acknowledgement_without_identifier_is_malformed", &[], &[], acknowledgement_without_identifier),
];

fn puback_in_bytes(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.connect("sub")?;
    subscriber.subscribe(&cx.topic("t"), 0)?;
    let mut client = cx.open("client")?;
    let publish = Publish::new(&cx.topic("t"), "x").qos(1, 0x1234).encode(cx.version);
    client.send(&cx.hello("client").encode())?;
    client.connack()?;
    client.send(&publish)?;
    subscriber.take()?;
    client.send(&[0xe0, 0])?;
    let mut bytes = Vec::new();
    client.raw_until_closed(&mut bytes)?;
    // The short form, or the code, or the code and no properties.
    let forms: &[&[u8]] = if cx.is_v5() {
        &[&[0x40, 2, 0x12, 0x34], &[0x40, 3, 0x12, 0x34, 0], &[0x40, 4, 0x12, 0x34, 0, 0]]
    } else {
        &[&[0x40, 2, 0x12, 0x34]]
    };
    ensure!(forms.contains(&bytes.as_slice()), "{bytes:02x?}");
    Ok(())
}

fn puback_without_subscribers(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.send_publish(&Publish::new(&cx.topic("nobody"), "x").qos(1, 1))?;
    let code = client.expect_ack(PUBACK, 1)?;
    ensure!([0, 0x10].contains(&code), "0x{code:02x}");
    Ok(())
}

fn pubrec_codes(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.send_publish(&Publish::new(&cx.topic("nobody"), "x").qos(2, 1))?;
    let code = client.expect_ack(PUBREC, 1)?;
    ensure!([0, 0x10].contains(&code), "0x{code:02x}");
    client.send(&ack(PUBREL, 1))?;
    let code = client.expect_ack(PUBCOMP, 1)?;
    ensure!(code == 0, "0x{code:02x}");
    Ok(())
}

fn pubcomp_of_an_unknown_identifier(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.send(&ack(PUBREL, 77))?;
    let code = client.expect_ack(PUBCOMP, 77)?;
    ensure!([0, 0x92].contains(&code), "0x{code:02x}");
    client.ping()
}

fn pubrel_codes(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.subscribe(&cx.topic("t"), 2)?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 2)?;
    let message = client.message()?;
    ensure!(message.qos == 2, "{message:?}");
    client.send(&ack(PUBREC, message.id))?;
    let code = client.expect_ack(PUBREL, message.id)?;
    ensure!(code == 0, "0x{code:02x}");
    client.send(&ack(PUBCOMP, message.id))?;
    client.ping()
}

fn pubrel_answers_an_unknown_pubrec(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.send(&ack(PUBREC, 99))?;
    // 0x92 says that it is not known; without a session to speak of, success is allowed too.
    let code = client.expect_ack(PUBREL, 99)?;
    ensure!([0, 0x92].contains(&code), "0x{code:02x}");
    client.ping()
}

fn puback_is_small_enough(cx: &Cx) -> Result<()> {
    // Four bytes: no room for more than the short form. `Connection` checks the size.
    let connect = cx.hello("client").property(p::four(p::MAX_PACKET_SIZE, 60));
    let (mut client, _) = cx.connect_with(&connect)?;
    client.packet_max = 6;
    client.publish_new(&cx.topic("nobody"), "x", 1)?;
    // A topic that may not be published to: PUBACK with a code, or DISCONNECT.
    client.send_publish(&Publish::new("$SYS/of/the/broker", "x").qos(1, 2))?;
    client.packet_max = 60;
    match client.packet()? {
        Packet::Ack(PUBACK, 2, _, properties) => ensure!(properties.0.is_empty(), "{properties:?}"),
        Packet::Disconnect(..) => {}
        other => anyhow::bail!("{other:?}"),
    }
    Ok(())
}

fn qos_2_is_small_enough(cx: &Cx) -> Result<()> {
    let connect = cx.hello("client").property(p::four(p::MAX_PACKET_SIZE, 60));
    let (mut client, _) = cx.connect_with(&connect)?;
    client.packet_max = 6;
    client.publish_new(&cx.topic("nobody"), "x", 2)?;
    client.send(&ack(PUBREL, 77))?;
    client.expect_ack(PUBCOMP, 77)?;
    Ok(())
}

fn pubrel_is_small_enough(cx: &Cx) -> Result<()> {
    let connect = cx.hello("client").property(p::four(p::MAX_PACKET_SIZE, 60));
    let (mut client, _) = cx.connect_with(&connect)?;
    client.packet_max = 6;
    client.send(&ack(PUBREC, 99))?;
    client.expect_ack(PUBREL, 99)?;
    client.ping()
}

fn pubrel_bits(cx: &Cx) -> Result<()> {
    (0..16).filter(|bits| *bits != 2).try_for_each(|bits| cx.fails(&packet(0x60 | bits, &[0, 1]), &[0x81]))
}

fn every_form_of_puback(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    let reason = [p::string(p::REASON_STRING, "why"), p::user("a", "b")].concat();
    for tail in [
        vec![],
        vec![0],
        vec![0, 0],
        vec![0x10],
        vec![0x80, 0],
        vec![0x87],
        vec![0x97, 0],
        [vec![0x83, reason.len() as u8], reason].concat(),
    ] {
        publisher.publish_new(&cx.topic("t"), "x", 1)?;
        let message = client.message()?;
        client.send(&packet(PUBACK, &[&message.id.to_be_bytes()[..], &tail].concat()))?;
        client.ping()?;
    }
    Ok(())
}

fn codes_that_do_not_belong(cx: &Cx) -> Result<()> {
    cx.fails(&ack_with(PUBACK, 1, 0x92), &[0x81, 0x82])?;
    cx.fails(&ack_with(PUBREC, 1, 0x01), &[0x81, 0x82])?;
    cx.fails(&ack_with(PUBREL, 1, 0x80), &[0x81, 0x82])?;
    cx.fails(&ack_with(PUBCOMP, 1, 0x10), &[0x81, 0x82])
}

fn acknowledgement_of_nothing(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.send(&ack(PUBACK, 1234))?;
    client.ping()?;
    client.send(&ack(PUBCOMP, 1234))?;
    client.ping()
}

fn acknowledgement_without_identifier(cx: &Cx) -> Result<()> {
    for first in [PUBACK, PUBREC, PUBREL, PUBCOMP] {
        cx.fails(&packet(first, &[]), &[0x81])?;
        cx.fails(&packet(first, &[0]), &[0x81])?;
    }
    Ok(())
}
