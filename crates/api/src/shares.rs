//! `GET /v1/shares`: share groups and their members, as the answering node sees them.
//!
//! Owns: one page of groups in the order of their filters. Does not: list members that only have QoS 0; they are served
//! from memory and known to their own nodes alone.
//! Limits: SHARES_PAGE_MAX groups, SHARE_MEMBERS_LISTED_MAX members of each.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Groups in one answer: more are asked for page by page.
pub const SHARES_PAGE_MAX: u16 = 100;

/// Members listed of one group; the total is given beside them.
pub const SHARE_MEMBERS_LISTED_MAX: usize = 100;

/// Answer of `GET /v1/shares`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharePage {
    /// Groups in byte order of their filters, of the partitions that have a replica on the answering node.
    pub shares: Vec<ShareGroup>,
    /// Ask again with this as `after`; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A share group with members of QoS 1 or 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShareGroup {
    /// `$share/`, name and topic filter.
    pub filter: String,
    /// Partition that spreads its messages.
    pub group: u32,
    /// Messages that wait for a member.
    pub waiting: u64,
    /// Members in all.
    pub members_total: u64,
    /// The first of them.
    pub members: Vec<ShareGroupMember>,
}

/// A session that takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShareGroupMember {
    /// Home partition of the session.
    pub group: u32,
    /// Session number in that partition.
    pub session: u64,
    /// It has a connection and gets messages.
    pub online: bool,
    /// Messages that it has and has not acknowledged.
    pub dispatched: u64,
}
