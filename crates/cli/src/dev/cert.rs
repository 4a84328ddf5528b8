//! Certificates of a development cluster: one CA and one certificate per node, made on this machine.
//!
//! Owns: what the certificates say and the mode of their files (0600).
//! Does not: renew, revoke, or serve production; the CA key stays in the directory.
//! Invariants: either every file exists or all are made anew, so that no node holds one of an old CA.
//! Limits: none expires, since a development directory has nobody to renew them.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Makes `ca.pem`, `ca.key`, and `NAME.pem`, `NAME.key` for each name, in `dir`, unless all exist already.
///
/// A node certificate is valid for its name and for the loopback addresses, as server and as client.
pub fn ensure(dir: &Path, names: &[String]) -> anyhow::Result<()> {
    let stems = std::iter::once("ca").chain(names.iter().map(String::as_str));
    if stems.clone().all(|stem| file(dir, stem, "pem").exists() && file(dir, stem, "key").exists()) {
        return Ok(());
    }
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let ca_key = KeyPair::generate().context("make the key of the CA")?;
    let ca_params = ca_params()?;
    let ca = ca_params.self_signed(&ca_key).context("sign the certificate of the CA")?;
    write_private(&file(dir, "ca", "pem"), &ca.pem())?;
    write_private(&file(dir, "ca", "key"), &ca_key.serialize_pem())?;
    let issuer = Issuer::new(ca_params, ca_key);
    for name in names {
        let key = KeyPair::generate().with_context(|| format!("make the key of {name}"))?;
        let certificate = node_params(name)?
            .signed_by(&key, &issuer)
            .with_context(|| format!("sign the certificate of {name}"))?;
        write_private(&file(dir, name, "pem"), &certificate.pem())?;
        write_private(&file(dir, name, "key"), &key.serialize_pem())?;
    }
    Ok(())
}

fn file(dir: &Path, stem: &str, extension: &str) -> PathBuf {
    dir.join(format!("{stem}.{extension}"))
}

fn ca_params() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("describe the CA")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "Quorate development CA");
    Ok(params)
}

fn node_params(name: &str) -> anyhow::Result<CertificateParams> {
    let names = vec![name.to_owned(), "localhost".to_owned()];
    let mut params = CertificateParams::new(names).with_context(|| format!("describe {name}"))?;
    for address in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])] {
        params.subject_alt_names.push(SanType::IpAddress(address));
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Writes a file that only its owner can read. An old one is replaced, so that its mode does not stay.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn certificates_are_private_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["n1".to_owned(), "n2".to_owned()];
        ensure(dir.path(), &names).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let (ca, n2) = (read("ca.pem"), read("n2.pem"));
        assert!(ca.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(read("n1.key").contains("PRIVATE KEY"));
        for entry in fs::read_dir(dir.path()).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        ensure(dir.path(), &names).unwrap();
        assert_eq!((read("ca.pem"), read("n2.pem")), (ca.clone(), n2), "an existing set is kept");
        fs::remove_file(dir.path().join("n2.key")).unwrap();
        ensure(dir.path(), &names).unwrap();
        assert_ne!(read("ca.pem"), ca, "an incomplete set is made anew as a whole");
    }
}
