//! Coverage marks: situations that a promise is about, counted whenever a run gets into one.
//!
//! Owns: their list and the counters. Does not: judge; a mark that many seeds never reach says that the simulator does not
//! try what it seems to try.
//! Invariants: `Mark as usize` is its place in `ALL`.
//! See: docs/simulation.md.

use crate::client::{WILL, ZOMBIE};
use crate::oracle::{Conn, Event, History, MessageId};
use std::collections::{BTreeMap, BTreeSet};

/// Seeds of a series from which on every mark must have been reached.
pub const SEEDS_FOR_ALL: u64 = 1000;

macro_rules! marks {
    ($($mark:ident, $name:literal, $what:literal;)*) => {
        /// A situation.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Mark {
            $(#[doc = $what] $mark,)*
        }

        /// All of them, with name and meaning.
        pub const ALL: &[(Mark, &str, &str)] = &[$((Mark::$mark, $name, $what),)*];
    };
}

marks! {
    LeaderChange, "leader-change", "a replica became leader";
    LeaderTransfer, "leader-transfer", "a leader handed its group on";
    OlderTermEntries, "older-term-entries", "a new leader had entries of an older term that were not committed";
    LogReplaced, "log-replaced", "entries of a log were replaced by others";
    SnapshotSent, "snapshot-sent", "a snapshot left";
    SnapshotCut, "snapshot-cut", "a snapshot broke off on its way";
    SnapshotInstalled, "snapshot-installed", "a snapshot took the place of a log";
    LogShortened, "log-shortened", "a log segment was dropped";
    TailCopied, "tail-copied", "a segment was dropped although a group had no checkpoint above it";
    MembershipChanged, "membership-changed", "the members of a group changed";
    JointConsensus, "joint-consensus", "a group went through a joint configuration";
    NodeReplaced, "node-replaced", "a node whose state was gone joined anew";
    DutyChanged, "duty-changed", "an operator took a node out of service, or put it back";
    LeaseLost, "lease-lost", "a connection was served by a node without a lease";
    NodeDeclaredDead, "node-declared-dead", "control gave a node up";
    NewIncarnation, "new-incarnation", "a node that was given up began anew without a restart";
    StreamRewound, "stream-rewound", "a leader refused a piece of a stream, which went back";
    BarrierWaited, "barrier-waited", "SUBACK waited for a node that did not answer";
    Takeover, "takeover", "a connection ended because its session had another";
    Redelivered, "redelivered", "a message was delivered again, marked as such";
    PublishRepeated, "publish-repeated", "a client sent PUBLISH again, marked as such";
    PublishRefused, "publish-refused", "a client was told that its message is not taken";
    ReceivedTwice, "qos2-publish-repeated", "QoS 2: PUBLISH again, for PUBREC was lost";
    ReleasedTwice, "qos2-pubrel-repeated", "QoS 2: PUBREL again, for PUBCOMP was lost";
    DeliveredTwice, "qos2-delivery-repeated", "QoS 2 to a subscriber: PUBLISH again, for PUBREC was lost";
    CompletedTwice, "qos2-release-repeated", "QoS 2 to a subscriber: PUBREL again, for PUBCOMP was lost";
    PacketIdWrapped, "packet-id-reused", "a client used a packet identifier for another message";
    WillFired, "will-fired", "a will was published at once";
    WillDelayed, "will-delayed", "a will was published after its delay";
    WillCancelled, "will-cancelled", "a session went on before the delay of its will was over";
    WillDiscarded, "will-discarded", "DISCONNECT discarded a will";
    SessionExpired, "session-expired", "a session ended some time after its connection";
    SessionKept, "session-kept", "a client came back before its session ended";
    ShareReassigned, "share-reassigned", "a message of a share group went to a second member";
    RetainedDeleted, "retained-deleted", "a retained message was deleted";
    BackupCut, "backup-cut", "a backup was taken";
    BackupGivenUp, "backup-given-up", "a backup broke off";
    PowerLost, "power-lost", "a host lost power";
    TornTail, "torn-tail", "a log was cut at a torn write";
    ReadFailed, "read-failed", "a read failed while a node ran";
    WriteFailed, "write-failed", "a write of the log failed";
    SyncFailed, "sync-failed", "a sync of the log failed";
    CheckpointFailed, "checkpoint-failed", "a checkpoint could not be written";
    StartFailed, "start-failed", "a node could not start, for its disk failed";
    DiskFull, "disk-full", "the log waited for room";
    LogFull, "log-full", "a node took no entries in, for too much waited for its log";
    DiskFullSnapshot, "disk-full-snapshot", "a snapshot was refused for want of room";
    IntakeClosed, "intake-closed", "a connection was served by a node that takes no messages in";
    WriteAstray, "write-astray", "a write of the log went to the wrong place, or nowhere";
    DamageAtRest, "damage-at-rest", "what was synced changed on the disk";
    DamageAtStart, "damage-found-at-start", "a node found damage when it started";
    DamageAtWork, "damage-found-at-work", "a node found damage when it read";
    DamageHidden, "damage-like-torn-tail", "damage that cannot be told from a torn tail: the atlas had the node set aside";
}

/// How often each was reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marks([u64; ALL.len()]);

impl Default for Marks {
    fn default() -> Self {
        Marks([0; ALL.len()])
    }
}

impl Marks {
    /// Once more.
    pub fn hit(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    /// Adds those of another run; each counts once for a run that reached it.
    pub fn add_run(&mut self, run: &Marks) {
        for (all, one) in self.0.iter_mut().zip(run.0) {
            *all += u64::from(one > 0);
        }
    }

    /// Name, meaning and count of each.
    pub fn table(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        ALL.iter().zip(self.0).map(|((_, name, what), count)| (*name, *what, count))
    }

    /// Names of those that were not reached.
    pub fn missing(&self) -> Vec<&'static str> {
        self.table().filter(|(_, _, count)| *count == 0).map(|(name, ..)| name).collect()
    }

    /// Adds what the record of a run shows of its clients.
    pub fn read(&mut self, history: &History) {
        let mut clients = Clients::default();
        for entry in &history.entries {
            if let Some(mark) = clients.mark(history, &entry.event) {
                self.hit(mark);
            }
        }
    }
}

/// What must be remembered of clients to see the marks in their record.
#[derive(Default)]
struct Clients {
    connected_before: BTreeSet<u32>,
    /// Wills that no DISCONNECT has discarded, of connections that are over.
    left: BTreeMap<u32, (MessageId, bool)>,
    wills: BTreeMap<Conn, (u32, MessageId, bool)>,
    delayed: BTreeSet<MessageId>,
    fired: BTreeSet<MessageId>,
    /// Share group and message, with the member that has it.
    members: BTreeMap<(u16, MessageId), u32>,
}

impl Clients {
    fn mark(&mut self, history: &History, event: &Event) -> Option<Mark> {
        match event {
            Event::ConnectSent { client, conn, will: Some(will), .. } => {
                let delayed = !will.delay.is_zero();
                if delayed {
                    self.delayed.insert(will.id);
                }
                self.wills.insert(*conn, (*client, will.id, delayed));
                None
            }
            Event::Connected { client, present, .. } => self.connected(history, *client, *present),
            Event::DisconnectSent { conn, .. } => self.wills.remove(conn).map(|_| Mark::WillDiscarded),
            Event::Lost { conn, .. } => {
                if let Some((client, id, delayed)) = self.wills.remove(conn) {
                    self.left.insert(client, (id, delayed));
                }
                None
            }
            Event::PublishSent { empty: true, retain: true, .. } => Some(Mark::RetainedDeleted),
            Event::PublishSent { dup: true, qos: 2, .. } => Some(Mark::ReceivedTwice),
            Event::PublishSent { dup: true, .. } => Some(Mark::PublishRepeated),
            Event::PublishAcked { ok: false, .. } => Some(Mark::PublishRefused),
            Event::Delivered(delivery) => {
                let id = delivery.id?;
                let share = history.clients.get(delivery.client as usize).and_then(|facts| facts.share);
                if let Some(share) = share {
                    let member = *self.members.entry((share.group.0, id)).or_insert(delivery.client);
                    if member != delivery.client {
                        return Some(Mark::ShareReassigned);
                    }
                }
                if id.publisher & WILL != 0 && id.publisher & ZOMBIE == 0 && self.fired.insert(id) {
                    let delayed = self.delayed.contains(&id);
                    return Some(if delayed { Mark::WillDelayed } else { Mark::WillFired });
                }
                match (delivery.dup, delivery.qos) {
                    (true, 2) => Some(Mark::DeliveredTwice),
                    (true, _) => Some(Mark::Redelivered),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn connected(&mut self, history: &History, client: u32, present: bool) -> Option<Mark> {
        let again = !self.connected_before.insert(client);
        let expires = history.clients.get(client as usize).is_some_and(|facts| facts.expiry.is_some());
        let cancelled = self
            .left
            .remove(&client)
            .is_some_and(|(id, delayed)| delayed && present && !self.fired.contains(&id));
        if cancelled {
            return Some(Mark::WillCancelled);
        }
        match (again && expires, present) {
            (true, true) => Some(Mark::SessionKept),
            (true, false) => Some(Mark::SessionExpired),
            (false, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_at_its_place_and_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = ALL.iter().map(|(_, name, _)| *name).collect();
        assert_eq!(names.len(), ALL.len());
        for (at, (mark, ..)) in ALL.iter().enumerate() {
            assert_eq!(*mark as usize, at);
        }
    }

    #[test]
    fn run_counts_once_for_each_mark_and_those_never_reached_are_named() {
        let (mut all, mut one) = (Marks::default(), Marks::default());
        one.hit(Mark::Takeover);
        one.hit(Mark::Takeover);
        all.add_run(&one);
        all.add_run(&one);
        assert!(all.table().any(|(name, _, count)| (name, count) == ("takeover", 2)));
        assert!(!all.missing().contains(&"takeover"));
        assert_eq!(all.missing().len(), ALL.len() - 1);
    }
}
