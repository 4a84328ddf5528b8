//! Doctored records for the checkers' own tests.

use core::time::Duration;

use quorate_codec::{TopicFilter, TopicName};

use super::Broken;
use crate::client::text;
use crate::oracle::{ClientFacts, Conn, Delivery, Event, Filter, History, MessageId, Topic};

/// A record of these events, one millisecond apart, with two topics `a` and `b`, the filters `a` and `#`, and four
/// durable clients that send again.
pub fn record(events: Vec<Event>) -> History {
    let mut history = History {
        topics: ["a", "b"].map(|name| TopicName::new(text(name)).unwrap()).into(),
        filters: ["a", "#"].map(|name| TopicFilter::new(text(name)).unwrap()).into(),
        clients: vec![
            ClientFacts { durable: true, expiry: None, receive_max: 2, resends: true, share: None };
            4
        ],
        ..History::default()
    };
    for (at, event) in (1..).zip(events) {
        history.push(Duration::from_millis(at), event);
    }
    history
}

pub const A: Topic = Topic(0);
pub const FILTER_A: Filter = Filter(0);

pub fn id(seq: u64) -> MessageId {
    MessageId { publisher: 1, seq }
}

pub fn sent(seq: u64) -> Event {
    Event::PublishSent {
        conn: Conn(9),
        id: id(seq),
        topic: A,
        qos: 1,
        dup: false,
        retain: false,
        empty: false,
    }
}

pub fn acked(seq: u64) -> Event {
    Event::PublishAcked { conn: Conn(9), id: id(seq), ok: true }
}

pub fn connecting(conn: u64) -> Event {
    Event::ConnectSent { client: 0, conn: Conn(conn), clean: false, will: None }
}

pub fn connected(conn: u64, present: bool) -> Event {
    Event::Connected { client: 0, conn: Conn(conn), present }
}

pub fn lost(conn: u64) -> Event {
    Event::Lost { client: 0, conn: Conn(conn) }
}

pub fn subscribing() -> Event {
    Event::SubscribeSent { client: 0, conn: Conn(1), filter: FILTER_A }
}

pub fn subscribed() -> Event {
    Event::Subscribed { client: 0, conn: Conn(1), filter: FILTER_A }
}

pub fn unsubscribing() -> Event {
    Event::UnsubscribeSent { client: 0, conn: Conn(1), filter: FILTER_A }
}

pub fn unsubscribed() -> Event {
    Event::Unsubscribed { client: 0, conn: Conn(1), filter: FILTER_A }
}

pub fn delivery(conn: u64, seq: u64, packet_id: u16) -> Delivery {
    Delivery {
        client: 0,
        conn: Conn(conn),
        topic: Some(A),
        id: Some(id(seq)),
        intact: true,
        qos: 1,
        packet_id,
        repeated: false,
        dup: false,
        retain: false,
    }
}

pub fn delivered(conn: u64, seq: u64, packet_id: u16) -> Event {
    Event::Delivered(delivery(conn, seq, packet_id))
}

/// The checker must accept the first and flag the second.
pub fn judge(check: fn(&History) -> Result<(), Broken>, good: Vec<Event>, doctored: Vec<Event>) {
    assert_eq!(check(&record(good)), Ok(()));
    assert!(check(&record(doctored)).is_err(), "a doctored record went unnoticed");
}
