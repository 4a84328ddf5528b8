//! Configuration files with one error each, and what is said of it.

use super::*;

/// Checks that `text` has exactly these errors, each given as `line:column` and a piece of its message or hint.
fn check_errors(text: &str, expected: &[(usize, usize, &str)]) {
    let errors = parse(Path::new("q.toml"), text).expect_err(text);
    let listing: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), expected.len(), "{listing:#?}");
    for (error, (line, column, piece)) in errors.iter().zip(expected) {
        assert_eq!((error.line, error.column), (*line, *column), "{error}");
        assert!(error.to_string().contains(piece), "{error} does not say {piece}");
        assert!(!error.hint.is_empty());
    }
}

const THREE: &str = r#"
[node]
name = "n2"
data_dir = "data"
zone = "a"
[[listener]]
kind = "tcp"
bind = "127.0.0.1:1884"
[[listener]]
kind = "websocket"
bind = "0.0.0.0:8083"
insecure = true
connections_max = 10
[admin]
bind = "127.0.0.1:9884"
[peer]
bind = "127.0.0.1:11884"
ca_file = "../ca.pem"
cert_file = "cert.pem"
key_file = "key.pem"
[cluster]
name = "dev"
partitions = 8
bootstrap = [ { name = "n1", peer = "127.0.0.1:11883" }, { name = "n2", peer = "127.0.0.1:11884" } ]
[limits]
session_expiry_max = "2d"
queue_bytes_max = "1GiB"
overflow = "drop-oldest"
[storage]
segment_bytes = "32MiB"
[log]
format = "json"
level = "debug"
"#;

#[test]
fn empty_file_gives_the_default() {
    let config = parse(Path::new("q.toml"), "").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:1883");
    assert_eq!(config.listeners[1].bind.to_string(), "127.0.0.1:8083");
    assert_eq!(config.admin.bind.to_string(), "127.0.0.1:9883");
}

#[test]
fn full_file_is_read_with_paths_from_its_folder() {
    let config = parse(Path::new("/etc/quorate/q.toml"), THREE).unwrap();
    assert_eq!(config.node.data_dir, Path::new("/etc/quorate/data"));
    assert_eq!(config.peer.as_ref().unwrap().ca_file, Path::new("/etc/quorate/../ca.pem"));
    assert_eq!(config.peer.as_ref().unwrap().advertise, "127.0.0.1:11884");
    assert_eq!(config.cluster.partitions, 8);
    assert_eq!(config.cluster.bootstrap[1].name, "n2");
    assert_eq!(config.limits.session_expiry_max, Duration::from_secs(172_800));
    assert_eq!(config.limits.queue_bytes_max, 1 << 30);
    assert_eq!(config.limits.overflow, Overflow::DropOldest);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.listeners[1].limits.connections_max, 10);
}

#[test]
fn every_error_is_reported_with_its_place() {
    check_errors(
        "[node]\nnmae = \"x\"\nzone = 3\n[limits]\nqueue_bytes_max = \"2XiB\"\ninflight_max = 0\n",
        &[
            (2, 1, "did you mean `name`?"),
            (3, 8, "`node.zone` is an integer"),
            (5, 19, "`XiB` is not a known unit"),
            (6, 16, "outside 1 to 65535"),
        ],
    );
}

#[test]
fn each_kind_of_error_is_found() {
    check_errors("[node]\nname = \"n1\nzone = 1\n", &[(2, 11, "TOML syntax")]);
    check_errors("[nod]\n", &[(1, 2, "did you mean `node`?")]);
    check_errors("node = 3\n", &[(1, 8, "a table is needed")]);
    check_errors("[node]\nname = \"N 1\"\n", &[(2, 8, "a-z")]);
    check_errors("[[listener]]\nkind = \"udp\"\nbind = \"127.0.0.1:1\"\n", &[(2, 8, "choose one of")]);
    check_errors("[[listener]]\nkind = \"tcp\"\n", &[(1, 1, "`listener[0].bind` is missing")]);
    check_errors("[[listener]]\nbind = \"localhost\"\n", &[(2, 8, "no address and port")]);
    check_errors("[[listener]]\nbind = \"0.0.0.0:1883\"\n", &[(2, 8, "insecure = true")]);
    check_errors("[admin]\nbind = \"10.0.0.1:9883\"\n", &[(2, 8, "openssl rand -hex 32")]);
    check_errors("[admin]\nhost_names = [\"a\", \"http://b\"]\n", &[(2, 20, "without scheme and port")]);
    check_errors(
        "[[listener]]\nbind = \"127.0.0.1:1\"\n[[listener]]\nbind = \"127.0.0.1:1\"\n",
        &[(4, 8, "two listeners")],
    );
    check_errors("[[listener]]\nbind = \"unix:\"\n", &[(2, 8, "has no name")]);
    check_errors(
        "[[listener]]\nbind = \"127.0.0.1:1\"\nsocket_mode = \"0600\"\n",
        &[(3, 15, "Unix sockets only")],
    );
    check_errors("[[listener]]\nbind = \"unix:a\"\nsocket_mode = \"0999\"\n", &[(3, 15, "octal")]);
    check_errors(
        "[[listener]]\nbind = \"unix:a\"\n[[listener]]\nbind = \"unix:a\"\n",
        &[(4, 8, "two listeners")],
    );
    check_errors("[limits]\nqueue_bytes_max = 5\n", &[(2, 19, "a size with a unit is needed")]);
    check_errors("[limits]\nsession_expiry_max = \"90\"\n", &[(2, 22, "not a known unit")]);
    check_errors("[log]\nformat = \"xml\"\n", &[(2, 10, "\"text\", \"json\"")]);
    check_errors("[log]\nlevel = \"=!=\"\n", &[(2, 9, "use error, warn")]);
    check_errors("[cluster]\npartitions = 0\n", &[(2, 14, "outside 1 to 1024")]);
    check_errors(
        "[cluster]\nbootstrap = [ { name = \"a\", peer = \"a:1\" } ]\n",
        &[(1, 1, "not in `cluster.bootstrap`")],
    );
}

#[test]
fn admin_listener_beyond_loopback_needs_a_token_or_consent() {
    for key in ["token_file = \"token\"", "insecure = true"] {
        let text = format!("[admin]\nbind = \"0.0.0.0:9883\"\n{key}\nhost_names = [\"N1.example\"]\n");
        let config = parse(Path::new("/etc/q.toml"), &text).unwrap();
        assert_eq!(config.admin.host_names, ["n1.example"]);
        let file = key.starts_with("token_file").then(|| PathBuf::from("/etc/token"));
        assert_eq!(config.admin.token_file, file);
    }
}

#[test]
fn listeners_have_names_of_their_own() {
    let listener = |port: u16, keys: &str| format!("[[listener]]\nbind = \"127.0.0.1:{port}\"\n{keys}");
    let text = [
        listener(1, ""),
        listener(2, "name = \"tcp-3\"\n"),
        listener(3, ""),
        listener(4, ""),
        listener(5, "kind = \"websocket\"\n"),
    ];
    let config = parse(Path::new("q.toml"), &text.concat()).unwrap();
    let names: Vec<_> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["tcp", "tcp-3", "tcp-2", "tcp-4", "websocket"]);
    let twice = [listener(1, "name = \"a\"\n"), listener(2, "name = \"a\"\n")];
    check_errors(&twice.concat(), &[(6, 8, "two listeners are named")]);
    check_errors(&listener(1, "name = \"A/b\"\n"), &[(3, 8, "a-z")]);
}

#[test]
fn traces_need_somewhere_to_go() {
    let text = "[telemetry]\notlp_endpoint = \"http://127.0.0.1:4318\"\nsample_ratio = 0.25\n";
    let telemetry = parse(Path::new("q.toml"), text).unwrap().telemetry;
    assert_eq!(telemetry.sample_ratio, 0.25);
    assert_eq!(telemetry.otlp_endpoint.unwrap().to_string(), "http://127.0.0.1:4318/v1/traces");
    check_errors("[telemetry]\nsample_ratio = 1\n", &[(2, 16, "say where traces go")]);
    check_errors("[telemetry]\nsample_ratio = 1.5\n", &[(2, 16, "from 0 to 1")]);
    check_errors("[telemetry]\nsample_ratio = \"x\"\n", &[(2, 16, "from 0 to 1")]);
    check_errors("[telemetry]\notlp_endpoint = \"https://a\"\n", &[(2, 17, "only plain HTTP")]);
}

#[test]
fn interval_of_sys_is_zero_or_not_too_short() {
    for (text, interval) in [("0s", Duration::ZERO), ("100ms", Duration::from_millis(100))] {
        let config = parse(Path::new("q.toml"), &format!("[sys]\ninterval = \"{text}\"\n")).unwrap();
        assert_eq!(config.sys.interval, interval);
    }
    check_errors("[sys]\ninterval = \"99ms\"\n", &[(2, 12, "choose at least 100ms")]);
    check_errors("[sys]\ninterval = \"2h\"\n", &[(2, 12, "outside")]);
}

#[test]
fn listener_with_everything_is_read() {
    let text = r#"
[[listener]]
kind = "websocket-tls"
bind = "0.0.0.0:8084"
cert_file = "n1.pem"
key_file = "n1.key"
client_ca_file = "ca.pem"
client_certificate = "optional"
tls_version_min = "1.2"
proxy_protocol = true
proxy_trusted = ["10.0.0.0/8", "::1"]
principal = "certificate"
connections_max = 10
handshakes_max = 11
handshakes_per_address_max = 12
connect_rate = 0
connect_rate_per_address = 13
handshake_timeout = "2s"
packet_bytes_max = "64KiB"
[[listener]]
bind = "unix:run/mqtt.sock"
socket_mode = "0600"
proxy_protocol = true
"#;
    let listeners = parse(Path::new("/etc/quorate/q.toml"), text).unwrap().listeners;
    assert_eq!(listeners[0].kind, ListenerKind::WebSocketTls);
    assert_eq!(
        listeners[0].tls,
        Some(TlsSettings {
            cert_file: "/etc/quorate/n1.pem".into(),
            key_file: "/etc/quorate/n1.key".into(),
            client_ca_file: Some("/etc/quorate/ca.pem".into()),
            client_certificate: ClientCertificate::Optional,
            version_min: TlsVersion::Tls12,
        })
    );
    assert_eq!(
        listeners[0].limits,
        ListenerLimits {
            connections_max: 10,
            handshakes_max: 11,
            handshakes_per_address_max: Some(12),
            connect_rate: 0,
            connect_rate_per_address: Some(13),
            handshake_timeout: Duration::from_secs(2),
            packet_bytes_max: Some(65_536),
        }
    );
    assert_eq!(listeners[0].proxy.as_ref().unwrap().trusted.len(), 2);
    assert_eq!(
        [listeners[0].principal, listeners[1].principal],
        [PrincipalSource::Certificate, PrincipalSource::UserName]
    );
    assert_eq!(listeners[1].bind, Bind::Path("/etc/quorate/run/mqtt.sock".into()));
    assert_eq!(listeners[1].bind.to_string(), "unix:/etc/quorate/run/mqtt.sock");
    assert_eq!(listeners[1].socket_mode, 0o600);
    assert!(listeners[1].proxy.is_some());
}

#[test]
fn listener_keys_that_do_not_fit_together_are_refused() {
    let tls = |keys: &str| format!("[[listener]]\nbind = \"0.0.0.0:1\"\nkind = \"tls\"\n{keys}");
    check_errors(&tls(""), &[(1, 1, "cert_file` is missing"), (1, 1, "key_file` is missing")]);
    let files = "cert_file = \"c\"\nkey_file = \"k\"\n";
    assert!(parse(Path::new("q.toml"), &tls(files)).is_ok(), "TLS needs no insecure = true");
    for keys in ["client_certificate = \"required\"\n", "client_ca_file = \"ca\"\n"] {
        check_errors(&tls(&format!("{files}{keys}")), &[(1, 1, "do not fit together")]);
    }
    let named = "principal = \"certificate\"\n";
    check_errors(&tls(&format!("{files}{named}")), &[(6, 13, "no client has a certificate here")]);
    let asking = "client_certificate = \"optional\"\nclient_ca_file = \"ca\"\n";
    assert!(parse(Path::new("q.toml"), &tls(&format!("{files}{asking}{named}"))).is_ok());
    check_errors(&tls(&format!("{files}tls_version_min = \"1.1\"\n")), &[(6, 19, "\"1.2\", \"1.3\"")]);
    let tcp = |keys: &str| format!("[[listener]]\nbind = \"127.0.0.1:1\"\n{keys}");
    check_errors(&tcp("cert_file = \"c\"\n"), &[(3, 13, "TLS only")]);
    check_errors(&tcp("proxy_protocol = true\n"), &[(1, 1, "do not fit together")]);
    check_errors(&tcp("proxy_trusted = [\"10.0.0.1\"]\n"), &[(3, 17, "do not fit together")]);
    check_errors(
        &tcp("proxy_protocol = true\nproxy_trusted = [\"10.0.0.1/8\", 5]\n"),
        &[(4, 18, "beyond the prefix"), (4, 32, "an array of strings")],
    );
    check_errors(&tcp("packet_bytes_max = \"2MiB\"\n"), &[(3, 20, "outside 1024 to 1048576")]);
    check_errors(&tcp("handshakes_max = 5000\n"), &[(3, 18, "outside 1 to 2048")]);
}

#[test]
fn relations_are_checked() {
    check_errors(
        "[limits]\npacket_bytes_max = \"1MiB\"\nqueue_bytes_max = \"2KiB\"\n",
        &[(2, 20, "above `limits.queue_bytes_max`")],
    );
    check_errors(
        "[storage]\nsegment_bytes = \"1GiB\"\nlog_bytes_target = \"1GiB\"\n",
        &[(3, 20, "four times")],
    );
    check_errors(
        "[cluster]\nbootstrap = [ { name = \"n1\", peer = \"a:1\" }, { name = \"n2\", peer = \"b:1\" } ]\n",
        &[(1, 1, "no complete [peer]")],
    );
    check_errors(
        "[peer]\nbind = \"127.0.0.1:1\"\n",
        &[(1, 1, "ca_file` is missing"), (1, 1, "cert_file` is missing"), (1, 1, "key_file` is missing")],
    );
    let twice = THREE
        .replace("name = \"n1\", peer = \"127.0.0.1:11883\"", "name = \"n2\", peer = \"127.0.0.1:11884\"");
    check_errors(&twice, &[(24, 67, "listed twice"), (24, 80, "listed twice")]);
}

#[test]
fn unreadable_file_is_named() {
    let errors = load(Path::new("/nonexistent/q.toml")).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().starts_with("/nonexistent/q.toml:0:0: the file cannot be read"));
}
