//! What a session knows of its share groups: their numbers, and which of its messages are theirs.
//!
//! Owns: group number by subscription, the origin of each message, the session's version.
//! Does not: hold messages; they are in the session's queue and inflight like any other.
//! Invariants: a message with the mark of a share group is in the queue or inflight of the session; it has an origin
//! until it is settled or given back. Without one it is to be skipped: only queued ones are.
//! Limits: SHARE_WINDOW_MAX origins per share subscription, 50 bytes each. See: `share`.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::TopicFilter;

use crate::ids::{GroupId, LogIndex, MessageRef, ShareId, ShareVersion};
use crate::queue::Queued;
use crate::wire::{DecodeError, Reader, own_filter, put_count, put_text};

/// Where a message of a share group comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Origin {
    /// The partition of the share group.
    pub(crate) home: GroupId,
    pub(crate) share: ShareId,
    /// The message's number in the group.
    pub(crate) number: u64,
}

/// Messages of share groups that a session has done with, to be told to their groups.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct ShareNews {
    /// Acknowledged, received or dropped.
    pub(crate) settled: Vec<Origin>,
    /// For somebody else.
    pub(crate) returned: Vec<Origin>,
}

/// The share groups of a session.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Memberships {
    /// Grows with everything that groups are told; 0 while there was no share subscription.
    pub(crate) version: ShareVersion,
    groups: BTreeMap<(GroupId, ShareId), TopicFilter>,
    origins: BTreeMap<(LogIndex, u32), Origin>,
}

impl Memberships {
    /// A version for what happens now.
    pub(crate) fn next_version(&mut self) -> ShareVersion {
        self.version = ShareVersion(self.version.0 + 1);
        self.version
    }

    /// The group of a subscription.
    pub(crate) fn confirm(&mut self, home: GroupId, share: ShareId, filter: &TopicFilter) {
        self.forget(filter);
        self.groups.insert((home, share), own_filter(filter));
    }

    /// There is no subscription any more.
    pub(crate) fn forget(&mut self, filter: &TopicFilter) -> Option<(GroupId, ShareId)> {
        let group = *self.groups.iter().find(|(_, known)| *known == filter)?.0;
        self.groups.remove(&group);
        Some(group)
    }

    pub(crate) fn is_member(&self, home: GroupId, share: ShareId) -> bool {
        self.groups.contains_key(&(home, share))
    }

    pub(crate) fn insert(&mut self, message: MessageRef, origin: Origin) {
        self.origins.insert((message.index, message.offset), origin);
    }

    /// Where a message comes from; `None` when it was given back.
    pub(crate) fn take(&mut self, message: MessageRef) -> Option<Origin> {
        self.origins.remove(&(message.index, message.offset))
    }

    /// Whether the message was given back: it is in the queue still, but not to be sent.
    pub(crate) fn is_ghost(&self, queued: &Queued) -> bool {
        queued.is_shared() && !self.origins.contains_key(&(queued.message.index, queued.message.offset))
    }

    /// Takes out the origins of messages that are not among `kept` and of which `group` says yes: log index and origin.
    pub(crate) fn take_unless<'a>(
        &mut self,
        kept: impl Iterator<Item = &'a Queued>,
        group: impl Fn(&Origin) -> bool,
    ) -> Vec<(LogIndex, Origin)> {
        let mut kept: Vec<_> = kept.map(|queued| (queued.message.index, queued.message.offset)).collect();
        kept.sort_unstable();
        let mut taken = Vec::new();
        self.origins.retain(|place, origin| {
            let goes = kept.binary_search(place).is_err() && group(origin);
            if goes {
                taken.push((place.0, *origin));
            }
            !goes
        });
        taken
    }

    /// Number of messages that are to be settled or given back.
    pub(crate) fn messages(&self) -> usize {
        self.origins.len()
    }

    /// Nothing was ever told to a group.
    pub(crate) fn is_unused(&self) -> bool {
        self.version == ShareVersion(0)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        out.put_u64_le(self.version.0);
        put_count(&mut out, self.groups.len());
        for ((home, share), filter) in &self.groups {
            out.put_u32_le(home.0);
            out.put_u64_le(share.0);
            put_text(&mut out, filter.as_str());
        }
        put_count(&mut out, self.origins.len());
        for ((index, offset), origin) in &self.origins {
            out.put_u64_le(index.0);
            out.put_u32_le(*offset);
            out.put_u32_le(origin.home.0);
            out.put_u64_le(origin.share.0);
            out.put_u64_le(origin.number);
        }
        out.into()
    }

    pub(crate) fn decode(content: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(content);
        let mut memberships = Self { version: ShareVersion(reader.u64()?), ..Self::default() };
        for _ in 0..reader.length()? {
            let group = (GroupId(reader.u32()?), ShareId(reader.u64()?));
            memberships.groups.insert(group, own_filter(&reader.topic_filter()?));
        }
        for _ in 0..reader.length()? {
            let place = (LogIndex(reader.u64()?), reader.u32()?);
            let (home, share) = (GroupId(reader.u32()?), ShareId(reader.u64()?));
            memberships.origins.insert(place, Origin { home, share, number: reader.u64()? });
        }
        reader.done()?;
        Ok(memberships)
    }
}
