//! Reads of the node from its log.
//!
//! Owns: [`StoredLog`], the node's view of storage. Does not: write.
//! Invariants: a read that fails, also after the other nodes were asked, ends the process: the replica cannot go on with what it cannot read. Reads that may reach the disk
//! show as waits for it.

use std::sync::Arc;

use bytes::Bytes;
use quorate_node::consensus::log::{LogSource, StoredEntry};
use quorate_state::{GroupId, LogIndex};
use quorate_storage::{LogReader, ReadError};

use crate::exit::{ExitCode, stop_now};
use crate::worker_beat::WorkerBeat;

/// The log of this node for reading.
pub struct StoredLog {
    /// The log.
    pub reader: LogReader,
    /// The sign of life of the worker, which reads.
    pub beat: Arc<WorkerBeat>,
}

impl LogSource for StoredLog {
    fn entries(&self, group: GroupId, low: LogIndex, high: LogIndex, bytes_max: u64) -> Vec<StoredEntry> {
        let entries = self.beat.at_disk(|| self.reader.entries(group.0, low.0, high.0, bytes_max));
        let entries = entries.unwrap_or_else(|error| fail(&error));
        entries
            .into_iter()
            .map(|entry| StoredEntry {
                index: LogIndex(entry.index),
                term: entry.term,
                entry_type: entry.entry_type,
                data: entry.data,
                context: entry.context,
            })
            .collect()
    }

    fn term(&self, group: GroupId, index: LogIndex) -> Option<u64> {
        self.reader.term(group.0, index.0)
    }

    fn body(&self, group: GroupId, index: LogIndex) -> Option<Bytes> {
        self.beat.at_disk(|| self.reader.body(group.0, index.0)).unwrap_or_else(|error| fail(&error))
    }
}

/// Damage that no other node could mend ends the process like a failing disk: it is started again, and the start decides what is to
/// be done about it.
fn fail(error: &ReadError) -> ! {
    stop_now(ExitCode::Disk, &crate::exit::chain(error))
}
