//! Operators take nodes out of service and change the level, over real elections and transfers.

use quorate_state::command::Duty;

use super::*;

const DRAIN: Duty = Duty::Drain { grace_s: 0 };

impl World {
    /// Asks for an operation on a node and gives the answer.
    pub(super) fn operate(&mut self, node: u64, operation: Operation) -> Result<(), String> {
        let number = self.operated.len() as u64 + 1;
        self.event(NodeId(node), Event::Operate { number, operation });
        self.until("operation answered", |world| world.operated.len() as u64 == number);
        self.operated.last().cloned().unwrap()
    }

    fn set_duty(&mut self, through: u64, node: u64, duty: Duty) -> Result<(), String> {
        self.operate(through, Operation::SetDuty { node: NodeId(node), duty })
    }

    fn leads(&self, node: u64) -> usize {
        let status = self.members[&NodeId(node)].node.status(false, self.now);
        status.groups.iter().filter(|group| group.leader == Some(NodeId(node))).count()
    }

    fn is_balanced(&self, nodes: &[u64]) -> bool {
        let led: Vec<usize> = nodes.iter().map(|node| self.leads(*node)).collect();
        let spread = led.iter().max().unwrap() - led.iter().min().unwrap();
        led.iter().sum::<usize>() == 5 && spread <= 1
    }

    fn clause(&self, node: u64, name: &str) -> bool {
        let clauses = self.members[&NodeId(node)].node.readiness(self.now);
        clauses.iter().find(|clause| clause.name == name).unwrap().ok
    }
}

#[test]
fn drained_node_hands_on_what_it_leads_and_gets_it_back() {
    let mut world = World::new(3);
    world.until("ready and balanced", |world| world.ready() && world.is_balanced(&[1, 2, 3]));
    assert_eq!(world.set_duty(3, 2, DRAIN), Ok(()));
    world.until("node 2 leads nothing", |world| world.leads(2) == 0 && world.is_balanced(&[1, 3]));
    assert!(!world.clause(2, "draining") && world.clause(1, "draining"));
    assert_eq!(world.duties, [(NodeId(2), DRAIN)]);
    let refused = world.set_duty(1, 3, DRAIN).unwrap_err();
    assert!(refused.contains("majority"), "{refused}");
    assert_eq!(world.leads(2), 0, "and it stays so");
    assert_eq!(world.set_duty(2, 2, Duty::Full), Ok(()));
    world.until("balanced again", |world| world.is_balanced(&[1, 2, 3]));
    assert_eq!(world.duties.last(), Some(&(NodeId(2), Duty::Full)));
}

#[test]
fn leadership_that_was_handed_over_is_told_from_an_election() {
    let mut world = World::new(3);
    world.until("ready and balanced", |world| world.ready() && world.is_balanced(&[1, 2, 3]));
    world.led.clear();
    assert_eq!(world.set_duty(3, 2, DRAIN), Ok(()));
    world.until("node 2 leads nothing", |world| world.leads(2) == 0 && world.is_balanced(&[1, 3]));
    assert!(
        !world.led.is_empty() && world.led.iter().all(|(_, handed_over)| *handed_over),
        "{:?}",
        world.led
    );
    world.led.clear();
    world.kill(1);
    world.until("node 1 leads nothing", |world| world.leads(3) == 5);
    assert!(
        !world.led.is_empty() && world.led.iter().all(|(_, handed_over)| !handed_over),
        "{:?}",
        world.led
    );
}

#[test]
fn follower_by_duty_leads_only_what_nobody_else_can() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    assert_eq!(world.set_duty(1, 1, Duty::Follow), Ok(()));
    world.until("node 1 leads nothing", |world| world.leads(1) == 0 && world.is_balanced(&[2, 3]));
    assert!(world.clause(1, "draining"), "it serves clients");
    for node in [2, 3] {
        assert_eq!(world.set_duty(2, node, Duty::Follow), Ok(()));
    }
    world.until("every group has a leader", World::ready);
}

#[test]
fn leaving_node_leads_nothing_any_more() {
    let mut world = World::new(3);
    world.until("ready and balanced", |world| world.ready() && world.is_balanced(&[1, 2, 3]));
    world.event(NodeId(1), Event::Leave);
    world.until("node 1 leads nothing", |world| world.leads(1) == 0 && world.is_balanced(&[2, 3]));
    assert!(!world.members[&NodeId(1)].node.leads_for_others());
    assert!(!world.clause(1, "draining"));
    let until = world.now + Duration::from_secs(3);
    world.until("time passed", |world| world.now > until);
    assert_eq!(world.leads(1), 0);
}

#[test]
fn level_is_refused_while_a_node_does_not_speak_it() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let level = world.members[&NodeId(1)].node.status(false, world.now).level;
    assert_eq!(level, quorate_state::LEVEL);
    let refused = world.operate(2, Operation::Finalize { level: level + 1 }).unwrap_err();
    assert!(refused.contains("speak"), "{refused}");
}

#[test]
fn nodes_learn_where_clients_can_go_instead() {
    let mut world = World::new(3);
    let addresses = |world: &World, node: u64| {
        let known = world.elsewhere.get(&NodeId(node)).cloned().unwrap_or_default();
        known.into_iter().map(|listener| listener.address.as_str().to_owned()).collect::<Vec<_>>()
    };
    world.until("every node knows the listeners of the others", |world| {
        world.ready() && (1..=3).all(|node| addresses(world, node).len() == 2)
    });
    assert_eq!(addresses(&world, 2), ["n1.example:1883", "n3.example:1883"]);
    assert_eq!(world.set_duty(3, 1, DRAIN), Ok(()));
    world.until("a drained node is no refuge", |world| addresses(world, 2) == ["n3.example:1883"]);
    world.kill(3);
    world.until("a dead node is none either", |world| addresses(world, 2).is_empty());
}
