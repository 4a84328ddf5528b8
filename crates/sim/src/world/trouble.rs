//! What ends a process: a disk that fails, or damage on it.
//!
//! Owns: the first cause, which the shell acts on at the end of a turn. Does not: end anything itself.
//! Invariants: after a cause is there, nothing of the turn leaves the process: the daemon ends at once.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use quorate_storage::carry::CarryError;
use quorate_storage::{BodyError, CheckpointError, LogError, ReadError};

/// Why a process ends, or does not start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// The disk failed: the next start may find everything whole.
    Disk(String),
    /// What was written is not there whole any more.
    Damage(String),
}

impl Cause {
    pub(super) fn of(damage: bool, error: &dyn Error) -> Cause {
        let mut what = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            what = format!("{what}: {error}");
            source = error.source();
        }
        if damage { Cause::Damage(what) } else { Cause::Disk(what) }
    }

    pub(super) fn disk(error: impl Error) -> Cause {
        Cause::of(false, &error)
    }

    pub(super) fn read(error: &ReadError) -> Cause {
        let damage = match error {
            ReadError::Corrupt { .. } => true,
            ReadError::Body { source, .. } => matches!(source, BodyError::Corrupt { .. }),
            ReadError::Io { .. } => false,
        };
        Cause::of(damage, error)
    }

    pub(super) fn body(error: &BodyError) -> Cause {
        Cause::of(matches!(error, BodyError::Corrupt { .. }), error)
    }

    pub(super) fn log(error: &LogError) -> Cause {
        match error {
            LogError::Read(read) => Cause::read(read),
            _ => Cause::of(false, error),
        }
    }

    pub(super) fn carry(error: &CarryError) -> Cause {
        match error {
            CarryError::Read(read) => Cause::read(read),
            CarryError::Write(body) => Cause::body(body),
            CarryError::Log(log) => Cause::log(log),
        }
    }

    pub(super) fn checkpoint(error: &CheckpointError) -> Cause {
        Cause::of(error.is_damage(), error)
    }
}

/// The cause of an end. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<Cause>>>);

impl Trouble {
    /// Notes a cause; the first one counts.
    pub(super) fn note(&self, cause: Cause) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
    }

    pub(super) fn read(&self, error: &ReadError) {
        self.note(Cause::read(error));
    }

    pub(super) fn is_there(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn take(&self) -> Option<Cause> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn peek(&self) -> Option<Cause> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
