//! Figures of a history: how many operations had which end, how long answers took around each kind of fault, and for how long there were none.
//!
//! Owns: counts, gaps and quantiles. Does not: judge; a figure breaks no promise here.
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
    /// For each fault and publisher the longest time without an answer, ascending.
    pub gaps: Vec<Duration>,
    /// Publishes that were sent again, and all, around these faults.
    pub open: (usize, usize),
    /// Longest recovery after healing.
    pub recovery: Duration,
    /// Growth of all groups' terms, summed.
    pub terms: u64,
}

impl Around {
    /// How many gaps are in each bucket of [`BUCKETS_MS`], and beyond the last.
    pub fn histogram(&self) -> Vec<usize> {
        let mut counts = vec![0; BUCKETS_MS.len() + 1];
        for gap in &self.gaps {
            let bucket = BUCKETS_MS.partition_point(|most| u128::from(*most) < gap.as_millis());
            if let Some(count) = counts.get_mut(bucket) {
                *count += 1;
            }
        }
        counts
    }
}

/// Upper bounds of the histogram of gaps, in milliseconds: those that the promises name are among them.
pub const BUCKETS_MS: [u64; 8] = [100, 150, 250, 500, 1000, 1500, 3000, 10_000];

/// The time that so many of a thousand do not exceed.
pub fn quantile(ascending: &[Duration], thousandths: usize) -> Duration {
    let place = (ascending.len() * thousandths).div_ceil(1000).max(1) - 1;
    ascending.get(place).copied().unwrap_or_default()
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
    /// Acknowledged and missing at a subscriber that should have it, over all subscribers.
    pub lost: usize,
    /// QoS 0 messages that were sent, and that came to one of their receivers.
    pub thrown: (usize, usize),
    /// Wills that were stored, and that came.
    pub wills: (usize, usize),
    /// Probes of the barrier whose message came.
    pub probes: usize,
    /// Acknowledged messages for the share group, and copies of them at its members.
    pub shared: (usize, usize),
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
        let overlap =
            |one: &&Published| one.ok.is_some_and(|ok| one.invoke <= fault.recovered && ok >= fault.injected);
        kind.open.0 += publishes().filter(overlap).filter(|one| one.sent > 1).count();
        kind.open.1 += publishes().filter(overlap).count();
        kind.answers.extend(publishes().filter_map(|one| overlapping(one, fault.injected, fault.recovered)));
        kind.gaps.extend(index.publishers.values().map(|publishes| gap(publishes.values(), fault)));
    }
    for kind in kinds.values_mut() {
        kind.answers.sort_unstable();
        kind.gaps.sort_unstable();
    }
    kinds
}

fn overlapping(one: &Published, begin: Moment, end: Moment) -> Option<Duration> {
    let ok = one.ok?;
    (one.invoke <= end && ok >= begin).then(|| ok.since(one.invoke))
}

/// The longest time without an answer to a publisher around a fault.
fn gap<'a>(publishes: impl Iterator<Item = &'a Published>, fault: &Fault) -> Duration {
    let mut answers: Vec<Moment> = publishes.filter_map(|one| one.ok).collect();
    answers.sort_unstable();
    longest(&answers, fault.injected, fault.recovered)
}

/// The longest time between two answers, of ascending ones, from the last before `begin` to the first after `end`.
pub fn longest(answers: &[Moment], begin: Moment, end: Moment) -> Duration {
    // The answers before and after it belong to it.
    let first = answers.partition_point(|at| *at < begin).saturating_sub(1);
    let last = answers.partition_point(|at| *at <= end) + 1;
    let around = answers.get(first..last.min(answers.len())).unwrap_or_default();
    around.windows(2).filter_map(|pair| Some(pair.last()?.since(*pair.first()?))).max().unwrap_or_default()
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
    counts.lost = crate::check::lost(index);
    let shared = &index.shared;
    counts.shared.0 =
        shared.publishers.values().flat_map(BTreeMap::values).filter(|one| one.ok.is_some()).count();
    counts.shared.1 = shared.members.values().map(|member| member.deliveries.len()).sum();
    let mut clients = std::collections::BTreeSet::new();
    for event in events {
        match event.what {
            What::Connected { .. } => counts.reconnects += usize::from(!clients.insert(event.client)),
            What::Repeated { .. } => counts.repeated += 1,
            What::WriteOk { .. } => counts.writes += 1,
            What::ReadOk { .. } => counts.reads += 1,
            What::Flung { .. } => counts.thrown.0 += 1,
            What::Caught { .. } => counts.thrown.1 += 1,
            What::WillStored { .. } => counts.wills.0 += 1,
            What::WillSeen { .. } => counts.wills.1 += 1,
            What::ProbeGot { .. } => counts.probes += 1,
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
            ..Counts::default()
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
            problems: Vec::new(),
        };
        let kinds = around(&index, &[fault(0, 10), fault(1_000_000, 2_000_000)]);
        assert_eq!((kinds["test"].faults, kinds["test"].answers.len(), kinds["test"].terms), (2, 0, 4));
        let all = around(&index, &[fault(0, 1_000_000)]);
        assert_eq!(all["test"].answers.len(), 11);
        assert_eq!(quantile(&all["test"].answers, 500), Duration::from_millis(1));
        assert_eq!(
            quantile(&all["test"].answers, 1000),
            Duration::from_millis(5),
            "the one that was sent twice"
        );
        assert_eq!(all["test"].gaps.len(), 2);
        assert_eq!(all["test"].histogram(), [2, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(all["test"].open, (1, 11));
    }

    #[test]
    fn a_gap_reaches_from_the_last_answer_before_a_fault_to_the_first_after_it() {
        let one = |ok: u64| Published {
            invoke: Moment(ok),
            qos: 1,
            sent: 1,
            ok: Some(Moment(ok)),
            failed: false,
            complete: false,
        };
        let publishes = [one(0), one(1000), one(5000), one(5500), one(20_000)];
        let fault = Fault {
            name: "test",
            injected: Moment(1500),
            recovered: Moment(4000),
            recovery: Duration::ZERO,
            terms: 0,
            proof: String::new(),
            problems: Vec::new(),
        };
        assert_eq!(gap(publishes.iter(), &fault), Duration::from_micros(4000));
        assert_eq!(gap(publishes.iter().take(1), &fault), Duration::ZERO, "nothing after it");
    }
}
