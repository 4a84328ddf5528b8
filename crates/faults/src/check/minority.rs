//! A node without contact to a majority acknowledges nothing.
//!
//! Owns: acknowledgements by the nodes that a fault silenced, while it lasted. Does not: know faults; the history says which nodes.
//! Limits: `CONTACT_LOST_AFTER` from the fault on, what was on its way may still be acknowledged.

use std::time::Duration;

use super::Index;
use crate::history::{Event, HARNESS, Moment, What};

/// So long after it lost contact, a node must know. What it answered just before may take the clients some time to read.
const CONTACT_LOST_AFTER: Duration = Duration::from_millis(1500);

/// Acknowledgements by silenced nodes.
pub fn find(events: &[Event], _index: &Index) -> Vec<String> {
    let mut silenced: Option<(Moment, &[usize])> = None;
    let mut lines = Vec::new();
    for event in events {
        match &event.what {
            What::FaultOk { silenced: nodes } if event.client == HARNESS => {
                silenced = Some((event.at, nodes))
            }
            What::HealInvoke => silenced = None,
            What::PublishOk { sequence, node } => {
                let Some((since, nodes)) = silenced else { continue };
                let after = event.at.since(since);
                if after > CONTACT_LOST_AFTER && nodes.contains(node) {
                    lines.push(format!(
                        "publisher {}: {sequence} was acknowledged by node {} {} ms after it was cut off",
                        event.client,
                        node + 1,
                        after.as_millis()
                    ));
                }
            }
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, found, place, sound};
    use super::*;

    fn heal(whats: &[(u16, What)]) -> usize {
        place(whats, &(HARNESS, What::HealInvoke))
    }

    /// Time passes, then node 3 acknowledges.
    fn late(node: usize) -> impl Iterator<Item = (u16, What)> {
        let filling = (100..1700).map(|sequence| (0, What::PublishInvoke { sequence, qos: 1 }));
        filling.chain([(0, What::PublishOk { sequence: 1600, node })])
    }

    #[test]
    fn an_acknowledgement_by_a_node_that_is_cut_off_is_flagged() {
        check(find, "1600 was acknowledged by node 3", |whats| {
            let heal = heal(whats);
            whats.splice(heal..heal, late(2));
        });
    }

    #[test]
    fn others_and_later_ones_may_acknowledge() {
        let mut whats = sound();
        let heal = heal(&whats);
        whats.splice(heal..heal, late(1));
        whats.extend(late(2));
        assert_eq!(found(find, whats), Vec::<String>::new());
    }
}
