//! SUBSCRIBE and UNSUBSCRIBE of one connection, up to their acknowledgements.
//!
//! Owns: the subscriptions of the connection's session as far as direct deliveries need them; the SUBACKs and
//! UNSUBACKs that wait for the cluster. Does not: keep the subscriptions of durable sessions (their partition does);
//! collect retained messages.
//! Invariants: a subscription is in the local table before the node is asked to announce it, so that nothing published
//! after SUBACK is missed; it gets there when all has come that other nodes forwarded before the SUBSCRIBE, so that nothing
//! older than the retained message comes for it; every filter gets one reason code, in packet order
//! [MQTT-3.8.4-6, MQTT-3.11.3-2].
//! Limits: SUBSCRIBES_PENDING_MAX, MARKS_WAIT_MAX; `ClientConfig::subscriptions_max`. Spec: MQTT 5, 3.8 to 3.11, 4.7, 4.8.
//! See: docs/decisions/0044-subscribe-behind-marks.md.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use quorate_codec::{PacketId, QoS, ReasonCode, Subscribe, TopicFilter, Unsubscribe};
use quorate_state::command::SubscribeFilter;

use super::limits::MARKS_WAIT_MAX;
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
    marks: Marks,
    /// Number of the marks that were asked for last; 0 when none were.
    last_mark: u64,
    /// Acknowledged just now, and the current values of read-only topics are due.
    pub(super) system: Vec<SubscribeFilter>,
}

/// Whether what other nodes forwarded before a SUBSCRIBE has come.
#[derive(Debug, Default)]
enum Marks {
    /// Not known.
    #[default]
    Unasked,
    /// Other nodes were asked; from `until` on it goes without their answers.
    Asked { until: Duration },
    /// It has, for each SUBSCRIBE that was read until now.
    Answered,
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

    /// Whether there is anything of the connection in the routing table.
    pub(super) fn is_known_outside(&self) -> bool {
        !self.filters.is_empty() || self.last_mark > 0
    }

    /// Until when a SUBSCRIBE waits for marks at most; `None` when none does.
    pub(super) fn waits_until(&self) -> Option<Duration> {
        match self.marks {
            Marks::Asked { until } => Some(until),
            Marks::Unasked | Marks::Answered => None,
        }
    }

    /// All nodes have answered the marks of this number. Those of an earlier one are nobody's any more.
    pub(super) fn marked(&mut self, number: u64) {
        if number == self.last_mark && matches!(self.marks, Marks::Asked { .. }) {
            self.marks = Marks::Answered;
        }
    }

    /// Nothing is left of what was read before the marks.
    pub(super) fn forget_marks(&mut self) {
        self.marks = Marks::Unasked;
    }

    fn must_wait(&mut self, out: &mut ClientOutput, now: Duration) -> bool {
        match self.marks {
            Marks::Answered => return false,
            Marks::Asked { until } if now < until => return true,
            Marks::Asked { .. } => {
                self.marks = Marks::Answered;
                return false;
            }
            Marks::Unasked => {}
        }
        self.last_mark += 1;
        self.marks = Marks::Asked { until: now + MARKS_WAIT_MAX };
        out.local.push(LocalChange::Mark(self.last_mark));
        true
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

    /// Whether a SUBSCRIBE has to wait until what other nodes have forwarded until now has come: without a subscription nobody
    /// takes it. A node forwards a message before it acknowledges it, so that whoever subscribes after the acknowledgement gets
    /// the retained message first, and nothing older later.
    pub(super) fn waits_for_marks(
        &mut self,
        subscribe: &Subscribe,
        out: &mut ClientOutput,
        now: Duration,
    ) -> bool {
        if self.is_over() || self.connection.close_cause().is_some() {
            // Nothing comes of it, and what was sent after it must not wait.
            self.subscribing.forget_marks();
            return false;
        }
        let transient = self.is_transient();
        // A durable session's partition has applied what was acknowledged; shared subscriptions get no retained messages.
        let direct =
            |qos: QoS, filter: &TopicFilter| (transient || qos == QoS::AtMostOnce) && !filter.is_shared();
        let direct = subscribe.filters.iter().any(|(filter, options)| direct(options.qos, filter));
        direct && self.subscribing.must_wait(out, now)
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
