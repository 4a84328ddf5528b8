//! `[telemetry]`: where traces go, and how many.
//!
//! Owns: its keys, their defaults and bounds; [`Endpoint`]. Does not: send.
//! Invariants: traces are taken only when there is somewhere to send them.

use std::fmt;

use super::reader::{Reader, Section};

/// What the node tells others about its work.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetrySettings {
    /// Where spans are sent to.
    pub otlp_endpoint: Option<Endpoint>,
    /// Share of messages and connections that are traced, 0 to 1; 0 for none.
    pub sample_ratio: f64,
}

/// A collector that takes OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address; one of IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path of the request.
    pub path: String,
}

/// Port of collectors for OTLP over HTTP.
const PORT: u16 = 4318;

/// Path for traces below an endpoint that names none.
const PATH: &str = "/v1/traces";

impl Endpoint {
    /// Reads `http://host:port/path`, of which port and path may be left out.
    fn parse(text: &str) -> Option<Endpoint> {
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) if !path.is_empty() => (authority, format!("/{path}")),
            Some((authority, _)) => (authority, PATH.to_owned()),
            None => (rest, PATH.to_owned()),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = port.map_or(Some(PORT), |port| port.parse().ok().filter(|port| *port != 0))?;
        let legal = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
        let path_legal = path.chars().all(|c| c.is_ascii_graphic());
        let legal = !host.is_empty() && host.chars().all(legal) && path_legal;
        legal.then(|| Endpoint { host: host.to_owned(), port, path })
    }

    /// Host and port as a request names them.
    pub fn authority(&self) -> String {
        let Endpoint { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

/// Reads the section.
pub fn read_telemetry(reader: &mut Reader<'_>, mut section: Section<'_, '_>) -> TelemetrySettings {
    let place = section.place_of("otlp_endpoint");
    let text = section.string(reader, "otlp_endpoint");
    let otlp_endpoint = text.as_ref().and_then(|text| Endpoint::parse(text));
    if let (Some(text), None) = (&text, &otlp_endpoint) {
        reader.error(
            &place,
            format!("`telemetry.otlp_endpoint` is \"{}\"", text.escape_debug()),
            "write it like \"http://127.0.0.1:4318\"; only plain HTTP is spoken: run a collector on this machine or in a \
             network that is trusted",
        );
    }
    let place = section.place_of("sample_ratio");
    let sample_ratio = section.fraction(reader, "sample_ratio").unwrap_or(0.0);
    if sample_ratio > 0.0 && text.is_none() {
        reader.error(
            &place,
            "`telemetry.sample_ratio` is above 0, but there is no `telemetry.otlp_endpoint`",
            "say where traces go, or leave sample_ratio out",
        );
    }
    section.finish(reader);
    TelemetrySettings { otlp_endpoint, sample_ratio }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_shown() {
        for (text, shown) in [
            ("http://127.0.0.1:4318", Some("http://127.0.0.1:4318/v1/traces")),
            ("http://collector.example.net", Some("http://collector.example.net:4318/v1/traces")),
            ("http://collector/", Some("http://collector:4318/v1/traces")),
            ("http://[::1]:9/otlp/v1/traces", Some("http://[::1]:9/otlp/v1/traces")),
            ("http://[::1]", Some("http://[::1]:4318/v1/traces")),
            ("https://collector", None),
            ("collector:4318", None),
            ("http://", None),
            ("http://a:b", None),
            ("http://a:0", None),
            ("http://[x]:1", None),
            ("http://a b", None),
            ("http://a/b\r\nx", None),
        ] {
            assert_eq!(Endpoint::parse(text).map(|found| found.to_string()).as_deref(), shown, "{text}");
        }
    }
}
