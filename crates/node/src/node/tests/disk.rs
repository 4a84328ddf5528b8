//! Nodes whose disk hangs or has little room while all else of them works.

use super::*;
use crate::limits::{DISK_HANG, DISK_TRUST_AFTER, DISK_UNFIT_BELIEVED, DISK_UNFIT_EVERY, HELD_MESSAGES_MAX};

impl World {
    /// All disks hang from now on, and there is something to write.
    fn hang_all(&mut self, asked: NodeId) {
        for node in [1, 2, 3].map(NodeId) {
            self.hung.insert(node, None);
        }
        let operation = Operation::SetDuty { node: asked, duty: Duty::Full };
        self.event(asked, Event::Operate { number: 1, operation });
    }

    /// All disks work again, and have what waited.
    fn heal_all(&mut self) {
        for node in [1, 2, 3].map(NodeId) {
            if let Some(Some(waits)) = self.hung.remove(&node) {
                self.event(node, Event::Persisted(waits));
            }
        }
    }

    fn terms(&self) -> Vec<(GroupId, u64)> {
        let (_, member) = self.members.first_key_value().unwrap();
        let status = member.node.status(false, self.now);
        status.groups.iter().map(|group| (group.group, group.term)).collect()
    }

    fn leads_any(&self, node: NodeId) -> bool {
        let status = self.members[&node].node.status(false, self.now);
        status.groups.iter().any(|group| group.leader == Some(node))
    }

    fn applied_of_control(&self, node: NodeId) -> LogIndex {
        let status = self.members[&node].node.status(false, self.now);
        status.groups.iter().find(|group| group.group == CONTROL).map(|group| group.applied).unwrap()
    }

    /// Writes something to control.
    fn ask_control(&mut self, node: NodeId, number: u64) {
        let operation = Operation::SetDuty { node, duty: Duty::Full };
        self.event(node, Event::Operate { number, operation });
    }

    pub(super) fn leader_of_control(&self) -> NodeId {
        let (_, member) = self.members.first_key_value().unwrap();
        let status = member.node.status(false, self.now);
        status.groups.iter().find(|group| group.group == CONTROL).and_then(|group| group.leader).unwrap()
    }
}

#[test]
fn leader_whose_disk_hangs_hands_on_all_it_leads_and_what_waits_goes_on() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let hung = world.leader_of_control();
    let asked = NodeId(hung.0 % 3 + 1);
    world.hung.insert(hung, None);
    let begun = world.now;
    let operation = Operation::SetDuty { node: asked, duty: Duty::Full };
    world.event(asked, Event::Operate { number: 1, operation });
    world.until("the hung node leads nothing", |world| !world.leads_any(hung));
    world.until("what was asked is done", |world| !world.operated.is_empty());
    assert!(world.now - begun <= Duration::from_millis(1500), "{:?}", world.now - begun);
    // Heartbeats work, and nobody gives anything back while the disk is not trusted.
    let until = world.now + Duration::from_secs(5);
    world.until("time passed", |world| world.now > until);
    assert!(!world.leads_any(hung));
    let waits = world.hung.remove(&hung).flatten();
    world.event(hung, Event::Persisted(waits.unwrap()));
    let healed = world.now;
    world.until("it leads again", |world| world.leads_any(hung));
    assert!(world.now - healed >= DISK_TRUST_AFTER, "only after a while: {:?}", world.now - healed);
}

#[test]
fn leadership_stays_where_nobody_elses_disk_is_better() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let leader = world.leader_of_control();
    world.hang_all(leader);
    // Until check-quorum: what waits for a disk holds back the answers to heartbeats too.
    let until = world.now + Duration::from_millis(700);
    world.until("time passed", |world| world.now > until);
    assert_eq!(world.leader_of_control(), leader);
    world.heal_all();
    world.until("what was asked is done", |world| !world.operated.is_empty());
}

#[test]
fn leadership_stays_where_it_is_while_all_disks_are_not_trusted() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let leader = world.leader_of_control();
    world.hang_all(leader);
    let until = world.now + DISK_HANG + Duration::from_millis(100);
    world.until("all have hung", |world| world.now > until);
    world.heal_all();
    // At first each may hand on what it leads, before it hears of the others.
    let until = world.now + Duration::from_millis(200);
    world.until("all have said so", |world| world.now > until);
    let before = world.terms();
    let until = world.now + DISK_TRUST_AFTER - Duration::from_millis(500);
    world.until("time passed", |world| world.now > until);
    assert_eq!(world.terms(), before);
    assert!(world.ready());
}

#[test]
fn leader_with_little_room_hands_on_all_it_leads_until_it_has_more() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let low = world.leader_of_control();
    world.event(low, Event::DiskLow(true));
    world.until("it leads nothing", |world| !world.leads_any(low));
    let until = world.now + Duration::from_secs(5);
    world.until("time passed", |world| world.now > until);
    assert!(!world.leads_any(low), "nobody gives anything back to it");
    world.event(low, Event::DiskLow(false));
    world.until("it leads again", |world| world.leads_any(low));
}

#[test]
fn leadership_stays_where_it_is_when_all_have_little_room() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    for node in [1, 2, 3].map(NodeId) {
        world.event(node, Event::DiskLow(true));
    }
    // At first each may hand on what it leads, before it hears of the others.
    let until = world.now + DISK_UNFIT_EVERY;
    world.until("all have said so", |world| world.now > until);
    let before = world.terms();
    let until = world.now + DISK_UNFIT_BELIEVED * 3;
    world.until("time passed", |world| world.now > until);
    assert_eq!(world.terms(), before);
    assert!(world.ready());
}

#[test]
fn node_whose_log_is_full_takes_no_entries_until_it_is_not_and_then_gets_all() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let leader = world.leader_of_control();
    let full = NodeId(leader.0 % 3 + 1);
    world.event(full, Event::LogFull(true));
    let before = world.applied_of_control(full);
    for number in 1..=10 {
        world.ask_control(leader, number);
        world.until("two are enough", |world| world.operated.len() as u64 == number);
    }
    assert_eq!(world.applied_of_control(full), before);
    assert!(world.applied_of_control(leader) > before);
    let term = world.terms();
    let until = world.now + Duration::from_secs(5);
    world.until("time passed", |world| world.now > until);
    assert_eq!(world.terms(), term, "it hears its leaders, and asks nobody for a vote");
    world.event(full, Event::LogFull(false));
    let wanted = world.applied_of_control(leader);
    world.until("it has caught up", |world| world.applied_of_control(full) >= wanted);
}

#[test]
fn leader_whose_log_is_full_proposes_nothing_until_it_is_not() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let leader = world.leader_of_control();
    world.event(leader, Event::LogFull(true));
    world.ask_control(NodeId(leader.0 % 3 + 1), 1);
    let until = world.now + Duration::from_secs(5);
    world.until("time passed", |world| world.now > until);
    assert!(world.operated.is_empty() && world.leader_of_control() == leader);
    world.event(leader, Event::LogFull(false));
    world.until("what was asked is done", |world| !world.operated.is_empty());
}

#[test]
fn few_messages_wait_for_a_disk_that_hangs_for_long_and_it_catches_up() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let leader = world.leader_of_control();
    let hung = NodeId(leader.0 % 3 + 1);
    world.hung.insert(hung, None);
    world.ask_control(leader, 1);
    let until = world.now + Duration::from_secs(25);
    world.until("many heartbeats have come", |world| world.now > until);
    world.drain();
    let waits = world.hung.remove(&hung).flatten().unwrap();
    world.event(hung, Event::Persisted(waits));
    let is_of_control = |message: &PeerMessage| matches!(message, PeerMessage::Raft(CONTROL, _));
    let sent = world.network.iter().filter(|(from, _, message)| *from == hung && is_of_control(message));
    // There may have been two writes.
    let sent = sent.count();
    assert!((2..=HELD_MESSAGES_MAX * 2).contains(&sent), "{sent}");
    let wanted = world.applied_of_control(leader);
    world.until("it has caught up", |world| world.applied_of_control(hung) >= wanted);
}
