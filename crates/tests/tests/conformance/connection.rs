//! A connection of a case: bytes out, strictly decoded packets in, and the usual expectations.
//!
//! Owns: the socket, topic aliases of the broker, the trace that a failure prints. Does not: answer anything unasked.
//! Invariants: every read ends at the deadline of its case; no packet above the Maximum Packet Size of this client and
//! no alias above its Topic Alias Maximum is let through [MQTT-3.1.2-24] [MQTT-3.1.2-26].

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::decode::{Connack, Hex, Message, Packet, decode, packet_length};
use crate::packet::{self, DISCONNECT, PINGREQ, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, Version};
use crate::property as p;

/// What happened in a case, for its failure.
pub type Trace = Rc<RefCell<Vec<String>>>;

/// A connection to a node.
pub struct Connection {
    stream: TcpStream,
    name: String,
    version: Version,
    deadline: Instant,
    trace: Trace,
    received: Vec<u8>,
    /// Messages that came while something else was waited for.
    pending: VecDeque<Packet>,
    aliases: BTreeMap<u32, String>,
    next_id: u16,
    /// Topic Alias Maximum of this client.
    pub alias_max: u32,
    /// Maximum Packet Size of this client.
    pub packet_max: usize,
}

impl Connection {
    /// Opens a TCP connection and sends nothing.
    pub fn open(
        port: u16,
        name: &str,
        version: Version,
        deadline: Instant,
        trace: Trace,
    ) -> Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            name: name.to_owned(),
            version,
            deadline,
            trace,
            received: Vec::new(),
            pending: VecDeque::new(),
            aliases: BTreeMap::new(),
            next_id: 0,
            alias_max: 0,
            packet_max: usize::MAX,
        })
    }

    fn note(&self, what: &str) {
        self.trace.borrow_mut().push(format!("{:<6} {what}", self.name));
    }

    /// Sends bytes. That the broker has closed the connection is for the next read to find.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.note(&format!("→ {}", Hex(bytes)));
        match self.stream.write_all(bytes) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(error).context("send")
            }
            _ => Ok(()),
        }
    }

    /// The next packet; `None` when the connection has ended.
    pub fn read(&mut self) -> Result<Option<Packet>> {
        if let Some(packet) = self.pending.pop_front() {
            return Ok(Some(packet));
        }
        loop {
            if let Some((start, length)) = packet_length(&self.received)?
                && self.received.len() >= start + length
            {
                let bytes: Vec<u8> = self.received.drain(..start + length).collect();
                self.note(&format!("← {}", Hex(&bytes)));
                ensure!(
                    bytes.len() <= self.packet_max,
                    "above this client's Maximum Packet Size [MQTT-3.1.2-24]"
                );
                let packet = decode(self.version, bytes[0], &bytes[start..])
                    .with_context(|| format!("{} received {}", self.name, Hex(&bytes)))?;
                return Ok(Some(self.resolve_alias(packet)?));
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{} waits for a packet until the deadline", self.name);
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.ended(),
                Ok(count) => self.received.extend(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return self.ended(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn ended(&self) -> Result<Option<Packet>> {
        self.note("← closed");
        ensure!(self.received.is_empty(), "{} is closed within a packet: {}", self.name, Hex(&self.received));
        Ok(None)
    }

    fn resolve_alias(&mut self, packet: Packet) -> Result<Packet> {
        let Packet::Publish(mut message) = packet else { return Ok(packet) };
        if let Some(alias) = message.properties.number(p::TOPIC_ALIAS) {
            ensure!(alias <= self.alias_max, "alias {alias} above {} [MQTT-3.3.2-11]", self.alias_max);
            if message.topic.is_empty() {
                message.topic = self.aliases.get(&alias).cloned().context("an alias that was not set")?;
            } else {
                self.aliases.insert(alias, message.topic.clone());
            }
        }
        Ok(Packet::Publish(message))
    }

    /// A packet that is there within a moment, for those who watch several connections; `None` without one. The end of
    /// the connection is an error.
    pub fn poll(&mut self) -> Result<Option<Packet>> {
        if self.pending.is_empty() && self.received.is_empty() {
            ensure!(Instant::now() < self.deadline, "{} waits for a packet until the deadline", self.name);
            self.stream.set_read_timeout(Some(Duration::from_millis(10)))?;
            match self.stream.peek(&mut [0]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                _ => {}
            }
        }
        self.packet().map(Some)
    }

    /// The next packet; the end of the connection is an error.
    pub fn packet(&mut self) -> Result<Packet> {
        self.read()?.with_context(|| format!("{} was closed", self.name))
    }

    /// CONNACK comes next.
    pub fn connack(&mut self) -> Result<Connack> {
        match self.packet()? {
            Packet::Connack(connack) => Ok(connack),
            other => bail!("{} expected CONNACK, got {other:?}", self.name),
        }
    }

    /// PUBLISH comes next; it is not acknowledged.
    pub fn message(&mut self) -> Result<Message> {
        match self.packet()? {
            Packet::Publish(message) => Ok(message),
            other => bail!("{} expected PUBLISH, got {other:?}", self.name),
        }
    }

    /// PUBLISH comes next, and is acknowledged as its QoS demands.
    pub fn take(&mut self) -> Result<Message> {
        let message = self.message()?;
        self.acknowledge(&message)?;
        Ok(message)
    }

    /// As [`Connection::take`], and it must have this topic and payload.
    pub fn take_this(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Result<Message> {
        let message = self.take()?;
        let right = message.topic == topic && message.payload == payload.as_ref();
        ensure!(right, "{} expected {topic} {:?}, got {message:?}", self.name, payload.as_ref());
        Ok(message)
    }

    /// Acknowledges as the QoS demands; with QoS 2 to the end.
    pub fn acknowledge(&mut self, message: &Message) -> Result<()> {
        match message.qos {
            0 => Ok(()),
            1 => self.send(&packet::ack(PUBACK, message.id)),
            _ => {
                self.send(&packet::ack(PUBREC, message.id))?;
                // Further messages may come first; they are read later.
                let mut later = Vec::new();
                loop {
                    match self.packet()? {
                        Packet::Publish(message) => later.push(Packet::Publish(message)),
                        Packet::Ack(PUBREL, id, ..) if id == message.id => break,
                        other => bail!("{} expected PUBREL for {}, got {other:?}", self.name, message.id),
                    }
                }
                self.pending.extend(later);
                self.send(&packet::ack(PUBCOMP, message.id))
            }
        }
    }

    /// An acknowledgement of this type for this packet identifier comes next. Gives its code.
    pub fn expect_ack(&mut self, first: u8, id: u16) -> Result<u8> {
        match self.packet()? {
            Packet::Ack(found, of, code, _) if found == first && of == id => Ok(code),
            other => bail!("{} expected packet 0x{first:02x} for {id}, got {other:?}", self.name),
        }
    }

    /// A packet identifier that this connection has not used.
    pub fn fresh_id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// Sends a PUBLISH as it is.
    pub fn send_publish(&mut self, publish: &Publish) -> Result<()> {
        let bytes = publish.encode(self.version);
        self.send(&bytes)
    }

    /// Publishes and waits until the exchange of its QoS is done. Nothing else may come; no code may be a failure.
    pub fn publish(&mut self, publish: &Publish) -> Result<()> {
        self.send_publish(publish)?;
        let code = match publish.qos {
            0 => return Ok(()),
            1 => self.expect_ack(PUBACK, publish.id)?,
            _ => {
                let code = self.expect_ack(PUBREC, publish.id)?;
                if code < 0x80 {
                    self.send(&packet::ack(PUBREL, publish.id))?;
                    self.expect_ack(PUBCOMP, publish.id)?;
                }
                code
            }
        };
        ensure!(code < 0x80, "{} was refused a PUBLISH with 0x{code:02x}", self.name);
        Ok(())
    }

    /// Publishes with a fresh packet identifier.
    pub fn publish_new(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) -> Result<()> {
        let id = self.fresh_id();
        self.publish(&Publish::new(topic, payload).qos(qos, id))
    }

    /// Publishes a retained message with a fresh packet identifier.
    pub fn retain(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) -> Result<()> {
        let id = self.fresh_id();
        self.publish(&Publish::new(topic, payload).qos(qos, id).retain())
    }

    /// Subscribes to filters with options; gives the codes. SUBACK must come next.
    pub fn subscribe_all(&mut self, filters: &[(&str, u8)]) -> Result<Vec<u8>> {
        self.subscribe_with(&[], filters)
    }

    /// As [`Connection::subscribe_all`] with properties.
    pub fn subscribe_with(&mut self, properties: &[u8], filters: &[(&str, u8)]) -> Result<Vec<u8>> {
        let id = self.fresh_id();
        let bytes = packet::subscribe(self.version, id, properties, filters);
        self.send(&bytes)?;
        match self.packet()? {
            Packet::Suback(of, codes, _) if of == id => {
                ensure!(codes.len() == filters.len(), "{} filters, codes {codes:02x?}", filters.len());
                Ok(codes)
            }
            other => bail!("{} expected SUBACK for {id}, got {other:?}", self.name),
        }
    }

    /// Subscribes to one filter; what is granted must be the QoS of the options.
    pub fn subscribe(&mut self, filter: &str, options: u8) -> Result<()> {
        let codes = self.subscribe_all(&[(filter, options)])?;
        ensure!(codes == [options & 3], "{} asked for QoS {} and got {codes:02x?}", self.name, options & 3);
        Ok(())
    }

    /// Unsubscribes; gives the codes, none before 5.0. UNSUBACK must come next.
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Result<Vec<u8>> {
        let id = self.fresh_id();
        let bytes = packet::unsubscribe(self.version, id, filters);
        self.send(&bytes)?;
        match self.packet()? {
            Packet::Unsuback(of, codes, _) if of == id => Ok(codes),
            other => bail!("{} expected UNSUBACK for {id}, got {other:?}", self.name),
        }
    }

    /// Waits until the broker has processed what this client sent, its acknowledgements too: by an UNSUBSCRIBE that does
    /// nothing, and is processed after them.
    pub fn settle(&mut self) -> Result<()> {
        self.unsubscribe(&["no such subscription"]).map(drop)
    }

    /// PINGREQ; nothing comes before its answer.
    pub fn ping(&mut self) -> Result<()> {
        self.send(&[PINGREQ, 0])?;
        match self.packet()? {
            Packet::Pingresp => Ok(()),
            other => bail!("{} expected PINGRESP, got {other:?}", self.name),
        }
    }

    /// DISCONNECT without a reason; the broker closes and sends nothing more.
    pub fn disconnect(mut self) -> Result<()> {
        self.send(&[DISCONNECT, 0])?;
        self.closed()
    }

    /// Ends the connection without DISCONNECT and waits until the broker has seen it.
    pub fn abort(mut self) -> Result<()> {
        self.note("→ end of stream");
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        while let Ok(Some(_)) = self.read() {}
        Ok(())
    }

    /// Everything up to the end of the connection, undecoded.
    pub fn raw_until_closed(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        match self.stream.read_to_end(bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error).context("read to the end"),
            _ => {
                self.note(&format!("← {}closed", Hex(bytes)));
                Ok(())
            }
        }
    }

    /// The connection is closed; no packet comes before.
    pub fn closed(&mut self) -> Result<()> {
        match self.read()? {
            None => Ok(()),
            Some(other) => bail!("{} expected the connection to be closed, got {other:?}", self.name),
        }
    }

    /// The broker ends the connection because of an error: with 5.0 by DISCONNECT with one of these codes, before
    /// without a word.
    pub fn fails(&mut self, codes: &[u8]) -> Result<()> {
        if self.version == Version::V5 {
            match self.packet()? {
                Packet::Disconnect(code, _) if codes.contains(&code) => {}
                other => bail!("{} expected DISCONNECT with {codes:02x?}, got {other:?}", self.name),
            }
        }
        self.closed()
    }

    /// A CONNECT is refused: with 5.0 by a CONNACK with one of these codes, before by this return code or, without
    /// one, by nothing but the closed connection.
    pub fn refused(&mut self, code: Option<u8>, codes: &[u8]) -> Result<()> {
        let wanted: Vec<u8> =
            if self.version == Version::V5 { codes.into() } else { code.into_iter().collect() };
        if !wanted.is_empty() {
            let connack = self.connack()?;
            ensure!(wanted.contains(&connack.code), "refused with 0x{:02x}, not {wanted:02x?}", connack.code);
        }
        self.closed()
    }
}
