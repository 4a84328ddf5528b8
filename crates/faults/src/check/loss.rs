//! D1: what was acknowledged reaches every session that had subscribed before it was sent.
//!
//! Owns: that. Does not: wait; a history is whole when the subscribers have had time to get everything.
//! Invariants: publishes without an acknowledgement may be absent.

use std::collections::BTreeSet;

use super::Index;
use crate::history::{Client, Event};

/// Acknowledged messages that a subscriber never got.
pub fn find(_events: &[Event], index: &Index) -> Vec<String> {
    let told = |(client, publisher, missing): (Client, Client, Vec<u64>)| {
        let (count, first) = (missing.len(), missing.first()?);
        Some(format!(
            "subscriber {client}: {count} acknowledged messages of publisher {publisher} missing, first {first}"
        ))
    };
    missing(index).filter_map(told).collect()
}

/// The same by subscriber and publisher, those included that miss nothing.
pub fn missing(index: &Index) -> impl Iterator<Item = (Client, Client, Vec<u64>)> {
    index.subscribers.iter().flat_map(|(client, subscriber)| {
        let got: BTreeSet<_> = subscriber.deliveries.iter().map(|one| (one.from, one.sequence)).collect();
        index.publishers.iter().filter_map(move |(publisher, publishes)| {
            let subscribed = subscriber.subscribed?;
            let missing: Vec<u64> = publishes
                .iter()
                .filter(|(_, one)| one.ok.is_some() && one.invoke > subscribed)
                .map(|(sequence, _)| *sequence)
                .filter(|sequence| !got.contains(&(*publisher, *sequence)))
                .collect();
            Some((*client, *publisher, missing))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, delivered, place};
    use super::*;

    #[test]
    fn an_acknowledged_message_that_never_came_is_flagged() {
        for (publisher, sequence) in [(0, 3), (1, 0), (0, 5)] {
            check(find, &format!("publisher {publisher} missing, first {sequence}"), |whats| {
                let place = place(whats, &delivered(publisher, sequence, false));
                whats.remove(place);
            });
        }
    }
}
