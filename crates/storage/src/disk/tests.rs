//! The disks do what their trait says.

use std::sync::Arc;

use super::faulty::{Fault, FaultKind, Operation};
use super::memory::SECTOR_BYTES;
use super::*;

fn check_contract(disk: &dyn Disk) {
    disk.create_directory("d").unwrap();
    disk.create_directory("d").unwrap();
    let file = disk.create("d/a", 5000).unwrap();
    assert_eq!(disk.create("d/a", 1).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(read_up_to(file.as_ref(), 0, 9000).unwrap(), vec![0; 5000]);
    file.write_at(4998, b"hello").unwrap();
    file.sync_data().unwrap();
    disk.rename("d/a", "d/b").unwrap();
    disk.sync_directory("d").unwrap();
    assert_eq!(disk.list("d").unwrap(), ["b"]);
    let reopened = disk.open("d/b").unwrap();
    assert_eq!(reopened.len().unwrap(), 5003);
    assert_eq!(read_up_to(reopened.as_ref(), 4997, 100).unwrap(), b"\0hello");
    reopened.truncate(5000).unwrap();
    assert_eq!(read_up_to(file.as_ref(), 4998, 100).unwrap(), b"he");
    disk.unlink("d/b").unwrap();
    assert_eq!(read_up_to(file.as_ref(), 4998, 100).unwrap(), b"he", "an open handle outlives the name");
    assert_eq!(disk.open("d/b").err().unwrap().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.unlink("d/b").unwrap_err().kind(), io::ErrorKind::NotFound);
    let usage = disk.usage().unwrap();
    assert!(usage.available_bytes > 0 && usage.available_bytes <= usage.total_bytes);
}

#[test]
fn memory_disk_keeps_the_contract() {
    check_contract(&MemoryDisk::new());
}

#[test]
fn real_disk_keeps_the_contract() {
    let path = std::env::temp_dir().join(format!("quorate-disk-{}", std::process::id()));
    let disk = OsDisk::new(&path).unwrap();
    check_contract(&disk);
    std::fs::remove_dir(path.join("d")).unwrap();
    std::fs::remove_dir(path).unwrap();
}

#[test]
fn faulty_disk_without_faults_keeps_the_contract() {
    check_contract(&FaultyDisk::new(Arc::new(MemoryDisk::new()), 1));
}

#[test]
fn crash_keeps_any_subset_of_unsynced_sectors_and_all_synced_ones() {
    let (mut kept_first, mut kept_second) = (0, 0);
    for seed in 0..100 {
        let disk = MemoryDisk::new();
        let file = disk.create("a", 4 * SECTOR_BYTES as u64).unwrap();
        disk.sync_directory("").unwrap();
        file.write_at(0, &[1; 2 * SECTOR_BYTES]).unwrap();
        file.sync_data().unwrap();
        file.write_at(100, &[2; SECTOR_BYTES]).unwrap();
        disk.crash(seed);
        assert!(file.sync_data().is_err(), "handles die with the process");
        let content = disk.content("a").unwrap();
        assert!(content[..100].iter().all(|byte| *byte == 1));
        assert!(content[100..SECTOR_BYTES].iter().all(|byte| *byte == content[100]));
        kept_first += u32::from(content[100] == 2);
        kept_second += u32::from(content[SECTOR_BYTES] == 2);
        assert!(content[SECTOR_BYTES + 100..2 * SECTOR_BYTES].iter().all(|byte| *byte == 1));
    }
    assert!((20..80).contains(&kept_first) && (20..80).contains(&kept_second));
}

#[test]
fn name_is_lost_by_some_crashes_until_its_directory_is_synced() {
    let mut survived = 0;
    for seed in 0..100 {
        let disk = MemoryDisk::new();
        let file = disk.create("a", 10).unwrap();
        file.sync_data().unwrap();
        disk.crash(seed);
        survived += u32::from(disk.open("a").is_ok());
        disk.create("b", 10).unwrap();
        disk.sync_directory("").unwrap();
        disk.rename("b", "c").unwrap();
        disk.crash(seed);
        assert!(disk.open("b").is_ok() != disk.open("c").is_ok(), "a rename happens or not");
    }
    assert!((20..80).contains(&survived));
}

#[test]
fn failed_sync_loses_what_a_later_sync_calls_durable() {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()), 1);
    let file = disk.create("a", 10).unwrap();
    disk.sync_directory("").unwrap();
    let kind = FaultKind::InputOutput;
    disk.arm(Fault { operation: Operation::Sync, path_contains: "a".into(), after: 0, times: 1, kind });
    file.write_at(0, b"lost").unwrap();
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert_eq!(&memory.content("a").unwrap()[..4], b"lost", "it can still be read");
    memory.crash(1);
    assert_eq!(&memory.content("a").unwrap()[..4], [0; 4]);
}

#[test]
fn sectors_of_the_last_sync_and_unsynced_ones_are_not_settled() {
    const SECTOR: u64 = SECTOR_BYTES as u64;
    let disk = MemoryDisk::new();
    let file = disk.create("a", 4 * SECTOR).unwrap();
    file.write_at(0, &[1; SECTOR_BYTES]).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.settled_sectors("a").unwrap(), [1, 2, 3]);
    file.write_at(SECTOR, &[1; 10]).unwrap();
    file.sync_data().unwrap();
    file.sync_data().unwrap();
    file.write_at(3 * SECTOR - 1, &[1; 2]).unwrap();
    assert_eq!(disk.settled_sectors("a").unwrap(), [0]);
}

#[test]
fn lost_name_stays_lost_after_a_crash() {
    let disk = MemoryDisk::new();
    for synced in [true, false] {
        let file = disk.create("a", 10).unwrap();
        if synced {
            disk.sync_directory("").unwrap();
        }
        disk.lose("a");
        assert_eq!(file.len().unwrap(), 10);
        for seed in 0..10 {
            disk.crash(seed);
            assert!(disk.open("a").is_err());
        }
    }
}

#[test]
fn misdirected_and_lost_writes_report_success_and_leave_their_place_as_it_was() {
    let memory = MemoryDisk::new();
    let disk = FaultyDisk::new(Arc::new(memory.clone()), 1);
    let file = disk.create("a", 10).unwrap();
    for (kind, expected) in [
        (FaultKind::Misdirect(4), b"\0\0\0\0xy\0\0\0\0"),
        (FaultKind::MisdirectTo(8), b"\0\0\0\0xy\0\0xy"),
        (FaultKind::Lose, b"\0\0\0\0xy\0\0xy"),
    ] {
        disk.arm(Fault { operation: Operation::Write, path_contains: "a".into(), after: 0, times: 1, kind });
        file.write_at(0, b"xy").unwrap();
        assert_eq!(&memory.content("a").unwrap(), expected, "{kind:?}");
    }
    assert_eq!(disk.injected(), 3);
}
