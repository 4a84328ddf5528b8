//! D15: first deliveries of a publisher's messages to a topic come in the order in which they were published.
//!
//! Source: contract D15; MQTT 5, 4.6. For publishers that send everything unacknowledged again in order, to durable
//! sessions. A message that arrives for the first time after one that was published later is out of order, unless its
//! session was not subscribed yet when it was first sent: then what comes late is the copy that was sent again. Share
//! groups keep no order: a member gets what another gave back. A message that was refused is settled for its publisher, while a copy
//! that was sent before, on a connection that is gone, may still come. A node that takes no messages in refuses one by one, and a connection
//! may end before its client hears of it: what was sent on it and not acknowledged may have been left out.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::subscriptions::{Span, Subscriptions};
use crate::oracle::{Conn, Event, History, MessageId, Topic};

pub fn check(history: &History) -> Result<(), Broken> {
    let subscriptions = Subscriptions::read(history);
    let mut sent: BTreeMap<MessageId, Duration> = BTreeMap::new();
    let mut latest: BTreeMap<(u32, u32, Topic), u64> = BTreeMap::new();
    let mut refused: BTreeSet<MessageId> = BTreeSet::new();
    let taken = taken_in(history);
    let mut offered: BTreeMap<Conn, BTreeSet<MessageId>> = BTreeMap::new();
    let mut seen: BTreeSet<(u32, MessageId)> = BTreeSet::new();
    for entry in &history.entries {
        match entry.event {
            Event::PublishSent { conn, id, .. } => {
                sent.entry(id).or_insert(entry.at);
                offered.entry(conn).or_default().insert(id);
            }
            Event::IntakeClosed { conn } => {
                let offered = offered.remove(&conn).unwrap_or_default();
                refused.extend(offered.into_iter().filter(|id| !taken.contains(&(conn, *id))));
            }
            Event::PublishAcked { id, ok: false, .. } => {
                refused.insert(id);
            }
            _ => {}
        }
        let Event::Delivered(delivery) = &entry.event else { continue };
        let (Some(id), Some(topic)) = (delivery.id, delivery.topic) else { continue };
        let of = |client: u32| history.clients.get(client as usize);
        let by_the_book = of(id.publisher).is_some_and(|facts| facts.resends);
        let durable = of(delivery.client).is_some_and(|facts| facts.durable);
        if !by_the_book || !durable || delivery.packet_id == 0 || delivery.retain {
            continue;
        }
        if !seen.insert((delivery.client, id)) || refused.contains(&id) {
            continue;
        }
        let latest = latest.entry((delivery.client, id.publisher, topic)).or_default();
        let from = sent.get(&id).copied().unwrap_or_default();
        let fits = |filter| history.serves_all(filter, topic);
        let subscribed = subscriptions.certainly(delivery.client, fits, Span { from, until: entry.at });
        if id.seq < *latest && subscribed {
            let what = format!("client {} got {id:?} on {topic:?} after {latest}", delivery.client);
            return Err(Broken::new(entry.at, what));
        }
        *latest = (*latest).max(id.seq);
    }
    Ok(())
}

/// Messages with the connection on which they were acknowledged.
fn taken_in(history: &History) -> BTreeSet<(Conn, MessageId)> {
    let taken = |event: &Event| match event {
        Event::PublishAcked { conn, id, ok: true } => Some((*conn, *id)),
        _ => None,
    };
    history.entries.iter().filter_map(|entry| taken(&entry.event)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::*;

    #[test]
    fn message_overtaken_by_a_later_one_is_flagged() {
        let start = || vec![subscribing(), subscribed(), sent(1), sent(2)];
        judge(
            check,
            [start(), vec![delivered(1, 1, 7), delivered(1, 2, 8), delivered(2, 1, 7)]].concat(),
            [start(), vec![delivered(1, 2, 8), delivered(1, 1, 7)]].concat(),
        );
    }

    #[test]
    fn copy_of_a_refused_message_may_come_late() {
        let refused = Event::PublishAcked { conn: Conn(9), id: id(1), ok: false };
        let start = || vec![subscribing(), subscribed(), sent(1), sent(2)];
        judge(
            check,
            [start(), vec![refused, delivered(1, 2, 8), delivered(1, 1, 7)]].concat(),
            [start(), vec![acked(1), delivered(1, 2, 8), delivered(1, 1, 7)]].concat(),
        );
    }

    #[test]
    fn message_whose_refusal_was_not_heard_may_come_late() {
        let closed = || Event::IntakeClosed { conn: Conn(9) };
        let late = || vec![delivered(1, 2, 8), delivered(1, 1, 7)];
        let start = || vec![subscribing(), subscribed(), sent(1), closed(), sent(2)];
        judge(check, [start(), late()].concat(), [start(), late(), vec![acked(1)]].concat());
        let before = vec![subscribing(), subscribed(), closed(), sent(1), sent(2)];
        judge(check, [start(), late()].concat(), [before, late()].concat());
    }
}
