//! D11: a client identifier has one owner: after the CONNACK of a new connection, nothing that the old one begins is acknowledged.
//!
//! Owns: that. Does not: say which of two that connect at the same time comes first.
//! Invariants: a connection is surely newer than another one when its CONNECT was sent after the other's CONNACK had come.

use std::collections::BTreeMap;

use super::Index;
use crate::history::{Event, Moment, What};

#[derive(Default)]
struct Connection {
    invoke: Moment,
    ok: Option<Moment>,
    publishes: BTreeMap<u64, Moment>,
}

/// Acknowledgements for owners that were no longer any.
pub fn find(events: &[Event], _index: &Index) -> Vec<String> {
    let mut connections: BTreeMap<u64, Connection> = BTreeMap::new();
    let mut lines = Vec::new();
    for event in events {
        match event.what {
            What::OwnerInvoke { connection } => {
                connections.entry(connection).or_default().invoke = event.at;
            }
            What::OwnerOk { connection } => {
                connections.entry(connection).or_default().ok = Some(event.at);
            }
            What::OwnerPublish { connection, sequence } => {
                connections.entry(connection).or_default().publishes.insert(sequence, event.at);
            }
            What::OwnerAck { connection, sequence } => {
                if let Some(newer) = newer(&connections, connection, sequence) {
                    lines.push(format!(
                        "publish {sequence} on connection {connection} was acknowledged at {} ms, but began after CONNACK on {newer}",
                        event.at.0 / 1000
                    ));
                }
            }
            _ => {}
        }
    }
    lines
}

/// A connection that had the session before this publish began, and took it after this connection had it.
fn newer(connections: &BTreeMap<u64, Connection>, connection: u64, sequence: u64) -> Option<u64> {
    let own = connections.get(&connection)?;
    let (mine, begun) = (own.ok?, *own.publishes.get(&sequence)?);
    // Connections of long ago are not newer, and numbers grow with time.
    let others = connections.range(connection + 1..);
    let mut newer = others.filter(|(_, other)| other.invoke > mine && other.ok.is_some_and(|ok| ok < begun));
    newer.next().map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::super::testing::found;
    use super::*;

    fn history(order: &[What]) -> Vec<String> {
        found(find, order.iter().map(|what| (9, what.clone())).collect())
    }

    #[test]
    fn an_old_owner_is_not_acknowledged() {
        let invoke = |connection| What::OwnerInvoke { connection };
        let ok = |connection| What::OwnerOk { connection };
        let begin = What::OwnerPublish { connection: 1, sequence: 0 };
        let ack = What::OwnerAck { connection: 1, sequence: 0 };
        let (begin, ack) = (|| begin.clone(), || ack.clone());
        let said = "publish 0 on connection 1 was acknowledged at 5 ms, but began after CONNACK on 2";
        assert_eq!(history(&[invoke(1), ok(1), invoke(2), ok(2), begin(), ack()]), [said]);
        for sound in [
            // Begun before the other had it.
            [invoke(1), ok(1), invoke(2), begin(), ok(2), ack()],
            // It is not known which of the two is newer.
            [invoke(1), invoke(2), ok(1), ok(2), begin(), ack()],
            [invoke(2), ok(2), invoke(1), ok(1), begin(), ack()],
        ] {
            assert_eq!(history(&sound), Vec::<String>::new());
        }
    }
}
