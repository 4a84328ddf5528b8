//! The packets of MQTT, as types. One type serves all protocol versions; what a version does not have
//! is `None` or empty, and is left out when encoding for it.
//!
//! Owns: the types; how each is read and written is in the file of its name.
//! Does not: keep every packet that can be made of these types valid; encoding checks the rest.
//! Spec: MQTT 5, chapter 3.

use std::fmt;
use std::num::NonZeroU16;

use bytes::Bytes;

use crate::reason::ReasonCode;
use crate::text::Text;
use crate::topic::{TopicFilter, TopicName};

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod publish;
mod subscribe;
mod unsubscribe;

pub use publish::PublishParts;

/// Protocol version, by the level byte of CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ProtocolVersion {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31 = 3,
    /// MQTT 3.1.1 (`MQTT`, level 4).
    V311 = 4,
    /// MQTT 5.0 (`MQTT`, level 5).
    V5 = 5,
}

/// Quality of service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum QoS {
    /// QoS 0.
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS of this number; `None` above 2.
    pub const fn from_value(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Which side of a connection sent a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// The side that sent CONNECT.
    Client,
    /// The side that sent CONNACK.
    Server,
}

/// Type of a packet, by the upper half of its first byte (2.1.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)] // The names are the specification's.
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The type of this number; `None` for 0 and above 15.
    pub const fn from_value(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// Whether this side may send such a packet in this version (2.1.2).
    pub const fn may_come_from(self, sender: Role, version: ProtocolVersion) -> bool {
        let five = matches!(version, ProtocolVersion::V5);
        let client = matches!(sender, Role::Client);
        match self {
            Self::Publish | Self::PubAck | Self::PubRec | Self::PubRel | Self::PubComp => true,
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::PingReq => client,
            Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp => !client,
            Self::Disconnect => client || five,
            Self::Auth => five,
        }
    }

    /// Its name in the specification.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Packet identifier: non-zero, per session and direction [MQTT-2.2.1-3].
pub type PacketId = NonZeroU16;

/// User properties, in the order received [MQTT-3.3.2-18].
pub type UserProperties = Vec<(Text, Text)>;

/// Any packet, either direction.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)] // The names are the specification's.
pub enum Packet {
    Connect(Box<Connect>),
    ConnAck(Box<ConnAck>),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    SubAck(SubAck),
    Unsubscribe(Unsubscribe),
    UnsubAck(UnsubAck),
    PingReq,
    PingResp,
    Disconnect(Disconnect),
    Auth(Auth),
}

impl Packet {
    /// Its type.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

/// CONNECT (3.1).
#[derive(Clone, PartialEq, Debug)]
pub struct Connect {
    /// Protocol name and level.
    pub version: ProtocolVersion,
    /// Clean Start (5.0) or Clean Session (3.x).
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// Client Identifier; empty when the server must assign one.
    pub client_id: Text,
    /// Will message.
    pub will: Option<Will>,
    /// User Name.
    pub username: Option<Text>,
    /// Password.
    pub password: Option<Bytes>,
    /// Session Expiry Interval in seconds; `None` when absent (0 by [MQTT-3.1.2.11.2]).
    pub session_expiry_s: Option<u32>,
    /// Receive Maximum; absent means 65,535.
    pub receive_max: Option<NonZeroU16>,
    /// Maximum Packet Size in bytes.
    pub packet_bytes_max: Option<u32>,
    /// Topic Alias Maximum.
    pub topic_alias_max: Option<u16>,
    /// Request Response Information.
    pub request_response_information: Option<bool>,
    /// Request Problem Information; absent means true.
    pub request_problem_information: Option<bool>,
    /// Authentication Method.
    pub authentication_method: Option<Text>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// The will of a CONNECT (3.1.3.2 to 3.1.3.4).
#[derive(Clone, PartialEq, Debug)]
pub struct Will {
    /// Will Topic.
    pub topic: TopicName,
    /// Will Payload.
    pub payload: Bytes,
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// Will Delay Interval in seconds.
    pub delay_s: Option<u32>,
    /// Properties of the message to publish. Topic alias and subscription identifiers stay empty.
    pub properties: PublishProperties,
}

/// CONNACK (3.2).
#[derive(Clone, PartialEq, Debug)]
pub struct ConnAck {
    /// Session Present.
    pub session_present: bool,
    /// Connect reason code; mapped to a return code for 3.x.
    pub reason: ReasonCode,
    /// Properties, written for 5.0 only.
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK (3.2.2.3).
#[derive(Clone, PartialEq, Debug, Default)]
#[allow(missing_docs)] // The names are the specification's; the units are in the names.
pub struct ConnAckProperties {
    pub session_expiry_s: Option<u32>,
    pub receive_max: Option<NonZeroU16>,
    pub qos_max: Option<QoS>,
    pub retain_available: Option<bool>,
    pub packet_bytes_max: Option<u32>,
    pub assigned_client_id: Option<Text>,
    pub topic_alias_max: Option<u16>,
    pub reason_string: Option<Text>,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_identifiers_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive_s: Option<u16>,
    pub response_information: Option<Text>,
    pub server_reference: Option<Text>,
    pub authentication_method: Option<Text>,
    pub authentication_data: Option<Bytes>,
    pub user_properties: UserProperties,
}

/// PUBLISH (3.3).
#[derive(Clone, PartialEq, Debug)]
pub struct Publish {
    /// Re-delivery of an earlier attempt.
    pub dup: bool,
    /// QoS with its packet identifier.
    pub qos: PublishQoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic name; `None` is the empty name that a topic alias stands for (5.0 only).
    pub topic: Option<TopicName>,
    /// Properties; boxed because most messages have none.
    pub properties: Option<Box<PublishProperties>>,
    /// Application message.
    pub payload: Bytes,
}

/// QoS of a PUBLISH: QoS 1 and 2 carry a packet identifier, QoS 0 must not [MQTT-2.2.1-2].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublishQoS {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce(PacketId),
    /// QoS 2.
    ExactlyOnce(PacketId),
}

impl PublishQoS {
    /// The QoS without the packet identifier.
    pub const fn level(self) -> QoS {
        match self {
            Self::AtMostOnce => QoS::AtMostOnce,
            Self::AtLeastOnce(_) => QoS::AtLeastOnce,
            Self::ExactlyOnce(_) => QoS::ExactlyOnce,
        }
    }

    /// The packet identifier of QoS 1 and 2.
    pub const fn packet_id(self) -> Option<PacketId> {
        match self {
            Self::AtMostOnce => None,
            Self::AtLeastOnce(id) | Self::ExactlyOnce(id) => Some(id),
        }
    }
}

/// Properties of PUBLISH (3.3.2.3).
#[derive(Clone, PartialEq, Debug, Default)]
#[allow(missing_docs)] // The names are the specification's; the units are in the names.
pub struct PublishProperties {
    pub payload_is_utf8: Option<bool>,
    pub message_expiry_s: Option<u32>,
    pub topic_alias: Option<NonZeroU16>,
    pub response_topic: Option<TopicName>,
    pub correlation_data: Option<Bytes>,
    pub user_properties: UserProperties,
    pub subscription_identifiers: Vec<u32>,
    pub content_type: Option<Text>,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP share one form (3.4 to 3.7).
#[derive(Clone, PartialEq, Debug)]
pub struct Ack {
    /// The packet identifier acknowledged.
    pub packet_id: PacketId,
    /// Reason code; success when the packet has none.
    pub reason: ReasonCode,
    /// Reason String.
    pub reason_string: Option<Text>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// SUBSCRIBE (3.8).
#[derive(Clone, PartialEq, Debug)]
pub struct Subscribe {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// Subscription Identifier, 1 to 268,435,455.
    pub identifier: Option<u32>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Topic filters with options, at least one [MQTT-3.8.3-2].
    pub filters: Vec<(TopicFilter, SubscriptionOptions)>,
}

/// Subscription options (3.8.3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling.
    pub retain_handling: RetainHandling,
}

/// Retain Handling (3.8.3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RetainHandling {
    /// Send retained messages at every subscribe.
    Always = 0,
    /// Only if the subscription did not exist.
    IfNew = 1,
    /// Never.
    Never = 2,
}

/// SUBACK (3.9).
#[derive(Clone, PartialEq, Debug)]
pub struct SubAck {
    /// Packet identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// One code per filter, in order. For 3.x a failure is written as 0x80.
    pub reasons: Vec<ReasonCode>,
    /// Reason String.
    pub reason_string: Option<Text>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// UNSUBSCRIBE (3.10).
#[derive(Clone, PartialEq, Debug)]
pub struct Unsubscribe {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties,
    /// Topic filters, at least one [MQTT-3.10.3-2].
    pub filters: Vec<TopicFilter>,
}

/// UNSUBACK (3.11). The reasons are written for 5.0 only.
#[derive(Clone, PartialEq, Debug)]
pub struct UnsubAck {
    /// Packet identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// One code per filter, in order.
    pub reasons: Vec<ReasonCode>,
    /// Reason String.
    pub reason_string: Option<Text>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// DISCONNECT (3.14).
#[derive(Clone, PartialEq, Debug)]
pub struct Disconnect {
    /// Reason code; 3.x has only the normal one, from the client.
    pub reason: ReasonCode,
    /// Session Expiry Interval in seconds, from the client only.
    pub session_expiry_s: Option<u32>,
    /// Reason String.
    pub reason_string: Option<Text>,
    /// Server Reference.
    pub server_reference: Option<Text>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// AUTH (3.15), 5.0 only.
#[derive(Clone, PartialEq, Debug)]
pub struct Auth {
    /// Success, continue authentication, or re-authenticate.
    pub reason: ReasonCode,
    /// Authentication Method.
    pub method: Option<Text>,
    /// Authentication Data.
    pub data: Option<Bytes>,
    /// Reason String.
    pub reason_string: Option<Text>,
    /// User properties.
    pub user_properties: UserProperties,
}
