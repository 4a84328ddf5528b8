//! D10: SUBACK is a cluster barrier, UNSUBACK an end.
//!
//! Source: contract D10. For durable sessions the first half is part of D1. For transient sessions it is checked in runs
//! without faults, for acknowledged messages: a link that is cut takes what it carried along. After UNSUBACK nothing arrives that was published
//! later, for any session.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::subscriptions::{Span, Subscriptions};
use crate::oracle::{Event, History, MessageId, Topic};

/// In a calm run a message takes less than this.
const ARRIVES_WITHIN: Duration = Duration::from_millis(1000);

struct Publish {
    topic: Topic,
    first: Duration,
    last: Duration,
}

pub fn check(history: &History) -> Result<(), Broken> {
    let subscriptions = Subscriptions::read(history);
    let mut sent: BTreeMap<MessageId, Publish> = BTreeMap::new();
    let mut got: BTreeSet<(u32, MessageId)> = BTreeSet::new();
    let mut acked: BTreeSet<MessageId> = BTreeSet::new();
    for entry in &history.entries {
        match &entry.event {
            Event::PublishSent { id, topic, empty: false, .. } => {
                let first = Publish { topic: *topic, first: entry.at, last: entry.at };
                sent.entry(*id).or_insert(first).last = entry.at;
            }
            Event::PublishAcked { id, ok: true, .. } => {
                acked.insert(*id);
            }
            Event::Delivered(delivery) => {
                let Some(id) = delivery.id else { continue };
                got.insert((delivery.client, id));
                let Some(publish) = sent.get(&id).filter(|_| !delivery.retain) else { continue };
                let span = Span { from: publish.first, until: entry.at };
                let fits = |filter| history.matches(filter, publish.topic);
                if !subscriptions.possibly(delivery.client, fits, span) {
                    let what = format!("{delivery:?} was published when nothing subscribed to its topic");
                    return Err(Broken::new(entry.at, what));
                }
            }
            _ => {}
        }
    }
    sent.retain(|id, _| acked.contains(id));
    if history.calm { check_calm(history, &subscriptions, &sent, &got) } else { Ok(()) }
}

fn check_calm(
    history: &History,
    subscriptions: &Subscriptions,
    sent: &BTreeMap<MessageId, Publish>,
    got: &BTreeSet<(u32, MessageId)>,
) -> Result<(), Broken> {
    for (id, publish) in sent {
        let span = Span { from: publish.first, until: publish.last + ARRIVES_WITHIN };
        for (client, _) in (0..).zip(&history.clients).filter(|(_, facts)| !facts.durable) {
            let fits = |filter| history.serves_all(filter, publish.topic);
            if subscriptions.certainly(client, fits, span) && !got.contains(&(client, *id)) {
                let what = format!("client {client} was subscribed but never got {id:?}");
                return Err(Broken::new(publish.first, what));
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
    fn message_after_unsuback_is_flagged() {
        let start = || vec![subscribing(), subscribed(), unsubscribing()];
        judge(
            check,
            [start(), vec![sent(1), unsubscribed(), delivered(1, 1, 7)]].concat(),
            [start(), vec![unsubscribed(), sent(1), delivered(1, 1, 7)]].concat(),
        );
    }

    #[test]
    fn missed_message_of_a_calm_run_is_flagged() {
        let mut history = record(vec![subscribing(), subscribed(), sent(1), acked(1)]);
        assert_eq!(check(&history), Ok(()));
        history.calm = true;
        history.clients[0].durable = false;
        assert!(check(&history).is_err());
    }
}
