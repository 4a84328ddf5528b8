//! Sending spans to a collector: OTLP over HTTP, in batches.
//!
//! Owns: the receiving end of the queue, the connection to the collector. Does not: make spans, or keep what the collector
//! does not take.
//! Invariants: nothing waits for it; what cannot be sent is dropped and counted, and told once until it works again.
//! Limits: `SPANS_BATCH_MAX`, `SPANS_BATCH_WAIT`, `EXPORT_TIMEOUT`.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::otlp::{Span, request};
use crate::config::Endpoint;
use crate::limits::{EXPORT_TIMEOUT, SPANS_BATCH_MAX, SPANS_BATCH_WAIT};
use crate::metrics::Metrics;

/// Why a batch did not reach the collector.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the endpoint makes no request: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the collector answers {0}")]
    Status(hyper::StatusCode),
    #[error("no answer within {EXPORT_TIMEOUT:?}")]
    Timeout,
}

/// Takes spans from the queue and sends them.
pub struct Exporter {
    /// The queue.
    pub spans: mpsc::Receiver<Span>,
    /// The collector.
    pub endpoint: Endpoint,
    /// What is said of this process.
    pub resource: Vec<(&'static str, String)>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Exporter {
    /// Runs until it is told that no more spans come, or nobody is left who could make one; what waits then is sent.
    pub async fn run(mut self, mut no_more: watch::Receiver<bool>) {
        let mut told = false;
        loop {
            let first = tokio::select! {
                biased;
                first = self.spans.recv() => first,
                _ = no_more.wait_for(|told| *told) => self.spans.try_recv().ok(),
            };
            let Some(first) = first else { return };
            let batch = self.gather(first).await;
            let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            match self.send(&batch).await {
                Ok(()) => {
                    self.metrics.spans_exported.add(count);
                    told = false;
                }
                Err(error) => {
                    self.metrics.spans_not_exported.add(count);
                    if !told {
                        tracing::warn!(endpoint = %self.endpoint, %error, "spans cannot be sent and are dropped");
                        told = true;
                    }
                }
            }
        }
    }

    /// This span and those that come shortly after it.
    async fn gather(&mut self, first: Span) -> Vec<Span> {
        let mut batch = vec![first];
        let deadline = Instant::now() + SPANS_BATCH_WAIT;
        while batch.len() < SPANS_BATCH_MAX {
            match timeout_at(deadline, self.spans.recv()).await {
                Ok(Some(span)) => batch.push(span),
                Ok(None) | Err(_) => break,
            }
        }
        batch
    }

    async fn send(&self, batch: &[Span]) -> Result<(), ExportError> {
        timeout(EXPORT_TIMEOUT, self.post(request(&self.resource, batch)))
            .await
            .map_err(|_| ExportError::Timeout)?
    }

    /// A connection for each batch: once a second at most while there is little to tell.
    async fn post(&self, body: Vec<u8>) -> Result<(), ExportError> {
        let stream = TcpStream::connect((self.endpoint.host.as_str(), self.endpoint.port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post(self.endpoint.path.as_str())
            .header("host", self.endpoint.authority())
            .header("content-type", "application/x-protobuf")
            .header("connection", "close")
            .body(Full::new(Bytes::from(body)))?;
        // The connection ends when the sender goes, or the collector closes: either may come first.
        let answered = async move { Ok::<_, hyper::Error>(sender.send_request(request).await?.status()) };
        let (status, ended) = tokio::join!(answered, connection);
        let status = status?;
        if let Err(error) = ended {
            tracing::debug!(%error, "the connection to the collector broke behind the answer");
        }
        if status.is_success() { Ok(()) } else { Err(ExportError::Status(status)) }
    }
}
