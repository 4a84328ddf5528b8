//! Messages into a session's queue and inflight window, and out again.
//!
//! Owns: quotas and overflow, expiry at assignment, filling the window, the counters that go with it.
//! Does not: match topics or decide who gets a message.
//! Invariants: while a connection holds a session and its window is open, nothing is queued or held; every reference
//! is counted in [`Live`] exactly while it is queued or inflight; a drop is counted with its reason.
//! Limits: `PartitionConfig`. Spec: MQTT 5, 3.3.4, 4.4, 4.6 and 4.9.

use quorate_codec::{PacketId, ReasonCode};

use crate::config::{Overflow, PartitionConfig};
use crate::effect::{Deliver, DropReason, Effect};
use crate::ids::{Owner, Timestamp};
use crate::inflight::InflightMessage;
use crate::limits::INFLIGHT_MESSAGES_MAX;
use crate::live::Live;
use crate::membership::{Origin, ShareNews};
use crate::queue::Queued;
use crate::session::{DirtySessions, Session, dirty};

/// Sums over all sessions of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Totals {
    pub(crate) online: u64,
    pub(crate) subscriptions: u64,
    pub(crate) queued_messages: u64,
    pub(crate) queued_bytes: u64,
    pub(crate) inflight: u64,
}

/// What moving messages needs besides the session.
pub(crate) struct Delivery<'a> {
    pub(crate) now: Timestamp,
    pub(crate) config: &'a PartitionConfig,
    pub(crate) live: &'a mut Live,
    pub(crate) totals: &'a mut Totals,
    pub(crate) effects: &'a mut Vec<Effect>,
    /// What share groups are to be told when the work is done.
    pub(crate) news: ShareNews,
}

/// Counts dropped messages, in one effect as long as the reason stays the same.
pub(crate) fn dropped(effects: &mut Vec<Effect>, reason: DropReason, count: u64) {
    match effects.last_mut() {
        _ if count == 0 => {}
        Some(Effect::Dropped { reason: last, count: sum }) if *last == reason => *sum += count,
        _ => effects.push(Effect::Dropped { reason, count }),
    }
}

/// Most unacknowledged messages on a connection with this Receive Maximum.
pub(crate) fn window_max(config: &PartitionConfig, receive_max: u16) -> u16 {
    receive_max.min(config.inflight_max).clamp(1, INFLIGHT_MESSAGES_MAX)
}

impl Delivery<'_> {
    /// How many messages may be unacknowledged on the present connection [MQTT-3.3.4-9].
    fn window(&self, session: &Session) -> usize {
        if session.owner().is_none() {
            return 0;
        }
        usize::from(window_max(self.config, session.receive_max))
    }

    fn goes_out_at_once(&self, session: &Session) -> bool {
        session.queue.is_empty()
            && !session.inflight.has_held()
            && session.inflight.has_room(self.window(session))
    }

    /// Whether a message of this size has room, for a publisher that is to be refused otherwise. Expired messages
    /// make way for it.
    pub(crate) fn has_room(&mut self, session: &mut Session, marks: &mut DirtySessions, bytes: u32) -> bool {
        if self.goes_out_at_once(session) {
            return true;
        }
        while let Some(_reason) = self.excess(session, bytes) {
            if !self.drop_expired_front(session, marks) {
                return false;
            }
        }
        true
    }

    /// Takes one message for a session: sends it, queues it, or drops it when there is no room.
    pub(crate) fn accept(&mut self, session: &mut Session, marks: &mut DirtySessions, queued: Queued) {
        if self.goes_out_at_once(session) {
            self.live.add(queued.message.index, 1);
            session.identifiers.hold(queued.identifiers);
            self.send_new(session, marks, queued);
            return;
        }
        // A message of a share group had its room there: here the member's window is what bounds it.
        if !queued.is_shared()
            && let Err(reason) = self.make_room(session, marks, queued.message.bytes)
        {
            self.lose(session, marks, reason);
            return;
        }
        self.live.add(queued.message.index, 1);
        session.identifiers.hold(queued.identifiers);
        self.totals.queued_messages += 1;
        self.totals.queued_bytes += u64::from(queued.message.bytes);
        session.queue.push(queued);
        marks.mark(session, dirty::QUEUE | dirty::DELIVERY);
    }

    /// Sends as much as the window allows: first what an earlier connection did not acknowledge, then the queue.
    pub(crate) fn fill_window(&mut self, session: &mut Session, marks: &mut DirtySessions) {
        let Some(owner) = session.owner() else { return };
        let window = self.window(session);
        while session.inflight.has_room(window) {
            if let Some(message) = session.inflight.send_held() {
                marks.mark(session, dirty::DELIVERY);
                self.deliver(session, owner, &message);
            } else if let Some(queued) = self.pop(session, marks) {
                if queued.expires.is_past(self.now) {
                    self.release(session, queued);
                    self.lose(session, marks, DropReason::MessageExpired);
                } else {
                    self.send_new(session, marks, queued);
                }
            } else {
                break;
            }
        }
    }

    /// The client has acknowledged a message; unknown packet identifiers change nothing.
    pub(crate) fn acknowledge(
        &mut self,
        session: &mut Session,
        marks: &mut DirtySessions,
        packet_id: PacketId,
    ) {
        if let Some(queued) = session.inflight.acknowledge(packet_id) {
            self.totals.inflight -= 1;
            self.release(session, queued);
            marks.mark(session, dirty::DELIVERY);
        }
    }

    /// The client has received a QoS 2 message: the message itself is not needed any more.
    pub(crate) fn receive(&mut self, session: &mut Session, marks: &mut DirtySessions, packet_id: PacketId) {
        if let Some(queued) = session.inflight.receive(packet_id) {
            self.release(session, queued);
            marks.mark(session, dirty::DELIVERY);
        }
    }

    /// Drops everything a session has, because it ends.
    pub(crate) fn discard(&mut self, session: &mut Session, reason: DropReason) {
        let inflight = std::mem::take(&mut session.inflight);
        let mut count = session.queue.len() + inflight.len() as u64;
        for message in inflight.iter() {
            self.release(session, message.queued);
        }
        self.totals.inflight -= inflight.len() as u64;
        self.totals.queued_messages -= session.queue.len();
        self.totals.queued_bytes -= session.queue.bytes();
        while let Some(queued) = session.queue.pop() {
            if session.memberships.is_ghost(&queued) {
                count -= 1;
            } else if queued.expires.is_past(self.now) {
                dropped(self.effects, DropReason::MessageExpired, 1);
                count -= 1;
            }
            self.release(session, queued);
        }
        dropped(self.effects, reason, count);
    }

    /// Counts a message dropped for a session that goes on, in all and for the session.
    pub(crate) fn lose(&mut self, session: &mut Session, marks: &mut DirtySessions, reason: DropReason) {
        dropped(self.effects, reason, 1);
        session.drops.add(reason, 1);
        marks.mark(session, dirty::DROPS);
    }

    /// A message in the form in which it is sent to the connection.
    pub(crate) fn delivery(
        now: Timestamp,
        session: &Session,
        owner: Owner,
        message: &InflightMessage,
    ) -> Deliver {
        let queued = &message.queued;
        Deliver {
            owner,
            session: session.id,
            seq: message.seq(),
            packet_id: message.packet_id(),
            qos: queued.qos(),
            retain: queued.retain(),
            dup: queued.dup(),
            received: queued.is_received(),
            identifiers: queued.identifiers,
            expiry_s: queued.expires.remaining_s(now),
            message: queued.message,
        }
    }

    fn deliver(&mut self, session: &Session, owner: Owner, message: &InflightMessage) {
        self.effects.push(Effect::Deliver(Self::delivery(self.now, session, owner, message)));
    }

    fn send_new(&mut self, session: &mut Session, marks: &mut DirtySessions, queued: Queued) {
        let Some(owner) = session.owner() else { return };
        let message = session.inflight.send_new(queued);
        self.totals.inflight += 1;
        marks.mark(session, dirty::DELIVERY);
        self.deliver(session, owner, &message);
    }

    fn pop(&mut self, session: &mut Session, marks: &mut DirtySessions) -> Option<Queued> {
        loop {
            let queued = session.queue.pop()?;
            self.totals.queued_messages -= 1;
            self.totals.queued_bytes -= u64::from(queued.message.bytes);
            marks.mark(session, dirty::QUEUE | dirty::DELIVERY);
            if !session.memberships.is_ghost(&queued) {
                return Some(queued);
            }
            self.release(session, queued);
        }
    }

    fn release(&mut self, session: &mut Session, queued: Queued) {
        if queued.is_received() {
            return;
        }
        session.identifiers.release(queued.identifiers);
        if queued.is_shared() {
            // Without an origin it was given back, and the message released then.
            let Some(origin) = session.memberships.take(queued.message) else { return };
            self.news.settled.push(origin);
        }
        self.live.release(queued.message.index);
    }

    /// Gives back to share groups what they may give to somebody else, because the connection is closed: QoS 1 that was
    /// not acknowledged, and all that was not sent.
    pub(crate) fn give_back(&mut self, session: &mut Session) {
        for queued in session.inflight.take_shared() {
            self.totals.inflight -= 1;
            session.identifiers.release(queued.identifiers);
            self.live.release(queued.message.index);
            self.news.returned.extend(session.memberships.take(queued.message));
        }
        self.give_back_unsent(session, |_| true);
    }

    /// Gives back what is queued of some share groups. It stays in the queue, to be skipped.
    pub(crate) fn give_back_unsent(&mut self, session: &mut Session, of: impl Fn(&Origin) -> bool) {
        let sent = session.inflight.iter().map(|message| &message.queued);
        let sent = sent.filter(|queued| queued.is_shared());
        for (index, origin) in session.memberships.take_unless(sent, of) {
            self.live.release(index);
            self.news.returned.push(origin);
        }
    }

    /// Which quota one more message would exceed.
    fn excess(&self, session: &Session, bytes: u32) -> Option<DropReason> {
        if session.queue.len() >= self.config.queue_messages_max {
            Some(DropReason::QueueMessages)
        } else if session.queue.bytes() + u64::from(bytes) > self.config.queue_bytes_max {
            Some(DropReason::QueueBytes)
        } else {
            None
        }
    }

    fn drop_expired_front(&mut self, session: &mut Session, marks: &mut DirtySessions) -> bool {
        let ghost = session.queue.front().is_some_and(|front| session.memberships.is_ghost(front));
        if ghost && let Some(queued) = session.queue.pop() {
            self.totals.queued_messages -= 1;
            self.totals.queued_bytes -= u64::from(queued.message.bytes);
            marks.mark(session, dirty::QUEUE | dirty::DELIVERY);
            self.release(session, queued);
            return true;
        }
        let expired = session.queue.front().is_some_and(|front| front.expires.is_past(self.now));
        if expired && let Some(queued) = self.pop(session, marks) {
            self.release(session, queued);
            self.lose(session, marks, DropReason::MessageExpired);
        }
        expired
    }

    fn make_room(
        &mut self,
        session: &mut Session,
        marks: &mut DirtySessions,
        bytes: u32,
    ) -> Result<(), DropReason> {
        while let Some(reason) = self.excess(session, bytes) {
            if self.drop_expired_front(session, marks) {
                continue;
            }
            let can_fit =
                self.config.queue_messages_max > 0 && u64::from(bytes) <= self.config.queue_bytes_max;
            if self.config.overflow != Overflow::DropOldest || !can_fit {
                return Err(reason);
            }
            let Some(oldest) = self.pop(session, marks) else { return Err(reason) };
            self.release(session, oldest);
            self.lose(session, marks, reason);
        }
        Ok(())
    }
}

/// The reason a publisher gets when a quota refuses its message.
pub(crate) const QUOTA_REFUSAL: ReasonCode = ReasonCode::QUOTA_EXCEEDED;
