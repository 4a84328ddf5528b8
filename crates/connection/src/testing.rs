//! A client on the other end of a connection, with time that the test moves.

use core::time::Duration;

use bytes::BytesMut;
use quorate_codec::{Connect, Limits, Packet, ProtocolVersion, Role, Text};

use crate::{Accept, Config, Connection, Event};

pub(crate) struct Pair {
    pub(crate) connection: Connection,
    pub(crate) version: ProtocolVersion,
    pub(crate) now: Duration,
    /// Bytes that the connection has not taken yet.
    pub(crate) input: BytesMut,
}

pub(crate) fn connect(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        client_id: Text::from_static("c"),
        will: None,
        username: None,
        password: None,
        session_expiry_s: None,
        receive_max: None,
        packet_bytes_max: None,
        topic_alias_max: None,
        request_response_information: None,
        request_problem_information: None,
        authentication_method: None,
        authentication_data: None,
        user_properties: vec![],
    }
}

impl Pair {
    pub(crate) fn new(config: Config, version: ProtocolVersion) -> Pair {
        let now = Duration::from_secs(10);
        Pair { connection: Connection::new(config, now), version, now, input: BytesMut::new() }
    }

    /// CONNECT answered with success; CONNACK taken out.
    pub(crate) fn open(config: Config, connect: Connect) -> Pair {
        let mut pair = Pair::new(config, connect.version);
        pair.send(&Packet::Connect(Box::new(connect)));
        assert!(matches!(pair.events()[..], [Event::Connect(_)]));
        pair.connection.accept(Accept::default(), pair.now);
        assert!(matches!(pair.received()[..], [Packet::ConnAck(_)]));
        pair
    }

    pub(crate) fn send(&mut self, packet: &Packet) {
        quorate_codec::encode(packet, self.version, &mut self.input).unwrap();
        self.pump();
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.pump();
    }

    pub(crate) fn pump(&mut self) {
        self.connection.handle_bytes(&mut self.input, self.now);
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.connection.handle_timeout(self.now);
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.connection.poll_event()).collect()
    }

    /// What the client receives, decoded as it would.
    pub(crate) fn received(&mut self) -> Vec<Packet> {
        let version = self.version;
        let output = self.connection.output();
        let mut packets = Vec::new();
        while let Some(packet) =
            quorate_codec::decode(output, version, Role::Server, &Limits::of_protocol()).unwrap()
        {
            packets.push(packet);
        }
        assert!(output.is_empty(), "half a packet was written");
        packets
    }
}
