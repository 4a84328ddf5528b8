//! Clusters that begin from a backup, with real sockets and disks.

use super::*;
use crate::backup::restore::restore;
use crate::backup::testing::{OldCluster, PARTITIONS};

/// Writes the backup and restores it for each configuration.
fn restore_all(folder: &TestFolder, configs: &[Config]) {
    let file = folder.path().join("backup");
    OldCluster::busy().write(&file);
    for config in configs {
        assert_eq!(config.cluster.partitions, PARTITIONS);
        restore(&file, config).unwrap();
    }
}

/// The next messages in any order: wills and queues come from partitions of their own.
fn messages<const N: usize>(client: &mut TestClient) -> [String; N] {
    let mut messages = std::array::from_fn(|_| client.message());
    messages.sort();
    messages
}

#[test]
fn restored_single_node_goes_on_with_the_sessions_of_the_backup() {
    let folder = TestFolder::new();
    let config = config(&folder, "n1");
    restore_all(&folder, std::slice::from_ref(&config));
    let node = Running::start(&config);
    node.wait_until_ready();
    let mut offline = TestClient::connect(node.mqtt(), "offline", Some(3600));
    assert!(offline.session_present);
    assert_eq!(messages(&mut offline), ["one", "two"]);
    // A connection of a node of the old cluster held this one.
    let mut online = TestClient::connect(node.mqtt(), "online", Some(3600));
    assert!(online.session_present);
    assert_eq!([online.message(), online.message()], ["one", "two"], "in their order");
    let mut mourner = TestClient::connect(node.mqtt(), "mourner", Some(3600));
    assert_eq!(mourner.message(), "without a word", "the will of the connection that is gone");
    let mut member = TestClient::connect(node.mqtt(), "member", Some(3600));
    assert!(member.session_present);
    assert_eq!(messages(&mut member), ["one", "two"]);
    let mut publisher = TestClient::connect(node.mqtt(), "pub", None);
    publisher.publish("a/b", "three", false);
    assert_eq!((offline.message(), online.message()), ("three".to_owned(), "three".to_owned()));
    offline.subscribe("r");
    assert_eq!(offline.message(), "kept");
    drop(online);
    publisher.publish("a/b", "four", false);
    assert_eq!(offline.message(), "four");
    let (_, body) = http_get(node.addresses().admin, "/v1/cluster/state");
    let state: quorate_api::ClusterState = serde_json::from_str(&body).unwrap();
    assert_eq!((state.node_id, state.nodes.len()), (1, 1), "{body}");
    node.stop();

    let node = Running::start(&config);
    node.wait_until_ready();
    let mut online = TestClient::connect(node.mqtt(), "online", Some(3600));
    assert!(online.session_present);
    assert_eq!(online.message(), "four");
    node.stop();
}

#[test]
fn three_restored_nodes_found_a_cluster_and_clients_go_on_on_any_of_them() {
    let folder = TestFolder::new();
    let configs = three(&folder);
    restore_all(&folder, &configs);
    let mut nodes = start_all(&configs);
    let mut offline = TestClient::connect(nodes[2].mqtt(), "offline", Some(3600));
    assert!(offline.session_present);
    assert_eq!(messages(&mut offline), ["one", "two"]);
    let mut online = TestClient::connect(nodes[1].mqtt(), "online", Some(3600));
    assert_eq!([online.message(), online.message()], ["one", "two"]);
    let mut mourner = TestClient::connect(nodes[0].mqtt(), "mourner", Some(3600));
    assert_eq!(mourner.message(), "without a word");
    let hashes = |node: &Running| {
        let (_, body) = http_get(node.addresses().admin, "/v1/cluster/state?hash=true");
        serde_json::from_str::<quorate_api::ClusterState>(&body).unwrap()
    };
    assert!(hashes(&nodes[0]).nodes.iter().all(|node| node.name.starts_with('n')), "none of the old ones");
    old_node_gets_no_link(&configs);
    // What the others need came from their own files, not from this node.
    nodes.remove(0).stop();
    let mut publisher = TestClient::connect(nodes[0].mqtt(), "pub", None);
    publisher.publish("a/b", "three", false);
    let mut next = offline.message();
    while next != "three" {
        next = offline.message(); // Acknowledgements may have gone down with a leader.
    }
    for node in nodes {
        node.stop();
    }
}

/// A node of the old cluster, with the name, certificate and identity of a new one, is refused for the identity of its cluster.
fn old_node_gets_no_link(configs: &[Config]) {
    let [first, .., last] = configs else { panic!("there are three") };
    let old = OldCluster::new();
    let hello = Hello {
        link: LinkKind::Probe,
        cluster: "old".to_owned(),
        agreement: [1; 16],
        cluster_id: old.control.config().cluster_id,
        name: last.node.name.clone(),
        id: NodeId(3),
        disk: [3; 16],
        incarnation: Incarnation(9),
        members: Vec::new(),
    };
    let runtime = runtime();
    let (local, tls) = (Arc::new(Local::new(hello)), PeerTls::load(last.peer.as_ref().unwrap()).unwrap());
    let links = Links::new(
        local,
        tls,
        Arc::new(PeerReceiver::new(Arc::default())),
        runtime.handle().clone(),
        1 << 20,
    );
    let place = PeerPlace {
        id: NodeId(1),
        name: first.node.name.clone(),
        address: first.peer.as_ref().unwrap().advertise.clone(),
    };
    let _entered = runtime.enter();
    links.set_peers(vec![place]);
    let peer = first.peer.as_ref().unwrap();
    let new = runtime.block_on(links.probe(&first.node.name, &peer.advertise)).unwrap();
    assert!(!new.is_fresh() && new.cluster_id != old.control.config().cluster_id, "it may ask who is there");
    for kind in [LinkKind::Raft, LinkKind::Snapshot] {
        assert!(runtime.block_on(links.open(NodeId(1), kind)).is_err(), "{kind:?}");
    }
    runtime.block_on(links.stop());
}

#[test]
fn node_that_was_not_restored_founds_no_cluster_with_those_that_were() {
    let folder = TestFolder::new();
    let configs = three(&folder);
    restore_all(&folder, &configs[..2]);
    let stop = watch::Sender::new(false);
    let ends: Vec<StartError> = std::thread::scope(|scope| {
        let start = |config| {
            let runtime = runtime();
            let end = Daemon::start(config, runtime.handle(), stop.subscribe()).map(|_| ()).unwrap_err();
            // Who hears of it later waits for this one, which is gone.
            stop.send_replace(true);
            end
        };
        let starting: Vec<_> = configs.iter().map(|config| scope.spawn(move || start(config))).collect();
        starting.into_iter().map(|node| node.join().unwrap()).collect()
    });
    let (stopped, refused): (Vec<_>, Vec<_>) =
        ends.iter().partition(|end| matches!(end, StartError::Stopped));
    assert!(stopped.len() < 3);
    for error in refused {
        assert_eq!(error.exit_code(), ExitCode::Config, "{error}");
        assert!(error.to_string().contains("backup"), "{error}");
    }
    let mut started = configs.iter().map(|config| config.node.data_dir.join("founding.json").exists());
    assert!(!started.any(|started| started));
}
