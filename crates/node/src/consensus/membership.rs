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

/// The next change that brings `state` closer to `wanted`, if one is possible now. `matched` gives how far a member's
/// log is known to agree with the leader's.
pub fn next_change(
    state: &ConfState,
    wanted: &[NodeId],
    committed: u64,
    matched: impl Fn(NodeId) -> u64,
) -> Option<ConfChangeV2> {
    if wanted.is_empty() || !state.voters_outgoing.is_empty() {
        return None;
    }
    let missing: Vec<u64> =
        wanted.iter().map(|node| node.0).filter(|node| !state.voters.contains(node)).collect();
    if let Some(node) = missing.iter().find(|node| !state.learners.contains(node)) {
        return Some(change(&[(ConfChangeType::AddLearnerNode, *node)]));
    }
    let behind = |node: &u64| {
        matched(NodeId(*node)) + CAUGHT_UP_ENTRIES_MAX < committed || matched(NodeId(*node)) == 0
    };
    if missing.iter().any(behind) {
        return None;
    }
    let mut steps: Vec<(ConfChangeType, u64)> =
        missing.iter().map(|node| (ConfChangeType::AddNode, *node)).collect();
    let unwanted = |node: &&u64| !wanted.contains(&NodeId(**node));
    steps.extend(state.voters.iter().filter(unwanted).map(|node| (ConfChangeType::RemoveNode, *node)));
    steps.extend(state.learners.iter().filter(unwanted).map(|node| (ConfChangeType::RemoveNode, *node)));
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

    #[test]
    fn change_wanted_voter_becomes_learner_first() {
        let wanted = [NodeId(1), NodeId(2), NodeId(4)];
        let next = next_change(&state(&[1, 2, 3], &[]), &wanted, 1000, |_| 0);
        assert_eq!(steps(next), [(ConfChangeType::AddLearnerNode, 4)]);
    }

    #[test]
    fn change_learner_behind_waits() {
        let wanted = [NodeId(1), NodeId(2), NodeId(4)];
        let next = next_change(&state(&[1, 2, 3], &[4]), &wanted, 1000, |_| 500);
        assert_eq!(steps(next), []);
    }

    #[test]
    fn change_learner_caught_up_replaces_voter_at_once() {
        let wanted = [NodeId(1), NodeId(2), NodeId(4)];
        let next = next_change(&state(&[1, 2, 3], &[4]), &wanted, 1000, |_| 990);
        assert_eq!(steps(next), [(ConfChangeType::AddNode, 4), (ConfChangeType::RemoveNode, 3)]);
    }

    #[test]
    fn change_none_while_joint_or_done() {
        let wanted = [NodeId(1), NodeId(2), NodeId(3)];
        assert_eq!(steps(next_change(&state(&[1, 2, 3], &[]), &wanted, 10, |_| 10)), []);
        let mut joint = state(&[1, 2, 4], &[]);
        joint.voters_outgoing = vec![1, 2, 3];
        assert_eq!(steps(next_change(&joint, &wanted, 10, |_| 10)), []);
    }

    #[test]
    fn change_encoded_decodes_to_itself() {
        let wanted = [NodeId(1), NodeId(2), NodeId(4)];
        let next = next_change(&state(&[1, 2, 3], &[4]), &wanted, 10, |_| 10).unwrap();
        assert_eq!(decode(Bytes::from(encode(&next))).unwrap(), next);
        assert_eq!(decode(Bytes::new()).unwrap(), ConfChangeV2::default());
    }
}
