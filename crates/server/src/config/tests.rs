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
    assert_eq!(config.listeners[1].connections_max, 10);
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
    check_errors("[admin]\nbind = \"10.0.0.1:9883\"\n", &[(2, 8, "insecure = true")]);
    check_errors(
        "[[listener]]\nbind = \"127.0.0.1:1\"\n[[listener]]\nbind = \"127.0.0.1:1\"\n",
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
fn interval_of_sys_is_zero_or_not_too_short() {
    for (text, interval) in [("0s", Duration::ZERO), ("100ms", Duration::from_millis(100))] {
        let config = parse(Path::new("q.toml"), &format!("[sys]\ninterval = \"{text}\"\n")).unwrap();
        assert_eq!(config.sys.interval, interval);
    }
    check_errors("[sys]\ninterval = \"99ms\"\n", &[(2, 12, "choose at least 100ms")]);
    check_errors("[sys]\ninterval = \"2h\"\n", &[(2, 12, "outside")]);
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
