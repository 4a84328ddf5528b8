//! A certificate authority of one's own: its certificate, and those that it signs for nodes and clients.
//!
//! Owns: what the certificates say, and their files: `NAME.pem` for everybody, `NAME.key` for its owner alone (0600).
//! Does not: renew, revoke, or choose a folder.
//! Invariants: a file that exists is never changed; a certificate without its key does not stay behind.
//! Limits: `CERTIFICATE_FILE_BYTES_MAX`.

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::limits::CERTIFICATE_FILE_BYTES_MAX;

/// File name of the authority without its extension. No node or client can have it: see [`Issued::write`].
pub const AUTHORITY: &str = "ca";

/// How long certificates may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Validity {
    /// Practically for ever.
    Unlimited,
    /// So many days from now.
    Days(u32),
}

/// Clocks differ: a certificate is valid from so long before it was made.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// Whom a certificate is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject<'a> {
    /// A node, as server and as client of other nodes, under its name and these host names and addresses.
    Node {
        /// Node name.
        name: &'a str,
        /// What clients and peers dial.
        addresses: &'a [String],
    },
    /// An MQTT client, by its common name.
    Client(&'a str),
}

/// An authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both in PEM.
pub struct Issued {
    certificate: String,
    key: String,
}

impl Authority {
    /// Makes an authority.
    pub fn generate(common_name: &str, validity: Validity) -> anyhow::Result<(Authority, Issued)> {
        let key = KeyPair::generate().context("make the key of the authority")?;
        let mut params = CertificateParams::new(Vec::new()).context("describe the authority")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, common_name);
        limit(&mut params, validity)?;
        let certificate = params.self_signed(&key).context("sign the certificate of the authority")?;
        let issued = Issued { certificate: certificate.pem(), key: key.serialize_pem() };
        Ok((Authority { issuer: Issuer::new(params, key) }, issued))
    }

    /// Reads `ca.pem` and `ca.key` in a folder.
    pub fn load(dir: &Path) -> anyhow::Result<Authority> {
        let (certificate_file, key_file) = files(dir, AUTHORITY);
        let (certificate, key) = (read(&certificate_file)?, read(&key_file)?);
        check_pair(&certificate, &key)
            .with_context(|| format!("use {} with {}", certificate_file.display(), key_file.display()))?;
        let key =
            KeyPair::from_pem(&key).with_context(|| format!("read the key in {}", key_file.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .with_context(|| format!("read the certificate in {}", certificate_file.display()))?;
        Ok(Authority { issuer })
    }

    /// Signs a certificate for a new key.
    pub fn issue(&self, subject: &Subject<'_>, validity: Validity) -> anyhow::Result<Issued> {
        let name = subject.name();
        let key = KeyPair::generate().with_context(|| format!("make the key of {name}"))?;
        let mut params = subject.params().with_context(|| format!("describe {name}"))?;
        limit(&mut params, validity)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("sign the certificate of {name}"))?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl Subject<'_> {
    fn name(&self) -> &str {
        match self {
            Subject::Node { name, .. } | Subject::Client(name) => name,
        }
    }

    fn params(&self) -> anyhow::Result<CertificateParams> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, self.name());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        if let Subject::Node { name, addresses } = self {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
            for address in addresses.iter().filter(|address| address != name) {
                params.subject_alt_names.push(match address.parse::<IpAddr>() {
                    Ok(address) => SanType::IpAddress(address),
                    Err(_) => SanType::DnsName(address.as_str().try_into()?),
                });
            }
        }
        Ok(params)
    }
}

impl Issued {
    /// Writes both files; neither may exist. Gives the paths of certificate and key.
    pub fn write(&self, dir: &Path, stem: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let (certificate, key) = files(dir, stem);
        write_new(&key, &self.key, 0o600)?;
        if let Err(error) = write_new(&certificate, &self.certificate, 0o644) {
            let _left_behind = fs::remove_file(&key);
            return Err(error);
        }
        Ok((certificate, key))
    }
}

/// Paths of certificate and key of a name.
pub fn files(dir: &Path, stem: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{stem}.pem")), dir.join(format!("{stem}.key")))
}

fn limit(params: &mut CertificateParams, validity: Validity) -> anyhow::Result<()> {
    let Validity::Days(days) = validity else { return Ok(()) };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("read the clock")?;
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + Duration::from_secs(u64::from(days) * 24 * 60 * 60);
    Ok(())
}

/// Certificate and key are of each other.
fn check_pair(certificate: &str, key: &str) -> anyhow::Result<()> {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).context("read the certificate")?];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("read the key")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::sign::CertifiedKey::from_der(chain, key, &provider)
        .context("the key is of another certificate")?;
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let opened = fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    let read = opened.take(CERTIFICATE_FILE_BYTES_MAX + 1).read_to_string(&mut text);
    if read.with_context(|| format!("read {}", file.display()))? as u64 > CERTIFICATE_FILE_BYTES_MAX {
        return Err(anyhow!("{} is longer than {CERTIFICATE_FILE_BYTES_MAX} bytes", file.display()));
    }
    Ok(text)
}

fn write_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
