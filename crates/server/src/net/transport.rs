//! The byte stream of a client, over TCP or WebSocket.
//!
//! Owns: reading and writing without holding buffers while nothing happens. Does not: understand the bytes.
//! Invariants: every method may be cancelled without loss.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

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
    /// MQTT on TCP.
    Tcp(TcpStream),
    /// MQTT on WebSocket.
    WebSocket(Box<WebSocket>),
}

thread_local! {
    /// Where sockets are read into. Belongs to the thread, so that parked connections hold no read buffer; what was
    /// read is copied out at its exact size, so that a small message never keeps a large buffer alive.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CLIENT_READ_BYTES].into_boxed_slice());
}

impl Transport {
    /// Waits until something was read (only if `read`) or written (only if `output` has something), or the stream ended.
    pub async fn turn(
        &mut self,
        read: bool,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> io::Result<Progress> {
        match self {
            Transport::Tcp(stream) => turn_tcp(stream, read, input, output).await,
            Transport::WebSocket(socket) => poll_fn(|cx| socket.poll_turn(cx, read, input, output)).await,
        }
    }

    /// Writes what the socket takes at once.
    pub fn write_now(&mut self, output: &mut BytesMut) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => write_tcp(stream, output),
            Transport::WebSocket(socket) => socket.write_now(output),
        }
    }

    /// Writes all of `output` and ends the stream.
    pub async fn finish(&mut self, output: &mut BytesMut) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => {
                stream.write_all_buf(output).await?;
                stream.shutdown().await
            }
            Transport::WebSocket(socket) => socket.finish(output).await,
        }
    }
}

async fn turn_tcp(
    stream: &mut TcpStream,
    read: bool,
    input: &mut BytesMut,
    output: &mut BytesMut,
) -> io::Result<Progress> {
    let interest = match (read, !output.is_empty()) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (true, false) => Interest::READABLE,
        (false, true) => Interest::WRITABLE,
        (false, false) => return std::future::pending().await,
    };
    loop {
        let ready = stream.ready(interest).await?;
        let mut progress = Progress::default();
        if read && ready.is_readable() {
            let taken = SCRATCH.with_borrow_mut(|scratch| {
                let count = stream.try_read(scratch)?;
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
            progress.written = write_tcp(stream, output)?;
        }
        if progress != Progress::default() {
            return Ok(progress);
        }
    }
}

fn write_tcp(stream: &TcpStream, output: &mut BytesMut) -> io::Result<usize> {
    let mut written = 0;
    while !output.is_empty() {
        match stream.try_write(output) {
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
