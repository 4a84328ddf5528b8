//! Nodes whose state is damaged, with real sockets and disks.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;

use quorate_state::{GroupId, LogIndex};

use super::*;

const SEGMENT: &str = "log/segment-0000000001";

/// A byte of the checksum of the first record, which many later ones vouch for.
const FLIPPED_AT: u64 = 4096 + 5;

/// Flips bits of one byte, and takes away what says what was there.
fn damage(data: &Path) {
    std::fs::remove_dir_all(data.join("copies")).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(data.join(SEGMENT)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, FLIPPED_AT).unwrap();
    file.write_all_at(&[byte[0] ^ 0x41], FLIPPED_AT).unwrap();
}

/// All that a folder holds, with names.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
    }
    files.sort();
    files
}

/// Starts a node that cannot: why not.
fn refusal(config: &Config) -> StartError {
    let runtime = runtime();
    let (_sender, receiver) = watch::channel(false);
    Daemon::start(config, runtime.handle(), receiver).err().expect("the node must not start")
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn node_with_a_damaged_log_joins_anew_and_keeps_the_damaged_log() {
    let folder = TestFolder::new();
    let configs = three(&folder);
    let mut nodes = start_all(&configs);
    let mut subscriber = TestClient::connect(nodes[0].mqtt(), "sub", Some(3600));
    subscriber.subscribe("a/#");
    drop(subscriber);
    let mut publisher = TestClient::connect(nodes[0].mqtt(), "pub", None);
    publisher.publish("a/1", "one", false);
    publisher.publish("r", "kept", true);
    nodes.remove(2).stop();
    let data = &configs[2].node.data_dir;
    damage(data);
    let evidence = std::fs::read(data.join(SEGMENT)).unwrap();

    let node = Running::start(&configs[2]);
    node.wait_until_ready();
    assert_eq!(state(&node).node_id, 4, "it no longer knows what node 3 has promised");
    let kept = data.join("damaged-0000000003");
    assert!(std::fs::read(kept.join(SEGMENT)).unwrap() == evidence, "the damaged log is as it was");
    assert!(kept.join("identity").exists() && kept.join("checkpoints").exists());
    let admin = node.addresses().admin;
    let (_, events) = http_get(admin, "/v1/events");
    assert!(events.contains("joined_anew") && events.contains("record"), "{events}");
    assert!(http_get(admin, "/metrics").1.contains("quorate_damaged_folders 1\n"));
    assert!(http_get(admin, "/v1/why").1.contains("damaged_state_kept"));
    // With it, the cluster survives the loss of another.
    wait_until("node 4 votes in all groups in place of node 3", || {
        state(&node).groups.iter().all(|group| group.voters.contains(&4) && !group.voters.contains(&3))
    });
    nodes.remove(0).stop();
    let mut subscriber = TestClient::connect(node.mqtt(), "sub", Some(3600));
    assert!(subscriber.session_present);
    assert_eq!(subscriber.message(), "one");
    subscriber.subscribe("r");
    assert_eq!(subscriber.message(), "kept");
    node.stop();

    let node = Running::start(&configs[2]);
    node.wait_until_ready();
    assert_eq!(state(&node).node_id, 4, "once is enough");
    let (_, events) = http_get(node.addresses().admin, "/v1/events");
    assert!(!events.contains("joined_anew"), "{events}");
    node.stop();
    for node in nodes {
        node.stop();
    }
}

#[test]
fn damaged_node_leaves_all_as_it_is_until_the_cluster_takes_it_in() {
    let folder = TestFolder::new();
    let configs = three(&folder);
    for node in start_all(&configs) {
        node.stop();
    }
    let data = &configs[0].node.data_dir;
    damage(data);
    let log = content(&data.join("log"));
    for attempt in 0..2 {
        let runtime = runtime();
        let (stop, receiver) = watch::channel(false);
        std::thread::scope(|scope| {
            let start = scope.spawn(|| Daemon::start(&configs[0], runtime.handle(), receiver).err());
            // One more node makes no majority without this one.
            let other = Running::start(&configs[1]);
            wait_until("the damage to be noted", || data.join("damaged.json").exists());
            stop.send_replace(true);
            let refused = start.join().unwrap();
            assert!(matches!(refused, Some(StartError::Stopped)), "{attempt}: {refused:?}");
            other.stop();
        });
        assert_eq!(content(&data.join("log")), log, "attempt {attempt}");
        assert!(!data.join("damaged-0000000001").exists(), "attempt {attempt}");
    }
    let nodes = start_all(&configs);
    assert_eq!(state(&nodes[0]).node_id, 4);
    for node in nodes {
        node.stop();
    }
}

#[test]
fn damaged_single_node_does_not_start_and_changes_nothing() {
    let folder = TestFolder::new();
    let config = config(&folder, "n1");
    let node = Running::start(&config);
    node.wait_until_ready();
    node.stop();
    let data = &config.node.data_dir;
    damage(data);
    let log = content(&data.join("log"));
    for _ in 0..2 {
        let error = refusal(&config);
        assert_eq!(error.exit_code(), ExitCode::Corrupt, "{error}");
        assert_eq!(content(&data.join("log")), log);
        assert!(!data.join("damaged.json").exists());
    }
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] });
    files.collect()
}

fn copy_folder(from: &Path, to: &Path) {
    for file in files_below(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(file, copy).unwrap();
    }
}

/// What a folder comes back with: which groups, and how far their logs go.
fn recovered(folder: &Path, config: &Config) -> Result<Vec<(GroupId, LogIndex)>, BootError> {
    let mut opened = DataFolder::open(folder, "n1").unwrap();
    let founding = opened.founding.clone().unwrap();
    let recovered = opened.recover(&founding, &config.storage)?;
    Ok(recovered.groups.iter().map(|group| (group.group, group.last)).collect())
}

#[test]
fn flipped_byte_or_cut_anywhere_in_the_state_is_harmless_or_damage_and_nothing_else() {
    const PLACES: u64 = 12;
    let folder = TestFolder::new();
    let config = config(&folder, "n1");
    let node = Running::start(&config);
    node.wait_until_ready();
    let mut publisher = TestClient::connect(node.mqtt(), "pub", None);
    for number in 0..20 {
        publisher.publish(&format!("r/{number}"), "kept", true);
    }
    node.stop();
    let data = &config.node.data_dir;
    let case = folder.path().join("case");
    copy_folder(data, &case);
    let whole = recovered(&case, &config).unwrap();
    std::fs::remove_dir_all(&case).unwrap();
    assert!(whole.len() > 1);
    let (mut cases, mut damaged, mut others) = (0, BTreeSet::new(), Vec::new());
    for part in ["log", "checkpoints"] {
        for file in files_below(&data.join(part)) {
            let name = file.strip_prefix(data).unwrap();
            // The last byte of all that is not zero, and others before it.
            let written = std::fs::read(&file).unwrap().iter().rposition(|byte| *byte != 0);
            let Some(last) = written else { continue };
            let places: BTreeSet<u64> =
                (1..=PLACES).map(|place| ((last as u64 + 1) * place / PLACES).max(1) - 1).collect();
            for (at, cuts) in places.into_iter().flat_map(|at| [(at, false), (at, true)]) {
                copy_folder(data, &case);
                let changed = std::fs::File::options().read(true).write(true).open(case.join(name)).unwrap();
                if cuts {
                    changed.set_len(at).unwrap();
                } else {
                    let mut byte = [0];
                    changed.read_exact_at(&mut byte, at).unwrap();
                    changed.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
                }
                drop(changed);
                // Every other time with copies of the heads of records: then the log can be opened.
                let with_copies = cases % 4 < 2;
                if !with_copies {
                    std::fs::remove_dir_all(case.join("copies")).unwrap();
                }
                let what = format!("{} {} {at}", name.display(), if cuts { "cut at" } else { "flipped at" });
                match recovered(&case, &config) {
                    Ok(found) if found == whole => (),
                    Ok(found) => others.push(format!("{what}: {found:?}, not {whole:?}")),
                    Err(error) => {
                        if !error.is_damage() || error.exit_code() != ExitCode::Corrupt {
                            others.push(format!("{what}: {}", crate::exit::chain(&error)));
                        }
                        assert!(part != "log" || !with_copies, "{what}: {error}");
                        damaged.insert(part);
                    }
                }
                cases += 1;
                std::fs::remove_dir_all(&case).unwrap();
            }
        }
    }
    assert!(others.is_empty(), "{others:#?}");
    assert!(cases > 100 && damaged == BTreeSet::from(["checkpoints", "log"]), "{cases} cases, {damaged:?}");
}

#[test]
fn node_whose_log_is_gone_does_not_start_however_often_it_is_tried() {
    let folder = TestFolder::new();
    let config = config(&folder, "n1");
    let node = Running::start(&config);
    node.wait_until_ready();
    node.stop();
    std::fs::remove_dir_all(config.node.data_dir.join("log")).unwrap();
    for attempt in 0..2 {
        let error = refusal(&config);
        assert!(matches!(error, StartError::Boot(BootError::LogGone)), "attempt {attempt}: {error}");
        assert_eq!(error.exit_code(), ExitCode::Corrupt);
    }
}
