//! Types of the admin HTTP API, shared by the server that answers and the command line that asks.
//!
//! Owns: request and response bodies of `/v1` and `/readyz`, and what their fields mean.
//! Does not: speak HTTP, know how the figures are gathered, depend on any other crate of this project.
//! Invariants: identifiers and positions are plain numbers; a field is added at the end and is optional
//! when an older node may leave it out; nothing is removed within `v1`.
//! Limits: a response about the cluster holds at most one entry per node and per group; sessions and share groups come in pages.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod cluster;
pub mod duty;
pub mod error;
pub mod event;
pub mod figures;
pub mod listeners;
pub mod membership;
pub mod operate;
pub mod queue;
pub mod readiness;
pub mod retained;
pub mod route;
pub mod session;
pub mod shares;
pub mod subscription;
pub mod trace;
pub mod why;

pub use cluster::{
    ClusterState, GroupKind, GroupState, GroupStatus, NodeState, NodeStatus, PlacementViolation,
    ReplicaStatus, Totals,
};
pub use error::{ErrorBody, ErrorDetail};
pub use event::{Event, EventPage};
pub use figures::{FigurePage, Figures, NodeFigures};
pub use operate::{LogLevel, LogLevelChange, Reload};
pub use queue::{LongestQueues, QueueLength, SlowConsumer, SlowConsumers};
pub use readiness::{Clause, Readiness};
pub use retained::{RetainedDeleted, RetainedMessage, RetainedPage, RetainedSummary};
pub use route::RouteExplanation;
pub use session::{
    DroppedCount, Finding, InflightState, Kicked, OldestMessage, Purged, QueueState, SessionExplanation,
    SessionNode, SessionOwner, SessionPage, SessionState, SessionSummary, SubscriptionState,
};
pub use subscription::{Subscription, SubscriptionPage};
pub use trace::{Direction, TraceEnd, TraceLine, TraceRequest, TracedPacket};
pub use why::{Diagnosis, GroupExplanation, GroupReplica, Why};
