//! Share groups, rule by rule, in a world of two partitions.

use super::*;
use crate::command::ShareMember;
use crate::hash::partition_of_share;
use crate::ids::{GroupId, ShareId, ShareVersion};
use crate::limits::{SHARE_MEMBERS_MAX, SHARE_WINDOW_MAX};

/// Partitions of the world.
pub(super) const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(2)];

/// A filter whose share group is at home in the partition at this place.
pub(super) fn shared(place: usize) -> &'static str {
    const NAMES: [&str; 6] =
        ["$share/a/t/#", "$share/b/t/#", "$share/c/t/#", "$share/d/t/#", "$share/e/t/#", "$share/f/t/#"];
    let home = |name: &&str| partition_of_share(&filter(name), 2) == GROUPS[place];
    NAMES.into_iter().find(home).unwrap()
}

/// Two partitions and what is between them.
pub(super) struct Pair {
    pub(super) groups: [Driven<Partition>; 2],
    pub(super) moved: [[u64; 2]; 2],
    /// Check the invariants after each step; it costs a walk over the state.
    pub(super) checks: bool,
}

impl Pair {
    pub(super) fn new(change: impl Fn(&mut PartitionConfig)) -> Self {
        let group = |place: usize| {
            let mut config = PartitionConfig { partitions: 2, ..PartitionConfig::new(GROUPS[place]) };
            change(&mut config);
            Driven::partition(config)
        };
        Self { groups: [group(0), group(1)], moved: [[0; 2]; 2], checks: true }
    }

    /// Moves up to `max` commands from one outbox into the other partition; the effects there.
    pub(super) fn pump(&mut self, from: usize, to: usize, max: usize) -> Vec<Effect> {
        let next = StreamSeq(self.moved[from][to] + 1);
        let commands = self.groups[from].outbox_from(GROUPS[to], next, max);
        if commands.is_empty() {
            return Vec::new();
        }
        self.moved[from][to] += commands.len() as u64;
        let effects = self.groups[to].run_from(StreamId::Group(GROUPS[from]), &commands);
        self.check(to);
        effects
    }

    pub(super) fn check(&self, at: usize) {
        if self.checks {
            self.groups[at].machine.check();
        }
    }

    /// Tells a partition that the other has what was moved.
    pub(super) fn confirm(&mut self, from: usize, to: usize) {
        let seq = StreamSeq(self.moved[from][to]);
        self.groups[from].leader(LeaderCommand::OutboxApplied { to: GROUPS[to], seq });
        self.check(from);
    }

    /// Moves everything until nothing is left to move; the effects in each partition.
    pub(super) fn settle(&mut self) -> [Vec<Effect>; 2] {
        let mut all = [Vec::new(), Vec::new()];
        for _ in 0..1_000 {
            let mut moved = false;
            for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let before = self.moved[from][to];
                all[to].extend(self.pump(from, to, usize::MAX));
                self.confirm(from, to);
                moved |= self.moved[from][to] != before;
            }
            if !moved {
                return all;
            }
        }
        panic!("the partitions never come to rest");
    }

    /// SUBSCRIBE and the join that follows.
    fn subscribe(&mut self, at: usize, held: Held, wanted: SubscribeFilter, window: u16) -> Vec<Effect> {
        let effects = self.groups[at].subscribe(held, std::slice::from_ref(&wanted));
        let [Reply::Subscribed(results)] = &replies(&effects)[..] else { panic!() };
        self.join(at, held, &wanted, results[0].version, window)
    }

    pub(super) fn join(
        &mut self,
        at: usize,
        held: Held,
        wanted: &SubscribeFilter,
        version: ShareVersion,
        window: u16,
    ) -> Vec<Effect> {
        let home = home(wanted);
        let effects = self.groups[home].one(join(at, held, wanted, version, window));
        self.groups[home].machine.check();
        effects
    }

    fn settled_deliveries(&mut self, at: usize) -> Vec<Deliver> {
        deliveries(&self.settle()[at])
    }

    /// A member that is online, in the partition at `at`.
    fn member(&mut self, at: usize, client: &str, wanted: &SubscribeFilter, window: u16) -> Held {
        let held = self.groups[at].connect(client, 1);
        self.subscribe(at, held, wanted.clone(), window);
        self.settle();
        held
    }

    /// Nothing is needed any more.
    fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.machine.live_from(LogIndex(0)).is_none())
    }
}

fn home(wanted: &SubscribeFilter) -> usize {
    (partition_of_share(&wanted.filter, 2).0 - 1) as usize
}

pub(super) fn join(
    at: usize,
    held: Held,
    wanted: &SubscribeFilter,
    version: ShareVersion,
    window: u16,
) -> Command {
    Command::ShareJoin {
        filter: wanted.filter.clone(),
        member: ShareMember { group: GROUPS[at], session: held.session },
        version,
        qos: wanted.options.qos,
        identifier: wanted.identifier,
        retain_as_published: wanted.options.retain_as_published,
        window,
    }
}

pub(super) fn with_qos(name: &str, qos: QoS) -> SubscribeFilter {
    SubscribeFilter { options: options(qos), ..wanted(name) }
}

fn once(name: &str, payload: &str) -> Command {
    let message = Message { qos: QoS::ExactlyOnce, ..message(name, payload) };
    Command::Publish { message, store_retained: false, fan_out: true }
}

fn texts(pair: &Pair, at: usize, found: &[Deliver]) -> Vec<String> {
    found.iter().map(|deliver| pair.groups[at].payload(deliver.message)).collect()
}

#[test]
fn join_announces_the_route_and_messages_go_to_one_member_each_in_turn() {
    for home in [0, 1] {
        let mut pair = Pair::new(|_| ());
        let one = pair.groups[0].connect("one", 1);
        let two = pair.groups[1].connect("two", 1);
        let wanted = wanted(shared(home));
        for (at, held) in [(0, one), (1, two)] {
            let effects = pair.subscribe(at, held, wanted.clone(), 10);
            assert_eq!(replies(&effects), [Reply::ShareJoined { route: StreamSeq(1) }]);
        }
        let add =
            Command::RouteAdd { filter: wanted.filter.clone(), target: RouteTarget::Partition(GROUPS[home]) };
        assert_eq!(posted(&pair.groups[home].machine, CONTROL), [add]);
        assert_eq!(posted(&pair.groups[1 - home].machine, CONTROL), []);
        pair.settle();
        let numbers: [Command; 6] = std::array::from_fn(|number| publish("t/1", &number.to_string()));
        pair.groups[home].run(&numbers);
        let effects = pair.settle();
        let received: Vec<_> = [0, 1].map(|at| texts(&pair, at, &deliveries(&effects[at]))).concat();
        assert_eq!(received, ["0", "2", "4", "1", "3", "5"]);
        let [info] = &pair.groups[home].machine.shares(None, 9)[..] else { panic!() };
        assert_eq!((info.filter.as_str(), info.waiting, info.members.len()), (shared(home), 0, 2));
        assert!(info.members.iter().all(|member| member.online && member.dispatched == 3));
        pair.groups[0].acknowledge(one, &[1, 2, 3]);
        pair.groups[1].acknowledge(two, &[1, 2, 3]);
        pair.settle();
        assert!(pair.is_empty());
    }
}

#[test]
fn message_waits_in_the_group_for_credit_and_goes_to_who_has_it_first() {
    let mut pair = Pair::new(|_| ());
    let wanted = wanted(shared(0));
    let slow = pair.member(0, "slow", &wanted, 1);
    let quick = pair.member(1, "quick", &wanted, 2);
    let numbers: [Command; 6] = std::array::from_fn(|number| publish("t", &number.to_string()));
    pair.groups[0].run(&numbers);
    let effects = pair.settle();
    assert_eq!(texts(&pair, 0, &deliveries(&effects[0])), ["0"]);
    assert_eq!(texts(&pair, 1, &deliveries(&effects[1])), ["1", "2"]);
    assert_eq!(pair.groups[0].machine.shares(None, 1)[0].waiting, 3);
    for expected in ["3", "4", "5"] {
        let next = 1 + expected.parse::<u16>().unwrap() - 3;
        pair.groups[1].acknowledge(quick, &[next]);
        let found = pair.settled_deliveries(1);
        assert_eq!(texts(&pair, 1, &found), [expected]);
    }
    pair.groups[1].acknowledge(quick, &[4, 5]);
    pair.groups[0].acknowledge(slow, &[1]);
    pair.settle();
    assert!(pair.is_empty());
}

#[test]
fn close_gives_back_qos_1_and_what_was_not_sent_in_the_old_order_before_the_queue() {
    let mut pair = Pair::new(|config| config.inflight_max = 2);
    let wanted = with_qos(shared(1), QoS::ExactlyOnce);
    let lost = pair.member(0, "lost", &wanted, 4);
    let numbers: [Command; 6] = std::array::from_fn(|number| publish("t", &number.to_string()));
    pair.groups[1].run(&numbers);
    let sent = pair.settled_deliveries(0);
    assert_eq!(texts(&pair, 0, &sent), ["0", "1"]);
    assert_eq!(pair.groups[0].machine.counts().queued_messages, 2);
    pair.groups[0].disconnect(lost);
    pair.groups[0].machine.check();
    pair.settle();
    assert_eq!(pair.groups[0].machine.live_from(LogIndex(0)), None, "the bodies are not kept for nobody");
    let heir = pair.groups[1].connect("heir", 1);
    pair.subscribe(1, heir, wanted, 8);
    let found = pair.settled_deliveries(1);
    assert_eq!(texts(&pair, 1, &found), ["0", "1"]);
    assert!(found.iter().all(|deliver| !deliver.dup), "another client never had them");
    for (first, expected) in [(1, ["2", "3"]), (3, ["4", "5"])] {
        let effects = pair.groups[1].acknowledge(heir, &[first, first + 1]);
        assert_eq!(pair.groups[1].payloads(&effects), expected);
    }
    pair.groups[1].acknowledge(heir, &[5, 6]);
    pair.settle();
    assert!(pair.is_empty());
    // What was given back is skipped in the queue of the first.
    let effects = pair.groups[0].one(connect("lost", 2));
    assert_eq!(deliveries(&effects), []);
    pair.groups[0].machine.check();
    assert_eq!(pair.groups[0].machine.counts().queued_messages, 0);
}

#[test]
fn qos_2_that_was_sent_waits_for_its_client() {
    let mut pair = Pair::new(|_| ());
    let wanted = with_qos(shared(1), QoS::ExactlyOnce);
    let held = pair.member(0, "c", &wanted, 4);
    pair.member(1, "other", &wanted, 4);
    pair.groups[1].run(&[once("t", "0"), once("t", "1"), once("t", "2")]);
    assert_eq!(pair.settled_deliveries(0).len(), 2);
    pair.groups[0].receive(held, &[1]);
    pair.groups[0].disconnect(held);
    assert_eq!(deliveries(&pair.settle()[1]), [], "it goes to nobody else");
    let effects = pair.groups[0].one(connect("c", 2));
    let again = deliveries(&effects);
    assert_eq!(again.iter().map(|deliver| deliver.received).collect::<Vec<_>>(), [true, false]);
    assert!(again[1].dup);
    let held = crate::testing::held(&effects).unwrap();
    pair.groups[0].receive(held, &[2]);
    pair.groups[0].acknowledge(held, &[1, 2]);
    pair.settle();
    let [info] = &pair.groups[1].machine.shares(None, 9)[..] else { panic!() };
    assert_eq!(info.members[0].dispatched, 0);
    assert!(!info.members[0].online, "until it joins again");
}

#[test]
fn qos_2_of_a_session_that_ends_is_dropped_and_settled() {
    let mut pair = Pair::new(|_| ());
    let wanted = with_qos(shared(1), QoS::ExactlyOnce);
    let held = pair.member(0, "c", &wanted, 1);
    pair.groups[1].run(&[once("t", "0"), once("t", "1")]);
    pair.settle();
    pair.groups[0].disconnect(held);
    let effects = pair.groups[0].one(Command::Purge { client_id: text("c") });
    assert_eq!(drops(&effects), [(DropReason::SessionEnded, 1)]);
    // The group ends with its last member: what waits there has nobody to go to.
    assert_eq!(drops(&pair.settle()[1]), [(DropReason::SessionEnded, 1)]);
    assert!(pair.is_empty());
    assert_eq!(pair.groups[1].machine.shares(None, 9), []);
    let routes = posted(&pair.groups[1].machine, CONTROL);
    assert!(matches!(routes[..], [Command::RouteAdd { .. }, Command::RouteRemove { .. }]));
}

#[test]
fn transient_session_takes_part_and_leaves_with_its_connection() {
    let mut pair = Pair::new(|_| ());
    let wanted = wanted(shared(1));
    let connect = |conn| Command::Connect {
        client_id: text("c"),
        owner: owner(conn),
        clean_start: true,
        expiry: SessionExpiry::AtClose,
        receive_max: 10,
        principal: text(""),
        will: None,
    };
    let held = held(&pair.groups[0].one(connect(1))).unwrap();
    let plain = pair.groups[0].subscribe(held, &[crate::testing::wanted("t")]);
    assert!(matches!(replies(&plain)[..], [Reply::Refused(_)]));
    pair.subscribe(0, held, wanted.clone(), 8);
    pair.settle();
    let other = pair.member(1, "other", &wanted, 8);
    pair.groups[1].run(&[publish("t", "0"), publish("t", "1")]);
    assert_eq!(pair.settled_deliveries(0).len(), 1);
    pair.groups[0].disconnect(held);
    let found = pair.settled_deliveries(1);
    assert_eq!(texts(&pair, 1, &found), ["0"]);
    pair.groups[1].acknowledge(other, &[1, 2]);
    pair.settle();
    assert!(pair.is_empty());
    assert_eq!(pair.groups[1].machine.shares(None, 9)[0].members.len(), 1);
}

#[test]
fn unsubscribe_leaves_what_was_sent_with_the_client_and_gives_back_the_rest() {
    let mut pair = Pair::new(|config| config.inflight_max = 1);
    let wanted = wanted(shared(1));
    let held = pair.member(0, "c", &wanted, 4);
    pair.groups[1].run(&[publish("t", "0"), publish("t", "1"), publish("t", "2")]);
    assert_eq!(pair.settled_deliveries(0).len(), 1);
    let filters = vec![wanted.filter.clone()];
    pair.groups[0].one(Command::Unsubscribe { session: held.session, epoch: held.epoch, filters });
    pair.groups[0].machine.check();
    // Messages that were on their way come back too.
    pair.settle();
    let other = pair.groups[1].connect("other", 1);
    pair.subscribe(1, other, wanted, 8);
    let found = pair.settled_deliveries(1);
    assert_eq!(texts(&pair, 1, &found), ["1"]);
    pair.groups[1].acknowledge(other, &[1]);
    let effects = pair.groups[0].acknowledge(held, &[1]);
    assert_eq!(deliveries(&effects), []);
    pair.groups[1].acknowledge(other, &[2]);
    pair.settle();
    assert!(pair.is_empty());
    pair.groups[0].machine.check();
}

#[test]
fn takeover_keeps_the_messages_with_the_session() {
    let mut pair = Pair::new(|_| ());
    let wanted = wanted(shared(1));
    pair.member(0, "c", &wanted, 4);
    pair.groups[1].one(publish("t", "0"));
    pair.settle();
    let effects = pair.groups[0].one(connect("c", 2));
    let [again] = deliveries(&effects)[..] else { panic!() };
    assert!(again.dup);
    let held = held(&effects).unwrap();
    pair.groups[0].acknowledge(held, &[again.packet_id.get()]);
    pair.settle();
    assert!(pair.is_empty());
}

#[test]
fn older_versions_change_nothing_and_a_join_that_comes_after_its_leave_is_undone() {
    let mut pair = Pair::new(|_| ());
    let wanted = wanted(shared(1));
    let held = pair.groups[0].connect("c", 1);
    let effects = pair.groups[0].subscribe(held, std::slice::from_ref(&wanted));
    let [Reply::Subscribed(results)] = &replies(&effects)[..] else { panic!() };
    let late = results[0].version;
    pair.groups[0].disconnect(held);
    pair.settle();
    pair.join(0, held, &wanted, late, 4);
    pair.groups[1].one(publish("t", "0"));
    pair.settle();
    let online = |pair: &Pair| pair.groups[1].machine.shares(None, 1)[0].members[0].online;
    assert!(!online(&pair), "its partition said so again");
    assert_eq!(pair.groups[1].machine.shares(None, 1)[0].waiting, 1);
    let effects = pair.groups[0].one(connect("c", 2));
    let [Reply::Connected { version, .. }] = replies(&effects)[..] else { panic!() };
    assert!(version > late);
    pair.join(0, held, &wanted, version, 4);
    let found = pair.settled_deliveries(0);
    assert_eq!(texts(&pair, 0, &found), ["0"]);
    // The first join again: nothing happens, but it is answered.
    let effects = pair.join(0, held, &wanted, late, 1);
    assert_eq!(replies(&effects), [Reply::ShareJoined { route: StreamSeq(1) }]);
    let member = ShareMember { group: GROUPS[0], session: held.session };
    let filter = wanted.filter.clone();
    pair.groups[1].one(Command::ShareOffline { filter: filter.clone(), member, version: late });
    assert!(online(&pair), "the absence was before the join");
    // The session ends; a join that comes later still is undone.
    pair.groups[0].one(Command::Purge { client_id: text("c") });
    pair.settle();
    assert_eq!(pair.groups[1].machine.shares(None, 1), []);
    pair.join(0, held, &wanted, version, 4);
    assert_eq!(pair.groups[1].machine.shares(None, 1).len(), 1);
    pair.settle();
    assert_eq!(pair.groups[1].machine.shares(None, 1), []);
    assert!(pair.is_empty());
}

#[test]
fn stale_unknown_and_foreign_commands_change_nothing() {
    let mut pair = Pair::new(|_| ());
    let wanted = wanted(shared(1));
    let held = pair.member(0, "c", &wanted, 4);
    pair.groups[1].one(publish("t", "0"));
    pair.settle();
    let share = ShareId(1);
    let filter = filter("$share/none/x");
    let member = ShareMember { group: GROUPS[0], session: SessionId(77) };
    let version = ShareVersion(99);
    let nothing = [
        Command::ShareSettled { share, dispatches: vec![0, 2, u64::MAX] },
        Command::ShareReturn { share, dispatches: vec![0, 2, u64::MAX] },
        Command::ShareSettled { share: ShareId(9), dispatches: vec![1] },
        Command::ShareReturn { share: ShareId(9), dispatches: vec![1] },
        Command::ShareOffline { filter: filter.clone(), member, version },
        Command::ShareLeave { filter, member, version },
        Command::ShareLeave { filter: wanted.filter.clone(), member, version },
    ];
    let before = pair.groups[1].machine.shares(None, 9);
    pair.groups[1].run_from(StreamId::Group(GroupId(7)), &nothing);
    // The message is with partition 1: nobody else can settle it, nor a node.
    let known = [
        Command::ShareSettled { share, dispatches: vec![1] },
        Command::ShareReturn { share, dispatches: vec![1] },
    ];
    pair.groups[1].run_from(StreamId::Group(GroupId(7)), &known);
    pair.groups[1].run(&known);
    pair.groups[1].machine.check();
    assert_eq!(pair.groups[1].machine.shares(None, 9), before);
    // A message for a group that the session knows nothing of comes back.
    let deliver = |share, session| Command::ShareDeliver {
        share,
        dispatch: 5,
        session,
        qos: QoS::AtLeastOnce,
        retain: false,
        identifier: None,
        expiry_s: None,
        message: message("t", "x"),
    };
    let foreign = [deliver(ShareId(8), held.session), deliver(share, SessionId(77))];
    assert_eq!(deliveries(&pair.groups[0].run_from(StreamId::Group(GroupId(7)), &foreign)), []);
    assert_eq!(posted(&pair.groups[0].machine, GroupId(7)).len(), 2);
    pair.groups[0].machine.check();
    // An acknowledgement settles once.
    pair.groups[0].acknowledge(held, &[1]);
    pair.settle();
    pair.groups[1].run_from(StreamId::Group(GROUPS[0]), &[]);
    assert!(pair.is_empty());
}

#[test]
fn join_is_refused_where_the_group_is_not_at_home_and_beyond_the_limits() {
    let mut pair = Pair::new(|_| ());
    let held = pair.groups[0].connect("c", 1);
    let version = ShareVersion(1);
    let refused = [wanted(shared(0)), wanted("t"), with_qos(shared(1), QoS::AtMostOnce)];
    for wanted in refused {
        let effects = pair.groups[1].one(join(0, held, &wanted, version, 4));
        assert!(matches!(replies(&effects)[..], [Reply::Refused(_)]), "{wanted:?}");
    }
    let wanted = wanted(shared(1));
    let member = |session| Held { session: SessionId(session), ..held };
    let joins: Vec<Command> =
        (1..=SHARE_MEMBERS_MAX as u64 + 1).map(|id| join(0, member(id), &wanted, version, 9)).collect();
    let effects = pair.groups[1].run(&joins);
    let quota = Reply::Rejected(ReasonCode::QUOTA_EXCEEDED);
    let answers = replies(&effects);
    assert_eq!(answers.iter().position(|reply| *reply == quota), Some(SHARE_MEMBERS_MAX));
    // Who takes part may say so again.
    let again = pair.groups[1].one(join(0, member(1), &wanted, ShareVersion(2), 9));
    assert_eq!(replies(&again), [Reply::ShareJoined { route: StreamSeq(1) }]);
    pair.groups[1].machine.check();
}

#[test]
fn window_is_capped_and_qos_retain_identifier_and_expiry_are_the_members() {
    let mut pair = Pair::new(|_| ());
    let mut wanted = wanted(shared(1));
    wanted.options.retain_as_published = true;
    wanted.identifier = Some(7);
    let held = pair.member(0, "c", &wanted, u16::MAX);
    let lasting =
        Message { qos: QoS::ExactlyOnce, retain: true, expiry_s: Some(9), ..message("t", "lasting") };
    let lasting = Command::Publish { message: lasting, store_retained: false, fan_out: true };
    pair.groups[1].one(lasting);
    let [found] = pair.settled_deliveries(0)[..] else { panic!() };
    assert_eq!((found.qos, found.retain, found.expiry_s), (QoS::AtLeastOnce, true, Some(9)));
    assert_eq!(pair.groups[0].machine.identifiers(held.session, found.identifiers), [7]);
    pair.groups[0].acknowledge(held, &[1]);
    // QoS 0 does not come this way.
    let quick = Message { qos: QoS::AtMostOnce, ..message("t", "quick") };
    pair.groups[1].one(Command::Publish { message: quick, store_retained: false, fan_out: true });
    pair.groups[1].run(&vec![publish("t", "x"); usize::from(SHARE_WINDOW_MAX) + 5]);
    let sent = pair.settled_deliveries(0).len() as u64;
    let queued = pair.groups[0].machine.counts().queued_messages;
    assert_eq!(sent + queued, u64::from(SHARE_WINDOW_MAX));
    assert_eq!(pair.groups[1].machine.shares(None, 1)[0].waiting, 5);
}

#[test]
fn message_that_expires_while_it_waits_is_dropped() {
    let mut pair = Pair::new(|_| ());
    let wanted = wanted(shared(1));
    let held = pair.member(0, "c", &wanted, 1);
    let short = Message { expiry_s: Some(2), ..message("t", "short") };
    let short = Command::Publish { message: short, store_retained: false, fan_out: true };
    pair.groups[1].run(&[publish("t", "0"), short, publish("t", "2")]);
    pair.settle();
    pair.groups[1].wait_s(4);
    pair.groups[0].acknowledge(held, &[1]);
    let effects = pair.settle();
    assert_eq!(drops(&effects[1]), [(DropReason::MessageExpired, 1)]);
    assert_eq!(texts(&pair, 0, &deliveries(&effects[0])), ["2"]);
}

#[test]
fn full_queue_of_a_group_does_as_a_full_queue_of_a_session() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::RejectPublisher] {
        let mut pair = Pair::new(|config| {
            config.queue_messages_max = 2;
            config.overflow = overflow;
        });
        let wanted = wanted(shared(1));
        let held = pair.member(0, "c", &wanted, 1);
        let numbers: [Command; 4] = std::array::from_fn(|number| publish("t", &number.to_string()));
        let effects = pair.groups[1].run(&numbers);
        let dropped = [(DropReason::QueueMessages, 1)];
        let rest = match overflow {
            Overflow::DropOldest => ["2", "3"],
            _ => ["1", "2"],
        };
        if overflow == Overflow::RejectPublisher {
            assert!(rejected(&effects));
        } else {
            assert_eq!(drops(&effects), dropped);
        }
        pair.settle();
        for (expected, packet_id) in rest.into_iter().zip(1..) {
            pair.groups[0].acknowledge(held, &[packet_id]);
            let found = pair.settled_deliveries(0);
            assert_eq!(texts(&pair, 0, &found), [expected]);
        }
    }
}

#[test]
fn message_for_plain_and_shared_subscriptions_is_delivered_for_both() {
    let mut pair = Pair::new(|_| ());
    let shared = wanted(shared(0));
    let held = pair.member(0, "c", &shared, 4);
    pair.groups[0].subscribe(held, &[wanted("t")]);
    let effects = pair.groups[0].one(publish("t", "x"));
    assert_eq!(deliveries(&effects).len(), 1);
    assert_eq!(pair.settled_deliveries(0).len(), 1);
    pair.groups[0].acknowledge(held, &[1, 2]);
    pair.settle();
    assert!(pair.is_empty());
}

#[test]
fn subscription_with_qos_0_takes_no_part() {
    let mut pair = Pair::new(|_| ());
    let wanted = wanted(shared(1));
    let held = pair.member(0, "c", &wanted, 4);
    let none = with_qos(shared(1), QoS::AtMostOnce);
    let effects = pair.groups[0].subscribe(held, &[none]);
    let [Reply::Subscribed(results)] = &replies(&effects)[..] else { panic!() };
    assert_eq!((results[0].version, results[0].existed), (ShareVersion(0), true));
    pair.settle();
    assert_eq!(pair.groups[1].machine.shares(None, 1), []);
    let effects = pair.groups[0].one(connect("c", 2));
    assert!(
        matches!(replies(&effects)[..], [Reply::Connected { version: ShareVersion(0), .. }]),
        "no join is needed"
    );
}

#[test]
fn join_that_comes_after_unsubscribe_is_undone() {
    let mut pair = Pair::new(|_| ());
    let wanted = wanted(shared(1));
    let held = pair.groups[0].connect("c", 1);
    let effects = pair.groups[0].subscribe(held, std::slice::from_ref(&wanted));
    let [Reply::Subscribed(results)] = &replies(&effects)[..] else { panic!() };
    let filters = vec![wanted.filter.clone()];
    pair.groups[0].one(Command::Unsubscribe { session: held.session, epoch: held.epoch, filters });
    pair.settle();
    pair.join(0, held, &wanted, results[0].version, 4);
    pair.groups[1].one(publish("t", "0"));
    let effects = pair.settle();
    assert_eq!(deliveries(&effects[0]), []);
    assert_eq!(pair.groups[1].machine.shares(None, 1), []);
    assert!(pair.is_empty());
}

#[test]
fn full_queue_of_a_session_refuses_no_message_that_its_share_group_accepted() {
    for overflow in [Overflow::DropNewest, Overflow::RejectPublisher] {
        let mut pair = Pair::new(|config| {
            (config.queue_messages_max, config.inflight_max) = (1, 1);
            config.overflow = overflow;
        });
        let held = pair.member(0, "c", &wanted(shared(1)), 2);
        pair.groups[0].subscribe(held, &[wanted("t")]);
        pair.groups[0].run(&[publish("t", "a"), publish("t", "b")]);
        pair.groups[1].run(&[publish("t", "0"), publish("t", "1")]);
        let effects = pair.settle();
        assert_eq!(drops(&effects[0]), []);
        let next = |packet_id| pair.groups[0].acknowledge(held, &[packet_id]);
        let effects: Vec<_> = [1, 2, 3].map(next).concat();
        assert_eq!(pair.groups[0].payloads(&effects), ["b", "0", "1"]);
    }
}

#[test]
fn message_goes_to_the_member_that_has_the_least() {
    let mut pair = Pair::new(|_| ());
    let wanted = wanted(shared(1));
    let quick = pair.member(0, "quick", &wanted, 9);
    pair.member(1, "slow", &wanted, 9);
    pair.groups[1].run(&vec![publish("t", "first"); 4]);
    pair.settle();
    pair.groups[0].acknowledge(quick, &[1, 2]);
    pair.settle();
    pair.groups[1].run(&vec![publish("t", "second"); 2]);
    let effects = pair.settle();
    assert_eq!([0, 1].map(|at| deliveries(&effects[at]).len()), [2, 0]);
}
