//! D2: nothing is delivered that was not published before, byte for byte, to that topic.
//!
//! Source: contract D2.

use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use crate::oracle::{Event, History, MessageId, Topic};

pub fn check(history: &History) -> Result<(), Broken> {
    let mut sent: BTreeMap<MessageId, Topic> = BTreeMap::new();
    let mut deleted: BTreeSet<Topic> = BTreeSet::new();
    for entry in &history.entries {
        match &entry.event {
            Event::ConnectSent { will: Some(will), .. } => {
                sent.insert(will.id, will.topic);
            }
            Event::PublishSent { topic, empty: true, .. } => {
                deleted.insert(*topic);
            }
            Event::PublishSent { id, topic, .. } => {
                sent.insert(*id, *topic);
            }
            Event::Delivered(delivery) => {
                let known = match (delivery.id, delivery.topic) {
                    (Some(id), Some(topic)) => delivery.intact && sent.get(&id) == Some(&topic),
                    (None, Some(topic)) => delivery.intact && deleted.contains(&topic),
                    (_, None) => false,
                };
                if !known {
                    return Err(Broken::new(entry.at, format!("nobody published {delivery:?}")));
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
    fn message_that_nobody_sent_is_flagged() {
        judge(check, vec![sent(1), delivered(1, 1, 7)], vec![sent(1), delivered(1, 2, 7)]);
    }

    #[test]
    fn damaged_or_misplaced_message_is_flagged() {
        let damaged = crate::oracle::Delivery { intact: false, ..delivery(1, 1, 7) };
        judge(check, vec![sent(1), delivered(1, 1, 7)], vec![sent(1), Event::Delivered(damaged)]);
        let elsewhere = crate::oracle::Delivery { topic: Some(Topic(1)), ..delivery(1, 1, 7) };
        judge(check, vec![sent(1), delivered(1, 1, 7)], vec![sent(1), Event::Delivered(elsewhere)]);
    }
}
