//! The other nodes: their names resolve, they listen, and both sides take each other's certificate.
//!
//! Owns: dialling each as this node would, up to the end of the TLS handshake. Does not: say Hello; a node that hears one
//! acts on it.
//! Limits: DOCTOR_PEER_WAIT_MAX for each step; all peers at once.

use std::io;
use std::time::Duration;

use quorate_server::config::Config;
use quorate_server::net::tls::{PeerTls, TlsError};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::certificates::{Trust, trust_by};
use super::finding::{Finding, Severity};
use crate::limits::{DOCTOR_PEER_WAIT_MAX, DOCTOR_PEERS_MAX};

/// In TLS 1.3 the handshake ends before the other side has looked at our certificate. It says at once if it refuses it.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// Another node.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    /// Its name.
    pub name: String,
    /// `host:port` as configured or as the cluster says.
    pub address: String,
    /// How far the way to it goes.
    pub reach: Reach,
}

/// How far the way to a peer goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Its name has no address.
    Unresolved(String),
    /// No TCP connection.
    Unreachable(String),
    /// A connection, but no TLS.
    NoTls(String),
    /// Its certificate is refused here.
    Distrusted(Trust),
    /// It refuses the certificate of this node.
    Refuses(String),
    /// Both take each other.
    Met,
    /// Not tried, since this node has no usable certificate.
    NotTried,
}

/// Dials the nodes at these places: name and address.
pub async fn gather(config: &Config, places: Vec<(String, String)>) -> Vec<PeerFacts> {
    let tls = config.peer.as_ref().and_then(|settings| PeerTls::load(settings).ok());
    let mut dialled = JoinSet::new();
    for (name, address) in places.into_iter().take(DOCTOR_PEERS_MAX) {
        let tls = tls.clone();
        dialled.spawn(async move {
            let reach = reach(tls, &name, &address).await;
            PeerFacts { name, address, reach }
        });
    }
    let mut facts = dialled.join_all().await;
    facts.sort_by(|a, b| a.name.cmp(&b.name));
    facts
}

async fn reach(tls: Option<PeerTls>, name: &str, address: &str) -> Reach {
    let late = |what: &str| format!("{what} took more than {} s", DOCTOR_PEER_WAIT_MAX.as_secs());
    let found = match timeout(DOCTOR_PEER_WAIT_MAX, lookup_host(address)).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => return Reach::Unresolved(error.to_string()),
        Err(_) => return Reach::Unresolved(late("the look-up")),
    };
    if found.is_empty() {
        return Reach::Unresolved("the name has no address".to_owned());
    }
    let stream = match timeout(DOCTOR_PEER_WAIT_MAX, TcpStream::connect(&*found)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Reach::Unreachable(error.to_string()),
        Err(_) => return Reach::Unreachable(late("connecting")),
    };
    let Some(tls) = tls else { return Reach::NotTried };
    let mut stream = match timeout(DOCTOR_PEER_WAIT_MAX, tls.connect(stream, name)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(TlsError::Handshake(error))) => return by_handshake(&error),
        Ok(Err(error)) => return Reach::NoTls(error.to_string()),
        Err(_) => return Reach::NoTls(late("the handshake")),
    };
    match timeout(REFUSAL_WAIT, stream.read_u8()).await {
        Ok(Err(error)) => by_handshake(&error),
        // It waits for us to speak: it has taken the certificate.
        Ok(Ok(_)) | Err(_) => Reach::Met,
    }
}

fn by_handshake(error: &io::Error) -> Reach {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(invalid @ rustls::Error::InvalidCertificate(_)) => Reach::Distrusted(trust_by(invalid)),
        Some(alert @ rustls::Error::AlertReceived(_)) => Reach::Refuses(alert.to_string()),
        Some(other) => Reach::NoTls(other.to_string()),
        None => Reach::NoTls(error.to_string()),
    }
}

/// Judges the peers. While this node does not run, the others may not run either, and that is no more than a warning.
pub fn check(facts: &[PeerFacts], own_file: &str, running: bool) -> Vec<Finding> {
    facts.iter().filter_map(|facts| check_peer(facts, own_file, running)).collect()
}

fn check_peer(facts: &PeerFacts, own_file: &str, running: bool) -> Option<Finding> {
    let name = &facts.name;
    let place = format!("{} (node {name})", facts.address);
    let finding = |code, message: String, hint: String| Some(Finding::error(code, &place, message, hint));
    match &facts.reach {
        Reach::Met | Reach::NotTried => None,
        Reach::Unresolved(problem) => finding(
            "peer_unresolved",
            format!("its host has no address: {problem}"),
            "correct cluster.bootstrap, or the name service of this machine".to_owned(),
        ),
        Reach::Unreachable(problem) => {
            let severity = if running { Severity::Error } else { Severity::Warning };
            let hint = format!(
                "see that {name} runs, that its peer.bind is this address, and that no firewall is between"
            );
            finding("peer_unreachable", format!("no connection: {problem}"), hint)
                .map(|found| found.with(severity))
        }
        Reach::NoTls(problem) => finding(
            "peer_no_tls",
            format!("it does not speak TLS as nodes do: {problem}"),
            "see that this is its peer.bind, not another of its listeners".to_owned(),
        ),
        Reach::Distrusted(Trust::WrongName) => finding(
            "peer_wrong_name",
            format!("the certificate there is not for {name}"),
            format!("see that the address is that of {name}, and the name in its [node] and its certificate"),
        ),
        Reach::Distrusted(Trust::Time) => finding(
            "peer_certificate_expired",
            "its certificate is not in force now".to_owned(),
            format!("look at the clocks of both; renew the certificate of {name} and restart it"),
        ),
        Reach::Distrusted(trust) => finding(
            "peer_untrusted",
            match trust {
                Trust::Other(problem) => format!("its certificate is refused here: {problem}"),
                _ => "no authority in peer.ca_file of this node has signed its certificate".to_owned(),
            },
            "give all nodes certificates of one authority, and that authority in peer.ca_file".to_owned(),
        ),
        Reach::Refuses(problem) => finding(
            "peer_refuses_us",
            format!("it refuses the certificate of this node, {own_file}: {problem}"),
            format!("see that peer.ca_file of {name} has the authority of this node, and its clock"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(reach: Reach, running: bool, expected: Option<(&str, Severity)>) {
        let facts = PeerFacts { name: "n2".into(), address: "host:1".into(), reach };
        let found = check(std::slice::from_ref(&facts), "n1.pem", running);
        let found: Vec<_> = found.iter().map(|finding| (finding.code, finding.severity)).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{facts:?}");
    }

    #[test]
    fn each_flaw_has_its_code() {
        use Severity::{Error, Warning};
        let problem = || "problem".to_owned();
        check_one(Reach::Met, true, None);
        check_one(Reach::NotTried, true, None);
        check_one(Reach::Unresolved(problem()), false, Some(("peer_unresolved", Error)));
        check_one(Reach::Unreachable(problem()), true, Some(("peer_unreachable", Error)));
        check_one(Reach::Unreachable(problem()), false, Some(("peer_unreachable", Warning)));
        check_one(Reach::NoTls(problem()), true, Some(("peer_no_tls", Error)));
        check_one(Reach::Distrusted(Trust::WrongName), true, Some(("peer_wrong_name", Error)));
        check_one(Reach::Distrusted(Trust::Time), true, Some(("peer_certificate_expired", Error)));
        check_one(Reach::Distrusted(Trust::UnknownAuthority), true, Some(("peer_untrusted", Error)));
        check_one(Reach::Refuses(problem()), true, Some(("peer_refuses_us", Error)));
    }
}
