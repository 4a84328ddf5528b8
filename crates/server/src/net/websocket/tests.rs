//! WebSocket connections: what is accepted, and frames as a stream of bytes.

use std::future::poll_fn;

use futures_util::StreamExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;
use crate::limits::CONNECT_READ_BYTES_MAX;
use crate::net::socket::{Metered, Socket};

fn carrier(stream: TcpStream) -> Carrier {
    let mut metered = Metered::new(Socket::Tcp(stream));
    metered.await_connect();
    Carrier::Plain(metered)
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

async fn connect(
    path: &str,
    protocol: Option<&str>,
) -> (tungstenite::Result<WebSocketStream<TcpStream>>, Result<WebSocket, UpgradeError>) {
    let (client, server) = sockets().await;
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    if let Some(protocol) = protocol {
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
    }
    let (client, server) = tokio::join!(
        tokio_tungstenite::client_async(request, client),
        WebSocket::accept(carrier(server), 1000)
    );
    (client.map(|(stream, _)| stream), server)
}

async fn read(socket: &mut WebSocket, input: &mut BytesMut) -> Progress {
    let mut output = BytesMut::new();
    poll_fn(|cx| socket.poll_turn(cx, crate::limits::CLIENT_READ_BYTES, input, &mut output)).await.unwrap()
}

#[tokio::test]
async fn binary_frames_are_one_byte_stream_both_ways() {
    let (client, server) = connect("/mqtt", Some("foo, mqtt")).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    for piece in ["ab", "c", "", "def"] {
        client.send(Message::Binary(piece.into())).await.unwrap();
    }
    let mut input = BytesMut::new();
    while input.len() < 6 {
        assert!(!read(&mut server, &mut input).await.ended);
    }
    assert_eq!(&input[..], b"abcdef");
    let mut output = BytesMut::from(&b"answer"[..]);
    assert_eq!(server.write_now(&mut output).unwrap(), 6);
    assert!(output.is_empty());
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary("answer".into()));
    let mut last = BytesMut::from(&b"bye"[..]);
    server.finish(&mut last).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary("bye".into()));
    assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
}

#[tokio::test]
async fn text_and_protocol_errors_close_with_their_code() {
    let (client, server) = connect("/", Some("mqtt")).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    client.send(Message::Text("text".into())).await.unwrap();
    assert!(read(&mut server, &mut BytesMut::new()).await.ended);
    let Some(Ok(Message::Close(Some(frame)))) = client.next().await else { panic!("no close frame") };
    assert_eq!(frame.code, CloseCode::Unsupported);

    let (client, server) = connect("/mqtt", Some("mqtt")).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    // A frame that is not masked.
    client.get_mut().write_all(&[0x82, 0x01, 0x00]).await.unwrap();
    assert!(read(&mut server, &mut BytesMut::new()).await.ended);
    let Some(Ok(Message::Close(Some(frame)))) = client.next().await else { panic!("no close frame") };
    assert_eq!(frame.code, CloseCode::Protocol);
}

#[tokio::test]
async fn message_above_the_limit_is_refused() {
    let (client, server) = connect("/mqtt", Some("mqtt")).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    server.lift_allowance();
    let large = vec![0u8; 1000 + WEBSOCKET_SLACK_BYTES + 1];
    let sending = tokio::spawn(async move {
        let _refused_meanwhile = client.send(Message::Binary(large.into())).await;
    });
    assert!(read(&mut server, &mut BytesMut::new()).await.ended);
    sending.abort();
}

/// Answer to a request, as text.
async fn answer(request: &str) -> String {
    let (mut client, server) = sockets().await;
    let (accepted, answer) = tokio::join!(WebSocket::accept(carrier(server), 1000), async {
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") && client.read(&mut byte).await.is_ok_and(|read| read > 0) {
            answer.push(byte[0]);
        }
        String::from_utf8(answer).unwrap()
    });
    assert_eq!(accepted.is_ok(), answer.starts_with("HTTP/1.1 101 "), "{answer}");
    answer
}

const GOOD: &str = "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                    Sec-WebSocket-Protocol: mqtt\r\n\r\n";

#[tokio::test]
async fn handshake_answers_every_request_with_its_status() {
    let long = format!("X: {}\r\n", "a".repeat(WEBSOCKET_HEAD_BYTES_MAX));
    for (from, to, status) in [
        ("", "", "101"),
        ("mqtt\r\n\r\n", "mqttv3.1\r\n\r\n", "101"),
        ("GET /mqtt", "GET /", "101"),
        ("GET /mqtt", "GET /other", "404"),
        ("GET /mqtt", "POST /mqtt", "400"),
        ("HTTP/1.1", "HTTP/1.0", "400"),
        ("Protocol: mqtt", "Protocol: chat", "400"),
        ("Sec-WebSocket-Protocol: mqtt\r\n", "", "400"),
        ("Version: 13", "Version: 8", "400"),
        ("Upgrade: websocket", "Upgrade: h2c", "400"),
        ("AAAA==", "AAAA", "400"),
        ("Host: x\r\n", &long, "400"),
        ("Host: x", "Host", "400"),
        (GOOD, "\x10\x0c\0\x04MQTT\x05\0\0\0\0\0", "400"),
    ] {
        let answer = answer(&GOOD.replacen(from, to, 1)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{from:?} to {to:?}: {answer}");
    }
    let extensions = GOOD.replace("Host: x", "Sec-WebSocket-Extensions: permessage-deflate");
    assert!(!answer(&extensions).await.contains("Extensions"), "compression is not accepted");
}

#[tokio::test]
async fn request_may_come_byte_by_byte() {
    for good in [GOOD.to_owned(), GOOD.replace("\r\n", "\n")] {
        let (mut client, server) = sockets().await;
        client.set_nodelay(true).unwrap();
        let sending = async {
            for byte in good.bytes() {
                client.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (accepted, ()) = tokio::join!(WebSocket::accept(carrier(server), 1000), sending);
        assert!(accepted.is_ok());
    }
}

#[tokio::test]
async fn frames_sent_right_behind_the_request_are_not_lost() {
    let (mut client, server) = sockets().await;
    let wire = [GOOD.as_bytes(), &[0x82, 0x82, 0, 0, 0, 0, b'o', b'k']].concat();
    client.write_all(&wire).await.unwrap();
    let mut server = WebSocket::accept(carrier(server), 1000).await.unwrap();
    let mut input = BytesMut::new();
    read(&mut server, &mut input).await;
    assert_eq!(&input[..], b"ok");
}

#[tokio::test]
async fn client_is_read_no_further_than_its_allowance_until_it_is_lifted() {
    let (client, server) = connect("/mqtt", Some("mqtt")).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    let sent = CONNECT_READ_BYTES_MAX * 2;
    let sending = tokio::spawn(async move {
        for _ in 0..sent / 1000 {
            client.send(Message::Binary(vec![7; 1000].into())).await.unwrap();
        }
        client
    });
    let mut input = BytesMut::new();
    while input.len() < CONNECT_READ_BYTES_MAX - 3000 {
        read(&mut server, &mut input).await;
    }
    // The rest of the allowance is less than a frame: whatever comes, nothing more is read.
    while server.stream.get_mut().metered().left() > 0 {
        let mut output = BytesMut::new();
        poll_fn(|cx| {
            let _reads_or_waits =
                server.poll_turn(cx, crate::limits::CLIENT_READ_BYTES, &mut input, &mut output);
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
    }
    assert!(input.len() <= CONNECT_READ_BYTES_MAX);
    server.lift_allowance();
    while input.len() < sent / 1000 * 1000 {
        read(&mut server, &mut input).await;
    }
    drop(sending.await.unwrap());
}
