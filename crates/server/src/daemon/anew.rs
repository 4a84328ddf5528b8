//! A node whose state is damaged mends it with what others have, or joins its cluster anew.
//!
//! Owns: what a start does about damaged state: what is waited for, whom to ask, as whom, and what is done when the cluster agrees.
//! Does not: judge damage (`BootError::is_damage`), move files (`damaged`), take part in anything until it has joined.
//! Invariants: nothing is set aside before control has given the new identity, which takes a majority without this node; the
//! old identity gets no link, sends nothing and votes for nobody once damage was found. Only records that are whole are given
//! to those who need them to start: without them there may be no majority that could take this node in.
//! See: docs/decisions/0034-damaged-node-rejoins.md, docs/decisions/0037-damaged-records.md.

use std::sync::Arc;

use quorate_state::{GroupId, Incarnation, LogIndex, NodeId};
use quorate_storage::{Log, LostEntry, Offer};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Addresses, FirstStart, StartError};
use crate::boot::{BootError, DataFolder, Recovered};
use crate::config::Config;
use crate::damaged::Damaged;
use crate::events::NodeEvent;
use crate::exit::chain;
use crate::founding::{Founding, Settings};
use crate::metrics::Metrics;
use crate::net::hello::{Hello, LinkKind};
use crate::net::peer::{Links, PeerPlace};
use crate::peers::PeerReceiver;
use crate::repair::{self, Others, ServedLog};
use crate::snapshots::Install;
use crate::space::Space;
use crate::witness;

/// Pause before other nodes are asked again for what is lost.
const MEND_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// What it takes to bring damaged storage back.
pub struct Anew<'a> {
    /// Who may have what is damaged here; `None` without other nodes.
    pub others: Option<&'a Arc<Others>>,
    /// What answers those who ask this node.
    pub receiver: &'a PeerReceiver,
    pub config: &'a Config,
    /// Of the cluster that the node was in.
    pub founding: &'a Founding,
    pub links: Option<&'a Arc<Links<PeerReceiver>>>,
    pub addresses: &'a Addresses,
    pub space: &'a Arc<Space>,
    pub metrics: &'a Metrics,
}

impl Anew<'_> {
    /// Brings storage back; if it is damaged, by joining anew. Gives the peers too if the cluster has named them.
    pub fn recover(
        &self,
        folder: &mut DataFolder,
        runtime: &Handle,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(Recovered, Vec<PeerPlace>), StartError> {
        let storage = &self.config.storage;
        let settings = Settings::of(self.config);
        let others = settings.bootstrap_list().iter().any(|(name, _)| *name != self.config.node.name);
        let links = self.links.filter(|_| others);
        if folder.damaged.is_none() {
            let recovered = match folder.recover(self.founding, storage) {
                Ok(recovered) => self.mend(recovered, runtime, &mut stop)?,
                Err(error) => Err(error),
            };
            let recovered = recovered.and_then(|recovered| self.check_age(recovered, folder, runtime));
            let error = match recovered {
                Ok(recovered) => return Ok((recovered, Vec::new())),
                Err(error) if error.is_damage() => error,
                Err(error) => return Err(error.into()),
            };
            let reason = chain(&error);
            if links.is_none() {
                tracing::error!(
                    reason,
                    "the node's state is damaged, and there is no other node to get it from"
                );
                return Err(error.into());
            }
            tracing::error!(
                reason,
                node_id = folder.identity.node_id,
                "the node's state is damaged: it will join its cluster anew; nothing is moved until it may"
            );
            folder.give_up(&reason)?;
        }
        let (Some(damaged), Some(links)) = (folder.damaged.clone(), links) else {
            // Noted when there were other nodes to ask, and the configuration no longer names one.
            return Err(BootError::DamagedAlone.into());
        };
        let first = FirstStart {
            config: self.config,
            settings: &settings,
            own: self.new_hello(&damaged, &settings),
            links: Some(links),
            addresses: self.addresses,
            cluster: Some(self.founding.cluster_id()),
        };
        let remains = self.serve_remains(folder);
        let joined = runtime.block_on(async {
            tokio::select! {
                joined = first.join(links) => Ok(joined),
                _ = stop.wait_for(|stop| *stop) => Err(StartError::Stopped),
            }
        })?;
        self.receiver.serve_repairs(None);
        drop(remains);
        folder.begin_anew(&damaged, joined.id, joined.founding, storage)?;
        tracing::warn!(
            given_up = damaged.node_id(),
            node_id = joined.id.0,
            kept_in = damaged.folder(),
            "the node has joined anew, and waits for its first snapshot; its damaged state is kept for analysis"
        );
        let recovered = folder.recover(self.founding, storage)?;
        Ok((recovered, joined.peers))
    }

    /// Gives other nodes what is whole in the damaged state. The log is open as long as what this returns is kept.
    fn serve_remains(&self, folder: &DataFolder) -> Option<Log> {
        // The start may have served its log before it found that it cannot go on with it.
        self.receiver.serve_repairs(None);
        match folder.open_remains(&self.config.storage) {
            Ok(log) => {
                let log = log?;
                self.receiver.serve_repairs(Some(ServedLog { log: log.reader(), goes_on: false }));
                Some(log)
            }
            Err(error) => {
                tracing::info!(
                    reason = chain(&error),
                    "the damaged state has no log that others could have records from"
                );
                None
            }
        }
    }

    /// Gets the payloads of lost entries from other nodes, before this node takes part in anything: what it votes for and
    /// acknowledges it knows from the heads of records, which are whole. For an entry that it cannot start without and that cannot be
    /// had it takes the state of the group from a node that is further. It waits for both until all others have said that they do not
    /// have the entry.
    fn mend(
        &self,
        mut recovered: Recovered,
        runtime: &Handle,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Result<Recovered, BootError>, StartError> {
        let reader = recovered.log.reader();
        self.receiver.serve_repairs(Some(ServedLog { log: reader.clone(), goes_on: true }));
        if let Some(others) = self.others {
            reader.repair_from(others.clone());
        }
        let (mut lost, old): (Vec<LostEntry>, Vec<LostEntry>) =
            std::mem::take(&mut recovered.lost).into_iter().partition(|entry| recovered.needs(entry));
        // A file that is cut off may have held very many. Those that the checkpoint has are got when they are read, or by the walk.
        for entry in &old {
            recovered.do_without(entry);
        }
        let mut told = false;
        loop {
            let offers = reader.mend_all(&lost).map_err(|source| BootError::MendWrite { source })?;
            let mut needed: Vec<(LostEntry, Option<Offer>)> = lost.into_iter().zip(offers).collect();
            needed.retain(|(_, offer)| *offer != Some(Offer::Taken));
            let mut waiting = Vec::new();
            for (entry, offer) in needed {
                // A node that cannot be asked yet may have the entry, which is less to fetch. The state may have come already, for
                // another entry of the group.
                let is_time = told || offer != Some(Offer::NotAllAsked);
                if is_time
                    && recovered.needs(&entry)
                    && let Err(error) = self.take_state(&mut recovered, &entry, runtime)
                {
                    return Ok(Err(error));
                }
                match offer {
                    _ if !recovered.needs(&entry) => recovered.do_without(&entry),
                    Some(Offer::NotAllAsked) => waiting.push(entry),
                    _ => return Ok(Err(BootError::EntryLost { group: entry.group, index: entry.index })),
                }
            }
            if waiting.is_empty() {
                return Ok(Ok(recovered));
            }
            if !told {
                let first = waiting.first().map(|entry| format!("{} of group {}", entry.index, entry.group));
                tracing::warn!(
                    entries = waiting.len(),
                    first = first.unwrap_or_default(),
                    "damaged entries cannot be had yet: the node waits until the other nodes can be asked"
                );
                told = true;
            }
            lost = waiting;
            runtime.block_on(async {
                tokio::select! {
                    () = tokio::time::sleep(MEND_PAUSE) => Ok(()),
                    _ = stop.wait_for(|stop| *stop) => Err(StartError::Stopped),
                }
            })?;
        }
    }

    /// Takes the state of a group from a node whose checkpoint has what a lost entry says. The replica then has what it acknowledged
    /// before and after that, as with a snapshot from its leader.
    fn take_state(
        &self,
        recovered: &mut Recovered,
        entry: &LostEntry,
        runtime: &Handle,
    ) -> Result<(), BootError> {
        let (Some(others), Some(links)) = (self.others, self.links) else { return Ok(()) };
        let (group, index) = (GroupId(entry.group), LogIndex(entry.index));
        let install = Install {
            checkpoints: recovered.checkpoints.clone(),
            bodies: recovered.log.bodies(),
            space: self.space.clone(),
        };
        for (name, address) in others.places() {
            let fetched =
                runtime.block_on(repair::fetch_state(links, (&name, &address), group, index, &install));
            let mark = match fetched {
                Ok(Some(mark)) => mark,
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!(peer = name, %error, "a node cannot be asked for the state of a group");
                    continue;
                }
            };
            if let Err(error) = install.commit(entry.group, &mark) {
                tracing::warn!(group = entry.group, %error, "the state of a group is not taken");
                continue;
            }
            self.metrics.snapshots_installed.add(1);
            tracing::warn!(
                group = entry.group,
                lost = entry.index,
                log_index = mark.index,
                from = name,
                "nobody has a damaged entry any more: the state of its group was taken from a node that is further"
            );
            return recovered.restore_again(group);
        }
        Ok(())
    }

    /// Asks the others whether this disk is the last one of the node, before it takes part in anything: an older one no longer knows what
    /// was acknowledged and voted for.
    fn check_age(
        &self,
        mut recovered: Recovered,
        folder: &DataFolder,
        runtime: &Handle,
    ) -> Result<Recovered, BootError> {
        let (Some(others), Some(links)) = (self.others, self.links) else { return Ok(recovered) };
        let mut places = witness::members(&recovered.groups, NodeId(folder.identity.node_id));
        for place in others.places() {
            if !places.iter().any(|(name, _)| *name == place.0) {
                places.push(place);
            }
        }
        let own = Incarnation(folder.identity.incarnation);
        for (name, witness) in runtime.block_on(witness::ask_all(links, places)) {
            if let Some(older) = witness.older(own, &recovered.groups) {
                return Err(BootError::Older { witness: name, older });
            }
            witness.guard(&mut recovered.groups);
        }
        Ok(recovered)
    }

    /// Who the node wants to be: nobody yet, on another disk.
    fn new_hello(&self, damaged: &Damaged, settings: &Settings) -> Hello {
        Hello {
            link: LinkKind::Join,
            cluster: settings.cluster().to_owned(),
            agreement: settings.fingerprint(),
            cluster_id: [0; 16],
            name: self.config.node.name.clone(),
            id: NodeId(0),
            disk: damaged.new_disk(),
            incarnation: Incarnation(0),
            members: Vec::new(),
        }
    }
}

/// What is to be told of a node that has joined anew.
pub fn event(damaged: &Damaged) -> NodeEvent {
    NodeEvent::JoinedAnew(format!(
        "The node was node {} and has joined anew, because its state was damaged: {}. What is left of it is kept in {}.",
        damaged.node_id(),
        damaged.reason(),
        damaged.folder()
    ))
}
