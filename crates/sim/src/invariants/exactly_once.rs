//! D3 and D6: a QoS 2 message reaches the application of a durable session at most once for each time it was published.
//!
//! Source: contract D3, D6; MQTT 5, 4.3.3. A PUBLISH that is sent again on a session that goes on is the same message; on
//! a new session it is another one. What the client has already and drops is no copy. That nothing is lost is D1.

use std::collections::BTreeMap;

use super::Broken;
use crate::oracle::{Event, History, MessageId};

/// QoS 2.
const EXACTLY_ONCE: u8 = 2;

pub fn check(history: &History) -> Result<(), Broken> {
    let mut published: BTreeMap<MessageId, u64> = BTreeMap::new();
    let mut copies: BTreeMap<(u32, MessageId), u64> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.event {
            Event::PublishSent { id, dup: false, qos: EXACTLY_ONCE, .. } => {
                *published.entry(*id).or_default() += 1;
            }
            Event::ConnectSent { will: Some(will), .. } => {
                published.insert(will.id, 1);
            }
            Event::Delivered(delivery)
                if delivery.qos == EXACTLY_ONCE && !delivery.repeated && !delivery.retain =>
            {
                let client = delivery.client;
                let durable = history.clients.get(client as usize).is_some_and(|facts| facts.durable);
                let (Some(id), true) = (delivery.id, durable) else { continue };
                let copies = copies.entry((client, id)).or_default();
                *copies += 1;
                let published = published.get(&id).copied().unwrap_or(0);
                if *copies > published {
                    let what =
                        format!("client {client} got {copies} copies of {id:?}, published {published} times");
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
    use crate::oracle::Delivery;

    fn got(conn: u64, repeated: bool) -> Event {
        Event::Delivered(Delivery { qos: 2, repeated, dup: conn > 1, ..delivery(conn, 1, 7) })
    }

    fn published(dup: bool) -> Event {
        let Event::PublishSent { conn, id, topic, retain, empty, .. } = sent(1) else { unreachable!() };
        Event::PublishSent { conn, id, topic, qos: 2, dup, retain, empty }
    }

    #[test]
    fn second_copy_at_the_application_is_flagged() {
        let start = || vec![published(false), published(true), got(1, false)];
        judge(check, [start(), vec![got(2, true)]].concat(), [start(), vec![got(2, false)]].concat());
    }

    #[test]
    fn publish_on_a_new_session_is_another_message() {
        let events = vec![published(false), published(false), got(1, false), got(2, false)];
        assert_eq!(check(&record(events)), Ok(()));
    }
}
