//! Checkpoints: the state of a group as records, with the index it was applied to.
//!
//! Owns: the contract of a checkpoint store. Does not: know what records mean.
//! Invariants: records and mark change together or not at all; the mark never goes back but through an
//! installation; what `write` and `commit_install` return from is durable.
//! See: docs/formats/checkpoint.md.

use bytes::Bytes;

use crate::field::{length_u32, u32_at, u64_at};
use crate::{Group, Index, Term};

pub mod index_store;
pub mod memory;

pub use index_store::IndexStore;
pub use memory::MemoryCheckpoints;

/// Version of the mark's encoding.
pub const MARK_VERSION: u8 = 1;

/// Where a group's state stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AppliedMark {
    /// Last applied index.
    pub index: Index,
    /// Term of that entry.
    pub term: Term,
    /// Membership at that index, encoded by the caller.
    pub conf_state: Vec<u8>,
}

impl AppliedMark {
    /// Encodes the mark.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![MARK_VERSION, 0, 0, 0];
        bytes.extend_from_slice(&self.index.to_le_bytes());
        bytes.extend_from_slice(&self.term.to_le_bytes());
        bytes.extend_from_slice(&length_u32(self.conf_state.len()).to_le_bytes());
        bytes.extend_from_slice(&self.conf_state);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes and checks a mark.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        let conf_state = content.get(24..)?;
        let intact = u32_at(crc, 0) == Some(crc32c::crc32c(content))
            && content.first() == Some(&MARK_VERSION)
            && u32_at(content, 20)? as usize == conf_state.len();
        let (index, term) = (u64_at(content, 4)?, u64_at(content, 12)?);
        intact.then(|| Self { index, term, conf_state: conf_state.to_vec() })
    }

    /// The version of a mark that is whole but not of this program's version: it is not damage.
    fn other_version(bytes: &[u8]) -> Option<u8> {
        let (content, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        let whole = u32_at(crc, 0) == Some(crc32c::crc32c(content));
        content.first().copied().filter(|version| whole && *version != MARK_VERSION)
    }
}

/// A changed record: key, and value or `None` for a deletion.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A consistent view of a group, not disturbed by writes that go on.
pub trait CheckpointView: Send {
    /// Mark of the view.
    fn mark(&self) -> &AppliedMark;

    /// Next records in order of their keys, at least one and about `bytes_max` bytes of them; empty at the end.
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Vec<(Bytes, Bytes)>, CheckpointError>;
}

/// Checkpoints of all groups of a node.
pub trait CheckpointStore: Send + Sync + 'static {
    /// Groups that have a checkpoint, ascending.
    fn groups(&self) -> Result<Vec<Group>, CheckpointError>;

    /// Applies changes and moves the mark, atomically and durably. The first write makes the group.
    fn write(&self, group: Group, mark: &AppliedMark, changes: Vec<Change>) -> Result<(), CheckpointError>;

    /// Mark of a group; `None` if there is no checkpoint.
    fn mark(&self, group: Group) -> Result<Option<AppliedMark>, CheckpointError>;

    /// The group's state as it is now, to be loaded or streamed; `None` if there is no checkpoint.
    fn view(&self, group: Group) -> Result<Option<Box<dyn CheckpointView>>, CheckpointError>;

    /// Begins to receive a snapshot, giving up one that is being received. The present state stays in force.
    fn begin_install(&self, group: Group) -> Result<(), CheckpointError>;

    /// Takes in records of the snapshot.
    fn put_chunk(&self, group: Group, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), CheckpointError>;

    /// Replaces the group's whole state by the received records, atomically and durably. A crash leaves the old
    /// state or the new one, whole.
    fn commit_install(&self, group: Group, mark: &AppliedMark) -> Result<(), CheckpointError>;

    /// Gives the received records up.
    fn abort_install(&self, group: Group) -> Result<(), CheckpointError>;

    /// Forgets a group, durably.
    fn remove(&self, group: Group) -> Result<(), CheckpointError>;
}

/// An operation on checkpoints failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The index store failed; the process must stop, as for the log.
    #[error("{operation} checkpoint of group {group}")]
    Store {
        /// What was attempted.
        operation: &'static str,
        /// On which group.
        group: Group,
        /// Cause.
        #[source]
        source: Box<fjall::Error>,
    },
    /// The store cannot be opened.
    #[error("open the checkpoints")]
    Open(#[source] Box<fjall::Error>),
    /// A stored mark or pointer does not validate.
    #[error("the checkpoint of group {group} is corrupt")]
    Corrupt {
        /// Group.
        group: Group,
    },
    /// A stored mark or pointer is of a version that this program does not know: another program wrote it.
    #[error("version {version} of the checkpoint of group {group} is not known")]
    Version {
        /// Group.
        group: Group,
        /// Its version.
        version: u8,
    },
    /// The mark would go back.
    #[error("a checkpoint of group {group} at {index} is behind the one at {current}")]
    Behind {
        /// Group.
        group: Group,
        /// Index of the write.
        index: Index,
        /// Index there is.
        current: Index,
    },
    /// No snapshot of the group is being received.
    #[error("no snapshot of group {group} is being received")]
    NotInstalling {
        /// Group.
        group: Group,
    },
    /// The disk failed, as a test told it to.
    #[error("checkpoint of group {group}: injected error")]
    Injected {
        /// Group.
        group: Group,
    },
}

impl CheckpointError {
    /// Whether something that was written whole is not there whole any more. Another version of it is not damage, and
    /// neither is a disk that fails: what it holds may well be read another time.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Store { source, .. } | Self::Open(source) => index_store::is_damage(source),
            Self::Version { .. }
            | Self::Behind { .. }
            | Self::NotInstalling { .. }
            | Self::Injected { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests;
