//! Nodes whose disk hangs or has little room while all else of them works.

use super::*;
use crate::limits::{DISK_HANG, DISK_TRUST_AFTER, DISK_UNFIT_BELIEVED, DISK_UNFIT_EVERY};

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

    fn leader_of_control(&self) -> NodeId {
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
