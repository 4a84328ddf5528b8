//! The receiving side of QoS 1 and 2: what to answer, and what the application has had already.
//!
//! Owns: the identifiers between PUBREC and PUBREL. Does not: send.
//! Invariants: a QoS 2 message reaches the application once per identifier and release.
//! Spec: MQTT 5, 4.3; [MQTT-4.3.2-4], [MQTT-4.3.3-10].

use std::collections::BTreeSet;

use quorate_codec::{Ack, Packet, PacketId, Publish, PublishQoS, ReasonCode};

/// Receiver state of one session. Keep it over reconnects; clear it when the session is gone.
#[derive(Default)]
pub struct Inbound {
    unreleased: BTreeSet<PacketId>,
}

/// An acknowledgement without properties.
pub fn acknowledgement(packet_id: PacketId) -> Ack {
    Ack { packet_id, reason: ReasonCode::SUCCESS, reason_string: None, user_properties: Vec::new() }
}

impl Inbound {
    /// Takes a PUBLISH: whether the application gets it, and the answer to send.
    pub fn publish(&mut self, publish: &Publish) -> (bool, Option<Packet>) {
        match publish.qos {
            PublishQoS::AtMostOnce => (true, None),
            PublishQoS::AtLeastOnce(id) => (true, Some(Packet::PubAck(acknowledgement(id)))),
            PublishQoS::ExactlyOnce(id) => {
                (self.unreleased.insert(id), Some(Packet::PubRec(acknowledgement(id))))
            }
        }
    }

    /// Takes a PUBREL: the answer to send.
    pub fn release(&mut self, id: PacketId) -> Packet {
        self.unreleased.remove(&id);
        Packet::PubComp(acknowledgement(id))
    }

    /// The session is gone.
    pub fn clear(&mut self) {
        self.unreleased.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn qos_2_reaches_the_application_once_until_it_is_released() {
        let id = PacketId::new(9).unwrap();
        let publish = Publish {
            dup: false,
            qos: PublishQoS::ExactlyOnce(id),
            retain: false,
            topic: None,
            properties: None,
            payload: Bytes::new(),
        };
        let mut inbound = Inbound::default();
        let received = Some(Packet::PubRec(acknowledgement(id)));
        assert_eq!(inbound.publish(&publish), (true, received.clone()));
        assert_eq!(inbound.publish(&publish), (false, received.clone()));
        assert_eq!(inbound.release(id), Packet::PubComp(acknowledgement(id)));
        assert_eq!(inbound.publish(&publish), (true, received), "a released identifier is a new message");
        let once = Publish { qos: PublishQoS::AtLeastOnce(id), ..publish };
        assert!(inbound.publish(&once).0 && inbound.publish(&once).0);
    }
}
