//! Topic aliases, in both directions (MQTT 5, 3.3.2.3.4).
//!
//! Owns: the two mappings of one connection; they never outlive it [MQTT-3.3.2-7].
//! Limits: `Config::topic_alias_max` and `Config::outbound_topic_aliases_max` topic names.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use quorate_codec::TopicName;

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
                self.topics.insert(alias, topic.clone());
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
        if self.max == 0 {
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
        self.aliases.insert(topic.clone(), alias);
    }
}
