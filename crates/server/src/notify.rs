//! What the service manager is told: started, stopping, alive. One datagram each, as systemd reads them.
//!
//! Owns: the socket that `NOTIFY_SOCKET` names, and how often the watchdog wants to hear. Does not: decide whether the
//! node lives; the caller does.
//! Invariants: without a service manager nothing is sent; one that does not listen changes nothing for the node.
//! Limits: none; a datagram that does not fit at once is dropped, and the next one comes.
//! Spec: sd_notify(3), sd_watchdog_enabled(3).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager that started this process, if one did.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As the environment says. One that cannot be spoken to is logged and left alone.
    pub fn of_environment() -> ServiceManager {
        let variable = |name: &str| std::env::var_os(name);
        let socket = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            let connected = connect(&name);
            if let Err(error) = &connected {
                tracing::warn!(%error, "the service manager cannot be told of the node: see NOTIFY_SOCKET");
            }
            connected.ok()
        });
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let watchdog =
            watchdog(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref(), std::process::id());
        ServiceManager { watchdog: watchdog.filter(|_| socket.is_some()), socket }
    }

    /// The node has started: its listeners are open.
    pub fn started(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// What it waits for, in words.
    pub fn status(&self, text: &str) {
        self.tell(&format!("STATUS={text}"));
    }

    /// The node begins to stop.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    /// The node is alive; to be said every [`ServiceManager::watchdog`].
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// How often the watchdog is to hear: half of the time after which it ends the node. None when there is no watchdog.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    fn tell(&self, text: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(text.as_bytes())
        {
            tracing::debug!(%error, "the service manager does not take a message");
        }
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The watchdog's time is for one process, which need not be this one.
fn watchdog(microseconds: Option<&str>, process: Option<&str>, own: u32) -> Option<Duration> {
    if process.is_some_and(|process| process != own.to_string()) {
        return None;
    }
    let microseconds = microseconds?.parse().ok().filter(|microseconds: &u64| *microseconds > 0)?;
    Some(Duration::from_micros(microseconds) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_on_a_path_and_on_an_abstract_name() {
        let folder = crate::testing::TestFolder::new();
        let path = folder.path().join("notify");
        let abstract_name = format!("quorate-notify-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        for (receiver, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{abstract_name}").into()),
        ] {
            let manager = ServiceManager { socket: Some(connect(&name).unwrap()), watchdog: None };
            manager.started();
            manager.alive();
            manager.stopping();
            let said = || {
                let mut bytes = [0; 256];
                let length = receiver.recv(&mut bytes).unwrap();
                String::from_utf8(bytes[..length].to_vec()).unwrap()
            };
            assert_eq!(
                [said(), said(), said()],
                ["READY=1\nSTATUS=serving", "WATCHDOG=1", "STOPPING=1\nSTATUS=stopping"]
            );
        }
    }

    #[test]
    fn nobody_who_listens_changes_nothing() {
        assert!(connect(OsStr::new("no/such/socket")).is_err());
        let manager = ServiceManager { socket: None, watchdog: None };
        manager.started();
        let (one, other) = UnixDatagram::pair().unwrap();
        drop(other);
        ServiceManager { socket: Some(one), watchdog: None }.alive();
    }

    #[test]
    fn watchdog_is_told_twice_in_its_time() {
        let half = Some(Duration::from_secs(15));
        for (microseconds, process, expected) in [
            (Some("30000000"), None, half),
            (Some("30000000"), Some("7"), half),
            (Some("30000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, Some("7"), None),
        ] {
            assert_eq!(watchdog(microseconds, process, 7), expected, "{microseconds:?} {process:?}");
        }
    }
}
