//! D1: what was acknowledged reaches every durable session that was subscribed.
//!
//! Source: contract D1, and the first half of D10 for durable sessions: the publish began after SUBACK.
//! Shared subscriptions are D14's. A message counts when its session was subscribed for certain from before its first PUBLISH until its PUBACK.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::subscriptions::{Span, Subscriptions};
use crate::oracle::{Event, History, MessageId, Topic};

pub fn check(history: &History) -> Result<(), Broken> {
    let subscriptions = Subscriptions::read(history);
    let mut sent: BTreeMap<MessageId, (Topic, Duration)> = BTreeMap::new();
    let mut acked: Vec<(MessageId, Duration)> = Vec::new();
    let mut got: BTreeSet<(u32, MessageId)> = BTreeSet::new();
    for entry in &history.entries {
        match &entry.event {
            Event::PublishSent { id, topic, empty: false, .. } => {
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
        let span = Span { from: *sent_at, until: acked_at };
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
