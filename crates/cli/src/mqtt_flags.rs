//! The flags that `pub` and `sub` share, named as mosquitto_pub and mosquitto_sub name them.
//!
//! Owns: how to reach the broker, who to be, the will, and MQTT 5 properties of CONNECT.
//! Does not: connect.
//! Invariants: `-h` is the host, so help is `--help` only.
//! Spec: MQTT 3.1.1 and 5.0, 3.1.

use bytes::Bytes;
use clap::{ArgAction, Args};
use quorate_codec::{Connect, ProtocolVersion, PublishProperties, QoS, TopicName, Will};

use crate::client::{self, ClientTls, TlsFlags};
use crate::exit::{Exit, Failure, Outcome};
use crate::mqtt_property::{Command, Property};

/// Flags about the connection.
#[derive(Args, Debug, Clone)]
pub struct ConnectFlags {
    /// Show this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Host of the broker
    #[arg(short = 'h', long, default_value = "localhost")]
    host: String,
    /// Port of the broker [default: 1883, or 8883 with TLS]
    #[arg(short, long)]
    port: Option<u16>,
    #[command(flatten)]
    tls: TlsFlags,
    /// User, password, host, port and topic at once: mqtt://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC, or mqtts:// with --cafile
    #[arg(short = 'L', long, value_name = "URL")]
    pub url: Option<String>,
    /// Client identifier; a random one when not given
    #[arg(short, long)]
    id: Option<String>,
    /// Make the client identifier of this prefix and the process id
    #[arg(short = 'I', long, value_name = "PREFIX", conflicts_with = "id")]
    id_prefix: Option<String>,
    /// Keep the session when this client goes (needs -i)
    #[arg(short = 'c', long)]
    disable_clean_session: bool,
    /// Keep-alive in seconds
    #[arg(short, long, default_value_t = 60)]
    keepalive: u16,
    /// Quality of service: 0, 1 or 2
    #[arg(short, long, default_value = "0", value_parser = qos)]
    pub qos: QoS,
    /// MQTT version: mqttv31, mqttv311, mqttv5, or 31, 311, 5 [default: mqttv311, or mqttv5 when -x or -D is given]
    #[arg(short = 'V', long, value_name = "VERSION", value_parser = version)]
    protocol_version: Option<ProtocolVersion>,
    /// User name
    #[arg(short, long)]
    username: Option<String>,
    /// Password
    #[arg(short = 'P', long = "pw", requires = "username")]
    password: Option<String>,
    /// Session expiry interval in seconds; -1 or ∞ for a session that does not expire (MQTT 5)
    #[arg(short = 'x', long, value_name = "SECONDS", value_parser = session_expiry, allow_hyphen_values = true)]
    session_expiry_interval: Option<u32>,
    /// Tell what is sent and received on standard error
    #[arg(short, long)]
    pub debug: bool,
    /// Do not print error messages
    #[arg(long)]
    pub quiet: bool,
    /// Topic of the will
    #[arg(long, value_name = "TOPIC")]
    will_topic: Option<String>,
    /// Payload of the will
    #[arg(long, value_name = "PAYLOAD", requires = "will_topic")]
    will_payload: Option<String>,
    /// Quality of service of the will
    #[arg(long, value_name = "QOS", value_parser = qos, default_value = "0")]
    will_qos: QoS,
    /// Retain the will
    #[arg(long, requires = "will_topic")]
    will_retain: bool,
    /// An MQTT 5 property: COMMAND NAME VALUE, or COMMAND user-property NAME VALUE. May be repeated
    #[arg(short = 'D', long = "property", num_args = 3..=4, value_names = ["COMMAND", "NAME", "VALUE"])]
    property: Vec<String>,
}

/// What the flags come to.
pub struct Target {
    /// `HOST:PORT`.
    pub address: String,
    /// TLS, if it is spoken.
    pub tls: Option<ClientTls>,
    /// The CONNECT to send.
    pub connect: Connect,
    /// Topic of `-L`, if it was given.
    pub topic: Option<String>,
    /// Properties of all commands.
    pub properties: Vec<Property>,
}

impl ConnectFlags {
    /// Resolves the flags. `name` becomes part of a client identifier that is made up.
    pub fn target(&self, name: &str) -> Outcome<Target> {
        let properties = Property::parse_all(&self.property).map_err(Failure::usage)?;
        let needs_v5 = !properties.is_empty() || self.session_expiry_interval.is_some();
        let version = match self.protocol_version {
            Some(version) if needs_v5 && version != ProtocolVersion::V5 => {
                return Err(Failure::usage("-x and -D need MQTT 5").hint("add -V mqttv5"));
            }
            Some(version) => version,
            None if needs_v5 => ProtocolVersion::V5,
            None => ProtocolVersion::V311,
        };
        if self.disable_clean_session && self.id.is_none() {
            return Err(Failure::usage("-c needs -i: a session is kept by its client identifier")
                .hint("add -i CLIENT_ID"));
        }
        let url = self.url.as_deref().map(Url::parse).transpose().map_err(Failure::usage)?;
        if url.as_ref().is_some_and(|url| url.secure != self.tls.is_given()) {
            return Err(Failure::usage("mqtts:// and --cafile go together").hint(
                "--cafile FILE names the authorities to trust: ca.pem for a certificate of quorate cert",
            ));
        }
        let Url { username, password, host, port, topic, .. } = url.unwrap_or_else(|| Url {
            secure: self.tls.is_given(),
            username: None,
            password: None,
            host: self.host.clone(),
            port: self.port,
            topic: None,
        });
        let text = |text: &str| client::text(text).map_err(Failure::usage);
        let mut connect = client::connect_packet(version, text(&self.client_id(name))?, self.keepalive);
        connect.clean_start = !self.disable_clean_session;
        connect.username = self.username.clone().or(username).as_deref().map(text).transpose()?;
        connect.password = self.password.clone().or(password).map(Bytes::from);
        connect.will = self.will(&properties)?;
        if version == ProtocolVersion::V5 {
            let kept = self.disable_clean_session.then_some(u32::MAX);
            connect.session_expiry_s = self.session_expiry_interval.or(kept);
        }
        for property in properties.iter().filter(|property| property.command == Command::Connect) {
            property.apply_connect(&mut connect).map_err(Failure::usage)?;
        }
        let port = port.unwrap_or(if self.tls.is_given() { 8883 } else { 1883 });
        let tls = self.tls.load().map_err(|error| Failure::new(Exit::Usage, error))?;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Target { address, tls, connect, topic, properties })
    }

    fn client_id(&self, name: &str) -> String {
        let pid = std::process::id();
        match (&self.id, &self.id_prefix) {
            (Some(id), _) => id.clone(),
            (None, Some(prefix)) => format!("{prefix}{pid}"),
            (None, None) => format!("quorate-{name}-{pid}-{:x}", client::unique()),
        }
    }

    fn will(&self, properties: &[Property]) -> Outcome<Option<Will>> {
        let Some(topic) = &self.will_topic else { return Ok(None) };
        let topic: TopicName = client::topic_name(topic).map_err(Failure::usage)?;
        let payload = Bytes::from(self.will_payload.clone().unwrap_or_default());
        let mut will = Will {
            topic,
            payload,
            qos: self.will_qos,
            retain: self.will_retain,
            delay_s: None,
            properties: PublishProperties::default(),
        };
        for property in properties.iter().filter(|property| property.command == Command::Will) {
            property.apply_will(&mut will).map_err(Failure::usage)?;
        }
        Ok(Some(will))
    }
}

/// The parts of `-L`.
#[derive(PartialEq, Eq, Debug)]
struct Url {
    secure: bool,
    username: Option<String>,
    password: Option<String>,
    host: String,
    port: Option<u16>,
    topic: Option<String>,
}

impl Url {
    fn parse(url: &str) -> Result<Url, String> {
        let (secure, rest) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(format!("{url:?} does not start with mqtt:// or mqtts://")),
        };
        let (authority, topic) = match rest.split_once('/') {
            Some((authority, topic)) => (authority, Some(topic).filter(|topic| !topic.is_empty())),
            None => (rest, None),
        };
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (username, password) = match user.map(|user| user.split_once(':').ok_or(user)) {
            Some(Ok((username, password))) => (Some(username.to_owned()), Some(password.to_owned())),
            Some(Err(username)) => (Some(username.to_owned()), None),
            None => (None, None),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, Some(port.parse().map_err(|_| format!("{port:?} in {url:?} is not a port"))?))
            }
            _ => (place, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(format!("{url:?} has no host"));
        }
        Ok(Url { secure, username, password, host, port, topic: topic.map(str::to_owned) })
    }
}

/// `0`, `1` or `2`.
pub fn qos(text: &str) -> Result<QoS, String> {
    match text {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err("QoS is 0, 1 or 2".to_owned()),
    }
}

/// The names that mosquitto_pub takes.
pub fn version(text: &str) -> Result<ProtocolVersion, String> {
    match text {
        "mqttv31" | "31" => Ok(ProtocolVersion::V31),
        "mqttv311" | "311" => Ok(ProtocolVersion::V311),
        "mqttv5" | "5" => Ok(ProtocolVersion::V5),
        _ => Err("the version is mqttv31, mqttv311 or mqttv5".to_owned()),
    }
}

fn session_expiry(text: &str) -> Result<u32, String> {
    match text {
        "-1" | "∞" => Ok(u32::MAX),
        _ => text.parse().map_err(|_| "seconds from 0 to 4294967295, or -1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        flags: ConnectFlags,
    }

    fn target(line: &str) -> Result<Target, String> {
        let words = std::iter::once("pub").chain(line.split(' ').filter(|word| !word.is_empty()));
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.flags.target("test").map_err(|failure| format!("{:#}", failure.error.unwrap()))
    }

    #[test]
    fn flags_lead_to_the_connect_they_name() {
        let check = |line: &str, test: &dyn Fn(&Target) -> bool| match target(line) {
            Ok(target) => assert!(test(&target), "{line}: {} {:?}", target.address, target.connect),
            Err(problem) => panic!("{line}: {problem}"),
        };
        check("", &|t| t.address == "localhost:1883" && t.connect.version == ProtocolVersion::V311);
        check("-h 10.0.0.1 -p 1884", &|t| t.address == "10.0.0.1:1884");
        check("-h ::1", &|t| t.address == "[::1]:1883");
        check("-i me -c", &|t| !t.connect.clean_start && t.connect.client_id.as_str() == "me");
        check("-i me -c -V 5", &|t| t.connect.session_expiry_s == Some(u32::MAX));
        check("-V mqttv31", &|t| t.connect.version == ProtocolVersion::V31);
        check("-x 60", &|t| {
            t.connect.version == ProtocolVersion::V5 && t.connect.session_expiry_s == Some(60)
        });
        check("-x -1", &|t| t.connect.session_expiry_s == Some(u32::MAX));
        check("-u me -P secret", &|t| t.connect.password.as_deref() == Some(b"secret"));
        check("-k 7 -q 2", &|t| t.connect.keep_alive_s == 7);
        check("--will-topic gone --will-payload x --will-qos 1 --will-retain", &|t| {
            t.connect.will.as_ref().is_some_and(|will| will.retain && will.qos == QoS::AtLeastOnce)
        });
        check("-D connect receive-maximum 7 -D publish user-property a b", &|t| {
            t.connect.receive_max.map(u16::from) == Some(7) && t.properties.len() == 2
        });
        check("-L mqtt://u:p@host:99/a/b", &|t| {
            t.address == "host:99" && t.topic.as_deref() == Some("a/b") && t.connect.username.is_some()
        });
        check("-L mqtt://[::1]", &|t| t.address == "[::1]:1883" && t.topic.is_none());
    }

    #[test]
    fn wrong_flags_are_refused_with_a_reason() {
        for (line, part) in [
            ("-c", "-c needs -i"),
            ("-q 3", "QoS is 0, 1 or 2"),
            ("-V mqttv4", "mqttv311"),
            ("-x 5 -V 311", "MQTT 5"),
            ("-P secret", "--username"),
            ("--will-topic a/#", "a/#"),
            ("-D connect nonsense 1", "nonsense"),
            ("-L http://x", "mqtt://"),
            ("-L mqtts://x", "--cafile"),
            ("-L mqtt://x --cafile /nonexistent", "--cafile"),
            ("--cafile /nonexistent", "open /nonexistent"),
            ("--cert a --key b", "--cafile"),
            ("--cafile a --cert b", "--key"),
            ("-L mqtt://x:y/", "port"),
        ] {
            let problem = target(line).err().unwrap_or_default();
            assert!(problem.contains(part), "{line}: {problem}");
        }
    }
}
