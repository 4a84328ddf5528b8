//! `quorate explain message`: who would receive a message of a topic, and why a client would not.
//!
//! Owns: comparing the subscriptions of a client with the topic, laying the answer out. Does not: publish anything.
//! Invariants: a subscription matches by the rules of the broker: they are the same code.

use anyhow::Context;
use clap::Args;
use quorate_api::{Diagnosis, RouteExplanation, SessionExplanation, SubscriptionState};
use quorate_codec::{Text, TopicFilter, TopicName};
use serde::Serialize;

use super::diagnosis::findings;
use crate::exit::{Failure, Outcome};
use crate::http::{self, Method};
use crate::operator::AdminArgs;
use crate::output::{self, Output};

/// Flags of `quorate explain message`.
#[derive(Args, Debug)]
pub struct MessageArgs {
    /// Topic name
    #[arg(long, short)]
    topic: String,
    /// Client identifier: why would it get the message, or not?
    #[arg(long, value_name = "CLIENT_ID")]
    client: Option<String>,
    #[command(flatten)]
    asked: AdminArgs,
}

/// The answer.
#[derive(Serialize)]
struct MessageExplanation {
    #[serde(flatten)]
    route: RouteExplanation,
    /// The findings of the client that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Vec<Diagnosis>>,
}

/// Runs the command.
pub async fn run(args: MessageArgs) -> Outcome {
    let topic = Text::parse(&args.topic).ok().and_then(|text| TopicName::new(text).ok());
    let topic = topic.ok_or_else(|| {
        Failure::usage(format!("{:?} is no topic name", args.topic)).hint("give it without + and #")
    })?;
    let path = format!("/v1/route?topic={}", http::percent_encoded(&args.topic));
    let route: RouteExplanation = http::ask(Method::Get, &args.asked.admin, &path, None).await?;
    let client = match &args.client {
        None => None,
        Some(client_id) => Some(of_client(&super::ask(&args.asked.admin, client_id).await?, &topic)),
    };
    let explanation = MessageExplanation { route, client };
    match args.asked.output {
        Output::Json => output::print_json(&explanation).context("print the answer")?,
        Output::Text => output::print(&render(&explanation, args.client.as_deref()))?,
    }
    Ok(())
}

/// Why a client gets messages of a topic, or does not: its subscriptions, then what keeps messages back.
fn of_client(session: &SessionExplanation, topic: &TopicName) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    let mut add = |code: &str, message: String, hint: &str| {
        found.push(Diagnosis { code: code.to_owned(), message, hint: hint.to_owned() });
    };
    if let Some(state) = session.session.as_ref().filter(|state| state.durable) {
        let matching: Vec<&SubscriptionState> =
            state.subscriptions.iter().filter(|subscription| matches(&subscription.filter, topic)).collect();
        for subscription in &matching {
            let no_local = if subscription.no_local { ", but not what it publishes itself" } else { "" };
            let text =
                format!("{} matches: at most QoS {}{no_local}.", subscription.filter, subscription.qos);
            add("subscription_matches", text, "nothing is to be done");
        }
        let hidden = state.subscription_count.saturating_sub(state.subscriptions.len() as u64);
        if matching.is_empty() {
            let more = if hidden > 0 { format!("; {hidden} more are not listed") } else { String::new() };
            let text = format!("None of its {} subscriptions matches{more}.", state.subscriptions.len());
            add("no_subscription_matches", text, "compare the filters with the topic, letter by letter");
        }
    }
    let hint = "docs/operations/explain.md says what to do";
    session.findings.iter().for_each(|finding| add(&finding.name, finding.text.clone(), hint));
    found
}

fn matches(filter: &str, topic: &TopicName) -> bool {
    let filter = Text::parse(filter).ok().and_then(|text| TopicFilter::new(text).ok());
    filter.is_some_and(|filter| match filter.shared() {
        Some((_, filter)) => filter.matches(topic),
        None => filter.matches(topic),
    })
}

fn render(explanation: &MessageExplanation, client_id: Option<&str>) -> String {
    let route = &explanation.route;
    let mut text = format!(
        "message to {:?}, published on {}; retained in partition {}\n\n{}",
        route.topic,
        route.node,
        route.retained_partition,
        findings(&route.findings),
    );
    if let (Some(client_id), Some(client)) = (client_id, &explanation.client) {
        text.push_str(&format!("\nclient {client_id:?}\n\n{}", findings(client)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{Finding, SessionState};

    #[test]
    fn subscriptions_of_the_client_are_compared_with_the_topic() {
        let topic = TopicName::new(Text::from_static("a/b")).unwrap();
        let codes = |filters: &[&str]| {
            let subscription =
                |filter: &&str| SubscriptionState { filter: (*filter).to_owned(), ..Default::default() };
            let session = SessionState {
                durable: true,
                subscription_count: filters.len() as u64,
                subscriptions: filters.iter().map(subscription).collect(),
                ..SessionState::default()
            };
            let explanation = SessionExplanation {
                session: Some(session),
                findings: vec![Finding { name: "offline".to_owned(), text: "It is.".to_owned() }],
                ..SessionExplanation::default()
            };
            let found = of_client(&explanation, &topic);
            found.into_iter().map(|finding| finding.code).collect::<Vec<_>>()
        };
        let matching = "subscription_matches";
        assert_eq!(codes(&["a/+", "b/#", "$share/g/a/#"]), [matching, matching, "offline"]);
        assert_eq!(codes(&["A/b", "+/b/c"]), ["no_subscription_matches", "offline"]);
        assert_eq!(of_client(&SessionExplanation::default(), &topic), []);
    }
}
