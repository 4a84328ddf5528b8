//! After a fault: a leader for each group within 10 s. While nodes are cut off: the others have one nearly all the time, and terms do not race.
//!
//! Owns: both. Does not: ask how long a node takes until it is ready again, which the report says.
//! Invariants: the harness looks at the nodes on the side of the majority again and again while there is a partition.
//! Limits: `LED_WITHIN`, `LEADERLESS_SHARE` or the one failover of `FAILOVER_MAX`, `TERMS_PER_MINUTE`.

use std::time::Duration;

use super::Index;
use crate::history::{Event, HARNESS, Moment, What};

/// From the end of healing to one leader for each group.
const LED_WITHIN: Duration = Duration::from_secs(10);

/// The most of a partition that a group may be without leader, on the side of the majority.
const LEADERLESS_SHARE: f64 = 0.05;

/// But one failover is allowed, of the longest that is promised when a leader falls silent.
const FAILOVER_MAX: Duration = Duration::from_secs(3);

/// Terms of one group, for each minute that has begun.
const TERMS_PER_MINUTE: u64 = 3;

/// Names of partitions begin so.
pub const PARTITIONS: &str = "partition";

#[derive(Default)]
struct Fault {
    name: String,
    invoke: Moment,
    ok: Moment,
    heal: Option<Moment>,
    healed: Option<Moment>,
    looks: usize,
    leaderless: usize,
}

/// Faults after which it took too long, or during which there was no leader or too many.
pub fn find(events: &[Event], _index: &Index) -> Vec<String> {
    let mut fault = Fault::default();
    let mut lines = Vec::new();
    for event in events.iter().filter(|event| event.client == HARNESS) {
        match &event.what {
            What::FaultInvoke { name } => {
                fault = Fault { name: name.clone(), invoke: event.at, ..Fault::default() };
            }
            What::FaultOk { .. } => fault.ok = event.at,
            What::Looked { led } if fault.heal.is_none() => {
                fault.looks += 1;
                fault.leaderless += usize::from(!led);
            }
            What::HealInvoke => {
                fault.heal = Some(event.at);
                lines.extend(fault.leaderless(event.at));
            }
            What::Healed => fault.healed = Some(event.at),
            What::Led => lines.extend(fault.late(event.at)),
            What::Recovered { terms } => lines.extend(fault.terms(event.at, *terms)),
            _ => {}
        }
    }
    lines
}

impl Fault {
    fn told(&self, what: &str) -> String {
        format!("{} at {} s: {what}", self.name, self.invoke.0 / 1_000_000)
    }

    fn leaderless(&self, heal: Moment) -> Option<String> {
        if !self.name.starts_with(PARTITIONS) || self.looks == 0 {
            return None;
        }
        let lasted = heal.since(self.ok);
        let leaderless = lasted.mul_f64(self.leaderless as f64 / self.looks as f64);
        (leaderless > lasted.mul_f64(LEADERLESS_SHARE).max(FAILOVER_MAX)).then(|| {
            let (without, all) = (leaderless.as_millis(), lasted.as_millis());
            self.told(&format!("no leader with the majority for {without} of {all} ms"))
        })
    }

    fn late(&self, led: Moment) -> Option<String> {
        let took = led.since(self.healed?);
        (took > LED_WITHIN).then(|| {
            self.told(&format!("a leader for each group only {} ms after healing", took.as_millis()))
        })
    }

    fn terms(&self, recovered: Moment, terms: u64) -> Option<String> {
        let minutes = recovered.since(self.invoke).as_secs() / 60 + 1;
        (self.name.starts_with(PARTITIONS) && terms > TERMS_PER_MINUTE * minutes)
            .then(|| self.told(&format!("the term of a group grew by {terms} in {minutes} minutes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition of 20 s with a look each 100 ms, of which some find no leader.
    fn said(leaderless: u64, led_ms: u64, terms: u64) -> Vec<String> {
        let mut events = Vec::new();
        let mut note = |at: u64, what| events.push(Event { at: Moment(1000 * at), client: HARNESS, what });
        note(0, What::FaultInvoke { name: "partition".into() });
        note(1, What::FaultOk { silenced: vec![0] });
        for look in 0..200 {
            note(2 + 100 * look, What::Looked { led: look >= leaderless });
        }
        note(20_001, What::HealInvoke);
        note(20_001, What::Healed);
        note(20_001 + led_ms, What::Led);
        note(20_002 + led_ms, What::Recovered { terms });
        find(&events, &Index::default())
    }

    #[test]
    fn a_cluster_without_leader_for_long_is_flagged() {
        assert_eq!(said(0, 100, 1), Vec::<String>::new());
        assert_eq!(said(30, 100, 3), Vec::<String>::new(), "one failover");
        assert_eq!(said(31, 100, 1), ["partition at 0 s: no leader with the majority for 3100 of 20000 ms"]);
        assert_eq!(
            said(0, 10_001, 1),
            ["partition at 0 s: a leader for each group only 10001 ms after healing"]
        );
        assert_eq!(said(0, 100, 4), ["partition at 0 s: the term of a group grew by 4 in 1 minutes"]);
    }
}
