//! Certificates and keys of the node: readable, of each other, in force, trusted by the other nodes, for the right name.
//!
//! Owns: reading the files, asking the library that the nodes use whether it would take them. Does not: ask anybody else.
//! Invariants: the verdict on trust is that of the verifier which peers run, so that both cannot differ.
//! Limits: CERTIFICATE_FILE_BYTES_MAX.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_server::config::Config;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::finding::Finding;
use crate::limits::CERTIFICATE_FILE_BYTES_MAX;

/// From so long before its end on a certificate is mentioned.
const EXPIRES_SOON_S: u64 = 30 * 24 * 60 * 60;

/// A certificate chain with its key, and what is known of them.
#[derive(Clone, Debug)]
pub struct CertificateFacts {
    /// The section of the configuration that names them.
    pub owner: String,
    /// Certificate chain.
    pub cert_file: PathBuf,
    /// Private key.
    pub key_file: PathBuf,
    /// When the first certificate of the chain counts, or why it could not be read.
    pub chain: Result<Validity, Problem>,
    /// Whether the key is that of the certificate, or why it could not be read.
    pub key_matches: Result<bool, Problem>,
    /// Permissions of the key file.
    pub key_mode: Option<u32>,
    /// Authorities that belong to it.
    pub authorities: Option<AuthorityFacts>,
}

/// A file of authorities.
#[derive(Clone, Debug)]
pub struct AuthorityFacts {
    /// The file.
    pub file: PathBuf,
    /// The one that ends last, or why the file could not be read.
    pub last: Result<Validity, Problem>,
    /// What a peer with these authorities says to the chain; `None` when it could not be asked, or need not be.
    pub trust: Option<Trust>,
}

/// When a certificate counts, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// From.
    pub from_s: i64,
    /// To.
    pub to_s: i64,
}

/// Why a file gives nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// This user may not read it.
    Permission,
    /// Any other reason, as a sentence.
    Other(String),
}

/// What a peer says to the chain of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// It takes it.
    Good,
    /// No authority that it knows has signed it.
    UnknownAuthority,
    /// It is for another name.
    WrongName,
    /// It is not for a server and a client both.
    WrongPurpose,
    /// Its time, which has a finding of its own.
    Time,
    /// Another reason.
    Other(String),
}

/// Reads all certificates that the configuration names.
pub fn gather(config: &Config, now: Duration) -> Vec<CertificateFacts> {
    let mut facts = Vec::new();
    if let Some(peer) = &config.peer {
        let mut found = pair("[peer]".to_owned(), &peer.cert_file, &peer.key_file);
        let chain = certificates(&peer.cert_file).ok();
        let authorities = certificates(&peer.ca_file);
        let trust = chain.zip(authorities.as_ref().ok());
        let trust = trust.and_then(|(chain, roots)| trust_of(&chain, roots, &config.node.name, now));
        let last = authorities.and_then(|found| last_to_end(&found));
        found.authorities = Some(AuthorityFacts { file: peer.ca_file.clone(), last, trust });
        facts.push(found);
    }
    for (at, listener) in config.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let mut found = pair(format!("listener {}", at + 1), &tls.cert_file, &tls.key_file);
        found.authorities = tls.client_ca_file.as_ref().map(|file| AuthorityFacts {
            file: file.clone(),
            last: certificates(file).and_then(|found| last_to_end(&found)),
            trust: None,
        });
        facts.push(found);
    }
    facts
}

fn pair(owner: String, cert_file: &Path, key_file: &Path) -> CertificateFacts {
    let chain = certificates(cert_file);
    let key = read(key_file).and_then(|text| {
        PrivateKeyDer::from_pem_slice(&text)
            .map_err(|error| Problem::Other(format!("it holds no private key in PEM: {error}")))
    });
    let key_matches = match (&chain, key) {
        (_, Err(problem)) => Err(problem),
        // What is wrong with the certificate is said of the certificate.
        (Err(_), Ok(_)) => Ok(true),
        (Ok(chain), Ok(key)) => Ok(matches(chain.clone(), key)),
    };
    CertificateFacts {
        owner,
        cert_file: cert_file.to_owned(),
        key_file: key_file.to_owned(),
        chain: chain.and_then(|chain| match chain.first() {
            Some(first) => validity(first),
            None => Err(Problem::Other("it has no certificate".to_owned())),
        }),
        key_matches,
        key_mode: fs::metadata(key_file).ok().map(|metadata| metadata.mode()),
        authorities: None,
    }
}

fn matches(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> bool {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(chain, key, &provider).is_ok()
}

/// Asks both verifiers that a peer has: the one for whom it dials, and the one for who dials it.
fn trust_of(
    chain: &[CertificateDer<'static>],
    authorities: &[CertificateDer<'static>],
    name: &str,
    now: Duration,
) -> Option<Trust> {
    let (first, between) = chain.split_first()?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).ok()?;
    }
    let (roots, now) = (Arc::new(roots), UnixTime::since_unix_epoch(now));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let name = ServerName::try_from(name).ok()?;
    let server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build().ok()?;
    let client = WebPkiClientVerifier::builder_with_provider(roots, provider).build().ok()?;
    use rustls::client::danger::ServerCertVerifier;
    let verdict = server.verify_server_cert(first, between, &name, &[], now).map(|_| ());
    let verdict = verdict.and_then(|()| client.verify_client_cert(first, between, now).map(|_| ()));
    Some(verdict.map_or_else(|error| trust_by(&error), |()| Trust::Good))
}

/// The verdict in an error of the verifier.
pub fn trust_by(error: &rustls::Error) -> Trust {
    let rustls::Error::InvalidCertificate(error) = error else { return Trust::Other(error.to_string()) };
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Trust::Time,
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Trust::UnknownAuthority,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Trust::WrongName
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            Trust::WrongPurpose
        }
        other => Trust::Other(other.to_string()),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let text = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| Problem::Other(format!("it is no certificate in PEM: {error}")))?;
    if found.is_empty() {
        return Err(Problem::Other("it has no certificate in PEM".to_owned()));
    }
    Ok(found)
}

fn validity(certificate: &CertificateDer<'_>) -> Result<Validity, Problem> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| Problem::Other(format!("the certificate is not understood: {error}")))?;
    let validity = parsed.validity();
    Ok(Validity { from_s: validity.not_before.timestamp(), to_s: validity.not_after.timestamp() })
}

fn last_to_end(certificates: &[CertificateDer<'_>]) -> Result<Validity, Problem> {
    let all: Vec<Validity> = certificates.iter().map(validity).collect::<Result<_, _>>()?;
    let last = all.into_iter().max_by_key(|validity| validity.to_s);
    last.ok_or_else(|| Problem::Other("it has no certificate".to_owned()))
}

fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    let problem = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => Problem::Permission,
        io::ErrorKind::NotFound => Problem::Other("the file does not exist".to_owned()),
        _ => Problem::Other(format!("it cannot be read: {error}")),
    };
    let mut text = Vec::new();
    let opened = File::open(file).map_err(problem)?;
    let length = opened.take(CERTIFICATE_FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(problem)?;
    if length as u64 > CERTIFICATE_FILE_BYTES_MAX {
        return Err(Problem::Other(format!("it is longer than {CERTIFICATE_FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Judges the certificates. `node` is the name of this node, `now_s` seconds since 1970.
pub fn check(facts: &[CertificateFacts], node: &str, now_s: i64) -> Vec<Finding> {
    facts.iter().flat_map(|facts| check_pair(facts, node, now_s)).collect()
}

fn check_pair(facts: &CertificateFacts, node: &str, now_s: i64) -> Vec<Finding> {
    let (cert, key) = (facts.cert_file.display(), facts.key_file.display());
    let mut found = check_file(&facts.cert_file, &facts.owner, &facts.chain, now_s);
    match &facts.key_matches {
        Ok(true) => {}
        Ok(false) => found.push(Finding::error(
            "key_mismatch",
            &key,
            format!("the key is not that of the certificate {cert}"),
            "put the key beside the certificate that it was made for, or make both anew with quorate cert",
        )),
        Err(problem) => found.push(unreadable(&facts.key_file, &facts.owner, problem)),
    }
    if facts.key_mode.is_some_and(|mode| mode & 0o007 != 0) {
        found.push(Finding::warning(
            "key_file_exposed",
            &key,
            "every user of this machine can use the private key",
            format!("chmod o-rwx {key}"),
        ));
    }
    let Some(authorities) = &facts.authorities else { return found };
    found.extend(check_file(&authorities.file, &facts.owner, &authorities.last, now_s));
    found.extend(authorities.trust.as_ref().and_then(|trust| distrust(facts, authorities, trust, node)));
    found
}

fn distrust(
    facts: &CertificateFacts,
    authorities: &AuthorityFacts,
    trust: &Trust,
    node: &str,
) -> Option<Finding> {
    let ca = authorities.file.display();
    let again = format!("make it anew: quorate cert node {node} --dir DIR --address HOST");
    let (code, message, hint) = match trust {
        Trust::Good | Trust::Time => return None,
        Trust::UnknownAuthority => (
            "certificate_untrusted",
            format!("no authority in {ca} has signed it: the other nodes refuse this one"),
            "use the certificate and the authority that belong together".to_owned(),
        ),
        Trust::WrongName => (
            "certificate_wrong_name",
            format!("it is not for {node:?}, the name of this node: the other nodes refuse it"),
            again,
        ),
        Trust::WrongPurpose => (
            "certificate_wrong_purpose",
            "it must be for servers and for clients: nodes are both to each other".to_owned(),
            again,
        ),
        Trust::Other(problem) => {
            ("certificate_untrusted", format!("the other nodes refuse it: {problem}"), again)
        }
    };
    Some(Finding::error(code, facts.cert_file.display(), message, hint))
}

fn unreadable(file: &Path, owner: &str, problem: &Problem) -> Finding {
    match problem {
        Problem::Permission => Finding::warning(
            "certificate_unreadable",
            file.display(),
            format!("this user may not read it; {owner} names it"),
            "run the doctor as the user of the node; if it is that one, let it read the file",
        ),
        Problem::Other(problem) => Finding::error(
            "certificate_unreadable",
            file.display(),
            format!("{problem}; {owner} names it"),
            "correct the path, or make the file with quorate cert",
        ),
    }
}

fn check_file(file: &Path, owner: &str, read: &Result<Validity, Problem>, now_s: i64) -> Vec<Finding> {
    let validity = match read {
        Ok(validity) => validity,
        Err(problem) => return vec![unreadable(file, owner, problem)],
    };
    let place = file.display();
    let renew = "make a new one in time with quorate cert; listeners take it without a restart, [peer] at the next start";
    let left_s = validity.to_s.saturating_sub(now_s);
    let finding = if left_s < 0 {
        let days = left_s.unsigned_abs() / 86_400;
        Finding::error(
            "certificate_expired",
            place,
            format!("it ended {days} days ago; {owner} names it"),
            renew,
        )
    } else if validity.from_s > now_s {
        Finding::error(
            "certificate_not_yet_valid",
            place,
            format!("it does not count yet; {owner} names it"),
            "look at the clock of this machine and of the one that made it",
        )
    } else if left_s.unsigned_abs() < EXPIRES_SOON_S {
        let days = left_s / 86_400;
        Finding::warning(
            "certificate_expires_soon",
            place,
            format!("it ends in {days} days; {owner} names it"),
            renew,
        )
    } else {
        return Vec::new();
    };
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    const DAY: i64 = 86_400;
    const NOW: i64 = 20_000 * DAY;

    fn sound() -> CertificateFacts {
        let good = Ok(Validity { from_s: NOW - DAY, to_s: NOW + 365 * DAY });
        CertificateFacts {
            owner: "[peer]".into(),
            cert_file: "n1.pem".into(),
            key_file: "n1.key".into(),
            chain: good.clone(),
            key_matches: Ok(true),
            key_mode: Some(0o100_640),
            authorities: Some(AuthorityFacts { file: "ca.pem".into(), last: good, trust: Some(Trust::Good) }),
        }
    }

    fn check_one(change: impl FnOnce(&mut CertificateFacts), expected: &[(&str, Severity)]) {
        let mut facts = sound();
        change(&mut facts);
        let found = check(std::slice::from_ref(&facts), "n1", NOW);
        let found: Vec<_> = found.iter().map(|finding| (finding.code, finding.severity)).collect();
        assert_eq!(found, expected, "{facts:?}");
    }

    #[test]
    fn each_flaw_has_its_code() {
        use Severity::{Error, Warning};
        let trust =
            |facts: &mut CertificateFacts, trust| facts.authorities.as_mut().unwrap().trust = Some(trust);
        let to = |days: i64| Ok(Validity { from_s: NOW - DAY, to_s: NOW + days * DAY });
        check_one(|_| (), &[]);
        check_one(|facts| facts.authorities = None, &[]);
        check_one(|facts| facts.chain = to(-2), &[("certificate_expired", Error)]);
        check_one(|facts| facts.chain = to(29), &[("certificate_expires_soon", Warning)]);
        check_one(|facts| facts.chain = to(31), &[]);
        check_one(
            |facts| facts.chain = Ok(Validity { from_s: NOW + DAY, to_s: NOW + 90 * DAY }),
            &[("certificate_not_yet_valid", Error)],
        );
        check_one(
            |facts| facts.chain = Err(Problem::Other("gone".into())),
            &[("certificate_unreadable", Error)],
        );
        check_one(
            |facts| facts.key_matches = Err(Problem::Permission),
            &[("certificate_unreadable", Warning)],
        );
        check_one(|facts| facts.key_matches = Ok(false), &[("key_mismatch", Error)]);
        check_one(|facts| facts.key_mode = Some(0o100_644), &[("key_file_exposed", Warning)]);
        check_one(|facts| trust(facts, Trust::UnknownAuthority), &[("certificate_untrusted", Error)]);
        check_one(|facts| trust(facts, Trust::WrongName), &[("certificate_wrong_name", Error)]);
        check_one(|facts| trust(facts, Trust::WrongPurpose), &[("certificate_wrong_purpose", Error)]);
        check_one(
            |facts| facts.authorities.as_mut().unwrap().last = to(-1),
            &[("certificate_expired", Error)],
        );
    }
}
