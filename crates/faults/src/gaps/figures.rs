//! The gaps that were measured, and their table.
//!
//! Owns: which publishers are counted together, quantiles, text. Does not: measure.
//! Invariants: no gap is left out; a quantile is not given of too few gaps to have it. Limits: see `P99_GAPS_MIN`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::Fault;
use super::load::FRESH;
use crate::history::Moment;
use crate::measure::{longest, quantile};

/// With fewer gaps there is no p99 that is not just the longest.
const P99_GAPS_MIN: usize = 100;

/// Where a publisher is, as seen from the node that a fault is injected at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seat {
    /// It is connected to another node, and that node leads what its messages are written to.
    Led,
    /// It is connected to that node.
    OnVictim,
    /// It is connected to another node, and another one leads.
    Beside,
}

impl Seat {
    /// In the table.
    fn text(self) -> &'static str {
        match self {
            Seat::Led => "on another node, led by this one",
            Seat::OnVictim => "on this node",
            Seat::Beside => "on another node, led by another",
        }
    }
}

/// The gap of one publisher around one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the publisher is.
    pub seat: Seat,
    /// The longest time between two answers.
    pub time: Duration,
    /// It had no answers any more when the fault was ended: without that, the gap would have been longer.
    pub cut_short: bool,
}

/// The gap in ascending answers around a fault that lasted from `injected` to `healed`.
pub fn gap(seat: Seat, answers: &[Moment], injected: Moment, healed: Moment) -> Gap {
    let before = answers.partition_point(|at| *at < healed);
    let last = before.checked_sub(1).and_then(|place| answers.get(place)).copied().unwrap_or_default();
    Gap { seat, time: longest(answers, injected, healed), cut_short: healed.since(last) >= FRESH }
}

/// All gaps, by fault, broker and seat.
#[derive(Debug, Default)]
pub struct Figures {
    brokers: Vec<String>,
    faults: BTreeMap<(Fault, usize), usize>,
    gaps: BTreeMap<(Fault, usize, Seat), Vec<Gap>>,
}

impl Figures {
    /// Takes the gaps of one fault. Brokers keep the order in which they came first.
    pub fn take(&mut self, broker: &str, fault: Fault, gaps: &[Gap]) {
        let place = self.brokers.iter().position(|known| known == broker).unwrap_or(self.brokers.len());
        if place == self.brokers.len() {
            self.brokers.push(broker.to_owned());
        }
        *self.faults.entry((fault, place)).or_default() += 1;
        for gap in gaps {
            self.gaps.entry((fault, place, gap.seat)).or_default().push(*gap);
        }
    }

    /// The table, as a page has it.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| fault | broker | publishers | faults | gaps | p50, ms | p99, ms | longest, ms | not answered before the end |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        for ((fault, place, seat), gaps) in &self.gaps {
            let mut times: Vec<Duration> = gaps.iter().map(|gap| gap.time).collect();
            times.sort_unstable();
            let ms = |thousandths| quantile(&times, thousandths).as_millis().to_string();
            let p99 = if times.len() < P99_GAPS_MIN { "–".to_owned() } else { ms(990) };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {p99} | {} | {} |",
                fault.name(),
                self.brokers.get(*place).map_or("", String::as_str),
                seat.text(),
                self.faults.get(&(*fault, *place)).copied().unwrap_or_default(),
                times.len(),
                ms(500),
                ms(1000),
                gaps.iter().filter(|gap| gap.cut_short).count(),
            );
        }
        text
    }
}

/// Gaps of a fault in a line: the longest of each seat.
pub fn line(gaps: &[Gap]) -> String {
    let mut seats: BTreeMap<Seat, Vec<String>> = BTreeMap::new();
    for gap in gaps {
        let more = if gap.cut_short { "+" } else { "" };
        seats.entry(gap.seat).or_default().push(format!("{}{more}", gap.time.as_millis()));
    }
    let told: Vec<String> =
        seats.iter().map(|(seat, times)| format!("{}: {} ms", seat.text(), times.join(" "))).collect();
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each 10 ms, but none between two times, all in milliseconds.
    fn answers(gap: std::ops::Range<u64>, end: u64) -> Vec<Moment> {
        (0..=end).step_by(10).filter(|at| !gap.contains(at)).map(|at| Moment(at * 1000)).collect()
    }

    fn of(answers: &[Moment], injected: u64, healed: u64) -> (u128, bool) {
        let gap = gap(Seat::Led, answers, Moment(injected * 1000), Moment(healed * 1000));
        (gap.time.as_millis(), gap.cut_short)
    }

    #[test]
    fn gap_begins_with_the_last_answer_before_the_fault() {
        assert_eq!(of(&answers(1001..1300, 4000), 1005, 3000), (300, false));
    }

    #[test]
    fn gap_that_outlasts_the_fault_is_measured_to_its_end_and_marked() {
        assert_eq!(of(&answers(1001..3450, 4000), 1005, 3000), (2450, true));
    }

    #[test]
    fn gap_before_or_after_the_fault_does_not_count() {
        assert_eq!(of(&answers(101..900, 4000), 1005, 3000), (10, false));
        assert_eq!(of(&answers(3101..3900, 4000), 1005, 3000), (10, false));
    }

    #[test]
    fn gap_that_begins_late_in_the_fault_counts() {
        assert_eq!(of(&answers(2001..2200, 4000), 1005, 3000), (200, false));
    }

    #[test]
    fn gap_that_begins_within_the_fault_and_outlasts_it_is_marked() {
        assert_eq!(of(&answers(2001..3450, 4000), 1005, 3000), (1450, true));
        assert_eq!(of(&answers(2801..3050, 4000), 1005, 3000), (250, false), "just a pause at its end");
    }

    #[test]
    fn table_has_a_row_for_each_fault_broker_and_seat_and_no_p99_of_few() {
        let of = |seat, ms, cut_short| Gap { seat, time: Duration::from_millis(ms), cut_short };
        let mut figures = Figures::default();
        figures.take("b", Fault::Stopped, &[of(Seat::Led, 7000, true)]);
        figures.take("a", Fault::Killed, &[of(Seat::Beside, 9, false), of(Seat::Led, 300, false)]);
        figures.take("a", Fault::Killed, &[of(Seat::Led, 100, false)]);
        let hundred: Vec<Gap> = (1..=100).map(|ms| of(Seat::Led, ms, false)).collect();
        figures.take("b", Fault::Killed, &hundred);
        let rows: Vec<String> = figures.table().lines().skip(2).map(str::to_owned).collect();
        assert_eq!(
            rows,
            [
                "| leader-killed | b | on another node, led by this one | 1 | 100 | 50 | 99 | 100 | 0 |",
                "| leader-killed | a | on another node, led by this one | 2 | 2 | 100 | – | 300 | 0 |",
                "| leader-killed | a | on another node, led by another | 2 | 1 | 9 | – | 9 | 0 |",
                "| leader-stopped | b | on another node, led by this one | 1 | 1 | 7000 | – | 7000 | 1 |",
            ]
        );
    }
}
