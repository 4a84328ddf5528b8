//! Topic aliases, in both directions (MQTT 5, 3.3.2.3.4).
//!
//! Owns: the two mappings of one connection; they never outlive it [MQTT-3.3.2-7].
//! Invariants: a topic is kept as a copy of its own: a shared one would keep the packet or log entry in memory that it
//! was read from. Limits: `Config::topic_alias_max` and `Config::outbound_topic_aliases_max` topic names.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use quorate_codec::{Text, TopicName};

use crate::limits::TOPIC_ALIAS_BYTES;

/// Aliases that the client has set.
#[derive(Debug, Default)]
pub(crate) struct InboundAliases {
    max: u16,
    topics: BTreeMap<NonZeroU16, TopicName>,
}

impl InboundAliases {
    pub(crate) fn new(max: u16) -> Self {
        InboundAliases { max, topics: BTreeMap::new() }
    }

    /// The topic of a PUBLISH, by its name or its alias. `None` when the alias is above the maximum [MQTT-3.3.2-9] or
    /// unknown, or when there is neither.
    pub(crate) fn resolve(
        &mut self,
        topic: Option<TopicName>,
        alias: Option<NonZeroU16>,
    ) -> Option<TopicName> {
        let Some(alias) = alias else { return topic };
        if alias.get() > self.max {
            return None;
        }
        match topic {
            Some(topic) => {
                // Clients repeat the name with the alias: a copy is needed only for a new one.
                if self.topics.get(&alias) != Some(&topic) {
                    self.topics.insert(alias, copy(&topic));
                }
                Some(topic)
            }
            None => self.topics.get(&alias).cloned(),
        }
    }
}

/// Aliases used towards the client. The first topics get them and keep them: what is published most is seen first.
#[derive(Debug, Default)]
pub(crate) struct OutboundAliases {
    max: u16,
    aliases: BTreeMap<TopicName, NonZeroU16>,
}

/// How to name a topic to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Naming {
    /// By its name.
    Name,
    /// By its name, setting an alias.
    Set(NonZeroU16),
    /// By its alias alone.
    Alias(NonZeroU16),
}

impl OutboundAliases {
    /// `max` is the client's Topic Alias Maximum [MQTT-3.1.2-26], [MQTT-3.1.2-27], capped.
    pub(crate) fn new(max: u16) -> Self {
        OutboundAliases { max, aliases: BTreeMap::new() }
    }

    /// How to name a topic. Changes nothing: see `set`.
    pub(crate) fn naming(&self, topic: &TopicName) -> Naming {
        if self.max == 0 || topic.text().len() <= TOPIC_ALIAS_BYTES {
            return Naming::Name;
        }
        if let Some(alias) = self.aliases.get(topic) {
            return Naming::Alias(*alias);
        }
        let next = u16::try_from(self.aliases.len() + 1).ok().filter(|next| *next <= self.max);
        next.and_then(NonZeroU16::new).map_or(Naming::Name, Naming::Set)
    }

    /// The PUBLISH that sets an alias was written.
    pub(crate) fn set(&mut self, topic: &TopicName, alias: NonZeroU16) {
        self.aliases.insert(copy(topic), alias);
    }
}

fn copy(topic: &TopicName) -> TopicName {
    let text = Text::parse(topic.as_str()).expect("a copy of a valid text is valid");
    TopicName::new(text).expect("a copy of a valid topic name is valid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{alias, topic};

    fn check(aliases: &mut InboundAliases, name: Option<&str>, number: Option<u16>, expect: Option<&str>) {
        let resolved = aliases.resolve(name.map(topic), number.map(alias));
        assert_eq!(resolved.as_ref().map(TopicName::as_str), expect, "{name:?} {number:?}");
    }

    #[test]
    fn inbound_alias_stands_for_the_name_that_was_last_set() {
        // [MQTT-3.3.2-7], [MQTT-3.3.2-9]
        let mut aliases = InboundAliases::new(2);
        check(&mut aliases, None, Some(1), None);
        check(&mut aliases, Some("a"), Some(1), Some("a"));
        check(&mut aliases, Some("b"), Some(2), Some("b"));
        check(&mut aliases, None, Some(1), Some("a"));
        check(&mut aliases, Some("c"), Some(1), Some("c"));
        check(&mut aliases, None, Some(1), Some("c"));
        check(&mut aliases, None, Some(2), Some("b"));
        check(&mut aliases, Some("d"), Some(3), None);
        check(&mut aliases, Some("e"), None, Some("e"));
        check(&mut aliases, None, None, None);
    }

    #[test]
    fn aliases_keep_no_buffer_of_others() {
        let shared = topic("some/topic");
        let mut inbound = InboundAliases::new(1);
        inbound.resolve(Some(shared.clone()), Some(alias(1)));
        let mut outbound = OutboundAliases::new(1);
        outbound.set(&shared, alias(1));
        let address = |topic: &TopicName| topic.text().as_bytes().as_ptr();
        assert!(inbound.topics.values().all(|kept| address(kept) != address(&shared)));
        assert!(outbound.aliases.keys().all(|kept| address(kept) != address(&shared)));
    }

    #[test]
    fn outbound_aliases_go_to_the_first_topics_that_they_shorten() {
        let mut aliases = OutboundAliases::new(1);
        assert_eq!(aliases.naming(&topic("a/b")), Naming::Name);
        assert_eq!(aliases.naming(&topic("a/bc")), Naming::Set(alias(1)));
        assert_eq!(aliases.naming(&topic("a/bc")), Naming::Set(alias(1)), "not written yet");
        aliases.set(&topic("a/bc"), alias(1));
        assert_eq!(aliases.naming(&topic("a/bc")), Naming::Alias(alias(1)));
        assert_eq!(aliases.naming(&topic("d/ef")), Naming::Name, "all are taken");
    }

    #[test]
    fn outbound_aliases_of_a_client_that_wants_none_are_not_used() {
        assert_eq!(OutboundAliases::new(0).naming(&topic("some/topic")), Naming::Name);
    }
}
