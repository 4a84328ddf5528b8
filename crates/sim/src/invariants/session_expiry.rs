//! D13: a session never expires early, and not much too late.
//!
//! Source: contract D13; MQTT 5, 3.1.2.11.2. Seen by Session Present of clients that come back. Replicated time goes as
//! leaders' clocks do, and stands still while there is no quorum: so "late" is judged in calm runs alone.

use core::time::Duration;
use std::collections::BTreeMap;

use super::Broken;
use crate::oracle::{Conn, Event, History};

/// How much clocks may differ from the world's, and a little.
const CLOCK_PERMILLE: u32 = 60;

/// A connection's end reaches its node at about the time at which the client knows of it.
const SLACK: Duration = Duration::from_millis(20);

/// In a calm run a session is gone so long after its time.
const LATE_MAX: Duration = Duration::from_millis(2500);

#[derive(Default)]
struct Client {
    conn: Option<Conn>,
    /// When the last connection that had its CONNACK was over, for its client or for the cluster.
    over: Option<Duration>,
    asked: Duration,
}

pub fn check(history: &History) -> Result<(), Broken> {
    let mut clients: BTreeMap<u32, Client> = BTreeMap::new();
    for entry in &history.entries {
        let expiry = |client: u32| history.clients.get(client as usize).and_then(|facts| facts.expiry);
        match &entry.event {
            Event::ConnectSent { client, .. } => clients.entry(*client).or_default().asked = entry.at,
            Event::Lost { client, conn } => {
                let known = clients.entry(*client).or_default();
                if known.conn == Some(*conn) {
                    known.over.get_or_insert(entry.at);
                }
            }
            Event::Forsaken { conn } => {
                let owner = clients.values_mut().find(|known| known.conn == Some(*conn));
                if let Some(known) = owner {
                    known.over.get_or_insert(entry.at);
                }
            }
            Event::Connected { client, conn, present } => {
                let Some(expiry) = expiry(*client) else { continue };
                let known = clients.entry(*client).or_default();
                known.conn = Some(*conn);
                let Some(over) = known.over.take() else { continue };
                let little = expiry * CLOCK_PERMILLE / 1000;
                if !present && entry.at + SLACK < over + expiry - little {
                    let what = format!("session of client {client} was gone before its time");
                    return Err(Broken::new(entry.at, what));
                }
                if *present && history.calm && known.asked > over + expiry + little + LATE_MAX {
                    let what = format!("session of client {client} was there long after its time");
                    return Err(Broken::new(entry.at, what));
                }
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

    fn judged(away: Duration, present: bool) -> Result<(), Broken> {
        let mut history = record(vec![connecting(1), connected(1, false), lost(1)]);
        history.clients[0].expiry = Some(Duration::from_secs(10));
        history.calm = true;
        history.push(away, connecting(2));
        history.push(away, connected(2, present));
        check(&history)
    }

    #[test]
    fn session_that_is_gone_before_its_time_is_flagged() {
        assert_eq!(judged(Duration::from_secs(5), true), Ok(()));
        assert!(judged(Duration::from_secs(5), false).is_err());
        assert_eq!(judged(Duration::from_secs(11), false), Ok(()));
    }

    #[test]
    fn time_of_a_session_begins_when_the_cluster_gives_its_node_up() {
        let mut history = record(vec![connecting(1), connected(1, false)]);
        history.clients[0].expiry = Some(Duration::from_secs(10));
        history.push(Duration::from_secs(1), Event::Forsaken { conn: Conn(1) });
        history.push(Duration::from_secs(9), lost(1));
        history.push(Duration::from_secs(12), connecting(2));
        history.push(Duration::from_secs(12), connected(2, false));
        assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn session_that_is_there_long_after_its_time_is_flagged() {
        assert_eq!(judged(Duration::from_secs(11), true), Ok(()));
        assert!(judged(Duration::from_secs(20), true).is_err());
    }
}
