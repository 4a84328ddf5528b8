//! Election safety: at most one leader of a group in a term.
//!
//! Source: Raft (Ongaro, 2014), 3.2 and figure 3.2.

use std::collections::BTreeMap;

use super::Broken;
use crate::oracle::{Event, History};

pub fn check(history: &History) -> Result<(), Broken> {
    let mut leaders: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for entry in &history.entries {
        if let Event::Leading { node, group, term, .. } = entry.event {
            let leader = *leaders.entry((group, term)).or_insert(node);
            if leader != node {
                let what = format!("nodes {leader} and {node} both led group {group} in term {term}");
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
    fn two_leaders_of_one_term_are_flagged() {
        let leading = |node, term| Event::Leading { node, group: 1, term, committed: Vec::new() };
        judge(check, vec![leading(1, 2), leading(2, 3)], vec![leading(1, 2), leading(2, 2)]);
    }
}
