//! Messages into a share group, to its members, and what becomes of them.
//!
//! Owns: quotas and overflow of the group's queue, expiry, references, the commands to the members' partitions.
//! Does not: choose the member; see `share`. Does not decide who takes part.
//! Invariants: every message of a group is counted in [`Live`] exactly once while the group has it; a drop is counted
//! with its reason. Limits: `PartitionConfig`, as for a session. Spec: MQTT 5, 4.8.2.

use bytes::BytesMut;
use quorate_codec::QoS;

use crate::config::{Overflow, PartitionConfig};
use crate::delivery::dropped;
use crate::effect::{DropReason, Effect};
use crate::encode::ShareDispatch;
use crate::group_state::GroupState;
use crate::ids::GroupId;
use crate::live::Live;
use crate::queue::Queued;
use crate::share::Share;

/// What moving messages of a share group needs besides the group.
pub(crate) struct Dispatch<'a> {
    pub(crate) config: &'a PartitionConfig,
    pub(crate) state: &'a mut GroupState,
    pub(crate) live: &'a mut Live,
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl Dispatch<'_> {
    /// Takes one message: gives it to a member, queues it, or drops it when there is no room.
    pub(crate) fn accept(&mut self, share: &mut Share, queued: Queued) {
        if !share.is_ready()
            && let Err(reason) = self.make_room(share, queued.message.bytes)
        {
            dropped(self.effects, reason, 1);
            return;
        }
        self.live.add(queued.message.index, 1);
        if share.is_ready() {
            let number = share.number();
            self.send(share, number, queued);
        } else {
            share.queue.push(queued);
        }
    }

    /// Whether a message of this size has room, for a publisher that is to be refused otherwise. Expired messages make
    /// way for it.
    pub(crate) fn has_room(&mut self, share: &mut Share, bytes: u32) -> bool {
        if share.is_ready() {
            return true;
        }
        while self.excess(share, bytes).is_some() {
            if !self.drop_expired_front(share) {
                return false;
            }
        }
        true
    }

    /// Gives what waits to members, as long as one can take it.
    pub(crate) fn serve(&mut self, share: &mut Share) {
        while share.is_ready()
            && let Some((number, queued)) = share.next()
        {
            if queued.expires.is_past(self.state.now) {
                self.live.release(queued.message.index);
                dropped(self.effects, DropReason::MessageExpired, 1);
            } else {
                self.send(share, number, queued);
            }
        }
    }

    /// Messages that a partition is done with. Unknown ones change nothing.
    pub(crate) fn settle(&mut self, share: &mut Share, by: GroupId, numbers: &[u64]) {
        for number in numbers {
            if let Some(queued) = share.take(*number, by) {
                self.live.release(queued.message.index);
            }
        }
        self.serve(share);
    }

    /// Messages that a partition gives back. Unknown ones change nothing.
    pub(crate) fn put_back(&mut self, share: &mut Share, by: GroupId, numbers: &[u64]) {
        // All are taken before the first is given away again, so that they keep their order.
        for number in numbers {
            if let Some(queued) = share.take(*number, by) {
                share.put_back(*number, queued);
            }
        }
        self.serve(share);
    }

    /// Drops all that waits, because the group ends.
    pub(crate) fn discard(&mut self, share: &mut Share) {
        while let Some((_, queued)) = share.next() {
            let expired = queued.expires.is_past(self.state.now);
            let reason = if expired { DropReason::MessageExpired } else { DropReason::SessionEnded };
            self.live.release(queued.message.index);
            dropped(self.effects, reason, 1);
        }
    }

    fn send(&mut self, share: &mut Share, number: u64, queued: Queued) {
        let Some((member, terms)) = share.dispatch(number, queued) else {
            // Asked before; a message is not to be lost if it ever were otherwise.
            share.put_back(number, queued);
            return;
        };
        let head = ShareDispatch {
            share: share.id,
            dispatch: number,
            session: member.session,
            qos: queued.qos().min(terms.qos).max(QoS::AtLeastOnce),
            // [MQTT-3.3.1-12, MQTT-3.3.1-13]
            retain: queued.retain() && terms.retain_as_published,
            identifier: terms.identifier,
            expiry_s: queued.expires.remaining_s(self.state.now),
        };
        let mut out = BytesMut::with_capacity(37);
        head.encode(&mut out);
        self.live.add(queued.message.index, 1);
        self.state.post_message(member.group, out.freeze(), queued.message);
    }

    fn excess(&self, share: &Share, bytes: u32) -> Option<DropReason> {
        if share.queue.len() >= self.config.queue_messages_max {
            Some(DropReason::QueueMessages)
        } else if share.queue.bytes() + u64::from(bytes) > self.config.queue_bytes_max {
            Some(DropReason::QueueBytes)
        } else {
            None
        }
    }

    fn drop_front(&mut self, share: &mut Share, reason: DropReason) -> bool {
        let front = share.queue.pop();
        if let Some(queued) = front {
            self.live.release(queued.message.index);
            dropped(self.effects, reason, 1);
        }
        front.is_some()
    }

    fn drop_expired_front(&mut self, share: &mut Share) -> bool {
        let expired = share.queue.front().is_some_and(|front| front.expires.is_past(self.state.now));
        expired && self.drop_front(share, DropReason::MessageExpired)
    }

    fn make_room(&mut self, share: &mut Share, bytes: u32) -> Result<(), DropReason> {
        while let Some(reason) = self.excess(share, bytes) {
            if self.drop_expired_front(share) {
                continue;
            }
            let can_fit =
                self.config.queue_messages_max > 0 && u64::from(bytes) <= self.config.queue_bytes_max;
            if self.config.overflow != Overflow::DropOldest || !can_fit || !self.drop_front(share, reason) {
                return Err(reason);
            }
        }
        Ok(())
    }
}
