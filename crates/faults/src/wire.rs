//! A client connection made by hand: the packets that the clients of a run need, of MQTT 3.1.1 and 5.
//!
//! Owns: their bytes, the socket and its deadlines. Does not: use the codec of the broker; keep any session state.
//! Invariants: no call waits longer than `IO_WAIT_MAX`. Limits: properties that are received are skipped.
//! Spec: MQTT 3.1.1 and 5, chapter 3.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt::set_socket_linger;

/// The longest that a connect, a CONNACK or a write may take. A client that waits longer tries another node.
const IO_WAIT_MAX: Duration = Duration::from_secs(3);

/// A read looks for so long, then lets its client do something else.
const READ_WAIT: Duration = Duration::from_millis(5);

/// Receive Maximum of every MQTT 5 client of a run. MQTT 3.1.1 has none: there the node's limit counts.
pub const RECEIVE_MAX: u16 = 64;

/// Version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// 3.1.1.
    V3,
    /// 5.
    V5,
}

/// Packets that only name another by its packet identifier; the values are those of the fixed header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ack {
    /// PUBACK.
    Puback = 0x40,
    /// PUBREC.
    Pubrec = 0x50,
    /// PUBREL.
    Pubrel = 0x62,
    /// PUBCOMP.
    Pubcomp = 0x70,
}

/// A received packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    /// CONNACK: Session Present and the reason or return code.
    Connack(bool, u8),
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP: packet identifier and reason code, 0 for 3.1.1.
    Ack(Ack, u16, u8),
    /// SUBACK with one reason code.
    Suback(u8),
    /// UNSUBACK.
    Unsuback,
    /// PINGRESP.
    Pong,
    /// DISCONNECT with its reason code.
    Disconnect(u8),
}

/// A PUBLISH in either direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publish {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS.
    pub qos: u8,
    /// Packet identifier; 0 with QoS 0.
    pub packet_id: u16,
    /// DUP.
    pub dup: bool,
    /// RETAIN.
    pub retain: bool,
}

/// What a CONNECT says.
#[derive(Clone, Debug)]
pub struct Connect<'a> {
    /// Version of the protocol.
    pub version: Version,
    /// Client identifier.
    pub client_id: &'a str,
    /// Clean Start or Clean Session.
    pub clean: bool,
    /// Session Expiry Interval in seconds; MQTT 5 only.
    pub expiry_s: u32,
    /// Keep Alive in seconds.
    pub keep_alive_s: u16,
    /// Will message.
    pub will: Option<Will>,
}

impl<'a> Connect<'a> {
    /// A session that, unless it is `clean`, outlives the connection by an hour or, with 3.1.1, until the node's limit.
    pub fn new(version: Version, client_id: &'a str, clean: bool) -> Connect<'a> {
        // The clients of a run send PINGREQ far more often than in 30 s.
        Connect {
            version,
            client_id,
            clean,
            expiry_s: if clean { 0 } else { 3600 },
            keep_alive_s: 30,
            will: None,
        }
    }
}

/// A will message with QoS 2, not retained.
#[derive(Clone, Debug)]
pub struct Will {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Will Delay Interval in seconds; MQTT 5 only.
    pub delay_s: u32,
}

/// A connection after its CONNACK.
pub struct Link {
    stream: TcpStream,
    version: Version,
    received: Vec<u8>,
}

impl Link {
    /// As [`Link::open`], with what [`Connect::new`] says.
    ///
    /// # Errors
    /// When the node does not answer in time, or refuses.
    pub fn connect(
        address: SocketAddr,
        version: Version,
        client_id: &str,
        clean: bool,
    ) -> Result<(Link, bool)> {
        Link::open(address, &Connect::new(version, client_id, clean))
    }

    /// Connects and waits for CONNACK; gives Session Present with it.
    ///
    /// # Errors
    /// When the node does not answer in time, or refuses.
    pub fn open(address: SocketAddr, connect: &Connect<'_>) -> Result<(Link, bool)> {
        let mut link = Link::begin(address, connect)?;
        let present = link.connack()?;
        Ok((link, present))
    }

    /// Sends CONNECT and does not wait for CONNACK.
    ///
    /// # Errors
    /// When there is no connection.
    pub fn begin(address: SocketAddr, connect: &Connect<'_>) -> Result<Link> {
        let stream = TcpStream::connect_timeout(&address, IO_WAIT_MAX).context("connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_WAIT))?;
        stream.set_write_timeout(Some(IO_WAIT_MAX))?;
        let mut link = Link { stream, version: connect.version, received: Vec::new() };
        link.send(&connect_packet(connect))?;
        Ok(link)
    }

    /// The connection breaks: the node gets a reset, and no port of this machine stays in use after it, as one would for a minute otherwise.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn break_off(self) -> Result<()> {
        set_socket_linger(&self.stream, Some(Duration::ZERO)).context("have a connection end with a reset")
    }

    /// Waits for CONNACK; gives Session Present.
    ///
    /// # Errors
    /// When the node does not answer in time, or refuses.
    pub fn connack(&mut self) -> Result<bool> {
        let begin = Instant::now();
        loop {
            match self.receive()? {
                Some(Packet::Connack(present, 0)) => return Ok(present),
                Some(Packet::Connack(_, code)) => bail!("refused with {code:#04x}"),
                Some(other) => bail!("{other:?} before CONNACK"),
                None => ensure!(begin.elapsed() < IO_WAIT_MAX, "no CONNACK"),
            }
        }
    }

    /// Sends DISCONNECT; with MQTT 5 it ends the session as well when `ends_session`.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn disconnect(&mut self, ends_session: bool) -> Result<()> {
        let body: &[u8] = match (self.version, ends_session) {
            (Version::V3, _) | (Version::V5, false) => &[],
            (Version::V5, true) => &[0, 5, 0x11, 0, 0, 0, 0],
        };
        self.send(&packet(0xe0, body))
    }

    /// Sends PUBLISH.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn publish(&mut self, publish: &Publish) -> Result<()> {
        self.publish_with(publish, self.no_properties())
    }

    /// Sends PUBLISH with a Message Expiry Interval in seconds: MQTT 5.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn publish_expiring(&mut self, publish: &Publish, expiry_s: u32) -> Result<()> {
        let [e1, e2, e3, e4] = expiry_s.to_be_bytes();
        self.publish_with(publish, &[5, 2, e1, e2, e3, e4])
    }

    fn publish_with(&mut self, publish: &Publish, properties: &[u8]) -> Result<()> {
        let flags = u8::from(publish.dup) << 3 | publish.qos << 1 | u8::from(publish.retain);
        let mut body = text(&publish.topic);
        if publish.qos > 0 {
            body.extend(publish.packet_id.to_be_bytes());
        }
        body.extend(properties);
        body.extend(&publish.payload);
        self.send(&packet(0x30 | flags, &body))
    }

    /// Sends PUBACK, PUBREC, PUBREL or PUBCOMP with success.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn acknowledge(&mut self, ack: Ack, packet_id: u16) -> Result<()> {
        self.send(&packet(ack as u8, &packet_id.to_be_bytes()))
    }

    /// Sends SUBSCRIBE for one filter.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> Result<()> {
        let mut body = 1_u16.to_be_bytes().to_vec();
        body.extend(self.no_properties());
        body.extend(text(filter));
        body.push(qos);
        self.send(&packet(0x82, &body))
    }

    /// Sends UNSUBSCRIBE for one filter.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn unsubscribe(&mut self, filter: &str) -> Result<()> {
        let mut body = 2_u16.to_be_bytes().to_vec();
        body.extend(self.no_properties());
        body.extend(text(filter));
        self.send(&packet(0xa2, &body))
    }

    /// Sends PINGREQ.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn ping(&mut self) -> Result<()> {
        self.send(&packet(0xc0, &[]))
    }

    /// The next packet; `None` when none has come yet.
    ///
    /// # Errors
    /// When the connection ended, or what came is no packet.
    pub fn receive(&mut self) -> Result<Option<Packet>> {
        loop {
            if let Some((first, body)) = self.take_packet()? {
                return Ok(Some(self.decode(first, &body)?));
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("closed by the node"),
                Ok(count) => self.received.extend(chunk.get(..count).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read"),
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("write")
    }

    fn no_properties(&self) -> &'static [u8] {
        match self.version {
            Version::V3 => &[],
            Version::V5 => &[0],
        }
    }

    fn take_packet(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let Some((&first, rest)) = self.received.split_first() else { return Ok(None) };
        let Some((length, used)) = variable(rest)? else { return Ok(None) };
        let begin = 1 + used;
        let Some(body) = self.received.get(begin..begin + length) else { return Ok(None) };
        let body = body.to_vec();
        self.received.drain(..begin + length);
        Ok(Some((first, body)))
    }

    fn decode(&self, first: u8, body: &[u8]) -> Result<Packet> {
        let mut body = Bytes(body);
        let acknowledgement = |ack, mut body: Bytes<'_>| -> Result<Packet> {
            Ok(Packet::Ack(ack, body.u16()?, body.u8().unwrap_or(0)))
        };
        Ok(match first >> 4 {
            2 => Packet::Connack(body.u8()? & 1 == 1, body.u8()?),
            3 => {
                let qos = first >> 1 & 3;
                let topic = body.text()?;
                let packet_id = if qos > 0 { body.u16()? } else { 0 };
                self.skip_properties(&mut body)?;
                let (dup, retain) = (first & 8 != 0, first & 1 != 0);
                Packet::Publish(Publish { topic, payload: body.0.to_vec(), qos, packet_id, dup, retain })
            }
            4 => acknowledgement(Ack::Puback, body)?,
            5 => acknowledgement(Ack::Pubrec, body)?,
            6 => acknowledgement(Ack::Pubrel, body)?,
            7 => acknowledgement(Ack::Pubcomp, body)?,
            9 => {
                body.u16()?;
                self.skip_properties(&mut body)?;
                Packet::Suback(body.u8()?)
            }
            11 => Packet::Unsuback,
            13 => Packet::Pong,
            14 => Packet::Disconnect(body.u8().unwrap_or(0)),
            _ => bail!("a packet begins with {first:#04x}"),
        })
    }

    fn skip_properties(&self, body: &mut Bytes<'_>) -> Result<()> {
        if self.version == Version::V5 {
            let (length, used) = variable(body.0)?.context("a length of properties")?;
            body.take(used + length)?;
        }
        Ok(())
    }
}

fn connect_packet(connect: &Connect<'_>) -> Vec<u8> {
    let level = if connect.version == Version::V5 { 5 } else { 4 };
    // Will Flag and Will QoS 2.
    let will_flags = if connect.will.is_some() { 0x14 } else { 0 };
    let mut body = text("MQTT");
    body.extend([level, u8::from(connect.clean) << 1 | will_flags]);
    body.extend(connect.keep_alive_s.to_be_bytes());
    if connect.version == Version::V5 {
        let [r1, r2] = RECEIVE_MAX.to_be_bytes();
        let [s1, s2, s3, s4] = connect.expiry_s.to_be_bytes();
        body.extend([8, 0x11, s1, s2, s3, s4, 0x21, r1, r2]);
    }
    body.extend(text(connect.client_id));
    if let Some(will) = &connect.will {
        if connect.version == Version::V5 {
            let [d1, d2, d3, d4] = will.delay_s.to_be_bytes();
            body.extend([5, 0x18, d1, d2, d3, d4]);
        }
        body.extend(text(&will.topic));
        let length = u16::try_from(will.payload.len()).expect("wills in a run are short");
        body.extend(length.to_be_bytes());
        body.extend(&will.payload);
    }
    packet(0x10, &body)
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("names in a run are short");
    [length.to_be_bytes().as_slice(), text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let digit = u8::try_from(length % 128).expect("a remainder of 128 is below it");
        length /= 128;
        bytes.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

/// A variable byte integer and how many bytes it has; `None` when it is not whole yet.
fn variable(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((value, place + 1)));
        }
    }
    ensure!(bytes.len() < 4, "a length of more than four bytes");
    Ok(None)
}

/// What is left to read of a packet.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("a packet is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(*self.take(1)?.first().context("a byte")?)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from(self.u8()?) << 8 | u16::from(self.u8()?))
    }

    fn text(&mut self) -> Result<String> {
        let length = usize::from(self.u16()?);
        Ok(String::from_utf8(self.take(length)?.to_vec())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What a link makes of these bytes after CONNACK.
    fn received(version: Version, bytes: &[u8]) -> Result<Option<Packet>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bytes = bytes.to_vec();
        let node = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut connect = [0; 16];
            stream.read_exact(&mut connect[..2]).unwrap();
            let mut rest = vec![0; usize::from(connect[1])];
            stream.read_exact(&mut rest).unwrap();
            let connack: &[u8] = if version == Version::V5 { &[0x20, 3, 1, 0, 0] } else { &[0x20, 2, 1, 0] };
            stream.write_all(&[connack, &bytes].concat()).unwrap();
            // Until the client has read all and closes.
            let _ = stream.read(&mut connect);
        });
        let (mut link, present) = Link::connect(address, version, "c", false).unwrap();
        assert!(present);
        let packet = loop {
            match link.receive() {
                Ok(None) if !bytes_whole(&link) => {}
                other => break other,
            }
        };
        drop(link);
        node.join().unwrap();
        packet
    }

    fn bytes_whole(link: &Link) -> bool {
        !link.received.is_empty()
    }

    #[test]
    fn packets_of_both_versions_are_read() {
        let publish = Publish {
            topic: "f/1".into(),
            payload: b"xy".to_vec(),
            qos: 2,
            packet_id: 7,
            dup: true,
            retain: false,
        };
        let v3 = [0x3c, 9, 0, 3, b'f', b'/', b'1', 0, 7, b'x', b'y'];
        assert_eq!(received(Version::V3, &v3).unwrap(), Some(Packet::Publish(publish.clone())));
        let v5 = [0x3c, 12, 0, 3, b'f', b'/', b'1', 0, 7, 2, 0x01, 1, b'x', b'y'];
        assert_eq!(received(Version::V5, &v5).unwrap(), Some(Packet::Publish(publish)));
        assert_eq!(
            received(Version::V5, &[0x50, 3, 0, 9, 0x97]).unwrap(),
            Some(Packet::Ack(Ack::Pubrec, 9, 0x97))
        );
        assert_eq!(received(Version::V3, &[0x90, 3, 0, 1, 2]).unwrap(), Some(Packet::Suback(2)));
        assert_eq!(received(Version::V5, &[0xe0, 1, 0x8e]).unwrap(), Some(Packet::Disconnect(0x8e)));
    }

    #[test]
    fn a_connect_carries_its_will_and_its_times() {
        let will = Will { topic: "w/1".into(), payload: vec![7, 8], delay_s: 2 };
        let mut connect = Connect { keep_alive_s: 1, ..Connect::new(Version::V5, "c", true) };
        connect.expiry_s = 9;
        connect.will = Some(will);
        let expected = [
            &[0x10, 37, 0, 4][..],
            b"MQTT",
            &[5, 0x16, 0, 1, 8, 0x11, 0, 0, 0, 9, 0x21, 0, 64, 0, 1, b'c'],
            &[5, 0x18, 0, 0, 0, 2, 0, 3, b'w', b'/', b'1', 0, 2, 7, 8],
        ];
        assert_eq!(connect_packet(&connect), expected.concat());
        connect.version = Version::V3;
        let expected = [
            &[0x10, 22, 0, 4][..],
            b"MQTT",
            &[4, 0x16, 0, 1, 0, 1, b'c', 0, 3, b'w', b'/', b'1', 0, 2, 7, 8],
        ];
        assert_eq!(connect_packet(&connect), expected.concat());
    }

    #[test]
    fn what_is_no_packet_is_an_error_and_half_a_packet_is_none_yet() {
        assert!(received(Version::V5, &[0xf0, 0]).is_err());
        assert!(received(Version::V5, &[0x40, 1, 0]).is_err());
        assert_eq!(received(Version::V5, &[0x40, 2, 0]).unwrap(), None);
        assert!(variable(&[0x80; 4]).is_err());
        assert_eq!(variable(&[0x80, 1]).unwrap(), Some((128, 2)));
    }

    #[test]
    fn lengths_are_written_as_they_are_read() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
            let bytes = packet(0x30, &vec![0; length]);
            assert_eq!(variable(&bytes[1..]).unwrap(), Some((length, bytes.len() - 1 - length)));
        }
    }
}
