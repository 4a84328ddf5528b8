//! D2: nothing is delivered that was not published, or not yet, or not so.
//!
//! Owns: that. Does not: know payloads; the client has checked them and notes what is damaged.
//! Invariants: what was refused or has no answer may be delivered.

use super::Index;
use crate::history::{Event, What};

/// Damaged messages, and deliveries of what had not been sent.
pub fn find(events: &[Event], index: &Index) -> Vec<String> {
    let damaged = events.iter().filter_map(|event| match &event.what {
        What::Damaged { reason } => Some(format!("client {}: {reason}", event.client)),
        _ => None,
    });
    let mut lines: Vec<String> = damaged.collect();
    for (client, subscriber) in &index.subscribers {
        for delivery in &subscriber.deliveries {
            let what = format!("subscriber {client}: {} of publisher {}", delivery.sequence, delivery.from);
            match index.published(delivery.from, delivery.sequence) {
                None => lines.push(format!("{what} was never published")),
                Some(published) if published.invoke > delivery.at => {
                    lines.push(format!("{what} came before it was published"));
                }
                Some(published) if delivery.qos > published.qos => {
                    lines.push(format!("{what} came with QoS {}", delivery.qos));
                }
                Some(_) => {}
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::testing::{SUBSCRIBER, check, delivered, place};
    use super::*;

    #[test]
    fn what_was_not_published_is_flagged() {
        check(find, "99 of publisher 0 was never published", |whats| whats.push(delivered(0, 99, false)));
        check(find, "1 of publisher 7 was never published", |whats| whats.push(delivered(7, 1, false)));
        check(find, "4 of publisher 1 came before it was published", |whats| {
            whats.insert(3, delivered(1, 4, false));
        });
        check(find, "3 of publisher 0 came with QoS 2", |whats| {
            let place = place(whats, &delivered(0, 3, false));
            if let What::Delivered { qos, .. } = &mut whats[place].1 {
                *qos = 2;
            }
        });
        check(find, "half a payload", |whats| {
            whats.push((SUBSCRIBER, What::Damaged { reason: "half a payload".into() }));
        });
    }
}
