//! NATS with MQTT on JetStream, three servers with three replicas of each stream, to be measured side by side.
//!
//! Owns: configuration and processes of its servers, the few words of its own protocol and of its monitoring that the faults need.
//! Does not: install it: `NATS_SERVER_BIN` names the program, or it is found in the path.
//! Invariants: when a round begins, the servers say themselves how they sync and how many replicas there are.
//! Limits: one account without a password, on loopback; every wait has a deadline.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::{http, wait_at_most};
use serde_json::Value;

use super::broker::Broker;
use crate::cluster::NODES;
use crate::machine::{self, process_state};
use crate::volume::{self, Volume};

/// The stream that holds messages of QoS 1: a PUBACK follows its acknowledgement. There is one, whoever subscribes.
const STREAM: &str = "$MQTT_msgs";

/// Subscribers, as many as the partitions of the other broker have: both get the same load.
const SUBSCRIBERS: usize = 4;

/// Servers have found each other, or have caught up, within so long.
const WHOLE_MAX: Duration = Duration::from_secs(120);

/// A killed server is gone, or leadership has moved, within so long.
const DONE_MAX: Duration = Duration::from_secs(20);

/// When a server writes its streams to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Before it acknowledges.
    Always,
    /// Every two minutes, which is its default.
    Default,
}

/// The broker.
pub struct Nats {
    servers: Vec<Server>,
    program: PathBuf,
    dir: PathBuf,
}

struct Server {
    name: String,
    listen: SocketAddr,
    monitor: SocketAddr,
    route: SocketAddr,
    mqtt: SocketAddr,
    process: Option<Child>,
    volume: Option<Volume>,
}

/// The program, and what it says it is.
///
/// # Errors
/// When there is none that runs.
pub fn program() -> Result<(PathBuf, String)> {
    let named = std::env::var_os("NATS_SERVER_BIN").unwrap_or_else(|| "nats-server".into());
    let version = machine::run(&named.to_string_lossy(), &["--version"])?;
    Ok((named.into(), version.trim().replace("nats-server: v", "nats-server ")))
}

impl Nats {
    /// Starts three servers and waits until they are a cluster. `port` is the first of twelve.
    ///
    /// # Errors
    /// When they do not become one.
    pub fn found(dir: &Path, port: u16, sync: Sync) -> Result<Nats> {
        let mut nats = Nats { servers: Vec::new(), program: program()?.0, dir: dir.to_owned() };
        for place in 0..NODES {
            let first = port + 4 * u16::try_from(place)?;
            let address = |at: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, first + at));
            let name = format!("n{}", place + 1);
            let data = dir.join(&name);
            let volume = match volume::why_none() {
                None => Some(Volume::mount(&data)?),
                Some(_) => None,
            };
            let [mqtt, monitor, route, listen] = [address(0), address(1), address(2), address(3)];
            nats.servers.push(Server { name, listen, monitor, route, mqtt, process: None, volume });
        }
        for server in &nats.servers {
            let file = dir.join(format!("{}.conf", server.name));
            std::fs::write(&file, nats.config_text(server, sync))
                .with_context(|| format!("write {}", file.display()))?;
        }
        (0..NODES).try_for_each(|place| nats.start(place))?;
        wait_at_most(WHOLE_MAX, "NATS servers to be a cluster", || {
            nats.servers.iter().all(Server::is_healthy).then_some(())
        })?;
        nats.check_sync(sync)?;
        Ok(nats)
    }

    fn config_text(&self, server: &Server, sync: Sync) -> String {
        let Server { name, listen, monitor, route, mqtt, .. } = server;
        let routes: Vec<String> =
            self.servers.iter().map(|server| format!("\"nats://{}\"", server.route)).collect();
        let store = self.dir.join(name).join("store");
        let sync = match sync {
            Sync::Always => ", sync_interval: always",
            Sync::Default => "",
        };
        format!(
            "server_name: {name}\nlisten: \"{listen}\"\nhttp: \"{monitor}\"\n\
             jetstream {{ store_dir: \"{}\"{sync} }}\n\
             cluster {{ name: gaps, listen: \"{route}\", routes: [{}] }}\n\
             mqtt {{ listen: \"{mqtt}\", stream_replicas: 3, consumer_replicas: 3 }}\n",
            store.display(),
            routes.join(", ")
        )
    }

    /// A configuration that a server understands otherwise would make the comparison worthless.
    fn check_sync(&self, sync: Sync) -> Result<()> {
        for server in &self.servers {
            let always = server.jetstream()?.pointer("/config/sync_always").and_then(Value::as_bool);
            ensure!(
                always.unwrap_or(false) == (sync == Sync::Always),
                "{} says of sync_always: {always:?}",
                server.name
            );
        }
        Ok(())
    }

    fn server(&self, place: usize) -> Result<&Server> {
        self.servers.get(place).with_context(|| format!("there is no server {}", place + 1))
    }

    fn place(&self, name: &str) -> Result<usize> {
        let place = self.servers.iter().position(|server| server.name == name);
        place.with_context(|| format!("{name} is no server of the run"))
    }

    /// The server that leads the stream, as all servers say.
    fn leader(&self) -> Result<usize> {
        let mut leaders = Vec::new();
        for server in &self.servers {
            leaders.push(stream_leader(&server.jetstream()?)?);
        }
        leaders.dedup();
        match leaders.as_slice() {
            [one] => self.place(one),
            _ => bail!("the servers say that {leaders:?} lead {STREAM}"),
        }
    }

    /// What keeps the cluster from being whole.
    fn broken(&self) -> Result<()> {
        for server in &self.servers {
            ensure!(server.is_healthy(), "{} is not healthy", server.name);
        }
        let leader = self.leader()?;
        let replicas = current_replicas(&self.server(leader)?.jetstream()?)?;
        ensure!(replicas == NODES - 1, "{replicas} followers of {STREAM} have caught up");
        Ok(())
    }
}

impl Server {
    fn is_healthy(&self) -> bool {
        http::request(&self.monitor.to_string(), "GET /healthz", &[], "")
            .is_ok_and(|answer| answer.status == 200)
    }

    fn jetstream(&self) -> Result<Value> {
        http::request(&self.monitor.to_string(), "GET /jsz?acc=$G&streams=true", &[], "")?.json()
    }

    /// Asks the server for something, in its own protocol; gives the answer.
    fn ask(&self, subject: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(self.listen)?;
        stream.set_read_timeout(Some(DONE_MAX))?;
        let hello = r#"CONNECT {"verbose":false,"pedantic":false}"#;
        write!(stream, "{hello}\r\nSUB answer 1\r\nPUB {subject} answer 0\r\n\r\n")?;
        let answer = answer(&mut BufReader::new(stream)).with_context(|| format!("ask for {subject}"))?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// The payload of the first message that comes.
fn answer(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the server closed the connection");
        let mut words = line.split_whitespace();
        match words.next() {
            Some("MSG") => {
                let bytes: usize = words.next_back().context("the length of a message")?.parse()?;
                let mut payload = vec![0; bytes];
                reader.read_exact(&mut payload)?;
                return Ok(payload);
            }
            Some("-ERR") => bail!("{}", line.trim()),
            _ => {}
        }
    }
}

/// The stream among the figures of a server.
fn stream(jetstream: &Value) -> Result<&Value> {
    let streams = jetstream.pointer("/account_details/0/stream_detail").and_then(Value::as_array);
    let named = |stream: &&Value| stream.get("name").and_then(Value::as_str) == Some(STREAM);
    streams.into_iter().flatten().find(named).with_context(|| format!("no stream {STREAM} yet"))
}

fn stream_leader(jetstream: &Value) -> Result<String> {
    let leader = stream(jetstream)?.pointer("/cluster/leader").and_then(Value::as_str);
    Ok(leader.filter(|name| !name.is_empty()).with_context(|| format!("no leader of {STREAM}"))?.to_owned())
}

/// Followers of the stream that have all of it, as its leader sees them.
fn current_replicas(jetstream: &Value) -> Result<usize> {
    let replicas = stream(jetstream)?.pointer("/cluster/replicas").and_then(Value::as_array);
    let is = |replica: &Value, what: &str| replica.get(what).and_then(Value::as_bool).unwrap_or(false);
    let current = |replica: &&Value| is(replica, "current") && !is(replica, "offline");
    Ok(replicas.into_iter().flatten().filter(current).count())
}

impl Broker for Nats {
    fn listeners(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.mqtt).collect()
    }

    fn subscribers(&self) -> Vec<String> {
        (0..SUBSCRIBERS).map(|number| format!("gap-{number}")).collect()
    }

    fn leaders(&self) -> Result<Vec<usize>> {
        Ok(vec![self.leader()?; SUBSCRIBERS])
    }

    fn wait_whole(&mut self) -> Result<()> {
        let mut problem = None;
        wait_at_most(WHOLE_MAX, "NATS servers to be whole", || {
            problem = self.broken().err();
            problem.is_none().then_some(())
        })
        .with_context(|| format!("{problem:?}"))
    }

    fn pid(&self, place: usize) -> Result<u32> {
        let server = self.server(place)?;
        Ok(server.process.as_ref().with_context(|| format!("{} does not run", server.name))?.id())
    }

    fn kill(&mut self, place: usize) -> Result<String> {
        let server = self.servers.get_mut(place).context("a server of this place")?;
        let mut process = server.process.take().with_context(|| format!("{} does not run", server.name))?;
        process.kill()?;
        wait_at_most(DONE_MAX, "a process to end", || process.try_wait().ok().flatten())?;
        ensure!(process_state(process.id()).is_none(), "process {} is still there", process.id());
        Ok(format!("process {} is gone", process.id()))
    }

    fn start(&mut self, place: usize) -> Result<()> {
        let (program, dir) = (self.program.clone(), self.dir.clone());
        let server = self.servers.get_mut(place).context("a server of this place")?;
        ensure!(server.process.is_none(), "{} runs already", server.name);
        let log = File::options().create(true).append(true).open(dir.join(format!("{}.log", server.name)))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(dir.join(format!("{}.conf", server.name)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        server.process = Some(command.spawn().with_context(|| format!("start {}", server.name))?);
        Ok(())
    }

    fn transfer(&mut self, place: usize) -> Result<String> {
        let answer = self.server(place)?.ask(&format!("$JS.API.STREAM.LEADER.STEPDOWN.{STREAM}"))?;
        let done = answer.get("success").and_then(Value::as_bool) == Some(true);
        ensure!(done, "the leader was asked to step down: {answer}");
        let other = || self.leader().ok().filter(|leader| *leader != place);
        let leader = wait_at_most(DONE_MAX, "another server to lead", other)?;
        Ok(format!("{} leads", self.server(leader)?.name))
    }

    fn lead_again(&mut self, _place: usize) -> Result<()> {
        // Stepping down does not keep it from being elected again.
        Ok(())
    }

    fn volume(&mut self, place: usize) -> Result<&mut Volume> {
        let server = self.servers.get_mut(place).context("a server of this place")?;
        server.volume.as_mut().with_context(|| format!("{} has no volume of its own", server.name))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        for server in &mut self.servers {
            if let Some(mut process) = server.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(leader: &str, replicas: &str) -> Value {
        let text = format!(
            r#"{{"account_details": [{{"stream_detail": [
                {{"name": "$MQTT_sess", "cluster": {{"leader": "n3"}}}},
                {{"name": "$MQTT_msgs", "cluster": {{"leader": "{leader}", "replicas": [{replicas}]}}}}]}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn leader_and_followers_are_those_of_the_stream_of_messages() {
        let replicas = r#"{"name": "n1", "current": true}, {"name": "n2", "current": false}"#;
        let whole = figures("n3", replicas);
        assert_eq!(stream_leader(&whole).unwrap(), "n3");
        assert_eq!(current_replicas(&whole).unwrap(), 1);
        let offline = figures(
            "n3",
            r#"{"name": "n1", "current": true, "offline": true}, {"name": "n2", "current": true}"#,
        );
        assert_eq!(current_replicas(&offline).unwrap(), 1);
        assert!(stream_leader(&figures("", "")).is_err(), "an election is on");
        assert!(stream_leader(&Value::Null).is_err(), "there is no stream yet");
    }

    #[test]
    fn answer_is_the_first_message_behind_other_lines() {
        let mut said = "INFO {}\r\nPING\r\nMSG answer 1 16\r\n{\"success\":true}\r\n".as_bytes();
        assert_eq!(answer(&mut said).unwrap(), br#"{"success":true}"#);
        assert!(answer(&mut "INFO {}\r\n".as_bytes()).is_err());
        assert!(answer(&mut "-ERR 'no'\r\n".as_bytes()).is_err());
    }
}
