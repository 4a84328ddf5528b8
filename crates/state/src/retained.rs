//! Retained messages: one register per topic name.
//!
//! Owns: topic → reference to the last retained message, their expiry, reading by filter in pages.
//! Does not: hold bodies or send anything.
//! Invariants: a topic without a message is not here; an expired message is never read.
//! Limits: `PartitionConfig::retained_max`. Spec: MQTT 5, 3.3.1.3.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::{Text, TopicName};

use crate::expiry::Expires;
use crate::ids::{LogIndex, MessageRef, Timestamp};
use crate::wire::{DecodeError, Reader};

/// The retained message of a topic.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct RetainedMessage {
    pub(crate) message: MessageRef,
    pub(crate) expires: Expires,
}

/// All retained messages of a partition.
#[derive(Clone, Default, Debug)]
pub(crate) struct Retained {
    topics: BTreeMap<Box<str>, RetainedMessage>,
    /// Topics whose message expires, in order of time.
    timers: BTreeSet<(Expires, Box<str>)>,
    /// Topics that differ from the checkpoint.
    dirty: BTreeSet<Box<str>>,
}

/// One topic of a page: name, message, remaining lifetime in seconds.
pub type RetainedItem = (TopicName, MessageRef, Option<u32>);

/// Retained messages as far as one looked.
#[derive(Clone, PartialEq, Debug)]
pub struct RetainedSlice {
    /// In byte order of the topics.
    pub items: Vec<RetainedItem>,
    /// Go on after this topic; `None` at the end.
    pub resume: Option<TopicName>,
}

impl Retained {
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(crate) fn contains(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// Stores a message; returns the one it replaces.
    pub(crate) fn put(&mut self, topic: &str, message: RetainedMessage) -> Option<RetainedMessage> {
        let before = self.remove(topic);
        if message.expires != Expires::NEVER {
            self.timers.insert((message.expires, topic.into()));
        }
        self.topics.insert(topic.into(), message);
        self.dirty.insert(topic.into());
        before
    }

    /// Deletes a topic's message; returns it.
    pub(crate) fn remove(&mut self, topic: &str) -> Option<RetainedMessage> {
        let (name, before) = self.topics.remove_entry(topic)?;
        self.dirty.insert(name.clone());
        if before.expires != Expires::NEVER {
            self.timers.remove(&(before.expires, name));
        }
        Some(before)
    }

    /// Deletes one message whose time has passed.
    pub(crate) fn pop_expired(&mut self, now: Timestamp) -> Option<RetainedMessage> {
        let (expires, _) = self.timers.first()?;
        if !expires.is_past(now) {
            return None;
        }
        let (_, topic) = self.timers.pop_first()?;
        self.remove(&topic)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &RetainedMessage)> {
        self.topics.iter().map(|(topic, message)| (&**topic, message))
    }

    /// Up to `max` messages whose topics match, in byte order of the topics, after one of them, none from after `until`.
    pub(crate) fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        max: usize,
        now: Timestamp,
        until: LogIndex,
    ) -> Vec<RetainedItem> {
        self.slice(filter, after, (max, usize::MAX), now, until).items
    }

    /// As [`Retained::page`], looking at `examined_max` topics at most.
    pub(crate) fn slice(
        &self,
        filter: &str,
        after: Option<&str>,
        (max, examined_max): (usize, usize),
        now: Timestamp,
        until: LogIndex,
    ) -> RetainedSlice {
        let mut items = Vec::new();
        let mut examined = 0;
        let mut from = match after {
            Some(after) => Bound::Excluded(after.to_owned()),
            None => Bound::Unbounded,
        };
        while items.len() < max {
            let range = (from.as_ref().map(String::as_str), Bound::Unbounded);
            let mut skip = None;
            for (topic, message) in self.topics.range::<str, _>(range) {
                examined += 1;
                match compare(filter, topic) {
                    Comparison::Match if message.expires.is_past(now) || message.message.index > until => {}
                    Comparison::Match => {
                        let name = topic_name(topic).expect("only valid topic names are stored");
                        items.push((name, message.message, message.expires.remaining_s(now)));
                    }
                    Comparison::Next => {}
                    Comparison::SkipTo(next) => skip = Some(next),
                    Comparison::End => return RetainedSlice { items, resume: None },
                }
                if items.len() == max || examined == examined_max {
                    return RetainedSlice { items, resume: topic_name(topic) };
                }
                if skip.is_some() {
                    break;
                }
            }
            match skip {
                Some(next) => from = Bound::Included(next),
                None => return RetainedSlice { items, resume: None },
            }
        }
        RetainedSlice { items, resume: None }
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (&str, Vec<u8>)> {
        self.topics.iter().map(|(topic, message)| (&**topic, message.encode()))
    }

    /// Topics that differ from the checkpoint, with their content or `None`; from now on the checkpoint has them.
    pub(crate) fn changes(&mut self) -> impl Iterator<Item = (Box<str>, Option<Vec<u8>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|topic| {
            let content = self.topics.get(&topic).map(RetainedMessage::encode);
            (topic, content)
        })
    }

    pub(crate) fn restore(&mut self, topic: &str, content: &Bytes) -> Result<LogIndex, DecodeError> {
        let mut reader = Reader::new(content);
        let message =
            MessageRef { index: LogIndex(reader.u64()?), offset: reader.u32()?, bytes: reader.u32()? };
        let expires = Expires(reader.u32()?);
        reader.done()?;
        if topic_name(topic).is_none() {
            return Err(DecodeError::Topic { at: 0 });
        }
        self.put(topic, RetainedMessage { message, expires });
        self.dirty.clear();
        Ok(message.index)
    }

    /// Panics when an invariant does not hold.
    pub(crate) fn check(&self) {
        let expiring = self.topics.iter().filter(|(_, message)| message.expires != Expires::NEVER);
        let expiring: BTreeSet<_> =
            expiring.map(|(topic, message)| (message.expires, topic.clone())).collect();
        assert_eq!(expiring, self.timers, "every message that expires has a timer, and no other");
    }
}

impl RetainedMessage {
    fn encode(&self) -> Vec<u8> {
        let mut out = BytesMut::with_capacity(20);
        out.put_u64_le(self.message.index.0);
        out.put_u32_le(self.message.offset);
        out.put_u32_le(self.message.bytes);
        out.put_u32_le(self.expires.0);
        out.into()
    }
}

/// A topic name with its own storage.
pub(crate) fn topic_name(topic: &str) -> Option<TopicName> {
    TopicName::new(Text::parse(topic).ok()?).ok()
}

/// How a topic stands to a filter, and where the next one that can match is.
#[derive(PartialEq, Debug)]
enum Comparison {
    Match,
    /// No match; the next topic may be one.
    Next,
    /// No match before this topic.
    SkipTo(String),
    /// No match here or later.
    End,
}

/// Compares level by level [MQTT-4.7.1-1]. Where a literal level differs, all topics up to the next place where it
/// can be equal are skipped, so that reading costs by what matches and not by what is stored.
fn compare(filter: &str, topic: &str) -> Comparison {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        // Topics with `$` are together: go on behind them [MQTT-4.7.2-1].
        return Comparison::SkipTo("%".to_owned());
    }
    let mut wildcard_before = false;
    let mut levels = filter.split('/');
    let mut at = 0;
    loop {
        let rest = topic.get(at..);
        let Some(wanted) = levels.next() else {
            // The filter is used up: a match when the topic is too. Else nothing below matches either.
            return match (rest, topic.get(..at.saturating_sub(1))) {
                (None, _) | (_, None) => Comparison::Match,
                (Some(_), Some(parent)) if wildcard_before => Comparison::SkipTo(format!("{parent}0")),
                (Some(_), Some(_)) => Comparison::End,
            };
        };
        if wanted == "#" {
            return Comparison::Match;
        }
        let Some(rest) = rest else { return Comparison::Next };
        let level = rest.split('/').next().unwrap_or_default();
        if wanted == "+" {
            wildcard_before = true;
        } else if wanted != level {
            let prefix = topic.get(..at).unwrap_or_default();
            return differing(prefix, wanted, rest, wildcard_before);
        }
        at += level.len() + 1;
    }
}

/// `rest` is the topic after `prefix`; its first level is not `wanted`.
fn differing(prefix: &str, wanted: &str, rest: &str, wildcard_before: bool) -> Comparison {
    if rest < wanted {
        return Comparison::SkipTo(format!("{prefix}{wanted}"));
    }
    let below = format!("{wanted}/");
    if *rest < *below {
        return Comparison::SkipTo(format!("{prefix}{below}"));
    }
    if !wildcard_before {
        return Comparison::End;
    }
    // Everything with this prefix comes before the prefix with the character after `/`.
    match prefix.strip_suffix('/') {
        Some(parent) => Comparison::SkipTo(format!("{parent}0")),
        None => Comparison::Next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(retained: &mut Retained, topic: &str, expires: Expires) {
        let message = MessageRef { index: LogIndex(1), offset: 0, bytes: 1 };
        retained.put(topic, RetainedMessage { message, expires });
    }

    fn topics(page: &[RetainedItem]) -> Vec<String> {
        page.iter().map(|item| item.0.as_str().to_owned()).collect()
    }

    fn matches_naive(filter: &str, topic: &str) -> bool {
        let mut trie = crate::topic_trie::TopicTrie::new();
        trie.insert(filter, ());
        let mut found = false;
        trie.match_topic(topic, |()| found = true);
        found
    }

    #[test]
    fn page_of_every_filter_agrees_with_a_full_scan() {
        let words = ["a", "a-b", "b", "", "ab", "$s", "a0", "é"];
        let mut all = Vec::new();
        for first in words {
            if !first.is_empty() {
                all.push(first.to_owned());
            }
            for second in words {
                all.push(format!("{first}/{second}"));
                for third in ["a", "b", "a0"] {
                    all.push(format!("{first}/{second}/{third}"));
                }
            }
        }
        let mut retained = Retained::default();
        all.iter().for_each(|topic| put(&mut retained, topic, Expires::NEVER));
        all.sort();
        let levels = ["a", "a-b", "b", "+", "zz", "$s"];
        let mut filters: Vec<String> = levels.iter().map(|level| (*level).to_owned()).collect();
        for first in levels {
            filters.push(format!("{first}/#"));
            for second in levels {
                filters.push(format!("{first}/{second}"));
                filters.push(format!("{first}/{second}/#"));
                filters.push(format!("{first}/{second}/a"));
                filters.push(format!("{first}/{second}/+"));
            }
        }
        filters.push("#".to_owned());
        for filter in filters {
            let expected: Vec<String> =
                all.iter().filter(|topic| matches_naive(&filter, topic)).cloned().collect();
            assert_eq!(
                topics(&retained.page(&filter, None, 10_000, Timestamp(0), LogIndex(u64::MAX))),
                expected,
                "{filter}"
            );
            let mut paged: Vec<String> = Vec::new();
            loop {
                let page = retained.page(
                    &filter,
                    paged.last().map(String::as_str),
                    3,
                    Timestamp(0),
                    LogIndex(u64::MAX),
                );
                paged.extend(topics(&page));
                if page.len() < 3 {
                    break;
                }
            }
            assert_eq!(paged, expected, "{filter} in pages");
        }
    }

    #[test]
    fn expired_message_is_not_read_and_is_taken_once() {
        let mut retained = Retained::default();
        put(&mut retained, "t", Expires(5));
        put(&mut retained, "u", Expires(9));
        assert_eq!(topics(&retained.page("#", None, 9, Timestamp(5_001), LogIndex(u64::MAX))), ["u"]);
        assert_eq!(retained.pop_expired(Timestamp(5_000)), None);
        assert!(retained.pop_expired(Timestamp(5_001)).is_some());
        assert_eq!(retained.pop_expired(Timestamp(5_001)), None);
        put(&mut retained, "u", Expires::NEVER);
        assert_eq!(retained.pop_expired(Timestamp(u64::MAX)), None);
        retained.check();
        assert_eq!(retained.len(), 1);
    }
}
