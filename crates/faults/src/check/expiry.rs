//! D13: a session never expires early, a message never by more than a second.
//!
//! Owns: both. Does not: ask that anything expires; wall clocks that jump make no difference.
//! Invariants: a client notes that it goes before it closes, and that it is back after CONNACK: so the time between is at least as long as the
//! session was without a connection, unless a fault ended that before.
//! Limits: messages are judged only in calm, and when the client was there `FETCHED_IN` before their time was over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Index;
use super::calm::Calm;
use crate::history::{Client, Event, Moment, What};

/// A message may expire so much too early.
const EARLY_MAX: Duration = Duration::from_secs(1);

/// What waits for a client that comes back is there after so long.
const FETCHED_IN: Duration = Duration::from_secs(2);

/// A message that expires.
#[derive(Clone, Copy)]
struct Expiring {
    invoke: Moment,
    expiry: Duration,
    ok: bool,
}

#[derive(Default)]
struct Sleeper {
    away: Option<(Moment, Duration)>,
    /// When it came back to a session that was there.
    back: Option<Moment>,
    /// When its present connection began.
    since: Option<Moment>,
    /// Published since it went away.
    waiting: BTreeMap<u64, Expiring>,
    got: BTreeSet<u64>,
}

/// Sessions and messages that expired too early.
pub fn find(events: &[Event], _index: &Index) -> Vec<String> {
    let calm = Calm::of(events);
    let mut sleepers: BTreeMap<Client, Sleeper> = BTreeMap::new();
    let mut lines = Vec::new();
    for event in events {
        let client = event.client;
        match event.what {
            What::Away { expiry_ms } => {
                let sleeper = sleepers.entry(client).or_default();
                let missing = sleeper.missing(&calm, event.at);
                lines.extend(missing.map(|line| format!("client {client}: {line}")));
                // A node that was cut off or died with the connection may have ended it long before.
                let surely_there = sleeper.since.is_some_and(|since| calm.between(since, event.at));
                sleeper.away = surely_there.then_some((event.at, Duration::from_millis(expiry_ms)));
                sleeper.waiting.clear();
            }
            What::Back { present } => {
                let early = sleepers.entry(client).or_default().come_back(event.at, present);
                lines.extend(early.map(|line| format!("client {client}: {line}")));
            }
            What::ExpiringInvoke { sequence, expiry_ms } => {
                let expiry = Duration::from_millis(expiry_ms);
                sleepers
                    .entry(client)
                    .or_default()
                    .waiting
                    .insert(sequence, Expiring { invoke: event.at, expiry, ok: false });
            }
            What::ExpiringOk { sequence } => {
                if let Some(one) = sleepers.entry(client).or_default().waiting.get_mut(&sequence) {
                    one.ok = true;
                }
            }
            What::ExpiringGot { sequence } => {
                sleepers.entry(client).or_default().got.insert(sequence);
            }
            // A CONNECT without CONNACK may have taken the session all the same, with another interval.
            What::Refused { .. } | What::Lost { .. } => {
                if let Some(sleeper) = sleepers.get_mut(&client) {
                    *sleeper = Sleeper { got: std::mem::take(&mut sleeper.got), ..Sleeper::default() };
                }
            }
            _ => {}
        }
    }
    lines
}

impl Sleeper {
    fn come_back(&mut self, at: Moment, present: bool) -> Option<String> {
        self.back = present.then_some(at);
        self.since = Some(at);
        let (away, expiry) = self.away?;
        let gone = at.since(away);
        (!present && gone < expiry).then(|| {
            let (gone, expiry) = (gone.as_millis(), expiry.as_millis());
            format!("no session at {} ms after {gone} ms, but it lives for {expiry} ms", at.0 / 1000)
        })
    }

    /// Messages that should have been there while it stayed until now.
    fn missing(&self, calm: &Calm, now: Moment) -> Option<String> {
        let ((away, _), back) = (self.away?, self.back?);
        if !calm.between(away, now) || now.since(back) < FETCHED_IN {
            return None;
        }
        let lives = |one: &Expiring| {
            one.ok && back.since(one.invoke) + FETCHED_IN + EARLY_MAX < one.expiry && one.invoke < back
        };
        let mut missing =
            self.waiting.iter().filter(|(sequence, one)| lives(one) && !self.got.contains(sequence));
        let (sequence, one) = missing.next()?;
        let (after, expiry) = (back.since(one.invoke).as_millis(), one.expiry.as_millis());
        Some(format!(
            "message {sequence} did not come {after} ms after it was published, but it lives for {expiry} ms"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::HARNESS;

    const CLIENT: Client = 3;

    /// A client that goes away for ten seconds and comes back for three, with a message that waits; times in milliseconds.
    fn history() -> Vec<(u64, What)> {
        vec![
            (0, What::Back { present: false }),
            (1000, What::Away { expiry_ms: 10_000 }),
            (2000, What::ExpiringInvoke { sequence: 0, expiry_ms: 12_000 }),
            (2010, What::ExpiringOk { sequence: 0 }),
            (10_000, What::Back { present: true }),
            (10_001, What::ExpiringGot { sequence: 0 }),
            (13_000, What::Away { expiry_ms: 5000 }),
        ]
    }

    fn check(words: &str, doctor: impl FnOnce(&mut Vec<(u64, What)>)) {
        let mut whats = history();
        doctor(&mut whats);
        let event = |(at, what): (u64, What)| {
            let fault = matches!(what, What::FaultInvoke { .. } | What::FaultOk { .. });
            Event { at: Moment(1000 * at), client: if fault { HARNESS } else { CLIENT }, what }
        };
        let events: Vec<Event> = whats.into_iter().map(event).collect();
        let said = find(&events, &Index::default()).join("\n");
        assert!(if words.is_empty() { said.is_empty() } else { said.contains(words) }, "{words:?}: {said:?}");
    }

    #[test]
    fn a_session_that_expires_early_is_flagged() {
        check("", |_| {});
        check("no session at 10000 ms after 9000 ms, but it lives for 10000 ms", |whats| {
            whats[4] = (10_000, What::Back { present: false });
        });
        check("", |whats| whats[4] = (11_001, What::Back { present: false }));
        // A fault may end its connection before it goes, and not while it is away.
        check("", |whats| {
            whats[4] = (10_000, What::Back { present: false });
            whats.insert(1, (500, What::FaultInvoke { name: "link-flap".into() }));
        });
        check("no session at 10000 ms", |whats| {
            whats[4] = (10_000, What::Back { present: false });
            whats.insert(2, (1500, What::FaultInvoke { name: "link-flap".into() }));
        });
        check("", |whats| {
            whats[4] = (10_000, What::Back { present: false });
            whats.insert(4, (9000, What::Refused { node: 0, reason: "test".into() }));
        });
    }

    #[test]
    fn a_message_that_expires_early_is_flagged() {
        let lost = |whats: &mut Vec<(u64, What)>| whats.remove(5);
        check("message 0 did not come 8000 ms after it was published, but it lives for 12000 ms", |whats| {
            lost(whats);
        });
        // It may expire a second too early.
        check("", |whats| {
            lost(whats);
            whats[2] = (2000, What::ExpiringInvoke { sequence: 0, expiry_ms: 11_000 });
        });
        // A fault may keep it away for longer than it lives; a clock that jumps may not.
        check("", |whats| {
            lost(whats);
            whats.insert(3, (2020, What::FaultInvoke { name: "partition".into() }));
        });
        check("message 0 did not come", |whats| {
            lost(whats);
            whats[0] = (2, What::Back { present: false });
            whats.insert(0, (0, What::FaultInvoke { name: "clock-forward".into() }));
            whats.insert(1, (1, What::FaultOk { silenced: vec![] }));
        });
        // It was not there for long enough.
        check("", |whats| {
            lost(whats);
            whats[5] = (11_000, What::Away { expiry_ms: 5000 });
        });
    }
}
