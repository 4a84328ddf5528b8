//! Random commands: replicas stay equal, checkpoints restore equal, invariants hold, nothing is lost or reordered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::*;
use crate::command::{BackupStep, PublishTarget, ShareMember, Will};
use crate::hash::partition_of_share;
use crate::ids::{BackupId, ConnId, GroupId, ShareId, ShareVersion};
use crate::record::RestoreError;

const CLIENTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const TOPICS: [&str; 5] = ["t", "t/1", "t/2", "u/1", "u/2/3"];
const FILTERS: [&str; 8] = ["t", "t/+", "t/#", "u/#", "+/1", "#", SHARED[0], "u/2/3"];
/// Share groups that are at home in the partition.
const SHARED: [&str; 2] = ["$share/b/t/#", "$share/a/#"];

struct World {
    random: Random,
    group: Driven<Partition>,
    incarnation: u64,
    delivered: Vec<Deliver>,
    conn: u64,
}

impl World {
    fn owner(&self) -> Owner {
        Owner { node: NODE, incarnation: Incarnation(self.incarnation), conn: ConnId(self.conn) }
    }

    fn session(&mut self) -> (SessionId, Epoch) {
        let client = CLIENTS[self.random.below(6) as usize];
        let stale = u64::from(self.random.chance(3));
        match self.group.machine.session_by_client(client) {
            Some(info) => (info.session, Epoch(info.epoch.0 - stale.min(info.epoch.0))),
            None => (SessionId(9_999), Epoch(1)),
        }
    }

    fn message(&mut self) -> Message {
        let name = TOPICS[self.random.below(5) as usize];
        let length = if self.random.chance(20) { 0 } else { self.random.below(40) as usize };
        Message {
            topic: topic(name),
            qos: match self.random.below(10) {
                0 => QoS::AtMostOnce,
                1..4 => QoS::ExactlyOnce,
                _ => QoS::AtLeastOnce,
            },
            retain: self.random.chance(30),
            expiry_s: self.random.chance(30).then_some(self.random.below(20) as u32),
            publisher: publisher(CLIENTS[self.random.below(6) as usize]),
            properties: Bytes::new(),
            payload: Bytes::from(vec![b'x'; length]),
        }
    }

    fn will(&mut self) -> Option<Will> {
        let delay_s = if self.random.chance(50) { 0 } else { self.random.below(20) as u32 };
        self.random.chance(50).then(|| Will { delay_s, message: self.message() })
    }

    fn connect(&mut self) -> Command {
        self.conn += 1;
        let expiry = match self.random.below(5) {
            0 => SessionExpiry::AtClose,
            1 => SessionExpiry::Never,
            _ => SessionExpiry::After(self.random.below(100) as u32),
        };
        Command::Connect {
            client_id: text(CLIENTS[self.random.below(6) as usize]),
            owner: self.owner(),
            clean_start: self.random.chance(15),
            expiry,
            receive_max: self.random.below(8) as u16,
            principal: text(if self.random.chance(3) { "other" } else { "" }),
            will: self.will(),
        }
    }

    fn subscribe_filter(&mut self) -> SubscribeFilter {
        let mut wanted = wanted(FILTERS[self.random.below(8) as usize]);
        wanted.options.qos =
            [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.random.below(3) as usize];
        wanted.options.no_local = self.random.chance(20);
        wanted.options.retain_as_published = self.random.chance(50);
        wanted.identifier = self.random.chance(60).then_some(1 + self.random.below(4) as u32);
        wanted
    }

    fn command(&mut self) -> Command {
        let (session, epoch) = self.session();
        match self.random.below(100) {
            0..12 => self.connect(),
            12..18 => {
                let expiry = self.random.chance(20).then_some(SessionExpiry::After(5));
                Command::Disconnect { session, epoch, expiry, normal: self.random.chance(40) }
            }
            18..30 => {
                let filters = (0..=self.random.below(3)).map(|_| self.subscribe_filter()).collect();
                Command::Subscribe { session, epoch, filters }
            }
            30..34 => {
                let filters = vec![filter(FILTERS[self.random.below(8) as usize])];
                Command::Unsubscribe { session, epoch, filters }
            }
            34..60 => {
                let mine: Vec<_> =
                    self.delivered.iter().filter(|deliver| deliver.session == session).collect();
                let taken = self.random.below(10) as usize;
                let mut packet_ids: Vec<_> =
                    mine.iter().take(taken).map(|deliver| deliver.packet_id).collect();
                if self.random.chance(10) {
                    packet_ids.push(id(1 + self.random.below(60_000) as u16));
                }
                self.delivered
                    .retain(|deliver| deliver.session != session || !packet_ids.contains(&deliver.packet_id));
                Command::Acknowledge { session, epoch, packet_ids }
            }
            60..63 => {
                let messages = vec![(QoS::AtLeastOnce, Some(8), self.message())];
                Command::Enqueue { session, epoch, messages }
            }
            64..68 => {
                let packet_id = id(1 + self.random.below(6) as u16);
                if self.random.chance(40) {
                    return Command::Release { session, epoch, packet_id };
                }
                let message = Message { qos: QoS::ExactlyOnce, ..self.message() };
                let groups = 5..=5 + self.random.below(2) as u32;
                let target = |group| PublishTarget {
                    group: GroupId(group),
                    store_retained: group == 6,
                    fan_out: group == 5,
                };
                let targets = groups.map(target).collect();
                Command::PublishOnce { session, epoch, packet_id, targets, message }
            }
            68..74 => {
                let mine = self.delivered.iter().filter(|deliver| deliver.session == session);
                let mut packet_ids: Vec<_> = mine.take(2).map(|deliver| deliver.packet_id).collect();
                packet_ids.push(id(1 + self.random.below(100) as u16));
                Command::Receive { session, epoch, packet_ids }
            }
            74..76 => {
                let will = WillId(1 + self.random.below(30));
                let target = |group, store_retained| PublishTarget { group, store_retained, fan_out: true };
                let targets = vec![target(GroupId(5), true), target(GroupId(6), false)];
                Command::PublishWill { will, targets }
            }
            76..80 => self.share_command(true),
            80 => {
                let step = match self.random.below(4) {
                    0 => BackupStep::Hold { ms: self.random.below(900) as u32 },
                    1 => BackupStep::Cut { node: NODE },
                    _ => BackupStep::Release,
                };
                Command::Backup { backup: BackupId(1 + self.random.below(2)), step }
            }
            63 => Command::Purge { client_id: text(CLIENTS[self.random.below(6) as usize]) },
            _ => {
                let message = self.message();
                let store_retained = message.retain;
                Command::Publish { message, store_retained, fan_out: true }
            }
        }
    }

    /// What a share group and its members' partitions may say to each other, of this partition or of another, true or not.
    fn share_command(&mut self, joins: bool) -> Command {
        let (session, _) = self.session();
        let group = if self.random.chance(60) { GROUP } else { GroupId(5) };
        let member = ShareMember { group, session };
        let filter = filter(SHARED[self.random.below(2) as usize]);
        let version = ShareVersion(self.random.below(30));
        let share = ShareId(1 + self.random.below(6));
        let dispatches = (0..self.random.below(4)).map(|_| 1 + self.random.below(60)).collect();
        match self.random.below(if joins { 7 } else { 6 }) {
            0 => Command::ShareOffline { filter, member, version },
            1 => Command::ShareLeave { filter, member, version },
            2 => Command::ShareConfirm { session, filter, share },
            3 => Command::ShareSettled { share, dispatches },
            4 => Command::ShareReturn { share, dispatches },
            5 => Command::ShareDeliver {
                share,
                dispatch: self.random.below(60),
                session,
                qos: [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.random.below(3) as usize],
                retain: self.random.chance(50),
                identifier: self.random.chance(50).then_some(3),
                expiry_s: self.random.chance(30).then_some(1),
                message: self.message(),
            },
            _ => Command::ShareJoin {
                filter,
                member,
                version,
                qos: [QoS::AtLeastOnce, QoS::ExactlyOnce][self.random.below(2) as usize],
                identifier: None,
                retain_as_published: self.random.chance(50),
                window: self.random.below(9) as u16,
            },
        }
    }

    fn entry(&mut self) -> Bytes {
        self.group.stamp.0 += self.random.below(400);
        if self.random.chance(2) {
            self.incarnation += 1;
            let down = Command::NodeDown { node: NODE, incarnation: Incarnation(self.incarnation - 1) };
            return self.group.batch(StreamId::Group(CONTROL), &[down]);
        }
        if self.random.chance(10) {
            let from = StreamId::Group([GROUP, GroupId(5)][self.random.below(2) as usize]);
            let commands: Vec<Command> =
                (0..self.random.below(9)).map(|_| self.share_command(false)).collect();
            return self.group.batch(from, &commands);
        }
        if self.random.chance(5) {
            let mut builder = BatchBuilder::new(self.group.stamp);
            let to = [CONTROL, GROUP, GroupId(5), GroupId(6)][self.random.below(4) as usize];
            builder.leader(LeaderCommand::OutboxApplied { to, seq: StreamSeq(self.random.below(30)) });
            return builder.finish();
        }
        let commands: Vec<Command> = (0..=self.random.below(20)).map(|_| self.command()).collect();
        self.group.batch(StreamId::Node(NODE, Incarnation(self.incarnation)), &commands)
    }
}

fn small(overflow: Overflow) -> PartitionConfig {
    PartitionConfig {
        queue_messages_max: 40,
        queue_bytes_max: 1_500,
        inflight_max: 6,
        subscriptions_per_session_max: 5,
        retained_max: 4,
        session_expiry_max_s: 60,
        overflow,
        partitions: 3,
        ..config()
    }
}

/// Returns how often a share group had messages that wait or are dispatched.
fn run(seed: u64, overflow: Overflow) -> u64 {
    let config = small(overflow);
    assert!(SHARED.iter().all(|name| partition_of_share(&filter(name), config.partitions) == GROUP));
    let group = Driven::partition(config.clone());
    let mut world = World { random: Random(seed), group, incarnation: 1, delivered: Vec::new(), conn: 0 };
    let mut replica = Partition::new(config.clone());
    let mut store = Store::new();
    let mut shared = 0;
    write_changes(&mut store, replica.changes());
    for round in 0..400 {
        let data = world.entry();
        let effects = world.group.entry(data.clone());
        let index = world.group.machine.applied();
        let mut same = Vec::new();
        replica.apply(index, &data, &mut same);
        assert_eq!(effects, same, "seed {seed} round {round}");
        world.delivered.extend(deliveries(&effects));
        world.group.machine.check();
        let shares = world.group.machine.shares(None, 9);
        let busy =
            |share: &ShareInfo| share.waiting > 0 && share.members.iter().any(|member| member.dispatched > 0);
        shared += shares.iter().filter(|share| busy(share)).count() as u64;
        if world.random.chance(20) {
            write_changes(&mut store, replica.changes());
            assert_eq!(store, replica.records().collect::<Store>().merged(&store));
            let restored = Partition::restore(config.clone(), index, read_records(&store)).unwrap();
            restored.check();
            assert_eq!(restored.hash(), world.group.machine.hash(), "seed {seed} round {round}");
            let whole: Store = world.group.machine.records().collect();
            let copy = Partition::restore(config.clone(), index, read_records(&whole)).unwrap();
            assert_eq!(copy.hash(), world.group.machine.hash());
            let keys: Vec<Vec<u8>> = world.group.machine.records().map(|(key, _)| key).collect();
            assert!(keys.is_sorted_by(|left, right| left < right), "records come in key order");
            replica = restored;
        }
    }
    assert_eq!(replica.hash(), world.group.machine.hash());
    shared
}

/// Blocks of queues may hold what was taken from their front; apart from them a store is the records.
trait Merged {
    fn merged(self, store: &Store) -> Store;
}

impl Merged for Store {
    fn merged(mut self, store: &Store) -> Store {
        for (key, content) in store {
            let blocks = [crate::record::kind::QUEUE_BLOCK, crate::record::kind::SHARE_BLOCK];
            if key.first().is_some_and(|kind| blocks.contains(kind)) && self.contains_key(key) {
                self.insert(key.clone(), content.clone());
            }
        }
        self
    }
}

#[test]
fn replicas_with_random_commands_stay_equal_and_restore_equal() {
    let mut shared = 0;
    for seed in 0..12 {
        let overflow = [Overflow::RejectPublisher, Overflow::DropOldest, Overflow::DropNewest];
        shared += run(seed, overflow[seed as usize % 3]);
    }
    assert!(shared > 100, "{shared}: share groups had work");
}

#[test]
fn subscriber_over_random_reconnects_gets_all_messages_in_order() {
    for seed in 0..10 {
        let mut random = Random(seed);
        let mut group = new();
        let mut held = group.connect("c", 1);
        group.subscribe(held, &[wanted("t")]);
        let mut unacknowledged: VecDeque<(u16, u64)> = VecDeque::new();
        let mut first_seen: Vec<u64> = Vec::new();
        let mut copies: BTreeMap<u64, u64> = BTreeMap::new();
        let mut published = 0;
        let mut online = true;
        let mut reconnects = 0;
        while published < 3_000 || first_seen.len() < 3_000 || !unacknowledged.is_empty() {
            let effects = match random.below(10) {
                0..4 if published < 3_000 => {
                    published += 1;
                    group.one(publish("t", &(published - 1).to_string()))
                }
                4 if random.chance(10) => {
                    online = true;
                    reconnects += 1;
                    unacknowledged.clear();
                    let effects = group.one(connect("c", 2 + reconnects));
                    // The former connection says that it is closed, if it has not yet.
                    group.disconnect(std::mem::replace(&mut held, crate::testing::held(&effects).unwrap()));
                    assert!(held.session_present);
                    effects
                }
                5 if online && random.chance(5) => {
                    online = false;
                    group.disconnect(held)
                }
                _ if online && !unacknowledged.is_empty() => {
                    let place = if random.chance(20) {
                        random.below(unacknowledged.len() as u64) as usize
                    } else {
                        0
                    };
                    let (packet_id, _) = unacknowledged.remove(place).unwrap();
                    group.acknowledge(held, &[packet_id])
                }
                _ => Vec::new(),
            };
            for deliver in deliveries(&effects) {
                let number: u64 = group.payload(deliver.message).parse().unwrap();
                assert_eq!(deliver.dup, copies.contains_key(&number));
                if !deliver.dup {
                    first_seen.push(number);
                }
                *copies.entry(number).or_default() += 1;
                unacknowledged.push_back((deliver.packet_id.get(), number));
            }
        }
        assert_eq!(first_seen, (0..3_000).collect::<Vec<_>>(), "seed {seed}");
        assert!(copies.values().all(|copies| *copies <= 1 + reconnects));
        assert_eq!(group.machine.live_from(LogIndex(0)), None);
        group.machine.check();
    }
}

#[test]
fn restore_of_damaged_records_fails_and_never_panics() {
    let mut group = new();
    group.offline_subscriber("c");
    group.connect("d", 1);
    group.run(&std::array::from_fn::<_, 1_500, _>(|_| publish("t/1", "x")));
    group.one(retain("r", "x"));
    let whole: Store = group.machine.records().collect();
    let restore = |store: &Store| Partition::restore(config(), LogIndex(9), read_records(store));
    assert!(restore(&whole).is_ok());
    assert_eq!(restore(&Store::new()).unwrap_err(), RestoreError::HeadMissing);
    let other = Partition::restore(PartitionConfig::new(GroupId(4)), LogIndex(9), read_records(&whole));
    assert_eq!(other.unwrap_err(), RestoreError::OtherGroup { expected: GroupId(4), found: GROUP });
    for (key, content) in &whole {
        for length in 0..content.len().min(40) {
            let mut damaged = whole.clone();
            damaged.insert(key.clone(), content[..length].to_vec());
            assert!(restore(&damaged).is_err(), "{key:?} cut to {length}");
        }
        let mut missing = whole.clone();
        missing.remove(key);
        // Missing records of some kinds make another state; these make none.
        if [crate::record::kind::META, crate::record::kind::QUEUE_BLOCK].contains(&key[0]) {
            assert!(restore(&missing).is_err(), "{key:?} missing");
        } else if let Ok(restored) = restore(&missing) {
            assert!(restored.counts().sessions <= 2);
        }
    }
}
