//! A case of the table, and what it is given to work with.
//!
//! Owns: [`Case`], [`Cx`]: connections that go round the nodes, identifiers and topics of its own.
//! Invariants: cases run side by side on one cluster and do not see each other.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::connection::{Connection, Trace};
use crate::decode::Connack;
use crate::packet::{Connect, Version};
use crate::property as p;

/// The longest that a case may take.
pub const CASE_DEADLINE: Duration = Duration::from_secs(12);

/// One case.
pub struct Case {
    /// Name, as in docs/conformance.md.
    pub name: &'static str,
    /// Versions that it runs in.
    pub versions: &'static [Version],
    /// Statements of 5.0 that it tests, without `MQTT-`.
    pub v5: &'static [&'static str],
    /// Statements of 3.1.1 that it tests.
    pub v4: &'static [&'static str],
    /// What it does.
    pub run: fn(&Cx) -> Result<()>,
    /// Whether it runs by itself, see [`Case::alone`].
    pub alone: bool,
}

impl Case {
    /// Runs when no other case does: what is to happen by the clock must happen where nothing else moves it.
    pub const fn alone(mut self) -> Case {
        self.alone = true;
        self
    }

    /// Statements of a version.
    pub fn statements(&self, version: Version) -> &'static [&'static str] {
        match version {
            Version::V5 => self.v5,
            Version::V4 => self.v4,
            Version::V31 => &[],
        }
    }
}

/// A case of both versions.
pub const fn both(
    name: &'static str,
    v5: &'static [&'static str],
    v4: &'static [&'static str],
    run: fn(&Cx) -> Result<()>,
) -> Case {
    Case { name, versions: &[Version::V4, Version::V5], v5, v4, run, alone: false }
}

/// A case of 5.0.
pub const fn only5(name: &'static str, v5: &'static [&'static str], run: fn(&Cx) -> Result<()>) -> Case {
    Case { name, versions: &[Version::V5], v5, v4: &[], run, alone: false }
}

/// A case of 3.1.1.
pub const fn only4(name: &'static str, v4: &'static [&'static str], run: fn(&Cx) -> Result<()>) -> Case {
    Case { name, versions: &[Version::V4], v5: &[], v4, run, alone: false }
}

/// A case of 3.1, which has no statements.
pub const fn only31(name: &'static str, run: fn(&Cx) -> Result<()>) -> Case {
    Case { name, versions: &[Version::V31], v5: &[], v4: &[], run, alone: false }
}

/// What a run of a case works with.
pub struct Cx {
    /// MQTT ports of the nodes.
    pub ports: Vec<u16>,
    /// WebSocket ports of the nodes.
    pub websocket_ports: Vec<u16>,
    /// Version of the run.
    pub version: Version,
    /// Unique number of the case.
    pub number: usize,
    /// End of the run.
    pub deadline: Instant,
    /// What happened.
    pub trace: Trace,
    /// Node of the next connection.
    pub turn: Cell<usize>,
}

impl Cx {
    /// Whether this is a run with 5.0.
    pub fn is_v5(&self) -> bool {
        self.version == Version::V5
    }

    /// A client identifier that no other case has: at most 23 letters and digits [MQTT-3.1.3-5].
    pub fn id(&self, name: &str) -> String {
        format!("c{}v{}{name}", self.number, self.version as u8)
    }

    /// A topic that no other case has.
    pub fn topic(&self, name: &str) -> String {
        format!("c{}v{}/{name}", self.number, self.version as u8)
    }

    /// Place of the next connection; each is on another node than the one before.
    pub fn next_place(&self) -> usize {
        let place = self.turn.get();
        self.turn.set(place + 1);
        place % self.ports.len()
    }

    /// A TCP connection to the next node.
    pub fn open(&self, name: &str) -> Result<Connection> {
        self.open_at(self.next_place(), name)
    }

    /// A TCP connection to a node.
    pub fn open_at(&self, place: usize, name: &str) -> Result<Connection> {
        let port = self.ports[place % self.ports.len()];
        Connection::open(port, name, self.version, self.deadline, self.trace.clone())
    }

    /// A CONNECT with a clean session.
    pub fn hello(&self, name: &str) -> Connect {
        Connect::new(self.version, &self.id(name))
    }

    /// Connects to the next node and must be accepted.
    pub fn connect_with(&self, connect: &Connect) -> Result<(Connection, Connack)> {
        self.connect_at(self.next_place(), connect)
    }

    /// Connects to a node and must be accepted.
    pub fn connect_at(&self, place: usize, connect: &Connect) -> Result<(Connection, Connack)> {
        let full = String::from_utf8_lossy(&connect.client_id);
        let name = full.strip_prefix(&self.id("")).unwrap_or(&full);
        let mut connection = self.open_at(place, name)?;
        let asked = crate::decode::client_properties(&connect.properties)?;
        connection.alias_max = asked.number(p::TOPIC_ALIAS_MAX).unwrap_or(0);
        connection.packet_max = asked.number(p::MAX_PACKET_SIZE).map_or(usize::MAX, |max| max as usize);
        connection.send(&connect.encode())?;
        let connack = connection.connack()?;
        ensure!(connack.code == 0, "refused with 0x{:02x}", connack.code);
        Ok((connection, connack))
    }

    /// A clean session on the next node.
    pub fn connect(&self, name: &str) -> Result<Connection> {
        Ok(self.connect_with(&self.hello(name))?.0)
    }

    /// A session that outlives its connections, on the next node.
    pub fn durable(&self, name: &str) -> Result<Connection> {
        Ok(self.connect_with(&self.hello(name).durable())?.0)
    }

    /// As [`Cx::durable`]; the session must be there already.
    pub fn resume(&self, name: &str) -> Result<Connection> {
        let (connection, connack) = self.connect_with(&self.hello(name).durable())?;
        ensure!(connack.present, "Session Present of {name}");
        Ok(connection)
    }

    /// Sends a CONNECT and must be refused, see [`Connection::refused`].
    pub fn refused(&self, connect: &Connect, code: Option<u8>, codes: &[u8]) -> Result<()> {
        let mut connection = self.open("client")?;
        connection.send(&connect.encode())?;
        connection.refused(code, codes)
    }

    /// Connects, sends bytes and must see the connection fail, see [`Connection::fails`].
    pub fn fails(&self, bytes: &[u8], codes: &[u8]) -> Result<()> {
        let mut connection = self.connect("bad")?;
        connection.send(bytes)?;
        connection.fails(codes)
    }

    /// Lets time pass: what is tested is that something lasts, or ends.
    pub fn lapse(&self, time: Duration) {
        self.trace.borrow_mut().push(format!("       {} ms pass", time.as_millis()));
        quorate_tests::let_pass(time);
    }
}
