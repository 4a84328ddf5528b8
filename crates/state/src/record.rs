//! Checkpoint records: the state of a group as keys and values.
//!
//! Owns: kinds of records, their keys, the error of a restore. Does not: store; values are encoded by what they hold.
//! Invariants: keys of different kinds never collide; byte order of keys is the order in which a restore wants them;
//! the records of a state depend on the state only, not on earlier checkpoints.
//! The version is in the META record. See: docs/formats/checkpoint.md.

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use crate::ids::{GroupId, SessionId, ShareId};
use crate::wire::DecodeError;

/// Version of the record formats that this program writes.
pub(crate) const RECORD_VERSION: u8 = 1;

/// Changed records: key, and content or `None` for deletion.
pub(crate) type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// First byte of a key. Integers in keys are big-endian, so that byte order is numeric order.
pub(crate) mod kind {
    /// No key: version, replicated time, counters.
    pub(crate) const META: u8 = 0;
    /// Node.
    pub(crate) const NODE_STREAM: u8 = 1;
    /// Group.
    pub(crate) const GROUP_STREAM: u8 = 2;
    /// Group.
    pub(crate) const OUTBOX_HEAD: u8 = 3;
    /// Group, sequence.
    pub(crate) const OUTBOX_COMMAND: u8 = 4;
    /// No key: the backup that holds the outboxes.
    pub(crate) const HOLD: u8 = 5;
    /// Session: identity, connection, expiry.
    pub(crate) const SESSION: u8 = 16;
    /// Filter: position of its route in the outbox to control.
    pub(crate) const ROUTE_POSITION: u8 = 17;
    /// Session, filter.
    pub(crate) const SUBSCRIPTION: u8 = 18;
    /// Session: sets of subscription identifiers.
    pub(crate) const IDENTIFIERS: u8 = 19;
    /// Session: inflight messages, positions of the queue.
    pub(crate) const DELIVERY: u8 = 20;
    /// Session, block number.
    pub(crate) const QUEUE_BLOCK: u8 = 21;
    /// Topic.
    pub(crate) const RETAINED: u8 = 22;
    /// Epoch: a connection that lost its session and may still be open.
    pub(crate) const DISPLACED: u8 = 23;
    /// Session: packet identifiers of QoS 2 publishes that are not released.
    pub(crate) const INBOUND: u8 = 24;
    /// Will: its message.
    pub(crate) const DUE_WILL: u8 = 25;
    /// Session: what was dropped for it.
    pub(crate) const DROPS: u8 = 26;
    /// Session: its share groups, and which of its messages are theirs.
    pub(crate) const SHARED: u8 = 27;
    /// Share group: filter, route, counters, positions of the queue.
    pub(crate) const SHARE: u8 = 28;
    /// Share group, member.
    pub(crate) const SHARE_MEMBER: u8 = 29;
    /// Share group: messages that members gave back.
    pub(crate) const SHARE_RETURNED: u8 = 30;
    /// Share group, block number.
    pub(crate) const SHARE_BLOCK: u8 = 31;
    /// Node (control).
    pub(crate) const NODE: u8 = 32;
    /// Group (control).
    pub(crate) const PLACEMENT: u8 = 33;
    /// Filter (control): its targets.
    pub(crate) const ROUTES: u8 = 34;
    /// Node (control): its listeners.
    pub(crate) const LISTENERS: u8 = 35;
    /// Node (control): an operator wants it gone.
    pub(crate) const REMOVAL: u8 = 36;
    /// Group (control): its members, as its leader told.
    pub(crate) const MEMBERS: u8 = 37;
}

/// Builds a key.
pub(crate) struct Key(BytesMut);

impl Key {
    pub(crate) fn new(kind: u8) -> Self {
        let mut out = BytesMut::with_capacity(24);
        out.put_u8(kind);
        Self(out)
    }

    pub(crate) fn u32(mut self, number: u32) -> Self {
        self.0.put_u32(number);
        self
    }

    pub(crate) fn u64(mut self, number: u64) -> Self {
        self.0.put_u64(number);
        self
    }

    /// Must come last: it has no length.
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.put_slice(text.as_bytes());
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into()
    }
}

/// Reads a key.
pub(crate) struct KeyReader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> KeyReader<'a> {
    pub(crate) fn new(key: &'a [u8]) -> Result<Self, RestoreError> {
        let (kind, rest) = key.split_first().ok_or(RestoreError::Key { kind: 0 })?;
        Ok(Self { kind: *kind, rest })
    }

    pub(crate) fn kind(&self) -> u8 {
        self.kind
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let (array, rest) =
            self.rest.split_first_chunk::<N>().ok_or(RestoreError::Key { kind: self.kind })?;
        self.rest = rest;
        Ok(*array)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, RestoreError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, RestoreError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, RestoreError> {
        let text = std::str::from_utf8(self.rest).map_err(|_| RestoreError::Key { kind: self.kind })?;
        self.rest = &[];
        Ok(text)
    }

    pub(crate) fn done(&self) -> Result<(), RestoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(RestoreError::Key { kind: self.kind }) }
    }

    pub(crate) fn content(&self) -> impl FnOnce(DecodeError) -> RestoreError + use<> {
        let kind = self.kind;
        move |source| RestoreError::Content { kind, source }
    }
}

/// Why records do not make a state. The checkpoint is damaged, or of a newer version: the replica must be rebuilt.
#[derive(Error, Clone, PartialEq, Eq, Debug)]
pub enum RestoreError {
    /// The records are of a version that this program does not read.
    #[error("version {0} of the checkpoint is not known")]
    Version(u8),
    /// The cluster uses a level that this program does not speak.
    #[error(
        "the cluster uses level {found}, and this program speaks levels up to {spoken}: a newer program is needed"
    )]
    Level {
        /// In use.
        found: u32,
        /// Highest that this program speaks.
        spoken: u32,
    },
    /// No record says which group this is.
    #[error("the checkpoint has no head record")]
    HeadMissing,
    /// The records are of another group.
    #[error("the checkpoint is of group {found}, not of group {expected}")]
    OtherGroup {
        /// Wanted.
        expected: GroupId,
        /// In the records.
        found: GroupId,
    },
    /// A key is not one of this group's, or not in order.
    #[error("a key of kind {kind} is not valid here")]
    Key {
        /// First byte of the key.
        kind: u8,
    },
    /// A value cannot be read.
    #[error("the value of a record of kind {kind} is not valid")]
    Content {
        /// First byte of the key.
        kind: u8,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// A record belongs to a session that has none.
    #[error("a record of kind {kind} belongs to the unknown session {session}")]
    Orphan {
        /// First byte of the key.
        kind: u8,
        /// The session.
        session: SessionId,
    },
    /// Records of a share group are missing, or contradict each other.
    #[error("share group {share} is not whole")]
    Share {
        /// The group.
        share: ShareId,
    },
    /// Blocks of a queue are missing.
    #[error("the queue of session {session} is not whole")]
    QueueBroken {
        /// The session.
        session: SessionId,
    },
}
