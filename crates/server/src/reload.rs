//! Reading the configuration again while the node runs: on SIGHUP and on request, by the same road.
//!
//! Owns: which keys count at once ([`LiveSettings`]), which at the next start, and which never again; the order of a
//! reload. Does not: parse, watch files; listeners look after changed certificates by themselves.
//! Invariants: everything is read and checked before anything changes, and from then on nothing can fail: a
//! configuration counts whole, or not at all. A key that needs a restart keeps its old value until then, everywhere. One
//! reload at a time.
//! See: docs/configuration.md.

mod difference;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_node::client::ClientConfig;

use crate::admin::guard::{Guard, Rules};
use crate::client_config::client_config;
use crate::config::{self, Config, ListenerSettings};
use crate::edge::Edge;
use crate::events::NodeEvent;
use crate::founding::Settings;
use crate::logging::LogLevel;
use crate::memory::shares::Shares;
use crate::net::listener_tls::ListenerTls;
pub use difference::Difference;

/// What listeners and the connections that come to them go by.
pub struct LiveSettings {
    /// What holds for all client connections.
    pub client_config: Arc<ClientConfig>,
    /// Listeners, by their names.
    pub listeners: Vec<LiveListener>,
}

/// A listener's part.
pub struct LiveListener {
    /// Its settings.
    pub settings: ListenerSettings,
    /// Certificates that were just read.
    pub tls: Option<ListenerTls>,
}

/// What a reload came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Keys that count from now on.
    pub applied: Vec<String>,
    /// Keys that differ and count at the next start.
    pub needs_restart: Vec<String>,
    /// Keys that differ and never count: the cluster keeps what it began with.
    pub without_effect: Vec<String>,
    /// Why nothing was applied.
    pub errors: Vec<String>,
}

/// Reads the configuration again.
pub struct Reloader {
    file: Option<PathBuf>,
    founded: Settings,
    /// What is in force.
    current: Mutex<Config>,
    guard: Arc<Guard>,
    log: Arc<LogLevel>,
    edge: Arc<Edge>,
    shares: Shares,
}

/// What a reload will put in force. To put it is all that is left to do.
struct Prepared {
    config: Config,
    difference: Difference,
    rules: Rules,
    live: LiveSettings,
}

impl Reloader {
    /// For a node that runs by `current`, which was read from `file`.
    pub fn new(
        file: Option<PathBuf>,
        current: Config,
        founded: Settings,
        guard: Arc<Guard>,
        log: Arc<LogLevel>,
        edge: Arc<Edge>,
        shares: Shares,
    ) -> Reloader {
        Reloader { file, founded, current: Mutex::new(current), guard, log, edge, shares }
    }

    /// Reads the configuration and the certificates again and puts in force what may change while the node runs. Reads
    /// files: not to be called from a task that others wait for.
    pub fn reload(&self) -> Outcome {
        let mut current = self.current.lock();
        let outcome = match self.prepare(&current) {
            Ok(prepared) => self.apply(&mut current, prepared),
            Err(errors) => Outcome { errors, ..Outcome::default() },
        };
        if outcome.errors.is_empty() {
            let (applied, needs_restart) = (outcome.applied.join(" "), outcome.needs_restart.join(" "));
            tracing::info!(applied, needs_restart, "the configuration was read again");
            self.edge.events.note(&NodeEvent::ConfigurationApplied(outcome.applied.clone()));
        } else {
            for error in &outcome.errors {
                tracing::warn!(error, "the configuration was read again and refused: nothing has changed");
            }
            self.edge.events.note(&NodeEvent::ConfigurationRefused(outcome.errors.join("; ")));
        }
        outcome
    }

    fn prepare(&self, current: &Config) -> Result<Prepared, Vec<String>> {
        let wanted = match &self.file {
            Some(file) => config::load(file)
                .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?,
            None => current.clone(),
        };
        let (config, mut difference) = difference::merge(current, &wanted);
        let mut errors = Vec::new();
        let mut listeners = Vec::new();
        for settings in &config.listeners {
            let tls = settings.tls.as_ref().map(ListenerTls::load).transpose();
            match tls {
                Ok(tls) => {
                    if tls.is_some() {
                        difference.applied.push(format!("listeners.{}.certificate", settings.name));
                    }
                    listeners.push(LiveListener { settings: settings.clone(), tls });
                }
                Err(error) => {
                    self.edge.metrics.certificates_kept.add(1);
                    self.edge
                        .events
                        .note(&NodeEvent::CertificatesKept(settings.name.clone(), error.to_string()));
                    tracing::warn!(listener = settings.name, %error, "the old certificates stay in force: correct the files");
                    errors.push(format!("listener {}: {error}", settings.name));
                }
            }
        }
        if config.log.level != current.log.level
            && let Err(error) = self.log.check(&config.log.level)
        {
            errors.push(format!("log.level: {error}"));
        }
        let rules = match Rules::load(&config.admin) {
            Ok(rules) if errors.is_empty() => rules,
            Ok(_) => return Err(errors),
            Err(error) => {
                errors.push(error.to_string());
                return Err(errors);
            }
        };
        let client_config = Arc::new(client_config(&config, &self.founded, self.shares));
        Ok(Prepared { config, difference, rules, live: LiveSettings { client_config, listeners } })
    }

    fn apply(&self, current: &mut Config, prepared: Prepared) -> Outcome {
        let Prepared { config, difference, rules, live } = prepared;
        if config.log.level != current.log.level
            && let Err(error) = self.log.change(&config.log.level, None)
        {
            // It was checked; nothing else has changed yet.
            return Outcome { errors: vec![format!("log.level: {error}")], ..Outcome::default() };
        }
        self.guard.replace(rules);
        self.edge.live.send_replace(Arc::new(live));
        self.edge.room.limit_disk(config.storage.disk_soft_bytes);
        *current = config;
        let Difference { applied, needs_restart, without_effect } = difference;
        Outcome { applied, needs_restart, without_effect, errors: Vec::new() }
    }
}
