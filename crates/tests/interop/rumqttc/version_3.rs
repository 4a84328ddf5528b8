//! The library's client for MQTT 3.1.1.
//!
//! Owns: options, requests and events of this version. Does not: wait.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Context, Result};
use quorate_tests::line::Line;
use rumqttc::{
    Client, Event, LastWill, MqttOptions, Outgoing, Packet, Publish, QoS, SubscribeReasonCode, qos,
};

use crate::{Connected, EVENTS_MAX, Happened, number, tell};

/// Starts a client and the thread of its connection.
///
/// # Errors
/// When the request lacks a field.
pub fn connect(request: &Line) -> Result<Connected> {
    let mut options =
        MqttOptions::new(request.require("id")?, request.require("host")?, number(request, "port")?);
    options.set_keep_alive(Duration::from_secs(30));
    options.set_clean_session(request.require("clean")? == "1");
    if let Some(topic) = request.field("will_topic") {
        let qos = quality(request, "will_qos")?;
        options.set_last_will(LastWill::new(topic, request.require("will_payload")?, qos, false));
    }
    let (client, mut connection) = Client::new(options, EVENTS_MAX);
    let (sender, events) = sync_channel(EVENTS_MAX);
    let thread = std::thread::spawn(move || {
        // Ends with the first error: the library would connect again.
        for event in connection.iter() {
            let happened = match event {
                Ok(event) => happened(event),
                Err(error) => Some(Happened::Lost(error.to_string())),
            };
            if !tell(&sender, happened) {
                return;
            }
        }
    });
    Ok(Connected { client: Box::new(client), events, thread })
}

fn quality(request: &Line, key: &str) -> Result<QoS> {
    qos(number(request, key)?).with_context(|| format!("{key} of {request}"))
}

fn happened(event: Event) -> Option<Happened> {
    match event {
        Event::Incoming(Packet::ConnAck(ack)) => Some(Happened::Connected(ack.session_present)),
        Event::Incoming(Packet::SubAck(ack)) => ack.return_codes.first().map(|code| match code {
            SubscribeReasonCode::Success(qos) => Happened::Subscribed(*qos as u8),
            SubscribeReasonCode::Failure => Happened::Subscribed(0x80),
        }),
        Event::Outgoing(Outgoing::Publish(0)) => Some(Happened::Published(0)),
        Event::Incoming(Packet::PubAck(_)) => Some(Happened::Published(1)),
        Event::Incoming(Packet::PubComp(_)) => Some(Happened::Published(2)),
        Event::Incoming(Packet::Publish(publish)) => {
            println!("{}", message(&publish));
            None
        }
        _ => None,
    }
}

fn message(publish: &Publish) -> Line {
    Line::new("message")
        .with("topic", &publish.topic)
        .with("payload", String::from_utf8_lossy(&publish.payload))
        .with("qos", publish.qos as u8)
        .with("retain", u8::from(publish.retain))
}

impl crate::Client for Client {
    fn subscribe(&self, request: &Line) -> Result<()> {
        Ok(Client::subscribe(self, request.require("filter")?, quality(request, "qos")?)?)
    }

    fn publish(&self, request: &Line) -> Result<()> {
        let (topic, payload) = (request.require("topic")?, request.require("payload")?);
        let retain = request.require("retain")? == "1";
        Ok(Client::publish(self, topic, quality(request, "qos")?, retain, payload)?)
    }

    fn disconnect(&self) -> Result<()> {
        Ok(Client::disconnect(self)?)
    }
}
