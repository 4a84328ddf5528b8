//! Packets as a client writes them, right and wrong ones.
//!
//! Owns: the bytes. Does not: use the codec of the broker, so that one mistake cannot hide on both sides.
//! Spec: MQTT 5 and 3.1.1, chapters 2 and 3.

/// Version of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// MQTT 3.1, `MQIsdp`.
    V31,
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.0.
    V5,
}

impl Version {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Version::V31 => "3.1",
            Version::V4 => "3.1.1",
            Version::V5 => "5.0",
        }
    }
}

/// Types, in the upper four bits of the first byte; with the flags that the type demands.
pub const CONNECT: u8 = 0x10;
/// CONNACK.
pub const CONNACK: u8 = 0x20;
/// PUBLISH.
pub const PUBLISH: u8 = 0x30;
/// PUBACK.
pub const PUBACK: u8 = 0x40;
/// PUBREC.
pub const PUBREC: u8 = 0x50;
/// PUBREL.
pub const PUBREL: u8 = 0x62;
/// PUBCOMP.
pub const PUBCOMP: u8 = 0x70;
/// SUBSCRIBE.
pub const SUBSCRIBE: u8 = 0x82;
/// SUBACK.
pub const SUBACK: u8 = 0x90;
/// UNSUBSCRIBE.
pub const UNSUBSCRIBE: u8 = 0xa2;
/// UNSUBACK.
pub const UNSUBACK: u8 = 0xb0;
/// PINGREQ.
pub const PINGREQ: u8 = 0xc0;
/// PINGRESP.
pub const PINGRESP: u8 = 0xd0;
/// DISCONNECT.
pub const DISCONNECT: u8 = 0xe0;
/// AUTH.
pub const AUTH: u8 = 0xf0;

/// No Local, of the Subscription Options.
pub const NO_LOCAL: u8 = 0x04;
/// Retain As Published, of the Subscription Options.
pub const AS_PUBLISHED: u8 = 0x08;
/// Retain Handling 1: retained messages for a new subscription only.
pub const RETAINED_IF_NEW: u8 = 0x10;
/// Retain Handling 2: no retained messages.
pub const RETAINED_NEVER: u8 = 0x20;

/// A variable byte integer.
pub fn varint(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        bytes.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return bytes;
        }
    }
}

/// Two bytes of length and the bytes.
pub fn binary(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a field of at most 65,535 bytes");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// A string.
pub fn text(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

/// First byte, Remaining Length and body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [vec![first], varint(body.len() as u32), body.to_vec()].concat()
}

/// Properties with their length; nothing before 5.0.
pub fn properties(version: Version, properties: &[u8]) -> Vec<u8> {
    if version == Version::V5 {
        [varint(properties.len() as u32), properties.to_vec()].concat()
    } else {
        Vec::new()
    }
}

/// A will.
#[derive(Clone, Debug)]
pub struct Will {
    /// Will Topic.
    pub topic: Vec<u8>,
    /// Will Payload.
    pub payload: Vec<u8>,
    /// Will QoS.
    pub qos: u8,
    /// Will Retain.
    pub retain: bool,
    /// Will Properties.
    pub properties: Vec<u8>,
}

impl Will {
    /// A will with QoS 0.
    pub fn new(topic: &str, payload: &[u8]) -> Will {
        Will { topic: topic.into(), payload: payload.into(), qos: 0, retain: false, properties: Vec::new() }
    }

    /// With a QoS.
    pub fn qos(self, qos: u8) -> Will {
        Will { qos, ..self }
    }

    /// With Will Retain.
    pub fn retain(self) -> Will {
        Will { retain: true, ..self }
    }

    /// With one more property.
    pub fn property(mut self, bytes: Vec<u8>) -> Will {
        self.properties.extend(bytes);
        self
    }
}

/// A CONNECT.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Version, for the protocol name and the properties.
    pub version: Version,
    /// Protocol name.
    pub name: Vec<u8>,
    /// Protocol level.
    pub level: u8,
    /// Connect Flags other than those that the fields ask for.
    pub flags: Option<u8>,
    /// Clean Start, or Clean Session.
    pub clean: bool,
    /// Keep Alive in seconds.
    pub keep_alive: u16,
    /// Properties.
    pub properties: Vec<u8>,
    /// Client identifier.
    pub client_id: Vec<u8>,
    /// Will.
    pub will: Option<Will>,
    /// User name.
    pub user: Option<Vec<u8>>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// Behind the last field.
    pub tail: Vec<u8>,
}

impl Connect {
    /// A clean session and a Keep Alive of a minute.
    pub fn new(version: Version, client_id: &str) -> Connect {
        let (name, level): (&[u8], u8) = match version {
            Version::V31 => (b"MQIsdp", 3),
            Version::V4 => (b"MQTT", 4),
            Version::V5 => (b"MQTT", 5),
        };
        Connect {
            version,
            name: name.into(),
            level,
            flags: None,
            clean: true,
            keep_alive: 60,
            properties: Vec::new(),
            client_id: client_id.into(),
            will: None,
            user: None,
            password: None,
            tail: Vec::new(),
        }
    }

    /// Resumes, and keeps the session for an hour, in 3.x for as long as the broker does.
    pub fn durable(self) -> Connect {
        let expiry = crate::property::session_expiry(3600);
        let this = self.resume();
        if this.version == Version::V5 { this.property(expiry) } else { this }
    }

    /// Clean Start 0, and nothing else.
    pub fn resume(self) -> Connect {
        Connect { clean: false, ..self }
    }

    /// With one more property; nothing before 5.0.
    pub fn property(mut self, bytes: Vec<u8>) -> Connect {
        self.properties.extend(bytes);
        self
    }

    /// With a will.
    pub fn will(self, will: Will) -> Connect {
        Connect { will: Some(will), ..self }
    }

    /// With a Keep Alive.
    pub fn keep_alive(self, seconds: u16) -> Connect {
        Connect { keep_alive: seconds, ..self }
    }

    /// The flags that the fields ask for.
    pub fn natural_flags(&self) -> u8 {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags | u8::from(self.password.is_some()) << 6 | u8::from(self.user.is_some()) << 7
    }

    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = binary(&self.name);
        body.extend([self.level, self.flags.unwrap_or(self.natural_flags())]);
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(properties(self.version, &self.properties));
        body.extend(binary(&self.client_id));
        if let Some(will) = &self.will {
            body.extend(properties(self.version, &will.properties));
            body.extend(binary(&will.topic));
            body.extend(binary(&will.payload));
        }
        for field in [&self.user, &self.password].into_iter().flatten() {
            body.extend(binary(field));
        }
        body.extend(&self.tail);
        packet(CONNECT, &body)
    }
}

/// A PUBLISH.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Topic name.
    pub topic: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS.
    pub qos: u8,
    /// Packet identifier, written unless the QoS is 0.
    pub id: u16,
    /// RETAIN.
    pub retain: bool,
    /// DUP.
    pub dup: bool,
    /// Properties.
    pub properties: Vec<u8>,
}

impl Publish {
    /// QoS 0.
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Publish {
        Publish {
            topic: topic.into(),
            payload: payload.as_ref().into(),
            qos: 0,
            id: 0,
            retain: false,
            dup: false,
            properties: Vec::new(),
        }
    }

    /// With QoS and packet identifier.
    pub fn qos(self, qos: u8, id: u16) -> Publish {
        Publish { qos, id, ..self }
    }

    /// With RETAIN.
    pub fn retain(self) -> Publish {
        Publish { retain: true, ..self }
    }

    /// With DUP.
    pub fn dup(self) -> Publish {
        Publish { dup: true, ..self }
    }

    /// With one more property; nothing before 5.0.
    pub fn property(mut self, bytes: Vec<u8>) -> Publish {
        self.properties.extend(bytes);
        self
    }

    /// The packet.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = binary(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        body.extend(properties(version, &self.properties));
        body.extend(&self.payload);
        packet(PUBLISH | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

/// A SUBSCRIBE with filters and their options, which before 5.0 are the QoS alone.
pub fn subscribe(version: Version, id: u16, props: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(properties(version, props));
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(SUBSCRIBE, &body)
}

/// An UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(properties(version, &[]));
    for filter in filters {
        body.extend(text(filter));
    }
    packet(UNSUBSCRIBE, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP: success, in its short form.
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// The same with a reason code, which is 5.0.
pub fn ack_with(first: u8, id: u16, code: u8) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    packet(first, &[high, low, code])
}
