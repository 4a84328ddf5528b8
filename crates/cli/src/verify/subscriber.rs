//! A subscriber of a verify run, or a member of its share group, or the one who sees wills: takes every message, tells the oracle, acknowledges.
//!
//! Owns: subscribing when there is no session, answering by the book. Does not: judge.
//! Invariants: a message is in the oracle before its acknowledgement leaves.

use std::sync::Arc;
use std::time::Duration;

use quorate_codec::{Packet, PacketId, Publish, QoS, RetainHandling, SubAck, Subscribe, SubscriptionOptions};
use tokio::sync::{mpsc, watch};

use super::client::{SessionClient, topic, will_topic};
use super::message;
use super::oracle::{ClientIndex, Delivery};
use super::{Phase, Run};
use crate::client::{self, ClientError, Connection, Inbound};

struct Subscriber {
    run: Arc<Run>,
    index: ClientIndex,
    inbound: Inbound,
    /// Dropped when the subscription has been acknowledged.
    ready: Option<mpsc::Sender<()>>,
}

/// Runs a subscriber or a member of the share group until the run ends; tells `ready` when it is subscribed.
pub async fn run(run: Arc<Run>, index: ClientIndex, phases: watch::Receiver<Phase>, ready: mpsc::Sender<()>) {
    let mut subscriber =
        Subscriber { run: run.clone(), index, inbound: Inbound::default(), ready: Some(ready) };
    let mut session = SessionClient::new(run, index, phases);
    while let Some((mut connection, connack)) = session.connect().await {
        // Until the first SUBACK has come the subscription may be missing from a session that is present.
        let subscribe = !connack.session_present || subscriber.ready.is_some();
        if !connack.session_present {
            subscriber.inbound.clear();
        }
        match subscriber.receive_all(&mut connection, &mut session, subscribe).await {
            Ok(()) => break,
            Err(error) => {
                subscriber.run.oracle.lock().disconnected(index);
                session.lost(&error);
            }
        }
    }
    session.remove().await;
}

impl Subscriber {
    async fn receive_all(
        &mut self,
        connection: &mut Connection,
        session: &mut SessionClient,
        subscribe: bool,
    ) -> Result<(), ClientError> {
        if subscribe {
            connection.queue(&Packet::Subscribe(subscribe_packet(&self.run, self.index)?))?;
        }
        loop {
            // While sessions are removed, what was in flight to one member may rightly go to another.
            while session.phase() != Phase::Cleaning
                && let Some(packet) = connection.next_packet()?
            {
                self.receive(packet, connection)?;
            }
            if session.phase() == Phase::Cleaning {
                return connection.flush().await;
            }
            tokio::select! {
                progress = connection.exchange(None) => { progress?; }
                () = session.phase_changed() => {}
            }
        }
    }

    fn receive(&mut self, packet: Packet, connection: &mut Connection) -> Result<(), ClientError> {
        match packet {
            Packet::Publish(publish) => {
                let (deliver, answer) = self.inbound.publish(&publish);
                if deliver {
                    self.deliver(&publish);
                }
                if let Some(answer) = answer {
                    connection.queue(&answer)?;
                }
            }
            Packet::PubRel(release) => connection.queue(&self.inbound.release(release.packet_id))?,
            Packet::SubAck(suback) => self.subscribed(&suback)?,
            Packet::PingResp => {}
            other => {
                let problem = format!("unexpected {}", client::name(&other));
                self.run.oracle.lock().protocol_error(self.index, &problem);
            }
        }
        Ok(())
    }

    fn deliver(&mut self, publish: &Publish) {
        let now = self.run.now();
        let mut oracle = self.run.oracle.lock();
        match message::decode(&publish.payload) {
            Some(message) if message.run == self.run.id => {
                let delivery = Delivery {
                    publisher: usize::try_from(message.publisher).unwrap_or(usize::MAX),
                    sequence: message.sequence,
                    dup: publish.dup,
                    qos: publish.qos.level(),
                    sent_at: Duration::from_nanos(message.sent_ns),
                };
                match self.index {
                    ClientIndex::Publisher(_) | ClientIndex::Willed(_) => {}
                    ClientIndex::Subscriber(at) => oracle.delivered(at, delivery, now),
                    ClientIndex::Sharer(at) => oracle.shared(at, delivery),
                    ClientIndex::Watcher => {
                        oracle.will_seen(delivery.publisher, delivery.sequence, delivery.dup)
                    }
                }
            }
            Some(_) | None => oracle.corrupt(self.index),
        }
    }

    fn subscribed(&mut self, suback: &SubAck) -> Result<(), ClientError> {
        if let Some(reason) = suback.reasons.iter().find(|reason| reason.is_failure()) {
            // Connect again, perhaps to another broker: 0x97 and the like may pass.
            return Err(ClientError::Refused { reason: *reason, text: "the subscription".to_owned() });
        }
        // A broker may grant less than was asked for [MQTT-3.8.4-7]: then that is what it has to keep.
        let granted = suback.reasons.first().and_then(|reason| QoS::from_value(reason.value()));
        if let Some(granted) = granted {
            self.run.oracle.lock().granted(self.index, granted);
        }
        self.ready = None;
        Ok(())
    }
}

fn subscribe_packet(run: &Run, index: ClientIndex) -> Result<Subscribe, ClientError> {
    let all = topic(run.id, "+");
    let (filter, at) = match index {
        ClientIndex::Publisher(at) | ClientIndex::Subscriber(at) | ClientIndex::Willed(at) => (all, at),
        ClientIndex::Watcher => (will_topic(run.id, "+"), 0),
        ClientIndex::Sharer(at) => (format!("$share/verify/{all}"), at),
    };
    let filter = client::topic_filter(&filter).map_err(|problem| ClientError::Encode { problem })?;
    let options = SubscriptionOptions {
        qos: run.args.qos.at(at),
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Never,
    };
    Ok(Subscribe {
        packet_id: PacketId::MIN,
        identifier: None,
        user_properties: Vec::new(),
        filters: vec![(filter, options)],
    })
}
