//! `/v1/listeners`: where clients can connect to this node.
//!
//! Owns: the translation of the bound sockets into the API's types. Does not: say whether one accepts now; `health` does.

use axum::extract::State;
use axum::response::Json;
use quorate_api::listeners::{ListenerAddress, ListenerList};

use super::AdminState;

/// The listeners for clients, with the ports that the system chose.
#[utoipa::path(get, path = "/v1/listeners", responses(
    (status = 200, description = "The listeners of this node", body = ListenerList)
))]
pub async fn listeners(State(admin): State<AdminState>) -> Json<ListenerList> {
    let listeners = admin.edge.listeners.iter().map(|listener| ListenerAddress {
        name: listener.name.clone(),
        kind: listener.kind.name().to_owned(),
        address: listener.address.to_string(),
    });
    Json(ListenerList { node: admin.node_name.to_string(), listeners: listeners.collect() })
}
