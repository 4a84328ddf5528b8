//! The stream under everything that a client says: TCP or a Unix socket, metered until the client has said who it is.
//!
//! Owns: reading and writing without a buffer, the allowance of bytes. Does not: understand the bytes.
//! Invariants: a client that has not sent its whole CONNECT is read no further than its allowance.
//! Limits: `TLS_HANDSHAKE_BYTES_MAX`, `CONNECT_READ_BYTES_MAX`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::limits::{CONNECT_READ_BYTES_MAX, TLS_HANDSHAKE_BYTES_MAX};

/// A connected socket.
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket, in a box: what tells the two apart would cost each TCP connection eight bytes more.
    Unix(Box<UnixStream>),
}

impl Socket {
    /// Waits until it can be read or written.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Socket::Tcp(stream) => stream.ready(interest).await,
            Socket::Unix(stream) => stream.ready(interest).await,
        }
    }

    /// Reads what is there.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_read(buffer),
            Socket::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// Writes what it takes.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_write(bytes),
            Socket::Unix(stream) => stream.try_write(bytes),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Socket::Tcp(stream) => stream.as_raw_fd(),
            Socket::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// What may still be read from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowance {
    /// This much during the TLS handshake; then reading fails.
    Handshake(usize),
    /// This much until the whole CONNECT has come; then reading waits, and the deadline of CONNECT goes on.
    Connect(usize),
    /// The client has said who it is.
    Unlimited,
}

/// A socket with an allowance.
pub struct Metered {
    socket: Socket,
    allowance: Allowance,
}

impl Metered {
    /// A socket whose handshake begins.
    pub fn new(socket: Socket) -> Metered {
        Metered { socket, allowance: Allowance::Handshake(TLS_HANDSHAKE_BYTES_MAX) }
    }

    /// The handshake is done and CONNECT is awaited.
    pub fn await_connect(&mut self) {
        self.allowance = Allowance::Connect(CONNECT_READ_BYTES_MAX);
    }

    /// Bytes that may still be read.
    #[cfg(test)]
    pub fn left(&self) -> usize {
        match self.allowance {
            Allowance::Handshake(left) | Allowance::Connect(left) => left,
            Allowance::Unlimited => usize::MAX,
        }
    }

    /// CONNECT has come. Who calls this reads again afterwards, as nobody is woken.
    pub fn lift(&mut self) {
        self.allowance = Allowance::Unlimited;
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let socket = Pin::new(&mut this.socket);
        let left = match &mut this.allowance {
            Allowance::Unlimited => return socket.poll_read(cx, buffer),
            Allowance::Handshake(0) => {
                let error = "the client sends too much before the handshake is done";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            Allowance::Connect(0) => return Poll::Pending,
            Allowance::Handshake(left) | Allowance::Connect(left) => left,
        };
        let room = buffer.remaining().min(*left);
        let free = buffer.initialize_unfilled_to(room);
        let mut part = ReadBuf::new(free);
        ready!(socket.poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        *left = left.saturating_sub(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

/// What WebSocket is spoken on.
pub enum Carrier {
    /// The socket itself.
    Plain(Metered),
    /// TLS, in a box: WebSocket without it is to stay as small as it is.
    Tls(Box<TlsStream<Metered>>),
}

impl Carrier {
    /// The metered socket.
    pub fn metered(&mut self) -> &mut Metered {
        match self {
            Carrier::Plain(socket) => socket,
            Carrier::Tls(stream) => stream.get_mut().0,
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Carrier::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Carrier::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Carrier::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Carrier::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Carrier::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Carrier::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Carrier::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Carrier::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
