//! Leaders that fall silent while their links stay up.

use super::*;
use crate::limits::{ELECTION_TICKS, HEIR_JITTER_TICKS};

impl World {
    /// Leader and term of each group as this node knows them.
    fn leaders(&self, node: NodeId) -> BTreeMap<GroupId, (Option<NodeId>, u64)> {
        let status = self.members[&node].node.status(false, self.now);
        status.groups.iter().map(|group| (group.group, (group.leader, group.term))).collect()
    }
}

#[test]
fn silent_leader_is_replaced_by_one_election_and_not_by_two_that_split_the_votes() {
    for seed in 1..=20 {
        let mut world = World::with_seed(3, seed);
        world.until("ready", World::ready);
        let silent = world.leader_of_control();
        let others: Vec<NodeId> = world.members.keys().copied().filter(|node| *node != silent).collect();
        let before = world.leaders(others[0]);
        for other in &others {
            world.cut.extend([(silent, *other), (*other, silent)]);
        }
        let begun = world.now;
        let is_other = |leader: Option<NodeId>| leader.is_some_and(|leader| leader != silent);
        world.until("the others lead everything", |world| {
            others.iter().all(|node| world.leaders(*node).values().all(|(leader, _)| is_other(*leader)))
        });
        let took = (world.now - begun).as_millis() / limits::TICK.as_millis();
        // Until the first tick, and until the second one hears of it.
        let most = ELECTION_TICKS + HEIR_JITTER_TICKS + 2;
        assert!(took <= most as u128, "seed {seed}: {took} ticks");
        let after = world.leaders(others[0]);
        for (group, (leader, term)) in before {
            let elections = u64::from(leader == Some(silent));
            assert_eq!(after[&group].1, term + elections, "seed {seed}, group {group}");
        }
    }
}
