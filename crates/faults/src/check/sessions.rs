//! D11: a durable session is present on every connection after the first.
//!
//! Owns: that. Does not: know which sessions are durable otherwise: all that publish to or subscribe to the audited topics are.
//! Invariants: the first CONNACK may tell of a session, when the one before it was lost on its way.

use std::collections::BTreeSet;

use super::Index;
use crate::history::{Event, What};

/// Connections without the session that must be there.
pub fn find(events: &[Event], index: &Index) -> Vec<String> {
    let mut before = BTreeSet::new();
    let mut lines = Vec::new();
    for event in events {
        let What::Connected { present, node } = event.what else { continue };
        let of_all =
            index.publishers.contains_key(&event.client) || index.subscribers.contains_key(&event.client);
        let shared = &index.shared;
        let of_share =
            shared.publishers.contains_key(&event.client) || shared.members.contains_key(&event.client);
        let durable = of_all || of_share;
        if durable && !before.insert(event.client) && !present {
            lines.push(format!(
                "client {}: no session at {} ms on node {}",
                event.client,
                event.at.0 / 1000,
                node + 1
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SUBSCRIBER, check};
    use super::*;

    #[test]
    fn a_lost_session_is_flagged() {
        for client in [0, SUBSCRIBER] {
            check(find, &format!("client {client}: no session"), |whats| {
                whats.push((client, What::Connected { node: 1, present: false }));
            });
        }
    }
}
