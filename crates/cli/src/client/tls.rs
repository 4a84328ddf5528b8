//! TLS of the clients: whom they trust, and the certificate that they show.
//!
//! Owns: the flags and the files. Does not: skip a check; there is no way to trust everybody.
//! Invariants: without `--cafile` nothing is TLS: no authority is trusted that was not named.
//! Limits: CERTIFICATE_FILE_BYTES_MAX.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::limits::CERTIFICATE_FILE_BYTES_MAX;

/// Flags about TLS.
#[derive(Args, Debug, Clone, Default)]
pub struct TlsFlags {
    /// Speak TLS, and trust the authorities in this file (PEM)
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// Certificate to show to the broker (PEM)
    #[arg(long, value_name = "FILE", requires = "key", requires = "cafile")]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

/// TLS 1.2 or 1.3 as a client, ready for use.
#[derive(Clone)]
pub struct ClientTls(TlsConnector);

impl TlsFlags {
    /// Whether TLS is asked for.
    pub fn is_given(&self) -> bool {
        self.cafile.is_some()
    }

    /// Reads the files; None when no TLS is asked for.
    pub fn load(&self) -> anyhow::Result<Option<ClientTls>> {
        let Some(cafile) = &self.cafile else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for authority in certificates(cafile)? {
            roots.add(authority).with_context(|| format!("trust the authorities in {}", cafile.display()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("set up TLS")?
            .with_root_certificates(roots);
        let config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let text = read(key)?;
                let parsed = PrivateKeyDer::from_pem_slice(&text)
                    .with_context(|| format!("read a private key from {}", key.display()))?;
                builder
                    .with_client_auth_cert(certificates(cert)?, parsed)
                    .with_context(|| format!("use {} with {}", cert.display(), key.display()))?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Some(ClientTls(Arc::new(config).into())))
    }
}

impl ClientTls {
    /// Shakes hands with the broker at `HOST:PORT`; its certificate must be for HOST.
    pub async fn connect(&self, stream: TcpStream, address: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        self.0.connect(name, stream).await
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls")
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .with_context(|| format!("read certificates from {}", file.display()))?;
    if found.is_empty() {
        return Err(anyhow!("{} has no certificate in PEM", file.display()));
    }
    Ok(found)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let mut text = Vec::new();
    let read = opened.take(CERTIFICATE_FILE_BYTES_MAX + 1).read_to_end(&mut text);
    if read.with_context(|| format!("read {}", file.display()))? as u64 > CERTIFICATE_FILE_BYTES_MAX {
        return Err(anyhow!("{} is longer than {CERTIFICATE_FILE_BYTES_MAX} bytes", file.display()));
    }
    Ok(text)
}
