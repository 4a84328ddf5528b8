//! Properties of MQTT 5 packets: their identifiers.
//!
//! Owns: the numbers. Does not: know which packet may have which; that is in the `match` of each packet, so that a
//! property that is not read is one that is refused.
//! Spec: MQTT 5, 2.2.2.2.

use std::fmt;

macro_rules! property_ids {
    ($($name:ident = $value:literal,)+) => {
        /// Identifier of a property.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub(crate) enum PropertyId {
            $($name = $value,)+
        }

        impl PropertyId {
            /// The identifier of this number, if the specification names one.
            pub fn from_value(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

property_ids! {
    PayloadFormatIndicator = 0x01,
    MessageExpiryInterval = 0x02,
    ContentType = 0x03,
    ResponseTopic = 0x08,
    CorrelationData = 0x09,
    SubscriptionIdentifier = 0x0B,
    SessionExpiryInterval = 0x11,
    AssignedClientIdentifier = 0x12,
    ServerKeepAlive = 0x13,
    AuthenticationMethod = 0x15,
    AuthenticationData = 0x16,
    RequestProblemInformation = 0x17,
    WillDelayInterval = 0x18,
    RequestResponseInformation = 0x19,
    ResponseInformation = 0x1A,
    ServerReference = 0x1C,
    ReasonString = 0x1F,
    ReceiveMaximum = 0x21,
    TopicAliasMaximum = 0x22,
    TopicAlias = 0x23,
    MaximumQos = 0x24,
    RetainAvailable = 0x25,
    UserProperty = 0x26,
    MaximumPacketSize = 0x27,
    WildcardSubscriptionAvailable = 0x28,
    SubscriptionIdentifierAvailable = 0x29,
    SharedSubscriptionAvailable = 0x2A,
}

/// What a property does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PropertyRule {
    /// No property has this identifier.
    Unknown,
    /// It does not belong into this packet.
    Misplaced,
    /// It belongs into this packet, but not from this side.
    Sender,
    /// It may be there once only.
    Twice,
    /// Its value is not one that it may have.
    Value,
}

impl fmt::Display for PropertyRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unknown => "is unknown",
            Self::Misplaced => "does not belong there",
            Self::Sender => "may not come from this side",
            Self::Twice => "is there twice",
            Self::Value => "has a value that it may not have",
        })
    }
}
