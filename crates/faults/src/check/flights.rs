//! D7: never two messages in flight on one packet identifier.
//!
//! Owns: that, for each session over all its connections. Does not: know what a node thinks; what the client has not acknowledged is in
//! flight, and stays so over reconnects.
//! Invariants: an identifier is free when the client is about to send PUBACK or PUBCOMP for it.
//! Spec: MQTT 5, 2.2.1 [MQTT-2.2.1-4].

use std::collections::BTreeMap;

use super::Index;
use crate::history::{Client, Event, What};

/// Messages on an identifier that another one has.
pub fn find(events: &[Event], _index: &Index) -> Vec<String> {
    let mut flying: BTreeMap<(Client, u16), (Client, u64)> = BTreeMap::new();
    let mut lines = Vec::new();
    for event in events {
        match event.what {
            What::Delivered { from, sequence, packet_id, .. }
            | What::Repeated { from, sequence, packet_id } => {
                let other = flying.insert((event.client, packet_id), (from, sequence));
                if let Some(other) = other.filter(|other| *other != (from, sequence)) {
                    lines.push(format!(
                        "subscriber {}: {sequence} of publisher {from} came on packet identifier {packet_id}, which {} of publisher {} has",
                        event.client, other.1, other.0
                    ));
                }
            }
            What::Settled { packet_id } => {
                flying.remove(&(event.client, packet_id));
            }
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SUBSCRIBER, check, delivered, found, place, sound};
    use super::*;

    #[test]
    fn a_second_message_on_an_identifier_is_flagged() {
        check(find, "4 of publisher 0 came on packet identifier 1, which 0 of publisher 0 has", |whats| {
            whats.retain(|(_, what)| *what != What::Settled { packet_id: 1 });
            let place = place(whats, &delivered(0, 4, false));
            let What::Delivered { packet_id, .. } = &mut whats[place].1 else { panic!("a delivery") };
            *packet_id = 1;
        });
        check(find, "packet identifier 103, which 2 of publisher 1", |whats| {
            let place = place(whats, &(SUBSCRIBER, What::Settled { packet_id: 103 }));
            let other = What::Repeated { from: 1, sequence: 3, packet_id: 103 };
            whats.insert(place, (SUBSCRIBER, other));
        });
    }

    #[test]
    fn the_same_message_may_come_again_and_an_identifier_may_be_used_again() {
        let mut whats = sound();
        let settled = place(&whats, &(SUBSCRIBER, What::Settled { packet_id: 103 }));
        let again = What::Repeated { from: 1, sequence: 2, packet_id: 103 };
        whats.insert(settled, (SUBSCRIBER, again));
        whats
            .push((SUBSCRIBER, What::Delivered { from: 1, sequence: 9, qos: 2, dup: false, packet_id: 103 }));
        assert_eq!(found(find, whats), Vec::<String>::new());
    }
}
