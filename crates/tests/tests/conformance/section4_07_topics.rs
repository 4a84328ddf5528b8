//! Chapter 4.7: topic names and filters.
//!
//! Spec: MQTT 5, 4.7; MQTT 3.1.1, 4.7.

use anyhow::{Result, ensure};

use crate::case::{Case, Cx, both};
use crate::connection::Connection;
use crate::decode::Packet;
use crate::packet::{Publish, subscribe, unsubscribe};

/// The cases.
pub const CASES: &[Case] = &[
    both("filters_match_as_they_should", &["3.3.2-3"], &["3.3.2-3"], filters_match),
    both("hash_elsewhere_than_last_is_refused", &["4.7.1-1"], &["4.7.1-2"], hash_elsewhere),
    both("plus_beside_characters_is_refused", &["4.7.1-2"], &["4.7.1-3"], plus_beside_characters),
    both("wildcards_at_the_beginning_do_not_match_dollar", &["4.7.2-1"], &["4.7.2-1"], dollar_is_not_matched),
    both("empty_filters_and_names_are_refused", &["4.7.3-1"], &["4.7.3-1"], empty_ones_are_refused),
    both("null_character_in_filters_and_names", &["4.7.3-2"], &["4.7.3-2"], null_character),
    both("longest_topic_name_arrives_whole", &["4.7.3-3"], &["4.7.3-3"], longest_topic_name),
    both("nothing_is_normalised", &["4.7.3-4"], &["4.7.3-4"], nothing_is_normalised),
];

/// A filter that may not be: the connection fails, or SUBACK refuses it.
fn refused(cx: &Cx, filter: &str) -> Result<()> {
    for packet in [subscribe(cx.version, 1, &[], &[(filter, 1)]), unsubscribe(cx.version, 1, &[filter])] {
        let mut client = cx.connect("bad")?;
        client.send(&packet)?;
        match client.read()? {
            None if !cx.is_v5() => {}
            Some(Packet::Disconnect(code, _)) if [0x81, 0x82, 0x8f].contains(&code) => client.closed()?,
            Some(Packet::Suback(1, codes, _) | Packet::Unsuback(1, codes, _))
                if codes == [0x8f] || codes == [0x80] => {}
            other => anyhow::bail!("{filter}: {other:?}"),
        }
    }
    Ok(())
}

fn filters_match(cx: &Cx) -> Result<()> {
    let topics = ["a", "a/", "/a", "a/b", "a//b", "a/b/c", "b", "/"];
    for (filter, matching) in [
        ("a", &["a"][..]),
        ("a/", &["a/"]),
        ("/a", &["/a"]),
        ("+", &["a", "b"]),
        ("+/", &["a/", "/"]),
        ("/+", &["/a", "/"]),
        ("a/+", &["a/", "a/b"]),
        ("+/b", &["a/b"]),
        ("+/+", &["a/", "/a", "a/b", "/"]),
        ("a/#", &["a", "a/", "a/b", "a//b", "a/b/c"]),
        ("+/b/#", &["a/b", "a/b/c"]),
        ("a/+/b", &["a//b"]),
        ("+/+/+", &["a//b", "a/b/c"]),
        ("#", &["a", "a/", "/a", "a/b", "a//b", "a/b/c", "b", "/"]),
    ] {
        let mut client = cx.connect("client")?;
        client.subscribe(&cx.topic(filter), 1)?;
        client.subscribe(&format!("{}end", cx.id("")), 1)?;
        for topic in topics {
            client.send_publish(&Publish::new(&cx.topic(topic), topic))?;
        }
        client.send_publish(&Publish::new(&format!("{}end", cx.id("")), "end"))?;
        for topic in matching {
            let message = client.take()?;
            ensure!(message.topic == cx.topic(topic), "{filter}: {}, not {topic}", message.topic);
        }
        client.take_this(&format!("{}end", cx.id("")), "end")?;
    }
    Ok(())
}

fn hash_elsewhere(cx: &Cx) -> Result<()> {
    ["a/#/b", "#/a", "a#", "#a", "a/#b", "##"].iter().try_for_each(|filter| refused(cx, filter))
}

fn plus_beside_characters(cx: &Cx) -> Result<()> {
    ["a+", "+a", "a/+b", "a+/b", "++", "+#", "a/b+/#"].iter().try_for_each(|filter| refused(cx, filter))
}

fn dollar_is_not_matched(cx: &Cx) -> Result<()> {
    let mut subscriber = cx.connect("sub")?;
    let name = cx.id("");
    // Messages of other cases come by the first one, before SUBACK too.
    let filters = [("#", 0), (&format!("+/{name}/t"), 0), (&format!("+/{name}/#"), 0)];
    subscriber.send(&subscribe(cx.version, 1, &[], &filters))?;
    while !matches!(subscriber.packet()?, Packet::Suback(1, codes, _) if codes == [0, 0, 0]) {}
    let mut publisher = cx.connect("pub")?;
    for topic in [format!("$x/{name}/t"), format!("$SYS/{name}/t"), format!("$/{name}/t")] {
        // It may be refused; then the connection is gone.
        let mut publisher = cx.connect("dollar")?;
        publisher.send_publish(&Publish::new(&topic, "x"))?;
        publisher.ping().ok();
    }
    publisher.publish_new(&format!("x/{name}/t"), "marker", 0)?;
    loop {
        let message = subscriber.message()?;
        ensure!(!message.topic.starts_with('$'), "{message:?}");
        if message.topic == format!("x/{name}/t") {
            return Ok(());
        }
    }
}

fn empty_ones_are_refused(cx: &Cx) -> Result<()> {
    refused(cx, "")?;
    cx.fails(&Publish::new("", "x").encode(cx.version), &[0x81, 0x82, 0x90])
}

fn null_character(cx: &Cx) -> Result<()> {
    refused(cx, "a/\0/b")?;
    cx.fails(&Publish::new("a\0", "x").encode(cx.version), &[0x81, 0x90])
}

fn longest_topic_name(cx: &Cx) -> Result<()> {
    // What is longer cannot be written: the length has two bytes.
    let mut topic = cx.topic("t");
    topic.push_str(&"x".repeat(65_535 - topic.len()));
    let (mut subscriber, mut publisher) = (cx.connect("sub")?, cx.connect("pub")?);
    subscriber.subscribe(&topic, 1)?;
    for qos in [0, 1] {
        publisher.publish_new(&topic, "x", qos)?;
        ensure!(subscriber.take()?.topic == topic, "another topic name");
    }
    Ok(())
}

fn alone(cx: &Cx, subscriber: &mut Connection, publisher: &mut Connection, others: &[&str]) -> Result<()> {
    for topic in others {
        publisher.publish_new(&cx.topic(topic), "other", 1)?;
    }
    publisher.publish_new(&cx.topic("marker"), "", 1)?;
    subscriber.take_this(&cx.topic("marker"), "")?;
    Ok(())
}

fn nothing_is_normalised(cx: &Cx) -> Result<()> {
    let (mut subscriber, mut publisher) = (cx.connect("sub")?, cx.connect("pub")?);
    // Composed and decomposed, cases, spaces, slashes, dots.
    let names = ["caf\u{e9}", "\u{17f}", "a b", "x/y", "\u{1F600}/\u{2603}", "."];
    for name in names {
        subscriber.subscribe(&cx.topic(name), 1)?;
        publisher.publish_new(&cx.topic(name), name, 1)?;
        subscriber.take_this(&cx.topic(name), name)?;
    }
    subscriber.subscribe(&cx.topic("marker"), 1)?;
    let others = ["cafe\u{301}", "CAF\u{c9}", "s", "a%20b", "a  b", "x/y/", "x//y", "x/Y", "./x/y", ""];
    alone(cx, &mut subscriber, &mut publisher, &others)
}
