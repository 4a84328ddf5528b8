//! The log against crashes, bad disks and a model of what it should hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::bodies::BodyError;
use crate::carry::{DropOutcome, SlowGroups};
use crate::disk::faulty::{Fault, FaultKind, FaultyDisk, Operation};
use crate::disk::{MemoryDisk, OsDisk};
use crate::random::Random;
use crate::recovery::Corruption;

mod damage;

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 16 << 10,
        cache_bytes: 64 << 10,
        body_file_bytes: 8 << 10,
        salt: 7,
        ..LogOptions::default()
    }
}

fn body(group: Group, index: Index, term: Term) -> Bytes {
    let length = 40 + (group as u64 * 131 + index * 61 + term * 17) % 900;
    let mut random = Random::new(u64::from(group) << 48 ^ index << 16 ^ term);
    (0..length).map(|_| random.next_u64() as u8).collect::<Vec<u8>>().into()
}

fn entry(group: Group, index: Index, term: Term) -> Record {
    Record::Entry { group, index, term, entry_type: 0, data: body(group, index, term), context: Bytes::new() }
}

fn hard_state(group: Group, term: Term, vote: u64, commit: Index) -> Record {
    Record::HardState { group, state: HardState { term, vote, commit } }
}

fn open(disk: &MemoryDisk) -> (Log, Recovery) {
    Log::open(Arc::new(disk.clone()), options()).unwrap()
}

fn segment_path(number: u32) -> String {
    format!("log/{}", segment_name(number))
}

/// As if second copies had never been made, or the damage had reached them too.
fn forget_copies(disk: &MemoryDisk) {
    for (path, _) in disk.files().into_iter().filter(|(path, _)| path.starts_with("copies/")) {
        disk.unlink(&path).unwrap();
    }
}

/// One term each, from `first` to `last`.
fn append_entries(log: &mut Log, group: Group, first: Index, last: Index) {
    for index in first..=last {
        log.append(&[entry(group, index, 1)]).unwrap();
    }
    log.sync().unwrap();
}

#[test]
fn open_of_an_empty_disk_creates_a_log() {
    let disk = MemoryDisk::new();
    let (log, recovery) = open(&disk);
    assert!(recovery.created && recovery.groups.is_empty() && recovery.epoch == 1);
    assert_eq!((log.reader().first_index(3), log.reader().last_index(3)), (1, 0));
    assert_eq!(log.reader().term(3, 0), Some(0));
    drop(log);
    let (_, recovery) = open(&disk);
    assert!(!recovery.created && recovery.epoch == 2);
}

#[test]
fn synced_records_survive_a_crash() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    let context = Record::Entry {
        group: 0,
        index: 1,
        term: 2,
        entry_type: 2,
        data: Bytes::from_static(b"data"),
        context: Bytes::from_static(b"context"),
    };
    log.append(&[context, hard_state(0, 2, 9, 1), entry(5, 1, 1), entry(5, 2, 3)]).unwrap();
    log.sync().unwrap();
    disk.crash(1);
    let (log, recovery) = open(&disk);
    let group = recovery.groups[&0];
    assert_eq!(group.hard_state, Some(HardState { term: 2, vote: 9, commit: 1 }));
    assert_eq!((group.floor, group.last, recovery.groups[&5].last), (0, 1, 2));
    let read = log.reader().entry(0, 1).unwrap().unwrap();
    assert_eq!((read.term, read.entry_type), (2, 2));
    assert_eq!((&read.data[..], &read.context[..]), (&b"data"[..], &b"context"[..]));
    assert_eq!(log.reader().term(5, 2), Some(3));
    assert_eq!(log.reader().entry(5, 3).unwrap(), None);
}

#[test]
fn entry_at_an_old_index_replaces_the_suffix() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 9);
    log.append(&[entry(1, 4, 2), entry(1, 5, 2)]).unwrap();
    log.sync().unwrap();
    let check = |log: &Log| {
        let reader = log.reader();
        assert_eq!(reader.last_index(1), 5);
        assert_eq!([3, 4, 5, 6].map(|index| reader.term(1, index)), [Some(1), Some(2), Some(2), None]);
        assert_eq!(reader.entry(1, 4).unwrap().unwrap().data, body(1, 4, 2));
    };
    check(&log);
    disk.crash(3);
    check(&open(&disk).0);
}

#[test]
fn entry_that_does_not_connect_is_refused_and_nothing_written() {
    let (mut log, _) = open(&MemoryDisk::new());
    append_entries(&mut log, 1, 1, 2);
    let error = log.append(&[entry(1, 3, 1), entry(1, 5, 1)]).unwrap_err();
    assert!(matches!(error, LogError::Disconnected { group: 1, index: 5, first: 1, last: 3 }));
    assert_eq!(log.reader().last_index(1), 2);
    log.append(&[entry(1, 3, 1)]).unwrap();
}

#[test]
fn entries_stop_at_the_byte_limit_but_give_at_least_one() {
    let (mut log, _) = open(&MemoryDisk::new());
    append_entries(&mut log, 1, 1, 20);
    let reader = log.reader();
    assert_eq!(reader.entries(1, 3, 9, 0).unwrap().len(), 1);
    assert_eq!(reader.entries(1, 3, 9, u64::MAX).unwrap().len(), 6);
    assert_eq!(reader.entries(1, 3, 99, u64::MAX).unwrap().len(), 18);
    assert!(reader.entries(1, 21, 99, u64::MAX).unwrap().is_empty());
}

#[test]
fn tail_cut_at_every_byte_is_torn_and_dropped() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 3);
    let synced_end = log.head.offset as usize;
    log.append(&[entry(1, 4, 1), entry(2, 1, 1), entry(1, 5, 1)]).unwrap();
    let (end, full) = (log.head.offset as usize, disk.content(&segment_path(1)).unwrap());
    for cut in synced_end..=end {
        let mut image = full.clone();
        image[cut..].fill(0);
        let disk = MemoryDisk::new();
        disk.create_directory("log").unwrap();
        disk.replace(&segment_path(1), image);
        let (log, recovery) = open(&disk);
        let last = recovery.groups[&1].last;
        assert!((3..=5).contains(&last), "cut at {cut} leaves {last}");
        assert_eq!(
            recovery.groups.contains_key(&2),
            recovery.groups[&1].last > 4 || cut > synced_end && log.reader().last_index(2) == 1
        );
        for index in 1..=last {
            assert_eq!(log.reader().entry(1, index).unwrap().unwrap().data, body(1, index, 1));
        }
        if cut == end {
            assert_eq!(last, 5);
        }
    }
}

#[test]
fn hole_in_an_unsynced_batch_is_torn_although_later_records_are_whole() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 3);
    let start = log.head.offset;
    log.append(&[entry(1, 4, 1)]).unwrap();
    log.append(&[entry(1, 5, 1), entry(1, 6, 1)]).unwrap();
    disk.corrupt(&segment_path(1), start + 80, 0xff).unwrap();
    let (log, recovery) = open(&disk);
    assert_eq!(recovery.groups[&1].last, 3);
    let torn = recovery.torn_tail.unwrap();
    assert!(torn.offset == start && torn.bytes > 64);
    // What is left of the torn batch can never become valid again, whatever is written over its beginning.
    drop(log);
    let (mut log, recovery) = open(&disk);
    assert_eq!(recovery.groups[&1].last, 3);
    log.append(&[entry(1, 4, 2)]).unwrap();
    log.sync().unwrap();
    disk.crash(5);
    let (log, recovery) = open(&disk);
    assert_eq!((recovery.groups[&1].last, log.reader().term(1, 4)), (4, Some(2)));
}

#[test]
fn record_of_a_torn_batch_is_not_taken_up_by_the_next_epoch() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 3);
    let start = log.head.offset;
    // The epoch start will take exactly the place and the sequence of the entry that is torn; the record behind it
    // would be the next in place and sequence.
    let empty = Record::Entry {
        group: 1,
        index: 4,
        term: 1,
        entry_type: 0,
        data: Bytes::new(),
        context: Bytes::new(),
    };
    log.append(&[empty, hard_state(1, 9, 9, 4)]).unwrap();
    disk.corrupt(&segment_path(1), start + 16, 0xff).unwrap();
    for _ in 0..2 {
        disk.kill();
        let (_, recovery) = open(&disk);
        assert_eq!((recovery.groups[&1].last, recovery.groups[&1].hard_state), (3, None));
    }
}

#[test]
fn records_of_a_recycled_segment_never_validate() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 60);
    while let Some(range) = log.droppable() {
        log.drop_segment(range.segment, &|_| 60, &|_, _| false, SlowGroups::Keep).unwrap();
    }
    let before = log.head.number;
    let mut index = 60;
    while log.head.number == before {
        index += 1;
        append_entries(&mut log, 1, index, index);
    }
    let content = disk.content(&segment_path(log.head.number)).unwrap();
    let rest = &content[log.head.offset as usize..];
    let valid = |segment: u32| {
        let seed = seed_of(options().salt, segment);
        (0..rest.len()).step_by(8).filter(|at| crate::record::verify(seed, &rest[*at..]).is_some()).count()
    };
    assert!((1..=before).any(|former| valid(former) > 5), "the file holds records of its former life");
    assert_eq!(valid(log.head.number), 0);
    disk.crash(3);
    assert_eq!(open(&disk).1.groups[&1].last, index);
}

#[test]
fn flipped_bit_in_any_synced_record_is_corruption() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 2);
    let first = log.shared.index.read().groups[&1].position(1).unwrap();
    append_entries(&mut log, 1, 3, 3);
    let record = 64 + first.payload_bytes;
    for offset in first.offset..first.offset + record {
        let disk_of_case = MemoryDisk::new();
        disk_of_case.create_directory("log").unwrap();
        disk_of_case.replace(&segment_path(1), disk.content(&segment_path(1)).unwrap());
        disk_of_case.corrupt(&segment_path(1), u64::from(offset), 0x10).unwrap();
        let before = disk_of_case.content(&segment_path(1)).unwrap();
        let error = Log::open(Arc::new(disk_of_case.clone()), options()).err().unwrap();
        let corrupt = matches!(&error, OpenError::Corrupt { segment: 1, offset: at, corruption: Corruption::Synced { .. } }
            if *at == u64::from(first.offset));
        assert!(corrupt, "flip at {offset}: {error}");
        assert_eq!(disk_of_case.content(&segment_path(1)).unwrap(), before, "a corrupt log is left as it is");
    }
}

#[test]
fn damage_to_a_sealed_segment_is_corruption() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 120);
    assert!(log.status().segments >= 3);
    let path = segment_path(1);
    let content = disk.content(&path).unwrap();
    let fails = |expected: fn(&Corruption) -> bool| {
        forget_copies(&disk);
        let error = Log::open(Arc::new(disk.clone()), options()).err().unwrap();
        assert!(matches!(&error, OpenError::Corrupt { corruption, .. } if expected(corruption)), "{error}");
    };
    disk.corrupt(&path, 9000, 1).unwrap();
    fails(|corruption| matches!(corruption, Corruption::Sealed { .. }));
    disk.replace(&path, content[..9000].to_vec());
    fails(|corruption| matches!(corruption, Corruption::Length { .. }));
    disk.replace(&path, content.clone());
    disk.corrupt(&path, 20, 1).unwrap();
    fails(|corruption| matches!(corruption, Corruption::SegmentHeader));
    disk.replace(&path, content);
    open(&disk);
    disk.unlink(&segment_path(2)).unwrap();
    fails(|corruption| matches!(corruption, Corruption::Missing));
}

#[test]
fn read_checks_what_the_disk_returns() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 2);
    drop(log);
    let (log, _) = open(&disk);
    let position = log.shared.index.read().groups[&1].position(1).unwrap();
    disk.corrupt(&segment_path(1), u64::from(position.offset) + 70, 4).unwrap();
    let error = log.reader().entry(1, 1).unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { group: 1, index: 1, .. }));
    assert_eq!(log.reader().body(1, 2).unwrap().unwrap(), body(1, 2, 1));
}

#[test]
fn failed_write_or_sync_poisons_the_log_for_ever() {
    for (operation, kind) in [
        (Operation::Write, FaultKind::InputOutput),
        (Operation::Write, FaultKind::ShortWrite(100)),
        (Operation::Write, FaultKind::NoSpace),
        (Operation::Sync, FaultKind::InputOutput),
        (Operation::Sync, FaultKind::NoSpace),
    ] {
        let memory = MemoryDisk::new();
        let disk = FaultyDisk::new(Arc::new(memory.clone()), 1);
        let (mut log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
        log.append(&[entry(1, 1, 1)]).unwrap();
        log.sync().unwrap();
        disk.arm(Fault { operation, path_contains: "segment".into(), after: 0, times: 1, kind });
        let result = log.append(&[entry(1, 2, 1)]).and_then(|()| log.sync());
        assert!(matches!(result, Err(LogError::Failed { .. })), "{operation:?}");
        assert_eq!(disk.injected(), 1);
        assert!(matches!(log.append(&[entry(1, 2, 1)]), Err(LogError::Poisoned)));
        assert!(matches!(log.sync(), Err(LogError::Poisoned)));
        assert!(matches!(log.reset_group(1, 9, 9), Err(LogError::Poisoned)));
        memory.kill();
        let (_, recovery) = open(&memory);
        assert!((1..=2).contains(&recovery.groups[&1].last));
    }
}

#[test]
fn records_read_after_a_failed_sync_are_on_the_device_before_they_are_trusted() {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()), 1);
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
    append_entries(&mut log, 1, 1, 3);
    log.append(&[entry(1, 4, 1), entry(1, 5, 1)]).unwrap();
    let kind = FaultKind::InputOutput;
    disk.arm(Fault { operation: Operation::Sync, path_contains: "segment".into(), after: 0, times: 1, kind });
    log.sync().unwrap_err();
    // The process dies, the kernel believes that the pages are clean, the machine stays up for now.
    memory.kill();
    let (log, recovery) = open(&memory);
    let seen = recovery.groups[&1].last;
    drop(log);
    memory.crash(0);
    for seed in 0..20 {
        let (_, recovery) = open(&memory);
        assert_eq!(recovery.groups[&1].last, seen, "seed {seed}");
        memory.crash(seed);
    }
}

#[test]
fn full_disk_refuses_the_batch_and_the_log_goes_on_when_there_is_room() {
    let disk = MemoryDisk::new();
    disk.limit_capacity(Some(40 << 10));
    let (mut log, _) = open(&disk);
    let mut index = 0;
    let error = loop {
        if let Err(error) = log.append(&[entry(1, index + 1, 1)]) {
            break error;
        }
        index += 1;
    };
    assert!(matches!(error, LogError::NoSpace { .. }));
    assert_eq!(log.reader().last_index(1), index);
    log.sync().unwrap();
    disk.limit_capacity(None);
    log.append(&[entry(1, index + 1, 1)]).unwrap();
    log.sync().unwrap();
    disk.crash(2);
    assert_eq!(open(&disk).1.groups[&1].last, index + 1);
}

#[test]
fn batch_larger_than_a_segment_gets_a_segment_of_its_own() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    let data = Bytes::from(vec![3; 100 << 10]);
    let large = Record::Entry {
        group: 1,
        index: 1,
        term: 1,
        entry_type: 0,
        data: data.clone(),
        context: Bytes::new(),
    };
    log.append(&[large]).unwrap();
    append_entries(&mut log, 1, 2, 40);
    disk.crash(4);
    let (log, recovery) = open(&disk);
    assert_eq!(recovery.groups[&1].last, 40);
    assert_eq!(log.reader().body(1, 1).unwrap().unwrap(), data);
}

#[test]
fn spare_task_prepares_the_next_segment() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    let task = log.spare_task().unwrap();
    assert!(log.spare_task().is_none(), "one at a time");
    log.supply_spare(task.run());
    assert_eq!(log.status().spares, 1);
    append_entries(&mut log, 1, 1, 30);
    assert_eq!(log.status().spares, 0);
    disk.crash(1);
    assert_eq!(open(&disk).1.groups[&1].last, 30);
}

#[test]
fn reset_group_starts_the_log_after_the_snapshot() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 9);
    log.append(&[hard_state(1, 4, 2, 9)]).unwrap();
    log.reset_group(1, 50, 4).unwrap();
    append_entries(&mut log, 2, 1, 3);
    log.append(&[entry(1, 51, 4)]).unwrap();
    log.sync().unwrap();
    disk.crash(8);
    let (log, recovery) = open(&disk);
    let expected = RecoveredGroupOf { hard_state: Some((4, 2, 9)), floor: 50, floor_term: 4, last: 51 };
    assert_eq!(RecoveredGroupOf::from(&recovery.groups[&1]), expected);
    assert_eq!(log.reader().term(1, 50), Some(4));
    assert_eq!(log.reader().entry(1, 9).unwrap(), None);
}

#[derive(PartialEq, Debug)]
struct RecoveredGroupOf {
    hard_state: Option<(Term, u64, Index)>,
    floor: Index,
    floor_term: Term,
    last: Index,
}

impl From<&crate::RecoveredGroup> for RecoveredGroupOf {
    fn from(group: &crate::RecoveredGroup) -> Self {
        let hard_state = group.hard_state.map(|state| (state.term, state.vote, state.commit));
        Self { hard_state, floor: group.floor, floor_term: group.floor_term, last: group.last }
    }
}

#[test]
fn dropping_a_segment_keeps_live_bodies_and_the_last_marks() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    log.append(&[hard_state(1, 1, 3, 5), hard_state(2, 1, 4, 6)]).unwrap();
    log.reset_group(3, 70, 2).unwrap();
    for index in 1..=80 {
        log.append(&[entry(1, index, 1), entry(2, index, 1)]).unwrap();
    }
    log.sync().unwrap();
    let live = |_: Group, index: Index| index.is_multiple_of(5);
    while let Some(range) = log.droppable() {
        let outcome = log.drop_segment(range.segment, &|_| 80, &live, SlowGroups::Keep).unwrap();
        assert!(matches!(outcome, DropOutcome::Dropped { entries_moved: 0, .. }));
    }
    let first = log.reader().first_index(1);
    assert!(first > 50 && log.status().segments == 1 && log.status().spares == 2);
    let check = |log: &Log| {
        for group in [1, 2] {
            for index in 1..=80 {
                let expected = (live(group, index) || index >= log.reader().first_index(group))
                    .then(|| body(group, index, 1));
                assert_eq!(log.reader().body(group, index).unwrap(), expected, "{group} {index}");
            }
        }
    };
    check(&log);
    disk.crash(9);
    let (log, recovery) = open(&disk);
    check(&log);
    assert_eq!(recovery.groups[&2].hard_state, Some(HardState { term: 1, vote: 4, commit: 6 }));
    assert_eq!((recovery.groups[&3].floor, recovery.groups[&3].floor_term), (70, 2));
    assert_eq!((recovery.groups[&1].floor + 1, recovery.groups[&1].floor_term), (first, 1));
    // Bodies die: first some, then all.
    let outcome = log.bodies().sweep(&|group, index| group == 1 && live(group, index)).unwrap();
    assert!(outcome.files_unlinked > 0);
    assert_eq!(log.reader().body(1, 5).unwrap().unwrap(), body(1, 5, 1));
    assert_eq!(log.reader().body(2, 5).unwrap(), None);
    log.bodies().sweep(&|_, _| false).unwrap();
    assert_eq!((log.bodies().file_count(), log.bodies().count()), (0, 0));
}

#[test]
fn slow_group_pins_its_segment_or_has_its_tail_copied() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 7, 1, 5);
    append_entries(&mut log, 1, 1, 100);
    append_entries(&mut log, 7, 6, 8);
    let floors = |group: Group| if group == 7 { 2 } else { 100 };
    let oldest = log.droppable().unwrap().segment;
    let outcome = log.drop_segment(oldest, &floors, &|_, _| false, SlowGroups::Keep).unwrap();
    assert_eq!(outcome, DropOutcome::Pinned { group: 7, index: 3 });
    let outcome = log.drop_segment(oldest, &floors, &|_, _| false, SlowGroups::CopyTail).unwrap();
    assert!(matches!(outcome, DropOutcome::Dropped { entries_moved: 3, .. }));
    for seed in 0..3 {
        let reader = log.reader();
        assert_eq!((reader.first_index(7), reader.last_index(7), reader.term(7, 2)), (3, 8, Some(1)));
        for index in 3..=8 {
            assert_eq!(reader.entry(7, index).unwrap().unwrap().data, body(7, index, 1));
        }
        disk.crash(seed);
        log = open(&disk).0;
    }
    assert!(matches!(
        log.drop_segment(99, &floors, &|_, _| false, SlowGroups::Keep),
        Ok(DropOutcome::NotDroppable)
    ));
}

#[test]
fn drop_that_fails_at_any_step_loses_nothing() {
    let kinds = [
        Operation::Create,
        Operation::Write,
        Operation::Sync,
        Operation::Rename,
        Operation::Unlink,
        Operation::SyncDirectory,
    ];
    let mut injected = 0;
    for operation in kinds {
        for after in 0..6 {
            injected += check_failed_drop(operation, after);
        }
    }
    assert!(injected >= 12, "only {injected} faults happened");
}

fn check_failed_drop(operation: Operation, after: u64) -> u64 {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()), 1);
    let options = LogOptions { spare_segments: 1, ..options() };
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
    log.append(&[hard_state(1, 1, 3, 5)]).unwrap();
    for index in 1..=70 {
        log.append(&[entry(1, index, 1), entry(2, index, 1)]).unwrap();
    }
    log.sync().unwrap();
    disk.arm(Fault {
        operation,
        path_contains: String::new(),
        after,
        times: 1,
        kind: FaultKind::InputOutput,
    });
    let live = |_: Group, index: Index| index.is_multiple_of(3);
    for _ in 0..3 {
        let oldest = log.droppable().unwrap().segment;
        let floors = |group: Group| if group == 1 { 70 } else { 2 };
        if log.drop_segment(oldest, &floors, &live, SlowGroups::CopyTail).is_err() {
            break;
        }
    }
    memory.crash(after + 17);
    let (log, recovery) = open(&memory);
    assert_eq!(recovery.groups[&1].hard_state, Some(HardState { term: 1, vote: 3, commit: 5 }));
    assert_eq!((recovery.groups[&1].last, recovery.groups[&2].last), (70, 70));
    assert!(recovery.groups[&2].floor <= 2);
    for group in [1, 2] {
        for index in 1..=70 {
            if live(group, index) || index > recovery.groups[&group].floor {
                assert_eq!(log.reader().body(group, index).unwrap().unwrap(), body(group, index, 1));
            }
        }
    }
    disk.injected()
}

#[test]
fn reading_a_long_backlog_misses_once_per_chunk() {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory), 1);
    let options = LogOptions { segment_bytes: 1 << 20, cache_bytes: 4 << 20, ..options() };
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options.clone()).unwrap();
    append_entries(&mut log, 1, 1, 1000);
    drop(log);
    let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
    // From now on only a few reads succeed: one per chunk is enough.
    let kind = FaultKind::InputOutput;
    disk.arm(Fault { operation: Operation::Read, path_contains: "segment".into(), after: 6, times: 1, kind });
    for index in 1..=1000 {
        assert_eq!(log.reader().entry(1, index).unwrap().unwrap().data, body(1, index, 1));
    }
    assert!(log.reader().cache_bytes() <= 4 << 20);
}

#[test]
fn bodies_of_a_snapshot_are_safe_until_the_installation_ends() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    let bodies = log.bodies();
    for index in [3, 8, 9, 40] {
        bodies.put(4, index, body(4, index, 1)).unwrap();
    }
    bodies.seal(4).unwrap();
    bodies.sweep(&|_, _| false).unwrap();
    log.reset_group(4, 60, 2).unwrap();
    bodies.settle(4);
    disk.crash(6);
    let (mut log, _) = open(&disk);
    assert_eq!(log.reader().body(4, 40).unwrap().unwrap(), body(4, 40, 1));
    assert_eq!(log.reader().body(4, 41).unwrap(), None);
    log.remove_group(4).unwrap();
    log.bodies().remove_group(4).unwrap();
    disk.crash(7);
    let (log, recovery) = open(&disk);
    assert!(recovery.groups.is_empty() && log.bodies().count() == 0);
}

#[test]
fn damaged_body_file_is_reported() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let bodies = log.bodies();
    bodies.put(4, 3, body(4, 3, 1)).unwrap();
    bodies.seal(4).unwrap();
    let (path, length) = disk.files().into_iter().find(|(path, _)| path.starts_with("bodies/")).unwrap();
    for offset in [0, 30, 70] {
        disk.corrupt(&path, offset, 1).unwrap();
        forget_copies(&disk);
        let error = Log::open(Arc::new(disk.clone()), options()).err().unwrap();
        assert!(matches!(error, OpenError::Bodies(BodyError::Corrupt { .. })), "{offset}: {error}");
        disk.corrupt(&path, offset, 1).unwrap();
    }
    disk.corrupt(&path, length - 1, 1).unwrap();
    let (log, _) = open(&disk);
    assert!(matches!(log.reader().body(4, 3), Err(ReadError::Body { .. })));
}

#[test]
fn empty_body_is_not_taken_for_the_one_after_it() {
    let (log, _) = open(&MemoryDisk::new());
    for (index, data) in [(1, "a"), (2, ""), (3, "c"), (4, ""), (5, "")] {
        log.bodies().put(4, index, Bytes::from_static(data.as_bytes())).unwrap();
    }
    log.bodies().seal(4).unwrap();
    for _ in 0..2 {
        for (index, data) in [(2, ""), (3, "c"), (1, "a"), (4, ""), (5, ""), (3, "c")] {
            assert_eq!(log.reader().body(4, index).unwrap().unwrap(), data, "{index}");
        }
    }
}

#[test]
fn many_small_body_files_are_merged() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    let bodies = log.bodies();
    for index in 1..=40 {
        bodies.put(4, index, Bytes::from(vec![index as u8; 100])).unwrap();
        bodies.seal(4).unwrap();
    }
    bodies.settle(4);
    assert_eq!(bodies.file_count(), 40);
    let outcome = bodies.sweep(&|_, index| index % 2 == 0).unwrap();
    assert_eq!((outcome.files_unlinked, bodies.file_count(), bodies.count()), (40, 1, 20));
    disk.crash(1);
    let (log, _) = open(&disk);
    assert_eq!(log.reader().body(4, 6).unwrap().unwrap(), Bytes::from(vec![6; 100]));
    assert_eq!(log.reader().body(4, 7).unwrap(), None);
}

/// What a group should hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Model {
    hard_state: Option<HardState>,
    floor: Index,
    entries: BTreeMap<Index, (Term, Bytes)>,
}

impl Model {
    fn last(&self) -> Index {
        self.entries.last_key_value().map_or(self.floor, |(index, _)| *index)
    }

    fn last_term(&self) -> Term {
        self.entries.last_key_value().map_or(1, |(_, (term, _))| *term)
    }
}

type Models = BTreeMap<Group, Model>;

/// A log, its disk, and every state that a crash may leave.
struct World {
    disk: MemoryDisk,
    log: Log,
    random: Random,
    /// The last is the present state; the first is the last one synced.
    states: Vec<Models>,
    /// Live bodies whose entries have left the log.
    carried: BTreeMap<(Group, Index), Bytes>,
    term: Term,
    damaged: bool,
}

fn world_live(_: Group, index: Index) -> bool {
    index.is_multiple_of(3)
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = MemoryDisk::new();
        let (log, _) = open(&disk);
        let states = vec![Models::new()];
        Self {
            disk,
            log,
            random: Random::new(seed),
            states,
            carried: BTreeMap::new(),
            term: 1,
            damaged: false,
        }
    }

    fn present(&self) -> Models {
        self.states.last().unwrap().clone()
    }

    fn synced(&mut self, state: Models) {
        self.states = vec![state];
    }

    fn append(&mut self) {
        let mut batch = Vec::new();
        for _ in 0..=self.random.below(4) {
            let group = self.random.below(3) as Group;
            let mut state = self.present();
            let model = state.entry(group).or_default();
            if self.random.one_in(4) {
                let hard = HardState { term: self.term, vote: self.random.below(5), commit: model.last() };
                model.hard_state = Some(hard);
                batch.push(Record::HardState { group, state: hard });
            } else {
                let back = if self.random.one_in(6) { self.random.below(5) } else { 0 };
                let index = (model.last() + 1).saturating_sub(back).max(model.floor + 1);
                if index <= model.last() {
                    self.term += 1;
                }
                let term = self.term.max(model.last_term());
                model.entries.split_off(&index);
                model.entries.insert(index, (term, body(group, index, term)));
                batch.push(entry(group, index, term));
            }
            self.states.push(state);
        }
        self.log.append(&batch).unwrap();
    }

    fn drop_oldest(&mut self) {
        let Some(range) = self.log.droppable() else { return };
        let slow = if self.random.one_in(2) { SlowGroups::Keep } else { SlowGroups::CopyTail };
        let slow_group = self.random.below(4) as Group;
        let mut state = self.present();
        let lasts: BTreeMap<Group, Index> =
            state.iter().map(|(group, model)| (*group, model.last())).collect();
        let floors = |group: Group| {
            let last = lasts.get(&group).copied().unwrap_or(0);
            if group == slow_group { last / 2 } else { last.saturating_sub(2) }
        };
        let outcome = self.log.drop_segment(range.segment, &floors, &world_live, slow).unwrap();
        if !matches!(outcome, DropOutcome::Dropped { .. }) {
            return;
        }
        for (group, model) in &mut state {
            let first = self.log.reader().first_index(*group);
            assert!(first > model.floor && first <= floors(*group).max(model.floor) + 1);
            let kept = model.entries.split_off(&first);
            for (index, (_, body)) in std::mem::replace(&mut model.entries, kept) {
                if world_live(*group, index) {
                    self.carried.insert((*group, index), body);
                }
            }
            model.floor = first - 1;
        }
        self.synced(state);
    }

    fn reset(&mut self) {
        let group = self.random.below(3) as Group;
        let mut state = self.present();
        let model = state.entry(group).or_default();
        let index = model.last() + self.random.below(20);
        *model = Model { hard_state: model.hard_state, floor: index, entries: BTreeMap::new() };
        self.log.reset_group(group, index, self.term).unwrap();
        self.synced(state);
    }

    fn crash(&mut self) {
        if self.random.one_in(4) {
            self.disk.kill();
        } else {
            self.disk.crash(self.random.next_u64());
        }
        let (log, recovery) = open(&self.disk);
        assert!(
            self.damaged || recovery.damaged_records == 0,
            "a row was written before its record was synced"
        );
        self.log = log;
        let found = self.read_all(&recovery);
        let known = self.states.iter().rposition(|state| *state == found);
        assert!(known.is_some(), "found {found:#?}\nwhich is none of {} states", self.states.len());
        self.synced(found);
    }

    fn read_all(&self, recovery: &Recovery) -> Models {
        let reader = self.log.reader();
        let read = |group: Group, index: Index| {
            let entry = reader.entry(group, index).unwrap().unwrap();
            assert_eq!(reader.term(group, index), Some(entry.term));
            (index, (entry.term, entry.data))
        };
        let model = |(group, found): (&Group, &crate::RecoveredGroup)| {
            let entries = (found.floor + 1..=found.last).map(|index| read(*group, index)).collect();
            (*group, Model { hard_state: found.hard_state, floor: found.floor, entries })
        };
        recovery.groups.iter().map(model).collect()
    }

    fn check(&self) {
        let reader = self.log.reader();
        for (group, model) in self.states.last().unwrap() {
            assert_eq!(
                (reader.first_index(*group), reader.last_index(*group)),
                (model.floor + 1, model.last())
            );
            for (index, (term, data)) in &model.entries {
                let entry = reader.entry(*group, *index).unwrap().unwrap();
                assert_eq!((entry.term, &entry.data), (*term, data));
            }
        }
        for ((group, index), body) in &self.carried {
            assert_eq!(reader.body(*group, *index).unwrap().as_ref(), Some(body), "{group} {index}");
        }
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..=19 => self.append(),
            20..=29 => {
                self.log.sync().unwrap();
                let state = self.present();
                self.synced(state);
            }
            30..=34 => self.drop_oldest(),
            35 => self.reset(),
            36 => {
                let task = self.log.spare_task();
                if let Some(task) = task {
                    self.log.supply_spare(task.run());
                }
            }
            37 => {
                self.log.bodies().sweep(&world_live).unwrap();
            }
            _ => self.crash(),
        }
    }
}

#[test]
fn random_life_with_crashes_keeps_every_synced_record_and_invents_none() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        for _ in 0..120 {
            world.step();
        }
        world.check();
        world.crash();
        world.check();
    }
}

#[test]
fn same_operations_leave_the_same_bytes() {
    let run = || {
        let mut world = World::new(77);
        (0..200).for_each(|_| world.step());
        let files = world.disk.files();
        files.into_iter().map(|(path, _)| (world.disk.content(&path).unwrap(), path)).collect::<Vec<_>>()
    };
    assert!(run() == run());
}

#[test]
fn little_room_makes_short_segments_and_leaves_what_is_kept() {
    let disk = MemoryDisk::new();
    let kept_bytes = 16 << 20;
    let options = LogOptions { segment_bytes: 64 << 20, kept_bytes, spare_segments: 1, ..options() };
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options.clone()).unwrap();
    let used = u64::MAX - disk.usage().unwrap().available_bytes;
    let for_copies = 64 << 10;
    disk.limit_capacity(Some(used + kept_bytes + 2 * SHORT_SEGMENT_BYTES + for_copies));
    assert!(log.spare_task().unwrap().run().is_err(), "no room for a whole one");
    let large = |index: u64| Record::Entry {
        group: 1,
        index,
        term: 1,
        entry_type: 0,
        data: vec![7; 1 << 20].into(),
        context: Bytes::new(),
    };
    let mut index = 0;
    while log.append(&[large(index + 1)]).is_ok() {
        index += 1;
    }
    assert_eq!(log.status().segments, 3, "two short ones behind the first");
    let available = disk.usage().unwrap().available_bytes;
    assert!((kept_bytes..kept_bytes + for_copies).contains(&available), "{available}");
    log.sync().unwrap();
    disk.limit_capacity(None);
    log.append(&[large(index + 1)]).unwrap();
    log.sync().unwrap();
    drop(log);
    disk.crash(3);
    let (log, recovery) = Log::open(Arc::new(disk), options).unwrap();
    assert_eq!(recovery.groups[&1].last, index + 1);
    assert_eq!(log.reader().entry(1, index).unwrap().unwrap().data.len(), 1 << 20);
}

#[test]
fn bodies_that_find_no_room_are_copied_when_there_is() {
    for operation in [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename] {
        let memory = MemoryDisk::new();
        let disk = FaultyDisk::new(Arc::new(memory.clone()), 1);
        let (mut log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
        for index in 1..=70 {
            log.append(&[entry(1, index, 1)]).unwrap();
        }
        log.sync().unwrap();
        let range = log.droppable().unwrap();
        let floors = |_: Group| 70;
        let live = |_: Group, _: Index| true;
        // The first file is written, the second is not.
        let kind = FaultKind::NoSpace;
        disk.arm(Fault { operation, path_contains: "bodies".into(), after: 1, times: 1, kind });
        let mut carry = log.begin_drop(range.segment, &floors, SlowGroups::Keep).unwrap();
        match carry.copy_bodies(&live) {
            Err(crate::carry::CarryError::Write(error)) => assert!(error.is_no_space(), "{operation:?}"),
            other => panic!("{operation:?}: {other:?}"),
        }
        drop(carry);
        let mut carry = log.begin_drop(range.segment, &floors, SlowGroups::Keep).unwrap();
        carry.copy_bodies(&live).unwrap();
        assert!(matches!(log.finish_drop(carry).unwrap(), DropOutcome::Dropped { .. }));
        let (_, _, high) = range.groups[0];
        memory.crash(5);
        let (log, _) = open(&memory);
        for index in 1..=high {
            assert_eq!(
                log.bodies().read(1, index).unwrap(),
                Some(body(1, index, 1)),
                "{operation:?} {index}"
            );
        }
    }
}

#[test]
fn another_version_of_a_segment_is_refused_and_is_no_damage() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 3);
    let mut content = disk.content(&segment_path(1)).unwrap();
    content[8] = 2;
    let torn = content.clone();
    let crc = crc32c::crc32c(&content[..48]).to_le_bytes();
    content[48..52].copy_from_slice(&crc);
    disk.replace(&segment_path(1), content);
    let error = Log::open(Arc::new(disk.clone()), options()).err().unwrap();
    let version =
        OpenError::Corrupt { segment: 1, offset: 0, corruption: Corruption::Version { version: 2 } };
    assert_eq!(error.to_string(), version.to_string());
    assert!(!error.is_damage(), "{error}");
    disk.replace(&segment_path(1), torn);
    forget_copies(&disk);
    let error = Log::open(Arc::new(disk), options()).err().unwrap();
    assert!(error.is_damage(), "a flipped bit in the version is damage: {error}");
}
