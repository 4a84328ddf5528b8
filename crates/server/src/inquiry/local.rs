//! Answers from what is on this node: its replicas, its routing table, its mailboxes.
//!
//! Owns: the translation of what the node says into rows of the API. Does not: ask other nodes.
//! Invariants: reading changes nothing; `Close` closes exactly the connection named.
//! Limits: those of `walk`; ages are read in portions of LISTING_BODIES_MAX.

use std::collections::BTreeMap;

use quorate_api::{QueueLength, RetainedMessage, RetainedSummary, SessionSummary, SlowConsumer};
use quorate_codec::{PublishProperties, Text, TopicFilter, TopicName};
use quorate_node::limits::LISTING_BODIES_MAX;
use quorate_node::node::{
    BacklogRow, Node, RetainedRow, SessionFilter, Slice, SubscriptionFilter, SubscriptionKey, SubscriptionRow,
};
use quorate_node::routing::OwnSubscription;
use quorate_state::command::SubscribeFilter;
use quorate_state::{ConnId, GroupId, Incarnation, LogIndex, NodeId, Owner, SessionId, SessionInfo};
use tokio::time::{Instant, timeout_at};

use super::{
    Answer, ConnectionFound, ConnectionWanted, Inquiry, Rows, SessionHolder, SessionsWanted,
    SubscriptionFound, SubscriptionPlace, SubscriptionTerms, SubscriptionsWanted, ask_peer, order_of, walk,
};
use crate::admin::{NoAnswer, sessions};
use crate::base64;
use crate::edge::Edge;
use crate::limits::{ADMIN_NAMES_BYTES_MAX, ADMIN_TOP_MAX, AGES_TIME};
use crate::question::{Question, ask_edge, look};

/// Group and log index.
type EntryPlace = (u32, u64);

/// Names of the nodes by their identities.
pub type Names = BTreeMap<NodeId, String>;

/// Answers an inquiry from what is here.
pub async fn answer(edge: &Edge, inquiry: Inquiry) -> Answer {
    try_answer(edge, inquiry).await.unwrap_or(Answer::Busy)
}

async fn try_answer(edge: &Edge, inquiry: Inquiry) -> Result<Answer, NoAnswer> {
    let order = order_of(&inquiry);
    Ok(match inquiry {
        Inquiry::Sessions { groups, filter, after, max } => {
            Answer::Sessions(list_sessions(edge, ids(groups), filter, after, max).await?)
        }
        Inquiry::Subscriptions { groups, wanted, after, max } => {
            match list_subscriptions(edge, ids(groups), wanted, after, max).await? {
                Some(rows) => Answer::Subscriptions(rows),
                None => Answer::Unknown,
            }
        }
        Inquiry::OfConnections { connections, wanted, max } => match subscription_filter(wanted) {
            Some(filter) => Answer::OfConnections(of_connections(edge, connections, &filter, max)),
            None => Answer::Unknown,
        },
        Inquiry::Retained { groups, filter, after, max } => {
            match list_retained(edge, ids(groups), filter, after, max).await? {
                Some(rows) => Answer::Retained(rows),
                None => Answer::Unknown,
            }
        }
        Inquiry::RetainedMessage { topic } => retained_message(edge, topic).await?,
        Inquiry::Queues { groups, top } => {
            let (rows, whole) = walk::backlogs(edge, ids(groups), order, top.min(ADMIN_TOP_MAX)).await?;
            let ages = ages(edge, &rows, |row| row.oldest_queued).await?;
            let names = look(edge, |node, _| names(node)).await?;
            let rows = rows.iter().zip(ages).map(|(row, oldest_ms)| QueueLength {
                client_id: row.client_id.clone(),
                messages: row.queued_messages,
                bytes: row.queued_bytes,
                oldest_ms,
                online: row.owner.is_some(),
                node: name_of(&names, row.owner),
            });
            Answer::Queues(rows.collect(), whole)
        }
        Inquiry::SlowSessions { groups, top } => {
            let (rows, whole) = walk::backlogs(edge, ids(groups), order, top.min(ADMIN_TOP_MAX)).await?;
            let ages = ages(edge, &rows, |row| row.oldest_inflight).await?;
            let names = look(edge, |node, _| names(node)).await?;
            let rows = rows.iter().zip(ages).map(|(row, oldest_unacked_ms)| SlowConsumer {
                client_id: row.client_id.clone(),
                node: name_of(&names, row.owner),
                inflight: Some(row.sent),
                inflight_max: row.window,
                queued: row.queued_messages,
                oldest_unacked_ms,
                dropped: row.dropped,
            });
            Answer::SlowSessions(rows.collect(), whole)
        }
        Inquiry::SlowConnections { top } => Answer::SlowConnections(slow_connections(edge, top).await?),
        Inquiry::ClientIds { sessions } => {
            let sessions = sessions.into_iter().take(ADMIN_TOP_MAX);
            let sessions: Vec<_> = sessions.map(|(group, id)| (GroupId(group), SessionId(id))).collect();
            Answer::ClientIds(look(edge, move |node, _| node.client_ids(&sessions)).await?)
        }
        Inquiry::Ages { entries } => Answer::Ages(own_ages(edge, entries).await?),
        Inquiry::Explain { client_id } => match sessions::explain_here(edge, client_id).await?.2 {
            Some(explanation) => Answer::Explanation(Box::new(explanation)),
            None => Answer::NotHere,
        },
        Inquiry::Owner { client_id } => owner(edge, client_id).await?,
        Inquiry::Close { incarnation, conn } => {
            let (incarnation, conn) = (Incarnation(incarnation), ConnId(conn));
            Answer::Closed(ask_edge(edge, |answer| Question::Kick { incarnation, conn, answer }).await?)
        }
    })
}

fn ids(groups: Vec<u32>) -> Vec<GroupId> {
    groups.into_iter().map(GroupId).collect()
}

/// Names of the nodes.
pub fn names(node: &Node) -> Names {
    node.names().map(|(id, name)| (id, name.as_str().to_owned())).collect()
}

fn name_of(names: &Names, owner: Option<Owner>) -> Option<String> {
    owner.and_then(|owner| names.get(&owner.node).cloned())
}

async fn list_sessions(
    edge: &Edge,
    groups: Vec<GroupId>,
    wanted: SessionsWanted,
    after: Option<String>,
    max: usize,
) -> Result<Rows<SessionSummary, String>, NoAnswer> {
    let SessionsWanted { prefix, online, min_queued, node } = wanted;
    let filter = SessionFilter { prefix, online, min_queued, node: node.map(NodeId) };
    let bytes = |(_, info): &(GroupId, SessionInfo)| info.client_id.as_str().len();
    let found = walk::rows(edge, after, max, bytes, move |node, _, after: Option<&String>, max| {
        node.list_sessions(&groups, &filter, after.map(String::as_str), max)
    });
    let Slice { rows, resume } = found.await?;
    let names = look(edge, |node, _| names(node)).await?;
    let rows = rows.iter().map(|(group, info)| summary(&names, *group, info)).collect();
    Ok(Rows { rows, resume })
}

fn summary(names: &Names, partition: GroupId, info: &SessionInfo) -> SessionSummary {
    SessionSummary {
        client_id: info.client_id.as_str().to_owned(),
        partition: partition.0,
        owner: info.owner.map(|owner| owner.node.0),
        durable: info.durable,
        subscriptions: info.subscriptions as u64,
        queued_messages: info.queued_messages,
        queued_bytes: info.queued_bytes,
        inflight: info.inflight as u64,
        node: name_of(names, info.owner),
    }
}

/// A topic filter as another node gave it.
fn filter_of(text: String) -> Option<TopicFilter> {
    TopicFilter::new(Text::parse(&text).ok()?).ok()
}

fn topic_of(text: &str) -> Option<TopicName> {
    TopicName::new(Text::parse(text).ok()?).ok()
}

/// `None` when what is wanted is no filter or topic: it was looked at before, so the other node has other rules.
fn subscription_filter(wanted: SubscriptionsWanted) -> Option<SubscriptionFilter> {
    let (asked, topic) = (wanted.filter.is_some(), wanted.matches.is_some());
    let filter = SubscriptionFilter {
        client_id: wanted.client_id,
        filter: wanted.filter.and_then(filter_of),
        matches: wanted.matches.as_deref().and_then(topic_of),
    };
    (asked == filter.filter.is_some() && topic == filter.matches.is_some()).then_some(filter)
}

async fn list_subscriptions(
    edge: &Edge,
    groups: Vec<GroupId>,
    wanted: SubscriptionsWanted,
    after: Option<SubscriptionPlace>,
    max: usize,
) -> Result<Option<Rows<SubscriptionFound, SubscriptionPlace>>, NoAnswer> {
    let Some(filter) = subscription_filter(wanted) else { return Ok(None) };
    let after = after.map(|(client_id, filter)| (client_id, filter.and_then(filter_of)));
    let bytes = |row: &SubscriptionRow| {
        row.client_id.len() + row.subscription.as_ref().map_or(0, |found| found.filter.as_str().len())
    };
    let found = walk::rows(edge, after, max, bytes, move |node, _, after: Option<&SubscriptionKey>, max| {
        node.list_subscriptions(&groups, &filter, after, max)
    });
    let Slice { rows, resume } = found.await?;
    let resume =
        resume.map(|(client_id, filter)| (client_id, filter.map(|filter| filter.as_str().to_owned())));
    let found = |row: SubscriptionRow| SubscriptionFound {
        client_id: row.client_id,
        owner: row.owner.map(triple),
        terms: row.subscription.as_ref().map(terms),
    };
    Ok(Some(Rows { rows: rows.into_iter().map(found).collect(), resume }))
}

fn triple(owner: Owner) -> (u64, u64, u64) {
    (owner.node.0, owner.incarnation.0, owner.conn.0)
}

fn terms(subscription: &SubscribeFilter) -> SubscriptionTerms {
    let options = subscription.options;
    SubscriptionTerms {
        filter: subscription.filter.as_str().to_owned(),
        qos: options.qos as u8,
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        retain_handling: Some(options.retain_handling as u8),
        identifier: subscription.identifier,
    }
}

/// As far as the limits allow, at least one subscription.
fn of_connections(
    edge: &Edge,
    connections: Vec<ConnectionWanted>,
    filter: &SubscriptionFilter,
    max: usize,
) -> Vec<ConnectionFound> {
    let incarnation = edge.lease.read().incarnation.0;
    let routing = edge.routing.read();
    let mut answers: Vec<ConnectionFound> = Vec::new();
    let (mut total, mut bytes) = (0, 0);
    for ConnectionWanted { incarnation: of, conn, after } in connections {
        // Identifiers of connections begin again with a process, never within one.
        let own = if of == incarnation { routing.subscriptions_of(ConnId(conn)) } else { Vec::new() };
        let mut found = ConnectionFound { terms: Vec::new(), more: false };
        for subscription in own {
            let text = subscription.filter.as_str();
            if after.as_deref().is_some_and(|after| text <= after) || !filter.fits(&subscription.filter) {
                continue;
            }
            if total >= max || bytes >= ADMIN_NAMES_BYTES_MAX {
                found.more = true;
                break;
            }
            (total, bytes) = (total + 1, bytes + text.len());
            found.terms.push(own_terms(&subscription));
        }
        let cut = found.more;
        answers.push(found);
        if cut {
            break;
        }
    }
    answers
}

fn own_terms(subscription: &OwnSubscription) -> SubscriptionTerms {
    SubscriptionTerms {
        filter: subscription.filter.as_str().to_owned(),
        qos: subscription.qos as u8,
        no_local: subscription.no_local,
        retain_as_published: subscription.retain_as_published,
        retain_handling: None,
        identifier: subscription.identifier,
    }
}

async fn list_retained(
    edge: &Edge,
    groups: Vec<GroupId>,
    filter: String,
    after: Option<String>,
    max: usize,
) -> Result<Option<Rows<RetainedSummary, String>>, NoAnswer> {
    let Some(filter) = filter_of(filter) else { return Ok(None) };
    let after = after.as_deref().and_then(topic_of);
    let bytes = |row: &RetainedRow| row.topic.as_str().len();
    let found = walk::rows(edge, after, max, bytes, move |node, now, after: Option<&TopicName>, max| {
        node.list_retained(&groups, &filter, after, max, now)
    });
    let Slice { rows, resume } = found.await?;
    let summary = |row: RetainedRow| RetainedSummary {
        topic: row.topic.as_str().to_owned(),
        qos: row.message.as_ref().map_or(0, |message| message.qos as u8),
        payload_bytes: row.message.as_ref().map_or(0, |message| message.payload.len() as u64),
        expiry_s: row.expiry_s,
    };
    let resume = resume.map(|topic| topic.as_str().to_owned());
    Ok(Some(Rows { rows: rows.into_iter().map(summary).collect(), resume }))
}

async fn retained_message(edge: &Edge, topic: String) -> Result<Answer, NoAnswer> {
    let Some(topic) = topic_of(&topic) else { return Ok(Answer::Unknown) };
    let found = look(edge, move |node, now| node.retained_message(&topic, now)).await?;
    let Some(found) = found else { return Ok(Answer::NotHere) };
    let message = found.and_then(|RetainedRow { message, topic, expiry_s }| {
        let message = message?;
        let properties = PublishProperties::decode_forwarded(&message.properties).unwrap_or_default();
        let text = |text: &Text| text.as_str().to_owned();
        let user = properties.user_properties.iter();
        Some(RetainedMessage {
            topic: topic.as_str().to_owned(),
            qos: message.qos as u8,
            payload_base64: base64::encode(&message.payload),
            payload_bytes: message.payload.len() as u64,
            content_type: properties.content_type.as_ref().map(text),
            user_properties: user.map(|(name, value)| (text(name), text(value))).collect(),
            expiry_s,
        })
    });
    Ok(Answer::RetainedMessage(message))
}

/// How long ago the entries were written, in the order of the rows. Replicated time goes on with the leader of each group
/// alone, so that is asked.
async fn ages(
    edge: &Edge,
    rows: &[BacklogRow],
    entry: impl Fn(&BacklogRow) -> Option<LogIndex>,
) -> Result<Vec<Option<u64>>, NoAnswer> {
    let leaders: BTreeMap<GroupId, NodeId> = look(edge, |node, _| {
        node.places().into_iter().filter_map(|place| Some((place.group, place.leader?))).collect()
    })
    .await?;
    let end = Instant::now() + AGES_TIME;
    let mut asked: BTreeMap<NodeId, Vec<(usize, EntryPlace)>> = BTreeMap::new();
    for (place, row) in rows.iter().enumerate() {
        if let (Some(index), Some(leader)) = (entry(row), leaders.get(&row.partition)) {
            asked.entry(*leader).or_default().push((place, (row.partition.0, index.0)));
        }
    }
    let mut all = vec![None; rows.len()];
    for (leader, wanted) in asked {
        let entries: Vec<EntryPlace> = wanted.iter().map(|(_, entry)| *entry).collect();
        let ages = if leader == edge.node {
            own_ages(edge, entries).await?
        } else {
            match timeout_at(end, ask_peer(edge, leader, Inquiry::Ages { entries })).await {
                Ok(Some(Answer::Ages(ages))) => ages,
                _ => Vec::new(),
            }
        };
        for ((place, _), age) in wanted.into_iter().zip(ages) {
            if let Some(known) = all.get_mut(place) {
                *known = age;
            }
        }
    }
    Ok(all)
}

/// Ages of entries of groups that this node leads.
async fn own_ages(edge: &Edge, entries: Vec<EntryPlace>) -> Result<Vec<Option<u64>>, NoAnswer> {
    let entries = entries.into_iter().take(ADMIN_TOP_MAX);
    let entries: Vec<_> = entries.map(|(group, index)| (GroupId(group), LogIndex(index))).collect();
    let mut all = Vec::new();
    for portion in entries.chunks(LISTING_BODIES_MAX) {
        let portion = portion.to_vec();
        all.extend(look(edge, move |node, now| node.entry_ages(&portion, now)).await?);
    }
    Ok(all)
}

/// Connections of transient sessions here whose mailbox is fullest, or that lost most.
async fn slow_connections(edge: &Edge, top: usize) -> Result<Vec<(u32, u64, SlowConsumer)>, NoAnswer> {
    let mut found = Vec::new();
    for shard in edge.mailboxes.shards() {
        found.extend(edge.mailboxes.slow(shard));
        // There may be many connections: others are to have their turn.
        tokio::task::yield_now().await;
    }
    found.sort_by_key(|(conn, waiting, dropped)| (std::cmp::Reverse((*waiting, *dropped)), *conn));
    // Those of durable sessions are counted by their partitions: a few more are looked up than are wanted.
    found.truncate(2 * top.min(ADMIN_TOP_MAX));
    let conns: Vec<ConnId> = found.iter().map(|(conn, _, _)| *conn).collect();
    let (held, names) = look(edge, move |node, _| {
        (conns.into_iter().map(|conn| node.holder(conn)).collect::<Vec<_>>(), names(node))
    })
    .await?;
    let name = names.get(&edge.node).cloned();
    let rows = found.into_iter().zip(held).filter_map(|((_, waiting, dropped), held)| {
        let held = held.filter(|held| !held.durable)?;
        let consumer = SlowConsumer {
            client_id: String::new(),
            node: name.clone(),
            inflight: None,
            inflight_max: held.receive_max,
            queued: waiting as u64,
            oldest_unacked_ms: None,
            dropped,
        };
        Some((held.group.0, held.session.0, consumer))
    });
    Ok(rows.take(top).collect())
}

async fn owner(edge: &Edge, client_id: String) -> Result<Answer, NoAnswer> {
    let view = look(edge, move |node, now| node.session(&client_id, now)).await?;
    Ok(match view.replica.filter(|replica| replica.leading) {
        Some(replica) => Answer::Owner(
            replica.session.map(|session| SessionHolder { owner: session.info.owner.map(triple) }),
        ),
        None => Answer::NotHere,
    })
}
