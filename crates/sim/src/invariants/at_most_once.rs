//! D8: a message that was published with QoS 0 comes at most once to a client.
//!
//! Source: contract D8; MQTT 5, 4.3.1. The model clients have no subscription identifiers, so overlapping subscriptions make
//! one copy. A member of a share group may have one copy more: its own subscriptions and the group's are different ones.

use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use crate::oracle::{Event, History, MessageId};

pub fn check(history: &History) -> Result<(), Broken> {
    let mut sent: BTreeSet<MessageId> = BTreeSet::new();
    let mut copies: BTreeMap<(u32, MessageId), u64> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.event {
            Event::PublishSent { id, qos: 0, .. } => {
                sent.insert(*id);
            }
            Event::Delivered(delivery) if !delivery.retain => {
                let Some(id) = delivery.id.filter(|id| sent.contains(id)) else { continue };
                let facts = history.clients.get(delivery.client as usize);
                let copies_max = 1 + u64::from(facts.is_some_and(|facts| facts.share.is_some()));
                let copies = copies.entry((delivery.client, id)).or_default();
                *copies += 1;
                if *copies > copies_max {
                    let what = format!("client {} got {copies} copies of {id:?} of QoS 0", delivery.client);
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
    fn second_copy_is_flagged() {
        let Event::PublishSent { conn, id, topic, retain, empty, .. } = sent(1) else { unreachable!() };
        let sent = || Event::PublishSent { conn, id, topic, qos: 0, dup: false, retain, empty };
        judge(check, vec![sent(), delivered(1, 1, 0)], vec![sent(), delivered(1, 1, 0), delivered(2, 1, 0)]);
    }
}
