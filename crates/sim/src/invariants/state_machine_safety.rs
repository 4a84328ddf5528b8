//! State machine safety: replicas that have applied the same have the same state.
//!
//! Source: Raft, 3.6.3; contract, "Checkers" (equal state hash at equal applied index).

use std::collections::BTreeMap;

use super::Broken;
use crate::oracle::{Event, History};

pub fn check(history: &History) -> Result<(), Broken> {
    let mut hashes: BTreeMap<(u32, u64), (u64, u64)> = BTreeMap::new();
    for entry in &history.entries {
        if let Event::StateHash { node, group, applied, hash } = entry.event {
            let (first, known) = *hashes.entry((group, applied)).or_insert((node, hash));
            if known != hash {
                let what = format!("group {group} differs on nodes {first} and {node} after entry {applied}");
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
    fn different_states_after_one_entry_are_flagged() {
        let state = |node, hash| Event::StateHash { node, group: 1, applied: 5, hash };
        judge(check, vec![state(1, 7), state(2, 7)], vec![state(1, 7), state(2, 8)]);
    }
}
