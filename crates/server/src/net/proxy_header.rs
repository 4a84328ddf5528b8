//! The header of the PROXY protocol, versions 1 and 2: what a load balancer says of the connection it passes on.
//!
//! Owns: the syntax. Does not: read a socket, decide who is trusted.
//! Invariants: never asks for more bytes than the header has, so that what follows it stays in the socket; never looks
//! beyond what it was given; equal bytes give equal answers however they were cut.
//! Limits: `PROXY_HEADER_BYTES_MAX`; a header of version 1 has at most 107 bytes.
//! Spec: "The PROXY protocol", versions 1 and 2, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::PROXY_HEADER_BYTES_MAX;

/// What the proxy said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client. None when the proxy speaks for itself (LOCAL, as in a health check) or does not know (UNKNOWN,
    /// UNSPEC), and for a client on a Unix socket of its own.
    pub client: Option<SocketAddr>,
    /// Common name in the client's certificate, when the proxy has verified it. Not checked for what it contains.
    pub common_name: Option<Vec<u8>>,
}

/// How far the parsing has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The header goes on for at least so many bytes, at least 1.
    More(usize),
    /// All bytes given are the header.
    Whole(ProxyHeader),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Something else is spoken: the proxy is not configured to send a header.
    #[error("the connection does not begin with a PROXY header")]
    NoHeader,
    /// A line of version 1 that is too long or not as it should be.
    #[error("the PROXY header of version 1 is malformed")]
    Line,
    /// A version, command or family that does not exist.
    #[error("the PROXY header of version 2 has an unknown version, command or family")]
    Unknown,
    /// Above the limit.
    #[error("the PROXY header of version 2 has {0} bytes")]
    TooLong(usize),
    /// Addresses or additions are cut off by the header's own length.
    #[error("the PROXY header of version 2 is shorter than what it says it has")]
    CutOff,
}

const V1_START: &[u8] = b"PROXY ";
const V1_BYTES_MAX: usize = 107;
/// `PROXY UNKNOWN` and the end of the line.
const V1_BYTES_MIN: usize = 15;
const V2_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD_BYTES: usize = 16;

const TLV_SSL: u8 = 0x20;
const TLV_SSL_COMMON_NAME: u8 = 0x22;
/// Bits of an SSL addition: the client spoke TLS; it showed a certificate on this connection or in this session.
const SSL_CLIENT: u8 = 0x01;
const SSL_CERTIFICATE: u8 = 0x02 | 0x04;

/// Reads a header from its first bytes. `bytes` never goes beyond the header when it was filled as [`Parsed::More`]
/// asked, beginning with none.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(one, other)| one == other);
    if begins(V2_START) && (!begins(V1_START) || bytes.is_empty()) {
        // Before the first byte this is the shorter one to ask for.
        return parse_v2(bytes);
    }
    if begins(V1_START) { parse_v1(bytes) } else { Err(ProxyError::NoHeader) }
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    if bytes.len() < V1_BYTES_MIN {
        if bytes.contains(&b'\n') {
            return Err(ProxyError::Line);
        }
        return Ok(Parsed::More(V1_BYTES_MIN - bytes.len()));
    }
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        // One byte is enough only after the first half of the end.
        let more = if bytes.ends_with(b"\r") { 1 } else { 2 };
        if bytes.contains(&b'\n') || bytes.len() + more > V1_BYTES_MAX {
            return Err(ProxyError::Line);
        }
        return Ok(Parsed::More(more));
    };
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Line)?;
    if line.contains(['\r', '\n']) {
        return Err(ProxyError::Line);
    }
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        // What comes after it is to be ignored.
        return Ok(Parsed::Whole(ProxyHeader::default()));
    }
    let (source, destination) = match family {
        Some("TCP4") => (v1_address::<Ipv4Addr>(words.next()), v1_address::<Ipv4Addr>(words.next())),
        Some("TCP6") => (v1_address::<Ipv6Addr>(words.next()), v1_address::<Ipv6Addr>(words.next())),
        _ => return Err(ProxyError::Line),
    };
    let (source_port, destination_port) = (v1_port(words.next()), v1_port(words.next()));
    match (source, destination, source_port, destination_port, words.next()) {
        (Some(source), Some(_), Some(port), Some(_), None) => {
            let client = Some(SocketAddr::new(source.to_canonical(), port));
            Ok(Parsed::Whole(ProxyHeader { client, common_name: None }))
        }
        _ => Err(ProxyError::Line),
    }
}

fn v1_address<T: std::str::FromStr + Into<IpAddr>>(word: Option<&str>) -> Option<IpAddr> {
    word?.parse::<T>().ok().map(Into::into)
}

fn v1_port(word: Option<&str>) -> Option<u16> {
    let digits = word.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let Some((head, rest)) = bytes.split_first_chunk::<V2_HEAD_BYTES>() else {
        // Version 1 may be shorter than a head of version 2: what both have is asked for first.
        let goal = if bytes.len() < V2_START.len() { V2_START.len() } else { V2_HEAD_BYTES };
        return Ok(Parsed::More(goal - bytes.len()));
    };
    let [.., command, family, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if V2_HEAD_BYTES + length > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong(V2_HEAD_BYTES + length));
    }
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Unknown),
    };
    if !matches!(family >> 4, 0..=3) || !matches!(family & 0x0f, 0..=2) {
        return Err(ProxyError::Unknown);
    }
    if rest.len() < length {
        return Ok(Parsed::More(length - rest.len()));
    }
    if local {
        // The proxy's own connection: whatever stands there counts nothing.
        return Ok(Parsed::Whole(ProxyHeader::default()));
    }
    let (client, additions) = v2_addresses(family >> 4, rest)?;
    Ok(Parsed::Whole(ProxyHeader { client, common_name: common_name(additions)? }))
}

/// The client's address, and what follows the addresses.
fn v2_addresses(family: u8, block: &[u8]) -> Result<(Option<SocketAddr>, &[u8]), ProxyError> {
    match family {
        1 => {
            let (addresses, rest) = block.split_first_chunk::<12>().ok_or(ProxyError::CutOff)?;
            let [a, b, c, d, _, _, _, _, high, low, ..] = *addresses;
            let address = Ipv4Addr::new(a, b, c, d);
            Ok((Some(SocketAddr::from((address, u16::from_be_bytes([high, low])))), rest))
        }
        2 => {
            let (source, rest) = block.split_first_chunk::<16>().ok_or(ProxyError::CutOff)?;
            let (_, rest) = rest.split_first_chunk::<16>().ok_or(ProxyError::CutOff)?;
            let ([high, low, ..], rest) = rest.split_first_chunk::<4>().ok_or(ProxyError::CutOff)?;
            let address = IpAddr::from(*source).to_canonical();
            Ok((Some(SocketAddr::new(address, u16::from_be_bytes([*high, *low]))), rest))
        }
        3 => {
            let (_, rest) = block.split_first_chunk::<216>().ok_or(ProxyError::CutOff)?;
            Ok((None, rest))
        }
        // Without a family, there is no telling where additions begin: all is skipped.
        _ => Ok((None, &[])),
    }
}

/// The common name among the additions, when the proxy has verified the client's certificate.
fn common_name(mut additions: &[u8]) -> Result<Option<Vec<u8>>, ProxyError> {
    let mut found = None;
    while !additions.is_empty() {
        let (kind, value) = take_addition(&mut additions)?;
        if kind != TLV_SSL {
            continue;
        }
        let ([client, verify @ ..], mut inner) = value.split_first_chunk::<5>().ok_or(ProxyError::CutOff)?;
        let shown = client & SSL_CLIENT != 0 && client & SSL_CERTIFICATE != 0 && *verify == [0; 4];
        while !inner.is_empty() {
            let (kind, value) = take_addition(&mut inner)?;
            if kind == TLV_SSL_COMMON_NAME && shown {
                found = Some(value.to_vec());
            }
        }
    }
    Ok(found)
}

fn take_addition<'a>(bytes: &mut &'a [u8]) -> Result<(u8, &'a [u8]), ProxyError> {
    let ([kind, high, low], rest) = bytes.split_first_chunk::<3>().ok_or(ProxyError::CutOff)?;
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (value, rest) = rest.split_at_checked(length).ok_or(ProxyError::CutOff)?;
    *bytes = rest;
    Ok((*kind, value))
}

#[cfg(test)]
mod tests;
