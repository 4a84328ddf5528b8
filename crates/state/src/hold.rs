//! The hold of a backup: what a group has for other groups waits until all groups have marked their cut.
//!
//! Owns: which backup holds, and until when. Does not: mark the cut or send; see `group_state`.
//! Invariants: while a hold is on, nothing leaves an outbox and nothing is forgotten from one, so that states of several
//! groups fit each other that were taken while all of them held; a hold ends by itself.
//! Limits: `HOLD_MS_MAX`. See: docs/decisions/0032-backup-cut.md.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::{BackupId, Timestamp};
use crate::limits::HOLD_MS_MAX;
use crate::wire::{DecodeError, Reader};

/// The hold of a group; none most of the time.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Hold {
    on: Option<(BackupId, Timestamp)>,
    /// Changed since the last checkpoint.
    dirty: bool,
}

impl Hold {
    /// Whether a backup holds.
    pub(crate) fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Whether this backup holds.
    pub(crate) fn is_of(&self, backup: BackupId) -> bool {
        self.on.is_some_and(|(holder, _)| holder == backup)
    }

    /// When the hold ends by itself.
    pub(crate) fn ends(&self) -> Option<Timestamp> {
        self.on.map(|(_, until)| until)
    }

    /// Begins, or is prolonged; false while another backup holds.
    pub(crate) fn begin(&mut self, backup: BackupId, ms: u32, now: Timestamp) -> bool {
        if self.is_on() && !self.is_of(backup) {
            return false;
        }
        self.on = Some((backup, Timestamp(now.0 + u64::from(ms.min(HOLD_MS_MAX)))));
        self.dirty = true;
        true
    }

    /// Ends; false when this backup did not hold to this moment.
    pub(crate) fn end(&mut self, backup: BackupId) -> bool {
        let held = self.is_of(backup);
        if held {
            self.on = None;
            self.dirty = true;
        }
        held
    }

    /// Time has come to `now`; true when the hold has ended by that.
    pub(crate) fn expire(&mut self, now: Timestamp) -> bool {
        let over = self.on.is_some_and(|(_, until)| until <= now);
        if over {
            self.on = None;
            self.dirty = true;
        }
        over
    }

    /// Its record; `None` while there is no hold.
    pub(crate) fn record(&self) -> Option<Vec<u8>> {
        let (backup, until) = self.on?;
        let mut out = BytesMut::with_capacity(16);
        out.put_u64_le(backup.0);
        out.put_u64_le(until.0);
        Some(out.into())
    }

    /// Its record, or the deletion of it, when that differs from the checkpoint.
    pub(crate) fn change(&mut self) -> Option<Option<Vec<u8>>> {
        std::mem::take(&mut self.dirty).then(|| self.record())
    }

    pub(crate) fn restore(content: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(content);
        let on = Some((BackupId(reader.u64()?), Timestamp(reader.u64()?)));
        reader.done()?;
        Ok(Self { on, dirty: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_is_of_one_backup_and_ends_by_itself() {
        let (one, two) = (BackupId(1), BackupId(2));
        let mut hold = Hold::default();
        assert!(hold.begin(one, 500, Timestamp(100)));
        assert!(!hold.begin(two, 500, Timestamp(200)), "another backup holds");
        assert!(hold.begin(one, 500, Timestamp(200)), "the same prolongs");
        assert_eq!(hold.ends(), Some(Timestamp(700)));
        assert!(!hold.expire(Timestamp(699)));
        assert!(!hold.end(two));
        assert!(hold.expire(Timestamp(700)));
        assert!(!hold.expire(Timestamp(701)), "it ends once");
        assert!(!hold.end(one), "whose time was over did not hold to the end");
        assert!(hold.begin(two, u32::MAX, Timestamp(800)));
        assert_eq!(hold.ends(), Some(Timestamp(800 + u64::from(HOLD_MS_MAX))));
        assert!(hold.end(two));
    }

    #[test]
    fn record_of_a_hold_gives_it_back_and_is_told_once() {
        let mut hold = Hold::default();
        assert_eq!(hold.change(), None);
        assert!(hold.begin(BackupId(9), 500, Timestamp(100)));
        let content = hold.change().unwrap().unwrap();
        assert_eq!(hold.change(), None);
        let mut restored = Hold::restore(&Bytes::from(content)).unwrap();
        assert_eq!(restored.ends(), hold.ends());
        assert!(restored.end(BackupId(9)));
        assert_eq!(restored.change(), Some(None), "its end deletes the record");
    }
}
