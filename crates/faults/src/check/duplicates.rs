//! D3 to D6: how often a message may come.
//!
//! Owns: QoS 2 comes once; of QoS 1, no more new copies than the publisher sent, and repeated ones within their bounds.
//! Does not: count what a subscriber with QoS 2 kept from its application by itself.
//! Invariants: a repeated copy has DUP and comes on another connection than the first.
//! Limits: `REPEATED_MORE` above Receive Maximum on one connection.

use std::collections::BTreeMap;

use super::Index;
use super::index::{Delivery, Subscriber};
use crate::history::{Event, Moment};
use crate::wire::RECEIVE_MAX;

/// Repeated copies on one connection beyond Receive Maximum.
const REPEATED_MORE: usize = 64;

/// The most that a node has in flight to a client of MQTT 3.1.1, which cannot say what it wants: `limits.inflight_max`.
const INFLIGHT_MAX: usize = 256;

/// Copies too many.
pub fn find(_events: &[Event], index: &Index) -> Vec<String> {
    let mut lines = Vec::new();
    for (client, subscriber) in &index.subscribers {
        let mut copies: BTreeMap<_, Vec<&Delivery>> = BTreeMap::new();
        for delivery in &subscriber.deliveries {
            copies.entry((delivery.from, delivery.sequence)).or_default().push(delivery);
        }
        for ((from, sequence), copies) in copies {
            let sent = index.published(from, sequence).map_or(0, |published| published.sent);
            if let Some(problem) = too_many(&copies, sent, subscriber) {
                lines.push(format!("subscriber {client}: {sequence} of publisher {from} {problem}"));
            }
        }
        lines.extend(too_many_repeated(subscriber).map(|line| format!("subscriber {client}: {line}")));
    }
    lines
}

fn too_many(copies: &[&Delivery], sent: usize, subscriber: &Subscriber) -> Option<String> {
    let count = copies.len();
    if copies.iter().any(|copy| copy.qos == 2) {
        return (count > 1).then(|| format!("came {count} times with QoS 2"));
    }
    let new = copies.iter().filter(|copy| !copy.dup).count();
    if new > sent {
        return Some(format!("came {new} times without DUP, but was sent {sent} times"));
    }
    let first = copies.first()?;
    // A copy with DUP may be the first that the client sees: then the one before it was lost with a connection.
    let connections = subscriber.connected.len();
    if count > sent.max(1) * connections.max(1) {
        return Some(format!("came {count} times on {connections} connections, sent {sent} times"));
    }
    let same = |copy: &&&Delivery| {
        copy.dup && connection_of(subscriber, copy.at) == connection_of(subscriber, first.at)
    };
    let again = copies.iter().skip(1).filter(same).find(|copy| copy.packet_id == first.packet_id);
    again.map(|_| "came with DUP on the connection of its first copy".to_owned())
}

/// Connections with more repeated copies than there can have been in flight.
fn too_many_repeated(subscriber: &Subscriber) -> impl Iterator<Item = String> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for delivery in subscriber.deliveries.iter().filter(|one| one.dup) {
        *counts.entry(connection_of(subscriber, delivery.at)).or_default() += 1;
    }
    let most = INFLIGHT_MAX.max(usize::from(RECEIVE_MAX)) + REPEATED_MORE;
    let over = move |(connection, count): (usize, usize)| {
        (count > most).then(|| format!("{count} copies with DUP on connection {connection}"))
    };
    counts.into_iter().filter_map(over)
}

/// How many connections had begun at a moment.
fn connection_of(subscriber: &Subscriber, at: Moment) -> usize {
    subscriber.connected.iter().filter(|connected| **connected <= at).count()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, delivered};
    use super::*;
    use crate::history::What;

    #[test]
    fn copies_too_many_are_flagged() {
        check(find, "4 of publisher 1 came 2 times with QoS 2", |whats| whats.push(delivered(1, 4, true)));
        check(find, "4 of publisher 0 came 2 times without DUP, but was sent 1 times", |whats| {
            whats.push(delivered(0, 4, false));
        });
        check(find, "2 of publisher 0 came 3 times on 2 connections", |whats| {
            whats.push(delivered(0, 2, true));
        });
        check(find, "4 of publisher 0 came with DUP on the connection of its first copy", |whats| {
            whats.push(delivered(0, 4, true));
        });
    }

    #[test]
    fn a_publish_sent_twice_may_come_twice() {
        let mut whats = super::super::testing::sound();
        whats.push(delivered(0, 5, false));
        assert_eq!(super::super::testing::found(find, whats), Vec::<String>::new());
    }

    #[test]
    fn more_repeated_copies_than_can_be_in_flight_are_flagged() {
        check(find, "401 copies with DUP on connection 2", |whats| {
            for sequence in 100..500 {
                whats.push((0, What::PublishInvoke { sequence, qos: 1 }));
                whats.push(delivered(0, sequence, true));
            }
        });
    }
}
