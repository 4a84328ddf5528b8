//! Message bodies that outlive their log segment.
//!
//! Owns: immutable body files per group, their table in memory (24 bytes per body), merging of sparse files.
//! Does not: decide what is alive; the caller says so.
//! Invariants: a body file gets its name only after it was written whole and synced, so a bad byte in one is always
//! corruption, never a torn write; a body is in its new file, durable, before its old place goes away.
//! Limits: BODY_FILE_BYTES_DEFAULT, BODIES_PER_FILE_MAX, BODY_HANDLES_MAX. See: docs/formats/log-record.md.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::cache::{Cache, Cached, DrainDetector, Origin, Place};
use crate::copy::Copies;
use crate::disk::{Disk, DiskFile, is_no_space, read_up_to};
use crate::field::{array, length_u32, memory, put, u32_at, u64_at};
use crate::limits::{BODIES_PER_FILE_MAX, BODY_FILE_LIVE_DIVISOR, BODY_FILES_MERGED_MIN, BODY_HANDLES_MAX};
use crate::payload::{Offer, Payload, Sources};
use crate::{Group, Index};

/// Magic of a body file.
pub const BODY_MAGIC: [u8; 8] = *b"QBODIES\0";

/// Version of the body file format.
pub const BODY_VERSION: u8 = 1;

/// Bytes before the table.
pub const BODY_HEADER_BYTES: usize = 64;

/// Bytes of one row of the table.
pub const BODY_ROW_BYTES: usize = 24;

/// An operation on body files failed.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The disk failed.
    #[error("{operation} {path}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{path} is corrupt: {what}")]
    Corrupt {
        /// Which file.
        path: String,
        /// What does not hold.
        what: &'static str,
    },
    /// A file is whole, and of a version that this program does not know: another program wrote it.
    #[error("version {version} of {path} is not known")]
    Version {
        /// Which file.
        path: String,
        /// Its version.
        version: u8,
    },
}

impl BodyError {
    /// Whether the disk has no room. What is in force has not changed, and the same may be tried again.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }
}

/// Place of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct BodyPosition {
    index: Index,
    file: u32,
    offset: u32,
    bytes: u32,
    checksum: u32,
}

const _: () = assert!(size_of::<BodyPosition>() == 24);

/// Body files. Clones share them; every method may be called from any thread.
#[derive(Clone)]
pub struct Bodies {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    copies: Copies,
    sources: Sources,
    directory: String,
    file_bytes: u64,
    state: RwLock<State>,
    /// Held by whoever writes, merges or unlinks files; readers do not need it.
    maintenance: Mutex<()>,
    handles: Mutex<VecDeque<(u32, Arc<dyn DiskFile>)>>,
    cache: Arc<Mutex<Cache>>,
    drains: Mutex<DrainDetector>,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<Group, Vec<BodyPosition>>,
    files: BTreeMap<u32, BodyFile>,
    number_next: u32,
    /// Bodies of a snapshot that is being received, not yet in a file.
    staged: BTreeMap<Group, Vec<(Index, Bytes)>>,
    staged_bytes: BTreeMap<Group, u64>,
    /// Groups that are being installed: what is alive in them is not known yet.
    installing: BTreeSet<Group>,
}

#[derive(Clone, Copy)]
struct BodyFile {
    group: Group,
    bytes: u64,
}

/// What a sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepOutcome {
    /// Files unlinked.
    pub files_unlinked: u64,
    /// Bytes of these files.
    pub bytes_freed: u64,
    /// Bytes written to merge sparse files.
    pub bytes_rewritten: u64,
}

impl Bodies {
    pub(crate) fn open(
        copies: &Copies,
        directory: &str,
        file_bytes: u64,
        cache: Arc<Mutex<Cache>>,
    ) -> Result<Self, BodyError> {
        let failed = |operation, path: &str| {
            let path = path.to_string();
            move |source| BodyError::Io { operation, path, source }
        };
        let disk = copies.disk.clone();
        disk.create_directory(directory).map_err(failed("create directory", directory))?;
        let mut copied: BTreeSet<String> =
            copies.names().into_iter().filter(|name| name.starts_with(TABLES)).collect();
        let names = disk.list(directory).map_err(failed("list", directory))?;
        let mut state = State { number_next: 1, ..State::default() };
        let mut dropped = false;
        for name in names {
            let path = format!("{directory}/{name}");
            let Some((group, number)) = parse_name(&name) else {
                // A file that never got its name: what it was to hold is still where it came from.
                disk.unlink(&path).map_err(failed("unlink", &path))?;
                dropped = true;
                continue;
            };
            let file = disk.open(&path).map_err(failed("open", &path))?;
            let copy = table_name(group, number);
            let has_copy = copied.remove(&copy);
            let rows = match read_table(file.as_ref(), &path, group, number) {
                Err(BodyError::Corrupt { path, what }) => {
                    mend_table(copies, file.as_ref(), &path, group, number)?
                        .ok_or(BodyError::Corrupt { path, what })?
                }
                read => read?,
            };
            if !has_copy {
                copy_table(copies, file.as_ref(), group, number, rows.len());
            }
            state.adopt(group, number, file.len().map_err(failed("measure", &path))?, &rows);
        }
        for name in copied {
            // Of a file that is gone; what fails is tried again at the next start.
            let _ = copies.remove(&name);
        }
        if dropped {
            disk.sync_directory(directory).map_err(failed("sync directory", directory))?;
        }
        let inner = Inner {
            disk,
            copies: copies.clone(),
            sources: Sources::default(),
            directory: directory.to_string(),
            file_bytes,
            state: RwLock::new(state),
            maintenance: Mutex::new(()),
            handles: Mutex::new(VecDeque::new()),
            cache,
            drains: Mutex::new(DrainDetector::default()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The source of payloads, shared with the log.
    pub(crate) fn sources(&self) -> Sources {
        self.inner.sources.clone()
    }

    /// A body; `None` if there is none for that entry. One that is damaged is asked for where [`crate::LogReader::repair_from`] says.
    pub fn read(&self, group: Group, index: Index) -> Result<Option<Bytes>, BodyError> {
        match self.read_as_it_is(group, index) {
            Err(BodyError::Corrupt { .. }) if self.mend(group, index) == Some(Offer::Taken) => {
                self.read_as_it_is(group, index)
            }
            read => read,
        }
    }

    /// Asks for a damaged body and writes it again. `None` if nobody can be asked.
    pub fn mend(&self, group: Group, index: Index) -> Option<Offer> {
        self.inner.mend(group, index, |body| self.restore(group, index, body))
    }

    /// A body, and an error where it is damaged.
    pub(crate) fn read_as_it_is(&self, group: Group, index: Index) -> Result<Option<Bytes>, BodyError> {
        loop {
            let Some(position) = self.inner.state.read().position(group, index) else { return Ok(None) };
            // An empty body has the offset of its successor: it has no place of its own in the file or in the cache.
            if position.bytes == 0 {
                return Ok(Some(Bytes::new()));
            }
            if let Some(cached) = self.inner.cache.lock().get(Place::Body(position.file, position.offset)) {
                return Ok(Some(cached.data));
            }
            match self.inner.read_at(group, position) {
                Ok(body) => return Ok(Some(body)),
                // The file may have been merged away since the lookup.
                Err(error) if self.inner.state.read().position(group, index) == Some(position) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }

    /// Writes a body again that its file no longer has as it was, and makes it durable. False if this is not the body that was
    /// written; nothing has changed then. Nothing is to be done where the file was merged away meanwhile.
    pub fn restore(&self, group: Group, index: Index, body: &[u8]) -> Result<bool, BodyError> {
        let _alone = self.inner.maintenance.lock();
        self.inner.restore(group, index, body)
    }

    /// Files and the groups that they are of.
    pub(crate) fn files(&self) -> Vec<(u32, Group)> {
        self.inner.state.read().files.iter().map(|(number, file)| (*number, file.group)).collect()
    }

    /// Checks header, table and bodies of one file against their checksums, read from the device; mends the table, or its copy, if
    /// only one of them is damaged. Gives the bytes read and the bodies that are damaged; nothing of a file that is gone.
    pub(crate) fn check_file(&self, group: Group, number: u32) -> Result<(u64, Vec<Index>), BodyError> {
        let _alone = self.inner.maintenance.lock();
        let rows: Vec<BodyPosition> = {
            let state = self.inner.state.read();
            let Some(bodies) = state.groups.get(&group).filter(|_| state.files.contains_key(&number)) else {
                return Ok((0, Vec::new()));
            };
            bodies.iter().filter(|body| body.file == number).copied().collect()
        };
        let path = self.inner.path(group, number);
        let file = self.inner.disk.open(&path).map_err(Inner::io("open", &path))?;
        let copies = &self.inner.copies;
        match read_table(file.as_ref(), &path, group, number) {
            Ok(table) => {
                let length = file.len().map_err(Inner::io("measure", &path))?;
                let copy = copies.read(&table_name(group, number), table_end(table.len()));
                if copy.and_then(|copy| decode_table(&copy, group, number, length)) != Some(table.clone()) {
                    copy_table(copies, file.as_ref(), group, number, table.len());
                }
            }
            Err(BodyError::Corrupt { path, what }) => {
                mend_table(copies, file.as_ref(), &path, group, number)?
                    .ok_or(BodyError::Corrupt { path, what })?;
            }
            Err(error) => return Err(error),
        }
        let (mut bytes, mut damaged) = (table_end(rows.len()) as u64, Vec::new());
        for row in rows {
            let body = read_up_to(file.as_ref(), u64::from(row.offset), row.bytes as usize);
            let body = body.map_err(Inner::io("read", &path))?;
            if !row.matches(group, &body) {
                damaged.push(row.index);
            }
            bytes += u64::from(row.bytes);
        }
        Ok((bytes, damaged))
    }

    /// Whether there is a body for that entry.
    pub fn contains(&self, group: Group, index: Index) -> bool {
        self.inner.state.read().position(group, index).is_some()
    }

    /// Writes bodies of one group, sorted by index, to new files; they are durable and readable when this returns.
    /// `read` gives the body of an index; an index without one is left out.
    pub fn write<E: From<BodyError>>(
        &self,
        group: Group,
        indexes: &[Index],
        mut read: impl FnMut(Index) -> Result<Option<Bytes>, E>,
    ) -> Result<u64, E> {
        let _alone = self.inner.maintenance.lock();
        let mut written = 0;
        let mut batch: Vec<(Index, Bytes)> = Vec::new();
        let mut batch_bytes = 0;
        for index in indexes {
            let Some(body) = read(*index)? else { continue };
            let full =
                batch_bytes + body.len() as u64 > self.inner.file_bytes || batch.len() >= BODIES_PER_FILE_MAX;
            if full && !batch.is_empty() {
                written += self.inner.write_file(group, &batch)?;
                batch.clear();
                batch_bytes = 0;
            }
            batch_bytes += body.len() as u64;
            batch.push((*index, body));
        }
        if !batch.is_empty() {
            written += self.inner.write_file(group, &batch)?;
        }
        Ok(written)
    }

    /// Takes in a body that arrives with a snapshot of its group. Bodies come in ascending order of index. They can
    /// be read after `seal`, and are safe from sweeps until `settle`.
    pub fn put(&self, group: Group, index: Index, body: Bytes) -> Result<(), BodyError> {
        let full = {
            let mut state = self.inner.state.write();
            state.installing.insert(group);
            let bytes = state.staged_bytes.entry(group).or_default();
            *bytes += body.len() as u64;
            let full = *bytes >= self.inner.file_bytes;
            let staged = state.staged.entry(group).or_default();
            staged.push((index, body));
            full || staged.len() >= BODIES_PER_FILE_MAX
        };
        if full { self.flush_staged(group) } else { Ok(()) }
    }

    /// Makes all bodies that were put for the group durable and readable. To be called before the snapshot's records
    /// are committed: records must never refer to a body that a crash could take.
    pub fn seal(&self, group: Group) -> Result<(), BodyError> {
        self.flush_staged(group)
    }

    /// Ends the installation of a snapshot, carried out or given up: sweeps may look at the group again.
    pub fn settle(&self, group: Group) {
        let mut state = self.inner.state.write();
        state.staged.remove(&group);
        state.staged_bytes.remove(&group);
        state.installing.remove(&group);
    }

    /// Unlinks files in which nothing is alive and merges sparse ones. `live` must not know less than the group's
    /// durable checkpoint: what it calls dead is gone.
    pub fn sweep(&self, live: &dyn Fn(Group, Index) -> bool) -> Result<SweepOutcome, BodyError> {
        let _alone = self.inner.maintenance.lock();
        let mut outcome = SweepOutcome::default();
        let groups: Vec<Group> = self.inner.state.read().groups.keys().copied().collect();
        for group in groups {
            self.inner.sweep_group(group, live, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Unlinks all body files of a group.
    pub fn remove_group(&self, group: Group) -> Result<(), BodyError> {
        let _alone = self.inner.maintenance.lock();
        self.settle(group);
        let files = {
            let mut state = self.inner.state.write();
            state.groups.remove(&group);
            state.files_of(group)
        };
        self.inner.unlink_files(&files).map(|_| ())
    }

    /// Bytes of all body files.
    pub fn bytes(&self) -> u64 {
        self.inner.state.read().files.values().map(|file| file.bytes).sum()
    }

    /// Number of body files.
    pub fn file_count(&self) -> usize {
        self.inner.state.read().files.len()
    }

    /// Number of bodies.
    pub fn count(&self) -> usize {
        self.inner.state.read().groups.values().map(Vec::len).sum()
    }

    fn flush_staged(&self, group: Group) -> Result<(), BodyError> {
        let mut staged = {
            let mut state = self.inner.state.write();
            state.staged_bytes.remove(&group);
            state.staged.remove(&group).unwrap_or_default()
        };
        staged.sort_by_key(|(index, _)| *index);
        let indexes: Vec<Index> = staged.iter().map(|(index, _)| *index).collect();
        let mut bodies = staged.into_iter();
        self.write(group, &indexes, |_| Ok::<_, BodyError>(bodies.next().map(|(_, body)| body))).map(|_| ())
    }
}

impl State {
    fn position(&self, group: Group, index: Index) -> Option<BodyPosition> {
        let bodies = self.groups.get(&group)?;
        let slot = bodies.binary_search_by_key(&index, |body| body.index).ok()?;
        bodies.get(slot).copied()
    }

    /// Takes in a file; where a body is known already, the newer file counts.
    fn adopt(&mut self, group: Group, number: u32, bytes: u64, rows: &[BodyPosition]) {
        self.number_next = self.number_next.max(number + 1);
        self.files.insert(number, BodyFile { group, bytes });
        let bodies = self.groups.entry(group).or_default();
        let follows = match (bodies.last(), rows.first()) {
            (Some(last), Some(first)) => last.index < first.index,
            _ => true,
        };
        bodies.extend_from_slice(rows);
        if !follows {
            bodies.sort_by_key(|body| (body.index, std::cmp::Reverse(body.file)));
            bodies.dedup_by_key(|body| body.index);
        }
    }

    fn files_of(&self, group: Group) -> Vec<u32> {
        self.files.iter().filter(|(_, file)| file.group == group).map(|(number, _)| *number).collect()
    }
}

impl Inner {
    /// Writes a body again. To be called by who holds `maintenance`.
    fn restore(&self, group: Group, index: Index, body: &[u8]) -> Result<bool, BodyError> {
        let Some(position) = self.state.read().position(group, index) else { return Ok(true) };
        if length_u32(body.len()) != position.bytes || !position.matches(group, body) {
            return Ok(false);
        }
        let path = self.path(group, position.file);
        let file = self.handle(group, position.file)?;
        file.write_at(u64::from(position.offset), body).map_err(Inner::io("write", &path))?;
        file.sync_data().map_err(Inner::io("sync", &path))?;
        Ok(true)
    }

    fn mend(
        &self,
        group: Group,
        index: Index,
        restore: impl Fn(&[u8]) -> Result<bool, BodyError>,
    ) -> Option<Offer> {
        // Where it cannot be written, whoever wants the body gets the error of its damage.
        let mut take = |payload: &Payload| restore(&payload.data).unwrap_or(false);
        Some(self.sources.get()?.offer(group, index, &mut take))
    }

    fn path(&self, group: Group, number: u32) -> String {
        format!("{}/{}", self.directory, body_name(group, number))
    }

    fn io(operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> BodyError {
        let path = path.to_string();
        move |source| BodyError::Io { operation, path, source }
    }

    /// Writes one file, makes it durable, then readable.
    fn write_file(&self, group: Group, bodies: &[(Index, Bytes)]) -> Result<u64, BodyError> {
        let number = {
            let mut state = self.state.write();
            let number = state.number_next;
            state.number_next += 1;
            number
        };
        let (bytes, rows) = encode_file(group, number, bodies);
        let path = self.path(group, number);
        let draft = format!("{path}.draft");
        if let Err(error) = self.write_draft(&draft, &path, &bytes) {
            // Whatever is left of it is removed at the next open; the error is what matters.
            let _ = self.disk.unlink(&draft);
            return Err(error);
        }
        let table = bytes.get(..table_end(rows.len())).unwrap_or_default();
        // Where it is missing it is made again at the next start.
        let _ = self.copies.write(&table_name(group, number), table);
        self.state.write().adopt(group, number, bytes.len() as u64, &rows);
        Ok(bytes.len() as u64)
    }

    fn write_draft(&self, draft: &str, path: &str, bytes: &[u8]) -> Result<(), BodyError> {
        let file = self.disk.create(draft, 0).map_err(Self::io("create", draft))?;
        file.write_at(0, bytes).map_err(Self::io("write", draft))?;
        file.sync_data().map_err(Self::io("sync", draft))?;
        self.disk.rename(draft, path).map_err(Self::io("rename", draft))?;
        self.disk.sync_directory(&self.directory).map_err(Self::io("sync directory", &self.directory))
    }

    fn handle(&self, group: Group, number: u32) -> Result<Arc<dyn DiskFile>, BodyError> {
        let mut handles = self.handles.lock();
        if let Some(slot) = handles.iter().position(|(open, _)| *open == number)
            && let Some(entry) = handles.remove(slot)
        {
            handles.push_back(entry.clone());
            return Ok(entry.1);
        }
        let path = self.path(group, number);
        let file = self.disk.open(&path).map_err(Self::io("open", &path))?;
        if handles.len() >= BODY_HANDLES_MAX {
            handles.pop_front();
        }
        handles.push_back((number, file.clone()));
        Ok(file)
    }

    fn read_at(&self, group: Group, position: BodyPosition) -> Result<Bytes, BodyError> {
        let ahead = self.drains.lock().read_bytes(group, position.index);
        let length = memory(ahead.max(u64::from(position.bytes)));
        let path = self.path(group, position.file);
        let file = self.handle(group, position.file)?;
        let chunk =
            read_up_to(file.as_ref(), u64::from(position.offset), length).map_err(Self::io("read", &path))?;
        let chunk = Bytes::from(chunk);
        let wanted =
            slice_of(&chunk, position.offset, &position).filter(|body| position.matches(group, body));
        let body = wanted.ok_or(BodyError::Corrupt { path, what: "a body does not match its checksum" })?;
        self.remember_chunk(group, position, &chunk);
        Ok(body)
    }

    fn remember_chunk(&self, group: Group, first: BodyPosition, chunk: &Bytes) {
        let neighbours: Vec<BodyPosition> = {
            let state = self.state.read();
            let bodies = state.groups.get(&group).map(Vec::as_slice).unwrap_or_default();
            let start = bodies.partition_point(|body| body.index < first.index);
            let end = u64::from(first.offset) + chunk.len() as u64;
            let inside = |body: &&BodyPosition| {
                body.file == first.file && u64::from(body.offset) + u64::from(body.bytes) <= end
            };
            bodies.iter().skip(start).take_while(inside).copied().collect()
        };
        let mut cache = self.cache.lock();
        for body in neighbours {
            let Some(data) = slice_of(chunk, first.offset, &body).filter(|data| body.matches(group, data))
            else {
                break;
            };
            if data.is_empty() {
                continue;
            }
            let cached = Cached { term: 0, entry_type: 0, data, context: Bytes::new() };
            cache.insert(Place::Body(body.file, body.offset), cached, Origin::Read);
        }
    }

    fn sweep_group(
        &self,
        group: Group,
        live: &dyn Fn(Group, Index) -> bool,
        outcome: &mut SweepOutcome,
    ) -> Result<(), BodyError> {
        let (bodies, files) = {
            let state = self.state.read();
            if state.installing.contains(&group) {
                return Ok(());
            }
            (state.groups.get(&group).cloned().unwrap_or_default(), state.files_of(group))
        };
        let mut live_bytes: BTreeMap<u32, u64> = files.iter().map(|number| (*number, 0)).collect();
        let mut alive: BTreeSet<Index> = BTreeSet::new();
        for body in bodies.iter().filter(|body| live(group, body.index)) {
            alive.insert(body.index);
            *live_bytes.entry(body.file).or_default() += u64::from(body.bytes).max(1);
        }
        let sizes: BTreeMap<u32, u64> =
            self.state.read().files.iter().map(|(number, file)| (*number, file.bytes)).collect();
        let size = |number: &u32| sizes.get(number).copied().unwrap_or(0);
        let dead: Vec<u32> = live_bytes.iter().filter(|(_, b)| **b == 0).map(|(n, _)| *n).collect();
        let sparse = self.sparse_files(&live_bytes, &size);
        let merged = self.merge(group, &bodies, &alive, &sparse, outcome)?;
        let gone: BTreeSet<u32> = dead.into_iter().chain(merged).collect();
        if let Some(bodies) = self.state.write().groups.get_mut(&group) {
            bodies.retain(|body| !gone.contains(&body.file) && alive.contains(&body.index));
        }
        outcome.files_unlinked += gone.len() as u64;
        outcome.bytes_freed += self.unlink_files(&gone.into_iter().collect::<Vec<_>>())?;
        Ok(())
    }

    /// Files worth merging: they hold little that is alive, and together either many or much that is dead.
    fn sparse_files(&self, live_bytes: &BTreeMap<u32, u64>, size: &dyn Fn(&u32) -> u64) -> BTreeSet<u32> {
        let little = |bytes: u64| bytes > 0 && bytes * BODY_FILE_LIVE_DIVISOR < self.file_bytes;
        let sparse: BTreeSet<u32> =
            live_bytes.iter().filter(|(_, bytes)| little(**bytes)).map(|(number, _)| *number).collect();
        let size_sum: u64 = sparse.iter().map(size).sum();
        let live_sum: u64 = sparse.iter().filter_map(|number| live_bytes.get(number)).sum();
        let worth = sparse.len() >= BODY_FILES_MERGED_MIN || size_sum > live_sum * BODY_FILE_LIVE_DIVISOR;
        if worth { sparse } else { BTreeSet::new() }
    }

    /// Rewrites what is alive in sparse files; returns the files that are not needed any more.
    fn merge(
        &self,
        group: Group,
        bodies: &[BodyPosition],
        alive: &BTreeSet<Index>,
        sparse: &BTreeSet<u32>,
        outcome: &mut SweepOutcome,
    ) -> Result<Vec<u32>, BodyError> {
        let mut batch: Vec<(Index, Bytes)> = Vec::new();
        let mut bytes = 0;
        let kept = bodies.iter().filter(|body| sparse.contains(&body.file) && alive.contains(&body.index));
        for position in kept {
            if bytes >= self.file_bytes || batch.len() >= BODIES_PER_FILE_MAX {
                outcome.bytes_rewritten += self.write_file(group, &batch)?;
                batch.clear();
                bytes = 0;
            }
            let restore = |body: &[u8]| self.restore(group, position.index, body);
            let body = match self.read_at(group, *position) {
                Err(BodyError::Corrupt { .. })
                    if self.mend(group, position.index, restore) == Some(Offer::Taken) =>
                {
                    self.read_at(group, *position)?
                }
                read => read?,
            };
            bytes += body.len() as u64;
            batch.push((position.index, body));
        }
        if !batch.is_empty() {
            outcome.bytes_rewritten += self.write_file(group, &batch)?;
        }
        Ok(sparse.iter().copied().collect())
    }

    fn unlink_files(&self, numbers: &[u32]) -> Result<u64, BodyError> {
        let mut freed = 0;
        for number in numbers {
            let Some(file) = self.state.write().files.remove(number) else { continue };
            self.handles.lock().retain(|(open, _)| open != number);
            let path = self.path(file.group, *number);
            self.disk.unlink(&path).map_err(Self::io("unlink", &path))?;
            let _ = self.copies.remove(&table_name(file.group, *number));
            freed += file.bytes;
        }
        if !numbers.is_empty() {
            let directory = &self.directory;
            self.disk.sync_directory(directory).map_err(Self::io("sync directory", directory))?;
        }
        Ok(freed)
    }
}

impl BodyPosition {
    fn matches(&self, group: Group, body: &[u8]) -> bool {
        self.checksum == body_checksum(group, self.index, body)
    }
}

fn slice_of(chunk: &Bytes, chunk_offset: u32, body: &BodyPosition) -> Option<Bytes> {
    let start = body.offset.checked_sub(chunk_offset)? as usize;
    let end = start.checked_add(body.bytes as usize)?;
    (end <= chunk.len()).then(|| chunk.slice(start..end))
}

fn body_checksum(group: Group, index: Index, body: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&group.to_le_bytes()), &index.to_le_bytes());
    crc32c::crc32c_append(crc, body)
}

fn body_name(group: Group, number: u32) -> String {
    format!("group-{group:010}-{number:010}")
}

fn parse_name(name: &str) -> Option<(Group, u32)> {
    let (group, number) = name.strip_prefix("group-")?.split_once('-')?;
    let (group, number) = (group.parse().ok()?, number.parse().ok()?);
    (body_name(group, number) == name).then_some((group, number))
}

fn encode_file(group: Group, number: u32, bodies: &[(Index, Bytes)]) -> (Vec<u8>, Vec<BodyPosition>) {
    let mut offset = BODY_HEADER_BYTES + bodies.len() * BODY_ROW_BYTES;
    let mut bytes = vec![0; offset];
    let mut rows = Vec::with_capacity(bodies.len());
    for (slot, (index, body)) in bodies.iter().enumerate() {
        let checksum = body_checksum(group, *index, body);
        let position = BodyPosition {
            index: *index,
            file: number,
            offset: length_u32(offset),
            bytes: length_u32(body.len()),
            checksum,
        };
        let row = BODY_HEADER_BYTES + slot * BODY_ROW_BYTES;
        put(&mut bytes, row, &index.to_le_bytes());
        put(&mut bytes, row + 8, &position.offset.to_le_bytes());
        put(&mut bytes, row + 12, &position.bytes.to_le_bytes());
        put(&mut bytes, row + 16, &checksum.to_le_bytes());
        bytes.extend_from_slice(body);
        offset += body.len();
        rows.push(position);
    }
    put(&mut bytes, 0, &BODY_MAGIC);
    put(&mut bytes, 8, &[BODY_VERSION]);
    put(&mut bytes, 12, &group.to_le_bytes());
    put(&mut bytes, 16, &number.to_le_bytes());
    put(&mut bytes, 20, &length_u32(bodies.len()).to_le_bytes());
    put(&mut bytes, 24, &(offset as u64).to_le_bytes());
    let table = bytes.get(BODY_HEADER_BYTES..BODY_HEADER_BYTES + bodies.len() * BODY_ROW_BYTES);
    let table_crc = crc32c::crc32c(table.unwrap_or_default());
    put(&mut bytes, 32, &table_crc.to_le_bytes());
    let header_crc = crc32c::crc32c(bytes.get(..36).unwrap_or_default());
    put(&mut bytes, 36, &header_crc.to_le_bytes());
    (bytes, rows)
}

/// How names of copies of tables begin.
const TABLES: &str = "tables-";

/// Name of the copy of a body file's header and table.
fn table_name(group: Group, number: u32) -> String {
    format!("{TABLES}{group:010}-{number:010}")
}

/// Where the table of a body file ends.
fn table_end(count: usize) -> usize {
    BODY_HEADER_BYTES + count * BODY_ROW_BYTES
}

/// Copies the header and the table of a file, which are whole.
fn copy_table(copies: &Copies, file: &dyn DiskFile, group: Group, number: u32, count: usize) {
    if let Ok(table) = read_up_to(file, 0, table_end(count)) {
        // Without it the file is as good as it was; the next start tries again.
        let _ = copies.write(&table_name(group, number), &table);
    }
}

/// Writes header and table of a file again from their copy, and gives it the length that it had. `None` without a copy that is
/// whole.
fn mend_table(
    copies: &Copies,
    file: &dyn DiskFile,
    path: &str,
    group: Group,
    number: u32,
) -> Result<Option<Vec<BodyPosition>>, BodyError> {
    let Some(copy) = copies.read(&table_name(group, number), table_end(BODIES_PER_FILE_MAX)) else {
        return Ok(None);
    };
    let length = u64_at(&copy, 24).unwrap_or(0);
    let found = file.len().map_err(Inner::io("measure", path))?;
    let Some(rows) = decode_table(&copy, group, number, length).filter(|_| found <= length) else {
        return Ok(None);
    };
    if found < length {
        file.write_at(length - 1, &[0]).map_err(Inner::io("mend", path))?;
    }
    file.write_at(0, copy.get(..table_end(rows.len())).unwrap_or_default())
        .map_err(Inner::io("mend", path))?;
    file.sync_data().map_err(Inner::io("sync", path))?;
    Ok(Some(rows))
}

/// Rows of a table with its header, if both are whole.
fn decode_table(bytes: &[u8], group: Group, number: u32, length: u64) -> Option<Vec<BodyPosition>> {
    let count = decode_header(bytes, group, number, length)?;
    let table = bytes.get(BODY_HEADER_BYTES..table_end(count))?;
    let whole = u32_at(bytes, 32)? == crc32c::crc32c(table);
    table
        .chunks_exact(BODY_ROW_BYTES)
        .map(|row| decode_row(row, number))
        .collect::<Option<_>>()
        .filter(|_| whole)
}

fn read_table(
    file: &dyn DiskFile,
    path: &str,
    group: Group,
    number: u32,
) -> Result<Vec<BodyPosition>, BodyError> {
    let corrupt = |what| BodyError::Corrupt { path: path.to_string(), what };
    let header = read_up_to(file, 0, BODY_HEADER_BYTES).map_err(Inner::io("read", path))?;
    let length = file.len().map_err(Inner::io("measure", path))?;
    if let Some(version) = other_version(&header) {
        return Err(BodyError::Version { path: path.to_string(), version });
    }
    let count =
        decode_header(&header, group, number, length).ok_or(corrupt("its header does not validate"))?;
    let table = read_up_to(file, BODY_HEADER_BYTES as u64, count * BODY_ROW_BYTES);
    let table = table.map_err(Inner::io("read", path))?;
    if u32_at(&header, 32) != Some(crc32c::crc32c(&table)) {
        return Err(corrupt("its table does not match its checksum"));
    }
    let rows: Option<Vec<BodyPosition>> =
        table.chunks_exact(BODY_ROW_BYTES).map(|row| decode_row(row, number)).collect();
    rows.ok_or(corrupt("its table is too short"))
}

/// The version of a header that is whole but not of this program's version: it is not damage.
fn other_version(header: &[u8]) -> Option<u8> {
    let whole =
        array(header, 0) == Some(BODY_MAGIC) && u32_at(header, 36) == Some(crc32c::crc32c(header.get(..36)?));
    header.get(8).copied().filter(|version| whole && *version != BODY_VERSION)
}

/// Number of bodies, if the header is that of this file and the file has its full length.
fn decode_header(header: &[u8], group: Group, number: u32, length: u64) -> Option<usize> {
    let intact = array(header, 0) == Some(BODY_MAGIC)
        && header.get(8) == Some(&BODY_VERSION)
        && u32_at(header, 12) == Some(group)
        && u32_at(header, 16) == Some(number)
        && u64_at(header, 24) == Some(length)
        && u32_at(header, 36) == Some(crc32c::crc32c(header.get(..36)?));
    let count = usize::try_from(u32_at(header, 20)?).ok()?;
    (intact && count <= BODIES_PER_FILE_MAX).then_some(count)
}

fn decode_row(row: &[u8], file: u32) -> Option<BodyPosition> {
    Some(BodyPosition {
        index: u64_at(row, 0)?,
        file,
        offset: u32_at(row, 8)?,
        bytes: u32_at(row, 12)?,
        checksum: u32_at(row, 16)?,
    })
}
