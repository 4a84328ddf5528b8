//! Chapter 6: WebSocket as the transport.
//!
//! Spec: MQTT 5 and 3.1.1, chapter 6; RFC 6455.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::case::{Case, Cx, both};
use crate::decode::{Packet, decode, packet_length};
use crate::packet::{PUBACK, Publish, ack, subscribe};

/// The cases.
pub const CASES: &[Case] = &[
    both("mqtt_is_selected", &["6.0.0-4"], &["6.0.0-4"], mqtt_is_selected),
    both("mqtt_is_not_selected_when_not_offered", &["6.0.0-3"], &["6.0.0-3"], mqtt_is_not_offered),
    both("packets_and_frames_do_not_align", &["6.0.0-2"], &["6.0.0-2"], frames_do_not_align),
    both("broker_sends_binary_frames", &["6.0.0-1"], &["6.0.0-1"], binary_frames),
    both("text_frame_closes", &["6.0.0-1"], &["6.0.0-1"], text_frame_closes),
    both("websocket_and_tcp_clients_meet", &[], &[], transports_meet),
];

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// A WebSocket client by hand.
struct WebSocket {
    stream: TcpStream,
    received: Vec<u8>,
    /// Bytes of MQTT.
    mqtt: Vec<u8>,
    deadline: Instant,
    /// The head of the answer.
    head: String,
}

impl WebSocket {
    fn open(cx: &Cx, protocols: Option<&str>) -> Result<WebSocket> {
        let port = cx.websocket_ports[cx.next_place()];
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        let protocols =
            protocols.map(|names| format!("Sec-WebSocket-Protocol: {names}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{protocols}\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut this = WebSocket {
            stream,
            received: Vec::new(),
            mqtt: Vec::new(),
            deadline: cx.deadline,
            head: String::new(),
        };
        let end = loop {
            if let Some(end) = this.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(this.fill()?, "closed within the handshake");
        };
        this.head = String::from_utf8(this.received.drain(..end).collect())?;
        Ok(this)
    }

    fn connect(cx: &Cx, name: &str) -> Result<WebSocket> {
        let mut this = WebSocket::open(cx, Some("mqtt"))?;
        this.frame(BINARY, true, &cx.hello(name).encode())?;
        let connack = this.packet(cx)?;
        ensure!(matches!(&connack, Packet::Connack(connack) if connack.code == 0), "{connack:?}");
        Ok(this)
    }

    /// Reads what is there; `false` at the end.
    fn fill(&mut self) -> Result<bool> {
        let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(count) => {
                self.received.extend(&chunk[..count]);
                Ok(count > 0)
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error).context("read from the WebSocket"),
        }
    }

    /// Sends a frame, masked as a client must.
    fn frame(&mut self, opcode: u8, last: bool, payload: &[u8]) -> Result<()> {
        let mut bytes = vec![u8::from(last) << 7 | opcode];
        match u8::try_from(payload.len()) {
            Ok(length) if length < 126 => bytes.push(0x80 | length),
            _ => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(payload.len())?.to_be_bytes());
            }
        }
        let mask = [0x12, 0x34, 0x56, 0x78];
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        match self.stream.write_all(&bytes) {
            // That it is closed is for the next read to find.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The next frame of data or CLOSE; `None` at the end.
    fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some((opcode, payload)) = self.take_frame()? {
                if opcode >= PING {
                    continue;
                }
                return Ok(Some((opcode, payload)));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let [first, second, ..] = self.received[..] else { return Ok(None) };
        ensure!(second & 0x80 == 0, "a server masks nothing");
        let (start, length) = match second {
            126 if self.received.len() >= 4 => {
                (4, usize::from(u16::from_be_bytes([self.received[2], self.received[3]])))
            }
            126 => return Ok(None),
            127 => anyhow::bail!("a frame larger than these cases expect"),
            length => (2, usize::from(length)),
        };
        if self.received.len() < start + length {
            return Ok(None);
        }
        let payload = self.received[start..start + length].to_vec();
        self.received.drain(..start + length);
        Ok(Some((first & 0x0f, payload)))
    }

    /// The next packet; frames that are not binary are an error.
    fn packet(&mut self, cx: &Cx) -> Result<Packet> {
        loop {
            if let Some((start, length)) = packet_length(&self.mqtt)?
                && self.mqtt.len() >= start + length
            {
                let bytes: Vec<u8> = self.mqtt.drain(..start + length).collect();
                return decode(cx.version, bytes[0], &bytes[start..]);
            }
            let (opcode, payload) = self.next()?.context("the WebSocket was closed")?;
            ensure!(opcode == BINARY || opcode == 0, "a frame with opcode {opcode}");
            self.mqtt.extend(payload);
        }
    }
}

fn selected(head: &str) -> Option<String> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("sec-websocket-protocol:"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn mqtt_is_selected(cx: &Cx) -> Result<()> {
    for offered in ["mqtt", "mqtt, other", "other,mqtt", "a, b, mqtt, c"] {
        let mut socket = WebSocket::open(cx, Some(offered))?;
        ensure!(socket.head.starts_with("HTTP/1.1 101"), "{offered}: {}", socket.head);
        ensure!(selected(&socket.head).as_deref() == Some("mqtt"), "{offered}: {}", socket.head);
        ensure!(
            socket.head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "the answer to the key: {}",
            socket.head
        );
        socket.frame(BINARY, true, &cx.hello("client").encode())?;
        socket.packet(cx)?;
    }
    Ok(())
}

fn mqtt_is_not_offered(cx: &Cx) -> Result<()> {
    for offered in [None, Some("chat"), Some("mqttx")] {
        let socket = WebSocket::open(cx, offered)?;
        // Refused, or accepted without a name that was not offered.
        ensure!(selected(&socket.head).is_none(), "{offered:?}: {}", socket.head);
    }
    Ok(())
}

fn frames_do_not_align(cx: &Cx) -> Result<()> {
    let mut socket = WebSocket::open(cx, Some("mqtt"))?;
    let topic = cx.topic("t");
    // CONNECT byte by byte.
    for byte in cx.hello("client").encode() {
        socket.frame(BINARY, true, &[byte])?;
    }
    let connack = socket.packet(cx)?;
    ensure!(matches!(&connack, Packet::Connack(connack) if connack.code == 0), "{connack:?}");
    // Three packets in one message of three frames, cut within packets; an empty frame between.
    let bytes = [
        subscribe(cx.version, 1, &[], &[(&topic, 0)]),
        vec![0xc0, 0],
        Publish::new(&topic, "x").encode(cx.version),
    ]
    .concat();
    socket.frame(BINARY, false, &bytes[..5])?;
    socket.frame(0, false, &[])?;
    socket.frame(0, false, &bytes[5..12])?;
    socket.frame(0, true, &bytes[12..])?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match socket.packet(cx)? {
            Packet::Suback(1, ..) => "suback",
            Packet::Pingresp => "pingresp",
            Packet::Publish(message) if message.payload == b"x" => "publish",
            other => anyhow::bail!("{other:?}"),
        });
    }
    seen.sort_unstable();
    ensure!(seen == ["pingresp", "publish", "suback"], "{seen:?}");
    Ok(())
}

fn binary_frames(cx: &Cx) -> Result<()> {
    // `packet` takes no other frame. Many packets, some large.
    let mut socket = WebSocket::connect(cx, "client")?;
    let topic = cx.topic("t");
    socket.frame(BINARY, true, &subscribe(cx.version, 1, &[], &[(&topic, 1)]))?;
    ensure!(matches!(socket.packet(cx)?, Packet::Suback(1, ..)), "SUBACK");
    let mut publisher = cx.connect("pub")?;
    for bytes in [0, 10, 200, 3000] {
        publisher.publish_new(&topic, vec![7; bytes], 1)?;
        let Packet::Publish(message) = socket.packet(cx)? else { anyhow::bail!("PUBLISH expected") };
        ensure!(message.payload == vec![7; bytes], "{message:?}");
        socket.frame(BINARY, true, &ack(PUBACK, message.id))?;
    }
    Ok(())
}

fn text_frame_closes(cx: &Cx) -> Result<()> {
    let mut socket = WebSocket::connect(cx, "client")?;
    socket.frame(TEXT, true, b"\xc0\x80".map(|byte| byte & 0x7f).as_slice())?;
    loop {
        match socket.next()? {
            None => break,
            Some((CLOSE, _)) => {}
            // 5.0 may say why.
            Some((BINARY, bytes)) => ensure!(bytes.first() == Some(&0xe0), "{bytes:02x?}"),
            other => anyhow::bail!("{other:?}"),
        }
    }
    // As the first frame, too.
    let mut socket = WebSocket::open(cx, Some("mqtt"))?;
    socket.frame(TEXT, true, b"hello")?;
    while let Some((opcode, bytes)) = socket.next()? {
        ensure!(opcode == CLOSE, "{opcode}: {bytes:02x?}");
    }
    Ok(())
}

fn transports_meet(cx: &Cx) -> Result<()> {
    let mut socket = WebSocket::connect(cx, "socket")?;
    let mut tcp = cx.connect("tcp")?;
    tcp.subscribe(&cx.topic("a"), 1)?;
    socket.frame(BINARY, true, &Publish::new(&cx.topic("a"), "x").qos(1, 1).encode(cx.version))?;
    ensure!(matches!(socket.packet(cx)?, Packet::Ack(PUBACK, 1, ..)), "PUBACK");
    tcp.take_this(&cx.topic("a"), "x")?;
    // A takeover goes from one transport to the other.
    let _newer = cx.connect("socket")?;
    loop {
        match socket.next()? {
            None => return Ok(()),
            Some((CLOSE, _)) => {}
            Some((BINARY, bytes)) if cx.is_v5() && bytes == [0xe0, 1, 0x8e] => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
}
