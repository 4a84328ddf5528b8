//! TLS of one listener for clients: its certificate, key and authorities, read again when the files change.
//!
//! Owns: reading the files, the settings of TLS, noticing a change. Does not: shake hands.
//! Invariants: new files count only when all of them were read and fit together; until then the last ones that did stay in
//! force, and what is wrong is told once. Connections keep what they began with.
//! Limits: `TLS_FILE_BYTES_MAX` for each file; `TLS_LOOK_EVERY`. Spec: TLS 1.3, and 1.2 with AEAD ciphers on demand.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::tls::earliest_expiry_s;
use crate::config::{ClientCertificate, TlsSettings, TlsVersion};
use crate::limits::TLS_FILE_BYTES_MAX;

/// Why the files of a listener cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenerTlsError {
    /// A file cannot be read.
    #[error("read {what} from {file}: {problem}")]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        file: PathBuf,
        /// Why not.
        problem: String,
    },
    /// Certificate and key are not of each other, or of a kind that is not spoken.
    #[error("use the certificate {cert_file} with the key {key_file}: {problem}")]
    Pair {
        /// The certificate chain.
        cert_file: PathBuf,
        /// The key.
        key_file: PathBuf,
        /// Why not.
        problem: String,
    },
    /// The authorities cannot be used.
    #[error("check certificates of clients by {file}: {problem}")]
    Authorities {
        /// The authorities.
        file: PathBuf,
        /// Why not.
        problem: String,
    },
}

/// What a look at the files came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// As before.
    Same,
    /// New files are in force.
    Replaced,
    /// New files cannot be used; the old ones stay.
    Kept(ListenerTlsError),
}

/// TLS of a listener.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    settings: TlsSettings,
    config: Arc<ServerConfig>,
    expires_at_s: u64,
    seen: Vec<Option<Stamp>>,
    failed: Option<ListenerTlsError>,
}

/// What shows that a file is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    bytes: u64,
    inode: (u64, u64),
}

impl ListenerTls {
    /// Reads the files for the first time.
    pub fn load(settings: &TlsSettings) -> Result<ListenerTls, ListenerTlsError> {
        // Before the files are read: a change meanwhile shows at the next look.
        let seen = stamps(settings);
        let (config, expires_at_s) = server_config(settings)?;
        Ok(ListenerTls { settings: settings.clone(), config, expires_at_s, seen, failed: None })
    }

    /// When the first certificate of the chain in force expires, in seconds since 1970; 0 when that cannot be told.
    pub fn expires_at_s(&self) -> u64 {
        self.expires_at_s
    }

    /// What the next connection gets.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Reads the files again if they have changed, or could not be used the last time.
    pub fn look(&mut self) -> Look {
        let now = stamps(&self.settings);
        if now == self.seen && self.failed.is_none() {
            return Look::Same;
        }
        self.seen = now;
        self.read_again()
    }

    fn read_again(&mut self) -> Look {
        match server_config(&self.settings) {
            Ok((config, expires_at_s)) => {
                self.config = config;
                self.expires_at_s = expires_at_s;
                self.failed = None;
                Look::Replaced
            }
            Err(error) if self.failed.as_ref() == Some(&error) => Look::Same,
            Err(error) => {
                self.failed = Some(error.clone());
                Look::Kept(error)
            }
        }
    }
}

fn stamps(settings: &TlsSettings) -> Vec<Option<Stamp>> {
    let files = [Some(&settings.cert_file), Some(&settings.key_file), settings.client_ca_file.as_ref()];
    files.into_iter().flatten().map(|file| stamp(file)).collect()
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    Some(Stamp {
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        bytes: metadata.len(),
        inode: (metadata.dev(), metadata.ino()),
    })
}

/// The settings of TLS, and when the chain expires.
fn server_config(settings: &TlsSettings) -> Result<(Arc<ServerConfig>, u64), ListenerTlsError> {
    let chain = certificates("a certificate chain", &settings.cert_file)?;
    let expires_at_s = earliest_expiry_s(&chain);
    let key_text = read("a private key", &settings.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&key_text).map_err(|error| ListenerTlsError::File {
        what: "a private key",
        file: settings.key_file.clone(),
        problem: describe(error),
    })?;
    let pair = |problem: String| ListenerTlsError::Pair {
        cert_file: settings.cert_file.clone(),
        key_file: settings.key_file.clone(),
        problem,
    };
    let versions: &[&rustls::SupportedProtocolVersion] = match settings.version_min {
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
        // The provider has no cipher of TLS 1.2 but ECDHE with AEAD.
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| pair(error.to_string()))?;
    let builder = match &settings.client_ca_file {
        Some(file) if settings.client_certificate != ClientCertificate::Off => {
            let failed = |problem: String| ListenerTlsError::Authorities { file: file.clone(), problem };
            let mut roots = RootCertStore::empty();
            for authority in certificates("certificate authorities", file)? {
                roots.add(authority).map_err(|error| failed(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match settings.client_certificate {
                ClientCertificate::Optional => verifier.allow_unauthenticated(),
                ClientCertificate::Off | ClientCertificate::Required => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| failed(error.to_string()))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let config = builder.with_single_cert(chain, key).map_err(|error| pair(error.to_string()))?;
    Ok((Arc::new(config), expires_at_s))
}

fn certificates(what: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, ListenerTlsError> {
    let failed = |problem: String| ListenerTlsError::File { what, file: file.to_owned(), problem };
    let text = read(what, file)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| failed(describe(error)))?;
    if found.is_empty() {
        return Err(failed("it has no certificate in PEM".to_owned()));
    }
    Ok(found)
}

fn describe(error: pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "it has none in PEM".to_owned(),
        error => error.to_string(),
    }
}

fn read(what: &'static str, file: &Path) -> Result<Vec<u8>, ListenerTlsError> {
    let failed = |problem: String| ListenerTlsError::File { what, file: file.to_owned(), problem };
    let opened = std::fs::File::open(file).map_err(|error| failed(error.to_string()))?;
    let mut text = Vec::new();
    opened.take(TLS_FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| failed(error.to_string()))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > TLS_FILE_BYTES_MAX {
        return Err(failed(format!("it is longer than {TLS_FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Authority, TestFolder};

    fn settings(folder: &TestFolder) -> TlsSettings {
        TlsSettings {
            cert_file: folder.path().join("cert.pem"),
            key_file: folder.path().join("key.pem"),
            client_ca_file: Some(folder.path().join("ca.pem")),
            client_certificate: ClientCertificate::Required,
            version_min: TlsVersion::Tls13,
        }
    }

    /// Gives all files another time: two writes within a tick of the file system's clock would look alike.
    fn touch(folder: &TestFolder) {
        static SECONDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let seconds = SECONDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let file = std::fs::File::options().append(true).open(entry.unwrap().path()).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        }
    }

    fn same(one: &Arc<ServerConfig>, other: &ListenerTls) -> bool {
        Arc::ptr_eq(one, &other.config())
    }

    #[test]
    fn files_are_read_again_when_they_change() {
        let folder = TestFolder::new();
        Authority::new().write(folder.path(), "n1");
        let mut tls = ListenerTls::load(&settings(&folder)).unwrap();
        let first = tls.config();
        assert_eq!(tls.look(), Look::Same);
        // The certificates of tests expire in the year 4096.
        assert!(tls.expires_at_s() > 60_000_000_000, "{}", tls.expires_at_s());
        Authority::new().write(folder.path(), "n1");
        touch(&folder);
        assert_eq!(tls.look(), Look::Replaced);
        assert!(!same(&first, &tls));
        assert_eq!(tls.look(), Look::Same);
    }

    #[test]
    fn broken_files_leave_the_old_ones_in_force_and_are_told_once() {
        let folder = TestFolder::new();
        let authority = Authority::new();
        authority.write(folder.path(), "n1");
        let mut tls = ListenerTls::load(&settings(&folder)).unwrap();
        let first = tls.config();
        let good = std::fs::read(folder.path().join("key.pem")).unwrap();
        for broken in [&b""[..], b"no PEM", &good[..good.len() / 2]] {
            std::fs::write(folder.path().join("key.pem"), broken).unwrap();
            touch(&folder);
            let look = tls.look();
            assert!(matches!(&look, Look::Kept(_)), "{look:?}");
            assert_eq!(tls.look(), Look::Same, "told once");
            assert!(same(&first, &tls));
            std::fs::write(folder.path().join("key.pem"), &good).unwrap();
            assert_eq!(tls.look(), Look::Replaced);
            tls.config = first.clone();
        }
        // A new certificate before its key.
        let other = TestFolder::new();
        authority.write(other.path(), "n1");
        std::fs::copy(other.path().join("cert.pem"), folder.path().join("cert.pem")).unwrap();
        touch(&folder);
        assert!(matches!(tls.look(), Look::Kept(ListenerTlsError::Pair { .. })));
        assert!(same(&first, &tls));
        std::fs::copy(other.path().join("key.pem"), folder.path().join("key.pem")).unwrap();
        assert_eq!(tls.look(), Look::Replaced);
        std::fs::remove_file(folder.path().join("ca.pem")).unwrap();
        let Look::Kept(error) = tls.look() else { panic!("used without its authorities") };
        assert!(error.to_string().contains("ca.pem"), "{error}");
    }

    #[test]
    fn files_that_could_not_be_used_are_read_again_although_they_look_the_same() {
        let folder = TestFolder::new();
        Authority::new().write(folder.path(), "n1");
        let mut tls = ListenerTls::load(&settings(&folder)).unwrap();
        let key = folder.path().join("key.pem");
        let good = std::fs::read(&key).unwrap();
        let write = |text: &[u8]| {
            std::fs::write(&key, text).unwrap();
            let file = std::fs::File::options().append(true).open(&key).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        };
        write(&vec![b'x'; good.len()]);
        assert!(matches!(tls.look(), Look::Kept(_)));
        // As a change of permissions, or one within a tick of the clock.
        write(&good);
        assert_eq!(tls.look(), Look::Replaced);
    }

    #[test]
    fn first_start_with_broken_files_says_what_is_wrong() {
        let folder = TestFolder::new();
        let message = || ListenerTls::load(&settings(&folder)).err().unwrap().to_string();
        assert!(message().starts_with("read a certificate chain from "), "{}", message());
        Authority::new().write(folder.path(), "n1");
        std::fs::write(folder.path().join("ca.pem"), "").unwrap();
        assert!(message().contains("certificate authorities"), "{}", message());
        std::fs::write(folder.path().join("cert.pem"), vec![b'x'; 2 * 1024 * 1024]).unwrap();
        assert!(message().contains("longer than"), "{}", message());
    }
}
