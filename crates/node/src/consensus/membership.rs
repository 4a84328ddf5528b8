//! Membership changes: which one a group needs next, and how it stands in an entry.
//!
//! Owns: the step from a group's membership to the wanted one. Does not: decide who is wanted; control does.
//! Invariants: a new voter is a learner first and is promoted only when caught up; voters change by joint consensus.
//! Spec: Raft 4.3. See: docs/decisions/0002-consensus-engine.md.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_state::NodeId;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};

use crate::bytes_io::{Malformed, Reader, put_count};

/// Entries a learner may be behind the commit index when it is promoted.
pub const CAUGHT_UP_ENTRIES_MAX: u64 = 256;

/// What a leader knows when it takes the next step.
pub struct Situation<'a, M, S> {
    /// The leader, which takes the step.
    pub me: NodeId,
    /// Commit index.
    pub committed: u64,
    /// How far a member's log is known to agree with the leader's.
    pub matched: M,
    /// Whether a node is there: it is live as far as control knows, and has a link.
    pub is_there: S,
    /// Who is to vote.
    pub wanted: &'a [NodeId],
    /// Each new voter is one more; else it comes for one that goes, which stays until then.
    pub independent: bool,
}

/// The next change that brings `state` closer to what is wanted, if one is possible now. A leader that is not wanted leaves
/// the last step to a wanted voter: see `leadership`.
pub fn next_change<M, S>(state: &ConfState, situation: &Situation<'_, M, S>) -> Option<ConfChangeV2>
where
    M: Fn(NodeId) -> u64,
    S: Fn(NodeId) -> bool,
{
    let Situation { me, committed, matched, is_there, wanted, independent } = situation;
    if wanted.is_empty() || !state.voters_outgoing.is_empty() {
        return None;
    }
    let missing: Vec<u64> =
        wanted.iter().map(|node| node.0).filter(|node| !state.voters.contains(node)).collect();
    if let Some(node) = missing.iter().find(|node| !state.learners.contains(node)) {
        return Some(change(&[(ConfChangeType::AddLearnerNode, *node)]));
    }
    let is_ready = |node: &u64| {
        let at = matched(NodeId(*node));
        at != 0 && at + CAUGHT_UP_ENTRIES_MAX >= *committed && is_there(NodeId(*node))
    };
    let ready: Vec<u64> = missing.iter().copied().filter(is_ready).collect();
    let comes_alone = !wanted.contains(me) && !state.voters.iter().any(|id| wanted.contains(&NodeId(*id)));
    if ready.len() < missing.len() && !independent && !comes_alone {
        return None;
    }
    let mut steps: Vec<(ConfChangeType, u64)> =
        ready.iter().map(|node| (ConfChangeType::AddNode, *node)).collect();
    if wanted.contains(me) {
        let unwanted = |node: &&u64| !wanted.contains(&NodeId(**node));
        steps.extend(state.voters.iter().filter(unwanted).map(|node| (ConfChangeType::RemoveNode, *node)));
        steps.extend(state.learners.iter().filter(unwanted).map(|node| (ConfChangeType::RemoveNode, *node)));
    } else if !comes_alone {
        return None;
    }
    if steps.is_empty() { None } else { Some(change(&steps)) }
}

fn change(steps: &[(ConfChangeType, u64)]) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    change.set_transition(ConfChangeTransition::Auto);
    let singles: Vec<ConfChangeSingle> = steps
        .iter()
        .map(|(kind, node)| {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(*kind);
            single.node_id = *node;
            single
        })
        .collect();
    change.set_changes(singles.into());
    change
}

/// Encodes a change for the context of its entry: what is applied is decoded from there, never from protobuf.
pub fn encode(change: &ConfChangeV2) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_count(&mut out, change.changes.len());
    for single in change.changes.iter() {
        out.put_u8(match single.get_change_type() {
            ConfChangeType::AddNode => 0,
            ConfChangeType::RemoveNode => 1,
            ConfChangeType::AddLearnerNode => 2,
        });
        out.put_u64_le(single.node_id);
    }
    out.to_vec()
}

/// Decodes a change. The empty context is the change that leaves the joint membership: Raft proposes it itself.
///
/// # Errors
/// [`Malformed`] when the bytes are not an encoded change.
pub fn decode(context: Bytes) -> Result<ConfChangeV2, Malformed> {
    if context.is_empty() {
        return Ok(ConfChangeV2::default());
    }
    let mut reader = Reader(context);
    let mut steps = Vec::new();
    for _ in 0..reader.count(9, "membership change count")? {
        let kind = match reader.u8("membership change kind")? {
            0 => ConfChangeType::AddNode,
            1 => ConfChangeType::RemoveNode,
            2 => ConfChangeType::AddLearnerNode,
            _ => return Err(Malformed("membership change kind")),
        };
        steps.push((kind, reader.u64("membership change node")?));
    }
    reader.finish("trailing bytes after a membership change")?;
    Ok(change(&steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() }
    }

    fn steps(change: Option<ConfChangeV2>) -> Vec<(ConfChangeType, u64)> {
        change
            .map(|change| change.changes.iter().map(|s| (s.get_change_type(), s.node_id)).collect())
            .unwrap_or_default()
    }

    /// What the leader does next: node 1 unless said otherwise, with everybody there.
    fn next(
        (me, wanted): (u64, &[u64]),
        state: &ConfState,
        independent: bool,
        matched: impl Fn(NodeId) -> u64,
    ) -> Vec<(ConfChangeType, u64)> {
        let wanted: Vec<NodeId> = wanted.iter().copied().map(NodeId).collect();
        let is_there = |node: NodeId| node.0 < 90;
        let committed = 1000;
        let me = NodeId(me);
        let situation = Situation { me, committed, matched, is_there, wanted: &wanted, independent };
        steps(next_change(state, &situation))
    }

    #[test]
    fn change_wanted_voter_becomes_learner_first() {
        let next = next((1, &[1, 2, 4]), &state(&[1, 2, 3], &[]), false, |_| 0);
        assert_eq!(next, [(ConfChangeType::AddLearnerNode, 4)]);
    }

    #[test]
    fn change_learner_behind_or_away_waits() {
        assert_eq!(next((1, &[1, 2, 4]), &state(&[1, 2, 3], &[4]), false, |_| 500), []);
        assert_eq!(next((1, &[1, 2, 90]), &state(&[1, 2, 3], &[90]), false, |_| 990), []);
    }

    #[test]
    fn change_learner_caught_up_replaces_voter_at_once() {
        let next = next((1, &[1, 2, 4]), &state(&[1, 2, 3], &[4]), false, |_| 990);
        assert_eq!(next, [(ConfChangeType::AddNode, 4), (ConfChangeType::RemoveNode, 3)]);
    }

    #[test]
    fn change_of_an_independent_group_waits_for_nobody() {
        let matched = |node: NodeId| if node.0 == 4 { 990 } else { 0 };
        let waiting = state(&[1, 2, 3], &[4, 5]);
        assert_eq!(next((1, &[1, 2, 4, 5]), &waiting, false, matched), []);
        let steps = next((1, &[1, 2, 4, 5]), &waiting, true, matched);
        assert_eq!(steps, [(ConfChangeType::AddNode, 4), (ConfChangeType::RemoveNode, 3)]);
    }

    #[test]
    fn leader_that_is_not_wanted_leaves_its_removal_to_a_wanted_voter() {
        let ready = state(&[1, 2, 3], &[4]);
        assert_eq!(next((3, &[1, 2, 4]), &ready, false, |_| 990), []);
        // A lone voter takes its successor in, and hands on.
        assert_eq!(next((3, &[4]), &state(&[3], &[4]), false, |_| 990), [(ConfChangeType::AddNode, 4)]);
        assert_eq!(next((3, &[4]), &state(&[3, 4], &[]), false, |_| 990), []);
        assert_eq!(next((4, &[4]), &state(&[3, 4], &[]), false, |_| 990), [(ConfChangeType::RemoveNode, 3)]);
    }

    #[test]
    fn change_none_while_joint_or_done() {
        assert_eq!(next((1, &[1, 2, 3]), &state(&[1, 2, 3], &[]), false, |_| 1000), []);
        let mut joint = state(&[1, 2, 4], &[]);
        joint.voters_outgoing = vec![1, 2, 3];
        assert_eq!(next((1, &[1, 2, 3]), &joint, false, |_| 1000), []);
    }

    #[test]
    fn change_encoded_decodes_to_itself() {
        let next = change(&[(ConfChangeType::AddNode, 4), (ConfChangeType::RemoveNode, 3)]);
        assert_eq!(decode(Bytes::from(encode(&next))).unwrap(), next);
        assert_eq!(decode(Bytes::new()).unwrap(), ConfChangeV2::default());
    }
}
