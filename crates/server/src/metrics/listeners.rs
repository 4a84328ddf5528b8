//! What is counted for each listener.
//!
//! Owns: the connections open now and the expiry of the certificate of each listener. Does not: listen.
//! Invariants: a listener is there from its start to the end of the process, also when nobody has connected.
//! Limits: as many entries as the configuration has listeners, and one for the links between nodes.

use std::sync::Arc;

use parking_lot::Mutex;

use super::catalog;
use super::text::{Gauge, Text};

/// Name under which the certificate of the links between nodes is shown.
pub const PEER: &str = "peer";

/// The figures of one listener.
#[derive(Default)]
pub struct ListenerFigures {
    /// Its name.
    pub name: Box<str>,
    /// Connections that speak MQTT now.
    pub connections: Gauge,
    /// When its certificate expires, in seconds since 1970; 0 without one.
    pub certificate_expiry_s: Gauge,
}

/// The figures of all listeners.
#[derive(Default)]
pub struct ListenerTable(Mutex<Vec<Entry>>);

struct Entry {
    name: String,
    /// What it speaks; `None` for the links between nodes, whose connections are no clients.
    kind: Option<&'static str>,
    figures: Arc<ListenerFigures>,
}

impl ListenerTable {
    /// A listener begins; one with the same name goes on counting.
    pub fn register(&self, name: &str, kind: Option<&'static str>) -> Arc<ListenerFigures> {
        let mut entries = self.0.lock();
        if let Some(known) = entries.iter().find(|entry| entry.name == name) {
            return known.figures.clone();
        }
        let figures = Arc::new(ListenerFigures { name: name.into(), ..ListenerFigures::default() });
        entries.push(Entry { name: name.to_owned(), kind, figures: figures.clone() });
        figures
    }

    /// Writes them.
    pub fn render(&self, text: &mut Text) {
        let entries = self.0.lock();
        text.head(&catalog::LISTENER_CONNECTIONS);
        for Entry { name, kind, figures } in entries.iter() {
            if let Some(kind) = kind {
                text.sample(&catalog::LISTENER_CONNECTIONS, &[name, kind], figures.connections.value());
            }
        }
        text.head(&catalog::CERTIFICATE_EXPIRY);
        for Entry { name, figures, .. } in entries.iter() {
            let expiry = figures.certificate_expiry_s.value();
            if expiry > 0 {
                text.sample(&catalog::CERTIFICATE_EXPIRY, &[name], expiry);
            }
        }
    }
}
