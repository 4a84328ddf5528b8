//! Looking at many sessions in place, in order of client identifiers.
//!
//! Owns: [`SessionRef`], the walk over sessions, the bounded look at retained messages.
//! Does not: choose, sum up or format. Invariants: reading changes nothing.
//! Limits: a step costs a look-up in one table; whoever walks says where to stop.

use std::ops::Bound;

use quorate_codec::{TopicFilter, TopicName};

use crate::command::SubscribeFilter;
use crate::delivery::window_max;
use crate::ids::{LogIndex, Owner, SessionId, Timestamp};
use crate::partition::{Partition, SessionInfo, session_info};
use crate::retained::RetainedSlice;
use crate::session::Session;

/// A session where it is: looking at a field costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct SessionRef<'a> {
    session: &'a Session,
    partition: &'a Partition,
}

impl<'a> SessionRef<'a> {
    /// Client identifier.
    #[must_use]
    pub fn client_id(&self) -> &'a str {
        self.session.client_id.as_str()
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.session.id
    }

    /// Connection that holds it.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        self.session.owner()
    }

    /// It outlives its connection: its subscriptions and messages are here.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.session.durable
    }

    /// Queued messages.
    #[must_use]
    pub fn queued_messages(&self) -> u64 {
        self.session.queue.len()
    }

    /// Queued bytes.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.session.queue.bytes()
    }

    /// Messages sent on the present connection and not acknowledged.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.session.inflight.sent()
    }

    /// How many a connection of it may have unacknowledged: Receive Maximum, capped by the configuration.
    #[must_use]
    pub fn window(&self) -> u16 {
        window_max(&self.partition.config, self.session.receive_max)
    }

    /// Entry of the message that is queued first.
    #[must_use]
    pub fn oldest_queued(&self) -> Option<LogIndex> {
        self.session.queue.front().map(|queued| queued.message.index)
    }

    /// Entry of the first unacknowledged message that the client is not known to have received.
    #[must_use]
    pub fn oldest_inflight(&self) -> Option<LogIndex> {
        let mut waiting = self.session.inflight.iter().filter(|message| !message.queued.is_received());
        waiting.next().map(|message| message.queued.message.index)
    }

    /// Messages dropped for it since it began.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.session.drops.dropped().map(|(_, count)| count).fold(0, u64::saturating_add)
    }

    /// All that is told of a session in a list.
    #[must_use]
    pub fn info(&self) -> SessionInfo {
        session_info(self.session)
    }

    /// Subscriptions in byte order of the filters, after one of them. Of a transient session only the shared ones.
    pub fn subscriptions_after(
        &self,
        after: Option<&'a TopicFilter>,
    ) -> impl Iterator<Item = SubscribeFilter> + use<'a> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.session.subscriptions.range::<TopicFilter, _>((from, Bound::Unbounded));
        range.map(|(filter, subscription)| SubscribeFilter {
            filter: filter.clone(),
            options: subscription.options,
            identifier: subscription.identifier,
        })
    }
}

impl Partition {
    /// Sessions in byte order of client identifiers, from a bound on.
    pub fn walk<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = SessionRef<'a>> + use<'a> {
        self.sessions.iter_from(from).map(|session| SessionRef { session, partition: self })
    }

    /// A session where it is.
    #[must_use]
    pub fn at(&self, session: SessionId) -> Option<SessionRef<'_>> {
        self.sessions.get(session).map(|session| SessionRef { session, partition: self })
    }

    /// As [`Partition::retained`] of all messages there are, looking at no more than `examined_max` topics: the answer
    /// says where to go on.
    #[must_use]
    pub fn retained_slice(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        max: usize,
        examined_max: usize,
        now: Timestamp,
    ) -> RetainedSlice {
        let now = now.max(self.state.now);
        let after = after.map(TopicName::as_str);
        self.retained.slice(filter.as_str(), after, (max, examined_max), now, LogIndex(u64::MAX))
    }
}
