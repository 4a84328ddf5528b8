//! D11: one owner: once a new connection of a client got its CONNACK, nothing is acknowledged on an earlier one.
//!
//! Source: contract D11; [MQTT-3.1.4-3]. Judged by what leaves the nodes, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use crate::oracle::{Conn, Event, History};

pub fn check(history: &History) -> Result<(), Broken> {
    let mut owner: BTreeMap<u32, Conn> = BTreeMap::new();
    let mut former: BTreeSet<Conn> = BTreeSet::new();
    for entry in &history.entries {
        match entry.event {
            Event::ServerConnack { client, conn } => former.extend(owner.insert(client, conn)),
            Event::ServerAck { client, conn } if former.contains(&conn) => {
                let what = format!(
                    "client {client} was acknowledged something on {conn:?}, which had lost its session"
                );
                return Err(Broken::new(entry.at, what));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::judge;

    #[test]
    fn acknowledgement_on_the_former_connection_is_flagged() {
        let connack = |conn| Event::ServerConnack { client: 1, conn: Conn(conn) };
        let ack = |conn| Event::ServerAck { client: 1, conn: Conn(conn) };
        judge(check, vec![connack(1), ack(1), connack(2), ack(2)], vec![connack(1), connack(2), ack(1)]);
    }
}
