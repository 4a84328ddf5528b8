//! Ordered, numbered streams of commands into a group, with go-back-N.
//!
//! Owns: both ends. [`NodeStream`] holds a node's commands for one group until they are applied; [`OutboxStream`]
//! does the same for what a group's own state wants another group to do; [`Intake`] is the leader's end.
//! Does not: encode commands, propose.
//! Invariants: a command is taken by a leader only right after its predecessor; what is sent again is the same bytes
//! with the same numbers, and the group's state drops what it has applied already; a command whose reply did not come counts as
//! successful only if the leader has said that there is none.
//! Limits: `STREAM_BYTES_MAX` per stream, then the shell takes no more requests; `SEND_BYTES_MAX` per message.
//! See: docs/decisions/0007-streams-and-outbox.md.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_state::{NodeId, Reply, StreamId, StreamSeq};

use crate::durable::Durable;

/// Bytes of commands in one `StreamAppend`.
pub const SEND_BYTES_MAX: usize = 256 * 1024;

/// A stream without progress for so long goes back to what was applied, in case a message was lost where no link
/// reset told of it.
pub const RESEND_AFTER: Duration = Duration::from_millis(1000);

/// Pause after a node said that it does not lead the group: a new leader needs about so long to be known.
pub const RETRY_AFTER: Duration = Duration::from_millis(20);

/// A piece of a stream to send.
#[derive(Debug, PartialEq)]
pub struct Piece {
    /// Sequence of the first command.
    pub first: StreamSeq,
    /// All replies up to here have been seen.
    pub confirmed: StreamSeq,
    /// Encoded commands.
    pub commands: Vec<Bytes>,
}

/// What the leader of a group says of a stream into it.
#[derive(Debug, PartialEq)]
pub struct Report {
    /// The replies are those after this command; `None` when the leader does not say.
    pub after: Option<StreamSeq>,
    /// Last applied.
    pub applied: StreamSeq,
    /// Replies in order; a command without one was successful.
    pub replies: Vec<(StreamSeq, Reply)>,
}

/// The sending end of a node's stream to one group. `Op` is what the node does when a command is applied.
#[derive(Debug)]
pub struct NodeStream<Op> {
    applied: u64,
    sent: u64,
    queue: VecDeque<(Bytes, Op)>,
    bytes: usize,
    target: Option<NodeId>,
    progress_at: Duration,
    hold_until: Duration,
}

impl<Op> Default for NodeStream<Op> {
    fn default() -> Self {
        NodeStream {
            applied: 0,
            sent: 0,
            queue: VecDeque::new(),
            bytes: 0,
            target: None,
            progress_at: Duration::ZERO,
            hold_until: Duration::ZERO,
        }
    }
}

impl<Op> NodeStream<Op> {
    /// Appends a command; returns its number.
    pub fn push(&mut self, command: Bytes, op: Op) -> StreamSeq {
        self.bytes += command.len();
        self.queue.push_back((command, op));
        StreamSeq(self.applied + self.queue.len() as u64)
    }

    /// Bytes of commands not yet applied.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether commands have not been sent yet and may be sent now.
    pub fn has_unsent(&self, now: Duration) -> bool {
        now >= self.hold_until && self.sent < self.applied + self.queue.len() as u64
    }

    /// Goes back: everything not known to be applied is sent again.
    pub fn rewind(&mut self) {
        self.sent = self.applied;
    }

    /// The next piece for `leader`, if there is something to send. A change of leader goes back.
    pub fn next_piece(&mut self, leader: NodeId, now: Duration) -> Option<Piece> {
        if now < self.hold_until {
            return None;
        }
        if self.target != Some(leader) {
            self.target = Some(leader);
            self.rewind();
        }
        if self.sent > self.applied && now.saturating_sub(self.progress_at) > RESEND_AFTER {
            self.rewind();
        }
        if self.sent == self.applied {
            // The wait for progress begins with what is sent now.
            self.progress_at = now;
        }
        let skip = usize::try_from(self.sent - self.applied).expect("bounded by the queue");
        let mut bytes = 0;
        let commands: Vec<Bytes> = self
            .queue
            .iter()
            .skip(skip)
            .take_while(|(command, _)| {
                let fits = bytes < SEND_BYTES_MAX;
                bytes += command.len();
                fits
            })
            .map(|(command, _)| command.clone())
            .collect();
        if commands.is_empty() {
            return None;
        }
        let first = StreamSeq(self.sent + 1);
        self.sent += commands.len() as u64;
        Some(Piece { first, confirmed: StreamSeq(self.applied), commands })
    }

    /// The leader reports how far the stream is applied: gives back what each of those commands was for,
    /// with its reply. This is where the proof of durability is made. If the replies begin beyond what is
    /// known here, a report is lost or late, and with it what may be refusals. Then nothing is given back, and the commands are sent
    /// again: the leader answers with all that it has to say of them.
    pub fn applied_to(&mut self, report: Report, now: Duration) -> Vec<Durable<(Op, Option<Reply>)>> {
        let Report { after, applied, replies } = report;
        let mut done = Vec::new();
        if after.is_some_and(|after| after.0 > self.applied) {
            self.rewind();
            return done;
        }
        let mut replies = replies.into_iter().peekable();
        while self.applied < applied.0 {
            let Some((command, op)) = self.queue.pop_front() else { break };
            self.bytes -= command.len();
            self.applied += 1;
            while replies.peek().is_some_and(|(seq, _)| seq.0 < self.applied) {
                replies.next();
            }
            let reply = replies.next_if(|(seq, _)| seq.0 == self.applied).map(|(_, reply)| reply);
            done.push(Durable::committed((op, reply)));
        }
        self.sent = self.sent.max(self.applied);
        if !done.is_empty() {
            self.progress_at = now;
        }
        done
    }

    /// The leader expects `expected`: go back to it, or to what was applied. 0 means that it leads no more, or not
    /// yet: pause before the next try.
    pub fn rejected(&mut self, expected: StreamSeq, now: Duration) {
        if expected.0 == 0 {
            self.hold_until = now + RETRY_AFTER;
        }
        self.sent = self.sent.min(expected.0.saturating_sub(1)).max(self.applied);
    }
}

/// The sending end of a group's outbox towards one other group; the commands stay in the replicated state.
#[derive(Debug, Default)]
pub struct OutboxStream {
    applied: u64,
    sent: u64,
    reported: u64,
    target: Option<NodeId>,
    progress_at: Duration,
    hold_until: Duration,
}

impl OutboxStream {
    /// From where to read the outbox for the next piece to `leader`; `None` while a refusal is fresh.
    pub fn read_from(&mut self, leader: NodeId, now: Duration) -> Option<StreamSeq> {
        if now < self.hold_until {
            return None;
        }
        let stalled = self.sent > self.applied && now.saturating_sub(self.progress_at) > RESEND_AFTER;
        if self.target != Some(leader) || stalled {
            self.target = Some(leader);
            self.sent = self.applied;
        }
        if self.sent <= self.applied {
            self.sent = self.applied;
            self.progress_at = now;
        }
        Some(StreamSeq(self.sent + 1))
    }

    /// Commands up to here were sent.
    pub fn sent_to(&mut self, seq: StreamSeq) {
        self.sent = self.sent.max(seq.0);
    }

    /// The destination has applied up to here.
    pub fn applied_to(&mut self, applied: StreamSeq, now: Duration) {
        if applied.0 > self.applied {
            self.applied = applied.0;
            self.sent = self.sent.max(self.applied);
            self.progress_at = now;
        }
    }

    /// The destination expects `expected`; 0 as for [`NodeStream::rejected`].
    pub fn rejected(&mut self, expected: StreamSeq, now: Duration) {
        if expected.0 == 0 {
            self.hold_until = now + RETRY_AFTER;
        }
        self.sent = self.sent.min(expected.0.saturating_sub(1)).max(self.applied);
    }

    /// Goes back.
    pub fn rewind(&mut self) {
        self.sent = self.applied;
    }

    /// Position applied, as far as known here.
    pub fn applied(&self) -> StreamSeq {
        StreamSeq(self.applied)
    }

    /// Up to where the group may forget its outbox, if that is news since it was last asked.
    pub fn take_news(&mut self) -> Option<StreamSeq> {
        if self.applied <= self.reported {
            return None;
        }
        self.reported = self.applied;
        Some(StreamSeq(self.applied))
    }

    /// The news could not be proposed: it is news again.
    pub fn keep_news(&mut self) {
        self.reported = 0;
    }
}

/// One stream as the leader of a group sees it.
#[derive(Debug)]
struct IntakeStream {
    /// Next sequence that may be queued.
    next: u64,
    /// First sequence in `queue`.
    queue_first: u64,
    queue: VecDeque<Bytes>,
    confirmed: u64,
    /// The sender was told of everything applied up to here.
    notified: u64,
    via: NodeId,
}

/// What happened to an offered piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// Queued, at least in part.
    Taken,
    /// All of it is applied or on its way already.
    Known,
    /// A predecessor is missing: go back to this sequence.
    Gap(StreamSeq),
}

/// The receiving end: the leader's queue of commands to propose. Lives as long as the leadership.
#[derive(Debug, Default)]
pub struct Intake {
    streams: BTreeMap<StreamId, IntakeStream>,
    bytes: usize,
    /// The stream that was served last.
    last_taken: Option<StreamId>,
}

impl Intake {
    /// Takes the new part of a piece. `applied` is the stream's position in the group's state.
    pub fn offer(&mut self, stream: StreamId, piece: Piece, applied: StreamSeq, via: NodeId) -> Offer {
        let entry = self.streams.entry(stream).or_insert_with(|| IntakeStream {
            next: applied.0 + 1,
            queue_first: applied.0 + 1,
            queue: VecDeque::new(),
            confirmed: 0,
            notified: piece.confirmed.0,
            via,
        });
        entry.via = via;
        entry.confirmed = entry.confirmed.max(piece.confirmed.0);
        if piece.first.0 > entry.next {
            return Offer::Gap(StreamSeq(entry.next));
        }
        // What comes again was perhaps sent because the answer was lost.
        entry.notified = entry.notified.min(piece.first.0.saturating_sub(1));
        let known = usize::try_from(entry.next - piece.first.0).unwrap_or(usize::MAX);
        let mut taken = Offer::Known;
        for command in piece.commands.into_iter().skip(known) {
            self.bytes += command.len();
            entry.queue.push_back(command);
            entry.next += 1;
            taken = Offer::Taken;
        }
        taken
    }

    /// Whether there is something to propose.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Takes commands out for one entry: a share of each stream, together at most `bytes_max`, or one command that is
    /// larger. Begins after the stream that came last the time before, so that each has its turn. Gives stream, first
    /// sequence, confirmed position and commands.
    pub fn take(&mut self, bytes_max: usize) -> Vec<(StreamId, StreamSeq, StreamSeq, Vec<Bytes>)> {
        let waiting = self.streams.iter().filter(|(_, entry)| !entry.queue.is_empty());
        let mut order: Vec<StreamId> = waiting.map(|(stream, _)| *stream).collect();
        let begin = self.last_taken.map_or(0, |last| order.partition_point(|stream| *stream <= last));
        let begin = if begin < order.len() { begin } else { 0 };
        order.rotate_left(begin);
        let share = (bytes_max / order.len().max(1)).max(1);
        let mut taken = 0;
        let mut segments = Vec::with_capacity(order.len());
        for stream in order {
            let Some(entry) = self.streams.get_mut(&stream) else { continue };
            let first = StreamSeq(entry.queue_first);
            let mut bytes = 0;
            let mut commands = Vec::new();
            while bytes < share
                && let Some(command) = entry.queue.front()
                && (taken == 0 || taken + command.len() <= bytes_max)
            {
                taken += command.len();
                bytes += command.len();
                commands.extend(entry.queue.pop_front());
            }
            if commands.is_empty() {
                break;
            }
            self.bytes -= bytes;
            self.last_taken = Some(stream);
            entry.queue_first += commands.len() as u64;
            segments.push((stream, first, StreamSeq(entry.confirmed), commands));
        }
        segments
    }

    /// Streams whose sender has not been told of everything that `applied` says is applied: stream, node to tell, told
    /// up to, applied up to. Counts as told from now on.
    pub fn take_news(
        &mut self,
        applied: impl Fn(StreamId) -> StreamSeq,
    ) -> Vec<(StreamId, NodeId, StreamSeq, StreamSeq)> {
        let mut news = Vec::new();
        for (stream, entry) in &mut self.streams {
            let now_applied = applied(*stream);
            if now_applied.0 > entry.notified {
                news.push((*stream, entry.via, StreamSeq(entry.notified), now_applied));
                entry.notified = now_applied.0;
            }
        }
        news
    }

    /// The link to a node was reset: what it was told last may be lost.
    pub fn forget_told(&mut self, node: NodeId) {
        for entry in self.streams.values_mut().filter(|entry| entry.via == node) {
            entry.notified = entry.confirmed;
        }
    }
}

#[cfg(test)]
mod tests;
