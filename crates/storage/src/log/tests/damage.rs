//! Damaged files of the log: what second copies know of them, and records that are written again.

use super::*;
use crate::copy::heads_name;
use crate::scrub::{Damage, Scrub};
use crate::{Offer, Payload, PayloadSource};

/// Several segments with entries, hard states and marks of several groups.
fn lived_in() -> (MemoryDisk, Recovery) {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    for index in 1..=60 {
        let group = index as Group % 3;
        let at = log.reader().last_index(group) + 1;
        log.append(&[entry(group, at, 1), hard_state(group, 1, 2, at)]).unwrap();
        log.sync().unwrap();
        if index == 20 {
            log.reset_group(2, at + 7, 1).unwrap();
        }
        if index == 30 {
            log.remove_group(0).unwrap();
        }
    }
    assert!(log.status().segments >= 2);
    drop(log);
    disk.kill();
    let (_, recovery) = open(&disk);
    (disk, recovery)
}

fn copy_of(disk: &MemoryDisk) -> MemoryDisk {
    let copy = MemoryDisk::new();
    for directory in ["log", "bodies", "copies"] {
        copy.create_directory(directory).unwrap();
    }
    for (path, _) in disk.files() {
        copy.replace(&path, disk.content(&path).unwrap());
    }
    copy
}

/// Writes all lost entries again.
fn restore_all(log: &Log, recovery: &Recovery) {
    for lost in &recovery.lost {
        let (group, index, term) = (lost.group, lost.index, lost.term);
        let reader = log.reader();
        assert!(matches!(reader.entry(group, index), Err(ReadError::Corrupt { .. })));
        assert_eq!(reader.lost(group, index), Some(*lost), "found again by its place");
        assert!(!reader.restore(lost, &body(group, index, term + 1), b"").unwrap(), "another entry");
        assert!(reader.restore(lost, &body(group, index, term), b"").unwrap());
        assert_eq!(reader.entry(group, index).unwrap().unwrap().data, body(group, index, term));
    }
}

/// What the disk holds after damage is what it held before, once lost entries are restored.
fn check_mended(disk: &MemoryDisk, before: &Recovery, what: &str) {
    let (log, recovery) = match Log::open(Arc::new(disk.clone()), options()) {
        Ok(opened) => opened,
        Err(error) => panic!("{what}: {error}"),
    };
    assert_eq!(recovery.groups, before.groups, "{what}");
    restore_all(&log, &recovery);
    drop(log);
    disk.kill();
    let (log, recovery) = open(disk);
    assert!(recovery.lost.is_empty(), "{what}: restored for good");
    for (group, found) in &recovery.groups {
        for index in found.floor + 1..=found.last {
            let entry = log.reader().entry(*group, index).unwrap().unwrap();
            assert_eq!(entry.data, body(*group, index, entry.term), "{what}");
        }
    }
}

#[test]
fn flipped_byte_anywhere_in_the_log_is_known_and_written_again() {
    let (disk, before) = lived_in();
    let segments: Vec<(String, u64)> =
        disk.files().into_iter().filter(|(path, _)| path.starts_with("log/segment")).collect();
    assert!(segments.len() >= 2);
    let mut marks = 0;
    for (path, length) in segments {
        for offset in (0..length).step_by(13) {
            let damaged = copy_of(&disk);
            damaged.corrupt(&path, offset, 0x10).unwrap();
            if offset % 5 == 0 {
                let (_, recovery) = open(&copy_of(&damaged));
                marks += recovery.damaged_records - recovery.lost.len() as u64;
            }
            check_mended(&damaged, &before, &format!("{path} at {offset}"));
        }
    }
    assert!(marks > 0, "marks were among them, or entries that nobody needs");
}

#[test]
fn segment_that_was_cut_short_or_zeroed_is_known_and_written_again() {
    let (disk, before) = lived_in();
    let path = segment_path(1);
    let content = disk.content(&path).unwrap();
    for length in [content.len() - 1, 9000, 4100, 4096, 100, 0] {
        let damaged = copy_of(&disk);
        damaged.replace(&path, content[..length].to_vec());
        check_mended(&damaged, &before, &format!("cut to {length}"));
        let damaged = copy_of(&disk);
        let mut zeroed = content.clone();
        zeroed[length..].fill(0);
        damaged.replace(&path, zeroed);
        check_mended(&damaged, &before, &format!("zeros from {length}"));
    }
}

/// A hole would want room when it is written to, and a write into a segment does not expect that there is none.
#[cfg(unix)]
#[test]
fn segment_that_was_cut_short_has_its_room_again() {
    use std::os::unix::fs::MetadataExt;

    let root = std::env::temp_dir().join(format!("quorate-cut-{}", std::process::id()));
    let disk = Arc::new(OsDisk::new(&root).unwrap());
    let large = LogOptions { segment_bytes: 1 << 20, ..options() };
    let (mut log, _) = Log::open(disk.clone(), large.clone()).unwrap();
    append_entries(&mut log, 1, 1, 20);
    drop(log);
    let path = root.join(segment_path(1));
    let whole = std::fs::metadata(&path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(8 << 10).unwrap();
    drop(Log::open(disk, large).unwrap());
    let mended = std::fs::metadata(&path).unwrap();
    assert_eq!(mended.len(), whole.len());
    assert!(mended.blocks() >= whole.blocks(), "{} of {} blocks", mended.blocks(), whole.blocks());
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn damage_to_a_record_and_to_its_row_is_corruption_and_nothing_is_changed() {
    let (disk, _) = lived_in();
    let record = 4096 + 70;
    disk.corrupt(&segment_path(1), record, 1).unwrap();
    disk.corrupt("copies/heads-0000000001", 4096 + 100, 1).unwrap();
    let before = disk.content(&segment_path(1)).unwrap();
    let error = Log::open(Arc::new(disk.clone()), options()).err().unwrap();
    assert!(error.is_damage(), "{error}");
    assert_eq!(disk.content(&segment_path(1)).unwrap(), before);
}

#[test]
fn damaged_or_missing_copy_of_the_present_segment_is_made_again() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    for index in 1..=250 {
        let small = Record::Entry {
            group: 1,
            index,
            term: 1,
            entry_type: 0,
            data: Bytes::from_static(b"x"),
            context: Bytes::new(),
        };
        log.append(&[small]).unwrap();
        log.sync().unwrap();
    }
    assert_eq!(log.status().segments, 2);
    drop(log);
    disk.kill();
    let path = "copies/heads-0000000002";
    open(&disk);
    let whole = disk.content(path).unwrap();
    for offset in [3, 4096, 4200, whole.len() - 1] {
        disk.corrupt(path, offset as u64, 1).unwrap();
        open(&disk);
        let again = disk.content(path).unwrap();
        assert_eq!(again[..4096], whole[..4096], "{offset}");
        assert!(again.len() >= whole.len());
    }
    disk.unlink(path).unwrap();
    open(&disk);
    disk.corrupt(&segment_path(2), 4096 + 64, 1).unwrap();
    let (log, recovery) = open(&disk);
    assert!(recovery.damaged_records == 1 && log.epoch() > 1);
}

#[test]
fn damage_to_the_last_record_that_was_synced_is_no_torn_tail() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 2);
    let last = log.shared.index.read().groups[&1].position(2).unwrap();
    drop(log);
    disk.kill();
    disk.corrupt(&segment_path(1), u64::from(last.offset) + 64, 1).unwrap();
    let (log, recovery) = open(&disk);
    assert_eq!((recovery.groups[&1].last, recovery.torn_tail), (2, None));
    restore_all(&log, &recovery);
}

#[test]
fn copies_of_segments_that_are_gone_go_too() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 1, 1, 120);
    let copies = |disk: &MemoryDisk| disk.list("copies").unwrap().len() as u64;
    assert_eq!(copies(&disk), log.status().segments);
    let first = log.droppable().unwrap().segment;
    log.drop_segment(first, &|_| 120, &|_, _| false, SlowGroups::Keep).unwrap();
    assert_eq!(copies(&disk), log.status().segments);
    disk.replace("copies/tables-0000000004-0000000009", vec![1]);
    open(&disk);
    assert_eq!(copies(&disk), log.status().segments);
    // As an older program leaves it: a copy without a segment, and records without rows.
    disk.replace("copies/heads-0000000001", vec![1]);
    disk.unlink(&format!("copies/{}", heads_name(log.head.number))).unwrap();
    open(&disk);
    assert_eq!(copies(&disk), log.status().segments);
}

#[test]
fn loss_of_the_oldest_or_the_newest_segment_is_damage() {
    let (disk, _) = lived_in();
    let segments: Vec<String> = disk
        .files()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.starts_with("log/segment"))
        .collect();
    for lost in [&segments[0], &segments[segments.len() - 1]] {
        let damaged = copy_of(&disk);
        damaged.unlink(lost).unwrap();
        let error = Log::open(Arc::new(damaged), options()).err().unwrap();
        assert!(error.is_damage() && error.to_string().contains("missing"), "{lost}: {error}");
    }
}

#[test]
fn body_file_is_mended_from_the_copy_of_its_table_and_with_bodies_of_others() {
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk);
    for index in 1..=5 {
        log.bodies().put(4, index, body(4, index, 1)).unwrap();
    }
    log.bodies().seal(4).unwrap();
    let (path, length) = disk.files().into_iter().find(|(path, _)| path.starts_with("bodies/")).unwrap();
    let content = disk.content(&path).unwrap();
    let check = |what: &str| {
        let (log, _) = open(&disk);
        let bodies = log.bodies();
        for index in 1..=5 {
            let whole = body(4, index, 1);
            if bodies.read(4, index).is_err() {
                assert!(!bodies.restore(4, index, &body(4, index, 2)).unwrap(), "{what}: another body");
                assert!(bodies.restore(4, index, &whole).unwrap());
            }
            assert_eq!(bodies.read(4, index).unwrap(), Some(whole), "{what}");
        }
        assert!(disk.content(&path).unwrap() == content, "{what}: as it was");
    };
    // Behind the header's checksum are bytes of no account.
    for offset in (0..40).chain(64..length) {
        disk.corrupt(&path, offset, 4).unwrap();
        check(&format!("flip at {offset}"));
    }
    for cut in [length - 1, 100, 64, 10, 0] {
        disk.replace(&path, content[..cut as usize].to_vec());
        check(&format!("cut to {cut}"));
    }
}

/// Walks over everything and writes again what can be had from others.
fn scrub(log: &Log) -> Vec<Damage> {
    let mut scrub = Scrub::new(log.reader());
    let mut found = Vec::new();
    while let Some(step) = scrub.step().unwrap() {
        found.extend(step.damage);
    }
    for damage in &found {
        match damage {
            Damage::Entry { group, index } => {
                let reader = log.reader();
                let lost = reader.lost(*group, *index).unwrap();
                assert!(reader.restore(&lost, &body(*group, *index, lost.term), b"").unwrap());
            }
            Damage::Body { group, index } => {
                assert!(log.bodies().restore(*group, *index, &body(*group, *index, 1)).unwrap());
            }
            Damage::Mended { .. } | Damage::Unknown { .. } => {}
        }
    }
    found
}

/// A log in use, with a segment dropped into body files.
fn in_use() -> (MemoryDisk, Log) {
    let (disk, _) = lived_in();
    let (mut log, _) = open(&disk);
    append_entries(&mut log, 5, 1, 40);
    let first = log.droppable().unwrap().segment;
    let floors = |group| log.reader().last_index(group).saturating_sub(2);
    let floors: BTreeMap<Group, Index> = (0..6).map(|group| (group, floors(group))).collect();
    let outcome =
        log.drop_segment(first, &|group| floors[&group], &|_, _| true, SlowGroups::CopyTail).unwrap();
    assert!(matches!(outcome, DropOutcome::Dropped { body_bytes: 1.., .. }), "{outcome:?}");
    (disk, log)
}

#[test]
fn walk_over_a_sound_disk_finds_nothing_and_makes_copies_that_are_missing() {
    let (disk, log) = in_use();
    assert_eq!(scrub(&log), []);
    let copies = |disk: &MemoryDisk| -> Vec<(String, Vec<u8>)> {
        let paths = disk.files().into_iter().map(|(path, _)| path).filter(|path| path.starts_with("copies/"));
        paths.map(|path| (path.clone(), disk.content(&path).unwrap())).collect()
    };
    let before = copies(&disk);
    let written = format!("copies/heads-{:010}", log.head.number);
    for (path, _) in before.iter().filter(|(path, _)| *path != written) {
        disk.unlink(path).unwrap();
    }
    assert_eq!(scrub(&log), []);
    assert!(copies(&disk) == before);
}

#[test]
fn walk_on_a_full_disk_says_so_and_the_next_one_makes_what_is_missing() {
    let (disk, log) = in_use();
    let copies: Vec<String> =
        disk.files().into_iter().map(|(path, _)| path).filter(|path| path.starts_with("copies/")).collect();
    let written = format!("copies/heads-{:010}", log.head.number);
    for path in copies.iter().filter(|path| **path != written) {
        disk.unlink(path).unwrap();
    }
    let used: u64 = disk.files().iter().map(|(_, length)| length).sum();
    let mut refused = 0;
    // From none, over room for the head of a copy and not for what it is to hold, to enough.
    for room in (0..20_000).step_by(500) {
        disk.limit_capacity(Some(used + room));
        let mut walk = Scrub::new(log.reader());
        let ended = loop {
            match walk.step() {
                Ok(Some(step)) => assert_eq!(step.damage, []),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        refused += usize::from(ended.is_some());
        assert!(ended.is_none_or(|error| error.is_no_space()), "room for {room}");
    }
    assert!(refused > 0, "some room was too little");
    assert!(!log.is_poisoned());
    disk.limit_capacity(None);
    assert_eq!(scrub(&log), []);
    assert!(copies.iter().all(|path| disk.content(path).is_ok()));
}

#[test]
fn flipped_byte_anywhere_is_found_by_a_walk_and_mended() {
    let (disk, log) = in_use();
    let mut found = 0;
    for (path, length) in disk.files().into_iter().filter(|(path, _)| !path.contains("spare")) {
        let before = disk.content(&path).unwrap();
        for offset in (0..length).step_by(31) {
            disk.corrupt(&path, offset, 0x20).unwrap();
            let damage = scrub(&log);
            found += damage.len();
            assert!(
                !damage.iter().any(|damage| matches!(damage, Damage::Unknown { .. })),
                "{path} at {offset}"
            );
            assert_eq!(scrub(&log), [], "{path} at {offset}");
            let after = disk.content(&path).unwrap();
            if after != before {
                // Bytes that no checksum covers, the copy of what is still written, and records that nobody needs.
                disk.corrupt(&path, offset, 0x20).unwrap();
                assert!(disk.content(&path).unwrap() == before, "{path} at {offset}");
            }
        }
    }
    assert!(found > 500, "{found}");
}

/// Another node, which has every entry as it was, after one that says something else.
struct Sound;

impl PayloadSource for Sound {
    fn offer(&self, group: Group, index: Index, take: &mut dyn FnMut(&Payload) -> bool) -> Offer {
        let answer = |term: Term| Payload { data: body(group, index, term), context: Bytes::new() };
        assert!(!take(&answer(9)), "of another term");
        if group < 5 && take(&answer(1)) { Offer::Taken } else { Offer::NobodyHas }
    }
}

#[test]
fn read_that_meets_damage_goes_on_with_what_another_node_has() {
    let (disk, log) = in_use();
    let reader = log.reader();
    for (path, length) in disk.files() {
        if path.starts_with("bodies/") || path.contains("segment") {
            disk.corrupt(&path, length.min(9000) - 1, 0x20).unwrap();
        }
    }
    drop(log);
    disk.kill();
    let (log, recovery) = open(&disk);
    let groups: Vec<Group> = recovery.groups.keys().copied().collect();
    let wanted = |reader: &LogReader| -> Vec<(Group, Index, bool)> {
        let all =
            groups.iter().flat_map(|group| (1..=recovery.groups[group].last).map(|index| (*group, index)));
        all.map(|(group, index)| (group, index, reader.body(group, index).is_ok())).collect()
    };
    let before = wanted(&log.reader());
    assert!(before.iter().any(|(_, _, sound)| !sound));
    assert!(log.reader().mend(1, 8).is_none(), "nobody to ask");
    drop(reader);
    log.reader().repair_from(Arc::new(Sound));
    for (group, index, _) in wanted(&log.reader()) {
        let body = log.reader().body(group, index);
        if group < 5 {
            assert!(body.is_ok(), "{group} {index}");
        }
    }
    assert!(recovery.lost.iter().all(|lost| lost.group < 5 || log.reader().body(5, lost.index).is_err()));
}

#[test]
fn record_that_cannot_be_written_again_is_the_end_of_the_log() {
    for operation in [Operation::Write, Operation::Sync] {
        let memory = MemoryDisk::new();
        let disk = FaultyDisk::new(Arc::new(memory.clone()), 1);
        let (mut log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
        append_entries(&mut log, 1, 1, 2);
        let position = log.shared.index.read().groups[&1].position(1).unwrap();
        memory.corrupt(&segment_path(1), u64::from(position.offset) + 70, 4).unwrap();
        let reader = log.reader();
        let lost = reader.lost(1, 1).unwrap();
        let kind = FaultKind::InputOutput;
        disk.arm(Fault { operation, path_contains: "log/segment".into(), after: 0, times: 1, kind });
        reader.restore(&lost, &body(1, 1, 1), b"").unwrap_err();
        assert!(log.is_poisoned(), "{operation:?}");
        assert!(matches!(log.append(&[entry(1, 3, 1)]), Err(LogError::Poisoned)));
        assert!(matches!(log.sync(), Err(LogError::Poisoned)));
    }
}

#[test]
fn random_life_with_damage_keeps_every_synced_record() {
    for seed in 0..60 {
        let mut world = World::new(1000 + seed);
        for _ in 0..100 {
            world.step();
            if world.random.one_in(12) {
                world.damage();
            }
        }
        world.check();
    }
}

impl World {
    /// The process ends, bytes of one segment go bad, and it starts again.
    fn damage(&mut self) {
        self.disk.kill();
        self.damaged = true;
        let segments: Vec<(String, u64)> =
            self.disk.files().into_iter().filter(|(path, _)| path.starts_with("log/segment")).collect();
        let (path, length) = &segments[self.random.below(segments.len() as u64) as usize];
        let mut content = self.disk.content(path).unwrap();
        let at = self.random.below(*length) as usize;
        let end = (at + 1 + self.random.below(3000) as usize).min(content.len());
        content[at..end].iter_mut().for_each(|byte| *byte ^= 0x55);
        self.disk.replace(path, content);
        let (log, recovery) = open(&self.disk);
        restore_all(&log, &recovery);
        self.log = log;
        let found = self.read_all(&recovery);
        assert!(self.states.contains(&found), "none of {} states", self.states.len());
        self.synced(found);
    }
}
