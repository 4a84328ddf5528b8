//! `/v1/shares`: share groups, their members and what these have in flight.
//!
//! Owns: the translation of the node's answer into the API's types. Does not: gather it.

use axum::extract::State;
use axum::response::Json;
use quorate_api::ErrorBody;
use quorate_api::shares::{
    SHARE_MEMBERS_LISTED_MAX, SHARES_PAGE_MAX, ShareGroup, ShareGroupMember, SharePage,
};
use quorate_codec::{Text, TopicFilter};
use quorate_state::{GroupId, ShareInfo, ShareMemberInfo};
use serde::Deserialize;

use super::AdminState;
use super::error::{ApiError, ApiQuery};
use crate::question::Question;

/// Which page is asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct SharesQuery {
    /// The last filter of the page before.
    after: Option<String>,
    /// Groups in the page, at most 100.
    limit: Option<u16>,
}

/// Share groups with members of QoS 1 or 2.
#[utoipa::path(get, path = "/v1/shares", params(SharesQuery), responses(
    (status = 200, description = "A page of share groups", body = SharePage),
    (status = 400, description = "`after` is no topic filter", body = ErrorBody),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn shares(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<SharesQuery>,
) -> Result<Json<SharePage>, ApiError> {
    let parse = |text: &String| Text::parse(text).ok().and_then(|text| TopicFilter::new(text).ok());
    let after = match query.after.as_ref().map(|text| (text, parse(text))) {
        Some((text, None)) => {
            let message = format!("`after` is {text:?}, which is no topic filter");
            return Err(ApiError::bad_request("filter_invalid", message, "give `next` of the page before"));
        }
        Some((_, known)) => known,
        None => None,
    };
    let max = usize::from(query.limit.unwrap_or(SHARES_PAGE_MAX).clamp(1, SHARES_PAGE_MAX));
    let found = admin.ask(|answer| Question::Shares { after, max, answer }).await?;
    Ok(Json(page(&found, max)))
}

fn page(found: &[(GroupId, ShareInfo)], max: usize) -> SharePage {
    let last = found.last().filter(|_| found.len() >= max);
    SharePage {
        next: last.map(|(_, share)| share.filter.as_str().to_owned()),
        shares: found.iter().map(|(group, share)| translate(*group, share)).collect(),
    }
}

fn translate(group: GroupId, share: &ShareInfo) -> ShareGroup {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let member = |known: &ShareMemberInfo| ShareGroupMember {
        group: known.member.group.0,
        session: known.member.session.0,
        online: known.online,
        dispatched: count(known.dispatched),
    };
    ShareGroup {
        filter: share.filter.as_str().to_owned(),
        group: group.0,
        waiting: share.waiting,
        members_total: count(share.members.len()),
        members: share.members.iter().take(SHARE_MEMBERS_LISTED_MAX).map(member).collect(),
    }
}
