//! An MQTT 5 client made by hand: bytes on a TCP socket, nothing kept and nothing answered unasked.
//!
//! Owns: the bytes of the few packets that the tests need. Does not: use the codec of the broker, acknowledge by itself.
//! Invariants: every read has a deadline. Limits: QoS 0 and 1, and PUBLISH of QoS 2; properties of received packets are skipped.
//! Spec: MQTT 5, chapter 3.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::DEADLINE;

/// Reason code of DISCONNECT: another connection has taken over the session.
pub const SESSION_TAKEN_OVER: u8 = 0x8e;

/// How a client connects.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Client identifier.
    pub client_id: String,
    /// Clean Start.
    pub clean: bool,
    /// Session Expiry Interval in seconds; 0 for a transient session.
    pub expiry_s: u32,
    /// Receive Maximum.
    pub receive_max: u16,
    /// Will, with QoS 1.
    pub will: Option<Will>,
}

/// A will, published with QoS 1.
#[derive(Clone, Debug)]
pub struct Will {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Will Delay Interval in seconds.
    pub delay_s: u32,
}

impl Connect {
    /// A session that outlives its connections by an hour.
    pub fn durable(client_id: &str) -> Connect {
        Connect {
            client_id: client_id.to_owned(),
            clean: false,
            expiry_s: 3600,
            receive_max: 1000,
            will: None,
        }
    }

    /// A session that ends with its connection.
    pub fn transient(client_id: &str) -> Connect {
        Connect { clean: true, expiry_s: 0, ..Connect::durable(client_id) }
    }

    /// The bytes of the CONNECT.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = text("MQTT");
        let will = if self.will.is_some() { 0x0c } else { 0 };
        body.extend([5, u8::from(self.clean) << 1 | will]);
        // Keep alive: longer than any test, a client made by hand sends no PINGREQ.
        body.extend(3600_u16.to_be_bytes());
        let [s1, s2, s3, s4] = self.expiry_s.to_be_bytes();
        let [r1, r2] = self.receive_max.to_be_bytes();
        body.extend([8, 0x11, s1, s2, s3, s4, 0x21, r1, r2]);
        body.extend(text(&self.client_id));
        if let Some(will) = &self.will {
            body.extend([5, 0x18]);
            body.extend(will.delay_s.to_be_bytes());
            body.extend(text(&will.topic));
            let length = u16::try_from(will.payload.len()).expect("tests use small wills");
            body.extend(length.to_be_bytes());
            body.extend(&will.payload);
        }
        packet(0x10, &body)
    }
}

/// A received packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    /// CONNACK.
    Connack {
        /// Session Present.
        present: bool,
        /// Reason code.
        reason: u8,
    },
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK.
    Puback {
        /// Packet identifier.
        packet_id: u16,
        /// Reason code.
        reason: u8,
    },
    /// PUBREC.
    Pubrec {
        /// Packet identifier.
        packet_id: u16,
        /// Reason code.
        reason: u8,
    },
    /// SUBACK or UNSUBACK with one reason code.
    Suback {
        /// Packet identifier.
        packet_id: u16,
        /// Reason code.
        reason: u8,
    },
    /// DISCONNECT.
    Disconnect {
        /// Reason code.
        reason: u8,
    },
}

/// A received PUBLISH.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publish {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Packet identifier, with QoS 1.
    pub packet_id: Option<u16>,
    /// DUP.
    pub dup: bool,
    /// RETAIN.
    pub retain: bool,
}

/// A connection.
pub struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
    taken: usize,
    last_packet_id: u16,
}

impl Raw {
    /// Opens a TCP connection to a port on loopback and sends nothing.
    ///
    /// # Errors
    /// When nothing listens.
    pub fn open(port: u16) -> Result<Raw> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Raw { stream, received: Vec::new(), taken: 0, last_packet_id: 0 })
    }

    /// Opens a connection and sends CONNECT. The first packet back must be a CONNACK [MQTT-3.2.0-1]; gives its Session
    /// Present.
    ///
    /// # Errors
    /// When nothing listens, another packet comes first, or the connection is refused.
    pub fn connect(port: u16, connect: &Connect) -> Result<(Raw, bool)> {
        let mut raw = Raw::open(port)?;
        raw.send(&connect.encode())?;
        match raw.read().with_context(|| format!("CONNACK for {}", connect.client_id))? {
            Some(Packet::Connack { present, reason: 0 }) => Ok((raw, present)),
            Some(Packet::Connack { reason, .. }) => {
                bail!("{} was refused with 0x{reason:02X}", connect.client_id)
            }
            Some(other) => panic!("the first packet to {} is not CONNACK but {other:?}", connect.client_id),
            None => bail!("closed without CONNACK for {}", connect.client_id),
        }
    }

    /// Opens a connection, sends CONNECT, and gives all bytes that come until the broker closes it: a refusal, as it is.
    ///
    /// # Errors
    /// When nothing listens, or the broker does not close the connection in time.
    pub fn refusal(port: u16, connect: &Connect) -> Result<Vec<u8>> {
        let mut raw = Raw::open(port)?;
        raw.send(&connect.encode())?;
        raw.stream.set_read_timeout(Some(DEADLINE))?;
        let mut bytes = Vec::new();
        raw.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)?;
        Ok(())
    }

    /// Sends a PUBLISH; QoS 1 with a packet identifier, else 0.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        retain: bool,
        packet_id: Option<u16>,
    ) -> Result<()> {
        self.send(&publish_bytes(topic, payload, retain, packet_id))
    }

    /// Publishes with QoS 1 and waits for the PUBACK. Nothing else may come.
    ///
    /// # Errors
    /// When another packet comes, or the reason code is an error.
    pub fn publish_acked(&mut self, topic: &str, payload: &[u8], retain: bool) -> Result<()> {
        let packet_id = self.next_packet_id();
        self.publish(topic, payload, retain, Some(packet_id))?;
        match self.read().with_context(|| format!("PUBACK for {topic}"))? {
            Some(Packet::Puback { packet_id: acked, reason }) if acked == packet_id && reason < 0x80 => {
                Ok(())
            }
            other => bail!("PUBACK for {topic} expected, got {other:?}"),
        }
    }

    /// Sends a SUBSCRIBE for one filter with QoS 1 and gives its packet identifier.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_subscribe(&mut self, filter: &str) -> Result<u16> {
        let packet_id = self.next_packet_id();
        let mut body = packet_id.to_be_bytes().to_vec();
        body.push(0);
        body.extend(text(filter));
        body.push(1);
        self.send(&packet(0x82, &body))?;
        Ok(packet_id)
    }

    /// Subscribes to one filter with QoS 1 and waits for the SUBACK. Only repetitions may come before it; they are
    /// acknowledged.
    ///
    /// # Errors
    /// When another packet comes first, or the reason code is an error.
    pub fn subscribe(&mut self, filter: &str) -> Result<()> {
        let packet_id = self.send_subscribe(filter)?;
        match self.read_answer().with_context(|| format!("SUBACK for {filter}"))? {
            Some(Packet::Suback { packet_id: acked, reason }) if acked == packet_id && reason < 0x80 => {
                Ok(())
            }
            other => bail!("SUBACK for {filter} expected, got {other:?}"),
        }
    }

    /// Unsubscribes from one filter and waits for the UNSUBACK. Only repetitions may come before it; they are
    /// acknowledged.
    ///
    /// # Errors
    /// When another packet comes first, or the reason code is an error.
    pub fn unsubscribe(&mut self, filter: &str) -> Result<()> {
        let packet_id = self.next_packet_id();
        let mut body = packet_id.to_be_bytes().to_vec();
        body.push(0);
        body.extend(text(filter));
        self.send(&packet(0xa2, &body))?;
        match self.read_answer().with_context(|| format!("UNSUBACK for {filter}"))? {
            Some(Packet::Suback { packet_id: acked, reason }) if acked == packet_id && reason < 0x80 => {
                Ok(())
            }
            other => bail!("UNSUBACK for {filter} expected, got {other:?}"),
        }
    }

    /// The next packet that is not a repeated PUBLISH: after a move of the session these come before anything else.
    fn read_answer(&mut self) -> Result<Option<Packet>> {
        loop {
            match self.read()? {
                Some(Packet::Publish(Publish { dup: true, packet_id: Some(packet_id), .. })) => {
                    self.puback(packet_id)?;
                }
                other => return Ok(other),
            }
        }
    }

    /// Sends a PUBACK.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn puback(&mut self, packet_id: u16) -> Result<()> {
        self.send(&packet(0x40, &packet_id.to_be_bytes()))
    }

    /// Reads a PUBLISH and acknowledges it. Any other packet is an error.
    ///
    /// # Errors
    /// When something else comes, or nothing in time.
    pub fn receive(&mut self) -> Result<Publish> {
        match self.read()? {
            Some(Packet::Publish(publish)) => {
                if let Some(packet_id) = publish.packet_id {
                    self.puback(packet_id)?;
                }
                Ok(publish)
            }
            other => bail!("PUBLISH expected, got {other:?}"),
        }
    }

    /// Sends DISCONNECT: the session stays for its expiry interval.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn disconnect(mut self) -> Result<()> {
        self.send(&[0xe0, 0])?;
        while self.read()?.is_some() {}
        Ok(())
    }

    /// Reads the next packet; `None` when the connection has ended.
    ///
    /// # Errors
    /// When none comes within [`DEADLINE`], or what comes is no packet.
    pub fn read(&mut self) -> Result<Option<Packet>> {
        self.read_within(DEADLINE)?.context("no packet in time")
    }

    /// Reads the next packet; `Some(None)` when the connection has ended, `None` when nothing came in time.
    ///
    /// # Errors
    /// When what comes is no packet.
    pub fn read_within(&mut self, deadline: Duration) -> Result<Option<Option<Packet>>> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(packet) = self.take_packet()? {
                return Ok(Some(Some(packet)));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Some(None)),
                Ok(count) => self.received.extend(chunk.iter().take(count)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Some(None)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads until the connection ends, or until `stop` says so; whether it has ended.
    pub fn wait_for_end(&mut self, stop: impl Fn() -> bool) -> bool {
        while !stop() {
            match self.read_within(Duration::from_millis(200)) {
                Ok(None | Some(Some(_))) => {}
                Ok(Some(None)) | Err(_) => return true,
            }
        }
        false
    }

    /// The next packet identifier, from 1 to 65,535 and round again.
    pub fn next_packet_id(&mut self) -> u16 {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        self.last_packet_id
    }

    fn take_packet(&mut self) -> Result<Option<Packet>> {
        let waiting = self.received.get(self.taken..).unwrap_or_default();
        let Some((head, body_start, body_bytes)) = fixed_header(waiting)? else { return Ok(None) };
        let Some(body) = waiting.get(body_start..body_start + body_bytes) else { return Ok(None) };
        let packet = parse(head, body)?;
        self.taken += body_start + body_bytes;
        if self.taken == self.received.len() || self.taken > 1 << 20 {
            self.received.drain(..self.taken);
            self.taken = 0;
        }
        Ok(Some(packet))
    }
}

/// The bytes of a PUBLISH; QoS 1 with a packet identifier, else 0.
pub fn publish_bytes(topic: &str, payload: &[u8], retain: bool, packet_id: Option<u16>) -> Vec<u8> {
    let mut body = text(topic);
    let mut head = 0x30 | u8::from(retain);
    if let Some(packet_id) = packet_id {
        head |= 0x02;
        body.extend(packet_id.to_be_bytes());
    }
    body.push(0);
    body.extend(payload);
    packet(head, &body)
}

/// The bytes of a QoS 2 PUBLISH.
pub fn publish_bytes_2(topic: &str, payload: &[u8], packet_id: u16) -> Vec<u8> {
    let body = [&text(topic)[..], &packet_id.to_be_bytes(), &[0], payload].concat();
    packet(0x34, &body)
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("tests use short names");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    let mut rest = body.len();
    loop {
        let low = u8::try_from(rest % 128).expect("below 128");
        rest /= 128;
        bytes.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

/// First byte, place of the body, its length; `None` while the header is incomplete.
fn fixed_header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>> {
    let Some((head, rest)) = bytes.split_first() else { return Ok(None) };
    let mut length = 0;
    for (place, byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((*head, place + 2, length)));
        }
    }
    ensure!(rest.len() < 4, "Remaining Length is longer than four bytes");
    Ok(None)
}

fn parse(head: u8, body: &[u8]) -> Result<Packet> {
    let byte = |place: usize| body.get(place).copied();
    let packet_id = || -> Result<u16> { Ok(u16::from_be_bytes(*body.first_chunk().context("packet id")?)) };
    Ok(match head {
        0x20 => Packet::Connack {
            present: byte(0).context("flags")? & 1 == 1,
            reason: byte(1).context("reason code")?,
        },
        0x30..=0x3f => Packet::Publish(parse_publish(head, body)?),
        // Without a reason code it is 0 [3.4.2.1].
        0x40 => Packet::Puback { packet_id: packet_id()?, reason: byte(2).unwrap_or(0) },
        0x50 => Packet::Pubrec { packet_id: packet_id()?, reason: byte(2).unwrap_or(0) },
        0x90 | 0xb0 => {
            Packet::Suback { packet_id: packet_id()?, reason: body.last().copied().context("reason code")? }
        }
        0xe0 => Packet::Disconnect { reason: byte(0).unwrap_or(0) },
        _ => bail!("unexpected packet 0x{head:02X} with {} bytes", body.len()),
    })
}

fn parse_publish(head: u8, body: &[u8]) -> Result<Publish> {
    let (length, rest) = body.split_first_chunk::<2>().context("length of the topic")?;
    let (topic, mut rest) =
        rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).context("topic")?;
    let mut packet_id = None;
    ensure!(head & 0x04 == 0, "QoS 2 was not asked for");
    if head & 0x02 != 0 {
        let (id, behind) = rest.split_first_chunk::<2>().context("packet id")?;
        (packet_id, rest) = (Some(u16::from_be_bytes(*id)), behind);
    }
    let (properties, rest) = rest.split_first().context("length of the properties")?;
    ensure!(*properties < 0x80, "more properties than the tests expect");
    Ok(Publish {
        topic: String::from_utf8(topic.to_vec())?,
        payload: rest.get(usize::from(*properties)..).context("properties")?.to_vec(),
        packet_id,
        dup: head & 0x08 != 0,
        retain: head & 0x01 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_of_any_length_parses_as_it_was_made() {
        for bytes in [0, 1, 100, 127, 128, 16_383, 16_384, 70_000] {
            let payload = vec![7; bytes];
            let encoded = publish_bytes("a/b", &payload, true, Some(258));
            let (head, start, length) = fixed_header(&encoded).unwrap().unwrap();
            assert_eq!(start + length, encoded.len());
            let expected =
                Publish { topic: "a/b".into(), payload, packet_id: Some(258), dup: false, retain: true };
            assert_eq!(parse(head, &encoded[start..]).unwrap(), Packet::Publish(expected));
        }
        assert_eq!(fixed_header(&[0x30, 0x80]).unwrap(), None);
        assert!(fixed_header(&[0x30, 0x80, 0x80, 0x80, 0x80]).is_err());
    }
}
