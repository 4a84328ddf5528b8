//! D14: each message for a share group comes to at least one member; copies are no more than what lost members had.
//!
//! Owns: the messages of the group's publishers. Does not: care which member gets one, or in which order.
//! Invariants: members have durable sessions; a member is lost when its connection ends.
//! Limits: Receive Maximum for each lost connection.

use std::collections::BTreeMap;

use super::Index;
use crate::history::Event;
use crate::wire::RECEIVE_MAX;

/// Messages that no member got, that nobody sent, and copies too many.
pub fn find(events: &[Event], index: &Index) -> Vec<String> {
    let mut lines = find_of_cut(events, index);
    let counts = counts(index);
    let Some(since) = index.shared.members.values().filter_map(|member| member.subscribed).min() else {
        return lines;
    };
    for (publisher, publishes) in &index.shared.publishers {
        let missing: Vec<u64> = publishes
            .iter()
            .filter(|(_, one)| one.ok.is_some() && one.invoke > since)
            .map(|(sequence, _)| *sequence)
            .filter(|sequence| !counts.contains_key(&(*publisher, *sequence)))
            .collect();
        if let Some(first) = missing.first() {
            let count = missing.len();
            lines.push(format!(
                "{count} acknowledged messages of publisher {publisher} came to no member, first {first}"
            ));
        }
    }
    lines
}

/// As [`find`], of a history that was cut: what did not come might have come later.
pub fn find_of_cut(_events: &[Event], index: &Index) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut copies, mut sent_again) = (0, 0);
    for ((publisher, sequence), count) in counts(index) {
        let published = index.shared.publishers.get(&publisher).and_then(|one| one.get(&sequence));
        match published {
            None => lines.push(format!("{sequence} of publisher {publisher} was never published")),
            Some(published) => sent_again += published.sent.saturating_sub(1),
        }
        copies += count - 1;
    }
    let lost: usize =
        index.shared.members.values().map(|member| member.connected.len().saturating_sub(1)).sum();
    let most = lost * usize::from(RECEIVE_MAX) + sent_again;
    if copies > most {
        lines.push(format!(
            "{copies} copies for {lost} lost connections and {sent_again} publishes that were sent again"
        ));
    }
    lines
}

/// How often each message came, over all members.
fn counts(index: &Index) -> BTreeMap<(u16, u64), usize> {
    let mut counts = BTreeMap::new();
    for delivery in index.shared.members.values().flat_map(|member| &member.deliveries) {
        *counts.entry((delivery.from, delivery.sequence)).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::super::testing::found;
    use super::*;
    use crate::history::{Client, What};

    const MEMBERS: [Client; 2] = [5, 6];

    fn group(messages: u64) -> Vec<(Client, What)> {
        let mut whats = vec![(4, What::Shares)];
        for member in MEMBERS {
            whats.push((member, What::Shares));
            whats.push((member, What::Connected { node: 0, present: false }));
            whats.push((member, What::SubscribeInvoke));
            whats.push((member, What::SubscribeOk));
        }
        for sequence in 0..messages {
            whats.push((4, What::PublishInvoke { sequence, qos: 1 }));
            whats.push((MEMBERS[sequence as usize % 2], delivered(sequence)));
            whats.push((4, What::PublishOk { sequence, node: 0 }));
        }
        whats
    }

    fn delivered(sequence: u64) -> What {
        What::Delivered { from: 4, sequence, qos: 1, dup: false, packet_id: 1 }
    }

    #[test]
    fn a_message_that_no_member_got_is_flagged() {
        assert_eq!(found(find, group(10)), Vec::<String>::new());
        let mut whats = group(10);
        whats.retain(|(_, what)| *what != delivered(3));
        let said = ["1 acknowledged messages of publisher 4 came to no member, first 3"];
        assert_eq!(found(find, whats.clone()), said);
        assert_eq!(found(find_of_cut, whats), Vec::<String>::new());
    }

    #[test]
    fn copies_are_for_lost_members_only() {
        let mut whats = group(10);
        whats.push((5, delivered(3)));
        assert_eq!(
            found(find, whats.clone()),
            ["1 copies for 0 lost connections and 0 publishes that were sent again"]
        );
        whats.push((6, What::Connected { node: 1, present: true }));
        assert_eq!(found(find, whats), Vec::<String>::new());
        let mut whats = group(100);
        whats.push((6, What::Connected { node: 1, present: true }));
        whats.extend((0..65).map(|sequence| (5, delivered(sequence))));
        assert_eq!(found(find, whats).len(), 1);
    }

    #[test]
    fn what_was_never_published_is_flagged() {
        let mut whats = group(2);
        whats.push((5, delivered(99)));
        assert_eq!(found(find, whats), ["99 of publisher 4 was never published"]);
    }
}
