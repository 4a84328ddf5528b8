//! `GET /v1/listeners`: where clients can connect to the answering node.
//!
//! Owns: names, kinds and addresses of the listeners. Does not: say whether one accepts now; that is `/readyz/{listener}`.
//! Limits: as many as the configuration has.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /v1/listeners`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListenerList {
    /// Name of the node.
    pub node: String,
    /// In the order of the configuration.
    pub listeners: Vec<ListenerAddress>,
}

/// A listener for clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListenerAddress {
    /// Its name in the configuration.
    pub name: String,
    /// `tcp`, `tls`, `websocket` or `websocket-tls`.
    pub kind: String,
    /// `host:port` as bound, so that the host may be unspecified, or `unix:PATH`.
    pub address: String,
}
