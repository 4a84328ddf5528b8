//! Figures of a history: how many operations had which end, and how long answers took around each kind of fault.
//!
//! Owns: counts and quantiles. Does not: judge; a figure breaks no promise here.
//! Invariants: a publish belongs to a fault when the time from its first sending to its answer overlaps the time from the injection
//! to the recovered cluster. Limits: quantiles are of all answers, none is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::check::{Index, Published};
use crate::history::{Event, Moment, What};
use crate::run::Fault;

/// Answers around faults of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// Faults.
    pub faults: usize,
    /// From first sending to PUBACK or PUBREC, ascending.
    pub answers: Vec<Duration>,
    /// Longest recovery after healing.
    pub recovery: Duration,
    /// Growth of all groups' terms, summed.
    pub terms: u64,
}

impl Around {
    /// The answer time that so many of a thousand do not exceed.
    pub fn quantile(&self, thousandths: usize) -> Duration {
        let place = (self.answers.len() * thousandths).div_ceil(1000).max(1) - 1;
        self.answers.get(place).copied().unwrap_or_default()
    }
}

/// Counts over a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Publishes.
    pub published: usize,
    /// Acknowledged with success.
    pub acked: usize,
    /// Refused.
    pub refused: usize,
    /// Sent again at least once: nobody knew what had become of them.
    pub open: usize,
    /// Messages that applications got, copies too.
    pub delivered: usize,
    /// Copies of QoS 1 beyond the first at a subscriber.
    pub duplicates: usize,
    /// QoS 2 packets that clients kept from their application.
    pub repeated: usize,
    /// Connections after the first of each client.
    pub reconnects: usize,
    /// Acknowledged retained writes.
    pub writes: usize,
    /// Reads that showed a value.
    pub reads: usize,
}

/// Figures around the faults, by kind.
pub fn around(index: &Index, faults: &[Fault]) -> BTreeMap<&'static str, Around> {
    let mut kinds: BTreeMap<&'static str, Around> = BTreeMap::new();
    let publishes = || index.publishers.values().flat_map(BTreeMap::values);
    for fault in faults {
        let kind = kinds.entry(fault.name).or_default();
        kind.faults += 1;
        kind.terms += fault.terms;
        kind.recovery = kind.recovery.max(fault.recovery);
        kind.answers.extend(publishes().filter_map(|one| overlapping(one, fault.injected, fault.recovered)));
    }
    kinds.values_mut().for_each(|kind| kind.answers.sort_unstable());
    kinds
}

fn overlapping(one: &Published, begin: Moment, end: Moment) -> Option<Duration> {
    let ok = one.ok?;
    (one.invoke <= end && ok >= begin).then(|| ok.since(one.invoke))
}

/// Counts over a history.
pub fn counts(events: &[Event], index: &Index) -> Counts {
    let mut counts = Counts::default();
    for one in index.publishers.values().flat_map(BTreeMap::values) {
        counts.published += 1;
        counts.acked += usize::from(one.ok.is_some());
        counts.refused += usize::from(one.failed);
        counts.open += usize::from(one.sent > 1);
    }
    for subscriber in index.subscribers.values() {
        let mut seen = std::collections::BTreeSet::new();
        counts.delivered += subscriber.deliveries.len();
        let again = subscriber.deliveries.iter().filter(|one| !seen.insert((one.from, one.sequence)));
        counts.duplicates += again.count();
    }
    let mut clients = std::collections::BTreeSet::new();
    for event in events {
        match event.what {
            What::Connected { .. } => counts.reconnects += usize::from(!clients.insert(event.client)),
            What::Repeated { .. } => counts.repeated += 1,
            What::WriteOk { .. } => counts.writes += 1,
            What::ReadOk { .. } => counts.reads += 1,
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{sound, timed};

    #[test]
    fn counts_are_those_of_the_history() {
        let events = timed(sound());
        let counts = counts(&events, &Index::of(&events));
        let expected = Counts {
            published: 12,
            acked: 11,
            refused: 1,
            open: 1,
            delivered: 12,
            duplicates: 1,
            repeated: 0,
            reconnects: 2,
            writes: 0,
            reads: 0,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn answers_belong_to_the_faults_that_they_overlap() {
        let events = timed(sound());
        let index = Index::of(&events);
        let fault = |injected, recovered| Fault {
            name: "test",
            injected: Moment(injected),
            recovered: Moment(recovered),
            recovery: Duration::from_millis(3),
            terms: 2,
            proof: String::new(),
        };
        let kinds = around(&index, &[fault(0, 10), fault(1_000_000, 2_000_000)]);
        assert_eq!((kinds["test"].faults, kinds["test"].answers.len(), kinds["test"].terms), (2, 0, 4));
        let all = around(&index, &[fault(0, 1_000_000)]);
        assert_eq!(all["test"].answers.len(), 11);
        assert_eq!(all["test"].quantile(500), Duration::from_millis(1));
        assert_eq!(all["test"].quantile(1000), Duration::from_millis(5), "the one that was sent twice");
    }
}
