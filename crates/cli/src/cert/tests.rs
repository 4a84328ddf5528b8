//! Certificates as they are used: in files, and in TLS between a listener, a node and clients.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::*;

fn ca(dir: &Path) -> Outcome {
    run(CertArgs { command: CertCommand::Ca { name: None, days: 10, place: Place { dir: dir.into() } } })
}

fn node(dir: &Path, name: &str, addresses: &[&str]) -> Outcome {
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    run(CertArgs {
        command: CertCommand::Node {
            name: name.into(),
            addresses,
            days: 10,
            place: Place { dir: dir.into() },
        },
    })
}

fn client(dir: &Path, name: &str) -> Outcome {
    run(CertArgs {
        command: CertCommand::Client { name: name.into(), days: 10, place: Place { dir: dir.into() } },
    })
}

fn pair(dir: &Path, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let (certificate, key) = files(dir, name);
    let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
    (chain, PrivateKeyDer::from_pem_file(key).unwrap())
}

/// Whether `client` and `server` of this folder shake hands when the client dials `name` and both check the other.
fn shake_hands(dir: &Path, client: &str, server: &str, name: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(files(dir, AUTHORITY).0).unwrap()).unwrap();
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
    let (chain, key) = pair(dir, server);
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    let (chain, key) = pair(dir, client);
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().map_err(|error| format!("client: {error}"))?;
    }
    Ok(())
}

#[test]
fn certificates_serve_peers_listeners_and_clients() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ca(dir).unwrap();
    node(dir, "n1", &["broker.example.net", "192.0.2.1", "2001:db8::1"]).unwrap();
    node(dir, "n2", &[]).unwrap();
    client(dir, "Pump_7.a").unwrap();
    for (client, server, name) in [
        ("n2", "n1", "n1"),
        ("n1", "n2", "n2"),
        ("Pump_7.a", "n1", "n1"),
        ("Pump_7.a", "n1", "broker.example.net"),
        ("Pump_7.a", "n1", "192.0.2.1"),
        ("Pump_7.a", "n1", "2001:db8::1"),
    ] {
        shake_hands(dir, client, server, name).unwrap_or_else(|error| panic!("{client} to {name}: {error}"));
    }
    for (client, server, name) in
        [("n2", "n1", "n2"), ("n2", "n1", "192.0.2.2"), ("n2", "Pump_7.a", "Pump_7.a"), ("n2", "ca", "n1")]
    {
        assert!(shake_hands(dir, client, server, name).is_err(), "{client} to {name}");
    }
}

#[test]
fn files_are_private_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ca(dir).unwrap();
    node(dir, "n1", &[]).unwrap();
    for (name, mode) in [("ca.pem", 0o644), ("ca.key", 0o600), ("n1.pem", 0o644), ("n1.key", 0o600)] {
        let permissions = fs::metadata(dir.join(name)).unwrap().permissions();
        // The process may allow less.
        assert_eq!(permissions.mode() & 0o777 & !mode, 0, "{name}");
    }
    let before = fs::read(dir.join("n1.key")).unwrap();
    for again in [ca(dir), node(dir, "n1", &[]), client(dir, "n1")] {
        let failure = again.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.error.unwrap().to_string().contains("exists already"));
    }
    assert_eq!(fs::read(dir.join("n1.key")).unwrap(), before);
    fs::remove_file(dir.join("n1.key")).unwrap();
    assert!(node(dir, "n1", &[]).is_err(), "a certificate without its key is not replaced either");
    assert!(!dir.join("n1.key").exists());
}

#[test]
fn wrong_names_addresses_and_authorities_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let failure = node(dir, "n1", &[]).unwrap_err();
    assert!(failure.hint.unwrap().contains("quorate cert ca"));
    ca(dir).unwrap();
    for name in ["", "ca", "N1", "-n", "n-", "a.b", "../x", &"x".repeat(64)] {
        assert_eq!(node(dir, name, &[]).unwrap_err().exit, Exit::Usage, "{name}");
    }
    for name in ["", "ca", ".x", "a/b", "a b", "a\n", &"x".repeat(65)] {
        assert_eq!(client(dir, name).unwrap_err().exit, Exit::Usage, "{name}");
    }
    for address in ["", "mqtt://host", "host:8883", "a b"] {
        assert_eq!(node(dir, "n1", &[address]).unwrap_err().exit, Exit::Usage, "{address}");
    }
    let other = tempfile::tempdir().unwrap();
    ca(other.path()).unwrap();
    fs::copy(other.path().join("ca.key"), dir.join("ca.key")).unwrap();
    let failure = node(dir, "n1", &[]).unwrap_err();
    assert_eq!(failure.exit, Exit::Failed);
    assert!(format!("{:#}", failure.error.unwrap()).contains("another certificate"));
}
