//! A relay between two ends of TCP connections that lets only so many bytes through in a second.
//!
//! Owns: its listener and the threads of its connections; all end with the value. Does not: understand what goes through.
//! Invariants: bytes stay in order and none is lost while both ends live.
//! Limits: a piece at once, `PIECE_BYTES`; two threads for each connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use crate::pause;

/// Bytes that go through at once.
const PIECE_BYTES: usize = 4096;

/// A relay to one address.
pub struct Relay {
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    /// Bytes in a second in each direction of a connection; 0 for no limit.
    rate: AtomicU64,
    over: AtomicBool,
}

impl Relay {
    /// From a port on loopback to another one, without a limit at first.
    ///
    /// # Errors
    /// When something else listens there.
    pub fn start(port: u16, to: u16) -> Result<Relay> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared { rate: AtomicU64::new(0), over: AtomicBool::new(false) });
        let own = shared.clone();
        let listening = thread::spawn(move || {
            let mut moving = Vec::new();
            while !own.over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((near, _)) => moving.extend(join(&near, to, &own).into_iter().flatten()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => pause(),
                    Err(_) => break,
                }
            }
            for thread in moving {
                let _ = thread.join();
            }
        });
        Ok(Relay { shared, listening: Some(listening) })
    }

    /// From now on so many bytes go through in a second, in each direction of a connection; 0 for no limit.
    pub fn limit(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

/// Both directions of a connection; `None` when there is nobody at the other end.
fn join(near: &TcpStream, to: u16, shared: &Arc<Shared>) -> Option<[JoinHandle<()>; 2]> {
    let far = TcpStream::connect(("127.0.0.1", to)).ok()?;
    let spawn = |from: &TcpStream, to: &TcpStream| {
        from.set_nonblocking(false).ok()?;
        from.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
        to.set_nodelay(true).ok()?;
        let (from, to, shared) = (from.try_clone().ok()?, to.try_clone().ok()?, shared.clone());
        Some(thread::spawn(move || carry(&from, &to, &shared)))
    };
    Some([spawn(near, &far)?, spawn(&far, near)?])
}

/// Carries bytes until an end is gone or the relay is over.
fn carry(mut from: &TcpStream, mut to: &TcpStream, shared: &Shared) {
    let mut piece = [0; PIECE_BYTES];
    while !shared.over.load(Ordering::Relaxed) {
        let count = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        let Some(part) = piece.get(..count) else { break };
        if to.write_all(part).is_err() {
            break;
        }
        let rate = shared.rate.load(Ordering::Relaxed);
        if rate > 0 {
            rest(count, rate);
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// What so many bytes take at a rate.
#[allow(clippy::disallowed_methods)]
fn rest(bytes: usize, rate: u64) {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    thread::sleep(Duration::from_micros(bytes.saturating_mul(1_000_000) / rate));
}
