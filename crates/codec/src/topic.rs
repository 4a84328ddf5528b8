//! Topic names and topic filters: the one place for their rules.
//!
//! Owns: what is a name, a filter and a shared subscription; the reference for matching.
//! Does not: match one topic against many filters.
//! Invariants: a name has no wildcard, a filter has them only as whole levels, neither is empty; a filter that starts
//! with `$share/` has a share name and a filter behind it.
//! Limits: LEVELS_MAX; the length is that of a text.
//! Spec: MQTT 5, 4.7 and 4.8; MQTT 3.1.1, 4.7.

use std::borrow::Borrow;
use std::fmt;

use thiserror::Error;

use crate::limits::LEVELS_MAX;
use crate::text::Text;

/// What the filter of a shared subscription starts with [MQTT-4.8.2-1].
const SHARE_PREFIX: &str = "$share/";

/// A topic name: where a message is published. No wildcard, not empty, at most `LEVELS_MAX` levels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Text);

/// A topic filter: what a subscription matches. Wildcards only as whole levels, `#` only last.
///
/// `$share/{name}/{filter}` is a shared subscription for every protocol version, although only 5.0 specifies it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(Text);

/// Why a text is not a topic name or not a topic filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TopicError {
    /// At least one character [MQTT-4.7.3-1].
    #[error("topic is empty")]
    Empty,
    /// More levels than the limit.
    #[error("topic has {levels} levels, more than {max}")]
    Levels {
        /// Its levels.
        levels: usize,
        /// The limit.
        max: usize,
    },
    /// A wildcard in a topic name [MQTT-3.3.2-2].
    #[error("wildcard in a topic name")]
    Wildcard,
    /// `#` that is not the whole last level [MQTT-4.7.1-1], or `+` that is not a whole level [MQTT-4.7.1-2].
    #[error("wildcard that is not a whole level, or # before the last level")]
    WildcardPlace,
    /// A shared subscription whose name is empty or holds a wildcard [MQTT-4.8.2-1], [MQTT-4.8.2-2].
    #[error("share name is empty or holds a wildcard")]
    ShareName,
    /// A shared subscription without a topic filter [MQTT-4.8.2-2].
    #[error("shared subscription without a topic filter")]
    ShareFilter,
}

impl TopicName {
    /// Checks a text.
    ///
    /// # Errors
    /// [`TopicError::Empty`], [`TopicError::Wildcard`], [`TopicError::Levels`].
    pub fn new(text: Text) -> Result<Self, TopicError> {
        check_name(text.as_bytes(), LEVELS_MAX)?;
        Ok(Self(text))
    }

    /// For a text that [`check_name`] has accepted.
    pub(crate) fn checked(text: Text) -> Self {
        debug_assert_eq!(check_name(text.as_bytes(), LEVELS_MAX), Ok(()), "checked by the caller");
        Self(text)
    }

    /// The topic as a string.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The topic as a text, to be shared.
    pub fn text(&self) -> &Text {
        &self.0
    }

    /// The levels in order, at least one; any may be empty.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.as_str().split('/')
    }

    /// Whether it starts with `$`, and so is matched by no filter that starts with a wildcard [MQTT-4.7.2-1].
    pub fn is_dollar(&self) -> bool {
        self.0.as_bytes().first() == Some(&b'$')
    }
}

impl TopicFilter {
    /// Checks a text.
    ///
    /// # Errors
    /// [`TopicError`] for each rule that it breaks, except [`TopicError::Wildcard`].
    pub fn new(text: Text) -> Result<Self, TopicError> {
        Self::new_within(text, LEVELS_MAX)
    }

    /// Like [`Self::new`] with fewer levels allowed.
    pub(crate) fn new_within(text: Text, levels_max: usize) -> Result<Self, TopicError> {
        let whole = text.as_str();
        check_levels(text.as_bytes(), levels_max)?;
        let filter = match whole.strip_prefix(SHARE_PREFIX) {
            Some(shared) => check_share(shared)?,
            None => whole,
        };
        check_filter(filter)?;
        Ok(Self(text))
    }

    /// The filter as a string.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The filter as a text, to be shared.
    pub fn text(&self) -> &Text {
        &self.0
    }

    /// The levels in order, at least one; any may be empty. Of a shared subscription `$share` and the name come first.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.as_str().split('/')
    }

    /// Whether it has a level that is a wildcard.
    pub fn has_wildcard(&self) -> bool {
        self.0.as_bytes().iter().any(|byte| matches!(byte, b'+' | b'#'))
    }

    /// Whether this is a shared subscription.
    pub fn is_shared(&self) -> bool {
        self.0.as_bytes().starts_with(SHARE_PREFIX.as_bytes())
    }

    /// Share name and topic filter of a shared subscription [MQTT-4.8.2-1].
    pub fn shared(&self) -> Option<(&str, TopicFilter)> {
        let (name, filter) = self.as_str().strip_prefix(SHARE_PREFIX)?.split_once('/')?;
        let start = self.0.len() - filter.len();
        Some((name, Self(self.0.slice(start..self.0.len()))))
    }

    /// Whether a message on this topic is for a subscription with this filter; of a shared subscription its filter
    /// counts. This is the reference: plain, linear, not recursive. Tries are tested against it.
    pub fn matches(&self, topic: &TopicName) -> bool {
        let whole = self.as_str();
        let filter = match whole.strip_prefix(SHARE_PREFIX).and_then(|shared| shared.split_once('/')) {
            Some((_, filter)) => filter,
            None => whole,
        };
        // [MQTT-4.7.2-1]
        if topic.is_dollar() && filter.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.levels();
        for pattern in filter.split('/') {
            // `#` stands for the level above it too: `a/#` matches `a` [MQTT-4.7.1-1].
            if pattern == "#" {
                return true;
            }
            match levels.next() {
                Some(level) if pattern == "+" || pattern == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

/// Checks the rules of [`TopicName`] with a limit on levels. Both passes over the bytes have no branch for each byte.
pub(crate) fn check_name(name: &[u8], levels_max: usize) -> Result<(), TopicError> {
    check_levels(name, levels_max)?;
    // [MQTT-3.3.2-2], [MQTT-4.7.1-1] of 3.1.1.
    let wildcard = name.iter().fold(false, |found, byte| found | (*byte == b'+') | (*byte == b'#'));
    if wildcard { Err(TopicError::Wildcard) } else { Ok(()) }
}

/// Checks what names and filters have in common.
fn check_levels(topic: &[u8], max: usize) -> Result<(), TopicError> {
    // [MQTT-4.7.3-1]
    if topic.is_empty() {
        return Err(TopicError::Empty);
    }
    let levels = 1 + topic.iter().filter(|byte| **byte == b'/').count();
    let max = max.min(LEVELS_MAX);
    if levels > max { Err(TopicError::Levels { levels, max }) } else { Ok(()) }
}

/// Checks what follows `$share/` and gives the topic filter in it.
fn check_share(shared: &str) -> Result<&str, TopicError> {
    let (name, filter) = shared.split_once('/').unwrap_or((shared, ""));
    if name.is_empty() || name.contains(['+', '#']) {
        return Err(TopicError::ShareName);
    }
    if filter.is_empty() {
        return Err(TopicError::ShareFilter);
    }
    Ok(filter)
}

/// Checks the places of the wildcards.
fn check_filter(filter: &str) -> Result<(), TopicError> {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let wildcard = level.contains(['+', '#']);
        let last = levels.peek().is_none();
        // [MQTT-4.7.1-1], [MQTT-4.7.1-2]
        if wildcard && level != "+" && !(level == "#" && last) {
            return Err(TopicError::WildcardPlace);
        }
    }
    Ok(())
}

macro_rules! like_a_string {
    ($topic:ty) => {
        impl TryFrom<Text> for $topic {
            type Error = TopicError;

            fn try_from(text: Text) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $topic {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl AsRef<str> for $topic {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Debug for $topic {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), formatter)
            }
        }

        impl fmt::Display for $topic {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self.as_str(), formatter)
            }
        }
    };
}

like_a_string!(TopicName);
like_a_string!(TopicFilter);

#[cfg(test)]
mod tests;
