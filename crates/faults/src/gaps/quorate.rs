//! The broker of this repository, to be measured side by side with others.
//!
//! Owns: one subscriber for each partition. Does not: start processes, which [`Cluster`] does.
//! Invariants: the home partitions of the subscribers are all partitions. Limits: as those of [`Cluster`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quorate_api::duty::TransferAnswer;
use quorate_tests::http;

use super::broker::Broker;
use crate::cluster::Cluster;
use crate::volume::Volume;

/// Client identifiers that are tried until each partition has one.
const CLIENT_IDS_MAX: u32 = 1000;

/// The cluster is whole, and leaders are spread over the nodes, within so long.
const WHOLE_MAX: Duration = Duration::from_secs(120);

/// The broker.
pub struct Quorate {
    cluster: Cluster,
    /// Client identifier of the subscriber of each partition.
    subscribers: BTreeMap<u32, String>,
}

impl Quorate {
    /// Founds a cluster on loopback. `port` is the first of twelve.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn found(dir: &Path, port: u16) -> Result<Quorate> {
        let cluster = Cluster::start_on_loopback(dir, port)?;
        let partitions = cluster.state(0, false)?.groups.iter().filter(|group| group.id > 0).count();
        let admin = cluster.node(0)?.admin.to_string();
        let mut subscribers = BTreeMap::new();
        for number in 0..CLIENT_IDS_MAX {
            if subscribers.len() == partitions {
                break;
            }
            let client_id = format!("gap-{number}");
            let answer = http::request(&admin, &format!("GET /v1/sessions/{client_id}"), &[], "")?;
            let explained = answer.json()?;
            let partition = explained.pointer("/partition").and_then(serde_json::Value::as_u64);
            let partition = partition.with_context(|| format!("the partition of {client_id}"))?;
            subscribers.entry(u32::try_from(partition)?).or_insert(client_id);
        }
        ensure!(subscribers.len() == partitions, "no client identifier was found for some partition");
        Ok(Quorate { cluster, subscribers })
    }
}

impl Broker for Quorate {
    fn listeners(&self) -> Vec<SocketAddr> {
        self.cluster.nodes.iter().map(|node| node.mqtt).collect()
    }

    fn subscribers(&self) -> Vec<String> {
        self.subscribers.values().cloned().collect()
    }

    fn leaders(&self) -> Result<Vec<usize>> {
        let state = self.cluster.state(0, false)?;
        let leader = |partition: &u32| {
            let group = state.groups.iter().find(|group| group.id == *partition);
            let leader = group.and_then(|group| group.leader);
            self.cluster.place(&state, leader.with_context(|| format!("a leader of group {partition}"))?)
        };
        self.subscribers.keys().map(leader).collect()
    }

    fn wait_whole(&mut self) -> Result<()> {
        self.cluster.wait_whole(WHOLE_MAX)?;
        self.cluster.wait_steady(WHOLE_MAX)
    }

    fn pid(&self, place: usize) -> Result<u32> {
        self.cluster.pid(place)
    }

    fn kill(&mut self, place: usize) -> Result<String> {
        let pids = self.cluster.kill(&[place])?;
        Ok(format!("process {pids:?} is gone"))
    }

    fn start(&mut self, place: usize) -> Result<()> {
        self.cluster.run(place)
    }

    fn transfer(&mut self, place: usize) -> Result<String> {
        let node = self.cluster.node(place)?;
        let line = format!("POST /v1/nodes/{}/transfer", node.name);
        let answer = http::request(&node.admin.to_string(), &line, &[http::JSON], "{}")?;
        ensure!(answer.status == 200, "{line}: {} {}", answer.status, answer.body);
        let answer: TransferAnswer = serde_json::from_str(&answer.body)?;
        ensure!(answer.left.is_empty(), "{line}: it leads still: {:?}", answer.left);
        Ok(format!("{} groups moved", answer.moved.len()))
    }

    fn lead_again(&mut self, place: usize) -> Result<()> {
        let node = self.cluster.node(place)?;
        let line = format!("DELETE /v1/nodes/{}/transfer", node.name);
        let answer = http::request(&node.admin.to_string(), &line, &[http::JSON], "")?;
        ensure!(answer.status == 200, "{line}: {} {}", answer.status, answer.body);
        Ok(())
    }

    fn volume(&mut self, place: usize) -> Result<&mut Volume> {
        self.cluster.volume(place)
    }
}
