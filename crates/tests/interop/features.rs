//! What every client does with the cluster, and what must be seen then.
//!
//! Owns: the steps and the judgement of each feature, the same for all clients. Does not: start the cluster.
//! Invariants: what must not arrive is judged after something sent later has arrived.
//! See: docs/interop.md.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use quorate_tests::line::Line;
use quorate_tests::{Cluster, wait_for};

use crate::driver::{Driver, Program};

/// Messages of each direction.
const MESSAGES: usize = 10;
/// Seconds that a session outlives its connection, and longer than any feature takes.
const EXPIRY_SECONDS: u32 = 300;
/// Seconds of a delayed will: time enough to connect again on a busy machine.
const WILL_DELAY_SECONDS: u32 = 4;
/// A payload that takes several reads and, on WebSocket, a frame with a long length.
const LARGE_BYTES: usize = 100_000;

/// A column of the table.
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// What a client must be able to do, in words of `hello`.
    pub needs: &'static [&'static str],
    run: fn(&mut Run) -> Result<()>,
}

/// All columns, in order.
pub const FEATURES: [Feature; 11] = [
    Feature::new("qos0", |run| exchange(run, 0, "tcp")),
    Feature::new("qos1", |run| exchange(run, 1, "tcp")),
    Feature::new("qos2", |run| exchange(run, 2, "tcp")),
    Feature::new("retained", retained),
    Feature::new("will", will),
    Feature::new("will-delay", will_delay).needing(&["5"]),
    Feature::new("resume-qos1", |run| resume(run, 1)),
    Feature::new("resume-qos2", |run| resume(run, 2)),
    Feature::new("shared", shared),
    Feature::new("websocket", |run| exchange(run, 1, "websocket")).needing(&["websocket"]),
    Feature::new("properties", properties).needing(&["5"]),
];

impl Feature {
    const fn new(name: &'static str, run: fn(&mut Run) -> Result<()>) -> Feature {
        Feature { name, needs: &[], run }
    }

    const fn needing(mut self, needs: &'static [&'static str]) -> Feature {
        self.needs = needs;
        self
    }

    /// Runs the feature.
    ///
    /// # Errors
    /// With what was expected and what came instead.
    pub fn run(&self, run: &mut Run) -> Result<()> {
        (self.run)(run)
    }
}

/// One client in one version of MQTT on the cluster.
pub struct Run<'a> {
    /// The client.
    pub program: &'a Program,
    /// `3.1.1` or `5`.
    pub version: &'a str,
    /// Begins all topics and client identifiers, so that no two runs meet.
    pub prefix: String,
    /// Where it runs.
    pub cluster: &'a mut Cluster,
    /// Places of the nodes that were killed.
    pub killed: BTreeSet<usize>,
}

impl Run<'_> {
    fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// A connect request to the node at a place. Further fields follow.
    fn connect(&self, id: &str, place: usize) -> Line {
        let tcp = self.cluster.node(place).mqtt_port;
        Line::new("connect")
            .with("host", "127.0.0.1")
            .with("port", tcp)
            .with("transport", "tcp")
            .with("version", self.version)
            .with("id", format!("{}-{id}", self.prefix))
    }

    fn transient(&self, id: &str, place: usize) -> Line {
        self.connect(id, place).with("clean", 1).with("expiry", 0)
    }

    fn durable(&self, id: &str, place: usize) -> Line {
        self.connect(id, place).with("clean", 0).with("expiry", EXPIRY_SECONDS)
    }

    /// A driver that has not connected.
    fn driver(&self, role: &str) -> Result<Driver> {
        Driver::start(self.program, role)
    }

    fn connected(&self, role: &str, request: &Line) -> Result<Driver> {
        let mut driver = self.driver(role)?;
        driver.ask(request, "connected")?;
        Ok(driver)
    }

    fn publisher(&self, place: usize) -> Result<Driver> {
        self.connected("publisher", &self.transient("publisher", place))
    }

    fn kill(&mut self, place: usize) -> Result<()> {
        self.killed.insert(place);
        self.cluster.kill(place)
    }

    /// Starts the killed nodes again and waits until every node is ready.
    ///
    /// # Errors
    /// When one does not start or become ready.
    pub fn restore(&mut self) -> Result<()> {
        for place in std::mem::take(&mut self.killed) {
            self.cluster.restart(place)?;
        }
        (0..self.cluster.nodes.len()).try_for_each(|place| self.cluster.wait_ready(place))
    }
}

/// Subscribes and requires the QoS that was asked for [MQTT-3.8.4-7].
fn subscribe(driver: &mut Driver, filter: &str, qos: u8) -> Result<()> {
    subscribe_by(driver, filter, qos, Line::new("subscribe"))
}

fn subscribe_by(driver: &mut Driver, filter: &str, qos: u8, request: Line) -> Result<()> {
    let request = request.with("filter", filter).with("qos", qos);
    let reason: u8 = driver.ask(&request, "subscribed")?.require("reason")?.parse()?;
    ensure!(reason == qos, "SUBACK for {filter} with QoS {qos} has reason {reason:#04x}");
    Ok(())
}

fn publication(topic: &str, payload: &str, qos: u8) -> Line {
    Line::new("publish").with("topic", topic).with("payload", payload).with("qos", qos)
}

fn publish(driver: &mut Driver, topic: &str, payload: &str, qos: u8) -> Result<()> {
    driver.ask(&publication(topic, payload, qos).with("retain", 0), "published")?;
    Ok(())
}

fn publish_retained(driver: &mut Driver, topic: &str, payload: &str) -> Result<()> {
    driver.ask(&publication(topic, payload, 1).with("retain", 1), "published")?;
    Ok(())
}

fn payloads(messages: &[Line]) -> Vec<&str> {
    messages.iter().map(|message| message.field("payload").unwrap_or("")).collect()
}

fn on<'a>(messages: &'a [Line], topic: &str) -> Vec<&'a Line> {
    messages.iter().filter(|message| message.field("topic") == Some(topic)).collect()
}

/// Two clients on two nodes send each other messages; all arrive once, in order, with their QoS.
fn exchange(run: &mut Run, qos: u8, transport: &str) -> Result<()> {
    let mut first_connect = run.transient("first", 0);
    if transport == "websocket" {
        // Where `quorate dev` puts it.
        let port = run.cluster.node(0).mqtt_port + 1000;
        first_connect = Line::new("connect").with("port", port).with("transport", transport);
        for key in ["host", "version", "id", "clean", "expiry"] {
            first_connect = first_connect.with(key, run.transient("first", 0).require(key)?);
        }
    }
    let mut first = run.connected("first client", &first_connect)?;
    let mut second = run.connected("second client", &run.transient("second", 1))?;
    let (to_first, to_second) = (run.topic("to-first"), run.topic("to-second"));
    subscribe(&mut first, &to_first, qos)?;
    subscribe(&mut second, &to_second, qos)?;
    let mut sent: Vec<String> = (1..=MESSAGES).map(|number| format!("{number} ünïcödé")).collect();
    if transport == "websocket" {
        sent.push("x".repeat(LARGE_BYTES));
    }
    for payload in &sent {
        publish(&mut second, &to_first, payload, qos)?;
        publish(&mut first, &to_second, payload, qos)?;
    }
    for (driver, topic) in [(&mut first, &to_first), (&mut second, &to_second)] {
        driver.wait_messages("all messages", |messages| messages.len() >= sent.len())?;
        ensure!(payloads(driver.messages()) == sent, "arrived: {}", shown(driver.messages()));
        for message in driver.messages() {
            ensure!(message.require("topic")? == topic, "another topic: {message}");
            ensure!(message.require("qos")? == qos.to_string(), "another QoS than {qos}: {message}");
        }
    }
    Ok(())
}

fn shown(messages: &[Line]) -> String {
    let short = |line: &Line| line.to_string().chars().take(120).collect::<String>();
    messages.iter().map(short).collect::<Vec<_>>().join("; ")
}

/// Set on one node, read on the second with RETAIN set [MQTT-3.3.1-6], deleted, gone on the third [MQTT-3.3.1-7].
fn retained(run: &mut Run) -> Result<()> {
    let topic = run.topic("retained");
    let mut publisher = run.publisher(0)?;
    publish_retained(&mut publisher, &topic, "kept")?;
    let mut reader = run.connected("reader", &run.transient("reader", 1))?;
    subscribe(&mut reader, &topic, 1)?;
    reader.wait_messages("the retained message", |messages| !messages.is_empty())?;
    let message = reader.messages().first().context("a message arrived")?;
    ensure!(message.require("payload")? == "kept", "another payload: {message}");
    ensure!(message.require("retain")? == "1", "without RETAIN: {message}");

    publish_retained(&mut publisher, &topic, "")?;
    let mut late = run.connected("late reader", &run.transient("late", 2))?;
    subscribe(&mut late, &topic, 1)?;
    publish(&mut publisher, &topic, "after", 1)?;
    late.wait_messages("a message after the deletion", |messages| !messages.is_empty())?;
    let message = late.messages().first().context("a message arrived")?;
    ensure!(message.require("payload")? == "after", "the deleted message is still there: {message}");
    ensure!(message.require("retain")? == "0", "a new message with RETAIN: {message}");
    Ok(())
}

/// A client whose connection is cut has its will published [MQTT-3.1.2-8]; one that disconnects has not
/// [MQTT-3.1.2-10].
fn will(run: &mut Run) -> Result<()> {
    let (cut, clean) = (run.topic("will/cut"), run.topic("will/clean"));
    let mut watcher = run.connected("watcher", &run.transient("watcher", 1))?;
    subscribe(&mut watcher, &run.topic("will/#"), 1)?;
    let mut leaving = with_will(run, "leaving", run.transient("leaving", 0), &clean)?;
    leaving.ask(&Line::new("disconnect"), "disconnected")?;
    with_will(run, "to be cut", run.transient("cut", 0), &cut)?.cut()?;
    watcher.wait_messages("the will", |messages| !on(messages, &cut).is_empty())?;
    let messages = watcher.messages();
    ensure!(payloads(messages) == ["gone"], "one will expected: {}", shown(messages));
    Ok(())
}

/// Connects a client with a will. It subscribes too: some clients connect only then.
fn with_will(run: &Run, role: &str, connect: Line, topic: &str) -> Result<Driver> {
    let connect = connect.with("will_topic", topic).with("will_payload", "gone").with("will_qos", 1);
    let mut driver = run.connected(role, &connect)?;
    subscribe(&mut driver, &run.topic("unused"), 1)?;
    Ok(driver)
}

/// A delayed will waits [MQTT-3.1.3-9], and is never published when the client comes back before.
fn will_delay(run: &mut Run) -> Result<()> {
    let (back, gone, fence) = (run.topic("will/back"), run.topic("will/gone"), run.topic("will/fence"));
    let mut watcher = run.connected("watcher", &run.transient("watcher", 1))?;
    subscribe(&mut watcher, &run.topic("will/#"), 1)?;
    let delayed = |line: Line| line.with("will_delay", WILL_DELAY_SECONDS);
    let mut again = run.driver("coming back")?;
    let comes_back = with_will(run, "comes back", delayed(run.durable("back", 0)), &back)?;
    let stays_away = with_will(run, "stays away", delayed(run.durable("gone", 0)), &gone)?;
    comes_back.cut()?;
    again.ask(&run.durable("back", 2), "connected")?;
    subscribe(&mut again, &run.topic("unused"), 1)?;
    // Later than the other one: when this will has come, the other one would have come too.
    stays_away.cut()?;
    publish(&mut watcher, &fence, "fence", 1)?;
    watcher.wait_messages("the will", |messages| !on(messages, &gone).is_empty())?;
    let topics: Vec<_> = watcher.messages().iter().filter_map(|message| message.field("topic")).collect();
    ensure!(topics == [&fence, &gone], "expected the fence, then the will of who stays away: {topics:?}");
    Ok(())
}

/// The node of a durable session is killed; the client finds the session, with its queue, on another node.
fn resume(run: &mut Run, qos: u8) -> Result<()> {
    let topic = run.topic("queued");
    let mut subscriber = run.connected("subscriber", &run.durable("subscriber", 0))?;
    subscribe(&mut subscriber, &topic, qos)?;
    let mut publisher = run.publisher(1)?;
    let mut sent: Vec<String> = Vec::new();
    // A client that forgets what it has received cannot tell a repetition of what it did not acknowledge in time.
    if subscriber.can("keeps-state") {
        for number in 1..=MESSAGES {
            sent.push(number.to_string());
            publish(&mut publisher, &topic, &number.to_string(), qos)?;
        }
        subscriber.wait_messages("messages before the kill", |messages| messages.len() >= MESSAGES)?;
    }
    run.kill(0)?;
    for number in MESSAGES + 1..=2 * MESSAGES {
        sent.push(number.to_string());
        publish(&mut publisher, &topic, &number.to_string(), qos)?;
    }
    let again = run.durable("subscriber", 2);
    // Refused as long as the takeover from the dead node is not decided.
    let mut last = None;
    let connected = wait_for("the session to be taken over", || match subscriber.ask(&again, "connected") {
        Ok(connected) => Some(connected),
        Err(error) => {
            last = Some(error);
            None
        }
    });
    let connected = connected
        .with_context(|| last.map_or_else(String::new, |error| format!("the last refusal was: {error:#}")))?;
    let present = connected.require("present")?;
    ensure!(present == "1" || present == "unknown", "Session Present is {present}");
    let all: BTreeSet<&str> = sent.iter().map(String::as_str).collect();
    let arrived_all =
        |messages: &[Line]| all.is_subset(&payloads(messages).into_iter().collect::<BTreeSet<_>>());
    subscriber.wait_messages("the queued messages", arrived_all)?;
    // A repetition would come before what is published now.
    publish(&mut publisher, &topic, "end", qos)?;
    subscriber.wait_messages("the last message", |messages| payloads(messages).contains(&"end"))?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    payloads(subscriber.messages()).into_iter().for_each(|payload| *counts.entry(payload).or_default() += 1);
    ensure!(qos < 2 || counts.values().all(|count| *count == 1), "QoS 2 twice: {counts:?}");
    Ok(())
}

/// Each message goes to exactly one of two members on two nodes [MQTT-4.8.2-4].
fn shared(run: &mut Run) -> Result<()> {
    let (topic, fence) = (run.topic("shared"), run.topic("fence"));
    let mut members = Vec::new();
    for (place, name) in [(0, "member-1"), (1, "member-2")] {
        let mut member = run.connected(name, &run.transient(name, place))?;
        subscribe(&mut member, &format!("$share/{}/{topic}", run.prefix), 1)?;
        subscribe(&mut member, &fence, 1)?;
        members.push(member);
    }
    let mut publisher = run.publisher(2)?;
    let sent: Vec<String> = (1..=2 * MESSAGES).map(|number| number.to_string()).collect();
    for payload in &sent {
        publish(&mut publisher, &topic, payload, 1)?;
    }
    publish(&mut publisher, &fence, "fence", 1)?;
    let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
    for member in &mut members {
        member.wait_messages("the fence", |messages| !on(messages, &fence).is_empty())?;
    }
    // The fence may overtake: it comes by another subscription.
    let missing = |members: &[Driver]| {
        sent.len().saturating_sub(members.iter().map(|member| on(member.messages(), &topic).len()).sum())
    };
    while missing(&members) > 0 {
        let counts: Vec<usize> = members.iter().map(|member| member.messages().len()).collect();
        let mut came = Ok(());
        for (member, count) in members.iter_mut().zip(counts) {
            came = member.wait_messages("a shared message", |messages| messages.len() > count);
            if came.is_ok() {
                break;
            }
        }
        came?;
    }
    for member in &members {
        for message in on(member.messages(), &topic) {
            *arrived.entry(message.require("payload")?.to_owned()).or_default() += 1;
        }
    }
    ensure!(arrived.len() == sent.len(), "{} of {} arrived: {arrived:?}", arrived.len(), sent.len());
    ensure!(arrived.values().all(|count| *count == 1), "some arrived twice: {arrived:?}");
    Ok(())
}

/// What a publisher says in properties arrives unchanged: user properties in order [MQTT-3.3.2-18], and the
/// subscription identifier [MQTT-3.3.4-3].
fn properties(run: &mut Run) -> Result<()> {
    let topic = run.topic("properties");
    let mut subscriber = run.connected("subscriber", &run.durable("subscriber", 0))?;
    subscribe_by(&mut subscriber, &topic, 1, Line::new("subscribe").with("identifier", 77))?;
    let mut publisher = run.publisher(1)?;
    // A program takes text only.
    let correlation = if publisher.can("binary") { "0001feff" } else { "6f72646572" };
    let sent = publication(&topic, "with properties", 1)
        .with("retain", 0)
        .with("user", "b:first")
        .with("user", "a:ünïcödé")
        .with("user", "b:third")
        .with("content_type", "text/plain; charset=utf-8")
        .with("response_topic", run.topic("response"))
        .with("correlation", correlation)
        .with("expiry", 60);
    publisher.ask(&sent, "published")?;
    subscriber.wait_messages("the message", |messages| !messages.is_empty())?;
    let message = subscriber.messages().first().context("a message arrived")?;
    let mut users: Vec<&str> = sent.all("user").collect();
    if subscriber.can("groups-user-properties") {
        // Both ways: it keeps the order of keys as they first come, and of the values of each.
        users = vec!["b:first", "b:third", "a:ünïcödé"];
    }
    ensure!(message.all("user").eq(users), "user properties: {message}");
    for key in ["payload", "content_type", "response_topic", "correlation"] {
        ensure!(sent.field(key) == message.field(key), "{key}: {message}");
    }
    let left: u32 = message.require("expiry")?.parse()?;
    ensure!((1..=60).contains(&left), "message expiry interval: {message}");
    ensure!(message.all("identifier").eq(["77"]), "subscription identifiers: {message}");
    Ok(())
}
