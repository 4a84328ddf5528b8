//! Identity across starts, crashes and mistakes.

use std::sync::Arc;

use super::*;
use crate::disk::faulty::{Fault, FaultKind, FaultyDisk, Operation};
use crate::disk::{MemoryDisk, OsDisk};

fn identity() -> Identity {
    Identity {
        node_id: 7,
        incarnation: 0,
        disk_uuid: [9; 16],
        cluster_id: "plant".to_string(),
        node_name: "north-1".to_string(),
    }
}

#[test]
fn incarnation_grows_with_each_start_and_survives_any_crash() {
    let disk = MemoryDisk::new();
    assert_eq!(Identity::load(&disk).unwrap(), None);
    identity().create(&disk).unwrap();
    for start in 1..50 {
        disk.crash(start);
        let mut identity = Identity::load(&disk).unwrap().unwrap();
        assert_eq!(identity.next_incarnation(&disk).unwrap(), start);
    }
    assert!(matches!(identity().create(&disk), Err(IdentityError::Exists)));
}

#[test]
fn incarnation_that_could_not_be_stored_is_not_used() {
    for operation in
        [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDirectory]
    {
        let memory = MemoryDisk::new();
        let disk = FaultyDisk::new(Arc::new(memory.clone()), 1);
        identity().create(&disk).unwrap();
        let mut identity = Identity::load(&disk).unwrap().unwrap();
        identity.next_incarnation(&disk).unwrap();
        let kind = FaultKind::InputOutput;
        disk.arm(Fault { operation, path_contains: String::new(), after: 0, times: 1, kind });
        identity.next_incarnation(&disk).unwrap_err();
        assert_eq!((identity.incarnation, disk.injected()), (1, 1));
        for seed in 0..8 {
            memory.crash(seed);
            let found = Identity::load(&memory).unwrap().unwrap();
            assert!(found.incarnation == 1 || found.incarnation == 2, "{operation:?}");
        }
        let mut found = Identity::load(&memory).unwrap().unwrap();
        assert!(found.next_incarnation(&memory).unwrap() >= 2);
    }
}

#[test]
fn incarnation_that_finds_no_room_is_begun_when_there_is() {
    for operation in
        [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDirectory]
    {
        let memory = MemoryDisk::new();
        let disk = FaultyDisk::new(Arc::new(memory.clone()), 1);
        identity().create(&disk).unwrap();
        let mut identity = Identity::load(&disk).unwrap().unwrap();
        let kind = FaultKind::NoSpace;
        disk.arm(Fault { operation, path_contains: String::new(), after: 0, times: 2, kind });
        for _ in 0..2 {
            assert!(identity.next_incarnation(&disk).unwrap_err().is_no_space(), "{operation:?}");
        }
        assert_eq!(identity.next_incarnation(&disk).unwrap(), 1);
        memory.crash(1);
        assert_eq!(Identity::load(&memory).unwrap(), Some(identity), "{operation:?}");
    }
}

#[test]
fn directory_with_data_but_without_identity_is_refused() {
    let disk = MemoryDisk::new();
    disk.create_directory("log").unwrap();
    assert!(matches!(Identity::load(&disk), Err(IdentityError::Missing { found }) if found == "log"));
    assert!(identity().create(&disk).is_err());
}

#[test]
fn damaged_identity_is_that_of_its_copy_in_an_incarnation_nobody_has_seen() {
    let disk = MemoryDisk::new();
    let mut before = identity();
    before.create(&disk).unwrap();
    let length = disk.content("identity").unwrap().len() as u64;
    for offset in 0..length {
        before.next_incarnation(&disk).unwrap();
        disk.corrupt("identity", offset, 0x40).unwrap();
        let mut found = Identity::load(&disk).unwrap().unwrap();
        assert!(found.incarnation > before.incarnation + 1000, "{offset}");
        found.next_incarnation(&disk).unwrap();
        assert_eq!(disk.content("identity").unwrap(), disk.content("identity.copy").unwrap());
        assert_eq!(Identity::load(&disk).unwrap(), Some(found.clone()), "the file counts again");
        before = Identity { incarnation: before.incarnation, ..found };
    }
    disk.unlink("identity").unwrap();
    assert_eq!(Identity::load(&disk).unwrap().unwrap().disk_uuid, before.disk_uuid);
    identity().next_incarnation(&disk).unwrap();
    disk.unlink("identity.copy").unwrap();
    assert_eq!(Identity::load(&disk).unwrap().unwrap().incarnation, 1, "an older program wrote it once");
}

#[test]
fn damaged_identity_without_a_copy_is_refused() {
    let disk = MemoryDisk::new();
    identity().create(&disk).unwrap();
    disk.unlink("identity.copy").unwrap();
    let length = disk.content("identity").unwrap().len() as u64;
    for offset in 0..length {
        disk.corrupt("identity", offset, 0x40).unwrap();
        assert!(matches!(Identity::load(&disk), Err(IdentityError::Corrupt)), "{offset}");
        disk.corrupt("identity", offset, 0x40).unwrap();
    }
    for cut in 0..length as usize {
        disk.replace("identity", identity().encode()[..cut].to_vec());
        assert!(matches!(Identity::load(&disk), Err(IdentityError::Corrupt)), "{cut}");
    }
}

#[test]
fn second_holder_of_a_directory_is_refused() {
    let disk = MemoryDisk::new();
    let held = lock(&disk).unwrap();
    assert!(matches!(lock(&disk), Err(IdentityError::Locked)));
    drop(held);
    lock(&disk).unwrap();
}

#[test]
fn second_holder_of_a_real_directory_is_refused() {
    let path = std::env::temp_dir().join(format!("quorate-lock-{}", std::process::id()));
    let disk = OsDisk::new(&path).unwrap();
    let other = OsDisk::new(&path).unwrap();
    let held = lock(&disk).unwrap();
    assert!(matches!(lock(&other), Err(IdentityError::Locked)));
    drop(held);
    lock(&other).unwrap();
    assert_eq!(Identity::load(&disk).unwrap(), None, "a lock file alone is no data");
    disk.unlink("lock").unwrap();
    std::fs::remove_dir(path).unwrap();
}

#[test]
fn name_over_the_limit_is_refused() {
    let disk = MemoryDisk::new();
    let long = Identity { node_name: "n".repeat(256), ..identity() };
    assert!(matches!(long.create(&disk), Err(IdentityError::NameTooLong { bytes: 256, .. })));
    Identity { node_name: "n".repeat(255), ..identity() }.create(&disk).unwrap();
    Identity::load(&disk).unwrap().unwrap();
}
