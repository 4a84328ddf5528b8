//! What the bytes of a connection go through: TCP as it is, or TLS.
//!
//! Owns: reading and writing without waiting. Does not: keep what was read or is to be written.
//! Invariants: what was written to TLS is flushed before it counts as sent.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connected stream.
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS, in a box: idle connections without it stay as small as they are.
    Tls(Box<Tls>),
}

/// A TLS stream.
pub struct Tls {
    stream: TlsStream<TcpStream>,
    /// Something was written that may not have left.
    flushing: bool,
}

impl Stream {
    /// TLS after its handshake.
    pub fn tls(stream: TlsStream<TcpStream>) -> Stream {
        Stream::Tls(Box::new(Tls { stream, flushing: false }))
    }

    /// All that was written has been handed to the operating system.
    pub fn is_flushed(&self) -> bool {
        match self {
            Stream::Plain(_) => true,
            Stream::Tls(tls) => !tls.flushing,
        }
    }

    /// Writes what it can of `outgoing`; true when all of it has been handed to the operating system.
    pub fn poll_write(&mut self, context: &mut Context<'_>, outgoing: &mut BytesMut) -> io::Result<bool> {
        match self {
            Stream::Plain(stream) => {
                while !outgoing.is_empty() {
                    match stream.poll_write_ready(context) {
                        Poll::Pending => return Ok(false),
                        Poll::Ready(ready) => ready?,
                    }
                    match stream.try_write(outgoing) {
                        Ok(written) => outgoing.advance(written),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Stream::Tls(tls) => {
                while !outgoing.is_empty() {
                    match Pin::new(&mut tls.stream).poll_write(context, outgoing) {
                        Poll::Pending => return Ok(false),
                        Poll::Ready(written) => outgoing.advance(written?),
                    }
                    tls.flushing = true;
                }
                if tls.flushing {
                    match Pin::new(&mut tls.stream).poll_flush(context) {
                        Poll::Pending => return Ok(false),
                        Poll::Ready(flushed) => flushed?,
                    }
                    tls.flushing = false;
                }
            }
        }
        Ok(true)
    }

    /// Reads into the room that `incoming` has; 0 at the end.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        incoming: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(stream) => loop {
                match stream.poll_read_ready(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(ready) => ready?,
                }
                match stream.try_read_buf(incoming) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read),
                }
            },
            // The future keeps nothing: a new one each time loses nothing.
            Stream::Tls(tls) => pin!(tls.stream.read_buf(incoming)).poll(context),
        }
    }

    /// Whether the broker has closed the connection, without waiting.
    pub fn is_broken(&mut self) -> bool {
        let mut buffer = [0; 64];
        let read = match self {
            Stream::Plain(stream) => stream.try_read(&mut buffer),
            Stream::Tls(tls) => {
                let mut part = ReadBuf::new(&mut buffer);
                let mut context = Context::from_waker(Waker::noop());
                match Pin::new(&mut tls.stream).poll_read(&mut context, &mut part) {
                    Poll::Pending => return false,
                    Poll::Ready(read) => read.map(|()| part.filled().len()),
                }
            }
        };
        match read {
            Ok(read) => read == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}
