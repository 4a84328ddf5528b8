//! WebSocket connections: what is accepted, and frames as a stream of bytes.

use std::future::poll_fn;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

async fn connect(
    path: &str,
    protocol: Option<&str>,
) -> (tungstenite::Result<WebSocketStream<TcpStream>>, Result<WebSocket, io::Error>) {
    let (client, server) = sockets().await;
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    if let Some(protocol) = protocol {
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
    }
    let (client, server) =
        tokio::join!(tokio_tungstenite::client_async(request, client), WebSocket::accept(server, 1000));
    (client.map(|(stream, _)| stream), server)
}

async fn read(socket: &mut WebSocket, input: &mut BytesMut) -> Progress {
    let mut output = BytesMut::new();
    poll_fn(|cx| socket.poll_turn(cx, true, input, &mut output)).await.unwrap()
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
    let large = vec![0u8; 1000 + WEBSOCKET_SLACK_BYTES + 1];
    let sending = tokio::spawn(async move {
        let _refused_meanwhile = client.send(Message::Binary(large.into())).await;
    });
    assert!(read(&mut server, &mut BytesMut::new()).await.ended);
    sending.abort();
}

#[tokio::test]
async fn handshake_refuses_wrong_path_protocol_and_long_heads() {
    for (path, protocol) in [("/other", Some("mqtt")), ("/mqtt", None), ("/mqtt", Some("chat"))] {
        let (client, server) = connect(path, protocol).await;
        assert!(client.is_err() && server.is_err(), "{path} {protocol:?}");
    }
    let (mut client, server) = sockets().await;
    let head = format!("GET /mqtt HTTP/1.1\r\nHost: x\r\nX: {}\r\n", "a".repeat(WEBSOCKET_HEAD_BYTES_MAX));
    let (accepted, _) = tokio::join!(WebSocket::accept(server, 1000), client.write_all(head.as_bytes()));
    assert!(accepted.is_err());
    let mut rest = Vec::new();
    let _reset_or_end = client.read_to_end(&mut rest).await;
}
