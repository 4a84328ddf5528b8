//! Nodes that come and go for good, with the replicas that move because of them.

use super::*;
use crate::action::PeerAddress;
use quorate_state::command::Removal;
use quorate_state::control::NodeStatus as Membership;
use raft::eraftpb::{Entry, Message as RaftMessage, MessageType};

impl World {
    /// A new node joins by asking node 1.
    fn join(&mut self, name: &str, disk: u8) -> NodeId {
        let fresh = NodeRecord { name: text(name), disk: [disk; 16], ..record(0) };
        let id = self.members[&NodeId(1)].node.control().unwrap().next_node_id();
        self.event(NodeId(1), Event::Join(Box::new(fresh.clone())));
        self.until("joined", |world| {
            world.members[&NodeId(1)].node.control().is_some_and(|control| control.node(id).is_some())
        });
        let own = NodeRecord { id, ..fresh };
        let groups = vec![RestoredGroup::empty(CONTROL)];
        self.members.insert(id, member(config(own), groups, self.now));
        for other in self.members.keys().copied().filter(|other| *other != id).collect::<Vec<_>>() {
            if !self.members[&other].down {
                self.event(other, Event::PeerUp(id));
                self.event(id, Event::PeerUp(other));
            }
        }
        id
    }

    fn remove(&mut self, node: u64, removal: Removal) -> Result<(), String> {
        let asked = *self.members.iter().find(|(id, member)| id.0 != node && !member.down).unwrap().0;
        self.operate(asked.0, Operation::Remove { node: NodeId(node), removal })
    }

    fn status_of(&self, node: u64) -> Option<Membership> {
        let others = self.members.iter().filter(|(id, member)| id.0 != node && !member.down);
        let of = |member: &Member| member.node.control()?.node(NodeId(node)).map(|(_, status)| status);
        others.filter_map(|(_, member)| of(member)).next_back()
    }

    /// Every live node agrees on who the members of each of its groups are, and these are where the groups are placed.
    fn at_rest(&self) -> bool {
        self.members.values().filter(|member| !member.down).all(|member| {
            let status = member.node.status(false, self.now);
            let control = member.node.control().unwrap();
            status.membership.settled
                && status.groups.iter().all(|group| {
                    let mut placed = control.placement(group.group).to_vec();
                    placed.sort_unstable();
                    group.voters == placed && group.learners.is_empty() && placed.contains(&member.node.id())
                })
        })
    }

    /// Groups led by each live node.
    fn led(&self) -> Vec<usize> {
        let live = self.members.values().filter(|member| !member.down);
        live.map(|member| member.node.leads.len()).collect()
    }
}

/// Once a node is forgotten, it is not heard any more.
fn forget(world: &mut World, node: u64) {
    world.until("forgotten", |world| world.status_of(node) == Some(Membership::Removed));
    world.members.get_mut(&NodeId(node)).unwrap().down = true;
    for id in world.members.keys().copied().filter(|id| id.0 != node).collect::<Vec<_>>() {
        if !world.members[&id].down {
            world.event(id, Event::PeerDown(NodeId(node)));
        }
    }
}

#[test]
fn cluster_of_three_grows_to_five_and_shrinks_again_while_a_session_stays_whole() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(1, 1, "sub", DURABLE);
    world.subscribe(1, 1, "a/#");
    world.connect(2, 2, "pub", SessionExpiry::AtClose);
    let group = home("sub");
    let mut number = 0;
    let mut send = |world: &mut World| {
        for _ in 0..20 {
            number += 1;
            world.publish(2, 2, number, "a/b", group, false);
        }
        let last = number;
        world.until("acknowledged", |world| world.applied(2, 2).last() == Some(&last));
    };
    send(&mut world);
    let (fourth, fifth) = (world.join("n4", 40), world.join("n5", 50));
    send(&mut world);
    world.until("five", World::at_rest);
    world.until("ready", World::ready);
    let states = world.members[&fifth].node.status(false, world.now).membership.members;
    let placed: Vec<u32> = states.iter().map(|state| state.placed).collect();
    assert!(placed.iter().all(|count| (2..=3).contains(count)), "12 replicas on 5 nodes: {placed:?}");
    let groups: Vec<usize> =
        world.members.values().map(|member| member.node.status(false, world.now).groups.len()).collect();
    assert_eq!(groups.iter().sum::<usize>(), 5 + 12, "replicas that moved away are forgotten");
    world.until("leadership spread", |world| world.led() == [1; 5]);
    send(&mut world);
    for node in [fourth, fifth] {
        assert_eq!(world.remove(node.0, Removal::Remove), Ok(()));
        send(&mut world);
        forget(&mut world, node.0);
    }
    assert!(world.remove(1, Removal::Remove).unwrap_err().contains("fewer nodes"));
    world.until("three", World::at_rest);
    world.until("ready", World::ready);
    send(&mut world);
    let seen = world.delivered(1, 1).len();
    assert_eq!(seen, 10, "the window of the session");
}

#[test]
fn node_is_replaced_by_one_that_comes_later_also_when_it_is_down() {
    for down in [false, true] {
        let mut world = World::new(3);
        world.until("ready", World::ready);
        world.connect(1, 1, "keeper", DURABLE);
        if down {
            world.kill(3);
            world.until("declared down", |world| world.status_of(3) == Some(Membership::Down));
        }
        let removal = Removal::Replace { successor: text("n9") };
        assert_eq!(world.remove(3, removal.clone()), Ok(()));
        assert_eq!(world.remove(3, removal), Ok(()), "asked again");
        let new = world.join("n9", 90);
        forget(&mut world, 3);
        world.until("at rest", World::at_rest);
        world.until("ready", World::ready);
        let placed = world.members[&new].node.status(false, world.now).membership.members;
        assert_eq!(
            placed.iter().map(|one| (one.node.0, one.placed)).collect::<Vec<_>>(),
            [(1, 4), (2, 4), (4, 4)]
        );
        let hashes = |id| {
            let status = world.members[&NodeId(id)].node.status(true, world.now);
            status.groups.into_iter().map(|group| (group.applied, group.hash)).collect::<Vec<_>>()
        };
        assert_eq!(hashes(new.0), hashes(1));
        // After a restart nobody may need the vote of the one that is gone, also when nothing was written since.
        for member in world.members.values().filter(|member| !member.down) {
            for group in member.node.status(false, world.now).groups {
                let log = member.log.0.lock().unwrap();
                let changes =
                    log.iter().filter(|((of, _), entry)| *of == group.group && entry.entry_type != 0);
                let last = changes.map(|((_, index), _)| *index).max().unwrap_or(0);
                assert!(member.commits.get(&group.group).is_some_and(|commit| *commit >= last));
            }
        }
    }
}

#[test]
fn node_that_receives_replicas_stays_ready_and_publishes_go_on_through_it() {
    let mut world = World::new(4);
    world.until("ready", World::ready);
    world.until("at rest", World::at_rest);
    world.connect(1, 1, "pub", SessionExpiry::AtClose);
    assert_eq!(world.remove(4, Removal::Remove), Ok(()));
    let mut number = 0;
    for _ in 0..600 {
        if world.status_of(4) == Some(Membership::Removed) {
            break;
        }
        for group in 1..=4 {
            number += 1;
            world.publish(1, 1, number, "x", GroupId(group), false);
        }
        let last = number;
        world.until("a step", |world| world.applied(1, 1).len() as u64 == last);
        world.now += limits::TICK;
        for id in 1..=4 {
            world.event(NodeId(id), Event::Tick);
        }
        for id in 1..=3 {
            let clauses = world.members[&NodeId(id)].node.readiness(world.now);
            let failed: Vec<_> = clauses.into_iter().filter(|clause| !clause.ok).collect();
            assert_eq!(failed, [], "node {id}");
        }
    }
    assert_eq!(world.status_of(4), Some(Membership::Removed));
}

#[test]
fn removal_goes_on_under_another_leader_and_after_restarts_of_the_links() {
    let mut world = World::new(5);
    world.until("ready", World::ready);
    world.until("at rest", World::at_rest);
    assert_eq!(world.remove(5, Removal::Remove), Ok(()));
    // The leader of control goes in the middle of it, and is back later.
    world.until("something on the way", |world| {
        !world.members[&NodeId(2)].node.control().unwrap().moves().is_empty()
    });
    let leader = world.members[&NodeId(2)].node.leader_of(CONTROL).unwrap();
    for other in (1..=5).map(NodeId).filter(|id| *id != leader) {
        world.cut.insert((leader, other));
        world.cut.insert((other, leader));
        world.event(leader, Event::PeerDown(other));
        world.event(other, Event::PeerDown(leader));
    }
    world.until("declared down", |world| {
        let judge = NodeId(if leader.0 == 2 { 3 } else { 2 });
        let control = world.members[&judge].node.control().unwrap();
        control.node(leader).unwrap().1 == Membership::Down
    });
    world.cut.clear();
    for other in (1..=5).map(NodeId).filter(|id| *id != leader) {
        world.event(leader, Event::PeerUp(other));
        world.event(other, Event::PeerUp(leader));
    }
    if leader != NodeId(5) {
        world.until("back", |world| world.status_of(leader.0) == Some(Membership::Live));
    }
    forget(&mut world, 5);
    world.until("at rest", World::at_rest);
    world.until("ready", World::ready);
}

#[test]
fn replica_without_a_log_promises_its_vote_to_nobody() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let fresh = NodeRecord { id: NodeId(4), ..record(4) };
    world.members.insert(NodeId(4), member(config(fresh), vec![RestoredGroup::empty(CONTROL)], world.now));
    world.event(NodeId(4), Event::PeerUp(NodeId(2)));
    let asked = |world: &mut World, id| {
        world.network.clear();
        let mut request = RaftMessage::default();
        request.set_msg_type(MessageType::MsgRequestVote);
        (request.from, request.to, request.term, request.index, request.log_term) = (2, id, 90, 900, 89);
        // As of a transfer: asked without regard to the leader that is known.
        request.context = b"CampaignTransfer".as_slice().into();
        world.event(NodeId(id), Event::Peer(NodeId(2), PeerMessage::Raft(CONTROL, Box::new(request))));
        let votes = world.network.iter().filter(|(from, to, message)| {
            let is_vote = matches!(message, PeerMessage::Raft(CONTROL, raft) if raft.get_msg_type()
                == MessageType::MsgRequestVoteResponse && !raft.reject);
            (*from, *to) == (NodeId(id), NodeId(2)) && is_vote
        });
        votes.count()
    };
    assert_eq!(asked(&mut world, 4), 0);
    assert_eq!(asked(&mut world, 3), 1, "one with a log does");
}

/// What a leader sends behind a snapshot: its group, an index, and the append with the entry that has it.
fn entry_after(group: GroupId, snapshot: &RaftMessage) -> Option<(GroupId, u64, PeerMessage)> {
    let metadata = snapshot.get_snapshot().get_metadata();
    let next = metadata.index + 1;
    let mut append = RaftMessage::default();
    append.set_msg_type(MessageType::MsgAppend);
    (append.from, append.to, append.term) = (snapshot.from, snapshot.to, snapshot.term);
    (append.index, append.log_term, append.commit) = (metadata.index, metadata.term, metadata.index);
    append.set_entries(vec![Entry { index: next, term: snapshot.term, ..Entry::default() }].into());
    let is_snapshot = snapshot.get_msg_type() == MessageType::MsgSnapshot;
    is_snapshot.then(|| (group, next, PeerMessage::Raft(group, Box::new(append))))
}

#[test]
fn entries_that_come_together_with_a_snapshot_are_not_written_before_it() {
    let mut world = World::new(4);
    world.until("ready", World::ready);
    world.join("n5", 5);
    let mut struck = 0;
    for _ in 0..200 {
        while let Some((from, to, message)) = world.network.pop_front() {
            let entry = match &message {
                PeerMessage::Raft(group, snapshot) => entry_after(*group, snapshot),
                _ => None,
            };
            let Some((group, next, append)) = entry else {
                world.event(to, Event::Peer(from, message));
                continue;
            };
            // Both in one batch, as after a time in which the node did nothing.
            let now = world.now;
            let member = world.members.get_mut(&to).unwrap();
            member.node.step(Event::Peer(from, message), now);
            member.node.step(Event::Peer(from, append), now);
            world.turn(to);
            let written = world.members[&to].log.0.lock().unwrap().contains_key(&(group, next));
            assert!(!written, "entry {next} of group {group} was written before its snapshot");
            struck += 1;
        }
        world.now += limits::TICK;
        for id in world.members.keys().copied().collect::<Vec<_>>() {
            world.event(id, Event::Tick);
        }
    }
    assert!(struck > 0, "a snapshot was sent");
    world.until("all are ready", World::ready);
}

#[test]
fn node_that_looks_for_a_leader_of_control_is_told_of_the_nodes_that_have_come() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let fourth = world.join("n4", 40);
    world.until("four", World::at_rest);
    let leader = world.leader_of_control();
    let [asking, asked] =
        [1, 2, 3].map(NodeId).into_iter().filter(|id| *id != leader).take(2).collect::<Vec<_>>()[..]
    else {
        unreachable!("two of three do not lead");
    };
    let mut asks = RaftMessage::default();
    asks.set_msg_type(MessageType::MsgRequestPreVote);
    asks.from = asking.0;
    let answered = |world: &mut World, asks: &RaftMessage| {
        let node = &mut world.members.get_mut(&asked).unwrap().node;
        let message = PeerMessage::Raft(CONTROL, Box::new(asks.clone()));
        node.step(Event::Peer(asking, message), world.now);
        let mut told = None;
        while let Some(action) = node.poll_action() {
            if let Action::Send(to, PeerMessage::Nodes { index, nodes }) = action {
                assert_eq!(to, asking);
                told = Some((index, nodes));
            }
        }
        told
    };
    let (index, nodes) = answered(&mut world, &asks).expect("who the nodes are");
    assert_eq!(nodes.iter().map(|one| one.node).collect::<Vec<_>>(), [1, 2, 3, fourth.0].map(NodeId));
    asks.set_msg_type(MessageType::MsgHeartbeat);
    assert_eq!(answered(&mut world, &asks), None, "it does not look for a leader");

    // As it was before the fourth came, for the node that was away.
    let mut heard = |index: LogIndex, nodes: &[PeerAddress]| {
        let node = &mut world.members.get_mut(&asking).unwrap().node;
        let told = PeerMessage::Nodes { index, nodes: nodes.to_vec() };
        node.step(Event::Peer(asked, told), world.now);
        let mut peers = None;
        while let Some(action) = node.poll_action() {
            if let Action::Peers(linked) = action {
                peers = Some(linked.iter().map(|one| one.node.0).collect::<Vec<_>>());
            }
        }
        peers
    };
    let fifth = PeerAddress { node: NodeId(9), name: "n9".to_owned(), address: "n9:1".to_owned() };
    let more = [&nodes[..], &[fifth]].concat();
    let others = [1, 2, 3, fourth.0, 9].into_iter().filter(|id| *id != asking.0).collect();
    let later = LogIndex(index.0 + 1000);
    assert_eq!(heard(later, &more), Some(others));
    assert_eq!(heard(LogIndex(index.0 + 999), &nodes), None, "older than what it has heard");
}
