//! Wills: when they fire, when they do not, and that they leave once.

use super::*;
use crate::command::{PublishTarget, Will};
use crate::ids::GroupId;

const TARGET: GroupId = GroupId(5);

/// A client that connects with a will.
struct Dying {
    group: Driven<Partition>,
    conn: u64,
    held: Held,
}

fn connect_with(conn: u64, expiry: SessionExpiry, clean_start: bool, delay_s: Option<u32>) -> Command {
    let will = delay_s.map(|delay_s| Will { delay_s, message: message("w", &conn.to_string()) });
    Command::Connect {
        client_id: text("c"),
        owner: owner(conn),
        clean_start,
        expiry,
        receive_max: 10,
        principal: text(""),
        will,
    }
}

impl Dying {
    fn new(expiry: SessionExpiry, delay_s: u32) -> Dying {
        let mut group = new();
        let effects = group.one(connect_with(1, expiry, false, Some(delay_s)));
        Dying { held: held(&effects).unwrap(), group, conn: 1 }
    }

    fn connect(&mut self, clean_start: bool, delay_s: Option<u32>) {
        self.conn += 1;
        let effects =
            self.group.one(connect_with(self.conn, SessionExpiry::After(100), clean_start, delay_s));
        self.held = held(&effects).unwrap();
    }

    fn close(&mut self, normal: bool) {
        self.close_of(self.held, normal);
    }

    /// The end of a connection that may have lost the session meanwhile.
    fn close_of(&mut self, held: Held, normal: bool) {
        let Held { session, epoch, .. } = held;
        self.group.one(Command::Disconnect { session, epoch, expiry: None, normal });
    }

    /// Payloads of the wills that are due: the number of the connection each is of.
    fn due(&self) -> Vec<String> {
        self.group.machine.check();
        self.group.machine.due_wills(WillId(0)).map(|(_, message)| self.group.payload(message)).collect()
    }
}

#[test]
fn will_is_due_when_its_connection_closes_without_a_word() {
    for expiry in [SessionExpiry::AtClose, SessionExpiry::After(100), SessionExpiry::Never] {
        let mut dying = Dying::new(expiry, 0);
        assert_eq!(dying.due(), [""; 0]);
        dying.close(false);
        assert_eq!(dying.due(), ["1"]);
        dying.close(false);
        dying.group.wait_s(1_000);
        assert_eq!(dying.due(), ["1"], "and not again");
    }
}

#[test]
fn will_is_deleted_by_a_normal_disconnect() {
    for delay_s in [0, 5] {
        let mut dying = Dying::new(SessionExpiry::After(100), delay_s);
        let index = dying.group.machine.applied();
        assert!(dying.group.machine.live(index));
        dying.close(true);
        dying.group.wait_s(1_000);
        assert_eq!(dying.due(), [""; 0]);
        assert!(!dying.group.machine.live(index));
    }
}

#[test]
fn will_with_delay_is_due_after_it_and_not_before() {
    let mut dying = Dying::new(SessionExpiry::After(100), 5);
    dying.close(false);
    assert_eq!(dying.group.machine.next_deadline(), Some(Timestamp(5_000)));
    dying.group.wait_s(4);
    assert_eq!(dying.due(), [""; 0]);
    dying.group.wait_s(1);
    assert_eq!(dying.due(), ["1"]);
}

#[test]
fn will_with_delay_is_due_at_the_end_of_its_session_if_that_comes_first() {
    let mut dying = Dying::new(SessionExpiry::After(3), 50);
    dying.close(false);
    dying.group.wait_s(3);
    assert_eq!(dying.due(), ["1"]);
    let mut dying = Dying::new(SessionExpiry::AtClose, 50);
    dying.close(false);
    assert_eq!(dying.due(), ["1"]);
    let mut dying = Dying::new(SessionExpiry::After(100), 50);
    dying.close(false);
    dying.group.one(Command::Purge { client_id: text("c") });
    assert_eq!(dying.due(), ["1"]);
    let mut dying = Dying::new(SessionExpiry::After(100), 50);
    let old = dying.held;
    dying.group.one(Command::Purge { client_id: text("c") });
    dying.close_of(old, false);
    assert_eq!(dying.due(), ["1"], "the connection of a purged session");
}

#[test]
fn will_with_delay_is_cancelled_by_resumption_and_replaced() {
    // [MQTT-3.1.3-9]
    let mut dying = Dying::new(SessionExpiry::After(100), 5);
    dying.close(false);
    dying.group.wait_s(4);
    dying.connect(false, Some(7));
    dying.group.wait_s(50);
    assert_eq!(dying.due(), [""; 0]);
    dying.close(false);
    dying.group.wait_s(7);
    assert_eq!(dying.due(), ["2"]);
    dying.connect(false, None);
    dying.close(false);
    dying.group.wait_s(1_000);
    assert_eq!(dying.due(), ["2"]);
}

#[test]
fn takeover_fires_a_will_without_delay_and_cancels_one_with_delay() {
    // MQTT 5, 3.1.4
    let mut dying = Dying::new(SessionExpiry::After(100), 0);
    let old = dying.held;
    dying.connect(false, Some(0));
    assert_eq!(dying.due(), [""; 0], "perhaps it said DISCONNECT");
    dying.close_of(old, false);
    assert_eq!(dying.due(), ["1"]);
    let mut dying = Dying::new(SessionExpiry::After(100), 5);
    let old = dying.held;
    dying.connect(false, Some(0));
    dying.close_of(old, false);
    dying.group.wait_s(50);
    assert_eq!(dying.due(), [""; 0]);
}

#[test]
fn disconnect_that_arrives_after_the_takeover_still_deletes_the_will() {
    for clean_start in [false, true] {
        let mut dying = Dying::new(SessionExpiry::After(100), 0);
        let (old, index) = (dying.held, dying.group.machine.applied());
        dying.connect(clean_start, None);
        assert!(dying.group.machine.live(index));
        dying.close_of(old, true);
        assert_eq!(dying.due(), [""; 0]);
        assert!(!dying.group.machine.live(index));
    }
}

#[test]
fn will_of_a_connection_that_was_taken_over_is_due_when_its_node_dies() {
    let mut dying = Dying::new(SessionExpiry::After(100), 0);
    let Command::Connect { client_id, expiry, receive_max, principal, .. } =
        connect_with(2, SessionExpiry::After(100), false, None)
    else {
        panic!()
    };
    let owner = Owner { node: NodeId(2), ..owner(2) };
    let clean_start = false;
    dying.group.one(Command::Connect {
        client_id,
        owner,
        clean_start,
        expiry,
        receive_max,
        principal,
        will: None,
    });
    assert_eq!(dying.due(), [""; 0]);
    let down = Command::NodeDown { node: NODE, incarnation: Incarnation(1) };
    dying.group.run_from(StreamId::Group(CONTROL), &[down]);
    assert_eq!(dying.due(), ["1"]);
}

#[test]
fn clean_start_ends_the_session_and_fires_its_will() {
    for online in [true, false] {
        let mut dying = Dying::new(SessionExpiry::After(100), 5);
        let old = dying.held;
        if !online {
            dying.close(false);
        }
        dying.connect(true, None);
        dying.close_of(old, false);
        assert_eq!(dying.due(), ["1"], "{online}");
    }
}

#[test]
fn death_of_a_node_fires_the_wills_of_its_connections() {
    for expiry in [SessionExpiry::AtClose, SessionExpiry::After(100)] {
        let mut dying = Dying::new(expiry, 0);
        let down = Command::NodeDown { node: NODE, incarnation: Incarnation(1) };
        dying.group.run_from(StreamId::Group(CONTROL), &[down.clone(), down]);
        assert_eq!(dying.due(), ["1"]);
    }
}

#[test]
fn publish_will_hands_it_on_once() {
    let mut dying = Dying::new(SessionExpiry::AtClose, 0);
    dying.close(false);
    let (will, message) = dying.group.machine.due_wills(WillId(0)).next().unwrap();
    let targets = vec![PublishTarget { group: TARGET, store_retained: true, fan_out: true }];
    let publish = Command::PublishWill { will, targets };
    assert_eq!(replies(&dying.group.one(publish.clone())), []);
    assert_eq!(replies(&dying.group.one(publish)), [Reply::NotFound]);
    assert_eq!(dying.due(), [""; 0]);
    let [Command::Publish { message: sent, store_retained: true, fan_out: true }] =
        &dying.group.outbox(TARGET)[..]
    else {
        panic!()
    };
    assert_eq!(sent, &crate::testing::message("w", "1"));
    assert!(dying.group.machine.live(message.index));
    dying.group.leader(LeaderCommand::OutboxApplied { to: TARGET, seq: StreamSeq(1) });
    assert!(!dying.group.machine.live(message.index));
}
