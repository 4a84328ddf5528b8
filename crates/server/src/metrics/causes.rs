//! How client connections end, in words for metrics.
//!
//! Owns: the closed lists of causes of a disconnect and of reasons for a refused CONNECT. Does not: close anything.
//! Invariants: each connection that got as far as MQTT ends with exactly one cause.

use quorate_codec::ReasonCode;
use quorate_node::client::{CloseCause, Timer};

/// Why a client connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DisconnectCause {
    /// The client sent DISCONNECT.
    Client,
    /// The socket was closed or broke without DISCONNECT.
    Lost,
    /// The client sent nothing for one and a half times its Keep Alive [MQTT-3.1.2-22].
    KeepAlive,
    /// The client took nothing of what waits for it, or sent a packet too slowly.
    Slow,
    /// The client broke a rule of MQTT.
    ProtocolError,
    /// The client went beyond a limit.
    Limit,
    /// The client did not send its CONNECT in time.
    ConnectTimeout,
    /// Its CONNECT was refused.
    Refused,
    /// Another connection has the session now.
    Takeover,
    /// An operator ended it.
    Administrative,
    /// The node is being drained.
    Drain,
    /// The node stops.
    Shutdown,
    /// The node ended it for another reason.
    Node,
}

/// All causes, with their names.
pub const CAUSES: [(DisconnectCause, &str); 13] = [
    (DisconnectCause::Client, "client"),
    (DisconnectCause::Lost, "lost"),
    (DisconnectCause::KeepAlive, "keep_alive"),
    (DisconnectCause::Slow, "slow"),
    (DisconnectCause::ProtocolError, "protocol_error"),
    (DisconnectCause::Limit, "limit"),
    (DisconnectCause::ConnectTimeout, "connect_timeout"),
    (DisconnectCause::Refused, "refused"),
    (DisconnectCause::Takeover, "takeover"),
    (DisconnectCause::Administrative, "administrative"),
    (DisconnectCause::Drain, "drain"),
    (DisconnectCause::Shutdown, "shutdown"),
    (DisconnectCause::Node, "node"),
];

/// What the node does while a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodePhase {
    /// It serves.
    Serving,
    /// It is being drained.
    Draining,
    /// It stops.
    Stopping,
}

impl DisconnectCause {
    /// The cause of an end. `refused`: the CONNECT was answered, and not accepted.
    pub fn of(cause: Option<CloseCause>, refused: bool, node: NodePhase) -> DisconnectCause {
        match cause {
            Some(CloseCause::Disconnect(_)) => DisconnectCause::Client,
            None | Some(CloseCause::Eof) => DisconnectCause::Lost,
            Some(CloseCause::Deadline(Timer::Connect)) => DisconnectCause::ConnectTimeout,
            Some(CloseCause::Deadline(Timer::Answer)) => DisconnectCause::Refused,
            Some(CloseCause::Deadline(Timer::KeepAlive)) => DisconnectCause::KeepAlive,
            Some(CloseCause::Deadline(Timer::Packet | Timer::Output)) => DisconnectCause::Slow,
            Some(CloseCause::Violation(reason)) => of_violation(reason),
            Some(CloseCause::Broker(_)) if refused => DisconnectCause::Refused,
            Some(CloseCause::Broker(reason)) => of_decision(reason, node),
        }
    }
}

fn of_violation(reason: ReasonCode) -> DisconnectCause {
    let limits = [
        ReasonCode::QUOTA_EXCEEDED,
        ReasonCode::PACKET_TOO_LARGE,
        ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
        ReasonCode::MESSAGE_RATE_TOO_HIGH,
        ReasonCode::CONNECTION_RATE_EXCEEDED,
    ];
    if limits.contains(&reason) { DisconnectCause::Limit } else { DisconnectCause::ProtocolError }
}

fn of_decision(reason: ReasonCode, node: NodePhase) -> DisconnectCause {
    match reason {
        ReasonCode::SESSION_TAKEN_OVER => DisconnectCause::Takeover,
        ReasonCode::ADMINISTRATIVE_ACTION => DisconnectCause::Administrative,
        ReasonCode::QUOTA_EXCEEDED | ReasonCode::MESSAGE_RATE_TOO_HIGH => DisconnectCause::Limit,
        ReasonCode::USE_ANOTHER_SERVER | ReasonCode::SERVER_MOVED => DisconnectCause::Drain,
        ReasonCode::SERVER_SHUTTING_DOWN => match node {
            NodePhase::Draining => DisconnectCause::Drain,
            NodePhase::Serving | NodePhase::Stopping => DisconnectCause::Shutdown,
        },
        _ => DisconnectCause::Node,
    }
}

/// Reasons of a refused CONNECT with names of their own; all others count as `other`.
pub const CONNECT_REFUSALS: [(Option<ReasonCode>, &str); 12] = [
    (Some(ReasonCode::UNSUPPORTED_PROTOCOL_VERSION), "unsupported_protocol_version"),
    (Some(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID), "client_identifier_not_valid"),
    (Some(ReasonCode::BAD_USER_NAME_OR_PASSWORD), "bad_user_name_or_password"),
    (Some(ReasonCode::NOT_AUTHORIZED), "not_authorized"),
    (Some(ReasonCode::BAD_AUTHENTICATION_METHOD), "bad_authentication_method"),
    (Some(ReasonCode::BANNED), "banned"),
    (Some(ReasonCode::SERVER_UNAVAILABLE), "server_unavailable"),
    (Some(ReasonCode::SERVER_BUSY), "server_busy"),
    (Some(ReasonCode::QUOTA_EXCEEDED), "quota_exceeded"),
    (Some(ReasonCode::USE_ANOTHER_SERVER), "use_another_server"),
    (Some(ReasonCode::PROTOCOL_ERROR), "protocol_error"),
    (None, "other"),
];

/// The reason with which a CONNECT was refused, if that is how the connection ended.
pub fn refusal_of(cause: Option<CloseCause>) -> Option<ReasonCode> {
    match cause {
        Some(CloseCause::Broker(reason) | CloseCause::Violation(reason)) => Some(reason),
        Some(CloseCause::Deadline(Timer::Answer)) => Some(ReasonCode::SERVER_UNAVAILABLE),
        Some(CloseCause::Disconnect(_) | CloseCause::Eof | CloseCause::Deadline(_)) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_cause() {
        let broker = |reason| Some(CloseCause::Broker(reason));
        let deadline = |timer| Some(CloseCause::Deadline(timer));
        use NodePhase::{Draining, Serving, Stopping};
        for (cause, refused, node, name) in [
            (Some(CloseCause::Disconnect(ReasonCode::SUCCESS)), false, Serving, "client"),
            (Some(CloseCause::Disconnect(ReasonCode::SUCCESS)), false, Draining, "client"),
            (Some(CloseCause::Eof), false, Serving, "lost"),
            (None, false, Serving, "lost"),
            (deadline(Timer::KeepAlive), false, Serving, "keep_alive"),
            (deadline(Timer::Connect), false, Serving, "connect_timeout"),
            (deadline(Timer::Answer), false, Serving, "refused"),
            (deadline(Timer::Output), false, Serving, "slow"),
            (deadline(Timer::Packet), false, Serving, "slow"),
            (Some(CloseCause::Violation(ReasonCode::PROTOCOL_ERROR)), false, Serving, "protocol_error"),
            (Some(CloseCause::Violation(ReasonCode::PACKET_TOO_LARGE)), false, Serving, "limit"),
            (broker(ReasonCode::NOT_AUTHORIZED), true, Serving, "refused"),
            (broker(ReasonCode::SESSION_TAKEN_OVER), false, Draining, "takeover"),
            (broker(ReasonCode::ADMINISTRATIVE_ACTION), false, Serving, "administrative"),
            (broker(ReasonCode::USE_ANOTHER_SERVER), false, Draining, "drain"),
            (broker(ReasonCode::SERVER_SHUTTING_DOWN), false, Draining, "drain"),
            (broker(ReasonCode::SERVER_SHUTTING_DOWN), false, Stopping, "shutdown"),
            (broker(ReasonCode::UNSPECIFIED_ERROR), false, Serving, "node"),
        ] {
            let found = DisconnectCause::of(cause, refused, node);
            let expected = CAUSES.iter().find(|(_, known)| *known == name).unwrap().0;
            assert_eq!(found, expected, "{cause:?} {refused} {node:?}");
        }
    }
}
