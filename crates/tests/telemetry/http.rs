//! As much of HTTP as these tests serve and ask: one request on a connection.
//!
//! Owns: a server that answers by a function, and getting a page. Does not: keep connections.
//! Limits: a request has at most REQUEST_BYTES_MAX; one connection at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// First port for the programs and servers of these tests, below those from which outgoing connections take theirs.
const PORTS: std::ops::Range<u16> = 25_300..25_400;

/// A port in which nothing listens now.
pub fn free_port() -> Result<u16> {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    for _ in PORTS {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port in {PORTS:?}")
}

/// A server that ends with the value.
pub struct Server {
    /// Where it listens on loopback.
    pub port: u16,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers each request, a path and a body, with what `answer` says.
    pub fn start(answer: impl Fn(&str, &[u8]) -> String + Send + 'static) -> Result<Server> {
        let port = free_port()?;
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let ended = Arc::<AtomicBool>::default();
        let flag = ended.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                // A client that breaks off asks again.
                let _ = serve(stream, &answer);
            }
        });
        Ok(Server { port, ended, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, answer: &impl Fn(&str, &[u8]) -> String) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(&stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let path = request.split(' ').nth(1).context("a path")?.to_owned();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    ensure!(length <= REQUEST_BYTES_MAX, "a request of {length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let text = answer(&path, &body);
    let length = text.len();
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain; version=0.0.4";
    write!(&stream, "{head}\r\nContent-Length: {length}\r\n\r\n{text}")?;
    Ok(())
}

/// Status and body of a page.
pub fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // Version 1.0: the answer comes whole, not in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("end of the header")?;
    let status = head.split(' ').nth(1).context("status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// A text as part of a query.
pub fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
