//! SUBACK is a barrier for the whole cluster (D10).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use quorate_tests::Cluster;
use quorate_tests::raw::{Connect, Packet, Raw};

use crate::Choice;

/// Threads with connections of their own.
const WORKERS: usize = 16;

/// Rounds of one worker; 50,000 in all.
const ROUNDS: usize = 3125;

/// A message that has not come by then is missed.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);

/// The connections of one worker: one of each kind on each node.
struct Worker {
    name: String,
    ports: Vec<u16>,
    durable: Vec<Raw>,
    transient: Vec<Raw>,
    publishers: Vec<Raw>,
    choice: Choice,
    longest: Duration,
}

impl Worker {
    fn new(index: usize, ports: Vec<u16>) -> Worker {
        let name = format!("barrier-{index}");
        let connect = |connect: Connect, port: &u16| Raw::connect(*port, &connect).unwrap().0;
        let each = |kind: &str, make: fn(&str) -> Connect| -> Vec<Raw> {
            let client_id = |node: usize| format!("{name}-{kind}-{node}");
            ports.iter().enumerate().map(|(node, port)| connect(make(&client_id(node)), port)).collect()
        };
        Worker {
            durable: each("durable", Connect::durable),
            transient: each("transient", Connect::transient),
            publishers: each("pub", Connect::transient),
            choice: Choice(index as u64 + 1),
            longest: Duration::ZERO,
            name,
            ports,
        }
    }

    /// One round; gives whether the message arrived.
    fn round(&mut self, round: usize) -> bool {
        let nodes = self.ports.len();
        let (subscriber, publisher) = (self.choice.below(nodes), self.choice.below(nodes));
        let (durable, qos1) = (self.choice.below(2) == 0, self.choice.below(2) == 0);
        match self.choice.below(20) {
            // A session moves to another node, which must not lose it the barrier.
            0 => self.move_session(subscriber),
            // A new session, so that its first CONNECT and SUBSCRIBE are in the race.
            1 => {
                let client_id = format!("{}-new-{round}", self.name);
                let connect =
                    if durable { Connect::durable(&client_id) } else { Connect::transient(&client_id) };
                let connection = Raw::connect(self.ports[subscriber], &connect).unwrap().0;
                let kind = if durable { &mut self.durable } else { &mut self.transient };
                kind[subscriber] = connection;
            }
            _ => {}
        }
        let topic = format!("{}/{round}", self.name);
        let filter =
            if self.choice.below(4) == 0 { format!("{}/{round}/#", self.name) } else { topic.clone() };
        let kind = if durable { &mut self.durable } else { &mut self.transient };
        kind[subscriber].subscribe(&filter).unwrap();
        // The barrier: SUBACK is here, now the publish begins.
        let begun = Instant::now();
        if qos1 {
            self.publishers[publisher].publish_acked(&topic, topic.as_bytes(), false).unwrap();
        } else {
            self.publishers[publisher].publish(&topic, topic.as_bytes(), false, None).unwrap();
        }
        let arrived = arrives(&mut kind[subscriber], &topic);
        self.longest = self.longest.max(begun.elapsed());
        if !arrived {
            eprintln!(
                "missed: {topic} by {filter}, durable {durable}, QoS 1 {qos1}, from n{} to n{}",
                publisher + 1,
                subscriber + 1
            );
        } else if self.choice.below(2) == 0 {
            kind[subscriber].unsubscribe(&filter).unwrap();
        }
        arrived
    }

    fn move_session(&mut self, which: usize) {
        let client_id = format!("{}-durable-{which}", self.name);
        let port = self.ports[self.choice.below(self.ports.len())];
        let (connection, present) = Raw::connect(port, &Connect::durable(&client_id)).unwrap();
        assert!(present, "Session Present of {client_id}");
        self.durable[which] = connection;
    }
}

/// Whether the message of a topic comes. A repetition of an earlier one may come after a move.
fn arrives(subscriber: &mut Raw, topic: &str) -> bool {
    let end = Instant::now() + ARRIVAL_MAX;
    loop {
        match subscriber.read_within(end.saturating_duration_since(Instant::now())).unwrap() {
            Some(Some(Packet::Publish(publish))) => {
                if let Some(packet_id) = publish.packet_id {
                    subscriber.puback(packet_id).unwrap();
                }
                if publish.topic == topic {
                    return true;
                }
                assert!(publish.dup, "{} came although {topic} was due", publish.topic);
            }
            None => return false,
            Some(other) => panic!("PUBLISH on {topic} expected, got {other:?}"),
        }
    }
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn publish_after_suback_arrives() {
    let cluster = Cluster::start("barrier", 3).unwrap();
    let start = Instant::now();
    let missed = AtomicU32::new(0);
    let longest = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|index| {
                let (ports, missed) = (cluster.ports_from(0), &missed);
                scope.spawn(move || {
                    let mut worker = Worker::new(index, ports);
                    for round in 0..ROUNDS {
                        if !worker.round(round) {
                            missed.fetch_add(1, Ordering::Relaxed);
                            // What comes late must not disturb later rounds.
                            worker = Worker {
                                choice: Choice(worker.choice.0),
                                ..Worker::new(index, worker.ports)
                            };
                        }
                    }
                    worker.longest
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).max().unwrap()
    });
    let missed = missed.into_inner();
    println!(
        "publish_after_suback_arrives: {} rounds in {} s, {missed} missed, longest publish to arrival {} ms",
        WORKERS * ROUNDS,
        start.elapsed().as_secs(),
        longest.as_millis()
    );
    assert_eq!(missed, 0);
    cluster.check_log().unwrap();
}
