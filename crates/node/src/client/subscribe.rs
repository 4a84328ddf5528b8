//! SUBSCRIBE and UNSUBSCRIBE of one connection, up to their acknowledgements.
//!
//! Owns: the subscriptions of the connection's session as far as direct deliveries need them; the SUBACKs and
//! UNSUBACKs that wait for the cluster. Does not: keep the subscriptions of durable sessions (their partition does);
//! collect retained messages.
//! Invariants: a subscription is in the local table before the node is asked to announce it, so that nothing published
//! after SUBACK is missed; every filter gets one reason code, in packet order [MQTT-3.8.4-6, MQTT-3.11.3-2].
//! Limits: SUBSCRIBES_PENDING_MAX; `ClientConfig::subscriptions_max`. Spec: MQTT 5, 3.8 to 3.11, 4.7, 4.8.

use std::collections::{BTreeSet, VecDeque};

use quorate_codec::{PacketId, ReasonCode, Subscribe, TopicFilter, Unsubscribe};
use quorate_state::command::SubscribeFilter;

use super::system::wants_values;
use super::{Client, own_filter};
use crate::edge::{ClientOutput, ClientRequest, LocalChange};

/// Subscriptions and what waits for the cluster.
#[derive(Debug, Default)]
pub(super) struct Subscribing {
    /// Filters in the local table.
    filters: BTreeSet<TopicFilter>,
    subscribes: VecDeque<PendingSubscribe>,
    /// UNSUBSCRIBE packets without UNSUBACK.
    unsubscribes: usize,
    /// Acknowledged just now, and the current values of read-only topics are due.
    pub(super) system: Vec<SubscribeFilter>,
}

#[derive(Debug)]
struct PendingSubscribe {
    packet_id: PacketId,
    verdicts: Vec<Verdict>,
    /// Those that want the current values of read-only topics.
    system: Vec<SubscribeFilter>,
}

/// What became of one filter of a SUBSCRIBE.
#[derive(Debug)]
enum Verdict {
    /// Refused here.
    Refused(ReasonCode),
    /// Sent to the node, which has the last word.
    Asked(TopicFilter),
}

impl Subscribing {
    /// Packets that wait for the cluster.
    pub(super) fn waiting(&self) -> usize {
        self.subscribes.len() + self.unsubscribes
    }

    /// Whether the connection has subscriptions in the local table.
    pub(super) fn has_local(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Forgets everything: the connection is over.
    pub(super) fn clear(&mut self) {
        *self = Subscribing::default();
    }
}

impl Client {
    /// The session has these subscriptions from before.
    pub(super) fn resume_subscriptions(
        &mut self,
        subscriptions: Vec<SubscribeFilter>,
        out: &mut ClientOutput,
    ) {
        for subscription in subscriptions {
            self.add_local(subscription, out);
        }
    }

    /// SUBSCRIBE was read.
    pub(super) fn subscribe(&mut self, subscribe: &Subscribe, out: &mut ClientOutput) {
        let mut verdicts = Vec::with_capacity(subscribe.filters.len());
        let mut asked = Vec::with_capacity(subscribe.filters.len());
        let mut system = Vec::new();
        for (filter, options) in &subscribe.filters {
            if let Some(reason) = self.refusal(filter) {
                verdicts.push(Verdict::Refused(reason));
                continue;
            }
            let subscription = SubscribeFilter {
                filter: own_filter(filter),
                options: *options,
                identifier: subscribe.identifier,
            };
            if wants_values(&subscription, self.subscribing.filters.contains(filter)) {
                system.push(subscription.clone());
            }
            verdicts.push(Verdict::Asked(subscription.filter.clone()));
            asked.push(subscription.clone());
            self.add_local(subscription, out);
        }
        let packet_id = subscribe.packet_id;
        self.subscribing.subscribes.push_back(PendingSubscribe { packet_id, verdicts, system });
        if asked.is_empty() {
            self.subscribed(packet_id, &[], out);
        } else {
            out.requests.push(ClientRequest::Subscribe { packet_id, filters: asked });
        }
    }

    /// The filters sent to the node have these reasons: SUBACK.
    pub(super) fn subscribed(&mut self, packet_id: PacketId, reasons: &[ReasonCode], out: &mut ClientOutput) {
        let pending = &mut self.subscribing.subscribes;
        let at = pending.iter().position(|subscribe| subscribe.packet_id == packet_id);
        let Some(subscribe) = at.and_then(|at| pending.remove(at)) else { return };
        let mut answers = reasons.iter().copied();
        let mut all = Vec::with_capacity(subscribe.verdicts.len());
        for verdict in subscribe.verdicts {
            let reason = match verdict {
                Verdict::Refused(reason) => reason,
                Verdict::Asked(filter) => {
                    let reason = answers.next().expect("the node answers for every filter it was asked for");
                    if reason.is_failure() {
                        self.remove_local(&filter, out);
                    }
                    reason
                }
            };
            all.push(reason);
        }
        let accepted = |asked: &SubscribeFilter| self.subscribing.filters.contains(&asked.filter);
        let system = subscribe.system.into_iter().filter(accepted).collect::<Vec<_>>();
        self.subscribing.system.extend(system);
        self.connection.suback(packet_id, all);
    }

    /// UNSUBSCRIBE was read.
    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe, out: &mut ClientOutput) {
        let filters: Vec<TopicFilter> = unsubscribe.filters.iter().map(own_filter).collect();
        for filter in &filters {
            self.remove_local(filter, out);
        }
        self.subscribing.unsubscribes += 1;
        out.requests.push(ClientRequest::Unsubscribe { packet_id: unsubscribe.packet_id, filters });
    }

    /// UNSUBSCRIBE is in force: UNSUBACK. `existed` tells for each filter whether there was a subscription.
    pub(super) fn unsubscribed(&mut self, packet_id: PacketId, existed: Vec<bool>) {
        self.subscribing.unsubscribes = self.subscribing.unsubscribes.saturating_sub(1);
        let reason =
            |existed| if existed { ReasonCode::SUCCESS } else { ReasonCode::NO_SUBSCRIPTION_EXISTED };
        self.connection.unsuback(packet_id, existed.into_iter().map(reason).collect());
    }

    /// Why a filter cannot be subscribed to; `None` when it can.
    fn refusal(&self, filter: &TopicFilter) -> Option<ReasonCode> {
        let filters = &self.subscribing.filters;
        let full = filters.len() >= self.config.subscriptions_max && !filters.contains(filter);
        full.then_some(ReasonCode::QUOTA_EXCEEDED)
    }

    fn add_local(&mut self, subscription: SubscribeFilter, out: &mut ClientOutput) {
        self.subscribing.filters.insert(subscription.filter.clone());
        let durable = !self.is_transient();
        out.local.push(LocalChange::Add { subscription, client: self.client_hash, durable });
    }

    fn remove_local(&mut self, filter: &TopicFilter, out: &mut ClientOutput) {
        if self.subscribing.filters.remove(filter) {
            out.local.push(LocalChange::Remove(filter.clone()));
        }
    }
}
