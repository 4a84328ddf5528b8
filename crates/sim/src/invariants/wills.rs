//! D12: a will is published exactly once when its connection ends without a word, and never otherwise.
//!
//! Source: contract D12; MQTT 5, 3.1.2.5. Seen by durable sessions that were subscribed the whole time. A connection ended
//! without a word if its client neither sent DISCONNECT nor never got a CONNACK: without CONNACK, whether there was a
//! session is unknown, and with a DISCONNECT on a connection that was about to break, whether it arrived is. A will with
//! delay may be cancelled by the next connection of a durable session, so it is only held not to come early, twice, or
//! after a DISCONNECT that was read.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::subscriptions::{Span, Subscriptions};
use crate::client::WILL;
use crate::oracle::{Conn, Event, History, MessageId, WillSent};

/// Replicated time is stamped by leaders whose clocks differ a little from the world's.
const EARLY_PERMILLE: u32 = 60;

struct Dying {
    client: u32,
    will: WillSent,
    sent_at: Duration,
    /// CONNACK came.
    open: bool,
    /// DISCONNECT was sent.
    said: bool,
    /// The client knows that it is over.
    over: Option<Duration>,
}

pub fn check(history: &History) -> Result<(), Broken> {
    let subscriptions = Subscriptions::read(history);
    let mut wills: BTreeMap<Conn, Dying> = BTreeMap::new();
    let mut seen: BTreeSet<(u32, MessageId)> = BTreeSet::new();
    for entry in &history.entries {
        match &entry.event {
            Event::ConnectSent { client, conn, will: Some(will), .. } => {
                let (client, will) = (*client, *will);
                let dying = Dying { client, will, sent_at: entry.at, open: false, said: false, over: None };
                wills.insert(*conn, dying);
            }
            Event::Connected { conn, .. } => {
                wills.entry(*conn).and_modify(|dying| dying.open = true);
            }
            Event::DisconnectSent { conn, .. } => {
                wills.entry(*conn).and_modify(|dying| dying.said = true);
            }
            Event::Lost { conn, .. } => {
                wills.entry(*conn).and_modify(|dying| dying.over = Some(entry.at));
            }
            Event::Delivered(delivery) => {
                let Some(id) = delivery.id.filter(|id| id.publisher & WILL != 0) else { continue };
                let durable =
                    history.clients.get(delivery.client as usize).is_some_and(|facts| facts.durable);
                let Some(dying) = wills.get(&Conn(id.seq)) else {
                    return Err(Broken::new(entry.at, format!("{delivery:?} is nobody's will")));
                };
                if dying.over.is_none() && history.calm {
                    return Err(Broken::new(entry.at, format!("{delivery:?} before its connection ended")));
                }
                let early = dying.will.delay.saturating_sub(dying.will.delay * EARLY_PERMILLE / 1000);
                if entry.at < dying.sent_at + early {
                    return Err(Broken::new(entry.at, format!("{delivery:?} before its delay")));
                }
                let durable_copy = durable && delivery.packet_id != 0;
                if durable_copy && !seen.insert((delivery.client, id)) && !delivery.dup {
                    return Err(Broken::new(entry.at, format!("{delivery:?} came twice")));
                }
                if history.calm && dying.said {
                    return Err(Broken::new(entry.at, format!("{delivery:?} after DISCONNECT")));
                }
            }
            _ => {}
        }
    }
    check_none_is_missing(history, &subscriptions, &wills, &seen)
}

/// A connection that ended without a word, and whose will has no delay, has had its will published by the end.
fn check_none_is_missing(
    history: &History,
    subscriptions: &Subscriptions,
    wills: &BTreeMap<Conn, Dying>,
    seen: &BTreeSet<(u32, MessageId)>,
) -> Result<(), Broken> {
    let end = history.entries.last().map_or(Duration::ZERO, |entry| entry.at);
    for dying in wills.values() {
        let Some(over) = dying.over else { continue };
        if !dying.open || dying.said || !dying.will.delay.is_zero() || over + Duration::from_secs(5) > end {
            continue;
        }
        let span = Span { from: dying.sent_at, until: end };
        for (client, facts) in (0..).zip(&history.clients) {
            let fits = |filter| history.matches(filter, dying.will.topic);
            let wanted =
                facts.durable && client != dying.client && subscriptions.certainly(client, fits, span);
            if wanted && !seen.contains(&(client, dying.will.id)) {
                let what = format!("client {client} never got the will of {:?}", dying.will.id);
                return Err(Broken::new(over, what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::*;
    use crate::oracle::{Delivery, Topic};

    fn dying(delay: Duration) -> Event {
        let id = MessageId { publisher: 2 | WILL, seq: 30 };
        let will = Some(WillSent { id, topic: Topic(0), delay });
        Event::ConnectSent { client: 2, conn: Conn(30), clean: true, will }
    }

    fn came(packet_id: u16) -> Event {
        let id = Some(MessageId { publisher: 2 | WILL, seq: 30 });
        Event::Delivered(Delivery { id, ..delivery(1, 1, packet_id) })
    }

    fn start() -> Vec<Event> {
        let open = Event::Connected { client: 2, conn: Conn(30), present: false };
        vec![connecting(1), connected(1, false), subscribing(), subscribed(), dying(Duration::ZERO), open]
    }

    fn over() -> Event {
        Event::Lost { client: 2, conn: Conn(30) }
    }

    #[test]
    fn will_that_comes_twice_is_flagged() {
        let good = [start(), vec![over(), came(7)]].concat();
        judge(check, good.clone(), [good, vec![came(8)]].concat());
    }

    #[test]
    fn will_that_never_comes_is_flagged() {
        let mut late = record([start(), vec![over()]].concat());
        assert_eq!(check(&late), Ok(()), "it may still come");
        late.push(Duration::from_secs(60), Event::Note(String::new()));
        late.push(Duration::from_secs(60), connecting(99));
        assert!(check(&late).is_err());
    }

    #[test]
    fn will_before_its_delay_is_flagged() {
        let mut early = start();
        early[4] = dying(Duration::from_secs(5));
        assert!(check(&record([early, vec![over(), came(7)]].concat())).is_err());
    }

    #[test]
    fn will_after_disconnect_is_flagged_when_nothing_else_happened() {
        let said = Event::DisconnectSent { client: 2, conn: Conn(30) };
        let mut calm = record([start(), vec![said, over(), came(7)]].concat());
        calm.calm = true;
        assert!(check(&calm).is_err());
    }
}
