//! `/v1/route`: who would receive a message of a topic, and why nobody, if so.
//!
//! Owns: the translation of a route match into the API's types, and its findings. Does not: match; `Routing` does.
//! Invariants: reads the routes only.

use axum::extract::State;
use axum::response::Json;
use quorate_api::{Diagnosis, ErrorBody, RouteExplanation};
use quorate_codec::{Text, TopicName};
use quorate_node::routing::{RouteMatch, retained_partition};
use quorate_node::system_topics::is_read_only;
use serde::Deserialize;

use super::AdminState;
use super::error::{ApiError, ApiQuery};

/// Which topic.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct RouteQuery {
    /// Topic name, without wildcards.
    topic: String,
}

/// Who would receive a message that a client of this node publishes to a topic.
#[utoipa::path(get, path = "/v1/route", params(RouteQuery), responses(
    (status = 200, description = "Where it goes", body = RouteExplanation),
    (status = 400, description = "It is no topic name", body = ErrorBody)
))]
pub async fn route(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<RouteQuery>,
) -> Result<Json<RouteExplanation>, ApiError> {
    let Some(topic) = Text::parse(&query.topic).ok().and_then(|text| TopicName::new(text).ok()) else {
        let message = format!("`topic` is {:?}, which is no topic name", query.topic);
        let hint = "give the name that is published to, without + and #";
        return Err(ApiError::bad_request("topic_invalid", message, hint));
    };
    let found = admin.edge.routing.read().matches(topic.as_str());
    let name =
        |nodes: &[quorate_state::NodeId]| nodes.iter().map(|node| admin.edge.lookout.name(*node)).collect();
    let mut explanation = RouteExplanation {
        node: admin.node_name.to_string(),
        topic: topic.as_str().to_owned(),
        retained_partition: retained_partition(topic.as_str(), admin.edge.partitions).0,
        partitions: found.partitions.iter().map(|partition| partition.0).collect(),
        nodes: name(&found.nodes),
        nodes_qos0: name(&found.nodes_qos0),
        connections: found.local.len() as u64,
        shares: found.shares.iter().map(|share| share.share.as_str().to_owned()).collect(),
        findings: Vec::new(),
    };
    explanation.findings = findings(&explanation, &found, is_read_only(topic.as_str()));
    Ok(Json(explanation))
}

fn findings(explanation: &RouteExplanation, found: &RouteMatch, read_only: bool) -> Vec<Diagnosis> {
    let mut findings = Vec::new();
    let mut add = |code: &str, message: String, hint: &str| {
        findings.push(Diagnosis { code: code.to_owned(), message, hint: hint.to_owned() });
    };
    if read_only {
        let text = "Clients may not publish to this topic: the broker does.".to_owned();
        add("read_only_topic", text, "publish to a topic that does not begin with $SYS/");
        return findings;
    }
    if !found.partitions.is_empty() {
        let partitions: Vec<String> = explanation.partitions.iter().map(u32::to_string).collect();
        let text = format!(
            "QoS 1 and 2 are stored in partitions {}: durable sessions or share groups there match.",
            partitions.join(", ")
        );
        add("stored", text, "quorate explain session CLIENT_ID tells of one of them");
    }
    if explanation.connections > 0 {
        let text = format!(
            "{} connections of {} have a subscription that matches.",
            explanation.connections, explanation.node
        );
        add("connections", text, "quorate trace topic shows deliveries as they happen");
    }
    let others: Vec<&str> =
        explanation.nodes.iter().chain(&explanation.nodes_qos0).map(String::as_str).collect();
    if !others.is_empty() {
        let text = format!("Connections of {} have a subscription that matches.", others.join(", "));
        add("other_nodes", text, "ask these nodes for the number of connections");
    }
    if !explanation.shares.is_empty() {
        let text =
            format!("Share groups match, and one member of each gets it: {}.", explanation.shares.join(", "));
        add("shares", text, "GET /v1/shares lists the members");
    }
    if findings.is_empty() {
        let text = "Nobody is subscribed: a message is dropped, unless it is retained.".to_owned();
        findings.push(Diagnosis {
            code: "no_receivers".to_owned(),
            message: text,
            hint: "compare the topic with the filters of the clients, letter by letter; a filter that begins with + or # \
                   matches no topic that begins with $"
                .to_owned(),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_state::{GroupId, NodeId};

    fn check(
        change: impl FnOnce(&mut RouteMatch, &mut RouteExplanation),
        read_only: bool,
        expected: &[&str],
    ) {
        let mut found = RouteMatch {
            version: 1,
            partitions: Vec::new(),
            nodes: Vec::new(),
            nodes_qos0: Vec::new(),
            local: Vec::new(),
            shares: Vec::new(),
        };
        let mut explanation = RouteExplanation::default();
        change(&mut found, &mut explanation);
        let findings = findings(&explanation, &found, read_only);
        assert_eq!(findings.iter().map(|finding| finding.code.as_str()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn every_way_of_a_message_is_told() {
        check(|_, _| {}, false, &["no_receivers"]);
        check(|_, _| {}, true, &["read_only_topic"]);
        check(|found, _| found.partitions = vec![GroupId(3)], false, &["stored"]);
        check(|_, explanation| explanation.connections = 2, false, &["connections"]);
        let nodes = |found: &mut RouteMatch, explanation: &mut RouteExplanation| {
            found.nodes_qos0 = vec![NodeId(2)];
            explanation.nodes_qos0 = vec!["n2".to_owned()];
        };
        check(nodes, false, &["other_nodes"]);
        check(|_, explanation| explanation.shares = vec!["$share/g/a".to_owned()], false, &["shares"]);
    }
}
