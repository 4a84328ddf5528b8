//! MQTT 5 properties from the command line: `-D COMMAND NAME VALUE`.
//!
//! Owns: the names, and what each does to a packet. Does not: decide which version is spoken.
//! Invariants: a name that does not belong to its command is an error, never ignored.
//! Spec: MQTT 5, 2.2.2.2.

use bytes::Bytes;
use quorate_codec::{Connect, PublishProperties, Subscribe, Text, Unsubscribe, UserProperties, Will};

use crate::client;

/// Packet that a property belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names are the specification's.
pub enum Command {
    Connect,
    Publish,
    Subscribe,
    Unsubscribe,
    Will,
}

/// One `-D`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Property {
    /// Packet that it belongs to.
    pub command: Command,
    name: String,
    value: String,
    /// Second value, of a user property.
    second: String,
}

impl Property {
    /// Splits the values of all `-D`, which have three words each, or four when the name is `user-property`.
    pub fn parse_all(words: &[String]) -> Result<Vec<Property>, String> {
        let mut properties = Vec::new();
        let mut words = words.iter();
        while let Some(command) = words.next() {
            let mut next = || words.next().cloned().ok_or_else(|| format!("-D {command} needs more values"));
            let (name, value) = (next()?, next()?);
            let second = if name == "user-property" { next()? } else { String::new() };
            let command = match command.to_ascii_lowercase().as_str() {
                "connect" => Command::Connect,
                "publish" => Command::Publish,
                "subscribe" => Command::Subscribe,
                "unsubscribe" => Command::Unsubscribe,
                "will" => Command::Will,
                other => {
                    return Err(format!("-D {other}: not connect, publish, subscribe, unsubscribe or will"));
                }
            };
            properties.push(Property { command, name, value, second });
        }
        Ok(properties)
    }

    /// Sets it in a CONNECT.
    pub fn apply_connect(&self, connect: &mut Connect) -> Result<(), String> {
        match self.name.as_str() {
            "session-expiry-interval" => connect.session_expiry_s = Some(self.number()?),
            "receive-maximum" => connect.receive_max = Some(self.number()?),
            "maximum-packet-size" => connect.packet_bytes_max = Some(self.number()?),
            "topic-alias-maximum" => connect.topic_alias_max = Some(self.number()?),
            "request-response-information" => connect.request_response_information = Some(self.flag()?),
            "request-problem-information" => connect.request_problem_information = Some(self.flag()?),
            "authentication-method" => connect.authentication_method = Some(self.text()?),
            "authentication-data" => connect.authentication_data = Some(self.bytes()),
            "user-property" => self.user(&mut connect.user_properties)?,
            _ => return Err(self.unknown()),
        }
        Ok(())
    }

    /// Sets it in a will.
    pub fn apply_will(&self, will: &mut Will) -> Result<(), String> {
        match self.name.as_str() {
            "will-delay-interval" => {
                will.delay_s = Some(self.number()?);
                Ok(())
            }
            _ => self.apply_message(&mut will.properties),
        }
    }

    /// Sets it in a PUBLISH.
    pub fn apply_publish(&self, properties: &mut PublishProperties) -> Result<(), String> {
        match self.name.as_str() {
            "topic-alias" => {
                properties.topic_alias = Some(self.number()?);
                Ok(())
            }
            _ => self.apply_message(properties),
        }
    }

    fn apply_message(&self, properties: &mut PublishProperties) -> Result<(), String> {
        match self.name.as_str() {
            "payload-format-indicator" => properties.payload_is_utf8 = Some(self.flag()?),
            "message-expiry-interval" => properties.message_expiry_s = Some(self.number()?),
            "response-topic" => properties.response_topic = Some(client::topic_name(&self.value)?),
            "correlation-data" => properties.correlation_data = Some(self.bytes()),
            "content-type" => properties.content_type = Some(self.text()?),
            "user-property" => self.user(&mut properties.user_properties)?,
            _ => return Err(self.unknown()),
        }
        Ok(())
    }

    /// Sets it in a SUBSCRIBE.
    pub fn apply_subscribe(&self, subscribe: &mut Subscribe) -> Result<(), String> {
        match self.name.as_str() {
            "subscription-identifier" => {
                let identifier: u32 = self.number()?;
                if identifier == 0 || identifier > 268_435_455 {
                    return Err("subscription-identifier is 1 to 268435455".to_owned());
                }
                subscribe.identifier = Some(identifier);
            }
            "user-property" => self.user(&mut subscribe.user_properties)?,
            _ => return Err(self.unknown()),
        }
        Ok(())
    }

    /// Sets it in an UNSUBSCRIBE.
    pub fn apply_unsubscribe(&self, unsubscribe: &mut Unsubscribe) -> Result<(), String> {
        match self.name.as_str() {
            "user-property" => self.user(&mut unsubscribe.user_properties),
            _ => Err(self.unknown()),
        }
    }

    fn number<T: std::str::FromStr>(&self) -> Result<T, String> {
        self.value.parse().map_err(|_| format!("{:?} is no value for {}", self.value, self.name))
    }

    fn flag(&self) -> Result<bool, String> {
        match self.value.as_str() {
            "0" | "false" => Ok(false),
            "1" | "true" => Ok(true),
            _ => Err(format!("{} is 0 or 1", self.name)),
        }
    }

    fn text(&self) -> Result<Text, String> {
        client::text(&self.value)
    }

    fn bytes(&self) -> Bytes {
        Bytes::from(self.value.clone())
    }

    fn user(&self, properties: &mut UserProperties) -> Result<(), String> {
        properties.push((self.text()?, client::text(&self.second)?));
        Ok(())
    }

    fn unknown(&self) -> String {
        format!("{} has no property {:?}", format!("{:?}", self.command).to_lowercase(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Vec<Property>, String> {
        Property::parse_all(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn user_properties_take_four_words_and_others_three() {
        let properties =
            parse("publish message-expiry-interval 60 PUBLISH user-property a b publish content-type c")
                .unwrap();
        let mut message = PublishProperties::default();
        for property in &properties {
            property.apply_publish(&mut message).unwrap();
        }
        assert_eq!(message.message_expiry_s, Some(60));
        assert_eq!(message.user_properties.len(), 1);
        assert_eq!(message.content_type.unwrap().as_str(), "c");
    }

    #[test]
    fn wrong_properties_are_named() {
        assert!(parse("publish user-property a").unwrap_err().contains("more values"));
        assert!(parse("ping a b").unwrap_err().contains("-D ping"));
        for (line, part) in [
            ("publish will-delay-interval 1", "publish has no property"),
            ("publish message-expiry-interval x", "no value for"),
            ("publish topic-alias 0", "no value for"),
            ("publish payload-format-indicator 2", "0 or 1"),
            ("publish response-topic a/+", "a/+"),
        ] {
            let problem =
                parse(line).unwrap()[0].apply_publish(&mut PublishProperties::default()).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
