//! Connections between model clients and nodes: real bytes towards the node, real bytes back.
//!
//! Owns: pipes with delays, and the task that serves each connection on a node. Does not: speak MQTT; `Client` and
//! `ModelClient` do.
//! Invariants: a pipe delivers in order; a subscription is in the routing table before the node hears of it; what the
//! client wants done is carried out before what it says is sent.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quorate_codec::{Limits, Packet, PacketId, ProtocolVersion, PublishQoS, Role};
use quorate_node::client::{Intake, Pressure};
use quorate_node::edge::{
    ClientEvent, ClientOutput, ClientRequest, DirectDelivery, DirectMessage, LocalChange,
};
use quorate_node::peer::PeerMessage;
use quorate_node::{Client, Context, SystemTopics};
use quorate_state::{ConnId, NodeId, Owner};

use super::process::Process;
use super::{Occurrence, World};
use crate::marks::Mark;
use crate::mutant::Mutant;
use crate::network::Lane;
use crate::oracle::{Conn, Event};

/// A time that never comes.
const NEVER: Duration = Duration::from_secs(1 << 40);

/// A connection between a client and a host.
pub(super) struct Pipe {
    pub(super) client: u32,
    pub(super) place: usize,
    version: ProtocolVersion,
    served_by: Option<(u64, ConnId)>,
    /// The node behind it: a host may get another identity while its client still waits.
    node: Option<NodeId>,
    to_server_clear: Duration,
    to_client_clear: Duration,
    /// The client's end is gone.
    client_gone: bool,
    /// CONNACK has left the node.
    open: bool,
}

/// A connection on its node.
pub(super) struct ServerConnection {
    client: Client,
    conn: Conn,
    input: BytesMut,
    pub(super) events: VecDeque<ClientEvent>,
    direct: VecDeque<DirectDelivery>,
    out: ClientOutput,
    ended: bool,
    wake_scheduled: bool,
    timer: Option<Duration>,
    /// Of the last delivery, for a mutant.
    last_packet_id: Option<PacketId>,
}

impl World {
    pub(super) fn open_pipe(&mut self, client: u32, conn: Conn, place: usize) {
        let version = self.clients[client as usize].plan.version;
        self.note(|| format!("{conn:?} of client {client} goes to host {place}"));
        self.pipes.insert(
            conn,
            Pipe {
                client,
                place,
                version,
                served_by: None,
                node: None,
                to_server_clear: self.now,
                to_client_clear: self.now,
                client_gone: false,
                open: false,
            },
        );
        let at = self.arrival_at_server(conn);
        self.schedule_at(at, Occurrence::Accept(conn));
    }

    fn arrival_at_server(&mut self, conn: Conn) -> Duration {
        let delay = self.random.micros(50, 1500);
        let Some(pipe) = self.pipes.get_mut(&conn) else { return self.now };
        pipe.to_server_clear = pipe.to_server_clear.max(self.now + delay);
        pipe.to_server_clear
    }

    fn arrival_at_client(&mut self, conn: Conn) -> Duration {
        let delay = self.random.micros(50, 1500);
        let Some(pipe) = self.pipes.get_mut(&conn) else { return self.now };
        pipe.to_client_clear = pipe.to_client_clear.max(self.now + delay);
        pipe.to_client_clear
    }

    pub(super) fn client_sends(&mut self, conn: Conn, packet: &Packet) {
        let Some(pipe) = self.pipes.get(&conn) else { return };
        let mut bytes = BytesMut::new();
        quorate_codec::encode(packet, pipe.version, &mut bytes).expect("a model client's packets are valid");
        let bytes = bytes.freeze();
        if let (Some(Mutant::PubrelBeforeDurable), Packet::PubRec(ack)) = (self.mutant, packet) {
            let at = self.arrival_at_client(conn);
            self.schedule_at(at, Occurrence::ToClient(conn, Packet::PubRel(ack.clone())));
        }
        // Now and then a packet comes in two pieces.
        let cut = if self.random.permille(50) { self.random.below(bytes.len()) } else { 0 };
        for piece in [bytes.slice(..cut), bytes.slice(cut..)] {
            if !piece.is_empty() {
                let at = self.arrival_at_server(conn);
                self.schedule_at(at, Occurrence::ToServer(conn, piece));
            }
        }
    }

    /// The client closes its socket.
    pub(super) fn client_closes(&mut self, conn: Conn, said: bool) {
        // Either what it sent last still arrives, or it is lost. Who says DISCONNECT does not leave before it has left.
        let lost = self.random.permille(500) && !said;
        let at = if lost { self.now + Duration::from_millis(1) } else { self.arrival_at_server(conn) };
        if let Some(pipe) = self.pipes.get_mut(&conn) {
            pipe.client_gone = true;
        }
        self.schedule_at(at, Occurrence::ServerEof(conn));
    }

    /// The network between a client and its node breaks: both ends see the end, what is underway is lost.
    pub(super) fn cut_pipe(&mut self, conn: Conn) {
        self.schedule(Duration::from_millis(1), Occurrence::ServerEof(conn));
        if let Some(pipe) = self.pipes.get_mut(&conn) {
            pipe.to_client_clear = NEVER;
            pipe.to_server_clear = NEVER;
        }
        self.schedule(Duration::from_millis(2), Occurrence::ClientEof(conn));
    }

    pub(super) fn open_pipes(&self) -> Vec<Conn> {
        self.pipes.iter().filter(|(_, pipe)| pipe.open && !pipe.client_gone).map(|(conn, _)| *conn).collect()
    }

    /// Whether a node still has the other end of a connection.
    pub(super) fn is_served(&self, conn: Conn) -> bool {
        self.pipes.get(&conn).is_some_and(|pipe| {
            let process = self.hosts[pipe.place].process.as_ref();
            pipe.served_by.is_some_and(|(generation, id)| {
                process.is_some_and(|process| {
                    process.generation == generation && process.connections.contains_key(&id)
                })
            })
        })
    }

    pub(super) fn accept(&mut self, conn: Conn) {
        let Some(place) = self.pipes.get(&conn).map(|pipe| pipe.place) else { return };
        let host = &self.hosts[place];
        let now = host.clock(self.now);
        let Some(generation) = host.process.as_ref().map(|process| process.generation) else {
            self.schedule(Duration::from_millis(1), Occurrence::ClientEof(conn));
            return;
        };
        let Some(mut process) = self.take_process(place, generation) else { return };
        process.last_conn += 1;
        let id = ConnId(process.last_conn);
        let owner = Owner { node: process.node.id(), incarnation: process.lease_incarnation, conn: id };
        let connection = ServerConnection {
            client: Client::new(owner, self.settings.client.clone(), now),
            conn,
            input: BytesMut::new(),
            events: VecDeque::new(),
            direct: VecDeque::new(),
            out: ClientOutput::default(),
            ended: false,
            wake_scheduled: false,
            timer: None,
            last_packet_id: None,
        };
        process.connections.insert(id, Box::new(connection));
        if let Some(pipe) = self.pipes.get_mut(&conn) {
            pipe.served_by = Some((generation, id));
            pipe.node = Some(owner.node);
        }
        self.put_back(place, process);
    }

    pub(super) fn send_to_server(&mut self, conn: Conn, bytes: Bytes) {
        self.with_server(conn, |connection| connection.input.extend_from_slice(&bytes));
    }

    pub(super) fn server_eof(&mut self, conn: Conn) {
        self.with_server(conn, |connection| connection.ended = true);
    }

    fn with_server(&mut self, conn: Conn, change: impl FnOnce(&mut ServerConnection)) {
        let Some(pipe) = self.pipes.get(&conn) else { return };
        let place = pipe.place;
        let Some((generation, id)) = pipe.served_by else { return };
        let process = self.hosts[place].process.as_mut().filter(|process| process.generation == generation);
        if let Some(connection) = process.and_then(|process| process.connections.get_mut(&id)) {
            change(connection);
            self.serve(place, generation, id, false);
        }
    }

    pub(super) fn schedule_serve(&mut self, place: usize, process: &mut Process, conn: ConnId) {
        if let Some(connection) = process.connections.get_mut(&conn)
            && !std::mem::replace(&mut connection.wake_scheduled, true)
        {
            let after = self.random.micros(5, 120);
            self.schedule(after, Occurrence::Serve(place, process.generation, conn));
        }
    }

    pub(super) fn deliver_direct(
        &mut self,
        place: usize,
        process: &mut Process,
        deliveries: Vec<(ConnId, DirectDelivery)>,
    ) {
        for (conn, delivery) in deliveries {
            if let Some(connection) = process.connections.get_mut(&conn) {
                connection.direct.push_back(delivery);
                self.schedule_serve(place, process, conn);
            }
        }
    }

    /// Sends the marks that have no answer, of one connection or of all.
    pub(super) fn send_marks(&mut self, place: usize, process: &Process, of: Option<ConnId>) {
        let marks: Vec<(ConnId, u64, NodeId)> = process.routing.unanswered(of).collect();
        for (conn, number, node) in marks {
            let mut bytes = BytesMut::new();
            PeerMessage::Mark { conn, number }.encode(&mut bytes);
            self.send_frame(place, process, node, Lane::Routing, bytes.freeze(), false);
        }
    }

    /// What other nodes had forwarded before a mark has come.
    pub(super) fn tell_marked(&mut self, place: usize, process: &mut Process, conn: ConnId, number: u64) {
        if let Some(connection) = process.connections.get_mut(&conn) {
            connection.events.push_back(ClientEvent::Marked(number));
            self.schedule_serve(place, process, conn);
        }
    }

    /// One turn of a connection's task.
    pub(super) fn serve(&mut self, place: usize, generation: u64, conn: ConnId, timer: bool) {
        let Some(mut process) = self.take_process(place, generation) else { return };
        if let Some(mut connection) = process.connections.remove(&conn) {
            let now = self.hosts[place].clock(self.now);
            let intake = if self.hosts[place].full { Intake::Closed } else { Intake::Open };
            if intake == Intake::Closed {
                self.history.marks.hit(Mark::IntakeClosed);
                self.history.push(self.now, Event::IntakeClosed { conn: connection.conn });
            }
            if !process.lease_until.is_zero() && now > process.lease_until {
                self.history.marks.hit(Mark::LeaseLost);
            }
            connection.turn(&process, now, timer, intake, self.mutant == Some(Mutant::LeaseIgnored));
            self.carry_out(place, &mut process, &mut connection);
            self.flush(&mut process, &mut connection);
            if connection.client.is_closed() {
                let at = self.arrival_at_client(connection.conn);
                self.schedule_at(at, Occurrence::ClientEof(connection.conn));
            } else {
                self.arm(place, generation, &mut connection, conn);
                process.connections.insert(conn, connection);
            }
        }
        let requests = !process.requests.is_empty();
        self.put_back(place, process);
        if requests {
            self.schedule_work(place);
        }
    }

    fn arm(&mut self, place: usize, generation: u64, connection: &mut ServerConnection, conn: ConnId) {
        let Some(due) = connection.client.poll_timeout() else { return };
        let at = self.hosts[place].world_time(due).max(self.now + Duration::from_micros(100));
        if connection.timer.is_none_or(|set| at < set || set <= self.now) {
            connection.timer = Some(at);
            self.schedule_at(at, Occurrence::ServeTimer(place, generation, conn));
        }
    }

    /// In the order that keeps promises: subscriptions here, then direct messages, then requests to the node.
    fn carry_out(&mut self, place: usize, process: &mut Process, connection: &mut ServerConnection) {
        let conn = connection.client.owner().conn;
        let out = std::mem::take(&mut connection.out);
        let mut wakes = false;
        for change in out.local {
            match change {
                LocalChange::Resumed => process.routing.fence(conn, process.peers.clone()),
                LocalChange::Mark(number) => {
                    let unmarked = self.mutant == Some(Mutant::SubscribeUnmarked);
                    let nodes = if unmarked { Default::default() } else { process.peers_alive() };
                    if !process.routing.mark(conn, number, nodes) {
                        connection.events.push_back(ClientEvent::Marked(number));
                        wakes = true;
                    }
                }
                LocalChange::Add { .. } | LocalChange::Remove(_) | LocalChange::RemoveAll => {}
            }
            process.routing.apply_local(conn, change);
        }
        self.send_marks(place, process, Some(conn));
        let (own, others): (Vec<_>, Vec<_>) = out.direct.into_iter().partition(|(to, _)| *to == conn);
        self.deliver_direct(place, process, others);
        wakes |= !own.is_empty();
        connection.direct.extend(own.into_iter().map(|(_, delivery)| delivery));
        if wakes && !std::mem::replace(&mut connection.wake_scheduled, true) {
            let after = self.random.micros(5, 120);
            self.schedule(after, Occurrence::Serve(place, process.generation, conn));
        }
        for (to, message) in out.forwards {
            self.forward(place, process, to, &message);
        }
        process.requests.extend(out.requests.into_iter().map(|request| (conn, request)));
    }

    fn forward(&mut self, place: usize, process: &Process, to: NodeId, message: &PeerMessage) {
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        self.send_frame(place, process, to, Lane::Routing, frame.freeze(), false);
    }

    /// Hands a message to all that take it directly, as a node says.
    pub(super) fn hand_over(&mut self, place: usize, process: &mut Process, message: &Arc<DirectMessage>) {
        let (mut deliveries, mut forwards) = (Vec::new(), Vec::new());
        process.routing.hand_over(message, &mut deliveries, &mut forwards);
        self.deliver_direct(place, process, deliveries);
        for (node, message) in forwards {
            self.forward(place, process, node, &message);
        }
    }

    /// Sends what the connection says.
    fn flush(&mut self, process: &mut Process, connection: &mut ServerConnection) {
        let conn = connection.conn;
        let Some(pipe) = self.pipes.get(&conn) else { return };
        let (client, version) = (pipe.client, pipe.version);
        let limits = Limits::of_protocol();
        let mut output = std::mem::take(connection.client.output());
        while !output.is_empty() {
            let mut packet = match quorate_codec::decode(&mut output, version, Role::Server, &limits) {
                Ok(Some(packet)) => packet,
                Ok(None) => panic!("a node sent half a packet to client {client}"),
                Err(error) => panic!("a node sent client {client} what is no packet: {error}"),
            };
            self.falsify(process, connection, &mut packet);
            match &packet {
                Packet::ConnAck(ack) if !ack.reason.is_failure() => {
                    if let Some(pipe) = self.pipes.get_mut(&conn) {
                        pipe.open = true;
                    }
                    self.history.push(self.now, Event::ServerConnack { client, conn });
                }
                Packet::PubAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) => {
                    self.history.push(self.now, Event::ServerAck { client, conn });
                }
                Packet::Publish(_) => self.delivered_at = self.now,
                _ => {}
            }
            let at = self.arrival_at_client(conn);
            self.schedule_at(at, Occurrence::ToClient(conn, packet));
        }
    }

    /// What mutants do to packets on their way to clients.
    fn falsify(&mut self, process: &mut Process, connection: &mut ServerConnection, packet: &mut Packet) {
        match (self.mutant, packet) {
            (Some(Mutant::DedupeReleasedEarly), Packet::PubRec(ack)) if !ack.reason.is_failure() => {
                let release = ClientRequest::Release { packet_id: ack.packet_id };
                process.requests.push_back((connection.client.owner().conn, release));
            }
            (Some(Mutant::PacketIdReused), Packet::Publish(publish)) => {
                let Some(packet_id) = publish.qos.packet_id() else { return };
                let before = connection.last_packet_id.replace(packet_id).unwrap_or(packet_id);
                publish.qos = match publish.qos {
                    PublishQoS::AtLeastOnce(_) => PublishQoS::AtLeastOnce(before),
                    PublishQoS::ExactlyOnce(_) => PublishQoS::ExactlyOnce(before),
                    PublishQoS::AtMostOnce => PublishQoS::AtMostOnce,
                };
            }
            _ => {}
        }
    }

    pub(super) fn send_to_client(&mut self, conn: Conn, packet: Packet) {
        let Some(pipe) = self.pipes.get(&conn) else { return };
        if pipe.client_gone {
            return;
        }
        let client = pipe.client;
        self.with_client(client, |client, tools| client.receive(conn, packet, tools));
    }

    pub(super) fn client_eof(&mut self, conn: Conn) {
        let Some(pipe) = self.pipes.get_mut(&conn) else { return };
        let gone = std::mem::replace(&mut pipe.client_gone, true);
        let client = pipe.client;
        if !gone {
            self.with_client(client, |client, tools| {
                if client.knows(conn) {
                    client.closed(conn, tools);
                }
            });
        }
    }

    /// The cluster has declared a node dead.
    pub(super) fn connections_forsaken(&mut self, node: NodeId) {
        let here = self.pipes.iter().filter(|(_, pipe)| pipe.node == Some(node) && !pipe.client_gone);
        let forsaken: Vec<Conn> = here.map(|(conn, _)| *conn).collect();
        for conn in forsaken {
            self.history.push(self.now, Event::Forsaken { conn });
        }
    }

    /// A process is gone with all its connections. `silent`: the clients find out by themselves.
    pub(super) fn connections_of_dead(&mut self, place: usize, process: &Process, silent: bool) {
        for connection in process.connections.values() {
            if !silent {
                let after = self.random.millis(1, 20);
                self.schedule(after, Occurrence::ClientEof(connection.conn));
            }
        }
        let generation = process.generation;
        let silent_pipes = self.pipes.iter().filter(|(_, pipe)| {
            pipe.place == place && !pipe.client_gone && pipe.served_by.is_none_or(|(by, _)| by == generation)
        });
        let unserved: Vec<Conn> =
            silent_pipes.filter(|(_, pipe)| pipe.served_by.is_none()).map(|(conn, _)| *conn).collect();
        for conn in unserved {
            self.schedule(Duration::from_millis(1), Occurrence::ClientEof(conn));
        }
    }
}

impl ServerConnection {
    fn turn(&mut self, process: &Process, now: Duration, timer: bool, intake: Intake, lease_ignored: bool) {
        let lease_until = if lease_ignored { NEVER } else { process.lease_until };
        let incarnation =
            if lease_ignored { self.client.owner().incarnation } else { process.lease_incarnation };
        // Nothing here asks for `$SYS`: its values come from clocks and counters of the shell.
        let system = SystemTopics::default();
        let routing = &process.routing;
        let (draining, pressure) = (false, Pressure::None);
        let context =
            Context { routing, system: &system, lease_until, incarnation, draining, intake, pressure };
        let out = &mut self.out;
        self.wake_scheduled = false;
        if timer {
            self.timer = None;
            if self.client.poll_timeout().is_some_and(|due| now >= due) {
                self.client.handle_timeout(&context, out, now);
            }
        }
        while let Some(event) = self.events.pop_front() {
            self.client.handle_event(event, &context, out, now);
        }
        while let Some(delivery) = self.direct.pop_front() {
            self.client.handle_direct(delivery, &context, out, now);
        }
        if !self.input.is_empty() && self.client.wants_read() {
            self.client.handle_bytes(&mut self.input, &context, out, now);
        }
        if self.ended && !self.client.is_closed() {
            self.client.handle_eof(&context, out, now);
        }
    }
}
