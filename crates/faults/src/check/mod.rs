//! Checkers: each reads a whole history and says what in it breaks a promise.
//!
//! Owns: the list of checkers and the shape of what they find. Does not: read clocks, files or nodes.
//! Invariants: a checker is a pure function of the events; each is proven by doctored histories that it must flag. What has
//! no answer is open: it may have happened at any time after its begin, or never.
//! Limits: `EXAMPLES_MAX` findings of one checker are told, the others are counted.

mod answers;
mod barrier;
mod calm;
mod coverage;
mod duplicates;
mod expiry;
mod flights;
mod index;
mod loss;
mod minority;
mod order;
mod owner;
mod phantoms;
mod recovery;
mod retained;
mod sessions;
mod shares;
#[cfg(test)]
pub mod testing;
mod throws;
mod wills;

pub use index::{Index, Published};
pub use recovery::PARTITIONS;

use crate::history::Event;

/// Findings of one checker that are told one by one.
const EXAMPLES_MAX: usize = 5;

/// A checker.
#[derive(Clone, Copy)]
pub struct Checker {
    /// What it is called in reports.
    pub name: &'static str,
    /// The promises that it checks.
    pub promises: &'static str,
    /// What breaks them, as lines; empty when nothing does.
    pub find: Find,
    /// The same of a history that was cut before everything had its end, if anything can be said of one.
    pub find_of_cut: Option<Find>,
}

/// What breaks a promise in a history, as lines.
pub type Find = fn(&[Event], &Index) -> Vec<String>;

const fn checker(name: &'static str, promises: &'static str, find: Find) -> Checker {
    Checker { name, promises, find, find_of_cut: Some(find) }
}

/// All checkers.
pub const CHECKERS: [Checker; 17] = [
    Checker { find_of_cut: None, ..checker("loss", "D1", loss::find) },
    checker("phantoms", "D2", phantoms::find),
    checker("duplicates", "D3, D4, D5, D6", duplicates::find),
    checker("flights", "D7", flights::find),
    checker("throws", "D8", throws::find),
    checker("retained", "D9", retained::find),
    Checker { find_of_cut: Some(barrier::find_of_cut), ..checker("barrier", "D10", barrier::find) },
    checker("sessions", "D11", sessions::find),
    checker("owner", "D11", owner::find),
    Checker { find_of_cut: Some(wills::find_of_cut), ..checker("wills", "D12", wills::find) },
    checker("expiry", "D13", expiry::find),
    Checker { find_of_cut: Some(shares::find_of_cut), ..checker("shares", "D14", shares::find) },
    checker("order", "D15", order::find),
    checker("minority", "no acknowledgement without a majority", minority::find),
    checker("recovery", "leaders while nodes are cut off and after healing", recovery::find),
    Checker {
        find_of_cut: None,
        ..checker("coverage", "that checkers have something to check", coverage::find)
    },
    Checker { find_of_cut: None, ..checker("answers", "no stuck operation", answers::find) },
];

/// What a checker found, in few lines.
pub fn told(mut found: Vec<String>) -> Vec<String> {
    let count = found.len();
    if count > EXAMPLES_MAX {
        found.truncate(EXAMPLES_MAX);
        found.push(format!("and {} more", count - EXAMPLES_MAX));
    }
    found
}

/// Whether everything that must come has come: what a run waits for before it judges.
pub fn nothing_missing(events: &[Event]) -> bool {
    let index = Index::of(events);
    [loss::find, barrier::find, wills::find, shares::find].iter().all(|find| find(events, &index).is_empty())
}

/// Acknowledged messages that are missing at a subscriber, over all subscribers.
pub fn lost(index: &Index) -> usize {
    loss::missing(index).map(|(_, _, missing)| missing.len()).sum()
}
