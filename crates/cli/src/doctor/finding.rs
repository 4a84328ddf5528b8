//! What the doctor says: one thing that is wrong, where, and what to do.
//!
//! Owns: the shape of a finding and its order. Does not: find anything; each subject has its file beside this one.
//! Invariants: codes are stable and in docs/operations/doctor.md; every finding has a remedy.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The node does not start, or does not do what it is there for.
    Error,
    /// It works, but will not for long, or not under load, or not safely.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Stable name in snake_case.
    pub code: &'static str,
    /// What is wrong, in a sentence without its full stop.
    pub message: String,
    /// File, address or setting that it is about.
    pub place: String,
    /// What to do.
    pub hint: String,
}

impl Finding {
    /// An error.
    pub fn error(
        code: &'static str,
        place: impl fmt::Display,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Finding {
        Finding {
            severity: Severity::Error,
            code,
            message: message.into(),
            place: place.to_string(),
            hint: hint.into(),
        }
    }

    /// A warning.
    pub fn warning(
        code: &'static str,
        place: impl fmt::Display,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Finding {
        Finding { severity: Severity::Warning, ..Finding::error(code, place, message, hint) }
    }

    /// The same with another severity.
    pub fn with(self, severity: Severity) -> Finding {
        Finding { severity, ..self }
    }
}
