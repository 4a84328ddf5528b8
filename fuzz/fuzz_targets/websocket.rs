//! Any bytes on a WebSocket listener, as the upgrade request or as frames after a good one: no panic, nothing is read that
//! was not sent, and the stream ends.
//!
//! Input: one byte (odd: a good request goes before), then what the client sends before it closes its side.
#![no_main]

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use quorate_server::net::socket::{Carrier, Metered, Socket};
use quorate_server::net::websocket::WebSocket;
use tokio::runtime::{Builder, Runtime};

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// Turns after which a stream that was closed by its client must have ended.
const TURNS_MAX: usize = 10_000;

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().enable_all().build().expect("a runtime"));
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, sent)) = input.split_first() else { return };
    RUNTIME.with_borrow(|runtime| runtime.block_on(serve(choice & 1 == 1, sent)));
});

async fn serve(upgraded: bool, sent: &[u8]) {
    let (mut client, server) = UnixStream::pair().expect("a pair of sockets");
    server.set_nonblocking(true).expect("a socket of ours");
    if upgraded {
        client.write_all(REQUEST).expect("it fits the socket");
    }
    client.write_all(sent).expect("it fits the socket");
    client.shutdown(Shutdown::Write).expect("a socket of ours");
    let server = tokio::net::UnixStream::from_std(server).expect("within a runtime");
    let carrier = Carrier::Plain(Metered::new(Socket::Unix(Box::new(server))));
    let Ok(mut socket) = WebSocket::accept(carrier, 1024).await else { return };
    socket.lift_allowance();
    let (mut read, mut output) = (BytesMut::new(), BytesMut::from(&b"answer"[..]));
    for turn in 0.. {
        assert!(turn < TURNS_MAX, "the stream ends with its client");
        let progress = poll_fn(|cx| socket.poll_turn(cx, 4096, &mut read, &mut output)).await;
        if progress.is_err() || progress.is_ok_and(|progress| progress.ended) {
            break;
        }
    }
    assert!(read.len() <= sent.len(), "no more is read than was sent");
    let _ = socket.finish(&mut output).await;
    drop(socket);
    // What was said to the client is there to be read, and no more than a few frames.
    let mut said = Vec::new();
    let _ = client.read_to_end(&mut said);
    assert!(said.len() < 16 * 1024);
}
