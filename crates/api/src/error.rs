//! The body of every answer that is not a success: what went wrong, where, and what to do.
//!
//! Owns: its shape. Does not: know the codes; each place that answers names its own.
//! Invariants: `code` is stable within `v1` and made for programs; `message` and `hint` are for people and may change.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of an answer with a status of 400 or above.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Short stable name in snake_case, such as `session_not_found`.
    pub code: String,
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}
