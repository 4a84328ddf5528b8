//! Topic names and topic filters: the one place for their rules.

use crate::text::Text;

/// A topic name: where a message is published. No wildcard, not empty, at most `LEVELS_MAX` levels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Text);

/// A topic filter: what a subscription matches. Wildcards only as whole levels, `#` only last.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(Text);
