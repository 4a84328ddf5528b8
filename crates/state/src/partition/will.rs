//! When wills are due, and how they leave.
//!
//! Owns: firing at the end of a connection or a session, the delay, cancelling, publishing once.
//! Does not: find the receivers: they come with the command, from a node that knows the routes.
//! Invariants: a will fires at most once; never after DISCONNECT with Normal disconnection, never before its delay unless
//! its session ends, never when its session was resumed within the delay. Spec: MQTT 5, 3.1.2.5, 3.1.3.2.2, 3.14.4;
//! contract D12. See: docs/decisions/0016-wills.md.

use bytes::Bytes;

use crate::command::PublishTarget;
use crate::effect::{Effect, Reply};
use crate::encode::{MessageView, publish_head};
use crate::group_state::Place;
use crate::ids::{Epoch, MessageRef, SessionId, WillId};
use crate::partition::Partition;
use crate::will::HeldWill;

impl Partition {
    /// The wills that are due, in order, after one of them: for the node of the leader to publish.
    pub fn due_wills(&self, after: WillId) -> impl Iterator<Item = (WillId, MessageRef)> {
        self.due_wills.iter().filter(move |(will, _)| *will > after)
    }

    /// The session has a new connection, with this will or none. The one of the connection before is cancelled
    /// [MQTT-3.1.3-9].
    pub(super) fn hold_will(&mut self, place: Place, id: SessionId, will: Option<(u32, MessageView<'_>)>) {
        let will = will.and_then(|(delay_s, message)| {
            let message = Self::message_ref(place.index, message.offset, message.bytes)?;
            Some(HeldWill { message, delay_s })
        });
        if let Some(will) = will {
            self.live.add(will.message.index, 1);
        }
        if let Some(before) = self.sessions.set_will(id, will) {
            self.live.release(before.message.index);
        }
    }

    /// DISCONNECT deletes the will [MQTT-3.1.2-10].
    pub(super) fn delete_will(&mut self, id: SessionId) {
        if let Some(will) = self.sessions.take_will(id) {
            self.live.release(will.message.index);
        }
    }

    /// The connection is closed and the session goes on: a will without delay is due.
    pub(super) fn fire_undelayed_will(&mut self, id: SessionId, effects: &mut Vec<Effect>) {
        let undelayed = self.sessions.get(id).and_then(|session| session.will);
        if undelayed.is_some_and(|will| will.delay_s == 0)
            && let Some(will) = self.sessions.take_will(id)
        {
            self.will_is_due(will.message, effects);
        }
    }

    /// Wills whose delay has passed.
    pub(super) fn fire_delayed_wills(&mut self, effects: &mut Vec<Effect>) {
        while let Some(will) = self.sessions.pop_due_will(self.state.now) {
            self.will_is_due(will.message, effects);
        }
    }

    /// The connection of this epoch lost its session before; now it has closed, with or without a word.
    pub(super) fn displaced_closed(&mut self, epoch: Epoch, normal: bool, effects: &mut Vec<Effect>) {
        match self.displaced.closed(epoch) {
            Some(will) if normal => self.live.release(will.index),
            Some(will) => self.will_is_due(will, effects),
            None => {}
        }
    }

    /// From now on it waits to be published. Its message stays counted.
    pub(super) fn will_is_due(&mut self, message: MessageRef, effects: &mut Vec<Effect>) {
        self.last_will = WillId(self.last_will.0 + 1);
        self.due_wills.insert(self.last_will, message);
        if !effects.contains(&Effect::WillsDue) {
            effects.push(Effect::WillsDue);
        }
    }

    pub(super) fn publish_will(
        &mut self,
        place: Place,
        will: WillId,
        targets: &[PublishTarget],
        effects: &mut Vec<Effect>,
    ) {
        let Some(message) = self.due_wills.get(will) else {
            self.state.reply(place, Reply::NotFound, effects);
            return;
        };
        if !targets.iter().all(|target| self.state.outboxes.has_room(target.group)) {
            self.state.reply(place, Reply::Unsettled, effects);
            return;
        }
        for target in targets {
            let head = publish_head(target.store_retained, target.fan_out);
            self.live.add(message.index, 1);
            self.state.post_message(target.group, Bytes::copy_from_slice(&head), message);
        }
        self.due_wills.remove(will);
        self.live.release(message.index);
    }
}
