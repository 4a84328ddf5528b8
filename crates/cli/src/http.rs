//! One HTTP GET: enough for the admin listener, without a client library.
//!
//! Owns: parsing the URL, one request per connection, the status line and the body.
//! Does not: TLS, follow redirects, proxies, keep connections. Sends HTTP/1.0, so that an answer is never chunked.
//! Limits: HTTP_RESPONSE_BYTES_MAX, HTTP_WAIT_MAX.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::limits::{HTTP_RESPONSE_BYTES_MAX, HTTP_WAIT_MAX};

/// An answer, whatever its status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// Body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The URL is not `http://host:port`.
    #[error("{url:?} is not of the form http://HOST:PORT")]
    Url {
        /// As given.
        url: String,
    },
    /// No connection, or it broke.
    #[error("GET {url}")]
    Io {
        /// What was asked for.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("GET {url}: no answer within {} s", HTTP_WAIT_MAX.as_secs())]
    Timeout {
        /// What was asked for.
        url: String,
    },
    /// The answer is not HTTP, or too long.
    #[error("GET {url}: {problem}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// GET `path` from the server at `base`, such as `http://127.0.0.1:9883`.
pub async fn get(base: &str, path: &str) -> Result<Response, HttpError> {
    let host = host_of(base)?;
    let url = format!("http://{host}{path}");
    match tokio::time::timeout(HTTP_WAIT_MAX, exchange(host, path)).await {
        Err(_) => Err(HttpError::Timeout { url }),
        Ok(Err(source)) => Err(HttpError::Io { url, source }),
        Ok(Ok(bytes)) if bytes.len() > HTTP_RESPONSE_BYTES_MAX => {
            Err(HttpError::Answer { url, problem: "the answer is too long" })
        }
        Ok(Ok(bytes)) => parse(&bytes).map_err(|problem| HttpError::Answer { url, problem }),
    }
}

fn host_of(base: &str) -> Result<&str, HttpError> {
    let host = base.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    host.filter(|host| host.contains(':') && !host.contains(['/', ' ', '@']))
        .ok_or_else(|| HttpError::Url { url: base.to_owned() })
}

async fn exchange(host: &str, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(HTTP_RESPONSE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    stream.take(limit).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Response, &'static str> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or("the answer is not HTTP")?;
    let (head, rest) = bytes.split_at(end);
    let head = std::str::from_utf8(head).map_err(|_| "the answer is not HTTP")?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or("").split(' ');
    if !words.next().unwrap_or("").starts_with("HTTP/1.") {
        return Err("the answer is not HTTP");
    }
    let status = words.next().and_then(|word| word.parse().ok()).ok_or("the answer has no status")?;
    let body = rest.get(4..).unwrap_or(&[]);
    let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let field = |wanted: &str| {
        let found = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim())
    };
    let location = field("location").map(str::to_owned);
    let length = field("content-length").and_then(|value| value.parse::<usize>().ok());
    match length {
        Some(length) if length > body.len() => Err("the answer ends early"),
        Some(length) => Ok(Response { status, location, body: body.get(..length).unwrap_or(body).to_vec() }),
        None => Ok(Response { status, location, body: body.to_vec() }),
    }
}

/// All but unreserved characters of RFC 3986 as `%XX`, for a segment of a path.
pub fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed() {
        let ok = |text: &str| parse(text.as_bytes()).map(|response| (response.status, response.body));
        assert_eq!(ok("HTTP/1.0 200 OK\r\n\r\nhello"), Ok((200, b"hello".to_vec())));
        assert_eq!(ok("HTTP/1.1 503 X\r\nContent-Length: 2\r\n\r\nhello"), Ok((503, b"he".to_vec())));
        let moved = parse(b"HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/a\r\n\r\n").unwrap();
        assert_eq!((moved.status, moved.location.as_deref()), (307, Some("http://127.0.0.1:1/a")));
        assert_eq!(ok("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello"), Err("the answer ends early"));
        assert_eq!(ok("\x20\x02\x00\x00"), Err("the answer is not HTTP"));
        assert_eq!(ok("SSH-2.0-x\r\n\r\n"), Err("the answer is not HTTP"));
        assert_eq!(ok("HTTP/1.1\r\n\r\n"), Err("the answer has no status"));
    }

    #[test]
    fn segment_of_a_path_keeps_no_character_with_a_meaning() {
        assert_eq!(percent_encoded("plant/7?é %_~"), "plant%2F7%3F%C3%A9%20%25_~");
    }

    #[test]
    fn only_plain_http_urls_are_taken() {
        assert_eq!(host_of("http://127.0.0.1:9883/").unwrap(), "127.0.0.1:9883");
        for url in ["https://127.0.0.1:9883", "127.0.0.1:9883", "http://host", "http://a:1/x", "http://u@a:1"]
        {
            assert!(host_of(url).is_err(), "{url}");
        }
    }
}
