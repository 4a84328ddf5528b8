//! Both stores keep the same contract.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("quorate-checkpoint-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Directory {
    #[allow(clippy::disallowed_methods)] // The directory was made by this test, under a name of its own.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mark(index: Index) -> AppliedMark {
    AppliedMark { index, term: 3, conf_state: vec![1, 2, 3] }
}

fn set(key: &str, value: &str) -> Change {
    (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))
}

fn pair(key: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
    (key.as_bytes().to_vec(), value.as_bytes().to_vec())
}

fn drain(mut view: Box<dyn CheckpointView>) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let chunk = view.next_chunk(1).unwrap();
        if chunk.is_empty() {
            return found;
        }
        assert_eq!(chunk.len(), 1, "a chunk holds at least one record and respects its limit");
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        found.extend(chunk.iter().map(|(key, value)| format!("{}={}", text(key), text(value))));
    }
}

fn records(store: &dyn CheckpointStore, group: Group) -> Vec<String> {
    store.view(group).unwrap().map(drain).unwrap_or_default()
}

fn check_contract(store: &dyn CheckpointStore) {
    assert!(store.view(2).unwrap().is_none() && store.mark(2).unwrap().is_none());
    store.write(2, &mark(5), vec![set("b", "1"), set("a", "1"), set("", "empty")]).unwrap();
    store.write(1, &mark(9), vec![set("b", "other")]).unwrap();
    let before = store.view(2).unwrap().unwrap();
    store.write(2, &mark(6), vec![set("b", "2"), (b"a".to_vec(), None), set("c", "3")]).unwrap();
    assert_eq!(before.mark(), &mark(5));
    assert_eq!(drain(before), ["=empty", "a=1", "b=1"], "a view is not disturbed by writes");
    assert_eq!(records(store, 2), ["=empty", "b=2", "c=3"]);
    assert_eq!(store.mark(2).unwrap(), Some(mark(6)));
    let behind = store.write(2, &mark(4), vec![]).unwrap_err();
    assert!(matches!(behind, CheckpointError::Behind { group: 2, index: 4, current: 6 }));

    assert!(matches!(store.put_chunk(2, vec![]), Err(CheckpointError::NotInstalling { group: 2 })));
    store.begin_install(2).unwrap();
    store.put_chunk(2, vec![pair("x", "given up")]).unwrap();
    store.begin_install(2).unwrap();
    store.put_chunk(2, vec![pair("y", "1")]).unwrap();
    assert_eq!(records(store, 2), ["=empty", "b=2", "c=3"], "the old state stays in force");
    let old = store.view(2).unwrap().unwrap();
    store.put_chunk(2, vec![pair("z", "2")]).unwrap();
    store.commit_install(2, &mark(50)).unwrap();
    assert_eq!(
        (records(store, 2), store.mark(2).unwrap()),
        (vec!["y=1".into(), "z=2".into()], Some(mark(50)))
    );
    assert_eq!(drain(old), ["=empty", "b=2", "c=3"], "a view outlives the replacement");
    store.write(2, &mark(51), vec![set("y", "4")]).unwrap();

    store.begin_install(3).unwrap();
    store.put_chunk(3, vec![pair("q", "1")]).unwrap();
    assert_eq!(store.groups().unwrap(), [1, 2]);
    store.abort_install(3).unwrap();
    store.remove(1).unwrap();
    assert_eq!(store.groups().unwrap(), [2]);
    assert_eq!(records(store, 1), Vec::<String>::new());
}

#[test]
fn memory_store_keeps_the_contract() {
    let store = MemoryCheckpoints::new();
    check_contract(&store);
    store.begin_install(2).unwrap();
    store.crash();
    assert_eq!(records(&store, 2), ["y=4", "z=2"]);
    assert!(store.commit_install(2, &mark(90)).is_err());
    store.fail_after(1);
    store.write(2, &mark(52), vec![]).unwrap();
    assert!(store.write(2, &mark(53), vec![]).is_err());
    store.crash();
    assert_eq!(store.mark(2).unwrap(), Some(mark(52)));
}

#[test]
fn index_store_keeps_the_contract_and_what_it_holds() {
    let directory = Directory::new();
    let store = IndexStore::open(&directory.0).unwrap();
    check_contract(&store);
    store.begin_install(2).unwrap();
    store.put_chunk(2, vec![pair("lost", "1")]).unwrap();
    drop(store);
    let store = IndexStore::open(&directory.0).unwrap();
    assert_eq!((store.groups().unwrap(), store.mark(2).unwrap()), (vec![2], Some(mark(51))));
    assert_eq!(records(&store, 2), ["y=4", "z=2"], "a snapshot that was not committed is gone");
    store.begin_install(2).unwrap();
    assert_eq!(store.keyspaces(), 4, "until it is known that no pointer was lost");
    store.remove_orphans().unwrap();
    assert_eq!(store.keyspaces(), 3, "but not what is being received");
    store.put_chunk(2, vec![pair("new", "1")]).unwrap();
    store.commit_install(2, &mark(60)).unwrap();
    store.write(7, &mark(1), vec![set("k", "v")]).unwrap();
    drop(store);
    let store = IndexStore::open(&directory.0).unwrap();
    assert_eq!((records(&store, 2), records(&store, 7)), (vec!["new=1".into()], vec!["k=v".into()]));
    assert_eq!(store.groups().unwrap(), [2, 7]);
}

/// Copies a directory as a power cut would leave it: everything that was synced, while the store still runs.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn index_store_cut_off_between_any_two_calls_has_the_old_state_or_the_new_one() {
    let directory = Directory::new();
    let store = IndexStore::open(&directory.0).unwrap();
    store.write(2, &mark(5), vec![set("a", "1"), set("b", "1")]).unwrap();
    let (old, new): (Vec<String>, Vec<String>) =
        (vec!["a=1".into(), "b=1".into()], vec!["c=9".into(), "d=9".into()]);
    let image_holds = |expected: &Vec<String>, index: Index| {
        let image = Directory::new();
        copy(&directory.0, &image.0);
        let reopened = IndexStore::open(&image.0).unwrap();
        assert_eq!((&records(&reopened, 2), reopened.mark(2).unwrap()), (expected, Some(mark(index))));
    };
    image_holds(&old, 5);
    store.begin_install(2).unwrap();
    image_holds(&old, 5);
    store.put_chunk(2, vec![pair("c", "9")]).unwrap();
    store.put_chunk(2, vec![pair("d", "9")]).unwrap();
    image_holds(&old, 5);
    store.commit_install(2, &mark(8)).unwrap();
    image_holds(&new, 8);
    store.remove(2).unwrap();
    let image = Directory::new();
    copy(&directory.0, &image.0);
    assert!(IndexStore::open(&image.0).unwrap().groups().unwrap().is_empty());
}

#[test]
fn mark_with_a_flipped_bit_does_not_decode() {
    let bytes = mark(77).encode();
    assert_eq!(AppliedMark::decode(&bytes), Some(mark(77)));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(AppliedMark::decode(&flipped), None, "bit {bit}");
    }
}
