//! Connections that do nothing: what does one cost the server?
//!
//! Owns: opening many connections and holding them. Does not: ping; keep-alive is off.
//! Limits: file descriptors; the soft limit is raised to the hard one.

use std::sync::Arc;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use super::process::{self, Usage};
use super::summary::{Idle, Summary};
use super::{Bench, failed};
use crate::client::{self, ClientError, Connection};
use crate::exit::Outcome;

/// Descriptors that the process needs besides the connections.
const SPARE_DESCRIPTORS: u64 = 64;

/// Opens the connections, holds them, and measures the servers before and after.
pub async fn run(bench: &Arc<Bench>, before: &[Usage]) -> Outcome<Summary> {
    raise_descriptor_limit(bench.args.connections)?;
    let mut opening = JoinSet::new();
    for at in 0..bench.args.connections {
        opening.spawn(open(bench.clone(), at));
    }
    let mut connections = Vec::new();
    while let Some(opened) = opening.join_next().await {
        connections.push(opened.context("connect")?.map_err(|error| failed("connect", error))?);
    }
    let opened_ns = bench.now_ns();
    tokio::time::sleep(bench.args.duration).await;
    let after = process::usage_of(&bench.args.server_pids).context("after the connections")?;
    let resident = |usages: &[Usage]| usages.iter().map(|usage| usage.resident_bytes).sum::<u64>();
    let growth = resident(&after).saturating_sub(resident(before));
    let held = u64::try_from(connections.len()).unwrap_or(u64::MAX);
    let mut lost = 0_u64;
    for connection in &mut connections {
        lost += u64::from(connection.is_broken());
    }
    Ok(Summary::of_idle(
        &bench.args,
        Idle {
            connections: held,
            lost,
            connect_ms: opened_ns / 1_000_000,
            server_bytes_per_connection: (!after.is_empty()).then(|| growth.checked_div(held).unwrap_or(0)),
        },
    ))
}

async fn open(bench: Arc<Bench>, at: u32) -> Result<Connection, ClientError> {
    let client_id = client::text(&format!("quorate-bench-{:x}-i{at}", bench.id))
        .map_err(|problem| ClientError::Encode { problem })?;
    let connect = client::connect_packet(bench.args.protocol_version, client_id, 0);
    let permit = bench.connecting.acquire().await;
    let broker = bench.broker(usize::try_from(at).unwrap_or(0));
    let (connection, _) = Connection::open(broker, bench.tls.as_ref(), &connect).await?;
    drop(permit);
    Ok(connection)
}

/// Lets the process have so many connections.
pub fn raise_descriptor_limit(connections: u32) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::from(connections) + SPARE_DESCRIPTORS;
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("raise the limit of open files")?;
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        anyhow::bail!(
            "{connections} connections need {needed} open files, and the limit is {:?}",
            limit.maximum
        );
    }
    Ok(())
}
