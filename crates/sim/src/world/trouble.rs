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
    /// What was written is not there whole any more. A start finds that too.
    Damage(String),
    /// As before, in a place that a start does not look at: the content of a body file.
    HiddenDamage(String),
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

    /// Whether something that was written is not there whole any more.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Cause::Damage(_) | Cause::HiddenDamage(_))
    }

    pub(super) fn disk(error: impl Error) -> Cause {
        Cause::of(false, &error)
    }

    pub(super) fn read(error: &ReadError) -> Cause {
        match error {
            ReadError::Body { source, .. } => Cause::body(source),
            ReadError::Corrupt { .. } => Cause::of(true, error),
            ReadError::Io { .. } => Cause::of(false, error),
        }
    }

    pub(super) fn body(error: &BodyError) -> Cause {
        match error {
            BodyError::Corrupt { .. } => Cause::HiddenDamage(error.to_string()),
            BodyError::Io { .. } | BodyError::Version { .. } => Cause::of(false, error),
        }
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
