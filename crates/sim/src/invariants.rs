//! The promises, one file each: pure functions over the record of a run.
//!
//! Owns: the list of checkers and what a broken promise looks like. Does not: watch a run; the record has all there is.
//! Invariants: every checker is tested with a doctored record that it must flag.
//! See: docs/simulation.md.

mod at_most_once;
mod backup_cut;
mod committed_before_leading;
mod duplicates;
mod election_safety;
mod entry_per_publish;
mod exactly_once;
mod log_matching;
mod no_acked_loss;
mod no_phantom;
mod one_owner;
mod order;
mod packet_identifiers;
mod retained;
mod session_expiry;
mod session_present;
mod share_groups;
mod state_machine_safety;
mod subscription_barrier;
mod subscriptions;
#[cfg(test)]
mod testing;
mod wills;

use core::time::Duration;

use crate::oracle::History;

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// When it showed.
    pub at: Duration,
    /// What was seen.
    pub what: String,
}

impl Broken {
    fn new(at: Duration, what: String) -> Broken {
        Broken { at, what }
    }
}

/// A checker.
pub type Check = fn(&History) -> Result<(), Broken>;

/// All of them, by the name of the promise.
pub const ALL: [(&str, Check); 20] = [
    ("raft-election-safety", election_safety::check),
    ("raft-log-matching", log_matching::check),
    ("raft-leader-completeness", committed_before_leading::check),
    ("raft-state-machine-safety", state_machine_safety::check),
    ("backup-cut", backup_cut::check),
    ("D1-no-acked-loss", no_acked_loss::check),
    ("D2-no-phantom", no_phantom::check),
    ("D3-D6-exactly-once", exactly_once::check),
    ("D4-one-entry-per-publish", entry_per_publish::check),
    ("D5-bounded-duplicates", duplicates::check),
    ("D7-packet-identifiers", packet_identifiers::check),
    ("D8-at-most-once", at_most_once::check),
    ("D9-retained-register", retained::check),
    ("D10-subscription-barrier", subscription_barrier::check),
    ("D11-one-owner", one_owner::check),
    ("D11-session-present", session_present::check),
    ("D12-wills", wills::check),
    ("D13-session-expiry", session_expiry::check),
    ("D14-share-groups", share_groups::check),
    ("D15-order", order::check),
];

/// The promises that a record breaks.
pub fn check(history: &History) -> Vec<(&'static str, Broken)> {
    ALL.iter().filter_map(|(name, check)| check(history).err().map(|broken| (*name, broken))).collect()
}
