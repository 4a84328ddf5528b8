//! How `quorate sub` prints a message: the plain forms, and `-F` formats as mosquitto_sub knows them.
//!
//! Owns: parsing a format once, writing a message by it. Does not: buffer or flush.
//! Invariants: payload bytes leave unchanged, except in %x, %X and %j.

use std::io::{self, Write};

use quorate_codec::{Publish, PublishProperties, PublishQoS, TopicName};
use serde_json::json;

/// A parsed format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageFormat {
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    Topic,
    Payload,
    /// Payload, or `(null)` when it is empty, as `-v` shows it.
    PayloadOrNull,
    HexLower,
    HexUpper,
    QoS,
    Retain,
    PacketId,
    Length,
    Json,
    ContentType,
    CorrelationData,
    Expiry,
    FormatIndicator,
    UserProperties,
    ResponseTopic,
    SubscriptionIdentifiers,
    TopicAlias,
}

impl MessageFormat {
    /// Payload, or topic and payload.
    pub fn plain(verbose: bool, newline: bool) -> MessageFormat {
        let mut parts = match verbose {
            true => vec![Part::Topic, Part::Text(" ".to_owned()), Part::PayloadOrNull],
            false => vec![Part::Payload],
        };
        if newline {
            parts.push(Part::Text("\n".to_owned()));
        }
        MessageFormat { parts }
    }

    /// Parses `%` sequences and the escapes `\n`, `\t`, `\r`, `\0`, `\a`, `\e`, `\\`.
    pub fn parse(format: &str, newline: bool) -> Result<MessageFormat, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            let escaped = match character {
                '%' => characters.next(),
                '\\' => {
                    text.push(escape(characters.next())?);
                    continue;
                }
                plain => {
                    text.push(plain);
                    continue;
                }
            };
            if escaped == Some('%') {
                text.push('%');
                continue;
            }
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(part(escaped)?);
        }
        if newline {
            text.push('\n');
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(MessageFormat { parts })
    }

    /// Writes one message.
    pub fn write(&self, publish: &Publish, topic: &TopicName, out: &mut impl Write) -> io::Result<()> {
        let none = PublishProperties::default();
        let properties = publish.properties.as_deref().unwrap_or(&none);
        for part in &self.parts {
            match part {
                Part::Text(text) => out.write_all(text.as_bytes())?,
                Part::Topic => out.write_all(topic.as_str().as_bytes())?,
                Part::PayloadOrNull if publish.payload.is_empty() => out.write_all(b"(null)")?,
                Part::Payload | Part::PayloadOrNull => out.write_all(&publish.payload)?,
                Part::HexLower => publish.payload.iter().try_for_each(|byte| write!(out, "{byte:02x}"))?,
                Part::HexUpper => publish.payload.iter().try_for_each(|byte| write!(out, "{byte:02X}"))?,
                Part::QoS => write!(out, "{}", qos_and_id(publish).0)?,
                Part::Retain => write!(out, "{}", u8::from(publish.retain))?,
                Part::PacketId => write!(out, "{}", qos_and_id(publish).1)?,
                Part::Length => write!(out, "{}", publish.payload.len())?,
                Part::Json => json(publish, topic, out)?,
                Part::ContentType
                | Part::CorrelationData
                | Part::Expiry
                | Part::FormatIndicator
                | Part::UserProperties
                | Part::ResponseTopic
                | Part::SubscriptionIdentifiers
                | Part::TopicAlias => property(part, properties, out)?,
            }
        }
        Ok(())
    }
}

fn escape(character: Option<char>) -> Result<char, String> {
    match character {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('r') => Ok('\r'),
        Some('0') => Ok('\0'),
        Some('a') => Ok('\x07'),
        Some('e') => Ok('\x1b'),
        Some('\\') => Ok('\\'),
        other => Err(format!("-F: unknown escape \\{}", other.map(String::from).unwrap_or_default())),
    }
}

fn part(character: Option<char>) -> Result<Part, String> {
    match character {
        Some('t') => Ok(Part::Topic),
        Some('p') => Ok(Part::Payload),
        Some('x') => Ok(Part::HexLower),
        Some('X') => Ok(Part::HexUpper),
        Some('q') => Ok(Part::QoS),
        Some('r') => Ok(Part::Retain),
        Some('m') => Ok(Part::PacketId),
        Some('l') => Ok(Part::Length),
        Some('j') => Ok(Part::Json),
        Some('C') => Ok(Part::ContentType),
        Some('D') => Ok(Part::CorrelationData),
        Some('E') => Ok(Part::Expiry),
        Some('F') => Ok(Part::FormatIndicator),
        Some('P') => Ok(Part::UserProperties),
        Some('R') => Ok(Part::ResponseTopic),
        Some('S') => Ok(Part::SubscriptionIdentifiers),
        Some('A') => Ok(Part::TopicAlias),
        other => Err(format!("-F: unknown sequence %{}", other.map(String::from).unwrap_or_default())),
    }
}

fn qos_and_id(publish: &Publish) -> (u8, u16) {
    match publish.qos {
        PublishQoS::AtMostOnce => (0, 0),
        PublishQoS::AtLeastOnce(id) => (1, id.get()),
        PublishQoS::ExactlyOnce(id) => (2, id.get()),
    }
}

/// A property writes nothing when the message has none.
fn property(part: &Part, properties: &PublishProperties, out: &mut impl Write) -> io::Result<()> {
    match part {
        Part::ContentType => {
            properties.content_type.iter().try_for_each(|text| out.write_all(text.as_str().as_bytes()))
        }
        Part::CorrelationData => properties.correlation_data.iter().try_for_each(|data| out.write_all(data)),
        Part::Expiry => properties.message_expiry_s.iter().try_for_each(|seconds| write!(out, "{seconds}")),
        Part::FormatIndicator => {
            properties.payload_is_utf8.iter().try_for_each(|utf8| write!(out, "{}", u8::from(*utf8)))
        }
        Part::ResponseTopic => {
            properties.response_topic.iter().try_for_each(|topic| out.write_all(topic.as_str().as_bytes()))
        }
        Part::TopicAlias => properties.topic_alias.iter().try_for_each(|alias| write!(out, "{alias}")),
        Part::UserProperties => {
            let pairs: Vec<String> = properties
                .user_properties
                .iter()
                .map(|(name, value)| format!("{}:{}", name.as_str(), value.as_str()))
                .collect();
            out.write_all(pairs.join(" ").as_bytes())
        }
        Part::SubscriptionIdentifiers => {
            let identifiers: Vec<String> =
                properties.subscription_identifiers.iter().map(u32::to_string).collect();
            out.write_all(identifiers.join(" ").as_bytes())
        }
        _ => Ok(()),
    }
}

fn json(publish: &Publish, topic: &TopicName, out: &mut impl Write) -> io::Result<()> {
    let (qos, packet_id) = qos_and_id(publish);
    let mut value = json!({
        "topic": topic.as_str(),
        "qos": qos,
        "retain": u8::from(publish.retain),
        "payloadlen": publish.payload.len(),
        "payload": String::from_utf8_lossy(&publish.payload),
    });
    if let Some(object) = value.as_object_mut().filter(|_| packet_id != 0) {
        object.insert("mid".to_owned(), packet_id.into());
    }
    out.write_all(value.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client;
    use bytes::Bytes;
    use quorate_codec::PacketId;

    fn check(format: &MessageFormat, payload: &'static str, expected: &str) {
        let topic = client::topic_name("a/b").unwrap();
        let qos = PublishQoS::AtLeastOnce(PacketId::new(7).unwrap());
        let mut publish = client::publish_packet(topic.clone(), Bytes::from(payload), qos);
        publish.properties = Some(Box::new(PublishProperties {
            message_expiry_s: Some(60),
            user_properties: vec![(client::text("k").unwrap(), client::text("v").unwrap())],
            ..PublishProperties::default()
        }));
        let mut out = Vec::new();
        format.write(&publish, &topic, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn plain_forms_are_those_of_mosquitto_sub() {
        check(&MessageFormat::plain(false, true), "hi", "hi\n");
        check(&MessageFormat::plain(false, false), "hi", "hi");
        check(&MessageFormat::plain(false, true), "", "\n");
        check(&MessageFormat::plain(true, true), "hi", "a/b hi\n");
        check(&MessageFormat::plain(true, true), "", "a/b (null)\n");
    }

    #[test]
    fn every_sequence_is_replaced() {
        let parse = |format: &str| MessageFormat::parse(format, false).unwrap();
        check(&parse("%t|%p|%q|%r|%m|%l"), "hi", "a/b|hi|1|0|7|2");
        check(&parse(r"%x %X\t%%\\n%E%C %P"), "\u{ff}", "c3bf C3BF\t%\\n60 k:v");
        check(&MessageFormat::parse("", true).unwrap(), "hi", "\n");
        check(
            &parse("%j"),
            "hi",
            r#"{"mid":7,"payload":"hi","payloadlen":2,"qos":1,"retain":0,"topic":"a/b"}"#,
        );
        for format in ["%", "%?", "\\", "\\q"] {
            assert!(MessageFormat::parse(format, false).is_err(), "{format}");
        }
    }
}
