//! Nodes that start from a disk that is older than what they have acknowledged, with real sockets and disks.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use super::*;

/// Copies a folder, also of a node that runs but is idle.
fn copy(from: &Path, to: &Path) {
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

fn put_back(image: &Path, folder: &Path) {
    std::fs::remove_dir_all(folder).unwrap();
    copy(image, folder);
}

fn publish(node: &Running, from: usize, to: usize) {
    let mut publisher = TestClient::connect(node.mqtt(), "pub", None);
    for number in from..to {
        publisher.publish("a/1", &number.to_string(), false);
    }
}

/// Returns when the node leads nothing, which stays so.
fn lead_nothing(node: &Running, name: &str) {
    let mut stream = TcpStream::connect(node.addresses().admin).unwrap();
    let head = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2";
    write!(stream, "POST /v1/nodes/{name}/transfer HTTP/1.1\r\n{head}\r\n\r\n{{}}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"left\":[]"), "{answer}");
}

fn state(node: &Running) -> quorate_api::ClusterState {
    let (_, body) = http_get(node.addresses().admin, "/v1/cluster/state");
    serde_json::from_str(&body).unwrap()
}

/// Runs three nodes, of which the last one comes back with an image that `image` takes after the first messages, and gives
/// what it has set aside for it.
fn comes_back_with_an_image(image: impl FnOnce(&mut Vec<Running>, &Config, &Path)) -> String {
    let folder = TestFolder::new();
    let configs = three(&folder);
    let mut nodes = start_all(&configs);
    // What a leader has written itself it shows nobody.
    lead_nothing(&nodes[2], "n3");
    let mut subscriber = TestClient::connect(nodes[0].mqtt(), "sub", Some(3600));
    subscriber.subscribe("a/#");
    drop(subscriber);
    publish(&nodes[1], 0, 20);
    let kept = folder.path().join("image");
    image(&mut nodes, &configs[2], &kept);
    publish(&nodes[1], 20, 40);
    nodes.remove(2).stop();
    put_back(&kept, &configs[2].node.data_dir);
    nodes.push(Running::start(&configs[2]));
    nodes.iter().for_each(Running::wait_until_ready);
    assert!(state(&nodes[2]).node_id > 3, "it has another identity");
    let mut subscriber = TestClient::connect(nodes[2].mqtt(), "sub", Some(3600));
    assert!(subscriber.session_present);
    for number in 0..40 {
        assert_eq!(subscriber.message(), number.to_string());
    }
    let aside = std::fs::read_dir(&configs[2].node.data_dir).unwrap().map(|entry| entry.unwrap().path());
    let aside = aside.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("damaged-"));
    let reasons: Vec<String> =
        aside.map(|path| std::fs::read_to_string(path.join("damaged.json")).unwrap()).collect();
    for node in nodes {
        node.stop();
    }
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    reasons[0].clone()
}

#[test]
fn image_of_the_same_run_is_noticed_by_what_was_acknowledged() {
    let reason = comes_back_with_an_image(|_, config, kept| copy(&config.node.data_dir, kept));
    assert!(reason.contains("the disk is older") && reason.contains("acknowledged"), "{reason}");
}

#[test]
fn image_of_an_earlier_run_is_noticed_by_its_incarnation() {
    let reason = comes_back_with_an_image(|nodes, config, kept| {
        nodes.remove(2).stop();
        copy(&config.node.data_dir, kept);
        nodes.push(Running::start(config));
        nodes.iter().for_each(Running::wait_until_ready);
    });
    assert!(reason.contains("the disk is older") && reason.contains("incarnation"), "{reason}");
}
