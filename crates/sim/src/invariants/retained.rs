//! D9: a retained message is a linearizable register: a read that begins after a write was acknowledged gives that
//! value or a newer one; a deletion never resurrects. Nor does an older value come to a new subscription as if it were just
//! published.
//!
//! Source: contract D9. Writers send each value once. A value is older than a write that began after the value was
//! acknowledged or read; a write counts for a read that began after its PUBACK. Nothing is concluded from a message without RETAIN that
//! was not acknowledged before the SUBSCRIBE: it is just published, although a newer one of another publisher may be stored already.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use crate::oracle::{Conn, Event, Filter, History, MessageId, Topic};

#[derive(Debug)]
struct Write {
    topic: Topic,
    began: Duration,
    acked: Option<Duration>,
    /// When it was known to have happened.
    known: Option<Duration>,
    empty: bool,
}

pub fn check(history: &History) -> Result<(), Broken> {
    let mut writes: BTreeMap<MessageId, Write> = BTreeMap::new();
    let mut subscribed: BTreeMap<Conn, Vec<(Filter, Duration)>> = BTreeMap::new();
    let mut read: BTreeMap<(Conn, Topic), ()> = BTreeMap::new();
    // What a session that goes on has in its queue was published after an earlier SUBSCRIBE.
    let mut resumed: BTreeSet<Conn> = BTreeSet::new();
    for entry in &history.entries {
        match &entry.event {
            Event::PublishSent { id, topic, retain: true, empty, .. } => {
                let write = Write { topic: *topic, began: entry.at, acked: None, known: None, empty: *empty };
                writes.insert(*id, write);
            }
            Event::PublishAcked { id, ok: true, .. } => {
                if let Some(write) = writes.get_mut(id) {
                    write.acked = Some(entry.at);
                    write.known.get_or_insert(entry.at);
                }
            }
            Event::Connected { conn, present: true, .. } => {
                resumed.insert(*conn);
            }
            Event::Delivered(delivery) if !delivery.retain && !resumed.contains(&delivery.conn) => {
                let (Some(id), Some(topic)) = (delivery.id, delivery.topic) else { continue };
                let began = began(history, subscribed.get(&delivery.conn), topic);
                if let (Some(began), Some(value)) = (began, writes.get(&id))
                    && value.acked.is_some_and(|acked| acked < began)
                    && let Some((newer, _)) = overwritten(&writes, value, began)
                {
                    let what =
                        format!("{delivery:?} comes after {newer:?}, acknowledged before the SUBSCRIBE");
                    return Err(Broken::new(entry.at, what));
                }
            }
            Event::SubscribeSent { conn, filter, .. } => {
                subscribed.entry(*conn).or_default().push((*filter, entry.at));
            }
            Event::Delivered(delivery) if delivery.retain => {
                let (Some(id), Some(topic)) = (delivery.id, delivery.topic) else { continue };
                read.insert((delivery.conn, topic), ());
                let began = began(history, subscribed.get(&delivery.conn), topic);
                if let (Some(began), Some(value)) = (began, writes.get(&id))
                    && let Some((newer, _)) = overwritten(&writes, value, began)
                {
                    let what =
                        format!("{delivery:?} is older than {newer:?}, acknowledged before the SUBSCRIBE");
                    return Err(Broken::new(entry.at, what));
                }
                if let Some(value) = writes.get_mut(&id) {
                    value.known.get_or_insert(entry.at);
                }
            }
            Event::FinalRead { conn, topic } if !read.contains_key(&(*conn, *topic)) => {
                let began = began(history, subscribed.get(conn), *topic).unwrap_or(entry.at);
                if let Some(missing) = lost(&writes, *topic, began) {
                    let what =
                        format!("nothing is retained for {topic:?}, although {missing:?} was acknowledged");
                    return Err(Broken::new(entry.at, what));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn began(history: &History, subscribed: Option<&Vec<(Filter, Duration)>>, topic: Topic) -> Option<Duration> {
    let fits = |(filter, _): &&(Filter, Duration)| history.matches(*filter, topic);
    subscribed?.iter().find(fits).map(|(_, at)| *at)
}

/// A write that is certainly newer than `value` and was acknowledged before the read began.
fn overwritten<'a>(
    writes: &'a BTreeMap<MessageId, Write>,
    value: &Write,
    began: Duration,
) -> Option<(&'a MessageId, &'a Write)> {
    writes.iter().find(|(_, write)| {
        write.topic == value.topic
            && write.acked.is_some_and(|acked| acked < began)
            && value.known.is_some_and(|known| known < write.began)
    })
}

/// A value that must be there: acknowledged, with no deletion that could have come after it.
fn lost(writes: &BTreeMap<MessageId, Write>, topic: Topic, began: Duration) -> Option<MessageId> {
    let of_topic = || writes.iter().filter(|(_, write)| write.topic == topic);
    let values = of_topic().filter(|(_, write)| !write.empty);
    let mut must = values.filter(|(_, write)| write.acked.is_some_and(|acked| acked < began));
    must.find(|(_, value)| {
        of_topic().filter(|(_, write)| write.empty).all(|(_, deletion)| {
            // The deletion was over before the value began.
            deletion.known.is_some_and(|known| known < value.began)
        })
    })
    .map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::*;

    fn written(seq: u64, empty: bool) -> Vec<Event> {
        vec![
            Event::PublishSent {
                conn: Conn(9),
                id: id(seq),
                topic: A,
                qos: 1,
                dup: false,
                retain: true,
                empty,
            },
            acked(seq),
        ]
    }

    fn read(seq: u64) -> Event {
        Event::Delivered(crate::oracle::Delivery { retain: true, ..delivery(1, seq, 7) })
    }

    #[test]
    fn stale_value_is_flagged() {
        let start = || [written(1, false), written(2, false), vec![subscribing()]].concat();
        judge(check, [start(), vec![read(2)]].concat(), [start(), vec![read(1)]].concat());
    }

    #[test]
    fn older_message_for_a_new_subscription_is_flagged() {
        let late = || Event::Delivered(delivery(1, 1, 7));
        let start = || [written(1, false), written(2, false), vec![subscribing()]].concat();
        let resumed = [vec![connected(1, true)], start(), vec![late()]].concat();
        judge(check, resumed, [vec![connected(1, false)], start(), vec![late()]].concat());
    }

    #[test]
    fn message_that_was_not_acknowledged_before_the_subscribe_is_just_published() {
        let [first, second] = [1, 2].map(|seq| written(seq, false));
        // Another reader has seen the first value before the second was sent.
        let reader = Event::SubscribeSent { client: 1, conn: Conn(2), filter: FILTER_A };
        let seen = Event::Delivered(crate::oracle::Delivery { retain: true, ..delivery(2, 1, 7) });
        let start = || [vec![first[0].clone(), reader.clone(), seen.clone()], second.clone()].concat();
        let late = || Event::Delivered(delivery(1, 1, 7));
        judge(
            check,
            [start(), vec![subscribing(), acked(1), late()]].concat(),
            [start(), vec![acked(1), subscribing(), late()]].concat(),
        );
    }

    #[test]
    fn resurrected_deletion_is_flagged() {
        let gone = [written(1, false), written(2, true), vec![subscribing(), read(1)]].concat();
        judge(check, [written(1, false), vec![subscribing(), read(1)]].concat(), gone);
    }

    #[test]
    fn missing_value_is_flagged_at_the_end() {
        let end = || vec![subscribing(), Event::FinalRead { conn: Conn(1), topic: A }];
        judge(
            check,
            [written(1, false), written(2, true), end()].concat(),
            [written(1, false), end()].concat(),
        );
    }
}
