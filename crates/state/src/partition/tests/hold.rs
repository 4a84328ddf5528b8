//! Backups: outboxes stand still while one holds, a cut is only made within a hold, a hold ends by itself.

use bytes::Bytes;

use super::*;
use crate::command::BackupStep;
use crate::ids::{BackupId, LogIndex, Timestamp};

const BACKUP: BackupId = BackupId(7);

fn step(step: BackupStep) -> Command {
    Command::Backup { backup: BACKUP, step }
}

fn refused(effects: &[Effect]) -> bool {
    matches!(replies(effects)[..], [Reply::Refused(_)])
}

/// A partition whose outbox to control has one command, and which a backup holds.
fn holding() -> Driven<Partition> {
    let mut group = new();
    let held = group.connect("c", 1);
    group.subscribe(held, &[wanted("t")]);
    assert_eq!(posted(&group.machine, CONTROL).len(), 1);
    assert_eq!(group.one(step(BackupStep::Hold { ms: 500 })), []);
    group
}

#[test]
fn outboxes_stand_still_while_a_backup_holds() {
    let mut group = holding();
    assert_eq!(posted(&group.machine, CONTROL), [], "nothing leaves");
    group.leader(LeaderCommand::OutboxApplied { to: CONTROL, seq: StreamSeq(1) });
    assert_eq!(group.machine.outbox_span(CONTROL), (StreamSeq(0), StreamSeq(1)), "nothing is forgotten");
    assert_eq!(group.one(step(BackupStep::Release)), [Effect::HoldEnded]);
    assert_eq!(posted(&group.machine, CONTROL).len(), 1);
    group.leader(LeaderCommand::OutboxApplied { to: CONTROL, seq: StreamSeq(1) });
    assert_eq!(group.machine.outbox_span(CONTROL), (StreamSeq(1), StreamSeq(1)));
}

#[test]
fn cut_is_made_within_a_hold_of_its_backup_only() {
    let cut = step(BackupStep::Cut { node: NodeId(2) });
    let made = Effect::Cut { backup: BACKUP, node: NodeId(2) };
    let mut group = holding();
    assert_eq!(group.one(cut.clone()), [made]);
    let other = Command::Backup { backup: BackupId(8), step: BackupStep::Hold { ms: 500 } };
    assert!(refused(&group.one(other.clone())), "one backup at a time");
    group.one(step(BackupStep::Release));
    assert!(refused(&group.one(cut.clone())));
    assert!(
        refused(&group.one(step(BackupStep::Release))),
        "whoever releases must know that the hold lasted"
    );
    assert_eq!(group.one(other), []);
    assert!(refused(&group.one(cut)));
}

#[test]
fn hold_ends_by_itself_and_survives_a_restart() {
    let mut group = holding();
    let ends = Timestamp(group.stamp.0 + 500);
    assert_eq!(group.machine.next_deadline(), Some(ends), "the leader sees to it");
    let records: Vec<(Bytes, Bytes)> =
        group.machine.records().map(|(key, value)| (key.into(), value.into())).collect();
    let mut restored = Partition::restore(config(), LogIndex(group.machine.applied().0), records).unwrap();
    assert_eq!(restored.hash(), group.machine.hash());
    assert_eq!(posted(&restored, CONTROL), []);
    assert_eq!(group.wait_s(1), [Effect::HoldEnded]);
    assert_eq!(posted(&group.machine, CONTROL).len(), 1);
    assert!(refused(&group.one(step(BackupStep::Release))));
    let deleted = group.machine.changes().into_iter().find(|(key, _)| key == &[crate::record::kind::HOLD]);
    assert!(deleted.is_none_or(|(_, content)| content.is_none()), "the record goes with the hold");
    let tick = Driven::<Partition>::new(Partition::new(config())).batch(STREAM, &[]);
    restored.apply(LogIndex(restored.applied().0 + 1), &tick, &mut Vec::new());
    assert_eq!(posted(&restored, CONTROL), [], "an old stamp does not end it");
}
