//! MQTT 5 reason codes.
//!
//! Owns: the codes, the packets that each may stand in, and their 3.x counterparts in CONNACK.
//! Does not: serve as an error inside the program.
//! Invariants: a [`ReasonCode`] is one of the 43 that the specification names.
//! Spec: MQTT 5, 2.4; MQTT 3.1.1, 3.2.2.3.

use std::fmt;

use crate::packet::{PacketType, Role};

/// A reason code on the wire (MQTT 5, 2.4). Codes from 0x80 on are failures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ReasonCode(u8);

use PacketType::{Auth, ConnAck, Disconnect, PubAck, PubComp, PubRec, PubRel, SubAck, UnsubAck};

macro_rules! reason_codes {
    ($($constant:ident = $value:literal, $name:literal, [$($packet:ident),+];)+) => {
        #[allow(missing_docs)] // The names are the specification's.
        impl ReasonCode {
            $(pub const $constant: ReasonCode = ReasonCode($value);)+
        }

        impl ReasonCode {
            /// All codes in ascending order.
            pub const ALL: [ReasonCode; 43] = [$(ReasonCode($value)),+];

            /// The code of this number, if the specification names one.
            pub const fn from_value(value: u8) -> Option<ReasonCode> {
                match value {
                    $($value => Some(ReasonCode($value)),)+
                    _ => None,
                }
            }

            /// Its name in the specification. Zero is called `Success` everywhere.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => $name,)+
                    _ => "",
                }
            }

            /// Whether a packet of this type may carry the code (the tables of MQTT 5, 2.4 and chapter 3).
            pub const fn fits(self, packet: PacketType) -> bool {
                match self.0 {
                    $($value => matches!(packet, $($packet)|+),)+
                    _ => false,
                }
            }
        }
    };
}

reason_codes! {
    SUCCESS = 0x00, "Success",
        [ConnAck, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, Disconnect, Auth];
    GRANTED_QOS_1 = 0x01, "Granted QoS 1", [SubAck];
    GRANTED_QOS_2 = 0x02, "Granted QoS 2", [SubAck];
    DISCONNECT_WITH_WILL_MESSAGE = 0x04, "Disconnect with Will Message", [Disconnect];
    NO_MATCHING_SUBSCRIBERS = 0x10, "No matching subscribers", [PubAck, PubRec];
    NO_SUBSCRIPTION_EXISTED = 0x11, "No subscription existed", [UnsubAck];
    CONTINUE_AUTHENTICATION = 0x18, "Continue authentication", [Auth];
    RE_AUTHENTICATE = 0x19, "Re-authenticate", [Auth];
    UNSPECIFIED_ERROR = 0x80, "Unspecified error", [ConnAck, PubAck, PubRec, SubAck, UnsubAck, Disconnect];
    MALFORMED_PACKET = 0x81, "Malformed Packet", [ConnAck, Disconnect];
    PROTOCOL_ERROR = 0x82, "Protocol Error", [ConnAck, Disconnect];
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83, "Implementation specific error",
        [ConnAck, PubAck, PubRec, SubAck, UnsubAck, Disconnect];
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "Unsupported Protocol Version", [ConnAck];
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, "Client Identifier not valid", [ConnAck];
    BAD_USER_NAME_OR_PASSWORD = 0x86, "Bad User Name or Password", [ConnAck];
    NOT_AUTHORIZED = 0x87, "Not authorized", [ConnAck, PubAck, PubRec, SubAck, UnsubAck, Disconnect];
    SERVER_UNAVAILABLE = 0x88, "Server unavailable", [ConnAck];
    SERVER_BUSY = 0x89, "Server busy", [ConnAck, Disconnect];
    BANNED = 0x8A, "Banned", [ConnAck];
    SERVER_SHUTTING_DOWN = 0x8B, "Server shutting down", [Disconnect];
    BAD_AUTHENTICATION_METHOD = 0x8C, "Bad authentication method", [ConnAck, Disconnect];
    KEEP_ALIVE_TIMEOUT = 0x8D, "Keep Alive timeout", [Disconnect];
    SESSION_TAKEN_OVER = 0x8E, "Session taken over", [Disconnect];
    TOPIC_FILTER_INVALID = 0x8F, "Topic Filter invalid", [SubAck, UnsubAck, Disconnect];
    TOPIC_NAME_INVALID = 0x90, "Topic Name invalid", [ConnAck, PubAck, PubRec, Disconnect];
    PACKET_IDENTIFIER_IN_USE = 0x91, "Packet Identifier in use", [PubAck, PubRec, SubAck, UnsubAck];
    PACKET_IDENTIFIER_NOT_FOUND = 0x92, "Packet Identifier not found", [PubRel, PubComp];
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "Receive Maximum exceeded", [Disconnect];
    TOPIC_ALIAS_INVALID = 0x94, "Topic Alias invalid", [Disconnect];
    PACKET_TOO_LARGE = 0x95, "Packet too large", [ConnAck, Disconnect];
    MESSAGE_RATE_TOO_HIGH = 0x96, "Message rate too high", [Disconnect];
    QUOTA_EXCEEDED = 0x97, "Quota exceeded", [ConnAck, PubAck, PubRec, SubAck, Disconnect];
    ADMINISTRATIVE_ACTION = 0x98, "Administrative action", [Disconnect];
    PAYLOAD_FORMAT_INVALID = 0x99, "Payload format invalid", [ConnAck, PubAck, PubRec, Disconnect];
    RETAIN_NOT_SUPPORTED = 0x9A, "Retain not supported", [ConnAck, Disconnect];
    QOS_NOT_SUPPORTED = 0x9B, "QoS not supported", [ConnAck, Disconnect];
    USE_ANOTHER_SERVER = 0x9C, "Use another server", [ConnAck, Disconnect];
    SERVER_MOVED = 0x9D, "Server moved", [ConnAck, Disconnect];
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E, "Shared Subscriptions not supported", [SubAck, Disconnect];
    CONNECTION_RATE_EXCEEDED = 0x9F, "Connection rate exceeded", [ConnAck, Disconnect];
    MAXIMUM_CONNECT_TIME = 0xA0, "Maximum connect time", [Disconnect];
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1, "Subscription Identifiers not supported", [SubAck, Disconnect];
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2, "Wildcard Subscriptions not supported", [SubAck, Disconnect];
}

impl ReasonCode {
    /// Zero in a SUBACK.
    pub const GRANTED_QOS_0: ReasonCode = ReasonCode::SUCCESS;
    /// Zero in a DISCONNECT.
    pub const NORMAL_DISCONNECTION: ReasonCode = ReasonCode::SUCCESS;

    /// The number on the wire.
    pub const fn value(self) -> u8 {
        self.0
    }

    /// Whether what was asked for was not done: from 0x80 on.
    pub const fn is_failure(self) -> bool {
        self.0 >= 0x80
    }

    /// Whether this side may send the code in a packet of this type: [`Self::fits`], and for DISCONNECT and AUTH the
    /// column "sent by" of their tables (MQTT 5, 3.14.2.1 and 3.15.2.1).
    pub const fn may_come_from(self, sender: Role, packet: PacketType) -> bool {
        if !self.fits(packet) {
            return false;
        }
        match (packet, sender) {
            (Disconnect, Role::Client) => {
                matches!(self.0, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
            }
            (Disconnect, Role::Server) => self.0 != 0x04,
            (Auth, Role::Client) => matches!(self.0, 0x18 | 0x19),
            (Auth, Role::Server) => matches!(self.0, 0x00 | 0x18),
            _ => true,
        }
    }

    /// The return code of a CONNACK before 5.0 that is nearest to this code (MQTT 3.1.1, 3.2.2.3).
    ///
    /// A malformed CONNECT is not answered there at all: close the connection instead [MQTT-3.2.2-6 of 3.1.1].
    pub const fn connack_return_code_v3(self) -> u8 {
        match self {
            ReasonCode::SUCCESS => 0,
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => 1,
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => 2,
            ReasonCode::BAD_USER_NAME_OR_PASSWORD | ReasonCode::BAD_AUTHENTICATION_METHOD => 4,
            ReasonCode::NOT_AUTHORIZED
            | ReasonCode::BANNED
            | ReasonCode::TOPIC_NAME_INVALID
            | ReasonCode::RETAIN_NOT_SUPPORTED
            | ReasonCode::QOS_NOT_SUPPORTED => 5,
            _ => 3,
        }
    }

    /// The code for a return code of a CONNACK before 5.0; `None` above 5, which are reserved.
    pub const fn from_connack_return_code_v3(value: u8) -> Option<ReasonCode> {
        match value {
            0 => Some(ReasonCode::SUCCESS),
            1 => Some(ReasonCode::UNSUPPORTED_PROTOCOL_VERSION),
            2 => Some(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
            3 => Some(ReasonCode::SERVER_UNAVAILABLE),
            4 => Some(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            5 => Some(ReasonCode::NOT_AUTHORIZED),
            _ => None,
        }
    }
}

impl fmt::Debug for ReasonCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ReasonCode(0x{:02x} {})", self.0, self.name())
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (0x{:02x})", self.name(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_codes_are_those_of_the_table() {
        let known: Vec<u8> = (0..=255).filter(|value| ReasonCode::from_value(*value).is_some()).collect();
        let all: Vec<u8> = ReasonCode::ALL.iter().map(|code| code.value()).collect();
        assert_eq!(known, all);
        let success = [0x00, 0x01, 0x02, 0x04, 0x10, 0x11, 0x18, 0x19];
        let table: Vec<u8> = success.into_iter().chain(0x80..=0xA2).collect();
        assert_eq!(all, table);
        for code in ReasonCode::ALL {
            assert!(!code.name().is_empty());
            assert_eq!(code.is_failure(), code.value() >= 0x80);
            assert!(code.connack_return_code_v3() <= 5);
        }
    }

    #[test]
    fn reason_code_fits_the_packets_of_its_row() {
        let fits = |packet| -> Vec<u8> {
            ReasonCode::ALL.into_iter().filter(|code| code.fits(packet)).map(ReasonCode::value).collect()
        };
        assert_eq!(fits(PubAck), [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]); // [MQTT-3.4.2-1]
        assert_eq!(fits(PubRec), fits(PubAck)); // [MQTT-3.5.2-1]
        assert_eq!(fits(PubRel), [0x00, 0x92]); // [MQTT-3.6.2-1]
        assert_eq!(fits(PubComp), [0x00, 0x92]); // [MQTT-3.7.2-1]
        // [MQTT-3.9.3-2]
        assert_eq!(fits(SubAck), [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]);
        assert_eq!(fits(UnsubAck), [0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]); // [MQTT-3.11.3-2]
        assert_eq!(fits(Auth), [0x00, 0x18, 0x19]); // [MQTT-3.15.2-1]
        assert_eq!(fits(ConnAck).len(), 22); // [MQTT-3.2.2-8]
        assert_eq!(fits(PacketType::Publish), [] as [u8; 0]);
    }

    #[test]
    fn connack_return_code_turns_back_into_itself() {
        for value in 0..=5 {
            let code = ReasonCode::from_connack_return_code_v3(value).unwrap();
            assert_eq!(code.connack_return_code_v3(), value);
        }
        assert_eq!(ReasonCode::from_connack_return_code_v3(6), None);
    }
}
