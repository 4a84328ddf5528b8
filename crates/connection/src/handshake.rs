//! CONNECT and CONNACK: what a connection begins with.
//!
//! Owns: the checks of a CONNECT that need no policy, and the CONNACK. Does not: decide who may connect.
//! Spec: MQTT 5, 3.1 and 3.2; MQTT 3.1.1, 3.1.3.1.

use std::num::NonZeroU16;

use quorate_codec::{ConnAck, ConnAckProperties, Connect, ProtocolVersion, ReasonCode};

use crate::close::Explanation;
use crate::config::Config;
use crate::connection::Accept;
use crate::keep_alive::KeepAlive;

/// Why a CONNECT is refused whatever the policy is.
pub(crate) fn check(connect: &Connect) -> Result<(), ReasonCode> {
    // [MQTT-3.1.3-8] of 3.1.1: without an identifier there is no session to keep. 3.1 wants 1 to 23 characters; longer
    // ones are accepted, as 3.1.1 permits.
    let nameless = connect.client_id.is_empty();
    let must_name = match connect.version {
        ProtocolVersion::V31 => true,
        ProtocolVersion::V311 => !connect.clean_start,
        ProtocolVersion::V5 => false,
    };
    if nameless && must_name {
        return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    }
    // [MQTT-4.12.0-1]: no method is supported yet.
    if connect.authentication_method.is_some() {
        return Err(ReasonCode::BAD_AUTHENTICATION_METHOD);
    }
    Ok(())
}

/// The CONNACK of an accepted connection.
pub(crate) fn connack(
    config: &Config,
    accept: Accept,
    asked_expiry_s: Option<u32>,
    keep_alive: KeepAlive,
) -> ConnAck {
    let expiry_changed = accept.session_expiry_s.filter(|granted| *granted != asked_expiry_s.unwrap_or(0));
    let properties = ConnAckProperties {
        session_expiry_s: expiry_changed,
        receive_max: NonZeroU16::new(config.receive_max.max(1)),
        packet_bytes_max: Some(config.limits.packet_bytes_max),
        assigned_client_id: accept.assigned_client_id,
        topic_alias_max: Some(config.topic_alias_max).filter(|max| *max != 0),
        server_keep_alive_s: keep_alive.server_s,
        ..ConnAckProperties::default()
    };
    ConnAck { session_present: accept.session_present, reason: ReasonCode::SUCCESS, properties }
}

/// The CONNACK of a refused connection. Session Present is 0 [MQTT-3.2.2-6]. A refusal never reads as success: a reason
/// that is no failure is told as an unspecified one.
pub(crate) fn refusal(reason: ReasonCode, explanation: Explanation) -> ConnAck {
    let Explanation { reason_string, server_reference } = explanation;
    let reason = if reason.is_failure() { reason } else { ReasonCode::UNSPECIFIED_ERROR };
    let properties = ConnAckProperties { reason_string, server_reference, ..ConnAckProperties::default() };
    ConnAck { session_present: false, reason, properties }
}
