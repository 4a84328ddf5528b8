//! All clients lose their connections at the same moment and come back at once: how long until all are served again?
//!
//! Owns: the first connections, their end, the return. Does not: publish.
//! Invariants: every client keeps its identifier; whoever is refused or not answered tries again, with pauses that grow.
//! Limits: file descriptors, as for `idle`; `STORM_WAIT_MAX` for the whole return.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use quorate_codec::{Connect, ProtocolVersion};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::idle::raise_descriptor_limit;
use super::summary::{Latency, Storm, Summary, latency_histogram, record};
use super::{Bench, failed};
use crate::client::{self, ClientError, Connection};
use crate::exit::Outcome;
use crate::limits::{RECONNECT_PAUSE_MAX, RECONNECT_PAUSE_MIN};

/// How long the return may take until the measurement gives up.
const STORM_WAIT_MAX: Duration = Duration::from_secs(120);

/// Sessions of a storm outlive their connections by so many seconds.
const SESSION_EXPIRY_S: u32 = 600;

/// A client that is back.
struct Returned {
    connection: Connection,
    took: Duration,
    resumed: bool,
    failures: u64,
}

/// Connects all clients, ends all connections, and measures how they come back.
pub async fn run(bench: &Arc<Bench>) -> Outcome<Summary> {
    raise_descriptor_limit(bench.args.connections)?;
    let mut opening = JoinSet::new();
    for at in 0..bench.args.connections {
        opening.spawn(first(bench.clone(), at));
    }
    let mut connections = Vec::new();
    while let Some(opened) = opening.join_next().await {
        connections.push(opened.context("connect")?.map_err(|error| failed("connect", error))?);
    }
    drop(connections);
    let began = Instant::now();
    let mut returning = JoinSet::new();
    for at in 0..bench.args.connections {
        returning.spawn(again(bench.clone(), at, began));
    }
    let mut latency = latency_histogram();
    let mut storm = Storm { connections: bench.args.connections, ..Storm::default() };
    let mut held = Vec::new();
    let all = async {
        while let Some(returned) = returning.join_next().await {
            let Returned { connection, took, resumed, failures } = returned.context("come back")??;
            record(&mut latency, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            storm.resumed += u32::from(resumed);
            storm.failures += failures;
            // Until all are back, nobody goes.
            held.push(connection);
        }
        anyhow::Ok(())
    };
    let ended = timeout(STORM_WAIT_MAX, all).await;
    storm.latency = Latency::of(&latency);
    let back = held.len();
    drop(held);
    if bench.args.persistent {
        remove_sessions(bench).await?;
    }
    match ended {
        Ok(ended) => ended?,
        Err(_) => {
            let all = bench.args.connections;
            return Err(
                anyhow!("{back} of {all} clients were back after {} s", STORM_WAIT_MAX.as_secs()).into()
            );
        }
    }
    Ok(Summary::of_storm(&bench.args, storm))
}

/// CONNECT of a client, by its number.
fn connect_of(bench: &Bench, at: u32, clean: bool) -> Result<Connect, ClientError> {
    let client_id = client::text(&format!("quorate-bench-{:x}-r{at}", bench.id))
        .map_err(|problem| ClientError::Encode { problem })?;
    let version = bench.args.protocol_version;
    let mut connect = client::connect_packet(version, client_id, 0);
    if bench.args.persistent && !clean {
        connect.clean_start = false;
        connect.session_expiry_s = (version == ProtocolVersion::V5).then_some(SESSION_EXPIRY_S);
    }
    Ok(connect)
}

/// The first connection of a client, a few at a time.
async fn first(bench: Arc<Bench>, at: u32) -> Result<Connection, ClientError> {
    let connect = connect_of(&bench, at, false)?;
    let permit = bench.connecting.acquire().await;
    let broker = bench.broker(usize::try_from(at).unwrap_or(0));
    let (connection, _) = Connection::open(broker, bench.tls.as_ref(), &connect).await?;
    drop(permit);
    Ok(connection)
}

/// Tries until the client is back; each time at the next broker, as clients with a list of them do.
async fn again(bench: Arc<Bench>, at: u32, began: Instant) -> Result<Returned, ClientError> {
    let connect = connect_of(&bench, at, false)?;
    let (mut pause, mut failures) = (RECONNECT_PAUSE_MIN, 0_u64);
    loop {
        let place = u64::from(at).saturating_add(failures);
        let broker = bench.broker(usize::try_from(place).unwrap_or(0));
        if let Ok((connection, connack)) = Connection::open(broker, bench.tls.as_ref(), &connect).await {
            let (took, resumed) = (began.elapsed(), connack.session_present);
            return Ok(Returned { connection, took, resumed, failures });
        }
        failures += 1;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
    }
}

/// Removes what the storm leaves behind.
async fn remove_sessions(bench: &Arc<Bench>) -> anyhow::Result<()> {
    let mut removing = JoinSet::new();
    for at in 0..bench.args.connections {
        let bench = bench.clone();
        removing.spawn(async move {
            let connect = connect_of(&bench, at, true)?;
            let permit = bench.connecting.acquire().await;
            let broker = bench.broker(usize::try_from(at).unwrap_or(0));
            let removed = Connection::open(broker, bench.tls.as_ref(), &connect).await;
            drop(permit);
            removed.map(|_| ())
        });
    }
    while let Some(removed) = removing.join_next().await {
        removed.context("remove the sessions")?.context("remove the sessions")?;
    }
    Ok(())
}
