//! What a node has shown the others of its disk, and whether a disk is older than that.
//!
//! Owns: what counts as shown, and the comparison with what a disk holds. Does not: ask anybody, or decide what becomes of an old disk.
//! Invariants: only what Raft sends after it was durable counts, so a disk that has lost nothing is never older than what it has shown.
//! Limits: one position for each member of each group that is here; it goes with the member, and is not kept over a restart.
//! See: docs/decisions/0043-old-disks.md.

use quorate_state::{GroupId, Incarnation};
use raft::eraftpb::{Message, MessageType};

use crate::Position;
use crate::node::RestoredGroup;

/// How far a replica has gone, as its messages show. A later one in the order is further: terms never go back, and within a term
/// a follower keeps what it has acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Shown {
    /// Term.
    pub term: u64,
    /// Last index of the log that was acknowledged in this term; 0 for none.
    pub acknowledged: u64,
}

impl Shown {
    /// What a message from another replica shows. `None` when it may be sent before its term is durable: a pre-vote promises nothing.
    pub(crate) fn of(message: &Message) -> Option<Shown> {
        let kind = message.get_msg_type();
        let is_pre_vote =
            matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse);
        // Messages of this node's own, forwarded ones among them, have no term.
        if is_pre_vote || message.term == 0 {
            return None;
        }
        let acknowledges = kind == MessageType::MsgAppendResponse && !message.reject;
        Some(Shown { term: message.term, acknowledged: if acknowledges { message.index } else { 0 } })
    }
}

/// What a node knows of how far another one has gone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Witness {
    /// The last incarnation that has made itself known to control; 0 for none.
    pub incarnation: Incarnation,
    /// For each group that is here.
    pub groups: Vec<GroupWitness>,
}

/// What a node knows of a group of another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupWitness {
    /// Group.
    pub group: GroupId,
    /// What the replica there has shown; the first position for nothing.
    pub shown: Shown,
    /// What is committed, as known here.
    pub committed: Position,
}

/// A disk is older than what its node has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Older {
    /// A later incarnation has run.
    #[error("incarnation {known} of this node is known there, and the disk would begin {own}")]
    Incarnation {
        /// The one that is known.
        known: u64,
        /// The one that starts from the disk.
        own: u64,
    },
    /// A replica has gone further than the disk says.
    #[error(
        "it was at term {} with entry {} of group {group} acknowledged, and the disk is at term {} with entry {}",
        shown.term, shown.acknowledged, own.term, own.acknowledged
    )]
    Group {
        /// Group.
        group: GroupId,
        /// What it has shown.
        shown: Shown,
        /// What the disk holds.
        own: Shown,
    },
}

impl Witness {
    /// Whether the disk that `own` begins from, with these groups, is older than what is known here.
    pub fn older(&self, own: Incarnation, groups: &[RestoredGroup]) -> Option<Older> {
        if self.incarnation >= own {
            return Some(Older::Incarnation { known: self.incarnation.0, own: own.0 });
        }
        self.groups.iter().find_map(|witness| {
            let group = groups.iter().find(|group| group.group == witness.group)?;
            let own = Shown {
                term: group.hard_state.0.max(group.checkpoint.term),
                acknowledged: group.last.0.max(group.checkpoint.index),
            };
            // A replica that has yet to get its first snapshot votes for nobody: it may have gone and come again.
            let is_empty = own.acknowledged == 0;
            let shown = witness.shown;
            (!is_empty && own < shown).then_some(Older::Group { group: witness.group, shown, own })
        })
    }

    /// Has these groups elect nobody who lacks what is known here to be committed. A leader shows nobody what it has written itself, and it
    /// counts: a disk may have lost that without being older than what was shown.
    pub fn guard(&self, groups: &mut [RestoredGroup]) {
        for witness in &self.groups {
            for group in groups.iter_mut().filter(|group| group.group == witness.group) {
                group.committed_elsewhere = group.committed_elsewhere.max(witness.committed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_state::LogIndex;

    use super::*;

    fn message(kind: MessageType, term: u64, index: u64) -> Message {
        let mut message = Message { term, index, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    fn disk(group: u32, term: u64, last: u64) -> RestoredGroup {
        RestoredGroup {
            hard_state: (term, 0, 0),
            last: LogIndex(last),
            ..RestoredGroup::empty(GroupId(group))
        }
    }

    fn witness(term: u64, acknowledged: u64) -> Witness {
        let shown = Shown { term, acknowledged };
        let group = GroupWitness { group: GroupId(1), shown, committed: Position { term, index: 40 } };
        Witness { incarnation: Incarnation(3), groups: vec![group] }
    }

    #[test]
    fn acknowledgements_and_terms_are_shown_and_pre_votes_are_not() {
        let shown = |term, acknowledged| Some(Shown { term, acknowledged });
        assert_eq!(Shown::of(&message(MessageType::MsgAppendResponse, 5, 50)), shown(5, 50));
        let mut rejected = message(MessageType::MsgAppendResponse, 5, 50);
        rejected.reject = true;
        assert_eq!(Shown::of(&rejected), shown(5, 0));
        assert_eq!(Shown::of(&message(MessageType::MsgRequestVote, 6, 50)), shown(6, 0));
        assert_eq!(
            Shown::of(&message(MessageType::MsgAppend, 6, 50)),
            shown(6, 0),
            "a leader sends before it has written"
        );
        assert_eq!(Shown::of(&message(MessageType::MsgRequestPreVote, 7, 0)), None);
        assert_eq!(Shown::of(&message(MessageType::MsgRequestPreVoteResponse, 7, 0)), None);
        assert_eq!(Shown::of(&message(MessageType::MsgPropose, 0, 0)), None);
    }

    #[test]
    fn disk_that_lost_an_acknowledged_entry_or_a_term_is_older() {
        let own = Incarnation(4);
        assert_eq!(witness(5, 50).older(own, &[disk(1, 5, 50)]), None);
        assert_eq!(witness(5, 50).older(own, &[disk(1, 6, 45)]), None, "a later leader has cut it");
        assert!(witness(5, 50).older(own, &[disk(1, 5, 49)]).is_some());
        assert!(witness(6, 0).older(own, &[disk(1, 5, 60)]).is_some(), "it may have voted in term 6");
    }

    #[test]
    fn checkpoint_counts_as_what_the_disk_holds() {
        let held = RestoredGroup { checkpoint: Position { index: 50, term: 5 }, ..disk(1, 0, 0) };
        assert_eq!(witness(5, 50).older(Incarnation(4), &[held]), None);
    }

    #[test]
    fn disk_of_an_earlier_incarnation_is_older() {
        let nothing = Witness { incarnation: Incarnation(3), groups: Vec::new() };
        assert_eq!(nothing.older(Incarnation(4), &[disk(1, 5, 50)]), None);
        assert_eq!(
            nothing.older(Incarnation(3), &[disk(1, 5, 50)]),
            Some(Older::Incarnation { known: 3, own: 3 })
        );
    }

    #[test]
    fn groups_are_guarded_with_the_last_that_anybody_knows() {
        let mut groups = [disk(1, 5, 30), disk(2, 5, 30)];
        witness(5, 0).guard(&mut groups);
        witness(4, 0).guard(&mut groups);
        assert_eq!(groups[0].committed_elsewhere, Position { term: 5, index: 40 });
        assert_eq!(groups[1].committed_elsewhere, Position::default());
    }

    #[test]
    fn groups_that_are_empty_or_not_there_say_nothing() {
        assert_eq!(witness(5, 50).older(Incarnation(4), &[RestoredGroup::empty(GroupId(1))]), None);
        assert_eq!(witness(5, 50).older(Incarnation(4), &[disk(2, 1, 1)]), None);
    }
}
