//! D12: a will comes exactly once when its connection ends without DISCONNECT, never after DISCONNECT, never before its delay.
//!
//! Owns: that, as a durable session with QoS 2 sees it. Does not: judge wills whose CONNECT has no answer, but for copies; or by
//! time while there is a fault: a node that falls silent may end a connection of which its client has no idea.
//! Invariants: a client notes what it does to a connection before it does it.
//! Limits: `LATE_MAX` after it was due; `CLOCK_STEP` before.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Index;
use super::calm::Calm;
use crate::history::{Client, Event, Moment, What, WillEnd};

/// A will may come so much later than it is due: a failover and a second.
const LATE_MAX: Duration = Duration::from_secs(4);

/// One and a half times the Keep Alive of a client that falls silent.
const SILENCE: Duration = Duration::from_millis(1500);

/// Replicated time goes in steps.
const CLOCK_STEP: Duration = Duration::from_millis(50);

/// What a node says of DISCONNECT takes so long to be durable.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Default)]
struct Will {
    delay: Duration,
    stored: Option<Moment>,
    end: Option<(Moment, WillEnd)>,
    dismissed: Option<Moment>,
    seen: Option<Moment>,
    copies: usize,
}

/// Wills that did not come, came twice, too early, too late or although they were dismissed.
pub fn find(events: &[Event], index: &Index) -> Vec<String> {
    let mut lines = find_of_cut(events, index);
    for ((client, sequence), will) in wills(events) {
        let due = matches!(will.end, Some((_, how)) if how != WillEnd::Disconnected);
        if will.stored.is_some() && due && will.seen.is_none() {
            let how = will.end.map(|(_, how)| how);
            lines.push(format!("will {sequence} of client {client} never came: {how:?}"));
        }
    }
    lines
}

/// As [`find`], of a history that was cut: what did not come might have come later.
pub fn find_of_cut(events: &[Event], _index: &Index) -> Vec<String> {
    let calm = Calm::of(events);
    let told = |(which, will): ((Client, u64), Will)| {
        let (client, sequence) = which;
        Some(format!("will {sequence} of client {client} {}", will.problem(&calm)?))
    };
    wills(events).into_iter().filter_map(told).collect()
}

fn wills(events: &[Event]) -> BTreeMap<(Client, u64), Will> {
    let mut wills: BTreeMap<(Client, u64), Will> = BTreeMap::new();
    for event in events {
        let (What::WillInvoke { sequence, .. }
        | What::WillStored { sequence }
        | What::WillEnd { sequence, .. }
        | What::WillDismissed { sequence }
        | What::WillSeen { sequence, .. }) = event.what
        else {
            continue;
        };
        let of = if let What::WillSeen { from, .. } = event.what { from } else { event.client };
        wills.entry((of, sequence)).or_default().take(event);
    }
    wills
}

impl Will {
    fn take(&mut self, event: &Event) {
        match event.what {
            What::WillInvoke { delay_ms, .. } => self.delay = Duration::from_millis(delay_ms),
            What::WillStored { .. } => self.stored = Some(event.at),
            What::WillEnd { how, .. } => self.end = Some((event.at, how)),
            What::WillDismissed { .. } => self.dismissed = Some(event.at),
            What::WillSeen { .. } => {
                self.seen.get_or_insert(event.at);
                self.copies += 1;
            }
            _ => {}
        }
    }

    fn problem(&self, calm: &Calm) -> Option<String> {
        if self.copies > 1 {
            return Some(format!("came {} times", self.copies));
        }
        let (stored, (end, how)) = (self.stored?, self.end?);
        if let Some(dismissed) = self.dismissed {
            let settled = Moment(dismissed.0 + micros(SETTLED_AFTER));
            return (self.seen.is_some() && calm.between(stored, settled))
                .then(|| "came after DISCONNECT".to_owned());
        }
        let seen = self.seen?;
        let early = match how {
            // The node may have found it silent before it was.
            WillEnd::Silent | WillEnd::Lost => false,
            WillEnd::Closed | WillEnd::TakenOver | WillEnd::Disconnected => seen < end,
        };
        if early && calm.between(stored, end) {
            return Some("came before its connection ended".to_owned());
        }
        let after = seen.since(end);
        // Who gave the connection up before its client did counts the delay from then.
        let since_end = if calm.between(stored, end) { after } else { seen.since(stored) };
        if how == WillEnd::Closed && since_end + CLOCK_STEP < self.delay {
            let (after, delay) = (since_end.as_millis(), self.delay.as_millis());
            return Some(format!("came after {after} ms, but its delay is {delay} ms"));
        }
        let due = match how {
            WillEnd::Closed => self.delay,
            WillEnd::Silent => self.delay + SILENCE,
            // The session has ended, and the will with it, whatever its delay.
            WillEnd::TakenOver => Duration::ZERO,
            WillEnd::Disconnected | WillEnd::Lost => return None,
        };
        let late = after.saturating_sub(due);
        (late > LATE_MAX && calm.between(stored, seen)).then(|| format!("came {} ms late", late.as_millis()))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::HARNESS;

    /// Histories of one will; times in milliseconds.
    fn said(whats: &[(u64, What)]) -> String {
        let event = |(at, what): &(u64, What)| {
            let seen = matches!(what, What::WillSeen { .. });
            let fault = matches!(what, What::FaultInvoke { .. });
            let client = if fault { HARNESS } else { Client::from(seen) + 7 };
            Event { at: Moment(1000 * at), client, what: what.clone() }
        };
        let events: Vec<Event> = whats.iter().map(event).collect();
        find(&events, &Index::default()).join("\n")
    }

    fn will(delay_ms: u64, how: WillEnd) -> Vec<(u64, What)> {
        vec![
            (0, What::WillInvoke { sequence: 0, delay_ms }),
            (10, What::WillStored { sequence: 0 }),
            (1000, What::WillEnd { sequence: 0, how }),
        ]
    }

    fn seen(at: u64) -> (u64, What) {
        (at, What::WillSeen { from: 7, sequence: 0 })
    }

    fn check(words: &str, whats: Vec<(u64, What)>, more: &[(u64, What)]) {
        let said = said(&[whats.as_slice(), more].concat());
        assert!(if words.is_empty() { said.is_empty() } else { said.contains(words) }, "{words:?}: {said:?}");
    }

    #[test]
    fn sound_wills_pass() {
        check("", will(0, WillEnd::Closed), &[seen(1001)]);
        check("", will(2000, WillEnd::Closed), &[seen(3000)]);
        check("", will(2000, WillEnd::TakenOver), &[seen(1100)]);
        check("", will(0, WillEnd::Silent), &[seen(2500)]);
        check("", will(0, WillEnd::Disconnected), &[(1100, What::WillDismissed { sequence: 0 })]);
        // Whether DISCONNECT got there is open.
        check("", will(0, WillEnd::Disconnected), &[seen(3000)]);
        // CONNECT had no answer.
        check("", will(0, WillEnd::Closed).drain(..1).collect(), &[]);
    }

    #[test]
    fn unsound_wills_are_flagged() {
        for how in [WillEnd::Closed, WillEnd::Silent, WillEnd::TakenOver, WillEnd::Lost] {
            check("never came", will(0, how), &[]);
            check("came 2 times", will(0, how), &[seen(1100), seen(1200)]);
        }
        let dismissed = (1100, What::WillDismissed { sequence: 0 });
        check("came after DISCONNECT", will(0, WillEnd::Disconnected), &[dismissed, seen(1200)]);
        check("came before its connection ended", will(0, WillEnd::Closed), &[seen(900)]);
        check("its delay is 2000 ms", will(2000, WillEnd::Closed), &[seen(2800)]);
        check("late", will(0, WillEnd::TakenOver), &[seen(5100)]);
        check("late", will(1000, WillEnd::Silent), &[seen(7600)]);
    }

    #[test]
    fn what_a_fault_may_do_is_not() {
        let fault = (500, What::FaultInvoke { name: "partition".into() });
        let whats = || [vec![fault.clone()], will(0, WillEnd::Closed)].concat();
        check("", whats(), &[seen(900)]);
        check("", whats(), &[seen(9000)]);
        check("never came", whats(), &[]);
        // The node had given the connection up before the client did.
        let delayed = || [vec![fault.clone()], will(2000, WillEnd::Closed)].concat();
        check("", delayed(), &[seen(2100)]);
        check("its delay is 2000 ms", delayed(), &[seen(1800)]);
        let dismissed = (1100, What::WillDismissed { sequence: 0 });
        check("", [vec![fault.clone()], will(0, WillEnd::Disconnected)].concat(), &[dismissed, seen(1200)]);
    }
}
