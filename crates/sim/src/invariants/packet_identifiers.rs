//! D7: never two messages in flight on one packet identifier.
//!
//! Source: contract D7; MQTT 5, 2.2.1 [MQTT-2.2.1-4]. A message is in flight from its arrival until the client has sent
//! its PUBACK; whether the node got that PUBACK is unknown, so from then on the identifier may be used again.

use std::collections::BTreeMap;

use super::Broken;
use crate::oracle::{Conn, Event, History, MessageId};

pub fn check(history: &History) -> Result<(), Broken> {
    type Held = (Option<MessageId>, Conn, u8);
    let mut held: BTreeMap<(u32, u16), Held> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.event {
            Event::Delivered(delivery) if delivery.packet_id != 0 => {
                let now: Held = (delivery.id, delivery.conn, delivery.qos);
                let before = held.insert((delivery.client, delivery.packet_id), now);
                let Some((id, conn, _)) = before else { continue };
                let again = id == delivery.id && conn != delivery.conn;
                if !again {
                    let what = format!("{id:?} was in flight on the packet identifier of {delivery:?}");
                    return Err(Broken::new(entry.at, what));
                }
            }
            Event::DeliveryAcked { client, packet_id, .. } => {
                held.remove(&(*client, *packet_id));
            }
            Event::Connected { client, present, .. } => {
                // What a member of a share group had not acknowledged of QoS 1 is somebody else's now (MQTT 5, 4.8.2).
                let member = history.clients.get(*client as usize).is_some_and(|facts| facts.share.is_some());
                if !present || member {
                    held.retain(|(who, _), (.., qos)| who != client || *present && *qos == 2);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::*;

    #[test]
    fn identifier_used_twice_is_flagged() {
        let acked = Event::DeliveryAcked { client: 0, conn: Conn(1), packet_id: 7 };
        judge(
            check,
            vec![delivered(1, 1, 7), acked, delivered(1, 2, 7)],
            vec![delivered(1, 1, 7), delivered(1, 2, 7)],
        );
    }

    #[test]
    fn other_message_on_the_identifier_after_a_reconnect_is_flagged() {
        judge(
            check,
            vec![delivered(1, 1, 7), connected(2, true), delivered(2, 1, 7)],
            vec![delivered(1, 1, 7), connected(2, true), delivered(2, 2, 7)],
        );
    }
}
