//! D1: what was acknowledged reaches every durable session that was subscribed.
//!
//! Source: contract D1, and the first half of D10 for durable sessions: the publish began after SUBACK.
//! A message counts when its session was subscribed for certain from before its first PUBLISH until its PUBACK. What
//! PUBREC acknowledged is durable in its publisher's partition and still on its way to the others, where an UNSUBSCRIBE may
//! come before it: a session counts when it was subscribed to the end. Shared subscriptions
//! are D14's.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::subscriptions::{Span, Subscriptions};
use crate::oracle::{Event, History, MessageId, Topic};

pub fn check(history: &History) -> Result<(), Broken> {
    let subscriptions = Subscriptions::read(history);
    let mut sent: BTreeMap<MessageId, (Topic, Duration)> = BTreeMap::new();
    let mut exactly_once: BTreeSet<MessageId> = BTreeSet::new();
    let end = history.entries.last().map_or(Duration::ZERO, |entry| entry.at);
    let mut acked: Vec<(MessageId, Duration)> = Vec::new();
    let mut got: BTreeSet<(u32, MessageId)> = BTreeSet::new();
    for entry in &history.entries {
        match &entry.event {
            Event::PublishSent { id, topic, qos, empty: false, .. } => {
                if *qos == 2 {
                    exactly_once.insert(*id);
                }
                sent.entry(*id).or_insert((*topic, entry.at));
            }
            Event::PublishAcked { id, ok: true, .. } => acked.push((*id, entry.at)),
            Event::Delivered(delivery) => {
                got.extend(delivery.id.map(|id| (delivery.client, id)));
            }
            _ => {}
        }
    }
    for (id, acked_at) in acked {
        let Some((topic, sent_at)) = sent.get(&id) else { continue };
        let until = if exactly_once.contains(&id) { end } else { acked_at };
        let span = Span { from: *sent_at, until };
        for (client, facts) in (0..).zip(&history.clients) {
            let wanted = facts.durable
                && subscriptions.certainly(client, |filter| history.serves_all(filter, *topic), span);
            if wanted && !got.contains(&(client, id)) {
                let what =
                    format!("client {client} never got {id:?} on {topic:?}, acknowledged at {acked_at:?}");
                return Err(Broken::new(acked_at, what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::*;

    #[test]
    fn acknowledged_message_that_never_came_is_flagged() {
        let start =
            || vec![connecting(1), connected(1, false), subscribing(), subscribed(), sent(1), acked(1)];
        let good = [start(), vec![delivered(1, 1, 7)]].concat();
        judge(check, good, start());
    }

    #[test]
    fn unacknowledged_message_may_be_lost() {
        let events = vec![connecting(1), connected(1, false), subscribing(), subscribed(), sent(1)];
        assert_eq!(check(&record(events)), Ok(()));
    }

    #[test]
    fn message_published_before_suback_may_be_missed() {
        let events = vec![connecting(1), connected(1, false), subscribing(), sent(1), subscribed(), acked(1)];
        assert_eq!(check(&record(events)), Ok(()));
    }
}
