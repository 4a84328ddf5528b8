//! Mutual TLS between nodes: TLS 1.3 only, own certificate authority, the subject name is the node name.
//!
//! Owns: loading the files, the client and server side of the handshake, the check of the peer's name.
//! Does not: know what is spoken inside. Limits: the handshake is bounded by the caller's timeout.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::config::PeerSettings;

/// Both sides of mutual TLS, ready for use.
#[derive(Clone)]
pub struct PeerTls {
    client: TlsConnector,
    server: TlsAcceptor,
    expires_at_s: u64,
}

/// Why TLS could not be set up, or a peer was refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or holds nothing usable.
    #[error("read {what} from {file}: {source}")]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        file: PathBuf,
        /// Cause.
        source: rustls::pki_types::pem::Error,
    },
    /// The files do not fit together.
    #[error("set up mutual TLS between nodes: {0}")]
    Setup(String),
    /// The handshake failed: unknown authority, wrong name, no certificate.
    #[error("TLS handshake with a peer: {0}")]
    Handshake(#[source] std::io::Error),
    /// The certificate is for another node.
    #[error("the peer's certificate is not for node {0}")]
    Name(String),
}

impl PeerTls {
    /// Loads certificate authority, certificate chain and key.
    pub fn load(settings: &PeerSettings) -> Result<PeerTls, TlsError> {
        let authorities = certificates("certificate authorities", &settings.ca_file)?;
        let chain = certificates("a certificate chain", &settings.cert_file)?;
        let key = PrivateKeyDer::from_pem_file(&settings.key_file).map_err(|source| TlsError::File {
            what: "a private key",
            file: settings.key_file.clone(),
            source,
        })?;
        PeerTls::new(authorities, chain, key)
    }

    /// Sets up both sides from parsed certificates.
    pub fn new(
        authorities: Vec<CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<PeerTls, TlsError> {
        let setup = |error: &dyn std::fmt::Display| TlsError::Setup(error.to_string());
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|error| setup(&error))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| setup(&error))?;
        let versions = [&rustls::version::TLS13];
        let expires_at_s = earliest_expiry_s(&chain);
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|error| setup(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| setup(&error))?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| setup(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| setup(&error))?;
        Ok(PeerTls { client: Arc::new(client).into(), server: Arc::new(server).into(), expires_at_s })
    }

    /// When the first certificate of the chain expires, in seconds since 1970; 0 when that cannot be told.
    pub fn expires_at_s(&self) -> u64 {
        self.expires_at_s
    }

    /// Dials: the other side must present a certificate for `name`.
    pub async fn connect(&self, stream: TcpStream, name: &str) -> Result<TlsStream<TcpStream>, TlsError> {
        let server_name =
            ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
        let stream = self.client.connect(server_name, stream).await.map_err(TlsError::Handshake)?;
        Ok(TlsStream::Client(stream))
    }

    /// Accepts: the other side must present a certificate of our authority. Its name is checked with
    /// [`check_name`] once Hello has told it.
    pub async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, TlsError> {
        Ok(TlsStream::Server(self.server.accept(stream).await.map_err(TlsError::Handshake)?))
    }
}

/// When the first certificate of a chain expires, in seconds since 1970; 0 when none of them can be read.
pub fn earliest_expiry_s(chain: &[CertificateDer<'_>]) -> u64 {
    let expiry = |der: &CertificateDer<'_>| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        u64::try_from(certificate.validity().not_after.timestamp()).ok()
    };
    chain.iter().filter_map(expiry).min().unwrap_or(0)
}

/// Checks that the peer's certificate is for the node called `name`; an exact subject alternative name.
pub fn check_name(stream: &TlsStream<TcpStream>, name: &str) -> Result<(), TlsError> {
    let refused = || TlsError::Name(name.to_owned());
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| chain.first()).ok_or_else(refused)?;
    let parsed = ParsedCertificate::try_from(certificate).map_err(|_| refused())?;
    let server_name = ServerName::try_from(name).map_err(|_| refused())?;
    rustls::client::verify_server_name(&parsed, &server_name).map_err(|_| refused())
}

fn certificates(what: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File { what, file: file.to_owned(), source };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() {
        return Err(failed(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(found)
}
