//! The byte stream of a client: a socket as it is, TLS, or WebSocket on either.
//!
//! Owns: reading and writing without holding buffers while nothing happens. Does not: understand the bytes.
//! Invariants: every method may be cancelled without loss; a transport is as small as a TCP socket, whatever it is.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::socket::{Metered, Socket};
use super::websocket::WebSocket;
use crate::limits::CLIENT_READ_BYTES;

/// What one turn of a transport did.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub read: usize,
    /// Bytes written.
    pub written: usize,
    /// The client will send nothing more.
    pub ended: bool,
}

/// The socket of a client connection.
pub enum Transport {
    /// MQTT on a socket as it is.
    Plain(Socket),
    /// MQTT on TLS.
    Tls(Box<Tls>),
    /// MQTT on WebSocket.
    WebSocket(Box<WebSocket>),
}

/// A TLS stream that MQTT is spoken on.
pub struct Tls {
    stream: TlsStream<Metered>,
    /// Something was written that may not have left.
    flushing: bool,
}

thread_local! {
    /// Where sockets are read into. Belongs to the thread, so that parked connections hold no read buffer; what was
    /// read is copied out at its exact size, so that a small message never keeps a large buffer alive.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CLIENT_READ_BYTES].into_boxed_slice());
}

impl Transport {
    /// Waits until something was read (about `read` bytes at once, nothing for 0) or written (only if `output` has something), or the stream ended.
    pub async fn turn(
        &mut self,
        read: usize,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> io::Result<Progress> {
        match self {
            Transport::Plain(socket) => turn_plain(socket, read, input, output).await,
            Transport::Tls(tls) => poll_fn(|cx| tls.poll_turn(cx, read, input, output)).await,
            Transport::WebSocket(socket) => poll_fn(|cx| socket.poll_turn(cx, read, input, output)).await,
        }
    }

    /// Writes what the socket takes at once.
    pub fn write_now(&mut self, output: &mut BytesMut) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => write_plain(socket, output),
            Transport::Tls(tls) => tls.write_now(output),
            Transport::WebSocket(socket) => socket.write_now(output),
        }
    }

    /// Writes all of `output` and ends the stream.
    pub async fn finish(&mut self, output: &mut BytesMut) -> io::Result<()> {
        match self {
            Transport::Plain(socket) => {
                socket.write_all_buf(output).await?;
                socket.shutdown().await
            }
            Transport::Tls(tls) => {
                tls.stream.write_all_buf(output).await?;
                tls.stream.shutdown().await
            }
            Transport::WebSocket(socket) => socket.finish(output).await,
        }
    }

    /// The whole CONNECT has come: the client is read without an allowance from the next turn on.
    pub fn lift_allowance(&mut self) {
        match self {
            Transport::Plain(_) => (),
            Transport::Tls(tls) => tls.stream.get_mut().0.lift(),
            Transport::WebSocket(socket) => socket.lift_allowance(),
        }
    }
}

impl Tls {
    /// A stream after its handshake.
    pub fn new(stream: TlsStream<Metered>) -> Tls {
        Tls { stream, flushing: false }
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        read: usize,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Poll<io::Result<Progress>> {
        let mut progress = Progress { written: self.poll_write(cx, output)?, ..Progress::default() };
        while !progress.ended && progress.read < read {
            let left = read - progress.read;
            let polled = SCRATCH.with_borrow_mut(|scratch| {
                let mut part = ReadBuf::new(head(scratch, left));
                let polled = Pin::new(&mut self.stream).poll_read(cx, &mut part);
                input.extend_from_slice(part.filled());
                polled.map_ok(|()| part.filled().len())
            });
            match polled {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => progress.ended = true,
                Poll::Ready(Ok(count)) => progress.read += count,
                // Many clients go without saying so: the end of MQTT is DISCONNECT, not that of TLS.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    progress.ended = true
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        if progress == Progress::default() { Poll::Pending } else { Poll::Ready(Ok(progress)) }
    }

    /// Whoever calls this polls the stream again before waiting: nobody is woken by it.
    fn write_now(&mut self, output: &mut BytesMut) -> io::Result<usize> {
        self.poll_write(&mut Context::from_waker(Waker::noop()), output)
    }

    /// Hands over what TLS takes, and sees to it that it leaves.
    fn poll_write(&mut self, cx: &mut Context<'_>, output: &mut BytesMut) -> io::Result<usize> {
        let mut written = 0;
        while !output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, output) {
                Poll::Pending => return Ok(written),
                Poll::Ready(count) => {
                    let count = count?;
                    output.advance(count);
                    written += count;
                    self.flushing = true;
                }
            }
        }
        if self.flushing && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
            self.flushing = false;
        }
        Ok(written)
    }
}

/// So many bytes of it, or all.
fn head(scratch: &mut [u8], bytes: usize) -> &mut [u8] {
    let bytes = bytes.min(scratch.len());
    scratch.split_at_mut(bytes).0
}

async fn turn_plain(
    socket: &Socket,
    read: usize,
    input: &mut BytesMut,
    output: &mut BytesMut,
) -> io::Result<Progress> {
    let interest = match (read > 0, !output.is_empty()) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (true, false) => Interest::READABLE,
        (false, true) => Interest::WRITABLE,
        (false, false) => return std::future::pending().await,
    };
    loop {
        let ready = socket.ready(interest).await?;
        let mut progress = Progress::default();
        if read > 0 && ready.is_readable() {
            let taken = SCRATCH.with_borrow_mut(|scratch| {
                let scratch = head(scratch, read);
                let count = socket.try_read(scratch)?;
                input.extend_from_slice(scratch.get(..count).unwrap_or_default());
                Ok(count)
            });
            match taken {
                Ok(0) => progress.ended = true,
                Ok(count) => progress.read = count,
                Err(error) if would_block(&error) => (),
                Err(error) => return Err(error),
            }
        }
        if ready.is_writable() {
            progress.written = write_plain(socket, output)?;
        }
        if progress != Progress::default() {
            return Ok(progress);
        }
    }
}

fn write_plain(socket: &Socket, output: &mut BytesMut) -> io::Result<usize> {
    let mut written = 0;
    while !output.is_empty() {
        match socket.try_write(output) {
            Ok(count) => {
                output.advance(count);
                written += count;
            }
            Err(error) if would_block(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transport_costs_no_more_than_a_tcp_socket() {
        assert_eq!(size_of::<Transport>(), size_of::<tokio::net::TcpStream>());
    }
}
