//! That the other checkers had something to check: a client that never worked breaks no promise.
//!
//! Owns: what every history of a run must have. Does not: ask for what only some faults bring about.
//! Limits: one of each.

use super::Index;
use crate::history::{Event, What};

/// What a history must have: a name, and whether an event is one of it.
type Must = (&'static str, fn(&What) -> bool);

const MUST: [Must; 9] = [
    ("acknowledged publish", |what| matches!(what, What::PublishOk { .. })),
    ("delivery", |what| matches!(what, What::Delivered { .. })),
    ("message of QoS 0", |what| matches!(what, What::Caught { .. })),
    ("count of drops", |what| matches!(what, What::Dropped { .. })),
    ("read of a retained message", |what| matches!(what, What::ReadOk { .. })),
    ("message to a probe", |what| matches!(what, What::ProbeGot { .. })),
    ("will", |what| matches!(what, What::WillSeen { .. })),
    ("session that waited", |what| matches!(what, What::Back { present: true })),
    ("message that could expire", |what| matches!(what, What::ExpiringGot { .. })),
];

/// Kinds of events that are missing.
pub fn find(events: &[Event], index: &Index) -> Vec<String> {
    let missing = |(_, is): &&Must| !events.iter().any(|event| is(&event.what));
    let mut lines: Vec<String> =
        MUST.iter().filter(missing).map(|(name, _)| format!("the history has no {name}")).collect();
    if index.shared.members.values().all(|member| member.deliveries.is_empty()) {
        lines.push("the history has no delivery to the share group".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::testing::{found, sound};
    use super::*;

    #[test]
    fn a_kind_of_event_that_never_was_is_flagged() {
        let mut whats = sound();
        whats.extend([
            (9, What::Caught { from: 0, sequence: 0 }),
            (9, What::Dropped { total: 0 }),
            (9, What::ReadOk { register: 0, sequence: 1, retained: true }),
            (9, What::ProbeGot { probe: 0, sequence: 0 }),
            (9, What::WillSeen { from: 0, sequence: 0 }),
            (9, What::Back { present: true }),
            (9, What::ExpiringGot { sequence: 0 }),
            (11, What::Shares),
            (11, What::SubscribeInvoke),
            (11, What::Delivered { from: 10, sequence: 0, qos: 1, dup: false, packet_id: 1 }),
        ]);
        assert_eq!(found(find, whats.clone()), Vec::<String>::new());
        whats.retain(|(_, what)| !matches!(what, What::WillSeen { .. } | What::Shares));
        let said = ["the history has no will", "the history has no delivery to the share group"];
        assert_eq!(found(find, whats), said);
    }
}
