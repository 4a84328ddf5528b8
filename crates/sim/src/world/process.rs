//! Hosts and the processes that run on them: founding, starting, dying.
//!
//! Owns: disks, identities, clocks; the order of a start, which is the daemon's. Does not: carry out actions.
//! Invariants: a process that has died leaves nothing behind but its disk: every occurrence names the generation it
//! belongs to.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_node::consensus::log::{LogSource, StoredEntry};
use quorate_node::edge::ClientRequest;
use quorate_node::limits::TICK;
use quorate_node::node::MemoryShares;
use quorate_node::{Event as NodeEvent, Node, NodeConfig, Position, RestoredGroup, Routing};
use quorate_state::command::NodeRecord;
use quorate_state::{CONTROL, ConnId, GroupId, Incarnation, LogIndex, NodeId};
use quorate_storage::checkpoint::memory::MemoryCheckpoints;
use quorate_storage::disk::FaultyDisk;
use quorate_storage::disk::memory::MemoryDisk;
use quorate_storage::{
    AppliedMark, CheckpointError, CheckpointStore, Disk, HardState, Identity, Log, LogOptions, LogReader,
    Record, Recovery,
};

use super::atlas::Wound;
use super::connections::ServerConnection;
use super::shell::{Gathered, KeeperJob, LogJob};
use super::trouble::{Cause, Trouble};
use super::{Occurrence, World};
use crate::client::text;
use crate::features::Features;
use crate::marks::Mark;
use crate::mutant::Mutant;
use crate::oracle::Event;
use crate::random::Random;

/// Entries that the mutant cuts off each group's log at a start.
const CUT_ENTRIES: u64 = 3;

/// A machine.
pub(super) struct Host {
    pub(super) place: usize,
    /// What is on its device.
    pub(super) disk: MemoryDisk,
    /// The device as its node sees it.
    pub(super) faulty: FaultyDisk,
    pub(super) checkpoints: MemoryCheckpoints,
    /// Damage that its node has not found.
    pub(super) wound: Option<Wound>,
    /// Its node has found damage that a start does not find, or cannot find what there is: the state is given up at the next
    /// start.
    pub(super) given_up: bool,
    /// Its device has no room.
    pub(super) full: bool,
    /// Faults of its disk before the write that is to go astray.
    pub(super) astray_seen: Option<u64>,
    /// The armed faults of its disk are for this process alone.
    pub(super) heals_at_death: bool,
    /// It has not asked to join yet.
    pub(super) absent: bool,
    /// It has, or had, a node of the cluster.
    pub(super) was_member: bool,
    /// Identity that it had when it last started; changes when the disk is wiped.
    pub(super) node: NodeId,
    pub(super) disk_uuid: [u8; 16],
    /// Waits for control to give it an identity.
    pub(super) joining: bool,
    pub(super) process: Option<Box<Process>>,
    pub(super) paused: bool,
    pub(super) deferred: Vec<Occurrence>,
    /// This host's clock against the world's, in thousandths.
    clock_permille: u64,
    pub(super) clock_offset: Duration,
    pub(super) sync_max: Duration,
}

/// A running node with the shell around it.
pub(super) struct Process {
    pub(super) generation: u64,
    pub(super) node: Node,
    pub(super) routing: Routing,
    pub(super) lease_until: Duration,
    pub(super) lease_incarnation: Incarnation,
    pub(super) log: Log,
    pub(super) reader: LogReader,
    pub(super) identity: Identity,
    pub(super) staged: BTreeMap<GroupId, AppliedMark>,
    pub(super) reports: Vec<NodeEvent>,
    pub(super) from_peers: Vec<NodeEvent>,
    pub(super) requests: VecDeque<(ConnId, ClientRequest)>,
    pub(super) work_scheduled: bool,
    pub(super) log_jobs: VecDeque<LogJob>,
    pub(super) log_syncing: Option<u64>,
    pub(super) log_resetting: bool,
    /// What the log has no room for.
    pub(super) log_waiting: Option<Gathered>,
    /// It will look for room.
    pub(super) log_looks: bool,
    /// The node was told that the log takes nothing more.
    pub(super) log_full: bool,
    pub(super) keeper_jobs: VecDeque<KeeperJob>,
    pub(super) keeper_busy: bool,
    pub(super) connections: BTreeMap<ConnId, Box<ServerConnection>>,
    pub(super) last_conn: u64,
    pub(super) peers: BTreeSet<NodeId>,
    /// Sessions of the links that this process knows to be up.
    pub(super) links: BTreeMap<NodeId, u64>,
    /// Last dead incarnation of each node, as far as this process knows.
    pub(super) dead_nodes: BTreeMap<NodeId, Incarnation>,
    /// Last incarnation of each node that this process has heard of.
    seen: BTreeMap<NodeId, Incarnation>,
    pub(super) behind_since: Option<Duration>,
    /// Where the mutant that accepts gaps believes each stream to be.
    pub(super) stream_next: BTreeMap<(GroupId, String), u64>,
    /// Of a mutant's leader: since when it leads in a term, and how far its followers are in which term.
    pub(super) led_since: BTreeMap<(GroupId, u64), Duration>,
    pub(super) matched: BTreeMap<(GroupId, NodeId), (u64, u64)>,
    /// What ended it.
    pub(super) trouble: Trouble,
    pub(super) dead: bool,
}

impl Process {
    /// A node is linked, or sends something, in an incarnation.
    pub(super) fn saw(&mut self, node: NodeId, incarnation: Incarnation) {
        let seen = self.seen.entry(node).or_default();
        *seen = incarnation.max(*seen);
    }

    /// Nodes that were seen in an incarnation that nobody has declared dead.
    pub(super) fn peers_alive(&self) -> BTreeSet<NodeId> {
        let dead = |node: &NodeId| self.dead_nodes.get(node).copied().unwrap_or_default();
        let alive = |node: &&NodeId| self.seen.get(node).is_some_and(|seen| *seen > dead(node));
        self.peers.iter().filter(alive).copied().collect()
    }

    /// Whether a frame of the routing link was sent by a node, or to this one, in an incarnation that is over.
    pub(super) fn outlived(&self, from: NodeId, (theirs, own): (Incarnation, Incarnation)) -> bool {
        own != self.node.incarnation() || self.dead_nodes.get(&from).is_some_and(|dead| theirs <= *dead)
    }
}

/// Reads of the node from its log. One that fails ends the process: what it answers then, nobody gets to see.
struct StoredLog {
    reader: LogReader,
    trouble: Trouble,
}

impl LogSource for StoredLog {
    fn entries(&self, group: GroupId, low: LogIndex, high: LogIndex, bytes_max: u64) -> Vec<StoredEntry> {
        let entries = match self.reader.entries(group.0, low.0, high.0, bytes_max) {
            Ok(entries) => entries,
            Err(error) => {
                self.trouble.read(&error);
                return self.blanks(group, low, high);
            }
        };
        let stored = |entry: quorate_storage::EntryRecord| StoredEntry {
            index: LogIndex(entry.index),
            term: entry.term,
            entry_type: entry.entry_type,
            data: entry.data,
            context: entry.context,
        };
        entries.into_iter().map(stored).collect()
    }

    fn term(&self, group: GroupId, index: LogIndex) -> Option<u64> {
        self.reader.term(group.0, index.0)
    }

    fn body(&self, group: GroupId, index: LogIndex) -> Option<Bytes> {
        self.reader.body(group.0, index.0).unwrap_or_else(|error| {
            self.trouble.read(&error);
            None
        })
    }
}

impl StoredLog {
    /// Entries that Raft can take, until the process ends in this very turn.
    fn blanks(&self, group: GroupId, low: LogIndex, high: LogIndex) -> Vec<StoredEntry> {
        let blank = |index| StoredEntry {
            index: LogIndex(index),
            term: self.reader.term(group.0, index).unwrap_or(0),
            entry_type: 0,
            data: Bytes::new(),
            context: Bytes::new(),
        };
        (low.0..high.0).map(blank).collect()
    }
}

/// What a start finds on the disk.
struct Recovered {
    identity: Identity,
    log: Log,
    groups: Vec<RestoredGroup>,
    torn: bool,
}

/// A node as all the first nodes know it alike.
pub(super) fn first_record(place: usize) -> NodeRecord {
    NodeRecord {
        id: NodeId(place as u64 + 1),
        name: text(&format!("n{}", place + 1)),
        disk: [place as u8 + 1; 16],
        incarnation: Incarnation(0),
        peer: text(&format!("n{}:1", place + 1)),
        mqtt: text(""),
        admin: text(""),
        zone: text(""),
        version: text(""),
        level: 0,
    }
}

impl Host {
    /// A machine with an empty disk.
    pub(super) fn new(place: usize, features: &Features, random: &mut Random) -> Host {
        let spread = features.clock_permille;
        let clock_permille =
            if spread == 0 { 1000 } else { 1000 - spread + random.next() % (2 * spread + 1) };
        let disk = MemoryDisk::new();
        Host {
            place,
            faulty: FaultyDisk::new(Arc::new(disk.clone()), 0),
            disk,
            checkpoints: MemoryCheckpoints::new(),
            wound: None,
            given_up: false,
            full: false,
            astray_seen: None,
            heals_at_death: false,
            absent: false,
            was_member: true,
            node: NodeId(place as u64 + 1),
            disk_uuid: [place as u8 + 1; 16],
            joining: false,
            process: None,
            paused: false,
            deferred: Vec::new(),
            clock_permille,
            clock_offset: random.millis(0, 100_000),
            sync_max: features.sync_max,
        }
    }

    /// What this host's clock shows.
    pub(super) fn clock(&self, now: Duration) -> Duration {
        let micros = now.as_micros() as u64;
        self.clock_offset + Duration::from_micros(micros * self.clock_permille / 1000)
    }

    /// When this host's clock will show a time, as a time of the world.
    pub(super) fn world_time(&self, shown: Duration) -> Duration {
        let micros = shown.saturating_sub(self.clock_offset).as_micros() as u64;
        Duration::from_micros(micros * 1000 / self.clock_permille + 1)
    }

    /// How long the world must wait for the host's clock to move on by this much.
    pub(super) fn world_span(&self, span: Duration) -> Duration {
        Duration::from_micros(span.as_micros() as u64 * 1000 / self.clock_permille)
    }

    fn log_options(&self, features: &Features) -> LogOptions {
        LogOptions {
            segment_bytes: features.segment_bytes,
            cache_bytes: features.cache_bytes,
            body_file_bytes: 64 << 10,
            salt: 99,
            ..LogOptions::default()
        }
    }

    /// It is not part of the cluster yet; its disk is empty.
    pub(super) fn stay_away(&mut self) {
        self.node = NodeId(0);
        (self.joining, self.absent, self.was_member) = (true, true, false);
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }
}

impl World {
    /// The first start of a founder: everything that comes before its first run, durably.
    pub(super) fn found(&mut self, place: usize) {
        let nodes = self.founders.clone();
        let host = &self.hosts[place];
        let identity = Identity {
            node_id: host.node.0,
            incarnation: 0,
            disk_uuid: host.disk_uuid,
            cluster_id: "simulated".to_owned(),
            node_name: format!("n{}", place + 1),
        };
        identity.create(&host.disk).expect("an empty disk takes an identity");
        let disk: Arc<dyn Disk> = Arc::new(host.disk.clone());
        let (mut log, _) =
            Log::open(disk, host.log_options(&self.features)).expect("an empty disk takes a log");
        let groups =
            Node::bootstrap_groups(&self.settings.cluster, &self.settings.partition, &nodes, host.node);
        for group in groups {
            let (number, first) = (group.group.0, group.checkpoint);
            let mark =
                AppliedMark { index: first.index, term: first.term, conf_state: group.conf_state.to_vec() };
            let records = group.records.iter().map(|(key, value)| (key.to_vec(), Some(value.to_vec())));
            host.checkpoints.write(number, &mark, records.collect()).expect("checkpoints in memory");
            log.reset_group(number, first.index, first.term).expect("a memory disk writes");
            let (term, vote, commit) = group.hard_state;
            let state = HardState { term, vote, commit };
            log.append(&[Record::HardState { group: number, state }]).expect("a memory disk writes");
        }
        log.sync().expect("a memory disk syncs");
        drop(log);
        host.disk.kill();
    }

    /// Starts the process of a host.
    pub(super) fn boot(&mut self, place: usize) {
        let host = &self.hosts[place];
        if host.is_running() || host.joining {
            return;
        }
        if std::mem::take(&mut self.hosts[place].given_up) {
            return self.set_aside(place);
        }
        let host = &self.hosts[place];
        let mut recovered = match host.recover(&self.features) {
            Ok(recovered) => recovered,
            Err(Cause::Damage(what) | Cause::HiddenDamage(what)) => {
                self.history.marks.hit(Mark::DamageAtStart);
                self.history.push(self.now, Event::Note(format!("node {} is damaged: {what}", host.node)));
                return self.set_aside(place);
            }
            Err(Cause::Disk(what)) => {
                self.history.marks.hit(Mark::StartFailed);
                self.history.push(self.now, Event::Note(format!("node {} cannot start: {what}", host.node)));
                host.disk.kill();
                let after = self.random.millis(200, 1000);
                self.schedule(after, Occurrence::Boot(place));
                return;
            }
        };
        let own = Incarnation(recovered.identity.incarnation);
        for other in self.hosts.iter().filter(|other| other.place != place) {
            let Some(process) = &other.process else { continue };
            let witness = process.node.witness_of(host.node);
            if let Some(older) = witness.older(own, &recovered.groups) {
                panic!("node {} has lost what it has shown to node {}: {older}", host.node, other.node);
            }
            witness.guard(&mut recovered.groups);
        }
        // Whatever was done to the disk, it was not where the node needs it.
        self.hosts[place].wound = None;
        self.run_process(place, recovered);
    }

    fn run_process(&mut self, place: usize, recovered: Recovered) {
        self.generation += 1;
        let generation = self.generation;
        let Recovered { identity, log, mut groups, torn } = recovered;
        if torn {
            self.history.marks.hit(Mark::TornTail);
        }
        let host = &self.hosts[place];
        if self.mutant == Some(Mutant::TruncateOnBadChecksum) {
            for group in &mut groups {
                let floor = group.checkpoint.index.max(group.start.index);
                group.last = LogIndex(group.last.0.saturating_sub(CUT_ENTRIES).max(floor));
            }
        }
        let now = host.clock(self.now);
        let record = NodeRecord {
            id: host.node,
            disk: host.disk_uuid,
            incarnation: Incarnation(identity.incarnation),
            level: quorate_state::LEVEL,
            ..first_record(place)
        };
        let config = NodeConfig {
            record: record.clone(),
            cluster: self.settings.cluster.clone(),
            partition: self.settings.partition.clone(),
            listeners: Vec::new(),
            seed: self.random.next(),
            memory: MemoryShares::default(),
        };
        let reader = log.reader();
        let trouble = Trouble::default();
        let source = Arc::new(StoredLog { reader: reader.clone(), trouble: trouble.clone() });
        let count = groups.len();
        let node = match Node::new(config, groups, source, now) {
            Ok(node) => node,
            Err(_) if trouble.is_there() => return self.fails_at_start(place, &trouble),
            Err(error) => panic!("node {} cannot start from what it recovered: {error}", host.node),
        };
        if trouble.is_there() {
            return self.fails_at_start(place, &trouble);
        }
        let peers = self.hosts.iter().map(|other| other.node);
        let peers = peers.filter(|other| *other != host.node && *other != NodeId(0)).collect();
        let process = Process {
            generation,
            node,
            routing: Routing::new(record.id, self.settings.cluster.partitions),
            lease_until: Duration::ZERO,
            lease_incarnation: record.incarnation,
            log,
            reader,
            identity,
            staged: BTreeMap::new(),
            reports: Vec::new(),
            from_peers: Vec::new(),
            requests: VecDeque::new(),
            work_scheduled: false,
            log_jobs: VecDeque::new(),
            log_syncing: None,
            log_resetting: false,
            log_waiting: None,
            log_looks: false,
            log_full: false,
            keeper_jobs: VecDeque::new(),
            keeper_busy: false,
            connections: BTreeMap::new(),
            last_conn: 0,
            peers,
            links: BTreeMap::new(),
            dead_nodes: BTreeMap::new(),
            seen: BTreeMap::new(),
            behind_since: None,
            stream_next: BTreeMap::new(),
            led_since: BTreeMap::new(),
            matched: BTreeMap::new(),
            trouble,
            dead: false,
        };
        let (node, incarnation) = (host.node, process.identity.incarnation);
        self.history
            .push(self.now, Event::Note(format!("node {node} starts as {incarnation} with {count} groups")));
        self.hosts[place].process = Some(Box::new(process));
        let first_tick = self.random.micros(0, 50_000);
        self.schedule(first_tick, Occurrence::Tick(place, generation));
        self.schedule_work(place);
        let compact = self.random.millis(100, 800);
        self.schedule(compact, Occurrence::Compact(place, generation));
        if let Some(every) = self.features.checkpoint_every {
            self.schedule(every, Occurrence::CheckpointWanted(place, generation));
        }
    }

    /// A read failed before the process was there to hear of it.
    fn fails_at_start(&mut self, place: usize, trouble: &Trouble) {
        let cause = trouble.take();
        self.note(|| format!("host {place} cannot start: {cause:?}"));
        let host = &mut self.hosts[place];
        host.disk.kill();
        host.given_up |= matches!(cause, Some(Cause::HiddenDamage(_)));
        self.history.marks.hit(Mark::StartFailed);
        let after = self.random.millis(200, 1000);
        self.schedule(after, Occurrence::Boot(place));
    }

    /// The process of a host is gone from one moment to the next. With `power_lost` the disk forgets what was not
    /// synced; otherwise the operating system keeps it.
    pub(super) fn kill(&mut self, place: usize, power_lost: bool) {
        let Some(process) = self.hosts[place].process.take() else { return };
        let seed = self.random.next();
        let host = &mut self.hosts[place];
        host.paused = false;
        let deferred = std::mem::take(&mut host.deferred);
        if power_lost {
            host.disk.crash(seed);
            self.history.marks.hit(Mark::PowerLost);
        } else {
            host.disk.kill();
        }
        host.checkpoints.crash();
        if std::mem::take(&mut host.heals_at_death) {
            host.faulty.heal();
        }
        host.given_up |= matches!(process.trouble.take(), Some(Cause::HiddenDamage(_)));
        let node = host.node;
        self.close_wound(place);
        self.history.push(self.now, Event::Note(format!("node {node} dies, power lost: {power_lost}")));
        // The peers of a machine without power hear nothing; a dead process is told of at once.
        let silent = power_lost && self.random.permille(400);
        // What nobody will take any more is gone; but the sender of a snapshot sees its connection end.
        for occurrence in deferred {
            if let Occurrence::Snapshot(transfer) = occurrence {
                self.snapshot_refused(&transfer);
            }
        }
        self.links_of_dead(place, silent);
        self.connections_of_dead(place, &process, silent);
    }

    /// The host's process for as long as it is worked on; give it back with `put_back`.
    pub(super) fn take_process(&mut self, place: usize, generation: u64) -> Option<Box<Process>> {
        self.hosts[place].process.take_if(|process| process.generation == generation)
    }

    pub(super) fn put_back(&mut self, place: usize, process: Box<Process>) {
        let dead = process.dead;
        self.hosts[place].process = Some(process);
        if dead {
            self.kill(place, false);
            let after = self.random.millis(50, 500);
            self.schedule(after, Occurrence::Boot(place));
        }
    }

    /// One of the process's own threads reports something.
    pub(super) fn report(&mut self, place: usize, generation: u64, event: NodeEvent) {
        if let Some(process) = self.hosts[place].process.as_mut().filter(|p| p.generation == generation) {
            process.reports.push(event);
            self.schedule_work(place);
        }
    }

    pub(super) fn tick(&mut self, place: usize, generation: u64) {
        self.report(place, generation, NodeEvent::Tick);
        if let Some(process) = self.take_process(place, generation) {
            // A mark, or its answer, may have been lost with its link.
            self.send_marks(place, &process, None);
            self.put_back(place, process);
        }
        if self.hosts[place].process.as_ref().is_some_and(|process| process.generation == generation) {
            let span = self.hosts[place].world_span(TICK);
            self.schedule(span, Occurrence::Tick(place, generation));
        }
    }

    /// The worker wakes soon, once for everything that has gathered by then.
    pub(super) fn schedule_work(&mut self, place: usize) {
        let after = self.random.micros(10, 250);
        if let Some(process) = &mut self.hosts[place].process
            && !std::mem::replace(&mut process.work_scheduled, true)
        {
            let generation = process.generation;
            self.schedule(after, Occurrence::Work(place, generation));
        }
    }

    /// Place of a node, if some host has that identity now.
    pub(super) fn place_of(&self, node: NodeId) -> Option<usize> {
        self.hosts.iter().find(|host| host.node == node).map(|host| host.place)
    }
}

impl Host {
    /// Brings storage back, as a start of the daemon does.
    fn recover(&self, features: &Features) -> Result<Recovered, Cause> {
        let mut identity = Identity::load(&self.faulty).map_err(Cause::disk)?.expect("there is an identity");
        identity.next_incarnation(&self.faulty).map_err(Cause::disk)?;
        let disk: Arc<dyn Disk> = Arc::new(self.faulty.clone());
        let opened = Log::open(disk, self.log_options(features));
        let (mut log, recovery) = opened.map_err(|error| Cause::of(error.is_damage(), &error))?;
        if let Some(lost) = recovery.lost.first() {
            // The daemon asks the others for the payload; here no host does, so what is known of the record does not help.
            return Err(Cause::Damage(format!("entry {} of group {} is lost", lost.index, lost.group)));
        }
        let checkpoint_failed = |error: CheckpointError| Cause::of(error.is_damage(), &error);
        let mut groups = Vec::new();
        for group in self.checkpoints.groups().map_err(checkpoint_failed)? {
            groups.push(restore(&mut log, &recovery, &self.checkpoints, GroupId(group))?);
        }
        if !groups.iter().any(|group| group.group == CONTROL) {
            groups.push(RestoredGroup::empty(CONTROL));
        }
        Ok(Recovered { identity, log, groups, torn: recovery.torn_tail.is_some() })
    }
}

/// A group as storage has it.
fn restore(
    log: &mut Log,
    recovery: &Recovery,
    checkpoints: &MemoryCheckpoints,
    group: GroupId,
) -> Result<RestoredGroup, Cause> {
    let checkpoint_failed = |error: CheckpointError| Cause::of(error.is_damage(), &error);
    let mark = checkpoints.mark(group.0).map_err(checkpoint_failed)?.expect("a group that was listed");
    let reader = log.reader();
    if reader.term(group.0, mark.index) != Some(mark.term) && mark.index >= reader.first_index(group.0) {
        // The process ended between putting a snapshot in force and telling the log.
        log.reset_group(group.0, mark.index, mark.term).map_err(Cause::disk)?;
    }
    let start = reader.first_index(group.0).saturating_sub(1);
    if start > mark.index {
        return Err(Cause::Damage(format!("checkpoint of {group} at {} and log from {start}", mark.index)));
    }
    let hard_state = recovery.groups.get(&group.0).and_then(|group| group.hard_state).unwrap_or_default();
    Ok(RestoredGroup {
        group,
        hard_state: (hard_state.term, hard_state.vote, hard_state.commit),
        conf_state: Bytes::from(mark.conf_state),
        checkpoint: Position { index: mark.index, term: mark.term },
        start: Position { index: start, term: reader.term(group.0, start).unwrap_or(0) },
        last: LogIndex(reader.last_index(group.0).max(start)),
        committed_elsewhere: Position::default(),
        records: load(checkpoints, group).map_err(checkpoint_failed)?,
    })
}

/// All records of a group's checkpoint.
pub(super) fn load(
    checkpoints: &MemoryCheckpoints,
    group: GroupId,
) -> Result<Vec<(Bytes, Bytes)>, CheckpointError> {
    let mut records = Vec::new();
    if let Some(mut view) = checkpoints.view(group.0)? {
        loop {
            let chunk = view.next_chunk(1 << 16)?;
            if chunk.is_empty() {
                break;
            }
            records.extend(chunk);
        }
    }
    Ok(records)
}
