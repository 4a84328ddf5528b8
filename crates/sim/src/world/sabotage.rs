//! What mutants do to commands, messages and checkpoints on their way through the shell.
//!
//! Owns: their changes. Does not: anything without a mutant.
//! Invariants: nothing here draws chance, so that a seed is the same world with a mutant as without until the mutant acts.

use core::time::Duration;

use bytes::BytesMut;
use quorate_codec::PacketId;
use quorate_node::Event as NodeEvent;
use quorate_node::peer::PeerMessage;
use quorate_state::{Command, LogIndex, NodeId, StreamSeq};

use super::World;
use super::process::Process;
use crate::mutant::Mutant;

/// Kinds of checkpoint records that mutants touch: the first byte of their keys. See docs/formats/checkpoint.md.
const NODE_STREAM: u8 = 1;
const GROUP_STREAM: u8 = 2;
const SUBSCRIPTION: u8 = 18;
pub(super) const DELIVERY: u8 = 20;
const RETAINED: u8 = 22;
const INBOUND: u8 = 24;
const DUE_WILL: u8 = 25;

/// Raft's messages as its engine numbers them.
const RAFT_APPEND: i32 = 3;
const RAFT_APPEND_RESPONSE: i32 = 4;
const RAFT_HEARTBEAT: i32 = 8;

/// So long a mutant's leader holds back what it wrote in its own term.
const HELD_BACK: Duration = Duration::from_millis(1500);

impl World {
    /// The mutant's leader holds back what it wrote in its own term for a moment, which a slow link would do as well, and tells
    /// its followers of older entries as committed that a majority has.
    pub(super) fn forge_commit(
        &self,
        place: usize,
        process: &mut Process,
        to: NodeId,
        message: PeerMessage,
    ) -> PeerMessage {
        let PeerMessage::Raft(group, mut message) = message else { return message };
        let kind = message.get_msg_type() as i32;
        let wanted = [RAFT_APPEND, RAFT_HEARTBEAT].contains(&kind) && self.phase == super::Phase::Faults;
        if self.mutant != Some(Mutant::OlderTermCounted) || !wanted {
            return PeerMessage::Raft(group, message);
        }
        let term = message.term;
        let led_since = *process.led_since.entry((group, term)).or_insert(self.now);
        if self.now.saturating_sub(led_since) < HELD_BACK {
            let older = message.entries.iter().take_while(|entry| entry.term < term).count();
            message.mut_entries().truncate(older);
        }
        let status = process.node.status(false, self.hosts[place].clock(self.now));
        let voters = status.groups.into_iter().find(|status| status.group == group);
        let mut held: Vec<u64> = voters
            .map_or(Vec::new(), |status| status.voters)
            .iter()
            .map(|voter| match process.matched.get(&(group, *voter)) {
                _ if *voter == process.node.id() => process.reader.last_index(group.0),
                Some((of, index)) if *of == term => *index,
                _ => 0,
            })
            .collect();
        held.sort_unstable();
        let counted = held.get(held.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        let reach = match process.matched.get(&(group, to)) {
            _ if kind == RAFT_APPEND => message.index + message.entries.len() as u64,
            Some((of, index)) if *of == term => *index,
            _ => 0,
        };
        if process.reader.term(group.0, counted).is_some_and(|older| older < term) {
            message.commit = message.commit.max(counted.min(reach));
        }
        PeerMessage::Raft(group, message)
    }

    /// What the mutant's leader must know.
    pub(super) fn note_matched(&self, process: &mut Process, from: NodeId, message: &PeerMessage) {
        if self.mutant != Some(Mutant::OlderTermCounted) {
            return;
        }
        if let PeerMessage::Raft(group, message) = message
            && message.get_msg_type() as i32 == RAFT_APPEND_RESPONSE
            && !message.reject
        {
            process.matched.insert((*group, from), (message.term, message.index));
        }
    }

    /// The mutant's node takes every other for one that has applied all routes.
    pub(super) fn forge_barrier(&mut self, process: &mut Process) {
        if self.mutant == Some(Mutant::RouteBarrierSkipped) {
            let (me, all) = (process.node.id(), PeerMessage::Barrier(LogIndex(u64::MAX)));
            process.from_peers.push(NodeEvent::Peer(me, all));
        }
    }

    /// What the mutants leave out of checkpoints.
    pub(super) fn mutilate_checkpoint(
        &self,
        mut changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    ) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let is = |key: &[u8], kind: u8| key.first() == Some(&kind);
        match self.mutant {
            Some(Mutant::DeletionResurrected) => {
                changes.retain(|(key, value)| !is(key, RETAINED) || value.is_some());
            }
            Some(Mutant::UnsubscribeReverted) => {
                changes.retain(|(key, value)| !is(key, SUBSCRIPTION) || value.is_some());
            }
            Some(Mutant::InboundForgotten) => changes.retain(|(key, _)| !is(key, INBOUND)),
            Some(Mutant::WillRepeated) => {
                changes.retain(|(key, value)| !is(key, DUE_WILL) || value.is_some());
            }
            Some(Mutant::OutboxRepeated) => changes.retain(|(key, _)| !is(key, GROUP_STREAM)),
            Some(Mutant::DedupeForgotten) => changes.retain(|(key, _)| !is(key, NODE_STREAM)),
            _ => {}
        }
        changes
    }

    /// The mutant's leader takes what comes for what was due.
    pub(super) fn close_gap(&self, process: &mut Process, message: &mut PeerMessage) {
        if self.mutant != Some(Mutant::StreamGapAccepted) {
            return;
        }
        if let PeerMessage::StreamAppend { group, stream, first, commands, .. } = message {
            let next = process.stream_next.entry((*group, format!("{stream:?}"))).or_insert(first.0);
            if first.0 > *next {
                *first = StreamSeq(*next);
            }
            *next = (*next).max(first.0 + commands.len() as u64);
        }
    }

    /// The mutants' links change commands on their way.
    pub(super) fn change_commands(&self, message: &mut PeerMessage) {
        let changes = [Mutant::ShareReturnDropped, Mutant::ShareCreditKept, Mutant::DedupeReleasedLate];
        if !self.mutant.is_some_and(|mutant| changes.contains(&mutant)) {
            return;
        }
        let PeerMessage::StreamAppend { commands, .. } = message else { return };
        for encoded in commands {
            let changed = match (self.mutant, Command::decode(&mut encoded.clone())) {
                (Some(Mutant::ShareReturnDropped), Ok(Command::ShareReturn { share, dispatches })) => {
                    Command::ShareSettled { share, dispatches }
                }
                (Some(Mutant::ShareCreditKept), Ok(Command::ShareSettled { share, .. })) => {
                    Command::ShareSettled { share, dispatches: Vec::new() }
                }
                (Some(Mutant::DedupeReleasedLate), Ok(Command::Release { session, epoch, .. })) => {
                    Command::Release { session, epoch, packet_id: PacketId::MAX }
                }
                _ => continue,
            };
            let mut bytes = BytesMut::new();
            changed.encode(&mut bytes);
            *encoded = bytes.freeze();
        }
    }
}
