//! What an operator asks of a node and does to it: who may, traces, the log, the configuration, and what is wrong.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::io::{BufRead, Write};
use std::time::Instant;

use quorate_tests::client::Client;
use quorate_tests::http::{Answer, JSON, open, request};
use quorate_tests::raw::{Connect, Raw};
use quorate_tests::{Cluster, DEADLINE, Serve, wait_for};
use serde_json::Value;

/// Beginning of the sections of a node with a listener of its own.
fn listener(serve: &Serve, keys: &str) -> String {
    format!("[[listener]]\nbind = \"127.0.0.1:{}\"\n{keys}", serve.port)
}

fn ask(serve: &Serve, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    request(&serve.admin(), line, headers, body).unwrap()
}

fn check(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    assert!(answer.header("Access-Control-Allow-Origin").is_none(), "{}", answer.head);
}

#[test]
fn pages_of_strangers_read_and_change_nothing() {
    let mut serve = Serve::new("strangers").unwrap();
    serve.start(&format!("host_names = [\"n1.example\"]\n{}", listener(&serve, ""))).unwrap();
    for host in ["evil.example", "127.0.0.1.evil.example", "n1.example.evil"] {
        check(&ask(&serve, "GET /v1/sessions", &[("Host", host)], ""), 421, "host_unknown");
    }
    for host in ["localhost", "n1.example:80", "[::1]"] {
        assert_eq!(ask(&serve, "GET /v1/sessions", &[("Host", host)], "").status, 200, "{host}");
    }
    let change = "PUT /v1/log-level";
    let body = r#"{"filter":"debug"}"#;
    check(&ask(&serve, change, &[], body), 415, "content_type_not_json");
    check(&ask(&serve, change, &[("Content-Type", "text/plain")], body), 415, "content_type_not_json");
    let foreign = ("Origin", "http://evil.example");
    check(&ask(&serve, change, &[JSON, foreign], body), 403, "origin_foreign");
    assert_eq!(ask(&serve, "GET /v1/log-level", &[foreign], "").json().unwrap()["filter"], "info");
    let own = format!("http://{}", serve.admin());
    assert_eq!(ask(&serve, change, &[JSON, ("Origin", &own)], body).status, 200);
    check(&ask(&serve, "OPTIONS /v1/reload", &[foreign], ""), 405, "method_not_allowed");
    check(&ask(&serve, "GET /none", &[], ""), 404, "path_not_found");
    check(&ask(&serve, change, &[JSON], "{"), 400, "body_invalid");
    check(&ask(&serve, change, &[JSON], "{}"), 422, "body_invalid");
    check(&ask(&serve, "GET /v1/events?limit=x", &[], ""), 400, "query_invalid");
    check(&ask(&serve, "GET /readyz/%ff", &[], ""), 400, "path_invalid");

    // All that is described is there.
    let described = ask(&serve, "GET /v1/openapi.json", &[], "").json().unwrap();
    let paths = described["paths"].as_object().unwrap();
    assert!(paths.len() >= 17, "{paths:?}");
    for (path, methods) in paths {
        let path = path.split('/').map(|part| if part.starts_with('{') { "1" } else { part });
        let path = path.collect::<Vec<_>>().join("/");
        for method in methods.as_object().unwrap().keys().filter(|method| *method != "delete") {
            let answer = ask(&serve, &format!("{} {path}", method.to_uppercase()), &[JSON], "");
            let missing = ["path_not_found", "method_not_allowed"].contains(&&answer.code()[..]);
            assert!(!missing, "{method} {path}: {answer:?}");
        }
    }
}

#[test]
fn token_is_asked_for_and_may_be_changed_while_the_node_runs() {
    const OLD: &str = "0123456789abcdef";
    const NEW: &str = "fedcba9876543210";
    let mut serve = Serve::new("token").unwrap();
    let file = serve.dir().join("token");
    let sections = format!("token_file = \"token\"\n{}", listener(&serve, ""));
    std::fs::write(&file, "short").unwrap();
    assert!(serve.start(&sections).is_err());
    assert_eq!(serve.wait().unwrap().code(), Some(69));
    std::fs::write(&file, OLD).unwrap();
    serve.start(&sections).unwrap();
    let with = |token: &str| {
        let bearer = format!("Bearer {token}");
        ask(&serve, "GET /v1/sessions", &[("Authorization", &bearer)], "").status
    };
    check(&ask(&serve, "GET /v1/sessions", &[], ""), 401, "token_missing");
    check(&ask(&serve, "GET /metrics", &[], ""), 401, "token_missing");
    for path in ["/livez", "/readyz", "/readyz/tcp"] {
        assert_eq!(ask(&serve, &format!("GET {path}"), &[], "").status, 200, "{path}");
    }
    assert_eq!((with(OLD), with(NEW)), (200, 401));
    let status = format!("status --admin http://{}", serve.admin());
    let refused = serve.run(&status).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("QUORATE_ADMIN_TOKEN_FILE"), "{said}");
    assert!(serve.run(&format!("{status} --token-file token")).unwrap().status.success());
    std::fs::write(&file, format!("{NEW}\n{OLD}\n")).unwrap();
    assert_eq!((with(OLD), with(NEW)), (200, 200));
    std::fs::write(&file, NEW).unwrap();
    assert_eq!((with(OLD), with(NEW)), (401, 200));
    std::fs::write(&file, "").unwrap();
    assert_eq!((with(""), with(OLD), with(NEW)), (401, 401, 200), "an empty file opens nothing");

    std::fs::write(serve.dir().join("open.toml"), "[admin]\nbind = \"0.0.0.0:9883\"\n").unwrap();
    let checked = serve.run("config check --config open.toml").unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.code() == Some(2) && said.contains("token_file"), "{said}");
}

#[test]
fn log_level_changes_for_a_time_and_events_tell_of_it() {
    let mut serve = Serve::new("log-level").unwrap();
    serve.start(&listener(&serve, "")).unwrap();
    let filter = || ask(&serve, "GET /v1/log-level", &[], "").json().unwrap()["filter"].clone();
    let put = |body: &str| ask(&serve, "PUT /v1/log-level", &[JSON], body);
    assert_eq!(filter(), "info");
    check(&put(r#"{"filter":"quorate_server=loud"}"#), 400, "filter_invalid");
    check(&put(r#"{"filter":"debug","seconds":0}"#), 400, "seconds_invalid");
    let changed = put(r#"{"filter":"debug","seconds":2}"#);
    assert_eq!((changed.status, changed.json().unwrap()["seconds"].as_u64()), (200, Some(2)));
    let _client = Client::connect("c", serve.port, true);
    wait_for("a line of level DEBUG", || serve.log().unwrap().contains(" DEBUG ").then_some(())).unwrap();
    wait_for("the level before", || (filter() == "info").then_some(())).unwrap();
    let said = serve.run(&format!("events --admin http://{}", serve.admin())).unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    for part in ["started", "The log's filter is debug.", "The log's filter is info."] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let page = ask(&serve, "GET /v1/events?limit=2", &[], "").json().unwrap();
    let after =
        ask(&serve, &format!("GET /v1/events?limit=1&after={}", page["next"]), &[], "").json().unwrap();
    let [first, second] =
        [&page["events"][1]["seq"], &after["events"][0]["seq"]].map(|seq| seq.as_u64().unwrap());
    assert_eq!(second, first + 1);
}

#[test]
fn trace_ends_when_its_reader_goes_and_few_run_at_once() {
    let mut serve = Serve::new("readers").unwrap();
    serve.start(&listener(&serve, "")).unwrap();
    let begin =
        || open(&serve.admin(), "POST /v1/trace", &[JSON], r##"{"filter":"#","seconds":600}"##).unwrap();
    let mut readers: Vec<_> = (0..4).map(|_| begin()).collect();
    assert!(readers.iter().all(|(status, ..)| *status == 200));
    assert_eq!(begin().0, 429);
    readers.clear();
    // Nothing is published: the node notices that the readers are gone without having something for them.
    wait_for("places for other traces", || (begin().0 == 200).then_some(())).unwrap();
    serve.signal("TERM").unwrap();
    assert_eq!(serve.wait().unwrap().code(), Some(0));
}

#[test]
fn message_is_explained_by_those_who_would_get_it() {
    let mut serve = Serve::new("message").unwrap();
    serve.start(&listener(&serve, "")).unwrap();
    let explained = |topic: &str| {
        let admin = serve.admin();
        let command =
            format!("explain message --topic {topic} --client c --admin http://{admin} --output json");
        let output = serve.run(&command).unwrap();
        assert!(output.status.success(), "{output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let codes = |list: &Value| -> Vec<String> {
            let list = list.as_array().unwrap();
            list.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
        };
        (codes(&answer["findings"]), codes(&answer["client"]))
    };
    assert_eq!(explained("t/a"), (vec!["no_receivers".to_owned()], vec!["no_session".to_owned()]));
    let client = Client::connect("c", serve.port, false);
    client.subscribe("t/#").unwrap();
    let (route, of_client) = explained("t/a");
    assert!(route.contains(&"stored".to_owned()), "{route:?}");
    assert_eq!(of_client, ["subscription_matches", "queue_empty"]);
    let (route, of_client) = explained("T/a");
    assert_eq!((&route[0][..], &of_client[0][..]), ("no_receivers", "no_subscription_matches"));
    assert_eq!(explained("$SYS/x").0, ["read_only_topic"]);
    check(&ask(&serve, "GET /v1/route?topic=a%2F%23", &[], ""), 400, "topic_invalid");
}

/// Whether a client that connects now gets its CONNACK.
fn is_let_in(port: u16) -> bool {
    use std::io::Read;
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _refused_early = stream.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).is_ok() && answer[3] == 0
}

#[test]
fn reload_applies_what_is_sound_and_nothing_of_what_is_not() {
    let mut serve = Serve::new("reload").unwrap();
    serve.start(&listener(&serve, "connections_max = 1\n")).unwrap();
    let first = Client::connect("first", serve.port, true);
    first.wait_connected().unwrap();
    assert!(!is_let_in(serve.port));
    let full = ask(&serve, "GET /readyz/tcp", &[], "");
    assert!(full.status == 503 && full.body.contains("1 connections"), "{full:?}");
    check(&ask(&serve, "GET /readyz/none", &[], ""), 404, "listener_not_found");
    let found = ask(&serve, "GET /v1/why", &[], "").json().unwrap();
    assert_eq!((&found["ready"], &found["findings"][0]["code"]), (&true.into(), &"listener_closed".into()));
    let reload = || ask(&serve, "POST /v1/reload", &[JSON], "");
    let keys = |answer: &Answer, list: &str| answer.json().unwrap()[list].clone();

    let wider = listener(&serve, "connections_max = 2\n") + "[log]\nlevel = \"debug\"\n";
    serve.configure(&format!("{wider}[limits]\nreceive_max = 0\n")).unwrap();
    let refused = reload();
    check(&refused, 422, "configuration_refused");
    assert!(keys(&refused, "errors")[0].as_str().unwrap().contains("outside 1 to 65535"), "{refused:?}");
    assert_eq!(keys(&refused, "applied"), Value::Array(Vec::new()));
    assert!(!is_let_in(serve.port), "nothing of it is in force");
    assert_eq!(ask(&serve, "GET /v1/log-level", &[], "").json().unwrap()["filter"], "info");

    serve
        .configure(&format!("{wider}[storage]\nbody_cache_bytes = \"1MiB\"\n[cluster]\npartitions = 3\n"))
        .unwrap();
    let applied = reload();
    assert_eq!(applied.status, 200, "{applied:?}");
    assert_eq!(keys(&applied, "applied"), serde_json::json!(["listeners.tcp.connections_max", "log.level"]));
    assert_eq!(keys(&applied, "needs_restart"), serde_json::json!(["storage.body_cache_bytes"]));
    assert_eq!(keys(&applied, "without_effect"), serde_json::json!(["cluster.partitions"]));
    wait_for("room for another connection", || is_let_in(serve.port).then_some(())).unwrap();
    assert_eq!(ask(&serve, "GET /v1/log-level", &[], "").json().unwrap()["filter"], "debug");
    assert!(first.errors().is_empty(), "connections stay: {:?}", first.errors());

    // The same by signal, and by the command line.
    serve.configure(&listener(&serve, "connections_max = 1\n")).unwrap();
    serve.signal("HUP").unwrap();
    wait_for("the limit of before", || (!is_let_in(serve.port)).then_some(())).unwrap();
    serve.configure("nonsense = 1\n").unwrap();
    let command = format!("reload --admin http://{}", serve.admin());
    let said = serve.run(&command).unwrap();
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("nothing has changed"), "{said:?}");
    serve.configure(&listener(&serve, "connections_max = 3\n")).unwrap();
    let said = serve.run(&command).unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(
        said.status.success() && text.contains("in force now: listeners.tcp.connections_max"),
        "{said:?}"
    );
}

#[test]
fn drained_node_says_so_with_the_way_back_and_its_events_tell_when() {
    let cluster = Cluster::start("drained", 3).unwrap();
    let admin = cluster.node(1).admin.clone();
    let get = |path: &str| request(&admin, &format!("GET {path}"), &[], "").unwrap();
    let told = |kind: &str| {
        let page = get("/v1/events?limit=1000").json().unwrap();
        page["events"].as_array().unwrap().iter().any(|event| event["kind"] == kind)
    };
    let drain = request(&admin, "POST /v1/nodes/n2/drain", &[JSON], r#"{"grace_s":0}"#).unwrap();
    assert_eq!(drain.status, 200, "{drain:?}");
    let finding = wait_for("the finding", || {
        let why = get("/v1/why").json().unwrap();
        let findings = why["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["code"] == "draining")?;
        (why["ready"] == false).then(|| finding.clone())
    })
    .unwrap();
    assert!(finding["hint"].as_str().unwrap().contains("quorate cluster undrain n2"), "{finding}");
    for path in ["/readyz", "/readyz/tcp"] {
        // While leadership moves away, a group may have no known leader for a moment.
        wait_for("the one clause that fails", || {
            let answer = get(path);
            let readiness = answer.json().unwrap();
            let clauses = readiness["clauses"].as_array().unwrap();
            let failed: Vec<_> = clauses.iter().filter(|clause| clause["ok"] == false).collect();
            (answer.status == 503 && failed.len() == 1 && failed[0]["name"] == "draining").then_some(())
        })
        .unwrap();
    }
    assert!(get("/metrics").body.contains("quorate_ready_clause{clause=\"draining\"} 0\n"));
    // A client of MQTT 5 is told where to go: 0x9C, and the listeners of the same name on the others.
    let others = [0, 2].map(|place| format!("127.0.0.1:{}", cluster.node(place).mqtt_port));
    wait_for("a refusal that names the other nodes", || {
        let said = Raw::refusal(cluster.node(1).mqtt_port, &Connect::transient("sent-away")).unwrap();
        let text = String::from_utf8_lossy(&said);
        let named = others.iter().all(|other| text.contains(other));
        (said.first() == Some(&0x20) && said.get(3) == Some(&0x9c) && named).then_some(())
    })
    .unwrap();
    wait_for("events of the drain", || (told("drain_begun") && told("not_ready")).then_some(())).unwrap();
    let back = request(&admin, "DELETE /v1/nodes/n2/drain", &[JSON], "").unwrap();
    assert_eq!(back.status, 200, "{back:?}");
    wait_for("nothing to find", || {
        let why = get("/v1/why").json().unwrap();
        (why["findings"][0]["code"] == "nothing_wrong" && why["ready"] == true).then_some(())
    })
    .unwrap();
    wait_for("its end", || told("drain_ended").then_some(())).unwrap();
}

fn lines(reader: impl BufRead) -> Vec<Value> {
    reader.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

#[test]
fn trace_shows_what_a_client_does_and_never_slows_it() {
    let cluster = Cluster::start("trace", 3).unwrap();
    let admin = |node: usize| cluster.node(node).admin.clone();
    let body = r#"{"client_id":"c","seconds":60,"events_max":6,"payload_bytes_max":3}"#;
    let (status, head, reader) = open(&admin(0), "POST /v1/trace", &[JSON], body).unwrap();
    assert!(status == 200 && head.contains("application/x-ndjson"), "{head}");
    let client = Client::connect("c", cluster.node(0).mqtt_port, true);
    client.subscribe("t/#").unwrap();
    client.publish("other", b"payload", false).unwrap();
    let seen = lines(reader);
    let packets: Vec<_> = seen.iter().filter_map(|line| line["packet"].as_str()).collect();
    assert_eq!(packets, ["CONNECT", "CONNACK", "SUBSCRIBE", "SUBACK", "PUBLISH", "PUBACK"], "{seen:?}");
    assert!(seen[..6].iter().all(|line| line["client_id"] == "c"), "{seen:?}");
    assert_eq!((&seen[2]["filters"][0], &seen[4]["topic"]), (&"t/#".into(), &"other".into()));
    assert_eq!((&seen[4]["payload_hex"], &seen[4]["direction"]), (&"706179".into(), &"in".into()));
    assert_eq!((&seen[6]["end"], &seen[6]["dropped"]), (&"events_max".into(), &0.into()));

    // From another node: it says where the client is, and the command line goes there.
    let elsewhere = request(&admin(1), "POST /v1/trace", &[JSON], r#"{"client_id":"c"}"#).unwrap();
    check(&elsewhere, 307, "client_elsewhere");
    let location = elsewhere.header("Location").unwrap().to_owned();
    assert_eq!(location, format!("http://{}/v1/trace?here=true", admin(0)));
    assert!(elsewhere.body.contains("node n1"), "{elsewhere:?}");

    // Nobody reads: the client goes on, and what was left out is counted.
    const PUBLISHES: usize = 6000;
    let body = r#"{"client_id":"c","seconds":600,"events_max":1000000,"payload_bytes_max":1024}"#;
    let (status, _, mut reader) = open(&admin(0), "POST /v1/trace", &[JSON], body).unwrap();
    assert_eq!(status, 200);
    let payload = [7; 1024];
    for _ in 0..PUBLISHES {
        client.publish("other", &payload, false).unwrap();
    }
    client.wait_acked(PUBLISHES + 1).unwrap();
    let (mut written, mut dropped, begun) = (0, 0, Instant::now());
    while written + dropped < 2 * PUBLISHES as u64 {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "{written} written, {dropped} left out");
        // The client's PINGREQs keep lines coming.
        assert!(begun.elapsed() < DEADLINE, "{written} written, {dropped} left out");
        let line: Value = serde_json::from_str(&line).unwrap();
        written += u64::from(line["packet"] == "PUBLISH" || line["packet"] == "PUBACK");
        dropped += line["dropped_before"].as_u64().unwrap_or(0);
        if dropped == 0 && written == 2 * PUBLISHES as u64 {
            panic!("the reader was not slow: the test shows nothing");
        }
        if written + dropped + 3000 > 2 * PUBLISHES as u64 {
            // What comes after the last gap has no number of its own: another packet tells of it.
            client.publish("other", b"", false).unwrap();
        }
    }
    assert!(client.errors().is_empty(), "{:?}", client.errors());
    cluster.check_log().unwrap();
}

#[test]
fn node_without_its_peers_says_why_and_figures_are_of_all_nodes() {
    let mut cluster = Cluster::start("why", 3).unwrap();
    let get = |cluster: &Cluster, path: &str| -> Value {
        let (_, body) = cluster.get(0, path).unwrap();
        serde_json::from_str(&body).unwrap()
    };
    let client = Client::connect("c", cluster.node(1).mqtt_port, false);
    client.subscribe("a").unwrap();
    wait_for("figures of every node", || {
        client.publish("a", b"payload", false).unwrap();
        let figures = get(&cluster, "/v1/figures");
        let nodes = figures["nodes"].as_array().unwrap();
        let names: Vec<_> = nodes.iter().filter_map(|node| node["node"].as_str()).collect();
        let busy = nodes.iter().find(|node| node["node"] == "n2")?;
        let rate = |of: &Value, name: &str| of[name].as_f64().unwrap();
        let whole = names == ["n1", "n2", "n3"]
            && rate(busy, "messages_in_per_s") > 0.0
            && rate(busy, "messages_out_per_s") > 0.0
            && busy["publish_latency_p99_us"].as_u64() > Some(0)
            && busy["connections"] == 1
            && rate(&figures["total"], "bytes_in_per_s") >= rate(busy, "bytes_in_per_s");
        whole.then_some(())
    })
    .unwrap();
    let well = get(&cluster, "/v1/why");
    assert_eq!((&well["node"], &well["ready"]), (&"n1".into(), &true.into()), "{well}");
    let group = get(&cluster, "/v1/groups/1");
    assert!(["leads", "follows"].contains(&group["findings"][0]["code"].as_str().unwrap()), "{group}");
    assert_eq!(group["voters"].as_array().unwrap().len(), 3);
    assert_eq!(cluster.get(0, "/v1/groups/99").unwrap().0, 404);

    cluster.kill(1).unwrap();
    cluster.kill(2).unwrap();
    let lost = wait_for("one finding that names both nodes", || {
        let why = get(&cluster, "/v1/why");
        let findings = why["findings"].as_array().unwrap();
        (findings.len() == 1 && findings[0]["code"] == "no_quorum" && why["ready"] == false).then_some(why)
    })
    .unwrap();
    let message = lost["findings"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("n2 (for ") && message.contains("n3 (for ") && message.contains("0 to 16"),
        "{message}"
    );
    let group = get(&cluster, "/v1/groups/1");
    assert_eq!(group["findings"][0]["code"], "no_quorum", "{group}");
    assert_eq!(cluster.get(0, "/readyz/tcp").unwrap().0, 503);
    wait_for("events that tell the story", || {
        let page = get(&cluster, "/v1/events?limit=1000");
        let events = page["events"].as_array().unwrap().clone();
        let told = |kind: &str, node: Option<&str>| {
            events.iter().any(|event| event["kind"] == kind && event["node"].as_str() == node)
        };
        let told = told("lease_lost", None)
            && told("not_ready", None)
            && told("peer_unreachable", Some("n2"))
            && told("peer_unreachable", Some("n3"));
        told.then_some(())
    })
    .unwrap();
}
