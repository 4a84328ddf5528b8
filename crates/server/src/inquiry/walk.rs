//! Walks: lists longer than one look of the worker, slice by slice.
//!
//! Owns: going on from slice to slice, the time that it may take. Does not: know what is listed.
//! Invariants: the worker does other things between two slices; what is given back is complete up to its `resume`.
//! Limits: WALK_TIME, WALKS_AT_ONCE_MAX, ADMIN_NAMES_BYTES_MAX; a slice has those of the node.

use std::time::{Duration, Instant};

use quorate_node::node::{BacklogOrder, BacklogRow, Node, Slice};
use quorate_state::GroupId;

use crate::admin::NoAnswer;
use crate::edge::Edge;
use crate::limits::{ADMIN_NAMES_BYTES_MAX, WALK_TIME};
use crate::question::look;

/// Goes on until there are `max` rows, or no more, or their names (`bytes` of each row) are long enough, or time is up.
pub async fn rows<T: Send + 'static, K: Clone + Send + 'static>(
    edge: &Edge,
    after: Option<K>,
    max: usize,
    bytes: impl Fn(&T) -> usize,
    slice: impl Fn(&Node, Duration, Option<&K>, usize) -> Slice<T, K> + Clone + Send + 'static,
) -> Result<Slice<T, K>, NoAnswer> {
    let _place = edge.inquiries.walks.acquire().await.map_err(|_| NoAnswer)?;
    let end = Instant::now() + WALK_TIME;
    let mut all = Slice { rows: Vec::new(), resume: after };
    let mut long = 0_usize;
    loop {
        let (slice, after, left) = (slice.clone(), all.resume.take(), max - all.rows.len());
        let next = look(edge, move |node, now| slice(node, now, after.as_ref(), left)).await?;
        long += next.rows.iter().map(&bytes).sum::<usize>();
        all.rows.extend(next.rows);
        all.resume = next.resume;
        let full = all.rows.len() >= max || long >= ADMIN_NAMES_BYTES_MAX;
        if all.resume.is_none() || full || Instant::now() >= end {
            return Ok(all);
        }
    }
}

/// The `top` first sessions of these groups in an order; whether all were looked at.
pub async fn backlogs(
    edge: &Edge,
    groups: Vec<GroupId>,
    order: BacklogOrder,
    top: usize,
) -> Result<(Vec<BacklogRow>, bool), NoAnswer> {
    let _place = edge.inquiries.walks.acquire().await.map_err(|_| NoAnswer)?;
    let end = Instant::now() + WALK_TIME;
    let mut best: Vec<BacklogRow> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let (groups, from) = (groups.clone(), after.take());
        let next =
            look(edge, move |node, _| node.list_backlogs(&groups, order, from.as_deref(), top)).await?;
        best.extend(next.rows);
        best.sort_by(|left, right| {
            let rank = |row: &BacklogRow| std::cmp::Reverse((row.queued_messages, row.sent));
            rank(left).cmp(&rank(right)).then_with(|| left.client_id.cmp(&right.client_id))
        });
        best.truncate(top);
        after = next.resume;
        if after.is_none() || Instant::now() >= end {
            return Ok((best, after.is_none()));
        }
    }
}
