//! Listeners of the real binary: certificates that it makes itself, TLS, a Unix socket, signals.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use quorate_tests::{Serve, wait_for};

const CLIENT: &str = "--cafile tls/ca.pem --cert tls/pump-7.pem --key tls/pump-7.key -h localhost";

fn serve_with_certificates(test: &str) -> Serve {
    let serve = Serve::new(test).unwrap();
    for arguments in
        ["cert ca --dir tls", "cert node n1 --dir tls", "cert client pump-7 --dir tls", "cert ca --dir other"]
    {
        let output = serve.run(arguments).unwrap();
        assert!(output.status.success(), "{arguments}: {output:?}");
        let paths = String::from_utf8(output.stdout).unwrap();
        assert_eq!(paths.lines().filter(|path| serve.dir().join(path).exists()).count(), 2, "{paths}");
    }
    serve
}

fn tls_listener(port: u16) -> String {
    format!(
        "[[listener]]\nkind = \"tls\"\nbind = \"127.0.0.1:{port}\"\ncert_file = \"tls/n1.pem\"\n\
         key_file = \"tls/n1.key\"\nclient_certificate = \"required\"\nclient_ca_file = \"tls/ca.pem\"\n"
    )
}

#[test]
fn certificates_made_by_the_program_serve_its_clients_over_tls() {
    let mut serve = serve_with_certificates("tls");
    let port = serve.port;
    serve.start(&tls_listener(port)).unwrap();
    let subscriber =
        serve.spawn(&format!("sub {CLIENT} -p {port} -t a/# -q 1 -C 2 -W 60 -i sub -c")).unwrap();
    let published = |message: &str| {
        let arguments = format!("pub {CLIENT} -p {port} -t a/b -q 1 -r -m {message}");
        serve.run(&arguments).unwrap().status.success()
    };
    assert!(published("one"));
    let refused =
        serve.run(&format!("pub --cafile tls/ca.pem -h localhost -p {port} -t a/b -m no -q 1")).unwrap();
    assert_eq!(refused.status.code(), Some(1), "a client without a certificate: {refused:?}");
    let strange = CLIENT.replace("tls/ca.pem", "other/ca.pem");
    let strange = serve.run(&format!("pub {strange} -p {port} -t a/b -m no -q 1")).unwrap();
    let said = String::from_utf8_lossy(&strange.stderr);
    assert!(said.contains("invalid peer certificate"), "a client that trusts another authority: {said}");

    // New certificates while the subscriber is connected, then a broken key: neither breaks anything.
    for file in ["tls/n1.pem", "tls/n1.key"] {
        std::fs::remove_file(serve.dir().join(file)).unwrap();
    }
    assert!(serve.run("cert node n1 --dir tls").unwrap().status.success());
    serve.signal("HUP").unwrap();
    wait_for("new certificates", || {
        serve.log().unwrap().contains("new certificates are in force").then_some(())
    })
    .unwrap();
    std::fs::write(serve.dir().join("tls/n1.key"), "broken").unwrap();
    serve.signal("HUP").unwrap();
    let kept = "the old certificates stay in force";
    wait_for("the broken key to be noticed", || serve.log().unwrap().contains(kept).then_some(())).unwrap();
    // The retained message comes first when the subscriber was late: either way there are two.
    assert!(published("two"));
    assert!(published("three"));
    let output = subscriber.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 2);
    let log = serve.log().unwrap();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    serve.signal("TERM").unwrap();
    assert_eq!(serve.wait().unwrap().code(), Some(0));

    let failed = serve.start(&tls_listener(port)).unwrap_err();
    assert_eq!(serve.wait().unwrap().code(), Some(69), "{failed:#}");
}

#[test]
fn unix_socket_survives_kill_9_and_goes_with_a_clean_stop() {
    let mut serve = Serve::new("unix").unwrap();
    let listener = "[[listener]]\nbind = \"unix:mqtt.sock\"\nsocket_mode = \"0600\"\n";
    let socket = serve.dir().join("mqtt.sock");
    serve.start(listener).unwrap();
    serve.signal("KILL").unwrap();
    serve.wait().unwrap();
    assert!(socket.exists(), "a killed process leaves its socket behind");
    serve.start(listener).unwrap();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0]);
    serve.signal("TERM").unwrap();
    assert_eq!(serve.wait().unwrap().code(), Some(0));
    assert!(!socket.exists());
}
