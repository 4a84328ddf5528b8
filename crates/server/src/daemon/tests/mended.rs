//! Nodes whose records are damaged and that get them from the others, with real sockets and disks.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::*;

/// Flips a bit of each occurrence of a text in the files of a folder; how many there were.
fn flip(folder: &Path, text: &str) -> usize {
    let mut flipped = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let content = std::fs::read(&path).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for at in 0..content.len().saturating_sub(text.len()) {
            if content[at..].starts_with(text.as_bytes()) {
                let byte = content[at + text.len() - 1] ^ 0x04;
                file.write_all_at(&[byte], (at + text.len() - 1) as u64).unwrap();
                flipped += 1;
            }
        }
    }
    flipped
}

fn payload(number: usize) -> String {
    format!("payload-{number:04}-{}", "x".repeat(200))
}

fn metric(node: &Running, name: &str) -> u64 {
    let (_, text) = http_get(node.addresses().admin, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    line.parse().unwrap()
}

const MESSAGES: usize = 60;

/// Publishes messages that a durable session without a connection is to get.
fn publish_all(nodes: &[Running]) {
    let mut subscriber = TestClient::connect(nodes[0].mqtt(), "sub", Some(3600));
    subscriber.subscribe("a/#");
    drop(subscriber);
    let mut publisher = TestClient::connect(nodes[1].mqtt(), "pub", None);
    for number in 0..MESSAGES {
        publisher.publish("a/1", &payload(number), false);
    }
}

/// Three nodes that have all messages, and are stopped.
fn three_with_messages(folder: &TestFolder) -> Vec<Config> {
    let configs = three(folder);
    let nodes = start_all(&configs);
    publish_all(&nodes);
    for node in nodes {
        node.stop();
    }
    configs
}

fn receive_all(node: &Running) {
    let mut subscriber = TestClient::connect(node.mqtt(), "sub", Some(3600));
    assert!(subscriber.session_present);
    for number in 0..MESSAGES {
        assert_eq!(subscriber.message(), payload(number));
    }
}

#[test]
fn nodes_that_are_all_damaged_in_different_places_mend_each_other_at_their_start() {
    let folder = TestFolder::new();
    let configs = three_with_messages(&folder);
    let mut flipped = 0;
    for number in 0..MESSAGES {
        flipped += flip(&configs[number % 3].node.data_dir.join("log"), &payload(number)[..12]);
    }
    assert!(flipped >= MESSAGES, "{flipped}");
    let nodes = start_all(&configs);
    for (node, config) in nodes.iter().zip(&configs) {
        assert!(state(node).node_id <= 3, "it is who it was");
        assert_eq!(metric(node, "quorate_damaged_folders"), 0);
        assert!(!config.node.data_dir.join("damaged.json").exists());
    }
    let repaired: u64 = nodes.iter().map(|node| metric(node, "quorate_damage_repaired_total")).sum();
    assert_eq!(repaired, flipped as u64);
    receive_all(&nodes[2]);
    for node in nodes {
        node.stop();
    }
    // For good: nothing is damaged any more.
    let nodes = start_all(&configs);
    assert!(nodes.iter().all(|node| metric(node, "quorate_damage_found_total") == 0));
    for node in nodes {
        node.stop();
    }
}

#[test]
fn damage_under_a_running_node_is_found_by_the_walk_and_mended() {
    let folder = TestFolder::new();
    let mut configs = three(&folder);
    for config in &mut configs {
        config.storage.scrub_bytes_per_second = 1 << 30;
    }
    let nodes = start_all(&configs);
    publish_all(&nodes);
    let mut flipped = [0; 3];
    for number in 0..MESSAGES {
        flipped[number % 3] += flip(&configs[number % 3].node.data_dir.join("log"), &payload(number)[..12]);
    }
    let passes: Vec<u64> = nodes.iter().map(|node| metric(node, "quorate_scrub_passes_total")).collect();
    let deadline = Instant::now() + Duration::from_secs(120);
    for (place, node) in nodes.iter().enumerate() {
        // A walk that began after the damage.
        while metric(node, "quorate_scrub_passes_total") < passes[place] + 2 {
            assert!(Instant::now() < deadline, "walks");
            std::thread::yield_now();
        }
        assert_eq!(metric(node, "quorate_damage_repaired_total"), flipped[place] as u64);
        assert_eq!(metric(node, "quorate_damage_left"), 0);
    }
    receive_all(&nodes[1]);
    for node in nodes {
        node.stop();
    }
}

#[test]
fn node_that_gave_itself_up_gives_the_others_what_they_need_to_start() {
    let folder = TestFolder::new();
    let configs = three_with_messages(&folder);
    // Two nodes lack every payload. The third has them all, but no index store that it could go on with, and without the
    // others nobody takes it in anew.
    for number in 0..MESSAGES {
        for place in [0, 2] {
            flip(&configs[place].node.data_dir.join("log"), &payload(number)[..12]);
        }
    }
    let store = configs[1].node.data_dir.join("checkpoints");
    let spoiled = spoil(&store);
    assert!(spoiled > 0);
    let nodes = start_all(&configs);
    let ids: Vec<u64> = nodes.iter().map(|node| state(node).node_id).collect();
    assert!(ids[0] <= 3 && ids[2] <= 3 && ids[1] > 3, "{ids:?}: the second has joined anew");
    receive_all(&nodes[1]);
    for node in nodes {
        node.stop();
    }
}

/// Overwrites all files below a folder; how many there were.
fn spoil(folder: &Path) -> usize {
    let entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let spoil_one = |path: &PathBuf| {
        if path.is_dir() {
            return spoil(path);
        }
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, bytes.iter().map(|byte| byte ^ 0xFF).collect::<Vec<_>>()).unwrap();
        1
    };
    entries.iter().map(spoil_one).sum()
}

#[test]
fn node_with_a_lost_entry_that_is_in_nobodys_log_takes_the_state_of_the_group() {
    const FILTER: &str = "needle/0001/#";
    let folder = TestFolder::new();
    let configs = three(&folder);
    let mut nodes = start_all(&configs);
    let mut subscriber = TestClient::connect(nodes[0].mqtt(), "sub", Some(3600));
    subscriber.subscribe(FILTER);
    drop(subscriber);
    // The first node loses its disk. Its log begins after what it then takes from the leaders, who have that in their checkpoints.
    nodes.remove(0).stop();
    let deadline = Instant::now() + Duration::from_secs(60);
    let group = quorate_node::routing::home_partition("sub", 2).0;
    let leader = loop {
        let all = state(&nodes[0]).groups;
        match all.iter().find(|known| known.id == group).and_then(|known| known.leader) {
            Some(leader) if leader != 1 => break usize::try_from(leader).unwrap() - 1,
            _ => assert!(Instant::now() < deadline, "a leader"),
        }
        std::thread::yield_now();
    };
    let follower = 3 - leader;
    std::fs::remove_dir_all(&configs[0].node.data_dir).unwrap();
    let back = Running::start(&configs[0]);
    back.wait_until_ready();
    back.stop();
    for node in nodes {
        node.stop();
    }
    // Nobody else has the entry whole, and the one that led has to join anew: the follower and the first node are the majority.
    for place in [leader, follower] {
        assert!(flip(&configs[place].node.data_dir.join("log"), FILTER) > 0);
    }
    assert!(spoil(&configs[leader].node.data_dir.join("checkpoints")) > 0);
    let nodes = start_all(&configs);
    assert_eq!(state(&nodes[follower]).node_id, follower as u64 + 1, "it is who it was");
    assert!(metric(&nodes[follower], "quorate_snapshots_installed_total") > 0);
    let mut subscriber = TestClient::connect(nodes[follower].mqtt(), "sub", Some(3600));
    assert!(subscriber.session_present);
    let mut publisher = TestClient::connect(nodes[leader].mqtt(), "pub", None);
    publisher.publish("needle/0001/x", "found", false);
    assert_eq!(subscriber.message(), "found");
    for node in nodes {
        node.stop();
    }
}
