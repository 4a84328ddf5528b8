//! `POST /v1/backup`: the state of the whole cluster as one stream of bytes, a backup file.
//!
//! Owns: the steps of a backup, which node keeps which group's part, the stream. Does not: keep parts; see `cuts`.
//! Invariants: a step is given to all groups after all have done the one before; a backup whose hold did not last to its end
//! is not begun to be sent; a stream without the frame of its end, or with an error in it, is no backup.
//! Limits: one at a time on a node and, by the hold, in the cluster; `BACKUP_TRIES`, `BACKUP_HOLD_MS`, `BACKUP_PIECE_MAX`, `BACKUP_STALL_MAX`.
//! See: docs/operations/backup.md, docs/formats/backup.md, docs/decisions/0032-backup-cut.md.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use quorate_api::ErrorBody;
use quorate_node::node::{NodeStatus, Operation};
use quorate_state::command::BackupStep;
use quorate_state::control::BACKUP_LEVEL;
use quorate_state::{BackupId, GroupId, NodeId};
use quorate_storage::snapshot::{Chunk, Content};
use tokio::sync::mpsc;

use super::error::ApiError;
use super::{AdminState, ConnectionDeadline};
use crate::backup::format::{BackupEnd, BackupHead, Frame, preamble};
use crate::boot::random;
use crate::cuts::{self, Claim, PartReader};
use crate::events::{NodeEvent, unix_ms};
use crate::founding::Settings;
use crate::limits::{BACKUP_HOLD_MS, BACKUP_PIECE_MAX, BACKUP_STALL_MAX, BACKUP_TRIES};
use crate::net::hello::LinkKind;
use crate::net::peer::PeerConnection;
use crate::operations::OperationError;
use crate::question::{Question, look};

/// Pieces of the stream made ahead of whoever takes them.
const PIECES_AHEAD: usize = 4;

/// What backups are taken with.
pub struct Backups {
    settings: Settings,
    parts: PartReader,
    alone: std::sync::Arc<tokio::sync::Mutex<()>>,
}

impl Backups {
    /// For a node of a cluster with these settings.
    pub fn new(settings: Settings, parts: PartReader) -> Backups {
        Backups { settings, parts, alone: std::sync::Arc::default() }
    }
}

/// A backup of the whole cluster, as a stream of bytes.
#[utoipa::path(post, path = "/v1/backup", responses(
    (status = 200, description = "A backup file. It is whole only with the frame of its end",
        content_type = "application/octet-stream"),
    (status = 409, description = "Another backup is being taken, or the level in use knows none", body = ErrorBody),
    (status = 503, description = "A group did not answer in time", body = ErrorBody)
))]
pub async fn backup(
    State(admin): State<AdminState>,
    Extension(deadline): Extension<ConnectionDeadline>,
) -> Result<Response, ApiError> {
    let Ok(alone) = admin.backups.alone.clone().try_lock_owned() else {
        return Err(ApiError::conflict(
            "backup_underway",
            "this node takes a backup already",
            "wait for its end",
        ));
    };
    let status = admin.ask(|answer| Question::Status { with_hash: false, answer }).await?;
    if status.level < BACKUP_LEVEL {
        let message =
            format!("the cluster uses level {}, and backups need level {BACKUP_LEVEL}", status.level);
        let hint = "upgrade all nodes, then: quorate cluster finalize";
        return Err(ApiError::conflict("level_too_low", message, hint));
    }
    let keepers = keepers(&admin, &status).await?;
    let backup = cut(&admin, &keepers).await?;
    let taken_at_unix_ms = unix_ms();
    tracing::info!(backup = %format!("{:016x}", backup.0), "backup: all groups are cut");
    admin.edge.events.note(&NodeEvent::Backup("A backup of the cluster began.".to_owned()));
    let head = BackupHead {
        backup: format!("{:016x}", backup.0),
        cluster: admin.cluster_name.to_string(),
        cluster_id: admin.cluster_id.to_string(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        level: status.level,
        taken_at_unix_ms,
        settings: admin.backups.settings.clone(),
    };
    let claim = admin.edge.cuts.claim(backup);
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    let output = Output { sender, deadline, bytes: 0, bodies: 0, records: 0 };
    let writing =
        Writing { admin: admin.clone(), backup, keepers, claim, connections: BTreeMap::new(), output };
    tokio::spawn(async move {
        writing.run(head).await;
        drop(alone);
    });
    let stream = futures_util::stream::unfold(pieces, |mut pieces: mpsc::Receiver<Bytes>| async {
        let piece = pieces.recv().await?;
        Some((Ok::<_, io::Error>(piece), pieces))
    });
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(stream)).into_response())
}

/// Who keeps each group's part: this node where it has a replica, otherwise a voter with a link to this node.
async fn keepers(admin: &AdminState, status: &NodeStatus) -> Result<BTreeMap<GroupId, NodeId>, ApiError> {
    let partitions = admin.backups.settings.partitions();
    let placement = look(&admin.edge, move |node, _| {
        let all = (0..=partitions).map(GroupId);
        all.map(|group| (group, node.placement(group).unwrap_or_default())).collect::<BTreeMap<_, _>>()
    });
    let mut keepers = BTreeMap::new();
    for (group, voters) in placement.await? {
        let here =
            status.groups.iter().any(|known| known.group == group && known.voters.contains(&status.id));
        let near = voters.iter().find(|voter| status.peers_up.contains(voter)).copied();
        let Some(keeper) = here.then_some(status.id).or(near) else {
            let message = format!("this node has no link to a replica of group {group}");
            return Err(ApiError::unavailable(
                "group_unreachable",
                message,
                "quorate cluster state shows who is down",
            ));
        };
        keepers.insert(group, keeper);
    }
    Ok(keepers)
}

/// Holds all groups, has each make its cut, lets them go. Gives the backup whose hold lasted to the end.
async fn cut(admin: &AdminState, keepers: &BTreeMap<GroupId, NodeId>) -> Result<BackupId, ApiError> {
    let mut why = String::new();
    for attempt in 0..BACKUP_TRIES {
        let number: [u8; 8] = random().map_err(|error| {
            ApiError::unavailable("no_randomness", error.to_string(), "the system has no random numbers")
        })?;
        let backup = BackupId(u64::from_le_bytes(number));
        let ms = BACKUP_HOLD_MS << attempt;
        match steps(admin, keepers, backup, ms).await {
            Ok(()) => return Ok(backup),
            Err(OperationError::Busy) => {
                let message = OperationError::Busy.to_string();
                return Err(ApiError::unavailable("cluster_busy", message, "ask again"));
            }
            Err(error) => {
                why = error.to_string();
                tracing::warn!(attempt, why, "backup: not all groups were held until all were cut");
                // Whoever holds still, lets go: nobody waits for the end of the hold.
                let _released_or_over = step(admin, keepers, backup, |_| BackupStep::Release).await;
                // Another one may hold, perhaps one whose node has died: its hold ends by itself.
                if attempt + 1 < BACKUP_TRIES {
                    tokio::time::sleep(Duration::from_millis(u64::from(ms))).await;
                }
            }
        }
    }
    let message = format!("the groups could not be cut at one moment in {BACKUP_TRIES} tries: {why}");
    let hint = "another backup may be underway, or a group has no leader: quorate cluster state";
    Err(ApiError::unavailable("backup_failed", message, hint))
}

async fn steps(
    admin: &AdminState,
    keepers: &BTreeMap<GroupId, NodeId>,
    backup: BackupId,
    ms: u32,
) -> Result<(), OperationError> {
    step(admin, keepers, backup, |_| BackupStep::Hold { ms }).await?;
    step(admin, keepers, backup, |node| BackupStep::Cut { node }).await?;
    step(admin, keepers, backup, |_| BackupStep::Release).await
}

async fn step(
    admin: &AdminState,
    keepers: &BTreeMap<GroupId, NodeId>,
    backup: BackupId,
    step: impl Fn(NodeId) -> BackupStep,
) -> Result<(), OperationError> {
    let operation = |(group, keeper): (&GroupId, &NodeId)| Operation::Backup {
        group: *group,
        backup,
        step: step(*keeper),
    };
    let operations = keepers.iter().map(operation).collect();
    admin.edge.operations.carry_out_all(&admin.edge.inbox, operations).await
}

/// A backup on its way out.
struct Writing {
    admin: AdminState,
    backup: BackupId,
    keepers: BTreeMap<GroupId, NodeId>,
    claim: Claim,
    /// To the nodes that keep what this one does not have.
    connections: BTreeMap<NodeId, PeerConnection>,
    output: Output,
}

impl Writing {
    async fn run(mut self, head: BackupHead) {
        let outcome = self.write(head).await;
        let error = outcome.err();
        for (_, connection) in std::mem::take(&mut self.connections) {
            connection.close().await;
        }
        let metrics = &self.admin.edge.metrics;
        match &error {
            None => {
                metrics.backups_taken.add(1);
                metrics.backup_last_s.set(unix_ms() / 1000);
                tracing::info!(bytes = self.output.bytes, "backup: sent to its end");
            }
            Some(error) => {
                metrics.backups_failed.add(1);
                tracing::error!(error, "backup: broken off");
            }
        }
        let said = error.as_ref().map_or("A backup of the cluster was taken.".to_owned(), |error| {
            format!("A backup of the cluster broke off: {error}")
        });
        self.admin.edge.events.note(&NodeEvent::Backup(said));
        let Output { bytes, bodies, records, .. } = self.output;
        let groups = u32::try_from(self.keepers.len()).unwrap_or(u32::MAX);
        let end = BackupEnd { groups, bodies, records, bytes, error };
        // Nobody may be there any more; then nobody has a backup.
        let _sent_or_gone = self.output.put(Frame::End(end).encode()).await;
    }

    async fn write(&mut self, head: BackupHead) -> Result<(), String> {
        self.output.put(preamble()).await?;
        self.output.put(Frame::Head(head).encode()).await?;
        let own = self.admin.edge.node;
        for (group, keeper) in self.keepers.clone() {
            let written = if keeper == own {
                self.write_own(group).await
            } else {
                self.write_from(keeper, group).await
            };
            written.map_err(|error| format!("group {group} of node {keeper}: {error}"))?;
        }
        Ok(())
    }

    async fn write_own(&mut self, group: GroupId) -> Result<(), String> {
        let part = self.claim.part(group).await.map_err(|error| error.to_string())?;
        let (mut chunks, end) = self.admin.backups.parts.read(group, part);
        while let Some(chunk) = chunks.recv().await {
            self.output.chunk(chunk).await?;
        }
        let ended = end.await.map_err(|error| error.to_string())?;
        ended.map_err(|error| error.to_string())
    }

    async fn write_from(&mut self, keeper: NodeId, group: GroupId) -> Result<(), String> {
        let connection = match self.connections.entry(keeper) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => {
                let links = self.admin.edge.links.as_ref().ok_or("there are no links to other nodes")?;
                let opened = links.open(keeper, LinkKind::Backup).await;
                place.insert(opened.map_err(|error| error.to_string())?)
            }
        };
        cuts::request(connection, self.backup, group).await.map_err(|error| error.to_string())?;
        loop {
            let chunk = cuts::next_chunk(connection).await.map_err(|error| error.to_string())?;
            if self.output.chunk(chunk).await? {
                return Ok(());
            }
        }
    }
}

/// Where the stream goes, and what went.
struct Output {
    sender: mpsc::Sender<Bytes>,
    deadline: ConnectionDeadline,
    bytes: u64,
    bodies: u64,
    records: u64,
}

impl Output {
    async fn put(&mut self, piece: Bytes) -> Result<(), String> {
        self.deadline.extend(BACKUP_PIECE_MAX);
        self.bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        let sent = tokio::time::timeout(BACKUP_STALL_MAX, self.sender.send(piece)).await;
        sent.map_err(|_| format!("whoever takes it took nothing for {} s", BACKUP_STALL_MAX.as_secs()))?
            .map_err(|_| "whoever takes it has gone".to_owned())
    }

    /// A chunk of a group; whether it is the last one.
    async fn chunk(&mut self, chunk: Bytes) -> Result<bool, String> {
        let read = Chunk::decode(&chunk).map_err(|error| error.to_string())?;
        let last = match read.content {
            Content::Bodies(_) | Content::Records(_) => false,
            Content::End { bodies, records, .. } => {
                self.bodies += bodies;
                self.records += records;
                true
            }
        };
        self.put(Frame::Chunk(chunk).encode()).await?;
        Ok(last)
    }
}
