//! D11: Session Present is right: a session that was acknowledged is there, and one that was never made is not.
//!
//! Source: contract D11; [MQTT-3.2.2-2]. A CONNECT without an answer may have made a session.

use std::collections::BTreeMap;

use super::Broken;
use crate::oracle::{Event, History};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Session {
    Absent,
    Perhaps,
    Present,
}

pub fn check(history: &History) -> Result<(), Broken> {
    let mut sessions: BTreeMap<u32, Session> = BTreeMap::new();
    let mut clean_asked: BTreeMap<u32, bool> = BTreeMap::new();
    let mut before: BTreeMap<u32, Session> = BTreeMap::new();
    for entry in &history.entries {
        let expires =
            |client: u32| history.clients.get(client as usize).is_some_and(|facts| facts.expiry.is_some());
        match entry.event {
            // See `session_expiry`.
            Event::ConnectSent { client, .. } | Event::Connected { client, .. } if expires(client) => {}
            Event::ConnectSent { client, clean, .. } => {
                let known = sessions.get(&client).copied().unwrap_or(Session::Absent);
                before.insert(client, known);
                clean_asked.insert(client, clean);
                // Until it is answered, it may or may not have happened.
                let durable = history.clients.get(client as usize).is_some_and(|facts| facts.durable);
                let unsure = match (clean, known) {
                    (true, Session::Absent) if !durable => Session::Absent,
                    (false, Session::Present) => Session::Present,
                    _ => Session::Perhaps,
                };
                sessions.insert(client, unsure);
            }
            Event::Connected { client, present, .. } => {
                let durable = history.clients.get(client as usize).is_some_and(|facts| facts.durable);
                let clean = clean_asked.get(&client).copied().unwrap_or(false);
                let known = before.get(&client).copied().unwrap_or(Session::Absent);
                let wrong = match known {
                    Session::Absent => present,
                    Session::Present => !present && !clean,
                    Session::Perhaps => false,
                };
                if wrong || (clean && present) {
                    let what = format!("client {client} was told Session Present = {present}");
                    return Err(Broken::new(entry.at, what));
                }
                sessions.insert(client, if durable { Session::Present } else { Session::Absent });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::*;

    #[test]
    fn forgotten_session_is_flagged() {
        let start = || vec![connecting(1), connected(1, false), lost(1), connecting(2)];
        judge(
            check,
            [start(), vec![connected(2, true)]].concat(),
            [start(), vec![connected(2, false)]].concat(),
        );
    }

    #[test]
    fn session_that_was_never_made_is_flagged() {
        judge(check, vec![connecting(1), connected(1, false)], vec![connecting(1), connected(1, true)]);
    }

    #[test]
    fn unanswered_connect_may_have_made_a_session() {
        let start = || vec![connecting(1), lost(1), connecting(2)];
        assert_eq!(check(&record([start(), vec![connected(2, true)]].concat())), Ok(()));
        assert_eq!(check(&record([start(), vec![connected(2, false)]].concat())), Ok(()));
    }
}
