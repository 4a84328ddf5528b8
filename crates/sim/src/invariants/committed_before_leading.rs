//! Leader completeness: what was committed is in the log of every later leader, and two replicas never commit different
//! entries at one index.
//!
//! Source: Raft, 3.6.3 and figure 3.2.

use std::collections::BTreeMap;

use super::Broken;
use crate::oracle::{Event, History};

pub fn check(history: &History) -> Result<(), Broken> {
    let mut commits: BTreeMap<(u32, u64), (u64, u64)> = BTreeMap::new();
    for entry in &history.entries {
        match &entry.event {
            Event::Committed { node, group, index, term } => {
                let (first, known) = *commits.entry((*group, *index)).or_insert((*node, *term));
                if known != *term {
                    let what = format!(
                        "entry {index} of group {group} is committed with term {known} on node {first} and {term} on \
                         node {node}"
                    );
                    return Err(Broken::new(entry.at, what));
                }
            }
            Event::Leading { node, group, term, committed } => {
                if let Some((index, wanted, held)) =
                    committed.iter().find(|(_, term, held)| *held != Some(*term))
                {
                    let what = format!(
                        "node {node} leads group {group} in term {term} with {held:?} at {index}, committed in {wanted}"
                    );
                    return Err(Broken::new(entry.at, what));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::judge;

    #[test]
    fn leader_without_a_committed_entry_is_flagged() {
        let leading = |held| Event::Leading { node: 1, group: 1, term: 4, committed: vec![(9, 3, held)] };
        judge(check, vec![leading(Some(3))], vec![leading(Some(2))]);
        judge(check, vec![leading(Some(3))], vec![leading(None)]);
    }

    #[test]
    fn two_entries_committed_at_one_index_are_flagged() {
        let committed = |node, term| Event::Committed { node, group: 1, index: 9, term };
        judge(check, vec![committed(1, 3), committed(2, 3)], vec![committed(1, 3), committed(2, 4)]);
    }
}
