//! D15: what a subscriber gets of one publisher for the first time, it gets in the order of publishing.
//!
//! Owns: that. Does not: care about copies, or about gaps, which are another checker's; nor about what was refused: a copy that a node
//! still had when its connection broke may come later.
//! Invariants: a publisher has one topic and one QoS.

use std::collections::{BTreeMap, BTreeSet};

use super::Index;
use super::index::Delivery;
use crate::history::Event;

/// First deliveries behind later ones.
pub fn find(_events: &[Event], index: &Index) -> Vec<String> {
    let mut lines = Vec::new();
    for (client, subscriber) in &index.subscribers {
        let mut highest = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let was_refused = |one: &&Delivery| {
            let publishes = index.publishers.get(&one.from);
            publishes.and_then(|all| all.get(&one.sequence)).is_some_and(|publish| publish.failed)
        };
        let first = subscriber.deliveries.iter().filter(|one| seen.insert((one.from, one.sequence)));
        for delivery in first.filter(|one| !was_refused(one)) {
            let last = highest.entry(delivery.from).or_insert(delivery.sequence);
            if delivery.sequence < *last {
                lines.push(format!(
                    "subscriber {client}: {} of publisher {} came first after {last}",
                    delivery.sequence, delivery.from
                ));
            }
            *last = delivery.sequence.max(*last);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, delivered, found, place, sound};
    use super::*;
    use crate::history::What;

    #[test]
    fn copy_of_a_refused_message_may_come_late() {
        let late = |last: What| {
            let mut whats = sound();
            let late = whats.remove(place(&whats, &delivered(0, 1, false)));
            let answer = whats
                .iter_mut()
                .find(|(client, what)| *client == 0 && matches!(what, What::PublishOk { sequence: 1, .. }));
            answer.unwrap().1 = last;
            whats.push(late);
            found(find, whats)
        };
        assert_eq!(late(What::PublishFail { sequence: 1, reason: 0x97 }), Vec::<String>::new());
        assert_eq!(late(What::PublishOk { sequence: 1, node: 1 }).len(), 1);
    }

    #[test]
    fn first_deliveries_out_of_order_are_flagged() {
        check(find, "3 of publisher 1 came first after 4", |whats| {
            let (one, other) = (place(whats, &delivered(1, 3, false)), place(whats, &delivered(1, 4, false)));
            whats.swap(one, other);
        });
        check(find, "1 of publisher 0 came first after 5", |whats| {
            let place = place(whats, &delivered(0, 1, false));
            let late = whats.remove(place);
            whats.push(late);
        });
    }
}
