//! The route table against tables of cases, and against plain matching.

use super::*;
use bytes::Bytes;
use quorate_codec::{RetainHandling, SubscriptionOptions, Text, TopicName};
use quorate_state::Message;

mod shares;

const ME: NodeId = NodeId(1);
const NOBODY: u64 = 0;

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(Text::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()).unwrap()
}

fn topic(text: &str) -> TopicName {
    TopicName::new(Text::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()).unwrap()
}

fn message(name: &str, qos: QoS, retain: bool, publisher: u64) -> Arc<DirectMessage> {
    let [properties, payload] = [Bytes::new(), Bytes::from_static(b"payload")];
    let message = Message { topic: topic(name), qos, retain, expiry_s: None, publisher, properties, payload };
    Arc::new(DirectMessage { message })
}

/// A subscription in words: `"+qos1 nl rap id7 durable"` in any order after the filter.
fn add(text: &str, qos: QoS, words: &str, client: u64) -> LocalChange {
    let has = |word: &str| words.split(' ').any(|other| other == word);
    let identifier =
        words.split(' ').find_map(|word| word.strip_prefix("id")).map(|number| number.parse().unwrap());
    LocalChange::Add {
        subscription: SubscribeFilter {
            filter: filter(text),
            options: SubscriptionOptions {
                qos,
                no_local: has("nl"),
                retain_as_published: has("rap"),
                retain_handling: RetainHandling::Always,
            },
            identifier,
        },
        client,
        durable: has("durable"),
    }
}

/// Connection, QoS, RETAIN and identifiers of every delivery.
fn deliveries(routing: &Routing, message: &Arc<DirectMessage>) -> Vec<(u64, QoS, bool, Vec<u32>)> {
    let mut out = Vec::new();
    routing.forwarded_deliveries(NodeId(9), message, &mut out);
    out.into_iter().map(|(conn, one)| (conn.0, one.qos, one.retain, one.identifiers)).collect()
}

use QoS::{AtLeastOnce as ONE, AtMostOnce as ZERO};

#[test]
fn overlapping_subscriptions_deliver_once_with_all_they_grant() {
    // [MQTT-3.3.4-2, MQTT-3.3.4-4]
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(5), add("a/#", ZERO, "id9", 50));
    routing.apply_local(ConnId(5), add("a/+", ONE, "id3", 50));
    routing.apply_local(ConnId(5), add("a/b", ZERO, "rap", 50));
    routing.apply_local(ConnId(4), add("a/b", ONE, "", 40));
    let found = deliveries(&routing, &message("a/b", ONE, true, NOBODY));
    assert_eq!(found, [(4, ONE, false, vec![]), (5, ONE, true, vec![3, 9])]);
    let found = deliveries(&routing, &message("a/b", ZERO, false, NOBODY));
    assert_eq!(found, [(4, ZERO, false, vec![]), (5, ZERO, false, vec![3, 9])]);
}

#[test]
fn no_local_excludes_that_subscription_for_own_messages_only() {
    // [MQTT-3.8.3-3]
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(1), add("a", ONE, "nl id1", 77));
    let own = message("a", ONE, false, 77);
    let others = message("a", ONE, false, 78);
    assert_eq!(deliveries(&routing, &own), []);
    assert_eq!(deliveries(&routing, &others), [(1, ONE, false, vec![1])]);
    routing.apply_local(ConnId(1), add("#", ZERO, "id2", 77));
    assert_eq!(deliveries(&routing, &own), [(1, ZERO, false, vec![2])]);
    assert_eq!(deliveries(&routing, &others), [(1, ONE, false, vec![1, 2])]);
}

#[test]
fn retain_flag_is_kept_only_with_retain_as_published() {
    // [MQTT-3.3.1-12, MQTT-3.3.1-13]
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(1), add("a", ONE, "", 1));
    routing.apply_local(ConnId(2), add("a", ONE, "rap", 2));
    let found = deliveries(&routing, &message("a", ONE, true, NOBODY));
    assert_eq!(found, [(1, ONE, false, vec![]), (2, ONE, true, vec![])]);
}

#[test]
fn durable_session_receives_directly_only_what_is_lowered_to_qos_0() {
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(1), add("a", ONE, "durable", 1));
    routing.apply_local(ConnId(2), add("a", ZERO, "durable", 2));
    routing.apply_local(ConnId(3), add("a", ZERO, "durable", 3));
    routing.apply_local(ConnId(3), add("+", ONE, "durable", 3));
    assert_eq!(deliveries(&routing, &message("a", ONE, false, NOBODY)), [(2, ZERO, false, vec![])]);
    let all = [(1, ZERO, false, vec![]), (2, ZERO, false, vec![]), (3, ZERO, false, vec![])];
    assert_eq!(deliveries(&routing, &message("a", ZERO, false, NOBODY)), all);
}

#[test]
fn identifiers_that_the_partition_does_not_know_go_out_with_a_further_copy() {
    // [MQTT-3.3.4-5]
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(1), add("a", ONE, "durable id1", 1));
    routing.apply_local(ConnId(1), add("+", ZERO, "durable id2", 1));
    assert_eq!(deliveries(&routing, &message("a", ONE, false, NOBODY)), [(1, ZERO, false, vec![2])]);
    assert_eq!(deliveries(&routing, &message("a", ZERO, false, NOBODY)), [(1, ZERO, false, vec![1, 2])]);
}

#[test]
fn subscription_with_the_same_filter_is_replaced() {
    // [MQTT-3.8.4-3]
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(1), add("a", ONE, "id1", 1));
    routing.apply_local(ConnId(1), add("a", ZERO, "id2", 1));
    assert_eq!(routing.local_subscriptions(), 1);
    assert_eq!(deliveries(&routing, &message("a", ONE, false, NOBODY)), [(1, ZERO, false, vec![2])]);
}

#[test]
fn wildcards_do_not_match_system_topics() {
    // [MQTT-4.7.2-1]
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(1), add("#", ONE, "", 1));
    routing.apply_local(ConnId(2), add("$SYS/#", ONE, "", 2));
    assert_eq!(deliveries(&routing, &message("$SYS/x", ONE, false, NOBODY)), [(2, ONE, false, vec![])]);
}

#[test]
fn routes_name_each_target_once_and_never_this_node() {
    let mut routing = Routing::new(ME, 4);
    let node = |id| RouteTarget::Node(NodeId(id));
    let partition = |id| RouteTarget::Partition(GroupId(id));
    for (text, target) in [("a", node(3)), ("#", node(3)), ("+", node(2)), ("a", node(1)), ("x", node(9))] {
        routing.route_changed(&filter(text), target, true);
    }
    for (text, target) in [("a", partition(4)), ("#", partition(2)), ("+", partition(4))] {
        routing.route_changed(&filter(text), target, true);
    }
    let found = routing.matches("a");
    assert_eq!(found.nodes, [NodeId(2), NodeId(3)]);
    assert_eq!(found.partitions, [GroupId(2), GroupId(4)]);
    assert!(found.local.is_empty());
    routing.route_changed(&filter("a"), partition(4), false);
    routing.route_changed(&filter("+"), partition(4), false);
    routing.route_changed(&filter("#"), node(3), false);
    let found = routing.matches("a");
    assert_eq!((&found.nodes[..], &found.partitions[..]), (&[NodeId(2), NodeId(3)][..], &[GroupId(2)][..]));
    routing.replace_routes(vec![(filter("a"), partition(1)), (filter("a"), partition(1))]);
    let found = routing.matches("a");
    assert_eq!((&found.nodes[..], &found.partitions[..]), (&[][..], &[GroupId(1)][..]));
}

#[test]
fn node_with_durable_sessions_alone_is_sent_only_messages_of_qos_0() {
    let mut routing = Routing::new(ME, 4);
    routing.route_changed(&filter("a"), RouteTarget::NodeQos0(NodeId(2)), true);
    routing.route_changed(&filter("a"), RouteTarget::Node(NodeId(3)), true);
    let sent = |routing: &Routing, qos| {
        let (mut direct, mut forwards) = (Vec::new(), Vec::new());
        routing.hand_over(&message("a", qos, false, NOBODY), &mut direct, &mut forwards);
        forwards.into_iter().map(|(node, _)| node).collect::<Vec<NodeId>>()
    };
    assert_eq!((sent(&routing, ZERO), sent(&routing, ONE)), (vec![NodeId(3), NodeId(2)], vec![NodeId(3)]));
    routing.route_changed(&filter("#"), RouteTarget::Node(NodeId(2)), true);
    assert_eq!(
        (sent(&routing, ZERO), sent(&routing, ONE)),
        (vec![NodeId(2), NodeId(3)], vec![NodeId(2), NodeId(3)])
    );
    routing.route_changed(&filter("#"), RouteTarget::Node(NodeId(2)), false);
    routing.route_changed(&filter("a"), RouteTarget::Node(NodeId(3)), false);
    let found = routing.matches("a");
    assert_eq!((found.has_direct(ZERO), found.has_direct(ONE)), (true, false));
}

#[test]
fn changes_that_change_nothing_keep_the_version() {
    let mut routing = Routing::new(ME, 4);
    let target = RouteTarget::Partition(GroupId(1));
    routing.route_changed(&filter("a"), target, true);
    routing.apply_local(ConnId(1), add("a", ONE, "", 1));
    let version = routing.version();
    routing.route_changed(&filter("a"), target, true);
    routing.route_changed(&filter("b"), target, false);
    routing.apply_local(ConnId(1), LocalChange::Remove(filter("b")));
    routing.apply_local(ConnId(2), LocalChange::Remove(filter("a")));
    routing.apply_local(ConnId(2), LocalChange::RemoveAll);
    assert_eq!(routing.version(), version);
    routing.apply_local(ConnId(1), LocalChange::RemoveAll);
    assert_eq!(routing.version(), version + 1);
    assert_eq!(routing.local_subscriptions(), 0);
}

#[test]
fn cache_answers_again_only_within_a_version() {
    let mut routing = Routing::new(ME, 4);
    let mut cache = RouteCache::default();
    let first = cache.lookup(&routing, "a");
    assert!(Arc::ptr_eq(&first, &cache.lookup(&routing, "a")));
    routing.apply_local(ConnId(1), add("a", ONE, "", 1));
    let second = cache.lookup(&routing, "a");
    assert_eq!((first.local.len(), second.local.len()), (0, 1));
    assert!(Arc::ptr_eq(&second, &cache.lookup(&routing, "a")));
    // More topics than places: the answers stay right.
    for round in 0..2 {
        for number in 0..1000 {
            let found = cache.lookup(&routing, &format!("t/{number}"));
            assert!(found.is_empty(), "round {round}, topic {number}");
        }
        assert_eq!(cache.lookup(&routing, "a").local.len(), 1);
    }
    assert_eq!(cache.places.len(), ROUTE_CACHE_TOPICS_MAX);
}

// ---- random operations against a model that knows no trie ----

/// Random numbers for the operations of one seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

fn model_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    for (at, level) in filter.iter().enumerate() {
        match (*level, topic.get(at)) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (exact, Some(found)) if exact == *found => {}
            _ => return false,
        }
    }
    filter.len() == topic.len()
}

#[derive(Default)]
struct Model {
    routes: BTreeSet<(String, RouteTarget)>,
    local: BTreeMap<(ConnId, String), (SubscribeFilter, u64, bool)>,
}

impl Model {
    fn deliveries(&self, message: &Message) -> Vec<(u64, QoS, bool, Vec<u32>)> {
        let conns: BTreeSet<ConnId> = self.local.keys().map(|key| key.0).collect();
        let mut all = Vec::new();
        for conn in conns {
            let matching: Vec<_> = self
                .local
                .iter()
                .filter(|(key, _)| key.0 == conn && model_matches(&key.1, message.topic.as_str()))
                .map(|(_, value)| value)
                .filter(|(subscription, client, _)| {
                    !subscription.options.no_local || *client != message.publisher
                })
                .collect();
            let Some(granted) = matching.iter().map(|one| one.0.options.qos).max() else { continue };
            let mut matching = matching;
            let mut qos = granted.min(message.qos);
            if matching[0].2 && qos > ZERO {
                qos = ZERO;
                matching.retain(|one| one.0.options.qos == ZERO);
                if matching.iter().all(|one| one.0.identifier.is_none()) {
                    continue;
                }
            }
            let rap = matching.iter().any(|one| one.0.options.retain_as_published);
            let mut identifiers: Vec<u32> = matching.iter().filter_map(|one| one.0.identifier).collect();
            identifiers.sort_unstable();
            all.push((conn.0, qos, rap && message.retain, identifiers));
        }
        all
    }

    fn targets(&self, topic: &str) -> BTreeSet<RouteTarget> {
        self.routes.iter().filter(|route| model_matches(&route.0, topic)).map(|route| route.1).collect()
    }
}

const FILTERS: [&str; 14] =
    ["#", "+", "a", "a/#", "a/+", "+/b", "a/b", "a/b/#", "+/+/c", "a//c", "/", "/+", "$SYS/#", "$SYS/+/c"];
const TOPICS: [&str; 10] = ["a", "b", "a/b", "a/b/c", "a//c", "/", "/a", "$SYS", "$SYS/b/c", "c/b"];

fn change_at_random(random: &mut Random, routing: &mut Routing, model: &mut Model) {
    let text = *random.pick(&FILTERS);
    let conn = ConnId(random.below(4) as u64);
    match random.below(12) {
        0..4 => {
            let qos = *random.pick(&[ZERO, ONE]);
            let words = *random.pick(&["", "nl", "rap", "nl rap", "id1", "id2 nl", "id3 rap"]);
            // Whether a session is durable is decided once for its connection.
            let words = if conn.0.is_multiple_of(2) { words.to_owned() } else { format!("{words} durable") };
            let change = add(text, qos, &words, conn.0 + 100);
            let LocalChange::Add { subscription, client, durable } = change.clone() else { unreachable!() };
            model.local.insert((conn, text.to_owned()), (subscription, client, durable));
            routing.apply_local(conn, change);
        }
        4..6 => {
            model.local.remove(&(conn, text.to_owned()));
            routing.apply_local(conn, LocalChange::Remove(filter(text)));
        }
        6 => {
            model.local.retain(|key, _| key.0 != conn);
            routing.apply_local(conn, LocalChange::RemoveAll);
        }
        7 if random.below(10) == 0 => {
            let all = model.routes.iter().map(|(text, target)| (filter(text), *target)).collect();
            routing.replace_routes(all);
        }
        change => {
            let number = random.below(3) as u32 + 1;
            let targets =
                [RouteTarget::Partition(GroupId(number)), RouteTarget::Node(NodeId(u64::from(number)))];
            let target = *random.pick(&targets);
            let added = change < 10;
            if added {
                model.routes.insert((text.to_owned(), target));
            } else {
                model.routes.remove(&(text.to_owned(), target));
            }
            routing.route_changed(&filter(text), target, added);
        }
    }
}

#[test]
fn routing_of_random_changes_agrees_with_plain_matching() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut routing = Routing::new(ME, 4);
        let mut model = Model::default();
        let mut cache = RouteCache::default();
        for step in 0..250 {
            change_at_random(&mut random, &mut routing, &mut model);
            let name = *random.pick(&TOPICS);
            let publisher = 100 + random.below(5) as u64;
            let message = message(name, *random.pick(&[ZERO, ONE]), random.below(2) == 0, publisher);
            assert_eq!(
                deliveries(&routing, &message),
                model.deliveries(&message.message),
                "seed {seed} step {step}"
            );
            let found = cache.lookup(&routing, name);
            let mut targets: BTreeSet<RouteTarget> =
                found.partitions.iter().map(|id| RouteTarget::Partition(*id)).collect();
            targets.extend(found.nodes.iter().map(|id| RouteTarget::Node(*id)));
            let mut expected = model.targets(name);
            expected.remove(&RouteTarget::Node(ME));
            assert_eq!(targets, expected, "seed {seed} step {step}");
            assert_eq!(found, routing.matches(name), "seed {seed} step {step}");
        }
        assert_eq!(routing.local_subscriptions(), model.local.len());
        let transient = model.local.values().filter(|(_, _, durable)| !durable).count();
        assert_eq!(routing.transient_subscriptions(), transient);
    }
}

#[test]
fn subscriptions_of_a_connection_are_listed_as_they_stand() {
    let mut routing = Routing::new(NodeId(1), 4);
    let conn = ConnId(7);
    for (text, qos) in [("b", ZERO), ("a/#", ONE), ("$share/g/a", ONE), ("b", ONE)] {
        routing.apply_local(conn, add(text, qos, "", 1));
    }
    routing.apply_local(ConnId(8), add("b", ZERO, "", 2));
    let of = |routing: &Routing, conn| {
        let all = routing.subscriptions_of(conn).into_iter();
        all.map(|found| (found.filter.as_str().to_owned(), found.qos)).collect::<Vec<_>>()
    };
    let expected = [("$share/g/a", ONE), ("a/#", ONE), ("b", ONE)].map(|(text, qos)| (text.to_owned(), qos));
    assert_eq!(of(&routing, conn), expected);
    routing.apply_local(conn, LocalChange::Remove(filter("a/#")));
    assert_eq!(of(&routing, conn).len(), 2);
    routing.apply_local(conn, LocalChange::RemoveAll);
    assert_eq!(of(&routing, conn), []);
}

#[test]
fn resumed_session_takes_from_a_node_what_is_forwarded_after_its_answer() {
    let mut routing = Routing::new(NodeId(1), 4);
    let (moved, other) = (ConnId(7), ConnId(8));
    let conns = |routing: &Routing, from: u64| {
        let mut out = vec![(ConnId(99), DirectDelivery::clone(&first(routing)))];
        routing.forwarded_deliveries(NodeId(from), &message("a", ZERO, false, NOBODY), &mut out);
        out.into_iter().skip(1).map(|(conn, _)| conn).collect::<Vec<_>>()
    };
    routing.apply_local(other, add("a", ZERO, "", 2));
    routing.fence(moved, BTreeSet::from([NodeId(2), NodeId(3)]));
    routing.apply_local(moved, LocalChange::Resumed);
    routing.apply_local(moved, add("a", ZERO, "durable", 1));
    assert_eq!(routing.unanswered(None).collect::<Vec<_>>(), [(moved, 0, NodeId(2)), (moved, 0, NodeId(3))]);
    assert_eq!((conns(&routing, 2), conns(&routing, 3)), (vec![other], vec![other]));
    let one = message("a", ZERO, false, NOBODY);
    let dropped = |from| routing.forwarded_deliveries(NodeId(from), &one, &mut Vec::new());
    assert_eq!((dropped(2), dropped(4)), (1, 0), "what is dropped is counted");
    assert_eq!(conns(&routing, 4), [moved, other], "a node that came later has forwarded nothing before");
    assert!(!routing.mark_answered(moved, 0, NodeId(2)));
    assert_eq!((conns(&routing, 2), conns(&routing, 3)), (vec![moved, other], vec![other]));
    assert_eq!(routing.node_gone(NodeId(3)), []);
    assert_eq!(conns(&routing, 3), [moved, other]);
    routing.fence(moved, BTreeSet::from([NodeId(2)]));
    routing.apply_local(moved, LocalChange::RemoveAll);
    assert_eq!(routing.unanswered(None).count(), 0, "the end of a connection ends its fence");
}

#[test]
fn marks_are_answered_when_all_have_answered_or_are_gone() {
    let mut routing = Routing::new(NodeId(1), 4);
    let (conn, other) = (ConnId(7), ConnId(8));
    assert!(!routing.mark(conn, 1, BTreeSet::new()), "nobody is to answer");
    routing.fence(conn, BTreeSet::from([NodeId(2)]));
    assert!(routing.mark(conn, 1, BTreeSet::from([NodeId(2), NodeId(3)])));
    assert!(routing.mark(other, 1, BTreeSet::from([NodeId(3)])));
    let unanswered = |routing: &Routing| routing.unanswered(None).collect::<Vec<_>>();
    assert_eq!(unanswered(&routing).len(), 4);
    assert_eq!(routing.unanswered(Some(other)).collect::<Vec<_>>(), [(other, 1, NodeId(3))]);
    assert!(!routing.mark_answered(conn, 0, NodeId(2)), "that was the fence");
    assert!(!routing.mark_answered(conn, 1, NodeId(2)), "one is left");
    assert!(!routing.mark_answered(conn, 1, NodeId(2)), "again");
    // The next ones take the place of those that nobody waits for any more.
    assert!(routing.mark(conn, 2, BTreeSet::from([NodeId(2), NodeId(3)])));
    assert!(!routing.mark_answered(conn, 1, NodeId(3)), "of before");
    assert!(!routing.mark_answered(conn, 2, NodeId(2)));
    assert_eq!(unanswered(&routing), [(conn, 2, NodeId(3)), (other, 1, NodeId(3))]);
    assert!(routing.mark_answered(other, 1, NodeId(3)));
    assert_eq!(routing.node_gone(NodeId(3)), [(conn, 2)]);
    assert_eq!(unanswered(&routing), []);
    assert!(routing.mark(conn, 3, BTreeSet::from([NodeId(2)])));
    routing.apply_local(conn, LocalChange::RemoveAll);
    assert_eq!(unanswered(&routing), []);
}

/// Some delivery.
fn first(routing: &Routing) -> DirectDelivery {
    let mut out = Vec::new();
    routing.forwarded_deliveries(NodeId(9), &message("a", ZERO, false, NOBODY), &mut out);
    out.swap_remove(0).1
}
