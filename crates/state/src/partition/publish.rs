//! A message into the partition: to the subscribers' queues and into the retained register.
//!
//! Owns: matching, one copy per session, all-or-nothing refusal.
//! Does not: serve QoS 0 or transient sessions; they never come here.
//! Invariants: a session gets at most one copy, with the highest QoS of its matching subscriptions and all their
//! identifiers; a refused message changes nothing but counters. Spec: MQTT 5, 3.3.4, 3.3.1.3 and 3.8.3.1.

use quorate_codec::QoS;

use crate::config::Overflow;
use crate::delivery::{QUOTA_REFUSAL, dropped};
use crate::effect::{DropReason, Effect, Reply};
use crate::encode::MessageView;
use crate::expiry::Expires;
use crate::group_state::Place;
use crate::ids::{Epoch, MessageRef, SessionId, StreamId};
use crate::partition::Partition;
use crate::queue::Queued;
use crate::retained::{RetainedMessage, topic_name};
use crate::session::{Session, dirty};
use crate::subscription::Interest;

/// A subscription that matches the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matched {
    session: SessionId,
    interest: Interest,
}

/// One copy for a session, as its subscriptions make it.
struct Copy {
    qos: QoS,
    retain: bool,
}

impl Partition {
    pub(super) fn publish(
        &mut self,
        place: Place,
        message: &MessageView<'_>,
        store_retained: bool,
        fan_out: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(reference) = Self::message_ref(place.index, message.offset, message.bytes) else {
            self.state.reply(place, Reply::refused("the message is out of reach"), effects);
            return;
        };
        let mut matched = std::mem::take(&mut self.matched);
        matched.clear();
        let mut shares = Vec::new();
        if fan_out && message.qos != QoS::AtMostOnce {
            self.collect(message.topic, &mut matched);
            shares = self.shares.of_topic(message.topic);
        }
        if store_retained && !self.can_retain(message)
            || !self.have_room(place, message, reference, &matched, effects)
            || !self.shares_have_room(&shares, reference.bytes, effects)
        {
            self.state.reply(place, Reply::Rejected(QUOTA_REFUSAL), effects);
            // Of those two, no publisher hears: the drop is counted.
            if message.qos == QoS::AtMostOnce {
                dropped(effects, DropReason::RetainedTopics, 1);
            } else if matches!(place.stream, StreamId::Group(_)) {
                dropped(effects, DropReason::RefusedLate, 1);
            }
        } else {
            if store_retained {
                self.store_retained(message, reference);
            }
            for copies in matched.chunk_by(|left, right| left.session == right.session) {
                self.hand_over(message, reference, copies, effects);
            }
            self.share_out(&shares, message, reference, effects);
        }
        self.matched = matched;
    }

    /// All matching subscriptions, those of a session together.
    fn collect(&self, topic: &str, matched: &mut Vec<Matched>) {
        self.filters.match_topic(topic, |subscribers| {
            subscribers.for_each(|session, interest| matched.push(Matched { session, interest: *interest }));
        });
        if !matched.is_sorted_by_key(|matched| matched.session) {
            matched.sort_by_key(|matched| matched.session);
        }
    }

    /// Under [`Overflow::RejectPublisher`]: whether every session has room. The other policies make room. The first
    /// session that has none counts the refusal; the publisher hears of it, unless the message comes from an outbox.
    fn have_room(
        &mut self,
        place: Place,
        message: &MessageView<'_>,
        reference: MessageRef,
        matched: &[Matched],
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.config.overflow != Overflow::RejectPublisher {
            return true;
        }
        matched.chunk_by(|left, right| left.session == right.session).all(|copies| {
            let Some(first) = copies.first() else { return true };
            let room = self.with_session(first.session, effects, |delivery, session, marks| {
                let room = merge(message, session, copies).is_none()
                    || delivery.has_room(session, marks, reference.bytes);
                if !room {
                    match place.stream {
                        StreamId::Node(..) => session.drops.refuse(),
                        StreamId::Group(_) => session.drops.add(DropReason::RefusedLate, 1),
                    }
                    marks.mark(session, dirty::DROPS);
                }
                room
            });
            room.unwrap_or(true)
        })
    }

    fn hand_over(
        &mut self,
        message: &MessageView<'_>,
        reference: MessageRef,
        copies: &[Matched],
        effects: &mut Vec<Effect>,
    ) {
        let Some(first) = copies.first() else { return };
        let expires = Expires::after(self.state.now, message.expiry_s);
        self.with_session(first.session, effects, |delivery, session, marks| {
            let Some(copy) = merge(message, session, copies) else { return };
            let (identifiers, is_new) = match copies {
                [only] => session.identifiers.number_of(only.interest.identifier.as_slice()),
                several => {
                    let heard = several.iter().filter(|copy| hears(message, session, &copy.interest));
                    let mut set: Vec<u32> = heard.filter_map(|copy| copy.interest.identifier).collect();
                    set.sort_unstable();
                    session.identifiers.number_of(&set)
                }
            };
            if is_new {
                marks.mark(session, dirty::IDENTIFIERS);
            }
            delivery.accept(
                session,
                marks,
                Queued::new(reference, copy.qos, copy.retain, expires, identifiers),
            );
        });
    }

    fn can_retain(&self, message: &MessageView<'_>) -> bool {
        message.payload_is_empty
            || self.retained.contains(message.topic)
            || (self.retained.len() < self.config.retained_max && topic_name(message.topic).is_some())
    }

    /// An empty payload deletes [MQTT-3.3.1-6, MQTT-3.3.1-7]; anything else replaces [MQTT-3.3.1-5].
    fn store_retained(&mut self, message: &MessageView<'_>, reference: MessageRef) {
        let before = if message.payload_is_empty {
            self.retained.remove(message.topic)
        } else {
            let expires = Expires::after(self.state.now, message.expiry_s);
            self.live.add(reference.index, 1);
            self.retained.put(message.topic, RetainedMessage { message: reference, expires })
        };
        if let Some(before) = before {
            self.live.release(before.message.index);
        }
    }

    /// Retained messages that a subscription asked for: sent with RETAIN set [MQTT-3.3.1-8]. There is no publisher to
    /// refuse: without room they are dropped and counted.
    pub(super) fn enqueue(
        &mut self,
        place: Place,
        (session, epoch): (SessionId, Epoch),
        messages: &[(QoS, Option<u32>, MessageView<'_>)],
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_current(place, session, epoch, effects) {
            return;
        }
        let now = self.state.now;
        self.with_session(session, effects, |delivery, session, marks| {
            for (granted, identifier, message) in messages {
                let qos = message.qos.min(*granted);
                let reference = Self::message_ref(place.index, message.offset, message.bytes);
                let Some(reference) = reference.filter(|_| qos != QoS::AtMostOnce) else {
                    // QoS 0 is served by the connection's node; it has no packet identifier.
                    continue;
                };
                let (identifiers, is_new) = session.identifiers.number_of(identifier.as_slice());
                if is_new {
                    marks.mark(session, dirty::IDENTIFIERS);
                }
                let expires = Expires::after(now, message.expiry_s);
                if expires.is_past(now) {
                    delivery.lose(session, marks, DropReason::MessageExpired);
                    continue;
                }
                delivery.accept(session, marks, Queued::new(reference, qos, true, expires, identifiers));
            }
        });
    }
}

/// Whether the subscription takes the message: No Local leaves out the client's own [MQTT-3.8.3-3].
fn hears(message: &MessageView<'_>, session: &Session, interest: &Interest) -> bool {
    !(interest.no_local && message.publisher == session.client_hash)
}

/// The one copy that the session's subscriptions ask for together [MQTT-3.3.4-2]; `None` when none takes it.
fn merge(message: &MessageView<'_>, session: &Session, copies: &[Matched]) -> Option<Copy> {
    let heard = || copies.iter().filter(|copy| hears(message, session, &copy.interest));
    let granted = heard().map(|copy| copy.interest.qos).max()?;
    // [MQTT-3.3.1-12, MQTT-3.3.1-13]: only Retain As Published keeps the flag.
    let retain = message.retain && heard().any(|copy| copy.interest.retain_as_published);
    let qos = granted.min(message.qos);
    (qos != QoS::AtMostOnce).then_some(Copy { qos, retain })
}
