//! Opening a log: reading back what a crash has left.
//!
//! Owns: replay of all segments, the judgement on their tails, bringing the tail to the device before it is trusted.
//! Does not: repair. A log that is corrupt is reported and left as it is; the node gets its groups from its peers.
//! Invariants: nothing is changed on disk before the whole log was found good; records are counted in exactly the
//! order they were written; a sealed segment is whole or the log is corrupt.
//! See: docs/formats/log-record.md.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};

use crate::bodies::{Bodies, BodyError};
use crate::cache::{Cache, DrainDetector};
use crate::copy::{Copies, CopyWriter, Row, SegmentCopy};
use crate::disk::{Disk, DiskFile, read_up_to, write_zeros};
use crate::field::{length_u32, memory};
use crate::index::{GroupIndex, LogIndex, Position, SegmentState};
use crate::log::{Head, Log, LogError, LogOptions, Spare, begin_segment};
use crate::reader::Shared;
use crate::record::{Draft, Header, Kind, SEGMENT_HEADER_BYTES, SegmentHeader, Stamp};
use crate::segment::{LogFile, Scan, Tail, segment_name, spare_name};
use crate::{Group, HardState, Index, Term};

/// A log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
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
    /// The log is not what was written. Nothing has been changed; the node must get its groups from its peers.
    #[error("the log is corrupt in segment {segment} at {offset}: {corruption}")]
    Corrupt {
        /// Segment.
        segment: u32,
        /// Offset in its file.
        offset: u64,
        /// What does not hold.
        corruption: Corruption,
    },
    /// A body file is unreadable or corrupt.
    #[error("open body files")]
    Bodies(#[source] BodyError),
    /// The first write of the new epoch failed.
    #[error("begin a new epoch")]
    Begin(#[source] LogError),
}

impl OpenError {
    /// Whether something that was written whole is not there whole any more. Another version of it is not damage, and
    /// neither is a disk that fails: what it holds may well be read another time.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { corruption, .. } => !matches!(corruption, Corruption::Version { .. }),
            Self::Bodies(error) => matches!(error, BodyError::Corrupt { .. }),
            Self::Io { .. } | Self::Begin(_) => false,
        }
    }
}

/// What does not hold in a log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Corruption {
    /// The header page does not validate.
    #[error("its header does not validate")]
    SegmentHeader,
    /// The header page is whole, and of a version that this program does not know: another program wrote it.
    #[error("version {version} of a segment is not known")]
    Version {
        /// Its version.
        version: u8,
    },
    /// The file is shorter than its header says.
    #[error("the file is {found} bytes long, not {expected}")]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// A segment between others is missing, or the log is gone and bodies are not.
    #[error("the segment is missing")]
    Missing,
    /// A sealed segment ends before the first record of the next one.
    #[error("record {sequence} is bad in a sealed segment")]
    Sealed {
        /// Number of the bad record.
        sequence: u64,
    },
    /// A record is bad that was synced before a later, valid one was written.
    #[error("record {sequence} is bad although it was synced before the record at {witness}")]
    Synced {
        /// Number of the bad record.
        sequence: u64,
        /// Offset of the later record.
        witness: u64,
    },
    /// The entries of a group have a hole.
    #[error("entry {index} of group {group} is missing")]
    Hole {
        /// Group.
        group: Group,
        /// First index that is missing.
        index: Index,
    },
}

/// What was found in a log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Groups by number.
    pub groups: BTreeMap<Group, RecoveredGroup>,
    /// Epoch of this opening.
    pub epoch: u64,
    /// There was no log: the directory was empty. On a node that has run before, its disk is not the one it had.
    pub created: bool,
    /// Unsynced records that the last crash tore, if any. They were never reported durable.
    pub torn_tail: Option<TornTail>,
    /// Records read.
    pub records: u64,
    /// Bytes of segments read.
    pub bytes: u64,
    /// Entries of the log whose record is damaged, by group and index. They can be read once they were restored.
    pub lost: Vec<LostEntry>,
    /// Damaged records: of lost entries, of entries that nobody needs any more, and of marks that were written again.
    pub damaged_records: u64,
}

/// An entry whose record is damaged. Its head is known, its payload is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostEntry {
    /// Group.
    pub group: Group,
    /// Index.
    pub index: Index,
    /// Term.
    pub term: Term,
    pub(crate) segment: u32,
    pub(crate) row: Row,
}

/// A group as the log has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecoveredGroup {
    /// Last hard state, if any was written.
    pub hard_state: Option<HardState>,
    /// The log starts after this index: what is below was dropped, or came with a snapshot.
    pub floor: Index,
    /// Term of the entry at the floor.
    pub floor_term: Term,
    /// Last index; equal to the floor if there are no entries.
    pub last: Index,
}

/// Where the log was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// Segment.
    pub segment: u32,
    /// Offset of the first bad record.
    pub offset: u64,
    /// Bytes from there to the end of what was recognised as written.
    pub bytes: u64,
}

/// A group while the log is replayed: entries may have holes until copies of them turn up.
#[derive(Default)]
struct Replayed {
    hard_state: Option<(HardState, u32)>,
    floor: Index,
    floor_term: Term,
    mark_segment: Option<u32>,
    entries: BTreeMap<Index, (Position, Term)>,
}

struct Replay {
    groups: BTreeMap<Group, Replayed>,
    segments: BTreeMap<u32, SegmentState>,
    next: Option<Stamp>,
    records: u64,
    bytes: u64,
    /// In the last segment: records that may not be on the device.
    unsynced: VecDeque<Unsynced>,
    last: Option<LastSegment>,
    copies: Copies,
    /// Entries with a damaged record, in the order of their records.
    lost: Vec<LostEntry>,
    damaged_records: u64,
    mends: Vec<Mend>,
}

/// What is to be written to a file once the log was found good.
struct Mend {
    file: Arc<dyn DiskFile>,
    path: String,
    missing: Missing,
}

enum Missing {
    /// Bytes that are known without their record.
    Bytes { offset: u64, bytes: Vec<u8> },
    /// The end of the file. It is written out, as it was when the file was made: a hole would want room from the disk again, at a
    /// time when there may be none, and a write into a segment does not expect that.
    End { from: u64, to: u64 },
}

/// A record that was read and may only be in a cache. It is kept as it was read: what is read later may come from the device.
struct Unsynced {
    sequence: u64,
    at: usize,
    record: Vec<u8>,
}

struct LastSegment {
    number: u32,
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    end: usize,
    torn: Option<TornTail>,
}

fn failed(operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_string();
    move |source| OpenError::Io { operation, path, source }
}

/// See [`Log::open`].
pub fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(Log, Recovery), OpenError> {
    let options = options.bounded();
    let directory = options.directory.clone();
    disk.create_directory(&directory).map_err(failed("create directory", &directory))?;
    let (numbers, spare_numbers) = list(disk.as_ref(), &directory)?;
    let cache = Arc::new(Mutex::new(Cache::new(options.cache_bytes)));
    disk.create_directory(&options.copies_directory)
        .map_err(failed("create directory", &options.copies_directory))?;
    let copies = Copies { disk: disk.clone(), directory: options.copies_directory.clone() };
    let bodies = Bodies::open(&copies, &options.bodies_directory, options.body_file_bytes, cache.clone());
    let bodies = bodies.map_err(OpenError::Bodies)?;
    let created = numbers.is_empty();
    if created && bodies.file_count() > 0 {
        return Err(OpenError::Corrupt { segment: 1, offset: 0, corruption: Corruption::Missing });
    }
    let replay = if created {
        create(&copies, &options, &spare_numbers)?
    } else {
        replay(&copies, &directory, &numbers)?
    };
    let spares = adopt_spares(disk.as_ref(), &options, created, &spare_numbers)?;

    let Replay {
        groups, segments, next, records, bytes, unsynced, last, lost, damaged_records, mends, ..
    } = replay;
    let last = last.expect("a log has at least one segment: it was created or listed");
    let next = next.expect("the scan of the last segment leaves the next stamp");
    if !created {
        check_none_lost(&copies, &numbers, &last, next.sequence)?;
    }
    let groups = build_groups(groups, last.number)?;
    let recovered = groups.iter().map(|(group, index)| (*group, recovered(index))).collect();
    let is_needed = |lost: &LostEntry| {
        let position = groups.get(&lost.group).and_then(|group: &GroupIndex| group.position(lost.index));
        position.is_some_and(|at| at.segment == lost.segment && at.offset == lost.row.offset)
    };
    let lost = lost.into_iter().filter(is_needed).collect();
    let torn_tail = last.torn;
    let mut recovery =
        Recovery { groups: recovered, epoch: 0, created, torn_tail, records, bytes, lost, damaged_records };
    settle_tail(&last, &unsynced).map_err(failed("settle", &segment_name(last.number)))?;
    // After the tail, which is written again as it was read.
    for mend in &mends {
        mend.carry_out().map_err(failed("mend", &mend.path))?;
    }
    copies.keep_segments(&numbers);
    let mut copy = CopyWriter::resume(&copies, &last.header, last.file.as_ref(), last.end);
    if damaged_records > 0 {
        copy.sync();
    }

    let bodies_sources = bodies.sources();
    let shared = Shared {
        directory: directory.clone(),
        index: RwLock::new(LogIndex { groups, segments }),
        cache,
        bodies,
        drains: Mutex::new(DrainDetector::default()),
        copies,
        sources: bodies_sources,
        mending: Mutex::new(()),
        failed: AtomicBool::new(false),
    };
    let head = Head {
        number: last.number,
        file: last.file,
        offset: last.end as u64,
        seed: last.header.seed(),
        length: last.header.length,
    };
    let stamp = Stamp { synced: next.sequence, ..next };
    let mut log = Log::assemble(disk, options, Arc::new(shared), head, copy, stamp, spares);
    // From here on records carry a new epoch: what a crash tore out of the old one can never become valid again.
    log.makes_room = true;
    let begun = log.write(&[Draft::mark(Kind::EpochStart, 0, 0, 0)]).and_then(|()| log.sync());
    log.makes_room = false;
    begun.map_err(OpenError::Begin)?;
    recovery.epoch = log.epoch();
    Ok((log, recovery))
}

fn list(disk: &dyn Disk, directory: &str) -> Result<(Vec<u32>, Vec<u32>), OpenError> {
    let (mut segments, mut spares) = (Vec::new(), Vec::new());
    for name in disk.list(directory).map_err(failed("list", directory))? {
        match LogFile::parse(&name) {
            Some(LogFile::Segment(number)) => segments.push(number),
            Some(LogFile::Spare(number)) => spares.push(number),
            None => {}
        }
    }
    Ok((segments, spares))
}

/// A segment whose name is gone leaves its copy behind, if it was the newest, or the oldest; of those between, the numbers tell.
fn check_none_lost(
    copies: &Copies,
    numbers: &[u32],
    last: &LastSegment,
    next_sequence: u64,
) -> Result<(), OpenError> {
    let is_current = || {
        // A program that makes no copies drops segments and leaves theirs, but it also writes records that have no row.
        let row = copies.open(last.number).and_then(|copy| copy.row(&last.header, next_sequence - 1));
        row.is_some()
    };
    let (first, newest) = (numbers.first().copied().unwrap_or(1), last.number);
    let lost = |number: &u32| *number > newest || (*number < first && is_current());
    match copies.segments().into_iter().find(lost) {
        Some(segment) => Err(OpenError::Corrupt { segment, offset: 0, corruption: Corruption::Missing }),
        None => Ok(()),
    }
}

/// Makes the first segment of a new log.
fn create(copies: &Copies, options: &LogOptions, leftovers: &[u32]) -> Result<Replay, OpenError> {
    let (disk, directory) = (copies.disk.as_ref(), &options.directory);
    // Spares without a segment are the remains of a creation that a crash cut short.
    for number in leftovers {
        let path = format!("{directory}/{}", spare_name(*number));
        disk.unlink(&path).map_err(failed("unlink", &path))?;
    }
    let header = SegmentHeader {
        number: 1,
        first_sequence: 1,
        epoch: 0,
        salt: options.salt,
        length: options.segment_bytes,
    };
    let spare = format!("{directory}/{}", spare_name(0));
    disk.create(&spare, header.length).map_err(failed("create", &spare))?;
    begin_segment(disk, directory, 0, &header).map_err(failed("begin", &segment_name(1)))?;
    replay(copies, directory, &[1])
}

/// Spares of the right size are kept, whatever is in them; others go.
fn adopt_spares(
    disk: &dyn Disk,
    options: &LogOptions,
    created: bool,
    numbers: &[u32],
) -> Result<Vec<Spare>, OpenError> {
    let mut spares = Vec::new();
    for number in numbers.iter().copied().filter(|_| !created) {
        let path = format!("{}/{}", options.directory, spare_name(number));
        let file = disk.open(&path).map_err(failed("open", &path))?;
        let length = file.len().map_err(failed("measure", &path))?;
        if length >= options.segment_bytes && spares.len() < options.spare_segments {
            spares.push(Spare { number, length });
        } else {
            disk.unlink(&path).map_err(failed("unlink", &path))?;
        }
    }
    Ok(spares)
}

fn replay(copies: &Copies, directory: &str, numbers: &[u32]) -> Result<Replay, OpenError> {
    let mut replay = Replay {
        groups: BTreeMap::new(),
        segments: BTreeMap::new(),
        next: None,
        records: 0,
        bytes: 0,
        unsynced: VecDeque::new(),
        last: None,
        copies: copies.clone(),
        lost: Vec::new(),
        damaged_records: 0,
        mends: Vec::new(),
    };
    let mut expected = numbers.first().copied();
    let mut headers = Vec::new();
    for number in numbers {
        if expected != Some(*number) {
            let segment = expected.unwrap_or(*number);
            return Err(OpenError::Corrupt { segment, offset: 0, corruption: Corruption::Missing });
        }
        headers.push(replay.header(directory, *number)?);
        expected = number.checked_add(1);
    }
    let mut following = headers.iter().skip(1).map(|(header, _)| header.first_sequence);
    for (header, file) in &headers {
        replay.segment(
            header,
            file,
            following.next(),
            &format!("{directory}/{}", segment_name(header.number)),
        )?;
    }
    Ok(replay)
}

impl Replay {
    /// Header and file of a segment; the header from its copy if the page with it is damaged.
    fn header(
        &mut self,
        directory: &str,
        number: u32,
    ) -> Result<(SegmentHeader, Arc<dyn DiskFile>), OpenError> {
        let path = format!("{directory}/{}", segment_name(number));
        let file = self.copies.disk.open(&path).map_err(failed("open", &path))?;
        let page = read_up_to(file.as_ref(), 0, SEGMENT_HEADER_BYTES).map_err(failed("read", &path))?;
        let corrupt = |corruption| OpenError::Corrupt { segment: number, offset: 0, corruption };
        if let Some(version) = SegmentHeader::other_version(&page) {
            return Err(corrupt(Corruption::Version { version }));
        }
        let copied = || self.copies.open(number).and_then(|copy| copy.header);
        let found = file.len().map_err(failed("measure", &path))?;
        let (header, whole) = match SegmentHeader::decode(&page).filter(|header| header.number == number) {
            Some(header) => (header, true),
            None => (copied().ok_or_else(|| corrupt(Corruption::SegmentHeader))?, false),
        };
        if found > header.length || (found < header.length && copied().is_none()) {
            return Err(corrupt(Corruption::Length { found, expected: header.length }));
        }
        if found < header.length {
            let missing = Missing::End { from: found, to: header.length };
            self.mends.push(Mend { file: file.clone(), path: path.clone(), missing });
        }
        if !whole {
            let missing = Missing::Bytes { offset: 0, bytes: header.encode() };
            self.mends.push(Mend { file: file.clone(), path, missing });
        }
        Ok((header, file))
    }

    /// Passes over the damaged record at the place of the scan, if its copy says what it was.
    fn pass(
        &mut self,
        scan: &mut Scan<'_>,
        header: &SegmentHeader,
        copy: Option<&SegmentCopy>,
        state: &mut SegmentState,
        path: &str,
    ) -> bool {
        let sequence = scan.next.sequence;
        let row = copy.and_then(|copy| copy.row(header, sequence));
        let Some(row) = row.filter(|row| row.end() <= header.length && scan.pass(row)) else { return false };
        let (segment, seed) = (header.number, header.seed());
        self.damaged_records += 1;
        let whole = row.record_without_payload(seed);
        let position = Position { segment, offset: row.offset, payload_bytes: row.header.payload_bytes };
        self.apply(&row.header, whole.as_deref().unwrap_or_default(), position, state);
        match whole {
            Some(bytes) => {
                let missing = Missing::Bytes { offset: u64::from(row.offset), bytes };
                self.mends.push(Mend { file: state.file.clone(), path: path.to_owned(), missing });
            }
            None => {
                let Header { group, index, term, .. } = row.header;
                self.lost.push(LostEntry { group, index, term, segment, row });
            }
        }
        true
    }

    fn segment(
        &mut self,
        header: &SegmentHeader,
        file: &Arc<dyn DiskFile>,
        first_of_next: Option<u64>,
        path: &str,
    ) -> Result<(), OpenError> {
        let number = header.number;
        let corrupt = |offset: usize, corruption| OpenError::Corrupt {
            segment: number,
            offset: offset as u64,
            corruption,
        };
        let first = header.first_sequence;
        let begun = Stamp { epoch: header.epoch, sequence: first, synced: first };
        let next = self.next.unwrap_or(begun);
        if next.sequence != first || next.epoch != header.epoch {
            return Err(corrupt(0, Corruption::SegmentHeader));
        }
        let mut state = SegmentState { file: file.clone(), header: *header, end: 0, groups: BTreeMap::new() };
        self.unsynced.clear();
        let mut scan = Scan::new(file.as_ref(), memory(header.length), header.seed(), begun);
        let mut copy = None;
        loop {
            self.records(&mut scan, &mut state, first_of_next.is_none(), path)?;
            if first_of_next.is_some_and(|sequence| sequence <= scan.next.sequence) {
                break;
            }
            // A record that has a row was synced: whatever is in its place now, it is not a torn tail.
            if copy.is_none() {
                copy = self.copies.open(number);
            }
            if !self.pass(&mut scan, header, copy.as_ref(), &mut state, path) {
                break;
            }
        }
        let (end, next) = (scan.offset, scan.next);
        let torn = match first_of_next {
            Some(sequence) if sequence == next.sequence => None,
            Some(_) => return Err(corrupt(end, Corruption::Sealed { sequence: next.sequence })),
            None => match scan.tail().map_err(failed("read", path))? {
                Tail::Clean => None,
                Tail::Torn { bytes } => Some(TornTail { segment: number, offset: end as u64, bytes }),
                Tail::Corrupt { witness } => {
                    return Err(corrupt(end, Corruption::Synced { sequence: next.sequence, witness }));
                }
            },
        };
        self.bytes += end as u64;
        state.end = length_u32(end);
        self.segments.insert(number, state);
        self.next = Some(next);
        if first_of_next.is_none() {
            self.last = Some(LastSegment { number, header: *header, file: file.clone(), end, torn });
        }
        Ok(())
    }

    /// Counts in valid records, up to the first one that is not.
    fn records(
        &mut self,
        scan: &mut Scan<'_>,
        state: &mut SegmentState,
        is_last: bool,
        path: &str,
    ) -> Result<(), OpenError> {
        let segment = state.header.number;
        while let Some((at, record)) = scan.next_record().map_err(failed("read", path))? {
            self.records += 1;
            let position = Position { segment, offset: length_u32(at), payload_bytes: record.payload_bytes };
            let synced = scan.next.synced;
            if is_last || record.kind == Kind::HardState {
                let raw = scan.record(at, &record).map_err(failed("read", path))?;
                let raw = raw.ok_or_else(|| changed(segment, path))?;
                self.apply(&record, raw, position, state);
                if is_last {
                    self.keep_unsynced(record.stamp.sequence, at, raw, synced);
                }
            } else {
                self.apply(&record, &[], position, state);
            }
        }
        Ok(())
    }

    fn keep_unsynced(&mut self, sequence: u64, at: usize, record: &[u8], synced: u64) {
        self.unsynced.push_back(Unsynced { sequence, at, record: record.to_vec() });
        while self.unsynced.front().is_some_and(|first| first.sequence < synced) {
            self.unsynced.pop_front();
        }
    }

    fn apply(&mut self, record: &Header, raw: &[u8], position: Position, segment: &mut SegmentState) {
        if record.kind == Kind::EpochStart {
            return;
        }
        if record.kind == Kind::GroupRemoved {
            self.groups.remove(&record.group);
            return;
        }
        let group = self.groups.entry(record.group).or_default();
        match record.kind {
            Kind::Entry => {
                segment.cover(record.group, record.index);
                group.entries.split_off(&record.index);
                group.entries.insert(record.index, (position, record.term));
            }
            Kind::EntryCopy => {
                segment.cover(record.group, record.index);
                group.entries.insert(record.index, (position, record.term));
            }
            Kind::HardState => {
                if let Some(state) = record.hard_state(raw) {
                    group.hard_state = Some((state, position.segment));
                }
            }
            Kind::Compacted if record.index > group.floor => {
                group.entries = group.entries.split_off(&(record.index + 1));
                group.start_after(record, position.segment);
            }
            Kind::Compacted => group.mark_segment = Some(position.segment),
            Kind::Reset => {
                group.entries.clear();
                group.start_after(record, position.segment);
            }
            Kind::EpochStart | Kind::GroupRemoved => {}
        }
    }
}

impl Mend {
    fn carry_out(&self) -> io::Result<()> {
        match &self.missing {
            Missing::Bytes { offset, bytes } => self.file.write_at(*offset, bytes)?,
            Missing::End { from, to } => write_zeros(self.file.as_ref(), *from, *to)?,
        }
        self.file.sync_data()
    }
}

impl Replayed {
    fn start_after(&mut self, record: &Header, segment: u32) {
        self.floor = record.index;
        self.floor_term = record.term;
        self.mark_segment = Some(segment);
    }
}

fn build_groups(
    replayed: BTreeMap<Group, Replayed>,
    segment: u32,
) -> Result<BTreeMap<Group, GroupIndex>, OpenError> {
    let mut groups = BTreeMap::new();
    for (group, replayed) in replayed {
        let mut index = GroupIndex::default();
        index.reset(replayed.floor, replayed.floor_term);
        index.hard_state = replayed.hard_state;
        index.mark_segment = replayed.mark_segment;
        for (at, (position, term)) in replayed.entries {
            if at <= index.floor {
                continue;
            }
            if at != index.last() + 1 {
                let corruption = Corruption::Hole { group, index: index.last() + 1 };
                return Err(OpenError::Corrupt { segment, offset: u64::from(position.offset), corruption });
            }
            index.put(at, term, position);
        }
        groups.insert(group, index);
    }
    Ok(groups)
}

fn recovered(index: &GroupIndex) -> RecoveredGroup {
    RecoveredGroup {
        hard_state: index.hard_state.map(|(state, _)| state),
        floor: index.floor,
        floor_term: index.floor_term,
        last: index.last(),
    }
}

/// A record was valid and, read again at once, is not any more.
fn changed(segment: u32, path: &str) -> OpenError {
    let source = io::Error::other(format!("segment {segment} does not read the same twice"));
    OpenError::Io { operation: "read", path: path.to_owned(), source }
}

/// Brings to the device what was read but may only be in a cache. After a failed sync the system takes such bytes
/// for clean, and no sync would write them: they are written again.
fn settle_tail(last: &LastSegment, unsynced: &VecDeque<Unsynced>) -> io::Result<()> {
    for record in unsynced {
        last.file.write_at(record.at as u64, &record.record)?;
    }
    last.file.sync_data()
}
