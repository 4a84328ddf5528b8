//! Payloads of damaged records from the other nodes, and the walk that finds damage before a read does.
//!
//! Owns: asking the others and answering them, on connections of their own; the pace of the walk.
//! Does not: judge damage or write anything; the storage takes only what is byte for byte what was written.
//! Invariants: an answer never waits for another repair, so two damaged nodes can mend each other; who asks waits for a bounded time,
//! and for no thread of the runtime that it may itself hold up.
//! Limits: `REPAIR_ANSWER_TIMEOUT` per answer, `REPAIRS_WAITING_MAX` who ask at once, `MENDED_AT_ONCE` records at once, `storage.scrub_bytes_per_second`.
//! See: docs/decisions/0037-damaged-records.md.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use quorate_node::Event;
use quorate_state::{GroupId, LogIndex, NodeId};
use quorate_storage::scrub::{Damage, Scrub};
use quorate_storage::{AppliedMark, Group, Index, LogReader, Offer, Payload, PayloadSource};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::edge::Edge;
use crate::exit::{ExitCode, chain, stop_now};
use crate::inbox::Inbox;
use crate::limits::{
    FRAME_BYTES_MAX, REPAIR_AHEAD_BYTES_MAX, REPAIR_ANSWER_TIMEOUT, REPAIR_CHUNK_BYTES, REPAIRS_TOLD_EVERY,
    REPAIRS_WAITING_MAX, SCRUB_PAUSE_MIN,
};
use crate::metrics::Metrics;
use crate::net::frame::FrameKind;
use crate::net::peer::{LinkReceiver, Links, PeerConnection, PeerError};
use crate::question::{LiveIndex, Question as NodeQuestion, ask};
use crate::snapshots::{Install, Progress, SnapshotError, SnapshotSource};
use crate::witness;

/// Bytes of a question.
const QUESTION_BYTES: usize = 12;

/// Bytes of an answer before the payload.
const ANSWER_HEAD_BYTES: usize = 13;

/// Largest payload that is believed of an answer: a little above the largest record.
const PAYLOAD_BYTES_MAX: u64 = 320 * 1024 * 1024;

/// Name and address of a node.
type Place = (String, String);

/// Says which nodes are linked.
type Members = Box<dyn Fn() -> Vec<Place> + Send + Sync>;

/// Questions to one node.
struct Question {
    place: Place,
    entries: Vec<(Group, Index)>,
    answer: SyncSender<Answer>,
}

enum Answer {
    /// The node was asked: what it has, for as many of the entries as there was room for.
    Asked(Vec<Option<Payload>>),
    Unreachable,
}

/// The other nodes, as those who may have what is damaged here.
pub struct Others {
    questions: SyncSender<Question>,
    /// Known from the configuration, before control names the members.
    bootstrap: Vec<Place>,
    members: Members,
    metrics: Arc<Metrics>,
    /// Payloads that were asked for ahead, and who gave them.
    ahead: Mutex<HashMap<(Group, Index), (String, Payload)>>,
    told: Mutex<Told>,
}

/// Records that were written again since the log last told of it.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    since: u64,
}

impl Others {
    /// Asks the nodes of this list, and those that are linked.
    ///
    /// # Errors
    /// When the thread that asks cannot be started.
    pub fn new<R: LinkReceiver>(
        links: &Arc<Links<R>>,
        bootstrap: Vec<Place>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Arc<Others>> {
        let (questions, asked) = sync_channel(REPAIRS_WAITING_MAX);
        // A runtime of its own: whoever waits for an answer may be a thread of the other one.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Weak, for the links answer from the log, and the log asks here.
        let dialler = Arc::downgrade(links);
        std::thread::Builder::new()
            .name("repair".to_owned())
            .spawn(move || ask_all(&runtime, &dialler, &asked))?;
        let linked = Arc::downgrade(links);
        let members: Members =
            Box::new(move || linked.upgrade().map(|links| links.places()).unwrap_or_default());
        let (ahead, told) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Others { questions, bootstrap, members, metrics, ahead, told }))
    }

    /// Names and addresses of the nodes that are asked.
    pub fn places(&self) -> Vec<Place> {
        let mut places = (self.members)();
        for place in &self.bootstrap {
            if !places.iter().any(|(name, _)| *name == place.0) {
                places.push(place.clone());
            }
        }
        places
    }

    fn ask(&self, place: Place, entries: Vec<(Group, Index)>) -> Answer {
        let (answer, answered) = sync_channel(1);
        let each = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        if self.questions.send(Question { place, entries, answer }).is_err() {
            return Answer::Unreachable;
        }
        // Longer than the questions themselves may take: others may wait before them.
        answered.recv_timeout(REPAIR_ANSWER_TIMEOUT.saturating_mul(each + 1)).unwrap_or(Answer::Unreachable)
    }

    fn tell(&self, group: Group, index: Index, from: &str) {
        self.metrics.damage_repaired.add(1);
        let mut told = self.told.lock();
        told.since += 1;
        if told.at.is_none_or(|at| at.elapsed() >= REPAIRS_TOLD_EVERY) {
            let records = std::mem::take(&mut told.since);
            told.at = Some(Instant::now());
            tracing::warn!(
                records,
                group,
                log_index = index,
                from,
                "damaged records written again, this one last"
            );
        }
    }
}

impl PayloadSource for Others {
    fn ahead(&self, entries: &[(Group, Index)]) {
        let mut left: Vec<(Group, Index)> = entries.to_vec();
        self.ahead.lock().clear();
        for place in self.places() {
            if left.is_empty() {
                return;
            }
            let name = place.0.clone();
            let Answer::Asked(payloads) = self.ask(place, left.clone()) else { continue };
            let mut had = self.ahead.lock();
            let given = left.iter().zip(payloads);
            had.extend(given.filter_map(|(entry, payload)| Some((*entry, (name.clone(), payload?)))));
            left.retain(|entry| !had.contains_key(entry));
        }
    }

    fn offer(&self, group: Group, index: Index, take: &mut dyn FnMut(&Payload) -> bool) -> Offer {
        self.metrics.damage_found.add(1);
        let ahead = self.ahead.lock().remove(&(group, index));
        if let Some((from, payload)) = ahead
            && take(&payload)
        {
            self.tell(group, index, &from);
            return Offer::Taken;
        }
        let mut all_asked = true;
        for place in self.places() {
            let name = place.0.clone();
            match self.ask(place, vec![(group, index)]) {
                Answer::Asked(payloads) => {
                    if payloads.into_iter().flatten().any(|payload| take(&payload)) {
                        self.tell(group, index, &name);
                        return Offer::Taken;
                    }
                }
                Answer::Unreachable => all_asked = false,
            }
        }
        if all_asked { Offer::NobodyHas } else { Offer::NotAllAsked }
    }
}

/// The thread that asks, one node after the other, until nobody can ask any more.
fn ask_all<R: LinkReceiver>(
    runtime: &tokio::runtime::Runtime,
    links: &Weak<Links<R>>,
    questions: &Receiver<Question>,
) {
    let mut connections: HashMap<String, PeerConnection> = HashMap::new();
    while let Ok(question) = questions.recv() {
        let Question { place: (name, address), entries, answer } = question;
        let Some(links) = links.upgrade() else { return };
        let kept = connections.remove(&name);
        let asked = runtime.block_on(ask_one(&links, kept, (&name, &address), &entries));
        let said = match asked {
            Ok((connection, payloads)) => {
                connections.extend(connection.map(|connection| (name, connection)));
                Answer::Asked(payloads)
            }
            Err(error) => {
                tracing::debug!(peer = name, %error, "a node cannot be asked for a damaged record");
                Answer::Unreachable
            }
        };
        // Who asked may have had enough.
        let _heard = answer.try_send(said);
    }
}

/// Asks one node, on the connection that is kept or on a new one. Gives the connection back if it can be used again.
async fn ask_one<R: LinkReceiver>(
    links: &Arc<Links<R>>,
    kept: Option<PeerConnection>,
    (name, address): (&str, &str),
    entries: &[(Group, Index)],
) -> Result<(Option<PeerConnection>, Vec<Option<Payload>>), PeerError> {
    if let Some(mut connection) = kept
        && let Ok((payloads, whole)) = exchange_all(&mut connection, entries).await
    {
        return Ok((whole.then_some(connection), payloads));
    }
    let opened = timeout(REPAIR_ANSWER_TIMEOUT, links.open_repair(name, address)).await;
    let mut connection = opened.map_err(|_| PeerError::Timeout)??;
    let (payloads, whole) = exchange_all(&mut connection, entries).await?;
    Ok((whole.then_some(connection), payloads))
}

/// Asks for all entries at once. Answers come in the same order; what is too much is left, and the connection with it: false then.
async fn exchange_all(
    connection: &mut PeerConnection,
    entries: &[(Group, Index)],
) -> Result<(Vec<Option<Payload>>, bool), PeerError> {
    for (group, index) in entries {
        let mut question = BytesMut::with_capacity(QUESTION_BYTES);
        question.put_u32_le(*group);
        question.put_u64_le(*index);
        connection.write(FrameKind::RepairRequest, &question).await?;
    }
    let (mut payloads, mut bytes) = (Vec::with_capacity(entries.len()), 0);
    while payloads.len() < entries.len() {
        if bytes > REPAIR_AHEAD_BYTES_MAX {
            return Ok((payloads, false));
        }
        let answer = timeout(REPAIR_ANSWER_TIMEOUT, read_answer(connection)).await;
        let payload = answer.map_err(|_| PeerError::Timeout)??;
        bytes += payload.as_ref().map_or(0, |payload| payload.data.len() + payload.context.len());
        payloads.push(payload);
    }
    Ok((payloads, true))
}

async fn read_answer(connection: &mut PeerConnection) -> Result<Option<Payload>, PeerError> {
    let mut head = expect(connection.read(REPAIR_CHUNK_BYTES * 2).await?)?;
    let malformed = PeerError::Refused("its answer about a damaged record does not decode");
    if head.len() != ANSWER_HEAD_BYTES {
        return Err(malformed);
    }
    let has = head.get_u8() == 1;
    let (context_bytes, bytes) = (head.get_u32_le() as usize, head.get_u64_le());
    if !has {
        return Ok(None);
    }
    let total = usize::try_from(bytes).ok().filter(|_| bytes <= PAYLOAD_BYTES_MAX).ok_or(malformed)?;
    let mut payload = BytesMut::new();
    while payload.len() < total {
        let chunk = expect(connection.read(REPAIR_CHUNK_BYTES * 2).await?)?;
        if chunk.is_empty() {
            return Err(PeerError::Refused("its answer about a damaged record is cut short"));
        }
        payload.extend_from_slice(&chunk);
    }
    let payload = payload.freeze();
    let middle = total.checked_sub(context_bytes).filter(|_| payload.len() == total);
    let middle = middle.ok_or(PeerError::Refused("its answer about a damaged record has another length"))?;
    Ok(Some(Payload { data: payload.slice(..middle), context: payload.slice(middle..) }))
}

fn expect(frame: crate::net::frame::Frame) -> Result<Bytes, PeerError> {
    match frame.kind {
        FrameKind::RepairAnswer => Ok(frame.payload),
        _ => Err(PeerError::Refused("it sent a frame that does not belong here")),
    }
}

/// The log that others are answered from.
#[derive(Clone)]
pub struct ServedLog {
    /// The log.
    pub log: LogReader,
    /// The node goes on with this log. If not, its state is damaged: it gives others what it has, but does not say that it lacks
    /// something, for that would let them give up what they have.
    pub goes_on: bool,
}

/// Answers a node that asks for what is damaged there, or what was seen of it, until it has no more questions.
///
/// # Errors
/// When the connection fails.
pub async fn serve(
    served: &ServedLog,
    edge: Option<&Edge>,
    state: Option<&SnapshotSource>,
    from: NodeId,
    connection: &mut PeerConnection,
) -> Result<(), PeerError> {
    loop {
        let frame = match connection.read(QUESTION_BYTES * 2).await {
            Ok(frame) => frame,
            Err(PeerError::Closed | PeerError::Timeout) => return Ok(()),
            Err(error) => return Err(error),
        };
        if frame.kind == FrameKind::WitnessRequest {
            witness::answer(edge, from, connection).await?;
            continue;
        }
        let mut question = frame.payload;
        let is_known = matches!(frame.kind, FrameKind::RepairRequest | FrameKind::StateRequest);
        if !is_known || question.len() != QUESTION_BYTES {
            return Err(PeerError::Refused("it asks for no damaged record"));
        }
        let (group, index) = (question.get_u32_le(), question.get_u64_le());
        if frame.kind == FrameKind::StateRequest {
            give_state(state, GroupId(group), LogIndex(index), connection).await?;
            continue;
        }
        let own = served.log.clone();
        let found = spawn_blocking(move || own.payload(group, index)).await.ok().flatten();
        if found.is_none() && !served.goes_on {
            return Err(PeerError::Refused(
                "this node's own state is damaged, and it does not have the record",
            ));
        }
        let Payload { data, context } = found.clone().unwrap_or_default();
        let mut head = BytesMut::with_capacity(ANSWER_HEAD_BYTES);
        head.put_u8(u8::from(found.is_some()));
        head.put_u32_le(u32::try_from(context.len()).unwrap_or(u32::MAX));
        head.put_u64_le((data.len() + context.len()) as u64);
        connection.write(FrameKind::RepairAnswer, &head).await?;
        for chunk in data.chunks(REPAIR_CHUNK_BYTES).chain(context.chunks(REPAIR_CHUNK_BYTES)) {
            connection.write(FrameKind::RepairAnswer, chunk).await?;
        }
    }
}

/// Gives the state of a group to a node that cannot start with its own, if it is at least at an index.
async fn give_state(
    state: Option<&SnapshotSource>,
    group: GroupId,
    index: LogIndex,
    connection: &mut PeerConnection,
) -> Result<(), PeerError> {
    let at = match state.cloned() {
        Some(state) => spawn_blocking(move || state.index(group)).await.ok().and_then(Result::ok).flatten(),
        None => None,
    };
    let state = state.filter(|_| at.is_some_and(|at| at >= index));
    connection.write(FrameKind::RepairAnswer, &[u8::from(state.is_some())]).await?;
    let Some(state) = state else { return Ok(()) };
    let (mut chunks, read) = state.chunks(group);
    while let Some(chunk) = chunks.recv().await {
        connection.write(FrameKind::SnapshotChunk, &chunk).await?;
    }
    match read.await {
        Ok(Ok(mark)) => {
            tracing::info!(
                group = group.0,
                log_index = mark.index,
                "a node that starts has the state of a group from here"
            );
            Ok(())
        }
        _ => Err(PeerError::Refused("this node cannot read its own state")),
    }
}

/// Asks a node for the state of a group that is at least at an index, and takes it in. `None` if it has none. What came is not in force
/// yet.
///
/// # Errors
/// When the node cannot be asked, or what it sends cannot be stored.
pub async fn fetch_state<R: LinkReceiver>(
    links: &Arc<Links<R>>,
    (name, address): (&str, &str),
    group: GroupId,
    index: LogIndex,
    install: &Install,
) -> Result<Option<AppliedMark>, SnapshotError> {
    let mut connection = links.open_repair(name, address).await?;
    let mut question = BytesMut::with_capacity(QUESTION_BYTES);
    question.put_u32_le(group.0);
    question.put_u64_le(index.0);
    connection.write(FrameKind::StateRequest, &question).await?;
    if expect(connection.read(QUESTION_BYTES).await?)?.first() != Some(&1) {
        return Ok(None);
    }
    let mut progress = Progress::default();
    let received = receive_state(&mut connection, &mut progress, install).await;
    let right = |mark: &AppliedMark| mark.index >= index.0;
    match received {
        Ok(mark) if right(&mark) && progress.group() == Some(group.0) => Ok(Some(mark)),
        failed => {
            let install = install.clone();
            if let Some(begun) = progress.group() {
                let _cleaned_or_ended = spawn_blocking(move || install.give_up(begun)).await;
            }
            failed.and(Err(SnapshotError::Content("it is another state than was asked for")))
        }
    }
}

async fn receive_state(
    connection: &mut PeerConnection,
    progress: &mut Progress,
    install: &Install,
) -> Result<AppliedMark, SnapshotError> {
    loop {
        let frame = connection.read(FRAME_BYTES_MAX).await?;
        if frame.kind != FrameKind::SnapshotChunk {
            return Err(SnapshotError::Content("a frame does not belong to a snapshot"));
        }
        let (own, mut taken) = (install.clone(), std::mem::take(progress));
        let stored = spawn_blocking(move || {
            let result = own.take(&mut taken, &frame.payload);
            (taken, result)
        });
        let (taken, result) = stored.await.map_err(|error| SnapshotError::Storage(error.to_string()))?;
        *progress = taken;
        result?;
        if let Some(mark) = progress.take_mark() {
            return Ok(mark);
        }
    }
}

/// Walks over the whole disk, again and again, at most so many bytes a second, with a pause as long as the walk; 0 for never. Ends
/// with the task.
pub async fn scrub(
    reader: LogReader,
    bytes_per_second: u64,
    inbox: Arc<Inbox<NodeQuestion>>,
    metrics: Arc<Metrics>,
) {
    if bytes_per_second == 0 {
        return;
    }
    loop {
        let mut walk = Scrub::new(reader.clone());
        let (mut left, begun_walk) = (0, Instant::now());
        loop {
            let (begun, own, worker) = (Instant::now(), reader.clone(), inbox.clone());
            let stepped = spawn_blocking(move || {
                let step = walk.step();
                let left = step
                    .as_ref()
                    .ok()
                    .and_then(Option::as_ref)
                    .map_or(0, |step| mend(&own, &worker, &step.damage));
                (walk, step, left)
            });
            let Ok((returned, step, unmended)) = stepped.await else { return };
            walk = returned;
            left += unmended;
            match step {
                Ok(Some(step)) => {
                    metrics.scrub_bytes.add(step.bytes);
                    let due = Duration::from_secs_f64(step.bytes as f64 / bytes_per_second as f64);
                    sleep(due.saturating_sub(begun.elapsed())).await;
                }
                Ok(None) => break,
                Err(error) if error.is_no_space() => {
                    tracing::warn!(
                        reason = chain(&error),
                        "the walk over the disk ends early: there is no space"
                    );
                    break;
                }
                // A disk that cannot be read or written: the log would meet it next.
                Err(error) => stop_now(ExitCode::Disk, &chain(&error)),
            }
        }
        metrics.damage_left.set(left);
        metrics.scrub_passes.add(1);
        // Half of the time nothing is read.
        sleep(begun_walk.elapsed().max(SCRUB_PAUSE_MIN)).await;
    }
}

/// Mends what a walk has found; gives the number of places that stay damaged.
fn mend(reader: &LogReader, inbox: &Arc<Inbox<NodeQuestion>>, damage: &[Damage]) -> u64 {
    let mut left = 0;
    for damage in damage {
        let offer = match damage {
            Damage::Entry { group, index } => match reader.mend(*group, *index) {
                Some(Offer::NobodyHas) if do_without(reader, inbox, *group, *index) => Some(Offer::Taken),
                offer => offer,
            },
            Damage::Body { group, index } => reader.mend_body(*group, *index),
            Damage::Mended { file } => {
                tracing::warn!(file, "damaged bytes that are known were written again");
                Some(Offer::Taken)
            }
            Damage::Unknown { file, offset } => {
                tracing::error!(
                    file,
                    offset,
                    "damaged, and nothing says what was there: at its next start the node joins anew"
                );
                None
            }
        };
        if offer != Some(Offer::Taken) {
            tracing::warn!(?damage, "damage found that nobody can mend now");
            left += 1;
        }
    }
    left
}

/// Lets the log of a group begin after an entry that nobody has any more, if nothing here needs it: its checkpoint has what the entry
/// says, and no session its message. A follower that needs it gets a snapshot. False if something does.
fn do_without(reader: &LogReader, inbox: &Arc<Inbox<NodeQuestion>>, group: Group, index: Index) -> bool {
    let (id, at) = (GroupId(group), LogIndex(index));
    let floors = ask(inbox, |answer| NodeQuestion::Floors { wanted: vec![(id, at)], answer });
    let is_checkpointed = floors.is_ok_and(|floors| floors.first().is_some_and(|floor| *floor >= at));
    if !is_checkpointed || LiveIndex::new(inbox.clone()).contains(id, at) {
        return false;
    }
    if let Some(term) = reader.term(group, index) {
        inbox.report(Event::Compacted { group: id, index: at, term });
    }
    true
}
