//! SUBSCRIBE and UNSUBSCRIBE of durable sessions, and the routes that follow from them.
//!
//! Owns: subscriptions in sessions, their place in the trie, telling control of the first and the last subscriber of
//! a filter. Does not: wait for the cluster barrier or read retained messages; the node does.
//! Invariants: see `subscription`. Limits: `PartitionConfig::subscriptions_per_session_max`.
//! Spec: MQTT 5, 3.8.4 and 3.10.4.

use quorate_codec::{QoS, ReasonCode, TopicFilter};

use crate::command::{Command, RouteTarget, SubscribeFilter};
use crate::effect::{Effect, Reply, SubscribeResult};
use crate::group_state::Place;
use crate::ids::{CONTROL, Epoch, SessionId, ShareVersion, StreamSeq};
use crate::partition::{NO_ROUTE, Partition};
use crate::session::Subscription;
use crate::subscription::Subscribers;
use crate::wire::own_filter;

impl Partition {
    pub(super) fn subscribe(
        &mut self,
        place: Place,
        session: SessionId,
        epoch: Epoch,
        filters: Vec<SubscribeFilter>,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_current(place, session, epoch, effects) {
            return;
        }
        let durable = self.sessions.get(session).is_some_and(|session| session.durable);
        if !durable && !filters.iter().all(|wanted| wanted.filter.is_shared()) {
            self.state.reply(place, Reply::refused("the session ends with its connection"), effects);
            return;
        }
        // [MQTT-3.8.4-5]: as if each filter had come alone.
        let results = filters.iter().map(|filter| self.subscribe_one(session, filter, effects)).collect();
        self.state.reply(place, Reply::Subscribed(results), effects);
    }

    fn subscribe_one(
        &mut self,
        id: SessionId,
        wanted: &SubscribeFilter,
        effects: &mut Vec<Effect>,
    ) -> SubscribeResult {
        let failed = |reason| SubscribeResult { reason, existed: false, route: None, version: NO_VERSION };
        let Some((session, _)) = self.sessions.get_mut(id) else {
            return failed(ReasonCode::UNSPECIFIED_ERROR);
        };
        let before = session.subscriptions.get(&wanted.filter).copied();
        if before.is_none() && session.subscriptions.len() >= self.config.subscriptions_per_session_max {
            return failed(ReasonCode::QUOTA_EXCEEDED);
        }
        let options = wanted.options;
        let subscription = Subscription { options, identifier: wanted.identifier };
        let filter = own_filter(&wanted.filter);
        // [MQTT-3.8.4-3]: an existing subscription is replaced.
        session.subscriptions.insert(filter.clone(), subscription);
        self.totals.subscriptions += u64::from(before.is_none());
        let mut version = NO_VERSION;
        let route = if subscription.is_fed_here(&filter) {
            Some(self.link(id, &filter, subscription))
        } else {
            if before.is_some_and(|before| before.is_fed_here(&filter)) {
                self.unlink(id, &filter);
            }
            if filter.is_shared() {
                let before = before.map(|before| before.options.qos);
                version = self.share_subscribed(id, &filter, (before, options.qos), effects);
            }
            None
        };
        self.dirty_subscriptions.insert((id, filter));
        SubscribeResult { reason: granted(options.qos), existed: before.is_some(), route, version }
    }

    pub(super) fn unsubscribe(
        &mut self,
        place: Place,
        id: SessionId,
        epoch: Epoch,
        filters: &[TopicFilter],
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_current(place, id, epoch, effects) {
            return;
        }
        let mut existed = Vec::with_capacity(filters.len());
        for filter in filters {
            let Some((session, _)) = self.sessions.get_mut(id) else { break };
            let removed = session.subscriptions.remove_entry(filter);
            existed.push(removed.is_some());
            if let Some((filter, subscription)) = removed {
                self.totals.subscriptions -= 1;
                if subscription.is_fed_here(&filter) {
                    self.unlink(id, &filter);
                } else if subscription.options.qos != QoS::AtMostOnce {
                    self.share_unsubscribed(id, &filter, effects);
                }
                self.dirty_subscriptions.insert((id, filter));
            }
        }
        self.state.reply(place, Reply::Unsubscribed(existed), effects);
    }

    /// Makes the session a subscriber of the filter; returns where the filter's route was announced.
    fn link(&mut self, id: SessionId, filter: &TopicFilter, subscription: Subscription) -> StreamSeq {
        let subscribers = self.filters.entry(filter.as_str(), || Subscribers::new(NO_ROUTE));
        subscribers.insert(id, subscription.into());
        if subscribers.route == NO_ROUTE {
            let target = RouteTarget::Partition(self.config.group);
            subscribers.route =
                self.state.post(CONTROL, &Command::RouteAdd { filter: filter.clone(), target });
            self.dirty_routes.insert(filter.clone());
        }
        subscribers.route
    }

    /// Takes the session from the filter's subscribers; the last one takes the route along.
    pub(super) fn unlink(&mut self, id: SessionId, filter: &TopicFilter) {
        let Some(subscribers) = self.filters.get_mut(filter.as_str()) else { return };
        subscribers.remove(id);
        if subscribers.is_empty() {
            self.filters.remove(filter.as_str());
            let target = RouteTarget::Partition(self.config.group);
            self.state.post(CONTROL, &Command::RouteRemove { filter: filter.clone(), target });
            self.dirty_routes.insert(filter.clone());
        }
    }
}

/// Of a subscription that is not shared.
const NO_VERSION: ShareVersion = ShareVersion(0);

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::GRANTED_QOS_0,
        QoS::AtLeastOnce => ReasonCode::GRANTED_QOS_1,
        QoS::ExactlyOnce => ReasonCode::GRANTED_QOS_2,
    }
}
