//! D4: a PUBLISH packet makes at most one entry, so a durable session sees at most as many new copies of a message as
//! its publisher sent packets.
//!
//! Source: contract D4. A redelivery keeps DUP = 1 (D5), so copies without DUP count entries.

use std::collections::BTreeMap;

use super::Broken;
use crate::oracle::{Event, History, MessageId};

pub fn check(history: &History) -> Result<(), Broken> {
    let mut sent: BTreeMap<MessageId, u64> = BTreeMap::new();
    let mut copies: BTreeMap<(u32, MessageId), u64> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.event {
            Event::PublishSent { id, .. } => *sent.entry(*id).or_default() += 1,
            Event::ConnectSent { will: Some(will), .. } => *sent.entry(will.id).or_default() += 1,
            Event::Delivered(delivery) if delivery.packet_id != 0 && !delivery.dup && !delivery.retain => {
                let of = history.clients.get(delivery.client as usize);
                // A share group gives a message to a member again that gave it back: see D14.
                let counts = of.is_some_and(|facts| facts.durable && facts.share.is_none());
                let (Some(id), true) = (delivery.id, counts) else { continue };
                let copies = copies.entry((delivery.client, id)).or_default();
                *copies += 1;
                let packets = sent.get(&id).copied().unwrap_or(0);
                if *copies > packets {
                    let client = delivery.client;
                    let what = format!(
                        "client {client} got {copies} new copies of {id:?}, sent in {packets} packets"
                    );
                    return Err(Broken::new(entry.at, what));
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
    fn second_new_copy_of_one_packet_is_flagged() {
        judge(
            check,
            vec![sent(1), sent(1), delivered(1, 1, 7), delivered(1, 1, 8)],
            vec![sent(1), delivered(1, 1, 7), delivered(1, 1, 8)],
        );
    }
}
