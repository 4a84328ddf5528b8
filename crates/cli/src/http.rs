//! One HTTP request: enough for the admin listener, without a client library.
//!
//! Owns: parsing the URL, the token, one request per connection, the status line and the body, and how a refusal is told.
//! Does not: TLS, follow redirects, proxies, keep connections. Sends HTTP/1.0, so that an answer is never chunked.
//! Limits: HTTP_RESPONSE_BYTES_MAX; HTTP_WAIT_MAX, and OPERATE_WAIT_MAX for a request that changes something.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use quorate_api::ErrorBody;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::exit::{Exit, Failure, Outcome};
use crate::limits::{
    HTTP_LINE_BYTES_MAX, HTTP_RESPONSE_BYTES_MAX, HTTP_WAIT_MAX, OPERATE_WAIT_MAX, TOKEN_FILE_BYTES_MAX,
};

/// An answer, whatever its status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// The clock of whoever answered, cut to a second.
    pub date: Option<SystemTime>,
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
    #[error("{what}")]
    Io {
        /// What was asked for.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("{what}: no answer within {} s", wait.as_secs())]
    Timeout {
        /// What was asked for.
        what: String,
        /// How long that is.
        wait: Duration,
    },
    /// The answer is not HTTP, or too long.
    #[error("{what}: {problem}")]
    Answer {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// A request to an admin listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Reads.
    Get,
    /// Does something.
    Post,
    /// Sets something.
    Put,
    /// Takes something away.
    Delete,
}

impl Method {
    fn word(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        }
    }
}

/// The token that requests carry. One for the whole process, set before any command runs: every request to every node
/// of the cluster has to have it, and no command could do something else with it.
static TOKEN: OnceLock<String> = OnceLock::new();

/// Environment variable with the file of the token, for when the option is not given.
pub const TOKEN_FILE_VARIABLE: &str = "QUORATE_ADMIN_TOKEN_FILE";

/// Reads the token from `file`, else from the file that the environment names; its first line counts. Without either,
/// requests carry none.
///
/// # Errors
/// When the file cannot be read or has no token in its first line.
pub fn use_token_file(file: Option<PathBuf>) -> Outcome {
    let file = file.or_else(|| std::env::var_os(TOKEN_FILE_VARIABLE).map(PathBuf::from));
    let Some(file) = file else { return Ok(()) };
    let wrong = |problem: String| {
        Failure::usage(format!("read the admin token from {}: {problem}", file.display()))
            .hint("name the file that the nodes have in admin.token_file, or a copy of it")
    };
    let length = std::fs::metadata(&file).map_err(|error| wrong(error.to_string()))?.len();
    if length > TOKEN_FILE_BYTES_MAX {
        return Err(wrong(format!("it has {length} bytes")));
    }
    let text = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
    let token = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("");
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("its first line is no token of visible ASCII characters".to_owned()));
    }
    TOKEN.get_or_init(|| token.to_owned());
    Ok(())
}

/// GET `path` from the server at `base`, such as `http://127.0.0.1:9883`.
pub async fn get(base: &str, path: &str) -> Result<Response, HttpError> {
    request(Method::Get, base, path, None).await
}

/// A request with a body of JSON, or none.
pub async fn request(
    method: Method,
    base: &str,
    path: &str,
    body: Option<&str>,
) -> Result<Response, HttpError> {
    let host = host_of(base)?;
    let what = format!("{} http://{host}{path}", method.word());
    let wait = if method == Method::Get { HTTP_WAIT_MAX } else { OPERATE_WAIT_MAX };
    match tokio::time::timeout(wait, exchange(method, host, path, body)).await {
        Err(_) => Err(HttpError::Timeout { what, wait }),
        Ok(Err(source)) => Err(HttpError::Io { what, source }),
        Ok(Ok(bytes)) if bytes.len() > HTTP_RESPONSE_BYTES_MAX => {
            Err(HttpError::Answer { what, problem: "the answer is too long" })
        }
        Ok(Ok(bytes)) => parse(&bytes).map_err(|problem| HttpError::Answer { what, problem }),
    }
}

/// Asks, and reads the body of a success as JSON.
///
/// # Errors
/// When there is no answer, or it is a refusal: its message and hint are those of the node.
pub async fn ask<T: DeserializeOwned>(
    method: Method,
    base: &str,
    path: &str,
    body: Option<&str>,
) -> Outcome<T> {
    let response = request(method, base, path, body).await.map_err(unreached)?;
    if response.status != 200 {
        return Err(refusal(base, &response));
    }
    Ok(serde_json::from_slice(&response.body).with_context(|| format!("read the answer of {base}{path}"))?)
}

/// No answer, as a failure of the command.
pub fn unreached(error: HttpError) -> Failure {
    match error {
        HttpError::Url { .. } => Failure::new(Exit::Usage, error),
        error => Failure::new(Exit::Unreachable, error)
            .hint("give the admin address of a running node with --admin http://HOST:PORT"),
    }
}

/// An answer that is no success, as a failure of the command: what the node says, and its hint.
pub fn refusal(base: &str, response: &Response) -> Failure {
    let status = response.status;
    match serde_json::from_slice::<ErrorBody>(&response.body) {
        Ok(ErrorBody { error }) => {
            let failure = anyhow!("{base} answered {status}: {} ({})", error.message, error.code);
            Failure::new(Exit::Failed, failure).hint(error.hint)
        }
        Err(_) => {
            let body = String::from_utf8_lossy(&response.body);
            anyhow!("{base} answered {status}: {}", body.trim()).into()
        }
    }
}

fn host_of(base: &str) -> Result<&str, HttpError> {
    let host = base.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    host.filter(|host| host.contains(':') && !host.contains(['/', ' ', '@']))
        .ok_or_else(|| HttpError::Url { url: base.to_owned() })
}

async fn exchange(method: Method, host: &str, path: &str, body: Option<&str>) -> io::Result<Vec<u8>> {
    let mut stream = send(method, host, path, body).await?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(HTTP_RESPONSE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    (&mut stream).take(limit).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Connects and sends a request; the answer is to be read.
async fn send(method: Method, host: &str, path: &str, body: Option<&str>) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(host).await?;
    let mut request =
        format!("{} {path} HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\n", method.word());
    if let Some(token) = TOKEN.get() {
        request.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    if method != Method::Get {
        let body = body.unwrap_or("{}");
        let length = body.len();
        request
            .push_str(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"));
    } else {
        request.push_str("\r\n");
    }
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
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
    let date = field("date").and_then(|value| httpdate::parse_http_date(value).ok());
    let length = field("content-length").and_then(|value| value.parse::<usize>().ok());
    match length {
        Some(length) if length > body.len() => Err("the answer ends early"),
        Some(length) => {
            Ok(Response { status, location, date, body: body.get(..length).unwrap_or(body).to_vec() })
        }
        None => Ok(Response { status, location, date, body: body.to_vec() }),
    }
}

/// The body of an answer, as it comes.
pub struct AnswerStream {
    reader: BufReader<TcpStream>,
}

/// What came of a request for a stream.
pub enum Opened {
    /// A success: here they come.
    Stream(AnswerStream),
    /// Another answer.
    Other(Response),
}

impl AnswerStream {
    /// Some bytes; 0 at the end of the answer.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).await
    }

    /// The next line without its end; `None` at the end of the answer.
    pub async fn next_line(&mut self) -> io::Result<Option<String>> {
        let line = read_line(&mut self.reader).await?;
        Ok((!line.is_empty()).then(|| line.trim_end().to_owned()))
    }
}

/// A line with its end, or what is left at the end. One that is too long is an error.
async fn read_line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    let limit = u64::try_from(HTTP_LINE_BYTES_MAX).unwrap_or(u64::MAX);
    reader.take(limit).read_line(&mut line).await?;
    if line.len() >= HTTP_LINE_BYTES_MAX {
        return Err(io::Error::other("a line is too long"));
    }
    Ok(line)
}

/// POST with an answer that comes bit by bit. Until the first bit may come, the wait is bounded as ever.
pub async fn open(base: &str, path: &str, body: &str) -> Result<Opened, HttpError> {
    let host = host_of(base)?;
    let what = format!("POST http://{host}{path}");
    let begun = async {
        let mut reader = BufReader::new(send(Method::Post, host, path, Some(body)).await?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let line = read_line(&mut reader).await?;
            if line.is_empty() || head.len() > HTTP_LINE_BYTES_MAX {
                return Err(io::Error::other("the answer is not HTTP"));
            }
            head.push_str(&line);
        }
        let mut bytes = head.into_bytes();
        if bytes.get(9..12) == Some(b"200") {
            return Ok((bytes, Some(AnswerStream { reader })));
        }
        let limit = u64::try_from(HTTP_RESPONSE_BYTES_MAX).unwrap_or(u64::MAX);
        reader.take(limit).read_to_end(&mut bytes).await?;
        Ok((bytes, None))
    };
    match tokio::time::timeout(OPERATE_WAIT_MAX, begun).await {
        Err(_) => Err(HttpError::Timeout { what, wait: OPERATE_WAIT_MAX }),
        Ok(Err(source)) => Err(HttpError::Io { what, source }),
        Ok(Ok((_, Some(stream)))) => Ok(Opened::Stream(stream)),
        Ok(Ok((bytes, None))) => {
            let parsed = parse(&bytes).map_err(|problem| HttpError::Answer { what, problem });
            Ok(Opened::Other(parsed?))
        }
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
        assert_eq!(moved.date, None);
        let dated = parse(b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 1970 00:00:09 GMT\r\n\r\n").unwrap();
        assert_eq!(dated.date, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(9)));
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
