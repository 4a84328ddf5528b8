//! `serve`: one node in the foreground, from its configuration to SIGTERM.
//!
//! Owns: the runtime, signals, what a service manager is told. Does not: run the node; `daemon` does.
//! Limits: a clean stop takes at most the grace, `DEPARTURE_MAX` and `STOP_TIMEOUT`; then the process ends anyway: nothing
//! acknowledged is at risk.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::health;
use crate::config::{self, Config, ConfigError};
use crate::daemon::{Daemon, Source, StartError};
use crate::exit::ExitCode;
use crate::limits::{DEPARTURE_MAX, STOP_TIMEOUT};
use crate::logging::LogLevel;
use crate::notify::ServiceManager;

/// Threads for sockets.
const NET_THREADS: usize = 2;

/// How to serve.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Configuration file; without one, a single node with all defaults.
    pub config: Option<PathBuf>,
    /// End as on SIGTERM when standard input is closed: whoever started this process has ended.
    pub exit_when_stdin_closes: bool,
}

/// A node could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is wrong in these ways.
    #[error("{}", list(.0))]
    Config(Vec<ConfigError>),
    /// The runtime or a signal handler cannot be set up.
    #[error("set up the process: {0}")]
    Process(#[from] std::io::Error),
    /// The node cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl ServeError {
    /// What the process is to end with; see docs/operations/exit-codes.md.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            ServeError::Config(_) => ExitCode::Config,
            ServeError::Process(_) => ExitCode::Unavailable,
            ServeError::Start(error) => error.exit_code(),
        }
    }
}

fn list(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Runs a node until SIGTERM or SIGINT; SIGHUP has it read its configuration and certificates again. Must not be called from
/// a task.
pub fn serve(options: ServeOptions) -> Result<(), ServeError> {
    let config = match &options.config {
        Some(path) => config::load(path).map_err(ServeError::Config)?,
        None => Config::default(),
    };
    let log = Arc::new(LogLevel::start(&config.log));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NET_THREADS)
        .thread_name("net")
        .enable_all()
        .build()?;
    let stop = watch_for_stop(&runtime, options.exit_when_stdin_closes)?;
    // From here on SIGHUP does not end the process.
    let mut hang_up = {
        let _entered = runtime.enter();
        signal(SignalKind::hangup())?
    };
    let manager = ServiceManager::of_environment();
    manager.status("starting: recovers its log, and at the very first start waits for the other first nodes");
    let source = Source { file: options.config, log };
    let daemon = match Daemon::start_from(&config, source, runtime.handle(), stop.clone()) {
        Err(StartError::Stopped) => return Ok(()),
        started => started?,
    };
    let addresses = daemon.addresses();
    for (kind, address) in &addresses.clients {
        tracing::info!(?kind, %address, "listening for clients");
    }
    tracing::info!(address = %addresses.admin, "listening for admin HTTP");
    manager.started();
    let mut stopped = stop;
    runtime.block_on(async {
        // Without a watchdog it never ticks.
        let mut watchdog = manager.watchdog().map(tokio::time::interval);
        loop {
            tokio::select! {
                // The sender lives in tasks of the runtime, which lives until the end of this function.
                _ = stopped.wait_for(|stop| *stop) => break,
                () = tick(&mut watchdog) => {
                    // A stuck worker is silence: the service manager ends the node, and starts it anew.
                    if health::stuck_for(daemon.edge()).is_none() {
                        manager.alive();
                    }
                }
                // What it came to is in the log.
                Some(()) = hang_up.recv() => drop(daemon.reload()),
            }
        }
    });
    tracing::info!("stopping");
    manager.stopping();
    end_in_time(STOP_TIMEOUT + config.node.stop_grace + DEPARTURE_MAX);
    daemon.stop(config.node.stop_grace);
    runtime.shutdown_background();
    Ok(())
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// A clean stop that hangs is cut short: all that was acknowledged is durable already.
fn end_in_time(after: Duration) {
    std::thread::spawn(move || {
        #[expect(clippy::disallowed_methods, reason = "it is the deadline itself")]
        std::thread::sleep(after);
        tracing::warn!("the clean stop takes too long and is cut short");
        std::process::exit(ExitCode::Clean.number());
    });
}

fn watch_for_stop(runtime: &Runtime, stdin: bool) -> std::io::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let _entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let on_signal = sender.clone();
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
            on_signal.send_replace(true);
        }
    });
    if stdin {
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while std::io::stdin().read(&mut buffer).is_ok_and(|read| read > 0) {}
            sender.send_replace(true);
        });
    }
    Ok(receiver)
}
