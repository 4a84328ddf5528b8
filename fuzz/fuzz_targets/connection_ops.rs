//! Any mix of what a client sends and a broker decides: no panic, whole packets out, and silence after the end.
//!
//! Input: operations, see the loop. Tokens are given back in order, as the connection demands.
#![no_main]

use core::time::Duration;
use std::collections::VecDeque;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use quorate_codec::{
    Ack, Connect, Limits, Packet, PacketId, ProtocolVersion, Publish, PublishQoS, ReasonCode, Role, Text,
    TopicName, decode, encode,
};
use quorate_connection::{Accept, Config, Connection, Delivery, Event, PublishToken, Reading};
use quorate_fuzz::Bytes;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let mut run = Run::new(&mut bytes);
    while !bytes.is_empty() {
        run.step(&mut bytes);
        run.check();
    }
});

struct Run {
    connection: Connection,
    version: ProtocolVersion,
    now: Duration,
    input: BytesMut,
    tokens: VecDeque<PublishToken>,
    received: Vec<PacketId>,
    connected: bool,
    was_closed: bool,
}

fn id(bytes: &mut Bytes<'_>) -> PacketId {
    let number = 1 + u16::try_from(bytes.below(8)).unwrap();
    PacketId::new(number).unwrap()
}

fn ack(packet_id: PacketId, failed: bool) -> Ack {
    let reason = if failed { ReasonCode::UNSPECIFIED_ERROR } else { ReasonCode::SUCCESS };
    Ack { packet_id, reason, reason_string: None, user_properties: vec![] }
}

impl Run {
    fn new(bytes: &mut Bytes<'_>) -> Run {
        let version = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5][bytes.below(3)];
        let config = Config { receive_max: u16::from(bytes.byte()) % 5, ..Config::default() };
        Run {
            connection: Connection::new(config, Duration::ZERO),
            version,
            now: Duration::ZERO,
            input: BytesMut::new(),
            tokens: VecDeque::new(),
            received: Vec::new(),
            connected: false,
            was_closed: false,
        }
    }

    fn send(&mut self, packet: &Packet) {
        // What this version cannot say is not said.
        let _ = encode(packet, self.version, &mut self.input);
        self.feed();
    }

    fn feed(&mut self) {
        self.connection.handle_bytes(&mut self.input, self.now);
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(16) {
            0 => {
                let raw = bytes.slice(60);
                self.input.extend_from_slice(raw);
                self.feed();
            }
            1 => self.send(&connect(self.version, bytes)),
            2 => {
                let qos = match bytes.below(3) {
                    0 => PublishQoS::AtMostOnce,
                    1 => PublishQoS::AtLeastOnce(id(bytes)),
                    _ => PublishQoS::ExactlyOnce(id(bytes)),
                };
                let topic = Some(TopicName::new(Text::from_static("t")).unwrap());
                let (dup, retain) = (false, bytes.flag());
                let payload = bytes::Bytes::copy_from_slice(bytes.slice(20));
                self.send(&Packet::Publish(Publish { dup, qos, retain, topic, properties: None, payload }));
            }
            3 => {
                let ack = ack(id(bytes), bytes.flag());
                self.send(&Packet::PubAck(ack));
            }
            4 => {
                let ack = ack(id(bytes), bytes.flag());
                self.send(&Packet::PubRec(ack));
            }
            5 => self.send(&Packet::PubRel(ack(id(bytes), false))),
            6 => self.send(&Packet::PubComp(ack(id(bytes), false))),
            7 => self.connection.accept(Accept::default(), self.now),
            8 => {
                if let Some(token) = self.tokens.pop_front() {
                    let reason = if bytes.flag() { ReasonCode::SUCCESS } else { ReasonCode::QUOTA_EXCEEDED };
                    self.connection.acknowledge(token, reason);
                }
            }
            9 => self.connection.complete(id(bytes), bytes.flag()),
            10 => {
                let chosen = bytes.below(self.received.len().max(1));
                let packet_id = if self.received.is_empty() || bytes.flag() {
                    id(bytes)
                } else {
                    self.received.swap_remove(chosen)
                };
                let _ = self.connection.release(packet_id);
            }
            11 => {
                let topic = TopicName::new(Text::from_static("t/1")).unwrap();
                let qos = match bytes.below(3) {
                    0 => PublishQoS::AtMostOnce,
                    1 => PublishQoS::AtLeastOnce(id(bytes)),
                    _ => PublishQoS::ExactlyOnce(id(bytes)),
                };
                let payload = bytes.slice(30);
                let (dup, retain) = (bytes.flag(), bytes.flag());
                let delivery = Delivery {
                    topic: &topic,
                    qos,
                    dup,
                    retain,
                    identifiers: &[],
                    expiry_s: None,
                    forwarded: &[],
                    payload,
                };
                let _ = self.connection.deliver(&delivery);
            }
            12 => {
                self.now += Duration::from_millis(u64::from(bytes.byte()) * 400);
                self.connection.handle_timeout(self.now);
            }
            13 => {
                let reading = [Reading::Open, Reading::Busy, Reading::Blocked][bytes.below(3)];
                self.connection.set_reading(reading, self.now);
            }
            14 if bytes.below(4) == 0 => self.connection.close(ReasonCode::SERVER_SHUTTING_DOWN),
            15 if bytes.below(8) == 0 => self.connection.handle_eof(),
            _ => self.feed(),
        }
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Connect(connect) => {
                    assert!(!self.connected, "[MQTT-3.1.0-2]");
                    self.connected = true;
                    self.version = connect.version;
                }
                Event::Publish { token, .. } => self.tokens.extend(token),
                Event::Received(packet_id) => self.received.push(packet_id),
                _ => {}
            }
        }
    }

    fn check(&mut self) {
        let closed = self.connection.is_closed();
        let output = self.connection.output().split();
        assert!(!self.was_closed || output.is_empty(), "nothing is added after the end");
        self.was_closed = closed;
        // A CONNECT that is refused at once was perhaps of another version than this run's.
        let versions = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];
        let fits = |version| self.version == version || !self.connected;
        let whole = versions.into_iter().filter(|version| fits(*version)).any(|version| {
            let mut output = output.clone();
            while let Ok(Some(_)) = decode(&mut output, version, Role::Server, &Limits::of_protocol()) {}
            output.is_empty()
        });
        assert!(whole, "whole packets that a server may send: {output:?}");
        if closed {
            assert_eq!(self.connection.poll_timeout(), None);
            assert!(!self.connection.wants_read());
        }
    }
}

fn connect(version: ProtocolVersion, bytes: &mut Bytes<'_>) -> Packet {
    Packet::Connect(Box::new(Connect {
        version,
        clean_start: bytes.flag(),
        keep_alive_s: u16::from(bytes.byte()),
        client_id: Text::from_static(if bytes.flag() { "c" } else { "" }),
        will: None,
        username: None,
        password: None,
        session_expiry_s: bytes.flag().then(|| u32::from(bytes.byte())),
        receive_max: std::num::NonZeroU16::new(u16::from(bytes.byte()) % 4),
        packet_bytes_max: bytes.flag().then(|| 8 + u32::from(bytes.byte())),
        topic_alias_max: bytes.flag().then_some(2),
        request_response_information: None,
        request_problem_information: None,
        authentication_method: None,
        authentication_data: None,
        user_properties: vec![],
    }))
}
