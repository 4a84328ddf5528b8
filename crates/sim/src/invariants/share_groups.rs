//! D14: a message for a share group is consumed by a member, and by one alone unless that one was lost.
//!
//! Source: contract D14; MQTT 5, 4.8.2. A message counts as promised when a durable member was subscribed for certain
//! from before its first PUBLISH until its PUBACK. It is consumed when a member that got it has acknowledged it. A
//! further copy needs a further PUBLISH packet, or a member whose connection ended after it had got one, and each ended
//! connection accounts for no more of them than may have been in flight to it. A message of QoS 2 that came with QoS 2
//! comes to no other member, even if that one is lost [MQTT-4.8.2-4, MQTT-4.8.2-5]: then it is lost with a transient one.
//! A member of QoS 0 may get a message besides while no durable member had its first SUBACK: the group was without a
//! partition for some publishers, and with one for others.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::subscriptions::{Span, Subscriptions};
use crate::oracle::{ClientFacts, Conn, Event, Filter, History, MessageId, Topic};

/// Messages that a member may have in flight, whatever Receive Maximum it announced.
const WINDOW: u64 = 256;

/// What may be underway beside the window: acknowledgements that the node had not made durable.
const SLACK: u64 = 64;

struct Publish {
    topic: Topic,
    first: Duration,
    packets: u64,
    /// Those that are not the same packet again.
    published: u64,
    qos: u8,
    acked: Option<Duration>,
}

struct Copy {
    client: u32,
    conn: Conn,
    at: Duration,
    qos: u8,
    consumed: bool,
}

#[derive(Default)]
struct Record {
    publishes: BTreeMap<MessageId, Publish>,
    /// By group and message.
    copies: BTreeMap<(Filter, MessageId), Vec<Copy>>,
    ended: BTreeSet<Conn>,
    /// When a group had its first durable member for certain.
    founded: BTreeMap<Filter, Duration>,
}

impl Record {
    fn read(history: &History) -> Record {
        let mut record = Record::default();
        let mut current: BTreeMap<u32, Conn> = BTreeMap::new();
        let mut in_flight: BTreeMap<(u32, u16), (Filter, MessageId)> = BTreeMap::new();
        for entry in &history.entries {
            match &entry.event {
                Event::PublishSent { id, topic, qos, dup, empty: false, .. } => {
                    let first = || {
                        let (topic, qos, first) = (*topic, *qos, entry.at);
                        Publish { topic, first, packets: 0, published: 0, qos, acked: None }
                    };
                    let publish = record.publishes.entry(*id).or_insert_with(first);
                    publish.packets += 1;
                    publish.published += u64::from(!dup);
                }
                Event::PublishAcked { id, ok: true, .. } => {
                    if let Some(publish) = record.publishes.get_mut(id) {
                        publish.acked.get_or_insert(entry.at);
                    }
                }
                Event::ConnectSent { client, conn, .. } => {
                    record.ended.extend(current.insert(*client, *conn));
                }
                Event::Lost { conn, .. } => drop(record.ended.insert(*conn)),
                Event::Subscribed { client, filter, .. } => {
                    let facts = history.clients.get(*client as usize);
                    if facts.is_some_and(|facts| facts.durable && facts.share.is_some()) {
                        record.founded.entry(*filter).or_insert(entry.at);
                    }
                }
                Event::Delivered(delivery) => {
                    let (client, conn) = (delivery.client, delivery.conn);
                    let share = history.clients.get(client as usize).and_then(|facts| facts.share);
                    let (Some(share), Some(id)) = (share, delivery.id) else { continue };
                    if !delivery.repeated {
                        // A QoS 2 message is the application's once it is there.
                        let (qos, consumed) = (delivery.qos, delivery.qos != 1);
                        let copy = Copy { client, conn, at: entry.at, qos, consumed };
                        record.copies.entry((share.group, id)).or_default().push(copy);
                    }
                    in_flight.insert((client, delivery.packet_id), (share.group, id));
                }
                Event::DeliveryAcked { client, packet_id, .. } => {
                    let Some(key) = in_flight.remove(&(*client, *packet_id)) else { continue };
                    let copies = record.copies.entry(key).or_default().iter_mut();
                    copies.filter(|copy| copy.client == *client).for_each(|copy| copy.consumed = true);
                }
                _ => {}
            }
        }
        record
    }
}

pub fn check(history: &History) -> Result<(), Broken> {
    let record = Record::read(history);
    check_loss(history, &record)?;
    check_duplicates(history, &record)
}

fn check_loss(history: &History, record: &Record) -> Result<(), Broken> {
    let subscriptions = Subscriptions::read(history);
    let durable_members = || {
        let all = (0..).zip(&history.clients);
        all.filter_map(|(client, facts)| Some((client, facts.share?.group)).filter(|_| facts.durable))
    };
    // What was sent to a session that has ended is for nobody else.
    let may_take_along = |group| {
        let of =
            |facts: &ClientFacts| facts.share.is_some_and(|share| share.group == group && share.qos == 2);
        history.clients.iter().any(|facts| !facts.durable && of(facts))
    };
    for (id, publish) in &record.publishes {
        let Some(acked) = publish.acked else { continue };
        let span = Span { from: publish.first, until: acked };
        for (member, share) in durable_members() {
            if !history.matches(share, publish.topic)
                || publish.qos == 2 && may_take_along(share)
                || !subscriptions.certainly(member, |filter| filter == share, span)
            {
                continue;
            }
            let copies = record.copies.get(&(share, *id)).map_or(&[][..], Vec::as_slice);
            if !copies.iter().any(|copy| copy.consumed) {
                let got = if copies.is_empty() { "got" } else { "acknowledged" };
                let what = format!("no member of {share:?} {got} {id:?}, acknowledged at {acked:?}");
                return Err(Broken::new(acked, what));
            }
        }
    }
    Ok(())
}

fn check_duplicates(history: &History, record: &Record) -> Result<(), Broken> {
    let mut lost_with: BTreeMap<Conn, u64> = BTreeMap::new();
    for ((share, id), copies) in &record.copies {
        let from_memory = |copy: &&Copy| copy.qos == 0;
        let first = record.publishes.get(id).filter(|publish| publish.qos > 0).map(|publish| publish.first);
        let early = first.is_some_and(|at| record.founded.get(share).is_none_or(|founded| at < *founded));
        let apart = if early { copies.iter().filter(from_memory).count() as u64 } else { 0 };
        let packets = record.publishes.get(id).map_or(0, |publish| publish.packets);
        let published = record.publishes.get(id).map_or(0, |publish| publish.published);
        let exactly_once = copies.iter().filter(|copy| copy.qos == 2).count() as u64;
        if exactly_once > published {
            let what = format!("{id:?} came {exactly_once} times with QoS 2 to {share:?}, of {published}");
            return Err(Broken::new(copies.last().map_or(Duration::ZERO, |copy| copy.at), what));
        }
        let lost = copies.iter().filter(|copy| record.ended.contains(&copy.conn));
        let kept = (copies.len() - lost.clone().count()) as u64;
        let kept = kept.saturating_sub(apart.min(packets));
        let further = (copies.len() as u64).saturating_sub(packets);
        let last = copies.last().map_or(Duration::ZERO, |copy| copy.at);
        if kept > packets {
            let clients: Vec<u32> = copies.iter().map(|copy| copy.client).collect();
            let what = format!("{id:?} went to members {clients:?} of {share:?}, and none was lost");
            return Err(Broken::new(last, what));
        }
        // What nobody had consumed is what was given again.
        let (open, consumed): (Vec<&Copy>, Vec<&Copy>) = lost.partition(|copy| !copy.consumed);
        let further = usize::try_from(further).unwrap_or(usize::MAX);
        for copy in open.into_iter().chain(consumed).take(further) {
            let count = lost_with.entry(copy.conn).or_default();
            *count += 1;
            let facts = history.clients.get(copy.client as usize);
            let window = facts.map_or(WINDOW, |facts| u64::from(facts.receive_max).min(WINDOW));
            if *count > window + SLACK {
                let what = format!("{count} messages were given again for the lost {:?}", copy.conn);
                return Err(Broken::new(copy.at, what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::*;
    use crate::oracle::{Delivery, ShareFacts};

    const SHARE: Filter = Filter(2);

    fn subscribing_of(client: u32) -> [Event; 4] {
        let conn = Conn(u64::from(client));
        [
            Event::ConnectSent { client, conn, clean: false, will: None },
            Event::Connected { client, conn, present: false },
            Event::SubscribeSent { client, conn, filter: SHARE },
            Event::Subscribed { client, conn, filter: SHARE },
        ]
    }

    fn got(client: u32, conn: u64, seq: u64) -> Event {
        Event::Delivered(Delivery { client, ..delivery(conn, seq, 7) })
    }

    fn acks(client: u32, conn: u64) -> Event {
        Event::DeliveryAcked { client, conn: Conn(conn), packet_id: 7 }
    }

    fn lost(client: u32, conn: u64) -> Event {
        Event::Lost { client, conn: Conn(conn) }
    }

    /// Clients 2 and 3 are members; the checker must accept the first and flag the second.
    fn judge_members(good: &[Event], doctored: &[Event]) {
        let judged = |events: &[Event]| {
            let start = [subscribing_of(2), subscribing_of(3)].concat();
            let mut history = record([&start, events].concat());
            history.filters.push(quorate_codec::TopicFilter::new(crate::client::text("$share/g/a")).unwrap());
            history.clients[2].share = Some(ShareFacts { group: SHARE, qos: 2 });
            history.clients[3].share = Some(ShareFacts { group: SHARE, qos: 2 });
            check(&history)
        };
        assert_eq!(judged(good), Ok(()));
        assert!(judged(doctored).is_err(), "a doctored record went unnoticed");
    }

    #[test]
    fn acknowledged_message_that_no_member_consumed_is_flagged() {
        judge_members(&[sent(1), acked(1), got(2, 2, 1), acks(2, 2)], &[sent(1), acked(1)]);
        judge_members(
            &[sent(1), acked(1), got(2, 2, 1), lost(2, 2), got(3, 3, 1), acks(3, 3)],
            &[sent(1), acked(1), got(2, 2, 1), lost(2, 2)],
        );
    }

    #[test]
    fn second_copy_without_a_lost_member_is_flagged() {
        let twice = |between: &[Event]| {
            let start = [sent(1), acked(1), got(2, 2, 1), acks(2, 2)];
            [&start, between, &[got(3, 3, 1), acks(3, 3)]].concat()
        };
        judge_members(&twice(&[lost(2, 2)]), &twice(&[]));
        judge_members(&twice(&[sent(1)]), &twice(&[sent(2)]));
    }

    #[test]
    fn second_copy_of_qos_2_is_flagged_even_after_a_loss() {
        let Event::PublishSent { conn, id, topic, dup, retain, empty, .. } = sent(1) else { unreachable!() };
        let published = Event::PublishSent { conn, id, topic, qos: 2, dup, retain, empty };
        let got = |client, conn: u64, repeated| {
            Event::Delivered(Delivery { client, qos: 2, repeated, ..delivery(conn, 1, 7) })
        };
        let start = [published, acked(1), got(2, 2, false), lost(2, 2)];
        let with = |last: Event| [&start[..], &[last]].concat();
        judge_members(&with(got(2, 12, true)), &with(got(3, 3, false)));
    }

    #[test]
    fn more_copies_than_were_in_flight_to_the_lost_member_are_flagged() {
        let again = |count: u64| {
            let mut events = Vec::new();
            for seq in 1..=count {
                events.extend([sent(seq), got(2, 2, seq), acks(2, 2)]);
            }
            events.push(lost(2, 2));
            for seq in 1..=count {
                events.extend([got(3, 3, seq), acks(3, 3)]);
            }
            events
        };
        // The members of the test announce a Receive Maximum of 2.
        judge_members(&again(2 + SLACK), &again(3 + SLACK));
    }

    #[test]
    fn copies_that_nobody_consumed_are_those_that_were_given_again() {
        let again = |consumed: bool| {
            let mut events = Vec::new();
            for seq in 1..=80 {
                events.extend([sent(seq), got(2, 2, seq), acks(2, 2)]);
            }
            events.push(lost(2, 2));
            // Given to the other member before, and late on their way.
            for (conn, copies) in [(3, 1..=40), (13, 41..=80)] {
                for seq in copies {
                    events.push(got(3, conn, seq));
                    events.extend(consumed.then(|| acks(3, conn)));
                }
                events.push(lost(3, conn));
            }
            events
        };
        judge_members(&again(false), &again(true));
    }
}
