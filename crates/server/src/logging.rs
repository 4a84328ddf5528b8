//! The program's own log: where it goes, and which of it, which may change while the program runs.
//!
//! Owns: [`LogLevel`]. Does not: know who asks for a change.
//! Invariants: a filter counts only when it can be parsed; one that was set for a time gives way to the one before it.

use std::io::IsTerminal;
use std::time::Duration;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSettings};

/// Puts a filter in force.
type Put = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// What is logged.
pub struct LogLevel {
    put: Option<Put>,
    state: Mutex<State>,
}

struct State {
    /// What counts when no time runs.
    lasting: String,
    /// What counts until then.
    passing: Option<(String, Duration)>,
}

/// Why a filter is not put in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogLevelError {
    /// It is no filter.
    #[error("\"{filter}\" is no filter: {problem}")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong.
        problem: String,
    },
    /// The log of this process was set up by somebody else, or its filter cannot be changed.
    #[error("the filter of this process cannot be changed: {0}")]
    NotOurs(String),
}

impl LogLevel {
    /// Sets up the log on stderr. A second call in one process changes nothing.
    pub fn start(settings: &LogSettings) -> LogLevel {
        let filter = EnvFilter::try_new(&settings.level).unwrap_or_else(|_| EnvFilter::new("info"));
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let (put, set): (Put, bool) = match settings.format {
            LogFormat::Json => {
                let builder = builder.json().flatten_event(true).with_filter_reloading();
                let handle = builder.reload_handle();
                let put = move |filter| handle.reload(filter).map_err(|error| error.to_string());
                (Box::new(put), builder.try_init().is_ok())
            }
            LogFormat::Text => {
                let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
                let builder = builder.with_ansi(colours).with_filter_reloading();
                let handle = builder.reload_handle();
                let put = move |filter| handle.reload(filter).map_err(|error| error.to_string());
                (Box::new(put), builder.try_init().is_ok())
            }
        };
        // Set already by whoever runs us, as tests do.
        LogLevel { put: set.then_some(put), ..LogLevel::foreign(settings) }
    }

    /// The log is not ours: what is logged is said as configured, and cannot be changed.
    pub fn foreign(settings: &LogSettings) -> LogLevel {
        let state = State { lasting: settings.level.clone(), passing: None };
        LogLevel { put: None, state: Mutex::new(state) }
    }

    /// The filter in force, and when it gives way to the one before it.
    pub fn now(&self) -> (String, Option<Duration>) {
        let state = self.state.lock();
        match &state.passing {
            Some((filter, until)) => (filter.clone(), Some(*until)),
            None => (state.lasting.clone(), None),
        }
    }

    /// Whether `filter` could be put in force.
    ///
    /// # Errors
    /// When it is no filter, or the log of this process is not ours.
    pub fn check(&self, filter: &str) -> Result<(), LogLevelError> {
        parse(filter)?;
        match &self.put {
            Some(_) => Ok(()),
            None => Err(LogLevelError::NotOurs("whoever started it has set it up".to_owned())),
        }
    }

    /// Puts a filter in force: until a time, or until the next one.
    ///
    /// # Errors
    /// As [`LogLevel::check`]; what was in force stays then.
    pub fn change(&self, filter: &str, until: Option<Duration>) -> Result<(), LogLevelError> {
        self.check(filter)?;
        let mut state = self.state.lock();
        self.put(filter)?;
        match until {
            Some(until) => state.passing = Some((filter.to_owned(), until)),
            None => *state = State { lasting: filter.to_owned(), passing: None },
        }
        Ok(())
    }

    /// Time has passed. The filter that is in force again, when that of a time has given way to it.
    pub fn look(&self, now: Duration) -> Option<String> {
        let mut state = self.state.lock();
        state.passing.take_if(|(_, until)| *until <= now)?;
        // It was in force before.
        let _parsed_before = self.put(&state.lasting);
        Some(state.lasting.clone())
    }

    fn put(&self, filter: &str) -> Result<(), LogLevelError> {
        let parsed = parse(filter)?;
        self.put.as_ref().map_or(Ok(()), |put| put(parsed).map_err(LogLevelError::NotOurs))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogLevelError> {
    let failed = |problem: String| LogLevelError::Filter { filter: filter.to_owned(), problem };
    if filter.trim().is_empty() {
        return Err(failed("it is empty".to_owned()));
    }
    EnvFilter::try_new(filter).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A level whose filters are noted.
    fn noted() -> (LogLevel, Arc<Mutex<Vec<String>>>) {
        let settings = LogSettings { format: LogFormat::Text, level: "info".to_owned() };
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = seen.clone();
        let put: Put = Box::new(move |filter| {
            noted.lock().push(filter.to_string());
            Ok(())
        });
        (LogLevel { put: Some(put), ..LogLevel::foreign(&settings) }, seen)
    }

    #[test]
    fn filter_for_a_time_gives_way_to_the_one_before_it() {
        let (level, seen) = noted();
        let second = Duration::from_secs(1);
        level.change("warn", None).unwrap();
        level.change("debug", Some(second * 5)).unwrap();
        level.change("trace", Some(second * 7)).unwrap();
        assert_eq!(level.now(), ("trace".to_owned(), Some(second * 7)));
        assert_eq!(level.look(second * 6), None);
        assert_eq!(level.look(second * 7).as_deref(), Some("warn"));
        assert_eq!(level.now(), ("warn".to_owned(), None));
        assert_eq!(level.look(second * 8), None);
        assert_eq!(*seen.lock(), ["warn", "debug", "trace", "warn"]);
    }

    #[test]
    fn what_is_no_filter_changes_nothing() {
        let (level, seen) = noted();
        for wrong in ["", " ", "=!=", "quorate_server=loud"] {
            assert!(matches!(level.change(wrong, None), Err(LogLevelError::Filter { .. })), "{wrong:?}");
        }
        assert!(seen.lock().is_empty());
        let settings = LogSettings { format: LogFormat::Text, level: "info".to_owned() };
        assert!(matches!(LogLevel::foreign(&settings).change("warn", None), Err(LogLevelError::NotOurs(_))));
    }
}
