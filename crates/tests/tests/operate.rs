//! What operators see of clients and do to them, over the admin API of any node of a real cluster.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::collections::{BTreeMap, BTreeSet};

use quorate_api::{
    ErrorBody, Kicked, LongestQueues, Purged, RetainedDeleted, RetainedMessage, RetainedPage,
    SessionExplanation, SessionPage, SlowConsumers, SubscriptionPage,
};
use quorate_tests::client::Client;
use quorate_tests::raw::{Connect, Packet, Raw, Will};
use quorate_tests::{Cluster, wait_for};
use serde::de::DeserializeOwned;

/// DISCONNECT: Administrative action.
const ADMINISTRATIVE_ACTION: u8 = 0x98;

fn ask<T: DeserializeOwned>(cluster: &Cluster, node: usize, method: &str, path: &str) -> T {
    let body = if method == "POST" { "{}" } else { "" };
    let (status, answer) = cluster.request(node, method, path, body).unwrap();
    assert_eq!(status, 200, "{method} {path}: {answer}");
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{method} {path}: {error} in {answer}"))
}

/// A request that fails: status and code; message and hint are not empty.
fn fails(cluster: &Cluster, node: usize, method: &str, path: &str) -> (u16, String) {
    let body = if method == "POST" { "{}" } else { "" };
    let (status, answer) = cluster.request(node, method, path, body).unwrap();
    let ErrorBody { error } =
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{method} {path}: {error} in {answer}"));
    assert!(!error.message.is_empty() && !error.hint.is_empty(), "{answer}");
    (status, error.code)
}

fn connect(cluster: &Cluster, node: usize, connect: &Connect) -> (Raw, bool) {
    Raw::connect(cluster.node(node).mqtt_port, connect).unwrap()
}

/// A durable session with a subscription and no connection, with messages queued for it.
fn offline(cluster: &Cluster, client_id: &str, messages: usize) {
    let (mut raw, _) = connect(cluster, 0, &Connect::durable(client_id));
    raw.subscribe(&format!("queue/{client_id}")).unwrap();
    raw.disconnect().unwrap();
    let (mut publisher, _) = connect(cluster, 1, &Connect::transient("fill"));
    for _ in 0..messages {
        publisher.publish_acked(&format!("queue/{client_id}"), b"12345", false).unwrap();
    }
    publisher.disconnect().unwrap();
}

/// The replicas of each group have the same state, as soon as they are at the same entry.
fn replicas_agree(cluster: &Cluster) {
    let agree = || {
        let mut hashes: BTreeMap<(u32, u64), BTreeSet<String>> = BTreeMap::new();
        let mut replicas = 0;
        for node in 0..cluster.nodes.len() {
            for group in cluster.state(node, true).ok()?.groups {
                replicas += 1;
                hashes.entry((group.id, group.applied)).or_default().insert(group.state_hash?);
            }
        }
        assert!(hashes.values().all(|hashes| hashes.len() == 1), "replicas differ: {hashes:?}");
        let groups: BTreeSet<u32> = hashes.keys().map(|(group, _)| *group).collect();
        (hashes.len() == groups.len()).then_some(replicas)
    };
    let replicas = wait_for("all replicas at the same entry", agree).unwrap();
    assert!(replicas > 16, "{replicas} replicas compared");
}

#[test]
fn what_clients_have_is_listed_alike_by_every_node_also_without_a_replica() {
    // Four nodes: each partition has three replicas, so that every node lacks some.
    let cluster = Cluster::start("operate-lists", 4).unwrap();
    let mut online = Vec::new();
    for node in 0..4 {
        let (mut raw, _) = connect(&cluster, node, &Connect::durable(&format!("plant-{node}")));
        raw.subscribe(&format!("plant/{node}/#")).unwrap();
        raw.subscribe("plant/all").unwrap();
        online.push(raw);
    }
    let (mut transient, _) = connect(&cluster, 1, &Connect::transient("plant-transient"));
    for filter in ["plant/+/t", "other/#", "$share/group/plant/2/t"] {
        transient.subscribe(filter).unwrap();
    }
    offline(&cluster, "plant-short", 1);
    offline(&cluster, "plant-long", 5);
    let slow = Connect { receive_max: 2, ..Connect::durable("slow") };
    let (mut slow, _) = connect(&cluster, 2, &slow);
    slow.subscribe("slow").unwrap();
    let (mut publisher, _) = connect(&cluster, 3, &Connect::transient("publisher"));
    for _ in 0..6 {
        publisher.publish_acked("slow", b"x", false).unwrap();
    }
    let name = |place: usize| cluster.node(place).name.clone();
    let mut lacking = 0;
    for node in 0..4 {
        lacking += 17 - cluster.state(node, false).unwrap().groups.len();
        let sessions = |query: &str| {
            let page: SessionPage = ask(&cluster, node, "GET", &format!("/v1/sessions?{query}"));
            assert_eq!(page.missing_partitions, [] as [u32; 0]);
            (page.sessions.into_iter().map(|session| session.client_id).collect::<Vec<_>>(), page.next)
        };
        // A follower may lag a little behind what was acknowledged.
        wait_for("the lists to have all", || {
            (sessions("min_queued=4").0 == ["plant-long", "slow"]).then_some(())
        })
        .unwrap();
        let all =
            ["plant-0", "plant-1", "plant-2", "plant-3", "plant-long", "plant-short", "plant-transient"];
        assert_eq!(sessions("prefix=plant-"), (all.map(str::to_owned).to_vec(), None));
        assert_eq!(sessions("prefix=plant-&online=false").0, ["plant-long", "plant-short"]);
        assert_eq!(sessions(&format!("node={}&prefix=plant-", name(1))).0, ["plant-1", "plant-transient"]);
        assert_eq!(sessions("prefix=plant-&limit=2").1.as_deref(), Some("plant-1"));
        assert_eq!(sessions("prefix=plant-&limit=2&after=plant-1").0, ["plant-2", "plant-3"]);
        assert_eq!(
            fails(&cluster, node, "GET", "/v1/sessions?node=nobody"),
            (400, "node_unknown".to_owned())
        );

        let subscriptions = |query: &str| {
            let (mut found, mut after) = (Vec::new(), String::new());
            loop {
                let path = format!("/v1/subscriptions?limit=3{query}{after}");
                let page: SubscriptionPage = ask(&cluster, node, "GET", &path);
                assert!(page.subscriptions.len() <= 3 && page.incomplete_groups.is_empty(), "{page:?}");
                found.extend(page.subscriptions);
                let Some(next) = page.next else { return found };
                after = format!("&after={}", percent_encoded(&next));
            }
        };
        let named = |query: &str| {
            let found = subscriptions(query).into_iter();
            found.map(|row| format!("{} {}", row.client_id, row.filter)).collect::<Vec<_>>()
        };
        let all = subscriptions("");
        assert_eq!(all.len(), 14, "{all:?}");
        let of_transient: Vec<_> = all.iter().filter(|row| row.client_id == "plant-transient").collect();
        assert_eq!(of_transient.len(), 3);
        assert!(of_transient.iter().all(|row| !row.durable && row.node.as_deref() == Some(name(1).as_str())));
        let expected =
            ["plant-2 plant/2/#", "plant-transient $share/group/plant/2/t", "plant-transient plant/+/t"];
        assert_eq!(named("&matches=plant/2/t"), expected);
        assert_eq!(named("&client_id=plant-3"), ["plant-3 plant/3/#", "plant-3 plant/all"]);
        assert_eq!(named("&filter=other/%23"), ["plant-transient other/#"]);
        assert_eq!(fails(&cluster, node, "GET", "/v1/subscriptions?after=x").1, "cursor_invalid");

        let found: LongestQueues = ask(&cluster, node, "GET", "/v1/queues?top=2");
        let queues: Vec<_> =
            found.queues.iter().map(|queue| (queue.client_id.as_str(), queue.messages)).collect();
        assert!(found.complete);
        assert_eq!(queues, [("plant-long", 5), ("slow", 4)], "{found:?}");
        assert!(found.queues.iter().all(|queue| queue.oldest_ms.is_some() && queue.bytes > 0), "{found:?}");
        let found: SlowConsumers = ask(&cluster, node, "GET", "/v1/slow-consumers");
        let first = &found.consumers[0];
        assert_eq!((first.client_id.as_str(), first.node.as_deref()), ("slow", Some(name(2).as_str())));
        assert_eq!((first.inflight, first.inflight_max, first.queued), (Some(2), 2, 4));
        assert!(first.oldest_unacked_ms.is_some(), "{found:?}");

        let explained: SessionExplanation = ask(&cluster, node, "GET", "/v1/sessions/plant-long");
        assert_eq!(explained.session.unwrap().queue.messages, 5);
    }
    assert!(lacking > 0, "every node has every group: nobody had to be asked");
    cluster.check_log().unwrap();
}

#[test]
fn kick_closes_the_connection_on_whatever_node_and_keeps_a_durable_session() {
    let cluster = Cluster::start("operate-kick", 3).unwrap();
    let (mut raw, _) = connect(&cluster, 0, &Connect::durable("kicked"));
    raw.subscribe("kick/#").unwrap();
    for node in [1, 2, 0] {
        let kicked: Kicked = ask(&cluster, node, "POST", "/v1/sessions/kicked/kick");
        assert_eq!((kicked.kicked, kicked.node), (true, Some(cluster.node(0).name.clone())));
        assert_eq!(raw.read().unwrap(), Some(Packet::Disconnect { reason: ADMINISTRATIVE_ACTION }));
        assert_eq!(raw.read().unwrap(), None, "the connection ends");
        wait_for("the session to be without a connection", || {
            let kicked: Kicked = ask(&cluster, node, "POST", "/v1/sessions/kicked/kick");
            (!kicked.kicked).then_some(())
        })
        .unwrap();
        let (again, present) = connect(&cluster, 0, &Connect::durable("kicked"));
        assert!(present, "the session is kept");
        raw = again;
    }
    let (mut publisher, _) = connect(&cluster, 1, &Connect::transient("kick-publisher"));
    publisher.publish_acked("kick/x", b"1", false).unwrap();
    assert_eq!(raw.receive().unwrap().payload, b"1", "with its subscriptions");

    // MQTT 3.1.1 has no DISCONNECT from the server: the connection just ends, and the client comes back.
    let old = Client::connect("kicked-old", cluster.node(1).mqtt_port, true);
    old.wait_connected().unwrap();
    let kicked: Kicked = ask(&cluster, 2, "POST", "/v1/sessions/kicked-old/kick");
    assert!(kicked.kicked);
    wait_for("its connection to end", || (!old.errors().is_empty()).then_some(())).unwrap();

    assert_eq!(fails(&cluster, 1, "POST", "/v1/sessions/nobody/kick"), (404, "session_not_found".to_owned()));
    let (status, answer) =
        cluster.request(1, "POST", "/v1/sessions/kicked/kick", r#"{"reason":"spite"}"#).unwrap();
    assert!((400..500).contains(&status), "{status} {answer}");
}

#[test]
fn purge_ends_connected_and_offline_sessions_with_all_they_have_on_every_replica() {
    let cluster = Cluster::start("operate-purge", 3).unwrap();
    let (mut watcher, _) = connect(&cluster, 2, &Connect::durable("watcher"));
    watcher.subscribe("will/#").unwrap();
    let will = |client_id: &str| Connect {
        will: Some(Will { topic: format!("will/{client_id}"), payload: b"gone".to_vec(), delay_s: 3000 }),
        ..Connect::durable(client_id)
    };
    for (client_id, is_online) in [("purged-online", true), ("purged-offline", false)] {
        let (mut raw, _) = connect(&cluster, 0, &will(client_id));
        raw.subscribe(&format!("purge/{client_id}")).unwrap();
        let mut kept = Some(raw);
        if !is_online {
            // Without a word: the will waits for its delay.
            kept = None;
            wait_for("the session to be without a connection", || {
                let explained: SessionExplanation =
                    ask(&cluster, 1, "GET", &format!("/v1/sessions/{client_id}"));
                explained.session?.owner.is_none().then_some(())
            })
            .unwrap();
        }
        let (mut publisher, _) = connect(&cluster, 1, &Connect::transient("purge-publisher"));
        for _ in 0..3 {
            publisher.publish_acked(&format!("purge/{client_id}"), b"x", false).unwrap();
        }
        let purged: Purged = ask(&cluster, 1, "DELETE", &format!("/v1/sessions/{client_id}"));
        assert!(purged.existed);
        if let Some(mut raw) = kept {
            let mut last = None;
            while let Some(packet) = raw.read().unwrap() {
                last = Some(packet);
            }
            assert_eq!(last, Some(Packet::Disconnect { reason: ADMINISTRATIVE_ACTION }));
        }
        let again: Purged = ask(&cluster, 2, "DELETE", &format!("/v1/sessions/{client_id}"));
        assert!(!again.existed);
        // The session's end is the end of the delay [MQTT-3.1.3-9]: nothing is left to come later.
        assert_eq!(watcher.receive().unwrap().topic, format!("will/{client_id}"));
        for node in 0..3 {
            wait_for("every replica to have no such session", || {
                let explained: SessionExplanation =
                    ask(&cluster, node, "GET", &format!("/v1/sessions/{client_id}"));
                explained.session.is_none().then_some(())
            })
            .unwrap();
            let path = format!("/v1/subscriptions?client_id={client_id}");
            let page: SubscriptionPage = ask(&cluster, node, "GET", &path);
            assert_eq!(page.subscriptions, []);
        }
        let queues: LongestQueues = ask(&cluster, 1, "GET", "/v1/queues");
        assert_eq!(queues.queues, []);
        let (raw, present) = connect(&cluster, 2, &Connect::durable(client_id));
        assert!(!present, "nothing is left of the session");
        raw.disconnect().unwrap();
    }
    replicas_agree(&cluster);
    cluster.check_log().unwrap();
}

#[test]
fn retained_messages_are_listed_read_and_deleted_on_any_node() {
    let cluster = Cluster::start("operate-retained", 4).unwrap();
    let (mut publisher, _) = connect(&cluster, 0, &Connect::transient("retained-publisher"));
    let topics: Vec<String> = (0..9).map(|n| format!("kept/{n}")).collect();
    for topic in &topics {
        publisher.publish_acked(topic, b"hello", true).unwrap();
    }
    publisher.publish_acked("other", b"x", true).unwrap();
    for (node, deleted) in topics.iter().enumerate().take(4) {
        let list = || {
            let (mut found, mut after) = (Vec::new(), String::new());
            loop {
                let path = format!("/v1/retained?filter=kept/%23&limit=2{after}");
                let page: RetainedPage = ask(&cluster, node, "GET", &path);
                assert!(page.messages.len() <= 2 && page.incomplete_groups.is_empty(), "{page:?}");
                found.extend(page.messages);
                let Some(next) = page.next else { return found };
                after = format!("&after={}", percent_encoded(&next));
            }
        };
        let left = &topics[node..];
        let names = || list().into_iter().map(|message| message.topic).collect::<Vec<_>>();
        wait_for("the list to have what was acknowledged", || (names() == left).then_some(())).unwrap();
        assert!(list().iter().all(|message| (message.qos, message.payload_bytes) == (1, 5)), "{:?}", list());
        let exact: RetainedPage = ask(&cluster, node, "GET", "/v1/retained?filter=other");
        assert_eq!(exact.messages.len(), 1);

        let path = format!("/v1/retained/message?topic={}", percent_encoded(deleted));
        let message: RetainedMessage = ask(&cluster, node, "GET", &path);
        assert_eq!((message.payload_base64.as_str(), message.payload_bytes, message.qos), ("aGVsbG8=", 5, 1));
        let (mut live, _) = connect(&cluster, 1, &Connect::transient("live"));
        live.subscribe(deleted).unwrap();
        assert_eq!(live.receive().unwrap().payload, b"hello");
        let answer: RetainedDeleted = ask(&cluster, node, "DELETE", &path);
        assert!(answer.existed);
        // The other node reads its own replica, which may lag.
        let is_gone = || (cluster.request(3 - node, "GET", &path, "").ok()?.0 == 404).then_some(());
        wait_for("the deletion on another node", is_gone).unwrap();
        assert_eq!(fails(&cluster, 3 - node, "GET", &path), (404, "retained_not_found".to_owned()));
        let answer: RetainedDeleted = ask(&cluster, 3 - node, "DELETE", &path);
        assert!(!answer.existed);
        // A new subscriber gets all but the deleted one, and who was subscribed is sent nothing.
        let (mut late, _) = connect(&cluster, 2, &Connect::transient("late"));
        late.subscribe("kept/#").unwrap();
        let mut seen: Vec<String> = (1..left.len()).map(|_| late.receive().unwrap().topic).collect();
        publisher.publish_acked("kept/last", b"", false).unwrap();
        assert_eq!(late.receive().unwrap().topic, "kept/last");
        seen.sort();
        assert_eq!(seen, &left[1..]);
        publisher.publish_acked(deleted, b"live", false).unwrap();
        assert_eq!(live.receive().unwrap().payload, b"live");
    }
    assert_eq!(fails(&cluster, 0, "GET", "/v1/retained?filter=a%23").1, "filter_invalid");
    assert_eq!(fails(&cluster, 0, "DELETE", "/v1/retained/message?topic=a/%23").1, "topic_invalid");
    replicas_agree(&cluster);
    cluster.check_log().unwrap();
}

/// Runs a command that succeeds; what it prints.
fn run(cluster: &Cluster, node: usize, arguments: &[&str]) -> String {
    let output = cluster.operate(node, arguments).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn commands_show_and_do_what_the_api_does_and_ask_before_they_destroy() {
    let cluster = Cluster::start("operate-commands", 3).unwrap();
    offline(&cluster, "waits/1", 3);
    let (mut publisher, _) = connect(&cluster, 0, &Connect::durable("publisher"));
    publisher.publish_acked("kept", b"hello", true).unwrap();
    let page: SessionPage = wait_for("the list to have what was acknowledged", || {
        let page: SessionPage = serde_json::from_str(&run(
            &cluster,
            1,
            &["sessions", "list", "--min-queued", "1", "--output", "json"],
        ))
        .unwrap();
        (page.sessions.first()?.queued_messages == 3).then_some(page)
    })
    .unwrap();
    assert_eq!(page.sessions[0].client_id, "waits/1");
    for (arguments, shown) in [
        (&["sessions", "list", "--offline", "--output", "table"][..], "waits/1"),
        (&["sessions", "list", "--online"], "publisher"),
        (&["sessions", "show", "waits/1"], "offline: "),
        (&["subscriptions", "list", "--matches", "queue/waits/1"], "queue/waits/1"),
        (&["retained", "list", "--filter", "+"], "kept"),
        (&["retained", "get", "kept"], "aGVsbG8="),
        (&["queues"], "waits/1"),
        (&["slow-consumers", "--top", "3"], "OLDEST UNACKED"),
        (&["sessions", "kick", "publisher"], "n1 closes"),
        (&["sessions", "purge", "waits/1", "--yes"], "has ended"),
        (&["sessions", "purge", "waits/1", "--yes"], "has no session"),
        (&["retained", "delete", "kept", "-y"], "is deleted"),
    ] {
        let text = run(&cluster, 2, arguments);
        assert!(text.contains(shown), "{arguments:?}: {text}");
    }
    for (arguments, code, said) in [
        (&["sessions", "purge", "publisher"][..], 2, "hint: add --yes"),
        (&["retained", "delete", "x"], 2, "hint: add --yes"),
        (&["sessions", "kick", "nobody"], 1, "session_not_found"),
        (&["retained", "get", "kept"], 1, "retained_not_found"),
        (&["sessions", "list", "--node", "n9"], 1, "node_unknown"),
    ] {
        let output = cluster.operate(1, arguments).unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(said) && text.contains("hint: "), "{arguments:?}: {text}");
    }
    let known: SessionExplanation = ask(&cluster, 0, "GET", "/v1/sessions/publisher");
    assert!(known.session.is_some(), "nobody agreed to its end");
}

/// All but unreserved characters of RFC 3986 as `%XX`.
fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
