//! The clients of a run.
//!
//! Owns: who there is, what they publish and subscribe to. Does not: act; see `client`.
//! Invariants: a topic that is retained has writers that never send a message twice, so that its register has one
//! value for each write.

use core::time::Duration;

use quorate_codec::{ProtocolVersion, QoS, TopicFilter, TopicName};

use crate::client::{ModelClient, Plan, PublishPlan, text};
use crate::features::Features;
use crate::oracle::{ClientFacts, Filter, History, ShareFacts, Topic};
use crate::random::Random;

/// Ordinary topics come first in the table.
const TOPICS: [&str; 6] = ["t/a/0", "t/a/1", "t/b/0", "t/b/1", "t/c/0", "t/c/1"];

/// Topics with retained messages.
const RETAINED: [&str; 3] = ["r/0", "r/1", "r/2"];

/// Topics that share groups alone subscribe to.
const SHARED: [&str; 2] = ["s/0", "s/1"];

/// Share groups: two with different filters, which both match one of the topics.
const SHARES: [&str; 2] = ["$share/g/s/#", "$share/h/s/1"];

const FILTERS: [&str; 9] = ["t/#", "t/a/+", "t/+/1", "t/b/0", "t/c/#", "t/a/0", "+/b/#", "r/+", "t/c/1"];

/// Packet identifiers of a client that uses few: more than it ever has underway.
const PACKET_IDS_FEW: u16 = 80;

/// First of the filters that each match one retained topic alone.
const RETAINED_FILTERS: u16 = FILTERS.len() as u16;

/// First of the share groups.
const SHARE_FILTERS: u16 = RETAINED_FILTERS + RETAINED.len() as u16;

/// Filter for all retained topics.
const RETAINED_ALL: Filter = Filter(7);

/// Fills the tables of a run.
pub fn tables(history: &mut History) {
    for name in TOPICS.iter().chain(&RETAINED).chain(&SHARED) {
        history.topics.push(TopicName::new(text(name)).expect("a valid topic"));
    }
    for name in FILTERS.iter().chain(&RETAINED).chain(&SHARES) {
        history.filters.push(TopicFilter::new(text(name)).expect("a valid filter"));
    }
}

fn ordinary_topics() -> Vec<Topic> {
    (0..TOPICS.len() as u16).map(Topic).collect()
}

fn retained_topics() -> Vec<Topic> {
    let first = TOPICS.len() as u16;
    (first..first + RETAINED.len() as u16).map(Topic).collect()
}

fn shared_topics() -> Vec<Topic> {
    let first = (TOPICS.len() + RETAINED.len()) as u16;
    (first..first + SHARED.len() as u16).map(Topic).collect()
}

fn idle(client_id: String, random: &mut Random) -> Plan {
    // Many clients take the lowest identifier that is free.
    let few_ids = random.permille(300);
    Plan {
        client_id,
        version: if random.permille(600) { ProtocolVersion::V5 } else { ProtocolVersion::V311 },
        durable: false,
        expiry_s: None,
        publish: None,
        resends: false,
        filters: Vec::new(),
        churn: Vec::new(),
        qos: QoS::AtLeastOnce,
        receive_max: *random.pick(&[1, 3, 10, 100]),
        ack_delay: random.millis(0, 40),
        stay: random.permille(300).then(|| random.millis(500, 6000)),
        takeover: None,
        first_packet_id: if few_ids { 0 } else { *random.pick(&[0, 65_500, 65_530]) },
        packet_id_max: if few_ids { PACKET_IDS_FEW } else { u16::MAX },
        starts_at: random.millis(900, 2500),
        will_delay_s: None,
        final_read: None,
    }
}

/// Everyone.
pub fn clients(features: &Features, history: &mut History, random: &mut Random) -> Vec<ModelClient> {
    let mut plans = Vec::new();
    for number in 0..features.publishers {
        plans.push(publisher(number, features, random));
    }
    for number in 0..features.subscribers {
        plans.push(subscriber(number, features, random));
    }
    for number in 0..features.transients {
        plans.push(transient(number, features, random));
    }
    if random.permille(400) {
        plans.push(at_most_once(features, random));
    }
    if random.permille(400) {
        plans.push(expiring(random));
    }
    for number in 0..features.dying {
        plans.push(dying(number, features, random));
    }
    if features.retained {
        for number in 0..2 {
            plans.push(retained_writer(number, random));
        }
        for number in 0..2 {
            plans.push(retained_reader(number, random));
        }
    }
    if features.shares {
        shares(&mut plans, features, random);
    }
    plans.into_iter().map(|plan| add(plan, features, history, random)).collect()
}

fn add(plan: Plan, features: &Features, history: &mut History, random: &mut Random) -> ModelClient {
    let number = history.clients.len() as u32;
    let five = plan.version == ProtocolVersion::V5;
    history.clients.push(ClientFacts {
        durable: plan.durable,
        expiry: plan.expiry_s.map(|expiry_s| Duration::from_secs(u64::from(expiry_s))),
        receive_max: if five { plan.receive_max } else { u16::MAX },
        resends: plan.resends,
        share: plan
            .filters
            .iter()
            .find(|filter| filter.0 >= SHARE_FILTERS)
            .map(|group| ShareFacts { group: *group, qos: plan.qos as u8 }),
    });
    ModelClient::new(number, plan, random.fork(), features.nodes + features.added)
}

fn acknowledged(random: &mut Random) -> QoS {
    if random.permille(500) { QoS::AtLeastOnce } else { QoS::ExactlyOnce }
}

fn publisher(number: usize, features: &Features, random: &mut Random) -> Plan {
    let mut plan = idle(format!("publisher-{number}"), random);
    plan.durable = random.permille(600);
    plan.resends = true;
    plan.takeover = features.takeovers.then(|| random.millis(400, 4000));
    plan.publish = Some(PublishPlan {
        topics: ordinary_topics(),
        qos: acknowledged(random),
        retain: false,
        delete_permille: 0,
        every: features.publish_every,
        window: *random.pick(&[1, 4, 20, 64]),
    });
    plan
}

fn subscriber(number: usize, features: &Features, random: &mut Random) -> Plan {
    let mut plan = idle(format!("subscriber-{number}"), random);
    plan.durable = true;
    plan.qos = acknowledged(random);
    plan.filters = vec![Filter(random.below(7) as u16)];
    if random.permille(400) {
        plan.filters.push(Filter(random.below(7) as u16));
    }
    plan.filters.dedup();
    if features.churn {
        let churn: Vec<Filter> =
            [1, 2, 4, 8].into_iter().map(Filter).filter(|filter| !plan.filters.contains(filter)).collect();
        plan.churn = churn;
    }
    if features.takeovers && random.permille(500) {
        // A publisher too, so that there is something that the old connection must not acknowledge.
        plan.takeover = Some(random.millis(600, 5000));
        plan.resends = true;
        plan.publish = Some(PublishPlan {
            topics: vec![Topic(1), Topic(3)],
            qos: acknowledged(random),
            retain: false,
            delete_permille: 0,
            every: features.publish_every * 3,
            window: 4,
        });
    }
    plan
}

fn transient(number: usize, features: &Features, random: &mut Random) -> Plan {
    let mut plan = idle(format!("transient-{number}"), random);
    plan.filters = vec![Filter(random.below(7) as u16)];
    plan.qos = *random.pick(&[QoS::AtMostOnce, QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    if features.churn {
        plan.churn =
            [3, 5, 8].into_iter().map(Filter).filter(|filter| !plan.filters.contains(filter)).collect();
    }
    plan
}

/// Share groups: durable members in both, so that what is published is consumed in the end; transient ones that come
/// and go, some of QoS 0; publishers of all QoS.
fn shares(plans: &mut Vec<Plan>, features: &Features, random: &mut Random) {
    let mut member = |name: &str, share: u16, durable: bool, random: &mut Random| {
        let mut plan = idle(format!("member-{name}"), random);
        plan.durable = durable;
        plan.filters = vec![Filter(SHARE_FILTERS + share)];
        plan.stay = random.permille(500).then(|| random.millis(500, 6000));
        plan.qos = if !durable && random.permille(250) { QoS::AtMostOnce } else { acknowledged(random) };
        plan.takeover = (features.takeovers && random.permille(500)).then(|| random.millis(600, 5000));
        plans.push(plan);
    };
    for number in 0..1 + random.below(2) {
        member(&format!("g-{number}"), 0, true, random);
    }
    for number in 0..random.below(4) {
        member(&format!("g-transient-{number}"), 0, false, random);
    }
    member("h-0", 1, true, random);
    for number in 0..random.below(2) {
        member(&format!("h-transient-{number}"), 1, false, random);
    }
    for number in 0..1 + random.below(2) {
        let mut plan = publisher(number, features, random);
        plan.client_id = format!("share-publisher-{number}");
        plan.publish.iter_mut().for_each(|publish| publish.topics = shared_topics());
        plans.push(plan);
    }
    if random.permille(500) {
        let mut plan = at_most_once(features, random);
        plan.client_id = "share-at-most-once".to_owned();
        plan.publish.iter_mut().for_each(|publish| publish.topics = shared_topics());
        plans.push(plan);
    }
}

/// A client whose session ends some time after it left: it comes back before, or later.
fn expiring(random: &mut Random) -> Plan {
    let mut plan = idle("expiring".to_owned(), random);
    plan.version = ProtocolVersion::V5;
    plan.expiry_s = Some(1 + random.below(3) as u32);
    plan.stay = Some(random.millis(100, 1500));
    plan
}

/// A client that has a will and leaves often, with or without a word.
fn dying(number: usize, features: &Features, random: &mut Random) -> Plan {
    let mut plan = idle(format!("dying-{number}"), random);
    plan.durable = random.permille(500);
    let delayed = plan.durable && plan.version == ProtocolVersion::V5 && random.permille(400);
    plan.will_delay_s = Some(if delayed { 1 + random.below(2) as u32 } else { 0 });
    plan.stay = Some(random.millis(300, 4000));
    plan.takeover = features.takeovers.then(|| random.millis(400, 4000));
    plan
}

fn at_most_once(features: &Features, random: &mut Random) -> Plan {
    let mut plan = idle("at-most-once".to_owned(), random);
    plan.publish = Some(PublishPlan {
        topics: ordinary_topics(),
        qos: QoS::AtMostOnce,
        retain: false,
        delete_permille: 0,
        every: features.publish_every * 2,
        window: usize::MAX,
    });
    plan
}

fn retained_writer(number: usize, random: &mut Random) -> Plan {
    let mut plan = idle(format!("writer-{number}"), random);
    plan.publish = Some(PublishPlan {
        topics: retained_topics(),
        qos: QoS::AtLeastOnce,
        retain: true,
        delete_permille: 250,
        every: random.millis(60, 250),
        window: 1,
    });
    plan
}

fn retained_reader(number: usize, random: &mut Random) -> Plan {
    let mut plan = idle(format!("reader-{number}"), random);
    let one = Filter(RETAINED_FILTERS + random.below(RETAINED.len()) as u16);
    plan.filters = vec![if random.permille(500) { RETAINED_ALL } else { one }];
    plan.stay = Some(random.millis(200, 1200));
    plan
}

/// One reader for each retained topic, at the end of a run.
pub fn final_readers(features: &Features, history: &mut History, random: &mut Random) -> Vec<ModelClient> {
    let mut readers = Vec::new();
    for (at, topic) in (0..).zip(retained_topics()) {
        let mut plan = idle(format!("final-{at}"), random);
        plan.filters = vec![Filter(RETAINED_FILTERS + at)];
        plan.stay = None;
        plan.starts_at = Duration::from_millis(10);
        plan.final_read = Some(topic);
        readers.push(add(plan, features, history, random));
    }
    readers
}
