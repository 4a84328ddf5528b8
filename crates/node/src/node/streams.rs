//! Moving streams: from this node and from the outboxes of the groups it leads, to the leaders of groups; and the
//! leader's side of both.
//!
//! Owns: who is sent what, and what is told back. Does not: hold the queues; see `stream`.
//! Invariants: only a leading group takes commands; what a sender is told comes from the applied state.
//! See: docs/decisions/0007-streams-and-outbox.md.

use core::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_state::command::{Command, LeaderCommand};
use quorate_state::control::REPLIES_AFTER_LEVEL;
use quorate_state::{CONTROL, GroupId, NodeId, OutboxItem, StreamId, StreamSeq};

use super::Node;
use super::clients::Op;
use crate::action::{Action, Note};
use crate::consensus::group::Group;
use crate::peer::PeerMessage;
use crate::stream::{Offer, Piece, Report, SEND_BYTES_MAX};

impl Node {
    /// This node's stream identity.
    fn stream_id(&self) -> StreamId {
        StreamId::Node(self.id, self.incarnation)
    }

    /// Who to send a group's commands to.
    pub(super) fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        let own = self.groups.get(&group);
        let votes = own.is_some_and(|own| own.members().voters.contains(&self.id.0));
        if votes && self.control().is_none_or(|control| control.placement(group).contains(&self.id)) {
            return own.and_then(Group::leader);
        }
        // A replica that comes or goes may not hear who leads.
        let hint = self.leader_hints.get(&group).filter(|node| self.peers_up.contains(node)).copied();
        hint.or_else(|| own.and_then(Group::leader)).or_else(|| self.replica_after(group, None))
    }

    /// The first replica of a group, after one of them, that has a link to this node.
    fn replica_after(&self, group: GroupId, after: Option<NodeId>) -> Option<NodeId> {
        let placement = self.control()?.placement(group);
        let next = after.and_then(|after| placement.iter().position(|node| *node == after));
        let (before, rest) = placement.split_at(next.map_or(0, |at| at + 1));
        rest.iter().chain(before).copied().find(|node| self.peers_up.contains(node))
    }

    /// Appends a command to this node's stream into a group.
    pub(super) fn push(&mut self, group: GroupId, command: &Command, op: Op) -> StreamSeq {
        let mut encoded = BytesMut::with_capacity(command.encoded_len());
        command.encode(&mut encoded);
        self.push_encoded(group, encoded.freeze(), op)
    }

    /// Appends an encoded command.
    pub(super) fn push_encoded(&mut self, group: GroupId, command: Bytes, op: Op) -> StreamSeq {
        self.streams.entry(group).or_default().push(command, op)
    }

    /// Whether a leader is known to which something can be sent at once.
    fn reachable_leader(&self, group: GroupId) -> Option<NodeId> {
        let leader = self.leader_of(group)?;
        if leader == self.id {
            self.groups.get(&group).filter(|group| group.is_leading()).map(|_| leader)
        } else {
            Some(leader).filter(|leader| self.peers_up.contains(leader))
        }
    }

    pub(super) fn send_streams(&mut self, now: Duration) {
        let stream_id = self.stream_id();
        let targets: Vec<(GroupId, NodeId)> = self
            .streams
            .keys()
            .filter_map(|group| self.reachable_leader(*group).map(|leader| (*group, leader)))
            .collect();
        for (group, leader) in targets {
            while let Some(piece) =
                self.streams.get_mut(&group).and_then(|stream| stream.next_piece(leader, now))
            {
                self.send_piece(leader, group, stream_id, piece);
            }
        }
        self.send_outboxes(now);
    }

    fn send_piece(&mut self, leader: NodeId, group: GroupId, stream: StreamId, piece: Piece) {
        let Piece { first, confirmed, commands } = piece;
        self.send(leader, PeerMessage::StreamAppend { group, stream, first, confirmed, commands });
    }

    fn send_outboxes(&mut self, now: Duration) {
        let keys: Vec<(GroupId, GroupId)> = self.outboxes.keys().copied().collect();
        for (from, to) in keys {
            let Some(leader) = self.reachable_leader(to) else { continue };
            let Some(outbox) = self.outboxes.get_mut(&(from, to)) else { continue };
            let Some(start) = outbox.read_from(leader, now) else { continue };
            let confirmed = outbox.applied();
            let Some(group) = self.groups.get(&from) else { continue };
            let commands = group.machine().outbox(to, start, SEND_BYTES_MAX);
            let Some((first, _)) = commands.first() else { continue };
            let first = *first;
            let commands: Vec<Bytes> =
                commands.into_iter().map_while(|(_, item)| self.outbox_command(from, item)).collect();
            if commands.is_empty() {
                continue;
            }
            let last = StreamSeq(first.0 + commands.len() as u64 - 1);
            if let Some(outbox) = self.outboxes.get_mut(&(from, to)) {
                outbox.sent_to(last);
            }
            self.send_piece(leader, to, StreamId::Group(from), Piece { first, confirmed, commands });
        }
    }

    /// The command as the destination gets it. `None`, and a note, when the message it ends with cannot be read here: what
    /// follows waits, and is tried again.
    fn outbox_command(&mut self, from: GroupId, item: OutboxItem) -> Option<Bytes> {
        let (head, message) = match item {
            OutboxItem::Command(command) => return Some(command),
            OutboxItem::Message { head, message } => (head, message),
        };
        let Some(body) = self.body(from, message) else {
            self.actions.push_back(Action::Note(Note::BodyUnreadable(from, message.index)));
            return None;
        };
        let mut command = BytesMut::with_capacity(head.len() + body.len());
        command.put_slice(&head);
        command.put_slice(&body);
        Some(command.freeze())
    }

    /// Whether a stream has something that could be sent now.
    pub(super) fn streams_waiting(&self, now: Duration) -> bool {
        self.streams
            .iter()
            .any(|(group, stream)| stream.has_unsent(now) && self.reachable_leader(*group).is_some())
    }

    /// As leader: a piece of a stream arrives.
    pub(super) fn stream_append(&mut self, from: NodeId, id: GroupId, stream: StreamId, piece: Piece) {
        let leader = self.groups.get(&id).and_then(Group::leader).filter(|leader| *leader != self.id);
        let taken = self.groups.get_mut(&id).and_then(Group::leading_and_machine);
        let reject = match taken {
            None => Some((StreamSeq(0), leader)),
            Some((leading, machine)) => {
                match leading.intake.offer(stream, piece, machine.stream_applied(stream), from) {
                    Offer::Taken => None,
                    Offer::Known => {
                        self.tell_applied(id);
                        None
                    }
                    Offer::Gap(expected) => Some((expected, None)),
                }
            }
        };
        if let Some((expected, leader)) = reject {
            self.send(from, PeerMessage::StreamReject { group: id, stream, expected, leader });
        }
    }

    /// As leader: tells the senders of streams what is applied.
    pub(super) fn tell_applied(&mut self, id: GroupId) {
        let says_after = self.control().is_some_and(|control| control.level() >= REPLIES_AFTER_LEVEL);
        let Some((leading, machine)) = self.groups.get_mut(&id).and_then(Group::leading_and_machine) else {
            return;
        };
        let news = leading.intake.take_news(|stream| machine.stream_applied(stream));
        let told: Vec<(NodeId, PeerMessage)> = news
            .into_iter()
            .map(|(stream, via, after, applied)| {
                let replies = machine.stream_replies(stream, after);
                let after = says_after.then_some(after);
                (via, PeerMessage::StreamApplied { group: id, stream, after, applied, replies })
            })
            .collect();
        for (via, message) in told {
            self.send(via, message);
        }
    }

    pub(super) fn stream_applied(
        &mut self,
        from: NodeId,
        group: GroupId,
        stream: StreamId,
        report: Report,
        now: Duration,
    ) {
        match stream {
            StreamId::Group(source) => {
                if let Some(outbox) = self.outboxes.get_mut(&(source, group)) {
                    outbox.applied_to(report.applied, now);
                }
            }
            StreamId::Node(..) if stream == self.stream_id() => {
                self.leader_hints.insert(group, from);
                let Some(sender) = self.streams.get_mut(&group) else { return };
                for done in sender.applied_to(report, now) {
                    self.op_done(group, done, now);
                }
            }
            // An earlier incarnation of this node: nobody waits any more.
            StreamId::Node(..) => {}
        }
    }

    pub(super) fn stream_rejected(
        &mut self,
        from: NodeId,
        group: GroupId,
        stream: StreamId,
        expected: StreamSeq,
        leader: Option<NodeId>,
        now: Duration,
    ) {
        let hint = match leader {
            None if expected.0 != 0 => Some(from),
            // It does not lead and knows no leader: another one may.
            None => self.replica_after(group, Some(from)),
            leader => leader,
        };
        if let Some(hint) = hint {
            self.leader_hints.insert(group, hint);
        }
        match stream {
            StreamId::Group(source) => {
                if let Some(outbox) = self.outboxes.get_mut(&(source, group)) {
                    outbox.rejected(expected, now);
                }
            }
            StreamId::Node(..) if stream == self.stream_id() => {
                if let Some(sender) = self.streams.get_mut(&group) {
                    sender.rejected(expected, now);
                }
            }
            StreamId::Node(..) => {}
        }
    }

    /// As leader of groups: proposes what has gathered, one entry per group.
    pub(super) fn propose(&mut self, now: Duration) {
        if self.disk.is_log_full() {
            return;
        }
        let leads: Vec<GroupId> = self.leads.iter().copied().collect();
        for id in leads {
            let mut news: Vec<LeaderCommand> = self
                .outboxes
                .range_mut((id, CONTROL)..=(id, GroupId(u32::MAX)))
                .filter_map(|((_, to), outbox)| {
                    outbox.take_news().map(|seq| LeaderCommand::OutboxApplied { to: *to, seq })
                })
                .collect();
            if id == CONTROL {
                let lost = self.lost_unproposed.drain(..);
                news.extend(lost.map(|(node, incarnation)| LeaderCommand::NodeLost { node, incarnation }));
            }
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let Err(kept) = group.propose(news, now) else { continue };
            for command in kept {
                match command {
                    LeaderCommand::OutboxApplied { to, .. } => {
                        if let Some(outbox) = self.outboxes.get_mut(&(id, to)) {
                            outbox.keep_news();
                        }
                    }
                    LeaderCommand::NodeLost { node, incarnation } => {
                        self.lost_unproposed.push((node, incarnation));
                    }
                    LeaderCommand::Tick => {}
                }
            }
        }
    }
}
