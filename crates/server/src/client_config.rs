//! What holds for all client connections of a node, from its configuration.
//!
//! Owns: the translation. Does not: choose limits; `config` and the founding do.

use std::time::Duration;

use quorate_codec::Limits;
use quorate_node::client::ClientConfig;

use crate::config::Config;
use crate::founding::Settings;
use crate::memory::shares::Shares;

/// Messages that wait for the window of one transient session, besides those in its mailbox. From half of this on, they
/// stay in the mailbox.
const DIRECT_QUEUE_MESSAGES_MAX: usize = 20_000;

/// A client of MQTT 3 without Keep Alive is closed after so long without a packet (abuse: dead sockets pile up).
const IDLE_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// Settings for client connections. What replicas must agree on comes from the founding, the rest from the file.
pub fn client_config(config: &Config, settings: &Settings, shares: Shares) -> ClientConfig {
    let limits = &config.limits;
    let partition = settings.partition_config();
    let connection = quorate_node::ConnectionConfig {
        limits: Limits { packet_bytes_max: limits.packet_bytes_max, ..Limits::default() },
        connect_deadline: limits.connect_timeout,
        keep_alive_max_s: u16::try_from(limits.keep_alive_max.as_secs()).unwrap_or(u16::MAX),
        idle_deadline: IDLE_DEADLINE,
        receive_max: limits.receive_max,
        topic_alias_max: limits.topic_alias_max,
        ..quorate_node::ConnectionConfig::default()
    };
    ClientConfig {
        connection,
        session_expiry_max_s: settings.session_expiry_max_s(),
        inflight_max: partition.inflight_max,
        direct_queue_messages_max: DIRECT_QUEUE_MESSAGES_MAX,
        direct_queue_bytes_max: shares.direct_queue_bytes(),
        subscriptions_max: partition.subscriptions_per_session_max,
        partitions: settings.partitions(),
        anonymous_allowed: limits.anonymous,
    }
}
