//! Checkers: each reads a whole history and says what in it breaks a promise.
//!
//! Owns: the list of checkers and the shape of what they find. Does not: read clocks, files or nodes.
//! Invariants: a checker is a pure function of the events; each is proven by doctored histories that it must flag. What has
//! no answer is open: it may have happened at any time after its begin, or never.
//! Limits: `EXAMPLES_MAX` findings of one checker are told, the others are counted.

mod answers;
mod duplicates;
mod index;
mod loss;
mod minority;
mod order;
mod phantoms;
mod retained;
mod sessions;
#[cfg(test)]
pub mod testing;

pub use index::{Index, Published};

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
    /// Whether it says anything of a history that was cut before everything had its end.
    pub of_cut: bool,
    /// What breaks them, as lines; empty when nothing does.
    pub find: fn(&[Event], &Index) -> Vec<String>,
}

/// All checkers.
pub const CHECKERS: [Checker; 8] = [
    Checker { name: "loss", promises: "D1", of_cut: false, find: loss::find },
    Checker { name: "phantoms", promises: "D2", of_cut: true, find: phantoms::find },
    Checker { name: "duplicates", promises: "D3, D4, D5, D6", of_cut: true, find: duplicates::find },
    Checker { name: "retained", promises: "D9", of_cut: true, find: retained::find },
    Checker { name: "sessions", promises: "D11", of_cut: true, find: sessions::find },
    Checker { name: "order", promises: "D15", of_cut: true, find: order::find },
    Checker {
        name: "minority",
        promises: "no acknowledgement without a majority",
        of_cut: true,
        find: minority::find,
    },
    Checker { name: "answers", promises: "no stuck operation", of_cut: false, find: answers::find },
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

/// Whether everything acknowledged has reached every subscriber: what a run waits for before it judges.
pub fn nothing_missing(events: &[Event]) -> bool {
    let index = Index::of(events);
    loss::find(events, &index).is_empty()
}
