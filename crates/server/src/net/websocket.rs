//! MQTT on WebSocket: binary frames as one byte stream.
//!
//! Owns: the handshake (path, sub-protocol, size of its head) and the frames. Does not: understand the bytes; frame
//! and packet borders are independent [MQTT-6.0.0-2].
//! Invariants: a refused request gets an answer that says why.
//! Limits: `WEBSOCKET_HEAD_BYTES_MAX`, `WEBSOCKET_SLACK_BYTES` above the largest packet; no compression is offered.
//! Spec: MQTT 5, 6.0; RFC 6455.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use futures_util::{Sink, SinkExt, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response, create_response, write_response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::socket::Carrier;
use super::transport::Progress;
use crate::limits::{WEBSOCKET_HEAD_BYTES_MAX, WEBSOCKET_READ_BUFFER_BYTES, WEBSOCKET_SLACK_BYTES};

/// Sub-protocols accepted, best first; the second is what MQTT 3.1 clients offer.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Paths accepted.
const PATHS: [&str; 2] = ["/mqtt", "/"];

/// A WebSocket connection of a client.
pub struct WebSocket {
    stream: WebSocketStream<Carrier>,
    flushing: bool,
}

/// Why a client gets no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The connection broke or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The request was answered with an error.
    #[error("the request was refused with {status}: {problem}")]
    Refused {
        /// Status of the answer.
        status: StatusCode,
        /// What it said.
        problem: &'static str,
    },
}

impl WebSocket {
    /// Shakes hands. The caller bounds the time, and what may be read after the handshake.
    pub async fn accept(mut stream: Carrier, packet_bytes_max: usize) -> Result<WebSocket, UpgradeError> {
        let message_bytes_max = packet_bytes_max.saturating_add(WEBSOCKET_SLACK_BYTES);
        let config = WebSocketConfig::default()
            .read_buffer_size(WEBSOCKET_READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        match read_request(&mut stream).await {
            Ok((response, rest)) => {
                let mut answer = Vec::new();
                write_response(&mut answer, &response).map_err(io::Error::other)?;
                stream.write_all(&answer).await?;
                stream.flush().await?;
                let stream =
                    WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(config)).await;
                Ok(WebSocket { stream, flushing: false })
            }
            Err(UpgradeError::Refused { status, problem }) => {
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: \
                     close\r\n\r\n{problem}\n",
                    problem.len() + 1
                );
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await?;
                Err(UpgradeError::Refused { status, problem })
            }
            Err(error) => Err(error),
        }
    }

    /// What is underneath gets the whole allowance of CONNECT, whatever the handshake took.
    pub fn renew_allowance(&mut self) {
        self.stream.get_mut().metered().await_connect();
    }

    /// What is underneath may be read without an allowance.
    pub fn lift_allowance(&mut self) {
        self.stream.get_mut().metered().lift();
    }

    /// See [`super::transport::Transport::turn`].
    pub fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        read: usize,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Poll<io::Result<Progress>> {
        let mut progress = Progress::default();
        if let Poll::Ready(written) = self.poll_write(cx, output)? {
            progress.written = written;
        }
        while !progress.ended && progress.read < read {
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

/// Reads a request; gives the answer and what came after the request.
async fn read_request(stream: &mut Carrier) -> Result<(Response, Vec<u8>), UpgradeError> {
    let refused = |status, problem| UpgradeError::Refused { status, problem };
    let mut head = Vec::new();
    loop {
        let begun = head.len();
        let room = WEBSOCKET_HEAD_BYTES_MAX.saturating_sub(begun);
        let mut part = (&mut *stream).take(u64::try_from(room).unwrap_or(0));
        if part.read_buf(&mut head).await? == 0 {
            return Err(match room {
                0 => refused(StatusCode::BAD_REQUEST, "the head of the request is above 8 KiB"),
                _ => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
            });
        }
        // The first piece shows what is no HTTP; from then on only a whole head is looked at: one that comes byte by byte
        // costs no more than another.
        if begun > 0 && !ends_within(&head, begun) {
            continue;
        }
        match Request::try_parse(&head) {
            Ok(None) => (),
            Ok(Some((length, request))) => {
                let response = create_response(&request).map_err(|_| {
                    refused(StatusCode::BAD_REQUEST, "this is no upgrade to WebSocket version 13")
                })?;
                return Ok((check_request(&request, response)?, head.split_off(length)));
            }
            Err(_) => return Err(refused(StatusCode::BAD_REQUEST, "this is no request for a WebSocket")),
        }
    }
}

/// Whether an empty line ends in what came after the first `begun` bytes.
fn ends_within(head: &[u8], begun: usize) -> bool {
    let new = head.get(begun.saturating_sub(2)..).unwrap_or_default();
    new.windows(2).any(|end| end == b"\n\n") || new.windows(3).any(|end| end == b"\n\r\n")
}

/// [MQTT-6.0.0-3] the client offers `mqtt`; [MQTT-6.0.0-4] the server answers with it.
fn check_request(request: &Request, mut response: Response) -> Result<Response, UpgradeError> {
    let refused = |status, problem| Err(UpgradeError::Refused { status, problem });
    if !PATHS.contains(&request.uri().path()) {
        return refused(StatusCode::NOT_FOUND, "MQTT is served at /mqtt");
    }
    let offered: Vec<&str> = request
        .headers()
        .get_all("Sec-WebSocket-Protocol")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let Some(chosen) = PROTOCOLS.into_iter().find(|protocol| offered.contains(protocol)) else {
        return refused(StatusCode::BAD_REQUEST, "offer the WebSocket sub-protocol mqtt");
    };
    response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(chosen));
    Ok(response)
}

#[cfg(test)]
mod tests;
