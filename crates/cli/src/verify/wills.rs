//! A client of a verify run that carries a will: it stays connected, and its connection is cut when the run drains.
//!
//! Owns: the will of each connection, how the connection ends. Does not: see the wills; a subscriber of its own does.
//! Invariants: the connection is in the oracle before its CONNECT leaves; clients of odd numbers end with DISCONNECT,
//! so that a will that nobody should see is looked for too [MQTT-3.1.2-10].

use std::sync::Arc;

use quorate_codec::{Packet, ReasonCode};
use tokio::sync::{mpsc, watch};

use super::client::SessionClient;
use super::oracle::{ClientIndex, Fate};
use super::{Phase, Run};
use crate::client::{self, ClientError, Connection};

/// Runs client `at` until its connection is cut; tells `ready` when it has connected for the first time.
pub async fn run(run: Arc<Run>, at: usize, phases: watch::Receiver<Phase>, ready: mpsc::Sender<()>) {
    let mut session = SessionClient::new(run.clone(), ClientIndex::Willed(at), phases);
    let mut ready = Some(ready);
    let fate = |session: &SessionClient, fate| run.oracle.lock().will_fate(at, session.will_number(), fate);
    while let Some((mut connection, _)) = session.connect().await {
        drop(ready.take());
        fate(&session, Fate::Open);
        match stay(&mut connection, &mut session).await {
            Ok(()) if at.is_multiple_of(2) => {
                fate(&session, Fate::Cut);
                drop(connection);
            }
            Ok(()) => {
                if connection.close(client::disconnect_packet(ReasonCode::SUCCESS)).await.is_err() {
                    fate(&session, Fate::Unknown);
                }
            }
            Err(error) => {
                // Before the first publish nobody may be subscribed to the wills yet.
                let heard = session.phase() > Phase::Preparing;
                fate(&session, if heard { Fate::Cut } else { Fate::Unknown });
                session.lost(&error);
                continue;
            }
        }
        break;
    }
    session.remove().await;
}

/// Keeps the connection alive until the run drains.
async fn stay(connection: &mut Connection, session: &mut SessionClient) -> Result<(), ClientError> {
    loop {
        while let Some(packet) = connection.next_packet()? {
            if packet != Packet::PingResp {
                session.unexpected(&format!("unexpected {}", client::name(&packet)));
            }
        }
        if session.phase() >= Phase::Draining {
            return Ok(());
        }
        tokio::select! {
            progress = connection.exchange(None) => { progress?; }
            () = session.phase_changed() => {}
        }
    }
}
