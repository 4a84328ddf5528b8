//! From a backup file to folders that nodes start from, and everything that must be refused on the way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use quorate_node::node::RestoredGroup;
use quorate_state::command::RouteTarget;
use quorate_state::{Control, GroupId, LogIndex, NodeId, NodeStatus};
use quorate_storage::CheckpointStore;
use quorate_storage::disk::faulty::{Fault, FaultKind, FaultyDisk, Operation};
use quorate_storage::snapshot::{Chunk, Content};

use super::format::{BackupEnd, Frame, preamble};
use super::restore::{RestoreFileError, restore};
use super::restored::{Restored, RestoredError};
use super::testing::{BACKUP, OldCluster, PARTITIONS, write};
use super::verify::{VerifyError, verify_bytes};
use crate::boot::{BootError, DataFolder, Recovered};
use crate::config::{BootstrapNode, Config};
use crate::exit::ExitCode;
use crate::founding::Founding;
use crate::net::hello::Member;
use crate::testing::TestFolder;

fn config(folder: &TestFolder, name: &str, first: &[&str]) -> Config {
    let mut config = Config::default();
    config.node.name = name.to_owned();
    config.node.data_dir = folder.path().join(name);
    config.cluster.name = "new".to_owned();
    config.cluster.partitions = PARTITIONS;
    let node = |name: &&str| BootstrapNode { name: (*name).to_owned(), peer: format!("{name}:7600") };
    config.cluster.bootstrap = first.iter().map(node).collect();
    config.storage.segment_bytes = 1 << 20;
    config
}

fn file_of(cluster: &OldCluster, folder: &TestFolder) -> PathBuf {
    let file = folder.path().join("backup");
    cluster.write(&file);
    file
}

/// The first start of one of `count` first nodes, without the others.
fn first_start(
    folder: &mut DataFolder,
    config: &Config,
    own: u64,
    count: u64,
) -> Result<Founding, BootError> {
    let settings = folder.first_settings(config)?;
    let member = |id| Member {
        id: NodeId(id),
        name: format!("n{id}"),
        disk: if id == own { folder.identity.disk_uuid } else { [id as u8; 16] },
    };
    let founding = Founding::new(settings, &(1..=count).map(member).collect::<Vec<_>>());
    folder.found(founding.clone(), &config.storage)?;
    Ok(founding)
}

fn recover(config: &Config, own: u64, count: u64) -> (DataFolder, Recovered) {
    let mut folder = DataFolder::open(&config.node.data_dir, &config.node.name).unwrap();
    let founding = first_start(&mut folder, config, own, count).unwrap();
    let recovered = folder.recover(&founding, &config.storage).unwrap();
    (folder, recovered)
}

fn record_map(group: &RestoredGroup) -> BTreeMap<Vec<u8>, Vec<u8>> {
    group.records.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

#[test]
fn restored_node_starts_with_every_record_and_body_of_the_backup() {
    let old = OldCluster::busy();
    let folder = TestFolder::new();
    let config = config(&folder, "n1", &[]);
    let summary = restore(&file_of(&old, &folder), &config).unwrap();
    assert_eq!((summary.sessions, summary.sessions_online, summary.retained), (4, 2, 1));
    assert_eq!((summary.queued_messages, summary.inflight, summary.share_groups), (3, 2, 1));
    assert_eq!((summary.subscriptions, summary.incarnation, summary.last_node), (4, 15, 3));

    let (opened, recovered) = recover(&config, 1, 1);
    assert_eq!(opened.identity.incarnation, 17, "above every incarnation of the old cluster");
    assert_eq!(recovered.groups.len(), 1 + PARTITIONS as usize);
    let reader = recovered.log.reader();
    for (group, partition) in recovered.groups[1..].iter().zip(&old.partitions) {
        let (term, vote, commit) = group.hard_state;
        assert_eq!((term, vote, commit), (3, 0, partition.applied().0));
        assert_eq!((group.checkpoint.index, group.last.0, group.start), (commit, commit, group.checkpoint));
        assert_eq!(record_map(group), partition.records().collect(), "group {}", group.group.0);
        let mut from = LogIndex(0);
        while let Some(index) = partition.live_from(from) {
            let body = reader.body(group.group.0, index.0).unwrap().unwrap();
            assert_eq!(&body, old.data(group.group.0, index.0));
            from = LogIndex(index.0 + 1);
        }
        assert!(from.0 > 0, "group {} has bodies", group.group.0);
    }

    let control = &recovered.groups[0];
    let control = Control::restore(LogIndex(control.checkpoint.index), control.records.clone()).unwrap();
    control.check();
    assert_eq!(control.config().name.as_str(), "new");
    let nodes: Vec<_> = control
        .nodes()
        .map(|(node, status)| (node.id.0, node.name.to_string(), node.incarnation.0, status))
        .collect();
    // Takeovers of what an old node 1 held do not wait for the new one.
    assert_eq!(nodes, [(1, "n1".to_owned(), 16, NodeStatus::Joining)]);
    assert_eq!(control.next_node_id(), NodeId(4), "identities are not given again");
    assert!(control.routes().all(|(_, target)| matches!(target, RouteTarget::Partition(_))));
    let filters: Vec<&str> = control.routes().map(|(filter, _)| filter.as_str()).collect();
    assert!(filters.contains(&"a/#") && !filters.contains(&"direct/#"), "{filters:?}");
    assert_eq!(control.outbox_destinations().collect::<Vec<_>>(), [GroupId(1), GroupId(2)], "of dead nodes");
}

/// A whole backup as version 0.2.0 writes it is restored by this one. `QUORATE_GOLDEN=write` writes it anew; another version gets
/// another file, and this one stays.
#[test]
fn backup_of_version_1_is_restored() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cluster-v1.backup");
    if std::env::var_os("QUORATE_GOLDEN").is_some_and(|mode| mode == "write") {
        OldCluster::busy().write(&golden);
    }
    let folder = TestFolder::new();
    let config = config(&folder, "n1", &[]);
    let summary = restore(&golden, &config).unwrap();
    assert_eq!((summary.backup.as_str(), summary.sessions, summary.retained), (BACKUP, 4, 1));
    let (_, recovered) = recover(&config, 1, 1);
    assert_eq!(recovered.groups.len(), 1 + PARTITIONS as usize);
}

#[test]
fn every_first_node_starts_from_the_same_state_and_keeps_what_is_placed_on_it() {
    let old = OldCluster::busy();
    let folder = TestFolder::new();
    let file = file_of(&old, &folder);
    let first = ["n1", "n2", "n3", "n4"];
    let mut groups: BTreeMap<u32, Vec<RestoredGroup>> = BTreeMap::new();
    for (own, name) in (1..).zip(first) {
        let config = config(&folder, name, &first);
        restore(&file, &config).unwrap();
        let (_, recovered) = recover(&config, own, 4);
        let bodies = recovered.log.bodies();
        for group in 1..=PARTITIONS {
            let placed = recovered.groups.iter().any(|found| found.group.0 == group);
            let any = old.partitions[group as usize - 1].live_from(LogIndex(0)).unwrap();
            assert_eq!(bodies.contains(group, any.0), placed, "bodies of group {group} on {name}");
        }
        recovered.groups.into_iter().for_each(|group| groups.entry(group.group.0).or_default().push(group));
    }
    let replicas: Vec<usize> = groups.values().map(Vec::len).collect();
    assert_eq!(replicas, [4, 3, 3], "control is everywhere");
    // Disks differ between these founders, which did not hear of each other; all else must not.
    for (group, replicas) in groups.iter().filter(|(group, _)| **group != 0) {
        let same = |replica: &RestoredGroup| {
            record_map(replica) == record_map(&replicas[0]) && replica.conf_state == replicas[0].conf_state
        };
        assert!(replicas.iter().all(same), "group {group}");
    }
}

#[test]
fn first_start_that_broke_off_is_done_again() {
    let old = OldCluster::busy();
    let folder = TestFolder::new();
    let config = config(&folder, "n1", &["n1", "n2", "n3", "n4"]);
    restore(&file_of(&old, &folder), &config).unwrap();
    let mut attempts = 0;
    loop {
        let mut opened = DataFolder::open(&config.node.data_dir, "n1").unwrap();
        if opened.founding.is_some() {
            break;
        }
        let faulty = Arc::new(FaultyDisk::new(opened.disk.clone(), 1));
        for operation in [Operation::Write, Operation::Sync, Operation::Rename, Operation::Unlink] {
            faulty.arm(Fault {
                operation,
                path_contains: String::new(),
                after: attempts,
                times: 1,
                kind: FaultKind::InputOutput,
            });
        }
        opened.disk = faulty;
        attempts += 1;
        assert!(attempts < 100);
        let Err(error) = first_start(&mut opened, &config, 1, 4) else { continue };
        assert_eq!(error.exit_code(), ExitCode::Disk, "{error}");
    }
    assert!(attempts > 3, "it broke off at several places: {attempts}");
    let mut opened = DataFolder::open(&config.node.data_dir, "n1").unwrap();
    let founding = opened.founding.clone().unwrap();
    let recovered = opened.recover(&founding, &config.storage).unwrap();
    let found: Vec<u32> = recovered.groups.iter().map(|group| group.group.0).collect();
    assert_eq!(found, [0, 1], "group 2 is placed on the others");
    assert_eq!(record_map(&recovered.groups[1]), old.partitions[0].records().collect());
}

#[test]
fn first_start_with_other_nodes_than_the_one_that_broke_off_misses_its_groups() {
    let folder = TestFolder::new();
    let config = config(&folder, "n1", &["n1", "n2", "n3", "n4"]);
    let file = file_of(&OldCluster::busy(), &folder);
    restore(&file, &config).unwrap();
    let mut opened = DataFolder::open(&config.node.data_dir, "n1").unwrap();
    let faulty = Arc::new(FaultyDisk::new(opened.disk.clone(), 1));
    faulty.arm(Fault {
        operation: Operation::Rename,
        path_contains: "founding.json".to_owned(),
        after: 0,
        times: 1,
        kind: FaultKind::InputOutput,
    });
    opened.disk = faulty;
    assert_eq!(first_start(&mut opened, &config, 1, 4).unwrap_err().exit_code(), ExitCode::Disk);
    drop(opened);
    // Among three nodes, the group that was removed as another's is placed here.
    let three = self::config(&folder, "n1", &["n1", "n2", "n3"]);
    let mut opened = DataFolder::open(&config.node.data_dir, "n1").unwrap();
    let error = first_start(&mut opened, &three, 1, 3).unwrap_err();
    assert!(matches!(error, BootError::Restored(RestoredError::GroupGone(2))), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Corrupt);
    drop(opened);
    restore(&file, &three).unwrap();
    recover(&three, 1, 3);
}

#[test]
fn restore_that_broke_off_starts_nothing_and_can_be_repeated() {
    let old = OldCluster::busy();
    let folder = TestFolder::new();
    let config = config(&folder, "n1", &[]);
    let file = file_of(&old, &folder);
    let head = old.head();
    let mut attempts = 0;
    loop {
        let mut opened = DataFolder::open(&config.node.data_dir, "n1").unwrap();
        let disk = opened.disk.clone();
        let faulty = Arc::new(FaultyDisk::new(disk.clone(), 1));
        for operation in [Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDirectory] {
            faulty.arm(Fault {
                operation,
                path_contains: String::new(),
                after: attempts,
                times: 1,
                kind: FaultKind::InputOutput,
            });
        }
        opened.disk = faulty;
        attempts += 1;
        assert!(attempts < 100);
        let outcome = super::restore::put_in_place(&mut opened, &file, &head, &config.storage);
        drop(opened);
        let opened = DataFolder::open(&config.node.data_dir, "n1").unwrap();
        let may_start = opened.first_settings(&config);
        match outcome {
            Ok(_) => {
                assert_eq!(may_start.unwrap().restored(), Some(BACKUP));
                break;
            }
            Err(error) => {
                assert_eq!(error.exit_code(), ExitCode::Disk, "{error}");
                match &opened.restored {
                    // It broke off before the first step: nothing is there that could be half of something.
                    None => assert!(!config.node.data_dir.join("log").exists()),
                    // Only the last sync failed, of a file that is there: so is everything else.
                    Some(restored) if restored.is_complete() => {
                        let groups = opened.open_checkpoints().unwrap().groups().unwrap();
                        assert_eq!(groups, (0..=PARTITIONS).collect::<Vec<_>>());
                    }
                    Some(_) => {
                        assert!(matches!(may_start, Err(BootError::Restored(RestoredError::Unfinished(_)))))
                    }
                }
            }
        }
    }
    assert!(attempts > 5, "it broke off at several places: {attempts}");
    let (_, recovered) = recover(&config, 1, 1);
    assert_eq!(record_map(&recovered.groups[1]), old.partitions[0].records().collect());
}

#[test]
fn restore_refuses_what_does_not_fit_before_it_touches_the_folder() {
    let old = OldCluster::busy();
    let folder = TestFolder::new();
    let file = file_of(&old, &folder);
    let check = |config: &Config, exit: ExitCode, words: &[&str]| {
        let error = restore(&file, config).unwrap_err();
        assert_eq!(error.exit_code(), exit, "{error}");
        words.iter().for_each(|word| assert!(error.to_string().contains(word), "{word}: {error}"));
        assert!(!config.node.data_dir.exists(), "{error}");
    };
    let mut other = config(&folder, "n1", &[]);
    other.cluster.partitions = 16;
    check(&other, ExitCode::Config, &["2 partitions", "16"]);
    check(&config(&folder, "n4", &["n1", "n2", "n3"]), ExitCode::Config, &["n4", "cluster.bootstrap"]);
    let mut head = old.head();
    head.level = quorate_state::LEVEL + 1;
    std::fs::write(&file, write(&head, &old.chunks())).unwrap();
    check(&config(&folder, "n1", &[]), ExitCode::Unavailable, &["level"]);
    std::fs::write(&file, b"something else").unwrap();
    check(&config(&folder, "n1", &[]), ExitCode::Corrupt, &["not a backup"]);
    std::fs::remove_file(&file).unwrap();
    check(&config(&folder, "n1", &[]), ExitCode::Unavailable, &["open the backup"]);
}

#[test]
fn restore_refuses_a_folder_that_is_in_use_or_not_empty() {
    let old = OldCluster::busy();
    let folder = TestFolder::new();
    let file = file_of(&old, &folder);
    let config = config(&folder, "n1", &[]);
    restore(&file, &config).unwrap();
    restore(&file, &config).unwrap();
    let started = recover(&config, 1, 1);
    let in_use = restore(&file, &config).unwrap_err();
    assert_eq!(in_use.exit_code(), ExitCode::Unavailable, "{in_use}");
    drop(started);
    let not_empty = restore(&file, &config).unwrap_err();
    assert!(matches!(not_empty, RestoreFileError::NotEmpty(_)), "{not_empty}");
    assert_eq!(not_empty.exit_code(), ExitCode::Unavailable);
    let strange = self::config(&folder, "n2", &[]);
    std::fs::create_dir_all(strange.node.data_dir.join("photos")).unwrap();
    assert_eq!(restore(&file, &strange).unwrap_err().exit_code(), ExitCode::Unavailable);
}

#[test]
fn damaged_file_leaves_a_folder_that_does_not_start() {
    let old = OldCluster::busy();
    let folder = TestFolder::new();
    let config = config(&folder, "n1", &[]);
    let (file, mut damaged) = (folder.path().join("backup"), old.backup());
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    assert_eq!(restore(&file, &config).unwrap_err().exit_code(), ExitCode::Corrupt);
    let mut opened = DataFolder::open(&config.node.data_dir, "n1").unwrap();
    let error = first_start(&mut opened, &config, 1, 1).unwrap_err();
    assert!(matches!(error, BootError::Restored(RestoredError::Unfinished(_))), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Unavailable);
    drop(opened);
    old.write(&file);
    restore(&file, &config).unwrap();
    recover(&config, 1, 1);
}

#[test]
fn configuration_that_changed_after_the_restore_is_refused_at_the_start() {
    let folder = TestFolder::new();
    let config = config(&folder, "n1", &["n1", "n2"]);
    restore(&file_of(&OldCluster::new(), &folder), &config).unwrap();
    let opened = DataFolder::open(&config.node.data_dir, "n1").unwrap();
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        change(&mut config);
        opened.first_settings(&config).unwrap_err().exit_code()
    };
    assert_eq!(refused(&|config| config.cluster.partitions = 3), ExitCode::Config);
    assert_eq!(refused(&|config| drop(config.cluster.bootstrap.remove(0))), ExitCode::Config);
    let settings = opened.first_settings(&config).unwrap();
    assert_eq!((settings.cluster(), settings.bootstrap_list().len()), ("new", 2));
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    let whole = OldCluster::busy().backup();
    let (_, summary) = verify_bytes(&whole).unwrap();
    assert_eq!(summary.bytes, whole.len() as u64);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x11;
        refused(&damaged, &format!("byte {at}"));
    }
    // Each cut costs as much as what is before it.
    for length in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        refused(&whole[..length], &format!("{length} bytes"));
    }
    let longer = [whole.as_slice(), b"x"].concat();
    refused(&longer, "longer");
}

fn refused(file: &[u8], what: &str) {
    let Err(error) = verify_bytes(file) else { panic!("{what} is taken") };
    let version = error.to_string().contains("version");
    let expected = if version { ExitCode::Unavailable } else { ExitCode::Corrupt };
    assert_eq!(error.exit_code(), expected, "{what}: {error}");
}

/// Chunks with right checksums that do not belong together.
#[test]
fn chunks_out_of_place_are_refused() {
    let old = OldCluster::busy();
    let check = |what: &str, change: &dyn Fn(&mut Vec<Chunk>)| {
        let mut chunks = old.chunks();
        change(&mut chunks);
        let Err(error) = verify_bytes(&write(&old.head(), &chunks)) else { panic!("{what} is taken") };
        assert_eq!(error.exit_code(), ExitCode::Corrupt, "{what}: {error}");
    };
    check("a chunk that is missing", &|chunks| drop(chunks.remove(1)));
    check("a chunk that comes twice", &|chunks| chunks.insert(1, chunks[0].clone()));
    check("a group that is missing", &|chunks| chunks.retain(|chunk| chunk.group != 1));
    check("a group that comes twice", &|chunks| chunks.extend(old.chunks()));
    check("groups in another order", &|chunks| chunks.reverse());
    check("a last group without its end", &|chunks| drop(chunks.pop()));
    check("bodies that are missing", &|chunks| {
        chunks.retain(|chunk| !matches!(chunk.content, Content::Bodies(_)));
        renumber(chunks);
    });
    check("records that are missing", &|chunks| {
        let at =
            chunks.iter().position(|chunk| chunk.group == 1 && matches!(chunk.content, Content::Records(_)));
        chunks.remove(at.unwrap());
        renumber(chunks);
    });
    check("records of another group", &|chunks| {
        let of_group = |chunks: &[Chunk], group| -> Vec<Chunk> {
            chunks.iter().filter(|chunk| chunk.group == group).cloned().collect()
        };
        let (control, mut second, mut first) =
            (of_group(chunks, 0), of_group(chunks, 1), of_group(chunks, 2));
        first.iter_mut().for_each(|chunk| chunk.group = 1);
        second.iter_mut().for_each(|chunk| chunk.group = 2);
        *chunks = [control, first, second].concat();
    });
}

/// Gives the chunks their numbers, and the ends their counts, anew.
fn renumber(chunks: &mut [Chunk]) {
    let (mut number, mut counted_bodies, mut counted_records) = (0, 0, 0);
    for chunk in chunks {
        chunk.number = number;
        number += 1;
        match &mut chunk.content {
            Content::Bodies(bodies) => counted_bodies += bodies.len() as u64,
            Content::Records(records) => counted_records += records.len() as u64,
            Content::End { bodies, records, .. } => {
                (*bodies, *records) = (counted_bodies, counted_records);
                (number, counted_bodies, counted_records) = (0, 0, 0);
            }
        }
    }
}

#[test]
fn records_that_were_changed_with_their_checksums_never_panic() {
    let old = OldCluster::busy();
    let chunks = old.chunks();
    for at in 0..chunks.len() {
        let Content::Records(records) = &chunks[at].content else { continue };
        for (slot, (key, value)) in records.iter().enumerate() {
            for byte in 0..key.len() + value.len() {
                let (mut key, mut value) = (key.to_vec(), value.to_vec());
                match byte.checked_sub(key.len()) {
                    Some(byte) => value[byte] ^= 0xff,
                    None => key[byte] ^= 0xff,
                }
                let mut chunks = chunks.clone();
                let Content::Records(records) = &mut chunks[at].content else { unreachable!() };
                records[slot] = (Bytes::from(key), Bytes::from(value));
                // Some changes make another state that is as good; none may end the process.
                let _either = verify_bytes(&write(&old.head(), &chunks));
            }
        }
    }
}

#[test]
fn groups_of_different_moments_are_refused() {
    let mut old = OldCluster::busy();
    let before = old.chunks();
    let mix = |control: &[Chunk], partitions: &[Chunk]| -> Vec<Chunk> {
        let of = |chunks: &[Chunk], control: bool| -> Vec<Chunk> {
            chunks.iter().filter(|chunk| (chunk.group == 0) == control).cloned().collect()
        };
        [of(control, true), of(partitions, false)].concat()
    };
    assert!(verify_bytes(&write(&old.head(), &before)).is_ok());
    old.connect_and_subscribe("late", "late/#");
    old.settle();
    let subscribed = old.chunks();
    assert!(verify_bytes(&write(&old.head(), &subscribed)).is_ok());
    for chunks in [mix(&before, &subscribed), mix(&subscribed, &before)] {
        let error = verify_bytes(&write(&old.head(), &chunks)).unwrap_err();
        assert!(matches!(error, VerifyError::Cut { .. }), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Corrupt);
    }
}

#[test]
fn head_of_another_cluster_and_a_backup_that_broke_off_are_refused() {
    let old = OldCluster::busy();
    let mut head = old.head();
    head.cluster_id = "00".repeat(16);
    assert!(matches!(verify_bytes(&write(&head, &old.chunks())), Err(VerifyError::Head(_))));
    let begin = [preamble(), Frame::Head(old.head()).encode()].concat();
    let error = Some("the leader of group 3 changed".to_owned());
    let end = BackupEnd { groups: 0, bodies: 0, records: 0, bytes: begin.len() as u64, error };
    let error = verify_bytes(&[begin, Frame::End(end).encode().to_vec()].concat()).unwrap_err();
    assert!(error.to_string().contains("the leader of group 3 changed"), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Corrupt);
}

#[test]
fn restored_file_is_of_no_account_once_the_node_has_started() {
    let folder = TestFolder::new();
    let config = config(&folder, "n1", &[]);
    restore(&file_of(&OldCluster::new(), &folder), &config).unwrap();
    drop(recover(&config, 1, 1));
    std::fs::write(config.node.data_dir.join("restored.json"), b"{").unwrap();
    let opened = DataFolder::open(&config.node.data_dir, "n1").unwrap();
    assert_eq!(opened.founding.as_ref().unwrap().settings().restored(), Some(BACKUP));
    assert!(opened.restored.is_none());
    assert!(matches!(Restored::read(opened.disk.as_ref()), Err(RestoredError::Corrupt(_))));
}
