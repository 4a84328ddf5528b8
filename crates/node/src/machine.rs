//! The replicated state of a group, of either kind.
//!
//! Owns: the choice between control and partition. Does not: hold state of its own.
//! See: docs/decisions/0001-session-homed-partitions.md.

use bytes::Bytes;
use quorate_state::{
    CONTROL, ClusterConfig, Control, Effect, GroupId, LogIndex, OutboxItem, Partition, PartitionConfig,
    Reply, StreamId, StreamSeq, Timestamp,
};

/// Control or a partition.
pub enum Machine {
    /// Group 0.
    Control(Box<Control>),
    /// Groups 1 to P.
    Partition(Box<Partition>),
}

macro_rules! both {
    ($self:expr, $machine:ident => $body:expr) => {
        match $self {
            Machine::Control($machine) => $body,
            Machine::Partition($machine) => $body,
        }
    };
}

impl Machine {
    /// The state a group's checkpoint records describe; without records, the state of a replica that has yet to get
    /// its first snapshot.
    ///
    /// # Errors
    /// What is wrong with the records.
    pub fn restore(
        group: GroupId,
        cluster: &ClusterConfig,
        partition: &PartitionConfig,
        applied: LogIndex,
        records: Vec<(Bytes, Bytes)>,
    ) -> Result<Machine, quorate_state::RestoreError> {
        let config = PartitionConfig { group, partitions: cluster.partitions, ..partition.clone() };
        Ok(match (group == CONTROL, records.is_empty()) {
            (true, true) => Machine::Control(Box::new(Control::bootstrap(cluster.clone(), &[]))),
            (true, false) => Machine::Control(Box::new(Control::restore(applied, records)?)),
            (false, true) => Machine::Partition(Box::new(Partition::new(config))),
            (false, false) => Machine::Partition(Box::new(Partition::restore(config, applied, records)?)),
        })
    }

    /// Control, when this is it.
    pub fn control(&self) -> Option<&Control> {
        match self {
            Machine::Control(control) => Some(control),
            Machine::Partition(_) => None,
        }
    }

    /// The partition, when this is one.
    pub fn partition(&self) -> Option<&Partition> {
        match self {
            Machine::Partition(partition) => Some(partition),
            Machine::Control(_) => None,
        }
    }

    /// See [`Partition::apply`].
    pub fn apply(&mut self, index: LogIndex, data: &Bytes, effects: &mut Vec<Effect>) {
        both!(self, machine => machine.apply(index, data, effects));
    }

    /// An entry that carries no command: only the position moves.
    pub fn skip(&mut self, index: LogIndex) {
        both!(self, machine => machine.apply(index, &Bytes::new(), &mut Vec::new()));
    }

    /// Applied index.
    pub fn applied(&self) -> LogIndex {
        both!(self, machine => machine.applied())
    }

    /// Replicated time.
    pub fn now(&self) -> Timestamp {
        both!(self, machine => machine.now())
    }

    /// When a timer is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        both!(self, machine => machine.next_deadline())
    }

    /// Position of a stream.
    pub fn stream_applied(&self, stream: StreamId) -> StreamSeq {
        both!(self, machine => machine.stream_applied(stream))
    }

    /// Replies of a stream that are kept, after a position.
    pub fn stream_replies(&self, stream: StreamId, after: StreamSeq) -> Vec<(StreamSeq, Reply)> {
        both!(self, machine => {
            machine.stream_replies(stream, after).map(|(seq, reply)| (seq, reply.clone())).collect()
        })
    }

    /// Groups this one has commands for.
    pub fn outbox_destinations(&self) -> Vec<GroupId> {
        both!(self, machine => machine.outbox_destinations().collect())
    }

    /// Commands for a group, from a position on, up to about `bytes_max`.
    pub fn outbox(&self, to: GroupId, from: StreamSeq, bytes_max: usize) -> Vec<(StreamSeq, OutboxItem)> {
        let mut bytes = 0;
        both!(self, machine => {
            machine
                .outbox(to, from)
                .take_while(|(_, command)| {
                    let fits = bytes < bytes_max;
                    bytes += command.bytes();
                    fits
                })
                .collect()
        })
    }

    /// What another group is known to have applied, and the last command for it, also while a backup holds the outboxes.
    pub fn outbox_span(&self, to: GroupId) -> (StreamSeq, StreamSeq) {
        both!(self, machine => machine.outbox_span(to))
    }

    /// Records changed since the last call.
    pub fn changes(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        both!(self, machine => machine.changes())
    }

    /// Whether a message of that entry is still referred to.
    pub fn live(&self, index: LogIndex) -> bool {
        both!(self, machine => machine.live(index))
    }

    /// Hash of the whole state.
    pub fn hash(&self) -> u64 {
        both!(self, machine => machine.hash())
    }
}
