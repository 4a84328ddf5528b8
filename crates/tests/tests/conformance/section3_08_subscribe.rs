//! Chapters 3.8 and 3.9: SUBSCRIBE and SUBACK.
//!
//! Spec: MQTT 5, 3.8 and 3.9; MQTT 3.1.1, 3.8 and 3.9.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both, only4, only5};
use crate::decode::Packet;
use crate::packet::{AS_PUBLISHED, NO_LOCAL, RETAINED_NEVER, SUBSCRIBE, packet, properties, subscribe};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    both("subscribe_with_other_reserved_bits_is_malformed", &["3.8.1-1"], &["3.8.1-1"], reserved_bits),
    both("filters_of_subscribe_are_strings", &["3.8.3-1"], &["3.8.3-1"], filters_are_strings),
    both("subscribe_without_filter_is_a_protocol_error", &["3.8.3-2"], &["3.8.3-3", "4.8.0-1"], no_filter),
    both("subscribe_cut_off_is_malformed", &[], &[], cut_off),
    only5("no_local_keeps_own_messages_away", &["3.8.3-3"], no_local),
    only5("no_local_holds_for_the_client_identifier", &["3.8.3-3"], no_local_holds_for_the_client_identifier),
    only5("no_local_of_a_queued_message", &["3.8.3-3"], no_local_queued),
    only5("no_local_with_overlapping_subscriptions", &[], no_local_overlapping),
    only5("no_local_on_a_shared_subscription_is_a_protocol_error", &["3.8.3-4"], no_local_shared),
    only5("reserved_bits_of_the_options_are_malformed", &["3.8.3-5"], reserved_option_bits),
    only4("reserved_bits_of_the_qos_are_malformed", &["3-8.3-4"], reserved_qos_bits),
    both("requested_qos_3_is_malformed", &[], &["3-8.3-4"], qos_3),
    both(
        "suback_answers_with_its_identifier",
        &["3.8.4-1", "3.8.4-2"],
        &["3.8.4-1", "3.8.4-2"],
        suback_answers,
    ),
    both("same_filter_replaces_the_subscription", &["3.8.4-3"], &["3.8.4-3"], same_filter_replaces),
    only5("same_filter_replaces_all_options", &["3.8.4-3"], same_filter_replaces_all_options),
    both(
        "messages_flow_while_a_subscription_is_replaced",
        &["3.8.4-4"],
        &["3.8.4-3"],
        messages_flow_while_replaced,
    ),
    both("several_filters_are_as_one_after_another", &["3.8.4-5"], &["3.8.4-4"], several_filters),
    both("same_filter_twice_in_one_subscribe", &["3.8.4-5"], &["3.8.4-4"], same_filter_twice),
    both(
        "code_for_each_filter_in_order",
        &["3.8.4-6", "3.8.4-7", "3.9.3-1", "3.9.3-2"],
        &["3.8.4-5", "3.9.3-1", "3.9.3-2"],
        code_for_each_filter,
    ),
    both("lower_qos_counts", &["3.8.4-8"], &["3.8.4-6"], lower_qos),
    both("lower_qos_counts_with_qos_2", &["3.8.4-8"], &["3.8.4-6"], lower_qos_with_qos_2),
    only5("explanations_do_not_make_suback_too_large", &["3.9.2-1", "3.9.2-2"], suback_is_small_enough),
    only5("subscription_identifier_0_is_a_protocol_error", &[], subscription_identifier_0),
    only5("subscription_identifier_is_replaced", &[], subscription_identifier_is_replaced),
    both("many_filters_in_one_subscribe", &[], &[], many_filters),
];

fn reserved_bits(cx: &Cx) -> Result<()> {
    let body = subscribe(cx.version, 1, &[], &[("a", 0)])[2..].to_vec();
    (0..16).filter(|bits| *bits != 2).try_for_each(|bits| cx.fails(&packet(0x80 | bits, &body), &[0x81]))
}

fn with_payload(cx: &Cx, payload: &[u8]) -> Vec<u8> {
    packet(SUBSCRIBE, &[&[0, 1][..], &properties(cx.version, &[]), payload].concat())
}

fn filters_are_strings(cx: &Cx) -> Result<()> {
    for filter in [&b"\x00\x01\xff\x00"[..], b"\x00\x03a\0b\x00", b"\x00\x03\xed\xa0\x80\x00"] {
        cx.fails(&with_payload(cx, filter), &[0x81, 0x8f])?;
    }
    Ok(())
}

fn no_filter(cx: &Cx) -> Result<()> {
    cx.fails(&with_payload(cx, &[]), &[0x82, 0x81])
}

fn cut_off(cx: &Cx) -> Result<()> {
    // A filter longer than the packet; one without options.
    cx.fails(&with_payload(cx, b"\x00\x09a\x00"), &[0x81])?;
    cx.fails(&with_payload(cx, b"\x00\x01a"), &[0x81])
}

fn no_local(cx: &Cx) -> Result<()> {
    for mut client in [cx.connect("transient")?, cx.durable("durable")?] {
        client.subscribe(&cx.topic("t"), 1 | NO_LOCAL)?;
        let mut other = cx.connect("other")?;
        for qos in [0, 1] {
            client.publish_new(&cx.topic("t"), "own", qos)?;
            client.ping()?;
            other.publish_new(&cx.topic("t"), "other's", qos)?;
            client.take_this(&cx.topic("t"), "other's")?;
        }
        // Retained messages are not forwarded from a connection.
        client.unsubscribe(&[&cx.topic("t")])?;
    }
    Ok(())
}

fn no_local_holds_for_the_client_identifier(cx: &Cx) -> Result<()> {
    // The publishing connection is another one than the one that subscribed.
    let mut client = cx.durable("client")?;
    client.subscribe(&cx.topic("t"), 1 | NO_LOCAL)?;
    client.disconnect()?;
    let mut client = cx.resume("client")?;
    client.publish_new(&cx.topic("t"), "own", 1)?;
    cx.connect("other")?.publish_new(&cx.topic("t"), "other's", 1)?;
    client.take_this(&cx.topic("t"), "other's")?;
    Ok(())
}

fn no_local_queued(cx: &Cx) -> Result<()> {
    let connect = cx.hello("client").durable().property(p::two(p::RECEIVE_MAX, 1));
    let (mut client, _) = cx.connect_with(&connect)?;
    client.subscribe(&cx.topic("t"), 1 | NO_LOCAL)?;
    let mut other = cx.connect("other")?;
    other.publish_new(&cx.topic("t"), "1", 1)?;
    let first = client.message()?;
    // The window is full: what follows is queued, or thrown away.
    client.publish_new(&cx.topic("t"), "own", 1)?;
    other.publish_new(&cx.topic("t"), "2", 1)?;
    client.acknowledge(&first)?;
    client.take_this(&cx.topic("t"), "2")?;
    Ok(())
}

fn no_local_overlapping(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    client.subscribe_with(&p::subscription_id(1), &[(&cx.topic("t"), 1 | NO_LOCAL)])?;
    client.subscribe_with(&p::subscription_id(2), &[(&cx.topic("+"), 0)])?;
    client.send_publish(&crate::packet::Publish::new(&cx.topic("t"), "own"))?;
    // It comes by the other subscription alone.
    let message = client.take_this(&cx.topic("t"), "own")?;
    let ids = message.properties.numbers(p::SUBSCRIPTION_ID);
    ensure!(ids == [2], "{ids:?}");
    Ok(())
}

fn no_local_shared(cx: &Cx) -> Result<()> {
    let filter = format!("$share/group/{}", cx.topic("t"));
    cx.fails(&subscribe(cx.version, 1, &[], &[(&filter, 1 | NO_LOCAL)]), &[0x82])
}

fn reserved_option_bits(cx: &Cx) -> Result<()> {
    [0x40, 0x80, 0xc0]
        .iter()
        .try_for_each(|bits| cx.fails(&subscribe(cx.version, 1, &[], &[("a", *bits)]), &[0x81]))
}

fn reserved_qos_bits(cx: &Cx) -> Result<()> {
    (2..8).try_for_each(|bit| cx.fails(&subscribe(cx.version, 1, &[], &[("a", 1 << bit)]), &[]))
}

fn qos_3(cx: &Cx) -> Result<()> {
    cx.fails(&subscribe(cx.version, 1, &[], &[("a", 3)]), &[0x81, 0x82])
}

fn suback_answers(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    for id in [1, 300, 65_535] {
        client.send(&subscribe(cx.version, id, &[], &[(&cx.topic("t"), 1)]))?;
        let suback = client.packet()?;
        ensure!(matches!(&suback, Packet::Suback(of, codes, _) if *of == id && codes == &[1]), "{suback:?}");
    }
    // Several at once: each has its answer.
    let bytes: Vec<u8> =
        (10..20).flat_map(|id| subscribe(cx.version, id, &[], &[(&cx.topic(&id.to_string()), 0)])).collect();
    client.send(&bytes)?;
    let mut seen = Vec::new();
    while seen.len() < 10 {
        match client.packet()? {
            Packet::Suback(id, codes, _) if codes == [0] => seen.push(id),
            other => anyhow::bail!("{other:?}"),
        }
    }
    seen.sort_unstable();
    ensure!(seen == (10..20).collect::<Vec<u16>>(), "{seen:?}");
    Ok(())
}

fn same_filter_replaces(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for mut client in [cx.connect("transient")?, cx.durable("durable")?] {
        for qos in [0, 1, 0] {
            client.subscribe(&cx.topic("t"), qos)?;
            publisher.publish_new(&cx.topic("t"), "x", 1)?;
            let message = client.take_this(&cx.topic("t"), "x")?;
            ensure!(message.qos == qos, "QoS {qos}: {message:?}");
        }
        // There is one subscription: one UNSUBSCRIBE ends it.
        client.unsubscribe(&[&cx.topic("t")])?;
        client.subscribe(&cx.topic("marker"), 1)?;
        publisher.publish_new(&cx.topic("t"), "x", 1)?;
        publisher.publish_new(&cx.topic("marker"), "", 1)?;
        client.take_this(&cx.topic("marker"), "")?;
    }
    Ok(())
}

fn same_filter_replaces_all_options(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    let mut publisher = cx.connect("pub")?;
    client.subscribe(&cx.topic("t"), 1 | NO_LOCAL | AS_PUBLISHED | RETAINED_NEVER)?;
    publisher.retain(&cx.topic("t"), "x", 1)?;
    ensure!(client.take_this(&cx.topic("t"), "x")?.retain, "RETAIN");
    client.subscribe(&cx.topic("t"), 1 | RETAINED_NEVER)?;
    publisher.retain(&cx.topic("t"), "y", 1)?;
    ensure!(!client.take_this(&cx.topic("t"), "y")?.retain, "RETAIN");
    client.send_publish(&crate::packet::Publish::new(&cx.topic("t"), "own"))?;
    client.take_this(&cx.topic("t"), "own")?;
    Ok(())
}

fn messages_flow_while_replaced(cx: &Cx) -> Result<()> {
    let mut client = cx.durable("client")?;
    client.subscribe(&cx.topic("t"), 1)?;
    let mut publisher = cx.connect("pub")?;
    let (mut got, mut subacks) = (Vec::new(), 0);
    for n in 0..60_u8 {
        publisher.publish_new(&cx.topic("t"), [n], 1)?;
        if n % 3 == 0 {
            let id = client.fresh_id();
            client.send(&subscribe(cx.version, id, &[], &[(&cx.topic("t"), 1)]))?;
        }
    }
    while got.len() < 60 || subacks < 20 {
        match client.packet()? {
            Packet::Suback(_, codes, _) if codes == [1] => subacks += 1,
            Packet::Publish(message) => {
                client.acknowledge(&message)?;
                got.extend(message.payload);
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(got == (0..60).collect::<Vec<u8>>(), "{got:?}");
    Ok(())
}

fn several_filters(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    let codes = client.subscribe_all(&[(&cx.topic("a"), 0), (&cx.topic("b/+"), 1), (&cx.topic("c/#"), 0)])?;
    ensure!(codes == [0, 1, 0], "{codes:02x?}");
    let mut publisher = cx.connect("pub")?;
    for (topic, qos) in [("a", 0), ("b/x", 1), ("c/x/y", 0)] {
        publisher.publish_new(&cx.topic(topic), "x", 1)?;
        let message = client.take_this(&cx.topic(topic), "x")?;
        ensure!(message.qos == qos, "{message:?}");
    }
    Ok(())
}

fn same_filter_twice(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    let codes = client.subscribe_all(&[(&cx.topic("t"), 1), (&cx.topic("t"), 0)])?;
    ensure!(codes == [1, 0], "{codes:02x?}");
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 1)?;
    // The later one replaced the earlier one.
    ensure!(client.take_this(&cx.topic("t"), "x")?.qos == 0, "QoS");
    Ok(())
}

fn code_for_each_filter(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    // One beyond the levels that this broker accepts is refused in its place, or closes; the others are granted.
    let names: Vec<String> = (0..9).map(|n| cx.topic(&n.to_string())).collect();
    let filters: Vec<(&str, u8)> =
        names.iter().enumerate().map(|(n, name)| (name.as_str(), [0, 1, 2][n % 3])).collect();
    let codes = client.subscribe_all(&filters)?;
    ensure!(codes == [0, 1, 2, 0, 1, 2, 0, 1, 2], "{codes:02x?}");
    Ok(())
}

fn lower_qos(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for mut client in [cx.connect("transient")?, cx.durable("durable")?] {
        for granted in [0, 1] {
            client.subscribe(&cx.topic("t"), granted)?;
            for published in [0, 1] {
                publisher.publish_new(&cx.topic("t"), "x", published)?;
                let message = client.take_this(&cx.topic("t"), "x")?;
                ensure!(message.qos == granted.min(published), "{published} to {granted}: {message:?}");
            }
        }
        client.unsubscribe(&[&cx.topic("t")])?;
    }
    Ok(())
}

fn lower_qos_with_qos_2(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    for mut client in [cx.connect("transient")?, cx.durable("durable")?] {
        for granted in 0..3 {
            client.subscribe(&cx.topic("t"), granted)?;
            for published in 0..3 {
                publisher.publish_new(&cx.topic("t"), "x", published)?;
                let message = client.take_this(&cx.topic("t"), "x")?;
                ensure!(message.qos == granted.min(published), "{published} to {granted}: {message:?}");
            }
        }
        client.settle()?;
        client.unsubscribe(&[&cx.topic("t")])?;
    }
    Ok(())
}

fn suback_is_small_enough(cx: &Cx) -> Result<()> {
    let connect = cx.hello("client").property(p::four(p::MAX_PACKET_SIZE, 60));
    let (mut client, _) = cx.connect_with(&connect)?;
    // Header 2, identifier 2, no properties, two codes. Whether the filters are granted does not matter.
    client.packet_max = 7;
    client.subscribe_all(&[(&cx.topic("t"), 1), ("$share/group/a", 1)])?;
    client.ping()
}

fn subscription_identifier_0(cx: &Cx) -> Result<()> {
    cx.fails(&subscribe(cx.version, 1, &p::subscription_id(0), &[("a", 0)]), &[0x82])
}

fn subscription_identifier_is_replaced(cx: &Cx) -> Result<()> {
    let mut client = cx.durable("client")?;
    let mut publisher = cx.connect("pub")?;
    for (properties, wanted) in [
        (p::subscription_id(7), vec![7]),
        (p::subscription_id(300), vec![300]),
        (Vec::new(), vec![]),
        (p::subscription_id(70_000), vec![70_000]),
    ] {
        client.subscribe_with(&properties, &[(&cx.topic("t"), 1)])?;
        publisher.publish_new(&cx.topic("t"), "x", 1)?;
        let got = client.take_this(&cx.topic("t"), "x")?.properties.numbers(p::SUBSCRIPTION_ID);
        ensure!(got == wanted, "{got:?}, not {wanted:?}");
    }
    Ok(())
}

fn many_filters(cx: &Cx) -> Result<()> {
    let mut client = cx.connect("client")?;
    let names: Vec<String> = (0..100).map(|n| cx.topic(&format!("{n}/+"))).collect();
    let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    ensure!(client.subscribe_all(&filters)? == [1; 100], "codes");
    cx.connect("pub")?.publish_new(&cx.topic("77/x"), "x", 1)?;
    client.take_this(&cx.topic("77/x"), "x")?;
    Ok(())
}
