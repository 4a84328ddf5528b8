//! `quorate explain`: why things are as they are. Here: a session, and why its client gets nothing.
//!
//! Owns: finding the node to ask, laying the answer out. Does not: judge; the server's findings are shown as they come.
//! Invariants: shows the answer of one replica and says which; the leader's when it can be reached.
//! Limits: EXPLAIN_HOPS_MAX requests.

mod diagnosis;
mod message;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use quorate_api::{SessionExplanation, SessionNode, SessionState};

use crate::exit::{Failure, Outcome};
use crate::http;
use crate::limits::EXPLAIN_HOPS_MAX;
use crate::output::{self, Output};
use crate::table::{bytes, thousands};

/// Flags of `quorate explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand, Debug)]
enum Subject {
    /// One session: who holds it, what waits for it, what was dropped, and why nothing is delivered
    Session(SessionArgs),
    /// A node: what is wrong with it, and what to do
    Node(diagnosis::NodeArgs),
    /// A group: why a node leads it or does not, and who lags
    Group(diagnosis::GroupArgs),
    /// A message: who would receive it, and why a client would not
    Message(message::MessageArgs),
}

#[derive(Args, Debug)]
struct SessionArgs {
    /// Client identifier
    client_id: String,
    /// Admin address of any node; the leader of the session's partition is asked in turn
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9883")]
    admin: String,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command. A client identifier without a session is an answer, not a failure.
pub async fn run(args: ExplainArgs) -> Outcome {
    match args.subject {
        Subject::Session(args) => show(&args.admin, &args.client_id, args.output).await,
        Subject::Node(args) => diagnosis::node(args).await,
        Subject::Group(args) => diagnosis::group(args).await,
        Subject::Message(args) => message::run(args).await,
    }
}

/// Shows what is known of a client identifier.
pub async fn show(admin: &str, client_id: &str, output: Output) -> Outcome {
    let explanation = ask(admin, client_id).await?;
    match output {
        Output::Json => output::print_json(&explanation)?,
        Output::Text => output::print(&render(&explanation))?,
    }
    Ok(())
}

/// Asks a node, then the leader that it names; the first answer stands when the leader cannot be reached.
pub async fn ask(admin: &str, client_id: &str) -> Outcome<SessionExplanation> {
    let path = format!("/v1/sessions/{}", http::percent_encoded(client_id));
    let mut answer = follow(admin, &path).await?;
    for _ in 0..EXPLAIN_HOPS_MAX {
        let leader =
            answer.leader.clone().filter(|leader| !answer.leading && leader.id != answer.read_from.id);
        let Some(leader_admin) = leader.and_then(|leader| leader.admin) else { break };
        match follow(&leader_admin, &path).await {
            Ok(newer) => answer = newer,
            Err(Failure { error, .. }) => {
                let error = error.map_or_else(String::new, |error| format!("{error:#}"));
                eprintln!("the leader does not answer: {error}");
                break;
            }
        }
    }
    Ok(answer)
}

/// One question, to the node asked or to the one that it refers to.
async fn follow(admin: &str, path: &str) -> Outcome<SessionExplanation> {
    let mut base = admin.to_owned();
    for _ in 0..EXPLAIN_HOPS_MAX {
        let response = http::get(&base, path).await.map_err(http::unreached)?;
        match (response.status, response.location.as_deref()) {
            (200, _) => {
                let read = serde_json::from_slice(&response.body);
                return Ok(read.with_context(|| format!("read the answer of {base}{path}"))?);
            }
            (307, Some(location)) => {
                let elsewhere = location.strip_suffix(path);
                base = elsewhere.with_context(|| format!("{base} refers to {location}"))?.to_owned();
            }
            _ => return Err(http::refusal(&base, &response)),
        }
    }
    Err(Failure::from(anyhow!(
        "no node with a replica of the session's partition: {admin} led to {base} and further"
    ))
    .hint("replicas are moving: ask again in a moment"))
}

fn render(explanation: &SessionExplanation) -> String {
    let role = if explanation.leading { "its leader" } else { "a follower" };
    let mut text = format!(
        "session of client {:?}, home partition {}, leader {}\nas of applied index {}, read from {}, {role}\n\n",
        explanation.client_id,
        explanation.partition,
        explanation.leader.as_ref().map_or_else(|| "unknown".to_owned(), name),
        thousands(explanation.applied),
        name(&explanation.read_from),
    );
    if let Some(session) = &explanation.session {
        lines(session).iter().for_each(|(name, value)| text.push_str(&format!("{name:<14}{value}\n")));
        text.push('\n');
    }
    for finding in &explanation.findings {
        text.push_str(&format!("{}: {}\n", finding.name, finding.text));
    }
    text
}

fn lines(session: &SessionState) -> Vec<(&'static str, String)> {
    let mut lines = vec![("connection", connection(session)), ("expiry", expiry(session))];
    lines.push(("epoch", session.epoch.to_string()));
    if !session.principal.is_empty() {
        lines.push(("principal", session.principal.clone()));
    }
    if !session.durable {
        return lines;
    }
    let shown = session.subscriptions.iter().map(|subscription| {
        let no_local = if subscription.no_local { ", no local" } else { "" };
        format!("{} (QoS {}{no_local})", subscription.filter, subscription.qos)
    });
    let mut names = shown.collect::<Vec<_>>().join(", ");
    let hidden = session.subscription_count.saturating_sub(session.subscriptions.len() as u64);
    if hidden > 0 {
        names.push_str(&format!(" and {hidden} more"));
    }
    lines.push(("subscriptions", format!("{}  {names}", session.subscription_count).trim_end().to_owned()));
    let queue = &session.queue;
    lines.push((
        "queued",
        format!(
            "{} of {} messages, {} of {}, {}",
            thousands(queue.messages),
            thousands(queue.messages_max),
            bytes(queue.bytes),
            bytes(queue.bytes_max),
            queue.overflow
        ),
    ));
    lines.push(("inflight", inflight(session)));
    if let Some(oldest) = &session.inflight.oldest {
        let entry =
            oldest.entry.map_or_else(|| "received".to_owned(), |entry| format!("entry {}", thousands(entry)));
        let again = if oldest.sent_before { ", sent before" } else { "" };
        lines.push((
            "oldest",
            format!("packet identifier {}, QoS {}, {entry}{again}", oldest.packet_id, oldest.qos),
        ));
    }
    lines.push(("inbound", format!("{} QoS 2 packet identifiers not released", thousands(session.inbound))));
    let dropped =
        session.dropped.iter().map(|dropped| format!("{} {}", thousands(dropped.count), dropped.reason));
    let dropped = dropped.collect::<Vec<_>>().join(", ");
    lines.push(("dropped", if dropped.is_empty() { "0".to_owned() } else { dropped }));
    lines.push(("refused", format!("{} publishes for want of room", thousands(session.refused))));
    lines
}

fn connection(session: &SessionState) -> String {
    match (&session.owner, session.offline_s) {
        (Some(owner), _) => {
            let (node, incarnation) = (name(&owner.node), owner.incarnation);
            format!("{} on {node}, incarnation {incarnation}", owner.connection)
        }
        (None, Some(since)) => format!("none for {} s", thousands(since)),
        (None, None) => "none".to_owned(),
    }
}

fn expiry(session: &SessionState) -> String {
    let expiry = match session.expiry_s {
        Some(0) => "ends with its connection".to_owned(),
        Some(seconds) => format!("{} s after its connection", thousands(seconds.into())),
        None => "never".to_owned(),
    };
    match session.ends_in_s {
        Some(seconds) => format!("{expiry}: in {} s", thousands(seconds)),
        None => expiry,
    }
}

fn inflight(session: &SessionState) -> String {
    let inflight = &session.inflight;
    let mut text =
        format!("{} of {} (Receive Maximum {})", inflight.sent, inflight.window, inflight.receive_max);
    for (count, what) in [
        (inflight.held, "to be sent again"),
        (inflight.awaiting_puback, "waiting for PUBACK"),
        (inflight.awaiting_pubrec, "for PUBREC"),
        (inflight.awaiting_pubcomp, "for PUBCOMP"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {} {what}", thousands(count)));
        }
    }
    text
}

fn name(node: &SessionNode) -> String {
    if node.name.is_empty() { format!("#{}", node.id) } else { node.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{DroppedCount, Finding, OldestMessage, SessionOwner, SubscriptionState};

    fn example() -> SessionExplanation {
        let node = |id: u64| SessionNode { id, name: format!("n{id}"), admin: None };
        let mut session = SessionState {
            durable: true,
            epoch: 4,
            owner: Some(SessionOwner { node: node(2), incarnation: 3, connection: 77 }),
            expiry_s: Some(3600),
            subscription_count: 3,
            subscriptions: vec![SubscriptionState { filter: "a/#".to_owned(), qos: 1, ..Default::default() }],
            dropped: vec![DroppedCount { reason: "queue_bytes".to_owned(), count: 1234 }],
            ..SessionState::default()
        };
        session.inflight.sent = 5;
        session.inflight.window = 5;
        session.inflight.awaiting_pubcomp = 2;
        session.inflight.oldest =
            Some(OldestMessage { packet_id: 9, qos: 2, entry: None, sent_before: true });
        SessionExplanation {
            client_id: "c".to_owned(),
            partition: 7,
            leader: Some(node(1)),
            read_from: node(3),
            applied: 1500,
            session: Some(session),
            findings: vec![Finding { name: "window_full".to_owned(), text: "It is full.".to_owned() }],
            ..SessionExplanation::default()
        }
    }

    #[test]
    fn text_says_where_it_comes_from_and_what_was_found() {
        let text = render(&example());
        for part in [
            "home partition 7, leader n1",
            "as of applied index 1,500, read from n3, a follower",
            "77 on n2, incarnation 3",
            "3,600 s after its connection",
            "3  a/# (QoS 1) and 2 more",
            "5 of 5",
            "2 for PUBCOMP",
            "packet identifier 9, QoS 2, received, sent before",
            "1,234 queue_bytes",
            "window_full: It is full.",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn client_without_a_session_and_one_offline_are_told_apart() {
        let mut explanation = example();
        let session = explanation.session.as_mut().unwrap();
        (session.owner, session.offline_s, session.ends_in_s) = (None, Some(30), Some(3570));
        let text = render(&explanation);
        assert!(text.contains("none for 30 s") && text.contains("in 3,570 s"), "{text}");
        explanation.session = None;
        assert!(!render(&explanation).contains("connection"));
    }
}
