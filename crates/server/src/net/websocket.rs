//! MQTT on WebSocket: binary frames as one byte stream.
//!
//! Owns: the handshake (path, sub-protocol, size of its head) and the frames. Does not: understand the bytes; frame
//! and packet borders are independent [MQTT-6.0.0-2].
//! Limits: `WEBSOCKET_HEAD_BYTES_MAX`, `WEBSOCKET_SLACK_BYTES` above the largest packet; no compression is offered.
//! Spec: MQTT 5, 6.0.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use futures_util::{Sink, SinkExt, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::transport::Progress;
use crate::limits::{WEBSOCKET_HEAD_BYTES_MAX, WEBSOCKET_READ_BUFFER_BYTES, WEBSOCKET_SLACK_BYTES};

/// Sub-protocols accepted, best first; the second is what MQTT 3.1 clients offer.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Paths accepted.
const PATHS: [&str; 2] = ["/mqtt", "/"];

/// A WebSocket connection of a client.
pub struct WebSocket {
    stream: WebSocketStream<HeadLimited>,
    flushing: bool,
}

impl WebSocket {
    /// Shakes hands. The caller bounds the time.
    pub async fn accept(stream: TcpStream, packet_bytes_max: usize) -> Result<WebSocket, io::Error> {
        let message_bytes_max = packet_bytes_max.saturating_add(WEBSOCKET_SLACK_BYTES);
        let config = WebSocketConfig::default()
            .read_buffer_size(WEBSOCKET_READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let stream = HeadLimited { inner: stream, left: Some(WEBSOCKET_HEAD_BYTES_MAX) };
        let mut stream = accept_hdr_async_with_config(stream, check_request, Some(config))
            .await
            .map_err(io::Error::other)?;
        stream.get_mut().left = None;
        Ok(WebSocket { stream, flushing: false })
    }

    /// See [`super::transport::Transport::turn`].
    pub fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        read: bool,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Poll<io::Result<Progress>> {
        let mut progress = Progress::default();
        if let Poll::Ready(written) = self.poll_write(cx, output)? {
            progress.written = written;
        }
        while read && !progress.ended && progress.read < crate::limits::CLIENT_READ_BYTES {
            match Pin::new(&mut self.stream).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => progress.ended = true,
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => {
                    input.extend_from_slice(&bytes);
                    progress.read += bytes.len();
                }
                Poll::Ready(Some(Ok(Message::Close(_)))) => progress.ended = true,
                // Answers to pings are queued by the library and leave with the next write or read.
                Poll::Ready(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => (),
                // [MQTT-6.0.0-1] data must be binary, or the connection is closed.
                Poll::Ready(Some(Ok(Message::Text(_)))) => {
                    self.refuse(cx, CloseCode::Unsupported);
                    progress.ended = true;
                }
                Poll::Ready(Some(Err(error))) => {
                    if let Some(code) = close_code(&error) {
                        self.refuse(cx, code);
                    }
                    progress.ended = true;
                }
            }
        }
        if progress == Progress::default() { Poll::Pending } else { Poll::Ready(Ok(progress)) }
    }

    /// See [`super::transport::Transport::write_now`].
    pub fn write_now(&mut self, output: &mut BytesMut) -> io::Result<usize> {
        match self.poll_write(&mut Context::from_waker(Waker::noop()), output) {
            Poll::Ready(written) => written,
            Poll::Pending => Ok(0),
        }
    }

    /// See [`super::transport::Transport::finish`].
    pub async fn finish(&mut self, output: &mut BytesMut) -> io::Result<()> {
        if !output.is_empty() {
            self.stream.send(Message::Binary(output.split().freeze())).await.map_err(io::Error::other)?;
        }
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        match self.stream.close(Some(normal)).await {
            Ok(()) | Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Hands output over to the library when it has nothing left to write, and flushes it.
    fn poll_write(&mut self, cx: &mut Context<'_>, output: &mut BytesMut) -> Poll<io::Result<usize>> {
        let mut written = 0;
        loop {
            if self.flushing {
                match Pin::new(&mut self.stream).poll_flush(cx) {
                    Poll::Pending if written > 0 => return Poll::Ready(Ok(written)),
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(flushed) => flushed.map_err(io::Error::other)?,
                }
                self.flushing = false;
            }
            if output.is_empty() {
                return if written > 0 { Poll::Ready(Ok(written)) } else { Poll::Pending };
            }
            ready!(Pin::new(&mut self.stream).poll_ready(cx)).map_err(io::Error::other)?;
            written += output.len();
            let message = Message::Binary(output.split().freeze());
            Pin::new(&mut self.stream).start_send(message).map_err(io::Error::other)?;
            self.flushing = true;
        }
    }

    /// Tells the client why the connection ends, as far as the socket takes it at once.
    fn refuse(&mut self, cx: &mut Context<'_>, code: CloseCode) {
        let close = Message::Close(Some(CloseFrame { code, reason: "".into() }));
        if Pin::new(&mut self.stream).poll_ready(cx).is_ready()
            && Pin::new(&mut self.stream).start_send(close).is_ok()
        {
            let _sent_or_not = Pin::new(&mut self.stream).poll_flush(cx);
        }
    }
}

fn close_code(error: &tungstenite::Error) -> Option<CloseCode> {
    match error {
        tungstenite::Error::Protocol(_) => Some(CloseCode::Protocol),
        tungstenite::Error::Utf8(_) => Some(CloseCode::Unsupported),
        tungstenite::Error::Capacity(_) => Some(CloseCode::Size),
        _ => None,
    }
}

/// [MQTT-6.0.0-3] the client offers `mqtt`; [MQTT-6.0.0-4] the server answers with it.
#[expect(clippy::result_large_err, reason = "the type is the library's")]
fn check_request(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status: StatusCode, text: &str| {
        let mut refusal = ErrorResponse::new(Some(text.to_owned()));
        *refusal.status_mut() = status;
        refusal
    };
    if !PATHS.contains(&request.uri().path()) {
        return Err(refuse(StatusCode::NOT_FOUND, "MQTT is served at /mqtt\n"));
    }
    let offered: Vec<&str> = request
        .headers()
        .get_all("Sec-WebSocket-Protocol")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let chosen = PROTOCOLS.into_iter().find(|protocol| offered.contains(protocol));
    let chosen =
        chosen.ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "offer the WebSocket sub-protocol mqtt\n"))?;
    response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(chosen));
    Ok(response)
}

/// A stream that fails once more than `left` bytes were read, until the limit is lifted after the handshake.
pub struct HeadLimited {
    inner: TcpStream,
    left: Option<usize>,
}

impl AsyncRead for HeadLimited {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
        if let Some(left) = &mut this.left {
            let read = buffer.filled().len().saturating_sub(before);
            *left = left
                .checked_sub(read)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the request head is too long"))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HeadLimited {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
