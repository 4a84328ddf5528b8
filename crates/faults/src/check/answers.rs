//! No operation is stuck: at the end of a run every publish has its answer.
//!
//! Owns: that. Does not: apply to a history that was cut.
//! Invariants: publishers send again until they are answered, and the nodes have been whole for a while at the end.

use super::Index;
use crate::history::Event;

/// Publishes without an answer, and releases without PUBCOMP.
pub fn find(_events: &[Event], index: &Index) -> Vec<String> {
    let mut lines = Vec::new();
    for (publisher, publishes) in &index.publishers {
        for (sequence, one) in publishes {
            if one.ok.is_none() && !one.failed {
                lines.push(format!("publisher {publisher}: {sequence} has no answer"));
            } else if one.qos == 2 && one.ok.is_some() && !one.complete {
                lines.push(format!("publisher {publisher}: {sequence} has no PUBCOMP"));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, place};
    use super::*;
    use crate::history::What;

    #[test]
    fn what_has_no_last_answer_is_flagged() {
        check(find, "publisher 0: 7 has no answer", |whats| {
            whats.push((0, What::PublishInvoke { sequence: 7, qos: 1 }));
        });
        check(find, "publisher 1: 3 has no PUBCOMP", |whats| {
            let place = place(whats, &(1, What::PublishComplete { sequence: 3 }));
            whats.remove(place);
        });
    }
}
