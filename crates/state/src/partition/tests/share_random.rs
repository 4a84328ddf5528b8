//! Share groups at random: two partitions, commands between them late and in pieces, sessions that come and go.
//! Nothing is lost; what comes twice was in flight to a connection that closed; QoS 2 never comes twice.

use std::collections::{BTreeMap, BTreeSet};

use super::share::{GROUPS, Pair, join, shared, with_qos};
use super::*;
use crate::hash::partition_of_share;
use crate::ids::{ConnId, ShareVersion};

const CLIENTS: usize = 6;
/// These are durable, subscribe once and never leave: so that no group ever ends with messages in it.
const KEEPERS: usize = 2;

/// A message of a share group: number, and which group.
type Key = (u64, usize);

/// What a client has received and not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Open {
    packet_id: u16,
    key: Key,
    qos: QoS,
    received: bool,
}

#[derive(Clone, Default)]
struct Client {
    held: Option<Held>,
    durable: bool,
    incarnation: u64,
    subscribed: BTreeSet<usize>,
    open: Vec<Open>,
}

struct World {
    random: Random,
    pair: Pair,
    stores: [Store; 2],
    clients: Vec<Client>,
    /// Joins on their way, to be applied in any order.
    joins: Vec<(usize, Command)>,
    conn: u64,
    published: u64,
    consumed: BTreeMap<Key, u64>,
    /// Times that a message was sent for the first time on a connection, and how many of those may be repeated.
    sent: BTreeMap<Key, u64>,
    repeats: BTreeMap<Key, u64>,
    sent_twice: BTreeSet<Key>,
    /// QoS 2 of sessions that ended.
    discarded: BTreeSet<Key>,
}

fn place(client: usize) -> usize {
    client % 2
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let inflight_max = 1 + random.below(6) as u16;
        let pair = Pair::new(|config| config.inflight_max = inflight_max);
        let clients = vec![Client { incarnation: 1, ..Client::default() }; CLIENTS];
        Self {
            random,
            pair,
            stores: [Store::new(), Store::new()],
            clients,
            joins: Vec::new(),
            conn: 0,
            published: 0,
            consumed: BTreeMap::new(),
            sent: BTreeMap::new(),
            repeats: BTreeMap::new(),
            sent_twice: BTreeSet::new(),
            discarded: BTreeSet::new(),
        }
    }

    /// Node of a client: it has one of its own, so that one can die alone.
    fn owner(&self, client: usize) -> Owner {
        let incarnation = Incarnation(self.clients[client].incarnation);
        Owner { node: NodeId(10 + client as u64), incarnation, conn: ConnId(self.conn) }
    }

    fn wanted(&self, client: usize, share: usize) -> SubscribeFilter {
        let qos = if client.is_multiple_of(3) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        SubscribeFilter { identifier: Some(1 + share as u32), ..with_qos(shared(share), qos) }
    }

    /// Runs a command of a client in its partition and takes in what comes of it.
    fn run(&mut self, at: usize, command: Command) -> Vec<Effect> {
        let effects = self.pair.groups[at].one(command);
        self.take_in(at, &effects);
        effects
    }

    fn take_in(&mut self, at: usize, effects: &[Effect]) {
        self.pair.check(at);
        for deliver in deliveries(effects) {
            let group = &self.pair.groups[at].machine;
            let name = group.session(deliver.session).unwrap().client_id;
            let client: usize = name.as_str().parse().unwrap();
            if deliver.received {
                let open = &mut self.clients[client].open;
                assert!(open.iter().any(|open| open.packet_id == deliver.packet_id.get() && open.received));
                continue;
            }
            let share = group.identifiers(deliver.session, deliver.identifiers)[0] as usize - 1;
            let key = (self.pair.groups[at].payload(deliver.message).parse().unwrap(), share);
            let packet_id = deliver.packet_id.get();
            let open = &mut self.clients[client].open;
            let known = open.iter().any(|open| open.packet_id == packet_id);
            assert_eq!(known, deliver.dup, "sent again is what the client has open");
            if deliver.dup {
                continue;
            }
            assert!(self.clients[client].subscribed.contains(&share), "nothing new after UNSUBSCRIBE");
            self.clients[client].open.push(Open { packet_id, key, qos: deliver.qos, received: false });
            *self.sent.entry(key).or_default() += 1;
            let repeats = self.repeats.get(&key).copied().unwrap_or(0);
            assert!(self.sent[&key] <= 1 + repeats, "{key:?} came again though no connection was lost");
            if deliver.qos == QoS::ExactlyOnce {
                assert!(self.sent_twice.insert(key), "{key:?} of QoS 2 came twice");
            }
        }
    }

    /// The connection is gone; `ended`: the session too.
    fn closed(&mut self, client: usize, ended: bool) {
        let state = &mut self.clients[client];
        state.held = None;
        if ended {
            state.subscribed.clear();
        }
        for open in std::mem::take(&mut state.open) {
            match open.qos {
                QoS::ExactlyOnce if ended && !open.received => {
                    self.discarded.insert(open.key);
                }
                QoS::ExactlyOnce if !ended => self.clients[client].open.push(open),
                QoS::ExactlyOnce => {}
                _ => *self.repeats.entry(open.key).or_default() += 1,
            }
        }
    }

    fn connect(&mut self, client: usize) {
        self.conn += 1;
        let durable = client < KEEPERS || self.random.chance(60);
        let clean_start = client >= KEEPERS && self.random.chance(20);
        let expiry = if durable { SessionExpiry::Never } else { SessionExpiry::AtClose };
        let command = Command::Connect {
            client_id: text(&client.to_string()),
            owner: self.owner(client),
            clean_start,
            expiry,
            receive_max: 1 + self.random.below(8) as u16,
            principal: text(""),
            will: None,
        };
        let at = place(client);
        let before = self.pair.groups[at].machine.session_by_client(&client.to_string());
        let ends = before.is_some_and(|info| clean_start || !info.durable);
        if ends {
            self.closed(client, true);
        }
        let effects = self.pair.groups[at].one(command);
        let Some(held) = held(&effects) else { panic!("{effects:?}") };
        if !held.session_present {
            self.clients[client].durable = durable;
        }
        self.clients[client].held = Some(held);
        self.take_in(at, &effects);
        let [Reply::Connected { version, .. }] = replies(&effects)[..] else { panic!() };
        for share in self.clients[client].subscribed.clone() {
            self.send_join(client, held, share, version);
        }
    }

    fn send_join(&mut self, client: usize, held: Held, share: usize, version: ShareVersion) {
        let wanted = self.wanted(client, share);
        assert_ne!(version, ShareVersion(0));
        assert_eq!(partition_of_share(&wanted.filter, 2), GROUPS[share]);
        let window = 1 + self.random.below(5) as u16;
        self.joins.push((share, join(place(client), held, &wanted, version, window)));
    }

    fn subscribe(&mut self, client: usize, share: usize) {
        let Some(held) = self.clients[client].held else { return };
        let filters = vec![self.wanted(client, share)];
        self.clients[client].subscribed.insert(share);
        let command = Command::Subscribe { session: held.session, epoch: held.epoch, filters };
        let effects = self.run(place(client), command);
        let [Reply::Subscribed(results)] = &replies(&effects)[..] else { panic!("{effects:?}") };
        self.send_join(client, held, share, results[0].version);
    }

    fn unsubscribe(&mut self, client: usize, share: usize) {
        let Some(held) = self.clients[client].held.filter(|_| client >= KEEPERS) else { return };
        let filters = vec![self.wanted(client, share).filter];
        self.clients[client].subscribed.remove(&share);
        self.run(place(client), Command::Unsubscribe { session: held.session, epoch: held.epoch, filters });
    }

    fn close(&mut self, client: usize) {
        let Some(held) = self.clients[client].held else { return };
        let durable = self.pair.groups[place(client)].machine.session(held.session).unwrap().expiry;
        self.closed(client, durable == SessionExpiry::AtClose);
        let at = place(client);
        if self.random.chance(50) {
            let (session, epoch) = (held.session, held.epoch);
            self.run(at, Command::Disconnect { session, epoch, expiry: None, normal: true });
            return;
        }
        let incarnation = Incarnation(self.clients[client].incarnation);
        let down = Command::NodeDown { node: NodeId(10 + client as u64), incarnation };
        let effects = self.pair.groups[at].run_from(StreamId::Group(CONTROL), &[down]);
        self.take_in(at, &effects);
        self.clients[client].incarnation += 1;
    }

    /// The client acknowledges something, at any place in what it has open.
    fn acknowledge(&mut self, client: usize) {
        let Some(held) = self.clients[client].held else { return };
        let state = &mut self.clients[client];
        if state.open.is_empty() {
            return;
        }
        let place_of = if self.random.chance(80) { 0 } else { self.random.below(state.open.len() as u64) };
        let open = &mut state.open[place_of as usize];
        let (session, epoch, packet_ids) = (held.session, held.epoch, vec![id(open.packet_id)]);
        let command = if open.qos == QoS::ExactlyOnce && !open.received {
            open.received = true;
            *self.consumed.entry(open.key).or_default() += 1;
            Command::Receive { session, epoch, packet_ids }
        } else {
            if open.qos != QoS::ExactlyOnce {
                *self.consumed.entry(open.key).or_default() += 1;
            }
            state.open.remove(place_of as usize);
            Command::Acknowledge { session, epoch, packet_ids }
        };
        self.run(place(client), command);
    }

    fn publish(&mut self) {
        let number = self.published;
        self.published += 1;
        let qos = if self.random.chance(50) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let message = Message { qos, ..message("t/1", &number.to_string()) };
        for at in [0, 1] {
            let message = message.clone();
            self.run(at, Command::Publish { message, store_retained: false, fan_out: true });
        }
    }

    fn pump(&mut self, max: usize) {
        let (from, to) = (self.random.below(2) as usize, self.random.below(2) as usize);
        let effects = self.pair.pump(from, to, max);
        assert_eq!(drops_other_than_ended(&effects), []);
        self.take_in(to, &effects);
        self.pair.checks = self.random.chance(40);
        if self.random.chance(50) {
            self.pair.confirm(from, to);
        }
    }

    fn apply_join(&mut self) {
        if self.joins.is_empty() {
            return;
        }
        let (home, command) = self.joins.swap_remove(self.random.below(self.joins.len() as u64) as usize);
        let effects = self.run(home, command);
        assert!(matches!(replies(&effects)[..], [Reply::ShareJoined { .. }]));
    }

    /// Goes on with what a checkpoint has.
    fn restart(&mut self, at: usize) {
        let group = &mut self.pair.groups[at];
        write_changes(&mut self.stores[at], group.machine.changes());
        let index = group.machine.applied();
        let config = group.machine.config().clone();
        let restored = Partition::restore(config.clone(), index, read_records(&self.stores[at])).unwrap();
        assert_eq!(restored.hash(), group.machine.hash());
        let whole: Store = group.machine.records().collect();
        let keys: Vec<Vec<u8>> = group.machine.records().map(|(key, _)| key).collect();
        assert!(keys.is_sorted_by(|left, right| left < right), "records come in key order");
        let copy = Partition::restore(config, index, read_records(&whole)).unwrap();
        assert_eq!(copy.hash(), group.machine.hash());
        let stale = self.stores[at].keys().filter(|key| !whole.contains_key(*key)).count();
        assert_eq!(stale, 0, "the checkpoint has nothing that is not there any more");
        restored.check();
        group.machine = restored;
    }

    fn step(&mut self) {
        let client = self.random.below(CLIENTS as u64) as usize;
        let share = self.random.below(2) as usize;
        match self.random.below(100) {
            0..25 => self.publish(),
            25..50 => self.acknowledge(client),
            50..80 => {
                let max = 1 + self.random.below(8) as usize;
                self.pump(max);
            }
            80..87 => self.apply_join(),
            87..90 => self.close(client),
            90..93 => self.connect(client),
            93..96 => self.subscribe(client, share),
            96 | 97 => self.unsubscribe(client, share),
            _ => self.restart(share),
        }
    }

    /// Everybody comes back and acknowledges everything.
    fn finish(&mut self) {
        for client in 0..CLIENTS {
            if self.clients[client].held.is_none() {
                self.connect(client);
            }
        }
        self.pair.checks = false;
        for _ in 0..10_000 {
            let before: Vec<_> = self.pair.groups.iter().map(|group| group.machine.applied()).collect();
            (0..CLIENTS).for_each(|client| self.acknowledge(client));
            self.apply_join();
            for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let effects = self.pair.pump(from, to, usize::MAX);
                self.take_in(to, &effects);
                if !effects.is_empty() {
                    self.pair.confirm(from, to);
                }
            }
            if before == self.pair.groups.iter().map(|group| group.machine.applied()).collect::<Vec<_>>() {
                return;
            }
        }
        panic!("it never ends");
    }
}

fn drops_other_than_ended(effects: &[Effect]) -> Vec<(DropReason, u64)> {
    drops(effects).into_iter().filter(|(reason, _)| *reason != DropReason::SessionEnded).collect()
}

fn run(seed: u64) -> (u64, u64) {
    let mut world = World::new(seed);
    for client in 0..KEEPERS {
        world.connect(client);
        (0..2).for_each(|share| world.subscribe(client, share));
    }
    while !world.joins.is_empty() {
        world.apply_join();
    }
    (0..1_500).for_each(|_| world.step());
    world.finish();
    for number in 0..world.published {
        for share in [0, 1] {
            let key = (number, share);
            let times = world.consumed.get(&key).copied().unwrap_or(0);
            let lost = times == 0 && !world.discarded.contains(&key);
            assert!(!lost, "seed {seed}: {key:?} was lost");
        }
    }
    for at in [0, 1] {
        [0, 1].into_iter().for_each(|to| world.pair.confirm(at, to));
        let group = &world.pair.groups[at].machine;
        group.check();
        assert_eq!(group.live_from(LogIndex(0)), None, "seed {seed}: nothing is needed any more");
        for share in group.shares(None, 9) {
            assert_eq!(share.waiting, 0, "seed {seed}");
            let idle = share.members.iter().all(|member| member.online && member.dispatched == 0);
            assert!(idle, "seed {seed}: {share:?}");
        }
    }
    (world.published, world.repeats.values().sum())
}

#[test]
fn messages_of_share_groups_are_neither_lost_nor_repeated_without_cause() {
    let (mut published, mut repeats) = (0, 0);
    for seed in 0..14 {
        let (more, again) = run(seed);
        published += more;
        repeats += again;
    }
    assert!(published > 2_000 && repeats > 100, "{published} {repeats}: the worlds were lively");
}
