//! D5: duplicates are bounded: only a reconnect makes them, and each at most Receive Maximum + 64.
//!
//! Source: contract D5. What an entry more of the same message brings is not a duplicate of delivery (see D4). Those of
//! share groups are D14's.

use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use crate::oracle::{Conn, Event, History, MessageId};

/// What may be underway beside the window.
const SLACK: u64 = 64;

pub fn check(history: &History) -> Result<(), Broken> {
    let mut sent: BTreeMap<MessageId, u64> = BTreeMap::new();
    let mut connections: BTreeMap<u32, u64> = BTreeMap::new();
    let mut seen: BTreeSet<(u32, MessageId)> = BTreeSet::new();
    let mut copies: BTreeMap<(u32, MessageId), u64> = BTreeMap::new();
    let mut repeated: BTreeMap<Conn, u64> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.event {
            Event::PublishSent { id, .. } => *sent.entry(*id).or_default() += 1,
            Event::Connected { client, .. } => *connections.entry(*client).or_default() += 1,
            Event::Delivered(delivery) if delivery.packet_id != 0 && !delivery.retain => {
                let client = delivery.client;
                let Some(facts) = history
                    .clients
                    .get(client as usize)
                    .filter(|facts| facts.durable && facts.share.is_none())
                else {
                    continue;
                };
                let Some(id) = delivery.id else { continue };
                let copies = copies.entry((client, id)).or_default();
                *copies += 1;
                let reconnects = connections.get(&client).copied().unwrap_or(0).saturating_sub(1);
                let entries = sent.get(&id).copied().unwrap_or(1);
                if *copies > entries * (1 + reconnects) {
                    let what =
                        format!("client {client} got {copies} copies of {id:?} with {reconnects} reconnects");
                    return Err(Broken::new(entry.at, what));
                }
                let again = repeated.entry(delivery.conn).or_default();
                *again += u64::from(!seen.insert((client, id)) && delivery.dup);
                if *again > u64::from(facts.receive_max) + SLACK {
                    let what = format!("client {client} got {again} duplicates after one reconnect");
                    return Err(Broken::new(entry.at, what));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::*;

    #[test]
    fn duplicate_without_a_reconnect_is_flagged() {
        let again = || vec![delivered(1, 1, 7), delivered(2, 1, 7)];
        let first = || vec![sent(1), connecting(1), connected(1, false)];
        judge(check, [first(), vec![connected(2, true)], again()].concat(), [first(), again()].concat());
    }
}
