//! Packets of the broker, read strictly: whatever a server must not send is an error here, in every case of the table.
//!
//! Owns: which fields, flags, reason codes and properties a server's packet may have, in each version.
//! Does not: use the codec of the broker; know what was asked.
//! Spec: MQTT 5 and 3.1.1, chapters 2 and 3.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use crate::packet::{
    AUTH, CONNACK, DISCONNECT, PINGRESP, PUBACK, PUBCOMP, PUBREC, PUBREL, SUBACK, UNSUBACK, Version,
};
use crate::property as p;

/// Value of a property.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A number of any size.
    Number(u32),
    /// A string.
    Text(String),
    /// Binary data.
    Bytes(Vec<u8>),
    /// A string pair.
    Pair(String, String),
}

/// Properties in their order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Properties(pub Vec<(u8, Value)>);

impl Properties {
    /// All values of one identifier.
    pub fn all(&self, id: u8) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |(found, _)| *found == id).map(|(_, value)| value)
    }

    /// A number.
    pub fn number(&self, id: u8) -> Option<u32> {
        self.all(id).find_map(|value| if let Value::Number(number) = value { Some(*number) } else { None })
    }

    /// All numbers of one identifier, sorted.
    pub fn numbers(&self, id: u8) -> Vec<u32> {
        let number = |value: &Value| if let Value::Number(number) = value { Some(*number) } else { None };
        let mut numbers: Vec<u32> = self.all(id).filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// A string.
    pub fn text(&self, id: u8) -> Option<&str> {
        self.all(id).find_map(|value| if let Value::Text(text) = value { Some(text.as_str()) } else { None })
    }

    /// Names and values of the User Properties.
    pub fn users(&self) -> Vec<(&str, &str)> {
        let mut pairs = Vec::new();
        for value in self.all(p::USER_PROPERTY) {
            if let Value::Pair(name, value) = value {
                pairs.push((name.as_str(), value.as_str()));
            }
        }
        pairs
    }

    /// Whether there is one of this identifier.
    pub fn has(&self, id: u8) -> bool {
        self.all(id).next().is_some()
    }
}

/// A received PUBLISH.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Topic name; of an alias the name behind it.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS.
    pub qos: u8,
    /// Packet identifier; 0 with QoS 0.
    pub id: u16,
    /// DUP.
    pub dup: bool,
    /// RETAIN.
    pub retain: bool,
    /// Properties.
    pub properties: Properties,
}

/// A received CONNACK.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connack {
    /// Session Present.
    pub present: bool,
    /// Return code or reason code.
    pub code: u8,
    /// Properties.
    pub properties: Properties,
}

/// A received packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    /// CONNACK.
    Connack(Connack),
    /// PUBLISH.
    Publish(Message),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP, by its first byte.
    Ack(u8, u16, u8, Properties),
    /// SUBACK.
    Suback(u16, Vec<u8>, Properties),
    /// UNSUBACK; before 5.0 without codes.
    Unsuback(u16, Vec<u8>, Properties),
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(u8, Properties),
    /// AUTH.
    Auth(u8, Properties),
}

/// Length of the first packet in the bytes, when its fixed header is complete.
pub fn packet_length(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut length = 0;
    for (place, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            ensure!(place == 0 || *byte != 0, "Remaining Length is longer than it must be [MQTT-1.5.5-1]");
            return Ok(Some((place + 2, length)));
        }
    }
    ensure!(bytes.len() < 5, "Remaining Length is longer than four bytes");
    Ok(None)
}

/// The packet of a first byte and a body.
pub fn decode(version: Version, first: u8, body: &[u8]) -> Result<Packet> {
    let mut reader = Reader { version, rest: body };
    let packet = match first {
        CONNACK => reader.connack()?,
        0x30..=0x3f => reader.publish(first & 0x0f)?,
        PUBACK | PUBREC | PUBREL | PUBCOMP => reader.ack(first)?,
        SUBACK => reader.suback()?,
        UNSUBACK => reader.unsuback()?,
        PINGRESP => Packet::Pingresp,
        DISCONNECT if version == Version::V5 => reader.disconnect()?,
        AUTH if version == Version::V5 => {
            let code = reader.byte()?;
            ensure!([0, 0x18].contains(&code), "reason code of AUTH [MQTT-3.15.2-1]: 0x{code:02x}");
            Packet::Auth(
                code,
                reader.properties(&[p::AUTH_METHOD, p::AUTH_DATA, p::REASON_STRING, p::USER_PROPERTY])?,
            )
        }
        _ => bail!("a server of MQTT {} sends no packet 0x{first:02x}", version.name()),
    };
    ensure!(reader.rest.is_empty(), "{} bytes behind the fields", reader.rest.len());
    Ok(packet)
}

struct Reader<'a> {
    version: Version,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).context("the packet ends within a field")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn two(&mut self) -> Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn four(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn varint(&mut self) -> Result<u32> {
        let mut value = 0;
        for place in 0..4 {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                ensure!(place == 0 || byte != 0, "a number is longer than it must be [MQTT-1.5.5-1]");
                return Ok(value);
            }
        }
        bail!("a number is longer than four bytes")
    }

    fn binary(&mut self) -> Result<&'a [u8]> {
        let length = self.two()?;
        self.take(usize::from(length))
    }

    /// [MQTT-1.5.4-1], [MQTT-1.5.4-2].
    fn text(&mut self) -> Result<String> {
        let text = std::str::from_utf8(self.binary()?).context("a string of the broker")?;
        ensure!(!text.contains('\0'), "a string of the broker has U+0000");
        Ok(text.to_owned())
    }

    fn packet_id(&mut self) -> Result<u16> {
        let id = self.two()?;
        ensure!(id != 0, "packet identifier 0");
        Ok(id)
    }

    fn properties(&mut self, allowed: &[u8]) -> Result<Properties> {
        let mut properties = Properties::default();
        if self.version != Version::V5 {
            return Ok(properties);
        }
        let length = self.varint()? as usize;
        let mut inner = Reader { version: self.version, rest: self.take(length)? };
        while !inner.rest.is_empty() {
            let id = inner.byte()?;
            ensure!(allowed.contains(&id), "property 0x{id:02x} does not belong into this packet");
            let repeated = id == p::USER_PROPERTY || id == p::SUBSCRIPTION_ID;
            ensure!(repeated || !properties.has(id), "property 0x{id:02x} is there twice");
            properties.0.push((id, inner.value(id)?));
        }
        Ok(properties)
    }

    fn value(&mut self, id: u8) -> Result<Value> {
        let flag = |value: u8| {
            ensure!(value <= 1, "property 0x{id:02x} is {value}, not 0 or 1");
            Ok(Value::Number(u32::from(value)))
        };
        let number = match id {
            p::PAYLOAD_FORMAT
            | p::MAX_QOS
            | p::RETAIN_AVAILABLE
            | p::WILDCARD_AVAILABLE
            | p::SUBSCRIPTION_ID_AVAILABLE
            | p::SHARED_AVAILABLE => return flag(self.byte()?),
            p::SERVER_KEEP_ALIVE | p::TOPIC_ALIAS_MAX => return Ok(Value::Number(u32::from(self.two()?))),
            p::RECEIVE_MAX | p::TOPIC_ALIAS => u32::from(self.two()?),
            p::MESSAGE_EXPIRY | p::SESSION_EXPIRY => return Ok(Value::Number(self.four()?)),
            p::MAX_PACKET_SIZE => self.four()?,
            p::SUBSCRIPTION_ID => self.varint()?,
            p::CORRELATION_DATA | p::AUTH_DATA => return Ok(Value::Bytes(self.binary()?.to_vec())),
            p::USER_PROPERTY => return Ok(Value::Pair(self.text()?, self.text()?)),
            _ => return Ok(Value::Text(self.text()?)),
        };
        ensure!(number != 0, "property 0x{id:02x} is 0");
        Ok(Value::Number(number))
    }

    fn connack(&mut self) -> Result<Packet> {
        let flags = self.byte()?;
        ensure!(flags & 0xfe == 0, "reserved bits of the acknowledge flags [MQTT-3.2.2-1]");
        ensure!(flags == 0 || self.version != Version::V31, "MQTT 3.1 has no Session Present");
        let code = self.byte()?;
        let known = match self.version {
            Version::V31 | Version::V4 => code <= 5,
            Version::V5 => CONNACK_CODES.contains(&code),
        };
        ensure!(known, "code 0x{code:02x} does not belong into CONNACK [MQTT-3.2.2-8]");
        ensure!(code == 0 || flags == 0, "Session Present with code 0x{code:02x} [MQTT-3.2.2-6]");
        let properties = self.properties(&CONNACK_PROPERTIES)?;
        Ok(Packet::Connack(Connack { present: flags == 1, code, properties }))
    }

    fn publish(&mut self, flags: u8) -> Result<Packet> {
        let qos = flags >> 1 & 3;
        ensure!(qos < 3, "QoS 3 [MQTT-3.3.1-4]");
        let dup = flags & 8 != 0;
        ensure!(qos > 0 || !dup, "DUP with QoS 0 [MQTT-3.3.1-2]");
        let topic = self.text()?;
        ensure!(!topic.contains(['#', '+']), "a topic name with wildcards [MQTT-3.3.2-2]: {topic}");
        let id = if qos > 0 { self.packet_id()? } else { 0 };
        let properties = self.properties(&PUBLISH_PROPERTIES)?;
        ensure!(
            !topic.is_empty() || properties.has(p::TOPIC_ALIAS),
            "neither topic name nor alias [MQTT-4.7.3-1]"
        );
        let payload = std::mem::take(&mut self.rest).to_vec();
        let retain = flags & 1 != 0;
        Ok(Packet::Publish(Message { topic, payload, qos, id, dup, retain, properties }))
    }

    fn ack(&mut self, first: u8) -> Result<Packet> {
        let id = self.packet_id()?;
        let (mut code, mut properties) = (0, Properties::default());
        if self.version == Version::V5 && !self.rest.is_empty() {
            code = self.byte()?;
            let known: &[u8] = if [PUBACK, PUBREC].contains(&first) { &PUBACK_CODES } else { &[0, 0x92] };
            ensure!(known.contains(&code), "code 0x{code:02x} does not belong into packet 0x{first:02x}");
            if !self.rest.is_empty() {
                properties = self.properties(&EXPLANATION)?;
            }
        }
        Ok(Packet::Ack(first, id, code, properties))
    }

    fn suback(&mut self) -> Result<Packet> {
        let id = self.packet_id()?;
        let properties = self.properties(&EXPLANATION)?;
        let codes = std::mem::take(&mut self.rest).to_vec();
        let known: &[u8] = if self.version == Version::V5 { &SUBACK_CODES } else { &[0, 1, 2, 0x80] };
        ensure!(
            codes.iter().all(|code| known.contains(code)),
            "codes of SUBACK [MQTT-3.9.3-2]: {codes:02x?}"
        );
        Ok(Packet::Suback(id, codes, properties))
    }

    fn unsuback(&mut self) -> Result<Packet> {
        let id = self.packet_id()?;
        let properties = self.properties(&EXPLANATION)?;
        let codes =
            if self.version == Version::V5 { std::mem::take(&mut self.rest).to_vec() } else { Vec::new() };
        let known = codes.iter().all(|code| UNSUBACK_CODES.contains(code));
        ensure!(known, "codes of UNSUBACK [MQTT-3.11.3-2]: {codes:02x?}");
        Ok(Packet::Unsuback(id, codes, properties))
    }

    fn disconnect(&mut self) -> Result<Packet> {
        if self.rest.is_empty() {
            return Ok(Packet::Disconnect(0, Properties::default()));
        }
        let code = self.byte()?;
        ensure!(DISCONNECT_CODES.contains(&code), "no server's DISCONNECT [MQTT-3.14.2-1]: 0x{code:02x}");
        // Without Session Expiry Interval [MQTT-3.14.2-2].
        let allowed = [p::REASON_STRING, p::USER_PROPERTY, p::SERVER_REFERENCE];
        let properties =
            if self.rest.is_empty() { Properties::default() } else { self.properties(&allowed)? };
        Ok(Packet::Disconnect(code, properties))
    }
}

const EXPLANATION: [u8; 2] = [p::REASON_STRING, p::USER_PROPERTY];

/// MQTT 5, 3.2.2.3.
const CONNACK_PROPERTIES: [u8; 17] = [
    p::SESSION_EXPIRY,
    p::RECEIVE_MAX,
    p::MAX_QOS,
    p::RETAIN_AVAILABLE,
    p::MAX_PACKET_SIZE,
    p::ASSIGNED_CLIENT_ID,
    p::TOPIC_ALIAS_MAX,
    p::REASON_STRING,
    p::USER_PROPERTY,
    p::WILDCARD_AVAILABLE,
    p::SUBSCRIPTION_ID_AVAILABLE,
    p::SHARED_AVAILABLE,
    p::SERVER_KEEP_ALIVE,
    p::RESPONSE_INFORMATION,
    p::SERVER_REFERENCE,
    p::AUTH_METHOD,
    p::AUTH_DATA,
];

/// MQTT 5, 3.3.2.3.
const PUBLISH_PROPERTIES: [u8; 8] = [
    p::PAYLOAD_FORMAT,
    p::MESSAGE_EXPIRY,
    p::TOPIC_ALIAS,
    p::RESPONSE_TOPIC,
    p::CORRELATION_DATA,
    p::USER_PROPERTY,
    p::SUBSCRIPTION_ID,
    p::CONTENT_TYPE,
];

/// MQTT 5, 3.2.2.2.
const CONNACK_CODES: [u8; 22] = [
    0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a,
    0x9b, 0x9c, 0x9d, 0x9f,
];
/// MQTT 5, 3.4.2.1 and 3.5.2.1.
const PUBACK_CODES: [u8; 9] = [0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// MQTT 5, 3.9.3.
const SUBACK_CODES: [u8; 12] = [0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2];
/// MQTT 5, 3.11.3.
const UNSUBACK_CODES: [u8; 7] = [0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
/// MQTT 5, 3.14.2.1, those that a server may send.
const DISCONNECT_CODES: [u8; 28] = [
    0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98,
    0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
];

/// Bytes for people: hexadecimal, cut after a while.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.iter().take(64) {
            write!(formatter, "{byte:02x} ")?;
        }
        if self.0.len() > 64 { write!(formatter, "… {} bytes", self.0.len()) } else { Ok(()) }
    }
}

/// Properties of a packet of this client, for the bounds that it set the broker.
pub fn client_properties(bytes: &[u8]) -> Result<Properties> {
    let mut reader = Reader { version: Version::V5, rest: bytes };
    let mut properties = Properties::default();
    while let Some((id, rest)) = reader.rest.split_first() {
        reader.rest = rest;
        // A case may well send what no client should; then there is no bound to know.
        let Ok(value) = reader.client_value(*id) else { break };
        properties.0.push((*id, value));
    }
    Ok(properties)
}

impl Reader<'_> {
    fn client_value(&mut self, id: u8) -> Result<Value> {
        match id {
            p::REQUEST_PROBLEM | p::REQUEST_RESPONSE => Ok(Value::Number(u32::from(self.byte()?))),
            p::WILL_DELAY => Ok(Value::Number(self.four()?)),
            _ => self.value(id),
        }
    }
}
