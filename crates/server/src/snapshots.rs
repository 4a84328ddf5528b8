//! Snapshots on their way between nodes, each on a connection of its own.
//!
//! Owns: sending a group's checkpoint with the bodies it refers to, receiving and staging one.
//! Does not: put it in force in a node that works; the keeper does when the node says so. A start does it by [`Install::commit`].
//! Invariants: what is staged is complete and checked; a new snapshot of a group replaces one that was only staged, and none that is
//! to be installed.
//! Limits: chunks of `CHUNK_BYTES` or one body, within `FRAME_BYTES_MAX`; at most `SENDS_MAX` at once.
//! See: docs/formats/snapshot.md.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quorate_node::Event;
use quorate_node::consensus::wire;
use quorate_node::peer::PeerMessage;
use quorate_state::{GroupId, LogIndex, NodeId};
use quorate_storage::snapshot::{Chunk, Content};
use quorate_storage::{AppliedMark, Bodies, CheckpointError, CheckpointStore, LogReader};
use tokio::sync::Semaphore;

use crate::exit::{ExitCode, chain, stop_now};
use crate::inbox::Inbox;
use crate::keeper;
use crate::limits::FRAME_BYTES_MAX;
use crate::metrics::Metrics;
use crate::net::frame::FrameKind;
use crate::net::hello::LinkKind;
use crate::net::peer::{Links, PeerConnection, PeerError};
use crate::peers::PeerReceiver;
use crate::question::{LIVE_BLOCK_ENTRIES, LiveIndex, Question, ask};
use crate::space::Space;

/// Bytes of one chunk, about.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Snapshots sent at once.
const SENDS_MAX: usize = 2;

/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// Snapshots that were received whole and wait to be put in force.
#[derive(Default)]
pub struct Staged(Mutex<BTreeMap<GroupId, AppliedMark>>);

impl Staged {
    /// Takes the mark of a staged snapshot out.
    pub fn take(&self, group: GroupId) -> Option<AppliedMark> {
        self.0.lock().remove(&group)
    }
}

/// A snapshot could not be sent or received. The link is closed and Raft tries again.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The connection failed.
    #[error("snapshot connection: {0}")]
    Peer(#[from] PeerError),
    /// The other side sent something that is no snapshot.
    #[error("snapshot from a peer: {0}")]
    Content(&'static str),
    /// The one that came before it is to be put in force. Raft asks for it again.
    #[error("another snapshot of the group is being installed")]
    Installing,
    /// The disk has no room for it. Raft asks for it again.
    #[error("no room on the disk for a snapshot")]
    NoSpace,
    /// Local storage failed.
    #[error("snapshot and storage: {0}")]
    Storage(String),
}

/// The state of the groups of this node, for others to have.
#[derive(Clone)]
pub struct SnapshotSource {
    /// Checkpoints.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// Bodies.
    pub reader: LogReader,
    /// Questions about what is alive.
    pub inbox: Arc<Inbox<Question>>,
}

/// Sends snapshots.
#[derive(Clone)]
pub struct SnapshotSender {
    /// What is sent.
    pub source: SnapshotSource,
    /// Links.
    pub links: Arc<Links<PeerReceiver>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where tasks run.
    pub runtime: tokio::runtime::Handle,
    /// How many may be underway.
    pub places: Arc<Semaphore>,
}

/// The Raft message that announces a snapshot.
pub type SnapshotMessage = Box<raft::eraftpb::Message>;

/// Makes the announcement say what was sent: the checkpoint may have moved on since Raft asked for it.
fn announce(mut message: SnapshotMessage, mark: &AppliedMark) -> Result<SnapshotMessage, SnapshotError> {
    let members = wire::decode_conf_state(Bytes::copy_from_slice(&mark.conf_state))
        .map_err(|_| SnapshotError::Content("the membership of the checkpoint does not decode"))?;
    let metadata = message.mut_snapshot().mut_metadata();
    metadata.index = mark.index;
    metadata.term = mark.term;
    metadata.set_conf_state(members);
    Ok(message)
}

/// Places for snapshots underway.
pub fn send_places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(SENDS_MAX))
}

impl SnapshotSender {
    /// Sends in a task; reports `SnapshotSent`.
    pub fn send(&self, to: NodeId, group: GroupId, message: SnapshotMessage) {
        let this = self.clone();
        self.runtime.spawn(async move {
            let _place = this.places.acquire().await;
            let outcome = this.transfer(to, group, message).await;
            match &outcome {
                Ok(index) => {
                    this.metrics.snapshots_sent.add(1);
                    tracing::info!(peer = to.0, group = group.0, log_index = index.0, "snapshot sent");
                }
                Err(error) => tracing::warn!(peer = to.0, group = group.0, %error, "snapshot not sent"),
            }
            this.source.inbox.report(Event::SnapshotSent { to, group, delivered: outcome.is_ok() });
        });
    }

    async fn transfer(
        &self,
        to: NodeId,
        group: GroupId,
        message: SnapshotMessage,
    ) -> Result<LogIndex, SnapshotError> {
        let mut connection = self.links.open(to, LinkKind::Snapshot).await?;
        let (mut chunks, reading) = self.source.chunks(group);
        while let Some(chunk) = chunks.recv().await {
            connection.write(FrameKind::SnapshotChunk, &chunk).await?;
        }
        let mark = reading.await.map_err(|error| SnapshotError::Storage(error.to_string()))??;
        let message = announce(message, &mark)?;
        let mut announced = BytesMut::new();
        PeerMessage::Raft(group, message).encode(&mut announced);
        connection.write(FrameKind::SnapshotBegin, &announced).await?;
        let answer = connection.read(FRAME_BYTES_MAX).await?;
        if answer.kind != FrameKind::SnapshotStaged {
            return Err(SnapshotError::Content("it did not confirm"));
        }
        Ok(LogIndex(mark.index))
    }
}

impl SnapshotSource {
    /// How far the checkpoint of a group is; `None` without one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn index(&self, group: GroupId) -> Result<Option<LogIndex>, SnapshotError> {
        let mark = self.checkpoints.mark(group.0);
        let mark = mark.map_err(|error| SnapshotError::Storage(chain(&error)))?;
        Ok(mark.map(|mark| LogIndex(mark.index)))
    }

    /// The group's checkpoint in encoded chunks, and then its mark. To be called from a task.
    pub fn chunks(
        &self,
        group: GroupId,
    ) -> (tokio::sync::mpsc::Receiver<Bytes>, tokio::task::JoinHandle<Result<AppliedMark, SnapshotError>>)
    {
        let (sender, chunks) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let this = self.clone();
        (chunks, tokio::task::spawn_blocking(move || this.read(group, &sender)))
    }

    /// Reads the group's checkpoint: bodies, then records, then the end.
    fn read(
        &self,
        group: GroupId,
        out: &tokio::sync::mpsc::Sender<Bytes>,
    ) -> Result<AppliedMark, SnapshotError> {
        let storage = |error: &dyn std::error::Error| SnapshotError::Storage(chain(error));
        let view = self.checkpoints.view(group.0).map_err(|error| storage(&error))?;
        let mut view = view.ok_or(SnapshotError::Content("there is no checkpoint to send"))?;
        let mark = view.mark().clone();
        let mut output = ChunkOutput::new(group, out);
        let bodies = self.read_bodies(group, LogIndex(mark.index), &mut output)?;
        let mut records = 0;
        loop {
            let chunk = view.next_chunk(CHUNK_BYTES).map_err(|error| storage(&error))?;
            if chunk.is_empty() {
                break;
            }
            records += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            output.put(Content::Records(chunk))?;
        }
        output.put(Content::End { mark: mark.clone(), bodies, records })?;
        Ok(mark)
    }

    /// Bodies of all entries up to the checkpoint that something refers to. What died since the checkpoint is left
    /// out: the entries after it say so to the receiver too.
    fn read_bodies(
        &self,
        group: GroupId,
        last: LogIndex,
        output: &mut ChunkOutput<'_>,
    ) -> Result<u64, SnapshotError> {
        let mut count = 0;
        let mut bodies = Vec::new();
        let mut bytes = 0;
        for block in 0..=last.0 / LIVE_BLOCK_ENTRIES {
            let live = LiveIndex::new(self.inbox.clone());
            let first = block * LIVE_BLOCK_ENTRIES;
            for index in first.max(1)..=last.0.min(first + LIVE_BLOCK_ENTRIES - 1) {
                let alive = live.contains(group, LogIndex(index));
                if live.is_incomplete() {
                    return Err(SnapshotError::Content("the worker does not answer"));
                }
                if !alive {
                    continue;
                }
                let body = self
                    .reader
                    .body(group.0, index)
                    .map_err(|error| SnapshotError::Storage(chain(&error)))?;
                let Some(body) = body else { continue };
                bytes += body.len();
                count += 1;
                bodies.push((index, body));
                if bytes >= CHUNK_BYTES {
                    output.put(Content::Bodies(std::mem::take(&mut bodies)))?;
                    bytes = 0;
                }
            }
        }
        if !bodies.is_empty() {
            output.put(Content::Bodies(bodies))?;
        }
        Ok(count)
    }
}

/// Numbers the chunks of a group and hands them on.
pub struct ChunkOutput<'a> {
    group: GroupId,
    number: u64,
    out: &'a tokio::sync::mpsc::Sender<Bytes>,
}

impl<'a> ChunkOutput<'a> {
    /// From chunk 0 on.
    pub fn new(group: GroupId, out: &'a tokio::sync::mpsc::Sender<Bytes>) -> ChunkOutput<'a> {
        ChunkOutput { group, number: 0, out }
    }

    /// The next chunk; waits for room. For threads that may wait.
    pub fn put(&mut self, content: Content) -> Result<(), SnapshotError> {
        let chunk = Chunk { group: self.group.0, number: self.number, content };
        self.number += 1;
        self.out.blocking_send(chunk.encode()).map_err(|_| SnapshotError::Content("the connection ended"))
    }
}

/// Takes in snapshots chunk by chunk.
#[derive(Clone)]
pub struct Install {
    /// Checkpoints.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// Bodies.
    pub bodies: Bodies,
    /// Room on the disk.
    pub space: Arc<Space>,
}

/// Receives snapshots and stages them.
pub struct SnapshotReceiver {
    /// Where they are kept.
    pub install: Install,
    /// What was received whole.
    pub staged: Arc<Staged>,
    /// Reports.
    pub inbox: Arc<Inbox<Question>>,
    /// One at a time: two for one group would mix.
    pub alone: tokio::sync::Mutex<()>,
}

/// What was received so far.
#[derive(Default)]
pub struct Progress {
    group: Option<u32>,
    number: u64,
    bodies: u64,
    records: u64,
    mark: Option<AppliedMark>,
}

impl Progress {
    /// The mark, once all has come.
    pub fn take_mark(&mut self) -> Option<AppliedMark> {
        self.mark.take()
    }

    /// The group, once something has come.
    pub fn group(&self) -> Option<u32> {
        self.group
    }
}

/// A store that failed takes nothing any more, and a node that waits for its first snapshot writes no checkpoint that would tell.
fn refused(error: CheckpointError) -> SnapshotError {
    match error {
        CheckpointError::Store { .. } | CheckpointError::Injected { .. } => keeper::fail(&error),
        other => SnapshotError::Storage(chain(&other)),
    }
}

impl Install {
    /// Decodes a chunk, if there is room for what it holds.
    fn decode(&self, payload: &Bytes) -> Result<Chunk, SnapshotError> {
        let bytes = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        if !self.space.has(bytes.saturating_mul(2)) {
            self.space.give_back();
            return Err(SnapshotError::NoSpace);
        }
        Chunk::decode(payload).map_err(|_| SnapshotError::Content("a chunk does not decode"))
    }

    /// Takes the next chunk in; the first one begins anew for its group. For threads that may wait.
    ///
    /// # Errors
    /// When it is not the next one, or cannot be stored.
    pub fn take(&self, progress: &mut Progress, payload: &Bytes) -> Result<(), SnapshotError> {
        let chunk = self.decode(payload)?;
        self.take_chunk(progress, chunk)
    }

    fn take_chunk(&self, progress: &mut Progress, chunk: Chunk) -> Result<(), SnapshotError> {
        let storage = |error: &dyn std::error::Error| SnapshotError::Storage(chain(error));
        if progress.group.is_none() {
            self.bodies.settle(chunk.group);
            self.checkpoints.begin_install(chunk.group).map_err(refused)?;
            progress.group = Some(chunk.group);
        }
        if progress.group != Some(chunk.group) || progress.number != chunk.number {
            return Err(SnapshotError::Content("a chunk is out of place"));
        }
        progress.number += 1;
        match chunk.content {
            Content::Bodies(bodies) => {
                for (index, body) in bodies {
                    progress.bodies += 1;
                    // A copy of its own, so that one body does not keep its whole chunk in memory.
                    let body = Bytes::copy_from_slice(&body);
                    self.bodies.put(chunk.group, index, body).map_err(|error| storage(&error))?;
                }
            }
            Content::Records(records) => {
                progress.records += u64::try_from(records.len()).unwrap_or(u64::MAX);
                let records =
                    records.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
                self.checkpoints.put_chunk(chunk.group, records).map_err(refused)?;
            }
            Content::End { mark, bodies, records } => {
                if (bodies, records) != (progress.bodies, progress.records) {
                    return Err(SnapshotError::Content("something is missing at its end"));
                }
                self.bodies.seal(chunk.group).map_err(|error| storage(&error))?;
                progress.mark = Some(mark);
            }
        }
        Ok(())
    }

    /// Makes what came whole the state of the group, durably. For threads that may wait.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn commit(&self, group: u32, mark: &AppliedMark) -> Result<(), SnapshotError> {
        self.checkpoints.commit_install(group, mark).map_err(refused)?;
        self.bodies.settle(group);
        Ok(())
    }

    /// Forgets what came. For threads that may wait.
    pub fn give_up(&self, group: u32) {
        self.bodies.settle(group);
        if let Err(error) = self.checkpoints.abort_install(group) {
            stop_now(ExitCode::Disk, &chain(&error));
        }
    }
}

impl SnapshotReceiver {
    /// Receives one snapshot; reports `SnapshotStaged`.
    pub async fn receive(self: &Arc<Self>, from: NodeId, mut connection: PeerConnection) {
        let _alone = self.alone.lock().await;
        let mut progress = Progress::default();
        match self.stage(&mut progress, &mut connection).await {
            Ok((group, message)) => {
                self.inbox.post_peer(vec![Event::SnapshotStaged { from, group, message }], 0).await;
                connection.close().await;
            }
            Err(error) => {
                tracing::warn!(peer = from.0, %error, "snapshot not received");
                if let Some(group) = progress.group {
                    self.give_up(group).await;
                }
            }
        }
    }

    async fn stage(
        self: &Arc<Self>,
        progress: &mut Progress,
        connection: &mut PeerConnection,
    ) -> Result<(GroupId, SnapshotMessage), SnapshotError> {
        loop {
            let frame = connection.read(FRAME_BYTES_MAX).await?;
            match frame.kind {
                FrameKind::SnapshotChunk if progress.mark.is_none() => {
                    let this = self.clone();
                    let mut taken = std::mem::take(progress);
                    let stored = tokio::task::spawn_blocking(move || {
                        let result = this.store(&mut taken, &frame.payload);
                        (taken, result)
                    })
                    .await;
                    let (taken, result) =
                        stored.map_err(|error| SnapshotError::Storage(error.to_string()))?;
                    *progress = taken;
                    result?;
                }
                FrameKind::SnapshotBegin => {
                    let Ok(PeerMessage::Raft(group, message)) = PeerMessage::decode(frame.payload) else {
                        return Err(SnapshotError::Content("its announcement does not decode"));
                    };
                    let mark = progress
                        .mark
                        .take()
                        .ok_or(SnapshotError::Content("it was announced before its end"))?;
                    if progress.group != Some(group.0) {
                        return Err(SnapshotError::Content("it was announced for another group"));
                    }
                    self.staged.0.lock().insert(group, mark);
                    connection.write(FrameKind::SnapshotStaged, &[]).await?;
                    return Ok((group, message));
                }
                _ => return Err(SnapshotError::Content("a frame does not belong to a snapshot")),
            }
        }
    }

    fn store(&self, progress: &mut Progress, payload: &Bytes) -> Result<(), SnapshotError> {
        let chunk = self.install.decode(payload)?;
        if progress.group.is_none() {
            // One that was received whole may be on its way to the keeper: it must still be there when it arrives.
            let group = GroupId(chunk.group);
            if ask(&self.inbox, |answer| Question::Installing { group, answer }).unwrap_or(true) {
                return Err(SnapshotError::Installing);
            }
            self.staged.take(group);
        }
        self.install.take_chunk(progress, chunk)
    }

    async fn give_up(self: &Arc<Self>, group: u32) {
        let install = self.install.clone();
        let _cleaned_or_ended = tokio::task::spawn_blocking(move || install.give_up(group)).await;
    }
}
