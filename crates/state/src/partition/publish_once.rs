//! QoS 2 publishes of a durable session, in its home partition: handed on exactly once.
//!
//! Owns: PUBLISH and PUBREL. Does not: deliver; the message goes to the partitions of its receivers through the outboxes.
//! Invariants: a PUBLISH whose packet identifier is in use changes nothing; a message is in the outboxes of all its
//! targets or of none. Spec: MQTT 5, 4.3.3; contract D1, D3. See: docs/decisions/0014-exactly-once-publishing.md.

use bytes::Bytes;
use quorate_codec::PacketId;

use crate::command::PublishTarget;
use crate::delivery::QUOTA_REFUSAL;
use crate::effect::{Effect, Reply};
use crate::encode::{MessageView, publish_head};
use crate::group_state::Place;
use crate::ids::{Epoch, SessionId};
use crate::partition::Partition;
use crate::session::dirty;

impl Partition {
    pub(super) fn publish_once(
        &mut self,
        place: Place,
        (id, epoch, packet_id): (SessionId, Epoch, PacketId),
        targets: &[PublishTarget],
        message: &MessageView<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_current(place, id, epoch, effects) {
            return;
        }
        if self.sessions.get(id).is_some_and(|session| session.inbound.contains(packet_id)) {
            self.state.reply(place, Reply::Duplicate, effects);
            return;
        }
        let Some(reference) = Self::message_ref(place.index, message.offset, message.bytes) else {
            self.state.reply(place, Reply::refused("the message is out of reach"), effects);
            return;
        };
        if !targets.iter().all(|target| self.state.outboxes.has_room(target.group)) {
            self.state.reply(place, Reply::Rejected(QUOTA_REFUSAL), effects);
            return;
        }
        let mut retained = None;
        for target in targets {
            let head = publish_head(target.store_retained, target.fan_out);
            self.live.add(reference.index, 1);
            let seq = self.state.post_message(target.group, Bytes::copy_from_slice(&head), reference);
            if target.store_retained {
                retained = Some((target.group, seq));
            }
        }
        if let Some((session, marks)) = self.sessions.get_mut(id) {
            session.inbound.insert(packet_id, retained);
            marks.mark(session, dirty::INBOUND);
        }
    }

    /// PUBREL. For a message that is to be retained it waits until the topic's partition has it: whoever subscribes after
    /// PUBCOMP gets that message or a newer one.
    pub(super) fn release_packet_id(
        &mut self,
        place: Place,
        (id, epoch, packet_id): (SessionId, Epoch, PacketId),
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_current(place, id, epoch, effects) {
            return;
        }
        let outboxes = &self.state.outboxes;
        let Some(session) = self.sessions.get(id) else { return };
        let unsettled =
            session.inbound.retained(packet_id).is_some_and(|(to, seq)| !outboxes.is_applied(to, seq));
        if unsettled {
            self.state.reply(place, Reply::Unsettled, effects);
            return;
        }
        let Some((session, marks)) = self.sessions.get_mut(id) else { return };
        if session.inbound.remove(packet_id) {
            marks.mark(session, dirty::INBOUND);
        } else {
            self.state.reply(place, Reply::NotFound, effects);
        }
    }
}
