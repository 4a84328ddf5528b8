//! `/v1/subscriptions`: who subscribes to what, over the whole cluster.
//!
//! Owns: the page, its cursor; the subscriptions of transient sessions, for which the nodes of their connections are asked.
//! Does not: list share groups; see `shares`.
//! Invariants: a page goes on exactly where the one before ended, also within a client.
//! Limits: `ADMIN_PAGE_ROWS_MAX`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use quorate_api::{ErrorBody, Subscription, SubscriptionPage};
use quorate_node::routing::home_partition;
use quorate_state::NodeId;
use serde::Deserialize;

use super::AdminState;
use super::error::{ApiError, ApiQuery};
use super::gather::{Gathered, Places, ask_all, gather, merge};
use super::retained::{parse_filter, parse_topic};
use super::sessions::page_rows;
use crate::inquiry::{
    Answer, ConnectionFound, ConnectionWanted, Inquiry, Rows, SubscriptionFound, SubscriptionPlace,
    SubscriptionTerms, SubscriptionsWanted,
};

/// Which page, and which subscriptions.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct PageQuery {
    /// `next` of the page before; from the beginning without it.
    after: Option<String>,
    /// Most subscriptions in the answer, up to 1,000; 100 without it.
    limit: Option<usize>,
    /// Of this client identifier.
    client_id: Option<String>,
    /// With this topic filter, letter by letter.
    filter: Option<String>,
    /// That receive what is published to this topic.
    matches: Option<String>,
}

/// Subscriptions of the whole cluster, by client identifier and filter.
#[utoipa::path(get, path = "/v1/subscriptions", params(PageQuery), responses(
    (status = 200, description = "A page of subscriptions", body = SubscriptionPage),
    (status = 400, description = "`after`, `filter` or `matches` is none", body = ErrorBody),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn list(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Json<SubscriptionPage>, ApiError> {
    let after = query.after.as_deref().map(parse_cursor).transpose()?;
    query.filter.as_deref().map(|text| parse_filter("filter", text)).transpose()?;
    query.matches.as_deref().map(|text| parse_topic("matches", text)).transpose()?;
    let max = page_rows(query.limit);
    let places = Places::of(&admin).await?;
    let groups = match &query.client_id {
        Some(client_id) => vec![home_partition(client_id, admin.edge.partitions).0],
        None => places.all(),
    };
    let wanted =
        SubscriptionsWanted { client_id: query.client_id, filter: query.filter, matches: query.matches };
    let found = gather(&admin.edge, &places, &groups, |groups| Inquiry::Subscriptions {
        groups,
        wanted: wanted.clone(),
        after: after.clone(),
        max,
    });
    let Gathered { answers, mut incomplete } = found.await;
    let rows = answers.into_iter().filter_map(|answer| match answer {
        Answer::Subscriptions(rows) => Some(rows),
        _ => None,
    });
    let found = merge(rows.collect(), max, place_of, compare);
    let transient = ask_connections(&admin, &found.rows, &wanted, after.as_ref(), max).await;
    let page = Page { places: &places, after, max, rows: Vec::new(), unknown: false };
    let (rows, next, unknown) = page.fill(found, transient);
    if unknown {
        // Connections belong to no group: 0 stands for them.
        incomplete.insert(0, 0);
    }
    Ok(Json(SubscriptionPage {
        subscriptions: rows,
        next: next.map(|place| cursor(&place)),
        incomplete_groups: incomplete,
    }))
}

/// Subscriptions of connections, by node, incarnation and number.
type Transient = BTreeMap<(u64, u64, u64), Result<ConnectionFound, Unasked>>;

/// Why the subscriptions of a connection are not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unasked {
    /// Its node does not answer.
    Silent,
    /// Its node had answered enough.
    Later,
}

async fn ask_connections(
    admin: &AdminState,
    rows: &[SubscriptionFound],
    wanted: &SubscriptionsWanted,
    after: Option<&SubscriptionPlace>,
    max: usize,
) -> Transient {
    let mut nodes: BTreeMap<NodeId, Vec<ConnectionWanted>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.terms.is_none()) {
        let Some((node, incarnation, conn)) = row.owner else { continue };
        let after = after.filter(|(client_id, _)| *client_id == row.client_id);
        let after = after.and_then(|(_, filter)| filter.clone());
        nodes.entry(NodeId(node)).or_default().push(ConnectionWanted { incarnation, conn, after });
    }
    let questions = nodes.into_iter().map(|(node, connections)| {
        let asked: Vec<_> = connections.iter().map(|wanted| (wanted.incarnation, wanted.conn)).collect();
        (node, (node, asked), Inquiry::OfConnections { connections, wanted: wanted.clone(), max })
    });
    let mut known = Transient::new();
    for ((node, asked), answer) in ask_all(&admin.edge, questions).await {
        let (answers, missing) = match answer {
            Some(Answer::OfConnections(answers)) => (answers, Unasked::Later),
            _ => (Vec::new(), Unasked::Silent),
        };
        let mut answers = answers.into_iter();
        for (incarnation, conn) in asked {
            known.insert((node.0, incarnation, conn), answers.next().ok_or(missing));
        }
    }
    known
}

/// A page in the making.
struct Page<'a> {
    places: &'a Places,
    after: Option<SubscriptionPlace>,
    max: usize,
    rows: Vec<Subscription>,
    unknown: bool,
}

impl Page<'_> {
    /// Gives the rows, where the next page begins, and whether some connection's node did not answer.
    fn fill(
        mut self,
        found: Rows<SubscriptionFound, SubscriptionPlace>,
        mut transient: Transient,
    ) -> (Vec<Subscription>, Option<SubscriptionPlace>, bool) {
        let mut last = self.after.clone();
        for row in found.rows {
            let place = place_of(&row);
            let Some(terms) = row.terms else {
                match row.owner.and_then(|owner| transient.remove(&owner)) {
                    Some(Ok(found)) => {
                        if let Some(next) = self.add_transient(&row.client_id, row.owner, found) {
                            return (self.rows, Some(next), self.unknown);
                        }
                    }
                    Some(Err(Unasked::Later)) => return (self.rows, last, self.unknown),
                    Some(Err(Unasked::Silent)) | None => self.unknown = true,
                }
                last = Some(place);
                continue;
            };
            if self.rows.len() >= self.max {
                return (self.rows, last, self.unknown);
            }
            let node = row.owner.map(|owner| self.places.name(NodeId(owner.0)));
            self.rows.push(subscription(row.client_id, node, true, terms));
            last = Some(place);
        }
        (self.rows, found.resume, self.unknown)
    }

    /// The subscriptions of a transient session; where to go on when there are more than there is room for.
    fn add_transient(
        &mut self,
        client_id: &str,
        owner: Option<(u64, u64, u64)>,
        found: ConnectionFound,
    ) -> Option<SubscriptionPlace> {
        let node = owner.map(|owner| self.places.name(NodeId(owner.0)));
        // An empty text comes before all filters.
        let seen =
            self.after.as_ref().filter(|(seen, _)| seen == client_id).and_then(|(_, filter)| filter.clone());
        let mut last = seen.unwrap_or_default();
        for terms in found.terms {
            if self.rows.len() >= self.max {
                return Some((client_id.to_owned(), Some(last)));
            }
            last.clone_from(&terms.filter);
            self.rows.push(subscription(client_id.to_owned(), node.clone(), false, terms));
        }
        found.more.then(|| (client_id.to_owned(), Some(last)))
    }
}

fn subscription(
    client_id: String,
    node: Option<String>,
    durable: bool,
    terms: SubscriptionTerms,
) -> Subscription {
    let SubscriptionTerms { filter, qos, no_local, retain_as_published, retain_handling, identifier } = terms;
    Subscription {
        client_id,
        filter,
        qos,
        no_local,
        retain_as_published,
        retain_handling,
        identifier,
        durable,
        node,
    }
}

fn place_of(row: &SubscriptionFound) -> SubscriptionPlace {
    (row.client_id.clone(), row.terms.as_ref().map(|terms| terms.filter.clone()))
}

/// By client, then by filter; the client as a whole comes behind its filters.
fn compare(left: &SubscriptionPlace, right: &SubscriptionPlace) -> Ordering {
    left.0.cmp(&right.0).then_with(|| match (&left.1, &right.1) {
        (Some(left), Some(right)) => left.cmp(right),
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
    })
}

/// A place as text: length of the client identifier, `:`, the client identifier and, after a `/`, the filter.
fn cursor((client_id, filter): &SubscriptionPlace) -> String {
    match filter {
        Some(filter) => format!("{}:{client_id}/{filter}", client_id.len()),
        None => format!("{}:{client_id}", client_id.len()),
    }
}

fn parse_cursor(text: &str) -> Result<SubscriptionPlace, ApiError> {
    let read = || {
        let (length, rest) = text.split_once(':')?;
        let (client_id, filter) = rest.split_at_checked(length.parse().ok()?)?;
        match filter.strip_prefix('/') {
            Some(filter) => Some((client_id.to_owned(), Some(filter.to_owned()))),
            None if filter.is_empty() => Some((client_id.to_owned(), None)),
            None => None,
        }
    };
    read().ok_or_else(|| {
        ApiError::bad_request(
            "cursor_invalid",
            format!("after: {text:?} is no place in this list"),
            "give `next` of the page before",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_of_any_place_is_read_as_written() {
        for (client_id, filter) in
            [("c", None), ("", None), ("a:/b", Some("x/#")), ("1:é", Some("/")), ("", Some(""))]
        {
            let place = (client_id.to_owned(), filter.map(str::to_owned));
            assert_eq!(parse_cursor(&cursor(&place)).unwrap(), place);
        }
        for text in ["", "c", "9:c", "x:c", "1:cd", "1:é"] {
            assert!(parse_cursor(text).is_err(), "{text:?}");
        }
    }

    fn terms(filter: &str) -> SubscriptionTerms {
        SubscriptionTerms {
            filter: filter.to_owned(),
            qos: 1,
            no_local: false,
            retain_as_published: false,
            retain_handling: None,
            identifier: None,
        }
    }

    fn found(client_id: &str, conn: u64, filter: Option<&str>) -> SubscriptionFound {
        SubscriptionFound {
            client_id: client_id.to_owned(),
            owner: Some((1, 1, conn)),
            terms: filter.map(terms),
        }
    }

    /// All pages of this many rows, one after the other, as the nodes would give them.
    fn pages(max: usize) -> Vec<Vec<String>> {
        let places = Places::empty();
        let all =
            [found("a", 1, Some("x")), found("a", 1, Some("y")), found("b", 2, None), found("c", 3, None)];
        let mut pages = Vec::new();
        let mut after: Option<SubscriptionPlace> = None;
        loop {
            let left: Vec<_> = all
                .iter()
                .filter(|row| after.as_ref().is_none_or(|after| compare(&place_of(row), after).is_gt()))
                .cloned()
                .collect();
            let found = merge(vec![Rows { rows: left, resume: None }], max, place_of, compare);
            // As a node answers: of the connections in the page, after the place given, at most so many in all.
            let (mut transient, mut left, mut cut) = (Transient::new(), max, false);
            for row in found.rows.iter().filter(|row| row.terms.is_none()) {
                let filters: &[&str] = if row.client_id == "b" { &["1", "2", "3"] } else { &["4"] };
                let seen = after.as_ref().filter(|after| after.0 == row.client_id);
                let seen = seen.and_then(|after| after.1.clone());
                let mut all: Vec<_> = filters.iter().copied().map(terms).collect();
                all.retain(|terms| seen.as_ref().is_none_or(|seen| terms.filter > *seen));
                let more = all.len() > left;
                all.truncate(left);
                left -= all.len();
                let known = if cut { Err(Unasked::Later) } else { Ok(ConnectionFound { terms: all, more }) };
                cut |= more;
                transient.insert(row.owner.unwrap(), known);
            }
            let page = Page { places: &places, after: after.clone(), max, rows: Vec::new(), unknown: false };
            let (rows, next, unknown) = page.fill(found, transient);
            assert!(!unknown && rows.len() <= max && pages.len() < 50);
            pages.push(rows.iter().map(|row| format!("{} {}", row.client_id, row.filter)).collect());
            match next {
                Some(next) => after = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn pages_of_every_size_list_each_subscription_once() {
        for max in 1..9 {
            let all: Vec<String> = pages(max).concat();
            assert_eq!(all, ["a x", "a y", "b 1", "b 2", "b 3", "c 4"], "{max} in a page");
        }
    }
}
