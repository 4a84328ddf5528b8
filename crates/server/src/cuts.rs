//! This node's parts of a backup: views of groups at their cut, kept until they are read.
//!
//! Owns: which are kept and for how long, and reading one as the chunks of a snapshot. Does not: decide on a backup; see
//! `admin/backup.rs`.
//! Invariants: from the moment at which the worker applies a cut until the backup is read or given up, every body counts as
//! alive on this node: nothing that the part refers to is removed.
//! Limits: one backup at a time, a new one gives the one before up; `CUT_CLAIM_WAIT`. Reading a part takes the memory of
//! one more copy of its group's state. See: docs/decisions/0032-backup-cut.md, docs/formats/snapshot.md.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use quorate_node::machine::Machine;
use quorate_state::{BackupId, ClusterConfig, GroupId, LogIndex, PartitionConfig};
use quorate_storage::snapshot::Content;
use quorate_storage::{CheckpointView, LogReader};
use tokio::sync::{Notify, mpsc};

use crate::exit::chain;
use crate::keeper::LOAD_CHUNK_BYTES;
use crate::limits::{CUT_CLAIM_WAIT, CUT_IDLE_MAX, CUT_PART_WAIT, FRAME_BYTES_MAX, PEER_KEEP_ALIVE};
use crate::net::frame::{Frame, FrameKind};
use crate::net::peer::{PeerConnection, PeerError};
use crate::snapshots::{CHUNK_BYTES, ChunkOutput};

/// Why a part cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The replica has not come to its cut.
    #[error("the replica of group {} did not come to its cut within {} s", .0.0, CUT_PART_WAIT.as_secs())]
    Late(GroupId),
    /// Another backup was begun.
    #[error("another backup was begun")]
    GivenUp,
    /// Storage failed.
    #[error("read group {}: {}", .group.0, .cause)]
    Storage {
        /// Group.
        group: GroupId,
        /// Cause.
        cause: String,
    },
    /// A message of the group is not here.
    #[error("the message at entry {} of group {} is gone: the replica was replaced by a snapshot meanwhile", .index.0, .group.0)]
    BodyGone {
        /// Group.
        group: GroupId,
        /// Entry.
        index: LogIndex,
    },
    /// Whoever reads has gone.
    #[error("the reader has gone")]
    ReaderGone,
}

/// A view of one group.
pub type Part = Box<dyn CheckpointView>;

/// The parts that this node keeps.
#[derive(Default)]
pub struct Cuts {
    kept: Mutex<Option<Kept>>,
    changed: Notify,
}

struct Kept {
    backup: BackupId,
    since: Instant,
    claimed: bool,
    parts: BTreeMap<GroupId, Part>,
}

impl Kept {
    fn new(backup: BackupId, claimed: bool) -> Kept {
        Kept { backup, since: Instant::now(), claimed, parts: BTreeMap::new() }
    }
}

impl Cuts {
    /// The worker has applied a cut that this node is to keep: from now on nothing is removed.
    pub fn expect(&self, backup: BackupId) {
        let mut kept = self.kept.lock();
        if kept.as_ref().is_none_or(|kept| kept.backup != backup) {
            *kept = Some(Kept::new(backup, false));
            self.changed.notify_waiters();
        }
    }

    /// The view of a group at its cut.
    pub fn keep(&self, backup: BackupId, group: GroupId, part: Part) {
        if let Some(kept) = self.kept.lock().as_mut().filter(|kept| kept.backup == backup) {
            kept.parts.insert(group, part);
        }
        self.changed.notify_waiters();
    }

    /// Whether parts are kept. Those that nobody claimed in time are given up.
    pub fn are_kept(&self) -> bool {
        let mut kept = self.kept.lock();
        kept.take_if(|kept| !kept.claimed && kept.since.elapsed() > CUT_CLAIM_WAIT);
        kept.is_some()
    }

    /// Says that somebody will read the parts of a backup, which may come yet. They are given up when the claim is dropped.
    pub fn claim(self: &Arc<Self>, backup: BackupId) -> Claim {
        let mut kept = self.kept.lock();
        match kept.as_mut().filter(|kept| kept.backup == backup) {
            Some(kept) => kept.claimed = true,
            None => *kept = Some(Kept::new(backup, true)),
        }
        Claim { cuts: self.clone(), backup }
    }
}

/// The right to read the parts of a backup.
pub struct Claim {
    cuts: Arc<Cuts>,
    backup: BackupId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.cuts.kept.lock().take_if(|kept| kept.backup == self.backup);
    }
}

impl Claim {
    /// Takes a group's part; waits for it while the replica is not there yet.
    ///
    /// # Errors
    /// When it does not come in time, or another backup was begun.
    pub async fn part(&self, group: GroupId) -> Result<Part, CutError> {
        let look = async {
            loop {
                let changed = self.cuts.changed.notified();
                match self.cuts.kept.lock().as_mut().filter(|kept| kept.backup == self.backup) {
                    None => return Err(CutError::GivenUp),
                    Some(kept) => {
                        if let Some(part) = kept.parts.remove(&group) {
                            return Ok(part);
                        }
                    }
                }
                changed.await;
            }
        };
        tokio::time::timeout(CUT_PART_WAIT, look).await.map_err(|_| CutError::Late(group))?
    }
}

/// Reads parts.
#[derive(Clone)]
pub struct PartReader {
    /// Bodies.
    pub reader: LogReader,
    /// Settings of the cluster.
    pub cluster: ClusterConfig,
    /// Settings of its partitions.
    pub partition: PartitionConfig,
}

impl PartReader {
    /// Reads a part as chunks in a thread of its own: bodies, records, the end.
    pub fn read(&self, group: GroupId, part: Part) -> (mpsc::Receiver<Bytes>, PartEnd) {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let this = self.clone();
        (chunks, tokio::task::spawn_blocking(move || this.read_all(group, part, &sender)))
    }

    fn read_all(&self, group: GroupId, mut part: Part, out: &mpsc::Sender<Bytes>) -> Result<(), CutError> {
        let storage = |error: &dyn std::error::Error| CutError::Storage { group, cause: chain(error) };
        let mark = part.mark().clone();
        let mut records = Vec::new();
        loop {
            let chunk = part.next_chunk(LOAD_CHUNK_BYTES).map_err(|error| storage(&error))?;
            if chunk.is_empty() {
                break;
            }
            records.extend(chunk);
        }
        drop(part);
        let applied = LogIndex(mark.index);
        // What is alive is not stored: it is counted from the state.
        let machine = Machine::restore(group, &self.cluster, &self.partition, applied, records.clone());
        let machine = machine.map_err(|error| storage(&error))?;
        let mut output = ChunkOutput::new(group, out);
        let mut put = |content| output.put(content).map_err(|_| CutError::ReaderGone);
        let (mut bodies, mut bytes, mut count) = (Vec::new(), 0, 0);
        let mut next = machine.partition().and_then(|partition| partition.live_from(LogIndex(1)));
        while let Some(index) = next {
            let body = self.reader.body(group.0, index.0).map_err(|error| storage(&error))?;
            let body = body.ok_or(CutError::BodyGone { group, index })?;
            bytes += body.len();
            count += 1;
            bodies.push((index.0, body));
            if bytes >= CHUNK_BYTES {
                put(Content::Bodies(std::mem::take(&mut bodies)))?;
                bytes = 0;
            }
            next = machine.partition().and_then(|partition| partition.live_from(LogIndex(index.0 + 1)));
        }
        drop(machine);
        if !bodies.is_empty() {
            put(Content::Bodies(bodies))?;
        }
        let total = u64::try_from(records.len()).unwrap_or(u64::MAX);
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for (key, value) in records {
            bytes += key.len() + value.len();
            chunk.push((key, value));
            if bytes >= CHUNK_BYTES {
                put(Content::Records(std::mem::take(&mut chunk)))?;
                bytes = 0;
            }
        }
        if !chunk.is_empty() {
            put(Content::Records(chunk))?;
        }
        put(Content::End { mark, bodies: count, records: total })
    }
}

/// A part cannot be given to a peer, or not be had from one.
#[derive(Debug, thiserror::Error)]
pub enum RemoteCutError {
    /// The connection failed.
    #[error("connection for a backup: {0}")]
    Peer(#[from] PeerError),
    /// The part cannot be read.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// The thread that read it has ended badly.
    #[error("the part was not read to its end")]
    Thread,
    /// The other side sent something else than what was agreed.
    #[error("the peer asks for no part of a backup")]
    Content,
    /// The other side says why it cannot.
    #[error("{0}")]
    Refused(String),
}

/// Gives a peer the parts it asks for, until it closes the connection: then what is left is given up.
///
/// # Errors
/// When the connection fails otherwise, or a part cannot be read.
pub async fn serve_peer(
    cuts: &Arc<Cuts>,
    parts: &PartReader,
    connection: &mut PeerConnection,
) -> Result<(), RemoteCutError> {
    let mut claim: Option<Claim> = None;
    let mut idle_since = Instant::now();
    loop {
        let frame = match connection.read(REQUEST_BYTES_MAX).await {
            Ok(frame) => frame,
            Err(PeerError::Closed) => return Ok(()),
            // It is busy with what it has from others.
            Err(PeerError::Timeout) if idle_since.elapsed() < CUT_IDLE_MAX => continue,
            Err(error) => return Err(error.into()),
        };
        let (backup, group) = decode_request(&frame)?;
        let claim = match &claim {
            Some(claim) if claim.backup == backup => claim,
            _ => claim.insert(cuts.claim(backup)),
        };
        let mut part = std::pin::pin!(claim.part(group));
        let part = loop {
            tokio::select! {
                part = &mut part => break part?,
                () = tokio::time::sleep(PEER_KEEP_ALIVE) => connection.write(FrameKind::KeepAlive, &[]).await?,
            }
        };
        let (mut chunks, end) = parts.read(group, part);
        loop {
            tokio::select! {
                chunk = chunks.recv() => match chunk {
                    Some(chunk) => connection.write(FrameKind::SnapshotChunk, &chunk).await?,
                    None => break,
                },
                () = tokio::time::sleep(PEER_KEEP_ALIVE) => connection.write(FrameKind::KeepAlive, &[]).await?,
            }
        }
        end.await.map_err(|_| RemoteCutError::Thread)??;
        idle_since = Instant::now();
    }
}

/// Asks a peer for a part of a backup; its chunks follow.
///
/// # Errors
/// When the connection fails.
pub async fn request(
    connection: &mut PeerConnection,
    backup: BackupId,
    group: GroupId,
) -> Result<(), RemoteCutError> {
    let mut request = BytesMut::with_capacity(REQUEST_BYTES_MAX);
    request.put_u64_le(backup.0);
    request.put_u32_le(group.0);
    Ok(connection.write(FrameKind::BackupRequest, &request).await?)
}

/// The next chunk of what was asked for.
///
/// # Errors
/// When the connection fails, or the peer says why it cannot give it.
pub async fn next_chunk(connection: &mut PeerConnection) -> Result<Bytes, RemoteCutError> {
    loop {
        let frame = connection.read(FRAME_BYTES_MAX).await?;
        match frame.kind {
            FrameKind::KeepAlive => {}
            FrameKind::SnapshotChunk => return Ok(frame.payload),
            FrameKind::BackupRefused => {
                return Err(RemoteCutError::Refused(String::from_utf8_lossy(&frame.payload).into_owned()));
            }
            _ => return Err(RemoteCutError::Content),
        }
    }
}

/// Bytes of a request, with its head.
const REQUEST_BYTES_MAX: usize = 64;

fn decode_request(frame: &Frame) -> Result<(BackupId, GroupId), RemoteCutError> {
    let mut payload = frame.payload.clone();
    let backup = payload.try_get_u64_le().map_err(|_| RemoteCutError::Content)?;
    let group = payload.try_get_u32_le().map_err(|_| RemoteCutError::Content)?;
    let whole = frame.kind == FrameKind::BackupRequest && payload.is_empty();
    whole.then_some((BackupId(backup), GroupId(group))).ok_or(RemoteCutError::Content)
}

/// How reading a part ended.
pub type PartEnd = tokio::task::JoinHandle<Result<(), CutError>>;

/// Chunks read ahead of whoever takes them.
const CHUNKS_AHEAD: usize = 4;

#[cfg(test)]
mod tests {
    use quorate_storage::AppliedMark;

    use super::*;

    struct View(AppliedMark);

    impl CheckpointView for View {
        fn mark(&self) -> &AppliedMark {
            &self.0
        }

        fn next_chunk(
            &mut self,
            _bytes_max: usize,
        ) -> Result<Vec<(Bytes, Bytes)>, quorate_storage::CheckpointError> {
            Ok(Vec::new())
        }
    }

    fn view(index: u64) -> Part {
        Box::new(View(AppliedMark { index, term: 1, conf_state: Vec::new() }))
    }

    #[tokio::test]
    async fn parts_are_kept_from_the_cut_until_the_claim_is_dropped() {
        let cuts: Arc<Cuts> = Arc::default();
        assert!(!cuts.are_kept());
        cuts.expect(BackupId(7));
        assert!(cuts.are_kept(), "before the view is there");
        let claim = cuts.claim(BackupId(7));
        let waiting = claim.part(GroupId(3));
        let keeping = async { cuts.keep(BackupId(7), GroupId(3), view(9)) };
        let (part, ()) = tokio::join!(waiting, keeping);
        assert_eq!(part.unwrap().mark().index, 9);
        assert!(cuts.are_kept(), "while it is being read");
        drop(claim);
        assert!(!cuts.are_kept());
    }

    #[tokio::test]
    async fn claim_may_come_before_the_cut_and_ends_with_another_backup() {
        let cuts: Arc<Cuts> = Arc::default();
        let claim = cuts.claim(BackupId(7));
        cuts.expect(BackupId(7));
        cuts.keep(BackupId(7), GroupId(1), view(5));
        assert_eq!(claim.part(GroupId(1)).await.unwrap().mark().index, 5);
        cuts.expect(BackupId(8));
        cuts.keep(BackupId(7), GroupId(2), view(5));
        assert!(matches!(claim.part(GroupId(2)).await, Err(CutError::GivenUp)));
        drop(claim);
        assert!(cuts.are_kept(), "the other backup's parts stay");
    }
}
