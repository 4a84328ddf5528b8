//! D10: SUBACK and UNSUBACK are barriers over the whole cluster.
//!
//! Owns: publishes that began after one of them, on another node. Does not: judge those without an acknowledgement.
//! Invariants: each probe has a session and a topic of its own, and gets what waits for it over as many connections as it takes.

use std::collections::{BTreeMap, BTreeSet};

use super::Index;
use crate::history::{Client, Event, What};

#[derive(Default)]
struct Probe {
    subscribed: bool,
    unsubscribed: bool,
    /// Begun after SUBACK and before UNSUBACK, or after that.
    begun: BTreeMap<u64, bool>,
    acked: BTreeSet<u64>,
    got: BTreeSet<u64>,
}

/// Messages that did not come although they began after SUBACK, and such as came although they began after UNSUBACK.
pub fn find(events: &[Event], _index: &Index) -> Vec<String> {
    let mut lines = Vec::new();
    for ((client, probe), history) in probes(events) {
        for (sequence, subscribed) in &history.begun {
            let (acked, got) = (history.acked.contains(sequence), history.got.contains(sequence));
            let problem = match (subscribed, acked, got) {
                (true, true, false) => "did not come although it began after SUBACK",
                (false, _, true) => "came although it began after UNSUBACK",
                _ => continue,
            };
            lines.push(format!("client {client}: message {sequence} of probe {probe} {problem}"));
        }
    }
    lines
}

/// As [`find`], of a history that was cut: what did not come might have come later.
pub fn find_of_cut(events: &[Event], index: &Index) -> Vec<String> {
    let mut lines = find(events, index);
    lines.retain(|line| line.ends_with("UNSUBACK"));
    lines
}

fn probes(events: &[Event]) -> BTreeMap<(Client, u64), Probe> {
    let mut probes: BTreeMap<(Client, u64), Probe> = BTreeMap::new();
    for event in events {
        let (What::ProbeSubscribed { probe }
        | What::ProbeUnsubscribed { probe }
        | What::ProbeInvoke { probe, .. }
        | What::ProbeOk { probe, .. }
        | What::ProbeGot { probe, .. }) = event.what
        else {
            continue;
        };
        probes.entry((event.client, probe)).or_default().take(&event.what);
    }
    probes
}

impl Probe {
    fn take(&mut self, what: &What) {
        match *what {
            What::ProbeSubscribed { .. } => self.subscribed = true,
            What::ProbeUnsubscribed { .. } => self.unsubscribed = true,
            What::ProbeInvoke { sequence, .. } if self.subscribed => {
                self.begun.insert(sequence, !self.unsubscribed);
            }
            What::ProbeOk { sequence, .. } => {
                self.acked.insert(sequence);
            }
            What::ProbeGot { sequence, .. } => {
                self.got.insert(sequence);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::found;
    use super::*;

    fn probe() -> Vec<(Client, What)> {
        let probe = 3;
        let whats = [
            What::ProbeSubscribed { probe },
            What::ProbeInvoke { probe, sequence: 0 },
            What::ProbeOk { probe, sequence: 0 },
            What::ProbeGot { probe, sequence: 0 },
            What::ProbeUnsubscribed { probe },
            What::ProbeInvoke { probe, sequence: 1 },
            What::ProbeOk { probe, sequence: 1 },
        ];
        whats.into_iter().map(|what| (8, what)).collect()
    }

    #[test]
    fn a_message_after_suback_must_come_and_one_after_unsuback_must_not() {
        assert_eq!(found(find, probe()), Vec::<String>::new());
        let mut whats = probe();
        whats.remove(3);
        let said = ["client 8: message 0 of probe 3 did not come although it began after SUBACK"];
        assert_eq!(found(find, whats.clone()), said);
        assert_eq!(found(find_of_cut, whats), Vec::<String>::new());
        let mut whats = probe();
        whats.push((8, What::ProbeGot { probe: 3, sequence: 1 }));
        let said = ["client 8: message 1 of probe 3 came although it began after UNSUBACK"];
        assert_eq!(found(find, whats.clone()), said);
        assert_eq!(found(find_of_cut, whats), said);
    }

    #[test]
    fn what_has_no_acknowledgement_may_be_absent() {
        let mut whats = probe();
        whats.drain(2..4);
        assert_eq!(found(find, whats), Vec::<String>::new());
    }
}
