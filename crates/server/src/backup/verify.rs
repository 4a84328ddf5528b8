//! Whether a backup file can be restored, and what is in it.
//!
//! Owns: [`verify`], [`Summary`]. Does not: write anything.
//! Invariants: a file that passes restores on every node of a program of this version; whatever is wrong is an error, never a
//! panic. Limits: the state of one group in memory. See: docs/formats/backup.md.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use quorate_state::{
    CONTROL, Control, GroupId, LogIndex, Partition, PartitionConfig, RestoreError, StreamId, StreamSeq,
};
use quorate_storage::AppliedMark;
use serde::Serialize;

use crate::backup::content::{BackupContent, ContentError, Part};
use crate::backup::format::{BackupHead, FormatError};
use crate::exit::ExitCode;
use crate::founding::hex;
use crate::limits::{INCARNATION_MAX, PARTITIONS_MAX};

/// Bytes read from the file at once.
const READ_BYTES: usize = 1024 * 1024;

/// What is in a backup.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Summary {
    /// Identity of the backup.
    pub backup: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Its identity.
    pub cluster_id: String,
    /// When it was taken, by the clock of one node, in milliseconds since 1970.
    pub taken_at_unix_ms: u64,
    /// Version of the program that wrote it.
    pub program: String,
    /// Level in use by the cluster.
    pub level: u32,
    /// Partitions.
    pub partitions: u32,
    /// Sessions.
    pub sessions: u64,
    /// Of these, held by a connection when the backup was taken.
    pub sessions_online: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Queued messages of all sessions.
    pub queued_messages: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Messages that clients had not acknowledged.
    pub inflight: u64,
    /// Topics with a retained message.
    pub retained: u64,
    /// Wills that were due and on their way.
    pub wills_due: u64,
    /// Share groups.
    pub share_groups: u64,
    /// Message bodies.
    pub bodies: u64,
    /// Records of all groups.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The highest incarnation of any node of the cluster.
    #[serde(skip)]
    pub incarnation: u64,
    /// The node identity that the cluster gave last.
    #[serde(skip)]
    pub last_node: u64,
}

/// A backup cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file cannot be opened.
    #[error("open the backup {file}: {source}")]
    Open {
        /// File.
        file: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is not a whole backup.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The program is too old for it.
    #[error(
        "the cluster in the backup uses level {found}, and this program speaks {spoken}: use version {program} or a later one"
    )]
    Level {
        /// Level of the backup.
        found: u32,
        /// Level of the program.
        spoken: u32,
        /// Version that wrote it.
        program: String,
    },
    /// The state machine of a group does not take its records.
    #[error("the backup is damaged: the state of group {group} cannot be restored: {source}")]
    Records {
        /// Group.
        group: u32,
        /// Why.
        source: RestoreError,
    },
    /// A message has no body.
    #[error(
        "the backup is not whole: group {group} refers to a message in entry {index}, which is not in the file"
    )]
    BodyMissing {
        /// Group.
        group: u32,
        /// Entry.
        index: u64,
    },
    /// The groups were not taken at one moment.
    #[error(
        "the backup is not whole: groups {from} and {to} do not fit together: {to} has applied {applied} commands of {from}, \
         which knows of {known} and has made {made}"
    )]
    Cut {
        /// Group that sends commands.
        from: u32,
        /// Group that applies them.
        to: u32,
        /// What the destination has applied.
        applied: u64,
        /// What the source knows to be applied.
        known: u64,
        /// What the source has made.
        made: u64,
    },
    /// What the head says is not what the groups say.
    #[error("the backup is damaged: its head does not belong to its groups: {0}")]
    Head(&'static str),
}

impl From<FormatError> for VerifyError {
    fn from(error: FormatError) -> Self {
        VerifyError::Content(error.into())
    }
}

impl VerifyError {
    /// What the process is to end with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            VerifyError::Open { .. } | VerifyError::Level { .. } => ExitCode::Unavailable,
            VerifyError::Records {
                source: RestoreError::Version(_) | RestoreError::Level { .. }, ..
            }
            | VerifyError::Content(ContentError::Format(FormatError::Version { .. })) => {
                ExitCode::Unavailable
            }
            VerifyError::Content(ContentError::Format(FormatError::Io { .. })) => ExitCode::Disk,
            VerifyError::Content(_)
            | VerifyError::Records { .. }
            | VerifyError::BodyMissing { .. }
            | VerifyError::Cut { .. }
            | VerifyError::Head(_) => ExitCode::Corrupt,
        }
    }
}

/// Opens a backup file and reads its head: enough to see whether this program can restore it.
///
/// # Errors
/// What is wrong with the file or its level.
pub fn open(path: &Path) -> Result<(BackupContent<impl Read + use<>>, BackupHead), VerifyError> {
    let file = File::open(path).map_err(|source| VerifyError::Open { file: path.to_owned(), source })?;
    open_input(BufReader::with_capacity(READ_BYTES, file))
}

fn open_input<R: Read>(input: R) -> Result<(BackupContent<R>, BackupHead), VerifyError> {
    let (content, head) = BackupContent::open(input)?;
    if u64::from(head.settings.partitions()) > PARTITIONS_MAX {
        return Err(VerifyError::Head("it has more partitions than a cluster can have"));
    }
    let (found, spoken) = (head.level, quorate_state::LEVEL);
    if found > spoken {
        return Err(VerifyError::Level { found, spoken, program: head.program });
    }
    Ok((content, head))
}

/// Reads a whole backup file and restores the state machine of each group in memory, one after the other.
///
/// # Errors
/// Why the file cannot be restored.
pub fn verify(path: &Path) -> Result<(BackupHead, Summary), VerifyError> {
    let (content, head) = open(path)?;
    let summary = verify_content(content, &head)?;
    Ok((head, summary))
}

/// As [`verify`], of a file that is in memory.
///
/// # Errors
/// As for [`verify`].
pub fn verify_bytes(file: &[u8]) -> Result<(BackupHead, Summary), VerifyError> {
    let (content, head) = open_input(file)?;
    let summary = verify_content(content, &head)?;
    Ok((head, summary))
}

fn verify_content<R: Read>(mut content: BackupContent<R>, head: &BackupHead) -> Result<Summary, VerifyError> {
    let mut verifier = Verifier::new(head);
    let (mut bodies, mut records) = (Vec::new(), Vec::new());
    while let Some((group, part)) = content.next()? {
        match part {
            Part::Bodies(some) => bodies.extend(some.iter().map(|(index, _)| *index)),
            Part::Records(some) => records.extend(some),
            Part::Mark(mark) => {
                verifier.group(group, &mark, &std::mem::take(&mut bodies), std::mem::take(&mut records))?;
            }
        }
    }
    verifier.check_cut()?;
    let mut summary = verifier.summary;
    if let Some(end) = content.end() {
        (summary.bodies, summary.records) = (end.bodies, end.records);
    }
    summary.bytes = content.bytes();
    // Incarnations grow by one with each start.
    if summary.incarnation > INCARNATION_MAX {
        return Err(VerifyError::Head("an incarnation is beyond all that nodes can have had"));
    }
    Ok(summary)
}

/// Of the commands from one group to another: what the source knows to be applied, and what it has made.
type Sent = (StreamSeq, StreamSeq);

struct Verifier<'a> {
    head: &'a BackupHead,
    summary: Summary,
    /// By source and destination.
    sent: BTreeMap<(u32, u32), Sent>,
    /// By source and destination.
    applied: BTreeMap<(u32, u32), StreamSeq>,
}

impl<'a> Verifier<'a> {
    fn new(head: &'a BackupHead) -> Self {
        let summary = Summary {
            backup: head.backup.clone(),
            cluster: head.cluster.clone(),
            cluster_id: head.cluster_id.clone(),
            taken_at_unix_ms: head.taken_at_unix_ms,
            program: head.program.clone(),
            level: head.level,
            partitions: head.settings.partitions(),
            ..Summary::default()
        };
        Verifier { head, summary, sent: BTreeMap::new(), applied: BTreeMap::new() }
    }

    fn group(
        &mut self,
        group: u32,
        mark: &AppliedMark,
        bodies: &[u64],
        records: Vec<(Bytes, Bytes)>,
    ) -> Result<(), VerifyError> {
        let (applied, number) = (LogIndex(mark.index), GroupId(group));
        let failed = |source| VerifyError::Records { group, source };
        if number == CONTROL {
            let control = Control::restore(applied, records).map_err(failed)?;
            self.control(&control)?;
            self.streams(group, |to| control.outbox_positions(to), |from| control.stream_applied(from));
        } else {
            let settings = &self.head.settings;
            let config = PartitionConfig {
                group: number,
                partitions: settings.partitions(),
                ..settings.partition_config()
            };
            let partition = Partition::restore(config, applied, records).map_err(failed)?;
            self.partition(group, &partition, bodies)?;
            self.streams(group, |to| partition.outbox_positions(to), |from| partition.stream_applied(from));
        }
        Ok(())
    }

    /// Notes what a group has sent to each other one, and what it has applied of them.
    fn streams(
        &mut self,
        group: u32,
        sent: impl Fn(GroupId) -> Sent,
        applied: impl Fn(StreamId) -> StreamSeq,
    ) {
        for other in 0..=self.head.settings.partitions() {
            let sent = sent(GroupId(other));
            if sent != Sent::default() {
                self.sent.insert((group, other), sent);
            }
            let applied = applied(StreamId::Group(GroupId(other)));
            if applied != StreamSeq(0) {
                self.applied.insert((other, group), applied);
            }
        }
    }

    fn control(&mut self, control: &Control) -> Result<(), VerifyError> {
        let config = control.config();
        if hex(&config.cluster_id) != self.head.cluster_id {
            return Err(VerifyError::Head("it names another cluster"));
        }
        if config.partitions != self.head.settings.partitions() {
            return Err(VerifyError::Head("it names another number of partitions"));
        }
        self.summary.incarnation = self.summary.incarnation.max(control.incarnation_max().0);
        self.summary.last_node = control.last_node_id().0;
        Ok(())
    }

    fn partition(&mut self, group: u32, partition: &Partition, bodies: &[u64]) -> Result<(), VerifyError> {
        let mut from = LogIndex(0);
        while let Some(LogIndex(index)) = partition.live_from(from) {
            if bodies.binary_search(&index).is_err() {
                return Err(VerifyError::BodyMissing { group, index });
            }
            from = LogIndex(index.saturating_add(1));
        }
        let counts = partition.counts();
        let summary = &mut self.summary;
        summary.sessions += counts.sessions;
        summary.sessions_online += counts.online;
        summary.subscriptions += counts.subscriptions;
        summary.queued_messages += counts.queued_messages;
        summary.queued_bytes += counts.queued_bytes;
        summary.inflight += counts.inflight;
        summary.retained += counts.retained;
        summary.wills_due += partition.wills_due() as u64;
        summary.share_groups += partition.share_groups() as u64;
        summary.incarnation = summary.incarnation.max(partition.incarnation_max().0);
        Ok(())
    }

    /// A command is numbered once: what was applied was made before, and what is known to be applied was applied. Otherwise
    /// the destination would skip commands of the new cluster, or wait for some that are gone.
    fn check_cut(&self) -> Result<(), VerifyError> {
        for &(from, to) in self.sent.keys().chain(self.applied.keys()) {
            let (known, made) = self.sent.get(&(from, to)).copied().unwrap_or_default();
            let applied = self.applied.get(&(from, to)).copied().unwrap_or_default();
            if applied < known || applied > made {
                let (applied, known, made) = (applied.0, known.0, made.0);
                return Err(VerifyError::Cut { from, to, applied, known, made });
            }
        }
        Ok(())
    }
}
