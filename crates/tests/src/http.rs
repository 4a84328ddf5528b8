//! Requests to an admin listener, by hand, with whatever headers a test wants.
//!
//! Owns: one request for a connection. Does not: follow redirects; understand chunks: HTTP/1.0 has none.
//! Limits: a read waits 30 s at most: longer than any answer of the admin API takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// The header, with the status line.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("read as JSON: {}", self.body))
    }

    /// The code of a refusal; empty when there is none.
    pub fn code(&self) -> String {
        let code = self.json().ok().and_then(|body| Some(body.pointer("/error/code")?.as_str()?.to_owned()));
        code.unwrap_or_default()
    }
}

/// Headers of a request that changes something.
pub const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A request with these headers and, unless it is among them, the right Host; returns the whole answer.
///
/// # Errors
/// When there is no answer.
pub fn request(address: &str, line: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
    let (status, head, mut reader) = open(address, line, headers, body)?;
    let mut body = Vec::new();
    reader.read_to_end(&mut body)?;
    // A backup is no text.
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status, head, body })
}

/// As [`request`]; the body is left to be read.
///
/// # Errors
/// When there is no answer.
pub fn open(
    address: &str,
    line: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<(u16, String, BufReader<TcpStream>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut text = format!("{line} HTTP/1.0\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str(&format!("Host: {address}\r\n"));
    }
    headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    write!(stream, "{text}\r\n{body}")?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            anyhow::bail!("{line}: the answer ends in its header: {head:?}");
        }
    }
    let status = head.split(' ').nth(1).context("status")?.parse()?;
    Ok((status, head, reader))
}
