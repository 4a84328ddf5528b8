//! How a connection ends.
//!
//! Owns: the causes, and what a 5.0 client is told besides the reason code. Does not: close.
//! Spec: MQTT 5, 3.14, 4.13.

use core::error::Error;

use quorate_codec::{DecodeError, Disconnect, ReasonCode, Text};

use crate::timer::Timer;

/// Why a connection is over. After anything but a DISCONNECT with 0x00 the will is to be published [MQTT-3.1.2-8].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseCause {
    /// The client sent DISCONNECT: 0x00 deletes the will [MQTT-3.14.4-3], 0x04 asks for it.
    Disconnect(ReasonCode),
    /// The client's side of the socket was closed without DISCONNECT.
    Eof,
    /// The client broke a rule, or went beyond a limit.
    Violation(ReasonCode),
    /// A deadline passed.
    Deadline(Timer),
    /// The broker decided so.
    Broker(ReasonCode),
}

/// What CONNACK and DISCONNECT may tell besides the reason code. Both may carry a Reason String even if the client set
/// Request Problem Information to 0; no other packet carries one [MQTT-3.1.2-29].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Explanation {
    pub(crate) reason_string: Option<Text>,
    pub(crate) server_reference: Option<Text>,
}

impl Explanation {
    /// The rule that bytes of the client break. Holds nothing of what the client sent but numbers.
    pub(crate) fn of(error: &DecodeError) -> Self {
        let text = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Explanation { reason_string: Text::parse(&text).ok(), server_reference: None }
    }

    /// A sentence of the machine's own.
    pub(crate) fn text(text: &'static str) -> Self {
        Explanation { reason_string: Some(Text::from_static(text)), server_reference: None }
    }

    /// Another server for the client.
    pub(crate) fn server(server_reference: Text) -> Self {
        Explanation { reason_string: None, server_reference: Some(server_reference) }
    }
}

/// The DISCONNECT of a server, without Session Expiry Interval [MQTT-3.14.2-2].
pub(crate) fn disconnect(reason: ReasonCode, explanation: Explanation) -> Disconnect {
    let Explanation { reason_string, server_reference } = explanation;
    Disconnect {
        reason,
        session_expiry_s: None,
        reason_string,
        server_reference,
        user_properties: Vec::new(),
    }
}
