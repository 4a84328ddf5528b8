//! Why a client gets nothing: the judgement over the state of its session.
//!
//! Owns: the findings, their names, sentences and order. Does not: gather the state.
//! Invariants: an answer has a finding whenever something keeps messages from the client; what is past comes last.

use quorate_api::{Finding, SessionExplanation, SessionState};

/// What keeps messages from the client, or kept them, most important first.
pub fn findings(explanation: &SessionExplanation) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |name: &str, text: String| findings.push(Finding { name: name.to_owned(), text });
    if explanation.leader.is_none() {
        let partition = explanation.partition;
        add(
            "no_leader",
            format!("Partition {partition} has no known leader: nothing is delivered until one is elected."),
        );
    }
    match &explanation.session {
        None => add(
            "no_session",
            "The client identifier has no session: it never connected, or the session has ended.".to_owned(),
        ),
        Some(session) if !session.durable => add(
            "transient",
            "The session ends with its connection; its subscriptions and messages are on that connection's node \
             alone and are not shown."
                .to_owned(),
        ),
        Some(session) => {
            subscriptions(session, &mut add);
            deliveries(session, &mut add);
            past(session, &mut add);
        }
    }
    if !explanation.leading {
        add("follower", "This replica does not lead: the leader may have applied more.".to_owned());
    }
    findings
}

fn subscriptions(session: &SessionState, add: &mut impl FnMut(&str, String)) {
    let all_shown = session.subscriptions.len() as u64 == session.subscription_count;
    if session.subscription_count == 0 {
        add("no_subscriptions", "The session has no subscriptions.".to_owned());
    } else if all_shown && session.subscriptions.iter().all(|subscription| subscription.qos == 0) {
        let text = "All subscriptions are of QoS 0: nothing is queued for the session.";
        add("subscriptions_qos_0", text.to_owned());
    }
}

fn deliveries(session: &SessionState, add: &mut impl FnMut(&str, String)) {
    let (queue, inflight) = (&session.queue, &session.inflight);
    let waiting = queue.messages.saturating_add(inflight.held);
    if session.owner.is_none() {
        let since = session.offline_s.unwrap_or(0);
        let text = format!("The client has had no connection for {since} s; {waiting} messages wait for it.");
        add("offline", text);
    } else if inflight.sent >= u64::from(inflight.window) {
        let text = format!(
            "The client has {} messages that it has not acknowledged, as many as it may have; {waiting} wait until \
             it acknowledges one.",
            inflight.sent
        );
        add("window_full", text);
    } else if inflight.sent_bytes >= inflight.sent_bytes_max {
        let text = format!(
            "The client has {} bytes that it has not acknowledged, as many as it may have; {waiting} messages wait.",
            inflight.sent_bytes
        );
        add("window_bytes_full", text);
    } else if waiting == 0 {
        let text = match inflight.sent {
            0 => "Nothing waits for the client: all that was published for it was delivered.".to_owned(),
            sent => {
                format!("Nothing waits for the client, but for {sent} messages that it has not acknowledged.")
            }
        };
        add("queue_empty", text);
    }
    if inflight.window == 1 {
        let text =
            "One message may be unacknowledged at a time: each waits for the acknowledgement of the last.";
        add("window_of_one", text.to_owned());
    }
    if queue.messages >= queue.messages_max || queue.bytes >= queue.bytes_max {
        let next = match queue.overflow.as_str() {
            "drop-oldest" => "the oldest is dropped for each new message",
            "drop-newest" => "new messages are dropped",
            _ => "publishers are refused",
        };
        add("queue_full", format!("The queue is full: {next}."));
    }
}

fn past(session: &SessionState, add: &mut impl FnMut(&str, String)) {
    for dropped in &session.dropped {
        let why = match dropped.reason.as_str() {
            "queue_messages" => "its queue was at its limit of messages",
            "queue_bytes" => "its queue was at its limit of bytes",
            "message_expired" => "they expired before they were delivered",
            "refused_late" => "its queue was full, and their publishers had been told that they are taken",
            other => other,
        };
        add("dropped", format!("{} messages were dropped: {why}.", dropped.count));
    }
    if session.refused > 0 {
        add("refused", format!("{} publishes were refused because its queue was full.", session.refused));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{DroppedCount, SessionNode, SessionOwner, SubscriptionState};

    fn healthy() -> SessionExplanation {
        let mut session = SessionState {
            durable: true,
            owner: Some(SessionOwner::default()),
            subscription_count: 1,
            subscriptions: vec![SubscriptionState { qos: 1, ..SubscriptionState::default() }],
            ..SessionState::default()
        };
        session.queue.messages_max = 10;
        session.queue.bytes_max = 1000;
        session.queue.overflow = "drop-oldest".to_owned();
        session.inflight.window = 5;
        session.inflight.sent_bytes_max = 100;
        let leader = Some(SessionNode::default());
        SessionExplanation { leading: true, leader, session: Some(session), ..SessionExplanation::default() }
    }

    fn check(change: impl FnOnce(&mut SessionExplanation), names: &[&str]) {
        let mut explanation = healthy();
        change(&mut explanation);
        let found = findings(&explanation);
        assert_eq!(found.iter().map(|finding| finding.name.as_str()).collect::<Vec<_>>(), names, "{found:?}");
    }

    /// As [`check`], for a change of the session.
    fn check_session(change: impl FnOnce(&mut SessionState), names: &[&str]) {
        check(|explanation| change(explanation.session.as_mut().unwrap()), names);
    }

    #[test]
    fn every_state_that_keeps_messages_back_is_found() {
        check(|_| {}, &["queue_empty"]);
        check(|explanation| explanation.session = None, &["no_session"]);
        check(|explanation| explanation.leader = None, &["no_leader", "queue_empty"]);
        check(|explanation| explanation.leading = false, &["queue_empty", "follower"]);
        check_session(|session| session.durable = false, &["transient"]);
        check_session(|session| session.owner = None, &["offline"]);
        check_session(|session| session.inflight.sent = 5, &["window_full"]);
        check_session(|session| session.inflight.sent_bytes = 100, &["window_bytes_full"]);
        check_session(|session| session.inflight.window = 1, &["queue_empty", "window_of_one"]);
        check_session(|session| session.subscriptions[0].qos = 0, &["subscriptions_qos_0", "queue_empty"]);
        let none = |session: &mut SessionState| {
            session.subscriptions.clear();
            session.subscription_count = 0;
        };
        check_session(none, &["no_subscriptions", "queue_empty"]);
        let full = |session: &mut SessionState| {
            session.queue.messages = 10;
            session.inflight.sent = 5;
        };
        check_session(full, &["window_full", "queue_full"]);
    }

    #[test]
    fn what_was_lost_comes_last_with_its_reason() {
        let lost = |session: &mut SessionState| {
            session.dropped = vec![DroppedCount { reason: "queue_bytes".to_owned(), count: 3 }];
            session.refused = 2;
        };
        check_session(lost, &["queue_empty", "dropped", "refused"]);
        let mut explanation = healthy();
        lost(explanation.session.as_mut().unwrap());
        let text =
            findings(&explanation).into_iter().map(|finding| finding.text).collect::<Vec<_>>().join(" ");
        assert!(text.contains("3 messages were dropped: its queue was at its limit of bytes."), "{text}");
        assert!(text.contains("2 publishes were refused"), "{text}");
    }
}
