//! D8: QoS 0 comes at most once, and what does not come was counted.
//!
//! Owns: both. Does not: blame losses while there is a fault, or of clients that were not connected all the time.
//! Invariants: nodes say what they have dropped at the begin and at the end of each calm time; each client catches with one subscription.
//! What a node cannot hand to another one counts once, however many clients there would have had it: so does a message here that is missing
//! at clients of one node.
//! Limits: what was thrown in the last `ON_ITS_WAY` of a calm time is not missed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Index;
use crate::history::{Client, Event, Moment, What};

/// A message may be under way for so long.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Throws {
    flung: BTreeMap<(Client, u64), Moment>,
    caught: BTreeMap<Client, BTreeSet<(Client, u64)>>,
    /// When connections begin and end; those of catchers begin with SUBACK.
    present: BTreeMap<Client, Vec<(Moment, bool)>>,
    /// Nodes of their connections.
    nodes: BTreeMap<Client, Vec<(Moment, usize)>>,
    dropped: Vec<(Moment, u64)>,
}

/// Second copies, messages of nobody, and losses that no node has counted.
pub fn find(events: &[Event], _index: &Index) -> Vec<String> {
    let mut throws = Throws::default();
    let mut lines = Vec::new();
    for event in events {
        throws.take(event, &mut lines);
    }
    for pair in throws.dropped.windows(2) {
        if let [begin, end] = pair {
            lines.extend(throws.missed(*begin, *end));
        }
    }
    lines
}

impl Throws {
    fn take(&mut self, event: &Event, lines: &mut Vec<String>) {
        let client = event.client;
        let mut present = |begins| self.present.entry(client).or_default().push((event.at, begins));
        match event.what {
            What::Flung { sequence } => {
                self.flung.insert((client, sequence), event.at);
            }
            What::Caught { from, sequence } => {
                if !self.flung.contains_key(&(from, sequence)) {
                    lines.push(format!("client {client}: {sequence} of {from} was never sent"));
                }
                if !self.caught.entry(client).or_default().insert((from, sequence)) {
                    lines.push(format!("client {client}: {sequence} of {from} came twice with QoS 0"));
                }
            }
            What::Subscribed => present(true),
            What::Connected { node, .. } => {
                present(true);
                self.nodes.entry(client).or_default().push((event.at, node));
            }
            What::Lost { .. } => present(false),
            What::Dropped { total } => self.dropped.push((event.at, total)),
            _ => {}
        }
    }

    /// Whether a client was connected from one moment to another.
    fn was_there(&self, client: Client, begin: Moment, end: Moment) -> bool {
        let Some(changes) = self.present.get(&client) else { return false };
        let before = changes.iter().rev().find(|(at, _)| *at < begin);
        before.is_some_and(|(_, there)| *there) && !changes.iter().any(|(at, _)| (begin..=end).contains(at))
    }

    /// The node of a client's connection at a moment.
    fn node_of(&self, client: Client, at: Moment) -> Option<usize> {
        let nodes = self.nodes.get(&client)?;
        nodes.iter().rev().find(|(since, _)| *since <= at).map(|(_, node)| *node)
    }

    fn missed(&self, begin: (Moment, u64), end: (Moment, u64)) -> Option<String> {
        let ((begin, before), (end, after)) = (begin, end);
        let last = Moment(end.0.saturating_sub(u64::try_from(ON_ITS_WAY.as_micros()).unwrap_or(u64::MAX)));
        if last <= begin {
            return None;
        }
        let thrown: Vec<_> = self
            .flung
            .iter()
            .filter(|((from, _), at)| (begin..=last).contains(*at) && self.was_there(*from, begin, end))
            .map(|(which, _)| which)
            .collect();
        let mut missing = BTreeSet::new();
        for (client, caught) in self.caught.iter().filter(|(client, _)| self.was_there(**client, begin, end))
        {
            let node = self.node_of(*client, begin);
            missing
                .extend(thrown.iter().filter(|which| !caught.contains(**which)).map(|which| (node, *which)));
        }
        let missing = missing.len();
        let counted = after.saturating_sub(before);
        (u64::try_from(missing).unwrap_or(u64::MAX) > counted).then(|| {
            format!("{missing} messages of QoS 0 are missing after {} ms, {counted} counted", begin.0 / 1000)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::found;
    use super::*;
    use crate::history::HARNESS;

    const THROWER: Client = 0;
    const CATCHER: Client = 1;

    /// A calm time of four seconds, with a message each millisecond; all but some come.
    fn history(lost: &[u64], counted: u64) -> Vec<(Client, What)> {
        let mut whats = vec![
            (THROWER, What::Connected { node: 0, present: false }),
            (CATCHER, What::Connected { node: 1, present: false }),
            (CATCHER, What::Subscribed),
            (HARNESS, What::Dropped { total: 7 }),
        ];
        for sequence in 0..2000 {
            whats.push((THROWER, What::Flung { sequence }));
            let what = What::Caught { from: THROWER, sequence };
            whats.push((CATCHER, if lost.contains(&sequence) { What::HealInvoke } else { what }));
        }
        whats.push((HARNESS, What::Dropped { total: 7 + counted }));
        whats
    }

    #[test]
    fn losses_that_nobody_counted_are_flagged() {
        assert_eq!(found(find, history(&[], 0)), Vec::<String>::new());
        assert_eq!(found(find, history(&[5, 9], 2)), Vec::<String>::new(), "counted");
        assert_eq!(found(find, history(&[1999], 0)), Vec::<String>::new(), "it may be under way");
        assert_eq!(
            found(find, history(&[5, 9], 1)),
            ["2 messages of QoS 0 are missing after 3 ms, 1 counted"]
        );
    }

    #[test]
    fn what_two_clients_of_a_node_miss_counts_once() {
        let with = |node: usize| {
            let mut whats = history(&[5, 9], 2);
            let other = [What::Connected { node, present: false }, What::Subscribed];
            whats.splice(0..0, other.map(|what| (CATCHER + 1, what)));
            // It has caught something, once.
            whats.push((CATCHER + 1, What::Caught { from: THROWER, sequence: 1999 }));
            let rest = (0..1999).filter(|sequence| ![5, 9].contains(sequence));
            whats.extend(rest.map(|sequence| (CATCHER + 1, What::Caught { from: THROWER, sequence })));
            found(find, whats)
        };
        assert_eq!(with(1), Vec::<String>::new());
        assert_eq!(with(0), ["4 messages of QoS 0 are missing after 5 ms, 2 counted"]);
    }

    #[test]
    fn losses_of_who_was_away_are_not() {
        for client in [THROWER, CATCHER] {
            let mut whats = history(&[5, 9], 0);
            whats.insert(1000, (client, What::Lost { reason: "test".into() }));
            assert_eq!(found(find, whats), Vec::<String>::new());
        }
    }

    #[test]
    fn second_copies_and_messages_of_nobody_are_flagged() {
        let mut whats = history(&[], 0);
        whats.push((CATCHER, What::Caught { from: THROWER, sequence: 3 }));
        assert_eq!(found(find, whats), ["client 1: 3 of 0 came twice with QoS 0"]);
        let mut whats = history(&[], 0);
        whats.push((CATCHER, What::Caught { from: THROWER, sequence: 5000 }));
        assert_eq!(found(find, whats), ["client 1: 5000 of 0 was never sent"]);
    }
}
