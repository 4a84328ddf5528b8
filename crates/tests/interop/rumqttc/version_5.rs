//! The library's client for MQTT 5.
//!
//! Owns: options, requests, properties and events of this version. Does not: wait.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Context, Result};
use quorate_tests::line::Line;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{
    LastWill, LastWillProperties, Packet, Publish, PublishProperties, SubscribeProperties,
    SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{QoS, qos};
use rumqttc::v5::{Client, Event, MqttOptions};

use crate::{Connected, EVENTS_MAX, Happened, number, tell};

/// Starts a client and the thread of its connection.
///
/// # Errors
/// When the request lacks a field.
pub fn connect(request: &Line) -> Result<Connected> {
    let mut options =
        MqttOptions::new(request.require("id")?, request.require("host")?, number(request, "port")?);
    options.set_keep_alive(Duration::from_secs(30));
    options.set_clean_start(request.require("clean")? == "1");
    options.set_session_expiry_interval(Some(number(request, "expiry")?));
    if let Some(topic) = request.field("will_topic") {
        let properties = LastWillProperties {
            delay_interval: Some(number(request, "will_delay")?),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let (payload, qos) = (request.require("will_payload")?, quality(request, "will_qos")?);
        options.set_last_will(LastWill::new(topic, payload, qos, false, Some(properties)));
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
            SubscribeReasonCode::SharedSubscriptionsNotSupported => Happened::Subscribed(0x9e),
            // The library knows the others by name only; the runner tells a refusal by 0x80 and above.
            _ => Happened::Subscribed(0x80),
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
    let properties = publish.properties.clone().unwrap_or_default();
    let mut line = Line::new("message")
        .with("topic", String::from_utf8_lossy(&publish.topic))
        .with("payload", String::from_utf8_lossy(&publish.payload))
        .with("qos", publish.qos as u8)
        .with("retain", u8::from(publish.retain))
        .with_some("content_type", properties.content_type)
        .with_some("response_topic", properties.response_topic)
        .with_some("correlation", properties.correlation_data.map(|data| hex(&data)))
        .with_some("expiry", properties.message_expiry_interval);
    for (key, value) in properties.user_properties {
        line = line.with("user", format!("{key}:{value}"));
    }
    properties.subscription_identifiers.iter().fold(line, |line, number| line.with("identifier", number))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

fn publish_properties(request: &Line) -> Result<PublishProperties> {
    let user = |pair: &str| pair.split_once(':').map(|(key, value)| (key.to_owned(), value.to_owned()));
    Ok(PublishProperties {
        content_type: request.field("content_type").map(str::to_owned),
        response_topic: request.field("response_topic").map(str::to_owned),
        correlation_data: request.field("correlation").map(unhex).transpose()?.map(Into::into),
        message_expiry_interval: request.field("expiry").map(str::parse).transpose()?,
        user_properties: request.all("user").filter_map(user).collect(),
        ..PublishProperties::default()
    })
}

impl crate::Client for Client {
    fn subscribe(&self, request: &Line) -> Result<()> {
        let (filter, qos) = (request.require("filter")?, quality(request, "qos")?);
        match request.field("identifier") {
            Some(identifier) => {
                let properties =
                    SubscribeProperties { id: Some(identifier.parse()?), user_properties: Vec::new() };
                Ok(self.subscribe_with_properties(filter, qos, properties)?)
            }
            None => Ok(Client::subscribe(self, filter, qos)?),
        }
    }

    fn publish(&self, request: &Line) -> Result<()> {
        let (topic, payload) = (request.require("topic")?, request.require("payload")?.to_owned());
        let (qos, retain) = (quality(request, "qos")?, request.require("retain")? == "1");
        Ok(self.publish_with_properties(topic, qos, retain, payload, publish_properties(request)?)?)
    }

    fn disconnect(&self) -> Result<()> {
        Ok(Client::disconnect(self)?)
    }
}
