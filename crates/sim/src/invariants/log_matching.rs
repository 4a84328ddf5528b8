//! Log matching: entries of one index and term are equal in all logs, and committed ones are in all that hold the index.
//!
//! Source: Raft, 3.2 and 3.5.

use std::collections::BTreeMap;

use super::Broken;
use crate::oracle::{Event, History};

pub fn check(history: &History) -> Result<(), Broken> {
    let mut entries: BTreeMap<(u32, u64, u64), (u64, u64)> = BTreeMap::new();
    for entry in &history.entries {
        if let Event::LogEntry { node, group, index, term, hash } = entry.event {
            let (first, known) = *entries.entry((group, index, term)).or_insert((node, hash));
            if known != hash {
                let what = format!(
                    "entry {index} of group {group} in term {term} differs on nodes {first} and {node}"
                );
                return Err(Broken::new(entry.at, what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::judge;

    #[test]
    fn different_entries_of_one_index_and_term_are_flagged() {
        let held = |node, hash| Event::LogEntry { node, group: 1, index: 5, term: 2, hash };
        judge(check, vec![held(1, 7), held(2, 7)], vec![held(1, 7), held(2, 8)]);
    }
}
