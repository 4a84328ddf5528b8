//! Checkpoints in an LSM tree on disk.
//!
//! Owns: one key space per group and generation, and the pointer from a group to its generation. Does not: hold
//! anything shaped like a queue.
//! Invariants: a snapshot is received into a generation of its own and becomes the group's state by one durable
//! change of the pointer; a key space that no pointer names is removed at the next start, if no pointer was lost.
//! Limits: CHECKPOINT_*. See: docs/formats/checkpoint.md.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use parking_lot::Mutex;

use super::{AppliedMark, Change, CheckpointError, CheckpointStore, CheckpointView};
use crate::Group;
use crate::field::u64_at;
use crate::limits::{
    CHECKPOINT_CACHE_BYTES, CHECKPOINT_FILES_MAX, CHECKPOINT_JOURNAL_BYTES_MAX, CHECKPOINT_MEMTABLE_BYTES,
};

/// Name of the key space of pointers.
const POINTERS: &str = "pointers";

/// Version of a pointer.
const POINTER_VERSION: u8 = 1;

/// Key of the mark in a group's key space.
const MARK_KEY: &[u8] = &[0];

/// First byte of the key of each record.
const RECORD_PREFIX: u8 = 1;

/// Checkpoints on disk.
pub struct IndexStore {
    database: Database,
    pointers: Keyspace,
    /// Changes are rare and large: one lock for all of them.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<Group, Slot>,
    installing: BTreeMap<Group, Slot>,
    generation_next: u64,
}

#[derive(Clone)]
struct Slot {
    generation: u64,
    keyspace: Keyspace,
    mark: Option<AppliedMark>,
}

fn failed(operation: &'static str, group: Group) -> impl FnOnce(fjall::Error) -> CheckpointError {
    move |source| CheckpointError::Store { operation, group, source: Box::new(source) }
}

fn open_failed(error: fjall::Error) -> CheckpointError {
    CheckpointError::Open(Box::new(error))
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(CHECKPOINT_MEMTABLE_BYTES)
}

fn keyspace_name(group: Group, generation: u64) -> String {
    format!("group-{group}-{generation}")
}

fn record_key(key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(RECORD_PREFIX);
    full.extend_from_slice(key);
    full
}

impl IndexStore {
    /// Opens the store in a directory of the operating system, creating it if needed. It spawns one thread for
    /// flushes and compactions.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let builder = Database::builder(path)
            .cache_size(CHECKPOINT_CACHE_BYTES)
            .max_journaling_size(CHECKPOINT_JOURNAL_BYTES_MAX)
            .max_cached_files(Some(CHECKPOINT_FILES_MAX))
            .worker_threads(1);
        let database: Database = builder.open().map_err(open_failed)?;
        let pointers = database.keyspace(POINTERS, options).map_err(open_failed)?;
        let mut state = State { generation_next: 1, ..State::default() };
        for entry in pointers.iter() {
            let (key, value) = entry.into_inner().map_err(open_failed)?;
            let group = <[u8; 4]>::try_from(key.as_ref()).map(Group::from_be_bytes);
            let group = group.map_err(|_| CheckpointError::Corrupt { group: Group::MAX })?;
            if let Some(version) = value.first().copied().filter(|version| *version != POINTER_VERSION) {
                return Err(CheckpointError::Version { group, version });
            }
            let generation = decode_pointer(&value).ok_or(CheckpointError::Corrupt { group })?;
            let name = keyspace_name(group, generation);
            if !database.keyspace_exists(&name) {
                return Err(CheckpointError::Corrupt { group });
            }
            let keyspace = database.keyspace(&name, options).map_err(open_failed)?;
            let mark = keyspace.get(MARK_KEY).map_err(open_failed)?;
            let mark = mark.ok_or(CheckpointError::Corrupt { group })?;
            if let Some(version) = AppliedMark::other_version(&mark) {
                return Err(CheckpointError::Version { group, version });
            }
            let mark = Some(AppliedMark::decode(&mark).ok_or(CheckpointError::Corrupt { group })?);
            state.groups.insert(group, Slot { generation, keyspace, mark });
        }
        let generations = database.list_keyspace_names();
        let generations = generations.iter().filter_map(|name| name.rsplit_once('-')?.1.parse::<u64>().ok());
        state.generation_next = generations.max().map_or(1, |newest| newest + 1);
        Ok(Self { database, pointers, state: Mutex::new(state) })
    }

    /// Removes key spaces that no pointer names: of installations that were never committed, and of generations that were replaced. To be
    /// called once it is known that no pointer was lost.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_orphans(&self) -> Result<(), CheckpointError> {
        let state = self.state.lock();
        let slots = state.groups.iter().chain(&state.installing);
        let named: Vec<String> = slots.map(|(group, slot)| keyspace_name(*group, slot.generation)).collect();
        for name in self.database.list_keyspace_names() {
            if *name != *POINTERS && !named.iter().any(|named| *name == **named) {
                let orphan = self.database.keyspace(&name, options).map_err(open_failed)?;
                self.database.delete_keyspace(orphan).map_err(open_failed)?;
            }
        }
        Ok(())
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }

    #[cfg(test)]
    pub(super) fn keyspaces(&self) -> usize {
        self.database.keyspace_count()
    }

    fn new_slot(&self, state: &mut State, group: Group) -> Result<Slot, CheckpointError> {
        let generation = state.generation_next;
        state.generation_next += 1;
        let name = keyspace_name(group, generation);
        let keyspace = self.database.keyspace(&name, options).map_err(failed("create", group))?;
        Ok(Slot { generation, keyspace, mark: None })
    }

    fn discard(&self, group: Group, slot: Option<Slot>) -> Result<(), CheckpointError> {
        match slot {
            Some(slot) => self.database.delete_keyspace(slot.keyspace).map_err(failed("remove", group)),
            None => Ok(()),
        }
    }
}

fn encode_pointer(generation: u64) -> Vec<u8> {
    let mut bytes = vec![POINTER_VERSION];
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes
}

/// Whether an error of the database says that its files are not what it has written.
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    use fjall::Error as E;
    use fjall::LsmError as Tree;
    // A file that is cut short is read to its end too early, or from before its begin; one that another names by a flipped bit
    // is not there.
    let cut = |error: &std::io::Error| {
        use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
        matches!(error.kind(), UnexpectedEof | InvalidData | InvalidInput | NotFound)
    };
    match error {
        E::Io(error) | E::Storage(Tree::Io(error)) => cut(error),
        E::Storage(error) => matches!(
            error,
            Tree::ChecksumMismatch { .. }
                | Tree::Decompress(_)
                | Tree::InvalidTag(_)
                | Tree::InvalidTrailer
                | Tree::InvalidHeader(_)
                | Tree::Unrecoverable
                | Tree::Utf8(_)
        ),
        E::JournalRecovery(_)
        | E::Decompress(_)
        | E::InvalidTrailer
        | E::InvalidTag(_)
        | E::InvalidVersion(None)
        | E::Unrecoverable => true,
        _ => false,
    }
}

fn decode_pointer(bytes: &[u8]) -> Option<u64> {
    (bytes.len() == 9 && bytes.first() == Some(&POINTER_VERSION)).then(|| u64_at(bytes, 1)).flatten()
}

impl CheckpointStore for IndexStore {
    fn groups(&self) -> Result<Vec<Group>, CheckpointError> {
        Ok(self.state.lock().groups.keys().copied().collect())
    }

    fn write(&self, group: Group, mark: &AppliedMark, changes: Vec<Change>) -> Result<(), CheckpointError> {
        let mut state = self.state.lock();
        let (slot, first) = match state.groups.get(&group) {
            Some(slot) => (slot.clone(), false),
            None => (self.new_slot(&mut state, group)?, true),
        };
        let current = slot.mark.as_ref().map_or(0, |mark| mark.index);
        if mark.index < current {
            return Err(CheckpointError::Behind { group, index: mark.index, current });
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&slot.keyspace, record_key(&key), value),
                None => batch.remove(&slot.keyspace, record_key(&key)),
            }
        }
        batch.insert(&slot.keyspace, MARK_KEY, mark.encode());
        if first {
            batch.insert(&self.pointers, group.to_be_bytes(), encode_pointer(slot.generation));
        }
        batch.commit().map_err(failed("write", group))?;
        state.groups.insert(group, Slot { mark: Some(mark.clone()), ..slot });
        Ok(())
    }

    fn mark(&self, group: Group) -> Result<Option<AppliedMark>, CheckpointError> {
        Ok(self.state.lock().groups.get(&group).and_then(|slot| slot.mark.clone()))
    }

    fn view(&self, group: Group) -> Result<Option<Box<dyn CheckpointView>>, CheckpointError> {
        let state = self.state.lock();
        let Some(slot) = state.groups.get(&group) else { return Ok(None) };
        // Under the lock no write of this store is half done: the mark belongs to the snapshot.
        let mark = slot.mark.clone().ok_or(CheckpointError::Corrupt { group })?;
        let records = self.database.snapshot().prefix(&slot.keyspace, [RECORD_PREFIX]);
        Ok(Some(Box::new(View { group, mark, records, ahead: None })))
    }

    fn begin_install(&self, group: Group) -> Result<(), CheckpointError> {
        let mut state = self.state.lock();
        let given_up = state.installing.remove(&group);
        self.discard(group, given_up)?;
        let slot = self.new_slot(&mut state, group)?;
        state.installing.insert(group, slot);
        Ok(())
    }

    fn put_chunk(&self, group: Group, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), CheckpointError> {
        let state = self.state.lock();
        let slot = state.installing.get(&group).ok_or(CheckpointError::NotInstalling { group })?;
        let mut batch = self.database.batch();
        for (key, value) in records {
            batch.insert(&slot.keyspace, record_key(&key), value);
        }
        batch.commit().map_err(failed("receive", group))
    }

    fn commit_install(&self, group: Group, mark: &AppliedMark) -> Result<(), CheckpointError> {
        let mut state = self.state.lock();
        let slot = state.installing.remove(&group).ok_or(CheckpointError::NotInstalling { group })?;
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&slot.keyspace, MARK_KEY, mark.encode());
        batch.insert(&self.pointers, group.to_be_bytes(), encode_pointer(slot.generation));
        batch.commit().map_err(failed("install", group))?;
        let slot = Slot { mark: Some(mark.clone()), ..slot };
        let replaced = state.groups.insert(group, slot);
        self.discard(group, replaced)
    }

    fn abort_install(&self, group: Group) -> Result<(), CheckpointError> {
        let given_up = self.state.lock().installing.remove(&group);
        self.discard(group, given_up)
    }

    fn remove(&self, group: Group) -> Result<(), CheckpointError> {
        let mut state = self.state.lock();
        let given_up = state.installing.remove(&group);
        self.discard(group, given_up)?;
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.remove(&self.pointers, group.to_be_bytes());
        batch.commit().map_err(failed("remove", group))?;
        let removed = state.groups.remove(&group);
        self.discard(group, removed)
    }
}

struct View {
    group: Group,
    mark: AppliedMark,
    records: fjall::Iter,
    /// A record that did not fit in the chunk before.
    ahead: Option<(Bytes, Bytes)>,
}

impl View {
    fn next_record(&mut self) -> Result<Option<(Bytes, Bytes)>, CheckpointError> {
        if let Some(record) = self.ahead.take() {
            return Ok(Some(record));
        }
        let Some(entry) = self.records.next() else { return Ok(None) };
        let (key, value) = entry.into_inner().map_err(failed("read", self.group))?;
        let key = key.get(1..).ok_or(CheckpointError::Corrupt { group: self.group })?;
        Ok(Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(&value))))
    }
}

impl CheckpointView for View {
    fn mark(&self) -> &AppliedMark {
        &self.mark
    }

    fn next_chunk(&mut self, bytes_max: usize) -> Result<Vec<(Bytes, Bytes)>, CheckpointError> {
        let mut chunk: Vec<(Bytes, Bytes)> = Vec::new();
        let mut bytes = 0;
        while let Some((key, value)) = self.next_record()? {
            bytes += key.len() + value.len();
            if bytes > bytes_max && !chunk.is_empty() {
                self.ahead = Some((key, value));
                break;
            }
            chunk.push((key, value));
        }
        Ok(chunk)
    }
}
