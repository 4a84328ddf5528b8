//! Chapter 4.8: shared subscriptions.
//!
//! Spec: MQTT 5, 4.8.2.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, only5};
use crate::connection::Connection;
use crate::decode::{Message, Packet};
use crate::packet::{DISCONNECT, PUBACK, PUBREC, Publish, ack_with, packet, subscribe};
use crate::property as p;

/// The cases.
pub const CASES: &[Case] = &[
    only5("share_name_is_there", &["4.8.2-1", "4.8.2-2"], share_name_is_there),
    only5("shared_message_goes_to_one_member", &[], one_member),
    only5("shared_message_goes_to_one_member_of_each_group", &[], one_of_each_group),
    only5("shared_filter_matches_without_its_prefix", &["4.8.2-2"], matches_without_prefix),
    only5("granted_qos_of_the_member_counts", &["4.8.2-3"], granted_qos),
    only5("shared_subscription_gets_no_retained_messages", &[], no_retained_messages),
    only5("member_that_leaves_gets_no_more", &[], member_leaves),
    only5("shared_subscription_survives_its_founder", &[], survives_its_founder),
    only5("shared_subscription_has_its_identifier", &[], has_its_identifier),
    only5("shared_qos_2_is_completed_with_the_same_member", &["4.8.2-4"], same_member_completes),
    only5("shared_qos_2_goes_to_no_other_when_its_session_ends", &["4.8.2-5"], no_other_member),
    only5("shared_message_refused_by_a_member_is_discarded", &["4.8.2-6"], refused_is_discarded),
    only5("unsubscribe_names_the_whole_shared_filter", &["3.10.4-1"], unsubscribe_names_it),
];

fn share(cx: &Cx, group: &str, filter: &str) -> String {
    format!("$share/{group}/{}", cx.topic(filter))
}

/// So many messages, by whoever gets them.
fn collect(members: &mut [Connection], count: usize) -> Result<Vec<(usize, Message)>> {
    let mut got = Vec::new();
    while got.len() < count {
        for (n, member) in members.iter_mut().enumerate() {
            match member.poll()? {
                Some(Packet::Publish(message)) => {
                    member.acknowledge(&message)?;
                    got.push((n, message));
                }
                Some(other) => anyhow::bail!("{other:?}"),
                None => {}
            }
        }
    }
    Ok(got)
}

fn share_name_is_there(cx: &Cx) -> Result<()> {
    for filter in [
        "$share/",
        "$share//a",
        "$share/group",
        "$share/group/",
        "$share/a+/b",
        "$share/a#/b",
        "$share/+/b",
        "$share/#",
    ] {
        let mut client = cx.connect("bad")?;
        client.send(&subscribe(cx.version, 1, &[], &[(filter, 1)]))?;
        match client.read()? {
            Some(Packet::Disconnect(code, _)) if [0x81, 0x82, 0x8f].contains(&code) => client.closed()?,
            Some(Packet::Suback(1, codes, _)) if codes == [0x8f] || codes == [0x80] => {}
            other => anyhow::bail!("{filter}: {other:?}"),
        }
    }
    Ok(())
}

fn one_member(cx: &Cx) -> Result<()> {
    for kind in ["transient", "durable"] {
        let mut members = Vec::new();
        for n in 0..3 {
            let name = format!("{kind}{n}");
            let mut member = if kind == "durable" { cx.durable(&name)? } else { cx.connect(&name)? };
            member.subscribe(&share(cx, kind, "t"), 1)?;
            members.push(member);
        }
        let mut publisher = cx.connect("pub")?;
        for qos in [0, 1] {
            for n in 0..30_u8 {
                publisher.publish_new(&cx.topic("t"), [n], qos)?;
            }
            let got = collect(&mut members, 30)?;
            let payloads: BTreeSet<u8> = got.iter().map(|(_, message)| message.payload[0]).collect();
            ensure!(payloads.len() == 30, "some came twice, with QoS {qos}: {got:?}");
        }
        for member in &mut members {
            member.ping()?;
            member.unsubscribe(&[&share(cx, kind, "t")])?;
        }
    }
    Ok(())
}

fn one_of_each_group(cx: &Cx) -> Result<()> {
    let mut members = Vec::new();
    for (name, filter) in [
        ("a1", share(cx, "a", "t")),
        ("a2", share(cx, "a", "t")),
        ("b1", share(cx, "b", "t")),
        // The same name with another filter is another group.
        ("c1", share(cx, "a", "+")),
        ("plain", cx.topic("t")),
    ] {
        let mut member = cx.durable(name)?;
        member.subscribe(&filter, 1)?;
        members.push(member);
    }
    let mut publisher = cx.connect("pub")?;
    for n in 0..10_u8 {
        publisher.publish_new(&cx.topic("t"), [n], 1)?;
    }
    let got = collect(&mut members, 40)?;
    let of = |members: &[usize]| got.iter().filter(|(n, _)| members.contains(n)).count();
    let counts = [of(&[0, 1]), of(&[2]), of(&[3]), of(&[4])];
    ensure!(counts == [10; 4], "{counts:?}");
    members.iter_mut().try_for_each(Connection::ping)
}

fn matches_without_prefix(cx: &Cx) -> Result<()> {
    let mut member = cx.connect("member")?;
    let topic = cx.topic("t");
    // A filter that begins with a slash.
    member.subscribe(&format!("$share/group//{topic}"), 1)?;
    member.subscribe(&share(cx, "group", "a/+/#"), 1)?;
    let mut publisher = cx.connect("pub")?;
    publisher.publish_new(&topic, "no", 1)?;
    publisher.publish_new(&format!("/{topic}"), "yes", 1)?;
    member.take_this(&format!("/{topic}"), "yes")?;
    publisher.publish_new(&cx.topic("a/b/c"), "yes", 1)?;
    member.take_this(&cx.topic("a/b/c"), "yes")?;
    Ok(())
}

fn granted_qos(cx: &Cx) -> Result<()> {
    let mut members = Vec::new();
    for qos in 0..2_u8 {
        let mut member = cx.durable(&format!("member{qos}"))?;
        member.subscribe(&share(cx, "group", "t"), qos)?;
        members.push(member);
    }
    let mut publisher = cx.connect("pub")?;
    for n in 0..20_u8 {
        publisher.publish_new(&cx.topic("t"), [n], 1)?;
    }
    for (member, message) in collect(&mut members, 20)? {
        ensure!(usize::from(message.qos) == member, "member {member}: {message:?}");
    }
    Ok(())
}

fn no_retained_messages(cx: &Cx) -> Result<()> {
    let mut publisher = cx.connect("pub")?;
    publisher.retain(&cx.topic("t"), "retained", 1)?;
    publisher.retain(&cx.topic("marker"), "marker", 1)?;
    let mut member = cx.connect("member")?;
    member.subscribe(&share(cx, "group", "t"), 1)?;
    member.subscribe(&cx.topic("marker"), 1)?;
    member.take_this(&cx.topic("marker"), "marker")?;
    publisher.publish_new(&cx.topic("t"), "live", 1)?;
    member.take_this(&cx.topic("t"), "live")?;
    Ok(())
}

fn member_leaves(cx: &Cx) -> Result<()> {
    let mut members = vec![cx.durable("a")?, cx.durable("b")?];
    members.iter_mut().try_for_each(|member| member.subscribe(&share(cx, "group", "t"), 1))?;
    members[0].unsubscribe(&[&share(cx, "group", "t")])?;
    let mut publisher = cx.connect("pub")?;
    for n in 0..10_u8 {
        publisher.publish_new(&cx.topic("t"), [n], 1)?;
    }
    let got = collect(&mut members, 10)?;
    ensure!(got.iter().all(|(member, _)| *member == 1), "{got:?}");
    Ok(())
}

fn survives_its_founder(cx: &Cx) -> Result<()> {
    let mut founder = cx.connect("founder")?;
    let mut member = cx.connect("member")?;
    founder.subscribe(&share(cx, "group", "t"), 1)?;
    member.subscribe(&share(cx, "group", "t"), 1)?;
    // Its session ends with the connection.
    founder.disconnect()?;
    let (mut founder, _) = cx.connect_with(&cx.hello("founder"))?;
    let mut publisher = cx.connect("pub")?;
    for n in 0..5_u8 {
        publisher.publish_new(&cx.topic("t"), [n], 1)?;
        member.take_this(&cx.topic("t"), [n])?;
    }
    founder.ping()
}

fn has_its_identifier(cx: &Cx) -> Result<()> {
    let mut member = cx.durable("member")?;
    member.subscribe_with(&p::subscription_id(9), &[(&share(cx, "group", "t"), 1)])?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", 1)?;
    let ids = member.take_this(&cx.topic("t"), "x")?.properties.numbers(p::SUBSCRIPTION_ID);
    ensure!(ids == [9], "{ids:?}");
    Ok(())
}

/// A member that has got a message and has not acknowledged it, and another that joined later.
fn two_members(cx: &Cx, qos: u8) -> Result<(Connection, Message, Connection)> {
    let mut first = cx.durable("first")?;
    first.subscribe(&share(cx, "group", "t"), qos)?;
    cx.connect("pub")?.publish_new(&cx.topic("t"), "x", qos)?;
    let message = first.message()?;
    ensure!(message.payload == b"x" && message.qos == qos, "{message:?}");
    let mut second = cx.durable("second")?;
    second.subscribe(&share(cx, "group", "t"), qos)?;
    Ok((first, message, second))
}

fn same_member_completes(cx: &Cx) -> Result<()> {
    let (first, message, mut second) = two_members(cx, 2)?;
    drop(first);
    let mut first = cx.resume("first")?;
    let again = first.message()?;
    ensure!(again.dup && again.id == message.id && again.payload == b"x", "{again:?}");
    first.acknowledge(&again)?;
    second.ping()
}

fn no_other_member(cx: &Cx) -> Result<()> {
    let (mut first, _, mut second) = two_members(cx, 2)?;
    // The session ends with the connection.
    first.send(&packet(DISCONNECT, &[&[0, 5][..], &p::session_expiry(0)].concat()))?;
    first.closed()?;
    let (_, connack) = cx.connect_with(&cx.hello("first").durable())?;
    ensure!(!connack.present, "the session is there after it was ended");
    cx.connect("pub")?.publish(&Publish::new(&cx.topic("t"), "marker").qos(2, 1))?;
    second.take_this(&cx.topic("t"), "marker")?;
    Ok(())
}

fn refused_is_discarded(cx: &Cx) -> Result<()> {
    for (qos, first_byte) in [(1, PUBACK), (2, PUBREC)] {
        let (mut first, message, mut second) = two_members(cx, qos)?;
        first.send(&ack_with(first_byte, message.id, 0x80))?;
        first.unsubscribe(&[&share(cx, "group", "t")])?;
        let mut publisher = cx.connect("pub")?;
        publisher.publish_new(&cx.topic("t"), "marker", qos)?;
        second.take_this(&cx.topic("t"), "marker")?;
        second.settle()?;
        second.unsubscribe(&[&share(cx, "group", "t")])?;
    }
    Ok(())
}

fn unsubscribe_names_it(cx: &Cx) -> Result<()> {
    let mut member = cx.connect("member")?;
    member.subscribe(&share(cx, "group", "t"), 1)?;
    let codes = member.unsubscribe(&[&cx.topic("t"), &share(cx, "other", "t"), &share(cx, "group", "t")])?;
    ensure!(codes == [0x11, 0x11, 0], "{codes:02x?}");
    Ok(())
}
