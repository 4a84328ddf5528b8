//! Files written by earlier versions are read by this one, and this one writes the same bytes.
//!
//! `QUORATE_GOLDEN=write cargo test -p quorate-storage --test golden` writes new files after a format change; the
//! old ones stay, under the name of their version.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_storage::snapshot::{Chunk, Content};
use quorate_storage::{AppliedMark, Disk, HardState, Identity, Log, LogOptions, Record, disk::MemoryDisk};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with the golden file and returns its bytes.
fn check(name: &str, written: &[u8]) -> Vec<u8> {
    let path = golden(name);
    if std::env::var_os("QUORATE_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&path, written).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes == written, "{name}: this version writes other bytes");
    bytes
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 8 << 10, salt: 0x5eed, ..LogOptions::default() }
}

fn identity() -> Identity {
    Identity {
        node_id: 3,
        incarnation: 12,
        disk_uuid: *b"0123456789abcdef",
        cluster_id: "plant".into(),
        node_name: "north-1".into(),
    }
}

fn mark() -> AppliedMark {
    AppliedMark { index: 900, term: 4, conf_state: vec![1, 0, 2, 3] }
}

#[test]
fn log_segment_of_version_1_is_read() {
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
    let entry = |group, index, data: &'static [u8], context: &'static [u8]| Record::Entry {
        group,
        index,
        term: 2,
        entry_type: u8::from(!context.is_empty()),
        data: Bytes::from_static(data),
        context: Bytes::from_static(context),
    };
    let state = HardState { term: 2, vote: 3, commit: 1 };
    log.append(&[entry(0, 1, b"change", b"context"), Record::HardState { group: 0, state }]).unwrap();
    log.sync().unwrap();
    log.append(&[entry(5, 1, b"one", b""), entry(5, 2, b"two", b""), entry(5, 2, b"second two", b"")])
        .unwrap();
    log.reset_group(6, 40, 2).unwrap();
    log.remove_group(7).unwrap();
    let bytes = check("segment-v1.bin", &disk.content("log/segment-0000000001").unwrap());

    let disk = MemoryDisk::new();
    disk.create_directory("log").unwrap();
    disk.replace("log/segment-0000000001", bytes);
    let (log, recovery) = Log::open(Arc::new(disk), options()).unwrap();
    assert_eq!((recovery.epoch, recovery.records, recovery.torn_tail), (2, 8, None));
    assert_eq!(recovery.groups[&0].hard_state, Some(state));
    assert_eq!((recovery.groups[&6].floor, recovery.groups[&6].floor_term), (40, 2));
    let read = log.reader().entry(0, 1).unwrap().unwrap();
    assert_eq!((read.entry_type, &read.data[..], &read.context[..]), (1, &b"change"[..], &b"context"[..]));
    assert_eq!(&log.reader().body(5, 2).unwrap().unwrap()[..], b"second two");
}

#[test]
fn body_file_of_version_1_is_read() {
    let disk = MemoryDisk::new();
    let (log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
    log.bodies().put(5, 17, Bytes::from_static(b"first")).unwrap();
    log.bodies().put(5, 90, Bytes::from_static(b"")).unwrap();
    log.bodies().put(5, 91, Bytes::from_static(b"third")).unwrap();
    log.bodies().seal(5).unwrap();
    let path = "bodies/group-0000000005-0000000001";
    let bytes = check("bodies-v1.bin", &disk.content(path).unwrap());
    disk.replace(path, bytes);
    let (log, _) = Log::open(Arc::new(disk), options()).unwrap();
    let body = |index| log.reader().body(5, index).unwrap().map(|body| body.to_vec());
    assert_eq!([17, 90, 91].map(body), [b"first".to_vec(), vec![], b"third".to_vec()].map(Some));
    assert_eq!(body(18), None);
}

#[test]
fn identity_file_of_version_1_is_read() {
    let bytes = check("identity-v1.bin", &identity().encode());
    assert_eq!(Identity::decode(&bytes), Some(identity()));
}

#[test]
fn checkpoint_mark_of_version_1_is_read() {
    let bytes = check("mark-v1.bin", &mark().encode());
    assert_eq!(AppliedMark::decode(&bytes), Some(mark()));
}

fn chunks() -> [Chunk; 3] {
    let text = Bytes::from_static;
    let content = [
        Content::Bodies(vec![(8, text(b"body")), (9, text(b""))]),
        Content::Records(vec![(text(b"key"), text(b"value")), (text(b""), text(b"of the empty key"))]),
        Content::End { mark: mark(), bodies: 2, records: 2 },
    ];
    let mut number = 0;
    content.map(|content| {
        number += 1;
        Chunk { group: 5, number: number - 1, content }
    })
}

#[test]
fn snapshot_chunks_of_version_1_are_read() {
    for (name, chunk) in ["bodies", "records", "end"].into_iter().zip(chunks()) {
        let bytes = check(&format!("chunk-{name}-v1.bin"), &chunk.encode());
        assert_eq!(Chunk::decode(&bytes.into()).unwrap(), chunk);
    }
}

#[test]
fn snapshot_chunk_with_a_flipped_bit_is_refused() {
    for chunk in chunks() {
        let bytes = chunk.encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Chunk::decode(&flipped.into()).is_err(), "bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = AppliedMark::decode(&bytes);
        let _ = Identity::decode(&bytes);
        let _ = Chunk::decode(&Bytes::from(bytes));
    }

    #[test]
    fn chunk_with_arbitrary_content_behind_a_good_checksum_never_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 20..300),
        kind in 0u8..5,
        count in 0u32..9,
    ) {
        bytes[0] = 1;
        bytes[1] = kind;
        bytes[16..20].copy_from_slice(&count.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let _ = Chunk::decode(&Bytes::from(bytes));
    }

    #[test]
    fn segment_with_arbitrary_content_is_opened_or_refused(
        places in proptest::collection::vec((0usize..8192, any::<u8>()), 1..12),
    ) {
        let mut image = std::fs::read(golden("segment-v1.bin")).unwrap();
        for (place, byte) in places {
            image[place] = byte;
        }
        let disk = MemoryDisk::new();
        disk.create_directory("log").unwrap();
        disk.replace("log/segment-0000000001", image);
        let _ = Log::open(Arc::new(disk), options());
    }
}
