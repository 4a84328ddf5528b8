//! The topics below `$SYS`, which nobody but the broker publishes: their current values on this node.
//!
//! Owns: [`SystemTopics`], [`is_read_only`]. Does not: know what the values mean, or where they come from; deliver changes.
//! Invariants: a value has QoS 0 and RETAIN, never goes through a group and never leaves the node; a filter that begins
//! with a wildcard finds none [MQTT-4.7.2-1].
//! Limits: SYSTEM_TOPICS_MAX. See: docs/operations/sys-topics.md.

use core::ops::Bound;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_codec::{QoS, Text, TopicFilter, TopicName};
use quorate_state::Message;

use crate::edge::DirectMessage;
use crate::limits::SYSTEM_TOPICS_MAX;

/// The first level of the read-only topics.
const ROOT: &str = "$SYS";

/// Whether clients may not publish to a topic: neither by PUBLISH nor by a will. Such a PUBLISH of QoS 0 is dropped and
/// counted; of QoS 1 or 2 it is refused with 0x87 (Not authorized), which for MQTT 3 means that the connection ends.
#[must_use]
pub fn is_read_only(topic: &str) -> bool {
    topic.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a filter may match a read-only topic. Of shared subscriptions nobody gets current values.
pub(crate) fn may_match(filter: &TopicFilter) -> bool {
    is_read_only(filter.as_str())
}

/// Current values by topic, shared by the connections of a node.
#[derive(Debug, Default)]
pub struct SystemTopics {
    values: BTreeMap<Box<str>, Arc<DirectMessage>>,
}

impl SystemTopics {
    /// These topics have these values from now on, and no others have any. Gives those that are new or have changed, by
    /// topic, to be delivered. A topic that is none of ours is left out, and so is what is above SYSTEM_TOPICS_MAX.
    pub fn replace(&mut self, values: impl IntoIterator<Item = (String, String)>) -> Vec<Arc<DirectMessage>> {
        let mut before = std::mem::take(&mut self.values);
        let mut changed = Vec::new();
        for (topic, payload) in values {
            if self.values.len() >= SYSTEM_TOPICS_MAX {
                break;
            }
            let kept = before.remove(topic.as_str());
            if let Some(kept) = kept.filter(|kept| kept.message.payload == payload.as_bytes()) {
                self.values.insert(topic.into(), kept);
            } else if let Some(message) = message(&topic, payload) {
                let message = Arc::new(DirectMessage { message });
                changed.push(Arc::clone(&message));
                self.values.insert(topic.into(), message);
            }
        }
        changed
    }

    /// The values whose topic matches a filter, by topic.
    pub fn matching<'a>(
        &'a self,
        filter: &'a TopicFilter,
    ) -> impl Iterator<Item = &'a Arc<DirectMessage>> + 'a {
        let whole = filter.as_str();
        let literal = whole.split(['+', '#']).next().unwrap_or_default();
        // `a/#` matches `a` too [MQTT-4.7.1-2].
        let prefix = literal.trim_end_matches('/');
        self.values
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(topic, _)| may_match(filter) && topic.starts_with(prefix))
            .map(|(_, value)| value)
            .filter(move |value| filter.matches(&value.message.topic))
    }
}

fn message(topic: &str, payload: String) -> Option<Message> {
    let topic = TopicName::new(Text::parse(topic).ok()?).ok().filter(|topic| is_read_only(topic.as_str()))?;
    Some(Message {
        topic,
        qos: QoS::AtMostOnce,
        retain: true,
        expiry_s: None,
        publisher: 0,
        properties: Bytes::new(),
        payload: payload.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(topic, value)| ((*topic).to_owned(), (*value).to_owned())).collect()
    }

    fn topics<'a>(found: impl IntoIterator<Item = &'a Arc<DirectMessage>>) -> Vec<&'a str> {
        found.into_iter().map(|value| value.message.topic.as_str()).collect()
    }

    #[test]
    fn read_only_is_the_level_and_all_below() {
        for (topic, expected) in [
            ("$SYS", true),
            ("$SYS/", true),
            ("$SYS/broker/uptime", true),
            ("$SYSTEM/x", false),
            ("$sys/x", false),
            ("SYS/x", false),
            ("/$SYS/x", false),
            ("a/$SYS", false),
            ("", false),
        ] {
            assert_eq!(is_read_only(topic), expected, "{topic}");
        }
    }

    #[test]
    fn replacing_gives_what_is_new_or_changed_and_forgets_the_rest() {
        let mut system = SystemTopics::default();
        let first =
            values(&[("$SYS/b", "1"), ("$SYS/a", "1"), ("$SYS/c", "1"), ("a/b", "no"), ("$SYS/#", "no")]);
        assert_eq!(topics(&system.replace(first)), ["$SYS/b", "$SYS/a", "$SYS/c"]);
        let second = values(&[("$SYS/a", "1"), ("$SYS/b", "2"), ("$SYS/d", "1")]);
        let changed = system.replace(second);
        assert_eq!(topics(&changed), ["$SYS/b", "$SYS/d"]);
        let message = &changed[0].message;
        assert_eq!((&message.payload[..], message.retain, message.qos), (&b"2"[..], true, QoS::AtMostOnce));
        let all = TopicFilter::new(Text::from_static("$SYS/#")).unwrap();
        assert_eq!(topics(system.matching(&all)), ["$SYS/a", "$SYS/b", "$SYS/d"]);
    }

    #[test]
    fn more_topics_than_the_limit_are_left_out() {
        let mut system = SystemTopics::default();
        let many = (0..SYSTEM_TOPICS_MAX + 5).map(|number| (format!("$SYS/{number}"), "1".to_owned()));
        assert_eq!(system.replace(many).len(), SYSTEM_TOPICS_MAX);
        assert_eq!(system.values.len(), SYSTEM_TOPICS_MAX);
    }

    #[test]
    fn filter_finds_what_it_matches_and_wildcards_in_front_find_nothing() {
        let mut system = SystemTopics::default();
        system.replace(values(&[
            ("$SYS/broker/clients/connected", "1"),
            ("$SYS/broker/clients/total", "2"),
            ("$SYS/broker/uptime", "3"),
            ("$SYS/nodes/n1/uptime", "4"),
            ("$SYS/nodes/n10/uptime", "5"),
        ]));
        let all = system.values.len();
        for (text, expected) in [
            ("$SYS/#", all),
            ("$SYS/broker/#", 3),
            ("$SYS/broker/uptime", 1),
            ("$SYS/broker/uptime/#", 1),
            ("$SYS/broker/up", 0),
            ("$SYS/+/clients/+", 2),
            ("$SYS/nodes/n1/#", 1),
            ("$SYS/nodes/+/uptime", 2),
            ("$SYS", 0),
            // [MQTT-4.7.2-1]
            ("#", 0),
            ("+/#", 0),
            ("+/broker/uptime", 0),
            ("+/+/+", 0),
            ("$share/g/$SYS/#", 0),
        ] {
            let filter = TopicFilter::new(Text::parse(text).unwrap()).unwrap();
            assert_eq!(system.matching(&filter).count(), expected, "{text}");
        }
    }
}
