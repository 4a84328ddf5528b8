//! Frames between hosts: sent, delayed, lost with their link, handed over.
//!
//! Owns: the life of links as processes see it. Does not: decide when they fail; see `faults`.
//! Invariants: a process is told that a link is down after its last frame, and before the first one of its next session.

use core::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_node::Event as NodeEvent;
use quorate_node::peer::PeerMessage;
use quorate_state::NodeId;

use super::process::Process;
use super::{Occurrence, World};
use crate::network::{Frame, IDLE_MAX, Lane};

impl World {
    pub(super) fn send_frame(
        &mut self,
        place: usize,
        process: &Process,
        to: NodeId,
        lane: Lane,
        bytes: Bytes,
        lossy: bool,
    ) {
        let Some(there) = self.place_of(to) else { return };
        let session = process.links.get(&to).copied();
        if session.is_none() || session != self.network.session(place, there) {
            return;
        }
        let theirs = self.hosts[there].process.as_ref().map(|process| process.node.incarnation());
        let frame = Frame {
            from: place,
            to: there,
            session: session.unwrap_or(0),
            lane,
            incarnations: (process.node.incarnation(), theirs.unwrap_or_default()),
            bytes: Some(bytes),
        };
        let lossy = lossy && self.phase == super::Phase::Faults;
        let chance = if lossy { self.features.lossy_permille } else { 0 };
        if self.random.permille(chance) {
            return;
        }
        if self.random.permille(chance / 2) {
            self.post(frame.clone(), true);
        }
        let hurried = self.random.permille(chance / 2);
        self.post(frame, hurried);
    }

    fn post(&mut self, frame: Frame, hurried: bool) {
        let at = self.network.arrival(&frame, self.now, hurried, &mut self.random);
        self.schedule_at(at, Occurrence::Arrive(frame));
    }

    pub(super) fn arrive(&mut self, frame: Frame) {
        let Some(frame) = self.network.deliver(frame) else { return };
        let from = self.hosts[frame.from].node;
        let to = frame.to;
        let Some(generation) = self.hosts[to].process.as_ref().map(|process| process.generation) else {
            return;
        };
        let Some(mut process) = self.take_process(to, generation) else { return };
        process.saw(from, frame.incarnations.0);
        match frame.bytes {
            None => {
                process.links.insert(from, frame.session);
                process.from_peers.push(NodeEvent::PeerUp(from));
            }
            // What comes before the process knows of the link waits for nothing: it is from an earlier process.
            Some(_) if process.links.get(&from) != Some(&frame.session) => {}
            // The routing link ends with the incarnation of either side.
            Some(_) if frame.lane == Lane::Routing && process.outlived(from, frame.incarnations) => {}
            Some(bytes) => match PeerMessage::decode(bytes) {
                Ok(PeerMessage::Forward(message)) => {
                    let mut deliveries = Vec::new();
                    process.routing.forwarded_deliveries(from, &message, &mut deliveries);
                    self.deliver_direct(to, &mut process, deliveries);
                }
                Ok(PeerMessage::ForwardShared { draw, shares, message }) => {
                    let mut deliveries = Vec::new();
                    process.routing.forwarded_share_deliveries(
                        from,
                        &message,
                        &shares,
                        draw,
                        &mut deliveries,
                    );
                    self.deliver_direct(to, &mut process, deliveries);
                }
                Ok(PeerMessage::Mark { conn, number }) => {
                    let mut bytes = BytesMut::new();
                    PeerMessage::MarkAnswer { conn, number }.encode(&mut bytes);
                    self.send_frame(to, &process, from, Lane::Routing, bytes.freeze(), false);
                }
                Ok(PeerMessage::MarkAnswer { conn, number }) => {
                    if process.routing.mark_answered(conn, number, from) {
                        self.tell_marked(to, &mut process, conn, number);
                    }
                }
                Ok(mut message) => {
                    self.close_gap(&mut process, &mut message);
                    self.change_commands(&mut message);
                    self.note_matched(&mut process, from, &message);
                    process.from_peers.push(NodeEvent::Peer(from, message));
                }
                Err(error) => panic!("a frame from node {from} does not decode: {error}"),
            },
        }
        self.put_back(to, process);
        self.schedule_work(to);
    }

    /// Both sides try to connect.
    pub(super) fn link_up(&mut self, a: usize, b: usize) {
        if self.network.session(a, b).is_some() {
            return;
        }
        let willing = |from: usize, to: usize| {
            let host = &self.hosts[from];
            let to = self.hosts[to].node;
            !host.paused && host.process.as_ref().is_some_and(|process| process.peers.contains(&to))
        };
        if !self.network.is_open(a, b) || !willing(a, b) || !willing(b, a) {
            let after = self.random.millis(50, 400);
            self.schedule(after, Occurrence::LinkUp(a, b));
            return;
        }
        let Some(session) = self.network.bring_up(a, b) else { return };
        for (from, to) in [(a, b), (b, a)] {
            let own = self.hosts[from].process.as_ref().map(|process| process.node.incarnation());
            let incarnations = (own.unwrap_or_default(), Default::default());
            self.post(Frame { from, to, session, lane: Lane::Raft, incarnations, bytes: None }, false);
        }
    }

    /// A link is reset: what is underway is lost, both ends hear of it.
    pub(super) fn reset_link(&mut self, a: usize, b: usize) {
        if !self.network.bring_down(a, b) {
            return;
        }
        for (place, other) in [(a, b), (b, a)] {
            let peer = self.hosts[other].node;
            if let Some(generation) = self.hosts[place].process.as_ref().map(|process| process.generation) {
                let after = self.random.micros(10, 20_000);
                self.schedule(after, Occurrence::PeerDown(place, generation, peer));
            }
        }
        let after = self.random.millis(40, 500);
        self.schedule(after, Occurrence::LinkUp(a, b));
    }

    pub(super) fn peer_down(&mut self, place: usize, generation: u64, peer: NodeId) {
        if let Some(process) = self.hosts[place].process.as_mut().filter(|p| p.generation == generation)
            && process.links.remove(&peer).is_some()
        {
            process.from_peers.push(NodeEvent::PeerDown(peer));
            self.schedule_work(place);
        }
    }

    /// Nothing may come through in this direction: if that lasts, the link is given up.
    pub(super) fn watch_link(&mut self, from: usize, to: usize) {
        if let Some(session) = self.network.session(from, to) {
            let after = IDLE_MAX + self.random.millis(0, 1000);
            self.schedule(after, Occurrence::LinkIdle(from, to, session));
        }
    }

    pub(super) fn link_idle(&mut self, from: usize, to: usize, session: u64) {
        let silent =
            self.network.is_blocked(from, to) || self.hosts[from].paused || !self.hosts[from].is_running();
        if silent && self.network.session(from, to) == Some(session) {
            self.reset_link(from, to);
        }
    }

    /// The process of a host is gone. `silent`: its peers find out by themselves.
    pub(super) fn links_of_dead(&mut self, place: usize, silent: bool) {
        for other in (0..self.hosts.len()).filter(|other| *other != place) {
            if silent {
                self.watch_link(place, other);
            } else {
                self.reset_link(place, other);
            }
        }
    }

    /// A process that starts again resets what is left of the links of the one before.
    pub(super) fn reset_links(&mut self, place: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != place) {
            self.reset_link(place, other);
        }
    }

    /// Links to nodes that are no peers any more end.
    pub(super) fn peers_changed(&mut self, place: usize, process: &mut Process) {
        let gone: Vec<NodeId> =
            process.links.keys().copied().filter(|peer| !process.peers.contains(peer)).collect();
        for peer in gone {
            process.links.remove(&peer);
            process.from_peers.push(NodeEvent::PeerDown(peer));
            if let Some(there) = self.place_of(peer) {
                self.reset_link(place, there);
            }
        }
    }

    /// A direction between two hosts carries nothing from now on.
    pub(super) fn block(&mut self, from: usize, to: usize) {
        self.network.block(from, to);
        self.watch_link(from, to);
    }

    /// It carries again: what was held back comes now.
    pub(super) fn unblock(&mut self, from: usize, to: usize) {
        for frame in self.network.unblock(from, to) {
            self.schedule(Duration::ZERO, Occurrence::Arrive(frame));
        }
    }
}
