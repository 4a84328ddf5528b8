//! When a history had no fault: what is judged by time is judged only then.
//!
//! Owns: the times from the injection of each fault until the cluster had recovered. Does not: judge.
//! Invariants: while only wall clocks jump it is calm: they must not matter. What comes before the first fault is calm.

use crate::history::{Event, HARNESS, Moment, What};

/// Names of faults that only change wall clocks begin so.
const CLOCKS: &str = "clock";

/// The times without calm, ascending.
pub struct Calm(Vec<(Moment, Moment)>);

impl Calm {
    /// Of a history.
    pub fn of(events: &[Event]) -> Calm {
        let mut times = Vec::new();
        let (mut since, mut clocks) = (None, false);
        for event in events.iter().filter(|event| event.client == HARNESS) {
            match &event.what {
                What::FaultInvoke { name } => {
                    clocks = name.starts_with(CLOCKS);
                    since = Some(event.at);
                }
                What::FaultOk { .. } if clocks => times.extend(since.take().map(|since| (since, event.at))),
                What::HealInvoke => {
                    since.get_or_insert(event.at);
                }
                What::Recovered { .. } => times.extend(since.take().map(|since| (since, event.at))),
                _ => {}
            }
        }
        times.extend(since.map(|since| (since, Moment(u64::MAX))));
        Calm(times)
    }

    /// Whether there was no fault between two moments.
    pub fn between(&self, from: Moment, to: Moment) -> bool {
        !self.0.iter().any(|(begin, end)| *begin <= to && *end >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::timed;
    use super::*;

    fn fault(name: &str) -> Vec<(u16, What)> {
        let whats = vec![
            What::FaultInvoke { name: name.into() },
            What::FaultOk { silenced: vec![] },
            What::Subscribed,
            What::Subscribed,
            What::HealInvoke,
            What::Led,
            What::Recovered { terms: 0 },
            What::Subscribed,
        ];
        whats.into_iter().map(|what| (HARNESS, what)).collect()
    }

    #[test]
    fn a_fault_ends_the_calm_until_the_cluster_has_recovered() {
        let calm = Calm::of(&timed(fault("kill-all")));
        let ms = |ms: u64| Moment(1000 * ms);
        assert!(!calm.between(ms(0), ms(0)) && !calm.between(ms(2), ms(3)) && !calm.between(ms(6), ms(7)));
        assert!(calm.between(ms(7), ms(100)));
        let clocks = Calm::of(&timed(fault("clock-forward")));
        assert!(
            !clocks.between(ms(0), ms(2)) && clocks.between(ms(2), ms(3)) && !clocks.between(ms(3), ms(4))
        );
        let unhealed = Calm::of(&timed(fault("kill-all").drain(..2).collect()));
        assert!(!unhealed.between(ms(50), ms(60)));
    }
}
