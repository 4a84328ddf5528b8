//! Sessions that are at home here as members of share groups, which may be at home elsewhere.
//!
//! Owns: telling groups of absence and leave, taking their messages, giving back what a session will not get.
//! Does not: choose among members; the groups' partitions do.
//! Invariants: each message of a group is answered once: settled or given back. A group is told of an absence or a
//! leave before it gets messages back for that reason, so that they do not come again to the same session.
//! Spec: MQTT 5, 4.8.2. See: `share`, `membership`.

use quorate_codec::{QoS, TopicFilter};

use crate::command::{Command, ShareMember};
use crate::effect::Effect;
use crate::encode::{MessageView, ShareDispatch};
use crate::expiry::Expires;
use crate::group_state::Place;
use crate::hash::partition_of_share;
use crate::ids::{SessionId, ShareId, ShareVersion, StreamId};
use crate::membership::{Origin, ShareNews};
use crate::partition::Partition;
use crate::queue::Queued;
use crate::session::{Session, dirty};

/// Of a session that is not there: nothing that it did comes later. Sessions are never numbered alike.
const LAST_VERSION: ShareVersion = ShareVersion(u64::MAX);

impl Session {
    /// Filters of the shared subscriptions that take part in a group: those of QoS 1 and 2.
    fn share_filters(&self) -> impl Iterator<Item = &TopicFilter> {
        // All that begin with `$share/`, which are next to each other.
        let shared = self.subscriptions.iter().filter(|(filter, _)| filter.is_shared());
        shared.filter(|(_, found)| found.options.qos != QoS::AtMostOnce).map(|(filter, _)| filter)
    }

    fn takes_part(&self, filter: &TopicFilter) -> bool {
        let subscription = self.subscriptions.get(filter);
        subscription.is_some_and(|found| filter.is_shared() && found.options.qos != QoS::AtMostOnce)
    }
}

impl Partition {
    /// A shared subscription was made or changed: the version for its join, or 0 when its QoS needs none.
    pub(super) fn share_subscribed(
        &mut self,
        id: SessionId,
        filter: &TopicFilter,
        (before, now): (Option<QoS>, QoS),
        effects: &mut Vec<Effect>,
    ) -> ShareVersion {
        if now == QoS::AtMostOnce {
            if before.is_some_and(|before| before != QoS::AtMostOnce) {
                self.share_unsubscribed(id, filter, effects);
            }
            return ShareVersion(0);
        }
        self.next_share_version(id)
    }

    /// A shared subscription is gone. What was sent to the client may still be acknowledged [MQTT-3.10.4-3]; the rest
    /// goes to others [MQTT-3.10.4-2].
    pub(super) fn share_unsubscribed(
        &mut self,
        id: SessionId,
        filter: &TopicFilter,
        effects: &mut Vec<Effect>,
    ) {
        let version = self.next_share_version(id);
        self.post_leave(id, filter, version);
        self.with_session(id, effects, |delivery, session, marks| {
            if let Some(group) = session.memberships.forget(filter) {
                delivery.give_back_unsent(session, |origin| (origin.home, origin.share) == group);
                marks.mark(session, dirty::SHARED);
            }
        });
    }

    /// The connection of a session that stays is closed: what its client has not acknowledged of QoS 1, and what was not
    /// sent, goes to others. QoS 2 that was sent waits for the client [MQTT-4.8.2-4].
    pub(super) fn share_closed(&mut self, id: SessionId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(id).filter(|session| !session.memberships.is_unused()) else {
            return;
        };
        let filters: Vec<TopicFilter> = session.share_filters().cloned().collect();
        let version = self.next_share_version(id);
        let member = self.share_member(id);
        for filter in filters {
            let home = partition_of_share(&filter, self.config.partitions);
            self.state.post(home, &Command::ShareOffline { filter, member, version });
        }
        self.with_session(id, effects, |delivery, session, marks| {
            delivery.give_back(session);
            marks.mark(session, dirty::SHARED | dirty::DELIVERY);
        });
    }

    /// A session is over: it is in no table any more.
    pub(super) fn share_ended(&mut self, session: &Session) {
        session.share_filters().for_each(|filter| self.post_leave(session.id, filter, LAST_VERSION));
    }

    /// A connection has the session: the version for the joins that make its shared subscriptions active again; 0 when
    /// it has none.
    pub(super) fn share_connected(&mut self, id: SessionId) -> ShareVersion {
        let any = self.sessions.get(id).is_some_and(|session| session.share_filters().next().is_some());
        if any { self.next_share_version(id) } else { ShareVersion(0) }
    }

    /// A group has taken the session in. If that is not so any more, it hears again of what it may have heard too early.
    pub(super) fn share_confirm(
        &mut self,
        place: Place,
        id: SessionId,
        filter: &TopicFilter,
        share: ShareId,
    ) {
        let StreamId::Group(home) = place.stream else { return };
        let Some((session, marks)) = self.sessions.get_mut(id) else {
            self.post_leave(id, filter, LAST_VERSION);
            return;
        };
        let version = session.memberships.version;
        if !session.takes_part(filter) {
            self.post_leave(id, filter, version);
            return;
        }
        session.memberships.confirm(home, share, filter);
        marks.mark(session, dirty::SHARED);
        if session.owner().is_none() {
            let (filter, member) = (filter.clone(), self.share_member(id));
            self.state.post(home, &Command::ShareOffline { filter, member, version });
        }
    }

    /// A message of a group for a session, which takes it like any other, or gives it back when it cannot be sent.
    pub(super) fn share_deliver(
        &mut self,
        place: Place,
        deliver: ShareDispatch,
        message: &MessageView<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let StreamId::Group(home) = place.stream else { return };
        let origin = Origin { home, share: deliver.share, number: deliver.dispatch };
        let session = self.sessions.get(deliver.session);
        let taken = session.is_some_and(|session| {
            session.owner().is_some() && session.memberships.is_member(home, deliver.share)
        });
        let reference = Self::message_ref(place.index, message.offset, message.bytes);
        let Some(reference) = reference.filter(|_| taken && deliver.qos != QoS::AtMostOnce) else {
            self.post_share_news(ShareNews { settled: Vec::new(), returned: vec![origin] });
            return;
        };
        let expires = Expires::after(self.state.now, deliver.expiry_s);
        self.with_session(deliver.session, effects, |delivery, session, marks| {
            let (identifiers, is_new) = session.identifiers.number_of(deliver.identifier.as_slice());
            if is_new {
                marks.mark(session, dirty::IDENTIFIERS);
            }
            session.memberships.insert(reference, origin);
            let queued = Queued::new(reference, deliver.qos, deliver.retain, expires, identifiers);
            delivery.accept(session, marks, queued.shared());
        });
    }

    /// Tells groups what became of their messages: one command for those of a group.
    pub(super) fn post_share_news(&mut self, news: ShareNews) {
        for (mut origins, settled) in [(news.settled, true), (news.returned, false)] {
            origins.sort_unstable();
            for same in origins.chunk_by(|left, right| (left.home, left.share) == (right.home, right.share)) {
                let Some(Origin { home, share, .. }) = same.first().copied() else { continue };
                let dispatches = same.iter().map(|origin| origin.number).collect();
                let command = if settled {
                    Command::ShareSettled { share, dispatches }
                } else {
                    Command::ShareReturn { share, dispatches }
                };
                self.state.post(home, &command);
            }
        }
    }

    fn share_member(&self, session: SessionId) -> ShareMember {
        ShareMember { group: self.config.group, session }
    }

    fn post_leave(&mut self, id: SessionId, filter: &TopicFilter, version: ShareVersion) {
        let (filter, member) = (filter.clone(), self.share_member(id));
        let home = partition_of_share(&filter, self.config.partitions);
        self.state.post(home, &Command::ShareLeave { filter, member, version });
    }

    fn next_share_version(&mut self, id: SessionId) -> ShareVersion {
        let Some((session, marks)) = self.sessions.get_mut(id) else { return LAST_VERSION };
        marks.mark(session, dirty::SHARED);
        session.memberships.next_version()
    }
}
